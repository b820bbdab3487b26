"""The page of the SciPlex3 experiment, from what `scgim benchmark sciplex3` has left in a folder.

python benchmarks/paper/sciplex3.py FOLDER [--name sciplex3_tuned]
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sciplex3_figures as figures
from records import Figures, Run, arguments, heading, markdown, mean_and_error, method_name, tuning_table, write

from scgim.benchmark import SciPlex3Task
from scgim.benchmark.sciplex3 import FEATURED, SPLIT
from scgim.metrics import METRICS

SETTING = ["cell_line", "drug"]
COLUMNS = ["mean_distance", "pearson_delta", "kde_nll", "wasserstein", "e_distance", "zero_fraction_error", "coverage"]
#: Split of a data set into halves: what two samples of the truth reach.
CEILING = "two halves of the truth"
N_HALVES = 5
SIMPLE = ("next_lower_dose", "ridge", "mean_shift", "additive")


def main(argv: Sequence[str] | None = None) -> Path:
    args = arguments(__doc__, "sciplex3", argv)
    run, figure = Run(args.folder), Figures(args.out, args.name)
    label = " (stand-in)" if stand_in(run) else ""
    parts = [introduction(run, label)]
    names = zip(run.results["method"], run.results.get("features", ()), strict=False)
    named = run.results.assign(method=[encoded(*name) for name in names])
    held = named[named["split"] == SPLIT]
    if len(held):
        parts += score_tables(held, named, halves_of_truth(run), label)
        parts += structure_table(run)
        parts += draw_figures(run, held, figure, label)
    if len(run.trials):
        parts += tuning(run)
    return write(run, parts, args.out, args.name)


def stand_in(run: Run) -> bool:
    """Whether the data are simulated, as they say of themselves."""
    return not run.settings["about"].startswith("Real data")


def encoded(method: str, features: str) -> str:
    """`gim:rescaled`: the method and, where it reads features, their encoding."""
    return f"{method}:{features}" if method in FEATURED else method


def introduction(run: Run, label: str) -> str:
    settings = run.settings
    sources = [found["source"] for found in settings["extracts"] if found["source"]]
    kind = "**semi-synthetic stand-in**: no number below is a number on SciPlex3" if label else "**real**"
    small = ", small setting: it shows that the experiment runs, not how well" if settings["small"] else ""
    n_genes = run.results["n_genes"].max() if len(run.results) else settings["n_genes"]
    lines = [
        f"- Data: {kind} ({sources[0] if sources else 'no data were found'})",
        f"- Settings: {len(settings['extracts'])} cell lines x {len(settings['drugs'])} drugs, each drug held out at "
        f"{settings['dose']:g} nM in turn; {n_genes} marker genes, chosen without the held-out cells",
        f"- Seeds: {run.seeds()} (preparation, fit, sampling); "
        f"{', '.join(map(str, settings['slow_seeds']))} for CondOT and the paper's preset",
        "- After the comma: how the features describe a dose (`auto`: the paper's nine numbers; all others are "
        "`own`: see `features` of `scgim.pp.prepare`)",
    ]
    return run.introduction(f"SciPlex3: a drug held out at its highest dose{label}{small}", lines)


def finished(run: Run) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(task, method, cell_line, drug, seed, features, ...) and details of every finished cell, in order."""
    identity = [name for name in run.results if name not in ("split", "metric", "value", "n")]
    for row in run.results[identity].drop_duplicates().itertuples():
        yield row, run.cells[f"{row.task}__{row.method}"].get("details") or {}


def score_tables(held: pd.DataFrame, named: pd.DataFrame, halves: pd.DataFrame, label: str) -> list[str]:
    """Means over settings, GIM against the best baseline, and every setting."""
    everything = pd.concat([held, halves], ignore_index=True)
    methods = list(dict.fromkeys(everything["method"]))
    rows = []
    for method in methods:
        own = everything[everything["method"] == method]
        fit = named[(named["method"] == method) & (named["split"] == "fit")]
        row = {"method": method_name(method)}
        row["settings x seeds"] = str(int((own["metric"] == "mean_distance").sum()))
        row |= {heading(metric): over_seeds(own[own["metric"] == metric]) for metric in COLUMNS}
        for metric in ("cpu_seconds", "peak_memory_mib"):
            row[f"{heading(metric)} of a fit"] = over_seeds(fit[fit["metric"] == metric])
        rows.append(row)
    distances = everything[everything["metric"] == "mean_distance"]
    pivot = distances.pivot_table(index=SETTING, columns="method", values="value")
    pivot = pivot.reindex(columns=[m for m in methods if m in pivot]).reset_index()
    shown = pivot.rename(columns=method_name)
    for name in shown.columns[len(SETTING) :]:
        shown[name] = [mean_and_error(value, np.nan) for value in shown[name]]
    ratio = ratio_table(pivot, methods)
    return [
        f"## Held-out dose{label}",
        markdown(pd.DataFrame(rows)),
        "Mean over settings, then mean ± standard deviation over seeds. KDE-NLL, Wasserstein and E-distance compare "
        "continuous predictions with cells that are nearly discrete (the paper's caveat): read them together with "
        "the mean distance. Coverage: share of true cells in the predicted 5 to 95 % range; 0.9 or more is right where "
        "a range ends at the peak of zeros.",
        *(["### GIM over the best baseline", markdown(ratio)] if len(ratio) else []),
        f"### Mean distance, setting by setting{label}",
        markdown(shown),
    ]


