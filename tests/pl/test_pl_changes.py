"""Observed beside predicted changes: the table, the heat map, the scatter."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from example_fit import HELD_OUT, LONG_GENES, gene_names, make_fit
from figure_checks import assert_legible, assert_same_adata, drawn_texts, overlapping_texts

import scgim


def mean_of(adata, condition, gene, column="gim_condition"):
    x = adata[adata.obs[column] == condition, gene].X
    return float((x.toarray() if hasattr(x, "toarray") else np.asarray(x)).mean())


def drawn(ax) -> np.ndarray:
    return np.asarray(ax.collections[0].get_array()).reshape(2 * len(ax.get_yticks()), len(ax.get_xticks()))


def columns(ax) -> list[str]:
    return [label.get_text() for label in ax.get_xticklabels()]


def names(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_gid() == "name"]


@pytest.fixture(scope="module")
def new_dose(predicted) -> ad.AnnData:
    """Cells under a dose that nobody measured, as `tl.sample_cells` returns them."""
    cells = predicted[predicted.obs["condition"] == HELD_OUT].copy()
    cells.obs = pd.DataFrame(
        {"condition": "Dacinostat_3000", "perturbation": "Dacinostat", "dose": 3000.0}, index=cells.obs_names
    )
    return cells


def test_the_table_holds_means_and_their_differences(fitted, predicted):
    table = scgim.get.changes(fitted, predicted).set_index(["condition", "gene"])
    assert len(table) == 16 * 50
    for gene in ("LDLR", "CDKN1A"):
        row = table.loc[(HELD_OUT, gene)]
        control, seen = mean_of(fitted, "control", gene), mean_of(fitted, HELD_OUT, gene)
        forecast = mean_of(predicted, HELD_OUT, gene, "condition")
        assert row["observed_change"] == pytest.approx(seen - control, abs=1e-5)
        assert row["predicted_change"] == pytest.approx(forecast - control, abs=1e-5)
        assert row["split"] == "test"
        cells = [fitted[fitted.obs["gim_condition"] == c, gene].X.toarray().ravel() for c in (HELD_OUT, "control")]
        error = np.sqrt(sum(c.var(ddof=1) / len(c) for c in cells))
        assert row["standard_error"] == pytest.approx(error, rel=1e-4)
        assert row["n_cells"] == len(cells[0])


def test_changes_can_start_at_the_predicted_control(fitted, predicted):
    """What a model predicts of the control, too, is no predicted change."""
    control = predicted[predicted.obs["condition"] == HELD_OUT].copy()
    control.obs["condition"] = "control"
    both = ad.concat([predicted[predicted.obs["condition"] == HELD_OUT], control], index_unique="-")
    table = scgim.get.changes(fitted, both, reference="predicted")
    assert table["condition"].unique().tolist() == [HELD_OUT]
    np.testing.assert_allclose(table["predicted_change"], 0, atol=1e-6)
    assert scgim.get.changes(fitted, both)["predicted_change"].abs().max() > 0.3
    with pytest.raises(ValueError, match="no cell of the control 'control'"):
        scgim.get.changes(fitted, predicted, reference="predicted")


def test_what_was_not_observed_is_missing_in_the_table(fitted, new_dose):
    table = scgim.get.changes(fitted, new_dose)
    assert table["observed_change"].isna().all() and table["predicted_change"].notna().all()
    assert set(table["split"]) == {"new"} and set(table["dose"]) == {3000.0}
    assert set(table["perturbation"]) == {"Dacinostat"}


def test_cells_of_another_method_need_only_their_condition(fitted, predicted):
    plain = ad.AnnData(predicted.X, obs=predicted.obs[["condition"]].copy(), var=predicted.var)
    pd.testing.assert_frame_equal(scgim.get.changes(fitted, plain), scgim.get.changes(fitted, predicted))


def test_the_heat_map_shows_the_table_in_pairs_of_rows(fitted, predicted):
    ax = scgim.pl.changes(fitted, predicted, genes=["LDLR", "CDKN1A"])
    table = scgim.get.changes(fitted, predicted).set_index(["condition", "gene"])
    conditions = fitted.uns["gim"]["conditions"]["condition"].tolist()[1:]
    for j, gene in enumerate(columns(ax)):
        rows = table.loc[[(condition, gene) for condition in conditions]]
        np.testing.assert_allclose(drawn(ax)[0::2, j], rows["observed_change"])
        np.testing.assert_allclose(drawn(ax)[1::2, j], rows["predicted_change"])


def test_the_heat_map_takes_the_genes_that_change_most(fitted, predicted):
    ax = scgim.pl.changes(fitted, predicted, n_genes=12)
    table = scgim.get.changes(fitted, predicted)
    most = table["observed_change"].abs().groupby(table["gene"]).max().nlargest(12).index
    assert set(columns(ax)) == set(most)
    assert ax.get_xlabel() == "38 genes that change less not shown"
    assert scgim.pl.changes(fitted, predicted, n_genes=50).get_xlabel() == ""


def test_conditions_not_observed_are_hatched(fitted, predicted, new_dose):
    ax = scgim.pl.changes(fitted, ad.concat([predicted, new_dose], index_unique="-"))
    assert [c.get_gid() for c in ax.collections].count("not observed") == 1
    assert_legible(ax.figure)
    alone = scgim.pl.changes(fitted, new_dose, n_genes=5)
    table = scgim.get.changes(fitted, new_dose).set_index("gene")["predicted_change"].abs()
    assert set(columns(alone)) == set(table.nlargest(5).index)
    with pytest.raises(ValueError, match="nothing to compare"):
        scgim.pl.agreement(fitted, new_dose)


def test_the_scatter_names_the_worst_genes(fitted, predicted):
    (ax,) = scgim.pl.agreement(fitted, predicted, conditions=HELD_OUT, n_named=4)
    table = scgim.get.changes(fitted, predicted, conditions=HELD_OUT).set_index("gene")
    error = (table["observed_change"] - table["predicted_change"]).abs()
    assert set(names(ax)) == set(error.nlargest(4).index)
    (dots,) = [line for line in ax.lines if line.get_linestyle() == "None" and len(line.get_xdata()) == 50]
    np.testing.assert_allclose(dots.get_xdata(), table["observed_change"])
    np.testing.assert_allclose(dots.get_ydata(), table["predicted_change"])
    (scores,) = [text.get_text() for text in ax.texts if text.get_gid() == "scores"]
    r = np.corrcoef(table["observed_change"], table["predicted_change"])[0, 1]
    assert scores == f"r = {r:.2f}\nmean error {error.mean():.2g}"


def test_the_models_control_is_drawn_where_it_was_sampled(fitted, predicted):
    """So that a model whose control is off, and which predicts no change, does not look like a success."""
    control = predicted[predicted.obs["condition"] == HELD_OUT].copy()
    control.obs["condition"] = "control"
    both = ad.concat([predicted, control], index_unique="-")

    def crosses(**arguments):
        (ax,) = scgim.pl.agreement(fitted, conditions=HELD_OUT, **arguments)
        assert_legible(ax.figure)
        return [line.get_xydata() for line in ax.lines if line.get_gid() == "control"]

    (drawn_crosses,) = crosses(predicted=both)
    table = scgim.get.changes(fitted, both, conditions=HELD_OUT)
    np.testing.assert_allclose(drawn_crosses, table[["observed_change", "predicted_change"]], atol=1e-5)
    assert crosses(predicted=predicted) == []
    assert crosses(predicted=both, reference="predicted") == []


def test_a_panel_per_condition_in_the_order_of_doses(fitted, predicted):
    axes = scgim.pl.agreement(fitted, predicted, conditions=[HELD_OUT, "Dacinostat_10", "Belinostat_100"], n_named=0)
    titles = ["Belinostat, 100 nM", "Dacinostat, 10 nM", "Dacinostat, 10,000 nM (held out)"]
    assert [ax.get_title() for ax in axes] == titles
    assert all(names(ax) == [] for ax in axes)


def test_symbols_and_files(fitted, predicted, tmp_path):
    adata = fitted.copy()
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    ax = scgim.pl.changes(adata, predicted, genes="S1", gene_symbols="symbol", save=tmp_path / "changes.svg")
    assert columns(ax) == ["S1"]
    (ax,) = scgim.pl.agreement(
        adata, predicted, conditions=HELD_OUT, gene_symbols="symbol", save=tmp_path / "agreement.svg"
    )
    assert names(ax) and all(name.startswith("S") and name[1:].isdigit() for name in names(ax))
    assert all("<svg" in (tmp_path / f"{name}.svg").read_text() for name in ("changes", "agreement"))


def test_axes_of_the_user_keep_what_they_hold(fitted, predicted):
    figure, (first, second) = plt.subplots(1, 2, figsize=(14, 4), layout="constrained")
    line = first.axhline(1.0)
    assert scgim.pl.changes(fitted, predicted, n_genes=8, ax=first) is first
    (returned,) = scgim.pl.agreement(fitted, predicted, conditions=HELD_OUT, ax=second)
    assert returned is second and line in first.lines
    assert plt.get_fignums() == [figure.number]
    assert overlapping_texts(drawn_texts(figure)) == []
    with pytest.raises(ValueError, match="1 axes, but 16 panels"):
        scgim.pl.agreement(fitted, predicted, ax=second)


def test_nothing_is_written(fitted, predicted):
    before, sampled = fitted.copy(), predicted.copy()
    scgim.pl.changes(fitted, predicted, n_genes=3)
    scgim.pl.agreement(fitted, predicted, conditions=HELD_OUT)
    assert_same_adata(fitted, before)
    assert_same_adata(predicted, sampled)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"conditions": "Dacinostat_1000000"}, ValueError, "Did you mean 'Dacinostat_10000'"),
        ({"genes": "LDLRR"}, ValueError, "Did you mean 'LDLR'"),
        ({"n_genes": 0}, ValueError, "n_genes"),
        ({"reference": "own"}, ValueError, "reference='own' is unknown"),
        ({"gene_symbols": "symbol"}, KeyError, "symbol"),
        ({"key": "other"}, KeyError, "other"),
    ],
)
def test_errors_say_what_to_do(fitted, predicted, change, error, message):
    with pytest.raises(error, match=message):
        scgim.pl.changes(fitted, predicted, **change)
    assert plt.get_fignums() == []


def test_what_cannot_be_compared_is_refused(fitted, predicted):
    with pytest.raises(ValueError, match="predicted lacks the modelled genes 'ANGPTL4'"):
        scgim.pl.changes(fitted, predicted[:, 1:])
    control = predicted.copy()
    control.obs["condition"] = "control"
    with pytest.raises(ValueError, match="The control does not change"):
        scgim.get.changes(fitted, control)


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_legible(fitted, predicted, style):
    with plt.style.context(style):
        assert_legible(scgim.pl.changes(fitted, predicted).figure)
        assert_legible(scgim.pl.agreement(fitted, predicted, conditions=HELD_OUT, n_named=12)[0].figure)
        four = [HELD_OUT, "Dacinostat_1000", "Belinostat_10000", "Givinostat_10"]
        assert_legible(scgim.pl.agreement(fitted, predicted, conditions=four)[0].figure)


def test_legible_with_long_names_and_many_genes():
    drug = "Trichostatin A (an inhibitor of the histone deacetylase classes I and II)"
    for genes in ([*LONG_GENES, "A"], gene_names(100)):
        adata, predicted = make_fit(genes=genes, perturbations=(drug, "B+C"), held_out=None, cells=10, control_cells=10)
        assert_legible(scgim.pl.changes(adata, predicted, n_genes=100).figure)
        assert_legible(scgim.pl.agreement(adata, predicted, conditions=f"{drug}_10000", n_named=20)[0].figure)
