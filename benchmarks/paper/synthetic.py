"""The page of the synthetic experiment, from what `scgim benchmark synthetic` has left in a folder.

python benchmarks/paper/synthetic.py FOLDER [--name synthetic_ziln]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import figures
import pandas as pd
from records import Figures, Run, arguments, markdown, mean_and_error, method_name, ratios, tuning_table, wide, write

from scgim.benchmark import summarise
from scgim.benchmark.synthetic import SPLITS, SWEEPS

DESIGN = ["mechanism", "graph", "intervention"]
STRUCTURE = [
    ("graph", "edge_f1"), ("graph", "sid"), ("graph", "shd"), ("graph", "edge_auprc"), ("graph", "is_dag"),
    *((split, "target_f1") for split in SPLITS), *((split, "target_auprc") for split in SPLITS),
    ("fit", "seconds"), ("fit", "cpu_seconds"), ("fit", "peak_memory_mib"),
]  # fmt: skip
CELLS = ("mean_distance", "wasserstein", "kde_nll", "pearson_delta", "e_distance")
AXES = {
    "features": "features p", "conditions": "perturbations (x 4 doses)", "cells": "cells per condition",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> Path:
    args = arguments(__doc__, "synthetic", argv)
    run, figure = Run(args.folder), Figures(args.out, args.name)
    parts = [introduction(run)]
    for name in run.settings["cells"]:
        table = run.part(name)
        if table.empty:
            continue
        if name == "designs":
            parts += designs(run, table, figure)
        elif name == "paper":
            parts += paper(table)
        else:
            parts += sweep(name, table, figure)
    if len(run.trials):
        parts += tuning(run)
    return write(run, parts, args.out, args.name)


def introduction(run: Run) -> str:
    label = " (small setting: it shows that the experiment runs, not how well)" if run.settings["small"] else ""
    lines = [
        "- Data: **simulated** (`scgim.simulate.synthetic`); in distribution: fresh cells of the training conditions",
        f"- Seeds: {run.seeds()}; one fit per system, one configuration for all systems of a family",
        "- Mean ± standard error over systems; ↑ more is better, ↓ less is better; empty: the method has no such thing",
    ]
    return run.introduction(f"Known truth: the synthetic experiment{label}", lines)


def designs(run: Run, table: pd.DataFrame, figure: Figures) -> list[str]:
    """Tables and figures of every mechanism x graph x intervention."""
    summary = summarise(table, DESIGN)
    parts = ["## Every design"]
    gives = summary.loc[summary["metric"].isin(["edge_f1", "target_f1"]), "method"].unique()
    if len(gives):  # methods that give a graph or targets
        learned = summary[summary["method"].isin(gives)]
        parts += ["### Graph and targets", markdown(named(wide(learned, [*DESIGN, "method"], STRUCTURE)))]
    ratio = ratio_table(table)
    if len(ratio):
        parts += ["### Mean distance of GIM over that of the mean-shift MLP, system by system", markdown(ratio)]
    for split, title in SPLITS.items():
        parts += [f"### Cells, {title}"]
        parts.append(markdown(named(wide(summary, [*DESIGN, "method"], [(split, m) for m in CELLS]))))
    for (graph, intervention), own in table.groupby(["graph", "intervention"], sort=False):
        for stem, title, metrics, log in (
            ("structure", "Graph and targets", ["sid", "edge_f1", "target_f1"], []),
            ("cells", "Cells", ["mean_distance", "kde_nll"], ["mean_distance", "kde_nll"]),
        ):
            if has(own, metrics):
                draw = partial(figures.strips, own, metrics, splits=SPLITS, log=log)
                parts.append(figure(draw, f"{stem}_{graph}_{intervention}", f"{title}, {graph}, {intervention}"))
    gim = [name for name in run.settings["cells"]["designs"] if name.endswith("__gim")]
    learned = pd.DataFrame(run.cells.get(gim[-1], {}).get("curves", [])) if gim else pd.DataFrame()
    if len(learned):
        draw = partial(figures.hill_curves, learned, doses=(0.5, 1.0, 1.5, 2.0))
        title = f"Learned and true dose responses, {gim[-1].removesuffix('__gim')}"
        parts.append(figure(draw, "hill_curves", title))
    return parts


def has(table: pd.DataFrame, metrics: Sequence[str]) -> bool:
    """Whether there is any value of these metrics to draw."""
    return bool(table.loc[table["metric"].isin(metrics), "value"].notna().any())


def named(table: pd.DataFrame) -> pd.DataFrame:
    """Splits and methods in words."""
    names = {}
    for column in table.columns:
        start, comma, split = column.rpartition(", ")
        names[column] = f"{start}, {SPLITS[split]}" if comma and split in SPLITS else column
    return table.rename(columns=names).assign(method=table["method"].map(method_name))


def ratio_table(table: pd.DataFrame) -> pd.DataFrame:
    found = ratios(table, DESIGN, "mean_distance", "gim", "mean_shift")
    text = [mean_and_error(m, s) for m, s in zip(found["mean"], found["sem"], strict=True)]
    pivot = found.assign(text=text).pivot(index=DESIGN, columns="split", values="text")
    return pivot[[s for s in SPLITS if s in pivot]].rename(columns=SPLITS).reset_index()


def paper(table: pd.DataFrame) -> list[str]:
    """The paper's preset and the default."""
    columns = [c for c in STRUCTURE if c[1] not in ("edge_auprc", "is_dag")]
    columns += [(split, "mean_distance") for split in SPLITS]
    shown = wide(summarise(table, ["mechanism"]), ["mechanism", "method"], columns)
    dropped = table[table["metric"] == "n_edges_dropped"].groupby(["mechanism", "method"])["value"]
    said = {key: f"{int((own == 0).sum())} of {len(own)}" for key, own in dropped}  # systems, of those finished
    keys = zip(shown["mechanism"], shown["method"], strict=True)
    shown.insert(2, "a DAG without repair", [said.get(key, "") for key in keys])
    return ["## The paper's preset beside the default", markdown(named(shown))]


