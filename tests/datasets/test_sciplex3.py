"""Loading the real screen: small files in scPerturb's format, a local server instead of the network."""

from __future__ import annotations

import hashlib
import http.server
import threading

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgim.datasets import _sciplex3, sciplex3

# The files below have two genes of one name, as symbols do; anndata says so on reading.
pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")

DRUGS = ("Belinostat (PXD101)", "Quisinostat (JNJ-26481585) 2HCl", "(+)-JQ1", "Busulfan ")


def scperturb_like(n_cells=120, seed=0):
    """Cells as scPerturb's file has them: categories, unassigned cells, genes of two species."""
    rng = np.random.default_rng(seed)
    drugs = np.array([*DRUGS, "control"], dtype=object)[np.arange(n_cells) % 5]
    doses = np.array([10.0, 100.0, 1_000.0, 10_000.0])[rng.integers(0, 4, n_cells)]
    doses[drugs == "control"] = 0.0
    obs = pd.DataFrame(
        {
            "cell_line": np.array(["A549", "K562", "MCF7"], dtype=object)[rng.integers(0, 3, n_cells)],
            "perturbation": drugs,
            "dose_value": doses,
            "dose_unit": "nM",
            "replicate": np.array(["rep1", "rep2"], dtype=object)[rng.integers(0, 2, n_cells)],
            "plate": np.arange(n_cells) % 7,
        },
        index=[f"A01_{cell}" for cell in range(n_cells)],
    )
    for column in ("cell_line", "perturbation", "dose_unit", "replicate"):
        obs[column] = pd.Categorical(obs[column], categories=[*sorted(set(obs[column])), "never used"])
    obs.iloc[:6, obs.columns.get_indexer(["perturbation", "dose_value", "replicate"])] = np.nan
    counts = sparse.csr_matrix(rng.poisson(0.5, size=(n_cells, 9)), dtype=np.int64)
    var = pd.DataFrame(
        {"ensembl_id": [f"ENSG0000000000{gene}" for gene in range(7)] + ["ENSMUSG00000000001"] * 2},
        index=pd.Index(["TSPAN6", "TNMD", "DPM1", "SCYL3", "DPM1", "FGR", "CFH", "Gnai3", "Pbsn"], name="gene_symbol"),
    )
    return anndata.AnnData(counts, obs=obs, var=var)


@pytest.fixture
def original():
    return scperturb_like()


@pytest.fixture
def write(tmp_path):
    def write_(adata, name="sciplex3.h5ad"):
        adata.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write_


def test_columns_are_uniform_and_counts_untouched(original, write):
    adata = sciplex3(path=write(original))
    assigned = original.obs["perturbation"].notna().to_numpy()
    assert list(adata.obs_names) == list(original.obs_names[assigned])
    assert set(adata.obs["perturbation"]) == {"Belinostat", "Quisinostat", "(+)-JQ1", "Busulfan", "control"}
    assert set(adata.obs["product_name"]) == {name.strip() for name in (*DRUGS, "control")}
    assert adata.obs["dose_value"].dtype == float
    assert np.array_equal(adata.obs["dose_value"], original.obs["dose_value"][assigned])
    for column in ("cell_line", "perturbation", "dose_unit", "replicate"):
        assert "never used" not in adata.obs[column].cat.categories
    assert (adata.obs["plate"] == original.obs["plate"][assigned]).all()
    assert adata.X.format == "csr"
    assert np.array_equal(adata.X.toarray(), original.X.toarray()[assigned][:, :7])
    assert adata.var_names.is_unique
    assert not adata.var["ensembl_id"].str.startswith("ENSMUSG").any()
    assert adata.uns["source"].startswith("SciPlex3")


def test_the_result_can_be_written(original, write, tmp_path):
    adata = sciplex3(path=write(original), cell_line="A549")
    adata.write_h5ad(tmp_path / "again.h5ad")
    again = sciplex3(path=tmp_path / "again.h5ad")
    assert list(again.obs["perturbation"]) == list(adata.obs["perturbation"])
    assert (again.X != adata.X).nnz == 0


