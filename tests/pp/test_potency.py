"""`features="potency"`: half-doses read from the training cells, and curves around them."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import scgim
from scgim.pp import featurize
from scgim.pp._design import Design
from scgim.pp._doses import Responses, _sizes, fit_potency, hill_curves, part_responses
from scgim.pp._encodings import new_encoding
from scgim.slots.codec import to_storable

DOSES = (10.0, 100.0, 1_000.0, 10_000.0)
HALF = {"Potent": 30.0, "Middle": 300.0, "Weak": 3_000.0}
PARTS = [(name, dose) for name in sorted(HALF) for dose in DOSES]


def responses(
    noise: float = 0.02, exponent: float = 1.2, maximum: float = 1.0, only: tuple[str, ...] = tuple(HALF), seed: int = 0
) -> Responses:
    """Along one direction of its own per perturbation, of the same length; perturbations not in `only` do nothing."""
    rng = np.random.default_rng(seed)
    axis = {name: rng.normal(size=20) for name in HALF}
    axis = {name: maximum * v / np.linalg.norm(v) * (name in only) for name, v in axis.items()}
    rows = [axis[name] / (1 + (HALF[name] / dose) ** exponent) for name, dose in PARTS]
    shifts = np.array(rows) + noise * rng.normal(size=(len(PARTS), 20)) + 0.3 * noise * rng.normal(size=20)
    return Responses(shifts, np.full(shifts.shape, noise**2), np.full(20, (0.3 * noise) ** 2))


def half_doses(found: Responses, trained: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    return fit_potency(found, PARTS, np.ones(len(PARTS), dtype=bool) if trained is None else trained, sorted(HALF))


def cells(n: int = 60) -> AnnData:
    """Counts of three drugs that raise five genes, each around its half-dose."""
    rng = np.random.default_rng(1)
    labels = [("control", 0.0), *PARTS]
    level = np.concatenate([np.full(n, 0.0 if d == 0 else 1 / (1 + HALF[name] / d)) for name, d in labels])
    rate = np.full((len(level), 12), 5.0)
    rate[:, :5] *= np.exp(1.5 * level)[:, None]
    obs = pd.DataFrame({"drug": np.repeat([p for p, _ in labels], n), "dose": np.repeat([d for _, d in labels], n)})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    adata = AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)), obs=obs)
    adata.var_names = [f"g{i}" for i in range(12)]
    return adata


ARGUMENTS = {"perturbation_key": "drug", "dose_key": "dose", "min_counts": 1, "n_genes": 6, "features": "potency"}


@pytest.mark.parametrize("held_out", [None, "Weak"])
def test_planted_half_doses_come_back(held_out) -> None:
    trained = np.array([(name, dose) != (held_out, 10_000.0) for name, dose in PARTS])
    half, exponent = half_doses(responses(), trained)
    for name, found in zip(sorted(HALF), half, strict=True):
        assert abs(np.log(found / HALF[name])) < np.log(2 if name == held_out else 1.5)
    assert 1.0 < exponent < 1.5


def test_what_is_held_out_is_not_looked_at() -> None:
    trained = np.array([part != ("Weak", 10_000.0) for part in PARTS])
    given, changed = responses(), responses()
    changed.shifts[~trained] = 1e3
    (half, exponent), (half_too, exponent_too) = (half_doses(found, trained) for found in (given, changed))
    np.testing.assert_array_equal(half, half_too)
    assert exponent == exponent_too


def test_a_perturbation_without_cells_of_its_own_is_typical(caplog) -> None:
    trained = np.array([name != "Potent" for name, _ in PARTS])
    with caplog.at_level(logging.WARNING, logger="scgim"):
        half, _ = half_doses(responses(), trained)
    assert "Potent" in caplog.text
    assert half[1] == pytest.approx(np.median(half[[0, 2]]))


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_potency(seed, caplog) -> None:
    """Where nothing responds, no perturbation is potent; where one does, the others are weak, not potent."""
    with caplog.at_level(logging.WARNING, logger="scgim"):
        half, exponent = half_doses(responses(noise=0.1, maximum=0.0, seed=seed))
    assert "beyond noise" in caplog.text
    np.testing.assert_allclose(half, np.sqrt(10 * 10_000))
    assert exponent == 1.0
    half, _ = half_doses(responses(noise=0.1, only=("Middle",), seed=seed))
    assert abs(np.log(half[0] / HALF["Middle"])) < np.log(3)
    assert (half[1:] > 5_000).all()


def test_one_outlier_does_not_move_the_others() -> None:
    found = responses()
    rows = [i for i, (name, _) in enumerate(PARTS) if name == "Potent"]
    found.shifts[rows] *= 10
    half, _ = half_doses(found)
    for name, value in zip(sorted(HALF), half, strict=True):
        assert abs(np.log(value / HALF[name])) < np.log(2)


def test_many_perturbations_take_no_other_path() -> None:
    """Beyond fifty the derivatives are sparse."""
    rng = np.random.default_rng(0)
    names = [f"D{i:02d}" for i in range(60)]
    true = dict(zip(names, 10 ** rng.uniform(1.5, 3.5, 60), strict=True))
    parts = [(name, dose) for name in names for dose in DOSES]
    shifts = np.outer([1 / (1 + true[name] / dose) for name, dose in parts], [0.6, -0.8])
    found = Responses(shifts + 0.01 * rng.normal(size=shifts.shape), np.full(shifts.shape, 1e-4), np.full(2, 1e-6))
    half, _ = fit_potency(found, parts, np.ones(len(parts), dtype=bool), names)
    assert np.abs(np.log(half / np.array([true[name] for name in names]))).max() < np.log(1.5)


def test_features_rise_with_the_dose_and_agree_where_the_effect_is_the_same() -> None:
    encoding = new_encoding("potency", PARTS, has_dose=True)
    encoding.responses = responses()._asdict()
    encoding.fit(PARTS, np.ones(len(PARTS), dtype=bool))
    spec = encoding.to_dict()
    assert list(spec["feature_names"]) == [
        *(f"perturbation={name}:activity" for name in sorted(HALF)),
        "activity_0.2",
        "activity_1",
        "activity_5",
        "rescaled_dose",
    ]
    curve = featurize(spec, [("Weak", dose) for dose in np.geomspace(1, 1e6, 20)])
    assert (np.diff(curve[:, 2:], axis=0) > 0).all()
    assert (curve[:, :2] == 0).all()
    assert (curve[:, 2:6] < 1).all()
    # As many times the dose of a drug that is as many times weaker does the same.
    half = dict(zip(spec["perturbations"], spec["half_doses"], strict=True))
    potent, weak = featurize(spec, [(name, half[name]) for name in ("Potent", "Weak")])
    np.testing.assert_allclose(potent[3:6], weak[3:6], atol=1e-6)
    assert potent[4] == pytest.approx(0.5)
    np.testing.assert_array_equal(featurize(to_storable(spec), PARTS), featurize(spec, PARTS))
    with pytest.raises(ValueError, match="was not seen"):
        featurize(spec, [("New", 10.0)])


def test_prepare_reads_the_potency_from_training_cells_however_they_are_stored() -> None:
    adata = cells()
    scgim.pp.prepare(adata, hold_out={"Weak": 10_000}, **ARGUMENTS)
    spec = adata.uns["gim"]["feature_spec"]
    found = dict(zip(spec["perturbations"], spec["half_doses"], strict=True))
    assert found["Potent"] < found["Middle"] < found["Weak"]
    for name, half in HALF.items():
        assert abs(np.log(found[name] / half)) < np.log(3)
    dense = cells()
    dense.X = dense.X.toarray()
    scgim.pp.prepare(dense, hold_out={"Weak": 10_000}, **ARGUMENTS)
    np.testing.assert_array_equal(dense.uns["gim"]["features"], adata.uns["gim"]["features"])
    # The cells held out may be anything.
    other = cells()
    rows = np.flatnonzero((other.obs["drug"] == "Weak") & (other.obs["dose"] == 10_000))
    other.X[rows] = other.X[rows] * 7
    scgim.pp.prepare(other, hold_out={"Weak": 10_000}, **ARGUMENTS)
    np.testing.assert_array_equal(other.uns["gim"]["features"], adata.uns["gim"]["features"])


def test_holding_out_later_and_changing_genes_reads_the_potency_anew() -> None:
    first, later = cells(), cells()
    named = ARGUMENTS | {"genes": ["g0", "g1", "g2", "g7"]}
    scgim.pp.prepare(first, hold_out={"Weak": 10_000}, **named)
    scgim.pp.prepare(later, **named)
    assert (later.uns["gim"]["features"] != first.uns["gim"]["features"]).any()
    scgim.pp.hold_out(later, hold_out={"Weak": 10_000})
    np.testing.assert_array_equal(later.uns["gim"]["features"], first.uns["gim"]["features"])
    scgim.pp.select_markers(later, genes=["g0", "g1", "g9"])
    scgim.pp.features(first, features="potency")
    assert (later.uns["gim"]["features"] != first.uns["gim"]["features"]).any()
    scgim.pp.select_markers(first, genes=["g0", "g1", "g9"])
    np.testing.assert_array_equal(later.uns["gim"]["features"], first.uns["gim"]["features"])


def test_a_single_that_is_held_out_is_not_looked_at_although_a_combination_has_it() -> None:
    def prepared(factor: float) -> AnnData:
        adata = cells()
        pair = (adata.obs["drug"] == "Weak") & (adata.obs["dose"] == 100)
        adata.obs.loc[pair, "drug"] = "Weak+Potent"
        held = (adata.obs["drug"] == "Potent") & (adata.obs["dose"] == 100)
        adata.X[np.flatnonzero(held)] = adata.X[np.flatnonzero(held)] * factor
        named = ARGUMENTS | {"genes": [f"g{i}" for i in range(8)]}
        scgim.pp.prepare(adata, hold_out=["Potent_100"], **named)
        return adata

    first, other = prepared(1), prepared(5)
    assert "Potent_100" in first.uns["gim"]["parts"]["part"].tolist()
    np.testing.assert_array_equal(first.uns["gim"]["features"], other.uns["gim"]["features"])


def test_conditions_that_have_lost_their_cells_say_nothing() -> None:
    whole = cells()
    scgim.pp.prepare(whole, **ARGUMENTS)
    weak = (whole.obs["drug"] == "Weak") & (whole.obs["dose"] == 10_000)
    part = whole[~weak].copy()
    with pytest.raises(ValueError, match=r"Weak_10000 has 0 of .*run scgim\.pp\.prepare again"):
        scgim.pp.features(part, features="potency")
    scgim.pp.prepare(part, **ARGUMENTS, layer="counts")
    spec = part.uns["gim"]["feature_spec"]
    assert abs(np.log(spec["half_doses"][list(spec["perturbations"]).index("Weak")] / HALF["Weak"])) < np.log(3)


def test_without_genes_it_says_what_to_do() -> None:
    adata = cells()
    scgim.pp.conditions(adata, perturbation_key="drug", dose_key="dose")
    with pytest.raises(ValueError, match="select_markers first"):
        scgim.pp.features(adata, features="potency")


def test_a_size_is_as_unsure_as_its_cells_and_the_control_together() -> None:
    """Along a direction far beyond noise, the error is that of a difference of two means."""
    shifts = np.array([[50.0, 0.0], [100.0, 0.0]], dtype=np.float32)
    variance, control = np.array([[0.04, 9.0], [0.09, 9.0]], dtype=np.float32), np.array([0.16, 9.0], dtype=np.float32)
    _, error, real = _sizes(Responses(shifts, variance, control), np.arange(2), np.zeros(2, dtype=int), 1)
    noise = variance.sum() + 4 * control.sum()  # of the direction, which holds the control twice
    unsure = noise / shifts.sum(0)[0] ** 2
    expected = np.sqrt(variance[:, 0] + control[0] + unsure * (variance.sum(1) + control.sum()))
    assert real
    np.testing.assert_allclose(error, expected, rtol=1e-5)
    assert error[0] > np.sqrt(0.04 + 0.16)


#: Two perturbations, for what an error of the control's mean does.
TWO = [(name, dose) for name in ("A", "B") for dose in DOSES]


def control_error(n_genes: int, length: float, seed: int = 0) -> np.ndarray:
    """An error of the control's mean of this length, in a random direction."""
    error = np.random.default_rng(seed).normal(size=n_genes)
    return length * error / np.linalg.norm(error)


def responses_against_a_control(true: np.ndarray, length: float) -> Responses:
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
    half, exponent = fit_potency(
        responses_against_a_control(np.zeros((8, 300)), 2.0), TWO, np.ones(8, dtype=bool), ["A", "B"]
    )
    assert "beyond noise" in caplog.text
    np.testing.assert_allclose(half, np.sqrt(10 * 10_000))
    assert exponent == 1.0


def test_an_error_of_the_control_leaves_the_course_over_doses() -> None:
    """It lies along every dose, and so along their common direction: what it adds to each size is taken off again."""
    axis, course = control_error(20_000, 1.0, seed=1), np.array([0.0, 0.1, 0.5, 1.0])
    found = responses_against_a_control(np.outer(course, axis), 0.5)
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
