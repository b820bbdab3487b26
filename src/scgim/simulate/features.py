"""Perturbation features made from the true atomic interventions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FeatureMap:
    """Standardise `[targets, effects]`, then project on principal components.

    Parameters
    ----------
    mean, scale
        (2 * genes,), over the training conditions; scale is 1 where a column is constant.
    components
        (2 * genes, p), orthonormal columns.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, targets: np.ndarray, effects: np.ndarray, n_features: int) -> FeatureMap:
        """Fit on the training conditions; `targets` and `effects` are (conditions, genes)."""
        raw = np.concatenate([targets, effects], axis=1).astype(float)
        mean = raw.mean(axis=0)
        scale = raw.std(axis=0)
        # A gene that no training condition targets has a constant column: it is centred and keeps its unit.
        scale[scale < 1e-12] = 1.0
        _, _, rows = np.linalg.svd((raw - mean) / scale, full_matrices=raw.shape[0] < raw.shape[1])
        components = rows[:n_features].T
        largest = np.abs(components).argmax(axis=0)
        signs = np.sign(components[largest, np.arange(components.shape[1])])
        return cls(mean, scale, components * signs)

    def __call__(self, targets: np.ndarray, effects: np.ndarray) -> np.ndarray:
        """Features float32 (conditions, p)."""
        raw = np.concatenate([targets, effects], axis=1).astype(float)
        return ((raw - self.mean) / self.scale @ self.components).astype(np.float32)

    def to_dict(self) -> dict[str, np.ndarray]:
        """The arrays, for `uns`."""
        return {"mean": self.mean, "scale": self.scale, "components": self.components}
