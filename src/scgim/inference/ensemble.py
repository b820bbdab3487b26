"""Fits to resampled cells: how far graph and targets hang on the cells that were drawn (`own`)."""

from __future__ import annotations

import joblib
import numpy as np
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from joblib.parallel import get_active_backend

from scgim.model import FittedGIM

from .config import FitConfig
from .data import TrainingData
from .fit import FitResult, fit

#: A member in which a typical condition targets more than this share of the genes has degenerated.
DEGENERATE = 0.5


def fit_members(
    data: TrainingData,
    config: FitConfig,
    n: int,
    *,
    seed: int = 0,
    n_jobs: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[list[FittedGIM], list[str]]:
    """Fits to bootstrapped cells with seeds of their own, several at a time; and why others failed.

    Parameters
    ----------
    data
        On the CPU.
    config
        Settings; sparsities that are ``"auto"`` follow from the number of cells, which stays.
    n
        How many.
    seed
        Of all of them; member m of n is the same whatever n is.
    n_jobs
        Processes at a time, as joblib counts them; its backend is that of `joblib.parallel_config`, unless that shares
        memory: fits in threads would wait for each other.
    device
        On which each is fitted.
    """
    if n < 1:
        return [], []
    backend = "loky" if getattr(get_active_backend()[0], "supports_sharedmem", False) else None
    jobs = min(n, joblib.effective_n_jobs(n_jobs))
    data = data.sorted_by_cell()
    tasks = (joblib.delayed(_member)(data, config, [seed, m + 1], str(device)) for m in range(n))
    found: list[FittedGIM | str] = []
    try:
        found.extend(joblib.Parallel(jobs, backend=backend, return_as="generator", pre_dispatch=jobs)(tasks))
    except (TerminatedWorkerError, OSError, KeyboardInterrupt) as error:
        found += [f"it was ended ({type(error).__name__})"] * (n - len(found))
    return [one for one in found if isinstance(one, FittedGIM)], [one for one in found if isinstance(one, str)]


def _member(data: TrainingData, config: FitConfig, seed: list[int], device: str) -> FittedGIM | str:
    """One of them, on the CPU; or what went wrong."""
    rng = np.random.default_rng(seed)
    try:
        result = fit(resampled(data, rng).to(device), config, rng=rng, progress=False)
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        if share_targeted(result, data.to(device)) > DEGENERATE:
            return "it has degenerated: typical conditions target more than half of the genes"
    except Exception as error:  # whatever it is, the others go on
        return f"{type(error).__name__}: {error}"
    return FittedGIM(result.gim.to("cpu"), result.graph)


def share_targeted(result: FitResult, data: TrainingData) -> float:
    """Share of the genes that a condition targets, on average over conditions."""
    treated = data.membership.sum(1) > 0
    with torch.no_grad():
        prob, _, _ = result.gim.condition_interventions(data.batch(data.condition[:0], data.x[:0, 0]))
    return float((prob[treated] > 0.5).float().mean()) if bool(treated.any()) else 0.0


def resampled(data: TrainingData, rng: np.random.Generator) -> TrainingData:
    """As many cells of every condition, drawn from its own with replacement; cells held out apart from others."""
    stratum = (2 * data.condition + data.valid).cpu().numpy()
    rows = np.arange(len(stratum))
    for one in np.unique(stratum):
        own = np.flatnonzero(stratum == one)
        rows[own] = rng.choice(own, len(own))
    return data.of_cells(torch.as_tensor(rows, device=data.x.device))
