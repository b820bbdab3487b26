"""Layered drawing of a DAG, after Sugiyama, Tagawa & Toda (1981): every edge points to the right.

Layers and heights are linear programs, as in Gansner et al. (1993); the order within a layer follows the
median of the neighbours. A source's edges share one trunk, which leaves it and branches at its targets.
Lengths are in points.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import pairwise
from typing import NamedTuple

import networkx as nx
import numpy as np
from scipy import sparse
from scipy.optimize import linprog

_HEIGHT = 1.6  # of a gene's box, in multiples of the font size
_PORT = 0.46  # between the arrows that enter a box
_STARTS, _SWEEPS = 8, 6


class Layout(NamedTuple):
    """Where nodes and edges go; the origin is the lower left corner."""

    centers: dict[str, tuple[float, float]]
    widths: dict[str, float]
    heights: dict[str, float]
    routes: dict[tuple[str, str], np.ndarray]  # cubic Bezier curves, (1 + 3 curves, 2)
    size: tuple[float, float]

    def moved(self, dx: float, dy: float) -> Layout:
        """The same drawing elsewhere; `size` stays."""
        centers = {v: (x + dx, y + dy) for v, (x, y) in self.centers.items()}
        return self._replace(centers=centers, routes={e: r + np.array([dx, dy]) for e, r in self.routes.items()})


def box_height(arrows: int, em: float) -> float:
    """Height of a box that `arrows` edges enter: hubs are taller, so that every arrowhead shows."""
    return max(_HEIGHT, _PORT * (arrows + 1)) * em


def layered(dag: nx.DiGraph, widths: Mapping[str, float], em: float) -> Layout:
    """Lay out a connected DAG from left to right.

    Parameters
    ----------
    dag
        A weakly connected directed acyclic graph.
    widths
        Width of each node's box.
    em
        Font size; heights and gaps are multiples of it.

    Returns
    -------
    Layout
        Boxes of one column share its largest width.
    """
    layer = assign_layers(dag)
    proper = _with_trunks(dag, layer)
    columns = _order(proper)
    heights = {v: box_height(dag.in_degree(v), em) for v in dag}
    y = _elevations(proper, columns, heights, em)

    width = [max(widths[v] for v in column if isinstance(v, str)) for column in columns]
    left, x = [], 0.0
    for k, column in enumerate(columns):
        left.append(x)
        rises = [abs(y[u] - y[v]) for u in column for v in proper.successors(u)]
        x += width[k] + float(np.clip(0.25 * max(rises, default=0.0), 2.8 * em, 6 * em))
    sides = [(start, start + w) for start, w in zip(left, width, strict=True)]
    bottom = min(y[v] - heights[v] / 2 for v in dag)
    bottom = min(bottom, *y.values())
    top = max(*(y[v] + heights[v] / 2 for v in dag), *y.values())
    return Layout(
        {v: (sum(sides[layer[v]]) / 2, y[v]) for v in dag},
        {v: width[layer[v]] for v in dag},
        heights,
        {edge: _curves(route) for edge, route in _routes(dag, layer, y, sides, em).items()},
        (sides[-1][1], top - bottom),
    ).moved(0.0, -bottom)


def assign_layers(dag: nx.DiGraph) -> dict[Hashable, int]:
    """Layers with the least total edge length, as many as topological generations.

    A source stands right before its first target rather than in the first layer, which keeps edges short.
    """
    nodes = list(dag)
    index = {v: i for i, v in enumerate(nodes)}
    edges = np.array([(index[u], index[v]) for u, v in dag.edges]).reshape(-1, 2)
    if len(edges) == 0:
        return dict.fromkeys(nodes, 0)
    depth = len(list(nx.topological_generations(dag)))
    cost = np.bincount(edges[:, 1], minlength=len(nodes)) - np.bincount(edges[:, 0], minlength=len(nodes))
    rows = np.repeat(np.arange(len(edges)), 2)
    signs = np.tile([1.0, -1.0], len(edges))
    step = sparse.csr_matrix((signs, (rows, edges.ravel())), shape=(len(edges), len(nodes)))
    solution = linprog(cost.astype(float), A_ub=step, b_ub=-np.ones(len(edges)), bounds=(0, depth - 1), method="highs")
    return {v: round(solution.x[i]) for v, i in index.items()}


def crossings(proper: nx.DiGraph, columns: list[list[Hashable]]) -> int:
    """How many pairs of edges cross, each edge being a straight line between neighbouring columns."""
    total = 0
    for here, there in pairwise(columns):
        place = {v: i for i, v in enumerate(there)}
        ends = np.array([(i, place[v]) for i, u in enumerate(here) for v in proper.successors(u)]).reshape(-1, 2)
        a, b = ends[:, 0], ends[:, 1]
        total += int(((a[:, None] < a) & (b[:, None] > b)).sum())
    return total


def _with_trunks(dag: nx.DiGraph, layer: Mapping[Hashable, int]) -> nx.DiGraph:
    """Edges between neighbouring layers only: a trunk (source, layer) stands where an edge passes a layer."""
    proper = nx.DiGraph()
    proper.add_nodes_from((v, {"layer": layer[v]}) for v in dag)
    for u, v in dag.edges:
        before: Hashable = u
        for k in range(layer[u] + 1, layer[v]):
            proper.add_node((u, k), layer=k)
            proper.add_edge(before, (u, k))
            before = (u, k)
        proper.add_edge(before, v)
    return proper


def _order(proper: nx.DiGraph) -> list[list[Hashable]]:
    """Columns of nodes, from bottom to top, with few crossings: the best of several starts and sweeps."""
    links = proper.to_undirected()
    starts = sorted(proper, key=lambda v: -proper.degree(v))[:_STARTS]
    best: list[list[Hashable]] = []
    fewest = np.inf
    for start in starts:
        columns: list[list[Hashable]] = [[] for _ in range(1 + max(k for _, k in proper.nodes(data="layer")))]
        for v in nx.dfs_preorder_nodes(links, start):  # neighbours start close together
            columns[proper.nodes[v]["layer"]].append(v)
        for sweep in range(_SWEEPS):
            _sort_columns(proper, columns, forward=sweep % 2 == 0)
            _swap_neighbours(proper, columns)
            count = crossings(proper, columns)
            if count < fewest:
                best, fewest = [list(column) for column in columns], count
    return best


def _sort_columns(proper: nx.DiGraph, columns: list[list[Hashable]], *, forward: bool) -> None:
    """Sort each column by the mean place of its nodes' neighbours in the column before (or after)."""
    neighbours = proper.predecessors if forward else proper.successors
    order = range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1)
    for k in order:
        fixed = {v: i for i, v in enumerate(columns[k - 1 if forward else k + 1])}
        free = len(fixed) / len(columns[k])  # a node without neighbours keeps its place
        place = {}
        for i, v in enumerate(columns[k]):
            ends = [fixed[u] for u in neighbours(v)]
            place[v] = float(np.mean(ends)) if ends else i * free
        columns[k].sort(key=place.__getitem__)


