"""`tl.sample_cells`, `tl.predict_targets`, `tl.intervene`: use of a fitted model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch

from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed, torch_generator
from scgim._validation import check_int, check_values_of_genes, listing, suggestion
from scgim.model import Action, draw_noise, propagate
from scgim.slots import Entry

from .stored import Part, StoredModel, load, table_of

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
    asked = model.entry.labels if perturbations is None else perturbations
    conditions = model.conditions(asked)
    if not conditions:
        raise ValueError("perturbations is empty: name at least one, or leave it out for every condition of the data.")
    prob, effects, held = model.interventions([parts for _, parts in conditions], user_features)
    seed = draw_seed(as_generator(rng))
    generator = torch_generator(seed)
    blocks = []
    for row in range(len(conditions)):
        action = model.action(prob[row], effects[row], None if held is None else held[row], n, generator)
        blocks.append(propagate(model.gim, model.graph, draw_noise(model.gim, n, generator), action).numpy())
    return _as_anndata(adata, model, np.concatenate(blocks), conditions, n, seed)


def _as_anndata(
    adata: AnnData, model: StoredModel, x: np.ndarray, conditions: list[tuple[str, list[Part]]], n: int, seed: int
) -> AnnData:
    which = np.repeat(np.arange(len(conditions)), n)
    labels = [label for label, _ in conditions]
    # Names that another call does not give: of another fit, seed, condition or number of cells.
    call = repr((str(model.entry.uns["state_sha256"]), seed, labels, n))
    tag = hashlib.blake2b(call.encode(), digest_size=5).hexdigest()
    obs = pd.DataFrame(index=[f"sampled_{tag}_{i}" for i in range(len(x))])
    order = model.order_in(adata)
    genes = adata.var_names[np.sort(model.entry.positions(adata))]
    described = describe_cells(obs, model.entry, conditions, which)
    return ad.AnnData(x[:, order].astype(np.float32), obs=described, var=adata.var.loc[genes, []].copy())


def describe_cells(
    obs: pd.DataFrame, entry: Entry, conditions: Sequence[tuple[str, list[Part]]], which: np.ndarray
) -> pd.DataFrame:
    """`obs` with the columns that say what predicted cells are: condition, perturbation, dose, group.

    Parameters
    ----------
    obs
        Of the cells.
    entry
        Of the fit.
    conditions
        Label and parts of each condition.
    which
        (cells,) index into `conditions`.
    """
    names = ["+".join(name for name, _ in parts) if parts else entry.control for _, parts in conditions]
    doses = [parts[0][1] if len(parts) == 1 else np.nan for _, parts in conditions]
    obs = obs.copy()
    column = pd.Categorical.from_codes(*_codes([label for label, _ in conditions], which))
    obs["condition"] = column
    obs["perturbation"] = pd.Categorical.from_codes(*_codes(names, which))
    obs["dose"] = np.array(doses, dtype=float)[which]
    obs[entry.keys.condition] = column
    groupby = entry.arguments["groupby"]
    if entry.keys.group is not None:
        obs["_".join(np.atleast_1d(groupby).tolist())] = pd.Categorical([entry.keys.group] * len(obs))
    return obs


def _codes(names: Sequence[str], which: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Codes of the cells and the different names, for a categorical column."""
    different = list(dict.fromkeys(names))
    return np.array([different.index(name) for name in names], dtype=int)[which], different


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
    conditions = list(dict(model.conditions(perturbations)).items())  # each once
    prob, effects, held = model.interventions([parts for _, parts in conditions], user_features)
    labels = [label for label, _ in conditions]
    effect, under = model.expected_effect(effects, held), model.mean_under(effects, held)
    table = table_of(model, labels, prob.numpy(), effect, under)
    order = {label: i for i, label in enumerate(labels)}
    table = table.assign(_order=table["condition"].map(order))
    table = table.sort_values(["_order", "probability"], ascending=[True, False], kind="stable")
    return table.drop(columns="_order").reset_index(drop=True)


def held_values(model: StoredModel, interventions: Mapping[str, float]) -> torch.Tensor:
    """(genes,) values of `do` interventions, NaN elsewhere."""
    wanted = check_values_of_genes(interventions, "interventions")
    if not wanted:
        raise ValueError("interventions is empty; give at least one gene and its value, {'GENE': 0.0}.")
    position = {str(gene): i for i, gene in enumerate(model.genes)}
    held = torch.full((model.n_genes,), torch.nan)
    for gene, value in wanted.items():
        if gene not in position:
            raise ValueError(
                f"interventions: {gene!r} is not one of the {model.n_genes} modelled genes."
                f"{suggestion(gene, list(position))} They are {listing(position, most=30)}."
            )
        if model.gim.mechanisms.is_ziln and value < 0:
            raise ValueError(f"interventions: {gene!r} = {value}, but expression in this model is >= 0.")
        held[position[gene]] = value
    return held


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
    held = held_values(model, interventions)
    parts: list[Part] = []
    label = model.control
    if perturbation is not None:
        ((label, parts),) = model.conditions([perturbation])
    prob, effects, known = model.interventions([parts], user_features)
    if known is not None:
        held = torch.where(torch.isnan(held), known[0], held)
    seed = draw_seed(as_generator(rng))
    generator = torch_generator(seed)
    action = model.action(prob[0], effects[0], held, n, generator)
    x = propagate(model.gim, model.graph, draw_noise(model.gim, n, generator), action).numpy()
    name = do_label(interventions) if not parts else f"{label}, {do_label(interventions)}"
    return _as_anndata(adata, model, x, [(name, parts)], n, seed)


def do_label(interventions: Mapping[str, float]) -> str:
    """`do(GENE=value)`, the name of what the user does."""
    return f"do({', '.join(f'{gene}={value:g}' for gene, value in interventions.items())})"


def draw_action(
    model: StoredModel,
    conditions: Sequence[list[Part]],
    n_cells: int,
    generator: torch.Generator,
    user_features: Any = None,
    held: torch.Tensor | None = None,
) -> Action:
    """The action of one condition on `n_cells` cells."""
    prob, effects, known = model.interventions(list(conditions), user_features)
    if known is not None:
        held = known[0] if held is None else torch.where(torch.isnan(held), known[0], held)
    return model.action(prob[0], effects[0], held, n_cells, generator)
