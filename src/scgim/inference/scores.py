"""Score of one gene's parents and targets: a trimmed regression on random features.

For given parents S of gene j, the gene's mechanism is approximated by ridge regression on random tanh features
of x_S (or on x_S itself), and the conditions in which the gene is a target are found by trimming: a condition
whose cells are better described by a mechanism of their own, by more than `target_sparsity` nats, is left out
of the fit. All this needs only one Gram matrix per condition, so that thousands of parent sets can be scored in
seconds. Densities and priors of spreads are those of the fit (`with_outliers`, `spread_log_prior`): neither a few
odd cells nor a few that agree by chance make a target. `own`: the paper starts from a random graph.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from scgim.model.distributions import (
    PRIOR_CELLS,
    normal_log_prob,
    outlier_log_prob,
    outlier_share,
    spread_log_prior,
    with_outliers,
)
from scgim.model.mechanisms import response_units, trust

#: Types of device on which float64 does not exist: Apple's GPUs.
_WITHOUT_FLOAT64 = {"mps"}


def marginals(count: Tensor, total: Tensor, square: Tensor, trust: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log spread of cells in units of their gene, from their number and the sums of values and squares.

    Cells count with the weight `trust` (`scgim.model.Mechanisms`). One cell of the prior stands at the gene's centre,
    `PRIOR_CELLS` have its spread.
    """
    count, total, square = trust * count, trust * total, trust * square
    mean = total / (count + 1.0)
    around = (square - 2 * mean * total + count * mean.square()).clamp_min(0.0)
    return mean, 0.5 * ((around + PRIOR_CELLS) / (count + PRIOR_CELLS)).log()


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
        Shift interventions: a targeted condition keeps the mechanism, with a free offset (and a zero rate of its own).
    known_targets
        (conditions, genes) in {0, 1}, NaN where to be found.
    graph_sparsity, target_sparsity
        Nats per edge, and per target and condition.
    target_odds
        (conditions, genes) nats that a target costs less.
    n_features
        Random features.
    """

    #: Trimming starts generously and tightens (a deterministic annealing of the target sparsity).
    _ANNEAL: tuple[float, ...] = (10.0, 3.0, 1.0, 1.0)

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
        target_odds: Tensor | None = None,
        n_features: int = 200,
        chunk: int = 64,
    ) -> None:
        self.n_cells, self.n_genes = x.shape
        self.n_conditions = len(targetable)
        self.ziln, self.linear, self.shift = ziln, linear, shift
        self.outlier_share = outlier_share("shift" if shift else "hard", ziln)
        self.graph_sparsity, self.target_sparsity = graph_sparsity, target_sparsity
        self.targetable, self.known_targets, self.target_odds = targetable, known_targets, target_odds
        self.n_scored = 0
        self.cache: dict[tuple[int, frozenset[int]], tuple[float, Tensor]] = {}
        index, owner = _chunks(condition.cpu().numpy(), chunk)
        self.owner = torch.as_tensor(owner, device=x.device)  # (chunks,)
        gather = torch.as_tensor(index, device=x.device)  # (chunks, chunk), -1 = padding
        self.present = (gather >= 0).to(x)
        self.x = x[gather.clamp_min(0)] * self.present.unsqueeze(-1)  # (chunks, chunk, genes)
        center, scale = response_units(x, ziln=False)
        self.standard = (self.x - center) / scale * self.present.unsqueeze(-1)
        self.units = response_units(x, ziln)
        self.trust = torch.ones_like(scale) if ziln else trust(x[~targetable[condition]])
        # Half of the features are nearly linear over the data's range, half saturate.
        slope = torch.where(torch.arange(n_features) % 2 == 0, 0.4, 1.0)
        weight = torch.randn(self.n_genes, n_features, generator=generator) * slope
        self.weight = weight.to(x)  # (genes, features)
        self.offset = torch.randn(n_features, generator=generator).to(x)

    # -- per-gene preparation -----------------------------------------------------------------------------

    def _per_condition(self, per_chunk: Tensor, dim: int = 0) -> Tensor:
        shape = list(per_chunk.shape)
        shape[dim] = self.n_conditions
        return per_chunk.new_zeros(shape).index_add(dim, self.owner, per_chunk)

    def _response(self, gene: int) -> tuple[Tensor, Tensor]:
        """Response in units of its spread and 0/1 weight of every cell, both (chunks, chunk)."""
        value = self.x[..., gene]
        if self.ziln:
            weight = (value > 0).to(value)
            response = torch.where(value > 0, value, torch.ones_like(value)).log()
        else:
            weight, response = self.present, value
        center, scale = (unit[gene] for unit in self.units)
        return (response - center) / scale * weight, weight

    # -- scores -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(
        self, gene: int, parent_sets: list[frozenset[int]], start: Tensor | None = None
    ) -> list[tuple[float, Tensor]]:
        """(score, targets (conditions,) bool) of each parent set; `start`: targets to begin the trimming at."""
        todo = [parents for parents in dict.fromkeys(parent_sets) if (gene, parents) not in self.cache]
        if todo:
            summary = _Response(self, gene)
            for parents in todo:
                self.cache[gene, parents] = self._score(summary, parents, start)
            self.n_scored += len(todo)
        return [self.cache[gene, parents] for parents in parent_sets]

    def width(self, n_parents: int) -> int:
        """Random features for so many parents: functions of more variables need more."""
        return min(self.weight.shape[1], 25 * (1 + n_parents)) if n_parents else 0

    def _features(self, parents: frozenset[int], weight: Tensor) -> Tensor:
        """(chunks, chunk, m) features with a leading constant, zero for cells of weight 0."""
        columns = sorted(parents)
        chosen = self.standard[..., columns]
        if columns and not self.linear:
            m = self.width(len(columns))
            chosen = torch.tanh(chosen @ self.weight[columns, :m] + self.offset[:m])
        return torch.cat([torch.ones_like(self.standard[..., :1]), chosen], dim=-1) * weight.unsqueeze(-1)

    def _score(self, y: _Response, parents: frozenset[int], start: Tensor | None) -> tuple[float, Tensor]:
        features = self._features(parents, y.weight)  # (chunks, chunk, m)
        m = features.shape[-1]
        everything = features.reshape(-1, m)
        gram_all = _precise(everything.T @ everything)
        gram_all.diagonal().add_(1.0)  # ridge
        cross_all = _precise(everything.T @ y.response.reshape(-1))

        seen: dict[bytes, tuple[Tensor, Tensor, Tensor]] = {}  # most of a trimming's last steps change no target

        def refit(targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Fit on the untargeted conditions; log likelihood of every condition, own and replaced; log spread."""
            if (key := targets.cpu().numpy().tobytes()) in seen:
                return seen[key]
            left_out = targets[self.owner]
            gram, cross = gram_all, cross_all
            if bool(left_out.any()):
                part = features[left_out].reshape(-1, m)
                gram = gram - _precise(part.T @ part)
                cross = cross - _precise(part.T @ y.response[left_out].reshape(-1))
            beta = torch.linalg.solve(gram, cross).to(features.dtype).to(features.device)
            residual = (y.response - features @ beta) * y.weight  # (chunks, chunk)
            rss = self._per_condition(residual.square().sum(1))
            used = (~targets).to(features)
            noise = (y.trust * (used * rss).sum() + PRIOR_CELLS) / (y.trust * (used * y.count).sum() + PRIOR_CELLS)
            log_scale = 0.5 * noise.log()
            rate = y.common_zeros(used)
            own, replaced = y.log_likelihood(residual, log_scale, rate), y.free
            if self.shift:
                shift = self._per_condition(residual.sum(1)) / (y.count + 1.0)
                shifted = residual - shift[self.owner].unsqueeze(1) * y.weight
                replaced = y.log_likelihood(shifted, log_scale, y.own_zeros)
            seen[key] = own, replaced, log_scale
            return seen[key]

        best: tuple[float, Tensor] | None = None
        starts = [(torch.zeros_like(self.targetable), self._ANNEAL)]
        if start is not None:
            starts.append((start, self._ANNEAL[-2:]))
        for targets, factors in starts:
            targets = torch.where(y.may, targets, y.told)
            for factor in factors:
                own, replaced, _ = refit(targets)
                better = (replaced - own) > factor * y.price
                targets = torch.where(y.may, better, targets)
            own, replaced, log_scale = refit(targets)
            explained = torch.where(targets, replaced - y.price, own).sum()
            value = float(explained + spread_log_prior(log_scale))
            if best is None or value > best[0]:
                best = (value, targets)
        assert best is not None
        # Each coefficient raises the log likelihood of its own data by half a nat for nothing.
        return best[0] + y.unit - self.graph_sparsity * len(parents) - 0.5 * (m - 1), best[1]

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


