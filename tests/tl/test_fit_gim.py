"""`tl.fit_gim`: what it writes, and what it refuses, leaving everything as it was."""

from __future__ import annotations

import dataclasses
import inspect
import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from example_cells import assert_unchanged, snapshot
from small_fits import GENES, QUICK, drug_cells, fitted, prepared

import scgim
from scgim.inference import FitConfig, make_config
from scgim.model import is_acyclic
from scgim.slots import read_entry

pytestmark = pytest.mark.usefixtures("quick_fits")


def bad_fit(adata, **changes) -> None:
    scgim.tl.fit_gim(adata, **{**QUICK, **changes})


def adjacency(table: pd.DataFrame) -> np.ndarray:
    graph = np.zeros((len(GENES),) * 2, dtype=bool)
    for source, target in zip(table["source"], table["target"], strict=True):
        graph[GENES.index(source), GENES.index(target)] = True
    return graph


@pytest.mark.parametrize("kind", ["continuous", "log1p"])
@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_slots(kind, intervention):
    adata = prepared(kind)
    x = adata.X.copy()
    assert scgim.tl.fit_gim(adata, intervention=intervention, **QUICK) is None
    np.testing.assert_array_equal(adata.X, x)
    uns = adata.uns["gim"]
    assert is_acyclic(adjacency(uns["graph"]))
    edge_prob = adata.varp["gim_edge_prob"]
    assert sp.issparse(edge_prob)
    assert edge_prob.dtype == np.float32
    assert edge_prob.shape == (6, 6)
    dense = edge_prob.toarray()
    assert not dense.diagonal().any()
    assert not dense[5].any()
    assert not dense[:, 5].any()  # `other` is not modelled
    for _, edge in uns["graph"].iterrows():
        found = dense[adata.var_names.get_loc(edge["source"]), adata.var_names.get_loc(edge["target"])]
        assert found == pytest.approx(edge["probability"], rel=1e-5)
        assert found > 0.5
    for name in ("gim_target_prob", "gim_effect"):
        table = adata.varm[name]
        assert table.shape == (6, 7)
        assert np.isnan(table[5]).all()
        assert np.isfinite(table[:5]).all()
    assert not adata.varm["gim_target_prob"][:5, 0].any()  # the control
    targets = uns["targets"]
    assert list(targets.columns) == [
        *("condition", "gene", "probability", "is_target", "effect"),
        *("control_mean", "log2_fold_change", "direction"),
    ]
    assert len(targets) == 6 * 5
    for _, row in targets.iterrows():
        column = uns["conditions"]["condition"].tolist().index(row["condition"])
        gene = adata.var_names.get_loc(row["gene"])
        assert row["probability"] == pytest.approx(float(adata.varm["gim_target_prob"][gene, column]), abs=1e-6)
        assert row["effect"] == pytest.approx(float(adata.varm["gim_effect"][gene, column]), rel=1e-4, abs=1e-5)
    lengths = {len(v) for v in uns["history"].values()}
    assert lengths == {2}
    params = uns["params"]["fit"]
    assert params["rng"] == 0
    assert params["settings"]["mechanism"] == ("linear" if kind == "continuous" else "ziln")
    assert params["settings"]["intervention"] == intervention


def test_dense_and_sparse_input_give_the_same_fit():
    first = prepared("log1p")
    second = prepared("log1p")
    second.X = sp.csr_matrix(second.X)
    for adata in (first, second):
        scgim.tl.fit_gim(adata, **QUICK)
    assert first.uns["gim"]["state_sha256"] == second.uns["gim"]["state_sha256"]


def test_the_seed_decides_and_the_global_state_is_untouched():
    states = []
    for rng in (0, 0, 1, np.random.default_rng(0)):
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        states.append(fitted(fit={"rng": rng}).uns["gim"]["state_sha256"])
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
    assert states[0] == states[1] == states[3] != states[2]


