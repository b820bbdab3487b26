"""Scores of a method on a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark_methods import TINY, Known, value

from scgim import benchmark as bm
from scgim.metrics import METRICS


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


@pytest.mark.parametrize("metric", ["edge_f1", "target_f1", "kde_nll", "wasserstein", "pearson_delta"])
def test_a_metric_that_fails_leaves_the_others(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> float:
        raise RuntimeError("no")

    task = bm.SyntheticTask(**TINY).load()
    known = Known().fit(task.train)
    complete = {(row["split"], row["metric"]) for row in bm.score(known, task, 0, n_transported=1)}
    monkeypatch.setitem(METRICS, metric, replace(METRICS[metric], function=fail))
    rows = bm.score(known, task, 0, n_transported=1)
    assert {(row["split"], row["metric"]) for row in rows} == complete
    for row in rows:
        assert np.isnan(row["value"]) == (row["metric"] == metric) == (row.get("note") == f"{metric}: no")
