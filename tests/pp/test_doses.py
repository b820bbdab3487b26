"""Doses: reading them, their units, and what they become as features."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scgim.pp._doses import (
    clean_unit,
    common_unit,
    convert_dose,
    dose_one_hot,
    hill_curves,
    parse_dose,
    rescaled_dose,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (10, (10.0, "")),
        (np.float32(0.5), (0.5, "")),
        ("10", (10.0, "")),
        ("10 nM", (10.0, "nM")),
        ("10nM", (10.0, "nM")),
        (" 0.01 uM ", (0.01, "uM")),
        ("0.01 µM", (0.01, "uM")),
        ("0.01μM", (0.01, "uM")),
        ("1e3 nM", (1000.0, "nM")),
        ("1E-2uM", (0.01, "uM")),
        ("10,000 nM", (10000.0, "nM")),
        (".5 mM", (0.5, "mM")),
        ("2 M", (2.0, "M")),
        ("3 ng/mL", (3.0, "ng/ml")),
        ("5 µmol/L", (5.0, "uM")),
        ("4 Gy", (4.0, "Gy")),
        ("0", (0.0, "")),
    ],
)
def test_doses_are_read(text: object, expected: tuple[float, str]) -> None:
    assert parse_dose(text) == expected


@pytest.mark.parametrize("text", [None, np.nan, "", "nan", "NA", "None"])
def test_missing_doses_are_nan(text: object) -> None:
    assert math.isnan(parse_dose(text)[0])


@pytest.mark.parametrize(
    "text",
    ["high", "10^-6 M", "10 nM 24h", "10 nM+1 uM", "10-100", "nM", "0,5", "1,00", "--3", "1.2.3", "10+100"],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a dose"):
        parse_dose(text)


@given(st.floats(1e-6, 1e9), st.sampled_from(["pM", "nM", "uM", "mM", "M"]), st.sampled_from(["nM", "uM", "M"]))
def test_conversion_is_undone_by_its_inverse(dose: float, unit: str, to: str) -> None:
    there = convert_dose(dose, unit, to)
    assert convert_dose(there, to, unit) == pytest.approx(dose, rel=2e-5)


def test_ten_nanomolar_is_a_hundredth_micromolar() -> None:
    assert convert_dose(0.01, "uM", "nM") == 10.0
    assert clean_unit("um") == clean_unit("µM") == "uM"


def test_one_unit_is_kept_and_several_become_nanomolar() -> None:
    assert common_unit([("uM", "A")], "dose") == "uM"
    assert common_unit([("uM", "A"), ("nM", "B")], "dose") == "nM"
    assert common_unit([("mg/ml", "A"), ("ug/ml", "B")], "dose") == "ng/ml"
    assert common_unit([("", "A")], "dose") == ""


@pytest.mark.parametrize("used", [[("nM", "A"), ("", "A")], [("nM", "A"), ("ng/ml", "B")], [("Gy", "A"), ("nM", "B")]])
def test_units_that_do_not_fit_are_refused(used: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"dose_key='dose'.*mixed units.*'A'"):
        common_unit(used, "dose")


levels = st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=6, unique=True).map(lambda v: np.sort(v))


@example(np.array([0.0011983642578125, np.nextafter(0.0011983642578125, 1)]))  # one logarithm
@given(levels)
def test_one_hot_is_exact_at_seen_doses(seen: np.ndarray) -> None:
    np.testing.assert_array_equal(dose_one_hot(seen, seen), np.eye(len(seen)))


@given(levels, st.floats(1e-5, 1e7))
def test_one_hot_sums_to_one_and_mixes_neighbours_only(seen: np.ndarray, dose: float) -> None:
    (row,) = dose_one_hot(np.array([dose]), seen)
    assert row.sum() == pytest.approx(1.0)
    assert (row >= 0).all()
    used = np.flatnonzero(row)
    assert len(used) <= 2
    assert used[-1] - used[0] <= 1
    if seen[0] < dose < seen[-1]:  # the mixture has the right log dose
        assert row @ np.log10(seen) == pytest.approx(np.log10(dose), abs=1e-6)


def test_rescaled_dose_of_sciplex3_is_a_quarter_of_the_logarithm() -> None:
    doses = np.array([10.0, 30.0, 100.0, 1000.0, 10_000.0])
    np.testing.assert_allclose(rescaled_dose(doses, 10.0, 10_000.0), np.log10(doses) / 4)


@given(st.floats(1e-3, 1e3), st.floats(1.01, 1e4))
def test_rescaled_dose_spans_a_quarter_to_one_in_any_range(low: float, ratio: float) -> None:
    doses = np.geomspace(low, low * ratio, 5)
    scaled = rescaled_dose(doses, doses[0], doses[-1])
    np.testing.assert_allclose(scaled, np.linspace(0.25, 1.0, 5))


def test_a_single_dose_is_one() -> None:
    np.testing.assert_allclose(rescaled_dose(np.array([5.0, 50.0]), 5.0, 5.0), [1.0, 1.25])


def test_hill_curves_rise_and_are_half_at_k() -> None:
    half = np.array([1.0, 10.0])
    curves = hill_curves(np.geomspace(0.01, 1000, 20), half)
    assert (np.diff(curves, axis=0) > 0).all()
    np.testing.assert_allclose(np.diag(hill_curves(half, half)), 0.5)
