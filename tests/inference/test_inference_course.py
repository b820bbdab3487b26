"""The course of a fit, by rule: what a batch holds, when sparsity and multipliers act, which state is kept."""

from __future__ import annotations

import importlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_gim import make_gim
from small_system import GRAPH, N_GENES, linear_data

from scgim.inference import (
    BalancedSampler,
    FitConfig,
    TrainingData,
    build,
    condition_moments,
    find_structure,
    fit,
    make_config,
    resolve_sparsity,
    start_from_search,
)
from scgim.inference.fit import negative_bound
from scgim.inference.schedule import graphs_per_step, make_optimiser, ramp
from scgim.inference.search import SearchResult
from scgim.model import is_acyclic

FIT = importlib.import_module("scgim.inference.fit")
START = importlib.import_module("scgim.inference.start")
QUICK = {
    "mechanism": "linear", "init": "random", "network_hidden": (8,), "n_graphs": 2, "batch_size": 32,
    "max_steps": 12, "check_every": 1, "patience": 2, "max_wait": 99, "sparsity_steps": 0,
}  # fmt: skip


def quick(**changes) -> FitConfig:
    return make_config(**{**QUICK, **changes})


def states_equal(a: dict, b: dict) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


# -- batches ----------------------------------------------------------------------------------------------


def test_half_of_a_batch_is_even_and_half_in_proportion() -> None:
    sizes = torch.tensor([700, 200, 60, 40])
    condition = torch.repeat_interleave(torch.arange(4), sizes)
    n = len(condition)
    membership = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    data = TrainingData(torch.zeros(n, 2), condition, torch.zeros(n, dtype=torch.bool), torch.eye(3), membership)
    torch.manual_seed(0)
    found = torch.bincount(BalancedSampler(data, 4000).draw().condition, minlength=4) / 4000
    expected = 0.5 * sizes / n + 0.5 / 4
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)  # systematic: off by one cell at most


# -- the objective ----------------------------------------------------------------------------------------


def test_the_loss_is_that_of_one_cell(monkeypatch) -> None:
    """The bound over all cells divided by their number, so that the constraint weighs alike in small and large data."""
    data, config = linear_data(), quick(max_steps=1, objective="elbo")
    bounds = []

    def kept(*arguments):
        bounds.append(negative_bound(*arguments))
        return bounds[-1]

    monkeypatch.setattr(FIT, "negative_bound", kept)
    result = fit(data, config, rng=0, progress=False)
    assert result.history["loss"][0] == pytest.approx(bounds[0].item() / int((~data.valid).sum()), rel=1e-5)


@pytest.mark.parametrize(("init", "acts"), [("random", False), ("search", True)])
def test_target_sparsity_rises_from_nothing_but_after_a_search(init: str, acts: bool) -> None:
    """The first step from the same start, without and with a price of targets that outweighs all cells."""
    seen = []
    for sparsity in (0.0, 1e4):
        config = quick(init=init, max_steps=1, sparsity_steps=500, target_sparsity=sparsity, warmup_steps=0)
        gim = build(resolve_sparsity(config, linear_data()), linear_data(), np.random.default_rng(0))
        batch = BalancedSampler(linear_data(), 64).draw()
        torch.manual_seed(1)
        seen.append(float(negative_bound(gim, batch, config, 2, sparsity * ramp(config, 0)).detach()))
    assert (abs(seen[1] - seen[0]) > 100) == acts


@pytest.mark.parametrize(
    ("objective", "genes", "hidden", "expected"), [
        ("elbo", 50, 10, 16),
        ("elbo", 500, 10, 6),  # 500 x 500 x 10 numbers of 4 bytes are 10 MB a graph
        ("elbo", 5000, 10, 1),
        ("log_mean_exp", 50, 10, 1),
    ],
)  # fmt: skip
def test_graphs_of_a_step_fit_into_64_mib(objective: str, genes: int, hidden: int, expected: int) -> None:
    config = make_config(objective=objective, mechanism="mlp", mechanism_hidden=hidden, n_graphs=16)
    assert graphs_per_step(config, genes) == expected


@pytest.mark.parametrize("alpha", [1.0, 30.0])
def test_a_step_moves_edge_logits_by_a_fiftieth_whatever_their_scale(alpha: float) -> None:
    """`alpha <u, v>` where u and v have entries of the usual size and one moves by the rate."""
    gim = make_gim("linear", n=40)
    gim.graph.inverse_temperature = alpha
    (group,) = [g for g in make_optimiser(gim, FitConfig()).param_groups if g["params"][0] is gim.graph.z]
    size, rank = float(gim.graph.z.detach().abs().double().mean()), gim.graph.z.shape[2]
    change = alpha * rank * (size * (size + group["lr"]) - size**2)
    assert change == pytest.approx(0.02, rel=1e-4)


# -- when it ends, and what is kept -----------------------------------------------------------------------


