"""JCI-PC: planted graph and targets, contexts that are causes only, the level of its tests, what it refuses."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pandas as pd
import pytest

import scgim
from scgim.baselines import CannotPredict, Condition, TrainingData
from scgim.baselines.equivalence import favour
from scgim.baselines.jci_pc import JCIPC, JCIPCContext
from scgim.baselines.tests import ConditionTests, FeatureTests
from scgim.metrics import edge_f1, is_acyclic, skeleton_f1, target_f1

pytest.importorskip("causallearn", reason="needs causal-learn: pip install scgim[baselines]")


def system(seed: int, **settings):
    """Training data, true graph, true targets of a linear system with hard interventions."""
    settings = {
        "n_genes": 8,
        "n_perturbations": 10,
        "cells_per_condition": 200,
        "n_control": 1000,
        "doses": (2.0,),
        **settings,
    }
    adata = scgim.simulate.synthetic(
        mechanism="linear", new_doses=(), n_new_targets=0, n_features=8, edges_per_gene=1.0, **settings, rng=seed
    )
    truth = adata.uns["truth"]
    row = {label: i for i, label in enumerate(truth["conditions"]["condition"])}
    codes = adata.obs["condition"].astype(str).map(row).to_numpy(dtype=int)
    data = TrainingData(adata.X, codes, truth["conditions"], truth["features"])
    return data, adata.varp["true_graph"].toarray() > 0, truth["targets"].astype(bool)


def arrays(x: np.ndarray, codes: np.ndarray, features: np.ndarray | None = None) -> TrainingData:
    n = codes.max() + 1
    names = ["control", *(f"P{k}" for k in range(1, n))]
    table = pd.DataFrame({"condition": names, "perturbation": names, "dose": np.nan})
    table["is_control"] = table["condition"] == "control"
    return TrainingData(x, codes, table, np.eye(n)[:, 1:] if features is None else features)


def all_conditions(data: TrainingData) -> list[Condition]:
    return [data.condition(row) for row in range(len(data.conditions))]


@pytest.mark.parametrize("seed", range(3))
def test_planted_graph_and_targets(seed):
    data, graph, targets = system(seed)
    method = JCIPC().fit(data, seed)
    assert edge_f1(graph, favour(method.graph(), graph, 0)) >= 0.9
    found = method.targets(all_conditions(data))
    assert target_f1(targets[1:], found[1:] > 0.5) >= 0.9
    assert not found[0].any()  # the control


def test_features_as_contexts_find_the_skeleton():
    data, graph, _ = system(1, doses=(0.5, 1.0, 2.0))
    method = JCIPCContext().fit(data)
    learned = method.graph()
    assert skeleton_f1(graph, learned | learned.T) >= 0.9


def test_a_common_condition_is_no_edge():
    """Two genes that one condition moves are dependent over all cells, and not given the context."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [600, 200, 200])
    x = rng.normal(size=(1000, 3)) + 3.0 * (codes == 1)[:, None] * [1, 1, 0]
    assert np.corrcoef(x[:, 0], x[:, 1])[0, 1] > 0.3
    data = arrays(x, codes)
    for method in (JCIPC().fit(data), JCIPCContext().fit(data)):
        assert not method.graph().any()
        np.testing.assert_array_equal(method.targets(all_conditions(data)), [[0, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_contexts_direct_an_edge_that_cells_alone_cannot():
    rng = np.random.default_rng(1)
    codes = np.repeat([0, 1, 2], [600, 200, 200])
    cause = rng.normal(size=1000) + 2.0 * (codes == 1)
    effect = cause + rng.normal(size=1000) + 2.0 * (codes == 2)
    for order in ([0, 1], [1, 0]):
        data = arrays(np.stack([cause, effect], axis=1)[:, order], codes)
        expected = np.array([[0, 1], [0, 0]])[np.ix_(order, order)]
        np.testing.assert_array_equal(JCIPC().fit(data).graph(), expected)
        # the effect is moved by the first condition, too, but not directly
        np.testing.assert_array_equal(JCIPC().fit(data).targets([data.condition(1)]), [np.eye(2)[order[0]]])


def test_dependence_that_cancels_between_conditions_is_found():
    rng = np.random.default_rng(2)
    codes = np.repeat([0, 1], 500)
    cause = rng.normal(size=1000)
    x = np.stack([cause, np.where(codes == 0, 0.5, -0.5) * cause + rng.normal(size=1000)], axis=1)
    assert ConditionTests(arrays(x, codes)).between_genes(())[0, 1] < 1e-6


def test_level_of_the_tests():
    """p-values of true hypotheses are below 0.05 in one of 20 cases, in small conditions as well."""
    rng = np.random.default_rng(3)
    between, of_conditions, of_features = [], [], []
    codes = np.repeat(np.arange(13), [60] + 12 * [12])
    features = np.vstack([np.zeros((1, 2)), rng.normal(size=(12, 2))])
    for _ in range(150):
        x = rng.normal(size=(len(codes), 4))
        x[:, 2] += x[:, 0] + x[:, 1]
        x[:, 3] += x[:, 2]
        data = arrays(x, codes, features)
        tests, by_feature = ConditionTests(data), FeatureTests(data, features)
        between.append(tests.between_genes((2,))[[0, 1], 3])
        of_conditions.append(tests.of_contexts(3, (2,)))
        of_features.append(by_feature.of_contexts(3, (2,)))
    assert 0.02 < np.mean(np.ravel(between) < 0.05) < 0.09
    assert 0.03 < np.mean(np.ravel(of_conditions) < 0.05) < 0.07
    assert 0.02 < np.mean(np.ravel(of_features) < 0.05) < 0.09


def test_the_same_seed_gives_the_same_and_global_state_is_left_alone(capsys):
    data, _, _ = system(4)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for kind in (JCIPC, JCIPCContext):
        one, other = kind().fit(data, 5), kind().fit(data, 5)
        np.testing.assert_array_equal(one.graph(), other.graph())
        np.testing.assert_array_equal(one.sample(data.condition(1), 5, 6), other.sample(data.condition(1), 5, 6))
        assert one.sample(data.condition(1), 5, 6).dtype == np.float32
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    out, err = capsys.readouterr()
    assert out == err == ""


def test_a_fit_can_be_sent_to_another_process():
    data, _, _ = system(4)
    for kind in (JCIPC, JCIPCContext):
        fitted = kind().fit(data)
        arrived = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(arrived.graph(), fitted.graph())


def test_directed_edges_have_no_cycle():
    """At this level and size, tests contradict each other."""
    for seed in range(4):
        data, _, _ = system(seed, cells_per_condition=20, n_control=60)
        for method in (JCIPC(alpha=0.3).fit(data), JCIPCContext(alpha=0.3).fit(data)):
            learned = method.graph()
            assert is_acyclic(learned & ~learned.T)


def test_a_gene_that_is_constant_in_a_condition():
    rng = np.random.default_rng(5)
    codes = np.repeat([0, 1, 2], [300, 50, 50])
    x = rng.normal(size=(400, 3))
    x[:, 1] += x[:, 0]
    x[codes == 1, 0] = 0.0
    data = arrays(x, codes)
    method = JCIPC().fit(data)
    assert np.isfinite(method.sample(data.condition(1), 10)).all()
    np.testing.assert_array_equal(method.targets([data.condition(1)]), [[1, 0, 0]])
    assert (method.graph() | method.graph().T)[0, 1]


def doses(features: np.ndarray) -> TrainingData:
    """Gene 0 follows the dose, gene 1 follows gene 0, gene 2 nothing; the last of 0, 1, 2, 3, 4 has no cells."""
    rng = np.random.default_rng(6)
    codes = np.repeat([0, 1, 2, 3], 300)
    x = rng.normal(size=(1200, 3))
    x[:, 0] += 2.0 * codes
    x[:, 1] += x[:, 0]
    data = arrays(x, codes, np.zeros((4, 1)))
    table = pd.concat([data.conditions, data.conditions.tail(1).assign(condition="P4", perturbation="P4")])
    return TrainingData(x, codes, table, features)


def test_features_predict_an_unseen_condition():
    data = doses(np.arange(5.0)[:, None])
    method = JCIPCContext().fit(data)
    unseen = data.condition(4)
    np.testing.assert_allclose(method.sample(unseen, 4_000).mean(axis=0), [8.0, 8.0, 0.0], atol=0.3)
    np.testing.assert_array_equal(method.targets([data.condition(0), unseen]), [[0, 0, 0], [1, 0, 0]])
    with pytest.raises(CannotPredict, match="no training cells"):
        JCIPC().fit(data).targets([unseen])


def test_features_that_say_nothing_new_change_nothing():
    feature = np.arange(5.0)[:, None]
    plain = JCIPCContext().fit(doses(feature))
    padded_data = doses(np.hstack([np.ones((5, 1)), feature, 2 * feature - 1]))
    padded = JCIPCContext().fit(padded_data)
    assert padded.nodes_.n_nodes == plain.nodes_.n_nodes == 2
    expected = plain.sample(doses(feature).condition(4), 100, 1)
    np.testing.assert_allclose(padded.sample(padded_data.condition(4), 100, 1), expected, rtol=1e-4, atol=1e-4)


def test_bad_options():
    for alpha in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="alpha is the level of a test, between 0 and 1"):
            JCIPC(alpha=alpha)
    with pytest.raises(ValueError, match="max_depth must be at least 0, got -1"):
        JCIPCContext(max_depth=-1)
    with pytest.raises(ValueError, match=r"target_effect must be at least 0, got -1\.0"):
        JCIPCContext(target_effect=-1.0)


def test_bad_data():
    rng = np.random.default_rng(7)
    codes = np.repeat([0, 1, 2], [100, 50, 3])
    data = arrays(rng.normal(size=(153, 3)), codes)
    for kind in (JCIPC, JCIPCContext):
        with pytest.raises(CannotPredict, match=r"at least 5 cells in every condition, too few are in 'P2' \(3\)"):
            kind().fit(data)
    good = arrays(rng.normal(size=(150, 3)), np.repeat([0, 1], [100, 50]))
    bare = TrainingData(good.x, good.codes, good.conditions, np.empty((2, 0)))
    with pytest.raises(CannotPredict, match="jci_pc_context cannot be fitted: the conditions have no features"):
        JCIPCContext().fit(bare)
    fitted = JCIPCContext().fit(good)
    with pytest.raises(CannotPredict, match=r"needs 1 finite features, got shape \(2,\)"):
        fitted.sample(Condition("new", "new", 1.0, np.zeros(2), ("new",)), 5)
    with pytest.raises(RuntimeError, match="not fitted"):
        JCIPCContext().graph()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "causallearn.utils.PCUtils.SkeletonDiscovery", None)
    with pytest.raises(ImportError, match=r'pip install "scgim\[baselines\]"'):
        JCIPC().fit(system(0)[0])
