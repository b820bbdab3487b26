"""The metrics as a table: what `tl.evaluate`, the benchmark and its pages know of each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import ArrayLike

from . import cells, changes, structure, transport


@dataclass(frozen=True)
class Metric:
    """A metric, and how to read it.

    Parameters
    ----------
    function
        Of truth and prediction, and of the control cells where it `needs_control`, or the mean expression under the
        other perturbations where it `needs_others`.
    of
        What it compares.
    title
        In tables and figures.
    better
        Which values are good; None where it is one in between.
    pairwise
        Time and memory grow with the product of the numbers of cells.
    needs_control, needs_others
        It is relative to the control cells, or to other perturbations.

    Examples
    --------
    >>> from scgim.metrics import METRICS
    >>> METRICS["edge_f1"].better
    'higher'
    >>> METRICS["mean_distance"]([[0.0]], [[2.0]])
    2.0
    """

    function: Callable[..., float]
    of: Literal["cells", "graph", "targets"]
    title: str
    better: Literal["higher", "lower"] | None
    pairwise: bool = False
    needs_control: bool = False
    needs_others: bool = False

    def __call__(
        self,
        true: ArrayLike,
        predicted: ArrayLike,
        control: ArrayLike | None = None,
        others: ArrayLike | None = None,
        **options: Any,
    ) -> float:
        """The value; `control` (cells, genes), `others` (conditions, genes) reach those that need it, `options` all."""
        more = [control] * self.needs_control + [others] * self.needs_others
        return self.function(true, predicted, *more, **options)

    @property
    def estimator(self) -> str:
        """What its docstring says of how it is computed."""
        text = self.function.__doc__ or ""
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        return next((part for part in paragraphs if part.startswith("Estimator: ")), paragraphs[0])


#: Name -> metric, in the order of tables.
METRICS: dict[str, Metric] = {
    "mean_distance": Metric(cells.mean_distance, "cells", "mean distance", "lower"),
    "pearson_means": Metric(cells.pearson_means, "cells", "Pearson of means", "higher"),
    "pearson_delta": Metric(cells.pearson_delta, "cells", "Pearson of differences", "higher", needs_control=True),
    "kde_nll": Metric(cells.kde_nll, "cells", "KDE-NLL", "lower", pairwise=True),
    "wasserstein": Metric(transport.wasserstein, "cells", "Wasserstein", "lower", pairwise=True),
    "sinkhorn_divergence": Metric(
        transport.sinkhorn_divergence, "cells", "Sinkhorn divergence", "lower", pairwise=True
    ),
    "e_distance": Metric(cells.e_distance, "cells", "E-distance", "lower", pairwise=True),
    "mean_absolute_error": Metric(cells.mean_absolute_error, "cells", "mean absolute error", "lower"),
    "de_overlap": Metric(changes.de_overlap, "cells", "DE genes found", "higher", needs_control=True),
    "de_direction_match": Metric(
        changes.de_direction_match, "cells", "DE genes moved the right way", "higher", needs_control=True
    ),
    "discrimination": Metric(changes.discrimination, "cells", "discrimination", "higher", needs_others=True),
    "zero_fraction_error": Metric(cells.zero_fraction_error, "cells", "zero-fraction error", "lower"),
    "coverage": Metric(cells.coverage, "cells", "coverage of 5-95 %", None),
    "edge_f1": Metric(structure.edge_f1, "graph", "Edge-F1", "higher"),
    "sid": Metric(structure.sid, "graph", "SID", "lower"),
    "shd": Metric(structure.shd, "graph", "SHD", "lower"),
    "skeleton_f1": Metric(structure.skeleton_f1, "graph", "skeleton F1", "higher"),
    "edge_auprc": Metric(structure.edge_auprc, "graph", "edge AUPRC", "higher"),
    "target_f1": Metric(structure.target_f1, "targets", "Target-F1", "higher"),
    "target_f1_per_condition": Metric(
        structure.target_f1_per_condition, "targets", "Target-F1, mean of conditions", "higher"
    ),
    "target_auprc": Metric(structure.target_auprc, "targets", "target AUPRC", "higher"),
}
#: Those that `tl.evaluate` takes by default.
DEFAULT = ("mean_distance", "pearson_delta", "e_distance", "wasserstein", "de_overlap")
#: Rows of a comparison that are no method: one half of the observed cells against the other, and control cells of the
#: model that predicts, which show what its control alone would score.
HALVES, OWN_CONTROL = "two halves", "own control"
