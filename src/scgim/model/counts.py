"""Counting: from latent log expression to the counts of a cell, and back by a normal approximation (`own`).

`z ~ p(z | G, theta, I)` is the GIM with normal mechanisms, and the counts are a measurement of it:

    y_ij ~ Poisson(l_i exp(b_j + z_ij)),    or negative binomial with the same mean and the dispersion r_j

A parent acts through its expression z, of which its count y tells little in a cell of low depth. The paper's
mechanisms for single cells (zero-inflated log-normal) are given the count instead. Zeros, depth and the growth of the
variance with the mean follow from counting (Aitchison & Ho 1989; Chiquet et al. 2021, for undirected networks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

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
#: Means of log1p counts: nodes of the latent expression, size factors, and the grid of log rates from -_RAREST on.
_NODES, _SIZES, _RAREST, _GRID = 12, 9, 14.0, 0.05
#: Log of the spread of what is held at a value: hardly any.
_HELD = -5.0
#: A step of Newton's method moves an expression by no more than so many log units.
_STRIDE = 1.0
#: Variance of a latent expression, of its normal, that slopes are averaged over at most: steps do not swing.
_WIDEST = 2.0


class Counting(nn.Module):
    """The measurement: size factors of cells, rates of genes per batch, dispersion.

    Parameters
    ----------
    n_genes, n_batches
        Sizes. Without a batch column there is one batch.

    Attributes
    ----------
    baseline
        (batches, genes) log rate of a gene in control cells of size factor 1, to begin with; a fit learns it.
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

    dispersion: Tensor
    log_sizes: Tensor
    lowest: Tensor
    shares: Tensor

    def __init__(self, n_genes: int, n_batches: int = 1) -> None:
        super().__init__()
        self.baseline = nn.Parameter(torch.zeros(n_batches, n_genes), requires_grad=False)
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

    def slope(self, counts: Tensor, log_rate: Tensor, variance: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Derivative of the log likelihood by z, and what a count is expected to tell of z (Fisher information).

        Both are means over a normal z with this `variance`: exact of a Poisson, to second order else.
        """
        spread = self.dispersion * log_rate.exp()
        rate = (log_rate + 0.5 * variance * (1 - spread) / (1 + spread)).exp()
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

    def draw_excess(self, counts: Tensor, log_rate: Tensor, generator: torch.Generator) -> Tensor:
        """By what the rate of an entry was multiplied, given its count: 1 of a Poisson, else a gamma's posterior."""
        if not bool((self.dispersion > 0).any()):
            return torch.ones_like(counts)
        shape = 1 / self.dispersion.clamp_min(1e-6)
        return torch._standard_gamma(shape + counts, generator=generator) / (shape + log_rate.exp())

    def expected(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Mean of log1p(count / size factor) of genes (..., genes) whose latent expression is normal.

        Over batches and size factors as the training cells have them; expression by Gauss-Hermite quadrature.
        """
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        z = mean.unsqueeze(-2) + log_scale.exp().unsqueeze(-2) * torch.as_tensor(nodes).to(mean).unsqueeze(-1)
        return (self.mean_at(z) * torch.as_tensor(weights / weights.sum()).to(mean).unsqueeze(-1)).sum(-2)

    def mean_at(self, z: Tensor) -> Tensor:
        """Mean of log1p(count / size factor) of genes whose latent expression is `z` (..., genes)."""
        curve, at = self._mean_curve()
        return sum(
            (share * _read(curve, at, level + z) for share, level in zip(self.shares, self.baseline, strict=True)),
            start=torch.zeros_like(z),
        )

    def mean_at_rate(self, log_rate: Tensor) -> Tensor:
        """The same where the log rate of a cell of size factor 1 is known (..., genes); minus infinity gives 0."""
        curve, at = self._mean_curve()
        return _read(curve, at, log_rate)

    def _mean_curve(self) -> tuple[Tensor, Tensor]:
        """Mean of log1p(count / size factor) on a grid of log rates at size factor 1, (genes, grid), and that grid.

        As log1p(y) is the integral of (1 - exp(-y s)) exp(-s) / s over s, and the mean of exp(-y s) is known of a
        Poisson and of a negative binomial, their means follow from one smooth integral over log s.
        """
        at = torch.arange(-_RAREST, _MOST + _GRID, _GRID, dtype=torch.float64)
        u = torch.arange(-24.0, 4.0, 0.25, dtype=torch.float64)  # log s
        dispersion, which = torch.unique(self.dispersion.double().cpu(), return_inverse=True)
        curve = torch.zeros(len(dispersion), len(at), dtype=torch.float64)
        places = ((np.arange(_SIZES) + 0.5) / _SIZES * (N_SIZES - 1)).round().astype(int)
        for size in self.log_sizes.double().cpu()[places].exp():
            fewer = (at.exp() * size).unsqueeze(-1) * -torch.expm1(-u.exp() / size)  # (grid, u)
            for row, r in enumerate(dispersion.tolist()):
                log_mean = -torch.log1p(r * fewer) / r if r > 0 else -fewer
                curve[row] += (-torch.expm1(log_mean) * (-u.exp()).exp()).sum(-1) * 0.25 / _SIZES
        return curve[which].to(self.baseline), at.to(self.baseline)

    def held(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of genes held at normalised log expression log1p(count / size factor): latent expression and log rate.

        The first is what children see, no lower than they have ever seen; the second is what is counted, minus
        infinity for a gene that is held at 0. NaN where nothing is held.
        """
        log_rate = torch.expm1(values.clamp_min(0.0)).log()
        mean = (self.shares.unsqueeze(1) * self.baseline).sum(0)
        return torch.maximum(log_rate - mean, self.lowest), torch.where(torch.isnan(values), values, log_rate)


def _read(curve: Tensor, at: Tensor, log_rate: Tensor) -> Tensor:
    """Curves (genes, grid) on the grid `at`, read linearly at the log rates (..., genes)."""
    place = ((log_rate - at[0]) / (at[1] - at[0])).clamp(0.0, len(at) - 1.001)
    low = place.long()
    gene = torch.arange(len(curve), device=curve.device).expand_as(low)
    value = torch.lerp(curve[gene, low], curve[gene, low + 1], place - low)
    return torch.where(torch.isneginf(log_rate), torch.zeros_like(value), value)


class Posterior(TorchDistribution):
    """Normal approximation of the latent expression of cells.

    Parameters
    ----------
    location
        (cells, genes)
    factor
        (cells, genes, genes), lower triangular, `factor factor'` is the precision.
    """

    arg_constraints = {"location": constraints.real, "factor": constraints.real}  # noqa: RUF012 - torch's protocol
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, location: Tensor, factor: Tensor, validate_args: bool | None = None) -> None:
        self.location, self.factor = location, factor
        super().__init__(location.shape[:-1], location.shape[-1:], validate_args=False)

    def draw(self, noise: Tensor) -> Tensor:
        """(cells, genes) from standard normal `noise` of the same shape."""
        move = torch.linalg.solve_triangular(self.factor.mT, noise.unsqueeze(-1), upper=True)
        return self.location + move.squeeze(-1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # type: ignore[override] # noqa: B008
        return self.draw(torch.randn(sample_shape + self.location.shape).to(self.location))

    def log_prob(self, value: Tensor) -> Tensor:
        white = (self.factor.mT @ (value - self.location).unsqueeze(-1)).squeeze(-1)
        scale = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return scale - 0.5 * white.square().sum(-1) - 0.5 * white.shape[-1] * math.log(2 * math.pi)

    def variance_of_genes(self) -> Tensor:
        """(cells, genes) marginal variances."""
        return torch.cholesky_inverse(self.factor).diagonal(dim1=-2, dim2=-1)


class Edges:
    """Edges of a graph: `parent` and `child` (edges,) of each; and which genes meet in a child."""

    def __init__(self, graph: Tensor) -> None:
        self.n_genes = len(graph)
        self.parent, self.child = torch.nonzero(graph).unbind(1)
        genes = torch.arange(self.n_genes, device=graph.device)
        gene, child = torch.cat([genes, self.parent]), torch.cat([genes, self.child])
        # Pairs of the entries of one column of the jacobian, each pair of genes once.
        meet = (child.unsqueeze(1) == child) & (gene.unsqueeze(1) >= gene)
        self.one, self.other = torch.nonzero(meet).unbind(1)
        self.column, self.place = child, gene[self.one] * self.n_genes + gene[self.other]


class Residuals(NamedTuple):
    """Noise of cells under their mechanisms: left (cells, genes), precision (cells, genes), and its derivative.

    slope (cells, edges): of the location of a child by its parent, along `edges`.
    """

    left: Tensor
    precision: Tensor
    slope: Tensor
    edges: Edges

    def gradient(self) -> Tensor:
        """(cells, genes) of the log density by z."""
        force = self.precision * self.left
        return (-force).index_add(1, self.edges.parent, self.slope * force[:, self.edges.child])

    def curvature(self) -> Tensor:
        """(cells, genes, genes) minus its second derivative (Gauss-Newton), lower triangle; a new tensor.

        The sum over genes of what a gene tells of itself and its few parents.
        """
        n, edges = len(self.left), self.edges
        jacobian = torch.cat([torch.ones_like(self.left), -self.slope], 1)
        told = (jacobian * self.precision[:, edges.column])[:, edges.one] * jacobian[:, edges.other]
        out = told.new_zeros(n, edges.n_genes**2).scatter_add_(1, edges.place.expand(n, -1), told)
        return out.view(n, edges.n_genes, edges.n_genes)


class Prior(Protocol):
    """A model of z around where cells are, as `Residuals` is one."""

    def gradient(self) -> Tensor: ...

    def curvature(self) -> Tensor: ...


def rows_at_a_time(n_genes: int) -> int:
    """So many cells, whose matrices (cells, genes, genes) fit well into memory."""
    return max(16, 4_000_000 // n_genes**2)


#: From z (cells, genes) to what the model of z leaves, or else says around it.
ResidualsOf = Callable[[Tensor], Residuals]
PriorOf = Callable[[Tensor], Prior]


@torch.no_grad()
def laplace(
    counting: Counting,
    counts: Tensor,
    log_size: Tensor,
    batch: Tensor,
    residuals: PriorOf,
    start: Tensor,
    n_steps: int,
    variance: Tensor | None = None,
    late: bool = False,
) -> Posterior:
    """Normal that is nearest to the posterior of the latent expression, by Gauss-Newton steps.

    Laplace's approximation stands at the mode, which is far above the mean where little is counted: a count of 0 is as
    likely at any low rate. Here slope and curvature are means over the normal itself (a variational approximation,
    Opper & Archambeau 2009; Chiquet et al. 2018 for the Poisson log-normal), whose mean is then hardly biased.

    Parameters
    ----------
    counting
        The measurement.
    counts, log_size, batch
        (cells, genes), (cells,), (cells,) long.
    residuals
        From z (cells, genes) to `Residuals`, or another `Prior`: the model of z.
    start
        (cells, genes)
    n_steps
        Steps.
    variance
        (cells, genes) of the posterior as it was last, where that is known: it is then not sought anew in every step.
    late
        The precision is that before the last step, where this hardly moves: it then needs no matrix of its own.
    """
    z, settled = start, variance is not None
    identity = torch.eye(start.shape[1], dtype=start.dtype, device=start.device)
    for step in range(n_steps + 1):
        log_rate = counting.log_rate(z, log_size, batch)
        prior = residuals(z)
        precision = prior.curvature()
        own = precision.diagonal(dim1=-2, dim2=-1)
        if variance is None:  # of a gene whose neighbours are known
            variance = 1 / (own + counting.slope(counts, log_rate)[1])
        own += counting.slope(counts, log_rate, variance.clamp(max=_WIDEST))[1]
        factor = torch.linalg.cholesky(precision)
        if step == n_steps:
            return Posterior(z, factor)
        if not settled:
            variance = torch.linalg.solve_triangular(factor, identity, upper=False).square().sum(-2)
        slope, _ = counting.slope(counts, log_rate, variance.clamp(max=_WIDEST))
        move = torch.cholesky_solve((slope + prior.gradient()).unsqueeze(-1), factor).squeeze(-1)
        z = z + move.clamp(-_STRIDE, _STRIDE)
        if late and step == n_steps - 1:
            return Posterior(z, factor)
    raise AssertionError("unreachable")


def mechanism_residuals(
    mechanisms: Mechanisms,
    graph: Tensor,
    targets: Tensor,
    parameters: dict[str, Tensor],
    held: Tensor | None = None,
) -> ResidualsOf:
    """The model of z as `laplace` wants it: mechanisms along `graph` (genes, genes), replaced where cells are targeted.

    targets (cells, genes) bool; parameters: of the replaced mechanisms, each (cells, genes); held (cells, genes):
    latent expression of genes that are held at a value, NaN elsewhere.
    """
    own_scale, edges = mechanisms.total_log_scale(), Edges(graph)
    free = None if held is None else torch.isnan(held)

    def residuals(z: Tensor) -> Residuals:
        location = mechanisms.location(z.unsqueeze(0), graph.unsqueeze(0))[0]
        slope = mechanisms.derivative(z, graph, edges.parent, edges.child)
        log_scale = own_scale.expand_as(z)
        if "shift" in parameters:
            location = torch.where(targets, location + parameters["shift"], location)
        elif parameters:
            location = torch.where(targets, parameters["mean"], location)
            log_scale = torch.where(targets, parameters["log_scale"], log_scale)
            slope = slope * ~targets[:, edges.child]
        if held is not None and free is not None:
            location = torch.where(free, location, held)
            log_scale = torch.where(free, log_scale, _HELD)
            slope = slope * free[:, edges.child]
        return Residuals(z - location, torch.exp(-2 * log_scale), slope, edges)

    return residuals
