"""The perturbation targets as a tidy table."""

from __future__ import annotations

from collections.abc import Iterable

import anndata as ad
import pandas as pd

from scgim._validation import check_number
from scgim.slots import read_entry

from ._names import check_known, genes_of, stored_table


def targets(
    adata: ad.AnnData,
    *,
    conditions: str | Iterable[str] | None = None,
    perturbations: str | Iterable[str] | None = None,
    genes: str | Iterable[str] | None = None,
    min_probability: float | None = None,
    called_only: bool = False,
    key: str = "gim",
    group: str | None = None,
) -> pd.DataFrame:
    """Which genes each condition targets, one row per condition and gene.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    conditions
        Labels of the conditions to keep; None keeps all.
    perturbations
        Perturbations to keep, at all their doses; None keeps all.
    genes
        Genes to keep; None keeps all that are modelled.
    min_probability
        Keep rows with at least this target probability.
    called_only
        Keep only the targets that the fit calls (`is_target`).
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

    Returns
    -------
    pandas.DataFrame
        A new table with the columns `condition`, `perturbation`, `dose` (NaN where there is none), `split`,
        `gene`, `probability` (between 0 and 1), `is_target`, `effect` (mean of the gene under the replaced mechanism;
        for shift interventions the shift), `control_mean` (of `adata.X`, training cells), `log2_fold_change` of (1 +
        normalised counts) that the intervention itself makes (NaN for continuous data) and its `direction` (-1, 0, 1).
        Rows keep the order of the table of conditions, then that of the fit.

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If a condition, perturbation or gene is unknown, or the group is wrong.

    Examples
    --------
    >>> import scgim
    >>> scgim.get.targets(adata, perturbations="Dacinostat", called_only=True)  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    about = slots.conditions[["condition", "perturbation", "dose", "split"]]
    stored = stored_table(slots, "targets", ("condition", "gene", "probability", "is_target"), others=True)
    stored = stored.astype({"condition": str, "gene": str, "is_target": bool})
    keep = pd.Series(True, index=stored.index)
    if conditions is not None:
        keep &= stored["condition"].isin(check_known(conditions, about["condition"].tolist(), "condition"))
    if perturbations is not None:
        known = about["perturbation"].drop_duplicates().tolist()
        names = check_known(perturbations, known, "perturbation")
        keep &= stored["condition"].isin(about.loc[about["perturbation"].isin(names), "condition"])
    if genes is not None:
        keep &= stored["gene"].isin(check_known(genes, genes_of(adata, slots), "gene"))
    if min_probability is not None:
        if not 0 <= check_number(min_probability, "min_probability") <= 1:
            raise ValueError(f"min_probability is a probability, between 0 and 1, not {min_probability}.")
        keep &= stored["probability"] >= min_probability
    if called_only:
        keep &= stored["is_target"]
    table = about.merge(stored[keep], on="condition", how="inner", sort=False)
    first = ["condition", "perturbation", "dose", "split", "gene", "probability", "is_target"]
    return table[first + [column for column in table.columns if column not in first]]
