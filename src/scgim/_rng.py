"""Randomness: one seed or generator per call, the user's global state untouched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from scgim._errors import InvalidType, InvalidValue

if TYPE_CHECKING:
    import torch

RngLike = int | np.integer | np.random.Generator | None


def as_generator(rng: RngLike) -> np.random.Generator:
    """A NumPy generator from a seed, a generator (returned as it is) or None (fresh entropy)."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None and (isinstance(rng, bool) or not isinstance(rng, int | np.integer)):
        raise InvalidType(f"rng must be an int, a numpy Generator or None, not {type(rng).__name__}.")
    if rng is not None and rng < 0:
        raise InvalidValue(f"rng must not be negative, got {rng}.")
    return np.random.default_rng(rng)


def draw_seed(rng: np.random.Generator) -> int:
    """A 63-bit seed drawn from `rng`, for libraries that take integers."""
    return int(rng.integers(0, 2**63 - 1))


def torch_generator(rng: np.random.Generator | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device`, seeded from `rng`, or with the seed given."""
    import torch

    generator = torch.Generator(device=device)
    generator.manual_seed(draw_seed(rng) if isinstance(rng, np.random.Generator) else rng)
    return generator


def torch_states(device: torch.device) -> list[torch.Tensor]:
    """torch's global random states: of the CPU and, where it is another, of `device`."""
    import torch

    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def set_torch_states(device: torch.device, states: Sequence[torch.Tensor]) -> None:
    """Put back what `torch_states` gave."""
    import torch

    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


@contextmanager
def torch_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device`; afterwards they are the user's again.

    `torch.manual_seed` would seed those of every GPU, used or not.
    """
    import torch

    before = torch_states(device)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    try:
        yield
    finally:
        set_torch_states(device, before)
