"""One fit for all figures; a test that changes it makes its own."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import pytest
from example_fit import make_fit


@pytest.fixture(scope="session")
def fit() -> tuple[ad.AnnData, ad.AnnData]:
    """Fitted cells, and cells predicted for every condition."""
    return make_fit()


@pytest.fixture(scope="session")
def fitted(fit) -> ad.AnnData:
    return fit[0]


@pytest.fixture(scope="session")
def predicted(fit) -> ad.AnnData:
    return fit[1]


@pytest.fixture(autouse=True)
def _no_window(monkeypatch):
    """No function may open a window."""

    def show(*args, **kwargs):
        raise AssertionError("plt.show was called")

    monkeypatch.setattr(plt, "show", show)
