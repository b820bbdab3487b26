"""Preprocessing: from an AnnData with perturbation columns to conditions, features, genes and splits."""

from .features import featurize
from .labels import parse_perturbations
from .prepare import prepare
from .steps import conditions, features, hold_out, select_markers

__all__ = [
    "conditions",
    "features",
    "featurize",
    "hold_out",
    "parse_perturbations",
    "prepare",
    "select_markers",
]
