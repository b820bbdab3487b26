"""Changes against control: which genes change and which way, and whose change a prediction is nearest to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control, mannwhitneyu

from scgim._errors import InvalidValue

from ._inputs import as_cell_pair, as_cells, check_genes


class _Changes(NamedTuple):
    """Against control: the change of every gene, and the genes called, those that change most first."""

    size: np.ndarray  # (genes,)
    called: np.ndarray


def de_overlap(
    true: ArrayLike,
    predicted: ArrayLike,
    control: ArrayLike,
    *,
    predicted_control: ArrayLike | None = None,
    n: int | None = None,
    alpha: float = 0.05,
) -> float:
    """Share of the differentially expressed genes that the prediction finds, too ("overlap at N").

    Estimator: a gene is called where a two-sided Mann-Whitney U test of cells against control cells (normal
    approximation, corrected for ties and continuity) stays below `alpha` after Benjamini-Hochberg over genes. N genes
    are called in the true cells. The value is the number of those among the N called genes of the prediction that
    change most, divided by N. They change by ``log2(expm1(mean) / expm1(mean of control))``, which is for log1p
    values; where the true or control cells have negative values, by the difference of means.

    The prediction's calls depend on how many cells are predicted: compare methods at equal numbers. NaN where no gene
    of the true cells is called (cell-eval gives 0). Else equal to ``overlap_at_N`` of cell-eval 0.8 and, with `n`, to
    its ``overlap_at_50`` and the like.

    Parameters
    ----------
    true, predicted, control
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.
    predicted_control
        What the predicted cells are tested against. None: `control`.
    n
        N is at most this. None: all that are called.
    alpha
        False discovery rate.

    References
    ----------
    Adduri et al. (2025), Predicting cellular responses to perturbation across diverse contexts with State (cell-eval).

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import de_overlap
    >>> control = np.random.default_rng(0).random((50, 3))
    >>> de_overlap(control + [2, 1, 0], control + [3, 0, 0], control)
    0.5
    """
    truth, found = _change_pair(true, predicted, control, predicted_control, alpha)
    most = min(n or len(truth.called), len(truth.called))
    return len(np.intersect1d(truth.called[:most], found.called[:most])) / most if most else float("nan")


def de_direction_match(
    true: ArrayLike,
    predicted: ArrayLike,
    control: ArrayLike,
    *,
    predicted_control: ArrayLike | None = None,
    alpha: float = 0.05,
) -> float:
    """Share of the differentially expressed genes that the prediction moves the same way.

    Estimator: among the genes called in the true cells (as in :func:`de_overlap`), those whose predicted change has the
    same sign, however small it is: 0.5 is chance. NaN where none is called. Equal to ``de_direction_match`` of
    cell-eval 0.8.

    Parameters
    ----------
    true, predicted, control, predicted_control, alpha
        As for :func:`de_overlap`.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import de_direction_match
    >>> control = np.random.default_rng(0).random((50, 3))
    >>> de_direction_match(control + [2, 1, 0], control + [3, -0.1, 0], control)
    0.5
    """
    truth, found = _change_pair(true, predicted, control, predicted_control, alpha)
    same = (np.sign(truth.size) == np.sign(found.size))[truth.called]
    return float(same.mean()) if len(same) else float("nan")


def discrimination(true: ArrayLike, predicted: ArrayLike, others: ArrayLike) -> float:
    """Rank of the right perturbation among all, by how near its cells are to the prediction.

    Estimator: ``1 - r / n``, where r of the n perturbations (the right one and `others`) have an observed mean strictly
    nearer to the predicted mean than the right one, by the sum of absolute differences. 1: none is nearer; a guess has
    ``(n + 1) / 2 n`` on average. Equal to ``discrimination_score_l1`` of cell-eval 0.8 but for two things of it: means
    are relative to each side's control (give ``predicted - predicted_control.mean(0) + control.mean(0)`` for that), and
    a gene that the perturbation is named after is left out.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes; the numbers of cells may differ.
    others
        (perturbations, genes) observed means of the other perturbations.

    References
    ----------
    Wu et al. (2024), PerturBench; Adduri et al. (2025), State (cell-eval).

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import discrimination
    >>> discrimination([[0.0]], [[1.2]], [[2.0], [3.0], [4.0]])
    0.75
    """
    true, predicted = as_cell_pair(true, predicted)
    others = check_genes(as_cells(others, "others"), true, "others")
    mean = predicted.mean(axis=0)
    nearer = np.abs(others - mean).sum(axis=1) < np.abs(true.mean(axis=0) - mean).sum()
    return 1.0 - float(nearer.sum()) / (len(others) + 1)


def _change_pair(
    true: ArrayLike, predicted: ArrayLike, control: ArrayLike, predicted_control: ArrayLike | None, alpha: float
) -> tuple[_Changes, _Changes]:
    true, predicted = as_cell_pair(true, predicted)
    control = check_genes(as_cells(control, "control"), true, "control")
    given = control if predicted_control is None else predicted_control
    base = check_genes(as_cells(given, "predicted_control"), true, "predicted_control")
    if not 0 < alpha < 1:
        raise InvalidValue(f"`alpha` must lie between 0 and 1, got {alpha}.")
    log = min(true.min(), control.min()) >= 0
    return _changes(true, control, alpha, log=log), _changes(predicted, base, alpha, log=log)


def _changes(cells: np.ndarray, control: np.ndarray, alpha: float, *, log: bool) -> _Changes:
    still = np.ptp(np.concatenate([cells, control]), axis=0) == 0
    p = np.ones(cells.shape[1])
    if not still.all():
        p[~still] = mannwhitneyu(cells[:, ~still], control[:, ~still], axis=0, method="asymptotic").pvalue
    mean, base = cells.mean(axis=0), control.mean(axis=0)
    if log:
        with np.errstate(divide="ignore"):  # a gene that is silent on one side changes by infinity
            mean, base = (np.log2(np.expm1(np.maximum(side, 0.0))) for side in (mean, base))
    with np.errstate(invalid="ignore"):
        size = np.where(mean == base, 0.0, mean - base)
    order = np.argsort(-np.abs(size), kind="stable")
    return _Changes(size, order[false_discovery_control(p)[order] < alpha])
