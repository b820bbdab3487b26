"""How sure a fit is of edges and targets, alone and with members, and what beliefs about edges are worth.

Simulated systems of 20 genes and 160 perturbed conditions at a share of the paper's cells: non-linear mechanisms
without counting noise (`mlp`, as in the paper) and behind counts (`count`, about three counts a gene). Development
seeds were 100 to 107.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import counts
import numpy as np
import pandas as pd
from recording import Note, make_parser, save, use_threads
from scipy.stats import t as student_t

from scgim import metrics
from scgim._rng import torch_generator
from scgim.benchmark import SyntheticTask
from scgim.data import PerturbationData
from scgim.inference import TrainingData, fit, make_config, resolve_sparsity
from scgim.inference.ensemble import fit_members
from scgim.model import FittedGIM
from scgim.simulate import sample_truth

#: Cells of a condition in the paper.
CELLS = 50
#: What is said of a believed edge.
SAID = 0.9


def system(seed: int, mechanism: str, share: float) -> tuple[PerturbationData, np.ndarray, np.ndarray, Any]:
    """Training cells, true graph, true targets of the perturbed conditions, and the task (None behind counts)."""
    cells = round(CELLS * share)
    if mechanism == "count":
        data, graph, targets = counts.simulate(seed, *counts.SETTINGS["mean count 3"], cells_per_condition=cells)
        return data, graph, targets[1:], None
    spec = SyntheticTask(mechanism, seed=seed, cells_per_condition=cells, n_control=16 * cells)
    task = spec.load()
    return task.train, task.graph, np.array([query.targets for query in task.splits["train"]]), spec


def measure(seed: int, mechanism: str, share: float, n_members: int, **settings: Any) -> list[dict[str, Any]]:
    """One fit, and the same with members: calibration and ranking of edges and targets; with their probabilities."""
    data, graph, targets, spec = system(seed, mechanism, share)
    tensors = TrainingData.of(data)
    config = resolve_sparsity(make_config(mechanism=mechanism, **settings), tensors)
    start = time.process_time()
    first = fit(tensors, config, rng=seed, progress=False)
    alone = time.process_time() - start
    members, failures = fit_members(tensors, config, n_members - 1, seed=seed)
    seconds = time.process_time() - start
    models = [FittedGIM(first.gim, first.graph), *members]
    found = [one.interventions(tensors.features, tensors.membership).prob.numpy() for one in models]
    treated, pairs = tensors.membership.sum(1).numpy() > 0, ~np.eye(len(graph), dtype=bool)
    rows = []
    for name, n, cost in (("one fit", 1, alone), (f"{n_members} members", len(models), seconds)):
        edge = np.mean([one.gim.graph.probabilities().detach().numpy() for one in models[:n]], axis=0)
        target = np.mean(found[:n], axis=0)[treated]
        row = {
            "mechanism": mechanism, "share": share, "seed": seed, "fit": name, "failed": len(failures) * (n > 1),
            "edge ECE": calibration_error(graph[pairs], edge[pairs]),
            "target ECE": calibration_error(targets, target),
            "edge AUPRC": metrics.edge_auprc(graph, edge), "target AUPRC": metrics.target_auprc(targets, target),
            "edge F1": metrics.edge_f1(graph, edge > 0.5), "target F1": metrics.target_f1(targets, target > 0.5),
            "seconds": cost, "edges": (graph[pairs], edge[pairs]), "targets": (targets.ravel(), target.ravel()),
        }  # fmt: skip
        if spec is not None and n > 1:
            row |= {f"covered, {split}": covered(models, spec, split, seed) for split in ("new_dose", "new_target")}
        rows.append(row)
    return rows


def bins(true: np.ndarray, probability: np.ndarray, n: int = 10) -> pd.DataFrame:
    """Mean probability, share that is true and number of entries, for each tenth of probability that occurs."""
    table = pd.DataFrame({"true": np.ravel(true), "probability": np.ravel(probability)})
    table["bin"] = np.minimum((table["probability"] * n).astype(int), n - 1)
    return table.groupby("bin").agg(probability=("probability", "mean"), true=("true", "mean"), n=("true", "size"))


def calibration_error(true: np.ndarray, probability: np.ndarray) -> float:
    """Expected calibration error: how far probability and share of the true are apart, in a tenth on average."""
    table = bins(true, probability)
    return float(np.average((table["probability"] - table["true"]).abs(), weights=table["n"]))


def covered(models: Sequence[FittedGIM], spec: SyntheticTask, split: str, seed: int, n: int = 2000) -> float:
    """Share of the true means, over conditions and genes, in 90 % intervals: Student's, from the members' means.

    Means are of `n` cells; members draw noise of their own, so that their spread holds what so many cells leave open.
    """
    import torch

    adata = spec.simulate()
    truth = adata.uns["truth"]
    rows = np.flatnonzero((truth["conditions"]["split"].astype(str) == split).to_numpy())
    cells = sample_truth(
        adata, targets=truth["targets"][rows], effects=truth["effects"][rows], n=2 * n, rng=np.random.default_rng(seed)
    )
    features, alone = torch.as_tensor(truth["features"][rows], dtype=torch.float32), torch.eye(len(rows))
    means = []
    generator = torch_generator(seed)
    for model in models:
        asked = model.interventions(features, alone)
        means.append([model.sample(asked, row, n, generator).mean(0) for row in range(len(rows))])
    middle, spread = np.mean(means, axis=0), np.std(means, axis=0, ddof=1)
    half = student_t.ppf(0.95, len(models) - 1) * spread * np.sqrt(1 + 1 / len(models))
    return float((np.abs(np.array([own.mean(0) for own in cells]) - middle) <= half).mean())


def believe(seed: int, mechanism: str, share: float, quality: float | None, **settings: Any) -> dict[str, Any]:
    """One fit with a table of as many edges as there are, a share `quality` of them true; or without one."""
    data, graph, *_ = system(seed, mechanism, share)
    if quality is not None:
        rng = np.random.default_rng(seed)
        true, false = np.argwhere(graph), np.argwhere(~graph.astype(bool) & ~np.eye(len(graph), dtype=bool))
        n = round(quality * len(true))
        said = np.concatenate([rng.permutation(true)[:n], rng.permutation(false)[: len(true) - n]])
        prior = np.full(graph.shape, np.nan)
        prior[said[:, 0], said[:, 1]] = SAID
        data = replace(data, prior_edges=prior)
    result = fit(TrainingData.of(data), make_config(mechanism=mechanism, **settings), rng=seed, progress=False)
    return {
        "mechanism": mechanism, "share": share, "seed": seed,
        "beliefs": "none" if quality is None else f"{quality:.0%} true",
        "edge F1": metrics.edge_f1(graph, result.graph),
    }  # fmt: skip


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Reliability: share of the true against the probability, all systems together."""
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(1, 2, figsize=(7, 3), sharey=True)
    for axis, what in zip(axes, ("edges", "targets"), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for name in dict.fromkeys(row["fit"] for row in rows):
            own = [row[what] for row in rows if row["fit"] == name]
            table = bins(*(np.concatenate(side) for side in zip(*own, strict=True)))
            axis.plot(table["probability"], table["true"], marker="o", label=name)
        axis.set(title=what, xlabel="probability", xlim=(0, 1), ylim=(0, 1))
    axes[0].set_ylabel("share that is true (simulated)")
    axes[0].legend(frameon=False)
    save(axes, folder, "uncertainty")


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False, fit=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(800, 810)), help="systems")
    parser.add_argument("--mechanisms", nargs="+", default=["mlp", "count"], help="families of systems")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.5, 0.25], help="of the paper's cells; members")
    parser.add_argument("--belief-shares", type=float, nargs="*", default=[1.0, 0.25], help="the same; beliefs")
    parser.add_argument("--members", type=int, default=10, help="fits in all")
    parser.add_argument("--jobs", type=int, default=1, help="systems at a time")
    parser.add_argument("--steps", type=int, help="training steps (default: that of fit_gim)")
    args = parser.parse_args(argv)
    use_threads(args.threads)
    note = Note(
        "How sure, and what is believed (simulated)",
        data="**simulated**: no real cell is in these numbers",
        argv=argv, script="uncertainty.py", seeds=args.seeds,
    )  # fmt: skip
    more = {} if args.steps is None else {"max_steps": args.steps}
    pairs = [(mechanism, seed) for mechanism in args.mechanisms for seed in args.seeds]
    asked: list[Callable[[], Any]] = [
        partial(measure, seed, mechanism, share, args.members, **more)
        for share in args.shares for mechanism, seed in pairs
    ]  # fmt: skip
    told = [
        partial(believe, seed, mechanism, share, quality, **more)
        for share in args.belief_shares for mechanism, seed in pairs for quality in (None, 1.0, 0.5, 0.0)
    ]  # fmt: skip
    found = counts.in_processes([*asked, *told], args.jobs, args.threads)
    rows, believed = [row for own in found[: len(asked)] for row in own], found[len(asked) :]
    tidy = pd.DataFrame([*rows, *believed]).drop(columns=["edges", "targets"], errors="ignore")
    if rows:
        table = tidy[tidy["fit"].notna()]
        columns = [name for name in table.columns if name not in ("seed", "beliefs", "mechanism", "share", "fit")]
        grouped = table.groupby(["mechanism", "share", "fit"], sort=False)[columns]
        note.table(
            "Calibration and ranking, with and without members; mean over systems",
            grouped.mean().round(3).reset_index().assign(systems=grouped.size().to_numpy()),
            "ECE: expected calibration error over ten bins. covered: share of true means of conditions never seen in "
            "90 % intervals from the members' means. seconds: of CPU, all members.",
        )
        wide = table.pivot_table(index=["mechanism", "share", "seed"], columns="fit", sort=False)
        better = {
            what: (wide[what].drop(columns="one fit").iloc[:, 0] > wide[what]["one fit"]).groupby(level=[0, 1]).sum()
            for what in ("edge AUPRC", "target AUPRC")
        }
        note.table("Systems in which members rank better than one fit", pd.DataFrame(better).reset_index())
        draw(rows, args.out)
        note.text("![Share of true edges and targets against their probability](uncertainty.png)")
    if believed:
        wide = pd.DataFrame(believed).pivot_table(index=["mechanism", "share"], columns="beliefs", values="edge F1")
        note.table(
            f"F1 of edges with beliefs: as many edges as there are, given probability {SAID:g}, so many of them true",
            wide[["none", "100% true", "50% true", "0% true"]].round(3).reset_index(),
        )
    note.write(args.out, "uncertainty", tidy)


if __name__ == "__main__":
    main()
