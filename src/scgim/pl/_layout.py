"""Where the genes and edges of a graph go: causes left of their effects, after Sugiyama, Tagawa & Toda (1981).

Connected parts are drawn in layers, one below the other, the genes without edges in rows at the bottom. The order
within a layer follows the mean place of the neighbours; heights are a linear program, as in Gansner et al. (1993). A
cause's edges share one trunk, which leaves it and branches at its effects. Lengths are in points.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import pairwise
from typing import NamedTuple

import networkx as nx
import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from scgim._errors import InvalidValue

_HEIGHT = 1.6  # of a gene's box, in multiples of the font size, as are the next two
_PORT = 0.46  # between the arrows that enter a box
_GAP = 1.5  # between connected parts
_STARTS, _SWEEPS = 8, 6

Point = tuple[float, float]


class Box(NamedTuple):
    """A gene's box around its centre."""

    x: float
    y: float
    width: float
    height: float


class Layout(NamedTuple):
    """Where genes and edges go; the origin is the lower left corner."""

    boxes: dict[str, Box]
    routes: dict[tuple[str, str], np.ndarray]  # cubic Bezier curves, (1 + 3 curves, 2)
    size: Point

    def moved(self, dx: float, dy: float) -> Layout:
        """The same drawing elsewhere; `size` stays."""
        boxes = {v: box._replace(x=box.x + dx, y=box.y + dy) for v, box in self.boxes.items()}
        return Layout(boxes, {edge: route + np.array([dx, dy]) for edge, route in self.routes.items()}, self.size)


def arrange(dag: nx.DiGraph, widths: Mapping[str, float], em: float) -> Layout:
    """Boxes of these widths and the edges between them; `em` is the font size."""
    parts, alone = [], [v for v in dag if dag.degree(v) == 0]
    for members in nx.weakly_connected_components(dag):
        if len(members) > 1:
            part = dag.copy()  # keeps the order of the genes, which the sets of networkx have not
            part.remove_nodes_from([v for v in dag if v not in members])
            parts.append(layered(part, widths, em))
    parts.sort(key=lambda part: part.size[0] * part.size[1], reverse=True)
    widest = max([40 * em, *(part.size[0] for part in parts)])
    shelves: list[list[Layout]] = []
    for part in parts:
        used = sum(other.size[0] + 2 * _GAP * em for other in shelves[-1]) if shelves else widest
        if used + part.size[0] > widest:
            shelves.append([])
        shelves[-1].append(part)
    if alone:
        shelves.append([_rows(alone, widths, em, widest)])

    whole = Layout({}, {}, (0.0, 0.0))
    for shelf in reversed(shelves):
        x, y = 0.0, whole.size[1] + _GAP * em * bool(whole.boxes)
        for part in shelf:
            size = max(whole.size[0], x + part.size[0]), max(whole.size[1], y + part.size[1])
            new = part.moved(x, y)
            whole = Layout(whole.boxes | new.boxes, whole.routes | new.routes, size)
            x += part.size[0] + 2 * _GAP * em
    return whole


def place(dag: nx.DiGraph, widths: Mapping[str, float], em: float, positions: Mapping[str, Point]) -> Layout:
    """The user's positions, scaled until no two boxes overlap; edges are straight."""
    genes = list(dag)
    lost = [v for v in genes if v not in positions]
    if lost:
        raise InvalidValue(f"layout has no position for {len(lost)} genes, such as '{lost[0]}'.")
    xy = np.array([positions[v] for v in genes], dtype=float).reshape(-1, 2)
    xy -= xy.min(axis=0, initial=np.inf)
    half, height = np.array([widths[v] for v in genes]) / 2, _box_height(0, em)
    i, j = np.triu_indices(len(genes), 1)
    apart = np.abs(xy[i] - xy[j])
    if (apart.sum(axis=1) == 0).any():
        raise InvalidValue("layout gives two genes the same position.")
    needed = np.column_stack([half[i] + half[j] + 0.6 * em, np.full(len(i), height + 0.4 * em)])
    with np.errstate(divide="ignore"):
        scale = (needed / apart).min(axis=1).max(initial=0.0) or 1.0
    border = np.array([half.max(initial=0.0), height / 2])
    xy = xy * scale + border
    boxes = {v: Box(float(x), float(y), widths[v], height) for v, (x, y) in zip(genes, xy, strict=True)}
    right, top = xy.max(axis=0, initial=0.0) + border
    return Layout(boxes, {(u, v): _straight(boxes[u], boxes[v]) for u, v in dag.edges}, (right, top))


