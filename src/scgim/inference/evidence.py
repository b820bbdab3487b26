"""Evidence for targets behind counts, under a fitted model (`own`)."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scgim._rng import torch_generator
from scgim.model import CountGIM, mechanism_residuals
from scgim.model.posterior import ResidualsOf

from .changes import NoiseSums, bounded, changes_of_targets
from .data import TrainingData
from .latent import LatentCells

#: Draws from the posterior of each cell, and steps of Newton's method to its mode.
_DRAWS, _STEPS = 8, 15


class FittedMechanisms:
    """The mechanisms of a fitted model and the interventions of its conditions, in float64 (see `changes.Mechanisms`).

    Parameters
    ----------
    gim
        The model.
    graph
        (genes, genes) bool, row = cause.
    data
        Its conditions.
    """

    def __init__(self, gim: CountGIM, graph: np.ndarray, data: TrainingData) -> None:
        self.mechanisms = copy.deepcopy(gim.mechanisms).double()
        self.graph = torch.as_tensor(graph, dtype=torch.float64)
        self.shift = gim.intervention == "shift"
        conditions = replace(data.batch(data.condition[:0], data.x[:0, 0]), condition=torch.arange(data.n_conditions))
        prob, effects, _ = gim.condition_interventions(conditions)
        self.targets = prob > 0.5
        self.parameters = {name: value.double() for name, value in gim.replaced_parameters(effects).items()}
        self.variance = torch.exp(2 * self.mechanisms.total_log_scale())
        self.level = self.parameters["shift" if self.shift else "mean"]
        self.spread = self.variance.expand_as(self.level)
        if not self.shift:
            self.spread = torch.exp(2 * self.parameters["log_scale"])
        self.held = gim.held(conditions)
        if self.held is not None and not self.shift:
            self.level = torch.where(torch.isnan(self.held), self.level, self.held.double())

    def location(self, z: Tensor) -> Tensor:
        """(cells, genes) of every gene given its parents."""
        return self.mechanisms.location(z.unsqueeze(0), self.graph.unsqueeze(0))[0]

    def left(self, z: Tensor, condition: Tensor) -> Tensor:
        """(cells, genes) noise."""
        own, level = self.location(z), self.level[condition]
        return z - torch.where(self.targets[condition], own + level if self.shift else level, own)

    def residuals(self, condition: Tensor) -> ResidualsOf:
        """The model as `laplace` wants it, for cells of these conditions."""
        own = {name: value[condition] for name, value in self.parameters.items()}
        held = None if self.held is None else self.held[condition].double()
        return mechanism_residuals(self.mechanisms, self.graph, self.targets[condition], own, held)


@torch.no_grad()
def count_changes(gim: CountGIM, graph: np.ndarray, data: TrainingData) -> np.ndarray:
    """(conditions, genes) changes that the parents leave, in standard errors (`changes_of_targets`), of all cells.

    The expectation is over the latent expression given the counts, under the fitted model with its targets.
    """
    data = data.sorted_by_cell()
    assert data.counts is not None and data.log_size is not None and data.batch_code is not None
    counting = copy.deepcopy(gim.counting).double()
    counts, log_size = data.counts.double(), data.log_size.double()
    cells = LatentCells(counts, log_size, data.batch_code, data.condition, data.n_conditions, counting, data.unit)
    model, generator = FittedMechanisms(gim, graph, data), torch_generator(0)
    zeros = counts.new_zeros(data.n_conditions, data.n_genes)
    sums, mode = NoiseSums(zeros, zeros, zeros, zeros), torch.zeros_like(counts)
    for rows in cells.parts():
        condition = data.condition[rows]
        rate = counting.log_rate(torch.zeros_like(counts[rows]), cells.log_size[rows], data.batch_code[rows]).exp()
        start = ((counts[rows] + 0.5) / (rate + 0.5)).log()
        found = cells.posterior(rows, model.residuals(condition), start, _STEPS)
        found = cells.settled(rows, model.residuals(condition), found)
        mode[rows] = found.location
        noise = torch.randn(_DRAWS, *start.shape, generator=generator, dtype=torch.float64)
        draws = torch.stack([found.draw(one) for one in noise])
        sums = sums.plus(NoiseSums.of(model, condition, data.n_conditions, found.location, draws))
    change = changes_of_targets(model, sums, cells.n_cells, data.membership.sum(1) == 0)
    return bounded(change, model, cells, mode).numpy()
