"""Structure behind counts: rounds of expectation and search, then the targets from marginal evidence (`own`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scgim._rng import torch_generator
from scgim._validation import plural
from scgim.model import Counting

from .changes import target_changes
from .config import FitConfig
from .data import CERTAIN, TrainingData, cap_cells
from .latent import (
    AdditiveModel,
    Latent,
    LatentCells,
    expect,
    information,
    information_without_graph,
    latent_moments,
    log_evidence,
    without_graph,
)
from .moments import MomentScores
from .search import SearchResult, search_structure
from .targets import how_sure, tempered

#: Rounds of search after the first, and expectations in each.
_ROUNDS, _EXPECTATIONS = 3, 4
#: Dispersions that are tried, from none on until the evidence falls.
_DISPERSIONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75, 1.0)
#: Rounds in which targets are read from marginal evidence.
_TARGET_ROUNDS = 3
#: Up to so many genes posteriors are computed in double precision: beyond, they are what takes the time and memory.
_EXACT = 100
#: Draws from the posterior of each cell.
_DRAWS = 8
#: So many times the evidence of a level of its own is that of a level and a spread at most.
_SPREAD = 3.0
#: Log odds of targets reach no further.
_SUREST = 10.0


@dataclass
class CountStart:
    """What the search behind counts found.

    graph (genes, genes) bool; logits (genes, genes) log odds of edges, marginal over z; odds (conditions, genes) log
    odds of targets; mode, variance, draw (cells, genes): latent expression of all cells, its posterior and one draw
    from that; log_size (cells,): of their size factors, as all counts tell them.
    """

    graph: np.ndarray
    logits: np.ndarray
    odds: Tensor
    mode: Tensor
    variance: Tensor
    draw: Tensor
    log_size: Tensor


class _Search:
    """The cells that the search looks at, what is known of their expression, and the graph so far."""

    def __init__(
        self,
        config: FitConfig,
        data: TrainingData,
        counting: Counting,
        rng: np.random.Generator,
        report: Callable[[str], None],
    ) -> None:
        self.config, self.data, self.counting, self.rng, self.report = config, data, counting, rng, report
        self.shift = config.intervention == "shift"
        self.treated = (data.membership.sum(1) > 0).cpu().numpy()
        train = torch.nonzero(~data.valid).squeeze(1)
        most = np.where(self.treated, config.search_cells, 8 * config.search_cells)
        self.cells = self._some(train[cap_cells(data.condition[train], most, rng)])
        self.known = data.known_condition_targets()
        self.edge_odds, self.target_odds = (
            None if odds is None else odds.cpu().double().numpy() for odds in (data.edge_odds, data.target_odds)
        )
        self.generator = torch_generator(rng)
        self.graph = np.zeros((data.n_genes, data.n_genes), dtype=bool)
        self.odds = np.full((data.n_conditions, data.n_genes), -_SUREST)
        self.targets = self.odds > 0

    def _some(self, rows: Tensor) -> LatentCells:
        data = self.data
        assert data.counts is not None and data.log_size is not None and data.batch_code is not None
        single = data.counts.device.type == "mps" or data.n_genes > _EXACT
        exact = torch.float32 if single else torch.float64
        return LatentCells(
            data.counts[rows].to(exact), data.log_size[rows].to(exact), data.batch_code[rows], data.condition[rows],
            data.n_conditions, self.counting, data.unit,
        )  # fmt: skip

    def run(self) -> CountStart:
        self.report("expression behind the counts")
        self.latent, prior = without_graph(self.cells, _DRAWS, self.generator)
        whole = self.latent.draws.flatten(0, 1)
        self.center, self.scale = (v.to(self.latent.mode) for v in (whole.mean(0), whole.std(0).clamp_min(1e-2)))
        known, reliable = information_without_graph(self.latent, prior, self.cells)
        found = self._climb(known, reliable)
        if self.config.counting == "negative_binomial":
            self._choose_dispersion()
        for step in range(_ROUNDS):
            self.report(f"round {step + 1} of {_ROUNDS}, {plural(int(self.graph.sum()), 'edge')}")
            model = self._expect(_EXPECTATIONS)
            found = self._climb(*information(model, self.cells, self.latent))
        for _ in range(_TARGET_ROUNDS):
            model = self._expect(2)
            self._read_targets(model, self.cells, self.latent)
        model = self._expect(2)
        logits = self._edge_logits(found, *information(model, self.cells, self.latent))
        latent = self._everywhere(model)
        odds = torch.as_tensor(self.odds)
        return CountStart(self.graph, logits, odds, latent.mode, latent.variance, latent.draws[0], self.log_size)

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
            target_sparsity=(float(config.target_sparsity) + spread - self._believed()) / noise,
            known_targets=None if self.known is None else self.known.cpu().numpy(),
        )  # fmt: skip

    def _believed(self) -> np.ndarray | float:
        """(conditions, genes) nats that are believed of targets."""
        return 0.0 if self.target_odds is None else self.target_odds

    def _climb(self, known: Tensor, reliable: Tensor) -> SearchResult:
        vars(self).pop("scores", None)  # the moments of before make room
        self.scores = self._scores(known, reliable)
        shakes = self.config.n_shakes
        found = search_structure(
            self.scores,
            generator=self.rng,
            max_parents=self.config.max_parents,
            n_candidates=self.config.n_candidates,
            max_shakes=2 * self.data.n_genes if shakes == "auto" else int(shakes),
            report=self.report,
            odds=None if self.edge_odds is None else self.edge_odds / self.worth,
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

    def _choose_dispersion(self) -> None:
        """The dispersion, one for all genes, with the highest evidence given the graph: children tell it from noise."""
        kept, best, highest, latent = self.latent, 0.0, -np.inf, self.latent
        for value in _DISPERSIONS:
            self.counting.dispersion.fill_(value)
            self.latent = Latent(kept.mode.clone(), kept.variance.clone(), kept.draws.clone())
            evidence = log_evidence(self.cells, self._expect(_EXPECTATIONS), self.latent)
            if evidence < highest:
                break
            best, highest, latent = value, evidence, self.latent
        self.counting.dispersion.fill_(best)
        self.latent = latent
        self.report(f"dispersion {best:g}")

    def _refreshed(self) -> MomentScores:
        old = self.scores
        old.second = old.second[:, :0]  # makes room
        return MomentScores(
            old.n, latent_moments(self.cells, self.latent, self.center, self.scale), self.treated, shift=self.shift,
            graph_sparsity=old.graph_sparsity, target_sparsity=old.target_sparsity, known_targets=old.known_targets,
        )  # fmt: skip

    def _read_targets(self, model: AdditiveModel, cells: LatentCells, latent: Latent) -> None:
        """Targets from the larger of two kinds of evidence, which see different things.

        One is marginal, of a level of its own. The other is the likelihood ratio of a level and a spread of its own,
        worth the share of the information that the counts hold, and as much as no misfit explains; it is bounded by the
        first, since a spread alone may be that of a few cells.
        """
        treated = self.treated
        n = cells.n_cells.cpu().numpy()
        change, sound = (part.cpu().numpy() for part in target_changes(model, cells, latent, ~torch.as_tensor(treated)))
        share = information(model, self.cells, self.latent)[0].cpu().numpy()
        share = share * (n / self.cells.n_cells.cpu().numpy().clip(1))[:, None]  # the ratio is of the searched cells
        ratio = np.empty_like(change)
        for gene in range(self.data.n_genes):
            fit = self.scores.regression(gene, frozenset(np.flatnonzero(self.graph[:, gene]).tolist()))
            fit.refit(self.targets[:, gene])
            ratio[:, gene] = share[:, gene] * (fit.replaced - fit.own)
        marginal = 0.5 * change**2
        gains = np.maximum(marginal, np.minimum(sound * ratio, _SPREAD * marginal))
        data = self.data
        features = (data.membership @ data.features).cpu().double().numpy()
        related = data.related().cpu().numpy()[np.ix_(treated, treated)]
        odds = how_sure(
            (gains + self._believed())[treated],
            change[treated],
            features[treated],
            related,
            n[treated],
            float(self.config.target_sparsity),
        )
        self.odds = np.full_like(gains, -_SUREST)
        self.odds[treated] = odds.clip(-_SUREST, _SUREST)
        if self.known is not None:
            known = self.known.cpu().numpy()
            self.odds = np.where(np.isnan(known), self.odds, np.where(known > 0.5, _SUREST, -_SUREST))
        self.targets = self.odds > 0

    def _edge_logits(self, found: SearchResult, known: Tensor, reliable: Tensor) -> np.ndarray:
        """Log odds of edges: what the score gains by them, in nats that the counts are worth, `tempered`."""
        worth = float(known.mean() * reliable.mean())
        logits = tempered(np.clip(worth * np.nan_to_num(found.gain, nan=-np.inf), -1e3, -0.5))
        for child in range(self.data.n_genes):
            parents = frozenset(np.flatnonzero(self.graph[:, child]).tolist())
            sets = [parents, *(parents - {parent} for parent in sorted(parents))]
            (whole, _), *fewer = self.scores.score(child, sets[:1]) + self.scores.score(child, sets[1:])
            for parent, (value, _) in zip(sorted(parents), fewer, strict=True):
                believed = 0.0 if self.edge_odds is None else min(self.edge_odds[parent, child], CERTAIN)
                logits[parent, child] = tempered(np.maximum(worth * (whole - value) + believed, 0.5))
        return logits

    def _everywhere(self, model: AdditiveModel) -> Latent:
        """Expectation of all cells; targets are read anew where the search has not seen all, which weak ones need."""
        data = self.data
        train = torch.nonzero(~data.valid).squeeze(1)
        more = len(train) > len(self.cells.counts)
        mode = self.center.repeat(len(data.x), 1)
        latent = Latent(mode, torch.zeros_like(mode), mode.new_zeros(_DRAWS if more else 1, *mode.shape))
        everywhere = self._some(torch.arange(len(data.x), device=data.x.device))
        expect(everywhere, model, latent, self.generator, n_steps=12, settle=True)
        self.log_size = everywhere.log_size
        if more:
            some = Latent(latent.mode[train], latent.variance[train], latent.draws[:, train])
            self._read_targets(model, replace(self._some(train), log_size=self.log_size[train], unit=None), some)
        return latent


def find_latent_structure(
    config: FitConfig, data: TrainingData, counting: Counting, rng: np.random.Generator, report: Callable[[str], None]
) -> CountStart:
    """Search for graph and targets behind the counts."""
    return _Search(config, data, counting, rng, report).run()
