"""Expectation and maximisation over the latent expression behind counts: what the structure search looks at (`own`).

The first expectation knows no graph: every condition has a normal of its own. The later ones stand on a structural
causal model with the graph and the targets that were found, additive in a few functions of the parents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scgim.model.counts import Counting
from scgim.model.posterior import WIDEST, Edges, Posterior, PriorOf, Residuals, ResidualsOf, laplace, rows_at_a_time

from .moments import N_BASIS, MomentScores, basis, basis_slope, moments

#: A condition's covariance counts as if so many of its cells had the pooled one.
_POOLED_CELLS = 20.0
#: So many cells' draws are held in double precision at once.
_AT_ONCE = 4096
#: Least variance of a noise, in squared log units.
_LEAST = 1e-2
#: Modelled genes move a log size factor by so many of the standard errors that the other genes leave at most.
_FARTHEST = 4.0


@dataclass
class LatentCells:
    """Cells whose latent expression is sought.

    counts (cells, genes); log_size (cells,); batch, condition (cells,) long; n_conditions; counting: the measurement.
    unit: counts of genes that are not modelled in a cell of size factor 1; None: size factors are certain.
    """

    counts: Tensor
    log_size: Tensor
    batch: Tensor
    condition: Tensor
    n_conditions: int
    counting: Counting
    unit: float | None = None

    def __post_init__(self) -> None:
        if self.unit is not None:
            self.told, self.others = self.log_size, self.log_size.exp() * self.unit
            self.log_size = self.told.clone()

    @property
    def n_genes(self) -> int:
        return int(self.counts.shape[1])

    @property
    def n_cells(self) -> Tensor:
        """(conditions,)"""
        return torch.bincount(self.condition, minlength=self.n_conditions).to(self.counts)

    def per_condition(self, values: Tensor) -> Tensor:
        """Sums over the cells of each condition."""
        out = values.new_zeros(self.n_conditions, *values.shape[1:])
        return out.index_add(0, self.condition, values)

    def parts(self) -> tuple[Tensor, ...]:
        """Rows of the cells, in parts that fit into memory."""
        return torch.arange(len(self.counts), device=self.counts.device).split(rows_at_a_time(self.n_genes))

    def update_sizes(self, rows: Tensor, z: Tensor, generator: torch.Generator | None = None) -> None:
        """Size factors of some cells given their expression z (those cells, genes): counts are Poisson, so a gamma's.

        A draw from that, or without a generator its mean. Read from few counts, size factors are noise that all genes
        of a cell share, and that looks like edges; modelled genes tell of it as well.
        """
        if self.unit is None:
            return
        counts, log_size, batch, others = self.counts[rows], self.log_size[rows], self.batch[rows], self.others[rows]
        # The expression of a gene that is not counted has no upper end: none counts for more than its counts allow.
        log_rate = self.counting.baseline[batch] + torch.minimum(z, self.counting.bounds(counts, log_size, batch)[1])
        excess = self.counting.mean_excess(counts, log_rate + log_size.unsqueeze(1))
        rate, shape = self.unit + (log_rate.exp() * excess).sum(1), others + counts.sum(1)
        drawn = shape if generator is None else torch._standard_gamma(shape.cpu(), generator=generator).to(shape)
        moved = ((drawn / rate).log() - self.told[rows]) * others.sqrt()  # in standard errors
        self.log_size[rows] = self.told[rows] + moved.clamp(-_FARTHEST, _FARTHEST) * others.rsqrt()

    def settled(self, rows: Tensor, residuals: PriorOf, found: Posterior, n_rounds: int = 4) -> Posterior:
        """The posterior of some cells with size factors at their means, in place, from one with other size factors."""
        for _ in range(0 if self.unit is None else n_rounds):
            variance = found.variance_of_genes()
            self.update_sizes(rows, found.location + 0.5 * variance.clamp(max=WIDEST))
            found = self.posterior(rows, residuals, found.location, 2, variance)
        return found

    def posterior(
        self, rows: Tensor, residuals: PriorOf, start: Tensor, n_steps: int, variance: Tensor | None = None
    ) -> Posterior:
        """Of some cells; start and, where it is nearly known, variance (those cells, genes)."""
        own = self.counts[rows], self.log_size[rows], self.batch[rows]
        return laplace(self.counting, *own, residuals, start, n_steps, variance)


@dataclass
class Latent:
    """What is known of the latent expression.

    mode (cells, genes); variance (cells, genes) marginal, of the posterior; draws (draws, cells, genes) float32.
    """

    mode: Tensor
    variance: Tensor
    draws: Tensor


class _Normal(NamedTuple):
    """A normal of each cell's condition: z less its mean (cells, genes), and precision (conditions, genes, genes)."""

    left: Tensor
    precision: Tensor
    condition: Tensor

    def gradient(self) -> Tensor:
        return -(self.curvature() @ self.left.unsqueeze(2)).squeeze(2)

    def curvature(self) -> Tensor:
        return self.precision[self.condition]


