"""An error leaves `adata` as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgim._keys import Keys

if TYPE_CHECKING:
    from anndata import AnnData


def remember(adata: AnnData, all_keys: list[Keys]) -> list[tuple[str, str, Any]]:
    """What `hold_out` and the fit may change, to put back after an error."""
    out: list[tuple[str, str, Any]] = []
    for keys in all_keys:
        for where, name in keys.slots():
            value = getattr(adata, where).get(name, None)
            out.append((where, name, {**value, "params": dict(value["params"])} if isinstance(value, dict) else value))
    return out


def restore(adata: AnnData, undo: list[tuple[str, str, Any]]) -> None:
    """Put it back."""
    if adata.is_view:  # writing would have made it an AnnData of its own: nothing was written
        return
    for where, name, value in undo:
        slot = getattr(adata, where)
        if value is not None:
            slot[name] = value
        elif name in slot:
            del slot[name]
