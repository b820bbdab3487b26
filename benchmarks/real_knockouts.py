"""Known targets on real data: 25 CRISPR knock-outs in THP-1 cells, 9 of them of genes in the panel."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pandas as pd
from recording import Note, data_file, fit_settings, make_parser, mean_and_spread, save, use_threads

if TYPE_CHECKING:
    from anndata import AnnData

FILE = "papalexi2021_thp1_eccite_299genes.h5ad"
CONTROL = "non-targeting"
_EVIDENCE, _WELCH = "largest evidence (nats)", "largest Welch's t"
#: A specific change of so many standard errors is counted: worth about 14 nats, the price of a target here.
SPECIFIC = 5.3
#: Numbers of shared directions to take out; 2 is the default of `target_evidence`.
DIRECTIONS = (0, 1, 2, 3, 4, 6)
#: What a non-targeting guide that is treated as a knock-out is called.
GUIDE = "guide "
#: From the receptor to what it switches on; IFNGR1 is not in the panel.
UPSTREAM, HUB, DOWNSTREAM = ("IFNGR2", "JAK2"), "STAT1", ("UBE2L6", "STAT2", "PSMB9")


def prepare(adata: AnnData, args: Any, seed: int) -> list[str]:
    """Prepare in place; returns the in-panel targets that the markers alone would have left out."""
    import scgim

    settings = {
        "perturbation_key": "target",
        "control": CONTROL,
        "min_counts": args.min_counts,
        "silent_genes": "drop",
        "rng": seed,
    }
    if args.n_genes == "all":
        scgim.pp.prepare(adata, genes="all", **settings)
        return []
    known = adata.var_names[adata.var["is_target"].to_numpy(dtype=bool)].tolist()
    scgim.pp.prepare(adata, n_genes=int(args.n_genes), **settings)
    markers = adata.var_names[adata.var["gim"].to_numpy(dtype=bool)].tolist()
    wanted = list(dict.fromkeys([*known, *[g for g in (*UPSTREAM, HUB, *DOWNSTREAM) if g in adata.var_names]]))
    missing = [gene for gene in wanted if gene not in markers]
    if missing:
        by_score = adata.var.loc[markers, "gim_score"].abs().sort_values(ascending=False).index.tolist()
        kept = [g for g in by_score if g in wanted] + [g for g in by_score if g not in wanted]
        adata.X = adata.layers["counts"].copy()
        del adata.layers["counts"]
        scgim.pp.prepare(adata, genes=[*kept[: int(args.n_genes) - len(missing)], *missing], **settings)
    return missing


def resample(adata: AnnData, seed: int) -> AnnData:
    """A bootstrap of the cells of every condition: what another experiment of the same size might have given."""
    rng = np.random.default_rng([seed, 7])
    label = adata.obs["target"].astype(str).to_numpy()
    rows = np.concatenate(
        [rng.choice(own := np.flatnonzero(label == name), size=len(own)) for name in np.unique(label)]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")  # they get new ones
        out = adata[rows].copy()
    out.obs_names = [f"cell{i}" for i in range(len(rows))]
    return out


def set_guide_apart(adata: AnnData, seed: int) -> str:
    """Call the cells of one non-targeting guide a knock-out of their own: nothing acts in them."""
    if "grna" not in adata.obs:
        return ""
    label = adata.obs["target"].astype(str)
    guides = adata.obs.loc[label == CONTROL, "grna"].astype(str).value_counts()
    guides = sorted(guides.index[guides >= 50])
    if len(guides) < 2:
        return ""
    guide = guides[seed % len(guides)]
    name = f"{GUIDE}{guide}"
    apart = (label == CONTROL) & (adata.obs["grna"].astype(str) == guide)
    adata.obs["target"] = pd.Categorical(label.mask(apart, name))
    return name


def fitted(adata: AnnData, args: Any, seed: int) -> AnnData:
    """The fit of this seed: one that an earlier run finished (`--fits`), or a new one."""
    import anndata as ad

    import scgim

    asked = {name: str(getattr(args, name)) for name in ("intervention", "n_genes", "min_counts")}
    what = json.dumps({"seed": seed, **asked, **fit_settings(args)}, sort_keys=True)
    file = None if args.fits is None else args.fits / f"{hashlib.sha256(what.encode()).hexdigest()[:12]}.h5ad"
    if file is not None and file.is_file():
        kept = ad.read_h5ad(file)
        same_cells = kept.obs_names.equals(adata.obs_names) and not (kept.X != adata.X).sum()
        if same_cells and kept.var["gim"].equals(adata.var["gim"]):
            return kept
    scgim.tl.fit_gim(adata, rng=seed, intervention=args.intervention, **fit_settings(args))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        adata.write_h5ad(file)
    return adata


def mean_changes(adata: AnnData) -> pd.DataFrame:
    """The naive answer: change of the mean against control, its Welch t, and that without what knock-outs share."""
    from scgim.slots import read_entry
    from scgim.tl._evidence import specific_changes

    rows = np.flatnonzero(adata.obs["gim_condition"].notna().to_numpy())
    x, label = read_entry(adata).expression(adata, rows), adata.obs["gim_condition"].astype(str).to_numpy()[rows]
    genes = read_entry(adata).genes
    control = x[label == CONTROL]
    out = []
    for name in adata.uns["gim"]["conditions"]["condition"].astype(str):
        if name == CONTROL:
            continue
        cells = x[label == name]
        change = cells.mean(0) - control.mean(0)
        error = np.sqrt(cells.var(0, ddof=1) / len(cells) + control.var(0, ddof=1) / len(control))
        out.append(pd.DataFrame({"condition": name, "gene": genes, "change": change, "t": change / error}))
    table = pd.concat(out, ignore_index=True)
    # What GIM's specific changes are without GIM: nothing is taken out but the directions that knock-outs share.
    t = table["t"].to_numpy().reshape(len(out), -1)
    return table.assign(specific_t=specific_changes(np.nan_to_num(t), np.eye(len(t), dtype=bool)).ravel())


def rank_of(values: pd.Series, gene: str) -> float:
    """Rank of a gene, 1 the largest; ties get their mean rank, so that no answer is no success."""
    return float(values.rank(ascending=False, method="average")[gene])


def in_panel_rows(table: pd.DataFrame, known: Sequence[str], by: str, seed: int) -> list[dict[str, Any]]:
    """Rank of the true gene of every in-panel knock-out; `by` is a column of scores."""
    rows = []
    for name in known:
        scores = table[table["condition"] == name].set_index("gene")[by].abs()
        if name not in scores.index:
            continue
        rows.append(
            {
                "seed": seed,
                "knock-out": name,
                "method": by,
                "rank": rank_of(scores, name),
                "first": scores.idxmax(),
                "score": scores[name],
            }
        )
    return rows


def pathway_order(graph: nx.DiGraph) -> pd.DataFrame:
    """For every pair that the pathway orders: edge, directed path, and whether they point the wrong way."""
    pairs = [(up, HUB) for up in UPSTREAM] + [(HUB, down) for down in DOWNSTREAM]
    pairs += [(up, down) for up in UPSTREAM for down in DOWNSTREAM]
    rows = []
    for cause, effect in pairs:
        if cause not in graph or effect not in graph:
            continue
        rows.append(
            {
                "cause": cause,
                "effect": effect,
                "edge": graph.has_edge(cause, effect),
                "path": nx.has_path(graph, cause, effect),
                "reversed edge": graph.has_edge(effect, cause),
                "reversed path": nx.has_path(graph, effect, cause),
            }
        )
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--n-genes", default="50", help='modelled genes (markers and the known targets), or "all"')
    parser.add_argument("--min-counts", type=int, default=25, help="fewest counts per cell, within the panel")
    parser.add_argument("--no-bootstrap", action="store_true", help="the same cells for every seed")
    parser.add_argument("--fits", type=Path, help="folder that keeps every fit: a run that was stopped goes on there")
    parser.add_argument("--intervention", choices=["hard", "shift"], default="hard")
    args = parser.parse_args(argv)
    path = data_file(args.data, FILE)

    import anndata as ad
    import matplotlib as mpl

    mpl.use("Agg")
    import scgim

    use_threads(args.threads)
    mechanism = dict(args.set).setdefault("mechanism", "ziln")
    args.set = [*args.set, ("mechanism", mechanism)]
    page = "real_knockouts" + ("" if mechanism == "ziln" else f"_{mechanism}")
    note = Note(
        "Known targets: CRISPR knock-outs in THP-1 (ECCITE-seq)" + ("" if mechanism == "ziln" else f", {mechanism}"),
        data=f"**real**: `{FILE}` (Papalexi et al. 2021), raw UMI counts of a panel of 299 genes",
        argv=argv,
        script="real_knockouts.py",
        seeds=args.seeds,
    )
    ranks, calls, orders, fits, edges, directions = [], [], [], [], [], []
    for seed in args.seeds:
        adata = ad.read_h5ad(path)
        if not args.no_bootstrap:
            adata = resample(adata, seed)
        set_guide_apart(adata, seed)
        missing = prepare(adata, args, seed)
        adata = fitted(adata, args, seed)
        known = [g for g in adata.var_names[adata.var["is_target"].to_numpy(dtype=bool)] if adata.var.loc[g, "gim"]]
        learned = adata.uns["gim"]["targets"].astype({"condition": str, "gene": str})
        naive = mean_changes(adata)
        evidence = scgim.tl.target_evidence(adata).astype({"condition": str, "gene": str})
        ranks += in_panel_rows(learned, known, "probability", seed)
        # Evidence ranks what the model calls: a gene without the call comes after all that have it.
        called = evidence.assign(evidence=evidence["evidence"].clip(lower=0) + 1e9 * evidence["is_target"])
        ranks += in_panel_rows(called, known, "evidence", seed)
        ranks += in_panel_rows(evidence, known, "specific_change", seed)
        for n in DIRECTIONS:
            own = in_panel_rows(scgim.tl.target_evidence(adata, n_programs=n), known, "specific_change", seed)
            directions.append({"directions": n, "seed": seed, "first": sum(row["rank"] == 1 for row in own)})
        for by in ("change", "t", "specific_t"):
            ranks += in_panel_rows(naive, known, by, seed)
        if seed == args.seeds[0]:
            ranks += in_panel_rows(ut_igsp_targets(adata, seed), known, "ut_igsp", seed)
        largest_t = naive.assign(t=naive["t"].abs()).groupby("condition")["t"].max()
        found = _calls(adata, learned, evidence, known)
        calls.append(found.assign(**{_WELCH: found["knock-out"].map(largest_t).astype(float).round(1), "seed": seed}))
        graph = scgim.get.graph(adata)
        orders.append(pathway_order(graph).assign(seed=seed))
        names = [g for g in (*UPSTREAM, HUB, *DOWNSTREAM) if g in graph]
        inside = adata.uns["gim"]["graph"]
        edges.append(inside[inside["source"].isin(names) & inside["target"].isin(names)].assign(seed=seed))
        fit = adata.uns["gim"]["params"]["fit"]
        fits.append(
            {
                "seed": seed,
                "edges": len(inside),
                "targets per knock-out": f"{learned.groupby('condition')['is_target'].sum().mean():.1f}",
                "steps": int(fit["n_steps"]),
                "stopped": str(fit["stopped"]),
                "fit (s)": f"{float(fit['seconds']):.0f}",
            }
        )
        if seed == args.seeds[0]:
            save(scgim.pl.targets(adata), args.out, f"{page}_targets")
            save(scgim.pl.graph(adata), args.out, f"{page}_graph")
    frames = [pd.DataFrame(ranks), pd.concat(calls), pd.concat(orders), pd.concat(edges)]
    _pages(note, args, adata, missing, *frames, pd.DataFrame(fits), pd.DataFrame(directions))
    note.text(f"![Targets, first seed]({page}_targets.png)", f"![Graph, first seed]({page}_graph.png)")
    names = ("rank of the true gene", "calls", "order", "pathway edges")
    tidy = pd.concat([frame.assign(table=name) for name, frame in zip(names, frames, strict=True) if len(frame)])
    note.write(args.out, page, tidy)


def ut_igsp_targets(adata: AnnData, seed: int) -> pd.DataFrame:
    """Targets of UT-IGSP: 1 where it calls one; all genes tie where it does not."""
    import scgim
    from scgim.baselines import prepared_condition

    fitted = scgim.baselines.fit(adata, method="ut_igsp", rng=seed)
    genes = adata.var_names[adata.var["gim"].to_numpy(dtype=bool)].astype(str)
    table = adata.uns["gim"]["conditions"]
    names = table.loc[~table["is_control"], "condition"].astype(str).tolist()
    found = fitted.targets([prepared_condition(adata, name) for name in names])
    return pd.concat(
        [pd.DataFrame({"condition": n, "gene": genes, "ut_igsp": row}) for n, row in zip(names, found, strict=True)],
        ignore_index=True,
    )


def _calls(adata: AnnData, learned: pd.DataFrame, evidence: pd.DataFrame, known: Sequence[str]) -> pd.DataFrame:
    """How many genes are called for every knock-out, and which."""
    table = adata.uns["gim"]["conditions"]
    cells = dict(zip(table["condition"].astype(str), table["n_cells"], strict=True))
    rows = []
    largest = evidence.groupby("condition")["evidence"].max()
    specific = evidence.assign(size=evidence["specific_change"].abs()).sort_values("size", ascending=False)
    specific = {name: own.set_index("gene")["size"] for name, own in specific.groupby("condition")}
    for name, group in learned.groupby("condition", sort=False):
        called = group[group["is_target"]].sort_values("probability", ascending=False)["gene"].tolist()
        rows.append(
            {
                "knock-out": name,
                "in panel": name in known,
                "cells": cells[name],
                "called": len(called),
                "largest evidence (nats)": round(float(largest[name]), 1),
                "own gene called": name in called,
                "specific": int((specific[name] > SPECIFIC).sum()),
                "largest specific change": round(float(specific[name].iloc[0]), 1),
                "of": specific[name].index[0],
                "one of the known targets called": bool(set(called) & set(known)),
                "genes": ", ".join(called[:6]) + (", ..." if len(called) > 6 else ""),
            }
        )
    return pd.DataFrame(rows)


def _pages(
    note: Note,
    args: Any,
    adata: AnnData,
    missing: list[str],
    ranks: pd.DataFrame,
    calls: pd.DataFrame,
    orders: pd.DataFrame,
    edges: pd.DataFrame,
    fits: pd.DataFrame,
    directions: pd.DataFrame,
) -> None:
    n_cells = int(adata.obs["gim_condition"].notna().sum())
    note.text(
        f"{n_cells} of {adata.n_obs} cells have at least {args.min_counts} counts in the panel; "
        f"{int(adata.var['gim'].sum())} genes are modelled. "
        + (
            f"The markers alone leave out {', '.join(missing)}; they were put in, in place of "
            "the weakest markers. "
            "That every knocked-out gene of the panel is a candidate is a choice, made with "
            "the answer in view."
            if missing
            else "No gene was put in by hand."
        )
        + f" Interventions: {args.intervention}; features: one-hot. No cell of any condition is held out."
        + ("" if args.no_bootstrap else " Every seed has its own bootstrap of the cells of every condition.")
        + " One non-targeting guide per seed (another one for every seed) is treated as a knock-out."
    )
    names = {
        "probability": "GIM, by probability",
        "evidence": "GIM, called targets by evidence",
        "specific_change": "GIM, by specific change",
        "ut_igsp": "UT-IGSP (first seed)",
        "change": "mean changes most",
        "t": "mean changes most, by Welch's t",
        "specific_t": "Welch's t, shared directions taken out",
    }
    rows = []
    for by, group in ranks.groupby("method", sort=False):
        per_seed = group.groupby("seed")["rank"]
        rows.append(
            {
                "answer": names[str(by)],
                "true gene first": mean_and_spread(per_seed.apply(lambda r: (r == 1).sum()), 1),
                "true gene in the first 3": mean_and_spread(per_seed.apply(lambda r: (r <= 3).sum()), 1),
                "mean reciprocal rank": mean_and_spread(per_seed.apply(lambda r: (1 / r).mean())),
                "knock-outs": int(per_seed.size().iloc[0]),
            }
        )
    note.table("Does the knocked-out gene come out first? (in-panel knock-outs)", pd.DataFrame(rows))
    wide = ranks.pivot_table(
        index="knock-out", columns="method", values="rank", aggfunc=lambda v: mean_and_spread(v, 1)
    )
    first = ranks.groupby(["knock-out", "method"])["first"].agg(lambda v: ", ".join(dict.fromkeys(v))).unstack()
    table = pd.DataFrame(
        {f"{names[c]}: {what}": t[c] for c in names if c in wide for what, t in (("rank", wide), ("first", first))}
    )
    note.table("Rank of the true gene (mean over seeds; ties share their mean rank)", table.reset_index())
    counted = directions.groupby("directions")["first"].agg(lambda v: mean_and_spread(v, 1)).reset_index()
    counted.columns = ["shared directions taken out", "true gene first, by specific change"]
    note.table("How many shared directions", counted)
    guide = calls["knock-out"].str.startswith(GUIDE)
    off, inside = calls[~calls["in panel"] & ~guide], calls[calls["in panel"]]
    rows = []
    for what, values in (
        ("in-panel knock-outs whose own gene is called", inside.groupby("seed")["own gene called"].sum()),
        ("genes called per in-panel knock-out", inside.groupby("seed")["called"].mean()),
        (
            "off-panel knock-outs that are given any target",
            off.groupby("seed")["called"].apply(lambda c: (c > 0).sum()),
        ),
        (
            "off-panel knock-outs that are given one of the known targets",
            off.groupby("seed")["one of the known targets called"].sum(),
        ),
        (
            f"off-panel knock-outs with any Welch's t above {SPECIFIC}",
            off.groupby("seed")[_WELCH].apply(lambda t: (t > SPECIFIC).sum()),
        ),
        (
            "off-panel knock-outs that are given a target without such a t",
            off.groupby("seed")[["called", _WELCH]].apply(
                lambda c: ((c["called"] > 0) & (c[_WELCH] <= SPECIFIC)).sum()
            ),
        ),
        ("genes called per off-panel knock-out", off.groupby("seed")["called"].mean()),
        ("largest evidence of an in-panel knock-out, nats (median)", inside.groupby("seed")[_EVIDENCE].median()),
        ("largest evidence of an off-panel knock-out, nats (median)", off.groupby("seed")[_EVIDENCE].median()),
        ("genes called for a non-targeting guide set apart", calls[guide].groupby("seed")["called"].mean()),
        ("largest evidence of such a guide, nats", calls[guide].groupby("seed")[_EVIDENCE].mean()),
        (f"genes with a specific change above {SPECIFIC}, in-panel", inside.groupby("seed")["specific"].mean()),
        (f"genes with a specific change above {SPECIFIC}, off-panel", off.groupby("seed")["specific"].mean()),
        (
            "off-panel knock-outs with any such change",
            off.groupby("seed")["specific"].apply(lambda c: (c > 0).sum()),
        ),
        (
            "largest specific change of a guide set apart",
            calls[guide].groupby("seed")["largest specific change"].mean(),
        ),
    ):
        rows.append({"": what, "value": mean_and_spread(values, 1)})
    n_inside, n_off = inside["knock-out"].nunique(), off["knock-out"].nunique()
    below = f"There are {n_inside} in-panel and {n_off} off-panel knock-outs."
    note.table("Calls (probability above 1/2), evidence and specific changes", pd.DataFrame(rows), below)
    one = calls[calls["seed"] == calls["seed"].iloc[0]].drop(columns=["seed", "one of the known targets called"])
    note.table("Genes called for every knock-out, first seed", one)
    counted = orders.groupby(["cause", "effect"], sort=False)[["edge", "path", "reversed edge", "reversed path"]].sum()
    note.table(
        f"Interferon pathway in the graph: in how many of {len(args.seeds)} fits",
        counted.reset_index(),
        "IFNGR1 is not in the panel. Expected: no reversed path, and a path from the hub to each gene below it.",
    )
    n_seeds = len(args.seeds)
    if len(edges):
        often = edges.groupby(["source", "target"])["probability"].agg(["size", "mean"]).reset_index()
        often = often.sort_values(["size", "mean"], ascending=False)
        often["mean"] = often["mean"].map("{:.2f}".format)
        often = often.rename(columns={"size": f"in how many of {n_seeds} fits", "mean": "mean probability where found"})
        note.table("Edges among the pathway's genes", often)
    note.table("Fits", fits)


if __name__ == "__main__":
    main()
