"""What sets one perturbation apart from the others: changes that are no part of a shared response."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares


def specific_changes(changes: ArrayLike, related: ArrayLike, n_programs: int = 2) -> np.ndarray:
    """Changes that are left when the programs of all unrelated conditions are taken out.

    Perturbations of one pathway switch the same programme of genes on or off, through proteins that no transcript
    shows. For each condition, the strongest directions of the *other* conditions' changes are scaled to its own by a
    robust regression over genes (Huber's): a change of its own, such as that of a gene that was knocked out, is then
    an outlier, which neither shapes the programs nor pulls the regression. `own`.

    Parameters
    ----------
    changes
        (conditions, genes) standardised changes against control.
    related
        (conditions, conditions) bool: conditions whose changes are not to be taken out of each other's, because they
        share a perturbation; each is related to itself.
    n_programs
        Directions taken out at most; fewer where there are not as many unrelated conditions.

    Returns
    -------
    (conditions, genes) what is left, in the same units.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.tl._programs import specific_changes
    >>> changes = np.outer([1.0, 2.0, 1.5], np.r_[9.0, 7.0, np.zeros(8)])
    >>> changes[0, 5] = -6.0
    >>> specific_changes(changes, np.eye(3, dtype=bool), 1).round(1)[0].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, -6.0, 0.0, 0.0, 0.0, 0.0]
    """
    z, related = np.asarray(changes, dtype=float), np.asarray(related, dtype=bool)
    left = z.copy()
    for row, own in enumerate(z):
        others = z[~related[row]]
        n = min(n_programs, len(others), z.shape[1] - 1)
        if n < 1 or not others.any() or not own.any():
            continue
        directions = np.linalg.svd(others, full_matrices=False)[2][:n].T * np.sqrt(z.shape[1])  # (genes, n)
        left[row] = own - directions @ _huber(directions, own)
    return left


def _huber(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients (n,) of a regression of y (genes,) on x (genes, n) that outliers do not pull (Huber 1964).

    Noise is at least 1, a standard error, and otherwise the median absolute deviation of the residuals.
    """
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    for _ in range(5):
        scale = max(1.0, 1.4826 * float(np.median(np.abs(y - x @ coefficients))))
        coefficients = least_squares(
            lambda b: x @ b - y, coefficients, jac=lambda _: x.copy(), loss="huber", f_scale=1.345 * scale
        ).x
    return coefficients
