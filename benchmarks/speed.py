"""Speed and memory: one fit at SciPlex3's size, preparation, Pyro's own share of a step, and sampling."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recording import Note, make_parser

PARTS = ("fit", "prepare", "pyro", "sample", "gpu")


def peak_memory() -> float:
    """Peak resident memory of this process in GiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would include what the parent had used before this process began
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function in a fresh process, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def sciplex3_like(n_cells: int, n_genes: int, seed: int, all_genes: int = 1_500) -> Any:
    """Simulated SciPlex3 with one dose held out and `n_cells` training cells, prepared."""
    import scgim

    whole = scgim.datasets.simulated_sciplex3(cell_lines=["A549", "K562"], n_genes=all_genes, rng=seed)
    rng = np.random.default_rng(seed)
    held_out = ((whole.obs["perturbation"] == "Dacinostat") & (whole.obs["dose_value"] == 10_000)).to_numpy()
    enough = min(n_cells, int((~held_out).sum()))
    chosen = np.sort(np.r_[rng.choice(np.flatnonzero(~held_out), enough, replace=False), np.flatnonzero(held_out)])
    adata = whole[chosen].copy()
    scgim.pp.prepare(
        adata,
        dose_key="dose_value",
        hold_out={"Dacinostat": 10_000},
        n_genes=n_genes,
        min_counts=0,
        small_conditions="drop",
        silent_genes="drop",
        rng=seed,
    )
    return adata


def tensors(adata: Any) -> Any:
    """What a fit sees of prepared cells."""
    from scgim.data import PerturbationData
    from scgim.inference import TrainingData

    return TrainingData.of(PerturbationData.from_anndata(adata))


def time_fit(n_cells: int, n_genes: int, threads: int, seed: int, steps: int | None) -> dict[str, Any]:
    """One fit, to convergence unless `steps` ends it before."""
    import torch

    import scgim

    torch.set_num_threads(threads)
    adata = sciplex3_like(n_cells, n_genes, seed)
    before = peak_memory()
    settings = {} if steps is None else {"max_steps": steps}
    start = time.perf_counter()
    scgim.tl.fit_gim(adata, rng=seed, progress=False, device="cpu", **settings)
    seconds = time.perf_counter() - start
    fit = adata.uns["gim"]["params"]["fit"]
    return {
        "seed": seed,
        "training cells": int(adata.obs["gim_split"].isin(["train", "valid"]).sum()),
        "conditions trained on": int((adata.uns["gim"]["conditions"]["split"] == "train").sum()),
        "genes": int(adata.var["gim"].sum()),
        "fit (s)": seconds,
        "steps": int(fit["n_steps"]),
        "stopped": str(fit["stopped"]),
        "peak memory (GiB)": peak_memory(),
        "of which before the fit": before,
    }


def time_prepare(n_cells: int, n_genes: int, seed: int, repeats: int = 3) -> dict[str, Any]:
    """Preparation of a sparse matrix of the size of the whole experiment."""
    import anndata as ad
    import scipy.sparse as sp

    import scgim

    whole = scgim.datasets.simulated_sciplex3(cell_lines=["A549", "K562", "MCF7"], n_genes=n_genes, rng=seed)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, whole.n_obs, size=n_cells)  # with replacement: the size is what counts here
    obs = whole.obs.iloc[rows].reset_index(drop=True)
    obs.index = obs.index.astype(str)
    x = sp.csr_matrix(whole.X)[rows]
    seconds = []
    for _ in range(repeats):
        adata = ad.AnnData(x.copy(), obs=obs.copy(), var=whole.var.copy())
        start = time.perf_counter()
        scgim.pp.prepare(adata, dose_key="dose_value", min_counts=0, silent_genes="drop", rng=seed)
        seconds.append(time.perf_counter() - start)
    return {
        "cells": n_cells,
        "genes": n_genes,
        "stored values per cell": f"{x.nnz / n_cells:.0f}",
        "first (s)": seconds[0],
        "best (s)": min(seconds),
        "peak memory (GiB)": peak_memory(),
    }


