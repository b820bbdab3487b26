"""`fit_gim(mechanism="count")`: what it reads, that a fit is reproducible and survives a file, and batches."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from example_cells import assert_unchanged, snapshot
from quick_fits import quick_fits
from small_fits import QUICK, count_cells, fitted_counts, prepared_counts

import scgim
from scgim.data import PerturbationData
from scgim.inference import BalancedSampler, TrainingData, make_config
from scgim.inference import fit as run_fit
from scgim.slots import read_entry

#: For tests that do not ask which targets are found.
QUICKLY = pytest.mark.usefixtures("quick_fits")


@pytest.fixture(scope="module")
def quick_fit() -> ad.AnnData:
    """What `fit(prepared_counts(), batch_key="plate")` gives in such a test."""
    with quick_fits():
        return fitted_counts()


def fit(adata: ad.AnnData, **arguments: Any) -> ad.AnnData:
    scgim.tl.fit_gim(adata, **{**QUICK, "mechanism": "count", **arguments})
    return adata


def weights(adata: ad.AnnData) -> dict[str, np.ndarray]:
    return read_entry(adata).weights


def same_weights(one: ad.AnnData, other: ad.AnnData) -> bool:
    pairs = [(value, weights(other)[name]) for name, value in weights(one).items()]
    return all(np.array_equal(first, second) for first, second in pairs)


def edges(adata: ad.AnnData) -> set[tuple[str, str]]:
    return set(adata.uns["gim"]["graph"][["source", "target"]].itertuples(index=False, name=None))


def targets(adata: ad.AnnData) -> set[tuple[str, str]]:
    table = adata.uns["gim"]["targets"].query("is_target")
    return set(table[["condition", "gene"]].itertuples(index=False, name=None))


# -- results ----------------------------------------------------------------------------------------------


def test_the_planted_graph_and_targets_are_found(count_fit):
    assert edges(count_fit) == {("g0", "g1"), ("g1", "g2")}
    assert targets(count_fit) == {(f"{drug}_{dose}", gene) for drug, gene in (("A", "g0"), ("B", "g1"), ("C", "g3"))
                                  for dose in (1, 10)}  # fmt: skip


@QUICKLY
def test_the_seed_decides(quick_fit):
    assert same_weights(fitted_counts(), quick_fit)
    assert not same_weights(fitted_counts(fit={"rng": 1}), quick_fit)


@QUICKLY
def test_the_order_of_cells_has_no_part(quick_fit):
    order = np.random.default_rng(0).permutation(quick_fit.n_obs)
    shuffled = fit(prepared_counts()[order].copy(), batch_key="plate")
    assert same_weights(shuffled, quick_fit)


@QUICKLY
def test_cells_alike_in_expression_may_stand_in_any_order():
    # Two genes and few counts: many cells are zero in both, but differ in depth and plate.
    adata = count_cells(n=20, n_genes=10)
    adata.X = (adata.X > 8).astype(np.float32)
    scgim.pp.prepare(adata, dose_key="dose", genes=["g0", "g1", "g3"], min_cells=1, min_counts=1)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    first, second = fit(adata.copy(), batch_key="plate"), fit(adata[order].copy(), batch_key="plate")
    assert (adata[:, ["g0", "g1", "g3"]].X.toarray() == 0).all(axis=1).sum() > 20
    assert same_weights(first, second)


@QUICKLY
def test_permuted_genes_give_the_permuted_result(quick_fit):
    order = np.random.default_rng(1).permutation(quick_fit.n_vars)
    names = quick_fit.var_names[order]
    other = fit(prepared_counts()[:, names].copy(), batch_key="plate")
    for slot in ("gim_target_prob", "gim_effect"):
        np.testing.assert_array_equal(other.varm[slot], quick_fit[:, names].varm[slot])
    for name in ("graph", "targets"):
        pd.testing.assert_frame_equal(other.uns["gim"][name], quick_fit.uns["gim"][name])


@pytest.mark.parametrize("counting", ["poisson", "negative_binomial"])
@QUICKLY
def test_saved_and_loaded_is_the_same(counting, tmp_path):
    adata = fitted_counts(fit={"counting": counting})
    adata.write_h5ad(tmp_path / "fit.h5ad")
    loaded = ad.read_h5ad(tmp_path / "fit.h5ad")
    assert same_weights(loaded, adata)
    asked = {"perturbations": [("A", 3.0), "control"], "n": 20}
    cells = [scgim.tl.sample_cells(each, **asked).X for each in (adata, loaded)]
    np.testing.assert_array_equal(*cells)
    assert np.isfinite(cells[0]).all()
    record = read_entry(loaded).fitted["measured"]
    assert (record["batch_key"], record["size_key"], list(record["batches"])) == ("plate", None, ["plate1", "plate2"])
    assert weights(loaded)["counting.baseline"].shape == (2, 10)
    told = loaded.uns["gim"]["params"]["fit"]
    assert (told["batch_key"], told["settings"]["counting"]) == ("plate", counting)


@pytest.mark.parametrize("kind", ["dense", "csc", "integers", "h5ad", "view"])
@QUICKLY
def test_cells_may_be_stored_in_any_way(kind, quick_fit, tmp_path):
    adata = prepared_counts()
    if kind == "dense":
        adata.X, adata.layers["counts"] = adata.X.toarray(), adata.layers["counts"].toarray()
    elif kind == "csc":
        adata.X, adata.layers["counts"] = adata.X.tocsc(), adata.layers["counts"].tocsc()
    elif kind == "integers":
        adata.layers["counts"] = adata.layers["counts"].astype(np.int64)
    elif kind == "h5ad":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad")
    else:
        adata = adata[:, :]
    assert same_weights(fit(adata, batch_key="plate"), quick_fit)


@QUICKLY
def test_one_fit_per_group():
    adata = count_cells()
    adata.obs["line"] = np.where(np.arange(adata.n_obs) // 2 % 2 == 0, "K", "A")
    genes = [f"g{i}" for i in range(5)]
    scgim.pp.prepare(adata, dose_key="dose", genes=genes, min_cells=1, min_counts=1, groupby="line")
    fit(adata, batch_key="plate")
    for line in ("A", "K"):
        sizes = read_entry(adata, "gim", line).weights["counting.log_sizes"]
        assert abs(np.median(sizes)) < 0.2
        assert np.isfinite(scgim.tl.sample_cells(adata, n=3, group=line).X).all()


@pytest.mark.parametrize("settings", [{"mechanism": "count_linear"}, {"intervention": "shift"}])
def test_other_kinds_of_it(settings):
    adata = fitted_counts(fit=settings)
    assert {("A_10", "g0"), ("C_10", "g3")} <= targets(adata)
    assert np.isfinite(scgim.tl.sample_cells(adata, n=3).X).all()


def mechanism_of(adata: ad.AnnData) -> str:
    return str(adata.uns["gim"]["params"]["fit"]["settings"]["mechanism"])


@QUICKLY
def test_raw_counts_are_modelled_as_counts(quick_fit):
    adata = fit(prepared_counts(), mechanism="auto", batch_key="plate")
    assert same_weights(adata, quick_fit)
    assert mechanism_of(adata) == "count"
    settings = {name: value for name, value in QUICK.items() if name not in ("device", "progress")}
    for method in ("gim", "bacadi"):
        assert scgim.baselines.fit(adata, method=method, **settings).config_.mechanism == "count"
    for start in ({"preset": "paper"}, {"init": "random"}):
        assert mechanism_of(fit(prepared_counts(), mechanism="auto", **start)) == "ziln"


def estimated(adata: ad.AnnData) -> None:
    adata.layers["counts"] = adata.layers["counts"] * 0.75


def lost(adata: ad.AnnData) -> None:
    del adata.layers["counts"]


@QUICKLY
@pytest.mark.parametrize(("change", "reason"), [(estimated, "not whole"), (lost, "is missing")])
def test_what_is_not_counted_is_modelled_as_it_is(change, reason, caplog):
    adata = prepared_counts()
    change(adata)
    with caplog.at_level(logging.WARNING, logger="scgim"):
        fit(adata, mechanism="auto")
    assert mechanism_of(adata) == "ziln"
    assert reason in caplog.text
    settings = {name: value for name, value in QUICK.items() if name not in ("device", "progress")}
    assert scgim.baselines.fit(adata, method="gim", **settings).config_.mechanism == "ziln"


@QUICKLY
def test_a_gene_that_decides_the_depth_of_its_cell_is_named(caplog):
    """All counts of these cells are of modelled genes; where others or the size are given, nothing is to be said."""
    adata = count_cells()
    adata = adata[:, adata.var_names.str.startswith("g")].copy()
    scgim.pp.prepare(adata, dose_key="dose", genes=list(adata.var_names), min_cells=1, min_counts=1)
    with caplog.at_level(logging.WARNING, logger="scgim"):
        fit(adata)
    assert "g2 (12%)" in caplog.text
    assert "size_key" in caplog.text
    caplog.clear()
    adata.obs["others"] = 1000.0
    with caplog.at_level(logging.WARNING, logger="scgim"):
        fit(adata, size_key="others")
        fit(prepared_counts())
    assert "size_key" not in caplog.text


@QUICKLY
def test_what_prepare_accepts_can_be_fitted():
    """A gene whose only counts in control cells are in those that are set apart to decide on convergence."""
    adata = count_cells()
    settings = {"dose_key": "dose", "genes": [f"g{i}" for i in range(5)], "min_cells": 1, "min_counts": 1}
    scgim.pp.prepare(adata, **settings)
    control = (adata.obs["gim_condition"] == "control").to_numpy()
    apart = control & (adata.obs["gim_split"] == "valid").to_numpy()
    rare = count_cells()
    x = np.asarray(rare.X.toarray() if hasattr(rare.X, "toarray") else rare.X).copy()
    x[control & ~apart, 4], x[apart, 4] = 0, 1
    rare.X = x
    scgim.pp.prepare(rare, **settings)
    assert not rare.layers["counts"][control & (rare.obs["gim_split"] != "valid").to_numpy(), 4].any()
    assert np.isfinite(scgim.tl.sample_cells(fit(rare), n=3).X).all()


# -- interruption -----------------------------------------------------------------------------------------


@QUICKLY
def test_a_resumed_fit_is_the_uninterrupted_one(tmp_path, monkeypatch):
    settings = {"max_steps": 20, "check_every": 5, "batch_key": "plate"}
    whole = fit(prepared_counts(), **settings)
    draw, calls = BalancedSampler.draw, []

    def interrupted(self: BalancedSampler) -> Any:
        calls.append(1)
        if len(calls) == 13:  # the last checkpoint is that of step 10
            raise KeyboardInterrupt
        return draw(self)

    monkeypatch.setattr(BalancedSampler, "draw", interrupted)
    path = tmp_path / "fit.ckpt"
    stopped = fit(prepared_counts(), checkpoint=path, **settings)
    assert stopped.uns["gim"]["params"]["fit"]["stopped"] == "interrupted"
    assert np.isfinite(scgim.tl.sample_cells(stopped, n=3).X).all()
    monkeypatch.undo()
    torch.rand(7)  # the state of the session that resumes is another
    resumed = fit(prepared_counts(), checkpoint=path, **settings)
    assert same_weights(resumed, whole)
    np.testing.assert_array_equal(resumed.uns["gim"]["history"]["loss"], whole.uns["gim"]["history"]["loss"])
    with pytest.raises(ValueError, match="belongs to another fit"):
        fit(prepared_counts(), checkpoint=path, **{**settings, "batch_key": None})


# -- size factors and batches -----------------------------------------------------------------------------


@QUICKLY
def test_size_factors_are_of_the_genes_that_are_not_modelled_or_of_a_column():
    adata = prepared_counts()
    control = (adata.obs["gim_condition"] == "control").to_numpy()
    counts = adata.layers["counts"].toarray()
    total, others = counts.sum(1), counts[:, adata.var_names.str.startswith("other")].sum(1)
    data = PerturbationData.from_anndata(adata, counts=True)
    share = others[control].sum() / total[control].sum()
    assert data.measured["rest"] == pytest.approx(share)
    np.testing.assert_allclose(data.size_factor, others / (share * np.median(total[control])), rtol=1e-5)
    adata.obs["total"] = (7 * total).astype(int)
    given = PerturbationData.from_anndata(adata, counts=True, size_key="total")
    np.testing.assert_allclose(given.size_factor, total / np.median(total[control]), rtol=1e-6)
    assert given.measured["size_unit"] == np.median(adata.obs["total"][control])


def test_what_happens_to_a_modelled_gene_does_not_change_the_depth():
    """Nor does it where few genes are left that could tell: then it is that of all counts."""
    plain, raised = count_cells(), count_cells()
    x = raised.X.toarray()
    x[:, 0] += 200 * (np.arange(len(x)) % 3 == 0)
    raised.X = x
    arguments = {"dose_key": "dose", "genes": [f"g{i}" for i in range(10)], "min_cells": 1, "min_counts": 1}
    sizes = []
    for adata in (plain, raised):
        scgim.pp.prepare(adata, **arguments)
        sizes.append(PerturbationData.from_anndata(adata, counts=True).size_factor)
    ratio = sizes[0] / sizes[1]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    x[:, 10:] *= np.arange(len(x))[:, None] % 10 == 0  # genes that are not modelled
    raised.X = x
    scgim.pp.prepare(raised, **arguments)
    data, total = PerturbationData.from_anndata(raised, counts=True), x.sum(1)
    assert data.measured["rest"] is None
    np.testing.assert_allclose(data.size_factor / data.size_factor[0], total / total[0], rtol=1e-5)
    other = fit(adata.copy(), size_key="depth")
    assert not same_weights(other, fit(adata))
    assert read_entry(other).fitted["measured"]["size_key"] == "depth"


def two_rates(**batches: Any) -> ad.AnnData:
    """g5 and g6 are counted four times as often in plate2, where all cells of drug C are."""
    adata = prepared_counts(rates={"g5": 4.0, "g6": 4.0}, one_plate=("C",), seed=3)
    return fit(adata, **batches)


def test_batches_of_different_rates_make_no_edge_and_no_target(count_fit):
    found, without = two_rates(batch_key="plate"), two_rates()
    assert edges(found) == edges(count_fit)
    assert targets(count_fit) <= targets(found)  # 350 cells are few: a weak one more may be called of another gene
    assert {gene for _, gene in targets(found)} == {"g0", "g1", "g3"}
    assert {("g5", "g6"), ("g6", "g5")} & edges(without)  # what a batch does where nobody knows of it
    assert {("C_10", "g5"), ("C_10", "g6")} & targets(without)
    change = np.diff(weights(found)["counting.baseline"], axis=0)[0]  # (genes,)
    change = change - np.median(change)  # total counts are higher in plate2
    assert change[[5, 6]] == pytest.approx(np.log(4), abs=0.25)
    assert np.abs(np.delete(change, [5, 6])).max() < 0.25


@pytest.mark.parametrize("kind", ["category", "number", "renamed"])
@QUICKLY
def test_batches_are_codes_of_sorted_names(kind, quick_fit):
    adata = prepared_counts()
    plates = adata.obs["plate"]
    if kind == "category":  # in an order of its own, and with a name that no cell has
        adata.obs["plate"] = pd.Categorical(plates, ["plate2", "none", "plate1"])
    elif kind == "number":
        adata.obs["plate"] = np.where(plates == "plate1", 3, 12)
    else:
        adata.obs["plate"] = np.where(plates == "plate1", "z", "a")
    fit(adata, batch_key="plate")
    expected = {"category": ["plate1", "plate2"], "number": ["12", "3"], "renamed": ["a", "z"]}[kind]
    assert list(read_entry(adata).fitted["measured"]["batches"]) == expected
    turned = slice(None) if kind == "category" else slice(None, None, -1)
    np.testing.assert_array_equal(weights(adata)["counting.baseline"][turned], weights(quick_fit)["counting.baseline"])


@QUICKLY
def test_the_batches_are_told(caplog):
    adata = prepared_counts()
    with caplog.at_level(logging.INFO, "scgim"):
        fit(adata, batch_key="plate")
    told = "batches: plate1 (175 cells, 100 controls to train on), plate2 (175 cells, 100 controls to train on)"
    assert told in caplog.text


@QUICKLY
def test_a_gene_without_counts_in_the_controls_of_a_batch_earns_a_warning(caplog):
    adata = count_cells()
    silent = ((adata.obs["plate"] == "plate2") & (adata.obs["perturbation"] == "control")).to_numpy()
    dense = adata.X.toarray()
    dense[silent, 4] = 0
    adata.X = dense
    scgim.pp.prepare(adata, dose_key="dose", genes=["g0", "g1", "g4"], min_cells=1, min_counts=1)
    with caplog.at_level(logging.WARNING, "scgim"):
        fit(adata, batch_key="plate")
    (record,) = [r for r in caplog.records if "whose rate there is a guess" in r.getMessage()]
    assert "'plate2'" in record.getMessage()
    assert "'g4'" in record.getMessage()


# -- what is known ----------------------------------------------------------------------------------------


@QUICKLY
@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_known_interventions_are_held(intervention):
    known = {"A": {"g0": 0.7}, "C": {"g4": 0.0}}
    adata = fitted_counts(fit={"known_interventions": known, "intervention": intervention})
    assert {gene for condition, gene in targets(adata) if condition.startswith("A")} == {"g0"}
    assert {gene for condition, gene in targets(adata) if condition.startswith("C")} == {"g4"}
    cells = scgim.tl.sample_cells(adata, perturbations=["A_10", "C_1", "control"], n=400)
    means = {name: np.asarray(cells[cells.obs["condition"] == name].X).mean(0) for name in ("A_10", "C_1", "control")}
    assert (cells[cells.obs["condition"] == "C_1", "g4"].X == 0).all()
    assert np.expm1(cells[cells.obs["condition"] == "A_10", "g0"].X).mean() == pytest.approx(np.expm1(0.7), rel=0.15)
    assert means["A_10"][1] < means["control"][1] - 0.2  # the child of g0 follows
    np.testing.assert_allclose(means["A_10"][3:], means["control"][3:], atol=0.25)


def test_a_held_gene_says_nothing_of_its_mechanism_and_its_children_see_its_value():
    # Drug A's cells show no g0 at all: told that it is held, the fit need not explain the zeros.
    adata = count_cells()
    dense = adata.X.toarray()
    dense[(adata.obs["perturbation"] == "A").to_numpy(), 0] = 0
    adata.X = dense
    scgim.pp.prepare(adata, dose_key="dose", genes=[f"g{i}" for i in range(6)], min_cells=1, min_counts=1)
    fit(adata, known_interventions={"A": {"g0": 0.0}}, max_steps=20)
    table = adata.uns["gim"]["targets"].set_index(["condition", "gene"])
    assert table.loc[("A_10", "g0"), ["probability", "effect"]].tolist() == [1.0, 0.0]
    assert targets(adata) >= {("A_1", "g0"), ("A_10", "g0"), ("B_10", "g1")}
    assert not {(c, g) for c, g in targets(adata) if c.startswith("A") and g != "g0"}


@QUICKLY
@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_the_children_of_a_held_gene_see_its_value_whatever_is_counted(intervention):
    cells = PerturbationData.from_anndata(prepared_counts(), counts=True)
    values = np.full((len(cells.parts), 10), np.nan)
    values[:2, 0] = 1.6  # drug A at both doses; its cells show another g0
    data = TrainingData.of(dataclasses.replace(cells, known_values=values))
    settings = {name: value for name, value in QUICK.items() if name not in ("device", "progress")}
    config = make_config(mechanism="count", intervention=intervention, **settings)
    gim = run_fit(data, config, progress=False).gim
    rows = torch.nonzero(data.membership[data.condition, 0] == 1).squeeze(1)
    batch = data.batch(rows, torch.ones(len(rows)))
    expected = np.log(np.expm1(1.6)) - gim.counting.baseline[0, 0]  # latent expression at that value
    assert (gim.posterior(batch).location[:, 0] - expected).abs().max() < 0.1
    free = gim.posterior(dataclasses.replace(batch, known_values=None)).location[:, 0]
    assert (free - expected).abs().max() > 0.3
    assert torch.isfinite(gim.evidence(batch)).all()


# -- bad input --------------------------------------------------------------------------------------------


def counts(adata: ad.AnnData, change: Any) -> None:
    """Change the layer of counts, dense."""
    values = adata.layers["counts"].toarray()
    change(values)
    adata.layers["counts"] = values


def no_layer(adata: ad.AnnData) -> None:
    del adata.layers["counts"]


def at(row: int, column: int, value: float) -> Any:
    def change(values: np.ndarray) -> None:
        values[row, column] = value

    return lambda adata: counts(adata, change)


def swapped(adata: ad.AnnData) -> None:
    adata.layers["counts"] = adata.layers["counts"][::-1]


def column(name: str, change: Any) -> Any:
    def of(adata: ad.AnnData) -> None:
        values = adata.obs[name].astype(object)
        values.iloc[[3, 5]] = change
        adata.obs[name] = values

    return of


def own_batch(adata: ad.AnnData) -> None:
    adata.obs["plate"] = np.where(adata.obs["perturbation"] == "A", "plate3", adata.obs["plate"])


BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no layer": (no_layer, {}, KeyError, r"layers\['counts'\] is missing.*read the original file"),
    "half": (at(2, 1, 0.5), {}, ValueError, r"1 value of .* not whole \(the first is 0.5, cell 'cell2', gene 'g1'"),
    "negative": (at(2, 1, -3), {}, ValueError, r"negative .*gene 'g1'.*Put the raw counts back"),
    "NaN": (at(2, 1, np.nan), {}, ValueError, r"NaN or infinite .*gene 'g1'"),
    "too large": (at(2, 1, 2.0**24), {}, ValueError, r"2\^24 or more .*gene 'g1'"),
    "changed": (at(2, 1, 99), {}, ValueError, r"not agree with adata.X in 1 of 350 cells .*'cell2'.*layer=\"counts\""),
    "other cells": (swapped, {}, ValueError, r"does not agree with adata.X in \d+ of 350 cells"),
    "no size factors": (None, {"size_key": "size"}, KeyError, "size_key='size' is not a column"),
    "size 0": (column("depth", 0.0), {"size_key": "depth"}, ValueError, r"2 cells without a size factor .*'cell3', 0"),
    "size NaN": (column("depth", np.nan), {"size_key": "depth"}, ValueError, r"2 cells without .*leave size_key out"),
    "size text": (None, {"size_key": "plate"}, ValueError, "350 cells without a size factor .*'plate1'"),
    "no batch column": (None, {"batch_key": "lane"}, KeyError, "batch_key='lane' is not a column"),
    "no batch column, held out": (
        None, {"batch_key": "lane", "hold_out": {"A": 10}}, KeyError, "batch_key='lane' is not a column",
    ),
    "batch missing": (column("plate", None), {"batch_key": "plate"}, ValueError, r"2 cells without a batch .*'cell3'"),
    "batch without controls": (
        own_batch, {"batch_key": "plate"}, ValueError, r"without control cells .*'plate3'.* confounded .*cannot be",
    ),
    "paper": (None, {"preset": "paper"}, ValueError, "starts from a search .*preset='paper'"),
    "held below 0": (None, {"known_interventions": {"A": {"g0": -1.0}}}, ValueError, "'g0' is held below"),
    "batches of ziln": (
        None, {"mechanism": "ziln", "batch_key": "plate"}, ValueError, "batch_key='plate' is for mechanism='count'",
    ),
    "sizes of auto": (
        lambda adata: adata.layers.pop("counts"), {"mechanism": "auto", "size_key": "plate"}, ValueError,
        "size_key='plate' is for",
    ),
    "counting": (None, {"counting": "binomial"}, ValueError, "counting must be one of poisson, negative_binomial"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_changes(case):
    change, arguments, error, message = BAD[case]
    adata = prepared_counts()
    if change is not None:
        change(adata)
    before = snapshot(adata)
    with pytest.raises(error, match=message) as caught:
        fit(adata, **arguments)
    assert isinstance(caught.value, scgim.ScgimError)
    assert_unchanged(adata, before)


@pytest.mark.parametrize("kind", ["log1p", "continuous"])
def test_only_prepared_counts_are_counted(kind):
    adata = count_cells()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray() / adata.obs["depth"].to_numpy()[:, None]).astype(np.float32)
    scgim.pp.prepare(adata, dose_key="dose", genes=["g0", "g1", "g3"], input=kind)
    before = snapshot(adata)
    with pytest.raises(ValueError, match=rf"prepared with input='{kind}', but mechanism='count' needs raw counts"):
        fit(adata)
    assert_unchanged(adata, before)


def test_a_gene_never_counted_in_the_controls_is_refused():
    adata = count_cells()
    control = np.flatnonzero(adata.obs["perturbation"] == "control")
    dense = adata.X.toarray()
    dense[control, 4] = 0
    adata.X = dense
    arguments = {"dose_key": "dose", "genes": ["g0", "g1", "g4"], "min_cells": 1, "min_counts": 1}
    with pytest.raises(ValueError, match="zero in every control cell"):
        scgim.pp.prepare(adata, **arguments)
    dense[control[0], 4] = 1
    adata.X = dense
    scgim.pp.prepare(adata, **arguments, valid_fraction=0.0)
    adata.obs.loc[adata.obs_names[control[0]], "gim_split"] = "test"
    before = snapshot(adata)
    with pytest.raises(ValueError, match=r"never counted in the control cells.*'g4'"):
        fit(adata)
    assert_unchanged(adata, before)
