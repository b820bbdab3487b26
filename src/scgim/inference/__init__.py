"""Optimisation: from tensors to a fitted GIM."""

from .config import PRESETS, FitConfig, make_config
from .data import BalancedSampler, TrainingData
from .fit import FitResult, fit, held_out_loss
from .lagrangian import AugmentedLagrangian, half_cosine
from .refit import refit_effects
from .scores import LocalScores
from .search import SearchResult, search_structure
from .start import build, condition_moments, find_structure, resolve_sparsity, start_from_search
from .state import pack, unpack

__all__ = [
    "PRESETS",
    "AugmentedLagrangian",
    "BalancedSampler",
    "FitConfig",
    "FitResult",
    "LocalScores",
    "SearchResult",
    "TrainingData",
    "build",
    "condition_moments",
    "find_structure",
    "fit",
    "half_cosine",
    "held_out_loss",
    "make_config",
    "pack",
    "refit_effects",
    "resolve_sparsity",
    "search_structure",
    "start_from_search",
    "unpack",
]
