"""Colours, sizes, labels and grids of panels shared by every figure.

Sizes follow the user's `font.size`, colours the user's background: nothing global is changed.
Colours are Okabe and Ito's (2008), legible with colour blindness.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.textpath import TextPath
from matplotlib.typing import ColorType

from scgim._errors import InvalidValue

Drawn = TypeVar("Drawn", Axes, np.ndarray)
#: Ticks of a colour bar of target probabilities times direction.
DIRECTION_TICKS = {-1.0: "1, lowered", 0.0: "0", 1.0: "1, raised"}
_SMALL = 0.75  # height of a small panel; the others have 1


class Palette(NamedTuple):
    """Colours of one figure; `ink` and `paper` are the foreground and the background."""

    ink: str
    paper: str
    observed: str  # also: lowered
    predicted: str  # also: raised
    control: str
    muted: str

    def of_sign(self, sign: int) -> str:
        """Colour of what is raised (1), lowered (-1), or neither."""
        return {1: self.predicted, -1: self.observed}.get(sign, self.ink)


def palette(ax: Axes) -> Palette:
    """Colours for `ax`, whose text colour tells whether its background is light or dark."""
    ink = to_hex(ax.title.get_color())
    if luminance(ink) > 0.5:
        return Palette(ink, "black", "#56B4E9", "#E69F00", "#9A9A9A", "#5A5A5A")
    return Palette(ink, "white", "#0072B2", "#D55E00", "#8C8C8C", "#B8B8B8")


def diverging(colors: Palette) -> LinearSegmentedColormap:
    """Target probabilities with their direction: blue (lowered, -1), background (0), orange (raised, 1)."""
    blue, orange = colors.observed, colors.predicted
    near = 0.75 if luminance(colors.paper) > 0.5 else 0.9  # certain targets are a little darker than the lines
    steps: list[ColorType] = [
        blend(blue, "black", near),
        blend(blue, colors.paper, 0.85),
        blend(blue, colors.paper, 0.3),
        colors.paper,
    ]
    steps += [blend(orange, colors.paper, 0.3), blend(orange, colors.paper, 0.85), blend(orange, "black", near)]
    return LinearSegmentedColormap.from_list("scgim_direction", steps, N=257)


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


def text_width(text: str, size: float) -> float:
    """Width of `text` in points."""
    if not text.strip():
        return 0.0
    font = FontProperties(family=mpl.rcParams["font.family"])
    return size * _width(text, font, findfont(font))


@lru_cache(maxsize=10_000)
def _width(text: str, font: FontProperties, file: str) -> float:
    """At one point; `file` tells fonts apart that have the same family."""
    return float(TextPath((0, 0), text, size=1, prop=font).get_extents().width)


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
    for row in table[table["condition"] == condition].itertuples():
        name = condition if pd.isna(row.dose) else f"{row.perturbation}, {format_dose(row.dose, unit)}"
        return f"{name} (held out)" if note and row.split == "test" else name
    return condition


def clean(ax: Axes) -> None:
    """Leave the left and lower spine, and small ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=font_size(0.85), length=2.5, width=0.6, pad=2)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)


