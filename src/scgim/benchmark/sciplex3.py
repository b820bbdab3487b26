"""The SciPlex3 experiment as tasks: per cell line, one drug is held out at its highest dose."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgim._errors import InvalidValue
from scgim._validation import check_choice
from scgim.datasets import sciplex3
from scgim.slots import read_entry

from .experiments import SMALL_NOTE, Tuning, method_of
from .tasks import Cell, Method, Query, Task, options_of_data

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger("scgim")

CELL_LINES = ("A549", "K562", "MCF7")
DRUGS = ("Belinostat", "Dacinostat", "Givinostat", "Quisinostat")
#: nM; what is held out of each drug in turn.
DOSE = 10_000.0
#: The one split of these tasks.
SPLIT = "held_out"
#: Methods that read the features; the others are run once.
FEATURED = frozenset(["gim", "gim_paper", "mean_shift", "ridge", "condot"])
#: Methods that take minutes a fit: fitted for the first seed only unless told otherwise.
SLOW = frozenset(["condot", "gim_paper"])
_SMALL_OPTIONS = {"gim": {"max_steps": 150}, "condot": {"steps": 5}}


@dataclass(frozen=True)
class Extract:
    """The cells of one cell line in a file of their own, or the reason why there are none.

    Parameters
    ----------
    cell_line, file
        Its name, and an h5ad with raw counts of the wanted drugs and the vehicle.
    digest
        Of the counts and labels: results of other data are never taken for these.
    source
        Where the cells come from, in words.
    problem
        Why there are none; empty where there are.
    """

    cell_line: str
    file: str = ""
    digest: str = ""
    source: str = ""
    problem: str = ""


@dataclass(frozen=True)
class SciPlex3Task:
    """One setting of the paper's single-cell experiment: a drug held out at its highest dose in one cell line.

    Preprocessing is that of `scgim.pp.prepare`: the marker genes are chosen without the held-out cells.

    Parameters
    ----------
    cell_line, drug
        The setting.
    seed
        Of preparation, fitting and sampling.
    features
        How a perturbation is described, see `scgim.pp.prepare`; "auto" is the paper's nine numbers.
    n_genes, n_top_genes
        Modelled genes, and the highly variable genes that they are taken from.
    dose
        That is held out, in nM.
    digest, file, problem
        Of the data, see :class:`Extract`. Where there is a problem, loading fails with it.
    """

    cell_line: str
    drug: str
    seed: int = 0
    features: str = "auto"
    n_genes: int = 50
    n_top_genes: int = 1000
    dose: float = DOSE
    digest: str = ""
    file: str = field(default="", repr=False, compare=False)
    problem: str = field(default="", repr=False, compare=False)

    @property
    def name(self) -> str:
        """E.g. ``A549-Dacinostat-auto-50genes-seed0``."""
        return f"{self.cell_line}-{self.drug}-{self.features}-{self.n_genes}genes-seed{self.seed}"

    def columns(self) -> dict[str, Any]:
        """The setting, without the data's place."""
        return {k: v for k, v in asdict(self).items() if k not in ("file", "problem", "digest")}

    def load(self) -> Task:
        """Read and prepare; a ValueError where there are no such cells, drug or dose."""
        return self._load(SPLIT, [])

    def load_without(self, labels: Sequence[str]) -> Task:
        """The same with these conditions held out as well, and asked for in place of the task's own: for tuning."""
        return self._load("valid", labels)

    def _load(self, split: str, also: Sequence[str]) -> Task:
        import anndata as ad

        from scgim.baselines.prepared import prepared_condition, training_data
        from scgim.pp import prepare
        from scgim.pp._labels import part_label

        if self.problem:
            raise InvalidValue(self.problem)
        held_out = part_label(self.drug, self.dose)
        adata = ad.read_h5ad(self.file)
        prepare(
            adata, dose_key="dose_value", dose_unit_key="dose_unit", control="control", hold_out=[held_out, *also],
            features=self.features, n_genes=self.n_genes, n_top_genes=self.n_top_genes, small_conditions="drop",
            rng=self.seed,
        )  # fmt: skip
        entry = read_entry(adata)
        codes, queries = entry.codes(adata), []
        for label in also or [held_out]:
            rows = np.flatnonzero(codes == entry.labels.index(label))
            queries.append(Query(prepared_condition(adata, label), entry.expression(adata, rows)))
        defaults = options_of_data({"mechanism": "ziln"}, positive=True)
        return Task(training_data(adata, counts=True), {split: queries}, None, defaults, tuple(entry.genes))


