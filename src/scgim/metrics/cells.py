"""Cells (cells, genes): distances of means and of distributions, zeros and ranges."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from scgim._errors import InvalidValue

from ._inputs import as_cell_pair, as_cells, check_genes

#: Cells of one block of a pairwise computation: bounds the memory at about block x cells x 8 bytes.
_BLOCK = 1024


def mean_distance(true: ArrayLike, predicted: ArrayLike) -> float:
    """Euclidean distance between the mean expression vectors.

    Estimator: ``||mean(true) - mean(predicted)||_2``, arithmetic means over cells, in the units of the data
    (log1p scale for single-cell data). Zero for equal means, whatever the rest of the distributions does.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import mean_distance
    >>> mean_distance(np.zeros((3, 2)), np.tile([3.0, 4.0], (5, 1)))
    5.0
    """
    true, predicted = as_cell_pair(true, predicted)
    return float(np.linalg.norm(true.mean(axis=0) - predicted.mean(axis=0)))


def mean_absolute_error(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over genes of the absolute difference of mean expression.

    Estimator: ``mean_g |mean(true)_g - mean(predicted)_g|``; equal to ``mae`` of cell-eval 0.8.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import mean_absolute_error
    >>> mean_absolute_error(np.zeros((3, 2)), np.tile([3.0, 4.0], (5, 1)))
    3.5
    """
    true, predicted = as_cell_pair(true, predicted)
    return float(np.abs(true.mean(axis=0) - predicted.mean(axis=0)).mean())


def pearson_means(true: ArrayLike, predicted: ArrayLike) -> float:
    """Pearson correlation, over genes, of the mean expression vectors.

    High for almost any prediction, because genes differ far more in level than conditions do: read
    :func:`pearson_delta` as well. NaN where one of the mean vectors is the same in all genes.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import pearson_means
    >>> x = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 4.0]])
    >>> round(pearson_means(x, 2 * x + 1), 6)
    1.0
    """
    true, predicted = as_cell_pair(true, predicted)
    return _pearson(true.mean(axis=0), predicted.mean(axis=0))


