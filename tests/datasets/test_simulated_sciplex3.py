"""The embedded data set: format, truth, signal, files."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgim
from scgim.datasets import SMILES, simulated_sciplex3


@pytest.fixture(scope="module")
def adata():
    return simulated_sciplex3()


def log_means(adata):
    """Mean log-normalised expression per (perturbation, dose)."""
    totals = adata.obs["ncounts"].to_numpy()
    control = (adata.obs["perturbation"] == "control").to_numpy()
    x = np.log1p(adata.X.toarray() / totals[:, None] * np.median(totals[control]))
    groups = adata.obs.groupby(["perturbation", "dose_value"], observed=True).indices
    return {key: x[rows].mean(axis=0) for key, rows in groups.items()}


def test_has_scperturbs_columns_and_the_screens_design(adata):
    assert {"cell_line", "perturbation", "dose_value", "dose_unit", "replicate", "smiles"} <= set(adata.obs)
    assert adata.obs["perturbation"].dtype == "category"
    design = adata.obs.groupby(["perturbation", "dose_value"], observed=True).size()
    assert set(design.index) == {(drug, dose) for drug in SMILES for dose in (10, 100, 1_000, 10_000)} | {
        ("control", 0.0)
    }
    assert 800 <= design["control", 0.0] <= 1_000
    assert design.drop("control").between(60, 300).all()
    assert set(adata.obs["replicate"]) == {"rep1", "rep2"}
    assert set(adata.obs["dose_unit"]) == {"nM"}
    assert adata.obs_names.is_unique and adata.var_names.is_unique
    # In random order, as cells of a screen come.
    assert (adata.obs["perturbation"].to_numpy()[:200] != "control").any()


def test_counts_are_raw_sparse_and_realistic(adata):
    assert sparse.issparse(adata.X) and adata.X.format == "csr"
    assert (adata.X.data > 0).all()
    assert np.array_equal(adata.X.data, np.round(adata.X.data))
    assert np.array_equal(adata.obs["ncounts"], np.asarray(adata.X.sum(axis=1)).ravel())
    assert 0.7 < 1 - adata.X.nnz / np.prod(adata.shape) < 0.97
    control = adata[adata.obs["perturbation"] == "control"].X.toarray()
    control = control[:, control.mean(axis=0) > 0.5]
    mean, variance = control.mean(axis=0), control.var(axis=0)
    phi = (variance - mean) / mean**2
    assert 0.5 < np.median(phi) < 4
    assert 500 < np.median(adata.obs["ncounts"]) < 2_000


def test_truth_lies_inside_the_network(adata):
    network = adata.var["in_network"].to_numpy()
    assert network.sum() == 48
    graph, weights = adata.varp["true_graph"], adata.varp["true_weights"]
    rows, columns = graph.nonzero()
    assert network[rows].all() and network[columns].all()
    assert (graph != (weights != 0)).nnz == 0
    scgim.simulate.topological_order(graph.toarray())  # raises on a cycle
    truth = adata.uns["truth"]
    assert "simulated" in truth["note"]
    targets = truth["targets"]
    assert set(targets["perturbation"]) == set(SMILES)
    assert set(targets["gene"]) <= set(adata.var_names[network])
    per_drug = targets.groupby("perturbation")["gene"]
    assert (per_drug.nunique() == per_drug.size()).all()
    assert per_drug.size().between(1, 8).all()
    shared = set.intersection(*per_drug.agg(set))
    assert len(shared) == 4


def test_the_signal_is_in_the_network_and_follows_the_dose(adata):
    means = log_means(adata)
    network = adata.var["in_network"].to_numpy()
    control = means["control", 0.0]
    for drug in SMILES:
        shift = [np.linalg.norm((means[drug, dose] - control)[network]) for dose in (10, 100, 1_000, 10_000)]
        assert shift[3] > 3 * shift[0] or drug == "Quisinostat"  # the most potent one acts at 10 nM already
        assert shift[3] > 3
        background = np.abs(means[drug, 10_000] - control)[~network]
        assert np.quantile(background, 0.95) < 0.25
    steps = {
        drug: np.linalg.norm((means[drug, 10_000] - means[drug, 1_000])[network])
        for drug in ("Dacinostat", "Belinostat")
    }
    noise = np.linalg.norm((means["Dacinostat", 10.0] - control)[network])
    assert min(steps.values()) > 2 * noise  # the held-out top dose is not the next-lower one


def test_direct_targets_move_as_their_curves_say(adata):
    means = log_means(adata)
    control = means["control", 0.0]
    wrong = [
        row.gene
        for row in adata.uns["truth"]["targets"].itertuples()
        if (means[row.perturbation, 10_000] - control)[adata.var_names.get_loc(row.gene)] * row.maximum <= 0
    ]
    assert not wrong


def test_fold_changes_obey_the_structural_equations(adata):
    """A gene that is no target moves as its causes say: this fails if the graph is transposed."""
    network = np.flatnonzero(adata.var["in_network"])
    weights = adata.varp["true_weights"][network][:, network].toarray()
    targets = adata.uns["truth"]["targets"]
    depth = np.asarray(adata.X[:, np.flatnonzero(~adata.var["in_network"])].sum(axis=1)).ravel()
    groups = adata.obs.groupby(["perturbation", "dose_value"], observed=True).indices
    rate = {
        key: np.asarray(adata.X[rows][:, network].sum(axis=0)).ravel() / depth[rows].sum()
        for key, rows in groups.items()
    }
    observed, implied, transposed = [], [], []
    for drug in SMILES:
        fold = np.log(rate[drug, 10_000] / rate["control", 0.0])
        hit = targets.loc[targets["perturbation"] == drug, "gene"]
        free = ~np.isin(adata.var_names[network], hit)
        observed.append(fold[free])
        implied.append((2 * np.tanh(fold / 2) @ weights)[free])
        transposed.append((2 * np.tanh(fold / 2) @ weights.T)[free])
    observed = np.concatenate(observed)
    assert np.corrcoef(observed, np.concatenate(implied))[0, 1] > 0.9
    assert np.corrcoef(observed, np.concatenate(transposed))[0, 1] < 0.7


def test_background_genes_are_independent_of_the_drug_given_depth(adata):
    # Mean counts of the background per unit depth change by composition alone.
    background = ~adata.var["in_network"].to_numpy()
    totals = np.asarray(adata.X[:, np.flatnonzero(background)].sum(axis=1)).ravel()
    by_drug = pd.Series(totals).groupby(adata.obs["perturbation"].to_numpy()).mean()
    assert (by_drug / by_drug["control"]).between(0.9, 1.1).all()


def test_cell_lines_share_the_truth_and_differ_in_their_cells(adata):
    both = simulated_sciplex3(cell_lines=("A549", "MCF7"), n_genes=1_500)
    assert list(both.obs["cell_line"].cat.categories) == ["A549", "MCF7"]
    alone = both[both.obs["cell_line"] == "A549"]
    assert list(alone.obs_names) == list(adata.obs_names)
    assert (alone.X != adata.X).nnz == 0
    assert (both.varp["true_graph"] != adata.varp["true_graph"]).nnz == 0
    pd.testing.assert_frame_equal(both.uns["truth"]["targets"], adata.uns["truth"]["targets"])
    depth = both.obs.groupby("cell_line", observed=True)["ncounts"].median()
    assert depth["MCF7"] > 1.2 * depth["A549"]


def test_seeded():
    first, again, other = (simulated_sciplex3(n_genes=120, rng=seed) for seed in (1, 1, 2))
    assert (first.X != again.X).nnz == 0
    assert first.uns["truth"]["targets"].equals(again.uns["truth"]["targets"])
    assert not first.uns["truth"]["targets"].equals(other.uns["truth"]["targets"])


def test_survives_a_file(tmp_path):
    adata = simulated_sciplex3(n_genes=120)
    adata.write_h5ad(tmp_path / "simulated.h5ad")
    read = anndata.read_h5ad(tmp_path / "simulated.h5ad")
    assert (read.X != adata.X).nnz == 0
    assert (read.varp["true_weights"] != adata.varp["true_weights"]).nnz == 0
    before, after = adata.uns["truth"], read.uns["truth"]
    assert before["note"] == after["note"]
    pd.testing.assert_frame_equal(
        before["targets"].reset_index(drop=True), after["targets"].reset_index(drop=True), check_dtype=False
    )
    for column in adata.obs:
        assert list(read.obs[column]) == list(adata.obs[column])


def test_deeper_cells_have_more_counts_and_the_same_truth(adata):
    deep = simulated_sciplex3(depth_factor=10)
    assert 8 < deep.obs["ncounts"].median() / adata.obs["ncounts"].median() < 12
    assert (deep.varp["true_graph"] != adata.varp["true_graph"]).nnz == 0
    pd.testing.assert_frame_equal(deep.uns["truth"]["targets"], adata.uns["truth"]["targets"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell_lines": ("HeLa",)}, "HeLa"),
        ({"cell_lines": ()}, "cell_lines"),
        ({"cell_lines": ("A549", "A549")}, "distinct"),
        ({"n_genes": 50}, "n_genes"),
        ({"depth_factor": 0}, "depth_factor"),
        ({"depth_factor": float("nan")}, "depth_factor"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulated_sciplex3(**arguments)


@pytest.mark.parametrize(
    ("drug", "formula"),
    [
        ("Belinostat", "C15H14N2O4S"),
        ("Dacinostat", "C22H25N3O3"),
        ("Givinostat", "C24H27N3O4"),
        ("Quisinostat", "C21H26N6O2"),
    ],
)
def test_structures_have_the_drugs_formulas_and_a_hydroxamic_acid(drug, formula):
    chem = pytest.importorskip("rdkit.Chem")
    descriptors = pytest.importorskip("rdkit.Chem.rdMolDescriptors")
    molecule = chem.MolFromSmiles(SMILES[drug])
    assert descriptors.CalcMolFormula(molecule) == formula
    assert molecule.HasSubstructMatch(chem.MolFromSmarts("C(=O)N[OH]"))


@pytest.mark.shared_data
def test_resembles_the_stand_in(adata, shared_data):
    """Size of the top-dose effect and dispersion, against the semi-synthetic stand-in of the screen."""
    file = shared_data / "sciplex3_standin.h5ad"
    if not file.is_file():
        pytest.skip(f"development data absent: {file}")
    other = anndata.read_h5ad(file)
    other = other[other.obs["cell_line"] == "A549"].copy()
    other.obs["ncounts"] = np.asarray(other.X.sum(axis=1)).ravel()
    ours, theirs = log_means(adata), log_means(other)
    for drug in SMILES:
        size = [np.linalg.norm(means[drug, 10_000] - means["control", 0.0]) for means in (ours, theirs)]
        assert 0.4 < size[0] / size[1] < 1.5
