"""Tasks x methods x seeds -> one tidy table.

A task says what to fit and what to predict, with the truth; a method follows the protocol of
`scgim.baselines`; :func:`run` fits every method on every task in processes of their own and keeps what is done.
"""

from __future__ import annotations

from ._run import failures, notes, results, run, stored, summarise
from ._tune import ValidationTask, tune
from .experiments import run_experiment
from .experiments import tune_methods as tune_methods
from .sciplex3 import Extract, SciPlex3Experiment, SciPlex3Task, extract
from .scores import effect_curves, score
from .synthetic import SyntheticExperiment, SyntheticTask
from .tasks import Cell, Method, Query, Task, TaskSpec

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
    "run_experiment",
    "score",
    "stored",
    "summarise",
    "tune",
]
