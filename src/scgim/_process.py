"""What a call must leave as it found it, and what it needs of the process while it runs."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

#: torch's random state, Pyro's handlers and warning filters belong to the process: one call at a time uses them.
_lock = threading.RLock()
_first = os.getpid()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held it, and is not there any more


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run a block (or, as a decorator, a function) of which nothing is left in the process.

    Afterwards the number of threads, the random states of Python, NumPy and torch, torch's default type and device,
    its gradient mode and the warning filters are the user's again, whatever numba, scanpy or torch did to them. Inside,
    torch computes in float32 on the CPU by default, with gradients, whatever the user has set. Calls in several
    threads wait for each other. In a process that was forked torch uses one thread: GNU OpenMP, once it has run in the
    parent, hangs in the child with more.
    """
    import torch

    with _lock, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's, to be put back
        threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        if os.getpid() != _first:
            torch.set_num_threads(1)
        try:
            with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
                yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


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
