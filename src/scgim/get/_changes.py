"""Observed and predicted changes of mean expression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd

from scgim._errors import InvalidValue
from scgim._validation import check_choice
from scgim.slots import Entry, read_entry

from ._cells import cells_of, expression, predicted_labels, require_genes
from ._results import check_known, genes_of


def changes(
    adata: ad.AnnData,
    predicted: ad.AnnData,
    *,
    conditions: str | Iterable[str] | None = None,
    reference: Literal["observed", "predicted"] = "observed",
    key: str = "gim",
    group: str | None = None,
) -> pd.DataFrame:
    """Observed and predicted change of every gene's mean against the control, one row per condition and gene.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    predicted
        Cells from `tl.sample_cells`, or of any other method: the modelled genes, and `obs["condition"]`.
    conditions
        Labels of conditions of `predicted` to keep; None keeps all but the control.
    reference
        What predicted changes are measured from: the `"observed"` control cells, as observed changes are, or the
        control cells in `predicted`, if you sampled some. A model whose control is off looks as if it predicted a
        change by the first; `"predicted"` shows what it really predicts.
    key, group
        Which fit.

    Returns
    -------
    pandas.DataFrame
        `condition`, `perturbation`, `dose` (NaN where there is none), `split` (`"new"` where the condition was not
        observed), `gene`, `n_cells` (observed), `control_mean`, `observed_mean` and `predicted_mean` (of `adata.X`,
        all cells), `observed_change`, `predicted_change`, `standard_error` of the observed change; NaN where there are
        no observed cells. Conditions in the order of the table of conditions, new ones last; ``.to_csv()`` writes it.

    Raises
    ------
    KeyError
        If there is no fit under `key`, or `predicted` has no column `condition`.
    ValueError
        If a condition is unknown, `predicted` lacks a modelled gene, or holds no control cell where it has to.

    Examples
    --------
    >>> new = scgim.tl.sample_cells(adata, perturbations=[("Dacinostat", 10_000)])  # doctest: +SKIP
    >>> scgim.get.changes(adata, new).to_csv("changes.csv")  # doctest: +SKIP
    """
    check_choice(reference, "reference", ("observed", "predicted"))
    slots = read_entry(adata, key, group, fitted=True)
    genes = genes_of(adata, slots)
    rows = _rows(slots, predicted, conditions)
    require_genes(predicted, genes)
    labels = predicted_labels(predicted).astype(str).to_numpy()
    control = expression(adata, cells_of(adata, slots, [slots.control]), genes)
    base = control.mean(axis=0)
    start = base
    if reference == "predicted":
        if not (labels == slots.control).any():
            raise InvalidValue(
                f"predicted holds no cell of the control {slots.control!r}: sample it as well "
                f"(scgim.tl.sample_cells(adata, perturbations=[{slots.control!r}, ...]))."
            )
        start = expression(predicted, labels == slots.control, genes).mean(axis=0)
    tables = []
    for row in rows.itertuples():
        cells = expression(adata, cells_of(adata, slots, [row.condition]), genes)
        seen = cells.mean(axis=0) if len(cells) else np.full(len(genes), np.nan)
        forecast = expression(predicted, labels == row.condition, genes).mean(axis=0)
        table = {"condition": row.condition, "perturbation": row.perturbation, "dose": row.dose, "split": row.split}
        table |= {"gene": genes, "n_cells": len(cells), "control_mean": base, "observed_mean": seen}
        table |= {"predicted_mean": forecast, "observed_change": seen - base, "predicted_change": forecast - start}
        table["standard_error"] = np.sqrt(_squared_error(cells) + _squared_error(control))
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def _squared_error(cells: np.ndarray) -> np.ndarray:
    """Of the mean of each gene, (genes,); NaN below two cells."""
    if len(cells) < 2:
        return np.full(cells.shape[1], np.nan)
    return np.asarray(cells.var(axis=0, ddof=1) / len(cells))


def _rows(slots: Entry, predicted: ad.AnnData, asked: str | Iterable[str] | None) -> pd.DataFrame:
    """Conditions of the predicted cells, without the control: condition, perturbation, dose, split."""
    held = predicted.obs.assign(condition=predicted_labels(predicted).astype(str)).drop_duplicates("condition")
    known = slots.conditions[["condition", "perturbation", "dose", "split"]]
    names = held["condition"].tolist()
    if asked is not None:
        names = check_known(asked, names, "condition of predicted")
    names = [name for name in names if name != slots.control]
    if not names:
        raise InvalidValue("The control does not change: predicted must hold cells of at least one other condition.")
    new = held[held["condition"].isin(names) & ~held["condition"].isin(known["condition"])]
    others = pd.DataFrame({"condition": new["condition"].tolist(), "split": "new"})
    others["perturbation"] = new["perturbation"].astype(str).tolist() if "perturbation" in new else others["condition"]
    others["dose"] = new["dose"].astype(float).tolist() if "dose" in new else np.nan
    known = known[known["condition"].isin(names)]
    return pd.concat([known, others], ignore_index=True) if len(others) else known.reset_index(drop=True)
