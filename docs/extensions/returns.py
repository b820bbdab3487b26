"""Sections `Returns` as they are written: prose, lists, or a type with its description.

Napoleon takes every line of such a section that is not indented for a type. Many functions of scgim return None
and list what they write, so their section becomes the body of one field as it stands. (scanpydoc does the same for
scanpy's docstrings.)
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import NumpyDocstring


def keep_prose(docstring: NumpyDocstring, section: str) -> list[str]:
    """The lines of the section as the body of a field `returns`."""
    lines = docstring._dedent(docstring._consume_to_next_section())
    if lines and lines[0] == ":":  # sphinx-autodoc-typehints' mark for "no type here"
        del lines[0]
    return [":returns:", *(f"    {line}".rstrip() for line in lines), ""]


def setup(app: Sphinx) -> dict[str, Any]:
    NumpyDocstring._parse_returns_section = keep_prose  # type: ignore[method-assign]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
