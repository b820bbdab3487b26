"""Optimisation: from tensors to a fitted GIM."""

from .config import (
    PRESETS,
    AcyclicitySettings,
    FitConfig,
    ModelSettings,
    OptimisationSettings,
    PriorSettings,
    SearchSettings,
    make_config,
)
from .data import BalancedSampler, TrainingData
from .fit import HISTORY, FitResult, fit, held_out_loss
from .refit import refit_effects
from .schedule import AugmentedLagrangian, half_cosine
from .scores import LocalScores
from .search import SearchResult, search_structure
from .start import build, condition_moments, find_structure, new_model, resolve_sparsity, start_from_search
from .suited import AUTOMATIC, check_suited

__all__ = [
    "AUTOMATIC",
    "HISTORY",
    "PRESETS",
    "AcyclicitySettings",
    "AugmentedLagrangian",
    "BalancedSampler",
    "FitConfig",
    "FitResult",
    "LocalScores",
    "ModelSettings",
    "OptimisationSettings",
    "PriorSettings",
    "SearchResult",
    "SearchSettings",
    "TrainingData",
    "build",
    "check_suited",
    "condition_moments",
    "find_structure",
    "fit",
    "half_cosine",
    "held_out_loss",
    "make_config",
    "new_model",
    "refit_effects",
    "resolve_sparsity",
    "search_structure",
    "start_from_search",
]
