"""Evidence for targets: planted ones stand out, what parents explain does not."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from small_fits import GENES, QUICK, TARGET, prepared

import scgim


@functools.cache
def fitted(intervention: str = "hard"):
    adata = prepared(n=60)
    settings = {**QUICK, "max_steps": 500, "check_every": 250, "warmup_steps": 100, "n_graphs": 4}
    scgim.tl.fit_gim(adata, mechanism="linear", intervention=intervention, **settings)
    return adata


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_planted_targets_have_the_most_evidence(intervention: str) -> None:
    adata = fitted(intervention)
    before = adata.uns["gim"]["targets"].copy()
    table = scgim.tl.target_evidence(adata)
    assert np.isfinite(table["evidence"]).all()
    for condition, own in table.groupby("condition"):
        scores, target = own.set_index("gene")["evidence"], TARGET[condition[0]]
        if condition.endswith("_10"):  # at dose 1 the drugs hardly act
            assert scores.idxmax() == target
            assert scores[target] > 20
            # what is neither a target nor downstream of one does not change
            unrelated = ["g0", "g1", "g2", "g4"] if target == "g3" else ["g3", "g4"]
            assert scores[unrelated].max() < 10
    assert adata.uns["gim"]["targets"].equals(before)


def test_order_of_the_genes_does_not_matter_and_held_out_conditions_are_left_out() -> None:
    adata = fitted()
    table = scgim.tl.target_evidence(adata).set_index(["condition", "gene"])["evidence"]
    turned = scgim.tl.target_evidence(adata[:, ::-1].copy()).set_index(["condition", "gene"])["evidence"]
    np.testing.assert_allclose(turned.reindex(table.index), table, rtol=1e-5)
    assert set(table.index.get_level_values("gene")) == set(GENES)
    assert not any(label.startswith("control") for label in table.index.get_level_values("condition"))


def test_without_trained_cells_it_says_so() -> None:
    adata = fitted().copy()
    adata.obs["gim_split"] = "test"
    with pytest.raises(ValueError, match="the AnnData that it was fitted to"):
        scgim.tl.target_evidence(adata)
