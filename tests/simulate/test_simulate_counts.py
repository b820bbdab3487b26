"""Depth and negative-binomial counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scgim.simulate import count_cells, draw_depths


def test_counts_have_the_requested_mean_and_variance():
    rates = np.tile([0.05, 1.0, 20.0], (60_000, 1))
    phi = np.array([2.0, 0.0, 0.5])
    counts = count_cells(rates, overdispersion=phi, rng=0)
    assert sparse.isspmatrix_csr(counts)
    dense = counts.toarray()
    assert np.array_equal(dense, np.round(dense))
    assert np.allclose(dense.mean(axis=0), rates[0], rtol=0.05)
    assert np.allclose(dense.var(axis=0), rates[0] + phi * rates[0] ** 2, rtol=0.1)


def test_zeros_are_not_stored():
    counts = count_cells(np.full((100, 10), 0.3), overdispersion=1.0)
    assert (counts.data > 0).all()


def test_depths_are_log_normal_around_the_median():
    depths = draw_depths(20_000, median=800.0, log_sd=0.4, rng=1)
    assert np.median(depths) == pytest.approx(800, rel=0.02)
    assert np.log(depths).std() == pytest.approx(0.4, rel=0.05)


def test_bad_arguments():
    with pytest.raises(ValueError, match="rates"):
        count_cells(np.array([[-1.0]]), overdispersion=1.0)
    with pytest.raises(ValueError, match="overdispersion"):
        count_cells(np.array([[1.0]]), overdispersion=np.nan)
    with pytest.raises(ValueError, match="median"):
        draw_depths(3, median=0.0)
