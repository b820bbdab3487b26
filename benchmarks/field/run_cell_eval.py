"""Predicted cells judged by cell-eval (its full profile): GIM and baselines on four data sets, with a ceiling."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from cell_eval_tables import CEILING, HALVES, OBSERVED, best_values, judged, means, properties, shown, standing
from keeping import Arrays, Note, about, commits, data_file, fitted, gim, kept, make_parser, need, use_threads
from mechanisms import COMBINATIONS, DOSES, DRUG, STANDIN, prepared_combinations, prepared_doses

from scgim.benchmark import Method, extract

if TYPE_CHECKING:
    from anndata import AnnData

    from scgim.data import PerturbationData

#: Held out of the demo and of every cell line of the stand-in: two drugs at the highest dose, two at the one below.
DRUGS = {"Belinostat": 10_000.0, "Dacinostat": 10_000.0, "Givinostat": 1_000.0, "Quisinostat": 1_000.0}
#: Doses of dexamethasone that are held out together (uM).
FOLDS = ((1.0, 10.0, 100.0), (0.5, 5.0, 50.0))
Loaded = tuple["AnnData", "PerturbationData", list[str]]


@dataclass(frozen=True)
class Setting:
    """One preparation: data that are loaded when needed, and what is compared on them."""

    name: str
    seed: int
    load: Callable[[], Loaded]
    methods: tuple[Method, ...]


def methods(args: Any, *others: str, **options: Any) -> tuple[Method, ...]:
    """GIM and the baselines that every data set has; `options` of GIM."""
    own = {**options, **({} if args.steps is None else {"max_steps": args.steps}), **dict(args.set)}
    condot = {"steps": 5} if args.quick else {}
    found = [gim("GIM (ziln)", "ziln", own), gim("GIM (count)", "count", own), Method("ridge")]
    found += [Method("mean-shift MLP", "mean_shift"), *(Method(name.replace("_", " "), name) for name in others)]
    found += [Method("control"), Method("CondOT", "condot", condot)]
    return tuple(method for method in found if not args.methods or method.name in args.methods)


def _drugs(whole: Callable[[], AnnData], features: str, n_genes: int, seed: int) -> Loaded:
    """Four drugs with one dose of each held out; raw counts."""
    import scgim
    from scgim.baselines import training_data
    from scgim.pp._labels import part_label

    adata = whole()
    labels = [part_label(drug, dose) for drug, dose in DRUGS.items()]
    scgim.pp.prepare(
        adata, dose_key="dose_value", dose_unit_key="dose_unit", control="control", hold_out=labels, features=features,
        n_genes=n_genes, n_top_genes=min(1_000, 20 * n_genes), small_conditions="drop", rng=seed,
    )  # fmt: skip
    return adata, training_data(adata, counts=True), labels


def _doses(file: str, doses: Sequence[float], n_genes: int, seed: int) -> Loaded:
    from scgim.baselines import training_data
    from scgim.pp._labels import part_label

    adata = prepared_doses(file, doses, n_genes, seed)
    return adata, training_data(adata, counts=True), [part_label(DRUG, dose) for dose in doses]


def demo(args: Any) -> Iterator[Setting]:
    """The package's simulated drugs, one system per seed."""
    from scgim.datasets import simulated_sciplex3

    size = 10 if args.quick else 50
    for seed in args.seeds:
        load = partial(_drugs, partial(simulated_sciplex3, rng=seed), "auto", size, seed)
        yield Setting(f"demo-{size}genes-seed{seed}", seed, load, methods(args, "next_lower_dose"))


def stand_in(args: Any) -> Iterator[Setting]:
    """SciPlex3's design with simulated counts, cell line by cell line."""
    import anndata as ad

    size = 10 if args.quick else 50
    lines = extract(data_file(args.data, STANDIN), args.work / "extracts", drugs=tuple(DRUGS))
    for seed in args.seeds:
        for line in lines[: 1 if args.quick else args.lines]:
            load = partial(_drugs, partial(ad.read_h5ad, line.file), "potency", size, seed)
            name = f"{line.cell_line}-{size}genes-seed{seed}"
            yield Setting(name, seed, load, methods(args, "next_lower_dose"))


