"""How the time of a fit grows with the number of genes: one training step, and the structure search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from recording import Note, make_parser
from speed import Step, alone, sciplex3_like, tensors


def time_genes(
    n_genes: int, n_cells: int, threads: int, seed: int, steps: int, search: bool
) -> dict[str, Any]:
    """Seconds per training step, and of the structure search, at one number of genes."""
    import pyro
    import torch

    from scgim.inference import make_config
    from scgim.inference.start import find_structure, resolve_sparsity

    torch.set_num_threads(threads)
    data = tensors(sciplex3_like(n_cells, n_genes, seed, all_genes=max(1_500, 8 * n_genes)))
    searched, edges = float("nan"), -1
    if search:
        start = time.perf_counter()
        found = find_structure(
            resolve_sparsity(make_config(), data), data, np.random.default_rng(seed), lambda text: None
        )
        searched, edges = time.perf_counter() - start, int(found.graph.sum())
    with pyro.validation_enabled(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        step = Step(data, seed, with_pyro=True)
        step(0)
        seconds = []
        for i in range(steps):
            start = time.perf_counter()
            step(i)
            seconds.append(time.perf_counter() - start)
    return {
        "genes": data.n_genes,
        "cells": len(data.x),
        "graphs per step": step.n_graphs,
        "step (ms)": 1e3 * float(np.median(seconds)),
        "step, quartiles (ms)": " to ".join(f"{1e3 * q:.0f}" for q in np.quantile(seconds, [0.25, 0.75])),
        "search (s)": searched,
        "edges found": edges,
    }


def exponent(genes: pd.Series, seconds: pd.Series) -> float:
    """Slope of log time against log genes, by least squares."""
    used = seconds.notna() & (seconds > 0)
    if used.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(genes[used].astype(float)), np.log(seconds[used].astype(float)), 1)[0])


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False, fit=False)
    parser.add_argument("--genes", type=int, nargs="+", default=[20, 50, 100, 200])
    parser.add_argument("--cells", type=int, default=6_000)
    parser.add_argument("--steps", type=int, default=20, help="training steps that are timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-search", action="store_true", help="leave the structure search out")
    args = parser.parse_args(argv)
    note = Note(
        "Time against the number of genes",
        data="**simulated** (`scgim.datasets.simulated_sciplex3`): 48 in the network, the rest background",
        argv=argv,
        script="scaling.py",
        seeds=[args.seed],
    )
    rows = [
        alone(time_genes, n, args.cells, args.threads, args.seed, args.steps, not args.no_search)
        for n in args.genes
    ]
    table = pd.DataFrame(rows)
    growth = f"a step grows as genes^{exponent(table['genes'], table['step (ms)']):.1f}"
    if not args.no_search:
        growth += f", the search as genes^{exponent(table['genes'], table['search (s)']):.1f}"
    note.table(f"Threads of torch: {args.threads}", table.round(1), f"Fitted over the rows above: {growth}.")
    note.write(args.out, "scaling", table)


if __name__ == "__main__":
    main()
