"""Structure behind counts: moments, expectation, evidence, targets."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from scgim.data import PerturbationData
from scgim.inference import TrainingData, fit, make_config
from scgim.inference.latent import LatentCells
from scgim.inference.moments import MomentScores, basis, basis_slope, moments
from scgim.model import Counting


def counted_chain(seed: int = 0, n: int = 200, edges: bool = True, permuted: tuple[int, ...] = (0, 1, 2, 3, 4)):
    """0 -> 1 -> 2 and 3, 4 alone, at 4 counts a gene; "A" changes gene 0, "B" gene 1, "C" nothing."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(4), [2 * n, n, n, n])
    z = 0.7 * rng.standard_normal((len(codes), 5))
    strength = 1.2 if edges else 0.0
    z[:, 0] += 1.5 * (codes == 1)
    z[:, 1] = np.where(codes == 2, -1.5 + 0.5 * z[:, 1], z[:, 1] + strength * np.tanh(z[:, 0]))
    z[:, 2] += strength * z[:, 1]
    size = np.exp(0.4 * rng.standard_normal(len(codes)))
    counts = rng.poisson(size[:, None] * 4.0 * np.exp(z))[:, list(permuted)].astype(np.float32)
    names = ["control", "A", "B", "C"]
    table = pd.DataFrame(
        {"condition": names, "perturbation": names, "dose": np.nan, "is_control": [True] + [False] * 3}
    )
    return PerturbationData(np.log1p(counts / size[:, None]), codes, table, np.eye(4), counts=counts, size_factor=size)


def fitted(data: PerturbationData, rng: int = 0, **settings):
    config = make_config(mechanism="count", max_steps=30, check_every=15, n_shakes=5, **settings)
    return fit(TrainingData.of(data), config, rng=rng, progress=False)


def targets_of(result, data: PerturbationData) -> np.ndarray:
    tensors = TrainingData.of(data)
    prob, _ = result.gim.combine(result.gim.atomic(tensors.features), tensors.membership)
    return prob.detach().numpy() > 0.5


@pytest.fixture(scope="module")
def chain():
    data = counted_chain()
    return data, fitted(data)


def test_planted_graph_and_targets_are_recovered_from_counts(chain):
    data, result = chain
    assert set(zip(*np.nonzero(result.graph), strict=True)) == {(0, 1), (1, 2)}
    assert set(zip(*np.nonzero(targets_of(result, data)), strict=True)) == {(1, 0), (2, 1)}


def test_genes_drawn_independently_at_real_depths_have_no_edges():
    result = fitted(counted_chain(seed=1, edges=False))
    assert not result.graph.any()


@pytest.mark.usefixtures("quick_fits")
def test_permuting_genes_permutes_the_structure():
    order = (3, 1, 4, 0, 2)
    data, turned = counted_chain(), counted_chain(permuted=order)
    one, other = fitted(data), fitted(turned)
    assert one.graph.any() and targets_of(one, data).any()
    np.testing.assert_array_equal(other.graph, one.graph[np.ix_(order, order)])
    np.testing.assert_array_equal(targets_of(other, turned), targets_of(one, data)[:, order])


@pytest.mark.usefixtures("quick_fits")
def test_the_same_seed_gives_the_same_fit_and_another_another():
    data = counted_chain()
    result, again, other = (fitted(data, rng=seed) for seed in (0, 0, 1))
    for one, two in zip(result.gim.parameters(), again.gim.parameters(), strict=True):
        assert torch.equal(one, two)
    assert any(
        not torch.equal(one, two) for one, two in zip(result.gim.parameters(), other.gim.parameters(), strict=True)
    )


def test_the_joint_fit_keeps_what_the_search_found(chain):
    data, short = chain
    config = make_config(mechanism="count", max_steps=120, check_every=60, n_shakes=5)
    longer = fit(TrainingData.of(data), config, rng=0, progress=False)
    np.testing.assert_array_equal(longer.graph, short.graph)
    np.testing.assert_array_equal(targets_of(longer, data), targets_of(short, data))


def test_the_joint_fit_raises_the_evidence_of_the_counts():
    data = counted_chain(n=150)
    valid = np.arange(len(data.x)) % 5 == 0
    tensors = TrainingData.of(PerturbationData(**{**vars_of(data), "valid": valid}))
    config = make_config(mechanism="count", max_steps=80, check_every=10, n_shakes=0)
    losses = fit(tensors, config, rng=0, progress=False).history["valid_loss"]
    assert losses[-1] < losses[0]


def vars_of(data: PerturbationData) -> dict:
    names = ("x", "codes", "conditions", "part_features", "membership", "parts", "counts", "size_factor")
    return {name: getattr(data, name) for name in names}


@pytest.mark.parametrize("change", [{"init": "random"}, {"objective": "log_mean_exp"}])
def test_a_random_start_is_refused(change):
    with pytest.raises(ValueError, match="starts from a search"):
        make_config(mechanism="count", **change)


