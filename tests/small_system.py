"""A small linear system with a known graph and known targets, as tensors of a fit."""

from __future__ import annotations

import numpy as np
import torch

from scgim.inference import LocalScores, TrainingData

N_GENES = 5
#: g0 -> g1 -> g2 and g0 -> g3; g4 alone
GRAPH = np.zeros((N_GENES, N_GENES), dtype=bool)
GRAPH[[0, 1, 0], [1, 2, 3]] = True


def linear_data(
    seed: int = 0, n: int = 60, n_control: int = 200, valid: float = 0.1, graph: np.ndarray = GRAPH
) -> TrainingData:
    """Condition k + 1 replaces gene k by N(3, 0.5^2); condition 0 is the control."""
    rng = np.random.default_rng(seed)
    genes = len(graph)
    weight = graph * rng.choice([-1.0, 1.0], graph.shape) * rng.uniform(0.8, 1.5, graph.shape)
    condition = np.repeat(np.arange(genes + 1), [n_control] + [n] * genes)
    x = np.zeros((len(condition), genes))
    order = np.argsort(
        [len(np.flatnonzero(np.linalg.matrix_power(graph + np.eye(genes), genes)[:, j])) for j in range(genes)]
    )
    for j in order:
        own = x @ weight[:, j] + 0.5 * rng.standard_normal(len(x))
        x[:, j] = np.where(condition == j + 1, 3 + 0.5 * rng.standard_normal(len(x)), own)
    return TrainingData(
        x=torch.as_tensor(x, dtype=torch.float32),
        condition=torch.as_tensor(condition),
        valid=torch.as_tensor(rng.random(len(x)) < valid),
        features=torch.eye(genes),
        membership=torch.cat([torch.zeros(1, genes), torch.eye(genes)]),
    )


def local_scores(data: TrainingData, **changes: object) -> LocalScores:
    """Scores of all cells, linear unless changed."""
    arguments: dict = {
        "ziln": False,
        "linear": True,
        "shift": False,
        "graph_sparsity": 4.0,
        "target_sparsity": 6.0,
        "generator": torch.Generator().manual_seed(0),
    }
    return LocalScores(data.x, data.condition, data.membership.sum(1) > 0, **{**arguments, **changes})
