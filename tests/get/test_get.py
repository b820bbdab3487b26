"""Stored slots as objects."""

from __future__ import annotations

import importlib.metadata
import re

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from example_fit import DRUGS, HELD_OUT, gene_names, make_fit
from figure_checks import assert_same_adata
from small_fits import GENES, QUICK, prepared

import scgim
from scgim.slots.keys import FORMAT_VERSION

pytestmark = pytest.mark.usefixtures("quick_fits")


@pytest.fixture(scope="module")
def fitted() -> ad.AnnData:
    return make_fit(cells=5, control_cells=20)[0]


@pytest.fixture
def small() -> ad.AnnData:
    """Small enough to be changed by a test."""
    return make_fit(genes=gene_names(6), perturbations=DRUGS[:2], doses=(1.0, 2.0), cells=5, control_cells=5)[0]


def test_graph_has_every_gene_and_the_stored_edges(fitted):
    dag = scgim.get.graph(fitted)
    stored = fitted.uns["gim"]["graph"]
    assert list(dag) == gene_names(50)
    assert set(dag.edges) == set(zip(stored["source"], stored["target"], strict=True))
    for row in stored.itertuples():
        assert dag.edges[row.source, row.target]["probability"] == row.probability
    assert any(dag.degree(v) == 0 for v in dag)
    assert nx.is_directed_acyclic_graph(dag)


def test_graph_threshold_keeps_the_probable_edges(fitted):
    stored = fitted.uns["gim"]["graph"]
    cut = stored["probability"].median()
    dag = scgim.get.graph(fitted, threshold=cut)
    assert dag.number_of_edges() == (stored["probability"] >= cut).sum() < len(stored)
    assert len(dag) == 50
    with pytest.raises(ValueError, match="between 0 and 1"):
        scgim.get.graph(fitted, threshold=1.5)


def test_targets_are_tidy_and_filtered(fitted):
    table = scgim.get.targets(fitted)
    assert list(table.columns[:7]) == [
        "condition",
        "perturbation",
        "dose",
        "split",
        "gene",
        "probability",
        "is_target",
    ]
    assert len(table) == 16 * 50
    assert not table.duplicated(["condition", "gene"]).any()
    some = scgim.get.targets(fitted, perturbations="Dacinostat", genes=["KRT8", "SCD"])
    assert len(some) == 4 * 2
    assert set(some["perturbation"]) == {"Dacinostat"}
    assert some["dose"].unique().tolist() == [10, 100, 1000, 10000]
    one = scgim.get.targets(fitted, conditions=HELD_OUT)
    assert set(one["split"]) == {"test"}
    assert len(one) == 50
    called = scgim.get.targets(fitted, called_only=True)
    assert called["is_target"].all()
    assert len(called) == table["is_target"].sum() > 0
    probable = scgim.get.targets(fitted, min_probability=0.9)
    assert len(probable) == (table["probability"] >= 0.9).sum() > 0


def test_targets_is_a_new_table(fitted):
    before = fitted.copy()
    targets, history = scgim.get.targets(fitted), scgim.get.history(fitted)
    targets["probability"] = history["loss"] = 0.0
    scgim.get.graph(fitted).clear()
    assert_same_adata(fitted, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"genes": "CDKN1B"}, "Did you mean 'CDKN1A'"),
        ({"conditions": ["Dacinostat_1"]}, "Unknown condition 'Dacinostat_1'"),
        ({"perturbations": "dacinostat"}, "Did you mean 'Dacinostat'"),
        ({"genes": []}, "No gene was given"),
    ],
)
def test_unknown_names_come_with_alternatives(fitted, arguments, message):
    with pytest.raises(ValueError, match=message):
        scgim.get.targets(fitted, **arguments)


def test_history_is_the_recorded_arrays(fitted, small):
    table = scgim.get.history(fitted)
    assert table.columns[0] == "step"
    for name, values in fitted.uns["gim"]["history"].items():
        np.testing.assert_array_equal(table[name], values)
    small.uns["gim"]["history"]["loss"] = np.zeros(3)
    with pytest.raises(ValueError, match="different lengths"):
        scgim.get.history(small)


def test_everything_survives_a_file(fitted, tmp_path):
    fitted.write_h5ad(tmp_path / "fit.h5ad")
    read = ad.read_h5ad(tmp_path / "fit.h5ad")
    for name in ("targets", "history"):
        function = getattr(scgim.get, name)
        pd.testing.assert_frame_equal(function(read), function(fitted), check_dtype=False)
    assert nx.utils.graphs_equal(scgim.get.graph(read), scgim.get.graph(fitted))


def test_key_and_group_choose_the_fit():
    adata, _ = make_fit(genes=gene_names(5), key="mine", group="A549", cells=5, control_cells=5)
    assert len(scgim.get.graph(adata, key="mine", group="A549")) == 5
    with pytest.raises(ValueError, match="A549"):
        scgim.get.graph(adata, key="mine")
    with pytest.raises(KeyError, match="A549"):
        scgim.get.graph(adata, key="mine", group="K562")
    with pytest.raises(KeyError, match="mine"):
        scgim.get.graph(adata)


