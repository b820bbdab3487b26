"""Which mechanism and which kind of intervention suit continuous values, by what explains cells better (`own`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from scgim._logging import logger
from scgim._process import one_thread

from .config import FitConfig
from .data import TrainingData, cap_cells
from .start import find_structure, resolve_sparsity

#: What a short search looks at: cells per condition, and of controls, where mechanisms are their own, more.
_CELLS, _CONTROLS = 15, 120
_SHORT: dict[str, Any] = {"n_shakes": 0, "n_candidates": 6, "max_parents": 3}
#: Control cells that tell a bend from a line: so many are looked at, and with fewer a line is the better guess.
_MOST, _LEAST = 800, 50
#: Nats per gene that curves may gain by chance (at most 0.1 in a few linear systems).
_CHANCE = 0.25


def open_choices(
    kind: str, given: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Which mechanisms and which interventions the data choose from; None: nothing is left to them."""
    mechanism, intervention = given.get("mechanism", "auto"), given.get("intervention", "auto")
    own_start = given.get("preset", "default") != "default" or settings.get("init", "search") != "search"
    if kind != "continuous" or own_start or mechanism not in ("auto", "linear", "mlp"):
        return None
    mechanisms = ("linear", "mlp") if mechanism == "auto" else (mechanism,)
    hard = given.get("known_interventions") or settings.get("effect_spread", "auto") not in ("auto", 0)
    interventions = (intervention,) if intervention != "auto" else ("hard",) if hard else ("hard", "shift")
    return (mechanisms, interventions) if len(mechanisms) + len(interventions) > 2 else None


def choose_family(
    data: TrainingData, config: FitConfig, mechanisms: Sequence[str], interventions: Sequence[str]
) -> tuple[FitConfig, dict[str, float]]:
    """The settings with the mechanism and the intervention that suit the training cells, and by how many nats.

    Mechanism: are genes of control cells predicted better from all other genes by a curve than by a line? In a linear
    Gaussian model they are not, whatever the graph, but for a little chance. Intervention: the penalised
    likelihood of a short structure search with each. The choice belongs to the data: neither the order of cells nor the
    seed of the fit has a part in it.

    Returns
    -------
    The settings, and ``{"mlp over linear": nats, "shift over hard": nats}`` of what was compared.
    """
    data, evidence = data.sorted_by_cell().to("cpu"), {}
    train = torch.nonzero(~data.valid).squeeze(1)
    control = (data.membership.sum(1) == 0).numpy()
    if len(mechanisms) > 1:
        nats = gain_of_curves(data.x[train][control[data.condition[train]]].double().numpy())
        evidence["mlp over linear"] = nats
        config = replace(config, mechanism="mlp" if nats > _CHANCE * data.n_genes else "linear")
    if len(interventions) > 1:
        most = np.where(control, _CONTROLS, _CELLS)
        some = data.of_cells(train[cap_cells(data.condition[train], most, np.random.default_rng(0))])
        scores = {}
        for intervention in interventions:
            family: Any = {"intervention": intervention, **_SHORT}
            asked = resolve_sparsity(replace(config, **family), some)
            with one_thread():
                scores[intervention] = find_structure(asked, some, np.random.default_rng(0), lambda text: None).score
        evidence["shift over hard"] = scores["shift"] - scores["hard"]
        best: Any = max(scores, key=lambda name: scores[name])
        config = replace(config, intervention=best)
    found = ", ".join(f"{name} by {nats:.0f} nats" for name, nats in evidence.items())
    logger.info("chosen: mechanism %r, intervention %r (%s)", config.mechanism, config.intervention, found)
    return config, evidence


def gain_of_curves(x: np.ndarray) -> float:
    """By how many nats a kernel regression of every gene on the others predicts better than a linear one.

    Gaussian log likelihoods of cells left out, five folds; x (cells, genes). The curve is that of what the line leaves.
    """
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(0)
    if len(x) > _MOST:
        x = x[np.sort(rng.choice(len(x), _MOST, replace=False))]
    varies = x.std(0) > 0
    n, p = len(x), int(varies.sum())
    if n < _LEAST or p < 2:
        return 0.0
    x = (x[:, varies] - x[:, varies].mean(0)) / x[:, varies].std(0)
    line, curve = np.zeros((n, p)), np.zeros((n, p))
    for train, test in KFold(5, shuffle=True, random_state=0).split(x):
        for gene in range(p):
            others = np.delete(x, gene, axis=1)
            ridge = Ridge(alpha=1.0).fit(others[train], x[train, gene])
            left = x[:, gene] - ridge.predict(others)
            bent = KernelRidge(alpha=2.0, kernel="rbf", gamma=0.5 / (p - 1)).fit(others[train], left[train])
            line[test, gene], curve[test, gene] = left[test], left[test] - bent.predict(others[test])
    return float(0.5 * n * np.log(np.square(line).mean(0) / np.square(curve).mean(0)).sum())
