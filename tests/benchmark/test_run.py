"""Runs that resume, failures that are recorded, what is kept."""

from __future__ import annotations

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
from benchmark_methods import TINY, Broken, Dying, Known, Slow, value

from scgim import benchmark as bm
from scgim.benchmark import _run


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
    table = bm.run(cells, tmp_path, jobs=2, time_limit=10, progress=False)
    failed = bm.failures(cells, tmp_path).set_index("method")["reason"]
    assert "it is broken" in failed["broken"]
    assert "10 s" in failed["slow"]
    assert "exit code 3" in failed["dying"]
    known = table[table["method"] == "known"]
    assert value(known, "fit", "failed") == 0 and value(known, "fit", "peak_memory_mib") > 50
    # failures are results, too: run again only when asked
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.json")}
    bm.run(cells, tmp_path, jobs=1, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.json")}
    bm.run(cells[:1], tmp_path, jobs=0, retry_failed=True, progress=False)
    assert (tmp_path / "cells" / f"{cells[0].name}.json").stat().st_mtime_ns > min(before.values())


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


def test_what_fails_after_the_scores_leaves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no drawing")

    monkeypatch.setattr(_run, "details", fail)
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
    rows = [(seed, method, value) for method, pair in {"a": (1.0, 2.0), "b": (2.0, np.nan)}.items()
            for seed, value in enumerate(pair)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["seed", "method", "value"]).assign(mechanism="mlp", split="test", metric="m")
    summary = bm.summarise(table, ["mechanism"]).set_index("method")
    assert summary.loc["a", "mean"] == 1.5 and summary.loc["a", "systems"] == 2
    assert summary.loc["a", "sem"] == pytest.approx(0.5)
    assert summary.loc["b", "mean"] == 2.0 and np.isnan(summary.loc["b", "sem"])
