"""How deep cells are, and at what rates genes are counted in control cells."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scgim.model import Counting

from .data import TrainingData


def _controls_of_batches(counting: Counting, data: TrainingData) -> list[Tensor]:
    """bool (cells,) of every batch, its control cells to train on."""
    assert data.batch_code is not None
    control = ~data.valid & (data.membership.sum(1) == 0)[data.condition]
    return [control & (data.batch_code == code) for code in range(len(counting.baseline))]


def measure_rates(counting: Counting, data: TrainingData) -> None:
    """Rates of genes in the control cells of every batch."""
    assert data.counts is not None and data.log_size is not None
    for code, cells in enumerate(_controls_of_batches(counting, data)):
        total, size = data.counts[cells].sum(0).cpu(), data.log_size[cells].exp().sum().cpu()
        counting.baseline[code] = ((total + 0.5) / (size + 0.5)).log()


def describe_sizes(counting: Counting, data: TrainingData) -> None:
    """The cells' size factors, and how they follow from the features of conditions."""
    assert data.log_size is not None and data.batch_code is not None
    usual = torch.stack([data.log_size[cells].mean() for cells in _controls_of_batches(counting, data)])
    train = ~data.valid
    log_size = data.log_size[train]
    if len(counting.depth):
        features = (data.membership @ data.features).cpu().double().numpy()
        away = (log_size - usual[data.batch_code[train]]).cpu().double().numpy()
        depth = slopes_of_means(away, data.condition[train].cpu().numpy(), features)
        counting.depth.copy_(torch.as_tensor(depth))
        log_size = log_size - torch.as_tensor(features @ depth).to(log_size)[data.condition[train]]
    counting.describe(log_size.cpu(), data.batch_code[train].cpu())


def slopes_of_means(values: np.ndarray, code: np.ndarray, features: np.ndarray) -> np.ndarray:
    """(p,) by how much conditions' means of `values` (cells,) grow with their features (conditions, p).

    Bayesian ridge regression without intercept; the variance of the slopes is the one with the highest marginal
    likelihood, 0 among them: chance leaves small slopes or none. `code` (cells,): each cell's condition.
    """
    n = np.bincount(code, minlength=len(features))
    seen = (n > 0) & features.any(1)
    if not seen.any():
        return np.zeros(features.shape[1])
    mean = np.bincount(code, values, len(features))[seen] / n[seen]
    within = (values - (np.bincount(code, values, len(features)) / n.clip(1))[code]).var() / n[seen]
    inside, best, highest = features[seen], np.zeros(features.shape[1]), -np.inf
    for variance in (0.0, *np.logspace(-12, 2, 57)):  # features of the user may be thousands
        total = variance * inside @ inside.T + np.diag(within + 1e-9)
        solved = np.linalg.solve(total, mean)
        likelihood = -0.5 * (np.linalg.slogdet(total)[1] + mean @ solved)
        if likelihood > highest:
            best, highest = variance * inside.T @ solved, likelihood
    return best
