"""Cells from a fitted model: ancestral sampling, and counterfactuals by abduction, action, prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .acyclicity import topological_order
from .gim import GIM


@dataclass(frozen=True)
class Noise:
    """Exogenous noise of cells: `normal` (cells, genes) standard normal, `uniform` (cells, genes) or None."""

    normal: Tensor
    uniform: Tensor | None


@dataclass(frozen=True)
class Action:
    """What is done to each cell.

    targets (cells, genes) bool; parameters: those of the replaced mechanisms, each (cells, genes); values
    (cells, genes): genes held at a value (`do`), NaN elsewhere.
    """

    targets: Tensor
    parameters: dict[str, Tensor]
    values: Tensor | None = None


def draw_noise(gim: GIM, n_cells: int, generator: torch.Generator) -> Noise:
    """Noise for `n_cells` new cells, drawn on the generator's device."""
    shape = (n_cells, gim.graph.n_genes)
    device = generator.device
    normal = torch.randn(shape, generator=generator, device=device)
    uniform = torch.rand(shape, generator=generator, device=device) if gim.mechanisms.is_ziln else None
    return Noise(normal, uniform)


@torch.no_grad()
def draw_action(
    gim: GIM,
    target_prob: Tensor,
    effects: Tensor,
    n_cells: int,
    generator: torch.Generator,
    values: Tensor | None = None,
) -> Action:
    """Each cell's atomic interventions from one condition's distribution: t ~ Bernoulli, psi ~ Normal.

    Parameters
    ----------
    gim
        The model.
    target_prob, effects
        (genes,) and (genes, k), of the condition.
    n_cells
        Number of cells.
    generator
        Randomness, on the CPU.
    values
        (genes,) genes held at a value, NaN elsewhere; or None.
    """
    draw = torch.rand(n_cells, len(target_prob), generator=generator)
    noise = torch.randn(n_cells, *effects.shape, generator=generator)
    psi = effects + gim.priors.effect_noise * noise
    held = None if values is None else values.expand(n_cells, -1)
    return Action(draw < target_prob, gim.replaced_parameters(psi), held)


@torch.no_grad()
def propagate(gim: GIM, graph: np.ndarray, noise: Noise, action: Action | None) -> Tensor:
    """Push noise through the (changed) mechanisms in topological order; (cells, genes).

    Parameters
    ----------
    gim
        The model.
    graph
        (genes, genes) bool DAG, row = cause.
    noise, action
        Of the cells; without an action they are unperturbed.
    """
    mechanisms = gim.mechanisms
    x = torch.zeros_like(noise.normal)
    scale = mechanisms.total_log_scale().exp()
    for gene in topological_order(graph):
        parents = torch.as_tensor(np.flatnonzero(graph[:, gene]), device=x.device)
        location = mechanisms.location_of(gene, x, parents)
        spread = scale[gene].expand_as(location)
        zero_logit = mechanisms.zero_logit[gene].expand_as(location) if mechanisms.is_ziln else None
        if action is not None:
            hit = action.targets[:, gene]
            new = {name: value[:, gene] for name, value in action.parameters.items()}
            if "shift" in new:
                location = torch.where(hit, location + new["shift"], location)
                if zero_logit is not None:
                    zero_logit = torch.where(hit, zero_logit + new["zero_shift"], zero_logit)
            elif new:
                location = torch.where(hit, new["mean"], location)
                spread = torch.where(hit, new["log_scale"].exp(), spread)
                if zero_logit is not None:
                    zero_logit = torch.where(hit, new["zero_logit"], zero_logit)
        value = location + spread * noise.normal[:, gene]
        if zero_logit is not None and noise.uniform is not None:
            zero = noise.uniform[:, gene] < torch.sigmoid(zero_logit)
            value = torch.where(zero, torch.zeros_like(value), value.exp())
        if action is not None and action.values is not None:
            held = action.values[:, gene]
            value = torch.where(torch.isnan(held), value, held)
        x[:, gene] = value
    return x


@torch.no_grad()
def abduct(gim: GIM, graph: np.ndarray, x: Tensor, generator: torch.Generator) -> Noise:
    """The noise that produced observed cells under the undisturbed mechanisms.

    Continuous parts are inverted exactly. For the zero-inflated log-normal a zero hides its log-normal noise,
    which is drawn from its posterior (the prior, as the two are independent), and the uniform that decided
    on the zero is drawn from the interval that agrees with what was seen.
    """
    mechanisms = gim.mechanisms
    adjacency = torch.as_tensor(graph, dtype=x.dtype, device=x.device).unsqueeze(0)
    location = mechanisms.location(x.unsqueeze(0), adjacency)[0]
    scale = mechanisms.total_log_scale().exp()
    if not mechanisms.is_ziln:
        return Noise((x - location) / scale, None)
    positive = x > 0
    hidden = torch.randn(x.shape, generator=generator, device=x.device)
    seen = (torch.where(positive, x, torch.ones_like(x)).log() - location) / scale
    pi = gim.zero_probability()
    draw = torch.rand(x.shape, generator=generator, device=x.device)
    uniform = torch.where(positive, pi + (1 - pi) * draw, pi * draw)
    return Noise(torch.where(positive, seen, hidden), uniform)


@torch.no_grad()
def counterfactual(gim: GIM, graph: np.ndarray, x: Tensor, action: Action, generator: torch.Generator) -> Tensor:
    """The same cells under `action`; genes without a targeted ancestor keep their value exactly."""
    changed = propagate(gim, graph, abduct(gim, graph, x, generator), action)
    return torch.where(touched_genes(graph, action), changed, x)


def touched_genes(graph: np.ndarray, action: Action) -> Tensor:
    """(cells, genes) bool: the gene is targeted, or has a targeted ancestor."""
    touched = action.targets.clone()
    if action.values is not None:
        touched |= ~torch.isnan(action.values)
    for gene in topological_order(graph):
        parents = np.flatnonzero(graph[:, gene])
        if parents.size:
            touched[:, gene] |= touched[:, torch.as_tensor(parents, device=touched.device)].any(1)
    return touched
