"""What is compared: tasks (data, queries and their truth) and methods."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from scgim.baselines import Baseline
from scgim.baselines.prepared import method_class
from scgim.data import Condition, PerturbationData


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

    train: PerturbationData
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


@dataclass(frozen=True)
class Method:
    """A method with its options, under a name of its own.

    Parameters
    ----------
    name
        In tables and file names; the same method may be compared under several names with different options.
    kind
        A name that `scgim.baselines.fit` knows, or a subclass of `scgim.baselines.Baseline`. Default: `name`.
    options
        Of its constructor. They go before those that follow from the task (`Task.defaults`).

    Examples
    --------
    >>> from scgim.benchmark import Method
    >>> Method("mean_shift_short", "mean_shift", {"steps": 100}).make().steps
    100
    """

    name: str
    kind: str | type[Baseline] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cls(self) -> type[Baseline]:
        """The class of the method; an unknown name is a ValueError that lists the known ones."""
        kind = self.name if self.kind is None else self.kind
        return method_class(kind) if isinstance(kind, str) else kind

    def make(self, task: Task | None = None) -> Baseline:
        """An unfitted method, with what `task` says about its options."""
        cls = self.cls
        options = dict(task.defaults.get(cls.name, {})) if task is not None else {}
        known = inspect.signature(cls).parameters
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
            options = {name: value for name, value in options.items() if name in known}
        return cls(**{**options, **self.options})


@dataclass(frozen=True)
class Cell:
    """One method on one task."""

    task: TaskSpec
    method: Method

    @property
    def name(self) -> str:
        """Unique among the cells of a run; a file name."""
        return f"{self.task.name}__{self.method.name}"

    def signature(self) -> dict[str, str]:
        """What a stored result must agree with to be used again."""
        kind = self.method.kind
        return {
            "task": repr(self.task),
            "kind": kind if isinstance(kind, str) else self.method.cls.name,
            "options": repr(sorted(self.method.options.items())),
        }


def options_of_data(family: Mapping[str, str], *, positive: bool) -> dict[str, dict[str, Any]]:
    """Method -> options that follow from the data: the family of the model, no values below zero."""
    defaults = {name: dict(family) for name in ("gim", "bacadi")}
    causal = {key: value for key, value in family.items() if key == "intervention"}
    defaults |= {name: dict(causal) for name in ("ut_igsp", "gnies", "jci_pc", "jci_pc_context")}
    clip: dict[str, Any] = {"clip": positive}
    return defaults | {name: dict(clip) for name in ("mean_shift", "ridge", "additive", "condot")}
