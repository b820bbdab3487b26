"""What cell-eval says of predicted cells, as tables: best and near-best, metrics with the same values together."""

from __future__ import annotations

import io
import tempfile
import warnings
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from keeping import mean_and_spread

if TYPE_CHECKING:
    from anndata import AnnData

HALVES, CEILING = "two halves", "ceiling"
#: Added to the name of a method that is judged a second time, with observed control cells.
OBSERVED = ", observed control"


def judged(real: AnnData, predicted: AnnData | None, seed: int) -> dict[str, pd.DataFrame]:
    """Name of the row -> values per perturbation; without a prediction, of the ceiling."""
    import polars as pl
    from cell_eval import MetricsEvaluator

    control = real.obs["condition"].cat.categories[0]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        judge = MetricsEvaluator(
            predicted, real, pert_col="condition", control_pert=control, num_threads=1, outdir=f"{folder}/out"
        )
        # No metric is left out: leaving one out changes others in this version.
        if predicted is not None:
            return {"": _long(judge.compute(profile="full", write_csv=False)[0])}
        table, corrected = judge.compute_ceiling(profile="full", seed=seed, write_csv=False)
    return {HALVES: _long(table), CEILING: _long(corrected.with_columns(perturbation=pl.lit("all")))}


def _long(table: Any) -> pd.DataFrame:
    """perturbation, metric, value; from a table of polars."""
    wide = pd.DataFrame(table.to_dict(as_series=False))
    return wide.melt("perturbation", var_name="metric").dropna().reset_index(drop=True)


def best_values() -> dict[str, float]:
    """Metric -> its best value, 1 or 0, as cell-eval has it; counts of significant genes have none."""
    from cell_eval.metrics import metrics_registry

    known = {name: metrics_registry.get_metric(name).best_value.value for name in metrics_registry.list_metrics()}
    return {name: {"one": 1.0, "zero": 0.0}[best] for name, best in known.items() if best in ("one", "zero")}


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over the perturbations of all settings of a seed: method, metric, seed, value."""
    return table.groupby(["method", "metric", "seed"], sort=False)["value"].mean().reset_index()


def matrix(own: pd.DataFrame, best: dict[str, float]) -> pd.DataFrame:
    """(metrics, methods): mean over seeds; rows in cell-eval's order, columns in that of the methods."""
    wide = own.pivot_table(index="metric", columns="method", values="value", aggfunc="mean")
    return wide.loc[[name for name in best if name in wide.index], list(own["method"].unique())]


def near_best(values: pd.DataFrame, best: dict[str, float]) -> pd.DataFrame:
    """bool (metrics, methods): best of the methods, or within 1 % of it; nowhere if all methods have the same value."""
    plain = values.drop(columns=[HALVES, CEILING], errors="ignore")
    up = pd.Series(best).loc[plain.index] == 1
    top = plain.max(axis=1).where(up, plain.min(axis=1))
    worse = plain.rsub(top, axis=0).where(up, -plain.rsub(top, axis=0), axis=0)
    alike = plain.max(axis=1) - plain.min(axis=1) < 1e-9
    return worse.le(0.01 * top.abs() + 1e-12, axis=0).mask(alike, False)


def distinct(values: pd.DataFrame) -> dict[str, list[str]]:
    """Metric -> those of its family (`overlap_at_50`, `_100`, ...) that have the same values, itself first."""
    found: dict[tuple[str, ...], list[str]] = {}
    for metric, row in values.iterrows():
        found.setdefault((_stem(str(metric)), *row.map("{:.6g}".format)), []).append(str(metric))
    return {names[0]: names for names in found.values()}


def _stem(metric: str) -> str:
    return metric.rsplit("_", 1)[0] if "_at_" in metric else metric


def shown(own: pd.DataFrame, best: dict[str, float]) -> pd.DataFrame:
    """The table of the page: best and near-best in bold; metrics with the same values share a row."""
    values = matrix(own, best)
    near = near_best(values, best)
    spread = {key: mean_and_spread(rows, 3) for key, rows in own.groupby(["metric", "method"])["value"]}
    lines = []
    for metric, names in distinct(values).items():
        label = ", ".join([metric, *(name.removeprefix(_stem(name)) for name in names[1:])])
        line = [label + (" ↑" if best[metric] else " ↓")]
        for method in values.columns:
            text = spread.get((metric, method), "-")
            line.append(f"**{text}**" if method in near and near.loc[metric, method] else text)
        lines.append(line)
    return pd.DataFrame(lines, columns=["metric", *values.columns])


def standing(name: str, own: pd.DataFrame, best: dict[str, float], *, observed: bool) -> dict[str, Any]:
    """In how many metrics each method is best or within 1 % of it, and in which GIM is not."""
    values = matrix(own, best).drop(columns=[HALVES, CEILING], errors="ignore")
    twice = [method for method in values.columns if method.endswith(OBSERVED)]
    firsts = [method.removesuffix(OBSERVED) for method in twice]
    values = values.drop(columns=firsts if observed else twice).rename(columns=dict(zip(twice, firsts, strict=True)))
    near = near_best(values.loc[list(distinct(values))], best)
    near = near[near.any(axis=1)]  # without those in which nothing differs
    ours = [method for method in near.columns if method.startswith("GIM")]
    row: dict[str, Any] = {"data": name, "control cells": "observed" if observed else "own", "metrics": len(near)}
    row["no GIM near the best in"] = ", ".join(near.index[~near[ours].any(axis=1)]) or "none"
    return row | {method: str(near[method].sum()) for method in [*ours, *near.columns.difference(ours, sort=False)]}


def properties(real: AnnData, predicted: AnnData) -> dict[str, float]:
    """What the predicted cells are like, mean over perturbations; changes are from the observed control cells."""
    from scgim.metrics import e_distance

    control, *labels = real.obs["condition"].cat.categories

    def cells(own: AnnData, name: str) -> np.ndarray:
        return own.X[(own.obs["condition"] == name).to_numpy()]

    start, own, rows = cells(real, control).mean(0), cells(predicted, control).mean(0), []
    for name in labels:
        x, y = cells(real, name), cells(predicted, name)
        true, change = x.mean(0) - start, y.mean(0) - start
        rows.append(
            {
                "E-distance to the observed cells": e_distance(x, y),
                "size of the change (observed: 1)": np.linalg.norm(change) / np.linalg.norm(true),
                "spread (observed: 1)": y.std(0).mean() / x.std(0).mean(),
                "zeros, observed": (x == 0).mean(),
                "zeros, predicted": (y == 0).mean(),
                "control off by (mean of genes)": np.abs(own - start).mean(),
            }
        )
    return pd.DataFrame(rows).astype(float).mean().to_dict()
