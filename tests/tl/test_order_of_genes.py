"""The order of genes in `adata.var` and of cells in `adata.obs` has no part in a fit: results are equal bit for bit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_fits import QUICK, drug_cells

import scgim

pytestmark = pytest.mark.usefixtures("quick_fits")

SHUFFLED = ["g3", "other", "g0", "g4", "g2", "g1"]


def fitted(adata, kind: str):
    scgim.pp.prepare(adata, dose_key="dose", input=kind, genes=["g4", "g0", "g1", "g3", "g2"], min_cells=1)
    scgim.tl.fit_gim(adata, **{**QUICK, "max_steps": 20})
    return adata


@pytest.mark.parametrize("kind", ["continuous", "log1p"])
def test_permuted_genes_give_the_permuted_result(kind):
    first = fitted(drug_cells(kind=kind), kind)
    second = fitted(drug_cells(kind=kind)[:, SHUFFLED].copy(), kind)
    np.testing.assert_array_equal(
        second.varp["gim_edge_prob"].toarray(), first[:, SHUFFLED].varp["gim_edge_prob"].toarray()
    )
    for slot in ("gim_target_prob", "gim_effect"):
        np.testing.assert_array_equal(second.varm[slot], first[:, SHUFFLED].varm[slot])
    for name in ("graph", "targets"):
        pd.testing.assert_frame_equal(second.uns["gim"][name], first.uns["gim"][name])
    evidence = [scgim.tl.target_evidence(adata) for adata in (first, second)]
    pd.testing.assert_frame_equal(*evidence)
    cells = [scgim.tl.sample_cells(adata, perturbations=["A_10"], n=30) for adata in (first, second)]
    np.testing.assert_array_equal(cells[1][:, cells[0].var_names].X, cells[0].X)
    methods = [scgim.baselines.fit(adata, method="mean_shift", steps=20) for adata in (first, second)]
    condition = scgim.baselines.prepared_condition(first, "A_10")
    np.testing.assert_array_equal(*(method.sample(condition, 9) for method in methods))
