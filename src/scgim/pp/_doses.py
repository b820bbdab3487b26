"""Doses: numbers with units, curves over them, and at which of them each perturbation reaches half of its effect."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.optimize import least_squares

from .._errors import InvalidValue
from .._logging import logger
from .._validation import listing

if TYPE_CHECKING:
    from ._design import Design
    from ._labels import Part

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

# Prior of the curves, all `own`: natural logarithms of what is a positive number.
_EXPONENT_SD = 0.25  # around 1, shared by all perturbations
_MAXIMUM_SD = 0.2  # of a perturbation's maximum around the common one; outliers may be far off
_HALF_DOSE_SD = 10.0  # around the middle of the doses: decides only where the cells are silent
#: What a curve may miss besides the noise of the cells, as a share of the perturbation's largest response.
_TOLERANCE = 0.05
#: The squared length of a response is more than noise beyond so many of its standard deviations.
_LEAST = 5.0
#: Beyond so many perturbations the derivatives are kept sparse.
_MANY = 50


def clean_unit(unit: Any) -> str:
    """One spelling per unit (`µM` and `um` are `uM`); an unknown unit stays as it is."""
    missing = unit is None or (isinstance(unit, float) and math.isnan(unit))
    text = "" if missing else re.sub("[µμ]", "u", str(unit).strip())
    return text if text in _KNOWN else _SPELLINGS.get(text.lower(), text)


def parse_dose(value: Any) -> tuple[float, str]:
    """Number and unit (empty: none given) of one dose, a number or text such as `10 nM` or `1e3`; NaN where missing."""
    if isinstance(value, numbers.Real):
        return float(value), ""
    text = "" if value is None else str(value).strip()
    if text.lower() in _MISSING:
        return math.nan, ""
    match = _NUMBER.match(text)
    if match is None or not any(c.isdigit() for c in match.group(1)):
        raise InvalidValue(f"{value!r} is not a dose")
    return float(match.group(1).replace(",", "")), clean_unit(match.group(2))


def common_unit(pairs: Iterable[tuple[str, str]], dose_key: str) -> str:
    """The unit in which doses are kept: the one they all have, or the base unit where they differ.

    `pairs`: each unit ("" = none given) with a perturbation that uses it; `dose_key` is for messages.
    """
    used: dict[str, set[str]] = {}
    for unit, name in pairs:
        used.setdefault(unit, set()).add(name)
    if len(used) <= 1:
        return next(iter(used), "")
    shown = "; ".join(f"{unit or 'no unit'}: {listing(sorted(names), most=4)}" for unit, names in sorted(used.items()))
    if "" in used:
        raise InvalidValue(
            f"dose_key={dose_key!r}: the doses have mixed units, and some have none ({shown}). Give every dose its "
            "unit ('10 nM'), name a column with the units as dose_unit_key=, or convert them to one unit."
        )
    bases = {_scale(unit)[1] for unit in used}
    if len(bases) > 1 or "" in bases:
        raise InvalidValue(
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
            raise InvalidValue(f"a dose in {unit!r} cannot be used here: the doses were prepared {stored}.")
        value = value * factor / wanted
    return float(f"{value:.6g}")


def _scale(unit: str) -> tuple[float, str]:
    """Factor to the base unit, and that unit; empty for an unknown one."""
    unit = clean_unit(unit)
    return next(((units[unit], base) for base, units in _UNITS.items() if unit in units), (1.0, ""))


def dose_one_hot(doses: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """One-hot code of (n,) doses among (m,) ascending levels: (n, m), rows that sum to one (own).

    Exactly one-hot at a level, linear in log dose between two of them, the nearest level outside of their range.
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


class Responses(NamedTuple):
    """Mean responses of the modelled genes to each part, and what the cells' spread makes them uncertain by."""

    shifts: np.ndarray  # (parts, genes) mean of the condition that has the part alone, minus the control's, or NaN
    variance: np.ndarray  # (parts, genes) squared standard error of the former mean
    control: np.ndarray  # (genes,) and of the latter