def test_hold_out_in_fit_gim_and_test_cells_have_no_influence():
    adata, moved = drug_cells(), drug_cells()
    held = ((moved.obs["perturbation"] == "A") & (moved.obs["dose"] == 10)).to_numpy()
    moved.X[held] *= -7
    for each in (adata, moved):
        scgim.pp.prepare(each, dose_key="dose", input="continuous", genes=GENES, min_cells=1, hold_out={"A": 10})
        assert ((each.obs["gim_split"] == "test") == held).all()
        scgim.tl.fit_gim(each, **QUICK)
    first, second = (read_entry(each).weights for each in (adata, moved))
    assert first
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
    later = prepared()
    scgim.tl.fit_gim(later, hold_out={"A": 10}, **QUICK)
    assert later.uns["gim"]["state_sha256"] == adata.uns["gim"]["state_sha256"]
    assert "A_10" in set(later.uns["gim"]["targets"]["condition"])  # predicted all the same


def test_two_fits_coexist():
    adata = fitted()
    first = adata.uns["gim"]["state_sha256"]
    scgim.pp.prepare(adata, dose_key="dose", input="continuous", genes=GENES[:3], min_cells=1, key_added="other_fit")
    scgim.tl.fit_gim(adata, key_added="other_fit", intervention="shift", **QUICK)
    assert adata.uns["gim"]["state_sha256"] == first
    assert scgim.tl.sample_cells(adata, n=2).n_vars == 5
    assert scgim.tl.sample_cells(adata, n=2, key="other_fit").n_vars == 3


def test_one_model_per_group():
    adata = prepared(prepare={"groupby": "line"}, n=40)
    scgim.tl.fit_gim(adata, groupby="line", **QUICK)
    sums = [adata.uns[f"gim_{line}"]["state_sha256"] for line in ("first", "second")]
    assert sums[0] != sums[1]
    cells = scgim.tl.sample_cells(adata, perturbations=[("A", 10)], n=3, group="second")
    assert cells.obs["gim_second_condition"].tolist() == ["A_10"] * 3
    with pytest.raises(ValueError, match=r"group=.*first"):
        scgim.tl.sample_cells(adata, n=3)
    before = adata.uns["gim_first"]["state_sha256"]
    scgim.tl.fit_gim(adata, group="second", rng=5, **QUICK)
    assert adata.uns["gim_first"]["state_sha256"] == before
    assert adata.uns["gim_second"]["state_sha256"] != sums[1]
    copy = snapshot(adata)
    with pytest.raises(ValueError, match="dose"):
        bad_fit(adata, groupby="dose")
    assert_unchanged(adata, copy)


def test_a_failure_in_the_second_group_leaves_the_first_as_it_was():
    adata = prepared(prepare={"groupby": "line"}, n=40)
    adata.X[np.flatnonzero(adata.obs["line"] == "second")[:1], 0] = np.nan
    before = snapshot(adata)
    with pytest.raises(ValueError, match="g0"):
        bad_fit(adata)
    assert_unchanged(adata, before)


def test_a_view_can_be_fitted_and_its_parent_stays():
    adata = prepared()
    before = snapshot(adata)
    view = adata[::-1]
    scgim.tl.fit_gim(view, **QUICK)
    assert "state" in view.uns["gim"]
    assert_unchanged(adata, before)


def test_checkpoint_and_resume(tmp_path):
    whole = fitted(fit={"init": "random"}).uns["gim"]["state_sha256"]
    path = tmp_path / "fit.ckpt"
    fitted(fit={"init": "random", "checkpoint": path, "max_steps": 4})
    assert fitted(fit={"init": "random", "checkpoint": path}).uns["gim"]["state_sha256"] == whole


def test_what_was_written_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="scgim"):
        fitted()
    text = caplog.text
    assert "uns['gim']" in text
    assert "gim_edge_prob" in text


@pytest.mark.parametrize(
    ("known", "count", "warned"),
    [
        # 3, 3 and 1 of 5 genes, each drug at two doses: 2.3 on average, yet most conditions are saturated.
        ({"A": GENES[:3], "B": GENES[:3], "C": "g3"}, "4 of 6 conditions", True),
        ({"A_10": GENES, "A_1": "g0", "B": "g1", "C": "g3"}, "1 of 6 conditions", False),
        ({"A": "g0", "B": "g1", "C": "g3"}, None, False),
    ],
)
def test_conditions_in_which_most_genes_are_targets_are_named(known, count, warned, caplog):
    with caplog.at_level(logging.INFO, logger="scgim"):
        fitted(fit={"known_targets": known})
    records = [r for r in caplog.records if "more than half of the 5 genes" in r.getMessage()]
    if count is None:
        assert not records
        return
    (record,) = records
    assert count in record.getMessage()
    assert "'A_10'" in record.getMessage()
    assert "'C_10'" not in record.getMessage()
    assert (record.levelno == logging.WARNING) == warned == ("target_sparsity" in record.getMessage())


