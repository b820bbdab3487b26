"""Target sets, dose-response curves and features of simulated perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import expit

from scgim._errors import InvalidValue
from scgim._rng import RngLike, as_generator

InterventionKind = Literal["hard", "shift"]


def hill(dose: Any, maximum: Any, half_dose: Any, exponent: Any) -> np.ndarray:
    """Hill dose response `maximum * dose^exponent / (half_dose^exponent + dose^exponent)`.

    Parameters
    ----------
    dose
        Dose, >= 0; broadcast against the parameters.
    maximum
        Effect at an infinite dose.
    half_dose
        Dose of half the maximal effect, > 0, in the unit of `dose`.
    exponent
        Steepness, > 0. At dose 0 the effect is 0.

    Examples
    --------
    >>> from scgim.simulate import hill
    >>> float(hill(1.0, 4.0, 1.0, 2.0))
    2.0
    """
    # On the log scale: dose^exponent would overflow (doses in nM reach 1e4).
    with np.errstate(divide="ignore"):
        steepness = np.asarray(exponent, dtype=float) * (np.log(dose) - np.log(half_dose))
    return np.asarray(maximum * expit(steepness))


def draw_target_sets(
    n_genes: int, n_sets: int, *, sizes: Sequence[int] = (1, 2), rng: RngLike = 0
) -> list[tuple[int, ...]]:
    """Draw distinct sets of target genes (sorted indices): a uniform size, then a uniform subset of that size.

    Where every subset of a size has been drawn, the other sizes go on (20 genes have 20 single targets).

    Parameters
    ----------
    n_genes
        Genes to draw from.
    n_sets
        Number of sets, in random order, no two of them equal (own).
    sizes
        Numbers of targets that occur.
    rng
        Seed or generator.

    Examples
    --------
    >>> from scgim.simulate import draw_target_sets
    >>> len(set(draw_target_sets(20, 60)))
    60
    """
    possible = sum(comb(n_genes, size) for size in sizes)
    if n_sets > possible:
        raise InvalidValue(
            f"{n_sets} distinct target sets were asked for, but {n_genes} genes have only {possible} subsets "
            f"of {' or '.join(map(str, sizes))} genes: lower the number of perturbations or raise n_genes."
        )
    generator = as_generator(rng)
    pools = {size: list(generator.permutation(list(combinations(range(n_genes), size)))) for size in sizes}
    drawn = []
    for _ in range(n_sets):
        size = generator.choice([size for size in sizes if pools[size]])
        drawn.append(tuple(int(gene) for gene in pools[size].pop()))
    # When a size ran out the last draws lack it: shuffle, so that any split of the sets is exchangeable.
    return [drawn[position] for position in generator.permutation(n_sets)]


def draw_hill_parameters(
    perturbations: Sequence[str],
    target_sets: Sequence[Sequence[int]],
    gene_names: Sequence[str],
    *,
    maximum: tuple[float, float],
    half_dose: tuple[float, float] = (0.5, 2.0),
    exponent: tuple[float, float] = (1.0, 5.0),
    rng: RngLike = 0,
) -> pd.DataFrame:
    """Draw one Hill curve for every (perturbation, target), uniform within the given ranges.

    Parameters
    ----------
    perturbations, target_sets
        Names, and the gene indices of the targets of each.
    gene_names
        Names of all genes.
    maximum, half_dose, exponent
        Ranges of the uniform distributions (own); columns of the result, after perturbation and gene.
    rng
        Seed or generator.

    Examples
    --------
    >>> from scgim.simulate import draw_hill_parameters
    >>> draw_hill_parameters(["p0"], [(0, 1)], ["a", "b"], maximum=(2, 6)).gene.tolist()
    ['a', 'b']
    """
    generator = as_generator(rng)
    pairs = [(name, gene_names[gene]) for name, genes in zip(perturbations, target_sets, strict=True) for gene in genes]
    table = pd.DataFrame(pairs, columns=["perturbation", "gene"])
    for column, (low, high) in (("maximum", maximum), ("half_dose", half_dose), ("exponent", exponent)):
        table[column] = generator.uniform(low, high, size=len(pairs))
    return table


def atomic_interventions(
    conditions: pd.DataFrame, hill_parameters: pd.DataFrame, gene_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """targets uint8 and effects float64 (conditions, genes) from the Hill curves (none: no target, as the control)."""
    column = {name: position for position, name in enumerate(gene_names)}
    targets = np.zeros((len(conditions), len(column)), dtype=np.uint8)
    effects = np.zeros((len(conditions), len(column)))
    doses = conditions["dose"].to_numpy(dtype=float)
    labels = conditions["perturbation"].astype(str).to_numpy()
    for row in hill_parameters.itertuples(index=False):
        at = labels == str(row.perturbation)
        gene = column[str(row.gene)]
        targets[at, gene] = 1
        effects[at, gene] = hill(doses[at], row.maximum, row.half_dose, row.exponent)
    return targets, effects


@dataclass(frozen=True)
class FeatureMap:
    """Standardise `[targets, effects]`, then project on principal components.

    Parameters
    ----------
    mean, scale
        (2 * genes,), over the training conditions; scale is 1 where a column is constant.
    components
        (2 * genes, p), orthonormal columns.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, targets: np.ndarray, effects: np.ndarray, n_features: int) -> FeatureMap:
        """Fit on the training conditions; `targets` and `effects` are (conditions, genes)."""
        raw = np.concatenate([targets, effects], axis=1).astype(float)
        mean = raw.mean(axis=0)
        scale = raw.std(axis=0)
        # A gene that no training condition targets has a constant column: it is centred and keeps its unit.
        scale[scale < 1e-12] = 1.0
        _, _, rows = np.linalg.svd((raw - mean) / scale, full_matrices=raw.shape[0] < raw.shape[1])
        components = rows[:n_features].T
        largest = np.abs(components).argmax(axis=0)
        signs = np.sign(components[largest, np.arange(components.shape[1])])
        return cls(mean, scale, components * signs)

    def __call__(self, targets: np.ndarray, effects: np.ndarray) -> np.ndarray:
        """Features float32 (conditions, p)."""
        raw = np.concatenate([targets, effects], axis=1).astype(float)
        return ((raw - self.mean) / self.scale @ self.components).astype(np.float32)

    def to_dict(self) -> dict[str, np.ndarray]:
        """The arrays, for `uns`."""
        return {"mean": self.mean, "scale": self.scale, "components": self.components}
