"""The synthetic experiment from one call: run what is missing, then tables, figures and a page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from . import figures
from .experiments import SWEEPS, SyntheticExperiment, tune_methods
from .provenance import machine, versions
from .report import figure, markdown, mean_and_error, missing_parts, ratios, seeds_text, summarise, wide
from .run import run
from .stored import Cell, commits, curves, results
from .synthetic import SPLITS

_DESIGN = ["mechanism", "graph", "intervention"]
_STRUCTURE = [
    ("graph", "edge_f1"), ("graph", "sid"), ("graph", "shd"), ("graph", "edge_auprc"), ("graph", "is_dag"),
    *((split, "target_f1") for split in SPLITS), *((split, "target_auprc") for split in SPLITS),
    ("fit", "seconds"), ("fit", "cpu_seconds"), ("fit", "peak_memory_mib"),
]  # fmt: skip
_CELLS = ("mean_distance", "wasserstein", "kde_nll", "pearson_delta", "e_distance")
_AXES = {
    "features": "features p", "conditions": "perturbations (x 4 doses)", "cells": "cells per condition",
}  # fmt: skip


def run_synthetic(
    experiment: SyntheticExperiment,
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
    """Run the synthetic experiment and write its table, figures and page.

    Parameters
    ----------
    experiment
        What to run.
    out
        Folder: ``results.csv`` (tidy), ``report.md``, figures as PNG, and ``cells/`` with what is finished.
    jobs, time_limit, retry_failed, progress
        As for :func:`scgim.benchmark.run`.
    tune_trials, tune_seeds
        Choose hyper-parameters first, see :func:`scgim.benchmark.tune_methods`; 0: keep the defaults.
    command
        The command line, for the page.
    report_only
        Fit nothing: write the page from what is finished.

    Returns
    -------
    Path
        The page. It is written again with every call from what is finished.
    """
    out = Path(out)
    trials = pd.DataFrame()
    if tune_trials:
        experiment, trials = tune_methods(
            experiment, out, n_trials=tune_trials, seeds=tune_seeds, jobs=jobs, time_limit=time_limit, progress=progress
        )
        trials.to_csv(out / "tuning.csv", index=False, float_format="%.6g")
    by_experiment = experiment.cells()
    # One list without repetitions: the default design is part of every sweep.
    cells = list({cell.name: cell for own in by_experiment.values() for cell in own}.values())
    if report_only:
        table = results(cells, out)
    else:
        table = run(cells, out, jobs=jobs, time_limit=time_limit, retry_failed=retry_failed, progress=progress)
    table.to_csv(out / "results.csv", index=False, float_format="%.6g")
    parts = [_introduction(table, experiment, command, ", ".join(commits(cells, out)))]
    for name, own in by_experiment.items() if len(table) else ():
        names = {(cell.task.name, cell.method.name) for cell in own}
        keys = zip(table["task"], table["method"], strict=True)
        parts += _section(name, table[[key in names for key in keys]], own, experiment, out)
    if len(trials):
        parts += _tuning(trials, tune_seeds)
    parts += missing_parts(cells, out)
    page = out / "report.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def _introduction(table: pd.DataFrame, experiment: SyntheticExperiment, command: str, code: str) -> str:
    label = " (small setting: it shows that the experiment runs, not how well)" if experiment.small else ""
    seeds = seeds_text(table) if len(table) else "none finished"
    lines = [
        f"# Known truth: the synthetic experiment{label}",
        "",
        f"- Command: `{command}`" if command else "",
        "- Data: **simulated** (`scgim.simulate.synthetic`); in distribution: fresh cells of the training conditions",
        f"- Seeds: {seeds}; one fit per system, one configuration for all systems of a family",
        f"- Machine: {machine()}; one thread per fit",
        f"- Versions: {versions()}" + (f"; fitted at commit {code}" if code else ""),
        "- Mean ± standard error over systems; ↑ more is better, ↓ less is better; empty: the method has no such thing",
    ]
    return "\n".join(line for i, line in enumerate(lines) if line or i < 2)


def _section(
    name: str, table: pd.DataFrame, cells: Sequence[Cell], experiment: SyntheticExperiment, out: Path
) -> list[str]:
    if table.empty:
        return []
    if name == "designs":
        return _designs(table, cells, out)
    if name == "paper":
        return _paper(table)
    return _sweep(name, table, out)


def _designs(table: pd.DataFrame, cells: Sequence[Cell], out: Path) -> list[str]:
    summary = summarise(table, _DESIGN)
    parts = ["## Every design"]
    learned = _with_graph(summary)
    if len(learned):
        parts += ["### Graph and targets", markdown(_named(wide(learned, [*_DESIGN, "method"], _STRUCTURE)))]
    ratio = _ratio_table(table)
    if len(ratio):
        parts += ["### Mean distance of GIM over that of the mean-shift MLP, system by system", markdown(ratio)]
    for split, title in SPLITS.items():
        parts += [f"### Cells, {title}"]
        parts.append(markdown(_named(wide(summary, [*_DESIGN, "method"], [(split, m) for m in _CELLS]))))
    for (graph, intervention), own in table.groupby(["graph", "intervention"], sort=False):
        for stem, title, metrics, log in (
            ("structure", "Graph and targets", ["sid", "edge_f1", "target_f1"], []),
            ("cells", "Cells", ["mean_distance", "kde_nll"], ["mean_distance", "kde_nll"]),
        ):
            if _has(own, metrics):
                draw = partial(figures.strips, own, metrics, splits=SPLITS, log=log)
                where = out / f"{stem}_{graph}_{intervention}.png"
                parts.append(figure(draw, where, f"{title}, {graph}, {intervention}"))
    gim = [cell for cell in cells if cell.method.name == "gim"]
    if gim:
        learned = curves(gim[-1], out)
        if len(learned):
            draw = partial(figures.hill_curves, learned, doses=(0.5, 1.0, 1.5, 2.0))
            title = f"Learned and true dose responses, {gim[-1].task.name}"
            parts.append(figure(draw, out / "hill_curves.png", title))
    return parts


def _has(table: pd.DataFrame, metrics: Sequence[str]) -> bool:
    """Whether there is any value of these metrics to draw."""
    return bool(table.loc[table["metric"].isin(metrics), "value"].notna().any())


def _with_graph(summary: pd.DataFrame) -> pd.DataFrame:
    """Only methods that give a graph or targets."""
    gives = summary.loc[summary["metric"].isin(["edge_f1", "target_f1"]), "method"].unique()
    return summary[summary["method"].isin(gives)]


def _named(table: pd.DataFrame) -> pd.DataFrame:
    renamed = {name: _split_title(name) for name in table.columns}
    return table.rename(columns=renamed).assign(method=table["method"].map(figures.method_name))


def _split_title(name: str) -> str:
    for split, title in SPLITS.items():
        if name.endswith(f", {split}"):
            return name.removesuffix(split) + title
    return name


def _ratio_table(table: pd.DataFrame, by: Sequence[str] = _DESIGN) -> pd.DataFrame:
    found = ratios(table, by, "mean_distance", "gim", "mean_shift")
    text = [mean_and_error(m, s) for m, s in zip(found["mean"], found["sem"], strict=True)]
    pivot = found.assign(text=text).pivot(index=list(by), columns="split", values="text")
    return pivot[[s for s in SPLITS if s in pivot]].rename(columns=SPLITS).reset_index()


def _paper(table: pd.DataFrame) -> list[str]:
    summary = summarise(table, ["mechanism"])
    columns = [c for c in _STRUCTURE if c[1] != "edge_auprc"] + [(split, "mean_distance") for split in SPLITS]
    return [
        "## The paper's preset beside the default",
        markdown(_named(wide(summary, ["mechanism", "method"], columns))),
    ]


def _sweep(name: str, table: pd.DataFrame, out: Path) -> list[str]:
    setting = SWEEPS[name][0]
    order = table["mechanism"].map({name: i for i, name in enumerate(table["mechanism"].unique())})
    table = table.assign(order=order).sort_values(["order", setting], kind="stable")
    summary = summarise(table, ["mechanism", setting])
    columns = [
        ("graph", "edge_f1"),
        *((s, "target_f1") for s in SPLITS),
        *((s, "mean_distance") for s in SPLITS),
        ("fit", "seconds"),
    ]
    title, metrics = f"Sweep of {_AXES[name]}", ["edge_f1", "target_f1", "mean_distance"]
    parts = [f"## {title}", markdown(_named(wide(summary, ["mechanism", setting, "method"], columns)))]
    if _has(table, metrics):
        look: dict[str, Any] = {"splits": SPLITS, "label": _AXES[name], "log": name != "features"}
        parts.append(figure(partial(figures.sweep, table, setting, metrics, **look), out / f"sweep_{name}.png", title))
    return parts


def _tuning(trials: pd.DataFrame, seeds: Sequence[int]) -> list[str]:
    fixed = ["mechanism", "method", "trial", "kde_nll", "seconds", "chosen"]
    rows = []
    for (mechanism, method), own in trials.groupby(["mechanism", "method"], sort=False):
        best = own[own["chosen"]].iloc[0]
        options = {k: v for k, v in best.drop(fixed).dropna().items()}
        rows.append(
            {
                "mechanism": mechanism,
                "method": figures.method_name(str(method)),
                "trials": len(own),
                "failed": int((own["kde_nll"] == float("inf")).sum()),
                "KDE-NLL, defaults": f"{own.loc[own['trial'] == 0, 'kde_nll'].item():.2f}",
                "KDE-NLL, chosen": f"{best['kde_nll']:.2f}",
                "chosen": ", ".join(f"{k} = {_short(v)}" for k, v in options.items()) or "the defaults",
            }
        )
    text = (
        f"Chosen on systems {', '.join(map(str, seeds))}, of which no cell is reported: by KDE-NLL of training "
        "conditions that were held out once more, or, for methods that cannot predict unseen conditions, of held-out "
        "cells. The first trial is the defaults. Search ranges (`own`): `search_space` in `scgim.baselines`."
    )
    return ["## Hyper-parameters", text, markdown(pd.DataFrame(rows))]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
