"""The augmented Lagrangian that drives the graph to acyclicity, and the schedule of the target sparsity."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor


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


def half_cosine(step: int, n_steps: int) -> float:
    """Rises from 0 to 1 along a half cosine over `n_steps`."""
    if n_steps <= 0:
        return 1.0
    return 0.5 * (1 - math.cos(math.pi * min(1.0, step / n_steps)))
