"""A fit in a process of its own: ended in time, errors as they are, the same result."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from awkward_baselines import Drawing, Failing, Sleeping

import scgim
from scgim._errors import InvalidType
from scgim.baselines import CannotPredict, Ridge, TimeLimitExceeded, fit_within


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_fit_that_takes_too_long_is_ended(doses, tmp_path, stubborn):
    path = tmp_path / "process"
    start = time.perf_counter()
    with pytest.raises(TimeLimitExceeded, match=r"sleeping was ended: its fit took longer than 0.5 seconds"):
        fit_within(Sleeping(str(path), stubborn), doses, seconds=0.5)
    assert time.perf_counter() - start < 60
    assert not is_running(int(path.read_text()))


def test_starting_the_process_does_not_count(doses):
    """Importing torch alone takes longer than this limit."""
    assert fit_within(Drawing(), doses, seconds=0.5).fit_seconds_ < 0.5


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("declines", CannotPredict, "too few cells"),
        ("key", KeyError, "'g7'"),
        ("odd", RuntimeError, "Odd: this and that"),
        ("killed", CannotPredict, r"failing cannot be fitted: .*signal 9, most often for want of memory"),
        ("exit", CannotPredict, r"failing cannot be fitted: .*exit code 3"),
        ("unpicklable", InvalidType, "failing was fitted, but the result cannot be sent back"),
    ],
)
def test_an_error_arrives_with_its_type_and_text(doses, how, kind, text):
    with pytest.raises(kind, match=text) as raised:
        fit_within(Failing(how), doses, seconds=60)
    assert type(raised.value) is kind
    if how in ("declines", "key", "odd"):
        assert str(raised.value) == text
        assert any("awkward_baselines.py" in note for note in raised.value.__notes__)


def test_what_cannot_be_sent_there_is_said_before_any_process_starts(doses):
    baseline = Drawing()
    baseline.extra = lambda: None
    with pytest.raises(TypeError, match="drawing cannot be sent to a separate process"):
        fit_within(baseline, doses)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(doses, seconds):
    with pytest.raises(ValueError, match="time limit must be positive"):
        fit_within(Drawing(), doses, seconds=seconds)


def test_the_result_is_that_of_a_fit_here(doses):
    condition = doses.condition(1)
    here = Ridge().fit(doses, 3)
    baseline = Ridge()
    there = fit_within(baseline, doses, 3, seconds=100)
    assert there is baseline
    np.testing.assert_array_equal(there.sample(condition, 9), here.sample(condition, 9))


def test_a_generator_advances_as_if_the_fit_had_run_here(doses):
    here, there = np.random.default_rng(5), np.random.default_rng(5)
    expected = [Drawing().fit(doses, here).number_ for _ in range(2)]
    found = [fit_within(Drawing(), doses, there).number_ for _ in range(2)]
    assert found == expected
    assert there.random() == here.random()


def test_peak_memory_is_that_of_the_fits_process(doses):
    ballast = np.ones((400, 2**17))  # 400 MiB here must not count there
    small = fit_within(Drawing(), doses)
    large = fit_within(Drawing(mebibytes=200), doses)
    assert small.process_ != os.getpid()
    assert small.peak_memory_ < 400 < ballast.nbytes
    assert 150 < large.peak_memory_ - small.peak_memory_ < 300


def test_the_front_for_anndata_takes_a_limit(prepared):
    condition = scgim.baselines.prepared_condition(prepared, "B_100")
    limited = scgim.baselines.fit(prepared, method="ridge", time_limit=100)
    assert limited.fit_seconds_ > 0
    unlimited = scgim.baselines.fit(prepared, method="ridge")
    np.testing.assert_allclose(limited.sample(condition, 9), unlimited.sample(condition, 9), rtol=1e-5)
    with pytest.raises(TimeLimitExceeded, match="mean_shift was ended"):
        scgim.baselines.fit(prepared, method="mean_shift", steps=10**7, time_limit=0.2)