# -- known interventions ----------------------------------------------------------------------------------


def test_known_targets_are_respected():
    adata = fitted(fit={"init": "random", "known_targets": {"A": "g0", "B_10": ["g1", "g2"]}})
    table = adata.uns["gim"]["targets"].pivot(index="condition", columns="gene", values="is_target")[GENES]
    assert table.loc[["A_1", "A_10"]].to_numpy().tolist() == [[True, False, False, False, False]] * 2
    assert table.loc["B_10"].tolist() == [False, True, True, False, False]
    predicted = scgim.tl.predict_targets(adata, perturbations=[("A", 3.0)])  # a dose in between
    assert predicted.loc[predicted["is_target"], "gene"].tolist() == ["g0"]


def test_known_interventions_are_respected():
    adata = fitted(fit={"known_interventions": {"A": {"g0": 2.5}}})
    cells = scgim.tl.sample_cells(adata, perturbations=["A_10", "B_10"], n=20)
    first = cells[cells.obs["condition"] == "A_10"]
    assert (first[:, "g0"].X == 2.5).all()
    assert np.ptp(cells[cells.obs["condition"] == "B_10", "g0"].X) > 0
    table = adata.uns["gim"]["targets"].query("condition == 'A_10'")
    assert table.loc[table["is_target"], "gene"].tolist() == ["g0"]
    assert table.loc[table["is_target"], "effect"].tolist() == [2.5]
    both = scgim.tl.sample_cells(adata, perturbations=[[("A", 10), ("B", 10)]], n=5)
    assert (both[:, "g0"].X == 2.5).all()


# -- bad input --------------------------------------------------------------------------------------------


def set_x(adata, row, column, value) -> None:
    adata.X[row, column] = value


def one_condition(adata) -> None:
    adata.obs["gim_split"] = adata.obs["gim_split"].where(adata.obs["gim_condition"] == "control")


