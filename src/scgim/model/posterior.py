"""Posterior of the latent expression behind counts: the nearest normal, under any model of the expression (`own`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from .counts import Counting
from .mechanisms import Mechanisms

#: Log of the spread of what is held at a value: hardly any.
_HELD = -5.0
#: A step of Newton's method moves an expression by no more than so many log units.
_STRIDE = 1.0
#: Variance of a latent expression, of its normal, that slopes are averaged over at most: steps do not swing.
WIDEST = 2.0


class Posterior(TorchDistribution):
    """Normal approximation of the latent expression of cells.

    Parameters
    ----------
    location
        (cells, genes)
    factor
        (cells, genes, genes), lower triangular, `factor factor'` is the precision.
    bounds
        (cells, genes) each, which no draw passes; or None. A normal around a count of 0 knows of no end upwards where
        its gene is predicted by steep mechanisms of genes that are hardly known themselves.
    """

    arg_constraints = {"location": constraints.real, "factor": constraints.real}  # noqa: RUF012 - torch's protocol
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        location: Tensor,
        factor: Tensor,
        bounds: tuple[Tensor, Tensor] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.location, self.factor, self.bounds = location, factor, bounds
        super().__init__(location.shape[:-1], location.shape[-1:], validate_args=False)

    def draw(self, noise: Tensor) -> Tensor:
        """(cells, genes) from standard normal `noise` of the same shape."""
        move = torch.linalg.solve_triangular(self.factor.mT, noise.unsqueeze(-1), upper=True)
        out = self.location + move.squeeze(-1)
        return out if self.bounds is None else torch.clamp(out, *self.bounds)

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


def _root(precision: Tensor) -> Tensor:
    """Cholesky factors. A gene that its parents nearly determine may make a matrix singular but for rounding."""
    factor, failed = torch.linalg.cholesky_ex(precision)
    for ridge in (1e-6, 1e-4, 1e-2):
        if not bool(failed.any()):
            return factor
        own = precision.diagonal(dim1=-2, dim2=-1)
        factor, failed = torch.linalg.cholesky_ex(precision + torch.diag_embed(ridge * own))
    if bool(failed.any()):
        raise FloatingPointError(
            "The expression behind the counts stopped being finite. Try a smaller learning_rate; look for cells with "
            "extreme counts, or genes that are hardly ever counted."
        )
    return factor


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
        own += counting.slope(counts, log_rate, variance.clamp(max=WIDEST))[1]
        factor = _root(precision)
        if step == n_steps:
            return Posterior(z, factor)
        if not settled:
            variance = torch.linalg.solve_triangular(factor, identity, upper=False).square().sum(-2)
        slope, _ = counting.slope(counts, log_rate, variance.clamp(max=WIDEST))
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
