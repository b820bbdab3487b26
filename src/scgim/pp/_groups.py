"""Groups: the slots of one cell line or donor (or of all cells), each made, changed and summarised by the same code."""

from __future__ import annotations

import importlib.metadata
import numbers
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import InvalidValue
from .._logging import logger
from .._validation import listing, plural, require_column
from ..slots import Entry, detach, drop_fit, groups_of, read_entry, write_prepared
from ..slots.codec import from_storable, to_storable
from ..slots.keys import SPLITS, Keys
from ._conditions import CellLabels, text_labels
from ._descriptors import smiles_of_perturbations
from ._design import Absent, Design, build_design, split_cells
from ._doses import part_responses
from ._encodings import Encoding, Potency, new_encoding
from ._expression import Depth, GeneSums, choose_markers, sum_genes
from ._matrix import columns_of

if TYPE_CHECKING:
    from anndata import AnnData

_PACKAGES = ("anndata", "numpy", "pandas", "pyro-ppl", "scanpy", "scipy", "torch")


@dataclass
class Group:
    """All that is to be written for one group of cells (or for all cells)."""

    keys: Keys
    design: Design
    split: np.ndarray  # (cells,) index into SPLITS, -1 = not modelled
    notation: dict[str, Any]  # how perturbations are written
    encoding: Encoding
    params: dict[str, Any]
    n_vars: int  # genes from which those that are modelled were chosen
    features: np.ndarray | None = None  # (parts, p)
    summary: dict[str, tuple[int, str]] = field(default_factory=dict)  # item -> number, detail; empty: none is kept
    genes: np.ndarray | None = None  # (genes,) bool
    score: np.ndarray | None = None  # (genes,)
    values: np.ndarray | None = None  # (cells, modelled genes) where they were read
    size_factor: np.ndarray | None = None  # (cells,) where it is to be written

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of `prepare`."""
        return self.params["prepare"]

    @property
    def where(self) -> str:
        """Which group this is, for messages."""
        return in_group(self.keys)

    def encode(self) -> None:
        """Fix what depends on the training conditions, and compute the features."""
        parts = self.design.part_list
        self.encoding.fit(parts, *(self.design.trained_parts(alone=alone) for alone in (False, True)))
        self.features = self.encoding.transform(parts)

    def read_potency(self) -> None:
        """Where the features are made of it, read the potency of each perturbation from the chosen genes."""
        if isinstance(self.encoding, Potency) and self.values is not None:
            seen = replace(self.design, codes=np.where(self.split == SPLITS.index("test"), -1, self.design.codes))
            modelled = np.ones(self.values.shape[1], dtype=bool)
            self.encoding.responses = part_responses(seen, modelled, self.values)._asdict()
            self.encode()

    def choose_genes(
        self, control: GeneSums, perturbed: GeneSums, var_names: pd.Index, arguments: Mapping[str, Any]
    ) -> None:
        """Choose the genes from sums over the training cells."""
        found = choose_markers(control, perturbed, var_names, arguments, self.where)
        self.genes, self.score = found.chosen, found.score
        note = "" if arguments["input"] == "continuous" else f"in at least {arguments['min_cells']} training cells"
        if self.summary:
            self.summary |= {
                "genes": (len(var_names), ""),
                "genes considered": (found.n_expressed, note if arguments["genes"] is None else "named by genes="),
                "genes highly variable": (found.n_variable, ""),
                "genes modelled": (int(found.chosen.sum()), listing(var_names[found.chosen], most=5)),
            }

    def count(self) -> None:
        """Bring the summary's rows about splits, conditions and features up to date, behind those that are there."""
        table, parts = self.design.table, self.design.parts
        held = table.loc[table["split"] == "test", "condition"]
        control, *perturbed = table["n_cells"].tolist()
        if self.summary:
            self.summary |= {f"cells: {name}": (int((self.split == i).sum()), "") for i, name in enumerate(SPLITS)}
        if "genes" in self.summary:
            self.summary |= {
                "control cells": (control, str(table["condition"].iloc[0])),
                "conditions": (len(table), f"{min(perturbed)} to {max(perturbed)} cells in a perturbed one"),
                "conditions held out": (len(held), ", ".join(held)),
                "parts": (len(parts), plural(parts["perturbation"].nunique(), "perturbation")),
                "features per part": (len(self.encoding.feature_names), ""),
            }

    def entries(self) -> dict[str, Any]:
        """What goes to `uns`, in its storable form."""
        spec = self.notation | self.encoding.to_dict()
        entries = {
            "conditions": self.design.table,
            "parts": self.design.parts,
            "membership": self.design.membership,
            "features": self.features,
            "feature_names": spec["feature_names"],
            "feature_spec": spec,
            "params": self.params,
        }
        if "genes" in self.summary:
            entries["summary"] = self.summary_table()
        return {name: to_storable(value, path=name) for name, value in entries.items()}

    def summary_table(self) -> pd.DataFrame:
        """What was found, as it is stored: columns item, n, detail."""
        rows = [(item, *row) for item, row in self.summary.items()]
        index = [str(i) for i in range(len(rows))]
        return to_storable(pd.DataFrame(rows, columns=["item", "n", "detail"], index=index), path="summary")

    def write(self, adata: AnnData, entries: Mapping[str, Any]) -> None:
        """Write every slot; `entries` were made before anything was written."""
        write_prepared(adata, self.keys, entries, self.design.codes, self.split, self.genes, self.score, self.values)
        if self.size_factor is not None:
            adata.obs[self.keys.size_factor] = np.where(self.design.codes >= 0, self.size_factor, np.nan)


