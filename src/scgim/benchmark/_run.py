"""Run methods on tasks: in parallel, each in a process of its own, resumable, failures recorded; and their results."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import subprocess
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from scgim import __version__
from scgim._apart import Apart, ProcessGone, TimeLimit, peak_memory
from scgim._errors import InvalidValue
from scgim._process import one_thread

from .scores import details, effect_curves, score
from .tasks import Cell

logger = logging.getLogger("scgim")

#: Columns of every table of results after those of the task.
RESULT_COLUMNS = ["method", "split", "metric", "value", "n"]


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
        If two cells have the same name, a method is unknown, or a time limit is asked for without processes.

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
    cells, out = list(cells), Path(out)
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise InvalidValue(f"Two cells have the name {next(n for n in names if names.count(n) > 1)!r}.")
    if jobs == 0 and time_limit is not None:
        raise InvalidValue("A time limit needs jobs >= 1: a fit in this process cannot be ended.")
    for method in {cell.method.name: cell.method for cell in cells}.values():
        method.cls  # noqa: B018  an unknown method is an error now, not after hours
    (out / "cells").mkdir(parents=True, exist_ok=True)
    todo = [cell for cell in cells if _is_due(stored(cell, out), retry_failed)]
    if len(todo) < len(cells):
        logger.info("%d of %d cells are finished already", len(cells) - len(todo), len(cells))
    code = commit() if todo else ""
    told: set[str] = set()
    with tqdm(total=len(todo), disable=not progress, desc="benchmark", unit="cell") as bar:
        for cell, outcome in _outcomes(todo, jobs, time_limit):
            store(cell, out, {"commit": code, **outcome})
            if outcome["failure"] is not None:
                logger.warning("%s failed: %s", cell.name, outcome["failure"])
            for note in outcome.get("notes", []):
                if note not in told:  # a missing package concerns every cell: it is said once
                    logger.warning("no value of %s", note)
                told.add(note)
            bar.set_postfix_str(cell.name)
            bar.update(1)
    return results(cells, out)


def _is_due(found: dict[str, Any], retry_failed: bool) -> bool:
    return not found or (retry_failed and (found["failure"] is not None or bool(found.get("notes"))))


def _outcomes(todo: list[Cell], jobs: int, time_limit: float | None) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield (cell, outcome) as they finish."""
    if jobs == 0:
        yield from ((cell, _attempt(nullcontext(), cell)) for cell in todo)
        return
    context = None
    if "forkserver" in multiprocessing.get_all_start_methods():
        # forked from a clean server that has imported the libraries but used none of them
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["scgim.benchmark", "scgim.inference", "anndata", "sklearn.linear_model"])
    waiting, running = todo[::-1], dict[Apart, Cell]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop()
                running[Apart(_attempt, cell, seconds=time_limit, context=context)] = cell
            limits = [call.left for call in running if call.left is not None]
            wait([call.connection for call in running], timeout=min(limits, default=None))
            for call in [call for call in running if call.listen()]:
                yield running.pop(call), _outcome(call)
    finally:
        for call in running:
            call.end()


def _outcome(call: Apart) -> dict[str, Any]:
    """What has become of a cell in a process of its own."""
    try:
        return call.result()
    except TimeLimit as reason:
        return _failed(str(reason))
    except ProcessGone as reason:  # memory, a crash in compiled code
        return _failed(f"the process of the fit is gone, {reason}")
    except Exception as error:  # the class of the method cannot be imported there
        return _failed(f"{type(error).__name__}: {error}")


def _failed(reason: str, fit: dict[str, float] | None = None) -> dict[str, Any]:
    return {"failure": reason, "fit": fit or {}, "rows": []}


def _attempt(limited: AbstractContextManager[None], cell: Cell) -> dict[str, Any]:
    """Load, fit, score. Whatever goes wrong is the outcome of this cell, and the others go on."""
    alone = not isinstance(limited, nullcontext)  # in a process of its own
    if alone:
        logger.setLevel(logging.ERROR)
    fit: dict[str, float] = {}
    try:
        with limited:
            with one_thread():
                task = cell.task.load()
            method = cell.method.make(task)
            with one_thread():  # once more: numba, which reads and prepares cells, resets the number
                start, cpu = time.perf_counter(), time.process_time()
                fitted = method.fit(task.train, cell.task.seed)
                fit["seconds"], fit["cpu_seconds"] = time.perf_counter() - start, time.process_time() - cpu
        if alone:
            fit["peak_memory_mib"] = peak_memory()
        if hasattr(fitted, "n_edges_dropped_"):
            fit["n_edges_dropped"] = float(fitted.n_edges_dropped_)
        with one_thread():
            rows = score(fitted, task, cell.task.seed)
            notes = list(dict.fromkeys(row.pop("note") for row in rows if "note" in row))
            learned, kept = pd.DataFrame(), {}
            try:  # what figures need besides: where it fails, a note says so and the scores stay
                learned = effect_curves(fitted, cell.task)
                kept = details(fitted, task, cell.task.seed)
            except Exception as error:
                notes.append(f"curves and details: {type(error).__name__}: {error}")
        if len(learned):
            rmse = (learned["learned"] - learned["true"]).pow(2).mean() ** 0.5
            rows.append({"split": "train", "metric": "effect_rmse", "value": float(rmse), "n": len(learned)})
        kept = {"curves": learned.round(4).to_dict("list"), "details": kept, "notes": notes}
        return {"failure": None, "fit": fit, "rows": rows, **kept}
    except Exception as error:
        logger.debug("%s", traceback.format_exc())
        return _failed(f"{type(error).__name__}: {error}", fit)


