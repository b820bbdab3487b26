"""`tl.counterfactual`: the same cells, under the drug."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scgim import model as gm
from scgim._errors import InvalidValue
from scgim._logging import logger
from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, torch_generator
from scgim._validation import check_anndata, check_values, holds_counts, listing, plural
from scgim.model.fitted import normalised
from scgim.slots import Entry, Measured
from scgim.slots.keys import COUNTS_LAYER

from ._sample import do_label
from ._stored import load

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

    Of a model of counts, abduction draws each cell's latent expression from its posterior given the counts, and where
    a gene's rate changes its count is thinned or grows, molecule by molecule, at the cell's own depth.

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
        A model of counts needs the latter, or both (``layers["counts"]``), and the columns of its size factors and
        batches, where the fit was given any.
    user_features, rng, key, group
        As in `sample_cells`.

    Returns
    -------
    anndata.AnnData
        (cells, modelled genes), with the cells' obs_names and obs; X is the counterfactual expression,
        ``layers["observed"]`` the observed, ``layers["touched"]`` whether an entry may differ from it. As in
        `sample_cells`, obs says the condition, perturbation, dose (and group) that the cells are now under; the columns
        that said that they are controls are gone. Of a model of counts also ``layers["counts"]``,
        ``layers["observed_counts"]`` and ``obs["gim_size_factor"]``.

    Raises
    ------
    ValueError
        If no perturbation is given, there is no unperturbed cell, or cells are unknown, perturbed (the noise of a
        perturbed cell would have to be abducted under its own intervention, which is not observed) or no longer what
        was prepared, or counts are needed and missing.

    Examples
    --------
    >>> treated = scgim.tl.counterfactual(adata, perturbation=("Dacinostat", 10_000))  # doctest: +SKIP
    """
    if perturbation is None and interventions is None:
        raise InvalidValue("Give a perturbation=, interventions={'GENE': value}, or both.")
    model = load(adata, key, group)
    label, parts = model.condition(perturbation)
    found = model.interventions([parts], user_features)
    if interventions is not None:
        found = model.held(found, interventions)
        label = do_label(interventions, label, parts)
    source, rows, observed = _unperturbed(adata, model.entry, cells)
    obs, layers = source.obs.iloc[rows], {"observed": observed}
    generator = torch_generator(as_generator(rng))
    if model.fitted.counting is None:
        x = torch.as_tensor(observed)
        action = model.fitted.action(found, 0, len(x), generator)
        changed = gm.counterfactual(model.fitted.gim, model.fitted.graph, x, action, generator).numpy()
        touched = gm.touched_genes(model.fitted.graph, action).numpy()
    else:
        seen = Measured.read(model.entry, source, rows, observed, record=model.record)
        counts, touched = model.fitted.counterfactual_counts(
            torch.as_tensor(seen.counts), torch.as_tensor(np.log(seen.size_factor)).float(),
            torch.as_tensor(seen.batch), found, generator,
        )  # fmt: skip
        changed = np.where(counts == seen.counts, observed, normalised(counts, seen.divisor))
        layers |= {COUNTS_LAYER: counts, "observed_counts": seen.counts}
        obs = obs.assign(**{model.entry.keys.size_factor: seen.divisor})
    # Nothing may say any more that the cells are unperturbed.
    stale = [model.entry.arguments[name] for name in ("perturbation_key", "dose_key", "dose_unit_key")]
    obs = obs.drop(columns=[*stale, model.entry.keys.split], errors="ignore")
    layers["touched"] = touched.astype(np.uint8)
    return model.cells(source, changed, obs, [(label, parts)], np.zeros(len(rows), dtype=int), layers)


def _unperturbed(adata: AnnData, entry: Entry, cells: Any) -> tuple[AnnData, np.ndarray, np.ndarray]:
    """The AnnData with the cells, their rows in it, and their expression (cells, genes)."""
    if isinstance(cells, ad.AnnData):
        return _new_controls(cells, entry)
    if entry.keys.condition not in adata.obs:  # the fit was given to other cells
        return _new_controls(adata, entry)
    codes = entry.codes(adata)
    control = (codes >= 0) & entry.is_control[np.clip(codes, 0, None)]
    rows = np.flatnonzero(control) if cells is None else _rows(adata, cells)
    if len(rows) == 0:
        raise InvalidValue(
            f"adata has no unperturbed cells ({entry.control!r} in adata.obs[{entry.keys.condition!r}]), from which "
            "counterfactuals start. Pass cells=, an AnnData of unperturbed cells."
        )
    wrong = rows[~control[rows]]
    if len(wrong):
        raise InvalidValue(
            f"{len(wrong)} of the cells are not unperturbed cells of the fit, e.g. "
            f"{listing(adata.obs_names[wrong[:3]])}: counterfactuals start from control cells."
        )
    return adata, rows, entry.read_cells(adata, rows, codes)


