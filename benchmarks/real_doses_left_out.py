"""A real dose series, each dose left out in turn: sci-Plex 2, A549 under dexamethasone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from real_dose_series import DRUG, FILE, read
from recording import Note, data_file, fit_settings, make_parser, mean_and_spread, save, use_threads

METRICS = ("mean_distance", "pearson_delta", "e_distance", "kde_nll")
CEILING, BETWEEN = "two halves of the dose", "between its neighbours"
#: Method -> (name for `baselines.fit`, features).
METHODS: dict[str, tuple[str, str]] = {
    "GIM": ("gim", "auto"),
    "GIM, rescaled": ("gim", "rescaled"),
    "ridge": ("ridge", "auto"),
    "mean-shift MLP": ("mean_shift", "auto"),
    "next lower dose": ("next_lower_dose", "auto"),
    "control": ("control", "auto"),
}
_HALVES = 10


def between(cells: dict[float, np.ndarray], dose: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Cells of the two neighbouring doses, mixed in proportion to the log dose; at an end, of the nearest."""
    seen = np.array(sorted(d for d in cells if d > 0))
    low, high = seen[seen < dose], seen[seen > dose]
    if not len(low) or not len(high):
        nearest = high[0] if len(high) else low[-1]
        return rng.choice(cells[nearest], n)
    share = (np.log(dose) - np.log(low[-1])) / (np.log(high[0]) - np.log(low[-1]))
    upper = rng.random(n) < share
    return np.where(upper[:, None], rng.choice(cells[high[0]], n), rng.choice(cells[low[-1]], n))


