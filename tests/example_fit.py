"""An AnnData as `pp.prepare` and `tl.fit_gim` leave it, built by hand: what `get` and `pl` are tested on.

50 genes, four drugs at four doses, one of them held out; a known graph, known targets, Hill-shaped effects.
"""

from __future__ import annotations

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from scgim.inference import FitConfig, new_model
from scgim.model import FittedGIM
from scgim.slots import cell_hashes, checksum, dense, read_entry, seal
from scgim.slots.keys import FORMAT_VERSION, Keys

# fmt: off
GENES = (
    "ANGPTL4", "CDKN1A", "TXNIP", "MALAT1", "NEAT1", "SCD", "H1-0", "H2BC12", "TUBB3", "STMN1",
    "KRT18", "KRT8", "TMSB10", "LGALS1", "AKR1B10", "AKR1C1", "AKR1C2", "ALDH1A1", "ALDH3A1", "GPX2",
    "UCHL1", "SERPINE1", "THBS1", "CYR61", "CTGF", "FN1", "IGFBP3", "IGFBP6", "MT2A", "MT1X",
    "MT1E", "HSPA1A", "HMGCS1", "INSIG1", "LDLR", "FADS2", "SQLE", "IDI1", "TFPI2", "PAPPA",
    "LAMB1", "COL4A1", "ITGB4", "CCND1", "CDC20", "TOP2A", "MKI67", "CENPF", "ASPM", "HIST1H4C",
)
# fmt: on
LONG_GENES = ("ENSG00000228630.5", "RP11-34P13.7-AS1", "LINC-PINT-201", "HIST1H2BK-pseudo", "AC012345.1")
DRUGS = ("Belinostat", "Dacinostat", "Givinostat", "Quisinostat")
DOSES = (10.0, 100.0, 1000.0, 10000.0)
HELD_OUT = "Dacinostat_10000"


def gene_names(n: int) -> list[str]:
    """`n` gene symbols, the real ones first."""
    return [GENES[i] if i < len(GENES) else f"GENE{i}" for i in range(n)]


def random_dag(n: int, edges: float, rng: np.random.Generator) -> nx.DiGraph:
    """A sparse DAG with a few hubs; about a sixth of the genes stay without edges."""
    order = rng.permutation(n)
    weight = rng.pareto(1.8, n) + 0.2
    weight[rng.random(n) < 1 / 6] = 0
    dag = nx.DiGraph()
    dag.add_nodes_from(range(n))
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    mass = np.array([weight[order[i]] * weight[order[j]] / (1 + 0.05 * (j - i)) for i, j in pairs])
    if mass.sum() > 0 and edges > 0:
        count = min(int(edges), int((mass > 0).sum()))
        for pair in rng.choice(len(pairs), size=count, replace=False, p=mass / mass.sum()):
            i, j = pairs[pair]
            dag.add_edge(int(order[i]), int(order[j]), probability=float(1 - 0.5 * rng.beta(0.6, 2.5)))
    return dag


