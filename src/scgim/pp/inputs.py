"""The arguments and the matrix that `prepare` is given, checked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._keys import COUNTS_LAYER
from .._rng import RngLike, as_generator, draw_seed
from .._validation import (
    check_anndata,
    check_choice,
    check_fraction,
    check_int,
    check_values,
    holds_counts,
    listing,
    require_column,
    suggestion,
)
from .features import DOSE_KINDS, KINDS
from .markers import check_genes
from .normalise import as_matrix

if TYPE_CHECKING:
    from anndata import AnnData

_INPUTS = ("counts", "log1p", "continuous")
_SMALL = ("error", "drop")


def check_arguments(adata: AnnData, arguments: dict[str, Any]) -> None:
    """Check everything that can be checked without reading a column or the matrix."""
    check_anndata(adata)
    if adata.n_vars < 2:
        raise ValueError("adata has 1 gene; a graph needs at least 2. Pass the AnnData with all measured genes.")
    check_settings(arguments)
    for name, named in named_columns(arguments).items():
        if named is not None or name == "perturbation_key":
            for column in named if isinstance(named, list) else [named]:
                require_column(adata.obs, column, name)
    check_genes(arguments["genes"], adata.var_names)


def check_settings(arguments: dict[str, Any]) -> None:
    """Check what needs no data; numbers come out as whole ones."""
    check_choice(arguments["input"], "input", _INPUTS)
    check_choice(arguments["small_conditions"], "small_conditions", _SMALL)
    check_choice(arguments["silent_genes"], "silent_genes", _SMALL)
    for name, least in (("n_genes", 2), ("n_top_genes", 2), ("min_counts", 0), ("min_cells", 0)):
        if name == "min_counts" and isinstance(arguments[name], str):
            if arguments[name] != "auto":
                raise TypeError(f"min_counts must be a whole number or 'auto', got {arguments[name]!r}.")
            continue
        arguments[name] = check_int(arguments[name], name, least=least)
    arguments["min_cells_per_condition"] = check_int(
        arguments["min_cells_per_condition"], "min_cells_per_condition", least=2
    )
    for name in ("valid_fraction", "test_fraction"):
        arguments[name] = check_fraction(arguments[name], name)
    check_fractions(arguments["valid_fraction"], arguments["test_fraction"])
    check_features(arguments["features"], arguments["smiles_key"], arguments["dose_key"])
    check_key(arguments["key_added"])
    separator = arguments["combination_sep"]
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise TypeError(f"combination_sep must be text or None, got {separator!r}.")
    arguments["groupby"] = check_groupby(arguments["groupby"])


def check_groupby(groupby: Any) -> Any:
    """One column as text, several as a list."""
    if not isinstance(groupby, list | tuple):
        return groupby
    if not groupby or len(set(map(str, groupby))) < len(groupby):
        raise ValueError(f"groupby={groupby!r}: name one column of adata.obs, or several different ones.")
    return groupby[0] if len(groupby) == 1 else list(groupby)


def named_columns(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that name a column of `obs`."""
    return {
        name: arguments[name] for name in ("perturbation_key", "dose_key", "dose_unit_key", "smiles_key", "groupby")
    }


def check_fractions(valid: float, test: float) -> None:
    """Refuse where no cell would be left to train on."""
    if valid + test >= 1:
        raise ValueError(
            f"valid_fraction={valid:g} and test_fraction={test:g} leave no cells to train on: lower one of them."
        )


def check_features(features: Any, smiles_key: str | None, dose_key: str | None) -> None:
    """Check the kind of features and the columns that it needs."""
    if isinstance(features, pd.DataFrame):
        return
    if not isinstance(features, str):
        raise TypeError(f"features must be one of {listing(KINDS)} or a DataFrame, got {type(features).__name__}.")
    check_choice(features, "features", KINDS)
    if features == "fingerprint" and smiles_key is None:
        raise ValueError('features="fingerprint" needs smiles_key=, the column of adata.obs with the SMILES.')
    if isinstance(features, str) and features in DOSE_KINDS and dose_key is None:
        raise ValueError(f'features="{features}" needs dose_key=, the column of adata.obs with the doses.')


def check_key(key_added: Any) -> None:
    """Refuse a prefix that cannot be stored."""
    if not isinstance(key_added, str) or not key_added or "/" in key_added:
        raise ValueError(f"key_added={key_added!r}: it must be text, not empty, and without '/'.")


def read_matrix(adata: AnnData, layer: str | None, kind: str) -> Any:
    """The values to model, in memory, checked to be what `kind` says; (cells, genes)."""
    if layer is None:
        where, values = "adata.X", adata.X
        if values is None:
            raise ValueError(f"adata.X is empty (None). Pass layer=; the layers are {listing(layer_names(adata))}.")
    else:
        if layer not in layer_names(adata):
            raise KeyError(
                f"layer={layer!r} is not in adata.layers.{suggestion(layer, layer_names(adata))} The layers are: "
                f"{listing(layer_names(adata))}. Pass one of them, or leave layer out to use adata.X."
            )
        where, values = f"adata.layers[{layer!r}]", adata.layers[layer]
    matrix = as_matrix(values)
    if adata.is_view and isinstance(matrix, np.ndarray):
        matrix = matrix.copy()  # it may share memory with the parent, and is to be stored
    check_values(
        matrix,
        where,
        kind=kind,
        cells=adata.obs_names,
        genes=adata.var_names,
        raw_counts=lambda: _where_counts(adata),
    )
    if kind == "counts" and layer != COUNTS_LAYER and COUNTS_LAYER in adata.layers:
        _refuse_other_counts(as_matrix(adata.layers[COUNTS_LAYER]), matrix, where)
    return matrix


def _where_counts(adata: AnnData) -> str:
    """Which layer holds counts, or that `adata.raw` does; empty where none is found."""
    layers = [name for name in layer_names(adata) if holds_counts(adata.layers[name])]
    if layers:
        return f"Pass layer={layers[0]!r}, which does"
    raw = adata.raw
    if raw is None or not holds_counts(raw.X[:]):
        return ""
    if adata.var_names.isin(raw.var_names).all():
        return "adata.raw does: adata.layers['raw'] = adata.raw[:, adata.var_names].X, then pass layer='raw'"
    return "adata.raw does: adata = adata.raw.to_adata(), then prepare that"


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers, sorted; from anndata 0.13 on, `adata.layers` also lists X, under None."""
    return sorted(name for name in adata.layers if name is not None)


def _refuse_other_counts(existing: Any, matrix: Any, where: str) -> None:
    if sp.issparse(existing) or sp.issparse(matrix):
        differs = (sp.csr_matrix(existing) != sp.csr_matrix(matrix)).nnz > 0
    else:
        differs = not np.array_equal(existing, matrix)
    if differs:
        raise ValueError(
            f"adata.layers[{COUNTS_LAYER!r}] exists and differs from the counts in {where}, which prepare "
            "would store there. "
            f"Pass layer={COUNTS_LAYER!r} to use it, or rename that layer."
        )


def stored_seed(rng: RngLike) -> int:
    """The seed to use and to store: `rng` itself if it is one, else drawn from it."""
    generator = as_generator(rng)
    return int(rng) if isinstance(rng, int | np.integer) else draw_seed(generator)
