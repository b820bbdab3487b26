"""Ground truth of a simulated data set: cells, targets and features of any condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._rng import RngLike
from .features import FeatureMap
from .interventions import atomic_interventions
from .mechanisms import ancestral_sample

if TYPE_CHECKING:
    from anndata import AnnData


def _truth(adata: AnnData) -> dict[str, Any]:
    if "truth" not in adata.uns or "true_graph" not in adata.varp or "mechanisms" not in adata.uns["truth"]:
        raise KeyError(
            "adata carries no simulated truth (uns['truth'] with 'mechanisms', varp['true_graph']): "
            "pass what scgim.simulate.synthetic returned, with all its genes."
        )
    return adata.uns["truth"]


def sample_truth(adata: AnnData, *, targets: np.ndarray, effects: np.ndarray, n: int, rng: RngLike = 0) -> np.ndarray:
    """Draw cells from the true model under any atomic interventions.

    Parameters
    ----------
    adata
        What `synthetic` returned, also after a round trip through a file.
    targets, effects
        (genes,) for one condition or (conditions, genes): which mechanisms are replaced, and the hard mean or
        the shift. All-zero targets give control cells.
    n
        Cells per condition.
    rng
        Seed or generator.

    Returns
    -------
    np.ndarray
        float32, (n, genes) for one condition, (conditions, n, genes) otherwise.

    Raises
    ------
    KeyError
        If `adata` carries no simulated truth.
    ValueError
        If the shapes disagree.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.simulate.synthetic(n_perturbations=4, n_new_targets=2)
    >>> truth = adata.uns["truth"]
    >>> targets, effects = truth["targets"][1], truth["effects"][1]
    >>> scgim.simulate.sample_truth(adata, targets=targets, effects=effects, n=5).shape
    (5, 20)
    """
    truth = _truth(adata)
    targets, effects = np.asarray(targets), np.asarray(effects)
    if targets.shape != effects.shape or targets.ndim not in (1, 2) or targets.shape[-1] != adata.n_vars:
        raise ValueError(
            f"targets and effects must both be ({adata.n_vars},) or (conditions, {adata.n_vars}), "
            f"got {targets.shape} and {effects.shape}."
        )
    x = ancestral_sample(
        adata.varp["true_graph"].toarray(),
        truth["mechanisms"],
        targets=np.repeat(np.atleast_2d(targets), n, axis=0),
        effects=np.repeat(np.atleast_2d(effects), n, axis=0),
        intervention=truth["intervention"],
        hard_variance=float(truth["hard_variance"]),
        rng=rng,
    ).astype(np.float32)
    return x if targets.ndim == 1 else x.reshape(len(targets), n, adata.n_vars)


def truth_at(
    adata: AnnData, *, perturbations: Sequence[tuple[str, float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True targets, effects and features of simulated perturbations at any dose.

    Parameters
    ----------
    adata
        What `synthetic` returned.
    perturbations
        (perturbation, dose) pairs; the doses need not have been simulated.

    Returns
    -------
    tuple of np.ndarray
        targets uint8 and effects float32 (conditions, genes), features float32 (conditions, p).

    Raises
    ------
    KeyError
        If `adata` carries no simulated truth or a perturbation does not exist.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.simulate.synthetic(n_perturbations=4, n_new_targets=2)
    >>> targets, effects, features = scgim.simulate.truth_at(adata, perturbations=[("p00", 1.1)])
    >>> features.shape
    (1, 20)
    """
    truth = _truth(adata)
    table = pd.DataFrame(perturbations, columns=["perturbation", "dose"])
    known = set(truth["hill"]["perturbation"].astype(str))
    missing = sorted(set(table["perturbation"]) - known)
    if missing:
        raise KeyError(f"perturbations {missing} were not simulated; there are {sorted(known)}.")
    targets, effects = atomic_interventions(table, truth["hill"], list(adata.var_names))
    effects = effects.astype(np.float32)
    return targets, effects, FeatureMap(**truth["feature_map"])(targets, effects)
