"""Data with known truth: random DAGs, structural mechanisms, Hill interventions, counts."""

from __future__ import annotations

from .counts import count_cells, draw_depths
from .features import FeatureMap
from .graphs import random_dag, topological_order
from .interventions import draw_hill_parameters, draw_target_sets, hill
from .mechanisms import ancestral_sample, draw_mechanisms
from .synthetic import synthetic
from .truth import sample_truth, truth_at

__all__ = [
    "FeatureMap",
    "ancestral_sample",
    "count_cells",
    "draw_depths",
    "draw_hill_parameters",
    "draw_mechanisms",
    "draw_target_sets",
    "hill",
    "random_dag",
    "sample_truth",
    "synthetic",
    "topological_order",
    "truth_at",
]
