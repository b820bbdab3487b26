"""Stored slots as objects: `graph`, `targets`, `history`, `params`."""

from ._course import history, params
from ._graph import graph
from ._targets import targets

__all__ = ["graph", "history", "params", "targets"]
