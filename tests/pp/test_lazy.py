"""`prepare` of cells that stay on disk: the same answer as in memory, no matrix held, clear errors."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata.experimental import read_elem_lazy
from example_cells import SMALL, assert_same, dense, drug_cells, snapshot

import scgim
from scgim.data import PerturbationData
from scgim.pp import _matrix, prepare

array = pytest.importorskip("dask.array", reason="the extra lazy is not installed")

KINDS = {"dense": np.asarray, "csr": sp.csr_matrix, "csc": sp.csc_matrix}
ARGUMENTS: dict[str, Any] = {**SMALL, "groupby": "line", "progress": False}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles for a few hundred cells."""
    monkeypatch.setattr(_matrix, "PLACES", 30 * 130)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cell lines, some of whose cells are in no group, in every kind of file."""
    folder, cells = tmp_path_factory.mktemp("files"), drug_cells(lines=("A549", "K562"))
    cells.obs.loc[cells.obs_names[::7], "line"] = np.nan
    cells.obsm["pca"] = np.ones((cells.n_obs, 2))
    for name, kind in KINDS.items():
        stored = cells.copy()
        stored.X = kind(stored.X)
        stored.write_h5ad(folder / f"{name}.h5ad")
        stored.write_zarr(folder / f"{name}.zarr")
    return folder


@pytest.fixture(scope="module")
def cells(folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / "dense.h5ad")


@pytest.fixture(scope="module")
def reference(cells: ad.AnnData) -> ad.AnnData:
    return prepare(cells, copy=True, **ARGUMENTS)


def with_lazy_x(path: Path, chunks: tuple[int | None, int | None]) -> ad.AnnData:
    """Tables in memory, X a Dask array."""
    if path.suffix == ".zarr":
        adata, element = ad.read_zarr(path), zarr.open(path, mode="r")["X"]
        adata.X = read_elem_lazy(element, chunks=chunks)
        return adata
    adata = ad.read_h5ad(path)
    with h5py.File(path) as file:
        adata.X = read_elem_lazy(file["X"], chunks=chunks)
    return adata


def opened(folder: Path, kind: str, how: str) -> ad.AnnData:
    if how.startswith("backed"):
        return ad.read_h5ad(folder / f"{kind}.h5ad", backed=how.split()[1])
    if how.startswith("read_lazy"):
        pytest.importorskip("xarray")
        from anndata.experimental import read_lazy

        return read_lazy(folder / f"{kind}.{how.split()[1]}")
    return with_lazy_x(folder / f"{kind}.{how}", {"dense": (50, 7), "csr": (50, 30), "csc": (None, 7)}[kind])


def assert_same_answer(found: ad.AnnData, expected: ad.AnnData) -> None:
    """Genes, scores, features, records and values; the size factors are written of lazy cells only."""
    one, two = snapshot(found), snapshot(expected)
    extra = [column for column in one["obs"] if column.endswith("_size_factor")]
    one["obs"] = one["obs"].drop(columns=extra)
    for name in ("type", "is_view"):
        one.pop(name), two.pop(name)
    assert_same(one, two)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *((kind, how) for kind in KINDS for how in ("backed r", "h5ad", "zarr")),
        *(("csr", how) for how in ("backed r+", "read_lazy h5ad", "read_lazy zarr")),
    ],
)
def test_the_answer_is_that_of_cells_in_memory(kind: str, how: str, folder: Path, reference: ad.AnnData) -> None:
    adata = opened(folder, kind, how)
    assert prepare(adata, **ARGUMENTS) is None
    assert not adata.isbacked and isinstance(adata.obs, pd.DataFrame)
    assert all(isinstance(values, array.Array) for values in (adata.X, adata.layers["counts"]))
    assert_same_answer(adata, reference)
    for line in ("A549", "K562"):
        modelled = reference.obs[f"gim_{line}_condition"].notna().to_numpy()
        size = adata.obs[f"gim_{line}_size_factor"].to_numpy()
        assert np.isnan(size[~modelled]).all()
        scaled = np.log1p(dense(reference.layers["counts"])[modelled] / size[modelled, None])
        np.testing.assert_allclose(dense(reference.X)[modelled], scaled, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_in_memory_change_nothing(kind: str, cells: ad.AnnData, reference: ad.AnnData) -> None:
    other = cells.copy()
    other.X = KINDS[kind](other.X)
    assert_same_answer(prepare(other, copy=True, **ARGUMENTS), reference)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_than_a_tile_is_read_at_once(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata, sizes, cells = opened(folder, kind, "backed r"), [], []
    read = _matrix._read

    def watched(*args: Any) -> Any:
        values = read(*args)
        sizes.append(values.shape[0] * values.shape[1])
        cells.append(values.shape[0] * (values.shape[1] / adata.n_vars))
        return values

    monkeypatch.setattr(_matrix, "_read", watched)
    prepare(adata, **ARGUMENTS)
    assert max(sizes) <= _matrix.PLACES
    assert sum(cells) == pytest.approx(3 * adata.n_obs)  # three passes


def test_a_view_of_a_backed_file(cells: ad.AnnData, folder: Path) -> None:
    whole = ad.read_h5ad(folder / "csr.h5ad", backed="r")
    rows = np.arange(5, 370)
    view, expected = whole[rows, 2:], prepare(cells[rows, 2:].copy(), copy=True, **ARGUMENTS)
    prepare(view, **ARGUMENTS)
    assert_same_answer(view, expected)
    assert whole.isbacked
    np.testing.assert_array_equal(dense(whole.X[:]), cells.X)
    assert "gim" not in whole.uns


def test_raw_and_log_normalised_values_stay_lazy(folder: Path, reference: ad.AnnData, tmp_path: Path) -> None:
    logged = reference.copy()
    logged.X = sp.csr_matrix(logged.X)
    del logged.layers["counts"], logged.uns["gim"]
    logged.raw = logged
    logged.write_h5ad(tmp_path / "logged.h5ad")
    backed = ad.read_h5ad(tmp_path / "logged.h5ad", backed="r")
    arguments = ARGUMENTS | {"input": "log1p", "key_added": "other"}
    prepare(backed, **arguments)
    expected = prepare(ad.read_h5ad(tmp_path / "logged.h5ad"), copy=True, **arguments)
    assert isinstance(backed.raw.X, array.Array)
    np.testing.assert_array_equal(dense(backed.raw.X), dense(logged.X))
    assert "counts" not in backed.layers
    assert_same_answer(backed, expected)


def test_later_steps_and_a_second_preparation(folder: Path, reference: ad.AnnData, tmp_path: Path) -> None:
    lazy, memory = opened(folder, "csr", "read_lazy h5ad"), reference.copy()
    prepare(lazy, **ARGUMENTS)
    for adata in (lazy, memory):
        scgim.pp.hold_out(adata, hold_out={"Belinostat": 1000.0}, group="A549")
        scgim.pp.select_markers(adata, n_genes=5, group="K562")
        scgim.pp.features(adata, features="potency", group="K562")
    assert_same_answer(lazy, memory)
    lazy.write_h5ad(tmp_path / "again.h5ad")
    again = opened(tmp_path, "again", "read_lazy h5ad")
    prepare(again, **ARGUMENTS | {"layer": "counts"})
    assert_same_answer(again, prepare(reference, copy=True, **ARGUMENTS | {"layer": "counts"}))
    loaded = again.to_memory()
    prepare(loaded, **ARGUMENTS | {"layer": "counts"})
    assert not [column for column in loaded.obs if column.endswith("_size_factor")]


def test_a_fit_is_given_the_same(tmp_path: Path) -> None:
    memory = drug_cells(n_genes=12)
    memory.X[::5, :6] = 0  # cells that are empty in the modelled genes: only the other genes tell how deep they are
    memory.write_h5ad(tmp_path / "cells.h5ad")
    lazy = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for adata in (memory, lazy):
        prepare(adata, progress=False, **SMALL | {"genes": [f"GENE{j}" for j in range(6)], "min_counts": 1})
    small = lazy[:, lazy.var["gim"].to_numpy()].to_memory()
    assert small.n_vars == 6 and isinstance(small.X, np.ndarray)
    expected = PerturbationData.from_anndata(memory, counts=True)
    for adata in (lazy, small):
        found = PerturbationData.from_anndata(adata, counts=True)
        for name in ("x", "counts", "codes", "valid"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        np.testing.assert_allclose(found.size_factor, expected.size_factor, rtol=1e-6)


def broken(adata: ad.AnnData, monkeypatch: pytest.MonkeyPatch, after: int, harm: Any) -> ad.AnnData:
    """`harm` comes to the file after so many tiles."""
    read, done = _matrix._read, []

    def failing(*args: Any) -> Any:
        done.append(1)
        if len(done) == after:
            harm()
        return read(*args)

    monkeypatch.setattr(_matrix, "_read", failing)
    return adata


@pytest.fixture
def own_copy(folder: Path, tmp_path: Path) -> Path:
    for suffix, copy in ((".h5ad", shutil.copy), (".zarr", shutil.copytree)):
        copy(folder / f"csr{suffix}", tmp_path / f"csr{suffix}")
    return tmp_path


def tables(adata: ad.AnnData) -> dict[str, Any]:
    return {"obs": adata.obs.copy(), "var": adata.var.copy(), "uns": dict(adata.uns), "layers": sorted(adata.layers)}


def cut_off(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize("after", [2, 6, 10])
@pytest.mark.parametrize("harm", ["vanishes", "is cut off"])
def test_a_file_that_breaks_midway(harm: str, after: int, own_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own_copy / "csr.h5ad"
    adata = with_lazy_x(path, (50, 30))
    before, x = tables(adata), adata.X
    broken(adata, monkeypatch, after, path.unlink if harm == "vanishes" else lambda: cut_off(path))
    with pytest.raises(ValueError, match=r"adata.X, cells \d+ to \d+ cannot be read.*open the whole file again"):
        prepare(adata, **ARGUMENTS)
    assert_same(tables(adata), before)
    assert adata.X is x


@pytest.mark.parametrize("after", [6, 10])
def test_a_folder_that_vanishes_midway(after: int, own_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing chunk of zarr reads as zeros, without an error."""
    adata = with_lazy_x(own_copy / "csr.zarr", (50, 30))
    before = tables(adata)
    broken(adata, monkeypatch, after, lambda: shutil.rmtree(own_copy / "csr.zarr"))
    with pytest.raises(
        ValueError, match=r"adata.X, cells \d+ to \d+(: \d+ cells with values are now empty| cannot be)"
    ):
        prepare(adata, **ARGUMENTS)
    assert_same(tables(adata), before)


