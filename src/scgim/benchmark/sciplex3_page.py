"""The SciPlex3 experiment from one call: run what is missing, then tables, figures and a page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from . import sciplex3_figures as figures
from .provenance import machine, versions
from .report import figure, missing_parts, seeds_text
from .run import run
from .sciplex3 import SPLIT, SciPlex3Task
from .sciplex3_experiment import SciPlex3Experiment, tune_sciplex3
from .sciplex3_tables import (
    calibration_table,
    halves_of_truth,
    score_tables,
    structure_table,
    tuning_table,
    with_encoding,
)
from .stored import Cell, commits, kept_details, results


def run_sciplex3(
    experiment: SciPlex3Experiment,
    out: str | Path,
    *,
    jobs: int = 1,
    time_limit: float | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    tune_trials: int = 0,
    tune_seed: int = 500,
    command: str = "",
    report_only: bool = False,
) -> Path:
    """Run the SciPlex3 experiment and write its table, figures and page.

    Parameters
    ----------
    experiment
        What to run.
    out
        Folder: ``results.csv`` (tidy), ``report.md``, figures as PNG, and ``cells/`` with what is finished.
    jobs, time_limit, retry_failed, progress
        As for :func:`scgim.benchmark.run`.
    tune_trials, tune_seed
        Choose hyper-parameters first, see :func:`scgim.benchmark.tune_sciplex3`; 0: keep the defaults.
    command
        The command line, for the page.
    report_only
        Fit nothing: write the page from what is finished; its hyper-parameters are those of the last tuning in `out`.

    Returns
    -------
    Path
        The page. It is written again with every call from what is finished.

    Raises
    ------
    ValueError
        If no setting can be run: every cell line lacks its cells.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if all(found.problem for found in experiment.extracts):
        raise ValueError("Nothing can be run. " + " ".join(found.problem for found in experiment.extracts))
    trials = pd.DataFrame()
    if tune_trials and not report_only:
        experiment, trials = tune_sciplex3(
            experiment, out, n_trials=tune_trials, seed=tune_seed, jobs=jobs, time_limit=time_limit, progress=progress
        )
        trials.to_csv(out / "tuning.csv", index=False, float_format="%.6g")
    elif report_only and (out / "tuning.csv").is_file():
        trials = pd.read_csv(out / "tuning.csv")
    cells = experiment.cells()
    if report_only:
        table = results(cells, out)
    else:
        table = run(cells, out, jobs=jobs, time_limit=time_limit, retry_failed=retry_failed, progress=progress)
    table.to_csv(out / "results.csv", index=False, float_format="%.6g")
    named = table.assign(method=with_encoding(table))
    label = " (stand-in)" if experiment.semi_synthetic else ""
    small = ", small setting: it shows that the experiment runs, not how well" if experiment.small else ""
    parts = [_introduction(experiment, table, command, ", ".join(commits(cells, out)), f"{label}{small}")]
    held = named[named["split"] == SPLIT]
    if len(held):
        halves = halves_of_truth(experiment, out)
        parts += score_tables(held, named, halves, label)
        parts += structure_table(cells, out)
        parts += _figures(held, cells, out, label)
    if len(trials):
        parts += tuning_table(trials, tune_seed)
    parts += missing_parts(cells, out)
    page = out / "report.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def _introduction(experiment: SciPlex3Experiment, table: pd.DataFrame, command: str, code: str, label: str) -> str:
    kind = "**semi-synthetic stand-in**: no number below is a number on SciPlex3" if experiment.semi_synthetic else ""
    lines = [
        f"# SciPlex3: a drug held out at its highest dose{label}",
        "",
        f"- Command: `{command}`" if command else "",
        f"- Data: {kind or '**real**'} ({experiment.source})",
        f"- Settings: {len(experiment.extracts)} cell lines x {len(experiment.drugs)} drugs, each drug held out at "
        f"{experiment.dose:g} nM in turn; {table['n_genes'].max() if len(table) else experiment.n_genes} marker genes, "
        "chosen without the held-out cells",
        f"- Seeds: {seeds_text(table) if len(table) else 'none finished'} (preparation, fit, sampling); "
        f"{', '.join(map(str, experiment.slow_seeds))} for CondOT and the paper's preset",
        f"- Machine: {machine()}; one thread per fit",
        f"- Versions: {versions()}" + (f"; fitted at commit {code}" if code else ""),
        "- After the comma: how the features describe a dose (`auto`: the paper's nine numbers; all others are "
        "`own`: see `features` of `scgim.pp.prepare`)",
    ]
    return "\n".join(line for i, line in enumerate(lines) if line or i < 2)


