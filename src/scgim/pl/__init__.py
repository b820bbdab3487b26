"""Figures of what is stored, in the user's axes (`ax=`) or new ones; `save=` writes it; no window is shown."""

from ._changes import agreement, changes
from ._diagnostics import history, metrics
from ._dose_response import dose_response
from ._embedding import embedding
from ._graph import graph
from ._marginals import marginals
from ._targets import targets
from ._volcano import volcano

__all__ = [
    "agreement",
    "changes",
    "dose_response",
    "embedding",
    "graph",
    "history",
    "marginals",
    "metrics",
    "targets",
    "volcano",
]
