"""The one protocol of all baselines: what they are given, what they give, and how they decline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from scgim._rng import RngLike, as_generator
from scgim.data import Condition, PerturbationData

#: The name of the data class here.
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


class CannotPredict(ValueError):
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


def draw_cells(cells: np.ndarray, n: int, rng: RngLike) -> np.ndarray:
    """`n` rows of `cells` at random: without replacement where there are enough, else with."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    rows = as_generator(rng).choice(len(cells), size=n, replace=n > len(cells))
    return cells[rows]


def check_fitted(baseline: Baseline, attribute: str) -> None:
    """Raise where `fit` has not been called."""
    if not hasattr(baseline, attribute):
        raise RuntimeError(f"{baseline.name} is not fitted: call fit(data) first.")
