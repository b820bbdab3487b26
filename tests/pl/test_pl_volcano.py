"""The volcano of effect against evidence, and the heat map of effects; on a real fit, which evidence needs."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from example_fit import HELD_OUT, gene_names, make_fit
from figure_checks import assert_legible, assert_same_adata
from quick_fits import quick_fits

import scgim
from scgim.pl._names import name_points


@pytest.fixture(scope="module")
def real() -> ad.AnnData:
    """A short fit, with a condition held out; its numbers mean nothing."""
    adata = scgim.datasets.simulated_sciplex3(n_genes=120)
    rng = np.random.default_rng(0)
    design = adata.obs.groupby(["perturbation", "dose_value"], observed=True).indices
    rows = [rng.permutation(cells)[:40] for cells in design.values()]
    adata = adata[np.sort(np.concatenate(rows))].copy()
    doses = {"dose_key": "dose_value", "dose_unit_key": "dose_unit"}
    scgim.pp.prepare(adata, **doses, n_genes=12, hold_out={"Dacinostat": 10_000})
    with quick_fits():
        scgim.tl.fit_gim(adata, max_steps=20, progress=False)
    return adata


CONDITION = "Quisinostat_10000"


def points(ax) -> dict[str, np.ndarray]:
    return {c.get_gid(): np.asarray(c.get_offsets()) for c in ax.collections if c.get_gid()}


def test_dots_are_effect_and_evidence(real):
    ax = scgim.pl.volcano(real, condition=CONDITION)
    table = scgim.get.targets(real, conditions=CONDITION).merge(
        scgim.tl.target_evidence(real)[["condition", "gene", "evidence"]], on=["condition", "gene"]
    )
    sign = np.where(table["is_target"], np.sign(table["log2_fold_change"]), 0)
    assert {0, 1} <= set(sign) or {-1, 0} <= set(sign), "the fit must call some targets, and not all"
    for kind, label in {0: "not called", 1: "called, raised", -1: "called, lowered"}.items():
        np.testing.assert_allclose(points(ax)[label], table.loc[sign == kind, ["log2_fold_change", "evidence"]])
    (price,) = [line for line in ax.lines if line.get_gid() == "price"]
    assert price.get_ydata()[0] == scgim.get.params(real)["fit"]["settings"]["target_sparsity"]


def test_the_genes_with_most_evidence_are_named(real):
    ax = scgim.pl.volcano(real, condition=CONDITION, n_named=3)
    table = scgim.tl.target_evidence(real)
    most = table[table["condition"] == CONDITION].nlargest(3, "evidence")["gene"]
    assert {text.get_text() for text in ax.texts if text.get_gid() == "name"} == set(most)


def test_the_axis_follows_the_root(real):
    ax = scgim.pl.volcano(real, condition=CONDITION)
    forward = ax.get_yaxis().get_transform()
    np.testing.assert_allclose(forward.transform(np.array([-4.0, 0.0, 9.0])), [-2, 0, 3])
    ticks = ax.get_yticks()
    assert 0 in ticks and len(ticks) >= 3 and ticks[-1] <= ax.get_ylim()[1]


def test_files_symbols_and_axes_of_the_user(real, tmp_path):
    adata = real.copy()
    adata.var["symbol"] = "S" + adata.var_names
    figure, ax = plt.subplots()
    line = ax.axvline(1.0)
    drawn = scgim.pl.volcano(adata, condition=CONDITION, gene_symbols="symbol", ax=ax, save=tmp_path / "volcano.svg")
    assert drawn is ax and line in ax.lines and plt.get_fignums() == [figure.number]
    names = [text.get_text() for text in ax.texts if text.get_gid() == "name"]
    assert names and all(name.startswith("SSIM") for name in names)
    assert "<svg" in (tmp_path / "volcano.svg").read_text()


def test_nothing_is_written(real):
    before = real.copy()
    scgim.pl.volcano(real, condition=CONDITION)
    scgim.pl.targets(real, show="effect")
    assert_same_adata(real, before)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (HELD_OUT, "held out of the fit"),
        ("control", "'control' is the control"),
        ("Quisinostat_1000000", "Unknown condition"),
    ],
)
def test_errors_say_what_to_do(real, condition, message):
    with pytest.raises(ValueError, match=message):
        scgim.pl.volcano(real, condition=condition)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_legible(real, style):
    with plt.style.context(style):
        assert_legible(scgim.pl.volcano(real, condition=CONDITION, n_named=12).figure)
        assert_legible(scgim.pl.volcano(real, condition="Belinostat_10").figure)
        assert_legible(scgim.pl.targets(real, show="effect").figure)


def test_the_heat_map_of_effects_shows_called_targets_alone(real):
    ax = scgim.pl.targets(real, show="effect", genes=real.var_names[real.var["gim"]].tolist())
    genes = [label.get_text() for label in ax.get_xticklabels()]
    drawn = np.ma.filled(ax.collections[0].get_array(), np.nan).reshape(16, 12)
    table = scgim.get.targets(real).set_index(["condition", "gene"])
    conditions = real.uns["gim"]["conditions"].query("~is_control")
    order = conditions.sort_values(["perturbation", "dose"], key=_first_seen(conditions))["condition"]
    assert table["is_target"].any() and not table["is_target"].all()
    for i, condition in enumerate(order):
        rows = table.loc[[(condition, gene) for gene in genes]]
        expected = rows["log2_fold_change"].where(rows["is_target"])
        np.testing.assert_allclose(drawn[i], expected.to_numpy())
    assert not [c for c in ax.collections if c.get_gid() == "called"]


def _first_seen(conditions):
    rank = {name: i for i, name in enumerate(conditions["perturbation"].unique())}
    return lambda column: column.map(rank) if column.name == "perturbation" else column


def test_effects_of_continuous_data_are_differences():
    adata, _ = make_fit(continuous=True, genes=gene_names(8), cells=5, control_cells=5)
    adata.uns["gim"]["targets"]["control_mean"] = 0.5
    ax = scgim.pl.targets(adata, show="effect")
    table = scgim.get.targets(adata, called_only=True)
    drawn = np.ma.filled(ax.collections[0].get_array(), np.nan)
    assert sorted(drawn[~np.isnan(drawn)].ravel()) == pytest.approx(sorted(table["effect"] - 0.5))


def test_an_old_fit_is_told_to_fit_again(fitted):
    with pytest.raises(KeyError, match=r"log2_fold_change.*Run scgim\.tl\.fit_gim again"):
        scgim.pl.targets(fitted, show="effect")
    with pytest.raises(ValueError, match="show='size' is unknown"):
        scgim.pl.targets(fitted, show="size")


def test_names_never_overlap_and_stay_inside():
    rng = np.random.default_rng(0)
    _, ax = plt.subplots(figsize=(3, 3))
    xy = rng.normal(size=(60, 2))
    ax.scatter(*xy.T)
    written = name_points(ax, xy, gene_names(60), xy, size=8, taken=[(0.6, 0.0, 1.0, 0.2)])
    boxes = [text.get_window_extent() for text in ax.texts]
    assert 10 < written == len(boxes) < 60
    inside = ax.get_window_extent()
    for box in boxes:
        assert inside.x0 - 2 < box.x0 and box.x1 < inside.x1 + 2 and inside.y0 - 2 < box.y0 and box.y1 < inside.y1 + 2
        place = ax.transAxes.inverted().transform(box)
        assert not (place[1, 0] > 0.62 and place[0, 1] < 0.18)
    assert_legible(ax.figure)
