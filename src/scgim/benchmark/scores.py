"""A fitted method and a task -> values of all metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scgim import metrics as mt
from scgim.baselines import Baseline, CannotPredict

from .tasks import Query, Task

logger = logging.getLogger("scgim")

#: Name -> value from (true, predicted, control) cells.
_CELL_METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "mean_distance": lambda true, predicted, _: mt.mean_distance(true, predicted),
    "pearson_means": lambda true, predicted, _: mt.pearson_means(true, predicted),
    "pearson_delta": mt.pearson_delta,
    "kde_nll": lambda true, predicted, _: mt.kde_nll(true, predicted),
    "e_distance": lambda true, predicted, _: mt.e_distance(true, predicted),
}
#: Of data with exact zeros only: are the predicted marginals of the right shape?
_CALIBRATION: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "zero_fraction_error": lambda true, predicted, _: mt.zero_fraction_error(true, predicted),
    "coverage": lambda true, predicted, _: float(mt.coverage_per_gene(true, predicted).mean()),
}
#: Metrics of cells, in the order of the tables.
CELL_METRICS = (*_CELL_METRICS, "wasserstein")
GRAPH_METRICS = ("edge_f1", "sid", "shd", "skeleton_f1", "edge_auprc", "n_edges")
TARGET_METRICS = ("target_f1", "target_f1_per_condition", "target_auprc", "targets_per_condition")
#: Metrics of which more is better; of the other ones of graphs and cells less is.
HIGHER_IS_BETTER = frozenset(
    ["edge_f1", "skeleton_f1", "edge_auprc", "pearson_means", "pearson_delta"]
    + [name for name in TARGET_METRICS if name != "targets_per_condition"]
)


def score(
    fitted: Baseline, task: Task, seed: int, *, n_predicted: int = 500, n_transported: int = 20
) -> list[dict[str, Any]]:
    """All metrics of a fitted method on a task.

    Parameters
    ----------
    fitted
        The method.
    task
        Its data, queries and truth.
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
        the method gives no such thing) and n, the number of queries that entered.
    """
    rows = [{"split": "graph", **row} for row in _graph_rows(fitted, task, seed)]
    control = task.train.x[task.train.control]
    for split, queries in task.splits.items():
        rows += [{"split": split, **row} for row in _target_rows(fitted, queries)]
        rows += [
            {"split": split, **row} for row in _cell_rows(fitted, queries, control, seed, n_predicted, n_transported)
        ]
    return rows


def _row(metric: str, value: float, n: int) -> dict[str, Any]:
    return {"metric": metric, "value": float(value), "n": int(n)}


def _graph_rows(fitted: Baseline, task: Task, seed: int) -> Iterator[dict[str, Any]]:
    if not fitted.gives_graph:
        return
    found = np.asarray(fitted.graph()).astype(bool)
    yield _row("n_edges", float((found | found.T)[np.triu_indices(len(found), 1)].sum()), 1)
    yield _row("undirected_edges", float((found & found.T)[np.triu_indices(len(found), 1)].sum()), 1)
    if task.graph is None:
        return
    if (found & found.T).any():  # an equivalence class: as the paper does
        from scgim.baselines.equivalence import favour

        found = favour(found, task.graph, np.random.default_rng([seed, 3]))
    acyclic = mt.is_acyclic(found)
    yield _row("is_dag", float(acyclic), 1)
    yield _row("edge_f1", mt.edge_f1(task.graph, found), 1)
    yield _row("skeleton_f1", mt.skeleton_f1(task.graph, found), 1)
    yield _row("shd", mt.shd(task.graph, found), 1)
    yield _row("sid", mt.sid(task.graph, found) if acyclic else math.nan, int(acyclic))
    probabilities = getattr(fitted, "edge_probabilities", None)
    if probabilities is not None:
        yield _row("edge_auprc", mt.edge_auprc(task.graph, probabilities()), 1)


def _target_rows(fitted: Baseline, queries: list[Query]) -> Iterator[dict[str, Any]]:
    if not fitted.gives_targets or not queries:
        return
    try:
        probability = np.asarray(fitted.targets([query.condition for query in queries]), dtype=float)
    except CannotPredict as reason:
        logger.info("%s", reason)
        return
    called = probability > 0.5
    n = len(queries)
    yield _row("targets_per_condition", called.sum(1).mean(), n)
    if any(query.targets is None for query in queries):
        return
    true = np.stack([np.asarray(query.targets, dtype=bool) for query in queries])
    yield _row("target_f1", mt.target_f1(true, called), n)
    yield _row("target_f1_per_condition", mt.target_f1_per_condition(true, called), n)
    if len(np.unique(probability)) > 2:
        yield _row("target_auprc", mt.target_auprc(true, probability), n)


def _cell_rows(
    fitted: Baseline, queries: list[Query], control: np.ndarray, seed: int, n_predicted: int, n_transported: int
) -> Iterator[dict[str, Any]]:
    chosen = {**_CELL_METRICS, **(_CALIBRATION if (control == 0).any() else {})}
    values: dict[str, list[float]] = {name: [] for name in (*chosen, "wasserstein")}
    transported = set(np.linspace(0, len(queries) - 1, min(n_transported, len(queries))).astype(int).tolist())
    for i, query in enumerate(queries):
        # Every query has a stream of its own: its cells do not depend on the other queries.
        rng = np.random.default_rng([seed, 1, i])
        try:
            cells = np.asarray(fitted.sample(query.condition, n_predicted, rng), dtype=np.float32)
        except CannotPredict as reason:
            logger.info("%s", reason)
            continue
        if not np.isfinite(cells).all():
            label = query.condition.label
            raise FloatingPointError(f"{fitted.name} predicted values that are not finite for {label!r}.")
        for name, metric in chosen.items():
            values[name].append(metric(query.cells, cells, control))
        if i in transported:
            same = cells[: len(query.cells)]
            values["wasserstein"].append(mt.wasserstein(query.cells, same, tolerance=1e-3))
    for name, own in values.items():
        if own:
            yield _row(name, float(np.mean(own)), len(own))
