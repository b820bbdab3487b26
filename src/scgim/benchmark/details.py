"""What is kept of a fitted method besides its scores: enough to draw it without fitting again."""

from __future__ import annotations

from typing import Any

import numpy as np

from scgim import metrics as mt
from scgim.baselines import Baseline, CannotPredict

from .tasks import Task

#: Cells kept per query, and the most values of one (`own`): files stay small.
_CELLS, _GENES = 200, 60


def details(fitted: Baseline, task: Task, seed: int, *, n_predicted: int = 500) -> dict[str, Any]:
    """Predicted cells, per-gene calibration, edges and targets of a method on a task whose genes have names.

    Parameters
    ----------
    fitted
        The method.
    task
        Its task. Empty where it names no genes: tasks with known truth are judged by scores alone.
    seed
        Of the sampled cells: the same cells as those that :func:`score` judges.
    n_predicted
        Cells drawn per query.

    Returns
    -------
    dict
        ``queries``: label -> per gene mean_true, mean_predicted, mean_control, zero_true, zero_predicted, coverage,
        and ``cells`` (cells, genes) of the first genes; ``edges``: (cause, effect); ``targets``: condition -> genes.
    """
    if not task.genes:
        return {}
    control = task.train.x[task.train.control]
    queries = {}
    for split, asked in task.splits.items():
        for i, query in enumerate(asked):
            rng = np.random.default_rng([seed, 1, i])
            try:
                cells = np.asarray(fitted.sample(query.condition, n_predicted, rng), dtype=np.float32)
            except CannotPredict:
                continue  # `score` has said so
            queries[query.condition.label] = {
                "split": split,
                "n_true": len(query.cells),
                "mean_true": _short(query.cells.mean(0)),
                "mean_predicted": _short(cells.mean(0)),
                "mean_control": _short(control.mean(0)),
                "zero_true": _short((query.cells == 0).mean(0)),
                "zero_predicted": _short((cells == 0).mean(0)),
                "coverage": _short(mt.coverage_per_gene(query.cells, cells)),
                "cells": np.round(cells[:_CELLS, :_GENES].astype(float), 3).tolist(),
            }
    found: dict[str, Any] = {"genes": list(task.genes), "queries": queries}
    if fitted.gives_graph:
        rows = np.argwhere(np.asarray(fitted.graph()))
        found["edges"] = [[task.genes[i], task.genes[j]] for i, j in rows]
    if fitted.gives_targets:
        conditions = [task.train.condition(int(row)) for row in task.train.trained]
        called = np.asarray(fitted.targets(conditions)) > 0.5
        found["targets"] = {
            c.label: [task.genes[j] for j in np.flatnonzero(row)] for c, row in zip(conditions, called, strict=True)
        }
    return found


def _short(values: np.ndarray) -> list[float]:
    return np.round(values.astype(float), 4).tolist()
