"""What a call must leave as it found it, and what it needs of the process while it runs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

#: torch's random state and default type, Pyro's handlers and warning filters are the process's: one call at a time.
_lock = threading.RLock()
#: Models of up to so many genes are faster on one thread of the CPU.
SMALL = 64
#: In a forked process; here, in a worker that imports scgim after the fork (in others the script is not `__main__`).
_forked = multiprocessing.parent_process() is not None and sys.modules["__main__"].__name__ == "__main__"


def _after_fork() -> None:
    global _lock, _forked
    _lock, _forked = threading.RLock(), True  # another thread may have held the lock, and is not there any more


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run a block (or, as a decorator, a function) of which nothing is left in the process.

    Afterwards the number of threads, torch's random state, default type and gradient mode and the warning filters are
    the user's again, whatever numba, scanpy or torch did to them. Inside, torch computes in float32 on the CPU by
    default, with gradients, whatever the user has set. Calls in several threads wait for each other. In a process that
    was forked torch uses one thread: GNU OpenMP, once it has run in the parent, hangs in the child with more.

    Python's and NumPy's global random states are not put back, because nothing draws from them: a copy put back would
    undo what other threads of the user have drawn.
    """
    import torch

    with _lock, warnings.catch_warnings(), ExitStack() as stack:
        threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
        stack.callback(torch.set_num_threads, threads)
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        if _forked:
            torch.set_num_threads(1)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.empty(0).device.type != "cpu":  # the user's default device; the context costs time in every operation
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """One torch thread inside the block, the user's number again afterwards.

    For small models: their arrays are so small that threads wait for each other longer than they work, and on a
    busy machine (or after numba has reset OpenMP's thread number) a step takes many times as long.
    """
    import torch

    before = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
