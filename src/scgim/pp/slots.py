"""What `pp` writes: everything computed first, then written in one go."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._keys import FORMAT_VERSION, Keys
from .._logging import logger
from .._storage import to_storable
from ..slots import Entry, cell_hashes, checksum, dense, groups_of, owned, read_entry, seal
from .design import Design
from .splits import SPLITS

if TYPE_CHECKING:
    from anndata import AnnData

#: Entries of the record that are no entries of `uns`.
_RECORD_ONLY = ("genes", "cells", "n_vars")
#: Entries of `uns` that `tl.fit_gim` writes.
FIT_ENTRIES = ("graph", "targets", "history")


@dataclass
class GroupSlots:
    """All that is to be written for one group of cells (or for all cells)."""

    keys: Keys
    design: Design
    split: np.ndarray  # (cells,) index into SPLITS, -1 = not modelled
    uns: dict[str, Any] = field(default_factory=dict)
    genes: np.ndarray | None = None  # (genes,) bool
    score: np.ndarray | None = None  # (genes,)
    target_sum: float = float("nan")  # total to which its cells are normalised
    found: list[tuple[str, int, str]] = field(default_factory=list)  # rows of the summary

    @property
    def where(self) -> str:
        """Which group this is, for messages."""
        return in_group(self.keys)

    def store(self, entries: dict[str, Any]) -> None:
        """Add entries to `uns`, in their storable form."""
        for name, value in entries.items():
            self.uns[name] = to_storable(value, path=name)


def in_group(keys: Keys) -> str:
    """` in group 'A549'`, or nothing where there are no groups."""
    return "" if keys.group is None else f" in group {keys.group!r}"


def design_entries(design: Design) -> dict[str, Any]:
    """The tables of a design, as entries of `uns`."""
    return {"conditions": design.table, "parts": design.parts, "membership": design.membership}


def feature_entries(spec: dict[str, Any], matrix: np.ndarray) -> dict[str, Any]:
    """Features and what made them, as entries of `uns`."""
    return {"features": matrix, "feature_names": spec["feature_names"], "feature_spec": spec}


def versions() -> dict[str, str]:
    """Versions of what prepares the data and of what a fit uses."""
    from .. import __version__

    packages = ("anndata", "numpy", "pandas", "pyro-ppl", "scanpy", "scipy", "torch")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"scgim": __version__, "python": platform.python_version(), **found}


def own(adata: AnnData) -> None:
    """Turn a view into an AnnData of its own.

    Writing to `view.uns[...]` or `view.X` changes the parent; setting `obs` copies first.
    """
    if adata.is_view:
        adata.obs = adata.obs.copy()


def write_group(adata: AnnData, slots: GroupSlots) -> None:
    """Write every slot of one group."""
    keys, design = slots.keys, slots.design
    labels = list(design.table["condition"])
    adata.obs[keys.condition] = pd.Categorical.from_codes(design.codes, categories=labels)
    adata.obs[keys.split] = pd.Categorical.from_codes(slots.split, categories=list(SPLITS))
    genes = cells = None
    if slots.genes is not None:
        adata.var[keys.genes] = slots.genes
        adata.var[keys.score] = slots.score
        genes = adata.var_names[slots.genes].astype(str).to_numpy(dtype=object)
        rows = np.flatnonzero(design.codes >= 0)
        x = dense(adata[rows, slots.genes].X)
        cells = np.sort(cell_hashes(x, genes, np.array(labels, dtype=object)[design.codes[rows]]))
        # What is random in a fit belongs to a place: by name, the order of adata.var has no part in it.
        genes = np.sort(genes)
    state = seal({"prepared": {**slots.uns, "genes": genes, "cells": cells, "n_vars": adata.n_vars}})
    marks = {"format": FORMAT_VERSION, "key": keys.key}
    adata.uns[keys.uns] = {**marks, **slots.uns, "state": state, "state_sha256": checksum(state)}


def drop_fit(adata: AnnData, keys: Keys) -> bool:
    """Remove what an earlier fit wrote under `keys`; whether there was anything."""
    found = False
    for where, name in keys.fit_slots():
        if name in getattr(adata, where):
            del getattr(adata, where)[name]
            found = True
    entry = adata.uns.get(keys.uns, {})
    for name in FIT_ENTRIES:
        found |= entry.pop(name, None) is not None
    entry.get("params", {}).pop("fit", None)
    return found


def clear(adata: AnnData, key: str) -> None:
    """Remove everything that an earlier `prepare` or fit wrote under `key`."""
    for where, name in owned(adata, key):
        slot = getattr(adata, where)
        if name in slot:
            del slot[name]


def change_slots(adata: AnnData, key: str, group: str | None, step: Callable[[GroupSlots], None], written: str) -> None:
    """Apply `step` to a copy of the stored slots of each group, then write them all."""
    groups = groups_of(adata, key)
    chosen: list[Any] = [group] if groups is None or group is not None else groups
    changed = [_read_slots(adata, read_entry(adata, key, name, genes=False)) for name in chosen]
    for slots in changed:
        step(slots)
    own(adata)
    for slots in changed:
        if drop_fit(adata, slots.keys):
            logger.info("the earlier fit%s is removed.", in_group(slots.keys))
        write_group(adata, slots)
    logger.info(written)


def _read_slots(adata: AnnData, entry: Entry) -> GroupSlots:
    keys, codes = entry.keys, entry.codes(adata)
    split = pd.Index(SPLITS, dtype=object).get_indexer(entry.split(adata))
    design = Design(entry.prepared["conditions"].copy(), entry.prepared["parts"].copy(), entry.membership, codes)
    uns = {name: value for name, value in entry.prepared.items() if name not in _RECORD_ONLY}
    slots = GroupSlots(keys, design, split, uns=uns)
    if entry.prepared["genes"] is None:
        entry.count_cells(codes)
    else:  # the cells must be those of the first step, or the record would speak of others
        entry.read_cells(adata, np.flatnonzero(codes >= 0), codes, all_of_them=True)
        slots.genes = np.isin(np.arange(adata.n_vars), entry.positions(adata))
        slots.score = adata.var[keys.score].to_numpy(dtype=float) if keys.score in adata.var else None
    return slots
