"""Tools: fit a model, use it, judge it. They store in `adata` or return new objects."""

from .counterfactual import counterfactual
from .evaluate import evaluate
from .evidence import target_evidence
from .fit_gim import fit_gim
from .sample import intervene, predict_targets, sample_cells

__all__ = [
    "counterfactual",
    "evaluate",
    "fit_gim",
    "intervene",
    "predict_targets",
    "sample_cells",
    "target_evidence",
]
