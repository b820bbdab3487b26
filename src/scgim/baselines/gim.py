"""The generative intervention model under the baselines' protocol, and BaCaDI*, which has no networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from scgim._errors import InvalidType, InvalidValue
from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed, torch_generator
from scgim._validation import check_int

from .protocol import Baseline, CannotPredict, Choice, Condition, Range, TrainingData

if TYPE_CHECKING:
    from scgim.model import GIM, Interventions

#: Share of the cells of each condition that is held out, for a fit from a random start (`own`).
_VALID = 0.1


class InterventionModel(Baseline):
    """A causal graph, a mechanism per gene and atomic interventions, fitted together (`scgim.inference.fit`).

    Parameters
    ----------
    preset, mechanism, intervention
        As in `scgim.tl.fit_gim`. "auto" is "ziln" where no value is negative and some are 0, else "mlp" (`own`).
        "count" and "count_linear" need data that carry counts and size factors.
    device
        Where to fit, e.g. "cpu" or "cuda".
    **settings
        Any field of `scgim.inference.FitConfig`, e.g. ``max_steps=1000`` or ``graph_sparsity=50.0``.

    Attributes
    ----------
    fitted_, gim_
        The fitted `scgim.model.FittedGIM` and its model, on the CPU.
    config_, history_
        Its settings, with "auto" resolved, and the course of the fit: name -> values.
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
        mechanism: Literal["auto", "linear", "mlp", "ziln", "count", "count_linear"] = "auto",
        intervention: Literal["hard", "shift"] = "hard",
        device: str = "cpu",
        **settings: Any,
    ) -> None:
        from scgim.inference import make_config

        settings = {"intervention": intervention, "amortised": self._amortised, **settings}
        if settings["amortised"] != self._amortised:
            raise InvalidType(f"amortised cannot be set: it distinguishes gim from bacadi, and this is {self.name}.")
        # Settings that do not exist are refused now, before any data.
        config = make_config(preset, mechanism="mlp" if mechanism == "auto" else mechanism, **settings)
        self.preset, self.mechanism, self.device, self.settings = preset, mechanism, device, settings
        self.reads_counts = config.latent

    @undisturbed()
    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Fit the model; declines data that do not suit the mechanism, or where the fit stops being finite."""
        from scgim.inference import TrainingData as Tensors
        from scgim.inference import check_suited, fit, make_config
        from scgim.model import FittedGIM

        self._check_data(data, features=self._amortised)
        mechanism = _mechanism_for(data.x) if self.mechanism == "auto" else self.mechanism
        config = make_config(self.preset, mechanism=mechanism, **self.settings)
        generator = as_generator(rng)
        seed = draw_seed(generator)
        valid = np.zeros(len(data.x), dtype=bool)
        if config.init == "random":
            valid = _some_of_each(data.codes, _VALID, generator)
        data = replace(self._as_parts(data), valid=valid, known_targets=None, known_values=None)
        try:
            check_suited(data, mechanism, [f"gene {i}" for i in range(data.x.shape[1])])
        except InvalidValue as error:
            raise CannotPredict(f"{self.name} cannot be fitted: {error}") from error
        tensors = Tensors.of(data)
        try:
            result = fit(tensors.to(self.device), config, rng=seed, progress=False)
        except FloatingPointError as error:
            raise CannotPredict(f"{self.name} cannot be fitted: {error}") from error
        self.fitted_ = FittedGIM(result.gim.to("cpu").eval(), result.graph, data.measured)
        self.n_edges_dropped_, self.config_, self.history_ = result.n_dropped, result.config, result.history
        return self

    @property
    def gim_(self) -> GIM:
        """The fitted model."""
        return self.fitted_.gim

    def graph(self) -> np.ndarray:
        """The learned DAG, bool (genes, genes), row = cause."""
        self._check_fitted("fitted_")
        return self.fitted_.graph.copy()

    def edge_probabilities(self) -> np.ndarray:
        """Probability of every edge, (genes, genes), row = cause; `graph` is where it exceeds one half."""
        self._check_fitted("fitted_")
        return self.gim_.graph.probabilities().detach().numpy()

    @undisturbed()
    def targets(self, conditions: Sequence[Condition]) -> np.ndarray:
        """Target probabilities, (conditions, genes); zeros for the control."""
        return self._interventions(conditions).prob.numpy()

    @undisturbed()
    def effects(self, conditions: Sequence[Condition]) -> np.ndarray:
        """What a gene's mechanism would be replaced by, were the gene a target, (conditions, genes).

        Its mean for hard interventions (for "ziln" of log x), the shift for shifts; in the units of the data, behind
        counts in those of the latent expression.
        """
        effects = self._interventions(conditions).effects
        replaced = self.gim_.replaced_parameters(effects)
        return replaced["shift" if "shift" in replaced else "mean"].detach().numpy()

    @undisturbed()
    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` cells by ancestral sampling, atomic interventions drawn for each; float32 (n, genes)."""
        found = self._interventions([condition])
        check_int(n, "n", least=1)
        return self.fitted_.sample(found, 0, n, torch_generator(as_generator(rng)))

    def _interventions(self, conditions: Sequence[Condition]) -> Interventions:
        import torch

        self._check_fitted("fitted_")
        features, membership = self._parts_of(conditions)
        return self.fitted_.interventions(torch.as_tensor(features), torch.as_tensor(membership))

    @abstractmethod
    def _as_parts(self, data: TrainingData) -> TrainingData:
        """The data with the parts and features whose interventions are learned."""

    @abstractmethod
    def _parts_of(self, conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
        """Features (parts, p) and membership (conditions, parts) of conditions to predict."""


class GIMMethod(InterventionModel):
    """Generative intervention model (Schneider et al., ICML 2025): what `scgim.tl.fit_gim` fits.

    With the same cells, settings and seed, graph, targets and cells are those of `scgim.tl.fit_gim` and
    `scgim.tl.sample_cells`. Validation cells are not set apart: after a structure search all cells are trained on
    (nothing is decided on held-out ones); from a random start a tenth of each condition is held out to decide when
    the fit has converged.

    Parameters
    ----------
    preset, mechanism, intervention, device, **settings
        See :class:`~scgim.baselines.gim.InterventionModel`, also for the attributes of a fit.

    Notes
    -----
    The paper tunes the two sparsities and the scales of the priors. `search_space` (all `own`), on a log scale:
    graph_sparsity 5 to 200, target_sparsity 2 to 50 ("auto" is 11 (linear) or 51 (MLP), and 7, on the paper's synthetic
    design), mechanism_scale 1 to 10, intervention_scale 0.3 to 3, target_scale 0.03 to 0.3.

    Examples
    --------
    >>> from scgim.baselines import GIMMethod
    >>> from scgim.benchmark import SyntheticTask
    >>> task = SyntheticTask(n_genes=5, n_perturbations=4, n_features=4, n_new_targets=0, mechanism="linear").load()
    >>> gim = GIMMethod(mechanism="linear", max_steps=20).fit(task.train)
    >>> bool(gim.targets([task.train.condition(0)]).any()), gim.graph().shape
    (False, (5, 5))
    """

    name: ClassVar[str] = "gim"
    can_predict_unseen: ClassVar[bool] = True
    search_space: ClassVar[Mapping[str, Range | Choice]] = {
        **InterventionModel.search_space,
        "target_scale": Range(0.03, 0.3, log=True),
    }
    _amortised: ClassVar[bool] = True

    def _as_parts(self, data: TrainingData) -> TrainingData:
        used = np.flatnonzero(data.membership.any(axis=0)).tolist()
        self.features_ = {data.parts[part]: data.part_features[part] for part in used}
        self.n_features_ = data.features.shape[1]
        return data

    def _parts_of(self, conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
        rows = [self._check_features(c, self.n_features_, self._features(c)) for c in conditions]
        owner = np.repeat(np.arange(len(rows)), [len(of_one) for of_one in rows])
        membership = np.arange(len(rows))[:, None] == owner
        features = np.concatenate([np.empty((0, self.n_features_)), *rows])
        return features.astype(np.float32), membership.astype(np.float32)

    def _features(self, condition: Condition) -> np.ndarray:
        """(parts, p) of one condition; where they are not given, those of the same parts in the training data."""
        if condition.is_control:
            return np.empty((0, self.n_features_))
        if len(condition.parts) == 1:
            return np.asarray(condition.features)[None]
        if condition.part_features is not None:
            return condition.part_features
        missing = [repr(part) for part in condition.parts if part not in self.features_]
        if missing:
            raise CannotPredict(
                f"{self.name} cannot predict the combination {condition.label!r}: {' and '.join(missing)} alone is no "
                "part of the training data, so its features are not known; give them (part_features=)."
            )
        return np.array([self.features_[part] for part in condition.parts])


class BaCaDI(InterventionModel):
    """Free target logits and effects per condition instead of networks; otherwise GIM.

    Causal discovery with unknown interventions (Hägele et al. 2023), in the form that Schneider et al. (2025)
    compare with as BaCaDI*: the same likelihood, priors, acyclicity and inference as GIM, one particle. The
    features are not used, so every condition (each dose of a perturbation, each combination) stands alone, and
    unseen ones are declined (:class:`CannotPredict`): it can only be judged on held-out cells of the training
    conditions.

    Parameters
    ----------
    preset, mechanism, intervention, device, **settings
        See :class:`~scgim.baselines.gim.InterventionModel`. ``network_hidden``, ``linear_skip`` and ``target_scale``
        have no effect; ``intervention_scale`` is the prior scale of the effects, in units of the genes' spreads. The
        search space is that of :class:`GIMMethod` without target_scale.

    Examples
    --------
    >>> from scgim.baselines import BaCaDI
    >>> from scgim.benchmark import SyntheticTask
    >>> task = SyntheticTask(n_genes=5, n_perturbations=4, n_features=4, n_new_targets=0, mechanism="linear").load()
    >>> BaCaDI(mechanism="linear", max_steps=20).fit(task.train).graph().shape
    (5, 5)
    """

    name: ClassVar[str] = "bacadi"
    _amortised: ClassVar[bool] = False

    def _as_parts(self, data: TrainingData) -> TrainingData:
        """Every perturbed condition is a part by itself, without features."""
        own: dict[str, Any] = {"part_features": np.zeros((len(data.conditions), 0)), "membership": None, "parts": None}
        alone = replace(data, **own, known_targets=None, known_values=None)
        self.parts_ = alone.without_empty().parts
        return alone

    def _parts_of(self, conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
        unseen = [c.label for c in conditions if not c.is_control and c.label not in self.parts_]
        if unseen:
            raise CannotPredict(
                f"{self.name} cannot predict {unseen[0]!r}: it had no training cells, and interventions are learned "
                "for each training condition separately."
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
