"""What all causal baselines share: a learned equivalence class and targets, and a model to sample from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import numpy as np

from scgim._rng import RngLike, as_generator

from .equivalence import draw_dag
from .linear_gaussian import LinearGaussian
from .protocol import Baseline, CannotPredict, Condition, TrainingData, check_fitted

#: Correlation matrices whose smallest eigenvalue is below are singular for all that tests can tell (`own`).
_SINGULAR = 1e-8


class CausalBaseline(Baseline):
    """Learns an equivalence class of graphs and the targets of every training condition.

    For cells, a DAG is drawn from the class and a linear Gaussian model is fitted to it by maximum likelihood with
    the learned targets as known. Conditions without training cells cannot be predicted: nothing here connects them
    with what was learned.

    Parameters
    ----------
    intervention
        What the sampling model does to a target: "hard" or "shift", see
        :class:`~scgim.baselines.linear_gaussian.LinearGaussian`.

    Attributes
    ----------
    class_
        bool (genes, genes), the equivalence class; an undirected edge has both entries.
    targets_
        bool (conditions, genes), rows as in the training data.
    scm_
        The fitted :class:`~scgim.baselines.linear_gaussian.LinearGaussian`; ``scm_.dag`` is the drawn DAG.
    """

    gives_graph: ClassVar[bool] = True
    gives_targets: ClassVar[bool] = True
    can_predict_unseen: ClassVar[bool] = False
    #: Fewest training cells that a perturbed condition must have for the method's tests (`own`).
    min_cells: ClassVar[int] = 2

    def __init__(self, *, intervention: Literal["hard", "shift"] = "hard") -> None:
        if intervention not in ("hard", "shift"):
            raise ValueError(f"intervention must be 'hard' or 'shift', got {intervention!r}.")
        self.intervention = intervention

    @abstractmethod
    def _learn(self, data: TrainingData, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The class, bool (genes, genes), and the targets, bool (conditions, genes), in rows of `data.conditions`."""

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
        learned, targets = self._learn(data, generator)
        targets = np.asarray(targets, dtype=bool)
        targets[data.conditions["is_control"].to_numpy(dtype=bool)] = False
        dag = draw_dag(learned, generator)
        n_conditions = len(data.conditions)
        try:
            scm = LinearGaussian.fit(data.x, data.codes, n_conditions, dag, targets, intervention=self.intervention)
        except ValueError as error:
            raise CannotPredict(f"{self.name} cannot be fitted: {error}") from error
        self.class_, self.targets_, self.scm_ = np.asarray(learned, dtype=bool), targets, scm
        rows = np.unique(data.codes).tolist()
        self.rows_: dict[str, int] = {data.condition(row).label: row for row in rows}
        self.control_row_: int = next(row for row in rows if data.condition(row).is_control)
        return self

    def graph(self) -> np.ndarray:
        """The learned class, bool (genes, genes), row = cause; an undirected edge has both entries."""
        check_fitted(self, "scm_")
        return self.class_.copy()

    def targets(self, conditions: Sequence[Condition]) -> np.ndarray:
        """Learned targets, 0 or 1, (conditions, genes); zeros for the control.

        Raises
        ------
        CannotPredict
            For a condition without training cells.
        """
        check_fitted(self, "scm_")
        rows = [self._row(condition, "targets") for condition in conditions]
        return self.targets_[np.array(rows, dtype=int)].astype(float)

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` cells of a training condition or the control, from the sampling model; float32 (n, genes).

        Raises
        ------
        CannotPredict
            For a condition without training cells.
        """
        check_fitted(self, "scm_")
        return self.scm_.sample(self._row(condition, "cells"), n, rng).astype(np.float32)

    def _row(self, condition: Condition, what: str) -> int:
        if condition.is_control:
            return self.control_row_
        if condition.label not in self.rows_:
            raise CannotPredict(
                f"{self.name} has no {what} for {condition.label!r}: it had no training cells, and the method learns "
                "the targets of each condition from its own cells."
            )
        return self.rows_[condition.label]

    def _refuse(self, data: TrainingData) -> None:
        """Decline data that no test can work on, before any work."""
        prefix = f"{self.name} cannot be fitted: "
        if not len(data.trained):
            raise CannotPredict(prefix + "no perturbed condition has training cells.")
        counts = np.bincount(data.codes, minlength=len(data.conditions))
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
                f"{', '.join(map(str, constant[:10]))}): leave them out."
            )
        values, vectors = np.linalg.eigh(np.corrcoef(control, rowvar=False).reshape(n_genes, n_genes))
        if values[0] < _SINGULAR:
            involved = np.flatnonzero(np.abs(vectors[:, 0]) > 0.1)
            raise CannotPredict(
                prefix + "the covariance of the control cells is singular: the genes in columns "
                f"{', '.join(map(str, involved[:10]))} are linear functions of each other. Leave one out."
            )
