"""Score of one gene's parents and targets where expression is latent: a trimmed regression on expected moments (`own`).

The latent expression z of a cell is known up to its posterior. What a regression needs of it are first and second
moments of a few functions of every gene, expected under the posterior and summed over the cells of each condition:
with these, any parent set is scored by small matrices, whatever the number of cells. The functions of a parent are
itself and two sigmoids (`basis`), added up over parents: enough for mechanisms that saturate, three numbers an edge.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from scgim.model.distributions import PRIOR_CELLS

#: Functions of one parent.
N_BASIS = 3
#: Conditions whose moments are put into place together: writing one column after the other is slow.
_AT_ONCE = 16


def basis(z: Tensor) -> Tensor:
    """(..., genes, N_BASIS) functions of standardised expression (..., genes); the first is itself."""
    return torch.stack([z, torch.tanh(z - 1), torch.tanh(z + 1)], -1)


def basis_slope(z: Tensor) -> Tensor:
    """(..., genes, N_BASIS) derivatives of `basis`."""
    return torch.stack([torch.ones_like(z), 1 - torch.tanh(z - 1).square(), 1 - torch.tanh(z + 1).square()], -1)


def moments(
    z: Tensor, condition: Tensor, n_conditions: int, origin: Tensor | float = 0.0, scale: Tensor | float = 1.0
) -> np.ndarray:
    """(D (D + 1) / 2, conditions) sums over cells of the products of 1 and all functions, D = 1 + genes * N_BASIS.

    Of each pair once, as `_pairs` places it: what a regression reads of all conditions then lies together.
    z: (draws, cells, genes), the mean over draws, standardised by `origin` and `scale` (genes,).
    """
    n_draws, _, n_genes = z.shape
    size = 1 + n_genes * N_BASIS
    row, column = np.tril_indices(size)
    out = np.empty((len(row), n_conditions))
    of_conditions = condition.argsort(stable=True).split(torch.bincount(condition, minlength=n_conditions).tolist())
    for first in range(0, n_conditions, _AT_ONCE):
        block = np.zeros((len(of_conditions[first : first + _AT_ONCE]), len(row)))
        for sums, cells in zip(block, of_conditions[first:], strict=False):
            for part in cells.split(max(1, 8_000_000 // (n_draws * size))):
                functions = basis(((z[:, part] - origin) / scale).float()).flatten(-2).reshape(-1, size - 1)
                functions = torch.cat([torch.ones_like(functions[:, :1]), functions], 1)
                sums += (functions.T @ functions / n_draws).cpu().numpy()[row, column]
        out[:, first : first + _AT_ONCE] = block.T
    return out


def _pairs(one: np.ndarray, other: np.ndarray | int) -> np.ndarray:
    """Places of pairs of functions in `moments`."""
    high, low = np.maximum(one, other), np.minimum(one, other)
    return high * (high + 1) // 2 + low


class MomentScores:
    """Scores `max over targets of (log likelihood - sparsity)` per gene and parent set, as `LocalScores` gives them.

    Parameters
    ----------
    n_cells
        (conditions,)
    second
        From `moments`.
    targetable
        (conditions,) bool: False for the control.
    shift
        Shift interventions: a targeted condition keeps the mechanism, with an offset of its own.
    graph_sparsity
        Nats per edge.
    target_sparsity
        (genes,) or (conditions, genes) nats per target.
    known_targets
        (conditions, genes) in {0, 1}, NaN where to be found.
    candidates
        Possible parents of a gene at most, in `screen`.
    """

    #: Trimming starts generously and tightens (a deterministic annealing of the target sparsity).
    _ANNEAL: tuple[float, ...] = (10.0, 3.0, 1.0, 1.0)
    #: Steps from given targets until they stay.
    _REFINE: tuple[float, ...] = (1.0, 1.0)

    def __init__(
        self,
        n_cells: np.ndarray,
        second: np.ndarray,
        targetable: np.ndarray,
        *,
        shift: bool,
        graph_sparsity: float,
        target_sparsity: np.ndarray,
        known_targets: np.ndarray | None = None,
    ) -> None:
        self.n, self.targetable, self.shift = n_cells.astype(float), targetable, shift
        self.n_conditions = second.shape[1]
        self.n_genes = (math.isqrt(8 * len(second) + 1) // 2 - 1) // N_BASIS
        self.graph_sparsity, self.target_sparsity = graph_sparsity, target_sparsity
        self.known_targets = known_targets
        self.n_scored = 0
        self.cache: dict[tuple[int, frozenset[int]], tuple[float, Tensor]] = {}
        self.second, self.total = second, second.sum(1)
        self.own = 1 + N_BASIS * np.arange(self.n_genes)
        self.first = second[_pairs(self.own, 0)].T  # (conditions, genes) sums of z
        self.square = second[_pairs(self.own, self.own)].T
        n = self.n[:, None]
        self.mean = self.first / (n + 1.0)
        around = np.maximum(self.square - 2 * self.mean * self.first + n * self.mean**2, 0.0)
        self.variance = (around + PRIOR_CELLS) / (n + PRIOR_CELLS)
        spread = np.log(2 * np.pi * self.variance)
        self.free = -0.5 * n * spread - 0.5 * around / self.variance + _spread_prior(self.variance)

    def regression(self, gene: int, parents: frozenset[int]) -> _Regression:
        return _Regression(self, gene, parents)

    def score(
        self, gene: int, parent_sets: list[frozenset[int]], start: Tensor | None = None
    ) -> list[tuple[float, Tensor]]:
        """(score, targets (conditions,) bool) of each parent set; `start`: targets to begin the trimming at."""
        for parents in dict.fromkeys(parent_sets):
            if (gene, parents) not in self.cache:
                self.cache[gene, parents] = self._score(gene, parents, start)
                self.n_scored += 1
        return [self.cache[gene, parents] for parents in parent_sets]

    def _score(self, gene: int, parents: frozenset[int], start: Tensor | None) -> tuple[float, Tensor]:
        fit, sparsity = self.regression(gene, parents), self.target_sparsity[..., gene]
        may, told = self.targetable, np.zeros(self.n_conditions, dtype=bool)
        if self.known_targets is not None:
            known = self.known_targets[:, gene]
            may, told = may & np.isnan(known), np.nan_to_num(known) > 0.5
        factors = self._ANNEAL if start is None else self._REFINE
        targets = told if start is None else np.where(may, start.numpy(), told)
        for factor in factors:
            fit.refit(targets)
            better = np.where(may, fit.replaced - fit.own > factor * sparsity, told)
            if factor == 1.0 and (better == targets).all():
                break
            targets = better
        else:
            fit.refit(targets)
        value = np.where(targets, fit.replaced - sparsity, fit.own).sum() + _spread_prior(fit.variance)
        return float(value) - self.graph_sparsity * len(parents), torch.as_tensor(targets)

    def screen(self, n_candidates: int) -> list[set[int]]:
        """For each gene the other genes most correlated with it, over all cells and within conditions."""
        n = self.n_genes
        if n - 1 <= n_candidates:
            return [set(range(n)) - {j} for j in range(n)]
        square = self.total[_pairs(self.own[:, None], self.own)]
        mean, whole = self.first / np.maximum(self.n, 1.0)[:, None], self.first.sum(0) / self.n.sum()
        within = square - (self.n[:, None] * mean).T @ mean
        overall = square - self.n.sum() * np.outer(whole, whole)
        strength = _correlation(overall) ** 2 + _correlation(within) ** 2
        np.fill_diagonal(strength, -1.0)
        candidates = [set(np.argsort(-strength[:, j], kind="stable")[:n_candidates].tolist()) for j in range(n)]
        for j in range(n):  # symmetric, so that every edge can be reversed
            for i in list(candidates[j]):
                candidates[i].add(j)
        return candidates


class _Regression:
    """One gene on its parents: coefficients, variance, and log likelihood of every condition, own and replaced."""

    own: np.ndarray
    replaced: np.ndarray
    offset: np.ndarray  # (conditions,) mean of what is left

    def __init__(self, scores: MomentScores, gene: int, parents: frozenset[int]) -> None:
        self.scores, self.gene = scores, gene
        at = np.array([0] + [1 + N_BASIS * i + f for i in sorted(parents) for f in range(N_BASIS)])
        within, across = _pairs(at[:, None], at), _pairs(at, scores.own[gene])
        self.gram, self.cross = scores.second[within], scores.second[across]  # (m, m, conditions), (m, conditions)
        self.gram_all = scores.total[within] + np.eye(len(at))  # ridge
        self.cross_all = scores.total[across]

    def refit(self, targets: np.ndarray) -> None:
        """Fit on the untargeted conditions."""
        scores, gene, n = self.scores, self.gene, self.scores.n
        gram, cross = self.gram_all, self.cross_all
        if targets.any():
            gram, cross = gram - self.gram[..., targets].sum(-1), cross - self.cross[:, targets].sum(-1)
        self.beta = np.linalg.solve(gram, cross)
        explained = np.outer(self.beta, self.beta).ravel() @ self.gram.reshape(len(self.beta) ** 2, -1)
        rss = np.maximum(scores.square[:, gene] + explained - 2 * self.beta @ self.cross, 0.0)
        used = ~targets
        self.variance = (rss[used].sum() + PRIOR_CELLS) / (n[used].sum() + PRIOR_CELLS)
        constant = -0.5 * n * math.log(2 * math.pi * self.variance)
        self.own = constant - 0.5 * rss / self.variance
        left = scores.first[:, gene] - self.beta @ self.gram[0]
        self.offset = left / (n + 1.0)
        self.replaced = scores.free[:, gene]
        if scores.shift:
            around = rss - 2 * self.offset * left + n * self.offset**2
            self.replaced = constant - 0.5 * around / self.variance


def _spread_prior(variance):
    """As `scgim.model.distributions.spread_log_prior`, of a variance."""
    return -0.5 * PRIOR_CELLS * (np.log(variance) + 1 / variance - 1)


def _correlation(second: np.ndarray) -> np.ndarray:
    norm = np.sqrt(np.maximum(second.diagonal(), 1e-12))
    return second / np.outer(norm, norm)
