"""Names that a user asks for, and the tables of a fit that are handed out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anndata as ad
import numpy as np
import pandas as pd

from scgim._validation import listing, suggestion
from scgim.slots import Entry


def check_known(names: str | Iterable[str], available: Sequence[str], what: str) -> list[str]:
    """The requested names as a list without repetitions; a ValueError where one is unknown, or none is given.

    `what` a name stands for, in the singular ("gene").
    """
    asked = list(dict.fromkeys([names] if isinstance(names, str) else [str(name) for name in names]))
    if not asked:
        raise ValueError(f"No {what} was given; valid names are {listing(available)}.")
    known = set(available)
    unknown = [name for name in asked if name not in known]
    if unknown:
        hint = suggestion(unknown[0], available)
        known_names = f"Valid names are {listing(available)}."
        if what == "gene":
            known_names = f"Modelled genes are {listing(available)}; pp.prepare takes others as genes=."
        raise ValueError(f"Unknown {what} {listing(unknown)}.{hint} {known_names}")
    return asked


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
