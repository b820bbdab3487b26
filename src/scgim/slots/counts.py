"""Raw counts of the modelled genes, with the size factor and the batch of every cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from .._errors import InvalidValue, NotFound
from .._validation import listing, plural, require_column
from .entry import Entry, dense
from .keys import COUNTS_LAYER

if TYPE_CHECKING:
    from anndata import AnnData

#: From here on, float32 has gaps between whole numbers.
MOST = 2**24
#: With fewer counts of other genes in a middling control cell, these tell its depth worse than all counts do (`own`).
LEAST_REST = 20
#: `adata.X` and log1p(counts / size factor) agree to so much.
_CLOSE = 1e-4
#: Cells without a count of any modelled gene are looked at in all genes, so many at a time.
_CHUNK = 256
#: Whether counts are whole is looked up in so many cells: a file on disk is not read once more for it.
_LOOK = 10_000
_LAYER = f"adata.layers[{COUNTS_LAYER!r}]"


@dataclass(frozen=True, eq=False)
class Measured:
    """What was counted of cells.

    counts (cells, genes) float32; size_factor (cells,) float64, of a cell's depth; divisor (cells,) float64, by which
    X was divided; batch (cells,) int, rows of `batches`; batches: their names; size_unit: what the column `size_key`
    was divided by; size_key, batch_key: columns of `obs`, or None.

    rest: share of control cells' counts that genes which are not modelled hold, where size factors are of these. They
    tell the depth without what happens to modelled genes: where a gene with many counts rises, all others would seem
    to fall, and to depend on it. None: size factors are of all counts, or the user's. total: counts of a cell at
    divisor 1.
    """

    counts: np.ndarray
    size_factor: np.ndarray
    divisor: np.ndarray
    batch: np.ndarray
    batches: tuple[str, ...] = ()
    size_unit: float = 1.0
    size_key: str | None = None
    batch_key: str | None = None
    rest: float | None = None
    total: float = 1.0

    @classmethod
    def read(
        cls,
        entry: Entry,
        adata: AnnData,
        rows: np.ndarray,
        x: np.ndarray,
        *,
        size_key: str | None = None,
        batch_key: str | None = None,
        control: np.ndarray | None = None,
        record: dict[str, Any] | None = None,
    ) -> Self:
        """Of some cells, checked.

        Parameters
        ----------
        entry, adata
            What was prepared, and the cells.
        rows, x
            Which cells, and what `entry.read_cells` gave of them.
        size_key, batch_key, control
            Of a fit to come: columns of `obs`, and which of the cells are controls, (cells,) bool.
        record
            Of a fit that there is: its `record`, in place of the other three.

        Raises
        ------
        KeyError, ValueError
            Where the counts or a column are missing or not what they have to be.
        """
        if record is not None:
            size_key, batch_key = record["size_key"], record["batch_key"]
        counts, size = _counts(entry, adata, rows, x)
        found = cls(
            counts, size, size, np.zeros(len(rows), dtype=np.int64), size_key=size_key, batch_key=batch_key,
            total=float(entry.prepared["params"]["target_sum"]),
        )  # fmt: skip
        if size_key is None:
            found = found._by_the_rest(control, record)
        else:
            sizes = _sizes(adata, rows, size_key)
            if record is None:
                assert control is not None
                unit = float(np.median(sizes[control])) if control.any() else 1.0
            else:
                unit = float(record["size_unit"])
            found = replace(found, size_factor=sizes / unit, size_unit=unit)
        if batch_key is not None:
            known = None if record is None else [str(name) for name in record["batches"]]
            code, names = _batches(adata, rows, batch_key, known)
            found = replace(found, batch=code, batches=tuple(names))
        return found

    def _by_the_rest(self, control: np.ndarray | None, record: Mapping[str, Any] | None) -> Self:
        """The same with size factors of genes that are not modelled, where these have the counts for it."""
        others = self.total * self.divisor - self.counts.sum(axis=1, dtype=np.float64)
        if record is not None:
            share = record.get("rest")
        else:
            own, depth = others[control], self.divisor[control]
            enough = len(own) > 0 and np.median(own) >= LEAST_REST
            share = float(own.sum() / (self.total * depth.sum())) if enough else None
        if share is None:
            return self
        # No cell without any: half of it would not be known.
        return replace(self, size_factor=np.maximum(others, 1.0) / (share * self.total), rest=share)

    @property
    def record(self) -> dict[str, Any]:
        """What is stored with a fit, to read other cells in the same way."""
        names = np.array(self.batches, dtype=object)
        return {
            "size_key": self.size_key, "size_unit": self.size_unit, "batch_key": self.batch_key, "batches": names,
            "rest": self.rest, "total": self.total,
        }  # fmt: skip


def _counts(entry: Entry, adata: AnnData, rows: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the modelled genes (cells, genes), and the size factors (cells,) by which `pp.prepare` divided.

    `X = log1p(counts / size factor)`, so every entry with a count tells the size factor of its cell.
    """
    kind = str(entry.arguments["input"])
    if kind != "counts":
        raise InvalidValue(
            f"{entry.keys.prefix!r} was prepared with input={kind!r}, but mechanism='count' needs raw counts: run "
            "scgim.pp.prepare on them (input=\"counts\", layer= where they are), or pass mechanism='ziln' or 'mlp'."
        )
    if COUNTS_LAYER not in adata.layers:
        raise NotFound(
            f"{_LAYER} is missing, where scgim.pp.prepare left the raw counts. Put them back, or read the original "
            "file; or pass mechanism='ziln'."
        )
    values = _layer(adata, rows, entry.positions(adata))
    check_counts(values, adata.obs_names[rows], entry.genes, _LAYER)
    counts = values.astype(np.float32)
    size = _size_factors(counts, x)
    empty = np.flatnonzero(np.isnan(size))
    if entry.keys.size_factor in adata.obs:  # genes may be on disk, or left out
        size[empty] = adata.obs[entry.keys.size_factor].to_numpy(dtype=np.float64)[rows[empty]]
        empty = empty[np.isnan(size[empty])]
    for some in np.split(empty, range(_CHUNK, len(empty), _CHUNK)):
        if len(some):
            own = np.arange(adata.n_vars)
            size[some] = _size_factors(_layer(adata, rows[some], own), dense(adata[rows[some]].X))
    with np.errstate(invalid="ignore"):
        agree = (np.abs(np.log1p(counts / size[:, None]) - x) <= _CLOSE).all(axis=1)
    changed = ~agree & ~np.isnan(size)
    if changed.any():
        raise InvalidValue(
            f"{_LAYER} does not agree with adata.X in {changed.sum()} of {plural(len(rows), 'cell')} (the first is "
            f"{str(adata.obs_names[rows[np.argmax(changed)]])!r}): one of them was changed after scgim.pp.prepare. Run "
            'it again with layer="counts", or read the original file.'
        )
    if np.isnan(size).any():
        lost = adata.obs_names[rows[np.isnan(size)]]
        raise InvalidValue(
            f"{plural(len(lost), 'cell')} without any count in the genes that are left, so that the depth is not "
            f"known: {listing(lost, most=5)}. Fit before genes are taken out of adata."
        )
    return counts, size


