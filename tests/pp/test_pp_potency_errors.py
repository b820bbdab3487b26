"""The error of the control's mean is in every response: it is neither an effect nor a reason to be sure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scgim.pp._design import Design
from scgim.pp._doses import Responses, _sizes, fit_potency, hill_curves, part_responses

DOSES = (10.0, 100.0, 1_000.0, 10_000.0)
PARTS = [(name, dose) for name in ("A", "B") for dose in DOSES]


def control_error(n_genes: int, length: float, seed: int = 0) -> np.ndarray:
    """An error of the control's mean of this length, in a random direction."""
    error = np.random.default_rng(seed).normal(size=n_genes)
    return length * error / np.linalg.norm(error)


def responses(true: np.ndarray, length: float) -> Responses:
    """True responses of precisely measured conditions against a control whose mean is off by so much."""
    n = true.shape[1]
    shifts = true - control_error(n, length)
    return Responses(shifts, np.full(true.shape, 1e-8), np.full(n, length**2 / n))


@pytest.mark.parametrize("storage", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_responses_and_their_errors_are_means_and_standard_errors(storage) -> None:
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat([-1, 0, 1, 2, 3], [9, 50, 30, 20, 12]))
    x = rng.gamma(2.0, size=(len(codes), 6))
    x[codes == 2, 3] = 0.7  # does not vary there, which is no certainty: the control's spread counts
    labels = ["control", "A_10", "B_10", "A_10+B_10"]
    design = Design(
        pd.DataFrame({"condition": labels, "is_control": [True, False, False, False]}),
        pd.DataFrame({"part": ["A_10", "B_10"], "perturbation": ["A", "B"], "dose": [10.0, 10.0]}),
        np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=np.uint8),
        codes,
    )
    genes = np.array([True, False, True, True, False, True])
    found = part_responses(design, genes, storage(x))
    cells = [x[codes == k][:, genes] for k in range(4)]
    np.testing.assert_allclose(found.control, cells[0].var(0) / 50, rtol=1e-5)
    for part in (0, 1):
        own = cells[part + 1]
        np.testing.assert_allclose(found.shifts[part], own.mean(0) - cells[0].mean(0), rtol=1e-4, atol=1e-6)
        spread = np.maximum(own.var(0), cells[0].var(0))
        np.testing.assert_allclose(found.variance[part], spread / len(own), rtol=1e-5)


def test_an_error_of_the_control_is_no_response(caplog: pytest.LogCaptureFixture) -> None:
    """All doses of all perturbations differ from the control alike: by its own error."""
    half, exponent = fit_potency(responses(np.zeros((8, 300)), 2.0), PARTS, np.ones(8, dtype=bool), ["A", "B"])
    assert "beyond noise" in caplog.text
    np.testing.assert_allclose(half, np.sqrt(10 * 10_000))
    assert exponent == 1.0


def test_an_error_of_the_control_leaves_the_course_over_doses() -> None:
    """It lies along every dose, and so along their common direction: what it adds to each size is taken off again."""
    axis, course = control_error(20_000, 1.0, seed=1), np.array([0.0, 0.1, 0.5, 1.0])
    found = responses(np.outer(course, axis), 0.5)
    size, error, real = _sizes(found, np.arange(4), np.zeros(4, dtype=int), 1)
    assert real
    assert abs(size[0]) < 0.02 * size[3]
    np.testing.assert_allclose(size / size[3], course, atol=0.02)
    assert (error > 0.5 / np.sqrt(20_000)).all()


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_hill_curves_are_as_steep_as_their_exponent(exponent: float) -> None:
    doses, half = np.array([1.0, 10.0, 50.0]), np.array([10.0, 20.0])
    expected = [[d**exponent / (k**exponent + d**exponent) for k in half] for d in doses]
    np.testing.assert_allclose(hill_curves(doses, half, exponent), expected)
