"""Conditions: which perturbations, at which doses, each cell received."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from .._logging import logger
from .._validation import listing, plural, require_column, suggestion
from .combinations import control_names, read_combinations, split_label
from .doses import clean_unit, common_unit, convert_dose, parse_dose
from .labels import Part, condition_label, part_label, sort_parts
from .spelling import check_spelling, warn_blanks

#: Text that stands for a missing label (`str(float("nan"))` is common in published files).
_MISSING = {"", "nan", "NaN", "<NA>"}
NO_LABEL = "no perturbation label"
NO_DOSE = "no dose"


@dataclass(frozen=True)
class CellLabels:
    """What the columns of `obs` say about each cell, before any cell is left out."""

    conditions: list[tuple[Part, ...]]  # the parts of each condition, control first: ()
    codes: np.ndarray  # (cells,) index into conditions; -1 = dropped
    reasons: dict[str, np.ndarray]  # why cells were dropped -> bool (cells,)
    control: str  # what the control condition is called
    dose_unit: str
    has_dose: bool


def text_labels(column: pd.Series) -> np.ndarray:
    """A column as stripped text, None where it is missing; (cells,) of objects. 0.0 is called `0`."""
    values = column.astype(object)
    try:
        codes, found = pd.factorize(values)
        odd = [value for value in found if not pd.api.types.is_scalar(value)]
    except TypeError:  # lists cannot be told apart
        odd = [value for value in values if not pd.api.types.is_scalar(value)]
    if odd:
        raise ValueError(
            f"adata.obs[{column.name!r}] holds {plural(len(odd), 'value')} of type {type(odd[0]).__name__} (the first "
            f"is {odd[0]!r}); a label is text or a number. Make them text first, such as 'A+B'."
        )
    names = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v).strip() for v in found]
    return np.array([*(None if name in _MISSING else name for name in names), None], dtype=object)[codes]


def control_labels(control: Any, column: pd.Series) -> list[str]:
    """The control's labels as `text_labels` writes them, the first of which names the control condition."""
    if control is None:
        return ["control"]
    given = list(control) if isinstance(control, list | tuple | set | np.ndarray | pd.Index) else [control]
    if not given or any(value is None for value in given):
        raise TypeError(f"control must be a label, a list of labels or None, got {control!r}.")
    present = [value for value in pd.unique(column.astype(object)) if pd.notna(value)]
    same = [[v for v in present if isinstance(c, numbers.Real) and v == c] or [c] for c in given]
    names = text_labels(pd.Series([own[0] for own in same], name="control", dtype=object))
    return list(dict.fromkeys("" if name is None else name for name in names))


