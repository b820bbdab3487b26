"""Parts of a fit that are handed to people."""

from __future__ import annotations

from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd

from scgim.slots import Entry


def genes_of(adata: ad.AnnData, entry: Entry) -> list[str]:
    """Names of the graph's nodes, in the order of `adata.var`; a ValueError where some are not there any more."""
    return adata.var_names[np.sort(entry.positions(adata))].astype(str).tolist()


def stored_table(entry: Entry, name: str, columns: Sequence[str], *, others: bool = False) -> pd.DataFrame:
    """A table of the fit with these columns (and others, if asked for); a KeyError where they are gone."""
    table = entry.uns.get(name)
    if not isinstance(table, pd.DataFrame) or not set(columns) <= set(table.columns):
        raise KeyError(
            f"adata.uns[{entry.keys.uns!r}][{name!r}] is missing or lacks one of {', '.join(columns)}: it was changed. "
            "Read the original file, or run scgim.tl.fit_gim again."
        )
    return table if others else table[list(columns)]
