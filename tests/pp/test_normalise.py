"""Normalisation of blocks of cells, each to a total of its own."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scgim.pp._matrix import normalise


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_every_cell_keeps_its_row_whatever_its_block(kind) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, size=(40, 6)).astype(np.float32) + 1
    members = rng.permutation(40)
    blocks = [(np.sort(members[:15]), 100.0), (np.sort(members[15:22]), 7.0), (np.sort(members[22:]), 1000.0)]
    expected, target = np.zeros_like(counts), np.zeros(40)
    for rows, total in blocks:
        target[rows] = total
        expected[rows] = np.log1p(counts[rows] / counts[rows].sum(1, keepdims=True) * total)
    found = normalise(kind(counts), counts.sum(1), target)
    found = found.toarray() if sp.issparse(found) else found
    np.testing.assert_allclose(found, expected, rtol=1e-5)
