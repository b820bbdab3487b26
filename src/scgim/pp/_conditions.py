"""Conditions: which perturbations, at which doses, each cell received."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from .._errors import InvalidType, InvalidValue
from .._logging import logger
from .._validation import listing, plural, require_column, suggestion
from ._doses import clean_unit, common_unit, convert_dose, parse_dose
from ._labels import Part, condition_label, control_names, part_label, read_combinations, sort_parts, split_label

#: Text that stands for a missing label (`str(float("nan"))` is common in published files).
_MISSING = {"", "nan", "NaN", "<NA>"}
#: Why a cell has no condition; the last are controls, whose dose is ignored.
_NO_LABEL, _NO_DOSE, _DOSED = "no perturbation label", "no dose", "a control with a dose"
#: What pipelines write where no perturbation was found, in lower case.
_NO_PERTURBATION = {
    *("ambient", "ambiguous", "doublet", "doublets", "empty", "multiple", "multiplet", "multiplets", "n/a", "na"),
    *("nan", "nat", "negative", "no guide", "no_guide", "none", "null", "unassigned", "undetermined", "unknown"),
    *("unmapped", "unmatched"),
}


@dataclass(frozen=True)
class CellLabels:
    """What the columns of `obs` say about each cell, before any cell is left out."""

    conditions: list[tuple[Part, ...]]  # the parts of each condition, control first: ()
    codes: np.ndarray  # (cells,) index into conditions; -1 = dropped
    reasons: dict[str, np.ndarray]  # why cells were dropped -> bool (cells,)
    notation: dict[str, Any]  # how perturbations are written: control, combination_sep, has_dose, dose_unit

    @property
    def control(self) -> str:
        """What the control condition is called."""
        return str(self.notation["control"])


def text_labels(column: pd.Series) -> np.ndarray:
    """A column as stripped text, None where it is missing; (cells,) of objects. 0.0 is called `0`."""
    values = column.astype(object)
    try:
        codes, found = pd.factorize(values)
        odd = [value for value in found if not pd.api.types.is_scalar(value)]
    except TypeError:  # lists cannot be told apart
        odd = [value for value in values if not pd.api.types.is_scalar(value)]
    if odd:
        raise InvalidValue(
            f"adata.obs[{column.name!r}] holds {plural(len(odd), 'value')} of type {type(odd[0]).__name__} (the first "
            f"is {odd[0]!r}); a label is text or a number. Make them text first, such as 'A+B'."
        )
    names = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v).strip() for v in found]
    return np.array([*(None if name in _MISSING else name for name in names), None], dtype=object)[codes]


def label_cells(obs: pd.DataFrame, arguments: Mapping[str, Any], named: Iterable[str] = ()) -> CellLabels:
    """Read perturbations and doses of all cells; `arguments` of `prepare`, `named`: perturbations that are known."""
    perturbation_key, dose_key, control = (arguments[name] for name in ("perturbation_key", "dose_key", "control"))
    separator = arguments["combination_sep"]
    column = require_column(obs, perturbation_key, "perturbation_key")
    names = text_labels(column)
    doses, units = _dose_columns(obs, dose_key, arguments["dose_unit_key"])
    all_controls = _control_labels(control, names, column)
    kinds, codes = _unique_rows(names, doses, units)
    controls = control_names(all_controls, separator)
    pieces = read_combinations(
        sorted({n for n in names if n is not None}), separator, controls, {*named, *_with_own_doses(kinds, separator)}
    )
    parsed = [_read_kind(kind, dose_key, controls, separator, pieces) for kind in kinds]
    flags = {why: np.array([found == why for found in parsed])[codes] for why in (_NO_LABEL, _NO_DOSE, _DOSED)}
    ignored = flags.pop(_DOSED).sum()
    parsed = [[] if found == _DOSED else found for found in parsed]
    units_of = [(unit, name) for found in parsed if isinstance(found, list) for name, _, unit in found]
    unit = common_unit(units_of, dose_key or "")

    # Codes of conditions, with one order and one unit for the parts of each.
    index: dict[tuple[Part, ...], int] = {(): 0}
    kind_code = np.full(len(kinds), -1)
    for i, found in enumerate(parsed):
        if not isinstance(found, str):
            parts = sort_parts((name, convert_dose(d, u, unit) if dose_key else d) for name, d, u in found)
            kind_code[i] = index.setdefault(parts, len(index))
    cell_codes = kind_code[codes]
    if not (cell_codes == 0).any():
        _refuse_missing_control(names, control, perturbation_key, dose_key)
    elif dose_key is not None and control is not None and not np.isin(names, all_controls).any():
        logger.info(
            f"no cell is labelled {all_controls[0]!r} in obs[{perturbation_key!r}]: the controls are "
            f"{plural(int((cell_codes == 0).sum()), 'cell')} with dose 0 in obs[{dose_key!r}]."
        )
    if ignored:
        logger.warning(f"{ignored} control cells have a dose other than 0 in obs[{dose_key!r}]; it is ignored.")
    _warn_blanks(column)
    perturbations = {name for parts in index for name, _ in parts}
    _check_spelling(perturbations, [] if control is None else all_controls, names, pieces, perturbation_key)
    _refuse_ambiguous(list(index), all_controls[0])
    notation = {"control": all_controls[0], "combination_sep": separator}
    notation |= {"has_dose": dose_key is not None, "dose_unit": unit}
    reasons = {reason: where for reason, where in flags.items() if where.any()}
    return CellLabels(list(index), cell_codes, reasons, notation)


def _dose_columns(obs: pd.DataFrame, dose_key: str | None, dose_unit_key: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Doses and their units of each cell, None where there are none; (cells,) of objects each."""
    doses = units = np.full(len(obs), None, dtype=object)
    if dose_key is not None:
        doses = np.asarray(require_column(obs, dose_key, "dose_key").astype(object), dtype=object)
    if dose_unit_key is not None:
        if dose_key is None:
            raise InvalidValue(
                f"dose_unit_key={dose_unit_key!r} was given without dose_key; name the column with the doses."
            )
        units = text_labels(require_column(obs, dose_unit_key, "dose_unit_key"))
    return doses, units


