"""A fitted model as plain arrays (no pickle), and back."""

from __future__ import annotations

import numpy as np
import torch

from scgim.model import GIM


def pack(gim: GIM) -> dict[str, np.ndarray]:
    """Parameters and buffers by name; float32 (bool buffers as uint8)."""
    out = {}
    for name, value in gim.state_dict().items():
        array = value.detach().cpu().numpy()
        out[name] = array.astype(np.uint8) if array.dtype == bool else array.astype(np.float32)
    return out


def unpack(gim: GIM, state: dict[str, np.ndarray]) -> None:
    """Load `pack`'s arrays into a model of the same shape.

    Raises
    ------
    ValueError
        If a name is missing or a shape differs: the file was truncated or edited.
    """
    expected = gim.state_dict()
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or extra:
        raise ValueError(
            f"The stored weights do not fit the model (missing {missing}, not expected {extra}): the file "
            "was edited, or the fit is of an earlier scgim. Run scgim.tl.fit_gim again."
        )
    for name, value in expected.items():
        if tuple(state[name].shape) != tuple(value.shape):
            raise ValueError(
                f"The stored weight {name!r} has shape {state[name].shape}, expected {tuple(value.shape)}."
            )
    gim.load_state_dict({n: torch.as_tensor(np.asarray(a)).to(expected[n].dtype) for n, a in state.items()})
