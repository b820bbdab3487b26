"""Values of the optimisation, the start and the refit, each against its definition written out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_gim import make_gim
from small_system import linear_data, local_scores

from scgim.inference import (
    BalancedSampler,
    FitConfig,
    TrainingData,
    condition_moments,
    fit,
    make_config,
    resolve_sparsity,
)
from scgim.inference.refit import _information, _penalty
from scgim.inference.schedule import make_optimiser, set_learning_rates


def test_the_price_of_an_edge_is_that_of_the_extended_bic() -> None:
    data = linear_data()
    n, genes = int((~data.valid).sum()), data.n_genes
    linear = resolve_sparsity(FitConfig(mechanism="linear"), data).graph_sparsity
    mlp = resolve_sparsity(FitConfig(mechanism="mlp", mechanism_hidden=7), data).graph_sparsity
    assert linear == pytest.approx(0.5 * math.log(n) + 2 * math.log(genes))
    assert mlp == pytest.approx(0.5 * 7 * math.log(n) + 2 * math.log(genes))


def test_the_price_of_a_target_grows_with_cells_and_genes() -> None:
    def price(n: int, genes: int) -> float:
        graph = np.zeros((genes, genes), dtype=bool)
        data = linear_data(n=n, n_control=n, valid=0.0, graph=graph)
        return float(resolve_sparsity(FitConfig(mechanism="linear"), data).target_sparsity)

    assert price(2000, 5) - price(500, 5) == pytest.approx(math.log(2000 / 500))  # BIC, two parameters
    assert price(2000, 10) - price(2000, 5) == pytest.approx(math.log(10 / 5))  # one target among all genes


def cells(kind: str) -> TrainingData:
    """A control and one condition of seven cells, two of them held out."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(40, 5, generator=generator) + 0.5
    x[torch.rand(40, 5, generator=generator) < 0.3] = 0.0 if kind == "ziln" else 0.7
    condition = torch.tensor([0] * 33 + [1] * 7)
    valid = torch.zeros(40, dtype=torch.bool)
    valid[-2:] = True
    return TrainingData(x, condition, valid, torch.eye(1), torch.tensor([[0.0], [1.0]]))


@pytest.mark.parametrize("kind", ["linear", "ziln"])
def test_moments_stand_on_the_cells_and_one_of_the_prior(kind: str) -> None:
    gim, data = make_gim(kind), cells(kind)
    m = gim.mechanisms
    found = condition_moments(gim, data)[1]
    for gene in range(5):
        column = data.x[(data.condition == 1) & ~data.valid, gene].double()
        seen = column[column > 0].log() if kind == "ziln" else column
        seen = (seen - m.response_center[gene]) / m.response_scale[gene]
        assert float(found[gene, 0]) == pytest.approx(float(seen.sum() / (len(seen) + 1)), abs=1e-5)
        around = float((seen - found[gene, 0]).square().sum())
        assert float(found[gene, 1]) == pytest.approx(0.5 * math.log((around + 2) / (len(seen) + 2)), abs=1e-4)
        if kind == "ziln":
            own = float(torch.sigmoid(m.zero_logit[gene]))
            rate = (len(column) - len(seen) + own) / (len(column) + 1)
            expected = math.log(rate / (1 - rate)) - float(m.zero_logit[gene])
            assert float(found[gene, 2]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["linear", "ziln"])
def test_the_information_is_the_curvature_of_the_likelihood(kind: str) -> None:
    """At moments that are the cells' own, where expected and observed information agree."""
    gim, data = make_gim(kind), cells(kind)
    m = gim.mechanisms
    treated = data.x[(data.condition == 1) & ~data.valid].double()
    gene = int((treated > 0).sum(0).argmax())
    column = treated[:, gene]
    seen = column[column > 0].log() if kind == "ziln" else column
    seen = (seen - m.response_center[gene]) / m.response_scale[gene]
    moments = condition_moments(gim, data).double()
    moments[1, gene, 0], moments[1, gene, 1] = seen.mean(), 0.5 * math.log(seen.var(unbiased=False))

    def minus_log_likelihood(psi: torch.Tensor) -> torch.Tensor:
        return (0.5 * ((seen - psi[0]) * torch.exp(-psi[1])).square() + psi[1]).sum()

    curvature = torch.autograd.functional.hessian(minus_log_likelihood, moments[1, gene, :2]).diagonal()
    found = _information(gim, data, moments.float())[1, gene]
    torch.testing.assert_close(found[:2].double(), curvature, rtol=1e-4, atol=0)
    if kind == "ziln":
        n, zeros = len(column), len(column) - len(seen)
        rate = (zeros + 0.5) / (n + 1)
        assert float(found[2]) == pytest.approx(n * rate * (1 - rate), rel=1e-4)


