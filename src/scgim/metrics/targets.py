"""How well the targets of perturbations are found: (conditions, genes) arrays without the control."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._inputs import as_binary, as_scores, check_same_shape


def target_f1(true: ArrayLike, predicted: ArrayLike) -> float:
    """F1 score of the targets, micro-averaged over conditions x genes.

    Estimator: ``2 TP / (2 TP + FP + FN)`` with counts pooled over all conditions and genes, so a condition
    weighs as much as it has targets. 1 where neither has any target (`own`). Leave control conditions out:
    they have no targets.

    Parameters
    ----------
    true, predicted
        (conditions, genes) of 0 and 1.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If shapes disagree or an entry is not 0 or 1.

    Examples
    --------
    >>> from scgim.metrics import target_f1
    >>> target_f1([[1, 0], [1, 1]], [[1, 0], [0, 0]])
    0.5
    """
    true, predicted = _as_target_pair(true, predicted)
    return f1(true, predicted)


def target_f1_per_condition(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over conditions of the F1 score of their targets.

    Estimator: F1 within each condition (1 where it has neither true nor predicted targets, `own`), then the
    arithmetic mean, so that every condition weighs the same.

    Parameters
    ----------
    true, predicted
        (conditions, genes) of 0 and 1.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If shapes disagree, an entry is not 0 or 1, or there is no condition.

    Examples
    --------
    >>> from scgim.metrics import target_f1_per_condition
    >>> target_f1_per_condition([[1, 0], [1, 1]], [[1, 0], [0, 0]])
    0.5
    """
    true, predicted = _as_target_pair(true, predicted)
    if len(true) == 0:
        raise ValueError("There is no condition to average over (0 rows).")
    return float(np.mean([f1(t, p) for t, p in zip(true, predicted, strict=True)]))


def target_auprc(true: ArrayLike, probability: ArrayLike) -> float:
    """Area under the precision-recall curve of the target probabilities.

    Estimator: average precision (step-wise, no interpolation) over all conditions x genes pooled.

    Parameters
    ----------
    true
        (conditions, genes) of 0 and 1.
    probability
        Target probabilities, or any score that ranks them (conditions, genes).

    Returns
    -------
    float
        In [0, 1]; NaN where there is no true target.

    Raises
    ------
    ValueError
        If shapes disagree or a score is not finite.

    Examples
    --------
    >>> from scgim.metrics import target_auprc
    >>> target_auprc([[1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.3]])
    1.0
    """
    targets, scores = as_binary(true, "true"), as_scores(probability, "probability")
    check_same_shape(targets, scores)
    return average_precision(targets.ravel(), scores.ravel())


def f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of two bool arrays of one shape; 1 where both are all False."""
    hits = int((true & predicted).sum())
    claims = int(true.sum()) + int(predicted.sum())  # 2 TP + FP + FN
    return 2 * hits / claims if claims else 1.0


def average_precision(true: np.ndarray, score: np.ndarray) -> float:
    """Average precision of flat arrays; NaN where nothing is true (scikit-learn warns and says 0)."""
    if not true.any():
        return float("nan")
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(true, score))


def _as_target_pair(true: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    pair = as_binary(true, "true"), as_binary(predicted, "predicted")
    check_same_shape(*pair)
    return pair
