"""Results as tables: mean and standard error over systems."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .scores import CELL_METRICS, HIGHER_IS_BETTER
from .stored import Cell, failures, notes

logger = logging.getLogger("scgim")

#: Metric -> heading.
NAMES = {
    "edge_f1": "Edge-F1", "sid": "SID", "shd": "SHD", "skeleton_f1": "skeleton F1", "edge_auprc": "edge AUPRC",
    "n_edges": "edges", "is_dag": "DAG", "target_f1": "Target-F1",
    "target_f1_per_condition": "Target-F1, mean of conditions",
    "target_auprc": "target AUPRC", "targets_per_condition": "targets per condition", "mean_distance": "mean distance",
    "wasserstein": "Wasserstein", "kde_nll": "KDE-NLL", "pearson_means": "Pearson of means",
    "pearson_delta": "Pearson of differences", "e_distance": "E-distance",
    "zero_fraction_error": "zero-fraction error", "coverage": "coverage of 5-95 %", "seconds": "seconds",
    "cpu_seconds": "CPU seconds",
    "peak_memory_mib": "peak memory, MiB", "failed": "failed",
}  # fmt: skip


def heading(metric: str) -> str:
    """How a metric is called in tables and figures, with an arrow towards better."""
    name = NAMES.get(metric, metric)
    if metric in HIGHER_IS_BETTER:
        return f"{name} ↑"
    return f"{name} ↓" if metric in (*CELL_METRICS, "zero_fraction_error", "sid", "shd") else name


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
    table = groups.agg(mean="mean", sem="sem", systems="size").reset_index()
    return table


def ratios(results: pd.DataFrame, by: Sequence[str], metric: str, method: str, reference: str) -> pd.DataFrame:
    """Value of `method` over that of `reference` on the same system and split: mean, sem, systems.

    Paired: the ratio is taken system by system and then averaged. No rows where no system has both values.
    """
    own = results[results["metric"] == metric]
    identity = [c for c in results.columns if c not in ("method", "metric", "value", "n")]
    wide = own[own["method"].isin([method, reference])].pivot(index=identity, columns="method", values="value")
    wide = wide.reindex(columns=[method, reference]).dropna()  # one of them may have failed everywhere
    ratio = (wide[method] / wide[reference]).rename("ratio").reset_index()
    groups = ratio.groupby([*by, "split"], sort=False, observed=True)["ratio"]
    return groups.agg(mean="mean", sem="sem", systems="size").reset_index()


def wide(summary: pd.DataFrame, rows: Sequence[str], columns: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """A table to read: one row per `rows`, one column per (split, metric), "mean ± sem"; empty where there is none.

    Parameters
    ----------
    summary
        Of :func:`summarise`.
    rows
        Columns of `summary` that make a row.
    columns
        (split, metric) pairs, in order.
    """
    wanted = summary.set_index(["split", "metric"]).sort_index()
    out = summary[list(rows)].drop_duplicates().reset_index(drop=True)
    for split, metric in columns:
        name = heading(metric) if split in ("fit", "graph") else f"{heading(metric)}, {split}"
        if (split, metric) not in wanted.index:
            continue
        own = wanted.loc[[(split, metric)]].set_index(list(rows))
        text = {key: mean_and_error(row["mean"], row["sem"]) for key, row in own.iterrows()}
        keys = out[list(rows)].itertuples(index=False, name=None)
        out[name] = [text.get(key if len(rows) > 1 else key[0], "") for key in keys]
    return out


def mean_and_error(mean: float, sem: float) -> str:
    """`0.93 ± 0.01`, with three significant digits of the mean at least."""
    if pd.isna(mean):
        return ""
    digits = 0 if abs(mean) >= 1000 else 1 if abs(mean) >= 100 else 2 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f}" + ("" if pd.isna(sem) else f" ± {sem:.{digits}f}")


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, without its index; whole numbers stay whole beside columns of others."""

    def line(values: Iterable[Any]) -> str:
        return "| " + " | ".join(str(value).replace("|", "\\|") for value in values) + " |"

    rows = table.itertuples(index=False, name=None)
    return "\n".join([line(table.columns), "|" + " --- |" * table.shape[1], *map(line, rows)])


def missing_parts(cells: Sequence[Cell], out: Path) -> list[str]:
    """What a page says of fits that failed and of metrics without a value."""
    parts, failed, noted = [], failures(cells, out), notes(cells, out)
    if len(failed):
        found = failed.groupby("reason", sort=False).agg(
            cells=("task", "size"), methods=("method", lambda m: ", ".join(dict.fromkeys(m))), first=("task", "first")
        )
        parts += ["## Failed", markdown(found.reset_index())]
    if len(noted):
        parts += ["## Without a value", markdown(noted), "`--retry-failed` runs these cells again."]
    return parts


def figure(draw: Callable[[], Any], path: Path, title: str, label: str = "") -> str:
    """Draw, save and link a figure; one that cannot be drawn leaves a sentence, and the page goes on.

    Parameters
    ----------
    draw
        Returns an array of Axes.
    path
        PNG beside the page.
    title
        Of the link.
    label
        Above the figure.
    """
    from matplotlib import pyplot as plt

    before = set(plt.get_fignums())
    try:
        drawn = draw().flat[0].figure
        if label:
            drawn.suptitle(label.strip(), fontsize=9)
        drawn.savefig(path, dpi=150)
    except Exception as error:
        logger.warning("%s could not be drawn: %s: %s", path.name, type(error).__name__, error)
        return f"({title}: could not be drawn: {type(error).__name__}: {error})"
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    return f"![{title}]({path.name})"


def drop_constant(results: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of `columns` that take more than one value."""
    return [name for name in columns if results[name].nunique() > 1]


def seeds_text(results: pd.DataFrame) -> str:
    """`400 to 404` or `1, 5, 9`."""
    seeds = np.sort(results["seed"].unique())
    if len(seeds) > 2 and (np.diff(seeds) == 1).all():
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
