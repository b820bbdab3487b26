"""Names: what a label says, and the labels of parts and conditions."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .combinations import control_names, split_name
from .doses import convert_dose, parse_dose

#: One perturbation and its dose (NaN where there is none).
Part = tuple[str, float]


def part_label(perturbation: str, dose: float = math.nan) -> str:
    """`Dacinostat_10000`, or the name alone where there is no dose.

    The `+` of an exponent is left out (`1e06`), since it separates the parts of a condition.
    """
    return perturbation if math.isnan(dose) else f"{perturbation}_{dose:g}".replace("e+", "e")


def condition_label(parts: Iterable[Part], control: str) -> str:
    """The labels of the parts, joined by `+`; the control label where there are none."""
    return "+".join(part_label(*part) for part in parts) or control


def sort_parts(parts: Iterable[Part]) -> tuple[Part, ...]:
    """One order (and one copy of each part), so that `A+B` and `B+A` are one condition."""
    unique = {part_label(*part): part for part in parts}
    return tuple(sorted(unique.values(), key=part_order))


def part_order(part: Part) -> tuple[str, float]:
    """Sorting key: by name, then by dose."""
    return part[0], -1.0 if math.isnan(part[1]) else part[1]


def parse_perturbations(
    perturbations: Any,
    *,
    control: str,
    combination_sep: str | None = "+",
    has_dose: bool,
    dose_unit: str = "",
    known: Mapping[str, Iterable[Part]] | None = None,
) -> list[tuple[str, list[Part]]]:
    """Perturbations as people write them, as condition labels and parts.

    Parameters
    ----------
    perturbations
        One of these, or a list of them: a name (`"KLF1"`, `"KLF1+MAP2K6"`), the label of a known condition
        (`"Dacinostat_10000"`), the control's label, a pair of name and dose (`("Dacinostat", 10_000)`,
        `("Dacinostat", "10 uM")`), or a list of pairs or names that are applied together.
    control
        Label of the control condition.
    combination_sep
        What separates the names in a combination; None if nothing does. A known name that contains it stays one.
    has_dose
        Whether the perturbations have doses.
    dose_unit
        Unit of the doses in the model; text with another unit is converted.
    known
        Condition label -> its parts, for conditions that exist.

    Returns
    -------
    For each perturbation its condition label and its parts (name, dose), in one fixed order; no parts for
    the control.

    Raises
    ------
    ValueError
        If a dose is missing, superfluous, not positive or in a unit that cannot be converted.
    TypeError
        If an entry is none of the above.

    Examples
    --------
    >>> from scgim.pp import parse_perturbations
    >>> parse_perturbations(["B+A", "control"], control="control", has_dose=False)
    [('A+B', [('A', nan), ('B', nan)]), ('control', [])]
    >>> parse_perturbations(("A", "1 uM"), control="control", has_dose=True, dose_unit="nM")
    [('A_1000', [('A', 1000.0)])]
    """
    known = known or {}
    names = {name for parts in known.values() for name, _ in parts}
    entries = [perturbations] if _is_one(perturbations) else perturbations
    if isinstance(entries, Mapping) or not isinstance(entries, Iterable):
        raise TypeError(
            f"perturbations must be names, pairs of name and dose, or a list of them, got {perturbations!r}."
        )
    parsed = []
    for entry in entries:
        if isinstance(entry, str) and entry.strip() in known:
            parts = sort_parts(known[entry.strip()])
        else:
            pieces = [entry] if _is_one(entry) else entry
            if not isinstance(pieces, list | tuple) or not pieces:
                raise TypeError(
                    f"{entry!r} is not a perturbation: give a name, a pair of name and dose, or a list of them."
                )
            found = [_split(piece, control, combination_sep, names) for piece in pieces]
            parts = sort_parts(part for own in found for part in _with_dose(*own, control, has_dose, dose_unit))
        parsed.append((condition_label(parts, control), list(parts)))
    return parsed


def _is_one(entry: Any) -> bool:
    """Whether `entry` is a name or a pair of name and dose (and not a list of perturbations)."""
    if isinstance(entry, str):
        return True
    if not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[0], str):
        return False
    return entry[1] is None or isinstance(entry[1], numbers.Real) or _is_dose(entry[1])


def _is_dose(value: Any) -> bool:
    try:
        return isinstance(value, str) and not np.isnan(parse_dose(value)[0])
    except ValueError:
        return False


def _split(piece: Any, control: str, separator: str | None, known: set[str]) -> tuple[str, list[str], Any]:
    """The name that was given, the perturbations in it (none for the control), and the dose."""
    if not _is_one(piece):
        raise TypeError(f"{piece!r} is not a perturbation: give a name or a pair of name and dose.")
    name, dose = (piece, None) if isinstance(piece, str) else piece
    name, nothing = name.strip(), control_names([control], separator)
    if not name:
        raise ValueError("A perturbation has an empty name.")
    if name == control:
        return name, [], dose
    return name, [n for n in split_name(name, separator, known | nothing) if n not in nothing], dose


def _with_dose(name: str, names: list[str], dose: Any, control: str, has_dose: bool, dose_unit: str) -> list[Part]:
    if not names:
        return []
    missing = dose is None or (isinstance(dose, float) and math.isnan(dose))
    if not has_dose:
        if not missing:
            raise ValueError(
                f"{name!r} is given the dose {dose!r}, but the data were prepared without doses; leave it out."
            )
        return [(n, math.nan) for n in names]
    if missing:
        raise ValueError(f"{name!r} needs a dose: write ({name!r}, dose).")
    value, unit = parse_dose(dose)
    if not math.isfinite(value) or value <= 0:
        raise ValueError(
            f"The dose of {name!r} must be positive and finite, got {dose!r}; for no dose ask for {control!r}."
        )
    value = convert_dose(value, unit, dose_unit)
    return [(n, value) for n in names]
