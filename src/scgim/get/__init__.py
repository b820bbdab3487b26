"""Stored slots as objects: `graph`, `targets`, `history`."""

from .graph import graph
from .history import history
from .targets import targets

__all__ = ["graph", "history", "targets"]
