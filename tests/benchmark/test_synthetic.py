"""The synthetic experiment: its tasks, its tables from one call, its page and figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import matplotlib
import numpy as np
import pandas as pd
import pytest
from benchmark_methods import TINY
from quick_fits import quick_fits

from scgim import baselines
from scgim import benchmark as bm
from scgim.benchmark import synthetic
from scgim.benchmark.synthetic import SPLITS, SWEEPS
from scgim.cli import main

pytestmark = pytest.mark.usefixtures("quick_fits")

matplotlib.use("Agg")
SHORT = {("linear", "gim"): {"max_steps": 60}, ("linear", "mean_shift"): {"steps": 50}}
SMALL = bm.SyntheticExperiment(
    experiments=("designs", "features"), mechanisms=("linear",), graphs=("er",), interventions=("hard",), seeds=(0,),
    sweep_seeds=(0,), methods=("gim", "mean_shift", "control"), small=True, tuned=SHORT,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _few_conditions() -> Iterator[None]:
    """Transport between the cells of every condition takes most of the time of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(synthetic.SMALL, "n_perturbations", 3)
        patch.setitem(synthetic.SMALL, "n_new_targets", 2)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic")
    with quick_fits():
        bm.run_experiment(SMALL, out, jobs=0, progress=False, command="scgim benchmark synthetic --small")
    return out


def write_page(script: Callable[[str], ModuleType], run: Path, out: Path) -> str:
    return script("synthetic").main([str(run), "--name", "mine", "--out", str(out)]).read_text()


def test_names_tell_tasks_apart() -> None:
    specs = [bm.SyntheticTask(), bm.SyntheticTask(seed=1), bm.SyntheticTask(n_genes=10), bm.SyntheticTask(graph="sf")]
    assert len({spec.name for spec in specs}) == len(specs)


def test_a_task_is_the_same_every_time_and_holds_out_what_it_asks() -> None:
    first, again, other = (bm.SyntheticTask(**TINY, seed=s).load() for s in (0, 0, 1))
    for split, queries in first.splits.items():
        for query, same in zip(queries, again.splits[split], strict=True):
            assert np.array_equal(query.cells, same.cells)
    assert not np.array_equal(first.train.x, other.train.x)
    trained = {first.train.condition(row).label for row in first.train.trained}
    assert {q.condition.label for q in first.splits["train"]} == trained
    unseen = {q.condition.label for split in ("new_dose", "new_target") for q in first.splits[split]}
    assert unseen and not unseen & trained
    # judged on fresh cells: none of them was trained on
    rows = {row.tobytes() for row in first.train.x}
    assert not any(cell.tobytes() in rows for split in first.splits.values() for q in split for cell in q.cells)


def test_experiments_share_cells_and_vary_one_setting() -> None:
    experiment = bm.SyntheticExperiment(seeds=(1, 2), sweep_seeds=(1,), mechanisms=("mlp",))
    cells = experiment.cells()
    assert len(cells["designs"]) == 4 * 2 * len(experiment.methods)
    for name, (setting, values) in SWEEPS.items():
        default = getattr(bm.SyntheticTask(), setting)
        assert default in values  # the design of the other tables is one point of every sweep
        assert {getattr(c.task, setting) for c in cells[name]} == set(values)
        assert {c.name for c in cells[name]} & {c.name for c in cells["designs"]}
    with pytest.raises(ValueError, match="experiments"):
        bm.SyntheticExperiment(experiments=("nothing",))


def test_tables_and_settings_of_a_run(folder: Path) -> None:
    report = (folder / "report.txt").read_text()
    for text in ("Simulated data", "Small setting", "edge_f1", "new_target", "mean_shift"):
        assert text in report
    assert "Failed" not in report and "Without a value" not in report
    records, summary = (pd.read_csv(folder / f"{name}.csv") for name in ("results", "summary"))
    assert set(records["method"]) == {"gim", "mean_shift", "control"} and set(records["n_features"]) == {4, 8}
    row = summary[(summary["method"] == "gim") & (summary["metric"] == "edge_f1") & (summary["n_features"] == 8)]
    own = records[(records["method"] == "gim") & (records["metric"] == "edge_f1") & (records["n_features"] == 8)]
    assert row["mean"].item() == pytest.approx(own["value"].item(), rel=1e-5) and row["systems"].item() == 1
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["command"] == "scgim benchmark synthetic --small" and settings["seeds"] == [0]
    assert {f"{name}.json" for own in settings["cells"].values() for name in own} == {
        path.name for path in (folder / "cells").glob("*.json")
    }
    gim = records[(records["method"] == "gim") & (records["n_features"] == 8)].set_index(["split", "metric"])["value"]
    assert gim["graph", "is_dag"] == 1
    for split in SPLITS:
        for metric in ("target_f1", "mean_distance", "wasserstein", "kde_nll", "pearson_delta", "e_distance"):
            assert np.isfinite(gim[split, metric])
    # a method without a graph has an empty cell, no number
    assert not ((records["method"] == "control") & records["metric"].isin(["edge_f1", "target_f1"])).any()


