"""Saving a fit under way, and resuming it to the same result."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scgim._errors import InvalidValue
from scgim._rng import set_torch_states, torch_states
from scgim.model import GIM

from .config import FitConfig
from .data import TrainingData
from .schedule import AugmentedLagrangian


def _fingerprint(config: FitConfig, seed: int, data: TrainingData) -> str:
    """Identifies the fit: a checkpoint of other data, settings or seed must not be resumed."""
    settings = asdict(config)
    for later, usual in {
        "z_scale": 1.0,
        "n_rounds": 1,
        "hold_steps": 0,
    }.items():  # settings that older checkpoints do not know
        if settings[later] == usual:
            del settings[later]
    if config.init != "search":
        # A longer fit may go on from a shorter one; after a search the learning rates follow max_steps.
        settings["max_steps"] = None
    digest = hashlib.sha256(json.dumps([settings, seed], sort_keys=True, default=str).encode())
    more = (
        data.known_targets, data.known_values, data.counts, data.log_size, data.batch_code, data.prior_edges,
        data.prior_targets,
    )  # fmt: skip
    for tensor in (data.x, data.condition, data.valid, data.features, data.membership, *more):
        digest.update(b"none" if tensor is None else tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def restore(
    content: dict[str, Any],
    gim: GIM,
    optimiser: torch.optim.Optimizer,
    lagrangian: AugmentedLagrangian,
    progress: Any,
) -> None:
    """Put back what `save_checkpoint` wrote, torch's random state included."""
    gim.load_state_dict(content["gim"])
    optimiser.load_state_dict(content["optimiser"])
    for target, name in ((lagrangian, "lagrangian"), (progress, "progress")):
        for key, value in content[name].items():
            setattr(target, key, value)
    set_torch_states(next(gim.parameters()).device, content["rng"])


def save_checkpoint(
    path: str | Path,
    config: FitConfig,
    seed: int,
    data: TrainingData,
    gim: GIM,
    optimiser: torch.optim.Optimizer,
    lagrangian: AugmentedLagrangian,
    progress: Any,
    latent: tuple[Tensor | None, ...] | None = None,
) -> None:
    """Write next to `path` and move into place, so that an interruption never leaves half a file."""
    path = Path(path)
    content = {
        "fingerprint": _fingerprint(config, seed, data),
        "gim": gim.state_dict(),
        "optimiser": optimiser.state_dict(),
        "lagrangian": dict(vars(lagrangian)),
        "progress": dict(vars(progress)),
        "rng": torch_states(data.x.device),
        "latent": latent,
    }
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def load_checkpoint(path: str | Path | None, config: FitConfig, seed: int, data: TrainingData) -> dict[str, Any] | None:
    """The content of the checkpoint of exactly this fit, or None where there is no file.

    Raises
    ------
    ValueError
        If the file belongs to other data, settings or another seed, or cannot be read.
    """
    if path is None or not Path(path).exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        stored = content["fingerprint"]
    except Exception as error:
        raise InvalidValue(f"checkpoint={str(path)!r} cannot be read as a scgim checkpoint: {error}") from error
    if stored != _fingerprint(config, seed, data):
        raise InvalidValue(
            f"checkpoint={str(path)!r} belongs to another fit (other data, settings or seed). "
            "Name another file, or delete it to start afresh."
        )
    return content
