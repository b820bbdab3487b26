"""Control, observed and predicted cells on one map."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from example_fit import HELD_OUT, gene_names, make_fit
from figure_checks import assert_legible, assert_same_adata
from process_state import state

import scgim


def test_the_table_has_every_source_and_no_more_cells_than_asked(fitted, predicted):
    table = scgim.get.embedding(fitted, predicted, condition=HELD_OUT, n_cells=60)
    n_observed = int((fitted.obs["gim_condition"] == HELD_OUT).sum())
    expected = {"control": 60, "observed": min(60, n_observed), "predicted": 60}
    assert table["source"].value_counts().to_dict() == expected
    assert set(table.loc[table["source"] == "control", "condition"]) == {"control"}
    observed = table.index[table["source"] == "observed"]
    assert (fitted.obs.loc[observed, "gim_condition"] == HELD_OUT).all()
    assert 0 < table.attrs["variance"][1] <= table.attrs["variance"][0] < 1


def test_predicted_cells_do_not_turn_the_axes(fitted, predicted):
    other = predicted.copy()
    other.X = other.X + 5.0
    tables = [scgim.get.embedding(fitted, cells, condition=HELD_OUT) for cells in (predicted, other)]
    seen = [table.loc[table["source"] != "predicted", ["x", "y"]] for table in tables]
    pd.testing.assert_frame_equal(*seen)
    assert not np.allclose(tables[0]["x"], tables[1]["x"])


def test_the_first_component_is_that_of_scanpy(fitted, predicted):
    """On the same cells: control and observed, all of them."""
    import scanpy as sc

    table = scgim.get.embedding(fitted, predicted, condition=HELD_OUT, n_cells=10_000)
    seen = table[table["source"] != "predicted"]
    cells = fitted[seen.index, gene_names(50)].copy()
    sc.pp.pca(cells, n_comps=2, svd_solver="arpack")
    for i, column in enumerate(("x", "y")):
        assert abs(np.corrcoef(cells.obsm["X_pca"][:, i], seen[column])[0, 1]) > 0.999


def test_the_same_seed_draws_the_same_cells(fitted, predicted):
    first, again, other = (
        scgim.get.embedding(fitted, predicted, condition=HELD_OUT, n_cells=20, rng=seed) for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert list(first.index) != list(other.index)


@pytest.mark.slow
def test_umap_tells_control_from_drug(fitted, predicted):
    np.random.seed(3)  # noqa: NPY002 (the user's state, which must stay)
    drawn = np.random.random(4)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    table = scgim.get.embedding(fitted, predicted, condition=HELD_OUT, method="umap", n_cells=60)
    np.testing.assert_array_equal(np.random.random(4), drawn)  # noqa: NPY002
    assert np.isfinite(table[["x", "y"]]).all(axis=None)
    assert len(table.drop_duplicates(["x", "y"])) > 0.9 * len(table)
    before = state()
    ax = scgim.pl.embedding(fitted, predicted, condition=HELD_OUT, method="umap", n_cells=60)
    after = state()
    for what, value in before.items():
        assert after[what] == value, what
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP1", "UMAP2")
    assert_legible(ax.figure)


def test_the_figure_shows_the_table(fitted, predicted, tmp_path):
    ax = scgim.pl.embedding(fitted, predicted, condition=HELD_OUT, save=tmp_path / "cells.svg")
    table = scgim.get.embedding(fitted, predicted, condition=HELD_OUT)
    for source in ("control", "observed", "predicted"):
        (dots,) = [c for c in ax.collections if c.get_gid() == source]
        np.testing.assert_allclose(dots.get_offsets(), table.loc[table["source"] == source, ["x", "y"]])
    shares = table.attrs["variance"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"PC1 ({shares[0]:.0%})", f"PC2 ({shares[1]:.0%})")
    assert "<svg" in (tmp_path / "cells.svg").read_text()


def test_a_condition_never_observed_has_no_observed_cells(fitted, predicted):
    cells = predicted[predicted.obs["condition"] == HELD_OUT].copy()
    cells.obs["condition"] = "Dacinostat_3000"
    table = scgim.get.embedding(fitted, cells)
    assert set(table["source"]) == {"control", "predicted"}
    assert_legible(scgim.pl.embedding(fitted, cells).figure)


def test_axes_of_the_user_keep_what_they_hold(fitted, predicted):
    figure, ax = plt.subplots()
    line = ax.axvline(1.0)
    assert scgim.pl.embedding(fitted, predicted, condition=HELD_OUT, ax=ax) is ax
    assert line in ax.lines
    assert plt.get_fignums() == [figure.number]


def test_nothing_is_written(fitted, predicted):
    before, sampled = fitted.copy(), predicted.copy()
    scgim.pl.embedding(fitted, predicted, condition=HELD_OUT)
    assert_same_adata(fitted, before)
    assert_same_adata(predicted, sampled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "16 conditions: pass condition="),
        ({"condition": HELD_OUT, "method": "tsne"}, "method='tsne' is unknown"),
        ({"condition": HELD_OUT, "n_cells": 1}, "n_cells must be at least 2"),
    ],
)
def test_errors_say_what_to_do(fitted, predicted, change, message):
    with pytest.raises(ValueError, match=message):
        scgim.pl.embedding(fitted, predicted, **change)
    assert plt.get_fignums() == []


def test_one_gene_has_no_two_dimensions():
    adata, predicted = make_fit(genes=["A"], edges=0, cells=5, control_cells=5)
    with pytest.raises(ValueError, match="two genes at least"):
        scgim.pl.embedding(adata, predicted, condition=HELD_OUT)


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_legible(fitted, predicted, style):
    with plt.style.context(style):
        assert_legible(scgim.pl.embedding(fitted, predicted, condition=HELD_OUT).figure)