def pearson_delta(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> float:
    """Pearson correlation, over genes, of the mean differences against control.

    Estimator: ``corr(mean(true) - mean(control), mean(predicted) - mean(control))``, the "Pearson delta". Both
    differences use the same control mean, whose sampling noise therefore pulls the value up a little; resampled
    control cells as prediction give noise around 0 or, where they are the very cells of `control`, NaN. NaN also where
    one of the differences is the same in all genes.

    Parameters
    ----------
    true, predicted, control
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import pearson_delta
    >>> control = np.zeros((2, 3))
    >>> round(pearson_delta(control + [1, 2, 3], control + [2, 4, 6], control), 6)
    1.0
    """
    true, predicted = as_cell_pair(true, predicted)
    baseline = check_genes(as_cells(control, "control"), true, "control").mean(axis=0)
    return _pearson(true.mean(axis=0) - baseline, predicted.mean(axis=0) - baseline)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a_centred, b_centred = a - a.mean(), b - b.mean()
    a_norm, b_norm = np.linalg.norm(a_centred), np.linalg.norm(b_centred)
    # Rounding leaves a constant vector with a tiny spread: correlations of rounding errors are not results.
    if a_norm <= 1e-12 * np.linalg.norm(a) or b_norm <= 1e-12 * np.linalg.norm(b):
        return float("nan")
    return float(np.clip(a_centred @ b_centred / (a_norm * b_norm), -1.0, 1.0))


def kde_nll(true: ArrayLike, predicted: ArrayLike, *, variance_floor: float = 1e-3) -> float:
    """Mean negative log density of the true cells under a kernel density estimate of the predicted cells.

    The paper's metric, not one to choose by: it rewards smooth samples. On real held-out cells it scored the prediction
    of a wrong perturbation, and the control, like the right one, and another half of the very cells far worse.

    Estimator: a Gaussian kernel density is estimated on the *predicted* cells, with the full covariance of
    those cells (unbiased, as `numpy.cov`) times Scott's squared factor ``n ** (-2 / (genes + 4))`` as kernel
    covariance; it is evaluated at the *true* cells; the result is the mean of ``-log density`` over them
    (nats per cell, all genes jointly; not bounded below). Where no floor acts this is
    ``-scipy.stats.gaussian_kde(predicted.T).logpdf(true.T).mean()`` to rounding. It is not symmetric, and depends on
    the number of predicted cells: compare methods at equal numbers.

    Singular covariance (`own` rule): eigenvalues of the predicted covariance below ``variance_floor`` times
    the mean per-gene variance of the true cells are raised to that value, so a gene that is constant among
    the predicted cells, or fewer cells than genes, give a large finite value instead of an error. The floor
    depends on the true cells only and is therefore the same for every method compared on a condition.

    Parameters
    ----------
    true, predicted
        Observed and predicted cells (cells, genes); at least two are predicted.
    variance_floor
        Relative floor of the eigenvalues (`own` default). 0: none, then a singular covariance is an error.

    Raises
    ------
    ValueError
        Also where the covariance is singular and no floor can be derived.

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
        raise InvalidValue(f"`predicted` has {n_predicted} cell; a kernel density needs at least 2.")
    if not np.isfinite(variance_floor) or variance_floor < 0:
        raise InvalidValue(f"`variance_floor` must be >= 0, got {variance_floor}.")
    covariance = np.cov(predicted, rowvar=False).reshape(n_genes, n_genes)
    values, vectors = np.linalg.eigh(covariance)
    scale = true.var(axis=0).mean() if true.shape[0] > 1 else 0.0
    if scale == 0.0:  # one true cell, or all alike: the predicted cells are the only scale there is
        scale = float(np.trace(covariance)) / n_genes
    # eigh leaves zero eigenvalues at rounding size, of either sign
    rounding = max(float(values[-1]), 0.0) * n_genes * np.finfo(np.float64).eps
    floored = np.maximum(values, variance_floor * scale)
    if floored[0] <= rounding:
        raise InvalidValue(
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
    """Energy distance between two samples of cells, in the units of the data.

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


def zero_fraction(x: ArrayLike) -> np.ndarray:
    """Fraction of cells in which each gene is exactly zero, (genes,).

    Parameters
    ----------
    x
        Cells (cells, genes).

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

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import zero_fraction_error
    >>> zero_fraction_error(np.array([[0.0, 1.0]]), np.array([[0.0, 0.0]]))
    0.5
    """
    true, predicted = as_cell_pair(true, predicted)
    return float(np.abs(zero_fraction(true) - zero_fraction(predicted)).mean())


def coverage_per_gene(true: ArrayLike, predicted: ArrayLike, *, lower: float = 0.05, upper: float = 0.95) -> np.ndarray:
    """Fraction of true cells inside the predicted quantile range, gene by gene, (genes,).

    Estimator: per gene, the `lower` and `upper` quantiles of the predicted cells (linear interpolation, as
    `numpy.quantile`), both ends included. For a continuous gene predicted perfectly it is ``upper - lower``;
    a gene whose range ends at a peak of zeros is covered more, because the whole peak lies inside.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes.
    lower, upper
        Quantiles that bound the range, ``0 <= lower < upper <= 1``.

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
        raise InvalidValue(f"Quantiles must satisfy 0 <= lower < upper <= 1, got lower={lower}, upper={upper}.")
    low, high = np.quantile(predicted, [lower, upper], axis=0)  # (genes,) each
    return ((true >= low) & (true <= high)).mean(axis=0)


def coverage(true: ArrayLike, predicted: ArrayLike, *, lower: float = 0.05, upper: float = 0.95) -> float:
    """Mean over genes of :func:`coverage_per_gene`; 0.9 at the default quantiles is calibrated.

    Parameters
    ----------
    true, predicted, lower, upper
        As there.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import coverage
    >>> x = np.arange(100.0)[:, None]
    >>> coverage(x, x), coverage(x + 1000, x)
    (0.9, 0.0)
    """
    return float(coverage_per_gene(true, predicted, lower=lower, upper=upper).mean())
