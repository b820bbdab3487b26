"""What all causal baselines share: a learned equivalence class and targets, and a linear model to sample from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from scgim._dag import topological_order
from scgim._errors import InvalidValue
from scgim._rng import RngLike, as_generator
from scgim._validation import check_choice, check_int, listing

from .equivalence import draw_dag
from .protocol import Baseline, CannotPredict, Condition, TrainingData

Kind = Literal["hard", "shift"]
#: Correlation matrices whose smallest eigenvalue is below are singular for all that tests can tell (`own`).
_SINGULAR = 1e-8
#: A score is better if it is higher by more than this.
GAIN = 1e-6


@dataclass(kw_only=True, eq=False)
class CausalBaseline(Baseline):
    """Learns an equivalence class of graphs and the targets of every training condition.

    For cells, a DAG is drawn from the class and a linear Gaussian model is fitted to it by maximum likelihood with
    the learned targets as known. Conditions without training cells cannot be predicted: nothing here connects them
    with what was learned.

    Parameters
    ----------
    intervention
        What the sampling model does to a target: "hard" or "shift", see :class:`LinearGaussian`.

    Attributes
    ----------
    class_
        bool (genes, genes), the equivalence class; an undirected edge has both entries.
    targets_
        bool (conditions, genes), rows as in the training data.
    scm_
        The fitted :class:`LinearGaussian`; ``scm_.dag`` is the drawn DAG.
    """

    gives_graph: ClassVar[bool] = True
    gives_targets: ClassVar[bool] = True
    can_predict_unseen: ClassVar[bool] = False
    #: Minimum number of training cells that the method's tests need in a perturbed condition (`own`).
    min_cells: ClassVar[int] = 5

    intervention: Kind = "hard"

    def __post_init__(self) -> None:
        check_choice(self.intervention, "intervention", ("hard", "shift"))

    @abstractmethod
    def _learn(self, data: TrainingData, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The class, bool (genes, genes), and the targets of the trained conditions, bool (trained, genes)."""

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Learn class and targets, draw a DAG and fit the sampling model.

        Raises
        ------
        CannotPredict
            If there is no perturbed condition, a condition has too few cells, a gene is constant or the control
            cells have a singular covariance.
        """
        generator = as_generator(rng)
        self._refuse(data)
        learned, called = self._learn(data, generator)
        targets = np.zeros((len(data.conditions), data.x.shape[1]), dtype=bool)
        targets[data.trained] = called
        dag = draw_dag(learned, generator)
        try:
            scm = LinearGaussian.fit(data.x, data.codes, dag, targets, intervention=self.intervention)
        except ValueError as error:
            raise CannotPredict(f"{self.name} cannot be fitted: {error}") from error
        self.class_, self.targets_, self.scm_ = learned, targets, scm
        rows = np.unique(data.codes).tolist()
        self.rows_: dict[str, int] = {data.condition(row).label: row for row in rows}
        self.control_row_: int = next(row for row in rows if data.condition(row).is_control)
        return self

    def graph(self) -> np.ndarray:
        """The learned class, bool (genes, genes), row = cause; an undirected edge has both entries."""
        self._check_fitted("class_")
        return self.class_.copy()

    def targets(self, conditions: Sequence[Condition]) -> np.ndarray:
        """Learned targets, 0 or 1, (conditions, genes); declines for conditions without training cells."""
        self._check_fitted("scm_")
        rows = [self._row(condition, "targets") for condition in conditions]
        return self.targets_[np.array(rows, dtype=int)].astype(float)

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` cells from the sampling model, float32 (n, genes); declines for conditions without training cells."""
        self._check_fitted("scm_")
        return self.scm_.sample(self._row(condition, "cells"), n, rng).astype(np.float32)

    def _row(self, condition: Condition, what: str) -> int:
        if condition.is_control:
            return self.control_row_
        if condition.label not in self.rows_:
            raise CannotPredict(
                f"{self.name} has no {what} for {condition.label!r}: it had no training cells, and the method learns "
                "the targets of each condition from the cells of that condition."
            )
        return self.rows_[condition.label]

    def _refuse(self, data: TrainingData) -> None:
        """Decline data that no test can work on, before any work."""
        self._check_data(data, features=False)
        prefix, counts = f"{self.name} cannot be fitted: ", data.n_cells
        few = [row for row in data.trained if counts[row] < self.min_cells]
        if few:
            named = ", ".join(f"{data.condition(row).label!r} ({counts[row]})" for row in few[:5])
            raise CannotPredict(
                prefix + f"its tests need at least {self.min_cells} cells in every condition, too few are in {named}"
                f"{f' and {len(few) - 5} more' if len(few) > 5 else ''}."
            )
        control = data.x[data.control].astype(np.float64)
        n, n_genes = control.shape
        if n < n_genes + 4:  # Fisher's z given all other genes has n - (genes - 2) - 3 degrees of freedom
            raise CannotPredict(
                prefix + f"its tests need at least {n_genes + 4} control cells for {n_genes} genes, there are {n}."
            )
        constant = np.flatnonzero(control.max(axis=0) == control.min(axis=0))
        if len(constant):
            raise CannotPredict(
                prefix + f"{len(constant)} of {n_genes} genes are constant over the control cells (columns "
                f"{listing(constant)}): leave them out."
            )
        values, vectors = np.linalg.eigh(np.corrcoef(control, rowvar=False).reshape(n_genes, n_genes))
        if values[0] < _SINGULAR:
            involved = np.flatnonzero(np.abs(vectors[:, 0]) > 0.1)
            raise CannotPredict(
                prefix + "the covariance of the control cells is singular: the genes in columns "
                f"{listing(involved)} are linear functions of each other. Leave one out."
            )


