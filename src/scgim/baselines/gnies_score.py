"""The score of GnIES, and the search for the causal order that maximises it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

#: The alternating estimation of a mechanism ends when no coefficient changes by more, relative to the largest.
_TOLERANCE = 1e-6
#: Most rounds of it.
_ROUNDS = 50
#: A graph is better if its score is higher by more than this.
_GAIN = 1e-6


@dataclass(frozen=True)
class Mechanism:
    """What explains a gene best, given which genes may be its causes."""

    score: float
    parents: frozenset[int]
    varies: bool  # with the condition


class GnIESScore:
    """Penalised Gaussian likelihood of a graph and the set of genes whose noise differs between conditions.

    The coefficients of a gene are the same in all conditions. Its noise has a mean and a variance of its own in every
    condition where the gene is in that set, else the same in all. Every parameter costs `penalty`. Gamella, Taeb,
    Heinze-Deml & Bühlmann (2022), section 4, with means (``center=False`` in their package), from covariances instead
    of cells. For a gene in the set the numbers are those of their package. For any other gene the package takes the
    coefficients from within conditions alone; here they are those of the maximum of the likelihood, from all cells.

    The score is a sum over genes, also with respect to the set: :meth:`best` decides for each gene by itself.

    Parameters
    ----------
    x
        (cells, genes)
    groups
        int (cells,), 0, 1, ...: the condition of each cell, none empty.
    penalty
        Of every parameter.
    """

    def __init__(self, x: np.ndarray, groups: np.ndarray, penalty: float) -> None:
        cells = [np.asarray(x[groups == group], dtype=np.float64) for group in range(groups.max() + 1)]
        self.sizes = np.array([len(own) for own in cells], dtype=float)
        centred = [own - own.mean(axis=0) for own in cells]
        self.covariances = np.array([own.T @ own / len(own) for own in centred])  # (conditions, genes, genes)
        self.pooled = np.einsum("c,cij->ij", self.sizes / self.sizes.sum(), self.covariances)
        self.total = np.cov(x, rowvar=False, ddof=0, dtype=np.float64).reshape(x.shape[1], x.shape[1])
        self.penalty, self.n_genes = penalty, x.shape[1]
        self.best = cache(self._best)
        self.local = cache(self._local)

    def _best(self, gene: int, candidates: frozenset[int]) -> Mechanism:
        """The best mechanism with parents among the candidates, by greedy addition and removal."""
        mechanisms = (self._greedy(gene, candidates, varies) for varies in (False, True))
        return max(mechanisms, key=lambda mechanism: mechanism.score)

    def _greedy(self, gene: int, candidates: frozenset[int], varies: bool) -> Mechanism:
        current = Mechanism(self.local(gene, frozenset(), varies), frozenset(), varies)
        while True:
            steps = [current.parents | {other} for other in sorted(candidates - current.parents)]
            if len(current.parents) > 1:
                steps += [current.parents - {parent} for parent in sorted(current.parents)]
            found = [Mechanism(self.local(gene, parents, varies), parents, varies) for parents in steps]
            following = max(found, key=lambda mechanism: mechanism.score, default=current)
            if following.score <= current.score + _GAIN:
                return current
            current = following

    def _local(self, gene: int, parents: frozenset[int], varies: bool) -> float:
        """The term of one gene."""
        nodes = [*sorted(parents), gene]
        if not varies:
            total = self.total[np.ix_(nodes, nodes)]
            contrast = _contrast(total)
            fit = self.sizes.sum() * (1 + np.log(contrast @ total @ contrast))
            return float(-0.5 * fit - self.penalty * (len(parents) + 2))
        contrast = _contrast(self.pooled[np.ix_(nodes, nodes)])
        covariances, n_conditions = self.covariances[:, nodes][:, :, nodes], len(self.sizes)
        flat = covariances.reshape(n_conditions, -1)
        for _ in range(_ROUNDS if parents else 0):
            weights = self.sizes / (covariances @ contrast @ contrast)
            before, contrast = contrast, _contrast((weights @ flat / weights.sum()).reshape(len(nodes), len(nodes)))
            if np.abs(contrast - before).max() <= _TOLERANCE * np.abs(contrast[:-1]).max():
                break
        fit = (self.sizes * (1 + np.log(covariances @ contrast @ contrast))).sum()
        return float(-0.5 * fit - self.penalty * (len(parents) + 2 * n_conditions))


def _contrast(covariance: np.ndarray) -> np.ndarray:
    """Weights whose product with the variables is the last one minus its regression on the others."""
    return np.append(-np.linalg.solve(covariance[:-1, :-1], covariance[:-1, -1]), 1.0)


def search(score: GnIESScore, order: Sequence[int]) -> tuple[list[int], float]:
    """Improve a causal order: genes move to their best place in it, one after the other, until none gains.

    Every gene has the best mechanism with parents among those before it. Returns the order and its score.
    """
    order = list(order)
    while True:
        gained = 0.0
        for gene in tuple(order):
            order, gain = _moved(score, order, gene)
            gained += gain
        if gained <= _GAIN:
            return order, sum(mechanism.score for mechanism in mechanisms(score, order))


def _moved(score: GnIESScore, order: list[int], gene: int) -> tuple[list[int], float]:
    """The order with `gene` at its best place, and what that gains."""
    start = order.index(gene)
    best, most = order, 0.0
    for step in (-1, 1):
        moved, place, gain = list(order), start, 0.0
        while 0 <= place + step < len(order):
            first = min(place, place + step)
            gain -= _score_of(score, moved, first)
            moved[place], moved[place + step] = moved[place + step], gene
            gain += _score_of(score, moved, first)
            place += step
            if gain > most + _GAIN:
                best, most = list(moved), gain
    return best, most


def _score_of(score: GnIESScore, order: list[int], first: int) -> float:
    """Terms of the genes at two neighbouring places."""
    before = frozenset(order[:first])
    one, other = order[first], order[first + 1]
    return score.best(one, before).score + score.best(other, before | {one}).score


def mechanisms(score: GnIESScore, order: Sequence[int]) -> list[Mechanism]:
    """The best mechanism of every gene, in the order of `order`."""
    return [score.best(gene, frozenset(order[:place])) for place, gene in enumerate(order)]
