"""Groups: one set of slots per cell line or donor, each made by the same code."""

from __future__ import annotations

import numbers
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._keys import Keys
from .._logging import logger
from .._storage import from_storable
from .._validation import listing, plural, require_column
from ..slots import read_entry
from .conditions import CellLabels, text_labels
from .design import Design, build_design
from .features import complete_spec, feature_source, featurize
from .fingerprints import smiles_of_perturbations
from .markers import choose_markers
from .normalise import Depth, as_matrix, take_rows
from .potency import part_responses
from .slots import GroupSlots, design_entries, feature_entries, in_group, versions
from .splits import SPLITS, Absent, split_design, training_parts

if TYPE_CHECKING:
    from anndata import AnnData


def split_groups(obs: pd.DataFrame, groupby: str | list[str] | None) -> list[tuple[str | None, np.ndarray]]:
    """Name and members, (cells,) bool, of each group; one without a name where there is no `groupby`."""
    if groupby is None:
        return [(None, np.ones(len(obs), dtype=bool))]
    columns = [text_labels(require_column(obs, name, "groupby")) for name in np.atleast_1d(groupby).tolist()]
    kinds = {row: None if None in row else "_".join(row) for row in zip(*columns, strict=True)}
    column = np.array([kinds[row] for row in zip(*columns, strict=True)], dtype=object)
    names = sorted({name for name in kinds.values() if name is not None})
    if not names:
        raise ValueError(f"groupby={groupby!r}: every value of adata.obs[{groupby!r}] is missing. Leave groupby out.")
    same = [row for row, name in kinds.items() if name and list(kinds.values()).count(name) > 1]
    if same:
        raise ValueError(
            f"groupby={groupby!r}: {listing(same)} would be one group, {kinds[same[0]]!r}. Rename one of their values."
        )
    missing = sum(name is None for name in column)
    if missing:
        logger.info("left out, no group in obs[%r]: %s", groupby, plural(missing, "cell"))
    return [(name, column == name) for name in names]


def prepare_cells(
    adata: AnnData,
    labels: CellLabels,
    members: np.ndarray,
    depth: Depth,
    keys: Keys,
    arguments: dict[str, Any],
    absent: Absent | None = None,
) -> GroupSlots:
    """Conditions, splits and features of one group: everything but the choice of genes.

    Parameters
    ----------
    adata
        Read only.
    labels
        Of all cells.
    members
        (cells,) bool: the cells of this group.
    depth
        Of all cells.
    keys
        Slot names of this group.
    arguments
        Those of `prepare`.
    absent
        Where there are several groups: takes what is to be held out and this group lacks.
    """
    where = in_group(keys)
    keep = members & (labels.codes >= 0)
    found = [("cells", int(members.sum()), "")]
    for reason, flags in labels.reasons.items():
        found.append((f"cells left out: {reason}", int((flags & members).sum()), ""))
    controls = keep & (labels.codes == 0)
    if not controls.any():
        raise ValueError(
            f"No control cells{where}: every group needs cells with the control label {labels.control!r} (or "
            "dose 0). Correct control=, or leave such groups out of adata first."
        )
    _check_depth(adata.obs_names, depth, keep, controls, arguments, where)
    target_sum = float("nan")
    if arguments["input"] == "counts":
        target_sum = float(np.median(depth.total[controls & (depth.total > 0)]))
    shallow = keep & ~depth.enough
    if shallow.any():
        few = f"fewer than {arguments['min_counts']} counts"
        what = few if arguments["input"] == "counts" else "all genes zero"
        median = f"median total {np.median(depth.total[keep]):g}"
        found.append((f"cells left out: {what}", int(shallow.sum()), median))
    least = arguments["min_cells_per_condition"]
    design, small = build_design(
        labels,
        members,
        depth.enough,
        min_cells=least,
        small_conditions=arguments["small_conditions"],
        where=where,
    )
    if small.any():
        found.append(("cells left out: small condition", int(small.sum()), f"fewer than {least} cells"))
    spec_base = {
        "control": labels.control,
        "combination_sep": arguments["combination_sep"],
        "dose_unit": labels.dose_unit,
    }
    split = split_design(
        design,
        adata.obs_names,
        arguments["hold_out"],
        combination_sep=arguments["combination_sep"],
        has_dose=labels.has_dose,
        dose_unit=labels.dose_unit,
        valid_fraction=arguments["valid_fraction"],
        test_fraction=arguments["test_fraction"],
        seed=arguments["rng"],
        where=where,
        absent=absent,
    )
    slots = GroupSlots(keys, design, split, target_sum=target_sum, found=found)
    slots.store(design_entries(design))
    complete_features(slots, spec_base | part_features(adata.obs, design, arguments, has_dose=labels.has_dose))
    features = arguments["features"]
    stored = arguments | {
        "features": features if isinstance(features, str) else "DataFrame",
        "genes": _names(arguments["genes"]),
        "control": _as_stored(arguments["control"]),
    }
    slots.store({"params": {"prepare": stored, "versions": versions(), "target_sum": target_sum}})
    return slots


def part_features(obs: pd.DataFrame, design: Design, arguments: dict[str, Any], *, has_dose: bool) -> dict[str, Any]:
    """Source of the features of a design's parts."""
    parts, features = design.part_list, arguments["features"]
    smiles = None
    if isinstance(features, str) and features == "fingerprint":
        names = sorted({name for name, _ in parts})
        smiles = smiles_of_perturbations(obs, arguments["perturbation_key"], arguments["smiles_key"], names)
    return feature_source(features, parts, has_dose=has_dose, smiles=smiles)


