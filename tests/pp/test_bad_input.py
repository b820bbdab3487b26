"""Bad input to `prepare`: a clear error that names the key and the remedy, and nothing changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from example_cells import SMALL, assert_same, assert_unchanged, drug_cells, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scgim.pp import prepare

Change = Callable[[ad.AnnData], Any]


def _set(row: int, column: int, value: float) -> Change:
    def change(adata: ad.AnnData) -> None:
        adata.X[row, column] = value

    return change


def _obs(**columns: Callable[[pd.DataFrame], Any]) -> Change:
    def change(adata: ad.AnnData) -> None:
        for name, make in columns.items():
            adata.obs[name] = make(adata.obs)

    return change


def _controls(obs: pd.DataFrame) -> np.ndarray:
    return (obs["perturbation"] == "control").to_numpy()


def _keep(rows: Callable[[pd.DataFrame], Any]) -> Change:
    return lambda adata: adata[np.asarray(rows(adata.obs))].copy()


def _log(adata: ad.AnnData) -> None:
    adata.X = np.log1p(adata.X)


def _log_with_counts(adata: ad.AnnData) -> None:
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)


def _silent(adata: ad.AnnData) -> None:
    adata.X[np.ix_(_controls(adata.obs), [9])] = 0


def _other_counts(adata: ad.AnnData) -> None:
    adata.layers["counts"] = adata.X + 1


def _empty_gene(adata: ad.AnnData) -> None:
    adata.X[:, 4] = 0


def _empty_cell(adata: ad.AnnData) -> None:
    adata.X[7] = 0


def _few(obs: pd.DataFrame) -> np.ndarray:
    flags = ((obs["perturbation"] == "Belinostat") & (obs["dose"] == 10)).to_numpy()
    return ~flags | (np.cumsum(flags) <= 3)


def _names(axis: str) -> Change:
    def change(adata: ad.AnnData) -> None:
        names = list(getattr(adata, f"{axis}_names"))
        names[3] = names[0]
        setattr(adata, f"{axis}_names", names)

    return change


def _raw(n_genes: int) -> Change:
    """Counts in `raw` of so many genes, log values in `X`."""

    def change(adata: ad.AnnData) -> None:
        adata.raw = adata[:, :n_genes].copy()
        adata.X = np.log1p(adata.X)

    return change


def _half(obs: pd.DataFrame) -> np.ndarray:
    return np.arange(len(obs)) % 2 == 0


def _mixed(obs: pd.DataFrame) -> list[str]:
    return [f"{d:g}" if i % 3 else f"{d:g} nM" for i, d in enumerate(obs["dose"])]


nothing: Change = lambda adata: None  # noqa: E731
FRAME = pd.DataFrame({"x": [1.0, np.nan]}, index=["Abemaciclib", "Belinostat"])

# What is wrong; how the data are changed; arguments; error; what its message says.
CASES: list[tuple[str, Change, dict[str, Any], type[Exception], list[str]]] = [
    (
        "no such column",
        nothing,
        {"perturbation_key": "Perturbation"},
        KeyError,
        ["perturbation_key='Perturbation'", "Did you mean 'perturbation'", "'dose'", "Pass the right one"],
    ),
    (
        "no such dose column",
        nothing,
        {"dose_key": "dosis"},
        KeyError,
        ["dose_key='dosis'", "Did you mean 'dose'"],
    ),
    (
        "no such unit column",
        nothing,
        {"dose_unit_key": "unit"},
        KeyError,
        ["dose_unit_key='unit'", "columns are"],
    ),
    ("no such group column", nothing, {"groupby": "cell_line"}, KeyError, ["groupby='cell_line'"]),
    (
        "no such SMILES column",
        nothing,
        {"features": "fingerprint", "smiles_key": "SMILES"},
        KeyError,
        ["smiles_key='SMILES'", "Did you mean 'smiles'"],
    ),
    ("column of the wrong type", nothing, {"perturbation_key": 3}, TypeError, ["perturbation_key", "3"]),
    (
        "no such layer",
        nothing,
        {"layer": "counts"},
        KeyError,
        ["layer='counts'", "adata.layers", "leave layer out"],
    ),
    (
        "X is None",
        lambda a: ad.AnnData(obs=a.obs, var=a.var, layers={"raw": a.X}),
        {},
        ValueError,
        ["adata.X is empty", "Pass layer=", "'raw'"],
    ),
    (
        "control absent",
        _obs(
            perturbation=lambda o: o["perturbation"].replace("control", "Vehicle"),
            dose=lambda o: o["dose"] + 1,
        ),
        {"control": "vehicle"},
        ValueError,
        [
            "control='vehicle'",
            "Did you mean 'Vehicle'",
            "Pass the label",
            "'Abemaciclib', 'Belinostat', 'Vehicle'",
        ],
    ),
    (
        "control absent, no doses",
        nothing,
        {"control": "DMSO", "dose_key": None},
        ValueError,
        ["No control cells", "control='DMSO'", "'control'"],
    ),
    (
        "no control cells",
        _keep(lambda o: ~_controls(o)),
        {},
        ValueError,
        [
            "No control cells",
            "control='control'",
            "no cell has dose 0 in adata.obs['dose']",
            "'Abemaciclib', 'Belinostat'",
        ],
    ),
    (
        "no control cells, by dose",
        _keep(lambda o: ~_controls(o)),
        {"control": None},
        ValueError,
        ["No control cells", "as control=", "'Abemaciclib'"],
    ),
    (
        "negative",
        _set(3, 5, -1),
        {},
        ValueError,
        ["adata.X", "1 value negative", "-1", "'cell0003'", "'GENE5'", "layer="],
    ),
    (
        "NaN",
        _set(3, 5, np.nan),
        {},
        ValueError,
        ["adata.X", "NaN or infinite", "'cell0003'", "'GENE5'", "drop"],
    ),
    (
        "infinite",
        _set(0, 0, np.inf),
        {"input": "continuous"},
        ValueError,
        ["adata.X", "NaN or infinite", "'cell0000'"],
    ),
    (
        "logged as counts",
        _log,
        {},
        ValueError,
        ["adata.X", "not whole numbers", 'input="counts"', "layer=", 'input="log1p"'],
    ),
    (
        "logged, counts in a layer",
        _log_with_counts,
        {},
        ValueError,
        ["adata.X", "not whole numbers", "layer='counts'"],
    ),
    (
        "counts as logged",
        nothing,
        {"input": "log1p"},
        ValueError,
        ["adata.X", "raw counts", 'input="counts"'],
    ),
    (
        "normalised, not logged",
        lambda a: setattr(a, "X", a.X * 100.5),
        {"input": "log1p"},
        ValueError,
        ["adata.X", "not log-transformed", "sc.pp.log1p"],
    ),
    (
        "other counts in the layer",
        _other_counts,
        {},
        ValueError,
        ["adata.layers['counts']", "differs", "layer='counts'"],
    ),
    (
        "empty cell",
        _empty_cell,
        {"min_counts": 0},
        ValueError,
        ["'cell0007'", "without any counts", "min_counts"],
    ),
    (
        "empty gene asked for",
        _empty_gene,
        {"genes": ["GENE4", "GENE5"]},
        ValueError,
        ["'GENE4'", "zero in every training cell", "genes="],
    ),
    ("empty gene kept", _empty_gene, {"genes": "all", "min_cells": 0}, ValueError, ["'GENE4'", "min_cells"]),
    (
        "silent gene asked for",
        _silent,
        {"genes": ["GENE1", "GENE9"]},
        ValueError,
        ["zero in every control cell", "'GENE9'", "genes="],
    ),
    (
        "one condition",
        _keep(_controls),
        {},
        ValueError,
        ["Only one condition", "'control'", "perturbation_key"],
    ),
    (
        "small condition",
        _keep(_few),
        {},
        ValueError,
        [
            "min_cells_per_condition=10",
            "Belinostat_10 (3)",
            "Lower min_cells_per_condition",
            "small_conditions",
        ],
    ),
    (
        "dose not a number",
        _obs(dose=lambda o: o["dose"].astype(str).replace("10.0", "low")),
        {},
        ValueError,
        ["dose_key='dose'", "'low'", "not a number", "Correct adata.obs['dose']"],
    ),
    (
        "dose negative",
        _obs(dose=lambda o: o["dose"].where(o["dose"] != 10, -10)),
        {},
        ValueError,
        ["dose_key='dose'", "-10", "not negative"],
    ),
    (
        "dose infinite",
        _obs(dose=lambda o: o["dose"].where(o["dose"] != 10, np.inf)),
        {},
        ValueError,
        ["dose_key='dose'", "inf", "finite"],
    ),
    (
        "mixed units, some missing",
        _obs(dose=_mixed),
        {},
        ValueError,
        ["dose_key='dose'", "mixed units", "no unit: 'Abemaciclib', 'Belinostat'", "dose_unit_key="],
    ),
    (
        "units that do not convert",
        _obs(unit=lambda o: np.where(o["perturbation"] == "Belinostat", "nM", "ng/ml")),
        {"dose_unit_key": "unit"},
        ValueError,
        ["mixed units", "cannot be converted", "'Belinostat'", "one unit"],
    ),
    (
        "two units for one dose",
        _obs(dose=lambda o: [f"{d:g} nM" for d in o["dose"]], unit=lambda o: "uM"),
        {"dose_unit_key": "unit"},
        ValueError,
        ["dose_key='dose'", "unit differs", "uM"],
    ),
    (
        "units without doses",
        _obs(unit=lambda o: "nM"),
        {"dose_key": None, "dose_unit_key": "unit"},
        ValueError,
        ["dose_unit_key='unit'", "without dose_key"],
    ),
    (
        "duplicate genes",
        _names("var"),
        {},
        ValueError,
        ["adata.var_names", "'GENE0'", "var_names_make_unique"],
    ),
    (
        "duplicate cells",
        _names("obs"),
        {},
        ValueError,
        ["adata.obs_names", "'cell0000'", "obs_names_make_unique"],
    ),
    (
        "features missing",
        nothing,
        {"features": FRAME.iloc[:1]},
        ValueError,
        ["features", "'Belinostat'", "row"],
    ),
    ("features not finite", nothing, {"features": FRAME}, ValueError, ["features", "'Belinostat'", "Fill"]),
    (
        "SMILES missing",
        _obs(smiles=lambda o: o["smiles"].where(o["perturbation"] != "Belinostat")),
        {"features": "fingerprint", "smiles_key": "smiles"},
        ValueError,
        ["smiles_key='smiles'", "'Belinostat'", "Fill"],
    ),
    (
        "SMILES unreadable",
        _obs(smiles=lambda o: o["smiles"].replace("CCO", "C(")),
        {"features": "fingerprint", "smiles_key": "smiles"},
        ValueError,
        ["Abemaciclib ('C(')", "Correct"],
    ),
    (
        "two SMILES",
        _obs(smiles=lambda o: np.where(np.arange(len(o)) % 2, "C", "CC")),
        {"features": "fingerprint", "smiles_key": "smiles"},
        ValueError,
        ["more than one SMILES", "'Abemaciclib'", "'C', 'CC'"],
    ),
    (
        "fingerprint without SMILES",
        nothing,
        {"features": "fingerprint"},
        ValueError,
        ["fingerprint", "smiles_key="],
    ),
    (
        "Hill without doses",
        nothing,
        {"features": "hill", "dose_key": None},
        ValueError,
        ["hill", "dose_key="],
    ),
    (
        "rescaled dose without doses",
        nothing,
        {"features": "rescaled", "dose_key": None},
        ValueError,
        ["rescaled", "dose_key="],
    ),
    ("unknown features", nothing, {"features": "one-hot"}, ValueError, ["features='one-hot'", "'onehot'"]),
    (
        "features of a wrong type",
        nothing,
        {"features": np.eye(2)},
        TypeError,
        ["features", "DataFrame", "ndarray"],
    ),
    (
        "held-out dose absent",
        nothing,
        {"hold_out": {"Belinostat": 10_000}},
        ValueError,
        ["hold_out", "'Belinostat_10000'", "'Belinostat_1000'"],
    ),
    (
        "held-out perturbation absent",
        nothing,
        {"hold_out": {"Dacinostat": 10}},
        ValueError,
        ["hold_out", "'Dacinostat_10'", "conditions are", "'Belinostat_1000'"],
    ),
    (
        "too few counts",
        nothing,
        {"min_counts": 10_000},
        ValueError,
        ["No control cells are left", "min_counts=10000", "median", "Lower min_counts"],
    ),
    (
        "genes in too few cells",
        nothing,
        {"min_cells": 10_000},
        ValueError,
        ["min_cells=10000", "Lower min_cells"],
    ),
    (
        "no such gene",
        nothing,
        {"genes": ["GENE1", "gene2"]},
        KeyError,
        ["genes", "'gene2'", "Did you mean 'GENE2'"],
    ),
    ("gene twice", nothing, {"genes": ["GENE1", "GENE2", "GENE1"]}, ValueError, ["genes", "'GENE1'", "once"]),
    ("one gene", nothing, {"genes": ["GENE1"]}, ValueError, ["genes", "at least 2"]),
    ("genes as text", nothing, {"genes": "GENE1"}, ValueError, ["genes='GENE1'", "list"]),
    ("unknown input", nothing, {"input": "count"}, ValueError, ["input='count'", "Did you mean 'counts'"]),
    ("n_genes of one", nothing, {"n_genes": 1}, ValueError, ["n_genes", "at least 2"]),
    ("n_genes not whole", nothing, {"n_genes": 2.5}, TypeError, ["n_genes", "2.5"]),
    ("fraction of one", nothing, {"valid_fraction": 1}, ValueError, ["valid_fraction", "below 1"]),
    ("rng of a wrong type", nothing, {"rng": "0"}, TypeError, ["rng", "str"]),
    ("prefix with a slash", nothing, {"key_added": "a/b"}, ValueError, ["key_added='a/b'", "'/'"]),
    (
        "prefix taken",
        lambda a: a.uns.update(gim="mine"),
        {},
        ValueError,
        ["key_added='gim'", "adata.uns['gim']", "another key_added"],
    ),
    (
        "prefix is a column",
        lambda a: a.var.insert(0, "gim", 1),
        {},
        ValueError,
        ["key_added='gim'", "adata.var['gim']"],
    ),
    (
        "control in one group only",
        _obs(line=lambda o: np.where(_controls(o), "A", "B")),
        {"groupby": "line"},
        ValueError,
        ["group 'A'", "Only one condition"],
    ),
    (
        "no control in a group",
        lambda a: _keep(lambda o: ~(_controls(o) & (o["line"] == "B")))(a),
        {"groupby": "line"},
        ValueError,
        ["No control cells in group 'B'", "'control'"],
    ),
    (
        "groups that clash",
        _obs(line=lambda o: np.where(np.arange(len(o)) % 2, "a/b", "a_b")),
        {"groupby": "line"},
        ValueError,
        ["groupby='line'", "'a/b', 'a_b'", "Rename"],
    ),
    (
        "groups all missing",
        _obs(line=lambda o: np.nan),
        {"groupby": "line"},
        ValueError,
        ["groupby='line'", "missing"],
    ),
    (
        "control in another spelling",
        _obs(perturbation=lambda o: o["perturbation"].where(np.arange(len(o)) % 5 > 0, "Control")),
        {"dose_key": None},
        ValueError,
        ["'Control' (", "next to the control 'control'", "control=['control', 'Control']", "rename"],
    ),
    (
        "lists as labels",
        _obs(perturbation=lambda o: [["A", "B"] if p == "Belinostat" else p for p in o["perturbation"]]),
        {},
        ValueError,
        ["adata.obs['perturbation']", "list", "['A', 'B']", "text"],
    ),
    (
        "one of two controls absent",
        nothing,
        {"control": ["control", "vehicle"]},
        ValueError,
        ["control", "'vehicle' is not a label", "Leave it out"],
    ),
    ("no control label", nothing, {"control": []}, TypeError, ["control", "list of labels"]),
    (
        "every perturbed condition small",
        nothing,
        {"min_cells_per_condition": 40, "small_conditions": "drop"},
        ValueError,
        ["Every perturbed condition", "min_cells_per_condition=40", "largest", "24", "Lower"],
    ),
    (
        "corrected counts",
        lambda a: setattr(a, "X", a.X * 40.6),
        {},
        ValueError,
        ["not whole numbers", "SoupX", "round"],
    ),
    ("counts in raw", _raw(30), {}, ValueError, ["adata.raw does", "adata.layers['raw']", "layer='raw'"]),
    ("counts of other genes in raw", _raw(20), {}, ValueError, ["adata.raw does", "adata.raw.to_adata()"]),
    ("groups by no column", nothing, {"groupby": []}, ValueError, ["groupby=[]", "column"]),
    (
        "several columns that make one group",
        _obs(a=lambda o: np.where(_half(o), "u_v", "u"), b=lambda o: np.where(_half(o), "w", "v_w")),
        {"groupby": ["a", "b"]},
        ValueError,
        ["groupby=['a', 'b']", "'u_v_w'", "Rename"],
    ),
    ("no cells to train on", nothing, {"test_fraction": 0.95}, ValueError, ["test_fraction=0.95", "valid_fraction"]),
    ("unknown min_counts", nothing, {"min_counts": "all"}, TypeError, ["min_counts must be", "'all'", "'auto'"]),
    (
        "dates as doses",
        _obs(dose=lambda o: pd.Timestamp("2020-01-01")),
        {},
        ValueError,
        ["dose_key='dose'", "2020-01-01", "not a number"],
    ),
    ("no cells", lambda a: a[:0].copy(), {}, ValueError, ["0 cells"]),
    ("no genes", lambda a: a[:, :0].copy(), {}, ValueError, ["0 genes"]),
    ("complex values", lambda a: setattr(a, "X", a.X.astype(complex)), {}, TypeError, ["adata.X", "complex"]),
    (
        "ambiguous labels",
        _obs(
            perturbation=lambda o: (
                o["perturbation"]
                .replace("Belinostat", "Z")
                .where(np.arange(len(o)) % 9 > 0, "Y+Z")
                .where(np.arange(len(o)) % 7 > 0, "Y&Z")
            )
        ),
        {"combination_sep": "&", "dose_key": None},
        ValueError,
        ["would both be called 'Y+Z'", "Rename"],
    ),
]


def _bad(change: Change, needs_line: bool) -> ad.AnnData:
    adata = drug_cells(lines=("A", "B") if needs_line else ())
    adata.uns["kept"] = {"array": np.arange(3)}
    changed = change(adata)
    return changed if isinstance(changed, ad.AnnData) else adata


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize(
    ("change", "kwargs", "error", "phrases"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_bad_input_is_refused(
    change: Change, kwargs: dict[str, Any], error: type[Exception], phrases: list[str], sparse: bool
) -> None:
    adata = _bad(change, "groupby" in kwargs and kwargs["groupby"] == "line")
    if sparse and adata.X is not None and adata.X.dtype.kind == "f" and adata.n_vars:
        adata.X = sp.csr_matrix(adata.X)
    before = snapshot(adata)
    with pytest.raises(error) as caught:
        prepare(adata, **(SMALL | kwargs))
    message = str(caught.value)
    assert [phrase for phrase in phrases if phrase not in message] == [], message
    assert_unchanged(adata, before)


labels = st.sampled_from(["control", "control", "A", "A", "B", "A+B", "B+A", "A+control", "(+)-x", "B/1", "é", " A "])
odd_labels = labels | st.sampled_from([None, np.nan, "", "nan", 3, True, "+", "json:null"])
doses = st.sampled_from([0, 1, 10, 100.0, "10", "1 uM", "10 nM"])
odd_doses = doses | st.sampled_from([None, np.nan, -1, np.inf, "x", "3 ng/ml", "1e3", "10+100", "", True])


@st.composite
def odd_cells(draw: Any) -> ad.AnnData:
    """Cells with labels, doses and values as nobody would want them, but often enough usable."""
    odd = draw(st.sampled_from([False, False, False, True]))
    n, genes = draw(st.integers(1 if odd else 30, 60)), draw(st.integers(1 if odd else 4, 9))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kinds = draw(st.lists(odd_labels if odd else labels, min_size=1, max_size=4))
    kinds += [] if odd else ["control", "A", "B"]
    levels = draw(
        st.lists(odd_doses if odd else doses.filter(lambda d: not isinstance(d, str)), min_size=1, max_size=4)
    )
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n)])
    obs["perturbation"] = pd.Series([kinds[i] for i in rng.integers(0, len(kinds), n)], index=obs.index, dtype=object)
    obs["dose"] = pd.Series([levels[i] for i in rng.integers(0, len(levels), n)], index=obs.index, dtype=object)
    obs["line"] = [draw(st.sampled_from(["u", "v/w"])) if i % 2 else "u" for i in range(n)]
    dtype = draw(st.sampled_from([object, "category", "string"]))
    if dtype is not object:
        obs["perturbation"] = obs["perturbation"].map(lambda v: v if v is None or v != v else str(v)).astype(dtype)
    values = rng.poisson(rng.uniform(0.2, 5.0, genes), size=(n, genes)).astype(np.float64)
    spoil = draw(st.sampled_from(["", "", "", "", "nan", "inf", "negative", "log", "log", "empty row", "empty column"]))
    if spoil in ("nan", "inf", "negative"):
        values[rng.integers(n), rng.integers(genes)] = {"nan": np.nan, "inf": np.inf, "negative": -2}[spoil]
    elif spoil == "log":
        values = np.log1p(values)
    elif spoil == "empty row":
        values[rng.integers(n)] = 0
    elif spoil == "empty column":
        values[:, rng.integers(genes)] = 0
    if spoil in ("", "empty row", "empty column"):
        values = values.astype(draw(st.sampled_from([np.float32, np.float64, np.int64, np.uint8])))
    var = pd.DataFrame(index=[f"g{j}" for j in range(genes)])
    return ad.AnnData(draw(st.sampled_from([np.asarray, sp.csr_matrix, sp.csc_matrix]))(values), obs=obs, var=var)


arguments = st.fixed_dictionaries(
    {
        "min_counts": st.sampled_from([0, 1, 1, 5]),
        "min_cells": st.sampled_from([0, 1, 3]),
        "min_cells_per_condition": st.sampled_from([2, 3]),
    },
    optional={
        "dose_key": st.sampled_from(["dose", "dose", None]),
        "control": st.sampled_from(["control", "control", "A", None, 3]),
        "groupby": st.just("line"),
        "input": st.sampled_from(["counts", "counts", "log1p", "continuous"]),
        "features": st.sampled_from(
            ["auto", "auto", "onehot", "hill", pd.DataFrame({"x": [1.0, 2.0]}, index=["A", "B"])]
        ),
        "n_genes": st.integers(2, 5),
        "n_top_genes": st.sampled_from([2, 4, 1000]),
        "genes": st.sampled_from([None, "all", ["g0", "g1"]]),
        "hold_out": st.sampled_from([None, None, {"A": 10}, ["A"], {"A": None}, ["A+B"]]),
        "small_conditions": st.sampled_from(["error", "drop", "drop", "drop"]),
        "silent_genes": st.sampled_from(["error", "drop"]),
        "combination_sep": st.sampled_from(["+", None]),
        "valid_fraction": st.sampled_from([0.0, 0.3]),
    },
)


def assert_prepared(adata: ad.AnnData, before: dict[str, Any], prefix: str, kind: str) -> None:
    """What holds after every `prepare`."""
    entry = adata.uns[prefix]
    table, condition, split = (
        entry["conditions"],
        adata.obs[f"{prefix}_condition"],
        adata.obs[f"{prefix}_split"],
    )
    assert (condition.isna() == split.isna()).all()
    assert table["condition"].is_unique
    assert table["is_control"].tolist() == [True] + [False] * (len(table) - 1)
    assert len(table) >= 2
    counts = condition.value_counts()
    assert [counts[name] for name in table["condition"]] == table["n_cells"].tolist()
    assert (table["n_cells"] >= 2).all()
    held = set(table.loc[table["split"] == "test", "condition"])
    assert set(condition[split == "test"]) == held
    assert len(held) < len(table) - 1
    assert not entry["membership"][0].any()
    assert entry["membership"][1:].any(axis=1).all()
    assert entry["membership"].any(axis=0).all()
    assert entry["features"].shape == (len(entry["parts"]), len(entry["feature_names"]))
    assert np.isfinite(entry["features"]).all()
    assert adata.var[prefix].sum() >= 2
    modelled = adata[~condition.isna().to_numpy(), adata.var[prefix].to_numpy()].X
    modelled = modelled.toarray() if sp.issparse(modelled) else np.asarray(modelled)
    assert np.isfinite(modelled).all()
    if kind == "counts":
        np.testing.assert_array_equal(snapshot(adata)["layers"]["counts"], before["X"])
        assert (modelled >= 0).all()
        assert modelled.dtype.kind == "f"
    with h5py.File("in memory", "w", driver="core", backing_store=False) as file:
        ad.io.write_elem(file, "uns", entry)
        assert_same(ad.io.read_elem(file["uns"]), entry, exact_types=False)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(adata=odd_cells(), kwargs=arguments)
def test_odd_data_are_prepared_or_refused(adata: ad.AnnData, kwargs: dict[str, Any]) -> None:
    """Either everything holds, or the error is one of ours, says something, and has changed nothing."""
    logging.getLogger("scgim").setLevel(logging.ERROR)
    before = snapshot(adata)
    try:
        prepare(adata, **kwargs)
    except (ValueError, KeyError, TypeError) as error:
        message = str(error)
        assert len(message) > 20, message
        assert any(word in message for word in [*kwargs, "adata", "=", "Lower", "Raise", "Pass", "Rename"]), message
        assert_unchanged(adata, before)
    else:
        groups = [str(g).replace("/", "_") for g in adata.uns["gim"].get("groups", [])]
        for prefix in [f"gim_{group}" for group in groups] or ["gim"]:
            assert_prepared(adata, before, prefix, kwargs.get("input", "counts"))
    finally:
        logging.getLogger("scgim").setLevel(logging.NOTSET)