def choose_genes(
    groups: list[Group],
    matrix: Any,
    where: str,
    var_names: pd.Index,
    arguments: Mapping[str, Any],
    filled: np.ndarray | None = None,
    *,
    read: Callable[[np.ndarray], np.ndarray] | None = None,
    what: str = "",
) -> None:
    """Choose the genes of every group from its training cells, and read them: two passes over the matrix.

    `matrix`: (cells, genes) log-normalised or continuous values, called `where`; `what` and `filled` as in `tiles`;
    `read`: what reads some genes of it, (genes,) bool, where that is known better.
    """
    classes = np.full(matrix.shape[0], -1)
    for i, group in enumerate(groups):
        training = (group.split >= 0) & (group.split < SPLITS.index("test"))
        classes[training] = 2 * i + (group.design.codes[training] > 0)
    level = arguments["input"] != "continuous" and arguments["genes"] is None
    sums = sum_genes(matrix, where, classes, 2 * len(groups), level=level, what=what, filled=filled)
    for group, control, perturbed in zip(groups, sums[::2], sums[1::2], strict=True):
        group.choose_genes(control, perturbed, var_names, arguments)
    union = np.any([group.genes for group in groups if group.genes is not None], axis=0)
    values = columns_of(matrix, union, where) if read is None else read(union)
    for group in groups:
        group.values = values if len(groups) == 1 else values[:, group.genes[union]]  # type: ignore[index]
        group.read_potency()


def in_group(keys: Keys) -> str:
    """` in group 'A549'`, or nothing where there are no groups."""
    return "" if keys.group is None else f" in group {keys.group!r}"


def split_groups(obs: pd.DataFrame, groupby: str | list[str] | None) -> list[tuple[str | None, np.ndarray]]:
    """Name and members, (cells,) bool, of each group; one without a name where there is no `groupby`."""
    if groupby is None:
        return [(None, np.ones(len(obs), dtype=bool))]
    columns = (text_labels(require_column(obs, name, "groupby")) for name in np.atleast_1d(groupby).tolist())
    cells = list(zip(*columns, strict=True))
    kinds = {row: None if None in row else "_".join(row) for row in cells}
    column = np.array([kinds[row] for row in cells], dtype=object)
    names = sorted({name for name in kinds.values() if name is not None})
    if not names:
        raise InvalidValue(f"groupby={groupby!r}: every value of adata.obs[{groupby!r}] is missing. Leave groupby out.")
    same = [row for row, name in kinds.items() if name and list(kinds.values()).count(name) > 1]
    if same:
        raise InvalidValue(
            f"groupby={groupby!r}: {listing(same)} would be one group, {kinds[same[0]]!r}. Rename one of their values."
        )
    missing = sum(name is None for name in column)
    if missing:
        logger.info(f"left out, no group in obs[{groupby!r}]: {plural(missing, 'cell')}")
    return [(name, column == name) for name in names]


def prepare_cells(
    adata: AnnData,
    labels: CellLabels,
    members: np.ndarray,
    depth: Depth,
    keys: Keys,
    arguments: dict[str, Any],
    absent: Absent | None = None,
) -> Group:
    """Conditions, splits and features of one group, (cells,) bool `members`: everything but the choice of genes.

    `arguments` of `prepare`; `absent`, where there are several groups: takes what is to be held out and this one lacks.
    """
    where = in_group(keys)
    keep = members & (labels.codes >= 0)
    controls = keep & (labels.codes == 0)
    if not controls.any():
        raise InvalidValue(
            f"No control cells{where}: every group needs cells with the control label {labels.control!r} (or "
            "dose 0). Correct control=, or leave such groups out of adata first."
        )
    _check_depth(adata.obs_names, depth, keep, controls, arguments, where)
    counts = arguments["input"] == "counts"
    target_sum = float(np.median(depth.total[controls & (depth.total > 0)])) if counts else float("nan")
    design, small = build_design(labels, members, depth.enough, arguments, where)
    split = split_cells(design, adata.obs_names, arguments, labels.notation, where, absent)
    encoding = encoding_of(adata.obs, design, arguments, has_dose=labels.notation["has_dose"])

    found = {"cells": (int(members.sum()), "")}
    found |= {f"cells left out: {why}": (int((flags & members).sum()), "") for why, flags in labels.reasons.items()}
    shallow = keep & ~depth.enough
    if shallow.any():
        what = f"fewer than {arguments['min_counts']} counts" if counts else "all genes zero"
        found[f"cells left out: {what}"] = (int(shallow.sum()), f"median total {np.median(depth.total[keep]):g}")
    if small.any():
        few = f"fewer than {arguments['min_cells_per_condition']} cells"
        found["cells left out: small condition"] = (int(small.sum()), few)
    found["cells modelled"] = (int((split >= 0).sum()), f"of {adata.n_obs}")
    features, genes = arguments["features"], arguments["genes"]
    stored = arguments | {
        "features": features if isinstance(features, str) else "DataFrame",
        "genes": genes if genes is None or isinstance(genes, str) else [str(gene) for gene in genes],
        "control": _as_stored(arguments["control"]),
    }
    params = {"prepare": stored, "versions": _versions(), "target_sum": target_sum}
    group = Group(keys, design, split, labels.notation, encoding, params, adata.n_vars, summary=found)
    group.encode()
    group.count()
    return group


