"""The course of a fit as a table."""

from __future__ import annotations

from collections.abc import Mapping

import anndata as ad
import numpy as np
import pandas as pd

from scgim.slots import read_entry

_ORDER = (
    "step",
    "loss",
    "valid_loss",
    "acyclicity",
    "penalty",
    "multiplier",
    "edges",
    "targets_per_condition",
)


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
    slots = read_entry(adata, key, group, fitted=True)
    stored = slots.uns.get("history")
    if not isinstance(stored, Mapping):
        raise KeyError(f"adata.uns[{slots.keys.uns!r}]['history'] is missing: read the original file, or fit again.")
    arrays = {str(name): np.asarray(values).ravel() for name, values in stored.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"adata.uns['{slots.keys.uns}']['history'] holds arrays of different lengths: {lengths}.")
    names = [name for name in _ORDER if name in arrays] + sorted(set(arrays) - set(_ORDER))
    return pd.DataFrame({name: arrays[name] for name in names})
