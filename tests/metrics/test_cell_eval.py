"""The metrics that cell-eval has, too, have its values."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgim import metrics

cell_eval = pytest.importorskip("cell_eval", reason="the extra eval is not installed")

PERTURBATIONS = ["P0", "P1", "P2", "P3", "P4", "none"]


def screen(effects: dict[str, np.ndarray], genes: list[str], n: int, seed: int) -> ad.AnnData:
    """log1p of counts of equal depth on average, (perturbations x n, genes)."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(9).gamma(1.0, 2.0, size=len(genes))
    x = [np.log1p(rng.poisson(base * np.exp(effect), size=(n, len(genes)))) for effect in effects.values()]
    obs = pd.DataFrame({"perturbation": np.repeat(list(effects), n)}, index=[f"c{i}" for i in range(n * len(effects))])
    return ad.AnnData(np.vstack(x).astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))


@pytest.fixture(scope="module", params=["genes", "own genes"])
def pair(request, tmp_path_factory) -> tuple[ad.AnnData, ad.AnnData, pd.DataFrame]:
    """Real and predicted cells, whose controls differ; perturbations are named after genes, or not."""
    rng = np.random.default_rng(1)
    names = [f"g{i}" for i in range(160)] if request.param == "genes" else [f"P{i}" for i in range(160)]
    effect = {name: rng.normal(0, 1, 160) * (rng.random(160) < 0.8) for name in PERTURBATIONS[:-1]}
    effect |= {"none": np.zeros(160), "control": np.zeros(160)}
    guess = {name: 0.6 * e + rng.normal(0, 0.5, 160) for name, e in effect.items()}
    real, predicted = screen(effect, names, 60, 2), screen(guess, names, 45, 3)
    real.X[:, 5] = predicted.X[:, 6] = 0
    judged = cell_eval.MetricsEvaluator(
        adata_pred=predicted, adata_real=real, control_pert="control", pert_col="perturbation", num_threads=1,
        outdir=str(tmp_path_factory.mktemp("cell_eval")),
    )  # fmt: skip
    table, _ = judged.compute(write_csv=False, skip_metrics=["clustering_agreement", "pearson_edistance"])
    return real, predicted, pd.DataFrame(table.to_dict(as_series=False)).set_index("perturbation")


def cells(adata: ad.AnnData, name: str) -> np.ndarray:
    return adata.X[(adata.obs["perturbation"] == name).to_numpy()].astype(float)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_values_are_those_of_cell_eval(pair, name: str) -> None:
    real, predicted, table = pair
    expected = table.loc[name]
    true, guess = cells(real, name), cells(predicted, name)
    control, own = cells(real, "control"), cells(predicted, "control")
    between = {"predicted_control": own}
    assert metrics.mean_absolute_error(true, guess) == pytest.approx(expected["mae"], abs=1e-5)
    moved = guess - own.mean(0) + control.mean(0)
    assert metrics.pearson_delta(true, moved, control) == pytest.approx(expected["pearson_delta"], abs=1e-5)
    kept = np.array([gene != name for gene in real.var_names])
    others = np.array([cells(real, other).mean(0) for other in PERTURBATIONS if other != name])
    rank = metrics.discrimination(true[:, kept], moved[:, kept], others[:, kept])
    assert rank == pytest.approx(expected["discrimination_score_l1"])
    overlap, first = metrics.de_overlap(true, guess, control, **between), {"n": 50, **between}
    direction = metrics.de_direction_match(true, guess, control, **between)
    if name == "none":  # no gene changes: there is nothing to find
        assert expected["de_nsig_counts_real"] == 0 == expected["overlap_at_N"]
        assert np.isnan([overlap, direction, expected["de_direction_match"]]).all()
        return
    assert expected["de_nsig_counts_real"] > 50
    assert overlap == pytest.approx(expected["overlap_at_N"]) and 0 < overlap < 1
    assert metrics.de_overlap(true, guess, control, **first) == pytest.approx(expected["overlap_at_50"])
    assert direction == pytest.approx(expected["de_direction_match"]) and direction < 1
