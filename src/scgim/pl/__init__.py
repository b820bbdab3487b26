"""Figures of what is stored, in the user's axes (`ax=`) or new ones; `save=` writes it; no window is shown."""

from ._diagnostics import history, metrics
from ._dose_response import dose_response
from ._graph import graph
from ._marginals import marginals
from ._targets import targets

__all__ = ["dose_response", "graph", "history", "marginals", "metrics", "targets"]