def over_seeds(own: pd.DataFrame) -> str:
    """Mean over settings per seed, then mean ± standard deviation over seeds."""
    if own.empty:
        return ""
    per_seed = own.groupby("seed")["value"].mean()
    return mean_and_error(float(per_seed.mean()), float(per_seed.std(ddof=1)))


def ratio_table(pivot: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """GIM over the best of the simple baselines."""
    baselines = [m for m in methods if m.partition(":")[0] in SIMPLE]
    rows = []
    for gim in [m for m in methods if m.partition(":")[0] == "gim"]:
        own = pivot.dropna(subset=[gim])  # an unfinished run: settings that GIM has, baselines that have them all
        complete = [name for name in baselines if own[name].notna().all()]
        if own.empty or not complete:
            continue
        best = str(own[complete].mean().idxmin())
        rows.append(
            {
                "GIM": method_name(gim),
                "settings": len(own),
                "best baseline on average": method_name(best),
                "mean distance, ratio of means": f"{own[gim].mean() / own[best].mean():.2f}",
                "settings in which GIM is nearer": int((own[gim] < own[best]).sum()),
                "nearer than the best baseline of each setting": int((own[gim] < own[complete].min(axis=1)).sum()),
            }
        )
    return pd.DataFrame(rows)


def spec_of(run: Run, row: Any) -> SciPlex3Task:
    """The task of a finished cell."""
    found = next(found for found in run.settings["extracts"] if found["cell_line"] == row.cell_line)
    settings = {name: getattr(row, name) for name in ("seed", "features", "n_genes", "n_top_genes", "dose")}
    file = run.folder / "data" / Path(found["file"]).name
    return SciPlex3Task(row.cell_line, row.drug, **settings, digest=found["digest"], file=str(file))


def halves_of_truth(run: Run) -> pd.DataFrame:
    """What two halves of the true cells reach: no prediction can be told from the truth beyond that."""
    path = run.folder / "halves.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    rows = []
    for row, _ in finished(run):
        spec = spec_of(run, row)
        key = f"{spec.name}-{spec.digest}"
        first = row.seed == run.settings["seeds"][0] and spec.features == "auto" and key not in {r["key"] for r in rows}
        if not first or run.cells[f"{row.task}__{row.method}"]["failure"] is not None:
            continue
        if key not in known:
            known[key] = half_scores(spec)
        same = {"key": key, **spec.columns(), "method": CEILING, "split": SPLIT, "n": 1}
        rows += [{**same, "metric": metric, "value": value} for metric, value in known[key].items()]
    path.write_text(json.dumps(known))
    return pd.DataFrame(rows).drop(columns="key", errors="ignore")


def half_scores(spec: SciPlex3Task) -> dict[str, float]:
    """Mean over random halves."""
    task = spec.load()
    control = task.train.x[task.train.control]
    cells = task.splits[SPLIT][0].cells
    rng = np.random.default_rng([spec.seed, 9])
    found: dict[str, list[float]] = {}
    for _ in range(N_HALVES):
        order = rng.permutation(len(cells))
        a, b = cells[order[::2]], cells[order[1::2]]
        for metric in ("mean_distance", "pearson_delta", "kde_nll", "e_distance", "zero_fraction_error", "coverage"):
            found.setdefault(metric, []).append(METRICS[metric](a, b, control))
    return {metric: float(np.mean(values)) for metric, values in found.items()}


def structure_table(run: Run) -> list[str]:
    """Targets per condition and edges of everything that gives them."""
    rows: list[dict[str, Any]] = []
    for row, kept in finished(run):
        if "targets" not in kept:
            continue
        doses: dict[str, list[int]] = {}
        for label, genes in kept["targets"].items():
            doses.setdefault(label.rpartition("_")[2], []).append(len(genes))
        name = method_name(f"{row.method}:{row.features}")
        found = {f"targets at {dose} nM": float(np.mean(n)) for dose, n in doses.items()}
        rows.append({"method": name, "cell line": row.cell_line, "edges": len(kept.get("edges", [])), **found})
    if not rows:
        return []
    mean = pd.DataFrame(rows).groupby(["method", "cell line"], sort=False).mean(numeric_only=True).round(1)
    return [
        "## Targets per condition, and edges",
        markdown(mean.reset_index()),
        "Means over settings and seeds. Where nearly every gene is a target the graph goes unused, and the prediction "
        "is an amortised product of marginals.",
    ]


def draw_figures(run: Run, held: pd.DataFrame, figure: Figures, label: str) -> list[str]:
    """Every setting, calibration, and marginals of one setting per cell line."""
    shown = ["mean_distance", "pearson_delta", "kde_nll"]
    draw = partial(figures.settings, held, shown, log=["kde_nll"], goal={"pearson_delta": 0.96})
    parts = ["## Figures", figure(draw, "settings", f"Every setting{label}", label)]
    seed = min(held["seed"])
    first = [(row, kept) for row, kept in finished(run) if row.seed == seed]
    tables = []
    for row, kept in first:
        if row.method in ("gim", "gim_paper", "mean_shift", "next_lower_dose"):
            for found in kept.get("queries", {}).values():
                columns = {key: found[key] for key in ("zero_true", "zero_predicted", "coverage")}
                tables.append(pd.DataFrame(columns).assign(method=encoded(row.method, row.features)))
    if tables:
        draw = partial(figures.calibration, pd.concat(tables, ignore_index=True))
        parts.append(figure(draw, "calibration", f"Calibration{label}, seed {seed}", label))
    drugs: dict[str, str] = {}  # the first setting of every cell line with another drug each
    failed = {found["cell_line"] for found in run.settings["extracts"] if found["problem"]}
    for row, _ in first:
        if row.cell_line not in failed and row.drug not in drugs.values():
            drugs.setdefault(row.cell_line, row.drug)
    for line, drug in drugs.items():
        own = [(row, kept) for row, kept in first if (row.cell_line, row.drug) == (line, drug)]
        parts += marginals(run, own, figure, label)
    return parts


def marginals(run: Run, cells: Sequence[tuple[Any, dict[str, Any]]], figure: Figures, label: str) -> list[str]:
    """GIM under every encoding, the mean-shift MLP under the first that is finished."""
    predicted: dict[str, np.ndarray] = {}
    for row, kept in cells:
        if row.method not in ("gim", "mean_shift") or not kept.get("queries"):
            continue
        if row.method == "mean_shift" and any(known.startswith("mean_shift") for known in predicted):
            continue
        predicted[encoded(row.method, row.features)] = np.array(next(iter(kept["queries"].values()))["cells"])
    if not predicted:
        return []
    row = cells[0][0]
    task = spec_of(run, row).load()
    true, control = task.splits[SPLIT][0].cells, task.train.x[task.train.control]
    change = np.abs(true.mean(0) - control.mean(0))[: min(x.shape[1] for x in predicted.values())]
    order = np.argsort(-change, kind="stable")
    # The genes that change most, and some that change in between.
    chosen = [*order[:3], *order[len(order) // 4 :: max(1, len(order) // 4)][:3]]
    chosen = list(dict.fromkeys(int(g) for g in chosen))
    draw = partial(
        figures.marginal_panels, [task.genes[g] for g in chosen], true[:, chosen],
        {k: x[:, chosen] for k, x in predicted.items()}, control[:, chosen],
    )  # fmt: skip
    title = f"{row.cell_line}, {row.drug}"
    return [figure(draw, f"marginals_{row.cell_line}-{row.drug}", f"{title} held out{label}", f" {title}{label}")]


def tuning(run: Run) -> list[str]:
    """Chosen hyper-parameters."""
    text = (
        f"Chosen with seed {', '.join(map(str, run.settings['tune_seeds']))} on one setting per cell line: of its "
        "training conditions one random drug at its highest trained dose was held out as well, as in the paper, and "
        "judged by KDE-NLL. The first trial is the defaults. Search ranges (`own`): `search_space` in "
        "`scgim.baselines`."
    )
    table = tuning_table(run.trials, lambda row: {"method": method_name(f"{row['method']}:{row['features']}")})
    return ["## Hyper-parameters", text, markdown(table.drop(columns="failed"))]


if __name__ == "__main__":
    main()
