"""The script that measures CondOT on known maps: its truth is right, and it writes what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def script(script):
    """The script itself."""
    return script("condot_known_shift")


@pytest.mark.parametrize("case", ["shift", "affine map"])
@pytest.mark.parametrize("equal_units", [True, False])
def test_the_best_map_takes_control_cells_to_those_of_the_condition(script, case, equal_units):
    rng = np.random.default_rng(0)
    truth = script.Truth(case, rng)
    context = script.BETWEEN[5]
    unit = np.full(script.GENES, 2.0) if equal_units else rng.uniform(0.5, 2.0, script.GENES)
    best = truth.best(context, unit)
    linear = best(np.eye(script.GENES)) - best(np.zeros((1, script.GENES)))
    np.testing.assert_allclose(linear.T @ truth.control @ linear, truth.covariance(context), atol=1e-8)
    np.testing.assert_allclose(best(np.zeros((1, script.GENES)))[0], truth.shift(context))
    potential = linear * np.outer(1 / unit, unit).T  # in these units it is a gradient of a convex function
    np.testing.assert_allclose(potential, potential.T, atol=1e-8)
    assert np.linalg.eigvalsh(potential).min() > 0
    if equal_units:
        np.testing.assert_allclose(linear, truth.matrix(context), atol=1e-8)
    if case == "shift":
        np.testing.assert_allclose(linear, np.eye(script.GENES), atol=1e-8)


def test_the_script_writes_its_page(script, tmp_path, capsys):
    script.main(["--seeds", "0", "--cells", "12", "--steps", "2", "--out", str(tmp_path)])
    page = (tmp_path / "condot_known_shift.md").read_text()
    assert page.strip() in capsys.readouterr().out
    assert "**simulated**" in page and str(tmp_path) not in page
    rows = pd.read_csv(tmp_path / "condot_known_shift.csv")
    assert rows.groupby(["case", "contexts"]).size().to_dict() == {
        (case, where): n for case in ("shift", "affine map") for where, n in (("trained", 25), ("between", 16))
    }
    assert rows["mean"].between(0.5, 1.5).all()  # hardly trained: nearly all is still missing
    assert rows.loc[rows["contexts"] == "trained", "own mean"].mean() < 0.5
    assert rows.loc[rows["case"] == "shift", "covariance"].isna().all()
