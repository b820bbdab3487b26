"""Stored slots as objects (`graph`, `targets`, `history`, `params`); observed beside predicted cells as tables, and
as other suites take them (`prediction_pair`)."""

from ._changes import changes
from ._embedding import embedding
from ._pairs import prediction_pair
from ._results import graph, history, params, targets

__all__ = ["changes", "embedding", "graph", "history", "params", "prediction_pair", "targets"]
