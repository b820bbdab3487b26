"""`tl.evaluate`: a tidy table whose numbers are those of `scgim.metrics` on the right cells."""

from __future__ import annotations

import logging
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgim
from scgim import metrics
from scgim.baselines import Control, MeanShift
from scgim.metrics import METRICS
from scgim.tl._evaluate import evaluate

GENES = [f"g{i}" for i in range(5)]
FAST = ["mean_distance", "pearson_delta"]
#: A baseline that learns, not for long.
SHORT = MeanShift(steps=20)
DISTANCES = ["mean_distance", "kde_nll", "wasserstein", "e_distance"]


class Halves(Control):
    name = "two halves"


@pytest.fixture
def observed() -> ad.AnnData:
    """Drug A at 1 and 10 (held out), drug B at 1; genes g0-g4 modelled, `other` not."""
    rng = np.random.default_rng(0)
    shift = {("control", 0.0): 0.0, ("A", 1.0): 1.0, ("A", 10.0): 2.0, ("B", 1.0): -1.0}
    x, obs = [], []
    for (name, dose), amount in shift.items():
        n = 80 if name == "control" else 40
        mean = 4 + amount * np.array([1, 0.5, 0, 0, -0.5])
        x.append(np.column_stack([mean + rng.normal(0, 0.4, (n, 5)), rng.random(n) + 0.5]))
        obs += [(name, dose)] * n
    frame = pd.DataFrame(obs, columns=["perturbation", "dose"], index=[f"c{i}" for i in range(len(obs))])
    adata = ad.AnnData(np.vstack(x).astype(np.float32), obs=frame, var=pd.DataFrame(index=[*GENES, "other"]))
    scgim.pp.prepare(adata, dose_key="dose", input="log1p", genes=GENES, hold_out={"A": 10}, min_cells=1, min_counts=0)
    return adata


@pytest.fixture
def predicted() -> ad.AnnData:
    rng = np.random.default_rng(1)
    x = np.vstack([4 + rng.normal(0, 0.4, (30, 5)) + m * np.array([1, 0.5, 0, 0, -0.5]) for m in (1.8, -0.9)])
    obs = pd.DataFrame({"condition": ["A_10"] * 30 + ["B_1"] * 30}, index=[f"p{i}" for i in range(60)])
    return ad.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


def value(table: pd.DataFrame, condition: str, method: str, metric: str) -> float:
    found = table.query("condition == @condition and method == @method and metric == @metric")
    assert len(found) == 1
    return found["value"].iloc[0]


def test_the_table_is_tidy_and_complete(observed, predicted):
    names = ["control", "next_lower_dose", "ridge", "additive"]
    table = evaluate(observed, predicted, baselines=names, n_boot=2)
    columns = ["condition", "method", "metric", "value", "difference", "noise", "n_true", "n_predicted"]
    assert list(table.columns) == columns
    assert not table.duplicated(["condition", "method", "metric"]).any()
    assert len(table) == 2 * 6 * 5
    assert set(table["method"]) == {"gim", *names, "two halves"}  # nothing was fitted: no control of its own
    assert set(table["metric"]) == {"mean_distance", "pearson_delta", "e_distance", "wasserstein", "de_overlap"}


def test_values_are_the_metrics_on_observed_and_predicted_cells(observed, predicted):
    table = evaluate(observed, predicted, metrics=[*DISTANCES, "pearson_delta", "de_overlap"])
    true = observed[observed.obs["gim_condition"] == "A_10", GENES].X
    control = observed[observed.obs["gim_condition"] == "control", GENES].X
    cells = predicted[predicted.obs["condition"] == "A_10"].X
    for name in DISTANCES:
        assert value(table, "A_10", "gim", name) == pytest.approx(getattr(metrics, name)(true, cells))
    assert value(table, "A_10", "gim", "pearson_delta") == pytest.approx(metrics.pearson_delta(true, cells, control))
    assert value(table, "A_10", "gim", "de_overlap") == pytest.approx(metrics.de_overlap(true, cells, control))
    counts = table.groupby("method")[["n_true", "n_predicted"]].agg(lambda n: sorted(set(n)))
    assert counts.to_numpy().tolist() == [[[40], [30]], [[20], [20]]]


