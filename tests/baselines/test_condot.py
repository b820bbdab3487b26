"""CondOT: its potential is convex, its map is the gradient, and it finds maps that are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scgim.baselines import CannotPredict, Condition, TrainingData
from scgim.baselines.condot import CondOT
from scgim.baselines.convex_networks import ConvexPotential

GENES = 3
TRAINED = (0.0, 0.25, 0.75, 1.0)
BETWEEN = 0.5


def known_shift(context: float) -> np.ndarray:
    """Not linear in the context; about 3 long."""
    return np.array([2.0 + context, -2.0 * context**2, np.sin(np.pi * context)])


def experiment(move, contexts=TRAINED, seed: int = 0, cells: int = 400) -> TrainingData:
    """Correlated normal control cells, and for each context other such cells, moved."""
    rng = np.random.default_rng(seed)
    mix = np.array([[0.5, 0.0, 0.0], [0.3, 0.4, 0.0], [0.0, 0.2, 0.5]])
    labels = ["control", *(f"A_{c:g}" for c in contexts)]
    x = [1.0 + rng.standard_normal((400, GENES)) @ mix.T]
    x += [move(1.0 + rng.standard_normal((cells, GENES)) @ mix.T, c) for c in contexts]
    table = pd.DataFrame(
        {
            "condition": labels,
            "perturbation": ["control"] + ["A"] * len(contexts),
            "dose": [np.nan, *contexts],
            "is_control": [True] + [False] * len(contexts),
        }
    )
    codes = np.repeat(np.arange(len(labels)), [len(own) for own in x])
    return TrainingData(np.vstack(x), codes, table, np.array([[0.0, 0.0], *([1.0, c] for c in contexts)]))


def at(context: float) -> Condition:
    return Condition(f"A_{context:g}", "A", context, np.array([1.0, context]), (f"A_{context:g}",))


def small(**options) -> CondOT:
    return CondOT(**{"hidden": (32, 32), "steps": 250, "batch_size": 128, **options})


@pytest.fixture(scope="module")
def shifted() -> TrainingData:
    return experiment(lambda x, c: x + known_shift(c))


@pytest.fixture(scope="module")
def fitted(shifted) -> CondOT:
    return small().fit(shifted)


def potential(trained: bool, fitted: CondOT) -> ConvexPotential:
    if trained:
        return fitted.potential_
    return ConvexPotential(GENES, 2, (16, 8, 12), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("trained", [True, False])
def test_the_potential_is_convex_and_its_gradient_monotone(trained, fitted):
    network = potential(trained, fitted)
    rng = np.random.default_rng(2)
    with torch.no_grad():
        for _ in range(20):
            terms = network.terms(torch.from_numpy(rng.normal(0, 3, (1, 2))).float())
            one, two = torch.from_numpy(rng.normal(0, 5, (2, 200, GENES))).float()
            low, high = network.value(one, terms), network.value(two, terms)
            chord = (low + high) / 2
            assert (network.value((one + two) / 2, terms) <= chord + 1e-5 * chord.abs() + 1e-4).all()
            product = ((network.gradient(one, terms) - network.gradient(two, terms)) * (one - two)).sum(1)
            assert (product > 0).all()


def test_a_negative_weight_breaks_convexity_and_projection_restores_it():
    """The check above can fail, and what keeps it from failing is the projection."""
    network = ConvexPotential(GENES, 2, (16, 16), torch.Generator().manual_seed(0))
    terms = network.terms(torch.zeros(1, 2))
    x = torch.linspace(-3, 3, 61)[:, None] * torch.ones(GENES)

    def curvature() -> float:
        with torch.no_grad():
            return network.value(x, terms).diff().diff().min().item()

    assert curvature() > 0
    with torch.no_grad():
        network.output -= 0.3
    assert curvature() < 0
    network.project()
    assert curvature() > 0


@pytest.mark.parametrize("trained", [True, False])
def test_the_map_is_the_gradient_of_the_potential(trained, fitted):
    network = potential(trained, fitted)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(50, GENES, generator=generator).requires_grad_()
    terms = network.terms(torch.randn(50, 2, generator=generator))
    (expected,) = torch.autograd.grad(network.value(x, terms).sum(), x)
    torch.testing.assert_close(network.gradient(x, terms), expected)


@pytest.mark.parametrize("trained", [True, False])
def test_the_map_grows_at_most_linearly_with_the_context(trained, fitted):
    network = potential(trained, fitted)
    generator = torch.Generator().manual_seed(4)
    x, context = torch.randn(100, GENES, generator=generator), torch.randn(100, 2, generator=generator)
    with torch.no_grad():
        near, far = (network.gradient(x, network.terms(k * context)).norm(dim=1) for k in (1e4, 1e5))
    assert (far < 12 * near).all()


def test_the_map_is_near_the_identity_at_the_start():
    network = ConvexPotential(20, 5, (128, 128), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(300, 20, generator=generator), torch.randn(300, 5, generator=generator)
    moved = network.gradient(x, network.terms(context)) - x
    assert moved.norm(dim=1).mean() < 0.05 * x.norm(dim=1).mean()


@pytest.mark.parametrize("context", [*TRAINED, BETWEEN])
def test_a_known_shift_is_recovered(fitted, shifted, context):
    """Also at a context between the trained ones; the optimal map is the shift, for every single cell."""
    control = shifted.x[shifted.control]
    moved = fitted.transport(control, at(context)) - control
    size = np.linalg.norm(known_shift(context))
    assert np.linalg.norm(moved.mean(axis=0) - known_shift(context)) < 0.1 * size


def test_a_known_affine_map_is_recovered():
    """Scaled by a matrix that is symmetric and positive: the optimal map between the two normal distributions."""
    matrix = np.diag([2.0, 1.0, 0.4])
    data = experiment(lambda x, c: (x - 1) @ matrix + [1.0, 3.0 * c, 1.0], contexts=(0.5, 1.0))
    condot = small(steps=200).fit(data)
    for row in data.trained:
        true = data.x[data.codes == row]
        predicted = condot.sample(data.condition(row), 400)
        np.testing.assert_allclose(predicted.mean(axis=0), true.mean(axis=0), atol=0.15)
        true_cov, predicted_cov = np.cov(true.T), np.cov(predicted.T)
        assert np.linalg.norm(predicted_cov - true_cov) < 0.2 * np.linalg.norm(true_cov)
        assert predicted_cov[2, 2] < 0.5 * np.cov(data.x[data.control].T)[2, 2]  # it contracts, too


def test_seeds_decide_and_the_global_state_is_left_alone(shifted):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (small(steps=5).fit(shifted, rng=seed).sample(at(1.0), 50) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    with torch.no_grad():
        np.testing.assert_array_equal(one, small(steps=5).fit(shifted, rng=0).sample(at(1.0), 50))


def test_the_order_of_cells_within_a_sample_means_nothing(fitted, shifted):
    """The map is per cell: permuted cells give the permuted result."""
    control = shifted.x[shifted.control]
    order = np.random.default_rng(0).permutation(len(control))
    whole = fitted.transport(control, at(BETWEEN))
    np.testing.assert_allclose(fitted.transport(control[order], at(BETWEEN)), whole[order], atol=1e-5)


def test_samples(fitted, shifted):
    sample = fitted.sample(at(BETWEEN), 1000, rng=1)
    assert sample.shape == (1000, GENES)
    assert sample.dtype == np.float32
    np.testing.assert_array_equal(sample, fitted.sample(at(BETWEEN), 1000, rng=1))
    control = {cell.tobytes() for cell in shifted.x[shifted.control]}
    assert {cell.tobytes() for cell in fitted.sample(shifted.condition(0), 50)} <= control  # not moved


def test_the_unit_of_a_gene_does_not_matter(shifted):
    """Powers of two, so that rounding is the same."""
    units = np.array([0.25, 1.0, 1024.0])
    other = TrainingData(shifted.x * units, shifted.codes, shifted.conditions, shifted.features)
    plain, scaled = (small(steps=20).fit(data).sample(at(1.0), 100) for data in (shifted, other))
    np.testing.assert_allclose(scaled, plain * units, rtol=1e-3, atol=1e-3)


def test_a_constant_gene_stays_constant(shifted):
    x = shifted.x.copy()
    x[:, 1] = 7.0
    constant = TrainingData(x, shifted.codes, shifted.conditions, shifted.features)
    sample = small(steps=60).fit(constant).sample(at(1.0), 100)
    np.testing.assert_allclose(sample[:, 1], 7.0, atol=0.1)


def test_clipping_is_an_option(shifted):
    low = TrainingData(shifted.x - 1, shifted.codes, shifted.conditions, shifted.features)
    plain, clipped = (small(steps=20, clip=clip).fit(low).sample(at(1.0), 100) for clip in (False, True))
    assert plain.min() < -0.5
    np.testing.assert_array_equal(clipped, np.maximum(plain, 0))


def test_divergence_is_declined_with_advice(shifted):
    with pytest.raises(CannotPredict, match=r"condot diverged.*in step \d+ of 50; lower learning_rate"):
        small(steps=50, learning_rate=1e6).fit(shifted)


def test_features_that_do_not_fit_are_declined(fitted):
    wrong = Condition("A_5", "A", 5.0, np.zeros(7), ("A_5",))
    with pytest.raises(CannotPredict, match="condot cannot predict 'A_5': it needs 2 finite features"):
        fitted.sample(wrong, 3)
    far = Condition("A_far", "A", 5.0, np.full(2, 1e39), ("A_far",))
    with pytest.raises(CannotPredict, match="'A_far': its map is not finite"):
        fitted.sample(far, 3)


def test_data_that_teach_nothing_are_declined(shifted):
    control = shifted.control
    only = TrainingData(shifted.x[control], shifted.codes[control], shifted.conditions, shifted.features)
    with pytest.raises(CannotPredict, match="no perturbed condition"):
        small().fit(only)
    bare = TrainingData(shifted.x, shifted.codes, shifted.conditions, shifted.features[:, :0])
    with pytest.raises(CannotPredict, match="no features"):
        small().fit(bare)


def test_not_fitted_is_said():
    with pytest.raises(RuntimeError, match="condot is not fitted"):
        CondOT().sample(at(1.0), 5)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": ()},
        {"hidden": (4, 0)},
        {"steps": 0},
        {"inner_steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"partner_rate": -1.0},
        {"weight_decay": -1.0},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CondOT(**options)


def test_every_option_that_is_tuned_exists():
    for name, space in CondOT.search_space.items():
        value = space.values[0] if hasattr(space, "values") else space.low
        assert getattr(CondOT(**{name: value}), name) == value
