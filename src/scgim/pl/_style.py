"""Colours, sizes and labels shared by every figure.

Sizes follow the user's `font.size`, colours the user's background: nothing global is changed.
Colours are Okabe and Ito's (2008), legible with colour blindness; ramps vary lightness within one hue.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Literal, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.typing import ColorType


class Palette(NamedTuple):
    """Colours of one figure; `ink` and `paper` are the foreground and the background."""

    ink: str
    paper: str
    observed: str
    predicted: str
    control: str
    muted: str


def palette(ax: Axes) -> Palette:
    """Colours for `ax`, whose text colour tells whether its background is light or dark."""
    ink = to_hex(ax.title.get_color())
    if luminance(ink) > 0.5:
        return Palette(ink, "black", "#56B4E9", "#E69F00", "#9A9A9A", "#5A5A5A")
    return Palette(ink, "white", "#0072B2", "#D55E00", "#8C8C8C", "#B8B8B8")


def sequential(colors: Palette) -> LinearSegmentedColormap:
    """Probabilities: from the background (0) through blue to the strongest contrast (1)."""
    dark = luminance(colors.paper) < 0.5
    steps = ["#000000", "#0A4A73", "#56B4E9", "#F0F8FF"] if dark else ["#FFFFFF", "#9CCBE8", "#0072B2", "#052A47"]
    return LinearSegmentedColormap.from_list("scgim_probability", steps)


def luminance(color: ColorType) -> float:
    """Relative luminance (WCAG 2) of a colour, between 0 (black) and 1 (white)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_on(color: ColorType) -> str:
    """Black or white, whichever reads better on `color`."""
    return "black" if luminance(color) > 0.179 else "white"


def blend(color: ColorType, paper: ColorType, weight: float) -> tuple[float, float, float]:
    """`color` at opacity `weight` over `paper`, as an opaque colour (overlaps do not darken)."""
    pairs = zip(to_rgb(color), to_rgb(paper), strict=True)
    red, green, blue = (weight * top + (1 - weight) * bottom for top, bottom in pairs)
    return red, green, blue


def font_size(scale: float = 1.0) -> float:
    """Points: 8 for labels with matplotlib's defaults, in proportion to the user's `font.size`."""
    return 0.8 * scale * mpl.rcParams["font.size"]


def text_width(text: str, size: float, *, style: Literal["normal", "italic"] = "normal") -> float:
    """Width of `text` in points."""
    if not text.strip():
        return 0.0
    font = FontProperties(family=mpl.rcParams["font.family"], style=style)
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width)


def shorten(text: str, limit: int = 28) -> str:
    """`text` with its middle cut out where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head = (limit - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def fit_text(text: str, size: float, width: float) -> str:
    """`text`, shortened until it is at most `width` points wide."""
    limits = range(6, len(text) + 1)
    fitting = bisect_right(limits, width, key=lambda limit: text_width(shorten(text, limit), size))
    return shorten(text, 5 + max(fitting, 1))


def format_dose(dose: float, unit: str = "") -> str:
    """`10,000 nM`."""
    number = f"{dose:,.0f}" if dose >= 1000 and float(dose).is_integer() else f"{dose:g}"
    return f"{number} {format_unit(unit)}" if unit else number


def format_unit(unit: str) -> str:
    """The unit as it is printed: `uM` has a micro sign."""
    return "µ" + unit[1:] if unit in {"uM", "um", "ug/ml", "ug/mL"} else unit


def condition_title(table: pd.DataFrame, condition: str, unit: str, *, note: bool = True) -> str:
    """`Dacinostat, 10,000 nM (held out)` from the table of conditions; the label where it has no row."""
    found = table[table["condition"] == condition]
    if found.empty:
        return condition
    row = found.iloc[0]
    held_out = note and row["split"] == "test"
    name = condition if pd.isna(row["dose"]) else f"{row['perturbation']}, {format_dose(row['dose'], unit)}"
    return f"{name} (held out)" if held_out else name


def clean(ax: Axes) -> None:
    """Leave the left and lower spine, and small ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=font_size(0.85), length=2.5, width=0.6, pad=2)
    for side in ("left", "bottom"):
        ax.spines[side].set_linewidth(0.6)


def axes_size(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points, as they will be drawn."""
    figure = ax.figure.canvas.figure
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # a layout engine decides when it draws
    box, dots = ax.get_window_extent(), figure.dpi / 72
    return box.width / dots, box.height / dots
