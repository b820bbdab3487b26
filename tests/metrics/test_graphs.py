"""Distances between graphs, against brute force, networkx and scikit-learn."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from scgim import metrics


def random_dag(rng, n, density=0.5):
    order = rng.permutation(n)
    upper = np.triu(rng.random((n, n)) < density, 1)
    graph = np.zeros((n, n), dtype=int)
    graph[np.ix_(order, order)] = upper
    return graph


def all_dags(n):
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    for bits in itertools.product([0, 1], repeat=len(pairs)):
        graph = np.zeros((n, n), dtype=int)
        for (i, j), bit in zip(pairs, bits, strict=True):
            graph[i, j] = bit
        if nx.is_directed_acyclic_graph(nx.DiGraph(graph)):
            yield graph


def sid_by_graph_theory(true, predicted):
    """Count the pairs whose parent adjustment is invalid, from the definition: d-separation after cutting."""
    g = nx.DiGraph(true)
    count = 0
    for i, j in itertools.permutations(range(len(true)), 2):
        parents = set(np.flatnonzero(predicted[:, i]).tolist())
        if j in parents:  # the prediction says "no effect"
            count += j in nx.descendants(g, i)
            continue
        # valid: no adjusted node is a descendant of a mediator (or of j), and all non-causal paths are
        # blocked
        causal = ({*nx.descendants(g, i)} & {*nx.ancestors(g, j), j}) if nx.has_path(g, i, j) else set()
        forbidden = causal.union(*(nx.descendants(g, node) for node in causal))
        backdoor = g.copy()
        backdoor.remove_edges_from([(i, node) for node in causal if g.has_edge(i, node)])
        count += bool(parents & forbidden) or not nx.is_d_separator(backdoor, {i}, {j}, parents)
    return count


def sid_by_regression(true, predicted, rng):
    """The same count from numbers alone: population regressions in a linear system with generic weights."""
    n = len(true)
    weights = true * rng.uniform(0.5, 1.5, size=(n, n)) * rng.choice([-1, 1], size=(n, n))
    total = np.linalg.inv(np.eye(n) - weights)  # total[i, j]: effect of a unit change of i on j
    covariance = total.T @ np.diag(rng.uniform(0.5, 2, n)) @ total
    count = 0
    for i, j in itertools.permutations(range(n), 2):
        parents = np.flatnonzero(predicted[:, i])
        if j in parents:
            inferred = 0.0
        else:
            use = [i, *parents]
            inferred = np.linalg.solve(covariance[np.ix_(use, use)], covariance[use, j])[0]
        count += abs(inferred - total[i, j]) > 1e-8
    return count


@pytest.fixture
def gadjid():
    return pytest.importorskip("gadjid")


def test_sid_of_all_pairs_of_three_node_dags_is_the_definition(gadjid):
    dags = list(all_dags(3))
    assert len(dags) == 25
    for true, predicted in itertools.product(dags, dags):
        assert metrics.sid(true, predicted) == sid_by_graph_theory(true, predicted)


def test_sid_of_random_dags_agrees_with_both_brute_forces(gadjid):
    rng = np.random.default_rng(0)
    for _ in range(150):
        n = int(rng.integers(4, 7))
        true, predicted = random_dag(rng, n), random_dag(rng, n)
        value = metrics.sid(true, predicted)
        assert value == sid_by_graph_theory(true, predicted)
        assert value == sid_by_regression(true, predicted, rng)


def test_sid_depends_on_the_edge_direction_and_on_the_order_of_arguments(gadjid):
    """A tree against its first edge: transposing both graphs, or swapping them, gives other numbers."""
    chain = np.zeros((4, 4), dtype=int)
    chain[0, 1] = chain[1, 2] = chain[1, 3] = 1
    other = np.zeros((4, 4), dtype=int)
    other[0, 1] = 1
    value = metrics.sid(chain, other)
    assert value == sid_by_graph_theory(chain, other)
    assert metrics.sid(chain.T, other.T) == sid_by_graph_theory(chain.T, other.T)
    assert value != metrics.sid(other, chain)
    assert value != metrics.sid(chain.T, other.T)


def test_sid_is_zero_at_equality_and_for_a_denser_graph_that_agrees(gadjid):
    rng = np.random.default_rng(1)
    for _ in range(20):
        graph = random_dag(rng, 6, 0.4)
        assert metrics.sid(graph, graph) == 0
        order = list(nx.topological_sort(nx.DiGraph(graph)))
        full = np.zeros((6, 6), dtype=int)
        full[np.ix_(order, order)] = np.triu(np.ones((6, 6), dtype=int), 1)
        assert metrics.sid(graph, full) == 0


@pytest.mark.parametrize("cyclic", ["true", "predicted"])
def test_sid_of_a_cycle_is_an_ordinary_error(gadjid, cyclic):
    chain = np.eye(3, k=1, dtype=int)
    cycle = chain + np.eye(3, k=-2, dtype=int)
    pair = {"true": (cycle, chain), "predicted": (chain, cycle)}[cyclic]
    with pytest.raises(ValueError, match=f"`{cyclic}` has a cycle"):
        metrics.sid(*pair)


def test_sid_of_one_gene_is_zero(gadjid):
    assert metrics.sid([[0]], [[0]]) == 0


def test_acyclicity_agrees_with_networkx():
    rng = np.random.default_rng(2)
    answers = []
    for _ in range(200):
        graph = (rng.random((5, 5)) < 0.2).astype(int)
        answers.append(metrics.is_acyclic(graph))
        assert answers[-1] == nx.is_directed_acyclic_graph(nx.DiGraph(graph))
    assert 20 < sum(answers) < 180  # both answers occur


def test_shd_counts_missing_extra_and_reversed_edges_once():
    true = np.zeros((4, 4), dtype=int)
    true[0, 1] = true[1, 2] = 1
    reversed_edge, extra = true.copy(), true.copy()
    reversed_edge[0, 1], reversed_edge[1, 0] = 0, 1
    extra[3, 0] = 1
    assert metrics.shd(true, true) == 0
    assert metrics.shd(true, reversed_edge) == 1
    assert metrics.shd(true, extra) == 1
    assert metrics.shd(true, np.zeros((4, 4))) == 2


def test_shd_agrees_with_gadjid_and_is_a_metric(gadjid):
    rng = np.random.default_rng(3)
    for _ in range(50):
        a, b, c = (random_dag(rng, 6, 0.4) for _ in range(3))
        assert metrics.shd(a, b) == gadjid.shd(a.astype(np.int8), b.astype(np.int8))[1]
        assert metrics.shd(a, b) == metrics.shd(b, a)
        assert metrics.shd(a, c) <= metrics.shd(a, b) + metrics.shd(b, c)


def test_f1_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(4)
    off = ~np.eye(7, dtype=bool)
    upper = np.triu_indices(7, 1)
    for _ in range(20):
        a, b = random_dag(rng, 7), random_dag(rng, 7)
        assert metrics.edge_f1(a, b) == pytest.approx(f1_score(a[off], b[off]))
        assert metrics.skeleton_f1(a, b) == pytest.approx(f1_score((a | a.T)[upper], (b | b.T)[upper]))
        assert metrics.edge_f1(a, b) <= metrics.skeleton_f1(a, b)


def test_a_reversed_graph_has_the_right_skeleton_and_no_right_edge():
    graph = random_dag(np.random.default_rng(5), 6)
    assert metrics.edge_f1(graph, graph.T) == 0
    assert metrics.skeleton_f1(graph, graph.T) == 1


def test_scores_of_empty_graphs():
    empty, edge = np.zeros((3, 3)), np.zeros((3, 3))
    edge[0, 1] = 1
    assert metrics.edge_f1(empty, empty) == metrics.skeleton_f1(empty, empty) == 1
    assert metrics.edge_f1(empty, edge) == metrics.edge_f1(edge, empty) == 0
    assert np.isnan(metrics.edge_auprc(empty, np.full((3, 3), 0.5)))


def test_edge_auprc_ignores_the_diagonal_and_agrees_with_scikit_learn():
    rng = np.random.default_rng(6)
    graph, probability = random_dag(rng, 6), rng.random((6, 6))
    off = ~np.eye(6, dtype=bool)
    value = metrics.edge_auprc(graph, probability)
    assert value == pytest.approx(average_precision_score(graph[off], probability[off]))
    assert metrics.edge_auprc(graph, probability + 10 * np.eye(6)) == value
    assert metrics.edge_auprc(graph, graph + 0.1) == 1


@pytest.mark.parametrize("metric", [metrics.shd, metrics.edge_f1, metrics.skeleton_f1, metrics.sid])
def test_relabelling_the_genes_changes_nothing(metric, gadjid):
    rng = np.random.default_rng(7)
    a, b = random_dag(rng, 6), random_dag(rng, 6)
    p = rng.permutation(6)
    assert metric(a, b) == metric(a[np.ix_(p, p)], b[np.ix_(p, p)])


@pytest.mark.parametrize("metric", [metrics.shd, metrics.edge_f1, metrics.skeleton_f1, metrics.sid])
@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), "`true` must be square"),
        (np.zeros((2, 2)), np.zeros((3, 3)), r"shape \(2, 2\) and `predicted` has shape \(3, 3\)"),
        (np.zeros((2, 2)), np.full((2, 2), 0.5), "`predicted` must hold only 0 and 1, found 0.5"),
        (np.zeros((2, 2)), np.full((2, 2), np.nan), "not finite"),
        (np.eye(2), np.zeros((2, 2)), "self-loops"),
        (np.zeros(4), np.zeros((2, 2)), "two-dimensional"),
    ],
)
def test_bad_graphs_are_named(metric, true, predicted, message):
    with pytest.raises(ValueError, match=message):
        metric(true, predicted)