def test_moments_give_the_regression_on_the_cells():
    rng = np.random.default_rng(0)
    z = torch.as_tensor(rng.standard_normal((1, 300, 3)))
    z[0, :, 2] += torch.tanh(z[0, :, 0])
    condition = torch.arange(300) % 2
    scores = MomentScores(
        np.array([150, 150]), moments(z, condition, 2), np.array([False, True]), shift=False,
        graph_sparsity=5.0, target_sparsity=np.full(3, 1e9),
    )  # fmt: skip
    found = scores.regression(2, frozenset({0}))
    found.refit(np.zeros(2, dtype=bool))
    x = torch.cat([torch.ones(300, 1).double(), basis(z[0, :, 0])], 1).numpy()
    beta = np.linalg.solve(x.T @ x + np.eye(4), x.T @ z[0, :, 2].numpy())
    np.testing.assert_allclose(found.beta, beta, rtol=1e-3, atol=1e-4)
    gain = scores.score(2, [frozenset({0})])[0][0] - scores.score(2, [frozenset()])[0][0]
    idle = scores.score(2, [frozenset({1})])[0][0] - scores.score(2, [frozenset()])[0][0]
    assert gain > 10 > 0 > idle


def test_slopes_of_the_functions():
    z = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    for f in range(3):
        (slope,) = torch.autograd.grad(basis(z)[:, f].sum(), z)
        torch.testing.assert_close(slope, basis_slope(z)[:, f].detach())


def test_a_combination_whose_parts_never_occur_alone_has_its_targets():
    rng, n = np.random.default_rng(0), 200
    codes = np.repeat([0, 1], [2 * n, n])
    z = 0.5 * rng.standard_normal((3 * n, 4))
    z[codes == 1, 0] += 2.0
    counts = rng.poisson(4 * np.exp(z)).astype(np.float32)
    names = ["control", "A+B"]
    table = pd.DataFrame({"condition": names, "perturbation": names, "dose": np.nan, "is_control": [True, False]})
    data = PerturbationData(
        np.log1p(counts), codes, table, np.eye(2), np.array([[0, 0], [1, 1]]), ["A", "B"],
        counts=counts, size_factor=np.ones(3 * n),
    )  # fmt: skip
    assert targets_of(fitted(data), data)[1].tolist() == [True, False, False, False]


def test_size_factors_that_few_counts_tell_make_no_edges():
    """Independent genes: the noise of a depth that 20 counts tell is in all of them."""
    rng, n, genes, unit = np.random.default_rng(0), 700, 6, 20.0
    size = np.exp(0.3 * rng.standard_normal(n))
    counts = rng.poisson(10 * size[:, None] * np.exp(0.3 * rng.standard_normal((n, genes)))).astype(np.float32)
    told = np.maximum(rng.poisson(unit * size), 1) / unit
    table = pd.DataFrame({"condition": ["control", "A"], "perturbation": ["control", "A"], "dose": np.nan})
    table["is_control"] = [True, False]
    data = PerturbationData(
        np.log1p(counts / told[:, None]), (np.arange(n) % 3 == 0).astype(int), table, np.eye(2), counts=counts,
        size_factor=told,
    )  # fmt: skip
    assert fitted(data).graph.sum() >= 3
    assert not fitted(replace(data, measured={"rest": 0.2, "total": unit / 0.2})).graph.any()


def test_size_factors_are_drawn_from_what_all_counts_tell():
    """Means and draws of many cells of one expression: of the gamma, by its two moments."""
    n, unit, z = 4000, 30.0, torch.tensor([0.5, -1.0, 0.2]).double()
    counting = Counting(3)
    counting.baseline.data = torch.tensor([[1.0, 2.0, 0.0]])
    counts, zeros = torch.tensor([4.0, 7.0, 0.0]).double().expand(n, 3), torch.zeros(n, dtype=torch.long)
    cells = LatentCells(counts, torch.full((n,), np.log(2.0)).double(), zeros, zeros, 1, counting, unit)
    rows, expression = torch.arange(n), z.expand(n, 3)
    shape, rate = 2.0 * unit + 11.0, unit + float((torch.tensor([[1.0, 2.0, 0.0]]).double() + z).exp().sum())
    cells.update_sizes(rows, expression)
    np.testing.assert_allclose(cells.log_size.exp(), shape / rate, rtol=1e-6)
    cells.update_sizes(rows, expression, torch.Generator().manual_seed(0))
    drawn = cells.log_size.exp().numpy()
    assert drawn.mean() == pytest.approx(shape / rate, rel=0.01)
    assert drawn.std() == pytest.approx(np.sqrt(shape) / rate, rel=0.05)
    cells.update_sizes(rows, expression + 30)  # no gene counts for more than its counts allow
    assert 0 < (np.log(2.0) - cells.log_size[0]) * np.sqrt(2 * unit) < 4
    certain = LatentCells(counts, torch.zeros(n).double(), zeros, zeros, 1, counting)
    certain.update_sizes(rows, expression)
    assert not certain.log_size.any()
