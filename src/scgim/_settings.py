"""What `scgim fit` hands to `pp.prepare` and `tl.fit_gim`: their arguments by name, checked before a file is read."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from textwrap import shorten
from typing import Any

from scgim import pp, tl
from scgim._arguments import InputError, gene_list, held_out
from scgim._validation import suggestion
from scgim.inference import FitConfig
from scgim.pp.inputs import check_settings as check_prepare
from scgim.tl._fit_gim import check_settings as check_fit

#: Arguments that no shell can give, that --seed gives, or that have no use where one file becomes another.
_NOT_OFFERED = ("adata", "copy", "return_summary", "progress", "group", "rng", "settings")


def prepare_defaults() -> dict[str, Any]:
    """Argument of `pp.prepare` -> its default, for those that a shell can give."""
    parameters = inspect.signature(pp.prepare).parameters
    return {name: p.default for name, p in parameters.items() if name not in _NOT_OFFERED}


def fit_defaults() -> dict[str, Any]:
    """Argument or setting of `tl.fit_gim` -> its default; what both functions take goes to `pp.prepare` first."""
    own = {name: p.default for name, p in inspect.signature(tl.fit_gim).parameters.items()}
    known = {**{field.name: field.default for field in fields(FitConfig)}, **own}
    return {name: value for name, value in known.items() if name not in (*_NOT_OFFERED, *prepare_defaults())}


def gather(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `pp.prepare` and of `tl.fit_gim`, from options and --set; names and values are checked.

    Raises
    ------
    InputError
        If a name is unknown or given twice.
    ValueError, TypeError
        If a value can be refused without looking at data.
    """
    known = {**prepare_defaults(), **fit_defaults()}
    given = {name: value for name, value in vars(args).items() if name in known}
    given |= {name: _one_or_all(given[name]) for name in ("control", "groupby") if name in given}
    given |= {name: read(given[name]) for name, read in _READ.items() if name in given}
    for name, value in args.set:
        if name not in known:
            hint = suggestion(name, known)
            raise InputError(f"--set {name}: there is no such setting.{hint} scgim fit --settings lists all.")
        if name in given:
            raise InputError(f"{name} is given twice.")
        given[name] = value
    if "hold_out" in vars(args):
        given["hold_out"] = held_out(args.hold_out, has_dose=given.get("dose_key") is not None)
    for_prepare = {name: value for name, value in given.items() if name in prepare_defaults()}
    for_fit = {name: value for name, value in given.items() if name in fit_defaults()}
    check_prepare({**prepare_defaults(), **for_prepare})
    check_fit(**for_fit)
    return {**for_prepare, "rng": args.seed}, {**for_fit, "rng": args.seed}


def _one_or_all(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


#: How the text of an option becomes the value of its argument, where it is not the value itself.
_READ: Mapping[str, Any] = {"genes": gene_list, "combination_sep": lambda text: text or None}


def describe() -> str:
    """Every setting with its default and the first sentence of its documentation."""
    lines = ["All settings of scgim fit, for --set NAME=VALUE. Those with an option of their own take either."]
    for title, defaults, documented in (
        ("preparation (scgim.pp.prepare)", prepare_defaults(), [pp.prepare]),
        ("fit (scgim.tl.fit_gim)", fit_defaults(), [FitConfig, tl.fit_gim]),
    ):
        texts = {name: text for source in documented for name, text in _documented(source)}
        lines += ["", f"{title}:"]
        lines += [f"  {name}={default}\n      {shorten(texts[name], 110)}" for name, default in defaults.items()]
    return "\n".join(lines)


def _documented(source: Any) -> Iterator[tuple[str, str]]:
    """Argument -> the first sentence of its numpydoc description."""
    text = (inspect.getdoc(source) or "").partition("Parameters\n----------\n")[2]
    names: list[str] = []
    described: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith(" "):
            described.append(line.strip())
            continue
        sentence = re.split(r"[.;] |, e\.g", " ".join(described).replace("`", "") + " ")[0].strip()
        yield from ((name, sentence) for name in names)
        names, described = [name.strip() for name in line.split(",")], []
        if not line:
            return
