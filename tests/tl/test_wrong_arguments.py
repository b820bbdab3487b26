"""Arguments of `tl` out of range or of a wrong kind: one sentence that names the argument, nothing written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pytest
from example_cells import assert_unchanged, snapshot
from screens import prepared_screen
from small_fits import QUICK, fitted

import scgim
from scgim import tl

pytestmark = pytest.mark.usefixtures("quick_fits")


@pytest.fixture(scope="module")
def fit() -> ad.AnnData:
    return fitted("log1p", fit={"max_steps": 4})


def sampled(adata: ad.AnnData) -> ad.AnnData:
    return tl.sample_cells(adata, perturbations=[("A", 10)], n=20)


def refit(adata: ad.AnnData, **arguments: Any) -> None:
    tl.fit_gim(adata, **{**QUICK, **arguments})


DRUG = ("A", 10)
WRONG: dict[str, tuple[Callable[[ad.AnnData], Any], type[Exception], str]] = {
    "no perturbation": (lambda a: tl.sample_cells(a, perturbations=[]), ValueError, "perturbations is empty: name"),
    "no target asked for": (lambda a: tl.predict_targets(a, perturbations=[]), ValueError, "perturbations is empty"),
    "perturbations a number": (lambda a: tl.sample_cells(a, perturbations=5), TypeError, "perturbations must be"),
    "n is 0": (lambda a: tl.sample_cells(a, n=0), ValueError, "n must be at least 1, got 0"),
    "n is a half": (lambda a: tl.sample_cells(a, n=1.5), TypeError, "n must be a whole number, got 1.5"),
    "n is text": (lambda a: tl.intervene(a, interventions={"g0": 1}, n="5"), TypeError, "n must be a whole number"),
    "interventions text": (
        lambda a: tl.intervene(a, interventions={"g0": "1"}), TypeError, "interventions: the value of 'g0' must be a"
    ),
    "interventions None": (
        lambda a: tl.intervene(a, interventions={"g0": None}), TypeError, "the value of 'g0' must be a number, got None"
    ),
    "interventions True": (
        lambda a: tl.intervene(a, interventions={"g0": True}), TypeError, "the value of 'g0' must be a number, got True"
    ),
    "interventions NaN": (
        lambda a: tl.intervene(a, interventions={"g0": np.nan}), ValueError, "the value of 'g0' must be finite"
    ),
    "interventions a list": (
        lambda a: tl.intervene(a, interventions=["g0"]), TypeError, r"interventions must be a dict .* got \['g0'\]"
    ),
    "interventions a number": (
        lambda a: tl.counterfactual(a, interventions=7), TypeError, "interventions must be a dict .* got 7"
    ),
    "interventions a list of cells": (
        lambda a: tl.counterfactual(a, interventions=["g0"]), TypeError, "interventions must be a dict"
    ),
    "interventions empty": (lambda a: tl.counterfactual(a, interventions={}), ValueError, "interventions is empty"),
    "nothing done": (lambda a: tl.counterfactual(a), ValueError, "Give a perturbation="),
    "no cells": (lambda a: tl.counterfactual(a, perturbation=DRUG, cells=[]), ValueError, "cells selects no cell"),
    "cells a number": (lambda a: tl.counterfactual(a, perturbation=DRUG, cells=7), ValueError, "cells: not in"),
    "features a number": (
        lambda a: tl.sample_cells(a, perturbations=[DRUG], user_features=5), TypeError, "user_features must be .* got 5"
    ),
    "max_cells negative": (lambda a: tl.evaluate(a, sampled(a), max_cells=-1), ValueError, "max_cells must be at"),
    "max_cells a half": (lambda a: tl.evaluate(a, sampled(a), max_cells=1.5), TypeError, "max_cells must be a whole"),
    "max_cells text": (lambda a: tl.evaluate(a, sampled(a), max_cells="x"), TypeError, "max_cells must be a whole"),
    "predicted an array": (lambda a: tl.evaluate(a, np.ones((5, 5))), TypeError, "predicted must be an AnnData"),
    "predicted a table": (lambda a: tl.evaluate(a, sampled(a).to_df()), TypeError, "predicted must .* not DataFrame"),
    "metrics a number": (lambda a: tl.evaluate(a, sampled(a), metrics=3), TypeError, "metrics must be a name"),
    "conditions a number": (lambda a: tl.evaluate(a, sampled(a), conditions=3), TypeError, "conditions must be a name"),
    "baselines a number": (lambda a: tl.evaluate(a, sampled(a), baselines=3), TypeError, "baselines must be a name"),
    "baselines of numbers": (lambda a: tl.evaluate(a, sampled(a), baselines=[3]), TypeError, "baselines must be names"),
    "group a number": (lambda a: tl.sample_cells(a, group=3), KeyError, "group=3: .* without groupby"),
    "group a number, fit": (lambda a: refit(a, group=3), KeyError, "group=3: .* without groupby"),
    "rng text": (lambda a: tl.sample_cells(a, rng="x"), TypeError, "rng must be an int"),
    "known_targets a list": (lambda a: refit(a, known_targets=["A"]), TypeError, "known_targets must be a dict"),
    "known_targets a number": (
        lambda a: refit(a, known_targets={"A": 5}), TypeError, r"known_targets\['A'\] must be a gene or a list .* got 5"
    ),
    "known_targets None": (lambda a: refit(a, known_targets={"A": None}), TypeError, r"known_targets\['A'\] must be"),
    "known_targets mixed": (
        lambda a: refit(a, known_targets={"A": ["g0", 3]}), TypeError, r"known_targets\['A'\] must be a gene or a list"
    ),
    "known_interventions a gene": (
        lambda a: refit(a, known_interventions={"A": "g0"}), TypeError, r"known_interventions\['A'\] must be a dict"
    ),
    "known_interventions text": (
        lambda a: refit(a, known_interventions={"A": {"g0": "1"}}), TypeError,
        r"known_interventions\['A'\]: the value of 'g0' must be a number, got '1'",
    ),
    "known_interventions NaN": (
        lambda a: refit(a, known_interventions={"A": {"g0": np.inf}}), ValueError, "the value of 'g0' must be finite"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named(fit: ad.AnnData, name: str) -> None:
    call, kind, message = WRONG[name]
    before = snapshot(fit)
    with pytest.raises(kind, match=message) as caught:
        call(fit)
    assert isinstance(caught.value, scgim.ScgimError)  # a refusal, no accident
    assert_unchanged(fit, before)


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.float64(1), np.int64(1)])
def test_numbers_of_every_kind_are_values(fit: ad.AnnData, value: Any) -> None:
    cells = tl.intervene(fit, interventions={"g0": value}, n=np.int64(3))
    assert (cells[:, "g0"].X == 1).all()


def counted() -> tuple[ad.AnnData, ad.AnnData]:
    """Prepared counts, and the same cells as if they were predicted."""
    adata = prepared_screen()
    predicted = adata.copy()
    predicted.obs["condition"] = predicted.obs["gim_condition"]
    return adata, predicted


def test_predicted_counts_are_refused() -> None:
    adata, predicted = counted()
    predicted.X = predicted.layers["counts"]
    with pytest.raises(ValueError, match=r"predicted.X holds whole numbers only .* Normalise predicted"):
        tl.evaluate(adata, predicted, metrics="mean_distance")


def test_predicted_values_beyond_any_log_earn_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    adata, predicted = counted()
    with caplog.at_level(logging.WARNING, "scgim"):
        tl.evaluate(adata, predicted, metrics="mean_distance")
    assert "predicted.X" not in caplog.text
    predicted.X = np.expm1(predicted.X)
    with caplog.at_level(logging.WARNING, "scgim"):
        tl.evaluate(adata, predicted, metrics="mean_distance")
    assert "run sc.pp.log1p(predicted) first" in caplog.text


def test_predicted_whole_numbers_are_fine_where_any_value_is() -> None:
    adata = fitted()
    predicted = sampled(adata)
    predicted.X = np.round(10 * predicted.X)
    assert np.isfinite(scgim.tl.evaluate(adata, predicted, metrics="mean_distance")["value"]).all()
