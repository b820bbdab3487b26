"""The record of a preparation and its fit: what predictions are made from, stored once, under one checksum.

Tables in `uns` are for people, who sort, edit and join them; nothing is read back from those. What scgim reads is a
dict of plain arrays and one JSON text, so that a file holds exactly what was stored, and no pickle is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .codec import from_storable, to_storable

#: Entry with the JSON text, and prefix of the arrays that it refers to; all other entries are the weights of a fit.
_TEXT = "record"


def seal(content: Mapping[str, Any], weights: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
    """What `open_record` reads back: the JSON text of `content`, its numeric arrays and the weights, by name.

    Parameters
    ----------
    content
        Nested dicts with text as keys, of what `scgim.slots.codec.to_storable` takes.
    weights
        Arrays of a fitted model by parameter name.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.slots import checksum, open_record, seal
    >>> state = seal({"genes": ["A", "B"], "features": np.eye(2)})
    >>> sorted(state)
    ['record', 'record.features']
    >>> open_record(state, checksum(state))[0]["genes"]
    ['A', 'B']
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_write(dict(content), _TEXT, arrays))
    return {_TEXT: text, **arrays, **(weights or {})}


def open_record(state: Any, expected: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Content and weights of what `seal` made; None where it is not what was stored."""
    if not isinstance(state, Mapping) or checksum(state) != str(expected) or _TEXT not in state:
        return None
    content = _read(json.loads(_as_text(state[_TEXT])), state)
    return content, {name: np.asarray(value) for name, value in state.items() if name.partition(".")[0] != _TEXT}


def checksum(state: Any) -> str:
    """SHA-256 over names, types, shapes and values; empty where something is no array or text."""
    if not isinstance(state, Mapping):
        return ""
    digest = hashlib.sha256()
    for name in sorted(map(str, state)):
        value = state.get(name)
        if name == _TEXT:
            digest.update(_as_text(value).encode("utf-8", "replace"))
            continue
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
            return ""
        digest.update(f"{name}{value.dtype.newbyteorder('<').str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _as_text(value: Any) -> str:
    return str(value.item()) if isinstance(value, np.ndarray) and value.ndim == 0 else str(value)


def _write(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON's own form of `value`; numeric arrays go to `arrays`."""
    if isinstance(value, pd.DataFrame):
        columns = {str(c): _write(_column(value[c]), f"{path}.{c}", arrays) for c in value.columns}
        return {"table": columns, "index": [str(name) for name in value.index]}
    if isinstance(value, Mapping):
        return {"dict": {str(k): _write(v, f"{path}.{k}", arrays) for k, v in value.items()}}
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biuf":
        arrays[path] = np.array(value, dtype=np.uint8 if value.dtype == bool else value.dtype, order="C")  # a copy
        return {"array": path, "bool": value.dtype == bool}
    if isinstance(value, np.ndarray) and value.ndim == 1 and all(isinstance(v, str) for v in value):
        return {"texts": value.tolist()}
    return {"value": to_storable(value, path=path)}


def _column(column: pd.Series) -> np.ndarray:
    """A column of a table by value, whatever kind of text pandas holds it as."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy()
    return np.array([str(value) for value in column.astype(object)], dtype=object)


def _read(value: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    if "table" in value:
        columns = {name: _read(column, state) for name, column in value["table"].items()}
        # Text stays a column of objects, as `to_storable` makes it, whatever this pandas would make of it.
        made = {name: pd.Series(column, index=value["index"], dtype=column.dtype) for name, column in columns.items()}
        return pd.DataFrame(made, index=value["index"])
    if "dict" in value:
        return {name: _read(item, state) for name, item in value["dict"].items()}
    if "array" in value:
        array = np.array(state[value["array"]])
        return array.astype(bool) if value["bool"] else array
    if "texts" in value:
        return np.array(value["texts"], dtype=object)
    return from_storable(value["value"])
