"""Where a whole graph goes: its connected parts, and the genes without edges."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import numpy as np

from ._layered import Layout, box_height, layered

_GAP = 1.5  # between parts, in multiples of the font size


def arrange(dag: nx.DiGraph, widths: Mapping[str, float], em: float, *, isolated: bool) -> Layout:
    """Each connected part in layers, the largest on top, the genes without edges in rows at the bottom."""
    parts = [layered(part, widths, em) for part in _connected_parts(dag)]
    parts.sort(key=lambda part: part.size[0] * part.size[1], reverse=True)
    widest = max([40 * em, *(part.size[0] for part in parts)])
    shelves: list[list[Layout]] = []
    for part in parts:
        used = sum(other.size[0] + 2 * _GAP * em for other in shelves[-1]) if shelves else widest
        if used + part.size[0] > widest:
            shelves.append([])
        shelves[-1].append(part)
    alone = [v for v in dag if dag.degree(v) == 0] if isolated else []
    if alone:
        shelves.append([_rows(alone, widths, em, widest)])

    whole = Layout({}, {}, {}, {}, (0.0, 0.0))
    for shelf in reversed(shelves):
        x, y = 0.0, whole.size[1] + _GAP * em * bool(whole.centers)
        for part in shelf:
            size = max(whole.size[0], x + part.size[0]), max(whole.size[1], y + part.size[1])
            whole = _joined(whole, part.moved(x, y))._replace(size=size)
            x += part.size[0] + 2 * _GAP * em
    return whole


def _connected_parts(dag: nx.DiGraph) -> list[nx.DiGraph]:
    """The parts with edges, their nodes and edges in the order of `dag` (networkx' sets have none)."""
    parts = []
    for members in nx.weakly_connected_components(dag):
        if len(members) > 1:
            part = nx.DiGraph()
            part.add_nodes_from(v for v in dag if v in members)
            part.add_edges_from((u, v) for u, v in dag.edges if u in members)
            parts.append(part)
    return parts


def _joined(a: Layout, b: Layout) -> Layout:
    return Layout(a.centers | b.centers, a.widths | b.widths, a.heights | b.heights, a.routes | b.routes, a.size)


def _rows(genes: list[str], widths: Mapping[str, float], em: float, limit: float) -> Layout:
    """Boxes side by side, in rows of at most `limit`, the first on top."""
    height, gap = box_height(0, em), 0.6 * em
    centers: dict[str, tuple[float, float]] = {}
    x, y, right = 0.0, -height / 2, 0.0
    for v in genes:
        if x > 0 and x + widths[v] > limit:
            x, y = 0.0, y - height - gap
        centers[v] = (x + widths[v] / 2, y)
        right = max(right, x + widths[v])
        x += widths[v] + gap
    own_widths = {v: widths[v] for v in genes}
    size = (right, height / 2 - y)
    return Layout(centers, own_widths, dict.fromkeys(genes, height), {}, size).moved(0.0, height / 2 - y)


def place(
    dag: nx.DiGraph,
    widths: Mapping[str, float],
    em: float,
    positions: Mapping[str, tuple[float, float]],
    *,
    isolated: bool,
) -> Layout:
    """The user's positions, scaled until no two boxes overlap; edges are straight.

    Raises
    ------
    ValueError
        If a gene has no position, or two share one.
    """
    shown = [v for v in dag if isolated or dag.degree(v) > 0]
    lost = [v for v in shown if v not in positions]
    if lost:
        raise ValueError(f"layout has no position for {len(lost)} genes, such as '{lost[0]}'.")
    xy = np.array([positions[v] for v in shown], dtype=float).reshape(-1, 2)
    xy -= xy.min(axis=0, initial=np.inf)
    half = np.array([widths[v] for v in shown]) / 2
    height = box_height(0, em)
    i, j = np.triu_indices(len(shown), 1)
    apart = np.abs(xy[i] - xy[j])
    if (apart.sum(axis=1) == 0).any():
        raise ValueError("layout gives two genes the same position.")
    needed = np.column_stack([half[i] + half[j] + 0.6 * em, np.full(len(i), height + 0.4 * em)])
    with np.errstate(divide="ignore"):
        scale = (needed / apart).min(axis=1).max(initial=0.0) or 1.0
    border = np.array([half.max(initial=0.0), height / 2])
    xy = xy * scale + border
    centers = {v: (float(a), float(b)) for v, (a, b) in zip(shown, xy, strict=True)}
    routes = {(u, v): _straight(centers[u], centers[v], widths[v], height) for u, v in dag.edges}
    size = xy.max(axis=0, initial=0.0) + border
    return Layout(
        centers,
        {v: widths[v] for v in shown},
        dict.fromkeys(shown, height),
        routes,
        (float(size[0]), float(size[1])),
    )


def _straight(start: tuple[float, float], stop: tuple[float, float], width: float, height: float) -> np.ndarray:
    """A straight curve from a centre to the border of the box around `stop`."""
    a, b = np.array(start), np.array(stop)
    with np.errstate(divide="ignore"):
        reach = np.min(np.array([width / 2, height / 2]) / np.abs(b - a))
    end = b - min(reach, 1.0) * (b - a)
    return a + np.linspace(0, 1, 4)[:, None] * (end - a)
