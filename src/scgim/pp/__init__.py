"""Preprocessing: from an AnnData with perturbation columns to conditions, features, genes and splits."""

from .conditions import label_cells
from .features import featurize
from .labels import parse_perturbations
from .prepare import prepare

__all__ = ["featurize", "label_cells", "parse_perturbations", "prepare"]
