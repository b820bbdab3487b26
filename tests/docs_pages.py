"""The pages of the documentation, for the tests in `docs`."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import scgim

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
SKIPPED = {"_build", "generated", "_templates"}
PAGES = sorted(path for path in DOCS.rglob("*.md") if not SKIPPED & set(path.relative_to(DOCS).parts))
TEXTS = [*PAGES, REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", REPOSITORY / "CONTRIBUTING.md"]
MODULES = [name for name in scgim.__all__ if name.islower() and not name.startswith("__")]


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    """Markdown without fenced blocks and code in the line."""
    text = re.sub(r"^(```+|~~~+).*?^\1", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]+`", "", text)


@cache
def extension(name: str) -> ModuleType:
    """A part of the documentation's build, loaded without Sphinx's help."""
    pytest.importorskip("sphinx", reason='Sphinx is not installed: pip install -e ".[docs]"')
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "extensions" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
