"""What the user knows about targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from scgim._errors import InvalidType, InvalidValue
from scgim._validation import check_values_of_genes, listing, suggestion
from scgim.model import LATENT
from scgim.slots import Entry


def check_known_values(values: np.ndarray | None, genes: Sequence[str], mechanism: str) -> None:
    """Refuse `do(gene = value)` below zero where expression has none."""
    if values is not None and mechanism in ("ziln", *LATENT) and np.any(values < 0):
        bad = listing(compress(genes, np.any(values < 0, axis=0)))
        raise InvalidValue(f"known_interventions: expression in this model is >= 0, but {bad} is held below.")


def known_arrays(
    entry: Entry,
    known_targets: Mapping[str, Any] | None,
    known_interventions: Mapping[str, Mapping[str, float]] | None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(parts, genes) known targets (NaN = to be learned) and known values (NaN = none).

    Raises
    ------
    ValueError
        If a perturbation or gene is unknown.
    """
    genes = np.array(entry.genes, dtype=object)
    labels = entry.prepared["parts"]["part"].astype(str).to_numpy()
    names = np.array([name for name, _ in entry.parts], dtype=object)
    position = {gene: i for i, gene in enumerate(genes)}

    def rows(label: str, argument: str) -> np.ndarray:
        found = np.flatnonzero((labels == label) | (names == label))
        if len(found) == 0:
            options = sorted({*labels, *names})
            raise InvalidValue(
                f"{argument}: there is no perturbation {label!r}.{suggestion(label, options)} "
                f"Valid values: {listing(options, most=30)}."
            )
        return found

    def column(gene: str, argument: str) -> int:
        if gene not in position:
            raise InvalidValue(
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
            for gene in _genes_of(chosen, str(label)):
                targets[hit, column(gene, "known_targets")] = 1
    if known_interventions:
        values = np.full(shape, np.nan)
        for label, chosen in known_interventions.items():
            hit = rows(str(label), "known_interventions")
            for gene, value in check_values_of_genes(chosen, f"known_interventions[{label!r}]").items():
                values[hit, column(gene, "known_interventions")] = value
        # A perturbation whose atomic intervention is given skips the GIM: it has no other targets.
        given = ~np.isnan(values)
        targets = np.full(shape, np.nan) if targets is None else targets
        told = given.any(1)[:, None] & np.isnan(targets)
        targets = np.where(given, 1.0, np.where(told, 0.0, targets))
    return targets, values


def _genes_of(chosen: Any, label: str) -> list[str]:
    """The genes of one entry of `known_targets`."""
    genes = [chosen] if isinstance(chosen, str) else chosen
    if isinstance(genes, Mapping) or not isinstance(genes, Iterable) or not all(isinstance(g, str) for g in genes):
        raise InvalidType(f"known_targets[{label!r}] must be a gene or a list of genes, got {chosen!r}.")
    return [str(gene) for gene in genes]
