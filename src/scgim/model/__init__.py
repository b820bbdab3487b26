"""The mathematics: latent graph, mechanisms, interventions, and the Pyro model made of them."""

from scgim._dag import is_acyclic, topological_order

from .count_gim import CountGIM
from .counts import Counting
from .distributions import GumbelBernoulli, ZeroInflatedLogNormal, normal_log_prob, ziln_log_prob
from .fitted import FittedGIM, Interventions
from .gim import GIM, OBJECTIVES, Batch, Priors
from .graph import LatentGraph, break_cycles, exponential_trace, spectral_radius
from .interventions import (
    INTERVENTIONS,
    AmortizedInterventions,
    AtomicInterventions,
    FeatureNetwork,
    FreeInterventions,
    combine,
    n_effects,
)
from .mechanisms import KINDS, LATENT, Mechanisms
from .posterior import Posterior, laplace, mechanism_residuals
from .sampling import Action, Noise, abduct, counterfactual, draw_action, draw_noise, propagate, touched_genes

__all__ = [
    "GIM",
    "INTERVENTIONS",
    "KINDS",
    "LATENT",
    "OBJECTIVES",
    "Action",
    "AmortizedInterventions",
    "AtomicInterventions",
    "Batch",
    "CountGIM",
    "Counting",
    "FeatureNetwork",
    "FittedGIM",
    "FreeInterventions",
    "GumbelBernoulli",
    "Interventions",
    "LatentGraph",
    "Mechanisms",
    "Noise",
    "Posterior",
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
    "laplace",
    "mechanism_residuals",
    "n_effects",
    "normal_log_prob",
    "propagate",
    "spectral_radius",
    "topological_order",
    "touched_genes",
    "ziln_log_prob",
]
