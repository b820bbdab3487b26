"""A fitted method and a task -> values of all metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
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
        the method gives no such thing, or the metric fails) and n, the number of queries that entered. A metric that
        fails (its package is missing, say) has a ``note`` that says why; the others are computed.
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


def _measured(metric: str, compute: Callable[[], float], n: int) -> dict[str, Any]:
    """The row of a metric. One that fails must not take the others, and the fit, with it."""
    try:
        return _row(metric, compute(), n)
    except Exception as error:
        return {**_row(metric, math.nan, 0), "note": f"{metric}: {error or type(error).__name__}"}


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
    true, acyclic = task.graph, mt.is_acyclic(found)
    yield _row("is_dag", float(acyclic), 1)
    yield _measured("edge_f1", lambda: mt.edge_f1(true, found), 1)
    yield _measured("skeleton_f1", lambda: mt.skeleton_f1(true, found), 1)
    yield _measured("shd", lambda: mt.shd(true, found), 1)
    yield _measured("sid", lambda: mt.sid(true, found), 1) if acyclic else _row("sid", math.nan, 0)
    probabilities = getattr(fitted, "edge_probabilities", None)
    if probabilities is not None:
        yield _measured("edge_auprc", lambda: mt.edge_auprc(true, probabilities()), 1)


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
    yield _measured("target_f1", lambda: mt.target_f1(true, called), n)
    yield _measured("target_f1_per_condition", lambda: mt.target_f1_per_condition(true, called), n)
    if len(np.unique(probability)) > 2:
        yield _measured("target_auprc", lambda: mt.target_auprc(true, probability), n)


def _cell_rows(
    fitted: Baseline, queries: list[Query], control: np.ndarray, seed: int, n_predicted: int, n_transported: int
) -> Iterator[dict[str, Any]]:
    chosen = {**_CELL_METRICS, **(_CALIBRATION if (control == 0).any() else {})}
    values: dict[str, list[dict[str, Any]]] = {name: [] for name in (*chosen, "wasserstein")}
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
            values[name].append(_measured(name, partial(metric, query.cells, cells, control), 1))
        if i in transported:
            transport = partial(mt.wasserstein, query.cells, cells[: len(query.cells)], tolerance=1e-3)
            values["wasserstein"].append(_measured("wasserstein", transport, 1))
    for name, own in values.items():
        if own:  # a mean over part of the queries would compare with nothing: one that failed makes it NaN
            notes = [row["note"] for row in own if "note" in row]
            row = _row(name, float(np.mean([row["value"] for row in own])), sum(row["n"] for row in own))
            yield {**row, "note": notes[0]} if notes else row
