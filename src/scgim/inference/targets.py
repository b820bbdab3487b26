"""Targets of every condition from evidence: what is a change of its own, and how sure (`own`)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

#: Nats that the effect of a target costs, besides the odds of being one.
_EFFECT = 2.5
#: Other conditions make a target no more probable than this; ridge of the regression that reads them.
_MOST_SURE, _RIDGE = 0.9, 0.3
#: Conditions, and changes in all, that count for a spread as in theory when it is estimated.
_PRIOR_CONDITIONS, _PRIOR_CHANGES = 20.0, 50.0
#: Share of its certainty that a target keeps where unrelated perturbations explain its change.
_SHARED = 0.3


def null_variance(changes: np.ndarray, null: np.ndarray, n_cells: np.ndarray) -> np.ndarray:
    """(conditions, genes) variance of standardised changes of genes that are no targets, at least 1.

    On real cells it is larger than 1: conditions differ by more than the draw of their cells (days, guides, states of
    the cells), each gene in its own measure. An empirical null (Efron 2004) with a random effect for every gene, whose
    variance is shrunk to that of all genes; it weighs more the more cells a condition has.

    changes (conditions, genes): in standard errors; null (conditions, genes): probability of being no target; n_cells
    (conditions,).
    """
    size = (n_cells / max(n_cells.mean(), 1e-9))[:, None]
    among = np.abs(changes[null > 0.5])
    wide = max(1.0, (np.median(among) / 0.6745) ** 2) if len(among) else 1.0
    common = (wide - 1.0) * len(among) / (len(among) + _PRIOR_CHANGES)
    excess = np.minimum(changes**2, 9 * wide) - 1.0
    own = ((null * excess).sum(0) + _PRIOR_CONDITIONS * common) / ((null * size).sum(0) + _PRIOR_CONDITIONS)
    return 1.0 + np.maximum(own, 0.0) * size


def read_targets(
    gains: np.ndarray,
    changes: np.ndarray,
    features: np.ndarray,
    n_cells: np.ndarray,
    sparsity: float,
    n_rounds: int = 20,
) -> np.ndarray:
    """Log odds of targets from marginal evidence, shared between conditions with like features.

    The prior odds of a gene in one condition are what its probabilities in the *other* conditions predict: a ridge
    regression on the features, leaving the condition itself out. A drug's doses so support each other, while a
    perturbation with features of its own has the odds that `sparsity` leaves.

    Parameters
    ----------
    gains, changes
        (conditions, genes) nats, and standard errors whose half squares are such nats.
    features
        (conditions, p)
    n_cells
        (conditions,)
    sparsity
        Nats that a target costs in all, without support from other conditions.
    n_rounds
        Of prediction and posterior.
    """
    least = float(np.clip(np.exp(_EFFECT - sparsity), 1e-6, 0.5))
    hat = features @ np.linalg.solve(features.T @ features + _RIDGE * np.eye(features.shape[1]), features.T)
    own = hat.diagonal()[:, None]
    prior, posterior = np.full_like(gains, least), np.zeros_like(gains)
    for step in range(n_rounds):
        # Changes that theory calls targets come first: those of few conditions would else be their own null.
        spread = null_variance(changes, 1 - posterior, n_cells) if step >= n_rounds // 2 else 1.0
        odds = np.log(prior / (1 - prior)) + gains / spread - _EFFECT
        posterior = 1 / (1 + np.exp(-np.clip(odds, -40.0, 40.0)))
        above = posterior - least
        prior = np.clip(least + (hat @ above - own * above) / np.maximum(1 - own, 1e-3), least, _MOST_SURE)
    return odds


def how_sure(
    gains: np.ndarray,
    changes: np.ndarray,
    features: np.ndarray,
    related: np.ndarray,
    n_cells: np.ndarray,
    sparsity: float,
) -> np.ndarray:
    """(conditions, genes) log odds of targets as they are told: above 0 where `read_targets` calls one, but tempered.

    Hundreds of nats are no surer than the model is right. And a change that unrelated perturbations show, too, may be
    that of a programme which all of them switch through proteins that no transcript shows: the model needs the target
    to predict the cells, but is less sure of it than of a change of the condition's own (`specific_changes`).
    """
    odds = read_targets(gains, changes, features, n_cells, sparsity)
    specific = specific_changes(changes, related)
    left = np.clip(specific / np.where(changes == 0, 1.0, changes), 0.0, 1.0) ** 2
    alone = read_targets(gains * left, specific, features, n_cells, sparsity)
    sure, alone = _expit(tempered(odds)), _expit(tempered(alone))
    sure = np.where(sure > 0.5, 0.5 + (sure - 0.5) * (_SHARED + (1 - _SHARED) * alone), sure)
    return np.log(sure / (1 - sure))


def tempered(odds: np.ndarray) -> np.ndarray:
    """Log odds as they are told: from 2 on they grow as a logarithm."""
    size = np.abs(odds)
    return np.sign(odds) * np.where(size <= 2, size, 2 + np.log1p(np.maximum(size - 2, 0)))


def _expit(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def specific_changes(changes: np.ndarray, related: np.ndarray, n_programs: int = 2) -> np.ndarray:
    """Changes that are left when the programs of all unrelated conditions are taken out.

    Perturbations of one pathway switch the same programme of genes on or off, through proteins that no transcript
    shows. For each condition, the strongest directions of the *other* conditions' changes are scaled to its own by a
    robust regression over genes (Huber's): a change of its own, such as that of a gene that was knocked out, is then
    an outlier, which neither shapes the programs nor pulls the regression. `own`.

    `changes` (conditions, genes): standardised, against control; `related` (conditions, conditions) bool: conditions
    that share a perturbation, whose changes are not taken out of each other's. Fewer directions than `n_programs`
    where there are not as many unrelated conditions.
    """
    z, related = np.asarray(changes, dtype=float), np.asarray(related, dtype=bool)
    left = z.copy()
    for row, own in enumerate(z):
        others = z[~related[row]]
        n = min(n_programs, len(others), z.shape[1] - 1)
        if n < 1 or not others.any() or not own.any():
            continue
        directions = np.linalg.svd(others, full_matrices=False)[2][:n].T * np.sqrt(z.shape[1])  # (genes, n)
        left[row] = own - directions @ _huber(directions, own)
    return left


def _huber(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients (n,) of a regression of y (genes,) on x (genes, n) that outliers do not pull (Huber 1964).

    Noise is at least 1, a standard error, and otherwise the median absolute deviation of the residuals.
    """
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    for _ in range(5):
        scale = max(1.0, 1.4826 * float(np.median(np.abs(y - x @ coefficients))))
        coefficients = least_squares(
            lambda b: x @ b - y, coefficients, jac=lambda _: x.copy(), loss="huber", f_scale=1.345 * scale
        ).x
    return coefficients
