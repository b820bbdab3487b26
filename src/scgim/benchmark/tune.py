"""Hyper-parameters by KDE-NLL on held-out conditions, with the same number of trials for every method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from scgim._optional import optional_import
from scgim.baselines import Choice, Range, TrainingData

from .methods import Method
from .run import run
from .stored import Cell
from .tasks import Query, Task, TaskSpec

#: Share of the conditions, or of the cells of every condition, that is held out (`own`).
_SHARE = {"conditions": 0.1, "cells": 0.2}


@dataclass(frozen=True)
class ValidationTask:
    """The training data of a task, split once more: what hyper-parameters are chosen on.

    Nothing of the original task but its training cells is used: no query, no true graph, no true targets.

    Parameters
    ----------
    spec
        The task.
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
        """Load the task and hold out part of its training cells.

        A recipe that can prepare its data without some conditions (`load_without`, a method from their labels to a
        task that asks for them under "valid") does so: genes and features are then chosen without them, too.
        """
        task = self.spec.load()
        data = task.train
        held = _held_out(data, self.kind, np.random.default_rng([self.seed, 4]))
        if self.kind != "cells" and hasattr(self.spec, "load_without"):
            return self.spec.load_without([data.condition(int(row)).label for row in np.unique(data.codes[held])])
        queries = [
            Query(data.condition(int(row)), data.x[held & (data.codes == row)])
            for row in np.unique(data.codes[held])
            if row in data.trained
        ]
        return Task(data.of_cells(~held), {"valid": queries}, None, task.defaults, task.genes)


def _held_out(data: TrainingData, kind: str, rng: np.random.Generator) -> np.ndarray:
    """bool (cells,)"""
    trained = data.trained
    if kind == "cells":
        held = np.zeros(len(data.x), dtype=bool)
        for code in np.unique(data.codes):
            cells = rng.permutation(np.flatnonzero(data.codes == code))
            held[cells[: int(_SHARE["cells"] * len(cells))]] = True
        return held
    if len(trained) < 2:
        raise ValueError("Two perturbed conditions are needed to hold one out.")
    if kind == "highest_dose":
        table = data.conditions.iloc[trained]
        drug = rng.choice(np.sort(table["perturbation"].astype(str).unique()))
        own = table[table["perturbation"].astype(str) == drug]
        rows = np.array([own["dose"].astype(float).idxmax()])
    else:
        rows = rng.choice(trained, size=max(1, round(_SHARE["conditions"] * len(trained))), replace=False)
    return np.isin(data.codes, rows)


def tune(
    method: Method,
    specs: Sequence[TaskSpec],
    out: str | Path,
    *,
    n_trials: int = 10,
    kind: Literal["conditions", "highest_dose"] = "conditions",
    seed: int = 0,
    jobs: int = 1,
    time_limit: float | None = None,
    progress: bool = True,
) -> tuple[Method, pd.DataFrame]:
    """Choose the options of a method.

    The first trial is the method as it is; the others are proposed by optuna's tree-structured Parzen estimator
    from `search_space` of its class. Every trial is fitted on each of `specs` with part of the training data held
    out; the trial with the lowest mean KDE-NLL of the held-out cells is chosen. A trial that fails on a task is
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
    seed
        Of the proposals.
    jobs, time_limit, progress
        As for :func:`scgim.benchmark.run`.

    Returns
    -------
    method
        With the chosen options.
    trials
        One row per trial: trial, the options, kde_nll (infinite where it failed), seconds, chosen.

    Raises
    ------
    ImportError
        If optuna is missing (extra "tune") and there is more than one trial.
    RuntimeError
        If every trial failed.
    """
    if n_trials < 1:
        raise ValueError(f"n_trials must be at least 1, got {n_trials}.")
    space = method.cls.search_space
    what = kind if method.cls.can_predict_unseen else "cells"
    tasks = [ValidationTask(spec, what) for spec in specs]
    study = _Study(space if n_trials > 1 else {}, seed)
    rows: list[dict[str, Any]] = []
    trials = range(n_trials if space else 1)
    for first in range(0, len(trials), max(1, jobs)):
        batch = trials[first : first + max(1, jobs)]
        asked = {trial: study.ask() if trial else (None, {}) for trial in batch}
        cells = [
            Cell(task, Method(f"{method.name}-trial{trial}", method.cls, {**method.options, **options}))
            for trial, (_, options) in asked.items()
            for task in tasks
        ]
        table = run(cells, out, jobs=jobs, time_limit=time_limit, progress=progress)
        for trial, (token, options) in asked.items():
            own = table[table["method"] == f"{method.name}-trial{trial}"]
            losses = own.loc[own["metric"] == "kde_nll", "value"]
            value = float(losses.mean()) if losses.notna().sum() == len(tasks) else math.inf
            study.tell(token, value)
            seconds = own.loc[own["metric"] == "seconds", "value"].mean()
            rows.append({"trial": trial, **options, "kde_nll": value, "seconds": seconds})
    table = pd.DataFrame(rows)
    if not np.isfinite(table["kde_nll"]).any():
        raise RuntimeError(f"Every trial of {method.name} failed: see the cells in {Path(out).name}.")
    best = int(table["kde_nll"].idxmin())
    table["chosen"] = np.arange(len(table)) == best
    chosen = {name: rows[best][name] for name in space if name in rows[best]}
    return replace(method, options={**method.options, **chosen}), table


def require_optuna() -> Any:
    """optuna, or an ImportError that says how to install it: known before the first trial, not after hours."""
    return optional_import("optuna", extra="tune")


class _Study:
    """Proposals from a search space, the same every time for the same seed and the same values."""

    def __init__(self, space: Any, seed: int) -> None:
        self.space = space
        if space:
            optuna = require_optuna()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
            self.study = optuna.create_study(sampler=sampler, direction="minimize")

    def ask(self) -> tuple[Any, dict[str, Any]]:
        trial = self.study.ask()
        return trial, {name: self._suggest(trial, name, where) for name, where in self.space.items()}

    @staticmethod
    def _suggest(trial: Any, name: str, where: Range | Choice) -> Any:
        if isinstance(where, Choice):
            # Only plain values can be proposed: the position of others (tuples of widths) is.
            return where.values[trial.suggest_categorical(name, list(range(len(where.values))))]
        if where.whole:
            return trial.suggest_int(name, int(where.low), int(where.high), log=where.log)
        return trial.suggest_float(name, where.low, where.high, log=where.log)

    def tell(self, trial: Any, value: float) -> None:
        if trial is not None:
            optuna = require_optuna()
            failed = not math.isfinite(value)
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            self.study.tell(trial, None if failed else value, state=state)