@pytest.mark.parametrize("how", ["vanished", "is cut off"])
def test_a_backed_file_that_is_gone_or_cut_off(how: str, own_copy: Path) -> None:
    path = own_copy / "csr.h5ad"
    adata = ad.read_h5ad(path, backed="r")
    path.unlink() if how == "vanished" else cut_off(path)
    before = tables(adata)
    with pytest.raises(ValueError, match=r"csr.h5ad cannot be read.*open the whole file again"):
        prepare(adata, **ARGUMENTS)
    assert_same(tables(adata), before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 0.5])
def test_a_bad_value_is_found_in_its_chunk(bad: float, own_copy: Path, cells: ad.AnnData) -> None:
    path = own_copy / "csr.h5ad"
    with h5py.File(path, "r+") as file:
        place = int(file["X/indptr"][201])
        file["X/data"][place] = bad
        gene = cells.var_names[int(file["X/indices"][place])]
    backed = ad.read_h5ad(path, backed="r")
    before = tables(backed)
    with pytest.raises(
        ValueError, match=rf"adata.X, cells 130 to 259: 1 value .*cell '{cells.obs_names[201]}', gene '{gene}'"
    ):
        prepare(backed, **ARGUMENTS)
    assert backed.isbacked
    assert_same(tables(backed), before)
    assert backed.X[:].shape == cells.shape


