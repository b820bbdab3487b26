"""Metrics: arrays in, floats out; the estimator is named in every docstring.

Argument order is always truth first, prediction second. Arrays of cells are (cells, genes) on one common
scale (for single-cell data: log1p of normalised counts), graphs are (genes, genes) with row = cause and
column = effect, targets are (conditions, genes).
"""

from __future__ import annotations

from .calibration import (
    coverage,
    coverage_per_gene,
    zero_fraction,
    zero_fraction_error,
)
from .deltas import mean_distance, pearson_delta, pearson_means
from .distributions import e_distance, kde_nll
from .graphs import edge_auprc, edge_f1, is_acyclic, shd, sid, skeleton_f1
from .sinkhorn import sinkhorn_divergence, wasserstein
from .targets import target_auprc, target_f1, target_f1_per_condition

__all__ = [
    "coverage",
    "coverage_per_gene",
    "e_distance",
    "edge_auprc",
    "edge_f1",
    "is_acyclic",
    "kde_nll",
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