def test_the_penalty_of_the_refit_is_that_of_its_priors() -> None:
    nets = make_gim("mlp").interventions.effect_net
    expected = 0.0
    for net in nets:
        hidden = [p for name, p in net.named_parameters() if name.startswith("net.") and name.endswith("weight")]
        expected += 0.5 / 0.3**2 * sum(float(p.square().sum()) for p in hidden)
        expected += 0.5 / 2.0**2 * float(net.skip.weight.square().sum())
    assert float(_penalty(nets, 2.0)) == pytest.approx(expected, rel=1e-5)


# -- optimisation -----------------------------------------------------------------------------------------


def rates(config: FitConfig, step: int) -> list[float]:
    """Learning rates of mechanisms, targets and graph, as shares of the first."""
    gim = make_gim("linear")
    optimiser = make_optimiser(gim, config)
    set_learning_rates(optimiser, config, step)
    return [group["lr"] / group["base_lr"] for group in optimiser.param_groups]


def test_after_a_search_structure_waits_and_everything_settles() -> None:
    config = FitConfig(max_steps=1000, warmup_steps=100, settle_fraction=0.5)
    assert rates(config, 0) == [1, 0, 0]
    assert rates(config, 99) == [1, 0, 0]
    assert rates(config, 100) == [1, 1, 1]
    assert rates(config, 500) == [1, 1, 1]
    assert rates(config, 750) == pytest.approx([0.5] * 3)
    assert rates(config, 999) == pytest.approx([0.02] * 3)
    assert rates(replace(config, init="random"), 999) == [1, 1, 1]


def test_the_optimiser_forgets_old_squares_in_a_hundred_steps() -> None:
    """After a hundred times larger gradients, steps are of full size again within a few hundred steps."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    betas = make_optimiser(make_gim("linear"), FitConfig()).param_groups[0]["betas"]
    adam = torch.optim.Adam([parameter], lr=1e-3, betas=betas)
    sizes = []
    for step in range(700):
        before = parameter.item()
        parameter.grad = torch.tensor([100.0 if step < 50 else 1.0])
        adam.step()
        sizes.append(before - parameter.item())
    assert sizes[100] < 0.3e-3
    assert sizes[-1] > 0.2e-3


def test_a_resumed_fit_has_the_multipliers_of_the_whole_one(tmp_path) -> None:
    """The constraint weighs as much as the likelihood here, so that a fit without its multipliers is another."""
    settings = {
        "mechanism": "linear", "init": "random", "network_hidden": (8,), "n_graphs": 2, "batch_size": 32,
        "check_every": 4, "patience": 1, "max_wait": 1, "sparsity_steps": 1, "penalty": 5.0,
        "acyclicity_tolerance": 0.0, "graph_sparsity": 0.1,
    }  # fmt: skip
    data = linear_data()
    whole = fit(data, make_config(max_steps=32, **settings), progress=False)
    path = tmp_path / "fit.ckpt"
    fit(data, make_config(max_steps=16, **settings), progress=False, checkpoint=path)
    resumed = fit(data, make_config(max_steps=32, **settings), progress=False, checkpoint=path)
    assert whole.history["multiplier"][4] > 0
    assert resumed.history["multiplier"] == whole.history["multiplier"]
    assert resumed.history["penalty"] == whole.history["penalty"]
    for name, value in whole.gim.state_dict().items():
        assert torch.equal(resumed.gim.state_dict()[name], value), name


def test_every_graph_sees_every_condition() -> None:
    """Cells are dealt to the graphs of a step by position: no graph may get the controls alone."""
    data = linear_data(n=60, n_control=60)
    torch.manual_seed(0)
    batch = BalancedSampler(data, 240).draw()
    for share in batch.condition.split(60):
        assert len(share.unique()) == data.n_conditions


def test_screening_looks_within_conditions() -> None:
    """A parent whose pull within conditions is undone between them beats one that moves with the conditions alone."""
    rng = np.random.default_rng(0)
    n, conditions = 400, 8
    condition = np.repeat(np.arange(conditions), n)
    level = np.linspace(-1.5, 1.5, conditions)[condition]
    parent = rng.standard_normal(len(condition)) - 0.7 * level
    child = parent + 0.3 * rng.standard_normal(len(condition)) + 2.1 * level
    mover = 0.8 * level + rng.standard_normal(len(condition))
    x = np.column_stack([child, parent, mover, *rng.standard_normal((3, len(condition)))])
    total = np.corrcoef(x.T)[0]
    assert abs(total[2]) > abs(total[1]) + 0.1  # over all cells the other gene looks nearer
    membership = torch.eye(conditions)[:, 1:]
    data = TrainingData(
        torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(condition), torch.zeros(len(x), dtype=torch.bool),
        torch.eye(conditions - 1), membership,
    )  # fmt: skip
    assert 1 in local_scores(data).screen(1)[0]
