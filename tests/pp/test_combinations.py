"""Labels of a column: which are combinations, which are the control, and which nobody meant."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scgim import pp
from scgim.pp._labels import read_combinations, split_name


def prepared(labels: list[Any], dtype: Any = object, n: int = 12, **arguments: Any) -> AnnData:
    """`n` cells of each label, in which nothing happens."""
    obs = pd.DataFrame({"target": pd.Series([v for v in labels for _ in range(n)], dtype=dtype)})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    counts = np.random.default_rng(0).poisson(6.0, size=(len(obs), 12)).astype(np.float32)
    adata = AnnData(counts, obs=obs)
    pp.prepare(adata, perturbation_key="target", genes="all", min_cells=1, **arguments)
    return adata


def conditions(adata: AnnData) -> list[str]:
    return adata.uns["gim"]["conditions"]["condition"].tolist()


SCREEN = ["control", "A", "B"]


@pytest.mark.parametrize(
    ("labels", "separator", "expected"),
    [
        # every part occurs alone
        ([*SCREEN, "B+A"], "+", {"B+A": ["B", "A"]}),
        ([*SCREEN, "A + B"], "+", {"A + B": ["A", "B"]}),
        # with the control is alone
        (["control", "A+control", "control+B", "A+B"], "+", {"A+B": ["A", "B"], "A+control": ["A", "control"]}),
        # a name that has the separator
        ([*SCREEN, "A+B", "Mg2+ chelator"], "+", {"Mg2+ chelator": ["Mg2+ chelator"], "A+B": ["A", "B"]}),
        (["control", "chelator", "Mg2+ chelator"], "+", {"Mg2+ chelator": ["Mg2+ chelator"]}),
        ([*SCREEN, "Na+/K+ inhibitor"], "+", {"Na+/K+ inhibitor": ["Na+/K+ inhibitor"]}),
        ([*SCREEN, "IFN-g+", "(+)-JQ1"], "+", {"IFN-g+": ["IFN-g+"], "(+)-JQ1": ["(+)-JQ1"]}),
        # some parts only, and parts that are shared
        ([*SCREEN, "A+C", "C+D"], "+", {"A+C": ["A", "C"], "C+D": ["C", "D"]}),
        (["control", "X+Y", "Y+Z"], "+", {"X+Y": ["X", "Y"], "Y+Z": ["Y", "Z"]}),
        # nothing shows it, or most others do
        ([*SCREEN, "X+Y"], "+", {"X+Y": ["X+Y"]}),
        ([*SCREEN, "C", "A+B", "A+C", "X+Y"], "+", {"X+Y": ["X", "Y"]}),
        # separators that names have
        (["control", "HLA_A", "HLA_B"], "_", {"HLA_A": ["HLA_A"], "HLA_B": ["HLA_B"]}),
        (["control", "KLF1", "HLA_A", "HLA_A_KLF1"], "_", {"HLA_A": ["HLA_A"], "HLA_A_KLF1": ["HLA_A", "KLF1"]}),
        ([*SCREEN, "C", "A_B", "A_C", "HLA_DR"], "_", {"A_B": ["A", "B"], "HLA_DR": ["HLA_DR"]}),
        ([*SCREEN, "A-B", "HLA-DR"], "-", {"A-B": ["A", "B"], "HLA-DR": ["HLA-DR"]}),
        ([*SCREEN, "A|B"], "|", {"A|B": ["A", "B"]}),
        ([*SCREEN, "A, B"], ",", {"A, B": ["A", "B"]}),
        # several characters always separate
        (["control", "X||Y"], "||", {"X||Y": ["X", "Y"]}),
        ([*SCREEN, "A+B"], None, {"A+B": ["A+B"]}),
    ],
)
def test_labels_are_combinations_only_where_their_parts_make_sense(
    labels: list[str], separator: str | None, expected: dict[str, list[str]]
) -> None:
    for order in (labels, labels[::-1]):
        found = read_combinations(order, separator, {"control"})
        assert set(found) == set(labels)
        assert {label: found[label] for label in expected} == expected


def test_a_table_of_features_names_perturbations() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=["A", "X", "Y"])
    adata = prepared(["control", "A", "X+Y"], features=frame)
    assert adata.uns["gim"]["parts"]["part"].tolist() == ["A", "X", "Y"]


def test_a_dose_for_each_part_tells_of_a_combination() -> None:
    obs = pd.DataFrame({"target": ["control", "X+Y"] * 12, "dose": ["0", "10+100"] * 12})
    obs.index = [f"c{i}" for i in range(24)]
    adata = AnnData(np.random.default_rng(0).poisson(6.0, size=(24, 12)).astype(np.float32), obs=obs)
    pp.prepare(adata, perturbation_key="target", dose_key="dose", genes="all", min_cells=1)
    assert conditions(adata) == ["control", "X_10+Y_100"]


def test_what_is_not_sure_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="scgim"):
        prepared([*SCREEN, "A+B"])
        assert "combination_sep" not in caplog.text
        prepared([*SCREEN, "A+psitect", "Mg2+ chelator"])
    alone, whole = (record.getMessage() for record in caplog.records if "combination_sep" in record.getMessage())
    assert "1 perturbation never occurs alone: 'psitect' ('psitect' is in 'A+psitect')" in alone
    assert "'Mg2+ chelator' taken as one perturbation each" in whole
    assert "combination_sep=None" in alone
    assert "combination_sep='||'" in whole


@pytest.mark.parametrize(
    ("asked", "separator", "pieces"),
    [
        ("A+B", "+", ["A", "B"]),
        ("Mg2+ chelator", "+", ["Mg2+ chelator"]),
        ("X+Y", "+", ["X+Y"]),
        ("A+Mg2+ chelator", "+", ["A", "Mg2+ chelator"]),
        ("C+D", "+", ["C", "D"]),
        ("HLA_A_B", "_", ["HLA_A", "B"]),
    ],
)
def test_what_is_asked_for_is_read_in_the_same_way(asked: str, separator: str, pieces: list[str]) -> None:
    assert split_name(asked, separator, {"A", "B", "Mg2+ chelator", "X+Y", "HLA_A"}) == pieces


def test_perturbations_asked_for_agree_with_the_data() -> None:
    known = {"A": [("A", np.nan)], "B": [("B", np.nan)], "X+Y": [("X+Y", np.nan)], "control": []}
    found = pp.parse_perturbations(["B+A", "X+Y", "A+X+Y"], control="control", has_dose=False, known=known)
    assert [label for label, _ in found] == ["A+B", "X+Y", "A+X+Y"]
    assert [[name for name, _ in parts] for _, parts in found] == [["A", "B"], ["X+Y"], ["A", "X+Y"]]


def test_labels_in_other_spellings_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="scgim"):
        adata = prepared(["control", "G1", "G1 ", "g1", "Doublet", "unassigned"])
    assert conditions(adata) == ["control", "Doublet", "G1", "g1", "unassigned"]
    assert "only in outer blanks are taken as one: 'G1', 'G1 '" in caplog.text
    assert "'G1' (24 cells), 'g1' (12 cells) differ only in case" in caplog.text
    assert "'Doublet' (12 cells), 'unassigned' (12 cells) taken as a perturbation" in caplog.text


def test_nothing_is_said_of_plain_labels(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="scgim"):
        prepared(["unassigned", "A", "B", "A+B"], control="unassigned")
    assert caplog.records == []


def test_several_labels_are_one_control() -> None:
    adata = prepared(["NT1", "NT2", "G1", "G1+NT2", "NT2+NT2"], control=["NT1", "NT2"])
    table = adata.uns["gim"]["conditions"]
    assert table["n_cells"].to_dict() == {"NT1": 36, "G1": 24}
    assert table["is_control"].tolist() == [True, False]
    both = prepared(["control", "Control", "G1"], control=["control", "Control"])
    assert both.uns["gim"]["conditions"]["n_cells"].to_dict() == {"control": 24, "G1": 12}


@pytest.mark.parametrize(
    ("labels", "dtype", "control", "expected"),
    [
        ([0.0, 1.0, 2.0], float, 0, ["0", "1", "2"]),
        ([0.0, 1.0], "category", 0, ["0", "1"]),
        ([0, 1], int, 0.0, ["0", "1"]),
        ([0, 1], int, "0", ["0", "1"]),
        ([0, 1, pd.NA], "Int64", 0, ["0", "1"]),
        ([False, True], bool, False, ["False", "True"]),
        ([False, True], bool, 0, ["False", "True"]),
        (["control", "A", pd.NA], "string", "control", ["control", "A"]),
        ([pd.Timestamp("2020-01-01"), pd.Timestamp("2020-02-01")], "datetime64[ns]", pd.Timestamp("2020-01-01"), None),
    ],
)
def test_labels_of_any_type(labels: list[Any], dtype: Any, control: Any, expected: list[str] | None) -> None:
    adata = prepared(labels, dtype, control=control)
    assert conditions(adata) == (expected or ["2020-01-01 00:00:00", "2020-02-01 00:00:00"])
    assert adata.uns["gim"]["conditions"]["n_cells"].tolist() == [12] * len(conditions(adata))


def test_doses_with_missing_whole_numbers() -> None:
    obs = pd.DataFrame({"target": ["control", "A", "A", "A"] * 12}, index=[f"c{i}" for i in range(48)])
    obs["dose"] = pd.array([pd.NA, 10, 100, pd.NA] * 12, dtype="Int64")
    adata = AnnData(np.random.default_rng(0).poisson(6.0, size=(48, 12)).astype(np.float32), obs=obs)
    pp.prepare(adata, perturbation_key="target", dose_key="dose", genes="all", min_cells=1)
    assert conditions(adata) == ["control", "A_10", "A_100"]
    assert adata.obs["gim_condition"].isna().sum() == 12