def extract(
    path: str | Path | None,
    folder: str | Path,
    *,
    cell_lines: Sequence[str] = CELL_LINES,
    drugs: Sequence[str] = DRUGS,
) -> list[Extract]:
    """Write the wanted cells of every line to `folder`, so that no fit has to read the whole screen.

    Parameters
    ----------
    path
        A file in scPerturb's format; None: download it, see `scgim.datasets.sciplex3`.
    folder
        For the files; one that is there already and came from the same file is kept.
    cell_lines, drugs
        What is wanted. What the file does not have becomes the `problem` of its line, or is left out with a warning.

    Returns
    -------
    list of Extract
        One per cell line.

    Raises
    ------
    FileNotFoundError, OSError, KeyError
        If there is no such file, it cannot be read, or it has other columns.
    """
    source = "download"
    if path is not None:  # what tells one source from another without reading it
        about = Path(path).stat()
        source = f"{Path(path).name}, {about.st_size} bytes, {about.st_mtime_ns}"
    stamp = f"{source}; {', '.join(drugs)}"
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [_one_line(path, Path(folder) / f"{line}.h5ad", stamp, line, list(drugs)) for line in cell_lines]


def _one_line(path: str | Path | None, file: Path, stamp: str, line: str, drugs: list[str]) -> Extract:
    import anndata as ad

    if file.is_file():
        kept = ad.read_h5ad(file)
        if kept.uns.get("stamp") == stamp:
            return Extract(line, str(file), _digest(kept), str(kept.uns["source"]))
    try:
        adata = _read(path, line, drugs)
    except ValueError as error:
        logger.warning("%s: %s", line, error)
        return Extract(line, problem=f"{line}: {error}")
    adata.uns["stamp"] = stamp
    adata.write_h5ad(file)
    return Extract(line, str(file), _digest(adata), str(adata.uns["source"]))


def _read(path: str | Path | None, line: str, drugs: list[str]) -> AnnData:
    """The line's cells; drugs that the file lacks are left out as long as there is one."""
    try:
        return sciplex3(cell_line=line, perturbations=drugs, path=path)
    except ValueError as error:
        found = []
        for drug in drugs:
            try:
                sciplex3(cell_line=line, perturbations=drug, path=path)
                found.append(drug)
            except ValueError as reason:
                logger.warning("%s, %s: %s", line, drug, reason)
        if not found or len(found) == len(drugs):
            raise InvalidValue(str(error)) from error
        return sciplex3(cell_line=line, perturbations=found, path=path)


def _digest(adata: AnnData) -> str:
    """Of counts and labels, the same for the same data wherever they lie."""
    found = hashlib.sha256()
    for part in (adata.X.data, adata.X.indices, adata.X.indptr):
        found.update(np.ascontiguousarray(part).tobytes())
    for column in ("perturbation", "dose_value"):
        found.update("\n".join(adata.obs[column].astype(str)).encode())
    return found.hexdigest()[:12]


