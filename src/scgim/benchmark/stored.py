"""What a run keeps, cell by cell, and how it is read back."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scgim import __version__

from .methods import Method
from .tasks import TaskSpec

logger = logging.getLogger("scgim")

#: Columns of every table of results after those of the task.
RESULT_COLUMNS = ["method", "split", "metric", "value", "n"]


@dataclass(frozen=True)
class Cell:
    """One method on one task."""

    task: TaskSpec
    method: Method

    @property
    def name(self) -> str:
        """Unique among the cells of a run; a file name."""
        return f"{self.task.name}__{self.method.name}"

    def signature(self) -> dict[str, str]:
        """What a stored result must agree with to be used again."""
        kind = self.method.kind
        return {
            "task": repr(self.task),
            "kind": kind if isinstance(kind, str) else self.method.cls.name,
            "options": repr(sorted(self.method.options.items())),
        }


def results(cells: Sequence[Cell], out: str | Path) -> pd.DataFrame:
    """The stored results of these cells as one tidy table.

    Returns
    -------
    pandas.DataFrame
        One row per cell, split and metric: task (its name), the columns of the task, method, split, metric, value,
        n (queries that entered). Split "fit" has seconds, cpu_seconds, peak_memory_mib and failed (0 or 1); "graph"
        what concerns the graph.
        Cells without a result have no rows.
    """
    tables = []
    for cell in cells:
        found = read_cell(Path(out) / "cells", cell)
        if found is None:
            continue
        rows = [{"split": "fit", "metric": "failed", "value": float(found["failure"] is not None), "n": 1}]
        rows += [{"split": "fit", "metric": k, "value": v, "n": 1} for k, v in found["fit"].items()]
        table = pd.DataFrame(rows + found["rows"])
        identity = {"task": cell.task.name, **cell.task.columns(), "method": cell.method.name}
        for name, value in reversed(list(identity.items())):
            table.insert(0, name, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=RESULT_COLUMNS)


def failures(cells: Sequence[Cell], out: str | Path) -> pd.DataFrame:
    """Cells that failed: task, method, reason."""
    rows = []
    for cell in cells:
        found = read_cell(Path(out) / "cells", cell)
        if found is not None and found["failure"] is not None:
            rows.append((cell.task.name, cell.method.name, found["failure"]))
    return pd.DataFrame(rows, columns=["task", "method", "reason"])


def notes(cells: Sequence[Cell], out: str | Path) -> pd.DataFrame:
    """Metrics that have no value in finished cells, and why: note, cells (how many), methods."""
    rows = []
    for cell in cells:
        found = read_cell(Path(out) / "cells", cell)
        rows += [(note, cell.name, cell.method.name) for note in dict.fromkeys((found or {}).get("notes", []))]
    table = pd.DataFrame(rows, columns=["note", "cell", "method"])
    grouped = table.groupby("note", sort=False)
    counted = grouped.agg(cells=("cell", "size"), methods=("method", lambda m: ", ".join(dict.fromkeys(m))))
    return counted.reset_index()


def commits(cells: Sequence[Cell], out: str | Path) -> list[str]:
    """The commits of scgim that the stored results were computed with; empty for an installed package."""
    found = (read_cell(Path(out) / "cells", cell) for cell in cells)
    return sorted({str(result["commit"]) for result in found if result is not None and result.get("commit")})


def curves(cell: Cell, out: str | Path) -> pd.DataFrame:
    """True and learned dose responses of a finished cell: perturbation, dose, gene, true, learned, probability.

    Empty where the task knows no curves or the method gives no effects.
    """
    found = read_cell(Path(out) / "cells", cell)
    return pd.DataFrame((found or {}).get("curves", []))


def kept_details(cell: Cell, out: str | Path) -> dict[str, Any]:
    """What :func:`scgim.benchmark.details.details` kept of a finished cell; empty where it is not finished."""
    found = read_cell(Path(out) / "cells", cell)
    return dict((found or {}).get("details") or {})


def read_cell(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The stored outcome of a cell; None where there is none, or its settings have changed."""
    path = folder / f"{cell.name}.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    if found["signature"] != cell.signature():
        logger.info("%s has other settings now: it is run again", cell.name)
        return None
    for row in found["rows"]:
        row["value"] = math.nan if row["value"] is None else row["value"]
    return found


def write_cell(folder: Path, cell: Cell, outcome: dict[str, Any]) -> None:
    """Store an outcome, whole or not at all."""
    for row in outcome["rows"]:
        row["value"] = None if math.isnan(row["value"]) else row["value"]  # JSON knows no NaN
    text = json.dumps({"signature": cell.signature(), "scgim": __version__, **outcome}, indent=1)
    partial = folder / f".{cell.name}.part"
    partial.write_text(text)
    partial.replace(folder / f"{cell.name}.json")
