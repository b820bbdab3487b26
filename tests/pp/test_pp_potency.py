"""`features="potency"`: half-doses read from the training cells, and curves around them."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import scgim
from scgim._storage import to_storable
from scgim.pp import featurize
from scgim.pp.features import complete_spec, feature_source
from scgim.pp.potency import fit_potency

DOSES = (10.0, 100.0, 1_000.0, 10_000.0)
HALF = {"Potent": 30.0, "Middle": 300.0, "Weak": 3_000.0}
PARTS = [(name, dose) for name in sorted(HALF) for dose in DOSES]


def shifts(noise: float = 0.0, exponent: float = 1.2) -> np.ndarray:
    """(parts, genes) responses along one direction of its own per perturbation."""
    rng = np.random.default_rng(0)
    axis = {name: rng.normal(size=20) for name in HALF}
    rows = [axis[name] / (1 + (HALF[name] / dose) ** exponent) for name, dose in PARTS]
    return np.array(rows) + noise * rng.normal(size=(len(PARTS), 20))


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
    half, exponent = fit_potency(shifts(0.02), PARTS, trained, sorted(HALF))
    for name, found in zip(sorted(HALF), half, strict=True):
        assert abs(np.log(found / HALF[name])) < np.log(1.5)
    assert 1.0 < exponent < 1.5


def test_what_is_held_out_is_not_looked_at() -> None:
    trained = np.array([part != ("Weak", 10_000.0) for part in PARTS])
    given, changed = shifts(), shifts()
    changed[~trained] = 1e3
    (half, exponent), (half_too, exponent_too) = (
        fit_potency(responses, PARTS, trained, sorted(HALF)) for responses in (given, changed)
    )
    np.testing.assert_array_equal(half, half_too)
    assert exponent == exponent_too


def test_a_perturbation_without_cells_of_its_own_is_typical(caplog) -> None:
    trained = np.array([name != "Potent" for name, _ in PARTS])
    with caplog.at_level(logging.WARNING, logger="scgim"):
        half, _ = fit_potency(shifts(), PARTS, trained, sorted(HALF))
    assert "Potent" in caplog.text
    assert half[1] == pytest.approx(np.median(half[[0, 2]]))


def test_cells_that_do_not_respond_leave_the_middle_of_the_doses() -> None:
    half, exponent = fit_potency(np.zeros((12, 5)), PARTS, np.ones(12, dtype=bool), sorted(HALF))
    np.testing.assert_allclose(half, np.sqrt(10 * 10_000))
    assert exponent == 1.0


def test_features_rise_with_the_dose_and_agree_where_the_effect_is_the_same() -> None:
    source = feature_source("potency", PARTS, has_dose=True, shifts=shifts())
    spec = complete_spec(source, PARTS, np.ones(len(PARTS), dtype=bool))
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


def test_without_genes_it_says_what_to_do() -> None:
    adata = cells()
    scgim.pp.conditions(adata, perturbation_key="drug", dose_key="dose")
    with pytest.raises(ValueError, match="select_markers first"):
        scgim.pp.features(adata, features="potency")