BAD = {
    "hold_out": ("continuous", None, {"hold_out": {"A": 99}}, ValueError, "99"),
    "hold_out drug": ("continuous", None, {"hold_out": {"Z": 10}}, ValueError, "Z"),
    "setting": ("continuous", None, {"max_step": 3}, TypeError, "max_steps"),
    "setting value": ("continuous", None, {"max_steps": 0}, ValueError, "max_steps"),
    "mechanism": ("continuous", None, {"mechanism": "gauss"}, ValueError, "linear, mlp, ziln"),
    "intervention": ("continuous", None, {"intervention": "soft"}, ValueError, "hard, shift"),
    "preset": ("continuous", None, {"preset": "fast"}, ValueError, "default, paper"),
    "device": ("continuous", None, {"device": "gpu"}, ValueError, "gpu"),
    "rng": ("continuous", None, {"rng": "0"}, TypeError, "rng"),
    "negative": ("continuous", None, {"mechanism": "ziln"}, ValueError, r"ziln.*negative.*mlp"),
    "nan": ("continuous", lambda a: set_x(a, 3, 1, np.nan), {}, ValueError, "g1"),
    "infinite": ("log1p", lambda a: set_x(a, 3, 2, np.inf), {}, ValueError, "g2"),
    "changed": ("log1p", lambda a: set_x(a, slice(0, 9), 2, 0.3), {}, ValueError, "9 of 300 cells are not what"),
    "scaled": ("continuous", lambda a: set_x(a, slice(None), 2, 5), {}, ValueError, "adata.X was changed"),
    "known gene": ("continuous", None, {"known_targets": {"A": "g9"}}, ValueError, r"g9.*g\d"),
    "known perturbation": ("continuous", None, {"known_targets": {"Q": "g0"}}, ValueError, "Q"),
    "known after hold_out": (
        "continuous", None, {"known_targets": {"Q": "g0"}, "hold_out": {"A": 10}}, ValueError, "Q",
    ),
    "known value": ("continuous", None, {"known_interventions": {"A": {"g0": np.nan}}}, ValueError, "g0"),
    "known negative value": ("log1p", None, {"known_interventions": {"A": {"g0": -1.0}}}, ValueError, "g0"),
    "one condition": ("continuous", one_condition, {}, ValueError, "one condition"),
    "groupby": ("continuous", None, {"groupby": "line"}, ValueError, "prepare"),
    "group": ("continuous", None, {"group": "first"}, KeyError, "group"),
    "key": ("continuous", None, {"key_added": "gin"}, KeyError, "gin"),
    "truncated checkpoint": ("continuous", None, {"checkpoint": "damaged"}, ValueError, "checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "earlier_fit"), [*((case, False) for case in BAD), ("nan", True), ("known after hold_out", True)]
)
def test_bad_input_is_refused_and_nothing_changes(case, earlier_fit, tmp_path):
    kind, change, arguments, error, message = BAD[case]
    adata = (fitted if earlier_fit else prepared)(kind)
    if change is not None:
        change(adata)
    if arguments.get("checkpoint"):
        path = tmp_path / "damaged"
        path.write_bytes(b"PK\x03\x04 not a checkpoint")
        arguments = {"checkpoint": path}
    before = snapshot(adata)
    with pytest.raises(error, match=message):
        bad_fit(adata, **arguments)
    assert_unchanged(adata, before)


@pytest.mark.parametrize("hold_out", [None, {"A": 10}])
def test_a_gene_that_never_varies_in_training_is_refused(hold_out):
    adata = drug_cells()
    held = ((adata.obs["perturbation"] == "A") & (adata.obs["dose"] == 10)).to_numpy()
    adata.X[~held if hold_out else slice(None), 2] = 5
    scgim.pp.prepare(adata, dose_key="dose", input="continuous", genes=GENES, min_cells=1)
    with pytest.raises(ValueError, match=r"never vary.*g2"):
        bad_fit(adata, hold_out=hold_out)


def test_genes_have_to_be_chosen():
    adata = drug_cells()
    scgim.pp.conditions(adata, dose_key="dose")
    with pytest.raises(KeyError, match="select_markers"):
        bad_fit(adata)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused():
    adata = prepared()
    before = snapshot(adata)
    with pytest.raises(ValueError, match="device='cpu'"):
        bad_fit(adata, device="cuda")
    assert_unchanged(adata, before)


def test_not_prepared_is_refused():
    adata = drug_cells()
    before = snapshot(adata)
    with pytest.raises(KeyError, match="prepare"):
        bad_fit(adata)
    assert_unchanged(adata, before)
    with pytest.raises(TypeError, match="AnnData"):
        bad_fit(adata.X)


def test_an_error_on_a_view_leaves_it_a_view():
    adata = prepared()
    view = adata[:, GENES]
    before = snapshot(adata)
    with pytest.raises(ValueError, match="g9"):
        bad_fit(view, known_targets={"A": "g9"})
    assert view.is_view
    assert_unchanged(adata, before)


# -- devices and settings ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("init", "objective"), [("search", "elbo"), ("random", "log_mean_exp")])
def test_a_fit_on_the_gpu(init, objective, tmp_path):
    settings = {**QUICK, "device": "cuda", "init": init, "objective": objective}
    adata = prepared("log1p")
    scgim.tl.fit_gim(adata, known_targets={"A": "g0"}, **settings)
    assert adata.uns["gim"]["params"]["fit"]["device"].startswith("cuda")
    assert np.isfinite(scgim.tl.sample_cells(adata, n=5).X).all()
    again = prepared("log1p")
    path = tmp_path / "fit.ckpt"
    scgim.tl.fit_gim(again, known_targets={"A": "g0"}, checkpoint=path, **{**settings, "max_steps": 4})
    scgim.tl.fit_gim(again, known_targets={"A": "g0"}, checkpoint=path, **settings)
    for name, value in adata.uns["gim"]["state"].items():
        np.testing.assert_allclose(again.uns["gim"]["state"][name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_every_setting_shows_in_the_signature() -> None:
    parameters = inspect.signature(scgim.tl.fit_gim).parameters
    for about in dataclasses.fields(FitConfig):
        assert about.name in parameters
    assert parameters["max_steps"].default == "auto"
    assert (parameters["mechanism"].default, parameters["intervention"].default) == ("auto", "auto")


def chosen(adata: ad.AnnData) -> tuple[str, str]:
    settings = adata.uns["gim"]["params"]["fit"]["settings"]
    return settings["mechanism"], settings["intervention"]


@pytest.mark.parametrize("truth", [("linear", "shift"), ("mlp", "hard")])
def test_continuous_cells_choose_mechanism_and_intervention(truth, caplog) -> None:
    adata = scgim.simulate.synthetic(
        mechanism=truth[0], intervention=truth[1], n_genes=8, n_perturbations=10, n_features=8, n_new_targets=0,
        n_control=400, rng=3,
    )  # fmt: skip
    scgim.pp.prepare(adata, input="continuous", genes="all", dose_key="dose", features="onehot")
    with caplog.at_level("INFO", logger="scgim"):
        scgim.tl.fit_gim(adata, **QUICK)
    assert chosen(adata) == truth
    assert f"mechanism {truth[0]!r}, intervention {truth[1]!r}" in caplog.text
    evidence = scgim.get.params(adata)["fit"]["evidence"]
    assert (evidence["mlp over linear"] > 2) == (truth[0] == "mlp")
    assert (evidence["shift over hard"] > 0) == (truth[1] == "shift")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"mechanism": "mlp", "intervention": "hard"}, ("mlp", "hard")),
        ({"mechanism": "linear", "intervention": "shift"}, ("linear", "shift")),
        ({"preset": "paper"}, ("mlp", "hard")),
        ({"mechanism": "mlp", "known_interventions": {"A": {"g0": 3.0}}}, ("mlp", "hard")),
        ({"preset": make_config(mechanism="linear", intervention="shift")}, ("linear", "shift")),
        ({"preset": make_config(mechanism="linear", intervention="shift"), "intervention": "hard"}, ("linear", "hard")),
    ],
)
def test_what_is_given_is_not_chosen(given, found) -> None:
    adata = prepared("continuous")
    scgim.tl.fit_gim(adata, **{**QUICK, **given})
    assert chosen(adata) == found
    assert "evidence" not in scgim.get.params(adata)["fit"]


