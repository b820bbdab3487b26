"""Doses: numbers with units, their one-hot code between doses that were seen, and their rescaled value."""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

import numpy as np

from .._validation import listing

#: Factor to the base unit (nM, ng/ml) and its dimension.
_UNITS = {
    "fm": (1e-6, "molar"),
    "pm": (1e-3, "molar"),
    "nm": (1.0, "molar"),
    "um": (1e3, "molar"),
    "pg/ml": (1e-3, "mass"),
    "ng/ml": (1.0, "mass"),
    "ug/ml": (1e3, "mass"),
    "mg/ml": (1e6, "mass"),
    "g/l": (1e6, "mass"),
    "mg/l": (1e3, "mass"),
    "ug/l": (1.0, "mass"),
}
_CASED = {"mM": (1e6, "molar"), "M": (1e9, "molar")}
_BASE = {"molar": "nM", "mass": "ng/ml"}
_NUMBER = re.compile(
    r"^([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*([A-Za-zµμ%°]+(?:/[A-Za-zµμ]+\d?)?)?$"
)
_SPELLINGS = {
    "nmol/l": "nM",
    "umol/l": "uM",
    "mmol/l": "mM",
    "mol/l": "M",
    "nanomolar": "nM",
    "micromolar": "uM",
    "millimolar": "mM",
    "molar": "M",
}


def clean_dose(value: float) -> float:
    """Six significant digits: doses that differ by rounding error are one dose."""
    return float(f"{value:.6g}")


def clean_unit(unit: Any) -> str:
    """One spelling per unit (`µM` and `um` are `uM`); an unknown unit stays as it is."""
    text = "" if unit is None or (isinstance(unit, float) and math.isnan(unit)) else str(unit).strip()
    for micro in ("µ", "μ"):
        text = text.replace(micro, "u")
    text = _SPELLINGS.get(text.lower(), text)
    if text in _CASED:
        return text
    low = text.lower()
    if low in _UNITS:
        return f"{low[0]}M" if _UNITS[low][1] == "molar" else low
    return text


def parse_dose(value: Any) -> tuple[float, str]:
    """Number and unit of one dose; NaN where it is missing.

    Parameters
    ----------
    value
        A number, or text such as `"10"`, `"10 nM"`, `"0.01uM"`, `"1e3 nM"` or `"10,000 nM"`.

    Returns
    -------
    The number, and the unit in one spelling (empty where none is given).

    Raises
    ------
    ValueError
        If the value is neither.

    Examples
    --------
    >>> from scgim.pp.doses import parse_dose
    >>> parse_dose("0.01 µM")
    (0.01, 'uM')
    """
    if value is None or value is False:
        return (math.nan, "") if value is None else (0.0, "")
    if isinstance(value, numbers.Real):
        return float(value), ""
    text = str(value).strip()
    if text.lower() in ("", "nan", "na", "n/a", "<na>", "none", "nat"):
        return math.nan, ""
    match = _NUMBER.match(text)
    if match is None or not any(c.isdigit() for c in match.group(1)):
        raise ValueError(f"{value!r} is not a dose")
    return float(match.group(1).replace(",", "")), clean_unit(match.group(2))


def common_unit(used: dict[str, set[str]], dose_key: str) -> str:
    """The unit in which doses are kept: the one they all have, or the base unit where they differ.

    Parameters
    ----------
    used
        unit -> the perturbations that use it ("" = no unit given).
    dose_key
        Where the doses come from, for messages.

    Raises
    ------
    ValueError
        If some doses have a unit and others have none, or two units cannot be converted into each other.
    """
    if len(used) <= 1:
        return next(iter(used), "")
    shown = "; ".join(f"{unit or 'no unit'}: {listing(sorted(names), most=4)}" for unit, names in sorted(used.items()))
    if "" in used:
        raise ValueError(
            f"dose_key={dose_key!r}: the doses have mixed units, and some have none ({shown}). Give every "
            "dose its unit ('10 nM'), name a column with the units as dose_unit_key=, or convert them to "
            "one unit."
        )
    dimensions = {unit_scale(unit)[1] for unit in used}
    if len(dimensions) > 1 or None in dimensions:
        raise ValueError(
            f"dose_key={dose_key!r}: the doses have mixed units that cannot be converted into each other "
            f"({shown}). Convert them to one unit first; known units are pM, nM, uM, mM, M and pg/ml, "
            "ng/ml, ug/ml, mg/ml."
        )
    return _BASE[str(dimensions.pop())]


def unit_scale(unit: str) -> tuple[float, str | None]:
    """Factor to the base unit, and the dimension (None for an unknown unit)."""
    return _CASED.get(unit) or _UNITS.get(unit.lower()) or (1.0, None)


def convert_dose(value: float, unit: str, to: str) -> float:
    """`value` in the unit `to`; a value without a unit is taken to be in it already."""
    if unit in ("", to):
        return clean_dose(value)
    (factor, dimension), (base, wanted) = unit_scale(unit), unit_scale(to)
    if dimension is None or dimension != wanted:
        stored = f"in {to}" if to else "without a unit"
        raise ValueError(f"a dose in {unit!r} cannot be used here: the doses were prepared {stored}.")
    return clean_dose(value * factor / base)


def dose_one_hot(doses: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """One-hot code of seen doses, linearly interpolated in log dose between them.

    Parameters
    ----------
    doses
        (n,) doses > 0.
    levels
        (m,) the doses seen in training, ascending.

    Returns
    -------
    (n, m) rows that sum to one: exactly one-hot at a seen dose, a mixture of the two neighbours between
    them, and the nearest level outside of their range.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.pp.doses import dose_one_hot
    >>> dose_one_hot(np.array([10.0, 100.0]), np.array([10.0, 1000.0]))
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    at = np.log10(doses)
    between = np.stack([np.interp(at, np.log10(levels), row) for row in np.eye(len(levels))], axis=1)
    seen = doses[:, None] == levels  # two doses next to each other may have the same logarithm
    return np.where(seen.any(axis=1, keepdims=True), seen, between)


def rescaled_dose(doses: np.ndarray, low: float, high: float) -> np.ndarray:
    """Log dose, scaled so that `low` is 0.25 and `high` is 1.

    For SciPlex3's 10 to 10,000 nM this is log10(dose) / 4: 0.25, 0.5, 0.75, 1 (own: the paper's map is not
    known). The same rule serves every other range and unit (0.1 to 100 uM gives the same four numbers);
    where there is one dose only it is 1, with a quarter per decade around it. Doses outside of the range
    continue the line.

    Parameters
    ----------
    doses
        (n,) doses > 0.
    low, high
        Smallest and largest dose of the data, in the same unit.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.pp.doses import rescaled_dose
    >>> rescaled_dose(np.array([10.0, 100.0, 10_000.0]), 10.0, 10_000.0)
    array([0.25, 0.5 , 1.  ])
    """
    decades = np.log10(high) - np.log10(low)
    if decades == 0:
        return 1.0 + 0.25 * (np.log10(doses) - np.log10(high))
    return 0.25 + 0.75 * (np.log10(doses) - np.log10(low)) / decades


def hill_curves(doses: np.ndarray, half: np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """`d^n / (k^n + d^n)` of (n,) doses d for half-saturating doses k, (m,) or (n, m): (n, m), from 0 to 1 (own)."""
    return 1.0 / (1.0 + (half / doses[:, None]) ** exponent)
