"""Predicted and baseline cells compared with observed cells, as one tidy table."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scgim import baselines as bl
from scgim._errors import InvalidType, InvalidValue, NotFound
from scgim._logging import logger
from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed
from scgim._validation import check_choice, check_int, listing
from scgim.get._pairs import predicted_cells
from scgim.metrics import METRICS
from scgim.metrics.table import DEFAULT, HALVES, OWN_CONTROL
from scgim.slots import Entry, read_entry

from ._noise import bootstrap, conclude, differs, halves
from ._predicted import own_control

if TYPE_CHECKING:
    from scgim.slots.keys import Keys

_METRICS = {name: metric for name, metric in METRICS.items() if metric.of == "cells"}
_COLUMNS = ["condition", "method", "metric", "value", "difference", "noise", "n_true", "n_predicted"]
#: What one baseline may end in without taking the table with it: no such prediction, no package, no finite fit.
_FAILURES = (bl.CannotPredict, ImportError, FloatingPointError, np.linalg.LinAlgError)


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
    n_boot: int = 20,
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
        Any of mean_distance, mean_absolute_error, pearson_delta, pearson_means, e_distance, wasserstein,
        sinkhorn_divergence, de_overlap, de_direction_match, discrimination (among all perturbed conditions of `adata`
        with cells), zero_fraction_error, coverage, kde_nll (estimators: `scgim.metrics`). Default: mean_distance,
        pearson_delta, e_distance, wasserstein, de_overlap.
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
    n_boot
        Resamples of the cells from which noise is estimated (`own`: 20); 0: none.

    Returns
    -------
    pandas.DataFrame
        One row per condition, method and metric: condition, method ("gim" for `predicted`, or the baseline's
        name), metric, value, difference (to the first method), noise (standard deviation of the difference over
        resampled cells, observed, control and predicted; what other fits or conditions would give is not in it),
        n_true and n_predicted (cells that entered the value). Where a baseline has no prediction, or a metric no value
        (a package that they need may be missing), the value is NaN and a warning says why.

        Two methods are none. "own control": unperturbed cells of the model as the prediction, those in `predicted` or
        sampled from the fit under `key`, if any; what is no better than it was not learned from the perturbation, and a
        warning names conditions whose prediction does not differ from it. "two halves": one random half of the observed
        cells as the prediction of the other, mean of three; a method, which is compared with all cells, can be better
        than that, but by no more than so few cells can tell.

        ``attrs["conclusion"]``, also logged: in one sentence, what may be concluded.

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
    ['control', 'next_lower_dose', 'two halves']
    """
    entry = read_entry(adata, key, group)
    names = _check_metrics(metrics)
    most = None if max_cells is None else check_int(max_cells, "max_cells", least=1)
    n_boot = check_int(n_boot, "n_boot", least=0)
    codes = entry.codes(adata)
    observed_names = {entry.labels[code] for code in np.unique(codes[codes >= 0])}
    tested, fair = _test_cells(entry, codes, entry.split(adata))
    predicted_labels = None
    if predicted is not None:
        cells = predicted_cells(predicted, entry)
        predicted_labels = predicted.obs["condition"].astype(str).to_numpy()
    labels = _choose(conditions, predicted_labels, tested, observed_names)
    root = draw_seed(as_generator(rng))
    fitted = _fit_baselines(adata, baselines, entry.keys, root)
    if predicted is None and not fitted:
        raise InvalidValue(
            "There is nothing to evaluate: give predicted cells (scgim.tl.sample_cells), baselines=[...], or both."
        )
    ranked = any(_METRICS[name].needs_others for name in names)
    wanted = entry.labels if ranked else [*labels, entry.control]
    needed = np.flatnonzero(np.isin(codes, [entry.labels.index(label) for label in wanted]))
    observed = entry.read_cells(adata, needed, codes)
    observed_labels = np.array(entry.labels, dtype=object)[codes[needed]]
    control = observed[observed_labels == entry.control]
    perturbed = [label for label in observed_names if label != entry.control] if ranked else []
    means = {label: observed[observed_labels == label].mean(0) for label in perturbed}
    own = None
    if predicted is not None:
        n = int(pd.Series(predicted_labels).value_counts()[labels].max())
        own = own_control(adata, cells[predicted_labels == entry.control], entry, n, _stream(root, OWN_CONTROL))

    tables, same = [], []
    for label in labels:
        true = observed[(observed_labels == label) & fair[needed]]
        condition = bl.prepared_condition(adata, label, key=key, group=group)
        samples: dict[str, np.ndarray | None] = {}
        n = len(true)
        if predicted is not None:
            samples["gim"] = ours = cells[predicted_labels == label]
            n = len(ours)
        for name, baseline in fitted.items():
            samples[name] = _sample(baseline, condition, n, _stream(root, name, label))
        if own is not None and label != entry.control:
            samples[OWN_CONTROL] = own[:n]
            if not differs(ours, own, _stream(root, "differs", label)):
                same.append(label)
        against = (control, np.array([mean for name, mean in means.items() if name != label]))
        tables.append(_compare(label, true, samples, against, names, most, n_boot, root))
    table = pd.concat(tables, ignore_index=True)
    if same:
        logger.warning(
            "The prediction for %s does not differ from the model's own control: no effect was found there, and "
            "scores like those of %r are no success.", listing(same), OWN_CONTROL,
        )  # fmt: skip
    table.attrs["conclusion"] = conclude(table, same, n_boot)
    logger.info("%s", table.attrs["conclusion"])
    return table