def test_other_counts_on_disk_are_refused(folder: Path) -> None:
    adata = with_lazy_x(folder / "csr.h5ad", (50, 30))
    adata.layers["counts"] = adata.X
    prepare(adata.copy(), **ARGUMENTS)
    adata.layers["counts"] = adata.X + (array.arange(adata.n_obs, chunks=50) == 99)[:, None] * array.ones(30, chunks=30)
    with pytest.raises(ValueError, match=r"layers\['counts'\].*differs"):
        prepare(adata, **ARGUMENTS)


def test_without_dask_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = ad.read_h5ad(folder / "csr.h5ad", backed="r")
    before = tables(adata)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r'dask is needed.*pip install "scgim\[lazy\]"'):
        prepare(adata, **ARGUMENTS)
    assert adata.isbacked
    assert_same(tables(adata), before)


def test_a_bar_is_shown_for_files_alone(folder: Path, cells: ad.AnnData, capfd: pytest.CaptureFixture[str]) -> None:
    for adata, shown in ((ad.read_h5ad(folder / "csr.h5ad", backed="r"), True), (cells.copy(), False)):
        prepare(adata, **ARGUMENTS | {"progress": True})
        told = capfd.readouterr().err
        assert all((f"prepare: {name}" in told) == shown for name in ("depths", "gene statistics", "modelled genes"))
