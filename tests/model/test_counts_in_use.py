"""A model of counts in use: means, sampled cells, counterfactuals, slopes, on a planted system."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import stats
from small_counts import N_GENES, NOISE, RATE, WEIGHTS, doing, nothing, planted, targeting

from scgim.inference.start import _teach_calls
from scgim.model import (
    Action,
    Batch,
    Counting,
    FittedGIM,
    Interventions,
    counterfactual,
    laplace,
    mechanism_residuals,
)
from scgim.model.fitted import normalised


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(fitted: FittedGIM, found: Interventions, n: int, seed: int = 0) -> np.ndarray:
    return fitted.sample_counts(found, 0, n, generator(seed)).counts


def observed(fitted: FittedGIM, n: int, seed: int = 5):
    """Unperturbed cells as `counterfactual_counts` takes them."""
    drawn = fitted.sample_counts(nothing(fitted), 0, n, generator(seed))
    size = torch.as_tensor(np.log(drawn.size_factor)).float()
    return torch.as_tensor(drawn.counts), size, torch.as_tensor(drawn.batch)


# -- means ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dispersion", [0.0, 0.5])
def test_the_expected_expression_is_the_mean_of_what_is_counted(dispersion: float) -> None:
    """From genes that are hardly ever seen to some of which there are many."""
    rates = torch.tensor([0.05, 0.2, 1.0, 5.0, 50.0])
    counting = Counting(len(rates), 2)
    counting.baseline.copy_(torch.stack([rates.log(), rates.log() + 0.8]))
    counting.dispersion.fill_(dispersion)
    counting.describe(0.5 * torch.randn(3000, generator=generator()), (torch.arange(3000) % 4 > 0).long())
    mean, log_scale = torch.full_like(rates, 0.2), torch.full_like(rates, -0.2)
    expected, n = counting.expected(mean, log_scale).numpy(), 200_000
    z = mean + log_scale.exp() * torch.randn(n, len(rates), generator=generator(1))
    size = counting.draw_sizes(n, generator(2))
    code = torch.multinomial(counting.shares, n, replacement=True, generator=generator(3))
    x = normalised(counting.draw(z, size, code, generator(4)).numpy(), size.double().exp().numpy())
    error = x.std(0) / np.sqrt(n)
    assert (np.abs(x.mean(0) - expected) < 4 * error).all()
    assert (error < 0.01 * expected).all()  # it could be seen


def test_genes_never_counted_and_counted_without_end_have_finite_means() -> None:
    counting = Counting(3)
    found = counting.mean_at_rate(torch.tensor([-torch.inf, -40.0, 60.0]))
    assert found[0] == 0
    assert 0 <= found[1] < 1e-5
    assert found[2] == pytest.approx(16.0, abs=0.1)  # no more is distinguished


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_the_mean_as_a_target_is_that_of_sampled_cells(intervention: str) -> None:
    fitted, n = planted(intervention=intervention, rate=1.0), 60_000
    found = targeting(fitted, -1.0, g1=True, g4=True)
    x = normalised(*fitted.sample_counts(found, 0, n, generator(1))[:2])
    control = normalised(*fitted.sample_counts(nothing(fitted), 0, n, generator(2))[:2])
    mean = fitted.mean_as_target(found, control.mean(0))[0]
    for gene in (1, 4):
        error = np.hypot(x[:, gene].std(), control[:, gene].std()) / np.sqrt(n)
        assert abs(x[:, gene].mean() - mean[gene]) < 4 * error
        assert abs(control[:, gene].mean() - mean[gene]) > 20 * error


def test_of_a_gene_that_is_held_the_effect_is_what_is_seen_of_it() -> None:
    fitted, n = planted(), 40_000
    found = doing(g1=0.7, g4=0.0)
    x = fitted.sample(found, 0, n, generator())
    effect = fitted.expected_effect(found)[0]
    assert abs(x[:, 1].mean() - effect[1]) < 4 * x[:, 1].std() / np.sqrt(n)
    assert effect[1] < 0.69  # log1p is concave: less than the value of the rate
    assert effect[4] == 0 == x[:, 4].max()


# -- sampled cells ----------------------------------------------------------------------------------------


def test_counts_are_whole_and_size_factors_are_those_given() -> None:
    fitted = planted(n_batches=3)
    size, batch = np.array([0.5, 1.0, 2.0]), np.array([2, 0, 1])
    drawn = fitted.sample_counts(nothing(fitted), 0, 3, generator(), size, batch)
    assert (drawn.counts == np.rint(drawn.counts)).all()
    np.testing.assert_array_equal(drawn.size_factor, size)
    np.testing.assert_array_equal(drawn.batch, batch)
    free = fitted.sample_counts(nothing(fitted), 0, 3000, generator())
    np.testing.assert_allclose(np.quantile(np.log(free.size_factor), [0.1, 0.5, 0.9]), 0.4 * stats.norm.ppf(
        [0.1, 0.5, 0.9]), atol=0.05)  # fmt: skip
    assert (np.abs(np.bincount(free.batch) / 3000 - 1 / 3) < 0.04).all()


def test_a_batch_has_its_own_rates() -> None:
    fitted = planted(n_batches=2)
    fitted.gim.counting.baseline[1, 4] += 1.0
    first, second = (
        fitted.sample_counts(nothing(fitted), 0, 4000, generator(), batch=np.full(4000, code)).counts for code in (0, 1)
    )
    ratio = second.mean(0) / first.mean(0)
    np.testing.assert_allclose(ratio, [1, 1, 1, 1, np.e], rtol=0.1)


def test_deeper_cells_have_more_counts_and_like_expression() -> None:
    fitted, n = planted(rate=20.0), 4000
    low, high = (fitted.sample_counts(nothing(fitted), 0, n, generator(), np.full(n, size)) for size in (0.5, 2.0))
    np.testing.assert_allclose(high.counts.mean(0) / low.counts.mean(0), 4, rtol=0.02)
    np.testing.assert_allclose(normalised(*high[:2]).mean(0), normalised(*low[:2]).mean(0), atol=0.08)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_holding_a_parent_moves_its_children_the_way_of_the_edge(value: float) -> None:
    fitted, n = planted(), 4000
    plain, held = sampled(fitted, nothing(fitted), n), sampled(fitted, doing(g0=value), n, seed=1)
    way = np.sign(value - 1)
    change = np.log((held.mean(0) + 1e-6) / plain.mean(0))
    assert change[1] * way > 0.3  # raised by its parent
    assert change[2] * way < -0.3
    assert change[3] * way > 0.1
    assert abs(change[4]) < 0.1
    if value == 0:
        assert not held[:, 0].any()


def test_a_parent_that_is_cut_off_has_no_effect_on_its_child() -> None:
    fitted, n = planted(), 6000
    for cut, differs in ((False, True), (True, False)):
        base = targeting(fitted, 0.3, **({"g1": True} if cut else {}))
        low, high = (sampled(fitted, base._replace(held=doing(g0=v).held), n, seed) for v, seed in ((0.2, 1), (2.5, 2)))
        for gene in (1, 3):
            assert (stats.ks_2samp(low[:, gene], high[:, gene]).pvalue < 1e-6) == differs
        assert stats.ks_2samp(low[:, 2], high[:, 2]).pvalue < 1e-6  # not cut off


# -- counterfactuals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dispersion", [0.0, 0.4])
def test_a_counterfactual_without_effect_returns_the_very_counts(dispersion: float) -> None:
    fitted = planted(dispersion=dispersion)
    cells = observed(fitted, 300)
    counts, touched = fitted.counterfactual_counts(*cells, nothing(fitted), generator())
    np.testing.assert_array_equal(counts, cells[0].numpy())
    assert not touched.any()


def test_a_counterfactual_leaves_what_is_not_downstream_and_moves_the_rest() -> None:
    fitted = planted()
    cells = observed(fitted, 2000)
    counts, touched = fitted.counterfactual_counts(*cells, doing(g1=3.0), generator())
    before = cells[0].numpy()
    assert (counts == np.rint(counts)).all()
    for gene in (0, 2, 4):
        np.testing.assert_array_equal(counts[:, gene], before[:, gene])
        assert not touched[:, gene].any()
    assert touched[:, [1, 3]].all()
    assert counts[:, 3].mean() > 1.3 * before[:, 3].mean()
    # the same cells: what was high stays high
    assert stats.spearmanr(counts[:, 3], before[:, 3])[0] > 0.5
    zero, _ = fitted.counterfactual_counts(*cells, doing(g1=0.0), generator())
    assert not zero[:, 1].any()
    assert (zero[:, 3] <= before[:, 3]).mean() > 0.9


def test_cells_in_a_counterfactual_are_distributed_as_cells_under_the_intervention() -> None:
    """Abduction, action and prediction, averaged over cells of the model itself, make the interventional cells."""
    fitted, n = planted(), 8000
    found = targeting(fitted, -0.8, g0=True)
    counts, _ = fitted.counterfactual_counts(*observed(fitted, n), found, generator())
    other = sampled(fitted, found, n, seed=9)
    plain = sampled(fitted, nothing(fitted), n, seed=10)
    for gene in range(4):
        error = np.hypot(counts[:, gene].std(), other[:, gene].std()) / np.sqrt(n)
        # The posterior is approximated by a normal: a twentieth of the effect at most.
        effect = abs(plain[:, gene].mean() - other[:, gene].mean())
        assert abs(counts[:, gene].mean() - other[:, gene].mean()) < 4 * error + 0.05 * effect
        assert effect > 8 * error
        assert abs((counts[:, gene] == 0).mean() - (other[:, gene] == 0).mean()) < 0.03


def test_counts_that_grow_keep_the_variance_of_a_negative_binomial() -> None:
    """A gene with hardly any noise but that of counting, at three times its rate."""
    fitted, n = planted(intervention="shift", dispersion=0.5, noise=1e-2), 20_000
    fitted.gim.counting.log_sizes.zero_()
    counts, _ = fitted.counterfactual_counts(
        *observed(fitted, n), targeting(fitted, float(np.log(3)), g4=True), generator()
    )
    mean = 9.0
    assert counts[:, 4].mean() == pytest.approx(mean, rel=0.03)
    assert counts[:, 4].var() == pytest.approx(mean + 0.5 * mean**2, rel=0.06)


def test_latent_expression_is_not_taken_for_expression() -> None:
    fitted = planted()
    x = torch.zeros(3, 5)
    with pytest.raises(TypeError, match="counterfactual_counts"):
        counterfactual(fitted.gim, fitted.graph, x, Action(x > 1, {}), generator())


@pytest.mark.parametrize(("rate", "dispersion"), [(0.5, 0.0), (3.0, 0.0), (3.0, 0.4)])
def test_the_posterior_of_the_noise_has_the_moments_of_the_noise(rate: float, dispersion: float) -> None:
    """Over cells of the model itself; at the mode it is far from 0 where little is counted."""
    fitted, n = planted(rate=rate, dispersion=dispersion), 6000
    counts, size, batch = observed(fitted, n)
    mechanisms = fitted.gim.mechanisms
    graph, none = torch.as_tensor(fitted.graph).float(), torch.zeros(n, 5, dtype=torch.bool)
    residuals = mechanism_residuals(mechanisms, graph, none, {})
    posterior = laplace(fitted.gim.counting, counts, size, batch, residuals, torch.zeros_like(counts), 15)
    left = residuals(posterior.draw(torch.randn(counts.shape, generator=generator(3)))).left.detach()
    error = NOISE / np.sqrt(n)
    assert (left.mean(0).abs() < 4 * error + 0.01).all()
    np.testing.assert_allclose(left.std(0).numpy(), NOISE, rtol=0.05)


# -- slopes -----------------------------------------------------------------------------------------------


def test_slopes_are_those_of_the_latent_expression() -> None:
    slopes = planted().slopes()
    for (cause, effect), weight in WEIGHTS.items():
        assert slopes[cause, effect] == pytest.approx(weight, abs=1e-5)
    assert np.count_nonzero(slopes) == len(WEIGHTS)
    assert NOISE > 0


# -- the bound --------------------------------------------------------------------------------------------


def test_the_loss_is_a_bound_of_the_evidence() -> None:
    """Given the posterior, Pyro's bound lies hardly below the log likelihood of the counts."""
    fitted, n = planted(), 3000
    gim = fitted.gim
    counts, size, code = observed(fitted, n)
    batch = Batch(
        torch.zeros(n, 5), torch.zeros(n, dtype=torch.long), torch.ones(n), torch.zeros(1, 5), torch.zeros(1, 1),
        counts=counts, log_size=size, batch_code=code,
    )  # fmt: skip
    with torch.no_grad():
        bounds = [-Trace_ELBO().loss(gim.model, gim.guide, batch) - float(gim.log_prior(batch, 1.0)) for _ in range(5)]
        evidence = float(gim.evidence(batch).sum())
    assert abs(np.mean(bounds) - evidence) < 0.1 * n
    assert evidence < -5 * n  # nats: a tenth of one a cell is little


