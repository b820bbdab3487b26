"""`tl.target_evidence`: how strongly the cells of a condition say that a gene is a target."""

from __future__ import annotations

import numbers
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from scgim._errors import InvalidValue
from scgim._process import undisturbed
from scgim.data import PerturbationData
from scgim.inference import TrainingData, condition_moments
from scgim.inference.evidence import count_changes
from scgim.inference.targets import specific_changes
from scgim.model import CountGIM, FittedGIM
from scgim.slots import Entry

from ._stored import StoredModel, load

if TYPE_CHECKING:
    from anndata import AnnData

#: Cells looked at in one go: memory stays small.
_CHUNK = 4096
#: Number of cells of a condition, those that support a target most, that are left out of the evidence (`own`).
_LEFT_OUT = 3
#: The variance of a condition counts as if so many of its cells had the control's (`own`).
_PRIOR_CELLS = 20


@undisturbed()
def target_evidence(adata: AnnData, *, n_programs: int = 2, key: str = "gim", group: str | None = None) -> pd.DataFrame:
    """Evidence, in nats, that a condition replaces a gene's mechanism, and what sets the condition apart from others.

    For every trained condition and gene: the log likelihood of the condition's cells under a mechanism of their own
    (hard interventions: their own marginal distribution; shifts: the learned mechanism with an offset of their own)
    minus that under the mechanism learned for the gene, given its parents in these cells (`own`). What the parents
    explain is no evidence; what the graph fails to explain is. It tells strong from weak targets where the
    probabilities of `scgim.get.targets` are all near 1, and shows how close a gene came to being called a target. The
    three cells that support a target most are left out, so that one or two cells cannot decide (`own`).

    Of a model of counts, the evidence is marginal over the latent expression, that of a level of the gene's own: a
    score test where the model gives no target, and what taking it away would lose where it does (`own`). It is then
    half the square of the change; a cell counts for as much as its counts tell of the gene.

    Where perturbations of one pathway switch a whole programme of genes through proteins that no transcript shows, its
    genes have more evidence than the gene that was perturbed, as no graph over transcripts explains them. The specific
    change is what tells such perturbations apart: the change of a gene beyond what the learned mechanisms expect from
    its parents, after the directions that conditions of *other* perturbations move along were taken out (`own`). Genes
    that several perturbations target alike count as shared, too: a class of drugs hides its common targets from it.

    Parameters
    ----------
    adata
        With a fit; nothing is written into it.
    n_programs
        Shared directions that are taken out of every condition, at most; 0: none.
    key, group
        Which fit.

    Returns
    -------
    pandas.DataFrame
        One row per trained, perturbed condition and modelled gene: condition, gene, evidence (nats, summed over the
        condition's training and validation cells), change (of the gene's mean that the mechanisms do not expect, in
        standard errors; variances are moderated by the control's, so that a few cells never look certain),
        specific_change (the same without the shared directions), probability (that the model gives the target),
        is_target, n_cells. More than the `target_sparsity` of the fit
        (``adata.uns["gim"]["params"]["fit"]["settings"]``) is evidence for a target; a change of z standard errors is
        worth about z^2 / 2 nats.

    Raises
    ------
    KeyError
        If there is no fit.
    ValueError
        If no cell, or no control cell, is left that the model was trained on, or `n_programs` is not a whole number,
        0 or more.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.datasets.simulated_sciplex3()
    >>> scgim.pp.prepare(adata, dose_key="dose_value", n_genes=10, hold_out={"Dacinostat": 10_000})
    >>> scgim.tl.fit_gim(adata, max_steps=20, progress=False)
    >>> table = scgim.tl.target_evidence(adata)
    >>> list(table.columns)
    ['condition', 'gene', 'evidence', 'change', 'specific_change', 'probability', 'is_target', 'n_cells']
    """
    if not isinstance(n_programs, numbers.Integral) or isinstance(n_programs, bool) or n_programs < 0:
        raise InvalidValue(f"n_programs must be a whole number of at least 0; got {n_programs!r}.")
    model = load(adata, key, group)
    entry = model.entry
    codes = entry.codes(adata)
    trained = np.isin(entry.split(adata), ["train", "valid"])
    used = np.unique(codes[trained & (codes >= 0)])
    if not len(used):
        raise InvalidValue("There is no cell that the model was trained on: pass the AnnData that it was fitted to.")
    if not entry.is_control[used].any():
        raise InvalidValue(
            "There is no control cell, against which changes are measured. Pass the AnnData that the model was "
            "fitted to."
        )
    data = _all_cells(adata, model, key, group)
    gim = model.fitted.gim
    if isinstance(gim, CountGIM):
        changes = count_changes(gim, model.fitted.graph, data)
        evidence = 0.5 * changes**2
    else:
        changes, evidence = _unexplained(model.fitted, data), _evidence(model.fitted, data).numpy()
    probability = model.target_prob([entry.parts_of(label) for label in entry.labels])
    labels = np.array(entry.labels, dtype=object)[used]
    counts = np.bincount(data.condition.numpy(), minlength=len(used))
    treated = np.flatnonzero(~entry.is_control[used])
    change = changes[treated]
    perturbations = _perturbations(entry)[used][treated]
    specific = specific_changes(change, (perturbations @ perturbations.T) > 0, int(n_programs))
    out = pd.DataFrame(
        {
            "condition": np.repeat(labels[treated].astype(object), len(entry.genes)),
            "gene": np.tile(np.array(entry.genes, dtype=object), len(treated)),
            "evidence": evidence[treated].ravel().astype(np.float64),
            "change": change.ravel(),
            "specific_change": specific.ravel(),
        }
    )
    out["probability"] = probability[used][treated].ravel().astype(np.float64)
    out["is_target"] = out["probability"] > 0.5
    out["n_cells"] = np.repeat(counts[treated], len(entry.genes))
    return out


