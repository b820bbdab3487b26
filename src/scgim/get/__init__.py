"""Stored slots as objects (`graph`, `targets`, `history`, `params`), and observed beside predicted cells as tables."""

from ._changes import changes
from ._embedding import embedding
from ._results import graph, history, params, targets

__all__ = ["changes", "embedding", "graph", "history", "params", "targets"]
