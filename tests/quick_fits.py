"""Short fits for tests that need one and do not ask how good it is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest


@contextmanager
def quick_fits() -> Iterator[None]:
    """Before and after the fit the networks learn for 20 steps instead of 400, and behind counts one round of the
    search does for three: most of the time of a short fit. In comparisons, what baselines learn by default takes 20
    steps, and noise is estimated from 3 resamples.
    """
    names = "inference.fit", "inference.counts", "baselines.shift", "tl._evaluate"
    fit, counts, shift, evaluation = (importlib.import_module(f"scgim.{name}") for name in names)
    bootstrap = evaluation.bootstrap
    with pytest.MonkeyPatch.context() as patch:
        for name in ("start_from_search", "refit_effects"):
            patch.setattr(fit, name, partial(getattr(fit, name), n_steps=20))
        patch.setattr(counts, "without_graph", partial(counts.without_graph, n_rounds=3))
        for name in ("_ROUNDS", "_EXPECTATIONS", "_TARGET_ROUNDS"):
            patch.setattr(counts, name, 1)
        patch.setitem(shift.MeanShift.__init__.__kwdefaults__, "steps", 20)
        patch.setattr(evaluation, "bootstrap", lambda *given: bootstrap(*given[:4], min(given[4], 3), *given[5:]))
        yield