def without_graph(
    cells: LatentCells, n_draws: int, generator: torch.Generator, n_rounds: int = 15
) -> tuple[Latent, Tensor]:
    """Expectation under a normal per condition, its covariance shrunk to the pooled one; also prior variances."""
    d, n = cells.n_genes, cells.n_cells
    scaled = cells.counting.baseline[cells.batch].exp() * cells.log_size.exp().unsqueeze(1)
    mean = ((cells.per_condition(cells.counts) + 0.5) / (cells.per_condition(scaled) + 0.5)).log().clamp(-6, 6)
    covariance = 0.5 * torch.eye(d).to(mean).expand(cells.n_conditions, d, d)
    mode = mean[cells.condition].clone()
    latent = Latent(mode, torch.zeros_like(mode), mode.new_zeros(n_draws, *mode.shape, dtype=torch.float32))
    for step in range(n_rounds):
        precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        second = torch.zeros_like(covariance)
        for rows in cells.parts():
            k = cells.condition[rows]

            def prior(z: Tensor, k: Tensor = k, precision: Tensor = precision, mean: Tensor = mean) -> _Normal:
                return _Normal(z - mean[k], precision, k)

            known = latent.variance[rows] if step else None
            found = cells.posterior(rows, prior, latent.mode[rows], 2 if step else 8, known)
            spread = torch.cholesky_inverse(found.factor)
            latent.mode[rows], latent.variance[rows] = found.location, spread.diagonal(dim1=1, dim2=2)
            second.index_add_(0, k, found.location.unsqueeze(2) * found.location.unsqueeze(1) + spread)
            if step == n_rounds - 1:
                _keep(latent, found, rows, generator)
            elif cells.unit is not None:
                noise = torch.randn(len(rows), d, generator=generator, dtype=torch.float64).to(found.location)
                cells.update_sizes(rows, found.draw(noise), generator)
        mean = cells.per_condition(latent.mode) / n.clamp_min(1).unsqueeze(1)
        second = second - n[:, None, None] * mean.unsqueeze(2) * mean.unsqueeze(1)
        pooled = second.sum(0) / n.sum()
        covariance = (second + _POOLED_CELLS * pooled) / (n + _POOLED_CELLS)[:, None, None]
        covariance = covariance + 1e-4 * torch.eye(d).to(mean)
    return latent, covariance.diagonal(dim1=1, dim2=2)


def _keep(latent: Latent, found: Posterior, rows: Tensor, generator: torch.Generator) -> None:
    latent.mode[rows], latent.variance[rows] = found.location, found.variance_of_genes()
    for draw in latent.draws:
        noise = torch.randn(len(rows), draw.shape[1], generator=generator, dtype=torch.float64)
        draw[rows] = found.draw(noise.to(found.location)).to(draw)


class AdditiveModel:
    """A structural causal model, additive in the functions of the parents, with its targets.

    Parameters
    ----------
    scores
        With the moments from which it is estimated.
    graph, targets
        (genes, genes) bool, row = cause; (conditions, genes) bool.
    origin, scale
        (genes,) units in which the moments were taken.
    """

    def __init__(
        self, scores: MomentScores, graph: np.ndarray, targets: np.ndarray, origin: Tensor, scale: Tensor
    ) -> None:
        d, (self.origin, self.scale), self.shift = scores.n_genes, (origin, scale), scores.shift
        beta, bias, variance = np.zeros((d, N_BASIS, d)), np.zeros(d), np.zeros(d)
        level, spread = scores.mean.copy(), scores.variance.copy()
        for gene in range(d):
            parents = np.flatnonzero(graph[:, gene])
            fit = scores.regression(gene, frozenset(parents.tolist()))
            fit.refit(targets[:, gene])
            bias[gene], variance[gene] = fit.beta[0], fit.variance
            beta[parents, :, gene] = fit.beta[1:].reshape(-1, N_BASIS)
            if self.shift:
                level[:, gene], spread[:, gene] = fit.offset, fit.variance
        self.beta, self.bias = torch.as_tensor(beta).to(origin), torch.as_tensor(bias).to(origin)
        squared = scale.square()
        self.variance = (torch.as_tensor(variance).to(origin) * squared).clamp_min(_LEAST)
        self.targets = torch.as_tensor(targets).to(origin.device)
        self.edges = Edges(torch.as_tensor(graph, device=origin.device))
        self.level = torch.as_tensor(level).to(origin) * scale + (0.0 if self.shift else origin)
        self.spread = (torch.as_tensor(spread).to(origin) * squared).clamp_min(_LEAST)

    def location(self, z: Tensor) -> Tensor:
        """(cells, genes) of every gene given its parents."""
        functions = basis((z - self.origin) / self.scale).flatten(-2)
        return (functions @ self.beta.flatten(0, 1) + self.bias) * self.scale + self.origin

    def left(self, z: Tensor, condition: Tensor) -> Tensor:
        """(cells, genes) noise."""
        targets, level = self.targets[condition], self.level[condition]
        own = self.location(z)
        return z - torch.where(targets, own + level if self.shift else level, own)

    def residuals(self, condition: Tensor) -> ResidualsOf:
        """The model as `laplace` wants it, for cells of these conditions."""
        targets = self.targets[condition]
        precision = 1 / torch.where(targets, self.spread[condition], self.variance)
        parent, child = self.edges.parent, self.edges.child
        weight = self.beta[parent, :, child] * (self.scale[child] / self.scale[parent]).unsqueeze(1)

        def of(z: Tensor) -> Residuals:
            slope = (basis_slope((z - self.origin) / self.scale)[:, parent] * weight).sum(2)
            if not self.shift:
                slope = slope * ~targets[:, child]
            return Residuals(self.left(z, condition), precision, slope, self.edges)

        return of


