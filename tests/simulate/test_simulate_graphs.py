"""Random DAGs and their causal order."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scgim.simulate import random_dag, topological_order


@pytest.mark.parametrize("kind", ["er", "sf"])
@given(n_genes=st.integers(2, 30), edges=st.floats(0, 4), seed=st.integers(0, 10_000))
def test_is_a_dag_whose_order_puts_causes_first(kind, n_genes, edges, seed):
    graph = random_dag(n_genes, kind=kind, edges_per_gene=edges, rng=seed)
    assert nx.is_directed_acyclic_graph(nx.from_numpy_array(graph, create_using=nx.DiGraph))
    order = topological_order(graph)
    assert sorted(order) == list(range(n_genes))
    position = np.argsort(order)
    causes, effects = np.nonzero(graph)
    assert (position[causes] < position[effects]).all()


def test_erdos_renyi_has_the_expected_number_of_edges():
    edges = [random_dag(20, kind="er", rng=seed).sum() for seed in range(300)]
    # 190 pairs with probability 4 / 19: mean 40, standard error 0.32.
    assert abs(np.mean(edges) - 40) < 1.5


def test_scale_free_has_hubs_among_the_causes_and_bounded_parents():
    graphs = [random_dag(50, kind="sf", rng=seed) for seed in range(30)]
    assert all(graph.sum(axis=0).max() == 2 for graph in graphs)
    assert all(graph.sum() == 2 * 50 - 3 for graph in graphs)
    random = [random_dag(50, kind="er", rng=seed) for seed in range(30)]
    assert np.mean([graph.sum(axis=1).max() for graph in graphs]) > 1.5 * np.mean(
        [graph.sum(axis=1).max() for graph in random]
    )


def test_the_causal_order_is_not_the_order_of_the_names():
    last = [int(topological_order(random_dag(10, rng=seed))[-1]) for seed in range(200)]
    assert len(set(last)) == 10


@pytest.mark.parametrize("kind", ["er", "sf"])
def test_seeded(kind):
    first = random_dag(20, kind=kind, rng=1)
    assert np.array_equal(first, random_dag(20, kind=kind, rng=1))
    assert not np.array_equal(first, random_dag(20, kind=kind, rng=2))


def test_a_cycle_has_no_order():
    with pytest.raises(ValueError, match="cycle"):
        topological_order(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_genes": 5, "kind": "ba"}, "'ba'"),
        ({"n_genes": 1}, "n_genes"),
        ({"n_genes": 5, "edges_per_gene": -1}, "edges_per_gene"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_dag(**arguments)
