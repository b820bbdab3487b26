"""How a fit was made: its course as a table, and the stored arguments as they were given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from scgim._errors import InvalidValue, NotFound
from scgim.slots import read_entry
from scgim.slots.codec import from_storable


def history(adata: ad.AnnData, *, key: str = "gim", group: str | None = None) -> pd.DataFrame:
    """What was recorded while fitting.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

    Returns
    -------
    pandas.DataFrame
        One row per record, `step` first, then what the fit recorded: `loss`, `valid_loss` (held-out cells),
        `acyclicity`, `penalty`, `multiplier`, `edges`, `targets_per_condition`.

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If the group is wrong, or the recorded arrays differ in length.

    Examples
    --------
    >>> import scgim
    >>> scgim.get.history(adata).tail(1)  # doctest: +SKIP
    """
    from scgim.inference import HISTORY

    slots = read_entry(adata, key, group, fitted=True)
    stored = slots.uns.get("history")
    if not isinstance(stored, Mapping):
        raise NotFound(f"adata.uns[{slots.keys.uns!r}]['history'] is missing: read the original file, or fit again.")
    arrays = {str(name): np.asarray(values).ravel() for name, values in stored.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidValue(f"adata.uns['{slots.keys.uns}']['history'] holds arrays of different lengths: {lengths}.")
    order = [name for name in HISTORY if name in arrays]
    names = order + sorted(set(arrays) - set(order))
    return pd.DataFrame({name: arrays[name] for name in names})


def params(adata: ad.AnnData, *, key: str = "gim", group: str | None = None) -> dict[str, Any]:
    """Every argument, version and seed behind a preparation and its fit.

    An h5ad file has no None, tuple or set, so `adata.uns["gim"]["params"]` holds them as text (``json:null``);
    here they are what was given.

    Parameters
    ----------
    adata
        Prepared by `pp.prepare`. Nothing is written.
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

    Returns
    -------
    dict
        ``"prepare"``: the arguments of `pp.prepare` (a matrix of features is named, not repeated; it is in
        `uns["gim"]["feature_spec"]`); ``"versions"`` of scgim, Python and the packages it uses; ``"target_sum"`` to
        which cells were normalised; after `tl.fit_gim` also ``"fit"``: its arguments, every setting, the seed, and how
        the fit ended. Changing it changes nothing in `adata`.

    Raises
    ------
    KeyError
        If nothing was prepared under `key`, or the group does not exist.
    ValueError
        If a group is needed and missing.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.datasets.simulated_sciplex3()
    >>> scgim.pp.prepare(adata, dose_key="dose_value", n_genes=10)
    >>> stored = scgim.get.params(adata)["prepare"]
    >>> stored["n_genes"], stored["layer"]
    (10, None)
    """
    entry = read_entry(adata, key, group, genes=False)
    stored = from_storable(dict(entry.prepared["params"]))
    fit = entry.uns.get("params", {}).get("fit")
    return stored if fit is None or not entry.fitted else {**stored, "fit": from_storable(dict(fit))}
