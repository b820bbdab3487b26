"""Hill curves and target sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgim.simulate import draw_hill_parameters, draw_target_sets, hill
from scgim.simulate.interventions import atomic_interventions


def test_hill_curve_has_its_limits_and_its_half():
    assert hill(0.0, 3.0, 1.5, 2.0) == 0.0
    assert hill(1.5, 3.0, 1.5, 2.0) == pytest.approx(1.5)
    assert hill(1e9, 3.0, 1.5, 5.0) == pytest.approx(3.0)
    dose = np.linspace(0.01, 4, 50)
    expected = 3.0 * dose**2.5 / (1.5**2.5 + dose**2.5)
    assert np.allclose(hill(dose, 3.0, 1.5, 2.5), expected)
    assert (np.diff(hill(dose, 3.0, 1.5, 2.5)) > 0).all()


def test_hill_curve_stays_finite_for_extreme_doses():
    with np.errstate(all="raise"):
        assert np.isfinite(hill(np.array([0.0, 1e-300, 1e300]), 2.0, 1.0, 5.0)).all()


def test_target_sets_are_distinct_and_of_both_sizes():
    sets = draw_target_sets(20, 60, rng=3)
    assert len(set(sets)) == 60
    assert all(list(genes) == sorted(set(genes)) for genes in sets)
    sizes = [len(genes) for genes in sets]
    assert set(sizes) == {1, 2}
    # Single targets run out before the last draw: they must not all be among the first perturbations.
    assert any(size == 1 for size in sizes[40:])


def test_target_sets_are_uniform_over_genes():
    drawn = np.concatenate([g for seed in range(400) for g in draw_target_sets(10, 5, rng=seed)])
    counts = np.bincount(drawn, minlength=10)
    assert counts.min() > 0.75 * counts.mean()
    assert counts.max() < 1.25 * counts.mean()


def test_too_many_target_sets_are_refused():
    assert len(draw_target_sets(5, 15)) == 15
    with pytest.raises(ValueError, match="only 15 subsets"):
        draw_target_sets(5, 16)


def test_hill_parameters_stay_in_their_ranges():
    table = draw_hill_parameters(["a"] * 300, [(0, 1)] * 300, ["x", "y"], maximum=(2, 6), rng=1)
    for column, (low, high) in {"maximum": (2, 6), "half_dose": (0.5, 2), "exponent": (1, 5)}.items():
        assert low <= table[column].min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < table[column].max() <= high


def test_atomic_interventions_follow_the_table():
    table = pd.DataFrame(
        {
            "perturbation": ["p", "p", "q"],
            "gene": ["c", "a", "b"],
            "maximum": [2.0, 3.0, 4.0],
            "half_dose": [1.0, 1.0, 2.0],
            "exponent": [1.0, 2.0, 1.0],
        }
    )
    conditions = pd.DataFrame({"perturbation": ["control", "q", "p"], "dose": [0.0, 2.0, 1.0]})
    targets, effects = atomic_interventions(conditions, table, ["a", "b", "c"])
    assert targets.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert np.allclose(effects, [[0, 0, 0], [0, 2.0, 0], [1.5, 0, 1.0]])
