"""`prepare`: from an AnnData with perturbation columns to everything that a fit needs; its arguments, checked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import InvalidType, InvalidValue
from .._logging import logger
from .._process import undisturbed
from .._rng import RngLike, as_generator, draw_seed
from .._validation import check_anndata, check_choice, check_fraction, check_int, listing, require_column
from ..slots import clear, detach, refuse_foreign
from ..slots.keys import COUNTS_LAYER, FORMAT_VERSION, Keys
from ._conditions import label_cells
from ._design import Absent, skip_absent
from ._encodings import DOSE_KINDS, KINDS
from ._expression import check_genes, measure_depth, read_matrix
from ._groups import Group, choose_genes, prepare_cells, split_groups
from ._matrix import columns_of, is_lazy, normalise, open_lazily

if TYPE_CHECKING:
    from anndata import AnnData

#: Arguments that are words, and the words that they may be.
_CHOICES = {
    "input": ("counts", "log1p", "continuous"),
    "small_conditions": ("error", "drop"),
    "silent_genes": ("error", "drop"),
}
#: Arguments that are whole numbers, and the least that each may be.
_LEAST = {"n_genes": 2, "n_top_genes": 2, "min_counts": 0, "min_cells": 0, "min_cells_per_condition": 2}


@undisturbed()
def prepare(
    adata: AnnData,
    *,
    perturbation_key: str = "perturbation",
    dose_key: str | None = None,
    dose_unit_key: str | None = None,
    control: Any = "control",
    groupby: str | list[str] | None = None,
    layer: str | None = None,
    input: str = "counts",
    features: str | pd.DataFrame = "auto",
    smiles_key: str | None = None,
    n_genes: int = 50,
    n_top_genes: int = 1000,
    genes: Any = None,
    hold_out: Any = None,
    min_counts: int | str = "auto",
    min_cells: int = 20,
    min_cells_per_condition: int = 10,
    small_conditions: str = "error",
    silent_genes: str = "error",
    combination_sep: str | None = "+",
    valid_fraction: float = 0.1,
    test_fraction: float = 0.0,
    rng: RngLike = 0,
    key_added: str = "gim",
    copy: bool = False,
    return_summary: bool = False,
    progress: bool = True,
) -> Any:
    """Prepare perturbation data for `scgim.tl.fit_gim`.

    Reads conditions and doses from `obs`, normalises, chooses the modelled genes, computes the features of
    each perturbation and splits the cells. The preprocessing is that of Schneider et al. (2025) for
    SciPlex3, every step as scanpy does it: each cell is normalised to the median total count of the control
    cells; cells with at least `min_counts` counts and genes in at least `min_cells` cells are kept; log(x +
    1); `n_top_genes` highly variable genes; of those the `n_genes` with the highest absolute
    `rank_genes_groups` score, perturbed against control. Cells that are left out stay in `adata`, without a
    condition. No error leaves anything changed.

    A backed AnnData, or one of Dask arrays (`anndata.experimental.read_lazy`, `read_elem_lazy`), is read three times,
    some cells at a time, and never held in memory (extra `lazy`).

    Parameters
    ----------
    adata
        Cells x genes; `X` dense, CSR, CSC, backed (not any more afterwards, see below), Dask or a view (which becomes
        an AnnData of its own).
    perturbation_key
        Column of `obs` with the perturbation of each cell: text or numbers. `"A+B"` is a combination (see
        `combination_sep`); `"B+A"` is the same condition, and is called `"A+B"` too. Cells without a label are left
        out. Labels that differ in case only, and those that name no perturbation ("unassigned"), are warned of.
    dose_key
        Column of `obs` with doses: numbers, or text such as `"10 nM"`, to six significant digits. A dose of 0 means
        control. Where units differ, all are converted to nM (or ng/ml). In a combination, one dose serves all its
        perturbations, and `"10+100"` gives each its own. None: there are no doses.
    dose_unit_key
        Column of `obs` with the unit of each dose, for doses that are numbers.
    control
        Label of the unperturbed cells (`"A+control"` is `"A"`), or a list of such labels: one control condition,
        called by the first. Cells with dose 0 are controls as well, and suffice where the label does not occur. None:
        only these; the control condition is then called `"control"`.
    groupby
        Column of `obs` (cell line, donor): each group is prepared by itself and gets slots of its own, with
        the prefix `f"{key_added}_{group}"`. Of several columns, `["cell_line", "time"]`, the values are joined by
        `_` (`"A549_24h"`).
    layer
        Layer to use instead of `X`. What is modelled replaces `X`.
    input
        What the values are. `"counts"`: raw counts. `"log1p"`: log-normalised. `"continuous"`: any real
        numbers. The first two are checked. Only counts are normalised, filtered by `min_counts` and written
        to `X`; continuous values have no highly variable genes and no `min_cells`.
    features
        What the intervention network sees of a perturbation and its dose. `"auto"`: one-hot perturbation,
        one-hot dose, rescaled dose (9 numbers for SciPlex3's 4 drugs and 4 doses; without doses, one-hot
        perturbation). `"onehot"`: the same without the rescaled dose. `"rescaled"`: without the one-hot dose, so
        that what one drug does at a dose is not copied onto the others at the same dose (own).
        `"fingerprint"`: Morgan fingerprint instead of the one-hot perturbation (own). `"hill"`: per perturbation,
        saturating curves of its dose, and the rescaled dose (own). `"potency"`: Hill curves around the dose at which
        each perturbation reaches half of its effect, which is read from the training cells; a dose then means what
        it does to the cells, so that what a potent drug shows tells of the higher doses of a weaker one (own). A
        DataFrame: numeric columns, indexed by perturbation (dose columns are added) or by part label
        (`"Dacinostat_10000"`; taken as it is).
    smiles_key
        Column of `obs` with the SMILES of each cell's drug, for `features="fingerprint"`.
    n_genes, n_top_genes
        Number of modelled genes, and of highly variable genes from which they are taken.
    genes
        None: choose them as above, without genes that are zero in every control cell. `"all"`: all genes in at least
        `min_cells` cells, without the same. A list: these genes.
    hold_out
        Conditions that are not trained on, nor used to choose genes; see `hold_out`. What one of several groups lacks
        is skipped there.
    min_counts
        Fewest counts per cell. `"auto"`: 200, as in the paper; where at most 2,000 genes were measured, a quarter of
        the cells' median, at most 200 (own). The summary tells what was used.
    min_cells
        Fewest (training) cells per gene.
    min_cells_per_condition, small_conditions
        Fewest cells per condition, and what to do where there are fewer: `"error"` or `"drop"` these cells (own).
    silent_genes
        What to do with genes of a list that are zero in every control cell, whose unperturbed mechanism cannot
        be learned: `"error"` or `"drop"` (own).
    combination_sep
        What separates the perturbations of a combination; None if nothing does. As names may contain it (`"Mg2+
        chelator"`), a label is split where each part also occurs alone, with the control (`"A+control"`), or in the
        index of `features`. A label with only some such parts is split as well, and a warning names those that never
        occur alone; with `+` or a comma, so are parts that several labels share, and what remains where most labels
        with the separator are combinations. All else stays one perturbation, which is warned of. A separator of
        several characters (`"||"`) always separates (own).
    valid_fraction
        Fraction of the cells of each training condition that is drawn for validation (own).
    test_fraction
        Fraction of the cells of each training condition, control included, that is drawn for testing: what to hold out
        where a group has one perturbation. The same cells whatever their order (own).
    rng
        Seed or generator for these draws; the seed is stored.
    key_added
        Prefix of all slots.
    copy
        Return a new AnnData and leave `adata` alone; a backed one is loaded into memory.
    return_summary
        Return a table of what was found.
    progress
        Show a progress bar while a file or a Dask array is read.

    Returns
    -------
    None; with `copy` the new AnnData, with `return_summary` the summary, with both a pair of them. Written are

    - `X` (cells, genes): log1p of normalised counts, and `layers["counts"]`: the counts (`input="counts"`).
    - `obs["gim_condition"]`, `obs["gim_split"]` (train / valid / test): categories, missing for cells left out.
    - `var["gim"]`: bool, the gene is modelled. `var["gim_score"]`: its score, NaN where none was computed.
    - `uns["gim"]`: `conditions`, `parts` (tables), `membership` (conditions, parts), `features` (parts, p),
      `feature_names`, `feature_spec`, `params`, `summary`, `format`.

    Where the values were backed or Dask, `X` and `layers["counts"]` are Dask arrays that read the file whenever they
    are used, so that it must stay where it is, and `obs["gim_size_factor"]` is what the counts were divided by. A fit
    reads it twice; ``adata[:, adata.var["gim"]].to_memory()`` has all that fits, samples and plots need.

    Raises
    ------
    KeyError, ValueError, TypeError
        If a column, layer or gene does not exist, the data are not what the arguments say, a part of a file cannot be
        read, or an argument has the wrong type; the message names the key, what was found and what to do.
    ImportError
        If `adata` is backed and Dask is not installed.

    Examples
    --------
    >>> import anndata, numpy, pandas, scgim
    >>> counts = numpy.random.default_rng(0).poisson(5.0, size=(120, 30))
    >>> obs = pandas.DataFrame({"drug": ["vehicle", "A", "A+B"] * 40}, index=[f"cell{i}" for i in range(120)])
    >>> adata = anndata.AnnData(counts.astype("float32"), obs=obs)
    >>> scgim.pp.prepare(adata, perturbation_key="drug", control="vehicle", min_counts=100, n_genes=10)
    >>> adata.uns["gim"]["conditions"]["n_cells"].to_dict()
    {'vehicle': 40, 'A': 40, 'A+B': 40}
    """
    start = time.perf_counter()
    arguments = dict(locals())
    for name in ("adata", "start", "copy", "return_summary", "progress"):
        del arguments[name]
    from anndata import AnnData

    check_arguments(adata, arguments)
    given = adata
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
    adata = open_lazily(adata)
    arguments["rng"] = stored_seed(rng)
    named = features.index.astype(str) if isinstance(features, pd.DataFrame) else ()
    labels = label_cells(adata.obs, arguments, named)
    matrix, total, where = read_matrix(adata, layer, input, "depths" if progress else "")
    depth, arguments["min_counts"] = measure_depth(total, adata.n_vars, input, min_counts, labels.codes >= 0)
    groups = split_groups(adata.obs, arguments["groupby"])
    absent: Absent | None = None if groupby is None else {}
    refuse_foreign(adata, key_added, [name for name, _ in groups], named_columns(arguments))
    prepared = [
        prepare_cells(adata, labels, members, depth, Keys(key_added, name), arguments, absent)
        for name, members in groups
    ]
    skip_absent(absent or {}, len(groups))
    modelled, scaled = matrix, lambda values: values
    if input == "counts":
        # In no group: to the median of all controls, so that X is on one scale.
        target = np.full(adata.n_obs, np.median(total[(labels.codes == 0) & (total > 0)]))
        for group, (_, members) in zip(prepared, groups, strict=True):
            target[members] = group.params["target_sum"]
            group.size_factor = total / target if is_lazy(matrix) else None
        scaled = partial(normalise, total=total, target=target)
        modelled = scaled(matrix)
    filled = total > 0 if is_lazy(matrix) and input != "continuous" else None
    bars = ("gene statistics", "modelled genes") if progress else ("", "")

    def read(genes: np.ndarray) -> np.ndarray:
        return scaled(columns_of(matrix, genes, where, bars[1], filled))

    choose_genes(prepared, modelled, where, adata.var_names, arguments, filled, read=read, what=bars[0])
    for group in prepared:
        group.count()
    entries = [group.entries() for group in prepared]

    # Nothing was written so far; from here on nothing can fail.
    detach(adata)
    clear(adata, key_added)
    if input == "counts":
        adata.layers[COUNTS_LAYER] = matrix if layer != COUNTS_LAYER else adata.layers[COUNTS_LAYER]
    if input == "counts" or layer is not None:
        adata.X = modelled
    if groupby is not None:
        names = np.array([str(name) for name, _ in groups], dtype=object)
        columns = groupby if isinstance(groupby, str) else np.array(groupby, dtype=object)
        adata.uns[key_added] = {"format": FORMAT_VERSION, "key": key_added, "groupby": columns, "groups": names}
    for group, entry in zip(prepared, entries, strict=True):
        group.write(adata, entry)
    if adata is not given and not copy:
        AnnData.__init__(given, adata)
    summary = _report(prepared, time.perf_counter() - start)
    if copy:
        return (adata, summary) if return_summary else adata
    return summary if return_summary else None


def _report(prepared: list[Group], seconds: float) -> pd.DataFrame:
    """Log the summaries and what was written where; returns them as one table."""
    tables = []
    for group in prepared:
        keys, table = group.keys, group.summary_table()
        lines = "\n".join(f"  {item:<44} {n:>8}  {detail}" for item, n, detail in table.itertuples(index=False))
        logger.info(f"prepared{group.where}:\n{lines}")
        obs, var = f"obs[{keys.condition!r}], obs[{keys.split!r}]", f"var[{keys.genes!r}], var[{keys.score!r}]"
        logger.info(f"written: {obs}, {var}, uns[{keys.uns!r}]")
        tables.append(table if keys.group is None else table.assign(group=keys.group))
    logger.info(f"prepared in {seconds:.1f} s")
    return pd.concat(tables, ignore_index=True)


def check_arguments(adata: AnnData, arguments: dict[str, Any]) -> None:
    """Check everything that can be checked without reading a column or the matrix."""
    check_anndata(adata)
    if adata.n_vars < 2:
        raise InvalidValue("adata has 1 gene; a graph needs at least 2. Pass the AnnData with all measured genes.")
    check_settings(arguments)
    for name, named in named_columns(arguments).items():
        if named is not None or name == "perturbation_key":
            for column in named if isinstance(named, list) else [named]:
                require_column(adata.obs, column, name)
    check_genes(arguments["genes"], adata.var_names)


def check_settings(arguments: dict[str, Any]) -> None:
    """Check what needs no data; numbers come out as whole ones."""
    for name, words in _CHOICES.items():
        check_choice(arguments[name], name, words)
    for name, least in _LEAST.items():
        if name != "min_counts" or not isinstance(arguments[name], str):
            arguments[name] = check_int(arguments[name], name, least=least)
        elif arguments[name] != "auto":
            raise InvalidType(f"min_counts must be a whole number or 'auto', got {arguments[name]!r}.")
    for name in ("valid_fraction", "test_fraction"):
        arguments[name] = check_fraction(arguments[name], name)
    check_fractions(arguments["valid_fraction"], arguments["test_fraction"])
    check_features(arguments["features"], arguments["smiles_key"], arguments["dose_key"])
    key = arguments["key_added"]
    if not isinstance(key, str) or not key or "/" in key:
        raise InvalidValue(f"key_added={key!r}: it must be text, not empty, and without '/'.")
    separator = arguments["combination_sep"]
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise InvalidType(f"combination_sep must be text or None, got {separator!r}.")
    groupby = arguments["groupby"]
    if isinstance(groupby, list | tuple):
        if not groupby or len(set(map(str, groupby))) < len(groupby):
            raise InvalidValue(f"groupby={groupby!r}: name one column of adata.obs, or several different ones.")
        arguments["groupby"] = groupby[0] if len(groupby) == 1 else list(groupby)


def named_columns(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that name a column of `obs`."""
    names = ("perturbation_key", "dose_key", "dose_unit_key", "smiles_key", "groupby")
    return {name: arguments[name] for name in names}


def check_fractions(valid: float, test: float) -> None:
    """Refuse where no cell would be left to train on."""
    if valid + test >= 1:
        raise InvalidValue(
            f"valid_fraction={valid:g} and test_fraction={test:g} leave no cells to train on: lower one of them."
        )


def check_features(features: Any, smiles_key: str | None, dose_key: str | None) -> None:
    """Check the kind of features and the columns that it needs."""
    if isinstance(features, pd.DataFrame):
        return
    if not isinstance(features, str):
        raise InvalidType(f"features must be one of {listing(KINDS)} or a DataFrame, got {type(features).__name__}.")
    check_choice(features, "features", KINDS)
    if features == "fingerprint" and smiles_key is None:
        raise InvalidValue('features="fingerprint" needs smiles_key=, the column of adata.obs with the SMILES.')
    if features in DOSE_KINDS and dose_key is None:
        raise InvalidValue(f'features="{features}" needs dose_key=, the column of adata.obs with the doses.')


def stored_seed(rng: RngLike) -> int:
    """The seed to use and to store: `rng` itself if it is one, else drawn from it."""
    generator = as_generator(rng)
    return int(rng) if isinstance(rng, int | np.integer) else draw_seed(generator)
