"""Which genes a figure shows, and what these are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anndata as ad
import numpy as np
import pandas as pd

from scgim._errors import InvalidValue, NotFound
from scgim._validation import listing
from scgim.get._results import check_known
from scgim.slots import Entry


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
