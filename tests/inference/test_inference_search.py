"""Local scores against direct least squares; the search finds planted graphs and targets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from small_system import GRAPH, N_GENES, linear_data, local_scores

import scgim
from scgim.inference import TrainingData, search_structure
from scgim.inference.search import _State
from scgim.model import is_acyclic
from scgim.model.mechanisms import trust


def least_squares(data: TrainingData, gene: int, parents: list[int], targets: list[int]) -> float:
    """Log likelihood of one regression for the untargeted conditions and a normal for each targeted one, with the two
    cells of the prior in every spread, and one cell in a hundred an outlier."""
    x, condition = data.x.double().numpy(), data.condition.numpy()
    free = np.isin(condition, targets)
    design = np.column_stack([np.ones((~free).sum()), x[~free][:, parents]])
    y = x[~free, gene]
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    center, unit = x[:, gene].mean(), x[:, gene].std(ddof=1)
    weight = float(trust(data.x[data.condition == 0])[gene])

    def score(left: np.ndarray, values: np.ndarray) -> float:
        variance = (weight * (left**2).sum() + 2 * unit**2) / (weight * len(left) + 2)
        odd = stats.cauchy(center, unit).pdf(values)
        prior = 0.5 * 2 * (np.log(unit**2 / variance) - unit**2 / variance + 1)
        return weight * np.log(0.99 * stats.norm(0, variance**0.5).pdf(left) + 0.01 * odd).sum() + prior

    total = score(residual, y)
    for k in targets:
        own = x[condition == k, gene]
        total += score(own - (weight * own.sum() + center) / (weight * len(own) + 1), own)
    return float(total)


@pytest.mark.parametrize(("gene", "parents"), [(1, [0]), (2, [1]), (3, [0]), (2, [0, 1, 4]), (4, [])])
def test_a_linear_score_is_the_least_squares_log_likelihood_less_its_price(gene, parents):
    data = linear_data(n=100, n_control=400)
    scores = local_scores(data, graph_sparsity=5.0, target_sparsity=7.0)
    ((value, targets),) = scores.score(gene, [frozenset(parents)])
    assert torch.nonzero(targets).flatten().tolist() == [gene + 1]
    price = 5.0 * len(parents) + 7.0 + 0.5 * len(parents)
    assert value == pytest.approx(least_squares(data, gene, parents, [gene + 1]) - price, abs=1.0)


def test_differences_of_scores_are_those_of_log_likelihoods():
    data = linear_data(n=100, n_control=400)
    scores = local_scores(data, graph_sparsity=0.0)
    (with_parent, _), (without, t) = scores.score(2, [frozenset({1}), frozenset()])
    assert with_parent > without
    targets = torch.nonzero(t).flatten().tolist()
    expected = least_squares(data, 2, [1], [3]) - least_squares(data, 2, [], targets) + 6.0 * (len(targets) - 1)
    assert with_parent - without + 0.5 == pytest.approx(expected, abs=2.0)


def test_known_targets_are_taken_as_given():
    data = linear_data()
    known = torch.full((N_GENES + 1, N_GENES), torch.nan)
    known[2] = torch.tensor([0.0, 0, 0, 1, 0])  # wrong: condition 2 replaces g1
    scores = local_scores(data, known_targets=known)
    for gene in (1, 3):
        ((_, targets),) = scores.score(gene, [frozenset()])
        assert bool(targets[2]) == (gene == 3)


def test_the_control_is_never_a_target():
    data = linear_data()
    data.x[data.condition == 0] += 50
    scores = local_scores(data)
    for gene in range(N_GENES):
        assert not scores.score(gene, [frozenset()])[0][1][0]


def test_scores_do_not_depend_on_the_order_of_cells_nor_on_how_they_are_grouped():
    data = linear_data()
    order = torch.randperm(len(data.x))
    shuffled = TrainingData(data.x[order], data.condition[order], data.valid[order], data.features, data.membership)
    expected = local_scores(data).score(2, [frozenset({1}), frozenset({0, 3})])
    for other in (local_scores(shuffled), local_scores(data, chunk=7)):
        for (a, t), (b, u) in zip(expected, other.score(2, [frozenset({1}), frozenset({0, 3})]), strict=True):
            assert b == pytest.approx(a, abs=0.05)
            assert torch.equal(t, u)


@pytest.mark.parametrize("seed", range(4))
def test_the_search_recovers_planted_edges_and_targets(seed):
    data = linear_data(seed, n=80, n_control=300)
    scores = local_scores(data, target_sparsity=10.0)
    found = search_structure(scores, generator=np.random.default_rng(seed), max_shakes=N_GENES)
    assert is_acyclic(found.graph)
    np.testing.assert_array_equal(found.graph, GRAPH)
    np.testing.assert_array_equal(found.targets[1:].numpy(), np.eye(N_GENES, dtype=bool))
    assert not found.targets[0].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_on_the_simulator(seed):
    adata = scgim.simulate.synthetic(
        n_genes=8, n_perturbations=16, doses=(1.0, 2.0), new_doses=(), n_new_targets=0, n_features=8,
        edges_per_gene=1.2, rng=seed,
    )  # fmt: skip
    truth = adata.uns["truth"]
    labels = list(truth["conditions"]["condition"])
    condition = torch.as_tensor(pd.Categorical(adata.obs["condition"], categories=labels).codes.astype(np.int64))
    membership = torch.cat([torch.zeros(1, len(labels) - 1), torch.eye(len(labels) - 1)])
    data = TrainingData(
        torch.as_tensor(adata.X), condition, torch.zeros(len(condition), dtype=torch.bool),
        torch.zeros(len(labels) - 1, 1), membership,
    )  # fmt: skip
    found = search_structure(local_scores(data), generator=np.random.default_rng(0), max_shakes=8)
    true_graph = adata.varp["true_graph"].toarray() > 0
    assert is_acyclic(found.graph)
    for estimate, true in ((found.graph, true_graph), (found.targets.numpy(), truth["targets"] > 0)):
        f1 = 2 * (estimate & true).sum() / (estimate.sum() + true.sum())
        assert f1 > 0.85


def test_permuting_genes_permutes_the_result():
    data = linear_data(3)
    order = torch.tensor([4, 2, 0, 3, 1])
    moved = TrainingData(data.x[:, order], data.condition, data.valid, data.features, data.membership)
    first = search_structure(local_scores(data), generator=np.random.default_rng(0))
    second = search_structure(local_scores(moved), generator=np.random.default_rng(0))
    np.testing.assert_array_equal(second.graph, first.graph[np.ix_(order, order)])
    assert torch.equal(second.targets, first.targets[:, order])
    assert second.score == pytest.approx(first.score, abs=0.05)


def test_the_search_respects_its_limits():
    rng = np.random.default_rng(0)
    graph = np.triu(np.ones((6, 6), dtype=bool), 1)
    data = linear_data(0, n_control=400, graph=graph)
    found = search_structure(local_scores(data, graph_sparsity=0.5), generator=rng, max_parents=2)
    assert found.graph.any()
    assert found.graph.sum(0).max() <= 2
    nothing = search_structure(local_scores(data, graph_sparsity=1e6), generator=rng)
    assert not nothing.graph.any()
    few = local_scores(data).screen(1)
    assert all(j not in few[j] for j in range(6))
    assert all(j in few[i] for j in range(6) for i in few[j])


@pytest.mark.parametrize("linear", [True, False])
def test_zero_inflated_and_shift_scores_are_finite(linear):
    data = linear_data()
    data.x = torch.where(data.x < 0, torch.zeros_like(data.x), data.x)
    data.x[data.condition == 2, 0] = 0  # a gene never seen in a condition
    scores = local_scores(data, ziln=True, linear=linear, shift=True)
    for value, _ in scores.score(0, [frozenset(), frozenset({1}), frozenset({1, 2, 3, 4})]):
        assert np.isfinite(value)


def test_an_edge_that_was_toggled_has_the_opposite_gain_until_it_is_scored_again():
    state = _State(local_scores(linear_data()), [set(range(N_GENES)) - {j} for j in range(N_GENES)])
    state.refresh_all()
    before = state.gain[:, 1].copy()
    state.set_parents(1, frozenset({0}))
    assert state.gain[0, 1] == -before[0] != 0
    np.testing.assert_array_equal(state.gain[2:, 1], before[2:])
    assert state.stale[:, 1].tolist() == [True, False, True, True, True]  # a gene is no parent of itself
