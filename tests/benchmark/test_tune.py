"""Hyper-parameters are chosen on training data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from scgim import benchmark as bm
from scgim.baselines import Baseline, CannotPredict, Range

pytest.importorskip("optuna", reason="the extra tune is not installed")

SPEC = bm.SyntheticTask(
    mechanism="linear",
    n_genes=5,
    n_perturbations=5,
    n_features=4,
    n_new_targets=2,
    n_control=60,
    cells_per_condition=20,
)


class Shifted(Baseline):
    """The pooled training cells, moved by a hyper-parameter: the best value is 0."""

    name: ClassVar[str] = "shifted"
    can_predict_unseen: ClassVar[bool] = True
    search_space: ClassVar[dict[str, Any]] = {"by": Range(-20.0, 20.0)}

    def __init__(self, by: float = 15.0, fails_above: float = np.inf) -> None:
        self.by, self.fails_above = by, fails_above

    def fit(self, data, rng=0):
        if self.by > self.fails_above:
            raise CannotPredict("too far")
        self.cells_ = data.x
        return self

    def sample(self, condition, n, rng=0):
        return np.random.default_rng(rng).choice(self.cells_, n) + np.float32(self.by)


def test_validation_tasks_hold_out_training_cells_only() -> None:
    whole = SPEC.load()
    for kind in ("conditions", "highest_dose", "cells"):
        task = bm.ValidationTask(SPEC, kind).load()
        assert task.graph is None and list(task.splits) == ["valid"]
        held = np.concatenate([q.cells for q in task.splits["valid"]])
        rows = {row.tobytes() for row in whole.train.x}
        assert len(held) and all(cell.tobytes() in rows for cell in held)
        kept = {row.tobytes() for row in task.train.x}
        assert not any(cell.tobytes() in kept for cell in held)
        assert task.train.control.any()
        unseen = {q.condition.label for q in task.splits["valid"]}
        trained = {task.train.condition(row).label for row in task.train.trained}
        assert (unseen <= trained) if kind == "cells" else not unseen & trained
        if kind == "highest_dose":
            (query,) = task.splits["valid"]
            assert query.condition.dose == 2.0


def test_tuning_finds_the_better_value_and_goes_on_where_it_was(tmp_path: Path) -> None:
    method, trials = bm.tune(bm.Method("shifted", Shifted), [SPEC], tmp_path, n_trials=8, jobs=0, progress=False)
    assert abs(method.options["by"]) < 15
    assert trials["chosen"].sum() == 1 and trials["e_distance"].idxmin() == np.flatnonzero(trials["chosen"])[0]
    assert trials["by"].isna().tolist() == [True] + [False] * 7  # the first trial is the default
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}
    again, _ = bm.tune(bm.Method("shifted", Shifted), [SPEC], tmp_path, n_trials=8, jobs=0, progress=False)
    assert again.options == method.options
    assert stamps == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}


@pytest.mark.parametrize(("metric", "best"), [("kde_nll", "idxmin"), ("pearson_means", "idxmax")])
def test_what_is_chosen_by_can_be_chosen(tmp_path: Path, metric: str, best: str) -> None:
    how: dict[str, Any] = {"n_trials": 4, "jobs": 0, "progress": False, "metric": metric}
    some = bm.Method("shifted", Shifted, {"fails_above": 12.0, "by": 10.0})
    _, trials = bm.tune(some, [SPEC], tmp_path, **how)
    assert getattr(trials[metric], best)() == np.flatnonzero(trials["chosen"])[0]
    with pytest.raises(ValueError, match="metric='coverage' is unknown"):  # no end of it is the better one
        bm.tune(some, [SPEC], tmp_path, **{**how, "metric": "coverage"})


def test_failing_trials_are_not_chosen(tmp_path: Path) -> None:
    failing = bm.Method("shifted", Shifted, {"fails_above": -18.0, "by": 0.0})
    with pytest.raises(RuntimeError, match="Every trial"):
        bm.tune(failing, [SPEC], tmp_path, n_trials=1, jobs=0, progress=False)
    some = bm.Method("shifted", Shifted, {"fails_above": 5.0})
    method, trials = bm.tune(some, [SPEC], tmp_path / "b", n_trials=8, jobs=0, progress=False)
    assert np.isinf(trials["e_distance"]).any() and method.options["by"] <= 5


def test_a_method_without_hyper_parameters_is_fitted_once(tmp_path: Path) -> None:
    method, trials = bm.tune(bm.Method("control"), [SPEC], tmp_path, n_trials=8, jobs=0, progress=False)
    assert len(trials) == 1 and not method.options
