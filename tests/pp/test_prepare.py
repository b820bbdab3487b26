"""`prepare`: what it writes, on every kind of input."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from example_cells import (
    DRUGS,
    SMALL,
    assert_same,
    assert_unchanged,
    crispr_cells,
    dense,
    drug_cells,
    snapshot,
)

import scgim
from scgim.pp import prepare
from scgim.slots.codec import from_storable


def prepared(adata: ad.AnnData, **kwargs: Any) -> ad.AnnData:
    """A prepared copy."""
    return prepare(adata, copy=True, **(SMALL | kwargs))


def assert_same_slots(found: ad.AnnData, expected: ad.AnnData) -> None:
    """Everything that `prepare` wrote is the same, whatever the kinds of the matrices."""
    one, two = snapshot(found), snapshot(expected)
    for name in ("type", "is_view"):
        one.pop(name), two.pop(name)
    one["layers"], two["layers"] = ({k: v.astype(float) for k, v in s["layers"].items()} for s in (one, two))
    assert_same(one, two)


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    return drug_cells()


@pytest.fixture(scope="module")
def reference(cells: ad.AnnData) -> ad.AnnData:
    return prepared(cells)


def test_the_slots_of_the_contract(cells: ad.AnnData, reference: ad.AnnData) -> None:
    entry = reference.uns["gim"]
    table = entry["conditions"]
    assert list(table.columns) == ["condition", "perturbation", "dose", "is_control", "n_cells", "split"]
    assert list(table["condition"])[:3] == ["control", "Abemaciclib_10", "Abemaciclib_100"]
    assert table["is_control"].tolist() == [True] + 6 * [False]
    assert np.isnan(table["dose"].iloc[0])
    assert table["n_cells"].tolist() == [48] + 6 * [24]
    assert entry["membership"].dtype == np.uint8
    np.testing.assert_array_equal(entry["membership"], np.vstack([np.zeros(6), np.eye(6)]))
    assert entry["features"].shape == (6, 2 + 3 + 1)
    assert list(entry["parts"].columns) == ["part", "perturbation", "dose"]
    assert reference.obs["gim_split"].cat.categories.tolist() == ["train", "valid", "test"]
    expected = cells.obs["perturbation"] + np.where(
        cells.obs["dose"] > 0, "_" + cells.obs["dose"].map("{:g}".format), ""
    )
    assert reference.obs["gim_condition"].astype(str).tolist() == expected.tolist()
    assert reference.var["gim"].sum() == 8
    np.testing.assert_array_equal(reference.layers["counts"], cells.X)
    assert entry["params"]["prepare"]["n_genes"] == 8
    assert entry["params"]["versions"]["scgim"] == scgim.__version__


def test_x_is_log1p_of_counts_at_the_controls_median(cells: ad.AnnData, reference: ad.AnnData) -> None:
    total = cells.X.sum(axis=1)
    target = np.median(total[(cells.obs["perturbation"] == "control").to_numpy()])
    np.testing.assert_allclose(reference.X, np.log1p(cells.X / total[:, None] * target), rtol=1e-5)


def test_markers_are_scanpys(cells: ad.AnnData, reference: ad.AnnData) -> None:
    """The paper's steps, written out with scanpy."""
    work = cells.copy()
    sc.pp.filter_genes(work, min_cells=5)
    total = work.X.sum(axis=1)
    control = (work.obs["perturbation"] == "control").to_numpy()
    sc.pp.normalize_total(work, target_sum=np.median(total[control]))
    sc.pp.log1p(work)
    sc.pp.highly_variable_genes(work, n_top_genes=20, subset=True)
    work.obs["group"] = pd.Categorical(np.where(control, "control", "perturbed"))
    sc.tl.rank_genes_groups(work, "group", groups=["perturbed"], reference="control", method="t-test")
    ranked = pd.Series(
        work.uns["rank_genes_groups"]["scores"]["perturbed"],
        work.uns["rank_genes_groups"]["names"]["perturbed"],
    )
    best = ranked.abs().sort_values(ascending=False)[:8].index
    assert set(reference.var_names[reference.var["gim"]]) == set(best)
    np.testing.assert_allclose(reference.var["gim_score"][ranked.index], ranked, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_sums_tell_what_scanpy_tells_of_the_cells(seed: int) -> None:
    """Highly variable genes, scores and values of many genes, some silent, one alone in its bin of means."""
    rng = np.random.default_rng(seed)
    rate = rng.lognormal(-1.5, 1.5, 700)
    rate[:20], rate[20] = 0, 400
    effect = np.where(np.arange(200)[:, None] < 80, 1.0, rng.lognormal(0, 0.5, 700))
    counts = rng.negative_binomial(2.0, 1 / (1 + rate * effect * rng.uniform(0.5, 2, (200, 1)) / 2)).astype(np.float32)
    obs = pd.DataFrame({"perturbation": np.repeat(["control", "A"], [80, 120])}, index=[f"c{i}" for i in range(200)])
    cells = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(700)]))
    found = prepare(cells, copy=True, n_genes=25, n_top_genes=150, min_cells=3, min_counts=1, valid_fraction=0)
    work = cells.copy()
    sc.pp.normalize_total(work, target_sum=np.median(counts[:80].sum(1)))
    sc.pp.log1p(work)
    np.testing.assert_array_equal(found.X.toarray(), work.X.toarray())
    sc.pp.filter_genes(work, min_cells=3)
    sc.pp.highly_variable_genes(work, n_top_genes=150, subset=True)
    work = work[:, (work.X[:80] > 0).sum(axis=0).A1 > 0].copy()
    work.obs["group"] = work.obs["perturbation"].astype("category")
    sc.tl.rank_genes_groups(work, "group", groups=["A"], reference="control", method="t-test")
    ranked = sc.get.rank_genes_groups_df(work, "A").set_index("names")["scores"]
    scored = found.var["gim_score"].dropna()
    assert set(scored.index) == set(ranked.index)
    np.testing.assert_allclose(scored[ranked.index], ranked, rtol=1e-5, atol=1e-6)
    assert set(found.var_names[found.var["gim"]]) == set(ranked.abs().nlargest(25).index)


