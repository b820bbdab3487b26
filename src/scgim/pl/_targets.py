"""Which genes each condition targets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap
from matplotlib.transforms import offset_copy
from scipy.cluster.hierarchy import leaves_list, linkage

import scgim.get as get
from scgim._errors import InvalidValue
from scgim.get._results import check_known, genes_of
from scgim.slots import Entry, read_entry

from . import _style as st
from ._cells import find_genes, gene_labels

_COLUMN = 1.65  # width of a gene's column, in multiples of the label's font size
_ROW = 1.9  # height of a condition's row
_MOST_PROBABLE = 10  # genes shown where none is a target


def targets(
    adata: ad.AnnData,
    *,
    conditions: str | Iterable[str] | None = None,
    genes: str | Iterable[str] | None = None,
    gene_symbols: str | None = None,
    cmap: str | Colormap | None = None,
    legend: bool = True,
    ax: Axes | None = None,
    save: str | Path | None = None,
    key: str = "gim",
    group: str | None = None,
) -> Axes:
    """Heat map of targets, conditions by genes: the probability, and whether the gene is raised or lowered.

    A dot marks each called target. Genes with similar targets stand side by side; those that no condition targets are
    left out and counted below (without any target, the most probable genes are drawn).

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    conditions
        Labels of the conditions to show. None shows all but the control.
    genes
        Genes to show, in this order. None shows those that a condition targets.
    gene_symbols
        Column of `adata.var` to label the genes by. None labels them by their names.
    cmap
        Diverging colour map, from -1 (certain, lowered) to 1 (certain, raised). None takes blue to orange.
    legend
        Whether to draw the colour bar and the meaning of the dots.
    ax, save
        Axes to draw into (None makes a new figure, as large as the labels need at the user's font size), and a file
        to write the figure to.
    key, group
        Which fit.

    Returns
    -------
    matplotlib.axes.Axes
        The heat map: its first collection holds probability times direction, (conditions, genes).

    Raises
    ------
    KeyError
        If there is no fit under `key`, or no column `gene_symbols`.
    ValueError
        If a condition or gene is unknown, or only the control is left.

    Examples
    --------
    >>> scgim.pl.targets(adata, genes=["CDKN1A", "TXNIP"])  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    rows = _row_order(slots, conditions)
    table = get.targets(adata, conditions=rows["condition"], key=key, group=group)
    nodes = genes_of(adata, slots)
    labels = gene_labels(adata, nodes, gene_symbols).map(st.shorten)
    wide = table.assign(signed=table["probability"] * table["direction"]).pivot(index="condition", columns="gene")
    shape = {"index": rows["condition"], "columns": nodes}
    signed = wide["signed"].reindex(**shape).astype(float).fillna(0.0)
    called = wide["is_target"].reindex(**shape) == True  # noqa: E712 (missing pairs are not targets)
    if genes is None:
        chosen, note = _gene_order(signed, called)
    else:
        chosen, note = find_genes(genes, gene_labels(adata, nodes, gene_symbols)), ""
    values, names = signed[chosen].to_numpy(), labels[chosen].tolist()

    em = st.font_size(0.85)
    if ax is None:
        ax, room = _new_axes(values.shape, rows, max(st.text_width(name, em) for name in names), slots, em)
        note = "\n".join(st.wrap_text(note, em, room))
    colors = st.palette(ax)
    shades = plt.get_cmap(cmap) if cmap is not None else st.diverging(colors)
    grid = st.blend(colors.ink, colors.paper, 0.12)
    mesh = ax.pcolormesh(values, cmap=shades, vmin=-1, vmax=1, edgecolors=grid, linewidth=0.4)
    ax.set_ylim(len(rows), 0)
    where = np.argwhere(called[chosen].to_numpy())
    ink = [st.text_on(shades((values[i, j] + 1) / 2)) for i, j in where]
    ax.scatter(where[:, 1] + 0.5, where[:, 0] + 0.5, s=(0.42 * em) ** 2, c=ink, linewidths=0, gid="called")
    ax.spines[:].set_visible(False)

    ax.set_xticks(np.arange(len(names)) + 0.5, names, style="italic")
    ax.tick_params(axis="x", labelrotation=90, labelsize=em, length=0, pad=2)
    if note:
        ax.set_xlabel(note, fontsize=em, color=colors.ink, loc="right" if len(names) > 12 else "center")
    _row_labels(ax, rows, slots.dose_unit, em, colors.ink)
    if legend:
        _color_bar(ax, mesh, em, colors.ink)
    ax.tick_params(axis="x", labelsize=min(em, st.axes_size(ax)[0] / len(names) / 1.25))
    return st.finish(ax, save)


def _color_bar(ax: Axes, mesh: QuadMesh, em: float, ink: str) -> None:
    width, height = st.axes_size(ax)
    shrink, pad = min(1.0, 14 * em / height), min(1.2 * em / width, 0.3)
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=shrink, aspect=12, pad=pad, ticks=list(st.DIRECTION_TICKS))
    bar.ax.set_yticklabels(st.DIRECTION_TICKS.values())
    bar.ax.tick_params(labelsize=em, length=2, width=0.6)
    bar.outline.set_linewidth(0.6)
    bar.set_label("Target probability\n(dot: called)", fontsize=em, color=ink)


