"""Unperturbed cells that were not there when the data were prepared: another donor, a new batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgim._logging import logger
from scgim._validation import check_anndata, check_values, holds_counts, listing, plural
from scgim.slots import Entry

if TYPE_CHECKING:
    from anndata import AnnData


def new_controls(cells: AnnData, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the unperturbed cells, and their expression on the scale of the fit, float32 (cells, genes).

    Raises
    ------
    ValueError
        If modelled genes are missing, no cell is unperturbed, or the values are not on the scale of the fit.
    """
    check_anndata(cells)
    entry.positions(cells)
    rows = _unperturbed_rows(cells, entry)
    kind = entry.arguments["input"]
    part = cells[rows].to_memory()
    if kind == "counts" and holds_counts(part.X):
        return rows, _normalised(part, entry)
    check_values(
        part.X, "the X of cells", kind="continuous" if kind == "continuous" else "log1p",
        cells=part.obs_names, genes=part.var_names,
    )  # fmt: skip
    return rows, entry.expression(part, np.arange(part.n_obs))


def _unperturbed_rows(cells: AnnData, entry: Entry) -> np.ndarray:
    column = entry.arguments["perturbation_key"]
    if column not in cells.obs:
        return np.arange(cells.n_obs)
    labels = cells.obs[column].astype(object)
    names = {entry.control, *(str(name).strip() for name in np.atleast_1d(entry.arguments["control"]))}
    control = np.array([pd.notna(label) and str(label).strip() in names for label in labels])
    if not control.any():
        raise ValueError(
            f"cells has no unperturbed cell: none is labelled {entry.control!r} in its obs[{column!r}], which has "
            f"{listing(sorted(set(labels.dropna().astype(str))))}. Pass unperturbed cells, labelled so or without that "
            "column."
        )
    if not control.all():
        logger.info("of %d cells given, the %d labelled %r are used", len(control), control.sum(), entry.control)
    return np.flatnonzero(control)


def _normalised(cells: AnnData, entry: Entry) -> np.ndarray:
    """log1p of counts, normalised to the total that `pp.prepare` used."""
    known = int(entry.prepared["n_vars"])
    if cells.n_vars < known / 2:
        raise ValueError(
            f"The X of cells holds counts of {plural(cells.n_vars, 'gene')}, but cells were normalised by their totals "
            f"over {known} genes. Pass all genes, or values that were normalised with them."
        )
    total = np.asarray(cells.X.sum(axis=1), dtype=np.float64).ravel()
    if (total == 0).any():
        raise ValueError(f"{plural(int((total == 0).sum()), 'cell')} without any counts. Leave them out.")
    logger.info("the X of cells holds counts: normalised as scgim.pp.prepare did")
    scale = float(entry.prepared["params"]["target_sum"]) / total
    return np.log1p(entry.expression(cells, np.arange(cells.n_obs)) * scale[:, None]).astype(np.float32)
