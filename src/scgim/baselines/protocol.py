"""The one protocol of all baselines: what they are given, what they give, and how they decline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from scgim._errors import InvalidValue
from scgim._rng import RngLike, as_generator
from scgim._validation import check_int, check_number
from scgim.data import Condition, PerturbationData

#: What a baseline is fitted on, by the name that it has here.
TrainingData = PerturbationData


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high` to choose a hyper-parameter from; `log`: on a log scale; `whole`: integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Choice:
    """Values to choose a hyper-parameter from."""

    values: tuple[object, ...]


class CannotPredict(InvalidValue):
    """A baseline has no prediction (or no graph, or no targets) to give; the message says why."""


class Baseline(ABC):
    """A predictor: ``fit`` once, then ``sample`` any condition."""

    #: Name in tables.
    name: ClassVar[str]
    #: Predicts (some) conditions that had no training cells.
    can_predict_unseen: ClassVar[bool] = False
    #: `graph` works.
    gives_graph: ClassVar[bool] = False
    #: `targets` works.
    gives_targets: ClassVar[bool] = False
    #: Learns from raw counts: `scgim.baselines.fit` reads them.
    reads_counts: bool = False
    #: Option of the constructor -> where the benchmark looks for its value (`own`); empty: nothing to tune.
    search_space: ClassVar[Mapping[str, Range | Choice]] = {}

    @abstractmethod
    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Learn from training cells; returns itself."""

    @abstractmethod
    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` predicted cells, float32 (n, genes); raises :class:`CannotPredict` where there is none."""

    def graph(self) -> np.ndarray:
        """The learned graph, bool (genes, genes), row = cause; an undirected edge of a class has both entries."""
        raise CannotPredict(f"{self.name} gives no graph.")

    def targets(self, conditions: Sequence[Condition]) -> np.ndarray:
        """Target probabilities (0 or 1 where the method only decides), (conditions, genes)."""
        raise CannotPredict(f"{self.name} gives no targets.")

    # -- what is refused, for subclasses --------------------------------------------------------------------

    def _check_data(self, data: TrainingData, *, features: bool) -> None:
        """Decline data without a perturbed condition, and without features where the baseline needs them."""
        if not len(data.trained):
            raise CannotPredict(f"{self.name} cannot be fitted: no perturbed condition has training cells.")
        if features and data.features.shape[1] == 0:
            raise CannotPredict(f"{self.name} cannot be fitted: the conditions have no features.")

    def _check_fitted(self, attribute: str) -> None:
        if not hasattr(self, attribute):
            raise RuntimeError(f"{self.name} is not fitted: call fit(data) first.")

    def _check_features(self, condition: Condition, n: int, features: np.ndarray | None = None) -> np.ndarray:
        """Features of a condition, or of its parts, as float64 (rows, p); declines where they do not fit."""
        found = np.atleast_2d(np.asarray(condition.features if features is None else features, dtype=np.float64))
        if found.shape[1:] != (n,) or not np.isfinite(found).all():
            raise CannotPredict(
                f"{self.name} cannot predict {condition.label!r}: it needs {n} finite features, got shape "
                f"{found.shape[1:]}."
            )
        return found


def check_positive(*, zero: bool = False, **options: float | Sequence[float] | None) -> None:
    """Refuse options that are not above 0, or at least 0 where that makes sense; None is always allowed."""
    for name, given in options.items():
        for value in given if isinstance(given, Sequence) else [] if given is None else [given]:
            if not (check_number(value, name) >= 0 if zero else check_number(value, name) > 0):
                raise InvalidValue(f"{name} must be {'at least' if zero else 'above'} 0, got {value!r}.")


def draw_cells(cells: np.ndarray, n: int, rng: RngLike) -> np.ndarray:
    """`n` rows of `cells` at random: without replacement where there are enough, else with."""
    check_int(n, "n", least=1)
    return cells[as_generator(rng).choice(len(cells), size=n, replace=n > len(cells))]
