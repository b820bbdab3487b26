"""The reference lists what is public, and docstrings describe the parameters there are."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import cache

import pytest
from docs_pages import DOCS, MODULES, extension, page

import scgim
from scgim.inference import FitConfig


@cache
def reference() -> dict[str, set[str]]:
    """Module -> the names that its page in docs/api lists."""
    found: dict[str, set[str]] = {}
    for path in sorted((DOCS / "api").glob("*.md")):
        module = ""
        for block in re.findall(r"```\{eval-rst\}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S):
            for line in block.splitlines():
                if line.startswith(".. currentmodule::"):
                    module = line.split()[-1]
                elif line.startswith(".. py:data::"):
                    module_of_data, _, name = line.split()[-1].rpartition(".")
                    found.setdefault(module_of_data, set()).add(name)
                elif re.fullmatch(r"   \w+", line):
                    found.setdefault(module, set()).add(line.strip())
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    public = set(importlib.import_module(f"scgim.{name}").__all__)
    listed = reference().get(f"scgim.{name}", set())
    assert not public - listed, f"add to docs/api/{name}.md: {sorted(public - listed)}"
    assert not listed - public, f"docs/api/{name}.md lists what is not public: {sorted(listed - public)}"


def test_the_reference_lists_what_exists() -> None:
    for module, names in reference().items():
        missing = [name for name in names if not hasattr(importlib.import_module(module), name)]
        assert not missing, f"{module} has no {missing}"


def public_functions() -> list[tuple[str, object]]:
    pairs = [(f"scgim.{m}.{n}", getattr(getattr(scgim, m), n)) for m in MODULES for n in getattr(scgim, m).__all__]
    return [(name, thing) for name, thing in pairs if callable(thing)]


@pytest.mark.parametrize(
    ("name", "thing"), public_functions(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_docstrings_describe_the_parameters_there_are(name: str, thing: object) -> None:
    """A section `Parameters`, where there is one, names the parameters of the signature and no others."""
    text = inspect.getdoc(thing)
    assert text, f"{name} has no docstring"
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-{3,}|\Z)", text, flags=re.M | re.S)
    if section is None:
        return
    documented = [
        entry.strip().lstrip("*")
        for line in section[1].splitlines()
        if line and not line[0].isspace()
        for entry in line.partition(" :")[0].split(",")
    ]
    real = [p for p in inspect.signature(thing).parameters if p not in {"self", "_instance"}]
    unknown = sorted(set(documented) - set(real))
    assert not unknown, f"{name} documents {unknown}, which it does not take"
    if inspect.isfunction(thing):
        settings = set(FitConfig.__dataclass_fields__) if "settings" in real else set()  # documented there
        missing = sorted(set(real) - set(documented) - settings)
        assert not missing, f"{name} does not document {missing}"


#: Mistakes that make a page of the reference wrong: sections that are unknown or in another order than numpydoc's, no
#: docstring, and parameters that are unknown or in another order than the signature's.
MISTAKES = {"GL06", "GL07", "GL08", "PR02", "PR03"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in public_functions()])
def test_docstrings_have_the_form_of_numpydoc(name: str) -> None:
    validate = pytest.importorskip(
        "numpydoc.validate", reason='numpydoc is not installed: pip install -e ".[docs]"'
    ).validate
    wrong = [message for code, message in validate(name)["errors"] if code in MISTAKES]
    assert not wrong, f"{name}: {wrong}"


def test_the_command_line_page_shows_every_command() -> None:
    command_line = extension("command_line")
    from scgim.cli import build_parser

    shown = set(re.findall(r"\.\. scgim-help::(.*)", page("command_line.md")))

    def walk(parser, words: tuple[str, ...]) -> None:
        assert (f" {' '.join(words)}" if words else "") in shown, (
            f"docs/command_line.md lacks `scgim {' '.join(words)}`"
        )
        for word, below in command_line.commands_of(parser).items():
            walk(below, (*words, word))

    walk(build_parser(), ())
    assert "--dose-key" in command_line.help_of("fit")
