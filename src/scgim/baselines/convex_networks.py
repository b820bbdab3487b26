"""Potentials that are convex in a cell, conditional on a context: partially input-convex neural networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

#: Slope of the context path's leaky rectifier below 0.
_LEAK = 0.2
#: Sharpness of the softplus of the convex path (`own`); at infinity it is the rectifier.
_SHARPNESS = 4.0
#: The softplus of this is 1.
_ONE = math.log(math.e - 1)


class ContextTerms(NamedTuple):
    """All that a potential takes from the contexts of a batch of cells; one row per cell."""

    scales: list[torch.Tensor]  # s_k, per layer (cells, genes)
    offsets: list[torch.Tensor]  # r_k, per layer (cells, width)
    gates: list[torch.Tensor]  # t_k > 0, per layer (cells, width)
    shift: torch.Tensor  # m, (cells, genes)
    curvature: torch.Tensor  # q > 0, (cells, genes)


class ConvexPotential:
    r"""A function psi(x | c) that is convex in x and begins near half the squared length of x.

    The partially input-convex network of Amos et al. (2017) with the quadratic first layer of Makkuva et al.
    (2020), begun so that its gradient is near the identity, as Bunne et al. (2022) do:

    .. math::

        u_{k+1} &= \mathrm{leaky}(V_k u_k + v_k), \qquad u_0 = c \\
        a_k &= Z_k (z_k \circ t_{k-1}) + X_k (x \circ s_k) + x_k + r_k, \qquad z_0 = 0 \\
        z_1 &= \sigma(a_0)^2, \qquad z_{k+1} = \sigma(a_k) \\
        \psi(x | c) &= w^\top (z_K \circ t_{K-1}) + m^\top x + \tfrac12 \textstyle\sum_j q_j x_j^2

    where r_k and m are affine in :math:`u_{k+1}` and :math:`u_K`, s_k in :math:`\tanh u_{k+1}`, and t_k and q are the
    softplus of functions affine in the tanh of the next and of the last u. It is convex in x because Z_k and w are
    kept from being negative (:meth:`project`), t_k and q are positive, and sigma is convex, increasing and positive.

    Here (`own`) sigma is a softplus, not the leaky rectifier, so that the gradient in x (the transport map) is smooth
    and depends on every weight; q depends on the context and the gene, so that a map can contract a gene, too; the
    factors s, t and q see a bounded context, so that the map grows no faster than linearly in it: products of factors
    that grow move cells much too far at contexts outside the trained range.

    `n_genes` and `n_context` are the lengths of x and c, `hidden` the widths of the layers on both paths, and
    `generator` draws the initial weights.

    References
    ----------
    Amos, Xu & Kolter (2017), Input convex neural networks, eq. 3. Makkuva, Taghvaei, Oh & Lee (2020), Optimal
    transport mapping via input convex neural networks. Bunne, Krause & Cuturi (2022), Supervised training of
    conditional Monge maps.
    """

    def __init__(self, n_genes: int, n_context: int, hidden: Sequence[int], generator: torch.Generator) -> None:
        self.hidden = tuple(hidden)
        last = self.hidden[-1]
        self.embedding = [_affine(i, o, generator) for i, o in pairwise([n_context, *hidden])]  # V, v
        self.cell = [_affine(n_genes, o, generator) for o in hidden]  # X, x
        self.convex = [_averages(i, o, generator) for i, o in pairwise(hidden)]  # Z
        self.scale = [_affine(i, n_genes, generator, size=0.1, start=1.0) for i in hidden]
        self.offset = [_affine(i, i, generator, size=0.1) for i in hidden]
        # The gate of a layer's output is computed with the next layer's context, the last one's with its own.
        self.gate = [
            _affine(i, o, generator, size=0.1, start=_ONE) for i, o in zip([*hidden[1:], last], hidden, strict=True)
        ]
        self.shift = _affine(last, n_genes, generator, size=0.01)
        self.curvature = _affine(last, n_genes, generator, size=0.01, start=_ONE)
        self.output = _averages(last, 1, generator, size=0.1)  # w

    @property
    def parameters(self) -> list[torch.Tensor]:
        """Every weight, always in the same order."""
        affine = [*self.embedding, *self.cell, *self.scale, *self.offset, *self.gate, self.shift, self.curvature]
        return [tensor for pair in affine for tensor in pair] + [*self.convex, self.output]

    def project(self) -> None:
        """Raise the negative entries of Z_k and w to 0, in place."""
        import torch

        with torch.no_grad():
            for weight in (*self.convex, self.output):
                weight.clamp_(min=0)

    def terms(self, context: torch.Tensor) -> ContextTerms:
        """What the context (cells, n_context) decides."""
        from torch.nn.functional import leaky_relu, linear, softplus

        embedded = []
        for layer in self.embedding:
            context = leaky_relu(linear(context, *layer), _LEAK)
            embedded.append(context)
        bounded = [u.tanh() for u in embedded]
        return ContextTerms(
            scales=[linear(u, *layer) for u, layer in zip(bounded, self.scale, strict=True)],
            offsets=[linear(u, *layer) for u, layer in zip(embedded, self.offset, strict=True)],
            gates=[
                softplus(linear(u, *layer)) for u, layer in zip([*bounded[1:], bounded[-1]], self.gate, strict=True)
            ],
            shift=linear(embedded[-1], *self.shift),
            curvature=softplus(linear(bounded[-1], *self.curvature)),
        )

    def value(self, x: torch.Tensor, terms: ContextTerms) -> torch.Tensor:
        """psi at the cells x (cells, genes); (cells,)."""
        outputs, _ = self._layers(x, terms)
        convex = (outputs[-1] * terms.gates[-1]) @ self.output[0]
        return convex + (terms.shift * x).sum(dim=1) + 0.5 * (terms.curvature * x.square()).sum(dim=1)

    def gradient(self, x: torch.Tensor, terms: ContextTerms) -> torch.Tensor:
        """The gradient of psi in x, (cells, genes): where psi's map takes the cells.

        Written out (back through the layers by hand) so that training differentiates it once, not twice.
        """
        _, slopes = self._layers(x, terms)
        gradient = terms.shift + terms.curvature * x
        back = terms.gates[-1] * self.output[0]  # the derivative by the last layer's output
        for k in reversed(range(len(self.hidden))):
            back = back * slopes[k]
            gradient = gradient + (back @ self.cell[k][0]) * terms.scales[k]
            if k:
                back = (back @ self.convex[k - 1]) * terms.gates[k - 1]
        return gradient

    def _layers(self, x: torch.Tensor, terms: ContextTerms) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Outputs z_1 to z_K of the convex path, and their derivatives by a_0 to a_K-1; each (cells, width)."""
        import torch
        from torch.nn.functional import linear, softplus

        outputs: list[torch.Tensor] = []
        slopes = []
        for k, (weight, bias) in enumerate(self.cell):
            before = linear(x * terms.scales[k], weight, bias) + terms.offsets[k]
            if k:
                before = before + linear(outputs[-1] * terms.gates[k - 1], self.convex[k - 1])
            after = softplus(before, beta=_SHARPNESS)
            slope = torch.sigmoid(_SHARPNESS * before)
            outputs.append(after if k else after.square())
            slopes.append(slope if k else 2 * after * slope)
        return outputs, slopes


def _affine(
    n_in: int, n_out: int, generator: torch.Generator, *, size: float = 1.0, start: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal weights (n_out, n_in) that give outputs of `size` for inputs of size 1, and equal biases."""
    import torch

    weight = torch.randn(n_out, n_in, generator=generator) * (size / math.sqrt(n_in))
    return weight.requires_grad_(), torch.full((n_out,), start, requires_grad=True)


def _averages(n_in: int, n_out: int, generator: torch.Generator, *, size: float = 1.0) -> torch.Tensor:
    """Weights (n_out, n_in) that are not negative: each output is about half the mean of the inputs."""
    import torch

    return (torch.rand(n_out, n_in, generator=generator) * (size / n_in)).requires_grad_()
