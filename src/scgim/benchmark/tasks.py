"""What a method is judged on: training data, conditions to predict with their true cells, and the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from scgim.baselines import Condition, TrainingData


@dataclass(frozen=True, eq=False)
class Query:
    """A condition to predict.

    Parameters
    ----------
    condition
        What the method is told of it.
    cells
        (cells, genes), the true cells; none of them was trained on.
    targets
        bool (genes,), its true targets, where they are known.
    """

    condition: Condition
    cells: np.ndarray  # (cells, genes)
    targets: np.ndarray | None = None  # (genes,)


@dataclass(frozen=True, eq=False)
class Task:
    """Data to fit, and queries to answer.

    Parameters
    ----------
    train
        Training cells.
    splits
        Name of a split ("train", "new_dose", "new_target", "test", ...) -> its queries. The targets of the
        queries are compared within a split.
    graph
        bool (genes, genes), the true graph, row = cause; None where it is not known.
    defaults
        Options of methods that follow from the data, as method -> options, e.g. the mechanism family of GIM.
    genes
        Their names, where they have any.
    """

    train: TrainingData
    splits: dict[str, list[Query]]
    graph: np.ndarray | None = None  # (genes, genes)
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    genes: tuple[str, ...] = ()


class TaskSpec(Protocol):
    """Recipe of a task: small, picklable, and the same task every time it is loaded."""

    @property
    def name(self) -> str:
        """Name of the task: unique, and fit for a file name."""

    @property
    def seed(self) -> int:
        """Seed for fitting and sampling."""

    def columns(self) -> dict[str, Any]:
        """What identifies the task in a table of results."""

    def load(self) -> Task:
        """Make or read the data."""
