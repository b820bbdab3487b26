"""The one class of data: what goes in, what it is asked for, and what it refuses."""

from __future__ import annotations

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from small_fits import count_cells, prepared, prepared_counts

import scgim
from scgim.data import Condition, PerturbationData
from scgim.slots import Measured, read_entry

GENES = 3


def example(**changes) -> PerturbationData:
    """A at two doses, B, both together, and C without cells; features of the four parts."""
    labels = ["control", "A_1", "A_2", "B", "A_2+B", "C"]
    table = pd.DataFrame(
        {
            "condition": labels,
            "perturbation": ["control", "A", "A", "B", "A+B", "C"],
            "dose": [np.nan, 1.0, 2.0, np.nan, np.nan, np.nan],
            "is_control": [True] + [False] * 5,
        }
    )
    codes = np.repeat([4, 0, 1, 3], [3, 4, 2, 2])
    fields = {
        "x": np.random.default_rng(0).standard_normal((len(codes), GENES)),
        "codes": codes,
        "conditions": table,
        "part_features": np.array([[1, 0], [2, 0], [0, 1], [0, 5]]),
        "membership": [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]],
        "parts": ["A_1", "A_2", "B", "C"],
    }
    return PerturbationData(**(fields | changes))


def test_conditions_have_the_features_of_their_parts():
    data = example()
    pair = data.condition(4)
    assert (pair.label, pair.perturbation, pair.parts) == ("A_2+B", "A+B", ("A_2", "B"))
    np.testing.assert_array_equal(pair.part_features, [[2, 0], [0, 1]])
    np.testing.assert_array_equal(pair.features, [2, 1])
    np.testing.assert_array_equal(data.features, [[0, 0], [1, 0], [2, 0], [0, 1], [2, 1], [0, 5]])
    control = data.condition(0)
    assert control.is_control
    assert control.part_features.shape == (0, 2)
    assert not control.features.any()
    assert data.trained.tolist() == [1, 3, 4]
    assert data.n_cells.tolist() == [4, 2, 0, 2, 3, 0]


def test_without_membership_every_condition_is_a_part():
    data = example(part_features=np.arange(12).reshape(6, 2), membership=None, parts=None)
    assert data.condition(4).parts == ("A_2+B",)
    np.testing.assert_array_equal(data.condition(4).features, [8, 9])
    assert data.condition(0).is_control
    short = PerturbationData(data.x, data.codes, data.conditions, data.features)
    np.testing.assert_array_equal(short.membership, data.membership)
    assert scgim.baselines.TrainingData is PerturbationData
    assert scgim.baselines.Condition is Condition


def test_what_has_no_cells_is_left_out():
    known = np.full((4, GENES), np.nan)
    known[:, 1] = range(4)
    data = example(known_targets=known, valid=np.arange(11) % 2)
    used = data.without_empty()
    assert used.labels == ["control", "A_1", "B", "A_2+B"]
    assert used.parts == ("A_1", "A_2", "B")  # A_2 is part of the combination
    np.testing.assert_array_equal(used.membership, [[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1]])
    np.testing.assert_array_equal(used.known_targets[:, 1], [0, 1, 2])
    assert [used.labels[code] for code in used.codes] == [data.labels[code] for code in data.codes]
    np.testing.assert_array_equal(used.valid, data.valid)
    some = data.of_cells(np.arange(7))
    assert some.valid.tolist() == data.valid[:7].tolist()
    assert some.without_empty().labels == ["control", "A_2+B"]


