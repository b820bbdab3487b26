"""The strip below a graph: what an edge's width and a gene's colour mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from ._style import Palette, blend, sequential, text_width

STRIP = 4.0  # height, in multiples of the font size, like every length here
_SAMPLE = 2.2
_BAR = 9.0
_GAP = 1.6
_TEXT = 0.95  # font size


class Entry(NamedTuple):
    """A sample line and its label."""

    label: str
    probability: float
    highlighted: bool


def strength(probability: float, floor: float) -> tuple[float, float]:
    """Width (points at font size 7) and opacity of an edge whose probability lies between `floor` and 1."""
    weight = float(np.clip((probability - floor) / (1 - floor), 0, 1))
    return 0.5 + 0.8 * weight, 0.3 + 0.5 * weight


def legend_entries(*, edges: bool, highlighted: bool, floor: float) -> list[Entry]:
    """Lines for the least, a middle and the highest probability, and for the edges of called targets."""
    if not edges:
        return []
    values = (floor, (1 + floor) / 2, 1.0)
    entries = [Entry(f"{'edge probability ' * (i == 0)}{p:.2g}", p, False) for i, p in enumerate(values)]
    return entries + [Entry("from a called target", 1.0, True)] * highlighted


def legend_width(entries: list[Entry], em: float, *, color_bar: bool) -> float:
    """Width of the whole strip."""
    lines = sum((_SAMPLE + 0.5 + _GAP) * em + text_width(entry.label, _TEXT * em) for entry in entries)
    return lines + (_BAR + 1.0) * em * color_bar


def draw_legend(
    ax: Axes,
    entries: list[Entry],
    width: float,
    colors: Palette,
    floor: float,
    em: float,
    scale: float,
    *,
    color_bar: bool,
) -> None:
    """Draw the strip from 0 to `width`, below 0."""
    x, y = 0.0, -2.6 * em
    for entry in entries:
        line, shade = strength(entry.probability, floor)
        color = blend(colors.predicted if entry.highlighted else colors.ink, colors.paper, shade)
        ends = [x, x + _SAMPLE * em]
        ax.plot(ends, [y, y], color=color, linewidth=line * em * scale / 7, clip_on=False, gid="legend")
        x += (_SAMPLE + 0.5) * em
        ax.text(x, y, entry.label, size=_TEXT * em * scale, color=colors.ink, va="center_baseline", gid="legend")
        x += text_width(entry.label, _TEXT * em) + _GAP * em
    if not color_bar:
        return
    place = (width - (_BAR + 0.5) * em, y - 0.1 * em, _BAR * em, 0.7 * em)
    bar_ax = ax.inset_axes(place, transform=ax.transData)
    shades = ScalarMappable(Normalize(0, 1), sequential(colors))
    bar = ax.figure.colorbar(shades, cax=bar_ax, orientation="horizontal", ticks=[0, 0.5, 1])
    bar.ax.set_xticklabels(["0", "0.5", "1"])
    bar.ax.tick_params(labelsize=0.9 * em * scale, length=2 * scale, width=0.5 * scale, pad=1.5 * scale)
    bar.outline.set_linewidth(0.5 * scale)
    bar.set_label("target probability", size=_TEXT * em * scale, labelpad=2 * scale, color=colors.ink)
    bar.ax.xaxis.set_label_position("top")
