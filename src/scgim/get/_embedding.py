"""Control, observed and predicted cells in two dimensions."""

from __future__ import annotations

from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd

from scgim._errors import InvalidValue
from scgim._rng import RngLike, as_generator
from scgim._validation import check_choice, check_int
from scgim.slots import read_entry

from ._cells import cells_of, expression, one_condition, predicted_labels, require_genes
from ._results import genes_of

#: Principal components that neighbours are looked for in, at most.
_COMPONENTS = 20
_NEIGHBOURS = 15


def embedding(
    adata: ad.AnnData,
    predicted: ad.AnnData,
    *,
    condition: str | None = None,
    method: Literal["pca", "umap"] = "pca",
    n_cells: int = 500,
    rng: RngLike = 0,
    key: str = "gim",
    group: str | None = None,
) -> pd.DataFrame:
    """Control, observed and predicted cells of one condition in two dimensions.

    The principal components are those of the control and the observed cells: predicted cells are projected, and cannot
    turn the axes towards themselves. UMAP (by scanpy) sees all cells, in at most 20 of these components.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    predicted
        Cells from `tl.sample_cells`, or of any other method: the modelled genes, and `obs["condition"]`.
    condition
        Label of the condition; may be left out where `predicted` holds one.
    method
        `"pca"` keeps distances and directions; `"umap"` keeps neighbourhoods only.
    n_cells
        As many cells of each kind, drawn at random, at most.
    rng
        Seed or generator of that draw and of UMAP.
    key, group
        Which fit.

    Returns
    -------
    pandas.DataFrame
        One row per cell: `source` (`"control"`, `"observed"`, `"predicted"`), `condition`, and the coordinates `x` and
        `y`; ``.attrs["variance"]`` holds the fractions of variance that two principal components explain.

    Raises
    ------
    KeyError
        If there is no fit under `key`, or `predicted` has no column `condition`.
    ValueError
        If the condition is unknown or has to be chosen, fewer than two genes are modelled, or an argument is not one
        of the above.

    Examples
    --------
    >>> scgim.get.embedding(adata, new, method="umap").to_csv("cells.csv")  # doctest: +SKIP
    """
    check_choice(method, "method", ("pca", "umap"))
    check_int(n_cells, "n_cells", least=2)
    generator = as_generator(rng)
    slots = read_entry(adata, key, group, fitted=True)
    genes = genes_of(adata, slots)
    if len(genes) < 2:
        raise InvalidValue("Two dimensions need two genes at least, and one is modelled.")
    condition = one_condition(predicted, condition)
    require_genes(predicted, genes)
    chosen = (predicted_labels(predicted).astype(str) == condition).to_numpy()
    sources = {
        "control": (adata, cells_of(adata, slots, [slots.control])),
        "observed": (adata, cells_of(adata, slots, [condition])),
        "predicted": (predicted, chosen),
    }
    if condition == slots.control:
        del sources["observed"]  # these are the control cells
    values, labels, names = [], [], []
    for source, (cells, mask) in sources.items():
        rows = np.flatnonzero(mask)
        rows = np.sort(generator.choice(rows, min(int(n_cells), len(rows)), replace=False))
        values.append(expression(cells, np.isin(np.arange(cells.n_obs), rows), genes))
        labels += [source] * len(rows)
        names += cells.obs_names[rows].tolist()
    x, kinds = np.vstack(values), np.array(labels)
    scores, variance = _components(x, kinds != "predicted")
    xy = scores if method == "pca" else _umap(scores, int(generator.integers(2**31)))
    table = pd.DataFrame({"source": kinds, "condition": condition, "x": xy[:, 0], "y": xy[:, 1]}, index=names)
    table.loc[table["source"] == "control", "condition"] = slots.control
    table.attrs["variance"] = variance[:2].tolist()
    return table


def _components(x: np.ndarray, fitted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All cells in the principal components of the cells `fitted`, and the fractions of variance these explain."""
    center = x[fitted].mean(axis=0)
    _, size, axes = np.linalg.svd(x[fitted] - center, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])  # the sign of a component is arbitrary
    return (x - center) @ (axes * signs[:, None]).T[:, :_COMPONENTS], size**2 / max((size**2).sum(), 1e-12)


def _umap(scores: np.ndarray, seed: int) -> np.ndarray:
    """Two dimensions by scanpy's UMAP, (cells, 2)."""
    import scanpy as sc

    cells = ad.AnnData(scores.astype(np.float32))
    sc.pp.neighbors(cells, n_neighbors=min(_NEIGHBOURS, len(scores) - 1), use_rep="X", random_state=seed)
    sc.tl.umap(cells, random_state=seed)
    return np.asarray(cells.obsm["X_umap"])
