"""The PC algorithm on genes, with contexts that are known to be causes and no effects of genes (JCI).

causal-learn's PC on all nodes together (20 genes and 160 indicators, one core) took 120 to 190 s and found few edges
(F1 0.18 to 0.36, conditioning on at most one or two nodes): low-order tests do not separate anything from contexts of
which every gene has ten as parents. Here the tests are given all (other) contexts, so that causal-learn searches over
genes alone, and what the contexts say about directions is its background knowledge.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from scgim._optional import optional_import

from .context_tests import ContextTests
from .equivalence import draw_dag


def search(
    tests: ContextTests,
    n_genes: int,
    alpha: float,
    max_depth: int | None,
    rng: np.random.Generator,
    *,
    contexts_first: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Learn the class of the genes' graph, and which genes are children of which contexts.

    1. Skeleton of the genes: PC (stable), given all contexts.
    2. A context and a gene are adjacent unless some subset of the gene's neighbours separates them, given all other
       contexts.
    3. Directions. An edge i - j with a context at i but not at j goes i -> j where i is in the set that separates
       context and j best, and j -> i where not. Contexts vote; edges are directed in the order of their majorities.
       Edges of v-structures are directed, and last comes what follows by Meek's rules. Where these contradict each
       other, the first stays, and no cycle is left (`own`).

    Parameters
    ----------
    tests
        What is asked.
    n_genes
        Number of genes.
    alpha
        Level of all tests.
    max_depth
        Most genes that are conditioned on, besides contexts; None: no bound.
    rng
        Decides ties where a cycle has to be opened.
    contexts_first
        Whether contexts direct edges before v-structures do.

    Returns
    -------
    learned : bool (genes, genes)
        The class; an undirected edge has both entries.
    children : bool (contexts, genes)
    """
    module: Any = optional_import("causallearn.utils.PCUtils.SkeletonDiscovery", extra="baselines")
    empty = np.empty((0, n_genes))  # the cells are in the tests
    skeleton = module.skeleton_discovery(empty, alpha, _Pairs(tests), show_progress=False, max_k=max_depth)
    adjacent = skeleton.G.graph != 0
    children, separators = _of_contexts(tests, adjacent, alpha, max_depth)
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


class _Pairs:
    """The tests between genes as causal-learn calls them."""

    method = "given all contexts"

    def __init__(self, tests: ContextTests) -> None:
        self.tests = tests

    def __call__(self, i: int, j: int, given: tuple[int, ...]) -> float:
        return float(self.tests.between_genes(tuple(sorted(map(int, given))))[i, j])


def _of_contexts(
    tests: ContextTests, adjacent: np.ndarray, alpha: float, max_depth: int | None
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
    reached = np.zeros(len(directed), dtype=bool)
    new = np.arange(len(directed)) == start
    while new.any():
        reached |= new
        new = directed[new].any(axis=0) & ~reached
    return bool(reached[end])


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
