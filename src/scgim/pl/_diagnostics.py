"""How a fit went, and how well it predicts next to other methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import scgim.get as get
from scgim._errors import InvalidValue, NotFound
from scgim._validation import listing
from scgim.get._results import check_known
from scgim.metrics import METRICS
from scgim.metrics.table import DEFAULT, HALVES, OWN_CONTROL

from . import _style as st

#: Title of each panel of the history, whether its axis is logarithmic, and the recorded quantities with their labels.
_PANELS: tuple[tuple[str, bool, dict[str, str]], ...] = (
    ("Loss", False, {"loss": "training", "valid_loss": "held-out cells"}),
    ("Acyclicity", True, {"acyclicity": "acyclicity"}),
    ("Lagrangian", True, {"penalty": "penalty", "multiplier": "multiplier"}),
    ("Edges", False, {"edges": "edges"}),
    ("Targets per condition", False, {"targets_per_condition": "targets per condition"}),
)
_COLUMNS = ("condition", "method", "metric", "value")
_NAMES = {"gim": "GIM", OWN_CONTROL: "GIM's control", HALVES: "two halves of the observed cells"}
_GOOD_END = {"higher": "higher is better →", "lower": "← lower is better", None: ""}


def history(
    adata: ad.AnnData,
    *,
    n_cols: int = 5,
    ax: Any = None,
    save: str | Path | None = None,
    key: str = "gim",
    group: str | None = None,
) -> np.ndarray:
    """What was recorded while fitting, one panel per quantity; what never changed is named below instead.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    n_cols
        Panels per row.
    ax, save
        Axes to draw into, one per panel (None makes a new figure), and a file to write the figure to.
    key, group
        Which fit.

    Returns
    -------
    numpy.ndarray
        One matplotlib Axes per panel: loss (training and held-out cells), acyclicity, penalty and
        multiplier of the Lagrangian, edges, targets per condition.

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If nothing was recorded, the group is wrong, or `ax` is too small.

    Examples
    --------
    >>> scgim.pl.history(adata)  # doctest: +SKIP
    """
    table = get.history(adata, key=key, group=group)
    names = {column: label for *_, lines in _PANELS for column, label in lines.items()}
    recorded = [column for column in names if column in table and table[column].notna().any()]
    if "step" not in table or not recorded:
        raise InvalidValue(f"The fit '{key}' recorded no history to draw.")
    constant = {column: table[column].dropna().iloc[0] for column in recorded if table[column].nunique() == 1}
    if len(table) == 1 or len(constant) == len(recorded):  # then all there is
        constant = {}
    drawn = [column for column in recorded if column not in constant]
    panels = [(title, log, own) for title, log, lines in _PANELS if (own := [c for c in lines if c in drawn])]
    grid = st.make_panels(len(panels), ax=ax, n_cols=n_cols, size=(13.5, 11.5))
    for panel, (title, log, columns) in zip(grid.axes, panels, strict=True):
        _draw_course(panel, table, {column: names[column] for column in columns}, title, log)
    grid.label(x="Step")
    values = ", ".join(f"{names[column]} {value:.3g}" for column, value in constant.items())
    grid.header(False, note=f"Constant, not drawn: {values}" if constant else "")
    return st.finish(grid.axes, save)


def _draw_course(ax: Axes, table: pd.DataFrame, lines: dict[str, str], title: str, log: bool) -> None:
    colors = st.palette(ax)
    for color, (column, label) in zip((colors.observed, colors.predicted), lines.items(), strict=False):
        filled = table[["step", column]].dropna()
        dot = "o" if len(filled) == 1 else ""  # a line needs two records
        style: dict[str, Any] = {"color": color, "linewidth": 1.2, "marker": dot, "markersize": 4}
        ax.plot(filled["step"], filled[column], label=label, gid=column, **style)
    values = table[list(lines)].to_numpy(dtype=float)
    if log and (values > 0).any():
        ax.set_yscale("log", nonpositive="mask")
    elif title == "Loss":
        ax.set_ylim(_loss_range(values, room=0.8 if len(lines) > 1 else 0.06))
    else:
        ax.set_ylim(0, 1.08 * float(np.nanmax(values)) or None)
    one = len(lines) == 1 and title != "Loss"
    ax.set_title(next(iter(lines.values())).capitalize() if one else title, fontsize=st.font_size(), pad=3)
    if len(lines) > 1:
        style = {"frameon": False, "fontsize": st.font_size(0.8), "handlelength": 1.3, "borderaxespad": 0.1}
        ax.legend(loc="upper right" if title == "Loss" else "best", **style)
    ax.locator_params(axis="x", nbins=4)


def _loss_range(values: np.ndarray, *, room: float) -> tuple[float, float]:
    """The range after the first tenth of the records, whose fall would flatten the rest; `room` for the legend."""
    values = np.where(np.isfinite(values), values, np.nan)
    late = values[len(values) // 10 :]
    low, high = float(np.nanmin(values)), float(np.nanmax(values if np.isnan(late).all() else late))
    span = (high - low) or 8.0
    return low - 0.06 * span, high + room * span


def metrics(
    df: pd.DataFrame,
    *,
    methods: list[str] | None = None,
    metrics: list[str] | None = None,
    n_cols: int = 3,
    legend: bool = True,
    ax: Any = None,
    save: str | Path | None = None,
) -> np.ndarray:
    """Compare methods, one panel per metric: a small dot per condition, a large one for their mean.

    Means are over the conditions for which every method shown has a value (where there are none, over each method's
    own), so that no method gains by what it leaves out. Where a method has several values for a condition (seeds), dots
    are their means, and a bar is the standard deviation of the mean between repeats.

    Parameters
    ----------
    df
        A table as `tl.evaluate` returns it: `condition`, `method`, `metric`, `value`; several may be joined. A method
        whose name starts with "two halves" (of the observed cells: how near these come) becomes a dashed line.
    methods, metrics
        What to show, in this order. None shows all: the metrics that `tl.evaluate` computes by default first, others
        smaller.
    n_cols
        Panels per row.
    legend
        Whether to draw the legend, where there are several conditions, repeats or two halves.
    ax, save
        Axes to draw into, one per metric (None makes a new figure), and a file to write the figure to.

    Returns
    -------
    numpy.ndarray
        One matplotlib Axes per metric.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the table is empty, a method or metric is unknown, or `ax` is too small.

    Examples
    --------
    >>> import pandas as pd, scgim
    >>> table = pd.DataFrame(
    ...     {"condition": "A", "method": ["gim", "control"], "metric": "mean_distance", "value": [0.4, 1]}
    ... )
    >>> axes = scgim.pl.metrics(table)
    """
    missing = [column for column in _COLUMNS if column not in df]
    if missing:
        raise NotFound(f"The table lacks the columns {listing(missing)} of scgim.tl.evaluate.")
    if df.empty:
        raise InvalidValue("The table of metrics is empty.")
    table = df.astype({"condition": str, "method": str, "metric": str, "value": float})
    names, n_small = _metric_order(table["metric"], metrics)
    rows = _chosen(methods, table["method"], "method")
    table = table[table["metric"].isin(names) & table["method"].isin(rows)].dropna(subset="value")
    table["repeat"] = table.groupby(["metric", "method", "condition"]).cumcount()
    lines = [row for row in rows if row.startswith(HALVES)]
    rows = [row for row in rows if row not in lines] or rows

    em = st.font_size(0.9)
    label_room = max(st.text_width(_method(row), em) for row in rows) / st.font_size()
    size = (14.5 + label_room / min(len(names), max(n_cols, 1)), 2.0 * len(rows) + 5.5)
    grid = st.make_panels(len(names), ax=ax, n_cols=n_cols, size=size, min_width=16 + label_room, n_small=n_small)
    uneven, lefts = False, {panel.get_position().x0 for panel in grid.axes}
    for panel, name in zip(grid.axes, names, strict=True):
        shown = table[table["metric"] == name]
        shared = _shared(shown[shown["method"].isin(rows)])
        uneven |= shown.loc[shown["method"].isin(rows), "condition"].nunique() > len(shared)
        _draw_metric(panel, shown[shown["condition"].isin(shared)], shown, rows)
        title = METRICS[name].title if name in METRICS else name.replace("_", " ")
        title = st.fit_text(title[:1].upper() + title[1:], st.font_size(), 14 * st.font_size())
        panel.set_title(title, fontsize=st.font_size(), pad=3)
        panel.set_xlabel(_GOOD_END[METRICS[name].better if name in METRICS else None], fontsize=st.font_size(0.85))
        st.clean(panel)
        first = not grid.own or panel.get_position().x0 == min(lefts)
        panel.set_yticks(range(len(rows)), [_method(row) for row in rows] if first else [""] * len(rows))
        panel.tick_params(axis="y", length=0, labelsize=em)
        panel.spines["left"].set_visible(False)
        panel.locator_params(axis="x", nbins=4)
    grid.header(_handles(table, st.palette(grid.axes[0]), uneven, lines) if legend else False)
    return st.finish(grid.axes, save)


def _metric_order(available: pd.Series, asked: list[str] | None) -> tuple[list[str], int]:
    """Metrics in the order asked for, or the default ones first; the number of small panels."""
    names = _chosen(asked, available, "metric")
    if asked is not None:
        return names, 0
    first = [name for name in DEFAULT if name in names]
    others = [name for name in names if name not in first]
    return first + others, len(others) if first else 0


def _handles(table: pd.DataFrame, colors: st.Palette, uneven: bool, lines: list[str]) -> list[Line2D]:
    style: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": colors.ink}
    repeated = bool((table["repeat"] > 0).any())
    handles = []
    if table.groupby(["metric", "method"])["condition"].nunique().max() > 1:
        handles.append(Line2D([], [], label="one condition", markersize=3, alpha=0.45, markeredgewidth=0, **style))
    if handles or repeated:
        label = f"mean{' ± s.d. of repeats' * repeated}{', conditions shared by all' * uneven}"
        handles.append(Line2D([], [], label=label, markersize=6.5, markeredgecolor=colors.paper, **style))
    handles += [Line2D([], [], label=_method(line), color=colors.ink, linewidth=1.0, linestyle="--") for line in lines]
    return handles


def _chosen(asked: list[str] | None, values: pd.Series, what: str) -> list[str]:
    available = values.drop_duplicates().tolist()
    return available if asked is None else check_known(asked, available, what)


def _shared(table: pd.DataFrame) -> set[str]:
    """Conditions for which every method that has values has one; all where there are none."""
    methods = table.groupby("condition")["method"].nunique()
    return set(methods.index[methods == table["method"].nunique()]) or set(methods.index)


def _draw_metric(ax: Axes, compared: pd.DataFrame, table: pd.DataFrame, rows: list[str]) -> None:
    """One row per method; `compared` are the conditions that the means are taken over."""
    colors = st.palette(ax)
    for y, row in enumerate(rows):
        ax.axhline(y, color=st.blend(colors.ink, colors.paper, 0.15), linewidth=0.6, zorder=0)
        color = colors.predicted if row == "gim" else st.blend(colors.ink, colors.paper, 0.55)
        dots = table[table["method"] == row].groupby("condition", sort=False)["value"].mean()
        if len(dots) > 1:
            style: dict[str, Any] = {"markersize": 3, "alpha": 0.45, "markeredgewidth": 0}
            ax.plot(dots, np.full(len(dots), y), "o", color=color, **style)
        own = compared[compared["method"] == row]
        if own.empty:
            continue
        means = own.groupby("repeat")["value"].mean()
        mean = own.groupby("condition")["value"].mean().mean()
        if len(means) > 1:
            ax.errorbar(mean, y, xerr=means.std(), color=color, elinewidth=1.4, capsize=2.5, gid=f"repeats:{row}")
        ax.plot(mean, y, "o", markersize=6.5, color=color, markeredgecolor=colors.paper, gid=f"mean:{row}")
    for line in compared.loc[compared["method"].str.startswith(HALVES), "method"].unique():
        value = compared.loc[compared["method"] == line, "value"].mean()
        if line not in rows:
            ax.axvline(value, color=colors.ink, linewidth=1.0, linestyle="--", zorder=1, gid=f"line:{line}")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.margins(x=0.08)


def _method(name: str) -> str:
    if name.startswith("gim ("):  # a second fit, of another kind
        return f"GIM{name[3:]}"
    return _NAMES.get(name) or st.shorten(name.replace("_", " "))
