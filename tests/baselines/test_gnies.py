"""GnIES: its score and classes against the authors' package, its search, planted truth, what it refuses."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pandas as pd
import pytest

import scgim
from scgim.baselines import CannotPredict, TrainingData
from scgim.baselines.equivalence import essential_graph, favour
from scgim.baselines.gnies import GnIES, GnIESScore, mechanisms, search
from scgim.metrics import skeleton_f1, target_f1

WITHOUT_PACKAGE = "needs gnies: pip install scgim[baselines]"


def system(seed: int, n_genes: int = 8, **settings):
    """Training data, true graph, true targets of a linear system with hard interventions."""
    settings = {"n_perturbations": 8, "cells_per_condition": 100, "n_control": 500, **settings}
    adata = scgim.simulate.synthetic(
        n_genes=n_genes, mechanism="linear", doses=(2.0,), new_doses=(), n_new_targets=0, n_features=8,
        edges_per_gene=1.0, **settings, rng=seed,
    )  # fmt: skip
    truth = adata.uns["truth"]
    row = {label: i for i, label in enumerate(truth["conditions"]["condition"])}
    codes = adata.obs["condition"].astype(str).map(row).to_numpy(dtype=int)
    data = TrainingData(adata.X, codes, truth["conditions"], truth["features"])
    return data, adata.varp["true_graph"].toarray() > 0, truth["targets"].astype(bool)


def arrays(x: np.ndarray, codes: np.ndarray) -> TrainingData:
    names = ["control", *(f"P{k}" for k in range(1, codes.max() + 1))]
    table = pd.DataFrame({"condition": names, "perturbation": names, "dose": np.nan})
    table["is_control"] = table["condition"] == "control"
    return TrainingData(x, codes, table, np.eye(len(names)))


def score_of(score: GnIESScore, dag: np.ndarray) -> float:
    """Of a graph, with the best set of varying genes."""
    parents = [frozenset(np.flatnonzero(column).tolist()) for column in dag.T]
    return sum(max(score.local(j, p, varies) for varies in (True, False)) for j, p in enumerate(parents))


def test_planted_graphs_and_targets():
    """On the mean: a hard intervention changes coefficients, which this model does not know."""
    skeletons, called = [], []
    for seed in range(4):
        data, graph, targets = system(seed)
        method = GnIES(n_restarts=2).fit(data, seed)
        skeletons.append(skeleton_f1(graph, favour(method.graph(), graph, 0)))
        found = method.targets([data.condition(row) for row in range(len(data.conditions))])
        called.append(target_f1(targets[1:], found[1:] > 0.5))
        assert not found[0].any()  # the control
    assert np.mean(skeletons) >= 0.9
    assert np.mean(called) >= 0.8


def test_the_score_is_that_of_the_package():
    gnies = pytest.importorskip("gnies.scores", reason=WITHOUT_PACKAGE)
    data, _, _ = system(0, n_genes=6)
    cells = [data.x[data.codes == row].astype(float) for row in range(len(data.conditions))]
    options = {"centered": False, "lmbda": 5.0, "max_iter": 100}
    all_vary, none_varies = gnies.GnIESScore(cells, set(range(6)), **options), gnies.GnIESScore(cells, set(), **options)
    ours = GnIESScore(data.x, data.codes, 5.0)
    for gene in range(6):
        for parents in ({1, 3}, {(gene + 1) % 6}, set()):
            own = frozenset(parents - {gene})
            assert ours.local(gene, own, True) == pytest.approx(all_vary.local_score(gene, set(own)), abs=1e-3)
            theirs = none_varies.local_score(gene, set(own))  # not the maximum of the likelihood
            assert ours.local(gene, own, False) >= theirs - 1e-3
    # One environment alone: there it is.
    together = gnies.GnIESScore([np.concatenate(cells)], set(), **options)
    assert ours.local(0, frozenset({1, 3}), False) == pytest.approx(together.local_score(0, {1, 3}), abs=1e-3)


def test_classes_are_those_of_the_package():
    utils = pytest.importorskip("gnies.utils", reason=WITHOUT_PACKAGE)
    rng = np.random.default_rng(0)
    for _ in range(10):
        dag = np.triu(rng.random((6, 6)) < 0.4, k=1)[np.ix_(*2 * [rng.permutation(6)])]
        varying = rng.random(6) < 0.3
        expected = utils.dag_to_icpdag(dag.astype(int), set(np.flatnonzero(varying).tolist())) != 0
        np.testing.assert_array_equal(essential_graph(dag, np.eye(6, dtype=bool)[varying]), expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_search_ends_no_lower_than_the_truth_and_the_package(seed):
    pytest.importorskip("gnies", reason=WITHOUT_PACKAGE)
    data, graph, _ = system(seed, cells_per_condition=50, n_control=200)
    best = GnIES().fit(data, seed).score_
    score = GnIESScore(data.x, data.codes, 0.5 * np.log(len(data.x)))
    assert best >= score_of(score, graph) - 1e-6
    by_package = GnIES(approach="rank").fit(data, seed)
    assert best >= by_package.score_ - 1e-3
    assert by_package.score_ <= score_of(score, by_package.scm_.dag) + 1e-3


def test_a_search_never_loses():
    data, _, _ = system(3)
    score = GnIESScore(data.x, data.codes, 5.0)
    order = np.random.default_rng(0).permutation(8).tolist()
    found, best = search(score, order)
    assert sorted(found) == list(range(8))
    assert best == pytest.approx(sum(mechanism.score for mechanism in mechanisms(score, found)))
    assert best >= sum(mechanism.score for mechanism in mechanisms(score, order))
    assert search(score, found) == (found, best)


def test_only_edges_at_varying_genes_are_directed_by_conditions():
    """A chain, and one condition that changes a gene apart from it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 5))
    codes = np.repeat([0, 1], [1000, 200])
    x[codes == 1, 3] += 2.0
    x[:, 1] += x[:, 0]
    x[:, 2] += x[:, 1]
    x[:, 4] += x[:, 3]
    data = arrays(x, codes)
    method = GnIES().fit(data)
    expected = np.zeros((5, 5), dtype=bool)
    expected[[0, 1, 1, 2, 3], [1, 0, 2, 1, 4]] = True
    np.testing.assert_array_equal(method.graph(), expected)
    np.testing.assert_array_equal(method.varying_, [0, 0, 0, 1, 0])
    np.testing.assert_array_equal(method.targets([data.condition(1)]), [[0, 0, 0, 1, 0]])