def _not_prepared(adata):
    del adata.uns["gim"]


def _from_the_future(adata):
    adata.uns["gim"]["format"] = FORMAT_VERSION + 1


def _from_the_past(adata):
    adata.uns["gim"]["format"] = FORMAT_VERSION - 1


def _no_record(adata):
    del adata.uns["gim"]["state"]


def _no_table(adata):
    for name in ("graph", "targets", "history"):
        del adata.uns["gim"][name]


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_not_prepared, KeyError, r"uns\['gim'\].*scgim.pp.prepare.*run scgim.tl.fit_gim"),
        (_from_the_future, ValueError, f"(?s)format {FORMAT_VERSION + 1}.*up to format {FORMAT_VERSION}.*upgrade"),
        (_from_the_past, ValueError, "of an earlier scgim.*fit_gim again"),
        (_no_record, ValueError, "'state'.*incomplete or changed"),
        (_no_table, KeyError, r"uns\['gim'\]\['(graph|targets|history)'\]"),
    ],
)
@pytest.mark.parametrize("function", [scgim.get.graph, scgim.get.targets, scgim.get.history])
def test_what_is_missing_is_named_with_its_remedy(small, function, damage, error, message):
    damage(small)
    with pytest.raises(error) as caught:
        function(small)
    assert re.search(message, str(caught.value.args[0])), caught.value


def test_prepared_but_not_fitted_is_said():
    with pytest.raises(KeyError, match=r"not fitted: run scgim\.tl\.fit_gim first"):
        scgim.get.graph(prepared())


def test_genes_removed_after_the_fit_are_named(small):
    cut = small[:, small.var_names != "TXNIP"].copy()
    with pytest.raises(ValueError, match="TXNIP"):
        scgim.get.graph(cut)


def test_the_tables_for_people_are_never_read_back_for_the_graph_and_the_targets(small):
    """Sorted, they give the same; a column of notes stays."""
    before = scgim.get.graph(small)
    small.uns["gim"]["graph"] = small.uns["gim"]["graph"].iloc[::-1].assign(note="")
    del small.uns["gim"]["conditions"], small.obs["gim_condition"], small.var["gim"]
    assert nx.utils.graphs_equal(scgim.get.graph(small), before)
    assert len(scgim.get.targets(small))


def test_params_are_what_was_given_before_and_after_a_file(tmp_path):
    adata = prepared(prepare={"hold_out": {"A": 10}})
    assert "fit" not in scgim.get.params(adata)
    scgim.tl.fit_gim(adata, known_targets={"B": ("g1", "g2")}, **QUICK)
    adata.write_h5ad(tmp_path / "fit.h5ad")
    read = ad.read_h5ad(tmp_path / "fit.h5ad")
    for each in (adata, read):
        found = scgim.get.params(each)
        assert set(found) == {"prepare", "fit", "versions", "target_sum"}
        assert found["prepare"]["layer"] is None
        assert found["prepare"]["hold_out"] == {"A": 10}
        assert list(found["prepare"]["genes"]) == GENES
        assert found["fit"]["hold_out"] is None
        assert found["fit"]["checkpoint"] is None
        assert found["fit"]["known_targets"] == {"B": ("g1", "g2")}
        assert found["fit"]["settings"]["network_hidden"] == QUICK["network_hidden"]
    changed = scgim.get.params(adata)
    changed["fit"]["settings"]["mechanism"] = "other"
    assert scgim.get.params(adata)["fit"]["settings"]["mechanism"] == "linear"
    with pytest.raises(KeyError, match="prepare"):
        scgim.get.params(adata, key="other")


def test_params_say_which_versions_prepared_and_fitted():
    versions = scgim.get.params(prepared())["versions"]
    for package in ("torch", "pyro-ppl", "anndata", "scanpy", "numpy"):
        assert versions[package] == importlib.metadata.version(package)
    assert versions["scgim"] == scgim.__version__


def test_targets_of_a_fit_behind_counts_are_told_in_expression(count_fit):
    """The effect of a called target is the mean that its cells have, of log1p of normalised counts."""
    table = scgim.get.targets(count_fit, called_only=True, conditions=["A_10", "C_10"]).set_index(["condition", "gene"])
    for label, gene in (("A_10", "g0"), ("C_10", "g3")):
        row = table.loc[(label, gene)]
        x = count_fit[count_fit.obs["gim_condition"] == label, gene].X.toarray()
        control = count_fit[count_fit.obs["gim_condition"] == "control", gene].X.toarray()
        assert row["effect"] == pytest.approx(x.mean(), abs=4 * x.std() / np.sqrt(len(x)))
        assert row["control_mean"] == pytest.approx(control.mean(), rel=1e-5)
        assert row["log2_fold_change"] == pytest.approx((row["effect"] - control.mean()) / np.log(2), rel=1e-4)
        assert row["direction"] == -1
    history = scgim.get.history(count_fit)
    assert history["edges"].nunique() == 1  # held
    assert np.isfinite(history[["loss", "valid_loss"]]).all(axis=None)
