"""Random directed acyclic graphs; everywhere `graph[i, j] = 1` means i -> j (row = cause)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from .._rng import RngLike, as_generator

GraphKind = Literal["er", "sf"]


def random_dag(n_genes: int, *, kind: GraphKind = "er", edges_per_gene: float = 2.0, rng: RngLike = 0) -> np.ndarray:
    """Draw a random DAG whose causal order is a uniform permutation of the genes.

    Parameters
    ----------
    n_genes
        Number of nodes.
    kind
        "er": Erdős-Rényi, every pair that agrees with the causal order is an edge with equal probability.
        "sf": scale-free, preferential attachment (Barabási-Albert): genes arrive in causal order and each
        draws `edges_per_gene` parents among the earlier genes, with probability proportional to their degree,
        so that hubs are regulators (own: the direction is not prescribed by the undirected model).
    edges_per_gene
        Expected number of edges divided by `n_genes` (own: 2). For "sf" it is rounded, and the first genes
        have fewer earlier genes to draw from, so that the number of edges is slightly lower.
    rng
        Seed or generator.

    Returns
    -------
    np.ndarray
        uint8 (genes, genes), row = cause, column = effect; zero diagonal.

    Raises
    ------
    ValueError
        If `kind` is unknown, `n_genes` < 2 or `edges_per_gene` is negative.

    Examples
    --------
    >>> from scgim.simulate import random_dag
    >>> random_dag(20, rng=1).shape
    (20, 20)
    """
    if kind not in get_args(GraphKind):
        raise ValueError(f"graph kind must be one of {list(get_args(GraphKind))}, got {kind!r}.")
    if n_genes < 2:
        raise ValueError(f"n_genes must be at least 2, got {n_genes}.")
    if edges_per_gene < 0:
        raise ValueError(f"edges_per_gene must not be negative, got {edges_per_gene}.")
    generator = as_generator(rng)
    draw = _erdos_renyi if kind == "er" else _scale_free
    ordered = draw(n_genes, edges_per_gene, generator)
    order = generator.permutation(n_genes)
    graph = np.zeros_like(ordered)
    graph[np.ix_(order, order)] = ordered
    return graph


def _erdos_renyi(n_genes: int, edges_per_gene: float, rng: np.random.Generator) -> np.ndarray:
    probability = min(1.0, 2.0 * edges_per_gene / (n_genes - 1))
    return np.triu(rng.random((n_genes, n_genes)) < probability, k=1).astype(np.uint8)


def _scale_free(n_genes: int, edges_per_gene: float, rng: np.random.Generator) -> np.ndarray:
    graph = np.zeros((n_genes, n_genes), dtype=np.uint8)
    n_parents = round(edges_per_gene)
    for gene in range(1, n_genes):
        # The first arrivals have no degree yet: + 1 where nothing is attached, so that they can be drawn.
        degree = (graph[:gene, :gene].sum(axis=0) + graph[:gene, :gene].sum(axis=1)).astype(float)
        degree[degree == 0] = 1.0
        parents = rng.choice(gene, size=min(n_parents, gene), replace=False, p=degree / degree.sum())
        graph[parents, gene] = 1
    return graph


def topological_order(graph: np.ndarray) -> np.ndarray:
    """Causes before effects.

    Parameters
    ----------
    graph
        (genes, genes), non-zero where row -> column.

    Returns
    -------
    np.ndarray
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
    adjacency = np.asarray(graph) != 0
    waiting = adjacency.sum(axis=0)
    ready = [int(gene) for gene in np.flatnonzero(waiting == 0)]
    order: list[int] = []
    while ready:
        gene = ready.pop(0)
        order.append(gene)
        for child in np.flatnonzero(adjacency[gene]):
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(int(child))
    if len(order) < len(adjacency):
        raise ValueError("graph has a cycle: no topological order exists.")
    return np.array(order, dtype=int)
