"""From AnnData slots to the tensors of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgim._keys import Keys
from scgim._validation import listing, require_prepared, suggestion
from scgim.baselines.prepared import dense_cells
from scgim.inference import TrainingData

if TYPE_CHECKING:
    from anndata import AnnData


def require_slots(adata: AnnData, key: str, group: str | None) -> Keys:
    """Keys of a preparation of which nothing is missing."""
    needs = ("conditions", "parts", "membership", "features", "feature_spec", "params")
    keys, _ = require_prepared(adata, key, group, needs=needs)
    missing = [f"adata.obs[{name!r}]" for name in (keys.condition, keys.split) if name not in adata.obs]
    missing += [f"adata.var[{keys.genes!r}]"] * (keys.genes not in adata.var)
    if missing:
        raise KeyError(f"{', '.join(missing)} not found: run scgim.pp.prepare (or pp.select_markers) first.")
    return keys


def modelled_names(adata: AnnData, keys: Keys) -> np.ndarray:
    """Names of the modelled genes, in the order of `adata.var`."""
    return adata.var_names[adata.var[keys.genes].to_numpy(dtype=bool)].astype(str).to_numpy()


def condition_codes(adata: AnnData, keys: Keys, uns: Mapping[str, Any]) -> np.ndarray:
    """(cells,) row of the table of conditions, -1 for cells outside it."""
    position = {str(label): row for row, label in enumerate(uns["conditions"]["condition"])}
    column = adata.obs[keys.condition].astype(object).where(adata.obs[keys.condition].notna(), None)
    return np.array([-1 if v is None else position.get(str(v), -1) for v in column], dtype=np.int64)


def is_graded(uns: Mapping[str, Any]) -> bool:
    """Whether the features grow with the size of the effect."""
    return str(uns["feature_spec"]["kind"]) == "potency"


def training_tensors(
    adata: AnnData, keys: Keys, uns: Mapping[str, Any], known: tuple[np.ndarray | None, np.ndarray | None]
) -> TrainingData:
    """Training and validation cells, without the conditions and parts that are held out."""
    split = adata.obs[keys.split].astype(object)
    codes = condition_codes(adata, keys, uns)
    rows = np.flatnonzero(split.isin(["train", "valid"]).to_numpy(dtype=bool) & (codes >= 0))
    x = np.asarray(dense_cells(adata, keys, rows), dtype=np.float32)
    membership = np.asarray(uns["membership"])
    used = np.unique(codes[rows])  # conditions with training cells
    parts = np.flatnonzero(membership[used].any(0))
    new_code = np.full(len(membership), -1)
    new_code[used] = np.arange(len(used))

    def tensor(values: np.ndarray | None) -> torch.Tensor | None:
        return None if values is None else torch.as_tensor(values[parts], dtype=torch.float32)

    return TrainingData(
        x=torch.as_tensor(x),
        condition=torch.as_tensor(new_code[codes[rows]]),
        valid=torch.as_tensor(np.array(split.iloc[rows] == "valid", dtype=bool)),
        features=torch.as_tensor(np.asarray(uns["features"])[parts], dtype=torch.float32),
        membership=torch.as_tensor(membership[np.ix_(used, parts)], dtype=torch.float32),
        known_targets=tensor(known[0]),
        known_values=tensor(known[1]),
        graded=is_graded(uns),
    )


def check_expression(x: np.ndarray, genes: np.ndarray, mechanism: str) -> None:
    """Refuse what the mechanism cannot describe, naming the genes and the remedy."""
    if not np.isfinite(x).all():
        bad = genes[~np.isfinite(x).all(0)]
        raise ValueError(
            f"adata.X has NaN or infinite values in {listing(bad)}: clean it and run scgim.pp.prepare again."
        )
    if mechanism != "ziln":
        constant = genes[np.ptp(x, axis=0) == 0]
        if len(constant):
            raise ValueError(f"These genes never vary in the training cells: {listing(constant)}. Leave them out.")
        return
    if (x < 0).any():
        bad = genes[(x < 0).any(0)]
        raise ValueError(
            f"mechanism='ziln' needs expression >= 0, but adata.X is negative in {listing(bad)}. "
            "Pass mechanism='mlp' for continuous data, or prepare from raw counts."
        )
    empty = genes[(x > 0).sum(0) < 2]
    if len(empty):
        raise ValueError(
            f"These genes are (almost) never seen in the training cells: {listing(empty)}. "
            "Run scgim.pp.prepare again without them (genes=)."
        )


def check_known_values(values: np.ndarray | None, genes: np.ndarray, mechanism: str) -> None:
    """Refuse `do(gene = value)` below zero where expression has none."""
    if values is not None and mechanism == "ziln" and (values < 0).any():
        bad = genes[(values < 0).any(0)]
        raise ValueError(f"known_interventions: expression in this model is >= 0, but {listing(bad)} is held below.")


def known_arrays(
    uns: Mapping[str, Any],
    genes: np.ndarray,
    known_targets: Mapping[str, Any] | None,
    known_interventions: Mapping[str, Mapping[str, float]] | None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(parts, genes) known targets (NaN = to be learned) and known values (NaN = none).

    Raises
    ------
    ValueError
        If a perturbation or gene is unknown.
    """
    parts = uns["parts"]
    labels, names = parts["part"].astype(str).to_numpy(), parts["perturbation"].astype(str).to_numpy()
    position = {gene: i for i, gene in enumerate(genes)}

    def rows(label: str, argument: str) -> np.ndarray:
        found = np.flatnonzero((labels == label) | (names == label))
        if len(found) == 0:
            options = sorted({*labels, *names})
            raise ValueError(
                f"{argument}: there is no perturbation {label!r}.{suggestion(label, options)} "
                f"Known are {listing(options, most=30)}."
            )
        return found

    def column(gene: str, argument: str) -> int:
        if gene not in position:
            raise ValueError(
                f"{argument}: {gene!r} is not one of the {len(genes)} modelled genes."
                f"{suggestion(gene, list(genes))} They are {listing(genes, most=30)}; "
                "run scgim.pp.prepare with genes= that include it."
            )
        return position[gene]

    shape = (len(labels), len(genes))
    targets = values = None
    if known_targets:
        targets = np.full(shape, np.nan)
        for label, chosen in known_targets.items():
            hit = rows(str(label), "known_targets")
            targets[hit] = 0
            for gene in [chosen] if isinstance(chosen, str) else chosen:
                targets[hit, column(str(gene), "known_targets")] = 1
    if known_interventions:
        values = np.full(shape, np.nan)
        for label, chosen in known_interventions.items():
            hit = rows(str(label), "known_interventions")
            for gene, value in chosen.items():
                if not np.isfinite(value):
                    raise ValueError(f"known_interventions: the value of {gene!r} in {label!r} is not finite.")
                values[hit, column(str(gene), "known_interventions")] = value
        # A perturbation whose atomic intervention is given skips the GIM: it has no other targets.
        given = ~np.isnan(values)
        targets = np.full(shape, np.nan) if targets is None else targets
        told = given.any(1)[:, None] & np.isnan(targets)
        targets = np.where(given, 1.0, np.where(told, 0.0, targets))
    return targets, values
