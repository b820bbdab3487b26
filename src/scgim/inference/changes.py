"""Changes that the parents leave of a gene in a condition: the evidence for targets behind counts (`own`)."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .latent import Latent, LatentCells

#: Share of a change that mechanisms predict from the parents, to which they are trusted.
MISFIT = 0.2
#: So many cells' draws are held in double precision at once.
_CELLS_AT_ONCE = 4096


class Mechanisms(Protocol):
    """A model of the latent expression with its targets, as the evidence for targets wants it.

    targets (conditions, genes) bool; level, spread (conditions, genes): of targets, mean (for shifts the shift) and
    variance of the noise; variance (genes,): of the noise of others.
    """

    shift: bool
    targets: Tensor
    level: Tensor
    spread: Tensor
    variance: Tensor

    def location(self, z: Tensor) -> Tensor:
        """(cells, genes) of every gene given its parents."""

    def left(self, z: Tensor, condition: Tensor) -> Tensor:
        """(cells, genes) noise."""


class NoiseSums(NamedTuple):
    """Sums over the cells of each condition, (conditions, genes).

    Of the expected noise, of its square, of the noise's variance between draws, and of the expected location.
    """

    noise: Tensor
    square: Tensor
    hidden: Tensor
    location: Tensor

    @classmethod
    def of(cls, model: Mechanisms, condition: Tensor, n_conditions: int, mode: Tensor, draws: Tensor) -> NoiseSums:
        """From mode (cells, genes) and draws (draws, cells, genes) of cells of these conditions.

        The expected noise is that at the mode: a mean of few draws would have noise of its own.
        """
        sums = tuple(mode.new_zeros(n_conditions, mode.shape[1]) for _ in cls._fields)
        for rows in torch.arange(len(mode)).split(_CELLS_AT_ONCE):
            own, some = condition[rows], draws[:, rows].to(mode)
            left = torch.stack([model.left(z, own) for z in some])
            location = torch.stack([model.location(z) for z in some]).mean(0)
            noise = model.left(mode[rows], own)
            for total, value in zip(sums, (noise, noise.square(), left.var(0), location), strict=True):
                total.index_add_(0, own, value)
        return cls(*sums)

    def plus(self, other: NoiseSums) -> NoiseSums:
        """Of the cells of both."""
        return NoiseSums(*(a + b for a, b in zip(self, other, strict=True)))


def changes_of_targets(
    model: Mechanisms, sums: NoiseSums, n_cells: Tensor, control: Tensor, misfit: float = MISFIT
) -> Tensor:
    """(conditions, genes) what the parents leave of a gene's change, in standard errors, marginal over z.

    Half its square is what a level of its own gains, in nats. Where the model has no target, a score test: the mean
    over the condition's cells of the expected noise, against the variance of that over cells, which holds only what the
    counts tell (Louis 1982). Where it has one, what taking it away would lose: the distance of its level from what the
    parents say, in standard errors of a level under the information that the counts hold. Mechanisms are never quite
    right where parents are far from where most cells have them: what they predict of a change is trusted to a share of
    it (`misfit`). `control` (conditions,) bool, from where changes are counted.
    """
    n = n_cells.clamp_min(1).unsqueeze(1)
    hidden, mean = sums.hidden / n, sums.noise / n  # the first: variance that the counts leave open
    variance = (sums.square / n - mean.square()).clamp_min(1e-6)
    weight = (~model.targets).to(n) * n
    pooled = (weight * variance).sum(0) / weight.sum(0).clamp_min(1)
    moderated = (n * variance + 10.0 * pooled) / (n + 10.0)
    said = sums.location / n  # by the parents
    wrong = (misfit * (said - said[control].mean(0))).square()
    known = (1 - hidden / model.spread).clamp(0.02, 1.0)
    away = model.level - (0.0 if model.shift else said)
    lost = away / (torch.maximum(model.spread, model.variance) / (n * known) + wrong).sqrt()
    return torch.where(model.targets, lost, mean / (moderated / n + wrong).sqrt())


def target_changes(model: Mechanisms, cells: LatentCells, latent: Latent, control: Tensor) -> tuple[Tensor, Tensor]:
    """`changes_of_targets` of these cells, and the share of their squares that no misfit explains.

    Both (conditions, genes).
    """
    sums = NoiseSums.of(model, cells.condition, cells.n_conditions, latent.mode, latent.draws)
    change = changes_of_targets(model, sums, cells.n_cells, control)
    trusting = changes_of_targets(model, sums, cells.n_cells, control, misfit=0.0)
    sound = (change / trusting).nan_to_num(1.0).square().clamp(0.0, 1.0)
    return bounded(change, model, cells, latent.mode), sound


def bounded(change: Tensor, model: Mechanisms, cells: LatentCells, mode: Tensor) -> Tensor:
    """Changes no larger than what the total counts of a condition can say (conditions, genes).

    Six counts expected and none seen are worth six nats, however low the level is that the model gives the gene there.
    Expected are counts at what the parents say, in cells whose expression is at `mode` (cells, genes).
    """
    expected = torch.zeros_like(change)
    for rows in cells.parts():
        said = model.location(mode[rows]) + 0.5 * model.variance
        rate = cells.counting.log_rate(said, cells.log_size[rows], cells.batch[rows]).exp()
        expected.index_add_(0, cells.condition[rows], rate)
    seen = cells.per_condition(cells.counts)
    most = torch.xlogy(seen, seen / expected.clamp_min(1e-9)) - seen + expected  # Poisson, a rate of its own
    return change.sign() * torch.minimum(change.abs(), (2 * most.clamp_min(0.0)).sqrt())
