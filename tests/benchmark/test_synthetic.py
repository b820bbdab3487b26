"""The synthetic experiment from one call, its page and its figures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from scgim import baselines
from scgim import benchmark as bm
from scgim.benchmark import figures
from scgim.benchmark.stored import curves as learned_curves
from scgim.benchmark.synthetic import SPLITS
from scgim.cli import main

matplotlib.use("Agg")
SMALL = bm.SyntheticExperiment(
    experiments=("designs", "features"), mechanisms=("linear",), graphs=("er",), interventions=("hard",), seeds=(0,),
    sweep_seeds=(0,), methods=("gim", "mean_shift", "control"), small=True, options={"gim": {"max_steps": 60}},
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic")
    bm.run_synthetic(SMALL, out, jobs=0, progress=False, command="scgim benchmark synthetic --small")
    return out


def test_page_table_and_figures(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    for text in ("simulated", "small setting", "scgim benchmark synthetic --small", "Edge-F1 ↑", "GIM", "Sweep"):
        assert text in page
    for line in page.splitlines():
        if line.startswith("!["):
            assert (folder / line.split("(")[1].rstrip(")")).stat().st_size > 5_000
    table = pd.read_csv(folder / "results.csv")
    assert set(table["method"]) == {"gim", "mean_shift", "control"}
    assert set(table["n_features"]) == {4, 8}
    gim = table[(table["method"] == "gim") & (table["n_features"] == 8)].set_index(["split", "metric"])["value"]
    assert gim["graph", "is_dag"] == 1
    for split in SPLITS:
        for metric in ("target_f1", "mean_distance", "wasserstein", "kde_nll", "pearson_delta", "e_distance"):
            assert np.isfinite(gim[split, metric])
    # a method without a graph has an empty cell, no number
    assert not ((table["method"] == "control") & table["metric"].isin(["edge_f1", "target_f1"])).any()


def test_learned_curves_belong_to_true_targets(folder: Path) -> None:
    cell = SMALL.cells()["designs"][0]
    curves = learned_curves(cell, folder)
    truth = cell.task.simulate().uns["truth"]["hill"]
    assert set(curves["perturbation"]) <= set(truth["perturbation"].astype(str))
    top = curves[curves["dose"] == curves["dose"].max()]
    assert (top["true"] > 0).all()
    axes = figures.hill_curves(curves, n=3)
    assert len(axes) == 3
    drawn = axes[0].lines[0].get_xydata()
    first = curves[(curves["perturbation"] == curves["perturbation"][0]) & (curves["gene"] == curves["gene"][0])]
    assert np.allclose(drawn, first[["dose", "true"]])
    matplotlib.pyplot.close("all")


def test_figures_show_what_the_table_says(folder: Path) -> None:
    table = pd.read_csv(folder / "results.csv")
    table = table[table["n_features"] == 8]
    axes = figures.strips(table, ["edge_f1", "mean_distance"], splits=SPLITS)
    assert axes.shape == (1, 4)
    own = table[(table["method"] == "gim") & (table["metric"] == "edge_f1")]["value"].item()
    assert any(np.allclose(line.get_xdata(), own) for line in axes[0, 0].lines)
    names = [label.get_text() for label in axes[0, 0].get_yticklabels()]
    assert names == ["GIM", "mean-shift MLP", "control"]
    matplotlib.pyplot.close("all")


def test_panels_are_titled_in_words(folder: Path) -> None:
    table = pd.read_csv(folder / "results.csv")
    table = table[table["n_features"] == 8]

    def titles(splits: object) -> list[str]:
        axes = bm.strips(table, ["edge_f1", "mean_distance"], splits=splits)
        matplotlib.pyplot.close("all")
        return [ax.get_title() for ax in axes[0]]

    raw = ["Edge-F1 ↑", *(f"mean distance ↓\n{name}" for name in ("train", "new dose", "new target"))]
    assert titles(None) == titles(list(SPLITS)) == titles({name: name for name in SPLITS}) == raw
    assert titles({"new_dose": "doses of my own"}) == [raw[0], "mean distance ↓\ndoses of my own"]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["benchmark", "synthetic", "--small", "--experiments", "designs", "--mechanisms", "linear"]
    argv += ["--graphs", "er", "--interventions", "hard", "--seeds", "0:1", "--methods", "ridge"]
    argv += ["--out", str(tmp_path / "out"), "-q"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "ridge" in printed and (tmp_path / "out" / "results.csv").is_file()
    assert str(tmp_path) not in (tmp_path / "out" / "report.md").read_text()  # the page names no place
    (tmp_path / "file").write_text("")
    assert main([*argv[:-2], str(tmp_path / "file"), "-q"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["benchmark", "synthetic", "--methods", "nosuch", "--out", str(tmp_path / "b")]) == 2
    assert "nosuch" in capsys.readouterr().err
    assert main(["benchmark", "synthetic", "--seeds", "5:5"]) == 2
    assert "no seed" in capsys.readouterr().err


def test_a_page_survives_methods_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIM fails everywhere, or every method does, or there is nothing at all: each time there is a page."""

    def fail(self: object, *args: object, **kwargs: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(baselines.GIMMethod, "fit", fail)
    page = bm.run_synthetic(SMALL, tmp_path / "one", jobs=0, progress=False)
    text = page.read_text()
    assert "RuntimeError: out of order" in text and "mean-shift MLP" in text
    assert "could not be drawn" not in text and (tmp_path / "one" / "cells_er_hard.png").is_file()
    for cls in (baselines.MeanShift, baselines.Control):
        monkeypatch.setattr(cls, "fit", fail)
    page = bm.run_synthetic(SMALL, tmp_path / "all", jobs=0, progress=False)
    assert "out of order" in page.read_text() and "could not be drawn" not in page.read_text()
    (tmp_path / "none").mkdir()
    page = bm.run_synthetic(SMALL, tmp_path / "none", jobs=0, progress=False, report_only=True)
    assert "Seeds: none finished" in page.read_text()


def test_a_page_survives_a_figure_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no ink")

    before = (folder / "report.md").read_text()
    monkeypatch.setattr(figures, "strips", fail)
    page = bm.run_synthetic(SMALL, folder, jobs=0, progress=False, report_only=True)
    text = page.read_text()
    assert text.count("could not be drawn: RuntimeError: no ink") == before.count("![Cells") + before.count("![Graph")
    assert "sweep_features.png" in text and "hill_curves.png" in text
    bm.run_synthetic(SMALL, folder, jobs=0, progress=False, report_only=True)
    assert not matplotlib.pyplot.get_fignums()


def test_the_first_command_without_the_extras(tmp_path: Path) -> None:
    """As after the README's installation: gadjid, optuna, POT are not there, in the children neither."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in ("gadjid", "optuna", "ot", "pooch", "gnies", "causallearn"):
        (stubs / f"{name}.py").write_text(f"raise ModuleNotFoundError('absent', name={name!r})\n")
    command = [sys.executable, "-m", "scgim", "benchmark", "synthetic", "--small", "--experiments", "designs"]
    command += ["--mechanisms", "linear", "--graphs", "er", "--interventions", "hard", "--out", "out"]
    path = os.pathsep.join([str(stubs), *(p for p in sys.path if p)])
    environment = {**os.environ, "PYTHONPATH": path}
    look = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([*command, "--methods", "gim", "control", "jci_pc"], **look)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index(["method", "split", "metric"])["value"]
    assert np.isnan(table["gim", "graph", "sid"]) and table["gim", "fit", "failed"] == 0
    assert table["gim", "graph", "edge_f1"] >= 0 and table["gim", "new_dose", "wasserstein"] > 0
    assert table["jci_pc", "fit", "failed"] == 1
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Without a value" in page and "## Failed" in page and page.count("gadjid is needed here") == 1
    done = subprocess.run([*command, "--tune", "2"], **look)  # refused before the first trial
    assert done.returncode == 2 and "optuna is needed here" in done.stderr
    assert not (tmp_path / "out" / "tuning").exists()
