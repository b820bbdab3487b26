"""Expression: the matrix that is modelled, and the genes that are chosen from sums over its cells, as scanpy does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import InvalidValue, NotFound
from .._logging import logger
from .._validation import check_part, check_scale, holds_counts, listing, plural, suggestion
from ..slots.keys import COUNTS_LAYER
from ._matrix import as_matrix, is_lazy, tiles

if TYPE_CHECKING:
    from anndata import AnnData

#: Fewest counts per cell in Schneider et al. (2025), for a whole transcriptome.
PAPER_MIN_COUNTS = 200
#: So many genes or fewer are a panel, or a choice of genes (own).
PANEL = 2_000
_MANY_GENES = 500


def read_matrix(adata: AnnData, layer: str | None, kind: str, what: str) -> tuple[Any, np.ndarray, str]:
    """The values to model, checked to be what `kind` says; (cells, genes), a total of each cell, and what it is called.

    `what`: text of the progress bar, as in `tiles`.
    """
    # From anndata 0.13 on, `adata.layers` also lists X, under None.
    layers = sorted(name for name in adata.layers if name is not None)
    if layer is None:
        where, values = "adata.X", adata.X
        if values is None:
            raise InvalidValue(f"adata.X is empty (None). Pass layer=; the layers are {listing(layers)}.")
    else:
        if layer not in layers:
            raise NotFound(
                f"layer={layer!r} is not in adata.layers.{suggestion(layer, layers)} The layers are: "
                f"{listing(layers)}. Pass one of them, or leave layer out to use adata.X."
            )
        where, values = f"adata.layers[{layer!r}]", adata.layers[layer]
    matrix = as_matrix(values)
    if adata.is_view and isinstance(matrix, np.ndarray):
        matrix = matrix.copy()  # it may share memory with the parent, and is to be stored
    stored = None
    if kind == "counts" and layer != COUNTS_LAYER and COUNTS_LAYER in layers:
        stored = as_matrix(adata.layers[COUNTS_LAYER])
    total = check_matrix(matrix, where, kind, adata, what, stored, partial(_where_counts, adata, layers))
    return matrix, total, where


def _where_counts(adata: AnnData, layers: list[str]) -> str:
    """Where raw counts are found in place of what was given; empty if nowhere."""
    holding = [name for name in layers if holds_counts(adata.layers[name])]
    if holding:
        return f"Pass layer={holding[0]!r}, which does"
    if adata.raw is None or not holds_counts(adata.raw.X[:]):
        return ""
    if adata.var_names.isin(adata.raw.var_names).all():
        return "adata.raw does: adata.layers['raw'] = adata.raw[:, adata.var_names].X, then pass layer='raw'"
    return "adata.raw does: adata = adata.raw.to_adata(), then prepare that"


def check_matrix(
    matrix: Any,
    where: str,
    kind: str,
    adata: AnnData,
    what: str = "",
    stored: Any = None,
    raw_counts: Callable[[], str] | None = None,
) -> np.ndarray:
    """Check that a matrix of `adata` is what `kind` says, and that it is what is `stored`; the total of each cell."""
    total, counts, largest = np.zeros(adata.n_obs), True, 0.0
    for rows, columns, values, place in tiles(matrix, where, what):
        names = {"cells": adata.obs_names[rows], "genes": adata.var_names[columns]}
        found = check_part(values, f"{where}{place}", kind=kind, **names, raw_counts=raw_counts)
        counts, largest = counts and found[0], max(largest, found[1])
        total[rows] += np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
        if stored is None:
            continue
        other = stored[rows, columns]
        other = as_matrix(other.compute() if is_lazy(other) else other)
        both_dense = not sp.issparse(other) and not sp.issparse(values)
        if (other != values).any() if both_dense else (sp.csr_matrix(other) != sp.csr_matrix(values)).nnz:
            raise InvalidValue(
                f"adata.layers[{COUNTS_LAYER!r}] exists and differs from the counts in {where}, which prepare would "
                f"store there. Pass layer={COUNTS_LAYER!r} to use it, or rename that layer."
            )
    check_scale(kind, where, counts, largest)
    return total


class Depth(NamedTuple):
    """How much was measured of each cell."""

    total: np.ndarray  # (cells,) total of its values
    enough: np.ndarray  # (cells,) bool: it is kept


def measure_depth(
    total: np.ndarray, n_genes: int, kind: str, min_counts: int | str, labelled: np.ndarray
) -> tuple[Depth, int | str]:
    """Which cells have enough of a total, and the `min_counts` that was used.

    Counts need `min_counts`; of log-normalised data only cells without any value are left out; continuous
    data are kept. `labelled`, (cells,) bool: the cells that `"auto"` looks at.
    """
    if kind != "counts":
        return Depth(total, total > 0 if kind == "log1p" else np.ones(len(total), dtype=bool)), min_counts
    if min_counts == "auto":
        min_counts = _least_counts(total[labelled & (total > 0)], n_genes)
    return Depth(total, total >= min_counts), min_counts


def _least_counts(total: np.ndarray, n_genes: int) -> int:
    """`min_counts="auto"`: the paper's, or a quarter of the median where a panel of genes has fewer counts (own)."""
    if n_genes > PANEL or not total.size:
        return PAPER_MIN_COUNTS
    least = int(np.clip(np.median(total) // 4, 1, PAPER_MIN_COUNTS))
    logger.info(
        f"min_counts={least}, from the median of {np.median(total):g} counts per cell: {plural(n_genes, 'gene')} "
        "make a panel, not a whole transcriptome."
    )
    return least


def check_genes(genes: Any, var_names: pd.Index) -> np.ndarray | None:
    """(genes,) bool: those that the user named; None if scgim is to choose."""
    if genes is None or (isinstance(genes, str) and genes == "all"):
        return None
    if isinstance(genes, str):
        raise InvalidValue(f'genes={genes!r} is unknown; pass None (markers), "all" or a list of gene names.')
    names = [str(gene) for gene in genes]
    positions = var_names.get_indexer(pd.Index(names, dtype=object))
    missing = [name for name, at in zip(names, positions, strict=True) if at < 0]
    if missing:
        raise NotFound(
            f"genes: {len(missing)} of {len(names)} are not in adata.var_names: {listing(missing)}."
            f"{suggestion(missing[0], var_names)} Leave them out, or name genes as adata.var_names does "
            f"(such as {listing(var_names[:3])})."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidValue(f"genes: {listing(repeated)} occur more than once. Name each gene once.")
    if len(names) < 2:
        raise InvalidValue(f"genes: a graph needs at least 2 genes, got {listing(names)}.")
    return np.isin(np.arange(len(var_names)), positions)


class GeneSums(NamedTuple):
    """Sums over some cells, of each gene."""

    n: int  # cells
    nonzero: np.ndarray  # (genes,) cells with another value than zero
    total: np.ndarray  # (genes,) of the values
    squares: np.ndarray  # (genes,) of their squares
    level: np.ndarray  # (genes,) of expm1 of the values, or 0
    level_squares: np.ndarray  # (genes,)

    def __add__(self, other: Any) -> GeneSums:
        return GeneSums(*(one + two for one, two in zip(self, other, strict=True)))

    def mean_and_variance(self, *, level: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Of the values, or of their `level`; the variance is unbiased."""
        total, squares = (self.level, self.level_squares) if level else (self.total, self.squares)
        mean = total / self.n
        return mean, (squares / self.n - mean**2) * (self.n / max(self.n - 1, 1))


def sum_genes(
    matrix: Any, where: str, classes: np.ndarray, n_classes: int, *, level: bool, what: str, filled: Any = None
) -> list[GeneSums]:
    """Sums over the cells of each class, in one pass; `classes` (cells,) int, -1 for cells that are in none.

    `what` and `filled` as in `tiles`.
    """
    sums = np.zeros((5, n_classes + 1, matrix.shape[1]))  # the last class: cells that are in none
    for rows, columns, values, _ in tiles(matrix, where, what, filled):
        # One format for every input, so that the choice does not depend on how the matrix was stored.
        values = sp.csr_matrix(values)
        shape = n_classes + 1, values.shape[1]
        place = np.repeat(classes[rows] % shape[0] * shape[1], np.diff(values.indptr)) + values.indices
        data = values.data.astype(np.float64)
        there = None if (data != 0).all() else (data != 0).astype(np.float64)
        for i, weights in enumerate((there, data, data * data)):
            sums[i, :, columns] += np.bincount(place, weights, shape[0] * shape[1]).reshape(shape)
        if level:
            lifted = np.exp(data) - 1
            for i, weights in enumerate((lifted, lifted * lifted), start=3):
                sums[i, :, columns] += np.bincount(place, weights, shape[0] * shape[1]).reshape(shape)
    n = np.bincount(classes[classes >= 0], minlength=n_classes)
    return [GeneSums(int(n[i]), *sums[:, i]) for i in range(n_classes)]


class Markers(NamedTuple):
    """Chosen genes of one group."""

    chosen: np.ndarray  # (genes,) bool
    score: np.ndarray  # (genes,) float, NaN where no score was computed
    n_expressed: int  # genes in enough cells
    n_variable: int  # of those, highly variable


def choose_markers(
    control: GeneSums, perturbed: GeneSums, var_names: pd.Index, arguments: Mapping[str, Any], where: str
) -> Markers:
    """Choose the modelled genes from the training cells of one group.

    `control`, `perturbed`: sums over their log-normalised or continuous values; `arguments` of `prepare`; `where`:
    which group this is, for messages.
    """
    everyone = control + perturbed
    candidates = _enough_cells(everyone, var_names, arguments, where)
    n_expressed = int(candidates.sum())
    counted, genes = arguments["input"] != "continuous", arguments["genes"]
    if genes is None and counted and n_expressed > arguments["n_top_genes"]:
        candidates = _highly_variable(everyone, _by_name(candidates, var_names), arguments["n_top_genes"])
        if not candidates.any():
            raise InvalidValue(
                f"No gene varies between the training cells{where}, so that none is highly variable. Check the values, "
                "raise n_top_genes to the number of genes, or name the genes with genes=."
            )
    n_variable = int(candidates.sum())
    if counted:
        candidates = _without_silent(control, candidates, var_names, arguments, where)
    score = np.where(candidates, _scores(control, perturbed, where), np.nan)
    chosen = candidates.copy()
    if genes is None:
        # Ties (and genes in another order) are settled by name.
        order = np.lexsort((np.asarray(var_names, dtype=str), -np.nan_to_num(np.abs(score), nan=-1.0)))
        chosen[:] = False
        chosen[order[: min(arguments["n_genes"], int(candidates.sum()))]] = True
    if chosen.sum() > _MANY_GENES:
        logger.warning(
            f"{plural(int(chosen.sum()), 'gene')}{where} to be modelled; with more than {_MANY_GENES} a fit takes long."
        )
    return Markers(chosen, score, n_expressed, n_variable)


def _enough_cells(everyone: GeneSums, var_names: pd.Index, arguments: Mapping[str, Any], where: str) -> np.ndarray:
    """(genes,) bool: named, or in enough cells."""
    genes, min_cells = arguments["genes"], arguments["min_cells"]
    named = check_genes(genes, var_names)
    candidates, remedy = np.ones(len(var_names), dtype=bool), "Raise min_cells to at least 1."
    if named is not None:
        candidates, remedy = named, "Leave them out of genes=."
    elif arguments["input"] != "continuous":
        candidates = everyone.nonzero >= min_cells
    empty = candidates & (everyone.nonzero == 0) & (genes is not None)
    if empty.any():
        names = listing(var_names[empty])
        raise InvalidValue(f"These genes are zero in every training cell{where}: {names}. {remedy}")
    if candidates.sum() < 2:
        raise InvalidValue(
            f"Only {plural(int(candidates.sum()), 'gene')} in at least min_cells={min_cells} training cells{where}; a "
            "graph needs at least 2. Lower min_cells."
        )
    return candidates


def _without_silent(
    control: GeneSums, candidates: np.ndarray, var_names: pd.Index, arguments: Mapping[str, Any], where: str
) -> np.ndarray:
    """Leave out, or refuse, genes that are zero in every control cell."""
    silent = candidates & (control.nonzero == 0)
    if not silent.any():
        return candidates
    names = listing(var_names[silent])
    if arguments["silent_genes"] == "error" and check_genes(arguments["genes"], var_names) is not None:
        raise InvalidValue(
            f"These genes are zero in every control cell{where}, so that their unperturbed mechanism cannot be "
            f'learned: {names}. Leave them out of genes=, or pass silent_genes="drop".'
        )
    logger.info(f"left out{where}, zero in every control cell: {names}")
    candidates = candidates & ~silent  # not in place: the array may be that of a table
    if candidates.sum() < 2:
        raise InvalidValue(
            f"Fewer than 2 genes are expressed in any control cell{where}, so that no unperturbed mechanism can be "
            f"learned: {names} are zero in all of them. Name other genes with genes=."
        )
    return candidates


def _by_name(genes: np.ndarray, var_names: pd.Index) -> np.ndarray:
    """Places of these genes, (genes,) bool, in the order of their names: sums over genes then have one order too."""
    at = np.flatnonzero(genes)
    return at[np.argsort(np.asarray(var_names, dtype=str)[at], kind="stable")]


def _highly_variable(everyone: GeneSums, at: np.ndarray, n_top_genes: int) -> np.ndarray:
    """(genes,) bool: of those `at` these places, the most dispersed among genes of a like mean.

    scanpy's `highly_variable_genes` (flavour `seurat`): the log dispersion of each gene, less the mean and in units of
    the standard deviation of its bin of 20.
    """
    # Two genes in a bin are equally far from its mean, but for the last digit: it must not hang on the order of a sum.
    moments = everyone.mean_and_variance(level=True)
    mean, variance = (values[at].astype(np.float32).astype(np.float64) for values in moments)
    mean[mean == 0] = 1e-12
    dispersion = variance / mean
    dispersion[dispersion == 0] = np.nan
    with np.errstate(all="ignore"):
        table = pd.DataFrame({"bin": pd.cut(np.log1p(mean), bins=20), "log": np.log(dispersion)})
        bins = table.groupby("bin", observed=True)["log"]
        centre, spread = (bins.transform(how).to_numpy(dtype=float) for how in ("mean", "std"))
        alone = np.isnan(spread)  # in its bin: by convention 1
        excess = (table["log"].to_numpy() - np.where(alone, 0.0, centre)) / np.where(alone, centre, spread)
    known = np.sort(excess[~np.isnan(excess)])[::-1]
    variable = np.zeros(len(everyone.total), dtype=bool)
    if known.size:
        variable[at] = np.nan_to_num(excess, nan=-np.inf) >= known[min(n_top_genes, known.size) - 1]
    return variable


def _scores(control: GeneSums, perturbed: GeneSums, where: str) -> np.ndarray:
    """scanpy's `rank_genes_groups` score of each gene: Welch's t, perturbed against control; 0 where undefined."""
    for name, sums in (("control", control), ("perturbed", perturbed)):
        if sums.n < 2:
            raise InvalidValue(
                f"The genes cannot be scored{where}: {plural(sums.n, f'{name} training cell')}, and a spread needs 2. "
                "Name the genes with genes=, or train on more cells."
            )
    (mean, variance), (mean_control, variance_control) = perturbed.mean_and_variance(), control.mean_and_variance()
    with np.errstate(all="ignore"):
        error = np.sqrt(variance / perturbed.n + variance_control / control.n)
        return np.nan_to_num(((mean - mean_control) / error).astype(np.float32).astype(float))
