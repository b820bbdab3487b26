"""Predicted cells as they are given to be judged: checked, and side by side with the observed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique

from scgim._errors import InvalidType, InvalidValue, NotFound
from scgim._logging import logger
from scgim._rng import RngLike, as_generator
from scgim._validation import check_choice, holds_counts, listing, plural
from scgim.slots import Entry, read_entry
from scgim.slots.keys import COUNTS_LAYER

from ._results import check_known

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


def prediction_pair(
    adata: AnnData,
    predicted: AnnData,
    *,
    conditions: str | Sequence[str] | None = None,
    control: Literal["predicted", "observed", "split"] = "predicted",
    column: str = "condition",
    rng: RngLike = 0,
    key: str = "gim",
    group: str | None = None,
) -> tuple[AnnData, AnnData]:
    """Observed and predicted cells as two AnnData that other evaluation suites take, such as cell-eval.

    Both have the modelled genes in the same order, log-normalised values, the same perturbations, control cells, and
    one column that names the perturbation of every cell.

    Parameters
    ----------
    adata
        The observed cells, prepared by `scgim.pp.prepare`. Of a condition with cells held out for testing
        (`test_fraction`) these are taken, of any other, and of the control, all cells. Nothing is written.
    predicted
        Predicted cells, as `scgim.tl.sample_cells` returns them or from elsewhere: `obs["condition"]` and the
        modelled genes. Numbers of significant genes grow with the number of cells: predict as many as were observed.
    conditions
        Labels to compare. None: those that were held out and are in `predicted`.
    control
        Where the control cells beside the predicted ones come from. "predicted": from `predicted`, so that the
        method's error on unperturbed cells counts; these must be there. "observed": the same observed control cells on
        both sides, as is usual for methods that predict none; changes then share the noise of these cells and look more
        alike than two experiments do. "split": one random half of the observed control cells on each side.
    column
        Name of the column of perturbations in both results.
    rng
        Seed or generator, of "split".
    key, group
        Which preparation.

    Returns
    -------
    real, predicted : anndata.AnnData
        X float32; obs has `column` alone, a categorical of the labels that `adata.obs["gim_condition"]` has, control
        first.

    Raises
    ------
    KeyError
        If nothing was prepared under `key`, or a condition has no observed or no predicted cells.
    ValueError
        If `predicted` has no control cells and `control` is "predicted", no condition is held out and none is named, a
        gene is missing, or values are no log-normalised expression (not finite, counts, or below 0).
    TypeError
        If `predicted` is no AnnData.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.datasets.simulated_sciplex3(n_genes=200)
    >>> scgim.pp.prepare(adata, dose_key="dose_value", n_genes=10, hold_out={"Dacinostat": 10_000})
    >>> new = adata[adata.obs["gim_condition"] == "Dacinostat_1000"].copy()  # the next lower dose as the prediction
    >>> new.obs["condition"] = "Dacinostat_10000"
    >>> real, predicted = scgim.get.prediction_pair(adata, new, control="observed")
    >>> real.obs["condition"].cat.categories.tolist(), predicted.shape[1]
    (['control', 'Dacinostat_10000'], 10)

    With a fit, and judged by `cell-eval <https://pypi.org/project/cell-eval/>`__:

    >>> new = scgim.tl.sample_cells(adata, n=200)  # all conditions and the control  # doctest: +SKIP
    >>> real, predicted = scgim.get.prediction_pair(adata, new)  # doctest: +SKIP
    >>> from cell_eval import MetricsEvaluator  # doctest: +SKIP
    >>> judge = MetricsEvaluator(predicted, real, pert_col="condition", control_pert="control")  # doctest: +SKIP
    >>> per_perturbation, summary = judge.compute()  # doctest: +SKIP
    """
    check_choice(control, "control", ("predicted", "observed", "split"))
    entry = read_entry(adata, key, group)
    if entry.arguments["input"] == "continuous":
        raise InvalidValue(
            "adata.X is continuous (input='continuous'), and suites such as cell-eval compare log1p of normalised "
            "counts: use scgim.tl.evaluate."
        )
    x = predicted_cells(predicted, entry)
    if (x < 0).any():
        raise InvalidValue(
            f"predicted.X has {plural(int((x < 0).sum()), 'value')} below 0, which log-normalised expression cannot "
            "have: raise them to 0 (np.maximum), or fit the method with clip=True."
        )
    given = predicted.obs["condition"].astype(str).to_numpy()
    codes = entry.codes(adata)
    held_out = codes[(codes >= 0) & (entry.split(adata) == "test")]
    labels = _compared(conditions, entry, given, np.unique(codes[codes >= 0]), np.unique(held_out))
    rows = _observed_rows(entry, codes, entry.split(adata), [entry.control, *labels])
    real_labels = np.array(entry.labels, dtype=object)[codes[rows]]
    x_real, names_real = entry.read_cells(adata, rows, codes), adata.obs_names[rows]
    used = np.isin(given, [entry.control, *labels])
    x, given, names = x[used], given[used].astype(object), predicted.obs_names[used]
    if control != "predicted":
        own = np.flatnonzero(real_labels == entry.control)
        kept, theirs = np.arange(len(rows)), given != entry.control
        if control == "split":
            own = np.sort(as_generator(rng).permutation(own)[: len(own) // 2])
            kept = np.setdiff1d(kept, own)
        x, given = np.concatenate([x_real[own], x[theirs]]), np.concatenate([real_labels[own], given[theirs]])
        names = names_real[own].append(names[theirs])
        x_real, real_labels, names_real = x_real[kept], real_labels[kept], names_real[kept]
    elif entry.control not in given:
        raise InvalidValue(
            f"predicted has no cells of the control {entry.control!r}, from which its changes would be measured. "
            f"Predict some (scgim.tl.sample_cells(adata, perturbations=[{labels[0]!r}, {entry.control!r}]); or control "
            "cells as the method gives them), or pass control='observed' or 'split': then observed control cells "
            "stand on both sides."
        )
    real = _as_anndata(x_real, real_labels, names_real, entry, labels, column)
    return real, _as_anndata(x, given, names, entry, labels, column)


def _compared(
    wanted: str | Sequence[str] | None, entry: Entry, given: np.ndarray, observed: np.ndarray, held_out: np.ndarray
) -> list[str]:
    """Labels of the perturbed conditions to compare, in the order of the table of conditions."""

    def perturbed(codes: np.ndarray) -> list[str]:
        return [entry.labels[code] for code in codes if not entry.is_control[code]]

    there = set(given)
    if wanted is not None:
        labels = check_known(wanted, perturbed(np.arange(len(entry.labels))), "condition")
        for label in labels:
            if label not in there:
                raise NotFound(f"conditions: {label!r} is not in predicted, which has {listing(sorted(there))}.")
            if label not in perturbed(observed):
                raise NotFound(
                    f"conditions: {label!r} has no observed cells; adata has {listing(perturbed(observed))}."
                )
        return sorted(labels, key=entry.labels.index)
    tested = perturbed(held_out)
    if not tested:
        raise InvalidValue(
            "No condition of adata was held out: a method that has seen the cells that it is compared with looks too "
            "good. Hold some out (hold_out= of scgim.pp.prepare) and fit again, or name conditions=[...]."
        )
    labels = [label for label in tested if label in there]
    if not labels:
        raise NotFound(
            f"predicted has none of the held-out conditions ({listing(tested)}); it has {listing(sorted(there))}."
        )
    if len(labels) < len(tested):
        left_out = [label for label in tested if label not in there]
        logger.warning("Not compared, because predicted has no such cells: %s.", listing(left_out))
    return labels


def _observed_rows(entry: Entry, codes: np.ndarray, split: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Cells of these conditions; where some of a perturbed one were held out for testing, these."""
    tests = split == "test"
    partly = np.setdiff1d(np.unique(codes[(codes >= 0) & tests]), np.flatnonzero(entry.is_control))
    wanted = [entry.labels.index(label) for label in labels]
    return np.flatnonzero(np.isin(codes, wanted) & (tests | ~np.isin(codes, partly)))


def _as_anndata(
    x: np.ndarray, labels: np.ndarray, names: pd.Index, entry: Entry, compared: Sequence[str], column: str
) -> AnnData:
    names = make_index_unique(pd.Index(names.astype(str)))
    obs = pd.DataFrame({column: pd.Categorical(labels, categories=[entry.control, *compared])}, index=names)
    return AnnData(np.ascontiguousarray(x), obs=obs, var=pd.DataFrame(index=pd.Index(entry.genes)))
