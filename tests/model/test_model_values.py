"""Values of priors, means and draws, each against its definition written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_gim import make_batch, make_gim
from torch import Tensor

from scgim.model import Action, Mechanisms, Noise, Priors, draw_action, draw_noise, propagate

EMPTY = np.zeros((5, 5), dtype=bool)


@pytest.mark.parametrize("kind", ["linear", "mlp", "ziln"])
def test_the_prior_of_the_weights_is_normal_with_the_scale_given(kind: str) -> None:
    gim, batch = make_gim(kind), make_batch(kind)
    narrow, wide = 0.7, 2.5

    def prior(scale: float) -> float:
        gim.priors = Priors(mechanism_scale=scale)
        return float(gim.log_prior(batch, 0.0))

    squares = sum(float(p.double().square().sum()) for p in gim.mechanisms.parameters())
    expected = -0.5 * squares * (1 / narrow**2 - 1 / wide**2)
    assert prior(narrow) - prior(wide) == pytest.approx(expected, rel=1e-4)


def test_the_mean_of_a_mechanism_is_that_of_its_draws() -> None:
    """Spreads of 0.8 in log x: half of the variance more or less moves the mean by 15 %."""
    gim = make_gim("ziln")
    with torch.no_grad():
        gim.mechanisms.log_scale.copy_(math.log(0.8) - gim.mechanisms.response_scale.log())
    parents = torch.zeros(1, 5, 5)
    expected = gim.mechanisms.expected(torch.ones(1, 5), parents)[0].double()
    drawn = propagate(gim, EMPTY, draw_noise(gim, 200_000, torch.Generator().manual_seed(0)), None).double()
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - expected).abs() < 5 * error).all()
    assert (error < 0.02 * expected).all()


def still(n: int, uniform: float) -> Noise:
    """No noise in the values; `uniform` decides on every zero."""
    return Noise(torch.zeros(n, 5), torch.full((n, 5), uniform))


def test_a_shift_moves_the_value_and_the_odds_of_a_zero() -> None:
    gim = make_gim("ziln", "shift")
    rate = float(torch.sigmoid(gim.mechanisms.zero_logit[2]))
    shift, zero_shift = torch.zeros(1, 5), torch.zeros(1, 5)
    shift[0, 2], zero_shift[0, 2] = 0.5, 2.0
    action = Action(torch.ones(1, 5, dtype=torch.bool), {"shift": shift, "zero_shift": zero_shift})
    more = float(torch.sigmoid(gim.mechanisms.zero_logit[2] + 2.0))
    between = (rate + more) / 2  # a zero under the shift, none without
    assert propagate(gim, EMPTY, still(1, between), None)[0, 2] > 0
    assert propagate(gim, EMPTY, still(1, between), action)[0, 2] == 0
    plain, moved = (propagate(gim, EMPTY, still(1, more + 0.01), a)[0, 2] for a in (None, action))
    assert float(moved / plain) == pytest.approx(math.exp(0.5), rel=1e-4)


@pytest.mark.parametrize(("kind", "intervention"), [("mlp", "hard"), ("ziln", "hard"), ("linear", "shift")])
def test_effects_are_drawn_with_the_spread_given(kind: str, intervention: str) -> None:
    gim = make_gim(kind, intervention)  # effect_noise 0.1, in units of the gene's spread
    k = gim.interventions(torch.zeros(1, 3)).effects.shape[-1]
    effects = torch.randn(5, k, generator=torch.Generator().manual_seed(1))
    action = draw_action(gim, torch.full((5,), 0.3), effects, 40_000, torch.Generator().manual_seed(0))
    name = "shift" if intervention == "shift" else "mean"
    unit = gim.mechanisms.response_scale
    expected = gim.replaced_parameters(effects.unsqueeze(0))[name][0]
    torch.testing.assert_close(action.parameters[name].std(0) / unit, torch.full((5,), 0.1), rtol=0.03, atol=0)
    torch.testing.assert_close(action.parameters[name].mean(0), expected, rtol=0, atol=0.005)
    assert float(action.targets.float().mean()) == pytest.approx(0.3, abs=0.01)


def units(values: Tensor, kind: str) -> Mechanisms:
    mechanisms = Mechanisms(values.shape[1], kind)  # type: ignore[arg-type]
    mechanisms.standardise(values)
    return mechanisms


def test_units_have_a_floor() -> None:
    """A gene that never varies, or that one cell shows, gives finite and sensible numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 3, generator=generator) + 1
    x[:, 1] = 2.0
    for kind in ("linear", "ziln"):
        found = units(x, kind)
        assert float(found.scale[1]) == pytest.approx(1e-3)
        assert float(found.response_scale[1]) >= 0.05 or kind == "linear"
        assert torch.isfinite(found.location(x.unsqueeze(0), torch.ones(1, 3, 3))).all()
    assert float(units(x, "linear").scale[0]) == pytest.approx(float(x[:, 0].std()), rel=1e-5)
    same = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 0.0]])
    assert units(same, "ziln").response_scale.tolist() == pytest.approx([0.05, 0.05])
    wild = torch.exp(torch.tensor([[-40.0, 30.0], [40.0, -30.0]]))
    assert units(wild, "ziln").response_scale.tolist() == pytest.approx([10.0, 10.0])
    rare = x.clone()
    rare[1:, 2] = 0.0
    assert 0.05 <= float(units(rare, "ziln").response_scale[2]) <= 10
    assert torch.isfinite(units(rare, "ziln").log_prob(rare, torch.zeros_like(rare))).all()