def sweep(name: str, table: pd.DataFrame, figure: Figures) -> list[str]:
    """One setting that varies."""
    setting = SWEEPS[name][0]
    order = table["mechanism"].map({name: i for i, name in enumerate(table["mechanism"].unique())})
    table = table.assign(order=order).sort_values(["order", setting], kind="stable")
    columns = [
        ("graph", "edge_f1"), *((s, "target_f1") for s in SPLITS), *((s, "mean_distance") for s in SPLITS),
        ("fit", "seconds"),
    ]  # fmt: skip
    title, metrics = f"Sweep of {AXES[name]}", ["edge_f1", "target_f1", "mean_distance"]
    shown = wide(summarise(table, ["mechanism", setting]), ["mechanism", setting, "method"], columns)
    parts = [f"## {title}", markdown(named(shown))]
    if has(table, metrics):
        look: dict[str, Any] = {"splits": SPLITS, "label": AXES[name], "log": name != "features"}
        parts.append(figure(partial(figures.sweep, table, setting, metrics, **look), f"sweep_{name}", title))
    return parts


def tuning(run: Run) -> list[str]:
    """Chosen hyper-parameters."""
    seeds = ", ".join(map(str, run.settings["tune_seeds"]))
    text = (
        f"Chosen on systems {seeds}, of which no cell is reported: by KDE-NLL of training "
        "conditions that were held out once more, or, for methods that cannot predict unseen conditions, of held-out "
        "cells. The first trial is the defaults. Search ranges (`own`): `search_space` in `scgim.baselines`."
    )
    table = tuning_table(run.trials, lambda r: {"mechanism": r["mechanism"], "method": method_name(r["method"])})
    return ["## Hyper-parameters", text, markdown(table)]


if __name__ == "__main__":
    main()
