"""What can be checked of a figure without looking at it."""

from __future__ import annotations

from itertools import combinations
from unittest.mock import patch

import anndata as ad
from example_cells import assert_unchanged, snapshot
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

Texts = list[tuple[str, Bbox]]


def drawn_texts(figure: Figure) -> Texts:
    """Every text that is really drawn (ticks out of view are not), with its box in pixels."""
    drawn: list[Text] = []
    original = Text.draw

    def record(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            drawn.append(self)
        return original(self, renderer, *args, **kwargs)

    with patch.object(Text, "draw", record):
        figure.canvas.draw()
    unique = list(dict.fromkeys(drawn))
    return [(text.get_text(), text.get_window_extent()) for text in unique]


def overlapping_texts(texts: Texts, tolerance: float = 0.5) -> list[tuple[str, str]]:
    """Pairs of drawn texts whose boxes overlap by more than `tolerance` pixels in both directions."""
    return [
        (a, b)
        for (a, box_a), (b, box_b) in combinations(texts, 2)
        if min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0) > tolerance
        and min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0) > tolerance
    ]


def texts_outside(texts: Texts, figure: Figure, tolerance: float = 1.0) -> list[str]:
    """Drawn texts that the border of the figure cuts."""
    width, height = figure.canvas.get_width_height()
    return [
        text
        for text, box in texts
        if box.x0 < -tolerance or box.y0 < -tolerance or box.x1 > width + tolerance or box.y1 > height + tolerance
    ]


def assert_legible(figure: Figure) -> None:
    """No text on another, none cut off."""
    texts = drawn_texts(figure)
    assert texts
    assert overlapping_texts(texts) == []
    assert texts_outside(texts, figure) == []


def assert_same_adata(a: ad.AnnData, b: ad.AnnData) -> None:
    """Nothing was written into `a` since `b` was copied from it."""
    assert_unchanged(a, snapshot(b))
