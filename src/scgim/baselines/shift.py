"""What all mean-shift baselines share: prediction = control cells + a predicted shift of the mean."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from scgim._rng import RngLike

from .protocol import Baseline, CannotPredict, Condition, TrainingData, check_fitted, draw_cells


class ShiftBaseline(Baseline):
    """Control cells, each moved by the shift predicted for the condition.

    Parameters
    ----------
    clip
        Raise negative predicted values to 0. A shift moves zeros and small values below 0, which expression
        cannot be; but where the data are real-valued, negative values are right and clipping would bias them.
        Clipping raises the mean of the clipped genes a little above control mean + shift.
    """

    can_predict_unseen: ClassVar[bool] = True

    def __init__(self, *, clip: bool = False) -> None:
        self.clip = clip

    def _keep_control(self, data: TrainingData) -> None:
        self.control_ = data.x[data.control]  # (control cells, genes)

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` control cells plus the shift; float32 (n, genes)."""
        check_fitted(self, "control_")
        shift = 0.0 if condition.is_control else self.shift(condition)
        cells = (draw_cells(self.control_, n, rng) + shift).astype(np.float32)
        return np.maximum(cells, 0.0) if self.clip else cells

    @abstractmethod
    def shift(self, condition: Condition) -> np.ndarray:
        """Predicted mean minus control mean, (genes,)."""


class FeatureScale:
    """Divides all features by one number, their root mean square over the trained conditions.

    One number for all columns keeps their relative sizes: standardising every column would blow up features
    that hardly vary in training (late principal components), and extrapolation suffers.
    """

    def __init__(self, features: np.ndarray) -> None:
        self.n_features = features.shape[1]
        self.scale = float(np.sqrt(np.mean(np.square(features, dtype=np.float64)))) or 1.0

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features, dtype=np.float64) / self.scale


def trained_shifts(data: TrainingData, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (trained, p) and shifts (trained, genes) of the trained conditions."""
    rows, shifts = data.shifts()
    if len(rows) == 0:
        raise CannotPredict(f"{name} cannot be fitted: no perturbed condition has training cells.")
    if data.features.shape[1] == 0:
        raise CannotPredict(f"{name} cannot be fitted: the conditions have no features.")
    return data.condition_features[rows].astype(np.float64), shifts


def check_features(name: str, condition: Condition, n_features: int, features: np.ndarray | None = None) -> np.ndarray:
    """Features of `condition`, or of its parts, as float64 (rows, p); declines where they do not fit."""
    features = np.atleast_2d(np.asarray(condition.features if features is None else features, dtype=np.float64))
    if features.shape[1:] != (n_features,) or not np.isfinite(features).all():
        raise CannotPredict(
            f"{name} cannot predict {condition.label!r}: it needs {n_features} finite features, "
            f"got shape {features.shape[1:]}."
        )
    return features
