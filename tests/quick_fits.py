"""Short fits for tests that need one and do not ask how good it is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest


@contextmanager
def quick_fits() -> Iterator[None]:
    """The networks learn for 20 steps before and after the fit instead of 400: most of the time of a short fit."""
    fit = importlib.import_module("scgim.inference.fit")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("start_from_search", "refit_effects"):
            patch.setattr(fit, name, partial(getattr(fit, name), n_steps=20))
        yield
