"""A small model of counts with parameters that are known: g0 raises g1 and lowers g2, g1 raises g3; g4 stands alone."""

from __future__ import annotations

import numpy as np
import torch

from scgim.inference import FitConfig, TrainingData, new_model, resolve_sparsity
from scgim.model import FittedGIM, Interventions

N_GENES = 5
WEIGHTS = {(0, 1): 1.0, (0, 2): -0.8, (1, 3): 0.7}
#: Standard deviation of the noise; mean count of a gene in a cell of size factor 1, about.
NOISE, RATE = 0.5, 3.0


def planted(
    *, intervention: str = "hard", rate: float = RATE, dispersion: float = 0.0, noise: float = NOISE, n_batches: int = 1
) -> FittedGIM:
    """Linear mechanisms; condition k + 1 of `conditions` is one part with the one-hot feature k."""
    config = FitConfig(mechanism="count_linear", intervention=intervention, network_hidden=(4,))
    few = torch.zeros(3, N_GENES)
    data = TrainingData(few, torch.tensor([0, 0, 0]), torch.zeros(3, dtype=torch.bool), few[:0], torch.zeros(1, 0))
    gim = new_model(resolve_sparsity(config, data), N_GENES, N_GENES, n_batches=n_batches)
    graph = np.zeros((N_GENES, N_GENES), dtype=bool)
    with torch.no_grad():
        for parameter in gim.mechanisms.parameters():
            parameter.zero_()
        gim.mechanisms.log_scale.fill_(np.log(noise))
        for (cause, effect), weight in WEIGHTS.items():
            gim.mechanisms.weight[cause, effect] = weight
            graph[cause, effect] = True
        gim.graph.set_logits(torch.where(torch.as_tensor(graph), 4.0, -4.0))
        gim.counting.baseline.fill_(np.log(rate))
        gim.counting.dispersion.fill_(dispersion)
        gim.counting.lowest.fill_(-4.0)
        sizes = 0.4 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
        gim.counting.describe(sizes, torch.arange(2000) % n_batches)
    return FittedGIM(gim.eval(), graph)


def doing(**held: float) -> Interventions:
    """`do(g0 = value)` and nothing else."""
    values = torch.full((1, N_GENES), torch.nan)
    for gene, value in held.items():
        values[0, int(gene[1:])] = value
    return Interventions(torch.zeros(1, N_GENES), torch.zeros(1, N_GENES, 2), values)


def targeting(fitted: FittedGIM, effect: float, log_scale: float = 0.0, **kept: bool) -> Interventions:
    """One condition that targets these genes with a mean (or shift) of the latent expression, and a log spread."""
    shift = fitted.gim.intervention == "shift"
    prob, effects = torch.zeros(1, N_GENES), torch.zeros(1, N_GENES, 1 if shift else 2)
    effects[..., 0] = effect
    if not shift:
        effects[..., 1] = log_scale
    for gene in kept:
        prob[0, int(gene[1:])] = 1.0
    return Interventions(prob, effects)


def nothing(fitted: FittedGIM) -> Interventions:
    """The control."""
    return targeting(fitted, 0.0)