def label_cells(
    obs: pd.DataFrame,
    *,
    perturbation_key: str,
    dose_key: str | None,
    dose_unit_key: str | None,
    control: Any,
    combination_sep: str | None,
    named: Iterable[str] = (),
) -> CellLabels:
    """Read perturbations and doses of all cells; the arguments are those of `prepare`, `named` perturbations known."""
    column = require_column(obs, perturbation_key, "perturbation_key")
    names = text_labels(column)
    doses = units = np.full(len(obs), None, dtype=object)
    if dose_key is not None:
        doses = np.asarray(require_column(obs, dose_key, "dose_key").astype(object), dtype=object)
    if dose_unit_key is not None:
        if dose_key is None:
            raise ValueError(
                f"dose_unit_key={dose_unit_key!r} was given without dose_key; name the column with the doses."
            )
        units = text_labels(require_column(obs, dose_unit_key, "dose_unit_key"))
    all_controls = control_labels(control, column)
    control_label = all_controls[0]
    _refuse_absent(names, all_controls, perturbation_key)
    kinds, codes = _unique_rows(names, doses, units)
    controls = control_names(all_controls, combination_sep)
    named = {*named, *_with_own_doses(kinds, combination_sep)}
    pieces = read_combinations(sorted({n for n in names if n is not None}), combination_sep, controls, named)
    read = _Reader(perturbation_key, dose_key, controls, combination_sep, pieces)
    parsed = [read(*kind) for kind in kinds]
    unit = common_unit(read.units, dose_key or "")

    # Codes of conditions, with one order and one unit for the parts of each.
    index: dict[tuple[Part, ...], int] = {(): 0}
    kind_code = np.full(len(kinds), -1)
    for i, found in enumerate(parsed):
        if not isinstance(found, str):
            parts = sort_parts((name, convert_dose(d, u, unit) if dose_key else d) for name, d, u in found)
            kind_code[i] = index.setdefault(parts, len(index))
    cell_codes = kind_code[codes]
    reasons = {}
    for reason in (NO_LABEL, NO_DOSE):
        flags = np.array([found == reason for found in parsed])[codes]
        if flags.any():
            reasons[reason] = flags
    if not (cell_codes == 0).any():
        _refuse_missing_control(names, control, perturbation_key, dose_key)
    elif dose_key is not None and control is not None and not np.isin(names, all_controls).any():
        logger.info(
            "no cell is labelled %r in obs[%r]: the %d cells with dose 0 in obs[%r] are the controls.",
            control_label,
            perturbation_key,
            (cell_codes == 0).sum(),
            dose_key,
        )
    ignored = np.array([i in read.dosed_controls for i in range(len(kinds))])[codes].sum() if read.dosed_controls else 0
    if ignored:
        logger.warning("%d control cells have a dose other than 0 in obs[%r]; it is ignored.", ignored, dose_key)
    warn_blanks(column)
    used = {part[0] for parts in index for part in parts}
    check_spelling(used, [] if control is None else all_controls, names, pieces, perturbation_key)
    _refuse_ambiguous(list(index), control_label)
    return CellLabels(list(index), cell_codes, reasons, control_label, unit, dose_key is not None)


class _Reader:
    """Reads one (label, dose, unit), remembering which units were used by what."""

    def __init__(
        self,
        perturbation_key: str,
        dose_key: str | None,
        controls: set[str],
        separator: str | None,
        pieces: dict[str, list[str]],
    ) -> None:
        self.perturbation_key, self.dose_key = perturbation_key, dose_key
        self.controls, self.separator, self.pieces = controls, separator, pieces
        self.units: dict[str, set[str]] = {}
        self.dosed_controls: set[int] = set()
        self._calls = -1

    def __call__(self, label: str | None, dose: Any, unit: str | None) -> str | list[tuple[str, float, str]]:
        """The parts of one kind of cell, or the reason for leaving it out."""
        self._calls += 1
        if label is None:
            return NO_LABEL
        pieces = self.pieces[label]
        if all(piece in self.controls for piece in pieces):
            if self.dose_key is not None and self._is_nonzero(dose):
                self.dosed_controls.add(self._calls)
            return []
        if self.dose_key is None:
            return [(piece, math.nan, "") for piece in pieces if piece not in self.controls]
        parts = []
        for piece, (value, own_unit) in zip(pieces, self._doses(label, dose, len(pieces)), strict=True):
            if piece in self.controls or value == 0:
                continue
            if math.isnan(value):
                return NO_DOSE
            if not math.isfinite(value) or value < 0:
                self._refuse(label, dose, "a dose must be finite and not negative")
            parts.append((piece, value, self._unit(label, dose, own_unit, unit)))
        for piece, _, used in parts:
            self.units.setdefault(used, set()).add(piece)
        return parts

    def _doses(self, label: str, dose: Any, n: int) -> list[tuple[float, str]]:
        """One dose per piece: a single one serves all of them, `10+100` gives each its own."""
        try:
            return [parse_dose(dose)] * n
        except ValueError:
            texts = str(dose).split(self.separator) if self.separator else []
            if n == 1 or len(texts) != n:
                self._refuse(label, dose, "it is not a number, nor a number with a unit such as '10 nM'")
        try:
            return [parse_dose(text) for text in texts]
        except ValueError:
            self._refuse(label, dose, "not all of its doses are numbers, or numbers with a unit")

    def _unit(self, label: str, dose: Any, own: str, column: str | None) -> str:
        given = clean_unit(column)
        if own and given and own != given:
            self._refuse(label, dose, f"its unit differs from the one in the column of units ({given})")
        return own or given

    def _is_nonzero(self, dose: Any) -> bool:
        try:
            value = parse_dose(dose)[0]
        except ValueError:
            return False  # "vehicle" and the like
        return not math.isnan(value) and value != 0

    def _refuse(self, label: str, dose: Any, why: str) -> NoReturn:
        shown = repr(dose) if isinstance(dose, str) else str(dose)
        raise ValueError(
            f"dose_key={self.dose_key!r}: {shown} (perturbation {label!r}) cannot be used: {why}. Correct "
            f"adata.obs[{self.dose_key!r}], or set it to NaN to leave those cells out."
        )


