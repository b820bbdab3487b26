"""Use of a fitted model: sample_cells, predict_targets, intervene, counterfactual, and the stored state."""

from __future__ import annotations

import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from example_cells import assert_unchanged, snapshot
from scipy import stats
from small_fits import GENES, edit_graph, edit_record, fitted, prepared
from small_gim import make_gim

import scgim
from scgim.model import Action, abduct, draw_noise, propagate
from scgim.slots import checksum, read_entry
from scgim.slots.keys import FORMAT_VERSION

pytestmark = pytest.mark.usefixtures("quick_fits")

EDGES = [("g0", "g1"), ("g1", "g2"), ("g0", "g3")]


@pytest.fixture(scope="module")
def continuous() -> ad.AnnData:
    adata = fitted(fit={"max_steps": 60, "check_every": 60}, pairs=True)
    edit_graph(adata, EDGES)
    return adata


@pytest.fixture(scope="module")
def shifted() -> ad.AnnData:
    adata = fitted(fit={"intervention": "shift", "max_steps": 60, "check_every": 60})
    edit_graph(adata, EDGES)
    return adata


@pytest.fixture(scope="module")
def zeros() -> ad.AnnData:
    adata = fitted("log1p", fit={"max_steps": 60, "check_every": 60})
    edit_graph(adata, EDGES)
    return adata


@pytest.fixture(params=["continuous", "shifted", "zeros"])
def model(request) -> ad.AnnData:
    return request.getfixturevalue(request.param)


def ordinary(adata: ad.AnnData) -> ad.AnnData:
    """A copy, so that a test may change it."""
    return adata.copy()


# -- sample_cells -----------------------------------------------------------------------------------------


def test_sampled_cells_are_labelled(model):
    before = snapshot(model)
    cells = scgim.tl.sample_cells(model, perturbations=[("A", 10), "control", ("B", 3.0)], n=4)
    assert_unchanged(model, before)
    assert cells.X.dtype == np.float32
    assert cells.shape == (12, 5)
    assert cells.var_names.tolist() == GENES
    assert cells.obs["condition"].tolist() == ["A_10"] * 4 + ["control"] * 4 + ["B_3"] * 4
    assert cells.obs["perturbation"].tolist() == ["A"] * 4 + ["control"] * 4 + ["B"] * 4
    np.testing.assert_array_equal(cells.obs["dose"], [10.0] * 4 + [np.nan] * 4 + [3.0] * 4)
    assert cells.obs["gim_condition"].tolist() == cells.obs["condition"].tolist()
    assert cells.obs_names.is_unique
    assert np.isfinite(cells.X).all()
    everything = scgim.tl.sample_cells(model, n=2)
    assert everything.obs["condition"].unique().tolist() == model.uns["gim"]["conditions"]["condition"].tolist()


def test_zero_inflated_cells_have_zeros_and_no_negative_values(zeros):
    x = scgim.tl.sample_cells(zeros, n=50).X
    assert (x >= 0).all()
    assert 0.02 < (x == 0).mean() < 0.9


