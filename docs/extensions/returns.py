"""Sections `Returns` as they are written: prose, lists, or a type with its description.

Napoleon takes every line of such a section that is not indented for a type. Many functions of scgim return None
and list what they write, so their section is handed on as the body of one field instead.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_RULE = re.compile(r"-{3,}\s*$")


def keep_prose(lines: list[str]) -> list[str]:
    """The docstring with its section `Returns` as a field.

    Examples
    --------
    >>> keep_prose(["Returns", "-------", "None. Writes `obs`.", "", "Raises", "------", "KeyError"])
    [':returns:', '    None. Writes `obs`.', '', '', 'Raises', '------', 'KeyError']
    """
    for start in range(len(lines) - 1):
        if lines[start].strip() == "Returns" and _RULE.match(lines[start + 1]):
            break
    else:
        return lines
    end = next(
        (at for at in range(start + 2, len(lines) - 1) if lines[at].strip() and _RULE.match(lines[at + 1])), len(lines)
    )
    body = [f"    {line}".rstrip() for line in lines[start + 2 : end]]
    return [*lines[:start], ":returns:", *body, "", *lines[end:]]


def _process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = keep_prose(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
