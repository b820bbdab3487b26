"""Run methods on tasks: in parallel, each in a process of its own, resumable, failures recorded."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from scgim._process import one_thread
from scgim.baselines.limits import Child, ChildGone, peak_memory

from .curves import effect_curves
from .details import details
from .provenance import commit
from .scores import score
from .stored import Cell, read_cell, results, write_cell
from .tasks import TaskSpec

logger = logging.getLogger("scgim")


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
        Run cells again whose stored result is a failure, or lacks a metric that failed.
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
    stored = {cell.name: read_cell(folder, cell) for cell in cells}
    todo = [
        cell for cell in cells
        if (old := stored[cell.name]) is None or (retry_failed and (old["failure"] is not None or old.get("notes")))
    ]  # fmt: skip
    if len(todo) < len(cells):
        logger.info("%d of %d cells are finished already", len(cells) - len(todo), len(cells))
    bar = tqdm(total=len(todo), disable=not progress, desc="benchmark", unit="cell")
    code = commit() if todo else ""
    told: set[str] = set()
    try:
        for cell, outcome in _outcomes(todo, jobs, time_limit):
            write_cell(folder, cell, {"commit": code, **outcome})
            if outcome["failure"] is not None:
                logger.warning("%s failed: %s", cell.name, outcome["failure"])
            told = _tell(outcome.get("notes", []), told)
            bar.set_postfix_str(cell.name)
            bar.update(1)
    finally:
        bar.close()
    return results(cells, out)


def _tell(notes: Iterable[str], told: set[str]) -> set[str]:
    """Log what was not said before: a missing package concerns every cell."""
    for note in dict.fromkeys(notes):
        if note not in told:
            logger.warning("no value of %s", note)
    return told | set(notes)


def _outcomes(todo: list[Cell], jobs: int, time_limit: float | None) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield (cell, outcome) as they finish."""
    if jobs == 0:
        for cell in todo:
            yield cell, _attempt(cell, None)
        return
    context, waiting = _context(), list(reversed(todo))
    running: dict[Any, tuple[Cell, Child, dict[str, Any]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop()
                child = Child(_work, pickle.dumps(cell), context)
                running[child.connection] = (cell, child, {})
            ready = wait(
                list(running), timeout=min(_left(child, time_limit, fit) for _, child, fit in running.values())
            )
            for here, (cell, child, fit) in list(running.items()):
                if here in ready:
                    try:
                        message = child.receive()
                    except ChildGone as reason:  # memory, a crash in compiled code
                        message = {"failure": f"the process is gone: {reason}", "fit": fit, "rows": []}
                    if "rows" not in message:  # the fit is done, scoring has begun: the time limit is over
                        fit.update(message)
                        continue
                    child.process.join(5)
                elif _left(child, time_limit, fit) <= 0:
                    message = {"failure": f"time limit of {time_limit:g} s", "fit": {}, "rows": []}
                else:
                    continue
                child.end()
                del running[here]
                yield cell, message
    finally:
        for _, child, _ in running.values():
            child.end()


def _context() -> Any:
    """Fresh processes: forked from a clean server that has imported the libraries but used none of them, where the
    system can do that (a torch that has worked must not be forked), else spawned."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scgim.benchmark", "scgim.inference", "anndata", "sklearn.linear_model"])
    return context


def _left(child: Child, time_limit: float | None, fit: dict[str, Any]) -> float:
    """Seconds until a cell must be ended; a long time where it need not."""
    return 3600.0 if time_limit is None or fit else max(0.0, child.started + time_limit - time.monotonic())


def _work(cell: bytes, tell: Callable[[dict[str, Any]], None]) -> None:
    """Run in the child."""
    logging.getLogger("scgim").setLevel(logging.ERROR)
    tell(_attempt(pickle.loads(cell), tell))


def _attempt(cell: Cell, tell: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
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
        if tell is not None:
            fit["peak_memory_mib"] = peak_memory()
            tell(fit)
        for name in ("n_edges_dropped",):
            if hasattr(fitted, f"{name}_"):
                fit[name] = float(getattr(fitted, f"{name}_"))
        with one_thread():
            rows = score(fitted, task, cell.task.seed)
            notes = [row.pop("note") for row in rows if "note" in row]
            learned, kept = _extras(fitted, cell.task, task, notes)
        if len(learned):
            error = (learned["learned"] - learned["true"]).pow(2).mean() ** 0.5
            rows.append({"split": "train", "metric": "effect_rmse", "value": float(error), "n": len(learned)})
        kept = {"curves": learned.round(4).to_dict("list"), "details": kept, "notes": notes}
        return {"failure": None, "fit": fit, "rows": rows, **kept}
    except Exception as error:
        logger.debug("%s", traceback.format_exc())
        return {"failure": f"{type(error).__name__}: {error}", "fit": fit, "rows": []}


def _extras(fitted: Any, spec: TaskSpec, task: Any, notes: list[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What figures need besides scores; where it fails, a note says so and the scores stay."""
    learned, kept = pd.DataFrame(), {}
    try:
        learned = effect_curves(fitted, spec)
        kept = details(fitted, task, spec.seed)
    except Exception as error:
        notes.append(f"curves and details: {type(error).__name__}: {error}")
    return learned, kept