@pytest.mark.parametrize("name", ["Quisinostat", "Quisinostat (JNJ-26481585) 2HCl"])
def test_one_line_and_one_drug_with_its_vehicle(original, write, name):
    adata = sciplex3(path=write(original), cell_line="K562", perturbations=name)
    assert set(adata.obs["cell_line"]) == {"K562"}
    assert set(adata.obs["perturbation"].cat.categories) == {"Quisinostat", "control"}
    expected = (original.obs["cell_line"] == "K562") & original.obs["perturbation"].isin(
        ["Quisinostat (JNJ-26481585) 2HCl", "control"]
    )
    assert adata.n_obs == expected.sum() > 0


def test_several_lines_and_drugs(original, write):
    adata = sciplex3(path=write(original), cell_line=["A549", "MCF7"], perturbations=["Busulfan", "(+)-JQ1"])
    assert set(adata.obs["cell_line"]) == {"A549", "MCF7"}
    assert set(adata.obs["perturbation"]) == {"Busulfan", "(+)-JQ1", "control"}


def test_units_and_text_doses_become_nanomolar(original, write):
    file = original.copy()
    unit = np.array(["nM", "uM", "µM", "mM"], dtype=object)[np.arange(file.n_obs) % 4]
    factor = pd.Series(unit).map({"nM": 1.0, "uM": 1e-3, "µM": 1e-3, "mM": 1e-6}).to_numpy()
    values = file.obs["dose_value"].to_numpy() * factor
    file.obs["dose_unit"] = pd.Categorical(unit)
    file.obs["dose_value"] = pd.Categorical([str(value) for value in values])
    adata = sciplex3(path=write(file))
    expected = original.obs["dose_value"][original.obs["perturbation"].notna()]
    assert np.array_equal(adata.obs["dose_value"], expected)
    assert set(adata.obs["dose_unit"]) == {"nM"}


@pytest.mark.parametrize("label", ["Vehicle", "DMSO", "Control"])
def test_other_labels_of_the_vehicle(original, write, label):
    original.obs["perturbation"] = original.obs["perturbation"].cat.rename_categories({"control": label})
    # Some versions leave the dose of the vehicle out.
    original.obs.loc[original.obs["perturbation"] == label, "dose_value"] = np.nan
    adata = sciplex3(path=write(original))
    control = adata.obs["perturbation"] == "control"
    assert control.sum() == (original.obs["perturbation"] == label).sum() > 0
    assert (adata.obs.loc[control, "dose_value"] == 0).all()
    assert label not in set(adata.obs["perturbation"])


def test_synonyms_that_would_merge_two_drugs_are_kept(original, write):
    original.obs["perturbation"] = original.obs["perturbation"].cat.rename_categories({"(+)-JQ1": "Belinostat (other)"})
    adata = sciplex3(path=write(original))
    assert {"Belinostat (PXD101)", "Belinostat (other)", "Quisinostat"} < set(adata.obs["perturbation"])


def test_dense_counts(original, write):
    dense = original.copy()
    dense.X = dense.X.toarray()
    adata = sciplex3(path=write(dense), cell_line="A549")
    assert np.array_equal(adata.X.toarray(), sciplex3(path=write(original), cell_line="A549").X.toarray())


def test_errors_list_what_there_is(original, write):
    file = write(original)
    with pytest.raises(ValueError, match=r"cell_line = \['HeLa'\] not found.*'A549', 'K562', 'MCF7'"):
        sciplex3(path=file, cell_line="HeLa")
    with pytest.raises(ValueError, match=r"\['Aspirin'\] not found.*Belinostat.*Quisinostat"):
        sciplex3(path=file, perturbations=["Busulfan", "Aspirin"])
    with pytest.raises(ValueError, match="perturbations"):
        sciplex3(path=file, perturbations=[])


