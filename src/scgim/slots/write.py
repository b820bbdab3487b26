"""Writing what a preparation keeps, and taking away what is no longer true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .cells import cell_hashes
from .entry import dense
from .foreign import owned
from .keys import FORMAT_VERSION, SPLITS, Keys
from .record import checksum, seal

if TYPE_CHECKING:
    from anndata import AnnData

#: Entries of `uns` that `tl.fit_gim` writes.
_FIT_ENTRIES = ("graph", "targets", "history")


def detach(adata: AnnData) -> None:
    """Turn a view into an AnnData of its own, before anything is written.

    Writing to `view.uns[...]` or `view.X` changes the parent; setting `obs` copies first.
    """
    if adata.is_view:
        adata.obs = adata.obs.copy()


def write_prepared(
    adata: AnnData,
    keys: Keys,
    uns: Mapping[str, Any],
    codes: np.ndarray,
    split: np.ndarray,
    genes: np.ndarray | None,
    score: np.ndarray | None,
    values: np.ndarray | None = None,
) -> None:
    """Write every slot of one group of cells, and the record from which they are read back.

    Parameters
    ----------
    adata
        Annotated data of its own, not a view.
    keys
        Slot names of the group.
    uns
        Entries of `uns`, in their storable form.
    codes, split
        (cells,) row of the table of conditions, and index into `SPLITS`; -1 for cells that are not modelled.
    genes, score
        (genes,) bool: the modelled genes, and their marker scores; None where they are not chosen yet.
    values
        (cells, modelled genes) of `adata.X`, where they were read before.
    """
    labels = uns["conditions"]["condition"].tolist()
    adata.obs[keys.condition] = pd.Categorical.from_codes(codes, categories=labels)
    adata.obs[keys.split] = pd.Categorical.from_codes(split, categories=list(SPLITS))
    names = cells = None
    if genes is not None:
        adata.var[keys.genes] = genes
        adata.var[keys.score] = score
        names = adata.var_names[genes].astype(str).to_numpy(dtype=object)
        rows = np.flatnonzero(codes >= 0)
        x = dense(adata[rows, genes].X if values is None else values[rows])
        cells = np.sort(cell_hashes(x, names, np.array(labels, dtype=object)[codes[rows]]))
        # What is random in a fit belongs to a place: by name, the order of adata.var has no part in it.
        names = np.sort(names)
    state = seal({"prepared": {**uns, "genes": names, "cells": cells, "n_vars": adata.n_vars}})
    marks = {"format": FORMAT_VERSION, "key": keys.key}
    adata.uns[keys.uns] = {**marks, **uns, "state": state, "state_sha256": checksum(state)}


def drop_fit(adata: AnnData, keys: Keys) -> bool:
    """Remove what an earlier fit wrote under `keys`; whether there was anything."""
    found = False
    for where, name in keys.fit_slots():
        if name in getattr(adata, where):
            del getattr(adata, where)[name]
            found = True
    entry = adata.uns.get(keys.uns, {})
    for name in _FIT_ENTRIES:
        found |= entry.pop(name, None) is not None
    entry.get("params", {}).pop("fit", None)
    return found


def clear(adata: AnnData, key: str) -> None:
    """Remove everything that an earlier preparation or fit wrote under `key`."""
    for where, name in owned(adata, key):
        slot = getattr(adata, where)
        if name in slot:
            del slot[name]