def doses(args: Any) -> Iterator[Setting]:
    """Dexamethasone: two thirds of the doses to train on."""
    path, size = str(data_file(args.data, DOSES)), 10 if args.quick else 30
    for seed in args.seeds:
        for fold in FOLDS[: 1 if args.quick else None]:
            name = "_".join(f"{dose:g}" for dose in fold)
            load = partial(_doses, path, fold, size, seed)
            yield Setting(f"doses{name}-{size}genes-seed{seed}", seed, load, methods(args, "next_lower_dose"))


def combinations(args: Any) -> Iterator[Setting]:
    """Two genes activated, from single activations: shifts."""
    path, size = str(data_file(args.data, COMBINATIONS)), 10 if args.quick else 50
    for seed in args.seeds:
        load = partial(prepared_combinations, path, size, seed)
        own = methods(args, "additive", intervention="shift")
        yield Setting(f"combinations-{size}genes-seed{seed}", seed, load, own)


KINDS = {"demo": "**simulated**", "doses": "**real**", "combinations": "**real**", "stand-in": "**semi-synthetic**"}
#: Below the tables with split control cells.
SPLIT = (
    "One half of the observed control cells beside the observed, the other beside the predicted cells of every method: "
    "no noise of control cells is shared, as it is not in the two halves."
)
#: Name -> (settings, heading, what was asked).
SETS = {
    "demo": (
        demo, "The demo (simulated)",
        "Four drugs, each held out at one of its two highest doses (10,000 and 1,000 nM), which other drugs have in "
        "training; 50 marker genes; one simulated system for each seed.",
    ),
    "doses": (
        doses, "Dexamethasone (real)",
        "sci-Plex 2, A549, 500 cells, raw counts; 30 marker genes; three doses held out at a time (1, 10, 100 and 0.5, "
        "5, 50 uM). Most genes do not change, so metrics of differential expression rest on a handful.",
    ),
    "combinations": (
        combinations, "Two genes activated (real)",
        "Norman et al. 2019, K562; 50 marker genes; 5 doubles from their singles. GIM with shift interventions, which "
        "suit activation (not chosen by cells); counts recovered from normalised values.",
    ),
    "stand-in": (
        stand_in, "SciPlex3's design (semi-synthetic stand-in)",
        "Real design, simulated counts; held out as in the demo, in as many of the cell lines A549, K562 and MCF7 as "
        '`--lines` says; 50 marker genes; `features="potency"`. '
        "**No number of this table is one on SciPlex3.**",
    ),
}  # fmt: skip


def predictions(setting: Setting, loaded: Loaded, method: Method, counts: dict[str, int]) -> Arrays:
    """Fit; as many predicted cells for every label as were observed, the control first."""
    from scgim.baselines import CannotPredict, prepared_condition
    from scgim.baselines.protocol import draw_cells

    adata, train, _ = loaded
    baseline, seconds = fitted(method, train, setting.seed)
    found: Arrays = {"cpu_seconds": np.array(seconds)}
    if baseline.gives_graph:
        found["edges"] = np.array(int(np.asarray(baseline.graph()).sum()))
    for i, (label, n) in enumerate(counts.items()):
        rng, condition = np.random.default_rng([setting.seed, 1, i]), prepared_condition(adata, label)
        try:
            cells = baseline.sample(condition, n, rng)
        except CannotPredict:
            if not condition.is_control:
                raise
            cells = draw_cells(train.x[train.control], n, rng)  # it has no control of its own
        found[f"cells {label}"] = np.asarray(cells, dtype=np.float32)
    return found


