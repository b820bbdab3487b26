"""Tests of independence and of invariance for linear Gaussian data, of two genes or of a gene and a context.

Contexts (which condition, or its features) are causes and never effects of genes (Mooij et al. 2020). So conditioning
on all of them at once opens no path, and nothing is lost by it: two genes without an edge are independent given the
parents of one and all contexts, and a context without an edge to a gene is independent of it given the gene's parents
and all other contexts. The tests here do that, instead of a search over subsets of the contexts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import numpy as np
from scipy.special import fdtr, fdtrc, ndtri, stdtr
from scipy.stats import chi2, norm

from .protocol import TrainingData

#: A predictor of which the others leave a smaller share of its second moment unexplained adds nothing (`own`).
_RANK = 1e-10
#: Added to variances before they are inverted; genes have the unit of their standard deviation in the control.
_JITTER = 1e-9
#: Level of the test of lack of fit (`own`).
_LACK_OF_FIT = 0.05
#: Answers that are kept: a search asks for all pairs given one set before it goes on to sets of the next size.
_CACHE = 2_000


class GaussianTests:
    """Tests from second moments, each done once; `alpha`, `alpha_inv`: levels for independence and for invariance."""

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
        self.targeting = cache(self._targeting)
        self._parents = cache(self._dependent)

    def parents(self, gene: int, before: Iterable[int]) -> tuple[int, ...]:
        """Those genes of `before` on which `gene` depends given all others of `before`, sorted."""
        return self._parents(gene, tuple(sorted(before)))

    def _dependent(self, gene: int, before: tuple[int, ...]) -> tuple[int, ...]:
        if not before:
            return ()
        nodes = [*before, gene]
        precision = np.linalg.inv(self.correlation[np.ix_(nodes, nodes)])
        diagonal = precision.diagonal()
        partial = -precision[-1, :-1] / np.sqrt(diagonal[-1] * diagonal[:-1])
        # The conditioning set of each test is `before` without one gene.
        z = np.arctanh(np.clip(partial, -1 + 1e-12, 1 - 1e-12)) * np.sqrt(self.n_control - len(before) - 2)
        return tuple(i for i, value in zip(before, np.abs(z), strict=True) if value > self.critical)

    def _targeting(self, gene: int, parents: tuple[int, ...]) -> np.ndarray:
        """bool (conditions,): the regression of `gene` on `parents` is not that of the control cells."""
        return self.invariance(gene, parents) < self.alpha_inv

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


class ConditionTests:
    """One indicator per perturbed condition as context; linear Gaussian within every condition.

    Given all indicators, cells are compared within conditions only: two genes are independent where their partial
    correlation is 0 in every condition. Fisher's z of the conditions is combined twice, as a weighted mean (one
    degree of freedom) and as a sum of squares (one per condition: dependences that cancel in the mean, and those that
    an intervention breaks); the smaller p-value counts, doubled.

    Given all other indicators, that of one condition compares its cells with the control cells: the gene is independent
    of it where its regression on `given` is the same in both (:meth:`GaussianTests.invariance`).

    Both are `own` (JCI leaves the test open). A Fisher z-test with the indicators as numbers is what comes to mind
    first; it sees shifts of the mean only and takes one slope for all conditions, which no hard intervention respects.
    """

    def __init__(self, data: TrainingData) -> None:
        scale = data.x[data.control].std(axis=0, dtype=np.float64)
        groups = [data.x[data.control], *(data.x[data.codes == row] for row in data.trained)]
        self.sizes = np.array([len(group) for group in groups])
        groups = [group / scale for group in groups]
        self.means = np.array([group.mean(axis=0) for group in groups])
        self.covariances = np.array(
            [(group - mean).T @ (group - mean) / len(group) for group, mean in zip(groups, self.means, strict=True)]
        )
        self.invariance = GaussianTests(data, 0.5, 0.5).invariance  # p-values alone: the levels are not used
        self.between_genes = lru_cache(_CACHE)(self._between_genes)

    def of_contexts(self, gene: int, given: tuple[int, ...]) -> np.ndarray:
        """p-values (contexts,): `gene` is independent of each context given these genes and the other contexts."""
        return self.invariance(gene, given)

    def _between_genes(self, given: tuple[int, ...]) -> np.ndarray:
        """p-values (genes, genes): each pair is independent given these genes and all contexts."""
        weights = self.sizes - len(given) - 3.0  # 1 / variance of Fisher's z
        usable = weights > 0
        z, known = _fisher_z(_given(self.covariances[usable], given))
        weights = weights[usable, None, None] * known
        total = np.maximum(weights.sum(axis=0), 1.0)
        of_mean = 2 * norm.sf(np.abs((weights * z).sum(axis=0)) / np.sqrt(total))
        of_squares = chi2.sf((weights * z**2).sum(axis=0), np.maximum(known.sum(axis=0), 1))
        return np.minimum(1.0, 2 * np.minimum(of_mean, of_squares))


class FeatureTests(ConditionTests):
    """Features of the conditions as contexts: genes as above, contexts by regression between conditions.

    Conditions with other features are other values of the contexts, so genes are compared within conditions. What a
    gene's mean leaves unexplained by the means of `given` (with slopes from within conditions) is regressed on the
    contexts, one point per condition, weighted by its cells. Where the conditions are further off the line than the
    noise of cells explains (F test of the lack of fit at level 0.05), the t-test of a context's coefficient takes its
    error from them, not from the cells (`own`). Cells as independent points would find every context at work on every
    gene, as no intervention is quite linear in its features.

    `contexts`: (conditions, contexts), 0 for the control, linearly independent of each other and of a constant over the
    conditions that have cells.
    """

    def __init__(self, data: TrainingData, contexts: np.ndarray) -> None:
        super().__init__(data)
        n_conditions, n_cells = len(self.sizes), self.sizes.sum()
        self.within = np.einsum("k,kij->ij", self.sizes / n_cells, self.covariances)
        self.free_within = n_cells - n_conditions
        values = np.vstack([np.zeros(contexts.shape[1]), contexts[data.trained]])
        self.design = np.column_stack([np.ones(n_conditions), values])  # (conditions with cells, 1 + contexts)
        self.free_between = n_conditions - self.design.shape[1]
        self.inverse = np.linalg.pinv((self.design.T * self.sizes) @ self.design)

    def of_contexts(self, gene: int, given: tuple[int, ...]) -> np.ndarray:
        causes = list(given)
        slopes = np.linalg.solve(_steadied(self.within[None, causes][:, :, causes])[0], self.within[causes, gene])
        means = self.means[:, gene] - self.means[:, causes] @ slopes
        coefficients = self.inverse @ (self.design.T @ (self.sizes * means))
        free = self.free_within - len(given)
        variance = (self.within[gene, gene] - self.within[gene, causes] @ slopes) * self.sizes.sum() / free
        if self.free_between > 0:
            between = (self.sizes * np.square(means - self.design @ coefficients)).sum() / self.free_between
            if fdtrc(self.free_between, free, between / max(variance, _JITTER)) < _LACK_OF_FIT:
                variance, free = between, self.free_between
        errors = np.sqrt(np.maximum(variance, _JITTER) * self.inverse.diagonal())
        return (2 * stdtr(free, -np.abs(coefficients) / errors))[1:]


def _given(covariances: np.ndarray, given: Sequence[int]) -> np.ndarray:
    """Covariances (n, variables, variables) of what is left after regression on the variables `given`."""
    given = list(given)
    if not given:
        return covariances
    inner = _steadied(covariances[:, given][:, :, given])
    return covariances - covariances[:, :, given] @ np.linalg.solve(inner, covariances[:, given])


def _steadied(covariances: np.ndarray) -> np.ndarray:
    """With a little added to the variances, so that genes that are constant in a condition can be conditioned on."""
    return covariances + _JITTER * np.eye(covariances.shape[-1])


def _fisher_z(covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fisher's z of all correlations, and which are known: both variables vary (more than rounding errors do)."""
    variances = covariances.diagonal(axis1=1, axis2=2)
    varies = variances > 10 * _JITTER
    scale = np.sqrt(np.where(varies, variances, 1.0))
    r = covariances / (scale[:, :, None] * scale[:, None, :])
    known = varies[:, :, None] & varies[:, None, :]
    return np.arctanh(np.clip(np.where(known, r, 0.0), -1 + 1e-12, 1 - 1e-12)), known
