"""SciPlex3's experiment on the semi-synthetic stand-in: one drug held out at its highest dose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from recording import Note, data_file, fit_settings, make_parser, mean_and_spread, save, use_threads

FILE = "sciplex3_standin.h5ad"
METHODS = ("control", "next_lower_dose", "mean_shift", "ridge")
METRICS = ("mean_distance", "pearson_delta", "kde_nll")


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cell-line", default="A549")
    parser.add_argument("--drug", default="Dacinostat")
    parser.add_argument("--dose", type=float, default=10_000.0, help="nM")
    parser.add_argument("--n-genes", type=int, default=50)
    parser.add_argument("--features", default="auto", choices=["auto", "onehot", "hill"])
    parser.add_argument("--samples", type=int, default=1_000, help="predicted cells")
    args = parser.parse_args(argv)
    path = data_file(args.data, FILE)

    import anndata as ad
    import matplotlib as mpl

    mpl.use("Agg")
    import scgim

    use_threads(args.threads)
    note = Note(
        f"SciPlex3 stand-in: {args.cell_line}, {args.drug} at {args.dose:g} nM held out",
        data=f"**semi-synthetic stand-in**: `{FILE}`. The design, the vehicle's means and each drug's "
        "ranks of "
        "differential expression are SciPlex3's; the counts are simulated. No number below "
        "is a number on SciPlex3",
        argv=argv,
        script="sciplex3_standin.py",
        seeds=args.seeds,
    )
    label = f"{args.drug}_{args.dose:g}"
    whole = ad.read_h5ad(path)
    values, targets, fits = [], [], []
    for seed in args.seeds:
        adata = whole[(whole.obs["cell_line"] == args.cell_line).to_numpy()].copy()
        scgim.pp.prepare(
            adata,
            dose_key="dose_value",
            dose_unit_key="dose_unit",
            hold_out={args.drug: args.dose},
            n_genes=args.n_genes,
            features=args.features,
            rng=seed,
        )
        scgim.tl.fit_gim(adata, rng=seed, **fit_settings(args))
        new = scgim.tl.sample_cells(adata, perturbations=[(args.drug, args.dose)], n=args.samples, rng=seed)
        table = scgim.tl.evaluate(adata, new, baselines=METHODS, metrics=METRICS, rng=seed)
        values.append(table[table["condition"] == label].assign(seed=seed))
        called = scgim.get.targets(adata)
        counts = called.groupby(["perturbation", "dose"], sort=False)["is_target"].sum().rename("targets")
        targets.append(counts.reset_index().assign(seed=seed))
        fits.append(_fit_row(adata, counts, seed))
        if seed == args.seeds[0]:
            _draw(args, adata, new, seed)
    result, target_table, fit_table = pd.concat(values), pd.concat(targets), pd.DataFrame(fits)
    n_conditions = len(adata.uns["gim"]["conditions"])
    note.text(
        f"{int(adata.obs['gim_condition'].notna().sum())} cells, {n_conditions} conditions "
        "(the held-out one and the "
        f"control among them), {int(adata.var['gim'].sum())} genes; features: {args.features}."
    )
    wide = result.pivot_table(
        index="method", columns="metric", values="value", aggfunc=lambda v: mean_and_spread(v)
    )
    wide = wide.reindex([m for m in ("gim", *METHODS) if m in wide.index]).reindex(columns=METRICS)
    note.table(
        "Held-out condition",
        wide.fillna("-").reset_index(),
        "Mean distance and KDE-NLL: smaller is better. Pearson delta: of the mean "
        "differences against control.",
    )
    per_dose = target_table.pivot_table(
        index="perturbation", columns="dose", values="targets", aggfunc=lambda v: mean_and_spread(v, 1)
    )
    per_dose.columns = [f"{dose:g} nM" for dose in per_dose.columns]
    note.table("Targets per condition", per_dose.reset_index())
    note.table("Fits", fit_table)
    note.text(
        *(f"![{what}, first seed](sciplex3_standin_{what}.png)" for what in ("marginals", "graph", "targets"))
    )
    tidy = pd.concat(
        [
            result.assign(table="held-out condition"),
            target_table.rename(columns={"targets": "value"}).assign(table="targets", metric="targets"),
        ]
    )
    note.write(args.out, "sciplex3_standin", tidy)


def _fit_row(adata: Any, counts: pd.Series, seed: int) -> dict[str, Any]:
    fit = adata.uns["gim"]["params"]["fit"]
    return {
        "seed": seed,
        "edges": len(adata.uns["gim"]["graph"]),
        "targets per condition": f"{counts.mean():.1f}",
        "steps": int(fit["n_steps"]),
        "stopped": str(fit["stopped"]),
        "fit (s)": f"{float(fit['seconds']):.0f}",
    }


def _draw(args: Any, adata: Any, new: Any, seed: int) -> None:
    import scgim

    save(scgim.pl.marginals(adata, new), args.out, "sciplex3_standin_marginals")
    save(scgim.pl.graph(adata), args.out, "sciplex3_standin_graph")
    save(scgim.pl.targets(adata), args.out, "sciplex3_standin_targets")


if __name__ == "__main__":
    main()
