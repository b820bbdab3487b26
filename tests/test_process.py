"""A call leaves nothing behind in the process, and works whatever the user has set there."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from process_state import state
from screens import prepared_screen, screen
from small_fits import QUICK, prepared

import scgim
from scgim._process import undisturbed

pytestmark = pytest.mark.usefixtures("quick_fits")

SHORT: dict[str, Any] = {**QUICK, "max_steps": 4}


@pytest.fixture(scope="module")
def fit() -> ad.AnnData:
    adata = prepared("log1p")
    scgim.tl.fit_gim(adata, **SHORT)
    return adata


def _sampled(adata: ad.AnnData) -> ad.AnnData:
    return scgim.tl.sample_cells(adata, perturbations=[("A", 10)], n=20)


def _scores(adata: ad.AnnData, **wrong: Any) -> pd.DataFrame:
    baselines = [scgim.baselines.MeanShift(steps=2), "ridge"]
    asked = {"baselines": baselines, "conditions": ["A_10"], "metrics": ["wasserstein", "e_distance"], "n_boot": 2}
    return scgim.tl.evaluate(adata, _sampled(adata), **{**asked, **wrong})


def _baseline(adata: ad.AnnData) -> None:
    condition = scgim.baselines.prepared_condition(adata, "A_10")
    for name, options in (
        ("gim", {"max_steps": 2}),
        ("condot", {"steps": 2}),
        ("mean_shift", {"steps": 2}),
    ):
        scgim.baselines.fit(adata, method=name, **options).sample(condition, n=5)


@cache
def _with_members() -> ad.AnnData:
    adata = prepared("log1p")
    scgim.tl.fit_gim(adata, **SHORT, n_members=3)
    return adata


DOSES = {"has_dose": True, "control": "control"}
#: Every public function, by a call that works and one that fails.
CALLS: dict[str, tuple[Callable[[ad.AnnData], Any], Callable[[ad.AnnData], Any]]] = {
    "pp.prepare": (lambda a: prepared_screen(screen()), lambda a: prepared_screen(screen(), small_conditions="x")),
    "pp.conditions": (
        lambda a: scgim.pp.conditions(screen(), perturbation_key="target"),
        lambda a: scgim.pp.conditions(screen(), perturbation_key="absent"),
    ),
    "pp.select_markers": (
        lambda a: scgim.pp.select_markers(prepared_screen(), n_genes=5),
        lambda a: scgim.pp.select_markers(a.copy(), genes=["absent"]),
    ),
    "pp.features": (lambda a: scgim.pp.features(a.copy()), lambda a: scgim.pp.features(a.copy(), features="x")),
    "pp.featurize": (
        lambda a: scgim.pp.featurize(a.uns["gim"]["feature_spec"], [("A", 3.0)]),
        lambda a: scgim.pp.featurize(a.uns["gim"]["feature_spec"], [("Z", 3.0)]),
    ),
    "pp.hold_out": (
        lambda a: scgim.pp.hold_out(a.copy(), hold_out=[("A", 10)]),
        lambda a: scgim.pp.hold_out(a.copy(), hold_out=["Z"]),
    ),
    "pp.parse_perturbations": (
        lambda a: scgim.pp.parse_perturbations([("A", 1)], **DOSES),
        lambda a: scgim.pp.parse_perturbations(["A"], **DOSES),
    ),
    "tl.fit_gim": (
        lambda a: scgim.tl.fit_gim(prepared("log1p"), **SHORT),
        lambda a: scgim.tl.fit_gim(prepared("log1p"), **{**SHORT, "learning_rate": 1e30}),
    ),
    "tl.sample_cells": (_sampled, lambda a: scgim.tl.sample_cells(a, n=0)),
    "tl.predict_targets": (
        lambda a: scgim.tl.predict_targets(a, perturbations=[("A", 3)]),
        lambda a: scgim.tl.predict_targets(a, perturbations=["Z"]),
    ),
    "tl.intervene": (
        lambda a: scgim.tl.intervene(a, interventions={"g0": 0.0}, n=5),
        lambda a: scgim.tl.intervene(a, interventions=["g0"], n=5),
    ),
    "tl.counterfactual": (
        lambda a: scgim.tl.counterfactual(a, perturbation=("A", 10)),
        lambda a: scgim.tl.counterfactual(a, perturbation=("A", 10), cells=[]),
    ),
    "tl.target_evidence": (
        lambda a: scgim.tl.target_evidence(a),
        lambda a: scgim.tl.target_evidence(a, n_programs=-1),
    ),
    "tl.evaluate": (_scores, lambda a: _scores(a, metrics=["x"])),
    "tl.suggest_perturbations": (
        lambda a: scgim.tl.suggest_perturbations(_with_members(), [("A", 3.0), ("B", 3.0)], n=1),
        lambda a: scgim.tl.suggest_perturbations(a, [("A", 3.0)], n=1),
    ),
    "get.graph": (lambda a: scgim.get.graph(a), lambda a: scgim.get.graph(a, key="x")),
    "get.targets": (lambda a: scgim.get.targets(a), lambda a: scgim.get.targets(a, key="x")),
    "get.history": (lambda a: scgim.get.history(a), lambda a: scgim.get.history(a, key="x")),
    "get.params": (lambda a: scgim.get.params(a), lambda a: scgim.get.params(a, key="x")),
    "get.changes": (lambda a: scgim.get.changes(a, _sampled(a)), lambda a: scgim.get.changes(a, None, reference="x")),
    "get.embedding": (
        lambda a: scgim.get.embedding(a, _sampled(a), method="pca"),  # UMAP: tests/pl
        lambda a: scgim.get.embedding(a, _sampled(a), method="x"),
    ),
    "get.prediction_pair": (
        lambda a: scgim.get.prediction_pair(a, _sampled(a), conditions="A_10", control="split"),
        lambda a: scgim.get.prediction_pair(a, _sampled(a), conditions="A_10", control="x"),
    ),
    "pl.changes": (lambda a: scgim.pl.changes(a, _sampled(a)), lambda a: scgim.pl.changes(a, _sampled(a), genes="x")),
    "pl.agreement": (
        lambda a: scgim.pl.agreement(a, _sampled(a)),
        lambda a: scgim.pl.agreement(a, _sampled(a), conditions="x"),
    ),
    "pl.volcano": (lambda a: scgim.pl.volcano(a, condition="A_10"), lambda a: scgim.pl.volcano(a, condition="x")),
    "pl.embedding": (
        lambda a: scgim.pl.embedding(a, _sampled(a)),
        lambda a: scgim.pl.embedding(a, _sampled(a), condition="x"),
    ),
    "pl.graph": (lambda a: scgim.pl.graph(a), lambda a: scgim.pl.graph(a, condition="x")),
    "pl.targets": (lambda a: scgim.pl.targets(a), lambda a: scgim.pl.targets(a, genes="x")),
    "pl.history": (lambda a: scgim.pl.history(a), lambda a: scgim.pl.history(a, key="x")),
    "pl.metrics": (lambda a: scgim.pl.metrics(_scores(a)), lambda a: scgim.pl.metrics(_scores(a), methods=["x"])),
    "pl.marginals": (
        lambda a: scgim.pl.marginals(a, _sampled(a), n_genes=2),
        lambda a: scgim.pl.marginals(a, _sampled(a), genes="x"),
    ),
    "pl.dose_response": (
        lambda a: scgim.pl.dose_response(a, perturbation="A", n_genes=2),
        lambda a: scgim.pl.dose_response(a, perturbation="Z"),
    ),
    "baselines.fit": (_baseline, lambda a: scgim.baselines.fit(a, method="x")),
    "datasets": (lambda a: scgim.datasets.simulated_sciplex3(), lambda a: scgim.datasets.simulated_sciplex3(rng=-1)),
}


def test_no_public_function_is_left_out() -> None:
    named = {f"{part}.{name}" for part in ("pp", "tl", "get", "pl") for name in getattr(scgim, part).__all__}
    assert named <= set(CALLS)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("outcome", ["works", "fails"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_nothing_behind(fit: ad.AnnData, name: str, outcome: str) -> None:
    call = CALLS[name][outcome == "fails"]
    if outcome == "works":
        CALLS[name][0](fit)  # what is imported for the first time is not the question
    torch.set_num_threads(1)
    torch.manual_seed(3)
    before = state()
    if outcome == "works":
        call(fit)
    else:
        with pytest.raises((ValueError, TypeError, KeyError, FloatingPointError)):
            call(fit)
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
    before = prepared()

    def fitted(seed: int) -> str:
        adata = before.copy()
        scgim.tl.fit_gim(adata, rng=seed, **SHORT)
        scgim.tl.sample_cells(adata, n=3)
        return str(adata.uns["gim"]["state_sha256"])

    expected = [fitted(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(fitted, range(3))) == expected
    assert len(set(expected)) == 3


def test_what_others_draw_meanwhile_stays_drawn() -> None:
    with undisturbed():
        drawn = random.random(), np.random.random()  # noqa: NPY002
    assert (random.random(), np.random.random()) != drawn  # noqa: NPY002


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_waiting_for_another_fit_can_be_interrupted() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with undisturbed():
            held.set()
            done.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(60)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt), undisturbed():
            pytest.fail("the lock was free")
    finally:
        done.set()
        other.join()


SCRIPT = """
import multiprocessing, sys
import numba
import torch
sys.path.insert(0, {tests!r})
from quick_fits import quick_fits
from screens import SHORT, prepared_screen, screen
import scgim