def test_a_large_penalty_leaves_nothing():
    data, _, _ = system(0)
    method = GnIES(lmbda=1e6).fit(data)
    assert not method.graph().any() and not method.varying_.any() and not method.targets_.any()


@pytest.mark.parametrize("approach", ["order", "rank", "greedy"])
def test_the_same_seed_gives_the_same_and_global_state_is_left_alone(approach, capsys):
    pytest.importorskip("gnies", reason=WITHOUT_PACKAGE)
    data, _, _ = system(4, n_genes=4, n_perturbations=4)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, other = (GnIES(approach=approach).fit(data, 5) for _ in range(2))
    np.testing.assert_array_equal(one.graph(), other.graph())
    np.testing.assert_array_equal(one.sample(data.condition(1), 5, 6), other.sample(data.condition(1), 5, 6))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    out, err = capsys.readouterr()
    assert out == err == ""
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one)).graph(), one.graph())


def test_bad_options():
    with pytest.raises(ValueError, match="approach='forward' is unknown; use one of 'order', 'rank', 'greedy'"):
        GnIES(approach="forward")
    with pytest.raises(ValueError, match="lmbda must be at least 0, got -1"):
        GnIES(lmbda=-1.0)
    with pytest.raises(ValueError, match="alpha is the level of a test, between 0 and 1, got 2"):
        GnIES(alpha=2.0)
    with pytest.raises(ValueError, match="n_restarts must be at least 1, got 0"):
        GnIES(n_restarts=0)


def test_bad_data():
    rng = np.random.default_rng(7)
    x, codes = rng.normal(size=(210, 3)), np.repeat([0, 1, 2], [100, 60, 50])
    few = arrays(x[:163], codes[:163])
    with pytest.raises(CannotPredict, match=r"at least 5 cells in every condition, too few are in 'P2' \(3\)"):
        GnIES().fit(few)
    x[codes == 2, 1] = 4.0
    with pytest.raises(CannotPredict, match="in 'P2' the genes in columns 1 are constant"):
        GnIES().fit(arrays(x, codes))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gnies", None)
    data, _, _ = system(0)
    with pytest.raises(ImportError, match=r'pip install "scgim\[baselines\]"'):
        GnIES(approach="rank").fit(data)
    assert GnIES(n_restarts=1).fit(data).graph().any()  # the default needs none
