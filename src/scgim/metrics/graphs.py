"""Distances between causal graphs: (genes, genes) arrays, row = cause, column = effect."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scgim._optional import optional_import

from ._inputs import as_binary, as_graph, as_graph_pair, as_scores, check_same_shape
from .targets import average_precision, f1


def is_acyclic(graph: ArrayLike) -> bool:
    """Whether a directed graph has no cycle.

    Parameters
    ----------
    graph
        Adjacency matrix (genes, genes) of 0 and 1.

    Returns
    -------
    bool
        False for any cycle, including a pair of opposite edges and self-loops.

    Raises
    ------
    ValueError
        If `graph` is not square or holds anything but 0 and 1.

    Examples
    --------
    >>> from scgim.metrics import is_acyclic
    >>> is_acyclic([[0, 1], [0, 0]]), is_acyclic([[0, 1], [1, 0]])
    (True, False)
    """
    adjacency = as_binary(graph, "graph")
    if adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(f"`graph` must be square (genes, genes), got shape {adjacency.shape}.")
    remaining = np.ones(len(adjacency), dtype=bool)
    while remaining.any():
        roots = remaining & ~adjacency[remaining].any(axis=0)  # no parent left
        if not roots.any():
            return False
        remaining &= ~roots
    return True


def sid(true: ArrayLike, predicted: ArrayLike) -> float:
    """Structural intervention distance.

    Estimator: the number of ordered pairs (i, j), i != j, for which adjusting for the parents that
    `predicted` gives i would infer a wrong effect of intervening on i upon j if `true` is the causal graph
    (exact, between two DAGs; computed by gadjid). Not symmetric. Between 0 and ``genes * (genes - 1)``.

    Parameters
    ----------
    true, predicted
        Adjacency matrices (genes, genes) of DAGs, ``graph[i, j] = 1`` for i -> j.

    Returns
    -------
    float
        The count (not divided by the number of pairs).

    Raises
    ------
    ValueError
        If shapes disagree, an entry is not 0 or 1, or one of the graphs has a cycle: SID is not defined
        there.
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
        if not is_acyclic(graph):
            raise ValueError(f"SID needs two DAGs; `{name}` has a cycle.")
    gadjid = optional_import("gadjid", extra="metrics")
    if len(true) < 2:
        return 0.0
    _, count = gadjid.sid(true.astype(np.int8), predicted.astype(np.int8), edge_direction="from row to column")
    return float(count)


def shd(true: ArrayLike, predicted: ArrayLike) -> float:
    """Structural Hamming distance; a reversed edge counts 1.

    Estimator: the number of unordered pairs of genes on which the graphs disagree (no edge, i -> j, j -> i,
    or both). A missing, an extra and a reversed edge each count 1. (The other convention counts a reversal
    2.)

    Parameters
    ----------
    true, predicted
        Adjacency matrices (genes, genes), ``graph[i, j] = 1`` for i -> j; cycles are allowed.

    Returns
    -------
    float
        Between 0 and ``genes * (genes - 1) / 2``.

    Raises
    ------
    ValueError
        If shapes disagree, an entry is not 0 or 1, or the diagonal is not zero.

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

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If shapes disagree, an entry is not 0 or 1, or the diagonal is not zero.

    Examples
    --------
    >>> from scgim.metrics import edge_f1
    >>> edge_f1([[0, 1], [0, 0]], [[0, 0], [1, 0]])
    0.0
    """
    true, predicted = as_graph_pair(true, predicted)
    return f1(true, predicted)


def skeleton_f1(true: ArrayLike, predicted: ArrayLike) -> float:
    """F1 score of the undirected edges (the skeletons).

    Estimator: as :func:`edge_f1`, over unordered pairs {i, j} that are adjacent in either direction.

    Parameters
    ----------
    true, predicted
        Adjacency matrices (genes, genes), ``graph[i, j] = 1`` for i -> j.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If shapes disagree, an entry is not 0 or 1, or the diagonal is not zero.

    Examples
    --------
    >>> from scgim.metrics import skeleton_f1
    >>> skeleton_f1([[0, 1], [0, 0]], [[0, 0], [1, 0]])
    1.0
    """
    true, predicted = as_graph_pair(true, predicted)
    return f1(np.triu(true | true.T), np.triu(predicted | predicted.T))


def edge_auprc(true: ArrayLike, probability: ArrayLike) -> float:
    """Area under the precision-recall curve of the edge probabilities.

    Estimator: average precision (the step-wise sum of scikit-learn's `average_precision_score`, no
    interpolation) over the off-diagonal ordered pairs. A random ranking reaches the density of the true graph
    on average.

    Parameters
    ----------
    true
        Adjacency matrix (genes, genes) of 0 and 1.
    probability
        Edge probabilities, or any score that ranks edges (genes, genes); the diagonal is ignored.

    Returns
    -------
    float
        In [0, 1]; NaN where `true` has no edge.

    Raises
    ------
    ValueError
        If shapes disagree or a score is not finite.

    Examples
    --------
    >>> from scgim.metrics import edge_auprc
    >>> edge_auprc([[0, 1], [0, 0]], [[0, 0.9], [0.2, 0]])
    1.0
    """
    graph = as_graph(true, "true")
    scores = as_scores(probability, "probability", square=True)
    check_same_shape(graph, scores)
    off_diagonal = ~np.eye(len(graph), dtype=bool)
    return average_precision(graph[off_diagonal], scores[off_diagonal])
