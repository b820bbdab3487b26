"""Whole experiments: hyper-parameters chosen with one budget for all methods, runs, tables."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import pandas as pd

from scgim import __version__

from ._run import RESULT_COLUMNS, failures, notes, results, run, stored, summarise
from ._tune import require_optuna, tune
from .tasks import Cell, Method, TaskSpec

logger = logging.getLogger("scgim")

SMALL_NOTE = " Small setting: it shows that the experiment runs, not how well."
#: What the first page of a run shows; the rest is in its tables.
_HEADLINES = ("edge_f1", "sid", "target_f1", "mean_distance", "pearson_delta", "kde_nll", "failed", "seconds")


class Tuning(NamedTuple):
    """What is tuned at once; `key` names it in the table of trials and in `tuned`."""

    key: dict[str, str]
    method: Method
    specs: Sequence[TaskSpec]
    kind: Literal["conditions", "highest_dose"]


class Experiment(Protocol):
    """What :func:`run_experiment` needs of :class:`SyntheticExperiment` and :class:`SciPlex3Experiment`."""

    tuned: Mapping[tuple[str, str], Mapping[str, Any]] | None

    def cells(self) -> dict[str, list[Cell]]:
        """Part of the experiment -> its cells. A cell that belongs to several is computed once."""

    def about(self) -> str:
        """What the data are: simulated, a stand-in or real, and whether the setting is small."""

    def reported(self) -> set[int]:
        """Seeds that are reported."""

    def tuning(self, seeds: Sequence[int]) -> Iterator[Tuning]:
        """What hyper-parameters are chosen for, on tasks with these seeds."""


AnyExperiment = TypeVar("AnyExperiment", bound=Experiment)


def method_of(name: str, options: Mapping[str, Any], small: Mapping[str, Mapping[str, Any]]) -> Method:
    """A method by its name, "gim_paper" being GIM with the paper's preset, with what a small setting changes."""
    kind = "gim" if name == "gim_paper" else name
    preset = {"preset": "paper"} if name == "gim_paper" else {}
    return Method(name, kind, {**options, **preset, **small.get(kind, {})})


