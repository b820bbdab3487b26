"""The cells of the synthetic experiment: designs, methods, and what is swept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from scgim._validation import check_choice

from .methods import Method
from .run import Cell
from .synthetic import SyntheticTask

#: Experiment -> (setting that varies, its values, the settings that go with a value). All values `own`.
SWEEPS: dict[str, tuple[str, tuple[int, ...]]] = {
    "features": ("n_features", (2, 5, 10, 20, 30, 40)),
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
        Method -> options of its constructor, e.g. tuned ones.
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
                Cell(self._task(mechanism=m, graph=g, intervention=i, seed=s), self._method(name))
                for m, g, i, s, name in product(
                    self.mechanisms, self.graphs, self.interventions, self.seeds, self.methods
                )
            ]
        if experiment == "paper":
            paper = self._method("gim", "gim_paper", preset="paper")
            methods = [self._method("gim"), paper, self._method("mean_shift")]
            return [
                Cell(self._task(mechanism=m, seed=s), method)
                for m, s, method in product(self.mechanisms, self.sweep_seeds, methods)
            ]
        setting, values = SWEEPS[experiment]
        return [
            Cell(self._task(mechanism=m, seed=s, **self._swept(setting, value)), self._method(name))
            for m, s, value, name in product(self.mechanisms, self.sweep_seeds, self._values(setting, values), SWEPT)
        ]

    def _task(self, **settings: Any) -> SyntheticTask:
        return SyntheticTask(**{**(SMALL if self.small else {}), **settings})

    def _method(self, kind: str, name: str | None = None, **options: Any) -> Method:
        options = {**(self.options or {}).get(kind, {}), **options}
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
