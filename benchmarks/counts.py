"""Graph and targets behind counts, by `ziln` and by `count`: simulated cells of known structure, at several depths.

20 genes, saturating mechanisms, 40 perturbations of 1 or 2 genes at 4 doses, 50 cells each, 800 controls, Poisson or
negative-binomial counts, with true size factors or estimated ones; the demo's data; and genes that do not depend on
each other. Development seeds were 100 to 105, and 10 and 11 of the demo.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recording import Note, make_parser, save, use_threads

from scgim import metrics
from scgim.data import PerturbationData
from scgim.inference import TrainingData, fit, make_config
from scgim.simulate import ancestral_sample, count_cells, draw_mechanisms, random_dag
from scgim.simulate.interventions import atomic_interventions, draw_hill_parameters, draw_target_sets

#: Setting -> (depth, dispersion): the mean count is about three times the depth.
SETTINGS = {"mean count 3": (1.0, 0.0), "mean count 1": (0.3, 0.0), "mean count 3, dispersion 0.3": (1.0, 0.3)}
#: For the figure, on few systems.
DEEP = {"mean count 10": (3.0, 0.0)}
_DOSES = (0.5, 1.0, 1.5, 2.0)


def simulate(
    seed: int,
    depth: float,
    dispersion: float,
    n_genes: int = 20,
    n_perturbations: int = 40,
    cells_per_condition: int = 50,
):
    """Counted cells (a `PerturbationData`), the true graph and the true targets (conditions, genes).

    There are 16 times as many controls as cells of a condition; a perturbation has 4 doses.
    """
    rng = np.random.default_rng(seed)
    graph = random_dag(n_genes, kind="er", rng=rng)
    mechanisms = draw_mechanisms(graph, family="saturating", rng=rng)
    mechanisms["noise_variance"][:] = 0.25
    names, genes = [f"p{i}" for i in range(n_perturbations)], [f"g{i}" for i in range(n_genes)]
    sets = draw_target_sets(n_genes, n_perturbations, rng=rng)
    hill = draw_hill_parameters(names, sets, genes, maximum=(1.0, 2.5), rng=rng)
    sign = np.where(rng.random(len(hill)) < 0.5, 1, -1)
    signed = hill.assign(maximum=hill["maximum"] * sign)
    rows = [("control", "control", np.nan), *((f"{name}_{dose:g}", name, dose) for name in names for dose in _DOSES)]
    table = pd.DataFrame(rows, columns=["condition", "perturbation", "dose"])
    table["is_control"] = table["perturbation"] == "control"
    try:
        targets, effects = atomic_interventions(table.fillna({"dose": 0.0}), signed, genes)
    except ValueError:
        targets, effects = atomic_interventions(table.fillna({"dose": 0.0}), hill, genes)
    codes = np.repeat(np.arange(len(table)), [16 * cells_per_condition, *([cells_per_condition] * (len(table) - 1))])
    z = ancestral_sample(graph, mechanisms, targets=targets[codes], effects=effects[codes], hard_variance=0.25, rng=rng)
    basal = np.exp(rng.uniform(np.log(0.5), np.log(5), n_genes)) * depth
    size = np.exp(0.4 * rng.standard_normal(len(z)))
    counts = np.asarray(count_cells(size[:, None] * basal * np.exp(z), overdispersion=dispersion, rng=rng).todense())
    features = np.column_stack(
        [np.eye(n_perturbations)[np.repeat(np.arange(n_perturbations), 4)], np.tile(_DOSES, n_perturbations)]
    )
    membership = np.eye(len(table))[:, 1:]
    data = PerturbationData(
        np.log1p(counts / size[:, None]), codes, table, features, membership, table["condition"][1:].tolist(),
        counts=counts, size_factor=size,
    )  # fmt: skip
    return data, graph.astype(bool), targets.astype(bool)


def estimate_sizes(data: PerturbationData, of: str, seed: int) -> PerturbationData:
    """The same with size factors "of all counts" or "of other genes": 200, independent, with half of all counts."""
    rng, size, counts = np.random.default_rng([seed, 1]), data.size_factor, data.counts
    rate = np.exp(rng.normal(0.0, 1.2, 200))
    rate *= (counts[data.control].sum() / size[data.control].sum()) / (rate.sum() * np.exp(0.125))
    others = rng.poisson(size[:, None] * rate * np.exp(0.5 * rng.standard_normal((len(size), 200)))).sum(1)
    total = float(np.median((others + counts.sum(1))[data.control]))
    found, measured = (others + counts.sum(1)) / total, {}
    if of == "of other genes":
        measured = {"rest": others[data.control].mean() / (found[data.control].mean() * total), "total": total}
        found = np.maximum(others, 1) / (measured["rest"] * total)
    return replace(data, x=np.log1p(counts / found[:, None]), size_factor=found, measured=measured)


def measure(seed: int, setting: str, mechanism: str, sizes: str | None = None, **settings) -> dict[str, object]:
    """One fit; F1 of its edges, skeleton and targets. `sizes`: None for the true ones, or as in `estimate_sizes`."""
    data, graph, targets = simulate(seed, *{**SETTINGS, **DEEP}[setting])
    data = data if sizes is None else estimate_sizes(data, sizes, seed)
    start = time.process_time()
    result = fit(TrainingData.of(data), make_config(mechanism=mechanism, **settings), rng=seed, progress=False)
    tensors = TrainingData.of(data)
    prob, _ = result.gim.combine(result.gim.atomic(tensors.features), tensors.membership)
    found = prob.detach().numpy() > 0.5
    name = mechanism if "counting" not in settings else f"{mechanism}, {settings['counting'].replace('_', ' ')}"
    name = name if sizes is None else f"{name}, size factors {sizes}"
    return {
        "setting": setting, "mechanism": name, "seed": seed, "mean count": data.counts.mean(),
        "zeros": (data.counts == 0).mean(), "edges": metrics.edge_f1(graph, result.graph),
        "skeleton": metrics.skeleton_f1(graph, result.graph), "targets": metrics.target_f1(targets[1:], found[1:]),
        "found": int(result.graph.sum()), "true": int(graph.sum()), "seconds": time.process_time() - start,
    }  # fmt: skip


def measure_demo(seed: int, mechanism: str, steps: int | None = None) -> dict[str, object]:
    """The demo's data: structure against the truth, and how far the predicted held-out dose is, and ridge's."""
    import scgim
    from scgim.demo import DOSE, DRUG, compare_with_truth

    adata = scgim.datasets.simulated_sciplex3(rng=seed)
    scgim.pp.prepare(
        adata, dose_key="dose_value", dose_unit_key="dose_unit", hold_out={DRUG: DOSE}, features="potency", rng=seed
    )  # fmt: skip
    more = {} if steps is None else {"max_steps": steps}
    start = time.process_time()
    scgim.tl.fit_gim(adata, rng=seed, mechanism=mechanism, progress=False, device="cpu", **more)
    seconds = time.process_time() - start
    cells = scgim.tl.sample_cells(adata, perturbations=[(DRUG, DOSE)], n=500, rng=seed)
    judged = scgim.tl.evaluate(adata, cells, baselines=("ridge",), rng=seed)
    judged = judged[judged["metric"] == "mean_distance"].set_index("method")["value"]
    f1 = compare_with_truth(adata).set_index("what")["f1"]
    return {
        "setting": "demo", "mechanism": mechanism, "seed": seed, "edges": f1["edges"],
        "skeleton": f1["edges without direction"], "targets": f1["targets"], "seconds": seconds,
        "mean distance": judged["gim"], "ratio to ridge": judged["gim"] / judged["ridge"],
    }  # fmt: skip


def measure_nothing(seed: int, noise: str, n_genes: int = 24, n_cells: int = 4000) -> dict[str, object]:
    """Genes drawn independently at the same depths as each other: every edge and target is false."""
    rng = np.random.default_rng(seed)
    share = np.exp(rng.normal(0.0, 1.5, 300))
    share = np.sort(share / share.sum())[::-1]
    total = np.exp(rng.normal(np.log(1500), 0.5, n_cells)).astype(int)
    if noise == "multinomial":
        counts = np.array([rng.multinomial(n, share) for n in total])
    else:
        counts = rng.poisson(total[:, None] * share * rng.gamma(1 / 0.3, 0.3, size=(n_cells, 300)))
    modelled = np.arange(10, 10 + n_genes)
    others = np.delete(counts, modelled, axis=1).sum(1).clip(1)  # as `fit_gim` takes them
    unit = float(others.mean())
    size, measured = others / unit, {"rest": unit / counts.sum(1).mean(), "total": float(counts.sum(1).mean())}
    counts, names = counts[:, modelled].astype(np.float32), ["control", *(f"p{i}" for i in range(1, 8))]
    codes = np.where(rng.random(n_cells) < 0.4, 0, rng.integers(1, 8, n_cells))
    table = pd.DataFrame({"condition": names, "perturbation": names, "dose": np.nan})
    table["is_control"] = table["perturbation"] == "control"
    data = PerturbationData(
        np.log1p(counts / size[:, None]), codes, table, np.eye(8), counts=counts, size_factor=size, measured=measured
    )  # fmt: skip
    tensors = TrainingData.of(data)
    result = fit(tensors, make_config(mechanism="count", max_steps=50), rng=seed, progress=False)
    prob, _ = result.gim.combine(result.gim.atomic(tensors.features), tensors.membership)
    return {
        "noise": noise, "seed": seed, "false edges": int(result.graph.sum()),
        "false targets": int((prob.detach().numpy()[1:] > 0.5).sum()), "of": 7 * n_genes,
    }  # fmt: skip


def draw(table: pd.DataFrame, folder: Path) -> None:
    """F1 of edges and of targets against the mean count, Poisson settings."""
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
    poisson = table[table["setting"].isin([name for name, (_, noise) in {**SETTINGS, **DEEP}.items() if noise == 0])]
    for axis, what in zip(axes, ("edges", "targets"), strict=True):
        for mechanism, own in poisson.groupby("mechanism"):
            per = own.groupby("setting").agg({"mean count": "mean", what: ["mean", "sem"]})
            per = per.sort_values(("mean count", "mean"))
            at = per["mean count", "mean"]
            axis.errorbar(at, per[what, "mean"], per[what, "sem"].fillna(0), marker="o", capsize=3, label=mechanism)
        axis.set(title=what, xlabel="mean count of a gene in a cell", ylim=(0, 1))
    axes[0].set_ylabel("F1 (simulated cells)")
    axes[0].legend(title="mechanism", frameon=False)
    save(axes, folder, "counts")


def in_processes(asked: list[Callable[[], Any]], jobs: int, threads: int) -> list[Any]:
    """What these give, so many at a time."""
    if jobs == 1:
        return [one() for one in asked]
    with ProcessPoolExecutor(jobs, get_context("spawn"), use_threads, (threads,)) as pool:
        return [future.result() for future in [pool.submit(one) for one in asked]]


def compare_sizes(args: Any, more: dict[str, Any], argv: Sequence[str] | None) -> None:
    """True size factors against those of all counts and of other genes; modelled genes hold half of the counts."""
    note = Note(
        "Whose counts tell how deep a cell is (simulated)",
        data="**simulated**: no real cell is in these numbers",
        argv=argv, script="counts.py", seeds=args.seeds,
    )  # fmt: skip
    kinds = (None, "of all counts", "of other genes")
    first = next(iter(SETTINGS))
    asked = [partial(measure, seed, first, "count", sizes, **more) for sizes in kinds for seed in args.seeds]
    table = pd.DataFrame(in_processes(asked, args.jobs, args.threads))
    table["size factors"] = [sizes or "the true ones" for sizes in kinds for _ in args.seeds]
    rows = [
        {"size factors": name, "systems": len(own),
         **{what: _mean_and_error(own[what], 2) for what in ("edges", "skeleton", "targets")},
         "edges found": _mean_and_error(own["found"], 0), "true": _mean_and_error(own["true"], 0)}
        for name, own in table.groupby("size factors", sort=False)
    ]  # fmt: skip
    note.table(
        "F1 of edges, of edges without direction, and of targets; mean ± standard error",
        pd.DataFrame(rows),
        "20 modelled genes at three counts, and 200 others that do not depend on them, with as many counts in all. "
        "`fit_gim` takes the other genes, and draws size factors anew in the search, as their noise is in all genes.",
    )
    note.write(args.out, "counts_sizes", table)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False, fit=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(710, 720)), help="systems; by count")
    parser.add_argument("--ziln-seeds", type=int, nargs="*", default=[710, 711, 712], help="systems; by ziln")
    parser.add_argument("--sizes", action="store_true", help="only the comparison of size factors: a page of its own")
    parser.add_argument("--demo-seeds", type=int, nargs="*", default=[0, 1, 2], help="by both")
    parser.add_argument("--null-seeds", type=int, nargs="*", default=[0, 1, 2], help="independent genes, by count")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time")
    parser.add_argument("--steps", type=int, help="training steps (default: that of fit_gim)")
    args = parser.parse_args(argv)
    use_threads(args.threads)
    more = {} if args.steps is None else {"max_steps": args.steps}
    if args.sizes:
        compare_sizes(args, more, argv)
        return
    note = Note(
        "Structure behind counts: ziln and count (simulated)",
        data="**simulated**: no real cell is in these numbers",
        argv=argv, script="counts.py", seeds=[*args.seeds, *args.demo_seeds],
    )  # fmt: skip
    few = args.seeds[: len(args.ziln_seeds)]
    asked: list[Callable[[], Any]] = []
    for setting in SETTINGS:
        for mechanism, seeds in (("ziln", args.ziln_seeds), ("count", args.seeds)):
            asked += [partial(measure, seed, setting, mechanism, **more) for seed in seeds]
    for setting in DEEP:
        asked += [partial(measure, seed, setting, mechanism, **more) for mechanism in ("ziln", "count") for seed in few]
    asked += [partial(measure, seed, list(SETTINGS)[2], "count", counting="negative_binomial", **more) for seed in few]
    asked += [partial(measure_demo, seed, name, args.steps) for name in ("ziln", "count") for seed in args.demo_seeds]
    empty = [
        partial(measure_nothing, s, noise) for noise in ("multinomial", "negative binomial") for s in args.null_seeds
    ]
    found = in_processes([*asked, *empty], args.jobs, args.threads)
    rows, null = found[: len(asked)], found[len(asked) :]
    table = pd.DataFrame(rows)

    def summary(own: pd.DataFrame) -> pd.Series:
        columns = ("edges", "skeleton", "targets", "ratio to ridge", "seconds")
        spread = {name: _mean_and_error(own.get(name, pd.Series()), 0 if name == "seconds" else 2) for name in columns}
        return pd.Series({"systems": len(own), **spread})

    grouped = table.groupby(["setting", "mechanism"], sort=False)[list(table.columns)]
    note.table(
        "F1 of edges, of edges without direction, and of targets; mean ± standard error",
        grouped.apply(summary, include_groups=False).reset_index(),
        "ratio to ridge: mean distance of the predicted held-out dose, divided by that of ridge; below 1 is nearer. "
        "seconds: of CPU, one fit.",
    )
    if null:
        found = pd.DataFrame(null).groupby("noise", sort=False)[["false edges", "false targets", "of"]].sum()
        note.table(f"Independent genes, {len(args.null_seeds)} fits each, by count", found.reset_index())
    draw(table, args.out)
    note.text("![F1 against the mean count](counts.png)")
    note.write(args.out, "counts", table)


def _mean_and_error(values: pd.Series, digits: int) -> str:
    known = values.dropna()
    if known.empty:
        return "-"
    error = f" ± {known.sem():.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{error}"


if __name__ == "__main__":
    main()
