"""The null prediction: the perturbation does nothing."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from scgim._rng import RngLike

from .protocol import Baseline, Condition, TrainingData, check_fitted, draw_cells


class Control(Baseline):
    """Control cells as the prediction of every condition.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgim.baselines import Control, TrainingData
    >>> table = pd.DataFrame({"condition": ["control"], "perturbation": ["control"], "dose": [np.nan],
    ...                       "is_control": [True]})
    >>> data = TrainingData(np.ones((5, 2)), np.zeros(5, int), table, np.zeros((1, 1)))
    >>> Control().fit(data).sample(data.condition(0), n=3).shape
    (3, 2)
    """

    name: ClassVar[str] = "control"
    can_predict_unseen: ClassVar[bool] = True

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Keep the control cells."""
        self.cells_ = data.x[data.control]  # (control cells, genes)
        return self

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` control cells, without replacement where there are enough; float32 (n, genes)."""
        check_fitted(self, "cells_")
        return draw_cells(self.cells_, n, rng)
