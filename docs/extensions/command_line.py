"""The help of the command line, as `scgim --help` prints it: a directive `scgim-help`.

The text comes from the parser itself whenever the pages are built, so it cannot differ from the program.
"""

from __future__ import annotations

import argparse
import os
from typing import Any
from unittest import mock

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


def help_of(*words: str) -> str:
    """What `scgim WORDS --help` prints.

    Examples
    --------
    >>> help_of("benchmark", "synthetic").splitlines()[0]
    'usage: scgim benchmark synthetic [--small] [--jobs N] [--out DIR] [...]'
    """
    from scgim.cli import build_parser

    parser: argparse.ArgumentParser = build_parser()
    for word in words:
        parser = commands_of(parser)[word]
    with mock.patch.dict(os.environ, {"COLUMNS": "84"}):
        return parser.format_help()


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a parser, by name; none for one that has no commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


class ScgimHelp(Directive):
    optional_arguments = 8

    def run(self) -> list[nodes.Node]:
        text = help_of(*" ".join(self.arguments).split())
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("scgim-help", ScgimHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