def expect(
    cells: LatentCells,
    model: AdditiveModel,
    latent: Latent,
    generator: torch.Generator,
    n_steps: int = 2,
    settle: bool = False,
) -> None:
    """Expectation under a structural causal model; `latent` changes in place, and size factors.

    settle: these are then at their means, else another draw.
    """
    for rows in cells.parts():
        known, residuals = latent.variance[rows], model.residuals(cells.condition[rows])
        found = cells.posterior(rows, residuals, latent.mode[rows], n_steps, known if bool(known.any()) else None)
        if settle:
            found = cells.settled(rows, residuals, found)
        _keep(latent, found, rows, generator)
        if not settle:
            cells.update_sizes(rows, latent.draws[0, rows].to(found.location), generator)


def log_evidence(cells: LatentCells, model: AdditiveModel, latent: Latent) -> float:
    """Log likelihood of the counts, the latent expression integrated out by Laplace's approximation at its mode."""
    total = 0.0
    for rows in cells.parts():
        residuals = model.residuals(cells.condition[rows])
        found = cells.posterior(rows, residuals, latent.mode[rows], 1, latent.variance[rows])
        left, precision, *_ = residuals(found.location)
        prior = 0.5 * (precision.log() - math.log(2 * math.pi) - precision * left.square()).sum()
        rate = cells.counting.log_rate(found.location, cells.log_size[rows], cells.batch[rows])
        seen = cells.counting.log_prob(cells.counts[rows], rate).sum()
        total += float(prior + seen - found.log_prob(found.location).sum())
    return total


def information(model: AdditiveModel, cells: LatentCells, latent: Latent) -> tuple[Tensor, Tensor]:
    """Share of the complete information that the counts hold: on a gene's noise, and on the gene itself; both (genes,).

    Louis (1982): what is missing is the variance, under the posterior, of the score; that of a mean is the noise.
    """
    hidden, square = torch.zeros_like(model.variance), torch.zeros_like(model.variance)
    for rows in torch.arange(len(latent.mode)).split(_AT_ONCE):
        left = torch.stack([model.left(z[rows].to(latent.mode), cells.condition[rows]) for z in latent.draws])
        hidden, square = hidden + left.var(0).sum(0), square + left.square().mean(0).sum(0)
    noise = 1 - hidden / square
    return noise.clamp(0.02, 1.0), _reliability(latent)


def information_without_graph(latent: Latent, prior: Tensor, cells: LatentCells) -> tuple[Tensor, Tensor]:
    """The same where every gene is its condition's normal, with variances `prior` (conditions, genes)."""
    noise = 1 - latent.variance.mean(0) / prior[cells.condition].mean(0)
    return noise.clamp(0.02, 1.0), _reliability(latent)


def _reliability(latent: Latent) -> Tensor:
    whole = latent.draws.flatten(0, 1).var(0)
    return (1 - latent.variance.mean(0) / whole).clamp(0.02, 1.0)


def latent_moments(cells: LatentCells, latent: Latent, origin: Tensor, scale: Tensor) -> np.ndarray:
    """`moments` of the draws in these units."""
    return moments(latent.draws, cells.condition, cells.n_conditions, origin, scale)
