"""Plain values in, h5ad-safe values out, and back again.

AnnData writes numbers, strings, arrays, DataFrames and dicts of these. What it refuses or changes (None,
tuples, sets, lists, keys with `/`, pandas strings, text with NUL characters) is stored as a string that
starts with ``json:``, so that what is read back from a file is exactly what was stored, and no pickle is
needed.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgim._errors import InvalidType

_PREFIX = "json:"
_INT64 = np.iinfo(np.int64)


def to_storable(value: Any, *, path: str = "value") -> Any:
    """Make a value storable in `adata.uns`.

    Parameters
    ----------
    value
        Nested dicts, lists, tuples and sets of numbers, strings, None, NumPy arrays, sparse matrices,
        pandas objects, dataclasses and paths.
    path
        Name of the value in error messages.

    Returns
    -------
    A value that `write_h5ad` accepts and `read_h5ad` gives back unchanged. Dicts stay dicts, numbers and
    plain strings stay as they are, so that the stored parameters can be read by eye.

    Raises
    ------
    TypeError
        If the value holds something that has no plain form (a function, a random generator).

    Examples
    --------
    >>> from scgim.slots.codec import from_storable, to_storable
    >>> stored = to_storable({"layer": None, "n_genes": 50, "hold_out": {"A/B": (1, 2)}})
    >>> stored["layer"], stored["n_genes"]
    ('json:null', 50)
    >>> from_storable(stored)
    {'layer': None, 'n_genes': 50, 'hold_out': {'A/B': (1, 2)}}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        if all(_is_plain_key(key) for key in value):
            return {key: to_storable(item, path=f"{path}[{key!r}]") for key, item in value.items()}
        return _as_json(value, path)
    if isinstance(value, pd.DataFrame):
        return _clean_frame(value, path)
    if isinstance(value, pd.Categorical):
        return value
    if sp.issparse(value):
        return value if value.format in ("csr", "csc") else value.tocsr()
    if isinstance(value, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return _clean_array(value, path)
    value = _as_scalar(value)
    if isinstance(value, str):
        return value if _is_plain_text(value) else _as_json(value, path)
    if isinstance(value, bool | float) or (isinstance(value, int) and _INT64.min <= value <= _INT64.max):
        return value
    return _as_json(value, path)


def from_storable(value: Any) -> Any:
    """Undo `to_storable`, before or after a round trip through a file.

    Arrays and DataFrames come back as they are stored; NumPy scalars become Python's.

    Parameters
    ----------
    value
        What `to_storable` returned.

    Examples
    --------
    >>> from scgim.slots.codec import from_storable, to_storable
    >>> from_storable(to_storable({"drugs": {"A", "B"}})) == {"drugs": {"A", "B"}}
    True
    """
    if isinstance(value, dict):
        return {key: from_storable(item) for key, item in value.items()}
    value = _as_scalar(value)
    if isinstance(value, str) and value.startswith(_PREFIX):
        return _decode(json.loads(value.removeprefix(_PREFIX)))
    return value


def _is_plain_key(key: Any) -> bool:
    # "." and ".." are the group itself and its parent in HDF5.
    return isinstance(key, str) and key not in ("", ".", "..") and "/" not in key and _is_plain_text(key)


def _is_plain_text(text: str) -> bool:
    return not text.startswith(_PREFIX) and _is_writable(text)


def _is_writable(text: Any) -> bool:
    """Whether HDF5 can hold it (in arrays and tables, where nothing is decoded, `json:` is no trouble)."""
    if not isinstance(text, str) or "\x00" in text:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates
        return False
    return True


def _as_scalar(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.datetime64 | np.timedelta64 | np.longdouble):
        return value
    return value.item() if isinstance(value, np.generic) else value


def _clean_array(value: np.ndarray, path: str) -> Any:
    if value.dtype.kind in "biu" or (value.dtype.kind == "f" and value.dtype.itemsize <= 8):
        return value
    if value.dtype.kind in "UO" and all(_is_writable(v) for v in value.ravel()):
        return value.astype(object)  # what a file gives back
    return _as_json(value, path)


def _clean_frame(frame: pd.DataFrame, path: str) -> pd.DataFrame:
    names = [*frame.columns, *([] if frame.index.name is None else [frame.index.name])]
    odd = [name for name in names if not _is_plain_key(name) or name == "_index"]
    if odd or not frame.columns.is_unique:
        raise InvalidType(f"{path}: a DataFrame with the column names {odd or list(names)} cannot be stored.")
    frame = frame.copy()
    frame.index = frame.index.map(str).astype(object)  # not every AnnData can write pandas' own strings
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(column.dtype):
            continue
        if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
            missing = column.isna().to_numpy()
            text = column.astype(object)
            if not all(_is_writable(v) for v in text[~missing]):
                raise InvalidType(f"{path}[{name!r}]: only plain strings can be stored in a column of objects.")
            # A category is the one kind of text column that can have missing values in a file.
            frame[name] = text.astype("category") if missing.any() else text
    return frame


def _as_json(value: Any, path: str) -> str:
    return _PREFIX + json.dumps(_encode(value, path))


def _encode(value: Any, path: str) -> Any:
    """JSON's own types for what JSON knows; `{tag: content}` for everything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    value = _as_scalar(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if value is pd.NA:
        return {"missing": "NA"}
    if value is pd.NaT:
        return {"missing": "NaT"}
    if isinstance(value, list):
        return [_encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, f"{path}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, set | frozenset):
        items = sorted((_encode(item, path) for item in value), key=json.dumps)
        return {type(value).__name__: items}
    if isinstance(value, dict):
        pairs = value.items()
        return {"dict": [[_encode(k, path), _encode(v, f"{path}[{k!r}]")] for k, v in pairs]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, pd.Timestamp | pd.Timedelta | np.datetime64 | np.timedelta64):
        value = np.asarray(value)
    if isinstance(value, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype.names is None:
        text = value.dtype.kind in "Mm"
        content = value.astype("int64") if text else value
        flat = [_encode(item, path) for item in content.ravel().tolist()]
        return {"array": flat, "dtype": value.dtype.str, "shape": list(value.shape)}
    raise InvalidType(f"{path}: a value of type {type(value).__name__} cannot be stored in an h5ad file.")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        dtype = np.dtype(value["dtype"])
        raw = np.empty(len(value["array"]), dtype=object)
        raw[:] = [_decode(item) for item in value["array"]]
        array = raw.astype("int64").astype(dtype) if dtype.kind in "Mm" else raw.astype(dtype)
        return array.reshape(value["shape"])
    ((tag, content),) = value.items()
    if tag == "missing":
        return pd.NA if content == "NA" else pd.NaT
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "dict":
        return {_decode(k): _decode(v) for k, v in content}
    kinds = {"tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[tag](_decode(item) for item in content)
