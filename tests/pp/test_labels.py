"""Labels: combinations, parts, and perturbations as people write them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scgim.pp import parse_perturbations
from scgim.pp._labels import condition_label, part_label, sort_parts, split_label


@pytest.mark.parametrize(
    ("label", "pieces"),
    [
        ("KLF1", ["KLF1"]),
        ("KLF1+MAP2K6", ["KLF1", "MAP2K6"]),
        ("A + B +C", ["A", "B", "C"]),
        ("(+)-JQ1", ["(+)-JQ1"]),
        ("(+)-JQ1+A", ["(+)-JQ1", "A"]),
        ("CD4+", ["CD4+"]),
        ("A++B", ["A++B"]),
        ("Na[+]", ["Na[+]"]),
    ],
)
def test_labels_are_split_at_separators_only(label: str, pieces: list[str]) -> None:
    assert split_label(label, "+") == pieces


def test_another_separator_or_none() -> None:
    assert split_label("A_B", "_") == ["A", "B"]
    assert split_label("A+B", None) == ["A+B"]


def test_part_labels_never_contain_the_separator() -> None:
    assert part_label("A", 10_000.0) == "A_10000"
    assert part_label("A", 0.1) == "A_0.1"
    assert part_label("A", 1e6) == "A_1e06"
    assert float("1e06") == 1e6
    assert part_label("A") == "A"


names = st.sampled_from(["A", "B", "C"])
doses = st.sampled_from([0.1, 1.0, 10.0])


@given(st.lists(st.tuples(names, doses), max_size=4), st.randoms())
def test_conditions_have_one_label_in_any_order(parts: list[tuple[str, float]], random: Any) -> None:
    shuffled = random.sample(parts, len(parts))
    assert condition_label(sort_parts(parts), "c") == condition_label(sort_parts(shuffled + parts), "c")


@pytest.mark.parametrize(
    ("given_", "label", "parts"),
    [
        ("control", "control", []),
        (("A", 10), "A_10", [("A", 10.0)]),
        (("A", "0.01 uM"), "A_10", [("A", 10.0)]),
        (("A+B", 10), "A_10+B_10", [("A", 10.0), ("B", 10.0)]),
        ([[("B", 3), ("A", 10)]], "A_10+B_3", [("A", 10.0), ("B", 3.0)]),
        (["A_7"], "A_7", [("A", 7.0)]),
        ([[("A", 10), "control"]], "A_10", [("A", 10.0)]),
    ],
)
def test_perturbations_with_doses(given_: Any, label: str, parts: list[tuple[str, float]]) -> None:
    found = parse_perturbations(given_, control="control", has_dose=True, dose_unit="nM", known={"A_7": [("A", 7.0)]})
    assert found == [(label, parts)]


@pytest.mark.parametrize(
    ("given_", "labels"),
    [
        ("A", ["A"]),
        ("B+A", ["A+B"]),
        ([["B", "A"]], ["A+B"]),
        (["A", "B+A", "NT"], ["A", "A+B", "NT"]),
        ([("A", None)], ["A"]),
        ([("A", math.nan)], ["A"]),
    ],
)
def test_perturbations_without_doses(given_: Any, labels: list[str]) -> None:
    found = parse_perturbations(given_, control="NT", has_dose=False)
    assert [label for label, _ in found] == labels
    assert all(math.isnan(dose) for _, parts in found for _, dose in parts)


@pytest.mark.parametrize(
    ("given_", "has_dose", "message"),
    [
        ("A", True, "'A' needs a dose"),
        (("A", 0), True, "must be positive"),
        (("A", -1.0), True, "must be positive"),
        (("A", math.inf), True, "must be positive"),
        ([("A", "3 ng/ml")], True, "'ng/ml' cannot be used here"),
        ([("A", 10)], False, "without doses"),
        ([""], False, "empty name"),
        ([3], False, "is not a perturbation"),
        ([("A", 1, 2)], False, "is not a perturbation"),
        (3, False, "perturbations must be"),
        ({"A": 3}, True, "perturbations must be"),
        ([[]], False, "is not a perturbation"),
    ],
)
def test_other_input_is_refused(given_: Any, has_dose: bool, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        parse_perturbations(given_, control="control", has_dose=has_dose, dose_unit="nM")
