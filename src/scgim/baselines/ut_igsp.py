"""UT-IGSP: a greedy search over causal orders, scored by edges and targets that tests find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from scgim._validation import check_int

from .causal import CausalBaseline, best_place, check_levels
from .equivalence import essential_graph
from .protocol import Choice, Range, TrainingData
from .tests import GaussianTests

#: Maximum number of states with one score that are visited in the search for a lower one (`own`).
_PLATEAU = 200


@dataclass(kw_only=True, eq=False)
class UTIGSP(CausalBaseline):
    """Unknown-target interventional greedy sparsest permutation.

    Every order of the genes has a sparsest graph that explains the independences among the control cells: i -> j
    where i comes before j and is not independent of j given all other genes before j (Fisher's z of the partial
    correlation). The targets of a condition are the genes whose regression on their parents differs between its
    cells and the control cells. An indicator node per condition, before all genes, turns these targets into edges of
    one augmented graph, and the true order has the fewest edges in it.

    From a random order, covered edges (those whose ends have the same other parents) are turned round as long as
    that takes away edges or targets; where none does, up to `depth` turns that change nothing are tried first. The
    best of several starts is kept, and the result is its equivalence class given the targets.

    Departures from the paper (`own`): covered edges are turned whether or not their ends are targets of the same
    conditions (with many conditions two sets of test results are almost never equal); parents follow from the order
    alone, so that no edge that an early test missed is lost for good; and where no covered edge helps, single genes are
    moved to a better place in the order: with finite samples a wrong order gives a dense graph with almost no covered
    edge, and the search would end far above the score of the true order.

    Parameters
    ----------
    intervention
        "hard" or "shift", of the model that cells are sampled from; the search does not use it.
    alpha, alpha_inv
        Levels of the tests of independence (`own`: 0.001), and of invariance, for each condition and gene (`own`:
        0.0001). Search space: 1e-8 to 0.05 on a log scale, both.
    n_restarts, depth
        Random orders to start from (`own`: 5), and turns in a row that may leave the score as it is (`own`: 4).
    insertions
        False: no moves but turns of covered edges, the moves of the paper.

    Attributes
    ----------
    dag_, score_
        bool (genes, genes), the graph of the best order, a member of the class; and its edges plus its targets.

    References
    ----------
    Squires, Wang & Uhler (2020), Permutation-based causal structure learning with unknown intervention targets, UAI.

    Examples
    --------
    >>> from scgim.baselines import UTIGSP
    >>> from scgim.benchmark import SyntheticTask
    >>> task = SyntheticTask(n_genes=5, n_perturbations=4, n_features=4, n_new_targets=0, mechanism="linear").load()
    >>> UTIGSP().fit(task.train, rng=0).graph().shape
    (5, 5)
    """

    name: ClassVar[str] = "ut_igsp"
    search_space: ClassVar[Mapping[str, Range | Choice]] = {
        "alpha": Range(1e-8, 0.05, log=True),
        "alpha_inv": Range(1e-8, 0.05, log=True),
    }

    alpha: float = 1e-3
    alpha_inv: float = 1e-4
    n_restarts: int = 5
    depth: int = 4
    insertions: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_levels(alpha=self.alpha, alpha_inv=self.alpha_inv)
        check_int(self.n_restarts, "n_restarts", least=1)
        check_int(self.depth, "depth", least=0)

    def _learn(self, data: TrainingData, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        tests = GaussianTests(data, self.alpha, self.alpha_inv)
        starts = [rng.permutation(tests.n_genes).tolist() for _ in range(self.n_restarts)]
        found = [_search(tests, start, self.depth, self.insertions) for start in starts]
        best = min(found, key=lambda state: state.score)
        self.score_ = best.score
        self.dag_ = np.zeros((tests.n_genes, tests.n_genes), dtype=bool)
        for gene, parents in enumerate(best.parents):
            self.dag_[list(parents), gene] = True
        called = np.array([tests.targeting(gene, parents) for gene, parents in enumerate(best.parents)]).T
        return essential_graph(self.dag_, called), called


@dataclass(frozen=True)
class _State:
    """An order of the genes, the graph it implies, and the edges plus targets of each gene."""

    order: tuple[int, ...]
    parents: tuple[tuple[int, ...], ...]  # by gene
    costs: tuple[int, ...]  # by gene

    @classmethod
    def of(cls, order: Sequence[int], tests: GaussianTests) -> Self:
        """The state of an order."""
        empty = cls(tuple(order), ((),) * len(order), (0,) * len(order))
        return empty._refreshed(0, len(order), tests)

    @property
    def score(self) -> int:
        """Edges plus targets."""
        return sum(self.costs)

    def neighbours(self, tests: GaussianTests) -> Iterator[Self]:
        """The states after one covered edge i -> j is turned round."""
        for j in self.order:
            for i in self.parents[j]:
                if set(self.parents[j]) - {i} == set(self.parents[i]):
                    yield self._turned(i, j, tests)

    def _turned(self, i: int, j: int, tests: GaussianTests) -> Self:
        first, last = self.order.index(i), self.order.index(j)
        between = self.order[first + 1 : last]
        # Ancestors of j stay before both. None of them descends from i, or the edge would not be covered.
        lead = {j}
        for gene in reversed(between):
            if any(gene in self.parents[effect] for effect in lead):
                lead.add(gene)
        ancestors = [gene for gene in between if gene in lead]
        others = [gene for gene in between if gene not in lead]
        order = (*self.order[:first], *ancestors, j, i, *others, *self.order[last + 1 :])
        return replace(self, order=order)._refreshed(first, last + 1, tests)

    def _refreshed(self, first: int, last: int, tests: GaussianTests) -> Self:
        """Parents and costs of the genes at these places of the order found anew."""
        parents, costs = list(self.parents), list(self.costs)
        for place in range(first, last):
            gene = self.order[place]
            parents[gene] = tests.parents(gene, self.order[:place])
            costs[gene] = _cost(gene, parents[gene], tests)
        return replace(self, parents=tuple(parents), costs=tuple(costs))


def _cost(gene: int, parents: tuple[int, ...], tests: GaussianTests) -> int:
    """The edges to a gene, and the conditions that target it."""
    return len(parents) + int(tests.targeting(gene, parents).sum())


def _search(tests: GaussianTests, start: Sequence[int], depth: int, insertions: bool) -> _State:
    """The state with the lowest score that is reached from an order."""
    state = _State.of(start, tests)
    while True:
        better = _turned(state, tests, depth)
        if better is None and insertions:
            better = _moved(state, tests)
        if better is None:
            return state
        state = better


def _moved(state: _State, tests: GaussianTests) -> _State | None:
    """The best place for the first gene of the order that has a better one; None where none has."""

    def value(gene: int, before: frozenset[int]) -> float:
        return -_cost(gene, tests.parents(gene, before), tests)

    for gene in state.order:
        order, gain = best_place(value, state.order, gene)
        if gain:
            return _State.of(order, tests)
    return None


def _turned(state: _State, tests: GaussianTests, depth: int) -> _State | None:
    """The best state one turn away; else, after up to `depth` turns that change nothing; None where none is better."""
    seen, level = {state.parents}, [state]
    for _ in range(depth + 1):
        reached = [neighbour for current in level for neighbour in current.neighbours(tests)]
        best = min(reached, key=lambda neighbour: neighbour.score, default=state)
        if best.score < state.score:
            return best
        level = []
        for neighbour in reached:
            if neighbour.score == state.score and neighbour.parents not in seen and len(seen) < _PLATEAU:
                seen.add(neighbour.parents)
                level.append(neighbour)
    return None
