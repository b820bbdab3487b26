"""Predicted and baseline cells compared with observed cells, as one tidy table."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scgim import baselines as bl
from scgim._errors import InvalidType, InvalidValue, NotFound
from scgim._logging import logger
from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed
from scgim._validation import check_choice, check_int, holds_counts, listing, plural
from scgim.metrics import METRICS
from scgim.metrics.table import DEFAULT
from scgim.slots import Entry, read_entry
from scgim.slots.keys import COUNTS_LAYER

if TYPE_CHECKING:
    from scgim.slots.keys import Keys

_METRICS = {name: metric for name, metric in METRICS.items() if metric.of == "cells"}
#: What one baseline may end in without taking the table with it: no such prediction, no package, no finite fit.
_FAILURES = (bl.CannotPredict, ImportError, FloatingPointError, np.linalg.LinAlgError)
#: The largest log1p value where it is not known what cells were normalised to: everything in one gene, per million.
_LARGEST = float(np.log1p(1e6))


@undisturbed()
def evaluate(
    adata: AnnData,
    predicted: AnnData | None = None,
    *,
    baselines: Sequence[str | bl.Baseline] = (),
    metrics: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
    key: str = "gim",
    group: str | None = None,
    rng: RngLike = 0,
    max_cells: int | None = 1_000,
) -> pd.DataFrame:
    """Compare predicted with observed cells, condition by condition.

    Parameters
    ----------
    adata
        The observed cells, prepared by `scgim.pp.prepare`. Of a condition with cells held out for testing
        (`test_fraction`) these are compared, of any other all cells; baselines are fitted on the training cells only.
    predicted
        Predicted cells, as `scgim.tl.sample_cells` returns them: `obs["condition"]` and the modelled genes.
        None: the baselines alone; `adata` then needs no fit.
    baselines
        Names that `scgim.baselines.fit` knows ("control", "mean_shift", ...) or baseline objects. Each
        predicts as many cells per condition as `predicted` has, or, without it, as were observed.
    metrics
        Any of mean_distance, pearson_means, pearson_delta, kde_nll, wasserstein, sinkhorn_divergence,
        e_distance, zero_fraction_error, coverage (estimators: `scgim.metrics`). Default: mean_distance,
        pearson_delta, kde_nll, wasserstein, e_distance.
    conditions
        Labels to compare. Default: every condition of `predicted` that has observed cells; without
        `predicted`, every condition that was held out or has test cells.
    key, group
        Which preparation.
    rng
        Seed or generator. A baseline's values do not depend on which others are asked for.
    max_cells
        For metrics over pairs of cells (kde_nll, wasserstein, sinkhorn_divergence, e_distance): a random
        subset of at most this many observed and predicted cells (`own`: 1,000), the same observed cells for
        every method. None: all.

    Returns
    -------
    pandas.DataFrame
        One row per condition, method and metric: condition, method ("gim" for `predicted`, or the baseline's
        name), metric, value, n_true and n_predicted (cells that entered the value). Where a baseline has no
        prediction, or a metric no value (a package that they need may be missing), the value is NaN and a warning
        says why.

    Raises
    ------
    KeyError
        If nothing was prepared under `key`, or a condition is not there.
    ValueError
        If a metric or baseline is unknown or named twice, genes are missing from `predicted`, it has values
        that are not finite or counts where `adata.X` is log-normalised, or there is neither a prediction nor a
        baseline. Values above any log1p earn a warning.
    TypeError
        If an argument has the wrong type.

    Examples
    --------
    >>> import scgim
    >>> new = scgim.tl.sample_cells(adata, perturbations=[("Dacinostat", 10_000)])    # doctest: +SKIP
    >>> scgim.tl.evaluate(adata, new, baselines=["control", "ridge"])                 # doctest: +SKIP

    Before any fit, how hard the task is:

    >>> adata = scgim.datasets.simulated_sciplex3()
    >>> scgim.pp.prepare(adata, dose_key="dose_value", n_genes=10, hold_out={"Dacinostat": 10_000})
    >>> table = scgim.tl.evaluate(adata, baselines=["control", "next_lower_dose"], metrics="mean_distance")
    >>> table["method"].tolist()
    ['control', 'next_lower_dose']
    """
    entry = read_entry(adata, key, group)
    names = _check_metrics(metrics)
    most = None if max_cells is None else check_int(max_cells, "max_cells", least=1)
    codes = entry.codes(adata)
    observed_names = {entry.labels[code] for code in np.unique(codes[codes >= 0])}
    tested, fair = _test_cells(entry, codes, entry.split(adata))
    if predicted is None:
        labels = _choose_observed(conditions, tested, observed_names)
    else:
        cells = _predicted_cells(predicted, entry)
        predicted_labels = predicted.obs["condition"].astype(str).to_numpy()
        labels = _choose(conditions, predicted_labels, observed_names)
    root = draw_seed(as_generator(rng))
    fitted = _fit_baselines(adata, baselines, entry.keys, root)
    if predicted is None and not fitted:
        raise InvalidValue(
            "There is nothing to evaluate: give predicted cells (scgim.tl.sample_cells), baselines=[...], or both."
        )
    needed = np.flatnonzero(np.isin(codes, [entry.labels.index(label) for label in (*labels, entry.control)]))
    observed = entry.read_cells(adata, needed, codes)
    observed_labels = np.array(entry.labels, dtype=object)[codes[needed]]
    control = observed[observed_labels == entry.control]

    rows = []
    for label in labels:
        true = observed[(observed_labels == label) & fair[needed]]
        condition = bl.prepared_condition(adata, label, key=key, group=group)
        samples: dict[str, np.ndarray | None] = {}
        n = len(true)
        if predicted is not None:
            samples["gim"] = cells[predicted_labels == label]
            n = int((predicted_labels == label).sum())
        for name, baseline in fitted.items():
            samples[name] = _sample(baseline, condition, n, _stream(root, name, label))
        few_true = _subset(true, most, _stream(root, "observed", label))
        for method, sample in samples.items():
            if sample is None:
                rows += [(label, method, metric, np.nan, len(true), 0) for metric in names]
                continue
            few = _subset(sample, most, _stream(root, "predicted", method, label))
            for metric in names:
                x, y = (few_true, few) if _METRICS[metric].pairwise else (true, sample)
                rows.append((label, method, metric, _measure(metric, label, method, x, y, control), len(x), len(y)))
    columns = ["condition", "method", "metric", "value", "n_true", "n_predicted"]
    return pd.DataFrame(rows, columns=columns)


def _measure(
    metric: str, label: str, method: str, true: np.ndarray, predicted: np.ndarray, control: np.ndarray
) -> float:
    """The value; NaN where the metric refuses, or a package that it needs is missing."""
    try:
        return METRICS[metric](true, predicted, control)
    except (ValueError, ImportError) as error:
        logger.warning("%s of %s for condition %r has no value: %s", metric, method, label, error)
        return float("nan")


def _sample(
    baseline: bl.Baseline | None, condition: bl.Condition, n: int, rng: np.random.Generator
) -> np.ndarray | None:
    try:
        return None if baseline is None else baseline.sample(condition, n, rng)
    except _FAILURES as error:
        logger.warning("%s", _reason(baseline.name if baseline else "", error))
        return None


def _reason(name: str, error: Exception) -> str:
    """Why a baseline has no value; what `CannotPredict` says names it already."""
    return str(error) if isinstance(error, bl.CannotPredict) else f"{name} has no values: {error}"


def _fit_baselines(
    adata: AnnData, wanted: Sequence[str | bl.Baseline], keys: Keys, root: int
) -> dict[str, bl.Baseline | None]:
    """Fitted baselines by name; None where one cannot be fitted to these data."""
    wanted = _names(wanted, "baselines")
    names = [entry.name if isinstance(entry, bl.Baseline) else entry for entry in wanted]
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InvalidType(f"baselines must be names or baseline objects, got {wrong[0]!r}.")
    repeated = sorted({name for name in names if names.count(name) > 1 or name == "gim"})
    if repeated:
        raise InvalidValue(f"baselines: {listing(repeated)} would appear twice in the table; names must differ.")
    fitted: dict[str, bl.Baseline | None] = {}
    for entry, name in zip(wanted, names, strict=True):
        try:
            stream = _stream(root, "fit", name)
            fitted[name] = bl.fit(adata, method=entry, key=keys.key, group=keys.group, rng=stream)
        except _FAILURES as error:
            logger.warning("%s", _reason(name, error))
            fitted[name] = None
    return fitted


def _names(given: Any, argument: str) -> list[Any]:
    """One name or several, as a list."""
    if isinstance(given, str | bl.Baseline):
        return [given]
    if not isinstance(given, Iterable):
        raise InvalidType(f"{argument} must be a name or a list of names, got {given!r}.")
    return list(given)


def _check_metrics(metrics: Sequence[str] | None) -> list[str]:
    if metrics is None:
        return list(DEFAULT)
    names = _names(metrics, "metrics")
    for name in names:
        check_choice(name, "metrics", tuple(_METRICS))
    return list(dict.fromkeys(names))


def _choose(wanted: Sequence[str] | None, predicted: np.ndarray, observed: set[str]) -> list[str]:
    """Labels to compare, each with predicted and observed cells."""
    available = list(dict.fromkeys(predicted.tolist()))
    if wanted is None:
        unobserved = [label for label in available if label not in observed]
        if unobserved:
            logger.warning("Not compared, because adata has no such cells: %s.", listing(unobserved))
        labels = [label for label in available if label in observed]
        if not labels:
            raise NotFound(
                f"None of the predicted conditions ({listing(available)}) has observed cells; "
                f"adata has {listing(sorted(observed))}."
            )
        return labels
    labels = list(dict.fromkeys(_names(wanted, "conditions")))
    for label in labels:
        if label not in available:
            raise NotFound(f"conditions: {label!r} is not in predicted, which has {listing(available)}.")
        if label not in observed:
            raise NotFound(f"conditions: {label!r} has no observed cells; adata has {listing(sorted(observed))}.")
    return labels


def _test_cells(entry: Entry, codes: np.ndarray, split: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Perturbed conditions with test cells; (cells,) bool: not a training cell of one of these."""
    with_tests = np.unique(codes[(codes >= 0) & (split == "test")])
    labels = [entry.labels[code] for code in with_tests if not entry.is_control[code]]
    return labels, (split == "test") | ~np.isin(codes, with_tests)


def _choose_observed(wanted: Sequence[str] | None, tested: list[str], observed: set[str]) -> list[str]:
    """Labels to compare where nothing but the baselines predicts: those asked for, or those held out."""
    if wanted is None:
        labels = [label for label in tested if label in observed]
        if not labels:
            raise InvalidValue(
                "No condition is held out, so there is none to compare by default: name conditions=[...], or hold some "
                "(or, with test_fraction=, cells of each) out with scgim.pp.hold_out. Baselines look too "
                "good on cells that they were fitted on."
            )
        return labels
    labels = list(dict.fromkeys(_names(wanted, "conditions")))
    for label in labels:
        if label not in observed:
            raise NotFound(f"conditions: {label!r} has no observed cells; adata has {listing(sorted(observed))}.")
    return labels


def _subset(cells: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    if most is None or len(cells) <= most:
        return cells
    return cells[rng.choice(len(cells), size=most, replace=False)]


def _stream(root: int, *names: str) -> np.random.Generator:
    """A generator of its own for every purpose, so that adding a baseline changes no other value."""
    return np.random.default_rng([root, *(zlib.crc32(name.encode()) for name in names)])


def _predicted_cells(predicted: Any, entry: Entry) -> np.ndarray:
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
