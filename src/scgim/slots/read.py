"""The one reader of what scgim stored in `adata.uns`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from .._errors import InvalidType, InvalidValue, NotFound
from .._validation import listing, require_anndata
from .entry import Entry
from .keys import FORMAT_VERSION, Keys
from .record import open_record

if TYPE_CHECKING:
    from anndata import AnnData


def groups_of(adata: AnnData, key: str) -> list[str] | None:
    """Names of the groups under `key`; None where it was prepared without `groupby`.

    Raises
    ------
    KeyError
        Where nothing was prepared under `key`.
    ValueError
        Where the slots were written by a newer or an older scgim, or are no longer what was written.
    """
    require_anndata(adata)
    if not isinstance(key, str):
        raise InvalidType(f"The key of a preparation (its key_added) must be text, got {key!r}.")
    top = adata.uns.get(key)
    if not isinstance(top, Mapping) or "format" not in top:
        found = [k for k, v in adata.uns.items() if isinstance(v, Mapping) and "format" in v]
        others = f" Prepared keys are: {listing(found)}." if found else ""
        raise NotFound(
            f"adata.uns[{key!r}] was not found: run scgim.pp.prepare(adata, key_added={key!r}) first.{others}"
        )
    version = top["format"]
    if not isinstance(version, int | np.integer):
        _refuse_damaged(key)
    if version > FORMAT_VERSION:
        raise InvalidValue(
            f"adata.uns[{key!r}] has format {version}; this scgim reads up to format {FORMAT_VERSION}. The file was "
            "written by a newer version: run pip install --upgrade scgim."
        )
    if version < FORMAT_VERSION:
        raise InvalidValue(
            f"adata.uns[{key!r}] has format {version}, of an earlier scgim; this one reads format {FORMAT_VERSION}. "
            "Run scgim.pp.prepare and scgim.tl.fit_gim again."
        )
    if "groups" not in top:
        return None
    names = np.atleast_1d(np.asarray(top["groups"], dtype=object))
    if not all(isinstance(name, str) for name in names):
        _refuse_damaged(key)
    return [str(name) for name in names]


def read_entry(
    adata: AnnData,
    key: str = "gim",
    group: str | None = None,
    *,
    genes: bool = True,
    fitted: bool = False,
) -> Entry:
    """What `pp.prepare` (and `tl.fit_gim`) stored under `key`.

    Parameters
    ----------
    adata
        Annotated data. Nothing is written.
    key
        The `key_added` given to `pp.prepare`.
    group
        One of the groups where `groupby` was given.
    genes
        Refuse where genes are not chosen yet.
    fitted
        Refuse where there is no fit.

    Raises
    ------
    KeyError
        Where nothing was prepared (or fitted) under `key`, or the group does not exist.
    ValueError
        Where `group` is needed and missing, or the record is incomplete or changed.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> from scgim.slots import read_entry
    >>> read_entry(ad.AnnData(np.ones((2, 2))))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    NotFound: "adata.uns['gim'] was not found: run scgim.pp.prepare first."
    """
    try:
        groups = groups_of(adata, key)
    except KeyError as error:
        then = " Then fit it: run scgim.tl.fit_gim." if fitted else ""
        raise NotFound(f"{error.args[0]}{then}") from None
    if groups is None and group is not None:
        raise NotFound(f"group={group!r}: {key!r} was prepared without groupby; leave group out.")
    if groups is not None and group is None:
        raise InvalidValue(f"{key!r} was prepared with groupby: pass group=, one of {listing(groups)}.")
    if groups is not None and str(group) not in groups:
        raise NotFound(f"group={group!r} does not exist under {key!r}; the groups are {listing(groups)}.")
    keys = Keys(key, None if group is None else str(group))
    uns = adata.uns.get(keys.uns)
    if not isinstance(uns, Mapping):
        raise NotFound(f"adata.uns[{keys.uns!r}] is missing: run scgim.pp.prepare again.")
    record = open_record(uns.get("state"), uns.get("state_sha256"))
    if record is None:
        _refuse_damaged(keys.uns)
    content, weights = record
    entry = Entry(keys, uns, content["prepared"], content.get("fitted", {}), weights)
    if genes and entry.prepared["genes"] is None:
        raise NotFound(
            f"No genes are chosen yet under {keys.prefix!r}: run scgim.pp.select_markers (or scgim.pp.prepare)."
        )
    if fitted and not entry.fitted:
        raise NotFound(f"adata.uns[{keys.uns!r}] is prepared but not fitted: run scgim.tl.fit_gim first.")
    return entry


def _refuse_damaged(key: str) -> NoReturn:
    raise InvalidValue(
        f"adata.uns[{key!r}]: the record of the preparation and its fit ('state') is incomplete or changed (its "
        "checksum does not match). Read the original file again, or run scgim.pp.prepare and scgim.tl.fit_gim again."
    )
