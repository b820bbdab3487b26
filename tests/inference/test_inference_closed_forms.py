"""The refit against ridge regression, local scores and the search against brute force."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import stats
from small_gim import make_gim
from small_system import GRAPH, linear_data, local_scores

from scgim.inference import LocalScores, TrainingData, condition_moments, refit_effects, search_structure
from scgim.inference.search import _State
from scgim.model import AmortizedInterventions, is_acyclic

# -- refit ------------------------------------------------------------------------------------------------


def linear_nets(kind: str, n_features: int) -> AmortizedInterventions:
    """Networks without hidden layers: a linear map and beside it another, with intercepts; some targets."""
    generator = torch.Generator().manual_seed(0)
    nets = AmortizedInterventions(n_features, 5, 3 if kind == "ziln" else 2, (), generator=generator)
    with torch.no_grad():
        for parameter in nets.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        nets.target_net.skip.weight.mul_(5.0)
    return nets


def graded_cells(kind: str, n: int = 25) -> TrainingData:
    """A control and six doses, of which the last is only seen together with the first."""
    generator = torch.Generator().manual_seed(1)
    condition = torch.arange(7).repeat_interleave(n)
    x = torch.randn(len(condition), 5, generator=generator) + 0.3 * condition.unsqueeze(1)
    if kind == "ziln":
        x = torch.where(torch.rand(x.shape, generator=generator) < 0.3, torch.zeros_like(x), x.exp())
    membership = torch.cat([torch.zeros(1, 6), torch.eye(6)])
    membership[6, 0] = 1.0
    features = torch.randn(6, 2, generator=generator)
    return TrainingData(x, condition, torch.arange(len(x)) % n == 3, features, membership)


def ridge(features: np.ndarray, goal: np.ndarray, weight: np.ndarray, scale: float) -> np.ndarray:
    """Fitted values of a weighted ridge regression: slopes are sums of two, N(0, 0.3^2) and N(0, scale^2)."""
    design = np.column_stack([np.ones(len(features)), features])
    penalty = np.diag([0.0] + [1 / (0.3**2 + scale**2)] * features.shape[1])
    return design @ np.linalg.solve(design.T * weight @ design + penalty, design.T @ (weight * goal))


@pytest.mark.parametrize(("kind", "pull", "spread", "n_steps"), [("linear", 7.0, 0.0, 1000), ("ziln", 0.0, 0.4, 2500)])
def test_a_refit_of_linear_networks_is_a_ridge_regression(kind: str, pull: float, spread: float, n_steps: int) -> None:
    gim, data, scale = make_gim(kind), graded_cells(kind), 1.5
    gim.interventions = linear_nets(kind, 2)
    gim.priors = type(gim.priors)(intervention_scale=scale)
    with torch.no_grad():
        logits, effects = (value.double().numpy() for value in gim.interventions(data.features))
        moments = condition_moments(gim, data).double().numpy()
    prob = np.broadcast_to(1 / (1 + np.exp(-logits))[..., None], effects.shape)
    if pull:
        weight = 1000 * prob + pull * (1 - prob)
        goal = (1000 * prob * effects + pull * (1 - prob) * moments[0]) / weight
    else:
        goal, weight = effects.copy(), prob / spread**2  # the last dose is never alone
        x = data.x[~data.valid].double().numpy()
        owner = data.condition[~data.valid].numpy()
        for part in range(5):
            own = x[owner == part + 1]
            n = (own > 0).sum(0) if kind == "ziln" else np.full(5, len(own))
            information = [n * np.exp(-2 * moments[part + 1, :, 1]), 2.0 * n]
            if kind == "ziln":
                rate = (len(own) - n + 0.5) / (len(own) + 1)
                information.append(len(own) * rate * (1 - rate))
            goal[part] = moments[part + 1]
            weight[part] = 1 / (1 / np.stack(information, -1) + spread**2)
    refit_effects(gim, data, pull, spread, n_steps)
    found = gim.interventions(data.features).effects.detach().double().numpy()
    features = data.features.double().numpy()
    for gene, k in itertools.product(range(5), range(effects.shape[2])):
        expected = ridge(features, goal[:, gene, k], weight[:, gene, k], scale)
        np.testing.assert_allclose(found[:, gene, k], expected, atol=0.01)


# -- scores -----------------------------------------------------------------------------------------------


def with_outliers(density: np.ndarray, outlier: np.ndarray) -> np.ndarray:
    return np.logaddexp(np.log(0.99) + density, np.log(0.01) + outlier)


def prior_of_spread(log_scale: float) -> float:
    """Two cells of unit spread, less what they are worth at best."""
    return float(-2 * log_scale - (np.exp(-2 * log_scale) - 1))


def zero_inflated_cells(seed: int = 0) -> TrainingData:
    data = linear_data(seed, n=40, n_control=90)
    drop = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(seed)) < 0.25
    data.x = torch.where(drop, torch.zeros_like(data.x), (0.5 * data.x).exp())
    data.x[data.condition == 2, 4] = 3 * (0.5 * linear_data(seed, n=40, n_control=90).x[data.condition == 2, 4]).exp()
    return data


@pytest.mark.parametrize(("shift", "price"), [(False, 1e9), (False, 3.0), (True, 3.0)])
def test_the_score_of_zero_inflated_cells_is_the_likelihood_written_out(shift: bool, price: float) -> None:
    """One gene without parents: own and replaced mechanism of every condition, outliers, zeros and priors."""
    data, gene = zero_inflated_cells(), 4
    scores = local_scores(data, ziln=True, shift=shift, target_sparsity=price)
    ((value, targets),) = scores.score(gene, [frozenset()])
    targets = targets.numpy()
    assert targets.any() == (price < 1e6)
    x, condition = data.x[:, gene].double().numpy(), data.condition.numpy()
    centre, unit = (float(u[gene]) for u in scores.units)
    seen = x > 0
    y = (np.log(np.where(seen, x, 1.0)) - centre) / unit
    used = seen & ~targets[condition]
    beta = y[used].sum() / (used.sum() + 1)  # ridge of 1
    log_scale = 0.5 * np.log((((y[used] - beta) ** 2).sum() + 2) / (used.sum() + 2))
    untargeted = ~targets[condition]
    rate = ((untargeted & ~seen).sum() + 0.5) / (untargeted.sum() + 1)
    overall = ((~seen).sum() + 0.5) / (len(x) + 1)
    expected = prior_of_spread(log_scale)
    for k in range(len(targets)):
        own, z = y[seen & (condition == k)], (~seen & (condition == k)).sum()
        mean, spread, zero = beta, log_scale, rate
        if targets[k]:
            zero = (z + overall) / (len(own) + z + 1)
            if shift:
                mean = beta + (own - beta).sum() / (len(own) + 1)
            else:
                mean = own.sum() / (len(own) + 1)
                spread = 0.5 * np.log((((own - mean) ** 2).sum() + 2) / (len(own) + 2))
                expected += prior_of_spread(spread)
            expected -= price
        density = stats.norm(mean, np.exp(spread)).logpdf(own) + np.log1p(-zero)
        outlier = stats.cauchy.logpdf(own) + np.log(0.5)
        expected += with_outliers(density, outlier).sum() - len(own) * np.log(unit)
        expected += z * with_outliers(np.log(zero), np.log(0.5))
    assert value == pytest.approx(expected, abs=0.02)


def test_each_parent_and_each_coefficient_has_its_price() -> None:
    data = linear_data()
    free, priced = (local_scores(data, graph_sparsity=g, linear=False) for g in (0.0, 4.0))
    sets = [frozenset(), frozenset({1}), frozenset({0, 3})]
    differences = [a - b for (a, _), (b, _) in zip(free.score(2, sets), priced.score(2, sets), strict=True)]
    assert differences == pytest.approx([0, 4, 8], abs=1e-3)
    noise = linear_data(graph=np.zeros_like(GRAPH), n=200, n_control=2000)
    noise.x = torch.randn(noise.x.shape, generator=torch.Generator().manual_seed(0))
    scores = local_scores(noise, graph_sparsity=0.0, target_sparsity=1e9)
    gains = [
        scores.score(j, [frozenset({i})])[0][0] - scores.score(j, [frozenset()])[0][0]
        for i, j in itertools.permutations(range(5), 2)
    ]
    assert abs(np.mean(gains)) < 0.4  # half a nat for each coefficient: what noise gains is paid for


def test_features_grow_with_the_parents_up_to_what_is_allowed() -> None:
    scores = local_scores(linear_data(), linear=False, n_features=90)
    assert [scores.width(n) for n in range(5)] == [0, 50, 75, 90, 90]


# -- search -----------------------------------------------------------------------------------------------


def all_graphs(n: int) -> list[np.ndarray]:
    """Every acyclic graph of n genes."""
    pairs = list(itertools.permutations(range(n), 2))
    found = []
    for chosen in itertools.product([False, True], repeat=len(pairs)):
        graph = np.zeros((n, n), dtype=bool)
        for (i, j), there in zip(pairs, chosen, strict=True):
            graph[i, j] = there
        if nx.is_directed_acyclic_graph(nx.from_numpy_array(graph, create_using=nx.DiGraph)):
            found.append(graph)
    return found


def total_of(scores: LocalScores, graph: np.ndarray) -> float:
    sets = [frozenset(np.flatnonzero(column).tolist()) for column in graph.T]
    return sum(scores.score(j, [parents])[0][0] for j, parents in enumerate(sets))


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_the_best_of_all_graphs(seed: int) -> None:
    data = linear_data(seed, graph=GRAPH[:4, :4])
    scores = local_scores(data)

    found = search_structure(scores, generator=np.random.default_rng(seed), max_shakes=6)
    assert found.score == pytest.approx(total_of(scores, found.graph), abs=1e-6)
    assert found.score == pytest.approx(max(total_of(scores, g) for g in all_graphs(4)), abs=1e-6)


def test_gains_of_edges_are_differences_of_scores() -> None:
    scores = local_scores(linear_data(2))
    found = search_structure(scores, generator=np.random.default_rng(0))
    for i, j in itertools.permutations(range(5), 2):
        parents = frozenset(np.flatnonzero(found.graph[:, j]).tolist())
        (here, _), (toggled, _) = scores.score(j, [parents, parents ^ {i}])
        assert found.gain[i, j] == pytest.approx(toggled - here, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_climb_only_rises_until_no_edge_can_be_added_dropped_or_turned(seed: int) -> None:
    """From the true graph with every edge the wrong way round."""
    data = linear_data(seed)
    scores = local_scores(data)
    state = _State(scores, scores.screen(20))
    for j in range(5):
        state.set_parents(j, frozenset(np.flatnonzero(GRAPH[j]).tolist()))
    totals = [state.total()]
    state.climb(10, lambda text: totals.append(state.total()))
    assert (np.diff(totals) > 0).all()
    graph = np.zeros((5, 5), dtype=bool)
    for j, parents in enumerate(state.parents):
        graph[sorted(parents), j] = True
    for i, j in itertools.permutations(range(5), 2):
        for turned in (False, True):
            other = graph.copy()
            other[i, j] = not graph[i, j]
            other[j, i] = graph[i, j] if turned else graph[j, i]
            if is_acyclic(other):
                assert total_of(scores, other) <= totals[-1] + 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_shakes_never_make_it_worse(seed: int) -> None:
    graph = np.triu(np.random.default_rng(seed).random((7, 7)) < 0.7, 1)
    scores = local_scores(linear_data(seed, n=12, n_control=60, graph=graph), graph_sparsity=1.0)
    best = -np.inf
    for shakes in range(7):
        found = search_structure(scores, generator=np.random.default_rng(0), max_shakes=shakes)
        assert found.score >= best - 1e-6
        assert found.score == pytest.approx(total_of(scores, found.graph), abs=1e-6)
        best = found.score
