"""Pages of `scgim benchmark` among the results."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


def test_publish_renames_figures_and_keeps_the_reading(tmp_path: Path) -> None:
    publish = importlib.import_module("publish").publish
    folder, out = tmp_path / "run", tmp_path / "results"
    folder.mkdir()
    (folder / "report.md").write_text("# Title\n\nvalue 1\n\n![a](cells.png)\n")
    (folder / "cells.png").write_bytes(b"picture")
    pd.DataFrame({"task": ["t"], "value": [1.0]}).to_csv(folder / "results.csv", index=False)
    page = publish(folder, "mine", out)
    assert "](mine_cells.png)" in page.read_text() and (out / "mine_cells.png").read_bytes() == b"picture"
    assert list(pd.read_csv(out / "mine.csv")) == ["value"]
    page.write_text(page.read_text() + "\n## Reading\n\nBy hand.\n")
    publish(folder, "mine", out)
    assert page.read_text().endswith("By hand.\n") and "earlier run" not in page.read_text()
    (folder / "report.md").write_text("# Title\n\nvalue 2\n\n![a](cells.png)\n")
    publish(folder, "mine", out)
    assert "By hand." in page.read_text() and "earlier run" in page.read_text()
