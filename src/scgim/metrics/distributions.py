"""Distances between two samples of cells: kernel density likelihood and energy distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from ._inputs import as_cell_pair

#: Cells of one block of a pairwise computation: bounds the memory at about block x cells x 8 bytes.
_BLOCK = 1024


def kde_nll(true: ArrayLike, predicted: ArrayLike, *, variance_floor: float = 1e-3) -> float:
    """Mean negative log density of the true cells under a kernel density estimate of the predicted cells.

    Estimator: a Gaussian kernel density is estimated on the *predicted* cells, with the full covariance of
    those cells (unbiased, as `numpy.cov`) times Scott's squared factor ``n ** (-2 / (genes + 4))`` as kernel
    covariance; it is evaluated at the *true* cells; the result is the mean of ``-log density`` over them
    (nats per cell, all genes jointly). Where no floor acts this is
    ``-scipy.stats.gaussian_kde(predicted.T).logpdf(true.T).mean()`` to rounding.

    Singular covariance (`own` rule): eigenvalues of the predicted covariance below ``variance_floor`` times
    the mean per-gene variance of the true cells are raised to that value, so a gene that is constant among
    the predicted cells, or fewer cells than genes, give a large finite value instead of an error. The floor
    depends on the true cells only and is therefore the same for every method compared on a condition.

    Parameters
    ----------
    true
        Observed cells (cells, genes).
    predicted
        Predicted cells (cells, genes), at least two.
    variance_floor
        Relative floor of the eigenvalues (`own` default). 0: none, then a singular covariance is an error.

    Returns
    -------
    float
        Nats per cell; lower is better; not bounded below.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, or the covariance is singular and no floor can be derived.

    Notes
    -----
    Not symmetric. It depends on the number of predicted cells: compare methods at equal numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import kde_nll
    >>> cells = np.random.default_rng(0).normal(size=(200, 2))
    >>> kde_nll(cells, cells) < kde_nll(cells, cells + 3.0)
    True
    """
    true, predicted = as_cell_pair(true, predicted)
    n_predicted, n_genes = predicted.shape
    if n_predicted < 2:
        raise ValueError(f"`predicted` has {n_predicted} cell; a kernel density needs at least 2.")
    if not np.isfinite(variance_floor) or variance_floor < 0:
        raise ValueError(f"`variance_floor` must be >= 0, got {variance_floor}.")
    covariance = np.cov(predicted, rowvar=False).reshape(n_genes, n_genes)
    values, vectors = np.linalg.eigh(covariance)
    scale = true.var(axis=0).mean() if true.shape[0] > 1 else 0.0
    if scale == 0.0:  # one true cell, or all alike: the predicted cells are the only scale there is
        scale = float(np.trace(covariance)) / n_genes
    # eigh leaves zero eigenvalues at rounding size, of either sign
    rounding = max(float(values[-1]), 0.0) * n_genes * np.finfo(np.float64).eps
    floored = np.maximum(values, variance_floor * scale)
    if floored[0] <= rounding:
        raise ValueError(
            "The covariance of `predicted` is singular (constant or collinear genes, or too few cells) and "
            f"the floor of {variance_floor * scale:g} does not lift it; use a positive `variance_floor`."
        )
    bandwidth = np.sqrt(floored) * n_predicted ** (-1.0 / (n_genes + 4))  # (genes,) along the eigenvectors
    whiten = vectors / bandwidth  # (genes, genes)
    centre = predicted.mean(axis=0)
    true_white, predicted_white = (true - centre) @ whiten, (predicted - centre) @ whiten
    log_norm = np.log(bandwidth).sum() + 0.5 * n_genes * np.log(2 * np.pi) + np.log(n_predicted)
    log_density = [
        logsumexp(-0.5 * cdist(true_white[start : start + _BLOCK], predicted_white, "sqeuclidean"), axis=1)
        for start in range(0, true.shape[0], _BLOCK)
    ]
    return float(log_norm - np.concatenate(log_density).mean())


def e_distance(true: ArrayLike, predicted: ArrayLike, *, squared: bool = False, unbiased: bool = False) -> float:
    """Energy distance between two samples of cells.

    Estimator: ``2 mean d(x, y) - mean d(x, x') - mean d(y, y')`` with the Euclidean distance d. The
    within-sample means run over all ordered pairs including a cell with itself (a V-statistic): the value is
    never negative and exactly 0 for equal samples, and it is too large by about ``mean d(x, x') / cells`` per
    sample.

    Published variants: scPerturb's paper and older pertpy releases use the *squared* Euclidean distance
    (``squared=True``), for which the V-statistic is just ``2 * mean_distance ** 2`` and blind to everything
    but the means; pertpy has since moved to the Euclidean distance, and its recent releases average the
    within-sample distances over distinct cells (``unbiased=True``), which can be slightly negative.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.
    squared
        Use squared Euclidean distances.
    unbiased
        Average the within-sample distances over distinct cells (a U-statistic); needs two cells per sample.

    Returns
    -------
    float
        In the units of the data (squared units for ``squared=True``).

    Raises
    ------
    ValueError
        If shapes disagree or a value is not finite.

    References
    ----------
    Székely & Rizzo (2013), Energy statistics. Peidli et al. (2024), scPerturb, Nature Methods.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import e_distance
    >>> x = np.array([[0.0], [2.0]])
    >>> e_distance(x, x), e_distance(x, x + 1.0)
    (0.0, 1.0)
    """
    true, predicted = as_cell_pair(true, predicted, min_cells=2 if unbiased else 1)
    metric = "sqeuclidean" if squared else "euclidean"
    n, m = true.shape[0], predicted.shape[0]
    between = _sum_of_distances(true, predicted, metric) / (n * m)
    within_true = _sum_of_distances(true, true, metric) / (n * (n - 1) if unbiased else n * n)
    within_predicted = _sum_of_distances(predicted, predicted, metric) / (m * (m - 1) if unbiased else m * m)
    value = 2 * between - within_true - within_predicted
    return value if unbiased else max(value, 0.0)  # rounding only: the V-statistic is >= 0


def _sum_of_distances(x: np.ndarray, y: np.ndarray, metric: str) -> float:
    blocks = range(0, x.shape[0], _BLOCK)
    return float(sum(cdist(x[start : start + _BLOCK], y, metric).sum() for start in blocks))
