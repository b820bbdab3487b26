"""The learned causal graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line

import scgim.get as get
from scgim._process import undisturbed
from scgim.get._results import check_known
from scgim.slots import read_entry

from . import _style as st
from ._genes import gene_labels
from ._layout import Layout, arrange, place

# Lengths in multiples of the font size.
_PADDING = 1.0  # of a gene's box, left and right together
_STRIP = 4.0  # height of the legend
_SAMPLE = 2.4  # length of a line in the legend
_BAR = 12.0  # width of the colour bar
_TEXT = 0.95  # font size of the legend


class _Edge(NamedTuple):
    """What an edge looks like: whether the cause raises (1) or lowers (-1) its effect; muted ones leave no target."""

    sign: int
    probability: float
    muted: bool


def graph(
    adata: ad.AnnData,
    *,
    condition: str | None = None,
    threshold: float | None = None,
    layout: str | Mapping[str, tuple[float, float]] = "layered",
    isolated: bool = True,
    gene_symbols: str | None = None,
    title: bool = True,
    legend: bool = True,
    ax: Axes | None = None,
    save: str | Path | None = None,
    key: str = "gim",
    group: str | None = None,
) -> Axes:
    """Draw the learned graph, causes left of their effects.

    An arrow raises its effect, a bar lowers it: the sign of the mean derivative of the effect's location along its
    cause, over unperturbed cells of the model (and over its members, if there are several). Edges are wider and
    stronger in colour the more probable they are;
    those of one cause leave it as one line that branches. Genes without edges stand in rows below; of a graph without
    any edge, only the called targets are drawn.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    condition
        Colour the genes by the probability that this condition targets them, and by the direction in which it moves
        them; the edges that do not leave its called targets become grey. None leaves the genes uncoloured.
    threshold
        Draw only the edges with at least this probability. None draws the graph of the fit.
    layout
        `"layered"`, or a mapping from each gene to its position (x, y), in any unit.
    isolated
        Whether to draw the genes without edges; where False, their number is noted.
    gene_symbols
        Column of `adata.var` to label the genes by. None labels them by their names.
    title, legend
        Whether to name the condition above the graph, and to draw the legend and the colour bar below it.
    ax, save
        Axes to draw into; their frame is hidden (None makes a new figure, as large as the graph needs at the user's
        font size), and a file to write the figure to.
    key, group
        Which fit.

    Returns
    -------
    matplotlib.axes.Axes
        With one `FancyArrowPatch` per edge, whose `gid` is `edge:cause->effect`.

    Raises
    ------
    KeyError
        If there is no fit under `key`, or no column `gene_symbols`.
    ValueError
        If the condition or the layout is unknown, `threshold` is not a probability, or `layout` lacks a gene.

    Examples
    --------
    >>> scgim.pl.graph(adata, condition="Dacinostat_10000")  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    dag = get.graph(adata, threshold=threshold, key=key, group=group)
    n_genes, labels = len(dag), gene_labels(adata, list(dag), gene_symbols).map(st.shorten)
    targeted: pd.Series | None = None
    called: set[str] | None = None
    heading = ""
    if condition is not None:
        condition = check_known(condition, slots.conditions["condition"].tolist(), "condition")[0]
        rows = get.targets(adata, conditions=condition, key=key, group=group).set_index("gene")
        targeted = (rows["probability"] * rows["direction"]).reindex(list(dag)).fillna(0.0)  # no rows for the control
        called = set(rows.index[rows["is_target"]])
        heading = st.condition_title(slots.conditions, condition, slots.dose_unit, note=False) if title else ""
    alone = [v for v in dag if dag.degree(v) == 0]
    hidden = [v for v in alone if not isolated or (dag.size() == 0 and v not in (called or ()))]
    dag.remove_nodes_from(hidden)

    em = st.font_size(0.85)
    widths = {v: st.text_width(labels[v], em) + _PADDING * em for v in dag}
    if isinstance(layout, str):
        check_known(layout, ["layered"], "layout")
        plan = arrange(dag, widths, em)
    else:
        plan = place(dag, widths, em, layout)
    edges = _looks(adata, dag, called, key, group) if dag.size() else {}
    samples = _samples(edges) if legend and edges else {}
    color_bar = legend and targeted is not None and bool(plan.boxes)
    note = _note(n_genes, hidden, dag, threshold)
    bar_room = (_BAR + 1.0) * em * color_bar
    rooms = [
        plan.size[0],
        sum(_room(label, em) for label in samples) + bar_room,
        st.text_width(note, em) + bar_room,
        st.text_width(st.shorten(heading, 60), st.font_size(1.1)) if ax is None else 0.0,
    ]
    width = max(rooms)
    plan = plan.moved((width - plan.size[0]) / 2, 0.0)._replace(size=(width, plan.size[1]))
    strip = _STRIP * em if samples or color_bar else 1.5 * em * bool(note)
    ax, scale = _canvas(ax, plan.size, strip, st.shorten(heading, 60), em)

    colors, size = st.palette(ax), em * scale
    _draw_edges(ax, plan, edges, colors, size)
    _draw_genes(ax, plan, labels, targeted, set(alone), colors, size)
    _legend(ax, samples, colors, em, size)
    if color_bar:
        _color_bar(ax, width, colors, em, size)
    if note:
        ax.text(0, -0.9 * em, note, size=size, color=colors.ink, va="center", gid="note")
    return st.finish(ax, save)