def as_predicted(found: Arrays, counts: dict[str, int], genes: Sequence[str]) -> AnnData:
    """As `tl.sample_cells` would return them."""
    import anndata as ad

    x = np.concatenate([found[f"cells {label}"] for label in counts])
    names = [f"predicted{i}" for i in range(len(x))]
    obs = pd.DataFrame({"condition": np.repeat(list(counts), list(counts.values()))}, index=names)
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=list(genes)))


def control_mean(adata: AnnData) -> np.ndarray:
    """Mean of the control cells, the first category, (genes,)."""
    return adata.X[(adata.obs["condition"].cat.codes == 0).to_numpy()].mean(0)


def judge_setting(setting: Setting, args: Any) -> tuple[list[pd.DataFrame], list[dict[str, Any]]]:
    """All methods of a setting: scores, and how the fits went."""
    from scgim.get import prediction_pair
    from scgim.slots import read_entry

    loaded = setting.load()
    adata, train, labels = loaded
    entry, folder = read_entry(adata), args.work / setting.name
    of = pd.Series(np.array(entry.labels)[entry.codes(adata)[entry.codes(adata) >= 0]]).value_counts()
    counts = {label: int(of[label]) for label in (entry.control, *labels)}
    frames, fits, real = [], [], None

    def judge(name: str, what: dict[str, Any], real: AnnData, predicted: AnnData | None, split: bool = False) -> None:
        file = name + ", split" * split
        for key, table in kept_table(folder, file, what, real, predicted, setting.seed).items():
            frames.append(table.assign(setting=setting.name, seed=setting.seed, split=split, method=key or name))

    for method in setting.methods:
        what = {"data": about(train), "labels": counts, "options": method.options, "kind": method.cls.name}
        found, code = kept(folder, method.name, what, partial(predictions, setting, loaded, method, counts))
        fit = {name: found[name].item() for name in ("cpu_seconds", "edges", "declined") if name in found}
        fits.append({"setting": setting.name, "seed": setting.seed, "method": method.name, "commit": code, **fit})
        if "declined" in found:
            continue
        what, cells = {**what, "cells": digest(found)}, as_predicted(found, counts, entry.genes)
        real, predicted = prediction_pair(adata, cells, conditions=labels)
        judge(method.name, what, real, predicted)
        fits[-1] |= properties(real, predicted)
        if not np.allclose(control_mean(predicted), control_mean(real), atol=1e-5):  # it has control cells of its own
            _, predicted = prediction_pair(adata, cells, conditions=labels, control="observed")
            judge(method.name + OBSERVED, what, real, predicted)
        pair = prediction_pair(adata, cells, conditions=labels, control="split", rng=setting.seed)
        judge(method.name, what, *pair, split=True)
    if real is not None:
        judge(HALVES, {"data": about(train), "labels": counts}, real, None)
    print(f"{setting.name}: {len(fits)} methods", flush=True)
    return frames, fits


def digest(found: Arrays) -> str:
    """Of predicted cells."""
    return f"{sum(float(np.abs(values).sum()) for name, values in found.items() if name.startswith('cells')):.8g}"