def _all_cells(adata: AnnData, model: StoredModel, key: str, group: str | None) -> TrainingData:
    """The cells that the model was trained on, those that were kept for validation included."""
    counted = model.fitted.counting is not None
    cells = PerturbationData.from_anndata(
        adata, key=key, group=group, all_of_them=False, counts=counted, record=model.record if counted else None
    )
    known = model.entry.fitted.get("known_targets"), model.entry.fitted.get("known_values")
    none = np.zeros(len(cells.x), dtype=bool)
    return TrainingData.of(replace(cells, valid=none, known_targets=known[0], known_values=known[1]))


def _perturbations(entry: Entry) -> np.ndarray:
    """(conditions, perturbations) 0/1: which take part in a condition, at whatever dose."""
    names, code = np.unique([name for name, _ in entry.parts], return_inverse=True)
    return (entry.membership.astype(float) @ np.eye(len(names))[code] > 0).astype(float)


@torch.no_grad()
def _unexplained(model: FittedGIM, data: TrainingData) -> np.ndarray:
    """(conditions, genes) standardised change against control of what is left when the parents' part is taken away."""
    mechanisms = model.gim.mechanisms
    graph = torch.as_tensor(model.graph).to(data.x).unsqueeze(0)
    expected = torch.cat([mechanisms.expected(x, graph) for x in data.x.split(_CHUNK)])
    if mechanisms.is_ziln:  # of a location far from everything seen
        expected = torch.minimum(expected, data.x.max(0).values)
    left = (data.x - expected).double()
    count = torch.bincount(data.condition, minlength=data.n_conditions).unsqueeze(1)
    zeros = left.new_zeros(data.n_conditions, data.n_genes)
    mean = zeros.index_add(0, data.condition, left) / count
    variance = zeros.index_add(0, data.condition, (left - mean[data.condition]).square()) / count
    control = data.membership.sum(1) == 0
    # A gene that is silent in a handful of cells has no spread there, which is no certainty: moderated variances.
    variance = (count * variance + _PRIOR_CELLS * variance[control].mean(0)) / (count + _PRIOR_CELLS)
    variance = variance.clamp_min(1e-12)
    error = (variance / count + (variance / count)[control].mean(0)).sqrt()
    return ((mean - mean[control].mean(0)) / error).cpu().numpy()


@torch.no_grad()
def _evidence(model: FittedGIM, data: TrainingData) -> torch.Tensor:
    """(conditions, genes)"""
    gim = model.gim
    graph = torch.as_tensor(model.graph).to(data.x).unsqueeze(0)
    moments = condition_moments(gim, data)
    if gim.intervention == "shift":
        moments = _residual_shift(model, data, graph)
    # Without a share of outliers, which bounds what strong targets gain; instead the cells that say most are left out.
    gim.priors = replace(gim.priors, outlier_share=0.0)
    total = data.x.new_zeros(data.n_conditions, data.n_genes)
    for code in range(data.n_conditions):
        gain = []
        for rows in torch.nonzero(data.condition == code).squeeze(1).split(_CHUNK):
            own, replaced = gim.gene_log_likelihoods(data.x[rows], data.condition[rows], graph, moments)
            gain.append(replaced - own)
        total[code] = torch.cat(gain).sort(0).values[:-_LEFT_OUT].sum(0)
    return total


def _residual_shift(model: FittedGIM, data: TrainingData, graph: torch.Tensor) -> torch.Tensor:
    """(conditions, genes, k) moments with the shift of the mean that the mechanism leaves, in units of the response."""
    mechanisms = model.gim.mechanisms
    total = data.x.new_zeros(data.n_conditions, data.n_genes)
    count = torch.zeros_like(total)
    for rows in torch.arange(len(data.x)).split(_CHUNK):
        x, condition = data.x[rows], data.condition[rows]
        location = mechanisms.location(x.unsqueeze(0), graph)[0]
        weight = (x > 0).to(x) if mechanisms.is_ziln else torch.ones_like(x)
        value = torch.where(weight > 0, x, torch.ones_like(x)).log() if mechanisms.is_ziln else x
        total.index_add_(0, condition, weight * (value - location))
        count.index_add_(0, condition, weight)
    moments = condition_moments(model.gim, data)
    moments[..., 0] = total / count.clamp_min(1.0) / mechanisms.response_scale
    return moments
