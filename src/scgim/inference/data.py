"""The data of a fit as tensors, and minibatches balanced over conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scgim._errors import InvalidValue
from scgim.data import PerturbationData
from scgim.model import Batch

#: Nats of an edge that is certain.
CERTAIN = 1e3


@dataclass
class TrainingData:
    """A `scgim.data.PerturbationData` as tensors, of which every condition has cells and every part a condition.

    x (cells, genes) float32; condition (cells,) long; valid (cells,) bool: held out of the gradient, to decide on
    convergence; features (parts, p), membership (conditions, parts), known targets and values (parts, genes) float32.
    perturbation (conditions,) long: conditions of the same number are doses of one. Behind counts: counts (cells,
    genes), log_size (cells,) float32, batch_code (cells,) long; `x` is then set to a draw of the latent expression
    once there is one. Beliefs: prior_edges (genes, genes), prior_targets (parts, genes) probabilities, NaN where there
    is none; `beliefs.informed` makes nats of them, edge_odds (genes, genes) and target_odds (conditions, genes).
    """

    x: Tensor
    condition: Tensor
    valid: Tensor
    features: Tensor
    membership: Tensor
    known_targets: Tensor | None = None
    known_values: Tensor | None = None
    graded: bool = False
    perturbation: Tensor | None = None
    counts: Tensor | None = None
    log_size: Tensor | None = None
    batch_code: Tensor | None = None
    prior_edges: Tensor | None = None
    prior_targets: Tensor | None = None
    edge_odds: Tensor | None = None
    target_odds: Tensor | None = None
    unit: float | None = None

    @classmethod
    def of(cls, data: PerturbationData) -> Self:
        """From arrays, without what has no cells."""
        data = data.without_empty()

        def tensor(values: np.ndarray | None) -> Tensor | None:
            return None if values is None else torch.tensor(values, dtype=torch.float32)

        return cls(
            x=torch.tensor(data.x),
            condition=torch.tensor(data.codes),
            valid=torch.tensor(data.valid),
            features=torch.tensor(data.part_features),
            membership=torch.tensor(data.membership),
            known_targets=tensor(data.known_targets),
            known_values=tensor(data.known_values),
            prior_edges=tensor(data.prior_edges),
            prior_targets=tensor(data.prior_targets),
            graded=data.graded,
            perturbation=torch.tensor(pd.factorize(data.conditions["perturbation"].astype(str))[0]),
            counts=tensor(data.counts),
            log_size=None if data.size_factor is None else torch.tensor(np.log(data.size_factor), dtype=torch.float32),
            unit=None if data.measured.get("rest") is None else data.measured["rest"] * data.measured["total"],
            batch_code=torch.tensor(data.batch if data.batch is not None else np.zeros(len(data.x), dtype=int)),
        )

    @property
    def n_genes(self) -> int:
        return int(self.x.shape[1])

    @property
    def n_conditions(self) -> int:
        return int(self.membership.shape[0])

    def related(self) -> Tensor:
        """(conditions, conditions) bool: whether two conditions share a perturbation."""
        shared = self.membership @ self.membership.T > 0
        if self.perturbation is not None:
            shared |= self.perturbation.unsqueeze(0) == self.perturbation.unsqueeze(1)
        return shared

    def to(self, device: torch.device | str) -> TrainingData:
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def sorted_by_cell(self) -> TrainingData:
        """The same cells in an order that follows from themselves: what is drawn at random belongs to a place."""
        keys = (*self.x.cpu().numpy().T, self.valid.cpu().numpy(), self.condition.cpu().numpy())
        if self.counts is not None and self.log_size is not None and self.batch_code is not None:
            more = (*self.counts.T, self.log_size, self.batch_code)  # cells may be alike in x alone
            keys = (*(values.cpu().numpy() for values in more), *keys)
        order = torch.as_tensor(np.lexsort(keys), device=self.x.device)
        return self.of_cells(order)

    def of_cells(self, rows: Tensor) -> TrainingData:
        """The same with these cells."""
        names = ("x", "condition", "valid", "counts", "log_size", "batch_code")
        return replace(self, **{name: value[rows] for name in names if (value := getattr(self, name)) is not None})

    def known_condition_targets(self) -> Tensor | None:
        """(conditions, genes) known targets: NaN where any part's targets are to be learned."""
        if self.known_targets is None and self.known_values is None:
            return None
        known = torch.full_like(self.features[:, :1], torch.nan).repeat(1, self.n_genes)
        if self.known_targets is not None:
            known = self.known_targets.clone()
        if self.known_values is not None:
            held = ~torch.isnan(self.known_values)
            rows = held.any(1, keepdim=True)
            known = torch.where(rows & torch.isnan(known), torch.zeros_like(known), known)
            known = torch.where(held, torch.ones_like(known), known)
        open_part = torch.isnan(known).any(1).to(known)
        count = self.membership @ torch.nan_to_num(known)
        out = (count > 0).to(known)
        return torch.where(((self.membership @ open_part) > 0).unsqueeze(1), torch.nan, out)

    def batch(self, index: Tensor, weight: Tensor) -> Batch:
        return Batch(
            self.x[index],
            self.condition[index],
            weight,
            self.features,
            self.membership,
            self.known_targets,
            self.known_values,
            **self._counted(index),
            edge_odds=None if self.edge_odds is None else self.edge_odds.nan_to_num(posinf=CERTAIN, neginf=0.0),
            target_odds=self.target_odds,
        )

    def _counted(self, index: Tensor) -> dict[str, Tensor]:
        if self.counts is None:
            return {}
        assert self.log_size is not None and self.batch_code is not None
        of_cells = {"counts": self.counts, "log_size": self.log_size, "batch_code": self.batch_code}
        return {name: values[index] for name, values in of_cells.items()} | {"index": index}


