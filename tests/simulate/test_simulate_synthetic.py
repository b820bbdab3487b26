"""The synthetic experiment: design, features, truth, seeds, files."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import scgim

FAMILIES = ["linear", "mlp", "ziln"]


@pytest.fixture(scope="module")
def full():
    return scgim.simulate.synthetic(mechanism="mlp", rng=7)


def small(**arguments):
    defaults = {"n_genes": 8, "n_perturbations": 6, "n_new_targets": 3, "n_features": 10, "n_control": 30}
    return scgim.simulate.synthetic(**{**defaults, "cells_per_condition": 10, **arguments})


def test_design_is_the_papers(full):
    conditions = full.uns["truth"]["conditions"]
    assert full.shape == (800 + 50 * (160 + 200 + 80), 20)
    assert full.X.dtype == np.float32
    counts = conditions.loc[~conditions["is_control"], "split"].value_counts().to_dict()
    assert counts == {"train": 160, "new_dose": 200, "new_target": 80}
    assert conditions.iloc[0].to_dict() == {
        "condition": "control",
        "perturbation": "control",
        "dose": 0.0,
        "split": "train",
        "is_control": True,
    }
    assert conditions["condition"].is_unique
    assert list(full.obs["condition"].cat.categories) == list(conditions["condition"])
    cells = full.obs["condition"].value_counts()
    assert cells["control"] == 800
    assert (cells.drop("control") == 50).all()


def test_held_out_conditions_are_new(full):
    truth = full.uns["truth"]
    conditions = truth["conditions"]
    split = conditions["split"].to_numpy()
    sets = {name: set(map(bytes, truth["targets"][split == name])) for name in set(split)}
    assert sets["new_dose"] < sets["train"]  # the control has no target
    assert not sets["new_target"] & sets["train"]
    doses = {name: set(conditions.loc[split == name, "dose"]) for name in set(split)}
    assert not doses["new_dose"] & doses["train"]
    assert doses["new_target"] == doses["train"] - {0.0}


def test_truth_agrees_with_itself(full):
    truth = full.uns["truth"]
    conditions, table = truth["conditions"], truth["hill"]
    per_condition = truth["targets"].sum(axis=1)
    assert per_condition[0] == 0
    assert set(per_condition[1:]) == {1, 2}
    assert ((truth["effects"] != 0) == (truth["targets"] != 0)).all()
    row = conditions.index[conditions["condition"] == "p05_1.25"][0]
    curves = table[table["perturbation"] == "p05"].set_index("gene")
    for gene, curve in curves.iterrows():
        v, k, n = curve["maximum"], curve["half_dose"], curve["exponent"]
        expected = v * 1.25**n / (k**n + 1.25**n)
        assert truth["effects"][row, full.var_names.get_loc(gene)] == pytest.approx(expected, rel=1e-5)
    assert truth["targets"][row].sum() == len(curves)


@pytest.mark.parametrize("intervention", ["hard", "shift"])
@pytest.mark.parametrize("mechanism", FAMILIES)
def test_cells_come_from_the_stored_truth(mechanism, intervention):
    adata = small(mechanism=mechanism, intervention=intervention, cells_per_condition=400, n_control=400)
    truth = adata.uns["truth"]
    for row in (0, 3, 11):
        label = truth["conditions"]["condition"][row]
        observed = adata.X[(adata.obs["condition"] == label).to_numpy()]
        targets, effects = truth["targets"][row], truth["effects"][row]
        drawn = scgim.simulate.sample_truth(adata, targets=targets, effects=effects, n=4_000, rng=1)
        # Log-normal cells have heavy tails: compare on the log scale.
        if mechanism == "ziln":
            observed, drawn = np.log1p(observed), np.log1p(drawn)
        error = drawn.std(axis=0) / np.sqrt(len(observed)) + 1e-6
        assert (np.abs(observed.mean(axis=0) - drawn.mean(axis=0)) < 5 * error).all()


def test_a_target_has_its_hill_value(full):
    truth = full.uns["truth"]
    for row in np.flatnonzero(truth["conditions"]["split"] == "new_target")[:20]:
        label = truth["conditions"]["condition"][row]
        x = full.X[(full.obs["condition"] == label).to_numpy()]
        for gene in np.flatnonzero(truth["targets"][row]):
            # 50 cells of variance 0.5: standard error 0.1
            assert x[:, gene].mean() == pytest.approx(truth["effects"][row, gene], abs=0.5)


def test_features_are_principal_components_of_the_training_conditions(full):
    truth = full.uns["truth"]
    conditions = truth["conditions"]
    train = ((conditions["split"] == "train") & ~conditions["is_control"]).to_numpy()
    features = truth["features"]
    assert features.shape == (len(conditions), 20)
    assert features.dtype == np.float32
    assert np.abs(features[train].mean(axis=0)).max() < 1e-5
    covariance = np.cov(features[train].T)
    assert np.allclose(covariance, np.diag(np.diag(covariance)), atol=1e-4)
    variances = np.diag(covariance)
    assert (np.diff(variances) <= 1e-6).all()
    # With all 40 components the standardised [targets, effects] are kept, distances included.
    everything = scgim.simulate.synthetic(mechanism="mlp", rng=7, n_features=40).uns["truth"]["features"]
    raw = np.concatenate([truth["targets"], truth["effects"]], axis=1)[train].astype(float)
    raw = (raw - raw.mean(axis=0)) / np.where(raw.std(axis=0) > 0, raw.std(axis=0), 1)
    assert np.allclose(everything[train] @ everything[train].T, raw @ raw.T, atol=1e-2)
    assert np.allclose(np.abs(everything[:, :20]), np.abs(features), atol=1e-3)


def test_an_untargeted_gene_gives_finite_features():
    adata = small(n_genes=12, n_perturbations=2, n_new_targets=4, n_features=6)
    truth = adata.uns["truth"]
    train = (truth["conditions"]["split"] == "train").to_numpy()
    assert (truth["targets"][train].std(axis=0) == 0).any()
    assert np.isfinite(truth["features"]).all()


def test_truth_at_any_dose(full):
    truth = full.uns["truth"]
    rows = [1, 200, 400]
    pairs = truth["conditions"].iloc[rows][["perturbation", "dose"]].itertuples(index=False, name=None)
    targets, effects, features = scgim.simulate.truth_at(full, perturbations=list(pairs))
    assert np.array_equal(targets, truth["targets"][rows])
    assert np.array_equal(effects, truth["effects"][rows])
    assert np.allclose(features, truth["features"][rows], atol=1e-5)
    _, low, _ = scgim.simulate.truth_at(full, perturbations=[("p00", 0.9)])
    _, high, _ = scgim.simulate.truth_at(full, perturbations=[("p00", 1.1)])
    assert (high >= low).all() and (high > low).any()


def test_held_out_conditions_can_be_left_out():
    only = small(n_new_targets=0, new_doses=())
    assert set(only.uns["truth"]["conditions"]["split"]) == {"train"}
    assert list(only.obs["split"].cat.categories) == ["train"]


@pytest.mark.parametrize("mechanism", FAMILIES)
def test_seeded(mechanism):
    first, again, other = (
        small(mechanism=mechanism),
        small(mechanism=mechanism),
        small(mechanism=mechanism, rng=1),
    )
    assert np.array_equal(first.X, again.X)
    assert not np.array_equal(first.X, other.X)
    assert not np.array_equal(first.uns["truth"]["targets"], other.uns["truth"]["targets"])


def test_truth_does_not_depend_on_the_number_of_cells():
    few, many = small(), small(cells_per_condition=20, n_control=60)
    assert (few.varp["true_graph"] != many.varp["true_graph"]).nnz == 0
    assert np.array_equal(few.uns["truth"]["effects"], many.uns["truth"]["effects"])


def test_global_state_is_untouched():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    small()
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("mechanism", [*FAMILIES, "saturating"])
def test_survives_a_file(tmp_path, mechanism):
    adata = small(mechanism=mechanism)
    adata.write_h5ad(tmp_path / "synthetic.h5ad")
    read = anndata.read_h5ad(tmp_path / "synthetic.h5ad")
    assert np.array_equal(read.X, adata.X)
    assert list(read.obs["condition"]) == list(adata.obs["condition"])
    before, after = adata.uns["truth"], read.uns["truth"]
    for key in ("targets", "effects", "features"):
        assert np.array_equal(before[key], after[key])
        assert before[key].dtype == after[key].dtype
    for key in ("conditions", "hill"):
        pd.testing.assert_frame_equal(
            before[key].reset_index(drop=True), after[key].reset_index(drop=True), check_dtype=False
        )
    arguments = {"targets": before["targets"][2], "effects": before["effects"][2], "n": 5}
    assert np.array_equal(
        scgim.simulate.sample_truth(adata, **arguments), scgim.simulate.sample_truth(read, **arguments)
    )
    pair = [("p01", 0.7)]
    assert np.array_equal(
        scgim.simulate.truth_at(adata, perturbations=pair)[2],
        scgim.simulate.truth_at(read, perturbations=pair)[2],
    )


def test_sample_truth_of_several_conditions(full):
    truth = full.uns["truth"]
    x = scgim.simulate.sample_truth(full, targets=truth["targets"][:3], effects=truth["effects"][:3], n=7)
    assert x.shape == (3, 7, 20)
    assert x.dtype == np.float32
    assert not np.array_equal(x[0, 0], x[0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"graph": "ba"}, "graph='ba' is unknown; use one of"),
        ({"mechanism": "tree"}, "mechanism"),
        ({"intervention": "soft"}, "intervention"),
        ({"n_genes": 1}, "n_genes"),
        ({"n_features": 41}, "n_features = 41"),
        ({"n_features": 0}, "n_features"),
        ({"doses": ()}, "doses"),
        ({"doses": (0.0, 1.0)}, "doses"),
        ({"doses": (1.0, 1.0)}, "twice"),
        ({"new_doses": (0.5,)}, "new_doses must differ"),
        ({"cells_per_condition": 0}, "cells_per_condition"),
        ({"n_control": 0}, "n_control"),
        ({"n_genes": 5, "n_features": 5}, "distinct target sets"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        scgim.simulate.synthetic(**arguments)


def test_truth_is_asked_of_data_without_truth(full):
    bare = anndata.AnnData(np.zeros((3, 2), dtype=np.float32))
    with pytest.raises(KeyError, match="no simulated truth"):
        scgim.simulate.sample_truth(bare, targets=np.zeros(2), effects=np.zeros(2), n=1)
    with pytest.raises(KeyError, match="p99"):
        scgim.simulate.truth_at(full, perturbations=[("p99", 1.0)])
    with pytest.raises(ValueError, match=r"\(20,\)"):
        scgim.simulate.sample_truth(full, targets=np.zeros(3), effects=np.zeros(3), n=1)