adata, many = prepared_screen(), prepared_screen(screen(n=200))
numba.get_num_threads()  # numba's threads are running, as they are after other calls of scanpy
torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # the parent's thread pool is running

def work(seed):
    copy = adata.copy()
    with quick_fits():
        scgim.tl.fit_gim(copy, rng=seed, **{{**SHORT, "max_steps": 4}})
    cells = scgim.tl.sample_cells(copy, n=1500)
    scgim.tl.counterfactual(copy, perturbation="G1")
    baselines = [scgim.baselines.MeanShift(steps=2), "ridge"]
    asked = {{"conditions": ["G1"], "metrics": ["mean_distance", "wasserstein"], "n_boot": 2}}
    scgim.tl.evaluate(copy, cells, baselines=baselines, **asked)
    again = prepared_screen(screen(n=200))
    assert again.uns["gim"]["state_sha256"] == many.uns["gim"]["state_sha256"]
    return copy.uns["gim"]["state_sha256"]

if __name__ == "__main__":
    expected = work(0)  # whatever is imported or started by a first call is there in the children
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(work, [0, 0])
    assert found == [expected, expected]
    print("done")
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_a_forked_worker_finishes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


LATE = """
import multiprocessing
import torch

torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)

def work(seed):
    import numpy as np
    from scgim.metrics import wasserstein
    x = np.random.default_rng(seed).normal(size=(1500, 5))
    return wasserstein(x, x + 1, tolerance=0.1)

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.map(work, [0])[0] > 0)
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_a_worker_forked_before_scgim_was_imported_finishes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LATE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
