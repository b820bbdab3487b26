"""Distances between samples of cells, against direct formulas, scipy and POT, and their properties."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy import special
from scipy.stats import gaussian_kde, multivariate_normal
from sklearn.metrics import pairwise_distances

from scgim import metrics

SYMMETRIC = [metrics.mean_distance, metrics.e_distance, metrics.wasserstein, metrics.sinkhorn_divergence]
ZERO_AT_EQUALITY = [metrics.mean_distance, metrics.e_distance, metrics.sinkhorn_divergence]
ALL = [*SYMMETRIC, metrics.kde_nll, metrics.pearson_means, metrics.zero_fraction_error, metrics.coverage]


def _name(function):
    return function.__name__


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 4)), rng.normal(size=(55, 4)) * 1.3 + 0.5


@pytest.mark.parametrize("metric", ALL, ids=_name)
def test_permuting_cells_or_genes_changes_nothing(metric, cells):
    x, y = cells
    rng = np.random.default_rng(1)
    genes = rng.permutation(4)
    value = metric(x, y)
    assert metric(rng.permutation(x), rng.permutation(y)) == pytest.approx(value, abs=1e-9)
    assert metric(x[:, genes], y[:, genes]) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("metric", SYMMETRIC, ids=_name)
def test_symmetric(metric, cells):
    x, y = cells
    options = (
        {"epsilon": 1.0, "tolerance": 1e-9} if metric in (metrics.wasserstein, metrics.sinkhorn_divergence) else {}
    )
    assert metric(x, y, **options) == pytest.approx(metric(y, x, **options), abs=1e-7)
    assert metric(x, y, **options) > 0


@pytest.mark.parametrize("metric", ZERO_AT_EQUALITY, ids=_name)
def test_zero_at_equality(metric, cells):
    assert metric(cells[0], cells[0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("metric", [*SYMMETRIC, metrics.kde_nll], ids=_name)
def test_grows_with_the_shift(metric, cells):
    x, _ = cells
    values = [metric(x, x + shift) for shift in (0.5, 1.0, 2.0, 4.0)]
    assert values == sorted(values)
    assert values[-1] > values[0]


@pytest.mark.parametrize("metric", ALL, ids=_name)
def test_integer_and_float32_input_give_the_same(metric):
    rng = np.random.default_rng(2)
    x, y = rng.poisson(3, size=(30, 3)), rng.poisson(4, size=(30, 3))
    assert metric(x, y) == pytest.approx(metric(x.astype(np.float32), y.astype(np.float32)), rel=1e-6)


# Kernel density -----------------------------------------------------------------------------------


def test_kde_nll_equals_scipy_where_the_covariance_is_regular(cells):
    x, y = cells
    assert metrics.kde_nll(x, y) == pytest.approx(-gaussian_kde(y.T).logpdf(x.T).mean(), abs=1e-9)


def test_kde_nll_equals_the_sum_of_kernels():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(9, 3))
    bandwidth = np.cov(y.T) * 9 ** (-2 / (3 + 4))
    density = np.array([np.mean([multivariate_normal(c, bandwidth).pdf(cell) for c in y]) for cell in x])
    assert metrics.kde_nll(x, y) == pytest.approx(-np.log(density).mean(), abs=1e-9)


def test_kde_nll_of_a_constant_gene_uses_the_documented_floor():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50, 2))
    y = np.column_stack([rng.normal(size=60), np.zeros(60)])
    floor = 1e-3 * x.var(axis=0).mean()
    bandwidth = np.diag([y[:, 0].var(ddof=1), floor]) * 60 ** (-2 / 6)
    density = np.stack([multivariate_normal(c, bandwidth).logpdf(x) for c in y])
    expected = -(np.logaddexp.reduce(density, axis=0) - np.log(60)).mean()
    assert metrics.kde_nll(x, y) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="singular"):
        metrics.kde_nll(x, y, variance_floor=0.0)


def test_kde_nll_with_fewer_cells_than_genes_is_finite_and_far_cells_do_not_underflow():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(20, 50)), rng.normal(size=(10, 50))
    assert np.isfinite(metrics.kde_nll(x, y))
    assert metrics.kde_nll(x + 1e4, y) > 1e6  # exp(-that) is 0: only the log domain survives


def test_kde_nll_is_exact_at_fifty_genes_and_over_several_blocks():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(1500, 50)), rng.normal(size=(300, 50))
    assert metrics.kde_nll(x, y) == pytest.approx(-gaussian_kde(y.T).logpdf(x.T).mean(), rel=1e-10)


def test_kde_nll_needs_a_scale_and_two_cells():
    with pytest.raises(ValueError, match="singular"):
        metrics.kde_nll(np.zeros((1, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="at least 2"):
        metrics.kde_nll(np.zeros((3, 2)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="variance_floor"):
        metrics.kde_nll(np.zeros((3, 2)), np.ones((5, 2)), variance_floor=-1)


# Energy distance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("unbiased", [False, True])
def test_e_distance_equals_pairwise_means(cells, squared, unbiased):
    x, y = cells
    distance = "sqeuclidean" if squared else "euclidean"
    within = []
    for sample in (x, y):
        d = pairwise_distances(sample, metric=distance)
        within.append(d[np.triu_indices(len(sample), 1)].mean() if unbiased else d.mean())
    expected = 2 * pairwise_distances(x, y, metric=distance).mean() - sum(within)
    assert metrics.e_distance(x, y, squared=squared, unbiased=unbiased) == pytest.approx(expected, rel=1e-9)


def test_squared_e_distance_is_twice_the_squared_mean_distance(cells):
    x, y = cells
    assert metrics.e_distance(x, y, squared=True) == pytest.approx(2 * metrics.mean_distance(x, y) ** 2)


def test_e_distance_sees_a_difference_in_spread_that_the_means_do_not():
    x = np.array([[-1.0], [1.0]])
    assert metrics.mean_distance(x, 3 * x) == 0
    assert metrics.e_distance(x, 3 * x) > 0.5


def test_e_distance_over_several_blocks():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2500, 2)), rng.normal(size=(10, 2))
    within = pairwise_distances(x).mean() + pairwise_distances(y).mean()
    expected = 2 * pairwise_distances(x, y).mean() - within
    assert metrics.e_distance(x, y) == pytest.approx(expected, rel=1e-8)


# Entropic transport -------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
def test_wasserstein_agrees_with_pot(cells, epsilon):
    ot = pytest.importorskip("ot")
    x, y = cells
    a, b, cost = ot.unif(len(x)), ot.unif(len(y)), ot.dist(x, y, metric="sqeuclidean")
    plan = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-10, numItermax=20_000)
    objective = (plan * cost).sum() + epsilon * (plan * np.log(plan / np.outer(a, b))).sum()
    transport = (plan * cost).sum()
    ours = metrics.wasserstein(x, y, epsilon=epsilon, tolerance=1e-8)
    regularised = metrics.wasserstein(x, y, epsilon=epsilon, tolerance=1e-8, value="regularised")
    assert ours == pytest.approx(transport, abs=1e-4)
    assert regularised == pytest.approx(objective, abs=1e-4)
    assert metrics.wasserstein(x, y, epsilon=epsilon) == pytest.approx(transport, abs=1e-3)  # defaults


def test_wasserstein_at_small_epsilon_approaches_exact_transport(cells):
    ot = pytest.importorskip("ot")
    x, y = cells
    exact = ot.emd2([], [], ot.dist(x, y, metric="sqeuclidean"))
    assert metrics.wasserstein(x, y, epsilon=1e-3, tolerance=1e-5) == pytest.approx(exact, abs=1e-3)


def test_wasserstein_with_costs_of_thousands_of_epsilons():
    """exp(-C / epsilon) is 0 everywhere here: a plain Sinkhorn divides by zero."""
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(60, 50)) * 3, rng.normal(size=(60, 50)) * 3 + 20
    ot = pytest.importorskip("ot")
    exact = ot.emd2([], [], ot.dist(x, y, metric="sqeuclidean"))
    assert metrics.wasserstein(x, y) == pytest.approx(exact, rel=1e-4)


def test_sinkhorn_divergence_is_the_debiased_objective(cells):
    x, y = cells
    options = {"epsilon": 2.0, "tolerance": 1e-9, "value": "regularised"}
    expected = (
        metrics.wasserstein(x, y, **options)
        - metrics.wasserstein(x, x, **options) / 2
        - metrics.wasserstein(y, y, **options) / 2
    )
    assert metrics.sinkhorn_divergence(x, y, epsilon=2.0, tolerance=1e-9) == pytest.approx(expected, abs=1e-9)


def test_sinkhorn_divergence_of_a_translation_is_the_squared_distance():
    x = np.random.default_rng(9).normal(size=(50, 3))
    assert metrics.sinkhorn_divergence(x, x + np.array([3.0, 0.0, 4.0])) == pytest.approx(25.0, rel=1e-3)


def test_single_cells_and_equal_cells():
    assert metrics.wasserstein(np.zeros((1, 2)), np.array([[3.0, 4.0]])) == pytest.approx(25.0)
    assert metrics.wasserstein(np.ones((5, 2)), np.ones((3, 2))) == pytest.approx(0.0, abs=1e-12)


def test_unconverged_sinkhorn_is_logged(cells, caplog):
    with caplog.at_level(logging.WARNING, logger="scgim"):
        metrics.wasserstein(*cells, epsilon=1e-3, tolerance=1e-12, max_iterations=5)
    assert "marginal error" in caplog.text


def test_transport_leaves_the_global_torch_state_alone(cells):
    import torch

    before = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled()
    metrics.sinkhorn_divergence(*cells)
    after = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epsilon": 0.0}, "epsilon"), ({"tolerance": 0.0}, "tolerance"), ({"value": "primal"}, "value")],
)
def test_wasserstein_refuses_bad_options(cells, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.wasserstein(*cells, **options)


# Input errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ALL, ids=_name)
@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        (np.zeros(4), np.zeros((3, 4)), r"`true` must have shape \(cells, genes\), got shape \(4,\)"),
        (np.zeros((3, 4)), np.zeros((3, 5)), "4 genes and `predicted` has 5"),
        (np.array([[0.0, np.nan]]), np.zeros((3, 2)), "`true` has 1 .* not finite.*cell 0, gene 1"),
        (np.zeros((3, 2)), np.array([[0.0, np.inf]]), "`predicted` has 1 value not finite"),
        (np.zeros((0, 2)), np.zeros((3, 2)), "`true` has 0 cells"),
        (np.zeros((3, 0)), np.zeros((3, 0)), "has no genes"),
    ],
)
def test_bad_input_is_named(metric, true, predicted, message):
    with pytest.raises(ValueError, match=message):
        metric(true, predicted)


def test_text_is_refused():
    with pytest.raises(TypeError, match="numeric"):
        metrics.mean_distance(np.array([["a"]]), np.zeros((1, 1)))


def test_the_regularised_objective_is_cost_and_divergence_of_the_plan() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(1.0, 2.0, size=(20, 2))
    epsilon = 0.5
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    f, g = np.zeros(30), np.zeros(20)
    for _ in range(3000):
        f = -epsilon * (special.logsumexp((g - cost) / epsilon, axis=1) - np.log(20))
        g = -epsilon * (special.logsumexp((f[:, None] - cost) / epsilon, axis=0) - np.log(30))
    log_density = (f[:, None] + g - cost) / epsilon
    plan = np.exp(log_density) / 600
    assert plan.sum() == pytest.approx(1.0, abs=1e-9)
    expected = (plan * cost).sum() + epsilon * (plan * log_density).sum()
    found = metrics.wasserstein(x, y, epsilon=epsilon, tolerance=1e-7, value="regularised")
    assert found == pytest.approx(expected, rel=1e-4)
