"""Directed graphs as matrices (row = cause): whether they are acyclic, and an order of their genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgim._errors import InvalidValue

if TYPE_CHECKING:
    import networkx as nx


def is_acyclic(graph: np.ndarray) -> bool:
    """Whether a directed graph has no cycle; a self-loop or a pair of opposite edges is one.

    Parameters
    ----------
    graph
        (genes, genes), non-zero where row -> column.
    """
    import networkx as nx

    return nx.is_directed_acyclic_graph(_directed(graph))


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
    import networkx as nx

    try:
        return np.array(list(nx.lexicographical_topological_sort(_directed(graph))), dtype=int)
    except nx.NetworkXUnfeasible as error:
        raise InvalidValue("graph has a cycle: no topological order exists.") from error


def _directed(graph: np.ndarray) -> nx.DiGraph:
    import networkx as nx

    return nx.from_numpy_array(np.asarray(graph) != 0, create_using=nx.DiGraph)
