"""Checks of what the user gives: each error names the key, says what was found and what to do."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgim._errors import InvalidType, InvalidValue, NotFound

#: log1p of a count; ln(1 + 1e13), so anything above was not log-transformed.
_LARGEST_LOG = 30.0
_CHUNK = 1 << 22


def listing(items: Iterable[Any], *, most: int = 10) -> str:
    """`'a', 'b', 'c' and 4 more`, for error messages."""
    plain = (str(item) if isinstance(item, np.str_) else item for item in items)
    names = [repr(item) if isinstance(item, str) else str(item) for item in plain]
    if not names:
        return "none"
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def plural(n: int, noun: str) -> str:
    """`1 cell`, `3 cells`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def suggestion(name: Any, options: Iterable[Any]) -> str:
    """` Did you mean 'x'?`, or nothing where no option is close."""
    by_lower: dict[str, str] = {}
    for option in map(str, options):
        by_lower.setdefault(option.lower(), option)
    close = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""


def check_choice(value: Any, argument: str, options: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `options`."""
    if not isinstance(value, str) or value not in options:
        hint = suggestion(value, options)
        raise InvalidValue(f"{argument}={value!r} is unknown; use one of {listing(options)}.{hint}")


def check_int(value: Any, argument: str, *, least: int) -> int:
    """An integer of at least `least` (a whole float counts as one)."""
    whole = isinstance(value, numbers.Real) and not isinstance(value, bool) and float(value).is_integer()
    if not whole:
        raise InvalidType(f"{argument} must be a whole number, got {value!r}.")
    if value < least:
        raise InvalidValue(f"{argument} must be at least {least}, got {value!r}.")
    return int(value)


def check_number(value: Any, argument: str) -> float:
    """A finite number; no text, no truth value."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise InvalidType(f"{argument} must be a number, got {value!r}.")
    if not math.isfinite(value):
        raise InvalidValue(f"{argument} must be finite, got {value!r}.")
    return float(value)


def check_values_of_genes(values: Any, argument: str) -> dict[str, float]:
    """Gene -> finite number."""
    if not isinstance(values, Mapping):
        raise InvalidType(f"{argument} must be a dict of genes and values, such as {{'GENE': 0.0}}; got {values!r}.")
    return {str(gene): check_number(value, f"{argument}: the value of {gene!r}") for gene, value in values.items()}


def check_fraction(value: Any, argument: str) -> float:
    """A number in [0, 1)."""
    if not 0 <= check_number(value, argument) < 1:
        raise InvalidValue(f"{argument} must be at least 0 and below 1, got {value!r}.")
    return float(value)


def require_anndata(adata: Any, argument: str = "adata") -> None:
    """Raise unless `adata` is an AnnData."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise InvalidType(f"{argument} must be an AnnData, got {type(adata).__name__}.")


def check_anndata(adata: Any) -> None:
    """Raise unless `adata` is an AnnData with cells, genes and names that are unique."""
    require_anndata(adata)
    if adata.n_obs == 0 or adata.n_vars == 0:
        size = f"{plural(adata.n_obs, 'cell')} and {plural(adata.n_vars, 'gene')}"
        raise InvalidValue(f"adata has {size}: there is nothing to model.")
    for names, what, axis in ((adata.obs_names, "cell", "obs"), (adata.var_names, "gene", "var")):
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()
            raise InvalidValue(
                f"adata.{axis}_names: {plural(len(repeated), what + ' name')} repeated ({listing(repeated)}). "
                f"Call adata.{axis}_names_make_unique() first."
            )


def require_column(obs: pd.DataFrame, key: str, argument: str) -> pd.Series:
    """The column `obs[key]`, or an error that lists the columns there are."""
    if not isinstance(key, str):
        raise InvalidType(f"{argument} must be the name of a column of adata.obs, got {key!r}.")
    if key not in obs.columns:
        hint = suggestion(key, obs.columns)
        raise NotFound(
            f"{argument}={key!r} is not a column of adata.obs.{hint} The columns are: "
            f"{listing(obs.columns, most=30)}. Pass the right one as {argument}=."
        )
    column = obs[key]
    if isinstance(column, pd.DataFrame):
        times = column.shape[1]
        raise InvalidValue(f"{argument}={key!r} is {times} times among the columns of adata.obs; rename or drop one.")
    return column


def check_values(matrix: Any, where: str, *, kind: str, **names: Any) -> None:
    """Raise unless `matrix` (cells, genes; dense, CSR or CSC) holds what `kind` promises.

    `kind` is "counts" (whole numbers >= 0), "log1p" (real numbers >= 0, not counts) or "continuous" (finite), `where`
    how the user calls the matrix (`adata.X`); `names` as in `check_part`.
    """
    check_scale(kind, where, *check_part(matrix, where, kind=kind, **names))


def check_part(
    matrix: Any,
    where: str,
    *,
    kind: str,
    cells: pd.Index,
    genes: pd.Index,
    raw_counts: Callable[[], str] | None = None,
) -> tuple[bool, float]:
    """Raise where a part of a matrix breaks the promise; whether it is whole numbers, and the largest of log1p.

    `cells`, `genes`: their names; `raw_counts` says where whole numbers are found instead.
    """
    dtype = matrix.dtype.kind
    if dtype not in "biuf":
        raise InvalidType(f"{where} has the type {matrix.dtype}; real numbers are needed.")
    refuse = partial(_refuse, matrix, where, cells, genes)
    if dtype == "f":
        remedy = "Replace them (NaN often means 0) or drop those cells or genes."
        refuse(lambda v: ~np.isfinite(v), "NaN or infinite", remedy)
    if kind == "continuous":
        return False, 0.0
    if dtype in "if":
        remedy = 'Pass the layer with the unscaled values as layer=, or input="continuous" for values of any sign.'
        refuse(lambda v: v < 0, "negative", remedy)
    counts = dtype in "biu" or all(bool(np.all(v == np.rint(v))) for v in _values(matrix))
    if kind == "counts" and counts:
        return True, 0.0
    largest = max((float(v.max()) for v in _values(matrix) if v.size), default=0.0)
    if kind == "counts":
        raw = (raw_counts() if raw_counts is not None else "") or "Pass the layer that does as layer="
        logged = 'input="log1p" if these values are log-normalised; ' if largest <= _LARGEST_LOG else ""
        refuse(
            lambda v: v != np.rint(v),
            "not whole numbers",
            f'input="counts" needs a matrix that holds raw counts. {raw}; {logged}'
            "or round them if they are corrected or estimated counts (SoupX, CellBender, kallisto, alignments): "
            "adata.layers['rounded'] = adata.X.round(), then layer='rounded'.",
        )
    return counts, largest


def check_scale(kind: str, where: str, counts: bool, largest: float) -> None:
    """Raise where values that are to be log1p, of all parts together, are counts or were not log-transformed."""
    if kind != "log1p":
        return
    if counts:
        raise InvalidValue(
            f"{where} holds whole numbers only (up to {largest:g}), so these are raw counts; "
            'input="log1p" needs log-normalised values. Pass input="counts", or the layer that has them as layer=.'
        )
    if largest > _LARGEST_LOG:
        raise InvalidValue(
            f"{where} reaches {largest:g}, more than any log1p of counts: the values were not log-transformed. "
            'Run sc.pp.log1p(adata) first, or pass raw counts with input="counts".'
        )


def holds_counts(matrix: Any) -> bool:
    """Whether every value is a whole number >= 0."""
    if not hasattr(matrix, "dtype") or matrix.dtype.kind not in "biuf" or hasattr(matrix, "dask"):
        return False
    return all(bool(np.all((v >= 0) & (v == np.rint(v)))) for v in _values(matrix))


def _values(matrix: Any) -> Iterator[np.ndarray]:
    """The stored values in flat pieces, so that a check never doubles the memory."""
    if sp.issparse(matrix):
        for start in range(0, matrix.data.size, _CHUNK):
            yield matrix.data[start : start + _CHUNK]
    else:
        rows = max(1, _CHUNK // max(1, matrix.shape[1]))
        for start in range(0, matrix.shape[0], rows):
            yield np.asarray(matrix[start : start + rows]).ravel()


def _refuse(matrix: Any, where: str, cells: pd.Index, genes: pd.Index, bad: Any, what: str, remedy: str) -> None:
    """Raise if `bad(values)` holds anywhere, naming the first place."""
    count, first, offset = 0, -1, 0
    for values in _values(matrix):
        flags = np.flatnonzero(bad(values))
        if flags.size and first < 0:
            first = offset + int(flags[0])
        count += flags.size
        offset += values.size
    if not count:
        return
    if sp.issparse(matrix):
        place = [int(np.searchsorted(matrix.indptr, first, side="right")) - 1, int(matrix.indices[first])]
        row, column = place if matrix.format == "csr" else place[::-1]
    else:
        row, column = divmod(first, matrix.shape[1])
    raise InvalidValue(
        f"{where}: {plural(count, 'value')} {what} (the first is {matrix[row, column]:g}, cell {cells[row]!r}, gene "
        f"{genes[column]!r}). {remedy}"
    )
