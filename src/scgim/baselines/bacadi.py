"""BaCaDI*: the model without amortisation, for what the networks from features to interventions are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .intervention_model import InterventionModel
from .protocol import CannotPredict, Condition, TrainingData

if TYPE_CHECKING:
    from torch import Tensor


class BaCaDI(InterventionModel):
    """Free target logits and effects per condition instead of networks; otherwise GIM.

    Causal discovery with unknown interventions (Hägele et al. 2023), in the form that Schneider et al. (2025)
    compare with as BaCaDI*: the same likelihood, priors, acyclicity and inference as GIM, one particle. The
    features are not used, so every condition (each dose of a perturbation, each combination) is on its own, and
    it has nothing to say of unseen ones: they are declined (:class:`CannotPredict`).

    Parameters
    ----------
    preset, mechanism, intervention, device, **settings
        See :class:`~scgim.baselines.intervention_model.InterventionModel`. ``network_hidden``, ``linear_skip`` and
        ``target_scale`` have no effect; ``intervention_scale`` is the prior scale of the effects, in units of the
        genes' spreads.

    Notes
    -----
    `search_space` (all `own`): as of :class:`GIMMethod`, without target_scale. As it cannot predict held-out
    conditions, it can only be judged on held-out cells of the training conditions.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgim.baselines import BaCaDI, TrainingData
    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(size=(60, 2)), rng.normal([4.0, 0.0], 1.0, (60, 2))])
    >>> table = pd.DataFrame({"condition": ["control", "A"], "perturbation": ["control", "A"],
    ...                       "dose": [np.nan, np.nan], "is_control": [True, False]})
    >>> data = TrainingData(x, np.repeat([0, 1], 60), table, np.zeros((2, 0)))
    >>> bacadi = BaCaDI(mechanism="linear", max_steps=100, warmup_steps=20).fit(data)
    >>> bacadi.targets([data.condition(1)]).round().astype(int).tolist()
    [[1, 0]]
    """

    name: ClassVar[str] = "bacadi"
    _amortised: ClassVar[bool] = False

    def _training_parts(self, data: TrainingData, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every perturbed condition is one part of its own."""
        conditions = [data.condition(row) for row in used]
        treated = [i for i, condition in enumerate(conditions) if not condition.is_control]
        self.row_ = {conditions[i].label: row for row, i in enumerate(treated)}
        membership = np.zeros((len(used), len(treated)), dtype=np.float32)
        membership[treated, np.arange(len(treated))] = 1
        return np.zeros((len(treated), 0), dtype=np.float32), membership

    def _interventions(self, conditions: list[Condition]) -> tuple[Tensor, Tensor]:
        membership = np.zeros((len(conditions), len(self.row_)), dtype=np.float32)
        for i, condition in enumerate(conditions):
            if condition.is_control:
                continue
            if condition.label not in self.row_:
                raise CannotPredict(
                    f"{self.name} cannot predict {condition.label!r}: it had no training cells, and interventions "
                    "are learned for each training condition on its own."
                )
            membership[i, self.row_[condition.label]] = 1
        return self._combined(np.zeros((len(self.row_), 0), dtype=np.float32), membership)
