"""Reading what `pp.prepare` and `tl.fit_gim` stored, with errors that say what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import anndata as ad
import pandas as pd

from scgim._keys import FORMAT_VERSION, Keys

#: What `tl.fit_gim` adds to the entry that `pp.prepare` wrote.
_FIT_ENTRIES = ("graph", "targets", "history", "state")


class Slots(NamedTuple):
    """Where one fit lives: its slot names, and its entry in `adata.uns`."""

    keys: Keys
    uns: Mapping[str, Any]

    @property
    def conditions(self) -> pd.DataFrame:
        """The table of conditions (control first)."""
        return self.uns["conditions"]

    @property
    def condition_labels(self) -> list[str]:
        return self.uns["conditions"]["condition"].astype(str).tolist()

    @property
    def control_labels(self) -> list[str]:
        """Labels of the conditions without an intervention."""
        table = self.uns["conditions"]
        return table.loc[table["is_control"].astype(bool), "condition"].astype(str).tolist()

    @property
    def prepare_params(self) -> Mapping[str, Any]:
        """The arguments that `pp.prepare` was called with."""
        return self.uns.get("params", {}).get("prepare", {})


def listing(names: Iterable[object], limit: int = 12) -> str:
    """`'a', 'b', ... (40 more)`: names for an error message."""
    quoted = [f"'{name}'" for name in names]
    shown = ", ".join(quoted[:limit])
    return shown if len(quoted) <= limit else f"{shown}, ... ({len(quoted) - limit} more)"


def check_known(names: str | Iterable[str], available: Sequence[str], what: str) -> list[str]:
    """The requested names as a list, each of them known.

    Parameters
    ----------
    names
        One name or several.
    available
        All names there are.
    what
        What a name stands for, in the singular ("gene").

    Returns
    -------
    list of str
        The names in the order asked for, without repetitions.

    Raises
    ------
    ValueError
        If a name is unknown (with the closest known ones), or none is given.

    Examples
    --------
    >>> from scgim.get._slots import check_known
    >>> check_known("TP53", ["TP53", "MDM2"], "gene")
    ['TP53']
    """
    asked = list(dict.fromkeys([names] if isinstance(names, str) else [str(name) for name in names]))
    if not asked:
        raise ValueError(f"No {what} was given; known are {listing(available)}.")
    known = set(available)
    unknown = [name for name in asked if name not in known]
    if unknown:
        close = [match for name in unknown for match in difflib.get_close_matches(name, available, 3, 0.6)]
        hint = f" Did you mean {listing(dict.fromkeys(close))}?" if close else ""
        raise ValueError(f"Unknown {what} {listing(unknown)}.{hint} Known are {listing(available)}.")
    return asked


def require_prepared(adata: ad.AnnData, key: str = "gim", group: str | None = None) -> Slots:
    """The slots that `pp.prepare` wrote.

    Parameters
    ----------
    adata
        Annotated data. Nothing is written.
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was prepared per group.

    Returns
    -------
    Slots
        The slot names and the entry in `adata.uns`.

    Raises
    ------
    KeyError
        If `adata` was not prepared under this key, or parts of what was stored are missing.
    ValueError
        If a group is needed, unknown, or given where there is none; or if the slots were written by a
        newer scgim.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> from scgim.get._slots import require_prepared
    >>> require_prepared(ad.AnnData(np.ones((2, 2))))
    Traceback (most recent call last):
    KeyError: "adata.uns['gim'] is missing: run scgim.pp.prepare first."
    """
    return _require(adata, key, group, step="scgim.pp.prepare")


def require_fit(adata: ad.AnnData, key: str = "gim", group: str | None = None) -> Slots:
    """The slots that `tl.fit_gim` wrote: `require_prepared`, and the fit itself.

    Parameters
    ----------
    adata
        Annotated data. Nothing is written.
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

    Returns
    -------
    Slots
        The slot names and the entry in `adata.uns`.

    Raises
    ------
    KeyError
        If `adata` was not fitted under this key, or parts of what was stored are missing.
    ValueError
        If a group is needed, unknown, or given where there is none; or if the slots were written by a
        newer scgim.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> from scgim.get._slots import require_fit
    >>> require_fit(ad.AnnData(np.ones((2, 2))))
    Traceback (most recent call last):
    KeyError: "adata.uns['gim'] is missing: run scgim.tl.fit_gim first."
    """
    slots = _require(adata, key, group, step="scgim.tl.fit_gim")
    missing = [entry for entry in _FIT_ENTRIES if entry not in slots.uns]
    if len(missing) == len(_FIT_ENTRIES):
        raise KeyError(f"adata.uns['{slots.keys.uns}'] is not fitted: run scgim.tl.fit_gim first.")
    if missing:
        raise KeyError(_incomplete(f"adata.uns['{slots.keys.uns}']", missing))
    return slots


def modelled_genes(adata: ad.AnnData, slots: Slots) -> list[str]:
    """Names of the graph's nodes, in the order of `adata.var`.

    Parameters
    ----------
    adata
        Annotated data. Nothing is written.
    slots
        From `require_prepared` or `require_fit`.

    Returns
    -------
    list of str
        The genes, (genes,).

    Raises
    ------
    ValueError
        If genes of the fit were removed from `adata`.

    Examples
    --------
    >>> import scgim
    >>> scgim.get._slots.modelled_genes(adata, scgim.get._slots.require_fit(adata))  # doctest: +SKIP
    ['ANGPTL4', 'CDKN1A', ...]
    """
    genes = adata.var_names[adata.var[slots.keys.genes].to_numpy(dtype=bool)].astype(str).tolist()
    if "targets" in slots.uns:
        lost = sorted(set(slots.uns["targets"]["gene"].astype(str)) - set(genes))
        if lost:
            raise ValueError(
                f"adata no longer holds all genes of the fit '{slots.keys.prefix}': {listing(lost)} missing. "
                "Subset the genes before scgim.pp.prepare, or keep every gene with "
                f"adata.var['{slots.keys.genes}'] true."
            )
    return genes


def _require(adata: ad.AnnData, key: str, group: str | None, step: str) -> Slots:
    """Prepared slots under `key` and `group`; `step` is what the user is told to run."""
    if key not in adata.uns and (group is None or Keys(key, group).uns not in adata.uns):
        others = [n for n, entry in adata.uns.items() if isinstance(entry, Mapping) and "format" in entry]
        hint = f", or pass key= one of {listing(others)}" if others else ""
        raise KeyError(f"adata.uns['{key}'] is missing: run {step} first{hint}.")
    root = adata.uns.get(key, {})
    if not isinstance(root, Mapping):
        raise KeyError(f"adata.uns['{key}'] was not written by scgim: run {step} with another key_added.")
    if root:
        _check_format(key, root)
    groups = [str(name) for name in root.get("groups", [])]
    if group is None and groups:
        raise ValueError(
            f"adata.uns['{key}'] holds one model per '{root.get('groupby')}': "
            f"pass group= one of {listing(groups)}."
        )
    keys = Keys(key, group)
    if keys.uns not in adata.uns:
        if not groups:
            raise ValueError(f"adata.uns['{key}'] holds one model for all cells, no group '{group}'.")
        check_known(str(group), groups, "group")
        raise KeyError(f"adata.uns['{keys.uns}'] is missing: run {step} first.")
    uns = adata.uns[keys.uns]
    _check_format(keys.uns, uns)
    missing = [entry for entry in ("conditions", "params") if entry not in uns]
    if missing:
        raise KeyError(_incomplete(f"adata.uns['{keys.uns}']", missing))
    if keys.condition not in adata.obs:
        raise KeyError(_incomplete("adata.obs", [keys.condition]))
    if keys.genes not in adata.var:
        raise KeyError(_incomplete("adata.var", [keys.genes]))
    return Slots(keys, uns)


def _check_format(name: str, uns: Mapping[str, Any]) -> None:
    if "format" not in uns:
        raise KeyError(f"adata.uns['{name}'] was not written by scgim (it has no 'format').")
    found = int(uns["format"])
    if found > FORMAT_VERSION:
        raise ValueError(
            f"adata.uns['{name}'] was written by a newer scgim (format {found}), "
            f"this version reads up to {FORMAT_VERSION}: upgrade scgim."
        )


def _incomplete(where: str, missing: Sequence[str]) -> str:
    return (
        f"{where} lacks {listing(missing)}, which scgim had written: the object was cut down or concatenated "
        "since. Read the original file, or run scgim.pp.prepare and scgim.tl.fit_gim again."
    )
