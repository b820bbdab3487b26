"""The SciPlex3 experiment as tasks: per cell line, one drug is held out at its highest dose."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgim.datasets import sciplex3
from scgim.slots import read_entry

from .tasks import Query, Task

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger("scgim")

CELL_LINES = ("A549", "K562", "MCF7")
DRUGS = ("Belinostat", "Dacinostat", "Givinostat", "Quisinostat")
#: nM; what is held out of each drug in turn.
DOSE = 10_000.0
#: The one split of these tasks, and how tables name it.
SPLIT, SPLIT_TITLE = "held_out", "held-out dose"


@dataclass(frozen=True)
class Extract:
    """The cells of one cell line in a file of their own, or the reason why there are none.

    Parameters
    ----------
    cell_line
        Its name.
    file
        h5ad with raw counts of the wanted drugs and the vehicle.
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
        What is held out, nM.
    digest
        Of the data, see :class:`Extract`.
    file
        Of the data; no part of the identity of the task.
    problem
        Why the data cannot be had: loading then fails with it.
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

    def prepared(self, also_without: Sequence[str] = ()) -> AnnData:
        """The cells of the line, prepared; the conditions `also_without` are held out as well.

        Raises
        ------
        ValueError
            If there are no such cells, or the drug or dose does not exist.
        """
        import anndata as ad

        from scgim.pp import prepare
        from scgim.pp._labels import part_label

        if self.problem:
            raise ValueError(self.problem)
        adata = ad.read_h5ad(self.file)
        prepare(
            adata,
            dose_key="dose_value",
            dose_unit_key="dose_unit",
            control="control",
            hold_out=[part_label(self.drug, self.dose), *also_without],
            features=self.features,
            n_genes=self.n_genes,
            n_top_genes=self.n_top_genes,
            small_conditions="drop",
            rng=self.seed,
        )
        return adata

    def load(self) -> Task:
        """Read and prepare."""
        from scgim.pp._labels import part_label

        return self._task(self.prepared(), [part_label(self.drug, self.dose)], SPLIT)

    def load_without(self, labels: Sequence[str]) -> Task:
        """The same with these conditions held out as well, and asked for in place of the task's own: for tuning."""
        return self._task(self.prepared(labels), labels, "valid")

    def _task(self, adata: AnnData, labels: Sequence[str], split: str) -> Task:
        from scgim.baselines.prepared import prepared_condition, training_data

        entry = read_entry(adata)
        found = entry.codes(adata)
        queries = [
            Query(
                prepared_condition(adata, label),
                entry.expression(adata, np.flatnonzero(found == entry.labels.index(label))),
            )
            for label in labels
        ]
        positive: dict[str, dict[str, Any]] = {name: {"mechanism": "ziln"} for name in ("gim", "bacadi")}
        positive |= {name: {"clip": True} for name in ("mean_shift", "ridge", "additive", "condot")}
        return Task(training_data(adata), {split: queries}, None, positive, tuple(entry.genes))


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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_one_line(path, folder, line, list(drugs)) for line in cell_lines]


def _one_line(path: str | Path | None, folder: Path, line: str, drugs: list[str]) -> Extract:
    import anndata as ad

    file = folder / f"{line}.h5ad"
    stamp = _stamp(path, drugs)
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
            raise ValueError(str(error)) from error
        return sciplex3(cell_line=line, perturbations=found, path=path)


def _stamp(path: str | Path | None, drugs: Sequence[str]) -> str:
    """What tells one source from another without reading it."""
    if path is None:
        return f"download; {', '.join(drugs)}"
    about = Path(path).stat()
    return f"{Path(path).name}, {about.st_size} bytes, {about.st_mtime_ns}; {', '.join(drugs)}"


def _digest(adata: AnnData) -> str:
    """Of counts and labels, the same for the same data wherever they lie."""
    found = hashlib.sha256()
    for part in (adata.X.data, adata.X.indices, adata.X.indptr):
        found.update(np.ascontiguousarray(part).tobytes())
    for column in ("perturbation", "dose_value"):
        found.update("\n".join(adata.obs[column].astype(str)).encode())
    return found.hexdigest()[:12]
