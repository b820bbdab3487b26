"""The cells of the synthetic experiment: designs, methods, and what is swept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from scgim._validation import check_choice

from .methods import Method
from .stored import Cell
from .synthetic import SyntheticTask
from .tune import require_optuna, tune

logger = logging.getLogger("scgim")

#: Experiment -> (setting that varies, its values, the settings that go with a value). All values `own`.
SWEEPS: dict[str, tuple[str, tuple[int, ...]]] = {
    "features": ("n_features", (2, 5, 10, 20, 40)),
    "conditions": ("n_perturbations", (10, 20, 40, 80)),
    "cells": ("cells_per_condition", (12, 25, 50, 100)),
}
EXPERIMENTS = ("designs", "paper", *SWEEPS)
#: What a run looks at unless told otherwise: GIM and what needs no extra and little time.
METHODS = ("gim", "mean_shift", "ridge", "next_lower_dose", "control")
#: What a sweep looks at.
SWEPT = ("gim", "mean_shift")
#: Every size of the small setting: it shows that the experiment runs, not how well.
SMALL: dict[str, int] = {
    "n_genes": 8, "n_perturbations": 10, "cells_per_condition": 25, "n_control": 200, "n_features": 8,
    "n_new_targets": 4,
}  # fmt: skip
_SMALL_STEPS = 500


@dataclass(frozen=True)
class SyntheticExperiment:
    """What `scgim benchmark synthetic` runs.

    Parameters
    ----------
    experiments
        Any of "designs" (every mechanism x graph x intervention), "paper" (``preset="paper"`` beside the default;
        hard interventions on ER graphs), "features", "conditions", "cells" (sweeps; hard, ER).
    mechanisms, graphs, interventions
        What "designs" crosses; the other experiments take `mechanisms` only.
    seeds, sweep_seeds
        Systems of "designs", and of the other experiments.
    methods
        Methods of "designs": names that `scgim.baselines.fit` knows.
    options
        Method -> options of its constructor.
    tuned
        (mechanism, method) -> options that go before those, see :func:`tune_methods`.
    small
        Small systems and short fits.
    """

    experiments: Sequence[str] = EXPERIMENTS
    mechanisms: Sequence[str] = ("linear", "mlp")
    graphs: Sequence[str] = ("er", "sf")
    interventions: Sequence[str] = ("hard", "shift")
    seeds: Sequence[int] = tuple(range(400, 405))
    sweep_seeds: Sequence[int] = tuple(range(400, 403))
    methods: Sequence[str] = METHODS
    options: Mapping[str, Mapping[str, Any]] | None = None
    tuned: Mapping[tuple[str, str], Mapping[str, Any]] | None = None
    small: bool = False

    def __post_init__(self) -> None:
        for name in self.experiments:
            check_choice(name, "experiments", EXPERIMENTS)

    def cells(self) -> dict[str, list[Cell]]:
        """Experiment -> its cells. A cell that belongs to several is computed once."""
        return {name: self._cells(name) for name in self.experiments}

    def _cells(self, experiment: str) -> list[Cell]:
        if experiment == "designs":
            return [
                Cell(self._task(mechanism=m, graph=g, intervention=i, seed=s), self.method(m, name))
                for m, g, i, s, name in product(
                    self.mechanisms, self.graphs, self.interventions, self.seeds, self.methods
                )
            ]
        if experiment == "paper":
            wanted: list[tuple[str, str | None, dict[str, str]]] = [
                ("gim", None, {}), ("gim", "gim_paper", {"preset": "paper"}), ("mean_shift", None, {})
            ]  # fmt: skip
            return [
                Cell(self._task(mechanism=m, seed=s), self.method(m, kind, name, **options))
                for m, s, (kind, name, options) in product(self.mechanisms, self.sweep_seeds, wanted)
            ]
        setting, values = SWEEPS[experiment]
        return [
            Cell(self._task(mechanism=m, seed=s, **self._swept(setting, value)), self.method(m, name))
            for m, s, value, name in product(self.mechanisms, self.sweep_seeds, self._values(setting, values), SWEPT)
        ]

    def tuning_tasks(self, mechanism: str, seeds: Sequence[int]) -> list[SyntheticTask]:
        """Systems to choose hyper-parameters on: hard interventions on ER graphs."""
        shared = set(seeds) & ({*self.seeds} | {*self.sweep_seeds})
        if shared:
            raise ValueError(f"Seeds {sorted(shared)} are reported: choose hyper-parameters on other ones.")
        return [self._task(mechanism=mechanism, seed=seed) for seed in seeds]

    def _task(self, **settings: Any) -> SyntheticTask:
        return SyntheticTask(**{**(SMALL if self.small else {}), **settings})

    def method(self, mechanism: str, kind: str, name: str | None = None, **options: Any) -> Method:
        """A method with its options for systems of one mechanism family."""
        options = {**(self.options or {}).get(kind, {}), **(self.tuned or {}).get((mechanism, kind), {}), **options}
        if self.small and kind in ("gim", "bacadi"):
            options["max_steps"] = _SMALL_STEPS
        return Method(name or kind, kind, options)

    def _values(self, setting: str, values: Sequence[int]) -> list[int]:
        if not self.small:
            return list(values)
        default = SMALL[setting]
        return [default // 2, default]

    def _swept(self, setting: str, value: int) -> dict[str, int]:
        """A sweep of cells scales the control, too: the paper has 16 times as many controls."""
        default = SyntheticTask()
        if setting != "cells_per_condition" or self.small:
            return {setting: value}
        return {setting: value, "n_control": value * default.n_control // default.cells_per_condition}


def tune_methods(
    experiment: SyntheticExperiment,
    out: str | Path,
    *,
    n_trials: int,
    seeds: Sequence[int] = (500,),
    jobs: int = 1,
    time_limit: float | None = None,
    progress: bool = True,
) -> tuple[SyntheticExperiment, pd.DataFrame]:
    """Choose the options of every method of the experiment, once per mechanism family and with the same budget.

    Parameters
    ----------
    experiment
        Whose methods are tuned.
    out
        Folder; finished trials are kept in ``out/tuning``.
    n_trials
        Trials of every method, its defaults included.
    seeds
        Systems to tune on; none of them may be reported.
    jobs, time_limit, progress
        As for :func:`scgim.benchmark.run`.

    Returns
    -------
    experiment
        With `tuned` set.
    trials
        One row per mechanism, method and trial.
    """
    if n_trials > 1:
        require_optuna()
    tuned, tables = {}, []
    for mechanism, name in product(experiment.mechanisms, experiment.methods):
        method = experiment.method(mechanism, name)
        try:
            chosen, table = tune(
                method, experiment.tuning_tasks(mechanism, seeds), Path(out) / "tuning", n_trials=n_trials, jobs=jobs,
                time_limit=time_limit, progress=progress,
            )  # fmt: skip
        except RuntimeError as error:  # every trial failed: the comparison will say so with the defaults
            logger.warning("%s, %s: %s", mechanism, name, error)
            continue
        tuned[mechanism, name] = {k: v for k, v in chosen.options.items() if k in method.cls.search_space}
        tables.append(table.assign(mechanism=mechanism, method=name))
        logger.info("%s, %s: %s", mechanism, name, tuned[mechanism, name] or "its defaults")
    return replace(experiment, tuned=tuned), pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
