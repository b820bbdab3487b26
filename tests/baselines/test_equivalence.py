"""Equivalence classes: against all DAGs by brute force, drawn members, favoured orientation."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from scgim.baselines.equivalence import draw_dag, essential_graph, favour
from scgim.metrics import is_acyclic
from scgim.simulate import random_dag


def graph(n: int, *edges: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros((n, n), dtype=bool)
    for cause, effect in edges:
        matrix[cause, effect] = True
    return matrix


def undirected(n: int, *edges: tuple[int, int]) -> np.ndarray:
    matrix = graph(n, *edges)
    return matrix | matrix.T


def v_structures(dag: np.ndarray) -> set[tuple[int, int, int]]:
    found = set()
    for child in range(len(dag)):
        for a, b in combinations(np.flatnonzero(dag[:, child]).tolist(), 2):
            if not (dag[a, b] or dag[b, a]):
                found.add((a, b, child))
    return found


def augmented(dag: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """With one more node per condition, before its targets."""
    whole = np.zeros((len(dag) + len(targets),) * 2, dtype=bool)
    whole[: len(dag), : len(dag)] = dag
    whole[len(dag) :, : len(dag)] = targets
    return whole


def class_by_brute_force(dag: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Union of all DAGs with the same skeleton and v-structures, the targets' nodes included."""
    pairs = np.argwhere(np.triu(dag | dag.T))
    wanted = v_structures(augmented(dag, targets))
    union = np.zeros_like(dag)
    for flips in product([False, True], repeat=len(pairs)):
        other = graph(len(dag), *[(j, i) if flip else (i, j) for (i, j), flip in zip(pairs, flips, strict=True)])
        if is_acyclic(other) and v_structures(augmented(other, targets)) == wanted:
            union |= other
    return union


@pytest.mark.parametrize("seed", range(30))
def test_the_class_is_the_union_of_its_members(seed):
    rng = np.random.default_rng(seed)
    dag = random_dag(5, edges_per_gene=rng.uniform(0.5, 2.0), rng=rng).astype(bool)
    targets = rng.random((int(rng.integers(0, 3)), 5)) < 0.25
    np.testing.assert_array_equal(essential_graph(dag, targets), class_by_brute_force(dag, targets))


def test_chain_fork_and_collider():
    line = undirected(3, (0, 1), (1, 2))
    np.testing.assert_array_equal(essential_graph(graph(3, (0, 1), (1, 2))), line)
    np.testing.assert_array_equal(essential_graph(graph(3, (1, 0), (1, 2))), line)
    collider = graph(3, (0, 1), (2, 1))
    np.testing.assert_array_equal(essential_graph(collider), collider)


def test_a_target_tells_the_direction_of_its_edges():
    # 1 is a target: 0 - 1 and 1 - 2 are both told apart, and 2 - 3 follows
    chain = graph(4, (0, 1), (1, 2), (2, 3))
    np.testing.assert_array_equal(essential_graph(chain, np.array([[0, 1, 0, 0]])), chain)
    # Both ends are targets of the same condition: nothing new
    pair = graph(2, (0, 1))
    np.testing.assert_array_equal(essential_graph(pair, np.array([[1, 1]])), pair | pair.T)


@pytest.mark.parametrize("seed", range(20))
def test_drawn_graphs_are_members(seed):
    rng = np.random.default_rng(seed)
    dag = random_dag(9, edges_per_gene=rng.uniform(0.5, 3.0), rng=rng).astype(bool)
    targets = rng.random((int(rng.integers(0, 3)), 9)) < 0.15
    learned = essential_graph(dag, targets)
    drawn = draw_dag(learned, rng)
    assert is_acyclic(drawn)
    assert v_structures(drawn) == v_structures(dag)
    np.testing.assert_array_equal(essential_graph(drawn, targets), learned)


def test_every_member_of_a_chain_comes_out_and_the_seed_decides():
    line = undirected(3, (0, 1), (1, 2))
    drawn = {draw_dag(line, seed).tobytes() for seed in range(40)}
    assert len(drawn) == 3  # all orientations but the collider
    np.testing.assert_array_equal(draw_dag(line, 7), draw_dag(line, 7))


def test_a_class_without_members_still_gives_a_dag():
    square = undirected(4, (0, 1), (1, 2), (2, 3), (3, 0))  # every orientation has a cycle or a v-structure
    drawn = draw_dag(square, 0)
    assert is_acyclic(drawn)
    np.testing.assert_array_equal(drawn | drawn.T, square)
    assert len(v_structures(drawn)) == 1  # the fewest that is possible


def test_directed_edges_stay_where_they_have_no_cycle():
    # 0 -> 1 <- 2 with 1 - 3: any direction of 1 - 3 is fine only as 1 -> 3; 3 - 4 - 5 - 6 - 3 has no extension
    learned = graph(7, (0, 1), (2, 1)) | undirected(7, (1, 3), (3, 4), (4, 5), (5, 6), (6, 3))
    for seed in range(10):
        drawn = draw_dag(learned, seed)
        assert is_acyclic(drawn)
        assert drawn[0, 1] and drawn[2, 1]


def test_a_directed_cycle_loses_one_edge():
    cycle = graph(6, (0, 1), (1, 2), (2, 0), (3, 0), (2, 4), (4, 5))
    for seed in range(10):
        drawn = draw_dag(cycle, seed)
        assert is_acyclic(drawn)
        np.testing.assert_array_equal(drawn | drawn.T, cycle | cycle.T)
        assert (cycle & ~drawn).sum() == 1
        assert drawn[3, 0] and drawn[2, 4] and drawn[4, 5]


@pytest.mark.parametrize("seed", range(10))
def test_favoured_the_true_class_is_the_truth(seed):
    dag = random_dag(8, edges_per_gene=1.5, rng=seed).astype(bool)
    np.testing.assert_array_equal(favour(essential_graph(dag), dag, seed), dag)


def test_favour_changes_no_directed_edge():
    truth = graph(3, (0, 1))
    np.testing.assert_array_equal(favour(truth.T, truth, 0), truth.T)


def test_edges_that_are_not_true_are_directed_at_random():
    truth = graph(4, (2, 3))
    learned = undirected(4, (0, 1), (2, 3))
    found = [favour(learned, truth, seed) for seed in range(60)]
    assert all(f[2, 3] and not f[3, 2] for f in found)
    assert all(f[0, 1] != f[1, 0] for f in found)
    assert 15 < sum(f[0, 1] for f in found) < 45


def test_random_directions_close_no_cycle():
    truth = graph(4, (0, 1), (1, 2), (2, 3))
    learned = undirected(4, *combinations(range(4), 2))
    assert all(is_acyclic(favour(learned, truth, seed)) for seed in range(30))


def test_bad_input():
    with pytest.raises(ValueError, match=r"must agree"):
        favour(np.zeros((2, 2)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"`cpdag` must be square"):
        draw_dag(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="`cpdag` has self-loops"):
        draw_dag(np.eye(2))
    with pytest.raises(ValueError, match=r"`targets` must be \(conditions, 2 genes\)"):
        essential_graph(np.zeros((2, 2)), np.zeros((1, 3)))
