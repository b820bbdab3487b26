"""Cells of an AnnData, observed and predicted, for genes and conditions that are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scgim._errors import InvalidValue, NotFound
from scgim._validation import listing
from scgim.slots import Entry

from ._results import check_known


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


def predicted_labels(predicted: ad.AnnData, column: str = "condition") -> pd.Series:
    """A column of the sampled cells' `obs`, with an error where it is missing."""
    if column not in predicted.obs:
        raise NotFound(
            f"predicted.obs['{column}'] is missing (found {listing(predicted.obs.columns)}): "
            "predicted is the AnnData that scgim.tl.sample_cells returns."
        )
    return predicted.obs[column]


def require_genes(predicted: ad.AnnData, genes: Sequence[str]) -> None:
    """Raise ValueError unless the sampled cells have all `genes`."""
    lost = [gene for gene in genes if gene not in predicted.var_names]
    if lost:
        raise InvalidValue(
            f"predicted lacks the modelled genes {listing(lost)}: sample it from this fit (same key and group)."
        )


def one_condition(predicted: ad.AnnData, condition: str | None) -> str:
    """The condition that is asked for, or the only one that `predicted` holds."""
    labels = predicted_labels(predicted).astype(str).drop_duplicates().tolist()
    if condition is not None:
        return check_known(condition, labels, "condition of predicted")[0]
    if len(labels) != 1:
        raise InvalidValue(f"predicted holds {len(labels)} conditions: pass condition= one of {listing(labels)}.")
    return labels[0]
