"""Checks of what a metric is given: matching shapes, finite numbers, errors that name the argument."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scgim._errors import InvalidType, InvalidValue
from scgim._validation import plural


def as_cells(x: ArrayLike, name: str, *, min_cells: int = 1) -> np.ndarray:
    """`x` as a float64 array (cells, genes), checked to be two-dimensional, finite and large enough."""
    array = _as_numbers(x, name, "numeric").astype(np.float64, copy=False)
    if array.ndim != 2:
        raise InvalidValue(f"`{name}` must have shape (cells, genes), got shape {array.shape}.")
    if array.shape[1] == 0:
        raise InvalidValue(f"`{name}` has no genes (shape {array.shape}).")
    if array.shape[0] < min_cells:
        raise InvalidValue(f"`{name}` has {plural(array.shape[0], 'cell')}; this metric needs at least {min_cells}.")
    finite = np.isfinite(array)
    if not finite.all():
        cell, gene = (int(i) for i in np.argwhere(~finite)[0])
        raise InvalidValue(
            f"`{name}` has {plural(int((~finite).sum()), 'value')} not finite; "
            f"the first is {array[cell, gene]} at cell {cell}, gene {gene}."
        )
    return array


def as_cell_pair(true: ArrayLike, predicted: ArrayLike, *, min_cells: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays (cells, genes) over the same genes; their numbers of cells may differ."""
    first = as_cells(true, "true", min_cells=min_cells)
    second = as_cells(predicted, "predicted", min_cells=min_cells)
    if first.shape[1] != second.shape[1]:
        raise InvalidValue(
            f"`true` has {plural(first.shape[1], 'gene')} and `predicted` has {second.shape[1]}: "
            "both must have the same genes in the same order."
        )
    return first, second


def check_genes(array: np.ndarray, true: np.ndarray, name: str) -> np.ndarray:
    """`array`, refused where it has not the genes of `true`."""
    if array.shape[1] != true.shape[1]:
        raise InvalidValue(f"`{name}` has {plural(array.shape[1], 'gene')} and `true` has {true.shape[1]}.")
    return array


def as_binary(x: ArrayLike, name: str) -> np.ndarray:
    """`x` as a two-dimensional bool array; anything but 0 and 1 is refused."""
    array = _as_matrix(x, name)
    wrong = array[(array != 0) & (array != 1)]
    if wrong.size:
        raise InvalidValue(
            f"`{name}` must hold only 0 and 1, found {wrong.flat[0]}; threshold probabilities first (> 0.5)."
        )
    return array.astype(bool)


def as_binary_pair(true: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Two bool arrays of one shape."""
    pair = as_binary(true, "true"), as_binary(predicted, "predicted")
    check_same_shape(*pair)
    return pair


def as_graph(x: ArrayLike, name: str) -> np.ndarray:
    """`x` as a bool adjacency matrix (genes, genes), row = cause, column = effect, with an empty diagonal."""
    graph = as_binary(x, name)
    check_square(graph, name)
    loops = np.flatnonzero(np.diagonal(graph))
    if loops.size:
        raise InvalidValue(f"`{name}` has self-loops, the first at gene {loops[0]}: the diagonal must be zero.")
    return graph


def as_graph_pair(true: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Two adjacency matrices of one size."""
    pair = as_graph(true, "true"), as_graph(predicted, "predicted")
    check_same_shape(*pair)
    return pair


def as_scores(x: ArrayLike, name: str) -> np.ndarray:
    """`x` as a two-dimensional float64 array of finite scores (probabilities, or anything that ranks)."""
    return _as_matrix(x, name).astype(np.float64, copy=False)


def check_same_shape(true: np.ndarray, predicted: np.ndarray) -> None:
    """Raise where truth and prediction differ in shape."""
    if true.shape != predicted.shape:
        raise InvalidValue(
            f"`true` has shape {true.shape} and `predicted` has shape {predicted.shape}; they must agree."
        )


def check_square(array: np.ndarray, name: str) -> None:
    """Raise unless an array is (genes, genes)."""
    if array.shape[0] != array.shape[1]:
        raise InvalidValue(f"`{name}` must be square (genes, genes), got shape {array.shape}.")


def _as_matrix(x: ArrayLike, name: str) -> np.ndarray:
    array = _as_numbers(x, name, "numeric or bool")
    if array.ndim != 2:
        raise InvalidValue(f"`{name}` must be two-dimensional, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise InvalidValue(f"`{name}` has values that are not finite (NaN or infinite).")
    return array


def _as_numbers(x: ArrayLike, name: str, kind: str) -> np.ndarray:
    if hasattr(x, "toarray"):  # a SciPy sparse matrix: metrics only ever see the modelled genes
        x = x.toarray()
    array = np.asarray(x)
    if array.dtype == object or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise InvalidType(f"`{name}` must be {kind}, got dtype {array.dtype}.")
    return array
