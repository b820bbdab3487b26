"""Observed and predicted changes: a heat map of conditions by genes, and a scatter per condition."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

import scgim.get as get
from scgim._errors import InvalidValue
from scgim._validation import check_int
from scgim.get._cells import expression, predicted_labels
from scgim.get._results import genes_of
from scgim.slots import read_entry

from . import _style as st
from ._genes import choose_genes, gene_labels
from ._names import name_points
from ._rows import cluster, color_bar, label_columns, label_rows, new_axes, sort_rows

_SHOWN = 0.98  # of the changes lie within the range of the colours


def changes(
    adata: ad.AnnData,
    predicted: ad.AnnData,
    *,
    conditions: str | Iterable[str] | None = None,
    genes: str | Iterable[str] | None = None,
    n_genes: int = 20,
    gene_symbols: str | None = None,
    reference: Literal["observed", "predicted"] = "observed",
    cmap: str | Colormap | None = None,
    legend: bool = True,
    ax: Axes | None = None,
    save: str | Path | None = None,
    key: str = "gim",
    group: str | None = None,
) -> Axes:
    """Heat map of the changes against control, conditions by genes: observed above, predicted below, in every row.

    A hatched half was not observed. Genes that change alike stand side by side.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    predicted
        Cells from `tl.sample_cells`, or of any other method, of one or several conditions.
    conditions
        Labels of the conditions to show. None shows all of `predicted` but the control.
    genes, n_genes
        Genes to show, in this order. None takes the `n_genes` with the largest observed change in any condition
        (predicted, where none was observed).
    gene_symbols
        Column of `adata.var` to label the genes by. None labels them by their names.
    reference
        What predicted changes are measured from, as in `get.changes`.
    cmap
        Diverging colour map, from lowered to raised. None takes blue to orange.
    legend
        Whether to draw the colour bar.
    ax, save
        Axes to draw into (None makes a new figure, as large as the labels need at the user's font size), and a file
        to write the figure to.
    key, group
        Which fit.

    Returns
    -------
    matplotlib.axes.Axes
        The heat map: its first collection holds the changes, (2 x conditions, genes), observed and predicted in turn.
        The table behind it is `scgim.get.changes`.

    Raises
    ------
    KeyError
        If there is no fit under `key`, no column `gene_symbols`, or `predicted` has no column `condition`.
    ValueError
        If a condition or gene is unknown, or `predicted` lacks genes, or the control cells that `reference` asks for.

    Examples
    --------
    >>> scgim.pl.changes(adata, new, save="changes.png")  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    labels = gene_labels(adata, genes_of(adata, slots), gene_symbols)
    table = get.changes(adata, predicted, conditions=conditions, reference=reference, key=key, group=group)
    rows = sort_rows(table[["condition", "perturbation", "dose", "split"]].drop_duplicates("condition"))
    sides = [_wide(table, side, rows, labels.index) for side in ("observed_change", "predicted_change")]
    largest = _largest(*sides)
    shown = choose_genes(genes, labels, largest, n_genes)
    if genes is None:
        shown = cluster(pd.concat(sides)[shown].dropna())
    left_out = len(labels) - len(shown)
    note = f"{left_out} gene{'s' * (left_out > 1)} that change{'s' * (left_out == 1)} less not shown"
    note = note if genes is None and left_out else ""
    values = np.stack([side[shown].to_numpy() for side in sides], axis=1).reshape(-1, len(shown))
    limit = float(np.nanquantile(np.abs(values), _SHOWN)) or 1.0
    names = labels[shown].map(st.shorten).tolist()

    em = st.font_size(0.85)
    if ax is None:
        ax, room = new_axes((len(rows), len(shown)), rows, names, slots.dose_unit, em)
        note = "\n".join(st.wrap_text(note, em, room))
    colors = st.palette(ax)
    shades = plt.get_cmap(cmap) if cmap is not None else st.diverging(colors)
    thin = st.blend(colors.ink, colors.paper, 0.12)
    edges = np.arange(len(values) + 1) / 2
    mesh = ax.pcolormesh(np.arange(len(shown) + 1), edges, values, cmap=shades, vmin=-limit, vmax=limit, linewidth=0)
    ax.set_ylim(len(rows), 0)
    ax.vlines(np.arange(len(shown) + 1), 0, len(rows), color=thin, linewidth=0.4, gid="grid")
    ax.hlines(np.arange(len(rows) + 1), 0, len(shown), color=colors.paper, linewidth=2.4, gid="gap")
    for i in np.flatnonzero(np.isnan(values).all(axis=1)):
        ax.fill_between([0, len(shown)], i / 2, (i + 1) / 2, facecolor="none", edgecolor=colors.muted, hatch="////",
                        linewidth=0, gid="not observed")  # fmt: skip
    ax.spines[:].set_visible(False)
    label_columns(ax, names, note, em, colors.ink)
    label_rows(ax, rows, slots.dose_unit, em, colors.ink)
    if legend:
        beyond = "both" if (np.abs(values[~np.isnan(values)]) > limit).any() else "neither"
        text = "Change against control\n(upper half: observed,\nlower half: predicted)"
        color_bar(ax, mesh, em, colors.ink, text, extend=beyond)
    ax.tick_params(axis="x", labelsize=min(em, st.axes_size(ax)[0] / len(names) / 1.25))
    return st.finish(ax, save)


def _wide(table: pd.DataFrame, column: str, rows: pd.DataFrame, genes: pd.Index) -> pd.DataFrame:
    """A column of the table as (conditions, genes)."""
    wide = table.pivot(index="condition", columns="gene", values=column)
    return wide.reindex(index=rows["condition"], columns=genes)


def _largest(observed: pd.DataFrame, predicted: pd.DataFrame) -> np.ndarray:
    """The largest change of each gene in any condition: observed, or predicted where nothing was observed."""
    seen = observed.dropna(how="all")
    return (seen if len(seen) else predicted).abs().max(axis=0).to_numpy()


def agreement(
    adata: ad.AnnData,
    predicted: ad.AnnData,
    *,
    conditions: str | Iterable[str] | None = None,
    n_named: int = 6,
    gene_symbols: str | None = None,
    reference: Literal["observed", "predicted"] = "observed",
    n_cols: int = 3,
    legend: bool = True,
    ax: Any = None,
    save: str | Path | None = None,
    key: str = "gim",
    group: str | None = None,
) -> np.ndarray:
    """Predicted against observed changes, a panel per condition and a dot per gene; the worst genes are named.

    Changes are of the mean against control. On the line, both are equal. Bars are two standard errors of the observed
    change: a gene whose bar reaches the line cannot be told from a right prediction. Correlation `r` says whether genes
    change in proportion, the mean error whether they change by as much. Where `predicted` holds control cells, too, a
    cross per gene is what these score: dots on the crosses show a model's control that is off, and no effect.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    predicted
        Cells from `tl.sample_cells`, or of any other method, of one or several observed conditions.
    conditions
        Labels of the conditions to show. None shows all of `predicted` that were observed, without the control.
    n_named
        How many genes to name in each panel: those furthest from the line. Where there is no room, fewer are named.
    gene_symbols
        Column of `adata.var` to name the genes by. None takes their names.
    reference
        What predicted changes are measured from, as in `get.changes`.
    n_cols
        Panels per row.
    legend
        Whether to draw the legend.
    ax, save
        Axes to draw into, one per condition (None makes a new figure), and a file to write the figure to.
    key, group
        Which fit.

    Returns
    -------
    numpy.ndarray
        One matplotlib Axes per condition; the table behind it is `scgim.get.changes`.

    Raises
    ------
    KeyError
        If there is no fit under `key`, no column `gene_symbols`, or `predicted` has no column `condition`.
    ValueError
        If a condition is unknown, none was observed, or `predicted` lacks genes, or the control cells that `reference`
        asks for, or `ax` is too small.

    Examples
    --------
    >>> scgim.pl.agreement(adata, new, n_named=10)  # doctest: +SKIP
    """
    n_named = check_int(n_named, "n_named", least=0)
    slots = read_entry(adata, key, group, fitted=True)
    labels = gene_labels(adata, genes_of(adata, slots), gene_symbols).map(st.shorten)
    table = get.changes(adata, predicted, conditions=conditions, reference=reference, key=key, group=group)
    table = table[table["n_cells"] > 0]
    if table.empty:
        raise InvalidValue(
            "adata holds no cell of the conditions in predicted: there is nothing to compare them with. "
            "scgim.pl.changes draws predictions alone."
        )
    rows = sort_rows(table[["condition", "perturbation", "dose", "split"]].drop_duplicates("condition"))
    of_control = (predicted_labels(predicted).astype(str) == slots.control).to_numpy()
    own = None
    if of_control.any() and reference == "observed":
        own = expression(predicted, of_control, labels.index.tolist()).mean(axis=0)
    grid = st.make_panels(len(rows), ax=ax, n_cols=n_cols, size=(19, 18), min_width=28 if own is None else 40)
    for panel in grid.axes:
        st.clean(panel)
    titles = [st.condition_title(rows, condition, slots.dose_unit) for condition in rows["condition"]]
    title_room = 17 * st.font_size()
    for panel, title in zip(grid.axes, titles, strict=True):
        panel.set_title(st.fit_text(title, st.font_size(), title_room), fontsize=st.font_size(), pad=3)
    for i, panel in enumerate(grid.axes):
        if i % grid.columns == 0 or not grid.own:
            panel.set_ylabel("Predicted change", fontsize=st.font_size(0.9))
        if i + grid.columns >= len(grid.axes) or not grid.own:
            panel.set_xlabel("Observed change", fontsize=st.font_size(0.9))
    for panel, condition in zip(grid.axes, rows["condition"], strict=True):
        _draw_agreement(panel, table[table["condition"] == condition], own)
    grid.header(legend)
    for panel, condition in zip(grid.axes, rows["condition"], strict=True):
        _name_worst(panel, table[table["condition"] == condition], labels, n_named, own)
    return st.finish(grid.axes, save)


def _draw_agreement(ax: Axes, table: pd.DataFrame, own: np.ndarray | None) -> None:
    """Dots of one condition; crosses where `own`, the means of the predicted control cells (genes,), are given."""
    colors = st.palette(ax)
    x, y = (table[column].to_numpy() for column in ("observed_change", "predicted_change"))
    look: dict[str, Any]
    bar = 2 * np.nan_to_num(table["standard_error"].to_numpy())
    shown = [x - bar, x + bar, y]
    if own is not None:
        shown.append(own - table["control_mean"].to_numpy())
        look = {"color": colors.control, "markersize": 4, "markeredgewidth": 0.9, "linestyle": "none", "zorder": 3}
        ax.plot(x, shown[-1], marker="x", label="the model's control", gid="control", **look)
    low, high = min(0.0, *(values.min() for values in shown)), max(0.0, *(values.max() for values in shown))
    pad = 0.08 * (high - low) or 1.0
    line: dict[str, Any] = {"color": colors.muted, "linewidth": 0.8, "zorder": 1}
    ax.axhline(0, linestyle=":", gid="zero", **line)
    ax.axvline(0, linestyle=":", gid="zero", **line)
    ax.axline((0, 0), slope=1, label="equal", gid="equal", **(line | {"color": colors.ink}))
    look = {"color": colors.predicted, "markersize": 3.6, "markeredgewidth": 0, "gid": "genes"}
    look |= {
        "elinewidth": 0.6,
        "ecolor": colors.muted,
        "zorder": 4,
        "label": "a gene, ± 2 s.e. observed",
    }
    ax.errorbar(x, y, xerr=bar, fmt="o", **look)
    ax.set_xlim(low - pad, high + pad)
    ax.set_ylim(low - pad, high + pad)
    ax.locator_params(nbins=5)
    correlation = np.corrcoef(x, y)[0, 1] if len(x) > 1 and x.std() > 0 and y.std() > 0 else np.nan
    text = f"r = {correlation:.2f}\nmean error {np.abs(x - y).mean():.2g}"
    ax.text(0.97, 0.03, text, transform=ax.transAxes, ha="right", va="bottom", size=st.font_size(0.85), gid="scores",
            color=colors.ink)  # fmt: skip


def _name_worst(ax: Axes, table: pd.DataFrame, labels: pd.Series, n: int, own: np.ndarray | None) -> None:
    """Names of the genes furthest from the line, off dots, line and crosses; the corner of the scores stays free."""
    xy = table[["observed_change", "predicted_change"]].to_numpy()
    worst = np.argsort(-np.abs(xy[:, 1] - xy[:, 0]), kind="stable")[:n]
    width, height = st.axes_size(ax)
    em = st.font_size(0.85)
    corner = (1 - 8.5 * em / width, 0.0, 1.0, 3.2 * em / height)
    names = labels[table["gene"].iloc[worst]].tolist()
    low, high = ax.get_xlim()
    line = np.linspace(low, high, 80)
    drawn = [xy, np.column_stack([line, line])]
    if own is not None:
        drawn.append(np.column_stack([xy[:, 0], own - table["control_mean"].to_numpy()]))
    name_points(ax, xy[worst], names, np.vstack(drawn), size=em, taken=[corner])
