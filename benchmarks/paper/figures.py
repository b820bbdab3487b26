"""Figures of a comparison: systems as dots with their mean, sweeps as lines, dose responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from records import heading, method_name

from scgim.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Methods other than GIM take these in turn (Okabe and Ito 2008).
_COLORS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#7A7A7A", "#B58900", "#4B3F72", "#8C510A")
_GIM = "#D55E00"


def method_colors(methods: Sequence[str]) -> dict[str, str]:
    """A colour for every method, GIM's always the same."""
    others = [m for m in methods if m != "gim"]
    return {"gim": _GIM, **{m: _COLORS[i % len(_COLORS)] for i, m in enumerate(others)}}


def strips(
    results: pd.DataFrame,
    metrics: Sequence[str],
    *,
    splits: Mapping[str, str] | Sequence[str] | None = None,
    rows: str = "mechanism",
    log: Sequence[str] = (),
) -> np.ndarray:
    """Methods side by side: a dot per system, a bar from mean - sem to mean + sem, a tick at the mean.

    Parameters
    ----------
    results
        As `scgim.benchmark.results`, of one design per value of `rows`.
    metrics
        What to show. A metric of the graph has one column, others one per split.
    splits
        Split -> its title, or names of splits (then titled by the name, with spaces). Default: all of `results`.
    rows
        Column of `results`; one row of panels per value.
    log
        Metrics on a logarithmic axis.

    Returns
    -------
    numpy.ndarray
        Of Axes.
    """
    from matplotlib import pyplot as plt

    titles = _titles(results, splits)
    columns = []
    for metric in metrics:
        found = results.loc[results["metric"] == metric, "split"].unique()
        columns += [(split, metric) for split in ("graph", "fit", *titles) if split in found]
    values = results[rows].unique()
    shown = results[results["metric"].isin(metrics) & results["value"].notna()]
    methods = list(shown["method"].unique())
    colors = method_colors(list(results["method"].unique()))
    height = 0.24 * len(methods) + 0.75
    _, axes = plt.subplots(
        len(values), len(columns), figsize=(2.0 * len(columns) + 1.1, height * len(values) + 0.2), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for i, value in enumerate(values):
        for j, (split, metric) in enumerate(columns):
            ax = axes[i, j]
            own = results[(results[rows] == value) & (results["split"] == split) & (results["metric"] == metric)]
            for y, method in enumerate(methods):
                _strip(ax, y, own.loc[own["method"] == method, "value"].dropna().to_numpy(), colors[method])
            if metric in log:
                _log_axis(ax)
            labels = [method_name(m) for m in methods] if j == 0 else [""] * len(methods)
            ax.set_yticks(range(len(methods)), labels, fontsize=8)
            ax.set_ylim(len(methods) - 0.4, -0.6)
            ax.tick_params(axis="x", labelsize=7)
            ax.tick_params(axis="y", length=0)
            ax.spines[["top", "right", "left"]].set_visible(False)
            if i == 0:
                where = "" if split in ("graph", "fit") else f"\n{titles[split]}"
                ax.set_title(heading(metric) + where, fontsize=8)
            if j == 0:
                ax.set_ylabel(str(value), fontsize=9, fontweight="bold")
    return axes


def _titles(results: pd.DataFrame, splits: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    """Split -> what stands above its panels: a name of the code (`new_dose`) is spelt in words."""
    if splits is None:
        splits = [name for name in results["split"].unique() if name not in ("graph", "fit")]
    given = splits if isinstance(splits, Mapping) else {name: name for name in splits}
    return {name: title.replace("_", " ") if title == name else title for name, title in given.items()}


def _log_axis(ax: Axes) -> None:
    """Few ticks, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    ax.set_xscale("log")
    low, high = ax.get_xlim()
    decades = np.log10(high / low)
    subs = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 4.0, 6.0)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())


def _strip(ax: Axes, y: int, values: np.ndarray, color: str) -> None:
    ax.axhline(y, color="0.5", linewidth=0.4, alpha=0.4, zorder=0)
    if not len(values):
        return
    ax.plot(values, np.full(len(values), y), "o", color=color, markersize=3, alpha=0.45, markeredgewidth=0)
    mean = values.mean()
    if len(values) > 1:
        sem = values.std(ddof=1) / np.sqrt(len(values))
        ax.plot([mean - sem, mean + sem], [y, y], "-", color=color, linewidth=3, solid_capstyle="butt")
    ax.plot(mean, y, "|", color=color, markersize=11, markeredgewidth=2)


def sweep(
    results: pd.DataFrame,
    setting: str,
    metrics: Sequence[str],
    *,
    splits: dict[str, str],
    label: str | None = None,
    rows: str = "mechanism",
    log: bool = False,
) -> np.ndarray:
    """Metrics along a setting: the mean over systems, a band of one standard error, systems as dots.

    Parameters
    ----------
    results
        As `scgim.benchmark.results`.
    setting
        Column of `results` on the horizontal axis.
    metrics, splits, rows
        As for `strips`.
    label
        Of the horizontal axis.
    log
        Logarithmic horizontal axis.

    Returns
    -------
    numpy.ndarray
        Of Axes.
    """
    from matplotlib import pyplot as plt

    columns = []
    for metric in metrics:
        found = results.loc[results["metric"] == metric, "split"].unique()
        columns += [(split, metric) for split in ("graph", *splits) if split in found]
    values = results[rows].unique()
    methods = list(results["method"].unique())
    colors = method_colors(methods)
    figure, axes = plt.subplots(
        len(values), len(columns), figsize=(1.75 * len(columns) + 0.6, 1.75 * len(values) + 0.5), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for i, value in enumerate(values):
        for j, (split, metric) in enumerate(columns):
            ax = axes[i, j]
            own = results[(results[rows] == value) & (results["split"] == split) & (results["metric"] == metric)]
            for method in methods:
                _line(ax, own[own["method"] == method], setting, colors[method], method_name(method))
            ax.set_xscale("log" if log else "linear")
            ticks = np.sort(results[setting].unique())
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
            ax.tick_params(labelsize=7)
            ax.spines[["top", "right"]].set_visible(False)
            if i == 0:
                where = "" if split == "graph" else f"\n{splits[split]}"
                ax.set_title(heading(metric) + where, fontsize=8)
            if i == len(values) - 1:
                ax.set_xlabel(label or setting, fontsize=8)
            if j == 0:
                ax.set_ylabel(str(value), fontsize=9, fontweight="bold")
            if METRICS[metric].better == "higher":  # shares: the whole range, so that panels compare
                ax.set_ylim(0, 1.03)
            else:
                ax.set_ylim(bottom=0)
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return axes


def _line(ax: Axes, own: pd.DataFrame, setting: str, color: str, label: str) -> None:
    if own.empty:
        return
    groups = own.groupby(setting)["value"]
    mean, sem = groups.mean(), groups.sem().fillna(0.0)
    x = mean.index.to_numpy(dtype=float)
    ax.plot(own[setting], own["value"], "o", color=color, markersize=2, alpha=0.4, markeredgewidth=0)
    ax.fill_between(x, mean - sem, mean + sem, color=color, alpha=0.2, linewidth=0)
    ax.plot(x, mean, "-o", color=color, linewidth=1.4, markersize=3.5, label=label, clip_on=False)


def hill_curves(curves: pd.DataFrame, *, n: int = 8, doses: Sequence[float] = (), columns: int = 4) -> np.ndarray:
    """Learned against true dose responses of atomic interventions (the paper's figure 2C).

    Parameters
    ----------
    curves
        One row per perturbation, gene and dose: true and learned (effect on the scale of the data), probability
        (of the target). As `scgim.benchmark.effect_curves`.
    n
        True targets to show: the first of them, in the order of the table.
    doses
        Trained doses, drawn as ticks.
    columns
        Panels in a row.

    Returns
    -------
    numpy.ndarray
        Of Axes, one per target.
    """
    from matplotlib import pyplot as plt

    groups = list(curves.groupby(["perturbation", "gene"], sort=False))[:n]
    lines = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(1.7 * columns + 0.4, 1.5 * lines + 0.6),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for ax, ((perturbation, gene), own) in zip(axes.flat, groups, strict=False):
        ax.plot(own["dose"], own["true"], "-", color="0.45", linewidth=3, alpha=0.6, label="true Hill curve")
        called = own["probability"] > 0.5
        ax.plot(own["dose"], own["learned"].where(called), "-", color=_GIM, linewidth=1.5, label="learned")
        ax.plot(
            own["dose"],
            own["learned"].where(~called),
            ":",
            color=_GIM,
            linewidth=1.5,
            label="learned, not called a target",
        )
        for dose in doses:
            ax.axvline(dose, ymax=0.05, color="0.3", linewidth=1)
        ax.set_title(f"{perturbation} on {gene}", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(groups) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel("dose", fontsize=8)
    for ax in axes[:, 0]:
        ax.set_ylabel("effect", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return axes.ravel()[: len(groups)]