def _control_labels(control: Any, names: np.ndarray, column: pd.Series) -> list[str]:
    """The control's labels as `text_labels` writes them, the first of which names the control condition.

    Of several, each must occur; a single one need not, where dose 0 tells.
    """
    if control is None:
        return ["control"]
    given = list(control) if isinstance(control, list | tuple | set | np.ndarray | pd.Index) else [control]
    if not given or any(value is None for value in given):
        raise InvalidType(f"control must be a label, a list of labels or None, got {control!r}.")
    present = [value for value in pd.unique(column.astype(object)) if pd.notna(value)]
    same = [next((v for v in present if isinstance(c, numbers.Real) and v == c), c) for c in given]
    texts = text_labels(pd.Series(same, name="control", dtype=object))
    controls = list(dict.fromkeys("" if text is None else text for text in texts))
    labels = {name for name in names if name is not None}
    absent = [label for label in controls if label not in labels] if len(controls) > 1 else []
    if absent:
        raise InvalidValue(
            f"control: {listing(absent)} is not a label in adata.obs[{column.name!r}]."
            f"{suggestion(absent[0], sorted(labels))} Leave it out, or correct it; the labels are "
            f"{listing(sorted(labels), most=30)}."
        )
    return controls


def _read_kind(
    kind: tuple[Any, ...],
    dose_key: str | None,
    controls: set[str],
    separator: str | None,
    pieces_of: Mapping[str, list[str]],
) -> str | list[tuple[str, float, str]]:
    """The parts (name, dose, unit) of one kind of cell (label, dose, unit), or the reason for leaving it out."""
    label, dose, unit = kind
    if label is None:
        return _NO_LABEL
    pieces = pieces_of[label]
    if controls.issuperset(pieces):
        return _DOSED if dose_key is not None and _is_nonzero(dose) else []
    if dose_key is None:
        return [(piece, math.nan, "") for piece in pieces if piece not in controls]
    parts, given = [], clean_unit(unit)
    try:
        for piece, (value, own_unit) in zip(pieces, _doses(dose, len(pieces), separator), strict=True):
            if piece in controls or value == 0:
                continue
            if math.isnan(value):
                return _NO_DOSE
            if not math.isfinite(value) or value < 0:
                raise InvalidValue("a dose must be finite and not negative")
            if own_unit and given and own_unit != given:
                raise InvalidValue(f"its unit differs from the one in the column of units ({given})")
            parts.append((piece, value, own_unit or given))
    except ValueError as why:
        shown = repr(dose) if isinstance(dose, str) else str(dose)
        raise InvalidValue(
            f"dose_key={dose_key!r}: {shown} (perturbation {label!r}) cannot be used: {why}. Correct "
            f"adata.obs[{dose_key!r}], or set it to NaN to leave those cells out."
        ) from why
    return parts


def _doses(dose: Any, n: int, separator: str | None) -> list[tuple[float, str]]:
    """One dose per piece: a single one serves all of them, `10+100` gives each its own."""
    try:
        return [parse_dose(dose)] * n
    except ValueError as error:
        texts = str(dose).split(separator) if separator else []
        if n == 1 or len(texts) != n:
            raise InvalidValue("it is not a number, nor a number with a unit such as '10 nM'") from error
    try:
        return [parse_dose(text) for text in texts]
    except ValueError as error:
        raise InvalidValue("not all of its doses are numbers, or numbers with a unit") from error


def _is_nonzero(dose: Any) -> bool:
    try:
        value = parse_dose(dose)[0]
    except ValueError:
        return False  # "vehicle" and the like
    return not math.isnan(value) and value != 0


