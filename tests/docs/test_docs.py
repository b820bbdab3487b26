"""The pages agree with the program: their code runs, links lead somewhere, tables state what is."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from docs_pages import DOCS, PAGES, REPOSITORY, TEXTS, name_of, page, without_code

import scgim

pytestmark = pytest.mark.usefixtures("quick_fits")

#: A fenced block, with the comment on the line before it.
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]+?) -->\n)?^```python\n(?P<code>.*?)^```", flags=re.M | re.S)


def blocks(path: Path) -> list[tuple[str, str]]:
    """(note, code) of the Python blocks of a page."""
    return [(m["note"] or "", m["code"]) for m in BLOCK.finditer(path.read_text(encoding="utf-8"))]


#: A fit that has all slots and means nothing; without a search, which takes most of the time of so short a fit.
SHORT = {"init": "random", "max_steps": 3, "warmup_steps": 1, "batch_size": 64, "n_graphs": 2}

WITH_CODE = [path for path in [*TEXTS, DOCS / "llms.txt"] if blocks(path)]


@pytest.mark.parametrize("path", WITH_CODE, ids=name_of)
def test_code_compiles(path: Path) -> None:
    for note, code in blocks(path):
        ast.parse(code, filename=name_of(path))
        assert not note or note.startswith(("not run: ", "needs: ")), f"{name_of(path)}: what does {note!r} mean?"


@pytest.fixture(scope="module")
def small_cells():
    """The example data set, small: all its conditions, 30 cells of each, 120 genes."""

    def make(**arguments):
        adata = original(**{**arguments, "n_genes": 120})
        rng = np.random.default_rng(0)
        design = ["cell_line", "perturbation", "dose_value"]
        rows = [rng.permutation(rows)[:30] for rows in adata.obs.groupby(design, observed=True).indices.values()]
        return adata[np.sort(np.concatenate(rows))].copy()

    original = scgim.datasets.simulated_sciplex3
    return make


@pytest.fixture
def quick(monkeypatch, small_cells):
    """Small data and short fits behind the names that the pages use."""
    fit, prepare = scgim.tl.fit_gim, scgim.pp.prepare

    def short(adata, **arguments):
        fit(adata, **{"progress": False, **arguments, **SHORT})

    def few_genes(adata, **arguments):
        return prepare(adata, **{"n_genes": 6, "silent_genes": "drop", **arguments})

    monkeypatch.setattr(scgim.datasets, "simulated_sciplex3", small_cells)
    monkeypatch.setattr(scgim.tl, "fit_gim", short)
    monkeypatch.setattr(scgim.pp, "prepare", few_genes)


@pytest.fixture(scope="module")
def fitted(small_cells):
    """What the quick start leaves."""
    adata = small_cells()
    scgim.pp.prepare(
        adata, dose_key="dose_value", dose_unit_key="dose_unit", n_genes=6, hold_out={"Dacinostat": 10_000}
    )
    scgim.tl.fit_gim(adata, progress=False, **SHORT)
    return adata


RUN = [path for path in WITH_CODE if path.name not in {"README.md"}]


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_code_runs(path: Path, quick, fitted, monkeypatch) -> None:
    """The blocks of a page in order, on small data: results mean nothing, but every call works."""
    module = ModuleType("page")  # a dataclass looks for the module that it is defined in
    monkeypatch.setitem(sys.modules, "page", module)
    space = vars(module)
    space |= {"scgim": scgim, "adata": fitted.copy()}
    for note, code in blocks(path):
        if note.startswith("not run: "):
            continue
        if note.startswith("needs: "):
            try:
                importlib.import_module(note.removeprefix("needs: "))
            except ImportError:
                continue
        exec(compile(code, name_of(path), "exec"), space)


def links(path: Path) -> Iterator[str]:
    text = without_code(path.read_text(encoding="utf-8"))
    yield from re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", text)


def anchors(path: Path) -> set[str]:
    """What a link may name behind the #: headings, as GitHub writes them, and labels."""
    text = path.read_text(encoding="utf-8")
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)]
    return {heading.replace(" ", "-") for heading in plain} | set(re.findall(r"^\(([\w-]+)\)=$", text, flags=re.M))


