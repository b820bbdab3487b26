"""What a method is fitted on and asked for: cells, their conditions, and the parts that conditions are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from scgim._errors import InvalidValue
from scgim._validation import listing
from scgim.slots import Entry, Measured, check_counts, read_entry

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Condition", "PerturbationData"]

_DEFAULT: Any = None  # replaced when an instance is made


@dataclass(frozen=True)
class Condition:
    """A condition to predict, seen in training or not.

    Parameters
    ----------
    label, perturbation, dose
        Its name, for messages; what is applied ("A+B" for a combination), and at which dose, in the unit of the
        training data: NaN where there is none, or for a combination.
    features
        (p,) the features that the intervention network would see, summed over parts.
    parts
        Labels of its parts, e.g. ``("A_10", "B_5")``; empty for the control.
    part_features
        (parts, p) the features of each part, where they are known. For a single part `features` is enough.
    """

    label: str
    perturbation: str
    dose: float
    features: np.ndarray  # (p,)
    parts: tuple[str, ...] = ()
    part_features: np.ndarray | None = None  # (parts, p)

    @property
    def is_control(self) -> bool:
        """Whether nothing is applied."""
        return not self.parts


@dataclass(frozen=True, eq=False)
class PerturbationData:
    """Cells, the condition of each, and the features of the parts that conditions are made of.

    Parameters
    ----------
    x
        float32 (cells, genes), training and validation cells only.
    codes
        int (cells,), row of `conditions` of each cell.
    conditions
        One row per condition with the columns condition, perturbation, dose and is_control. Conditions
        without cells (held out) may be listed; nothing is learned from them.
    part_features
        (parts, p), of each part: a perturbation at its dose.
    membership, parts
        (conditions, parts) 0/1, which parts a condition has (the control has none), and labels of the parts. Default:
        every condition is one part with the same label: (conditions, p) features with an unused row for control.
    valid
        bool (cells,), cells for deciding on convergence, in methods that hold some out for that. Default: none.
    known_targets, known_values
        (parts, genes): 1 for a known target, 0 for none, and the values that genes are held at; NaN where not known.
        For `scgim.tl.fit_gim`; baselines learn all targets.
    prior_edges, prior_targets
        (genes, genes) row = cause, and (parts, genes): probabilities of edges and targets as they are believed before
        the data; NaN where nothing is. For `scgim.tl.fit_gim` as well.
    graded
        The features grow with the size of the effect, as those of ``features="potency"`` in `scgim.pp.prepare` do.
    counts, size_factor, batch
        For ``mechanism="count"``: (cells, genes) raw counts, (cells,) size factors, and (cells,) whole numbers from 0,
        the batch of each cell; None where they are not known, or there is one batch.
    batches
        Names of the batches, in the order of their numbers; empty where they have none.
    measured
        How counts were read from an AnnData: `scgim.slots.Measured.record`; empty where they were not.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, a column is missing, or there is no control cell.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgim.data import PerturbationData
    >>> table = pd.DataFrame({"condition": ["control", "A_1"], "perturbation": ["control", "A"],
    ...                       "dose": [np.nan, 1.0], "is_control": [True, False]})
    >>> data = PerturbationData(np.zeros((3, 2)), np.array([0, 0, 1]), table, np.eye(2))
    >>> data.control.tolist(), data.condition(1).parts
    ([True, True, False], ('A_1',))
    """

    x: np.ndarray  # (cells, genes)
    codes: np.ndarray  # (cells,)
    conditions: pd.DataFrame
    part_features: np.ndarray  # (parts, p)
    membership: np.ndarray = _DEFAULT  # (conditions, parts)
    parts: Sequence[str] = _DEFAULT
    valid: np.ndarray = _DEFAULT  # (cells,)
    known_targets: np.ndarray | None = None  # (parts, genes)
    known_values: np.ndarray | None = None  # (parts, genes)
    prior_edges: np.ndarray | None = None  # (genes, genes)
    prior_targets: np.ndarray | None = None  # (parts, genes)
    graded: bool = False
    counts: np.ndarray | None = None  # (cells, genes)
    size_factor: np.ndarray | None = None  # (cells,)
    batch: np.ndarray | None = None  # (cells,)
    batches: Sequence[str] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = {"condition", "perturbation", "dose", "is_control"} - set(self.conditions.columns)
        if missing:
            raise InvalidValue(f"`conditions` lacks the columns {sorted(missing)}.")
        alone = self.membership is None
        if self.parts is None and not alone:
            raise InvalidValue("`membership` needs `parts`, the labels of its columns.")
        membership = np.diag(~self.is_control) if alone else self.membership
        valid = np.zeros(len(self.x)) if self.valid is None else self.valid
        normal = {
            "x": np.ascontiguousarray(self.x, dtype=np.float32),
            "codes": np.asarray(self.codes),
            "conditions": self.conditions.reset_index(drop=True),
            "part_features": np.asarray(self.part_features, dtype=np.float32),
            "membership": np.asarray(membership, dtype=np.float32),
            "parts": tuple(self.labels if self.parts is None else self.parts),
            "valid": np.asarray(valid, dtype=bool),
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen once it is made
        self._check("conditions" if alone else "parts")

    def _check(self, rows: str) -> None:
        """Refuse what does not fit together; `rows` is what a row of `part_features` is called."""
        n_conditions, n_parts, n_genes = len(self.conditions), len(self.parts), self.x.shape[-1]
        if self.x.ndim != 2 or self.codes.shape != (len(self.x),) or self.codes.dtype.kind not in "iu":
            raise InvalidValue(
                f"`x` must be (cells, genes) and `codes` integers (cells,), got {self.x.shape} and "
                f"{self.codes.dtype} {self.codes.shape}."
            )
        if not all(isinstance(part, str) for part in self.parts):
            raise InvalidValue(
                "`parts` must be text, one label for each row of `part_features`; `membership` says whose."
            )
        shapes = {
            "valid": ("cells", (len(self.x),)),
            "counts": ("cells, genes", self.x.shape),
            "size_factor": ("cells", (len(self.x),)),
            "batch": ("cells", (len(self.x),)),
            "part_features": (f"{rows}, p", (n_parts, *self.part_features.shape[-1:])),
            "membership": ("conditions, parts", (n_conditions, n_parts)),
            "known_targets": ("parts, genes", (n_parts, n_genes)),
            "known_values": ("parts, genes", (n_parts, n_genes)),
            "prior_edges": ("genes, genes", (n_genes, n_genes)),
            "prior_targets": ("parts, genes", (n_parts, n_genes)),
        }
        for name, (axes, shape) in shapes.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise InvalidValue(f"`{name}` must be ({axes}), here {shape}, got {value.shape}.")
        self._check_counted()
        for name in ("prior_edges", "prior_targets"):
            value = getattr(self, name)
            if value is not None and ((value < 0) | (value > 1)).any():
                raise InvalidValue(f"`{name}` must be probabilities, between 0 and 1, or NaN.")
        for name in ("x", "part_features"):
            if not np.isfinite(getattr(self, name)).all():
                raise InvalidValue(f"`{name}` has values that are not finite (NaN or infinite).")
        if len(self.codes) and (self.codes.min() < 0 or self.codes.max() >= n_conditions):
            raise InvalidValue(f"`codes` must lie in 0 to {n_conditions - 1}, the rows of `conditions`.")
        if not np.isin(self.membership, [0, 1]).all() or (self.is_control == self.membership.any(axis=1)).any():
            raise InvalidValue("`membership` must be 0 or 1: zeros for the control, at least one part for all others.")
        if not self.control.any():
            raise InvalidValue("There are no control cells among the training cells.")

    def _check_counted(self) -> None:
        """Refuse counts, size factors and batches that are none."""
        if self.counts is not None:
            check_counts(self.counts, range(len(self.x)), range(self.x.shape[1]), "`counts`")
        if self.size_factor is not None and not (np.isfinite(self.size_factor) & (self.size_factor > 0)).all():
            raise InvalidValue("`size_factor` must be above 0 and finite, for every cell.")
        if self.batch is not None and (self.batch.dtype.kind not in "iu" or self.batch.min(initial=0) < 0):
            raise InvalidValue("`batch` must be whole numbers from 0, one for each cell.")

    @classmethod
    def from_anndata(
        cls,
        adata: AnnData,
        *,
        key: str = "gim",
        group: str | None = None,
        all_of_them: bool = True,
        counts: bool = False,
        size_key: str | None = None,
        batch_key: str | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> Self:
        """The training and validation cells (split "train" or "valid") and all conditions of a prepared AnnData.

        Only the modelled genes are made dense. `key`, `group`: which preparation; `all_of_them`: refuse where prepared
        cells are missing; `counts`: read the raw counts in ``layers["counts"]`` as well, with the size factors of
        `pp.prepare` or those of a column `size_key`, relative to their median over controls, and the batches of a
        column `batch_key` (or all as in the `record` of a fit). A KeyError where nothing was prepared, a ValueError
        where cells or split were changed, or counts, size factors or batches are not what they have to be.
        """
        entry = read_entry(adata, key, group)
        split, codes = entry.split(adata), entry.codes(adata)
        modelled = np.flatnonzero(codes >= 0)
        x = entry.read_cells(adata, modelled, codes, all_of_them=all_of_them)
        split, codes = split[modelled], codes[modelled]
        _check_split(entry, split, codes)
        used = np.isin(split, ["train", "valid"])
        counted: dict[str, Any] = {}
        if counts:
            found = Measured.read(
                entry, adata, modelled[used], x[used], control=entry.is_control[codes[used]], size_key=size_key,
                batch_key=batch_key, record=None if record is None else dict(record),
            )  # fmt: skip
            counted = {name: getattr(found, name) for name in ("counts", "size_factor", "batch", "batches")}
            counted["measured"] = found.record
        return cls(
            x=x[used],
            codes=codes[used],
            conditions=entry.conditions,
            part_features=entry.features,
            membership=entry.membership,
            parts=entry.prepared["parts"]["part"].astype(str),
            valid=split[used] == "valid",
            graded=str(entry.spec["kind"]) == "potency",
            **counted,
        )

    @property
    def labels(self) -> list[str]:
        """Labels of the conditions."""
        return self.conditions["condition"].astype(str).tolist()

    @property
    def is_control(self) -> np.ndarray:
        """bool (conditions,)"""
        return self.conditions["is_control"].to_numpy(dtype=bool)

    @property
    def control(self) -> np.ndarray:
        """bool (cells,), the control cells."""
        return self.is_control[self.codes]

    @property
    def n_cells(self) -> np.ndarray:
        """int (conditions,), the number of cells of each."""
        return np.bincount(self.codes, minlength=len(self.conditions))

    @property
    def trained(self) -> np.ndarray:
        """int, the rows of perturbed conditions that have cells."""
        return np.flatnonzero((self.n_cells > 0) & ~self.is_control)

    @cached_property
    def features(self) -> np.ndarray:
        """(conditions, p), summed over the parts of each condition; zeros for the control."""
        return self.membership @ self.part_features

    def condition(self, row: int) -> Condition:
        """The condition in one row of the table."""
        return condition_in(self.conditions, row, self.membership, self.parts, self.part_features)

    def shifts(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the trained conditions, and their mean minus the control mean (trained, genes)."""
        rows = self.trained
        control = self.x[self.control].mean(axis=0, dtype=np.float64)
        means = [self.x[self.codes == row].mean(axis=0, dtype=np.float64) for row in rows]
        return rows, np.array(means).reshape(len(rows), self.x.shape[1]) - control

    def of_cells(self, chosen: np.ndarray) -> Self:
        """The same with some of the cells: bool (cells,), or their rows."""
        of_cells = ("x", "codes", "valid", "counts", "size_factor", "batch")
        return replace(self, **{n: value[chosen] for n in of_cells if (value := getattr(self, n)) is not None})

    def without_empty(self) -> Self:
        """The same without conditions that have no cells, and without parts that are then in no condition."""
        used, codes = np.unique(self.codes, return_inverse=True)
        parts = self.membership[used].any(axis=0)
        of_parts = ("part_features", "known_targets", "known_values", "prior_targets")
        kept = {name: value[parts] for name in of_parts if (value := getattr(self, name)) is not None}
        kept |= {"membership": self.membership[used][:, parts], "parts": compress(self.parts, parts)}
        return replace(self, codes=codes, conditions=self.conditions.iloc[used], **kept)


