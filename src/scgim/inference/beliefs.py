"""What is believed of single edges and targets before the data, in nats that they cost less (`own`)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .config import FitConfig
from .data import TrainingData

#: A belief of probability `_FULL` lowers a price by this share of it, and none moves it by more: what the data do not
#: support is not found. Others count in proportion to their log odds.
_MOST, _FULL = 0.5, 0.99


def informed(data: TrainingData, config: FitConfig) -> TrainingData:
    """The data with beliefs in nats, of edges and of the targets of conditions; `config` with its sparsities.

    An edge of which nothing is said has the odds 1 / genes^2, a target 1 / genes, as the automatic sparsities have it.
    An edge of probability 1 or 0 is certain: infinite. A target never is; that is for `known_targets` to say.
    """
    n = data.n_genes
    if data.prior_edges is not None:
        odds = _nats(data.prior_edges, 2 * math.log(max(2, n)), float(config.graph_sparsity))
        odds = torch.where(data.prior_edges == 1, torch.inf, torch.where(data.prior_edges == 0, -torch.inf, odds))
        data = replace(data, edge_odds=odds)
    if data.prior_targets is not None:
        price = float(config.target_sparsity)
        odds = data.membership @ _nats(data.prior_targets, math.log(max(2, n)), price)  # (conditions, genes)
        data = replace(data, target_odds=odds.clamp(-_MOST * price, _MOST * price))
    return data


def _nats(probability: Tensor, unknown: float, price: float) -> Tensor:
    """0 where the probability is NaN; `unknown`: minus the log odds that it then has."""
    odds = (torch.logit(probability, eps=1e-6) + unknown) / (math.log(_FULL / (1 - _FULL)) + unknown)
    return _MOST * price * torch.nan_to_num(odds, nan=0.0).clamp(-1.0, 1.0)
