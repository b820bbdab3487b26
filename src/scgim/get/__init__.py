"""Stored slots as objects: `graph`, `targets`, `history`, `params`."""

from .graph import graph
from .history import history
from .params import params
from .targets import targets

__all__ = ["graph", "history", "params", "targets"]
