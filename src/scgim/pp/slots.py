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
from .._validation import require_prepared
from .design import Design
from .splits import SPLITS

if TYPE_CHECKING:
    from anndata import AnnData

#: Entries of `uns` that a change needs.
_NEEDED = ("conditions", "parts", "membership", "features", "feature_spec", "params")
#: Entries of `uns` that `tl.fit_gim` writes.
FIT_ENTRIES = ("graph", "targets", "history", "state", "state_sha256")


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
    return {
        "format": FORMAT_VERSION,
        "conditions": design.table,
        "parts": design.parts,
        "membership": design.membership,
    }


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
    adata.obs[keys.condition] = pd.Categorical.from_codes(design.codes, categories=list(design.table["condition"]))
    adata.obs[keys.split] = pd.Categorical.from_codes(slots.split, categories=list(SPLITS))
    if slots.genes is not None:
        adata.var[keys.genes] = slots.genes
        adata.var[keys.score] = slots.score
    adata.uns[keys.uns] = slots.uns


def drop_fit(adata: AnnData, keys: Keys) -> bool:
    """Remove what an earlier fit wrote under `keys`; whether there was anything."""
    found = False
    for slot, name in (
        (adata.varp, keys.edge_prob),
        (adata.varm, keys.target_prob),
        (adata.varm, keys.effect),
    ):
        if name in slot:
            del slot[name]
            found = True
    entry = adata.uns.get(keys.uns, {})
    for name in FIT_ENTRIES:
        found |= entry.pop(name, None) is not None
    entry.get("params", {}).pop("fit", None)
    return found


def clear(adata: AnnData, key: str) -> None:
    """Remove everything that an earlier `prepare` or fit wrote under `key`."""
    top = adata.uns.get(key)
    if not isinstance(top, dict) or "format" not in top:
        return
    groups = [None] if "groups" not in top else [str(group) for group in top["groups"]]
    for keys in [Keys(key, group) for group in groups]:
        drop_fit(adata, keys)
        for frame, names in (
            (adata.obs, (keys.condition, keys.split)),
            (adata.var, (keys.genes, keys.score)),
        ):
            for name in names:
                if name in frame:
                    del frame[name]
        adata.uns.pop(keys.uns, None)
    adata.uns.pop(key, None)


def change_slots(adata: AnnData, key: str, group: str | None, step: Callable[[GroupSlots], None], written: str) -> None:
    """Apply `step` to a copy of the stored slots of each group, then write them all."""
    top = adata.uns.get(key)
    groups: list[str | None] = [group]
    if group is None and isinstance(top, dict) and "groups" in top:
        groups = [str(name) for name in top["groups"]]
    changed = [_read_slots(adata, *require_prepared(adata, key, name, needs=_NEEDED)) for name in groups]
    for slots in changed:
        step(slots)
    own(adata)
    for slots in changed:
        if drop_fit(adata, slots.keys):
            logger.info("the earlier fit%s is removed.", in_group(slots.keys))
        for name in FIT_ENTRIES:
            slots.uns.pop(name, None)
        slots.uns["params"].pop("fit", None)
        write_group(adata, slots)
    logger.info(written)


def _read_slots(adata: AnnData, keys: Keys, entry: dict[str, Any]) -> GroupSlots:
    table, parts = entry["conditions"].copy(), entry["parts"].copy()
    for name in (keys.condition, keys.split):
        if name not in adata.obs:
            raise KeyError(f"adata.obs[{name!r}] is missing: run scgim.pp.prepare again.")
    codes = pd.Index(table["condition"].astype(str)).get_indexer(adata.obs[keys.condition].astype(object))
    split = pd.Index(SPLITS).get_indexer(adata.obs[keys.split].astype(object))
    design = Design(table, parts, np.asarray(entry["membership"]), codes)
    return GroupSlots(keys, design, split, uns=dict(entry))