def test_shifts_are_differences_of_means():
    data = example()
    rows, shifts = data.shifts()
    assert rows.tolist() == [1, 3, 4]
    np.testing.assert_allclose(shifts[1], data.x[data.codes == 3].mean(0) - data.x[data.control].mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros(3, int)}, r"`codes` integers \(cells,\)"),
        ({"codes": np.zeros(11)}, r"`codes` integers \(cells,\)"),
        ({"codes": np.arange(11)}, "must lie in 0 to 5"),
        ({"codes": np.ones(11, int)}, "no control cells"),
        ({"x": np.full((11, GENES), np.nan)}, "`x` has values that are not finite"),
        ({"part_features": np.full((4, 2), np.inf)}, "`part_features` has values that are not finite"),
        ({"part_features": np.zeros((2, 2))}, r"`part_features` must be \(parts, p\), here \(4, 2\), got \(2, 2\)"),
        (
            {"part_features": np.zeros((2, 2)), "membership": None, "parts": None},
            r"`part_features` must be \(conditions, p\)",
        ),
        ({"conditions": pd.DataFrame({"condition": ["a"]})}, r"lacks the columns \['dose', 'is_control'"),
        ({"parts": None}, "`membership` needs `parts`"),
        ({"parts": [(), ("A",), ("B",), ("A", "B")]}, "`parts` must be text"),
        ({"membership": np.ones((6, 3))}, r"`membership` must be \(conditions, parts\)"),
        ({"membership": np.ones((6, 4))}, "zeros for the control"),
        ({"membership": np.zeros((6, 4))}, "at least one part for all others"),
        ({"membership": np.vstack([np.zeros((1, 4)), np.full((5, 4), 0.5)])}, "must be 0 or 1"),
        ({"valid": np.zeros(3, bool)}, "`valid` must be"),
        ({"known_targets": np.zeros((6, GENES))}, r"`known_targets` must be \(parts, genes\)"),
        ({"known_values": np.zeros((4, 2))}, r"`known_values` must be \(parts, genes\)"),
        ({"counts": np.zeros((11, 2))}, r"`counts` must be \(cells, genes\)"),
        ({"counts": np.full((11, GENES), -1)}, "`counts`: .* negative .*cell '0', gene 0"),
        ({"counts": np.full((11, GENES), 0.5)}, "`counts`: .* not whole"),
        ({"counts": np.full((11, GENES), 2**24)}, r"`counts`: .* 2\^24 or more"),
        ({"size_factor": np.ones(3)}, r"`size_factor` must be \(cells\)"),
        ({"size_factor": np.zeros(11)}, "`size_factor` must be above 0"),
        ({"size_factor": np.full(11, np.nan)}, "`size_factor` must be above 0 and finite"),
        ({"batch": np.full(11, -1)}, "`batch` must be whole numbers from 0"),
        ({"batch": np.zeros(11)}, "`batch` must be whole numbers from 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        example(**change)


@pytest.mark.parametrize("pairs", [False, True])
def test_an_anndata_gives_its_training_and_validation_cells(pairs):
    adata = prepared("continuous", {"hold_out": ["C_10"], "valid_fraction": 0.2}, pairs=pairs)
    data, split = PerturbationData.from_anndata(adata), adata.obs["gim_split"].astype(str).to_numpy()
    trained = np.isin(split, ["train", "valid"])
    np.testing.assert_array_equal(data.x, adata[trained, adata.var["gim"]].X)
    np.testing.assert_array_equal(data.valid, split[trained] == "valid")
    assert data.valid.any()
    named = [data.labels[code] for code in data.codes]
    assert named == adata.obs["gim_condition"][trained].tolist()
    np.testing.assert_array_equal(data.part_features, adata.uns["gim"]["features"])
    assert "C_10" in data.labels
    assert "C_10" not in data.without_empty().labels
    asked = data.condition(data.labels.index("C_10"))
    found = scgim.baselines.prepared_condition(adata, "C_10")
    assert dataclasses.astuple(asked)[:3] == dataclasses.astuple(found)[:3]
    np.testing.assert_array_equal(asked.part_features, found.part_features)


def test_counts_of_an_anndata_are_read_with_sizes_and_batches(tmp_path):
    adata = prepared_counts({"hold_out": ["C_10"], "valid_fraction": 0.2})
    data = PerturbationData.from_anndata(adata, counts=True, batch_key="plate")
    used = adata[adata.obs["gim_split"].isin(["train", "valid"]).to_numpy()]
    np.testing.assert_array_equal(data.counts, used[:, used.var["gim"].to_numpy()].layers["counts"].toarray())
    others = used[:, used.var_names.str.startswith("other")].layers["counts"].toarray().sum(1)
    np.testing.assert_allclose(data.size_factor / data.size_factor[0], others / others[0], rtol=1e-5)
    assert (data.batches, data.batch.dtype.kind) == (("plate1", "plate2"), "i")
    assert [data.batches[code] for code in data.batch] == used.obs["plate"].tolist()
    assert PerturbationData.from_anndata(adata).counts is None
    # the same from any kind of file or array
    stored = adata.copy()
    stored.X, stored.layers["counts"] = stored.X.toarray(), stored.layers["counts"].toarray()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for other in (stored, backed, adata[:, ::-1].copy()):
        found = PerturbationData.from_anndata(other, counts=True, batch_key="plate")
        for name in ("counts", "size_factor", "batch"):
            np.testing.assert_array_equal(getattr(found, name), getattr(data, name))
    some = data.of_cells(np.arange(5))
    assert (len(some.counts), len(some.size_factor), len(some.batch), some.batches) == (5, 5, 5, data.batches)


def test_size_factors_are_known_of_cells_without_a_modelled_count_and_of_fewer_genes():
    adata = count_cells()
    dense = adata.X.toarray()
    dense[3:20, :10] = 0
    dense[3:20, 10:] += 1  # the genes that are not modelled
    adata.X = dense
    genes = [f"g{i}" for i in range(10)]
    scgim.pp.prepare(adata, dose_key="dose", genes=genes, min_cells=1, min_counts=1)
    others = adata.layers["counts"][:, 10:].sum(axis=1)
    for fewer in (adata, adata[:, [*genes, "other2"]].copy()):
        data = PerturbationData.from_anndata(fewer, counts=True)
        np.testing.assert_allclose(data.size_factor / data.size_factor[0], others / others[0], rtol=1e-5)
    message = r"17 cells without any count in the genes that are left.*Fit before genes are taken out"
    with pytest.raises(ValueError, match=message):
        PerturbationData.from_anndata(adata[:, genes].copy(), counts=True)


def test_cells_of_a_fit_and_later_ones_are_read_alike():
    adata = prepared_counts()
    entry, rows = read_entry(adata), np.arange(20)
    x = entry.expression(adata, rows)
    control = np.ones(20, dtype=bool)
    first = Measured.read(entry, adata, rows, x, size_key="depth", batch_key="plate", control=control)
    assert np.median(first.size_factor) == pytest.approx(1)
    later = Measured.read(entry, adata, rows[:7], x[:7], record=first.record)
    for name in ("counts", "size_factor", "batch"):
        np.testing.assert_array_equal(getattr(later, name), getattr(first, name)[:7])
    adata.obs["plate"] = np.where(np.arange(adata.n_obs) == 4, "plate9", adata.obs["plate"])
    with pytest.raises(ValueError, match=r"'plate9' had no cells in the fit, whose batches are 'plate1', 'plate2'"):
        Measured.read(entry, adata, rows, x, record=first.record)


def test_an_anndata_that_was_changed_is_refused():
    adata = prepared("continuous")
    with pytest.raises(KeyError, match=r"run scgim\.pp\.prepare"):
        PerturbationData.from_anndata(adata, key="other")
    with pytest.raises(ValueError, match=r"adata has \d+ of the \d+ cells"):
        PerturbationData.from_anndata(adata[1:].copy())
    assert len(PerturbationData.from_anndata(adata[1:].copy(), all_of_them=False).x)
    changed = adata.copy()
    changed.obs.loc[changed.obs["gim_condition"] == "A_1", "gim_split"] = "test"
    with pytest.raises(ValueError, match=r"gim_split.*was changed for 'A_1'"):
        PerturbationData.from_anndata(changed)
