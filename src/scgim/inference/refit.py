"""After the fit: teach the effect networks where a gene is no target, so that they carry over to new targets."""

from __future__ import annotations

import torch
from torch import Tensor

from scgim.model import GIM, AmortizedInterventions

from .data import TrainingData
from .start import condition_moments

#: Precision that holds the effects on targets where they are, and prior scale of the hidden layers (both `own`).
_HELD, _HIDDEN_SCALE = 1_000.0, 0.3


def refit_effects(gim: GIM, data: TrainingData, pull: float, n_steps: int = 400) -> None:
    """Refit the effect networks alone; graph, mechanisms and targets stay as they are (`own`).

    The likelihood says nothing about effects on genes that a perturbation does not target, yet a new target is
    read from the same network: what the network says there decides how it generalises. Learned from the start, it
    is each condition's own marginal, downstream changes included. Here untargeted genes are pulled towards the
    control's marginal, so that an effect grows from none, while effects on targets are held where the fit put them.

    Parameters
    ----------
    gim
        A fitted model; its effect networks change in place.
    data
        What it was fitted to.
    pull
        Precision of the pull, in units of the gene's spread; 0 leaves the networks alone.
    n_steps
        Adam steps.
    """
    nets = gim.interventions
    if pull <= 0 or not isinstance(nets, AmortizedInterventions) or not len(data.features):
        return
    control = condition_moments(gim, data)[data.membership.sum(1) == 0].mean(0)  # (genes, k)
    with torch.no_grad():
        parts = gim.atomic(data.features, data.known_targets)
        probability = parts.target_prob.unsqueeze(-1)  # (parts, genes, 1)
        # Held as firmly as the effect is used: a gene that is a target now and then keeps its effect, too.
        held, pulled = _HELD * probability, pull * (1 - probability)
        weight = held + pulled
        goal = (held * parts.effects + pulled * control) / weight
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


def _penalty(effect_nets: torch.nn.ModuleList, scale: float) -> Tensor:
    """Minus the log prior: hidden layers held small, so that what is new is first read linearly."""
    total = torch.zeros((), device=next(effect_nets.parameters()).device)
    for name, parameter in effect_nets.named_parameters():
        if not name.endswith("bias"):
            own = _HIDDEN_SCALE if ".net." in name else scale
            total = total + 0.5 / own**2 * parameter.square().sum()
    return total
