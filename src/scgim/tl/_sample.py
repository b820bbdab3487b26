"""`tl.sample_cells`, `tl.predict_targets`, `tl.intervene`: use of a fitted model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed, torch_generator
from scgim._validation import check_int
from scgim.model import Interventions

from ._stored import Named, StoredModel, load

if TYPE_CHECKING:
    from anndata import AnnData


@undisturbed()
def sample_cells(
    adata: AnnData,
    *,
    perturbations: Any = None,
    n: int = 500,
    user_features: Any = None,
    rng: RngLike = 0,
    key: str = "gim",
    group: str | None = None,
) -> AnnData:
    """Sample cells under perturbations, seen or not.

    Every cell draws its own atomic interventions (t, psi) from the fitted networks and then its expression by
    ancestral sampling through the graph (model.md; Schneider et al. 2025).

    Parameters
    ----------
    adata
        Fitted with `scgim.tl.fit_gim`, or read back from a file; or any AnnData with the modelled genes, given the fit
        by ``other.uns["gim"] = adata.uns["gim"]``. Nothing is written.
    perturbations
        What to apply: condition labels, ``("Dacinostat", 10_000)`` pairs of name and dose, lists of pairs
        that are applied together, or the control's label. None: every condition of the data.
    n
        Cells per perturbation.
    user_features
        For perturbations never seen: SMILES by name, or a feature DataFrame (see `scgim.pp.featurize`).
    rng
        Seed or generator.
    key, group
        Which fit.

    Returns
    -------
    anndata.AnnData
        (perturbations x n, modelled genes), float32, in units of `adata.X`; obs: condition, perturbation,
        dose (the label is also in ``obs["gim_condition"]``), and the group's column where there are groups. Names of
        cells differ between calls, so that results can be joined with `anndata.concat`.

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If a perturbation is unknown or its features are missing, or the stored model is damaged.

    Examples
    --------
    >>> cells = scgim.tl.sample_cells(adata, perturbations=[("Dacinostat", 10_000)], n=5)  # doctest: +SKIP
    """
    n = check_int(n, "n", least=1)
    model = load(adata, key, group)
    conditions = model.conditions(model.entry.labels if perturbations is None else perturbations)
    return _sampled(adata, model, conditions, model.interventions([p for _, p in conditions], user_features), n, rng)


def _sampled(
    adata: AnnData, model: StoredModel, conditions: Sequence[Named], found: Interventions, n: int, rng: RngLike
) -> AnnData:
    """`n` cells of each condition."""
    seed = draw_seed(as_generator(rng))
    generator = torch_generator(seed)
    x = np.concatenate([model.fitted.sample(found, row, n, generator) for row in range(len(conditions))])
    # Names that another call does not give: of another fit, seed, condition or number of cells.
    call = repr((str(model.entry.uns["state_sha256"]), seed, [label for label, _ in conditions], n))
    tag = hashlib.blake2b(call.encode(), digest_size=5).hexdigest()
    obs = pd.DataFrame(index=[f"sampled_{tag}_{i}" for i in range(len(x))])
    return model.cells(adata, x, obs, conditions, np.repeat(np.arange(len(conditions)), n))


@undisturbed()
def predict_targets(
    adata: AnnData,
    *,
    perturbations: Any,
    user_features: Any = None,
    key: str = "gim",
    group: str | None = None,
) -> pd.DataFrame:
    """Which genes perturbations act on, seen or not.

    Parameters
    ----------
    adata
        Fitted with `scgim.tl.fit_gim`. Nothing is written.
    perturbations, user_features, key, group
        As in `sample_cells`.

    Returns
    -------
    pandas.DataFrame
        condition, gene, probability of being a target, is_target (probability > 0.5), effect (mean
        expression under the replaced mechanism, or the shift), and which way it goes: control_mean,
        log2_fold_change, direction, as in `scgim.get.targets`; sorted by condition, then by falling probability.

    Raises
    ------
    KeyError, ValueError
        As `sample_cells`.

    Examples
    --------
    >>> scgim.tl.predict_targets(adata, perturbations=[("Dacinostat", 3_000)])  # doctest: +SKIP
    """
    model = load(adata, key, group)
    conditions = dict(model.conditions(perturbations))  # each once
    labels = list(conditions)
    table = model.table(labels, model.interventions(list(conditions.values()), user_features))
    table = table.assign(_order=table["condition"].map({label: i for i, label in enumerate(labels)}))
    table = table.sort_values(["_order", "probability"], ascending=[True, False], kind="stable")
    return table.drop(columns="_order").reset_index(drop=True)


@undisturbed()
def intervene(
    adata: AnnData,
    *,
    interventions: Mapping[str, float],
    perturbation: Any = None,
    n: int = 500,
    user_features: Any = None,
    rng: RngLike = 0,
    key: str = "gim",
    group: str | None = None,
) -> AnnData:
    """Sample cells under atomic interventions of your own, `do(gene = value)`.

    Parameters
    ----------
    adata
        Fitted with `scgim.tl.fit_gim`. Nothing is written.
    interventions
        Gene -> value, in units of `adata.X` (0 for a perfect knock-out).
    perturbation
        One perturbation to apply at the same time; None: unperturbed cells.
    n, user_features, rng, key, group
        As in `sample_cells`.

    Returns
    -------
    anndata.AnnData
        As `sample_cells`; the condition is called ``do(GENE=value)``.

    Raises
    ------
    KeyError, ValueError
        As `sample_cells`, or if a gene is not modelled.

    Examples
    --------
    >>> knocked_out = scgim.tl.intervene(adata, interventions={"SIM0001": 0.0})  # doctest: +SKIP
    """
    n = check_int(n, "n", least=1)
    model = load(adata, key, group)
    label, parts = model.condition(perturbation)
    found = model.held(model.interventions([parts], user_features), interventions)
    return _sampled(adata, model, [(do_label(interventions, label, parts), parts)], found, n, rng)


def do_label(interventions: Mapping[str, float], label: str, parts: Sequence[Any]) -> str:
    """`do(GENE=value)`, the name of what the user does, after that of a perturbation applied at the same time."""
    done = f"do({', '.join(f'{gene}={value:g}' for gene, value in interventions.items())})"
    return f"{label}, {done}" if parts else done
