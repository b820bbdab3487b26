"""JCI-PC: the PC algorithm on genes and contexts together, with contexts known to be causes and no effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.linalg import qr
from scipy.sparse.csgraph import breadth_first_order

from scgim._optional import optional_import
from scgim._rng import RngLike, as_generator

from .causal import CausalBaseline, ancestral, check_levels, standard_normal
from .equivalence import draw_dag
from .protocol import Condition, Range, TrainingData, check_positive
from .tests import ConditionTests, FeatureTests

#: A column that the others leave less of, relative to the largest, is a linear function of them (`own`).
_COLLINEAR = 1e-6


@dataclass(kw_only=True, eq=False)
class JCIPC(CausalBaseline):
    """Joint causal inference with PC, one indicator per perturbed condition as context node.

    Indicators are exogenous (no gene causes them), and dependent on each other by design, so edges among them are
    neither tested nor drawn. The targets of a condition are the children of its indicator. For the tests see
    :class:`~scgim.baselines.tests.ConditionTests`.

    causal-learn's PC on all nodes together (20 genes and 160 indicators) took 120 to 190 s and found few edges (F1 0.18
    to 0.36, conditioning on at most two nodes): low-order tests do not separate anything from contexts of which every
    gene has ten as parents. Here the tests are given all (other) contexts, and causal-learn searches over genes alone.

    Parameters
    ----------
    intervention
        "hard" or "shift", of the model that cells are sampled from; the search does not use it.
    alpha
        Level of all tests (`own`: 0.01; search space: 1e-6 to 0.5 on a log scale).
    max_depth
        Maximum number of genes that are conditioned on, besides contexts; None: no bound (`own`: 4).

    References
    ----------
    Mooij, Magliacane & Claassen (2020), Joint causal inference from multiple contexts, JMLR. Zheng et al. (2024),
    Causal-learn: causal discovery in Python, JMLR (the PC algorithm).

    Examples
    --------
    >>> from scgim.baselines import JCIPC
    >>> from scgim.benchmark import SyntheticTask
    >>> task = SyntheticTask(n_genes=5, n_perturbations=4, n_features=4, n_new_targets=0, mechanism="linear").load()
    >>> JCIPC().fit(task.train, rng=0).graph().shape
    (5, 5)
    """

    name: ClassVar[str] = "jci_pc"
    search_space: ClassVar[Mapping[str, Range]] = {"alpha": Range(1e-6, 0.5, log=True)}

    alpha: float = 0.01
    max_depth: int | None = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_levels(alpha=self.alpha)
        check_positive(max_depth=self.max_depth, zero=True)

    def _learn(self, data: TrainingData, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return self._search(ConditionTests(data), rng)

    def _search(
        self, tests: ConditionTests, rng: np.random.Generator, *, contexts_first: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Learn the class of the genes' graph, bool (genes, genes), and children of contexts, bool (contexts, genes).

        1. Skeleton of the genes: PC (stable), given all contexts.
        2. A context and a gene are adjacent unless some subset of the gene's neighbours separates them, given all
           other contexts.
        3. Directions. An edge i - j with a context at i but not at j goes i -> j where i is in the set that separates
           context and j best, and j -> i where not. Contexts vote, before v-structures do or after them, large
           majorities first; last comes what follows by Meek's rules. Where these contradict each other, the first
           stays, and no cycle is left (`own`); `rng` decides ties where one has to be opened.
        """
        module: Any = optional_import("causallearn.utils.PCUtils.SkeletonDiscovery", extra="baselines")
        empty = np.empty((0, tests.means.shape[1]))  # the cells are in the tests
        skeleton = module.skeleton_discovery(
            empty, self.alpha, _Pairs(tests), show_progress=False, max_k=self.max_depth
        )
        adjacent = skeleton.G.graph != 0
        children, separators = _of_contexts(tests, adjacent, self.alpha, self.max_depth)
        directed = np.zeros_like(adjacent)
        if contexts_first:
            _add_votes(directed, adjacent, children, separators)
        _add_colliders(directed, adjacent, skeleton.sepset)
        if not contexts_first:
            _add_votes(directed, adjacent, children, separators)
        learned = _completed(skeleton, directed)
        # Meek's rules may close a cycle where directions are wrong: then a graph without one says which edge to turn.
        turned = learned & ~learned.T & draw_dag(learned, rng).T
        return (learned & ~turned) | turned.T, children


