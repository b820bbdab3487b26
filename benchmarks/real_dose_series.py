"""The whole workflow on a real dose series: sci-Plex 2, A549 under dexamethasone, one dose held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from recording import Note, data_file, fit_settings, make_parser, mean_and_spread, save, use_threads

if TYPE_CHECKING:
    from anndata import AnnData

FILE = "a549_dex_sciplex2.h5ad"
DRUG = "Dex"
METHODS = ("control", "next_lower_dose", "mean_shift", "ridge")
METRICS = ("mean_distance", "pearson_delta", "kde_nll")


def read(path: Any) -> AnnData:
    """The cells with gene symbols as names and the unit of the doses in a column."""
    import anndata as ad

    adata = ad.read_h5ad(path)
    adata.var_names = adata.var["gene_short_name"].astype(str).to_numpy()
    adata.var_names_make_unique()
    adata.obs["dose_unit"] = "uM"
    return adata


def prepare(adata: AnnData, args: Any, seed: int) -> list[str]:
    """Prepare in place; returns the genes that were added to the markers."""
    import scgim

    settings = {
        "perturbation_key": "treatment",
        "dose_key": "dose",
        "dose_unit_key": "dose_unit",
        "control": None,  # the vehicle is the cells with dose 0
        "min_counts": args.min_counts,
        "silent_genes": "drop",
        "features": args.features,
        "hold_out": {DRUG: args.hold_out},
        "rng": seed,
    }
    n_genes = {"genes": "all"} if args.n_genes == "all" else {"n_genes": int(args.n_genes)}
    scgim.pp.prepare(adata, **n_genes, **settings)
    if adata.var.loc[args.gene, "gim"]:
        return []
    markers = adata.var_names[adata.var["gim"]].tolist()
    adata.X = adata.layers["counts"].copy()
    del adata.layers["counts"]
    scgim.pp.prepare(adata, genes=[*markers, args.gene], **settings)
    return [args.gene]


def cells_by_dose(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Modelled genes of the prepared cells, dense (cells, genes), and their dose (0 for the vehicle)."""
    from scgim.slots import read_entry

    rows = np.flatnonzero(adata.obs["gim_condition"].notna().to_numpy())
    return read_entry(adata).expression(adata, rows), adata.obs["dose"].to_numpy(dtype=float)[rows]


