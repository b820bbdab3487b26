"""What is compared: a method with its options, under a name of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scgim.baselines import Baseline
from scgim.baselines.prepared import method_class

from .tasks import Task


@dataclass(frozen=True)
class Method:
    """A method of the comparison.

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
