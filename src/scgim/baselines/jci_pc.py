"""JCI-PC: the PC algorithm on genes and contexts together, with contexts known to be causes and no effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from scipy.linalg import qr

from scgim._rng import RngLike, as_generator
from scgim.simulate import topological_order

from .causal import CausalBaseline
from .context_search import search
from .context_tests import ConditionTests, FeatureTests
from .equivalence import draw_dag
from .protocol import CannotPredict, Condition, Range, TrainingData, check_fitted
from .shift import check_features

#: A column that the others leave less of, relative to the largest, is a linear function of them (`own`).
_COLLINEAR = 1e-6


class JCIPC(CausalBaseline):
    """Joint causal inference with PC, one indicator per perturbed condition as context node.

    Indicators are exogenous (no gene causes them), and dependent on each other by design, so edges among them are
    neither tested nor drawn. The targets of a condition are the children of its indicator. See
    :mod:`~scgim.baselines.context_search` for the search and :mod:`~scgim.baselines.context_tests` for the tests.

    Parameters
    ----------
    alpha
        Level of all tests (`own`: 0.01).
    max_depth
        Most genes that are conditioned on, besides contexts; None: no bound (`own`: 4).
    intervention
        "hard" or "shift", of the model that cells are sampled from; the search does not use it.

    Notes
    -----
    Search space (`own`): `alpha` from 1e-6 to 0.5 on a log scale.

    References
    ----------
    Mooij, Magliacane & Claassen (2020), Joint causal inference from multiple contexts, JMLR. Zheng et al. (2024),
    Causal-learn: causal discovery in Python, JMLR (the PC algorithm).

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgim.baselines import TrainingData
    >>> from scgim.baselines.jci_pc import JCIPC
    >>> rng = np.random.default_rng(0)
    >>> cause = np.concatenate([rng.normal(size=300), rng.normal(4.0, 1.0, 100)])
    >>> x = np.stack([cause, cause + 0.5 * rng.normal(size=400)], axis=1)
    >>> table = pd.DataFrame({"condition": ["control", "A"], "perturbation": ["control", "A"],
    ...                       "dose": [np.nan, np.nan], "is_control": [True, False]})
    >>> data = TrainingData(x, np.repeat([0, 1], [300, 100]), table, np.array([[0.0], [1.0]]))
    >>> method = JCIPC().fit(data)
    >>> method.graph().astype(int).tolist(), method.targets([data.condition(1)]).tolist()
    ([[0, 1], [0, 0]], [[1.0, 0.0]])
    """

    name: ClassVar[str] = "jci_pc"
    min_cells: ClassVar[int] = 5
    search_space: ClassVar[Mapping[str, Range]] = {"alpha": Range(1e-6, 0.5, log=True)}

    def __init__(
        self, *, alpha: float = 0.01, max_depth: int | None = 4, intervention: Literal["hard", "shift"] = "hard"
    ) -> None:
        super().__init__(intervention=intervention)
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is the level of a test, between 0 and 1, got {alpha}.")
        if max_depth is not None and max_depth < 0:
            raise ValueError(f"max_depth must not be negative, got {max_depth}.")
        self.alpha, self.max_depth = alpha, max_depth

    def _learn(self, data: TrainingData, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n_genes = data.x.shape[1]
        learned, children = search(ConditionTests(data), n_genes, self.alpha, self.max_depth, rng)
        targets = np.zeros((len(data.conditions), n_genes), dtype=bool)
        targets[data.trained] = children
        return learned, targets


class JCIPCContext(JCIPC):
    """Joint causal inference with PC, the features of the conditions as context nodes.

    Context nodes are one that tells perturbed cells from the control (`own`: the control has no features), and the
    features, centred over perturbed cells; features that are linear functions of others are left out. What the search
    finds is fitted as one linear Gaussian model: every gene a linear function of its parents among genes and context
    nodes. It predicts unseen conditions from their features.

    The targets of a condition (`own`): genes on which its context nodes together have a direct effect larger than
    `target_effect` standard deviations of the gene's noise. Every child of a feature would otherwise be a target in
    every condition, as features are hardly ever exactly 0; and a test against 0 finds nearly all of them, as no
    intervention is quite linear in its features (Target-F1 0.15 against 0.47 on three linear systems with 20 genes,
    in development).

    Directions come from v-structures first and from contexts where these say nothing, the other way round than in
    :class:`JCIPC` (`own`): a gene that a feature hardly moves looks like one that it does not move.

    Parameters
    ----------
    alpha, max_depth
        As for :class:`JCIPC`.
    target_effect
        See above (`own`: 2).

    Notes
    -----
    Search space (`own`): `alpha` from 1e-6 to 0.5 on a log scale. The search and its sources are those of
    :class:`JCIPC`.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgim.baselines import TrainingData
    >>> from scgim.baselines.jci_pc import JCIPCContext
    >>> rng = np.random.default_rng(0)
    >>> dose = np.repeat([0.0, 1.0, 2.0], 200)
    >>> cause = rng.normal(size=600) + 3 * dose
    >>> x = np.stack([cause, cause + 0.5 * rng.normal(size=600)], axis=1)
    >>> table = pd.DataFrame({"condition": ["control", "A_1", "A_2", "A_4"], "perturbation": ["control"] + 3 * ["A"],
    ...                       "dose": [np.nan, 1, 2, 4], "is_control": [True, False, False, False]})
    >>> data = TrainingData(x, np.repeat([0, 1, 2], 200), table, np.array([[0.0], [1.0], [2.0], [4.0]]))
    >>> method = JCIPCContext().fit(data)
    >>> method.sample(data.condition(3), n=2000).mean(axis=0).round().tolist()
    [12.0, 12.0]
    """

    name: ClassVar[str] = "jci_pc_context"
    can_predict_unseen: ClassVar[bool] = True

    def __init__(self, *, alpha: float = 0.01, max_depth: int | None = 4, target_effect: float = 2.0) -> None:
        super().__init__(alpha=alpha, max_depth=max_depth, intervention="shift")
        if not target_effect >= 0:
            raise ValueError(f"target_effect must not be negative, got {target_effect}.")
        self.target_effect = target_effect

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Learn the class and the genes' context parents, draw a DAG and fit the linear model.

        Raises
        ------
        CannotPredict
            As for :class:`JCIPC`, or if the conditions have no features.
        """
        generator = as_generator(rng)
        self._refuse(data)
        if data.features.shape[1] == 0:
            raise CannotPredict(f"{self.name} cannot be fitted: the conditions have no features.")
        self.nodes_ = _ContextNodes.of(data)
        perturbed = ~data.conditions["is_control"].to_numpy(dtype=bool)
        contexts = self.nodes_(data.condition_features, perturbed)  # (conditions, contexts)
        n_genes = data.x.shape[1]
        tests = FeatureTests(data, contexts)
        learned, children = search(tests, n_genes, self.alpha, self.max_depth, generator, contexts_first=False)
        dag = draw_dag(learned, generator)
        self.class_, self.children_ = learned, children
        self.model_ = _LinearContexts.fit(data.x, contexts[data.codes], dag, children)
        return self

    def graph(self) -> np.ndarray:
        """The learned class, bool (genes, genes), row = cause; an undirected edge has both entries."""
        check_fitted(self, "model_")
        return self.class_.copy()

    def targets(self, conditions: Sequence[Condition]) -> np.ndarray:
        """Targets of any conditions, 0 or 1, (conditions, genes); zeros for the control.

        Raises
        ------
        CannotPredict
            If the features of a condition do not fit.
        """
        check_fitted(self, "model_")
        contexts = np.array([self._context(condition) for condition in conditions]).reshape(-1, self.nodes_.n_nodes)
        effects = np.abs(contexts @ self.model_.effects)
        return (effects > self.target_effect * self.model_.deviations).astype(float)

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` cells of any condition, seen in training or not; float32 (n, genes).

        Raises
        ------
        CannotPredict
            If its features do not fit.
        """
        check_fitted(self, "model_")
        return self.model_.sample(self._context(condition), n, rng).astype(np.float32)

    def _context(self, condition: Condition) -> np.ndarray:
        if condition.is_control:
            return np.zeros(self.nodes_.n_nodes)
        features = check_features(self.name, condition, len(self.nodes_.mean))
        return self.nodes_(features, np.array([True]))[0]


@dataclass(frozen=True)
class _ContextNodes:
    """From features to context nodes: perturbed or not, and independent features, centred; all 0 for the control."""

    mean: np.ndarray  # (features,)
    kept: np.ndarray  # int

    @classmethod
    def of(cls, data: TrainingData) -> Self:
        weights = np.bincount(data.codes, minlength=len(data.conditions))[data.trained]
        features = data.condition_features[data.trained].astype(np.float64)
        mean = np.average(features, axis=0, weights=weights)
        scale = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))
        varying = np.flatnonzero(scale > _COLLINEAR * np.abs(features).max(initial=0.0))
        standard = ((features - mean) * np.sqrt(weights)[:, None])[:, varying] / scale[varying]
        if not len(varying):
            return cls(mean, varying)
        _, triangle, order = qr(standard, mode="economic", pivoting=True)
        left = np.abs(triangle.diagonal())
        return cls(mean, np.sort(varying[order[: len(left)][left > _COLLINEAR * left[0]]]))

    @property
    def n_nodes(self) -> int:
        return 1 + len(self.kept)

    def __call__(self, features: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
        """(conditions, features) and bool (conditions,) -> (conditions, contexts)"""
        centred = (features.astype(np.float64) - self.mean)[:, self.kept]
        return np.where(perturbed[:, None], np.column_stack([np.ones(len(centred)), centred]), 0.0)


@dataclass(frozen=True)
class _LinearContexts:
    """Every gene is a linear function of its parents among genes and contexts, plus Gaussian noise."""

    dag: np.ndarray  # (genes, genes)
    weights: np.ndarray  # (genes, genes)
    effects: np.ndarray  # (contexts, genes)
    intercepts: np.ndarray  # (genes,)
    deviations: np.ndarray  # (genes,)

    @classmethod
    def fit(cls, x: np.ndarray, contexts: np.ndarray, dag: np.ndarray, children: np.ndarray) -> Self:
        x = x.astype(np.float64)
        n_genes, n_contexts = x.shape[1], contexts.shape[1]
        weights, effects = np.zeros((n_genes, n_genes)), np.zeros((n_contexts, n_genes))
        intercepts, deviations = np.zeros(n_genes), np.zeros(n_genes)
        for gene in range(n_genes):
            parents, of = np.flatnonzero(dag[:, gene]), np.flatnonzero(children[:, gene])
            design = np.column_stack([x[:, parents], contexts[:, of], np.ones(len(x))])
            coefficients = np.linalg.lstsq(design, x[:, gene], rcond=None)[0]
            weights[parents, gene] = coefficients[: len(parents)]
            effects[of, gene] = coefficients[len(parents) : -1]
            intercepts[gene] = coefficients[-1]
            deviations[gene] = np.sqrt(np.square(x[:, gene] - design @ coefficients).mean())
        return cls(dag, weights, effects, intercepts, deviations)

    def sample(self, context: np.ndarray, n: int, rng: RngLike) -> np.ndarray:
        """(n, genes) by ancestral sampling."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}.")
        noise = as_generator(rng).standard_normal((n, len(self.dag))) * self.deviations
        x = noise + self.intercepts + context @ self.effects
        for gene in topological_order(self.dag):
            x[:, gene] += x @ self.weights[:, gene]
        return x
