"""The committed notebooks are whole, executed, portable, and speak of functions that exist."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import scgim

FOLDER = Path(__file__).resolve().parents[2] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 400_000  # bytes
EXPECTED = (
    "01_first_fit",
    "02_a_dose_nobody_tried",
    "03_your_own_data",
    "04_where_does_the_drug_act",
    "05_new_drugs_and_combinations",
    "06_sciplex3",
    "07_benchmark_your_method",
)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def tagged(cell: dict[str, Any], tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


def texts_of(output: dict[str, Any]) -> Iterator[str]:
    """Everything in an output that a reader sees as text."""
    for value in (output.get("text", ""), output.get("traceback", []), output.get("evalue", "")):
        yield "".join(value)
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield "".join(value)


def test_there_are_the_seven() -> None:
    assert tuple(path.stem for path in NOTEBOOKS) == EXPECTED


@each_notebook
def test_notebook_is_valid_and_stripped(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert set(notebook["metadata"]["language_info"]) == {"name"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        assert set(cell["metadata"]) <= {"tags"}


@each_notebook
def test_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < LARGEST


@each_notebook
def test_begins_with_a_title_and_prose_and_ends_with_an_exercise(path: Path) -> None:
    texts = [source(cell) for cell in cells(path, "markdown")]
    title, about = texts[0].split("\n\n")[:2]
    assert title.startswith("# ")
    assert about[0].isalpha(), "the gallery of the site shows the first paragraph"
    assert "## Exercise" in texts[-1]


@each_notebook
def test_was_executed_from_top_to_bottom(path: Path) -> None:
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) >= len(code) // 2
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"])


@each_notebook
def test_errors_are_the_intended_ones(path: Path) -> None:
    for cell in cells(path, "code"):
        errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
        assert bool(errors) == tagged(cell, "raises-exception"), source(cell)


@each_notebook
def test_warnings_are_the_intended_ones(path: Path) -> None:
    """Where scgim may warn (it depends on the data at hand) and the text explains it, the cell has the tag `warns`."""
    for cell in cells(path, "code"):
        warned = [output["text"] for output in cell["outputs"] if output.get("name") == "stderr"]
        assert not warned or tagged(cell, "warns"), (source(cell), warned)


@each_notebook
def test_no_absolute_path(path: Path) -> None:
    # put together here, so that this file does not hold them itself
    folders = "|".join(["work", "tmp", "root", "home", "opt", "mnt", "usr", "var", "private", "Users"])
    pattern = re.compile(rf"(?<![\w.:/}}<])/(?:{folders})/\w|\b[A-Z]:\\\w")
    for cell in [*cells(path, "markdown"), *cells(path, "code")]:
        for text in (source(cell), *(t for output in cell.get("outputs", []) for t in texts_of(output))):
            assert not pattern.search(text), text[:300]


def names_used(tree: ast.AST) -> Iterator[str]:
    """Every `scgim.x.y` of a piece of code, written out or imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "scgim":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and (name := dotted(node)):
            yield name


def dotted(node: ast.expr) -> str:
    """`scgim.pp.prepare` for that expression; empty for what does not begin with scgim."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not (isinstance(node, ast.Name) and node.id == "scgim"):
        return ""
    return ".".join(["scgim", *reversed(names)])


def resolve(name: str) -> Any:
    found: Any = scgim
    for attribute in name.split(".")[1:]:
        if not hasattr(found, attribute):
            __import__(found.__name__ + "." + attribute)  # a submodule that nothing has imported yet
        found = getattr(found, attribute)
    return found


@each_notebook
def test_code_compiles_and_fits_the_functions(path: Path) -> None:
    used = 0
    for cell in cells(path, "code"):
        tree = ast.parse(source(cell))
        for name in names_used(tree):
            assert resolve(name) is not None
            used += 1
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (name := dotted(node.func)):
                keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                inspect.signature(resolve(name)).bind_partial(*[None] * len(node.args), **keywords)
    assert used >= 5


@each_notebook
def test_code_in_the_text_compiles(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for block in re.findall(r"^```python\n(.*?)^```", source(cell), flags=re.M | re.S):
            for name in names_used(ast.parse(block)):
                assert resolve(name) is not None


@each_notebook
def test_links_lead_to_tutorials(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)]+)\)", source(cell)):
            assert target.startswith("https://") or (FOLDER / target).is_file(), target


def test_the_list_names_every_tutorial() -> None:
    listed = re.findall(r"\]\((\w+\.ipynb)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert listed == [path.name for path in NOTEBOOKS]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SCGIM_RUN_TUTORIALS"), reason="set SCGIM_RUN_TUTORIALS=1 to execute them")
@each_notebook
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for file in (path, FOLDER / "execute.py"):  # a copy, so that the committed outputs stay
        shutil.copy(file, tmp_path)
    subprocess.run([sys.executable, str(tmp_path / "execute.py"), path.stem], check=True)
    # what it wrote passes the tests of what is committed
    copy = tmp_path / path.name
    test_was_executed_from_top_to_bottom(copy)
    test_errors_are_the_intended_ones(copy)
    test_warnings_are_the_intended_ones(copy)
