"""Dose response."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import small_fits
from example_fit import DOSES, HELD_OUT, LONG_GENES, make_fit
from figure_checks import assert_legible, assert_same_adata, drawn_texts, overlapping_texts
from matplotlib.colors import to_rgb

import scgim
from scgim.pl._style import palette

pytestmark = pytest.mark.usefixtures("quick_fits")


def line(ax, gid):
    (found,) = [artist for artist in ax.lines if artist.get_gid() == gid]
    return found


def curve(ax) -> dict[float, float]:
    """Predicted mean by dose, within and beyond the fitted doses."""
    drawn = [artist for artist in ax.lines if artist.get_gid() in {"predicted", "extrapolated"}]
    return {dose: mean for artist in drawn for dose, mean in zip(*artist.get_data(), strict=True)}


def points(ax) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, object]]:
    """Doses, means, standard errors and marker of the observed and the held-out points."""
    found = {}
    for container in ax.containers:
        marker, _, (bars,) = container.lines
        half = np.array([np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()])
        found[container.lines[0].get_gid()] = (marker.get_xdata(), marker.get_ydata(), half, marker)
    return found


def cells(adata, condition, gene):
    return adata[adata.obs["gim_condition"] == condition, gene].X.toarray().ravel()


def test_points_are_observed_means_with_their_standard_errors(fitted, predicted):
    for ax in scgim.pl.dose_response(fitted, predicted=predicted, n_genes=3):
        gene = ax.get_title()
        x, y, error, marker = points(ax)["observed"]
        assert x.tolist() == [10, 100, 1000]
        seen = [cells(fitted, f"Dacinostat_{dose:g}", gene) for dose in x]
        assert y == pytest.approx([c.mean() for c in seen])
        assert error == pytest.approx([c.std(ddof=1) / np.sqrt(len(c)) for c in seen])
        x, y, _, held_out = points(ax)["held out"]
        assert (x.tolist(), y.tolist()) == ([10000], [pytest.approx(cells(fitted, HELD_OUT, gene).mean())])
        paper = to_rgb(palette(ax).paper)
        assert to_rgb(held_out.get_markerfacecolor()) == paper != to_rgb(marker.get_markerfacecolor())
        control = line(ax, "control").get_ydata()
        assert control[0] == pytest.approx(cells(fitted, "control", gene).mean())


@pytest.mark.parametrize("band", [(25, 75), (5, 95)])
def test_curve_and_band_are_the_predicted_cells(fitted, predicted, band):
    (ax,) = scgim.pl.dose_response(fitted, predicted=predicted, genes="HSPA1A", band=band)
    of_drug = predicted[predicted.obs["perturbation"] == "Dacinostat"]
    sampled = [np.asarray(of_drug[of_drug.obs["dose"] == d, "HSPA1A"].X).ravel() for d in DOSES]
    assert curve(ax) == pytest.approx({dose: c.mean() for dose, c in zip(DOSES, sampled, strict=True)})
    (area,) = [c for c in ax.collections if c.get_gid() == "band"]
    corners = {(x, round(y, 5)) for x, y in area.get_paths()[0].vertices}
    for dose, c in zip(DOSES, sampled, strict=True):
        for y in np.percentile(c, band):
            assert (dose, round(float(y), 5)) in corners


def test_axis_is_logarithmic_with_its_unit(fitted, predicted):
    (ax,) = scgim.pl.dose_response(fitted, predicted=predicted, genes="LDLR")
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "Dose (nM)"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10", "100", "1,000", "10,000"]


def assert_apart(ax) -> None:
    """Labels of ticks have the width of a digit between them, at least."""
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
    digit = boxes[0].height / 2
    assert all(right.x0 - left.x1 > digit for left, right in pairwise(boxes))


def test_micromolar_and_crowded_doses():
    doses = (0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0)
    adata, predicted = make_fit(
        perturbations=("dex",), doses=doses, held_out="dex_50", dose_unit="uM", cells=10, control_cells=20
    )
    axes = scgim.pl.dose_response(adata, predicted=predicted, n_genes=4)
    assert axes[0].get_xlabel() == axes[-1].get_xlabel() == "Dose (µM)"
    labels = [label.get_text() for label in axes[0].get_xticklabels()]
    assert {"0.1", "1", "10", "100"} <= set(labels)
    assert_apart(axes[0])
    assert len(labels) == 7  # a tick each
    assert_legible(axes[0].figure)
    (ax,) = scgim.pl.dose_response(adata, predicted=False, genes="LDLR", unit="mg/kg")
    assert ax.get_xlabel() == "Dose (mg/kg)"


def test_perturbation_with_a_held_out_dose_is_the_default(fitted, predicted):
    axes = scgim.pl.dose_response(fitted, predicted=predicted, n_genes=1)
    assert axes[0].figure.legends[0].get_title().get_text() == "Dacinostat"
    other = predicted[predicted.obs["perturbation"] == "Quisinostat"]
    axes = scgim.pl.dose_response(fitted, predicted=other, n_genes=1)
    assert axes[0].figure.legends[0].get_title().get_text() == "Quisinostat"


def test_beyond_the_fitted_doses_the_line_is_dotted_and_has_a_tick(fitted, predicted):
    new = predicted[predicted.obs["perturbation"] == "Dacinostat"].copy()
    new.obs["dose"] = new.obs["dose"].replace({1000.0: 3.0})  # below the lowest, and the held-out one above the highest
    (ax,) = scgim.pl.dose_response(fitted, predicted=new, genes="LDLR")
    dotted = [artist for artist in ax.lines if artist.get_gid() == "extrapolated"]
    assert [artist.get_xdata().tolist() for artist in dotted] == [[3, 10], [100, 10000]]
    assert line(ax, "predicted").get_xdata().tolist() == [10, 100]
    assert ax.get_xticklabels()[0].get_text() == "3"
    assert "beyond the fitted doses" in [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert_legible(ax.figure)


def test_the_prediction_is_sampled_where_none_is_given():
    adata = small_fits.fitted("log1p")
    (ax,) = scgim.pl.dose_response(adata, perturbation="B", genes="g1")
    x = line(ax, "predicted").get_xdata()
    assert x == pytest.approx(np.geomspace(1, 10, 4), rel=1e-4)
    sampled = scgim.tl.sample_cells(adata, perturbations=[("B", dose) for dose in x], n=500)
    means = [np.asarray(sampled[sampled.obs["dose"] == dose, "g1"].X).mean() for dose in x]
    assert line(ax, "predicted").get_ydata() == pytest.approx(means)


def test_what_was_observed_is_drawn_alone_if_asked_for(fitted):
    (ax,) = scgim.pl.dose_response(fitted, predicted=False, perturbation="Quisinostat", genes="LDLR")
    assert list(points(ax)) == ["observed"]
    assert not [a for a in ax.lines if a.get_gid() == "predicted"]


def test_a_perturbation_never_observed_is_drawn(fitted, predicted):
    new = predicted[predicted.obs["perturbation"] == "Dacinostat"].copy()
    new.obs["perturbation"] = "Panobinostat"
    (ax,) = scgim.pl.dose_response(fitted, predicted=new, genes="LDLR")
    assert points(ax) == {}
    assert line(ax, "predicted").get_xdata().tolist() == list(DOSES)  # nothing was fitted: nothing is dotted


def test_one_predicted_dose_is_a_mark(fitted, predicted):
    new = predicted[predicted.obs["condition"] == HELD_OUT]
    (ax,) = scgim.pl.dose_response(fitted, predicted=new, genes="LDLR")
    assert line(ax, "predicted").get_marker() == "_"
    assert_legible(ax.figure)


def test_axes_of_the_user_keep_what_they_hold(fitted, predicted):
    figure, ax = plt.subplots()
    mine = ax.axhline(1.0)
    (returned,) = scgim.pl.dose_response(fitted, predicted=predicted, genes="LDLR", ax=ax)
    assert returned is ax
    assert mine in ax.lines
    assert plt.get_fignums() == [figure.number]
    assert overlapping_texts(drawn_texts(figure)) == []


def test_nothing_is_written(fitted, predicted):
    before, sampled = fitted.copy(), predicted.copy()
    scgim.pl.dose_response(fitted, predicted=predicted, n_genes=1)
    assert_same_adata(fitted, before)
    assert_same_adata(predicted, sampled)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"perturbation": "dacinostat"}, ValueError, "Did you mean 'Dacinostat'"),
        ({"genes": "LDRL"}, ValueError, "Did you mean 'LDLR'"),
        ({"band": (75, 25)}, ValueError, "percentiles"),
        ({"key": "other"}, KeyError, "other"),
    ],
)
def test_errors_say_what_to_do(fitted, predicted, arguments, error, message):
    with pytest.raises(error, match=message):
        scgim.pl.dose_response(fitted, predicted=predicted, **arguments)
    assert plt.get_fignums() == []


def test_what_has_no_single_answer_is_asked(fitted):
    adata, predicted = make_fit(held_out=None, cells=3, control_cells=3)
    with pytest.raises(ValueError, match="4 perturbations: pass perturbation="):
        scgim.pl.dose_response(adata, predicted=predicted)
    adata, _ = make_fit(perturbations=("KO",), doses=(), held_out=None, cells=3, control_cells=3)
    with pytest.raises(ValueError, match="No perturbation has doses"):
        scgim.pl.dose_response(adata)


@pytest.mark.parametrize(("style", "n_genes"), [("default", 1), ("dark_background", 2), ("default", 8)])
def test_legible(fitted, predicted, style, n_genes):
    with plt.style.context(style):
        assert_legible(scgim.pl.dose_response(fitted, predicted=predicted, n_genes=n_genes)[0].figure)


def test_legible_with_long_names():
    drug = "Trichostatin A (an inhibitor of the histone deacetylase classes I and II)"
    adata, predicted = make_fit(
        genes=list(LONG_GENES), perturbations=(drug,), continuous=True, cells=5, control_cells=5
    )
    for n_genes in (1, 5):
        assert_legible(scgim.pl.dose_response(adata, predicted=predicted, n_genes=n_genes)[0].figure)