def _rows(adata: AnnData, cells: Any) -> np.ndarray:
    values = np.atleast_1d(np.asarray(cells))
    if values.dtype == bool:
        if len(values) != adata.n_obs:
            raise InvalidValue(f"cells is a mask for {plural(len(values), 'cell')}, but adata has {adata.n_obs}.")
        rows = np.flatnonzero(values)
    else:
        rows = adata.obs_names.get_indexer(pd.Index(values.astype(str)))
        if (rows < 0).any():
            raise InvalidValue(f"cells: not in adata.obs_names: {listing(values[rows < 0])}.")
    if len(rows) == 0:
        raise InvalidValue("cells selects no cell.")
    return rows


def _new_controls(cells: AnnData, entry: Entry) -> tuple[AnnData, np.ndarray, np.ndarray]:
    """The unperturbed cells, on the scale of the fit; their rows; their expression, float32 (cells, genes).

    Raises
    ------
    ValueError
        If modelled genes are missing, no cell is unperturbed, or the values are not on the scale of the fit.
    """
    check_anndata(cells)
    entry.positions(cells)
    kind = entry.arguments["input"]
    part = cells[_unperturbed_rows(cells, entry)].to_memory()
    rows = np.arange(part.n_obs)
    if kind == "counts" and holds_counts(part.X):
        part = _normalised(part, entry)
        return part, rows, entry.expression(part, rows)
    check_values(
        part.X, "the X of cells", kind="continuous" if kind == "continuous" else "log1p",
        cells=part.obs_names, genes=part.var_names,
    )  # fmt: skip
    return part, rows, entry.expression(part, rows)


def _unperturbed_rows(cells: AnnData, entry: Entry) -> np.ndarray:
    column = entry.arguments["perturbation_key"]
    if column not in cells.obs:
        return np.arange(cells.n_obs)
    labels = cells.obs[column].astype(object)
    names = {entry.control, *(str(name).strip() for name in np.atleast_1d(entry.arguments["control"]))}
    control = np.array([pd.notna(label) and str(label).strip() in names for label in labels])
    if not control.any():
        raise InvalidValue(
            f"cells has no unperturbed cell: none is labelled {entry.control!r} in its obs[{column!r}], which has "
            f"{listing(sorted(set(labels.dropna().astype(str))))}. Pass unperturbed cells, labelled so or without that "
            "column."
        )
    if not control.all():
        logger.info("of %d cells given, the %d labelled %r are used", len(control), control.sum(), entry.control)
    return np.flatnonzero(control)


def _normalised(cells: AnnData, entry: Entry) -> AnnData:
    """The cells with log1p of their counts, normalised to the total that `pp.prepare` used, and counts in a layer."""
    known = int(entry.prepared["n_vars"])
    if cells.n_vars < known / 2:
        raise InvalidValue(
            f"The X of cells holds counts of {plural(cells.n_vars, 'gene')}, but cells were normalised by their totals "
            f"over {plural(known, 'gene')}. Pass all genes, or values that were normalised with them."
        )
    total = np.asarray(cells.X.sum(axis=1), dtype=np.float64).ravel()
    if (total == 0).any():
        raise InvalidValue(f"{plural(int((total == 0).sum()), 'cell')} without any counts. Leave them out.")
    logger.info("the X of cells holds counts: normalised as scgim.pp.prepare did")
    scale = float(entry.prepared["params"]["target_sum"]) / total
    counts = cells.X
    if sp.issparse(counts):
        x = sp.csr_matrix(sp.diags(scale) @ counts).log1p().astype(np.float32)
    else:
        x = np.log1p(np.asarray(counts) * scale[:, None]).astype(np.float32)
    out = ad.AnnData(x, obs=cells.obs, var=cells.var[[]])
    out.layers[COUNTS_LAYER] = counts
    return out