def test_other_versions_columns_are_named(original, write):
    original.obs = original.obs.rename(columns={"perturbation": "product_name", "dose_value": "dose"})
    with pytest.raises(KeyError, match=r"lacks \['perturbation', 'dose_value'\].*product_name.*rename"):
        sciplex3(path=write(original))


def test_versions_with_shifted_gene_names_are_refused(original, write):
    shifted = original.copy()
    shifted.var["ensembl_id"] = ["id gene_short_name", *shifted.var["ensembl_id"][:-1]]
    with pytest.raises(ValueError, match=r"before 1\.4"):
        sciplex3(path=write(shifted))


def test_bad_doses_and_units(original, write):
    words = original.copy()
    words.obs["dose_value"] = ["high" if value == 10_000 else str(value) for value in words.obs["dose_value"]]
    with pytest.raises(ValueError, match=r"dose_value.*'high'"):
        sciplex3(path=write(words))
    units = original.copy()
    units.obs["dose_unit"] = "mg"
    with pytest.raises(ValueError, match=r"dose_unit.*'mg'"):
        sciplex3(path=write(units))


def test_a_file_without_assigned_cells(original, write):
    original.obs["perturbation"] = pd.Categorical([None] * original.n_obs, categories=["control"])
    with pytest.raises(ValueError, match="no cell has"):
        sciplex3(path=write(original))


def test_a_missing_or_broken_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5ad"):
        sciplex3(path=tmp_path / "nothing.h5ad")
    (tmp_path / "broken.h5ad").write_bytes(b"not an h5ad file")
    with pytest.raises(OSError, match="cannot be read as an h5ad"):
        sciplex3(path=tmp_path / "broken.h5ad")


@pytest.fixture
def served(original, write, tmp_path, monkeypatch):
    """Serve a small file on this machine in place of the real one."""
    pytest.importorskip("pooch")
    file = write(original, _sciplex3.FILE_NAME)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        requests = 0

        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, directory=str(tmp_path), **keywords)

        def do_GET(self):
            Quiet.requests += 1
            super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(_sciplex3, "URL", f"http://127.0.0.1:{server.server_port}/{file.name}")
    monkeypatch.setattr(_sciplex3, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    yield Quiet
    server.shutdown()
    thread.join()
    server.server_close()


def test_downloads_once_and_checks(served, original, tmp_path):
    cache = tmp_path / "cache"
    adata = sciplex3(cache_dir=cache, cell_line="A549")
    again = sciplex3(cache_dir=cache, cell_line="A549")
    assert served.requests == 1
    assert (adata.X != again.X).nnz == 0
    assert adata.n_obs > 0
    # A file that changed on disk is fetched again rather than read.
    (cache / _sciplex3.FILE_NAME).write_bytes(b"tampered")
    assert sciplex3(cache_dir=cache, cell_line="A549").n_obs == adata.n_obs
    assert served.requests == 2


def test_a_download_with_another_checksum_is_refused(served, tmp_path, monkeypatch):
    monkeypatch.setattr(_sciplex3, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"not the expected file.*path="):
        sciplex3(cache_dir=tmp_path / "cache")


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")

    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(OSError, match=r"no route to host.*zenodo.*path="):
        sciplex3(cache_dir=tmp_path)


@pytest.mark.shared_data
def test_reads_the_stand_in(shared_data):
    file = shared_data / "sciplex3_standin.h5ad"
    if not file.is_file():
        pytest.skip(f"development data absent: {file}")
    adata = sciplex3(path=file, cell_line="A549", perturbations=["Dacinostat"])
    sizes = adata.obs.groupby(["perturbation", "dose_value"], observed=True).size()
    assert sizes.to_dict() == {
        ("Dacinostat", 10.0): 231,
        ("Dacinostat", 100.0): 175,
        ("Dacinostat", 1_000.0): 115,
        ("Dacinostat", 10_000.0): 108,
        ("control", 0.0): 3_000,
    }
