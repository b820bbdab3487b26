"""What readings of the expectation over graphs, eq. (5), do with a handful of samples: weights, spread, gradients.

The likelihood is `E_G prod_k E_I p(X_k | G, I)`. With M samples its logarithm can be that of one mean for all cells,
of one for every condition or cell (the expectation inside the product), or the logarithms can be averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from recording import Note, make_parser, mean_and_spread
from torch import Tensor

from scgim.benchmark import SyntheticTask
from scgim.inference import TrainingData, fit, make_config
from scgim.inference.data import BalancedSampler
from scgim.model import GIM, Batch
from scgim.model.distributions import GumbelBernoulli

#: Graphs inside the logarithm, as the preset had before; repeated draws.
M, DRAWS = 8, 20
#: Steps after which it is looked at.
STEPS = 600


def cell_values(gim: GIM, batch: Batch, logits: Tensor, sampled: bool) -> Tensor:
    """(M, cells) weighted log likelihood of the cells of a minibatch under M graphs (and samples of the targets)."""
    graphs = GumbelBernoulli(logits.expand(M, -1, -1), gim.gumbel_scale).rsample() * gim.graph.allowed
    prob, effects, _ = gim.condition_interventions(batch)
    values = []
    for graph in graphs:
        own, replaced = gim.gene_log_likelihoods(batch.x, batch.condition, graph.unsqueeze(0), effects)
        t = GumbelBernoulli(torch.logit(prob.clamp(1e-6, 1 - 1e-6)), gim.gumbel_scale).rsample() if sampled else prob
        t = t[batch.condition]
        values.append(((1 - t) * own + t * replaced).sum(1))
    return torch.stack(values)


def readings(values: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """Reading -> its estimate of the log likelihood of all cells, and the effective number of samples."""
    weighted = values * batch.weight
    conditions = values.new_zeros(M, len(batch.membership)).index_add(1, batch.condition, weighted)
    found = {}
    for name, parts in (
        ("all cells", weighted.sum(1, keepdim=True)),
        ("each condition", conditions),
        ("each cell", values),
    ):
        share = torch.softmax(parts, 0)
        log_mean = torch.logsumexp(parts, 0) - np.log(M)
        total = (log_mean * batch.weight).sum() if name == "each cell" else log_mean.sum()
        found[name] = total, (1 / share.square().sum(0)).mean()
    found["none: mean of the logs"] = weighted.sum(1).mean(), torch.tensor(float(M))
    return found


def look(mechanism: str, seed: int) -> list[dict[str, object]]:
    """All readings at one state of a fit by the paper's preset: repeated draws with one minibatch."""
    task = SyntheticTask(mechanism=mechanism, seed=seed).load()
    data = TrainingData.of(task.train)
    gim = fit(data, make_config("paper", mechanism=mechanism, max_steps=STEPS), rng=seed, progress=False).gim
    torch.manual_seed(seed)
    batch = BalancedSampler(data, 1024).draw()
    found: dict[str, list[tuple[float, float, np.ndarray]]] = {}
    for _ in range(DRAWS):
        for sampled in (True, False):
            logits = gim.graph.logits().detach().requires_grad_()
            for name, (value, effective) in readings(cell_values(gim, batch, logits, sampled), batch).items():
                (slope,) = torch.autograd.grad(value, logits, retain_graph=True)
                one = value.item(), effective.item(), slope.numpy()[gim.graph.allowed.numpy()]
                found.setdefault(f"{name}{', targets sampled' if sampled else ''}", []).append(one)
    rows = []
    for name, draws in found.items():
        slopes = np.stack([draw[2] for draw in draws])
        noise = slopes.var(0, ddof=1).sum()
        signal = max(0.0, np.square(slopes.mean(0)).sum() - noise / DRAWS)
        rows.append(
            {
                "mechanism": mechanism, "seed": seed, "one mean for": name,
                "effective samples": np.mean([draw[1] for draw in draws]),
                "spread, nats": np.std([draw[0] for draw in draws], ddof=1),
                "signal to noise": np.sqrt(signal / noise),
            }
        )  # fmt: skip
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False, fit=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101], help="one system of each family")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    note = Note(
        "The expectation over graphs with eight samples (simulated)",
        data="**simulated**: systems of 20 genes, 40 perturbations (`scgim.simulate`)",
        argv=argv,
        script="paper_objective.py",
        seeds=args.seeds,
    )
    rows = pd.DataFrame(
        [row for mechanism in ("linear", "mlp") for seed in args.seeds for row in look(mechanism, seed)]
    )
    keys = ["mechanism", "one mean for"]
    table = rows.drop(columns="seed").groupby(keys, sort=False).agg(lambda v: mean_and_spread(v, 2)).reset_index()
    note.table(
        f"After {STEPS} steps: effective samples of {M}, spread of the estimate, gradient of the edges' log odds", table
    )
    note.write(args.out, "paper_objective", rows)


if __name__ == "__main__":
    main()
