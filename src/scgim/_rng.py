"""Randomness: one seed or generator per call, the user's global state untouched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

RngLike = int | np.integer | np.random.Generator | None


def as_generator(rng: RngLike) -> np.random.Generator:
    """A NumPy generator from a seed, a generator (returned as it is) or None (fresh entropy)."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None and (isinstance(rng, bool) or not isinstance(rng, int | np.integer)):
        raise TypeError(f"rng must be an int, a numpy Generator or None, not {type(rng).__name__}.")
    if rng is not None and rng < 0:
        raise ValueError(f"rng must not be negative, got {rng}.")
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
