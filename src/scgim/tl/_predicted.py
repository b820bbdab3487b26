"""Predicted cells, whoever predicted them: the modelled genes, on the scale of `adata.X`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgim._logging import logger
from scgim._validation import holds_counts, listing, plural, require_anndata
from scgim.slots import Entry, dense

if TYPE_CHECKING:
    from anndata import AnnData

#: log1p of a normalised count; ln(1 + 1e13).
_LARGEST_LOG = 30.0


def predicted_cells(predicted: AnnData, entry: Entry) -> np.ndarray:
    """Predicted cells (cells, genes), the genes in the order of the entry.

    Raises
    ------
    TypeError, KeyError, ValueError
        If `predicted` is no AnnData, lacks its labels or a gene, has values that are not finite, or is on another
        scale than `adata.X`.
    """
    require_anndata(predicted, "predicted")
    if "condition" not in predicted.obs:
        raise KeyError(
            'predicted.obs["condition"] was not found: it must name the condition of every cell, as in what '
            "scgim.tl.sample_cells returns."
        )
    genes = pd.Index(entry.genes)
    missing = genes.difference(predicted.var_names, sort=False)
    if len(missing):
        raise ValueError(f"predicted lacks {len(missing)} of the {len(genes)} modelled genes: {listing(missing)}.")
    x = dense(predicted[:, genes].X)
    if not np.isfinite(x).all():
        raise ValueError(f"predicted.X has {plural(int((~np.isfinite(x)).sum()), 'value')} not finite.")
    if entry.arguments["input"] != "continuous":
        _check_scale(x, entry)
    return x


def _check_scale(x: np.ndarray, entry: Entry) -> None:
    """Refuse counts where log-normalised values are compared; say where a value is larger than a library can hold."""
    largest, total = float(x.max(initial=0)), float(entry.prepared["params"]["target_sum"])
    limit = math.log1p(total) if math.isfinite(total) else _LARGEST_LOG  # all counts of a cell in one gene
    if largest > 2 * limit or (largest > 0 and holds_counts(x)):
        raise ValueError(
            f"predicted.X reaches {largest:g} and looks like counts, but adata.X is log-normalised: compare alike. "
            f"Normalise predicted as adata was{f' (every cell to {total:g} counts)' if math.isfinite(total) else ''} and "
            "run sc.pp.log1p(predicted)."
        )
    if largest > limit * 1.001:
        logger.warning(
            "predicted.X reaches %g in %s: more than log1p of all %g normalised counts of a cell, so no cell is like that",
            largest, plural(int((x > limit * 1.001).any(axis=1).sum()), "cell"), total,
        )  # fmt: skip
