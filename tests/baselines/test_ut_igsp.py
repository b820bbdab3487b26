"""UT-IGSP: planted graph and targets, symmetries, its tests, and what every causal baseline refuses."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import scgim
from scgim.baselines import CannotPredict, Condition, TrainingData
from scgim.baselines.equivalence import favour
from scgim.baselines.tests import GaussianTests
from scgim.baselines.ut_igsp import UTIGSP
from scgim.metrics import edge_f1, target_f1


def system(seed: int, n_genes: int = 8, n_perturbations: int = 8, cells: int = 100, controls: int = 800, **settings):
    """Training data, true graph, true targets of a linear system with hard interventions at one high dose."""
    adata = scgim.simulate.synthetic(
        n_genes=n_genes,
        n_perturbations=n_perturbations,
        cells_per_condition=cells,
        n_control=controls,
        **{"doses": (2.0,), "new_doses": (), "n_new_targets": 0, "n_features": 8, "edges_per_gene": 1.5, **settings},
        rng=seed,
    )
    truth = adata.uns["truth"]
    row = {label: i for i, label in enumerate(truth["conditions"]["condition"])}
    codes = adata.obs["condition"].astype(str).map(row).to_numpy(dtype=int)
    data = TrainingData(adata.X, codes, truth["conditions"], truth["features"])
    return data, adata.varp["true_graph"].toarray() > 0, truth["targets"].astype(bool)


def all_targets(method: UTIGSP, data: TrainingData) -> np.ndarray:
    return method.targets([data.condition(row) for row in range(len(data.conditions))]) > 0.5


def arrays(n_control: int, *n_cells: int, n_genes: int = 3, seed: int = 0) -> TrainingData:
    """Independent standard normal genes."""
    names = ["control", *(f"P{k}" for k in range(len(n_cells)))]
    table = pd.DataFrame({"condition": names, "perturbation": names, "dose": np.nan})
    table["is_control"] = table["condition"] == "control"
    sizes = [n_control, *n_cells]
    x = np.random.default_rng(seed).normal(size=(sum(sizes), n_genes))
    return TrainingData(x, np.repeat(np.arange(len(sizes)), sizes), table, np.eye(len(sizes)))


@pytest.mark.parametrize("seed", range(3))
def test_planted_graph_and_targets(seed):
    data, graph, targets = system(seed)
    method = UTIGSP().fit(data, seed)
    assert edge_f1(graph, favour(method.graph(), graph, 0)) >= 0.95
    assert target_f1(targets[1:], all_targets(method, data)[1:]) >= 0.95
    assert not all_targets(method, data)[0].any()  # the control


def test_the_search_ends_no_higher_than_the_true_order():
    data, graph, targets = system(4, n_genes=12, n_perturbations=20)
    score = UTIGSP().fit(data, 0).score_
    assert score <= graph.sum() + targets.sum() + 2
    assert score <= UTIGSP(insertions=False).fit(data, 0).score_


def test_undirected_where_nothing_tells():
    """A chain, and one condition that changes a gene apart from it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 4))
    x[:, 1] += x[:, 0]
    x[:, 2] += x[:, 1]
    codes = np.repeat([0, 1], [1000, 200])
    x[codes == 1, 3] += 2.0
    data = arrays(1000, 200, n_genes=4)
    method = UTIGSP().fit(TrainingData(x, codes, data.conditions, data.features))
    expected = np.zeros((4, 4), dtype=bool)
    expected[[0, 1, 1, 2], [1, 0, 2, 1]] = True
    np.testing.assert_array_equal(method.graph(), expected)
    np.testing.assert_array_equal(method.targets([data.condition(1)]), [[0, 0, 0, 1]])


def test_genes_have_no_order():
    data, _, _ = system(0)
    method = UTIGSP().fit(data, 0)
    order = np.random.default_rng(0).permutation(data.x.shape[1])
    shuffled = TrainingData(data.x[:, order], data.codes, data.conditions, data.features)
    again = UTIGSP().fit(shuffled, 0)
    np.testing.assert_array_equal(again.graph(), method.graph()[np.ix_(order, order)])
    np.testing.assert_array_equal(all_targets(again, data), all_targets(method, data)[:, order])


def test_units_do_not_matter():
    data, _, _ = system(1)
    scaled = TrainingData(data.x * np.logspace(-3, 3, 8) + 5, data.codes, data.conditions, data.features)
    first, second = UTIGSP().fit(data, 0), UTIGSP().fit(scaled, 0)
    np.testing.assert_array_equal(first.graph(), second.graph())
    np.testing.assert_array_equal(all_targets(first, data), all_targets(second, data))


def test_a_seed_gives_the_same_result_and_leaves_the_global_state():
    data, _, _ = system(2, controls=60, cells=12)  # so few cells that starts differ
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = UTIGSP(n_restarts=2).fit(data, 5), UTIGSP(n_restarts=2).fit(data, 5)
    np.testing.assert_array_equal(first.graph(), second.graph())
    np.testing.assert_array_equal(first.scm_.dag, second.scm_.dag)
    condition = data.condition(1)
    np.testing.assert_array_equal(first.sample(condition, 9, rng=1), second.sample(condition, 9, rng=1))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_samples_have_the_means_of_the_training_cells():
    data, _, _ = system(0)
    method = pickle.loads(pickle.dumps(UTIGSP().fit(data, 0)))  # as from a process of its own
    scale = data.x[data.control].std(axis=0)
    for row in (0, 1, 5):
        cells = method.sample(data.condition(row), 5000, rng=row)
        assert cells.shape == (5000, 8) and cells.dtype == np.float32
        difference = cells.mean(axis=0) - data.x[data.codes == row].mean(axis=0)
        assert np.abs(difference / scale).max() < 0.5


