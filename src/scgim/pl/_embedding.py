"""Control, observed and predicted cells on one map."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import anndata as ad
from matplotlib.axes import Axes

import scgim.get as get
from scgim._rng import RngLike
from scgim.slots import read_entry

from . import _style as st

#: How the cells of each source are drawn, in this order: marker, size, opacity. Shapes tell them apart, too.
_LOOKS = {"control": ("o", 9, 0.45), "predicted": ("x", 10, 0.7), "observed": ("o", 14, 1.0)}


def embedding(
    adata: ad.AnnData,
    predicted: ad.AnnData,
    *,
    condition: str | None = None,
    method: Literal["pca", "umap"] = "pca",
    n_cells: int = 500,
    rng: RngLike = 0,
    title: bool = True,
    legend: bool = True,
    ax: Axes | None = None,
    save: str | Path | None = None,
    key: str = "gim",
    group: str | None = None,
) -> Axes:
    """Control, observed and predicted cells of one condition on one map: do predicted cells lie among the observed?

    The principal components are those of the control and the observed cells, and predicted cells are projected into
    them. Two dimensions show little of what fifty genes do: `tl.evaluate` says how near the cells are.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    predicted
        Cells from `tl.sample_cells`, or of any other method.
    condition
        Label of the condition to show; may be left out where `predicted` holds one.
    method
        `"pca"` keeps distances and directions; `"umap"` (by scanpy) keeps neighbourhoods only.
    n_cells
        As many cells of each kind, drawn at random, at most.
    rng
        Seed or generator of that draw and of UMAP.
    title, legend
        Whether to name the condition above the figure, and to draw the legend.
    ax, save
        Axes to draw into (None makes a new figure), and a file to write the figure to.
    key, group
        Which fit.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; the table behind them is `scgim.get.embedding`.

    Raises
    ------
    KeyError
        If there is no fit under `key`, or `predicted` has no column `condition`.
    ValueError
        If the condition is unknown or has to be chosen, fewer than two genes are modelled, or an argument is not one
        of the above.

    Examples
    --------
    >>> scgim.pl.embedding(adata, new, method="umap")  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    which: dict[str, Any] = {"condition": condition, "method": method, "key": key, "group": group}
    table = get.embedding(adata, predicted, n_cells=n_cells, rng=rng, **which)
    grid = st.make_panels(1, ax=ax, n_cols=1, size=(36, 26), min_width=41)
    ax = grid.axes[0]
    colors = st.palette(ax)
    st.clean(ax)
    for source, (marker, size, opacity) in _LOOKS.items():
        cells = table[table["source"] == source]
        if len(cells):
            look: dict[str, Any] = {"marker": marker, "s": size, "alpha": opacity, "color": getattr(colors, source)}
            look |= {"linewidths": 0.8, "label": f"{source} (n = {len(cells):,})"}
            look |= {} if marker == "x" else {"edgecolors": colors.paper}
            ax.scatter(cells["x"], cells["y"], gid=source, **look)
    names = [f"PC{i + 1} ({share:.0%})" for i, share in enumerate(table.attrs["variance"])]
    for axis, name in zip((ax.xaxis, ax.yaxis), names if method == "pca" else ["UMAP1", "UMAP2"], strict=True):
        axis.set_label_text(name, fontsize=st.font_size(0.9))
    if method == "umap":  # its units mean nothing
        ax.set_xticks([])
        ax.set_yticks([])
    shown = table.loc[table["source"] == "predicted", "condition"].iloc[0]
    grid.header(legend, title=st.condition_title(slots.conditions, shown, slots.dose_unit) if title else "")
    return st.finish(ax, save)
