"""The synthetic experiment: simulated systems with known graph, targets and dose responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from scgim._validation import check_choice
from scgim.data import Condition, PerturbationData
from scgim.simulate import sample_truth, synthetic, truth_at

from .experiments import SMALL_NOTE, Tuning, method_of
from .tasks import Cell, Method, Query, Task, options_of_data

if TYPE_CHECKING:
    from anndata import AnnData

#: Splits of the simulator and how tables name them.
SPLITS = {"train": "in distribution", "new_dose": "new doses", "new_target": "new targets"}
#: Experiment -> the setting that varies, and its values (`own`).
SWEEPS: dict[str, tuple[str, tuple[int, ...]]] = {
    "features": ("n_features", (2, 5, 10, 20, 40)),
    "conditions": ("n_perturbations", (10, 20, 40, 80)),
    "cells": ("cells_per_condition", (12, 25, 50, 100)),
}
EXPERIMENTS = ("designs", "paper", *SWEEPS)
#: What a run looks at unless told otherwise: GIM and what needs no extra and little time.
METHODS = ("gim", "mean_shift", "ridge", "next_lower_dose", "control")
#: The small setting shows that the experiment runs, not how well.
SMALL: dict[str, int] = {
    "n_genes": 8, "n_perturbations": 10, "cells_per_condition": 25, "n_control": 200, "n_features": 8,
    "n_new_targets": 4,
}  # fmt: skip
_SMALL_OPTIONS = {"gim": {"max_steps": 500}, "bacadi": {"max_steps": 500}}


@dataclass(frozen=True)
class SyntheticTask:
    """One simulated system (`scgim.simulate.synthetic`), held out doses and target sets.

    Parameters
    ----------
    mechanism, graph, intervention
        "linear", "mlp" or "ziln"; "er" or "sf"; "hard" or "shift".
    seed
        Of the system, and of fitting and sampling.
    n_genes, n_perturbations, cells_per_condition, n_control, n_features, n_new_targets
        The design; the defaults are the paper's where it states them.

    Examples
    --------
    >>> from scgim.benchmark import SyntheticTask
    >>> spec = SyntheticTask(mechanism="linear", n_genes=5, n_perturbations=3, n_features=4, n_new_targets=1)
    >>> task = spec.load()
    >>> {split: len(queries) for split, queries in task.splits.items()}
    {'train': 12, 'new_dose': 15, 'new_target': 4}
    """

    mechanism: str = "mlp"
    graph: str = "er"
    intervention: str = "hard"
    seed: int = 0
    n_genes: int = 20
    n_perturbations: int = 40
    cells_per_condition: int = 50
    n_control: int = 800
    n_features: int = 20
    n_new_targets: int = 20

    @property
    def name(self) -> str:
        """E.g. ``mlp-er-hard-seed3``, with whatever differs from the paper's design in between."""
        changed = [f"{f.name}{getattr(self, f.name)}" for f in fields(self)[4:] if getattr(self, f.name) != f.default]
        return "-".join([self.mechanism, self.graph, self.intervention, *changed, f"seed{self.seed}"])

    def columns(self) -> dict[str, Any]:
        """All settings."""
        return asdict(self)

    def simulate(self) -> AnnData:
        """The simulated cells, with their truth."""
        settings = asdict(self)
        return synthetic(rng=settings.pop("seed"), **settings)

    def load(self) -> Task:
        """Simulate; the queries of the training conditions are fresh cells of the true model."""
        adata = self.simulate()
        truth = adata.uns["truth"]
        table = truth["conditions"]
        split_of = table["split"].astype(str).to_numpy()
        treated = ~table["is_control"].to_numpy(dtype=bool)
        codes = table["condition"].astype(str).reset_index(drop=True)
        codes = adata.obs["condition"].astype(str).map({label: row for row, label in codes.items()}).to_numpy(dtype=int)
        x = np.asarray(adata.X, dtype=np.float32)
        used = split_of[codes] == "train"
        train = PerturbationData(x[used], codes[used], table, truth["features"])
        splits: dict[str, list[Query]] = {}
        for split in SPLITS:
            rows = np.flatnonzero((split_of == split) & treated)
            cells = [x[codes == row] for row in rows]
            if split == "train":
                asked = {"targets": truth["targets"][rows], "effects": truth["effects"][rows]}
                rng = np.random.default_rng([self.seed, 2])
                cells = list(sample_truth(adata, **asked, n=self.cells_per_condition, rng=rng))
            if len(rows):
                splits[split] = [
                    Query(train.condition(int(row)), found, truth["targets"][row].astype(bool))
                    for row, found in zip(rows, cells, strict=True)
                ]
        family = {"mechanism": self.mechanism, "intervention": self.intervention}
        defaults = options_of_data(family, positive=self.mechanism == "ziln")
        return Task(train, splits, adata.varp["true_graph"].toarray() > 0, defaults)

    def curves(self, n_doses: int = 12) -> tuple[list[Condition], np.ndarray, np.ndarray]:
        """The trained perturbations, each along a grid of doses; their true targets and effects (conditions, genes)."""
        adata = self.simulate()
        table = adata.uns["truth"]["conditions"]
        names = table.loc[(table["split"] == "train") & ~table["is_control"], "perturbation"].unique()
        pairs = [(str(name), float(dose)) for name in names for dose in np.linspace(0.1, 2.4, n_doses)]
        targets, effects, features = truth_at(adata, perturbations=pairs)
        labels = [f"{name}_{dose:g}" for name, dose in pairs]
        conditions = [
            Condition(label, *pair, row, (label,)) for label, pair, row in zip(labels, pairs, features, strict=True)
        ]
        return conditions, targets.astype(bool), effects