class Step:
    """One training step of the fit, through Pyro or with the same arithmetic in torch alone."""

    def __init__(self, data: Any, seed: int, *, with_pyro: bool, mechanism: str = "ziln") -> None:
        import torch
        from pyro.infer import Trace_ELBO

        from scgim.inference import make_config
        from scgim.inference.data import BalancedSampler
        from scgim.inference.fit import require_finite
        from scgim.inference.schedule import graphs_per_step, make_optimiser
        from scgim.inference.start import build, resolve_sparsity

        self.torch, self.require_finite = torch, require_finite
        config = resolve_sparsity(make_config(mechanism=mechanism), data)
        self.gim = build(config, data, np.random.default_rng(seed))
        self.n_graphs = graphs_per_step(config, data.n_genes)
        self.optimiser = make_optimiser(self.gim, config)
        self.sampler = BalancedSampler(data, math.ceil(config.batch_size / self.n_graphs) * self.n_graphs)
        self.sparsity = float(config.target_sparsity)
        self.elbo = Trace_ELBO() if with_pyro else None

    def loss(self, batch: Any) -> Any:
        """The negative objective of a minibatch, up to what does not depend on the parameters."""
        if self.elbo is not None:
            return self.elbo.differentiable_loss(
                self.gim.model, self.gim.guide, batch, self.n_graphs, "elbo", self.sparsity
            )
        from scgim.model.distributions import GumbelBernoulli

        torch, gim = self.torch, self.gim
        logits = gim.graph.logits().masked_fill(~gim.graph.allowed, -30.0).expand(self.n_graphs, -1, -1)
        graph = GumbelBernoulli(logits, gim.gumbel_scale).rsample() * gim.graph.allowed
        k = gim.interventions(batch.features)[1].shape[-1] if not hasattr(self, "k") else self.k
        self.k = k
        noise = torch.randn(batch.features.shape[0], gim.graph.n_genes, k, device=batch.x.device)
        return -(gim.cell_log_likelihood(batch, graph, noise, "elbo") + gim.log_prior(batch, self.sparsity))

    def __call__(self, step: int) -> None:
        import warnings

        from scgim.model import spectral_radius

        batch = self.sampler.draw()
        self.optimiser.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            loss = self.loss(batch) / self.sampler.n_cells
        h = spectral_radius(self.gim.graph.probabilities())
        objective = loss + 0.005 * h * h
        objective.backward()
        self.require_finite(self.gim, objective, step)
        self.optimiser.step()


