"""Score of one gene's parents and targets: a trimmed regression on random features.

For given parents S of gene j, the gene's mechanism is approximated by ridge regression on random tanh features
of x_S (or on x_S itself), and the conditions in which the gene is a target are found by trimming: a condition
whose cells are better described by a mechanism of their own, by more than `target_sparsity` nats, is left out
of the fit. All this needs only one Gram matrix per condition, so that thousands of parent sets can be scored in
seconds. `own`: the paper starts from a random graph.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)


class LocalScores:
    """Cached scores `max over targets of (log likelihood - sparsity)` per gene and parent set.

    Parameters
    ----------
    x
        (cells, genes)
    condition
        (cells,) long; which condition each cell belongs to.
    targetable
        (conditions,) bool: False for the control, whose cells have no targets.
    ziln
        Zero-inflated log-normal response: log x where x > 0, and a zero probability without parents.
    linear
        Regress on the parents themselves instead of random features.
    shift
        Shift interventions: a targeted condition keeps the mechanism, with a free offset.
    known_targets
        (conditions, genes) in {0, 1}, NaN where to be found.
    graph_sparsity, target_sparsity
        Nats per edge, and per target and condition.
    n_features
        Random features.
    """

    #: Trimming starts generously and tightens (a deterministic annealing of the target sparsity).
    _ANNEAL = (100.0, 30.0, 10.0, 5.0, 2.5, 1.0, 1.0)

    def __init__(
        self,
        x: Tensor,
        condition: Tensor,
        targetable: Tensor,
        *,
        ziln: bool,
        linear: bool,
        shift: bool,
        graph_sparsity: float,
        target_sparsity: float,
        generator: torch.Generator,
        known_targets: Tensor | None = None,
        n_features: int = 100,
        chunk: int = 64,
    ) -> None:
        self.n_cells, self.n_genes = x.shape
        self.n_conditions = len(targetable)
        self.ziln, self.linear, self.shift = ziln, linear, shift
        self.graph_sparsity, self.target_sparsity = graph_sparsity, target_sparsity
        self.targetable, self.known_targets = targetable, known_targets
        self.n_scored = 0
        self.cache: dict[tuple[int, frozenset[int]], tuple[float, Tensor]] = {}
        index, owner = _chunks(condition.cpu().numpy(), chunk)
        self.owner = torch.as_tensor(owner, device=x.device)  # (chunks,)
        gather = torch.as_tensor(index, device=x.device)  # (chunks, chunk), -1 = padding
        self.present = (gather >= 0).to(x)
        self.x = x[gather.clamp_min(0)] * self.present.unsqueeze(-1)  # (chunks, chunk, genes)
        scale = x.std(0).clamp_min(1e-3)
        self.standard = (self.x - x.mean(0)) / scale * self.present.unsqueeze(-1)
        # Half of the features are nearly linear over the data's range, half saturate.
        slope = torch.where(torch.arange(n_features) < n_features // 2, 0.4, 1.0)
        weight = torch.randn(self.n_genes, n_features, generator=generator) * slope
        self.weight = weight.to(x)  # (genes, features)
        self.offset = torch.randn(n_features, generator=generator).to(x)

    # -- per-gene preparation -----------------------------------------------------------------------------

    def _per_condition(self, per_chunk: Tensor, dim: int = 0) -> Tensor:
        shape = list(per_chunk.shape)
        shape[dim] = self.n_conditions
        return per_chunk.new_zeros(shape).index_add(dim, self.owner, per_chunk)

    def _response(self, gene: int) -> tuple[Tensor, Tensor]:
        """Response and 0/1 weight of every cell, both (chunks, chunk)."""
        value = self.x[..., gene]
        if self.ziln:
            weight = (value > 0).to(value)
            response = torch.where(value > 0, value, torch.ones_like(value)).log()
        else:
            weight, response = self.present, value
        mean = (weight * response).sum() / weight.sum().clamp_min(1)
        return (response - mean) * weight, weight

    # -- scores -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(
        self, gene: int, parent_sets: list[frozenset[int]], start: Tensor | None = None
    ) -> list[tuple[float, Tensor]]:
        """(score, targets (conditions,) bool) of each parent set; `start`: targets to begin the trimming at."""
        todo = [parents for parents in dict.fromkeys(parent_sets) if (gene, parents) not in self.cache]
        for first in range(0, len(todo), 4):
            self._score(gene, todo[first : first + 4], start)
        return [self.cache[gene, parents] for parents in parent_sets]

    def _features(self, parent_sets: list[frozenset[int]], weight: Tensor) -> Tensor:
        """(sets, chunks, chunk, m) features with a leading constant, zero for cells of weight 0."""
        out = []
        for parents in parent_sets:
            columns = sorted(parents)
            if self.linear:
                design = torch.zeros_like(self.standard)
                design[..., columns] = self.standard[..., columns]
            elif columns:
                design = torch.tanh(self.standard[..., columns] @ self.weight[columns] + self.offset)
            else:
                design = self.standard.new_zeros(*self.standard.shape[:2], self.weight.shape[1])
            design = torch.cat([torch.ones_like(design[..., :1]), design], dim=-1)
            out.append(design * weight.unsqueeze(-1))
        return torch.stack(out)

    def _score(self, gene: int, parent_sets: list[frozenset[int]], start: Tensor | None) -> None:
        self.n_scored += len(parent_sets)
        response, weight = self._response(gene)
        features = self._features(parent_sets, weight)
        n_sets, m = features.shape[0], features.shape[-1]
        moment = features.transpose(2, 3)
        gram = self._per_condition(moment @ features, dim=1)  # (sets, conditions, m, m)
        cross = self._per_condition((moment @ response.unsqueeze(-1)).squeeze(-1), dim=1)  # (sets, conditions, m)
        square = self._per_condition(response.square().sum(1))  # (conditions,)
        count = self._per_condition(weight.sum(1))
        total = self._per_condition(self.present.sum(1))
        ridge = torch.eye(m, dtype=features.dtype, device=features.device)
        mean = cross[0, :, 0] / count.clamp_min(1)
        variance = (square / count.clamp_min(1) - mean.square()).clamp_min(1e-4)
        free = -0.5 * count * (_LOG_2PI + 1 + variance.log())  # (conditions,) log likelihood of own marginals
        free = free + _bernoulli(total - count, total)
        fixed = torch.isnan(self.known_targets[:, gene]) if self.known_targets is not None else None
        may = self.targetable if fixed is None else self.targetable & fixed

        def refit(targets: Tensor) -> tuple[Tensor, Tensor]:
            used = (~targets).to(features)  # (sets, conditions)
            lhs = torch.einsum("sk,skab->sab", used, gram) + ridge
            coefficients = torch.linalg.solve(lhs, torch.einsum("sk,ska->sa", used, cross).unsqueeze(-1))
            fitted = torch.einsum("skab,sb->ska", gram, coefficients[..., 0])
            beta = coefficients[:, None, :, 0]
            rss = (square - 2 * (cross * beta).sum(-1) + (fitted * beta).sum(-1)).clamp_min(1e-6)
            n_used = (used * count).sum(1).clamp_min(1)
            noise = ((used * rss).sum(1) / n_used).clamp_min(1e-4).unsqueeze(1)
            zero_rate = ((used * (total - count)).sum(1) / (used * total).sum(1).clamp_min(1)).unsqueeze(1)
            zeros = torch.xlogy(total - count, zero_rate.clamp_min(1e-6))
            zeros = zeros + torch.xlogy(count, (1 - zero_rate).clamp_min(1e-6))
            own = -0.5 * count * (_LOG_2PI + noise.log()) - 0.5 * rss / noise
            if self.shift:
                residual = cross[..., 0] - fitted[..., 0]
                shifted = own + 0.5 * residual.square() / count.clamp_min(1) / noise
                return own + zeros, shifted + zeros
            return own + zeros, free.expand_as(own)

        best_score, best_targets = None, None
        starts = [(torch.zeros(n_sets, self.n_conditions, dtype=torch.bool, device=count.device), self._ANNEAL)]
        if start is not None:
            starts.append((start.expand(n_sets, -1), self._ANNEAL[-3:]))
        for targets, factors in starts:
            if fixed is not None and self.known_targets is not None:
                targets = torch.where(fixed, targets, self.known_targets[:, gene] > 0.5)
            for factor in factors:
                own, replaced = refit(targets)
                better = (replaced - own) > factor * self.target_sparsity
                targets = torch.where(may, better, targets)
            own, replaced = refit(targets)
            gain = torch.where(targets, replaced - self.target_sparsity, own).sum(1)
            if best_score is None or best_targets is None:
                best_score, best_targets = gain, targets
            else:
                improved = gain > best_score
                best_score = torch.where(improved, gain, best_score)
                best_targets = torch.where(improved.unsqueeze(1), targets, best_targets)
        assert best_score is not None and best_targets is not None
        for i, parents in enumerate(parent_sets):
            value = float(best_score[i]) - self.graph_sparsity * len(parents)
            self.cache[gene, parents] = (value, best_targets[i])

    # -- screening ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def screen(self, n_candidates: int) -> list[set[int]]:
        """For each gene the other genes most correlated with it, over all cells and within conditions."""
        n = self.n_genes
        if n - 1 <= n_candidates:
            return [set(range(n)) - {j} for j in range(n)]
        flat = self.standard.reshape(-1, n)
        total = self._per_condition(self.present.sum(1)).clamp_min(1)
        means = self._per_condition(self.standard.sum(1)) / total.unsqueeze(1)
        inner = (self.standard - means[self.owner].unsqueeze(1)) * self.present.unsqueeze(-1)
        strength = _correlation(flat).square() + _correlation(inner.reshape(-1, n)).square()
        strength.fill_diagonal_(-1)
        chosen = strength.topk(n_candidates, dim=0).indices  # (candidates, genes)
        candidates = [set(chosen[:, j].tolist()) for j in range(n)]
        for j in range(n):  # symmetric, so that every edge can be reversed
            for i in list(candidates[j]):
                candidates[i].add(j)
        return candidates


def _chunks(condition: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of each condition in rows of `size`, padded with -1, and the condition of each row."""
    rows, owner = [], []
    for k in np.unique(condition):
        cells = np.flatnonzero(condition == k)
        for first in range(0, len(cells), size):
            row = np.full(size, -1)
            piece = cells[first : first + size]
            row[: len(piece)] = piece
            rows.append(row)
            owner.append(int(k))
    return np.array(rows), np.array(owner)


def _bernoulli(successes: Tensor, total: Tensor) -> Tensor:
    """Maximised Bernoulli log likelihood per condition."""
    rate = successes / total.clamp_min(1)
    return torch.xlogy(successes, rate) + torch.xlogy(total - successes, 1 - rate)


def _correlation(x: Tensor) -> Tensor:
    second = x.T @ x
    norm = second.diagonal().clamp_min(1e-12).sqrt()
    return second / norm.outer(norm)
