"""`prepare`: from an AnnData with perturbation columns to everything that a fit needs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._keys import COUNTS_LAYER, FORMAT_VERSION, Keys
from .._process import undisturbed
from .._rng import RngLike
from ..slots import refuse_foreign
from .conditions import label_cells
from .groups import choose_genes, prepare_cells, split_groups
from .inputs import check_arguments, named_columns, read_matrix, stored_seed
from .normalise import measure_depth, normalise
from .slots import clear, own, write_group
from .splits import Absent
from .summary import report, summarise

if TYPE_CHECKING:
    from anndata import AnnData


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
) -> Any:
    """Prepare perturbation data for `scgim.tl.fit_gim`.

    Reads conditions and doses from `obs`, normalises, chooses the modelled genes, computes the features of
    each perturbation and splits the cells. The preprocessing is that of Schneider et al. (2025) for
    SciPlex3, every step done by scanpy: each cell is normalised to the median total count of the control
    cells; cells with at least `min_counts` counts and genes in at least `min_cells` cells are kept; log(x +
    1); `n_top_genes` highly variable genes; of those the `n_genes` with the highest absolute
    `rank_genes_groups` score, perturbed against control. Cells that are left out stay in `adata`, without a
    condition. No error leaves anything changed.

    Parameters
    ----------
    adata
        Cells x genes; `X` dense, CSR, CSC, backed (with `copy=True`), Dask (loaded into memory) or a view
        (which becomes an AnnData of its own).
    perturbation_key
        Column of `obs` with the perturbation of each cell: text or numbers, without outer blanks. `"A+B"` is a
        combination (see `combination_sep`); `"B+A"` is the same condition, and is called `"A+B"` too. Cells without a
        label are left out. Labels that differ in case only, and those that name no perturbation ("unassigned"), are
        warned of.
    dose_key
        Column of `obs` with doses: numbers, or text such as `"10 nM"`. A dose of 0 means control. Doses in
        one unit are kept in it; where units differ, all are converted to nM (or ng/ml). In a combination,
        one dose serves all its perturbations, and `"10+100"` gives each its own. Doses are kept to six
        significant digits. None: there are no doses.
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
        Conditions that are not trained on; see `hold_out`. Their cells have no influence on the choice of
        genes. What one of several groups lacks is skipped there.
    min_counts
        Fewest counts per cell. `"auto"`: 200, as in the paper; where at most 2,000 genes were measured, a quarter of
        the cells' median, at most 200 (own). The summary tells what was used.
    min_cells
        Fewest (training) cells per gene.
    min_cells_per_condition
        Fewest cells per condition (own).
    small_conditions
        What to do with conditions that have fewer: `"error"` or `"drop"` their cells (own).
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
        Return a new AnnData and leave `adata` alone.
    return_summary
        Return a table of what was found.

    Returns
    -------
    None; with `copy` the new AnnData, with `return_summary` the summary, with both a pair of them. Written
    are

    - `X` (cells, genes): log1p of normalised counts, and `layers["counts"]`: the counts (for
      `input="counts"`).
    - `obs["gim_condition"]`, `obs["gim_split"]` (train / valid / test): categories, missing for cells left
      out.
    - `var["gim"]`: bool, the gene is modelled. `var["gim_score"]`: its score, NaN where none was computed.
    - `uns["gim"]`: `conditions`, `parts` (tables), `membership` (conditions, parts), `features` (parts, p),
      `feature_names`, `feature_spec`, `params`, `summary`, `format`.

    Raises
    ------
    KeyError
        If a column, layer or gene does not exist.
    ValueError
        If the data are not what the arguments say; the message names the key, what was found and what to do.
    TypeError
        If an argument has the wrong type.

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
    for name in ("adata", "start", "copy", "return_summary"):
        del arguments[name]
    check_arguments(adata, arguments)
    if adata.isbacked:
        if not copy:
            raise ValueError(
                "adata is backed (its X is on disk) and cannot be changed in place. Pass copy=True and use "
                "what is returned, or load it first with adata = adata.to_memory()."
            )
        adata = adata.to_memory()
    elif copy:
        adata = adata.copy()
    arguments["rng"] = stored_seed(rng)
    labels = label_cells(
        adata.obs,
        perturbation_key=perturbation_key,
        dose_key=dose_key,
        dose_unit_key=dose_unit_key,
        control=control,
        combination_sep=combination_sep,
        named=features.index.astype(str) if isinstance(features, pd.DataFrame) else (),
    )
    matrix = read_matrix(adata, layer, input)
    depth, arguments["min_counts"] = measure_depth(matrix, input, min_counts, labels.codes >= 0)
    groups = split_groups(adata.obs, arguments["groupby"])
    absent = None if groupby is None else Absent(len(groups))
    refuse_foreign(adata, key_added, [name for name, _ in groups], named_columns(arguments))
    prepared = [
        prepare_cells(adata, labels, members, depth, Keys(key_added, name), arguments, absent)
        for name, members in groups
    ]
    if absent is not None:
        absent.check()
    modelled = matrix
    if input == "counts":
        blocks = [(np.flatnonzero(members), s.target_sum) for s, (_, members) in zip(prepared, groups, strict=True)]
        outside = np.flatnonzero(~np.any([members for _, members in groups], axis=0))
        if outside.size:  # in no group: to the median of all controls, so that X is on one scale
            blocks.append((outside, float(np.median(depth.total[(labels.codes == 0) & (depth.total > 0)]))))
        modelled = normalise(matrix, blocks)
    for slots in prepared:
        choose_genes(slots, modelled, adata.var_names, arguments)
        slots.store({"summary": summarise(slots, adata.shape)})

    # Nothing was written so far; from here on nothing can fail.
    own(adata)
    clear(adata, key_added)
    if input == "counts":
        adata.layers[COUNTS_LAYER] = matrix if layer != COUNTS_LAYER else adata.layers[COUNTS_LAYER]
    if input == "counts" or layer is not None:
        adata.X = modelled
    if groupby is not None:
        names = np.array([str(name) for name, _ in groups], dtype=object)
        columns = groupby if isinstance(groupby, str) else np.array(groupby, dtype=object)
        adata.uns[key_added] = {"format": FORMAT_VERSION, "key": key_added, "groupby": columns, "groups": names}
    for slots in prepared:
        write_group(adata, slots)
    summary = report(prepared, time.perf_counter() - start)
    if copy:
        return (adata, summary) if return_summary else adata
    return summary if return_summary else None
