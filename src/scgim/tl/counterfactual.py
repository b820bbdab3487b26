"""`tl.counterfactual`: the same cells, under the drug."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch

from scgim import model as gm
from scgim._rng import RngLike, as_generator, torch_generator
from scgim._validation import listing

from ._prepared import condition_codes
from .sample import draw_action, held_values
from .stored import load

if TYPE_CHECKING:
    from anndata import AnnData


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
        Names or a boolean mask of unperturbed cells; None: all control cells of the fit.
    user_features, rng, key, group
        As in `sample_cells`.

    Returns
    -------
    anndata.AnnData
        (cells, modelled genes), with the cells' obs_names and obs; X is the counterfactual expression,
        ``layers["observed"]`` the observed, ``layers["touched"]`` whether an entry may differ from it.

    Raises
    ------
    ValueError
        If no perturbation is given, or cells are unknown or perturbed (the noise of a perturbed cell would
        have to be abducted under its own intervention, which is not observed).

    Examples
    --------
    >>> treated = scgim.tl.counterfactual(adata, perturbation=("Dacinostat", 10_000))  # doctest: +SKIP
    """
    from scgim.baselines.prepared import dense_cells

    if perturbation is None and not interventions:
        raise ValueError("Give a perturbation=, interventions={'GENE': value}, or both.")
    model = load(adata, key, group)
    held = held_values(model, interventions) if interventions else None
    codes = condition_codes(adata, model.keys, model.uns)
    is_control = model.uns["conditions"]["is_control"].to_numpy(dtype=bool)
    control = (codes >= 0) & is_control[np.clip(codes, 0, None)]
    rows = np.flatnonzero(control) if cells is None else _rows(adata, cells)
    wrong = rows[~control[rows]]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of the cells are not unperturbed cells of the fit, e.g. "
            f"{listing(adata.obs_names[wrong[:3]])}: counterfactuals start from control cells."
        )
    order = model.order_in(adata)
    observed = np.asarray(dense_cells(adata, model.keys, rows), dtype=np.float32)
    x = torch.as_tensor(observed[:, np.argsort(order)])  # in the fit's order
    generator = torch_generator(as_generator(rng))
    parts: list[Any] = []
    label = model.control
    if perturbation is not None:
        ((label, parts),) = model.conditions([perturbation])
    action = draw_action(model, [parts], len(x), generator, user_features, held)
    changed = gm.counterfactual(model.gim, model.graph, x, action, generator)
    touched = gm.touched_genes(model.graph, action)
    obs = adata.obs.iloc[rows].copy()
    obs["counterfactual_condition"] = pd.Categorical([label] * len(rows))
    genes = adata.var[model.keys.genes].to_numpy(dtype=bool)
    return ad.AnnData(
        changed.numpy()[:, order],
        obs=obs,
        var=adata.var.loc[genes, []].copy(),
        layers={"observed": observed, "touched": touched.numpy()[:, order].astype(np.uint8)},
    )


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