def _with_own_doses(kinds: list[tuple[Any, ...]], separator: str | None) -> set[str]:
    """Perturbations of labels whose dose (`10+100`) has as many parts: these are combinations."""
    found: set[str] = set()
    for label, dose, _ in kinds:
        pieces = [] if label is None or not isinstance(dose, str) else split_label(label, separator)
        if len(pieces) > 1 and len(dose.split(separator)) == len(pieces):
            found |= set(pieces)
    return found


def _unique_rows(*columns: np.ndarray) -> tuple[list[tuple[Any, ...]], np.ndarray]:
    """The different rows of columns of objects, and the row of each cell."""
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    values = []
    for column in columns:
        try:
            code, found = pd.factorize(column)
        except TypeError as error:
            raise ValueError(f"A column of adata.obs holds something that is no label or number: {error}.") from error
        values.append([*found, None])
        codes = codes * len(values[-1]) + np.where(code < 0, len(found), code)
    unique, inverse = np.unique(codes, return_inverse=True)
    rows = []
    for code in unique.tolist():
        row: list[Any] = []
        for found in reversed(values):
            code, at = divmod(code, len(found))
            row.append(found[at])
        rows.append(tuple(reversed(row)))
    return rows, inverse


def _refuse_absent(names: np.ndarray, controls: list[str], perturbation_key: str) -> None:
    """Of several labels of the control, each must occur; a single one may not, where dose 0 tells."""
    labels = {name for name in names if name is not None}
    absent = [control for control in controls if control not in labels] if len(controls) > 1 else []
    if absent:
        raise ValueError(
            f"control: {listing(absent)} is not a label in adata.obs[{perturbation_key!r}]."
            f"{suggestion(absent[0], sorted(labels))} Leave it out, or correct it; the labels are "
            f"{listing(sorted(labels), most=30)}."
        )


def _refuse_missing_control(names: np.ndarray, control: Any, perturbation_key: str, dose_key: str | None) -> None:
    labels = sorted({name for name in names if name is not None})
    zero = f", and no cell has dose 0 in adata.obs[{dose_key!r}]" if dose_key is not None else ""
    if control is None:
        raise ValueError(
            f"No control cells: control=None{zero}. Pass the label of the unperturbed cells in "
            f"adata.obs[{perturbation_key!r}] as control=; the labels are {listing(labels, most=30)}."
        )
    raise ValueError(
        f"No control cells: control={control!r} is not a label in adata.obs[{perturbation_key!r}]{zero}."
        f"{suggestion(control, labels)} Pass the label of the unperturbed cells as control=; the labels are "
        f"{listing(labels, most=30)}."
    )


def _refuse_ambiguous(conditions: list[tuple[Part, ...]], control: str) -> None:
    owner: dict[str, tuple[Part, ...]] = {}
    for parts in conditions:
        for label, of in [(condition_label(parts, control), parts), *((part_label(*p), (p,)) for p in parts)]:
            if owner.setdefault(label, of) != of:
                raise ValueError(
                    f"Two different conditions would both be called {label!r}: {owner[label]} and {of}. "
                    "Rename one of the perturbations."
                )
