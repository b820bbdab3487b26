"""Structure behind counts: rounds of expectation and search, then the targets from marginal evidence (`own`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scgim._rng import torch_generator
from scgim._validation import plural
from scgim.model import GIM, CountGIM

from .config import FitConfig
from .data import TrainingData, cap_cells
from .latent import (
    AdditiveModel,
    Latent,
    LatentCells,
    expect,
    information,
    information_without_graph,
    latent_moments,
    target_gains,
    without_graph,
)
from .moments import MomentScores
from .search import SearchResult, search_structure

#: Rounds of search after the first, and expectations in each.
_ROUNDS, _EXPECTATIONS = 3, 4
#: Rounds in which targets are read from marginal evidence.
_TARGET_ROUNDS = 3
#: Draws from the posterior of each cell.
_DRAWS = 8
#: Nats that the effect of a target costs, besides the odds of being one.
_EFFECT = 2.0
#: Up to so many numbers, moments of all functions are kept.
_MOST_MOMENTS = 400_000_000


@dataclass
class CountStart:
    """What the search behind counts found.

    graph (genes, genes) bool; logits (genes, genes) log odds of edges, marginal over z; targets (conditions, genes)
    bool; mode, draw (cells, genes): latent expression of all cells, its mode and one draw.
    """

    graph: np.ndarray
    logits: np.ndarray
    targets: Tensor
    mode: Tensor
    draw: Tensor


class _Search:
    """The cells that the search looks at, what is known of their expression, and the graph so far."""

    def __init__(
        self,
        config: FitConfig,
        data: TrainingData,
        gim: CountGIM,
        rng: np.random.Generator,
        report: Callable[[str], None],
    ) -> None:
        self.config, self.data, self.gim, self.rng, self.report = config, data, gim, rng, report
        self.shift = config.intervention == "shift"
        self.treated = (data.membership.sum(1) > 0).cpu().numpy()
        train = torch.nonzero(~data.valid).squeeze(1)
        most = np.where(self.treated, config.search_cells, 8 * config.search_cells)
        self.cells = self._some(train[cap_cells(data.condition[train], most, rng)])
        self.known = data.known_condition_targets()
        self.generator = torch_generator(rng)
        self.graph = np.zeros((data.n_genes, data.n_genes), dtype=bool)
        self.targets = np.zeros((data.n_conditions, data.n_genes), dtype=bool)

    def _some(self, rows: Tensor) -> LatentCells:
        data = self.data
        assert data.counts is not None and data.log_size is not None and data.batch_code is not None
        exact = torch.float32 if data.counts.device.type == "mps" else torch.float64
        return LatentCells(
            data.counts[rows].to(exact), data.log_size[rows].to(exact), data.batch_code[rows], data.condition[rows],
            data.n_conditions, self.gim.counting,
        )  # fmt: skip

    def run(self) -> CountStart:
        self.report("expression behind the counts")
        self.latent, prior = without_graph(self.cells, _DRAWS, self.generator)
        whole = self.latent.draws.flatten(0, 1)
        self.center, self.scale = whole.mean(0), whole.std(0).clamp_min(1e-2)
        known, reliable = information_without_graph(self.latent, prior, self.cells)
        found = self._climb(known, reliable)
        for step in range(_ROUNDS):
            self.report(f"round {step + 1} of {_ROUNDS}, {plural(int(self.graph.sum()), 'edge')}")
            model = self._expect(_EXPECTATIONS)
            found = self._climb(*information(model, self.cells, self.latent))
        for _ in range(_TARGET_ROUNDS):
            model = self._expect(2)
            self._read_targets(model)
        model = self._expect(2)
        logits = self._edge_logits(found, *information(model, self.cells, self.latent))
        latent = self._everywhere(model)
        return CountStart(self.graph, logits, torch.as_tensor(self.targets), latent.mode, latent.draws[0])

    def _scores(self, known: Tensor, reliable: Tensor) -> MomentScores:
        config, n = self.config, self.cells.n_cells.cpu().numpy()
        noise = known.cpu().numpy()
        # Complete data would tell more than the counts do: what they gain is worth so much less.
        self.worth = float(noise.mean() * reliable.mean())
        spread = 0.0 if self.shift else 0.5 * np.log(max(2.0, n.mean()))
        return MomentScores(
            n, latent_moments(self.cells, self.latent, self.center, self.scale), self.treated,
            shift=self.shift,
            graph_sparsity=float(config.graph_sparsity) / self.worth,
            target_sparsity=(float(config.target_sparsity) + spread) / noise,
            known_targets=None if self.known is None else self.known.cpu().numpy(),
        )  # fmt: skip

    def _climb(self, known: Tensor, reliable: Tensor) -> SearchResult:
        self.scores = self._scores(known, reliable)
        shakes = self.config.n_shakes
        found = search_structure(
            self.scores,
            generator=self.rng,
            max_parents=self.config.max_parents,
            n_candidates=self.config.n_candidates,
            max_shakes=2 * self.data.n_genes if shakes == "auto" else int(shakes),
            report=self.report,
        )
        self.graph, self.targets = found.graph, found.targets.numpy().astype(bool)
        return found

    def _model(self) -> AdditiveModel:
        return AdditiveModel(self.scores, self.graph, self.targets, self.center, self.scale)

    def _expect(self, n: int) -> AdditiveModel:
        """Expectation and maximisation with the graph and the targets as they are."""
        model = self._model()
        for _ in range(n):
            expect(self.cells, model, self.latent, self.generator)
            self.scores = self._refreshed()
            model = self._model()
        return model

    def _refreshed(self) -> MomentScores:
        old = self.scores
        return MomentScores(
            old.n, latent_moments(self.cells, self.latent, self.center, self.scale), self.treated, shift=self.shift,
            graph_sparsity=old.graph_sparsity, target_sparsity=old.target_sparsity, known_targets=old.known_targets,
        )  # fmt: skip

    def _read_targets(self, model: AdditiveModel) -> None:
        """Let the target network read the marginal evidence, and take its targets."""
        gains = target_gains(model, self.cells, self.latent)
        prob = teach_targets(self.gim, self.data, gains.float(), float(self.config.target_sparsity))
        self.targets = (prob > 0.5).cpu().numpy()

    def _edge_logits(self, found: SearchResult, known: Tensor, reliable: Tensor) -> np.ndarray:
        """Log odds of edges: what the score gains by them, in nats that the counts are worth."""
        worth = float(known.mean() * reliable.mean())
        logits = np.clip(worth * np.nan_to_num(found.gain, nan=-np.inf), -6.0, -0.5)
        for child in range(self.data.n_genes):
            parents = frozenset(np.flatnonzero(self.graph[:, child]).tolist())
            sets = [parents, *(parents - {parent} for parent in sorted(parents))]
            (whole, _), *fewer = self.scores.score(child, sets[:1]) + self.scores.score(child, sets[1:])
            for parent, (value, _) in zip(sorted(parents), fewer, strict=True):
                logits[parent, child] = np.clip(worth * (whole - value), 0.5, 6.0)
        return logits

    def _everywhere(self, model: AdditiveModel) -> Latent:
        """Expectation of all cells."""
        cells = self._some(torch.arange(len(self.data.x), device=self.data.x.device))
        mode = model.level[cells.condition] if not self.shift else self.center.expand(len(self.data.x), -1)
        latent = Latent(mode.clone(), torch.zeros_like(mode), torch.zeros_like(mode).unsqueeze(0))
        latent.mode[:] = self.center
        expect(cells, model, latent, self.generator, n_steps=12)
        return latent


def find_latent_structure(
    config: FitConfig, data: TrainingData, gim: CountGIM, rng: np.random.Generator, report: Callable[[str], None]
) -> CountStart:
    """Search for graph and targets behind the counts; the target network of `gim` learns the targets on the way."""
    return _Search(config, data, gim, rng, report).run()


def teach_targets(gim: GIM, data: TrainingData, gains: Tensor, sparsity: float, n_steps: int = 300) -> Tensor:
    """Fit the target network to marginal evidence; (conditions, genes) target probabilities.

    Maximises `sum log(1 - p + p exp(gain - effect))` with the priors: the likelihood of a condition with its targets
    summed out, in which conditions whose features are alike share their evidence. The odds of a target are paid once
    for every direction that the features distinguish.

    Parameters
    ----------
    gim
        Its target network changes.
    data
        Conditions and features.
    gains
        (conditions, genes) nats.
    sparsity
        Nats that a target of one condition with features of its own costs in all.
    n_steps
        Adam steps.
    """
    nets = gim.interventions
    names = [name for name, _ in nets.named_parameters() if name.startswith("target")]
    own = [parameter for name, parameter in nets.named_parameters() if name in names]
    treated = data.membership.sum(1) > 0
    directions = int(torch.linalg.matrix_rank(data.features.double().cpu())) / max(1, len(data.features))
    price = max(0.0, sparsity - _EFFECT) * directions
    worth = (gains.to(data.features) - _EFFECT)[treated].clamp(-50.0, 50.0)
    optimiser = torch.optim.Adam(own, lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps, eta_min=1e-4)
    for _ in range(n_steps):
        optimiser.zero_grad()
        prob, _ = gim.combine(gim.atomic(data.features, data.known_targets), data.membership)
        prob = prob[treated].clamp(1e-6, 1 - 1e-6)
        fit = torch.logaddexp(torch.log1p(-prob), prob.log() + worth).sum()
        loss = price * prob.sum() - fit - nets.log_prior(gim.priors.intervention_scale, gim.priors.target_scale)
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return gim.combine(gim.atomic(data.features, data.known_targets), data.membership)[0]
