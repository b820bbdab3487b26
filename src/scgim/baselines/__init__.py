"""Baselines: simple predictors under one protocol, so that a model is compared with something.

Every baseline has ``fit(data, rng)`` and ``sample(condition, n, rng)``, and says by flags what it can do
(`can_predict_unseen`, `gives_graph`, `gives_targets`). What it cannot do raises :class:`CannotPredict` with
the reason: never a made-up number. :func:`fit` takes a prepared AnnData.
"""

from __future__ import annotations

from .condot import CondOT
from .equivalence import favour
from .gim import BaCaDI, GIMMethod
from .gnies import GnIES
from .jci_pc import JCIPC, JCIPCContext
from .limits import TimeLimitExceeded, fit_within
from .prepared import fit, prepared_condition, training_data
from .protocol import Baseline, CannotPredict, Choice, Condition, Range, TrainingData
from .shift import Additive, Control, MeanShift, NextLowerDose, Ridge
from .ut_igsp import UTIGSP

__all__ = [
    "JCIPC",
    "UTIGSP",
    "Additive",
    "BaCaDI",
    "Baseline",
    "CannotPredict",
    "Choice",
    "CondOT",
    "Condition",
    "Control",
    "GIMMethod",
    "GnIES",
    "JCIPCContext",
    "MeanShift",
    "NextLowerDose",
    "Range",
    "Ridge",
    "TimeLimitExceeded",
    "TrainingData",
    "favour",
    "fit",
    "fit_within",
    "prepared_condition",
    "training_data",
]
