"""The script that measures causal baselines: its design, its page, and what it says of methods that cannot run."""

from __future__ import annotations

import pandas as pd
import pytest

TINY = ["--genes", "4", "--perturbations", "3", "--cells", "60", "--controls", "300", "--large-seeds="]


@pytest.fixture
def script(script):
    """The script itself."""
    return script("causal_baselines")


def test_page_and_table(script, tmp_path, capsys):
    script.main(["--seeds", "0:2", "--methods", "ut_igsp", "--out", str(tmp_path), *TINY])
    page, table = (tmp_path / "causal_baselines.md").read_text(), pd.read_csv(tmp_path / "causal_baselines.csv")
    assert page.strip() in capsys.readouterr().out
    assert "**simulated**" in page and "4 genes" in page and "Edge-F1, favoured >= 0.95" in page
    assert len(table) == 4 and set(table["seed"]) == {0, 1}
    assert table["edge_f1"].between(0, 1).all() and (table["seconds"] > 0).all()


def test_methods_that_cannot_run_are_named(script, tmp_path, monkeypatch):
    methods = [
        script.Compared("Not there", "nowhere:Nothing"),
        script.Compared("UT-IGSP", "ut_igsp:UTIGSP", goals={"edge_f1": 0.5}),
    ]
    monkeypatch.setattr(script, "METHODS", methods)
    script.main(["--seeds", "0", "--out", str(tmp_path), *TINY, "--cells", "3"])  # too few cells for the tests
    page, table = (tmp_path / "causal_baselines.md").read_text(), pd.read_csv(tmp_path / "causal_baselines.csv")
    assert "Not there is left out" in page
    assert "its tests need at least 5 cells" in page and "NOT reached" in page
    assert table["failure"].notna().all()


def test_the_large_design_has_a_table_of_its_own(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "LARGE", {**script.LARGE, "genes": 5, "perturbations": 2})
    argv = ["--seeds", "0", "--methods", "ut_igsp", "--out", str(tmp_path), *TINY, "--large-seeds", "0"]
    script.main(argv)
    table = pd.read_csv(tmp_path / "causal_baselines.csv")
    assert table.groupby("design").size().to_dict() == {"easy": 2, "large": 2}
    assert "## The large design" in (tmp_path / "causal_baselines.md").read_text()


def test_every_target_set_is_one_condition(script):
    data, graph, targets = script.simulate(3, genes=6, perturbations=5, cells=10, controls=20)
    assert data.x.shape == (70, 6) and graph.shape == (6, 6) and targets.shape == (6, 6)
    assert len({tuple(row) for row in targets[1:]}) == 5
    assert not targets[0].any() and targets[1:].sum(1).max() <= 2