def _with_own_doses(kinds: list[tuple[Any, ...]], separator: str | None) -> set[str]:
    """Perturbations of labels whose dose (`10+100`) has as many parts: these are combinations."""
    found: set[str] = set()
    for label, dose, _ in kinds:
        pieces = [] if label is None or not isinstance(dose, str) else split_label(label, separator)
        if len(pieces) > 1 and len(dose.split(separator)) == len(pieces):
            found |= set(pieces)
    return found


def _unique_rows(*columns: np.ndarray) -> tuple[list[tuple[Any, ...]], np.ndarray]:
    """The different rows of columns of objects, None where a value is missing, and the row of each cell."""
    codes, values = [], []
    for column in columns:
        try:
            code, found = pd.factorize(column)
        except TypeError as error:
            raise InvalidValue(f"A column of adata.obs holds something that is no label or number: {error}.") from error
        codes.append(np.where(code < 0, len(found), code))
        values.append([*found, None])
    shape = [len(found) for found in values]
    unique, inverse = np.unique(np.ravel_multi_index(codes, shape), return_inverse=True)
    places = zip(*np.unravel_index(unique, shape), strict=True)
    return [tuple(found[i] for found, i in zip(values, row, strict=True)) for row in places], inverse


def _refuse_missing_control(names: np.ndarray, control: Any, perturbation_key: str, dose_key: str | None) -> NoReturn:
    labels = sorted({name for name in names if name is not None})
    zero = f", and no cell has dose 0 in adata.obs[{dose_key!r}]" if dose_key is not None else ""
    column = f"adata.obs[{perturbation_key!r}]"
    found = "control=None" if control is None else f"control={control!r} is not a label in {column}"
    hint, place = ("", f" in {column}") if control is None else (suggestion(control, labels), "")
    raise InvalidValue(
        f"No control cells: {found}{zero}.{hint} Pass the label of the unperturbed cells{place} as control=; the "
        f"labels are {listing(labels, most=30)}."
    )


def _refuse_ambiguous(conditions: list[tuple[Part, ...]], control: str) -> None:
    owner: dict[str, tuple[Part, ...]] = {}
    for parts in conditions:
        for label, of in [(condition_label(parts, control), parts), *((part_label(*p), (p,)) for p in parts)]:
            if owner.setdefault(label, of) != of:
                raise InvalidValue(
                    f"Two different conditions would both be called {label!r}: {owner[label]} and {of}. "
                    "Rename one of the perturbations."
                )


def _warn_blanks(column: pd.Series) -> None:
    """Name the labels that outer blanks alone tell apart; they are taken as one."""
    texts = [value for value in pd.unique(column.astype(object)) if isinstance(value, str)]
    several = [same for _, same in sorted(_alike(texts, str.strip).items()) if len(same) > 1]
    if several:
        shown = "; ".join(listing(sorted(same)) for same in several[:10])
        logger.warning(
            f"adata.obs[{column.name!r}]: labels that differ only in outer blanks are taken as one: {shown}."
        )


def _check_spelling(
    perturbations: Iterable[str],
    controls: list[str],
    names: np.ndarray,
    pieces: Mapping[str, list[str]],
    perturbation_key: str,
) -> None:
    """Refuse perturbations that are the control in another spelling; warn of other labels that look wrong."""
    used, column = sorted(perturbations), f"adata.obs[{perturbation_key!r}]"
    cells: Counter[str] = Counter()
    for label, n in pd.Series(names, dtype=object).value_counts().items():
        cells.update(dict.fromkeys(pieces[str(label)], int(n)))

    def counted(some: list[str]) -> str:
        return ", ".join(f"{name!r} ({cells[name]} cells)" for name in some[:10])

    alike = _alike(used, _plain)
    for control in controls:
        same = alike.get(_plain(control), [])
        if same:
            raise InvalidValue(
                f"{column} holds {counted(same)} next to the control {control!r}, which differs only in case or "
                f"blanks. Pass control={[*controls, *same]!r} if all of them are unperturbed, or rename one."
            )
    for same in alike.values():
        if len(same) > 1:
            logger.warning(
                f"{column}: {counted(same)} differ only in case or blanks, and are taken as different perturbations. "
                "Rename them if they are one."
            )
    odd = [name for name in used if _plain(name) in _NO_PERTURBATION]
    if odd:
        logger.warning(
            f"{column}: {counted(odd)} taken as a perturbation each. If those cells have none, set their label to NaN "
            "to leave them out, or name it in control= if they are unperturbed."
        )


def _alike(texts: Iterable[str], plain: Callable[[str], str]) -> dict[str, list[str]]:
    """Plain form -> the texts that have it."""
    found: dict[str, list[str]] = {}
    for text in texts:
        found.setdefault(plain(text), []).append(text)
    return found


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
