"""Slots that are not ours are never touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import InvalidValue
from .._validation import listing
from .keys import Keys

if TYPE_CHECKING:
    from anndata import AnnData


def refuse_foreign(adata: AnnData, key: str, groups: Sequence[str | None], columns: Mapping[str, Any]) -> None:
    """Refuse where a slot that is to be written holds something that no earlier preparation under `key` wrote.

    Parameters
    ----------
    adata
        Nothing is written.
    key
        The `key_added` of the preparation.
    groups
        The groups that it is to have; `[None]` without groups.
    columns
        Argument of `prepare` -> the column (or columns) of `obs` that it names, or None.

    Raises
    ------
    ValueError
        Naming the slots, and what to do.
    """
    wanted = [slot for group in groups for slot in Keys(key, group).slots()]
    if groups != [None]:
        wanted.append(("uns", key))
    clash = [g for g in groups if any(wanted.count(slot) > 1 for slot in Keys(key, g).slots())]
    if clash:
        raise InvalidValue(
            f"groupby={columns['groupby']!r}: the groups {listing(map(str, clash))} would share slots. Rename one of "
            "them."
        )
    for argument, column in ((a, c) for a, named in columns.items() for c in np.atleast_1d(named).tolist()):
        if ("obs", column) in wanted:
            raise InvalidValue(
                f"{argument}={column!r} is a column that scgim would overwrite with key_added={key!r}. Choose another "
                "key_added, or rename the column."
            )
    ours = set(owned(adata, key))
    taken = [(where, name) for where, name in wanted if name in getattr(adata, where) and (where, name) not in ours]
    if taken:
        named = listing(_Bare(f"adata.{where}[{name!r}]") for where, name in taken)
        raise InvalidValue(
            f"key_added={key!r} would overwrite {named}, which no preparation under this key wrote. Choose another "
            "key_added, or delete what is not needed any more."
        )


def owned(adata: AnnData, key: str) -> list[tuple[str, str]]:
    """(slot, name) of everything that an earlier preparation under `key`, and its fit, wrote or may have written."""
    top = adata.uns.get(key)
    if not isinstance(top, Mapping) or "format" not in top or str(top.get("key", key)) != key:
        return []
    groups: list[Any] = [None] if "groups" not in top else [str(group) for group in top["groups"]]
    keys = [Keys(key, group) for group in groups]
    return [("uns", key), *(slot for k in keys for slot in (*k.slots(), ("obs", k.size_factor)))]


class _Bare(str):
    """Text that `listing` shows without quotes."""

    def __repr__(self) -> str:
        return str(self)
