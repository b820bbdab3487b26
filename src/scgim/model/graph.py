"""The graph: DiBS' distribution over directed graphs, how far one is from being acyclic, and how to make it so.

The fit uses the spectral-radius constraint of NO-BEARS (Lee et al. 2019), as the paper does; the trace of
the matrix exponential (Zheng et al. 2018) is the dense reference.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn


class LatentGraph(nn.Module):
    """`p(G_ij = 1) = sigmoid(alpha <u_i, v_j>)` for allowed i != j (Lorch et al. 2021; section 3).

    Parameters
    ----------
    n_genes
        Number of nodes.
    rank
        Width of the embeddings; `n_genes` by default, which can represent every graph.
    inverse_temperature
        alpha.
    generator
        Randomness of the initial `z ~ N(0, 1)`.

    Attributes
    ----------
    z
        (2, genes, rank): U and V.
    allowed
        (genes, genes) bool buffer; `allowed[i, j]` = i may cause j. The diagonal is never allowed.
    """

    allowed: Tensor

    def __init__(
        self,
        n_genes: int,
        rank: int | None = None,
        inverse_temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        rank = n_genes if rank is None else rank
        self.inverse_temperature = inverse_temperature
        self.z = nn.Parameter(torch.randn(2, n_genes, rank, generator=generator))  # (2, genes, rank)
        self.register_buffer("allowed", ~torch.eye(n_genes, dtype=torch.bool))

    @property
    def n_genes(self) -> int:
        return int(self.z.shape[1])

    def logits(self) -> Tensor:
        """(genes, genes) edge logits; row = cause."""
        return self.inverse_temperature * (self.z[0] @ self.z[1].T)

    def probabilities(self) -> Tensor:
        """(genes, genes) edge probabilities, zero where an edge is not allowed."""
        return torch.sigmoid(self.logits()) * self.allowed

    def log_prior(self) -> Tensor:
        """`log N(z; 0, 1 / genes)` up to a constant."""
        return -0.5 * self.n_genes * self.z.square().sum()

    @torch.no_grad()
    def set_logits(self, logits: Tensor) -> None:
        """Set z so that `logits()` equals the argument where the rank allows it, with U and V of equal norm."""
        left, singular, right = torch.linalg.svd(logits / self.inverse_temperature)
        rank = min(self.z.shape[2], logits.shape[0])
        root = singular[:rank].sqrt()
        self.z.zero_()
        self.z[0, :, :rank] = left[:, :rank] * root
        self.z[1, :, :rank] = right[:rank].T * root


def spectral_radius(weights: Tensor, n_steps: int | None = None, shift: float = 1e-2) -> Tensor:
    """NO-BEARS: the spectral radius of a non-negative matrix by power iteration.

    `h = u'Av / u'v` with `u <- norm(A'u)`, `v <- norm(Av)`; zero for a DAG. Gradients flow through the
    quotient only (`u`, `v` are held), which is the derivative of a simple eigenvalue.

    Parameters
    ----------
    weights
        (genes, genes), non-negative, `weights[i, j]` belongs to i -> j.
    n_steps
        Power iterations; None (`own`): as many as genes, at least 10. With fewer than the longest path has
        edges, a DAG is not told from a cycle: a chain of 20 genes would come out at 0.09, one of 50 at 0.97.
    shift
        `own`: the iteration runs on `A + shift * I`, whose eigenvectors are the same. Without it the
        iterates of a nilpotent matrix (a DAG!) collapse to zero and the quotient is noise.

    References
    ----------
    Lee et al. 2019, "Scaling structural learning with NO-BEARS"; Schneider et al. 2025, section on inference.
    """
    n = weights.shape[0]
    n_steps = max(10, n) if n_steps is None else n_steps
    with torch.no_grad():
        u = torch.full((n,), n**-0.5, dtype=weights.dtype, device=weights.device)
        v = u.clone()
        for _ in range(n_steps):
            u = weights.T @ u + shift * u
            u = u / u.norm()
            v = weights @ v + shift * v
            v = v / v.norm()
        overlap = (u @ v).clamp_min(1e-12)
    return (u @ weights @ v) / overlap


def exponential_trace(weights: Tensor) -> Tensor:
    """NOTEARS (Zheng et al. 2018): `trace(exp(A)) - genes`, non-negative A; zero exactly for DAGs."""
    return torch.trace(torch.matrix_exp(weights)) - weights.shape[0]


def break_cycles(probability: np.ndarray, threshold: float = 0.5) -> tuple[np.ndarray, int]:
    """Threshold edge probabilities; while a cycle is left, drop the weakest edge of one.

    Returns
    -------
    (graph, n_dropped)
        Boolean DAG (genes, genes) and how many edges above the threshold had to go.
    """
    graph = probability > threshold
    np.fill_diagonal(graph, False)
    directed = nx.from_numpy_array(graph, create_using=nx.DiGraph)
    dropped = 0
    while True:
        try:
            cycle = nx.find_cycle(directed)
        except nx.NetworkXNoCycle:
            break
        source, target = min(((i, j) for i, j in cycle), key=lambda edge: probability[edge])
        directed.remove_edge(source, target)
        graph[source, target] = False
        dropped += 1
    return graph, dropped
