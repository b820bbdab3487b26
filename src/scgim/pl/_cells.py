"""Cells of an AnnData, for the genes and conditions that a figure shows, and what these genes are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scgim._errors import InvalidValue, NotFound
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


def gene_labels(adata: ad.AnnData, genes: Sequence[str], gene_symbols: str | None) -> pd.Series:
    """What each gene is called in the figure, by its name: that name, or its entry in a column of `adata.var`."""
    names = pd.Series(genes, index=genes, dtype=object)
    if gene_symbols is None:
        return names
    if gene_symbols not in adata.var:
        raise NotFound(
            f"gene_symbols: adata.var[{gene_symbols!r}] is missing (found {listing(adata.var.columns)}); it is the "
            "column to label genes by."
        )
    symbols = adata.var[gene_symbols].astype(object)[list(genes)]
    return symbols.where(symbols.notna() & (symbols != ""), names).astype(str)


def find_genes(asked: str | Iterable[str], labels: pd.Series) -> list[str]:
    """Names of the genes asked for by their name or their label; a ValueError where one is unknown."""
    known = check_known(asked, list(dict.fromkeys([*labels.index, *labels])), "gene")
    found = [labels.index[(labels.index == name) | (labels == name).to_numpy()] for name in known]
    return list(dict.fromkeys(gene for genes in found for gene in genes))


def choose_genes(asked: str | Iterable[str] | None, labels: pd.Series, change: np.ndarray, n_genes: int) -> list[str]:
    """The genes asked for, or the `n_genes` with the largest `change` (genes,), largest first."""
    if asked is not None:
        return find_genes(asked, labels)
    if n_genes < 1:
        raise InvalidValue(f"n_genes must be at least 1, not {n_genes}.")
    return labels.index[np.argsort(-change, kind="stable")[:n_genes]].tolist()


def expression_label(slots: Entry) -> str:
    """Axis label of `adata.X`."""
    return "Value" if slots.arguments.get("input") == "continuous" else "Expression (log1p)"
