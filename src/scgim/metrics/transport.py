"""Entropic optimal transport between two samples of cells, by Sinkhorn iterations in the log domain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from numpy.typing import ArrayLike

from scgim._errors import InvalidValue
from scgim._logging import logger
from scgim._process import one_thread, undisturbed

from ._inputs import as_cell_pair

if TYPE_CHECKING:
    import numpy as np
    import torch

#: Scaling vectors beyond this are absorbed into the potentials before they overflow.
_MAX_SCALING = 1e80
#: Up to so many pairs of cells threads wait for each other longer than they work.
_ONE_THREAD = 1_000_000


class Transport(NamedTuple):
    """Solution of one entropic transport problem between uniform samples."""

    cost: float  # <P, C>
    objective: float  # <P, C> + epsilon KL(P | a b')
    marginal_error: float  # sum_i |row sum of P - a_i|; the column sums are exact
    iterations: int


def wasserstein(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    epsilon: float = 0.1,
    value: Literal["transport", "regularised"] = "transport",
    tolerance: float = 1e-4,
    max_iterations: int = 10_000,
) -> float:
    """Entropy-regularised Wasserstein distance with squared Euclidean cost.

    Estimator: with uniform weights a, b on the cells, cost ``C_ij = ||x_i - y_j||_2 ** 2`` and
    ``P = argmin <P, C> + epsilon KL(P | a b')`` over couplings of a and b, the value is the transport cost
    ``<P, C>`` (default) or the minimum itself, ``<P, C> + epsilon KL(P | a b')`` (``value="regularised"``).
    It is in squared units of the data, no root is taken, and it is *not* zero for equal samples:
    :func:`sinkhorn_divergence` is. `epsilon` is absolute, not relative to the cost; 0.1 is the paper's value.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes. Time and memory grow with the product of their numbers of
        cells.
    epsilon
        Strength of the entropic regularisation, in units of the cost.
    value
        "transport": ``<P, C>``; "regularised": the objective with the Kullback-Leibler term.
    tolerance
        Iterations stop when the row sums of P are off by less than this in total (sum of absolute errors).
    max_iterations
        Limit; where it is reached a warning with the remaining error is logged.

    References
    ----------
    Cuturi (2013), Sinkhorn distances. Schmitzer (2019), Stabilized sparse scaling algorithms (absorption and
    epsilon scaling).

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import wasserstein
    >>> x = np.array([[0.0], [10.0]])
    >>> round(wasserstein(x, x + 1.0), 6)
    1.0
    """
    if value not in ("transport", "regularised"):
        raise InvalidValue(f'`value` must be "transport" or "regularised", got {value!r}.')
    true, predicted = as_cell_pair(true, predicted)
    solution = _solve(true, predicted, epsilon=epsilon, tolerance=tolerance, max_iterations=max_iterations)
    return solution.cost if value == "transport" else solution.objective


def sinkhorn_divergence(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    epsilon: float = 0.1,
    tolerance: float = 1e-4,
    max_iterations: int = 10_000,
) -> float:
    """Debiased entropic Wasserstein distance (Sinkhorn divergence) with squared Euclidean cost.

    Estimator: ``W(x, y) - W(x, x) / 2 - W(y, y) / 2`` with W the regularised objective ``<P, C> + epsilon
    KL(P | a b')`` of :func:`wasserstein`. In squared units of the data, never negative, and zero exactly
    where the samples are equal.

    Parameters
    ----------
    true, predicted
        Arrays (cells, genes) over the same genes.
    epsilon, tolerance, max_iterations
        As for :func:`wasserstein`.

    References
    ----------
    Feydy et al. (2019), Interpolating between optimal transport and MMD using Sinkhorn divergences, equation 3.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.metrics import sinkhorn_divergence
    >>> x = np.random.default_rng(0).normal(size=(20, 2))
    >>> round(sinkhorn_divergence(x, x), 6), round(sinkhorn_divergence(x, x + 2.0), 3)
    (0.0, 8.0)
    """
    true, predicted = as_cell_pair(true, predicted)

    def objective(x: np.ndarray, y: np.ndarray) -> float:
        return _solve(x, y, epsilon=epsilon, tolerance=tolerance, max_iterations=max_iterations).objective

    within = objective(true, true) + objective(predicted, predicted)
    return max(objective(true, predicted) - within / 2, 0.0)


@undisturbed()
def _solve(x: np.ndarray, y: np.ndarray, *, epsilon: float, tolerance: float, max_iterations: int) -> Transport:
    """Sinkhorn with epsilon scaling: potentials f, g in the log domain, scalings u, v between absorptions."""
    import torch

    if not (math.isfinite(epsilon) and epsilon > 0):
        raise InvalidValue(f"`epsilon` must be positive, got {epsilon}.")
    if not tolerance > 0:
        raise InvalidValue(f"`tolerance` must be positive, got {tolerance}.")
    with torch.no_grad(), one_thread(len(x) * len(y) <= _ONE_THREAD):
        first, second = torch.from_numpy(x), torch.from_numpy(y)
        # Exact squares instead of the expanded inner product, which cancels for close cells.
        cost = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").square()  # (n, m)
        log_a, log_b = -math.log(len(x)), -math.log(len(y))
        f, g = cost.new_zeros(len(x)), cost.new_zeros(len(y))
        steps, error = 0, math.inf
        for stage in _scales(float(cost.max()), epsilon):
            # Intermediate stages only have to bring the potentials near: they stop early.
            last = stage == epsilon
            limit = max_iterations - steps if last else min(100, max_iterations - steps)
            goal = tolerance if last else max(tolerance, 1e-2)
            f, g, used, error = _iterate(cost, f, g, stage, log_a, log_b, goal, limit)
            steps += used
        if error > tolerance:
            logger.warning(
                "Sinkhorn stopped after %d iterations with a marginal error of %.2g (tolerance %.2g): "
                "raise max_iterations or epsilon.", steps, error, tolerance,
            )  # fmt: skip
        log_density = (f[:, None] + g[None, :] - cost) / epsilon  # log of P / (a b')
        plan = torch.exp(log_density + (log_a + log_b))
        transport = float((plan * cost).sum())
        divergence = float((plan * log_density).sum())  # all mass is there: columns were scaled last
    return Transport(transport, transport + epsilon * divergence, error, steps)


def _scales(largest_cost: float, epsilon: float) -> list[float]:
    """Decreasing regularisation strengths, halved from the largest cost down to `epsilon`."""
    scales = []
    scale = largest_cost / 2
    while scale > 2 * epsilon:
        scales.append(scale)
        scale /= 2
    return [*scales, epsilon]


def _iterate(
    cost: torch.Tensor,
    f: torch.Tensor,
    g: torch.Tensor,
    epsilon: float,
    log_a: float,
    log_b: float,
    tolerance: float,
    limit: int,
) -> tuple[torch.Tensor, torch.Tensor, int, float]:
    """Alternate the two updates at one epsilon; returns potentials, iterations and row-sum error."""
    import torch

    a, b = math.exp(log_a), math.exp(log_b)
    done, error = 0, math.inf
    while done < limit and error > tolerance:
        # One update in the log domain, which cannot under- or overflow ...
        f = -epsilon * torch.logsumexp((g[None, :] - cost) / epsilon + log_b, dim=1)
        g = -epsilon * torch.logsumexp((f[:, None] - cost) / epsilon + log_a, dim=0)
        kernel = torch.exp((f[:, None] + g[None, :] - cost) / epsilon)  # (n, m), columns average to 1
        done += 1
        # ... then cheap matrix-vector products on that well-scaled kernel, until the scalings have grown too far.
        u, v = torch.ones_like(f), torch.ones_like(g)
        while done < limit:
            row_sums = (kernel @ v) * b
            error = float((u * row_sums - 1).abs().sum()) * a
            if error <= tolerance:
                break
            new_u = row_sums.reciprocal()
            new_v = ((new_u @ kernel) * a).reciprocal()
            least, most = min(float(new_u.min()), float(new_v.min())), max(float(new_u.max()), float(new_v.max()))
            if not 1 / _MAX_SCALING < least <= most < _MAX_SCALING:
                break  # also where a sum has vanished or is not a number: redo this step in the log domain
            u, v = new_u, new_v
            done += 1
        f, g = f + epsilon * torch.log(u), g + epsilon * torch.log(v)
    if not math.isfinite(error):
        row_sums = torch.exp((f[:, None] + g[None, :] - cost) / epsilon + log_b).sum(dim=1)
        error = float((row_sums - 1).abs().sum()) * a
    return f, g, done, error
