"""Splits, held-out conditions, and the steps of `prepare` one by one."""

from __future__ import annotations

import logging
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from example_cells import SMALL, assert_same, assert_unchanged, crispr_cells, drug_cells, snapshot

from scgim import pp


@pytest.fixture
def ready() -> ad.AnnData:
    return pp.prepare(drug_cells(), copy=True, **SMALL)


def held_out(adata: ad.AnnData, key: str = "gim") -> list[str]:
    table = adata.uns[key]["conditions"]
    return table.loc[table["split"] == "test", "condition"].tolist()


@pytest.mark.parametrize(
    ("hold_out", "expected"),
    [
        ({"Belinostat": 1000}, ["Belinostat_1000"]),
        ({"Belinostat": [10, 1000.0]}, ["Belinostat_10", "Belinostat_1000"]),
        ({"Belinostat": None}, ["Belinostat_10", "Belinostat_100", "Belinostat_1000"]),
        ({"Belinostat": 10, "Abemaciclib": {100}}, ["Abemaciclib_100", "Belinostat_10"]),
        (["Belinostat_10"], ["Belinostat_10"]),
        ("Belinostat_10", ["Belinostat_10"]),
        (("Belinostat", 10), ["Belinostat_10"]),
        ([("Belinostat", 10), "Abemaciclib_10"], ["Abemaciclib_10", "Belinostat_10"]),
        ([], []),
        (None, []),
    ],
)
def test_conditions_are_held_out(hold_out: Any, expected: list[str], ready: ad.AnnData) -> None:
    in_prepare = pp.prepare(drug_cells(), copy=True, hold_out=hold_out, **SMALL)
    pp.hold_out(ready, hold_out=hold_out)
    for adata in (in_prepare, ready):
        assert held_out(adata) == expected
        test_cells = adata.obs["gim_split"] == "test"
        assert (adata.obs["gim_condition"].isin(expected) == test_cells).all()
    assert in_prepare.obs["gim_split"].tolist() == ready.obs["gim_split"].tolist()
    one, two = in_prepare.uns["gim"], ready.uns["gim"]
    for name in ("conditions", "features", "feature_names", "feature_spec"):
        assert_same(one[name], two[name])
    rows = ["cells: train", "cells: valid", "cells: test", "conditions held out", "features per part"]
    assert_same(*(entry["summary"].set_index("item").loc[rows] for entry in (one, two)))


def test_combinations_are_held_out_in_any_order() -> None:
    adata = crispr_cells()
    pp.prepare(adata, control="NT", min_counts=1, min_cells=1)
    pp.hold_out(adata, hold_out=["MAP2K6+KLF1"])
    assert held_out(adata) == ["KLF1+MAP2K6"]
    pp.hold_out(adata, hold_out={"KLF1": None})
    assert held_out(adata) == ["KLF1", "KLF1+MAP2K6"]
    pp.hold_out(adata, hold_out=["KLF1"])
    assert held_out(adata) == ["KLF1"]


@pytest.mark.parametrize(
    ("hold_out", "message"),
    [
        ({"Belinostat": 55}, r"no condition 'Belinostat_55'.*Did you mean.*'Belinostat_10'"),
        ({"Belinostatt": None}, r"no condition 'Belinostatt'.*'Abemaciclib_10'"),
        (["Nothing"], "'Nothing' needs a dose.*'Abemaciclib_10'"),
        (["control"], "the control 'control' cannot be held out"),
        ({"control": None}, "the control 'control' cannot be held out"),
        ({"Belinostat": "high"}, "'high' is not a dose"),
        ({"Belinostat": None, "Abemaciclib": None}, "every perturbed condition"),
        (3, "hold_out=3 is neither"),
    ],
)
def test_what_cannot_be_held_out_is_refused(hold_out: Any, message: str, ready: ad.AnnData) -> None:
    raw = drug_cells()
    for adata, call in (
        (ready, pp.hold_out),
        (raw, lambda a, hold_out: pp.prepare(a, hold_out=hold_out, **SMALL)),
    ):
        before = snapshot(adata)
        with pytest.raises((ValueError, TypeError), match=message):
            call(adata, hold_out=hold_out)
        assert_unchanged(adata, before)


def test_validation_cells_are_a_tenth_of_every_training_condition(ready: ad.AnnData) -> None:
    pp.hold_out(ready, hold_out={"Belinostat": 10})
    counts = pd.crosstab(ready.obs["gim_condition"], ready.obs["gim_split"])
    assert counts.loc["control"].tolist() == [43, 5, 0]
    assert counts.loc["Belinostat_10"].tolist() == [0, 0, 24]
    assert counts.loc["Belinostat_100"].tolist() == [22, 2, 0]


def test_holding_out_changes_no_other_validation_cell(ready: ad.AnnData) -> None:
    before = ready.obs["gim_split"].copy()
    pp.hold_out(ready, hold_out={"Belinostat": 10})
    others = ready.obs["gim_condition"] != "Belinostat_10"
    assert ready.obs["gim_split"][others].tolist() == before[others].tolist()
    pp.hold_out(ready, hold_out=None)
    assert ready.obs["gim_split"].tolist() == before.tolist()


def test_no_validation_cells_on_request() -> None:
    found = pp.prepare(drug_cells(), copy=True, valid_fraction=0, **SMALL)
    assert (found.obs["gim_split"] == "train").all()