def scripted(monkeypatch, values: list[float]) -> list[dict]:
    """Held-out losses from a script; the list fills with the states that were looked at."""
    losses, states = iter(values), []

    def held_out(gim, _):
        states.append({name: value.clone() for name, value in gim.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(FIT, "held_out_loss", held_out)
    return states


def test_multipliers_rise_after_so_many_looks_without_improvement(monkeypatch) -> None:
    """Patience 2: looks 3 and 4 do not improve on look 2; then the objective has changed, and waiting starts anew."""
    scripted(monkeypatch, [5.0, 4.0, 4.5, 4.2, 6.0, 6.5, 6.1, 6.2])
    result = fit(linear_data(), quick(max_steps=8, acyclicity_tolerance=0.0), rng=0, progress=False)
    multiplier = result.history["multiplier"]  # as it was at the look
    assert [later > earlier for earlier, later in pairwise(multiplier)] == [
        False, False, False, True, False, False, True,
    ]  # fmt: skip
    assert multiplier[4] == pytest.approx(QUICK.get("penalty", 1e-2) * result.history["acyclicity"][3])


def test_multipliers_rise_although_it_improves_when_that_takes_too_long(monkeypatch) -> None:
    scripted(monkeypatch, [9.0, 8.0, 7.0, 6.0, 5.0])
    config = quick(max_steps=5, max_wait=3, acyclicity_tolerance=0.0)
    multiplier = fit(linear_data(), config, rng=0, progress=False).history["multiplier"]
    assert multiplier[2] == 0 < multiplier[3]


def test_an_acyclic_graph_is_waited_for_as_long_as_it_improves(monkeypatch) -> None:
    scripted(monkeypatch, [9.0, 8.0, 7.0, 6.0, 6.5, 6.5, 6.5])
    result = fit(linear_data(), quick(max_steps=12, max_wait=2, acyclicity_tolerance=1e9), rng=0, progress=False)
    assert (result.n_steps, result.stopped) == (6, "converged")
    assert not any(result.history["multiplier"])


def test_a_further_round_starts_uncertain_and_holds_the_edges(monkeypatch) -> None:
    """Two rounds of two held steps; every look counts as acyclic, and the first that is worse ends a round."""
    states = scripted(monkeypatch, [9.0, 9.0, 8.0, 9.0, 7.0, 9.0, 9.5])
    config = quick(max_steps=20, patience=1, acyclicity_tolerance=1e9, n_rounds=2, hold_steps=2, learning_rate=0.3)
    result = fit(linear_data(), config, rng=0, progress=False)
    assert (result.n_steps, result.stopped) == (7, "converged")
    z = [state["graph.z"] for state in states]
    assert torch.equal(z[0], z[1]) and not torch.equal(z[1], z[2])
    assert torch.equal(z[4], z[5]) and not torch.equal(z[5], z[6])
    before, after = (state[0] @ state[1].T for state in (z[3], z[4]))
    assert before.abs().max() > 1
    torch.testing.assert_close(after, before.clamp(-1, 1), atol=1e-4, rtol=0)
    assert states_equal(result.gim.state_dict(), states[4])  # the best of both rounds


def test_the_papers_preset_ends_acyclic_at_the_planted_graph() -> None:
    """With so few conditions, edges are held until the mechanisms have learned."""
    data = replace(linear_data(n_control=300), known_targets=torch.eye(N_GENES))
    small = {"max_steps": 500, "check_every": 25, "hold_steps": 150, "batch_size": 256, "n_graphs": 8}
    result = fit(data, make_config("paper", mechanism="linear", **small), rng=0, progress=False)
    np.testing.assert_array_equal(result.gim.hard_graph().numpy(), GRAPH)
    assert result.n_dropped == 0


def test_a_cyclic_state_is_never_the_best(monkeypatch) -> None:
    states = scripted(monkeypatch, [1.0, 2.0, 3.0, 4.0])
    result = fit(linear_data(), quick(max_steps=4, patience=9, acyclicity_tolerance=0.0), rng=0, progress=False)
    assert states_equal(result.gim.state_dict(), states[-1])  # none counted as acyclic: the last one stays


def test_after_a_search_the_settled_state_is_kept(monkeypatch) -> None:
    states = scripted(monkeypatch, [1.0, 2.0, 3.0])
    config = quick(init="search", max_steps=3, warmup_steps=0, effect_pull=0.0)
    result = fit(linear_data(), config, rng=0, progress=False)
    assert result.n_steps == 3
    assert states_equal(result.gim.state_dict(), states[-1])
    assert not states_equal(states[-1], states[0])


def test_targets_are_counted_over_treated_conditions() -> None:
    data = linear_data()
    data.known_targets = torch.eye(N_GENES)
    data.known_targets[0, 3] = 1.0
    history = fit(data, quick(max_steps=1), rng=0, progress=False).history
    assert history["targets_per_condition"] == [pytest.approx((N_GENES + 1) / N_GENES)]


# -- the start --------------------------------------------------------------------------------------------


def test_the_search_sees_eight_times_more_controls_and_priors_to_match(monkeypatch) -> None:
    data = linear_data(n=60, n_control=300, valid=0.0)
    scores = []
    monkeypatch.setattr(START, "search_structure", lambda given, **_: scores.append(given))
    for cells in (20, 1000):
        config = resolve_sparsity(quick(init="search", search_cells=cells, graph_sparsity=10.0), data)
        find_structure(config, data, np.random.default_rng(0), lambda text: None)
    few, every = scores
    per_condition = few._per_condition(few.present.sum(1))
    assert per_condition.tolist() == [160] + [20] * N_GENES
    assert few.graph_sparsity == pytest.approx(10 * 260 / 600)  # evidence from fewer cells is weaker, so is the prior
    assert (every.n_cells, every.graph_sparsity) == (600, 10.0)


@pytest.mark.parametrize("mechanism", ["linear", "mlp"])
def test_a_start_has_the_found_order_edges_targets_and_marginals(mechanism: str) -> None:
    data = linear_data(n=60, n_control=200)
    config = resolve_sparsity(quick(init="search", mechanism=mechanism), data)
    gim = build(config, data, np.random.default_rng(0))
    targets = torch.cat([torch.zeros(1, N_GENES), torch.eye(N_GENES)]) > 0.5
    start_from_search(gim, data, SearchResult(GRAPH, targets, 0.0, np.zeros((N_GENES, N_GENES)), 0))
    assert is_acyclic(gim.graph.allowed.numpy())
    assert gim.graph.allowed.numpy()[GRAPH].all()
    assert int(gim.graph.allowed.sum()) == N_GENES * (N_GENES - 1) // 2  # any edge along the order may come
    np.testing.assert_array_equal(gim.hard_graph().numpy(), GRAPH)
    logits, effects = (value.detach() for value in gim.interventions(data.features))
    assert torch.equal(logits > 0, torch.eye(N_GENES, dtype=torch.bool))
    # Genes that are no target get the effects that would make sense were they one.
    moments = condition_moments(gim, data)[1:]
    away = (effects - moments).abs()
    assert float(away.diagonal().max()) < 0.1
    assert float(away.mean()) < 0.5 * float(moments.abs().mean())


@pytest.mark.parametrize("kind", ["linear", "ziln"])
def test_shifts_of_the_control_are_none(kind: str) -> None:
    """Those of the other conditions are differences from it, in units of the gene's spread."""
    gim, data = make_gim(kind, "shift"), linear_data(valid=0.0)
    data.x = data.x.exp() if kind == "ziln" else data.x
    found = condition_moments(gim, data)[..., 0]
    assert not found[0].any()
    mean = torch.stack([data.x[data.condition == k].mean(0) for k in (0, 1)])
    if kind == "ziln":
        mean = torch.stack([data.x[data.condition == k].log().mean(0) for k in (0, 1)])
    m = gim.mechanisms
    count = torch.tensor([200.0, 60.0]).unsqueeze(1)
    mean = (mean - m.response_center) / m.response_scale * count / (count + 1)  # one cell of the prior in each
    torch.testing.assert_close(found[1], mean[1] - mean[0], atol=1e-4, rtol=1e-4)


def test_a_target_costs_what_false_names_reach_in_one_of_a_hundred_conditions() -> None:
    """With few cells the BIC is below Wilks' chi-squared quantile: control cells under any name would have targets."""
    data = linear_data(n=4, n_control=4, valid=0.0)
    price = float(resolve_sparsity(make_config(mechanism="linear"), data).target_sparsity)
    rng = np.random.default_rng(0)
    gains = 0.5 * rng.chisquare(2, size=(200_000, N_GENES)).max(1)  # two parameters for nothing, best of the genes
    assert (gains > price).mean() == pytest.approx(0.01, abs=0.001)


def test_the_model_has_the_priors_and_scales_of_the_settings() -> None:
    given = {
        "graph_sparsity": 2.5, "target_sparsity": 3.5, "mechanism_scale": 1.5, "intervention_scale": 1.7,
        "target_scale": 0.4, "effect_noise": 0.3,
    }  # fmt: skip
    config = quick(gumbel_scale=0.6, inverse_temperature=2.0, sample_targets=True, **given)
    config = resolve_sparsity(config, linear_data())
    gim = build(config, linear_data(), np.random.default_rng(0))
    assert {name: getattr(gim.priors, name) for name in given} == given
    assert (gim.gumbel_scale, gim.graph.inverse_temperature, gim.sample_targets) == (0.6, 2.0, True)


def test_the_prior_of_the_networks_holds_what_they_learn_of_the_search() -> None:
    data, sizes = linear_data(), []
    for scale in (0.01, 3.0):
        config = resolve_sparsity(quick(init="search", intervention_scale=scale), data)
        gim = build(config, data, np.random.default_rng(0))
        found = SearchResult(GRAPH, torch.eye(6, 5, dtype=torch.bool).roll(1, 0), 0.0, np.zeros((5, 5)), 0)
        start_from_search(gim, data, found, n_steps=50)
        sizes.append(float(gim.interventions.effect_net[0].skip.weight.detach().norm()))
    assert sizes[0] < 0.3 * sizes[1]
