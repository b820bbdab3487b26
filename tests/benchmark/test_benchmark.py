"""Tasks, runs that resume, and what is made of their results."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmark_methods import TINY, Broken, Dying, Known, Slow

from scgim import benchmark as bm
from scgim.benchmark import report, scores
from scgim.benchmark.experiments import SWEEPS, SyntheticExperiment

run_module = importlib.import_module("scgim.benchmark.run")  # the package has a function of that name


def value(table: pd.DataFrame, split: str, metric: str) -> float:
    found = table.loc[(table["split"] == split) & (table["metric"] == metric), "value"]
    assert len(found) == 1
    return float(found.iloc[0])


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


def test_names_tell_tasks_apart() -> None:
    specs = [bm.SyntheticTask(), bm.SyntheticTask(seed=1), bm.SyntheticTask(n_genes=10), bm.SyntheticTask(graph="sf")]
    assert len({spec.name for spec in specs}) == len(specs)


def test_scores_of_a_method_that_knows_the_truth(tmp_path: Path) -> None:
    task = bm.SyntheticTask(**TINY)
    cells = [bm.Cell(task, bm.Method("known", Known)), bm.Cell(task, bm.Method("flipped", Known, {"flip": True}))]
    table = bm.run(cells, tmp_path, jobs=0, progress=False)
    known, flipped = (table[table["method"] == name] for name in ("known", "flipped"))
    assert value(known, "graph", "edge_f1") == 1 and value(known, "graph", "sid") == 0
    assert value(flipped, "graph", "edge_f1") == 0 and value(flipped, "graph", "skeleton_f1") == 1
    for split in ("train", "new_dose", "new_target"):
        assert value(known, split, "target_f1") == 1
        assert value(known, split, "mean_distance") > 0


def test_what_is_finished_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = bm.SyntheticTask(**TINY)
    cells = [bm.Cell(task, bm.Method("known", Known)), bm.Cell(task, bm.Method("ridge"))]
    bm.run(cells[:1], tmp_path, jobs=0, progress=False)
    fitted = []
    monkeypatch.setattr(Known, "fit", lambda self, data, rng=0: fitted.append(1))
    table = bm.run(cells, tmp_path, jobs=0, progress=False)
    assert not fitted and set(table["method"]) == {"known", "ridge"}
    # other options: the stored result does not count
    monkeypatch.undo()
    changed = bm.Cell(task, bm.Method("known", Known, {"flip": True}))
    table = bm.run([changed], tmp_path, jobs=0, progress=False)
    assert value(table, "graph", "edge_f1") == 0


def test_failures_are_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    task = bm.SyntheticTask(**TINY)
    kinds = {"broken": Broken, "slow": Slow, "dying": Dying, "known": Known}
    cells = [bm.Cell(task, bm.Method(name, kind)) for name, kind in kinds.items()]
    table = bm.run(cells, tmp_path, jobs=2, time_limit=25, progress=False)
    failed = bm.failures(cells, tmp_path).set_index("method")["reason"]
    assert "it is broken" in failed["broken"]
    assert "25 s" in failed["slow"]
    assert "exit code 3" in failed["dying"]
    known = table[table["method"] == "known"]
    assert value(known, "fit", "failed") == 0 and value(known, "fit", "peak_memory_mib") > 50
    # failures are results, too: run again only when asked
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.json")}
    bm.run(cells, tmp_path, jobs=1, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.json")}
    bm.run(cells[:1], tmp_path, jobs=0, retry_failed=True, progress=False)
    assert (tmp_path / "cells" / f"{cells[0].name}.json").stat().st_mtime_ns > min(before.values())


def test_no_ratio_to_a_method_that_failed(tmp_path: Path) -> None:
    columns = ["seed", "method", "split", "metric", "value", "n"]
    rows = [(0, "gim", "fit", "failed", 1.0, 1), (0, "mean_shift", "train", "mean_distance", 2.0, 3)]
    table = pd.DataFrame(rows, columns=columns)
    assert report.ratios(table, ["seed"], "mean_distance", "gim", "mean_shift").empty
    assert report.ratios(table.assign(seed=1), ["seed"], "kde_nll", "gim", "mean_shift").empty


def test_a_metric_without_its_package_is_empty_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = bm.SyntheticTask(**TINY)
    cells = [bm.Cell(task, bm.Method(name, Known)) for name in ("known", "again")]
    monkeypatch.setitem(sys.modules, "gadjid", None)
    table = bm.run(cells, tmp_path, jobs=0, progress=False)
    for name in ("known", "again"):
        own = table[table["method"] == name]
        assert np.isnan(value(own, "graph", "sid"))
        assert value(own, "graph", "edge_f1") == 1 and value(own, "fit", "failed") == 0
        assert own.loc[own["split"] == "new_dose", "value"].notna().all()
    assert "note" not in table
    found = bm.notes(cells, tmp_path)
    assert found["cells"].tolist() == [2] and found["methods"].tolist() == ["known, again"]
    assert 'pip install "scgim[metrics]"' in found["note"].item()
    assert caplog.text.count("gadjid") == 1  # said once, not for every cell
    # with the package there, these cells are run again where one asks for it
    monkeypatch.undo()
    pytest.importorskip("gadjid")
    table = bm.run(cells, tmp_path, jobs=0, retry_failed=True, progress=False)
    assert table.loc[table["metric"] == "sid", "value"].tolist() == [0.0, 0.0]
    assert bm.notes(cells, tmp_path).empty


@pytest.mark.parametrize("metric", ["edge_f1", "target_f1", "kde_nll", "wasserstein", "pearson_delta"])
def test_a_metric_that_fails_leaves_the_others(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scgim import metrics

    def fail(*args: object, **kwargs: object) -> float:
        raise RuntimeError("no")

    known, task = Known().fit(bm.SyntheticTask(**TINY).load().train), bm.SyntheticTask(**TINY).load()
    complete = {(row["split"], row["metric"]) for row in bm.score(known, task, 0)}
    monkeypatch.setattr(metrics, metric, fail)
    if metric == "pearson_delta":  # the table of scores holds the function itself
        monkeypatch.setitem(scores._CELL_METRICS, metric, fail)
    rows = bm.score(known, task, 0)
    assert {(row["split"], row["metric"]) for row in rows} == complete
    for row in rows:
        assert np.isnan(row["value"]) == (row["metric"] == metric) == (row.get("note") == f"{metric}: no")


def test_what_fails_after_the_scores_leaves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no drawing")

    monkeypatch.setattr(run_module, "details", fail)
    cells = [bm.Cell(bm.SyntheticTask(**TINY), bm.Method("known", Known))]
    table = bm.run(cells, tmp_path, jobs=0, progress=False)
    assert value(table, "graph", "edge_f1") == 1
    assert "no drawing" in bm.notes(cells, tmp_path)["note"].item()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_run_leaves_no_fit_behind(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "from scgim import benchmark as bm; from benchmark_methods import TINY, Announced\n"
        "if __name__ == '__main__':\n"
        f"    cell = bm.Cell(bm.SyntheticTask(**TINY), bm.Method('a', Announced, {{'file': {str(note)!r}}}))\n"
        f"    bm.run([cell], {str(tmp_path)!r}, jobs=1, progress=False)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    main = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path})
    try:
        assert _within(120, lambda: note.is_file() and note.read_text() != "")
        assert main.poll() is None
    finally:
        main.kill()  # SIGKILL: no clean-up of its own
        main.wait()
    child = Path("/proc", note.read_text())
    assert _within(30, lambda: not child.is_dir())


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_results_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    cells = [bm.Cell(bm.SyntheticTask(**TINY), bm.Method(name)) for name in ("control", "mean_shift")]
    here = bm.run(cells, tmp_path / "a", jobs=0, progress=False)
    there = bm.run(cells, tmp_path / "b", jobs=2, progress=False)
    timeless = ["seconds", "cpu_seconds", "peak_memory_mib"]
    pd.testing.assert_frame_equal(
        here[~here["metric"].isin(timeless)].reset_index(drop=True),
        there[~there["metric"].isin(timeless)].reset_index(drop=True),
    )


def test_bad_runs_are_refused_before_work(tmp_path: Path) -> None:
    task = bm.SyntheticTask(**TINY)
    with pytest.raises(ValueError, match="nosuch"):
        bm.run([bm.Cell(task, bm.Method("nosuch"))], tmp_path, jobs=0)
    with pytest.raises(ValueError, match="Two cells"):
        bm.run([bm.Cell(task, bm.Method("ridge"))] * 2, tmp_path, jobs=0)
    with pytest.raises(ValueError, match="jobs"):
        bm.run([bm.Cell(task, bm.Method("ridge"))], tmp_path, jobs=0, time_limit=5)
    assert not list(tmp_path.rglob("*.json"))


def test_nan_survives_the_file(tmp_path: Path) -> None:
    cell = bm.Cell(bm.SyntheticTask(**TINY), bm.Method("ridge"))
    bm.run([cell], tmp_path, jobs=0, progress=False)
    path = tmp_path / "cells" / f"{cell.name}.json"
    stored = json.loads(path.read_text())
    stored["rows"][0]["value"] = None
    path.write_text(json.dumps(stored))
    assert np.isnan(bm.results([cell], tmp_path)["value"]).sum() == 1


def test_summaries() -> None:
    rows = [
        ("mlp", seed, method, "test", "mean_distance", v)
        for method, values in {"gim": (1.0, 2.0), "mean_shift": (2.0, 2.0)}.items()
        for seed, v in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["mechanism", "seed", "method", "split", "metric", "value"])
    summary = report.summarise(table, ["mechanism"]).set_index("method")
    assert summary.loc["gim", "mean"] == 1.5 and summary.loc["gim", "systems"] == 2
    assert summary.loc["gim", "sem"] == pytest.approx(0.5)
    ratio = report.ratios(table, ["mechanism"], "mean_distance", "gim", "mean_shift")
    assert ratio["mean"].item() == pytest.approx(0.75) and ratio["sem"].item() == pytest.approx(0.25)
    wide = report.wide(summary.reset_index(), ["mechanism", "method"], [("test", "mean_distance"), ("test", "sid")])
    assert wide.iloc[0, 2] == "1.500 ± 0.500" and wide.shape == (2, 3)


def test_experiments_share_cells_and_vary_one_setting() -> None:
    experiment = SyntheticExperiment(seeds=(1, 2), sweep_seeds=(1,), mechanisms=("mlp",))
    cells = experiment.cells()
    assert len(cells["designs"]) == 4 * 2 * len(experiment.methods)
    for name, (setting, values) in SWEEPS.items():
        default = getattr(bm.SyntheticTask(), setting)
        assert default in values  # the design of the other tables is one point of every sweep
        assert {getattr(c.task, setting) for c in cells[name]} == set(values)
        assert {c.name for c in cells[name]} & {c.name for c in cells["designs"]}
    with pytest.raises(ValueError, match="experiments"):
        SyntheticExperiment(experiments=("nothing",))