def test_the_last_tuning_is_reported_without_a_fit(folder: Path) -> None:
    """Of an experiment that does not know what was chosen."""
    before = (folder / "results.csv").read_text()
    bm.run_experiment(replace(SMALL, tuned=None), folder, report_only=True, command="again")
    assert (folder / "results.csv").read_text() == before
    bm.run_experiment(SMALL, folder, report_only=True, command="scgim benchmark synthetic --small")


def test_page_table_and_figures(folder: Path, tmp_path: Path, script: Callable[[str], ModuleType]) -> None:
    page = write_page(script, folder, tmp_path)
    for text in ("simulated", "small setting", "scgim benchmark synthetic --small", "Edge-F1 ↑", "GIM", "Sweep"):
        assert text in page
    pictures = re.findall(r"!\[[^]]*\]\((.+?)\)", page)
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.startswith("mine_") and (tmp_path / picture).stat().st_size > 5_000
    assert "task" not in pd.read_csv(tmp_path / "mine.csv") and str(tmp_path) not in page
    (tmp_path / "mine.md").write_text(page + "\n## Reading\n\nBy hand.\n")
    assert write_page(script, folder, tmp_path).endswith("## Reading\n\nBy hand.\n")


def test_learned_curves_belong_to_true_targets(folder: Path, script: Callable[[str], ModuleType]) -> None:
    cell = SMALL.cells()["designs"][0]
    curves = pd.DataFrame(bm.stored(cell, folder)["curves"])
    truth = cell.task.simulate().uns["truth"]["hill"]
    assert set(curves["perturbation"]) <= set(truth["perturbation"].astype(str))
    top = curves[curves["dose"] == curves["dose"].max()]
    assert (top["true"] > 0).all()
    axes = script("figures").hill_curves(curves, n=3)
    assert len(axes) == 3
    drawn = axes[0].lines[0].get_xydata()
    first = curves[(curves["perturbation"] == curves["perturbation"][0]) & (curves["gene"] == curves["gene"][0])]
    assert np.allclose(drawn, first[["dose", "true"]])
    matplotlib.pyplot.close("all")


def test_figures_show_what_the_table_says(folder: Path, script: Callable[[str], ModuleType]) -> None:
    table = pd.read_csv(folder / "results.csv")
    table = table[table["n_features"] == 8]
    axes = script("figures").strips(table, ["edge_f1", "mean_distance"], splits=SPLITS)
    assert axes.shape == (1, 4)
    own = table[(table["method"] == "gim") & (table["metric"] == "edge_f1")]["value"].item()
    assert any(np.allclose(line.get_xdata(), own) for line in axes[0, 0].lines)
    names = [label.get_text() for label in axes[0, 0].get_yticklabels()]
    assert names == ["GIM", "mean-shift MLP", "control"]
    matplotlib.pyplot.close("all")