@dataclass(frozen=True)
class LinearGaussian:
    """Every gene is a linear function of its parents plus Gaussian noise; targets differ by condition.

    Fitted by maximum likelihood (Hauser & Bühlmann 2012, Characterization and greedy learning of interventional
    Markov equivalence classes of DAGs): the likelihood splits into genes, and the mechanism of a gene is a least
    squares regression over the cells of those conditions that do not target it.

    `dag`: bool (genes, genes), row = cause. `intervention`: "hard", a target loses its parents and has another
    mean and variance in each condition; "shift", it keeps its mechanism, and each condition has another intercept.
    `weights[i, j]` is the effect of i on j, 0 off the graph. `target_means` and `target_variances` are those of the
    noise of targets ("shift": the mean is the condition's intercept); NaN elsewhere.
    """

    dag: np.ndarray  # (genes, genes)
    targets: np.ndarray  # (conditions, genes)
    intervention: Kind
    weights: np.ndarray  # (genes, genes)
    intercepts: np.ndarray  # (genes,)
    variances: np.ndarray  # (genes,)
    target_means: np.ndarray  # (conditions, genes)
    target_variances: np.ndarray  # (conditions, genes)

    @classmethod
    def fit(
        cls, x: np.ndarray, codes: np.ndarray, dag: np.ndarray, targets: np.ndarray, *, intervention: Kind = "hard"
    ) -> Self:
        """Fit all mechanisms to x (cells, genes) of conditions (cells,), rows of `targets`; not all need have cells.

        Where parents are collinear, the coefficients of least norm are taken. A gene that is a target in every
        condition has no mechanism that data could tell: it gets no weights, and the mean and variance of all its
        cells. In a condition with a single cell a target's variance is that of its mechanism.

        Raises
        ------
        ValueError
            If the graph has a cycle, or a gene fewer cells to estimate its mechanism than its number of parents + 2.
        """
        x, codes = np.asarray(x, dtype=np.float64), np.asarray(codes)
        dag, targets = np.asarray(dag).astype(bool), np.asarray(targets).astype(bool)
        n_genes = x.shape[1]
        topological_order(dag)  # raises where there is a cycle
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
                raise InvalidValue(
                    f"The mechanism of gene {gene} with {len(parents)} parents cannot be estimated: only {len(y)} "
                    f"cells are in conditions that do not target it."
                )
            coefficients = np.linalg.lstsq(_centred(design, group[used]), _centred(y, group[used]), rcond=None)[0]
            rest = x[:, gene] - x[:, parents] @ coefficients
            weights[parents, gene] = coefficients
            intercepts[gene] = rest[group == 0].mean()
            variances[gene] = np.square(_centred(rest[used], group[used])).mean()
            for row in np.flatnonzero(targets[:, gene]):
                cells = (x[:, gene] if intervention == "hard" else rest)[codes == row]
                if len(cells):
                    means[row, gene] = cells.mean()
                    alone = intervention == "hard" and len(cells) > 1
                    spreads[row, gene] = cells.var() if alone else variances[gene]
        return cls(dag, targets, intervention, weights, intercepts, variances, means, spreads)

    def sample(self, row: int, n: int, rng: RngLike = 0) -> np.ndarray:
        """Draw `n` cells of one condition by ancestral sampling; float64 (n, genes).

        A ValueError if n < 1, or the condition has targets and had no cells to learn what happens to them.
        """
        target = self.targets[row]
        if np.isnan(self.target_means[row, target]).any():
            raise InvalidValue(f"Condition {row} had no cells to learn from what happens to its targets.")
        mean = np.where(target, self.target_means[row], self.intercepts)
        sd = np.sqrt(np.where(target, self.target_variances[row], self.variances))
        cut = target & (self.intervention == "hard")
        return ancestral(mean + sd * standard_normal(n, len(mean), rng), self.dag, np.where(cut, 0.0, self.weights))


def best_place(
    value: Callable[[int, frozenset[int]], float], order: Sequence[int], gene: int
) -> tuple[list[int], float]:
    """A causal order with `gene` at its best place, and what that gains; `value`: of a gene with those before it."""

    def of_two(moved: list[int], first: int) -> float:
        before, (one, other) = frozenset(moved[:first]), moved[first : first + 2]
        return value(one, before) + value(other, before | {one})

    best, most = list(order), 0.0
    for step in (-1, 1):
        moved, place, gain = list(order), list(order).index(gene), 0.0
        while 0 <= place + step < len(moved):
            first = min(place, place + step)
            gain -= of_two(moved, first)
            moved[place], moved[place + step] = moved[place + step], gene
            gain += of_two(moved, first)
            place += step
            if gain > most + GAIN:
                best, most = list(moved), gain
    return best, most


def check_levels(**levels: float) -> None:
    """Refuse levels of tests that are none."""
    for option, level in levels.items():
        if not 0 < level < 1:
            raise InvalidValue(f"{option} is the level of a test, between 0 and 1, got {level}.")


def standard_normal(n: int, n_genes: int, rng: RngLike) -> np.ndarray:
    """(n, genes) noise of `n` cells."""
    check_int(n, "n", least=1)
    return as_generator(rng).standard_normal((n, n_genes))


def ancestral(noise: np.ndarray, dag: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n, genes): the noise of every gene plus its parents' weighted values."""
    x = noise.copy()
    for gene in topological_order(dag):
        x[:, gene] += x @ weights[:, gene]
    return x


def _centred(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Minus the mean of each group: the same as an intercept for each."""
    centred = np.array(values, dtype=np.float64)
    for code in np.unique(group):
        centred[group == code] -= centred[group == code].mean(axis=0)
    return centred
