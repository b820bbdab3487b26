"""The cells of the SciPlex3 experiment: settings, methods, encodings of the dose; hyper-parameters."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from scgim._validation import check_choice
from scgim.baselines.prepared import method_class

from .methods import Method
from .sciplex3 import DOSE, DRUGS, Extract, SciPlex3Task
from .stored import Cell
from .tune import require_optuna, tune

logger = logging.getLogger("scgim")

#: What is compared unless told otherwise.
METHODS = ("gim", "mean_shift", "ridge", "condot", "next_lower_dose", "control")
#: Methods that read the features; the others are run once.
FEATURED = frozenset(["gim", "gim_paper", "mean_shift", "ridge", "condot"])
#: Methods that take minutes a fit: fitted for the first seed only unless told otherwise.
SLOW = frozenset(["condot", "gim_paper"])
#: The paper's nine features, and ours: curves around each drug's half-dose (`own`).
ENCODINGS = ("auto", "potency")
#: The paper's preset is compared on the paper's features alone.
_PAPERS = frozenset(["gim_paper"])
_SMALL_STEPS = 150


@dataclass(frozen=True)
class SciPlex3Experiment:
    """What `scgim benchmark sciplex3` runs.

    Parameters
    ----------
    extracts
        The data, a file per cell line, from :func:`scgim.benchmark.extract`.
    drugs, dose
        Each drug is held out at this dose (nM) in turn.
    methods
        Names that `scgim.baselines.fit` knows, and "gim_paper", the paper's preset.
    encodings
        Values of `features` in `scgim.pp.prepare` under which methods that read features are compared.
    seeds
        Of preparation, fit and sampling.
    slow_seeds
        Seeds for CondOT and the paper's preset, which take minutes a fit.
    n_genes
        Modelled genes.
    tuned
        (method, encoding) -> options, see :func:`tune_sciplex3`.
    small
        Fewer genes and steps, one seed.
    """

    extracts: Sequence[Extract]
    drugs: Sequence[str] = DRUGS
    dose: float = DOSE
    methods: Sequence[str] = METHODS
    encodings: Sequence[str] = ENCODINGS
    seeds: Sequence[int] = (0, 1, 2)
    slow_seeds: Sequence[int] = (0,)
    n_genes: int = 50
    tuned: Mapping[tuple[str, str], Mapping[str, Any]] | None = None
    small: bool = False

    def __post_init__(self) -> None:
        for name in self.methods:
            if name != "gim_paper":
                method_class(name)
        for name in self.encodings:
            check_choice(name, "encodings", ("auto", "onehot", "rescaled", "hill", "potency"))

    @property
    def source(self) -> str:
        """Where the cells come from."""
        return next((found.source for found in self.extracts if found.source), "no data were found")

    @property
    def semi_synthetic(self) -> bool:
        """The file says of itself that its counts are simulated."""
        return "synthetic" in self.source.lower() or "simulated" in self.source.lower()

    def cells(self) -> list[Cell]:
        """Every setting x seed x method x encoding, seed by seed: an interrupted run has whole seeds."""
        return [
            Cell(self.task(found, drug, seed, encoding), self.method(name, encoding))
            for seed in dict.fromkeys([*self.slow_seeds, *self.seeds])
            for found in self.extracts
            for drug in self.drugs
            for name in self.methods
            if seed in (self.slow_seeds if name in SLOW else self.seeds)
            for encoding in self.encodings_of(name)
        ]

    def encodings_of(self, name: str) -> Sequence[str]:
        """Under which features a method is run."""
        if name in _PAPERS or name not in FEATURED:
            return ("auto",)
        return self.encodings

    def task(self, found: Extract, drug: str, seed: int, encoding: str = "auto") -> SciPlex3Task:
        """One setting."""
        size = {"n_genes": 12, "n_top_genes": 200} if self.small else {"n_genes": self.n_genes}
        if not self.small and self.n_genes > 200:
            size["n_top_genes"] = max(1000, 2 * self.n_genes)
        return SciPlex3Task(
            found.cell_line, drug, seed=seed, features=encoding, dose=self.dose, digest=found.digest, file=found.file,
            problem=found.problem, **size,
        )  # fmt: skip

    def method(self, name: str, encoding: str = "auto") -> Method:
        """A method with its options."""
        options = dict((self.tuned or {}).get((name, encoding), {}))
        if name == "gim_paper":
            options["preset"] = "paper"
        if self.small and name.startswith("gim"):
            options["max_steps"] = _SMALL_STEPS
        if self.small and name == "condot":
            options["steps"] = 5
        return Method(name, "gim" if name == "gim_paper" else name, options)


def tune_sciplex3(
    experiment: SciPlex3Experiment,
    out: str | Path,
    *,
    n_trials: int,
    seed: int = 500,
    jobs: int = 1,
    time_limit: float | None = None,
    progress: bool = True,
) -> tuple[SciPlex3Experiment, pd.DataFrame]:
    """Choose options per method and encoding, as in the paper: one random drug at its highest dose is held out as well.

    The trials are judged by the mean KDE-NLL over one setting per cell line (the drug that is held out in it
    changes from line to line); the cells that these settings hold out for the report are not looked at. The same
    number of trials for every method and encoding; the first trial is the defaults.

    Parameters
    ----------
    experiment
        Whose methods are tuned.
    out
        Folder; finished trials are kept in ``out/tuning``.
    n_trials
        Trials of every method and encoding. 1: only measures the defaults, which is how encodings are compared.
    seed
        Of the trials, not a reported one.
    jobs, time_limit, progress
        As for :func:`scgim.benchmark.run`.

    Returns
    -------
    experiment
        With `tuned` set.
    trials
        One row per method, encoding and trial.
    """
    if seed in {*experiment.seeds, *experiment.slow_seeds}:
        raise ValueError(f"Seed {seed} is reported: choose hyper-parameters with another one.")
    if n_trials > 1:
        require_optuna()
    usable = [found for found in experiment.extracts if not found.problem]
    tuned, tables = {}, []
    for name in experiment.methods:
        if name not in FEATURED:
            continue
        for encoding in experiment.encodings_of(name):
            method = replace(experiment.method(name, encoding), name=f"{name}-{encoding}")
            drugs = [experiment.drugs[i % len(experiment.drugs)] for i in range(len(usable))]
            specs = [experiment.task(found, drug, seed, encoding) for found, drug in zip(usable, drugs, strict=True)]
            try:
                chosen, table = tune(
                    method, specs, Path(out) / "tuning", n_trials=n_trials, kind="highest_dose", jobs=jobs,
                    time_limit=time_limit, progress=progress,
                )  # fmt: skip
            except RuntimeError as error:  # every trial failed: the comparison will say so with the defaults
                logger.warning("%s, %s: %s", name, encoding, error)
                continue
            tuned[name, encoding] = {k: v for k, v in chosen.options.items() if k in method.cls.search_space}
            tables.append(table.assign(method=name, features=encoding))
    trials = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return replace(experiment, tuned=tuned), trials
