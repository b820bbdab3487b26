"""More modelled genes: SciPlex3's design on the semi-synthetic stand-in, one drug held out at its highest dose."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recording import Note, data_file, make_parser, mean_and_spread

from scgim.benchmark import Cell, Method, SciPlex3Task, extract, failures, run, stored

FILE = "sciplex3_standin.h5ad"
METHODS = ("gim", "mean_shift", "ridge", "next_lower_dose", "control")
#: Scores, all over the genes that every model has; cost is that of the fit.
SCORES = ("mean distance", "Pearson of differences", "zero-fraction error", "coverage of 5-95 %")
COSTS = ("CPU seconds of a fit", "peak memory, MiB of a fit", "edges", "targets per condition, %")


def kept_details(cell: Cell, out: Path) -> dict[str, Any]:
    """What is kept of a finished cell for figures."""
    return stored(cell, out).get("details", {})


def cells_of(found: Any, args: Any) -> list[Cell]:
    """Every number of genes x drug x seed x method; small models first."""
    options: dict[str, Any] = {} if args.steps is None else {"max_steps": args.steps}
    return [
        Cell(
            SciPlex3Task(
                found.cell_line, drug, seed=seed, features=args.features, n_genes=n, n_top_genes=args.n_top_genes,
                digest=found.digest, file=found.file,
            ),
            Method(name, name, options if name == "gim" else {}),
        )
        for n in sorted(args.genes)
        for drug in (args.drugs if n <= args.one_setting_above else args.drugs[:1])
        for seed in (args.seeds if n <= args.one_setting_above else args.seeds[:1])
        for name in METHODS
    ]  # fmt: skip


def shared_genes(cells: Sequence[Cell], out: Path) -> dict[tuple[str, int], list[str]]:
    """(drug, seed) -> genes that are modelled whatever the number of genes."""
    shared: dict[tuple[str, int], list[str]] = {}
    for cell in cells:
        key = cell.task.drug, cell.task.seed
        if genes := kept_details(cell, out).get("genes"):
            shared[key] = [gene for gene in shared.get(key, genes) if gene in set(genes)]
    return shared


def scores(cell: Cell, out: Path, genes: Sequence[str]) -> dict[str, float]:
    """Accuracy on the held-out dose over `genes`."""
    kept = kept_details(cell, out)
    (query,) = kept["queries"].values()
    at = pd.Index(kept["genes"]).get_indexer(list(genes))
    column = {k: np.asarray(v)[at] for k, v in query.items() if isinstance(v, list) and k != "cells"}
    truth, predicted, control = (column[f"mean_{k}"] for k in ("true", "predicted", "control"))
    same = np.ptp(predicted - control) < 1e-3  # the control itself: its shift is noise
    pearson = np.nan if same else np.corrcoef(truth - control, predicted - control)[0, 1]
    return {
        "mean distance": float(np.linalg.norm(truth - predicted)),
        "Pearson of differences": float(pearson),
        "zero-fraction error": float(np.abs(column["zero_true"] - column["zero_predicted"]).mean()),
        "coverage of 5-95 %": float(column["coverage"].mean()),
    }


def costs(cell: Cell, out: Path, table: pd.DataFrame) -> dict[str, float]:
    """What the fit took, and how much structure it found."""
    own = table[(table["task"] == cell.task.name) & (table["method"] == cell.method.name)]
    fit = own.set_index("metric")["value"]
    memory = fit.get("peak_memory_mib", np.nan)
    found = {"CPU seconds of a fit": fit["cpu_seconds"], "peak memory, MiB of a fit": memory}
    kept = kept_details(cell, out)
    if "targets" in kept:
        found["edges"] = len(kept["edges"])
        called = np.mean([len(genes) for genes in kept["targets"].values()])
        found["targets per condition, %"] = 100 * called / len(kept["genes"])
    return {name: float(value) for name, value in found.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, fit=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one fit for each")
    parser.add_argument("--steps", type=int, help="training steps at most (default: that of fit_gim)")
    parser.add_argument("--genes", type=int, nargs="+", default=[50, 200, 500], help="modelled genes")
    parser.add_argument("--n-top-genes", type=int, default=1_000, help="highly variable genes they are taken from")
    parser.add_argument("--cell-line", default="A549")
    parser.add_argument("--drugs", nargs="+", default=["Belinostat", "Dacinostat"])
    parser.add_argument(
        "--one-setting-above", type=int, default=200, help="with more genes, only the first drug and seed are run"
    )
    parser.add_argument("--features", default="potency", choices=["auto", "onehot", "rescaled", "hill", "potency"])
    parser.add_argument("--work", type=Path, help="folder that keeps what is finished (default: nothing is kept)")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time, one thread each")
    args = parser.parse_args(argv)
    note = Note(
        "Many genes: SciPlex3's design with more modelled genes (stand-in)",
        data=f"**semi-synthetic stand-in**: `{FILE}`, {args.cell_line}. No number below is a number on SciPlex3",
        argv=argv,
        script="many_genes.py",
        seeds=args.seeds,
    )
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        (found,) = extract(data_file(args.data, FILE), work / "data", cell_lines=[args.cell_line])
        cells = cells_of(found, args)
        table = run(cells, work, jobs=args.jobs, progress=False)
        rows = collect(cells, work, table)
        failed = failures(cells, work)
    describe(note, rows, failed, args)
    note.write(args.out, "many_genes", rows)


def collect(cells: Sequence[Cell], out: Path, table: pd.DataFrame) -> pd.DataFrame:
    """One row per finished cell and metric."""
    shared, rows = shared_genes(cells, out), []
    for cell in cells:
        if not kept_details(cell, out):
            continue
        genes = shared[cell.task.drug, cell.task.seed]
        identity = {
            "genes": cell.task.n_genes, "drug": cell.task.drug, "seed": cell.task.seed, "method": cell.method.name,
            "shared_genes": len(genes),
        }  # fmt: skip
        values = {**scores(cell, out, genes), **costs(cell, out, table)}
        rows += [{**identity, "metric": name, "value": value} for name, value in values.items()]
    return pd.DataFrame(rows)


def describe(note: Note, rows: pd.DataFrame, failed: pd.DataFrame, args: Any) -> None:
    """The tables of the page."""
    n = sorted(rows["shared_genes"].unique())
    note.text(
        f"{', '.join(args.drugs)} held out at 10,000 nM in turn; features: {args.features}; modelled genes are taken "
        f"from {args.n_top_genes} highly variable ones. Scores are over the {' or '.join(map(str, n))} genes that "
        "every model of a setting has, so that rows can be compared; spread is over drugs and seeds (above "
        f"{args.one_setting_above} genes: {args.drugs[0]}, seed {args.seeds[0]} alone; the last table has that setting "
        "for every number of genes)."
    )
    digits = {"CPU seconds of a fit": 1, "peak memory, MiB of a fit": 0, "edges": 1, "targets per condition, %": 0}
    for heading, metrics, methods in (
        ("Accuracy on the held-out dose (stand-in)", SCORES, METHODS),
        ("Cost, and structure found (stand-in)", COSTS, ("gim", "mean_shift", "ridge")),
    ):
        lines = []
        for name in methods:
            for genes, part in rows[rows["method"] == name].groupby("genes"):
                values = {m: part.loc[part["metric"] == m, "value"] for m in metrics}
                text = {m: mean_and_spread(v, digits.get(m, 3)) for m, v in values.items()}
                lines.append({"method": name, "genes": genes, **text})
        note.table(heading, pd.DataFrame(lines))
    first = rows[(rows["drug"] == args.drugs[0]) & (rows["seed"] == args.seeds[0])]
    first = first[first["metric"].isin([*SCORES, *COSTS])]
    wide = first.pivot_table(index=["method", "genes"], columns="metric", values="value").reindex(METHODS, level=0)
    wide = wide.reindex(columns=[*SCORES, *COSTS]).map(lambda v: "-" if pd.isna(v) else f"{v:.4g}").reset_index()
    note.table(f"{args.drugs[0]}, seed {args.seeds[0]} (stand-in)", wide)
    if len(failed):
        note.table("Failed", failed)


if __name__ == "__main__":
    main()
