"""The linear Gaussian model under interventions: estimates, moments of its cells, and awkward designs."""

from __future__ import annotations

import numpy as np
import pytest

from scgim.baselines.causal import LinearGaussian

DAG = np.array([[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
WEIGHTS = np.array([[0, 1.5, -1.0, 0], [0, 0, 0.8, 0], [0, 0, 0, 2.0], [0, 0, 0, 0]])
TARGETS = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0]])


def cells(intervention: str, n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three conditions of four genes with intercepts 1, noise sd 0.5; targets: N(4, 1), or 3 more."""
    rng = np.random.default_rng(seed)
    x = []
    for target in TARGETS:
        values = np.zeros((n, 4))
        for j in range(4):
            noise = rng.standard_normal(n)
            values[:, j] = 1.0 + values @ WEIGHTS[:, j] + 0.5 * noise + 3.0 * target[j]
            if target[j] and intervention == "hard":
                values[:, j] = 4.0 + noise
        x.append(values)
    return np.concatenate(x), np.repeat([0, 1, 2], n)


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_the_mechanisms_are_recovered(intervention):
    x, codes = cells(intervention)
    scm = LinearGaussian.fit(x, codes, DAG, TARGETS, intervention=intervention)
    np.testing.assert_allclose(scm.weights, WEIGHTS, atol=0.05)
    np.testing.assert_allclose(scm.intercepts, 1.0, atol=0.08)
    np.testing.assert_allclose(scm.variances, 0.25, rtol=0.1)
    np.testing.assert_allclose(scm.target_means[TARGETS == 1], 4.0, atol=0.15)
    expected = 1.0 if intervention == "hard" else 0.25
    np.testing.assert_allclose(scm.target_variances[TARGETS == 1], expected, rtol=0.1)
    assert np.isnan(scm.target_means[TARGETS == 0]).all()


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_sampled_cells_have_the_moments_of_each_condition(intervention):
    x, codes = cells(intervention)
    scm = LinearGaussian.fit(x, codes, DAG, TARGETS, intervention=intervention)
    for row in range(3):
        own = x[codes == row]
        new = scm.sample(row, 20_000, rng=row)
        scale = own.std(axis=0)
        np.testing.assert_allclose(new.mean(axis=0) / scale, own.mean(axis=0) / scale, atol=0.08)
        np.testing.assert_allclose(
            np.cov(new.T) / np.outer(scale, scale), np.cov(own.T) / np.outer(scale, scale), atol=0.1
        )


def test_targeted_cells_do_not_enter_a_regression():
    x, codes = cells("hard")
    changed = x.copy()
    changed[codes == 1, 1] = 1e3  # gene 1 is a target of condition 1
    first, second = (LinearGaussian.fit(values, codes, DAG, TARGETS) for values in (x, changed))
    np.testing.assert_array_equal(first.weights[:, 1], second.weights[:, 1])
    assert first.variances[1] == second.variances[1]
    assert second.target_means[1, 1] == 1e3 and second.target_variances[1, 1] == 0


def test_without_targets_it_is_least_squares_over_all_cells():
    x, codes = cells("hard", n=50)
    scm = LinearGaussian.fit(x, codes, DAG, np.zeros_like(TARGETS))
    design = np.column_stack([np.ones(len(x)), x[:, :2]])
    expected = np.linalg.lstsq(design, x[:, 2], rcond=None)[0]
    np.testing.assert_allclose([scm.intercepts[2], *scm.weights[:2, 2]], expected)
    np.testing.assert_allclose(scm.variances[2], np.square(x[:, 2] - design @ expected).mean())


def test_a_seed_gives_the_same_cells():
    x, codes = cells("hard", n=50)
    scm = LinearGaussian.fit(x, codes, DAG, TARGETS)
    np.testing.assert_array_equal(scm.sample(2, 10, rng=3), scm.sample(2, 10, rng=3))
    assert not np.array_equal(scm.sample(2, 10, rng=3), scm.sample(2, 10, rng=4))


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_a_gene_that_is_always_a_target_has_no_mechanism(intervention):
    x, codes = cells("hard", n=100)
    targets = TARGETS.copy()
    targets[:, 2] = 1
    scm = LinearGaussian.fit(x, codes, DAG, targets, intervention=intervention)
    assert not scm.weights[:, 2].any()
    np.testing.assert_allclose([scm.intercepts[2], scm.variances[2]], [x[:, 2].mean(), x[:, 2].var()])
    for row in range(3):  # but its own mean in every condition
        assert scm.sample(row, 4000).mean(axis=0)[2] == pytest.approx(x[codes == row, 2].mean(), abs=0.2)


def test_collinear_parents_share_the_coefficient():
    rng = np.random.default_rng(0)
    cause = rng.normal(size=200)
    x = np.stack([cause, cause, 2 * cause + 0.1 * rng.normal(size=200)], axis=1)
    dag = [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    scm = LinearGaussian.fit(x, np.zeros(200, dtype=int), dag, np.zeros((1, 3)))
    np.testing.assert_allclose(scm.weights[:2, 2], 1.0, atol=0.02)


def test_one_targeted_cell_has_the_spread_of_the_mechanism():
    x, codes = cells("hard", n=30)
    x, codes = np.concatenate([x, [[7.0, 7.0, 7.0, 7.0]]]), np.append(codes, 3)
    scm = LinearGaussian.fit(x, codes, DAG, np.concatenate([TARGETS, [[1, 0, 0, 0]]]))
    assert scm.target_means[3, 0] == 7.0
    assert scm.target_variances[3, 0] == scm.variances[0] > 0


def test_too_few_cells_are_said():
    x, codes = cells("hard", n=30)
    kept = np.flatnonzero(codes > 0)[:33]  # condition 1, where gene 1 is a target, and three cells of condition 2
    targets = TARGETS.copy()
    targets[1, 2] = 1
    targets[2] = 0
    with pytest.raises(ValueError, match=r"gene 2 with 2 parents cannot be estimated: only 3 cells"):
        LinearGaussian.fit(x[kept], codes[kept], DAG, targets)


def test_a_condition_without_cells():
    x, codes = cells("hard", n=30)
    kept = codes != 2
    scm = LinearGaussian.fit(x[kept], codes[kept], DAG, TARGETS)
    with pytest.raises(ValueError, match="Condition 2 had no cells"):
        scm.sample(2, 5)
    assert scm.sample(0, 5).shape == (5, 4)


def test_bad_input():
    x, codes = cells("hard", n=10)
    with pytest.raises(ValueError, match="cycle"):
        LinearGaussian.fit(x, codes, DAG + DAG.T, TARGETS)
    with pytest.raises(ValueError, match="n must be at least 1"):
        LinearGaussian.fit(x, codes, DAG, TARGETS).sample(0, 0)