def encoding_of(obs: pd.DataFrame, design: Design, arguments: Mapping[str, Any], *, has_dose: bool) -> Encoding:
    """The encoding that `features` of the arguments names, before it is fitted."""
    parts, features = design.part_list, arguments["features"]
    smiles = None
    if isinstance(features, str) and features == "fingerprint":
        names = sorted({name for name, _ in parts})
        smiles = smiles_of_perturbations(obs, arguments["perturbation_key"], arguments["smiles_key"], names)
    return new_encoding(features, parts, has_dose=has_dose, smiles=smiles)


def _check_depth(
    cells: pd.Index, depth: Depth, keep: np.ndarray, controls: np.ndarray, arguments: Mapping[str, Any], where: str
) -> None:
    """Refuse a filter that leaves no control, or keeps empty cells; warn where it takes most cells."""
    total, least = depth.total, arguments["min_counts"]
    if arguments["input"] == "counts" and least == 0 and (keep & (total == 0)).any():
        empty = cells[keep & (total == 0)]
        raise InvalidValue(
            f"{plural(len(empty), 'cell')}{where} without any counts: {listing(empty, most=5)}. Raise "
            "min_counts to at least 1 to leave them out."
        )
    if not (controls & depth.enough).any():
        if arguments["input"] != "counts":
            raise InvalidValue(f"Every control cell{where} is zero in all genes; check control= and layer=.")
        raise InvalidValue(
            f"No control cells are left{where}: all {int(controls.sum())} have fewer than "
            f"min_counts={least} counts (their median is {np.median(total[controls]):g}). Lower min_counts, or "
            "leave it out: it is then chosen from the data."
        )
    lost = 1 - (keep & depth.enough).sum() / keep.sum()
    if lost > 0.5:
        logger.warning(
            f"min_counts={least} leaves out {100 * lost:.0f} % of the cells{where} (median total "
            f"{np.median(total[keep]):g}); lower it if this is not a whole transcriptome."
        )


def _as_stored(control: Any) -> Any:
    """Labels as a file can hold them: a date is its text."""
    if isinstance(control, list | tuple | set | np.ndarray | pd.Index):
        return [_as_stored(label) for label in control]
    return control if control is None or isinstance(control, str | numbers.Real) else str(control)


def _versions() -> dict[str, str]:
    """Versions of what prepares the data and of what a fit uses."""
    from .. import __version__

    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"scgim": __version__, "python": platform.python_version(), **found}


def change_groups(adata: AnnData, key: str, group: str | None, step: Callable[[Group], None], written: str) -> None:
    """Apply `step` to the stored slots of each group, then write them all."""
    groups = groups_of(adata, key)
    chosen: list[Any] = [group] if groups is None or group is not None else groups
    changed = [_read_group(adata, read_entry(adata, key, name, genes=False)) for name in chosen]
    for slots in changed:
        step(slots)
        slots.count()
    entries = [slots.entries() for slots in changed]
    detach(adata)
    for slots, entry in zip(changed, entries, strict=True):
        if drop_fit(adata, slots.keys):
            logger.info(f"the earlier fit{slots.where} is removed.")
        slots.write(adata, entry)
    logger.info(written)


def _read_group(adata: AnnData, entry: Entry) -> Group:
    """A copy of what was prepared, checked against the cells."""
    prepared, codes = entry.prepared, entry.codes(adata)
    split = pd.Index(SPLITS, dtype=object).get_indexer(entry.split(adata))
    group = Group(
        entry.keys,
        Design(prepared["conditions"].copy(), prepared["parts"].copy(), entry.membership, codes),
        split,
        notation=entry.notation,
        encoding=Encoding.from_dict(entry.spec),
        params=from_storable(prepared["params"]),
        n_vars=int(prepared["n_vars"]),
        features=entry.features,
    )
    for item, n, detail in prepared["summary"].itertuples(index=False) if "summary" in prepared else []:
        group.summary[item] = (int(n), detail)
    if prepared["genes"] is None:
        entry.count_cells(codes)
    else:  # the cells must be those of the first step, or the record would speak of others
        entry.read_cells(adata, np.flatnonzero(codes >= 0), codes, all_of_them=True)
        group.genes = np.isin(np.arange(adata.n_vars), entry.positions(adata))
        group.score = adata.var[entry.keys.score].to_numpy(dtype=float) if entry.keys.score in adata.var else None
    return group
