"""Minibatches: every condition, unbiased sums, no held-out cell; the augmented Lagrangian; settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_system import linear_data

from scgim.inference import AugmentedLagrangian, BalancedSampler, TrainingData, half_cosine, make_config
from scgim.inference.data import cap_cells


def uneven() -> TrainingData:
    """700, 200, 30 and 4 cells, a tenth of them held out."""
    sizes = [700, 200, 30, 4]
    condition = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    n = len(condition)
    return TrainingData(
        x=torch.randn(n, 2) + condition.unsqueeze(1),
        condition=condition,
        valid=torch.arange(n) % 10 == 3,
        features=torch.eye(3),
        membership=torch.cat([torch.zeros(1, 3), torch.eye(3)]),
    )


def test_every_condition_appears_in_every_batch():
    sampler = BalancedSampler(uneven(), 32)
    for _ in range(50):
        assert sampler.draw().condition.unique().tolist() == [0, 1, 2, 3]


def test_weighted_sums_are_unbiased():
    data = uneven()
    data.x[:, 1] = torch.arange(len(data.x)) / len(data.x)
    sampler = BalancedSampler(data, 16)
    train = ~data.valid
    draws = []
    for _ in range(3000):
        batch = sampler.draw()
        per_condition = torch.zeros(4).index_add(0, batch.condition, batch.weight)
        draws.append(torch.cat([(batch.weight.unsqueeze(1) * batch.x).sum(0), per_condition]))
    draws = torch.stack(draws).double()
    expected = torch.cat([data.x[train].sum(0), torch.bincount(data.condition[train]).float()]).double()
    error = draws.std(0) / math.sqrt(len(draws)) + 1e-3 * expected.abs()
    assert ((draws.mean(0) - expected).abs() < 4 * error).all()


def test_held_out_cells_are_never_drawn():
    data = uneven()
    data.x[data.valid] = torch.nan
    sampler = BalancedSampler(data, 256)
    assert sampler.n_cells == int((~data.valid).sum())
    for _ in range(30):
        assert torch.isfinite(sampler.draw().x).all()


def test_no_training_cells_is_an_error():
    data = uneven()
    data.valid[:] = True
    with pytest.raises(ValueError, match="no training cells"):
        BalancedSampler(data, 8)


def test_a_condition_without_training_cells_is_left_out():
    data = uneven()
    data.valid |= data.condition == 3
    batch = BalancedSampler(data, 64).draw()
    assert batch.condition.unique().tolist() == [0, 1, 2]
    assert torch.isfinite(batch.weight).all()


def test_cap_cells_takes_at_most_so_many_of_each_condition():
    condition = uneven().condition
    picked = cap_cells(condition, 50, np.random.default_rng(0))
    assert torch.bincount(condition[picked]).tolist() == [50, 50, 30, 4]
    assert len(picked.unique()) == len(picked)
    assert torch.equal(picked, picked.sort().values)
    again = cap_cells(condition, 50, np.random.default_rng(0))
    assert torch.equal(picked, again)
    assert not torch.equal(picked, cap_cells(condition, 50, np.random.default_rng(1)))


def test_known_targets_of_conditions():
    nan = math.nan
    data = linear_data()
    data = TrainingData(
        data.x, data.condition, data.valid, torch.eye(3),
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 0]]),
        known_targets=torch.tensor([[1.0, 0, 0, 0, 0], [nan] * 5, [0, 1, 0, 0, 0]]),
    )  # fmt: skip
    known = data.known_condition_targets()
    assert known[0].tolist() == [0] * 5
    assert known[1].tolist() == [1, 0, 0, 0, 0]
    assert known[4].tolist() == [1, 1, 0, 0, 0]
    assert known[[2, 5]].isnan().all()  # a part whose targets are to be learned
    assert linear_data().known_condition_targets() is None


# -- augmented Lagrangian ---------------------------------------------------------------------------------


def test_lagrangian_follows_the_specification():
    lagrangian = AugmentedLagrangian(penalty=0.5, growth=2.0, progress=0.9, tolerance=1e-3)
    h = torch.tensor(0.4, requires_grad=True)
    assert lagrangian.term(h).item() == pytest.approx(0.5 / 2 * 0.4**2)
    assert not lagrangian.update(0.4)
    assert (lagrangian.multiplier, lagrangian.penalty) == (pytest.approx(0.2), 0.5)  # the first h is progress
    assert not lagrangian.update(0.39)  # more than 0.9 of the last one
    assert (lagrangian.multiplier, lagrangian.penalty) == (pytest.approx(0.2 + 0.5 * 0.39), 1.0)
    assert not lagrangian.update(0.1)
    assert (lagrangian.multiplier, lagrangian.penalty) == (pytest.approx(0.395 + 0.1), 1.0)
    before = dict(vars(lagrangian))
    assert lagrangian.update(1e-4)  # acyclic: nothing is raised
    assert vars(lagrangian) == before
    term = lagrangian.term(h)
    assert term.item() == pytest.approx(0.495 * 0.4 + 0.5 * 0.16)
    (slope,) = torch.autograd.grad(term, h)
    assert float(slope) == pytest.approx(0.495 + 0.4)


def test_half_cosine():
    assert half_cosine(0, 100) == 0
    assert half_cosine(50, 100) == pytest.approx(0.5)
    assert half_cosine(100, 100) == half_cosine(1000, 100) == half_cosine(0, 0) == 1
    assert all(half_cosine(i, 100) < half_cosine(i + 1, 100) for i in range(100))


# -- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mechanism": "gaussian"}, "linear, mlp, ziln"),
        ({"intervention": "soft"}, "hard, shift"),
        ({"objective": "iwae"}, "elbo, log_mean_exp"),
        ({"init": "zero"}, "search, random"),
        ({"graph_sparsity": -1.0}, "at least 0"),
        ({"graph_sparsity": math.nan}, "finite"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"gumbel_scale": 0}, "above 0"),
        ({"max_steps": 10.5}, "whole"),
        ({"network_hidden": (8, 0)}, "network_hidden"),
        ({"n_shakes": "many"}, "n_shakes"),
        ({"max_parents": -1}, "max_parents"),
        ({"target_sparsity": "much"}, "'auto'"),
        ({"max_steps": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"preset": "fast"}, "default, paper"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_config(**settings)


def test_an_unknown_setting_is_named_with_those_there_are():
    with pytest.raises(TypeError, match=r"'max_step'.*max_steps"):
        make_config(max_step=3)


def test_the_paper_preset_can_be_changed():
    config = make_config("paper", n_graphs=3)
    assert (config.init, config.n_rounds > 1, config.n_graphs) == ("random", True, 3)
    assert make_config(network_hidden=[5, 6]).network_hidden == (5, 6)
