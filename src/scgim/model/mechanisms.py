"""One mechanism per gene: how a gene's expression follows from its parents' (model.md, step 2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from .._errors import InvalidValue
from .distributions import (
    normal_log_prob,
    outlier_log_prob,
    spread_log_prior,
    truncated_log_normal_mean,
    ziln_log_prob,
)

MechanismKind = Literal["linear", "mlp", "ziln"]
KINDS = ("linear", "mlp", "ziln")
#: Mechanisms of a latent expression behind counts (`scgim.model.Counting`), and their kind.
LATENT = {"count": "mlp", "count_linear": "linear"}
#: A gene's spread of log x counts as if so many of its cells had the spread of all genes together (`own`).
_POOLED_CELLS = 10.0
#: So many cells at most make up a gene's outliers where its tails are measured (`own`).
_EXTREME_CELLS = 3
#: Fewer cells have no shape to speak of.
_FEWEST = 20


def response_units(x: Tensor, ziln: bool) -> tuple[Tensor, Tensor]:
    """Centre and spread of every gene in `x` (cells, genes), both (genes,); of log x where x > 0 for ``ziln``.

    There, a gene that few cells show has no spread of its own to speak of: it is pooled with that of all genes.
    """
    if not ziln:
        return x.mean(0), x.std(0).clamp_min(1e-3)
    positive = x > 0
    count = positive.sum(0)
    log_x = torch.where(positive, x, torch.ones_like(x)).log()
    mean = log_x.sum(0) / count.clamp_min(1)
    squares = torch.where(positive, (log_x - mean).square(), torch.zeros_like(x)).sum(0)
    pooled = squares.sum() / count.sum().clamp_min(1)
    return mean, ((squares + _POOLED_CELLS * pooled) / (count + _POOLED_CELLS)).sqrt().clamp(0.05, 10.0)


def trust(x: Tensor) -> Tensor:
    """(genes,) weight of what cells say of a gene under a normal, from its shape in control cells `x` (cells, genes).

    Where values are skewed or have heavy tails, a mean and a spread that differ by chance look certain: the likelihood
    ratio is up to an eigenvalue times what it should be, of the covariance of its two scores in units of that under a
    normal (Kent 1982), which follows from skewness and kurtosis. The weight takes that back; for
    normal values it is 1. The few most extreme cells of a gene are left to the share of outliers.
    """
    if len(x) < _FEWEST:
        return x.new_ones(x.shape[1])
    left = x - x.mean(0)
    most = left.abs().sort(0).values[len(x) - _EXTREME_CELLS - 1]
    inner = (left.abs() <= most).to(x)
    second, third, fourth = ((inner * left**power).sum(0) / inner.sum(0) for power in (2, 3, 4))
    second, n = second.clamp_min(1e-30), len(x)
    # Less what their squares and itself are by chance, of n normal values.
    skewness = (third.square() / second**3 - 6 / n).clamp_min(0.0)
    spread = 0.5 * (fourth / second.square() - 1 - math.sqrt(24 / n))
    largest = 0.5 * (1 + spread + ((1 - spread).square() + 2 * skewness).sqrt())
    return 1 / largest.clamp(1.0, 1e3)


class Mechanisms(nn.Module):
    """All genes' mechanisms, evaluated together.

    - ``linear``: `N(theta_j . (G[:, j] * x), sigma_j^2)`
    - ``mlp``: `N(MLP_j(G[:, j] * x), sigma_j^2)`, one hidden layer of tanh units per gene
    - ``ziln``: zero with probability `pi_j`, else log-normal with location `MLP_j(G[:, j] * x)`

    Parents enter standardised and the location is measured in units of the gene's spread (`own`: it makes
    the priors N(0, 1) mean the same for every gene; a masked parent sits at its mean).

    Parameters
    ----------
    n_genes
        Number of genes.
    kind
        ``linear``, ``mlp`` or ``ziln``.
    hidden
        Hidden units per gene (`own`: 10).
    generator
        Randomness of the Glorot initialisation.
    """

    center: Tensor
    scale: Tensor
    response_center: Tensor
    response_scale: Tensor
    log_library: Tensor
    trust: Tensor

    def __init__(
        self,
        n_genes: int,
        kind: MechanismKind = "ziln",
        hidden: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InvalidValue(f"mechanism must be one of {', '.join(KINDS)}; got {kind!r}.")
        self.kind, self.n_genes, self.hidden = kind, n_genes, hidden

        def glorot(*shape: int, fan: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * math.sqrt(2.0 / fan))

        if kind == "linear":
            self.weight = glorot(n_genes, n_genes, fan=n_genes + 1)  # (parent, child)
        else:
            self.weight_in = glorot(n_genes, n_genes, hidden, fan=n_genes + hidden)  # (parent, child, hidden)
            self.bias_in = nn.Parameter(0.1 * torch.randn(n_genes, hidden, generator=generator))
            self.weight_out = glorot(n_genes, hidden, fan=hidden + 1)  # (child, hidden)
        self.bias = nn.Parameter(torch.zeros(n_genes))
        self.log_scale = nn.Parameter(torch.zeros(n_genes))  # relative to response_scale
        if kind == "ziln":
            self.zero_logit = nn.Parameter(torch.zeros(n_genes))
        for name in ("center", "response_center"):
            self.register_buffer(name, torch.zeros(n_genes))
        for name in ("scale", "response_scale", "trust"):
            self.register_buffer(name, torch.ones(n_genes))
        self.register_buffer("log_library", torch.full((1,), torch.inf))  # not of shape (): h5ad makes those float64

    @property
    def is_ziln(self) -> bool:
        return self.kind == "ziln"

    @torch.no_grad()
    def standardise(self, x: Tensor, control: Tensor | None = None) -> None:
        """Set the units from training cells `x` (cells, genes), and what a library holds (`log_library`).

        `control` (cells,) bool: from their shape follows how far normal mechanisms are trusted (`trust`: weight of
        a gene's log likelihood, `own`); ``ziln`` has zeros and skewness in its family.

        ``ziln`` describes log1p of normalised counts: those of a cell sum to no more than its library, whatever an
        exponential of log x would reach. The largest total over the modelled genes in any of the cells counts as that
        (`own`): it is known of data that came as log1p, too.
        """
        for buffers, units in (
            ((self.center, self.scale), response_units(x, ziln=False)),
            ((self.response_center, self.response_scale), response_units(x, self.is_ziln)),
        ):
            for buffer, value in zip(buffers, units, strict=True):
                buffer.copy_(value)
        if self.is_ziln:
            zero = (x <= 0).float().mean(0).clamp(1e-3, 1 - 1e-3)
            self.zero_logit.copy_(torch.logit(zero))
            counts = x.double() + torch.log(-torch.expm1(-x.double()))  # log of expm1, which may overflow
            self.log_library.copy_(torch.logsumexp(counts, 1).max())
        elif control is not None:
            self.trust.copy_(trust(x[control]))

    def location(self, x: Tensor, graph: Tensor) -> Tensor:
        """Location of every gene given its parents.

        Parameters
        ----------
        x
            (graphs, cells, genes)
        graph
            (graphs, genes, genes), row = cause.

        Returns
        -------
        (graphs, cells, genes): mean of x, or of log x for ``ziln``.
        """
        standard = (x - self.center) / self.scale
        if self.kind == "linear":
            out = torch.bmm(standard, graph * self.weight)  # (graphs, cells, genes)
        else:
            n_graphs, n_cells, n_genes = x.shape
            masked = graph.unsqueeze(-1) * self.weight_in  # (graphs, parent, child, hidden)
            hidden = torch.bmm(standard, masked.reshape(n_graphs, n_genes, -1))
            hidden = torch.tanh(hidden.view(n_graphs, n_cells, n_genes, self.hidden) + self.bias_in)
            out = (hidden * self.weight_out).sum(-1)
        return self.response_center + self.response_scale * (out + self.bias)

    def derivative(self, x: Tensor, graph: Tensor, parent: Tensor, child: Tensor) -> Tensor:
        """(cells, edges) derivative of the location of each `child` by its `parent` in `x` (cells, genes)."""
        weight = graph[parent, child] * self.response_scale[child] / self.scale[parent]
        if self.kind == "linear":
            return (self.weight[parent, child] * weight).expand(len(x), -1)
        masked = graph.unsqueeze(-1) * self.weight_in  # (parent, child, hidden)
        hidden = ((x - self.center) / self.scale) @ masked.reshape(self.n_genes, -1)
        hidden = torch.tanh(hidden.view(len(x), self.n_genes, self.hidden) + self.bias_in)
        slope = (1 - hidden.square()) * self.weight_out  # (cells, child, hidden)
        return (slope[:, child] * self.weight_in[parent, child]).sum(-1) * weight

    def expected(self, x: Tensor, graph: Tensor) -> Tensor:
        """(cells, genes) mean of every gene given its parents in `x` (cells, genes); one `graph` (1, genes, genes)."""
        location = self.location(x.unsqueeze(0), graph)[0]
        return self.mean_of(self.zero_logit, location, self.total_log_scale()) if self.is_ziln else location

    def mean_of(self, zero_logit: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Mean of a zero-inflated log-normal within what a library holds."""
        log_most = torch.nn.functional.softplus(self.log_library).log()
        return torch.sigmoid(-zero_logit) * truncated_log_normal_mean(mean, log_scale, log_most)

    def location_of(self, gene: int, x: Tensor, parents: Tensor) -> Tensor:
        """(cells,) location of one gene from its parents' columns; used in ancestral sampling."""
        standard = (x[:, parents] - self.center[parents]) / self.scale[parents]
        if self.kind == "linear":
            out = standard @ self.weight[parents, gene]
        else:
            hidden = torch.tanh(standard @ self.weight_in[parents, gene] + self.bias_in[gene])
            out = hidden @ self.weight_out[gene]
        return self.response_center[gene] + self.response_scale[gene] * (out + self.bias[gene])

    def total_log_scale(self) -> Tensor:
        """(genes,) log standard deviation of the noise, in data units (log units for ``ziln``)."""
        return self.log_scale + self.response_scale.log()

    def log_prob(self, x: Tensor, location: Tensor, zero_shift: Tensor | None = None) -> Tensor:
        """Log density of every entry of `x` under its undisturbed mechanism; shapes broadcast.

        `zero_shift` is added to the zero logit, of the zero-inflated log-normal only.
        """
        if self.is_ziln:
            zero_logit = self.zero_logit if zero_shift is None else self.zero_logit + zero_shift
            return ziln_log_prob(x, zero_logit, location, self.total_log_scale())
        return normal_log_prob(x, location, self.total_log_scale())

    def outlier_log_prob(self, x: Tensor) -> Tensor:
        """Log density of every entry of `x`, were it an outlier."""
        return outlier_log_prob(x, self.response_center, self.response_scale, self.is_ziln)

    def log_prior(self, scale: float = 1.0) -> Tensor:
        """`log N(theta; 0, scale^2)` and the prior of the spreads, up to a constant."""
        weights = sum((p.square().sum() for p in self.parameters()), start=torch.zeros(()))
        return spread_log_prior(self.log_scale).sum() - 0.5 / scale**2 * weights
