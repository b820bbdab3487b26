"""Work in a process of its own: it can be ended, and its memory is its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from scgim._rng import RngLike

from .protocol import Baseline, CannotPredict, TrainingData

AnyBaseline = TypeVar("AnyBaseline", bound=Baseline)

Work = Callable[[bytes, Callable[[Any], None]], None]
#: Messages of the child of `fit_within`: it has its data and fits; the fit is done; it failed.
_STARTED, _FITTED, _FAILED = "started", "fitted", "failed"


class TimeLimitExceeded(CannotPredict):
    """A fit was ended because it took longer than allowed."""


class ChildGone(Exception):
    """A child ended without a message; the text says how."""


class Child:
    """A process that runs ``work(task, tell)``, is heard by the messages that it tells, and ends with its parent.

    `work`: a function of a module; `task`: bytes. Default `context`: a fresh interpreter ("spawn"), as a fork of a
    process in which torch has started threads may hang.
    """

    def __init__(self, work: Work, task: bytes, context: Any = None) -> None:
        context = context or multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.started = time.monotonic()
        self.process = context.Process(target=_main, args=(work, there))
        self.process.start()
        there.close()
        with suppress(OSError):  # gone already: `receive` says so
            self.connection.send_bytes(task)

    def receive(self, seconds: float | None = None) -> Any:
        """What it tells next; a TimeoutError if that takes longer, ChildGone if it ended instead."""
        if not self.connection.poll(seconds):
            raise TimeoutError
        try:
            return pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            self.process.join(10)
            code = self.process.exitcode
        if code is not None and code < 0:
            raise ChildGone(f"the system ended it (signal {-code}{', most often for want of memory' * (code == -9)})")
        raise ChildGone(f"it ended with exit code {code}")

    def end(self) -> None:
        """End it, by force where it does not listen."""
        self.connection.close()
        for stop in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                stop()
                self.process.join(2)
        self.process.join(5)


def fit_within(
    baseline: AnyBaseline, data: TrainingData, rng: RngLike = 0, *, seconds: float | None = None
) -> AnyBaseline:
    """Fit in a process of its own, and end it after `seconds`.

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
    name = baseline.name
    if seconds is not None and not seconds > 0:
        raise ValueError(f"The time limit must be positive, got {seconds} seconds.")
    try:
        task = pickle.dumps((baseline, data, rng))
    except Exception as error:
        raise TypeError(f"{name} cannot be sent to a process of its own: {error}") from error
    child = Child(_fit, task)
    try:
        kind, content = child.receive()
        if kind == _STARTED:
            kind, content = child.receive(seconds)
        child.process.join(5)
    except TimeoutError:
        raise TimeLimitExceeded(f"{name} was ended: its fit took longer than {seconds:g} seconds.") from None
    except ChildGone as error:
        hint = " (a script must fit under `if __name__ == '__main__':`)" if "exit code" in str(error) else ""
        raise CannotPredict(f"{name} cannot be fitted: the process of the fit is gone, {error}{hint}.") from error
    finally:
        child.end()
    if kind == _FAILED:
        failure, text = content
        failure.add_note(f"In the process of the fit:\n{text}")
        raise failure
    fitted, generator_state, fit_seconds, peak = content
    if isinstance(rng, np.random.Generator):
        rng.bit_generator.state = generator_state
    vars(baseline).update(fitted, fit_seconds_=fit_seconds, peak_memory_=peak)
    return baseline


# -- in the process of the work ---------------------------------------------------------------------------


def _main(work: Work, there: Connection) -> None:
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(there.recv_bytes(), lambda message: there.send_bytes(pickle.dumps(message)))
    there.close()


def _leave(*_: object) -> NoReturn:
    """Asked to end: leave by an exception, so that what the process holds of the system is given back."""
    raise SystemExit(1)


def _end_with_parent() -> None:
    """A parent that is killed must leave no work behind: its own clean-up does not happen then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fit(task: bytes, tell: Callable[[Any], None]) -> None:
    try:
        baseline, data, rng = pickle.loads(task)
        tell((_STARTED, None))
        start = time.perf_counter()
        fitted = baseline.fit(data, rng)
        seconds = time.perf_counter() - start
        state = rng.bit_generator.state if isinstance(rng, np.random.Generator) else None
        try:
            tell((_FITTED, (vars(fitted), state, seconds, peak_memory())))
        except Exception as error:
            raise TypeError(
                f"{baseline.name} was fitted, but the result cannot be sent back from the process of the fit "
                f"({error}). Fit it without a time limit."
            ) from error
    except Exception as error:
        tell((_FAILED, (_sendable(error), traceback.format_exc())))


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
