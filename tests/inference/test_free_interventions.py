"""`amortised=False`: free interventions per part, started from the search and learned by the same fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from small_system import GRAPH, N_GENES, linear_data

from scgim.inference import SearchResult, build, fit, make_config, resolve_sparsity, start_from_search
from scgim.inference.start import condition_moments
from scgim.model import FreeInterventions

QUICK = {
    "mechanism": "linear", "amortised": False, "n_graphs": 2, "batch_size": 32, "max_steps": 12, "check_every": 6,
    "warmup_steps": 4,
}  # fmt: skip


def test_each_part_starts_at_what_was_found_for_its_own_condition():
    """Parts may stand in another order than their conditions; a part that is never alone starts undecided."""
    data = linear_data()
    membership = torch.zeros(N_GENES + 1, N_GENES)
    part_of = [3, 0, 4, 1]  # of conditions 1 to 4; the fifth is a combination of parts 1 and 2
    membership[range(1, 5), part_of] = 1
    membership[5, [1, 2]] = 1
    data = dataclasses.replace(data, membership=membership)
    config = resolve_sparsity(make_config(**QUICK), data)
    gim = build(config, data, np.random.default_rng(0))
    assert isinstance(gim.interventions, FreeInterventions)
    targets = torch.cat([torch.zeros(1, N_GENES), torch.eye(N_GENES)]).bool()
    start_from_search(gim, data, SearchResult(GRAPH, targets, 0.0, np.zeros(GRAPH.shape), 0))
    logits, effects = gim.interventions(data.features)
    moments = condition_moments(gim, data)
    for condition, part in enumerate(part_of, start=1):
        np.testing.assert_array_equal(logits[part].detach() > 0, targets[condition])
        torch.testing.assert_close(effects[part], moments[condition])
    assert not logits[2].any()
    assert not effects[2].any()


def test_logits_wait_for_the_mechanisms_and_then_learn():
    states = [
        fit(linear_data(), make_config(**{**QUICK, "max_steps": steps}), rng=0, progress=False).gim.state_dict()
        for steps in (4, 12)
    ]
    logits = [state["interventions.target_logits"].abs() for state in states]
    torch.testing.assert_close(logits[0], torch.full_like(logits[0], 3.0))  # 3 as the edges, at first
    assert (logits[1] != 3.0).all()
    assert not torch.equal(states[0]["interventions.effects"], states[1]["interventions.effects"])


def test_a_random_start_learns_them_too():
    result = fit(linear_data(), make_config("paper", **QUICK, sparsity_steps=4), rng=0, progress=False)
    assert (result.gim.interventions.target_logits != 0).all()
