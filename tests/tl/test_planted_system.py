"""A planted graph and planted targets, from an AnnData to the tables of `tl.fit_gim`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scgim


@pytest.mark.slow
def test_a_planted_system_is_found_from_adata_to_targets():
    adata = scgim.simulate.synthetic(
        n_genes=6, n_perturbations=12, doses=(1.0, 2.0), new_doses=(), n_new_targets=0, n_features=8,
        cells_per_condition=60, n_control=300, edges_per_gene=1.0, rng=3,
    )  # fmt: skip
    truth = adata.uns["truth"]
    features = pd.DataFrame(truth["features"], index=truth["conditions"]["condition"]).drop("control")
    features.columns = [f"f{i}" for i in range(features.shape[1])]
    scgim.pp.prepare(adata, dose_key="dose", input="continuous", features=features, genes="all")
    scgim.tl.fit_gim(
        adata,
        mechanism="linear",
        max_steps=150,
        batch_size=256,
        n_graphs=4,
        network_hidden=(32, 32),
        device="cpu",
        progress=False,
    )
    found = np.zeros((6, 6), dtype=bool)
    table = adata.uns["gim"]["graph"]
    found[adata.var_names.get_indexer(table["source"]), adata.var_names.get_indexer(table["target"])] = True
    true = adata.varp["true_graph"].toarray() > 0
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.7
    targets = adata.uns["gim"]["targets"].pivot(index="condition", columns="gene", values="is_target")
    known = pd.DataFrame(truth["targets"] > 0, index=truth["conditions"]["condition"], columns=adata.var_names)
    known = known.loc[targets.index, targets.columns].to_numpy()
    targets = targets.to_numpy(dtype=bool)
    assert 2 * (targets & known).sum() / (targets.sum() + known.sum()) > 0.7
