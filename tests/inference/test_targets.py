"""Targets from evidence: what is shared, what is noise of conditions, and how sure a call is."""

import numpy as np
import pytest

from scgim.inference.targets import how_sure, null_variance, read_targets


def read(changes: np.ndarray, features: np.ndarray, sparsity: float = 7.0) -> np.ndarray:
    return read_targets(0.5 * changes**2, changes, features, np.full(len(changes), 100.0), sparsity)


def noise(seed: int, n_conditions: int, n_genes: int, spread: float = 1.0) -> np.ndarray:
    return spread * np.random.default_rng(seed).standard_normal((n_conditions, n_genes))


def test_like_conditions_share_their_evidence_and_others_do_not():
    # Four doses of one drug with a weak gain each, and four drugs with the same gain.
    weak = np.full((4, 1), np.sqrt(2 * 4.2))
    doses, drugs = np.ones((4, 1)), np.eye(4)
    assert (read(weak, doses) > 0).all()
    assert (read(weak, drugs) < 0).all()
    assert (read(weak + 2.0, drugs) > 0).all()
    strong_elsewhere = np.array([[11.0], [11.0], [11.0], [0.4]])
    assert read(strong_elsewhere, doses)[3, 0] < 0  # others do not decide alone


def test_variance_of_changes_is_that_of_theory_where_theory_holds_and_larger_where_conditions_differ():
    n = np.full(30, 200.0)
    null = np.ones((30, 40))
    assert null_variance(noise(0, 30, 40), null, n).mean() < 1.1
    wide = noise(1, 30, 40)
    wide[:, 0] *= 3.0
    found = null_variance(wide, null, n)
    assert found[0, 0] > 3 > 1.5 > np.median(found)
    assert null_variance(noise(2, 1, 3, 9.0), np.ones((1, 3)), n[:1]).max() < 10  # three numbers tell little


@pytest.mark.parametrize("seed", range(3))
def test_conditions_that_differ_by_chance_have_few_targets_and_a_strong_change_stays_one(seed):
    changes = noise(seed, 25, 40, 1.6)
    changes[3, 5] = 14.0
    odds = read(changes, np.eye(25))
    assert odds[3, 5] > 0
    by_theory = read_targets(0.5 * changes**2, changes * 0, np.eye(25), np.ones(25), 7.0) > 0
    assert (odds > 0).sum() <= 3 < 6 < by_theory.sum()


def test_a_change_of_its_own_is_surer_than_a_stronger_one_of_a_shared_programme():
    changes = noise(0, 12, 30)
    changes[:5, :10] += 20.0  # one programme in five unrelated perturbations
    changes[0, 20] = 9.0  # and what only the first does
    arguments = 0.5 * changes**2, changes, np.eye(12), np.eye(12, dtype=bool), np.full(12, 100.0), 6.0
    odds = how_sure(*arguments)
    assert odds[0].argmax() == 20
    assert (odds[0, :10] > 0).all()  # the model still needs them
    np.testing.assert_array_equal(odds > 0, read_targets(*arguments[:3], *arguments[4:]) > 0)
    related = arguments[3].copy()
    related[:5, :5] = True  # doses of one drug do not explain each other away
    assert how_sure(*arguments[:3], related, *arguments[4:])[0, :10].min() > odds[0, :10].max()


def test_stronger_evidence_is_surer_and_never_saturates():
    changes = noise(0, 8, 12)
    changes[0, :4] = [10.0, 20.0, 40.0, 80.0]
    odds = how_sure(0.5 * changes**2, changes, np.eye(8), np.eye(8, dtype=bool), np.full(8, 100.0), 6.0)
    assert (np.diff(odds[0, :4]) > 0.1).all()
    assert np.isfinite(odds).all() and odds.max() < 12
