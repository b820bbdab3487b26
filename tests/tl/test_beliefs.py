"""What is believed before the data: it tips what the cells leave open, is overruled, stored, and checked first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_fits import GENES, QUICK, drug_cells, fitted, prepared, prepared_counts

import scgim
from scgim._errors import InvalidType, InvalidValue, NotFound
from scgim.data import PerturbationData
from scgim.inference import TrainingData, build, find_structure, make_config, resolve_sparsity
from scgim.inference.beliefs import informed
from scgim.inference.counts import find_latent_structure
from scgim.slots import read_entry
from scgim.tl._beliefs import Beliefs, read_tables

pytestmark = pytest.mark.usefixtures("quick_fits")

MECHANISMS = [("continuous", "linear"), ("continuous", "mlp"), ("log1p", "ziln")]


def table(*rows, name: str = "probability") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["source", "target", name])


def edges_of(adata) -> set[tuple[str, str]]:
    return set(scgim.get.graph(adata).edges)


def fit(adata, **arguments):
    scgim.tl.fit_gim(adata, **{**QUICK, **arguments})
    return adata


def some_cells(kind: str, mechanism: str):
    return prepared_counts(n_genes=5) if kind == "counts" else prepared(kind)


@pytest.mark.parametrize(("kind", "mechanism"), [*MECHANISMS, ("counts", "count")])
def test_certain_edges_are_there_and_forbidden_ones_are_not(kind, mechanism):
    adata = some_cells(kind, mechanism)
    fit(adata, mechanism=mechanism, prior_edges=table(("g4", "g2", 1), ("g3", "g0", 1.0), ("g0", "g1", 0)))
    found = edges_of(adata)
    assert {("g4", "g2"), ("g3", "g0")} <= found
    assert ("g0", "g1") not in found
    other = fit(some_cells(kind, mechanism), mechanism=mechanism)
    assert ("g4", "g2") not in edges_of(other)  # the cells say nothing of it


@pytest.mark.parametrize(("kind", "mechanism"), MECHANISMS)
def test_a_forbidden_cause_is_forbidden_in_the_random_start_too(kind, mechanism):
    no = pd.DataFrame(False, GENES, GENES)
    no.loc["g0"] = True
    adata = fit(prepared(kind), mechanism=mechanism, preset="paper", max_steps=30, forbidden_edges=no)
    assert not scgim.get.graph(adata).out_degree("g0")
    assert adata.varp["gim_edge_prob"].toarray()[adata.var_names.get_loc("g0")].max() == 0


def test_what_the_cells_say_clearly_is_found_against_beliefs():
    wrong = table(("g4", "g0", 0.9), ("g4", "g1", 0.9), ("g0", "g1", 0.01), ("g2", "g1", 0.9))
    adata = fit(prepared(n=60), mechanism="linear", prior_edges=wrong, max_steps=60)
    assert edges_of(adata) == {("g0", "g1"), ("g1", "g2")}


def test_a_belief_decides_where_cells_do_not():
    """No perturbation acts on g1 or g2: which causes which, only a belief tells."""
    cells = drug_cells(n=40)
    cells = cells[cells.obs["perturbation"].isin(["control", "C"])].copy()
    for cause, effect in (("g1", "g2"), ("g2", "g1")):
        adata = cells.copy()
        scgim.pp.prepare(adata, dose_key="dose", input="continuous", genes=["g1", "g2", "g3"], min_cells=1)
        fit(adata, mechanism="linear", max_steps=60, prior_edges=table((cause, effect, 0.9)))
        assert (cause, effect) in edges_of(adata)
        assert (effect, cause) not in edges_of(adata)


def found_targets(mechanism: str, prior_targets=None, shift: float = 0.3, n: int = 20) -> pd.DataFrame:
    """Targets that the search finds, conditions x genes: A acts on g0, B on g1, C on g3 and, weakly, on g4."""
    if mechanism == "count":
        adata = prepared_counts(n_genes=5, n=n)
    else:
        adata = drug_cells(n=n)
        adata.X[:, 4] += shift * (adata.obs["perturbation"] == "C").to_numpy()
        scgim.pp.prepare(adata, dose_key="dose", input="continuous", genes=GENES, min_cells=1)
    entry = read_entry(adata)
    cells = PerturbationData.from_anndata(adata, counts=mechanism == "count")
    believed = Beliefs.of(entry, **read_tables(None, None, prior_targets)).targets
    data = TrainingData.of(replace(cells, prior_targets=believed)).sorted_by_cell()
    config = resolve_sparsity(make_config(mechanism=mechanism), data)
    data, rng = informed(data, config), np.random.default_rng(0)
    if mechanism == "count":
        gim = build(config, data, rng)
        found = find_latent_structure(config, data, gim.counting, rng, lambda text: None).odds > 0
    else:
        found = find_structure(config, data, rng, lambda text: None).targets
    return pd.DataFrame(np.asarray(found, dtype=bool), entry.labels, entry.genes)


@pytest.mark.parametrize("mechanism", ["linear", "mlp"])
def test_a_belief_decides_on_a_weak_target(mechanism):
    plain = found_targets(mechanism)
    likely, unlikely = (found_targets(mechanism, {"C": {"g4": p}}) for p in (0.95, 1e-4))
    assert unlikely.loc[["C_1", "C_10"], "g4"].sum() <= plain.loc[["C_1", "C_10"], "g4"].sum()
    assert likely.loc[["C_1", "C_10"], "g4"].sum() > unlikely.loc[["C_1", "C_10"], "g4"].sum()
    pd.testing.assert_frame_equal(likely.drop(columns="g4"), plain.drop(columns="g4"))


@pytest.mark.parametrize("mechanism", ["linear", "mlp", "count"])
def test_a_wrong_belief_of_a_target_is_overruled(mechanism):
    wrong = {"A": {"g0": 0.2, "g4": 0.8}, "B_10": {"g2": 0.8}}
    found, plain = (found_targets(mechanism, told, shift=0.0, n=60) for told in (wrong, None))
    pd.testing.assert_frame_equal(found, plain)
    assert found.loc["A_10", "g0"]


def test_a_belief_of_a_target_reaches_the_probabilities():
    """The networks learn what the search found, and the objective holds it."""
    short = {"mechanism": "linear", "max_steps": 100, "warmup_steps": 20}
    told = [fit(prepared(n=20), **short, prior_targets={"C": {"g4": p}}).varm["gim_target_prob"] for p in (0.5, 1e-4)]
    assert told[0][4, 5:].sum() > told[1][4, 5:].sum()


@pytest.mark.parametrize(("kind", "mechanism"), [("continuous", "mlp"), ("counts", "count")])
def test_an_empty_belief_changes_nothing(kind, mechanism):
    """Of 1 / genes squared, and 1 / genes, which is what is assumed without."""
    n = 5
    plain = fit(some_cells(kind, mechanism), mechanism=mechanism)
    edges, targets = table(("g0", "g4", 1 / (1 + n**2))), {"A": {"g4": 1 / (1 + n)}}
    told = fit(some_cells(kind, mechanism), mechanism=mechanism, prior_edges=edges, prior_targets=targets)
    np.testing.assert_allclose(told.varp["gim_edge_prob"].toarray(), plain.varp["gim_edge_prob"].toarray(), atol=1e-3)
    np.testing.assert_allclose(told.varm["gim_target_prob"], plain.varm["gim_target_prob"], atol=1e-3)


def test_the_order_of_genes_has_no_part():
    believed = {
        "prior_edges": table(("g4", "g2", 0.9), ("g3", "g1", 1)),
        "prior_targets": {"A_10": {"g4": 0.9}, "B": {"g2": 0.8}},
    }
    shuffled = ["g3", "other", "g0", "g4", "g2", "g1"]
    first, second = drug_cells(), drug_cells()[:, shuffled].copy()
    for adata in (first, second):
        scgim.pp.prepare(adata, dose_key="dose", input="continuous", genes=GENES, min_cells=1)
        fit(adata, mechanism="mlp", **believed)
    edges = [adata[:, shuffled].varp["gim_edge_prob"].toarray() for adata in (first, second)]
    np.testing.assert_array_equal(*edges)
    np.testing.assert_array_equal(first[:, shuffled].varm["gim_target_prob"], second.varm["gim_target_prob"])


def test_networks_with_weights_and_from_files(tmp_path, caplog):
    """As of CollecTRI: weights of both signs, most genes unknown; and the same from a file."""
    network = table(("g4", "g2", -1.0), ("g0", "g1", 0.5), ("MYC", "g1", 1.0), ("g1", "g1", 1.0), name="weight")
    adata = fit(prepared(), prior_edges=network, mechanism="linear")
    (said,) = [r.message for r in caplog.records if "prior_edges" in r.message]
    assert "2 of 4 rows" in said and "'MYC'" in said
    stored = scgim.get.params(adata)["fit"]["prior_edges"]
    assert set(map(tuple, stored.to_numpy().tolist())) == {("g4", "g2", 0.5), ("g0", "g1", 0.25)}
    network.to_csv(tmp_path / "network.csv", index=False)
    pd.DataFrame({"g4": [0.9]}, index=["A"]).to_csv(tmp_path / "targets.tsv", sep="\t")
    again = fit(
        prepared(),
        mechanism="linear",
        prior_edges=tmp_path / "network.csv",
        prior_targets=str(tmp_path / "targets.tsv"),
    )
    pd.testing.assert_frame_equal(scgim.get.params(again)["fit"]["prior_edges"], stored)
    about = scgim.get.params(again)["fit"]["prior_targets"]
    assert about.to_numpy().tolist() == [["A_1", "g4", 0.9], ["A_10", "g4", 0.9]]


def test_what_was_believed_survives_a_file(tmp_path):
    import anndata as ad

    no = pd.DataFrame({"source": ["g1"], "target": ["g0"]})
    believed = {"prior_edges": table(("g4", "g2", 0.7)), "forbidden_edges": no, "prior_targets": {"A": {"g4": 0.3}}}
    adata = fitted(fit={"mechanism": "linear", **believed})
    adata.write_h5ad(tmp_path / "fit.h5ad")
    kept = scgim.get.params(ad.read_h5ad(tmp_path / "fit.h5ad"))["fit"]
    assert kept["prior_edges"].to_numpy().tolist() == [["g4", "g2", 0.7]]
    assert kept["forbidden_edges"].to_numpy().tolist() == [["g1", "g0"]]
    assert kept["prior_targets"]["part"].tolist() == ["A_1", "A_10"]
    assert scgim.get.params(fitted(fit={"mechanism": "linear"}))["fit"]["prior_edges"] is None


WRONG = [
    ({"prior_edges": table(("g0", "g1", 1.2))}, "1 value not a probability"),
    ({"prior_edges": table(("g0", "g1", -0.1))}, "between 0 and 1"),
    ({"prior_edges": table(("g0", "g1", np.nan))}, "not a probability"),
    ({"prior_edges": table(("g0", "g1", 1), ("g1", "g2", 1), ("g2", "g0", 1))}, "g0 -> g1 -> g2 -> g0"),
    ({"prior_edges": table()}, "empty"),
    ({"prior_edges": table(("g0", "g1", 0.5)).rename(columns={"source": "tf"})}, "'source'"),
    ({"prior_edges": table(("g0", "g1", 0.5), name="p")}, "'probability' nor 'weight'"),
    ({"prior_edges": table(("g0", "g1", 0.0), name="weight")}, "not all 0"),
    ({"prior_edges": table(("G0", "G1", 0.5))}, "Did you mean 'g0'"),
    ({"prior_edges": table((None, "g1", 0.5))}, "without a source"),
    ({"prior_edges": "nowhere.csv"}, "is no file"),
    ({"prior_edges": {"g0": "g1"}}, "must be a pandas.DataFrame"),
    ({"forbidden_edges": pd.DataFrame(False, GENES, GENES)}, "False everywhere"),
    ({"prior_edges": table(("g0", "g1", 1)), "forbidden_edges": table(("g0", "g1", 1))}, "g0 -> g1"),
    ({"prior_targets": {"A": {"g0": 7}}}, "not a probability"),
    ({"prior_targets": {"A": {"g0": "yes"}}}, "not a probability"),
    ({"prior_targets": {"Z": {"g0": 0.5}}}, "there is no perturbation 'Z'"),
    ({"prior_targets": {"A": {"nothing": 0.5}}}, "none of the 1 columns"),
    ({"prior_targets": {}}, "empty"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG, ids=[says for _, says in WRONG])
def test_bad_beliefs_are_refused_before_any_work(wrong, says):
    adata = prepared()
    before = {"uns": adata.uns["gim"]["state_sha256"], "varp": list(adata.varp), "varm": list(adata.varm)}
    with pytest.raises((InvalidValue, InvalidType, NotFound), match=says):
        scgim.tl.fit_gim(adata, hold_out={"A": 10.0}, max_steps=10**9, progress=False, **wrong)
    assert before == {"uns": adata.uns["gim"]["state_sha256"], "varp": list(adata.varp), "varm": list(adata.varm)}