def test_mechanisms_of_new_cells_go_no_higher_than_training_cells():
    fitted, n = planted(noise=0.1), 400
    found = targeting(fitted, 5.0, log_scale=-3.0, g0=True)
    free = fitted.sample_counts(found, 0, n, torch.Generator().manual_seed(0))
    fitted.gim.counting.highest.copy_(torch.tensor([6.0, 1.0, 6.0, 6.0, 6.0]))
    kept = fitted.sample_counts(found, 0, n, torch.Generator().manual_seed(0))
    per_size = [drawn.counts[:, 1].sum() / drawn.size_factor.sum() for drawn in (free, kept)]
    assert per_size[0] > 100 * RATE  # g0 raises g1 by as much as itself
    assert per_size[1] == pytest.approx(RATE * np.exp(1.0 + 0.1**2 / 2), rel=0.1)
    assert kept.counts[:, 0].mean() == pytest.approx(free.counts[:, 0].mean(), rel=0.03)


def test_noise_of_a_model_behind_counts_is_bounded():
    gim = planted(noise=5.0).gim
    gim.bound_noise()
    assert float(gim.mechanisms.total_log_scale().detach().exp().max()) == pytest.approx(np.sqrt(2), rel=1e-5)
    assert float(gim.replaced_parameters(torch.full((1, 5, 2), 3.0))["log_scale"].max().exp()) <= np.sqrt(2) + 1e-5