@dataclass(frozen=True)
class SyntheticExperiment:
    """Simulated systems with known truth.

    Predicted cells in distribution, for new doses and for new targets, and learned graphs and targets are compared
    with the truth of each system. This is what `scgim benchmark synthetic` runs.

    Parameters
    ----------
    experiments
        Any of "designs" (every mechanism x graph x intervention), "paper" (``preset="paper"`` against the default; hard
        interventions on ER graphs), "features", "conditions", "cells" (sweeps; hard, ER).
    mechanisms, graphs, interventions
        What "designs" crosses; the other experiments take `mechanisms` only.
    seeds, sweep_seeds
        Systems of "designs", and of the other experiments.
    methods
        Methods of "designs": names that `scgim.baselines.fit` knows.
    tuned
        (mechanism, method) -> chosen options, see :func:`run_experiment`.
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
    tuned: Mapping[tuple[str, str], Mapping[str, Any]] | None = None
    small: bool = False

    def __post_init__(self) -> None:
        for name in self.experiments:
            check_choice(name, "experiments", EXPERIMENTS)

    def cells(self) -> dict[str, list[Cell]]:
        """Experiment -> its cells. A cell that belongs to several is computed once."""
        return {
            name: [
                Cell(self._task(mechanism, seed, **settings), self._method(mechanism, method))
                for mechanism, settings, seed, method in product(self.mechanisms, *self._varied(name))
            ]
            for name in self.experiments
        }

    def _varied(self, experiment: str) -> tuple[list[dict[str, Any]], Sequence[int], Sequence[str]]:
        """Settings, seeds and methods of an experiment."""
        if experiment == "designs":
            pairs = product(self.graphs, self.interventions)
            return [{"graph": g, "intervention": i} for g, i in pairs], self.seeds, self.methods
        if experiment == "paper":
            return [{}], self.sweep_seeds, ("gim", "gim_paper", "mean_shift")
        setting, values = SWEEPS[experiment]
        if self.small:
            values = (SMALL[setting] // 2, SMALL[setting])
        settings = [{setting: value} for value in values]
        if experiment == "cells" and not self.small:  # the control, too: the paper has 16 times as many controls
            settings = [{**own, "n_control": 16 * own[setting]} for own in settings]
        return settings, self.sweep_seeds, ("gim", "mean_shift")

    def about(self) -> str:
        """What the data are."""
        return "Simulated data (scgim.simulate.synthetic)." + (SMALL_NOTE if self.small else "")

    def reported(self) -> set[int]:
        """Seeds that are reported."""
        return {*self.seeds, *self.sweep_seeds}

    def tuning(self, seeds: Sequence[int]) -> Iterator[Tuning]:
        """Every method once per mechanism family: hard interventions on ER graphs."""
        for mechanism, name in product(self.mechanisms, self.methods):
            tasks = [self._task(mechanism, seed) for seed in seeds]
            key = {"mechanism": mechanism, "method": name}
            yield Tuning(key, self._method(mechanism, name), tasks, "conditions")

    def _task(self, mechanism: str, seed: int, **settings: Any) -> SyntheticTask:
        return SyntheticTask(mechanism, seed=seed, **{**(SMALL if self.small else {}), **settings})

    def _method(self, mechanism: str, name: str) -> Method:
        options = (self.tuned or {}).get((mechanism, name), {})
        return method_of(name, options, _SMALL_OPTIONS if self.small else {})
