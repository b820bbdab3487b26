"""Every figure of a fit with ``mechanism="count"``: predicted and observed cells are counts on one scale."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from figure_checks import assert_legible, assert_same_adata
from matplotlib.patches import ArrowStyle, FancyArrowPatch

import scgim
from scgim.tl._stored import load


@pytest.fixture(scope="module")
def sampled(count_fit: ad.AnnData) -> ad.AnnData:
    return scgim.tl.sample_cells(count_fit, perturbations=[("A", 10)], n=300)


def test_marginals_show_predicted_and_observed_counts_on_one_scale(count_fit: ad.AnnData, sampled: ad.AnnData) -> None:
    before = count_fit.copy()
    axes = scgim.pl.marginals(count_fit, sampled, genes=["g0", "g1", "g4"])
    assert_same_adata(count_fit, before)
    assert_legible(axes[0].figure)
    observed = count_fit[count_fit.obs["gim_condition"] == "A_10"]
    for ax in axes:
        gene = ax.get_title()
        heights = {bar.get_gid(): bar.get_height() for container in ax.containers for bar in container}
        assert heights["zeros:predicted"] == pytest.approx((sampled[:, gene].layers["counts"] == 0).mean())
        assert heights["zeros:observed"] == pytest.approx((observed[:, gene].layers["counts"].toarray() == 0).mean())
        curves = {line.get_gid(): line.get_data() for line in ax.lines if len(line.get_xdata()) > 100}
        means = [np.average(curves[name][0], weights=curves[name][1]) for name in ("predicted", "observed")]
        assert abs(means[0] - means[1]) < 0.6  # of log1p: curves lie over each other


def test_signs_of_edges_are_those_of_the_latent_slopes(count_fit: ad.AnnData) -> None:
    ax = scgim.pl.graph(count_fit)
    assert_legible(ax.figure)
    model = load(count_fit)
    slopes, genes = model.fitted.slopes(), model.entry.genes
    arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch) and str(p.get_gid()).startswith("edge:")]
    assert len(arrows) == len(count_fit.uns["gim"]["graph"]) > 0
    for arrow in arrows:
        cause, effect = arrow.get_gid().removeprefix("edge:").split("->")
        slope = slopes[genes.index(cause), genes.index(effect)]
        assert slope != 0
        assert isinstance(arrow.get_arrowstyle(), ArrowStyle.CurveFilledB if slope > 0 else ArrowStyle.BracketB)


def test_targets_are_drawn_with_their_direction(count_fit: ad.AnnData) -> None:
    ax = scgim.pl.targets(count_fit)
    assert_legible(ax.figure)
    called = scgim.get.targets(count_fit, called_only=True)
    (dots,) = [collection for collection in ax.collections if collection.get_gid() == "called"]
    assert len(dots.get_offsets()) == len(called) > 0
    assert set(called["gene"]) <= {text.get_text() for text in ax.get_xticklabels()}


def test_the_dose_response_is_of_expression_not_of_the_latent(count_fit: ad.AnnData, sampled: ad.AnnData) -> None:
    axes = scgim.pl.dose_response(count_fit, perturbation="A", genes=["g0", "g4"])
    assert_legible(axes[0].figure)
    for ax, gene in zip(axes, ("g0", "g4"), strict=True):
        lines = {line.get_gid(): line for line in ax.lines}
        last = lines["predicted"].get_ydata()[-1]
        x = sampled[:, gene].X
        assert last == pytest.approx(x.mean(), abs=5 * x.std() / np.sqrt(300))
        control = count_fit[count_fit.obs["gim_condition"] == "control", gene].X.mean()
        assert lines["control"].get_ydata()[0] == pytest.approx(control)


def test_the_history_draws_the_loss_and_names_what_is_held(count_fit: ad.AnnData) -> None:
    axes = scgim.pl.history(count_fit)
    assert [ax.get_title() for ax in axes] == ["Loss"]  # the structure is held after the search
    figure = axes[0].figure
    assert_legible(figure)
    note = figure.get_supxlabel().replace("\n", " ")
    edges = len(count_fit.uns["gim"]["graph"])
    assert f"edges {edges:.3g}" in note
    assert "targets per condition" in note
    assert "…" not in note


def test_metrics_of_counted_cells(count_fit: ad.AnnData, sampled: ad.AnnData) -> None:
    table = scgim.tl.evaluate(count_fit, sampled, baselines=["control"], metrics=["mean_distance", "e_distance"])
    axes = scgim.pl.metrics(table)
    assert_legible(axes[0].figure)
    value = table.query("method == 'gim' and metric == 'mean_distance'")["value"].item()
    (dot,) = [line for line in axes[0].lines if line.get_gid() == "mean:gim"]
    assert dot.get_xdata()[0] == pytest.approx(value)
