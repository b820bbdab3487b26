"""A small dose experiment and a small combination experiment, as arrays and as prepared AnnData."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgim
from scgim.baselines import TrainingData

GENES = 6
DOSES = (10.0, 100.0, 1000.0)


def dose_cells(seed: int = 0, cells: int = 40) -> tuple[np.ndarray, pd.DataFrame]:
    """Two drugs, three doses; drug A moves gene 0, drug B gene 1, by log10(dose); values stay above 0."""
    rng = np.random.default_rng(seed)
    rows = [("control", np.nan)] + [(drug, dose) for drug in "AB" for dose in DOSES]
    x, obs = [], []
    for drug, dose in rows:
        n = 100 if drug == "control" else cells
        mean = np.full(GENES, 5.0)
        if drug != "control":
            mean["AB".index(drug)] += np.log10(dose)
            mean[5] -= 1.0
        x.append(mean + 0.3 * rng.standard_normal((n, GENES)))
        obs += [(drug, dose)] * n
    return np.vstack(x).astype(np.float32), pd.DataFrame(obs, columns=["perturbation", "dose"])


@pytest.fixture
def doses() -> TrainingData:
    """A_1000 is in the table, without cells."""
    x, obs = dose_cells()
    table = obs.drop_duplicates(ignore_index=True)
    label = [p if p == "control" else f"{p}_{d:g}" for p, d in zip(table["perturbation"], table["dose"], strict=True)]
    table = table.assign(condition=label, is_control=table["perturbation"] == "control")
    codes = obs.merge(table.reset_index(), how="left", on=["perturbation", "dose"])["index"].to_numpy()
    log_dose = np.log10(table["dose"].fillna(1))
    features = (
        np.column_stack([table["perturbation"] == "A", table["perturbation"] == "B"]) * log_dose.to_numpy()[:, None]
    )
    kept = codes != label.index("A_1000")
    return TrainingData(x[kept], codes[kept], table, features)


@pytest.fixture
def prepared() -> ad.AnnData:
    """The same cells through `pp.prepare`, A_1000 held out, one gene not modelled."""
    x, obs = dose_cells()
    obs.index = [f"cell{i}" for i in range(len(obs))]
    obs["dose"] = obs["dose"].fillna(0.0)
    x = np.hstack([x, np.ones((len(x), 1), dtype=np.float32)])
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(GENES + 1)]))
    scgim.pp.prepare(
        adata,
        dose_key="dose",
        input="log1p",
        genes=[f"g{i}" for i in range(GENES)],
        hold_out={"A": 1000},
    )
    return adata


@pytest.fixture
def combinations() -> ad.AnnData:
    """No doses: A, B, C alone, A+B held out, B+C trained; effects add up exactly in the means."""
    rng = np.random.default_rng(1)
    effect = {"A": 0, "B": 1, "C": 2}
    x, labels = [], []
    for label in ("control", "A", "B", "C", "A+B", "B+C"):
        mean = np.zeros(GENES)
        for part in label.split("+"):
            if part in effect:
                mean[effect[part]] += 2.0
        noise = rng.standard_normal((60, GENES))
        x.append(mean + noise - noise.mean(axis=0))
        labels += [label] * 60
    adata = ad.AnnData(
        np.vstack(x).astype(np.float32),
        obs=pd.DataFrame({"perturbation": labels}, index=[f"cell{i}" for i in range(len(labels))]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(GENES)]),
    )
    scgim.pp.prepare(adata, input="continuous", genes="all", hold_out=["A+B"])
    return adata
