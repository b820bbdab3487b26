"""Evidence for a change is bounded by what counts can say."""

from types import SimpleNamespace

import pytest
import torch

from scgim.inference.changes import bounded
from scgim.inference.latent import LatentCells
from scgim.model import Counting


def cells_with(counts: torch.Tensor, rate: float) -> LatentCells:
    """Two conditions of 60 cells; one gene, of this rate."""
    counting = Counting(1).double()
    counting.baseline.data[:] = torch.tensor(rate, dtype=torch.float64).log()
    n = len(counts)
    zero, condition = torch.zeros(n, dtype=torch.long), torch.arange(n) // 60
    return LatentCells(counts.double(), torch.zeros(n, dtype=torch.float64), zero, condition, 2, counting)


def test_a_change_is_worth_no_more_nats_than_its_total_counts():
    counts = torch.zeros(120, 1)
    counts[:6] = 1.0  # the first condition has the six counts that are expected, the second none
    model = SimpleNamespace(location=torch.zeros_like, variance=torch.zeros(1, dtype=torch.float64))
    change = torch.tensor([[40.0], [-40.0]], dtype=torch.float64)
    found = bounded(change, model, cells_with(counts, 0.1), torch.zeros(120, 1, dtype=torch.float64))
    assert float(found[0]) == pytest.approx(0.0, abs=1e-3)
    assert float(found[1]) == pytest.approx(-((2 * 6.0) ** 0.5), rel=1e-6)
    small = torch.full_like(change, 0.5)
    torch.testing.assert_close(bounded(small, model, cells_with(counts * 4, 0.1), counts.double() * 0)[1], small[1])
    rich = bounded(change, model, cells_with(torch.full((120, 1), 3.0), 1.0), torch.zeros(120, 1, dtype=torch.float64))
    assert float(0.5 * rich[0] ** 2) == pytest.approx(180 * torch.tensor(3.0).log().item() - 120, rel=1e-6)
