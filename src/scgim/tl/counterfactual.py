"""`tl.counterfactual`: the same cells, under the drug."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch

from scgim import model as gm
from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, torch_generator
from scgim._validation import listing

from ._controls import new_controls
from .sample import describe_cells, do_label, draw_action, held_values
from .stored import StoredModel, load

if TYPE_CHECKING:
    from anndata import AnnData


@undisturbed()
def counterfactual(
    adata: AnnData,
    *,
    perturbation: Any = None,
    interventions: Mapping[str, float] | None = None,
    cells: Any = None,
    user_features: Any = None,
    rng: RngLike = 0,
    key: str = "gim",
    group: str | None = None,
) -> AnnData:
    """What these very cells would look like under a perturbation.

    Abduction (each cell's noise under the unperturbed mechanisms; a zero's latent value is drawn from its
    posterior), action (the intervention), prediction (the same noise through the changed mechanisms). Genes
    that are neither targeted nor downstream of a target keep their value exactly.

    Parameters
    ----------
    adata
        Fitted with `scgim.tl.fit_gim`. Nothing is written.
    perturbation
        One perturbation, as in `sample_cells`.
    interventions
        Instead or in addition: gene -> value, `do(gene = value)`.
    cells
        Names or a boolean mask of unperturbed cells; None: all control cells of the fit. Or another AnnData with the
        modelled genes (another donor, a new batch): its cells with the control's label, or all of them where it lacks
        the column of perturbations; log-normalised as `adata.X` is, or counts of all genes, which are normalised alike.
    user_features, rng, key, group
        As in `sample_cells`.

    Returns
    -------
    anndata.AnnData
        (cells, modelled genes), with the cells' obs_names and obs; X is the counterfactual expression,
        ``layers["observed"]`` the observed, ``layers["touched"]`` whether an entry may differ from it. As in
        `sample_cells`, obs says the condition, perturbation, dose (and group) that the cells are now under; the columns
        that said that they are controls are gone.

    Raises
    ------
    ValueError
        If no perturbation is given, there is no unperturbed cell, or cells are unknown, perturbed (the noise of a
        perturbed cell would have to be abducted under its own intervention, which is not observed) or no longer what
        was prepared.

    Examples
    --------
    >>> treated = scgim.tl.counterfactual(adata, perturbation=("Dacinostat", 10_000))  # doctest: +SKIP
    """
    if perturbation is None and interventions is None:
        raise ValueError("Give a perturbation=, interventions={'GENE': value}, or both.")
    model = load(adata, key, group)
    held = None if interventions is None else held_values(model, interventions)
    source, rows, observed = _unperturbed(adata, model, cells)
    genes = np.argsort(pd.Index(model.entry.genes).get_indexer(model.genes))  # place in the fit of each of the entry's
    x = torch.as_tensor(observed[:, np.argsort(genes)])  # in the fit's order
    generator = torch_generator(as_generator(rng))
    parts: list[Any] = []
    label = model.control
    if perturbation is not None:
        ((label, parts),) = model.conditions([perturbation])
    action = draw_action(model, [parts], len(x), generator, user_features, held)
    changed = gm.counterfactual(model.gim, model.graph, x, action, generator)
    touched = gm.touched_genes(model.graph, action)
    if interventions:
        done = do_label(interventions)
        label = done if not parts else f"{label}, {done}"
    order = model.order_in(source)
    return ad.AnnData(
        changed.numpy()[:, order],
        obs=_described(source.obs.iloc[rows], model, label, parts),
        var=source.var.loc[source.var_names[np.sort(model.entry.positions(source))], []].copy(),
        layers={"observed": x.numpy()[:, order], "touched": touched.numpy()[:, order].astype(np.uint8)},
    )


def _described(obs: pd.DataFrame, model: StoredModel, label: str, parts: list[Any]) -> pd.DataFrame:
    """The cells' `obs`, in which nothing says any more that they are unperturbed."""
    arguments = model.entry.arguments
    stale = [arguments[name] for name in ("perturbation_key", "dose_key", "dose_unit_key")]
    kept = obs.drop(columns=[c for c in (*stale, model.entry.keys.split) if c in obs.columns])
    return describe_cells(kept, model.entry, [(label, parts)], np.zeros(len(obs), dtype=int))


def _unperturbed(adata: AnnData, model: StoredModel, cells: Any) -> tuple[AnnData, np.ndarray, np.ndarray]:
    """The AnnData with the cells, their rows in it, and their expression (cells, genes) in the entry's order."""
    entry = model.entry
    if isinstance(cells, ad.AnnData):
        return cells, *new_controls(cells, entry)
    if entry.keys.condition not in adata.obs:  # the fit was given to other cells
        rows, x = new_controls(adata, entry)
        return adata, rows, x
    codes = entry.codes(adata)
    control = (codes >= 0) & entry.is_control[np.clip(codes, 0, None)]
    rows = np.flatnonzero(control) if cells is None else _rows(adata, cells)
    if len(rows) == 0:
        raise ValueError(
            f"adata has no unperturbed cells ({entry.control!r} in adata.obs[{entry.keys.condition!r}]), from which "
            "counterfactuals start. Pass cells=, an AnnData of unperturbed cells."
        )
    wrong = rows[~control[rows]]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of the cells are not unperturbed cells of the fit, e.g. "
            f"{listing(adata.obs_names[wrong[:3]])}: counterfactuals start from control cells."
        )
    return adata, rows, entry.read_cells(adata, rows, codes)


def _rows(adata: AnnData, cells: Any) -> np.ndarray:
    values = np.atleast_1d(np.asarray(cells))
    if values.dtype == bool:
        if len(values) != adata.n_obs:
            raise ValueError(f"cells is a mask of {len(values)} entries, but adata has {adata.n_obs} cells.")
        rows = np.flatnonzero(values)
    else:
        rows = adata.obs_names.get_indexer(pd.Index(values.astype(str)))
        if (rows < 0).any():
            raise ValueError(f"cells: not in adata.obs_names: {listing(values[rows < 0])}.")
    if len(rows) == 0:
        raise ValueError("cells selects no cell.")
    return rows