@dataclass(frozen=True)
class SciPlex3Experiment:
    """The paper's single-cell experiment: HDAC inhibitors, the highest dose held out.

    In each of three cell lines each of four inhibitors is held out at 10,000 nM and predicted from its lower doses and
    the other drugs. The file is scPerturb's SciPlex3 (2.5 GB, downloaded once; extra "datasets") or one in its format.
    This is what `scgim benchmark sciplex3` runs.

    Parameters
    ----------
    extracts
        The data, a file per cell line, from :func:`scgim.benchmark.extract`.
    drugs, dose
        Each drug is held out at this dose (nM) in turn.
    methods
        Names that `scgim.baselines.fit` knows, and "gim_paper", the paper's preset.
    encodings
        Values of `features` in `scgim.pp.prepare` under which methods that read features are compared.
    seeds
        Of preparation, fit and sampling.
    slow_seeds
        Seeds for CondOT and the paper's preset, which take minutes a fit.
    n_genes
        Modelled genes.
    tuned
        (method, encoding) -> chosen options, see :func:`run_experiment`.
    small
        Fewer genes and steps.
    """

    extracts: Sequence[Extract]
    drugs: Sequence[str] = DRUGS
    dose: float = DOSE
    methods: Sequence[str] = ("gim", "mean_shift", "ridge", "condot", "next_lower_dose", "control")
    encodings: Sequence[str] = ("auto", "potency")
    seeds: Sequence[int] = (0, 1, 2)
    slow_seeds: Sequence[int] = (0,)
    n_genes: int = 50
    tuned: Mapping[tuple[str, str], Mapping[str, Any]] | None = None
    small: bool = False

    def __post_init__(self) -> None:
        for name in self.methods:
            method_of(name, {}, {}).cls  # noqa: B018  an unknown one is an error now
        for name in self.encodings:
            check_choice(name, "encodings", ("auto", "onehot", "rescaled", "hill", "potency"))

    def cells(self) -> dict[str, list[Cell]]:
        """Every setting x seed x method x encoding, seed by seed: an interrupted run has whole seeds."""
        if all(found.problem for found in self.extracts):
            raise InvalidValue("Nothing can be run. " + " ".join(found.problem for found in self.extracts))
        cells = [
            Cell(self.task(found, drug, seed, encoding), self._method(name, encoding))
            for seed in dict.fromkeys([*self.slow_seeds, *self.seeds])
            for found, drug, name in product(self.extracts, self.drugs, self.methods)
            if seed in (self.slow_seeds if name in SLOW else self.seeds)
            for encoding in self._encodings_of(name)
        ]
        return {"settings": cells}

    @property
    def semi_synthetic(self) -> bool:
        """The file says of itself that its counts are simulated."""
        return any(word in found.source.lower() for found in self.extracts for word in ("synthetic", "simulated"))

    def about(self) -> str:
        """What the data are."""
        kind = "Semi-synthetic stand-in, no number is one of SciPlex3" if self.semi_synthetic else "Real data"
        source = next((found.source for found in self.extracts if found.source), "no data were found")
        return f"{kind} ({source})." + (SMALL_NOTE if self.small else "")

    def reported(self) -> set[int]:
        """Seeds that are reported."""
        return {*self.seeds, *self.slow_seeds}

    def tuning(self, seeds: Sequence[int]) -> Iterator[Tuning]:
        """Every method that reads features, per encoding, in one setting per cell line."""
        usable = [found for found in self.extracts if not found.problem]
        for name in [name for name in self.methods if name in FEATURED]:
            for encoding in self._encodings_of(name):
                specs = [
                    self.task(found, self.drugs[i % len(self.drugs)], seed, encoding)
                    for seed in seeds
                    for i, found in enumerate(usable)
                ]
                method = replace(self._method(name, encoding), name=f"{name}-{encoding}")
                yield Tuning({"method": name, "features": encoding}, method, specs, "highest_dose")

    def _encodings_of(self, name: str) -> Sequence[str]:
        """Under which features a method is run; the paper's preset on the paper's."""
        return self.encodings if name in FEATURED and name != "gim_paper" else ("auto",)

    def task(self, found: Extract, drug: str, seed: int, encoding: str = "auto") -> SciPlex3Task:
        """One setting."""
        size = {"n_genes": self.n_genes}
        if self.small:
            size = {"n_genes": 12, "n_top_genes": 200}
        elif self.n_genes > 200:
            size["n_top_genes"] = max(1000, 2 * self.n_genes)
        return SciPlex3Task(
            found.cell_line, drug, seed=seed, features=encoding, dose=self.dose, digest=found.digest, file=found.file,
            problem=found.problem, **size,
        )  # fmt: skip

    def _method(self, name: str, encoding: str) -> Method:
        options = (self.tuned or {}).get((name, encoding), {})
        return method_of(name, options, _SMALL_OPTIONS if self.small else {})