def test_the_seed_decides(model):
    first, second, other = (scgim.tl.sample_cells(model, perturbations=["A_1"], n=6, rng=r).X for r in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_global_random_states_are_untouched(model):
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    scgim.tl.sample_cells(model, n=2)
    scgim.tl.intervene(model, interventions={"g0": 1.0}, n=2)
    scgim.tl.counterfactual(model, perturbation="A_10")
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_dose_in_between_lies_in_between(continuous):
    """Features are interpolated; where the network is linear the effect lies between."""
    adata = ordinary(continuous)
    state = dict(read_entry(adata).weights)
    for name, value in state.items():
        if ".net." in name:
            state[name] = np.zeros_like(value)
        elif name == "interventions.target_net.skip.weight":
            state[name] = np.full_like(value, 10.0)  # everything is a target
        elif name == "interventions.effect_net.0.skip.weight":
            state[name] = np.tile(np.linspace(-1, 2, value.shape[1], dtype=np.float32), (len(value), 1))
    edit_record(adata, weights=state)
    cells = scgim.tl.sample_cells(adata, perturbations=[("A", d) for d in (1.0, 3.0, 10.0)], n=500)
    low, middle, high = (cells.X[500 * i : 500 * (i + 1), 0].mean() for i in range(3))
    assert min(low, high) + 0.1 * abs(high - low) < middle < max(low, high) - 0.1 * abs(high - low)


def test_two_drugs_together_hit_the_targets_of_both():
    known = {"A": "g0", "B": "g1", "C": "g3"}
    for intervention in ("hard", "shift"):
        adata = fitted(fit={"known_targets": known, "intervention": intervention})
        table = scgim.tl.predict_targets(adata, perturbations=[[("A", 10), ("C", 1)], "control", ("B", 10)])
        hit = {c: set(t.loc[t["is_target"], "gene"]) for c, t in table.groupby("condition")}
        assert hit == {"A_10+C_1": {"g0", "g3"}, "control": set(), "B_10": {"g1"}}
        cells = scgim.tl.sample_cells(adata, perturbations=[[("A", 10), ("C", 1)]], n=3)
        assert cells.obs["condition"].tolist() == ["A_10+C_1"] * 3
        assert cells.obs["dose"].isna().all()
        effects = table.set_index(["condition", "gene"])["effect"]
        alone = scgim.tl.predict_targets(adata, perturbations=[("A", 10)]).set_index("gene")["effect"]
        assert effects["A_10+C_1", "g0"] == pytest.approx(alone["g0"], rel=0.02, abs=0.02)


def test_predicted_targets_agree_with_the_stored_table(model):
    labels = model.uns["gim"]["conditions"]["condition"].tolist()[1:]
    table = scgim.tl.predict_targets(model, perturbations=[*labels, labels[0]])
    stored = model.uns["gim"]["targets"].set_index(["condition", "gene"])
    assert len(table) == len(stored)
    found = table.set_index(["condition", "gene"]).loc[stored.index]
    np.testing.assert_allclose(found["probability"], stored["probability"], atol=1e-6)
    np.testing.assert_allclose(found["effect"], stored["effect"], rtol=1e-4, atol=1e-5)
    assert table.groupby("condition")["probability"].apply(lambda p: p.is_monotonic_decreasing).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"perturbations": [("Z", 10)]}, ValueError, "Z"),
        ({"perturbations": ["A"]}, ValueError, "dose"),
        ({"perturbations": [("A", -1)]}, ValueError, "dose"),
        ({"n": 0}, ValueError, "n must"),
        ({"n": 2.5}, TypeError, "n must"),
        ({"key": "gin"}, KeyError, "gin"),
        ({"group": "first"}, KeyError, "group"),
        ({"rng": "x"}, TypeError, "rng"),
    ],
)
def test_sample_cells_refuses(continuous, arguments, error, message):
    with pytest.raises(error, match=message):
        scgim.tl.sample_cells(continuous, **arguments)


def test_masked_genes_are_independent_of_each_other(continuous):
    """g4 has no parents, g2 none but g1; cut g1 and its correlation with g0 goes."""
    plain = scgim.tl.sample_cells(continuous, perturbations=["control"], n=4000).to_df()
    assert abs(plain["g4"].corr(plain["g2"])) < 0.07
    known = fitted(fit={"max_steps": 60, "check_every": 60, "known_targets": {"B_10": "g1"}})
    edit_graph(known, EDGES)
    cut = scgim.tl.sample_cells(known, perturbations=["B_10"], n=4000).to_df()
    assert abs(plain["g0"].corr(plain["g1"])) > 0.15
    assert abs(cut["g0"].corr(cut["g1"])) < 0.07


# -- intervene --------------------------------------------------------------------------------------------


def test_do_holds_the_value_and_leaves_what_is_not_downstream(model):
    plain = scgim.tl.sample_cells(model, perturbations=["control"], n=1500, rng=1)
    low, high = (scgim.tl.intervene(model, interventions={"g1": value}, n=1500, rng=2) for value in (0.0, 4.0))
    assert (high[:, "g1"].X == 4).all()
    assert high.obs["condition"].unique().tolist() == ["do(g1=4)"]
    for gene in ("g0", "g3", "g4"):  # upstream or beside
        a, b = (cells[:, gene].X.ravel() for cells in (plain, high))
        assert stats.ks_2samp(a, b).pvalue > 1e-3
        # The same noise; genes beside share what a library holds with g2, of which near its end a trace is seen.
        np.testing.assert_allclose(low[:, gene].X, high[:, gene].X, rtol=1e-5 if model.X.min() >= 0 else 0)
    assert not np.array_equal(low[:, "g2"].X, high[:, "g2"].X)  # downstream


