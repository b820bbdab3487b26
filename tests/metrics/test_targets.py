"""Scores of perturbation targets."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from scgim import metrics


@pytest.fixture
def targets():
    rng = np.random.default_rng(0)
    return (rng.random((30, 8)) < 0.2).astype(int), (rng.random((30, 8)) < 0.3).astype(int)


def test_scores_agree_with_scikit_learn(targets):
    true, predicted = targets
    assert metrics.target_f1(true, predicted) == pytest.approx(f1_score(true.ravel(), predicted.ravel()))
    per_condition = [f1_score(t, p, zero_division=1.0) for t, p in zip(true, predicted, strict=True)]
    assert metrics.target_f1_per_condition(true, predicted) == pytest.approx(np.mean(per_condition))
    probability = np.random.default_rng(1).random(true.shape)
    expected = average_precision_score(true.ravel(), probability.ravel())
    assert metrics.target_auprc(true, probability) == pytest.approx(expected)


def test_micro_and_per_condition_weigh_differently():
    true = np.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    predicted = np.array([[1, 1, 1, 1], [0, 0, 0, 1]])
    assert metrics.target_f1(true, predicted) == pytest.approx(0.8)
    assert metrics.target_f1_per_condition(true, predicted) == pytest.approx(0.5)


def test_one_at_equality_and_symmetric(targets):
    true, predicted = targets
    for metric in (metrics.target_f1, metrics.target_f1_per_condition):
        assert metric(true, true) == 1
        assert metric(true, predicted) == metric(predicted, true) < 1


def test_permuting_conditions_and_genes_changes_nothing(targets):
    true, predicted = targets
    rng = np.random.default_rng(2)
    index = np.ix_(rng.permutation(30), rng.permutation(8))
    for metric in (metrics.target_f1, metrics.target_f1_per_condition, metrics.target_auprc):
        assert metric(true[index], predicted[index]) == pytest.approx(metric(true, predicted))


def test_the_degenerate_answer_scores_low(targets):
    true, _ = targets
    assert metrics.target_f1(true, np.ones_like(true)) < 0.4
    assert np.isnan(metrics.target_auprc(np.zeros((2, 2)), np.ones((2, 2))))


def test_bad_input_is_named(targets):
    true, predicted = targets
    with pytest.raises(ValueError, match=r"shape \(30, 8\) and `predicted` has shape \(30, 7\)"):
        metrics.target_f1(true, predicted[:, :7])
    with pytest.raises(ValueError, match="only 0 and 1"):
        metrics.target_f1(true, predicted * 0.7)
    with pytest.raises(ValueError, match="no condition"):
        metrics.target_f1_per_condition(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="not finite"):
        metrics.target_auprc(true, np.full(true.shape, np.nan))
