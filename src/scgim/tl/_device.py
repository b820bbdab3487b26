"""Where to compute."""

from __future__ import annotations

import torch


def resolve_device(device: str = "auto") -> torch.device:
    """The torch device for a user's choice.

    Parameters
    ----------
    device
        ``"auto"`` (CUDA if there is one, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ... ``"mps"`` (Apple) is
        taken too, with all float64 kept off it; it was never tried on such a machine.

    Raises
    ------
    ValueError
        If the device does not exist; says what there is.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is not a torch device; use 'auto', 'cpu' or 'cuda'.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r} was asked for, but torch {torch.__version__} finds no CUDA GPU here. "
            "Use device='cpu' (or 'auto'), or install a CUDA build of torch."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={device!r}: there are only {torch.cuda.device_count()} CUDA GPUs.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={device!r} was asked for, but torch finds no Apple GPU. Use device='cpu'.")
    return chosen
