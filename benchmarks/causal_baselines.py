"""Causal baselines on easy linear systems with known truth: do they reach what is known to be reachable?

    python benchmarks/causal_baselines.py --seeds 0:10

The systems: 10 genes, Erdős-Rényi graphs with one edge per gene on average, linear mechanisms, hard interventions on
one or two targets, one condition for each of 20 target sets at a high dose, 200 cells each and 2,000 control cells.
Every method learns from the same cells, with the options given below. A method whose module or package is missing is
left out and named.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from recording import Note, make_parser, mean_and_spread


@dataclass(frozen=True)
class Compared:
    """A method of the table: its class as "module:class", options, and the mean scores that it has to reach."""

    title: str
    place: str
    options: Mapping[str, Any] = field(default_factory=dict)
    goals: Mapping[str, float] = field(default_factory=dict)
    #: Also measured on the large design.
    large: bool = False

    @property
    def cls(self) -> Any:
        """The class; ImportError where the module or a package that it needs is missing."""
        module, name = self.place.split(":")
        return getattr(importlib.import_module(f"scgim.baselines.{module}"), name)


#: Options that were tuned must have been tuned on other systems than those of the table.
METHODS = [
    Compared("UT-IGSP", "ut_igsp:UTIGSP", goals={"edge_f1": 0.95, "target_f1": 0.95}, large=True),
    Compared("UT-IGSP, turns of covered edges alone", "ut_igsp:UTIGSP", options={"insertions": False}, large=True),
    Compared("GnIES", "gnies:GnIES", goals={"skeleton_f1": 0.85}, large=True),
    Compared("GnIES, tuned", "gnies:GnIES", options={"lmbda": 100.0}),  # on seeds 1000 to 1009, of None, 30 and 100
    Compared("GnIES, the package's search", "gnies:GnIES", options={"approach": "rank"}, large=True),
    Compared("JCI-PC", "jci_pc:JCIPC", goals={"edge_f1": 0.9}, large=True),
    Compared("JCI-PC (Context)", "jci_pc:JCIPCContext", large=True),
]
#: The training design of the synthetic benchmark (`SyntheticTask`).
LARGE = {
    "genes": 20, "edges_per_gene": 2.0, "perturbations": 40, "cells": 50, "controls": 800, "doses": (0.5, 1.0, 1.5, 2.0)
}  # fmt: skip
#: Columns of the table and what they are called there.
METRICS = {
    "edge_f1": "Edge-F1, favoured",
    "skeleton_f1": "skeleton F1",
    "target_f1": "Target-F1",
    "seconds": "seconds",
}


def arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__.split("\n")[0], data=False, fit=False)
    parser.add_argument("--seeds", type=seeds, default=list(range(10)), help="systems: 0:10, or 0,3,4")
    parser.add_argument("--methods", nargs="+", help="modules of methods, such as ut_igsp (default: all)")
    parser.add_argument("--genes", type=int, default=10)
    parser.add_argument("--edges-per-gene", type=float, default=1.0)
    parser.add_argument("--perturbations", type=int, default=20, help="target sets, one condition each")
    parser.add_argument("--cells", type=int, default=200, help="cells per condition")
    parser.add_argument("--controls", type=int, default=2_000)
    parser.add_argument("--dose", type=float, default=2.0)
    parser.add_argument("--large-seeds", type=seeds, default=[0, 1, 2], help="systems of the large design")
    return parser


def seeds(text: str) -> list[int]:
    if ":" in text:
        first, last = text.split(":")
        return list(range(int(first), int(last)))
    return [int(seed) for seed in text.split(",") if seed]


def simulate(
    seed: int, *, genes: int = 10, edges_per_gene: float = 1.0, perturbations: int = 20, cells: int = 200,
    controls: int = 2_000, doses: Sequence[float] = (2.0,),
) -> tuple[Any, np.ndarray, np.ndarray]:  # fmt: skip
    """Training data, the true graph (genes, genes), and the true targets (conditions, genes)."""
    import scgim

    adata = scgim.simulate.synthetic(
        n_genes=genes,
        edges_per_gene=edges_per_gene,
        mechanism="linear",
        intervention="hard",
        n_perturbations=perturbations,
        doses=doses,
        cells_per_condition=cells,
        n_control=controls,
        n_features=min(20, 2 * genes),
        n_new_targets=0,
        new_doses=(),
        rng=seed,
    )
    truth = adata.uns["truth"]
    row = {label: i for i, label in enumerate(truth["conditions"]["condition"])}
    codes = adata.obs["condition"].astype(str).map(row).to_numpy(dtype=int)
    data = scgim.baselines.TrainingData(adata.X, codes, truth["conditions"], truth["features"])
    return data, adata.varp["true_graph"].toarray() > 0, truth["targets"].astype(bool)


def run_one(compared: Compared, system: tuple[Any, np.ndarray, np.ndarray], seed: int) -> dict[str, Any]:
    """Fit one method to one system: a row of results; `failure` says why there are none."""
    from scgim import metrics
    from scgim.baselines import CannotPredict
    from scgim.baselines.equivalence import favour

    data, graph, targets = system
    row = {"method": compared.title, "seed": seed, "true_edges": int(graph.sum())}
    start = time.perf_counter()
    try:
        fitted = compared.cls(**compared.options).fit(data, seed)
    except (CannotPredict, ImportError) as reason:
        return {**row, "failure": str(reason)}
    row["seconds"] = time.perf_counter() - start
    learned = fitted.graph()
    oriented = favour(learned, graph, seed)
    called = fitted.targets([data.condition(int(trained)) for trained in data.trained]) > 0.5
    return {
        **row,
        "edge_f1": metrics.edge_f1(graph, oriented),
        "skeleton_f1": metrics.skeleton_f1(graph, oriented),
        "shd": metrics.shd(graph, oriented),
        "target_f1": metrics.target_f1(targets[data.trained], called),
        "edges": int(oriented.sum()),
        "undirected_edges": int((learned & learned.T).sum()) // 2,
    }


def summary(rows: pd.DataFrame, compared: Sequence[Compared]) -> pd.DataFrame:
    """Mean ± standard deviation over systems, and whether the means reach the goals."""
    table = []
    for method in compared:
        own = rows[rows["method"] == method.title].reindex(columns=list(METRICS))
        options = ", ".join(f"{name}={value}" for name, value in method.options.items())
        line = {"method": method.title, "options": options or "default"}
        line |= {name: mean_and_spread(own[metric], 3) for metric, name in METRICS.items()}
        goals = [
            f"{METRICS[metric]} >= {goal:g}: {'reached' if own[metric].mean() >= goal else 'NOT reached'}"
            for metric, goal in method.goals.items()
        ]
        table.append({**line, "systems": len(own.dropna()), "goals": "; ".join(goals) or "none"})
    return pd.DataFrame(table)


def measure(compared: Sequence[Compared], systems: Sequence[int], design: Mapping[str, Any]) -> pd.DataFrame:
    """All methods on all systems of one design."""
    rows = []
    for seed in systems:
        system = simulate(seed, **design)
        for method in compared:
            rows.append(run_one(method, system, seed))
            print({name: round(v, 3) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
    return pd.DataFrame(rows)


def listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    compared, missing = [], []
    for method in METHODS:
        if args.methods and method.place.split(":")[0] not in args.methods:
            continue
        try:
            assert method.cls
            compared.append(method)
        except ImportError as reason:
            missing.append(f"{method.title} is left out: {reason}.")
    design = {name: getattr(args, name) for name in ("genes", "edges_per_gene", "perturbations", "cells", "controls")}
    note = Note(
        "Causal baselines on easy linear systems",
        data="**simulated** (`scgim.simulate.synthetic`): "
        f"{args.genes} genes, Erdős-Rényi with {args.edges_per_gene:g} edges per gene, linear, hard interventions, "
        f"{args.perturbations} target sets of one or two genes at dose {args.dose:g} with {args.cells} cells each, "
        f"{args.controls} control cells",
        argv=argv,
        script="causal_baselines.py",
        seeds=args.seeds,
    )
    easy = measure(compared, args.seeds, {**design, "doses": (args.dose,)})
    note.text(
        "Undirected edges of a learned class count as directed the true way where the truth has them, else as directed",
        "at random (favoured). Mean ± standard deviation over systems; the goals are for the means.",
    )
    note.table("Scores", summary(easy, compared))
    parts = [easy.assign(design="easy")]
    large = [method for method in compared if method.large]
    if large and args.large_seeds:
        rows = measure(large, args.large_seeds, LARGE)
        parts.append(rows.assign(design="large"))
        note.table(
            "The large design",
            summary(rows, large).drop(columns="goals"),
            "The training design of the synthetic benchmark: 20 genes, two edges per gene, 40 target sets "
            f"at four doses (0.5 to 2) with 50 cells each, 800 control cells; seeds {listed(args.large_seeds)}.",
        )
    tidy = pd.concat(parts, ignore_index=True)
    failures = tidy["failure"].dropna().unique() if "failure" in tidy else []
    for sentence in [*missing, *failures]:
        note.text(sentence)
    note.write(args.out, "causal_baselines", tidy)


if __name__ == "__main__":
    main()
