"""Linear mean shift: what a regularised linear model reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from scgim._rng import RngLike

from .protocol import Condition, TrainingData, check_fitted
from .shift import FeatureScale, ShiftBaseline, check_features, trained_shifts


class Ridge(ShiftBaseline):
    """Ridge regression of the mean shift on the features; prediction = control cells + shift.

    The strength is chosen once for all genes by efficient leave-one-condition-out cross-validation
    (scikit-learn's `RidgeCV`); every condition weighs the same. Features are divided by their overall root
    mean square first.

    Parameters
    ----------
    alphas
        Strengths to choose from (`own`: 13 from 1e-3 to 1e3).
    clip
        See :class:`ShiftBaseline`.
    """

    name: ClassVar[str] = "ridge"

    def __init__(self, *, alphas: Sequence[float] | None = None, clip: bool = False) -> None:
        super().__init__(clip=clip)
        self.alphas = np.logspace(-3, 3, 13) if alphas is None else np.asarray(alphas, dtype=float)

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Fit the regression. Deterministic: `rng` is not used."""
        from sklearn.linear_model import LinearRegression, RidgeCV

        features, shifts = trained_shifts(data, self.name)
        self.scale_ = FeatureScale(features)
        # With one condition nothing can be left out, and any strength gives the same constant shift.
        model = RidgeCV(alphas=self.alphas) if len(features) > 1 else LinearRegression()
        self.model_ = model.fit(self.scale_(features), shifts)
        self._keep_control(data)
        return self

    def shift(self, condition: Condition) -> np.ndarray:
        """Predicted mean minus control mean, (genes,)."""
        check_fitted(self, "model_")
        features = check_features(self.name, condition, self.scale_.n_features)
        predicted = np.asarray(self.model_.predict(self.scale_(features)))
        return predicted.reshape(self.control_.shape[1])