def test_settings_may_come_as_a_config() -> None:
    given = {name: value for name, value in QUICK.items() if name not in ("device", "progress")}
    one, other = prepared(), prepared()
    scgim.tl.fit_gim(one, mechanism="linear", **QUICK)
    config = make_config(**given, mechanism="linear")
    scgim.tl.fit_gim(other, preset=config, device="cpu", progress=False)
    pd.testing.assert_frame_equal(one.uns["gim"]["targets"], other.uns["gim"]["targets"])
    assert one.uns["gim"]["params"]["fit"]["settings"] == other.uns["gim"]["params"]["fit"]["settings"]


def test_combinations_under_hard_interventions_earn_a_hint(caplog):
    rng = np.random.default_rng(0)
    names = np.repeat(["control", "A", "B", "A+B"], 30)
    x = 3 + rng.normal(0, 0.3, (len(names), 4)) + 2.0 * np.isin(names, ["A", "A+B"])[:, None] * [1, 0, 0, 0]
    obs = pd.DataFrame({"perturbation": names}, index=[f"c{i}" for i in range(len(names))])
    adata = ad.AnnData(x.astype(np.float32), obs=obs)
    adata.var_names = [f"g{i}" for i in range(4)]
    scgim.pp.prepare(adata, input="log1p", genes=list(adata.var_names), min_cells=1, min_counts=0)
    short = {"mechanism": "linear", "max_steps": 2, "progress": False}
    for settings, hinted in (
        ({}, True),
        ({"intervention": "shift"}, False),
        ({"known_interventions": {"A": {"g0": 5.0}, "B": {"g1": 3.0}}}, False),  # known to be hard
    ):
        caplog.clear()
        scgim.tl.fit_gim(adata.copy(), **short, **settings)
        assert ("1 combination: intervention='hard' averages" in caplog.text) == hinted
