"""Labels: which perturbations a label names, and what parts and conditions are called."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .._errors import InvalidType, InvalidValue
from .._logging import logger
from .._validation import listing, plural
from ..slots import Part
from ._doses import convert_dose, parse_dose

#: Separators that are common inside names ("HLA_A", "HLA-A"): only names that are known make a combination.
_IN_NAMES = "_-.:/ "


def part_label(perturbation: str, dose: float = math.nan) -> str:
    """`Dacinostat_10000`, or the name alone where there is no dose; without the `+` of an exponent (`1e06`)."""
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


def split_label(label: str, separator: str | None) -> list[str]:
    """The pieces of a label; a separator inside brackets or at an end belongs to the name (`(+)-JQ1`, `CD4+`)."""
    if not separator or separator not in label:
        return [label]
    pieces, depth, start, i = [], 0, 0, 0
    while i < len(label):
        if label[i] in "([{":
            depth += 1
        elif label[i] in ")]}":
            depth = max(0, depth - 1)
        if depth == 0 and label.startswith(separator, i):
            pieces.append(label[start:i].strip())
            i = start = i + len(separator)
        else:
            i += 1
    pieces.append(label[start:].strip())
    return pieces if all(pieces) else [label]


def control_names(controls: Iterable[str], separator: str | None) -> set[str]:
    """What names the control: its labels, and the `NT` of `NT+NT`."""
    names = set(controls)
    for control in controls:
        pieces = set(split_label(control, separator))
        names |= pieces if len(pieces) == 1 else set()
    return names


def split_name(name: str, separator: str | None, known: Iterable[str]) -> list[str]:
    """The perturbations in a name that is asked for, given those that are known."""
    names = set(known)
    pieces = split_label(name, separator)
    if name in names or separator is None or len(pieces) == 1:
        return [name]
    if names.issuperset(pieces):
        return pieces
    joined = _join(pieces, separator, _spelled(names, separator))
    return joined or (pieces if _is_clean(name, pieces, separator) else [name])


def read_combinations(
    labels: Iterable[str], separator: str | None, controls: set[str], named: Iterable[str] = ()
) -> dict[str, list[str]]:
    """The perturbations of each label of a column, by the rule that `prepare` documents; warns of what is not sure.

    `controls`: what names the control; `named`: perturbations that are known from elsewhere.
    """
    read = {label: [label] if label in controls else split_label(label, separator) for label in labels}
    several = {label: pieces for label, pieces in read.items() if len(pieces) > 1}
    if not several or separator is None:
        return read
    single = {label for label in read if label not in several} | set(named)
    for pieces in several.values():  # "A+control" is A alone
        rest = set(pieces) - controls
        single |= rest if len(rest) == 1 else set()
    found = _combinations(several, separator, single | controls)
    whole = [label for label in several if label not in found]
    unsure = sorted({piece for label in found for piece in found[label]} - single - controls - set(whole))
    if unsure:
        example = next(label for label, pieces in sorted(found.items()) if unsure[0] in pieces)
        never = f"{plural(len(unsure), 'perturbation')} never occur{'s' * (len(unsure) == 1)} alone"
        logger.warning(
            f"combination_sep={separator!r}: {never}: {listing(unsure)} ({unsure[0]!r} is in {example!r}). "
            "Where such a label is one name, rename it; combination_sep=None takes every label as one."
        )
    if whole:
        logger.warning(
            f"combination_sep={separator!r}: {listing(sorted(whole))} taken as one perturbation each, since nothing "
            "shows that their parts are perturbations. If no label is a combination, pass combination_sep=None. If "
            "these are, write '||' between their parts and pass combination_sep='||': a separator of several "
            "characters always separates."
        )
    return {label: found.get(label, [label] if label in several else read[label]) for label in read}


def _combinations(several: Mapping[str, list[str]], separator: str, known: set[str]) -> dict[str, list[str]]:
    """The labels that are combinations, with their pieces."""
    if len(separator) > 1:
        return dict(several)
    found = {label: pieces for label, pieces in several.items() if known.issuperset(pieces)}
    in_names = separator in _IN_NAMES
    if in_names:  # "HLA_A" is a name where "HLA_A_KLF1" and "KLF1" occur
        whole = set()
        spelled = _spelled(known | several.keys(), separator)
        for label in sorted(several.keys() - found.keys()):
            joined = _join(several[label], separator, spelled)
            if joined:
                found[label] = joined
                whole |= set(joined) - found.keys()
        several = {label: pieces for label, pieces in several.items() if label not in whole}
    left = {label: p for label, p in several.items() if label not in found and _is_clean(label, p, separator)}
    if not in_names:  # what several labels share is a perturbation
        seen = Counter(piece for pieces in left.values() for piece in set(pieces))
        known = known | {piece for piece, n in seen.items() if n > 1}
    while more := {label: pieces for label, pieces in left.items() if label not in found and known & set(pieces)}:
        found |= more
        known = known.union(*more.values())
    # Where most labels with the separator are combinations, it means the same in the others.
    return found | (left if len(found) > len(several) - len(found) and not in_names else {})


def _spelled(names: Iterable[str], separator: str) -> dict[str, str]:
    """Each name by its pieces, without the blanks around separators."""
    return {separator.join(split_label(name, separator)): name for name in names}


def _join(pieces: list[str], separator: str, spelled: Mapping[str, str]) -> list[str]:
    """The pieces put together to two or more known names, the longest first; empty where that cannot be."""

    def rest(start: int) -> list[str] | None:
        if start == len(pieces):
            return []
        for end in range(len(pieces), start, -1):
            name = separator.join(pieces[start:end])
            after = rest(end) if name in spelled and end - start < len(pieces) else None
            if after is not None:
                return [spelled[name], *after]
        return None

    return rest(0) or []


def _is_clean(label: str, pieces: list[str], separator: str) -> bool:
    """Whether the separator stands between things that look like names: not so in `Mg2+ chelator`, `Na+/K+ channel`."""
    if separator == "+" and any(label[i + 1 : i + 2] == " " != label[i - 1] for i, c in enumerate(label) if c == "+"):
        return False
    return all((p[0].isalnum() or p[0] in "([{") and (p[-1].isalnum() or p[-1] in ")]}'*") for p in pieces)


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
    nothing = control_names([control], combination_sep)
    entries = [perturbations] if _is_one(perturbations) else perturbations
    if isinstance(entries, Mapping) or not isinstance(entries, Iterable):
        raise InvalidType(
            f"perturbations must be names, pairs of name and dose, or a list of them, got {perturbations!r}."
        )

    def parts_of(piece: Any) -> list[Part]:
        name, dose = (piece, None) if isinstance(piece, str) else piece
        name = name.strip()
        if not name:
            raise InvalidValue("A perturbation has an empty name.")
        several = [n for n in split_name(name, combination_sep, names | nothing) if n not in nothing]
        value = _checked_dose(name, dose, control, has_dose, dose_unit) if several else math.nan
        return [(n, value) for n in several]

    parsed = []
    for entry in entries:
        if isinstance(entry, str) and entry.strip() in known:
            parts = sort_parts(known[entry.strip()])
        else:
            pieces = [entry] if _is_one(entry) else entry
            if not isinstance(pieces, list | tuple) or not pieces:
                raise InvalidType(
                    f"{entry!r} is not a perturbation: give a name, a pair of name and dose, or a list of them."
                )
            odd = [piece for piece in pieces if not _is_one(piece)]
            if odd:
                raise InvalidType(f"{odd[0]!r} is not a perturbation: give a name or a pair of name and dose.")
            parts = sort_parts(part for piece in pieces for part in parts_of(piece))
        parsed.append((condition_label(parts, control), list(parts)))
    return parsed


def _is_one(entry: Any) -> bool:
    """Whether `entry` is a name or a pair of name and dose (and not a list of perturbations)."""
    if not isinstance(entry, tuple):
        return isinstance(entry, str)
    if len(entry) != 2 or not isinstance(entry[0], str):
        return False
    dose = entry[1]
    try:
        return dose is None or isinstance(dose, numbers.Real) or not math.isnan(parse_dose(dose)[0])
    except ValueError:
        return False


def _checked_dose(name: str, dose: Any, control: str, has_dose: bool, dose_unit: str) -> float:
    """The dose in the unit of the model; NaN where there are none."""
    missing = dose is None or (isinstance(dose, float) and math.isnan(dose))
    if not has_dose:
        if not missing:
            raise InvalidValue(
                f"{name!r} is given the dose {dose!r}, but the data were prepared without doses; leave it out."
            )
        return math.nan
    if missing:
        raise InvalidValue(f"{name!r} needs a dose: write ({name!r}, dose).")
    value, unit = parse_dose(dose)
    if not math.isfinite(value) or value <= 0:
        raise InvalidValue(
            f"The dose of {name!r} must be positive and finite, got {dose!r}; for no dose ask for {control!r}."
        )
    return convert_dose(value, unit, dose_unit)
