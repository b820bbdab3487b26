"""Names beside points: where there is room, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from . import _style as st

#: Where a name may stand around its point: direction, in the order in which they are tried.
_AROUND = [(1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1)]
_NEAR, _STEPS = 0.55, (1.0, 2.6, 4.4, 7.0)  # distances from the point, in multiples of the font size
_LINE = 1.15  # height of a name


def name_points(
    ax: Axes,
    xy: np.ndarray,
    names: Sequence[str],
    points: np.ndarray,
    *,
    size: float,
    taken: Sequence[tuple[float, float, float, float]] = (),
) -> int:
    """Write `names` next to their points `xy`, the first ones first; those that find no room are left out.

    `points` (n, 2) are all that is drawn: names stay off them as far as they can. `taken` are boxes (left, bottom,
    right, top) in fractions of the axes where no name may stand. Returns how many were written.
    """
    width, height = st.axes_size(ax)
    scale = np.array([width, height])

    def place(values: np.ndarray) -> np.ndarray:
        inside = ax.transAxes.inverted().transform(ax.transData.transform(np.asarray(values, dtype=float)))
        return np.asarray(inside) * scale

    others = place(points)
    boxes = [np.array(box) * np.tile(scale, 2) for box in taken]
    written = 0
    for point, name in zip(place(xy), names, strict=True):
        half = np.array([st.text_width(name, size) + 0.2 * size, _LINE * size]) / 2
        best: tuple[float, np.ndarray, float] | None = None
        for step in _STEPS:
            for dx, dy in _AROUND:
                middle = point + (half + step * _NEAR * size) * np.array([dx, dy])
                box = np.concatenate([middle - half, middle + half])
                if (box < 0.3 * size).any() or (box[2:] > scale).any() or any(_overlap(box, other) for other in boxes):
                    continue
                covered = ((others > box[:2] - 1) & (others < box[2:] + 1)).all(axis=1).sum()
                cost = covered + 0.4 * step
                if best is None or cost < best[0]:
                    best = (float(cost), box, step)
        if best is None:
            continue
        _, box, step = best
        boxes.append(box)
        written += 1
        middle = (box[:2] + box[2:]) / 2 / scale
        ink = st.palette(ax).ink
        look: dict[str, Any] = {"ha": "center", "va": "center", "size": size, "style": "italic", "color": ink}
        ax.text(middle[0], middle[1], name, transform=ax.transAxes, gid="name", zorder=6, **look)
        if step > 1:
            end = np.clip(point, box[:2], box[2:])
            ends = np.array([point, end]) / scale
            ax.plot(*ends.T, transform=ax.transAxes, color=ink, linewidth=0.4, gid="leader", zorder=3)
    return written


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())
