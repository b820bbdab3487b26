"""Acyclicity measures against eigenvalues and DAGs, breaking of cycles, the latent graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scgim.model import (
    LatentGraph,
    break_cycles,
    exponential_trace,
    is_acyclic,
    spectral_radius,
    topological_order,
)


def random_dag(rng: np.random.Generator, n: int, density: float = 0.4) -> np.ndarray:
    upper = np.triu(rng.random((n, n)) < density, 1)
    order = rng.permutation(n)
    return upper[np.ix_(order, order)]


@pytest.mark.parametrize("seed", range(5))
def test_spectral_radius_equals_the_largest_eigenvalue(seed):
    weights = np.random.default_rng(seed).uniform(0.05, 1, (12, 12)) * (1 - np.eye(12))
    found = spectral_radius(torch.as_tensor(weights))
    assert float(found) == pytest.approx(np.abs(np.linalg.eigvals(weights)).max(), rel=1e-4)


def test_spectral_radius_has_the_gradient_of_the_eigenvalue():
    weights = np.random.default_rng(1).uniform(0.1, 1, (6, 6))
    w = torch.tensor(weights, requires_grad=True)
    spectral_radius(w, n_steps=60).backward()
    for i, j in ((0, 1), (3, 2), (5, 5)):
        up, down = weights.copy(), weights.copy()
        up[i, j] += 1e-5
        down[i, j] -= 1e-5
        slope = (np.abs(np.linalg.eigvals(up)).max() - np.abs(np.linalg.eigvals(down)).max()) / 2e-5
        assert float(w.grad[i, j]) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("n", [2, 5, 15, 20, 50, 100])
@pytest.mark.parametrize("kind", ["chain", "weak order", "full order", "random"])
def test_spectral_radius_of_a_dag_counts_as_zero(n, kind):
    """Also with paths of more than ten edges, which ten power iterations cannot tell from a cycle."""
    full = np.triu(np.ones((n, n)), 1)
    weights = {
        "chain": np.diag(np.ones(n - 1), 1),
        "weak order": 0.05 * full,
        "full order": full,
        "random": random_dag(np.random.default_rng(n), n).astype(float),
    }[kind]
    assert 0 <= float(spectral_radius(torch.as_tensor(weights, dtype=torch.float32))) < 1e-2


@pytest.mark.parametrize("n", [5, 20, 50])
def test_spectral_radius_sees_one_cycle_behind_a_long_chain(n):
    weights = torch.diag(torch.ones(n - 1), 1)
    weights[n // 2 + 1, n // 2] = 0.5
    assert float(spectral_radius(weights)) == pytest.approx(0.5**0.5, rel=0.1)


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_exponential_trace_is_zero_exactly_for_dags(seed, n):
    rng = np.random.default_rng(seed)
    dag = random_dag(rng, n)
    assert is_acyclic(dag)
    assert float(exponential_trace(torch.as_tensor(dag, dtype=torch.float64))) == pytest.approx(0, abs=1e-9)
    if n > 1:
        order = topological_order(dag)
        cyclic = dag.copy()
        cyclic[order[0], order[-1]] = cyclic[order[-1], order[0]] = True
        assert not is_acyclic(cyclic)
        assert float(exponential_trace(torch.as_tensor(cyclic, dtype=torch.float64))) > 0.5


@given(st.integers(0, 10**6), st.integers(1, 15))
def test_break_cycles_returns_a_dag_within_the_thresholded_edges(seed, n):
    probability = np.random.default_rng(seed).random((n, n))
    graph, dropped = break_cycles(probability)
    assert graph.dtype == bool
    assert is_acyclic(graph)
    allowed = (probability > 0.5) & ~np.eye(n, dtype=bool)
    assert not (graph & ~allowed).any()
    assert dropped == allowed.sum() - graph.sum()


def test_break_cycles_drops_the_weakest_edge_of_the_cycle_only():
    probability = np.zeros((5, 5))
    probability[0, 1], probability[1, 2], probability[2, 0] = 0.9, 0.6, 0.8
    probability[3, 4] = 0.51  # weaker, but on no cycle
    graph, dropped = break_cycles(probability)
    assert dropped == 1
    assert {(int(i), int(j)) for i, j in np.argwhere(graph)} == {(0, 1), (2, 0), (3, 4)}
    untouched = probability.copy()
    break_cycles(untouched)
    np.testing.assert_array_equal(untouched, probability)


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_topological_order_puts_causes_first(seed, n):
    dag = random_dag(np.random.default_rng(seed), n)
    position = np.argsort(topological_order(dag))
    assert all(position[i] < position[j] for i, j in np.argwhere(dag))


def test_topological_order_refuses_cycles():
    with pytest.raises(ValueError, match="graph has a cycle"):
        topological_order(np.array([[0, 1], [1, 0]]))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_set_logits_is_reproduced(alpha):
    graph = LatentGraph(7, inverse_temperature=alpha)
    logits = torch.randn(7, 7) * 3
    graph.set_logits(logits)
    torch.testing.assert_close(graph.logits().detach(), logits, atol=1e-4, rtol=1e-4)
    assert torch.isclose(graph.z[0].norm(), graph.z[1].norm(), rtol=1e-4)


def test_set_logits_with_a_low_rank_is_the_best_approximation():
    graph = LatentGraph(6, rank=2)
    logits = torch.randn(6, 6)
    graph.set_logits(logits)
    left, singular, right = torch.linalg.svd(logits)
    best = left[:, :2] * singular[:2] @ right[:2]
    torch.testing.assert_close(graph.logits().detach(), best, atol=1e-5, rtol=1e-4)


def test_edges_that_are_not_allowed_have_no_probability_and_no_gradient():
    graph = LatentGraph(4)
    graph.allowed[2, 1] = False
    probability = graph.probabilities()
    assert probability[2, 1].item() == 0
    assert (probability.diagonal() == 0).all()
    others = graph.allowed
    assert ((probability > 0) == others).all()
    (gradient,) = torch.autograd.grad(probability[2, 1] + probability.diagonal().sum(), graph.z)
    assert not gradient.any()


def test_the_seed_of_the_latent_graph_is_the_generator():
    first, second = (LatentGraph(5, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first.z, second.z)
    assert float(LatentGraph(60).z.detach().std()) == pytest.approx(1, abs=0.05)
