"""Cells of an AnnData, for the genes and conditions that a figure shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scgim._validation import listing
from scgim.get._results import check_known
from scgim.slots import Entry


def expression(adata: ad.AnnData, cells: np.ndarray, genes: Sequence[str]) -> np.ndarray:
    """Dense expression of `genes` in the cells where the mask `cells` is true, (cells, genes)."""
    columns = adata.var_names.get_indexer(list(genes))
    values = adata[np.flatnonzero(cells), columns].to_memory().X
    return np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=float)


def cells_of(adata: ad.AnnData, slots: Entry, conditions: Iterable[str]) -> np.ndarray:
    """Mask of the cells under one of `conditions`, (cells,); a ValueError where they are not what was prepared."""
    codes = slots.codes(adata)
    chosen = np.isin(codes, [slots.labels.index(label) for label in conditions if label in slots.labels])
    slots.read_cells(adata, np.flatnonzero(chosen), codes)
    return chosen


def control_cells(adata: ad.AnnData, slots: Entry) -> np.ndarray:
    """Mask of the cells without an intervention, (cells,)."""
    table = slots.conditions
    return cells_of(adata, slots, table.loc[table["is_control"], "condition"])


def predicted_labels(predicted: ad.AnnData, column: str = "condition") -> pd.Series:
    """A column of the sampled cells' `obs`, with an error where it is missing."""
    if column not in predicted.obs:
        raise KeyError(
            f"predicted.obs['{column}'] is missing (found {listing(predicted.obs.columns)}): "
            "predicted is the AnnData that scgim.tl.sample_cells returns."
        )
    return predicted.obs[column]


def require_genes(predicted: ad.AnnData, genes: Sequence[str]) -> None:
    """Raise ValueError unless the sampled cells have all `genes`."""
    lost = [gene for gene in genes if gene not in predicted.var_names]
    if lost:
        raise ValueError(
            f"predicted lacks the modelled genes {listing(lost)}: sample it from this fit (same key and group)."
        )


def choose_genes(
    genes: str | Iterable[str] | None, available: Sequence[str], change: pd.Series, n_genes: int
) -> list[str]:
    """The genes asked for, or the `n_genes` with the largest `change` (indexed by gene), largest first."""
    if genes is not None:
        return check_known(genes, available, "gene")
    if n_genes < 1:
        raise ValueError(f"n_genes must be at least 1, not {n_genes}.")
    return change.sort_values(ascending=False, kind="stable").index[:n_genes].tolist()


def expression_label(slots: Entry) -> str:
    """Axis label of `adata.X`."""
    return "Value" if slots.arguments.get("input") == "continuous" else "Expression (log1p)"
