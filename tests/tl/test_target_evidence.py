"""Evidence for targets: planted ones stand out, what parents explain does not."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from small_fits import GENES, QUICK, TARGET, prepared

import scgim
from scgim.data import PerturbationData
from scgim.inference import TrainingData
from scgim.tl._evidence import _unexplained
from scgim.tl._stored import load


@functools.cache
def fitted(intervention: str):
    adata = prepared(n=60)
    settings = {**QUICK, "max_steps": 150, "check_every": 150, "warmup_steps": 30, "n_graphs": 4}
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
            assert scores[unrelated].max() < 0.1 * scores[target]
            assert own.set_index("gene")["specific_change"].abs().idxmax() == target
    assert adata.uns["gim"]["targets"].equals(before)


def test_order_of_the_genes_does_not_matter_and_held_out_conditions_are_left_out() -> None:
    adata = fitted("hard")
    table = scgim.tl.target_evidence(adata).set_index(["condition", "gene"])["evidence"]
    turned = scgim.tl.target_evidence(adata[:, ::-1].copy()).set_index(["condition", "gene"])["evidence"]
    np.testing.assert_allclose(turned.reindex(table.index), table, rtol=1e-5)
    assert set(table.index.get_level_values("gene")) == set(GENES)
    assert not any(label.startswith("control") for label in table.index.get_level_values("condition"))


def test_cells_of_the_control_change_nothing_however_few_they_are() -> None:
    """Control cells under false names: a handful of them, many of their genes silent, must not look certain."""
    rng = np.random.default_rng(0)
    label = np.repeat(["control", "few", "some", "many"], [400, 10, 30, 100])
    x = np.where(rng.random((len(label), 40)) < 0.85, 0.0, np.exp(0.5 * rng.normal(size=(len(label), 40))))
    obs = pd.DataFrame({"perturbation": label}, index=[f"cell{i}" for i in range(len(label))])
    adata = AnnData(x.astype(np.float32), obs=obs)
    scgim.pp.prepare(adata, input="log1p", n_genes=40, min_cells=1, min_cells_per_condition=5)
    scgim.tl.fit_gim(adata, **QUICK, n_candidates=3)
    table = scgim.tl.target_evidence(adata)
    assert table["change"].abs().max() < 5
    assert (table["change"].abs() > 3).mean() < 0.02
    assert table["specific_change"].abs().max() < 5


def test_without_control_cells_it_says_so() -> None:
    adata = fitted("hard")
    with pytest.raises(ValueError, match="no control cell"):
        scgim.tl.target_evidence(adata[adata.obs["perturbation"] != "control"].copy())


def test_what_the_parents_explain_is_no_change_of_a_gene() -> None:
    adata = fitted("hard")
    fitted_model = load(adata).fitted
    m, chain = fitted_model.gim.mechanisms, [(0, 1), (1, 2)]
    with torch.no_grad():  # the true slopes, 1 each
        m.weight.zero_()
        m.bias.zero_()
        for cause, effect in chain:
            m.weight[cause, effect] = m.scale[cause] / m.response_scale[effect]
    fitted_model.graph[:] = False
    data = TrainingData.of(PerturbationData.from_anndata(adata))
    alone = _unexplained(fitted_model, data)
    fitted_model.graph[tuple(zip(*chain, strict=True))] = True
    found = _unexplained(fitted_model, data)
    strong = adata.uns["gim"]["conditions"]["condition"].tolist().index("B_10")  # B acts on g1, and g2 follows
    assert abs(alone[strong, 2]) > 10
    assert abs(found[strong, 2]) < 3
    assert found[strong, 1] > 10
    np.testing.assert_allclose(found[:, [0, 3, 4]], alone[:, [0, 3, 4]])  # no parents


@pytest.mark.parametrize("n_programs", [-1, 1.5, True])
def test_a_number_of_programs_that_is_none_is_refused(n_programs) -> None:
    with pytest.raises(ValueError, match="n_programs must be a whole number"):
        scgim.tl.target_evidence(fitted("hard"), n_programs=n_programs)


def test_without_trained_cells_it_says_so() -> None:
    adata = fitted("hard").copy()
    adata.obs["gim_split"] = "test"
    with pytest.raises(ValueError, match="the AnnData that it was fitted to"):
        scgim.tl.target_evidence(adata)
