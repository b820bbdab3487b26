"""Predicted cells as they are given to be judged, checked, and unperturbed cells of the model that predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scgim._errors import InvalidType, InvalidValue, NotFound
from scgim._logging import logger
from scgim._validation import holds_counts, listing, plural
from scgim.slots import Entry
from scgim.slots.keys import COUNTS_LAYER

from ._sample import sample_cells

#: The largest log1p value where it is not known what cells were normalised to: everything in one gene, per million.
_LARGEST = float(np.log1p(1e6))


def predicted_cells(predicted: Any, entry: Entry) -> np.ndarray:
    """Predicted cells with the genes in the order of the fit, checked."""
    if not isinstance(predicted, AnnData):
        raise InvalidType(
            "predicted must be an AnnData with the condition of every cell in obs['condition'], as "
            f"scgim.tl.sample_cells returns it, not {type(predicted).__name__}."
        )
    genes = pd.Index(entry.genes)
    if "condition" not in predicted.obs:
        raise NotFound('predicted.obs["condition"] was not found: it must name the condition of every cell.')
    missing = genes.difference(predicted.var_names, sort=False)
    if len(missing):
        raise InvalidValue(f"predicted lacks {len(missing)} of the {len(genes)} modelled genes: {listing(missing)}.")
    x = predicted[:, genes].X
    x = np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float32)
    if not np.isfinite(x).all():
        raise InvalidValue(f"predicted.X has {plural(int((~np.isfinite(x)).sum()), 'value')} not finite.")
    _check_scale(x, entry, counted=COUNTS_LAYER in predicted.layers and entry.keys.size_factor in predicted.obs)
    return x


def _check_scale(x: np.ndarray, entry: Entry, *, counted: bool) -> None:
    """Refuse predicted counts; say so where values are larger than any cell can have, unless counts explain them."""
    if entry.arguments["input"] == "continuous" or not x.size:
        return
    largest, target = float(x.max()), float(entry.prepared["params"]["target_sum"])
    if largest >= 2 and holds_counts(x):
        raise InvalidValue(
            f"predicted.X holds whole numbers only (up to {largest:g}): these are counts, and adata.X is "
            "log-normalised. Normalise predicted as adata was (sc.pp.normalize_total, then sc.pp.log1p)."
        )
    # A cell's normalised counts sum to `target_sum`: one gene cannot have more.
    most = float(np.log1p(target)) if np.isfinite(target) else _LARGEST
    if largest > most and not counted:
        n = plural(int((x > most).any(1).sum()), "cell")
        logger.warning(
            "predicted.X reaches %g (%s above %.3g), more than the log1p of any cell here can be. If predicted is not "
            "log-transformed, run sc.pp.log1p(predicted) first.", largest, n, most,
        )  # fmt: skip


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
