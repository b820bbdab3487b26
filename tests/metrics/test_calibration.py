"""Zero fractions and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from scgim import metrics


def test_zero_fractions():
    x = np.array([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0]])
    assert metrics.zero_fraction(x).tolist() == [1.0, 0.0, 0.5]
    assert metrics.zero_fraction_error(x, x) == 0.0
    assert metrics.zero_fraction_error(x, np.ones((4, 3))) == pytest.approx(0.5)


def test_a_perfect_prediction_covers_nine_tenths_and_a_narrow_one_fewer():
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(size=(20_000, 3)), rng.normal(size=(20_000, 3))
    assert metrics.coverage(true, predicted) == pytest.approx(0.9, abs=0.01)
    assert metrics.coverage(true, predicted * 0.5) < 0.65
    assert metrics.coverage(true, predicted, lower=0.25, upper=0.75) == pytest.approx(0.5, abs=0.01)


def test_a_peak_of_zeros_at_the_end_of_the_range_counts_as_covered():
    true = np.repeat([0.0, 1.0], [80, 20])[:, None]
    predicted = np.concatenate([np.zeros(80), np.linspace(0.5, 2, 20)])[:, None]
    assert metrics.coverage(true, predicted) == 1.0


def test_coverage_per_gene_is_per_gene():
    x = np.arange(100.0)[:, None] * [1.0, 1.0]
    assert metrics.coverage_per_gene(x, x + np.array([0.0, 1000.0])).tolist() == [0.9, 0.0]


def test_quantiles_out_of_order_are_refused():
    with pytest.raises(ValueError, match="lower < upper"):
        metrics.coverage(np.zeros((2, 1)), np.zeros((2, 1)), lower=0.9, upper=0.1)


@pytest.mark.parametrize("shift", [-100.0, 100.0])
def test_cells_beyond_either_end_are_not_covered(shift: float) -> None:
    x = np.random.default_rng(0).normal(size=(500, 3))
    assert metrics.coverage(x + shift, x) == 0.0
    half = np.concatenate([x[:250], x[250:] + shift])
    assert metrics.coverage(half, x) == pytest.approx(0.45, abs=0.03)


def test_both_ends_of_the_range_count_as_inside() -> None:
    x = np.arange(5.0)[:, None]
    assert metrics.coverage(x, x, lower=0.0, upper=1.0) == 1.0
    assert metrics.coverage(x, x, lower=0.25, upper=0.75) == pytest.approx(3 / 5)
