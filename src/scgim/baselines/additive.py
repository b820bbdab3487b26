"""Additive mean shift: the effects of single perturbations add up."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from scgim._rng import RngLike

from .protocol import CannotPredict, Condition, TrainingData, check_fitted
from .shift import ShiftBaseline


class Additive(ShiftBaseline):
    """Shift of a combination = sum of the shifts of its parts, each measured alone in training.

    For a single part that was trained the prediction is its own training shift. It declines
    (:class:`CannotPredict`) where a part was never measured alone, and knows nothing of unseen doses.

    Parameters
    ----------
    clip
        See :class:`ShiftBaseline`.
    """

    name: ClassVar[str] = "additive"

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Measure the shift of every part that was applied alone. Deterministic: `rng` is not used."""
        rows, shifts = data.shifts()
        self.shifts_: dict[str, np.ndarray] = {}  # part -> (genes,)
        for row, shift in zip(rows, shifts, strict=True):
            parts = data.condition(row).parts
            if len(parts) == 1:
                self.shifts_[parts[0]] = shift
        self._keep_control(data)
        return self

    def shift(self, condition: Condition) -> np.ndarray:
        """Sum of the shifts of the parts, (genes,)."""
        check_fitted(self, "shifts_")
        unknown = [part for part in condition.parts if part not in self.shifts_]
        if unknown:
            raise CannotPredict(
                f"{self.name} cannot predict {condition.label!r}: no training cells with only "
                f"{' or only '.join(map(repr, unknown))}."
            )
        return np.sum([self.shifts_[part] for part in condition.parts], axis=0)
