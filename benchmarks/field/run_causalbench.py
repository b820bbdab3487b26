"""CausalBench's evaluator on THP-1 knock-outs: edges, ancestors and called targets, judged by held-out cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pandas as pd
from keeping import (
    Arrays,
    Note,
    about,
    commits,
    data_file,
    fitted,
    gim,
    kept,
    make_parser,
    mean_and_spread,
    need,
    use_threads,
)
from real_knockouts import CONTROL, FILE, prepare

from scgim.benchmark import Method

if TYPE_CHECKING:
    from anndata import AnnData

    from scgim.data import PerturbationData

#: A network: pairs (knock-out, gene).
Pairs = list[tuple[str, str]]
RANDOM, TRAINING = "random", "largest changes in the training half (no graph)"


def methods(args: Any) -> tuple[Method, ...]:
    """GIM and the causal baselines."""
    own = {**({} if args.steps is None else {"max_steps": args.steps}), **dict(args.set)}
    found = [gim("GIM (ziln)", "ziln", own), gim("GIM (count)", "count", own)]
    # Bounded, or 50 genes and 25 knock-outs take an hour: one order to start from, at most two genes conditioned on.
    found += [Method("UT-IGSP", "ut_igsp"), Method("GnIES", "gnies", {"n_restarts": 1})]
    found += [Method("JCI-PC", "jci_pc", {"max_depth": 2})]
    return tuple(method for method in found if not args.methods or method.name in args.methods)


def halves(path: Path, args: Any, seed: int) -> tuple[AnnData, AnnData]:
    """Two halves of the cells of every condition, each prepared by itself; genes are chosen on the first."""
    import anndata as ad

    import scgim

    whole = ad.read_h5ad(path)
    rng, first = np.random.default_rng([seed, 11]), np.zeros(whole.n_obs, dtype=bool)
    for rows in whole.obs.groupby("target", observed=True).indices.values():
        first[rng.permutation(rows)[: len(rows) // 2]] = True
    train, held_out = whole[first].copy(), whole[~first].copy()
    prepare(train, args, seed)
    genes = train.var_names[train.var["gim"].to_numpy(dtype=bool)].tolist()
    scgim.pp.prepare(
        held_out, perturbation_key="target", control=CONTROL, min_counts=args.min_counts, genes=genes, rng=seed
    )
    return train, held_out


def expression(adata: AnnData) -> tuple[np.ndarray, list[str], list[str]]:
    """Modelled genes of the prepared cells (cells, genes), the label of each cell, and the genes."""
    from scgim.slots import read_entry

    entry = read_entry(adata)
    codes = entry.codes(adata)
    rows = np.flatnonzero(codes >= 0)
    return entry.expression(adata, rows), [entry.labels[code] for code in codes[rows]], entry.genes


def varying(train: PerturbationData) -> PerturbationData:
    """Without the cells of conditions in which a gene has one value only: GnIES needs a variance in each."""
    few = [row for row in np.unique(train.codes) if (np.ptp(train.x[train.codes == row], axis=0) == 0).any()]
    keep = ~np.isin(train.codes, few)
    rows = {name: getattr(train, name) for name in ("counts", "size_factor", "batch", "valid")}
    rows = {name: values[keep] for name, values in rows.items() if values is not None}
    return replace(train, x=train.x[keep], codes=train.codes[keep], **rows)


def answers(method: Method, train: PerturbationData, seed: int, limit: float) -> Arrays:
    """Graph (a drawn DAG where a class was learned), edge and target probabilities of a fitted method."""
    train = varying(train) if method.kind == "gnies" else train
    baseline, seconds = fitted(method, train, seed, None if method.kind == "gim" else limit)
    scm = getattr(baseline, "scm_", None)
    graph = baseline.graph() if scm is None else scm.dag
    conditions = [train.condition(int(row)) for row in train.trained]
    edges = getattr(baseline, "edge_probabilities", None)
    found = {
        "graph": np.asarray(graph).astype(bool),
        "targets": np.asarray(baseline.targets(conditions), dtype=float),
        "labels": np.array([condition.label for condition in conditions]),
        "cpu_seconds": np.array(seconds),
    }
    return found if edges is None else {**found, "edges": np.asarray(edges(), dtype=float)}


def pair_table(adata: AnnData) -> pd.DataFrame:
    """Index (knock-out, gene): whether CausalBench's evaluator calls the pair a true positive, and its distance.

    A network's scores are the sum and the mean over its pairs (`network_scores` is tested to give the evaluator's).
    """
    from causalscbench.evaluation.statistical_evaluation import Evaluator

    x, labels, genes = expression(adata)
    judge = Evaluator(x, labels, genes)
    rows = []
    for name in sorted(set(labels) - {CONTROL}):
        for gene in genes:
            found = judge.evaluate_network([(name, gene)], max_path_length=1)["output_graph"]
            rows.append((name, gene, found["true_positives"] == 1, found["wasserstein_distance"]["mean"]))
    return pd.DataFrame(rows, columns=["knock-out", "gene", "true", "distance"]).set_index(["knock-out", "gene"])


def network_scores(table: pd.DataFrame, pairs: Pairs, possible: Pairs) -> dict[str, float]:
    """Of a network: pairs, true and false positives, mean distance; and the share of true ones that it leaves out."""
    own = table.loc[pairs] if pairs else table.iloc[:0]
    left = table.loc[sorted(set(possible) - set(pairs))]
    true = int(own["true"].sum())
    return {
        "pairs": len(own), "true positives": true, "false positives": len(own) - true,
        "mean distance": float(own["distance"].mean()), "false omission rate": float(left["true"].mean()),
    }  # fmt: skip


def descendants(graph: np.ndarray, genes: Sequence[str], parents: Iterable[str]) -> Pairs:
    """All pairs (knocked-out gene, gene) with a directed path."""
    dag = nx.relabel_nodes(nx.from_numpy_array(graph, create_using=nx.DiGraph), dict(enumerate(genes)))
    return [(parent, gene) for parent in parents for gene in sorted(nx.descendants(dag, parent))]


def widest_paths(probability: np.ndarray) -> np.ndarray:
    """(genes, genes): the largest probability such that a path of edges as probable as that leads there."""
    reach = probability.copy()
    for via in range(len(reach)):
        reach = np.maximum(reach, np.minimum(reach[:, via, None], reach[None, via]))
    return reach


def ranked(score: np.ndarray, rows: Sequence[str], genes: Sequence[str], possible: Pairs) -> Pairs:
    """The possible pairs by falling score."""
    at, to = {name: i for i, name in enumerate(rows)}, {gene: j for j, gene in enumerate(genes)}
    return sorted(possible, key=lambda pair: -score[at[pair[0]], to[pair[1]]])


def training_changes(adata: AnnData) -> pd.DataFrame:
    """|Welch's t| of every gene under every knock-out in the training half, (knock-outs, genes)."""
    x, labels, genes = expression(adata)
    label = np.array(labels)
    control, out = x[label == CONTROL], {}
    for name in sorted(set(labels) - {CONTROL}):
        cells = x[label == name]
        error = np.sqrt(cells.var(0, ddof=1) / len(cells) + control.var(0, ddof=1) / len(control))
        out[name] = np.abs(cells.mean(0) - control.mean(0)) / np.maximum(error, 1e-9)
    return pd.DataFrame(out, index=genes).T


