"""A small screen of counts: what a user brings, and a short fit of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from quick_fits import quick_fits

import scgim

#: A fit of a second; its accuracy does not matter.
SHORT: dict[str, Any] = {
    "max_steps": 20, "batch_size": 128, "n_graphs": 2, "network_hidden": (8,), "mechanism_hidden": 3, "n_features": 20,
    "n_candidates": 3, "device": "cpu", "progress": False,
}  # fmt: skip


def screen(labels: Sequence[str] = ("control", "G1", "G2"), n: int = 60, seed: int = 0) -> ad.AnnData:
    """`n` cells a label, 30 genes of Poisson(6); in label k genes 3k and 3k + 1 are changed."""
    rng = np.random.default_rng(seed)
    mean = np.full((len(labels), 30), 6.0)
    for k in range(len(labels)):
        mean[k, 3 * k], mean[k, 3 * k + 1] = (6.0, 6.0) if k == 0 else (18.0, 1.5)
    owner = np.repeat(np.arange(len(labels)), n)
    obs = pd.DataFrame({"target": np.array(labels, dtype=object)[owner]}, index=[f"cell{i}" for i in range(len(owner))])
    obs["donor"] = np.where(np.arange(len(owner)) % 2, "d1", "d2")
    var = pd.DataFrame(index=[f"gene{j:02d}" for j in range(30)])
    return ad.AnnData(rng.poisson(mean[owner]).astype(np.float32), obs=obs, var=var)


def prepared_screen(adata: ad.AnnData | None = None, **arguments: Any) -> ad.AnnData:
    """After `pp.prepare`, all genes modelled."""
    adata = screen() if adata is None else adata
    scgim.pp.prepare(adata, **{"perturbation_key": "target", "genes": "all", "min_counts": 20, **arguments})
    return adata


def fitted_screen(adata: ad.AnnData | None = None, **arguments: Any) -> ad.AnnData:
    """After `tl.fit_gim` with a few steps."""
    adata = prepared_screen(adata, **arguments)
    with quick_fits():
        scgim.tl.fit_gim(adata, **SHORT)
    return adata
