"""Counting, and the posterior of the latent expression."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import MultivariateNormal

from scgim.model import Counting, Mechanisms, Posterior, laplace, mechanism_residuals
from scgim.model.posterior import Edges, Residuals


def counting(n_genes: int, dispersion: float = 0.0) -> Counting:
    out = Counting(n_genes)
    out.baseline.copy_(torch.linspace(-1.0, 2.0, n_genes).unsqueeze(0))
    out.dispersion.fill_(dispersion)
    out.describe(torch.linspace(-0.5, 0.5, 101), torch.zeros(101, dtype=torch.long))
    return out


def independent(mean: float, scale: float):
    """A model of z without edges."""

    def residuals(z: torch.Tensor) -> Residuals:
        return Residuals(z - mean, torch.full_like(z, scale**-2), z[:, :0], Edges(torch.zeros(z.shape[1], z.shape[1])))

    return residuals


@pytest.mark.parametrize("dispersion", [0.0, 0.4])
def test_probabilities_of_counts_sum_to_one(dispersion):
    measure = counting(1, dispersion)
    rate = measure.log_rate(torch.tensor([[0.7]]), torch.tensor([0.3]), torch.zeros(1, dtype=torch.long))
    y = torch.arange(400.0).unsqueeze(1)
    assert float(measure.log_prob(y, rate.expand(400, 1)).double().exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("dispersion", [0.0, 0.4])
def test_slope_is_the_derivative_of_the_log_likelihood(dispersion):
    measure, y = counting(4, dispersion), torch.tensor([[0.0, 1.0, 7.0, 90.0]])
    z = torch.tensor([[0.1, -0.4, 0.2, 1.0]], requires_grad=True)
    size, batch = torch.tensor([0.2]), torch.zeros(1, dtype=torch.long)
    measure.log_prob(y, measure.log_rate(z, size, batch)).sum().backward()
    slope, information = measure.slope(y, measure.log_rate(z, size, batch).detach())
    torch.testing.assert_close(slope, z.grad, rtol=1e-4, atol=1e-4)
    assert (information > 0).all()


@pytest.mark.parametrize("dispersion", [0.0, 0.4])
def test_drawn_counts_have_mean_and_variance_of_their_distribution(dispersion):
    measure, n = counting(3, dispersion), 40_000
    z, size, batch = torch.zeros(n, 3), torch.full((n,), 0.4), torch.zeros(n, dtype=torch.long)
    y = measure.draw(z, size, batch, torch.Generator().manual_seed(0)).double()
    mean = measure.log_rate(z[:1], size[:1], batch[:1]).double().exp()[0]
    variance = mean + dispersion * mean**2
    assert (((y.mean(0) - mean) / (variance / n).sqrt()).abs() < 4).all()
    assert ((y.var(0) / variance - 1).abs() < 0.06).all()


def test_a_gene_held_at_nothing_is_never_counted_and_its_children_see_the_lowest():
    measure = counting(2)
    held = torch.tensor([0.0, torch.nan])
    latent, _ = measure.held(held)
    assert float(latent[0]) == float(measure.lowest[0]) and bool(torch.isnan(latent[1]))
    y = measure.draw(torch.ones(500, 2), torch.zeros(500), torch.zeros(500, dtype=torch.long), torch.Generator(), held)
    assert not bool(y[:, 0].any()) and bool(y[:, 1].any())


def test_a_value_that_is_held_is_the_mean_of_what_is_counted():
    measure, value = counting(1), 1.3  # log1p(count / size factor)
    y = measure.draw(
        torch.zeros(50_000, 1), torch.full((50_000,), 0.5), torch.zeros(50_000, dtype=torch.long),
        torch.Generator().manual_seed(1), torch.tensor([value]),
    )  # fmt: skip
    assert float((y / np.exp(0.5)).mean()) == pytest.approx(np.expm1(value), rel=0.02)


@pytest.mark.parametrize("y", [0.0, 3.0, 20.0])
def test_posterior_agrees_with_integration(y):
    measure = counting(1)
    measure.baseline.fill_(1.0)
    one = torch.tensor([[y]], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    found = laplace(
        measure, one, zero, torch.zeros(1, dtype=torch.long), independent(0.2, 0.7), torch.zeros_like(one), 30
    )

    def density(z: float) -> float:
        return stats.poisson.pmf(y, np.exp(1.0 + z)) * stats.norm.pdf(z, 0.2, 0.7)

    total = integrate.quad(density, -6, 6)[0]
    mean = integrate.quad(lambda z: z * density(z), -6, 6)[0] / total
    spread = np.sqrt(integrate.quad(lambda z: (z - mean) ** 2 * density(z), -6, 6)[0] / total)
    assert float(found.location) == pytest.approx(mean, abs=0.12)  # a mode, and skewed
    assert float(found.variance_of_genes().sqrt()) == pytest.approx(spread, rel=0.08)


def test_posterior_density_is_the_normal_of_its_precision():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 4, 4, generator=generator)
    precision = root @ root.mT + torch.eye(4)
    center, value = torch.randn(2, 5, 4, generator=generator)
    ours = Posterior(center, torch.linalg.cholesky(precision))
    torch.testing.assert_close(
        ours.log_prob(value), MultivariateNormal(center, precision_matrix=precision).log_prob(value)
    )
    draws = ours.draw(torch.randn(4000, 5, 4, generator=generator))
    torch.testing.assert_close(draws.var(0), ours.variance_of_genes(), rtol=0.15, atol=0.0)


def test_steps_of_the_posterior_reach_where_the_expected_gradient_vanishes():
    torch.manual_seed(0)
    mechanisms = Mechanisms(4, "mlp").double()
    graph = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.float64)
    measure, n = counting(4).double(), 30
    y = torch.poisson(torch.full((n, 4), 3.0, dtype=torch.float64))
    size, batch = torch.linspace(-0.5, 0.5, n, dtype=torch.float64), torch.zeros(n, dtype=torch.long)
    targets = torch.zeros(n, 4, dtype=torch.bool)
    targets[:10, 1] = True
    parameters = {"mean": torch.full((n, 4), 0.5).double(), "log_scale": torch.full((n, 4), -0.3).double()}
    residuals = mechanism_residuals(mechanisms, graph, targets, parameters)
    found = laplace(measure, y, size, batch, residuals, torch.zeros(n, 4).double(), 60)
    z = found.location.requires_grad_(True)
    location = mechanisms.location(z.unsqueeze(0), graph.unsqueeze(0))[0]
    mean = torch.where(targets, parameters["mean"], location)
    scale = torch.where(targets, parameters["log_scale"], mechanisms.total_log_scale().expand(n, -1)).exp()
    (prior,) = torch.autograd.grad(-0.5 * ((z - mean) / scale).square().sum(), z)
    # Of a Poisson, the mean over a normal is exact: rates grow by half the variance.
    rate = (measure.log_rate(z, size, batch) + 0.5 * found.variance_of_genes()).exp()
    assert float((prior + y - rate).detach().abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_derivative_of_mechanisms(kind):
    torch.manual_seed(1)
    mechanisms = Mechanisms(3, kind)
    mechanisms.standardise(torch.randn(50, 3) * torch.tensor([1.0, 2.0, 0.5]) + 1)
    graph = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.float32)
    x = torch.randn(1, 3)
    exact = torch.autograd.functional.jacobian(lambda v: mechanisms.location(v[None, None], graph[None])[0, 0], x[0])
    parent, child = torch.nonzero(graph).unbind(1)
    torch.testing.assert_close(mechanisms.derivative(x, graph, parent, child)[0], exact[child, parent])
    assert bool((exact.T[graph == 0] == 0).all())


@pytest.mark.parametrize("dispersion", [0.0, 0.4])
def test_bounds_leave_out_what_counts_all_but_exclude_and_nothing_else(dispersion):
    measure, y = counting(1, dispersion), torch.tensor([[0.0], [1.0], [4.0], [50.0]])
    size, batch = torch.full((4,), 0.3), torch.zeros(4, dtype=torch.long)
    lowest, highest = measure.bounds(y, size, batch)
    assert bool(torch.isfinite(lowest).all()) and bool((lowest < highest).all())
    assert float(measure.log_rate(lowest[:1], size[:1], batch[:1])) < np.log(1e-3)  # of a cell without a count

    def up_to(count: float, z: torch.Tensor) -> float:
        rate = measure.log_rate(z, size[:1], batch[:1])
        seen = torch.arange(count + 1).unsqueeze(1)
        return float(measure.log_prob(seen, rate.expand(len(seen), 1)).double().exp().sum()) if count >= 0 else 0.0

    for row, count in enumerate(y.flatten().tolist()):
        assert up_to(count, highest[row]) < 0.03
        if count:
            assert 1 - up_to(count - 1, lowest[row]) < 0.05
    z, none = 0.5 * torch.randn(5000, 1, generator=torch.Generator().manual_seed(1)), torch.zeros(5000)
    y = measure.draw(z, none, none.long(), torch.Generator().manual_seed(0))
    lowest, highest = measure.bounds(y, none, none.long())
    assert float(((z < lowest) | (z > highest)).float().mean()) < 0.01


def test_no_draw_of_a_posterior_passes_its_bounds():
    location, factor = torch.zeros(200, 2), 0.1 * torch.eye(2).expand(200, 2, 2)
    wide = Posterior(location, factor).draw(torch.randn(200, 2, generator=torch.Generator().manual_seed(0)))
    bounds = torch.full((200, 2), -torch.inf), torch.ones(200, 2)
    kept = Posterior(location, factor, bounds).draw(torch.randn(200, 2, generator=torch.Generator().manual_seed(0)))
    assert float(wide.max()) > 10
    torch.testing.assert_close(kept, wide.clamp(max=1.0))


def test_a_precision_that_rounding_makes_singular_still_has_a_root_and_one_that_is_not_finite_is_refused():
    from scgim.model.posterior import _root

    nearly = torch.ones(3, 4, 4)
    nearly[0] = torch.eye(4)
    root = _root(nearly.clone())
    torch.testing.assert_close(root @ root.mT, nearly, atol=1e-3, rtol=0)
    torch.testing.assert_close(_root(nearly[:1]), torch.linalg.cholesky(nearly[:1]))
    with pytest.raises(FloatingPointError, match="stopped being finite"):
        _root(nearly * torch.nan)
