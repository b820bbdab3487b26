"""Downstream of a fit with ``mechanism="count"``: cells are counts, and X is what `pp.prepare` makes of them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from example_cells import assert_unchanged, snapshot
from scipy import stats
from small_fits import count_cells, fitted, fitted_counts

import scgim
from scgim.metrics import METRICS
from scgim.slots import read_entry

pytestmark = pytest.mark.usefixtures("quick_fits")

#: A fit that has learned how much genes vary.
LONGER = {"max_steps": 150, "check_every": 150, "batch_size": 512, "warmup_steps": 50}


@pytest.fixture(scope="module")
def longer() -> ad.AnnData:
    return fitted_counts(fit=LONGER, n=40)


def size_of(cells: ad.AnnData) -> np.ndarray:
    return cells.obs["gim_size_factor"].to_numpy()


def assert_counted(cells: ad.AnnData) -> None:
    """Counts are whole, X agrees with them."""
    counts = cells.layers["counts"]
    assert (counts >= 0).all()
    assert (counts == np.rint(counts)).all()
    assert (size_of(cells) > 0).all()
    np.testing.assert_allclose(cells.X, np.log1p(counts / size_of(cells)[:, None]), rtol=2e-6)


# -- sample_cells and intervene ---------------------------------------------------------------------------


def test_sampled_cells_are_counts(count_fit: ad.AnnData) -> None:
    before = snapshot(count_fit)
    cells = scgim.tl.sample_cells(count_fit, perturbations=["control", ("A", 3.0)], n=200)
    assert_unchanged(count_fit, before)
    assert_counted(cells)
    assert cells.X.dtype == np.float32
    assert cells.obs["condition"].tolist() == ["control"] * 200 + ["A_3"] * 200
    assert set(cells.obs["plate"].cat.categories) == {"plate1", "plate2"}
    assert 0.3 < (cells.obs["plate"] == "plate1").mean() < 0.7
    # as the cells of the data have them, which prepare measures against the controls
    assert stats.ks_2samp(size_of(cells), _sizes_of_the_data(count_fit)).pvalue > 1e-3
    again = scgim.tl.sample_cells(count_fit, perturbations=["control", ("A", 3.0)], n=200)
    np.testing.assert_array_equal(again.layers["counts"], cells.layers["counts"])
    other = scgim.tl.sample_cells(count_fit, perturbations=["control", ("A", 3.0)], n=200, rng=1)
    assert (other.layers["counts"] != cells.layers["counts"]).any()


def _sizes_of_the_data(adata: ad.AnnData) -> np.ndarray:
    total = np.asarray(adata.layers["counts"].sum(1)).ravel()
    return total / np.median(total[(adata.obs["perturbation"] == "control").to_numpy()])


def _depth_of(fit: ad.AnnData, cells: ad.AnnData) -> np.ndarray:
    """(cells,) how deep cells are by the genes that are not modelled, from what X was divided by."""
    record = read_entry(fit).fitted["measured"]
    return (size_of(cells) - cells.layers["counts"].sum(1) / record["total"]) / record["rest"]


def test_size_factors_may_be_given(count_fit: ad.AnnData) -> None:
    one = scgim.tl.sample_cells(count_fit, perturbations=["control"], n=300, size_factor=2)
    np.testing.assert_allclose(_depth_of(count_fit, one), 2, rtol=1e-6)
    assert size_of(one).mean() == pytest.approx(2, rel=0.1)  # controls divide by what a control has
    assert_counted(one)
    given = np.linspace(0.5, 3, 30)
    each = scgim.tl.intervene(count_fit, interventions={"g3": 1.0}, n=30, size_factor=given)
    np.testing.assert_allclose(_depth_of(count_fit, each), given, rtol=1e-6)
    deep, shallow = (scgim.tl.sample_cells(count_fit, n=300, size_factor=s).layers["counts"] for s in (4.0, 1.0))
    np.testing.assert_allclose(deep.mean(0) / shallow.mean(0), 4, rtol=0.1)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0.0, ValueError, "above 0"),
        ([1.0, -1.0], ValueError, "above 0"),
        (np.nan, ValueError, "finite"),
        ([1.0, 1.0, 1.0], ValueError, "2, one for each"),
        ("deep", TypeError, "must be a number"),
        (True, TypeError, "must be a number"),
    ],
)
def test_size_factors_that_are_none_are_refused(count_fit: ad.AnnData, size, error, message: str) -> None:
    for call, more in ((scgim.tl.sample_cells, {}), (scgim.tl.intervene, {"interventions": {"g0": 1.0}})):
        with pytest.raises(error, match=message):
            call(count_fit, n=2, size_factor=size, **more)


def test_size_factors_are_of_models_of_counts() -> None:
    with pytest.raises(ValueError, match="mechanism='count'"):
        scgim.tl.sample_cells(fitted(), n=2, size_factor=1.0)


def test_do_0_has_no_counts_and_other_values_set_the_rate(count_fit: ad.AnnData) -> None:
    given = np.exp(np.linspace(-0.8, 0.8, 2000))
    cells = scgim.tl.intervene(count_fit, interventions={"g0": 0.0, "g3": 2.0}, n=2000, size_factor=given)
    assert_counted(cells)
    assert not cells[:, "g0"].layers["counts"].any()
    counts = cells[:, "g3"].layers["counts"].ravel()
    expected = np.expm1(2.0) * given
    assert abs((counts - expected).mean()) < 4 * np.sqrt(expected.mean() / len(counts))
    assert (counts - expected).var() == pytest.approx(expected.mean(), rel=0.1)  # a Poisson's
    with pytest.raises(ValueError, match=">= 0"):
        scgim.tl.intervene(count_fit, interventions={"g0": -1.0}, n=2)


def test_zeros_of_sampled_controls_are_those_of_the_data(longer: ad.AnnData) -> None:
    """As many as binomial noise of the data allows, and the same spread."""
    control = (longer.obs["perturbation"] == "control").to_numpy()
    genes = scgim.tl.sample_cells(longer, n=1).var_names
    seen = longer[control, genes].layers["counts"].toarray()
    cells = scgim.tl.sample_cells(longer, perturbations=["control"], n=5000)[:, genes]
    counts = cells.layers["counts"]
    zeros, n = (counts == 0).mean(0), len(seen)
    error = np.sqrt(zeros * (1 - zeros) / n + 1 / n**2)
    assert (np.abs(zeros - (seen == 0).mean(0)) < 4 * error + 0.01).all()
    error = seen.std(0) / np.sqrt(n)
    assert (np.abs(counts.mean(0) - seen.mean(0)) < 4 * error).all()  # the level has not drifted in the fit
    x = longer[control, genes].X.toarray()
    assert (np.abs(cells.X.mean(0) - x.mean(0)) < 5 * x.std(0) / np.sqrt(n)).all()
    np.testing.assert_allclose(cells.X.std(0), x.std(0), rtol=0.25)


# -- counterfactual ---------------------------------------------------------------------------------------


def test_the_control_as_a_perturbation_returns_the_very_cells(count_fit: ad.AnnData) -> None:
    same = scgim.tl.counterfactual(count_fit, perturbation="control")
    control = (count_fit.obs["perturbation"] == "control").to_numpy()
    observed = count_fit[control, same.var_names]
    np.testing.assert_array_equal(same.layers["counts"], observed.layers["counts"].toarray())
    np.testing.assert_array_equal(same.layers["observed_counts"], observed.layers["counts"].toarray())
    np.testing.assert_array_equal(same.X, observed.X.toarray())
    assert not same.layers["touched"].any()
    assert same.obs["plate"].tolist() == observed.obs["plate"].tolist()


def test_counterfactual_counts_change_only_where_they_may(count_fit: ad.AnnData) -> None:
    before = snapshot(count_fit)
    new = scgim.tl.counterfactual(count_fit, perturbation=("A", 10))
    assert_unchanged(count_fit, before)
    assert_counted(new)
    kept = new.layers["touched"] == 0
    assert kept.any()
    assert (~kept).any()
    for now, then in ((new.layers["counts"], new.layers["observed_counts"]), (new.X, new.layers["observed"])):
        np.testing.assert_array_equal(now[kept], then[kept])
    control = (count_fit.obs["perturbation"] == "control").to_numpy()
    np.testing.assert_array_equal(new.layers["observed"], count_fit[control, new.var_names].X.toarray())
    np.testing.assert_allclose(size_of(new), _sizes_of_the_data(count_fit)[control], rtol=1e-4)
    # A lowers g0, and g1 follows it
    change = new.to_df("counts").mean() / new.to_df("observed_counts").mean()
    assert change["g0"] < 0.6
    assert change["g1"] < 0.8
    zero = scgim.tl.counterfactual(count_fit, interventions={"g0": 0.0})
    assert not zero[:, "g0"].X.any()


def test_new_controls_are_counted_like_those_of_the_fit(count_fit: ad.AnnData) -> None:
    """Raw counts of all genes, with or without others, and cells that were normalised with their counts at hand."""
    own = scgim.tl.counterfactual(count_fit, perturbation=("A", 10))
    raw = count_cells()
    for cells in (raw, raw[raw.obs["perturbation"] == "control"].copy(), _both(raw)):
        found = scgim.tl.counterfactual(count_fit, perturbation=("A", 10), cells=cells)
        np.testing.assert_array_equal(found.layers["counts"], own.layers["counts"])
        np.testing.assert_allclose(found.X, own.X, rtol=1e-5)
    dense = raw.copy()
    dense.X = raw.X.toarray()
    turned = scgim.tl.counterfactual(count_fit, perturbation=("A", 10), cells=dense[:, ::-1].copy())
    np.testing.assert_array_equal(turned[:, own.var_names].layers["counts"], own.layers["counts"])


def _both(raw: ad.AnnData) -> ad.AnnData:
    """X log-normalised, the counts in the layer where scgim keeps them."""
    out = raw.copy()
    out.layers["counts"] = raw.X
    total = np.asarray(raw.X.sum(1)).ravel()
    target = np.median(total[(raw.obs["perturbation"] == "control").to_numpy()])
    out.X = np.log1p(raw.X.toarray() / (total / target)[:, None]).astype(np.float32)
    return out


def test_new_controls_without_counts_or_batch_are_refused(count_fit: ad.AnnData) -> None:
    normal = _both(count_cells())
    del normal.layers["counts"]
    with pytest.raises(KeyError, match="counts"):
        scgim.tl.counterfactual(count_fit, perturbation=("A", 10), cells=normal)
    raw = count_cells()
    with pytest.raises(KeyError, match="plate"):
        scgim.tl.counterfactual(count_fit, perturbation=("A", 10), cells=_without(raw, "plate"))
    raw.obs["plate"] = "plate3"
    with pytest.raises(ValueError, match="plate3"):
        scgim.tl.counterfactual(count_fit, perturbation=("A", 10), cells=raw)


def _without(adata: ad.AnnData, column: str) -> ad.AnnData:
    out = adata.copy()
    del out.obs[column]
    return out


def test_a_fit_with_size_factors_of_the_user() -> None:
    adata = fitted_counts(fit={"size_key": "depth", "batch_key": None})
    cells = scgim.tl.sample_cells(adata, n=40)
    assert_counted(cells)
    assert "plate" not in cells.obs
    new = scgim.tl.counterfactual(adata, perturbation=("A", 10))
    control = (adata.obs["perturbation"] == "control").to_numpy()
    # X stays on the scale of adata.X, which was normalised by totals
    np.testing.assert_allclose(size_of(new), _sizes_of_the_data(adata)[control], rtol=1e-5)
    assert_counted(new)


# -- the stored model -------------------------------------------------------------------------------------


def test_a_saved_fit_gives_the_same_cells(count_fit: ad.AnnData, tmp_path) -> None:
    count_fit.write_h5ad(tmp_path / "fit.h5ad")
    again = ad.read_h5ad(tmp_path / "fit.h5ad")
    for call, more in (
        (scgim.tl.sample_cells, {"n": 9}),
        (scgim.tl.intervene, {"interventions": {"g1": 1.0}, "n": 9}),
        (scgim.tl.counterfactual, {"perturbation": ("B", 10)}),
    ):
        first, second = (call(a, rng=3, **more) for a in (count_fit, again))
        np.testing.assert_array_equal(second.X, first.X)
        np.testing.assert_array_equal(second.layers["counts"], first.layers["counts"])
        assert second.obs["plate"].tolist() == first.obs["plate"].tolist()
    first, second = (scgim.tl.target_evidence(a) for a in (count_fit, again))
    pd.testing.assert_frame_equal(first, second)
    cells = scgim.tl.sample_cells(again, n=3)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "cells.h5ad").layers["counts"], cells.layers["counts"])


def test_genes_in_another_order_are_still_the_same_genes(count_fit: ad.AnnData) -> None:
    turned = count_fit[:, ::-1].copy()
    first, second = (scgim.tl.sample_cells(a, n=5) for a in (count_fit, turned))
    for layer in (None, "counts"):
        pd.testing.assert_frame_equal(second.to_df(layer)[first.var_names], first.to_df(layer))
    first, second = (scgim.tl.counterfactual(a, perturbation=("A", 10)) for a in (count_fit, turned))
    for layer in (None, "counts", "observed_counts", "touched"):
        pd.testing.assert_frame_equal(second.to_df(layer)[first.var_names], first.to_df(layer))


# -- tables -----------------------------------------------------------------------------------------------


def test_effects_are_the_means_of_sampled_cells() -> None:
    """All genes are targets, so that nothing but the effects decides; in cells as deep as controls."""
    genes = [f"g{i}" for i in range(10)]
    adata = fitted_counts(fit={"known_targets": {"A": genes}})
    table = scgim.tl.predict_targets(adata, perturbations=[("A", 10)]).set_index("gene").loc[genes]
    depth = _depth_of(adata, scgim.tl.sample_cells(adata, perturbations=["control"], n=20_000))
    cells = scgim.tl.sample_cells(adata, perturbations=[("A", 10)], n=20_000, size_factor=depth)[:, genes]
    x = np.log1p(cells.layers["counts"] / depth[:, None])
    error = x.std(0) / np.sqrt(len(x))
    assert (np.abs(x.mean(0) - table["effect"]) < 5 * error).all()
    stored = scgim.get.targets(adata, conditions="A_10").set_index("gene").loc[genes]
    np.testing.assert_allclose(stored["effect"], table["effect"], rtol=1e-4)
    control = adata[adata.obs["perturbation"] == "control", genes].X.toarray().mean(0)
    np.testing.assert_allclose(table["control_mean"], control, rtol=1e-5)
    np.testing.assert_allclose(table["log2_fold_change"], (table["effect"] - control) / np.log(2), atol=1e-5)
    assert table.loc["g0", "direction"] == -1


def test_evidence_finds_what_was_planted(count_fit: ad.AnnData) -> None:
    before = snapshot(count_fit)
    table = scgim.tl.target_evidence(count_fit)
    assert_unchanged(count_fit, before)
    assert np.isfinite(table[["evidence", "change", "specific_change"]]).all(axis=None)
    np.testing.assert_allclose(table["evidence"], 0.5 * table["change"] ** 2)
    scores = table.set_index(["condition", "gene"])
    for drug, gene in (("A", "g0"), ("C", "g3")):
        own = scores.loc[f"{drug}_10"]
        assert own.loc[gene, "change"] < -3  # lowered
        assert own.loc[["g5", "g6", "g7", "g8", "g9"], "evidence"].max() < own.loc[gene, "evidence"]
    # without one batch: rates are still those of the right one
    one = count_fit[count_fit.obs["plate"] == "plate2"].copy()
    half = scgim.tl.target_evidence(one).set_index(["condition", "gene"])
    assert (half["n_cells"] < scores["n_cells"]).all()
    assert half.loc[("A_10", "g0"), "change"] < -2


def test_every_metric_has_a_value(count_fit: ad.AnnData) -> None:
    pytest.importorskip("ot")
    cells = scgim.tl.sample_cells(count_fit, perturbations=["A_10", "B_10"], n=40)
    names = [name for name, metric in METRICS.items() if metric.of == "cells"]
    table = scgim.tl.evaluate(count_fit, cells, metrics=names, baselines=["control", "ridge"], n_boot=2)
    assert np.isfinite(table["value"]).all()
    assert set(table["method"]) == {"gim", "control", "ridge", "own control", "two halves"}


def test_deep_cells_of_few_genes_are_no_mistake(caplog) -> None:
    """One gene may have more than a cell's normalised total where counts and the user's size factors say so."""
    adata = fitted_counts(fit={"size_key": "depth", "batch_key": None})
    cells = scgim.tl.intervene(adata, interventions={"g4": 6.0}, n=20)
    cells.obs["condition"] = "A_10"
    scgim.tl.evaluate(adata, cells, metrics="mean_distance")
    assert "log1p" not in caplog.text
    del cells.layers["counts"]
    scgim.tl.evaluate(adata, cells, metrics="mean_distance")
    assert "log1p" in caplog.text


def test_a_fit_per_group_has_slots_of_its_own() -> None:
    adata = fitted_counts(prepare={"groupby": "plate"}, fit={"batch_key": None})
    cells = scgim.tl.sample_cells(adata, n=4, group="plate2")
    assert "gim_plate2_size_factor" in cells.obs
    new = scgim.tl.counterfactual(adata, perturbation=("A", 10), group="plate2")
    assert new.n_obs == ((adata.obs["perturbation"] == "control") & (adata.obs["plate"] == "plate2")).sum()


def test_the_shift_of_a_target_is_read_as_a_fold_change() -> None:
    genes = ["g0"]
    adata = fitted_counts(fit={"intervention": "shift", "known_targets": {"A": genes}, "max_steps": 60})
    table = scgim.tl.predict_targets(adata, perturbations=[("A", 10)]).set_index("gene")
    perturbed, control = (
        scgim.tl.sample_cells(adata, perturbations=[label], n=20_000)[:, "g0"].X.ravel()
        for label in ("A_10", "control")
    )
    error = np.hypot(perturbed.std(), control.std()) / np.sqrt(20_000)
    change = table.loc["g0", "log2_fold_change"] * np.log(2)
    assert abs((perturbed.mean() - control.mean()) - change) < 5 * error + 0.02 * abs(change)
    assert change < -0.3
    assert scgim.tl.target_evidence(adata)["change"].notna().all()