def test_new_cells_have_the_targets_that_are_called_not_those_that_are_told_as_sure():
    fitted = planted()
    found = targeting(fitted, 2.0, log_scale=-3.0, g4=True)
    unsure = found._replace(prob=0.6 * found.prob, called=found.prob)
    np.testing.assert_array_equal(sampled(fitted, unsure, 300), sampled(fitted, found, 300))
    half = sampled(fitted, unsure._replace(called=None), 300)[:, 4].mean()
    assert half < 0.8 * sampled(fitted, found, 300)[:, 4].mean()


def test_the_network_of_calls_learns_calls_and_keeps_the_odds_of_others():
    gim = planted().gim
    features, told = torch.eye(5), torch.full((5, 5), 0.2)
    told[torch.arange(5), torch.arange(5)] = 1.0
    _teach_calls(gim.calls, features, told, gim.priors, 400)
    called = gim.called(features, None, torch.eye(5))
    assert float(called.diagonal().min()) > 0.9
    assert float(called[0, 1:].min()) > 0.1 and float(called[0, 1:].max()) < 0.35
    known = torch.full((5, 5), torch.nan)
    known[0, 0] = 0.0
    assert float(gim.called(features, known, torch.eye(5))[0, 0]) < 1e-6
    assert not any(parameter.requires_grad for parameter in gim.calls.parameters())


def test_a_condition_changes_the_depth_of_its_cells_and_the_control_has_the_usual_one():
    fitted = planted()
    fitted.gim.counting.depth[:] = torch.tensor([0.7, -0.5, 0.0, 0.0, 0.0])
    members = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = fitted.interventions(torch.eye(N_GENES)[:2], members)
    sizes = [np.log(fitted.sample_counts(found, row, 4000, generator(1)).size_factor) for row in range(4)]
    away = [own.mean() - sizes[0].mean() for own in sizes]
    np.testing.assert_allclose(away, [0.0, 0.7, -0.5, 0.2], atol=1e-5)  # the same draws, moved
    given = fitted.sample_counts(found, 1, 3, generator(1), size_factor=np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(given.size_factor, [1.0, 2.0, 3.0])
