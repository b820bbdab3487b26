"""What can be checked of a figure without looking at it."""

from __future__ import annotations

from itertools import combinations
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from scipy import sparse

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


def assert_same_values(a: object, b: object) -> None:
    """Nested dicts of arrays, DataFrames and plain values are equal."""
    if isinstance(a, dict):
        assert list(a) == list(b)  # type: ignore[call-overload]
        for name in a:
            assert_same_values(a[name], b[name])  # type: ignore[index]
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
    else:
        np.testing.assert_array_equal(a, b)  # type: ignore[arg-type]


def assert_same_adata(a: ad.AnnData, b: ad.AnnData) -> None:
    """Nothing was written into `a` since `b` was copied from it."""
    dense = [x.toarray() if sparse.issparse(x) else np.asarray(x) for x in (a.X, b.X)]
    np.testing.assert_array_equal(*dense)
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert_same_values(dict(a.uns), dict(b.uns))
    for slot in ("layers", "obsm", "varm", "obsp", "varp"):
        assert set(getattr(a, slot)) == set(getattr(b, slot))
