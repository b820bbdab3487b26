"""The field's own suites: the tables say what they should, and the scripts run on tiny made-up files."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgim

pytestmark = pytest.mark.usefixtures("quick_fits")

BEST = {"good": 1.0, "bad": 0.0, "x_at_50": 1.0, "x_at_100": 1.0, "y_at_50": 1.0}


def long(values: dict[str, dict[str, float]]) -> pd.DataFrame:
    """method -> metric -> value, as `means` gives them."""
    rows = [(method, metric, 0, value) for method, own in values.items() for metric, value in own.items()]
    return pd.DataFrame(rows, columns=["method", "metric", "seed", "value"])


@pytest.fixture
def own(script) -> pd.DataFrame:
    observed = "GIM (a)" + script("cell_eval_tables").OBSERVED
    values = {
        "GIM (a)": {"good": 0.90, "bad": 2.0, "x_at_50": 0.5, "x_at_100": 0.5, "y_at_50": 0.5},
        observed: {"good": 0.10, "bad": 1.0, "x_at_50": 0.6, "x_at_100": 0.6, "y_at_50": 0.6},
        "ridge": {"good": 0.905, "bad": 1.5, "x_at_50": 0.5, "x_at_100": 0.5, "y_at_50": 0.5},
        "two halves": {"good": 1.0, "bad": 0.0, "x_at_50": 1.0, "x_at_100": 1.0, "y_at_50": 1.0},
    }
    return long(values)


def test_best_and_near_best_are_told_apart_from_the_others(script, own):
    tables = script("cell_eval_tables")
    near = tables.near_best(tables.matrix(own, BEST), BEST)
    assert near.columns.tolist() == ["GIM (a)", "GIM (a), observed control", "ridge"]  # halves are no method
    assert near.loc["good"].tolist() == [True, False, True]  # 0.90 is within 1 % of 0.905
    assert near.loc["bad"].tolist() == [False, True, False]
    same = own.assign(value=own["value"].where(own["metric"] != "good", 0.5))
    assert not tables.near_best(tables.matrix(same, BEST), BEST).loc["good"].any()
    assert tables.standing("data", same, BEST, observed=True)["metrics"] == 3


def test_metrics_of_a_family_that_agree_count_once(script, own):
    tables = script("cell_eval_tables")
    page = tables.shown(own, BEST)
    assert page["metric"].tolist() == ["good ↑", "bad ↓", "x_at_50, _100 ↑", "y_at_50 ↑"]
    assert page["ridge"].tolist() == ["**0.905**", "1.500", "0.500", "0.500"]
    row = tables.standing("data", own, BEST, observed=False)
    assert (row["metrics"], row["GIM (a)"], row["ridge"]) == (2, "1", "2")  # in x and y the two methods agree
    assert row["no GIM near the best in"] == "bad"
    row = tables.standing("data", own, BEST, observed=True)
    assert (row["metrics"], row["GIM (a)"], row["ridge"]) == (4, "3", "1")
    assert row["no GIM near the best in"] == "good"


def test_what_predicted_cells_are_like(script):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"condition": pd.Categorical(["no"] * 50 + ["A"] * 50, categories=["no", "A"])})
    obs.index = obs.index.astype(str)
    x = rng.normal(4, 1, (100, 3))
    x[50:] += 2
    own = x.copy()
    own[50:] = 5 + (x[50:] - 6) / 2  # half the change, half the spread
    real, predicted = (ad.AnnData(cells.astype(np.float32), obs=obs) for cells in (x, own))
    found = script("cell_eval_tables").properties(real, predicted)
    assert found["spread (observed: 1)"] == pytest.approx(0.5, abs=1e-3)
    assert found["size of the change (observed: 1)"] == pytest.approx(0.5, abs=0.1)
    assert found["control off by (mean of genes)"] == 0 == found["zeros, predicted"]
    exact = script("cell_eval_tables").properties(real, real)
    assert exact["E-distance to the observed cells"] < found["E-distance to the observed cells"]


def test_what_was_fitted_is_kept_and_a_refusal_as_well(script, tmp_path):
    kept = script("keeping").kept
    made = []

    def make():
        made.append(1)
        if len(made) > 2:
            raise scgim.baselines.CannotPredict("ridge cannot.")
        return {"x": np.full(2, len(made))}

    assert kept(tmp_path, "a", {"seed": 0}, make)[0]["x"].tolist() == [1, 1]
    assert kept(tmp_path, "a", {"seed": 0}, make)[0]["x"].tolist() == [1, 1]
    assert kept(tmp_path, "a", {"seed": 1}, make)[0]["x"].tolist() == [2, 2]
    assert str(kept(tmp_path, "b", {}, make)[0]["declined"]) == "ridge cannot."
    assert str(kept(tmp_path, "b", {}, make)[0]["declined"]) == "ridge cannot." and len(made) == 3


def test_the_widest_path_is_as_wide_as_its_narrowest_edge(script):
    rng = np.random.default_rng(0)
    probability = rng.random((6, 6)) * (rng.random((6, 6)) < 0.4)
    reach = script("run_causalbench").widest_paths(probability)
    for i in range(6):
        for j in set(range(6)) - {i}:
            graph = nx.from_numpy_array(probability, create_using=nx.DiGraph)
            paths = nx.all_simple_paths(graph, i, j)
            widths = [min(probability[a, b] for a, b in pairwise(path)) for path in paths]
            assert reach[i, j] == pytest.approx(max(widths, default=0.0))


def test_scores_of_a_network_and_others_of_its_size(script):
    module = script("run_causalbench")
    pairs = [("A", gene) for gene in ("g1", "g2", "g3", "g4")]
    index = pd.MultiIndex.from_tuples(pairs, names=["knock-out", "gene"])
    table = pd.DataFrame({"true": [True, True, False, False], "distance": [1.0, 0.5, 0.1, 0.2]}, index=index)
    rows = module.compare(table, {"mine": [pairs[1], pairs[2]]}, {"other": pairs}, pairs)
    mine, other, chance = rows
    assert (mine["true positives"], mine["false positives"], mine["false omission rate"]) == (1, 1, 0.5)
    assert mine["mean distance"] == pytest.approx(0.3)
    assert (other["pairs"], other["true positives"], other["mean distance"]) == (2, 2, 0.75)
    assert (chance["true positives"], chance["mean distance"]) == (1.0, pytest.approx(0.45))
    graph = np.zeros((4, 4), dtype=bool)
    graph[0, 1] = graph[1, 3] = True
    assert module.descendants(graph, ["A", "B", "C", "D"], ["A", "C"]) == [("A", "B"), ("A", "D")]


def test_conditions_in_which_a_gene_does_not_vary_are_left_out(script):
    task = scgim.benchmark.SyntheticTask(n_genes=4, n_perturbations=3, n_features=3, n_new_targets=0).load()
    train, row = task.train, int(task.train.trained[1])
    x = train.x.copy()
    x[train.codes == row, 2] = 1.5
    found = script("run_causalbench").varying(dataclasses.replace(train, x=x))
    assert row not in found.trained and len(found.trained) == len(train.trained) - 1
    np.testing.assert_array_equal(found.x, x[train.codes != row])


def drugs(path, genes: int = 12) -> None:
    """The demo's format, small: four drugs at two doses, raw counts."""
    rng = np.random.default_rng(0)
    names = ["control", "Belinostat", "Dacinostat", "Givinostat", "Quisinostat"]
    rows = [("control", 0.0)] * 60 + [(name, dose) for name in names[1:] for dose in (1e3, 1e4) for _ in range(20)]
    obs = pd.DataFrame(rows, columns=["perturbation", "dose_value"], index=[f"c{i}" for i in range(len(rows))])
    rate = rng.uniform(20, 60, (len(names), genes))
    x = rng.poisson(rate[[names.index(name) for name in obs["perturbation"]]]).astype(np.float32)
    obs["dose_unit"], obs["cell_line"] = "nM", "A549"
    var = pd.DataFrame(index=[f"g{i}" for i in range(genes)])
    ad.AnnData(sparse.csr_matrix(x), obs=obs, var=var).write_h5ad(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_cell_eval_script(script, tmp_path, capsys):
    pytest.importorskip("cell_eval", reason="the extra eval is not installed")
    drugs(tmp_path / "sciplex3_standin.h5ad")
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--quick"]
    words += [
        "--sets",
        "stand-in",
        "--seeds",
        "0",
        "--steps",
        "3",
        "--threads",
        "1",
        "--methods",
        "GIM (ziln)",
        "ridge",
    ]
    module = script("run_cell_eval")
    module.main(words)
    page = (tmp_path / "out" / "cell_eval.md").read_text()
    table = pd.read_csv(tmp_path / "out" / "cell_eval.csv")
    assert "semi-synthetic" in page and str(tmp_path) not in page
    assert {"GIM (ziln)", "GIM (ziln), observed control", "ridge", "two halves", "ceiling"} == set(table["method"])
    mae = table.query("method == 'ridge' and metric == 'mae'")
    assert mae["split"].tolist() == [False, True] and (mae["perturbations"] == 4).all()
    fits = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.npz")}
    module.main(words)  # again: nothing is fitted
    assert fits == {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.npz")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_causalbench_script(script, tmp_path, capsys):
    evaluation = pytest.importorskip(
        "causalscbench.evaluation.statistical_evaluation", reason="causalbench is not installed"
    )
    rng = np.random.default_rng(0)
    genes = ["A", "B", "C", "D", "E", "F"]
    label = np.repeat(["non-targeting", "A", "B", "off"], [120, 60, 60, 60])
    rate = np.full((len(label), 6), 20.0)
    rate[label == "A", :2] = 5.0
    rate[label == "B", 2] = 60.0
    obs = pd.DataFrame({"target": pd.Categorical(label)}, index=[f"c{i}" for i in range(len(label))])
    adata = ad.AnnData(rng.poisson(rate).astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))
    adata.var["is_target"] = adata.var_names.isin(["A", "B"])
    adata.write_h5ad(tmp_path / "papalexi2021_thp1_eccite_299genes.h5ad")
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--seeds", "0"]
    module = script("run_causalbench")
    module.main([*words, "--n-genes", "6", "--steps", "3", "--threads", "1", "--methods", "GIM (ziln)", "UT-IGSP"])
    page = (tmp_path / "out" / "causalbench.md").read_text()
    table = pd.read_csv(tmp_path / "out" / "causalbench.csv")
    assert "## Ancestors" in page and str(tmp_path) not in page
    assert set(table["question"]) == {"edges", "ancestors", "targets"}
    assert table.loc[table["question"] == "targets", "possible"].unique().tolist() == [3 * 6]
    # scores of a network are the evaluator's
    args = type("Args", (), {"n_genes": "6", "min_counts": 25})
    _, held_out = module.halves(tmp_path / "papalexi2021_thp1_eccite_299genes.h5ad", args, 0)
    network = [("A", "B"), ("A", "C"), ("B", "C")]
    found = module.network_scores(module.pair_table(held_out), network, network)
    x, labels, names = module.expression(held_out)
    theirs = evaluation.Evaluator(x, labels, names).evaluate_network(network)["output_graph"]
    assert found["true positives"] == theirs["true_positives"] >= 2
    assert found["false positives"] == theirs["false_positives"]
    assert found["mean distance"] == pytest.approx(theirs["wasserstein_distance"]["mean"])
