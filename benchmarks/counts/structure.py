"""Graph and targets behind counts: simulated cells of known structure, at several depths.

    python benchmarks/counts/structure.py --seeds 700-709

20 genes, saturating mechanisms, 40 perturbations of 1 or 2 genes at 4 doses, 50 cells each, 800 controls; counts are
Poisson or negative binomial. For every setting and seed: F1 of edges, of the undirected skeleton, and of targets, by
``ziln`` and by ``count``. Development seeds were 100 to 107.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from scgim import metrics
from scgim.data import PerturbationData
from scgim.inference import TrainingData, fit, make_config
from scgim.simulate import ancestral_sample, count_cells, draw_mechanisms, random_dag
from scgim.simulate.interventions import atomic_interventions, draw_hill_parameters, draw_target_sets

#: Setting -> (depth, dispersion): the mean count is about three times the depth.
SETTINGS = {"mean count 3": (1.0, 0.0), "mean count 1": (0.3, 0.0), "mean count 3, dispersion 0.3": (1.0, 0.3)}
_DOSES = (0.5, 1.0, 1.5, 2.0)


def simulate(seed: int, depth: float, dispersion: float, n_genes: int = 20, n_perturbations: int = 40):
    """Counted cells (a `PerturbationData`), the true graph and the true targets (conditions, genes)."""
    rng = np.random.default_rng(seed)
    graph = random_dag(n_genes, kind="er", rng=rng)
    mechanisms = draw_mechanisms(graph, family="saturating", rng=rng)
    mechanisms["noise_variance"][:] = 0.25
    names, genes = [f"p{i}" for i in range(n_perturbations)], [f"g{i}" for i in range(n_genes)]
    sets = draw_target_sets(n_genes, n_perturbations, rng=rng)
    hill = draw_hill_parameters(names, sets, genes, maximum=(1.0, 2.5), rng=rng)
    sign = np.where(rng.random(len(hill)) < 0.5, 1, -1)
    signed = hill.assign(maximum=hill["maximum"] * sign)
    rows = [("control", "control", np.nan), *((f"{name}_{dose:g}", name, dose) for name in names for dose in _DOSES)]
    table = pd.DataFrame(rows, columns=["condition", "perturbation", "dose"])
    table["is_control"] = table["perturbation"] == "control"
    try:
        targets, effects = atomic_interventions(table.fillna({"dose": 0.0}), signed, genes)
    except ValueError:
        targets, effects = atomic_interventions(table.fillna({"dose": 0.0}), hill, genes)
    codes = np.repeat(np.arange(len(table)), [800, *([50] * (len(table) - 1))])
    z = ancestral_sample(graph, mechanisms, targets=targets[codes], effects=effects[codes], hard_variance=0.25, rng=rng)
    basal = np.exp(rng.uniform(np.log(0.5), np.log(5), n_genes)) * depth
    size = np.exp(0.4 * rng.standard_normal(len(z)))
    counts = np.asarray(count_cells(size[:, None] * basal * np.exp(z), overdispersion=dispersion, rng=rng).todense())
    features = np.column_stack([np.eye(n_perturbations)[np.repeat(np.arange(n_perturbations), 4)], np.tile(_DOSES, 40)])
    membership = np.eye(len(table))[:, 1:]
    data = PerturbationData(
        np.log1p(counts / size[:, None]), codes, table, features, membership, table["condition"][1:].tolist(),
        counts=counts, size_factor=size,
    )  # fmt: skip
    return data, graph.astype(bool), targets.astype(bool)


def measure(seed: int, setting: str, mechanism: str, **settings) -> dict[str, object]:
    """One fit; F1 of its edges, skeleton and targets."""
    data, graph, targets = simulate(seed, *SETTINGS[setting])
    start = time.process_time()
    result = fit(TrainingData.of(data), make_config(mechanism=mechanism, **settings), rng=seed, progress=False)
    tensors = TrainingData.of(data)
    prob, _ = result.gim.combine(result.gim.atomic(tensors.features), tensors.membership)
    found = prob.detach().numpy() > 0.5
    return {
        "setting": setting, "mechanism": mechanism, "seed": seed, "mean count": data.counts.mean(),
        "zeros": (data.counts == 0).mean(), "edges": metrics.edge_f1(graph, result.graph),
        "skeleton": metrics.skeleton_f1(graph, result.graph), "targets": metrics.target_f1(targets[1:], found[1:]),
        "found": int(result.graph.sum()), "true": int(graph.sum()), "seconds": time.process_time() - start,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="700-709", help="first-last; reporting seeds are 700 to 709")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--mechanisms", nargs="*", default=["ziln", "count"])
    parser.add_argument("--max-steps", type=int, default=None)
    arguments = parser.parse_args()
    first, last = map(int, arguments.seeds.split("-"))
    more = {} if arguments.max_steps is None else {"max_steps": arguments.max_steps}
    rows = []
    for setting in arguments.settings:
        for mechanism in arguments.mechanisms:
            for seed in range(first, last + 1):
                rows.append(measure(seed, setting, mechanism, **more))
                print(pd.DataFrame(rows[-1:]).round(3).to_string(header=False, index=False), flush=True)
    table = pd.DataFrame(rows)
    columns = ["edges", "skeleton", "targets", "seconds"]
    grouped = table.groupby(["setting", "mechanism"], sort=False)[columns]
    print(grouped.mean().round(3).to_string())
    print("standard errors")
    print(grouped.sem().round(3).to_string())


if __name__ == "__main__":
    main()