def test_held_out_cells_have_no_influence_on_the_genes() -> None:
    """Scramble the held-out cells: nothing about the genes changes."""
    adata = drug_cells()
    scrambled = adata.copy()
    rows = ((adata.obs["perturbation"] == "Belinostat") & (adata.obs["dose"] == 1000)).to_numpy()
    scrambled.X[rows] = np.random.default_rng(1).poisson(20, size=(rows.sum(), adata.n_vars))
    hold_out = {"Belinostat": 1000}
    one, two = (pp.prepare(a, copy=True, hold_out=hold_out, **SMALL) for a in (adata, scrambled))
    pd.testing.assert_frame_equal(one.var, two.var)
    np.testing.assert_array_equal(one.X[~rows], two.X[~rows])
    # Without hold_out they do have an influence, or this test would prove nothing.
    three, four = (pp.prepare(a, copy=True, **SMALL) for a in (adata, scrambled))
    assert not three.var["gim_score"].equals(four.var["gim_score"])


def test_a_dose_held_out_for_all_drugs_loses_its_column(ready: ad.AnnData) -> None:
    pp.hold_out(ready, hold_out={"Abemaciclib": 100, "Belinostat": 100})
    entry = ready.uns["gim"]
    assert "dose=100" not in list(entry["feature_names"])
    row = entry["features"][entry["parts"]["part"].tolist().index("Belinostat_100")]
    np.testing.assert_allclose(row, [0, 1, 0.5, 0.5, 0.625])
    pp.hold_out(ready, hold_out=None)
    assert "dose=100" in list(ready.uns["gim"]["feature_names"])


def test_a_fit_does_not_outlive_its_split(ready: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    ready.uns["gim"] |= {"graph": pd.DataFrame(), "targets": pd.DataFrame()}
    ready.uns["gim"]["params"]["fit"] = {"seed": 0}
    ready.varm["gim_target_prob"] = np.zeros((ready.n_vars, 7))
    with caplog.at_level(logging.INFO, logger="scgim"):
        pp.hold_out(ready, hold_out={"Belinostat": 10})
    assert not {"graph", "targets"} & set(ready.uns["gim"])
    assert "fit" not in ready.uns["gim"]["params"]
    assert "gim_target_prob" not in ready.varm
    assert "earlier fit is removed" in caplog.text
    assert "genes chosen again" in caplog.text


def test_groups_together_or_one_by_one() -> None:
    adata = drug_cells(lines=("A", "B"))
    pp.prepare(adata, groupby="line", **SMALL)
    pp.hold_out(adata, hold_out={"Belinostat": 10})
    assert held_out(adata, "gim_A") == held_out(adata, "gim_B") == ["Belinostat_10"]
    pp.hold_out(adata, hold_out={"Belinostat": 100}, group="B")
    assert (held_out(adata, "gim_A"), held_out(adata, "gim_B")) == (["Belinostat_10"], ["Belinostat_100"])
    with pytest.raises(KeyError, match="the groups are 'A', 'B'"):
        pp.hold_out(adata, hold_out=None, group="C")


@pytest.mark.parametrize("step", [pp.hold_out, pp.features, pp.select_markers])
def test_steps_need_prepare(step: Any) -> None:
    adata = drug_cells()
    kwargs = {"hold_out": None} if step is pp.hold_out else {}
    with pytest.raises(KeyError, match=r"adata.uns\['gim'\] was not found: run scgim.pp.prepare"):
        step(adata, **kwargs)
    pp.prepare(adata, **SMALL)
    with pytest.raises(KeyError, match="Prepared keys are: 'gim'"):
        step(adata, key="other", **kwargs)
    adata.uns["gim"]["format"] = 99
    with pytest.raises(ValueError, match="newer version"):
        step(adata, **kwargs)


def test_the_steps_do_what_prepare_does(ready: ad.AnnData) -> None:
    adata = drug_cells()
    adata.X = ready.X.copy()
    pp.conditions(adata, dose_key="dose")
    pp.select_markers(adata, n_genes=8, n_top_genes=20, min_cells=5)
    pp.features(adata, features="auto")
    pp.hold_out(adata, hold_out=None)
    pd.testing.assert_frame_equal(adata.var, ready.var)
    pd.testing.assert_frame_equal(adata.obs, ready.obs)
    one, two = adata.uns["gim"], ready.uns["gim"]
    for name in ("conditions", "parts", "membership", "features", "feature_names", "feature_spec"):
        assert_same(one[name], two[name])


def test_features_and_genes_can_be_chosen_again(ready: ad.AnnData) -> None:
    pp.hold_out(ready, hold_out={"Belinostat": 10})
    pp.features(ready, features="fingerprint", smiles_key="smiles")
    assert ready.uns["gim"]["feature_names"][0].startswith("morgan_")
    summary = ready.uns["gim"]["summary"].set_index("item")["n"]
    assert summary["features per part"] == len(ready.uns["gim"]["feature_names"])
    assert held_out(ready) == ["Belinostat_10"]
    pp.select_markers(ready, genes=["GENE1", "GENE5"], min_cells=1)
    assert ready.var_names[ready.var["gim"]].tolist() == ["GENE1", "GENE5"]
    pp.hold_out(ready, hold_out=None)
    assert ready.uns["gim"]["feature_spec"]["kind"] == "fingerprint"


def test_a_step_on_a_view_leaves_the_parent_alone(ready: ad.AnnData) -> None:
    before = snapshot(ready)
    view = ready[::-1]
    pp.hold_out(view, hold_out={"Belinostat": 10})
    assert held_out(view) == ["Belinostat_10"]
    assert_unchanged(ready, before)
    with pytest.raises(ValueError, match=r"adata has \d+ of the \d+ cells.*run scgim\.pp\.prepare again"):
        pp.hold_out(ready[: ready.n_obs - 3], hold_out=None)
