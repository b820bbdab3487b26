"""Features of parts, seen and unseen."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from example_cells import assert_same

from scgim.pp import featurize
from scgim.pp._descriptors import morgan_bits
from scgim.pp._encodings import KINDS, Encoding, new_encoding
from scgim.slots.codec import to_storable

DRUGS = ("Belinostat", "Dacinostat", "Givinostat", "Quisinostat")
PARTS = [(drug, dose) for drug in DRUGS for dose in (10.0, 100.0, 1000.0, 10_000.0)]
GENES = [("KLF1", math.nan), ("MAP2K6", math.nan)]
SMILES = ["CCO", "CCN", "c1ccccc1", "CC(=O)O"]


def make_spec(
    features: Any, parts: list[tuple[str, float]] = PARTS, trained: Any = None, **kwargs: Any
) -> dict[str, Any]:
    has_dose = not math.isnan(parts[0][1])
    encoding = new_encoding(features, parts, has_dose=has_dose, **kwargs)
    encoding.fit(parts, np.ones(len(parts), dtype=bool) if trained is None else trained)
    return encoding.to_dict()


def test_sciplex3_has_the_papers_nine_numbers() -> None:
    spec = make_spec("auto")
    assert list(spec["feature_names"]) == [
        *(f"perturbation={drug}" for drug in DRUGS),
        *(f"dose={dose}" for dose in (10, 100, 1000, 10000)),
        "rescaled_dose",
    ]
    found = featurize(spec, PARTS)
    assert found.shape == (16, 9)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :8].sum(axis=1), 2)
    np.testing.assert_array_equal(found[6], [0, 1, 0, 0, 0, 0, 1, 0, 0.75])


def test_the_same_from_the_stored_spec_and_in_any_order() -> None:
    spec = make_spec("auto")
    order = np.random.default_rng(0).permutation(len(PARTS))
    expected = featurize(spec, PARTS)
    np.testing.assert_array_equal(featurize(to_storable(spec), [PARTS[i] for i in order]), expected[order])


@pytest.mark.parametrize("kind", [*KINDS, "user"])
def test_a_stored_encoding_comes_back_and_can_be_fitted_again(kind: str) -> None:
    features = pd.DataFrame({"x": [1.0, 2, 3, 4]}, index=[*DRUGS]) if kind == "user" else kind
    trained = np.array([part != ("Dacinostat", 100.0) for part in PARTS])
    spec = make_spec(features, smiles=SMILES if kind == "fingerprint" else None)
    again = Encoding.from_dict(to_storable(spec))
    assert_same(again.to_dict(), spec)
    again.fit(PARTS, trained)
    assert_same(again.to_dict(), make_spec(features, trained=trained, smiles=SMILES if kind == "fingerprint" else None))


def test_an_unseen_dose_lies_between_its_neighbours() -> None:
    spec = make_spec("auto")
    low, new, high = featurize(spec, [("Dacinostat", 100.0), ("Dacinostat", 300.0), ("Dacinostat", 1000.0)])
    weight = np.log10(3)
    np.testing.assert_allclose(new, (1 - weight) * low + weight * high, atol=1e-6)


def test_a_dose_held_out_altogether_is_interpolated() -> None:
    parts = [("A", 1.0), ("A", 10.0), ("A", 100.0)]
    spec = make_spec("auto", parts, np.array([True, False, True]))
    assert list(spec["feature_names"]) == ["perturbation=A", "dose=1", "dose=100", "rescaled_dose"]
    np.testing.assert_allclose(featurize(spec, parts)[1], [1, 0.5, 0.5, 0.625])


def test_no_doses_means_one_hot_perturbation() -> None:
    np.testing.assert_array_equal(featurize(make_spec("auto", GENES), GENES), np.eye(2))


def test_onehot_leaves_the_rescaled_dose_out() -> None:
    np.testing.assert_array_equal(featurize(make_spec("onehot"), PARTS), featurize(make_spec("auto"), PARTS)[:, :8])


def test_rescaled_leaves_the_one_hot_dose_out() -> None:
    whole = featurize(make_spec("auto"), PARTS)
    np.testing.assert_array_equal(featurize(make_spec("rescaled"), PARTS), whole[:, [0, 1, 2, 3, 8]])
    middle = featurize(make_spec("rescaled"), [("Dacinostat", 10**2.5)])[0]
    np.testing.assert_allclose(middle[-1], 0.625, rtol=1e-6)


def test_hill_features_rise_with_the_dose_and_belong_to_one_drug() -> None:
    spec = make_spec("hill")
    found = featurize(spec, [("Dacinostat", dose) for dose in (1.0, 10.0, 1e3, 1e6)])
    assert found.shape[1] == 4 * 3 + 1
    assert (np.diff(found[:, 3:6], axis=0) > 0).all()
    assert (found[:, [*range(3), *range(6, 12)]] == 0).all()
    assert (found[:, 3:6] < 1).all()


def test_fingerprints_serve_new_drugs() -> None:
    spec = make_spec("fingerprint", smiles=SMILES)
    known = featurize(spec, PARTS)
    assert np.unique(known, axis=0).shape[0] == 16
    assert [name.startswith("morgan_") for name in spec["feature_names"]].count(False) == 5
    (copy,) = featurize(to_storable(spec), [("New", 10.0)], {"New": "OCC"})
    np.testing.assert_array_equal(copy, known[0])  # ethanol, written the other way round
    assert known[:, :-5].var(axis=0).min() > 0
    with pytest.raises(ValueError, match=r"'New'.*user_features.*Belinostat"):
        featurize(spec, [("New", 10.0)])


def test_fingerprints_are_as_long_as_names_and_old_ones_stay_bits() -> None:
    spec = make_spec("fingerprint", smiles=SMILES)
    assert np.linalg.norm(featurize(spec, PARTS)[:, :-5], axis=1).mean() == pytest.approx(1.0)
    before = {name: value for name, value in spec.items() if name != "scale"}  # stored without one
    assert set(np.unique(featurize(before, PARTS)[:, :-5])) == {0.0, 1.0}


def test_unreadable_smiles_are_named() -> None:
    with pytest.raises(ValueError, match=r"B .'not a molecule'., C"):
        morgan_bits({"A": "CCO", "B": "not a molecule", "C": ""}, radius=2, n_bits=1024)


def test_identical_fingerprints_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="scgim"):
        make_spec("fingerprint", smiles=["CCO", "OCC", "c1ccccc1", "CC(=O)O"])
    assert "the same fingerprint as another: 1" in caplog.text


def test_user_matrix_by_perturbation_gets_dose_columns() -> None:
    frame = pd.DataFrame({"x": [1.0, 2, 3, 4], "y": [0, 1, 0, 1]}, index=[*DRUGS[::-1]])
    spec = make_spec(frame)
    assert list(spec["feature_names"][:2]) == ["x", "y"]
    found = featurize(spec, [("Quisinostat", 10.0), ("Belinostat", 10.0)])
    np.testing.assert_array_equal(found[:, :2], [[1, 0], [4, 1]])
    assert found.shape[1] == 2 + 5
    new = pd.DataFrame({"y": [7], "x": [9.0]}, index=["New"])
    np.testing.assert_array_equal(featurize(to_storable(spec), [("New", 10.0)], new)[0, :2], [9, 7])


def test_user_matrix_by_part_is_taken_as_it_is() -> None:
    labels = [f"{drug}_{dose:g}" for drug, dose in PARTS]
    frame = pd.DataFrame(np.arange(32.0).reshape(16, 2), index=labels)
    np.testing.assert_array_equal(featurize(make_spec(frame), PARTS), frame.to_numpy())


def test_a_matrix_by_part_that_lacks_one_names_that_one() -> None:
    labels = [f"{drug}_{dose:g}" for drug, dose in PARTS]
    frame = pd.DataFrame(np.ones((15, 2)), index=labels[1:], columns=["x", "y"])
    with pytest.raises(ValueError, match=rf"no row for '{labels[0]}'\."):
        make_spec(frame)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"x": [1.0]}, index=["KLF1"]), "no row for 'MAP2K6'"),
        (
            pd.DataFrame({"x": [1.0, np.nan]}, index=["KLF1", "MAP2K6"]),
            "missing or infinite values for 'MAP2K6'",
        ),
        (
            pd.DataFrame({"x": [np.inf, 1.0]}, index=["KLF1", "MAP2K6"]),
            "missing or infinite values for 'KLF1'",
        ),
        (pd.DataFrame({"x": ["a", "b"]}, index=["KLF1", "MAP2K6"]), "'x' are not numeric"),
        (pd.DataFrame({"x": [1, 2, 3]}, index=["KLF1", "MAP2K6", "KLF1"]), "must be unique"),
        (pd.DataFrame(index=["KLF1", "MAP2K6"]), "no columns"),
    ],
)
def test_a_bad_user_matrix_is_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_spec(frame, GENES)


@pytest.mark.parametrize(
    ("features", "part", "message"),
    [
        (
            "auto",
            ("Dacinostatt", 10.0),
            r"'Dacinostatt'.*Did you mean 'Dacinostat'.*'Belinostat'.*fingerprint",
        ),
        ("hill", ("New", 10.0), "'New' was not seen"),
        ("auto", ("Dacinostat", math.nan), "need a dose.*'Dacinostat'"),
        ("auto", ("Dacinostat", 0.0), "need a dose.*'Dacinostat'"),
    ],
)
def test_parts_that_cannot_be_featurised_are_named(features: str, part: tuple[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        featurize(make_spec(features), [part])


def test_a_dose_where_there_are_none_is_refused() -> None:
    with pytest.raises(ValueError, match="without doses"):
        featurize(make_spec("auto", GENES), [("KLF1", 3.0)])


def test_a_perturbation_never_trained_on_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="scgim"):
        make_spec("auto", GENES, np.array([True, False]))
    assert "held out altogether: 'MAP2K6'" in caplog.text