class BalancedSampler:
    """Minibatches in which every condition appears, with weights that keep sums over cells unbiased.

    Half of a batch is spread evenly over the conditions, half in proportion to their cells (`own`): a condition of
    30 cells is then not drowned by a control of 17,000. Drawn on the CPU, in
    float64, which not every device has.
    """

    def __init__(self, data: TrainingData, batch_size: int) -> None:
        train = torch.nonzero(~data.valid).squeeze(1)
        if len(train) == 0:
            raise InvalidValue("There are no training cells: every cell is held out.")
        self.index = train
        self.n_cells = len(train)
        owner = data.condition[train].cpu()
        counts = torch.bincount(owner, minlength=data.n_conditions).double()
        present = (counts > 0).sum()
        share = 0.5 * counts / self.n_cells + 0.5 * (counts > 0) / present  # (conditions,)
        per_cell = (share / counts.clamp_min(1))[owner]
        self.cumulative = per_cell.cumsum(0)
        self.cumulative /= self.cumulative[-1].clone()
        self.weight = (1.0 / (per_cell * batch_size)).to(data.x.dtype).to(data.x.device)  # sums to about n_cells
        self.batch_size = batch_size
        self.data = data

    def draw(self) -> Batch:
        """A stratified draw: systematic sampling along the cumulative probabilities."""
        n = self.batch_size
        points = (torch.arange(n, dtype=torch.float64) + torch.rand(1, dtype=torch.float64)) / n
        picked = torch.searchsorted(self.cumulative, points).clamp_max(self.n_cells - 1)
        picked = picked[torch.randperm(n)].to(self.index.device)  # graphs are dealt out by position
        return self.data.batch(self.index[picked], self.weight[picked])


def cap_cells(condition: Tensor, most: int | np.ndarray, rng: np.random.Generator) -> Tensor:
    """Indices of at most `most` (or `most[k]`) random cells of each condition k, sorted."""
    owner = condition.cpu().numpy()
    limit = np.broadcast_to(most, int(owner.max()) + 1)
    picked = []
    for k in np.unique(owner):
        cells = np.flatnonzero(owner == k)
        picked.append(cells if len(cells) <= limit[k] else rng.choice(cells, limit[k], replace=False))
    return torch.as_tensor(np.sort(np.concatenate(picked)), device=condition.device)
