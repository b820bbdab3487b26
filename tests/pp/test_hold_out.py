"""Holding out later is holding out at once, in one group or several; cells can be held out, too."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from example_cells import SMALL, assert_same, assert_unchanged, drug_cells, snapshot

from scgim import pp, tl

pytestmark = pytest.mark.usefixtures("quick_fits")

HELD = {"Belinostat": 1000}


def slots(adata: AnnData) -> dict[str, Any]:
    """Everything of an AnnData but the record, whose checksum stands for it."""
    found = snapshot(adata)
    for entry in found["uns"].values():
        entry.pop("state", None)
        if "params" in entry:
            entry["params"].pop("versions")
    return found


def log_cells(**kwargs: Any) -> AnnData:
    adata = drug_cells(**kwargs)
    adata.X = np.log1p(adata.X)
    return adata


def continuous_cells() -> AnnData:
    adata = drug_cells()
    adata.X = np.log1p(adata.X) - 1
    return adata


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (drug_cells, {}),
        (drug_cells, {"genes": ["GENE1", "GENE5", "GENE7"]}),
        (drug_cells, {"genes": "all", "min_cells": 100}),
        (drug_cells, {"features": "potency"}),
        (drug_cells, {"features": "rescaled", "test_fraction": 0.2}),
        (log_cells, {"input": "log1p", "features": "potency"}),
        (continuous_cells, {"input": "continuous"}),
        (lambda: drug_cells(lines=("u", "v")), {"groupby": "line"}),
        (lambda: drug_cells(lines=("u", "v")), {"groupby": "line", "features": "potency"}),
    ],
)
@pytest.mark.parametrize("held", [HELD, {"Belinostat": None}])
def test_holding_out_later_is_holding_out_at_once(make: Any, arguments: dict[str, Any], held: Any) -> None:
    at_once, later = make(), make()
    pp.prepare(at_once, hold_out=held, **(SMALL | arguments))
    pp.prepare(later, **(SMALL | arguments))
    before = slots(later)
    pp.hold_out(later, hold_out=held)
    assert_same(slots(later), slots(at_once))
    pp.hold_out(later, hold_out=None)
    assert_same(slots(later), before)


def test_held_out_cells_choose_no_gene_of_a_fit() -> None:
    """One gene responds to the held-out conditions alone: it is a marker with it, and none without."""
    adata = drug_cells()
    adata.X[np.ix_((adata.obs["perturbation"] == "Belinostat").to_numpy(), [20])] *= 12
    pp.prepare(adata, **SMALL)
    assert adata.var.loc["GENE20", "gim"]
    tl.fit_gim(adata, hold_out={"Belinostat": None}, max_steps=3, progress=False)
    assert not adata.var.loc["GENE20", "gim"]
    assert not np.isnan(adata.varm["gim_target_prob"][adata.var["gim"].to_numpy()]).any()


def test_an_error_of_a_fit_puts_the_genes_back() -> None:
    adata = drug_cells()
    adata.X[np.ix_((adata.obs["perturbation"] == "Belinostat").to_numpy(), [20])] *= 12
    pp.prepare(adata, **SMALL)
    before = snapshot(adata)
    with pytest.raises(ValueError, match="no perturbation 'nobody'"):
        tl.fit_gim(adata, hold_out={"Belinostat": None}, known_targets={"nobody": "GENE1"}, max_steps=3, progress=False)
    assert_unchanged(adata, before)


def test_the_arguments_used_last_choose_the_genes() -> None:
    first, second = drug_cells(), drug_cells()
    pp.prepare(first, **SMALL)
    pp.select_markers(first, n_genes=4, n_top_genes=12, min_cells=3)
    pp.hold_out(first, hold_out=HELD)
    pp.prepare(second, hold_out=HELD, **(SMALL | {"n_genes": 4, "n_top_genes": 12, "min_cells": 3}))
    pd.testing.assert_frame_equal(first.var, second.var)
    assert_same(first.uns["gim"]["summary"], second.uns["gim"]["summary"])


def test_where_genes_cannot_be_chosen_again_it_says_where_to_hold_out() -> None:
    adata = drug_cells()
    pp.prepare(adata, **SMALL)
    few = adata[:, adata.var["gim"]].copy()
    before = snapshot(few)
    with pytest.raises(ValueError, match=r"chosen from 30, of which adata has 8.*hold_out= to scgim.pp.prepare"):
        pp.hold_out(few, hold_out=HELD)
    assert_unchanged(few, before)
    named = drug_cells()
    pp.prepare(named, **(SMALL | {"genes": ["GENE1", "GENE5"]}))
    named = named[:, named.var["gim"]].copy()
    pp.hold_out(named, hold_out=HELD)
    assert named.var["gim"].all()


def lines_without(drug: str) -> AnnData:
    """Two cell lines, of which the second never saw one drug."""
    adata = drug_cells(lines=("u", "v"))
    return adata[~((adata.obs["perturbation"] == drug) & (adata.obs["line"] == "v")).to_numpy()].copy()


def test_what_one_group_lacks_is_skipped_there(caplog: pytest.LogCaptureFixture) -> None:
    at_once, later = lines_without("Belinostat"), lines_without("Belinostat")
    with caplog.at_level(logging.INFO, logger="scgim"):
        pp.prepare(at_once, groupby="line", hold_out=HELD, **SMALL)
    assert "hold_out in group 'v': there is no condition 'Belinostat_1000'" in caplog.text
    pp.prepare(later, groupby="line", **SMALL)
    pp.hold_out(later, hold_out=HELD)
    by_label = lines_without("Belinostat")
    pp.prepare(by_label, groupby="line", hold_out=["Belinostat_1000"], **SMALL)
    for adata in (at_once, later, by_label):
        held = [(adata.uns[f"gim_{line}"]["conditions"]["split"] == "test").sum() for line in "uv"]
        assert held == [1, 0]
    before = snapshot(later)
    for wrong in ({"Belinostat": 55}, ["Abemaciclib_10", "Nobody_10"]):
        with pytest.raises(ValueError, match=r"in group 'u'.*conditions are"):
            pp.hold_out(later, hold_out=wrong)
        with pytest.raises(ValueError, match=r"in group 'u'.*conditions are"):
            pp.prepare(lines_without("Belinostat"), groupby="line", hold_out=wrong, **SMALL)
    with pytest.raises(ValueError, match="there is no condition"):
        pp.hold_out(later, hold_out=HELD, group="v")
    assert_unchanged(later, before)


def test_several_columns_make_one_group() -> None:
    adata = drug_cells(lines=("u", "v"))
    adata.obs["time"] = np.where(np.arange(adata.n_obs) % 2, 24.0, 72.0)
    adata.obs.loc[adata.obs_names[0], "time"] = np.nan
    joined = adata.copy()
    joined.obs["group"] = [f"{a}_{b:g}" for a, b in zip(adata.obs["line"], adata.obs["time"], strict=True)]
    joined.obs.loc[joined.obs_names[0], "group"] = None
    pp.prepare(adata, groupby=["line", "time"], **(SMALL | {"min_cells_per_condition": 3}))
    pp.prepare(joined, groupby="group", **(SMALL | {"min_cells_per_condition": 3}))
    assert list(adata.uns["gim"]["groups"]) == ["u_24", "u_72", "v_24", "v_72"]
    assert list(adata.uns["gim"]["groupby"]) == ["line", "time"]
    np.testing.assert_array_equal(adata.X, joined.X)
    for group in ("u_24", "v_72"):
        assert adata.obs[f"gim_{group}_split"].tolist() == joined.obs[f"gim_{group}_split"].tolist()
    tl.fit_gim(adata, groupby=["line", "time"], group="u_24", max_steps=3, progress=False)
    new = tl.sample_cells(adata, perturbations=[("Belinostat", 10)], group="u_24", n=5)
    assert new.obs["line_time"].tolist() == ["u_24"] * 5


def test_cells_of_every_condition_are_held_out() -> None:
    adata, plain = drug_cells(), drug_cells()
    pp.prepare(plain, **SMALL)
    pp.prepare(adata, test_fraction=0.25, **SMALL)
    counts = pd.crosstab(adata.obs["gim_condition"], adata.obs["gim_split"])
    assert counts.loc["control"].tolist() == [31, 5, 12]
    assert (counts.drop(index="control").to_numpy() == [16, 2, 6]).all()
    assert (adata.uns["gim"]["conditions"]["split"] == "train").all()
    # The validation cells are the same, and the draw does not depend on the order of the cells.
    assert ((adata.obs["gim_split"] == "valid") == (plain.obs["gim_split"] == "valid")).all()
    turned = drug_cells()[::-1].copy()
    pp.prepare(turned, test_fraction=0.25, **SMALL)
    assert turned.obs["gim_split"].to_dict() == adata.obs["gim_split"].to_dict()
    pp.hold_out(plain, hold_out=None, test_fraction=0.25)
    assert_same(slots(plain), slots(adata))
    # A later choice of conditions keeps it.
    pp.hold_out(plain, hold_out=HELD)
    counts = pd.crosstab(plain.obs["gim_condition"], plain.obs["gim_split"])
    assert counts.loc["Belinostat_1000"].tolist() == [0, 0, 24]
    assert counts.loc["Belinostat_10"].tolist() == [16, 2, 6]


@pytest.mark.parametrize("features", ["auto", "potency"])
def test_held_out_cells_have_no_influence(features: str) -> None:
    adata = drug_cells()
    pp.prepare(adata, test_fraction=0.25, features=features, **SMALL)
    scrambled = drug_cells()
    rows = np.flatnonzero((adata.obs["gim_split"] == "test") & (adata.obs["gim_condition"] != "control"))
    scrambled.X[rows] = np.random.default_rng(1).poisson(20, size=(len(rows), adata.n_vars))
    pp.prepare(scrambled, test_fraction=0.25, features=features, **SMALL)
    pd.testing.assert_frame_equal(adata.var, scrambled.var)
    np.testing.assert_array_equal(adata.uns["gim"]["features"], scrambled.uns["gim"]["features"])


def test_evaluate_compares_with_cells_that_were_held_out() -> None:
    adata = drug_cells()
    pp.prepare(adata, test_fraction=0.25, **SMALL)
    table = tl.evaluate(adata, baselines=["mean_shift"], metrics="mean_distance").query("method == 'mean_shift'")
    assert sorted(table["condition"]) == sorted(adata.uns["gim"]["conditions"]["condition"].iloc[1:])
    assert (table["n_true"] == 6).all()
    named = tl.evaluate(adata, baselines=["mean_shift"], metrics="mean_distance", conditions=["Belinostat_10"])
    assert named["n_true"].tolist() == [6, 3]  # and of two halves
    pp.hold_out(adata, hold_out=HELD, test_fraction=0.0)
    table = tl.evaluate(adata, baselines=["mean_shift"], metrics="mean_distance")
    assert table[["condition", "n_true"]].to_numpy().tolist() == [["Belinostat_1000", 24], ["Belinostat_1000", 12]]