def time_pyro(n_cells: int, n_genes: int, threads: int, seed: int, rounds: int, block: int = 5) -> pd.DataFrame:
    """Seconds per step, Pyro and torch alone by turns; one row per round."""
    import pyro
    import torch

    torch.set_num_threads(threads)
    data = tensors(sciplex3_like(n_cells, n_genes, seed))
    with pyro.validation_enabled(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        steps = {"pyro": Step(data, seed, with_pyro=True), "torch": Step(data, seed, with_pyro=False)}
        _same_loss(steps, seed)
        for step in steps.values():  # warm up
            for i in range(3):
                step(i)
        rows = []
        for r in range(rounds):
            row: dict[str, float] = {}
            for name in ("pyro", "torch") if r % 2 == 0 else ("torch", "pyro"):
                start = time.perf_counter()
                for i in range(block):
                    steps[name](i)
                row[name] = (time.perf_counter() - start) / block
            rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(ratio=table["pyro"] / table["torch"])


def _same_loss(steps: dict[str, Step], seed: int) -> None:
    """Both steps compute the same number from the same random numbers, or the comparison is void."""
    torch = steps["pyro"].torch
    batch = steps["pyro"].sampler.draw()
    values = []
    for step in steps.values():
        torch.manual_seed(seed)
        values.append(float(step.loss(batch).detach()))
    if not math.isclose(*values, rel_tol=1e-3):
        raise AssertionError(f"the two steps differ: loss {values[0]} with Pyro, {values[1]} without")


def time_sampling(n_cells: int, n_genes: int, seed: int, repeats: int = 5) -> pd.DataFrame:
    """`sample_cells` on one thread: one perturbation, and all conditions."""
    import torch

    import scgim

    torch.set_num_threads(1)
    adata = sciplex3_like(2_000, n_genes, seed)
    scgim.tl.fit_gim(adata, rng=seed, max_steps=20, search_cells=100, progress=False, device="cpu")
    n_conditions = len(adata.uns["gim"]["conditions"])
    rows = []
    for what, asked, n in (
        ("one perturbation", [("Dacinostat", 10_000)], n_cells),
        (f"{n_conditions} conditions", None, math.ceil(n_cells / n_conditions)),
    ):
        seconds = []
        for r in range(repeats):
            start = time.perf_counter()
            new = scgim.tl.sample_cells(adata, perturbations=asked, n=n, rng=r)
            seconds.append(time.perf_counter() - start)
        rows.append(
            {
                "perturbations": what,
                "cells": new.n_obs,
                "genes": new.n_vars,
                "edges": len(adata.uns["gim"]["graph"]),
                "median (s)": float(np.median(seconds)),
                "fastest (s)": min(seconds),
                "slowest (s)": max(seconds),
            }
        )
    return pd.DataFrame(rows)


def time_gpu(n_cells: int, n_genes: int, threads: int, seed: int, steps: int) -> pd.DataFrame | None:
    """Steps per second on the GPU and on the CPU; None where there is no GPU."""
    import pyro
    import torch

    if not torch.cuda.is_available():
        return None
    torch.set_num_threads(threads)
    data = tensors(sciplex3_like(n_cells, n_genes, seed))
    rows = []
    for device in ("cuda", "cpu"):
        with pyro.validation_enabled(False), torch.random.fork_rng():
            step = Step(data.to(device), seed, with_pyro=True)
            for i in range(10):
                step(i)
            torch.cuda.synchronize()
            start = time.perf_counter()
            for i in range(steps):
                step(i)
            torch.cuda.synchronize()
            rate = steps / (time.perf_counter() - start)
        name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads} threads"
        rows.append({"device": name, "steps per second": rate})
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False, fit=False)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--cells", type=int, default=6_000, help="training cells of the fit")
    parser.add_argument("--genes", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="fits timed")
    parser.add_argument("--steps", type=int, help="training steps at most (default: that of fit_gim)")
    parser.add_argument("--prepare-size", type=int, nargs=2, default=[22_000, 3_000], metavar=("CELLS", "GENES"))
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=40, help="rounds of the comparison with plain torch")
    args = parser.parse_args(argv)
    note = Note(
        "Speed and memory",
        data="**simulated** cells (`scgim.datasets.simulated_sciplex3`) of SciPlex3's design and size",
        argv=argv,
        script="speed.py",
        seeds=args.seeds,
    )
    note.text(
        f"Threads of torch: {args.threads}, unless a table says otherwise. Times are "
        "wall-clock times; read them with "
        "the load average above, which is that of the other work on the machine."
    )
    tables = {part: table for part in args.parts if (table := _measure(part, args, note)) is not None}
    tidy = [
        table.reset_index(names="row").melt("row", var_name="quantity").assign(part=part)
        for part, table in tables.items()
    ]
    note.write(args.out, "speed", pd.concat(tidy) if tidy else pd.DataFrame())


def _measure(part: str, args: argparse.Namespace, note: Note) -> pd.DataFrame | None:
    """Measure one part in a process of its own and write its section."""
    seed = args.seeds[0]
    if part == "fit":
        fits = [alone(time_fit, args.cells, args.genes, args.threads, s, args.steps) for s in args.seeds]
        table = pd.DataFrame(fits)
        below = '`mechanism="count"`, as `fit_gim` chooses for raw counts.'
        note.table("One fit at SciPlex3's size", table.round(2), below)
    elif part == "prepare":
        table = pd.DataFrame([alone(time_prepare, *args.prepare_size, seed)])
        note.table("prepare", table.round(2), "The first call in a process also imports torch.")
    elif part == "pyro":
        table = alone(time_pyro, args.cells, args.genes, args.threads, seed, args.rounds)
        low, middle, high = table["ratio"].quantile([0.25, 0.5, 0.75])
        row = {
            "rounds": len(table),
            "Pyro, median (ms per step)": f"{1e3 * table['pyro'].median():.1f}",
            "torch alone, median (ms per step)": f"{1e3 * table['torch'].median():.1f}",
            "ratio, median": f"{middle:.3f}",
            "quartiles of the ratio": f"{low:.3f} to {high:.3f}",
        }
        note.table(
            "Pyro's own share of a training step",
            pd.DataFrame([row]),
            "Five steps of each by turns, the order alternating; both compute the same loss "
            "from the same random "
            "numbers (checked at the start).",
        )
    elif part == "sample":
        table = alone(time_sampling, args.samples, args.genes, seed)
        note.table("sample_cells, one thread", table.round(2))
    else:
        table = alone(time_gpu, args.cells, args.genes, args.threads, seed, 200)
        if table is None:
            note.text("## GPU\n\nNot run: no CUDA device here.")
        else:
            note.table("GPU", table.round(1))
    return table


if __name__ == "__main__":
    main()
