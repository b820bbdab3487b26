"""Text columns of every kind that pandas has: the same slots, the same fit, the same cells."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from example_cells import SMALL, drug_cells, snapshot
from small_fits import QUICK

import scgim

pytestmark = pytest.mark.usefixtures("quick_fits")

KINDS = {
    "object": object,
    "nullable": pd.StringDtype("python"),
    "category": "category",
    "category of nullable": "category of nullable",
    "pyarrow": "string[pyarrow]",
}
if tuple(map(int, pd.__version__.split(".")[:2])) >= (2, 3):
    KINDS["nan"] = pd.StringDtype("python", na_value=np.nan)
ARGUMENTS: dict[str, Any] = {"dose_unit_key": "unit", "groupby": "line", "hold_out": {"Belinostat": 1000}}


def as_kind(values: pd.Series | pd.Index, kind: str) -> Any:
    if kind == "pyarrow" and importlib.util.find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")
    if kind == "category of nullable":
        return values.astype(KINDS["nullable"]).astype("category")
    return values.astype(KINDS[kind])


def cells_of(kind: str) -> ad.AnnData:
    """Labels, doses, units, groups and SMILES as text of this kind, some of it missing, and the names as well."""
    made = drug_cells(lines=("A549", "K562"))
    obs = made.obs.astype(object)
    obs["dose"] = obs["dose"].map(lambda dose: f"{dose:g}")
    obs["unit"] = np.where(obs["perturbation"] == "control", None, "nM")
    obs.loc[obs.index[:4], "perturbation"] = None
    obs.loc[obs.index[4:7], "line"] = None
    obs["smiles"] = obs["smiles"].where(obs["smiles"] != "", None)
    obs = pd.DataFrame({name: as_kind(obs[name], kind) for name in obs})
    var = pd.DataFrame(index=made.var_names)
    if not kind.startswith("category"):  # AnnData makes plain text of categories
        obs.index, var.index = as_kind(obs.index, kind), as_kind(var.index, kind)
    return ad.AnnData(made.X, obs=obs, var=var)


def nullable(value: Any) -> Any:
    """All text as nullable strings, as AnnData may read it from a file some day."""
    if isinstance(value, dict):
        return {name: nullable(item) for name, item in value.items()}
    if isinstance(value, pd.DataFrame):
        out = pd.DataFrame({name: nullable(value[name]) for name in value}, index=value.index)
        return out.set_axis(out.index.astype(KINDS["nullable"]))
    if isinstance(value, pd.Series) and isinstance(value.dtype, pd.CategoricalDtype):
        return value.astype(KINDS["nullable"]).astype("category")
    if isinstance(value, pd.Series) and pd.api.types.is_string_dtype(value.dtype):
        return value.astype(KINDS["nullable"])
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
        return pd.array(value, dtype=KINDS["nullable"])
    return value


def plain(value: Any) -> Any:
    """Text by value, whatever pandas keeps it as; missing is None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return {"index": value.index.tolist()} | {name: plain(value[name]) for name in value}
    if isinstance(value, pd.Series):
        return [None if pd.isna(item) else item for item in value.tolist()]
    if isinstance(value, np.ndarray):
        return np.where(pd.isna(value), None, value.astype(object)).tolist()  # NaN equals nothing
    return value


def written(adata: ad.AnnData) -> dict[str, Any]:
    """Everything but the columns that were given and the kind of the matrix."""
    found = snapshot(adata)
    found["obs"] = found["obs"].filter(like="gim")
    return plain({name: found[name] for name in ("obs", "var", "uns", "layers", "obsm", "varm", "varp")})


@pytest.fixture(scope="module")
def reference() -> ad.AnnData:
    return scgim.pp.prepare(cells_of("object"), copy=True, **SMALL, **ARGUMENTS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "object"])
def test_kinds_of_text_make_no_difference(kind: str, reference: ad.AnnData) -> None:
    found = scgim.pp.prepare(cells_of(kind), copy=True, **SMALL, **ARGUMENTS)
    assert written(found) == written(reference)


def used(adata: ad.AnnData) -> dict[str, Any]:
    """What a fit of the first group gives."""
    group: dict[str, Any] = {"group": "A549"}
    cells = scgim.tl.sample_cells(adata, n=3, **group)
    treated = scgim.tl.counterfactual(adata, perturbation=("Belinostat", 1000), **group)
    scgim.pl.graph(adata, **group)
    scgim.pl.targets(adata, **group)
    scgim.pl.marginals(adata, cells, condition="Belinostat_1000", n_genes=2, **group)
    asked = {"baselines": ["control"], "metrics": ["mean_distance", "pearson_delta"], "n_boot": 2}
    found = {
        "cells": cells.obs,
        "values": cells.X,
        "treated": treated.X,
        "scores": scgim.tl.evaluate(adata, cells, **asked, **group),
        "evidence": scgim.tl.target_evidence(adata, **group),
        "targets": scgim.get.targets(adata, **group),
        "history": scgim.get.history(adata, **group),
    }
    return plain(found)


@pytest.mark.parametrize("kind", ["object", "nullable", "category of nullable"])
def test_a_fit_is_the_same_with_text_of_every_kind(kind: str, tmp_path: Path) -> None:
    adata = scgim.pp.prepare(cells_of(kind), copy=True, **SMALL, **ARGUMENTS)
    scgim.tl.fit_gim(adata, group="A549", **QUICK)
    expected = used(adata)
    # Names of cells and genes that are not plain text cannot be written with every AnnData.
    adata.obs_names, adata.var_names = adata.obs_names.astype(object), adata.var_names.astype(object)
    for name in cells_of("object").obs:  # nor are the user's columns of nullable text
        adata.obs[name] = pd.Categorical(adata.obs[name].astype(object))
    adata.write_h5ad(tmp_path / "fit.h5ad")
    again = ad.read_h5ad(tmp_path / "fit.h5ad")
    assert used(again) == expected
    again.obs, again.var = nullable(again.obs), nullable(again.var)
    for name, entry in again.uns.items():
        again.uns[name] = nullable(entry)
    assert used(again) == expected
