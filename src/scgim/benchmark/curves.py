"""Dose responses of atomic interventions: learned against true."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from scgim.baselines import Baseline, CannotPredict

from .tasks import TaskSpec

logger = logging.getLogger("scgim")


def effect_curves(fitted: Baseline, spec: TaskSpec) -> pd.DataFrame:
    """Learned and true effects of the trained perturbations along a grid of doses.

    Parameters
    ----------
    fitted
        A method with ``effects(conditions)`` (conditions, genes) in the units of the data, and ``targets``.
    spec
        A task with ``curves()``, such as :class:`scgim.benchmark.SyntheticTask`.

    Returns
    -------
    pandas.DataFrame
        One row per perturbation, true target and dose: perturbation, dose, gene, true, learned, probability (of
        the gene being a target). Empty where one of the two gives no curves.
    """
    curves, effects = getattr(spec, "curves", None), getattr(fitted, "effects", None)
    if curves is None or effects is None:
        return pd.DataFrame()
    conditions, targets, true = curves()
    try:
        learned, probability = effects(conditions), np.asarray(fitted.targets(conditions))
    except CannotPredict as reason:  # knows the trained doses only
        logger.info("%s", reason)
        return pd.DataFrame()
    rows, genes = np.nonzero(targets)
    table = pd.DataFrame(
        {
            "perturbation": [conditions[row].perturbation for row in rows],
            "dose": [conditions[row].dose for row in rows],
            "gene": [f"gene {gene}" for gene in genes],
            "true": true[rows, genes],
            "learned": np.asarray(learned)[rows, genes],
            "probability": probability[rows, genes],
        }
    )
    return table.sort_values(["perturbation", "gene", "dose"], ignore_index=True)
