"""The settings of a fit, checked without looking at the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scgim._errors import InvalidType, InvalidValue
from scgim._validation import check_int
from scgim.inference import FitConfig, make_config

from ._beliefs import read_tables


def check_settings(
    *,
    preset: str | FitConfig = "default",
    mechanism: str = "auto",
    intervention: str = "auto",
    device: str = "auto",
    known_targets: Any = None,
    known_interventions: Any = None,
    batch_key: Any = None,
    size_key: Any = None,
    prior_edges: Any = None,
    forbidden_edges: Any = None,
    prior_targets: Any = None,
    n_members: int = 1,
    n_jobs: int | None = None,
    checkpoint: Any = None,
    hold_out: Any = None,
    groupby: Any = None,
    group: Any = None,
    rng: Any = None,
    **settings: Any,
) -> torch.device:
    """Check what needs no data; the device."""
    config = config_of(preset, mechanism, intervention, settings)
    if not config.amortised:
        raise InvalidValue(
            "amortised=False gives no model of new perturbations to store: use "
            'scgim.baselines.fit(adata, method="bacadi").'
        )
    for name, value in (("known_targets", known_targets), ("known_interventions", known_interventions)):
        if value is not None and not isinstance(value, Mapping):
            raise InvalidType(f"{name} must be a dict, such as {{'A': 'gene'}}; got {value!r}.")
    read_tables(prior_edges, forbidden_edges, prior_targets)
    check_int(n_members, "n_members", least=1)
    if n_jobs is not None:
        check_int(abs(n_jobs) if isinstance(n_jobs, int) else n_jobs, "n_jobs", least=1)
    if mechanism != "auto":
        check_columns(config, batch_key, size_key)
    if checkpoint is not None and not isinstance(checkpoint, str | Path):
        raise InvalidType(f"checkpoint must be the name of a file; got {checkpoint!r}.")
    if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
        raise InvalidValue(f"checkpoint={str(checkpoint)!r}: there is no folder {str(Path(checkpoint).parent)!r}.")
    return resolve_device(device)


def config_of(preset: str | FitConfig, mechanism: str, intervention: str, settings: Mapping[str, Any]) -> FitConfig:
    """The settings of a fit; those of a `FitConfig` count but for what is asked for besides."""
    if isinstance(preset, FitConfig):
        asked = {"mechanism": mechanism, "intervention": intervention}
        changed = {name: value for name, value in asked.items() if value != "auto"}
        return make_config(preset, **changed, **settings)
    kind = "ziln" if mechanism == "auto" else mechanism
    own = "hard" if intervention == "auto" else intervention
    return make_config(preset, mechanism=kind, intervention=own, **settings)


def open_choices(
    kind: str, given: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Which mechanisms and which interventions the data choose from; None: nothing is left to them."""
    mechanism, intervention = given["mechanism"], given["intervention"]
    own_start = given["preset"] != "default" or settings.get("init", "search") != "search"
    if kind != "continuous" or own_start:
        return None
    mechanisms = ("linear", "mlp") if mechanism == "auto" else (mechanism,)
    hard = given["known_interventions"] or settings.get("effect_spread", "auto") not in ("auto", 0)
    interventions = (intervention,) if intervention != "auto" else ("hard",) if hard else ("hard", "shift")
    return (mechanisms, interventions) if len(mechanisms) + len(interventions) > 2 else None


def check_columns(config: FitConfig, batch_key: Any, size_key: Any) -> None:
    """Refuse columns that the mechanism does not use."""
    for name, value in (("batch_key", batch_key), ("size_key", size_key)):
        if value is not None and not config.latent:
            raise InvalidValue(
                f"{name}={value!r} is for mechanism='count'; mechanism={config.mechanism!r} does not use it. Leave it "
                "out, or pass mechanism='count'."
            )


def resolve_device(device: str) -> torch.device:
    """The torch device for a user's choice; a ValueError that says what there is where it does not exist."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidValue(f"device={device!r} is not a torch device; use 'auto', 'cpu' or 'cuda'.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InvalidValue(
            f"device={device!r} was asked for, but torch {torch.__version__} finds no CUDA GPU here. "
            "Use device='cpu' (or 'auto'), or install a CUDA build of torch."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InvalidValue(f"device={device!r}: there are only {torch.cuda.device_count()} CUDA GPUs.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InvalidValue(f"device={device!r} was asked for, but torch finds no Apple GPU. Use device='cpu'.")
    return chosen
