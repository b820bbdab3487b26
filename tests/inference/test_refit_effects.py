"""The effect networks are refitted after the fit: nothing else changes, and new targets gain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgim.baselines import GIMMethod
from scgim.benchmark import SyntheticTask
from scgim.inference import make_config, resolve_sparsity

SPEC = SyntheticTask(
    mechanism="linear", n_genes=8, n_perturbations=12, cells_per_condition=40, n_control=300, n_features=12,
    n_new_targets=6
)  # fmt: skip


@pytest.fixture(scope="module")
def fits() -> tuple[GIMMethod, GIMMethod]:
    data = SPEC.load().train
    return tuple(GIMMethod(mechanism="linear", max_steps=500, effect_pull=pull).fit(data, 0) for pull in (0.0, 20.0))


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
    from scgim.inference import TrainingData

    data = TrainingData(
        x=torch.zeros(6, 2), condition=torch.tensor([0, 0, 0, 1, 1, 1]), valid=torch.zeros(6, dtype=torch.bool),
        features=torch.ones(1, 1), membership=torch.tensor([[0.0], [1.0]]),
    )  # fmt: skip
    assert resolve_sparsity(make_config(mechanism="mlp"), data).effect_pull == 20
    assert resolve_sparsity(make_config(mechanism="ziln"), data).effect_pull == 0
    assert resolve_sparsity(make_config("paper", mechanism="mlp"), data).effect_pull == 0
    assert resolve_sparsity(make_config(mechanism="ziln", effect_pull=3), data).effect_pull == 3
    with pytest.raises(ValueError, match="effect_pull"):
        make_config(effect_pull=-1)
