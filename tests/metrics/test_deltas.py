"""Means and differences of means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from scgim import metrics


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    control = rng.normal(size=(30, 6))
    shift = rng.normal(size=6)
    return control, rng.normal(size=(20, 6)) + shift, rng.normal(size=(25, 6)) + shift


def test_mean_distance_is_the_norm_of_the_difference(samples):
    _, x, y = samples
    assert metrics.mean_distance(x, y) == pytest.approx(np.sqrt(((x.mean(0) - y.mean(0)) ** 2).sum()))


def test_pearson_agrees_with_scipy(samples):
    control, x, y = samples
    base = control.mean(0)
    assert metrics.pearson_means(x, y) == pytest.approx(pearsonr(x.mean(0), y.mean(0))[0])
    assert metrics.pearson_delta(x, y, control) == pytest.approx(pearsonr(x.mean(0) - base, y.mean(0) - base)[0])


def test_pearson_delta_is_one_for_half_the_effect_and_minus_one_for_the_opposite(samples):
    control, x, _ = samples
    delta = x.mean(0) - control.mean(0)
    assert metrics.pearson_delta(x, control + delta / 2, control) == pytest.approx(1.0)
    assert metrics.pearson_delta(x, control - delta, control) == pytest.approx(-1.0)


def test_pearson_means_is_flattered_by_gene_levels_and_the_delta_is_not():
    rng = np.random.default_rng(1)
    levels = np.linspace(0, 10, 20)
    control = levels + rng.normal(size=(200, 20)) * 0.1
    x, y = control + rng.normal(size=20) * 0.3, control + rng.normal(size=20) * 0.3
    assert metrics.pearson_means(x, y) > 0.98
    assert abs(metrics.pearson_delta(x, y, control)) < 0.6


def test_undefined_correlations_are_nan(samples):
    control, x, _ = samples
    assert np.isnan(metrics.pearson_delta(x, control, control))
    assert np.isnan(metrics.pearson_delta(x, control + 1.1, control))  # constant up to rounding
    assert np.isnan(metrics.pearson_means(np.ones((3, 4)), x[:, :4]))


def test_control_with_other_genes_is_refused(samples):
    control, x, y = samples
    with pytest.raises(ValueError, match="`control` has 5 genes"):
        metrics.pearson_delta(x, y, control[:, :5])
