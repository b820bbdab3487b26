"""Figures of the SciPlex3 experiment: metrics per setting, marginals of genes, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from figures import method_colors
from records import heading, method_name

#: Methods in the order of their hues, and how much lighter a method's next encodings are.
_ORDER = ("gim", "mean_shift", "ridge", "condot", "next_lower_dose", "control", "gim_paper")
_LIGHTER = (0.0, 0.4, 0.68)


def settings(
    results: pd.DataFrame, metrics: Sequence[str], *, log: Sequence[str] = (), goal: Mapping[str, float] | None = None
) -> np.ndarray:
    """Metrics setting by setting: a dot per seed, a tick at the mean (in the spirit of the paper's figure 5).

    Parameters
    ----------
    results
        Columns cell_line, drug, method, metric, value.
    metrics
        One row of panels each.
    log
        Metrics on a logarithmic axis.
    goal
        Metric -> value drawn as a dashed line.

    Returns
    -------
    numpy.ndarray
        Of Axes, (metrics, cell lines).
    """
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    lines = list(results["cell_line"].unique())
    drugs = sorted(results["drug"].unique())
    methods = list(results["method"].unique())
    colors = _colors(methods)
    figure, axes = plt.subplots(
        len(metrics), len(lines), figsize=(3.0 * len(lines) + 0.6, 1.9 * len(metrics) + 0.8), squeeze=False,
        sharey="row", layout="constrained",
    )  # fmt: skip
    step = 0.8 / max(1, len(methods))
    for i, metric in enumerate(metrics):
        own = results[results["metric"] == metric]
        for j, line in enumerate(lines):
            ax = axes[i, j]
            for k, method in enumerate(methods):
                for x, drug in enumerate(drugs):
                    chosen = (own["cell_line"] == line) & (own["drug"] == drug) & (own["method"] == method)
                    values = own.loc[chosen, "value"].dropna().to_numpy()
                    at = x + (k - (len(methods) - 1) / 2) * step
                    label = method_name(method) if x == 0 else None
                    ax.plot(np.full(len(values), at), values, "o", color=colors[method], markersize=3, alpha=0.5,
                            markeredgewidth=0)  # fmt: skip
                    mean = [values.mean()] if len(values) else []
                    ax.plot([at] * len(mean), mean, "_", color=colors[method], markersize=9, markeredgewidth=2,
                            label=label)  # fmt: skip
            if metric in log:
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
                ax.yaxis.set_major_formatter("{x:g}")
                ax.yaxis.set_minor_formatter(NullFormatter())
            if metric.startswith("pearson"):  # the control is near 0: it would hide what the others differ in
                others = own.loc[own["method"] != "control", "value"].dropna()
                ax.set_ylim(min(0.9, others.min()) - 0.03 if len(others) else 0, 1.01)
            if goal and metric in goal:
                ax.axhline(goal[metric], color="0.5", linewidth=0.8, linestyle="--")
            ax.set_xticks(range(len(drugs)), drugs if i == len(metrics) - 1 else [""] * len(drugs), fontsize=7,
                          rotation=20, ha="right")  # fmt: skip
            ax.set_xlim(-0.55, len(drugs) - 0.45)
            for x in range(1, len(drugs)):
                ax.axvline(x - 0.5, color="0.5", linewidth=0.4, alpha=0.4)
            ax.tick_params(axis="y", labelsize=7)
            ax.tick_params(axis="x", length=0)
            ax.spines[["top", "right"]].set_visible(False)
            if i == 0:
                ax.set_title(str(line), fontsize=9, fontweight="bold")
            if j == 0:
                ax.set_ylabel(heading(metric), fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=8)
    return axes


def _colors(methods: Sequence[str]) -> dict[str, str]:
    """A hue for every method, the same in every figure; its second and third encoding are lighter."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    names = list(dict.fromkeys(m.partition(":")[0] for m in methods))
    bases = method_colors([*_ORDER, *(name for name in names if name not in _ORDER)])
    out, seen = {}, dict.fromkeys(names, 0)
    for method in methods:
        name = method.partition(":")[0]
        lighter = LinearSegmentedColormap.from_list("lighter", [bases[name], "white"])
        out[method] = to_hex(lighter(_LIGHTER[min(seen[name], len(_LIGHTER) - 1)]))
        seen[name] += 1
    return out


def marginal_panels(
    genes: Sequence[str], true: np.ndarray, predicted: Mapping[str, np.ndarray], control: np.ndarray
) -> np.ndarray:
    """Distribution of each gene: truth, predictions, control (in the spirit of the paper's figures 12 and 13).

    Zeros are a bar at 0, the positive values a histogram; both are shares of all cells.

    Parameters
    ----------
    genes
        Names, one panel each.
    true, control
        (cells, genes)
    predicted
        Method -> (cells, genes).

    Returns
    -------
    numpy.ndarray
        Of Axes, one per gene.
    """
    from matplotlib import pyplot as plt

    columns = min(3, len(genes))
    rows = -(-len(genes) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.9 * columns, 1.9 * rows + 0.5), squeeze=False, layout="constrained"
    )
    colors = _colors(list(predicted))
    for g, (gene, ax) in enumerate(zip(genes, axes.flat, strict=False)):
        groups: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
            "truth": (true[:, g], {"color": "black", "linewidth": 1.6}),
            **{method_name(m): (x[:, g], {"color": colors[m], "linewidth": 1.4}) for m, x in predicted.items()},
            "control": (control[:, g], {"color": "0.55", "linewidth": 1.2, "linestyle": ":"}),
        }
        top = max(np.quantile(values, 0.995) for values, _ in groups.values())
        bins = np.linspace(0, max(top, 0.5), 16)
        width = bins[1]
        for k, (label, (values, style)) in enumerate(groups.items()):
            positive = np.histogram(values[values > 0], bins)[0] / len(values)
            ax.stairs(positive, bins, label=label, baseline=None, **style)
            at = -width * (0.6 + 0.7 * (len(groups) - 1 - k))
            ax.plot([at, at], [0, (values <= 0).mean()], solid_capstyle="butt", **{**style, "linewidth": 3})
        ax.axvline(0, color="0.5", linewidth=0.5)
        ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= bins[-1]])
        ax.set_ylim(bottom=0)
        ax.set_title(gene, fontsize=9, style="italic")
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(genes) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel("log-normalised expression (bars: zeros)", fontsize=7)
    for ax in axes[:, 0]:
        ax.set_ylabel("share of cells", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    return axes.ravel()[: len(genes)]


def calibration(table: pd.DataFrame) -> np.ndarray:
    """Predicted against observed zero fraction, and coverage of the predicted 5 to 95 % range, gene by gene.

    Parameters
    ----------
    table
        One row per method, setting and gene: method, zero_true, zero_predicted, coverage.

    Returns
    -------
    numpy.ndarray
        Of Axes, (2, methods).
    """
    from matplotlib import pyplot as plt

    methods = list(table["method"].unique())
    colors = _colors(methods)
    _, axes = plt.subplots(
        2, len(methods), figsize=(2.3 * len(methods) + 0.4, 4.4), squeeze=False, sharey="row", layout="constrained"
    )
    for j, method in enumerate(methods):
        own = table[table["method"] == method]
        above, below = axes[0, j], axes[1, j]
        above.plot([0, 1], [0, 1], color="0.5", linewidth=0.8)
        above.plot(own["zero_true"], own["zero_predicted"], "o", color=colors[method], markersize=2.5, alpha=0.4,
                   markeredgewidth=0)  # fmt: skip
        error = (own["zero_true"] - own["zero_predicted"]).abs().mean()
        above.set_title(f"{method_name(method)}\nmean abs. error {error:.3f}", fontsize=8)
        above.set_xlabel("observed zero fraction", fontsize=8)
        below.hist(own["coverage"], bins=np.linspace(0, 1, 26), color=colors[method])
        below.axvline(0.9, color="0.4", linewidth=0.8, linestyle="--")
        below.set_title(f"mean {own['coverage'].mean():.3f}", fontsize=8)
        below.set_xlabel("cells in the 5 to 95 % range", fontsize=8)
        for ax in (above, below):
            ax.tick_params(labelsize=7)
            ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("predicted zero fraction", fontsize=8)
    axes[1, 0].set_ylabel("genes x settings", fontsize=8)
    return axes