def _row_order(slots: Entry, conditions: str | Iterable[str] | None) -> pd.DataFrame:
    """Rows of the table of conditions without control, by perturbation (first seen first) and dose."""
    table = slots.conditions
    if conditions is not None:
        asked = check_known(conditions, table["condition"].tolist(), "condition")
        table = table[table["condition"].isin(asked)]
    table = table[~table["is_control"]]
    if table.empty:
        raise InvalidValue("The control has no targets: pass conditions= with at least one perturbation.")
    rank = table["perturbation"].map({name: i for i, name in enumerate(table["perturbation"].unique())})
    order = np.lexsort((table["dose"].fillna(-np.inf), rank))
    return table.iloc[order].reset_index(drop=True)


def _gene_order(signed: pd.DataFrame, called: pd.DataFrame) -> tuple[list[str], str]:
    """Genes that are targets, by hierarchical clustering of their columns, and a note on the others."""
    likely = signed.loc[:, called.any(axis=0).to_numpy()]
    n_all, n = signed.shape[1], likely.shape[1]
    if n == 0:
        most = signed.abs().max(axis=0).sort_values(ascending=False, kind="stable").index[:_MOST_PROBABLE].tolist()
        return most, f"No target called. Shown: the {len(most)} most probable of {n_all} genes"
    if n > 2:
        tree = linkage(likely.to_numpy().T, method="average", optimal_ordering=True)
        likely = likely.iloc[:, leaves_list(tree)]
    if n > 1:  # start with the genes of the first rows
        weight = likely.abs().to_numpy()
        row = np.arange(len(likely)) @ weight / weight.sum(axis=0)
        if np.polyfit(np.arange(n), row, 1)[0] < 0:
            likely = likely.iloc[:, ::-1]
    left_out = n_all - n
    note = f"{left_out} gene{'s' * (left_out > 1)} that no condition targets not shown" if left_out else ""
    return likely.columns.tolist(), note


def _row_text(rows: pd.DataFrame, unit: str) -> tuple[list[str], list[tuple[str, int, int]]]:
    """Labels of the rows; name, first row and last row + 1 of each block of doses of one perturbation."""
    runs = (rows["perturbation"] != rows["perturbation"].shift()).cumsum()
    labels, blocks = [""] * len(rows), []
    for _, run in rows.groupby(runs):
        if run["dose"].isna().any():
            names = run["condition"].map(st.shorten).tolist()
        else:
            names = [st.format_dose(dose, unit) for dose in run["dose"]]
            blocks.append((st.shorten(run["perturbation"].iloc[0]), int(run.index[0]), int(run.index[-1]) + 1))
        for i, name, out in zip(run.index, names, run["split"] == "test", strict=True):
            labels[i] = f"{name} (held out)" if out else name
    return labels, blocks


def _row_labels(ax: Axes, rows: pd.DataFrame, unit: str, em: float, ink: str) -> None:
    """Doses next to the rows, perturbations outside them, next to a line that spans their rows."""
    labels, blocks = _row_text(rows, unit)
    ax.set_yticks(np.arange(len(rows)) + 0.5, labels)
    size = min(em, st.axes_size(ax)[1] / len(rows) / 1.25)
    ax.tick_params(axis="y", labelsize=size, length=0, pad=3)
    offset = max(st.text_width(label, size) for label in labels) + 3 + 0.8 * em
    for name, start, stop in blocks:
        if start > 0:
            ax.axhline(start, color=ink, linewidth=0.6, gid="separator")
        beside = offset_copy(ax.get_yaxis_transform(), ax.figure.canvas.figure, x=-offset, units="points")
        ends = (start + 0.15, stop - 0.15)
        ax.plot([0, 0], ends, color=ink, linewidth=0.8, clip_on=False, gid="block", transform=beside)
        look: dict[str, Any] = {"ha": "right", "va": "center", "size": 1.08 * size, "color": ink}
        ax.text(0, (start + stop) / 2, f"{name} ", gid="perturbation", transform=beside, **look)


def _new_axes(
    shape: tuple[int, int], rows: pd.DataFrame, label_width: float, slots: Entry, em: float
) -> tuple[Axes, float]:
    """A figure in which every row and column has room for its label; the width of a text below its middle."""
    labels, blocks = _row_text(rows, slots.dose_unit)
    left = max(st.text_width(label, em) for label in labels)
    left += max((st.text_width(name, 1.08 * em) for name, *_ in blocks), default=0.0) + 2 * em
    inner = max(shape[1] * _COLUMN, 6) * em
    width, height = left + inner + 11 * em, label_width + max(shape[0] * _ROW, 10) * em + 3.7 * em
    ax = plt.subplots(figsize=(width / 72, height / 72), layout="constrained")[1]
    return ax, inner + 2 * min(left, 9 * em)