def tune_methods(
    experiment: AnyExperiment,
    out: str | Path,
    *,
    n_trials: int,
    seeds: Sequence[int] = (500,),
    jobs: int = 1,
    time_limit: float | None = None,
    progress: bool = True,
) -> tuple[AnyExperiment, pd.DataFrame]:
    """Choose the options of every method of an experiment, with the same budget for each.

    Synthetic: once per mechanism family, on hard interventions and ER graphs. SciPlex3: per method and encoding, as in
    the paper: one random drug at its highest dose is held out as well, in one setting per cell line (the drug that is
    held out in it changes from line to line); the cells that these settings hold out for the report are not looked at.

    Parameters
    ----------
    experiment
        A :class:`SyntheticExperiment` or a :class:`SciPlex3Experiment`.
    out
        Folder; finished trials are kept in ``out/tuning``.
    n_trials
        Trials of every method, its defaults included. 1: only measures the defaults.
    seeds
        Of the systems to tune on, or of the preparation; none of them may be reported.
    jobs, time_limit, progress
        As for :func:`scgim.benchmark.run`.

    Returns
    -------
    experiment
        With `tuned` set.
    trials
        One row per method, trial, and mechanism or encoding.
    """
    shared = sorted(set(seeds) & experiment.reported())
    if shared:
        raise ValueError(f"Seeds {shared} are reported: choose hyper-parameters on other ones.")
    if n_trials > 1:
        require_optuna()  # an error before the first trial, not after hours
    tuned, tables = {}, []
    for key, method, specs, kind in experiment.tuning(seeds):
        what = ", ".join(key.values())
        try:
            chosen, table = tune(
                method, specs, Path(out) / "tuning", n_trials=n_trials, kind=kind, jobs=jobs, time_limit=time_limit,
                progress=progress,
            )  # fmt: skip
        except RuntimeError as error:  # every trial failed: the comparison will say so with the defaults
            logger.warning("%s: %s", what, error)
            continue
        found = {k: v for k, v in chosen.options.items() if k in method.cls.search_space}
        tuned[tuple(key.values())] = found
        tables.append(table.assign(**key))
        logger.info("%s: %s", what, found or "its defaults")
    trials = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return replace(experiment, tuned=tuned), trials  # type: ignore[type-var]


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    *,
    jobs: int = 1,
    time_limit: float | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    tune_trials: int = 0,
    tune_seeds: Sequence[int] = (500,),
    command: str = "",
    report_only: bool = False,
) -> Path:
    """Run what is missing of an experiment and write its tables.

    Parameters
    ----------
    experiment
        A :class:`SyntheticExperiment` or a :class:`SciPlex3Experiment`.
    out
        Folder, see below.
    jobs, time_limit, retry_failed, progress
        As for :func:`scgim.benchmark.run`.
    tune_trials, tune_seeds
        Choose hyper-parameters first, see :func:`tune_methods`; 0: keep the defaults.
    command
        The command line, for `settings.json`.
    report_only
        Fit nothing: write the tables of what is finished, with the hyper-parameters of the last tuning in `out`.

    Returns
    -------
    Path
        ``out/report.txt``: what a reader wants first, what failed, and what has no value. Beside it ``results.csv`` (as
        :func:`results`), ``summary.csv`` (as :func:`summarise`), ``tuning.csv``, ``settings.json`` and ``cells/`` with
        what is finished. All are written again with every call.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "settings.json"
    if report_only and file.is_file():
        known = ast.literal_eval(json.loads(file.read_text())["tuned"])
        experiment = replace(experiment, tuned=known)  # type: ignore[type-var]
    elif tune_trials:
        experiment, trials = tune_methods(
            experiment, out, n_trials=tune_trials, seeds=tune_seeds, jobs=jobs, time_limit=time_limit, progress=progress
        )
        trials.to_csv(out / "tuning.csv", index=False, float_format="%.6g")
    parts = experiment.cells()
    cells = list({cell.name: cell for own in parts.values() for cell in own}.values())  # each once
    if report_only:
        table = results(cells, out)
    else:
        table = run(cells, out, jobs=jobs, time_limit=time_limit, retry_failed=retry_failed, progress=progress)
    table.to_csv(out / "results.csv", index=False, float_format="%.6g")
    by = [name for name in table if name not in ("task", "seed", *RESULT_COLUMNS)]
    summary = summarise(table, by)
    summary.to_csv(out / "summary.csv", index=False, float_format="%.6g")
    settings = {
        "experiment": type(experiment).__name__, "about": experiment.about(), "command": command, "scgim": __version__,
        "commits": sorted({str(stored(cell, out).get("commit") or "") for cell in cells} - {""}),
        "tuned": repr(dict(experiment.tuned or {})), "tune_seeds": list(tune_seeds),
        "cells": {name: [cell.name for cell in own] for name, own in parts.items()},
        **{field: value for field, value in vars(experiment).items() if field != "tuned"},
    }  # fmt: skip
    file.write_text(json.dumps(settings, indent=1, default=asdict))
    report = out / "report.txt"
    report.write_text("\n\n".join([experiment.about(), *_report(summary, by, cells, out)]) + "\n", encoding="utf-8")
    return report


def _report(summary: pd.DataFrame, by: Sequence[str], cells: Sequence[Cell], out: Path) -> Iterator[str]:
    shown = summary[summary["metric"].isin(_HEADLINES)]
    rows = [*(name for name in by if summary[name].nunique() > 1), "method"]
    if shown.empty:
        yield "No fit is finished."
    for split, own in shown.groupby("split", sort=False):
        table = own.pivot(index=rows, columns="metric", values="mean")  # of the systems
        yield f"{split}, mean over seeds:\n" + table[own["metric"].unique()].to_string(float_format="{:.3f}".format)
    for title, table in (("Failed", failures(cells, out)), ("Without a value", notes(cells, out))):
        if len(table):
            yield f"{title} (--retry-failed runs these cells again):\n{table.to_string(index=False, max_colwidth=200)}"