@dataclass(kw_only=True, eq=False)
class JCIPCContext(JCIPC):
    """Joint causal inference with PC, the features of the conditions as context nodes.

    Context nodes are one that tells perturbed cells from the control (`own`: the control has no features), and the
    features, centred over perturbed cells, without those that are linear functions of others. What the search finds is
    fitted as one linear Gaussian model: every gene a linear function of its parents among genes and context nodes. It
    predicts unseen conditions from their features.

    The targets of a condition (`own`): genes on which its context nodes together have a direct effect larger than
    `target_effect` standard deviations of the gene's noise. Every child of a feature would otherwise be a target in
    every condition; and a test against 0 finds nearly all of them, as no intervention is quite linear in its features
    (Target-F1 0.15 against 0.47 on three linear systems with 20 genes, in development).

    Directions come from v-structures first and from contexts where these say nothing, the other way round than in
    :class:`JCIPC` (`own`): a gene that a feature moves little looks like one that it does not move.

    Parameters
    ----------
    alpha, max_depth
        As for :class:`JCIPC`, whose search and search space these are.
    target_effect
        See above (`own`: 2).

    Examples
    --------
    >>> from scgim.baselines import JCIPCContext
    >>> from scgim.benchmark import SyntheticTask
    >>> task = SyntheticTask(n_genes=5, n_perturbations=4, n_features=4, n_new_targets=1, mechanism="linear").load()
    >>> JCIPCContext().fit(task.train, rng=0).sample(task.splits["new_target"][0].condition, n=9).shape
    (9, 5)
    """

    name: ClassVar[str] = "jci_pc_context"
    can_predict_unseen: ClassVar[bool] = True

    intervention: Literal["hard", "shift"] = field(default="shift", init=False)
    target_effect: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(target_effect=self.target_effect, zero=True)

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Learn the class and the genes' context parents, draw a DAG and fit the linear model; needs features."""
        generator = as_generator(rng)
        self._refuse(data)
        self._check_data(data, features=True)
        self.nodes_ = _ContextNodes.of(data)
        contexts = self.nodes_(data.features, ~data.is_control)  # (conditions, contexts)
        tests = FeatureTests(data, contexts)
        learned, children = self._search(tests, generator, contexts_first=False)
        self.model_ = _LinearContexts.fit(data.x, contexts[data.codes], draw_dag(learned, generator), children)
        self.class_ = learned
        return self

    def targets(self, conditions: Sequence[Condition]) -> np.ndarray:
        """Targets of any conditions whose features fit, 0 or 1, (conditions, genes); zeros for the control."""
        self._check_fitted("model_")
        contexts = np.array([self._context(condition) for condition in conditions]).reshape(-1, self.nodes_.n_nodes)
        effects = np.abs(contexts @ self.model_.effects)
        return (effects > self.target_effect * self.model_.deviations).astype(float)

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` cells of any condition whose features fit, seen in training or not; float32 (n, genes)."""
        self._check_fitted("model_")
        return self.model_.sample(self._context(condition), n, rng).astype(np.float32)

    def _context(self, condition: Condition) -> np.ndarray:
        if condition.is_control:
            return np.zeros(self.nodes_.n_nodes)
        features = self._check_features(condition, len(self.nodes_.mean))
        return self.nodes_(features, np.array([True]))[0]


@dataclass(frozen=True)
class _ContextNodes:
    """From features to context nodes: perturbed or not, and independent features, centred; all 0 for the control."""

    mean: np.ndarray  # (features,)
    kept: np.ndarray  # int

    @classmethod
    def of(cls, data: TrainingData) -> Self:
        weights = data.n_cells[data.trained]
        features = data.features[data.trained].astype(np.float64)
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
        noise = standard_normal(n, len(self.dag), rng) * self.deviations
        return ancestral(noise + self.intercepts + context @ self.effects, self.dag, self.weights)


class _Pairs:
    """The tests between genes as causal-learn calls them."""

    method = "given all contexts"

    def __init__(self, tests: ConditionTests) -> None:
        self.tests = tests

    def __call__(self, i: int, j: int, given: tuple[int, ...]) -> float:
        return float(self.tests.between_genes(tuple(sorted(map(int, given))))[i, j])


def _of_contexts(
    tests: ConditionTests, adjacent: np.ndarray, alpha: float, max_depth: int | None
) -> tuple[np.ndarray, list[list[tuple[int, ...]]]]:
    """bool (contexts, genes), and by gene and context the set of neighbours given which they depend least."""
    children, separators = [], []
    for gene in range(len(adjacent)):
        neighbours = np.flatnonzero(adjacent[gene]).tolist()
        largest = tests.of_contexts(gene, ())
        best: list[tuple[int, ...]] = [()] * len(largest)
        for depth in range(1, 1 + min(len(neighbours), len(neighbours) if max_depth is None else max_depth)):
            left = largest <= alpha  # those that smaller sets have separated are not asked again
            if not left.any():
                break
            for given in combinations(neighbours, depth):
                p = tests.of_contexts(gene, given)
                better = left & (p > largest)
                largest = np.where(better, p, largest)
                for context in np.flatnonzero(better):
                    best[context] = given
        children.append(largest <= alpha)
        separators.append(best)
    return np.array(children).T, separators


def _add_votes(
    directed: np.ndarray, adjacent: np.ndarray, children: np.ndarray, separators: list[list[tuple[int, ...]]]
) -> None:
    """Direct edges in place as most contexts say, large majorities first, as far as no cycle arises."""
    votes = np.zeros(adjacent.shape, dtype=int)
    for i, j in np.argwhere(adjacent):
        for context in np.flatnonzero(children[:, i] & ~children[:, j]):
            votes[i, j] += 1 if i in separators[j][context] else -1
    votes -= votes.T
    edges = np.argwhere(votes > 0)
    for i, j in edges[np.argsort(-votes[edges[:, 0], edges[:, 1]], kind="stable")]:
        if not _path(directed, j, i):
            directed[i, j] = True


def _path(directed: np.ndarray, start: int, end: int) -> bool:
    """Whether a directed path leads from `start` to `end`."""
    return bool((breadth_first_order(directed, start, return_predecessors=False) == end).any())


def _add_colliders(directed: np.ndarray, adjacent: np.ndarray, separators: np.ndarray) -> None:
    """Direct i -> k <- j in place, where k is in no set that separates i and j, as far as no cycle arises."""
    for k in range(len(adjacent)):
        for i, j in combinations(np.flatnonzero(adjacent[k]).tolist(), 2):
            if adjacent[i, j] or any(k in given for given in separators[i, j]):
                continue
            if not _path(directed, k, i) and not _path(directed, k, j):
                directed[[i, j], k] = True


def _completed(skeleton: Any, directed: np.ndarray) -> np.ndarray:
    """The class: what follows from these directions by Meek's rules, bool (genes, genes)."""
    knowledge: Any = optional_import("causallearn.utils.PCUtils.BackgroundKnowledge", extra="baselines")
    orient: Any = optional_import("causallearn.utils.PCUtils.BackgroundKnowledgeOrientUtils", extra="baselines")
    rules: Any = optional_import("causallearn.utils.PCUtils.Meek", extra="baselines")
    known = knowledge.BackgroundKnowledge()
    nodes = skeleton.G.nodes
    for i, j in np.argwhere(directed):
        known.add_forbidden_by_node(nodes[j], nodes[i])
    orient.orient_by_background_knowledge(skeleton, known)
    skeleton.test = None  # what follows copies the graph
    # [i, j] of causal-learn's matrix is the mark at i: -1 for a tail, 1 for an arrow head
    return rules.meek(skeleton, background_knowledge=known).G.graph == -1
