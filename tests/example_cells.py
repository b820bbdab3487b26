"""Small perturbation data for the tests of `pp`, and deep comparison of AnnData objects."""

from __future__ import annotations

import copy
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

DRUGS = ("Abemaciclib", "Belinostat")
DOSES = (10.0, 100.0, 1000.0)
SMILES = {"Abemaciclib": "CCO", "Belinostat": "c1ccccc1O", "control": ""}

#: Arguments of `prepare` for these data: shallow cells, few genes.
SMALL: dict[str, Any] = {"dose_key": "dose", "min_counts": 20, "min_cells": 5, "n_genes": 8, "n_top_genes": 20}


def drug_cells(n: int = 24, n_genes: int = 30, seed: int = 0, lines: tuple[str, ...] = ()) -> ad.AnnData:
    """Counts of cells under two drugs at three doses, and controls; the first ten genes respond."""
    rng = np.random.default_rng(seed)
    rows = [("control", 0.0)] * (2 * n) + [(drug, dose) for drug in DRUGS for dose in DOSES for _ in range(n)]
    rows = rows * max(1, len(lines))
    obs = pd.DataFrame(rows, columns=["perturbation", "dose"])
    if lines:
        obs["line"] = np.repeat(lines, len(obs) // len(lines))
    obs["smiles"] = obs["perturbation"].map(SMILES)
    strength = np.log10(obs["dose"].to_numpy().clip(min=1.0)) / 3
    effect = np.zeros(n_genes)
    effect[:10] = np.linspace(-1.5, 1.5, 10)
    mean = rng.uniform(1.0, 6.0, n_genes) * np.exp(strength[:, None] * effect)
    mean = mean * rng.uniform(0.6, 1.4, (len(obs), 1))
    order = rng.permutation(len(obs))
    obs = obs.iloc[order]
    obs.index = pd.Index([f"cell{i:04d}" for i in range(len(obs))])
    var = pd.DataFrame(index=pd.Index([f"GENE{j}" for j in range(n_genes)]))
    return ad.AnnData(rng.poisson(mean[order]).astype(np.float32), obs=obs, var=var)


def crispr_cells(n: int = 30, n_genes: int = 12, seed: int = 0) -> ad.AnnData:
    """Counts of cells with knock-outs of two genes, alone and together, without doses."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(["NT", "KLF1", "MAP2K6", "MAP2K6+KLF1"], n)
    mean = np.full((len(labels), n_genes), 4.0)
    for j, gene in enumerate(("KLF1", "MAP2K6")):
        mean[[gene in label for label in labels], j] = 0.5
    obs = pd.DataFrame({"perturbation": labels}, index=[f"cell{i}" for i in range(len(labels))])
    var = pd.DataFrame(index=[f"GENE{j}" for j in range(n_genes)])
    return ad.AnnData(rng.poisson(mean).astype(np.float32), obs=obs, var=var)


def dense(matrix: Any) -> np.ndarray | None:
    """A matrix of any kind as a dense array."""
    if matrix is None:
        return None
    matrix = matrix.compute() if hasattr(matrix, "compute") else matrix
    return matrix.toarray() if sp.issparse(matrix) else np.array(matrix)


def snapshot(adata: ad.AnnData) -> dict[str, Any]:
    """A deep copy of everything in `adata`."""
    return {
        "X": copy.deepcopy(dense(adata.X[:] if adata.isbacked else adata.X)),
        "type": type(adata.X),
        "obs": adata.obs.copy(),
        "var": adata.var.copy(),
        "uns": copy.deepcopy(dict(adata.uns)),
        "is_view": adata.is_view,
        **{
            name: {key: dense(value) for key, value in getattr(adata, name).items()}
            for name in ("layers", "obsm", "varm", "obsp", "varp")
        },
    }


def assert_same(found: Any, expected: Any, path: str = "adata", *, exact_types: bool = True) -> None:
    """Raise where two nested structures differ, naming the place."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}[{key!r}]", exact_types=exact_types)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(
            found,
            expected,
            obj=path,
            check_dtype=exact_types,
            check_categorical=exact_types,
            check_index_type=False,
        )
    elif sp.issparse(expected):
        assert_same(found.toarray(), expected.toarray(), path)
    elif isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray), path
        assert found.dtype == expected.dtype, path
        np.testing.assert_array_equal(found, expected, err_msg=path)
    elif isinstance(expected, float) and np.isnan(expected):
        assert np.isnan(found), path
    else:
        assert found == expected, path


def assert_unchanged(adata: ad.AnnData, before: dict[str, Any]) -> None:
    """Raise if `adata` differs in anything from its snapshot."""
    assert_same(snapshot(adata), before)
