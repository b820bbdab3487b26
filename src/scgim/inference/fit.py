"""Maximum a posteriori estimation of (Z, theta, phi): the training loop."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor
from tqdm.auto import tqdm

from scgim._logging import Spoken
from scgim._process import SMALL, one_thread, undisturbed
from scgim._rng import RngLike, as_generator, draw_seed, torch_seeded
from scgim._validation import plural
from scgim.model import GIM, Batch, CountGIM, break_cycles, is_acyclic, spectral_radius
from scgim.model.posterior import rows_at_a_time

from .beliefs import informed
from .checkpoint import load_checkpoint, restore, save_checkpoint
from .config import FitConfig
from .counts import CountStart, find_latent_structure
from .data import BalancedSampler, TrainingData
from .depth import describe_sizes
from .refit import refit_effects
from .schedule import AugmentedLagrangian, graphs_per_step, held, make_optimiser, ramp, set_learning_rates, start_round
from .search import SearchResult
from .start import build, find_structure, resolve_sparsity, start_from_search

logger = logging.getLogger("scgim")

#: Entries of the history, one value per check.
HISTORY = (
    "step",
    "loss",
    "valid_loss",
    "acyclicity",
    "penalty",
    "multiplier",
    "edges",
    "targets_per_condition",
)


@dataclass
class FitResult:
    """A fitted model and how it came about.

    gim: the model; graph (genes, genes): bool DAG; n_dropped: edges above the threshold dropped to break cycles;
    history: name -> list; config: with ``"auto"`` resolved; seconds; n_steps; stopped: why the fit ended, one of
    ``"max_steps"`` (all steps were run; after a search always), ``"converged"``, ``"interrupted"``.
    """

    gim: GIM
    graph: np.ndarray
    n_dropped: int
    history: dict[str, list[float]]
    config: FitConfig
    seconds: float
    n_steps: int
    stopped: str


@dataclass
class _Progress:
    """What changes during a fit besides the weights; a checkpoint holds it."""

    step: int = 0
    best: float = math.inf
    best_state: dict[str, Tensor] | None = None
    reference: float = math.inf
    stale: int = 0
    waited: int = 0
    done: bool = False
    round: int = 0
    round_start: int = 0
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in HISTORY})


@undisturbed()
def fit(
    data: TrainingData,
    config: FitConfig,
    *,
    rng: RngLike = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> FitResult:
    """Fit a GIM to training cells.

    Parameters
    ----------
    data
        Cells, conditions and features, on the device on which to fit.
    config
        Settings.
    rng
        Seed or generator. torch's and Pyro's global states are restored afterwards.
    progress
        Show a tqdm bar.
    checkpoint
        File to save to at every check and to resume from if it exists; the resumed fit gives what the
        uninterrupted one would have given.

    Raises
    ------
    FloatingPointError
        If the loss or a gradient stops being finite; names the step and the parameter.
    """
    seed = draw_seed(as_generator(rng))
    few = data.n_genes <= SMALL
    with torch_seeded(seed, data.x.device), pyro.validation_enabled(False), one_thread(few):
        return _fit(data.sorted_by_cell(), config, seed, progress, checkpoint)


def _fit(data: TrainingData, config: FitConfig, seed: int, progress: bool, checkpoint: str | Path | None) -> FitResult:
    start_time = time.perf_counter()
    rng = np.random.default_rng(seed)
    config = resolve_sparsity(config, data)
    original, data = data, informed(data, config)
    gim = build(config, data, rng)
    resumed = load_checkpoint(checkpoint, config, seed, data)
    if config.init == "search" and resumed is None:
        data = _start(gim, data, config, rng, progress)
    elif resumed is not None and isinstance(gim, CountGIM):
        gim.mode, gim.variance, drawn, log_size = (value.to(data.x) for value in resumed["latent"])
        data = replace(data, x=drawn, log_size=log_size)
    if isinstance(gim, CountGIM):
        gim.hold_structure()
    logger.info("fit: %s", plural(int(config.max_steps), "step"))
    run = _Run(gim, data, config)
    if resumed is not None:
        restore(resumed, gim, run.optimiser, run.lagrangian, run.progress)
        logger.info("resumed from %s at step %d", checkpoint, run.progress.step)

    def save() -> None:
        if checkpoint is not None:
            latent = (gim.mode, gim.variance, data.x, data.log_size) if isinstance(gim, CountGIM) else None
            moving = gim, run.optimiser, run.lagrangian, run.progress, latent
            save_checkpoint(checkpoint, config, seed, original, *moving)

    stopped = run.to_the_end(progress, save)
    if isinstance(gim, CountGIM):
        data = replace(data, x=data.x.clone())
        gim.finish(_parts(data), data.x)
    refit_effects(gim, data, float(config.effect_pull), float(config.effect_spread))
    probability = gim.graph.probabilities().detach().cpu().numpy()
    if data.edge_odds is not None:
        probability[(data.edge_odds == torch.inf).cpu().numpy()] = 2.0  # certain edges are not dropped
    graph, n_dropped = break_cycles(probability)
    if n_dropped:
        logger.warning("the graph had cycles: its weakest edges on them were dropped (%d)", n_dropped)
    if isinstance(gim, CountGIM):
        gim.mode = gim.variance = None
    seconds, state = time.perf_counter() - start_time, run.progress
    return FitResult(gim, graph, n_dropped, state.history, config, seconds, state.step, stopped)


class _Run:
    """The optimisation under way: what a step and a look at the held-out cells need."""

    def __init__(self, gim: GIM, data: TrainingData, config: FitConfig) -> None:
        self.gim, self.data, self.config = gim, data, config
        self.n_graphs = graphs_per_step(config, data.n_genes)
        self.optimiser = make_optimiser(gim, config)
        self.lagrangian = AugmentedLagrangian(
            config.penalty, config.penalty_growth, config.sufficient_progress, config.acyclicity_tolerance
        )
        self.sampler = BalancedSampler(data, math.ceil(config.batch_size / self.n_graphs) * self.n_graphs)
        self.scale = 1.0 / self.sampler.n_cells
        self.progress = _Progress()
        self.ordered = False

    def to_the_end(self, bar: bool, save: Callable[[], None]) -> str:
        """Take steps until all are taken, the fit has converged or the user interrupts; which of these."""
        config, state = self.config, self.progress
        stopped, said, most = "max_steps", Spoken(), int(config.max_steps)
        self.ordered = is_acyclic(self.gim.graph.allowed.cpu().numpy())  # after a search: no constraint is needed
        with tqdm(total=most, disable=not bar, desc="fit_gim", unit="step", initial=state.step) as shown:
            try:
                while state.step < most and not state.done:
                    loss, h = self.step()
                    shown.update(1)
                    if state.step % config.check_every and state.step < most:
                        continue
                    state.done = self.check(float(loss), float(h))
                    last = {name: values[-1] for name, values in state.history.items()}
                    edges = plural(int(last["edges"]), "edge")
                    text = f"loss {last['loss']:.3f}, acyclicity {last['acyclicity']:.2g}, {edges}"
                    shown.set_postfix_str(text)
                    if not bar and said.due():
                        logger.info("fit: step %d of %d, %s", state.step, most, text)
                    save()
            except KeyboardInterrupt:
                stopped = "interrupted"
                logger.warning("interrupted at step %d: the best state so far is kept", state.step)
        stopped = "converged" if state.done else stopped
        # After a search the settled state is the estimate: an earlier one with a better held-out loss has not yet
        # let go of edges and targets that the priors do not pay for.
        if state.best_state is not None and (config.init == "random" or stopped == "interrupted"):
            self.gim.load_state_dict(state.best_state)
        return stopped

    def step(self) -> tuple[Tensor, Tensor]:
        """One step of Adam; loss per cell and acyclicity before it."""
        gim, config, state = self.gim, self.config, self.progress
        batch = self.sampler.draw()
        sparsity = float(config.target_sparsity) * ramp(config, state.step)
        set_learning_rates(self.optimiser, config, state.step, state.step - state.round_start)
        self.optimiser.zero_grad(set_to_none=True)
        loss = negative_bound(gim, batch, config, self.n_graphs, sparsity) * self.scale
        h = loss.new_zeros(()) if self.ordered else spectral_radius(gim.graph.probabilities())
        objective = loss + self.lagrangian.term(h)
        objective.backward()
        require_finite(gim, objective, state.step)
        self.optimiser.step()
        if isinstance(gim, CountGIM):
            gim.bound_noise()
        state.step += 1
        return loss.detach(), h.detach()

    def check(self, loss: float, h: float) -> bool:
        """Record the state, raise the multipliers where the held-out objective has converged; True when done."""
        data, config, state = self.data, self.config, self.progress
        if isinstance(self.gim, CountGIM):
            self.gim.refresh(_parts(data))
        held_out = held_out_loss(self.gim, data)
        with torch.no_grad():
            n_edges = int(self.gim.hard_graph().sum())
            prob, _, _ = self.gim.condition_interventions(data.batch(data.condition[:0], data.x[:0, 0]))
            treated = data.membership.sum(1) > 0
            n_targets = float((prob[treated] > 0.5).sum(1).float().mean()) if bool(treated.any()) else 0.0
        row = (state.step, loss, held_out, h, self.lagrangian.penalty, self.lagrangian.multiplier, n_edges, n_targets)
        for name, value in zip(HISTORY, row, strict=True):
            state.history[name].append(float(value))
        acyclic = h <= config.acyclicity_tolerance
        if acyclic and held_out < state.best:
            state.best, state.best_state = held_out, copy.deepcopy(self.gim.state_dict())
        if config.init == "search" or ramp(config, state.step) < 1 or held(config, state.step - state.round_start):
            return False  # after a search the number of steps is set: the learning rate settles over it
        improved = held_out < state.reference - 1e-3
        state.reference, state.stale = (held_out, 0) if improved else (state.reference, state.stale + 1)
        state.waited += 1
        converged = state.stale >= config.patience
        if not converged and (acyclic or state.waited < config.max_wait):
            return False
        state.stale = state.waited = 0
        if self.lagrangian.update(h) and not start_round(self.gim, self.lagrangian, config, state):
            return True
        state.reference = math.inf  # the objective has changed
        return False


def _start(gim: GIM, data: TrainingData, config: FitConfig, rng: np.random.Generator, progress: bool) -> TrainingData:
    """Start from a search; the data, behind counts with a draw of the latent expression."""
    found = _search(gim, config, data, rng, progress)
    if isinstance(gim, CountGIM) and isinstance(found, CountStart):
        gim.mode, gim.variance = found.mode.to(data.x), found.variance.to(data.x)
        data = replace(data, x=found.draw.to(data.x), log_size=found.log_size.to(data.x))
        describe_sizes(gim.counting, data)
        gim.mechanisms.standardise(data.x[~data.valid])
        gim.counting.lowest.copy_(gim.mode[~data.valid].min(0).values)
    start_from_search(gim, data, found)
    return data


def _parts(data: TrainingData, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Batch]]:
    """Cells (all, or some rows) in batches whose matrices fit into memory, each with its rows."""
    rows = torch.arange(len(data.x), device=data.x.device) if rows is None else rows
    for part in rows.split(rows_at_a_time(data.n_genes)):
        yield part, data.batch(part, torch.ones(len(part), device=data.x.device))


def _search(
    gim: GIM, config: FitConfig, data: TrainingData, rng: np.random.Generator, progress: bool
) -> SearchResult | CountStart:
    """The structure search, with a line now and then: with many cells it takes longer than the fit."""
    n_cells = plural(int((~data.valid).sum()), "cell")
    logger.info("structure search: %s, %s", plural(data.n_genes, "gene"), n_cells)
    said = Spoken()
    with tqdm(disable=not progress, desc="fit_gim: structure search", bar_format="{desc} {elapsed}{postfix}") as bar:

        def report(text: str) -> None:
            bar.set_postfix_str(text)
            if not progress and said.due():
                logger.info("structure search: %s", text)

        if isinstance(gim, CountGIM):
            found: SearchResult | CountStart = find_latent_structure(config, data, gim.counting, rng, report)
        else:
            found = find_structure(config, data, rng, report)
    edges = plural(int(found.graph.sum()), "edge")
    logger.info("structure search: found %s in %.0f s", edges, said.seconds())
    return found


def negative_bound(gim: GIM, batch: Batch, config: FitConfig, n_graphs: int, sparsity: float) -> Tensor:
    """Minus Pyro's ELBO; for ``log_mean_exp`` minus the log-mean-exp over `config.n_graphs` samples.

    The latter is Pyro's RenyiELBO at alpha = 0, which has no differentiable loss to add the acyclicity term to.
    """
    elbo = Trace_ELBO()
    n_samples = 1 if config.objective == "elbo" else config.n_graphs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pyro: model and guide share no plate
        losses = [
            elbo.differentiable_loss(gim.model, gim.guide, batch, n_graphs, config.objective, sparsity)
            for _ in range(n_samples)
        ]
    return math.log(n_samples) - torch.logsumexp(-torch.stack(losses), 0)


def require_finite(gim: GIM, objective: Tensor, step: int) -> None:
    """Stop with the name of the first parameter that is not finite."""
    if bool(torch.isfinite(objective)):
        return
    for name, parameter in gim.named_parameters():
        for what, value in (("value", parameter), ("gradient", parameter.grad)):
            if value is not None and not bool(torch.isfinite(value).all()):
                raise FloatingPointError(
                    f"The fit stopped being finite at step {step}: {what} of {name!r}. "
                    "Try a smaller learning_rate; look for extreme values in the data."
                )
    raise FloatingPointError(f"The loss stopped being finite at step {step}; the parameters still are.")


@torch.no_grad()
def held_out_loss(gim: GIM, data: TrainingData) -> float:
    """Negative log likelihood per held-out cell under the thresholded graph (per training cell if none is held out)."""
    held_out = data.valid if bool(data.valid.any()) else ~data.valid
    index = torch.nonzero(held_out).squeeze(1)
    if isinstance(gim, CountGIM):
        parts = [gim.evidence(batch).sum() for _, batch in _parts(data, index)]
        return -float(torch.stack(parts).sum()) / len(index)
    total = 0.0
    graph = gim.hard_graph().to(data.x).unsqueeze(0)
    for part in index.split(8192):
        batch = data.batch(part, torch.ones(len(part), device=data.x.device))
        total -= float(gim.cell_log_likelihood(batch, graph))
    return total / len(index)
