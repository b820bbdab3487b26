"""The words of a shell: values as they are written, and messages as they read.

Help and messages are written once, for Python; here `min_counts=` becomes `--min-counts`, `pp.prepare` `scgim fit`.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

#: Arguments that can be None and are something else unless given: nothing, in the shell.
_NOTHING = ("combination_sep", "control")
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
#: Messages whose quoted names are conditions (and not genes or cells).
_OF_CONDITIONS = r"^hold_out|conditions? (?:are|held out|with fewer|target more)|perturbed condition|no target found"
#: The end of the label of a condition with a dose: `_10000`, `_1e06`.
_DOSE = r"_(\d[\d.]*(?:e-?\d+)?)"


def literal(text: str) -> Any:
    """A number, None, True, a list or a dict as Python writes them; anything else is text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):  # a word, such as mlp
        return text


def whole(least: int) -> Any:
    """What reads a whole number of at least `least`."""

    def whole_number(text: str) -> int:
        value = literal(text)
        if type(value) is not int or value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return whole_number


def seeds(text: str) -> list[int]:
    """`3`, `3,5` or `3:6` (the end is left out)."""
    try:
        numbers = [int(part) for part in re.split("[:,]", text)]
        found = list(range(*numbers)) if ":" in text else numbers
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range such as 400:405 or a list such as 1,7") from None
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} holds no seed, or a negative one")
    return found


def perturbation(text: str) -> Any:
    """`NAME`, `NAME=DOSE`, a condition's label, or several joined by `+`, as `scgim.tl.sample_cells` takes it."""
    if text.count("=") > 1:
        return [_pair(piece) for piece in text.split("+")]
    return _pair(text) if "=" in text else text


def _pair(text: str) -> tuple[str, str]:
    name, _, dose = text.rpartition("=")
    if not name.strip() or not dose.strip()[:1].isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DOSE, as in Dacinostat=10000.")
    return name.strip(), dose.strip()


def held_out(entries: Sequence[Any], *, has_dose: bool) -> dict[str, Any] | list[Any] | None:
    """What :func:`perturbation` read, as `scgim.pp.prepare` takes what is held out: {'A': ['10', '100'], 'B': None}."""
    if not has_dose or any(isinstance(entry, list) for entry in entries):  # a combination, each part with its dose
        return list(entries) or None
    wanted: dict[str, Any] = {}
    for entry in entries:
        name, dose = entry if isinstance(entry, tuple) else (entry, None)
        wanted[name] = None if dose is None or wanted.get(name, []) is None else [*wanted.get(name, []), dose]
    return wanted or None


def spellings(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Argument -> the option of the parser's command that gives it."""
    found = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    for said, meant in (("rng", "seed"), ("method", "methods")):
        found |= {said: found[meant]} if meant in found else {}
    return {name: option for name, option in found.items() if name not in ("help", "set", "settings")}


def in_shell(text: str, options: Mapping[str, str], *, doses: bool = False) -> str:
    """A text with the arguments and calls of Python as options and commands.

    Where conditions have `doses`, their labels (`A_10`) are shown as they are to be written (`A=10`).

    >>> from scgim.cli._shell import in_shell
    >>> in_shell('Lower min_counts, or pass input="log1p" to scgim.pp.prepare.', {"min_counts": "--min-counts"})
    'Lower --min-counts, or pass input="log1p" to scgim fit.'
    """
    if doses and re.search(_OF_CONDITIONS, text):
        text = re.sub(r"(?<!\[)'[^'\n]*'", _with_dose, text)
        text = re.sub(r"(?m)^  conditions held out .*$", _with_dose, text)
    pieces = re.split(_CODE, text)  # every second one is code
    return "".join(piece if i % 2 else _translate(piece, options) for i, piece in enumerate(pieces))


def _with_dose(found: re.Match[str]) -> str:
    return re.sub(rf"(?<=\S){_DOSE}(?=\+|, |'?$| \(\d+\)'$)", r"=\1", found.group())


def _translate(text: str, options: Mapping[str, str]) -> str:
    for call, command in _COMMANDS.items():
        text = re.sub(rf"\b(?:scgim\.)?(?:pp|tl)\.{call}\b(?:\([^()]*\))?", command, text)
    text = re.sub(r"(?i)\b(seen by|given to|which|run|without|by) prepare\b", r"\1 scgim fit", text)
    text = re.sub(r"\bfit_gim\b", "scgim fit", text)
    text = re.sub(r" Then fit it: run scgim fit\.", "", text)
    text = re.sub(r"[,;]? or (?:with )?a (?:DataFrame(?: of features)?|(?:scgim\.inference\.)?FitConfig)\b", "", text)
    text = re.sub(r"\(['\"]([^'\"]+)['\"], (?:dose|['\"]?([\d._]+(?: \w+)?)['\"]?)\)", _as_pair, text)
    for name in sorted(options, key=len, reverse=True):
        text = _with_value(text, name, options[name])
        if "_" in name or name in ("groupby", "rng"):
            text = re.sub(rf"(?<![\w.\-'\"\[=/]){name}\b(?![\w'\"=(\]])", options[name], text)
        else:
            text = re.sub(rf"^{name}(?=:| must| is unknown)", options[name], text)
            text = re.sub(rf"(?i)\b({_VERBS}) {name}\b(?= out|[.,;:)]|$)", rf"\1 {options[name]}", text)
    text = re.sub(r"\badata\.(?!\w+\()(?=\w)", "", text)
    text = re.sub(r"^adata\b(?!\.\w)", "The file", text)
    return re.sub(r"(?<!\w\()\badata\b(?!\.\w)", "the file", text)


def _as_pair(found: re.Match[str]) -> str:
    """`('Dacinostat', 10_000)` as NAME=DOSE."""
    return f"{found.group(1)}={(found.group(2) or 'DOSE').replace('_', '')}"


def _with_value(text: str, name: str, option: str) -> str:
    """`name=VALUE` and `name=` as options; an option is repeated for every entry of a list."""

    def spell(found: re.Match[str]) -> str:
        if found.group(1) is None:
            return option
        meant = literal(found.group(1))
        if meant is None:
            return f"{option} ''" if name in _NOTHING else f"no {option}"
        words = meant if isinstance(meant, list | tuple) else [meant if isinstance(meant, str) else found.group(1)]
        return " ".join(f"{option} {shlex.quote(str(word))}" for word in words)

    return re.sub(rf"(?<![\w.\-]){name}=(?!=)({_VALUE})?", spell, text)
