"""`tl.suggest_perturbations`: what to measure next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgim._errors import InvalidValue
from scgim._logging import logger
from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed, torch_generator
from scgim._validation import check_int, listing

from ._stored import Named, StoredModel, load

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

#: Cells that every member predicts of a candidate, and the least spread of a gene in them, of that in the controls.
_CELLS, _LEAST = 300, 0.05
#: Genes that the sentence names.
_NAMED = 3


@undisturbed()
def suggest_perturbations(
    adata: AnnData,
    candidates: Any,
    *,
    n: int = 5,
    n_cells: int = 50,
    cost: ArrayLike | None = None,
    user_features: Any = None,
    rng: RngLike = 0,
    key: str = "gim",
    group: str | None = None,
) -> pd.DataFrame:
    """Which perturbations would tell most about the model, from what its members disagree on (`own`).

    Every member of the fit predicts every candidate. The means of genes on which members differ by more than so many
    cells leave uncertain would tell which members are right: the score is the information, in nats, that a linear
    combination of the members would gain from `n_cells` cells, genes being measured with the spread that the members
    predict. Candidates are chosen one after the other; what those before would tell already is not counted again.

    Parameters
    ----------
    adata
        Fitted with `scgim.tl.fit_gim` with ``n_members`` of at least 3. Nothing is written.
    candidates
        Perturbations that are not measured yet, written as in `sample_cells`.
    n
        How many to choose.
    n_cells
        Cells that each of them would get.
    cost
        Of each candidate, relative to the others: information per cost is what counts. None: all cost the same.
    user_features, rng, key, group
        As in `sample_cells`.

    Returns
    -------
    pandas.DataFrame
        The `n` best, in the order in which they are chosen: condition, score (nats that it adds to those above it,
        divided by its cost), alone (nats of itself), and reason (a sentence that names the genes that members
        disagree on).

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If the fit has fewer than 3 members, no candidate is left that was not measured, features are missing, or a cost
        is not above 0.

    Examples
    --------
    >>> scgim.tl.suggest_perturbations(adata, [("Dacinostat", 30.0), ("Belinostat", 3_000.0)])  # doctest: +SKIP
    """
    n, n_cells = check_int(n, "n", least=1), check_int(n_cells, "n_cells", least=1)
    model = load(adata, key, group)
    if len(model.members) < 3:
        raise InvalidValue(
            f"The fit has {len(model.members)} member(s), and suggestions come from what members disagree on. Run "
            "scgim.tl.fit_gim(adata, n_members=5) first, or more."
        )
    conditions = model.conditions(candidates)
    costs = _costs(cost, len(conditions))
    measured = set(model.entry.conditions.query("n_cells > 0 and split != 'test'")["condition"])
    new = [row for row, (label, _) in enumerate(conditions) if label not in measured]
    if len(new) < len(conditions):
        known = listing(label for label, _ in conditions if label in measured)
        if not new:
            raise InvalidValue(f"All candidates are measured already: {known}. Name others.")
        logger.warning("candidates that are measured already are left out: %s", known)
    chosen = [conditions[row] for row in new]
    means, spread = _predicted(model, chosen, user_features, draw_seed(as_generator(rng)))
    around = (means - means.mean(axis=0)) / spread * np.sqrt(n_cells)  # (members, candidates, genes)
    rows, gains = choose(around.swapaxes(0, 1), costs[new], n)
    alone = [information(around[:, row][None]) for row in rows]
    reasons = [_reason(around[:, row], means[:, row], model.entry.genes) for row in rows]
    labels = [chosen[row][0] for row in rows]
    return pd.DataFrame({"condition": labels, "score": gains, "alone": alone, "reason": reasons})


def information(disagreement: np.ndarray) -> float:
    """Nats about weights of members, ~ N(0, 1 / (members - 1)), from candidates (candidates, members, genes)."""
    members = disagreement.shape[1]
    gram = sum((one @ one.T for one in disagreement), np.zeros((members, members)))
    return 0.5 * float(np.linalg.slogdet(np.eye(members) + gram / (members - 1))[1])


def choose(disagreement: np.ndarray, cost: np.ndarray, n: int) -> tuple[list[int], list[float]]:
    """Greedily the rows that add most information per cost, and how much; (candidates, members, genes)."""
    rows: list[int] = []
    gains: list[float] = []
    for _ in range(min(n, len(disagreement))):
        before = information(disagreement[rows])
        gain = [
            -np.inf if row in rows else (information(disagreement[[*rows, row]]) - before) / cost[row]
            for row in range(len(disagreement))
        ]
        rows.append(int(np.argmax(gain)))
        gains.append(float(max(gain)))
    return rows, gains


def _costs(cost: ArrayLike | None, n: int) -> np.ndarray:
    costs = np.ones(n) if cost is None else np.asarray(cost, dtype=float)
    if costs.shape != (n,) or not (np.isfinite(costs) & (costs > 0)).all():
        raise InvalidValue(f"cost must be {n} finite numbers above 0, one for each candidate; got {cost!r}.")
    return costs


def _predicted(
    model: StoredModel, conditions: Sequence[Named], user_features: Any, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Means (members, candidates, genes) and spreads (candidates, genes); every member draws the same noise."""
    means, spreads = [], []
    for one in model.members:
        found = one.interventions([parts for _, parts in conditions], user_features)
        generator = torch_generator(seed)
        cells = [one.fitted.sample(found, row, _CELLS, generator) for row in range(len(conditions))]
        means.append([own.mean(axis=0, dtype=np.float64) for own in cells])
        spreads.append([own.std(axis=0, dtype=np.float64) for own in cells])
    spread = np.sqrt(np.square(spreads).mean(axis=0))
    usual = np.median(spread, axis=0)
    return np.array(means), np.maximum(spread, np.maximum(_LEAST * usual, 1e-6))


def _reason(around: np.ndarray, means: np.ndarray, genes: Sequence[str]) -> str:
    """What members disagree on most; both (members, genes)."""
    size = np.sqrt(np.square(around).mean(axis=0))
    named = [
        f"{genes[j]} ({means[:, j].min():.2f} to {means[:, j].max():.2f})"
        for j in np.argsort(-size, kind="stable")[:_NAMED]
        if size[j] > 1
    ]
    if not named:
        return "Members agree on every gene to within what so many cells would leave uncertain."
    return f"Members disagree most on the mean of {', '.join(named)}."
