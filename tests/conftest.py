"""What every test shares: one thread, no display, fixed seeds, the development data."""

from __future__ import annotations

import os

# Before NumPy, torch or matplotlib are imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from quick_fits import quick_fits

# A slow shared machine is no reason to fail, and a red test must be red again on the next run.
settings.register_profile("scgim", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("scgim")

REPOSITORY = Path(__file__).resolve().parents[1]


def _shared_data_folder() -> Path:
    named = os.environ.get("SCGIM_SHARED_DATA")
    return Path(named) if named else REPOSITORY.parent / "shared" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With `-n`: the tests of a file stay together (they share fits), and one that is ended ends the run."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist, config.option.maxworkerrestart = "loadfile", "0"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the development data; skips the test where it is absent."""
    folder = _shared_data_folder()
    if not folder.is_dir():
        pytest.skip(f"development data absent: no folder {folder} (set SCGIM_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def count_fit() -> Any:
    """An AnnData with a small fit behind counts of two batches; copy it before you change it."""
    from small_fits import fitted_counts

    return fitted_counts()


@pytest.fixture(autouse=True)
def _fixed_global_state() -> Iterator[None]:
    """Seed what other libraries draw from, one torch thread, no figure left open."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (scanpy and scikit-learn still draw from the global state)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


@pytest.fixture(name="quick_fits")
def _quick_fits() -> Iterator[None]:
    """The fits of this test are needed, and how good they are is not asked."""
    with quick_fits():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of the test's own."""
    return np.random.default_rng(0)