@undisturbed()
def _looks(
    adata: ad.AnnData, dag: nx.DiGraph, called: set[str] | None, key: str, group: str | None
) -> dict[tuple[str, str], _Edge]:
    """How each edge is drawn; signs are those of the fitted model (0 where it has no such edge)."""
    from scgim.tl._stored import load

    model = load(adata, key, group)
    slopes = np.sum([one.fitted.slopes() for one in model.members], axis=0)
    sign = pd.DataFrame(np.sign(slopes).astype(int), model.entry.genes, model.entry.genes)
    return {
        (u, v): _Edge(int(sign.at[u, v]), probability, called is not None and u not in called)
        for u, v, probability in dag.edges(data="probability")
    }


def _note(n_genes: int, hidden: list[str], dag: nx.DiGraph, threshold: float | None) -> str:
    if dag.size() == 0:
        least = "" if threshold is None else f" with a probability of at least {threshold:g}"
        return f"No edge{least} found among {n_genes} gene{'s' * (n_genes > 1)}"
    return f"{len(hidden)} gene{'s' * (len(hidden) > 1)} without edges not shown" if hidden else ""


def _canvas(ax: Axes | None, size: tuple[float, float], strip: float, heading: str, em: float) -> tuple[Axes, float]:
    """Axes whose data unit is a point (of text at full size), and the scale of everything in them."""
    width, height = size[0], size[1] + strip
    if ax is None:
        margin, top = 0.8 * em, (3.0 if heading else 0.8) * em
        total = (width + 2 * margin, height + margin + top)
        figure = plt.figure(figsize=(total[0] / 72, total[1] / 72))
        ax = figure.add_axes((margin / total[0], margin / total[1], width / total[0], height / total[1]))
    ax.set_axis_off()
    if heading:
        ax.set_title(heading, fontsize=st.font_size(1.1), color=st.palette(ax).ink)
    room = st.axes_size(ax)
    scale = min(1.0, room[0] / max(width, em), room[1] / max(height, em))
    spare = room[0] / scale - width
    ax.set_xlim(-spare / 2, width + spare / 2)
    ax.set_ylim(size[1] - room[1] / scale, size[1])
    return ax, scale


def _arrow(points: np.ndarray, edge: _Edge, colors: st.Palette, size: float, **style: Any) -> FancyArrowPatch:
    """An arrow along Bezier curves, or a line that ends in a bar, where the cause lowers its effect."""
    weight = float(np.clip(2 * edge.probability - 1, -0.4, 1))
    color, strength = (colors.ink, 0.4) if edge.muted else (colors.of_sign(edge.sign), 1.0)
    look: dict[str, Any] = {
        "arrowstyle": "-[,widthB=0.32,lengthB=0" if edge.sign < 0 else "-|>,head_length=0.55,head_width=0.2",
        "mutation_scale": size,
        "linewidth": (0.5 + 0.8 * weight) * size / 7,
        "color": st.blend(color, colors.paper, strength * (0.4 + 0.6 * weight)),
        "capstyle": "butt",
        "joinstyle": "miter",
        "clip_on": False,
    }
    return FancyArrowPatch(path=Line(points, [Line.MOVETO] + [Line.CURVE4] * (len(points) - 1)), **look | style)


