"""The parts of conditions with features of each, from conditions whose features are summed over parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from .protocol import CannotPredict, Condition, TrainingData
from .shift import check_features


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts that a model of parts is trained on.

    A condition lists its parts, but its features are their sum. A part's own features are known where the part is
    a condition by itself (with cells or held out). A combination of which one part has no features of its own is
    one part by itself, with the summed features: nothing is then shared between it and its parts.

    Parameters
    ----------
    features
        (parts, p)
    membership
        (conditions, parts) 0/1, one row per condition with cells; zeros for the control.
    alone
        Label of every part that is a condition by itself -> (p,) its features.
    whole
        Label of every combination that is one part by itself -> (p,) its summed features.
    """

    features: np.ndarray  # (parts, p)
    membership: np.ndarray  # (conditions, parts)
    alone: dict[str, np.ndarray] = field(default_factory=dict)
    whole: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, data: TrainingData) -> Self:
        """The parts of the conditions of `data` that have cells, in the order of the table of conditions."""
        everything = [data.condition(row) for row in range(len(data.conditions))]
        alone = {c.parts[0]: c.features for c in reversed(everything) if len(c.parts) == 1}
        used = [everything[row] for row in np.unique(data.codes)]
        whole = {c.label: c.features for c in used if len(c.parts) > 1 and not set(c.parts) <= set(alone)}
        own = [_names(c, whole) for c in used]
        needed = {name for names in own for name in names}
        order = [name for c in everything for name in ([c.label] if c.label in whole else c.parts)]
        labels = [name for name in dict.fromkeys(order) if name in needed]
        membership = np.array([[float(name in names) for name in labels] for names in own], dtype=np.float32)
        rows = [whole[name] if name in whole else alone[name] for name in labels]
        features = np.array(rows, dtype=np.float32).reshape(len(labels), data.features.shape[1])
        return cls(features, membership.reshape(len(used), len(labels)), alone, whole)

    def rows(self, conditions: list[Condition], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Features (parts, p) and membership (conditions, parts) of conditions to predict, unseen ones included.

        Raises
        ------
        CannotPredict
            If features do not have the length of the training features or are not finite, or if a part of a
            combination has no features of its own; `name` is that of the method.
        """
        rows: list[np.ndarray] = []
        owner: list[int] = []
        for index, condition in enumerate(conditions):
            features = self._features(condition, name)
            rows += features
            owner += [index] * len(features)
        membership = np.zeros((len(conditions), len(rows)), dtype=np.float32)
        membership[owner, np.arange(len(rows))] = 1
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.features.shape[1]), membership

    def _features(self, condition: Condition, name: str) -> list[np.ndarray]:
        names = _names(condition, self.whole)
        if len(names) == 1:
            return list(check_features(name, condition, self.features.shape[1]))
        missing = [part for part in names if part not in self.alone]
        if missing:
            raise CannotPredict(
                f"{name} cannot predict the combination {condition.label!r}: {' and '.join(map(repr, missing))} "
                "alone is no condition of the training table, so its own features are not known."
            )
        return [self.alone[part] for part in names]


def _names(condition: Condition, whole: dict[str, np.ndarray]) -> tuple[str, ...]:
    return (condition.label,) if condition.label in whole else tuple(condition.parts)