def axes_size(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points, as they will be drawn."""
    figure = ax.figure.canvas.figure
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # a layout engine decides when it draws
    box, dots = ax.get_window_extent(), figure.dpi / 72
    return box.width / dots, box.height / dots


def finish(drawn: Drawn, save: str | Path | None) -> Drawn:
    """The axes, after their figure was written where `save` names a file."""
    if save is not None:
        first = drawn[0] if isinstance(drawn, np.ndarray) else drawn
        first.figure.canvas.figure.savefig(save, bbox_inches="tight")
    return drawn


class Panels(NamedTuple):
    """Axes of one figure, one per gene or quantity."""

    axes: np.ndarray  # (panels,)
    own: bool  # whether their figure was made here
    columns: int

    def label(self, titles: Iterable[str] = (), x: str = "", y: str = "") -> None:
        """Name the genes; label the left and the lowest panels of a new figure, or all of the user's axes."""
        for ax, title in zip(self.axes, titles, strict=False):
            ax.set_title(shorten(title), fontsize=font_size(), style="italic", pad=3)
        for i, ax in enumerate(self.axes):
            clean(ax)
            if i % self.columns == 0 or not self.own:
                ax.set_ylabel(y, fontsize=font_size(0.9))
            if i + self.columns >= len(self.axes) or not self.own:
                ax.set_xlabel(x, fontsize=font_size(0.9))

    def header(self, legend: Sequence[Artist] | bool, title: str = "", note: str = "") -> None:
        """Title and legend above a new figure, which grows by what they need, `note` below; else a legend inside.

        True takes the legend from what the first panel holds.
        """
        first = self.axes[0]
        handles = first.get_legend_handles_labels()[0] if legend is True else legend or []
        ink, figure = palette(first).ink, first.figure
        style: dict[str, Any] = {"frameon": False, "fontsize": font_size(0.9), "labelcolor": ink, "borderaxespad": 0.2}
        if not self.own:
            if handles:
                first.legend(handles=handles, loc="best", handlelength=1.4, **style)
            return
        width, height = figure.get_size_inches()
        if title:
            fitting = fit_text(title, font_size(1.1), 72 * width - font_size())
            # the legend's own title: the two never overlap
            style |= {"title": fitting, "title_fontproperties": {"size": font_size(1.1)}}
        columns = _legend_columns(handles, 72 * width)
        lines = bool(title) + -(-len(handles) // columns)
        if lines:
            height += (1.45 * lines + 0.6) * font_size() / 72
            box = figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.6, **style)
            box.get_title().set_color(ink)
        if note:
            text = _wrapped(note, font_size(0.9), 72 * width)
            height += (0.4 + 1.2 * len(text)) * font_size() / 72
            figure.supxlabel("\n".join(text), fontsize=font_size(0.9), color=ink)
        figure.set_size_inches(width, height)


def make_panels(
    n: int, *, ax: Any, n_cols: int, size: tuple[float, float], min_width: float = 24, n_small: int = 0
) -> Panels:
    """`n` axes: the user's (`ax`, one or an array), or those of a new figure; its last `n_small` panels are lower.

    `size` of a panel and `min_width` of a new figure (room for its legend) are multiples of the font size.
    """
    if ax is not None:
        axes = np.asarray([ax] if isinstance(ax, Axes) else ax, dtype=object).ravel()
        if len(axes) < n:
            raise InvalidValue(f"ax holds {len(axes)} axes, but {n} panels are to be drawn.")
        return Panels(axes[:n], False, 1)
    if n_cols < 1:
        raise InvalidValue(f"n_cols must be at least 1, not {n_cols}.")
    n_large = n - n_small
    columns = min(n_large, n_cols)
    rows = [-(-n_large // columns), -(-n_small // columns)]
    ratios = [1.0] * rows[0] + [_SMALL] * rows[1]
    em = font_size() / 72
    inches = (max(columns * size[0] + 1, min_width) * em, (sum(ratios) * size[1] + 0.5) * em)
    figure, grid = plt.subplots(
        sum(rows), columns, figsize=inches, height_ratios=ratios, layout="constrained", squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.4 * em, h_pad=0.4 * em, wspace=0.02, hspace=0.03)  # type: ignore[union-attr,call-arg]
    axes = np.r_[grid[: rows[0]].ravel()[:n_large], grid[rows[0] :].ravel()[:n_small]]
    for unused in {*grid.ravel()} - {*axes}:
        unused.remove()
    return Panels(axes, True, columns)


def _wrapped(text: str, size: float, width: float) -> list[str]:
    """Lines of at most `width` points, broken between words."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [fit_text(line, size, width) for line in lines]


def _legend_columns(handles: Sequence[Artist], width: float) -> int:
    """As many legend columns as fit into `width` points (a legend fills one column after the other)."""
    size = font_size(0.9)
    rooms = [text_width(str(handle.get_label()), size) + 4.6 * size for handle in handles]
    for columns in range(len(rooms), 1, -1):
        if sum(max(column) for column in np.array_split(rooms, columns)) + size <= width:
            return columns
    return 1
