"""Expression: the matrix that is modelled, its normalisation with scanpy, and the genes that are chosen from it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import InvalidValue, NotFound
from .._logging import logger
from .._process import require_numba
from .._validation import check_values, holds_counts, listing, plural, suggestion
from ..slots.keys import COUNTS_LAYER

if TYPE_CHECKING:
    from anndata import AnnData

#: Fewest counts per cell in Schneider et al. (2025), for a whole transcriptome.
PAPER_MIN_COUNTS = 200
#: So many genes or fewer are a panel, or a choice of genes (own).
PANEL = 2_000
_MANY_GENES = 500


def read_matrix(adata: AnnData, layer: str | None, kind: str) -> Any:
    """The values to model, in memory, checked to be what `kind` says; (cells, genes)."""
    # From anndata 0.13 on, `adata.layers` also lists X, under None.
    layers = sorted(name for name in adata.layers if name is not None)
    if layer is None:
        where, values = "adata.X", adata.X
        if values is None:
            raise InvalidValue(f"adata.X is empty (None). Pass layer=; the layers are {listing(layers)}.")
    else:
        if layer not in layers:
            raise NotFound(
                f"layer={layer!r} is not in adata.layers.{suggestion(layer, layers)} The layers are: "
                f"{listing(layers)}. Pass one of them, or leave layer out to use adata.X."
            )
        where, values = f"adata.layers[{layer!r}]", adata.layers[layer]
    matrix = as_matrix(values)
    if adata.is_view and isinstance(matrix, np.ndarray):
        matrix = matrix.copy()  # it may share memory with the parent, and is to be stored

    def where_counts() -> str:
        holding = [name for name in layers if holds_counts(adata.layers[name])]
        if holding:
            return f"Pass layer={holding[0]!r}, which does"
        if adata.raw is None or not holds_counts(adata.raw.X[:]):
            return ""
        if adata.var_names.isin(adata.raw.var_names).all():
            return "adata.raw does: adata.layers['raw'] = adata.raw[:, adata.var_names].X, then pass layer='raw'"
        return "adata.raw does: adata = adata.raw.to_adata(), then prepare that"

    names = {"cells": adata.obs_names, "genes": adata.var_names}
    check_values(matrix, where, kind=kind, **names, raw_counts=where_counts)
    if kind == "counts" and layer != COUNTS_LAYER and COUNTS_LAYER in layers:
        stored = as_matrix(adata.layers[COUNTS_LAYER])
        if sp.issparse(stored) or sp.issparse(matrix):
            differs = (sp.csr_matrix(stored) != sp.csr_matrix(matrix)).nnz > 0
        else:
            differs = not np.array_equal(stored, matrix)
        if differs:
            raise InvalidValue(
                f"adata.layers[{COUNTS_LAYER!r}] exists and differs from the counts in {where}, which prepare would "
                f"store there. Pass layer={COUNTS_LAYER!r} to use it, or rename that layer."
            )
    return matrix


def as_matrix(values: Any) -> Any:
    """A plain CSR, CSC or dense array in memory, from a view, a Dask array or a sparse array class."""
    if hasattr(values, "dask") and hasattr(values, "compute"):
        values = values.compute()
    if not sp.issparse(values):
        return np.asarray(values)
    if values.format not in ("csr", "csc"):
        values = values.tocsr()
    if not values.has_canonical_format:  # the same entry twice would be counted twice
        values = values.copy()
        values.sum_duplicates()
    return values


@contextmanager
def _scanpy(failed: str = "failed", remedy: str = "") -> Iterator[None]:
    """Run scanpy: its and anndata's warnings about temporary objects are not for the user, its errors are explained."""
    require_numba()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            yield
        except ValueError as error:
            raise InvalidValue(f"scanpy {failed} ({error}). {remedy}".rstrip()) from error


class Depth(NamedTuple):
    """How much was measured of each cell."""

    total: np.ndarray  # (cells,) total of its values
    enough: np.ndarray  # (cells,) bool: it is kept


def measure_depth(matrix: Any, kind: str, min_counts: int | str, labelled: np.ndarray) -> tuple[Depth, int | str]:
    """Total of each cell and whether it suffices, and the `min_counts` that was used.

    Counts need `min_counts`; of log-normalised data only cells without any value are left out; continuous
    data are kept. `labelled`, (cells,) bool: the cells that `"auto"` looks at.
    """
    import scanpy as sc
    from anndata import AnnData

    total = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    if kind != "counts":
        return Depth(total, total > 0 if kind == "log1p" else np.ones(len(total), dtype=bool)), min_counts
    if min_counts == "auto":
        min_counts = _least_counts(total[labelled & (total > 0)], matrix.shape[1])
    with _scanpy():
        enough, _ = sc.pp.filter_cells(AnnData(X=matrix), min_counts=min_counts, inplace=False)
    return Depth(total, np.asarray(enough, dtype=bool)), min_counts


