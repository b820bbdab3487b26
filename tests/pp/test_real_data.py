"""`prepare` on the development data, with the arguments that a user would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from example_cells import assert_same, snapshot

from scgim import pp

pytestmark = pytest.mark.shared_data


def test_a549_dose_series_with_dose_zero_as_control(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "a549_dex_sciplex2.h5ad")
    pp.prepare(
        adata,
        perturbation_key="treatment",
        dose_key="dose",
        control="vehicle",
        hold_out={"Dex": 50},
    )
    assert adata.uns["gim"]["params"]["prepare"]["min_counts"] == 7  # a quarter of the median
    table = adata.uns["gim"]["conditions"]
    assert table["dose"].tolist()[1:] == [0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0]
    assert table.loc[table["split"] == "test", "condition"].tolist() == ["Dex_50"]
    assert table["n_cells"].sum() == (adata.layers["counts"].sum(axis=1) >= 7).sum()
    names = list(adata.uns["gim"]["feature_names"])
    assert "dose=50" not in names
    held = dict(zip(names, adata.uns["gim"]["features"][5], strict=True))
    assert held["dose=10"] == pytest.approx(1 - np.log10(5), abs=1e-6)
    assert held["dose=100"] == pytest.approx(np.log10(5), abs=1e-6)
    assert adata.var["gim"].sum() == 50


def test_papalexi_knockouts_without_dose(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "papalexi2021_thp1_eccite_299genes.h5ad")
    pp.prepare(adata, perturbation_key="target", control="non-targeting", genes="all")
    entry = adata.uns["gim"]
    assert entry["conditions"]["n_cells"].sum() > 0.98 * adata.n_obs  # 200 counts, for a transcriptome, take half
    assert len(entry["conditions"]) == 26
    np.testing.assert_array_equal(entry["features"], np.eye(25))
    assert entry["parts"]["dose"].isna().all()
    assert adata.var["gim"].all()


def test_norman_combinations_of_logged_data(shared_data: Path, tmp_path: Path) -> None:
    adata = ad.read_h5ad(shared_data / "norman2019_k562_combos_500genes.h5ad")
    with pytest.raises(ValueError, match='input="log1p"'):
        pp.prepare(adata)
    before = adata.X.copy()
    pp.prepare(adata, input="log1p", hold_out=["MAP2K6+MAP2K3", "KLF1+MAP2K6"])
    entry = adata.uns["gim"]
    doubles = entry["membership"].sum(axis=1) == 2
    assert set(entry["conditions"]["condition"][doubles]) == {
        "+".join(sorted(name.split("+"))) for name in adata.obs["perturbation"].unique() if "+" in name
    }
    assert (entry["conditions"]["split"] == "test").sum() == 2
    assert (before != adata.X).nnz == 0
    adata.write_h5ad(tmp_path / "norman.h5ad")
    assert_same(snapshot(ad.read_h5ad(tmp_path / "norman.h5ad")), snapshot(adata), exact_types=False)


@pytest.mark.parametrize("features", ["auto", "fingerprint"])
def test_standin_one_model_per_cell_line(features: str, shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "sciplex3_standin.h5ad", backed="r")
    arguments: dict[str, Any] = {
        "dose_key": "dose_value",
        "dose_unit_key": "dose_unit",
        "smiles_key": "smiles",
    }
    found = pp.prepare(
        adata,
        groupby="cell_line",
        hold_out={"Dacinostat": "10 uM"},
        features=features,
        copy=True,
        **arguments,
    )
    for line in ("A549", "K562", "MCF7"):
        entry = found.uns[f"gim_{line}"]
        assert len(entry["conditions"]) == 17
        assert (entry["conditions"]["split"] == "test").sum() == 1
        assert found.var[f"gim_{line}"].sum() == 50
        assert entry["features"].shape[0] == 16
        if features == "auto":
            assert entry["features"].shape[1] == 9
            np.testing.assert_allclose(
                entry["features"][:, -1], np.log10(entry["parts"]["dose"].to_numpy(dtype=float)) / 4
            )
