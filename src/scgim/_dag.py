"""Directed graphs as matrices (row = cause): whether they are acyclic, and an order of their genes."""

from __future__ import annotations

import numpy as np


def is_acyclic(graph: np.ndarray) -> bool:
    """Whether a directed graph has no cycle; a self-loop or a pair of opposite edges is one.

    Parameters
    ----------
    graph
        (genes, genes), non-zero where row -> column.
    """
    return len(_causes_first(graph)) == len(graph)


def topological_order(graph: np.ndarray) -> np.ndarray:
    """Genes from causes to effects; among those that could come next, the one with the lowest index.

    Parameters
    ----------
    graph
        (genes, genes), non-zero where row -> column.

    Returns
    -------
    numpy.ndarray
        int (genes,), a permutation in which every gene comes after its parents.

    Raises
    ------
    ValueError
        If the graph has a cycle.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.simulate import topological_order
    >>> topological_order(np.array([[0, 0], [1, 0]])).tolist()
    [1, 0]
    """
    order = _causes_first(graph)
    if len(order) < len(graph):
        raise ValueError("graph has a cycle: no topological order exists.")
    return np.array(order, dtype=int)


def _causes_first(graph: np.ndarray) -> list[int]:
    """The order as far as it goes: without the genes of cycles and those behind them."""
    edges = np.asarray(graph) != 0
    waiting = edges.sum(axis=0)  # parents that have not come yet
    order: list[int] = []
    ready = np.flatnonzero(waiting == 0)
    while len(ready):
        order.append(int(ready[0]))
        waiting = waiting - edges[ready[0]]
        waiting[ready[0]] = -1
        ready = np.flatnonzero(waiting == 0)
    return order
