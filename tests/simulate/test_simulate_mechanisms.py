"""Ancestral sampling against what the structural equations imply."""

from __future__ import annotations

import numpy as np
import pytest

from scgim.simulate import ancestral_sample, draw_mechanisms, random_dag, topological_order
from scgim.simulate.systems import HARD_VARIANCE, NOISE_VARIANCE

N = 40_000


def cells(graph, mechanisms, *, target=None, effect=0.0, intervention="hard", n=N, rng=0):
    targets = np.zeros((n, len(graph)))
    effects = np.zeros((n, len(graph)))
    if target is not None:
        targets[:, target] = 1
        effects[:, target] = effect
    return ancestral_sample(graph, mechanisms, targets=targets, effects=effects, intervention=intervention, rng=rng)


@pytest.fixture(scope="module")
def chain():
    """2 -> 0 -> 1, with 3 apart."""
    graph = np.zeros((4, 4), dtype=np.uint8)
    graph[2, 0] = graph[0, 1] = 1
    return graph


def test_linear_cells_have_the_implied_covariance(chain):
    mechanisms = draw_mechanisms(chain, family="linear", rng=1)
    inverse = np.linalg.inv(np.eye(4) - mechanisms["weights"])
    implied = NOISE_VARIANCE * inverse.T @ inverse
    assert np.allclose(np.cov(cells(chain, mechanisms).T), implied, atol=0.05 * implied.max())


def test_linear_weights_keep_away_from_zero():
    graph = random_dag(30, rng=0)
    weights = draw_mechanisms(graph, family="linear", rng=0)["weights"]
    assert ((weights != 0) == (graph != 0)).all()
    sizes = np.abs(weights[graph != 0])
    assert sizes.min() >= 0.5
    assert sizes.max() <= 2.0
    assert (weights < 0).any() and (weights > 0).any()


@pytest.mark.parametrize("family", ["linear", "mlp", "ziln", "saturating"])
def test_a_hard_intervention_cuts_the_parents_and_moves_only_descendants(chain, family):
    mechanisms = draw_mechanisms(chain, family=family, rng=3)
    before = cells(chain, mechanisms)
    after = cells(chain, mechanisms, target=0, effect=2.0)  # the same noise
    assert np.array_equal(before[:, [2, 3]], after[:, [2, 3]])
    assert not np.array_equal(before[:, 1], after[:, 1])
    value = after[:, 0]
    if family == "ziln":
        assert np.mean(value == 0) == pytest.approx(mechanisms["zero_probability"][0], abs=0.02)
        value, parent = np.log(value[value > 0]), after[value > 0, 2]
    else:
        parent = after[:, 2]
    assert value.mean() == pytest.approx(2.0, abs=0.02)
    assert value.var() == pytest.approx(HARD_VARIANCE, rel=0.05)
    assert abs(np.corrcoef(value, parent)[0, 1]) < 0.03


@pytest.mark.parametrize("family", ["linear", "mlp", "saturating"])
def test_a_shift_adds_exactly_the_effect(chain, family):
    mechanisms = draw_mechanisms(chain, family=family, rng=3)
    before = cells(chain, mechanisms, n=50)
    after = cells(chain, mechanisms, target=0, effect=1.5, intervention="shift", n=50)
    assert np.allclose(after[:, 0] - before[:, 0], 1.5)
    assert np.array_equal(before[:, [2, 3]], after[:, [2, 3]])


def test_a_shift_of_a_log_normal_gene_multiplies_it(chain):
    mechanisms = draw_mechanisms(chain, family="ziln", rng=3)
    before = cells(chain, mechanisms, n=500)[:, 0]
    after = cells(chain, mechanisms, target=0, effect=1.5, intervention="shift", n=500)[:, 0]
    assert np.array_equal(before == 0, after == 0)
    assert np.allclose(after, np.exp(1.5) * before)


def test_mlp_mechanism_is_the_documented_formula(chain):
    mechanisms = draw_mechanisms(chain, family="mlp", rng=5)
    x = cells(chain, mechanisms)
    hidden = np.tanh(x[:, [2]] * mechanisms["hidden_weights"][0, 2][None] + mechanisms["hidden_bias"][0][None])
    residual = x[:, 0] - hidden @ mechanisms["output_weights"][0]
    assert residual.mean() == pytest.approx(0.0, abs=0.01)
    assert residual.var() == pytest.approx(NOISE_VARIANCE, rel=0.05)


@pytest.mark.parametrize("family", ["mlp", "ziln", "saturating"])
def test_expression_does_not_explode_along_the_graph(family):
    for seed in range(20):
        graph = random_dag(20, rng=seed)
        mechanisms = draw_mechanisms(graph, family=family, rng=seed)
        x = cells(graph, mechanisms, n=300, rng=seed)
        assert np.quantile(np.abs(x), 0.999) < 30


def test_ziln_is_not_negative_and_zero_at_its_rate():
    graph = random_dag(10, rng=0)
    mechanisms = draw_mechanisms(graph, family="ziln", rng=0)
    x = cells(graph, mechanisms, n=20_000)
    assert (x >= 0).all()
    assert np.allclose((x == 0).mean(axis=0), mechanisms["zero_probability"], atol=0.02)


def test_independence_follows_the_graph():
    # Roots of a DAG are independent whatever the mechanisms are.
    graph = random_dag(15, kind="sf", rng=4)
    graph[topological_order(graph)[0]] = 0
    mechanisms = draw_mechanisms(graph, family="mlp", rng=4)
    x = cells(graph, mechanisms)
    lonely = np.flatnonzero((graph.sum(axis=0) == 0) & (graph.sum(axis=1) == 0))
    assert len(lonely) == 1
    others = np.delete(np.arange(15), lonely)
    correlations = [abs(np.corrcoef(x[:, lonely[0]], x[:, other])[0, 1]) for other in others]
    assert max(correlations) < 0.02


def test_bad_arguments(chain):
    with pytest.raises(ValueError, match="family='spline' is unknown; use one of"):
        draw_mechanisms(chain, family="spline")
    mechanisms = draw_mechanisms(chain)
    none = np.zeros((3, 4))
    with pytest.raises(ValueError, match="intervention='soft' is unknown; use one of"):
        ancestral_sample(chain, mechanisms, targets=none, effects=none, intervention="soft")
    with pytest.raises(ValueError, match=r"\(cells, 4\)"):
        ancestral_sample(chain, mechanisms, targets=none[:, :3], effects=none)