def why_not_counted(adata: AnnData, entry: Entry) -> str | None:
    """What speaks against a model of raw counts, though all else may be well; None: nothing in the first cells."""
    if COUNTS_LAYER not in adata.layers:
        return f"{_LAYER} is missing"
    values = _layer(adata, np.arange(min(adata.n_obs, _LOOK)), entry.positions(adata))
    if np.isfinite(values).all() and (values != np.rint(values)).any():
        return f"{_LAYER} holds values that are not whole"
    return None


def check_counts(values: np.ndarray, cells: Sequence[Any], genes: Sequence[Any], where: str) -> None:
    """Refuse what no count can be, naming the first place; values (cells, genes)."""
    checks: list[tuple[Callable[[np.ndarray], np.ndarray], str, str]] = [
        (lambda v: ~np.isfinite(v), "NaN or infinite", "Put the raw counts back"),
        (lambda v: v < 0, "negative", "Put the raw counts back"),
        (lambda v: v != np.rint(v), "not whole", "Put the raw counts back; round them if they are estimated"),
        (lambda v: v >= MOST, "2^24 or more", "Leave such genes out, or check what was counted"),
    ]
    for bad, what, remedy in checks:
        flags = bad(values)
        if flags.any():
            row, column = np.argwhere(flags)[0]
            raise InvalidValue(
                f"{where}: {plural(int(flags.sum()), 'value')} of modelled genes {what} (the first is "
                f"{values[row, column]:g}, cell {str(cells[row])!r}, gene {genes[column]!r}), but mechanism='count' "
                f"needs raw counts. {remedy}, and run scgim.pp.prepare again; or pass mechanism='ziln'."
            )


