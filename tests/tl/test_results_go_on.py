"""What `tl` returns goes into evaluate, pl, anndata.concat and scanpy; new control cells are welcome."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from screens import fitted_screen, prepared_screen, screen
from small_fits import fitted

import scgim

pytestmark = pytest.mark.usefixtures("quick_fits")


@pytest.fixture(scope="module")
def fit() -> ad.AnnData:
    return fitted_screen()


def outcomes(adata: ad.AnnData) -> dict[str, ad.AnnData]:
    return {
        "sampled": scgim.tl.sample_cells(adata, perturbations=["G1"], n=50),
        "treated": scgim.tl.counterfactual(adata, perturbation="G1"),
    }


def test_whatever_is_returned_can_be_evaluated_drawn_and_joined(fit: ad.AnnData) -> None:
    for name, cells in outcomes(fit).items():
        table = scgim.tl.evaluate(fit, cells)
        assert table["condition"].unique().tolist() == ["G1"], name
        assert table["value"].notna().all()
        scgim.pl.marginals(fit, cells, n_genes=2)
        joined = ad.concat({"observed": fit[:, cells.var_names], name: cells}, label="origin", index_unique="-")
        sc.pp.pca(joined, n_comps=3)
        sc.tl.rank_genes_groups(joined, "gim_condition", groups=["G1"], reference="control")
        assert (joined.obs["gim_condition"][joined.obs["origin"] == name] == "G1").all()


def test_nothing_says_that_treated_cells_are_controls(fit: ad.AnnData) -> None:
    treated = outcomes(fit)["treated"]
    control = fit.obs_names[fit.obs["gim_condition"] == "control"]
    assert treated.obs_names.tolist() == control.tolist()  # the same cells
    text = treated.obs.select_dtypes(exclude="number").astype(str)
    assert not (text == "control").to_numpy().any()
    assert set(treated.obs["gim_condition"]) == set(treated.obs["perturbation"]) == {"G1"}
    assert treated.obs["donor"].tolist() == fit.obs.loc[control, "donor"].tolist()
    held = scgim.tl.counterfactual(fit, interventions={"gene00": 0.0})
    assert set(held.obs["condition"]) == {"do(gene00=0)"}


def test_names_of_cells_do_not_repeat_between_calls(fit: ad.AnnData) -> None:
    calls = [
        scgim.tl.sample_cells(fit, perturbations=["G1"], n=20),
        scgim.tl.sample_cells(fit, perturbations=["G2"], n=20),
        scgim.tl.sample_cells(fit, perturbations=["G1"], n=20, rng=1),
        scgim.tl.sample_cells(fit, perturbations=["G1"], n=21),
        scgim.tl.intervene(fit, interventions={"gene00": 0.0}, n=20),
        scgim.tl.intervene(fit, interventions={"gene00": 1.0}, n=20),
    ]
    assert ad.concat(calls).obs_names.is_unique
    again = scgim.tl.sample_cells(fit, perturbations=["G1"], n=20)
    assert again.obs_names.tolist() == calls[0].obs_names.tolist()  # the same cells


def test_a_column_says_the_group() -> None:
    adata = fitted_screen(screen(n=80), groupby="donor")
    for group in ("d1", "d2"):
        cells = scgim.tl.sample_cells(adata, perturbations=["G1"], n=5, group=group)
        assert cells.obs["donor"].tolist() == [group] * 5
        treated = scgim.tl.counterfactual(adata, perturbation="G1", group=group)
        assert set(treated.obs["donor"]) == {group}


# -- new control cells ------------------------------------------------------------------------------------


def other_donor(kind: str) -> ad.AnnData:
    """Unperturbed cells of a second experiment, as the fit's `adata.X` is or as counts."""
    new = screen(["control", "G9"], n=30, seed=5)
    new.obs_names = "new_" + new.obs_names
    if kind == "normalised":
        prepared_screen(new)
    elif kind == "sparse":
        new.X = sp.csr_matrix(new.X)
    return new


