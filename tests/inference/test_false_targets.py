"""No false certainty: cells of the control under false names have no targets, and a cell or two make none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scgim.inference import TrainingData, fit, make_config, resolve_sparsity
from scgim.inference.start import find_structure
from scgim.model.distributions import outlier_log_prob, spread_log_prior, with_outliers
from scgim.model.mechanisms import response_units, trust

N_CONDITIONS = 20
#: Log of the mean counts of a gene: from rare ones to common ones.
RARE, MIXED, COMMON = (-5.0, -2.0), (-6.0, 3.0), (-1.0, 3.0)


def data_of(x: np.ndarray, condition: np.ndarray) -> TrainingData:
    n = int(condition.max())
    return TrainingData(
        x=torch.as_tensor(x, dtype=torch.float32),
        condition=torch.as_tensor(condition),
        valid=torch.zeros(len(x), dtype=torch.bool),
        features=torch.eye(n),
        membership=torch.cat([torch.zeros(1, n), torch.eye(n)]),
    )


def log_counts(rng: np.random.Generator, n: int, level: tuple[float, float], genes: int = 12) -> np.ndarray:
    """log1p of normalised negative binomial counts with two common factors, of genes seen at least twice."""
    load = 0.4 * rng.normal(size=(2, genes))
    depth = np.exp(0.3 * rng.normal(size=(n, 1)))
    mean = np.exp(rng.uniform(*level, genes) + rng.normal(size=(n, 2)) @ load) * depth
    x = np.log1p(rng.poisson(mean * rng.gamma(2.0, 0.5, size=mean.shape)) / depth)
    return x[:, (x > 0).sum(0) >= 2]


def continuous(rng: np.random.Generator, n: int, tails: str, genes: int = 12) -> np.ndarray:
    x = rng.normal(size=(n, 2)) @ rng.normal(size=(2, genes)) + rng.normal(size=(n, genes))
    return x + (rng.standard_t(3, size=x.shape) if tails == "heavy" else 0)


def searched(data: TrainingData, mechanism: str, seed: int = 0, **changes) -> np.ndarray:
    config = resolve_sparsity(
        make_config(mechanism=mechanism, n_shakes=0, n_features=20, max_parents=2, **changes), data
    )
    return find_structure(config, data, np.random.default_rng(seed), lambda text: None).targets.numpy()


@pytest.mark.parametrize("n_control", [100, 1000])
@pytest.mark.parametrize(
    ("mechanism", "kind"),
    [("ziln", RARE), ("ziln", MIXED), ("ziln", COMMON), ("linear", "normal"), ("linear", "heavy"), ("mlp", "heavy"),
     ("linear", COMMON)],
)  # fmt: skip
def test_control_cells_under_false_names_have_no_targets(mechanism, kind, n_control):
    """At most one in a hundred conditions, of 5 to 100 cells; with the graph searched along."""
    false = total = 0
    for seed in range(2):
        for size in (5, 24, 100):
            rng = np.random.default_rng([seed, size, n_control])
            n = n_control + N_CONDITIONS * size
            x = continuous(rng, n, kind) if isinstance(kind, str) else log_counts(rng, n, kind)
            condition = np.repeat(np.arange(N_CONDITIONS + 1), [n_control] + [size] * N_CONDITIONS)
            false += int(searched(data_of(x, condition), mechanism, seed).any(1).sum())
            total += N_CONDITIONS
    assert false <= 0.01 * total + 1.96 * (0.01 * total) ** 0.5  # the rate is 1 %, its count has an error


@pytest.mark.parametrize("mechanism", ["ziln", "linear", "mlp"])
def test_planted_targets_are_still_found(mechanism):
    """A gene that doubles in each condition, of 24 cells."""
    rng = np.random.default_rng(0)
    n, size = 400, 24
    condition = np.repeat(np.arange(N_CONDITIONS + 1), [n] + [size] * N_CONDITIONS)
    x = rng.normal(size=(len(condition), 12))
    x = np.exp(0.3 * x) * (rng.random(x.shape) < 0.8) if mechanism == "ziln" else x
    planted = np.zeros((N_CONDITIONS + 1, x.shape[1]), dtype=bool)
    for k in range(1, N_CONDITIONS + 1):
        planted[k, k % x.shape[1]] = True
        rows, column = condition == k, k % x.shape[1]
        x[rows, column] = x[rows, column] * 4 if mechanism == "ziln" else rng.normal(6, 1, rows.sum())
    found = searched(data_of(x, condition), mechanism)
    assert found[planted].mean() > 0.9
    assert found[~planted].sum() <= 2


# -- the three cases that were seen ----------------------------------------------------------------------------


def one_positive_in_either_arm() -> tuple[str, TrainingData]:
    rng = np.random.default_rng(0)
    x = np.exp(0.4 * rng.normal(size=(96, 6))) * (rng.random((96, 6)) < 0.6)
    x[:, 5] = 0
    x[0, 5], x[80, 5] = 1.0, 3.0
    return "ziln", data_of(x, np.repeat([0, 1], [72, 24]))


def one_cell_far_out() -> tuple[str, TrainingData]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 6))
    x[1200, 5] = -12
    return "linear", data_of(x, np.repeat([0, 1], [1000, 500]))


def two_counts_of_two() -> tuple[str, TrainingData]:
    rng = np.random.default_rng(0)
    counts = rng.poisson([3, 1, 0.5, 2, 4, 0.02], size=(4500, 6))
    counts[:, 5] = np.minimum(counts[:, 5], 1)
    counts[4400:4402, 5] = 2
    return "ziln", data_of(np.log1p(counts), np.repeat([0, 1], [4000, 500]))


@pytest.mark.parametrize("case", [one_positive_in_either_arm, one_cell_far_out, two_counts_of_two])
def test_one_or_two_cells_make_no_target(case):
    """Neither in the search nor after steps in which networks and mechanisms could follow them."""
    mechanism, data = case()
    assert not searched(data, mechanism).any()
    quick = {
        "max_steps": 150,
        "warmup_steps": 30,
        "n_graphs": 2,
        "batch_size": 512,
        "network_hidden": (8,),
        "n_features": 20,
    }
    result = fit(data, make_config(mechanism=mechanism, **quick), rng=0, progress=False)
    with torch.no_grad():
        assert float(result.gim.atomic(data.features).target_prob.max()) < 0.5
    m = result.gim.mechanisms
    if case is one_positive_in_either_arm:  # nor does a spread collapse on the one value that there is
        assert float(m.log_scale[5].detach()) > -1 and float(m.response_scale[5]) > 0.2


# -- what it rests on ------------------------------------------------------------------------------------------


@given(st.floats(-30, 30), st.floats(-3, 1), st.floats(-30, 30), st.floats(-3, 1))
@settings(max_examples=50)
def test_one_cell_says_a_bounded_number_of_nats(first, first_scale, second, second_scale):
    """Of two mechanisms within the gene's range, whatever the cell shows."""
    x = torch.cat([torch.linspace(-1e3, 1e3, 2001), torch.tensor([first, second])]).double()
    outlier = outlier_log_prob(x, torch.zeros(()).double(), torch.ones(()).double(), ziln=False)
    densities = [
        with_outliers(torch.distributions.Normal(mean, np.exp(scale)).log_prob(x), outlier)
        for mean, scale in ((first, first_scale), (second, second_scale))
    ]
    most = np.log(100 * np.pi * (1 + 33**2)) + 3
    assert float((densities[0] - densities[1]).abs().max()) < most


