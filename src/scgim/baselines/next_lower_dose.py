"""The same drug at the next lower dose that was measured."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from scgim._rng import RngLike

from .protocol import Baseline, CannotPredict, Condition, TrainingData, check_fitted, draw_cells


class NextLowerDose(Baseline):
    """Training cells of the same perturbation at the largest dose below the one asked for.

    Predicts unseen doses of seen perturbations. It declines (:class:`CannotPredict`) for an unseen
    perturbation, for one without a dose, for a combination, and where no lower dose has training cells: the
    control is deliberately not used as dose 0, it is a baseline of its own.
    """

    name: ClassVar[str] = "next_lower_dose"
    can_predict_unseen: ClassVar[bool] = True

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Keep the training cells of every perturbation by dose."""
        self.cells_: dict[str, dict[float, np.ndarray]] = {}
        for row in data.trained:
            condition = data.condition(row)
            if len(condition.parts) == 1 and not np.isnan(condition.dose):
                by_dose = self.cells_.setdefault(condition.perturbation, {})
                by_dose[condition.dose] = data.x[data.codes == row]
        return self

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` training cells of the next lower dose, without replacement where there are enough."""
        dose = self.lower_dose(condition)
        return draw_cells(self.cells_[condition.perturbation][dose], n, rng)

    def lower_dose(self, condition: Condition) -> float:
        """The dose whose cells are the prediction.

        Raises
        ------
        CannotPredict
            If there is none, saying why.
        """
        check_fitted(self, "cells_")
        prefix = f"{self.name} cannot predict {condition.label!r}: "
        if len(condition.parts) > 1:
            raise CannotPredict(prefix + "it is a combination.")
        if np.isnan(condition.dose):
            raise CannotPredict(prefix + "it has no dose.")
        doses = self.cells_.get(condition.perturbation, {})
        if not doses:
            raise CannotPredict(prefix + f"{condition.perturbation!r} has no training cells with a dose.")
        lower = [dose for dose in doses if dose < condition.dose]
        if not lower:
            raise CannotPredict(
                prefix + f"no dose of {condition.perturbation!r} below {condition.dose:g} has training cells "
                f"(there are: {', '.join(f'{dose:g}' for dose in sorted(doses))})."
            )
        return max(lower)
