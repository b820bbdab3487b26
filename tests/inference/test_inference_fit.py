"""The training loop: seeds, checkpoints, interruption, errors; the state as plain arrays."""

from __future__ import annotations

import dataclasses
import importlib
import math
import warnings

import numpy as np
import pytest
import torch
from pyro.infer import RenyiELBO
from small_gim import make_gim
from small_system import GRAPH, N_GENES, linear_data

from scgim.inference import (
    BalancedSampler,
    FitConfig,
    fit,
    held_out_loss,
    make_config,
)
from scgim.inference.fit import negative_bound
from scgim.inference.start import build, resolve_sparsity
from scgim.model import GIM, FittedGIM, is_acyclic
from scgim.slots import checksum

#: Every look at the held-out objective counts as converged, so that the multipliers move in few steps.
QUICK = {
    "mechanism": "linear", "init": "random", "network_hidden": (8,), "n_graphs": 2, "batch_size": 32,
    "max_steps": 24, "check_every": 6, "patience": 1, "sparsity_steps": 6, "learning_rate": 1e-2,
}  # fmt: skip


def quick(**changes) -> FitConfig:
    return make_config(**{**QUICK, **changes})


def pack(gim: GIM) -> dict[str, np.ndarray]:
    return FittedGIM(gim, np.zeros((gim.graph.n_genes,) * 2, dtype=bool)).arrays()


def state_of(result) -> dict[str, np.ndarray]:
    return pack(result.gim)


def assert_same_fit(a, b) -> None:
    for name, value in state_of(a).items():
        np.testing.assert_array_equal(value, state_of(b)[name], err_msg=name)
    assert a.history == b.history
    np.testing.assert_array_equal(a.graph, b.graph)


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("init", ["random", "search"])
def test_the_seed_decides_the_fit(init):
    data, config = linear_data(), quick(init=init, max_steps=12)
    first, second, other = (fit(data, config, rng=seed, progress=False) for seed in (1, 1, 2))
    assert_same_fit(first, second)
    assert not np.array_equal(state_of(first)["mechanisms.weight"], state_of(other)["mechanisms.weight"])


def test_global_random_states_are_untouched():
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    result = fit(linear_data(), quick(), rng=0, progress=False)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    torch.manual_seed(5)  # nor does the global seed matter
    assert_same_fit(result, fit(linear_data(), quick(), rng=0, progress=False))


@pytest.mark.parametrize("objective", ["elbo", "log_mean_exp"])
@pytest.mark.parametrize("mechanism", ["linear", "mlp"])
def test_the_loss_falls_and_the_history_is_complete(objective, mechanism):
    result = fit(
        linear_data(),
        quick(objective=objective, mechanism=mechanism, max_steps=60, check_every=10),
        rng=0,
        progress=False,
    )
    history = result.history
    assert set(history) == {
        "step", "loss", "valid_loss", "acyclicity", "penalty", "multiplier", "edges", "targets_per_condition",
    }  # fmt: skip
    assert history["loss"][-1] < history["loss"][0]
    assert history["step"] == [10, 20, 30, 40, 50, 60][: len(history["step"])]
    assert all(len(values) == len(history["step"]) for values in history.values())
    assert is_acyclic(result.graph)
    assert result.n_steps == history["step"][-1]


@pytest.mark.usefixtures("quick_fits")
def test_held_out_cells_do_not_influence_the_fit():
    """Neither their values nor their number: only the looks at the held-out objective see them."""
    data = linear_data()
    changed = dataclasses.replace(data, x=torch.where(data.valid.unsqueeze(1), data.x * 9 - 4, data.x))
    config = quick(max_steps=5, check_every=5)
    first, second = (fit(d, config, rng=3, progress=False) for d in (data, changed))
    for name, value in state_of(first).items():
        np.testing.assert_array_equal(value, state_of(second)[name], err_msg=name)
    assert first.history["valid_loss"] != second.history["valid_loss"]
    found, again = (fit(d, quick(init="search", max_steps=1), rng=3, progress=False) for d in (data, changed))
    np.testing.assert_array_equal(found.graph, again.graph)


