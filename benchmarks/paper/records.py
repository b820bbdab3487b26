"""What the pages of both experiments share: a finished run, tables of it, and how a page is written."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from recording import OUT, keep_reading, machine, markdown, versions

from scgim.metrics import METRICS

logger = logging.getLogger("scgim")

#: Headings of what is no metric.
HEADINGS = {
    "n_edges": "edges", "is_dag": "DAG", "cpu_seconds": "CPU seconds", "peak_memory_mib": "peak memory, MiB",
}  # fmt: skip
#: How methods are called, where the name with spaces is not it.
METHOD_NAMES = {
    "gim": "GIM", "gim_paper": "GIM, paper's preset", "mean_shift": "mean-shift MLP", "condot": "CondOT",
    "bacadi": "BaCaDI*", "gnies": "GnIES", "ut_igsp": "UT-IGSP", "jci_pc": "JCI-PC",
    "jci_pc_context": "JCI-PC (Context)",
}  # fmt: skip


class Run:
    """A folder that `scgim benchmark` has written.

    Parameters
    ----------
    folder
        Its `--out`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads((folder / "settings.json").read_text())
        self.results = pd.read_csv(folder / "results.csv")

    @cached_property
    def cells(self) -> dict[str, dict[str, Any]]:
        """Task__method -> what is kept of the finished cell."""
        names = dict.fromkeys(name for own in self.settings["cells"].values() for name in own)
        files = {name: self.folder / "cells" / f"{name}.json" for name in names}
        return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}

    @property
    def trials(self) -> pd.DataFrame:
        """Of the hyper-parameters; empty where none were chosen."""
        file = self.folder / "tuning.csv"
        return pd.read_csv(file) if file.is_file() else pd.DataFrame()

    def part(self, name: str) -> pd.DataFrame:
        """Results of a part of the experiment."""
        keys = self.results["task"] + "__" + self.results["method"]
        return self.results[keys.isin(self.settings["cells"][name])]

    def seeds(self) -> str:
        """`400 to 404` or `1, 5, 9`."""
        if self.results.empty:
            return "none finished"
        seeds = np.sort(self.results["seed"].unique())
        if len(seeds) > 2 and (np.diff(seeds) == 1).all():
            return f"{seeds[0]} to {seeds[-1]}"
        return ", ".join(map(str, seeds))

    def introduction(self, title: str, about: Sequence[str]) -> str:
        """The head of a page: what was run, on what, with what."""
        command, commits = self.settings["command"], ", ".join(self.settings["commits"])
        lines = [f"- Command: `{command}`"] if command else []
        lines += about[:-1]
        lines += [
            f"- Machine: {machine()}; one thread per fit",
            f"- Versions: {versions()}" + (f"; fitted at commit {commits}" if commits else ""),
        ]
        return "\n".join([f"# {title}", "", *lines, about[-1]])

    def missing(self) -> list[str]:
        """What a page says of fits that failed and of metrics without a value."""
        rows = [(*name.split("__"), cell["failure"], cell.get("notes", [])) for name, cell in self.cells.items()]
        table = pd.DataFrame(rows, columns=["task", "method", "reason", "note"])
        parts, failed, noted = [], table.dropna(subset="reason"), table.explode("note").dropna(subset="note")
        names = ("method", lambda methods: ", ".join(dict.fromkeys(methods)))
        if len(failed):
            found = failed.groupby("reason", sort=False).agg(
                cells=("task", "size"), methods=names, first=("task", "first")
            )
            parts += ["## Failed", markdown(found.reset_index())]
        if len(noted):
            found = noted.groupby("note", sort=False).agg(cells=("task", "size"), methods=names)
            parts += ["## Without a value", markdown(found.reset_index()), "`--retry-failed` runs these cells again."]
        return parts


def method_name(method: str) -> str:
    """E.g. "next lower dose"; "ridge, hill" for "ridge:hill"."""
    name, _, encoding = method.partition(":")
    return METHOD_NAMES.get(name, name.replace("_", " ")) + (f", {encoding}" if encoding else "")


def heading(metric: str) -> str:
    """How a metric is called in tables and figures, with an arrow towards better."""
    if metric not in METRICS:
        return HEADINGS.get(metric, metric.replace("_", " "))
    return METRICS[metric].title + {"higher": " ↑", "lower": " ↓", None: ""}[METRICS[metric].better]