def test_a_good_prediction_beats_control_and_next_lower_dose(observed, predicted):
    names = ["control", "next_lower_dose"]
    table = evaluate(observed, predicted, baselines=names, metrics=DISTANCES, conditions=["A_10"])
    for name in DISTANCES:
        ours = value(table, "A_10", "gim", name)
        assert ours < value(table, "A_10", "next_lower_dose", name) < value(table, "A_10", "control", name)


def test_a_baseline_without_a_prediction_is_nan_and_logged(observed, predicted, caplog):
    with caplog.at_level(logging.WARNING, logger="scgim"):
        table = evaluate(observed, predicted, baselines=["next_lower_dose", "additive"], metrics=FAST)
    empty = table[table["value"].isna()]
    assert set(zip(empty["condition"], empty["method"], strict=True)) == {
        ("B_1", "next_lower_dose"),
        ("A_10", "additive"),
    }
    assert (empty["n_predicted"] == 0).all()
    assert "next_lower_dose cannot predict 'B_1': no dose of 'B' below 1" in caplog.text
    assert "additive cannot predict 'A_10'" in caplog.text


def test_a_baseline_that_cannot_be_fitted_leaves_the_others(observed, predicted, caplog, monkeypatch):
    def refuse(self, data, rng=0):
        raise scgim.baselines.CannotPredict("ridge cannot be fitted: too few cells.")

    monkeypatch.setattr(scgim.baselines.Ridge, "fit", refuse)
    table = evaluate(observed, predicted, baselines=["ridge", "control"], metrics=FAST)
    assert table.loc[table["method"] == "ridge", "value"].isna().all()
    assert table.loc[table["method"] == "control", "value"].notna().all()
    assert "too few cells" in caplog.text


def test_a_metric_that_refuses_is_nan_and_logged(observed, predicted, caplog):
    one = predicted[[0]].copy()
    table = evaluate(observed, one, metrics=["kde_nll", "mean_distance"])
    assert np.isnan(value(table, "A_10", "gim", "kde_nll"))
    assert value(table, "A_10", "gim", "mean_distance") > 0
    assert "kde_nll of gim for condition 'A_10' has no value" in caplog.text


def test_what_lacks_its_package_is_nan_and_logged(observed, predicted, caplog, monkeypatch):
    def absent(*args, **kwargs):
        raise ImportError('POT is needed here and is not installed: pip install "scgim[metrics]"')

    monkeypatch.setitem(METRICS, "wasserstein", replace(METRICS["wasserstein"], function=absent))
    monkeypatch.setattr(scgim.baselines.Ridge, "fit", absent)
    table = evaluate(observed, predicted, baselines=["ridge", "control"], metrics=["wasserstein", "mean_distance"])
    missing = (table["metric"] == "wasserstein") | (table["method"] == "ridge")
    assert (table["value"].isna() == missing).all() and not missing.all()
    assert "ridge has no values: POT is needed" in caplog.text
    assert "wasserstein of gim for condition 'A_10' has no value: POT is needed" in caplog.text


def test_a_seed_decides_and_other_baselines_change_nothing(observed, predicted):
    def run(names, seed):
        table = evaluate(observed, predicted, baselines=names, metrics=FAST, rng=seed)
        return table[table["method"].isin(["gim", "mean_shift"])].reset_index(drop=True)

    alone = run([SHORT], 0)
    pd.testing.assert_frame_equal(alone, run(["control", SHORT, "ridge"], 0))
    assert not alone["value"].equals(run([SHORT], 1)["value"])


def test_neither_object_is_changed(observed, predicted):
    before = observed.X.copy(), list(observed.uns["gim"]), predicted.X.copy()
    evaluate(observed, predicted, baselines=["ridge"], metrics=FAST)
    np.testing.assert_array_equal(observed.X, before[0])
    assert list(observed.uns["gim"]) == before[1]
    np.testing.assert_array_equal(predicted.X, before[2])


def test_order_of_genes_and_sparse_x_do_not_matter(observed, predicted):
    expected = evaluate(observed, predicted, baselines=["ridge"], n_boot=2)
    shuffled = predicted[:, GENES[::-1]].copy()
    shuffled.X = sparse.csr_matrix(shuffled.X)
    observed.X = sparse.csc_matrix(observed.X)
    found = evaluate(observed, shuffled, baselines=["ridge"], n_boot=2)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