def condition_in(
    table: pd.DataFrame, row: int, membership: np.ndarray, parts: Sequence[str], features: np.ndarray
) -> Condition:
    """The condition in one row of a table, from membership (conditions, parts) and features (parts, p)."""
    members = membership[row].astype(bool)
    rows = np.asarray(features, dtype=np.float32)[members]
    label, perturbation, dose = table.iloc[row][["condition", "perturbation", "dose"]]
    return Condition(
        str(label), str(perturbation), float(dose), rows.sum(axis=0), tuple(compress(parts, members)), rows
    )


def _check_split(entry: Entry, split: np.ndarray, codes: np.ndarray) -> None:
    """Refuse where a condition that is trained on has test cells alone, or one that is held out has others."""
    has_any, has_other = (np.isin(np.arange(len(entry.labels)), found) for found in (codes, codes[split != "test"]))
    wrong = has_any & (has_other == (entry.conditions["split"] == "test").to_numpy())
    if wrong.any():
        raise InvalidValue(
            f"adata.obs[{entry.keys.split!r}] was changed for {listing(np.array(entry.labels)[wrong])}: genes and "
            "features were chosen with other conditions held out. Run scgim.pp.hold_out (or scgim.pp.prepare) with the "
            "conditions that are not to be trained on."
        )
