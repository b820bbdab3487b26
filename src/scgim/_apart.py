"""A call in a process of its own: it can be ended, and its memory is its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NoReturn

#: What a process says: the limited part begins, it ends, the result, an error. Of a process: too late, gone.
_BEGIN, _END, _DONE, _FAILED, _LATE, _GONE = "begin", "end", "done", "failed", "late", "gone"


class TimeLimit(Exception):
    """A call was ended because it took longer than allowed."""


class ProcessGone(Exception):
    """The process of a call has ended before it gave a result; the message says how."""


class Apart:
    """A call `function(limited, *args)` in a process of its own.

    Parameters
    ----------
    function, args
        What can be pickled, and gives what can be pickled. `function` gets a context manager: what it does inside must
        not take longer than `seconds`, what it does outside may.
    seconds
        None: no limit.
    context
        Of multiprocessing. Default: "spawn", a fresh interpreter (a fork may hang once torch has started threads).
    """

    def __init__(
        self, function: Callable[..., Any], *args: Any, seconds: float | None = None, context: BaseContext | None = None
    ) -> None:
        call = pickle.dumps((function, args))
        context = context or multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there,))  # type: ignore[attr-defined]
        self._seconds = math.inf if seconds is None else seconds
        self._deadline = math.inf
        self._answer: tuple[str, Any] | None = None
        self._process.start()
        there.close()
        with suppress(OSError):  # it has ended already: `listen` will notice
            self.connection.send_bytes(call)

    @property
    def left(self) -> float | None:
        """Seconds until it must be ended; None where it need not."""
        return None if self._deadline == math.inf else max(0.0, self._deadline - time.monotonic())

    def listen(self, timeout: float | None = 0.0) -> bool:
        """Hear what the process says within `timeout` seconds; whether it has come to an end."""
        if self._answer is None and self.connection.poll(timeout):
            try:
                kind, content = pickle.loads(self.connection.recv_bytes())
            except (EOFError, OSError):
                kind, content = _GONE, self._reason()
            if kind == _BEGIN:
                self._deadline = time.monotonic() + self._seconds
            elif kind == _END:
                self._deadline = math.inf
            else:
                self._answer = kind, content
        elif self._answer is None and self.left == 0:
            self._answer = _LATE, None
        return self._answer is not None

    def result(self) -> Any:
        """Wait for the result of the call.

        Raises
        ------
        TimeLimit, ProcessGone
            If the call was, or its process has, ended.
        Exception
            Whatever the call raises, with its type and message, and the traceback as a note.
        """
        while not self.listen(self.left):
            pass
        assert self._answer is not None
        kind, content = self._answer
        if kind == _DONE:
            self._process.join(5)
        self.end()
        if kind == _LATE:
            raise TimeLimit(f"time limit of {self._seconds:g} s")
        if kind == _GONE:
            raise ProcessGone(content)
        if kind == _FAILED:
            failure, text = content
            failure.add_note(f"In the process of the fit:\n{text}")
            raise failure
        return content

    def end(self) -> None:
        """End the process, by force where it does not listen."""
        self.connection.close()
        for stop in (self._process.terminate, self._process.kill):
            if self._process.is_alive():
                stop()
                self._process.join(2)
        self._process.join(5)

    def _reason(self) -> str:
        self._process.join(10)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"the system ended it (signal {-code}{', most often for want of memory' * (code == -9)})"
        return f"it ended with exit code {code} (a script must fit under `if __name__ == '__main__':`)"


# -- in the process of the call ---------------------------------------------------------------------------


def _work(there: Connection) -> None:
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the shell; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function, args = pickle.loads(there.recv_bytes())
        message = pickle.dumps((_DONE, function(_limited(there), *args)))
    except Exception as error:
        message = pickle.dumps((_FAILED, (_sendable(error), traceback.format_exc())))
    there.send_bytes(message)
    there.close()


def _limited(there: Connection) -> AbstractContextManager[None]:
    """What the call does inside counts against its time."""

    @contextmanager
    def limited() -> Iterator[None]:
        there.send_bytes(pickle.dumps((_BEGIN, None)))
        yield
        there.send_bytes(pickle.dumps((_END, None)))

    return limited()


def _leave(*_: object) -> NoReturn:
    """Asked to end: leave by an exception, so that what the process holds of the system is given back."""
    raise SystemExit(1)


def _end_with_parent() -> None:
    """A parent that is killed must leave no call behind: its own clean-up does not happen then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