def test_outliers_are_a_density():
    x = torch.linspace(-2000, 2000, 4_000_001).double()
    density = outlier_log_prob(x, torch.tensor(0.3).double(), torch.tensor(0.7).double(), ziln=False).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-3)
    logs = torch.linspace(-40, 40, 400_001).double()
    positive = outlier_log_prob(logs.exp(), torch.tensor(0.3).double(), torch.tensor(0.1).double(), ziln=True)
    zero = outlier_log_prob(torch.zeros(1).double(), torch.zeros(1), torch.ones(1), ziln=True)
    above = torch.trapezoid((positive + logs).exp(), logs)
    assert float(above) == pytest.approx(0.5, abs=2e-3)
    assert float(zero.exp()) == pytest.approx(0.5)


def test_the_prior_of_a_spread_is_that_of_two_cells():
    log_scale = torch.linspace(-2, 1, 7).double()
    cells = -2 * log_scale - torch.exp(-2 * log_scale)
    torch.testing.assert_close(spread_log_prior(log_scale), cells + 1)
    assert float(spread_log_prior(torch.zeros(()))) == 0


def test_rare_genes_share_the_spread_of_all():
    rng = np.random.default_rng(0)
    x = np.exp(0.5 * rng.normal(size=(500, 4)))
    x[2:, 3] = 0
    x[:2, 3] = 2.0
    center, scale = response_units(torch.as_tensor(x), ziln=True)
    assert float(center[3]) == pytest.approx(np.log(2))
    np.testing.assert_allclose(scale, [0.5, 0.5, 0.5, 0.5 * (10 / 12) ** 0.5], rtol=0.1)


def test_trust_is_one_for_normal_values_and_falls_with_tails_and_skewness():
    rng = np.random.default_rng(0)
    x = np.column_stack(
        [rng.normal(size=4000), rng.standard_t(3, 4000), rng.exponential(size=4000), rng.normal(size=4000)]
    )
    x[7, 3] = 30  # one cell is no tail
    normal, heavy, skewed, odd = trust(torch.as_tensor(x)).tolist()
    assert normal > 0.95 and odd > 0.9
    assert heavy < 0.5
    assert skewed == pytest.approx(1 / 5.24, rel=0.35)  # eigenvalue for skewness 2 and kurtosis 9