def _precise(x: Tensor) -> Tensor:
    """`x` in float64, on the CPU where its device has none."""
    return (x.cpu() if x.device.type in _WITHOUT_FLOAT64 else x).double()


class _Response:
    """What all parent sets of one gene share.

    response, weight (chunks, chunk); count: cells with a response per condition; own_zeros: rate of zeros per
    condition; free: log likelihood of each condition under marginals of its own; may: where targets are to be found;
    told: the known ones elsewhere; price: nats of a target (in each condition).
    """

    def __init__(self, scores: LocalScores, gene: int) -> None:
        self.scores, self.trust = scores, scores.trust[gene]
        self.response, self.weight = scores._response(gene)
        self.count = scores._per_condition(self.weight.sum(1))
        self.total = scores._per_condition(scores.present.sum(1))
        zero, one = self.response.new_zeros(()), self.response.new_ones(())
        self.outlier = outlier_log_prob(self.response, zero, one, ziln=False) - scores.ziln * math.log(2)
        self.own_zeros = (self.total - self.count + self.common_zeros(one)) / (self.total + 1.0)
        # Back to a density in the units of the data.
        self.unit = -float(self.trust * self.count.sum() * scores.units[1][gene].log())
        total, square = (scores._per_condition(power.sum(1)) for power in (self.response, self.response.square()))
        mean, log_scale = marginals(self.count, total, square, self.trust)
        around = (self.response - mean[scores.owner].unsqueeze(1)) * self.weight
        self.free = self.log_likelihood(around, log_scale, self.own_zeros) + spread_log_prior(log_scale)
        self.price: float | Tensor = scores.target_sparsity
        if scores.target_odds is not None:
            self.price = scores.target_sparsity - scores.target_odds[:, gene]
        self.may, self.told = scores.targetable, torch.zeros_like(scores.targetable)
        if scores.known_targets is not None:
            known = scores.known_targets[:, gene]
            self.may = scores.targetable & torch.isnan(known)
            self.told = torch.nan_to_num(known) > 0.5

    def common_zeros(self, used: Tensor) -> Tensor:
        """One rate of zeros for all used conditions."""
        return ((used * (self.total - self.count)).sum() + 0.5) / ((used * self.total).sum() + 1.0)

    def log_likelihood(self, residual: Tensor, log_scale: Tensor, rate: Tensor) -> Tensor:
        """(conditions,) from what is left of the response (chunks, chunk); log_scale and rate of one or each."""
        scores = self.scores
        wide = log_scale if log_scale.ndim == 0 else log_scale[scores.owner].unsqueeze(1)
        density = normal_log_prob(residual, torch.zeros_like(residual), wide)
        if scores.ziln:
            above = torch.log1p(-rate)
            density = density + (above if above.ndim == 0 else above[scores.owner].unsqueeze(1))
        out = scores._per_condition((with_outliers(density, self.outlier, scores.outlier_share) * self.weight).sum(1))
        if not scores.ziln:
            return self.trust * out
        at_zero = with_outliers(rate.log(), torch.full_like(rate, -math.log(2)), scores.outlier_share)
        return out + (self.total - self.count) * at_zero


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


def _correlation(x: Tensor) -> Tensor:
    second = x.T @ x
    norm = second.diagonal().clamp_min(1e-12).sqrt()
    return second / norm.outer(norm)