def compare(
    table: pd.DataFrame, own: dict[str, Pairs], orders: dict[str, Pairs], possible: Pairs
) -> list[dict[str, Any]]:
    """Each method's own network, and networks of the same size from every order of pairs, and at random."""
    rows = []
    whole = network_scores(table, possible, possible)
    for name, pairs in own.items():
        at = {"at the number of": name}
        rows.append({**at, "method": name, "own": True, **network_scores(table, pairs, possible)})
        if not pairs:
            continue
        for other, order in orders.items():
            if other != name:
                rows.append(
                    {**at, "method": other, "own": False, **network_scores(table, order[: len(pairs)], possible)}
                )
        share = whole["true positives"] / len(possible)
        expected = {"true positives": share * len(pairs), "false positives": (1 - share) * len(pairs)}
        chance = {"mean distance": whole["mean distance"], "false omission rate": share, "pairs": len(pairs)}
        rows.append({**at, "method": RANDOM, "own": False, **expected, **chance})
    return rows


def one_seed(path: Path, args: Any, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All three questions for one split of the cells."""
    from scgim.baselines import training_data

    train, held_out = halves(path, args, seed)
    data = training_data(train, counts=True)
    x, _, genes = expression(train)
    name = f"thp1-{len(genes)}genes-seed{seed}"
    table = _kept_pairs(args.work, name, held_out)
    changes = training_changes(train)
    knocked = sorted(table.index.unique("knock-out"))
    parents = [gene for gene in genes if gene in knocked]
    edges_possible = [(parent, gene) for parent in parents for gene in genes if gene != parent]
    targets_possible = [(knock_out, gene) for knock_out in knocked for gene in genes]
    own: dict[str, dict[str, Pairs]] = {question: {} for question in QUESTIONS}
    orders: dict[str, dict[str, Pairs]] = {question: {} for question in QUESTIONS}
    fits = []
    for method in methods(args):
        what = {"data": about(data), "options": method.options, "kind": method.cls.name}
        found, code = kept(args.work / name, method.name, what, partial(answers, method, data, seed, args.time_limit))
        fits.append({"seed": seed, "method": method.name, "commit": code})
        if "declined" in found:
            fits[-1]["declined"] = str(found["declined"])
            continue
        graph, targets, labels = found["graph"], found["targets"], found["labels"].tolist()
        fits[-1] |= {
            "edges": int(graph.sum()), "called per knock-out": float((targets > 0.5).sum(1).mean()),
            "seconds": float(found["cpu_seconds"]),
        }  # fmt: skip
        at = {gene: j for j, gene in enumerate(genes)}
        own["edges"][method.name] = [(a, b) for a, b in edges_possible if graph[at[a], at[b]]]
        own["ancestors"][method.name] = descendants(graph, genes, parents)
        row = {label: i for i, label in enumerate(labels)}
        there = [pair for pair in targets_possible if pair[0] in row]
        own["targets"][method.name] = [(a, b) for a, b in there if targets[row[a], at[b]] > 0.5]
        if "edges" in found:
            orders["edges"][method.name] = ranked(found["edges"], genes, genes, edges_possible)
            orders["ancestors"][method.name] = ranked(widest_paths(found["edges"]), genes, genes, edges_possible)
            orders["targets"][method.name] = ranked(targets, labels, genes, there)
    by_change = partial(ranked, changes.to_numpy(), changes.index.tolist(), genes)
    rows = []
    for question, possible in (("edges", edges_possible), ("ancestors", edges_possible), ("targets", targets_possible)):
        order = {**orders[question], TRAINING: by_change(possible)}
        found_rows = compare(table, own[question], order, possible)
        rows += [{"seed": seed, "question": question, "possible": len(possible), **row} for row in found_rows]
    print(f"seed {seed}: {len(x)} training cells, {len(parents)} knocked-out genes in the panel", flush=True)
    return rows, fits


def _kept_pairs(work: Path, name: str, held_out: AnnData) -> pd.DataFrame:
    """`pair_table`, kept."""

    def make() -> Arrays:
        table = pair_table(held_out).reset_index()
        return {
            column: table[column].to_numpy(dtype=str if table[column].dtype == object else None) for column in table
        }

    x, labels, _ = expression(held_out)
    found, _ = kept(work / name, "pairs", {"cells": len(x), "sum": f"{x.sum():.6g}", "labels": len(set(labels))}, make)
    return pd.DataFrame(found).set_index(["knock-out", "gene"])


#: Question -> (heading, what the pairs are).
QUESTIONS = {
    "edges": (
        "Edges out of knocked-out genes",
        "Pairs of a gene of the panel that was knocked out, and another gene: an edge. Edges of other genes cannot be "
        "judged, as no cell shows their knock-out.",
    ),
    "ancestors": (
        "Ancestors",
        "The same pairs, joined by a directed path of any length: the evaluator measures total effects, not direct "
        "ones. GIM at another number of pairs: the most probable paths, by their least probable edge.",
    ),
    "targets": (
        "Knock-out and called targets",
        "Pairs of a knock-out (also of genes outside the panel) and a gene, among them the knocked-out gene itself.",
    ),
}


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds; the own network of a method first, in bold."""
    names = {"pairs": 0, "true positives": 1, "false positives": 1, "mean distance": 3, "false omission rate": 3}
    lines = []
    for (at, method), own in rows.groupby(["at the number of", "method"], sort=False):
        share = own["true positives"] / own["pairs"].where(own["pairs"] > 0)
        cells = {name: mean_and_spread(own[name], digits) for name, digits in names.items()}
        title = f"**{method}**" if own["own"].all() else str(method)
        lines.append({"at the number of": at, "method": title, "share true": mean_and_spread(share, 2), **cells})
    order = [
        "at the number of",
        "method",
        "pairs",
        "share true",
        "mean distance",
        *list(names)[1:3],
        "false omission rate",
    ]
    return pd.DataFrame(lines)[order]


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--n-genes", default="50", help='modelled genes (markers and the known targets), or "all"')
    parser.add_argument("--min-counts", type=int, default=25, help="fewest counts per cell, within the panel")
    parser.add_argument("--methods", nargs="+", help="names of methods, as the tables have them (default: all)")
    parser.add_argument("--time-limit", type=float, default=1_800, help="seconds for a fit of a baseline")
    parser.add_argument("--work", type=Path, required=True, help="folder for finished fits: an interrupted run goes on")
    args = parser.parse_args(argv)
    need("causalscbench", "pip install --no-deps causalbench")
    use_threads(args.threads)
    path = data_file(args.data, FILE)
    note = Note(
        "CausalBench's evaluator: knock-outs in THP-1",
        data=f"**real**: `{FILE}` (Papalexi et al. 2021), raw UMI counts of a panel of 299 genes",
        argv=argv, script="field/run_causalbench.py", seeds=args.seeds,
    )  # fmt: skip
    rows, fits = [], []
    for seed in args.seeds:
        of_seed = one_seed(path, args, seed)
        rows += of_seed[0]
        fits += of_seed[1]
    table, fit = pd.DataFrame(rows), pd.DataFrame(fits)
    note.text(
        "Half of the cells of every condition are learned from, the other half is given to CausalBench's `Evaluator` "
        "(package causalbench, its default threshold p < 0.05): a pair is a true positive where a rank-sum test finds "
        "the gene changed under the knock-out, and its distance is the Wasserstein distance of the gene's values from "
        f"control. Bold: a method's own network. Below it, networks of the same size: GIM's most probable pairs; "
        f"{RANDOM} (expected); {TRAINING}: a plain test. UT-IGSP, GnIES and JCI-PC learn a class, from which one graph "
        "is drawn. To end in time, GnIES starts from one order (and without the cells of knock-outs in which a gene "
        "has one value only) and JCI-PC conditions on at most two genes. False omission rate: share of true pairs "
        "among those left out."
    )
    for question, (heading, below) in QUESTIONS.items():
        own = table[table["question"] == question]
        note.table(heading, shown(own), f"{below} Of {own['possible'].iloc[0]} pairs.")
    for row in fit.dropna(subset="declined").itertuples() if "declined" in fit else ():
        note.text(f"{row.method} has no graph (seed {row.seed}): {row.declined}")
    means = fit.drop(columns=["seed", "commit", "declined"], errors="ignore").groupby("method", sort=False).mean()
    note.table("Fits (means)", means.round(1).fillna("-").reset_index())
    note.text(f"Fitted at commit {commits(list(fit['commit']))}; fits of an interrupted run are kept.")
    note.write(args.out, "causalbench", table)


if __name__ == "__main__":
    main()
