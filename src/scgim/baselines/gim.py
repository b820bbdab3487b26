"""The generative intervention model as a method of the protocol, beside what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .intervention_model import InterventionModel
from .parts import Parts
from .protocol import CannotPredict, Choice, Condition, Range, TrainingData, check_fitted

if TYPE_CHECKING:
    from torch import Tensor


class GIMMethod(InterventionModel):
    """Generative intervention model (Schneider et al., ICML 2025): what `scgim.tl.fit_gim` fits.

    With the same cells, settings and seed, graph, targets and cells are those of `scgim.tl.fit_gim` and
    `scgim.tl.sample_cells`. The protocol knows no validation cells: after a structure search all cells are
    trained on (nothing is decided on held-out ones); from a random start a tenth of each condition is held out to
    decide when the fit has converged.

    Parts of combinations: see `scgim.baselines.parts.Parts`.

    Parameters
    ----------
    preset, mechanism, intervention, device, **settings
        See :class:`~scgim.baselines.intervention_model.InterventionModel`, also for the attributes of a fit.

    Notes
    -----
    The paper tunes the two sparsities and the scales of the priors. `search_space` (all `own`): graph_sparsity 5
    to 200 and target_sparsity 2 to 50 nats, mechanism_scale 1 to 10, intervention_scale 0.3 to 3 and target_scale
    0.03 to 0.3, all on a log scale. On the paper's synthetic design, the "auto" of `FitConfig` is 11 (linear) or 51
    (MLP) nats per edge and 7 per target.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgim.baselines import GIMMethod, TrainingData
    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(size=(60, 2)), rng.normal([4.0, 0.0], 1.0, (60, 2))])
    >>> table = pd.DataFrame({"condition": ["control", "A"], "perturbation": ["control", "A"],
    ...                       "dose": [np.nan, np.nan], "is_control": [True, False]})
    >>> data = TrainingData(x, np.repeat([0, 1], 60), table, np.array([[0.0], [1.0]]))
    >>> gim = GIMMethod(mechanism="linear", max_steps=100, warmup_steps=20).fit(data)
    >>> gim.targets([data.condition(1)]).round().astype(int).tolist()
    [[1, 0]]
    """

    name: ClassVar[str] = "gim"
    can_predict_unseen: ClassVar[bool] = True
    search_space: ClassVar[Mapping[str, Range | Choice]] = {
        **InterventionModel.search_space,
        "target_scale": Range(0.03, 0.3, log=True),
    }
    _amortised: ClassVar[bool] = True

    def effects(self, conditions: Sequence[Condition]) -> np.ndarray:
        """What becomes of a gene where it is a target, (conditions, genes), in the units of the data.

        Hard interventions: the location of the mechanism that replaces its own (of log x for "ziln"); shifts: the
        shift of the location. Whether it is a target, `targets` says.
        """
        check_fitted(self, "gim_")
        parameters = self.gim_.replaced_parameters(self._interventions(list(conditions))[1])
        return parameters["shift" if "shift" in parameters else "mean"].detach().numpy()

    def _training_parts(self, data: TrainingData, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (parts, p) and membership (used conditions, parts) of the fit."""
        if data.features.shape[1] == 0:
            raise CannotPredict(f"{self.name} cannot be fitted: the conditions have no features.")
        self.parts_ = Parts.of(data)
        return self.parts_.features, self.parts_.membership

    def _interventions(self, conditions: list[Condition]) -> tuple[Tensor, Tensor]:
        """target_prob (conditions, genes) and effects (conditions, genes, k)."""
        features, membership = self.parts_.rows(conditions, self.name)
        return self._combined(features, membership)
