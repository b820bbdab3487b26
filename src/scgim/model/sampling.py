"""Cells from a fitted model: ancestral sampling, and counterfactuals by abduction, action, prediction."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scgim._dag import topological_order
from scgim._errors import InvalidType

from .count_gim import CountGIM
from .distributions import truncate, untruncate
from .gim import GIM

logger = logging.getLogger("scgim")

#: Counts that are left of a full library: log x stays finite.
_LEAST = 1e-6


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


class _Library:
    """What is left of each cell's library (zero-inflated log-normal only), gene by gene in topological order."""

    def __init__(self, gim: GIM, n_cells: int, observed: Tensor | None = None) -> None:
        self.size = gim.mechanisms.log_library.double().exp()
        self.left = self.size.expand(n_cells)
        if observed is not None:  # a cell holds at least what it was seen to hold
            self.left = torch.maximum(self.left, torch.expm1(observed.double()).sum(1))
        self.full = torch.zeros(n_cells, dtype=torch.bool, device=self.left.device)

    def bound(self, location: Tensor, spread: Tensor) -> Tensor:
        """(cells,) most noise of the gene's log x that fits."""
        most = torch.log1p(self.left.clamp_min(_LEAST)).log()
        return ((most - location) / spread).to(location)

    def take(self, x: Tensor) -> None:
        if bool(torch.isfinite(self.size)):  # else nothing bounds the cell
            self.left = self.left - torch.expm1(x.double())


@torch.no_grad()
def propagate(
    gim: GIM, graph: np.ndarray, noise: Noise, action: Action | None, kept: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Push noise through the (changed) mechanisms in topological order; (cells, genes).

    The zero-inflated log-normal is cut off at what the genes before it left of the cell's library
    (`Mechanisms.log_library`): its value has the same rank among those that fit as its noise has among all. Cells where
    that changed anything to speak of are counted in the log. Of a gene held at a value, what it would have had counts.
    Behind counts, all values are latent expression (`Counting.draw`, `Counting.held` lead from and to `adata.X`), and
    no location is above the highest expression of a training cell: a mechanism has not learned what lies beyond.

    Parameters
    ----------
    gim
        The model.
    graph
        (genes, genes) bool DAG, row = cause.
    noise, action
        Of the cells; without an action they are unperturbed.
    kept
        Observed cells (cells, genes), and which of their entries stay as they are.
    """
    mechanisms = gim.mechanisms
    x = torch.zeros_like(noise.normal)
    scale = mechanisms.total_log_scale().exp()
    library = _Library(gim, len(x), None if kept is None else kept[0]) if mechanisms.is_ziln else None
    highest = gim.counting.highest.tolist() if isinstance(gim, CountGIM) else None
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
        if highest is not None:
            location = location.clamp(max=highest[gene])
        normal = noise.normal[:, gene]
        if library is None or zero_logit is None or noise.uniform is None:
            value = location + spread * normal
        else:
            zero = noise.uniform[:, gene] < torch.sigmoid(zero_logit)
            bound = library.bound(location, spread)
            beyond = ~zero & (normal > bound)
            library.full |= beyond if kept is None else beyond & ~kept[1][:, gene]
            value = (location + spread * truncate(normal, bound)).exp()
            value = torch.where(zero, torch.zeros_like(value), value)
        if kept is not None:
            value = torch.where(kept[1][:, gene], kept[0][:, gene], value)
        counted = value
        if action is not None and action.values is not None:
            held = action.values[:, gene]
            value = torch.where(torch.isnan(held), value, held)
        if library is not None:
            library.take(counted)
        x[:, gene] = value
    if library is not None and bool(library.full.any()):
        logger.info(
            "%d of %d cells would have had more than a library holds (%.0f counts over the modelled genes, the most of "
            "a training cell): their values were drawn from what it holds",
            int(library.full.sum()), len(x), float(library.size),
        )  # fmt: skip
    return x


@torch.no_grad()
def abduct(gim: GIM, graph: np.ndarray, x: Tensor, generator: torch.Generator) -> Noise:
    """The noise that produced observed cells under the undisturbed mechanisms.

    Continuous parts are inverted exactly. For the zero-inflated log-normal a zero hides its log-normal noise,
    which is drawn from its posterior (the prior, as the two are independent), and the uniform that decided
    on the zero is drawn from the interval that agrees with what was seen. Behind counts, `x` is latent expression.
    """
    mechanisms = gim.mechanisms
    adjacency = torch.as_tensor(graph, dtype=x.dtype, device=x.device).unsqueeze(0)
    location = mechanisms.location(x.unsqueeze(0), adjacency)[0]
    scale = mechanisms.total_log_scale().exp()
    if isinstance(gim, CountGIM):
        location = torch.minimum(location, gim.counting.highest)
    if not mechanisms.is_ziln:
        return Noise((x - location) / scale, None)
    positive = x > 0
    hidden = torch.randn(x.shape, generator=generator, device=x.device)
    seen = (torch.where(positive, x, torch.ones_like(x)).log() - location) / scale
    library = _Library(gim, len(x), x)
    for gene in topological_order(graph):
        seen[:, gene] = untruncate(seen[:, gene], library.bound(location[:, gene], scale[gene]))
        library.take(x[:, gene])
    pi = gim.zero_probability()
    draw = torch.rand(x.shape, generator=generator, device=x.device)
    uniform = torch.where(positive, pi + (1 - pi) * draw, pi * draw)
    return Noise(torch.where(positive, seen, hidden), uniform)


@torch.no_grad()
def counterfactual(gim: GIM, graph: np.ndarray, x: Tensor, action: Action, generator: torch.Generator) -> Tensor:
    """The same cells under `action`; genes without a targeted ancestor keep their value exactly.

    Not behind counts, where `x` would be taken for the latent expression: see `FittedGIM.counterfactual_counts`.
    """
    if isinstance(gim, CountGIM):
        raise InvalidType("Of a model behind counts, counterfactuals are made by FittedGIM.counterfactual_counts.")
    kept = x, ~touched_genes(graph, action)
    return propagate(gim, graph, abduct(gim, graph, x, generator), action, kept)


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