def as_backed(adata: ad.AnnData, folder: Path, kind: str) -> ad.AnnData:
    path = folder / f"{kind}.h5ad"
    stored = adata.copy()
    stored.X = stored.X if kind == "dense" else sp.csr_matrix(stored.X)
    stored.write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


@pytest.mark.parametrize(
    "convert",
    [
        sp.csr_matrix,
        sp.csc_matrix,
        sp.csr_array,
        sp.csc_array,
        np.asfortranarray,
        lambda x: x.astype(np.int64),
        lambda x: sp.csr_matrix(x.astype(np.int32)),
        lambda x: x.astype(np.uint16),
    ],
    ids=["csr", "csc", "csr_array", "csc_array", "fortran", "int64", "csr_int32", "uint16"],
)
def test_every_matrix_gives_the_same_slots(convert: Any, cells: ad.AnnData, reference: ad.AnnData) -> None:
    other = cells.copy()
    other.X = convert(other.X)
    found = prepared(other)
    assert_same_slots(found, reference)
    assert sp.issparse(found.X) == sp.issparse(other.X)
    assert getattr(found.X, "format", "") == getattr(other.X, "format", "")
    assert found.layers["counts"].dtype == other.X.dtype


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_backed_gives_the_same_slots(kind: str, cells: ad.AnnData, tmp_path: Path) -> None:
    backed = as_backed(cells, tmp_path, kind)
    before = backed.obs.copy()
    found = prepared(backed)
    assert_same_slots(found, prepared(ad.read_h5ad(backed.filename)))
    assert not found.isbacked
    pd.testing.assert_frame_equal(backed.obs, before)


def test_a_dask_matrix_gives_the_same_slots(cells: ad.AnnData, reference: ad.AnnData) -> None:
    array = pytest.importorskip("dask.array", reason="dask is not installed")
    for chunk in (lambda x: x, sp.csr_matrix):
        lazy = cells.copy()
        lazy.X = array.from_array(np.asarray(cells.X), chunks=(50, -1)).map_blocks(chunk)
        prepare(lazy, **SMALL)
        size = lazy.obs.pop("gim_size_factor").to_numpy()
        np.testing.assert_allclose(np.expm1(reference.X) * size[:, None], cells.X, rtol=1e-5, atol=1e-5)
        assert_same_slots(lazy, reference)


