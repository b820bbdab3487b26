"""A fitted model in use: the interventions of conditions, cells under them, and what becomes of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._errors import InvalidValue
from .._process import SMALL, one_thread
from .count_gim import CountGIM
from .counts import Counting
from .gim import GIM
from .interventions import n_effects
from .posterior import laplace, mechanism_residuals, rows_at_a_time
from .sampling import Action, abduct, draw_action, draw_noise, propagate, touched_genes

#: Quantiles of a gene's latent expression over which a shift is averaged.
_QUANTILES = 25


class Interventions(NamedTuple):
    """Distribution over atomic interventions of conditions.

    prob (conditions, genes): of being a target; effects (conditions, genes, k): mean of psi; held (conditions, genes):
    values of genes that a condition holds (`do`), NaN elsewhere, or None; called (conditions, genes): probability of
    being a target in a new cell, where it is another than that which is told (`CountGIM.calls`), or None; log_size
    (conditions,): change of the log size factor (`Counting.depth`), or None.
    """

    prob: Tensor
    effects: Tensor
    held: Tensor | None = None
    called: Tensor | None = None
    log_size: Tensor | None = None


class CountedCells(NamedTuple):
    """Counts (cells, genes) float32, size factors (cells,) float64 and batches (cells,) of sampled cells."""

    counts: np.ndarray
    size_factor: np.ndarray
    batch: np.ndarray


def normalised(counts: np.ndarray, size_factor: np.ndarray) -> np.ndarray:
    """log1p of counts (cells, genes) divided by the size factors (cells,), float32."""
    return np.log1p(counts / size_factor[:, None]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class FittedGIM:
    """A fitted model with the graph that was read from it.

    Parameters
    ----------
    gim
        On the CPU.
    graph
        (genes, genes) bool DAG, row = cause.
    measured
        Behind counts: how they were read (`scgim.slots.Measured.record`); empty: size factors are what cells are
        divided by.
    """

    gim: GIM
    graph: np.ndarray
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_genes(self) -> int:
        return self.gim.graph.n_genes

    @torch.no_grad()
    def interventions(
        self,
        features: Tensor,
        membership: Tensor,
        known_targets: Tensor | None = None,
        known_values: Tensor | None = None,
    ) -> Interventions:
        """Atomic interventions of conditions.

        Parameters
        ----------
        features
            (parts, p)
        membership
            (conditions, parts) 0/1; a row of zeros is a control.
        known_targets, known_values
            (parts, genes) as in `Batch`, or None.
        """
        if not bool(membership.any()):  # nothing but controls
            shape = len(membership), self.n_genes
            k = n_effects(self.gim.intervention, self.gim.mechanisms.is_ziln)
            return Interventions(torch.zeros(shape), torch.zeros(*shape, k))
        prob, effects = self.gim.combine(self.gim.atomic(features, known_targets), membership)
        called = log_size = None
        if isinstance(self.gim, CountGIM):
            called = self.gim.called(features, known_targets, membership)
            log_size = self.gim.counting.change_of_size(features, membership)
        if known_values is None:
            return Interventions(prob, effects, called=called, log_size=log_size)
        held = torch.full_like(prob, torch.nan)
        for part, given in enumerate(known_values):
            told = (membership[:, part] > 0).unsqueeze(1) & ~torch.isnan(given)
            held = torch.where(told, given, held)
        free, one = torch.isnan(held), torch.ones_like(prob)
        called = None if called is None else torch.where(free, called, one)
        return Interventions(torch.where(free, prob, one), effects, held, called, log_size)

    def action(self, found: Interventions, row: int, n: int, generator: torch.Generator) -> Action:
        """What condition `row` does to each of `n` cells: t ~ Bernoulli, psi ~ Normal."""
        held = None if found.held is None else found.held[row]
        if held is not None and self.counting is not None:
            held, _ = self.counting.held(held)
        prob = found.prob if found.called is None else found.called
        return draw_action(self.gim, prob[row], found.effects[row], n, generator, held)

    def sample(self, found: Interventions, row: int, n: int, generator: torch.Generator) -> np.ndarray:
        """(n, genes) cells of condition `row` by ancestral sampling, each with atomic interventions of its own.

        Behind counts: log1p of counts divided by the cell's size factor, as `sample_counts` draws them.
        """
        if self.counting is not None:
            drawn = self.sample_counts(found, row, n, generator)
            return normalised(drawn.counts, drawn.size_factor)
        action = self.action(found, row, n, generator)
        return propagate(self.gim, self.graph, draw_noise(self.gim, n, generator), action).numpy()

    @property
    def counting(self) -> Counting | None:
        """The measurement of a model behind counts."""
        return self.gim.counting if isinstance(self.gim, CountGIM) else None

    @torch.no_grad()
    def sample_counts(
        self,
        found: Interventions,
        row: int,
        n: int,
        generator: torch.Generator,
        size_factor: np.ndarray | None = None,
        batch: np.ndarray | None = None,
    ) -> CountedCells:
        """Counts of `n` cells of condition `row`, and the size factors by which they are to be divided.

        Size factors and batches are drawn where they are not given: as the training cells have them, the former changed
        as the features of the condition say. Where they are those of genes that are not modelled, what cells are
        divided by follows from these and the drawn counts, as `pp.prepare` divides by all.
        """
        counting = self.counting
        assert counting is not None
        action = self.action(found, row, n, generator)
        z = propagate(self.gim, self.graph, draw_noise(self.gim, n, generator), action)
        log_size = counting.draw_sizes(n, generator) if size_factor is None else torch.as_tensor(size_factor).log()
        if size_factor is None and found.log_size is not None:
            log_size = log_size + found.log_size[row]
        code = torch.multinomial(counting.shares, n, replacement=True, generator=generator)
        code = code if batch is None else torch.as_tensor(batch)
        held = None if found.held is None else found.held[row]
        counts = counting.draw(z, log_size.float(), code, generator, held)
        sizes = log_size.double().exp().numpy() if size_factor is None else size_factor
        rest = self.measured.get("rest")
        if rest is not None:
            sizes = rest * sizes + counts.double().sum(1).numpy() / self.measured["total"]
        return CountedCells(counts.numpy(), sizes, code.numpy())

    @torch.no_grad()
    def counterfactual_counts(
        self, counts: Tensor, log_size: Tensor, batch: Tensor, found: Interventions, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts of the same unperturbed cells under condition 0 of `found`, and which may differ: (cells, genes) each.

        Abduction: a draw of each cell's latent expression from its posterior; action; prediction with the same noise.
        What is counted of a touched gene is drawn anew at the changed rate by keeping or adding single molecules (a
        count is thinned where the rate falls, and grows by another Poisson where it rises); others keep their count.
        """
        gim, counting = self.gim, self.counting
        assert isinstance(gim, CountGIM) and counting is not None
        action = self.action(found, 0, len(counts), generator)
        control = torch.zeros(len(counts), dtype=torch.long)
        none = torch.zeros(1, gim.graph.n_genes, dtype=torch.bool)
        graph = torch.as_tensor(self.graph, dtype=torch.float32)
        residuals = mechanism_residuals(gim.mechanisms, graph, none[control], {})
        z = torch.empty_like(counts)
        for rows in torch.arange(len(counts)).split(rows_at_a_time(gim.graph.n_genes)):
            start = torch.zeros_like(counts[rows])
            with one_thread(gim.graph.n_genes <= SMALL):
                posterior = laplace(counting, counts[rows], log_size[rows], batch[rows], residuals, start, 25)
            z[rows] = posterior.draw(torch.randn(start.shape, generator=generator))
        noise = abduct(gim, self.graph, z, generator)
        touched = touched_genes(self.graph, action)
        changed = propagate(gim, self.graph, noise, action, (z, ~touched))
        held = None if found.held is None else found.held[0]
        before = counting.log_rate(z, log_size, batch)
        after = counting.log_rate(changed, log_size, batch, held)
        fewer = torch.binomial(counts, (after - before).exp().clamp(max=1.0), generator=generator)
        more = (after.exp() - before.exp()).clamp_min(0.0)
        more = torch.poisson(more * counting.draw_excess(counts, before, generator), generator=generator)
        return torch.where(touched, fewer + more, counts).numpy(), touched.numpy()

    @torch.no_grad()
    def expected_effect(self, found: Interventions) -> np.ndarray:
        """(conditions, genes) mean expression under the replaced mechanism (hard), or the shift."""
        new = self.gim.replaced_parameters(found.effects)
        if "shift" in new:
            out = new["shift"]
        elif self.gim.mechanisms.is_ziln:
            out = self.gim.mechanisms.mean_of(new["zero_logit"], new["mean"], new["log_scale"])
        elif self.counting is not None:
            out = self.counting.expected(new["mean"], new["log_scale"])
        else:
            out = new["mean"]
        return self._held_at(found, out).numpy()

    def _held_at(self, found: Interventions, mean: Tensor) -> Tensor:
        """`mean` (conditions, genes), but of genes that are held at a value the mean that is seen of it."""
        if found.held is None:
            return mean
        seen = found.held
        if self.counting is not None:
            _, log_rate = self.counting.held(found.held)
            seen = self.counting.mean_at_rate(torch.nan_to_num(log_rate, nan=0.0, neginf=-torch.inf))
        return torch.where(torch.isnan(found.held), mean, seen)

    @torch.no_grad()
    def mean_as_target(self, found: Interventions, control_mean: np.ndarray) -> np.ndarray:
        """(conditions, genes) mean expression of a gene as a target, its parents as in the control (genes,)."""
        new = self.gim.replaced_parameters(found.effects)
        if "shift" not in new:
            return self.expected_effect(found).astype(np.float64)
        mean = torch.as_tensor(control_mean)
        if self.gim.mechanisms.is_ziln:
            logit = self.gim.mechanisms.zero_logit
            rate = torch.sigmoid(-logit - new["zero_shift"]) / torch.sigmoid(-logit)
            out = mean * torch.exp(new["shift"]) * rate
        elif self.counting is not None:
            out = mean + self._shifted(new["shift"])
        else:
            out = mean + new["shift"]
        return self._held_at(found, out).numpy().astype(np.float64)

    def _shifted(self, shift: Tensor) -> Tensor:
        """(conditions, genes) change of the mean of log1p counts by shifts of the latent expression, parents as are."""
        assert self.counting is not None
        at = (torch.arange(_QUANTILES) + 0.5) / _QUANTILES
        z = torch.quantile(self.unperturbed(), at, dim=0).unsqueeze(1)  # (quantiles, 1, genes)
        return self.counting.mean_at(z + shift).mean(0) - self.counting.mean_at(z).mean(0)

    @torch.no_grad()
    def unperturbed(self, n_cells: int = 500) -> Tensor:
        """(cells, genes) of the model without intervention, from a fixed seed; latent expression, behind counts."""
        noise = draw_noise(self.gim, n_cells, torch.Generator().manual_seed(0))
        return propagate(self.gim, self.graph, noise, None)

    def slopes(self, n_cells: int = 500) -> np.ndarray:
        """(genes, genes) mean derivative of a gene's location along its parents, row = cause; 0 without an edge.

        The mean is over unperturbed cells of the model, drawn from a fixed seed. For ``ziln`` the location is of log x;
        behind counts cause and effect are latent log expression.
        """
        x, kept = self.unperturbed(n_cells), torch.as_tensor(self.graph, dtype=torch.float32)

        def location(shift: Tensor) -> Tensor:
            return self.gim.mechanisms.location((x + shift).unsqueeze(0), kept.unsqueeze(0))[0].mean(0)

        slopes = torch.autograd.functional.jacobian(location, torch.zeros(self.n_genes))  # (effect, cause)
        return (slopes.T * kept).numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters and buffers by name, to store without pickle: float32 (bool buffers as uint8)."""
        return {
            name: value.cpu().numpy().astype(np.uint8 if value.dtype == torch.bool else np.float32)
            for name, value in self.gim.state_dict().items()
        }

    @classmethod
    def from_arrays(
        cls, empty: GIM, graph: np.ndarray, arrays: dict[str, np.ndarray], measured: Mapping[str, Any] | None = None
    ) -> FittedGIM:
        """The model back from its `arrays`, into an `empty` one of the same shape.

        Raises
        ------
        ValueError
            If a name is missing or a shape differs: the file was truncated or edited.
        """
        expected = empty.state_dict()
        missing, extra = sorted(set(expected) - set(arrays)), sorted(set(arrays) - set(expected))
        if missing or extra:
            raise InvalidValue(
                f"The stored weights do not fit the model (missing {missing}, not expected {extra}): the file "
                "was edited, or the fit is of an earlier scgim. Run scgim.tl.fit_gim again."
            )
        for name, value in expected.items():
            if tuple(arrays[name].shape) != tuple(value.shape):
                raise InvalidValue(
                    f"The stored weight {name!r} has shape {arrays[name].shape}, expected {tuple(value.shape)}."
                )
        empty.load_state_dict({n: torch.as_tensor(np.asarray(a)).to(expected[n].dtype) for n, a in arrays.items()})
        return cls(empty.eval(), graph, measured or {})