def choose_genes(slots: GroupSlots, modelled: Any, var_names: pd.Index, arguments: dict[str, Any]) -> None:
    """Choose the genes of one group from its training cells, and add them to its slots."""
    training = np.flatnonzero((slots.split >= 0) & (slots.split < SPLITS.index("test")))
    # One format for every input, so that the choice does not depend on how the matrix was stored.
    values = sp.csr_matrix(take_rows(modelled, training))
    markers = choose_markers(
        values,
        var_names,
        slots.design.codes[training] > 0,
        kind=arguments["input"],
        genes=arguments["genes"],
        n_genes=arguments["n_genes"],
        n_top_genes=arguments["n_top_genes"],
        min_cells=arguments["min_cells"],
        silent_genes=arguments["silent_genes"],
        where=slots.where,
    )
    slots.genes, slots.score = markers.chosen, markers.score
    measure_potency(slots, markers.chosen, modelled)
    few = arguments["min_cells"]
    note = "" if arguments["input"] == "continuous" else f"in at least {few} training cells"
    slots.found += [
        ("genes", len(var_names), ""),
        ("genes considered", markers.n_expressed, "named by genes=" if _names(arguments["genes"]) else note),
        ("genes highly variable", markers.n_variable, ""),
        ("genes modelled", int(markers.chosen.sum()), listing(var_names[markers.chosen], most=5)),
    ]


def choose_genes_again(adata: AnnData, slots: GroupSlots, arguments: dict[str, Any]) -> None:
    """Choose the genes as they were chosen, from what is trained on now; measures the potency, too."""
    before = int(read_entry(adata, slots.keys.key, slots.keys.group).prepared["n_vars"])
    named = arguments["genes"] is not None and not isinstance(arguments["genes"], str)
    if adata.n_vars != before and not named:
        raise ValueError(
            f"hold_out{slots.where}: the genes were chosen from {before}, of which adata has {adata.n_vars}; they "
            "cannot be chosen again without the cells that are to be held out. Give hold_out= to scgim.pp.prepare, or "
            "hold out before genes are removed."
        )
    if adata.isbacked:
        raise ValueError("adata is backed (its X is on disk): load it first with adata = adata.to_memory().")
    old = slots.genes
    choose_genes(slots, as_matrix(adata.X), adata.var_names, arguments)
    changed = int((slots.genes & ~old).sum())  # type: ignore[operator]
    if changed:
        logger.info("genes chosen again%s, without what is held out: %d are new.", slots.where, changed)


def measure_potency(slots: GroupSlots, genes: np.ndarray, modelled: Any) -> None:
    """Where the features are made of it, read the potency of each perturbation from these genes."""
    spec = from_storable(slots.uns["feature_spec"])
    if spec["kind"] != "potency":
        return
    spec["responses"] = part_responses(_without_test_cells(slots), genes, modelled)._asdict()
    complete_features(slots, spec)


def _without_test_cells(slots: GroupSlots) -> Design:
    return replace(slots.design, codes=np.where(slots.split == SPLITS.index("test"), -1, slots.design.codes))


def complete_features(slots: GroupSlots, source: dict[str, Any]) -> None:
    """Fix what depends on the training conditions, and store the features."""
    design = slots.design
    trained, alone = (training_parts(design.table, design.membership, alone=only) for only in (False, True))
    spec = complete_spec(source, design.part_list, trained, alone)
    slots.store(feature_entries(spec, featurize(spec, design.part_list)))


def _check_depth(
    cells: pd.Index,
    depth: Depth,
    keep: np.ndarray,
    controls: np.ndarray,
    arguments: dict[str, Any],
    where: str,
) -> None:
    """Refuse a filter that leaves no control, or keeps empty cells; warn where it takes most cells."""
    total, least = depth.total, arguments["min_counts"]
    if arguments["input"] == "counts" and least == 0 and (keep & (total == 0)).any():
        empty = cells[keep & (total == 0)]
        raise ValueError(
            f"{plural(len(empty), 'cell')}{where} without any counts: {listing(empty, most=5)}. Raise "
            "min_counts to at least 1 to leave them out."
        )
    if not (controls & depth.enough).any():
        if arguments["input"] != "counts":
            raise ValueError(f"Every control cell{where} is zero in all genes; check control= and layer=.")
        raise ValueError(
            f"No control cells are left{where}: all {int(controls.sum())} have fewer than "
            f"min_counts={least} counts (their median is {np.median(total[controls]):g}). Lower min_counts, or "
            "leave it out: it is then chosen by what was measured."
        )
    lost = 1 - (keep & depth.enough).sum() / keep.sum()
    if lost > 0.5:
        logger.warning(
            "min_counts=%d leaves out %.0f %% of the cells%s (median total %g); lower it if this is no whole "
            "transcriptome.",
            least,
            100 * lost,
            where,
            np.median(total[keep]),
        )


def _as_stored(control: Any) -> Any:
    """Labels as a file can hold them: a date is its text."""
    if isinstance(control, list | tuple | set | np.ndarray | pd.Index):
        return [_as_stored(label) for label in control]
    return control if control is None or isinstance(control, str | numbers.Real) else str(control)


def _names(genes: Any) -> Any:
    return genes if genes is None or isinstance(genes, str) else [str(gene) for gene in genes]
