"""Potency: at which dose each perturbation reaches half of its effect, read from the cells of training conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import least_squares

from .._logging import logger
from .._validation import listing
from .design import Design
from .doses import hill_curves
from .labels import Part

# Prior of the curves, all `own`: natural logarithms of what is a positive number.
_EXPONENT_SD = 0.25  # around 1, shared by all perturbations
_MAXIMUM_SD = 0.2  # of a perturbation's maximum around the common one
_HALF_DOSE_SD = 10.0  # around the middle of the doses: decides only where the cells are silent
#: What a curve may miss, as a share of the largest response.
_TOLERANCE = 0.05


def part_shifts(design: Design, genes: np.ndarray, matrix: Any) -> np.ndarray:
    """Mean of the modelled genes in the condition that has this part alone, minus the control's.

    Parameters
    ----------
    design
        The conditions.
    genes
        (genes of the matrix,) bool: those that are modelled.
    matrix
        (cells, genes) log-normalised or continuous values.

    Returns
    -------
    (parts, modelled genes) float32; NaN for parts that occur in combinations only.
    """
    cells = np.flatnonzero(design.codes >= 0)
    # One format for every input, so that the features do not depend on how the matrix was stored.
    values = sp.csr_matrix(matrix[:, np.flatnonzero(genes)], dtype=np.float64)[cells]
    code = design.codes[cells]
    size = np.bincount(code, minlength=len(design.table))
    mean_of = sp.csr_matrix((1.0 / size[code], (code, np.arange(len(cells)))), shape=(len(size), len(cells)))
    means = (mean_of @ values).toarray()  # (conditions, genes)
    shifts = means - means[design.table["is_control"].to_numpy(dtype=bool)].mean(axis=0)
    out = np.full((design.membership.shape[1], values.shape[1]), np.nan, dtype=np.float32)
    for row in np.flatnonzero(design.membership.sum(axis=1) == 1):
        out[int(design.membership[row].argmax())] = shifts[row]
    return out


def fit_potency(
    shifts: np.ndarray, parts: list[Part], trained: np.ndarray, names: list[str]
) -> tuple[np.ndarray, float]:
    """Half-saturating dose of every perturbation and the exponent that they share.

    The size of a response is its projection on the direction in which the perturbation's doses move the cells
    together. Sizes follow `E_p d^n / (k_p^n + d^n)`: one exponent n, maxima E_p near a common one, and a half-dose
    k_p for each perturbation, so that the doses that one perturbation lacks are read from the curves of the others.

    Parameters
    ----------
    shifts
        (parts, genes), NaN rows where nothing is known.
    parts
        (name, dose) of each row.
    trained
        (parts,) bool: the others are not looked at.
    names
        Perturbations for which to give a half-dose.

    Returns
    -------
    (names,) half-doses in the unit of the doses, and the exponent. A perturbation without cells of its own in
    training has the median half-dose of the others.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.pp.potency import fit_potency
    >>> doses = [1.0, 10.0, 100.0, 1000.0]
    >>> parts = [("A", d) for d in doses] + [("B", d) for d in doses]
    >>> size = [d / (10 + d) for d in doses] + [d / (100 + d) for d in doses]
    >>> half, exponent = fit_potency(np.outer(size, [3.0, -4.0]), parts, np.ones(8, dtype=bool), ["A", "B"])
    >>> half.round(), round(exponent, 2)
    (array([ 10., 100.]), 1.0)
    """
    doses = np.array([dose for _, dose in parts])
    middle = float(np.sqrt(doses.min() * doses.max()))
    use = np.flatnonzero(np.asarray(trained, dtype=bool) & np.isfinite(shifts).all(axis=1))
    size = np.zeros(len(use))
    owner = np.array([parts[row][0] for row in use], dtype=object)
    for name in set(owner):
        own = shifts[use[owner == name]].astype(np.float64)
        direction = own.sum(axis=0)
        size[owner == name] = own @ direction / max(float(np.linalg.norm(direction)), 1e-12)
    largest = np.abs(size).max(initial=0.0)
    known = [name for name in names if name in set(owner)]
    if largest == 0.0:
        return np.full(len(names), middle), 1.0
    index = np.array([known.index(name) for name in owner])
    n = len(known)

    def curves(p: np.ndarray) -> np.ndarray:
        half, exponent, maximum = np.exp(p[:n]), np.exp(p[n]), np.exp(p[n + 1] + p[n + 2 :])
        return maximum[index] * hill_curves(doses[use], half[index, None], float(exponent))[:, 0]

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                (curves(p) - size) / (_TOLERANCE * largest),
                (p[:n] - np.log(middle)) / _HALF_DOSE_SD,
                [p[n] / _EXPONENT_SD],
                p[n + 2 :] / _MAXIMUM_SD,
            ]
        )

    starts = np.log(np.geomspace(doses.min(), doses.max(), 3))
    fits = [least_squares(residuals, np.r_[np.full(n, start), 0.0, np.log(largest), np.zeros(n)]) for start in starts]
    best = min(fits, key=lambda found: found.cost).x
    half = dict(zip(known, np.exp(best[:n]), strict=True))
    silent = [name for name in names if name not in half]
    if silent:
        logger.warning(
            'features="potency": no training cells of %s alone; the median potency of the others stands in.',
            listing(silent),
        )
    typical = float(np.median(list(half.values())))
    return np.array([half.get(name, typical) for name in names]), float(np.exp(best[n]))