def part_responses(design: Design, genes: np.ndarray, matrix: Any) -> Responses:
    """Responses of the modelled genes, bool of those of the (cells, genes) matrix, to each part; float32."""
    cells = np.flatnonzero(design.codes >= 0)
    # One format for every input, so that the features do not depend on how the matrix was stored.
    values = sp.csr_matrix(matrix[:, np.flatnonzero(genes)], dtype=np.float64)[cells]
    code = design.codes[cells]
    size = np.bincount(code, minlength=len(design.table))
    control = design.table["is_control"].to_numpy(dtype=bool)
    if not size[control].any():
        raise InvalidValue(
            'features="potency" compares every dose with the control, and adata has no control cells (any more): '
            "compute the features on the AnnData that was prepared."
        )
    weight = 1.0 / size[code]
    mean_of = sp.csr_matrix((weight, (code, np.arange(len(cells)))), shape=(len(size), len(cells)))
    means = (mean_of @ values).toarray()  # (conditions, genes)
    variance = (mean_of @ values.power(2)).toarray() - means**2
    # A gene that is silent in a few cells has no spread there, which is no certainty.
    variance = np.maximum(variance, variance[control].mean(axis=0)).clip(0) / np.maximum(size, 1)[:, None]
    shape = (design.membership.shape[1], values.shape[1])
    shifts, errors = np.full(shape, np.nan, dtype=np.float32), np.full(shape, np.nan, dtype=np.float32)
    for row in np.flatnonzero((design.membership.sum(axis=1) == 1) & (size > 0)):
        part = int(design.membership[row].argmax())
        shifts[part] = means[row] - means[control].mean(axis=0)
        errors[part] = variance[row]
    return Responses(shifts, errors, variance[control].mean(axis=0).astype(np.float32))


def fit_potency(
    responses: Responses, parts: list[Part], trained: np.ndarray, names: list[str]
) -> tuple[np.ndarray, float]:
    """Half-saturating dose of every perturbation and the exponent that they share.

    The size of a response is its projection on the direction in which the perturbation's doses move the cells
    together, less what noise alone gives. Sizes follow `E_p d^n / (k_p^n + d^n)`: one exponent n, maxima E_p near a
    common one, and a half-dose k_p for each perturbation, so that the doses that one perturbation lacks are read from
    the curves of the others. Parts that are not `trained`, (parts,) bool, are not looked at. A perturbation without
    cells of its own in training has the median half-dose of the others; where nothing responds, all have the middle of
    the doses.
    """
    doses = np.array([dose for _, dose in parts])
    middle = float(np.sqrt(doses.min() * doses.max()))
    use = np.flatnonzero(np.asarray(trained, dtype=bool) & np.isfinite(responses.shifts).all(axis=1))
    owner = np.array([parts[row][0] for row in use], dtype=object)
    known = [name for name in names if name in set(owner)]
    silent = [name for name in names if name not in known]
    if silent:
        stands_in = "the median potency of the others" if known else "the middle of the doses"
        logger.warning(f'features="potency": no training cells of {listing(silent)} alone; {stands_in} stands in.')
    if not known:
        return np.full(len(names), middle), 1.0
    index = np.array([known.index(name) for name in owner])
    size, error, real = _sizes(responses, use, index, len(known))
    if not real:
        logger.warning(
            'features="potency": no perturbation moves the modelled genes beyond noise, so that half-effective doses '
            "cannot be read: all are set to the middle of the doses."
        )
        return np.full(len(names), middle), 1.0
    logs, exponent = _fit_curves(size, error, np.log(doses[use]), index, np.log(middle))
    half = dict(zip(known, np.exp(logs), strict=True))
    typical = float(np.median(list(half.values())))
    return np.array([half.get(name, typical) for name in names]), exponent