def _compare(
    label: str,
    true: np.ndarray,
    samples: dict[str, np.ndarray | None],
    against: tuple[np.ndarray, np.ndarray],
    metrics: Sequence[str],
    most: int | None,
    n_boot: int,
    root: int,
) -> pd.DataFrame:
    """The rows of one condition; `against` are control cells and the means of other conditions."""
    everything = {name: cells for name, cells in samples.items() if cells is not None}
    few_true = _subset(true, most, _stream(root, "observed", label))
    few = {name: _subset(cells, most, _stream(root, "predicted", name, label)) for name, cells in everything.items()}
    first, *_ = samples
    rows: list[tuple[Any, ...]] = []
    for metric in metrics:
        paired = _METRICS[metric].pairwise
        x, predicted = (few_true, few) if paired else (true, everything)
        values = {name: _measure(metric, label, name, x, cells, against) for name, cells in predicted.items()}
        known = {name: predicted[name] for name, value in values.items() if np.isfinite(value)}
        noise = bootstrap(metric, x, known, against, n_boot, partial(_stream, root, label)) if first in known else {}
        for name in samples:
            value = values.get(name, np.nan)
            difference = np.nan if name == first else value - values.get(first, np.nan)
            sizes = len(x), len(predicted.get(name, ()))
            rows.append((label, name, metric, value, difference, noise.get(name, np.nan), *sizes))
        size, ceiling = halves(metric, true, most if paired else None, against, partial(_stream, root, HALVES, label))
        rows.append((label, HALVES, metric, ceiling, np.nan, np.nan, size, size))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _measure(
    metric: str, label: str, method: str, true: np.ndarray, predicted: np.ndarray, against: tuple[np.ndarray, ...]
) -> float:
    """The value; NaN where the metric refuses, or a package that it needs is missing."""
    try:
        return METRICS[metric](true, predicted, *against)
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
    repeated = sorted({name for name in names if names.count(name) > 1 or name in ("gim", OWN_CONTROL, HALVES)})
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


def _choose(
    wanted: Sequence[str] | None, predicted: np.ndarray | None, tested: list[str], observed: set[str]
) -> list[str]:
    """Labels to compare: those asked for, or predicted, or, where baselines alone predict, held out."""
    available = tested if predicted is None else list(dict.fromkeys(predicted.tolist()))
    if wanted is not None:
        labels = list(dict.fromkeys(_names(wanted, "conditions")))
        for label in labels:
            if predicted is not None and label not in available:
                raise NotFound(f"conditions: {label!r} is not in predicted, which has {listing(available)}.")
            if label not in observed:
                raise NotFound(f"conditions: {label!r} has no observed cells; adata has {listing(sorted(observed))}.")
        return labels
    labels = [label for label in available if label in observed]
    if not labels and predicted is None:
        raise InvalidValue(
            "No condition is held out, so there is none to compare by default: name conditions=[...], or hold some "
            "(or, with test_fraction=, cells of each) out with scgim.pp.hold_out. Baselines look too "
            "good on cells that they were fitted on."
        )
    if not labels:
        raise NotFound(
            f"None of the predicted conditions ({listing(available)}) has observed cells; "
            f"adata has {listing(sorted(observed))}."
        )
    if len(labels) < len(available):
        unobserved = [label for label in available if label not in observed]
        logger.warning("Not compared, because adata has no such cells: %s.", listing(unobserved))
    return labels


def _test_cells(entry: Entry, codes: np.ndarray, split: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Perturbed conditions with test cells; (cells,) bool: not a training cell of one of these."""
    with_tests = np.unique(codes[(codes >= 0) & (split == "test")])
    labels = [entry.labels[code] for code in with_tests if not entry.is_control[code]]
    return labels, (split == "test") | ~np.isin(codes, with_tests)


def _subset(cells: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    if most is None or len(cells) <= most:
        return cells
    return cells[rng.choice(len(cells), size=most, replace=False)]


def _stream(root: int, *names: str) -> np.random.Generator:
    """A generator of its own for every purpose, so that adding a baseline changes no other value."""
    return np.random.default_rng([root, *(zlib.crc32(name.encode()) for name in names)])
