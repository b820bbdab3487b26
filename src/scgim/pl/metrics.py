"""How well each method predicts, one panel per metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scgim._validation import listing
from scgim.get._results import check_known

from ._panels import add_header, make_panels
from ._style import Palette, blend, clean, font_size, palette, shorten, text_width

_COLUMNS = ("condition", "method", "metric", "value")
_HIGHER, _LOWER = "higher is better →", "← lower is better"
#: Title and good end of the metrics of `scgim.metrics`; any other keeps its name.
_KNOWN = {
    "mean_distance": ("Mean distance", _LOWER),
    "pearson_means": ("Pearson, means", _HIGHER),
    "pearson_delta": ("Pearson, Δ means", _HIGHER),
    "kde_nll": ("KDE NLL", _LOWER),
    "wasserstein": ("Wasserstein", _LOWER),
    "sinkhorn_divergence": ("Sinkhorn divergence", _LOWER),
    "e_distance": ("E-distance", _LOWER),
    "zero_fraction_error": ("Error of zero fraction", _LOWER),
    "coverage": ("Coverage", ""),
    "sid": ("SID", _LOWER),
    "shd": ("SHD", _LOWER),
    "edge_f1": ("Edge F1", _HIGHER),
    "skeleton_f1": ("Skeleton F1", _HIGHER),
    "edge_auprc": ("Edge AUPRC", _HIGHER),
    "target_f1": ("Target F1", _HIGHER),
    "target_f1_per_condition": ("Target F1, per condition", _HIGHER),
    "target_auprc": ("Target AUPRC", _HIGHER),
}


def metrics(
    df: pd.DataFrame,
    *,
    methods: list[str] | None = None,
    metrics: list[str] | None = None,
    n_cols: int = 3,
    legend: bool = True,
    ax: Any = None,
) -> np.ndarray:
    """Compare methods, one panel per metric: a small dot per condition, a large one for their mean.

    The fit stands out in colour; an arrow tells which end is good. Means are taken over the conditions for
    which every method shown has a value (where there are none, over each method's own), so that a method is
    not favoured by what it leaves out.

    Parameters
    ----------
    df
        A table as `tl.evaluate` returns it: `condition`, `method`, `metric`, `value`.
    methods
        Methods to show, from top to bottom. None shows all in order of appearance.
    metrics
        Metrics to show. None shows all in order of appearance.
    n_cols
        Panels per row.
    legend
        Whether to draw the legend, where there are several conditions.
    ax
        Axes to draw into, one per metric. None makes a new figure.

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
        raise KeyError(f"The table lacks the columns {listing(missing)} of scgim.tl.evaluate.")
    if df.empty:
        raise ValueError("The table of metrics is empty.")
    table = df.astype({"condition": str, "method": str, "metric": str, "value": float})
    names = _chosen(metrics, table["metric"], "metric")
    rows = _chosen(methods, table["method"], "method")

    em = font_size(0.9)
    label_room = max(text_width(_method(row), em) for row in rows) / font_size()
    size = (15.0, 2.0 * len(rows) + 5.5)
    table = table[table["metric"].isin(names) & table["method"].isin(rows)].dropna(subset="value")
    several = table.groupby(["metric", "method"])["condition"].nunique().max() > 1
    axes, own = make_panels(len(names), ax=ax, n_cols=n_cols, panel_size=size, min_width=16 + label_room)
    columns = min(len(axes), n_cols) if own else 1
    uneven = False
    for i, (panel, name) in enumerate(zip(axes, names, strict=True)):
        shown = table[table["metric"] == name]
        shared = _shared(shown)
        uneven |= shown["condition"].nunique() > len(shared)
        _draw(panel, shown, rows, shared)
        label, direction = _KNOWN.get(name, (shorten(name.replace("_", " ")), ""))
        panel.set_title(label, fontsize=font_size(), pad=3)
        panel.set_xlabel(direction, fontsize=font_size(0.85))
        clean(panel)
        first = i % columns == 0 or not own
        panel.set_yticks(range(len(rows)), [_method(row) for row in rows] if first else [""] * len(rows))
        panel.tick_params(axis="y", length=0, labelsize=em)
        panel.spines["left"].set_visible(False)
        panel.locator_params(axis="x", nbins=4)
    handles = _handles(palette(axes[0]), uneven) if several else []
    add_header(axes, handles, own=own, title=None, legend=legend)
    return axes


def _handles(colors: Palette, uneven: bool) -> list[Line2D]:
    style: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": colors.ink}
    label = "mean, conditions shared by all" if uneven else "mean"
    small = Line2D([], [], label="one condition", markersize=3, alpha=0.45, markeredgewidth=0, **style)
    return [small, Line2D([], [], label=label, markersize=6.5, markeredgecolor=colors.paper, **style)]


def _chosen(asked: list[str] | None, values: pd.Series, what: str) -> list[str]:
    available = values.drop_duplicates().tolist()
    return available if asked is None else check_known(asked, available, what)


def _shared(table: pd.DataFrame) -> set[str]:
    """Conditions for which every method that has values has one; all where there are none."""
    methods = table.groupby("condition")["method"].nunique()
    return set(methods.index[methods == table["method"].nunique()]) or set(methods.index)


def _draw(ax: Axes, table: pd.DataFrame, rows: list[str], shared: set[str]) -> None:
    colors = palette(ax)
    for y, row in enumerate(rows):
        ax.axhline(y, color=blend(colors.ink, colors.paper, 0.15), linewidth=0.6, zorder=0)
        own = table[table["method"] == row]
        color = colors.predicted if row == "gim" else blend(colors.ink, colors.paper, 0.55)
        if len(own) > 1:
            dots: dict[str, Any] = {"markersize": 3, "alpha": 0.45, "markeredgewidth": 0}
            ax.plot(own["value"], np.full(len(own), y), "o", color=color, **dots)
        compared = own.loc[own["condition"].isin(shared), "value"]
        if len(compared):
            mean = compared.mean()
            ax.plot(mean, y, "o", markersize=6.5, color=color, markeredgecolor=colors.paper, gid=f"mean:{row}")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.margins(x=0.08)


def _method(name: str) -> str:
    return "GIM" if name == "gim" else shorten(name.replace("_", " "))
