"""What tables say of effects is what sampled cells show."""

from __future__ import annotations

import numpy as np
import pytest
from small_fits import GENES, QUICK, drug_cells, fitted

import scgim

pytestmark = pytest.mark.usefixtures("quick_fits")


def test_effects_of_replaced_genes_are_the_means_of_sampled_cells() -> None:
    """Every gene is a target; half the variance of log x more or less moves a mean by many standard errors."""
    adata = drug_cells(kind="log1p")
    adata.X = np.where(adata.X > 0, 0.2 * adata.X**2, 0.0).astype(np.float32)
    scgim.pp.prepare(adata, dose_key="dose", input="log1p", genes=GENES, min_cells=1)
    scgim.tl.fit_gim(adata, known_targets={"A": GENES}, **QUICK)
    effect = scgim.tl.predict_targets(adata, perturbations=["A_1"]).set_index("gene")["effect"][GENES]
    cells = scgim.tl.sample_cells(adata, perturbations=["A_1"], n=20_000)[:, GENES].X
    spread = np.log(cells[:, 0][cells[:, 0] > 0]).std()
    assert 0.5 * spread**2 > 10 * (cells[:, 0].std() / cells[:, 0].mean()) / np.sqrt(len(cells))
    error = cells.std(0) / np.sqrt(len(cells))
    assert (np.abs(cells.mean(0) - effect.to_numpy()) < 5 * error).all()


@pytest.mark.parametrize("effect_noise", [0.0, 2.0])
def test_cells_differ_in_their_effects_by_what_the_setting_says(effect_noise: float) -> None:
    """In units of the gene's spread over the training cells; the rest of the variance is the control's."""
    settings = {"mechanism": "linear", "intervention": "shift", "known_targets": {"A": "g4"}}
    adata = fitted(fit={**settings, "effect_noise": effect_noise})
    trained = (adata.obs["gim_split"] == "train").to_numpy()
    unit = adata[trained, "g4"].X.std(ddof=1)
    cells = scgim.tl.sample_cells(adata, perturbations=["A_1", "control"], n=20_000)
    variance = cells.to_df()["g4"].groupby(cells.obs["condition"], observed=True).var()
    expected = variance["control"] + (effect_noise * unit) ** 2
    assert variance["A_1"] == pytest.approx(expected, rel=0.05)
