"""How the time of a fit grows with genes, cells and conditions: the structure search, and a training step.

With `--mechanism count` whole fits of counted cells are timed, with their memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from recording import Note, make_parser
from speed import Step, alone, peak_memory

#: What varies -> values, and the other settings of the simulator (`scgim.benchmark.SyntheticTask`).
SERIES: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "genes": ((20, 50, 100, 200, 500), {"n_perturbations": 25, "cells_per_condition": 50}),
    "cells": ((20, 40, 80, 160, 320, 640), {"n_perturbations": 25, "n_genes": 50}),
    "conditions": ((10, 20, 40, 80, 160), {"n_genes": 50}),
}
#: Steps of a fit with the default settings.
FIT_STEPS = 2_000


def system(vary: str, value: int, mechanism: str, seed: int, n_features: int = 20) -> Any:
    """Tensors of one simulated system: 4 doses a perturbation, 16 control cells for each one of a condition."""
    from scgim.benchmark import SyntheticTask
    from scgim.inference import TrainingData

    settings: dict[str, int] = dict(SERIES[vary][1])
    if vary == "conditions":  # the number of cells stays
        settings |= {"n_perturbations": value, "cells_per_condition": 8_000 // (4 * value), "n_control": 800}
    else:
        settings["n_genes" if vary == "genes" else "cells_per_condition"] = value
        settings["n_control"] = 16 * settings["cells_per_condition"]
    spec = SyntheticTask(mechanism=mechanism, seed=seed, n_new_targets=0, n_features=n_features, **settings)
    return TrainingData.of(spec.load().train)


def time_one(
    vary: str, value: int, mechanism: str, threads: int, seed: int, steps: int, search: bool
) -> dict[str, Any]:
    """CPU seconds per training step, and of the structure search, of one system."""
    import pyro
    import torch

    from scgim.inference import make_config
    from scgim.inference.start import find_structure, resolve_sparsity

    torch.set_num_threads(threads)
    data = system(vary, value, mechanism, seed)
    searched, edges = float("nan"), -1
    if search:
        start = time.process_time()
        config = resolve_sparsity(make_config(mechanism=mechanism), data)
        found = find_structure(config, data, np.random.default_rng(seed), lambda text: None)
        searched, edges = time.process_time() - start, int(found.graph.sum())
    with pyro.validation_enabled(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        step = Step(data, seed, with_pyro=True, mechanism=mechanism)
        step(0)
        seconds = []
        for i in range(steps):
            start = time.process_time()
            step(i)
            seconds.append(time.process_time() - start)
    median = float(np.median(seconds))
    return {
        "varied": vary,
        "genes": data.n_genes,
        "cells": len(data.x),
        "conditions": data.n_conditions,
        "graphs per step": step.n_graphs,
        "step (ms)": 1e3 * median,
        "step, quartiles (ms)": " to ".join(f"{1e3 * q:.1f}" for q in np.quantile(seconds, [0.25, 0.75])),
        f"{FIT_STEPS:,} steps (s)": FIT_STEPS * median,
        "search (s)": searched,
        "edges found": edges,
    }


def fit_counts(vary: str, value: int, threads: int, seed: int, **settings: Any) -> dict[str, Any]:
    """Time and peak memory of one fit of simulated counts, the same sizes as `system`, with the default settings."""
    import counts
    import torch

    from scgim.inference import TrainingData, fit, make_config

    torch.set_num_threads(threads)
    sizes: dict[str, int] = dict(SERIES[vary][1])
    if vary == "conditions":
        sizes |= {"n_perturbations": value, "cells_per_condition": 8_000 // (4 * value)}
    else:
        sizes["n_genes" if vary == "genes" else "cells_per_condition"] = value
    data = TrainingData.of(counts.simulate(seed, 1.0, 0.0, **sizes)[0])
    cpu, wall = time.process_time(), time.perf_counter()
    graph = fit(data, make_config(mechanism="count", **settings), rng=seed, progress=False).graph
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "varied": vary, "genes": data.n_genes, "cells": len(data.x), "conditions": data.n_conditions,
        "fit (CPU s)": cpu, "fit (s)": wall, "peak memory (GiB)": peak_memory(), "edges found": int(graph.sum()),
    }  # fmt: skip


def exponent(sizes: pd.Series, seconds: pd.Series) -> float:
    """Slope of log time against log size, by least squares."""
    used = seconds.notna() & (seconds > 0)
    if used.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes[used].astype(float)), np.log(seconds[used].astype(float)), 1)[0])


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False, fit=False)
    parser.add_argument("--vary", nargs="+", choices=list(SERIES), default=list(SERIES))
    parser.add_argument("--most", type=int, default=10**9, help="leave out larger values")
    parser.add_argument("--mechanism", choices=("linear", "mlp", "ziln", "count"), default="ziln")
    parser.add_argument("--steps", type=int, default=20, help="training steps that are timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-search", action="store_true", help="leave the structure search out")
    args = parser.parse_args(argv)
    note = Note(
        "Time against the size of the data",
        data=f"**simulated**, mechanism {args.mechanism}, 2 edges per gene",
        argv=argv,
        script="scaling.py",
        seeds=[args.seed],
    )
    tables, counted = [], args.mechanism == "count"
    for vary in args.vary:
        values = [value for value in SERIES[vary][0] if value <= args.most]
        if counted:
            table = pd.DataFrame([alone(fit_counts, vary, value, args.threads, args.seed) for value in values])
            growth = f"a fit takes CPU time as {vary}^{exponent(table[vary], table['fit (CPU s)']):.1f}"
            note.table(f"More {vary}", table.drop(columns="varied").round(1), growth)
            tables.append(table)
            continue
        rows = [
            alone(time_one, vary, value, args.mechanism, args.threads, args.seed, args.steps, not args.no_search)
            for value in values
        ]
        table = pd.DataFrame(rows)
        growth = f"a step grows as {vary}^{exponent(table[vary], table['step (ms)']):.1f}"
        if not args.no_search:
            growth += f", the search as {vary}^{exponent(table[vary], table['search (s)']):.1f}"
            share = table["search (s)"] / (table["search (s)"] + table[f"{FIT_STEPS:,} steps (s)"])
            growth += f"; the search takes {share.iloc[0]:.0%} of a fit in the first row"
            growth += f" and {share.iloc[-1]:.0%} in the last"
        shown = table.drop(columns="varied").round(1)
        note.table(f"More {vary}", shown, f"Least squares over the rows above, log-log: {growth}.")
        tables.append(table)
    note.text(
        f"CPU time of the process, which other work on the machine hardly lengthens; threads of torch: {args.threads}."
        + ("" if counted else f" A fit is one search and {FIT_STEPS:,} steps with the default settings.")
    )
    note.write(args.out, "scaling_counts" if counted else "scaling", pd.concat(tables))


if __name__ == "__main__":
    main()
