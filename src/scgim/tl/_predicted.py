"""Unperturbed cells of the model that predicts."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from scgim._errors import InvalidValue, NotFound
from scgim._logging import logger
from scgim.slots import Entry

from ._sample import sample_cells


def own_control(adata: AnnData, cells: np.ndarray, entry: Entry, n: int, rng: np.random.Generator) -> np.ndarray | None:
    """Unperturbed cells of the model: `cells`, where there are any, else `n` from the stored fit; None without one."""
    if len(cells):
        return cells
    try:
        keys = entry.keys
        new = sample_cells(adata, perturbations=[entry.control], n=n, rng=rng, key=keys.key, group=keys.group)
    except (NotFound, InvalidValue) as reason:
        logger.info("no row of the model's own control: %s", reason)
        return None
    return np.asarray(new[:, entry.genes].X, dtype=np.float32)
