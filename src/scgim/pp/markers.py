"""Genes: the nodes of the graph, chosen by scanpy's markers of perturbed against control cells."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._logging import logger
from .._process import require_numba
from .._validation import listing, plural, suggestion

_MANY_GENES = 500


@dataclass(frozen=True)
class Markers:
    """Chosen genes of one group."""

    chosen: np.ndarray  # (genes,) bool
    score: np.ndarray  # (genes,) float, NaN where no score was computed
    n_expressed: int  # genes in enough cells
    n_variable: int  # of those, highly variable


@contextmanager
def quiet() -> Iterator[None]:
    """Run scanpy, and keep its and anndata's warnings about temporary objects from the user."""
    require_numba()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_genes(genes: Any, var_names: pd.Index) -> np.ndarray | None:
    """Indices of the genes that the user named, in the order of `var_names`; None if scgim is to choose.

    Raises
    ------
    KeyError
        If a gene does not exist.
    ValueError
        If a gene is named twice, or fewer than two are named.
    """
    if genes is None or (isinstance(genes, str) and genes == "all"):
        return None
    if isinstance(genes, str):
        raise ValueError(f'genes={genes!r} is unknown; pass None (markers), "all" or a list of gene names.')
    names = [str(gene) for gene in genes]
    positions = var_names.get_indexer(pd.Index(names, dtype=object))
    missing = [name for name, at in zip(names, positions, strict=True) if at < 0]
    if missing:
        raise KeyError(
            f"genes: {len(missing)} of {len(names)} are not in adata.var_names: {listing(missing)}."
            f"{suggestion(missing[0], var_names)} Leave them out, or name genes as adata.var_names does "
            f"(such as {listing(var_names[:3])})."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"genes: {listing(repeated)} occur more than once. Name each gene once.")
    if len(names) < 2:
        raise ValueError(f"genes: a graph needs at least 2 genes, got {listing(names)}.")
    return np.sort(positions)


def choose_markers(
    matrix: Any,
    var_names: pd.Index,
    perturbed: np.ndarray,
    *,
    kind: str,
    genes: Any,
    n_genes: int,
    n_top_genes: int,
    min_cells: int,
    silent_genes: str,
    where: str = "",
) -> Markers:
    """Choose the modelled genes from the training cells.

    Parameters
    ----------
    matrix
        (cells, genes) log-normalised (or continuous) values of the training cells of one group.
    var_names
        Names of the genes.
    perturbed
        (cells,) bool: the cell is not a control.
    kind
        The `input` of `prepare`: highly variable genes are a step for counts and log1p only.
    genes, n_genes, n_top_genes, min_cells, silent_genes
        As in `prepare`.
    where
        Named in errors: empty, or which group this is.
    """
    import scanpy as sc
    from anndata import AnnData

    named = check_genes(genes, var_names)
    cells = pd.DataFrame({"group": pd.Categorical(np.where(perturbed, "perturbed", "control"))})
    cells.index = cells.index.astype(str)
    work = AnnData(X=matrix, obs=cells, var=pd.DataFrame(index=pd.Index(var_names, dtype=object)))
    counted = kind != "continuous"
    if named is not None:
        candidates = np.isin(np.arange(len(var_names)), named)
        _refuse_empty(matrix, candidates, var_names, "Leave them out of genes=.", where)
    elif counted and min_cells > 0:
        with quiet():
            candidates, _ = sc.pp.filter_genes(work, min_cells=min_cells, inplace=False)
    else:
        candidates = np.ones(len(var_names), dtype=bool)
        if genes is not None:
            _refuse_empty(matrix, candidates, var_names, "Raise min_cells to at least 1.", where)
    n_expressed = int(candidates.sum())
    if n_expressed < 2:
        raise ValueError(
            f"Only {plural(n_expressed, 'gene')} in at least min_cells={min_cells} training cells{where}; a "
            "graph needs at least 2. Lower min_cells."
        )
    if genes is None and counted and n_expressed > n_top_genes:
        candidates = _highly_variable(work, candidates, n_top_genes, where)
    n_variable = int(candidates.sum())

    silent = candidates & ~_expressed(matrix[np.flatnonzero(~perturbed)]) if counted else np.zeros_like(candidates)
    if silent.any():
        if named is not None and silent_genes == "error":
            raise ValueError(
                f"These genes are zero in every control cell{where}, so that their unperturbed mechanism cannot be "
                f'learned: {listing(var_names[silent])}. Leave them out of genes=, or pass silent_genes="drop".'
            )
        logger.info("left out%s, zero in every control cell: %s", where, listing(var_names[silent]))
        candidates = candidates & ~silent  # not in place: the array may be that of a table
        if candidates.sum() < 2:
            raise ValueError(
                f"Fewer than 2 genes are expressed in any control cell{where}, so that no unperturbed mechanism can be "
                f"learned: {listing(var_names[silent])} are zero in all of them. Name other genes with genes=."
            )
    score = np.full(len(var_names), np.nan)
    at = by_name(candidates, var_names)
    score[at] = _scores(work[:, at], where)
    chosen = candidates.copy()
    if genes is None:
        # Ties (and genes in another order) are settled by name.
        order = np.lexsort((np.asarray(var_names, dtype=str), -np.nan_to_num(np.abs(score), nan=-1.0)))
        chosen[:] = False
        chosen[order[: min(n_genes, int(candidates.sum()))]] = True
    if chosen.sum() > _MANY_GENES:
        logger.warning("%d genes%s are to be modelled; beyond %d a fit takes long.", chosen.sum(), where, _MANY_GENES)
    return Markers(chosen, score, n_expressed, n_variable)


