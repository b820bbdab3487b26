"""Which genes each condition targets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

import scgim.get as get
from scgim._errors import InvalidValue, NotFound
from scgim._validation import check_choice
from scgim.get._results import check_known, genes_of
from scgim.slots import Entry, read_entry

from . import _style as st
from ._genes import find_genes, gene_labels
from ._rows import cluster, color_bar, label_columns, label_rows, new_axes, sort_rows

_MOST_PROBABLE = 10  # genes shown where none is a target


def targets(
    adata: ad.AnnData,
    *,
    conditions: str | Iterable[str] | None = None,
    genes: str | Iterable[str] | None = None,
    gene_symbols: str | None = None,
    show: Literal["probability", "effect"] = "probability",
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
    show
        `"probability"` of each target, with its direction; or the `"effect"` of each called target against the control
        (log2 fold change of 1 + normalised counts; in units of `adata.X` for continuous data), the others blank.
    cmap
        Diverging colour map, from lowered to raised. None takes blue to orange.
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
        The heat map: its first collection holds probability times direction, or the effects, (conditions, genes).
        The table behind it is `scgim.get.targets`.

    Raises
    ------
    KeyError
        If there is no fit under `key`, or no column `gene_symbols`.
    ValueError
        If `show`, a condition or a gene is unknown, or only the control is left.

    Examples
    --------
    >>> scgim.pl.targets(adata, genes=["CDKN1A", "TXNIP"])  # doctest: +SKIP
    >>> scgim.pl.targets(adata, show="effect", save="effects.png")  # doctest: +SKIP
    """
    check_choice(show, "show", ("probability", "effect"))
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
    limit, label = 1.0, ""
    if show == "effect":
        size, label = effects(slots, table)
        wide = table.assign(size=size.astype(float)).pivot(index="condition", columns="gene", values="size")
        signed = wide.reindex(**shape).where(called)
        limit = float(np.nanmax(np.abs(signed[chosen].to_numpy()), initial=0.0)) or 1.0
    values, names = signed[chosen].to_numpy(), labels[chosen].tolist()

    em = st.font_size(0.85)
    if ax is None:
        ax, room = new_axes(values.shape, rows, names, slots.dose_unit, em)
        note = "\n".join(st.wrap_text(note, em, room))
    colors = st.palette(ax)
    shades = plt.get_cmap(cmap) if cmap is not None else st.diverging(colors)
    grid = st.blend(colors.ink, colors.paper, 0.12)
    mesh = ax.pcolormesh(values, cmap=shades, vmin=-limit, vmax=limit, edgecolors=grid, linewidth=0.4)
    ax.set_ylim(len(rows), 0)
    if show == "probability":
        where = np.argwhere(called[chosen].to_numpy())
        ink = [st.text_on(shades((values[i, j] + 1) / 2)) for i, j in where]
        ax.scatter(where[:, 1] + 0.5, where[:, 0] + 0.5, s=(0.42 * em) ** 2, c=ink, linewidths=0, gid="called")
    ax.spines[:].set_visible(False)
    label_columns(ax, names, note, em, colors.ink)
    label_rows(ax, rows, slots.dose_unit, em, colors.ink)
    if legend and show == "probability":
        bar = color_bar(ax, mesh, em, colors.ink, "Target probability\n(dot: called)", ticks=list(st.DIRECTION_TICKS))
        bar.ax.set_yticklabels(st.DIRECTION_TICKS.values())
    elif legend:
        color_bar(ax, mesh, em, colors.ink, f"{label}\n(blank: not called)")
    ax.tick_params(axis="x", labelsize=min(em, st.axes_size(ax)[0] / len(names) / 1.25))
    return st.finish(ax, save)


def effects(slots: Entry, table: pd.DataFrame) -> tuple[pd.Series, str]:
    """What the intervention makes of each target, against the control, and what that is called."""
    if slots.arguments.get("input") != "continuous":
        if "log2_fold_change" not in table:
            raise NotFound(
                f"adata.uns[{slots.keys.uns!r}]['targets'] has no column log2_fold_change: it was changed, or is of an "
                "older scgim. Run scgim.tl.fit_gim again."
            )
        return table["log2_fold_change"], "log2 fold change"
    shifted = slots.fitted["settings"]["intervention"] == "shift"
    return table["effect"] - (0.0 if shifted else table["control_mean"]), "Effect"


def _row_order(slots: Entry, conditions: str | Iterable[str] | None) -> pd.DataFrame:
    """Rows of the table of conditions without control, by perturbation (first seen first) and dose."""
    table = slots.conditions
    if conditions is not None:
        asked = check_known(conditions, table["condition"].tolist(), "condition")
        table = table[table["condition"].isin(asked)]
    table = table[~table["is_control"]]
    if table.empty:
        raise InvalidValue("The control has no targets: pass conditions= with at least one perturbation.")
    return sort_rows(table)


def _gene_order(signed: pd.DataFrame, called: pd.DataFrame) -> tuple[list[str], str]:
    """Genes that are targets, those with similar targets side by side, and a note on the others."""
    likely = signed.loc[:, called.any(axis=0).to_numpy()]
    n_all, n = signed.shape[1], likely.shape[1]
    if n == 0:
        most = signed.abs().max(axis=0).sort_values(ascending=False, kind="stable").index[:_MOST_PROBABLE].tolist()
        return most, f"No target called. Shown: the {len(most)} most probable of {n_all} genes"
    left_out = n_all - n
    note = f"{left_out} gene{'s' * (left_out > 1)} that no condition targets not shown" if left_out else ""
    return cluster(likely), note
