"""The matrix of cells and genes, in memory or lazy, read tile by tile so that no second one is ever held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from tqdm.auto import tqdm

from .._errors import InvalidValue
from .._optional import optional_import
from .._validation import plural

if TYPE_CHECKING:
    from anndata import AnnData

#: So many places (cells x genes) are read at once, of a dense matrix a quarter of it.
PLACES = 1 << 27
#: Counts below this are looked up when they are normalised.
_SMALL = 16


class Tile(NamedTuple):
    """Some cells and genes of a matrix, in memory."""

    rows: slice
    columns: slice
    values: Any  # dense, CSR or CSC
    place: str  # which part it is, for messages; empty where there is one only


def is_lazy(matrix: Any) -> bool:
    """Whether it is a Dask array."""
    return hasattr(matrix, "dask") and hasattr(matrix, "compute")


def as_matrix(values: Any) -> Any:
    """A plain CSR, CSC or dense array, from a view or a sparse array class; a Dask array as it is."""
    if is_lazy(values):
        return values
    if not sp.issparse(values):
        return np.asarray(values)
    if values.format not in ("csr", "csc"):
        values = values.tocsr()
    if not values.has_canonical_format:  # the same entry twice would be counted twice
        values = values.copy()
        values.sum_duplicates()
    return values


def open_lazily(adata: AnnData) -> AnnData:
    """A twin with a Dask array in place of a backed X, and tables in memory; the AnnData itself where it is so."""
    from anndata import AnnData

    obs, var = _table(adata.obs), _table(adata.var)
    if not adata.isbacked and obs is adata.obs and var is adata.var:
        return adata
    x, raw = _lazy_file(adata) if adata.isbacked else (adata.X, None if adata.raw is None else adata.raw.X)
    told = None if raw is None else {"X": raw, "var": _table(adata.raw.var), "varm": dict(adata.raw.varm)}
    layers = {name: values for name, values in adata.layers.items() if name is not None}
    slots = {name: getattr(adata, name) for name in ("obsm", "varm", "obsp", "varp")}
    slots = {name: {key: _table(value) for key, value in slot.items()} for name, slot in slots.items()}
    return AnnData(X=x, obs=obs.copy(), var=var.copy(), uns=_loaded(adata.uns), layers=layers, raw=told, **slots)


def _table(value: Any) -> Any:
    """Of `anndata.experimental.read_lazy`: in memory; anything else as it is."""
    return value.to_memory() if hasattr(value, "to_memory") else value


def _loaded(value: Any) -> Any:
    """The same for `uns`, and everything in it."""
    if isinstance(value, Mapping):
        return {key: _loaded(one) for key, one in value.items()}
    return value.compute() if is_lazy(value) else _table(value)


def _lazy_file(adata: AnnData) -> tuple[Any, Any]:
    """X and raw X of a backed AnnData (None where there is none), as Dask arrays."""
    optional_import("dask.array", extra="lazy")
    from anndata.experimental import read_elem_lazy

    view = (adata._oidx, adata._vidx) if adata.is_view else (slice(None), slice(None))
    rows, columns = (at if isinstance(at, slice) else np.asarray(at) for at in view)
    found: list[Any] = []
    try:
        adata.file.close()
        adata.file.open()
        for name in ("X", "raw/X"):
            if name not in adata.file:
                found.append(None)
                continue
            element = adata.file[name]
            n, m = element.shape if hasattr(element, "shape") else element.attrs["shape"]
            kind = str(element.attrs.get("encoding-type", ""))
            chunks = {"csr_matrix": (max(1, PLACES // m), m), "csc_matrix": (n, max(1, PLACES // n))}
            found.append(read_elem_lazy(element, chunks=chunks.get(kind, (max(1, PLACES // (4 * m)), m))))
    except OSError as error:
        raise InvalidValue(f"{adata.filename} cannot be read ({error}). {_CHANGED}") from error
    finally:
        adata.file.close()  # a file open for writing cannot be opened again; AnnData opens it when it needs it
    x, raw = found
    return None if x is None else x[rows][:, columns], None if raw is None else raw[rows]


_CHANGED = "The file was moved, cut off or changed since it was opened; open the whole file again."


def tiles(matrix: Any, where: str, what: str = "", filled: np.ndarray | None = None) -> Iterator[Tile]:
    """All of a matrix, called `where` in messages, in tiles: whole chunks of a Dask array, else some rows or columns.

    Parameters
    ----------
    what
        Text of the progress bar of a Dask array; none is shown where it is empty.
    filled
        (cells,) bool: cells that hold a value other than zero, if the file is still what it was.

    Raises
    ------
    ValueError
        If a chunk cannot be read, or a filled cell is empty.
    """
    down, across = _grid(matrix)
    lazy, grid = is_lazy(matrix), [(rows, columns) for rows in down for columns in across]
    shown = tqdm(grid, desc=f"prepare: {what}", unit="part", disable=not (lazy and what))
    with ThreadPoolExecutor(1) as reader, shown:  # the next part is read while this one is worked on
        coming = reader.submit(_read, matrix, *grid[0])
        for i, (rows, columns) in enumerate(shown):
            place = f", cells {rows.start} to {rows.stop - 1}" if len(down) > 1 or lazy else ""
            place += f", genes {columns.start} to {columns.stop - 1}" if len(across) > 1 else ""
            try:
                values = coming.result()
            except MemoryError:
                raise
            except Exception as error:  # of the file's library, whichever it is
                raise InvalidValue(f"{where}{place} cannot be read ({error}). {_CHANGED}") from error
            if i + 1 < len(grid):
                coming = reader.submit(_read, matrix, *grid[i + 1])
            if filled is not None and len(across) == 1:
                empty = filled[rows] & (np.asarray(values.sum(axis=1)).ravel() == 0)
                if empty.any():
                    lost = plural(int(empty.sum()), "cell")
                    raise InvalidValue(f"{where}{place}: {lost} with values are now empty. {_CHANGED}")
            yield Tile(rows, columns, values, place)


def _read(matrix: Any, rows: slice, columns: slice) -> Any:
    if not sp.issparse(matrix):
        values = matrix[rows, columns]
        return as_matrix(values.compute() if is_lazy(values) else values)
    some = rows if matrix.format == "csr" else columns  # the other is all; scipy's own slices take much memory
    part, ends = slice(*matrix.indptr[[some.start, some.stop]]), matrix.indptr[some.start : some.stop + 1]
    shape = rows.stop - rows.start, columns.stop - columns.start
    return as_matrix(type(matrix)((matrix.data[part], matrix.indices[part], ends - ends[0]), shape=shape))


def _grid(matrix: Any) -> tuple[list[slice], list[slice]]:
    """Rows and columns of the tiles: all columns of some rows, unless columns are what is stored together."""
    n, m = matrix.shape
    if not is_lazy(matrix):
        if sp.issparse(matrix) and matrix.format == "csc":
            return [slice(0, n)], _steps(m, PLACES // n)
        return _steps(n, (PLACES if sp.issparse(matrix) else PLACES // 4) // m), [slice(0, m)]
    down, across = matrix.chunks
    places = PLACES if sp.issparse(matrix._meta) else PLACES // 4
    if len(across) == 1 or max(down) * m <= places:
        return _pieces(down, places // m), [slice(0, m)]
    return _pieces(down, 0), _pieces(across, places // max(down))


def _steps(n: int, most: int) -> list[slice]:
    most = max(1, most)
    return [slice(start, min(start + most, n)) for start in range(0, n, most)]


def _pieces(chunks: Sequence[int], most: int) -> list[slice]:
    """Whole chunks of one axis, as many at a time as have `most` places together."""
    found, start, stop = [], 0, 0
    for size in chunks:
        if stop > start and stop + size - start > most:
            found.append(slice(start, stop))
            start = stop
        stop += size
    return [*found, slice(start, stop)]


def columns_of(matrix: Any, genes: np.ndarray, where: str, what: str = "", filled: Any = None) -> np.ndarray:
    """The genes of a matrix, (genes,) bool of its own, dense and in memory: (cells, genes)."""
    at = np.flatnonzero(genes)
    out = np.empty((matrix.shape[0], len(at)), dtype=matrix.dtype)
    for tile in tiles(matrix, where, what, filled):
        first, last = np.searchsorted(at, [tile.columns.start, tile.columns.stop])
        values = tile.values[:, at[first:last] - tile.columns.start]
        out[tile.rows, first:last] = values.toarray() if sp.issparse(values) else values
    return out


def normalise(matrix: Any, total: np.ndarray, target: np.ndarray) -> Any:
    """log1p of (cells, genes) counts, each cell scaled from its (cells,) `total` to its `target`.

    A new matrix of the same kind (dense, CSR, CSC; of a Dask array another, which is computed when it is read), float32
    unless the counts are float64. The arithmetic is that of scanpy's `normalize_total` and `log1p`, to the bit.
    """
    dtype = np.dtype(np.float64 if matrix.dtype == np.float64 else np.float32)
    scale = total.astype(dtype) / target.astype(dtype)
    scale[scale == 0] = 1
    if is_lazy(matrix):
        array = optional_import("dask.array", extra="lazy")
        column = array.from_array(scale[:, None], chunks=(matrix.chunks[0], 1))
        return array.map_blocks(_normalised, matrix, column, dtype=dtype, meta=matrix._meta.astype(dtype))
    return _normalised(matrix, scale)


def _normalised(matrix: Any, scale: np.ndarray) -> Any:
    matrix, scale = as_matrix(matrix), scale.ravel()
    if not sp.issparse(matrix):
        out = matrix.astype(scale.dtype)
        out /= scale[:, None]
        return np.log1p(out, out=out)
    # Most counts are small, and a logarithm is slow.
    table = np.log1p(np.arange(_SMALL, dtype=scale.dtype) / scale[:, None]).ravel()
    data, indptr = np.empty(matrix.data.shape, dtype=scale.dtype), matrix.indptr
    by_cell = matrix.format == "csr"
    lines = matrix.shape[0] if by_cell else matrix.shape[1]
    for some in _steps(lines, PLACES // max(1, sum(matrix.shape) - lines)):
        part, runs = slice(indptr[some.start], indptr[some.stop]), np.diff(indptr[some.start : some.stop + 1])
        cell = np.repeat(np.arange(some.start, some.stop), runs) if by_cell else matrix.indices[part]
        counts = matrix.data[part]
        small = np.minimum(counts, _SMALL - 1).astype(np.intp)
        data[part] = table[cell * _SMALL + small]
        large = np.flatnonzero(counts >= _SMALL)
        data[part][large] = np.log1p(counts[large].astype(scale.dtype) / scale[cell[large]])
    return type(matrix)((data, matrix.indices.copy(), indptr.copy()), shape=matrix.shape)