def _least_counts(total: np.ndarray, n_genes: int) -> int:
    """`min_counts="auto"`: the paper's, or a quarter of the median where a panel of genes has fewer counts (own)."""
    if n_genes > PANEL or not total.size:
        return PAPER_MIN_COUNTS
    least = int(np.clip(np.median(total) // 4, 1, PAPER_MIN_COUNTS))
    logger.info(
        f"min_counts={least}, from the median of {np.median(total):g} counts per cell: {plural(n_genes, 'gene')} "
        "make a panel, not a whole transcriptome."
    )
    return least


def take_rows(matrix: Any, rows: np.ndarray) -> Any:
    """Some rows as a new matrix; CSR where it is sparse."""
    return matrix.tocsr()[rows] if sp.issparse(matrix) else matrix[rows]


def normalise(matrix: Any, blocks: list[tuple[np.ndarray, float]]) -> Any:
    """log1p of (cells, genes) counts, each block of cells normalised to a total of its own.

    `blocks`: pairs of cell indices and total; together, every cell once. A new matrix of the same kind (dense, CSR,
    CSC), float32 unless the counts are float64.
    """
    import scanpy as sc
    from anndata import AnnData

    pieces = []
    for rows, total in blocks:
        values = take_rows(matrix, rows)
        if sp.issparse(values):  # scanpy multiplies, which means something else for scipy's sparse arrays
            values = sp.csr_matrix(values)
        work = AnnData(X=values if values.dtype == np.float64 else values.astype(np.float32))
        with _scanpy():
            sc.pp.normalize_total(work, target_sum=total)
            sc.pp.log1p(work)
        pieces.append(work.X)
    back = np.argsort(np.concatenate([rows for rows, _ in blocks]), kind="stable")
    stacked = pieces[0]
    if len(pieces) > 1:
        stacked = sp.vstack(pieces, format="csr") if sp.issparse(matrix) else np.concatenate(pieces)
    if (back != np.arange(len(back))).any():
        stacked = stacked[back]
    if isinstance(matrix, sp.sparray):
        stacked = sp.csr_array(stacked)
    return stacked.tocsc() if sp.issparse(matrix) and matrix.format == "csc" else stacked


def check_genes(genes: Any, var_names: pd.Index) -> np.ndarray | None:
    """(genes,) bool: those that the user named; None if scgim is to choose."""
    if genes is None or (isinstance(genes, str) and genes == "all"):
        return None
    if isinstance(genes, str):
        raise InvalidValue(f'genes={genes!r} is unknown; pass None (markers), "all" or a list of gene names.')
    names = [str(gene) for gene in genes]
    positions = var_names.get_indexer(pd.Index(names, dtype=object))
    missing = [name for name, at in zip(names, positions, strict=True) if at < 0]
    if missing:
        raise NotFound(
            f"genes: {len(missing)} of {len(names)} are not in adata.var_names: {listing(missing)}."
            f"{suggestion(missing[0], var_names)} Leave them out, or name genes as adata.var_names does "
            f"(such as {listing(var_names[:3])})."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidValue(f"genes: {listing(repeated)} occur more than once. Name each gene once.")
    if len(names) < 2:
        raise InvalidValue(f"genes: a graph needs at least 2 genes, got {listing(names)}.")
    return np.isin(np.arange(len(var_names)), positions)


class Markers(NamedTuple):
    """Chosen genes of one group."""

    chosen: np.ndarray  # (genes,) bool
    score: np.ndarray  # (genes,) float, NaN where no score was computed
    n_expressed: int  # genes in enough cells
    n_variable: int  # of those, highly variable


def choose_markers(
    matrix: Any, var_names: pd.Index, perturbed: np.ndarray, arguments: Mapping[str, Any], where: str
) -> Markers:
    """Choose the modelled genes from the training cells of one group.

    `matrix`: their (cells, genes) log-normalised or continuous values; `perturbed`, (cells,) bool: not a control;
    `arguments` of `prepare`; `where`: which group this is, for messages.
    """
    from anndata import AnnData

    cells = pd.DataFrame({"group": pd.Categorical(np.where(perturbed, "perturbed", "control"))})
    cells.index = cells.index.astype(str)
    work = AnnData(X=matrix, obs=cells, var=pd.DataFrame(index=pd.Index(var_names, dtype=object)))
    candidates = _enough_cells(work, arguments, where)
    n_expressed = int(candidates.sum())
    counted, genes = arguments["input"] != "continuous", arguments["genes"]
    if genes is None and counted and n_expressed > arguments["n_top_genes"]:
        candidates = _highly_variable(work, candidates, arguments["n_top_genes"], where)
    n_variable = int(candidates.sum())
    if counted:
        candidates = _without_silent(work, candidates, arguments, where)
    score = np.full(len(var_names), np.nan)
    at = _by_name(candidates, var_names)
    score[at] = _scores(work[:, at], where)
    chosen = candidates.copy()
    if genes is None:
        # Ties (and genes in another order) are settled by name.
        order = np.lexsort((np.asarray(var_names, dtype=str), -np.nan_to_num(np.abs(score), nan=-1.0)))
        chosen[:] = False
        chosen[order[: min(arguments["n_genes"], int(candidates.sum()))]] = True
    if chosen.sum() > _MANY_GENES:
        logger.warning(
            f"{chosen.sum()} genes{where} are to be modelled; with more than {_MANY_GENES} a fit takes long."
        )
    return Markers(chosen, score, n_expressed, n_variable)


def _enough_cells(work: AnnData, arguments: Mapping[str, Any], where: str) -> np.ndarray:
    """(genes,) bool: named, or in enough cells."""
    import scanpy as sc

    genes, min_cells = arguments["genes"], arguments["min_cells"]
    named = check_genes(genes, work.var_names)
    candidates, remedy = np.ones(work.n_vars, dtype=bool), "Raise min_cells to at least 1."
    if named is not None:
        candidates, remedy = named, "Leave them out of genes=."
    elif arguments["input"] != "continuous" and min_cells > 0:
        with _scanpy():
            candidates, _ = sc.pp.filter_genes(work, min_cells=min_cells, inplace=False)
    empty = candidates & ~_expressed(work.X) if genes is not None else np.zeros(0, dtype=bool)
    if empty.any():
        names = listing(work.var_names[empty])
        raise InvalidValue(f"These genes are zero in every training cell{where}: {names}. {remedy}")
    if candidates.sum() < 2:
        raise InvalidValue(
            f"Only {plural(int(candidates.sum()), 'gene')} in at least min_cells={min_cells} training cells{where}; a "
            "graph needs at least 2. Lower min_cells."
        )
    return candidates


def _without_silent(work: AnnData, candidates: np.ndarray, arguments: Mapping[str, Any], where: str) -> np.ndarray:
    """Leave out, or refuse, genes that are zero in every control cell."""
    silent = candidates & ~_expressed(work.X[np.flatnonzero(work.obs["group"] == "control")])
    if not silent.any():
        return candidates
    names = listing(work.var_names[silent])
    if arguments["silent_genes"] == "error" and check_genes(arguments["genes"], work.var_names) is not None:
        raise InvalidValue(
            f"These genes are zero in every control cell{where}, so that their unperturbed mechanism cannot be "
            f'learned: {names}. Leave them out of genes=, or pass silent_genes="drop".'
        )
    logger.info(f"left out{where}, zero in every control cell: {names}")
    candidates = candidates & ~silent  # not in place: the array may be that of a table
    if candidates.sum() < 2:
        raise InvalidValue(
            f"Fewer than 2 genes are expressed in any control cell{where}, so that no unperturbed mechanism can be "
            f"learned: {names} are zero in all of them. Name other genes with genes=."
        )
    return candidates


def _by_name(genes: np.ndarray, var_names: pd.Index) -> np.ndarray:
    """Places of these genes, (genes,) bool, in the order of their names: sums over genes then have one order too."""
    at = np.flatnonzero(genes)
    return at[np.argsort(np.asarray(var_names, dtype=str)[at], kind="stable")]


def _expressed(matrix: Any) -> np.ndarray:
    """(genes,) bool: any value other than zero."""
    if sp.issparse(matrix):
        return np.asarray((matrix != 0).sum(axis=0)).ravel() > 0
    return (matrix != 0).any(axis=0)


def _highly_variable(work: Any, candidates: np.ndarray, n_top_genes: int, where: str) -> np.ndarray:
    import scanpy as sc

    at = _by_name(candidates, work.var_names)
    remedy = "Raise n_top_genes to the number of genes, or name the genes with genes=."
    with _scanpy(f"found no highly variable genes{where}", remedy):
        found = sc.pp.highly_variable_genes(work[:, at].copy(), n_top_genes=n_top_genes, inplace=False)
    variable = candidates.copy()
    variable[at[~found["highly_variable"].to_numpy(dtype=bool)]] = False
    return variable


def _scores(work: Any, where: str) -> np.ndarray:
    """scanpy's `rank_genes_groups` score of each gene, perturbed against control; 0 where it is undefined."""
    import scanpy as sc

    work = work.copy()
    with _scanpy(f"could not score the genes{where}", "Name the genes with genes=."):
        sc.tl.rank_genes_groups(work, "group", groups=["perturbed"], reference="control", method="t-test")
    ranked = work.uns["rank_genes_groups"]
    scores = pd.Series(ranked["scores"]["perturbed"], index=ranked["names"]["perturbed"])
    return np.nan_to_num(scores.loc[list(work.var_names)].to_numpy(dtype=float))
