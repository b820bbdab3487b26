"""What to measure next: where members disagree, nothing twice, nothing that is known."""

from __future__ import annotations

import numpy as np
import pytest
from small_fits import fitted

import scgim
from scgim._errors import InvalidValue
from scgim.tl._stored import StoredModel
from scgim.tl._suggest import choose, information

NEW = [("A", 3.0), ("B", 30.0), ("C", 0.3)]


@pytest.fixture(scope="module")
def three():
    return fitted(n=12, fit={"mechanism": "linear", "n_members": 3})


def differing(scale: float, *genes: int, seed: int = 0) -> np.ndarray:
    """(members, genes): four members differ on these genes of six."""
    out = np.zeros((4, 6))
    out[:, list(genes)] = scale * np.random.default_rng(seed).standard_normal((4, len(genes)))
    return out - out.mean(axis=0)


def test_information_is_that_of_a_normal_measurement():
    """One gene, two members: variance 2 d^2 of the difference's half, against a noise of 1."""
    one = np.array([[[3.0], [-3.0]]])
    assert information(one) == pytest.approx(0.5 * np.log(1 + 2 * 9))
    assert information(one[:0]) == 0
    both = np.concatenate([one, one])
    assert information(one) < information(both) < 2 * information(one)


def test_disagreement_is_chosen_and_nothing_is_told_twice():
    twin, weaker, none = differing(5.0, 0, 1), differing(2.0, 3, 4, seed=1), differing(0.0)
    rows, gains = choose(np.array([none, twin, twin, weaker]), np.ones(4), 4)
    assert rows[0] == 1
    assert rows[1] == 3  # the twin of the first has more by itself, and less to add
    assert rows[-1] == 0
    assert gains == sorted(gains, reverse=True)
    assert sum(gains) == pytest.approx(information(np.array([none, twin, twin, weaker])))


def test_cost_counts():
    pair = np.array([differing(5.0, 0), differing(4.0, 1, seed=1)])
    first, _ = choose(pair, np.ones(2), 1)
    other, _ = choose(pair, np.where(np.arange(2) == first[0], 50.0, 1.0), 1)
    assert first != other


def test_a_table_with_reasons(three):
    table = scgim.tl.suggest_perturbations(three, NEW, n=2, rng=3)
    assert list(table.columns) == ["condition", "score", "alone", "reason"]
    assert len(table) == 2
    assert (table["score"] <= table["alone"] + 1e-9).all()
    assert table["score"].is_monotonic_decreasing
    again = scgim.tl.suggest_perturbations(three, NEW[::-1], n=2, rng=3)
    assert set(table["condition"]) <= {"A_3", "B_30", "C_0.3"}
    assert len(set(again["condition"])) == 2
    more = scgim.tl.suggest_perturbations(three, NEW, n=2, n_cells=500, rng=3)
    assert more["score"].iloc[0] > table["score"].iloc[0]  # more cells tell more


def test_members_that_agree_suggest_nothing(three, monkeypatch):
    monkeypatch.setattr(StoredModel, "members", property(lambda self: [self] * 3))
    table = scgim.tl.suggest_perturbations(three, NEW)
    np.testing.assert_allclose(table["score"], 0, atol=1e-9)
    assert table["reason"].str.startswith("Members agree").all()


def test_measured_candidates_are_left_out(three, caplog):
    table = scgim.tl.suggest_perturbations(three, ["A_1", ("A", 3.0)])
    assert table["condition"].tolist() == ["A_3"]
    assert "'A_1'" in caplog.text


@pytest.mark.parametrize(
    ("candidates", "arguments", "says"),
    [
        (["A_1", "B_10"], {}, "measured already"),
        (["Z"], {}, "Z"),
        ([], {}, "empty"),
        (NEW, {"cost": [1.0, 0.0, 2.0]}, "above 0"),
        (NEW, {"cost": [1.0]}, "3 finite"),
        (NEW, {"n": 0}, "n must"),
    ],
)
def test_bad_candidates_are_refused(three, candidates, arguments, says):
    with pytest.raises(InvalidValue, match=says):
        scgim.tl.suggest_perturbations(three, candidates, **arguments)


def test_one_fit_has_no_members_to_disagree():
    with pytest.raises(InvalidValue, match="n_members=5"):
        scgim.tl.suggest_perturbations(fitted(n=12, fit={"mechanism": "linear"}), NEW)