def _figures(held: pd.DataFrame, cells: Sequence[Cell], out: Path, label: str) -> list[str]:
    shown_metrics = ["mean_distance", "pearson_delta", "kde_nll"]
    draw = partial(figures.settings, held, shown_metrics, log=["kde_nll"], goal={"pearson_delta": 0.96})
    parts = ["## Figures", figure(draw, out / "settings.png", f"Every setting{label}", label)]
    seed = min(held["seed"])
    first = [cell for cell in cells if cell.task.seed == seed]
    genes = calibration_table(first, out)
    wanted = ("gim", "gim_paper", "mean_shift", "next_lower_dose")
    shown = [m for m in genes["method"].unique() if m.partition(":")[0] in wanted] if len(genes) else []
    if shown:
        draw = partial(figures.calibration, genes[genes["method"].isin(shown)])
        parts.append(figure(draw, out / "calibration.png", f"Calibration{label}, seed {seed}", label))
    for setting, own in _by_setting(first).items():
        text = _marginals(setting, own, out, label)
        if text:
            parts.append(text)
    return parts


def _by_setting(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The first setting of every cell line with another drug each: a figure for each."""
    found: dict[str, list[Cell]] = {}
    drugs: dict[str, str] = {}
    for cell in cells:
        task = cell.task
        if isinstance(task, SciPlex3Task) and not task.problem and task.drug not in drugs.values():
            drugs.setdefault(task.cell_line, task.drug)
    for cell in cells:
        if isinstance(cell.task, SciPlex3Task) and drugs.get(cell.task.cell_line) == cell.task.drug:
            found.setdefault(f"{cell.task.cell_line}-{cell.task.drug}", []).append(cell)
    return found


def _marginals(setting: str, cells: Sequence[Cell], out: Path, label: str) -> str:
    # GIM under every encoding, the mean-shift MLP under the first that is finished.
    predicted: dict[str, np.ndarray] = {}
    for cell in cells:
        found = kept_details(cell, out).get("queries", {})
        name = cell.method.name
        if name not in ("gim", "mean_shift") or not found:
            continue
        if name == "mean_shift" and any(known.startswith("mean_shift") for known in predicted):
            continue
        predicted[f"{name}:{cell.task.columns()['features']}"] = np.array(next(iter(found.values()))["cells"])
    if not predicted:
        return ""
    task = cells[0].task.load()
    true = task.splits[SPLIT][0].cells
    control = task.train.x[task.train.control]
    change = np.abs(true.mean(0) - control.mean(0))[: min(x.shape[1] for x in predicted.values())]
    order = np.argsort(-change, kind="stable")
    # The genes that change most, and some that change in between.
    chosen = [*order[:3], *order[len(order) // 4 :: max(1, len(order) // 4)][:3]]
    chosen = list(dict.fromkeys(int(g) for g in chosen))
    draw = partial(
        figures.marginal_panels, [task.genes[g] for g in chosen], true[:, chosen],
        {k: x[:, chosen] for k, x in predicted.items()}, control[:, chosen],
    )  # fmt: skip
    line, _, drug = setting.partition("-")
    where = out / f"marginals_{setting}.png"
    return figure(draw, where, f"{line}, {drug} held out{label}", f" {line}, {drug}{label}")
