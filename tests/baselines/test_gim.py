"""GIM and BaCaDI* under the protocol: easy truth is found, the same as `tl.fit_gim`, and what is declined."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pandas as pd
import pytest
from quick_fits import quick_fits
from small_fits import GENES, QUICK, prepared, prepared_counts
from small_system import GRAPH, N_GENES, linear_data

import scgim
from scgim.baselines import BaCaDI, CannotPredict, Condition, GIMMethod, TrainingData, training_data

BOTH = [GIMMethod, BaCaDI]
EASY = {
    "mechanism": "linear", "max_steps": 200, "warmup_steps": 100, "batch_size": 128, "n_graphs": 4,
    "learning_rate": 0.02, "network_hidden": (32, 32),
}  # fmt: skip
#: Short, but with steps in which graph and targets learn, too.
FAST = {k: v for k, v in QUICK.items() if k not in ("device", "progress")} | {"warmup_steps": 2, "effect_pull": 0}


def planted(seed: int = 0, **changes) -> TrainingData:
    """The small linear system: condition k + 1 acts on gene k alone."""
    cells = linear_data(seed, valid=0.0)
    labels = ["control", *"ABCDE"]
    table = pd.DataFrame(
        {"condition": labels, "perturbation": labels, "dose": np.nan, "is_control": [True] + [False] * N_GENES}
    )
    features = np.vstack([np.zeros(N_GENES), np.eye(N_GENES)])
    data = TrainingData(cells.x.numpy(), cells.condition.numpy(), table, features)
    return dataclasses.replace(data, **changes) if changes else data


def conditions(data: TrainingData) -> list[Condition]:
    return [data.condition(row) for row in range(len(data.conditions))]


@cache
def easy_fit(kind: type) -> GIMMethod | BaCaDI:
    """Of the planted system; long enough to find it."""
    return kind(**EASY).fit(planted(), 0)


@cache
def quick_fit(kind: type) -> GIMMethod | BaCaDI:
    """Of the planted system; long enough to be one."""
    with quick_fits():
        return kind(mechanism="linear", **FAST).fit(planted(), 1)


@pytest.mark.parametrize("kind", BOTH)
def test_graph_targets_and_means_of_an_easy_system_are_found(kind):
    data, fitted = planted(), easy_fit(kind)
    np.testing.assert_array_equal(fitted.graph(), GRAPH)
    np.testing.assert_array_equal(fitted.edge_probabilities() > 0.5, GRAPH)
    probability = fitted.targets(conditions(data))
    np.testing.assert_array_equal(probability > 0.5, np.vstack([np.zeros(N_GENES), np.eye(N_GENES)]))
    control = data.x[data.codes == 0].mean(0)
    for row in range(1, N_GENES + 1):
        true = data.x[data.codes == row].mean(0)
        predicted = fitted.sample(data.condition(row), 2000, 1).mean(0)
        assert np.linalg.norm(predicted - true) < 0.5 * np.linalg.norm(control - true)
    assert fitted.n_edges_dropped_ == 0
    assert fitted.config_.mechanism == "linear"


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("kind", BOTH)
def test_the_seed_decides_fit_and_cells(kind):
    data = planted()
    first = quick_fit(kind)
    second, other = (kind(mechanism="linear", **FAST).fit(data, seed) for seed in (1, 2))
    condition = data.condition(2)
    np.testing.assert_array_equal(first.edge_probabilities(), second.edge_probabilities())
    np.testing.assert_array_equal(first.targets([condition]), second.targets([condition]))
    np.testing.assert_array_equal(first.sample(condition, 9, 3), second.sample(condition, 9, 3))
    assert first.sample(condition, 9).dtype == np.float32
    assert not np.array_equal(first.sample(condition, 9, 3), first.sample(condition, 9, 4))
    assert not np.array_equal(first.edge_probabilities(), other.edge_probabilities())


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize(("kind", "pairs"), [("continuous", False), ("continuous", True), ("log1p", False)])
def test_the_result_is_that_of_fit_gim(kind, pairs):
    """Without validation cells, of which the protocol knows nothing, both see the same."""
    adata = prepared(kind, {"valid_fraction": 0.0, "hold_out": ["C_10"]}, pairs=pairs)
    settings = {**FAST, "effect_pull": "auto"}
    scgim.tl.fit_gim(adata, rng=7, device="cpu", progress=False, **settings)
    fitted = scgim.baselines.fit(adata, method="gim", rng=7, **settings)
    genes = adata.var["gim"].to_numpy()
    expected = adata.varp["gim_edge_prob"].toarray()[np.ix_(genes, genes)]
    np.testing.assert_array_equal(fitted.edge_probabilities(), expected)
    graph = np.zeros((len(GENES),) * 2, dtype=bool)
    for source, target in adata.uns["gim"]["graph"][["source", "target"]].to_numpy():
        graph[GENES.index(source), GENES.index(target)] = True
    np.testing.assert_array_equal(fitted.graph(), graph)
    labels = adata.uns["gim"]["conditions"]["condition"].tolist()
    assert "C_10" in labels
    asked = [scgim.baselines.prepared_condition(adata, label) for label in labels]
    expected = adata.varm["gim_target_prob"][genes].T
    np.testing.assert_allclose(fitted.targets(asked), expected, atol=1e-6)
    for label, condition in zip(labels, asked, strict=True):
        cells = scgim.tl.sample_cells(adata, perturbations=[label], n=20, rng=3).X
        np.testing.assert_allclose(fitted.sample(condition, 20, 3), cells, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("quick_fits")
def test_what_is_auto_is_as_if_it_were_not_given():
    adata, settings = prepared("continuous"), {**FAST, "rng": 7}
    asked = scgim.baselines.fit(adata, method="gim", mechanism="auto", intervention="auto", **settings)
    assert asked.config_ == scgim.baselines.fit(adata, method="gim", **settings).config_
    with pytest.raises(CannotPredict, match="expression >= 0"):
        scgim.baselines.fit(adata, method="gim", mechanism="ziln", **settings)


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("kind", BOTH)
def test_a_random_start_holds_cells_out_of_every_condition(kind, monkeypatch):
    """Where convergence is decided on held-out cells, the method holds some out by itself."""
    import scgim.inference

    seen = {}
    fit = scgim.inference.fit
    monkeypatch.setattr(scgim.inference, "fit", lambda data, *a, **k: seen.update(data=data) or fit(data, *a, **k))
    data = planted()
    kind(preset="paper", mechanism="linear", intervention="shift", **{**FAST, "max_steps": 2}).fit(data)
    held_out = np.bincount(data.codes[seen["data"].valid.numpy()], minlength=N_GENES + 1)
    np.testing.assert_array_equal(held_out, np.round(0.1 * np.bincount(data.codes)))
    kind(mechanism="linear", **{**FAST, "max_steps": 2}).fit(data)
    assert not seen["data"].valid.any()


def test_effects_are_those_that_were_planted():
    """A target has N(3, 0.5^2), whatever its parents do; a shift moves by what it moves."""
    data = planted()
    effects = easy_fit(GIMMethod).effects(conditions(data)[1:])
    np.testing.assert_allclose(np.diag(effects), 3, atol=0.3)
    moved = data.x.copy()
    lonely = N_GENES - 1  # no parents, no children
    moved[data.codes == N_GENES, lonely] = moved[data.codes == 0, lonely][: (data.codes == N_GENES).sum()] + 2
    shift = GIMMethod(**EASY, intervention="shift").fit(dataclasses.replace(data, x=moved))
    assert abs(shift.effects([data.condition(N_GENES)])[0, lonely] - 2) < 0.4


# -- unseen conditions ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_fits")
def test_unseen_conditions_follow_their_features():
    data = planted()
    held_out = data.codes != 2
    data = data.of_cells(held_out)
    gim = GIMMethod(mechanism="linear", **FAST).fit(data)
    unseen, twin = data.condition(2), dataclasses.replace(data.condition(3), label="B")
    assert gim.sample(unseen, 5).shape == (5, N_GENES)
    np.testing.assert_array_equal(gim.targets([twin]), gim.targets([data.condition(3)]))
    for features in (np.zeros(N_GENES + 1), np.full(N_GENES, np.nan)):
        with pytest.raises(CannotPredict, match=f"gim cannot predict 'B': it needs {N_GENES} finite features"):
            gim.targets([dataclasses.replace(unseen, features=features)])


@pytest.mark.usefixtures("quick_fits")
def test_bacadi_declines_unseen_conditions():
    data = planted()
    kept = data.codes != 2
    data = data.of_cells(kept)
    bacadi = BaCaDI(mechanism="linear", **FAST).fit(data)
    for use in (lambda c: bacadi.sample(c, 5), lambda c: bacadi.targets([data.condition(1), c])):
        with pytest.raises(CannotPredict, match=r"bacadi cannot predict 'B': it had no training cells"):
            use(data.condition(2))
    assert not bacadi.can_predict_unseen
    assert bacadi.targets([data.condition(3), data.condition(0)]).shape == (2, N_GENES)


@pytest.mark.usefixtures("quick_fits")
def test_bacadi_does_not_look_at_the_features():
    data = planted()
    changed = dataclasses.replace(data, part_features=np.zeros((N_GENES + 1, 0)))
    first, second = (BaCaDI(mechanism="linear", **FAST).fit(d) for d in (data, changed))
    np.testing.assert_array_equal(first.targets(conditions(data)), second.targets(conditions(changed)))


@pytest.mark.parametrize("kind", BOTH)
def test_the_control_has_no_targets(kind):
    data, fitted = planted(), quick_fit(kind)
    assert not fitted.targets([data.condition(0)]).any()
    assert fitted.sample(data.condition(0), 7).shape == (7, N_GENES)


# -- combinations -----------------------------------------------------------------------------------------


def combination_data() -> TrainingData:
    """A and C alone; A+C of parts that are trained, A+B of one that is nowhere alone. C has no cells."""
    labels = ["control", "A", "C", "A+C", "A+B"]
    table = pd.DataFrame(
        {"condition": labels, "perturbation": labels, "dose": np.nan, "is_control": [True] + [False] * 4}
    )
    membership = [[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 0]]
    codes = np.repeat([0, 1, 3, 4], 30)
    x = np.random.default_rng(0).standard_normal((len(codes), 3))
    return TrainingData(x, codes, table, np.array([[1, 0], [3, 5], [0, 1]]), membership, ["A", "B", "C"])


@pytest.mark.usefixtures("quick_fits")
def test_combinations_are_predicted_from_their_parts_or_declined():
    data = combination_data()
    gim = GIMMethod(mechanism="linear", **FAST).fit(data)
    single, other, both, half = gim.targets([data.condition(row) for row in (1, 2, 3, 4)])
    np.testing.assert_allclose(both, 1 - (1 - single) * (1 - other), atol=1e-6)
    assert np.isfinite(half).all()
    # parts whose features are not given are looked up among those of the training data
    of_known = Condition("B+C", "B+C", np.nan, np.ones(2), ("B", "C"))
    given = dataclasses.replace(of_known, part_features=[[3, 5], [0, 1]])
    np.testing.assert_array_equal(gim.targets([of_known]), gim.targets([given]))
    new = Condition("C+D", "C+D", np.nan, np.ones(2), ("C", "D"))
    with pytest.raises(CannotPredict, match=r"gim cannot predict the combination 'C\+D': 'D' alone"):
        gim.sample(new, 3)
    bacadi = BaCaDI(mechanism="linear", **FAST).fit(data)
    assert bacadi.targets([data.condition(row) for row in (1, 3, 4)]).shape == (3, 3)


# -- refused ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("kind", BOTH)
def test_data_that_do_not_suit_are_declined_with_the_reason(kind):
    data = planted()
    flat = data.x.copy()
    flat[:, 3] = 1.0
    quick = {"mechanism": "linear", **FAST}
    with pytest.raises(CannotPredict, match=r"(gim|bacadi) cannot be fitted: These genes never vary .*: 'gene 3'"):
        kind(**quick).fit(dataclasses.replace(data, x=flat))
    with pytest.raises(CannotPredict, match="mechanism='ziln' needs expression >= 0, but it is negative in 'gene 0'"):
        kind(**{**quick, "mechanism": "ziln"}).fit(data)
    with pytest.raises(CannotPredict, match=r"These genes are .* never seen .*: 'gene 3'"):
        kind(**{**quick, "mechanism": "ziln"}).fit(dataclasses.replace(data, x=np.abs(data.x) * (flat != 1)))
    control = data.codes == 0
    with pytest.raises(CannotPredict, match="no perturbed condition"):
        kind(**quick).fit(data.of_cells(control))


@pytest.mark.parametrize("kind", BOTH)
def test_counts_are_needed_behind_counts_and_complete(kind):
    with pytest.raises(CannotPredict, match=r"cannot be fitted: mechanism='count' needs raw counts .* counts=True"):
        kind(mechanism="count", **FAST).fit(planted())
    data = training_data(prepared_counts(), counts=True, batch_key="plate")
    silent = data.counts.copy()
    silent[data.control, 2] = 0
    with pytest.raises(CannotPredict, match=r"never counted in the control cells.*: 'gene 2'"):
        kind(mechanism="count", **FAST).fit(dataclasses.replace(data, counts=silent))
    one_sided = dataclasses.replace(data, batch=np.where(data.control, 0, data.batch))
    with pytest.raises(CannotPredict, match=r"batches without control cells .*'plate2'"):
        kind(mechanism="count", **FAST).fit(one_sided)
    with pytest.raises(ValueError, match="starts from a search"):
        kind(mechanism="count", preset="paper")


@pytest.mark.usefixtures("quick_fits")
def test_gim_behind_counts_is_fit_gim():
    adata = prepared_counts()
    scgim.tl.fit_gim(adata, mechanism="count", rng=7, device="cpu", progress=False, **FAST)
    fitted = scgim.baselines.fit(adata, method="gim", mechanism="count", rng=7, **FAST)
    genes = adata.var["gim"].to_numpy()
    expected = adata.varp["gim_edge_prob"].toarray()[np.ix_(genes, genes)]
    np.testing.assert_array_equal(fitted.edge_probabilities(), expected)
    condition = scgim.baselines.prepared_condition(adata, "A_10")
    cells = scgim.tl.sample_cells(adata, perturbations=["A_10"], n=9)
    assert fitted.sample(condition, 9).shape == cells.shape
    assert fitted.fitted_.gim.mode is None  # what it held of the training cells is not carried along
    batches = GIMMethod(mechanism="count", **FAST).fit(training_data(adata, counts=True, batch_key="plate"), 7)
    assert len(batches.gim_.counting.baseline) == 2


def test_bacadi_finds_targets_behind_counts():
    adata = prepared_counts()
    fitted = scgim.baselines.fit(adata, method="bacadi", mechanism="count", **FAST)
    asked = [scgim.baselines.prepared_condition(adata, label) for label in ("control", "A_10", "C_10")]
    np.testing.assert_array_equal(fitted.targets(asked).argmax(1)[1:], [0, 3])
    assert not fitted.targets(asked)[0].any()
    assert np.isfinite(fitted.sample(asked[1], 5)).all()


def test_gim_needs_features():
    with pytest.raises(CannotPredict, match="no features"):
        GIMMethod(mechanism="linear", **FAST).fit(planted(part_features=np.zeros((N_GENES + 1, 0))))


def test_a_fit_that_diverges_is_declined(monkeypatch):
    import scgim.inference

    def diverge(*_, **__):
        raise FloatingPointError("The fit stopped being finite at step 3")

    monkeypatch.setattr(scgim.inference, "fit", diverge)
    with pytest.raises(CannotPredict, match="gim cannot be fitted: The fit stopped being finite"):
        GIMMethod(mechanism="linear").fit(planted())


@pytest.mark.parametrize("kind", BOTH)
def test_wrong_settings_are_refused_before_any_data(kind):
    with pytest.raises(TypeError, match="no setting 'steps'"):
        kind(steps=5)
    with pytest.raises(ValueError, match="max_steps"):
        kind(max_steps=0)
    with pytest.raises(TypeError, match="amortised cannot be set"):
        kind(amortised=not kind._amortised)
    kind(**{name: values.low for name, values in kind.search_space.items()})  # settings that exist


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize(("x", "expected"), [(-1.0, "mlp"), (0.0, "ziln"), (0.5, "mlp")])
def test_the_mechanism_follows_the_values(x, expected):
    data = planted()
    values = np.abs(data.x) + 0.1
    values[0, 0] = x
    fitted = GIMMethod(**FAST).fit(dataclasses.replace(data, x=values))
    assert fitted.config_.mechanism == expected
