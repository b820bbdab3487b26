"""What people may touch is never read back; what is read back is under one checksum."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from screens import SHORT, fitted_screen, screen

import scgim
from scgim.slots import checksum, open_record, seal

pytestmark = pytest.mark.usefixtures("quick_fits")


@pytest.fixture(scope="module")
def fit() -> ad.AnnData:
    return fitted_screen(screen(["control", "G1", "G2", "G1+G2"]), hold_out=["G1+G2"])


def results(adata: ad.AnnData) -> list[np.ndarray]:
    """Everything that is predicted, as arrays."""
    sampled = scgim.tl.sample_cells(adata, n=20)
    return [
        sampled.X,
        scgim.tl.counterfactual(adata, perturbation="G1+G2").X,
        scgim.tl.predict_targets(adata, perturbations=["G1", "G2"])["probability"].to_numpy(),
        scgim.tl.evaluate(adata, sampled, metrics=["mean_distance"])["value"].to_numpy(),
        scgim.tl.target_evidence(adata)["evidence"].to_numpy(),
    ]


def shuffle_tables(adata: ad.AnnData) -> None:
    for name in ("targets", "graph", "conditions", "parts"):
        adata.uns["gim"][name] = adata.uns["gim"][name].sample(frac=1, random_state=0)


def reverse_arrays(adata: ad.AnnData) -> None:
    for name in ("membership", "features", "feature_names"):
        adata.uns["gim"][name] = adata.uns["gim"][name][::-1].copy()


def write_into_arrays(adata: ad.AnnData) -> None:
    adata.uns["gim"]["features"] += 1
    adata.uns["gim"]["membership"][:] = 1


def edit_arguments(adata: ad.AnnData) -> None:
    adata.uns["gim"]["feature_spec"]["kind"] = "potency"
    adata.uns["gim"]["params"]["prepare"]["input"] = "continuous"
    adata.uns["gim"]["params"]["fit"]["settings"]["mechanism_hidden"] = int(1e9)
    adata.uns["gim"]["params"]["fit"]["settings"]["mechanism"] = "linear"


def remove_tables(adata: ad.AnnData) -> None:
    for name in set(adata.uns["gim"]) - {"format", "key", "state", "state_sha256"}:
        del adata.uns["gim"][name]


def mask(values: Any) -> Any:
    def change(adata: ad.AnnData) -> None:
        adata.var["gim"] = values(adata)

    return change


def add_genes(adata: ad.AnnData) -> ad.AnnData:
    """As an outer join leaves it: more rows in `var`, no value in the mask."""
    more = ad.AnnData(np.ones((adata.n_obs, 2), dtype=np.float32), adata.obs, pd.DataFrame(index=["x", "y"]))
    joined = ad.concat([adata, more], axis=1, join="outer", merge="first")
    joined.uns = adata.uns
    return joined


@pytest.mark.parametrize(
    "change",
    [
        shuffle_tables,
        reverse_arrays,
        write_into_arrays,
        edit_arguments,
        remove_tables,
        mask(lambda a: True),
        mask(lambda a: [None, *["yes"] * (a.n_vars - 1)]),
        mask(lambda a: np.where(np.arange(a.n_vars) < 5, np.nan, 1.0)),
        add_genes,
    ],
    ids=[
        *("tables shuffled", "arrays reversed", "arrays written into", "arguments edited", "tables removed"),
        *("all in the mask", "text in the mask", "gaps in the mask", "genes added"),
    ],
)
def test_predictions_do_not_depend_on_what_people_may_touch(fit: ad.AnnData, change: Any) -> None:
    adata = fit.copy()
    adata = change(adata) or adata
    for found, expected in zip(results(adata), results(fit), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "damage",
    [
        lambda uns: uns.update(state="text"),
        lambda uns: uns.update(state={}),
        lambda uns: uns.pop("state"),
        lambda uns: uns.pop("state_sha256"),
        lambda uns: uns.update(state_sha256=np.nan),
        lambda uns: uns.update(format=np.nan),
        lambda uns: uns.update(format=[2]),
        lambda uns: uns.update(format="two"),
        lambda uns: uns["state"].update(record=uns["state"]["record"].replace("10", "1000000000", 1)),
        lambda uns: uns["state"].update(record="{}"),
        lambda uns: uns["state"].pop("record"),
        lambda uns: uns["state"].update({"mechanisms.bias": "text"}),
        lambda uns: uns["state"].update({"mechanisms.bias": uns["state"]["mechanisms.bias"].astype(object)}),
        lambda uns: uns["state"].update({"mechanisms.bias": uns["state"]["mechanisms.bias"][:-1]}),
        lambda uns: uns["state"].pop("record.prepared.membership"),
    ],
)
def test_a_damaged_record_is_one_sentence(fit: ad.AnnData, damage: Any) -> None:
    adata = fit.copy()
    damage(adata.uns["gim"])
    for use in (
        lambda: scgim.tl.sample_cells(adata, n=2),
        lambda: scgim.tl.fit_gim(adata, **SHORT),
        lambda: scgim.get.graph(adata),
        lambda: scgim.pp.hold_out(adata, hold_out=None),
    ):
        with pytest.raises(ValueError, match="incomplete or changed"):
            use()


def test_a_record_survives_every_file(fit: ad.AnnData, tmp_path: Any) -> None:
    fit.write_h5ad(tmp_path / "fit.h5ad")
    fit.write_zarr(tmp_path / "fit.zarr")
    for read in (ad.read_h5ad(tmp_path / "fit.h5ad"), ad.read_zarr(tmp_path / "fit.zarr")):
        for found, expected in zip(results(read), results(fit), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_what_is_sealed_is_what_is_opened() -> None:
    table = pd.DataFrame({"name": ["a", "b/c"], "dose": [np.nan, 1.0], "control": [True, False]}, index=["r1", "r2"])
    content = {
        "table": table,
        "flags": np.array([[True, False]]),
        "none": None,
        "nested": {"a/b": (1, 2), "names": np.array(["x", "y"], dtype=object), "big": np.uint64(2**63)},
        "hashes": np.array([2**64 - 1], dtype=np.uint64),
    }
    state = seal(content, {"w": np.zeros((2, 1), dtype=np.float32)})
    opened = open_record(state, checksum(state))
    assert opened is not None
    found, weights = opened
    pd.testing.assert_frame_equal(found["table"], table, check_dtype=False, check_index_type=False)
    assert found["flags"].tolist() == [[True, False]]
    assert found["none"] is None
    assert found["nested"]["a/b"] == (1, 2)
    assert found["nested"]["names"].tolist() == ["x", "y"]
    assert found["hashes"].tolist() == [2**64 - 1]
    assert list(weights) == ["w"]
    assert open_record({**state, "w": np.ones((2, 1), dtype=np.float32)}, checksum(state)) is None


def test_the_record_is_a_copy(fit: ad.AnnData) -> None:
    """Writing into a table for people does not damage what predictions are made from."""
    features = np.ones((2, 2))
    state = seal({"features": features})
    features[:] = 0
    opened = open_record(state, checksum(state))
    assert opened is not None
    assert opened[0]["features"].all()
