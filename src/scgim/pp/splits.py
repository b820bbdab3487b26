"""Splits: conditions held out for testing, cells held out for validation."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from .._logging import logger
from .._validation import listing, suggestion
from .design import Design
from .doses import parse_dose
from .labels import Part, parse_perturbations

SPLITS = ("train", "valid", "test")


class Absent:
    """What is to be held out and some group lacks: skipped there, if another group has it."""

    def __init__(self, n_groups: int) -> None:
        self.n_groups = n_groups
        self._lacking: dict[str, list[tuple[str, ValueError]]] = {}

    def add(self, label: str, where: str, error: ValueError) -> None:
        """One group lacks this condition."""
        self._lacking.setdefault(label, []).append((where, error))

    def check(self) -> None:
        """After all groups: refuse what every one of them lacks, say what was skipped where."""
        for found in self._lacking.values():
            if len(found) == self.n_groups:
                raise found[0][1]
        for label, found in self._lacking.items():
            for where, _ in found:
                logger.info("hold_out%s: there is no condition %r, so that none is held out for it.", where, label)


def resolve_hold_out(
    hold_out: Any,
    table: pd.DataFrame,
    membership: np.ndarray,
    parts: list[Part],
    *,
    combination_sep: str | None,
    has_dose: bool,
    dose_unit: str,
    where: str = "",
    absent: Absent | None = None,
) -> np.ndarray:
    """Which conditions `hold_out` means: (conditions,) bool.

    Raises
    ------
    ValueError
        If a condition does not exist (the message lists those that do), is the control, or nothing is left
        to train on.
    TypeError
        If `hold_out` has none of the forms that `hold_out` documents.
    """
    held = np.zeros(len(table), dtype=bool)
    if hold_out is None:
        return held
    names = table["condition"].astype(str).tolist()
    control = names[0]
    own = [[parts[j] for j in np.flatnonzero(row)] for row in membership]
    known = dict(zip(names, own, strict=True))

    def parse(entry: Any) -> str:
        try:
            ((label, _),) = parse_perturbations(
                [entry],
                control=control,
                combination_sep=combination_sep,
                has_dose=has_dose,
                dose_unit=dose_unit,
                known=known,
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"hold_out{where}: {error} The conditions are {listing(names[1:], most=30)}.") from error
        return label

    for entry, everywhere in _entries(hold_out):
        if everywhere:
            rows = [i for i, ps in enumerate(own) if entry in {name for name, _ in ps}]
            rows = rows or [i for i, name in enumerate(table["perturbation"].astype(str)) if name == entry and i]
            label = str(entry)
        else:
            try:
                label = parse(entry)
            except ValueError as error:  # a label that another group may have
                if absent is None:
                    raise
                absent.add(str(entry), where, error)
                continue
            rows = [names.index(label)] if label in known else []
        if not rows:
            missing = ValueError(
                f"hold_out{where}: there is no condition {label!r}.{suggestion(label, names[1:])} The "
                f"conditions are {listing(names[1:], most=30)}."
            )
            if absent is None:
                raise missing
            absent.add(label, where, missing)
        if label == control:
            raise ValueError(f"hold_out{where}: the control {control!r} cannot be held out; every fit needs it.")
        held[rows] = True
    if held[1:].all():
        raise ValueError(
            f"hold_out{where} names every perturbed condition, so that nothing is left to train on: "
            f"{listing(names[1:], most=30)}. Leave at least one of them out of hold_out, or hold out cells "
            "of each with test_fraction=0.2."
        )
    return held


def _entries(hold_out: Any) -> Iterable[tuple[Any, bool]]:
    """Each held-out entry, and whether it stands for every condition in which the perturbation takes part."""
    if isinstance(hold_out, str):
        yield hold_out, False
    elif isinstance(hold_out, Mapping):
        for name, doses in hold_out.items():
            if doses is None:
                yield str(name), True
            else:
                several = isinstance(doses, Iterable) and not isinstance(doses, str)
                for dose in doses if several else [doses]:
                    yield (str(name), _dose(name, dose)), False
    elif isinstance(hold_out, tuple) and len(hold_out) == 2 and not isinstance(hold_out[1], str | tuple | list):
        yield hold_out, False
    elif isinstance(hold_out, Iterable):
        for entry in hold_out:
            yield entry, False
    else:
        raise TypeError(
            f"hold_out={hold_out!r} is neither a dict of name and dose ({{'Dacinostat': 10_000}}; None = "
            "every dose) nor a list of condition labels."
        )


def _dose(name: Any, dose: Any) -> Any:
    try:
        parse_dose(dose)
    except ValueError as error:
        raise ValueError(
            f"hold_out: {error}, and was given for {name!r}. Give a number, or text like '10 nM'."
        ) from error
    return dose


def assign_splits(
    codes: np.ndarray,
    table: pd.DataFrame,
    cell_names: pd.Index,
    *,
    valid_fraction: float,
    seed: int,
    test_fraction: float = 0.0,
) -> np.ndarray:
    """Split of each cell: (cells,) index into `SPLITS`, -1 where the cell is not modelled.

    Cells of held-out conditions are `test`; of every other condition, `valid_fraction` of the cells are drawn for
    `valid`, and then `test_fraction` for `test`. The draw depends on the seed, the label and the cells' names only:
    neither the order of the cells nor what else is held out changes it.
    """
    split = np.full(len(codes), -1)
    for row, (label, kind) in enumerate(zip(table["condition"], table["split"], strict=True)):
        cells = np.flatnonzero(codes == row)
        if kind == "test":
            split[cells] = 2
            continue
        split[cells] = 0
        by_name = cells[np.argsort(cell_names[cells].to_numpy(dtype=str), kind="stable")]
        rng = np.random.default_rng([seed, zlib.crc32(str(label).encode("utf-8", "surrogatepass"))])
        n_valid = min(round(valid_fraction * len(cells)), len(cells) - 1)
        n_test = min(round(test_fraction * len(cells)), len(cells) - 1 - n_valid)
        drawn = rng.permutation(by_name)
        split[drawn[:n_valid]] = 1
        split[drawn[n_valid : n_valid + n_test]] = 2
    return split


def split_design(
    design: Design,
    cell_names: pd.Index,
    hold_out: Any,
    *,
    combination_sep: str | None,
    has_dose: bool,
    dose_unit: str,
    valid_fraction: float,
    test_fraction: float,
    seed: int,
    where: str,
    absent: Absent | None = None,
) -> np.ndarray:
    """Write which conditions are held out into the design's table; returns the split of each cell."""
    held = resolve_hold_out(
        hold_out,
        design.table,
        design.membership,
        design.part_list,
        combination_sep=combination_sep,
        has_dose=has_dose,
        dose_unit=dose_unit,
        where=where,
        absent=absent,
    )
    design.table["split"] = np.where(held, "test", "train").astype(object)
    return assign_splits(
        design.codes,
        design.table,
        cell_names,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )


def training_parts(table: pd.DataFrame, membership: np.ndarray, *, alone: bool = False) -> np.ndarray:
    """(parts,) bool: the part occurs (alone) in a condition that is not held out."""
    used = (table["split"] != "test").to_numpy()
    if alone:
        used = used & (membership.sum(axis=1) == 1)
    return membership[used].any(axis=0)
