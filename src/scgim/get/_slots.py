"""Reading what `pp.prepare` and `tl.fit_gim` stored, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import anndata as ad
import pandas as pd

from scgim._keys import Keys
from scgim._storage import from_storable
from scgim._validation import listing, require_prepared, suggestion

#: What `tl.fit_gim` adds to the entry that `pp.prepare` wrote.
_FIT_ENTRIES = ("graph", "targets", "history", "state")


class Slots(NamedTuple):
    """Where one fit lives: its slot names, and its entry in `adata.uns`."""

    keys: Keys
    uns: Mapping[str, Any]

    @property
    def conditions(self) -> pd.DataFrame:
        """The table of conditions (control first), its labels as plain strings."""
        text = {"condition": str, "perturbation": str, "split": str, "is_control": bool, "dose": float}
        return self.uns["conditions"].astype(text)

    @property
    def prepare_params(self) -> Mapping[str, Any]:
        """The arguments that `pp.prepare` was called with."""
        return from_storable(self.uns["params"].get("prepare", {}))

    @property
    def dose_unit(self) -> str:
        """Unit of the doses; empty where none is known."""
        return str(from_storable(self.uns.get("feature_spec", {})).get("dose_unit") or "")


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
        If a name is unknown (with the closest known one), or none is given.

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
        hint = suggestion(unknown[0], available)
        known_names = f"Known are {listing(available)}."
        if what == "gene":
            known_names = f"Modelled genes are {listing(available)}; pp.prepare takes others as genes=."
        raise ValueError(f"Unknown {what} {listing(unknown)}.{hint} {known_names}")
    return asked


def require_fit(adata: ad.AnnData, key: str = "gim", group: str | None = None) -> Slots:
    """The slots that `tl.fit_gim` wrote.

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
        If `adata` was not prepared or not fitted under this key, the group does not exist, or parts of what
        was stored are missing.
    ValueError
        If a group is needed and missing, or the slots were written by a newer scgim.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> from scgim.get._slots import require_fit
    >>> require_fit(ad.AnnData(np.ones((2, 2))))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    KeyError: "adata.uns['gim'] was not found: run scgim.pp.prepare first, then scgim.tl.fit_gim."
    """
    try:
        keys, uns = require_prepared(adata, key, group, needs=("conditions", "params"))
    except KeyError as error:
        if key in adata.uns:
            raise
        raise KeyError(f"{error.args[0]} Then fit it: run scgim.tl.fit_gim.") from None
    missing = [entry for entry in _FIT_ENTRIES if entry not in uns]
    if len(missing) == len(_FIT_ENTRIES):
        raise KeyError(f"adata.uns[{keys.uns!r}] is prepared but not fitted: run scgim.tl.fit_gim first.")
    lost = [f"adata.uns[{keys.uns!r}][{entry!r}]" for entry in missing]
    lost += [f"adata.obs[{keys.condition!r}]"] * (keys.condition not in adata.obs)
    lost += [f"adata.var[{keys.genes!r}]"] * (keys.genes not in adata.var)
    if lost:
        raise KeyError(
            f"{', '.join(lost)} of the fit {keys.prefix!r} is missing: the object was cut down or joined "
            "since. Read the original file, or run scgim.pp.prepare and scgim.tl.fit_gim again."
        )
    return Slots(keys, uns)


def modelled_genes(adata: ad.AnnData, slots: Slots) -> list[str]:
    """Names of the graph's nodes, in the order of `adata.var`.

    Parameters
    ----------
    adata
        Annotated data. Nothing is written.
    slots
        From `require_fit`.

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
    >>> from scgim.get._slots import modelled_genes, require_fit
    >>> modelled_genes(adata, require_fit(adata))  # doctest: +SKIP
    ['ANGPTL4', 'CDKN1A', ...]
    """
    genes = adata.var_names[adata.var[slots.keys.genes].to_numpy(dtype=bool)].astype(str).tolist()
    lost = sorted(set(slots.uns["targets"]["gene"].astype(str)) - set(genes))
    if lost:
        raise ValueError(
            f"adata.var[{slots.keys.genes!r}] lacks genes of the fit {slots.keys.prefix!r}: {listing(lost)}. "
            "Choose genes before scgim.pp.prepare, not after the fit."
        )
    return genes
