"""Evidence for targets behind counts: planted ones stand out, what parents explain does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_counts import N_GENES, nothing, planted, targeting

from scgim.inference import TrainingData
from scgim.inference.depth import slopes_of_means
from scgim.inference.evidence import count_changes
from scgim.model import FittedGIM

#: Cells of the control and of each other condition.
N_CONTROL, N = 400, 80
#: Condition -> genes that it targets; "none" are control cells under a false name.
CONDITIONS = {"control": (), "parent": ("g0",), "child": ("g3",), **{f"none{i}": () for i in range(30)}}


def cells(fitted: FittedGIM, mean: float = -1.0) -> TrainingData:
    counts, size, condition = [], [], []
    generator = torch.Generator().manual_seed(0)
    for code, (name, genes) in enumerate(CONDITIONS.items()):
        found = targeting(fitted, mean, **{gene: True for gene in genes}) if genes else nothing(fitted)
        drawn = fitted.sample_counts(found, 0, N_CONTROL if name == "control" else N, generator)
        counts.append(drawn.counts)
        size.append(drawn.size_factor)
        condition.append(np.full(len(drawn.counts), code))
    y = torch.as_tensor(np.concatenate(counts))
    n_parts = len(CONDITIONS) - 1
    return TrainingData(
        x=torch.log1p(y),
        condition=torch.as_tensor(np.concatenate(condition)),
        valid=torch.zeros(len(y), dtype=torch.bool),
        features=torch.zeros(n_parts, N_GENES),
        membership=torch.cat([torch.zeros(1, n_parts), torch.eye(n_parts)]),
        counts=y,
        log_size=torch.as_tensor(np.log(np.concatenate(size))).float(),
        batch_code=torch.zeros(len(y), dtype=torch.long),
    )


def told(data: TrainingData) -> None:
    """The model gives the planted targets, and nothing else."""
    known = torch.zeros(len(data.features), N_GENES)
    for row, genes in enumerate(list(CONDITIONS.values())[1:]):
        for gene in genes:
            known[row, int(gene[1:])] = 1
    data.known_targets = known


@pytest.mark.parametrize("intervention", ["hard", "shift"])
@pytest.mark.parametrize("called", [False, True])
def test_planted_targets_stand_out_and_nothing_else_does(intervention: str, called: bool) -> None:
    fitted = planted(intervention=intervention)
    data = cells(fitted)
    nets = fitted.gim.interventions
    with torch.no_grad():
        for parameter in nets.parameters():
            parameter.zero_()
        nets.effect_net[0].net[-1].bias.fill_(-1.0)  # every target's level is the planted one
    data.known_targets = torch.zeros(len(data.features), N_GENES)
    if called:
        told(data)
    change = count_changes(fitted.gim, fitted.graph, data)
    assert change.shape == (len(CONDITIONS), N_GENES)
    found = change[1, 0], change[2, 3]
    rest = change[1:].copy()
    rest[[0, 1], [0, 3]] = np.nan
    assert max(found) < -2.5
    if called:  # g1, g2 and g3 follow g0: what it explains is no evidence
        assert max(found) < -5  # counts of 80 cells say no more
        assert np.nanmax(np.abs(rest[:2])) < 3
    assert found[0] == np.nanmin(change[1])
    assert found[1] == np.nanmin(change[2])
    # Of control cells under false names changes are standard normal.
    assert abs(rest[2:].mean()) < 0.25
    assert 0.8 < rest[2:].std() < 1.2


def test_the_order_of_the_cells_does_not_matter() -> None:
    fitted = planted()
    data = cells(fitted)
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(1))
    names = ("x", "condition", "valid", "counts", "log_size", "batch_code")
    turned = TrainingData(**{**vars(data), **{name: getattr(data, name)[order] for name in names}})
    first, second = (count_changes(fitted.gim, fitted.graph, d) for d in (data, turned))
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_depth_that_grows_with_a_feature_is_learned_and_chance_is_not():
    rng = np.random.default_rng(0)
    dose = np.repeat([0.0, 1.0, 2.0, 3.0], 2)
    features = np.stack([dose, np.tile([0.0, 1.0], 4) * (dose > 0)], 1)
    code = rng.integers(0, 8, 4000)
    chance = 0.5 * rng.normal(size=4000)
    np.testing.assert_allclose(slopes_of_means(chance, code, features), 0.0, atol=0.05)
    found = slopes_of_means(chance + 0.3 * features[code, 0], code, features)
    np.testing.assert_allclose(found, [0.3, 0.0], atol=0.06)
    none = slopes_of_means(chance, np.zeros(4000, dtype=int), features[:1])  # control cells only
    np.testing.assert_array_equal(none, 0.0)
    for values in (chance, chance + 0.01 * features[code, 0]):  # another unit of the features, the same depths
        expected = slopes_of_means(values, code, features)
        np.testing.assert_allclose(1000 * slopes_of_means(values, code, 1000 * features), expected, atol=1e-5)
