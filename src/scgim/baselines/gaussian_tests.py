"""Tests of independence and of invariance between conditions, for linear Gaussian data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import fdtr, fdtrc, ndtri

from .protocol import TrainingData

#: A predictor of which the others leave a smaller share of its second moment unexplained adds nothing (`own`).
_RANK = 1e-10


class GaussianTests:
    """Tests from second moments, each done once.

    Parameters
    ----------
    data
        Training cells.
    alpha, alpha_inv
        Levels of the tests of independence and of invariance.
    """

    def __init__(self, data: TrainingData, alpha: float, alpha_inv: float) -> None:
        control = data.x[data.control].astype(np.float64)
        # The scale of the control cells, so that one bound on eigenvalues suits all genes.
        centre, scale = control.mean(axis=0), control.std(axis=0)
        self.n_control, self.n_genes = control.shape
        self.correlation = np.corrcoef(control, rowvar=False).reshape(self.n_genes, self.n_genes)
        moments = []
        for cells in [control, *(data.x[data.codes == row].astype(np.float64) for row in data.trained)]:
            design = np.column_stack([np.ones(len(cells)), (cells - centre) / scale])
            moments.append(design.T @ design)
        self.control_moments = moments[0]  # (1 + genes, 1 + genes), the intercept first
        self.moments = np.stack(moments[1:])  # (conditions, 1 + genes, 1 + genes)
        self.n_cells = self.moments[:, 0, 0]  # (conditions,)
        self.critical = -ndtri(alpha / 2)
        self.alpha_inv = alpha_inv
        self._parents: dict[tuple[int, int], tuple[int, ...]] = {}
        self._targeting: dict[tuple[int, tuple[int, ...]], np.ndarray] = {}

    def parents(self, gene: int, before: Sequence[int]) -> tuple[int, ...]:
        """Those genes of `before` on which `gene` depends given all others of `before`, sorted."""
        key = (gene, sum(1 << i for i in before))
        if key not in self._parents:
            self._parents[key] = self._dependent(gene, sorted(before))
        return self._parents[key]

    def _dependent(self, gene: int, before: list[int]) -> tuple[int, ...]:
        if not before:
            return ()
        nodes = [*before, gene]
        precision = np.linalg.inv(self.correlation[np.ix_(nodes, nodes)])
        diagonal = precision.diagonal()
        partial = -precision[-1, :-1] / np.sqrt(diagonal[-1] * diagonal[:-1])
        # The conditioning set of each test is `before` without one gene.
        z = np.arctanh(np.clip(partial, -1 + 1e-12, 1 - 1e-12)) * np.sqrt(self.n_control - len(before) - 2)
        return tuple(i for i, value in zip(before, np.abs(z), strict=True) if value > self.critical)

    def targeting(self, gene: int, parents: tuple[int, ...]) -> np.ndarray:
        """bool (conditions,): the regression of `gene` on `parents` is not that of the control cells."""
        key = (gene, parents)
        if key not in self._targeting:
            self._targeting[key] = self.invariance(gene, parents) < self.alpha_inv
        return self._targeting[key]

    def invariance(self, gene: int, parents: Sequence[int]) -> np.ndarray:
        """p-values (conditions,) of the hypothesis that `gene` depends on `parents` as it does among the control cells.

        Twice the smaller one of two p-values: of the same coefficients and intercept (Chow's F test) and of the
        same residual variance (F test). Where a condition has fewer cells than coefficients, the first asks whether
        the regression of the control cells predicts them, and the second says nothing.
        """
        columns = [0, *(i + 1 for i in parents)]
        n = len(self.moments)
        stacked = np.concatenate([self.moments, self.moments + self.control_moments, self.control_moments[None]])
        residual, rank = _regress(stacked, gene + 1, columns)
        rss, pooled, rss_control = residual[:n], residual[n:-1], residual[-1]
        rank, rank_control = rank[:n], rank[-1]
        free, free_control = self.n_cells - rank, self.n_control - rank_control
        separate = rss_control + rss
        gained = np.maximum(pooled - separate, 0.0)
        p_coefficients = fdtrc(rank, free_control + free, gained / rank / (separate / (free_control + free)))
        at_least_one = np.maximum(free, 1)
        ratio = (rss / at_least_one) / (rss_control / free_control)
        tails = fdtr(at_least_one, free_control, ratio), fdtrc(at_least_one, free_control, ratio)
        p_variance = np.where(free > 0, 2 * np.minimum(*tails), 1.0)
        return np.minimum(1.0, 2 * np.minimum(p_coefficients, p_variance))


def _regress(moments: np.ndarray, target: int, columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Residual sums of squares and ranks of regressions, from second moments (n, nodes, nodes), by elimination."""
    nodes = [*columns, target]
    left = moments[:, nodes][:, :, nodes]
    # A column that is a combination of those before leaves nothing to divide by: it is skipped.
    smallest = _RANK * np.diagonal(left, axis1=1, axis2=2)
    rank = np.zeros(len(left), dtype=int)
    for c in range(len(columns)):
        pivot = left[:, c, c]
        new = pivot > smallest[:, c]
        factor = np.where(new, 1.0 / np.where(new, pivot, 1.0), 0.0)[:, None] * left[:, c, c + 1 :]
        left[:, c + 1 :, c + 1 :] -= factor[:, :, None] * left[:, c, None, c + 1 :]
        rank += new
    return np.maximum(left[:, -1, -1], 0.0), rank