@pytest.mark.parametrize("path", [*TEXTS, DOCS / "llms.txt"], ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(path):
        if target.startswith("http"):
            assert target.startswith("https://"), f"{name_of(path)}: {target}"
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if path.name == "llms.txt":  # it names pages of the site
            there = there.with_suffix(".md")
        assert there.is_file(), f"{name_of(path)} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(there), f"{name_of(path)} links to {target}: {name_of(there)} has no such heading"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_included_files_and_pictures_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"^```\{(?:include|literalinclude|image|figure)\} (\S+)", text, flags=re.M)
    named += re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", text)
    for name in named:
        assert "generated/" in name or (path.parent / name).is_file(), (
            f"{name_of(path)} shows {name}, which is not there"
        )


def test_parts_that_are_included_are_found() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for file, options in re.findall(r"^```\{(?:literal)?include\} (\S+)\n(.*?)^```", text, flags=re.M | re.S):
            whole = (path.parent / file).read_text(encoding="utf-8") if options else ""
            for mark in re.findall(r":(?:start-after|end-before): \"(.*)\"", options):
                assert mark in whole, f"{name_of(path)} includes {file} from or to {mark!r}, which is not in it"


def test_every_page_is_in_a_toctree() -> None:
    listed: set[str] = set()
    for path in PAGES:
        folder = path.parent.relative_to(DOCS)
        for body in re.findall(r"^```\{toctree\}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S):
            for line in body.splitlines():
                if line.strip() and not line.startswith(":"):
                    entry = re.sub(r".*<(.+)>$", r"\1", line.strip())  # "Title <page>"
                    pattern = (folder / entry).as_posix()
                    listed |= {p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.glob(f"{pattern}.md")}
    every = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES}
    assert every - listed == {"index"}


def test_the_page_on_inference_states_the_preset() -> None:
    """The table of settings that `preset="paper"` changes is that of the program."""
    text = page("guide/inference.md")
    section = text[text.index("(paper-preset)=") :]
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| `(.+?)` \|$", section, flags=re.M)
    default = scgim.inference.FitConfig()
    stated = {name: (ast.literal_eval(first), ast.literal_eval(second)) for name, first, second in rows}
    assert stated == {name: (getattr(default, name), value) for name, value in scgim.inference.PRESETS["paper"].items()}


def test_settings_that_the_pages_name_exist() -> None:
    fields = set(scgim.inference.FitConfig.__dataclass_fields__)
    for name in ("guide/inference.md", "guide/choices.md"):
        for cell in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page(name), flags=re.M):
            unknown = set(re.findall(r"`(\w+)`", cell)) - fields
            assert not unknown, f"docs/{name} names {unknown}, which are no settings"


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    rows = re.findall(r"^\| `(\w+)` \|", page("installation.md"), flags=re.M)
    assert sorted(rows) == sorted(project["optional-dependencies"])


def test_llms_names_functions_that_exist() -> None:
    text = page("llms.txt")
    names = set(re.findall(r"scgim((?:\.\w+)+)\(", text)) | set(re.findall(r"`scgim((?:\.\w+)+)`", text))
    assert len(names) >= 10
    for name in names:
        thing: object = scgim
        for attribute in name.strip(".").split("."):
            thing = getattr(thing, attribute)
    for call in re.findall(r"`(fit_gim|prepare|sample_cells)\(([^`]*)\)`", text):
        function = getattr(scgim.pp, call[0], None) or getattr(scgim.tl, call[0])
        given = set(re.findall(r"(\w+)=", call[1]))
        assert given <= set(inspect.signature(function).parameters), call