def test_do_beside_a_perturbation(continuous):
    both = scgim.tl.intervene(continuous, interventions={"g4": -2.0}, perturbation=("A", 10), n=5)
    assert both.obs["condition"].unique().tolist() == ["A_10, do(g4=-2)"]
    assert (both[:, "g4"].X == -2).all()
    alone = scgim.tl.sample_cells(continuous, perturbations=[("A", 10)], n=5)
    np.testing.assert_array_equal(both[:, GENES[:4]].X, alone[:, GENES[:4]].X)


@pytest.mark.parametrize(
    ("interventions", "message"),
    [({}, "empty"), ({"g9": 1.0}, "g9"), ({"other": 1.0}, "other"), ({"g0": np.nan}, "finite")],
)
def test_intervene_refuses(continuous, interventions, message):
    with pytest.raises(ValueError, match=message):
        scgim.tl.intervene(continuous, interventions=interventions)


def test_expression_below_zero_is_refused(zeros):
    with pytest.raises(ValueError, match=">= 0"):
        scgim.tl.intervene(zeros, interventions={"g0": -1.0})


# -- counterfactual ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "mlp", "ziln"])
def test_abduction_inverts_propagation(kind):
    gim = make_gim(kind)
    graph = np.triu(np.ones((5, 5), dtype=bool), 1)
    generator = torch.Generator().manual_seed(0)
    x = propagate(gim, graph, draw_noise(gim, 200, generator), None)
    again = propagate(gim, graph, abduct(gim, graph, x, generator), None)
    torch.testing.assert_close(again, x, rtol=1e-3, atol=1e-4)
    assert torch.equal(again == 0, x == 0)
    nothing = Action(torch.zeros_like(x, dtype=torch.bool), {})
    torch.testing.assert_close(
        propagate(gim, graph, abduct(gim, graph, x, generator), nothing), x, rtol=1e-3, atol=1e-4
    )


def test_abducted_noise_is_standard_normal_and_uniform():
    """Of cells drawn from the model itself, zeros included."""
    gim = make_gim("ziln")
    graph = np.triu(np.ones((5, 5), dtype=bool), 1)
    generator = torch.Generator().manual_seed(0)
    x = propagate(gim, graph, draw_noise(gim, 4000, generator), None)
    noise = abduct(gim, graph, x, generator)
    for gene in range(5):
        assert stats.kstest(noise.normal[:, gene].numpy(), "norm").pvalue > 1e-3
        assert stats.kstest(noise.uniform[:, gene].numpy(), "uniform").pvalue > 1e-3


def test_counterfactual_keeps_what_is_not_touched_exactly(model):
    before = snapshot(model)
    new = scgim.tl.counterfactual(model, interventions={"g1": 3.0})
    assert_unchanged(model, before)
    control = (model.obs["gim_condition"] == "control").to_numpy()
    assert new.obs_names.tolist() == model.obs_names[control].tolist()
    assert new.obs["perturbation"].tolist() == model.obs.loc[control, "perturbation"].tolist()
    observed = model[control, GENES].X
    np.testing.assert_array_equal(new.layers["observed"], observed)
    for gene in ("g0", "g3", "g4"):
        j = GENES.index(gene)
        np.testing.assert_array_equal(new.X[:, j], observed[:, j])
        assert not new.layers["touched"][:, j].any()
    assert (new[:, "g1"].X == 3).all()
    assert not np.array_equal(new[:, "g2"].X, observed[:, [2]])
    assert new.layers["touched"][:, [1, 2]].all()