def test_max_cells_limits_the_pairwise_metrics_only(observed, predicted):
    table = evaluate(observed, predicted, metrics=["e_distance", "mean_distance"], max_cells=10)
    counts = table.set_index("metric")[["n_true", "n_predicted"]]
    assert counts.loc["e_distance"].to_numpy().tolist() == [[10, 10]] * 4
    assert counts.loc["mean_distance"].to_numpy().tolist() == [[40, 30], [20, 20]] * 2


def test_baseline_objects_with_options(observed, predicted):
    table = evaluate(observed, predicted, baselines=[SHORT, Control()], metrics=FAST)
    assert set(table["method"]) == {"gim", "mean_shift", "control", "two halves"}


def test_baselines_alone_need_no_predicted_cells(observed, predicted):
    names = ["control", "next_lower_dose", "mean_shift"]
    asked = ["control", "next_lower_dose", SHORT]
    table = evaluate(observed, baselines=asked, metrics=FAST)
    assert list(dict.fromkeys(table["method"])) == [*names, "two halves"]  # no row of "gim"
    assert set(table["condition"]) == {"A_10"}  # what was held out
    table = table[table["method"] != "two halves"]
    assert (table[["n_true", "n_predicted"]] == 40).all(axis=None)  # as many as were observed
    other = evaluate(observed, baselines="control", conditions=["B_1", "A_1"], metrics=FAST)
    assert list(dict.fromkeys(other["condition"])) == ["B_1", "A_1"]
    # The values are those beside as many predicted cells.
    cells = observed[observed.obs["gim_condition"] == "A_10", GENES].copy()
    cells.obs["condition"] = "A_10"
    beside = evaluate(observed, cells, baselines=asked, metrics=FAST).query("method in @names")
    left, right = (found.drop(columns=["difference", "noise"]) for found in (table, beside))
    pd.testing.assert_frame_equal(left.reset_index(drop=True), right.reset_index(drop=True))


def test_nothing_to_evaluate_is_refused(observed):
    with pytest.raises(ValueError, match=r"nothing to evaluate.*baselines"):
        evaluate(observed)
    with pytest.raises(KeyError, match="'C_1' has no observed cells"):
        evaluate(observed, baselines="control", conditions="C_1")
    scgim.pp.hold_out(observed, hold_out=None)
    with pytest.raises(ValueError, match=r"No condition is held out.*conditions"):
        evaluate(observed, baselines="control")


def test_every_metric_has_a_value(observed, predicted):
    names = ["pearson_means", "sinkhorn_divergence", "zero_fraction_error", "coverage"]
    table = evaluate(observed, predicted, metrics=names)
    assert np.isfinite(table["value"]).all()


def test_conditions_that_were_never_observed_are_left_out_and_logged(observed, predicted, caplog):
    predicted.obs["condition"] = ["A_10"] * 30 + ["B_10"] * 30
    table = evaluate(observed, predicted, metrics=FAST)
    assert set(table["condition"]) == {"A_10"}
    assert "'B_10'" in caplog.text
    with pytest.raises(KeyError, match="'B_10' has no observed cells"):
        evaluate(observed, predicted, conditions=["B_10"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": ["mean_dist"]}, ValueError, "metrics='mean_dist' is unknown"),
        ({"baselines": ["contrl"]}, ValueError, "method='contrl' is unknown"),
        ({"baselines": ["control", Control()]}, ValueError, "'control' would appear twice"),
        ({"baselines": [Halves()]}, ValueError, "'two halves' would appear twice"),
        ({"conditions": ["C_1"]}, KeyError, "'C_1' is not in predicted"),
        ({"key": "other"}, KeyError, "prepare"),
    ],
)
def test_bad_arguments_are_named(observed, predicted, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(observed, predicted, **options)


def test_bad_predictions_are_named(observed, predicted):
    with pytest.raises(ValueError, match="lacks 1 of the 5 modelled genes: 'g3'"):
        evaluate(observed, predicted[:, ["g0", "g1", "g2", "g4"]])
    broken = predicted.copy()
    broken.X[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        evaluate(observed, broken)
    del broken.obs["condition"]
    with pytest.raises(KeyError, match="condition"):
        evaluate(observed, broken)
