"""Where a fit starts: modules, sparsity from the size of the data, and the default start by structure search."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import chi2
from torch import Tensor

from scgim._rng import torch_generator
from scgim.model import (
    GIM,
    LATENT,
    AmortizedInterventions,
    CountGIM,
    Counting,
    FeatureNetwork,
    FreeInterventions,
    LatentGraph,
    Mechanisms,
    Priors,
    n_effects,
    topological_order,
)
from scgim.model.distributions import outlier_share

from .config import FitConfig
from .counts import CountStart
from .data import TrainingData, cap_cells
from .depth import describe_sizes, measure_rates
from .moments import N_BASIS
from .scores import LocalScores, marginals
from .search import SearchResult, search_structure

#: The search looks at so many times more control cells (`own`).
_CONTROL_SHARE = 8
#: Edge logits of the start: found by the search, or possible in its order; free target logits likewise (`own`).
_FOUND, _POSSIBLE = 3.0, -3.0
#: Of conditions in which nothing is changed, so many may have a target at the least automatic sparsity (`own`).
_FALSE_CONDITIONS = 0.01


def resolve_sparsity(config: FitConfig, data: TrainingData) -> FitConfig:
    """Replace ``"auto"`` sparsities by numbers (`own`).

    Edges: the extended BIC for graphs (Foygel & Drton 2010), half of log(cells) per parameter plus 2 log(genes);
    targets: the BIC of the replaced mechanism plus the log odds of one target among all genes, and never less than what
    control cells under a false name reach, in any gene, in one of a hundred conditions (Wilks' theorem).
    """
    n_cells = int((~data.valid).sum())
    graph, target = config.graph_sparsity, config.target_sparsity
    if isinstance(graph, str):
        n_parameters = {"linear": 1, "count": N_BASIS, "count_linear": N_BASIS}.get(
            config.mechanism, config.mechanism_hidden
        )
        graph = 0.5 * n_parameters * math.log(n_cells) + 2 * math.log(max(2, data.n_genes))
    if isinstance(target, str):
        per_condition = max(2.0, n_cells / max(1, data.n_conditions))
        # Behind counts the evidence is that of a level alone.
        k = 1 if config.latent else n_effects(config.intervention, config.mechanism == "ziln")
        target = 0.5 * k * math.log(per_condition) + math.log(max(2, data.n_genes))
        target = max(target, 0.5 * float(chi2.isf(_FALSE_CONDITIONS / data.n_genes, k)))
    pull = config.effect_pull
    if isinstance(pull, str):
        pull = 20.0 if config.init == "search" and config.mechanism != "ziln" else 0.0
    spread = config.effect_spread
    if isinstance(spread, str):
        counted = config.mechanism == "ziln" or config.latent
        wanted = config.init == "search" and counted and config.intervention == "hard"
        asked_to_pull = not isinstance(config.effect_pull, str) and config.effect_pull > 0
        spread = 0.5 if wanted and data.graded and not asked_to_pull else 0.0
    alpha = config.inverse_temperature
    if isinstance(alpha, str):  # 1 as in the paper's start; after a search the prior on z must not outweigh the data
        alpha = float(data.n_genes) if config.init == "search" else 1.0
    wide = (config.mechanism == "ziln" or config.latent) and config.init == "search" and config.amortised
    phi, hidden = config.intervention_scale, config.target_scale
    return replace(
        config,
        graph_sparsity=graph,
        target_sparsity=target,
        inverse_temperature=alpha,
        effect_pull=pull,
        effect_spread=spread,
        intervention_scale=(3.0 if wide else 1.0) if isinstance(phi, str) else phi,
        target_scale=(0.3 if wide else 0.1) if isinstance(hidden, str) else hidden,
        max_steps=(500 if config.latent else 2000) if isinstance(config.max_steps, str) else config.max_steps,
    )


def new_model(
    config: FitConfig,
    n_genes: int,
    n_features: int,
    n_parts: int = 0,
    generator: torch.Generator | None = None,
    n_batches: int = 1,
) -> GIM:
    """A GIM with initialised modules: z ~ N(0, 1), log scales 0, Glorot elsewhere. Sparsities must be numbers."""
    ziln = config.mechanism == "ziln"
    k = n_effects(config.intervention, ziln)
    kind: Any = LATENT.get(config.mechanism, config.mechanism)
    mechanisms = Mechanisms(n_genes, kind, config.mechanism_hidden, generator)
    graph = LatentGraph(n_genes, inverse_temperature=float(config.inverse_temperature), generator=generator)
    graph.z.data.mul_(config.z_scale)
    interventions: AmortizedInterventions | FreeInterventions = FreeInterventions(n_parts, n_genes, k)
    if config.amortised:
        hidden, skip = config.network_hidden, config.linear_skip
        interventions = AmortizedInterventions(n_features, n_genes, k, hidden, skip, generator)
    priors = Priors(
        graph_sparsity=float(config.graph_sparsity),
        target_sparsity=float(config.target_sparsity),
        mechanism_scale=config.mechanism_scale,
        intervention_scale=float(config.intervention_scale),
        target_scale=float(config.target_scale),
        effect_noise=config.effect_noise,
        outlier_share=0.0 if config.latent else outlier_share(config.intervention, ziln),
    )
    parts = graph, mechanisms, interventions, config.intervention, priors, config.gumbel_scale, config.sample_targets
    if not config.latent:
        return GIM(*parts)
    calls = None
    if config.amortised:
        calls = FeatureNetwork(n_features, n_genes, config.network_hidden, config.linear_skip, generator)
    counting = Counting(n_genes, n_batches, n_features if config.amortised else 0)
    return CountGIM(*parts, counting=counting, calls=calls)


def build(config: FitConfig, data: TrainingData, rng: np.random.Generator) -> GIM:
    """A new model in the units of the data, on its device."""
    n_parts, n_features = data.features.shape
    n_batches = 1 if data.batch_code is None else int(data.batch_code.max()) + 1
    gim = new_model(config, data.n_genes, n_features, n_parts, torch_generator(rng), n_batches)
    if data.edge_odds is not None:
        gim.graph.allowed &= data.edge_odds.cpu() > -torch.inf
    train = ~data.valid
    control = (data.membership.sum(1) == 0)[data.condition[train]]
    if isinstance(gim, CountGIM):
        measure_rates(gim.counting, data)
        describe_sizes(gim.counting, data)
        return gim.to(data.x.device)  # units follow from the expression that is found
    gim.mechanisms.standardise(data.x[train].cpu(), control.cpu())
    return gim.to(data.x.device)


def find_structure(config: FitConfig, data: TrainingData, rng: np.random.Generator, report) -> SearchResult:
    """Greedy search over graphs and targets on at most `search_cells` cells per condition."""
    train = torch.nonzero(~data.valid).squeeze(1)
    # Controls tell most about the graph: only there are all mechanisms their own.
    treated = (data.membership.sum(1) > 0).cpu().numpy()
    most = np.where(treated, config.search_cells, _CONTROL_SHARE * config.search_cells)
    index = train[cap_cells(data.condition[train], most, rng)]
    ratio = len(index) / len(train)
    scores = LocalScores(
        data.x[index],
        data.condition[index],
        data.membership.sum(1) > 0,
        ziln=config.mechanism == "ziln",
        linear=config.mechanism == "linear",
        shift=config.intervention == "shift",
        # The priors belong to all cells; evidence from a subsample is weaker, so are they.
        graph_sparsity=float(config.graph_sparsity) * (1.0 if ratio > 0.99 else max(ratio, 0.2)),
        target_sparsity=float(config.target_sparsity),
        generator=torch_generator(rng),
        known_targets=data.known_condition_targets(),
        target_odds=data.target_odds,
        n_features=config.n_features,
    )
    odds = None if data.edge_odds is None else data.edge_odds.cpu().numpy() * (1.0 if ratio > 0.99 else max(ratio, 0.2))
    return search_structure(
        scores,
        odds=odds,
        generator=rng,
        max_parents=config.max_parents,
        n_candidates=config.n_candidates,
        max_shakes=_shakes(config, data.n_genes),
        report=report,
    )


def _shakes(config: FitConfig, n_genes: int) -> int:
    if config.n_shakes != "auto":
        return int(config.n_shakes)
    # Cheap where the regressions are linear, and needed there; with random features the fit itself refines.
    return 5 * n_genes if config.mechanism == "linear" else 0


def start_from_search(gim: GIM, data: TrainingData, found: SearchResult | CountStart, n_steps: int = 400) -> None:
    """Set the graph to the found one and teach the interventions the found targets and their marginals."""
    device = data.x.device
    graph = torch.as_tensor(found.graph, device=device)
    order = topological_order(found.graph)
    rank = torch.empty(len(order), dtype=torch.long, device=device)
    rank[torch.as_tensor(order, device=device)] = torch.arange(len(order), device=device)
    gim.graph.allowed &= rank.unsqueeze(1) < rank.unsqueeze(0)
    logits = torch.where(graph, _FOUND, _POSSIBLE)
    if isinstance(found, CountStart):
        logits = torch.as_tensor(found.logits, device=device)
    gim.graph.set_logits(logits.to(data.x))
    single = data.membership.sum(1) == 1
    odds = found.odds if isinstance(found, CountStart) else torch.where(found.targets > 0.5, _FOUND, _POSSIBLE)
    odds, moments = odds.to(data.x), condition_moments(gim, data)  # (conditions, genes), (conditions, genes, k)
    part, rows = data.membership[single].argmax(1), (odds[single], moments[single])
    if isinstance(found, CountStart):  # targets are not learned any further
        part, rows = _with_parts_never_alone(data, part, *rows, odds, moments)
    if not len(part):
        return
    odds, moments = rows
    targets, features = (odds > 0).to(data.x), data.features[part]
    if isinstance(gim.interventions, FreeInterventions):
        gim.interventions.start_at(part, odds, moments)
        return
    # A little weight on everything: untargeted genes get the effects that would make sense were they targets.
    weight = (targets + 0.02).unsqueeze(-1)
    nets = gim.interventions
    optimiser = torch.optim.Adam(nets.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps, eta_min=1e-4)
    for _ in range(n_steps):
        optimiser.zero_grad()
        logits, effects = nets(features)
        if isinstance(found, CountStart):  # not learned any further: the odds themselves
            loss = (logits - odds).square().sum()
        else:
            loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        loss = loss + (weight * (effects - moments).square()).sum()
        loss = 20 * loss - nets.log_prior(gim.priors.intervention_scale, gim.priors.target_scale)
        loss.backward()
        optimiser.step()
        schedule.step()
    if isinstance(gim, CountGIM) and gim.calls is not None:
        # What is called is a target in every cell; of what is not, as much as its odds say.
        called = torch.where(targets > 0.5, targets, torch.sigmoid(odds))
        _teach_calls(gim.calls, features, called, gim.priors, n_steps)


def _with_parts_never_alone(
    data: TrainingData, part: Tensor, odds: Tensor, moments: Tensor, all_odds: Tensor, all_moments: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Parts, odds and moments with rows for the parts that occur in combinations alone.

    Such a part begins with the targets of its combinations that no other part of them has alone, and their moments.
    """
    members, apart = data.membership, torch.zeros(len(data.features), dtype=torch.bool, device=data.x.device)
    apart[part] = True
    alone = torch.full((len(apart), data.n_genes), -torch.inf).to(odds).index_copy(0, part, odds)
    for lonely in torch.nonzero(~apart & members.any(0)).flatten().tolist():
        whole = torch.nonzero(members[:, lonely] > 0).flatten()
        explained = torch.stack([(alone[members[row] > 0] > 0).any(0) for row in whole])
        left = torch.where(
            explained & (all_odds[whole] > 0), torch.full_like(all_odds[whole], _POSSIBLE), all_odds[whole]
        )
        part = torch.cat([part, part.new_tensor([lonely])])
        odds = torch.cat([odds, left.mean(0, keepdim=True)])
        moments = torch.cat([moments, all_moments[whole].mean(0, keepdim=True)])
    return part, (odds, moments)


def _teach_calls(calls: FeatureNetwork, features: Tensor, targets: Tensor, priors: Priors, n_steps: int) -> None:
    """Teach the network of the targets that the fit goes by, under the same prior as the other one."""
    calls.requires_grad_(True)
    optimiser = torch.optim.Adam(calls.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps, eta_min=1e-4)
    for _ in range(n_steps):
        optimiser.zero_grad()
        loss = 20 * F.binary_cross_entropy_with_logits(calls(features), targets, reduction="sum")
        for name, parameter in calls.named_parameters():
            if not name.endswith("bias"):
                scale = priors.target_scale if name.startswith("net") else priors.intervention_scale
                loss = loss + 0.5 / scale**2 * parameter.square().sum()
        loss.backward()
        optimiser.step()
        schedule.step()
    calls.requires_grad_(False)


@torch.no_grad()
def condition_moments(gim: GIM, data: TrainingData) -> Tensor:
    """(conditions, genes, k) effect parameters that reproduce each condition's own marginals."""
    mechanisms, train = gim.mechanisms, ~data.valid
    x, owner = data.x[train], data.condition[train]
    zeros = x.new_zeros(data.n_conditions, data.n_genes)
    if mechanisms.is_ziln:
        weight = (x > 0).to(x)
        value = torch.where(x > 0, x, torch.ones_like(x)).log()
    else:
        weight, value = torch.ones_like(x), x
    count = zeros.index_add(0, owner, weight)
    value = weight * (value - mechanisms.response_center) / mechanisms.response_scale
    square = zeros.index_add(0, owner, value.square())
    mean, log_scale = marginals(count, zeros.index_add(0, owner, value), square, mechanisms.trust)
    shift = gim.intervention == "shift"
    if shift:
        control = data.membership.sum(1) == 0
        parameters = [mean - mean[control].mean(0)]
    else:
        parameters = [mean, log_scale]
    if mechanisms.is_ziln:
        total = zeros.index_add(0, owner, torch.ones_like(x))
        # One cell of the prior has the gene's own rate: where nothing is seen, nothing has changed.
        rate = (total - count + gim.zero_probability()) / (total + 1.0)
        parameters.append(torch.logit(rate.clamp(1e-6, 1 - 1e-6)) - mechanisms.zero_logit)
    return torch.stack(parameters, dim=-1)
