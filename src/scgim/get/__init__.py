"""Stored slots as objects: `graph`, `targets`, `history`, `params`."""

from ._results import graph, history, params, targets

__all__ = ["graph", "history", "params", "targets"]
