"""A fitted method and a task -> values of all metrics, and what figures need besides."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from scgim.baselines import Baseline, CannotPredict
from scgim.baselines.equivalence import favour
from scgim.metrics import METRICS, coverage_per_gene, is_acyclic

from .tasks import Query, Task, TaskSpec

logger = logging.getLogger("scgim")

#: Metrics of cells besides the Wasserstein distance; those of data with exact zeros only.
CELL_METRICS = ("mean_distance", "pearson_means", "pearson_delta", "kde_nll", "e_distance")
ZERO_METRICS = ("zero_fraction_error", "coverage")
#: Cells and genes kept of every prediction (`own`): files stay small.
_KEPT_CELLS, _KEPT_GENES = 200, 60


def score(
    fitted: Baseline, task: Task, seed: int, *, n_predicted: int = 500, n_transported: int = 20
) -> list[dict[str, Any]]:
    """All metrics of a fitted method on a task.

    Parameters
    ----------
    fitted, task
        The method, and its data, queries and truth.
    seed
        Of the sampled cells.
    n_predicted
        Cells drawn per query (`own`: 500). The Wasserstein distance uses as many of them as there are true ones.
    n_transported
        Queries per split for which the Wasserstein distance is computed, evenly spaced (`own`: 20; the metric
        takes a hundred times as long as all others together).

    Returns
    -------
    list of dict
        split ("graph" for what concerns the graph), metric, value (mean over the queries of the split; NaN where
        the method gives no such thing, or the metric fails) and n, the number of queries that entered. A metric that
        fails (its package is missing, say) has a ``note`` that says why; the others are computed.
    """
    rows = [{"split": "graph", **row} for row in _graph_rows(fitted, task, seed)]
    control = task.train.x[task.train.control]
    for split, queries in task.splits.items():
        of_cells = _cell_rows(fitted, queries, control, seed, n_predicted, n_transported)
        rows += [{"split": split, **row} for row in (*_target_rows(fitted, queries), *of_cells)]
    return rows


def _row(metric: str, n: int, value: float) -> dict[str, Any]:
    return {"metric": metric, "value": float(value), "n": int(n)}


def _measured(metric: str, n: int, *arrays: Any, **options: Any) -> dict[str, Any]:
    """The row of a metric. One that fails must not take the others, and the fit, with it."""
    try:
        values = [array() if callable(array) else array for array in arrays]
        return _row(metric, n, METRICS[metric](*values, **options))
    except Exception as error:
        return {**_row(metric, 0, math.nan), "note": f"{metric}: {error or type(error).__name__}"}


def _graph_rows(fitted: Baseline, task: Task, seed: int) -> Iterator[dict[str, Any]]:
    if not fitted.gives_graph:
        return
    found = np.asarray(fitted.graph()).astype(bool)
    yield _row("n_edges", 1, np.triu(found | found.T, 1).sum())
    yield _row("undirected_edges", 1, np.triu(found & found.T, 1).sum())
    if task.graph is None:
        return
    if (found & found.T).any():  # an equivalence class: as the paper does
        found = favour(found, task.graph, np.random.default_rng([seed, 3]))
    acyclic = is_acyclic(found)
    yield _row("is_dag", 1, acyclic)
    for metric in ("edge_f1", "skeleton_f1", "shd"):
        yield _measured(metric, 1, task.graph, found)
    yield _measured("sid", 1, task.graph, found) if acyclic else _row("sid", 0, math.nan)
    if hasattr(fitted, "edge_probabilities"):
        yield _measured("edge_auprc", 1, task.graph, fitted.edge_probabilities)


def _target_rows(fitted: Baseline, queries: list[Query]) -> Iterator[dict[str, Any]]:
    if not fitted.gives_targets or not queries:
        return
    try:
        probability = np.asarray(fitted.targets([query.condition for query in queries]), dtype=float)
    except CannotPredict as reason:
        logger.info("%s", reason)
        return
    called, n = probability > 0.5, len(queries)
    yield _row("targets_per_condition", n, called.sum(1).mean())
    if any(query.targets is None for query in queries):
        return
    true = np.stack([np.asarray(query.targets, dtype=bool) for query in queries])
    yield _measured("target_f1", n, true, called)
    yield _measured("target_f1_per_condition", n, true, called)
    if len(np.unique(probability)) > 2:
        yield _measured("target_auprc", n, true, probability)


def _predict(fitted: Baseline, query: Query, n: int, seed: int, i: int) -> np.ndarray | None:
    """Cells of a query, from a stream of its own: they do not depend on the other queries. None: it declines."""
    try:
        return np.asarray(fitted.sample(query.condition, n, np.random.default_rng([seed, 1, i])), dtype=np.float32)
    except CannotPredict as reason:
        logger.info("%s", reason)
        return None


def _cell_rows(
    fitted: Baseline, queries: list[Query], control: np.ndarray, seed: int, n_predicted: int, n_transported: int
) -> Iterator[dict[str, Any]]:
    names = (*CELL_METRICS, *(ZERO_METRICS if (control == 0).any() else ()))
    values: dict[str, list[dict[str, Any]]] = {name: [] for name in (*names, "wasserstein")}
    transported = set(np.linspace(0, len(queries) - 1, min(n_transported, len(queries))).astype(int).tolist())
    for i, query in enumerate(queries):
        cells = _predict(fitted, query, n_predicted, seed, i)
        if cells is None:
            continue
        if not np.isfinite(cells).all():
            label = query.condition.label
            raise FloatingPointError(f"{fitted.name} predicted values that are not finite for {label!r}.")
        for name in names:
            values[name].append(_measured(name, 1, query.cells, cells, control))
        if i in transported:
            few = cells[: len(query.cells)]
            values["wasserstein"].append(_measured("wasserstein", 1, query.cells, few, tolerance=1e-3))
    for name, own in values.items():
        if own:  # a mean over part of the queries would compare with nothing: one that failed makes it NaN
            row = _row(name, sum(row["n"] for row in own), np.mean([row["value"] for row in own]))
            noted = [row["note"] for row in own if "note" in row]
            yield {**row, "note": noted[0]} if noted else row


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
        learned, probability = np.asarray(effects(conditions)), np.asarray(fitted.targets(conditions))
    except CannotPredict as reason:  # knows the trained doses only
        logger.info("%s", reason)
        return pd.DataFrame()
    rows, genes = np.nonzero(targets)
    columns = {
        "perturbation": [conditions[row].perturbation for row in rows], "dose": [conditions[row].dose for row in rows],
        "gene": [f"gene {gene}" for gene in genes], "true": true[rows, genes], "learned": learned[rows, genes],
        "probability": probability[rows, genes],
    }  # fmt: skip
    return pd.DataFrame(columns).sort_values(["perturbation", "gene", "dose"], ignore_index=True)


def details(fitted: Baseline, task: Task, seed: int, *, n_predicted: int = 500) -> dict[str, Any]:
    """Predicted cells, per-gene calibration, edges and targets: enough to draw without fitting again.

    The cells are those that :func:`score` judges. Empty where the genes have no names: tasks with known truth are
    judged by scores alone.
    """
    if not task.genes:
        return {}
    control = task.train.x[task.train.control]
    found: dict[str, Any] = {"genes": list(task.genes), "queries": {}}
    for split, asked in task.splits.items():
        for i, query in enumerate(asked):
            cells = _predict(fitted, query, n_predicted, seed, i)
            if cells is None:
                continue
            of_genes = {
                "mean_true": query.cells.mean(0), "mean_predicted": cells.mean(0), "mean_control": control.mean(0),
                "zero_true": (query.cells == 0).mean(0), "zero_predicted": (cells == 0).mean(0),
                "coverage": coverage_per_gene(query.cells, cells),
            }  # fmt: skip
            found["queries"][query.condition.label] = {
                "split": split,
                "n_true": len(query.cells),
                **{name: np.round(values.astype(float), 4).tolist() for name, values in of_genes.items()},
                "cells": np.round(cells[:_KEPT_CELLS, :_KEPT_GENES].astype(float), 3).tolist(),
            }
    if fitted.gives_graph:
        found["edges"] = [[task.genes[i], task.genes[j]] for i, j in np.argwhere(np.asarray(fitted.graph()))]
    if fitted.gives_targets:
        conditions = [task.train.condition(int(row)) for row in task.train.trained]
        called = np.asarray(fitted.targets(conditions)) > 0.5
        found["targets"] = {
            c.label: [task.genes[j] for j in np.flatnonzero(row)] for c, row in zip(conditions, called, strict=True)
        }
    return found
