"""Specific changes: what sets a perturbation apart from others that move the same programme."""

from __future__ import annotations

import numpy as np

from scgim.inference.targets import specific_changes

N_GENES, N_PATHWAY = 40, 12


def knockouts(seed: int) -> np.ndarray:
    """(6 knock-outs, genes): four of one pathway, two alone; each lowers a gene of its own, less than the programme."""
    rng = np.random.default_rng(seed)
    program = np.zeros(N_GENES)
    program[:N_PATHWAY] = -rng.uniform(10, 30, N_PATHWAY)
    out = np.vstack([np.outer(rng.uniform(0.7, 1.2, 4), program), np.zeros((2, N_GENES))])
    out += rng.normal(size=out.shape)
    out[np.arange(6), N_PATHWAY + np.arange(6)] -= 10
    return out


def test_the_own_gene_comes_first_although_the_programme_moves_more() -> None:
    for seed in range(5):
        changes = knockouts(seed)
        own = N_PATHWAY + np.arange(6)
        assert (np.abs(changes).argmax(1)[:4] != own[:4]).all()
        assert (np.abs(specific_changes(changes, np.eye(6, dtype=bool))).argmax(1) == own).all()


def test_related_conditions_are_not_taken_out_of_each_other() -> None:
    changes = np.vstack([knockouts(0)[0], knockouts(1)[0]])
    np.testing.assert_array_equal(specific_changes(changes, np.ones((2, 2), dtype=bool)), changes)
    np.testing.assert_array_equal(specific_changes(changes, np.eye(2, dtype=bool), 0), changes)


def test_genes_in_another_order_give_the_same() -> None:
    changes, order = knockouts(2), np.random.default_rng(3).permutation(N_GENES)
    found = specific_changes(changes, np.eye(6, dtype=bool))
    np.testing.assert_allclose(specific_changes(changes[:, order], np.eye(6, dtype=bool)), found[:, order], atol=1e-3)


def test_conditions_without_any_change_stay_at_zero() -> None:
    changes = knockouts(0)
    changes[5] = 0.0
    found = specific_changes(changes, np.eye(6, dtype=bool))
    assert np.isfinite(found).all()
    assert (found[5] == 0).all()
    assert (specific_changes(np.zeros((3, 5)), np.eye(3, dtype=bool)) == 0).all()


def test_sparse_changes_are_no_trouble() -> None:
    """Genes that no condition changes at all, and directions that fit exactly."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        changes = np.outer(rng.normal(size=6), rng.normal(size=30)) * 5 + rng.normal(size=(6, 30))
        changes[:, rng.random(30) < 0.6] = 0.0
        assert np.isfinite(specific_changes(changes, np.eye(6, dtype=bool))).all()
    exact = np.outer(np.arange(1.0, 5), rng.normal(size=20))
    np.testing.assert_allclose(specific_changes(exact, np.eye(4, dtype=bool)), 0.0, atol=1e-6)
