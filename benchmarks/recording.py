"""What every benchmark shares: its arguments, where the data lie, and how results are written down."""

from __future__ import annotations

import argparse
import ast
import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scgim.benchmark._run import commit

REPOSITORY = Path(__file__).resolve().parents[1]
OUT = REPOSITORY / "docs" / "results"
_READING = "\n## Reading\n"
_STALE = "*(Written for an earlier run: the numbers above have changed since.)*"


def make_parser(description: str, *, data: bool = True, fit: bool = True) -> argparse.ArgumentParser:
    """Arguments that mean the same in every script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    if data:
        parser.add_argument(
            "--data",
            type=Path,
            help="the h5ad file, or its folder (default: SCGIM_SHARED_DATA, or ../shared/data)",
        )
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the table, the CSV and the figures")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    if fit:
        parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one fit for each")
        parser.add_argument("--steps", type=int, help="training steps at most (default: that of fit_gim)")
        for name in ("graph", "target"):
            parser.add_argument(f"--{name}-sparsity", type=_number_or_auto, default="auto", help="nats")
        parser.add_argument(
            "--set",
            nargs="+",
            default=[],
            type=_setting,
            metavar="NAME=VALUE",
            help="other settings of fit_gim, such as search_cells=3000",
        )
        parser.add_argument("--progress", action="store_true", help="show a bar for every fit")
    return parser


def _number_or_auto(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _setting(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def fit_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `fit_gim` that the command line asked for."""
    settings: dict[str, Any] = {
        "graph_sparsity": args.graph_sparsity,
        "target_sparsity": args.target_sparsity,
        "progress": args.progress,
        "device": "cpu",
        **dict(args.set),
    }
    if args.steps is not None:
        settings["max_steps"] = args.steps
    return settings


def data_file(given: Path | None, name: str) -> Path:
    """The data set; ends the script with a sentence where it is absent."""
    named = os.environ.get("SCGIM_SHARED_DATA")
    place = given or (Path(named) if named else REPOSITORY.parent / "shared" / "data")
    path = place / name if place.suffix != ".h5ad" else place
    if not path.is_file():
        sys.exit(
            f"{name} was not found: pass --data with the file or its folder, or set SCGIM_SHARED_DATA to "
            "the folder. It is not part of the repository."
        )
    return path


def machine() -> str:
    """Kind of machine and how busy it was, without anything that names it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0
    text = f"{cores} CPU core{'s' if cores != 1 else ''}"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        text += f", {round(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30)} GiB"
    if hasattr(os, "getloadavg"):
        text += f"; load average {os.getloadavg()[0]:.1f}"
    return text


def versions() -> str:
    """Versions that a number may depend on."""
    names = ("scgim", "torch", "pyro-ppl", "scanpy", "numpy")
    return f"Python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in names)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, without its index; whole numbers stay whole next to columns of others."""

    def line(values: Iterable[Any]) -> str:
        return "| " + " | ".join(str(value).replace("|", "\\|") for value in values) + " |"

    rows = table.itertuples(index=False, name=None)
    return "\n".join([line(table.columns), "|" + " --- |" * table.shape[1], *map(line, rows)])


def use_threads(n: int) -> None:
    """Let torch use `n` threads."""
    import torch

    torch.set_num_threads(n)


def code() -> str:
    """The commit of the code, with a separator before it; empty where git cannot tell."""
    found = commit()
    return f"; commit {found}" if found else ""


def command(argv: Sequence[str] | None, script: str) -> str:
    """The command line that printed this, with places on this machine left out."""
    hidden, skip = [], False
    for word in sys.argv[1:] if argv is None else argv:
        if skip or word.split("=")[0] in ("--data", "--out", "--run", "--work", "--fits"):
            skip = not skip and "=" not in word
            continue
        hidden.append(word)
    return shlex.join(["python", f"benchmarks/{script}", *hidden])


def mean_and_spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds; only the mean where there is one value."""
    array = np.asarray([v for v in values if not pd.isna(v)], dtype=float)
    if not array.size:
        return "-"
    if array.size == 1:
        return f"{array[0]:.{digits}f}"
    return f"{array.mean():.{digits}f} ± {array.std(ddof=1):.{digits}f}"


class Note:
    """A page of results: what was run, on what, its tables."""

    def __init__(self, title: str, *, data: str, argv: Sequence[str] | None, script: str, seeds: Sequence[int] | None):
        self.start = time.perf_counter()
        self.title, self.parts = title, []
        about = [
            f"- Command: `{command(argv, script)}`",
            f"- Data: {data}",
            f"- Machine: {machine()}",
            f"- Versions: {versions()}{code()}",
        ]
        if seeds is not None:
            about.append(f"- Seeds: {', '.join(map(str, seeds))} (preparation, fit and sampling)")
        self.about = about

    def text(self, *lines: str) -> None:
        """A paragraph."""
        self.parts.append("\n".join(lines))

    def table(self, heading: str, table: pd.DataFrame, below: str = "") -> None:
        """A section with one table."""
        self.parts.append(f"## {heading}\n\n{markdown(table)}" + (f"\n\n{below}" if below else ""))

    def write(self, folder: Path, name: str, tidy: pd.DataFrame) -> Path:
        """Write `<name>.md` and `<name>.csv`, and print the page.

        The section "Reading" of a page that is there already is written by hand and kept; where the numbers
        have changed since, it is marked as written for an earlier run.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.md"
        about = [*self.about, f"- The whole run took {time.perf_counter() - self.start:.0f} s"]
        body = "\n\n".join(self.parts)
        page = "\n\n".join([f"# {self.title}", "\n".join(about), body])
        print(page)
        path.write_text(keep_reading(path, page, body) + "\n", encoding="utf-8")
        tidy.to_csv(folder / f"{name}.csv", index=False, float_format="%.5g")
        return path


def keep_reading(path: Path, page: str, numbers: str) -> str:
    """`page` with the section "Reading" of the file that is there; marked where its `numbers` have changed since."""
    if not path.is_file() or _READING not in (old := path.read_text(encoding="utf-8")):
        return page
    before, reading = old.split(_READING, 1)
    mark = "" if numbers in before or _STALE in reading else f"\n{_STALE}\n"
    return f"{page}\n{_READING}{mark}{reading.rstrip()}"


def save(figure_axes: Any, folder: Path, name: str) -> None:
    """Write the figure of these axes as `<name>.png`."""
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure = np.ravel(np.asarray(figure_axes, dtype=object))[0].figure
    figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
    plt.close(figure)