def _draw_edges(
    ax: Axes, plan: Layout, edges: Mapping[tuple[str, str], _Edge], colors: st.Palette, size: float
) -> None:
    """Arrows, in one layer per cause: where two causes' lines cross, one passes visibly under the other."""
    strongest: dict[str, tuple[bool, float]] = {}
    for (u, _), edge in edges.items():
        strongest[u] = max(strongest.get(u, (False, 0.0)), (not edge.muted, edge.probability))
    layer = {u: 1 + z / len(strongest) for z, u in enumerate(sorted(strongest, key=strongest.__getitem__))}
    for (u, v), edge in sorted(edges.items(), key=lambda item: item[1].probability):
        points = plan.routes[u, v].copy()
        if edge.sign < 0:  # a bar on the border of the box would not be seen
            way = points[-1] - points[-2]
            points[-1] -= 0.3 * size * way / np.hypot(*way)
        arrow = _arrow(points, edge, colors, size, zorder=layer[u] + 0.5 / len(layer), gid=f"edge:{u}->{v}")
        halo = {"arrowstyle": "-", "color": colors.paper, "linewidth": arrow.get_linewidth() + size / 7}
        ax.add_patch(_arrow(points, edge, colors, size, zorder=layer[u], gid="halo", **halo))
        ax.add_patch(arrow)


def _draw_genes(
    ax: Axes,
    plan: Layout,
    labels: pd.Series,
    targeted: pd.Series | None,
    alone: set[str],
    colors: st.Palette,
    size: float,
) -> None:
    """A box with a name for each gene."""
    shades, corner = st.diverging(colors), 0.2 * min((box.height for box in plan.boxes.values()), default=0.0)
    for v, (x, y, width, height) in plan.boxes.items():
        face = colors.paper if targeted is None else shades((targeted[v] + 1) / 2)
        look: dict[str, Any] = {"facecolor": face, "edgecolor": colors.muted if v in alone else colors.ink}
        look |= {"boxstyle": f"round,pad=0,rounding_size={corner}", "linewidth": 0.08 * size, "clip_on": False}
        ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, zorder=3, gid=f"gene:{v}", **look))
        style: dict[str, Any] = {"style": "italic", "ha": "center", "va": "center_baseline", "zorder": 4}
        ax.text(x, y, labels[v], size=size, color=colors.ink if targeted is None else st.text_on(face), **style)


def _samples(edges: Mapping[tuple[str, str], _Edge]) -> dict[str, _Edge]:
    """Lines of the legend, for the colours, the heads and the widths that the graph has."""
    looks = sorted({(edge.muted, -edge.sign) for edge in edges.values()})
    what = {1: "raises", -1: "lowers", 0: "no sign"}
    samples = {what[-sign] + ", from others" * muted: _Edge(-sign, 1.0, muted) for muted, sign in looks}
    strongest = next(iter(samples.values()))
    return {**samples, "probability 0.5": strongest._replace(probability=0.5), "1": strongest}


def _room(label: str, em: float) -> float:
    """Width of a line of the legend with its label, and of the gap after it."""
    return (_SAMPLE + 2.1) * em + st.text_width(label, _TEXT * em)


def _legend(ax: Axes, samples: Mapping[str, _Edge], colors: st.Palette, em: float, size: float) -> None:
    """Sample lines with their labels, below 0."""
    x, y = 0.0, -2.6 * em
    for label, edge in samples.items():
        points = np.column_stack([x + np.linspace(0, _SAMPLE * em, 4), np.full(4, y)])
        ax.add_patch(_arrow(points, edge, colors, size, gid="legend"))
        style: dict[str, Any] = {"color": colors.ink, "va": "center_baseline", "gid": "legend"}
        ax.text(x + (_SAMPLE + 0.5) * em, y, label, size=_TEXT * size, **style)
        x += _room(label, em)


def _color_bar(ax: Axes, width: float, colors: st.Palette, em: float, size: float) -> None:
    """What the colours of the genes mean, at the right of the legend."""
    scale = size / em
    place = (width - (_BAR - 0.5) * em, -2.7 * em, (_BAR - 2.5) * em, 0.7 * em)
    bar_ax = ax.inset_axes(place, transform=ax.transData)
    shades = ScalarMappable(Normalize(-1, 1), st.diverging(colors))
    bar = ax.figure.colorbar(shades, cax=bar_ax, orientation="horizontal", ticks=list(st.DIRECTION_TICKS))
    bar.ax.set_xticklabels(st.DIRECTION_TICKS.values())
    bar.ax.tick_params(labelsize=0.9 * size, length=2 * scale, width=0.5 * scale, pad=1.5 * scale)
    bar.outline.set_linewidth(0.5 * scale)
    bar.set_label("target probability", size=_TEXT * size, labelpad=2 * scale, color=colors.ink)
    bar.ax.xaxis.set_label_position("top")
