"""Design: the tables of conditions and parts of one group of cells, and which of them are held out."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .._errors import InvalidType, InvalidValue
from .._logging import logger
from .._validation import listing, plural, suggestion
from ..slots.keys import SPLITS
from ._conditions import CellLabels
from ._doses import parse_dose
from ._labels import Part, condition_label, parse_perturbations, part_label, part_order, sort_parts


@dataclass(frozen=True)
class Design:
    """Conditions and parts of one group of cells: the tables that go into `uns`."""

    table: pd.DataFrame  # one row per condition, control first
    parts: pd.DataFrame  # one row per part
    membership: np.ndarray  # (conditions, parts) uint8
    codes: np.ndarray  # (cells of adata,) row of `table`; -1 = not in the group, or dropped

    @cached_property
    def part_list(self) -> list[Part]:
        """(name, dose) of each part."""
        return list(zip(self.parts["perturbation"].astype(str), self.parts["dose"].astype(float), strict=True))

    def trained_parts(self, *, alone: bool = False) -> np.ndarray:
        """(parts,) bool: the part occurs (alone) in a condition that is not held out."""
        used = (self.table["split"] != "test").to_numpy()
        if alone:
            used = used & (self.membership.sum(axis=1) == 1)
        return self.membership[used].any(axis=0)


def build_design(
    labels: CellLabels, members: np.ndarray, deep: np.ndarray, arguments: Mapping[str, Any], where: str
) -> tuple[Design, np.ndarray]:
    """Tables of one group, and (cells,) bool: cells left out because their condition is small.

    `members`, `deep`: (cells,) bool, the cells of this group and those with enough counts; `arguments` of `prepare`;
    `where`: which group this is, for messages.
    """
    min_cells = arguments["min_cells_per_condition"]
    everything = np.where(members, labels.codes, -1)
    codes = np.where(deep, everything, -1)
    present, counts = (
        np.bincount(found[found >= 0], minlength=len(labels.conditions)) for found in (everything, codes)
    )
    small = np.flatnonzero((present > 0) & (counts < min_cells))
    used = np.flatnonzero(counts >= min_cells)
    _check_sizes(labels, present, counts, small, arguments, where)
    if used.size < 2:
        raise InvalidValue(
            f"Only one condition was found{where}: the control {labels.control!r}. A model needs a perturbed "
            "condition as well: check perturbation_key= and control=."
        )
    small_cells = np.isin(codes, small) & (codes >= 0)
    codes = np.where(small_cells, -1, codes)
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
        {"part": list(at), "perturbation": [p[0] for p in parts], "dose": [float(p[1]) for p in parts]}, index=list(at)
    )
    row_of = np.full(len(labels.conditions) + 1, -1)
    row_of[order] = np.arange(len(order))
    return Design(table, part_table, membership, row_of[codes]), small_cells


def _check_sizes(
    labels: CellLabels,
    present: np.ndarray,
    counts: np.ndarray,
    small: np.ndarray,
    arguments: Mapping[str, Any],
    where: str,
) -> None:
    """Refuse small conditions, or say that they are left out."""
    if not small.size:
        return
    min_cells = arguments["min_cells_per_condition"]
    named = [f"{condition_label(labels.conditions[i], labels.control)} ({counts[i]})" for i in small]
    if arguments["small_conditions"] == "error" or 0 in small:
        drop = "" if 0 in small else ', or leave them out with small_conditions="drop"'
        raise InvalidValue(
            f"{plural(small.size, 'condition')} with fewer than min_cells_per_condition={min_cells} "
            f"cells{where}: {', '.join(named[:10])}{', ...' if len(named) > 10 else ''}. Lower "
            f"min_cells_per_condition, lower min_counts if cells were lost to it{drop}."
        )
    logger.info(f"left out{where}, with fewer than {plural(min_cells, 'cell')}: {', '.join(named)}")
    if (counts >= min_cells).sum() < 2:
        largest = max(small, key=lambda i: (counts[i], present[i]))
        before = f" ({present[largest]} before min_counts)" if present[largest] > counts[largest] else ""
        name = condition_label(labels.conditions[largest], labels.control)
        raise InvalidValue(
            f"Every perturbed condition{where} has fewer than min_cells_per_condition={min_cells} cells, and was left "
            f"out as small: {plural(small.size, 'condition')}, of which the largest, {name!r}, has "
            f"{counts[largest]}{before}. Lower min_cells_per_condition, or lower min_counts if cells were lost to it."
        )


#: What is to be held out and some group lacks -> where, and the error that this would be if no other group had it.
Absent = dict[str, list[tuple[str, ValueError]]]


def skip_absent(absent: Absent, n_groups: int) -> None:
    """Refuse what every group lacks, say what is skipped where."""
    for found in absent.values():
        if len(found) == n_groups:
            raise found[0][1]
    for label, found in absent.items():
        for where, _ in found:
            logger.info(f"hold_out{where}: there is no condition {label!r}, so nothing is held out for it.")


def split_cells(
    design: Design,
    cell_names: pd.Index,
    arguments: Mapping[str, Any],
    notation: Mapping[str, Any],
    where: str,
    absent: Absent | None = None,
) -> np.ndarray:
    """Write which conditions are held out into the design's table; (cells,) index into SPLITS, -1 = not modelled.

    Of every other condition, `valid_fraction` of the cells are drawn for validation, and then `test_fraction` for
    testing. The draw depends on the seed, the label and the cells' names only: neither the order of the cells nor what
    else is held out changes it.
    """
    held = _held_out(arguments["hold_out"], design, notation, where, absent)
    design.table["split"] = np.where(held, "test", "train").astype(object)
    train, valid, test = range(len(SPLITS))
    split = np.full(len(design.codes), -1)
    for row, label in enumerate(design.table["condition"]):
        cells = np.flatnonzero(design.codes == row)
        if held[row]:
            split[cells] = test
            continue
        split[cells] = train
        by_name = cells[np.argsort(cell_names[cells].to_numpy(dtype=str), kind="stable")]
        rng = np.random.default_rng([arguments["rng"], zlib.crc32(str(label).encode("utf-8", "surrogatepass"))])
        n_valid = min(round(arguments["valid_fraction"] * len(cells)), len(cells) - 1)
        n_test = min(round(arguments["test_fraction"] * len(cells)), len(cells) - 1 - n_valid)
        drawn = rng.permutation(by_name)
        split[drawn[:n_valid]] = valid
        split[drawn[n_valid : n_valid + n_test]] = test
    return split


def _held_out(
    hold_out: Any, design: Design, notation: Mapping[str, Any], where: str, absent: Absent | None
) -> np.ndarray:
    """Which conditions `hold_out` means: (conditions,) bool; the errors list those that exist."""
    names = design.table["condition"].astype(str).tolist()
    own = [[design.part_list[j] for j in np.flatnonzero(row)] for row in design.membership]
    known = dict(zip(names, own, strict=True))
    conditions = f"The conditions are {listing(names[1:], most=30)}."
    held = np.zeros(len(names), dtype=bool)
    for entry, everywhere in _entries(hold_out):
        label = str(entry)
        try:
            if everywhere:
                rows = [i for i, parts in enumerate(own) if entry in {name for name, _ in parts}]
                rows = rows or [i for i, name in enumerate(design.table["perturbation"]) if str(name) == entry]
            else:
                try:
                    ((label, _),) = parse_perturbations([entry], **notation, known=known)
                except (TypeError, ValueError) as error:
                    raise type(error)(f"hold_out{where}: {error} {conditions}") from error
                rows = [names.index(label)] if label in known else []
            if not rows:
                raise InvalidValue(
                    f"hold_out{where}: there is no condition {label!r}.{suggestion(label, names[1:])} {conditions}"
                )
        except ValueError as error:
            if absent is None:
                raise
            absent.setdefault(label, []).append((where, error))
            continue
        if rows == [0]:
            raise InvalidValue(f"hold_out{where}: the control {names[0]!r} cannot be held out; every fit needs it.")
        held[rows] = True
    if held[1:].all():
        raise InvalidValue(
            f"hold_out{where} names every perturbed condition, so that nothing is left to train on: "
            f"{listing(names[1:], most=30)}. Leave at least one of them out of hold_out, or hold out cells "
            "of each with test_fraction=0.2."
        )
    return held


def _entries(hold_out: Any) -> Iterator[tuple[Any, bool]]:
    """Each held-out entry, and whether it stands for every condition in which the perturbation takes part."""
    pair = isinstance(hold_out, tuple) and len(hold_out) == 2 and not isinstance(hold_out[1], str | tuple | list)
    if isinstance(hold_out, str) or pair:
        yield hold_out, False
    elif isinstance(hold_out, Mapping):
        for name, doses in hold_out.items():
            if doses is None:
                yield str(name), True
                continue
            several = isinstance(doses, Iterable) and not isinstance(doses, str)
            for dose in doses if several else [doses]:
                try:
                    parse_dose(dose)
                except ValueError as error:
                    raise InvalidValue(
                        f"hold_out: {error}, and was given for {name!r}. Give a number, or text like '10 nM'."
                    ) from error
                yield (str(name), dose), False
    elif isinstance(hold_out, Iterable):
        yield from ((entry, False) for entry in hold_out)
    elif hold_out is not None:
        raise InvalidType(
            f"hold_out={hold_out!r} is neither a dict of name and dose ({{'Dacinostat': 10_000}}; None = "
            "every dose) nor a list of condition labels."
        )
