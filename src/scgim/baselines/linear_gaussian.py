"""A linear Gaussian structural model with a given graph and known targets: what a causal baseline samples from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from scgim._rng import RngLike, as_generator
from scgim.simulate import topological_order


@dataclass(frozen=True)
class LinearGaussian:
    """Every gene is a linear function of its parents plus Gaussian noise; targets differ by condition.

    Fitted by maximum likelihood (Hauser & Bühlmann 2012, Characterization and greedy learning of interventional
    Markov equivalence classes of DAGs): the likelihood splits into genes, and the mechanism of a gene is a least
    squares regression over the cells of those conditions that do not target it.

    Parameters
    ----------
    dag
        bool (genes, genes), row = cause.
    targets
        bool (conditions, genes).
    intervention
        "hard": a target loses its parents and has a mean and a variance of its own in the condition. "shift": it
        keeps its mechanism, and the condition has an intercept of its own.
    weights
        (genes, genes), `weights[i, j]` is the effect of i on j; 0 off the graph.
    intercepts, variances
        (genes,)
    target_means, target_variances
        (conditions, genes), of the noise of targets ("shift": the mean is the condition's intercept); NaN elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.baselines.linear_gaussian import LinearGaussian
    >>> rng = np.random.default_rng(0)
    >>> cause = np.concatenate([rng.normal(size=500), rng.normal(5.0, 1.0, 500)])
    >>> x = np.stack([cause, 2 * cause + rng.normal(size=1000)], axis=1)
    >>> scm = LinearGaussian.fit(x, np.repeat([0, 1], 500), 2, dag=[[0, 1], [0, 0]], targets=[[0, 0], [1, 0]])
    >>> scm.sample(1, n=2000).mean(axis=0).round().tolist()
    [5.0, 10.0]
    """

    dag: np.ndarray  # (genes, genes)
    targets: np.ndarray  # (conditions, genes)
    intervention: Literal["hard", "shift"]
    weights: np.ndarray  # (genes, genes)
    intercepts: np.ndarray  # (genes,)
    variances: np.ndarray  # (genes,)
    target_means: np.ndarray  # (conditions, genes)
    target_variances: np.ndarray  # (conditions, genes)

    @classmethod
    def fit(
        cls,
        x: np.ndarray,
        codes: np.ndarray,
        n_conditions: int,
        dag: np.ndarray,
        targets: np.ndarray,
        *,
        intervention: Literal["hard", "shift"] = "hard",
    ) -> Self:
        """Fit all mechanisms.

        Where parents are collinear, the coefficients of least norm are taken. A gene that is a target in every
        condition has no mechanism that data could tell: it gets no weights, and the mean and variance of all its
        cells. In a condition with a single cell a target's variance is that of its mechanism.

        Parameters
        ----------
        x
            (cells, genes)
        codes
            int (cells,), condition of each cell.
        n_conditions
            Number of conditions, those without cells included.
        dag
            bool (genes, genes), acyclic, row = cause.
        targets
            bool (conditions, genes).
        intervention
            "hard" or "shift".

        Raises
        ------
        ValueError
            If shapes disagree, the graph has a cycle, or a gene has too few cells to estimate its mechanism: at
            least its number of parents + 2.
        """
        x, codes = np.asarray(x, dtype=np.float64), np.asarray(codes)
        dag, targets = np.asarray(dag).astype(bool), np.asarray(targets).astype(bool)
        n_genes = _check(x, codes, n_conditions, dag, targets, intervention)
        weights = np.zeros((n_genes, n_genes))
        intercepts, variances = np.zeros(n_genes), np.zeros(n_genes)
        means = np.full(targets.shape, np.nan)
        spreads = np.full(targets.shape, np.nan)
        for gene in range(n_genes):
            parents = np.flatnonzero(dag[:, gene])
            # An intercept for the conditions that leave the gene alone (0), and one for each that targets it.
            group = np.where(targets[codes, gene], codes + 1, 0)
            used = group == 0 if intervention == "hard" else np.ones(len(x), dtype=bool)
            if not (group == 0).any():
                parents, used, group = parents[:0], np.ones(len(x), dtype=bool), np.zeros(len(x), dtype=int)
            y, design = x[used, gene], x[np.ix_(used, parents)]
            # Sums of shifted intercepts cost a degree of freedom each.
            n_free = len(y) - len(np.unique(group[used])) - len(parents)
            if n_free < 1:
                raise ValueError(
                    f"The mechanism of gene {gene} with {len(parents)} parents cannot be estimated: only {len(y)} "
                    f"cells are in conditions that do not target it."
                )
            coefficients = np.linalg.lstsq(_centred(design, group[used]), _centred(y, group[used]), rcond=None)[0]
            rest = x[:, gene] - x[:, parents] @ coefficients
            weights[parents, gene] = coefficients
            intercepts[gene] = rest[group == 0].mean()
            variances[gene] = np.square(_centred(rest[used], group[used])).mean()
            for row in np.flatnonzero(targets[:, gene]):
                own = (x[:, gene] if intervention == "hard" else rest)[codes == row]
                if len(own):
                    means[row, gene] = own.mean()
                    alone = intervention == "hard" and len(own) > 1
                    spreads[row, gene] = own.var() if alone else variances[gene]
        return cls(dag, targets, intervention, weights, intercepts, variances, means, spreads)

    def sample(self, row: int, n: int, rng: RngLike = 0) -> np.ndarray:
        """Draw cells of one condition by ancestral sampling.

        Parameters
        ----------
        row
            Condition.
        n
            Number of cells.
        rng
            Seed or generator.

        Returns
        -------
        np.ndarray
            float64 (n, genes)

        Raises
        ------
        ValueError
            If n < 1, or the condition has targets and had no cells to learn what happens to them.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}.")
        target = self.targets[row]
        if np.isnan(self.target_means[row, target]).any():
            raise ValueError(f"Condition {row} had no cells to learn from what happens to its targets.")
        mean = np.where(target, self.target_means[row], self.intercepts)
        sd = np.sqrt(np.where(target, self.target_variances[row], self.variances))
        noise = mean + sd * as_generator(rng).standard_normal((n, len(mean)))
        x = np.zeros_like(noise)
        for gene in topological_order(self.dag):
            cut = target[gene] and self.intervention == "hard"
            x[:, gene] = noise[:, gene] + (0.0 if cut else x @ self.weights[:, gene])
        return x