@pytest.mark.parametrize("rows", [None, np.arange(0, 190)], ids=["slice", "index"])
def test_a_view_becomes_its_own_and_the_parent_stays(rows: np.ndarray | None, cells: ad.AnnData) -> None:
    parent = cells.copy()
    parent.uns["note"] = {"kept": 1}
    before = snapshot(parent)
    view = parent[rows, 3:] if rows is not None else parent[5:, 3:]
    expected = prepared(view.copy())
    prepare(view, **SMALL)
    assert not view.is_view
    assert_same_slots(view, expected)
    view.layers["counts"][:] = -1
    view.X[:] = -1
    assert_unchanged(parent, before)


def test_in_place_and_copy(cells: ad.AnnData, reference: ad.AnnData) -> None:
    inplace = cells.copy()
    assert prepare(inplace, **SMALL) is None
    assert_same_slots(inplace, reference)
    before = snapshot(cells)
    copied, summary = prepare(cells, copy=True, return_summary=True, **SMALL)
    assert_unchanged(cells, before)
    assert_same_slots(copied, reference)
    pd.testing.assert_frame_equal(summary, copied.uns["gim"]["summary"].reset_index(drop=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda obs: obs.assign(
            perturbation=obs["perturbation"].astype("category").cat.add_categories(["never", "used"])
        ),
        lambda obs: obs.assign(perturbation=obs["perturbation"].astype("string")),
        lambda obs: obs.assign(perturbation="  " + obs["perturbation"] + " "),
        lambda obs: obs.assign(dose=obs["dose"].map("{:g}".format)),
        lambda obs: obs.assign(dose=obs["dose"].astype("category")),
        lambda obs: obs.assign(dose=obs["dose"].map(lambda d: f"{d:g}").astype("category")),
        lambda obs: obs.assign(dose=obs["dose"].where(obs["dose"] > 0)),
        lambda obs: obs.assign(dose=obs["dose"].astype(int)),
        lambda obs: obs.assign(perturbation=obs["perturbation"].where(obs["dose"] > 0, "Belinostat")),
    ],
    ids=[
        "categories",
        "string",
        "spaces",
        "text",
        "categorical",
        "text categorical",
        "NaN in controls",
        "int",
        "dose 0",
    ],
)
def test_columns_as_people_have_them(change: Any, cells: ad.AnnData, reference: ad.AnnData) -> None:
    other = cells.copy()
    other.obs = change(other.obs)
    found = prepared(other)
    for slot in ("gim_condition", "gim_split"):
        assert found.obs[slot].tolist() == reference.obs[slot].tolist()
    one, two = found.uns["gim"], reference.uns["gim"]
    assert_same({k: one[k] for k in one if k != "params"}, {k: two[k] for k in two if k != "params"})


def test_units_in_text_and_in_a_column(cells: ad.AnnData, reference: ad.AnnData) -> None:
    doses = cells.obs["dose"].to_numpy()
    micro = np.arange(len(doses)) % 2 == 0
    values, units = np.where(micro, doses / 1000, doses), np.where(micro, "uM", "nM")
    text = cells.copy()
    text.obs["dose"] = [f"{v:g} {u}" for v, u in zip(values, units, strict=True)]
    column = cells.copy()
    column.obs["dose"], column.obs["unit"] = values, units
    for other, kwargs in ((text, {}), (column, {"dose_unit_key": "unit"})):
        found = prepared(other, **kwargs)
        assert found.obs["gim_condition"].tolist() == reference.obs["gim_condition"].tolist()
        np.testing.assert_array_equal(found.uns["gim"]["features"], reference.uns["gim"]["features"])
        assert found.uns["gim"]["feature_spec"]["dose_unit"] == "nM"


def test_one_unit_is_kept(cells: ad.AnnData) -> None:
    other = cells.copy()
    other.obs["dose"] = [f"{d / 1000:g} µM" for d in other.obs["dose"]]
    found = prepared(other, hold_out={"Belinostat": "100 nM"})
    table = found.uns["gim"]["conditions"]
    assert table["dose"].dropna().unique().tolist() == [0.01, 0.1, 1.0]
    assert table.loc[table["split"] == "test", "condition"].tolist() == ["Belinostat_0.1"]


