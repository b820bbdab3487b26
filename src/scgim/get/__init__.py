"""Stored slots as objects, `graph`, `targets`, `history`, `params`; cells for other suites, `prediction_pair`."""

from ._pairs import prediction_pair
from ._results import graph, history, params, targets

__all__ = ["graph", "history", "params", "prediction_pair", "targets"]
