"""Preparation out of core: time and memory against reading the file twice, and against the same cells in memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from recording import Note, make_parser
from speed import alone, peak_memory

BLOCK = 2_000  # cells that are made, written and read at once
DRUGS = 50


def write_cells(path: Path, n_cells: int, n_genes: int, per_cell: int, seed: int, compression: str | None) -> None:
    """Sparse counts in an h5ad file, block by block: controls, and cells of drugs that each change 20 genes."""
    import anndata as ad

    rng = np.random.default_rng(seed)
    names = [f"drug{i}" for i in range(DRUGS)]
    drug = rng.choice(np.array(["control", *names]), n_cells, p=[0.1, *np.full(DRUGS, 0.9 / DRUGS)])
    obs = pd.DataFrame({"perturbation": pd.Categorical(drug)}, index=[f"cell{i}" for i in range(n_cells)])
    ad.AnnData(obs=obs, var=pd.DataFrame(index=[f"GENE{j}" for j in range(n_genes)])).write_h5ad(path)
    weight = rng.lognormal(0.0, 1.5, n_genes)
    change = np.ones((DRUGS + 1, n_genes))
    for row in change[1:]:
        row[rng.choice(n_genes, 20, replace=False)] = rng.choice([0.2, 5.0], 20)
    codes = pd.Index(["control", *names]).get_indexer(drug)
    with h5py.File(path, "r+") as file:
        if "X" in file:
            del file["X"]
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_cells, n_genes)})
        how = {"maxshape": (None,), "chunks": (1 << 18,), "compression": compression}
        data, indices = (
            group.create_dataset(name, (0,), kind, **how) for name, kind in (("data", "f4"), ("indices", "i4"))
        )
        ends = [np.zeros(1, dtype=np.int64)]
        share = [(weight * row).cumsum() / (weight * row).sum() for row in change]
        for start in range(0, n_cells, BLOCK):
            some = codes[start : start + BLOCK]
            # Molecules drawn gene by gene; those of one gene in one cell are added up. About 1.1 for each stored value.
            n = rng.poisson(1.1 * per_cell * rng.uniform(0.6, 1.4, len(some)))
            cell = np.repeat(np.arange(len(some)), n)
            gene, drawn = np.empty(len(cell), dtype=np.int64), rng.random(len(cell))
            for code in np.unique(some):
                of_it = some[cell] == code
                gene[of_it] = np.minimum(np.searchsorted(share[code], drawn[of_it]), n_genes - 1)
            place, count = np.unique(cell * n_genes + gene, return_counts=True)
            for dataset, values in ((data, count), (indices, place % n_genes)):
                dataset.resize((len(dataset) + len(values),))
                dataset[-len(values) :] = values
            ends.append(ends[-1][-1] + np.bincount(place // n_genes, minlength=len(some)).cumsum())
        group.create_dataset("indptr", data=np.concatenate(ends))


def read_twice(path: Path) -> dict[str, Any]:
    """Every block of the file as a sparse matrix, twice."""
    from anndata.io import sparse_dataset

    start = time.perf_counter()
    for _ in range(2):
        with h5py.File(path) as file:
            x = sparse_dataset(file["X"])
            for first in range(0, x.shape[0], BLOCK):
                x[first : first + BLOCK]
    return {"seconds": time.perf_counter() - start, "peak (GiB)": peak_memory(), "begins with (GiB)": np.nan}


def prepare(path: Path, lazy: bool) -> dict[str, Any]:
    """`pp.prepare` of the file, backed or read into memory before."""
    import anndata as ad
    import torch  # noqa: F401  (so that its import is not timed)

    import scgim

    adata = ad.read_h5ad(path, backed="r" if lazy else None)
    if lazy:
        import dask.array  # noqa: F401
    before, start = peak_memory(), time.perf_counter()
    scgim.pp.prepare(adata, progress=False)
    found = {"seconds": time.perf_counter() - start, "peak (GiB)": peak_memory(), "begins with (GiB)": before}
    return found | {"genes": ",".join(sorted(adata.var_names[adata.var["gim"]]))}


def measure(size: Sequence[int], args: Any, folder: Path, **how: Any) -> list[dict[str, Any]]:
    """One file: read twice, prepared backed and, with `memory`, in memory."""
    path, compression = folder / "cells.h5ad", how.get("compression")
    write_cells(path, *size, args.per_cell, args.seed, compression)
    with h5py.File(path) as file:
        stored = len(file["X/data"])
    about = {"cells": size[0], "genes": size[1], "values per cell": round(stored / size[0])}
    about |= {"X (GiB)": stored * 8 / 2**30, "file (GiB)": path.stat().st_size / 2**30}
    about["compression"] = compression or "none"
    runs: dict[str, dict[str, Any]] = {}
    kinds = [
        ("the file is read twice", read_twice),
        ("prepare, backed", prepare, True),
        ("prepare, in memory", prepare, False),
    ]
    for what, function, *rest in kinds[: 3 if how.get("memory") else 2]:
        forget(path)
        runs[what] = alone(function, path, *rest)
    path.unlink()
    genes = [run.pop("genes") for run in runs.values() if "genes" in run]
    if len(set(genes)) > 1:
        raise AssertionError("other genes are chosen on disk than in memory")
    twice = runs["the file is read twice"]["seconds"]
    return [about | {"what": what, **run, "times reading twice": run["seconds"] / twice} for what, run in runs.items()]


def forget(path: Path) -> None:
    """Ask the system to hold nothing of a file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False, fit=False)
    parser.add_argument("--size", type=int, nargs=2, default=[580_000, 58_000], metavar=("CELLS", "GENES"))
    parser.add_argument("--compressed", type=int, nargs=2, default=[100_000, 58_000], metavar=("CELLS", "GENES"))
    parser.add_argument("--in-memory", type=int, nargs=2, default=[100_000, 20_000], metavar=("CELLS", "GENES"))
    parser.add_argument("--per-cell", type=int, default=1_000, help="stored values of a cell, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for the file (default: a temporary one)")
    args = parser.parse_args(argv)
    note = Note(
        "Preparation out of core",
        data=f"**simulated** sparse counts, a control and {DRUGS} drugs, made by the script",
        argv=argv,
        script="out_of_core.py",
        seeds=[args.seed],
    )
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        rows = measure(args.size, args, Path(folder))
        rows += measure(args.compressed, args, Path(folder), compression="gzip")
        rows += measure(args.in_memory, args, Path(folder), memory=True)
    table = pd.DataFrame(rows)
    note.table(
        "Time and memory",
        table.round(2).astype(object).fillna("-"),
        "X: four bytes for a value and four for its gene. Peak: of the whole process, which began with so much (in "
        "memory, with X). Before each run the system is asked to forget the file; what was read once, it may keep in "
        "memory.",
    )
    note.write(args.out, "out_of_core", table)


if __name__ == "__main__":
    main()
