"""Numbers that stand on a page are those of the results page that they link to; the results can be read quickly."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_pages import DOCS, PAGES, REPOSITORY, TEXTS, name_of, page

#: [numbers](page.md "beginning of the row"): the numbers stand in that row of the page.
QUOTED = re.compile(r'\[(?P<text>[^\]]+)\]\((?P<page>[^)\s]+\.md) "(?P<row>[^"]+)"\)')
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?: ± \d+\.\d+)?(?![\w.]*\d)")
RESULTS = sorted(path for path in (DOCS / "results").glob("*.md") if path.name != "README.md")
HEADLINES = {"README.md": "What to expect", "docs/results/README.md": "Headline numbers"}


def section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    assert found, f"no section {heading!r}"
    return found[1]


def rows(text: str) -> list[str]:
    """Lines of tables, in Markdown or aligned by spaces, with one space between cells."""
    return [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]


def holds(row: str, number: str) -> bool:
    return re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]| ±)", row) is not None


def quoted() -> Iterator[tuple[str, Path, str, list[str]]]:
    """(where, results page, beginning of its row, numbers)"""
    for path in TEXTS:
        for found in QUOTED.finditer(path.read_text(encoding="utf-8")):
            yield name_of(path), (path.parent / found["page"]).resolve(), found["row"], NUMBER.findall(found["text"])


def test_quoted_numbers_are_in_the_row_that_they_link_to() -> None:
    found = list(quoted())
    assert len(found) > 30
    for where, target, beginning, numbers in found:
        of_it = [row for row in rows(target.read_text(encoding="utf-8")) if row.startswith(f"{beginning} ")]
        assert numbers, f"{where} quotes no number from {beginning!r}"
        assert any(all(holds(row, number) for number in numbers) for row in of_it), (
            f"{where}: no row {beginning!r} of {name_of(target)} has {numbers}"
        )


@pytest.mark.parametrize("name", HEADLINES)
def test_every_headline_number_links_to_its_page(name: str) -> None:
    text = section((REPOSITORY / name).read_text(encoding="utf-8"), HEADLINES[name])
    table = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    (method,) = (at for at, cell in enumerate(table[0]) if cell.strip() == "scgim")
    for cells in table[2:]:
        for cell in cells[method : method + 2]:
            assert not re.search(r"\d", QUOTED.sub("", cell)), f"{name}: a number without its page in {cell!r}"


def test_outcomes_hold_numbers_of_their_pages() -> None:
    table = section(page("results/README.md"), "Every page")
    outcomes = re.findall(r"^\| \[(\w+\.md)\].*? \| [\w-]+ \| (.+) \|$", table, flags=re.M)
    assert {name for name, _ in outcomes} == {path.name for path in RESULTS}
    for name, outcome in outcomes:
        text = page(f"results/{name}")
        missing = [number for number in NUMBER.findall(outcome.replace(",", "")) if not holds(text, number)]
        assert not missing, f"{name} does not have {missing}: {outcome}"


@pytest.mark.parametrize("path", RESULTS, ids=name_of)
def test_readings_are_short_and_begin_with_the_outcome(path: Path) -> None:
    _, mark, reading = path.read_text(encoding="utf-8").partition("\n## Reading\n")
    if not mark:
        assert path.name == "demo.md", f"{path.name} has no section Reading"  # printed as a whole by a script
        return
    lines = [line for line in reading.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 5
    assert lines[0].startswith("- **")
    assert not re.search(r"\bcommit [0-9a-f]{7}\b|\baim\b", reading), "inner language"


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_names_that_a_page_refers_to_exist(path: Path) -> None:
    for name in re.findall(r"\{py:\w+\}`(scgim[\w.]*)`", path.read_text(encoding="utf-8")):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), f"{name_of(path)} names {name}"