def test_the_returned_state_is_that_with_the_best_held_out_loss(monkeypatch):
    data = linear_data()
    values = iter([3.0, 1.0, 2.0, 5.0])
    states = []

    def scripted(gim, _):
        states.append({k: v.clone() for k, v in gim.state_dict().items()})
        return next(values)

    monkeypatch.setattr(importlib.import_module("scgim.inference.fit"), "held_out_loss", scripted)
    result = fit(data, quick(acyclicity_tolerance=1e9, patience=9), rng=0, progress=False)
    for name, value in result.gim.state_dict().items():
        assert torch.equal(value, states[1][name]), name


# -- checkpoints ------------------------------------------------------------------------------------------


ROUNDS = {"n_rounds": 9, "hold_steps": 4, "acyclicity_tolerance": 1e9, "patience": 1, "learning_rate": 0.3}


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("settings", [{"init": "random"}, {"init": "search"}, {"init": "random", **ROUNDS}])
def test_a_resumed_fit_equals_an_uninterrupted_one(tmp_path, settings, monkeypatch):
    data = linear_data()
    whole = fit(data, quick(**settings), rng=4, progress=False)
    path = tmp_path / "fit.ckpt"
    draw, calls = BalancedSampler.draw, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 15:  # the last checkpoint is that of step 12
            raise KeyboardInterrupt
        return draw(self)

    monkeypatch.setattr(BalancedSampler, "draw", interrupted)
    assert fit(data, quick(**settings), rng=4, progress=False, checkpoint=path).n_steps == 14
    monkeypatch.undo()
    torch.rand(7)  # the state of the session that resumes is another
    resumed = fit(data, quick(**settings), rng=4, progress=False, checkpoint=path)
    assert_same_fit(whole, resumed)
    assert [p.name for p in tmp_path.iterdir()] == ["fit.ckpt"]


def test_resuming_a_finished_fit_changes_nothing(tmp_path):
    data, path = linear_data(), tmp_path / "fit.ckpt"
    config = quick(max_steps=200, learning_rate=1e-5, acyclicity_tolerance=1e9)
    first = fit(data, config, rng=0, progress=False, checkpoint=path)
    assert first.stopped == "converged"
    again = fit(data, config, rng=0, progress=False, checkpoint=path)
    assert_same_fit(first, again)
    assert again.stopped == "converged"


def test_a_longer_fit_goes_on_from_a_shorter_one(tmp_path):
    data, path = linear_data(), tmp_path / "fit.ckpt"
    fit(data, quick(max_steps=12), rng=4, progress=False, checkpoint=path)
    resumed = fit(data, quick(), rng=4, progress=False, checkpoint=path)
    assert_same_fit(fit(data, quick(), rng=4, progress=False), resumed)


