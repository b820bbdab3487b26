"""Whole experiments: hyper-parameters chosen with one budget for all methods, runs, tables."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import pandas as pd

from scgim import __version__
from scgim._errors import InvalidValue

from ._run import RESULT_COLUMNS, failures, notes, results, run, stored, summarise
from ._tune import require_optuna, tune
from .tasks import Cell, Method, TaskSpec

if TYPE_CHECKING:
    from .sciplex3 import SciPlex3Experiment
    from .synthetic import SyntheticExperiment

    Experiment: TypeAlias = SyntheticExperiment | SciPlex3Experiment

logger = logging.getLogger("scgim")

SMALL_NOTE = " Small setting: it shows that the experiment runs, not how well."
#: What the first page of a run shows; the rest is in its tables.
_HEADLINES = ("edge_f1", "sid", "target_f1", "mean_distance", "pearson_delta", "kde_nll", "failed", "seconds")
#: What hyper-parameters are chosen by in the paper, whose experiments these are.
_CHOSEN_BY = "kde_nll"


class Tuning(NamedTuple):
    """What is tuned at once; `key` names it in the table of trials and in `tuned`."""

    key: dict[str, str]
    method: Method
    specs: Sequence[TaskSpec]
    kind: Literal["conditions", "highest_dose"]


def method_of(name: str, options: Mapping[str, Any], small: Mapping[str, Mapping[str, Any]]) -> Method:
    """A method by its name, "gim_paper" being GIM with the paper's preset, with what a small setting changes."""
    kind = "gim" if name == "gim_paper" else name
    preset = {"preset": "paper"} if name == "gim_paper" else {}
    return Method(name, kind, {**small.get(kind, {}), **options, **preset})


def tune_methods(
    experiment: Experiment, out: str | Path, *, n_trials: int, seeds: Sequence[int] = (500,), **how: Any
) -> tuple[Experiment, pd.DataFrame]:
    """The experiment with the options chosen by :func:`tune` for each of its methods, and the table of trials."""
    shared = sorted(set(seeds) & experiment.reported())
    if shared:
        raise InvalidValue(f"Seeds {shared} are reported: choose hyper-parameters on other ones.")
    if n_trials > 1:
        require_optuna()  # an error before the first trial, not after hours
    tuned: dict[Any, dict[str, Any]] = {}
    tables = []
    for key, method, specs, kind in experiment.tuning(seeds):
        what = ", ".join(key.values())
        try:
            chosen, table = tune(
                method, specs, Path(out) / "tuning", n_trials=n_trials, kind=kind, metric=_CHOSEN_BY, **how
            )
        except RuntimeError as error:  # every trial failed: the comparison will say so with the defaults
            logger.warning("%s: %s", what, error)
            continue
        found = {k: v for k, v in chosen.options.items() if k in method.cls.search_space}
        tuned[tuple(key.values())] = found
        tables.append(table.assign(**key))
        logger.info("%s: %s", what, found or "its defaults")
    trials = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return replace(experiment, tuned=tuned), trials


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
        Choose hyper-parameters first, with so many trials for every method and on systems (or preparations) with these
        seeds, none of which may be reported; 0: keep the defaults. Synthetic: once per mechanism family, on hard
        interventions and ER graphs. SciPlex3: per method and encoding, as in the paper: one random drug at its highest
        dose is held out as well, in one setting per cell line. The first trial is the defaults.
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
    experiment.cells()  # refuses now what cannot be run
    file = out / "settings.json"
    if report_only and file.is_file():
        known = ast.literal_eval(json.loads(file.read_text())["tuned"])
        experiment = replace(experiment, tuned=known)
    elif tune_trials:
        how = {"jobs": jobs, "time_limit": time_limit, "progress": progress}
        experiment, trials = tune_methods(experiment, out, n_trials=tune_trials, seeds=tune_seeds, **how)
        trials.to_csv(out / "tuning.csv", index=False, float_format="%.6g")
    parts = experiment.cells()
    cells = list({cell.name: cell for own in parts.values() for cell in own}.values())  # each once
    if report_only:
        table = results(cells, out)
    else:
        table = run(cells, out, jobs=jobs, time_limit=time_limit, retry_failed=retry_failed, progress=progress)
    table.to_csv(out / "results.csv", index=False)
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