def test_combinations_without_doses() -> None:
    adata = crispr_cells()
    adata.obs.loc[adata.obs.index[:4], "perturbation"] = "NT+NT"
    adata.obs.loc[adata.obs.index[30:34], "perturbation"] = "KLF1+NT"
    prepare(adata, control="NT", min_counts=1, min_cells=1)
    entry = adata.uns["gim"]
    assert entry["conditions"]["condition"].tolist() == ["NT", "KLF1", "MAP2K6", "KLF1+MAP2K6"]
    assert entry["conditions"]["n_cells"].tolist() == [30, 30, 30, 30]
    np.testing.assert_array_equal(entry["membership"], [[0, 0], [1, 0], [0, 1], [1, 1]])
    np.testing.assert_array_equal(entry["features"], np.eye(2))
    assert entry["conditions"]["dose"].isna().all()


@pytest.mark.parametrize("control", ["NT+NT", "no + drug"])
def test_a_control_label_may_hold_the_separator(control: str) -> None:
    adata = crispr_cells()
    adata.obs["perturbation"] = adata.obs["perturbation"].replace({"NT": control, "KLF1": "KLF1+NT"})
    pp_arguments = {"control": control, "min_counts": 1, "min_cells": 1}
    prepare(adata, **pp_arguments)
    table = adata.uns["gim"]["conditions"]
    assert table["condition"].iloc[0] == control
    assert table["is_control"].sum() == 1
    assert ("KLF1" in list(table["condition"])) == (control == "NT+NT")
    found = scgim.pp.parse_perturbations([control, "KLF1"], control=control, has_dose=False)
    assert [label for label, _ in found] == [control, "KLF1"]
    assert found[0][1] == []


def test_combinations_with_a_dose_each(cells: ad.AnnData) -> None:
    other = cells.copy()
    other.obs["dose"] = other.obs["dose"].map("{:g} nM".format)
    rows = other.obs.index[(cells.obs["dose"] == 1000).to_numpy() & (cells.obs["perturbation"] == DRUGS[0]).to_numpy()]
    other.obs.loc[rows[:12], ["perturbation", "dose"]] = ["Belinostat+Abemaciclib", "10 nM+1 uM"]
    other.obs.loc[rows[12:], ["perturbation", "dose"]] = ["Belinostat+Abemaciclib", "100 nM"]
    entry = prepared(other).uns["gim"]
    combined = entry["conditions"].iloc[-2:]
    assert combined["condition"].tolist() == [
        "Abemaciclib_100+Belinostat_100",
        "Abemaciclib_1000+Belinostat_10",
    ]
    assert combined["perturbation"].tolist() == ["Abemaciclib+Belinostat"] * 2
    labels = entry["parts"]["part"].to_numpy()
    assert labels[entry["membership"][-1] == 1].tolist() == ["Abemaciclib_1000", "Belinostat_10"]


