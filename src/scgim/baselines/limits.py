"""A fit in a separate process: it can be ended, and its memory can be measured."""

from __future__ import annotations

import pickle
import time
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np

from scgim._apart import Apart, ProcessGone, TimeLimit, peak_memory
from scgim._errors import InvalidType, InvalidValue
from scgim._rng import RngLike

from .protocol import Baseline, CannotPredict, TrainingData

AnyBaseline = TypeVar("AnyBaseline", bound=Baseline)


class TimeLimitExceeded(CannotPredict):
    """A fit was ended because it took longer than allowed."""


def fit_within(
    baseline: AnyBaseline, data: TrainingData, rng: RngLike = 0, *, seconds: float | None = None
) -> AnyBaseline:
    """Fit in a separate process, and end it after `seconds`.

    The result is that of ``baseline.fit(data, rng)``. The process is a fresh interpreter, so that nothing of this one
    (threads, memory) reaches it: a script must call this under ``if __name__ == "__main__":``, and the class of the
    baseline must be importable (not defined in a notebook).

    Parameters
    ----------
    baseline, data
        Any method of the protocol that can be pickled, and what it is fitted on.
    rng
        Seed or generator; a generator has advanced afterwards as if the fit had run here.
    seconds
        Maximum time for the fit alone, without starting the process; None: no limit.

    Returns
    -------
    Baseline
        `baseline` itself, fitted, with two attributes more: ``fit_seconds_``, loading of what `fit` is the first to
        import included (torch: two or three seconds), and ``peak_memory_`` of its process in MiB, with the interpreter
        and all libraries (torch and pyro: about 250 MiB) but without further processes that the method starts.

    Raises
    ------
    TimeLimitExceeded
        If the fit took longer.
    CannotPredict
        If the process was ended by the system (most often for want of memory) or crashed.
    TypeError
        If the baseline, the data or the fitted result cannot be pickled.
    Exception
        Whatever ``baseline.fit`` raises, with its type and message, and the traceback as a note.

    Examples
    --------
    >>> from scgim.baselines import Control, fit_within
    >>> from scgim.benchmark import SyntheticTask
    >>> task = SyntheticTask(n_genes=5, n_perturbations=4, n_features=4, n_new_targets=0).load()
    >>> fit_within(Control(), task.train, seconds=60).fit_seconds_ < 60
    True
    """
    if seconds is not None and not seconds > 0:
        raise InvalidValue(f"The time limit must be positive, got {seconds} seconds.")
    try:
        call = Apart(_fit, baseline, data, rng, seconds=seconds)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InvalidType(f"{baseline.name} cannot be sent to a separate process: {error}") from error
    try:
        fitted, state, fit_seconds, memory = pickle.loads(call.result())
    except TimeLimit:
        text = f"{baseline.name} was ended: its fit took longer than {seconds:g} seconds."
        raise TimeLimitExceeded(text) from None
    except ProcessGone as error:
        text = f"{baseline.name} cannot be fitted: the process of the fit is gone, {error}."
        raise CannotPredict(text) from error
    finally:
        call.end()
    if isinstance(rng, np.random.Generator):
        rng.bit_generator.state = state
    vars(baseline).update(fitted, fit_seconds_=fit_seconds, peak_memory_=memory)
    return baseline


def _fit(limited: AbstractContextManager[None], baseline: Baseline, data: TrainingData, rng: RngLike) -> bytes:
    """In the process of the fit."""
    with limited:
        start = time.perf_counter()
        fitted = baseline.fit(data, rng)
        seconds = time.perf_counter() - start
    state = rng.bit_generator.state if isinstance(rng, np.random.Generator) else None
    try:
        return pickle.dumps((vars(fitted), state, seconds, peak_memory()))
    except Exception as error:
        raise InvalidType(
            f"{baseline.name} was fitted, but the result cannot be sent back from the process of the fit "
            f"({error}). Fit it without a time limit."
        ) from error
