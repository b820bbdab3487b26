"""Summary: what `prepare` found, as one table."""

from __future__ import annotations

import pandas as pd

from .._logging import logger
from .._validation import plural
from .slots import GroupSlots
from .splits import SPLITS


def summarise(slots: GroupSlots, shape: tuple[int, int]) -> pd.DataFrame:
    """Cells, cells left out and why, genes and conditions of one group: columns item, n, detail."""
    table = slots.design.table
    rows = list(slots.found)
    at = next(i for i, row in enumerate(rows) if row[0] == "genes")
    splits = _split_rows(slots)
    rows[at:at] = [("cells modelled", int((slots.split >= 0).sum()), f"of {shape[0]}"), *splits[:-1]]
    control = table.iloc[0]
    perturbed = table.iloc[1:]
    counts = perturbed["n_cells"]
    rows += [
        ("control cells", int(control["n_cells"]), str(control["condition"])),
        ("conditions", len(table), f"{counts.min()} to {counts.max()} cells in a perturbed one"),
        splits[-1],
        ("parts", len(slots.design.parts), plural(slots.design.parts["perturbation"].nunique(), "perturbation")),
        _feature_row(slots),
    ]
    return pd.DataFrame(rows, columns=["item", "n", "detail"], index=[str(i) for i in range(len(rows))])


def refresh(slots: GroupSlots) -> None:
    """Bring the summary's rows about splits, features and (where they were chosen again) genes up to date."""
    if "summary" not in slots.uns:
        return
    summary = slots.uns["summary"]
    rows = {item: (n, detail) for item, n, detail in [*_split_rows(slots), *slots.found, _feature_row(slots)]}
    new = [(item, *rows.get(item, (n, detail))) for item, n, detail in summary.itertuples(index=False)]
    slots.store({"summary": pd.DataFrame(new, columns=list(summary.columns), index=summary.index)})


def _split_rows(slots: GroupSlots) -> list[tuple[str, int, str]]:
    """Cells of each split, and the conditions held out (last)."""
    table = slots.design.table
    held = table.loc[table["split"] == "test", "condition"]
    rows = [(f"cells: {name}", int((slots.split == i).sum()), "") for i, name in enumerate(SPLITS)]
    return [*rows, ("conditions held out", len(held), ", ".join(held))]


def _feature_row(slots: GroupSlots) -> tuple[str, int, str]:
    return "features per part", len(slots.uns["feature_names"]), ""


def report(prepared: list[GroupSlots], seconds: float) -> pd.DataFrame:
    """Log the summaries and what was written where; returns them as one table."""
    tables = []
    for slots in prepared:
        table, keys = slots.uns["summary"], slots.keys
        lines = "\n".join(f"  {item:<44} {n:>8}  {detail}" for item, n, detail in table.itertuples(index=False))
        logger.info("prepared%s:\n%s", slots.where, lines)
        logger.info(
            "written: obs[%r], obs[%r], var[%r], var[%r], uns[%r]",
            keys.condition,
            keys.split,
            keys.genes,
            keys.score,
            keys.uns,
        )
        tables.append(table if keys.group is None else table.assign(group=keys.group))
    logger.info("prepared in %.1f s", seconds)
    return pd.concat(tables, ignore_index=True)
