"""Everything that is stored comes back from a file unchanged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from example_cells import assert_same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scgim.slots.codec import from_storable, to_storable


def through_file(value: object, folder: Path) -> object:
    """Store under one key of `uns`, write, read."""
    path = folder / "stored.h5ad"
    ad.AnnData(np.zeros((1, 1), dtype=np.float32), uns={"value": value}).write_h5ad(path)
    return ad.read_h5ad(path).uns["value"]


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from(["json:null", "json:", "a/b", "/", ".", "..", "\x00", "\ud800", "", "µM"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(scalars, inner, max_size=3)
        | st.sets(scalars, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_any_nested_value_survives_a_file(value: dict[str, object], tmp_path: Path) -> None:
    """Also as it is stored: what is read is what was written."""
    stored = to_storable(value)
    assert from_storable(stored) == value
    back = through_file(stored, tmp_path)
    assert from_storable(back) == value
    if isinstance(stored, dict):
        assert_same(back, stored)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3),
        np.zeros((2, 3), dtype=np.float32),
        np.array([True, False]),
        np.array([], dtype=np.float64),
        np.array(["a", "µ", ""], dtype=object),
        np.array([], dtype=object),
        np.array(["NaN", "b"]),
        np.array([["a", "b"], ["c", "d"]]),
        np.array([1, None, "x", (1, 2)], dtype=object),
        np.array(["2024-01-01"], dtype="datetime64[ns]"),
        np.array(["a\x00b", "c"], dtype=object),
        np.array([np.nan, np.inf]),
    ],
    ids=repr,
)
def test_arrays_survive_a_file(array: np.ndarray, tmp_path: Path) -> None:
    back = from_storable(through_file(to_storable({"a": array}), tmp_path))
    assert isinstance(back, dict)
    assert back["a"].shape == array.shape
    np.testing.assert_array_equal(back["a"], array)


def test_pandas_and_sparse_survive_a_file(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "text": pd.array(["a", "b"], dtype="string"),
            "gap": ["x", None],
            "number": [1.5, np.nan],
            "flag": [True, False],
            "kind": pd.Categorical(["u", None]),
        }
    )
    stored = to_storable({"frame": frame, "matrix": sp.coo_matrix(np.eye(2)), "column": pd.Series(["a", "b"])})
    back = through_file(stored, tmp_path)
    assert_same(back, stored, exact_types=False)
    assert isinstance(back, dict)
    assert back["frame"]["gap"].isna().tolist() == [False, True]
    assert back["column"].tolist() == ["a", "b"]


def test_scalars_of_other_libraries_become_plain() -> None:
    @dataclasses.dataclass
    class Options:
        width: int = 3
        path: Path = Path("a/b")

    stored = to_storable({"n": np.int64(3), "f": np.float32(0.5), "options": Options(), "missing": pd.NA})
    assert (stored["n"], stored["f"]) == (3, 0.5)
    assert type(stored["n"]) is int
    assert stored["options"] == {"width": 3, "path": str(Path("a/b"))}
    assert from_storable(stored)["missing"] is pd.NA


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"f": print}, "value['f']"),
        ({"z": 1 + 2j}, "complex"),
        ({"a": {"rng": np.random.default_rng(0)}}, "value['a']['rng']"),
        ({"frame": pd.DataFrame({"a/b": [1]})}, "a/b"),
        ({"frame": pd.DataFrame({"a": [object()]})}, "plain strings"),
    ],
)
def test_what_cannot_be_stored_is_named(value: object, place: str) -> None:
    with pytest.raises(TypeError) as error:
        to_storable(value)
    assert place in str(error.value)
