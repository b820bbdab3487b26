"""Graphs (genes, genes), row = cause, column = effect, and targets (conditions, genes) without the control."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scgim import _dag
from scgim._errors import InvalidValue
from scgim._optional import optional_import

from ._inputs import as_binary, as_binary_pair, as_graph, as_graph_pair, as_scores, check_same_shape, check_square


def is_acyclic(graph: ArrayLike) -> bool:
    """Whether a directed graph has no cycle; a self-loop or a pair of opposite edges is one.

    Parameters
    ----------
    graph
        Adjacency matrix (genes, genes) of 0 and 1.

    Examples
    --------
    >>> from scgim.metrics import is_acyclic
    >>> is_acyclic([[0, 1], [0, 0]]), is_acyclic([[0, 1], [1, 0]])
    (True, False)
    """
    adjacency = as_binary(graph, "graph")
    check_square(adjacency, "graph")
    return _dag.is_acyclic(adjacency)


def sid(true: ArrayLike, predicted: ArrayLike) -> float:
    """Structural intervention distance.

    Estimator: the number of ordered pairs (i, j), i != j, for which adjusting for the parents that
    `predicted` gives i would infer a wrong effect of intervening on i upon j if `true` is the causal graph
    (exact, between two DAGs; computed by gadjid; not divided by the number of pairs). Not
    symmetric; at most ``genes * (genes - 1)``.

    Parameters
    ----------
    true, predicted
        Adjacency matrices (genes, genes) of DAGs, ``graph[i, j] = 1`` for i -> j.

    Raises
    ------
    ValueError
        Also where one of the graphs has a cycle: SID is not defined there.
    ImportError
        If gadjid is not installed (``pip install "scgim[metrics]"``).

    References
    ----------
    Peters & Bühlmann (2015), Structural intervention distance for evaluating causal graphs, Neural
    Computation. Henckel, Würtzen & Weichwald (2024), Adjustment identification distance (the implementation).

    Examples
    --------
    >>> from scgim.metrics import sid
    >>> sid([[0, 1], [0, 0]], [[0, 0], [1, 0]])     # a reversed edge: both effects are wrong
    2.0
    """
    true, predicted = as_graph_pair(true, predicted)
    for name, graph in (("true", true), ("predicted", predicted)):
        # gadjid panics on cycles, with an exception that does not derive from Exception
        if not _dag.is_acyclic(graph):
            raise InvalidValue(f"SID needs two DAGs; `{name}` has a cycle.")
    gadjid = optional_import("gadjid", extra="metrics")
    if len(true) < 2:
        return 0.0
    _, count = gadjid.sid(true.astype(np.int8), predicted.astype(np.int8), edge_direction="from row to column")
    return float(count)


def shd(true: ArrayLike, predicted: ArrayLike) -> float:
    """Structural Hamming distance; a reversed edge counts 1.

    Estimator: the number of unordered pairs of genes on which the graphs disagree (no edge, i -> j, j -> i,
    or both), at most ``genes * (genes - 1) / 2``. A missing, an extra and a reversed edge each count 1 (the other
    convention counts a reversal 2).

    Parameters
    ----------
    true, predicted
        Adjacency matrices (genes, genes), ``graph[i, j] = 1`` for i -> j; cycles are allowed.

    Examples
    --------
    >>> from scgim.metrics import shd
    >>> shd([[0, 1], [0, 0]], [[0, 0], [1, 0]])
    1.0
    """
    true, predicted = as_graph_pair(true, predicted)
    differs = true != predicted
    return float(np.triu(differs | differs.T, k=1).sum())


def edge_f1(true: ArrayLike, predicted: ArrayLike) -> float:
    """F1 score of the directed edges.

    Estimator: ``2 TP / (2 TP + FP + FN)`` over ordered pairs (i, j), i != j; a reversed edge is one false
    positive and one false negative. 1 where both graphs are empty (`own`).

    Parameters
    ----------
    true, predicted
        Adjacency matrices (genes, genes), ``graph[i, j] = 1`` for i -> j.

    Examples
    --------
    >>> from scgim.metrics import edge_f1
    >>> edge_f1([[0, 1], [0, 0]], [[0, 0], [1, 0]])
    0.0
    """
    return _f1(*as_graph_pair(true, predicted))


def skeleton_f1(true: ArrayLike, predicted: ArrayLike) -> float:
    """F1 score of the undirected edges (the skeletons).

    Estimator: as :func:`edge_f1`, over unordered pairs {i, j} that are adjacent in either direction.

    Parameters
    ----------
    true, predicted
        Adjacency matrices (genes, genes), ``graph[i, j] = 1`` for i -> j.

    Examples
    --------
    >>> from scgim.metrics import skeleton_f1
    >>> skeleton_f1([[0, 1], [0, 0]], [[0, 0], [1, 0]])
    1.0
    """
    true, predicted = as_graph_pair(true, predicted)
    return _f1(np.triu(true | true.T), np.triu(predicted | predicted.T))


def edge_auprc(true: ArrayLike, probability: ArrayLike) -> float:
    """Area under the precision-recall curve of the edge probabilities.

    Estimator: average precision (the step-wise sum of scikit-learn's `average_precision_score`, no
    interpolation) over the off-diagonal ordered pairs. A random ranking reaches the density of the true graph
    on average; NaN where `true` has no edge.

    Parameters
    ----------
    true
        Adjacency matrix (genes, genes) of 0 and 1.
    probability
        Edge probabilities, or any score that ranks edges (genes, genes); the diagonal is ignored.

    Examples
    --------
    >>> from scgim.metrics import edge_auprc
    >>> edge_auprc([[0, 1], [0, 0]], [[0, 0.9], [0.2, 0]])
    1.0
    """
    graph, scores = as_graph(true, "true"), as_scores(probability, "probability")
    check_same_shape(graph, scores)
    off_diagonal = ~np.eye(len(graph), dtype=bool)
    return _average_precision(graph[off_diagonal], scores[off_diagonal])


def target_f1(true: ArrayLike, predicted: ArrayLike) -> float:
    """F1 score of the targets, micro-averaged over conditions x genes.

    Estimator: ``2 TP / (2 TP + FP + FN)`` with counts pooled over all conditions and genes, so a condition
    weighs as much as it has targets. 1 where neither has any target (`own`). Leave control conditions out:
    they have no targets.

    Parameters
    ----------
    true, predicted
        (conditions, genes) of 0 and 1.

    Examples
    --------
    >>> from scgim.metrics import target_f1
    >>> target_f1([[1, 0], [1, 1]], [[1, 0], [0, 0]])
    0.5
    """
    return _f1(*as_binary_pair(true, predicted))


def target_f1_per_condition(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over conditions of the F1 score of their targets.

    Estimator: F1 within each condition (1 where it has neither true nor predicted targets, `own`), then the
    arithmetic mean, so that every condition weighs the same. Without a condition it is a ValueError.

    Parameters
    ----------
    true, predicted
        (conditions, genes) of 0 and 1.

    Examples
    --------
    >>> from scgim.metrics import target_f1_per_condition
    >>> target_f1_per_condition([[1, 0], [1, 1]], [[1, 0], [0, 0]])
    0.5
    """
    true, predicted = as_binary_pair(true, predicted)
    if len(true) == 0:
        raise InvalidValue("There is no condition to average over (0 rows).")
    return float(np.mean([_f1(t, p) for t, p in zip(true, predicted, strict=True)]))


def target_auprc(true: ArrayLike, probability: ArrayLike) -> float:
    """Area under the precision-recall curve of the target probabilities.

    Estimator: average precision (step-wise, no interpolation) over all conditions x genes pooled; NaN where there
    is no true target.

    Parameters
    ----------
    true
        (conditions, genes) of 0 and 1.
    probability
        Target probabilities, or any score that ranks them (conditions, genes).

    Examples
    --------
    >>> from scgim.metrics import target_auprc
    >>> target_auprc([[1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.3]])
    1.0
    """
    targets, scores = as_binary(true, "true"), as_scores(probability, "probability")
    check_same_shape(targets, scores)
    return _average_precision(targets.ravel(), scores.ravel())


def _f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of two bool arrays of one shape; 1 where both are all False."""
    hits = int((true & predicted).sum())
    claims = int(true.sum()) + int(predicted.sum())  # 2 TP + FP + FN
    return 2 * hits / claims if claims else 1.0


def _average_precision(true: np.ndarray, score: np.ndarray) -> float:
    """Average precision of flat arrays; NaN where nothing is true (scikit-learn warns and says 0)."""
    if not true.any():
        return float("nan")
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(true, score))
