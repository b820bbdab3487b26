"""How far a comparison can be trusted: halves of the truth, resampled cells, the model's own control, a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from scgim._validation import listing
from scgim.metrics import METRICS
from scgim.metrics.table import HALVES

#: A generator for a purpose, which the names tell.
Stream = Callable[..., np.random.Generator]
#: In the bootstrap: cells of a sample for metrics over pairs and for others, steps of optimal transport. Random halves
#: to average over. Fewest and most cells, and permutations, of the test for any difference. All `own`.
_PAIRED, _CELLS, _TOLERANCE, _SPLITS, _FEWEST, _MOST, _PERMUTATIONS = 100, 1_000, 1e-2, 3, 20, 500, 200
#: A difference counts from this many times its noise (`own`).
_TIMES = 2.0


def halves(
    metric: str, cells: np.ndarray, most: int | None, against: Sequence[np.ndarray], rng: Stream
) -> tuple[int, float]:
    """Size and value of one half of the cells as the prediction of the other."""
    size = min(len(cells) // 2, most or len(cells))
    if size < 2:
        return size, math.nan
    orders = [rng(str(i)).permutation(len(cells)) for i in range(_SPLITS)]
    found = [_value(metric, cells[order[:size]], cells[order[size : 2 * size]], against) for order in orders]
    return size, float(np.mean(found))


def bootstrap(
    metric: str,
    true: np.ndarray,
    samples: Mapping[str, np.ndarray],
    against: Sequence[np.ndarray],
    n_boot: int,
    rng: Stream,
) -> dict[str, float]:
    """Standard deviation of each method's difference to the first, over resampled cells; true ones are resampled alike.

    Large samples are replaced by smaller ones (m out of n), all in one proportion, for which the result is corrected.
    """
    first, *others = samples
    if n_boot < 2 or not others:
        return {}
    most = _PAIRED if METRICS[metric].pairwise else _CELLS
    share = min(1.0, most / min(len(true), *(len(cells) for cells in samples.values())))
    options = {"tolerance": _TOLERANCE} if metric in ("wasserstein", "sinkhorn_divergence") else {}
    values: dict[str, list[float]] = {name: [] for name in samples}
    control, *rest = against
    for i in range(n_boot):
        few = _resampled(true, share, rng("true", str(i)))
        base = _resampled(control, min(1.0, _CELLS / len(control)), rng("control", str(i)))
        for name, cells in samples.items():
            drawn = _resampled(cells, share, rng(name, str(i)))
            values[name].append(_value(metric, few, drawn, [base, *rest], **options))
    return {name: float(np.std(np.subtract(values[name], values[first]), ddof=1)) * share**0.5 for name in others}


def _resampled(cells: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    return cells[rng.integers(len(cells), size=max(2, round(share * len(cells))))]


def _value(
    metric: str, true: np.ndarray, predicted: np.ndarray, against: Sequence[np.ndarray], **options: float
) -> float:
    """NaN where there is none; why is said where the whole sample has none."""
    try:
        return METRICS[metric](true, predicted, *against, **options)
    except (ValueError, ImportError):
        return math.nan


def differs(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> bool:
    """Whether two samples differ, by a permutation test of their energy distance at 5 %; few cells cannot tell."""
    if min(len(x), len(y)) < _FEWEST:
        return True
    few = [cells[rng.permutation(len(cells))[:_MOST]] for cells in (x, y)]
    cells = np.concatenate(few).astype(np.float64)
    first = np.arange(len(cells)) < len(few[0])
    rows = np.array([first, *(rng.permutation(first) for _ in range(_PERMUTATIONS))])  # (1 + permutations, cells)
    weights = rows / len(few[0]) - ~rows / len(few[1])
    energy = -((weights @ cdist(cells, cells)) * weights).sum(axis=1)
    return bool((energy[1:] >= energy[0] - 1e-12).mean() < 0.05)


def conclude(table: pd.DataFrame, same: Sequence[str], n_boot: int) -> str:
    """What may be concluded from a table of `evaluate`; `same`: where the prediction is that of the own control."""
    first = table["method"].iloc[0]
    if set(table["method"]) <= {first, HALVES}:
        text = f"Nothing can be concluded: no method was compared with {first} (baselines=[...])"
    elif n_boot < 2:
        text = "Nothing can be concluded: no noise level was computed (n_boot)"
    else:
        parts = [f"{verdict} in {', '.join(metrics)}" for verdict, metrics in _verdicts(table).items()]
        text = f"Beyond the noise of sampling cells, {first} is {'; '.join(parts) or 'compared with nothing'}"
    if same:
        text += f"; but for {listing(same)} it predicts no more than its own control, so that no score is a success"
    return text + "."


def _verdicts(table: pd.DataFrame) -> dict[str, list[str]]:
    """What the first method is, in which metrics; another is named that it is behind, or is least ahead of."""
    found: dict[str, list[str]] = {}
    for metric, own in table[table["method"] != HALVES].groupby("metric", sort=False):
        better = METRICS[str(metric)].better
        known = own.dropna(subset=["difference", "noise"]).groupby("method")
        if better is None or not len(known):
            continue
        ahead = known["difference"].mean() * (1 if better == "lower" else -1)  # of the first method, mean of conditions
        noise = known["noise"].apply(lambda values: math.sqrt(np.square(values).sum()) / len(values))
        times = ahead / np.maximum(noise, 1e-12)
        nearest, least = times.idxmin(), float(times.min())
        verdict = "worse than" if least < -_TIMES else "not to be told from"
        verdict = "better than all others" if least > _TIMES else f"{verdict} {nearest}"
        found.setdefault(verdict, []).append(str(metric))
    order = sorted(found, key=lambda verdict: "bwn".index(verdict[0]))
    return {verdict: found[verdict] for verdict in order}
