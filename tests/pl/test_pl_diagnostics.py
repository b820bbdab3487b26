"""The course of a fit, the comparison of methods, and the shared style."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from example_fit import gene_names, make_fit
from figure_checks import assert_legible, assert_same_adata

import scgim
from scgim.pl._style import fit_text, format_dose, luminance, palette, shorten, text_on, text_width


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (condition, method, metric, float(rng.random()))
        for condition in ("a", "b", "c")
        for method in ("gim", "control", "next_lower_dose")
        for metric in ("mean_distance", "pearson_delta", "my_own_metric")
    ]
    return pd.DataFrame(rows, columns=["condition", "method", "metric", "value"])


def test_history_draws_what_was_recorded(fitted):
    axes = scgim.pl.history(fitted)
    drawn = {line.get_gid(): line for ax in axes for line in ax.lines}
    recorded = fitted.uns["gim"]["history"]
    assert set(drawn) == set(recorded) - {"step"}
    for name, line in drawn.items():
        np.testing.assert_array_equal(line.get_xdata(), recorded["step"])
        np.testing.assert_array_equal(line.get_ydata(), recorded[name])
    assert axes[1].get_yscale() == "log"
    low, high = axes[0].get_ylim()
    assert low < recorded["loss"].min() < high < recorded["loss"].max()


def test_history_skips_what_is_missing():
    adata, _ = make_fit(genes=gene_names(4), cells=2, control_cells=2)
    record = adata.uns["gim"]["history"]
    del record["targets_per_condition"], record["penalty"]
    record["valid_loss"][3:] = np.nan
    record["acyclicity"][:] = 0.0  # acyclic from the start: nothing to show on a logarithmic axis
    axes = scgim.pl.history(adata)
    assert [ax.get_title() for ax in axes] == ["Loss", "Multiplier", "Edges"]
    assert axes[0].figure.get_supxlabel() == "Constant, not drawn: acyclicity 0"
    assert_legible(axes[0].figure)
    adata.uns["gim"]["history"] = {"step": np.array([])}
    with pytest.raises(ValueError, match="no history"):
        scgim.pl.history(adata)


def test_what_never_changed_is_named_instead(fitted):
    adata = fitted.copy()
    record = adata.uns["gim"]["history"]
    record["acyclicity"] = np.zeros(len(record["step"]))
    record["penalty"] = np.full(len(record["step"]), 0.01)
    axes = scgim.pl.history(adata)
    assert [ax.get_title() for ax in axes] == ["Loss", "Multiplier", "Edges", "Targets per condition"]
    assert axes[0].figure.get_supxlabel() == "Constant, not drawn: acyclicity 0, penalty 0.01"
    for name in set(record) - {"step"}:
        record[name] = np.ones(len(record["step"]))
    assert len(scgim.pl.history(adata)) == 5  # nothing else is there to draw


def test_one_record_is_a_dot():
    adata, _ = make_fit(genes=gene_names(4), cells=2, control_cells=2)
    adata.uns["gim"]["history"] = {"step": np.array([40]), "loss": np.array([3.0]), "edges": np.array([9])}
    axes = scgim.pl.history(adata)
    assert [ax.lines[0].get_marker() for ax in axes] == ["o", "o"]
    assert_legible(axes[0].figure)


@pytest.mark.parametrize(("style", "n_cols"), [("default", 1), ("dark_background", 3), ("default", 5)])
def test_history_legible(fitted, style, n_cols):
    before = fitted.copy()
    with plt.style.context(style):
        assert_legible(scgim.pl.history(fitted, n_cols=n_cols)[0].figure)
    assert_same_adata(fitted, before)


def test_metrics_mark_every_value_and_the_mean(table):
    axes = scgim.pl.metrics(table)
    assert [ax.get_title() for ax in axes] == ["Mean distance", "Pearson of differences", "My own metric"]
    assert [ax.get_xlabel() for ax in axes] == ["← lower is better", "higher is better →", ""]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["GIM", "control", "next lower dose"]
    for ax, metric in zip(axes, ("mean_distance", "pearson_delta", "my_own_metric"), strict=True):
        means = table[table["metric"] == metric].groupby("method")["value"].mean()
        drawn = {line.get_gid().removeprefix("mean:"): line.get_xdata()[0] for line in ax.lines if line.get_gid()}
        assert drawn == pytest.approx(means.to_dict())
        dots = np.concatenate([line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 3])
        assert sorted(dots) == pytest.approx(sorted(table.loc[table["metric"] == metric, "value"]))


def test_metrics_can_be_chosen_and_missing_values_are_left_out(table):
    table.loc[table["method"] == "control", "value"] = np.nan
    (ax,) = scgim.pl.metrics(table, metrics=["mean_distance"], methods=["control", "gim"])
    assert [line.get_gid() for line in ax.lines if line.get_gid()] == ["mean:gim"]
    assert len(table) == 27


def test_means_are_taken_over_the_same_conditions(table):
    table = table[table["metric"] == "mean_distance"]
    easy = (table["method"] == "control") & (table["condition"] == "a")
    (ax,) = scgim.pl.metrics(table[~easy])
    drawn = {line.get_gid(): line.get_xdata()[0] for line in ax.lines if line.get_gid()}
    values = table.set_index(["method", "condition"])["value"]
    for method in ("gim", "control"):
        expected = (values[method, "b"] + values[method, "c"]) / 2
        assert drawn[f"mean:{method}"] == pytest.approx(expected)
    assert "shared by all" in ax.figure.legends[0].get_texts()[1].get_text()
    assert len(next(line for line in ax.lines if len(line.get_xdata()) == 3).get_xdata()) == 3  # all dots stay


def test_default_metrics_come_first_and_are_larger(table):
    more = table.replace({"metric": {"pearson_delta": "coverage", "my_own_metric": "wasserstein"}})
    axes = scgim.pl.metrics(more)
    assert [ax.get_title() for ax in axes] == ["Mean distance", "Wasserstein", "Coverage of 5-95 %"]
    axes[0].figure.canvas.draw()
    assert axes[2].get_position().height < 0.85 * axes[0].get_position().height
    assert_legible(axes[0].figure)


def test_two_halves_of_the_truth_are_a_line(table):
    halves = table[table["method"] == "gim"].assign(method="two halves of the truth", value=0.25)
    for ax in scgim.pl.metrics(pd.concat([table, halves])):
        assert len(ax.get_yticks()) == 3
        (line,) = [line for line in ax.lines if str(line.get_gid()).startswith("line:")]
        assert list(line.get_xdata()) == [0.25, 0.25]
        assert "two halves of the truth" in [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert_legible(ax.figure)


def test_repeats_have_bars(table):
    seeds = pd.concat([table.assign(value=table["value"] + shift) for shift in (0.0, 0.1, 0.3)])
    for ax, (metric, name) in zip(
        scgim.pl.metrics(seeds),
        [("mean_distance", "gim"), ("pearson_delta", "gim"), ("my_own_metric", "gim")],
        strict=True,
    ):
        chosen = table[(table["metric"] == metric) & (table["method"] == name)]
        means = chosen["value"].mean() + np.array([0.0, 0.1, 0.3])
        (bar,) = [c for c in ax.containers if c.lines[0].get_gid() == f"repeats:{name}"]
        ((start, stop),) = bar.lines[2][0].get_segments()
        assert (start[0], stop[0]) == pytest.approx(
            (means.mean() - means.std(ddof=1), means.mean() + means.std(ddof=1))
        )
        dots = next(line for line in ax.lines if len(line.get_xdata()) == 3)
        assert sorted(dots.get_xdata()) == pytest.approx(sorted(chosen["value"] + 0.4 / 3))
    assert any("s.d. of repeats" in text.get_text() for text in ax.figure.legends[0].get_texts())
    assert_legible(ax.figure)


def test_figures_are_saved(table, fitted, tmp_path):
    scgim.pl.metrics(table, save=tmp_path / "metrics.png")
    scgim.pl.history(fitted, save=str(tmp_path / "history.png"))
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.png", "history.png"}


def test_metrics_of_the_user_axes(table):
    figure, axes = plt.subplots(1, 3)
    assert list(scgim.pl.metrics(table, ax=axes)) == list(axes)
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match="1 axes, but 3 panels"):
        scgim.pl.metrics(table, ax=axes[0])


def test_metrics_errors(table):
    with pytest.raises(KeyError, match="'method'"):
        scgim.pl.metrics(table.drop(columns="method"))
    with pytest.raises(ValueError, match="empty"):
        scgim.pl.metrics(table.iloc[:0])
    with pytest.raises(ValueError, match="Did you mean 'mean_distance'"):
        scgim.pl.metrics(table, metrics=["mean_distances"])


@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("metrics", [None, ["mean_distance"]])
def test_metrics_legible(table, style, metrics):
    with plt.style.context(style):
        assert_legible(scgim.pl.metrics(table, metrics=metrics)[0].figure)
        assert_legible(scgim.pl.metrics(table[table["condition"] == "a"], metrics=metrics)[0].figure)


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_colours_stand_out_from_the_background_and_from_each_other(style):
    with plt.style.context(style):
        _, ax = plt.subplots()
        colors = palette(ax)
        paper = luminance(plt.rcParams["axes.facecolor"])
    assert luminance(colors.paper) == pytest.approx(paper, abs=0.05)
    for name in ("ink", "observed", "predicted", "control"):
        light, dark = sorted([luminance(getattr(colors, name)), paper], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, name  # WCAG 2.1, graphical objects
    assert len({colors.observed, colors.predicted, colors.control}) == 3


def test_text_is_readable_on_every_shade():
    for shade in np.linspace(0, 1, 21):
        ink = text_on((shade, shade, shade))
        light, dark = sorted([luminance(ink), luminance((shade, shade, shade))], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("dose", "unit", "text"),
    [(10000.0, "nM", "10,000 nM"), (0.1, "uM", "0.1 µM"), (2.5, "", "2.5"), (1234.5, "", "1234.5")],
)
def test_doses_are_written_as_in_print(dose, unit, text):
    assert format_dose(dose, unit) == text


def test_long_texts_are_shortened_to_fit():
    text = "a rather long name of a condition that nobody would want to read"
    assert shorten("short") == "short"
    assert len(shorten(text, 20)) == 20
    for width in (60.0, 120.0, 1000.0):
        assert text_width(fit_text(text, 8, width), 8) <= width
    assert fit_text(text, 8, 1000.0) == text
    assert text_width(fit_text(text, 8, 120.0), 8) > 100
