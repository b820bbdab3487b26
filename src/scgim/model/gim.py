"""The generative intervention model: graph, mechanisms and interventions together.

`GIM.model` and `GIM.guide` are the one definition of the model: Pyro's ELBO of the pair is the objective
`E_{p(G|Z)} E_{p(psi|gamma)} log p(X | ...)` plus the log priors, and its Renyi bound (alpha = 0) the paper's
log-mean-exp. The targets t are summed out exactly rather than sampled (`own`): given the graph and psi the
likelihood is a product over genes, so the sum over t costs nothing and has no variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyro
import torch
from pyro.distributions import Normal
from torch import Tensor, nn

from .distributions import (
    OUTLIER_SHARE,
    GumbelBernoulli,
    normal_log_prob,
    spread_log_prior,
    with_outliers,
    ziln_log_prob,
)
from .graph import LatentGraph
from .interventions import (
    AmortizedInterventions,
    AtomicInterventions,
    FreeInterventions,
    combine,
    n_effects,
)
from .mechanisms import Mechanisms

Objective = Literal["elbo", "log_mean_exp"]
OBJECTIVES = ("elbo", "log_mean_exp")
#: Log of the widest spread of a replaced mechanism in units of the gene's, which networks may extrapolate (`own`).
_WIDEST = 2.0


@dataclass(frozen=True)
class Priors:
    """Prior strengths (model.md, "Learning"); all `own`, the paper's values are not known to us.

    graph_sparsity
        beta_G, nats per edge.
    target_sparsity
        beta_I, nats per target and condition.
    mechanism_scale
        Standard deviation of theta.
    target_scale
        Standard deviation of the hidden weights of the target network.
    intervention_scale
        sigma_phi, standard deviation of the intervention networks' weights.
    effect_noise
        sigma_psi, in units of the gene's spread.
    outlier_share
        Share of the cells that may show any value of a gene: in learning alone, predicted cells have no outliers.
    """

    graph_sparsity: float = 25.0
    target_sparsity: float = 10.0
    mechanism_scale: float = 1.0
    intervention_scale: float = 1.0
    target_scale: float = 0.1
    effect_noise: float = 0.02
    outlier_share: float = OUTLIER_SHARE


@dataclass
class Batch:
    """A weighted minibatch of cells, with the description of all conditions.

    x (cells, genes); condition (cells,) long; weight (cells,): how many cells of the data each one stands
    for; features (parts, p); membership (conditions, parts).
    known_targets (parts, genes) in {0, 1} with NaN rows for parts whose targets are learned;
    known_values (parts, genes): `do(x = value)`, NaN where there is none.
    Behind counts: counts (cells, genes), log_size (cells,), batch_code (cells,) long, index (cells,) long: which of the
    training cells they are.
    Of what is believed: edge_odds (genes, genes) and target_odds (conditions, genes), nats that each costs less.
    """

    x: Tensor
    condition: Tensor
    weight: Tensor
    features: Tensor
    membership: Tensor
    known_targets: Tensor | None = None
    known_values: Tensor | None = None
    counts: Tensor | None = None
    log_size: Tensor | None = None
    batch_code: Tensor | None = None
    index: Tensor | None = None
    edge_odds: Tensor | None = None
    target_odds: Tensor | None = None


class GIM(nn.Module):
    """Generative intervention model (Schneider et al., ICML 2025).

    Parameters
    ----------
    graph, mechanisms, interventions
        The three parts; any of them can be exchanged.
    intervention
        ``hard`` (parents cut, mechanism replaced) or ``shift`` (location shifted, parents kept).
    priors
        Strengths of the priors.
    gumbel_scale
        tau of the relaxation of the graph and of sampled targets.
    sample_targets
        Draw the targets by Gumbel-sigmoid, as the paper does; otherwise they are summed out exactly (`own`).
    """

    def __init__(
        self,
        graph: LatentGraph,
        mechanisms: Mechanisms,
        interventions: AmortizedInterventions | FreeInterventions,
        intervention: Literal["hard", "shift"] = "hard",
        priors: Priors | None = None,
        gumbel_scale: float = 1.0,
        sample_targets: bool = False,
    ) -> None:
        super().__init__()
        n_effects(intervention, mechanisms.is_ziln)  # validates the kind
        self.graph, self.mechanisms, self.interventions = graph, mechanisms, interventions
        self.intervention = intervention
        self.priors = priors or Priors()
        self.gumbel_scale = gumbel_scale
        self.sample_targets = sample_targets

    # -- interventions ------------------------------------------------------------------------------------

    def atomic(
        self, features: Tensor, known_targets: Tensor | None = None, noise: Tensor | None = None
    ) -> AtomicInterventions:
        """Distribution over atomic interventions of each part; known targets replace the learned ones.

        noise
            (parts, genes, k) standard normal, to draw psi by reparameterisation; None for its mean.
        """
        logits, effects = self.interventions(features)
        if noise is not None:
            effects = effects + self.priors.effect_noise * noise
        return AtomicInterventions(with_known(logits, known_targets), effects)

    def combine(self, parts: AtomicInterventions, membership: Tensor) -> tuple[Tensor, Tensor]:
        """target_prob (conditions, genes), effects (conditions, genes, k) of parts applied together, see `combine`."""
        unit = self.mechanisms.response_scale if self.mechanisms.is_ziln else None
        return combine(parts, membership, additive=self.intervention == "shift", log_unit=unit)

    def condition_interventions(
        self, batch: Batch, effects_noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """target_prob (conditions, genes), effects (conditions, genes, k), fixed (conditions, genes) or None.

        `fixed` marks genes that a condition holds at a known value: they carry no information on the model.
        """
        parts = self.atomic(batch.features, batch.known_targets, effects_noise)
        prob, effects = self.combine(parts, batch.membership)
        if batch.known_values is None:
            return prob, effects, None
        fixed = (batch.membership @ (~torch.isnan(batch.known_values)).to(prob)) > 0
        return torch.where(fixed, torch.ones_like(prob), prob), effects, fixed

    def replaced_parameters(self, effects: Tensor) -> dict[str, Tensor]:
        """Parameters of the replaced mechanisms in data units, from psi (..., genes, k).

        hard: ``mean``, ``log_scale`` (of log x for ziln) and for ziln ``zero_logit``; shift: ``shift``, and for ziln
        ``zero_shift``, of the zero logit.
        """
        mechanisms = self.mechanisms
        if self.intervention == "shift":
            shifts = {"shift": effects[..., 0] * mechanisms.response_scale}
            return shifts | ({"zero_shift": effects[..., 1]} if mechanisms.is_ziln else {})
        out = {
            "mean": mechanisms.response_center + mechanisms.response_scale * effects[..., 0],
            "log_scale": mechanisms.response_scale.log() + effects[..., 1].clamp_max(_WIDEST),
        }
        if mechanisms.is_ziln:
            out["zero_logit"] = mechanisms.zero_logit.detach() + effects[..., 2]
        return out

    # -- likelihood ---------------------------------------------------------------------------------------

    def gene_log_likelihoods(
        self, x: Tensor, condition: Tensor, graph: Tensor, effects: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log density of every entry under its own and under its replaced mechanism, if it is no outlier of both.

        Both are weighted by `Mechanisms.trust`.

        Parameters
        ----------
        x, condition
            (cells, genes) and (cells,).
        graph
            (graphs, genes, genes); the cells are dealt out to the graphs in equal consecutive shares.
        effects
            (conditions, genes, k)

        Returns
        -------
        own (cells, genes), replaced (cells, genes)
        """
        n_cells, n_genes = x.shape
        outlier, share = self.mechanisms.outlier_log_prob(x), self.priors.outlier_share
        location = self.mechanisms.location(x.view(graph.shape[0], -1, n_genes), graph).view(n_cells, n_genes)
        own = self.mechanisms.log_prob(x, location)
        parameters = {name: value[condition] for name, value in self.replaced_parameters(effects).items()}
        if self.intervention == "shift":
            shifted = location + parameters["shift"]
            replaced = self.mechanisms.log_prob(x, shifted, parameters.get("zero_shift"))
        else:
            density = ziln_log_prob if self.mechanisms.is_ziln else normal_log_prob
            replaced = density(x, **parameters)
        trust = self.mechanisms.trust
        return trust * with_outliers(own, outlier, share), trust * with_outliers(replaced, outlier, share)

    def cell_log_likelihood(
        self,
        batch: Batch,
        graph: Tensor,
        effects_noise: Tensor | None = None,
        objective: Objective = "elbo",
        targets: Tensor | None = None,
    ) -> Tensor:
        """Log likelihood of the (weighted) cells, targets summed out unless a sample of them is given; a scalar.

        ``elbo``: `sum_t p(t) log p(x | t)`, additive over cells. ``log_mean_exp``:
        `log sum_t p(t) p(X_k | t)`, one t shared by all cells of a condition as in the paper (in a minibatch
        the condition's sum is scaled up). `targets` (conditions, genes): one sample of them, for which the two agree.
        """
        prob, effects, fixed = self.condition_interventions(batch, effects_noise)
        own, replaced = self.gene_log_likelihoods(batch.x, batch.condition, graph, effects)
        if fixed is not None:
            replaced = torch.where(fixed[batch.condition], torch.zeros_like(replaced), replaced)
        weight = batch.weight.unsqueeze(1)
        if objective == "elbo" or targets is not None:
            prob = (prob if targets is None else targets)[batch.condition]
            return (weight * ((1 - prob) * own + prob * replaced)).sum()
        zeros = torch.zeros_like(prob)
        total_own = zeros.index_add(0, batch.condition, weight * own)  # (conditions, genes)
        total_replaced = zeros.index_add(0, batch.condition, weight * replaced)
        possible = prob.clamp(1e-12, 1 - 1e-6)
        mixed = torch.logaddexp(torch.log1p(-possible) + total_own, possible.log() + total_replaced)
        # Beyond the clamp a target is certain (known targets, held genes): no evidence may overrule it.
        mixed = torch.where(prob > 1 - 1e-6, total_replaced, mixed)
        return torch.where(prob < 1e-12, total_own, mixed).sum()

    # -- Pyro model and guide -----------------------------------------------------------------------------

    def log_prior(self, batch: Batch, target_sparsity: float) -> Tensor:
        """`log p(Z, theta) + log p(phi)` with the sparsity terms; a scalar."""
        priors = self.priors
        prior = self.graph.log_prior() + self.mechanisms.log_prior(priors.mechanism_scale)
        prior = prior + self.interventions.log_prior(priors.intervention_scale, priors.target_scale)
        prior = prior - priors.graph_sparsity * self.graph.probabilities().sum()
        if batch.edge_odds is not None:
            prior = prior + (batch.edge_odds * self.graph.probabilities()).sum()
        prob, effects, fixed = self.condition_interventions(batch)
        if self.intervention == "hard":  # a spread of its own, where it is used
            used = prob if fixed is None else prob * ~fixed
            prior = prior + (used * spread_log_prior(effects[..., 1])).sum()
        if batch.target_odds is not None:
            prior = prior + (batch.target_odds * prob).sum()
        return prior - target_sparsity * prob.sum()

    def _sample_latents(self, batch: Batch, n_graphs: int) -> tuple[Tensor, Tensor, Tensor | None]:
        n_genes = self.graph.n_genes
        k = n_effects(self.intervention, self.mechanisms.is_ziln)
        logits = self.graph.logits().masked_fill(~self.graph.allowed, -30.0).expand(n_graphs, -1, -1)
        # Model and guide draw the latents from one distribution: their densities cancel, so none is computed.
        # Graph samples are independent estimates of one expectation, no repeated evidence: no plate.
        graph = pyro.sample("graph", GumbelBernoulli(logits, self.gumbel_scale).to_event(3).mask(False))
        zero = batch.x.new_zeros(batch.features.shape[0], n_genes, k)
        noise = pyro.sample("effects_noise", Normal(zero, 1.0).to_event(3).mask(False))
        if not self.sample_targets:
            return graph * self.graph.allowed, noise, None
        prob, _, _ = self.condition_interventions(batch)
        drawn = GumbelBernoulli(torch.logit(prob.clamp(1e-6, 1 - 1e-6)), self.gumbel_scale)
        targets = pyro.sample("targets", drawn.to_event(2).mask(False))
        targets = torch.where(prob < 1e-12, torch.zeros_like(prob), targets)  # the control has none, for certain
        return graph * self.graph.allowed, noise, torch.where(prob > 1 - 1e-6, torch.ones_like(prob), targets)

    def model(
        self,
        batch: Batch,
        n_graphs: int = 1,
        objective: Objective = "elbo",
        target_sparsity: float | None = None,
    ) -> None:
        """Pyro model: latents from their distribution given (Z, phi), cells observed, priors as a factor."""
        sparsity = self.priors.target_sparsity if target_sparsity is None else target_sparsity
        graph, noise, targets = self._sample_latents(batch, n_graphs)
        pyro.factor("log_prior", self.log_prior(batch, sparsity))
        pyro.factor("cells", self.cell_log_likelihood(batch, graph, noise, objective, targets))

    def guide(
        self,
        batch: Batch,
        n_graphs: int = 1,
        objective: Objective = "elbo",
        target_sparsity: float | None = None,
    ) -> None:
        """Pyro guide: the latents' own distribution, so that the ELBO is the expected log likelihood."""
        self._sample_latents(batch, n_graphs)

    # -- results ------------------------------------------------------------------------------------------

    def hard_graph(self, threshold: float = 0.5) -> Tensor:
        """(genes, genes) bool: edges with probability above the threshold (not checked for cycles)."""
        return self.graph.probabilities() > threshold

    def zero_probability(self) -> Tensor:
        """(genes,) probability of a zero under the undisturbed mechanisms; zeros unless ziln."""
        if self.mechanisms.is_ziln:
            return torch.sigmoid(self.mechanisms.zero_logit)
        return torch.zeros_like(self.mechanisms.bias)


def with_known(logits: Tensor, known_targets: Tensor | None) -> Tensor:
    """Logits (parts, genes) of targets with those that are known, 1 or 0, NaN elsewhere, put in."""
    if known_targets is None:
        return logits
    known = torch.where(known_targets > 0.5, 30.0, -30.0).to(logits)
    return torch.where(torch.isnan(known_targets), logits, known)
