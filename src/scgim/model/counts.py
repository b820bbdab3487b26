"""Counting: from latent log expression to the counts of a cell; back leads `posterior` (`own`).

`z ~ p(z | G, theta, I)` is the GIM with normal mechanisms, and the counts are a measurement of it:

    y_ij ~ Poisson(l_i exp(b_j + z_ij)),    or negative binomial with the same mean and the dispersion r_j

A parent acts through its expression z, of which its count y tells little in a cell of low depth. The paper's
mechanisms for single cells (zero-inflated log-normal) are given the count instead. Zeros, depth and the growth of the
variance with the mean follow from counting (Aitchison & Ho 1989; Chiquet et al. 2021, for undirected networks).
"""

from __future__ import annotations

import numpy as np
import torch
from pyro.distributions import NegativeBinomial, Poisson, TorchDistribution
from torch import Tensor, nn

#: Log of the largest rate that is distinguished: counts stay below 2^24, from which float32 has gaps.
_MOST = 16.0
#: Log of a rate at which nothing is counted in thousands of cells: no posterior goes below, where nothing holds it.
_NOTHING = -8.0
#: Quantiles of the cells' size factors that are kept for new cells.
N_SIZES = 201
#: Means of log1p counts: nodes of the latent expression, size factors, and the grid of log rates from -_RAREST on.
_NODES, _SIZES, _RAREST, _GRID = 12, 9, 14.0, 0.05


class Counting(nn.Module):
    """The measurement: size factors of cells, rates of genes per batch, dispersion.

    Parameters
    ----------
    n_genes, n_batches, n_features
        Sizes. Without a batch column there is one batch; without features depth does not depend on the condition.

    Attributes
    ----------
    baseline
        (batches, genes) log rate of a gene in control cells of size factor 1, to begin with; a fit learns it.
    dispersion
        (genes,) of the negative binomial, variance = mean + dispersion * mean^2; 0: Poisson.
    log_sizes
        (N_SIZES,) quantiles of the training cells' log size factors, from which those of new cells are drawn; without
        what their conditions change.
    depth
        (features,) by how much a unit of each feature changes a cell's log size factor: drugs change how much RNA a
        cell holds, or which cells are left.
    lowest
        (genes,) lowest latent expression of a training cell: a gene held at no expression counts as that to its
        children, which have never seen less.
    highest
        (genes,) highest latent expression of a training cell: mechanisms of new cells go no further, where no count
        has been seen that they could be learned from.
    shares
        (batches,) of the training cells.
    """

    dispersion: Tensor
    log_sizes: Tensor
    depth: Tensor
    lowest: Tensor
    highest: Tensor
    shares: Tensor

    def __init__(self, n_genes: int, n_batches: int = 1, n_features: int = 0) -> None:
        super().__init__()
        self.baseline = nn.Parameter(torch.zeros(n_batches, n_genes), requires_grad=False)
        self.register_buffer("dispersion", torch.zeros(n_genes))
        self.register_buffer("log_sizes", torch.zeros(N_SIZES))
        self.register_buffer("depth", torch.zeros(n_features))
        self.register_buffer("lowest", torch.full((n_genes,), -3.0))
        self.register_buffer("highest", torch.full((n_genes,), torch.inf))
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

    def bounds(self, counts: Tensor, log_size: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest latent expression (cells, genes) under which counts are not all but impossible."""
        more = 3 * self.dispersion.sqrt()
        highest = (counts + 3 * (counts + 1).sqrt() + 2).log() + more
        lowest = torch.where(counts > 0, counts.log() - 3 * counts.rsqrt() - more, _NOTHING)
        unit = log_size.unsqueeze(-1) + self.baseline[batch]
        return lowest - unit, highest - unit

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

    def change_of_size(self, features: Tensor, membership: Tensor) -> Tensor:
        """(conditions,) change of a cell's log size factor, from features of parts (parts, p)."""
        return membership @ (features @ self.depth) if len(self.depth) else membership.new_zeros(len(membership))

    def draw_sizes(self, n_cells: int, generator: torch.Generator) -> Tensor:
        """(cells,) log size factors, as unperturbed training cells have them."""
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

    def mean_excess(self, counts: Tensor, log_rate: Tensor) -> Tensor:
        """By what the rate of an entry is multiplied on average, given its count: 1 of a Poisson."""
        return (1 + self.dispersion * counts) / (1 + self.dispersion * log_rate.exp())

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
