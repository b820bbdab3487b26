"""A system: a random DAG, mechanisms with known parameters, and ancestral sampling through them (NumPy only).

Everywhere `graph[i, j] = 1` means i -> j (row = cause).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from scgim._dag import topological_order
from scgim._errors import InvalidValue
from scgim._rng import RngLike, as_generator
from scgim._validation import check_choice, check_int

from .interventions import InterventionKind

GraphKind = Literal["er", "sf"]
Family = Literal["linear", "mlp", "ziln", "saturating"]

#: Units of the hidden layer (own).
N_HIDDEN = 5
#: Variance of the additive noise; for "ziln" of the log of the positive part (own).
NOISE_VARIANCE = 0.1
#: Variance of a gene under a hard intervention; for "ziln" of the log of the positive part (own).
HARD_VARIANCE = 0.5
#: Range of the absolute value of linear weights (own).
LINEAR_WEIGHTS = (0.5, 2.0)
#: Range of the absolute value of the weights of the "saturating" family (own).
SATURATING_WEIGHTS = (0.5, 1.0)
#: Range of the zero probabilities of the "ziln" family (own).
ZERO_PROBABILITIES = (0.1, 0.5)


def random_dag(n_genes: int, *, kind: GraphKind = "er", edges_per_gene: float = 2.0, rng: RngLike = 0) -> np.ndarray:
    """Draw a random DAG, uint8 (genes, genes), whose causal order is a uniform permutation of the genes.

    Parameters
    ----------
    n_genes
        Number of nodes.
    kind
        "er": Erdős-Rényi, every pair that agrees with the causal order is an edge with equal probability.
        "sf": scale-free, preferential attachment (Barabási-Albert): genes arrive in causal order and each
        draws `edges_per_gene` parents among the earlier genes, with probability proportional to their degree,
        so that hubs are regulators (own: the direction is not prescribed by the undirected model).
    edges_per_gene
        Expected number of edges divided by `n_genes` (own: 2). For "sf" it is rounded, and the first genes
        have fewer earlier genes to draw from, so that the number of edges is slightly lower.
    rng
        Seed or generator.

    Examples
    --------
    >>> from scgim.simulate import random_dag
    >>> random_dag(20, rng=1).shape
    (20, 20)
    """
    check_choice(kind, "kind", get_args(GraphKind))
    check_int(n_genes, "n_genes", least=2)
    if edges_per_gene < 0:
        raise InvalidValue(f"edges_per_gene must not be negative, got {edges_per_gene}.")
    generator = as_generator(rng)
    draw = _erdos_renyi if kind == "er" else _scale_free
    ordered = draw(n_genes, edges_per_gene, generator)
    order = generator.permutation(n_genes)
    graph = np.zeros_like(ordered)
    graph[np.ix_(order, order)] = ordered
    return graph


def _erdos_renyi(n_genes: int, edges_per_gene: float, rng: np.random.Generator) -> np.ndarray:
    probability = min(1.0, 2.0 * edges_per_gene / (n_genes - 1))
    return np.triu(rng.random((n_genes, n_genes)) < probability, k=1).astype(np.uint8)


def _scale_free(n_genes: int, edges_per_gene: float, rng: np.random.Generator) -> np.ndarray:
    graph = np.zeros((n_genes, n_genes), dtype=np.uint8)
    n_parents = round(edges_per_gene)
    for gene in range(1, n_genes):
        # The first arrivals have no degree yet: + 1 where nothing is attached, so that they can be drawn.
        degree = (graph[:gene, :gene].sum(axis=0) + graph[:gene, :gene].sum(axis=1)).astype(float)
        degree[degree == 0] = 1.0
        parents = rng.choice(gene, size=min(n_parents, gene), replace=False, p=degree / degree.sum())
        graph[parents, gene] = 1
    return graph


def draw_mechanisms(graph: np.ndarray, *, family: Family = "mlp", rng: RngLike = 0) -> dict[str, Any]:
    """Draw the parameters of one mechanism per gene.

    Parameters
    ----------
    graph
        (genes, genes), row = cause.
    family
        - "linear": `x_j = sum_i w_ij x_i + e_j`, `|w_ij| ~ U[0.5, 2]`, random sign, no intercept (own).
        - "mlp": `x_j = a_j . tanh(x W_j + b_j) + e_j`, 5 hidden units (own), weights W and a ~ N(0, 1). The
          hidden biases b are N(0, 1) and there is no output bias (own). tanh bounds the mean by `|a_j|_1`, so
          that the variance does not grow along the graph.
        - "ziln": 0 with probability `pi_j ~ U[0.1, 0.5]`, else log-normal; the location is the "mlp" family's
          with the output weights divided by sqrt(5), for a log location of unit order (own).
        - "saturating" (own): `x_j = sum_i w_ij 2 tanh(x_i / 2) + e_j`, `|w_ij| ~ U[0.5, 1]`, random sign:
          linear for small values and bounded for large ones, as log fold changes along a pathway are.

        The noise variance is 0.1 (own), for "ziln" on the log of the positive part.
    rng
        Seed or generator.

    Returns
    -------
    dict
        family; noise_variance (genes,); linear and saturating: weights (genes, genes), row = cause; mlp and
        ziln: hidden_weights (genes, genes, 5) = (effect, cause, unit), hidden_bias and output_weights (genes,
        5); ziln: zero_probability (genes,). Weights of absent edges are 0. Storable in `uns`.

    Examples
    --------
    >>> from scgim.simulate import draw_mechanisms, random_dag
    >>> sorted(draw_mechanisms(random_dag(5), family="linear"))
    ['family', 'noise_variance', 'weights']
    """
    check_choice(family, "family", get_args(Family))
    generator = as_generator(rng)
    n_genes = len(graph)
    parameters: dict[str, Any] = {"family": family, "noise_variance": np.full(n_genes, NOISE_VARIANCE)}
    if family in ("linear", "saturating"):
        size_range = LINEAR_WEIGHTS if family == "linear" else SATURATING_WEIGHTS
        size = generator.uniform(*size_range, size=(n_genes, n_genes))
        sign = generator.choice([-1.0, 1.0], size=(n_genes, n_genes))
        parameters["weights"] = size * sign * (graph != 0)
        return parameters
    hidden = generator.normal(size=(n_genes, n_genes, N_HIDDEN))
    parameters["hidden_weights"] = hidden * (graph != 0).T[:, :, None]
    parameters["hidden_bias"] = generator.normal(size=(n_genes, N_HIDDEN))
    parameters["output_weights"] = generator.normal(size=(n_genes, N_HIDDEN))
    if family == "ziln":
        parameters["output_weights"] /= np.sqrt(N_HIDDEN)
        parameters["zero_probability"] = generator.uniform(*ZERO_PROBABILITIES, size=n_genes)
    return parameters


def _location(mechanisms: dict[str, Any], gene: int, parents: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Location of one gene given the cells so far; x is (cells, genes), the result (cells,)."""
    if mechanisms["family"] == "linear":
        return x[:, parents] @ mechanisms["weights"][parents, gene]
    if mechanisms["family"] == "saturating":
        return 2.0 * np.tanh(x[:, parents] / 2.0) @ mechanisms["weights"][parents, gene]
    hidden = np.tanh(x[:, parents] @ mechanisms["hidden_weights"][gene, parents] + mechanisms["hidden_bias"][gene])
    return hidden @ mechanisms["output_weights"][gene]


