"""The one protocol of all baselines: what they are given, what they give, and how they decline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import pandas as pd

from scgim._rng import RngLike, as_generator


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high` to choose a hyper-parameter from; `log`: on a log scale; `whole`: integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Choice:
    """Values to choose a hyper-parameter from."""

    values: tuple[object, ...]


class CannotPredict(ValueError):
    """A baseline has no prediction (or no graph, or no targets) to give; the message says why."""


@dataclass(frozen=True)
class Condition:
    """A condition to predict, seen in training or not.

    Parameters
    ----------
    label
        Its name, for messages.
    perturbation
        Name of the perturbation ("A+B" for a combination).
    dose
        Dose in the unit of the training data; NaN where there is none, or for a combination.
    features
        (p,) the features that the intervention network would see, summed over parts.
    parts
        Labels of its parts, e.g. ``("A_10", "B_5")``; empty for the control.
    """

    label: str
    perturbation: str
    dose: float
    features: np.ndarray  # (p,)
    parts: tuple[str, ...] = ()

    @property
    def is_control(self) -> bool:
        """Whether nothing is applied."""
        return not self.parts


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What every baseline is fitted on: cells, the condition of each, and the conditions' features.

    Parameters
    ----------
    x
        float32 (cells, genes), training cells only.
    codes
        int (cells,), row of `conditions` of each cell.
    conditions
        One row per condition with the columns condition, perturbation, dose and is_control. Conditions
        without cells (held out) may be listed; nothing is learned from them.
    features
        (conditions, p), summed over the parts of each condition; not used for the control.
    parts
        Labels of the parts of each condition. Default: none for the control, else the condition itself.
    graded
        The features grow with the size of the effect, as those of ``features="potency"`` in `scgim.pp.prepare` do.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, a column is missing, or there is no control cell.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgim.baselines import TrainingData
    >>> table = pd.DataFrame({"condition": ["control", "A_1"], "perturbation": ["control", "A"],
    ...                       "dose": [np.nan, 1.0], "is_control": [True, False]})
    >>> data = TrainingData(np.zeros((3, 2)), np.array([0, 0, 1]), table, np.eye(2))
    >>> data.control.tolist()
    [True, True, False]
    """

    x: np.ndarray  # (cells, genes)
    codes: np.ndarray  # (cells,)
    conditions: pd.DataFrame
    features: np.ndarray  # (conditions, p)
    parts: Sequence[tuple[str, ...]] | None = None
    graded: bool = False

    def __post_init__(self) -> None:
        _set(self, "x", np.ascontiguousarray(self.x, dtype=np.float32))
        _set(self, "codes", np.asarray(self.codes))
        _set(self, "features", np.asarray(self.features, dtype=np.float32))
        _set(self, "conditions", self.conditions.reset_index(drop=True))
        missing = {"condition", "perturbation", "dose", "is_control"} - set(self.conditions.columns)
        if missing:
            raise ValueError(f"`conditions` lacks the columns {sorted(missing)}.")
        n = len(self.conditions)
        if self.x.ndim != 2 or self.codes.shape != (len(self.x),) or self.codes.dtype.kind not in "iu":
            raise ValueError(
                f"`x` must be (cells, genes) and `codes` integers (cells,), got {self.x.shape} and "
                f"{self.codes.dtype} {self.codes.shape}."
            )
        if self.features.ndim != 2 or len(self.features) != n:
            raise ValueError(f"`features` must be ({n} conditions, p), got {self.features.shape}.")
        if len(self.codes) and (self.codes.min() < 0 or self.codes.max() >= n):
            raise ValueError(f"`codes` must lie in 0 to {n - 1}, the rows of `conditions`.")
        for name in ("x", "features"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"`{name}` has values that are not finite (NaN or infinite).")
        if self.parts is None:
            rows = zip(self.conditions["condition"], self.conditions["is_control"], strict=True)
            _set(self, "parts", tuple(() if is_control else (str(label),) for label, is_control in rows))
        elif len(self.parts) != n:
            raise ValueError(f"`parts` must have one entry per condition ({n}), got {len(self.parts)}.")
        if not self.control.any():
            raise ValueError("There is no control cell among the training cells.")

    @property
    def control(self) -> np.ndarray:
        """bool (cells,), the control cells."""
        return self.conditions["is_control"].to_numpy(dtype=bool)[self.codes]

    @property
    def trained(self) -> np.ndarray:
        """int, the rows of perturbed conditions that have cells."""
        counts = np.bincount(self.codes, minlength=len(self.conditions))
        return np.flatnonzero((counts > 0) & ~self.conditions["is_control"].to_numpy(dtype=bool))

    def condition(self, row: int) -> Condition:
        """The condition in one row of the table."""
        entry = self.conditions.iloc[row]
        assert self.parts is not None
        return Condition(
            label=str(entry["condition"]),
            perturbation=str(entry["perturbation"]),
            dose=float(entry["dose"]),
            features=self.features[row],
            parts=tuple(self.parts[row]),
        )

    def shifts(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the trained conditions, and their mean minus the control mean (trained, genes)."""
        rows = self.trained
        control = self.x[self.control].mean(axis=0, dtype=np.float64)
        means = [self.x[self.codes == row].mean(axis=0, dtype=np.float64) for row in rows]
        return rows, np.array(means).reshape(len(rows), self.x.shape[1]) - control


class Baseline(ABC):
    """A predictor: ``fit`` once, then ``sample`` any condition."""

    #: Name in tables.
    name: ClassVar[str]
    #: Predicts (some) conditions that had no training cells.
    can_predict_unseen: ClassVar[bool] = False
    #: `graph` works.
    gives_graph: ClassVar[bool] = False
    #: `targets` works.
    gives_targets: ClassVar[bool] = False
    #: Option of the constructor -> where the benchmark looks for its value (`own`); empty: nothing to tune.
    search_space: ClassVar[Mapping[str, Range | Choice]] = {}

    @abstractmethod
    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Learn from training cells; returns itself."""

    @abstractmethod
    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` predicted cells, float32 (n, genes); raises :class:`CannotPredict` where there is none."""

    def graph(self) -> np.ndarray:
        """The learned graph, bool (genes, genes), row = cause; an undirected edge of a class has both entries."""
        raise CannotPredict(f"{self.name} gives no graph.")

    def targets(self, conditions: Sequence[Condition]) -> np.ndarray:
        """Target probabilities (0 or 1 where the method only decides), (conditions, genes)."""
        raise CannotPredict(f"{self.name} gives no targets.")


def draw_cells(cells: np.ndarray, n: int, rng: RngLike) -> np.ndarray:
    """`n` rows of `cells` at random: without replacement where there are enough, else with."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    rows = as_generator(rng).choice(len(cells), size=n, replace=n > len(cells))
    return cells[rows]


def check_fitted(baseline: Baseline, attribute: str) -> None:
    """Raise where `fit` has not been called."""
    if not hasattr(baseline, attribute):
        raise RuntimeError(f"{baseline.name} is not fitted: call fit(data) first.")


def _set(instance: object, name: str, value: object) -> None:
    object.__setattr__(instance, name, value)  # the dataclass is frozen; only construction normalises its fields
