"""Normalisation: every cell to the median total count of the control cells, then log(x + 1), with scanpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._logging import logger
from .markers import quiet

#: Fewest counts per cell in Schneider et al. (2025), for a whole transcriptome.
PAPER_MIN_COUNTS = 200
#: So many genes or fewer are a panel, or a choice of genes (own).
PANEL = 2_000


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


@dataclass(frozen=True)
class Depth:
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
    if kind == "counts" and min_counts == "auto":
        min_counts = _least_counts(total[labelled & (total > 0)], matrix.shape[1])
    if kind == "counts":
        with quiet():
            enough, _ = sc.pp.filter_cells(AnnData(X=matrix), min_counts=min_counts, inplace=False)
        return Depth(total, np.asarray(enough, dtype=bool)), min_counts
    return Depth(total, total > 0 if kind == "log1p" else np.ones(len(total), dtype=bool)), min_counts


def _least_counts(total: np.ndarray, n_genes: int) -> int:
    """`min_counts="auto"`: the paper's, or a quarter of the median where a panel of genes has fewer counts (own)."""
    if n_genes > PANEL or not total.size:
        return PAPER_MIN_COUNTS
    least = int(np.clip(np.median(total) // 4, 1, PAPER_MIN_COUNTS))
    logger.info(
        "min_counts=%d, from the median of %g counts per cell: %d genes are a panel, not a whole transcriptome.",
        least,
        np.median(total),
        n_genes,
    )
    return least


def take_rows(matrix: Any, rows: np.ndarray) -> Any:
    """Some rows as a new matrix; CSR where it is sparse."""
    return matrix.tocsr()[rows] if sp.issparse(matrix) else matrix[rows]


def normalise(matrix: Any, blocks: list[tuple[np.ndarray, float]]) -> Any:
    """log1p of counts, each block of cells normalised to a total of its own.

    Parameters
    ----------
    matrix
        (cells, genes) counts; left as it is.
    blocks
        Pairs of cell indices and the total to which these cells are normalised; together, every cell once.

    Returns
    -------
    A new matrix of the same kind (dense, CSR, CSC), float32 unless the counts are float64.
    """
    import scanpy as sc
    from anndata import AnnData

    pieces = []
    for rows, total in blocks:
        values = take_rows(matrix, rows)
        if sp.issparse(values):  # scanpy multiplies, which means something else for scipy's sparse arrays
            values = sp.csr_matrix(values)
        work = AnnData(X=values if values.dtype == np.float64 else values.astype(np.float32))
        with quiet():
            sc.pp.normalize_total(work, target_sum=total)
            sc.pp.log1p(work)
        pieces.append(work.X)
    back = np.argsort(np.concatenate([rows for rows, _ in blocks]), kind="stable")
    in_order = bool((back == np.arange(len(back))).all())
    if not sp.issparse(matrix):
        stacked = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return stacked if in_order else stacked[back]
    stacked = pieces[0] if len(pieces) == 1 else sp.vstack(pieces, format="csr")
    if not in_order:
        stacked = stacked[back]
    if isinstance(matrix, sp.sparray):
        stacked = sp.csr_array(stacked)
    return stacked.tocsc() if matrix.format == "csc" else stacked
