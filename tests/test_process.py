"""A call leaves nothing behind in the process, and works whatever the user has set there."""

from __future__ import annotations

import logging
import multiprocessing
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import numba
import numpy as np
import pytest
import torch
from screens import prepared_screen, screen
from small_fits import QUICK, prepared
from threadpoolctl import threadpool_info

import scgim

SHORT: dict[str, Any] = {**QUICK, "max_steps": 4}


@pytest.fixture(scope="module")
def fit() -> ad.AnnData:
    adata = prepared_screen()
    scgim.tl.fit_gim(adata, **SHORT)
    return adata


def state() -> dict[str, Any]:
    """What belongs to the process and not to a call."""
    pools = {i["filepath"]: i["num_threads"] for i in threadpool_info()}
    numpy_state = np.random.get_state()  # noqa: NPY002
    return {
        "torch threads": torch.get_num_threads(),
        "numba threads": numba.get_num_threads(),
        "thread pools": pools,
        "random": random.getstate(),
        "numpy": (numpy_state[1].tolist(), numpy_state[2:]),
        "torch random": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "warnings": list(warnings.filters),
        "rcParams": dict(mpl.rcParams),
        "logging": {name: logging.getLogger(name).level for name in (None, "scgim", "scanpy", "anndata")},
        "handlers": list(logging.getLogger().handlers),
    }


CALLS: dict[str, Callable[[ad.AnnData], Any]] = {
    "prepare": lambda a: prepared_screen(screen()),
    "prepare fails": lambda a: prepared_screen(screen(), min_cells_per_condition=100),
    "conditions": lambda a: scgim.pp.conditions(screen(), perturbation_key="target"),
    "select_markers": lambda a: scgim.pp.select_markers(a.copy(), n_genes=5),
    "features": lambda a: scgim.pp.features(a.copy()),
    "hold_out": lambda a: scgim.pp.hold_out(a.copy(), hold_out=["G1"]),
    "fit_gim": lambda a: scgim.tl.fit_gim(a.copy(), **SHORT),
    "fit_gim fails": lambda a: scgim.tl.fit_gim(a.copy(), hold_out=["G7"]),
    "sample_cells": lambda a: scgim.tl.sample_cells(a, n=5),
    "predict_targets": lambda a: scgim.tl.predict_targets(a, perturbations="G1"),
    "intervene": lambda a: scgim.tl.intervene(a, interventions={"gene00": 0.0}, n=5),
    "counterfactual": lambda a: scgim.tl.counterfactual(a, perturbation="G1"),
    "target_evidence": lambda a: scgim.tl.target_evidence(a),
    "evaluate": lambda a: scgim.tl.evaluate(
        a, scgim.tl.sample_cells(a, n=20), baselines=["mean_shift", "ridge"], conditions=["G1"]
    ),
    "condot": lambda a: scgim.baselines.fit(a, method="condot", steps=2),
    "get": lambda a: [scgim.get.graph(a), scgim.get.targets(a), scgim.get.history(a), scgim.get.params(a)],
    "pl": lambda a: [
        scgim.pl.graph(a),
        scgim.pl.targets(a),
        scgim.pl.history(a),
        scgim.pl.marginals(a, scgim.tl.sample_cells(a, perturbations="G1", n=20), n_genes=1),
    ],
    "datasets": lambda a: scgim.datasets.simulated_sciplex3(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_nothing_behind(fit: ad.AnnData, name: str) -> None:
    CALLS[name](fit) if "fails" not in name else None  # what is imported for the first time is not the question
    torch.set_num_threads(1)
    torch.manual_seed(3)
    before = state()
    try:
        CALLS[name](fit)
    except ValueError:
        assert "fails" in name
    after = state()
    for what, value in before.items():
        assert after[what] == value, what


@contextmanager
def users_torch() -> Iterator[None]:
    """float64, no gradients, and a device on which nothing can be computed."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", ["continuous", "log1p"])
def test_what_the_user_has_set_in_torch_changes_nothing(kind: str) -> None:
    first, second = prepared(kind), prepared(kind)
    scgim.tl.fit_gim(first, **SHORT)
    with users_torch():
        scgim.tl.fit_gim(second, **SHORT)
        assert torch.get_default_dtype() == torch.float64
        assert torch.empty(1).device.type == "meta"
        cells = scgim.tl.sample_cells(second, n=3)
        treated = scgim.tl.counterfactual(second, perturbation=("A", 10))
        evidence = scgim.tl.target_evidence(second)
    assert second.uns["gim"]["state_sha256"] == first.uns["gim"]["state_sha256"]
    np.testing.assert_array_equal(cells.X, scgim.tl.sample_cells(first, n=3).X)
    np.testing.assert_array_equal(treated.X, scgim.tl.counterfactual(first, perturbation=("A", 10)).X)
    np.testing.assert_array_equal(evidence["evidence"], scgim.tl.target_evidence(first)["evidence"])


def test_fits_in_threads_are_those_of_one_thread() -> None:
    def fitted(seed: int) -> str:
        adata = prepared()
        scgim.tl.fit_gim(adata, rng=seed, **SHORT)
        scgim.tl.sample_cells(adata, n=3)
        return str(adata.uns["gim"]["state_sha256"])

    expected = [fitted(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fitted, range(4))) == expected
    assert len(set(expected)) == 4


SCRIPT = """
import multiprocessing, sys
import torch
sys.path.insert(0, {tests!r})
from screens import prepared_screen, screen
import scgim

adata = prepared_screen(screen(n=200))
torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # the parent's thread pool is running

def work(seed):
    copy = adata.copy()
    scgim.tl.fit_gim(copy, rng=seed, max_steps=4, n_features=20, progress=False)
    cells = scgim.tl.sample_cells(copy, n=3000)
    scgim.tl.counterfactual(copy, perturbation="G1")
    scgim.tl.evaluate(copy, cells, baselines=["mean_shift"], metrics=["mean_distance"])
    return copy.uns["gim"]["state_sha256"]

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(work, [0, 0])
    assert found[0] == found[1] == work(0)
    print("done")
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_a_forked_worker_finishes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"
