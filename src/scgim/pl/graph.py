"""The learned causal graph."""

from __future__ import annotations

from collections.abc import Mapping

import anndata as ad
import matplotlib.pyplot as plt
import networkx as nx
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path

import scgim.get as get
from scgim.get._results import check_known
from scgim.slots import read_entry

from ._arrange import arrange, place
from ._graph_legend import STRIP, draw_legend, legend_entries, legend_width, strength
from ._layered import Layout
from ._style import (
    Palette,
    axes_size,
    blend,
    condition_title,
    font_size,
    palette,
    sequential,
    shorten,
    text_on,
    text_width,
)

_PADDING = 1.0  # of a gene's box, left and right together, in multiples of the font size


def graph(
    adata: ad.AnnData,
    *,
    condition: str | None = None,
    threshold: float | None = None,
    layout: str | Mapping[str, tuple[float, float]] = "layered",
    isolated: bool = True,
    title: bool = True,
    legend: bool = True,
    ax: Axes | None = None,
    key: str = "gim",
    group: str | None = None,
) -> Axes:
    """Draw the learned graph, causes left of their effects.

    Edges are wider and darker the more probable they are; those of one cause leave it as one line that
    branches. Genes without edges stand in rows below.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    condition
        Colour the genes by the probability that this condition targets them, and the edges that leave its
        called targets. None leaves the genes uncoloured.
    threshold
        Draw only the edges with at least this probability. None draws the graph of the fit.
    layout
        `"layered"`, or a mapping from each gene to its position (x, y), in any unit.
    isolated
        Whether to draw the genes without edges; where False, their number is noted.
    title
        Whether to name the condition above the graph.
    legend
        Whether to draw the legend of the edges and the colour bar.
    ax
        Axes to draw into; their frame is hidden. None makes a new figure, as large as the graph needs at the
        user's font size.
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

    Returns
    -------
    matplotlib.axes.Axes
        With one `FancyArrowPatch` per edge, whose `gid` is `edge:cause->effect`.

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If the condition or the layout is unknown, `threshold` is not a probability, or `layout` lacks a gene.

    Examples
    --------
    >>> import scgim
    >>> scgim.pl.graph(adata, condition="Dacinostat_10000")  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    dag = get.graph(adata, threshold=threshold, key=key, group=group)
    targeted: pd.Series | None = None
    called: set[str] = set()
    if condition is not None:
        condition = check_known(condition, slots.conditions["condition"].tolist(), "condition")[0]
        rows = get.targets(adata, conditions=condition, key=key, group=group).set_index("gene")
        targeted = rows["probability"].reindex(list(dag)).fillna(0.0)  # nothing is stored for the control
        called = set(rows.index[rows["is_target"]])

    em = font_size(0.85)
    widths = {v: text_width(shorten(v), em, style="italic") + _PADDING * em for v in dag}
    if isinstance(layout, str):
        check_known(layout, ["layered"], "layout")
        plan = arrange(dag, widths, em, isolated=isolated)
    else:
        plan = place(dag, widths, em, layout, isolated=isolated)
    floor = 0.5 if threshold is None else min(threshold, 0.5)
    entries = legend_entries(edges=bool(plan.routes), highlighted=bool(called), floor=floor) if legend else []
    color_bar = legend and targeted is not None
    heading = ""
    if title and condition is not None:
        heading = condition_title(slots.conditions, condition, slots.dose_unit, note=False)
        heading = shorten(heading, 60)
    alone = sum(1 for v in dag if dag.degree(v) == 0)
    note = f"{alone} gene{'s' * (alone > 1)} without edges not shown" if alone and not isolated else ""
    rooms = [
        plan.size[0],
        legend_width(entries, em, color_bar=color_bar),
        text_width(note, em) + legend_width([], em, color_bar=color_bar),
        text_width(heading, font_size(1.1)) if ax is None else 0.0,
    ]
    width = max(rooms)
    plan = plan.moved((width - plan.size[0]) / 2, 0.0)._replace(size=(width, plan.size[1]))
    strip = STRIP * em if entries or color_bar else 1.5 * em * bool(note)
    ax, scale = _canvas(ax, plan.size, strip, heading, em)

    colors = palette(ax)
    _edges(ax, dag, plan, called, colors, floor, em * scale)
    _nodes(ax, dag, plan, targeted, colors, em, scale)
    draw_legend(ax, entries, width, colors, floor, em, scale, color_bar=color_bar)
    if note:
        ax.text(0, -0.9 * em, note, size=0.95 * em * scale, color=colors.ink, va="center", gid="note")
    return ax


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
        ax.set_title(heading, fontsize=font_size(1.1), color=palette(ax).ink)
    room = axes_size(ax)
    scale = min(1.0, room[0] / max(width, em), room[1] / max(height, em))
    spare = room[0] / scale - width
    ax.set_xlim(-spare / 2, width + spare / 2)
    ax.set_ylim(size[1] - room[1] / scale, size[1])
    return ax, scale


def _edges(
    ax: Axes, dag: nx.DiGraph, plan: Layout, called: set[str], colors: Palette, floor: float, size: float
) -> None:
    """Arrows, in one layer per cause: where two causes' lines cross, one passes visibly under the other."""
    causes = {u: max(dag.edges[u, v]["probability"] for v in dag.successors(u)) for u, _ in plan.routes}
    for z, u in enumerate(sorted(causes, key=lambda u: (u in called, causes[u]))):
        for v in sorted(dag.successors(u), key=lambda v, u=u: dag.edges[u, v]["probability"]):  # type: ignore[misc]
            points = plan.routes[u, v]
            path = Path(points, [Path.MOVETO] + [Path.CURVE4] * (len(points) - 1))
            width, shade = strength(dag.edges[u, v]["probability"], floor)
            depth = 1 + z / len(causes)
            halo = PathPatch(path, facecolor="none", edgecolor=colors.paper, zorder=depth, clip_on=False, gid="halo")
            halo.set(linewidth=(width + 1.0) * size / 7, capstyle="butt")
            arrow = FancyArrowPatch(
                path=path,
                arrowstyle="-|>,head_length=0.55,head_width=0.2",
                mutation_scale=size,
                linewidth=width * size / 7,
                color=blend(colors.predicted if u in called else colors.ink, colors.paper, shade),
                capstyle="butt",
                joinstyle="miter",
                zorder=depth + 0.5 / len(causes),
                clip_on=False,
                gid=f"edge:{u}->{v}",
            )
            ax.add_patch(halo)
            ax.add_patch(arrow)


def _nodes(
    ax: Axes,
    dag: nx.DiGraph,
    plan: Layout,
    targeted: pd.Series | None,
    colors: Palette,
    em: float,
    scale: float,
) -> None:
    """A box with a name for each gene."""
    shades = sequential(colors)
    for v, (x, y) in plan.centers.items():
        width, height = plan.widths[v], plan.heights[v]
        face = colors.paper if targeted is None else shades(float(targeted[v]))
        box = FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle=f"round,pad=0,rounding_size={0.35 * em}",
            facecolor=face,
            edgecolor=colors.muted if dag.degree(v) == 0 else colors.ink,
            linewidth=0.6 * scale,
            zorder=3,
            clip_on=False,
            gid=f"gene:{v}",
        )
        ax.add_patch(box)
        ink = colors.ink if targeted is None else text_on(face)
        ax.text(
            x,
            y,
            shorten(v),
            size=em * scale,
            color=ink,
            style="italic",
            ha="center",
            va="center_baseline",
            zorder=4,
        )
