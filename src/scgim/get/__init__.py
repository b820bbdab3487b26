"""Stored slots as objects: `graph`, `targets`, `history`, `params`."""

from ._course import history, params
from ._results import graph, targets

__all__ = ["graph", "history", "params", "targets"]
