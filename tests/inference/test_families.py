"""Which mechanism and intervention continuous cells choose for themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgim.benchmark import SyntheticTask
from scgim.inference import TrainingData, make_config
from scgim.inference.families import choose_family, gain_of_curves

BOTH = ("linear", "mlp"), ("hard", "shift")
SMALL = {"n_genes": 8, "n_perturbations": 10, "n_control": 400, "cells_per_condition": 40}
SMALL |= {"n_features": 8, "n_new_targets": 0}


def system(mechanism: str, intervention: str, seed: int = 3) -> TrainingData:
    task = SyntheticTask(mechanism=mechanism, intervention=intervention, seed=seed, **SMALL)
    return TrainingData.of(task.load().train)


def chain(curved: bool, n: int = 400, seed: int = 0) -> np.ndarray:
    """a -> b -> c, along lines or curves."""
    rng = np.random.default_rng(seed)
    a, *noise = rng.normal(size=(3, n))
    b = (np.abs(a) if curved else a) + 0.5 * noise[0]
    return np.stack([a, b, b + 0.5 * noise[1]], axis=1)


def test_a_curve_gains_where_there_is_one() -> None:
    for seed in range(5):
        assert gain_of_curves(chain(curved=True, seed=seed)) > 20
        assert gain_of_curves(chain(curved=False, seed=seed)) < 0.75  # a quarter of a nat per gene


def test_units_and_the_order_of_genes_have_no_part() -> None:
    x = chain(curved=True)
    same = gain_of_curves(x[:, [2, 0, 1]] * [1.0, 100.0, 0.01] + [5.0, 0.0, -7.0])
    np.testing.assert_allclose(same, gain_of_curves(x), rtol=1e-6)


def test_few_cells_or_still_genes_are_no_evidence_of_a_curve() -> None:
    assert gain_of_curves(chain(curved=True)[:20]) == 0.0
    still = np.column_stack([chain(curved=False)[:, 0], np.ones(400)])
    assert gain_of_curves(still) == 0.0


@pytest.mark.parametrize("mechanism", BOTH[0])
@pytest.mark.parametrize("intervention", BOTH[1])
def test_the_family_that_drew_the_cells_is_chosen(mechanism, intervention) -> None:
    data = system(mechanism, intervention)
    found, evidence = choose_family(data, make_config("default"), *BOTH)
    assert (found.mechanism, found.intervention) == (mechanism, intervention)
    assert (evidence["mlp over linear"] > 2, evidence["shift over hard"] > 0) == (
        mechanism == "mlp", intervention == "shift",
    )  # fmt: skip
    order = torch.as_tensor(np.random.default_rng(0).permutation(len(data.x)))
    assert choose_family(data.of_cells(order), make_config("default"), *BOTH) == (found, evidence)


def test_what_is_given_is_not_compared() -> None:
    data = system("mlp", "shift")
    config = make_config("default", mechanism="linear", n_shakes=3)
    found, evidence = choose_family(data, config, ("linear",), BOTH[1])
    assert (found.mechanism, found.n_shakes, list(evidence)) == ("linear", 3, ["shift over hard"])
    found, evidence = choose_family(data, make_config("default"), BOTH[0], ("hard",))
    assert (found.intervention, list(evidence)) == ("hard", ["mlp over linear"])
