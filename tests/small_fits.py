"""Small prepared and fitted AnnData for the tests of `tl`."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from quick_fits import quick_fits

import scgim
from scgim.slots import cell_hashes, checksum, read_entry, seal

GENES = [f"g{i}" for i in range(5)]
DRUGS = ("A", "B", "C")
#: Drug A acts on g0, B on g1, C on g3; g0 -> g1 -> g2, g4 alone.
TARGET = {"A": "g0", "B": "g1", "C": "g3"}
#: A short fit; its accuracy does not matter.
QUICK: dict[str, Any] = {
    "max_steps": 8, "check_every": 4, "batch_size": 64, "n_graphs": 2, "network_hidden": (8,),
    "mechanism_hidden": 3, "n_features": 20, "device": "cpu", "progress": False,
}  # fmt: skip


def drug_cells(
    *,
    seed: int = 0,
    n: int = 30,
    doses: tuple[float, ...] = (1.0, 10.0),
    kind: str = "continuous",
    pairs: bool = False,
) -> ad.AnnData:
    """Three drugs at doses, controls, five genes and one (`other`) that is not to be modelled."""
    rng = np.random.default_rng(seed)
    rows = [("control", 0.0)] * (4 * n) + [(drug, dose) for drug in DRUGS for dose in doses for _ in range(n)]
    rows += [("A+B", doses[-1])] * n if pairs else []
    obs = pd.DataFrame(rows, columns=["perturbation", "dose"], index=[f"cell{i}" for i in range(len(rows))])
    x = np.zeros((len(obs), 6))
    parent = {1: 0, 2: 1}
    for j in range(6):
        own = 0.4 * rng.standard_normal(len(obs)) + (1.0 * x[:, parent[j]] if j in parent else 1.0)
        for drug, target in TARGET.items():
            if target == f"g{j}":
                hit = obs["perturbation"].str.split("+").map(lambda names, d=drug: d in names).to_numpy()
                effect = 1 + 1.5 * np.log10(obs["dose"].to_numpy().clip(0.1)) + 0.3 * rng.standard_normal(len(obs))
                own = np.where(hit, effect, own)
        x[:, j] = own
    if kind == "log1p":
        x = np.where(rng.random(x.shape) < 0.2, 0.0, np.exp(0.5 * x))
    obs["line"] = np.where(np.arange(len(obs)) % 2 == 0, "first", "second")
    return ad.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=[*GENES, "other"]))


def count_cells(
    *,
    seed: int = 0,
    n: int = 25,
    n_genes: int = 10,
    rates: dict[str, float] | None = None,
    one_plate: tuple[str, ...] = (),
) -> ad.AnnData:
    """Counts (CSR) of latent expression: g0 -> g1 -> g2, drug A acts on g0, B on g1, C on g3; and five other genes.

    Half of the cells of every condition are in the batch "plate1", the others (and all of the drugs in `one_plate`) in
    "plate2", where the rates of genes are multiplied by `rates`. ``obs["depth"]`` is what the expected counts of a cell
    are proportional to.
    """
    rng = np.random.default_rng(seed)
    rows = [("control", 0.0)] * (8 * n) + [(drug, dose) for drug in DRUGS for dose in (1.0, 10.0) for _ in range(n)]
    obs = pd.DataFrame(rows, columns=["perturbation", "dose"], index=[f"cell{i}" for i in range(len(rows))])
    first = (np.arange(len(obs)) % 2 == 0) & ~obs["perturbation"].isin(one_plate).to_numpy()
    obs["plate"] = np.where(first, "plate1", "plate2")
    obs["depth"] = np.exp(0.4 * rng.standard_normal(len(obs)))
    names = [f"g{i}" for i in range(n_genes)] + [f"other{i}" for i in range(5)]
    z = 0.5 * rng.standard_normal((len(obs), len(names)))
    acts_on = {TARGET[drug]: (obs["perturbation"] == drug).to_numpy() for drug in DRUGS}
    for gene, parent in (("g0", None), ("g1", 0), ("g2", 1), ("g3", None)):
        own = names.index(gene)
        z[:, own] += 0.0 if parent is None else 1.2 * z[:, parent]
        if gene in acts_on:
            hit = acts_on[gene]
            z[hit, own] = -0.5 - np.log10(obs["dose"].to_numpy()[hit]) + 0.5 * rng.standard_normal(hit.sum())
    rate = obs["depth"].to_numpy()[:, None] * np.exp(z + np.log(np.linspace(6.0, 12.0, len(names))))
    for gene, factor in (rates or {}).items():
        rate[(obs["plate"] == "plate2").to_numpy(), names.index(gene)] *= factor
    counts = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=names))


def prepared_counts(prepare: dict[str, Any] | None = None, **cells: Any) -> ad.AnnData:
    """`count_cells` after `pp.prepare`, with the genes g0, g1, ..."""
    adata = count_cells(**cells)
    genes = [name for name in adata.var_names if name.startswith("g")]
    arguments = {"dose_key": "dose", "genes": genes, "min_cells": 1, "min_counts": 1, "valid_fraction": 0.0}
    scgim.pp.prepare(adata, **{**arguments, **(prepare or {})})
    return adata


def fitted_counts(prepare: dict[str, Any] | None = None, fit: dict[str, Any] | None = None, **cells: Any) -> ad.AnnData:
    """The same after `tl.fit_gim` with ``mechanism="count"`` and a few steps; the fixture `count_fit` has one."""
    adata = prepared_counts(prepare, **cells)
    scgim.tl.fit_gim(adata, **{**QUICK, "mechanism": "count", "batch_key": "plate", **(fit or {})})
    return adata


def prepared(kind: str = "continuous", prepare: dict[str, Any] | None = None, **cells: Any) -> ad.AnnData:
    """After `pp.prepare`, with genes g0 to g4."""
    adata = drug_cells(kind=kind, **cells)
    arguments = {"dose_key": "dose", "input": kind, "genes": GENES, "min_cells": 1}
    scgim.pp.prepare(adata, **{**arguments, **(prepare or {})})
    return adata


def fitted(
    kind: str = "continuous",
    prepare: dict[str, Any] | None = None,
    fit: dict[str, Any] | None = None,
    **cells: Any,
):
    """After `tl.fit_gim` with a few steps."""
    adata = prepared(kind, prepare, **cells)
    with quick_fits():
        scgim.tl.fit_gim(adata, **{**QUICK, **(fit or {})})
    return adata


def edit_graph(adata: ad.AnnData, edges: list[tuple[str, str]], key: str = "gim") -> None:
    """Give the fitted model a graph of our own, so that a test knows what is upstream of what."""
    table = pd.DataFrame(edges, columns=["source", "target"]).assign(probability=0.9)
    table.index = table.index.astype(str)
    adata.uns[key]["graph"] = table
    genes = read_entry(adata, key).genes
    graph = np.zeros((len(genes),) * 2, dtype=bool)
    for source, target in edges:
        graph[genes.index(source), genes.index(target)] = True
    edit_record(adata, key, graph=graph)


def seal_cells(adata: ad.AnnData, key: str = "gim") -> None:
    """After a test has changed values: as if they had been prepared like this."""
    entry = read_entry(adata, key)
    codes = entry.codes(adata)
    rows = np.flatnonzero(codes >= 0)
    labels = np.array(entry.labels, dtype=object)[codes[rows]]
    cells = np.sort(cell_hashes(entry.expression(adata, rows), entry.genes, labels))
    _seal(adata, key, {**entry.prepared, "cells": cells}, entry.fitted, entry.weights)


def edit_record(adata: ad.AnnData, key: str = "gim", weights: dict[str, Any] | None = None, **fitted: Any) -> None:
    """Change what the fit recorded (or its weights), under a new checksum."""
    entry = read_entry(adata, key)
    new = entry.weights if weights is None else weights
    _seal(adata, key, entry.prepared, {**entry.fitted, **fitted}, new)


def _seal(adata: ad.AnnData, key: str, prepared: Any, fitted: Any, weights: Any) -> None:
    state = seal({"prepared": prepared, "fitted": fitted}, weights)
    adata.uns[key] |= {"state": state, "state_sha256": checksum(state)}
