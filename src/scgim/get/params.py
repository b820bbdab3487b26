"""The stored arguments as they were given."""

from __future__ import annotations

from typing import Any

import anndata as ad

from scgim._storage import from_storable
from scgim.slots import read_entry


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
