"""Metrics: arrays in, floats out; the estimator is named in every docstring.

Argument order is always truth first, prediction second. Arrays of cells are (cells, genes) on one common
scale (for single-cell data: log1p of normalised counts), graphs are (genes, genes) with row = cause and
column = effect, targets are (conditions, genes). Shapes that disagree, values that are not finite and, in graphs and
targets, entries other than 0 and 1 are a ValueError that names the argument. ``METRICS`` is the table of all that
compare a prediction with the truth.
"""

from __future__ import annotations

from .cells import (
    coverage,
    coverage_per_gene,
    e_distance,
    kde_nll,
    mean_absolute_error,
    mean_distance,
    pearson_delta,
    pearson_means,
    zero_fraction,
    zero_fraction_error,
)
from .changes import de_direction_match, de_overlap, discrimination
from .structure import (
    edge_auprc,
    edge_f1,
    is_acyclic,
    shd,
    sid,
    skeleton_f1,
    target_auprc,
    target_f1,
    target_f1_per_condition,
)
from .table import METRICS, Metric
from .transport import sinkhorn_divergence, wasserstein

__all__ = [
    "METRICS",
    "Metric",
    "coverage",
    "coverage_per_gene",
    "de_direction_match",
    "de_overlap",
    "discrimination",
    "e_distance",
    "edge_auprc",
    "edge_f1",
    "is_acyclic",
    "kde_nll",
    "mean_absolute_error",
    "mean_distance",
    "pearson_delta",
    "pearson_means",
    "shd",
    "sid",
    "sinkhorn_divergence",
    "skeleton_f1",
    "target_auprc",
    "target_f1",
    "target_f1_per_condition",
    "wasserstein",
    "zero_fraction",
    "zero_fraction_error",
]