def mean_and_error(mean: float, sem: float) -> str:
    """`0.93 ± 0.01`, with three significant digits of the mean at least."""
    if pd.isna(mean):
        return ""
    digits = 0 if abs(mean) >= 1000 else 1 if abs(mean) >= 100 else 2 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f}" + ("" if pd.isna(sem) else f" ± {sem:.{digits}f}")


def wide(summary: pd.DataFrame, rows: Sequence[str], columns: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """One row per `rows` of a summary, one column per (split, metric), "mean ± sem"; empty where there is none."""
    out = summary[list(rows)].drop_duplicates().set_index(list(rows))
    for split, metric in columns:
        own = summary[(summary["split"] == split) & (summary["metric"] == metric)]
        if len(own):
            text = [mean_and_error(mean, sem) for mean, sem in zip(own["mean"], own["sem"], strict=True)]
            name = heading(metric) if split in ("fit", "graph") else f"{heading(metric)}, {split}"
            out[name] = own.set_index(list(rows)).assign(text=text)["text"]
    return out.fillna("").reset_index()


def ratios(results: pd.DataFrame, by: Sequence[str], metric: str, method: str, reference: str) -> pd.DataFrame:
    """Value of `method` over that of `reference` on the same system and split: mean, sem, systems.

    Paired: the ratio is taken system by system and then averaged. No rows where no system has both values.
    """
    own = results[results["metric"] == metric]
    identity = [c for c in results.columns if c not in ("method", "metric", "value", "n")]
    table = own[own["method"].isin([method, reference])].pivot(index=identity, columns="method", values="value")
    table = table.reindex(columns=[method, reference]).dropna()  # one of them may have failed everywhere
    ratio = (table[method] / table[reference]).rename("ratio").reset_index()
    groups = ratio.groupby([*by, "split"], sort=False, observed=True)["ratio"]
    return groups.agg(mean="mean", sem="sem", systems="size").reset_index()


def tuning_table(trials: pd.DataFrame, names: Callable[[pd.Series], dict[str, str]]) -> pd.DataFrame:
    """What was chosen for every method; `names` makes the first columns from the chosen trial."""
    keys = [name for name in ("mechanism", "method", "features") if name in trials]
    fixed = [*keys, "trial", "kde_nll", "seconds", "chosen"]
    rows = []
    for _, own in trials.groupby(keys, sort=False):
        best = own[own["chosen"]].iloc[0]
        options = best.drop(fixed).dropna().items()
        said = [f"{name} = {value:.3g}" if isinstance(value, float) else f"{name} = {value}" for name, value in options]
        rows.append(
            {
                **names(best),
                "trials": len(own),
                "failed": int(np.isinf(own["kde_nll"]).sum()),
                "KDE-NLL, defaults": f"{own.loc[own['trial'] == 0, 'kde_nll'].item():.2f}",
                "KDE-NLL, chosen": f"{best['kde_nll']:.2f}",
                "chosen": ", ".join(said) or "the defaults",
            }
        )
    return pd.DataFrame(rows)


class Figures:
    """Figures of a page, saved next to it under its name."""

    def __init__(self, out: Path, name: str) -> None:
        self.out, self.name = out, name

    def __call__(self, draw: Callable[[], Any], stem: str, title: str, label: str = "") -> str:
        """Draw, save and link a figure; one that cannot be drawn leaves a sentence, and the page goes on."""
        from matplotlib import pyplot as plt

        path = self.out / f"{self.name}_{stem}.png"
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


def arguments(description: str | None, name: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """What both pages take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out of scgim benchmark")
    parser.add_argument("--name", default=name, help=f"of the page, its table and figures (default: {name})")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for them")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def write(run: Run, parts: Sequence[str], out: Path, name: str) -> Path:
    """Page and table; the section "Reading" of a page that is there already is written by hand and kept."""
    body = "\n\n".join([*parts[1:], *run.missing()])
    page = f"{parts[0]}\n\n{body}" if body else parts[0]
    run.results.drop(columns="task", errors="ignore").to_csv(out / f"{name}.csv", index=False, float_format="%.5g")
    path = out / f"{name}.md"
    path.write_text(keep_reading(path, page, body) + "\n", encoding="utf-8")
    print(f"wrote {path.name}")
    return path
