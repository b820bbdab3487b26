"""The AnnData front: only training cells are seen, and every kind of X gives the same."""

from __future__ import annotations

import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from small_fits import seal_cells

import scgim
from scgim.baselines import CannotPredict, Ridge, prepared_condition, training_data


def test_training_data_hold_every_training_cell_and_no_other(prepared):
    data = training_data(prepared)
    training = prepared.obs["gim_split"].isin(["train", "valid"]).to_numpy()
    assert len(data.x) == training.sum() < prepared.n_obs
    np.testing.assert_array_equal(data.x, prepared.X[training][:, prepared.var["gim"].to_numpy()])
    labels = data.conditions["condition"].to_numpy()[data.codes]
    assert labels.tolist() == prepared.obs["gim_condition"].astype(str)[training].tolist()
    assert "A_1000" not in set(labels)
    assert data.control.sum() == (prepared.obs["gim_condition"] == "control").sum()


@pytest.mark.parametrize("method", ["control", "next_lower_dose", "mean_shift", "ridge"])
def test_no_baseline_learns_from_test_cells(prepared, method):
    condition = prepared_condition(prepared, "A_1000")
    clean = scgim.baselines.fit(prepared, method=method).sample(condition, 30)
    held_out = (prepared.obs["gim_split"] == "test").to_numpy()
    assert held_out.sum() == 40
    prepared.X[held_out] = 1000.0
    seal_cells(prepared)
    np.testing.assert_array_equal(scgim.baselines.fit(prepared, method=method).sample(condition, 30), clean)


def test_a_held_out_condition_carries_its_dose_features_and_parts(prepared):
    condition = prepared_condition(prepared, "A_1000")
    assert (condition.perturbation, condition.dose, condition.parts) == ("A", 1000.0, ("A_1000",))
    slots = prepared.uns["gim"]
    part = slots["parts"]["part"].tolist().index("A_1000")
    np.testing.assert_array_equal(condition.features, slots["features"][part])
    assert prepared_condition(prepared, "control").is_control


def test_combinations_sum_their_parts(combinations):
    condition = prepared_condition(combinations, "A+B")
    assert condition.parts == ("A", "B")
    single = [prepared_condition(combinations, part).features for part in "AB"]
    np.testing.assert_array_equal(condition.features, single[0] + single[1])
    additive = scgim.baselines.fit(combinations, method="additive")
    np.testing.assert_allclose(additive.shift(condition)[:3], [2, 2, 0], atol=1e-5)
    with pytest.raises(CannotPredict, match="combination"):
        scgim.baselines.fit(combinations, method="next_lower_dose").sample(condition, 5)


@pytest.mark.parametrize("convert", [sparse.csr_matrix, sparse.csc_matrix, lambda x: x.astype(np.float64)])
def test_the_format_of_x_does_not_matter(prepared, convert):
    expected = training_data(prepared).x
    prepared.X = convert(prepared.X)
    np.testing.assert_array_equal(training_data(prepared).x, expected)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_a_backed_file_gives_the_same_and_is_not_loaded(prepared, tmp_path, convert):
    expected = training_data(prepared).x
    prepared.X = convert(prepared.X)
    prepared.write_h5ad(tmp_path / "prepared.h5ad")
    backed = ad.read_h5ad(tmp_path / "prepared.h5ad", backed="r")
    np.testing.assert_array_equal(training_data(backed).x, expected)
    assert backed.isbacked
    condition = prepared_condition(backed, "A_1000")
    np.testing.assert_array_equal(condition.features, prepared_condition(prepared, "A_1000").features)


def test_dask_gives_the_same(prepared):
    da = pytest.importorskip("dask.array")
    expected = training_data(prepared).x
    prepared.X = da.from_array(prepared.X, chunks=(50, 3))
    np.testing.assert_array_equal(training_data(prepared).x, expected)


def test_fitting_writes_nothing(prepared):
    before = prepared.copy()
    scgim.baselines.fit(prepared, method="mean_shift", steps=5)
    assert list(prepared.uns["gim"]) == list(before.uns["gim"])
    pd.testing.assert_frame_equal(prepared.obs, before.obs)
    pd.testing.assert_frame_equal(prepared.uns["gim"]["conditions"], before.uns["gim"]["conditions"])
    np.testing.assert_array_equal(prepared.X, before.X)


def test_clipping_follows_the_declared_input(prepared, combinations):
    assert scgim.baselines.fit(prepared, method="ridge").clip  # input="log1p"
    assert not scgim.baselines.fit(combinations, method="ridge").clip  # input="continuous"
    assert not scgim.baselines.fit(prepared, method="ridge", clip=False).clip


def test_a_baseline_object_can_be_given(prepared):
    ridge = Ridge(alphas=[1e9])
    assert scgim.baselines.fit(prepared, method=ridge) is ridge
    np.testing.assert_allclose(
        ridge.shift(prepared_condition(prepared, "A_10")),
        ridge.shift(prepared_condition(prepared, "B_10")),
        atol=1e-6,
    )


def test_groups_are_kept_apart(prepared):
    both = ad.concat([prepared, prepared.copy()], index_unique="-")
    both.obs = pd.DataFrame(
        {
            "perturbation": both.obs["perturbation"].astype(str),
            "dose": both.obs["dose"],
            "line": ["x"] * prepared.n_obs + ["y"] * prepared.n_obs,
        }
    )
    both.X[prepared.n_obs :] += 10
    scgim.pp.prepare(both, dose_key="dose", input="log1p", genes="all", groupby="line", min_cells=1, min_counts=0)
    low, high = (training_data(both, group=group) for group in "xy")
    assert high.x.mean() == pytest.approx(low.x.mean() + 10, abs=0.01)


def test_errors_name_what_is_missing(prepared):
    with pytest.raises(ValueError, match=r"method='ridgy' is unknown.*'ridge'"):
        scgim.baselines.fit(prepared, method="ridgy")
    with pytest.raises(KeyError, match=r"scgim\.pp\.prepare"):
        scgim.baselines.fit(prepared, method="ridge", key="other")
    with pytest.raises(KeyError, match="A_1000"):
        prepared_condition(prepared, "A_10000")
    del prepared.obs["gim_split"]
    with pytest.raises(KeyError, match="gim_split"):
        scgim.baselines.fit(prepared, method="ridge")


def test_importing_the_baselines_is_light():
    """What only some methods need, they import when they are fitted."""
    code = "import sys, scgim.baselines; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pyro", "sklearn", "anndata", "scanpy", "gnies", "causallearn"} & set(done.stdout.split())


def test_every_method_has_its_name():
    from scgim.baselines.prepared import method_class, methods

    known = {
        *("control", "next_lower_dose", "mean_shift", "ridge", "additive", "condot"),
        *("gim", "bacadi", "gnies", "ut_igsp", "jci_pc", "jci_pc_context"),
    }
    assert set(methods()) == known
    assert all(method_class(name).name == name for name in known)
    with pytest.raises(ValueError, match="ut_igsp"):
        method_class("ut_igps")