def _straight(start: Box, stop: Box) -> np.ndarray:
    """A straight curve from a centre to the border of the box `stop`."""
    a, b = np.array(start[:2]), np.array(stop[:2])
    with np.errstate(divide="ignore"):
        reach = np.min(np.array(stop[2:]) / 2 / np.abs(b - a))
    return a + np.linspace(0, 1, 4)[:, None] * (1 - min(reach, 1.0)) * (b - a)


def _rows(genes: list[str], widths: Mapping[str, float], em: float, limit: float) -> Layout:
    """Boxes side by side, in rows of at most `limit`, the first on top."""
    height, gap = _box_height(0, em), 0.6 * em
    boxes: dict[str, Box] = {}
    x, y, right = 0.0, -height / 2, 0.0
    for v in genes:
        if x > 0 and x + widths[v] > limit:
            x, y = 0.0, y - height - gap
        boxes[v] = Box(x + widths[v] / 2, y, widths[v], height)
        right = max(right, x + widths[v])
        x += widths[v] + gap
    return Layout(boxes, {}, (right, height / 2 - y)).moved(0.0, height / 2 - y)


def _box_height(arrows: int, em: float) -> float:
    """Height of a box that `arrows` edges enter: hubs are taller, so that every arrowhead shows."""
    return max(_HEIGHT, _PORT * (arrows + 1)) * em


def layered(dag: nx.DiGraph, widths: Mapping[str, float], em: float) -> Layout:
    """A connected DAG from left to right; boxes of one column share its largest width."""
    layer = assign_layers(dag)
    proper = with_trunks(dag, layer)
    columns = order_columns(proper)
    heights = {v: _box_height(dag.in_degree(v), em) for v in dag}
    y = _elevations(proper, columns, heights, em)

    width = [max(widths[v] for v in column if isinstance(v, str)) for column in columns]
    sides, x = [], 0.0
    for own, column in zip(width, columns, strict=True):
        sides.append((x, x + own))
        rises = [abs(y[u] - y[v]) for u in column for v in proper.successors(u)]
        x += own + float(np.clip(0.25 * max(rises, default=0.0), 2.8 * em, 6 * em))
    boxes = {v: Box(sum(sides[layer[v]]) / 2, y[v], width[layer[v]], heights[v]) for v in dag}
    routes = {edge: _curves(route) for edge, route in _routes(dag, layer, y, sides, em).items()}
    bottom = min(*(box.y - box.height / 2 for box in boxes.values()), *y.values())
    top = max(*(box.y + box.height / 2 for box in boxes.values()), *y.values())
    return Layout(boxes, routes, (sides[-1][1], top - bottom)).moved(0.0, -bottom)


def assign_layers(dag: nx.DiGraph) -> dict[Hashable, int]:
    """Topological generations; a gene with more effects than causes stands right before its first effect."""
    layer = {v: k for k, generation in enumerate(nx.topological_generations(dag)) for v in generation}
    for v in reversed(list(layer)):
        if dag.out_degree(v) > dag.in_degree(v):
            layer[v] = min(layer[u] for u in dag.successors(v)) - 1
    return layer


def crossings(proper: nx.DiGraph, columns: list[list[Hashable]]) -> int:
    """How many pairs of edges cross, each edge being a straight line between neighbouring columns."""
    total = 0
    for here, there in pairwise(columns):
        place = {v: i for i, v in enumerate(there)}
        ends = np.array([(i, place[v]) for i, u in enumerate(here) for v in proper.successors(u)]).reshape(-1, 2)
        a, b = ends[:, 0], ends[:, 1]
        total += int(((a[:, None] < a) & (b[:, None] > b)).sum())
    return total