def ancestral_sample(
    graph: np.ndarray,
    mechanisms: dict[str, Any],
    *,
    targets: np.ndarray,
    effects: np.ndarray,
    intervention: InterventionKind = "hard",
    hard_variance: float = HARD_VARIANCE,
    rng: RngLike = 0,
) -> np.ndarray:
    """Draw one cell per row of `targets`, causes first; float64 (cells, genes).

    Parameters
    ----------
    graph
        (genes, genes), row = cause; a DAG.
    mechanisms
        As `draw_mechanisms` returns them.
    targets, effects
        (cells, genes): which mechanisms are replaced in each cell, and by what.
    intervention
        "hard": a target loses its parents and is `N(effect, hard_variance)`; for "ziln" that is the log of
        its positive part, and its zero probability stays the gene's own (own). "shift": the effect is added
        to the target's location, without extra noise.
    hard_variance
        Variance under a hard intervention (own: 0.5).
    rng
        Seed or generator.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.simulate import ancestral_sample, draw_mechanisms, random_dag
    >>> graph = random_dag(5)
    >>> none = np.zeros((10, 5))
    >>> ancestral_sample(graph, draw_mechanisms(graph), targets=none, effects=none).shape
    (10, 5)
    """
    check_choice(intervention, "intervention", get_args(InterventionKind))
    is_target = np.asarray(targets) != 0
    effects = np.asarray(effects, dtype=float)
    if is_target.ndim != 2 or is_target.shape != effects.shape or is_target.shape[1] != len(graph):
        raise InvalidValue(
            f"targets and effects must both be (cells, {len(graph)}), got {is_target.shape} and {effects.shape}."
        )
    generator = as_generator(rng)
    zero_inflated = mechanisms["family"] == "ziln"
    noise = generator.standard_normal(is_target.shape)  # (cells, genes)
    uniform = generator.random(is_target.shape) if zero_inflated else None
    sd = np.sqrt(np.asarray(mechanisms["noise_variance"], dtype=float))
    x = np.zeros(is_target.shape)
    for gene in topological_order(graph):
        location = _location(mechanisms, gene, np.flatnonzero(graph[:, gene]), x)
        hit = is_target[:, gene]
        if intervention == "hard":
            replaced = effects[:, gene] + np.sqrt(hard_variance) * noise[:, gene]
            value = np.where(hit, replaced, location + sd[gene] * noise[:, gene])
        else:
            value = location + np.where(hit, effects[:, gene], 0.0) + sd[gene] * noise[:, gene]
        if uniform is not None:
            value = np.where(uniform[:, gene] < mechanisms["zero_probability"][gene], 0.0, np.exp(value))
        x[:, gene] = value
    return x
