"""An ensemble: probabilities are means over its members, which are kept, survive a file, and may fail."""

from __future__ import annotations

import importlib
from dataclasses import replace

import anndata as ad
import joblib
import numpy as np
import pytest
from small_fits import QUICK, fitted, fitted_counts, prepared

import scgim
from scgim._errors import InvalidType, InvalidValue
from scgim.tl._stored import load

ensemble = importlib.import_module("scgim.inference.ensemble")


@pytest.fixture(scope="module")
def three() -> ad.AnnData:
    return fitted(n=12, fit={"mechanism": "linear", "n_members": 3})


def probabilities(adata: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    return adata.varp["gim_edge_prob"].toarray(), adata.varm["gim_target_prob"]


def test_one_member_is_a_plain_fit():
    plain, one = fitted(n=12), fitted(n=12, fit={"n_members": 1})
    assert plain.uns["gim"]["state_sha256"] == one.uns["gim"]["state_sha256"]
    assert len(load(one).members) == 1


def test_probabilities_are_means_and_the_first_member_is_the_fit_to_all_cells(three):
    plain = fitted(n=12, fit={"mechanism": "linear"})
    members = load(three).members
    assert len(members) == 3
    np.testing.assert_array_equal(
        scgim.tl.sample_cells(three, perturbations=["A_10"], n=20).X,
        scgim.tl.sample_cells(plain, perturbations=["A_10"], n=20).X,
    )
    parts = [members[0].entry.parts_of(label) for label in members[0].entry.labels]
    targets = [one.interventions(parts).prob.numpy() for one in members]
    edges = [one.fitted.gim.graph.probabilities().detach().numpy() for one in members]
    own = three[:, members[0].entry.genes]
    np.testing.assert_allclose(probabilities(own)[0], np.mean(edges, axis=0), atol=1e-6)
    np.testing.assert_allclose(probabilities(own)[1].T, np.mean(targets, axis=0), atol=1e-6)
    assert not np.allclose(targets[1], targets[2])
    told = scgim.get.targets(three).query("condition == 'B_1'").set_index("gene")["probability"]
    np.testing.assert_allclose(told[members[0].entry.genes], np.mean(targets, 0)[members[0].entry.labels.index("B_1")])
    asked = scgim.tl.predict_targets(three, perturbations=["B_1"]).set_index("gene")["probability"]
    np.testing.assert_allclose(asked[told.index], told, atol=1e-6)


def test_the_graph_at_a_threshold_has_edges_of_some_members(three):
    probability = probabilities(three)[0]
    sizes = []
    for threshold in (0.15, 0.5, 0.9):
        graph = scgim.get.graph(three, threshold=threshold)
        sizes.append(graph.number_of_edges())
        for cause, effect, p in graph.edges(data="probability"):
            assert p >= threshold
            assert p == pytest.approx(probability[three.var_names.get_loc(cause), three.var_names.get_loc(effect)])
    assert sizes[0] >= sizes[1] >= sizes[2]
    assert scgim.get.graph(three).edges == scgim.get.graph(three, threshold=0.5).edges


def test_members_predict_cells_of_their_own(three):
    cells = scgim.tl.sample_cells(three, perturbations=["A_10", "control"], n=20, members=True)
    assert cells.n_obs == 3 * 2 * 20
    assert cells.obs_names.is_unique
    first = cells[cells.obs["gim_member"] == "0"]
    np.testing.assert_array_equal(first.X, scgim.tl.sample_cells(three, perturbations=["A_10", "control"], n=20).X)
    means = [cells[cells.obs["gim_member"] == m].X.mean(0) for m in "012"]
    assert not np.allclose(means[1], means[2])


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("make", [fitted, fitted_counts])
def test_members_survive_a_file(make, tmp_path):
    adata = make(n=12, fit={"n_members": 2})
    adata.write_h5ad(tmp_path / "fit.h5ad")
    again = ad.read_h5ad(tmp_path / "fit.h5ad")
    asked = {"perturbations": ["A_10"], "n": 10, "members": True}
    np.testing.assert_array_equal(*(scgim.tl.sample_cells(one, **asked).X for one in (adata, again)))
    for one, other in zip(probabilities(adata), probabilities(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_several_processes_give_the_same_as_one():
    results = []
    for jobs in (1, 2):
        adata = prepared(n=12)
        scgim.tl.fit_gim(adata, **QUICK, n_members=3, n_jobs=jobs)
        results.append(adata.uns["gim"]["state_sha256"])
    assert results[0] == results[1]


def test_a_member_does_not_depend_on_how_many_there_are(three):
    more = fitted(n=12, fit={"mechanism": "linear", "n_members": 2})
    for name, value in load(more).members[1].fitted.arrays().items():
        np.testing.assert_array_equal(value, load(three).members[1].fitted.arrays()[name])


def test_members_that_fail_are_counted_and_the_rest_goes_on(monkeypatch, caplog):
    fit, calls = ensemble.fit, []

    def sometimes(data, config, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise FloatingPointError("The fit stopped being finite at step 3")
        return fit(data, config, **kwargs)

    monkeypatch.setattr(ensemble, "fit", sometimes)
    adata = fitted(n=12, fit={"n_members": 4})
    assert len(load(adata).members) == 3
    (said,) = scgim.get.params(adata)["fit"]["failed_members"]
    assert "stopped being finite" in said
    assert any("1 of 4 members failed" in record.message for record in caplog.records)


def test_an_interruption_keeps_what_is_fitted(monkeypatch):
    fit, calls = ensemble.fit, []

    def interrupted(data, config, **kwargs):
        calls.append(1)
        result = fit(data, config, **kwargs)
        return replace(result, stopped="interrupted") if len(calls) == 2 else result

    monkeypatch.setattr(ensemble, "fit", interrupted)
    adata = fitted(n=12, fit={"n_members": 5})
    assert len(calls) == 2  # the others are not begun
    assert len(load(adata).members) == 2
    assert len(scgim.get.params(adata)["fit"]["failed_members"]) == 3


def test_a_degenerate_member_is_left_out(monkeypatch):
    monkeypatch.setattr(ensemble, "share_targeted", lambda result, data: 0.9)
    adata = fitted(n=12, fit={"n_members": 3})
    assert len(load(adata).members) == 1
    assert len(scgim.get.params(adata)["fit"]["failed_members"]) == 2
    np.testing.assert_array_equal(probabilities(adata)[0], probabilities(fitted(n=12))[0])


def test_threads_are_not_used(monkeypatch):
    """Fits in threads would wait for each other for ever."""
    with joblib.parallel_config(backend="threading"):
        assert len(load(fitted(n=12, fit={"n_members": 2})).members) == 2


def test_resampled_cells_stay_in_their_condition():
    from scgim.data import PerturbationData
    from scgim.inference import TrainingData

    adata = prepared(n=12, prepare={"valid_fraction": 0.2})
    data = TrainingData.of(PerturbationData.from_anndata(adata))
    drawn = ensemble.resampled(data, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.condition, data.condition)
    np.testing.assert_array_equal(drawn.valid, data.valid)
    assert len(np.unique(drawn.x.numpy(), axis=0)) < len(np.unique(data.x.numpy(), axis=0))
    for stratum in set(zip(data.condition.tolist(), data.valid.tolist(), strict=True)):
        own = [
            {tuple(row) for row in one.x[(one.condition == stratum[0]) & (one.valid == stratum[1])].tolist()}
            for one in (drawn, data)
        ]
        assert own[0] <= own[1]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"n_members": 0}, InvalidValue), ({"n_members": 2.5}, InvalidType), ({"n_jobs": 0}, InvalidValue)],
)
def test_bad_numbers_are_refused(wrong, error):
    adata = prepared(n=12)
    with pytest.raises(error, match=next(iter(wrong))):
        scgim.tl.fit_gim(adata, **{**QUICK, **wrong})
    assert "graph" not in adata.uns["gim"]


