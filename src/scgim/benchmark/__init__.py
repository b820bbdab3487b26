"""Tasks x methods x seeds -> one tidy table, with tables and figures made from it.

A task says what to fit and what to predict, with the truth; a method follows the protocol of
`scgim.baselines`; :func:`run` fits every method on every task in processes of their own and keeps what is done.
"""

from __future__ import annotations

from .curves import effect_curves
from .experiments import SyntheticExperiment, tune_methods
from .figures import strips
from .methods import Method
from .report import summarise, wide
from .run import run
from .sciplex3 import Extract, SciPlex3Task, extract
from .sciplex3_experiment import SciPlex3Experiment, tune_sciplex3
from .sciplex3_page import run_sciplex3
from .scores import score
from .stored import Cell, failures, notes, results
from .synthetic import SyntheticTask
from .synthetic_page import run_synthetic
from .tasks import Query, Task, TaskSpec
from .tune import ValidationTask, tune

__all__ = [
    "Cell",
    "Extract",
    "Method",
    "Query",
    "SciPlex3Experiment",
    "SciPlex3Task",
    "SyntheticExperiment",
    "SyntheticTask",
    "Task",
    "TaskSpec",
    "ValidationTask",
    "effect_curves",
    "extract",
    "failures",
    "notes",
    "results",
    "run",
    "run_sciplex3",
    "run_synthetic",
    "score",
    "strips",
    "summarise",
    "tune",
    "tune_methods",
    "tune_sciplex3",
    "wide",
]
