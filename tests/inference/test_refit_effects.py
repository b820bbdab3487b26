"""The effect networks are refitted after the fit: nothing else changes, and new targets gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scgim.baselines import GIMMethod
from scgim.benchmark import SyntheticTask
from scgim.inference import TrainingData, condition_moments, fit, make_config, resolve_sparsity
from scgim.inference.refit import _marginals

SPEC = SyntheticTask(
    mechanism="linear", n_genes=8, n_perturbations=12, cells_per_condition=40, n_control=300, n_features=12,
    n_new_targets=6
)  # fmt: skip


@pytest.fixture(scope="module")
def fits() -> tuple[GIMMethod, GIMMethod]:
    data = SPEC.load().train
    settings = {
        "max_steps": 300, "warmup_steps": 100, "network_hidden": (16, 16), "n_graphs": 4, "batch_size": 128,
        "n_shakes": 4,
    }  # fmt: skip
    return tuple(GIMMethod(mechanism="linear", effect_pull=pull, **settings).fit(data, 0) for pull in (0.0, 20.0))


def test_only_the_effect_networks_change(fits) -> None:
    before, after = (fit.gim_.state_dict() for fit in fits)
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"effect_net"}
    assert np.array_equal(fits[0].graph(), fits[1].graph())


def test_targets_keep_their_effects_and_others_come_to_the_control(fits) -> None:
    data = SPEC.load().train
    conditions = [data.condition(int(row)) for row in data.trained]
    probability = fits[0].targets(conditions)
    called, spread = probability > 0.5, data.x.std(0)
    before, after = (fit.effects(conditions) / spread for fit in fits)
    control = data.x[data.control].mean(0) / spread
    assert np.abs(after - before)[called].mean() < 0.1
    away = [np.abs(effects - control)[~called].mean() for effects in (before, after)]
    assert away[1] < 0.5 * away[0]


def test_new_targets_are_predicted_better(fits) -> None:
    task = SPEC.load()
    queries = task.splits["new_target"]
    distances = [
        np.mean([np.linalg.norm(f.sample(q.condition, 300, 1).mean(0) - q.cells.mean(0)) for q in queries])
        for f in fits
    ]
    assert distances[1] < distances[0]


def test_it_is_off_for_single_cell_data_and_the_papers_preset() -> None:
    data = TrainingData(
        x=torch.zeros(6, 2), condition=torch.tensor([0, 0, 0, 1, 1, 1]), valid=torch.zeros(6, dtype=torch.bool),
        features=torch.ones(1, 1), membership=torch.tensor([[0.0], [1.0]]),
    )  # fmt: skip
    assert resolve_sparsity(make_config(mechanism="mlp"), data).effect_pull == 20
    assert resolve_sparsity(make_config(mechanism="ziln"), data).effect_pull == 0
    assert resolve_sparsity(make_config("paper", mechanism="mlp"), data).effect_pull == 0
    assert resolve_sparsity(make_config(mechanism="ziln", effect_pull=3), data).effect_pull == 3
    for name in ("effect_pull", "effect_spread"):
        with pytest.raises(ValueError, match=name):
            make_config(**{name: -1})
    with pytest.raises(ValueError, match="effect_spread needs intervention='hard'"):
        make_config(intervention="shift", effect_spread=0.5)


def doses(graded: bool = True) -> TrainingData:
    """Zero-inflated cells under rising doses of two drugs; the drugs move gene 0 a little before it is a target."""
    rng = np.random.default_rng(0)
    levels = [(0.0, 0.0), *((level, 0.0) for level in (0.1, 0.3, 0.9)), *((0.0, level) for level in (0.1, 0.3))]
    n = 80
    condition = np.repeat(np.arange(len(levels)), n)
    strength = np.array([sum(level) for level in levels])[condition]
    mean, zero = np.zeros((len(condition), 3)), np.full((len(condition), 3), 0.3)
    mean[:, 0], zero[:, 0] = 2 * strength, 1 / (1 + np.exp(4 * strength + 0.85))
    x = np.where(rng.random(mean.shape) < zero, 0.0, np.exp(mean + 0.3 * rng.standard_normal(mean.shape)))
    return TrainingData(
        x=torch.as_tensor(x, dtype=torch.float32), condition=torch.as_tensor(condition),
        valid=torch.zeros(len(x), dtype=torch.bool), features=torch.as_tensor(levels[1:], dtype=torch.float32),
        membership=torch.cat([torch.zeros(1, 5), torch.eye(5)]), graded=graded,
    )  # fmt: skip


def small(**changes):
    settings = {"max_steps": 40, "network_hidden": (16,), "n_graphs": 2, "batch_size": 128, "init": "search"}
    return make_config(mechanism="ziln", **{**settings, **changes})


def test_effects_follow_every_condition_where_features_grow_with_them() -> None:
    config = resolve_sparsity(small(), doses())
    assert config.effect_spread == 0.5
    assert resolve_sparsity(small(), doses(graded=False)).effect_spread == 0
    for without in ({"init": "random"}, {"intervention": "shift"}, {"effect_pull": 3.0}):
        assert resolve_sparsity(small(**without), doses()).effect_spread == 0
    found = fit(doses(), small(), rng=0, progress=False)
    plain = fit(doses(), small(effect_spread=0.0), rng=0, progress=False)
    before, after = plain.gim.state_dict(), found.gim.state_dict()
    assert {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])} == {"effect_net"}
    # They follow the marginals of every condition, those in which the gene is no target included.
    effects = found.gim.interventions(doses().features).effects[:, 0].detach()  # (parts, k) of gene 0
    moments = condition_moments(found.gim, doses())[1:, 0]
    assert float((effects - moments)[:, [0, 2]].abs().mean()) < 0.3
    assert np.corrcoef(effects[:, 0], moments[:, 0])[0, 1] > 0.9


def test_conditions_count_by_what_their_cells_tell() -> None:
    data = doses()
    gim = fit(data, small(effect_spread=0.0, max_steps=20), rng=0, progress=False).gim
    parts = gim.atomic(data.features)
    goal, weight = _marginals(gim, data, parts, 0.5)
    assert goal.shape == weight.shape == parts.effects.shape
    assert (weight > 0).all() and (weight < 1 / 0.5**2).all()
    few = replace(data, valid=torch.as_tensor(np.arange(len(data.x)) % 80 >= 8))  # a tenth of the cells
    assert (_marginals(gim, few, parts, 0.5)[1] < weight).all()
    # A part that is never alone keeps the effect that the fit gave it.
    pair = replace(data, membership=torch.cat([data.membership[:-1], torch.tensor([[1.0, 0, 0, 0, 1.0]])]))
    kept, _ = _marginals(gim, pair, parts, 0.5)
    torch.testing.assert_close(kept[4], parts.effects[4])
    assert not torch.equal(kept[3], parts.effects[3])
