"""`tl.evaluate`: rows that no method can argue with, noise of differences, and the sentence at the end."""

from __future__ import annotations

import logging
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgim
from scgim.metrics.table import METRICS
from scgim.tl import _noise
from scgim.tl._evaluate import _stream, evaluate

GENES = [f"g{i}" for i in range(6)]
EFFECT = np.array([2.0, -1.0, 1.0, 0, 0, 0])
SHIFTS = {"control": 0 * EFFECT, "A": EFFECT, "B": -EFFECT, "C": EFFECT[::-1]}


def draw(shifts: dict[str, np.ndarray], n: int, seed: int) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    x = np.vstack([5 + shift + rng.normal(0, 0.8, (n, len(GENES))) for shift in shifts.values()])
    names = np.repeat(list(shifts), n)
    obs = pd.DataFrame({"perturbation": names, "condition": names}, index=[f"c{seed}_{i}" for i in range(len(x))])
    return ad.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture
def observed() -> ad.AnnData:
    return prepared(draw(SHIFTS, 60, 0))


def prepared(adata: ad.AnnData) -> ad.AnnData:
    scgim.pp.prepare(adata, input="log1p", genes=GENES, hold_out="A", min_cells=1, min_counts=0)
    return adata


def wide(table: pd.DataFrame, column: str = "value") -> pd.DataFrame:
    return table.pivot(index="method", columns="metric", values=column)


def test_halves_of_the_truth_are_as_near_as_a_perfect_prediction(observed):
    many = [draw({"A": EFFECT}, 60, seed) for seed in (1, 2, 3)]  # from where the observed cells come
    tables = [evaluate(observed, new, baselines=["control"], n_boot=0) for new in many]
    perfect = sum(wide(table).loc["gim"] for table in tables) / len(tables)
    halves, control = wide(tables[0]).loc["two halves"], wide(tables[0]).loc["control"]
    for metric in ("mean_distance", "e_distance", "wasserstein"):
        assert perfect[metric] / 3 < halves[metric] < 3 * perfect[metric]
        assert halves[metric] < control[metric] / 2
    assert halves[["pearson_delta", "de_overlap"]].min() > 0.9
    pd.testing.assert_series_equal(wide(tables[1]).loc["two halves"], halves)  # no prediction moves them


def test_a_prediction_that_is_the_models_own_control_earns_a_warning(observed, caplog):
    shifted = {"control": SHIFTS["control"] + 0.5 * EFFECT, "A": 0.5 * EFFECT}  # looks like half of the effect
    table = evaluate(observed, draw(shifted, 80, 4), conditions=["A"])
    value = wide(table)
    assert value.loc["gim", "pearson_delta"] > 0.9  # and is none: so is the control
    assert value.loc["own control", "pearson_delta"] == pytest.approx(value.loc["gim", "pearson_delta"], abs=0.1)
    assert "'A' does not differ from the model's own control" in caplog.text
    assert "for 'A' it predicts no more than its own control" in table.attrs["conclusion"]


def test_a_prediction_with_an_effect_earns_none(observed, caplog):
    table = evaluate(observed, draw(SHIFTS, 80, 4), baselines=["control", "ridge"], metrics="mean_distance")
    assert "own control" not in caplog.text + table.attrs["conclusion"]
    # of the control's own cells there is nothing to say
    assert set(table.loc[table["method"] == "own control", "condition"]) == {"A", "B", "C"}


@pytest.mark.usefixtures("quick_fits")
def test_a_fit_that_found_nothing_does_not_look_like_success(caplog):
    shuffled = draw(dict.fromkeys(SHIFTS, 0 * EFFECT), 60, 5)
    adata = prepared(shuffled)
    scgim.tl.fit_gim(adata, mechanism="linear", max_steps=60, progress=False)
    new = scgim.tl.sample_cells(adata, perturbations=["B", "C"], n=100)
    with caplog.at_level(logging.INFO, logger="scgim"):
        table = evaluate(adata, new, baselines=["control"], metrics=["mean_distance", "pearson_delta"])
    assert set(table["method"]) == {"gim", "control", "own control", "two halves"}
    assert "The prediction for 'B', 'C' does not differ from the model's own control" in caplog.text
    assert table.attrs["conclusion"] in caplog.text


def test_noise_is_that_of_drawing_the_cells_again():
    rng = np.random.default_rng(6)

    def drawn(n: int) -> dict[str, np.ndarray]:
        means = {"true": EFFECT, "near": 0.9 * EFFECT, "far": 0.5 * EFFECT, "control": 0 * EFFECT}
        return {name: mean + rng.normal(0, 0.8, (n, 6)) for name, mean in means.items()}

    def noise(metric: str, n: int) -> tuple[float, float]:
        """Its standard deviation over new cells, and what is estimated from the cells of one draw, on average."""
        seen, found = [], []
        for i in range(60):
            true, near, far, control = drawn(n).values()
            values = [METRICS[metric](true, cells, control, control[:1]) for cells in (near, far)]
            seen.append(values[1] - values[0])
            if i < 6:
                samples, against = {"near": near, "far": far}, (control, control[:1])
                found.append(_noise.bootstrap(metric, true, samples, against, 20, partial(_stream, i))["far"])
        return float(np.std(seen)), float(np.mean(found))

    for metric, n in (("mean_distance", 60), ("pearson_delta", 60), ("e_distance", 60), ("e_distance", 400)):
        real, estimated = noise(metric, n)
        assert 0.6 < estimated / real < 1.7, (metric, n)


def test_a_clear_difference_is_told_and_a_small_one_is_not(observed):
    good = draw(SHIFTS, 100, 7)
    good = good[good.obs["condition"] == "A"].copy()
    metrics = ["mean_distance", "e_distance", "de_overlap"]
    table = evaluate(observed, good, baselines=["control", "ridge"], metrics=metrics)
    assert "gim is better than all others in mean_distance, e_distance" in table.attrs["conclusion"]
    assert (wide(table, "difference").loc[["control", "ridge"], metrics[:2]] > 0).all(axis=None)
    assert table.loc[table["method"] == "gim", ["difference", "noise"]].isna().all(axis=None)

    class Twin(scgim.baselines.Control):
        """Other cells, drawn as those of `good` were."""

        name = "twin"

        def sample(self, condition, n, rng=0):
            return draw({"A": EFFECT}, n, 8).X

    table = evaluate(observed, good, baselines=[Twin()], metrics=metrics[:2])
    assert table.attrs["conclusion"] == (
        "Beyond the noise of sampling cells, gim is not to be told from twin in mean_distance, e_distance."
    )
    poor = evaluate(observed, draw({"A": -EFFECT}, 100, 9), baselines=["control"], metrics=metrics[:2])
    assert "gim is worse than control in mean_distance, e_distance" in poor.attrs["conclusion"]


def test_without_anything_to_compare_with_nothing_is_concluded(observed):
    good = draw({"A": EFFECT}, 40, 10)
    assert "no method was compared with gim" in evaluate(observed, good).attrs["conclusion"]
    table = evaluate(observed, good, baselines=["control"], n_boot=0)
    assert "no noise level was computed" in table.attrs["conclusion"]
    assert table["noise"].isna().all()


def test_the_right_perturbation_is_looked_for_among_all(observed):
    new = draw({"A": EFFECT, "B": SHIFTS["C"]}, 50, 11)  # the prediction of B is that of C
    table = evaluate(observed, new, metrics=["discrimination"]).set_index(["condition", "method"])["value"]
    assert table["A", "gim"] == 1.0
    assert table["B", "gim"] == pytest.approx(1 / 3)
    assert (table[:, "two halves"] == 1.0).all()