def test_holding_genes_at_what_they_are_changes_nothing(continuous):
    cell = continuous.obs_names[continuous.obs["gim_condition"] == "control"][:1]
    observed = continuous[cell, GENES].X
    values = {gene: float(v) for gene, v in zip(GENES, observed[0], strict=True)}
    same = scgim.tl.counterfactual(continuous, interventions={"g0": values["g0"]}, cells=cell)
    np.testing.assert_allclose(same.X, observed, rtol=1e-4, atol=1e-4)
    everything = scgim.tl.counterfactual(continuous, interventions=values, cells=cell)
    np.testing.assert_allclose(everything.X, observed, rtol=1e-6)


def test_the_control_as_a_perturbation_is_the_identity(model):
    new = scgim.tl.counterfactual(model, perturbation="control")
    np.testing.assert_array_equal(new.X, new.layers["observed"])
    assert not new.layers["touched"].any()


def test_a_perturbation_touches_targets_and_their_descendants(model):
    new = scgim.tl.counterfactual(model, perturbation=("A", 10), cells=model.obs["gim_condition"] == "control")
    same = new.layers["observed"] == new.X
    assert same[new.layers["touched"] == 0].all()
    assert new.obs["condition"].unique().tolist() == ["A_10"]
    assert scgim.tl.counterfactual(model, perturbation=("A", 10), cells=new.obs_names[0]).n_obs == 1
    by_name = scgim.tl.counterfactual(model, perturbation=("A", 10), cells=new.obs_names[[3, 1]])
    assert by_name.obs_names.tolist() == new.obs_names[[3, 1]].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "perturbation="),
        ({"perturbation": ("Z", 1)}, "Z"),
        ({"perturbation": ("A", 10), "cells": ["nobody"]}, "nobody"),
        ({"perturbation": ("A", 10), "cells": []}, "no cell"),
        ({"perturbation": ("A", 10), "cells": np.ones(3, dtype=bool)}, "3 cells"),
        ({"interventions": {"g9": 1.0}}, "g9"),
    ],
)
def test_counterfactual_refuses(continuous, arguments, message):
    with pytest.raises(ValueError, match=message):
        scgim.tl.counterfactual(continuous, **arguments)


def test_perturbed_cells_are_refused(continuous):
    cells = continuous.obs_names[continuous.obs["gim_condition"] == "A_10"][:2]
    with pytest.raises(ValueError, match=rf"2 of the cells.*{cells[0]}"):
        scgim.tl.counterfactual(continuous, perturbation=("B", 1), cells=cells)


# -- the stored model -------------------------------------------------------------------------------------

SCRIPT = """
import sys, anndata, numpy, scgim
adata = anndata.read_h5ad(sys.argv[1])
cells = scgim.tl.sample_cells(adata, n=7, rng=5)
changed = scgim.tl.counterfactual(adata, perturbation=("A", 10), rng=5)
numpy.savez(sys.argv[2], cells=cells.X, changed=changed.X)
"""


@pytest.mark.slow
def test_the_file_is_the_model_in_a_new_process(zeros, tmp_path):
    zeros.write_h5ad(tmp_path / "fit.h5ad")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "fit.h5ad"), str(tmp_path / "out.npz")]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(found["cells"], scgim.tl.sample_cells(zeros, n=7, rng=5).X)
    np.testing.assert_array_equal(found["changed"], scgim.tl.counterfactual(zeros, perturbation=("A", 10), rng=5).X)


def test_everything_written_survives_a_file(model, tmp_path):
    model.write_h5ad(tmp_path / "fit.h5ad")
    again = ad.read_h5ad(tmp_path / "fit.h5ad")
    first, second = snapshot(model), snapshot(again)
    for entry in ("state", "history", "membership", "features", "graph", "targets", "conditions", "parts"):
        a, b = first["uns"]["gim"][entry], second["uns"]["gim"][entry]
        if isinstance(a, pd.DataFrame):
            # text by value, not by dtype
            pd.testing.assert_frame_equal(b, a, check_dtype=False, check_index_type=False, check_categorical=False)
            numbers = a.select_dtypes(["number", "bool"])
            pd.testing.assert_frame_equal(b[numbers.columns], numbers, check_index_type=False)
        elif isinstance(a, dict):
            assert set(a) == set(b)
            for name, value in a.items():
                np.testing.assert_array_equal(b[name], value)
                assert isinstance(value, str) or b[name].dtype == value.dtype
        else:
            np.testing.assert_array_equal(a, b)
    for slot in ("varm", "varp"):
        assert set(first[slot]) == set(second[slot])
        for name, value in first[slot].items():
            np.testing.assert_array_equal(second[slot][name], value)


