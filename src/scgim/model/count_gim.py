"""The generative intervention model behind counts (`own`): the paper's, with its cells hidden by counting.

    G, theta, I    as in `GIM`, with normal mechanisms
    z_i            ~ p(z | G, theta, I of the cell's condition)
    y_ij           ~ Poisson(l_i exp(b_j + z_ij))

Graph and targets were found by the search, marginal over z, and are held: the joint fit learns the mechanisms and the
effects given them, with the latent expression integrated out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro.distributions import Normal
from torch import Tensor

from .counts import Counting
from .gim import GIM, Batch, Objective
from .interventions import n_effects
from .posterior import Posterior, laplace, mechanism_residuals

#: Steps of Newton's method per step of the fit, from where a cell was last, and from afar.
_STEPS, _STEPS_FROM_AFAR = 1, 25


class CountGIM(GIM):
    """Generative intervention model of counts.

    Parameters
    ----------
    *arguments
        As for `GIM`; mechanisms must be normal (``linear`` or ``mlp``).
    counting
        The measurement.

    Attributes
    ----------
    mode
        (training cells, genes) where each cell's posterior was last; None outside of a fit.
    variance
        (training cells, genes) of the posterior at the start of the fit or when it was last refreshed, or None.
    """

    def __init__(self, *arguments: Any, counting: Counting) -> None:
        super().__init__(*arguments)
        self.counting = counting
        self.mode: Tensor | None = None
        self.variance: Tensor | None = None

    def hold_structure(self) -> None:
        """Learn no graph and no targets any more, but the baselines.

        Given the latent expression, little is left to learn of its level: a fit would hardly move along it, or drift.
        The baselines are the same direction, and learn it from the counts (parameter expansion, Liu, Rubin & Wu 1998).
        """
        self.counting.baseline.requires_grad_(True)
        self.graph.requires_grad_(False)
        for name, parameter in self.interventions.named_parameters():
            if name.startswith("target"):
                parameter.requires_grad_(False)

    @torch.no_grad()
    def refresh(self, parts: Iterable[tuple[Tensor, Batch]]) -> None:
        """Variances of the posteriors of cells under the present model; `parts`: rows and batch."""
        assert self.variance is not None
        for rows, batch in parts:
            self.variance[rows] = self.posterior(batch).variance_of_genes()

    @torch.no_grad()
    def finish(self, parts: Iterable[tuple[Tensor, Batch]], x: Tensor) -> None:
        """After a fit: `x` (cells, genes) becomes a draw of the latent expression of cells; `parts`: rows and batch.

        Baselines are held from now on, and the lowest expression is known.
        """
        self.counting.baseline.requires_grad_(False)
        lowest = torch.full_like(self.counting.lowest, torch.inf)
        for rows, batch in parts:
            found = self.posterior(batch)
            x[rows] = found.rsample()
            lowest = torch.minimum(lowest, found.location.min(0).values)
        self.counting.lowest.copy_(lowest)

    def held_graph(self) -> Tensor:
        """(1, genes, genes)"""
        return self.hard_graph().to(self.mechanisms.center).unsqueeze(0)

    # -- Pyro model and guide -----------------------------------------------------------------------------

    def model(
        self,
        batch: Batch,
        n_graphs: int = 1,
        objective: Objective = "elbo",
        target_sparsity: float | None = None,
    ) -> None:
        """Pyro model: effects, the latent expression of every cell, and its counts."""
        assert batch.counts is not None and batch.log_size is not None and batch.batch_code is not None
        sparsity = self.priors.target_sparsity if target_sparsity is None else target_sparsity
        noise = self._sample_effects(batch)
        pyro.factor("log_prior", self.log_prior(batch, sparsity))
        with pyro.plate("cells", len(batch.counts)), pyro.poutine.scale(scale=batch.weight):
            # The density of z is the factor "mechanisms", in which every gene is given its parents.
            z = pyro.sample("z", Normal(torch.zeros_like(batch.x), 1.0).to_event(1).mask(False))
            rate = self.counting.log_rate(z, batch.log_size, batch.batch_code)
            pyro.sample("counts", self.counting.distribution(rate).to_event(1), obs=batch.counts)
        prob, _, _ = self.condition_interventions(batch)
        targets = (prob > 0.5).to(z)
        cells = self.cell_log_likelihood(replace(batch, x=z), self.held_graph(), noise, targets=targets)
        pyro.factor("mechanisms", cells)

    def guide(
        self,
        batch: Batch,
        n_graphs: int = 1,
        objective: Objective = "elbo",
        target_sparsity: float | None = None,
    ) -> None:
        """Pyro guide: the latent expression from the normal nearest to its posterior under the present model.

        It has no parameters of its own: the fit is an EM algorithm with draws (Wei & Tanner 1990), every step of which
        improves the bound given the posterior. Its entropy moves nothing, and makes the loss that bound.
        """
        self._sample_effects(batch)
        posterior = self.posterior(batch, late=self.mode is not None)
        with pyro.plate("cells", len(batch.x)), pyro.poutine.scale(scale=batch.weight):
            pyro.sample("z", posterior)

    def _sample_effects(self, batch: Batch) -> Tensor:
        k = n_effects(self.intervention, ziln=False)
        zero = batch.x.new_zeros(batch.features.shape[0], self.graph.n_genes, k)
        return pyro.sample("effects_noise", Normal(zero, 1.0).to_event(3).mask(False))

    # -- posterior ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def posterior(self, batch: Batch, late: bool = False) -> Posterior:
        """Of the latent expression of cells under their conditions; goes on from `mode` where it has been.

        late: as in `laplace`.
        """
        assert batch.counts is not None and batch.log_size is not None and batch.batch_code is not None
        prob, effects, _ = self.condition_interventions(batch)
        targets = (prob > 0.5)[batch.condition]
        parameters = {name: value[batch.condition] for name, value in self.replaced_parameters(effects).items()}
        known = self.mode is not None and batch.index is not None
        start = self.mode[batch.index] if known else torch.zeros_like(batch.counts)  # type: ignore[index]
        out = laplace(
            self.counting, batch.counts, batch.log_size, batch.batch_code,
            mechanism_residuals(self.mechanisms, self.held_graph()[0], targets, parameters, self.held(batch)),
            start, _STEPS if known else _STEPS_FROM_AFAR,
            self.variance[batch.index] if known and self.variance is not None else None, late,
        )  # fmt: skip
        if known:
            self.mode[batch.index] = out.location  # type: ignore[index]
        return out

    def held(self, batch: Batch) -> Tensor | None:
        """(cells, genes) latent expression of genes that a cell's condition holds at a known value, NaN elsewhere."""
        if batch.known_values is None:
            return None
        value, _ = self.counting.held(batch.known_values)  # (parts, genes)
        known = ~torch.isnan(batch.known_values)
        total = batch.membership @ known.to(value)
        mean = (batch.membership @ torch.where(known, value, torch.zeros_like(value))) / total
        return mean[batch.condition]  # parts that hold one gene at two values: halfway

    @torch.no_grad()
    def evidence(self, batch: Batch) -> Tensor:
        """(cells,) log likelihood of the counts, the latent expression integrated out by Laplace's approximation."""
        assert batch.counts is not None and batch.log_size is not None and batch.batch_code is not None
        z = self.posterior(batch)
        prob, effects, fixed = self.condition_interventions(batch)
        own, replaced = self.gene_log_likelihoods(z.location, batch.condition, self.held_graph(), effects)
        if fixed is not None:
            replaced = torch.where(fixed[batch.condition], torch.zeros_like(replaced), replaced)
        prior = torch.where((prob > 0.5)[batch.condition], replaced, own).sum(1)
        rate = self.counting.log_rate(z.location, batch.log_size, batch.batch_code)
        return prior + self.counting.log_prob(batch.counts, rate).sum(1) - z.log_prob(z.location)