@pytest.mark.parametrize("n_cells", [4, 30])
def test_the_invariance_test_holds_its_level(n_cells):
    """No condition differs; with 4 cells there are fewer than coefficients."""
    data = arrays(300, *[n_cells] * 400, n_genes=6)
    p = GaussianTests(data, 0.01, 0.01).invariance(5, (0, 1, 2, 3, 4))
    assert p.shape == (400,)
    assert 0.01 < (p < 0.05).mean() < 0.09  # 4 standard errors of a binomial around 0.05
    assert (p < 1e-4).sum() <= 1


def test_the_independence_test_holds_its_level():
    n_genes = 40
    tests = GaussianTests(arrays(200, 20, n_genes=n_genes), 0.05, 0.01)
    found = [len(tests.parents(gene, [i for i in range(n_genes) if i != gene])) for gene in range(n_genes)]
    assert 0.03 < sum(found) / (n_genes * (n_genes - 1)) < 0.07


def test_the_invariance_test_agrees_with_regressions():
    data, _, _ = system(3)
    tests = GaussianTests(data, 0.01, 0.01)
    x, parents = data.x.astype(float), [0, 3]
    rss = {}
    for name, rows in {"0": data.codes == 0, "1": data.codes == 1, "both": data.codes <= 1}.items():
        design = np.column_stack([np.ones(rows.sum()), x[rows][:, parents]])
        rss[name] = np.linalg.lstsq(design, x[rows, 5], rcond=None)[1][0]
    from scipy.stats import f

    n0, n1 = 800, 100
    chow = f.sf(((rss["both"] - rss["0"] - rss["1"]) / 3) / ((rss["0"] + rss["1"]) / (n0 + n1 - 6)), 3, n0 + n1 - 6)
    ratio = (rss["1"] / (n1 - 3)) / (rss["0"] / (n0 - 3))
    spread = 2 * min(f.cdf(ratio, n1 - 3, n0 - 3), f.sf(ratio, n1 - 3, n0 - 3))
    assert tests.invariance(5, parents)[0] == pytest.approx(min(1.0, 2 * min(chow, spread)), rel=1e-6)


def test_a_gene_that_a_condition_makes_constant_is_a_target():
    data = arrays(200, 50)
    x = data.x.copy()
    x[data.codes == 1, 2] = 0.0
    method = UTIGSP().fit(TrainingData(x, data.codes, data.conditions, data.features))
    np.testing.assert_array_equal(method.targets([data.condition(1)]), [[0, 0, 1]])
    assert (method.sample(data.condition(1), 20)[:, 2] == 0).all()


def test_unseen_conditions_are_declined():
    data = arrays(100, 20, 20)
    kept = data.codes != 2  # P1 is in the table, without cells
    method = UTIGSP().fit(TrainingData(data.x[kept], data.codes[kept], data.conditions, data.features))
    assert not method.can_predict_unseen
    other = Condition("Q", "Q", np.nan, np.zeros(3), ("Q",))
    for condition in (data.condition(2), other):
        with pytest.raises(CannotPredict, match=f"no cells for '{condition.label}': it had no training cells"):
            method.sample(condition, 5)
        with pytest.raises(CannotPredict, match=f"no targets for '{condition.label}'"):
            method.targets([data.condition(1), condition])
    assert method.sample(data.condition(0), 5).shape == (5, 3)
    assert method.targets([]).shape == (0, 3)


def test_data_that_no_test_can_work_on_are_refused():
    def refused(data: TrainingData, match: str) -> None:
        with pytest.raises(CannotPredict, match=match):
            UTIGSP().fit(data)

    data = arrays(100, 20, 4, n_genes=5)
    refused(data, r"ut_igsp cannot be fitted: .* at least 5 cells in every condition, too few are in 'P1' \(4\)")
    refused(arrays(100), "no perturbed condition has training cells")
    refused(arrays(8, 20, n_genes=5), "at least 9 control cells for 5 genes, there are 8")
    data = arrays(100, 20, n_genes=5)
    for change, match in (
        (lambda x: x[:, 3].fill(0.0), r"1 of 5 genes are constant over the control cells \(columns 3\)"),
        (lambda x: np.copyto(x[:, 4], x[:, 0] - x[:, 2]), r"is singular: the genes in columns 0, 2, 4"),
    ):
        x = data.x.copy()
        change(x)
        refused(TrainingData(x, data.codes, data.conditions, data.features), match)


def test_options_are_checked():
    with pytest.raises(ValueError, match="alpha is the level of a test, between 0 and 1, got 0"):
        UTIGSP(alpha=0)
    with pytest.raises(ValueError, match="n_restarts must be at least 1"):
        UTIGSP(n_restarts=0)
    with pytest.raises(ValueError, match="intervention='soft' is unknown; use one of 'hard', 'shift'"):
        UTIGSP(intervention="soft")
    with pytest.raises(RuntimeError, match="not fitted"):
        UTIGSP().graph()