def _layer(adata: AnnData, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Counts of some cells and genes as they are stored, but dense."""
    order = np.argsort(places, kind="stable")
    values = adata[rows, places[order]].layers[COUNTS_LAYER]
    for convert in ("compute", "toarray"):  # Dask, then sparse
        if hasattr(values, convert):
            values = getattr(values, convert)()
    out = np.empty(values.shape, dtype=values.dtype)
    out[:, order] = np.asarray(values)
    return out


def _size_factors(counts: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(cells,) the median over genes with a count; NaN where there is none."""
    ratio = np.full(x.shape, np.nan)
    told = (counts > 0) & (x > 0)
    ratio[told] = counts[told] / np.expm1(x[told].astype(np.float64))
    out = np.full(len(x), np.nan)
    some = told.any(axis=1)
    out[some] = np.nanmedian(ratio[some], axis=1)
    return out


def _sizes(adata: AnnData, rows: np.ndarray, size_key: str) -> np.ndarray:
    """(cells,) the user's size factors."""
    column = require_column(adata.obs, size_key, "size_key").iloc[rows]
    sizes = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isfinite(sizes) | (sizes <= 0)
    if bad.any():
        first = column.iloc[int(np.argmax(bad))]
        raise InvalidValue(
            f"size_key={size_key!r}: {plural(int(bad.sum()), 'cell')} without a size factor above 0 (the first is "
            f"{column.index[int(np.argmax(bad))]!r}, {first!r}). Give every modelled cell one, or leave size_key out: "
            "total counts are then used."
        )
    return sizes


def _batches(
    adata: AnnData, rows: np.ndarray, batch_key: str, known: Sequence[str] | None
) -> tuple[np.ndarray, Sequence[str]]:
    """(cells,) code of the batch, and the names of the batches, sorted; or codes of `known` batches."""
    column = require_column(adata.obs, batch_key, "batch_key").iloc[rows].astype(object)
    missing = pd.isna(column).to_numpy()
    if missing.any():
        raise InvalidValue(
            f"batch_key={batch_key!r}: {plural(int(missing.sum()), 'cell')} without a batch (the first is "
            f"{column.index[int(np.argmax(missing))]!r}). Fill adata.obs[{batch_key!r}], or leave batch_key out."
        )
    values = np.array([str(value) for value in column], dtype=object)
    names = sorted(set(values)) if known is None else list(known)
    code = pd.Index(names, dtype=object).get_indexer(values)
    if (code < 0).any():
        new = sorted(set(values[code < 0]))
        raise InvalidValue(
            f"batch_key={batch_key!r}: {listing(new)} had no cells in the fit, whose batches are {listing(names)}; the "
            "rates of genes there are not known. Leave these cells out, or fit again with them."
        )
    return code.astype(np.int64), names
