"""Methods for tests of the benchmark: in a module of its own, which a child process can import, too."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from scgim import benchmark as bm
from scgim.baselines import Baseline, CannotPredict

TINY: dict[str, Any] = {
    "mechanism": "linear", "n_genes": 5, "n_perturbations": 2, "n_features": 4, "n_new_targets": 2, "n_control": 60,
    "cells_per_condition": 20,
}  # fmt: skip


class Known(Baseline):
    """Knows graph and targets of the task with seed 0, and predicts control cells."""

    name: ClassVar[str] = "known"
    can_predict_unseen: ClassVar[bool] = True
    gives_graph: ClassVar[bool] = True
    gives_targets: ClassVar[bool] = True

    def __init__(self, flip: bool = False) -> None:
        self.flip = flip

    def fit(self, data, rng=0):
        self.task_ = bm.SyntheticTask(**TINY).load()
        self.control_ = data.x[data.control]
        return self

    def graph(self):
        return self.task_.graph.T if self.flip else self.task_.graph

    def targets(self, conditions):
        known = {q.condition.label: q.targets for split in self.task_.splits.values() for q in split}
        return np.stack([known[c.label] for c in conditions]).astype(float)

    def sample(self, condition, n, rng=0):
        return np.random.default_rng(rng).choice(self.control_, n)


class Broken(Known):
    name: ClassVar[str] = "broken"

    def fit(self, data, rng=0):
        raise CannotPredict("broken cannot be fitted: it is broken.")


class Slow(Known):
    name: ClassVar[str] = "slow"

    def fit(self, data, rng=0):
        time.sleep(120)
        return self


class Announced(Known):
    """Writes its process id to a file, then waits."""

    name: ClassVar[str] = "announced"

    def __init__(self, file: str = "") -> None:
        super().__init__()
        self.file = file

    def fit(self, data, rng=0):
        Path(self.file).write_text(str(os.getpid()))
        time.sleep(120)
        return self


class Dying(Known):
    name: ClassVar[str] = "dying"

    def fit(self, data, rng=0):
        os._exit(3)


def value(table: pd.DataFrame, split: str, metric: str) -> float:
    """The one value of a metric in results."""
    found = table.loc[(table["split"] == split) & (table["metric"] == metric), "value"]
    assert len(found) == 1
    return float(found.iloc[0])
