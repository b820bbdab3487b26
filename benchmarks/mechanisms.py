"""Cells predicted by `ziln` and by `count`: held-out doses and combinations on three data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from real_combinations import FILE as COMBINATIONS
from real_combinations import canonical, predictable
from real_dose_series import DRUG, read
from real_dose_series import FILE as DOSES
from recording import Note, data_file, make_parser, mean_and_spread, use_threads

from scgim.benchmark import Cell, Method, Query, Task, results, run
from scgim.benchmark._run import stored
from scgim.benchmark.sciplex3 import SPLIT, SciPlex3Experiment, extract
from scgim.benchmark.tasks import options_of_data

if TYPE_CHECKING:
    from anndata import AnnData

    from scgim.data import PerturbationData

STANDIN = "sciplex3_standin.h5ad"
#: Metric -> its column.
COLUMNS = {
    "mean_distance": "mean distance ↓", "pearson_delta": "Pearson of changes ↑", "kde_nll": "KDE-NLL ↓",
    "wasserstein": "Wasserstein ↓", "e_distance": "E-distance ↓", "zero_fraction_error": "zero-fraction error ↓",
    "n_edges": "edges", "cpu_seconds": "CPU (s)",
}  # fmt: skip
_KINDS = ("ziln", "count")


@dataclass(frozen=True)
class _PreparedTask:
    """A task on a prepared AnnData: `prepared`, `name` and the conditions asked for are of the data set."""

    seed: int = 0
    file: str = field(default="", repr=False, compare=False)

    def columns(self) -> dict[str, Any]:
        """What identifies the task."""
        return {name: value for name, value in asdict(self).items() if name != "file"}

    def task(self, adata: AnnData, train: Any, asked: Sequence[str]) -> Task:
        """The held-out conditions as queries."""
        from scgim.baselines import prepared_condition
        from scgim.slots import read_entry

        entry = read_entry(adata)
        codes = entry.codes(adata)
        rows = {label: np.flatnonzero(codes == entry.labels.index(label)) for label in asked}
        queries = [Query(prepared_condition(adata, label), entry.expression(adata, own)) for label, own in rows.items()]
        return Task(
            train, {SPLIT: queries}, None, options_of_data({"mechanism": "ziln"}, positive=True), tuple(entry.genes)
        )


@dataclass(frozen=True)
class DoseTask(_PreparedTask):
    """One dose of dexamethasone left out, as in `real_doses_left_out.py`."""

    dose: float = 1.0
    n_genes: int = 30

    @property
    def name(self) -> str:
        """Fit for a file name."""
        return f"dose{self.dose:g}-{self.n_genes}genes-seed{self.seed}"

    def load(self) -> Task:
        """Read and prepare."""
        from scgim.baselines import training_data
        from scgim.pp._labels import part_label

        adata = prepared_doses(self.file, self.dose, self.n_genes, self.seed)
        return self.task(adata, training_data(adata, counts=True), [part_label(DRUG, self.dose)])


def prepared_doses(file: str, hold_out: float | Sequence[float], n_genes: int, seed: int) -> AnnData:
    """The dose series without the doses to hold out."""
    import scgim

    adata = read(Path(file))
    scgim.pp.prepare(
        adata, perturbation_key="treatment", dose_key="dose", dose_unit_key="dose_unit", control=None,
        min_counts=10, silent_genes="drop", n_genes=n_genes, hold_out={DRUG: hold_out}, rng=seed,
    )  # fmt: skip
    return adata


@dataclass(frozen=True)
class CombinationTask(_PreparedTask):
    """All doubles from their singles, as in `real_combinations.py`; counts are recovered, see `recover_counts`."""

    n_genes: int = 50

    @property
    def name(self) -> str:
        """Fit for a file name."""
        return f"combinations-{self.n_genes}genes-seed{self.seed}"

    def load(self) -> Task:
        """Read and prepare."""
        return self.task(*prepared_combinations(self.file, self.n_genes, self.seed))


def prepared_combinations(file: str, n_genes: int, seed: int) -> tuple[AnnData, PerturbationData, list[str]]:
    """Single perturbations to train on, with their recovered counts, and the doubles to predict from them."""
    import anndata as ad

    import scgim
    from scgim.baselines import training_data
    from scgim.slots import read_entry

    adata = ad.read_h5ad(file)
    found, others = predictable(adata.obs["perturbation"].astype(str))
    tested = [canonical(name) for name in found]
    counts, size = recover_counts(adata)
    scgim.pp.prepare(
        adata, input="log1p", n_genes=n_genes, n_top_genes=500, min_cells=5, silent_genes="drop",
        hold_out=[*tested, *(canonical(name) for name in others)], rng=seed,
    )  # fmt: skip
    entry, train = read_entry(adata), training_data(adata)
    cells = (entry.codes(adata) >= 0) & np.isin(entry.split(adata), ["train", "valid"])
    own = counts[cells][:, entry.positions(adata)].astype(np.float32)
    return adata, replace(train, counts=own, size_factor=size[cells]), tested


def recover_counts(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Counts (cells, genes) and size factors (cells,) with X = log1p(counts / size factor), from X alone.

    The smallest value of a cell other than zero is one count, or two where its total (`ncounts`) says so.
    """
    values = np.expm1(adata.X.toarray().astype(np.float64))
    least = np.where(values > 0, values, np.inf).min(axis=1)
    total = least * adata.obs["ncounts"].to_numpy(dtype=float)
    size = np.rint(total / np.median(total)) / least
    counts = values * size[:, None]
    wrong = np.abs(counts - np.rint(counts)).max()
    if wrong > 1e-3:
        raise ValueError(f"The values are not counts divided by a size factor: they are off by {wrong:.3g}.")
    return np.rint(counts), size


