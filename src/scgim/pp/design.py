"""Design: the tables of conditions and parts of one group of cells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .._logging import logger
from .._validation import plural
from .conditions import CellLabels
from .labels import Part, condition_label, part_label, part_order, sort_parts


@dataclass(frozen=True)
class Design:
    """Conditions and parts of one group of cells: the tables that go into `uns`."""

    table: pd.DataFrame  # one row per condition, control first
    parts: pd.DataFrame  # one row per part
    membership: np.ndarray  # (conditions, parts) uint8
    codes: np.ndarray  # (cells of adata,) row of `table`; -1 = not in the group, or dropped

    @property
    def part_list(self) -> list[Part]:
        """(name, dose) of each part."""
        return list(zip(self.parts["perturbation"].astype(str), self.parts["dose"].astype(float), strict=True))


def build_design(
    labels: CellLabels,
    members: np.ndarray,
    deep: np.ndarray,
    *,
    min_cells: int,
    small_conditions: str,
    where: str,
) -> tuple[Design, np.ndarray]:
    """Tables of conditions and parts of one group of cells.

    Parameters
    ----------
    labels
        From `label_cells`.
    members
        (cells,) bool: the cells of this group.
    deep
        (cells,) bool: cells with enough counts.
    min_cells
        Fewest cells per condition.
    small_conditions
        `"error"` or `"drop"`, for conditions with fewer.
    where
        Named in errors: empty, or which group this is.

    Returns
    -------
    The design, and (cells,) bool: cells left out because their condition is small.
    """
    everything = np.where(members, labels.codes, -1)
    codes = np.where(deep, everything, -1)
    present, counts = (
        np.bincount(found[found >= 0], minlength=len(labels.conditions)) for found in (everything, codes)
    )
    small = np.flatnonzero((present > 0) & (counts < min_cells))
    if small.size:
        named = [f"{condition_label(labels.conditions[i], labels.control)} ({counts[i]})" for i in small]
        if small_conditions == "error" or 0 in small:
            drop = "" if 0 in small else ', or leave them out with small_conditions="drop"'
            raise ValueError(
                f"{plural(small.size, 'condition')} with fewer than min_cells_per_condition={min_cells} "
                f"cells{where}: {', '.join(named[:10])}{', ...' if len(named) > 10 else ''}. Lower "
                f"min_cells_per_condition, lower min_counts if cells were lost to it{drop}."
            )
        logger.info("left out%s, with fewer than %d cells: %s", where, min_cells, ", ".join(named))
    small_cells = np.isin(codes, small) & (codes >= 0)
    codes = np.where(small_cells, -1, codes)
    used = np.flatnonzero(counts >= min_cells)
    if used.size < 2 and small.size:
        largest = max(small, key=lambda i: (counts[i], present[i]))
        before = f" ({present[largest]} before min_counts)" if present[largest] > counts[largest] else ""
        name = condition_label(labels.conditions[largest], labels.control)
        raise ValueError(
            f"Every perturbed condition{where} has fewer than min_cells_per_condition={min_cells} cells, and was left "
            f"out as small: {plural(small.size, 'condition')}, of which the largest, {name!r}, has "
            f"{counts[largest]}{before}. Lower min_cells_per_condition, or lower min_counts if cells were lost to it."
        )
    if used.size < 2:
        raise ValueError(
            f"Only one condition was found{where}: the control {labels.control!r}. A model needs a perturbed "
            "condition as well: check perturbation_key= and control=."
        )
    order = sorted(used, key=lambda i: (len(labels.conditions[i]), [*map(part_order, labels.conditions[i])]))
    conditions = [labels.conditions[i] for i in order]
    parts = sort_parts(p for c in conditions for p in c)
    at = {part_label(*p): i for i, p in enumerate(parts)}
    membership = np.zeros((len(conditions), len(parts)), dtype=np.uint8)
    for row, condition in enumerate(conditions):
        membership[row, [at[part_label(*p)] for p in condition]] = 1
    names = [condition_label(c, labels.control) for c in conditions]
    table = pd.DataFrame(
        {
            "condition": names,
            "perturbation": ["+".join(name for name, _ in c) or labels.control for c in conditions],
            "dose": [c[0][1] if len(c) == 1 else math.nan for c in conditions],
            "is_control": [not c for c in conditions],
            "n_cells": counts[order],
            "split": "train",
        },
        index=names,
    )
    part_table = pd.DataFrame(
        {"part": list(at), "perturbation": [p[0] for p in parts], "dose": [float(p[1]) for p in parts]},
        index=list(at),
    )
    row_of = np.full(len(labels.conditions) + 1, -1)
    row_of[order] = np.arange(len(order))
    return Design(table, part_table, membership, row_of[codes]), small_cells
