"""The site builds without warnings, with and without tutorials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_pages import DOCS, PAGES, REPOSITORY, extension


def notebook(title: str, picture: str | None) -> str:
    outputs = (
        [] if picture is None else [{"output_type": "display_data", "metadata": {}, "data": {"image/png": picture}}]
    )
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": [f"# {title}\n", "\n", "What it\n", "is about.\n"]},
        {"cell_type": "code", "metadata": {}, "execution_count": 1, "outputs": outputs, "source": ["1 + 1"]},
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_the_gallery_shows_the_notebooks_there_are(tmp_path: Path) -> None:
    tutorials = extension("tutorials")
    source, target = tmp_path / "tutorials", tmp_path / "docs" / "generated" / "tutorials"
    assert tutorials.gather(source, target) == []
    assert "toctree" not in (target / "gallery.md").read_text()

    source.mkdir()
    (source / "02_second.ipynb").write_text(notebook("Second", None))
    (source / "01_first.ipynb").write_text(notebook("First", "aGVsbG8="))
    found = tutorials.gather(source, target)
    assert [(t.name, t.title, t.about) for t in found] == [
        ("01_first", "First", "What it is about."),
        ("02_second", "Second", "What it is about."),
    ]
    assert (target / "01_first.png").read_bytes() == b"hello"
    text = (target / "gallery.md").read_text()
    assert text.index("generated/tutorials/01_first") < text.index("generated/tutorials/02_second")

    (source / "01_first.ipynb").unlink()  # what is gone does not stay in the site
    tutorials.gather(source, target)
    assert not (target / "01_first.ipynb").exists()


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    for name in (
        "sphinx",
        "myst_nb",
        "sphinx_book_theme",
        "sphinx_autodoc_typehints",
        "sphinx_copybutton",
        "sphinx_design",
    ):
        pytest.importorskip(name, reason=f'{name} is not installed: pip install -e ".[docs]"')
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*command, str(DOCS), str(tmp_path / "html")], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in PAGES:
        assert (tmp_path / "html" / path.relative_to(DOCS).with_suffix(".html")).is_file(), path
    html = (tmp_path / "html" / "generated" / "api" / "scgim.pp.prepare.html").read_text(encoding="utf-8")
    assert "<strong>return_summary</strong>" in html, "the reference holds no docstrings"
    html = (tmp_path / "html" / "command_line.html").read_text(encoding="utf-8")
    assert "--hold-out" in html
    for name in ("index.html", "guide/model.html"):
        text = (tmp_path / "html" / name).read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?://[^\"]+)\"", text)
        assert not fetched, f"{name} loads {fetched} from elsewhere"
    assert (tmp_path / "html" / "llms.txt").is_file()