def options(args: Any) -> dict[str, Any]:
    """Settings of every fit of GIM."""
    return {**({} if args.steps is None else {"max_steps": args.steps}), **dict(args.set)}


def simple(args: Any) -> list[Method]:
    """Both mechanisms, and ridge."""
    return [*(Method(kind, "gim", {"mechanism": kind, **options(args)}) for kind in _KINDS), Method("ridge")]


def stand_in(args: Any, work: Path) -> Iterator[Cell]:
    """Three cell lines x four drugs, each held out at its highest dose; features="potency"."""
    found = extract(data_file(args.data, STANDIN), work / "extracts")
    experiment = SciPlex3Experiment(found, small=args.small)
    lines, drugs = range(len(found)), range(len(experiment.drugs))
    # Along diagonals: the first few have every line, and every drug.
    pairs = [(i, (i + more) % len(drugs)) for more in drugs for i in lines]
    for seed in args.seeds:
        for i, j in pairs[: args.settings]:
            task = experiment.task(found[i], experiment.drugs[j], seed, "potency")
            yield from (Cell(task, method) for method in simple(args))


def doses(args: Any, work: Path) -> Iterator[Cell]:
    """Every dose in turn."""
    path = data_file(args.data, DOSES)
    known = sorted(d for d in read(path).obs["dose"].astype(float).unique() if d > 0)
    for seed in args.seeds:
        for dose in known[::4] if args.small else known:
            task = DoseTask(seed, str(path), float(dose), 10 if args.small else 30)
            yield from (Cell(task, method) for method in simple(args))


def combinations(args: Any, work: Path) -> Iterator[Cell]:
    """All doubles, with shift and hard interventions."""
    path = data_file(args.data, COMBINATIONS)
    for seed in args.seeds:
        task = CombinationTask(seed, str(path), 10 if args.small else 50)
        for kind in ("shift", "hard"):
            for mechanism in _KINDS:
                own = {"mechanism": mechanism, "intervention": kind, **options(args)}
                yield Cell(task, Method(f"{mechanism}, {kind}", "gim", own))
        yield from (Cell(task, Method(name)) for name in ("additive", "ridge"))


#: Name -> (cells, heading, what was asked).
SETS = {
    "stand-in": (
        stand_in, "A drug's highest dose (semi-synthetic stand-in)",
        "SciPlex3's design with simulated counts: 3 cell lines x 4 drugs, each held out at 10,000 nM in turn (where "
        "there are fewer settings, along the diagonals); 50 "
        'marker genes; `features="potency"`. **No number of this table is one on SciPlex3.**',
    ),
    "doses": (
        doses, "Each dose of dexamethasone (real)",
        "sci-Plex 2, A549, 500 cells, raw counts; 30 marker genes; each of 7 doses left out in turn.",
    ),
    "combinations": (
        combinations, "Two genes activated, from single activations (real; counts were recovered)",
        "Norman et al. 2019, K562; 50 marker genes; 5 doubles, no double trained on. The file holds log-normalised "
        "values only. **Counts were recovered from them**: normalised values of a cell are whole multiples of their "
        "smallest one (of half of it in two cells), to 1e-3 in every cell, which also gives the size factor.",
    ),
}  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over settings for each seed, then mean ± standard deviation over seeds."""
    per_seed = table.groupby(["method", "metric", "seed"], sort=False)["value"].mean().reset_index()
    rows = []
    for method, own in per_seed.groupby("method", sort=False):
        of_metric = own.groupby("metric")["value"]
        row = {name: mean_and_spread(of_metric.get_group(key), _digits(key)) if key in of_metric.groups else "-"
               for key, name in COLUMNS.items()}  # fmt: skip
        n = int(table.loc[(table["method"] == method) & (table["metric"] == "mean_distance"), "n"].sum())
        rows.append({"method": method, "conditions x seeds": n, **row})
    return pd.DataFrame(rows)


def _digits(metric: str) -> int:
    return {"cpu_seconds": 0, "n_edges": 1, "kde_nll": 1, "mean_distance": 3, "zero_fraction_error": 3}.get(metric, 2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="data sets")
    parser.add_argument("--settings", type=int, default=12, help="of the stand-in, so many of its 12")
    parser.add_argument("--work", type=Path, required=True, help="folder for finished fits: an interrupted run goes on")
    parser.add_argument("--small", action="store_true", help="few genes: it shows that the script runs")
    args = parser.parse_args(argv)
    use_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    note = Note(
        "Predicted cells: ziln and count" + " (small setting)" * args.small,
        data="**real** and **semi-synthetic**, see each table",
        argv=argv, script="mechanisms.py", seeds=args.seeds,
    )  # fmt: skip
    frames, commits = [], set()
    for name in args.sets:
        cells_of, heading, about = SETS[name]
        cells = list(cells_of(args, args.work))
        run(cells, args.work, jobs=0, progress=args.progress)
        commits |= {str(stored(cell, args.work).get("commit")) for cell in cells}
        table = results(cells, args.work).dropna(subset="value")
        frames.append(table.assign(data=name))
        note.table(heading, summary(table), about)
    tidy = pd.concat(frames, ignore_index=True)
    note.text(
        "Mean over settings, then mean ± standard deviation over seeds. Cells are compared as they are stored: log1p "
        "of normalised counts. KDE-NLL compares nearly discrete cells by a smooth density: read it with the others. "
        f"Fits that an interrupted run had finished were kept; fitted at commit {', '.join(sorted(commits))}."
    )
    kept = tidy[tidy["metric"].isin([*COLUMNS, "targets_per_condition", "coverage", "failed"])]
    note.write(args.out, "mechanisms", kept.drop(columns=["task", "n"]))


if __name__ == "__main__":
    main()
