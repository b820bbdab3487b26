"""Every baseline on arrays: what it predicts, what it declines, and that seeds decide."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgim.baselines import (
    Additive,
    CannotPredict,
    Condition,
    Control,
    MeanShift,
    NextLowerDose,
    Ridge,
    TrainingData,
)

ALL = [Control, NextLowerDose, MeanShift, Ridge, Additive]
SHIFTS = [MeanShift, Ridge, Additive]


def row(data: TrainingData, label: str) -> int:
    return data.conditions["condition"].tolist().index(label)


def cells(data: TrainingData, label: str) -> np.ndarray:
    return data.x[data.codes == row(data, label)]


def is_subset(rows: np.ndarray, of: np.ndarray) -> bool:
    return {r.tobytes() for r in np.ascontiguousarray(rows)} <= {r.tobytes() for r in np.ascontiguousarray(of)}


def quick(kind: type) -> Control | NextLowerDose | MeanShift | Ridge | Additive:
    """Not fitted; in few steps, for tests that do not ask how well."""
    return kind(steps=50) if kind is MeanShift else kind()


@pytest.mark.parametrize("kind", ALL)
def test_sampling_follows_the_seed(kind, doses):
    baseline = quick(kind).fit(doses)
    condition = doses.condition(row(doses, "B_100"))
    first = baseline.sample(condition, 20, rng=1)
    assert first.shape == (20, doses.x.shape[1])
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, baseline.sample(condition, 20, rng=1))
    assert not np.array_equal(first, baseline.sample(condition, 20, rng=2))


@pytest.mark.parametrize("kind", ALL)
def test_the_training_data_are_left_alone(kind, doses):
    before = doses.x.copy(), doses.features.copy(), doses.conditions.copy()
    sample = quick(kind).fit(doses).sample(doses.condition(row(doses, "B_100")), 500)
    sample += 1  # a sample is a copy, not a view of the training cells
    np.testing.assert_array_equal(doses.x, before[0])
    np.testing.assert_array_equal(doses.features, before[1])
    pd.testing.assert_frame_equal(doses.conditions, before[2])


@pytest.mark.parametrize("kind", ALL)
def test_not_fitted_is_said(kind, doses):
    with pytest.raises(RuntimeError, match="not fitted"):
        kind().sample(doses.condition(1), 5)


@pytest.mark.parametrize("kind", ALL)
def test_what_a_baseline_does_not_give_is_declined(kind, doses):
    baseline = quick(kind).fit(doses)
    assert not baseline.gives_graph
    assert not baseline.gives_targets
    with pytest.raises(CannotPredict, match=f"{kind.name} gives no graph"):
        baseline.graph()
    with pytest.raises(CannotPredict, match=f"{kind.name} gives no targets"):
        baseline.targets([])
    with pytest.raises(ValueError, match="n must be at least 1"):
        baseline.sample(doses.condition(row(doses, "B_100")), 0)


def test_control_gives_control_cells_whatever_is_asked(doses):
    control = Control().fit(doses)
    unseen = Condition("Z", "Z", np.nan, np.zeros(2), ("Z",))
    sample = control.sample(unseen, 60)
    assert is_subset(sample, cells(doses, "control"))
    assert len({r.tobytes() for r in sample}) == 60  # without replacement
    assert len(control.sample(unseen, 1000)) == 1000  # with replacement where there are too few


@pytest.mark.parametrize(("asked", "given"), [("A_1000", "A_100"), ("B_1000", "B_100"), ("B_100", "B_10")])
def test_next_lower_dose_gives_cells_of_that_dose(doses, asked, given):
    sample = NextLowerDose().fit(doses).sample(doses.condition(row(doses, asked)), 30)
    assert is_subset(sample, cells(doses, given))


def test_next_lower_dose_of_a_dose_never_measured(doses):
    between = Condition("A_500", "A", 500.0, np.zeros(2), ("A_500",))
    assert is_subset(NextLowerDose().fit(doses).sample(between, 10), cells(doses, "A_100"))


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (Condition("A_10", "A", 10.0, np.zeros(2), ("A_10",)), r"below 10 .*there are: 10, 100"),
        (Condition("Z_10", "Z", 10.0, np.zeros(2), ("Z_10",)), "'Z' has no training cells"),
        (Condition("A", "A", np.nan, np.zeros(2), ("A",)), "no dose"),
        (Condition("A_10+B_10", "A+B", np.nan, np.zeros(2), ("A_10", "B_10")), "combination"),
    ],
)
def test_next_lower_dose_declines_and_says_why(doses, condition, reason):
    with pytest.raises(CannotPredict, match=f"next_lower_dose cannot predict '.*{reason}"):
        NextLowerDose().fit(doses).sample(condition, 5)


@pytest.mark.parametrize("kind", SHIFTS)
def test_training_shifts_are_reproduced(kind, doses):
    baseline = kind().fit(doses)
    rows, shifts = doses.shifts()
    predicted = np.stack([baseline.shift(doses.condition(r)) for r in rows])
    assert np.linalg.norm(predicted - shifts) < 0.1 * np.linalg.norm(shifts)


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_sample_is_control_cells_moved_by_the_shift(kind, doses):
    baseline = quick(kind).fit(doses)
    condition = doses.condition(row(doses, "B_1000"))
    moved = baseline.sample(condition, 50) - baseline.shift(condition)
    distance = np.abs(moved[:, None] - cells(doses, "control")[None]).max(axis=2).min(axis=1)
    assert distance.max() < 1e-4


@pytest.mark.parametrize("kind", SHIFTS)
def test_the_control_is_predicted_without_a_shift(kind, doses):
    assert is_subset(quick(kind).fit(doses).sample(doses.condition(0), 20), cells(doses, "control"))


@pytest.mark.parametrize("kind", [MeanShift, Ridge])
def test_a_held_out_dose_is_extrapolated_from_the_features(kind, doses):
    """Drug A adds log10(dose) to gene 0 and its features say so: 3 at the held-out dose, 2 below it."""
    shift = kind().fit(doses).shift(doses.condition(row(doses, "A_1000")))
    assert shift[0] == pytest.approx(3.0, abs=0.5)
    assert shift[1] == pytest.approx(0.0, abs=0.5)
    assert shift[5] == pytest.approx(-1.0, abs=0.5)


@pytest.mark.parametrize("kind", SHIFTS)
def test_clipping_is_an_option(kind, doses):
    low = TrainingData(doses.x - 4.9, doses.codes, doses.conditions, doses.features)
    condition = low.condition(row(low, "B_1000"))
    plain, clipped = kind().fit(low).sample(condition, 100), kind(clip=True).fit(low).sample(condition, 100)
    assert plain.min() < -0.5
    np.testing.assert_array_equal(clipped, np.maximum(plain, 0))


def test_mlp_training_follows_its_seed_and_leaves_the_global_state_alone(doses):
    import torch

    torch.manual_seed(3)
    np_state = np.random.get_state()[1].copy()  # noqa: NPY002
    before = torch.get_rng_state()
    condition = doses.condition(row(doses, "A_1000"))
    one, same, other = (MeanShift(steps=50).fit(doses, rng=seed).shift(condition) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(np_state, np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(99)
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(one, MeanShift(steps=50).fit(doses, rng=0).shift(condition))
    assert not np.allclose(one, other)


def test_mlp_trains_where_gradients_are_off(doses):
    import torch

    condition = doses.condition(row(doses, "A_1000"))
    with torch.no_grad():
        quiet = MeanShift(steps=20).fit(doses).shift(condition)
    np.testing.assert_array_equal(quiet, MeanShift(steps=20).fit(doses).shift(condition))


def test_mlp_learns_what_a_line_cannot():
    """Two features whose product decides the shift (XOR): ridge fails, the MLP reproduces it."""
    features = np.array([[0, 0], [0, 0], [1, 0], [0, 1], [1, 1]], dtype=float)
    shifts = np.array([0.0, 0.0, 2.0, 2.0, 0.0])
    table = pd.DataFrame(
        {
            "condition": list("cdefg"),
            "perturbation": list("cdefg"),
            "dose": np.nan,
            "is_control": [True] + [False] * 4,
        }
    )
    codes = np.repeat(np.arange(5), 20)
    data = TrainingData(np.tile(shifts[codes][:, None], (1, 2)), codes, table, features)
    fitted = {kind: kind().fit(data) for kind in (MeanShift, Ridge)}
    error = {
        kind: max(abs(b.shift(data.condition(r))[0] - shifts[r]) for r in range(1, 5)) for kind, b in fitted.items()
    }
    assert error[MeanShift] < 0.2
    assert error[Ridge] > 0.5


def test_features_of_another_length_are_declined(doses):
    wrong = Condition("A_5", "A", 5.0, np.zeros(7), ("A_5",))
    for kind in (MeanShift, Ridge):
        with pytest.raises(CannotPredict, match="needs 2 finite features"):
            quick(kind).fit(doses).sample(wrong, 3)


def test_a_single_trained_condition_is_enough(doses):
    keep = np.isin(doses.codes, [0, row(doses, "B_100")])
    data = doses.of_cells(keep)
    for kind in SHIFTS:
        condition = data.condition(row(data, "B_100"))
        assert kind().fit(data).shift(condition) == pytest.approx(data.shifts()[1][0], abs=0.15)


@pytest.mark.parametrize("kind", [MeanShift, Ridge])
def test_no_perturbed_cells_is_declined(kind, doses):
    with pytest.raises(CannotPredict, match="no perturbed condition"):
        kind().fit(doses.of_cells(doses.control))


def test_additive_adds_up_and_declines_parts_never_seen_alone(doses):
    additive = Additive().fit(doses)
    pair = Condition("A_10+B_100", "A+B", np.nan, np.zeros(2), ("A_10", "B_100"))
    single = [additive.shift(doses.condition(row(doses, part))) for part in pair.parts]
    np.testing.assert_allclose(additive.shift(pair), single[0] + single[1])
    with pytest.raises(CannotPredict, match="only 'A_1000'"):
        additive.sample(doses.condition(row(doses, "A_1000")), 5)


@pytest.mark.parametrize(
    "options",
    [{"activation": "gelu"}, {"steps": 0}, {"hidden": (0,)}, {"learning_rate": 0}, {"weight_decay": -1}],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MeanShift(**options)
