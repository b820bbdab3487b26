"""Equivalence classes of DAGs as matrices: what a class says, a graph drawn from it, and the class of a graph.

Everywhere here a class is a bool matrix (genes, genes), row = cause: a directed edge i -> j has the entry [i, j]
alone, an undirected one (its direction cannot be told from the data) has both [i, j] and [j, i].
"""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import connected_components, shortest_path

from scgim._errors import InvalidValue
from scgim._rng import RngLike, as_generator
from scgim.metrics._inputs import as_graph


def favour(cpdag: np.ndarray, truth: np.ndarray, rng: RngLike = 0) -> np.ndarray:
    """Orient the undirected edges in the method's favour, as the paper does for the metrics.

    Directed edges stay. An undirected edge gets the direction it has in `truth`; where `truth` has no such edge, a
    random one, but not one that closes a cycle which the other would not (`own`).

    Parameters
    ----------
    cpdag, truth
        bool (genes, genes), an equivalence class and the true DAG.
    rng
        Seed or generator.

    Returns
    -------
    np.ndarray
        bool (genes, genes) without undirected edges. It is acyclic where the directed edges of the class and the true
        direction of its other edges are together.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.baselines import favour
    >>> undirected = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    >>> favour(undirected, np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]])).astype(int).tolist()
    [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    """
    cpdag, truth = as_graph(cpdag, "cpdag"), as_graph(truth, "truth")
    if cpdag.shape != truth.shape:
        raise InvalidValue(f"`cpdag` has shape {cpdag.shape} and `truth` has shape {truth.shape}; they must agree.")
    generator = as_generator(rng)
    undirected = cpdag & cpdag.T
    graph = (cpdag & ~undirected) | (undirected & truth)
    unknown = np.argwhere(np.triu(undirected & ~(truth | truth.T)))
    reach = np.isfinite(shortest_path(graph, unweighted=True))  # every gene reaches itself
    for pair, flip in zip(generator.permutation(unknown), generator.random(len(unknown)) < 0.5, strict=True):
        i, j = pair[::-1] if flip else pair
        if reach[j, i]:  # a path back is there already
            i, j = j, i
        graph[i, j] = True
        reach |= np.outer(reach[:, i], reach[j])
    return graph


def draw_dag(cpdag: np.ndarray, rng: RngLike = 0) -> np.ndarray:
    """A random DAG with the skeleton of the class (genes, genes).

    Where the class has members, it is one of them: the directed edges stay, and no v-structure (two causes of one
    gene without an edge between them) is added. A learned class may have no member, from finite samples; then as
    few directed edges as a greedy search manages are turned round (none where the directed edges have no cycle),
    and after that as few v-structures as it manages are added.

    Genes are taken away one after the other as sinks, at random among the suitable ones (Dor & Tarsi 1992, A simple
    algorithm to construct a consistent extension of a partially oriented graph). Every member of the class can come
    out, but not all equally often.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.baselines.equivalence import draw_dag
    >>> int(draw_dag(np.array([[0, 1], [1, 0]])).sum())
    1
    """
    cpdag = as_graph(cpdag, "cpdag")
    generator = as_generator(rng)
    adjacent = cpdag | cpdag.T
    graph = np.zeros_like(cpdag)
    left = np.arange(len(cpdag))
    while len(left):
        part = cpdag[np.ix_(left, left)]
        sink = _sink(part, generator)
        gene = left[sink]
        left = np.delete(left, sink)
        graph[left, gene] = adjacent[left, gene]
    return graph


def essential_graph(dag: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
    """The class of a DAG (genes, genes): all DAGs with the same independences and invariances between conditions.

    Without `targets`, bool (conditions, genes), it is the Markov equivalence class. With one indicator node per
    condition as a cause of its targets, an edge is directed where this augmented graph has it in a v-structure, or
    where that follows by Meek's rules. It holds for all kinds of interventions, given an unperturbed condition.

    References
    ----------
    Meek (1995), Causal inference and causal explanation with background knowledge. Yang, Katcoff & Uhler (2018),
    Characterizing and learning equivalence classes of causal DAGs under interventions.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.baselines.equivalence import essential_graph
    >>> chain = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    >>> essential_graph(chain).astype(int).tolist()
    [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    >>> essential_graph(chain, targets=np.array([[1, 0, 0]])).astype(int).tolist()
    [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    """
    dag = as_graph(dag, "dag")
    n = len(dag)
    # Conditions with the same targets say the same.
    known = np.zeros((0, n), dtype=bool) if targets is None else np.unique(np.asarray(targets, dtype=bool), axis=0)
    if known.shape[1:] != (n,):
        raise InvalidValue(f"`targets` must be (conditions, {n} genes), got shape {known.shape}.")
    size = n + len(known)
    whole = np.zeros((size, size), dtype=bool)
    whole[:n, :n] = dag
    whole[n:, :n] = known
    adjacent = whole | whole.T
    apart = ~adjacent & ~np.eye(size, dtype=bool)
    directed = np.zeros_like(whole)
    directed[n:, :n] = known
    for child in range(n):
        parents = np.flatnonzero(whole[:, child])
        collides = apart[np.ix_(parents, parents)].any(axis=1)
        directed[parents[collides], child] = True
    return _apply_meek(directed, adjacent)[:n, :n]


def _apply_meek(directed: np.ndarray, adjacent: np.ndarray) -> np.ndarray:
    """The class with these directed edges and all that follow from them (Meek's rules 1 to 3, no background)."""
    n = len(directed)
    apart = ~adjacent & ~np.eye(n, dtype=bool)
    directed = directed.copy()
    while True:
        undirected = adjacent & ~directed & ~directed.T
        # 1: a -> i - j with a, j apart; 2: i -> a -> j; 3: i - a -> j and i - b -> j with a, b apart
        new = (directed.T @ apart) | (directed @ directed)
        for i, j in np.argwhere(undirected & ~new):
            through = np.flatnonzero(undirected[i] & directed[:, j])
            new[i, j] = apart[np.ix_(through, through)].any()
        new &= undirected
        if not new.any():
            return directed | undirected
        directed |= new


def _sink(part: np.ndarray, generator: np.random.Generator) -> int:
    """The gene of this class that does least harm as a sink: directed edges turned round, then v-structures added."""
    directed = part & ~part.T
    undirected = part & part.T
    adjacent = part | part.T
    # Where directed edges form cycles: begin in a cycle that no directed edge leaves.
    _, component = connected_components(directed, directed=True, connection="strong")
    source, end = component[np.array(directed.nonzero())]
    closed = ~np.isin(component, source[source != end])
    costs = []
    for gene in range(len(part)):
        neighbours = np.flatnonzero(adjacent[gene])
        others = np.flatnonzero(undirected[gene])
        apart = ~adjacent[np.ix_(others, neighbours)]
        apart &= others[:, None] != neighbours[None]
        costs.append((not closed[gene], int(directed[gene].sum()), int(apart.sum()), -int(directed[:, gene].sum())))
    best = min(costs)
    return int(generator.choice([gene for gene, cost in enumerate(costs) if cost == best]))