def test_a_backed_file_can_be_used(zeros, tmp_path):
    expected = scgim.tl.sample_cells(zeros, n=3).X, scgim.tl.counterfactual(zeros, perturbation=("A", 10)).X
    for name, x in (("dense", zeros.X), ("sparse", sp.csr_matrix(zeros.X))):
        adata = ordinary(zeros)
        adata.X = x
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        backed = ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
        np.testing.assert_array_equal(scgim.tl.sample_cells(backed, n=3).X, expected[0])
        np.testing.assert_array_equal(scgim.tl.counterfactual(backed, perturbation=("A", 10)).X, expected[1])
        backed.file.close()


def test_a_subset_of_cells_or_other_genes_less_can_still_be_sampled_from(continuous):
    expected = scgim.tl.sample_cells(continuous, n=3).X
    few = continuous[continuous.obs["gim_condition"] == "A_10"]
    np.testing.assert_array_equal(scgim.tl.sample_cells(few, n=3).X, expected)
    np.testing.assert_array_equal(scgim.tl.sample_cells(few.copy()[:, GENES].copy(), n=3).X, expected)
    with pytest.raises(ValueError, match="g3"):
        scgim.tl.sample_cells(continuous[:, ["g0", "g1", "g2", "g4"]].copy(), n=3)


def test_genes_in_another_order_are_still_the_same_genes(model):
    order = ["g3", "other", "g0", "g4", "g2", "g1"]
    moved = model[:, order].copy()
    names = [gene for gene in order if gene != "other"]
    expected = scgim.tl.sample_cells(model, n=3)[:, names]
    found = scgim.tl.sample_cells(moved, n=3)
    assert found.var_names.tolist() == names
    np.testing.assert_array_equal(found.X, expected.X)
    for arguments in ({"perturbation": ("A", 10)}, {"interventions": {"g1": 2.0}}):
        first, second = (scgim.tl.counterfactual(a, **arguments) for a in (model, moved))
        np.testing.assert_array_equal(second.X, first[:, names].X)
        np.testing.assert_array_equal(second.layers["touched"], first[:, names].layers["touched"])
        np.testing.assert_array_equal(second.layers["observed"], first[:, names].layers["observed"])
    held = scgim.tl.intervene(moved, interventions={"g4": 1.5}, n=4)
    assert (held[:, "g4"].X == 1.5).all()
    first, second = (scgim.tl.predict_targets(a, perturbations=["A_10"]) for a in (model, moved))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    "damage", ["value", "missing weight", "extra weight", "no checksum", "missing weight, new checksum"]
)
def test_a_damaged_state_is_refused(continuous, damage):
    adata = ordinary(continuous)
    uns = adata.uns["gim"]
    if damage == "value":
        uns["state"]["mechanisms.bias"][0] += 1e-3
    elif damage.startswith("missing weight"):
        del uns["state"]["mechanisms.bias"]
    elif damage == "extra weight":
        uns["state"]["mechanisms.more"] = np.zeros(2, dtype=np.float32)
    else:
        del uns["state_sha256"]
    message = r"uns\['gim'\].*checksum"
    if damage.endswith("new checksum"):
        uns["state_sha256"] = checksum(uns["state"])
        message = r"mechanisms\.bias"
    with pytest.raises(ValueError, match=message):
        scgim.tl.sample_cells(adata, n=2)


def test_a_file_of_a_newer_version_is_refused(continuous):
    adata = ordinary(continuous)
    adata.uns["gim"]["format"] = FORMAT_VERSION + 1
    for call in (scgim.tl.sample_cells, scgim.tl.fit_gim):
        with pytest.raises(ValueError, match="newer"):
            call(adata)


def test_prepared_but_not_fitted_is_an_error(continuous):
    with pytest.raises(KeyError, match="fit_gim"):
        scgim.tl.sample_cells(prepared(), n=2)
