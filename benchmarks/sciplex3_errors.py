"""Where the predictions of `scgim benchmark sciplex3` are wrong: which genes, and what the training cells say of them.

Fits nothing: reads the finished cells of a run (its --out), and the data that it extracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recording import Note, make_parser, mean_and_spread

from scgim.benchmark import Cell, Method, SciPlex3Experiment, extract, stored

#: Where the truth lies against what the training cells show of the gene, and what that means.
KINDS = {
    "as the other drugs": "between the next lower dose and the other drugs' highest doses, nearer to the latter",
    "as the next lower dose": "between them, nearer to the next lower dose: the step of the others does not happen",
    "beyond both": "outside that range by more than two standard errors: nothing in training shows it",
}


def kept_details(cell: Cell, out: Path) -> dict[str, Any]:
    """What is kept of a finished cell for figures."""
    return stored(cell, out).get("details", {})


def setting_rows(cell: Cell, out: Path) -> list[dict[str, Any]]:
    """One row per gene of a finished setting: zero fractions and means, seen and predicted."""
    kept = kept_details(cell, out)
    if not kept.get("queries"):
        return []
    (query,) = kept["queries"].values()
    train = cell.task.load().train
    table = train.conditions.reset_index(drop=True)
    zeros = {row: (train.x[train.codes == row] == 0).mean(0) for row in np.unique(train.codes)}
    control = int(np.flatnonzero(table["is_control"])[0])
    own = table[(table["perturbation"].astype(str) == cell.task.drug) & table.index.isin(list(zeros))]
    others = table[
        ~table["is_control"].astype(bool)
        & (table["perturbation"].astype(str) != cell.task.drug)
        & (table["dose"].astype(float) == cell.task.dose)
        & table.index.isin(list(zeros))
    ]
    lower = int(own["dose"].astype(float).idxmax())
    rest = np.stack([zeros[i] for i in others.index])
    n = query["n_true"]
    return [
        {
            "cell_line": cell.task.cell_line, "drug": cell.task.drug, "seed": cell.task.seed, "gene": gene, "n_true": n,
            "control": zeros[control][j], "next_lower_dose": zeros[lower][j], "others": rest[:, j].mean(),
            "others_low": rest[:, j].min(), "others_high": rest[:, j].max(),
            "true": query["zero_true"][j], "predicted": query["zero_predicted"][j],
            "true_shift": query["mean_true"][j] - query["mean_control"][j],
            "predicted_shift": query["mean_predicted"][j] - query["mean_control"][j],
        }
        for j, gene in enumerate(kept["genes"])
    ]  # fmt: skip


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds error, what sampling alone would give, and the kind of every gene."""
    p, n = rows["true"], rows["n_true"]
    spread = np.sqrt(np.maximum(p * (1 - p), 0.25 / n) / n)
    low = rows[["next_lower_dose", "others_low"]].min(axis=1)
    high = rows[["next_lower_dose", "others_high"]].max(axis=1)
    nearer_below = (p - rows["next_lower_dose"]).abs() < (p - rows["others"]).abs()
    kind = np.where(nearer_below, "as the next lower dose", "as the other drugs")
    kind = np.where((p < low - 2 * spread) | (p > high + 2 * spread), "beyond both", kind)
    # mean absolute deviation of a share of n cells around its expectation
    sampling = np.sqrt(2 / np.pi) * np.sqrt(rows["predicted"] * (1 - rows["predicted"]) / n)
    return rows.assign(error=(rows["predicted"] - p).abs(), sampling=sampling, kind=kind)


