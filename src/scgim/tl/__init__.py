"""Tools: fit a model, use it, judge it. They store in `adata` or return new objects."""

from ._counterfactual import counterfactual
from ._evaluate import evaluate
from ._evidence import target_evidence
from ._fit_gim import fit_gim
from ._sample import intervene, predict_targets, sample_cells
from ._suggest import suggest_perturbations

__all__ = [
    "counterfactual",
    "evaluate",
    "fit_gim",
    "intervene",
    "predict_targets",
    "sample_cells",
    "suggest_perturbations",
    "target_evidence",
]