def _centred(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Minus the mean of each group: the same as an intercept for each."""
    centred = np.array(values, dtype=np.float64)
    for code in np.unique(group):
        centred[group == code] -= centred[group == code].mean(axis=0)
    return centred


def _check(
    x: np.ndarray, codes: np.ndarray, n_conditions: int, dag: np.ndarray, targets: np.ndarray, intervention: str
) -> int:
    if intervention not in ("hard", "shift"):
        raise ValueError(f"intervention must be 'hard' or 'shift', got {intervention!r}.")
    if x.ndim != 2 or codes.shape != (len(x),) or not len(x):
        raise ValueError(f"`x` must be (cells, genes) and `codes` (cells,), got {x.shape} and {codes.shape}.")
    n_genes = x.shape[1]
    if dag.shape != (n_genes, n_genes) or targets.shape != (n_conditions, n_genes):
        raise ValueError(
            f"For {n_genes} genes and {n_conditions} conditions `dag` must be ({n_genes}, {n_genes}) and `targets` "
            f"({n_conditions}, {n_genes}), got {dag.shape} and {targets.shape}."
        )
    if codes.min() < 0 or codes.max() >= n_conditions:
        raise ValueError(f"`codes` must lie in 0 to {n_conditions - 1}.")
    topological_order(dag)  # raises where there is a cycle
    return n_genes
