"""How well the means, and their differences against control, are predicted."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._inputs import as_cell_pair, as_cells


def mean_distance(true: ArrayLike, predicted: ArrayLike) -> float:
    """Euclidean distance between the mean expression vectors.

    Estimator: ``||mean(true) - mean(predicted)||_2``, arithmetic means over cells, in the units of the data
    (log1p scale for single-cell data). Zero for equal means, whatever the rest of the distributions does.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.

    Returns
    -------
    float
        The distance, >= 0.

    Raises
    ------
    ValueError
        If shapes disagree or a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import mean_distance
    >>> mean_distance(np.zeros((3, 2)), np.tile([3.0, 4.0], (5, 1)))
    5.0
    """
    true, predicted = as_cell_pair(true, predicted)
    return float(np.linalg.norm(true.mean(axis=0) - predicted.mean(axis=0)))


def pearson_means(true: ArrayLike, predicted: ArrayLike) -> float:
    """Pearson correlation, over genes, of the mean expression vectors.

    High for almost any prediction, because genes differ far more in level than conditions do: read
    :func:`pearson_delta` beside it.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.

    Returns
    -------
    float
        In [-1, 1]; NaN where one of the mean vectors is the same in all genes (correlation undefined).

    Raises
    ------
    ValueError
        If shapes disagree or a value is not finite.

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

    Estimator: ``corr(mean(true) - mean(control), mean(predicted) - mean(control))``, the "Pearson delta" or
    correlation of the mean differential expression. Both differences use the same control mean, whose
    sampling noise therefore pulls the value up a little; resampled control cells as prediction give noise
    around 0 or, where they are the very cells of `control`, NaN.

    Parameters
    ----------
    true, predicted, control
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.

    Returns
    -------
    float
        In [-1, 1]; NaN where one of the differences is the same in all genes (correlation undefined).

    Raises
    ------
    ValueError
        If shapes disagree or a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import pearson_delta
    >>> control = np.zeros((2, 3))
    >>> round(pearson_delta(control + [1, 2, 3], control + [2, 4, 6], control), 6)
    1.0
    """
    true, predicted = as_cell_pair(true, predicted)
    control = as_cells(control, "control")
    if control.shape[1] != true.shape[1]:
        raise ValueError(f"`control` has {control.shape[1]} genes and `true` has {true.shape[1]}.")
    baseline = control.mean(axis=0)
    return _pearson(true.mean(axis=0) - baseline, predicted.mean(axis=0) - baseline)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a_centred, b_centred = a - a.mean(), b - b.mean()
    a_norm, b_norm = np.linalg.norm(a_centred), np.linalg.norm(b_centred)
    # Rounding leaves a constant vector with a tiny spread: correlations of rounding errors are not results.
    if a_norm <= 1e-12 * np.linalg.norm(a) or b_norm <= 1e-12 * np.linalg.norm(b):
        return float("nan")
    return float(np.clip(a_centred @ b_centred / (a_norm * b_norm), -1.0, 1.0))
