"""A fit in a process of its own: it can be ended, and its memory is its own."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from scgim._rng import RngLike

from .protocol import Baseline, CannotPredict, TrainingData

AnyBaseline = TypeVar("AnyBaseline", bound=Baseline)

#: Messages of the child: it has its data and fits; the fit is done; it failed.
_STARTED, _FITTED, _FAILED = "started", "fitted", "failed"


class TimeLimitExceeded(CannotPredict):
    """A fit was ended because it took longer than allowed."""


def fit_within(
    baseline: AnyBaseline, data: TrainingData, rng: RngLike = 0, *, seconds: float | None = None
) -> AnyBaseline:
    """Fit in a process of its own, and end it after `seconds`.

    The result is that of ``baseline.fit(data, rng)``. The process is a fresh interpreter ("spawn"), so that nothing
    of this one (threads, memory) reaches it: a script must call this under ``if __name__ == "__main__":``, and the
    class of the baseline must be importable (not defined in a notebook).

    Parameters
    ----------
    baseline
        Any method of the protocol that can be pickled.
    data
        What it is fitted on.
    rng
        Seed or generator; a generator has advanced afterwards as if the fit had run here.
    seconds
        Most seconds for the fit alone, without starting the process; None: no limit.

    Returns
    -------
    Baseline
        `baseline` itself, fitted, with two attributes more. ``fit_seconds_``: seconds of the fit in its process,
        loading of what `fit` is the first to import included (torch: two or three seconds). ``peak_memory_``: the
        most memory that this process has held at a time, in MiB (resident set): the fit, its data, and the
        interpreter with all libraries (torch and pyro: about 250 MiB), but no further processes that the method
        starts; NaN where the system does not tell.

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
    >>> import numpy as np, pandas as pd
    >>> from scgim.baselines import Control, TrainingData, fit_within
    >>> table = pd.DataFrame({"condition": ["control"], "perturbation": ["control"], "dose": [np.nan],
    ...                       "is_control": [True]})
    >>> data = TrainingData(np.ones((5, 2)), np.zeros(5, int), table, np.zeros((1, 1)))
    >>> control = fit_within(Control(), data, seconds=60)
    >>> control.fit_seconds_ < 60
    True
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"The time limit must be positive, got {seconds} seconds.")
    try:
        task = pickle.dumps((baseline, data, rng))
    except Exception as error:
        raise TypeError(f"{baseline.name} cannot be sent to a process of its own: {error}") from error
    # A fork of a process in which torch has started threads may hang: a new interpreter instead.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,))
    process.start()
    there.close()
    try:
        kind, content = _receive(baseline.name, process, here, task, seconds)
        process.join(5)
    finally:
        here.close()
        _end(process)
    if kind == _FAILED:
        failure, text = content
        failure.add_note(f"In the process of the fit:\n{text}")
        raise failure
    fitted, generator_state, fit_seconds, peak_memory = content
    if isinstance(rng, np.random.Generator):
        rng.bit_generator.state = generator_state
    vars(baseline).update(fitted, fit_seconds_=fit_seconds, peak_memory_=peak_memory)
    return baseline


def _receive(name: str, process: BaseProcess, here: Connection, task: bytes, seconds: float | None) -> tuple[str, Any]:
    """The child's last message; the time runs from when it says that it has started."""
    try:
        here.send_bytes(task)
        message = pickle.loads(here.recv_bytes())
        if message[0] == _STARTED:
            if not here.poll(seconds):
                raise TimeLimitExceeded(f"{name} was ended: its fit took longer than {seconds:g} seconds.")
            message = pickle.loads(here.recv_bytes())
    except (EOFError, OSError) as error:
        process.join(10)
        code = process.exitcode
        if code is not None and code < 0:
            reason = f"the system ended it (signal {-code}{', most often for want of memory' * (code == -9)})"
        else:
            reason = f"it ended with exit code {code} (a script must fit under `if __name__ == '__main__':`)"
        raise CannotPredict(f"{name} cannot be fitted: the process of the fit is gone, {reason}.") from error
    return message


def _end(process: BaseProcess) -> None:
    """End it, by force where it does not listen."""
    for stop in (process.terminate, process.kill):
        if process.is_alive():
            stop()
            process.join(2)
    process.join(5)


# -- in the process of the fit ----------------------------------------------------------------------------


def _work(there: Connection) -> None:
    signal.signal(signal.SIGTERM, _leave)
    try:
        baseline, data, rng = pickle.loads(there.recv_bytes())
        there.send_bytes(pickle.dumps((_STARTED, None)))
        start = time.perf_counter()
        fitted = baseline.fit(data, rng)
        seconds = time.perf_counter() - start
        state = rng.bit_generator.state if isinstance(rng, np.random.Generator) else None
        try:
            message = pickle.dumps((_FITTED, (vars(fitted), state, seconds, peak_memory())))
        except Exception as error:
            raise TypeError(
                f"{baseline.name} was fitted, but the result cannot be sent back from the process of the fit "
                f"({error}). Fit it without a time limit."
            ) from error
    except Exception as error:
        message = pickle.dumps((_FAILED, (_sendable(error), traceback.format_exc())))
    there.send_bytes(message)
    there.close()


def _leave(*_: object) -> NoReturn:
    """Asked to end: leave by an exception, so that what the process holds of the system is given back."""
    raise SystemExit(1)


def _sendable(error: Exception) -> Exception:
    """The exception itself, or a RuntimeError with its text where it would not arrive as it is."""
    try:
        arrived = pickle.loads(pickle.dumps(error))
        if type(arrived) is type(error) and str(arrived) == str(error):
            return error
    except Exception:  # whatever its class does on the way
        arrived = None
    return RuntimeError(f"{type(error).__name__}: {error}")


def peak_memory() -> float:
    """Most memory that this process has held at a time, in MiB (resident set); NaN where the system does not tell.

    Linux counts `ru_maxrss` of a process from before it became a program of its own: it is never below what the
    parent held when it started it. The high-water mark in /proc is that of the program alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