def kept_table(
    folder: Path, name: str, what: dict[str, Any], real: AnnData, predicted: AnnData | None, seed: int
) -> dict[str, pd.DataFrame]:
    """What cell-eval says, kept as text beside the cells."""

    def make() -> Arrays:
        return {key: np.array(table.to_json()) for key, table in judged(real, predicted, seed).items()}

    found, _ = kept(folder / "judged", name, what, make)
    return {key: pd.read_json(StringIO(str(text))) for key, text in found.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="data sets")
    parser.add_argument("--fewer", nargs="+", default=[], metavar="NAME=N", help="of these sets the first N seeds only")
    parser.add_argument("--methods", nargs="+", help="names of methods, as the tables have them (default: all)")
    parser.add_argument("--lines", type=int, default=3, help="so many cell lines of the stand-in")
    parser.add_argument("--work", type=Path, required=True, help="folder for finished fits: an interrupted run goes on")
    parser.add_argument("--quick", action="store_true", help="ten genes: it shows that the script runs")
    args = parser.parse_args(argv)
    fewer = {name: int(n) for name, n in (text.split("=") for text in args.fewer)}
    need("cell_eval", 'pip install -c constraints.txt -e ".[eval]"')
    use_threads(args.threads)
    logging.getLogger("cell_eval").setLevel(logging.CRITICAL)
    note = Note(
        "cell-eval: predicted cells, its full profile" + " (quick setting)" * args.quick,
        data=" and ".join(dict.fromkeys(KINDS[name] for name in args.sets)) + ", see each table",
        argv=argv, script="field/run_cell_eval.py", seeds=args.seeds,
    )  # fmt: skip
    best, summary, tables, tidy, fits = best_values(), [], [], [], []
    for name in args.sets:
        settings_of, heading, text = SETS[name]
        own_seeds = args.seeds[: fewer.get(name)]
        found = [
            judge_setting(setting, args) for setting in settings_of(Namespace(**{**vars(args), "seeds": own_seeds}))
        ]
        text += " One seed." if len(own_seeds) == 1 else f" Seeds {', '.join(map(str, own_seeds))}."
        table = pd.concat([frame for frames, _ in found for frame in frames], ignore_index=True)
        fits += [{"data": name, **row} for _, rows in found for row in rows]
        alone = table["method"].isin([HALVES, CEILING])  # the halves have control cells of their own
        own, split = means(table[~table["split"]]), means(table[table["split"] | alone])
        summary += [standing(name, own, best, observed=observed) for observed in (False, True)]
        summary.append({**standing(name, split, best, observed=False), "control cells": "split"})
        tables.append((heading, shown(own, best), text))
        tables.append((f"{heading}: control cells split", shown(split, best), SPLIT))
        keys = ["setting", "seed", "split", "method", "metric"]
        tidy.append(table.groupby(keys, sort=False)["value"].agg(value="mean", perturbations="size").reset_index())
    note.text(
        "Mean over perturbations, then over seeds (± standard deviation where there are several). Bold: best of the "
        "methods, or within 1 % of the best. Metrics at several numbers of genes that agree count once, those in "
        "which all methods agree not at all. As many cells are predicted for every condition as were observed. Control "
        f"cells beside the predicted ones: GIM samples its own; {OBSERVED[2:]!r} puts the observed ones there; all "
        "other methods have these anyway. "
        f'"{HALVES}": one half of the observed cells against the other, at half the number of cells. "{CEILING}": what '
        "cell-eval makes of it for the full number (Spearman-Brown), where it has such a value."
    )
    note.table("In how many metrics a method is best, or within 1 % of the best", pd.DataFrame(summary).fillna("-"))
    for heading, table, text in tables:
        note.table(heading, table, text)
    table = pd.DataFrame(fits)
    declined = table[["data", "method", "declined"]].drop_duplicates() if "declined" in table else pd.DataFrame()
    for row in declined.dropna().itertuples() if len(declined) else ():
        note.text(f"{row.method} has no prediction ({row.data}): {row.declined}")
    groups = table.groupby(["data", "method"], sort=False)
    known = {"data", "method", "setting", "seed", "commit", "cpu_seconds", "edges", "declined"}
    like = groups[[name for name in table if name not in known]].mean().round(2)
    note.table("What the predicted cells are like (means)", like.reset_index())
    cost = groups[["cpu_seconds", "edges"]].mean().round(1).fillna("-")
    note.table("Fits (means)", cost.reset_index())
    note.text(f"Fitted at commit {commits(list(table['commit']))}; fits of an interrupted run are kept.")
    note.write(args.out, "cell_eval", pd.concat(tidy, ignore_index=True))


if __name__ == "__main__":
    main()
