"""The parts of the scripts on real data that decide what is compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix


def test_doubles_with_both_singles_can_be_predicted(script) -> None:
    module = script("real_combinations")
    yes, no = module.predictable(["control", "A", "B", "C", "A+B", "B+D", "SET+A"])
    assert yes == ["A+B"]
    assert no == ["B+D", "SET+A"]
    assert module.canonical("SET+KLF1") == "KLF1+SET"


@pytest.mark.usefixtures("quick_fits")
def test_combinations_end_to_end(script, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(["control", "A", "B", "A+B"], 40)
    x = rng.poisson(3.0, (160, 12)).astype(float)
    x[np.char.find(label, "A") >= 0, 0] += 12
    x[np.char.find(label, "B") >= 0, 1] += 12
    obs = pd.DataFrame({"perturbation": label}, index=[f"cell{i}" for i in range(160)])
    adata = AnnData(np.log1p(x).astype(np.float32), obs=obs)
    adata.var_names = [f"G{i}" for i in range(12)]
    adata.write_h5ad(tmp_path / "norman2019_k562_combos_500genes.h5ad")
    argv = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--n-genes", "6", "--samples", "60"]
    script("real_combinations").main([*argv, "--seeds", "0", "--steps", "3", "--threads", "1", "--one-by-one", "0"])
    table = pd.read_csv(tmp_path / "out" / "real_combinations.csv")
    assert set(table["trained_on"]) == {"singles only", "all doubles but one"}
    distance = table[table["metric"] == "mean_distance"].groupby("method")["value"].mean()
    assert distance["additive"] < distance["control"] / 2  # both effects are planted, and they add up
    assert (tmp_path / "out" / "real_combinations.png").stat().st_size > 5_000


def test_between_mixes_the_neighbours_in_log_dose(script) -> None:
    module = script("real_doses_left_out")
    cells = {0.0: np.full((5, 1), -1.0), 1.0: np.zeros((5, 1)), 100.0: np.ones((5, 1))}
    rng = np.random.default_rng(0)
    middle = module.between(cells, 10.0, 4_000, rng)
    assert abs(middle.mean() - 0.5) < 0.03
    assert set(np.unique(middle)) == {0.0, 1.0}
    assert (module.between(cells, 1_000.0, 10, rng) == 1).all()
    assert (module.between(cells, 0.1, 10, rng) == 0).all()


def test_a_bootstrap_keeps_the_size_of_every_condition_and_seeds_differ(script) -> None:
    module = script("real_knockouts")
    obs = pd.DataFrame({"target": ["non-targeting"] * 120 + ["STAT1"] * 30, "grna": ["NT1", "NT2"] * 60 + ["s"] * 30})
    adata = AnnData(np.arange(150, dtype=np.float32)[:, None], obs=obs.set_index(obs.index.astype(str)))
    first, again, other = (module.resample(adata, seed) for seed in (0, 0, 1))
    assert first.obs["target"].value_counts().to_dict() == {"non-targeting": 120, "STAT1": 30}
    np.testing.assert_array_equal(first.X, again.X)
    assert (first.X != other.X).any()
    name = module.set_guide_apart(adata, 1)
    assert name == "guide NT2"
    assert (adata.obs["target"] == name).sum() == 60


def _normalised(counts: np.ndarray, total: np.ndarray) -> AnnData:
    obs = pd.DataFrame({"ncounts": total.astype(float)}, index=[f"cell{i}" for i in range(len(counts))])
    return AnnData(csr_matrix(np.log1p(counts / (total / 10_063.0)[:, None])), obs=obs)


def test_counts_come_back_from_their_logarithms(script) -> None:
    rng = np.random.default_rng(0)
    counts, total = rng.poisson(1.0, (30, 20)), rng.integers(4_000, 30_000, 30)
    counts[0] = 2 * counts[1]  # a cell without a single count of 1
    found, size = script("mechanisms").recover_counts(_normalised(counts, total))
    np.testing.assert_array_equal(found, counts)
    np.testing.assert_allclose(size, total / 10_063.0, rtol=1e-6)


def test_values_that_are_no_counts_are_refused(script) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="not counts divided by a size factor"):
        script("mechanisms").recover_counts(_normalised(rng.gamma(2.0, size=(30, 20)), rng.integers(4_000, 30_000, 30)))


@pytest.mark.usefixtures("quick_fits")
def test_mechanisms_end_to_end(script, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(["control", "A", "B", "A+B", "C+A"], 40)
    counts = rng.poisson(3.0, (200, 12))
    counts[np.char.find(label, "A") >= 0, 0] += 12
    counts[np.char.find(label, "B") >= 0, 1] += 12
    adata = _normalised(counts, rng.integers(4_000, 30_000, 200))
    adata.obs["perturbation"], adata.var_names = label, [f"G{i}" for i in range(12)]
    adata.write_h5ad(tmp_path / "norman2019_k562_combos_500genes.h5ad")
    argv = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--small"]
    main = script("mechanisms").main
    main([*argv, "--sets", "combinations", "--seeds", "0", "--steps", "3", "--threads", "1"])
    table = pd.read_csv(tmp_path / "out" / "mechanisms.csv")
    assert set(table["method"]) == {"count, shift", "count, hard", "ziln, shift", "ziln, hard", "additive", "ridge"}
    assert (table.loc[table["metric"] == "failed", "value"] == 0).all()
    assert "counts were recovered" in (tmp_path / "out" / "mechanisms.md").read_text()
