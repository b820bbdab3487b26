"""The heat map of targets."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from example_fit import DRUGS, HELD_OUT, LONG_GENES, gene_names, make_fit
from figure_checks import assert_legible, assert_same_adata, drawn_texts, overlapping_texts
from matplotlib.colors import to_rgb

import scgim
from scgim.pl._style import palette

DOSES = ["10 nM", "100 nM", "1,000 nM", "10,000 nM"]


def columns(ax) -> list[str]:
    return [label.get_text() for label in ax.get_xticklabels()]


def rows(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def values(ax) -> np.ndarray:
    return np.asarray(ax.collections[0].get_array()).reshape(len(rows(ax)), len(columns(ax)))


def dots(ax) -> set[tuple[int, int]]:
    (marks,) = [c for c in ax.collections if c.get_gid() == "called"]
    return {(int(y), int(x)) for x, y in marks.get_offsets()}


def test_cells_and_dots_are_the_stored_targets(fitted):
    ax = scgim.pl.targets(fitted)
    table = scgim.get.targets(fitted).set_index(["condition", "gene"])
    drawn, marked = values(ax), dots(ax)
    labels = [f"{drug}_{dose}" for drug in DRUGS for dose in (10, 100, 1000, 10000)]
    for i, label in enumerate(labels):
        for j, gene in enumerate(columns(ax)):
            row = table.loc[(label, gene)]
            assert drawn[i, j] == row["probability"] * row["direction"]
            assert ((i, j) in marked) == table.loc[(label, gene), "is_target"]
    assert ax.get_ylim() == (16, 0)  # the first row on top


def test_rows_are_ordered_by_perturbation_and_dose(fitted):
    """Whatever is done to the table for people."""
    shuffled = fitted.copy()
    table = shuffled.uns["gim"]["conditions"]
    shuffled.uns["gim"]["conditions"] = table.iloc[[0, *range(len(table) - 1, 0, -1)]].reset_index(drop=True)
    for adata in (fitted, shuffled):
        ax = scgim.pl.targets(adata)
        expected = [*DOSES, *DOSES, *DOSES, *DOSES]
        expected[7] = "10,000 nM (held out)"  # Dacinostat is second
        assert rows(ax) == expected
        names = sorted((t.get_position()[1], t.get_text().strip()) for t in ax.texts if t.get_gid() == "perturbation")
        assert [name for _, name in names] == list(DRUGS)


def test_genes_never_targeted_are_left_out_and_counted(fitted):
    ax = scgim.pl.targets(fitted)
    called = scgim.get.targets(fitted, called_only=True)["gene"].unique()
    assert set(columns(ax)) == set(called)
    assert 0 < len(called) < 50
    assert ax.get_xlabel() == f"{50 - len(called)} genes that no condition targets not shown"
    ax = scgim.pl.targets(fitted, genes=gene_names(50))
    assert columns(ax) == gene_names(50)
    assert ax.get_xlabel() == ""


def test_no_target_is_said():
    adata, _ = make_fit(genes=gene_names(12), cells=2, control_cells=2)
    adata.uns["gim"]["targets"]["is_target"] = False
    ax = scgim.pl.targets(adata)
    most = scgim.get.targets(adata).groupby("gene")["probability"].max().nlargest(10)
    assert columns(ax) == most.index.tolist()
    assert ax.get_xlabel() == "No target called. Shown: the 10 most probable of 12 genes"
    assert_legible(ax.figure)


def test_colours_tell_raised_from_lowered(fitted):
    ax = scgim.pl.targets(fitted, genes=gene_names(50))
    mesh, drawn = ax.collections[0], values(ax)
    red, _, blue, _ = mesh.cmap(mesh.norm(drawn)).transpose(2, 0, 1)
    assert ((red > blue) == (drawn > 0))[np.abs(drawn) > 0.5].all()
    assert mesh.cmap(mesh.norm(0.0))[:3] == to_rgb(palette(ax).paper)


def test_symbols_label_the_columns(fitted, tmp_path):
    adata = fitted.copy()
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    ax = scgim.pl.targets(adata, genes=["S1", "LDLR"], gene_symbols="symbol", save=tmp_path / "targets.svg")
    assert columns(ax) == ["S1", f"S{adata.var_names.get_loc('LDLR')}"]
    assert "<svg" in (tmp_path / "targets.svg").read_text()


def test_genes_and_conditions_can_be_chosen(fitted):
    ax = scgim.pl.targets(fitted, genes=["LDLR", "CDKN1A"], conditions=["Belinostat_10", HELD_OUT, "control"])
    assert columns(ax) == ["LDLR", "CDKN1A"]
    assert rows(ax) == ["10 nM", "10,000 nM (held out)"]
    assert values(ax).shape == (2, 2)


def test_knockouts_are_labelled_by_their_condition():
    names = tuple(f"KO{i}" for i in range(25))
    adata, _ = make_fit(perturbations=names, doses=(), held_out="KO3", cells=3, control_cells=5)
    ax = scgim.pl.targets(adata)
    assert rows(ax) == [f"{name} (held out)" if name == "KO3" else name for name in names]
    assert_legible(ax.figure)


def test_axes_of_the_user_keep_what_they_hold(fitted):
    figure, axes = plt.subplots(1, 2, figsize=(12, 3), layout="constrained")
    line = axes[0].axhline(1.0)
    scgim.pl.targets(fitted, ax=axes[1], genes=["LDLR"])
    assert scgim.pl.targets(fitted, ax=axes[0], legend=False) is axes[0]
    assert line in axes[0].lines
    assert plt.get_fignums() == [figure.number]
    assert overlapping_texts(drawn_texts(figure)) == []


def test_nothing_is_written(fitted):
    before = fitted.copy()
    scgim.pl.targets(fitted)
    assert_same_adata(fitted, before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"genes": "LDLRR"}, ValueError, "Did you mean 'LDLR'"),
        ({"conditions": "Dacinostat"}, ValueError, "Unknown condition 'Dacinostat'"),
        ({"conditions": "control"}, ValueError, "control has no targets"),
        ({"group": "A549"}, KeyError, "A549"),
    ],
)
def test_errors_say_what_to_do(fitted, arguments, error, message):
    with pytest.raises(error, match=message):
        scgim.pl.targets(fitted, **arguments)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("style", "genes"), [("default", None), ("dark_background", ["LDLR"]), ("default", ["LDLR", "KRT8"])]
)
def test_legible(fitted, style, genes):
    with plt.style.context(style):
        assert_legible(scgim.pl.targets(fitted, genes=genes).figure)


def test_legible_with_long_names_and_many_genes():
    drug = "Trichostatin A (an inhibitor of the histone deacetylase classes I and II)"
    for genes in ([*LONG_GENES, "A"], gene_names(100)):
        adata, _ = make_fit(genes=genes, perturbations=(drug, "B+C"), cells=2, control_cells=2)
        assert_legible(scgim.pl.targets(adata).figure)
