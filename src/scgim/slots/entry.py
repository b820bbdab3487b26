"""One preparation and its fit as stored, checked against the cells and genes that are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd

from .._errors import InvalidValue, NotFound
from .._validation import listing, plural
from .cells import cell_hashes, unknown_cells
from .codec import from_storable
from .keys import SPLITS, Keys

if TYPE_CHECKING:
    from anndata import AnnData

#: One perturbation and its dose (NaN where there is none).
Part = tuple[str, float]
_TEXT = {"condition": str, "perturbation": str, "split": str, "is_control": bool, "dose": float}


@dataclass(frozen=True)
class Entry:
    """What was stored under one key (and group), with the names by which cells and genes are found again.

    keys: slot names; uns: the entry with the tables for people; prepared, fitted: what `pp.prepare` and `tl.fit_gim`
    recorded (`fitted` is empty before a fit); weights: arrays of the fitted model.
    """

    keys: Keys
    uns: Mapping[str, Any]
    prepared: Mapping[str, Any]
    fitted: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]

    # -- what was stored ------------------------------------------------------------------------------------

    @cached_property
    def conditions(self) -> pd.DataFrame:
        """The table of conditions, control first, its labels as plain strings."""
        return self.prepared["conditions"].astype(_TEXT)

    @cached_property
    def parts(self) -> list[Part]:
        """(name, dose) of each part, in the order of the columns of `membership`."""
        table = self.prepared["parts"]
        return list(zip(table["perturbation"].astype(str), table["dose"].astype(float), strict=True))

    @property
    def membership(self) -> np.ndarray:
        """(conditions, parts) 0/1."""
        return self.prepared["membership"]

    @property
    def features(self) -> np.ndarray:
        """(parts, p)"""
        return self.prepared["features"]

    @cached_property
    def spec(self) -> dict[str, Any]:
        """How features are made: the argument of `pp.featurize`."""
        return from_storable(self.prepared["feature_spec"])

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `pp.prepare`."""
        return from_storable(self.prepared["params"])["prepare"]

    @property
    def notation(self) -> dict[str, Any]:
        """How perturbations are written: arguments of `pp.parse_perturbations`."""
        return {name: self.spec[name] for name in ("control", "combination_sep", "has_dose", "dose_unit")}

    @property
    def dose_unit(self) -> str:
        """Unit of the doses; empty where none is known."""
        return str(self.spec.get("dose_unit") or "")

    @property
    def control(self) -> str:
        """Label of the control condition."""
        return str(self.conditions["condition"][self.conditions["is_control"]].iloc[0])

    @property
    def is_control(self) -> np.ndarray:
        """(conditions,) bool"""
        return self.conditions["is_control"].to_numpy(dtype=bool)

    @cached_property
    def labels(self) -> list[str]:
        """Labels of the conditions."""
        return self.conditions["condition"].tolist()

    @property
    def genes(self) -> list[str]:
        """The modelled genes, as chosen by `pp.prepare`."""
        return [str(gene) for gene in self.prepared["genes"]]

    def parts_of(self, label: str) -> list[Part]:
        """The parts of a condition; none for the control."""
        return [self.parts[i] for i in np.flatnonzero(self.membership[self.labels.index(label)])]

    # -- against the cells and genes that are there ---------------------------------------------------------

    def positions(self, adata: AnnData) -> np.ndarray:
        """(genes,) place of each modelled gene in `adata.var`.

        Raises
        ------
        ValueError
            If one is not there any more.
        """
        names = pd.Index(self.genes, dtype=object)
        found = pd.Index(adata.var_names.astype(str), dtype=object).get_indexer(names)
        if (found < 0).any():
            raise InvalidValue(
                f"adata lacks {int((found < 0).sum())} of the {len(names)} modelled genes of {self.keys.prefix!r}: "
                f"{listing(names[found < 0])}. They were removed or renamed since scgim.pp.prepare: read the original "
                "file, or run scgim.pp.prepare again (genes are chosen before it, or with genes=)."
            )
        return found

    def expression(self, adata: AnnData, rows: np.ndarray) -> np.ndarray:
        """Modelled genes of the given cells, float32 (cells, genes) in the order of `genes`; unchecked."""
        places = self.positions(adata)
        order = np.argsort(places, kind="stable")
        out = np.empty((len(rows), len(places)), dtype=np.float32)
        out[:, order] = dense(adata[rows, places[order]].X)  # a file is read in its own order
        return out

    def codes(self, adata: AnnData) -> np.ndarray:
        """(cells,) row of `conditions` for each cell, -1 for those that are not modelled.

        Raises
        ------
        KeyError
            If `adata.obs` has no column of conditions.
        ValueError
            If it names a condition that was not prepared.
        """
        column = self._column(adata, self.keys.condition)
        codes = pd.Index(self.labels, dtype=object).get_indexer(column)
        new = column[(codes < 0) & pd.notna(column)]
        if len(new):
            raise InvalidValue(
                f"adata.obs[{self.keys.condition!r}] names {listing(sorted(set(new)))} ({plural(len(new), 'cell')}), "
                "which scgim.pp.prepare did not: conditions were renamed, or cells were added since. Run "
                f"scgim.pp.prepare again{self._again}."
            )
        return codes

    def split(self, adata: AnnData) -> np.ndarray:
        """(cells,) `train`, `valid` or `test`; None where a cell has none."""
        column = self._column(adata, self.keys.split)
        odd = sorted({str(v) for v in column[pd.notna(column)]} - set(SPLITS))
        if odd:
            raise InvalidValue(
                f"adata.obs[{self.keys.split!r}] holds {listing(odd)}; a cell is 'train', 'valid' or 'test'. Run "
                "scgim.pp.hold_out to choose again."
            )
        return column

    def read_cells(
        self, adata: AnnData, rows: np.ndarray, codes: np.ndarray, *, all_of_them: bool = False
    ) -> np.ndarray:
        """`expression` of cells that are proved to be the prepared ones: same values, same conditions.

        Parameters
        ----------
        adata
            With the cells.
        rows
            Which cells.
        codes
            From `codes`, of all cells.
        all_of_them
            Refuse as well where a prepared cell is missing (rows are then all modelled cells).

        Raises
        ------
        ValueError
            Naming what changed, and what to do.
        """
        x = self.expression(adata, rows)
        if not np.isfinite(x).all():
            bad = listing(np.array(self.genes)[~np.isfinite(x).all(0)])
            raise InvalidValue(f"adata.X has NaN or infinite values in {bad}: clean it and run scgim.pp.prepare again.")
        found = cell_hashes(x, self.genes, np.array(self.labels, dtype=object)[codes[rows]])
        unknown = unknown_cells(found, self.prepared["cells"])
        if unknown.any():
            self._refuse_changed(adata, rows[unknown], len(rows))
        if all_of_them:
            self.count_cells(codes)
        return x

    def count_cells(self, codes: np.ndarray) -> None:
        """Refuse where a condition has not the number of cells that it was prepared with."""
        present = np.bincount(codes[codes >= 0], minlength=len(self.labels))
        before = self.conditions["n_cells"].to_numpy()
        changed = np.flatnonzero(present != before)
        if not len(changed):
            return
        told = [f"{self.labels[i]} has {present[i]} of {before[i]}" for i in changed]
        raise InvalidValue(
            f"adata has {int(present.sum())} of the {int(before.sum())} cells that scgim.pp.prepare described under "
            f"{self.keys.prefix!r}: {', '.join(told[:5])}{', ...' if len(told) > 5 else ''}. Conditions, genes and "
            "features were chosen with all of them: run scgim.pp.prepare again"
            f"{self._again}, on the cells that are to be used."
        )

    def _column(self, adata: AnnData, name: str) -> np.ndarray:
        if name not in adata.obs:
            raise NotFound(
                f"adata.obs[{name!r}] of {self.keys.prefix!r} is missing: the object was joined, or these are other "
                f"cells. Read the original file, or run scgim.pp.prepare again{self._again}."
            )
        codes, names = pd.factorize(adata.obs[name].astype(object))  # by value: text has many types
        return np.array([*(str(value) for value in names), None], dtype=object)[codes]

    @property
    def _again(self) -> str:
        """Prepared counts were moved to a layer, from which they have to be taken the next time."""
        return ' with layer="counts"' if self.arguments.get("input") == "counts" else ""

    def _refuse_changed(self, adata: AnnData, rows: np.ndarray, n: int) -> NoReturn:
        first = str(adata.obs_names[rows[0]])
        raise InvalidValue(
            f"{len(rows)} of {plural(n, 'cell')} are not what scgim.pp.prepare left under {self.keys.prefix!r} (the "
            f"first is {first!r}): adata.X was changed (scaled, normalised or corrected again), cells moved to another "
            f"condition, or cells were added. Read the original file, or run scgim.pp.prepare again{self._again}."
        )


def dense(x: Any) -> np.ndarray:
    """Float32 values in memory, from a dense, sparse or Dask array."""
    for convert in ("compute", "toarray"):  # Dask, then sparse
        if hasattr(x, convert):
            x = getattr(x, convert)()
    return np.asarray(x, dtype=np.float32)