def stored(cell: Cell, out: str | Path) -> dict[str, Any]:
    """What is kept of a finished cell; empty where it is not finished, or its settings have changed.

    Parameters
    ----------
    cell, out
        As given to :func:`run`.

    Returns
    -------
    dict
        failure (None or the reason), fit (seconds, memory), rows (of the scores), notes, commit, and for
        figures: curves (of :func:`effect_curves`), details (predicted cells, edges, targets, where genes have names).
    """
    path = Path(out) / "cells" / f"{cell.name}.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text())
    if found["signature"] != cell.signature():
        logger.info("%s has other settings now: it is run again", cell.name)
        return {}
    for row in found["rows"]:
        row["value"] = math.nan if row["value"] is None else row["value"]
    return found


def store(cell: Cell, out: Path, outcome: dict[str, Any]) -> None:
    """Keep an outcome, whole or not at all."""
    rows = [{**row, "value": None if math.isnan(row["value"]) else row["value"]} for row in outcome["rows"]]
    text = json.dumps({"signature": cell.signature(), "scgim": __version__, **outcome, "rows": rows}, indent=1)
    partial = out / "cells" / f".{cell.name}.part"
    partial.write_text(text)
    partial.replace(out / "cells" / f"{cell.name}.json")


def results(cells: Sequence[Cell], out: str | Path) -> pd.DataFrame:
    """The stored results of these cells as one tidy table.

    Parameters
    ----------
    cells, out
        As given to :func:`run`.

    Returns
    -------
    pandas.DataFrame
        One row per cell, split and metric: task (its name), the columns of the task, method, split, metric, value,
        n (queries that entered). Split "fit" has seconds, cpu_seconds, peak_memory_mib and failed (0 or 1); "graph"
        what concerns the graph. Cells without a result have no rows.
    """
    rows = []
    for cell in cells:
        if not (found := stored(cell, out)):
            continue
        identity = {"task": cell.task.name, **cell.task.columns(), "method": cell.method.name}
        of_fit = {"failed": float(found["failure"] is not None), **found["fit"]}
        rows += [{**identity, "split": "fit", "metric": k, "value": v, "n": 1} for k, v in of_fit.items()]
        rows += [{**identity, **row} for row in found["rows"]]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["task", *RESULT_COLUMNS])


def failures(cells: Sequence[Cell], out: str | Path) -> pd.DataFrame:
    """Cells that failed: task, method, reason."""
    found = [(cell, stored(cell, out).get("failure")) for cell in cells]
    rows = [(cell.task.name, cell.method.name, reason) for cell, reason in found if reason is not None]
    return pd.DataFrame(rows, columns=["task", "method", "reason"])


def notes(cells: Sequence[Cell], out: str | Path) -> pd.DataFrame:
    """Metrics that have no value in finished cells, and why: note, cells (how many), methods."""
    rows = [(note, cell.method.name) for cell in cells for note in dict.fromkeys(stored(cell, out).get("notes", []))]
    grouped = pd.DataFrame(rows, columns=["note", "method"]).groupby("note", sort=False)["method"]
    return grouped.agg(cells="size", methods=lambda names: ", ".join(dict.fromkeys(names))).reset_index()


def summarise(results: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean, standard error and number of systems of every metric.

    Parameters
    ----------
    results
        As :func:`scgim.benchmark.results`.
    by
        Columns of the task that tell systems of different kinds apart; what is left are replicates.

    Returns
    -------
    pandas.DataFrame
        `by`, method, split, metric, mean, sem (NaN for one system), systems.
    """
    keys = [*by, "method", "split", "metric"]
    groups = results.dropna(subset="value").groupby(keys, sort=False, observed=True)["value"]
    return groups.agg(mean="mean", sem="sem", systems="size").reset_index()


def commit() -> str:
    """The short hash of the package's commit and whether it was changed since; empty where git cannot tell."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():  # installed from a wheel
        return ""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = ", with changes in src that are not committed" if git("status", "--short", "src") else ""
        return f"{git('rev-parse', '--short', 'HEAD')}{changed}"
    except (OSError, subprocess.CalledProcessError):
        return ""
