"""Predicted cells hold no more than a library: truncated log-normals, their means, and exact counterfactuals."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from small_gim import N_GENES, make_batch, make_gim

from scgim.model import Action, Mechanisms, abduct, counterfactual, draw_noise, propagate
from scgim.model.distributions import truncate, truncated_log_normal_mean, untruncate

CHAIN = np.diag(np.ones(N_GENES - 1, dtype=bool), 1)


@given(st.floats(-4, 3.8), st.floats(-40, 9))
def test_truncated_noise_keeps_its_rank_and_comes_back(noise, bound):
    z, b = torch.tensor([noise, noise + 0.1]).double(), torch.tensor(bound).double()
    found = truncate(z, b)
    assert (found <= b).all()
    assert found[0] < found[1]
    torch.testing.assert_close(untruncate(found, b), z, atol=1e-3, rtol=1e-3)
    if -5 < bound < 4:
        expected = stats.truncnorm(-np.inf, bound).ppf(stats.norm.cdf(z))
        np.testing.assert_allclose(found, expected, atol=1e-4)
    elif bound >= 4:
        assert torch.equal(found, z)


@pytest.mark.parametrize(
    ("mean", "scale", "most"), [(0.0, 1.0, 1.5), (3.0, 0.5, 1.5), (-1.0, 3.0, 2.0), (9.0, 2.0, 1.0)]
)
def test_the_mean_of_a_truncated_log_normal_is_that_of_its_draws(mean, scale, most):
    below = stats.truncnorm(-np.inf, (most - mean) / scale, mean, scale)
    expected = np.exp(below.ppf((np.arange(20_000) + 0.5) / 20_000)).mean()
    found = truncated_log_normal_mean(torch.tensor(mean), torch.tensor(scale).log(), torch.tensor(most))
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_a_library_is_what_the_richest_training_cell_holds():
    x = torch.log1p(torch.tensor([[1.0, 0, 4], [2, 2, 2], [0, 0, 3]]))
    for kind, expected in (("ziln", 6.0), ("mlp", np.inf)):
        mechanisms = Mechanisms(3, kind)
        mechanisms.standardise(x)
        assert float(mechanisms.log_library.exp()) == pytest.approx(expected)


def rich_gim(counts: float = 20.0):
    """Wide log-normals: without a bound most cells would hold far more than a library."""
    gim = make_gim("ziln")
    with torch.no_grad():
        gim.mechanisms.log_scale += 1
    gim.mechanisms.log_library.fill_(np.log(counts))
    return gim


def test_no_cell_holds_more_and_those_concerned_are_counted(caplog):
    gim, generator = rich_gim(), torch.Generator().manual_seed(0)
    noise = draw_noise(gim, 2000, generator)
    with caplog.at_level(logging.INFO, logger="scgim"):
        x = propagate(gim, CHAIN, noise, None)
    assert torch.isfinite(x).all()
    assert float(torch.expm1(x.double()).sum(1).max()) <= 20.0 * (1 + 1e-4)
    assert "of 2000 cells" in caplog.text and "20 counts" in caplog.text
    gim.mechanisms.log_library.fill_(torch.inf)
    free = propagate(gim, CHAIN, noise, None)
    beyond = torch.expm1(free.double()).sum(1) > 20.0
    assert beyond.float().mean() > 0.2
    assert torch.equal(x > 0, free > 0)  # zeros are as they were
    caplog.clear()
    propagate(gim, CHAIN, noise, None)
    assert not caplog.text


def test_a_value_rises_with_its_noise():
    gim, generator = rich_gim(), torch.Generator().manual_seed(1)
    noise = draw_noise(gim, 50, generator)
    noise.normal[:] = noise.normal[:1]
    noise.uniform[:] = 0.999  # no zeros
    noise.normal[:, 0] = torch.linspace(-4, 4, 50)
    first = propagate(gim, np.zeros_like(CHAIN), noise, None)[:, 0]
    assert (first.diff() > 0).all()


def test_held_genes_leave_the_library_to_the_others():
    gim, generator = rich_gim(), torch.Generator().manual_seed(2)
    noise = draw_noise(gim, 200, generator)
    held = torch.full((200, N_GENES), torch.nan)
    held[:, 0] = 50.0
    x = propagate(gim, np.zeros_like(CHAIN), noise, Action(torch.zeros(200, N_GENES, dtype=torch.bool), {}, held))
    assert (x[:, 0] == 50).all()
    assert (x[:, 1:] > 0.1).any(0).all()


def test_counterfactuals_are_exact_within_a_library():
    """Noise that is abducted gives the cell back; what is not downstream of a target stays as it is."""
    gim, generator = rich_gim(), torch.Generator().manual_seed(3)
    x = propagate(gim, CHAIN, draw_noise(gim, 500, generator), None)
    back = propagate(gim, CHAIN, abduct(gim, CHAIN, x, generator), None)
    torch.testing.assert_close(back, x, rtol=1e-2, atol=1e-3)
    targets = torch.zeros(500, N_GENES, dtype=torch.bool)
    targets[:, 2] = True
    new = {name: value.expand(500, -1) for name, value in gim.replaced_parameters(torch.ones(N_GENES, 3)).items()}
    changed = counterfactual(gim, CHAIN, x, Action(targets, new), generator)
    assert torch.equal(changed[:, :2], x[:, :2])
    assert not torch.equal(changed[:, 2], x[:, 2])
    assert float(torch.expm1(changed.double()).sum(1).max()) <= 20.0 * (1 + 1e-4)


def test_richer_cells_than_any_in_training_keep_what_they_hold():
    gim, generator = rich_gim(), torch.Generator().manual_seed(4)
    x = make_batch("ziln").x * 30
    nothing = Action(torch.zeros(x.shape, dtype=torch.bool), {})
    assert torch.equal(counterfactual(gim, CHAIN, x, nothing, generator), x)


def test_extrapolated_effects_stay_finite():
    gim = rich_gim()
    far = {
        name: value.expand(300, -1) for name, value in gim.replaced_parameters(torch.full((N_GENES, 3), 40.0)).items()
    }
    assert float(far["log_scale"].exp().max()) < 10 * float(gim.mechanisms.response_scale.max())
    far["zero_logit"] = torch.full_like(far["zero_logit"], -9.0)
    action = Action(torch.ones(300, N_GENES, dtype=torch.bool), far)
    x = propagate(gim, CHAIN, draw_noise(gim, 300, torch.Generator().manual_seed(5)), action)
    assert float(torch.expm1(x.double()).sum(1).max()) <= 20.0 * (1 + 1e-4)
    mean = gim.mechanisms.mean_of(far["zero_logit"], far["mean"], far["log_scale"])
    assert float(mean.max()) <= float(np.log1p(20.0)) + 1e-4