def draw_cells(mean: np.ndarray, zeros: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Zero-inflated log-normal expression, (n, genes)."""
    positive = np.exp(np.log(mean) + 0.32 * rng.standard_normal((n, len(mean))))
    return np.where(rng.random((n, len(mean))) < zeros, 0.0, positive).astype(np.float32)


def condition_table(perturbations: tuple[str, ...], doses: tuple[float, ...], held_out: str | None) -> pd.DataFrame:
    """The contract's table of conditions, control first."""
    rows = [("control", "control", np.nan, True)]
    for name in perturbations:
        rows += [(f"{name}_{dose:g}", name, dose, False) for dose in doses] or [(name, name, np.nan, False)]
    table = pd.DataFrame(rows, columns=["condition", "perturbation", "dose", "is_control"])
    table["n_cells"] = 0
    table["split"] = np.where(table["condition"] == held_out, "test", "train")
    return table


def make_fit(
    *,
    genes: list[str] | None = None,
    perturbations: tuple[str, ...] = DRUGS,
    doses: tuple[float, ...] = DOSES,
    held_out: str | None = HELD_OUT,
    edges: int | None = None,
    cells: int = 70,
    control_cells: int = 400,
    continuous: bool = False,
    dose_unit: str = "nM",
    key: str = "gim",
    group: str | None = None,
    seed: int = 0,
) -> tuple[ad.AnnData, ad.AnnData]:
    """A fitted AnnData, and cells 'predicted' for each of its perturbed conditions.

    The predictions are drawn from slightly wrong parameters, as a real fit's would be.
    """
    rng = np.random.default_rng(seed)
    genes = gene_names(50) if genes is None else genes
    n, k = len(genes), Keys(key, group)
    dag = random_dag(n, 1.8 * n if edges is None else edges, rng)
    table = condition_table(perturbations, doses, held_out)

    base, zeros = rng.uniform(0.8, 3.0, n), rng.beta(0.8, 1.6, n)
    effect = np.zeros((len(perturbations), n))
    for d in range(len(perturbations)):
        hit = rng.choice(n, size=min(n, 6), replace=False)
        effect[d, hit] = rng.choice([-1.0, 1.0], len(hit)) * rng.uniform(0.3, 1.0, len(hit))
    shared = rng.choice(n, size=max(1, n // 12), replace=False)
    effect[:, shared] = rng.choice([-1, 1], len(shared)) * rng.uniform(0.5, 1.1, len(shared))

    x, labels, predicted, predicted_labels, probability = [], [], [], [], np.zeros((len(table), n))
    for c, row in table.iterrows():
        strength = np.zeros(n)
        if not row["is_control"]:
            hill = 1.0 if np.isnan(row["dose"]) else row["dose"] / (row["dose"] + 300 + 500 * rng.random())
            strength = hill * effect[perturbations.index(row["perturbation"])]
            probability[c] = np.where(
                strength != 0, 1 / (1 + np.exp(-14 * (abs(strength) - 0.25))), 0.04 * rng.random(n)
            )
        reached = strength.copy()
        for _ in range(2):
            reached = strength + 0.35 * np.array([sum(reached[p] for p in dag.predecessors(j)) for j in range(n)])
        reached = np.clip(reached, -1.2, 1.2)
        dropout = np.clip(zeros - 0.35 * reached, 0.0, 0.98)
        count = control_cells if row["is_control"] else int(cells * rng.uniform(0.6, 1.4))
        table.loc[c, "n_cells"] = count
        if continuous:
            x.append((reached * 2 + rng.standard_normal((count, n))).astype(np.float32))
        else:
            x.append(draw_cells(base * np.exp(0.5 * reached), dropout, count, rng))
        labels += [row["condition"]] * count
        if row["is_control"]:
            continue
        guess = 0.9 * reached + 0.05 * rng.standard_normal(n)
        if continuous:
            predicted.append((guess * 2 + rng.standard_normal((200, n))).astype(np.float32))
        else:
            guessed_zeros = np.clip(dropout + 0.04 * rng.standard_normal(n), 0, 0.99) * (zeros > 0)
            predicted.append(draw_cells(base * np.exp(0.5 * guess), guessed_zeros, 200, rng))
        predicted_labels += [c] * 200

    adata = _assemble(np.vstack(x), labels, genes, table, dag, probability, effect, perturbations, continuous, k, rng)
    _seal(adata, k, {"dose_unit": dose_unit if doses else ""}, genes)
    if group is not None:
        adata.uns[key] = {
            "format": FORMAT_VERSION,
            "key": key,
            "groups": np.array([group], dtype=object),
            "groupby": "line",
        }
    rows = table.iloc[predicted_labels].reset_index(drop=True)
    rows.index = rows.index.astype(str)
    new = ad.AnnData(
        np.vstack(predicted), obs=rows[["condition", "perturbation", "dose"]], var=pd.DataFrame(index=genes)
    )
    return adata, new


def _seal(adata: ad.AnnData, k: Keys, spec: dict, genes: list[str]) -> None:
    """The record, from which everything is read; as `pp.prepare` and `tl.fit_gim` write it."""
    uns = adata.uns[k.uns]
    codes = pd.Index(uns["conditions"]["condition"]).get_indexer(adata.obs[k.condition])
    labels = uns["conditions"]["condition"].to_numpy(dtype=object)[codes]
    prepared = {
        "conditions": uns["conditions"],
        "parts": uns["parts"],
        "membership": np.eye(len(uns["conditions"]), dtype=np.uint8)[:, 1:],
        "features": np.zeros((len(uns["parts"]), 1), dtype=np.float32),
        "feature_spec": spec,
        "params": {"prepare": uns["params"]["prepare"]},
        "genes": np.array(genes, dtype=object),
        "cells": np.sort(cell_hashes(dense(adata[:, genes].X), genes, labels)),
    }
    config, model = _random_model(genes, uns["graph"], uns["params"]["prepare"]["input"])
    fitted = {"genes": genes, "graph": model.graph, "settings": config.asdict()}
    uns["state"] = seal({"prepared": prepared, "fitted": fitted}, model.arrays())
    uns["state_sha256"] = checksum(uns["state"])


def _random_model(genes: list[str], edges: pd.DataFrame, kind: str) -> tuple[FitConfig, FittedGIM]:
    """Mechanisms with random weights on the example's graph: the signs of its edges."""
    config = FitConfig(
        mechanism="linear" if kind == "continuous" else "ziln",
        network_hidden=(2,),
        inverse_temperature=1.0,
        graph_sparsity=1.0,
        target_sparsity=1.0,
        intervention_scale=1.0,
        target_scale=1.0,
    )
    graph = np.zeros((len(genes),) * 2, dtype=bool)
    graph[pd.Index(genes).get_indexer(edges["source"]), pd.Index(genes).get_indexer(edges["target"])] = True
    return config, FittedGIM(new_model(config, len(genes), 1, generator=torch.Generator().manual_seed(0)), graph)


def seal_again(adata: ad.AnnData) -> None:
    """After a test has changed the cells: as if they had been prepared like this."""
    prepared = read_entry(adata).prepared
    _seal(adata, Keys("gim"), prepared["feature_spec"], list(prepared["genes"]))


def _assemble(x, labels, genes, table, dag, probability, effect, perturbations, continuous, k, rng) -> ad.AnnData:
    """Put everything into the slots of the contract, beside three genes that are not modelled."""
    n, extra = len(genes), 3
    full = np.hstack([x, rng.random((len(x), extra), dtype=np.float32)])
    names = [*genes, *(f"other{i}" for i in range(extra))]
    adata = ad.AnnData(
        full if continuous else sparse.csr_matrix(full),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(len(x))]),
        var=pd.DataFrame(index=names),
    )
    adata.obs[k.condition] = pd.Categorical(labels, categories=table["condition"])
    split = np.where(rng.random(len(labels)) < 0.1, "valid", "train").astype(object)
    split[adata.obs[k.condition].isin(table.loc[table["split"] == "test", "condition"]).to_numpy()] = "test"
    adata.obs[k.split] = pd.Categorical(split, categories=["train", "valid", "test"])
    adata.var[k.genes] = [True] * n + [False] * extra
    adata.var[k.score] = np.r_[rng.random(n), np.zeros(extra)]

    edges = [(genes[a], genes[b], d["probability"]) for a, b, d in dag.edges(data=True)]
    per_drug = {name: effect[i] for i, name in enumerate(perturbations)}
    rows = [
        (label, gene, probability[c, j], probability[c, j] > 0.5, per_drug[name][j], -1 if per_drug[name][j] < 0 else 1)
        for c, (label, name) in enumerate(zip(table["condition"], table["perturbation"], strict=True))
        for j, gene in enumerate(genes)
        if not table["is_control"].iloc[c]
    ]
    targets = ["condition", "gene", "probability", "is_target", "effect", "direction"]
    steps = np.arange(0, 6000, 50)
    settle = np.exp(-steps / 700)
    parts = table.loc[~table["is_control"], ["condition", "perturbation", "dose"]]
    adata.uns[k.uns] = {
        "format": FORMAT_VERSION,
        "key": k.key,
        "conditions": table,
        "parts": parts.rename(columns={"condition": "part"}).reset_index(drop=True),
        "graph": pd.DataFrame(edges, columns=["source", "target", "probability"]).astype({"probability": float}),
        "targets": pd.DataFrame(rows, columns=targets),
        "history": {
            "step": steps,
            "loss": 70 + 160 * np.exp(-steps / 200) + 12 * settle + rng.normal(0, 0.6, len(steps)),
            "valid_loss": 73 + 150 * np.exp(-steps / 200) + 13 * settle + rng.normal(0, 0.3, len(steps)),
            "acyclicity": np.maximum(4 * settle - 0.001, 0.0),
            "penalty": 0.01 * 2.0 ** np.floor(steps / 400),
            "multiplier": np.cumsum(0.01 * settle),
            "edges": np.round(len(edges) + 900 * settle).astype(int),
            "targets_per_condition": 6 + 18 * settle,
        },
        "params": {
            "prepare": {"input": "continuous" if continuous else "counts"},
            "fit": {"seed": 0},
        },
    }
    return adata
