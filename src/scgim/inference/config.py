"""Settings of a fit, in groups. A value marked `own` is this project's choice, the others are the paper's."""

from __future__ import annotations

import math
import numbers
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal

from scgim._errors import InvalidType, InvalidValue
from scgim.model import INTERVENTIONS, KINDS, LATENT, OBJECTIVES


def _whole(default: Any, least: int = 1, *, auto: bool = False) -> Any:
    return field(default=default, metadata={"kind": numbers.Integral, "least": least, "above": False, "auto": auto})


def _number(default: Any, least: float = 0, *, above: bool = False, auto: bool = False) -> Any:
    return field(default=default, metadata={"kind": numbers.Real, "least": least, "above": above, "auto": auto})


def _choice(default: str, allowed: tuple[str, ...]) -> Any:
    return field(default=default, metadata={"allowed": allowed})


def _check(about: Field, value: Any) -> None:
    """Refuse what a field does not take."""
    name, meta = about.name, about.metadata
    if "allowed" in meta and value not in meta["allowed"]:
        raise InvalidValue(f"{name} must be one of {', '.join(meta['allowed'])}; got {value!r}.")
    if isinstance(about.default, bool) and not isinstance(value, bool):
        raise InvalidValue(f"{name} must be True or False; got {value!r}.")
    if "kind" not in meta or (meta["auto"] and value == "auto"):
        return
    if meta["auto"] and isinstance(value, str):
        raise InvalidValue(f"{name} must be a number or 'auto'; got {value!r}.")
    if not isinstance(value, meta["kind"]) or isinstance(value, bool) or not math.isfinite(value):
        kind = "whole" if meta["kind"] is numbers.Integral else "finite"
        raise InvalidValue(f"{name} must be a {kind} number; got {value!r}.")
    if value < meta["least"] or (meta["above"] and value == meta["least"]):
        raise InvalidValue(f"{name} must be {'above' if meta['above'] else 'at least'} {meta['least']}; got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is fitted.

    Parameters
    ----------
    mechanism
        ``linear``, ``mlp``, ``ziln``, or ``count`` and ``count_linear`` (`own`): an MLP or a linear mechanism of the
        latent expression behind raw counts.
    counting
        For ``count``: ``poisson``, or ``negative_binomial`` with a dispersion that all genes share (`own`).
    intervention
        ``hard`` or ``shift``.
    mechanism_hidden
        Hidden units per gene (`own`: 10).
    network_hidden
        Widths of the intervention networks: two layers of 100.
    linear_skip
        A linear map in parallel to the intervention networks (`own`).
    amortised
        True: networks map features to interventions (GIM). False: free target logits and effects per part
        (BaCaDI*), which say nothing about unseen parts (`own` as a setting); `network_hidden` and `linear_skip` are
        then unused.
    """

    mechanism: Literal["linear", "mlp", "ziln", "count", "count_linear"] = _choice("ziln", (*KINDS, *LATENT))
    counting: Literal["poisson", "negative_binomial"] = _choice("poisson", ("poisson", "negative_binomial"))
    intervention: Literal["hard", "shift"] = _choice("hard", INTERVENTIONS)
    mechanism_hidden: int = _whole(10)
    network_hidden: tuple[int, ...] = (100, 100)
    linear_skip: bool = True
    amortised: bool = True


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Where the fit starts (`own`).

    Parameters
    ----------
    init
        ``search``: greedy structure search, then the networks learn its targets; ``random``: the paper's.
    n_features
        At most so many random features in the regressions of the search.
    max_parents
        Maximum number of parents of a gene.
    n_candidates
        Genes that are tried as parents of a gene: those most correlated with it.
    n_shakes
        How often the search removes the edges of a few random genes and climbs again; ``"auto"``: five times the genes
        for ``linear``, where it is cheap, else never.
    search_cells
        Maximum number of cells per perturbed condition that the search uses; eight times as many controls. A weak
        target needs all of a condition's cells to be found; fewer make the search faster.
    """

    init: Literal["search", "random"] = _choice("search", ("search", "random"))
    n_features: int = _whole(200)
    max_parents: int = _whole(10, 0)
    n_candidates: int = _whole(20)
    n_shakes: int | Literal["auto"] = _whole("auto", 0, auto=True)
    search_cells: int = _whole(1000)


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """What is believed before the data (`own` values; the paper's are not known).

    Parameters
    ----------
    graph_sparsity
        beta_G in nats per edge; ``"auto"``: half of log(cells) per parameter that an edge adds, as in the BIC
        (one for a linear edge, one per hidden unit for an MLP's), plus 2 log(genes), as in the extended BIC.
    target_sparsity
        beta_I in nats per target and condition; ``"auto"``: the same rule with the cells of a condition, plus
        the log odds of one target among all genes; never less than what control cells under a false name reach in any
        gene of one in a hundred conditions (Wilks' theorem).
    mechanism_scale
        Prior scale of the mechanisms' weights theta.
    intervention_scale
        Prior scale of the intervention networks' weights phi. ``"auto"``: 3 for ``ziln`` after a search, else
        1. A target's logit is read from few, small numbers (one-hot drug, a dose between 0.25 and 1): under a narrow
        prior every confident target costs more than the sparsity says. Chosen on development seeds by the KDE-NLL of
        held-out conditions.
    target_scale
        Prior scale of the target network's hidden weights. ``"auto"``: 0.3 for ``ziln`` after a search, else
        0.1; chosen like `intervention_scale`.
    effect_noise
        sigma_psi, spread of an effect around its network's output, in units of the gene's spread.
    """

    graph_sparsity: float | Literal["auto"] = _number("auto", auto=True)
    target_sparsity: float | Literal["auto"] = _number("auto", auto=True)
    mechanism_scale: float = _number(3.0, above=True)
    intervention_scale: float | Literal["auto"] = _number("auto", above=True, auto=True)
    target_scale: float | Literal["auto"] = _number("auto", above=True, auto=True)
    effect_noise: float = _number(0.02)


@dataclass(frozen=True, kw_only=True)
class OptimisationSettings:
    """How the posterior is climbed.

    Parameters
    ----------
    objective
        ``elbo`` (`own` default) or ``log_mean_exp`` (the paper's).
    sample_targets
        Draw targets by Gumbel-sigmoid, as the paper does; False (`own`): sum over them exactly.
    gumbel_scale
        tau, the scale of the relaxation of edges and of sampled targets (`own`: 1).
    inverse_temperature
        alpha; ``"auto"`` (`own`): the number of genes after a search, so that the prior on Z does not outweigh the
        data, and 1 from the paper's random start.
    n_graphs
        Graph samples per step (`own`: 16; with ``log_mean_exp``, the M inside the log).
    batch_size
        Cells per step, balanced over conditions (`own`).
    max_steps
        Maximum number of steps (`own`); ``"auto"``: 2000, and 500 for ``count``, where the search has done most.
    check_every
        Steps between two evaluations of the held-out objective (`own`).
    learning_rate
        Adam (`own`).
    z_scale
        From a random start: standard deviation of Z (1, as in the paper; `own` as a setting).
    warmup_steps
        After a search: steps in which only mechanisms and effects learn (`own`).
    settle_fraction
        After a search: the last share of the steps, over which the learning rate falls (`own`).
    sparsity_steps
        From a random start: steps over which beta_I rises along a half cosine.
    effect_pull
        After a search and the fit, the effect networks are refitted with untargeted genes pulled towards the control's
        marginal with this precision, in units of each gene's spread (`own`); ``"auto"``: 20 for Gaussian mechanisms,
        where it halves what is left of the error on new targets' effects, and 0 for ``ziln``, where drugs
        move many genes a little and the pull would undo that; see :func:`scgim.inference.refit_effects`.
    effect_spread
        After a search and the fit, the effect networks are refitted to the marginals of every condition, of genes that
        are no target in it as well, which show how an effect grows with the dose (`own`). The spread of effects around
        the network, in units of each gene's spread: larger follows the conditions less. For hard interventions; takes
        the place of `effect_pull` where it is above 0. ``"auto"``: 0.5 for ``ziln`` and ``count`` where the features
        grow with the effect (``features="potency"``), chosen on development tasks by the KDE-NLL of held-out doses with
        ``ziln``; else 0, no such refit: a one-hot dose would be followed more closely, and what it copies from one drug
        to the others with it.
    """

    objective: Literal["elbo", "log_mean_exp"] = _choice("elbo", OBJECTIVES)
    sample_targets: bool = False
    gumbel_scale: float = _number(1.0, above=True)
    inverse_temperature: float | Literal["auto"] = _number("auto", above=True, auto=True)
    n_graphs: int = _whole(16)
    batch_size: int = _whole(1024)
    max_steps: int | Literal["auto"] = _whole("auto", auto=True)
    check_every: int = _whole(100)
    learning_rate: float = _number(5e-3, above=True)
    z_scale: float = _number(1.0, above=True)
    warmup_steps: int = _whole(300, 0)
    settle_fraction: float = _number(0.5, above=True)
    sparsity_steps: int = _whole(500, 0)
    effect_pull: float | Literal["auto"] = _number("auto", auto=True)
    effect_spread: float | Literal["auto"] = _number("auto", auto=True)


@dataclass(frozen=True, kw_only=True)
class AcyclicitySettings:
    """From a random start: the augmented Lagrangian that makes the graph acyclic, and when the fit has converged.

    Parameters
    ----------
    penalty
        The first penalty (`own`: 1e-2).
    penalty_growth
        eta, the factor by which the penalty grows (2, as DCDI).
    sufficient_progress
        delta; the penalty grows where h has not fallen below this share of its last value (0.9, as DCDI).
    acyclicity_tolerance
        h below this counts as acyclic (`own`).
    patience
        Evaluations without improvement before the multipliers grow or the fit ends (`own`).
    max_wait
        Evaluations after which the multipliers grow although the objective still improves: slow gains of the mechanisms
        would otherwise keep the penalty at its start (`own`).
    n_rounds
        How often the graph is made acyclic at the most (`own`). Every round but the first starts with uncertain edges
        and no constraint, but with the mechanisms and interventions of the last, which tell directions better. The
        estimate is the best acyclic state of all rounds.
    hold_steps
        First steps of every round in which edges stay as uncertain as they begin, while all else learns (`own`): the
        direction whose mechanism has learned first would win. It helps with few conditions; on development systems it
        helped linear mechanisms and harmed MLPs, so it is 0 in ``preset="paper"``.
    """

    penalty: float = _number(1e-2)
    penalty_growth: float = _number(2.0, above=True)
    sufficient_progress: float = _number(0.9)
    acyclicity_tolerance: float = _number(1e-2)
    patience: int = _whole(3)
    max_wait: int = _whole(4)
    n_rounds: int = _whole(1)
    hold_steps: int = _whole(0, 0)


@dataclass(frozen=True, kw_only=True)
class FitConfig(AcyclicitySettings, OptimisationSettings, PriorSettings, SearchSettings, ModelSettings):
    """Everything that decides a fit, apart from the data and the seed.

    The settings of five groups under one roof, each documented in its group: `ModelSettings` (what is fitted),
    `SearchSettings` (where the fit starts), `PriorSettings`, `OptimisationSettings` and `AcyclicitySettings`. Most
    users change none, or `max_steps`.

    Raises
    ------
    ValueError
        If a value is of the wrong kind or out of range; names the setting.

    Examples
    --------
    >>> from scgim.inference import FitConfig
    >>> FitConfig(mechanism="mlp", max_steps=500).init
    'search'
    """

    def __post_init__(self) -> None:
        for about in fields(self):
            _check(about, getattr(self, about.name))
        if not isinstance(self.network_hidden, tuple):
            raise InvalidValue(f"network_hidden must be widths, such as [100, 100]; got {self.network_hidden!r}.")
        for width in self.network_hidden:
            if not isinstance(width, numbers.Integral) or isinstance(width, bool) or width < 1:
                raise InvalidValue(f"network_hidden must be whole numbers of at least 1; got {width!r}.")
        if self.latent and (self.init != "search" or self.objective != "elbo" or self.sample_targets):
            raise InvalidValue(
                f"mechanism={self.mechanism!r} starts from a search and holds the structure that it finds: leave init, "
                "objective, sample_targets and preset='paper' out, or use mechanism='ziln'."
            )
        if self.effect_spread not in ("auto", 0) and self.intervention == "shift":
            raise InvalidValue(
                "effect_spread needs intervention='hard': a condition's own marginals hold what its genes' parents do, "
                "which a shift must not repeat. Leave it out."
            )

    @property
    def latent(self) -> bool:
        """Whether expression is latent, behind counts."""
        return self.mechanism in LATENT

    def asdict(self) -> dict[str, Any]:
        """The settings as a plain dict."""
        return asdict(self)


#: `paper`: random start and augmented Lagrangian, with the mean of logs for the expectation over graphs. Numbers were
#: chosen on development systems.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "init": "random",
        "linear_skip": False,
        "mechanism_scale": 1.0,
        "graph_sparsity": 35.0,
        "target_sparsity": 15.0,
        "sparsity_steps": 0,
        "inverse_temperature": 2.0,
        "z_scale": 0.2,
        "penalty": 0.1,
        "penalty_growth": 1.3,
        "acyclicity_tolerance": 0.06,
        "patience": 1,
        "max_wait": 1,
        "n_rounds": 100,
        "max_steps": 6000,
    },
}


def make_config(preset: str | FitConfig = "default", **changes: Any) -> FitConfig:
    """A configuration from a preset, or another configuration, and changes to it.

    Examples
    --------
    >>> from scgim.inference import make_config
    >>> make_config("paper", mechanism="linear").init
    'random'
    """
    if not isinstance(preset, FitConfig):
        if preset not in PRESETS:
            raise InvalidValue(f"preset must be one of {', '.join(PRESETS)}, or a FitConfig; got {preset!r}.")
        changes, preset = {**PRESETS[preset], **changes}, FitConfig()
    unknown = sorted(set(changes) - set(FitConfig.__dataclass_fields__))
    if unknown:
        known = ", ".join(FitConfig.__dataclass_fields__)
        raise InvalidType(f"fit_gim has no setting {', '.join(map(repr, unknown))}. Settings: {known}.")
    if isinstance(changes.get("network_hidden"), list):
        changes["network_hidden"] = tuple(changes["network_hidden"])
    return replace(preset, **changes)
