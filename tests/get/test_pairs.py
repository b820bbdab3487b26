"""Observed and predicted cells side by side, as other suites take them."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from example_cells import assert_unchanged, snapshot
from small_fits import GENES, drug_cells, fitted, prepared

import scgim
from scgim.get import prediction_pair

HELD_OUT = ["A_10", "B_1"]
HOLD_OUT = {"hold_out": HELD_OUT}


@pytest.fixture(scope="module")
def fit() -> ad.AnnData:
    return fitted("log1p", HOLD_OUT)


@pytest.fixture(scope="module")
def sampled(fit) -> ad.AnnData:
    """Every condition and the control, genes in another order and one more."""
    new = scgim.tl.sample_cells(fit, n=20)
    extra = ad.AnnData(np.ones((new.n_obs, 1), np.float32), obs=new.obs[[]], var=pd.DataFrame(index=["more"]))
    both = ad.concat([new, extra], axis=1, merge="first")
    return both[:, both.var_names[::-1]].copy()


def cells(adata: ad.AnnData, label: str, column: str = "condition") -> np.ndarray:
    x = adata[adata.obs[column] == label, GENES].X
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x)


def test_both_have_genes_perturbations_and_control_alike(fit, sampled):
    before = snapshot(fit), snapshot(sampled)
    real, predicted = prediction_pair(fit, sampled)
    assert_unchanged(fit, before[0])
    assert_unchanged(sampled, before[1])
    for own in (real, predicted):
        assert own.var_names.tolist() == GENES
        assert own.obs.columns.tolist() == ["condition"]
        assert own.obs["condition"].cat.categories.tolist() == ["control", *HELD_OUT]
        assert own.obs_names.is_unique and own.X.dtype == np.float32
    for label in ("control", *HELD_OUT):
        np.testing.assert_array_equal(cells(real, label), cells(fit, label, "gim_condition"))
        np.testing.assert_array_equal(cells(predicted, label), cells(sampled, label))
    assert set(real.obs_names) <= set(fit.obs_names)
    assert predicted.n_obs == 3 * 20


def test_chosen_conditions_and_a_column_of_ones_own(fit, sampled):
    real, predicted = prediction_pair(fit, sampled, conditions=["C_1", "A_10"], column="target")
    for own in (real, predicted):
        assert own.obs["target"].cat.categories.tolist() == ["control", "A_10", "C_1"]
        assert set(own.obs["target"]) == {"control", "A_10", "C_1"}


def test_observed_control_cells_stand_on_both_sides(fit, sampled):
    alone = sampled[sampled.obs["condition"] != "control"]
    real, predicted = prediction_pair(fit, alone, control="observed")
    np.testing.assert_array_equal(cells(predicted, "control"), cells(real, "control"))
    np.testing.assert_array_equal(cells(predicted, "A_10"), cells(sampled, "A_10"))
    # also where the method has control cells of its own
    _, other = prediction_pair(fit, sampled, control="observed")
    np.testing.assert_array_equal(other.X, predicted.X)


def test_a_half_of_the_observed_control_cells_on_each_side(fit, sampled):
    real, predicted = prediction_pair(fit, sampled, control="split")
    halves = [set(own.obs_names[own.obs["condition"] == "control"]) for own in (real, predicted)]
    assert not halves[0] & halves[1] and abs(len(halves[0]) - len(halves[1])) <= 1
    assert halves[0] | halves[1] == set(fit.obs_names[fit.obs["gim_condition"] == "control"])
    for name in ("control", "A_10"):
        own = predicted.obs_names[predicted.obs["condition"] == name]
        source = fit if name == "control" else sampled
        np.testing.assert_array_equal(predicted[own].X, np.asarray(source[own, GENES].X))
    again = [prediction_pair(fit, sampled, control="split", rng=seed)[0].obs_names.tolist() for seed in (0, 1)]
    assert again[0] == real.obs_names.tolist() != again[1]


def test_without_control_cells_it_says_where_they_may_come_from(fit, sampled):
    alone = sampled[sampled.obs["condition"] != "control"]
    with pytest.raises(ValueError, match=r"no cells of the control 'control'.*sample_cells.*control='observed'"):
        prediction_pair(fit, alone)


def test_cells_held_out_within_a_condition_are_the_observed_ones():
    adata = prepared("log1p", {"test_fraction": 0.5})
    names = adata.obs["gim_condition"].cat.categories
    new = ad.AnnData(
        np.ones((len(names), 5), np.float32), obs=pd.DataFrame({"condition": list(names)}, index=list(names)),
        var=pd.DataFrame(index=GENES),
    )  # fmt: skip
    real, _ = prediction_pair(adata, new)
    perturbed = real.obs["condition"] != "control"
    assert perturbed.any() and (adata.obs["gim_split"][real.obs_names[perturbed]] == "test").all()
    control = adata.obs_names[adata.obs["gim_condition"] == "control"]
    assert set(real.obs_names[~perturbed]) == set(control)


def test_what_was_not_held_out_must_be_named(sampled):
    adata = prepared("log1p")
    with pytest.raises(ValueError, match=r"held out.*name conditions="):
        prediction_pair(adata, sampled)
    real, _ = prediction_pair(adata, sampled, conditions="A_1")
    assert set(real.obs["condition"]) == {"control", "A_1"}


def test_conditions_that_are_missing(fit, sampled, caplog):
    with pytest.raises(ValueError, match="Unknown condition 'A_100'"):
        prediction_pair(fit, sampled, conditions=["A_100"])
    few = sampled[sampled.obs["condition"] != "B_1"]
    with pytest.raises(KeyError, match=r"'B_1' is not in predicted"):
        prediction_pair(fit, few, conditions=HELD_OUT)
    with caplog.at_level(logging.WARNING, logger="scgim"):
        real, _ = prediction_pair(fit, few)
    assert "Not compared, because predicted has no such cells: 'B_1'" in caplog.text
    assert set(real.obs["condition"]) == {"control", "A_10"}
    with pytest.raises(KeyError, match=r"none of the held-out conditions \('A_10', 'B_1'\)"):
        prediction_pair(fit, few[few.obs["condition"] != "A_10"])
    unobserved = fit[fit.obs["gim_condition"] != "C_1"].copy()
    with pytest.raises(KeyError, match=r"'C_1' has no observed cells"):
        prediction_pair(unobserved, sampled, conditions=["C_1"])


def test_values_must_be_log_normalised(fit, sampled):
    wrong = sampled.copy()
    wrong.X[0, 1] = -0.5
    with pytest.raises(ValueError, match=r"1 value below 0.*clip=True"):
        prediction_pair(fit, wrong)
    wrong.X = np.round(10 * sampled.X)
    with pytest.raises(ValueError, match="these are counts"):
        prediction_pair(fit, wrong)
    with pytest.raises(ValueError, match=r"lacks 1 of the 5 modelled genes: 'g2'"):
        prediction_pair(fit, sampled[:, sampled.var_names != "g2"])
    with pytest.raises(TypeError, match="must be an AnnData"):
        prediction_pair(fit, sampled.X)
    with pytest.raises(ValueError, match="control"):
        prediction_pair(fit, sampled, control="mine")
    with pytest.raises(ValueError, match=r"continuous.*tl\.evaluate"):
        prediction_pair(prepared("continuous", HOLD_OUT), sampled)


def test_a_group_of_its_own(sampled):
    adata = drug_cells(kind="log1p")
    scgim.pp.prepare(adata, dose_key="dose", input="log1p", genes=GENES, min_cells=1, groupby="line", **HOLD_OUT)
    real, _ = prediction_pair(adata, sampled, group="second")
    assert (adata.obs["line"][real.obs_names] == "second").all() and real.n_obs > 0


@pytest.mark.filterwarnings("ignore")
def test_cell_eval_takes_the_pair(fit, sampled, tmp_path):
    cell_eval = pytest.importorskip("cell_eval", reason="the extra eval is not installed")
    real, predicted = prediction_pair(fit, sampled, conditions=["A_10", "B_1", "C_10"])
    judge = cell_eval.MetricsEvaluator(
        predicted, real, pert_col="condition", control_pert="control", num_threads=1, outdir=str(tmp_path / "out")
    )
    table, _ = judge.compute(profile="minimal", write_csv=False)
    found = pd.DataFrame(table.to_dict(as_series=False)).set_index("perturbation")
    assert sorted(found.index) == ["A_10", "B_1", "C_10"]
    gap = np.abs(cells(real, "A_10").mean(0) - cells(predicted, "A_10").mean(0)).mean()
    assert found.loc["A_10", "mae"] == pytest.approx(gap, abs=1e-5)
