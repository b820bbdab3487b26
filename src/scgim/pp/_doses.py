"""Doses: numbers with units, their one-hot code between doses that were seen, their rescaled value, and Hill curves."""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

import numpy as np

from .._validation import listing

#: Base unit -> factor to it of each unit of its kind.
_UNITS = {
    "nM": {"fM": 1e-6, "pM": 1e-3, "nM": 1.0, "uM": 1e3, "mM": 1e6, "M": 1e9},
    "ng/ml": {"pg/ml": 1e-3, "ng/ml": 1.0, "ug/ml": 1e3, "mg/ml": 1e6, "g/l": 1e6, "mg/l": 1e3, "ug/l": 1.0},
}
_KNOWN = [unit for units in _UNITS.values() for unit in units]
#: Other spellings, in lower case; `mM` and `M` are told from other units by their case.
_SPELLINGS = {unit.lower(): unit for unit in _KNOWN if unit not in ("mM", "M")}
_SPELLINGS |= {"nmol/l": "nM", "umol/l": "uM", "mmol/l": "mM", "mol/l": "M"}
_SPELLINGS |= {"nanomolar": "nM", "micromolar": "uM", "millimolar": "mM", "molar": "M"}
_MISSING = ("", "nan", "na", "n/a", "<na>", "none", "nat")
_NUMBER = re.compile(
    r"^([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*([A-Za-zµμ%°]+(?:/[A-Za-zµμ]+\d?)?)?$"
)


def clean_unit(unit: Any) -> str:
    """One spelling per unit (`µM` and `um` are `uM`); an unknown unit stays as it is."""
    missing = unit is None or (isinstance(unit, float) and math.isnan(unit))
    text = "" if missing else re.sub("[µμ]", "u", str(unit).strip())
    return text if text in _KNOWN else _SPELLINGS.get(text.lower(), text)


def parse_dose(value: Any) -> tuple[float, str]:
    """Number and unit (empty: none given) of one dose, a number or text such as `10 nM` or `1e3`; NaN where missing.

    Examples
    --------
    >>> from scgim.pp._doses import parse_dose
    >>> parse_dose("0.01 µM"), parse_dose("10,000 nM")
    ((0.01, 'uM'), (10000.0, 'nM'))
    """
    if isinstance(value, numbers.Real):
        return float(value), ""
    text = "" if value is None else str(value).strip()
    if text.lower() in _MISSING:
        return math.nan, ""
    match = _NUMBER.match(text)
    if match is None or not any(c.isdigit() for c in match.group(1)):
        raise ValueError(f"{value!r} is not a dose")
    return float(match.group(1).replace(",", "")), clean_unit(match.group(2))


def common_unit(used: dict[str, set[str]], dose_key: str) -> str:
    """The unit in which doses are kept: the one they all have, or the base unit where they differ.

    `used`: unit -> the perturbations that use it ("" = no unit given); `dose_key` is for messages.
    """
    if len(used) <= 1:
        return next(iter(used), "")
    shown = "; ".join(f"{unit or 'no unit'}: {listing(sorted(names), most=4)}" for unit, names in sorted(used.items()))
    if "" in used:
        raise ValueError(
            f"dose_key={dose_key!r}: the doses have mixed units, and some have none ({shown}). Give every dose its "
            "unit ('10 nM'), name a column with the units as dose_unit_key=, or convert them to one unit."
        )
    bases = {_scale(unit)[1] for unit in used}
    if len(bases) > 1 or "" in bases:
        raise ValueError(
            f"dose_key={dose_key!r}: the doses have mixed units that cannot be converted into each other ({shown}). "
            "Convert them to one unit first; known units are pM, nM, uM, mM, M and pg/ml, ng/ml, ug/ml, mg/ml."
        )
    return bases.pop()


def convert_dose(value: float, unit: str, to: str) -> float:
    """`value` in the unit `to`, to six significant digits; a value without a unit is taken to be in it already."""
    if unit not in ("", to):
        (factor, base), (wanted, same) = _scale(unit), _scale(to)
        if not base or base != same:
            stored = f"in {to}" if to else "without a unit"
            raise ValueError(f"a dose in {unit!r} cannot be used here: the doses were prepared {stored}.")
        value = value * factor / wanted
    return float(f"{value:.6g}")


def _scale(unit: str) -> tuple[float, str]:
    """Factor to the base unit, and that unit; empty for an unknown one."""
    unit = clean_unit(unit)
    return next(((units[unit], base) for base, units in _UNITS.items() if unit in units), (1.0, ""))


def dose_one_hot(doses: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """One-hot code of (n,) doses among (m,) ascending levels: (n, m), rows that sum to one (own).

    Exactly one-hot at a level, linear in log dose between two of them, the nearest level outside of their range.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.pp._doses import dose_one_hot
    >>> dose_one_hot(np.array([10.0, 100.0]), np.array([10.0, 1000.0]))
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    at = np.log10(doses)
    between = np.stack([np.interp(at, np.log10(levels), row) for row in np.eye(len(levels))], axis=1)
    seen = doses[:, None] == levels  # two doses next to each other may have the same logarithm
    return np.where(seen.any(axis=1, keepdims=True), seen, between)


def rescaled_dose(doses: np.ndarray, low: float, high: float) -> np.ndarray:
    """Log dose, scaled so that the smallest dose of the data is 0.25 and the largest 1; (n,).

    For SciPlex3's 10 to 10,000 nM this is log10(dose) / 4: 0.25, 0.5, 0.75, 1, and the same for any other unit (own:
    the paper's map is not known). A single dose is 1, with a quarter per decade around it.
    """
    decades = np.log10(high) - np.log10(low)
    if decades == 0:
        return 1.0 + 0.25 * (np.log10(doses) - np.log10(high))
    return 0.25 + 0.75 * (np.log10(doses) - np.log10(low)) / decades


def hill_curves(doses: np.ndarray, half: np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """`d^n / (k^n + d^n)` of (n,) doses d for half-saturating doses k, (m,) or (n, m): (n, m), from 0 to 1 (own)."""
    return 1.0 / (1.0 + (half / doses[:, None]) ** exponent)