def _swap_neighbours(proper: nx.DiGraph, columns: list[list[Hashable]]) -> None:
    """Exchange adjacent nodes of a column wherever that removes crossings."""
    for k, column in enumerate(columns):
        sides = []
        for other, neighbours in ((k - 1, proper.predecessors), (k + 1, proper.successors)):
            if 0 <= other < len(columns):
                place = {v: i for i, v in enumerate(columns[other])}
                sides.append({v: np.array([place[u] for u in neighbours(v)]) for v in column})
        swapped = True
        while swapped:
            swapped = False
            for i in range(len(column) - 1):
                a, b = column[i], column[i + 1]
                if sum(int(np.sign(ends[a][:, None] - ends[b]).sum()) for ends in sides) > 0:
                    column[i], column[i + 1] = b, a
                    swapped = True


def _elevations(
    proper: nx.DiGraph, columns: list[list[Hashable]], heights: Mapping[str, float], em: float
) -> dict[Hashable, float]:
    """Vertical positions with the least total rise and fall of the edges; trunks are kept straight first."""
    index = {v: i for i, v in enumerate(v for column in columns for v in column)}
    edges = [(index[u], index[v], _straightness(u, v)) for u, v in proper.edges]
    n, m = len(index), len(edges)
    rows: list[int] = []
    cols: list[int] = []
    values: list[float] = []
    bound: list[float] = []
    for k, (i, j, _) in enumerate(edges):  # |y_i - y_j| <= slack_k
        for sign in (1.0, -1.0):
            rows += [len(bound)] * 3
            cols += [i, j, n + k]
            values += [sign, -sign, -1.0]
            bound.append(0.0)
    for column in columns:
        for below, above in pairwise(column):  # y_above - y_below >= separation
            rows += [len(bound)] * 2
            cols += [index[below], index[above]]
            values += [1.0, -1.0]
            bound.append(-(_half(below, heights, em) + _half(above, heights, em)))
    if not bound:
        return {v: 0.0 for v in index}
    matrix = sparse.csr_matrix((values, (rows, cols)), shape=(len(bound), n + m))
    cost = np.r_[np.zeros(n), [weight for *_, weight in edges]]
    solution = linprog(cost, A_ub=matrix, b_ub=bound, bounds=(0, None), method="highs")
    return {v: float(solution.x[i]) for v, i in index.items()}


def _straightness(u: Hashable, v: Hashable) -> float:
    return {0: 1.0, 1: 2.0, 2: 8.0}[isinstance(u, tuple) + isinstance(v, tuple)]


def _half(v: Hashable, heights: Mapping[str, float], em: float) -> float:
    """Half the room that a gene or a trunk takes in its column."""
    return heights[v] / 2 + 0.2 * em if isinstance(v, str) else 0.3 * em


def _routes(
    dag: nx.DiGraph,
    layer: Mapping[Hashable, int],
    y: Mapping[Hashable, float],
    sides: list[tuple[float, float]],
    em: float,
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Points of each edge: out of the source's box, straight through the columns between, into the target's.

    Edges into one box end at different heights, in the order in which they arrive.
    """
    routes = {}
    for u, v in dag.edges:
        points = [(sides[layer[u]][1], y[u])]
        for k in range(layer[u] + 1, layer[v]):
            points += [(x, y[(u, k)]) for x in sides[k]]
        routes[u, v] = points
    for v in dag:
        arriving = sorted(dag.predecessors(v), key=lambda u, v=v: routes[u, v][-1][1])  # type: ignore[misc]
        for i, u in enumerate(arriving):
            routes[u, v].append((sides[layer[v]][0], y[v] + (i - (len(arriving) - 1) / 2) * _PORT * em))
    return routes


def _curves(points: list[tuple[float, float]]) -> np.ndarray:
    """Bezier curves through `points` that are horizontal at each of them."""
    path = [points[0]]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) / 2
        path += [(middle, y0), (middle, y1), (x1, y1)]
    return np.array(path)