def per_setting(rows: pd.DataFrame, other: pd.DataFrame, name: str) -> pd.DataFrame:
    """Error, its floor, the share of the true shift that is predicted, and whether another method errs alike."""
    lines = []
    for (line, drug), part in rows.groupby(["cell_line", "drug"], sort=False):
        slopes, alike = [], []
        for seed, own in part.groupby("seed"):
            slopes.append(np.polyfit(own["true_shift"], own["predicted_shift"], 1)[0])
            same = other[(other["cell_line"] == line) & (other["drug"] == drug) & (other["seed"] == seed)]
            if len(same) == len(own):
                errors = [(x["predicted_shift"] - x["true_shift"]).to_numpy() for x in (own, same)]
                alike.append(np.corrcoef(*errors)[0, 1])
        by_seed = part.groupby("seed")
        shift = part.assign(wrong=part["predicted_shift"] - part["true_shift"])
        between = shift.pivot(index="gene", columns="seed", values="wrong").corr().to_numpy()
        lines.append(
            {
                "cell line": line, "drug": drug, "cells": int(part["n_true"].iloc[0]),
                "zero-fraction error": mean_and_spread(by_seed["error"].mean(), 3),
                "from sampling alone": mean_and_spread(by_seed["sampling"].mean(), 3),
                "predicted per true shift": mean_and_spread(slopes),
                "correlation of errors between seeds": mean_and_spread(between[np.triu_indices_from(between, 1)]),
                f"correlation of errors with {name}": mean_and_spread(alike),
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, fit=False)
    parser.add_argument("--run", type=Path, required=True, help="the --out of scgim benchmark sciplex3")
    parser.add_argument("--features", default="potency")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--worst", type=int, default=15, help="genes in the last table")
    args = parser.parse_args(argv)
    extracts = extract(args.data, args.run / "data")
    experiment = SciPlex3Experiment(extracts)
    label = " (stand-in)" if experiment.semi_synthetic else ""
    note = Note(
        f"SciPlex3: where the predictions are wrong{label}",
        data=("**semi-synthetic stand-in**: no number below is a number on SciPlex3; " if label else "")
        + "the finished cells of `scgim benchmark sciplex3`, nothing is fitted here",
        argv=argv,
        script="sciplex3_errors.py",
        seeds=args.seeds,
    )
    frames = {}
    for name in ("gim", "mean_shift"):
        found = [
            row
            for seed in args.seeds
            for line in extracts
            for drug in experiment.drugs
            for row in setting_rows(Cell(experiment.task(line, drug, seed, args.features), Method(name)), args.run)
        ]
        frames[name] = judge(pd.DataFrame(found))
    describe(note, frames["gim"], frames["mean_shift"], args)
    note.write(args.out, "sciplex3_errors", frames["gim"])


def describe(note: Note, rows: pd.DataFrame, other: pd.DataFrame, args: Any) -> None:
    """The tables of the page."""
    note.text(
        f"GIM, features: {args.features}. Zero fraction of a gene: share of cells without a count of it, under the "
        "dose held out. From sampling alone: what a perfect prediction would be off by, because the true cells are few."
    )
    note.table("Setting by setting", per_setting(rows, other, "mean-shift MLP"))
    lines = []
    for kind, what in KINDS.items():
        per_seed = [
            (len(own) / len(part), own["error"].sum() / part["error"].sum(), own["error"].mean())
            for _, part in rows.groupby("seed")
            if len(own := part[part["kind"] == kind])
        ]
        share, weight, error = zip(*per_seed, strict=True) if per_seed else ((), (), ())
        lines.append(
            {
                "the truth lies": kind, "that is": what, "share of genes": mean_and_spread(share),
                "share of the whole error": mean_and_spread(weight), "mean error": mean_and_spread(error, 3),
            }
        )  # fmt: skip
    note.table("Which genes", pd.DataFrame(lines))
    shown = ["control", "next_lower_dose", "others", "true", "predicted"]
    mean = rows.groupby(["cell_line", "drug", "gene"], sort=False)[[*shown, "error"]].mean().reset_index()
    worst = mean.nlargest(args.worst, "error").drop(columns="error")
    worst[shown] = worst[shown].map(lambda v: f"{v:.2f}")
    names = {
        "cell_line": "cell line", "next_lower_dose": "next lower dose", "others": "other drugs, highest dose",
        "true": "held-out dose, true", "predicted": "held-out dose, predicted",
    }  # fmt: skip
    note.table("The largest errors: zero fractions, mean over seeds", worst.rename(columns=names))


if __name__ == "__main__":
    main()
