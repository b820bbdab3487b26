"""What scgim says in Python, as a shell user reads it: `--min-counts`, not `min_counts=`; `scgim fit`, not `prepare`.

Messages are written once, for Python. At the edge the names of arguments that a command takes become its options, and
calls become commands, whatever the message; tests/test_shell.py holds this for every message of the package.
"""

from __future__ import annotations

import argparse
import ast
import logging
import re
import shlex
from collections.abc import Iterable, Mapping
from functools import partial

#: Arguments whose option is not their name.
_RENAMED = {"rng": "seed", "perturbations": "perturbation"}
_COMMANDS = {
    "prepare": "scgim fit", "fit_gim": "scgim fit", "select_markers": "scgim fit", "sample_cells": "scgim sample",
    "hold_out": "scgim fit --hold-out",
}  # fmt: skip
#: A value as `!r` shows it, or as messages write it.
_VALUE = r"""'[^']*'|"[^"]*"|\[[^\]]*\]|\{[^}]*\}|\([^)]*\)|-?\d+(?:[._]?\d+)*(?:e[-+]?\d+)?|[A-Za-z]\w*"""
#: What is to be run in Python stays Python.
_CODE = r"(\badata(?:\.\w+)?(?:\[[^\]]*\])? = .*?)(?=, (?:then|and|or) |[.;:)] |[.;:)]?$)"
#: Before an argument whose name is a word of English as well.
_VERBS = "leave|lower|raise|correct|check|without|change|give|pass"


def spellings(parser: argparse.ArgumentParser, settings: Iterable[str] = ()) -> dict[str, str]:
    """Argument -> how to give it to a command.

    Parameters
    ----------
    parser
        Of the command.
    settings
        Names that its `--set` takes, where it has one.
    """
    options = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    found = {name: f"--set {name}" for name in settings}
    found |= {name: option for name, option in options.items() if name not in ("help", "set", "settings")}
    return found | {name: options[other] for name, other in _RENAMED.items() if other in options}


def in_shell(text: str, options: Mapping[str, str]) -> str:
    """A message with the arguments and calls of Python as options and commands.

    Parameters
    ----------
    text
        The message.
    options
        As :func:`spellings` returns them.

    Examples
    --------
    >>> from scgim._shell import in_shell
    >>> options = {"min_counts": "--min-counts", "silent_genes": "--silent-genes"}
    >>> in_shell('Lower min_counts, or pass silent_genes="drop" to scgim.pp.prepare.', options)
    'Lower --min-counts, or pass --silent-genes drop to scgim fit.'
    """
    pieces = re.split(_CODE, text)  # every second one is code
    return "".join(piece if i % 2 else _translate(piece, options) for i, piece in enumerate(pieces))


def _translate(text: str, options: Mapping[str, str]) -> str:
    for call, command in _COMMANDS.items():
        text = re.sub(rf"\b(?:scgim\.)?(?:pp|tl)\.{call}\b(?:\([^()]*\))?", command, text)
    text = re.sub(r"(?i)\b(seen by|given to|which|run|without|by) prepare\b", r"\1 scgim fit", text)
    text = re.sub(r"\bfit_gim\b", "scgim fit", text)
    text = re.sub(r" Then fit it: run scgim fit\.", "", text)
    text = re.sub(r"\(['\"]([^'\"]+)['\"], (?:dose|['\"]?([\d._]+(?: \w+)?)['\"]?)\)", _pair, text)
    for name in sorted(options, key=len, reverse=True):
        text = _with_value(text, name, options[name])
        if "_" in name or name in ("groupby", "rng"):
            text = re.sub(_bare(name), partial(_mention, options[name]), text)
        else:
            text = re.sub(rf"^{name}(?=:| must| is unknown)", options[name], text)
            text = re.sub(rf"(?i)\b({_VERBS}) {name}\b(?= out|[.,;:)]|$)", rf"\1 {options[name]}", text)
    text = re.sub(r"\badata\.(?!\w+\()(?=\w)", "", text)
    text = re.sub(r"^adata\b(?!\.\w)", "The file", text)
    return re.sub(r"(?<!\w\()\badata\b(?!\.\w)", "the file", text)


def _bare(name: str) -> str:
    """The name as a word of its own: no slot, no part of a call, not translated already."""
    return rf"(?<![\w.\-'\"\[=/])(?<!--set ){name}\b(?! \(--set\))(?![\w'\"=(\]])"


def _mention(option: str, found: re.Match[str]) -> str:
    name = option.removeprefix("--set ")
    return option if name == option or found.start() == 0 else f"{name} (--set)"


def _pair(found: re.Match[str]) -> str:
    """`('Dacinostat', 10_000)` as NAME=DOSE."""
    return f"{found.group(1)}={(found.group(2) or 'DOSE').replace('_', '')}"


def _with_value(text: str, name: str, option: str) -> str:
    """`name=VALUE` and `name=` as options."""
    between = "=" if option.startswith("--set") else " "

    def spell(found: re.Match[str]) -> str:
        value = found.group(1)
        if value is None:
            return option if between == " " else f"{option}=..."
        if value == "None" and between == " ":
            return f"no {option}"
        return " ".join(f"{option}{between}{shlex.quote(word)}" for word in _words(value, between))

    return re.sub(rf"(?<![\w.\-])(?<!--set ){name}=(?!=)({_VALUE})?", spell, text)


def _words(value: str, between: str) -> list[str]:
    """The texts that stand for a value; an option is repeated for every entry of a list."""
    try:
        meant = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return [value]
    if between == " " and isinstance(meant, list | tuple):
        return [str(entry) for entry in meant]
    return [meant if isinstance(meant, str) else value]


class ShellFormatter(logging.Formatter):
    """Log lines as the user of a command reads them, with the time."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%H:%M:%S")
        self.options = options

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message in the words of the shell."""
        record.message = in_shell(record.message, self.options)
        return super().formatMessage(record)
