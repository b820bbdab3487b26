"""Data with known truth: random DAGs, structural mechanisms, Hill interventions, counts."""

from __future__ import annotations

from scgim._dag import topological_order

from ._synthetic import sample_truth, synthetic, truth_at
from .counts import count_cells, draw_depths
from .interventions import FeatureMap, draw_hill_parameters, draw_target_sets, hill
from .systems import ancestral_sample, draw_mechanisms, random_dag

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
