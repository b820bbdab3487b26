"""Formulas as drawings, made by matplotlib while the site is built.

A page then needs no script from another server, and no mathematical font on the reader's machine (MathML does). The
outlines have the colour of the text around them, light or dark.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from typing import Any

from docutils import nodes
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import text_to_path
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

_SIZE = 100.0  # units of the drawing per em
_EDGE = 4.0  # units around it, for strokes that reach beyond their box
_FONT = FontProperties(size=_SIZE, math_fontfamily="stix")
#: TeX that matplotlib does not know, and that changes only the size of brackets.
_SIZES = re.compile(r"\\[bB]igg?[lrm]?(?![A-Za-z])")
_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
_POINTS = {Path.MOVETO: 1, Path.LINETO: 1, Path.CURVE3: 2, Path.CURVE4: 3}


@cache
def svg(formula: str, scale: float = 1.12) -> str:
    """A formula in TeX as an SVG whose baseline is that of the text, `scale` em high.

    Examples
    --------
    >>> 'aria-label="x_j"' in svg("x_j"), svg("x_j").count("<path")
    (True, 1)
    """
    text = f"${' '.join(_SIZES.sub('', formula).split())}$"
    width, height, depth = text_to_path.get_text_width_height_descent(text, _FONT, ismath=True)
    vertices, codes = text_to_path.get_text_path(_FONT, text, ismath=True)
    commands, at = [], 0
    while at < len(codes):
        if codes[at] == Path.CLOSEPOLY:
            commands.append("Z")
            at += 1
            continue
        n = _POINTS[codes[at]]
        numbers = (f"{x:.1f} {-y:.1f}" for x, y in vertices[at : at + n])
        commands.append(_LETTERS[codes[at]] + " ".join(numbers))
        at += n
    left, top = -_EDGE, -(height - depth) - _EDGE
    wide, high = width + 2 * _EDGE, height + 2 * _EDGE
    em = scale / _SIZE
    return (
        f'<svg class="formula" role="img" aria-label="{escape(formula, quote=True)}" '
        f'viewBox="{left:.1f} {top:.1f} {wide:.1f} {high:.1f}" '
        f'style="width:{wide * em:.3f}em;height:{high * em:.3f}em;vertical-align:{-(depth + _EDGE) * em:.3f}em">'
        f'<path fill="currentColor" d="{"".join(commands)}"/></svg>'
    )


def drawn(node: nodes.Element, scale: float) -> str:
    """The drawing; where matplotlib does not know something in it, a warning, and the TeX as it is."""
    try:
        return svg(node.astext(), scale)
    except ValueError as error:
        logger.warning("a formula cannot be drawn: %s", error, location=node)
        return f"<code>{escape(node.astext())}</code>"


def inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(drawn(node, 1.12))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula">{drawn(node, 1.2)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("drawn", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
