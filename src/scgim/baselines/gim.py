"""The generative intervention model under the baselines' protocol, and BaCaDI*, which it is compared with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed, torch_generator

from .protocol import Baseline, CannotPredict, Choice, Condition, Range, TrainingData, check_fitted
from .shift import check_features

if TYPE_CHECKING:
    from scgim.model import GIM, Interventions

#: Of the cells of each condition, for a fit from a random start (`own`).
_VALID = 0.1


class InterventionModel(Baseline):
    """A causal graph, a mechanism per gene and atomic interventions, fitted together (`scgim.inference.fit`).

    Parameters
    ----------
    preset
        "default" or "paper", as in `scgim.tl.fit_gim`.
    mechanism
        "ziln", "mlp" or "linear"; "auto" (`own`): "ziln" where no value is negative and some are 0, else "mlp".
    intervention
        "hard" or "shift".
    device
        Where to fit, e.g. "cpu" or "cuda".
    **settings
        Any field of `scgim.inference.FitConfig`, e.g. ``max_steps=1000`` or ``graph_sparsity=50.0``.

    Attributes
    ----------
    fitted_, gim_
        The fitted `scgim.model.FittedGIM` and its model, on the CPU.
    config_
        Its settings, with "auto" resolved.
    history_
        Course of the fit: name -> values.
    n_edges_dropped_
        Edges above one half that were dropped because they closed a cycle.
    """

    gives_graph: ClassVar[bool] = True
    gives_targets: ClassVar[bool] = True
    search_space: ClassVar[Mapping[str, Range | Choice]] = {
        "graph_sparsity": Range(5.0, 200.0, log=True),
        "target_sparsity": Range(2.0, 50.0, log=True),
        "mechanism_scale": Range(1.0, 10.0, log=True),
        "intervention_scale": Range(0.3, 3.0, log=True),
    }
    #: Networks from features to interventions, or free interventions per condition.
    _amortised: ClassVar[bool]

    def __init__(
        self,
        *,
        preset: str = "default",
        mechanism: Literal["auto", "linear", "mlp", "ziln"] = "auto",
        intervention: Literal["hard", "shift"] = "hard",
        device: str = "cpu",
        **settings: Any,
    ) -> None:
        from scgim.inference import make_config

        settings = {"intervention": intervention, "amortised": self._amortised, **settings}
        if settings["amortised"] != self._amortised:
            raise TypeError(f"amortised cannot be set: it is what tells gim from bacadi, and this is {self.name}.")
        # Settings that do not exist are refused now, before any data.
        make_config(preset, mechanism="mlp" if mechanism == "auto" else mechanism, **settings)
        self.preset, self.mechanism, self.device = preset, mechanism, device
        self.settings = settings

    @undisturbed()
    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Fit the model.

        Raises
        ------
        CannotPredict
            If the data do not suit the mechanism, there is no perturbed condition, or the optimisation stops being
            finite.
        """
        from scgim.inference import TrainingData as Tensors
        from scgim.inference import fit, make_config
        from scgim.model import FittedGIM

        mechanism = _mechanism_for(data.x) if self.mechanism == "auto" else self.mechanism
        config = make_config(self.preset, mechanism=mechanism, **self.settings)
        self._refuse(data, mechanism)
        generator = as_generator(rng)
        seed = draw_seed(generator)
        valid = np.zeros(len(data.x), dtype=bool)
        if config.init == "random":
            valid = _some_of_each(data.codes, _VALID, generator)
        tensors = Tensors.of(replace(self._as_parts(data), valid=valid))
        try:
            result = fit(tensors.to(self.device), config, rng=seed, progress=False)
        except FloatingPointError as error:
            raise CannotPredict(f"{self.name} cannot be fitted: {error}") from error
        self.fitted_ = FittedGIM(result.gim.to("cpu").eval(), result.graph)
        self.n_edges_dropped_ = result.n_dropped
        self.config_, self.history_ = result.config, result.history
        return self

    @property
    def gim_(self) -> GIM:
        """The fitted `scgim.model.GIM`, on the CPU."""
        return self.fitted_.gim

    def graph(self) -> np.ndarray:
        """The learned DAG, bool (genes, genes), row = cause."""
        check_fitted(self, "fitted_")
        return self.fitted_.graph.copy()

    def edge_probabilities(self) -> np.ndarray:
        """Probability of every edge, (genes, genes), row = cause; `graph` is where it exceeds one half."""
        check_fitted(self, "fitted_")
        return self.gim_.graph.probabilities().detach().numpy()

    @undisturbed()
    def targets(self, conditions: Sequence[Condition]) -> np.ndarray:
        """Target probabilities, (conditions, genes); zeros for the control."""
        return self._interventions(conditions).prob.numpy()

    @undisturbed()
    def effects(self, conditions: Sequence[Condition]) -> np.ndarray:
        """What each gene's mechanism would be replaced by, were it a target, (conditions, genes): the mean for hard
        interventions (for "ziln" of the log of positive values), the shift for shifts; in the units of the data."""
        replaced = self.gim_.replaced_parameters(self._interventions(conditions).effects)
        return (replaced["shift"] if "shift" in replaced else replaced["mean"]).detach().numpy()

    @undisturbed()
    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` cells by ancestral sampling, each with atomic interventions of its own; float32 (n, genes)."""
        check_fitted(self, "fitted_")
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}.")
        return self.fitted_.sample(self._interventions([condition]), 0, n, torch_generator(as_generator(rng)))

    # -- the interventions --------------------------------------------------------------------------------

    @abstractmethod
    def _as_parts(self, data: TrainingData) -> TrainingData:
        """The data with the parts and features that interventions are learned of."""

    @abstractmethod
    def _parts_of(self, conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
        """Features (parts, p) and membership (conditions, parts) of conditions to predict."""

    def _interventions(self, conditions: Sequence[Condition]) -> Interventions:
        import torch

        check_fitted(self, "fitted_")
        features, membership = self._parts_of(conditions)
        return self.fitted_.interventions(torch.as_tensor(features), torch.as_tensor(membership))

    # -- what is refused ----------------------------------------------------------------------------------

    def _refuse(self, data: TrainingData, mechanism: str) -> None:
        """Decline what the mechanism cannot describe."""
        prefix = f"{self.name} cannot be fitted: "
        if not len(data.trained):
            raise CannotPredict(prefix + "no perturbed condition has training cells.")
        if mechanism != "ziln":
            bad = np.ptp(data.x, axis=0) == 0
            reason = "never vary in the training cells; leave them out"
        elif (data.x < 0).any():
            bad = (data.x < 0).any(axis=0)
            reason = "have negative values, which mechanism='ziln' cannot describe; use 'mlp'"
        else:
            bad = (data.x > 0).sum(axis=0) < 2
            reason = "are (almost) never above 0 in the training cells; leave them out"
        if bad.any():
            raise CannotPredict(prefix + f"genes number {_first(np.flatnonzero(bad))} {reason}.")


class GIMMethod(InterventionModel):
    """Generative intervention model (Schneider et al., ICML 2025): what `scgim.tl.fit_gim` fits.

    With the same cells, settings and seed, graph, targets and cells are those of `scgim.tl.fit_gim` and
    `scgim.tl.sample_cells`. The protocol knows no validation cells: after a structure search all cells are
    trained on (nothing is decided on held-out ones); from a random start a tenth of each condition is held out to
    decide when the fit has converged.

    Parameters
    ----------
    preset, mechanism, intervention, device, **settings
        See :class:`~scgim.baselines.gim.InterventionModel`, also for the attributes of a fit.

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

    def _as_parts(self, data: TrainingData) -> TrainingData:
        if data.features.shape[1] == 0:
            raise CannotPredict(f"{self.name} cannot be fitted: the conditions have no features.")
        used = np.flatnonzero(data.membership.any(axis=0)).tolist()
        self.features_ = {data.parts[part]: data.features[part] for part in used}
        self.n_features_ = data.features.shape[1]
        return data

    def _parts_of(self, conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
        rows = [check_features(self.name, c, self.n_features_, self._features(c)) for c in conditions]
        owner = np.repeat(np.arange(len(rows)), [len(of_one) for of_one in rows])
        membership = np.arange(len(rows))[:, None] == owner
        features = np.concatenate([np.empty((0, self.n_features_)), *rows])
        return features.astype(np.float32), membership.astype(np.float32)

    def _features(self, condition: Condition) -> np.ndarray:
        """(parts, p) of one condition, those of parts that the training data name looked up there."""
        if condition.is_control:
            return np.empty((0, self.n_features_))
        if len(condition.parts) == 1:
            return np.asarray(condition.features)[None]
        if condition.part_features is not None:
            return condition.part_features
        missing = [part for part in condition.parts if part not in self.features_]
        if missing:
            raise CannotPredict(
                f"{self.name} cannot predict the combination {condition.label!r}: "
                f"{' and '.join(map(repr, missing))} alone is no part of the training data, so its own features are "
                "not known; give them (part_features=)."
            )
        return np.array([self.features_[part] for part in condition.parts])


class BaCaDI(InterventionModel):
    """Free target logits and effects per condition instead of networks; otherwise GIM.

    Causal discovery with unknown interventions (Hägele et al. 2023), in the form that Schneider et al. (2025)
    compare with as BaCaDI*: the same likelihood, priors, acyclicity and inference as GIM, one particle. The
    features are not used, so every condition (each dose of a perturbation, each combination) is on its own, and
    it has nothing to say of unseen ones: they are declined (:class:`CannotPredict`).

    Parameters
    ----------
    preset, mechanism, intervention, device, **settings
        See :class:`~scgim.baselines.gim.InterventionModel`. ``network_hidden``, ``linear_skip`` and
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

    def _as_parts(self, data: TrainingData) -> TrainingData:
        """Every perturbed condition is one part of its own, without features."""
        alone = TrainingData(data.x, data.codes, data.conditions, np.zeros((len(data.conditions), 0)))
        data = replace(alone, graded=data.graded).without_empty()
        self.parts_ = data.parts
        return data

    def _parts_of(self, conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
        unseen = [c.label for c in conditions if not c.is_control and c.label not in self.parts_]
        if unseen:
            raise CannotPredict(
                f"{self.name} cannot predict {unseen[0]!r}: it had no training cells, and interventions are learned "
                "for each training condition on its own."
            )
        membership = [[not c.is_control and c.label == part for part in self.parts_] for c in conditions]
        return np.zeros((len(self.parts_), 0), dtype=np.float32), np.array(membership, dtype=np.float32)


def _mechanism_for(x: np.ndarray) -> Literal["mlp", "ziln"]:
    return "ziln" if (x >= 0).all() and (x == 0).any() else "mlp"


def _some_of_each(codes: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """bool (cells,): a random `share` of the cells of each condition, never all of them."""
    chosen = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        cells = rng.permutation(np.flatnonzero(codes == code))
        chosen[cells[: min(round(share * len(cells)), len(cells) - 1)]] = True
    return chosen


def _first(numbers: np.ndarray, most: int = 10) -> str:
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")
