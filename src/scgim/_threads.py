"""How many threads torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