def _sizes(responses: Responses, use: np.ndarray, index: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Size of every response in use along its perturbation's direction, its standard error, and whether any is real."""
    shifts, variance = (np.asarray(v, dtype=np.float64)[use] for v in (responses.shifts, responses.variance))
    control = np.asarray(responses.control, dtype=np.float64)
    size, error, real = np.zeros(len(use)), np.zeros(len(use)), False
    for which in range(n):
        own = np.flatnonzero(index == which)
        direction = shifts[own].sum(axis=0)
        length = max(float(np.linalg.norm(direction)), 1e-12)
        # The direction holds the noise of every dose, and that of the control in each.
        noise = variance[own].sum(axis=0) + len(own) ** 2 * control  # (genes,) variance of the direction
        real |= bool(length**2 - noise.sum() > _LEAST * np.sqrt(2 * (noise**2).sum()))
        size[own] = shifts[own] @ direction / length
        size[own] -= (variance[own].sum(axis=1) + len(own) * control.sum()) / length
        # Along a direction that is itself noise, a response may be off by as much as the whole noise is long.
        unsure = min(1.0, noise.sum() / length**2)
        alone = variance[own] + control
        error[own] = np.sqrt(alone @ (direction / length) ** 2 + unsure * alone.sum(axis=1))
    return size, error, real


def _fit_curves(
    size: np.ndarray, error: np.ndarray, log_dose: np.ndarray, index: np.ndarray, middle: float
) -> tuple[np.ndarray, float]:
    """Maximum a posteriori log half-doses (perturbations,) and exponent."""
    n, m = int(index.max()) + 1, len(size)
    largest = np.array([np.abs(size[index == which]).max() for which in range(n)])
    spread = np.sqrt((_TOLERANCE * largest[index]) ** 2 + error**2)
    rows = np.arange(m)

    def curves(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the half-dose on the log scale, and activity."""
        far = log_dose - p[:n][index]
        return far, 1.0 / (1.0 + np.exp(-np.exp(p[n]) * far))

    def residuals(p: np.ndarray) -> np.ndarray:
        maximum = np.exp(p[n + 1] + p[n + 2 :][index])
        return np.concatenate(
            [
                (maximum * curves(p)[1] - size) / spread,
                (p[:n] - middle) / _HALF_DOSE_SD,
                [p[n] / _EXPONENT_SD],
                np.arcsinh(p[n + 2 :] / _MAXIMUM_SD),  # grows like a logarithm: one outlier moves no other
            ]
        )

    def jacobian(p: np.ndarray) -> Any:
        far, active = curves(p)
        value = np.exp(p[n + 1] + p[n + 2 :][index]) / spread
        slope = value * active * (1 - active) * np.exp(p[n])
        entries = [
            (rows, index, -slope),
            (rows, np.full(m, n), slope * far),
            (rows, np.full(m, n + 1), value * active),
            (rows, n + 2 + index, value * active),
            (m + np.arange(n), np.arange(n), np.full(n, 1 / _HALF_DOSE_SD)),
            ([m + n], [n], [1 / _EXPONENT_SD]),
            (m + n + 1 + np.arange(n), n + 2 + np.arange(n), 1 / np.hypot(_MAXIMUM_SD, p[n + 2 :])),
        ]
        row, column, values = (np.concatenate([np.asarray(e[i]) for e in entries]) for i in range(3))
        out = sp.csr_matrix((values, (row, column)), shape=(m + 2 * n + 1, 2 * n + 2))
        return out if n > _MANY else out.toarray()

    starts = np.linspace(log_dose.min(), log_dose.max(), 3)
    fits = [
        least_squares(residuals, np.r_[np.full(n, start), 0.0, np.log(largest.max()), np.zeros(n)], jac=jacobian)
        for start in starts
    ]
    best = min(fits, key=lambda found: found.cost).x
    return best[:n], float(np.exp(best[n]))
