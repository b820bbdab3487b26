"""Settings of a fit. A value marked `own` is this project's choice, the others are the paper's."""

from __future__ import annotations

import math
import numbers
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from scgim.model import INTERVENTIONS, KINDS, OBJECTIVES

_AT_LEAST_ONE = (
    "batch_size", "max_steps", "check_every", "n_graphs", "mechanism_hidden", "patience", "max_wait", "n_features",
    "n_candidates", "search_cells",
)  # fmt: skip
_POSITIVE = (
    "learning_rate", "gumbel_scale", "inverse_temperature", "mechanism_scale", "intervention_scale", "target_scale",
    "penalty_growth", "settle_fraction",
)  # fmt: skip

_AUTO = ("inverse_temperature", "intervention_scale", "target_scale")


def _check_number(name: str, value: Any, *, least: float, whole: bool = False, above: bool = False) -> None:
    """Refuse what is no finite (whole) number of at least `least` (or above it)."""
    kind = numbers.Integral if whole else numbers.Real
    if not isinstance(value, kind) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a {'whole' if whole else 'finite'} number; got {value!r}.")
    if value < least or (above and value == least):
        bound = f"above {least}" if above else f"at least {least}"
        raise ValueError(f"{name} must be {bound}; got {value!r}.")


@dataclass(frozen=True)
class FitConfig:
    """Everything that decides a fit, apart from the data and the seed.

    Parameters
    ----------
    mechanism
        ``linear``, ``mlp`` or ``ziln``.
    intervention
        ``hard`` or ``shift``.
    mechanism_hidden
        Hidden units per gene (`own`: 10).
    network_hidden
        Widths of the intervention networks: two layers of 100.
    linear_skip
        A linear map beside the intervention networks (`own`).
    amortised
        True: networks map features to interventions (GIM). False: free target logits and effects per part
        (BaCaDI*), which say nothing of unseen parts (`own` as a setting). `network_hidden` and `linear_skip` then idle.
    init
        ``search`` (`own`): greedy structure search, then the networks learn its targets; ``random``: the paper's.
    n_features
        Random features of the search's regressions at most (`own`).
    max_parents
        Parents of a gene at most, in the search (`own`).
    n_candidates
        Genes that the search tries as parents of a gene, those most correlated with it (`own`).
    n_shakes
        How often the search shakes genes loose and climbs again (`own`); ``"auto"``: five times the genes for
        ``linear``, where it is cheap, else never.
    search_cells
        Most cells per perturbed condition that the search looks at; eight times as many controls (`own`). A weak target
        needs all of a condition's cells to be found; fewer make the search faster.
    graph_sparsity
        beta_G in nats per edge; ``"auto"`` (`own`): half of log(cells) per parameter that an edge adds, as in the BIC
        (one for a linear edge, one per hidden unit for an MLP's), plus 2 log(genes), as in the extended BIC.
    target_sparsity
        beta_I in nats per target and condition; ``"auto"`` (`own`): the same rule with the cells of a condition, plus
        the log odds of one target among all genes; never less than what control cells under a false name reach in any
        gene of one in a hundred conditions (Wilks' theorem).
    mechanism_scale
        Prior scale of the mechanisms' weights theta (`own`).
    intervention_scale
        Prior scale of the intervention networks' weights phi (`own`). ``"auto"``: 3 for ``ziln`` after a search, else
        1. A target's logit is read from few, small numbers (one-hot drug, a dose between 0.25 and 1): under a narrow
        prior every confident target costs more than the sparsity says. Chosen on development seeds by the KDE-NLL of
        held-out conditions.
    target_scale
        Prior scale of the target network's hidden weights (`own`). ``"auto"``: 0.3 for ``ziln`` after a search, else
        0.1; chosen like `intervention_scale`.
    effect_noise
        sigma_psi, spread of an effect around its network's output, in units of the gene's spread (`own`).
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
        Steps at most (`own`).
    check_every
        Steps between two looks at the held-out objective (`own`).
    patience
        Looks without improvement before the multipliers grow or the fit ends (`own`).
    max_wait
        Looks after which the multipliers grow although the objective still improves: slow gains of the mechanisms would
        otherwise keep the penalty at its start (`own`).
    learning_rate
        Adam (`own`).
    warmup_steps
        After a search: steps in which only mechanisms and effects learn (`own`).
    settle_fraction
        After a search: the last share of the steps, over which the learning rate falls (`own`).
    effect_pull
        After a search and the fit, the effect networks are refitted with untargeted genes pulled towards the control's
        marginal with this precision, in units of each gene's spread (`own`); ``"auto"``: 20 for Gaussian mechanisms,
        where it halves what is left of the error on new targets' effects, and 0 for ``ziln``, where drugs
        move many genes a little and the pull would undo that; see :func:`scgim.inference.refit_effects`.
    effect_spread
        After a search and the fit, the effect networks are refitted to the marginals of every condition, of genes that
        are no target in it as well, which show how an effect grows with the dose (`own`). The spread of effects around
        the network, in units of each gene's spread: larger follows the conditions less. For hard interventions; takes
        the place of `effect_pull` where it is above 0. ``"auto"``: 0.5 for ``ziln`` where the features grow with the
        effect (``features="potency"``), chosen on development tasks by the KDE-NLL of held-out doses; else 0, no such
        refit: a one-hot dose would be followed more closely, and what it copies from one drug to the others with it.
    sparsity_steps
        Steps over which beta_I rises along a half cosine.
    penalty
        Augmented Lagrangian: the first penalty (`own`: 1e-2).
    penalty_growth
        Augmented Lagrangian: eta, the factor by which the penalty grows (2, as DCDI).
    sufficient_progress
        Augmented Lagrangian: delta; the penalty grows where h has not fallen below this share of its last value (0.9,
        as DCDI).
    acyclicity_tolerance
        h below this counts as acyclic (`own`).
    """

    mechanism: Literal["linear", "mlp", "ziln"] = "ziln"
    intervention: Literal["hard", "shift"] = "hard"
    mechanism_hidden: int = 10
    network_hidden: tuple[int, ...] = (100, 100)
    linear_skip: bool = True
    amortised: bool = True
    init: Literal["search", "random"] = "search"
    n_features: int = 200
    max_parents: int = 10
    n_candidates: int = 20
    n_shakes: int | Literal["auto"] = "auto"
    search_cells: int = 1000
    graph_sparsity: float | Literal["auto"] = "auto"
    target_sparsity: float | Literal["auto"] = "auto"
    mechanism_scale: float = 3.0
    intervention_scale: float | Literal["auto"] = "auto"
    target_scale: float | Literal["auto"] = "auto"
    effect_noise: float = 0.02
    objective: Literal["elbo", "log_mean_exp"] = "elbo"
    sample_targets: bool = False
    gumbel_scale: float = 1.0
    inverse_temperature: float | Literal["auto"] = "auto"
    n_graphs: int = 16
    batch_size: int = 1024
    max_steps: int = 2000
    check_every: int = 100
    patience: int = 3
    max_wait: int = 4
    learning_rate: float = 5e-3
    warmup_steps: int = 300
    settle_fraction: float = 0.5
    effect_pull: float | Literal["auto"] = "auto"
    effect_spread: float | Literal["auto"] = "auto"
    sparsity_steps: int = 500
    penalty: float = 1e-2
    penalty_growth: float = 2.0
    sufficient_progress: float = 0.9
    acyclicity_tolerance: float = 1e-2

    def __post_init__(self) -> None:
        for name, allowed in (
            ("mechanism", KINDS),
            ("intervention", INTERVENTIONS),
            ("objective", OBJECTIVES),
            ("init", ("search", "random")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")
        for name in ("linear_skip", "amortised", "sample_targets"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; got {getattr(self, name)!r}.")
        for name in ("graph_sparsity", "target_sparsity"):
            value = getattr(self, name)
            if isinstance(value, str):
                if value != "auto":
                    raise ValueError(f"{name} must be a number or 'auto'; got {value!r}.")
            else:
                _check_number(name, value, least=0)
        for name in _AT_LEAST_ONE:
            _check_number(name, getattr(self, name), least=1, whole=True)
        for name in ("max_parents", "warmup_steps", "sparsity_steps"):
            _check_number(name, getattr(self, name), least=0, whole=True)
        for name in _POSITIVE:
            if name not in _AUTO or getattr(self, name) != "auto":
                _check_number(name, getattr(self, name), least=0, above=True)
        for name in ("effect_noise", "penalty", "sufficient_progress", "acyclicity_tolerance"):
            _check_number(name, getattr(self, name), least=0)
        if not isinstance(self.network_hidden, tuple):
            raise ValueError(f"network_hidden must be widths, such as [100, 100]; got {self.network_hidden!r}.")
        for width in self.network_hidden:
            _check_number("network_hidden", width, least=1, whole=True)
        for name in ("effect_pull", "effect_spread"):
            if getattr(self, name) != "auto":
                _check_number(name, getattr(self, name), least=0)
        if self.effect_spread not in ("auto", 0) and self.intervention == "shift":
            raise ValueError(
                "effect_spread needs intervention='hard': a condition's own marginals hold what its genes' parents do, "
                "which a shift must not repeat. Leave it out."
            )
        if self.n_shakes != "auto":
            _check_number("n_shakes", self.n_shakes, least=0, whole=True)

    def asdict(self) -> dict[str, Any]:
        """The settings as a plain dict."""
        return asdict(self)


#: `paper`: random start, log-mean-exp over samples of graph and targets that all cells share, as far as the values
#: of the paper are known.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "init": "random",
        "objective": "log_mean_exp",
        "sample_targets": True,
        "linear_skip": False,
        "n_graphs": 8,
        "mechanism_scale": 1.0,
        "max_steps": 6000,
    },
}


def make_config(preset: str = "default", **changes: Any) -> FitConfig:
    """A configuration from a preset and changes to it.

    Examples
    --------
    >>> from scgim.inference import make_config
    >>> make_config("paper", mechanism="linear").objective
    'log_mean_exp'
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}.")
    settings = {**PRESETS[preset], **changes}
    unknown = sorted(set(settings) - set(FitConfig.__dataclass_fields__))
    if unknown:
        known = ", ".join(FitConfig.__dataclass_fields__)
        raise TypeError(f"fit_gim has no setting {', '.join(map(repr, unknown))}. Settings: {known}.")
    if isinstance(settings.get("network_hidden"), list):
        settings["network_hidden"] = tuple(settings["network_hidden"])
    return replace(FitConfig(), **settings)
