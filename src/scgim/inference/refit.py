"""After the fit: teach the effect networks where a gene is no target, so that they carry over to new conditions."""

from __future__ import annotations

import torch
from torch import Tensor

from scgim.model import GIM, AmortizedInterventions, AtomicInterventions

from .data import TrainingData
from .start import condition_moments

#: Precision that holds the effects on targets where they are, and prior scale of the hidden layers (both `own`).
_HELD, _HIDDEN_SCALE = 1_000.0, 0.3


def refit_effects(gim: GIM, data: TrainingData, pull: float, spread: float = 0.0, n_steps: int = 400) -> None:
    """Refit the effect networks alone; graph, mechanisms and targets stay as they are (`own`).

    The likelihood says nothing about effects on genes that a condition does not target, yet the effects on a gene that
    becomes a target, at a higher dose or under a new perturbation, are read from the same network: what it says where
    nothing held it decides how it generalises. Two ways to hold it:

    - `pull`: untargeted genes are pulled towards the control's marginal, so that an effect grows from none, while
      effects on targets are held where the fit put them. For Gaussian models, in which a condition's own marginals
      hold downstream changes.
    - `spread`: the effects on every gene, target or not, are those of the condition's own marginals,
      `psi ~ N(h(features), spread^2)` around the network. Each number counts by its Fisher information in the
      condition's cells and never by more than 1 / spread^2. For hard interventions, and zero-inflated models of drugs,
      which move many genes a little before they are called targets: these small changes show how an effect grows.

    Parameters
    ----------
    gim
        A fitted model; its effect networks change in place.
    data
        What it was fitted to.
    pull
        Precision of the pull, in units of the gene's spread; 0 for none.
    spread
        In units of the gene's spread; takes the place of `pull` where it is above 0.
    n_steps
        Adam steps.
    """
    nets = gim.interventions
    if max(pull, spread) <= 0 or not isinstance(nets, AmortizedInterventions) or not len(data.features):
        return
    with torch.no_grad():
        parts = gim.atomic(data.features, data.known_targets)
        goal, weight = _marginals(gim, data, parts, spread) if spread > 0 else _control(gim, data, parts, pull)
    effect_nets = nets.effect_net
    optimiser = torch.optim.Adam(effect_nets.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps, eta_min=1e-4)
    for _ in range(n_steps):
        optimiser.zero_grad()
        effects = torch.stack([net(data.features) for net in effect_nets], dim=-1)
        loss = 0.5 * (weight * (effects - goal).square()).sum() + _penalty(effect_nets, gim.priors.intervention_scale)
        loss.backward()
        optimiser.step()
        schedule.step()


def _control(gim: GIM, data: TrainingData, parts: AtomicInterventions, pull: float) -> tuple[Tensor, Tensor]:
    """Goal and weight (parts, genes, k): untargeted genes at the control's marginal, targets where they are."""
    control = condition_moments(gim, data)[data.membership.sum(1) == 0].mean(0)  # (genes, k)
    probability = parts.target_prob.unsqueeze(-1)
    # Held as firmly as the effect is used: a gene that is a target now and then keeps its effect, too.
    held, pulled = _HELD * probability, pull * (1 - probability)
    weight = held + pulled
    return (held * parts.effects + pulled * control) / weight, weight


def _marginals(gim: GIM, data: TrainingData, parts: AtomicInterventions, spread: float) -> tuple[Tensor, Tensor]:
    """Goal and weight (parts, genes, k): the marginals of the condition in which the part is alone."""
    goal = parts.effects.clone()
    # A part that is never alone keeps the effects that the fit gave it, as firmly as they are used.
    weight = (parts.target_prob.unsqueeze(-1) / spread**2).expand_as(goal).clone()
    alone = data.membership.sum(1) == 1
    part = data.membership[alone].argmax(1)
    moments = condition_moments(gim, data)
    goal[part] = moments[alone]
    weight[part] = 1.0 / (1.0 / _information(gim, data, moments)[alone].clamp_min(1e-6) + spread**2)
    return goal, weight


def _information(gim: GIM, data: TrainingData, moments: Tensor) -> Tensor:
    """(conditions, genes, k) Fisher information of the condition's cells on each number of `moments`."""
    x, owner = data.x[~data.valid], data.condition[~data.valid]
    zeros = x.new_zeros(data.n_conditions, data.n_genes)
    total = zeros.index_add(0, owner, torch.ones_like(x))
    count = zeros.index_add(0, owner, (x > 0).to(x)) if gim.mechanisms.is_ziln else total
    found = [count * torch.exp(-2 * moments[..., 1]), 2 * count]
    if gim.mechanisms.is_ziln:
        rate = (total - count + 0.5) / (total + 1.0)
        found.append(total * rate * (1 - rate))
    return torch.stack(found, dim=-1)


def _penalty(effect_nets: torch.nn.ModuleList, scale: float) -> Tensor:
    """Minus the log prior: hidden layers held small, so that what is new is first read linearly."""
    total = torch.zeros((), device=next(effect_nets.parameters()).device)
    for name, parameter in effect_nets.named_parameters():
        if not name.endswith("bias"):
            own = _HIDDEN_SCALE if ".net." in name else scale
            total = total + 0.5 / own**2 * parameter.square().sum()
    return total
