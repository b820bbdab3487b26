"""Counting: from latent log expression to the counts of a cell, and back by Laplace's approximation (`own`).

`z ~ p(z | G, theta, I)` is the GIM with normal mechanisms, and the counts are a measurement of it:

    y_ij ~ Poisson(l_i exp(b_j + z_ij)),    or negative binomial with the same mean and the dispersion r_j

A parent acts through its expression z, of which its count y tells little in a cell of low depth. The paper's
mechanisms for single cells (zero-inflated log-normal) are given the count instead. Zeros, depth and the growth of the
variance with the mean follow from counting (Aitchison & Ho 1989; Chiquet et al. 2021, for undirected networks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from pyro.distributions import NegativeBinomial, Poisson, TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from .mechanisms import Mechanisms

#: Log of the largest rate that is distinguished: counts stay below 2^24, from which float32 has gaps.
_MOST = 16.0
#: Quantiles of the cells' size factors that are kept for new cells.
N_SIZES = 201
#: A step of Newton's method moves an expression by no more than so many log units.
_STRIDE = 1.0


class Counting(nn.Module):
    """The measurement: size factors of cells, rates of genes per batch, dispersion.

    Parameters
    ----------
    n_genes, n_batches
        Sizes. Without a batch column there is one batch.

    Attributes
    ----------
    baseline
        (batches, genes) log rate of a gene in control cells of size factor 1.
    dispersion
        (genes,) of the negative binomial, variance = mean + dispersion * mean^2; 0: Poisson.
    log_sizes
        (N_SIZES,) quantiles of the training cells' log size factors, from which those of new cells are drawn.
    lowest
        (genes,) lowest latent expression of a training cell: a gene held at no expression counts as that to its
        children, which have never seen less.
    shares
        (batches,) of the training cells.
    """

    baseline: Tensor
    dispersion: Tensor
    log_sizes: Tensor
    lowest: Tensor
    shares: Tensor

    def __init__(self, n_genes: int, n_batches: int = 1) -> None:
        super().__init__()
        self.register_buffer("baseline", torch.zeros(n_batches, n_genes))
        self.register_buffer("dispersion", torch.zeros(n_genes))
        self.register_buffer("log_sizes", torch.zeros(N_SIZES))
        self.register_buffer("lowest", torch.full((n_genes,), -3.0))
        self.register_buffer("shares", torch.full((n_batches,), 1.0 / n_batches))

    @torch.no_grad()
    def describe(self, log_size: Tensor, batch: Tensor) -> None:
        """Keep the size factors (cells,) and shares of batches of the training cells."""
        at = torch.linspace(0, 1, N_SIZES, dtype=torch.float64)
        self.log_sizes.copy_(torch.as_tensor(np.quantile(log_size.cpu().double().numpy(), at.numpy())))
        self.shares.copy_(torch.bincount(batch, minlength=len(self.shares)) / len(batch))

    def log_rate(self, z: Tensor, log_size: Tensor, batch: Tensor, held: Tensor | None = None) -> Tensor:
        """(cells, genes) log of the expected counts; `held` (genes,): values that genes are held at, or NaN."""
        rate = (log_size.unsqueeze(-1) + self.baseline[batch] + z).clamp(max=_MOST)
        if held is None:
            return rate
        _, fixed = self.held(held)
        return torch.where(torch.isnan(fixed), rate, (log_size.unsqueeze(-1) + fixed).clamp(max=_MOST))

    def distribution(self, log_rate: Tensor) -> TorchDistribution:
        """Distribution of the counts of every entry."""
        if not bool((self.dispersion > 0).any()):
            return Poisson(log_rate.exp())
        total = 1 / self.dispersion.clamp_min(1e-6)
        return NegativeBinomial(total.expand_as(log_rate), logits=log_rate - total.log())

    def log_prob(self, counts: Tensor, log_rate: Tensor) -> Tensor:
        """(cells, genes)"""
        return self.distribution(log_rate).log_prob(counts)

    def slope(self, counts: Tensor, log_rate: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative of the log likelihood by z, and what a count is expected to tell of z (Fisher information)."""
        rate = log_rate.exp()
        damped = 1 + self.dispersion * rate
        return (counts - rate) / damped, rate / damped

    def draw_sizes(self, n_cells: int, generator: torch.Generator) -> Tensor:
        """(cells,) log size factors, as the training cells have them."""
        place = torch.rand(n_cells, generator=generator) * (N_SIZES - 1)
        low = place.long().clamp(max=N_SIZES - 2)
        return torch.lerp(self.log_sizes[low], self.log_sizes[low + 1], place - low)

    def draw(
        self, z: Tensor, log_size: Tensor, batch: Tensor, generator: torch.Generator, held: Tensor | None = None
    ) -> Tensor:
        """(cells, genes) counts."""
        rate = self.log_rate(z, log_size, batch, held).exp()
        if bool((self.dispersion > 0).any()):
            shape = 1 / self.dispersion.clamp_min(1e-6)
            rate = rate * torch._standard_gamma(shape.expand_as(rate).contiguous(), generator=generator) / shape
        return torch.poisson(rate, generator=generator)

    def expected(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Mean of log1p(count / size factor) of genes (..., genes) whose latent expression is normal.

        Over 25 pairs of quantiles of expression and size factor; counts by the delta method, to second order.
        """
        at = (torch.arange(5) + 0.5) / 5
        z = mean.unsqueeze(-1) + log_scale.exp().unsqueeze(-1) * torch.special.ndtri(at)
        size = self.log_sizes[(at * (N_SIZES - 1)).long()].exp()
        level = (self.shares.unsqueeze(1) * self.baseline).sum(0).unsqueeze(-1)
        rate = (level + z).clamp(max=_MOST).exp().unsqueeze(-1)  # of a cell of size factor 1
        variance = rate / size + self.dispersion[:, None, None] * rate.square()
        return (torch.log1p(rate) - 0.5 * variance / (1 + rate).square()).clamp_min(0.0).mean((-1, -2))

    def held(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of genes held at normalised log expression log1p(count / size factor): latent expression and log rate.

        The first is what children see, no lower than they have ever seen; the second is what is counted, minus
        infinity for a gene that is held at 0. NaN where nothing is held.
        """
        log_rate = torch.expm1(values.clamp_min(0.0)).log()
        mean = (self.shares.unsqueeze(1) * self.baseline).sum(0)
        return torch.maximum(log_rate - mean, self.lowest), torch.where(torch.isnan(values), values, log_rate)


class Posterior(TorchDistribution):
    """Normal approximation of the latent expression of cells.

    Parameters
    ----------
    center
        (cells, genes)
    factor
        (cells, genes, genes), lower triangular, `factor factor'` is the precision.
    """

    arg_constraints = {"center": constraints.real, "factor": constraints.real}  # noqa: RUF012 - torch's protocol
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, center: Tensor, factor: Tensor, validate_args: bool | None = None) -> None:
        self.center, self.factor = center, factor
        super().__init__(center.shape[:-1], center.shape[-1:], validate_args=False)

    def draw(self, noise: Tensor) -> Tensor:
        """(cells, genes) from standard normal `noise` of the same shape."""
        return self.center + torch.linalg.solve_triangular(self.factor.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # type: ignore[override] # noqa: B008
        return self.draw(torch.randn(sample_shape + self.center.shape).to(self.center))

    def log_prob(self, value: Tensor) -> Tensor:
        white = (self.factor.mT @ (value - self.center).unsqueeze(-1)).squeeze(-1)
        scale = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return scale - 0.5 * white.square().sum(-1) - 0.5 * white.shape[-1] * math.log(2 * math.pi)

    def variance_of_genes(self) -> Tensor:
        """(cells, genes) marginal variances."""
        return torch.cholesky_inverse(self.factor).diagonal(dim1=-2, dim2=-1)


class Residuals(NamedTuple):
    """Noise of cells under their mechanisms: left (cells, genes), precision (cells, genes), and its derivative.

    jacobian (cells, parent, child): of `left[:, child]` by `z[:, parent]`.
    """

    left: Tensor
    precision: Tensor
    jacobian: Tensor


#: From z (cells, genes) to what the model of z leaves.
ResidualsOf = Callable[[Tensor], Residuals]


@torch.no_grad()
def laplace(
    counting: Counting,
    counts: Tensor,
    log_size: Tensor,
    batch: Tensor,
    residuals: ResidualsOf,
    start: Tensor,
    n_steps: int,
) -> Posterior:
    """Posterior of the latent expression: Gauss-Newton steps to the mode, and the curvature there.

    Parameters
    ----------
    counting
        The measurement.
    counts, log_size, batch
        (cells, genes), (cells,), (cells,) long.
    residuals
        From z (cells, genes) to `Residuals`: the model of z.
    start
        (cells, genes)
    n_steps
        Steps.
    """
    z = start
    for step in range(n_steps + 1):
        gradient, information = counting.slope(counts, counting.log_rate(z, log_size, batch))
        left, precision, jacobian = residuals(z)
        curved = (jacobian * precision.unsqueeze(1)) @ jacobian.mT + torch.diag_embed(information)
        factor = torch.linalg.cholesky(curved)
        if step == n_steps:
            return Posterior(z, factor)
        gradient = gradient - (jacobian @ (precision * left).unsqueeze(-1)).squeeze(-1)
        move = torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
        z = z + move.clamp(-_STRIDE, _STRIDE)
    raise AssertionError("unreachable")


def mechanism_residuals(
    mechanisms: Mechanisms, graph: Tensor, targets: Tensor, parameters: dict[str, Tensor]
) -> ResidualsOf:
    """The model of z as `laplace` wants it: mechanisms along `graph` (genes, genes), replaced where cells are targeted.

    targets (cells, genes) bool; parameters: of the replaced mechanisms, each (cells, genes).
    """
    own_scale = mechanisms.total_log_scale()

    def residuals(z: Tensor) -> Residuals:
        location = mechanisms.location(z.unsqueeze(0), graph.unsqueeze(0))[0]
        derivative = mechanisms.derivative(z, graph)
        log_scale = own_scale.expand_as(z)
        if "shift" in parameters:
            location = torch.where(targets, location + parameters["shift"], location)
        elif parameters:
            location = torch.where(targets, parameters["mean"], location)
            log_scale = torch.where(targets, parameters["log_scale"], log_scale)
            derivative = derivative * (~targets).to(z).unsqueeze(1)
        jacobian = torch.eye(z.shape[1], dtype=z.dtype, device=z.device) - derivative
        return Residuals(z - location, torch.exp(-2 * log_scale), jacobian)

    return residuals
