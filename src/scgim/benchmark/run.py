"""Run methods on tasks: in parallel, each in a process of its own, resumable, failures recorded."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import pandas as pd
from tqdm.auto import tqdm

from scgim import __version__
from scgim._process import one_thread
from scgim.baselines.limits import peak_memory

from .curves import effect_curves
from .details import details
from .methods import Method
from .provenance import commit
from .scores import score
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


def run(
    cells: Iterable[Cell],
    out: str | Path,
    *,
    jobs: int = 1,
    time_limit: float | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Fit and score every cell that has no result yet; return all results.

    Every cell runs in a process of its own, so that its peak memory is its own, a crash ends nothing else, and
    a time limit can be held. What is finished is stored in `out` at once: interrupt, and call again to go on.

    Parameters
    ----------
    cells
        What to run.
    out
        Folder; one JSON file per cell goes to ``out/cells``.
    jobs
        Processes at a time, each with one thread. 0: in this process, one after the other, also with one thread (no
        time limit, no peak memory; for methods that are defined in a notebook).
    time_limit
        Seconds for one fit, simulation or reading included. A cell that exceeds it is recorded as failed.
    retry_failed
        Run cells again whose stored result is a failure.
    progress
        Show a tqdm bar.

    Returns
    -------
    pandas.DataFrame
        As :func:`results`, of these cells.

    Raises
    ------
    ValueError
        If two cells have the same name, or a method is unknown.

    Examples
    --------
    >>> import tempfile
    >>> from scgim.benchmark import Cell, Method, SyntheticTask, run
    >>> tiny = SyntheticTask(n_genes=4, n_perturbations=2, n_features=3, n_new_targets=1, n_control=20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = run([Cell(tiny, Method("ridge"))], folder, jobs=0, progress=False)
    >>> table.query("split == 'fit'")["metric"].tolist()
    ['failed', 'seconds', 'cpu_seconds']
    """
    cells = list(cells)
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise ValueError(f"Two cells have the name {next(n for n in names if names.count(n) > 1)!r}.")
    if jobs == 0 and time_limit is not None:
        raise ValueError("A time limit needs jobs >= 1: a fit in this process cannot be ended.")
    for method in {cell.method.name: cell.method for cell in cells}.values():
        method.cls  # noqa: B018  an unknown method is an error now, not after hours
    folder = Path(out) / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    stored = {cell.name: _read(folder, cell) for cell in cells}
    todo = [
        cell for cell in cells
        if (old := stored[cell.name]) is None or (retry_failed and old["failure"] is not None)
    ]  # fmt: skip
    if len(todo) < len(cells):
        logger.info("%d of %d cells are finished already", len(cells) - len(todo), len(cells))
    bar = tqdm(total=len(todo), disable=not progress, desc="benchmark", unit="cell")
    code = commit() if todo else ""
    try:
        for cell, outcome in _outcomes(todo, jobs, time_limit):
            _write(folder, cell, {"commit": code, **outcome})
            if outcome["failure"] is not None:
                logger.warning("%s failed: %s", cell.name, outcome["failure"])
            bar.set_postfix_str(cell.name)
            bar.update(1)
    finally:
        bar.close()
    return results(cells, out)


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
        found = _read(Path(out) / "cells", cell)
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
        found = _read(Path(out) / "cells", cell)
        if found is not None and found["failure"] is not None:
            rows.append((cell.task.name, cell.method.name, found["failure"]))
    return pd.DataFrame(rows, columns=["task", "method", "reason"])


def commits(cells: Sequence[Cell], out: str | Path) -> list[str]:
    """The commits of scgim that the stored results were computed with; empty for an installed package."""
    found = (_read(Path(out) / "cells", cell) for cell in cells)
    return sorted({str(result["commit"]) for result in found if result is not None and result.get("commit")})


def curves(cell: Cell, out: str | Path) -> pd.DataFrame:
    """True and learned dose responses of a finished cell: perturbation, dose, gene, true, learned, probability.

    Empty where the task knows no curves or the method gives no effects.
    """
    found = _read(Path(out) / "cells", cell)
    return pd.DataFrame((found or {}).get("curves", []))


def kept_details(cell: Cell, out: str | Path) -> dict[str, Any]:
    """What :func:`scgim.benchmark.details.details` kept of a finished cell; empty where it is not finished."""
    found = _read(Path(out) / "cells", cell)
    return dict((found or {}).get("details") or {})