def test_cells_without_label_or_dose_are_left_out_and_counted(
    cells: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    other = cells.copy()
    dosed = np.flatnonzero(other.obs["dose"] > 0)
    other.obs["perturbation"] = other.obs["perturbation"].astype("category")
    other.obs.iloc[dosed[:3], other.obs.columns.get_loc("perturbation")] = np.nan
    other.obs.iloc[dosed[3:8], other.obs.columns.get_loc("dose")] = np.nan
    with caplog.at_level(logging.INFO, logger="scgim"):
        found, summary = prepare(other, copy=True, return_summary=True, **SMALL)
    assert found.obs["gim_condition"].isna().sum() == 8
    assert found.obs["gim_split"].isna().to_numpy()[dosed[:8]].all()
    counts = summary.set_index("item")["n"]
    assert counts["cells left out: no perturbation label"] == 3
    assert counts["cells left out: no dose"] == 5
    assert counts["cells modelled"] == other.n_obs - 8
    assert "no perturbation label" in caplog.text
    assert found.uns["gim"]["conditions"]["n_cells"].sum() == other.n_obs - 8


def test_shallow_cells_and_rare_genes_are_left_out(cells: ad.AnnData) -> None:
    other = cells.copy()
    other.X[:5] = 0
    other.X[:, 7] = 0
    other.X[:3, 7] = 9
    found = prepared(other, genes="all")
    assert found.obs["gim_condition"].isna().to_numpy().nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    assert not found.var["gim"].iloc[7]
    assert found.var["gim"].sum() == other.n_vars - 1


def test_one_dose_only(cells: ad.AnnData) -> None:
    one = cells[cells.obs["dose"].isin([0, 100])].copy()
    entry = prepared(one).uns["gim"]
    np.testing.assert_array_equal(entry["features"], [[1, 0, 1, 1], [0, 1, 1, 1]])


def test_groups_are_prepared_like_each_alone() -> None:
    adata = drug_cells(lines=("A549", "K/562"))
    adata.obs["line"] = adata.obs["line"].astype("category")
    whole = prepared(adata, groupby="line", hold_out={"Belinostat": 1000})
    assert list(whole.uns["gim"]["groups"]) == ["A549", "K/562"]
    assert whole.uns["gim"]["groupby"] == "line"
    for line, prefix in (("A549", "gim_A549"), ("K/562", "gim_K_562")):
        rows = (adata.obs["line"] == line).to_numpy()
        alone = prepared(adata[rows].copy(), hold_out={"Belinostat": 1000})
        np.testing.assert_array_equal(whole.X[rows], alone.X)
        for slot in ("condition", "split"):
            assert whole.obs.loc[rows, f"{prefix}_{slot}"].tolist() == alone.obs[f"gim_{slot}"].tolist()
            assert whole.obs.loc[~rows, f"{prefix}_{slot}"].isna().all()
        assert whole.var[prefix].tolist() == alone.var["gim"].tolist()
        one, two = whole.uns[prefix], alone.uns["gim"]
        for name in ("conditions", "parts", "features", "membership", "feature_spec"):
            assert_same(one[name], two[name])


def test_cells_of_no_group_are_normalised_and_left_out() -> None:
    adata = drug_cells(lines=("A", "B"))
    adata.obs["line"] = adata.obs["line"].astype("category")
    adata.obs.iloc[:4, adata.obs.columns.get_loc("line")] = np.nan
    found = prepared(adata, groupby="line")
    assert found.obs[["gim_A_condition", "gim_B_condition"]].isna().all(axis=1).sum() == 4
    np.testing.assert_allclose(np.expm1(found.X[:4]).sum(axis=1), np.expm1(found.X[:4]).sum(axis=1)[0], rtol=1e-5)


@pytest.mark.parametrize("features", ["auto", "onehot", "rescaled", "hill", "fingerprint", "frame"])
def test_everything_survives_a_file(features: str, tmp_path: Path) -> None:
    adata = drug_cells(lines=("A/1", "B"))
    given: Any = pd.DataFrame({"x": [1.0, 2.0]}, index=list(DRUGS)) if features == "frame" else features
    found = prepared(
        adata,
        groupby="line",
        features=given,
        smiles_key="smiles",
        hold_out={"Belinostat": (10, 100)},
        genes=[f"GENE{j}" for j in (3, 1, 8)],
    )
    found.write_h5ad(tmp_path / "prepared.h5ad")
    back = ad.read_h5ad(tmp_path / "prepared.h5ad")
    assert_same(snapshot(back), snapshot(found), exact_types=False)
    params = from_storable(back.uns["gim_A_1"]["params"]["prepare"])
    assert params["hold_out"] == {"Belinostat": (10, 100)}
    assert params["layer"] is None
    parts = [("Belinostat", 30.0)]
    new, old = (scgim.pp.featurize(a.uns["gim_B"]["feature_spec"], parts) for a in (back, found))
    np.testing.assert_array_equal(new, old)


def test_permuting_cells_permutes(cells: ad.AnnData, reference: ad.AnnData) -> None:
    order = np.random.default_rng(1).permutation(cells.n_obs)
    found = prepared(cells[order].copy())
    for slot in ("gim_condition", "gim_split"):
        assert found.obs[slot].tolist() == reference.obs[slot].iloc[order].tolist()
    assert found.var["gim"].tolist() == reference.var["gim"].tolist()
    np.testing.assert_allclose(found.X, reference.X[order], rtol=1e-6)
    np.testing.assert_array_equal(found.uns["gim"]["features"], reference.uns["gim"]["features"])


def test_permuting_genes_selects_the_same_markers(cells: ad.AnnData, reference: ad.AnnData) -> None:
    order = np.random.default_rng(1).permutation(cells.n_vars)
    found = prepared(cells[:, order].copy())
    pd.testing.assert_series_equal(found.var["gim"][cells.var_names], reference.var["gim"])
    np.testing.assert_allclose(found.var["gim_score"][cells.var_names], reference.var["gim_score"], rtol=1e-4)


def test_named_genes_keep_the_order_of_var(cells: ad.AnnData) -> None:
    found = prepared(cells, genes=["GENE9", "GENE2", "GENE4"])
    assert found.var_names[found.var["gim"]].tolist() == ["GENE2", "GENE4", "GENE9"]


def test_a_layer_is_used_instead_of_x(cells: ad.AnnData, reference: ad.AnnData) -> None:
    other = cells.copy()
    other.layers["raw"], other.X = other.X.copy(), np.log1p(other.X)
    found = prepared(other, layer="raw")
    np.testing.assert_array_equal(found.X, reference.X)
    np.testing.assert_array_equal(found.layers["counts"], cells.X)


def test_log1p_and_continuous_input_leave_x_alone(cells: ad.AnnData, reference: ad.AnnData) -> None:
    logged = cells.copy()
    logged.X = reference.X.copy()
    found = prepared(logged, input="log1p")
    np.testing.assert_array_equal(found.X, logged.X)
    assert "counts" not in found.layers
    assert found.var["gim"].tolist() == reference.var["gim"].tolist()
    centred = cells.copy()
    centred.X = reference.X - reference.X.mean(axis=0)
    found = prepared(centred, input="continuous")
    np.testing.assert_array_equal(found.X, centred.X)
    assert found.var["gim"].sum() == 8


def test_two_prefixes_coexist_and_a_second_run_replaces_the_first(cells: ad.AnnData) -> None:
    adata = prepared(cells)
    prepare(adata, **(SMALL | {"layer": "counts", "key_added": "other", "n_genes": 4}))
    assert (adata.var["gim"].sum(), adata.var["other"].sum()) == (8, 4)
    adata.varm["gim_effect"] = np.zeros((adata.n_vars, 7))
    prepare(adata, **(SMALL | {"layer": "counts", "n_genes": 5}))
    assert adata.var["gim"].sum() == 5
    assert "gim_effect" not in adata.varm
    assert "other" in adata.uns


def test_preparing_by_group_leaves_nothing_of_a_former_run() -> None:
    adata = drug_cells(lines=("A", "B"))
    prepare(adata, groupby="line", **SMALL)
    prepare(adata, layer="counts", **SMALL)
    assert sorted(adata.uns) == ["gim"]
    assert [name for name in adata.obs if name.startswith("gim")] == ["gim_condition", "gim_split"]
    assert [name for name in adata.var if name.startswith("gim")] == ["gim", "gim_score"]


def test_small_conditions_can_be_dropped(cells: ad.AnnData) -> None:
    small = cells.obs_names[(cells.obs["perturbation"] == "Belinostat") & (cells.obs["dose"] == 10)][:-4]
    other = cells[~cells.obs_names.isin(small)].copy()
    with pytest.raises(ValueError, match=r"Belinostat_10 \(4\).*small_conditions"):
        prepared(other)
    found = prepared(other, small_conditions="drop")
    assert "Belinostat_10" not in found.obs["gim_condition"].cat.categories
    assert found.obs["gim_condition"].isna().sum() == 4


def test_a_condition_lost_to_the_filter_is_not_lost_silently(cells: ad.AnnData) -> None:
    other = cells.copy()
    other.X[((other.obs["perturbation"] == "Belinostat") & (other.obs["dose"] == 10)).to_numpy(), 1:] = 0
    with pytest.raises(ValueError, match=r"Belinostat_10 \(0\).*min_counts"):
        prepared(other)
    assert "Belinostat_10" not in prepared(other, small_conditions="drop").obs["gim_condition"].cat.categories


def test_silent_genes_can_be_dropped(cells: ad.AnnData) -> None:
    other = cells.copy()
    other.X[(other.obs["perturbation"] == "control").to_numpy(), 9] = 0
    named = ["GENE1", "GENE5", "GENE9"]
    with pytest.raises(ValueError, match=r"'GENE9'.*silent_genes"):
        prepared(other, genes=named)
    found = prepared(other, silent_genes="drop", genes=named)
    assert found.var_names[found.var["gim"]].tolist() == named[:2]


def test_a_silent_marker_is_passed_over_and_the_next_taken(
    cells: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    assert reference.var["gim"].iloc[9]
    other = cells.copy()
    other.X[(other.obs["perturbation"] == "control").to_numpy(), 9] = 0
    with caplog.at_level(logging.INFO, logger="scgim"):
        found = prepared(other)
    assert "zero in every control cell: 'GENE9'" in caplog.text
    assert not found.var["gim"].iloc[9]
    assert found.var["gim"].sum() == 8
    everything = prepared(other, genes="all")
    assert everything.var["gim"].sum() == cells.n_vars - 1


@pytest.mark.parametrize(("n_genes", "least"), [(40, 30), (2_001, 200)])
def test_fewest_counts_follow_from_what_is_measured(n_genes: int, least: int) -> None:
    """Forty genes with a median of 120 counts are a panel; most cells of a transcriptome are kept at 200."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(120 if n_genes == 40 else 300, np.ones(n_genes) / n_genes, size=90)
    counts[0] = counts[0] // 10  # far below either
    obs = pd.DataFrame({"perturbation": ["control", "A", "B"] * 30}, index=[f"c{i}" for i in range(90)])
    adata = ad.AnnData(counts.astype(np.float32), obs=obs)
    summary = prepare(adata, min_cells=1, n_top_genes=20, n_genes=5, return_summary=True)
    assert adata.uns["gim"]["params"]["prepare"]["min_counts"] == least
    row = summary.set_index("item").loc[f"cells left out: fewer than {least} counts"]
    assert row["n"] == 1
    assert adata.obs["gim_condition"].isna().tolist() == [True] + [False] * 89


def test_genes_of_equal_score_are_chosen_by_name_in_any_order() -> None:
    """Every gene has a twin: ties are everywhere, among highly variable genes and among markers."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.uniform(1, 6, 20), size=(90, 20))
    counts[::3, :4] *= 3
    obs = pd.DataFrame({"perturbation": ["A", "control", "B"] * 30}, index=[f"c{i}" for i in range(90)])
    var = pd.DataFrame(index=[f"{twin}{j}" for twin in "ab" for j in range(20)])
    adata = ad.AnnData(np.hstack([counts, counts]).astype(np.float32), obs=obs, var=var)
    chosen = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(40)
        other = adata[:, order].copy()
        prepare(other, min_cells=1, n_top_genes=15, n_genes=5)
        chosen.append(other.var["gim_score"].where(other.var["gim"]).sort_index())
    assert chosen[0].notna().sum() == 5
    pd.testing.assert_series_equal(chosen[0], chosen[1])
    pd.testing.assert_series_equal(chosen[0], chosen[2])


def test_the_seed_is_stored_and_the_global_state_untouched(cells: ad.AnnData) -> None:
    np.random.seed(3)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = prepared(cells, rng=np.random.default_rng(5))
    again = prepared(cells, rng=int(first.uns["gim"]["params"]["prepare"]["rng"]))
    assert again.obs["gim_split"].tolist() == first.obs["gim_split"].tolist()
    assert prepared(cells, rng=1).obs["gim_split"].tolist() != first.obs["gim_split"].tolist()
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_only_the_modelled_genes_are_ever_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sparse matrix with all genes is made dense on the way."""
    adata = drug_cells(n_genes=200)
    adata.X = sp.csr_matrix(adata.X)
    for kind in (sp.csr_matrix, sp.csc_matrix):
        original = kind.toarray

        def guarded(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> np.ndarray:
            assert self.shape[1] <= 20 or self.shape[0] < adata.n_obs, "a whole matrix was made dense"
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "toarray", guarded)
    prepare(adata, **SMALL)
    assert sp.issparse(adata.X)
    assert dense(adata.layers["counts"][:3]) is not None
