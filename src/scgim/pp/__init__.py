"""Preprocessing: from an AnnData with perturbation columns to conditions, features, genes and splits."""

from ._encodings import featurize
from ._labels import parse_perturbations
from ._prepare import prepare
from ._steps import conditions, features, hold_out, select_markers

__all__ = ["conditions", "features", "featurize", "hold_out", "parse_perturbations", "prepare", "select_markers"]