def signal(x: np.ndarray, dose: np.ndarray, genes: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """How much there is to predict: two halves of the same dose against each other, per dose."""
    from scgim.metrics import mean_distance, pearson_delta

    control = x[dose == 0]
    rows = []
    for value in sorted(set(dose.tolist()) - {0.0}):
        cells = x[dose == value]
        halves = []
        for _ in range(50):
            order, first = rng.permutation(len(cells)), rng.permutation(len(control))
            a, b = np.array_split(cells[order], 2)
            c, d = np.array_split(control[first], 2)
            # Controls are split as well: a shared control mean would make two halves of pure noise agree.
            delta_a, delta_b = a.mean(0) - c.mean(0), b.mean(0) - d.mean(0)
            halves.append((np.corrcoef(delta_a, delta_b)[0, 1], pearson_delta(a, b, control), mean_distance(a, b)))
        split, shared, distance = np.array(halves).T
        rows.append(
            {
                "dose": value,
                "cells": len(cells),
                "pearson_delta_halves": split.mean(),
                "pearson_delta_halves_shared_control": shared.mean(),
                "mean_distance_halves": distance.mean(),
                "mean_distance_control": mean_distance(cells, control),
                # of an exact prediction, from the sampling noise of the observed mean alone
                "mean_distance_floor": float(np.sqrt((cells.var(0, ddof=1) / len(cells)).sum())),
            }
        )
    return pd.DataFrame(rows)


def trends(x: np.ndarray, dose: np.ndarray, genes: list[str]) -> pd.DataFrame:
    """Spearman correlation of every gene with dose over cells, with Benjamini-Hochberg q values."""
    from scipy.stats import false_discovery_control, spearmanr

    found = [spearmanr(x[:, j], dose) for j in range(x.shape[1])]
    table = pd.DataFrame({"gene": genes, "rho": [f.statistic for f in found], "p": [f.pvalue for f in found]})
    return table.assign(q=false_discovery_control(table["p"])).sort_values("p").reset_index(drop=True)


def neighbours(adata: AnnData, gene: str, n: int = 3) -> tuple[list[str], pd.DataFrame]:
    """Parents and children of a gene in the learned graph, and its most probable edges, drawn or not."""
    import scgim

    graph = scgim.get.graph(adata)
    joined = [*graph.predecessors(gene), *graph.successors(gene)]
    names = adata.var_names[adata.var["gim"]].tolist()
    probability = adata[:, names].varp["gim_edge_prob"].toarray()
    j = names.index(gene)
    edges = [(other, gene, probability[i, j]) for i, other in enumerate(names)]
    edges += [(gene, other, probability[j, i]) for i, other in enumerate(names)]
    table = pd.DataFrame(edges, columns=["source", "target", "probability"])
    return joined, table.sort_values("probability", ascending=False).head(n)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--hold-out", type=float, default=50.0, help="dose in uM")
    parser.add_argument("--gene", default="ANGPTL4", help="gene whose dose response is shown")
    parser.add_argument("--n-genes", default="50", help='modelled genes, or "all"')
    parser.add_argument("--min-counts", type=int, default=10, help="fewest counts per cell, within the panel")
    parser.add_argument("--features", default="auto", choices=["auto", "onehot", "hill"])
    parser.add_argument("--samples", type=int, default=2_000, help="predicted cells per dose")
    args = parser.parse_args(argv)
    path = data_file(args.data, FILE)

    import matplotlib as mpl

    mpl.use("Agg")
    import scgim
    from scgim.slots import read_entry

    use_threads(args.threads)
    note = Note(
        "Real dose series: A549 under dexamethasone (sci-Plex 2)",
        data=f"**real**: `{FILE}` (Srivatsan et al. 2020), raw UMI counts of a panel of genes",
        argv=argv,
        script="real_dose_series.py",
        seeds=args.seeds,
    )
    label = f"{DRUG}_{args.hold_out:g}"
    values, curves, fits, edge_tables, shown = [], [], [], [], [args.gene]
    for seed in args.seeds:
        adata = read(path)
        added = prepare(adata, args, seed)
        x, dose = cells_by_dose(adata)
        genes = read_entry(adata).genes
        if seed == args.seeds[0]:
            halves = signal(x, dose, genes, np.random.default_rng(seed))
            trend = trends(x, dose, genes)
        scgim.tl.fit_gim(adata, rng=seed, **fit_settings(args))
        doses = sorted(set(dose.tolist()) - {0.0})
        new = scgim.tl.sample_cells(adata, perturbations=[(DRUG, d) for d in doses], n=args.samples, rng=seed)
        table = scgim.tl.evaluate(adata, new, baselines=METHODS, metrics=METRICS, conditions=[label], rng=seed)
        values.append(table.assign(seed=seed))
        joined, edges = neighbours(adata, args.gene)
        edge_tables.append(edges.assign(seed=seed, drawn=edges["probability"] > 0.5))
        shown += [name for name in joined if name not in shown]
        curves.append(_curve(adata, new, x, dose, genes).assign(seed=seed))
        called = adata.uns["gim"]["targets"]
        called = called[called["is_target"]]
        fit = adata.uns["gim"]["params"]["fit"]
        fits.append(
            {
                "seed": seed,
                "edges": len(adata.uns["gim"]["graph"]),
                "neighbours": ", ".join(joined) or "none",
                "targets per condition": f"{len(called) / len(doses):.1f}",
                f"{args.gene} is a target at": ", ".join(
                    called.loc[called["gene"] == args.gene, "condition"].astype(str)
                )
                or "no dose",
                "steps": int(fit["n_steps"]),
                "stopped": str(fit["stopped"]),
                "fit (s)": f"{float(fit['seconds']):.0f}",
            }
        )
        if seed == args.seeds[0]:
            _draw(args, adata, new, [args.gene, *joined])
    result, curve = pd.concat(values), pd.concat(curves)
    _pages(
        note,
        args,
        adata,
        added,
        result,
        curve,
        pd.DataFrame(fits),
        pd.concat(edge_tables),
        halves,
        trend,
        shown,
    )
    tidy = pd.concat(
        [
            result.assign(table="held-out dose"),
            curve.melt(["seed", "dose", "gene"], var_name="metric").assign(table="dose response"),
            halves.melt("dose", var_name="metric").assign(table="ceiling"),
        ]
    )
    note.write(args.out, "real_dose_series", tidy)


def _curve(adata: AnnData, new: AnnData, x: np.ndarray, dose: np.ndarray, genes: list[str]) -> pd.DataFrame:
    """Observed and predicted means of every gene at every dose."""
    predicted = pd.DataFrame(np.asarray(new.X), columns=list(new.var_names)).groupby(new.obs["dose"].to_numpy()).mean()
    observed = pd.DataFrame(x, columns=genes)
    groups = observed.groupby(dose)
    long = groups.mean().stack().rename("observed").to_frame()
    long["error"] = groups.sem().stack()
    long["predicted"] = predicted.stack()
    long.index.names = ["dose", "gene"]
    return long.reset_index()


def _draw(args: Any, adata: AnnData, new: AnnData, genes: list[str]) -> None:
    import scgim

    if len(genes) < 4:  # without neighbours, the genes that move most are worth seeing beside it
        top = scgim.get.targets(adata).groupby("gene")["probability"].max().sort_values(ascending=False)
        genes = [*genes, *[g for g in top.index if g not in genes][: 4 - len(genes)]]
    axes = scgim.pl.dose_response(adata, predicted=new, perturbation=DRUG, genes=genes[:8])
    save(axes, args.out, "real_dose_series")


def _pages(
    note: Note,
    args: Any,
    adata: AnnData,
    added: list[str],
    result: pd.DataFrame,
    curve: pd.DataFrame,
    fits: pd.DataFrame,
    edges: pd.DataFrame,
    halves: pd.DataFrame,
    trend: pd.DataFrame,
    shown: list[str],
) -> None:
    found = int((trend["q"] < 0.05).sum())
    own = trend.set_index("gene").loc[args.gene]
    n_cells = int(adata.obs["gim_condition"].notna().sum())
    note.text(
        f"{n_cells} of {adata.n_obs} cells have at least {args.min_counts} counts in the panel; "
        f"{int(adata.var['gim'].sum())} genes are modelled"
        + (f" ({', '.join(added)} was added to the markers)" if added else f", {args.gene} among the markers")
        + f"; features: {args.features}; held out: {args.hold_out:g} uM. Values are log1p of "
        "counts normalised to the "
        "median panel total, because the panel is all that the file holds."
    )
    note.text(
        f"Signal: {found} of {len(trend)} genes change with dose over all cells (Spearman, q < 0.05). "
        f"{args.gene}: rho {own['rho']:.2f}, p {own['p']:.1e}, q {own['q']:.2g}."
    )
    wide = result.pivot_table(index="method", columns="metric", values="value", aggfunc=lambda v: mean_and_spread(v))
    order = ("gim", *METHODS, "own control", "two halves")
    wide = wide.reindex([m for m in order if m in wide.index]).reindex(columns=METRICS)
    at = halves.set_index("dose").loc[args.hold_out]
    note.table(
        f"Held-out dose, {args.hold_out:g} uM",
        wide.fillna("-").reset_index(),
        f"Ceiling at this dose: two random halves of its {int(at['cells'])} cells have a Pearson delta of "
        f"{at['pearson_delta_halves']:.2f} with each other when the control is halved as well "
        f"({at['pearson_delta_halves_shared_control']:.2f} with one control for both, which "
        "is how the table's "
        f"column is computed), and a mean distance of {at['mean_distance_halves']:.2f}. An "
        "exact prediction of the "
        f"mean would have a mean distance of about {at['mean_distance_floor']:.2f}.",
    )
    note.table("Ceiling at every dose (50 random splits)", halves.round(2))
    note.table("Fits", fits)
    some = curve[curve["gene"].isin(shown[:6])]
    rows = []
    for (gene, dose), group in some.groupby(["gene", "dose"], sort=False):
        first = group.iloc[0]
        rows.append(
            {
                "gene": gene,
                "dose (uM)": f"{dose:g}" + (" (held out)" if dose == args.hold_out else ""),
                "observed mean ± s.e.": f"{first['observed']:.2f} ± {first['error']:.2f}",
                "predicted mean": "-" if dose == 0 else mean_and_spread(group["predicted"]),
            }
        )
    order = {gene: i for i, gene in enumerate(shown)}
    rows.sort(key=lambda row: order[row["gene"]])
    note.table(f"Dose response of {args.gene} and its neighbours in the graph", pd.DataFrame(rows))
    note.table(
        f"Most probable edges of {args.gene}",
        edges.assign(probability=edges["probability"].map("{:.2f}".format))[
            ["seed", "source", "target", "probability", "drawn"]
        ],
    )
    note.text("![Dose responses, first seed](real_dose_series.png)")


if __name__ == "__main__":
    main()