def one_dose(whole: Any, dose: float, args: Any, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Leave one dose out, predict it with every method."""
    import scgim
    from scgim import metrics as mt
    from scgim.baselines import CannotPredict, prepared_condition
    from scgim.pp._labels import part_label
    from scgim.slots import read_entry

    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    settings = {k: v for k, v in fit_settings(args).items() if k not in ("progress", "device")}

    def add(name: str, true: np.ndarray, predicted: np.ndarray, control: np.ndarray) -> None:
        values = {
            "mean_distance": mt.mean_distance(true, predicted),
            "pearson_delta": mt.pearson_delta(true, predicted, control),
            "e_distance": mt.e_distance(true, predicted),
            "kde_nll": mt.kde_nll(true, predicted),
        }
        rows.extend({"seed": seed, "dose": dose, "method": name, "metric": m, "value": v} for m, v in values.items())

    for features in dict.fromkeys(f for _, f in METHODS.values()):
        adata = whole.copy()
        settings_of_prepare = {
            "perturbation_key": "treatment", "dose_key": "dose", "dose_unit_key": "dose_unit", "control": None,
            "min_counts": args.min_counts, "silent_genes": "drop", "features": features, "hold_out": {DRUG: dose},
            "rng": seed,
        }  # fmt: skip
        scgim.pp.prepare(adata, n_genes=args.n_genes, **settings_of_prepare)
        labels = adata.obs["gim_condition"].astype(str).to_numpy()
        table = adata.uns["gim"]["conditions"]
        by_dose = {
            0.0 if is_control else float(d): read_entry(adata).expression(adata, np.flatnonzero(labels == str(c)))
            for c, d, is_control in zip(table["condition"], table["dose"], table["is_control"], strict=True)
        }
        true, control = by_dose.pop(dose), by_dose[0.0]
        asked = prepared_condition(adata, part_label(DRUG, dose))
        genes = read_entry(adata).genes
        for name, (kind, wanted) in METHODS.items():
            if wanted != features:
                continue
            options = settings if kind == "gim" else {}
            try:
                fitted = scgim.baselines.fit(adata, method=kind, rng=seed, **options)
                predicted = fitted.sample(asked, args.samples, np.random.default_rng([seed, 1]))
            except CannotPredict as reason:
                print(f"{name}, {dose:g} uM: {reason}")
                continue
            add(name, true, predicted, control)
            if args.gene in genes:
                value = float(predicted[:, genes.index(args.gene)].mean())
                curve.append({"seed": seed, "dose": dose, "method": name, "value": value})
        if features == "auto":
            rng = np.random.default_rng([seed, 2])
            predicted = between(by_dose, dose, args.samples, rng)
            add(BETWEEN, true, predicted, control)
            for _ in range(_HALVES):
                order = rng.permutation(len(true))
                add(CEILING, true[order[::2]], true[order[1::2]], control)
            if args.gene in genes:
                g = genes.index(args.gene)
                for name, x in (("observed", true), (BETWEEN, predicted), ("vehicle", control)):
                    curve.append({"seed": seed, "dose": dose, "method": name, "value": float(x[:, g].mean())})
    return rows, curve


def figure(table: pd.DataFrame, curve: pd.DataFrame, gene: str) -> Any:
    """Mean distance per dose, and the gene's mean."""
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    doses = sorted(table["dose"].unique())
    x = np.arange(len(doses))
    special = {CEILING: ("black", ":"), "observed": ("black", "-"), "vehicle": ("0.6", "--")}
    drawn = ["observed", *METHODS, BETWEEN, CEILING, "vehicle"]
    colors = {name: f"C{k}" for k, name in enumerate([*METHODS, BETWEEN])}
    lines = {}
    for ax, data, title in (
        (axes[0], table[table["metric"] == "mean_distance"], "mean distance to the dose left out ↓"),
        (axes[1], curve, f"mean of {gene}"),
    ):
        for name in (n for n in drawn if n in set(data["method"])):
            own = data[data["method"] == name].groupby("dose")["value"].mean().reindex(doses)
            color, line = special.get(name, (colors.get(name, ""), "-"))
            width = 3.5 if name == "GIM" else 1.3  # the encodings lie on each other where nothing tells doses apart
            (lines[name],) = ax.plot(x, own, line, color=color, marker="o", markersize=3, linewidth=width)
        ax.set_xticks(x, [f"{d:g}" for d in doses])
        ax.set_xlabel("dose left out (µM)", fontsize=8)
        ax.set_title(title, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    named = [n for n in drawn if n in lines]
    fig.legend([lines[n] for n in named], named, loc="outside lower center", ncols=5, fontsize=7, frameon=False)
    return axes


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--n-genes", type=int, default=30)
    parser.add_argument("--min-counts", type=int, default=10)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--gene", default="ANGPTL4")
    args = parser.parse_args(argv)
    path = data_file(args.data, FILE)

    import matplotlib as mpl

    mpl.use("Agg")

    use_threads(args.threads)
    note = Note(
        "A real dose series: each dose left out in turn",
        data=f"**real**: `{FILE}` (Srivatsan et al. 2020), A549 under dexamethasone, raw UMI counts",
        argv=argv,
        script="real_doses_left_out.py",
        seeds=args.seeds,
    )
    whole = read(path)
    doses = sorted(d for d in whole.obs["dose"].astype(float).unique() if d > 0)
    rows, curve = [], []
    for seed in args.seeds:
        for dose in doses:
            found, own = one_dose(whole, dose, args, seed)
            rows += found
            curve += own
    table, curves = pd.DataFrame(rows), pd.DataFrame(curve, columns=["seed", "dose", "method", "value"])
    cells = whole.obs["dose"].astype(float).value_counts()
    note.text(
        f"{whole.n_obs} cells, {int(cells.drop(0.0).min())} to {int(cells.drop(0.0).max())} per dose; {args.n_genes} "
        f"marker genes, chosen without the dose left out. {BETWEEN}: cells of the two doses beside it, mixed in "
        f"proportion to the log dose (at the ends: of the nearest dose). {CEILING}: {_HALVES} random splits."
    )
    order = [*METHODS, BETWEEN, CEILING]
    per_seed = table.groupby(["method", "metric", "seed"], sort=False)["value"].mean().reset_index()
    wide = per_seed.pivot_table(index="method", columns="metric", values="value", aggfunc=mean_and_spread)
    note.table(
        "All doses",
        wide.reindex(order).reindex(columns=METRICS).dropna(how="all").reset_index(),
        "Mean over doses, then mean ± standard deviation over seeds. The lowest dose has no next lower one.",
    )
    own = table[table["metric"] == "mean_distance"]
    by_dose = own.pivot_table(index="method", columns="dose", values="value", aggfunc=mean_and_spread).reindex(order)
    by_dose.columns = [f"{dose:g} µM" for dose in by_dose.columns]
    note.table("Mean distance, dose by dose", by_dose.fillna("-").reset_index())
    if len(curves):
        shown = curves.pivot_table(index="method", columns="dose", values="value", aggfunc=mean_and_spread, sort=False)
        shown.columns = [f"{dose:g} µM" for dose in shown.columns]
        note.table(f"Mean of {args.gene}, observed and predicted", shown.fillna("-").reset_index())
    save(figure(table, curves, args.gene), args.out, "real_doses_left_out")
    note.text("![Mean distance per dose](real_doses_left_out.png)")
    note.write(args.out, "real_doses_left_out", pd.concat([table, curves.assign(metric=f"mean of {args.gene}")]))


if __name__ == "__main__":
    main()
