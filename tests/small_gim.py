"""A small GIM with parameters that are not special, and a batch of cells for it."""

from __future__ import annotations

from typing import Any

import torch

from scgim.model import GIM, AmortizedInterventions, Batch, LatentGraph, Mechanisms, Priors, n_effects

N_GENES, N_PARTS, N_CELLS = 5, 3, 24
#: control, each part alone, and the first two together
MEMBERSHIP = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])


def make_gim(kind: str = "mlp", intervention: str = "hard", seed: int = 0, n: int = N_GENES) -> GIM:
    """Every parameter is drawn: nothing sits at an initial zero."""
    generator = torch.Generator().manual_seed(seed)
    mechanisms = Mechanisms(n, kind, hidden=4, generator=generator)
    nets = AmortizedInterventions(3, n, n_effects(intervention, kind == "ziln"), (8, 8), generator=generator)
    gim = GIM(LatentGraph(n, generator=generator), mechanisms, nets, intervention, Priors(effect_noise=0.1))
    with torch.no_grad():
        for parameter in (*mechanisms.parameters(), *nets.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    mechanisms.center.copy_(torch.randn(n, generator=generator))
    mechanisms.scale.copy_(0.5 + torch.rand(n, generator=generator))
    mechanisms.response_center.copy_(torch.randn(n, generator=generator))
    mechanisms.response_scale.copy_(0.5 + torch.rand(n, generator=generator))
    return gim


def make_batch(kind: str = "mlp", seed: int = 1, n: int = N_GENES, **known: Any) -> Batch:
    """Weighted cells of five conditions, zeros among them for `ziln`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N_CELLS, n, generator=generator)
    if kind == "ziln":
        x = torch.where(torch.rand(x.shape, generator=generator) < 0.3, torch.zeros_like(x), x.exp())
    return Batch(
        x=x,
        condition=torch.arange(N_CELLS) % len(MEMBERSHIP),
        weight=0.5 + torch.rand(N_CELLS, generator=generator),
        features=torch.randn(N_PARTS, 3, generator=generator),
        membership=MEMBERSHIP,
        **known,
    )


def permuted(gim: GIM, order: torch.Tensor) -> GIM:
    """The same model with its genes in another order: new gene a is old gene order[a]."""
    out = make_gim(gim.mechanisms.kind, gim.intervention, n=len(order))
    state = {}
    for name, value in gim.state_dict().items():
        if name == "graph.z":
            value = value[:, order]
        elif name == "graph.allowed" or name in ("mechanisms.weight", "mechanisms.weight_in"):
            value = value[order][:, order]
        elif name != "mechanisms.log_library" and (name.startswith("mechanisms.") or value.shape[0] == len(order)):
            value = value[order]
        state[name] = value
    out.load_state_dict(state)
    return out


def permuted_batch(batch: Batch, order: torch.Tensor) -> Batch:
    """The same cells with their genes in another order."""
    return Batch(
        batch.x[:, order], batch.condition, batch.weight, batch.features, batch.membership,
        None if batch.known_targets is None else batch.known_targets[:, order],
        None if batch.known_values is None else batch.known_values[:, order],
    )  # fmt: skip
