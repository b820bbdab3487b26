"""The generative intervention model: perturbation features -> distribution over atomic interventions.

`t ~ Bernoulli(sigmoid(g(features)))` says which mechanisms are replaced, `psi ~ N(h(features), sigma_psi^2)`
by what (model.md, steps 3 and 4). `FreeInterventions` is the same without amortisation (BaCaDI*).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from scgim._errors import InvalidValue

InterventionKind = Literal["hard", "shift"]
INTERVENTIONS = ("hard", "shift")


def n_effects(intervention: str, ziln: bool) -> int:
    """How many numbers describe a replaced mechanism.

    hard: (mean, log scale), for the zero-inflated log-normal (mean, log scale, zero logit); shift: (shift of the
    mean), for the zero-inflated log-normal (shift of the mean, shift of the zero logit; `own`: a gene that is silent in
    most cells is switched on by fewer zeros). All relative to the gene's units, see `Mechanisms`.
    """
    if intervention not in INTERVENTIONS:
        raise InvalidValue(f"intervention must be one of {', '.join(INTERVENTIONS)}; got {intervention!r}.")
    if intervention == "shift":
        return 2 if ziln else 1
    return 3 if ziln else 2


class AtomicInterventions(NamedTuple):
    """Distribution over atomic interventions, one row per part or condition.

    target_logits: (rows, genes); effects: (rows, genes, k), the mean of psi.
    """

    target_logits: Tensor
    effects: Tensor

    @property
    def target_prob(self) -> Tensor:
        return torch.sigmoid(self.target_logits)


class FeatureNetwork(nn.Module):
    """MLP with tanh units plus a linear map (`own`; it carries over to new targets).

    Glorot weights; the last layer and the linear map start at zero, so that every part starts alike.
    """

    def __init__(
        self,
        n_features: int,
        n_out: int,
        hidden: Sequence[int] = (100, 100),
        linear_skip: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = [n_features, *hidden, n_out]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layer = nn.Linear(before, after)
            nn.init.xavier_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.Tanh()]
        self.net = nn.Sequential(*layers[:-1])
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        self.skip = nn.Linear(n_features, n_out, bias=False) if linear_skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)

    def forward(self, features: Tensor) -> Tensor:
        out = self.net(features)
        return out if self.skip is None else out + self.skip(features)


class AmortizedInterventions(nn.Module):
    """g and h of the paper: one network for the targets, one per effect parameter."""

    def __init__(
        self,
        n_features: int,
        n_genes: int,
        n_effect: int,
        hidden: Sequence[int] = (100, 100),
        linear_skip: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.target_net = FeatureNetwork(n_features, n_genes, hidden, linear_skip, generator)
        self.effect_net = nn.ModuleList(
            FeatureNetwork(n_features, n_genes, hidden, linear_skip, generator) for _ in range(n_effect)
        )

    def forward(self, features: Tensor) -> AtomicInterventions:
        effects = torch.stack([net(features) for net in self.effect_net], dim=-1)
        return AtomicInterventions(self.target_net(features), effects)

    def log_prior(self, scale: float, target_scale: float | None = None) -> Tensor:
        """`log N(phi; 0, scale^2)` up to a constant; `target_scale` for the hidden layers of the target network.

        The linear map keeps `scale`: with hidden layers held small, what is new about a perturbation is first
        read linearly from its features, which carries over to new targets.
        """
        small = scale if target_scale is None else target_scale
        out = torch.zeros((), device=next(self.parameters()).device)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                continue  # how many targets there are in general is for `target_sparsity` to say (`own`)
            own = small if name.startswith("target_net.net") else scale
            out = out - 0.5 / own**2 * parameter.square().sum()
        return out


class FreeInterventions(nn.Module):
    """One free target logit and effect per part and gene: no features, so nothing to say of unseen parts."""

    def __init__(self, n_parts: int, n_genes: int, n_effect: int) -> None:
        super().__init__()
        self.target_logits = nn.Parameter(torch.zeros(n_parts, n_genes))
        self.effects = nn.Parameter(torch.zeros(n_parts, n_genes, n_effect))

    def forward(self, features: Tensor) -> AtomicInterventions:
        if features.shape[0] != self.target_logits.shape[0]:
            raise InvalidValue("FreeInterventions only knows the perturbations that it was fitted to.")
        return AtomicInterventions(self.target_logits, self.effects)

    @torch.no_grad()
    def start_at(self, parts: Tensor, target_logits: Tensor, effects: Tensor) -> None:
        """Set the rows `parts` (rows,) to these logits (rows, genes) and effects (rows, genes, k)."""
        self.target_logits[parts] = target_logits
        self.effects[parts] = effects

    def log_prior(self, scale: float, target_scale: float | None = None) -> Tensor:
        """`log N(effects; 0, scale^2)` up to a constant; free logits have no prior but the sparsity."""
        return -0.5 / scale**2 * self.effects.square().sum()


#: No shift makes expression more than exp(20) times as large where several are added up: sums stay finite.
_LARGEST_SHIFT = 20.0
#: Of what is left where each decrease takes its share of the rest, so much is left at least.
_LEAST_LEFT = 0.1


def combine(
    parts: AtomicInterventions, membership: Tensor, additive: bool, log_unit: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Atomic interventions of conditions from those of their parts, all applied together.

    A gene is targeted if any part targets it. Shifts add up; of two hard replacements the effects are
    averaged with the target probabilities as weights (`own`).

    The zero-inflated log-normal is shifted on the scale of log x. There, two shifts that each double x would make it
    four times as large, although x is itself a log of counts; with `log_unit` they add up on the scale of x (three
    times), where the effects of two perturbations are additive as a rule (`own`). Decreases that would leave less than
    nothing leave a tenth of what is left where each takes its share of the rest. Zero logits add up.

    Parameters
    ----------
    parts
        Distribution per part.
    membership
        (conditions, parts) 0/1; the control has no part and so no intervention.
    additive
        True for shift interventions.
    log_unit
        (genes,) unit of the first effect where that is a shift of log x; None: it is one of x.

    Returns
    -------
    target_prob (conditions, genes), effects (conditions, genes, k)
    """
    log_untouched = torch.nn.functional.logsigmoid(-parts.target_logits)  # (parts, genes)
    prob = -torch.expm1(membership @ log_untouched)
    n_conditions = len(membership)
    n_parts, n_genes, k = parts.effects.shape
    if additive:
        single = membership.sum(1, keepdim=True) <= 1
        weight = torch.where(single, torch.ones_like(prob), prob.clamp_min(1e-6))
        effects = parts.effects
        if log_unit is not None:
            shift = effects[..., :1] * log_unit.unsqueeze(-1)
            change = torch.expm1(shift.clamp_max(_LARGEST_SHIFT))  # relative change of x
            effects = torch.cat([change, shift.clamp_max(0.0), effects[..., 1:]], dim=-1)
        weighted = membership @ (parts.target_prob.unsqueeze(-1) * effects).reshape(n_parts, -1)
        plain = membership @ parts.effects.reshape(n_parts, -1)
        mixed = weighted.view(n_conditions, n_genes, -1) / weight.unsqueeze(-1)
        if log_unit is not None:
            level = torch.maximum(1 + mixed[..., :1], _LEAST_LEFT * torch.exp(mixed[..., 1:2]))
            level = level.clamp_min(1e-30).log() / log_unit.unsqueeze(-1)
            mixed = torch.cat([level, mixed[..., 2:]], dim=-1)
        return prob, torch.where(single.unsqueeze(-1), plain.view(-1, n_genes, k), mixed)
    weight = parts.target_prob.detach() + 1e-6
    total = membership @ weight
    effects = membership @ (weight.unsqueeze(-1) * parts.effects).reshape(n_parts, -1)
    return prob, effects.view(-1, n_genes, k) / total.clamp_min(1e-9).unsqueeze(-1)
