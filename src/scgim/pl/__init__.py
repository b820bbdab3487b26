"""Drawing what is stored: no function here computes a model, saves a file or shows a window."""

from .dose_response import dose_response
from .graph import graph
from .history import history
from .marginals import marginals
from .metrics import metrics
from .targets import targets

__all__ = ["dose_response", "graph", "history", "marginals", "metrics", "targets"]
