"""`tl.sample_cells`, `tl.predict_targets`, `tl.intervene`: use of a fitted model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd

from scgim._errors import InvalidType, InvalidValue
from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed, torch_generator
from scgim._validation import check_int
from scgim.model import Interventions
from scgim.model.fitted import normalised
from scgim.slots.keys import COUNTS_LAYER

from ._stored import Named, StoredModel, load

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike


@undisturbed()
def sample_cells(
    adata: AnnData,
    *,
    perturbations: Any = None,
    n: int = 500,
    user_features: Any = None,
    size_factor: ArrayLike | None = None,
    members: bool = False,
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
    size_factor
        Of a model of counts: how deeply the cells are counted, relative to an average control cell; one number, or one
        for each of the `n` cells of a condition. None: drawn as the training cells have them. What X is divided by
        follows from it and from what is counted of modelled genes, unless the fit had a `size_key`.
    members
        Of a fit with ``n_members`` above 1: `n` cells from every member, and in ``obs["gim_member"]`` from which ("0"
        is the fit to all cells). How their means differ is how unsure the model is of a mean.
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

        Of a model of counts, ``layers["counts"]`` has the counts, X is log1p(counts / size factor) as
        `scgim.pp.prepare` makes it, and obs has the size factors (``obs["gim_size_factor"]``) and, where the fit was
        given batches, the batch that the cell was drawn from.

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If a perturbation is unknown or its features are missing, a size factor is not above 0 or the model has none,
        or the stored model is damaged.

    Examples
    --------
    >>> cells = scgim.tl.sample_cells(adata, perturbations=[("Dacinostat", 10_000)], n=5)  # doctest: +SKIP
    """
    n = check_int(n, "n", least=1)
    model = load(adata, key, group)
    conditions = model.conditions(model.entry.labels if perturbations is None else perturbations)
    sizes = _check_sizes(size_factor, n, model)
    generator, parts = as_generator(rng), [own for _, own in conditions]
    drawn = [
        _sampled(adata, one, conditions, one.interventions(parts, user_features), n, sizes, generator)
        for one in (model.members if members else [model])
    ]
    if not members:
        return drawn[0]
    names = list(map(str, range(len(drawn))))
    return anndata.concat(drawn, label=model.entry.keys.member, keys=names, merge="first")


def _check_sizes(size_factor: ArrayLike | None, n: int, model: StoredModel) -> np.ndarray | None:
    """(n,) size factors."""
    if size_factor is None:
        return None
    if model.fitted.counting is None:
        raise InvalidValue(
            "size_factor= is of a model of counts, but this fit predicts normalised expression. Leave it out, or fit "
            "with mechanism='count'."
        )
    values = np.asarray(size_factor)
    if values.dtype.kind not in "iuf":
        raise InvalidType(f"size_factor must be a number, or one for each of the n cells; got {size_factor!r}.")
    if values.shape not in ((), (n,)):
        raise InvalidValue(
            f"size_factor must be one number, or {n}, one for each of the n cells of a condition; got an array of "
            f"shape {values.shape}."
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise InvalidValue(
            f"size_factor must be above 0 and finite; got {np.min(values):g} to {np.max(values):g}. A cell with the "
            "depth of the median control cell has 1."
        )
    return np.broadcast_to(values, (n,)).astype(np.float64)


def _sampled(
    adata: AnnData,
    model: StoredModel,
    conditions: Sequence[Named],
    found: Interventions,
    n: int,
    sizes: np.ndarray | None,
    rng: RngLike,
) -> AnnData:
    """`n` cells of each condition."""
    seed = draw_seed(as_generator(rng))
    generator, rows = torch_generator(seed), range(len(conditions))
    measured: dict[str, Any] = {}
    if model.fitted.counting is None:
        x = np.concatenate([model.fitted.sample(found, row, n, generator) for row in rows])
    else:
        drawn = [model.fitted.sample_counts(found, row, n, generator, sizes) for row in rows]
        counts, size, batch = (np.concatenate(values) for values in zip(*drawn, strict=True))
        x, measured = normalised(counts, size), model.measured(size, batch)
    # Names that another call does not give: of another fit, seed, condition or number of cells.
    call = repr((str(model.entry.uns["state_sha256"]), seed, [label for label, _ in conditions], n))
    tag = hashlib.blake2b(call.encode(), digest_size=5).hexdigest()
    obs = pd.DataFrame(index=[f"sampled_{tag}_{i}" for i in range(len(x))])
    layers = {COUNTS_LAYER: counts} if measured else {}
    out = model.cells(adata, x, obs, conditions, np.repeat(rows, n), layers)
    for name, values in measured.items():
        out.obs[name] = values
    return out


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
    asked = list(conditions.values()), user_features
    table = model.table(labels, model.interventions(*asked), model.target_prob(*asked))
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
    size_factor: ArrayLike | None = None,
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
        Gene -> value, in units of `adata.X` (0 for a perfect knock-out). Of a model of counts it sets the rate: a cell
        is counted around it, and 0 has no counts.
    perturbation
        One perturbation to apply at the same time; None: unperturbed cells.
    n, user_features, size_factor, rng, key, group
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
    sizes = _check_sizes(size_factor, n, model)
    label, parts = model.condition(perturbation)
    found = model.held(model.interventions([parts], user_features), interventions)
    return _sampled(adata, model, [(do_label(interventions, label, parts), parts)], found, n, sizes, rng)


def do_label(interventions: Mapping[str, float], label: str, parts: Sequence[Any]) -> str:
    """`do(GENE=value)`, the name of what the user does, after that of a perturbation applied at the same time."""
    done = f"do({', '.join(f'{gene}={value:g}' for gene, value in interventions.items())})"
    return f"{label}, {done}" if parts else done