def by_name(genes: np.ndarray, var_names: pd.Index) -> np.ndarray:
    """Places of these genes, (genes,) bool, in the order of their names: sums over genes then have one order too."""
    at = np.flatnonzero(genes)
    return at[np.argsort(np.asarray(var_names, dtype=str)[at], kind="stable")]


def _expressed(matrix: Any) -> np.ndarray:
    """(genes,) bool: any value other than zero."""
    if sp.issparse(matrix):
        return np.asarray((matrix != 0).sum(axis=0)).ravel() > 0
    return (matrix != 0).any(axis=0)


def _refuse_empty(matrix: Any, candidates: np.ndarray, var_names: pd.Index, remedy: str, where: str) -> None:
    empty = candidates & ~_expressed(matrix)
    if empty.any():
        raise ValueError(f"These genes are zero in every training cell{where}: {listing(var_names[empty])}. {remedy}")


def _highly_variable(work: Any, candidates: np.ndarray, n_top_genes: int, where: str) -> np.ndarray:
    import scanpy as sc

    at = by_name(candidates, work.var_names)
    with quiet():
        try:
            found = sc.pp.highly_variable_genes(work[:, at].copy(), n_top_genes=n_top_genes, inplace=False)
        except ValueError as error:
            raise ValueError(
                f"scanpy found no highly variable genes{where} ({error}). Raise n_top_genes to the number "
                "of genes, or name "
                "the genes with genes=."
            ) from error
    variable = candidates.copy()
    variable[at[~found["highly_variable"].to_numpy(dtype=bool)]] = False
    return variable


def _scores(work: Any, where: str) -> np.ndarray:
    """scanpy's `rank_genes_groups` score of each gene, perturbed against control; 0 where it is undefined."""
    import scanpy as sc

    work = work.copy()
    with quiet(), np.errstate(all="ignore"):
        try:
            sc.tl.rank_genes_groups(work, "group", groups=["perturbed"], reference="control", method="t-test")
        except ValueError as error:
            raise ValueError(
                f"scanpy could not score the genes{where} ({error}). Name the genes with genes=."
            ) from error
    ranked = work.uns["rank_genes_groups"]
    scores = pd.Series(ranked["scores"]["perturbed"], index=ranked["names"]["perturbed"])
    return np.nan_to_num(scores.loc[list(work.var_names)].to_numpy(dtype=float))
