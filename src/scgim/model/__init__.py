"""The mathematics: latent graph, mechanisms, interventions, and the Pyro model made of them."""

from .acyclicity import break_cycles, exponential_trace, is_acyclic, spectral_radius, topological_order
from .distributions import (
    PRIOR_CELLS,
    GumbelBernoulli,
    ZeroInflatedLogNormal,
    normal_log_prob,
    outlier_log_prob,
    spread_log_prior,
    with_outliers,
    ziln_log_prob,
)
from .gim import GIM, OBJECTIVES, Batch, Priors
from .graph import LatentGraph
from .interventions import (
    INTERVENTIONS,
    AmortizedInterventions,
    AtomicInterventions,
    FeatureNetwork,
    FreeInterventions,
    combine,
    n_effects,
)
from .mechanisms import KINDS, Mechanisms, response_units
from .sampling import Action, Noise, abduct, counterfactual, draw_action, draw_noise, propagate, touched_genes

__all__ = [
    "GIM",
    "INTERVENTIONS",
    "KINDS",
    "OBJECTIVES",
    "PRIOR_CELLS",
    "Action",
    "AmortizedInterventions",
    "AtomicInterventions",
    "Batch",
    "FeatureNetwork",
    "FreeInterventions",
    "GumbelBernoulli",
    "LatentGraph",
    "Mechanisms",
    "Noise",
    "Priors",
    "ZeroInflatedLogNormal",
    "abduct",
    "break_cycles",
    "combine",
    "counterfactual",
    "draw_action",
    "draw_noise",
    "exponential_trace",
    "is_acyclic",
    "n_effects",
    "normal_log_prob",
    "outlier_log_prob",
    "propagate",
    "response_units",
    "spectral_radius",
    "spread_log_prior",
    "topological_order",
    "touched_genes",
    "with_outliers",
    "ziln_log_prob",
]
