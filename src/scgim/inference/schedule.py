"""What changes over the steps: learning rates, the target sparsity, and the multipliers of the acyclicity."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scgim.model import GIM

from .config import FitConfig

#: Parameters that decide on targets (amortised or free).
_TARGETS = ("interventions.target_net", "interventions.target_logits")

#: Log odds of an edge at the most where a further round starts (`own`).
_UNCERTAIN = 1.0


@dataclass
class AugmentedLagrangian:
    """`multiplier * h + penalty / 2 * h^2`, raised only where the held-out objective has converged.

    Parameters
    ----------
    penalty, growth, progress, tolerance
        mu, eta, delta, and the h that counts as zero (model.md, "Learning"; DCDI's eta 2 and delta 0.9).
    """

    penalty: float
    growth: float
    progress: float
    tolerance: float
    multiplier: float = 0.0
    last: float = field(default=math.inf)

    def term(self, h: Tensor) -> Tensor:
        return self.multiplier * h + 0.5 * self.penalty * h * h

    def update(self, h: float) -> bool:
        """Raise the multipliers for the current h; True when the graph already counts as acyclic."""
        if h <= self.tolerance:
            return True
        self.multiplier += self.penalty * h
        if h > self.progress * self.last:
            self.penalty *= self.growth
        self.last = h
        return False


def start_round(gim: GIM, lagrangian: AugmentedLagrangian, config: FitConfig, progress: Any) -> bool:
    """Make all edges uncertain and drop the constraint; mechanisms and interventions stay. False after the last."""
    progress.round, progress.round_start = progress.round + 1, progress.step
    if progress.round >= config.n_rounds:
        return False
    gim.graph.set_logits(gim.graph.logits().clamp(-_UNCERTAIN, _UNCERTAIN))
    lagrangian.penalty, lagrangian.multiplier, lagrangian.last = config.penalty, 0.0, math.inf
    return True


def half_cosine(step: int, n_steps: int) -> float:
    """Rises from 0 to 1 along a half cosine over `n_steps`."""
    if n_steps <= 0:
        return 1.0
    return 0.5 * (1 - math.cos(math.pi * min(1.0, step / n_steps)))


def ramp(config: FitConfig, step: int) -> float:
    # After a search the sparsity is already in the start; ramping it from zero would undo the targets.
    return 1.0 if config.init == "search" else half_cosine(step, config.sparsity_steps)


def held(config: FitConfig, step_of_round: int) -> bool:
    """Whether the edges of a random start stay as they are."""
    return config.init == "random" and step_of_round < config.hold_steps


def graphs_per_step(config: FitConfig, n_genes: int) -> int:
    """Graph samples in one evaluation; fewer for many genes, so that masked weights stay below 64 MiB."""
    if config.objective == "log_mean_exp" or config.latent:
        return 1
    size = n_genes * n_genes * config.mechanism_hidden * 4
    return max(1, min(config.n_graphs, 2**26 // size))


def make_optimiser(gim: GIM, config: FitConfig) -> torch.optim.Adam:
    """Adam; the graph's rate is set so that one step moves a logit by about 0.02 whatever alpha and rank (`own`)."""
    z = gim.graph.z
    size = gim.graph.inverse_temperature * z.shape[2] * float(z.detach().abs().mean().clamp_min(1e-3))
    structural = [p for n, p in gim.named_parameters() if n.startswith(_TARGETS)]
    rest = [p for n, p in gim.named_parameters() if n != "graph.z" and not n.startswith(_TARGETS)]
    groups = [(rest, config.learning_rate), (structural, config.learning_rate), ([z], 0.02 / size)]
    return torch.optim.Adam(
        [{"params": params, "lr": rate, "base_lr": rate} for params, rate in groups], betas=(0.9, 0.99)
    )


def set_learning_rates(optimiser: torch.optim.Adam, config: FitConfig, step: int, step_of_round: int = 0) -> None:
    """Hold graph and targets while the mechanisms learn the start found by the search; settle all at the end (`own`).

    A mechanism that has learned nothing makes every edge look useless and every gene a target: without
    the pause the first hundred steps would undo the search. From a random start edges alone are held, `hold_steps` of
    every round.
    """
    structural = 0.0 if config.init == "search" and step < config.warmup_steps else 1.0
    settle = 1.0
    if config.init == "search":
        most = int(config.max_steps)
        left = (most - step) / max(1, most)
        settle = min(1.0, max(0.02, left / config.settle_fraction))
    edges = 0.0 if held(config, step_of_round) else structural
    for group, factor in zip(optimiser.param_groups, (1.0, structural, edges), strict=True):
        group["lr"] = group["base_lr"] * factor * settle
