"""Densities against scipy and quadrature; finite values and gradients; the straight-through Gumbel sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from scgim.model import GumbelBernoulli, ZeroInflatedLogNormal, normal_log_prob, ziln_log_prob

real = st.floats(-3, 3)


def ziln(x, zero_logit, mean, log_scale) -> np.ndarray:
    arguments = [torch.as_tensor(v, dtype=torch.float64) for v in (x, zero_logit, mean, log_scale)]
    return ziln_log_prob(*arguments).numpy()


@given(zero_logit=real, mean=st.floats(-2, 2), log_scale=st.floats(-1.5, 0.7))
def test_ziln_integrates_to_one(zero_logit, mean, log_scale):
    """Mass at zero plus the integral over x > 0, substituting x = exp(y)."""
    y = mean + 12 * np.exp(log_scale) * np.linspace(-1, 1, 2001)
    above = integrate.trapezoid(np.exp(ziln(np.exp(y), zero_logit, mean, log_scale) + y), y)
    assert float(np.exp(ziln(0.0, zero_logit, mean, log_scale))) + above == pytest.approx(1, abs=1e-6)


@given(x=st.floats(1e-3, 50), zero_logit=real, mean=real, log_scale=st.floats(-2, 1))
def test_ziln_equals_scipy(x, zero_logit, mean, log_scale):
    expected = stats.lognorm(s=np.exp(log_scale), scale=np.exp(mean)).logpdf(x) - np.log1p(np.exp(zero_logit))
    assert ziln(x, zero_logit, mean, log_scale) == pytest.approx(expected, rel=1e-8, abs=1e-8)
    pi = 1 / (1 + np.exp(-zero_logit))
    assert ziln(0.0, zero_logit, mean, log_scale) == pytest.approx(np.log(pi), rel=1e-8)


@given(x=real, mean=real, log_scale=st.floats(-2, 1))
def test_normal_equals_scipy(x, mean, log_scale):
    arguments = [torch.tensor(v, dtype=torch.float64) for v in (x, mean, log_scale)]
    assert float(normal_log_prob(*arguments)) == pytest.approx(
        stats.norm(mean, np.exp(log_scale)).logpdf(x), rel=1e-8, abs=1e-10
    )


@pytest.mark.parametrize("zero_logit", [-60.0, -1.0, 0.0, 60.0])
@pytest.mark.parametrize("mean", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("log_scale", [-4.0, 0.0, 3.0])
def test_ziln_values_and_gradients_are_finite_everywhere(zero_logit, mean, log_scale):
    x = torch.tensor([0.0, 1e-30, 1e-6, 1.0, 30.0, 1e6])
    parameters = [torch.tensor(v, requires_grad=True) for v in (zero_logit, mean, log_scale)]
    value = ziln_log_prob(x, *parameters)
    value.sum().backward()
    assert torch.isfinite(value).all()
    for parameter in parameters:
        assert torch.isfinite(parameter.grad)


def test_a_zero_says_nothing_of_the_log_normal():
    parameters = [torch.tensor(v, requires_grad=True) for v in (0.3, 1.0, -0.5)]
    ziln_log_prob(torch.tensor(0.0), *parameters).backward()
    zero_logit, mean, log_scale = (p.grad for p in parameters)
    assert float(zero_logit) == pytest.approx(1 / (1 + np.exp(0.3)), rel=1e-5)
    assert float(mean) == 0
    assert float(log_scale) == 0


def test_ziln_samples_follow_their_density():
    d = ZeroInflatedLogNormal(torch.tensor(-0.5), torch.tensor(0.7), torch.tensor(-1.0))
    x = d.sample(torch.Size([20_000])).numpy()
    zero = 1 / (1 + np.exp(0.5))
    assert np.mean(x == 0) == pytest.approx(zero, abs=4 * np.sqrt(zero * (1 - zero) / len(x)))
    positive = x[x > 0]
    assert stats.kstest(positive, stats.lognorm(s=np.exp(-1.0), scale=np.exp(0.7)).cdf).pvalue > 1e-3
    both = d.expand(torch.Size([3, 2]))
    assert both.log_prob(torch.tensor(1.5)).shape == (3, 2)
    assert both.sample().shape == (3, 2)
    np.testing.assert_allclose(both.log_prob(torch.tensor(1.5)), d.log_prob(torch.tensor(1.5)), rtol=1e-6)


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("gumbel_scale", [0.3, 1.0])
def test_gumbel_sample_is_hard_with_the_right_mean(logit, gumbel_scale):
    d = GumbelBernoulli(torch.full((20_000,), logit), gumbel_scale)
    sample = d.rsample()
    nearest = sample.round()
    torch.testing.assert_close(sample, nearest, atol=1e-6, rtol=0)
    p = 1 / (1 + np.exp(-logit))
    assert float(nearest.mean()) == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 20_000))


def test_gumbel_gradient_is_that_of_the_relaxed_sample():
    logits = torch.linspace(-4, 4, 9, requires_grad=True)
    torch.manual_seed(3)
    sample = GumbelBernoulli(logits, 0.7).rsample()
    (found,) = torch.autograd.grad(sample.sum(), logits)
    torch.manual_seed(3)
    uniform = torch.rand(9).clamp(1e-7, 1 - 1e-7)
    soft = torch.sigmoid((logits + uniform.log() - torch.log1p(-uniform)) / 0.7)
    (expected,) = torch.autograd.grad(soft.sum(), logits)
    torch.testing.assert_close(found, expected)
    assert (found > 0).all()


def test_gumbel_gradient_points_to_the_better_value_on_average():
    """Of a linear function the straight-through gradient is, up to a positive factor, the true one."""
    logits = torch.zeros(4, requires_grad=True)
    slope = torch.tensor([-2.0, -0.5, 0.5, 2.0])
    sample = GumbelBernoulli(logits.expand(2000, 4)).rsample()
    (sample * slope).sum().backward()
    assert torch.equal(logits.grad.sign(), slope.sign())


def test_gumbel_log_prob_is_bernoulli():
    logits = torch.tensor([-3.0, 0.5, 40.0, -40.0])
    d = GumbelBernoulli(logits)
    for value in (0.0, 1.0):
        expected = torch.distributions.Bernoulli(logits=logits).log_prob(torch.full((4,), value))
        torch.testing.assert_close(d.log_prob(torch.full((4,), value)), expected)
    assert GumbelBernoulli(torch.tensor(0.0), 0.25).expand(torch.Size([2])).gumbel_scale == 0.25
