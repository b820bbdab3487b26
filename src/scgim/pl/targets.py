"""Which genes each condition targets."""

from __future__ import annotations

from collections.abc import Iterable

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory
from scipy.cluster.hierarchy import leaves_list, linkage

import scgim.get as get
from scgim.get._results import check_known, genes_of
from scgim.slots import Entry, read_entry

from ._style import (
    axes_size,
    blend,
    font_size,
    format_dose,
    palette,
    sequential,
    shorten,
    text_on,
    text_width,
)

_COLUMN = 1.65  # width of a gene's column, in multiples of the label's font size
_ROW = 1.9  # height of a condition's row


def targets(
    adata: ad.AnnData,
    *,
    conditions: str | Iterable[str] | None = None,
    genes: str | Iterable[str] | None = None,
    cmap: str | Colormap | None = None,
    legend: bool = True,
    ax: Axes | None = None,
    key: str = "gim",
    group: str | None = None,
) -> Axes:
    """Heat map of target probabilities, conditions by genes; a dot marks each called target.

    Rows are ordered by perturbation and dose. Columns: genes with similar targeting stand side by side, those
    that no condition targets come last.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    conditions
        Labels of the conditions to show. None shows all but the control.
    genes
        Genes to show, in this order. None shows all that are modelled.
    cmap
        Colour map for probabilities from 0 to 1. None takes one that starts at the background's colour.
    legend
        Whether to draw the colour bar and the meaning of the dots.
    ax
        Axes to draw into. None makes a new figure, as large as the labels need at the user's font size.
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

    Returns
    -------
    matplotlib.axes.Axes
        The heat map: its first collection holds the probabilities, (conditions, genes).

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If a condition or gene is unknown, or only the control is left.

    Examples
    --------
    >>> import scgim
    >>> scgim.pl.targets(adata, genes=["CDKN1A", "TXNIP"])  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    rows = _row_order(slots, conditions)
    table = get.targets(adata, conditions=rows["condition"], key=key, group=group)
    nodes = genes_of(adata, slots)
    shape = {"index": rows["condition"], "columns": nodes}
    wide = table.pivot(index="condition", columns="gene", values=["probability", "is_target"])
    probability = wide["probability"].reindex(**shape).astype(float).fillna(0.0)
    called = wide["is_target"].reindex(**shape) == True  # noqa: E712 (missing pairs are not targets)
    chosen = _gene_order(probability) if genes is None else check_known(genes, nodes, "gene")
    values = probability[chosen].to_numpy(dtype=float)

    em = font_size(0.85)
    label_width = max(text_width(shorten(name), em, style="italic") for name in chosen)
    unit = slots.dose_unit
    if ax is None:
        ax = _new_axes(values.shape, rows, label_width, unit, em)
    colors = palette(ax)
    shades = plt.get_cmap(cmap) if cmap is not None else sequential(colors)
    grid = blend(colors.ink, colors.paper, 0.12)
    mesh = ax.pcolormesh(values, cmap=shades, vmin=0, vmax=1, edgecolors=grid, linewidth=0.4)
    ax.set_ylim(len(rows), 0)
    where = np.argwhere(called[chosen].to_numpy())
    ink = [text_on(shades(values[i, j])) for i, j in where]
    ax.scatter(where[:, 1] + 0.5, where[:, 0] + 0.5, s=(0.42 * em) ** 2, c=ink, linewidths=0, gid="called")
    ax.spines[:].set_visible(False)

    ax.set_xticks(np.arange(len(chosen)) + 0.5, [shorten(name) for name in chosen])
    ax.tick_params(axis="x", labelrotation=90, labelsize=em, length=0, pad=2)
    for label in ax.get_xticklabels():
        label.set_fontstyle("italic")
    _row_labels(ax, rows, unit, em, colors.ink)
    if legend:
        _color_bar(ax, mesh, em, colors.ink)
    ax.tick_params(axis="x", labelsize=min(em, axes_size(ax)[0] / len(chosen) / 1.25))
    return ax


def _color_bar(ax: Axes, mesh: QuadMesh, em: float, ink: str) -> None:
    width, height = axes_size(ax)
    shrink, pad = min(1.0, 14 * em / height), min(1.2 * em / width, 0.3)
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=shrink, aspect=12, pad=pad, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0", "0.5", "1"])
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
        raise ValueError("The control has no targets: pass conditions= with at least one perturbation.")
    rank = table["perturbation"].map({name: i for i, name in enumerate(table["perturbation"].unique())})
    order = np.lexsort((table["dose"].fillna(-np.inf), rank))
    return table.iloc[order].reset_index(drop=True)


def _gene_order(probability: pd.DataFrame) -> list[str]:
    """Genes by hierarchical clustering of their columns; those never probable targets at the end."""
    high = probability.max(axis=0) >= 0.5
    likely, rest = probability.loc[:, high], probability.loc[:, ~high]
    if likely.shape[1] > 2:
        tree = linkage(likely.to_numpy().T, method="average", optimal_ordering=True)
        likely = likely.iloc[:, leaves_list(tree)]
    if likely.shape[1] > 1:  # start with the genes of the first rows
        weight = likely.to_numpy()
        row = np.arange(len(likely)) @ weight / weight.sum(axis=0)
        if np.polyfit(np.arange(len(row)), row, 1)[0] < 0:
            likely = likely.iloc[:, ::-1]
    rest = rest.iloc[:, np.argsort(-rest.max(axis=0).to_numpy(), kind="stable")]
    return [*likely.columns, *rest.columns]


def _row_text(rows: pd.DataFrame, unit: str) -> tuple[list[str], list[tuple[str, int, int]]]:
    """Labels of the rows; name, first row and last row + 1 of each block of doses of one perturbation."""
    runs = (rows["perturbation"] != rows["perturbation"].shift()).cumsum()
    labels, blocks = [""] * len(rows), []
    for _, run in rows.groupby(runs):
        if run["dose"].isna().any():
            names = run["condition"].map(shorten).tolist()
        else:
            names = [format_dose(dose, unit) for dose in run["dose"]]
            blocks.append((shorten(run["perturbation"].iloc[0]), int(run.index[0]), int(run.index[-1]) + 1))
        held_out = run["split"] == "test"
        for i, name, out in zip(run.index, names, held_out, strict=True):
            labels[i] = f"{name} (held out)" if out else name
    return labels, blocks


def _row_labels(ax: Axes, rows: pd.DataFrame, unit: str, em: float, ink: str) -> None:
    """Doses next to the rows, perturbations outside them, beside a line that spans their rows."""
    labels, blocks = _row_text(rows, unit)
    ax.set_yticks(np.arange(len(rows)) + 0.5, labels)
    size = min(em, axes_size(ax)[1] / len(rows) / 1.25)
    ax.tick_params(axis="y", labelsize=size, length=0, pad=3)
    offset = max(text_width(label, size) for label in labels) + 3 + 0.8 * em
    for name, start, stop in blocks:
        if start > 0:
            ax.axhline(start, color=ink, linewidth=0.6, gid="separator")
        span = ax.plot([0, 0], [start + 0.15, stop - 0.15], color=ink, linewidth=0.8, clip_on=False, gid="block")
        span[0].set_transform(_beside(ax, offset))
        text = ax.text(0, (start + stop) / 2, name, ha="right", va="center", size=1.08 * size, color=ink)
        text.set(transform=_beside(ax, offset + 0.5 * em), gid="perturbation")


def _beside(ax: Axes, points: float) -> Transform:
    """x: `points` left of the axes; y: data."""
    shift = ScaledTranslation(-points / 72, 0, ax.figure.dpi_scale_trans)
    return blended_transform_factory(ax.transAxes, ax.transData) + shift


def _new_axes(shape: tuple[int, int], rows: pd.DataFrame, label_width: float, unit: str, em: float) -> Axes:
    """A figure in which every row and column has room for its label."""
    labels, blocks = _row_text(rows, unit)
    left = max(text_width(label, em) for label in labels)
    left += max((text_width(name, 1.08 * em) for name, *_ in blocks), default=0.0) + 2 * em
    width = left + shape[1] * _COLUMN * em + 9 * em
    height = label_width + max(shape[0] * _ROW, 10) * em + em
    _, ax = plt.subplots(figsize=(width / 72, height / 72), layout="constrained")
    return ax
