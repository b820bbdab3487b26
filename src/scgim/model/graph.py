"""The latent graph: DiBS' representation of a distribution over directed graphs."""

from __future__ import annotations

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
