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

import scgim

KINDS = {
    "object": object,
    "nullable": pd.StringDtype("python"),
    "nan": pd.StringDtype("python", na_value=np.nan),
    "category": "category",
    "category of nullable": "category of nullable",
    "pyarrow": "string[pyarrow]",
}
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


def plain(value: Any) -> Any:
    """Text by value, whatever pandas keeps it as; missing is None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return {"index": value.index.tolist()} | {name: plain(value[name]) for name in value}
    if isinstance(value, pd.Series):
        return [None if pd.isna(item) else item for item in value.tolist()]
    return value.tolist() if isinstance(value, np.ndarray) else value


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


@pytest.mark.parametrize("kind", ["nullable", "nan", "category of nullable"])
def test_a_fit_of_nullable_text_survives_a_file(kind: str, reference: ad.AnnData, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"group": "A549", "max_steps": 5, "progress": False}
    expected = reference.copy()
    scgim.tl.fit_gim(expected, **settings)
    adata = scgim.pp.prepare(cells_of(kind), copy=True, **SMALL, **ARGUMENTS)
    scgim.tl.fit_gim(adata, **settings)
    # The names of cells and genes go into a file as plain text only, with the oldest AnnData we support.
    adata.obs_names, adata.var_names = adata.obs_names.astype(object), adata.var_names.astype(object)
    adata.write_h5ad(tmp_path / "fit.h5ad")
    again = ad.read_h5ad(tmp_path / "fit.h5ad")
    for other in (adata, again):
        one = scgim.tl.sample_cells(expected, group="A549", n=3)
        two = scgim.tl.sample_cells(other, group="A549", n=3)
        np.testing.assert_array_equal(one.X, two.X)
        assert plain(one.obs) == plain(two.obs)
        assert plain(scgim.get.targets(other, group="A549")) == plain(scgim.get.targets(expected, group="A549"))
