"""Tests that JCI asks: between genes given all contexts, and between a gene and every context (Mooij et al. 2020).

Contexts (which condition, or its features) are causes and never effects of genes. So conditioning on all of them at
once opens no path, and nothing is lost by it: two genes without an edge are independent given the parents of one and
all contexts, and a context without an edge to a gene is independent of it given the gene's parents and all other
contexts. The tests here do that, instead of a search over subsets of the contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from scipy.special import fdtrc, stdtr
from scipy.stats import chi2, norm

from .gaussian_tests import GaussianTests
from .protocol import TrainingData

#: Added to variances before they are inverted; genes have the unit of their standard deviation in the control.
_JITTER = 1e-9
#: Level of the test of lack of fit (`own`).
_LACK_OF_FIT = 0.05
#: Answers that are kept: a search asks for all pairs given one set before it goes on to sets of the next size.
_CACHE = 2_000


class ContextTests(Protocol):
    """What the search asks."""

    def between_genes(self, given: tuple[int, ...]) -> np.ndarray:
        """p-values (genes, genes): each pair is independent given these genes and all contexts."""

    def of_contexts(self, gene: int, given: tuple[int, ...]) -> np.ndarray:
        """p-values (contexts,): `gene` is independent of each context given these genes and the other contexts."""


class ConditionTests:
    """One indicator per perturbed condition as context; linear Gaussian within every condition.

    Given all indicators, cells are compared within conditions only: two genes are independent where their partial
    correlation is 0 in every condition. Fisher's z of the conditions is combined twice, as a weighted mean (one
    degree of freedom) and as a sum of squares (one per condition: dependences that cancel in the mean, and those that
    an intervention breaks); the smaller p-value counts, doubled.

    Given all other indicators, that of one condition compares its cells with the control cells: the gene is independent
    of it where its regression on `given` is the same in both
    (:meth:`~scgim.baselines.gaussian_tests.GaussianTests.invariance`).

    Both are `own` (JCI leaves the test open). A Fisher z-test with the indicators as numbers is what comes to mind
    first; it sees shifts of the mean only and takes one slope for all conditions, which no hard intervention respects.

    Parameters
    ----------
    data
        Training cells.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgim.baselines import TrainingData
    >>> from scgim.baselines.context_tests import ConditionTests
    >>> rng = np.random.default_rng(0)
    >>> cause = rng.normal(size=600) + np.repeat([0.0, 3.0], 300)     # the condition shifts the cause ...
    >>> x = np.stack([cause, cause + rng.normal(size=600)], axis=1)   # ... and the effect through the cause alone
    >>> table = pd.DataFrame({"condition": ["control", "A"], "perturbation": ["control", "A"],
    ...                       "dose": [np.nan, np.nan], "is_control": [True, False]})
    >>> tests = ConditionTests(TrainingData(x, np.repeat([0, 1], 300), table, np.eye(2)))
    >>> bool(tests.of_contexts(1, ())[0] < 0.01), bool(tests.of_contexts(1, (0,))[0] > 0.01)
    (True, True)
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
        """p-values (perturbed conditions,)."""
        return self.invariance(gene, given)

    def _between_genes(self, given: tuple[int, ...]) -> np.ndarray:
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

    Parameters
    ----------
    data
        Training cells.
    contexts
        (conditions, contexts), 0 for the control; linearly independent of each other and of a constant over the
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
        """p-values (contexts,)."""
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
