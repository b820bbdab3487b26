"""Marginal distributions."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from example_fit import HELD_OUT, LONG_GENES, gene_names, make_fit, seal_again
from figure_checks import assert_legible, assert_same_adata
from matplotlib.patches import Rectangle

import scgim
from scgim.pl._marginals import density
from scgim.pl._style import palette


def cells(adata, condition, gene):
    """Expression of one gene in the observed cells of one condition."""
    return adata[adata.obs["gim_condition"] == condition, gene].X.toarray().ravel()


def bar_heights(ax) -> dict[str, float]:
    return {bar.get_gid().removeprefix("zeros:"): bar.get_height() for bar in bars(ax)}


def bars(ax) -> list[Rectangle]:
    return [bar for container in ax.containers for bar in container]


def curves(ax) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = [line for line in ax.lines if line.get_gid() in {"control", "observed", "predicted"}]
    return {line.get_gid(): line.get_data() for line in found if len(line.get_xdata()) > 100}


def test_zero_bars_are_the_fractions_of_zeros(fitted, predicted):
    axes = scgim.pl.marginals(fitted, predicted, condition=HELD_OUT)
    assert len(axes) == 8
    sampled = predicted[predicted.obs["condition"] == HELD_OUT]
    for ax in axes:
        gene = ax.get_title()
        expected = {
            "control": (cells(fitted, "control", gene) == 0).mean(),
            "observed": (cells(fitted, HELD_OUT, gene) == 0).mean(),
            "predicted": (np.asarray(sampled[:, gene].X).ravel() == 0).mean(),
        }
        assert bar_heights(ax) == pytest.approx(expected)
        assert all(bar.get_x() + bar.get_width() < 0 for bar in bars(ax))  # apart from the curves


def test_default_genes_differ_most_between_observed_and_control(fitted, predicted):
    shown = [ax.get_title() for ax in scgim.pl.marginals(fitted, predicted, condition=HELD_OUT, n_genes=5)]
    genes = gene_names(50)
    change = [abs(cells(fitted, HELD_OUT, g).mean() - cells(fitted, "control", g).mean()) for g in genes]
    assert shown == [genes[i] for i in np.argsort(change)[::-1][:5]]


def test_continuous_data_have_no_zero_bars():
    adata, predicted = make_fit(continuous=True, cells=20, control_cells=50)
    adata.X[:10] = 0.0  # an exact zero is a value like any other here
    seal_again(adata)
    for ax in scgim.pl.marginals(adata, predicted, condition=HELD_OUT, n_genes=2):
        assert not ax.containers
        x, _ = curves(ax)["predicted"]
        assert x.min() < 0 < x.max()


def test_density_integrates_to_one():
    values = np.random.default_rng(0).lognormal(0.5, 0.3, 700)
    high = values.max() + 1
    assert density(values, 0.0, high, reflect=True).mean() * high == pytest.approx(1.0, abs=1e-3)
    gaussian = np.random.default_rng(0).normal(0, 1, 2000)
    y = density(gaussian, -6.0, 6.0, reflect=False)
    x = -6 + 12 * (np.arange(len(y)) + 0.5) / len(y)
    assert y.mean() * 12 == pytest.approx(1.0, abs=1e-3)
    assert np.abs(y - np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)).max() < 0.05


def test_zeros_do_not_flatten_the_density(fitted, predicted):
    """The curves of one panel have one area each, whatever the fractions of zeros."""
    (ax,) = scgim.pl.marginals(fitted, predicted, condition=HELD_OUT, genes="INSIG1")
    areas = {name: y.sum() * (x[1] - x[0]) for name, (x, y) in curves(ax).items()}
    zeros = bar_heights(ax)
    assert abs(zeros["observed"] - zeros["control"]) > 0.05
    assert areas["observed"] == pytest.approx(areas["control"], rel=0.05)
    assert max(y.max() for _, y in curves(ax).values()) == pytest.approx(0.94)


def test_outliers_and_a_spike_flatten_nothing():
    adata, predicted = make_fit(genes=gene_names(4), cells=100, control_cells=100)
    x, sampled = adata.X.toarray(), predicted.X.copy()
    rows = np.flatnonzero(predicted.obs["condition"] == HELD_OUT)
    sampled[rows[:5], 0] = 500.0  # far out
    sampled[rows, 1] = np.linspace(1.0, 1.001, len(rows))  # all but one value
    predicted.X = sampled
    plain, spike = scgim.pl.marginals(adata, predicted, condition=HELD_OUT, genes=gene_names(2))
    assert plain.get_xlim()[1] < 2 * x[:, 0].max()
    (mark,) = [line for line in plain.lines if line.get_gid() == "beyond"]
    assert mark.get_color() == palette(plain).predicted
    tops = {name: y.max() for name, (_, y) in curves(spike).items()}
    assert max(tops["control"], tops["observed"]) > 0.4
    assert spike.get_ylim()[1] < tops["predicted"]


def test_a_few_values_are_marks():
    adata, predicted = make_fit(genes=gene_names(4), cells=30, control_cells=30)
    x = adata.X.toarray()
    rows = np.flatnonzero(adata.obs["gim_condition"] == HELD_OUT)
    x[rows, 0] = 0.0
    x[rows[:3], 0] = [1.0, 1.5, 2.0]
    adata.X = x
    seal_again(adata)
    (ax,) = scgim.pl.marginals(adata, predicted, condition=HELD_OUT, genes=gene_names(1))
    assert "observed" not in curves(ax)
    (marks,) = [line for line in ax.lines if line.get_gid() == "observed"]
    assert marks.get_xdata().tolist() == [1.0, 1.5, 2.0]


def test_symbols_label_the_genes_and_ask_for_them(fitted, predicted, tmp_path):
    adata = fitted.copy()
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    axes = scgim.pl.marginals(
        adata, predicted, condition=HELD_OUT, genes=["S1", "LDLR"], gene_symbols="symbol", save=tmp_path / "cells.pdf"
    )
    expected = [f"S{adata.var_names.get_loc(gene)}" for gene in ("CDKN1A", "LDLR")]
    assert [ax.get_title() for ax in axes] == expected
    assert bar_heights(axes[0])["control"] == (cells(adata, "control", "CDKN1A") == 0).mean()
    assert (tmp_path / "cells.pdf").read_bytes().startswith(b"%PDF")


def test_a_condition_never_observed_is_compared_with_control(fitted, predicted):
    new = predicted[predicted.obs["condition"] == HELD_OUT].copy()
    new.obs["condition"] = "Dacinostat_30000"
    axes = scgim.pl.marginals(fitted, new, n_genes=2)
    assert set(bar_heights(axes[0])) == {"control", "predicted"}
    assert axes[0].figure.legends[0].get_title().get_text() == "Dacinostat_30000"


def test_degenerate_genes_are_drawn():
    adata, predicted = make_fit(genes=gene_names(4), cells=10, control_cells=10)
    x = adata.X.toarray()
    x[:, 0], x[:, 1] = 0.0, 1.5  # never expressed; always the same value
    adata.X = x
    seal_again(adata)
    sampled = predicted.X.copy()
    sampled[:, 0] = 0.0
    predicted.X = sampled
    axes = scgim.pl.marginals(adata, predicted, condition=HELD_OUT, genes=gene_names(2))
    assert bar_heights(axes[0]) == {"control": 1.0, "observed": 1.0, "predicted": 1.0}
    assert bar_heights(axes[1])["observed"] == 0.0
    axes[0].figure.canvas.draw()


def test_backed_cells_give_the_same_bars(fitted, predicted, tmp_path):
    fitted.write_h5ad(tmp_path / "fit.h5ad")
    backed = ad.read_h5ad(tmp_path / "fit.h5ad", backed="r")
    arguments = {"condition": HELD_OUT, "genes": ["LDLR", "KRT8"]}
    expected = scgim.pl.marginals(fitted, predicted, **arguments)
    for ax, other in zip(scgim.pl.marginals(backed, predicted, **arguments), expected, strict=True):
        assert bar_heights(ax) == bar_heights(other)
    backed.file.close()


def test_axes_of_the_user_keep_what_they_hold(fitted, predicted):
    figure, ax = plt.subplots()
    line = ax.axvline(1.0)
    (returned,) = scgim.pl.marginals(fitted, predicted, condition=HELD_OUT, genes="LDLR", ax=ax)
    assert returned is ax
    assert line in ax.lines
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match="1 axes, but 2 panels"):
        scgim.pl.marginals(fitted, predicted, condition=HELD_OUT, n_genes=2, ax=ax)


def test_nothing_is_written(fitted, predicted):
    before, sampled = fitted.copy(), predicted.copy()
    rc = dict(plt.rcParams)
    scgim.pl.marginals(fitted, predicted, condition=HELD_OUT, n_genes=2)
    assert_same_adata(fitted, before)
    assert_same_adata(predicted, sampled)
    assert dict(plt.rcParams) == rc


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, ValueError, "16 conditions: pass condition="),
        ({"condition": "Dacinostat_1000000"}, ValueError, "Did you mean 'Dacinostat_10000'"),
        ({"condition": HELD_OUT, "genes": ["LDRL"]}, ValueError, "Did you mean 'LDLR'"),
        ({"condition": HELD_OUT, "n_genes": 0}, ValueError, "n_genes"),
        ({"condition": HELD_OUT, "n_cols": 0}, ValueError, "n_cols"),
        ({"key": "other"}, KeyError, "other"),
    ],
)
def test_errors_say_what_to_do(fitted, predicted, change, error, message):
    with pytest.raises(error, match=message):
        scgim.pl.marginals(fitted, predicted, **change)
    assert plt.get_fignums() == []


def test_what_is_not_from_sample_cells_is_refused(fitted, predicted):
    with pytest.raises(ValueError, match="predicted lacks the modelled genes 'ANGPTL4'"):
        scgim.pl.marginals(fitted, predicted[:, 1:], condition=HELD_OUT)
    unlabelled = predicted.copy()
    del unlabelled.obs["condition"]
    with pytest.raises(KeyError, match=r"scgim\.tl\.sample_cells"):
        scgim.pl.marginals(fitted, unlabelled)


@pytest.mark.parametrize(
    ("style", "n_genes"), [("default", 1), ("dark_background", 2), ("default", 3), ("dark_background", 8)]
)
def test_legible(fitted, predicted, style, n_genes):
    with plt.style.context(style):
        axes = scgim.pl.marginals(fitted, predicted, condition=HELD_OUT, n_genes=n_genes)
        assert_legible(axes[0].figure)


@pytest.mark.parametrize("continuous", [False, True])
def test_legible_with_long_names(continuous):
    drug = "Trichostatin A (an inhibitor of the histone deacetylase classes I and II)"
    adata, predicted = make_fit(
        genes=[*LONG_GENES, "A"],
        perturbations=(drug,),
        held_out=f"{drug}_10000",
        continuous=continuous,
        cells=20,
    )
    for n_genes in (1, 6):
        axes = scgim.pl.marginals(adata, predicted, condition=f"{drug}_10000", n_genes=n_genes)
        assert_legible(axes[0].figure)