def with_trunks(dag: nx.DiGraph, layer: Mapping[Hashable, int]) -> nx.DiGraph:
    """Edges between neighbouring layers only: a trunk (source, layer) stands where an edge passes a layer."""
    proper = nx.DiGraph()
    proper.add_nodes_from((v, {"layer": layer[v]}) for v in dag)
    for u, v in dag.edges:
        chain = [u, *((u, k) for k in range(layer[u] + 1, layer[v])), v]
        proper.add_nodes_from((trunk, {"layer": trunk[1]}) for trunk in chain[1:-1])
        nx.add_path(proper, chain)
    return proper


def order_columns(proper: nx.DiGraph) -> list[list[Hashable]]:
    """Columns of nodes, from bottom to top, with few crossings: the best of several starts and sweeps."""
    links = proper.to_undirected()
    best: list[list[Hashable]] = []
    fewest = np.inf
    for start in sorted(proper, key=lambda v: -proper.degree(v))[:_STARTS]:
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
        ends = {v: [float(fixed[u]) for u in neighbours(v)] or [i * free] for i, v in enumerate(columns[k])}
        columns[k].sort(key=lambda v: float(np.mean(ends[v])))


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
    nodes = [v for column in columns for v in column]
    stacks = nx.DiGraph(pair for column in columns for pair in pairwise(column))
    stacks.add_nodes_from(nodes)
    rise = nx.incidence_matrix(
        proper, nodelist=nodes, oriented=True
    ).T  # (edges, nodes): y of the effect - y of the cause
    apart = nx.incidence_matrix(stacks, nodelist=nodes, oriented=True).T
    room = [heights[v] / 2 + 0.2 * em if isinstance(v, str) else 0.3 * em for v in nodes]  # half of what each takes
    slack = sparse.identity(rise.shape[0])
    # |rise| <= slack, of which the weighted sum is least; neighbours of a column are apart
    bounds = sparse.vstack([
        sparse.hstack([rise, -slack]),
        sparse.hstack([-rise, -slack]),
        sparse.hstack([-apart, sparse.csr_array((apart.shape[0], rise.shape[0]))]),
    ])  # fmt: skip
    limits = np.r_[np.zeros(2 * rise.shape[0]), -abs(apart) @ np.array(room)]
    weight = [(1.0, 2.0, 8.0)[isinstance(u, tuple) + isinstance(v, tuple)] for u, v in proper.edges]
    cost = np.r_[np.zeros(len(nodes)), weight]
    solution = linprog(cost, A_ub=bounds, b_ub=limits, bounds=(0, None), method="highs")
    return {v: float(solution.x[i]) for i, v in enumerate(nodes)}


def _routes(
    dag: nx.DiGraph, layer: Mapping[Hashable, int], y: Mapping[Hashable, float], sides: list[Point], em: float
) -> dict[tuple[str, str], list[Point]]:
    """Points of each edge, straight through the columns between; those into one box end one above the other."""
    routes = {}
    for u, v in dag.edges:
        between = [(x, y[(u, k)]) for k in range(layer[u] + 1, layer[v]) for x in sides[k]]
        routes[u, v] = [(sides[layer[u]][1], y[u]), *between]
    for v in dag:
        arriving = sorted(dag.predecessors(v), key=lambda u, v=v: routes[u, v][-1][1])  # type: ignore[misc]
        for i, u in enumerate(arriving):
            routes[u, v].append((sides[layer[v]][0], y[v] + (i - (len(arriving) - 1) / 2) * _PORT * em))
    return routes


def _curves(points: list[Point]) -> np.ndarray:
    """Bezier curves through `points` that are horizontal at each of them."""
    path = [points[0]]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) / 2
        path += [(middle, y0), (middle, y1), (x1, y1)]
    return np.array(path)