def test_panels_are_titled_in_words(folder: Path, script: Callable[[str], ModuleType]) -> None:
    table = pd.read_csv(folder / "results.csv")
    table = table[table["n_features"] == 8]

    def titles(splits: object) -> list[str]:
        axes = script("figures").strips(table, ["edge_f1", "mean_distance"], splits=splits)
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
    assert str(tmp_path) not in (tmp_path / "out" / "settings.json").read_text()  # it names no place
    (tmp_path / "file").write_text("")
    assert main([*argv[:-2], str(tmp_path / "file"), "-q"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["benchmark", "synthetic", "--methods", "nosuch", "--out", str(tmp_path / "b")]) == 2
    assert "nosuch" in capsys.readouterr().err
    assert main(["benchmark", "synthetic", "--seeds", "5:5"]) == 2
    assert "no seed" in capsys.readouterr().err


def test_tables_and_page_survive_methods_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[[str], ModuleType]
) -> None:
    """GIM fails everywhere, or every method does, or there is nothing at all: each time there is a page."""

    def fail(self: object, *args: object, **kwargs: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(baselines.GIMMethod, "fit", fail)
    report = bm.run_experiment(SMALL, tmp_path / "one", jobs=0, progress=False).read_text()
    assert "RuntimeError: out of order" in report and "mean_shift" in report
    page = write_page(script, tmp_path / "one", tmp_path / "pages")
    assert "RuntimeError: out of order" in page and "mean-shift MLP" in page
    assert "could not be drawn" not in page and (tmp_path / "pages" / "mine_cells_er_hard.png").is_file()
    for cls in (baselines.MeanShift, baselines.Control):
        monkeypatch.setattr(cls, "fit", fail)
    assert "out of order" in bm.run_experiment(SMALL, tmp_path / "all", jobs=0, progress=False).read_text()
    page = write_page(script, tmp_path / "all", tmp_path / "pages")
    assert "out of order" in page and "could not be drawn" not in page
    report = bm.run_experiment(SMALL, tmp_path / "none", jobs=0, progress=False, report_only=True)
    assert "No fit is finished" in report.read_text()
    assert "Seeds: none finished" in write_page(script, tmp_path / "none", tmp_path / "pages")


def test_a_page_survives_a_figure_that_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[[str], ModuleType]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no ink")

    before = write_page(script, folder, tmp_path)
    monkeypatch.setattr(script("figures"), "strips", fail)
    text = write_page(script, folder, tmp_path)
    assert text.count("could not be drawn: RuntimeError: no ink") == before.count("![Cells") + before.count("![Graph")
    assert "sweep_features.png" in text and "hill_curves.png" in text
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
    done = subprocess.run([*command, "--methods", "gim", "jci_pc"], **look)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index(["method", "split", "metric"])["value"]
    assert np.isnan(table["gim", "graph", "sid"]) and table["gim", "fit", "failed"] == 0
    assert table["gim", "graph", "edge_f1"] >= 0 and table["gim", "new_dose", "wasserstein"] > 0
    assert table["jci_pc", "fit", "failed"] == 1
    report = (tmp_path / "out" / "report.txt").read_text()
    assert "Without a value" in report and "Failed" in report and report.count("gadjid is needed here") == 1
    done = subprocess.run([*command, "--tune", "2"], **look)  # refused before the first trial
    assert done.returncode == 2 and "optuna is needed here" in done.stderr
    assert not (tmp_path / "out" / "tuning").exists()


def test_no_ratio_to_a_method_that_failed(script: Callable[[str], ModuleType]) -> None:
    ratios = script("records").ratios
    columns = ["seed", "method", "split", "metric", "value", "n"]
    rows = [(0, "gim", "fit", "failed", 1.0, 1), (0, "mean_shift", "train", "mean_distance", 2.0, 3)]
    table = pd.DataFrame(rows, columns=columns)
    assert ratios(table, ["seed"], "mean_distance", "gim", "mean_shift").empty
    assert ratios(table.assign(seed=1), ["seed"], "kde_nll", "gim", "mean_shift").empty


def test_tables_of_a_page(script: Callable[[str], ModuleType]) -> None:
    records = script("records")
    rows = [
        ("mlp", seed, method, "test", "mean_distance", v)
        for method, values in {"gim": (1.0, 2.0), "mean_shift": (2.0, 2.0)}.items()
        for seed, v in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["mechanism", "seed", "method", "split", "metric", "value"])
    summary = bm.summarise(table, ["mechanism"]).set_index("method")
    assert summary.loc["gim", "mean"] == 1.5 and summary.loc["gim", "systems"] == 2
    assert summary.loc["gim", "sem"] == pytest.approx(0.5)
    ratio = records.ratios(table, ["mechanism"], "mean_distance", "gim", "mean_shift")
    assert ratio["mean"].item() == pytest.approx(0.75) and ratio["sem"].item() == pytest.approx(0.25)
    wide = records.wide(summary.reset_index(), ["mechanism", "method"], [("test", "mean_distance"), ("test", "sid")])
    assert wide.iloc[0, 2] == "1.500 ± 0.500" and wide.shape == (2, 3)
