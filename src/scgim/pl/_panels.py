"""Grids of small panels, one per gene or quantity, with one legend above them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from ._style import fit_text, font_size, palette, text_width


def make_panels(
    n: int, *, ax: object, n_cols: int, panel_size: tuple[float, float], min_width: float = 24
) -> tuple[np.ndarray, bool]:
    """`n` axes to draw into.

    Parameters
    ----------
    n
        Number of panels.
    ax
        The user's axes: one, or an array of at least `n`; None makes a new figure.
    n_cols
        Columns of a new figure.
    panel_size
        Width and height of a panel, in multiples of the label's font size.
    min_width
        Least width of a new figure, in the same multiples: room for its legend.

    Returns
    -------
    axes, own
        The axes, (n,), and whether their figure was made here.

    Raises
    ------
    ValueError
        If the user's axes are too few, or `n_cols` is not positive.
    """
    if ax is not None:
        axes = np.asarray([ax] if isinstance(ax, Axes) else ax, dtype=object).ravel()
        if len(axes) < n:
            raise ValueError(f"ax holds {len(axes)} axes, but {n} panels are to be drawn.")
        return axes[:n], False
    if n_cols < 1:
        raise ValueError(f"n_cols must be at least 1, not {n_cols}.")
    columns = min(n, n_cols)
    rows = -(-n // columns)
    em = font_size() / 72
    size = (max(columns * panel_size[0] + 1, min_width) * em, (rows * panel_size[1] + 0.5) * em)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    figure.get_layout_engine().set(w_pad=0.4 * em, h_pad=0.4 * em, wspace=0.02, hspace=0.03)  # type: ignore[union-attr,call-arg]
    axes = grid.ravel()
    for unused in axes[n:]:
        unused.remove()
    return axes[:n], True


def add_header(axes: np.ndarray, handles: Sequence[Artist], *, own: bool, title: str | None, legend: bool) -> None:
    """Title and legend: above the whole figure where it is ours, else inside the first of the user's axes.

    The title is the legend's own, so that the two never overlap; the figure grows by the lines they need.
    """
    first = axes[0]
    ink = palette(first).ink
    style: dict[str, Any] = {
        "frameon": False,
        "fontsize": font_size(0.9),
        "labelcolor": ink,
        "borderaxespad": 0.2,
    }
    entries = list(handles) if legend else []
    if not own:
        if entries:
            first.legend(handles=entries, loc="best", handlelength=1.4, **style)
        return
    figure = first.figure
    width, height = figure.get_size_inches()
    if title:
        fitting = fit_text(title, font_size(1.1), 72 * width - font_size())
        style |= {"title": fitting, "title_fontproperties": {"size": font_size(1.1)}}
    columns = _columns(entries, 72 * width)
    lines = bool(title) + -(-len(entries) // columns)
    if lines:
        figure.set_size_inches(width, height + (1.45 * lines + 0.6) * font_size() / 72)
        box = figure.legend(handles=entries, loc="outside upper center", ncols=columns, columnspacing=1.6, **style)
        box.get_title().set_color(ink)


def _columns(handles: Sequence[Artist], width: float) -> int:
    """As many legend columns as fit into `width` points (a legend fills one column after the other)."""
    size = font_size(0.9)
    rooms = [text_width(str(handle.get_label()), size) + 4.6 * size for handle in handles]
    for columns in range(len(rooms), 1, -1):
        if sum(max(column) for column in np.array_split(rooms, columns)) + size <= width:
            return columns
    return 1
