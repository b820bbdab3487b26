"""Are the predicted marginals of the right shape: zeros and ranges."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._inputs import as_cell_pair, as_cells


def zero_fraction(x: ArrayLike) -> np.ndarray:
    """Fraction of cells in which each gene is exactly zero.

    Parameters
    ----------
    x
        Cells (cells, genes).

    Returns
    -------
    numpy.ndarray
        (genes,) in [0, 1].

    Raises
    ------
    ValueError
        If `x` is not two-dimensional or has values that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import zero_fraction
    >>> zero_fraction(np.array([[0.0, 1.0], [0.0, 0.0]])).tolist()
    [1.0, 0.5]
    """
    return (as_cells(x, "x") == 0).mean(axis=0)


def zero_fraction_error(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over genes of the absolute difference in the fraction of exact zeros.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes.

    Returns
    -------
    float
        In [0, 1]; 0 where every gene has as many zeros as observed.

    Raises
    ------
    ValueError
        If shapes disagree or a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import zero_fraction_error
    >>> zero_fraction_error(np.array([[0.0, 1.0]]), np.array([[0.0, 0.0]]))
    0.5
    """
    true, predicted = as_cell_pair(true, predicted)
    return float(np.abs((true == 0).mean(axis=0) - (predicted == 0).mean(axis=0)).mean())


def coverage_per_gene(true: ArrayLike, predicted: ArrayLike, *, lower: float = 0.05, upper: float = 0.95) -> np.ndarray:
    """Fraction of true cells inside the predicted quantile range, gene by gene.

    Estimator: per gene, the `lower` and `upper` quantiles of the predicted cells (linear interpolation, as
    `numpy.quantile`), both ends included. For a continuous gene predicted perfectly it is ``upper - lower``;
    a gene whose range ends at a peak of zeros is covered more, because the whole peak lies inside.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes.
    lower, upper
        Quantiles that bound the range, ``0 <= lower < upper <= 1``.

    Returns
    -------
    numpy.ndarray
        (genes,) in [0, 1].

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite or the quantiles are out of order.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import coverage_per_gene
    >>> x = np.arange(100.0)[:, None]
    >>> coverage_per_gene(x, x).tolist()
    [0.9]
    """
    true, predicted = as_cell_pair(true, predicted)
    if not 0 <= lower < upper <= 1:
        raise ValueError(f"Quantiles must satisfy 0 <= lower < upper <= 1, got lower={lower}, upper={upper}.")
    low, high = np.quantile(predicted, [lower, upper], axis=0)  # (genes,) each
    return ((true >= low) & (true <= high)).mean(axis=0)


def coverage(true: ArrayLike, predicted: ArrayLike, *, lower: float = 0.05, upper: float = 0.95) -> float:
    """Mean over genes of :func:`coverage_per_gene`; 0.9 at the default quantiles is calibrated.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes.
    lower, upper
        Quantiles that bound the range.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        As :func:`coverage_per_gene`.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import coverage
    >>> x = np.arange(100.0)[:, None]
    >>> coverage(x, x), coverage(x + 1000, x)
    (0.9, 0.0)
    """
    return float(coverage_per_gene(true, predicted, lower=lower, upper=upper).mean())