def test_figures_show_how_sure(three):
    import scgim.pl

    (panel,) = scgim.pl.dose_response(three, perturbation="A", genes="g0")
    (sure,) = [area for area in panel.collections if area.get_gid() == "members"]
    cells = scgim.tl.sample_cells(three, perturbations=[("A", 10.0)], n=500, members=True)
    means = [cells[cells.obs["gim_member"] == m, "g0"].X.mean() for m in "012"]
    corners = sure.get_paths()[0].vertices
    at_ten = corners[np.isclose(corners[:, 0], 10.0), 1]
    assert min(means) - 0.2 < at_ten.min() < at_ten.max() < max(means) + 0.2
    (plain,) = scgim.pl.dose_response(fitted(n=12), perturbation="A", genes="g0")
    assert not [area for area in plain.collections if area.get_gid() == "members"]
    drawn = scgim.pl.graph(three, threshold=0.3)
    assert {patch.get_gid() for patch in drawn.patches if str(patch.get_gid()).startswith("edge:")} == {
        f"edge:{cause}->{effect}" for cause, effect in scgim.get.graph(three, threshold=0.3).edges
    }


@pytest.mark.parametrize("mechanism", ["ziln", "count"])
def test_ten_members_are_small(mechanism):
    """At 50 genes, without compression: nine more models below 5 MiB."""
    from scgim.inference import FitConfig, new_model
    from scgim.model import FittedGIM

    numbers = ("graph_sparsity", "target_sparsity", "inverse_temperature", "intervention_scale", "target_scale")
    gim = new_model(FitConfig(mechanism=mechanism, **dict.fromkeys(numbers, 1.0)), n_genes=50, n_features=20)
    arrays = FittedGIM(gim, np.zeros((50, 50), dtype=bool)).arrays()
    assert 9 * (2500 + sum(value.nbytes for value in arrays.values())) < 5 * 2**20