@pytest.mark.parametrize("kind", ["normalised", "counts", "sparse", "without labels", "genes in another order"])
def test_cells_of_another_donor(fit: ad.AnnData, kind: str) -> None:
    new = other_donor(kind)
    expected = 30
    if kind == "without labels":
        del new.obs["target"]
        expected = 60
    elif kind == "genes in another order":
        new = new[:, ::-1].copy()
    treated = scgim.tl.counterfactual(fit, perturbation="G1", cells=new)
    assert treated.n_obs == expected
    assert treated.obs_names.str.startswith("new_").all()
    assert set(treated.obs["condition"]) == {"G1"}
    genes = [f"gene{i:02d}" for i in range(30)]
    total = np.expm1(treated[:, genes].layers["observed"]).sum(1)
    np.testing.assert_allclose(total, total[0], rtol=0.2)  # log1p of normalised counts, whatever came in
    scgim.tl.evaluate(fit, treated)
    if kind in ("counts", "sparse"):
        target = scgim.get.params(fit)["target_sum"]
        np.testing.assert_allclose(total, target, rtol=1e-4)


def test_a_fit_given_to_other_cells(fit: ad.AnnData) -> None:
    new = other_donor("counts")
    new.uns["gim"] = fit.uns["gim"]
    cells = scgim.tl.sample_cells(new, perturbations=["G1"], n=10)
    np.testing.assert_array_equal(cells.X, scgim.tl.sample_cells(fit, perturbations=["G1"], n=10).X)
    assert scgim.tl.counterfactual(new, perturbation="G1").n_obs == 30


def test_without_controls_it_refuses(fit: ad.AnnData) -> None:
    new = other_donor("counts")
    perturbed = new[new.obs["target"] == "G9"].copy()
    with pytest.raises(ValueError, match=r"no unperturbed cell.*'control'.*'G9'"):
        scgim.tl.counterfactual(fit, perturbation="G1", cells=perturbed)
    with pytest.raises(ValueError, match=r"no unperturbed cells.*cells="):
        scgim.tl.counterfactual(fit[fit.obs["target"] != "control"].copy(), perturbation="G1")
    with pytest.raises(ValueError, match=r"lacks 1 of the 30 modelled genes.*'gene00'"):
        scgim.tl.counterfactual(fit, perturbation="G1", cells=new[:, 1:].copy())
    raw = other_donor("normalised")
    raw.X = raw.X * 30
    with pytest.raises(ValueError, match=r"the X of cells reaches .*not log-transformed"):
        scgim.tl.counterfactual(fit, perturbation="G1", cells=raw)


# -- which way a target goes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "intervention"), [("log1p", "hard"), ("log1p", "shift"), ("continuous", "shift")])
def test_targets_say_which_way_they_go(kind: str, intervention: str) -> None:
    """Against the mean of sampled cells in which everything is the control's but this gene's mechanism."""
    adata = fitted(kind, fit={"intervention": intervention, "max_steps": 60, "known_targets": {"A": "g0"}})
    table = scgim.get.targets(adata, conditions="A_10", called_only=True).set_index("gene")
    assert list(table.index) == ["g0"]
    row = table.loc["g0"]
    control = adata.obs["gim_condition"].astype(str) == "control"
    trained = adata.obs["gim_split"].isin(["train", "valid"])
    assert row["control_mean"] == pytest.approx(adata[control & trained, "g0"].X.mean(), rel=1e-4)
    sampled = scgim.tl.sample_cells(adata, perturbations=["A_10", "control"], n=4000)
    means = sampled.to_df()["g0"].groupby(sampled.obs["condition"], observed=True).mean()
    change = means["A_10"] - means["control"]
    assert row["direction"] == np.sign(change)
    if kind == "continuous":
        assert np.isnan(row["log2_fold_change"])
    else:
        assert row["log2_fold_change"] * np.log(2) == pytest.approx(change, abs=0.25 + 0.1 * float(abs(change)))
    predicted = scgim.tl.predict_targets(adata, perturbations="A_10").set_index("gene")
    pd.testing.assert_series_equal(
        predicted.loc["g0", ["direction", "effect"]], row[["direction", "effect"]], check_names=False, check_dtype=False
    )