def _read(folder: Path, cell: Cell) -> dict[str, Any] | None:
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


def _write(folder: Path, cell: Cell, outcome: dict[str, Any]) -> None:
    for row in outcome["rows"]:
        row["value"] = None if math.isnan(row["value"]) else row["value"]  # JSON knows no NaN
    text = json.dumps({"signature": cell.signature(), "scgim": __version__, **outcome}, indent=1)
    partial = folder / f".{cell.name}.part"
    partial.write_text(text)
    partial.replace(folder / f"{cell.name}.json")


def _outcomes(todo: list[Cell], jobs: int, time_limit: float | None) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield (cell, outcome) as they finish."""
    if jobs == 0:
        for cell in todo:
            yield cell, _attempt(cell, None)
        return
    context = _context()
    waiting = list(reversed(todo))
    running: dict[Any, tuple[Cell, Any, float, dict[str, Any]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop()
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(cell, there), daemon=True)
                process.start()
                there.close()
                running[here] = (cell, process, time.monotonic(), {})
            soonest = min(_left(start, time_limit, fit) for _, _, start, fit in running.values())
            for ready in wait(list(running), timeout=soonest):
                here = cast(Connection, ready)
                cell, process, _, fit = running[here]
                try:
                    message = here.recv()
                except EOFError:  # the process died: memory, a crash in compiled code
                    process.join()
                    reason = f"the process ended with exit code {process.exitcode}"
                    message = {"failure": reason, "fit": fit, "rows": []}
                if "rows" not in message:  # the fit is done, scoring has begun: the time limit is over
                    fit.update(message)
                    continue
                here.close()
                process.join()
                del running[here]
                yield cell, message
            for here, (cell, process, start, fit) in list(running.items()):
                if _left(start, time_limit, fit) <= 0 and not here.poll():
                    process.kill()
                    process.join()
                    here.close()
                    del running[here]
                    yield cell, {"failure": f"time limit of {time_limit:g} s", "fit": {}, "rows": []}
    finally:
        for _, process, _, _ in running.values():
            process.kill()


def _context() -> Any:
    """Fresh processes: forked from a clean server that has imported the libraries but used none of them, where the
    system can do that (a torch that has worked must not be forked), else spawned."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scgim.benchmark", "scgim.inference", "anndata", "sklearn.linear_model"])
    return context


def _left(start: float, time_limit: float | None, fit: dict[str, Any]) -> float:
    """Seconds until a cell must be ended; a long time where it need not."""
    return 3600.0 if time_limit is None or fit else max(0.0, start + time_limit - time.monotonic())


def _work(cell: Cell, there: Connection) -> None:
    """Run in the child."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("scgim").setLevel(logging.ERROR)
    there.send(_attempt(cell, there))
    there.close()


def _end_with_parent() -> None:
    """A run that is killed must leave no fits behind: its own clean-up does not happen then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attempt(cell: Cell, there: Connection | None) -> dict[str, Any]:
    """Load, fit, score. Whatever goes wrong is the outcome of this cell, and the others go on."""
    fit: dict[str, float] = {}
    try:
        with one_thread():
            task = cell.task.load()
        method = cell.method.make(task)
        with one_thread():  # once more: numba, which reads and prepares cells, resets the number
            start, cpu = time.perf_counter(), time.process_time()
            fitted = method.fit(task.train, cell.task.seed)
            fit["seconds"], fit["cpu_seconds"] = time.perf_counter() - start, time.process_time() - cpu
        if there is not None:
            fit["peak_memory_mib"] = peak_memory()
            there.send(fit)
        for name in ("n_edges_dropped",):
            if hasattr(fitted, f"{name}_"):
                fit[name] = float(getattr(fitted, f"{name}_"))
        with one_thread():
            rows, learned = score(fitted, task, cell.task.seed), effect_curves(fitted, cell.task)
        if len(learned):
            error = (learned["learned"] - learned["true"]).pow(2).mean() ** 0.5
            rows.append({"split": "train", "metric": "effect_rmse", "value": float(error), "n": len(learned)})
        kept = {"curves": learned.round(4).to_dict("list"), "details": details(fitted, task, cell.task.seed)}
        return {"failure": None, "fit": fit, "rows": rows, **kept}
    except Exception as error:
        logger.debug("%s", traceback.format_exc())
        return {"failure": f"{type(error).__name__}: {error}", "fit": fit, "rows": []}
