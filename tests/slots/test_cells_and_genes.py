"""What the slots say of cells, conditions and genes holds for the object at hand, or is refused."""

from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from screens import SHORT, fitted_screen, prepared_screen, screen

import scgim
from scgim.slots import cell_hashes, read_entry, unknown_cells

pytestmark = pytest.mark.usefixtures("quick_fits")


@pytest.fixture(scope="module")
def fit() -> ad.AnnData:
    return fitted_screen()


@pytest.fixture(scope="module")
def sampled(fit: ad.AnnData) -> ad.AnnData:
    return scgim.tl.sample_cells(fit, perturbations=["G1", "G2"], n=40)


def drop_a_condition(adata: ad.AnnData) -> ad.AnnData:
    return adata[adata.obs["target"] != "G2"].copy()


def drop_the_control(adata: ad.AnnData) -> ad.AnnData:
    return adata[adata.obs["target"] != "control"].copy()


def drop_a_cell(adata: ad.AnnData) -> ad.AnnData:
    return adata[1:].copy()


def repeat_a_cell(adata: ad.AnnData) -> ad.AnnData:
    more = adata[[*range(adata.n_obs), 0]].copy()
    more.obs_names_make_unique()
    return more


def rename_conditions(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    adata.obs["gim_condition"] = adata.obs["gim_condition"].cat.rename_categories({"G1": "STAT1"})
    return adata


def swap_conditions(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    swap = {"G1": "G2", "G2": "G1", "control": "control"}
    adata.obs["gim_condition"] = pd.Categorical(adata.obs["gim_condition"].astype(str).map(swap))
    return adata


def rename_genes(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    adata.var_names = [name.replace("gene0", "ENSG0") for name in adata.var_names]
    return adata


def swap_genes(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    names = adata.var_names.to_list()
    names[3], names[6] = names[6], names[3]
    adata.var_names = names
    return adata


def scale(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    adata.X = (adata.X - adata.X.mean(axis=0)) / adata.X.std(axis=0)
    return adata


def counts_again(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    adata.X = adata.layers["counts"].copy()
    return adata


def no_conditions(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    del adata.obs["gim_condition"]
    return adata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_a_condition, r"120 of the 180 cells.*G2 has 0 of 60.*scgim\.pp\.prepare again with layer=\"counts\""),
        (drop_the_control, r"control has 0 of 60.*scgim\.pp\.prepare again"),
        (drop_a_cell, r"179 of the 180 cells.*control has 59 of 60"),
        (repeat_a_cell, r"2 of 181 cells are not what scgim\.pp\.prepare left|1 of 181 cells"),
        (rename_conditions, r"'STAT1' \(60 cells\), which scgim\.pp\.prepare did not"),
        (swap_conditions, r"120 of 180 cells are not what scgim\.pp\.prepare left"),
        (rename_genes, r"lacks 10 of the 30 modelled genes of 'gim': 'gene00'"),
        (swap_genes, r"of 180 cells are not what scgim\.pp\.prepare left"),
        (scale, r"180 of 180 cells are not what.*adata\.X was changed"),
        (counts_again, r"180 of 180 cells are not what.*adata\.X was changed"),
        (no_conditions, r"gim_condition.*is missing.*scgim\.pp\.prepare again"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda adata, _: scgim.tl.fit_gim(adata, **SHORT),
        lambda adata, _: scgim.pp.hold_out(adata, hold_out=["G1"]),
        lambda adata, _: scgim.baselines.fit(adata, method="mean_shift"),
    ],
    ids=["fit_gim", "hold_out", "baselines"],
)
def test_a_fit_needs_the_cells_that_were_prepared(fit, change: Callable, message: str, use: Callable) -> None:
    changed = change(fit)
    before = changed.copy()
    with pytest.raises((ValueError, KeyError), match=message):
        use(changed, None)
    pd.testing.assert_frame_equal(changed.obs, before.obs)
    assert changed.uns["gim"]["state_sha256"] == before.uns["gim"]["state_sha256"]


@pytest.mark.parametrize("change", [rename_conditions, rename_genes, scale, counts_again])
@pytest.mark.parametrize(
    "use",
    [
        lambda adata, new: scgim.tl.evaluate(adata, new),
        lambda adata, new: scgim.tl.counterfactual(adata, perturbation="G1"),
        lambda adata, new: scgim.tl.target_evidence(adata),
        lambda adata, new: scgim.pl.marginals(adata, new, condition="G1"),
    ],
    ids=["evaluate", "counterfactual", "target_evidence", "marginals"],
)
def test_a_use_of_cells_refuses_those_that_changed(fit, sampled, change: Callable, use: Callable) -> None:
    with pytest.raises(ValueError, match=r"scgim\.pp\.prepare"):
        use(change(fit), sampled)


def test_cells_added_to_a_condition_are_no_observed_cells(fit, sampled) -> None:
    joined = ad.concat([fit[:, sampled.var_names], sampled], uns_merge="first", join="outer")
    with pytest.raises(ValueError, match=r"80 of \d+ cells are not what.*or cells were added"):
        scgim.tl.evaluate(joined, sampled)


def test_a_subset_can_still_be_looked_at(fit, sampled) -> None:
    """What is left of the cells is what it was: no new preparation is needed to use the fit."""
    part = fit[fit.obs["donor"] == "d1"].copy()
    table = scgim.tl.evaluate(part, sampled, metrics=["mean_distance"])
    assert (table["method"] == "gim").sum() == 2
    assert scgim.tl.counterfactual(part, perturbation="G1").n_obs == 30
    assert len(scgim.tl.target_evidence(part)) == 2 * 30
    scgim.pl.marginals(part, sampled, condition="G1", n_genes=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[::-1].copy(),
        lambda a: a[:, ::-1].copy(),
        lambda a: ad.AnnData(sp.csr_matrix(a.X), a.obs, a.var, uns=a.uns),
        lambda a: ad.AnnData(a.X.astype(np.float64), a.obs.rename(index=lambda n: f"x_{n}"), a.var, uns=a.uns),
    ],
    ids=["cells reversed", "genes reversed", "sparse", "cells renamed, float64"],
)
def test_what_is_the_same_passes(fit, change: Callable) -> None:
    scgim.tl.fit_gim(change(fit), **SHORT)


def test_splits_are_changed_by_hold_out_alone() -> None:
    adata = prepared_screen()
    adata.obs.loc[adata.obs["target"] == "G2", "gim_split"] = "test"
    with pytest.raises(ValueError, match=r"gim_split.*was changed for 'G2'.*scgim\.pp\.hold_out"):
        scgim.tl.fit_gim(adata, **SHORT)
    adata = prepared_screen()
    adata.obs["gim_split"] = adata.obs["gim_split"].cat.rename_categories({"train": "training"})
    with pytest.raises(ValueError, match="'training'; a cell is 'train', 'valid' or 'test'"):
        scgim.tl.fit_gim(adata, **SHORT)


def test_cells_that_are_not_modelled_may_come_and_go() -> None:
    adata = screen(["control", "G1", "G2", "rare"], n=40)
    adata = adata[: 3 * 40 + 4].copy()
    prepared_screen(adata, small_conditions="drop")
    without = adata[adata.obs["target"] != "rare"].copy()
    for each in (adata, without):
        scgim.tl.fit_gim(each, **SHORT)
    assert adata.uns["gim"]["state_sha256"] == without.uns["gim"]["state_sha256"]


# -- the numbers behind it --------------------------------------------------------------------------------


def test_one_value_changes_one_number() -> None:
    rng = np.random.default_rng(0)
    x, genes = rng.poisson(1.0, size=(200, 12)).astype(np.float32), [f"g{i}" for i in range(12)]
    labels = np.repeat(["a", "b"], 100)
    first = cell_hashes(x, genes, labels)
    other = x.copy()
    other[7, 3] += 1
    assert np.flatnonzero(cell_hashes(other, genes, labels) != first).tolist() == [7]
    assert (cell_hashes(x, genes, labels[::-1]) != first).all()
    order = rng.permutation(12)
    np.testing.assert_array_equal(cell_hashes(x[:, order], [genes[i] for i in order], labels), first)
    np.testing.assert_array_equal(cell_hashes(-0.0 * x + x, genes, labels), first)


def test_unknown_cells_counts_repeats() -> None:
    stored = np.array([1, 2, 2, 5], dtype=np.uint64)
    found = np.array([2, 3, 2, 1, 2], dtype=np.uint64)
    assert unknown_cells(found, stored).tolist() == [False, True, False, False, True]
    assert not unknown_cells(stored, stored).any()


@pytest.mark.parametrize("values", ["string[python]", "category", "object"])
def test_labels_of_every_kind_of_text_are_the_same_labels(fit, values: str) -> None:
    adata = fit.copy()
    adata.obs["gim_condition"] = adata.obs["gim_condition"].astype(str).astype(values)
    np.testing.assert_array_equal(read_entry(adata).codes(adata), read_entry(fit).codes(fit))
