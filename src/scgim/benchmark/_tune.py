"""Hyper-parameters by the prediction of held-out conditions, with the same number of trials for every method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from scgim._errors import InvalidValue
from scgim._optional import optional_import
from scgim._validation import check_choice
from scgim.baselines import Choice, Range
from scgim.data import PerturbationData
from scgim.metrics import METRICS

from ._run import run
from .scores import CELL_METRICS
from .tasks import Cell, Method, Query, Task, TaskSpec

#: Share of the conditions, or of the cells of every condition, that is held out (`own`).
_SHARE = {"conditions": 0.1, "cells": 0.2}


@dataclass(frozen=True)
class ValidationTask:
    """The training data of a task, split once more: what hyper-parameters are chosen on.

    Nothing of the original task but its training cells is used: no query, no true graph, no true targets.

    Parameters
    ----------
    spec
        The task. A recipe that can prepare its data without some conditions (`load_without`, a method from their labels
        to a task that asks for them under "valid") does so: genes and features are then chosen without them, too.
    kind
        "conditions": a tenth of the trained conditions is held out; "highest_dose": one random perturbation at its
        highest trained dose, as the paper does for SciPlex3; "cells": a fifth of the cells of every condition, for
        methods that cannot predict unseen conditions. Shares are `own`.
    """

    spec: TaskSpec
    kind: Literal["conditions", "highest_dose", "cells"] = "conditions"

    @property
    def name(self) -> str:
        """That of the task, and the kind."""
        return f"{self.spec.name}-valid_{self.kind}"

    @property
    def seed(self) -> int:
        """That of the task."""
        return self.spec.seed

    def columns(self) -> dict[str, Any]:
        """Those of the task."""
        return self.spec.columns()

    def load(self) -> Task:
        """Load the task and hold out part of its training cells."""
        task = self.spec.load()
        data = task.train
        held = _held_out(data, self.kind, np.random.default_rng([self.seed, 4]))
        rows = [int(row) for row in np.unique(data.codes[held])]
        if self.kind != "cells" and hasattr(self.spec, "load_without"):
            return self.spec.load_without([data.condition(row).label for row in rows])
        queries = [
            Query(data.condition(row), data.x[held & (data.codes == row)]) for row in rows if row in data.trained
        ]
        return Task(data.of_cells(~held), {"valid": queries}, None, task.defaults, task.genes)


def _held_out(data: PerturbationData, kind: str, rng: np.random.Generator) -> np.ndarray:
    """bool (cells,)"""
    trained = data.trained
    if kind == "cells":
        held = np.zeros(len(data.x), dtype=bool)
        for code in np.unique(data.codes):
            cells = rng.permutation(np.flatnonzero(data.codes == code))
            held[cells[: int(_SHARE["cells"] * len(cells))]] = True
        return held
    if len(trained) < 2:
        raise InvalidValue("Two perturbed conditions are needed to hold one out.")
    if kind == "highest_dose":
        table = data.conditions.iloc[trained]
        drug = rng.choice(np.sort(table["perturbation"].astype(str).unique()))
        doses = table.loc[table["perturbation"].astype(str) == drug, "dose"].astype(float)
        return data.codes == doses.idxmax()
    rows = rng.choice(trained, size=max(1, round(_SHARE["conditions"] * len(trained))), replace=False)
    return np.isin(data.codes, rows)


def tune(
    method: Method,
    specs: Sequence[TaskSpec],
    out: str | Path,
    *,
    n_trials: int = 10,
    kind: Literal["conditions", "highest_dose"] = "conditions",
    metric: str = "e_distance",
    seed: int = 0,
    jobs: int = 1,
    time_limit: float | None = None,
    progress: bool = True,
) -> tuple[Method, pd.DataFrame]:
    """Choose the options of a method.

    The first trial is the method as it is; the others are proposed by optuna's tree-structured Parzen estimator
    from `search_space` of its class. Every trial is fitted on each of `specs` with part of the training data held
    out; the trial with the best mean `metric` of the held-out cells is chosen. A trial that fails on a task is
    never chosen. Finished trials are kept in `out`, so an interrupted call goes on where it was.

    Parameters
    ----------
    method
        What to tune; its own options stay as they are.
    specs
        Tasks to tune on: not those that are reported.
    out
        Folder.
    n_trials
        Trials, the default included; give every method the same number.
    kind
        What is held out, see :class:`ValidationTask`. Methods that cannot predict unseen conditions hold out cells.
    metric
        A name of `scgim.metrics.METRICS` that the benchmark computes of cells; the paper chose by "kde_nll".
    seed
        Of the proposals.
    jobs, time_limit, progress
        As for :func:`scgim.benchmark.run`.

    Returns
    -------
    method
        With the chosen options.
    trials
        One row per trial: trial, the options, the metric under its name (infinite where it failed), seconds, chosen.

    Raises
    ------
    ImportError
        If optuna is missing (extra "tune") and there is more than one trial.
    RuntimeError
        If every trial failed.
    """
    if n_trials < 1:
        raise InvalidValue(f"n_trials must be at least 1, got {n_trials}.")
    check_choice(metric, "metric", (*(name for name in CELL_METRICS if METRICS[name].better), "wasserstein"))
    sign = -1.0 if METRICS[metric].better == "higher" else 1.0
    space = method.cls.search_space
    tasks = [ValidationTask(spec, kind if method.cls.can_predict_unseen else "cells") for spec in specs]
    trials = range(n_trials if space else 1)
    study = _Study(space, seed) if len(trials) > 1 else None
    rows: list[dict[str, Any]] = []
    for first in range(0, len(trials), max(1, jobs)):
        batch = trials[first : first + max(1, jobs)]
        asked = {trial: study.ask() if study and trial else (None, {}) for trial in batch}
        cells = [
            Cell(task, Method(f"{method.name}-trial{trial}", method.cls, {**method.options, **options}))
            for trial, (_, options) in asked.items()
            for task in tasks
        ]
        table = run(cells, out, jobs=jobs, time_limit=time_limit, progress=progress)
        for trial, (token, options) in asked.items():
            own = table[table["method"] == f"{method.name}-trial{trial}"]
            losses, seconds = (own.loc[own["metric"] == name, "value"] for name in (metric, "seconds"))
            value = float(losses.mean()) if losses.notna().sum() == len(tasks) else sign * math.inf
            if study and token is not None:
                study.tell(token, sign * value)
            rows.append({"trial": trial, **options, metric: value, "seconds": seconds.mean()})
    table = pd.DataFrame(rows)
    if not np.isfinite(table[metric]).any():
        raise RuntimeError(f"Every trial of {method.name} failed: see the cells in {Path(out).name}.")
    best = int((sign * table[metric]).idxmin())
    table["chosen"] = np.arange(len(table)) == best
    chosen = {name: rows[best][name] for name in space if name in rows[best]}
    return replace(method, options={**method.options, **chosen}), table


def require_optuna() -> Any:
    """optuna, or an ImportError that says how to install it."""
    return optional_import("optuna", extra="tune")


class _Study:
    """Proposals that are the same every time for the same seed and the same values."""

    def __init__(self, space: Mapping[str, Range | Choice], seed: int) -> None:
        optuna = require_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
        self.study = optuna.create_study(sampler=sampler, direction="minimize")
        self.space, self.known = space, optuna.distributions

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """A trial and its options. Only plain values can be proposed: of others (tuples of widths) the position is."""
        trial = self.study.ask({name: self._distribution(where) for name, where in self.space.items()})
        chosen = [(name, self.space[name], value) for name, value in trial.params.items()]
        return trial, {name: w.values[value] if isinstance(w, Choice) else value for name, w, value in chosen}

    def _distribution(self, where: Range | Choice) -> Any:
        if isinstance(where, Choice):
            return self.known.CategoricalDistribution(range(len(where.values)))
        if where.whole:
            return self.known.IntDistribution(int(where.low), int(where.high), log=where.log)
        return self.known.FloatDistribution(where.low, where.high, log=where.log)

    def tell(self, trial: Any, value: float) -> None:
        """The loss of a trial; a failed one has none."""
        failed = require_optuna().trial.TrialState.FAIL
        self.study.tell(trial, *((value,) if math.isfinite(value) else (None, failed)))
