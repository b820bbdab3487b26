"""What both suites share: methods fitted once, whose answers are kept, so that an interrupted run goes on."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the scripts are that know the data
from recording import Note, data_file, make_parser, mean_and_spread, use_threads

if TYPE_CHECKING:
    from scgim.baselines import Baseline
    from scgim.benchmark import Method
    from scgim.data import PerturbationData

__all__ = ["Note", "data_file", "make_parser", "mean_and_spread", "use_threads"]
Arrays = dict[str, np.ndarray]


def need(module: str, install: str) -> None:
    """End the script with a sentence where a suite is not installed."""
    if importlib.util.find_spec(module) is None:
        sys.exit(f"The package {module} was not found: {install}.")


def fitted(method: Method, train: PerturbationData, seed: int, seconds: float | None = None) -> tuple[Baseline, float]:
    """The method, fitted with one thread on cells that are never below 0, and its CPU seconds.

    With a limit of `seconds` it is fitted in a process of its own, and its time is what passed.
    """
    from scgim._process import one_thread
    from scgim.baselines import fit_within
    from scgim.benchmark import Task
    from scgim.benchmark.tasks import options_of_data

    task = Task(train, {}, None, options_of_data({"mechanism": "ziln"}, positive=True))
    with one_thread():
        if seconds is not None:
            baseline = fit_within(method.make(task), train, seed, seconds=seconds)
            return baseline, baseline.fit_seconds_
        start = time.process_time()
        baseline = method.make(task).fit(train, seed)
        return baseline, time.process_time() - start


def kept(folder: Path, name: str, what: Mapping[str, Any], make: Callable[[], Arrays]) -> tuple[Arrays, str]:
    """Arrays of an earlier run with the same settings, or new ones, and the commit that made them.

    A method that declines is kept as well: its reason is the one array, "declined".
    """
    from scgim.baselines import CannotPredict
    from scgim.benchmark._run import commit

    path, settings = folder / f"{name}.npz", json.dumps(what, sort_keys=True, default=str)
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            found = dict(stored)
        if str(found.pop("settings")) == settings:
            return found, str(found.pop("commit"))
    try:
        arrays = make()
    except CannotPredict as reason:
        arrays = {"declined": np.array(str(reason))}
    code = commit()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.part.npz"
    np.savez_compressed(partial, settings=np.array(settings), commit=np.array(code), **arrays)
    partial.replace(path)
    return arrays, code


def about(train: PerturbationData) -> dict[str, Any]:
    """What tells one set of training cells from another."""
    values = train.x.astype(np.float64)
    return {
        "cells": len(values),
        "genes": values.shape[1],
        "sum": f"{values.sum():.6g}",
        "square": f"{(values**2).sum():.6g}",
    }


def gim(name: str, mechanism: str, options: Mapping[str, Any]) -> Method:
    """GIM with this mechanism."""
    from scgim.benchmark import Method

    return Method(name, "gim", {"mechanism": mechanism, **options})


def commits(found: Sequence[str]) -> str:
    """For the page: at which commits the methods were fitted."""
    return ", ".join(sorted({code for code in found if code})) or "unknown"