@pytest.mark.parametrize("what", ["seed", "setting", "data", "known targets"])
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, what):
    data, path = linear_data(), tmp_path / "fit.ckpt"
    fit(data, quick(max_steps=6), rng=0, progress=False, checkpoint=path)
    seed, config = 0, quick()
    if what == "seed":
        seed = 1
    elif what == "setting":
        config = quick(learning_rate=2e-2)
    elif what == "data":
        data.x[0, 0] += 1
    else:
        data.known_targets = torch.eye(N_GENES)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another fit"):
        fit(data, config, rng=seed, progress=False, checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    data, path = linear_data(), tmp_path / "fit.ckpt"
    fit(data, quick(max_steps=6), rng=0, progress=False, checkpoint=path)
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello\n"}[damage])
    with pytest.raises(ValueError, match=r"fit\.ckpt.*cannot be read"):
        fit(data, quick(), rng=0, progress=False, checkpoint=path)


# -- interruption and errors ------------------------------------------------------------------------------


def test_ctrl_c_keeps_the_best_state(monkeypatch):
    data = linear_data()
    config = quick(max_steps=400, acyclicity_tolerance=1e9, patience=99)
    draw, calls = BalancedSampler.draw, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return draw(self)

    monkeypatch.setattr(BalancedSampler, "draw", interrupted)
    result = fit(data, config, rng=0, progress=False)
    monkeypatch.undo()
    assert (result.stopped, result.n_steps) == ("interrupted", 14)
    whole = fit(data, quick(max_steps=12, acyclicity_tolerance=1e9, patience=99), rng=0, progress=False)
    for name, value in state_of(result).items():
        np.testing.assert_array_equal(value, state_of(whole)[name], err_msg=name)


def test_a_fit_that_stops_being_finite_names_the_step_and_the_parameter(monkeypatch):
    data = linear_data()
    draw, calls = BalancedSampler.draw, []

    def poisoned(self):
        calls.append(1)
        batch = draw(self)
        if len(calls) == 4:
            batch.x = batch.x.clone()
            batch.x[0, 2] = torch.inf
        return batch

    monkeypatch.setattr(BalancedSampler, "draw", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 3: gradient of '\w+\.\w+'"):
        fit(data, quick(), rng=0, progress=False)


def test_a_diverging_fit_is_an_error_and_restores_the_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with pytest.raises(FloatingPointError, match="step"):
        fit(linear_data(), quick(learning_rate=1e30), rng=0, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


# -- accuracy ---------------------------------------------------------------------------------------------


def test_a_search_start_begins_with_the_searched_graph_and_targets():
    """One tiny step from the start: the planted system, as probabilities of graph and networks."""
    config = quick(init="search", max_steps=1, learning_rate=1e-6)
    result = fit(linear_data(n=80, n_control=300), config, rng=0, progress=False)
    np.testing.assert_array_equal(result.graph, GRAPH)
    with torch.no_grad():
        prob = result.gim.atomic(torch.eye(N_GENES)).target_prob
    np.testing.assert_array_equal(prob.numpy() > 0.5, np.eye(N_GENES, dtype=bool))
    assert result.n_dropped == 0


@pytest.mark.slow
def test_a_search_start_keeps_the_planted_edges():
    config = make_config(mechanism="linear", max_steps=400, network_hidden=(16, 16), batch_size=128, n_graphs=4)
    result = fit(linear_data(n=80, n_control=300), config, rng=0, progress=False)
    assert result.graph[GRAPH].all()
    with torch.no_grad():
        prob = result.gim.atomic(torch.eye(N_GENES)).target_prob
    assert (prob.diagonal() > 0.5).all()


def test_known_values_keep_those_conditions_out_of_the_networks_gradient():
    """A part whose atomic intervention is known: its features move nothing, its other genes still teach."""
    data = linear_data()
    values = torch.full((N_GENES, N_GENES), torch.nan)
    targets = values.clone()
    values[0, 0], targets[0] = 3.0, torch.eye(N_GENES)[0]
    data.known_values, data.known_targets = values, targets
    gim = build(resolve_sparsity(quick(), data), data, np.random.default_rng(0))
    cells = torch.nonzero(data.condition == 1).squeeze(1)
    batch = data.batch(cells, torch.ones(len(cells)))
    graph = torch.as_tensor(GRAPH, dtype=torch.float32).unsqueeze(0)
    loss = gim.cell_log_likelihood(batch, graph)
    nets = torch.autograd.grad(loss, [*gim.interventions.parameters()], retain_graph=True, allow_unused=True)
    assert all(g is None or float(g.abs().max()) < 1e-5 for g in nets)
    own = torch.autograd.grad(loss, gim.mechanisms.bias)[0]
    assert own[0] == 0
    assert (own[1:] != 0).all()


def test_held_out_loss_is_the_mean_over_held_out_cells():
    data = linear_data()
    gim = build(resolve_sparsity(quick(), data), data, np.random.default_rng(0))
    index = torch.nonzero(data.valid).squeeze(1)
    with torch.no_grad():
        total = gim.cell_log_likelihood(
            data.batch(index, torch.ones(len(index))), gim.hard_graph().float().unsqueeze(0)
        )
    assert held_out_loss(gim, data) == pytest.approx(-float(total) / len(index), rel=1e-5)
    data.valid[:] = False  # then the training cells have to do
    assert math.isfinite(held_out_loss(gim, data))


def test_automatic_sparsity_grows_with_the_cells():
    small, large = (resolve_sparsity(make_config(mechanism="mlp"), linear_data(n=n)) for n in (20, 200))
    assert 0 < float(small.graph_sparsity) < float(large.graph_sparsity)
    assert 0 < float(small.target_sparsity) < float(large.target_sparsity)
    told = resolve_sparsity(make_config(graph_sparsity=3.0, target_sparsity=0.5), linear_data())
    assert (told.graph_sparsity, told.target_sparsity) == (3.0, 0.5)


# -- state ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "mlp", "ziln"])
def test_a_model_as_arrays_and_back(kind):
    gim, other = make_gim(kind, seed=1), make_gim(kind, seed=2)
    gim.graph.allowed[0, 1] = False
    state = pack(gim)
    assert {value.dtype.name for value in state.values()} == {"float32", "uint8"}
    FittedGIM.from_arrays(other, np.zeros((3, 3), dtype=bool), state)
    for name, value in other.state_dict().items():
        assert torch.equal(value, gim.state_dict()[name]), name
    assert checksum(state) == checksum(pack(other))
    with torch.no_grad():
        gim.mechanisms.bias += 1
    assert torch.equal(torch.as_tensor(state["mechanisms.bias"]), other.mechanisms.bias)  # a copy, not a view


def test_checksum_sees_values_names_shapes_and_types_but_not_the_order():
    state = {"a": np.arange(6, dtype=np.float32), "b": np.zeros(2, dtype=np.float32)}
    assert checksum(dict(reversed(state.items()))) == checksum(state)
    others = [
        {**state, "a": state["a"] + np.float32(1e-6)},
        {**state, "a": state["a"].reshape(2, 3)},
        {**state, "a": state["a"].astype(np.float64)},
        {"a": state["a"], "c": state["b"]},
        {"a": state["a"]},
    ]
    assert len({checksum(s) for s in [state, *others]}) == 6


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_arrays_that_do_not_fit_are_refused(damage):
    state = pack(make_gim())
    if damage == "missing":
        del state["mechanisms.bias"]
    elif damage == "extra":
        state["mechanisms.other"] = np.zeros(1, dtype=np.float32)
    else:
        state["mechanisms.bias"] = np.zeros(99, dtype=np.float32)
    gim = make_gim(seed=3)
    before = pack(gim)
    with pytest.raises(ValueError, match=r"mechanisms\.(bias|other)"):
        FittedGIM.from_arrays(gim, np.zeros((3, 3), dtype=bool), state)
    assert checksum(pack(gim)) == checksum(before)


def test_the_log_mean_exp_objective_is_pyros_renyi_bound():
    data, config = linear_data(), quick(objective="log_mean_exp", n_graphs=5)
    gim = build(resolve_sparsity(config, data), data, np.random.default_rng(0))
    batch = BalancedSampler(data, 16).draw()
    torch.manual_seed(1)
    found = negative_bound(gim, batch, config, 1, 2.0)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        renyi = RenyiELBO(alpha=0, num_particles=5)
        expected = renyi.loss(gim.model, gim.guide, batch, 1, "log_mean_exp", 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("quick_fits")
def test_the_order_of_the_cells_does_not_matter():
    data, config = linear_data(), quick(init="search", search_cells=20)
    order = torch.as_tensor(np.random.default_rng(0).permutation(len(data.x)))
    moved = dataclasses.replace(data, x=data.x[order], condition=data.condition[order], valid=data.valid[order])
    assert_same_fit(*(fit(d, config, rng=1, progress=False) for d in (data, moved)))
