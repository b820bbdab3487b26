"""Priors, means, units and samples of the model against closed forms, one number at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats
from small_gim import N_GENES, N_PARTS, make_batch, make_gim

from scgim.model import (
    KINDS,
    Action,
    AtomicInterventions,
    FittedGIM,
    FreeInterventions,
    Mechanisms,
    combine,
    draw_action,
    draw_noise,
    n_effects,
    propagate,
    touched_genes,
)

CHAIN = np.diag(np.ones(N_GENES - 1, dtype=bool), 1)


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(float)


# -- priors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "chosen"),
    [
        ("mechanism_scale", ("mechanisms.weight_in", "mechanisms.weight_out", "mechanisms.bias")),
        ("intervention_scale", ("interventions.effect_net.0.net.0.weight", "interventions.target_net.skip.weight")),
        ("target_scale", ("interventions.target_net.net.0.weight", "interventions.target_net.net.2.weight")),
    ],
)
def test_weights_have_normal_priors_of_the_scale_that_is_set(field: str, chosen: tuple[str, ...]) -> None:
    """What setting weights to zero gains, by scipy's density."""
    gim, batch, expected = make_gim("mlp", "shift"), make_batch(), 0.0
    others = {"mechanism_scale": 0.7, "intervention_scale": 0.8, "target_scale": 0.9}
    gim.priors = replace(gim.priors, **{**others, field: 3.0})
    with torch.no_grad():
        before = gim.log_prior(batch, 0.0)
        for name in chosen:
            weight = gim.get_parameter(name)
            prior = stats.norm(0, 3.0)
            expected += weight.numel() * prior.logpdf(0) - prior.logpdf(numpy_of(weight)).sum()
            weight.zero_()
        after = gim.log_prior(batch, 0.0)
    assert expected > 0.1
    assert float(after - before) == pytest.approx(expected, abs=2e-3)


def test_free_effects_have_a_normal_prior_and_free_targets_none() -> None:
    free = FreeInterventions(2, 3, 2)
    with torch.no_grad():
        free.effects += torch.randn(2, 3, 2)
        free.target_logits += 4.0
        expected = stats.norm(0, 2.5).logpdf(numpy_of(free.effects)) - stats.norm(0, 2.5).logpdf(0)
        assert float(free.log_prior(2.5)) == pytest.approx(expected.sum(), rel=1e-5)


# -- means ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_expected_expression_is_the_mean_of_the_mechanism(kind: str) -> None:
    gim, x = make_gim(kind), make_batch(kind).x
    mechanisms, graph = gim.mechanisms, torch.as_tensor(CHAIN, dtype=torch.float32).unsqueeze(0)
    location = numpy_of(mechanisms.location(x.unsqueeze(0), graph)[0])
    expected = location
    if kind == "ziln":
        scale = np.exp(numpy_of(mechanisms.log_scale)) * numpy_of(mechanisms.response_scale)
        shown = 1 - special.expit(numpy_of(mechanisms.zero_logit))
        expected = shown * stats.lognorm(s=scale, scale=np.exp(location)).mean()
    np.testing.assert_allclose(numpy_of(mechanisms.expected(x, graph)), expected, rtol=1e-4, atol=1e-5)


# -- samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_sampled_genes_follow_their_own_or_their_replaced_mechanism(kind: str, intervention: str) -> None:
    """Half of the cells are targeted in every gene: the same noise through one or the other, written out."""
    gim = make_gim(kind, intervention)
    psi = torch.linspace(-1.2, 1.5, N_GENES * n_effects(intervention, kind == "ziln")).reshape(N_GENES, -1)
    noise = draw_noise(gim, 400, torch.Generator().manual_seed(0))
    targets = (torch.arange(400) % 2 == 0).unsqueeze(1).expand(-1, N_GENES)
    parameters = {name: value.expand(400, -1) for name, value in gim.replaced_parameters(psi).items()}
    found = numpy_of(propagate(gim, CHAIN, noise, Action(targets, parameters)))
    m = gim.mechanisms
    centre, unit = numpy_of(m.response_center), numpy_of(m.response_scale)
    scale = np.exp(numpy_of(m.log_scale)) * unit
    for gene in range(N_GENES):
        parents = torch.as_tensor([gene - 1] if gene else [], dtype=torch.long)
        effect = psi[gene].numpy().astype(float)
        own = numpy_of(m.location_of(gene, torch.as_tensor(found, dtype=torch.float32), parents))
        mean, spread = (own + unit[gene] * effect[0], scale[gene])
        if intervention == "hard":
            mean, spread = np.full(400, centre[gene] + unit[gene] * effect[0]), unit[gene] * np.exp(effect[1])
        hit, z = targets[:, gene].numpy(), numpy_of(noise.normal[:, gene])
        expected = np.where(hit, mean + spread * z, own + scale[gene] * z)
        if kind == "ziln":
            logit = m.zero_logit[gene].item()
            rate = special.expit(np.where(hit, logit + effect[-1], logit))
            expected = np.where(numpy_of(noise.uniform[:, gene]) < rate, 0.0, np.exp(expected))
            assert (expected == 0).any() and (expected > 0).any()
        np.testing.assert_allclose(found[:, gene], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_atomic_interventions_are_drawn_with_their_probability_and_spread(intervention: str) -> None:
    gim, n = make_gim("ziln", intervention), 20_000  # effect_noise is 0.1
    prob = torch.tensor([0.0, 0.03, 0.4, 0.9, 1.0])
    psi = torch.zeros(N_GENES, n_effects(intervention, True))
    action = draw_action(gim, prob, psi, n, torch.Generator().manual_seed(0))
    error = np.sqrt(numpy_of(prob * (1 - prob)) / n)
    assert (np.abs(numpy_of(action.targets.float().mean(0) - prob)) <= 4 * error + 1e-7).all()
    unit, one = numpy_of(gim.mechanisms.response_scale), np.ones(N_GENES)
    units = {"mean": unit, "shift": unit, "log_scale": one, "zero_logit": one, "zero_shift": one}
    for name, value in action.parameters.items():
        np.testing.assert_allclose(numpy_of(value).std(0), 0.1 * units[name], rtol=4 / np.sqrt(2 * n), err_msg=name)


def test_effects_of_parts_are_drawn_around_the_networks_output() -> None:
    gim, batch = make_gim(), make_batch()
    noise = torch.randn(N_PARTS, N_GENES, 2)
    with torch.no_grad():
        drawn, mean = (gim.atomic(batch.features, noise=given) for given in (noise, None))
    torch.testing.assert_close(drawn.effects - mean.effects, 0.1 * noise, atol=1e-5, rtol=1e-4)
    assert torch.equal(drawn.target_logits, mean.target_logits)


# -- units ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_genes_that_hardly_vary_are_not_blown_up(kind: str) -> None:
    """Values that differ by rounding are alike: as a parent they move no child, as a child none is impossible."""
    x = torch.exp(torch.randn(300, 2, generator=torch.Generator().manual_seed(0)))
    x[:, 1] = 2.0 + 1e-6 * (torch.arange(300) % 2)
    mechanisms = Mechanisms(2, kind, hidden=4, generator=torch.Generator().manual_seed(1))
    mechanisms.standardise(x)
    graph, moved = (1 - torch.eye(2)).unsqueeze(0), x.clone()
    moved[:, 1] += 1e-6
    with torch.no_grad():
        location, other = (mechanisms.location(cells.unsqueeze(0), graph)[0] for cells in (x, moved))
        assert float((other - location)[:, 0].abs().max() / mechanisms.response_scale[0]) < 0.01
        cost = mechanisms.log_prob(x, location) - mechanisms.log_prob(moved, location)
    assert float(cost[:, 1].abs().max()) < 0.1


# -- targets shared by a condition, and combinations ---------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_log_mean_exp_shares_one_target_among_the_cells_of_a_condition(kind: str) -> None:
    """`log((1 - p) prod own^w + p prod replaced^w)`, summed over conditions and genes."""
    gim, batch = make_gim(kind), make_batch(kind)
    graph = torch.as_tensor(CHAIN, dtype=torch.float32).unsqueeze(0)
    with torch.no_grad():
        prob, effects, _ = gim.condition_interventions(batch)
        own, replaced = (numpy_of(v) for v in gim.gene_log_likelihoods(batch.x, batch.condition, graph, effects))
        found = gim.cell_log_likelihood(batch, graph, objective="log_mean_exp")
    p, weight, expected = numpy_of(prob), numpy_of(batch.weight), 0.0
    for condition in range(len(p)):
        cells = batch.condition.numpy() == condition
        for gene in range(N_GENES):
            totals = [weight[cells] @ value[cells, gene] for value in (own, replaced)]
            shares = np.array([1 - p[condition, gene], p[condition, gene]])
            expected += special.logsumexp(totals, b=shares)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_two_hard_replacements_are_averaged_by_their_target_probabilities() -> None:
    prob, psi = np.array([[0.8, 0.1], [0.2, 0.6]]), np.array([[[1.0, 4.0], [2.0, 0.5]], [[5.0, -2.0], [3.0, 1.0]]])
    logits = torch.tensor(special.logit(prob), requires_grad=True)
    found_prob, found = combine(AtomicInterventions(logits, torch.tensor(psi)), torch.ones(1, 2).double(), False)
    np.testing.assert_allclose(numpy_of(found_prob)[0], 1 - (1 - prob).prod(0), rtol=1e-6)
    expected = (prob[..., None] * psi).sum(0) / prob.sum(0)[:, None]
    np.testing.assert_allclose(numpy_of(found)[0], expected, rtol=1e-4)
    # Which part replaces is no reason to call it a target: effects teach nothing about probabilities.
    with_effects, alone = (
        torch.autograd.grad(value, logits, retain_graph=True)[0]
        for value in (found_prob.sum() + found.sum(), found_prob.sum())
    )
    torch.testing.assert_close(with_effects, alone)


@pytest.mark.parametrize("unit", [None, 0.5])
def test_two_shifts_add_up_by_their_target_probabilities(unit: float | None) -> None:
    """What a targeted cell sees on average: of x itself, or of the relative change where x is log-normal."""
    prob, psi = np.array([[0.8, 0.3], [0.5, 0.6]]), np.array([[[1.0, 0.4], [2.0, 0.5]], [[0.7, -0.2], [-1.0, 1.0]]])
    parts = AtomicInterventions(torch.tensor(special.logit(prob)), torch.tensor(psi))
    log_unit = None if unit is None else torch.full((2,), unit).double()
    found_prob, found = combine(parts, torch.ones(1, 2).double(), True, log_unit=log_unit)
    anyone = 1 - (1 - prob).prod(0)
    np.testing.assert_allclose(numpy_of(found_prob)[0], anyone, rtol=1e-6)
    expected = (prob[..., None] * psi).sum(0) / anyone[:, None]
    if unit is not None:
        change = (prob * np.expm1(unit * psi[..., 0])).sum(0) / anyone
        expected[:, 0] = np.log1p(change) / unit
    np.testing.assert_allclose(numpy_of(found)[0], expected, rtol=1e-5)


def test_replaced_zero_rates_teach_nothing_about_the_genes_own() -> None:
    gim = make_gim("ziln")
    logit = gim.replaced_parameters(torch.zeros(N_GENES, 3, requires_grad=True))["zero_logit"]
    (gradient,) = torch.autograd.grad(logit.sum(), gim.mechanisms.zero_logit, allow_unused=True)
    assert gradient is None
    torch.testing.assert_close(logit, gim.mechanisms.zero_logit)


def test_spreads_of_rare_genes_are_pooled_with_those_of_all() -> None:
    """As if ten of a gene's cells had the spread of all genes together: one that two cells show has nearly that."""
    generator = torch.Generator().manual_seed(0)
    x = torch.exp(torch.tensor([0.5, 1.0, 0.1]) * torch.randn(400, 3, generator=generator))
    x[2:, 2] = 0.0
    mechanisms = Mechanisms(3, "ziln")
    mechanisms.standardise(x)
    logs = [np.log(column[column > 0]) for column in numpy_of(x).T]
    squares = np.array([((own - own.mean()) ** 2).sum() for own in logs])
    count = np.array([len(own) for own in logs])
    expected = np.sqrt((squares + 10 * squares.sum() / count.sum()) / (count + 10))
    np.testing.assert_allclose(numpy_of(mechanisms.response_scale), expected, rtol=1e-4)


@pytest.mark.parametrize("luck", [0.0, 1.0])
def test_no_draw_overrules_what_is_certain(luck: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control has no target and a known target is one, whatever number the sampler draws."""
    known = torch.full((N_PARTS, N_GENES), torch.nan)
    known[0] = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    gim, batch = make_gim(), make_batch(known_targets=known)
    gim.sample_targets = True
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(tuple(shape), luck))
    _, _, targets = gim._sample_latents(batch, 2)
    assert not targets[0].any()
    assert torch.equal(targets[1], known[0])
    assert bool(targets[2].all()) == bool(targets[2].any()) == bool(luck)  # what is open follows the draw


def test_one_targeted_ancestor_is_enough_to_touch_a_gene() -> None:
    graph = np.zeros((N_GENES, N_GENES), dtype=bool)
    graph[[0, 1, 2], [2, 2, 3]] = True  # g0 and g1 -> g2 -> g3, g4 alone
    targets = torch.tensor([[True, False, False, False, False], [False, False, False, False, True]])
    assert touched_genes(graph, Action(targets, {})).tolist() == [
        [True, False, True, True, False],
        [False, False, False, False, True],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_are_those_of_the_location(kind: str) -> None:
    model = FittedGIM(make_gim(kind), CHAIN)
    slopes, mechanisms = model.slopes(), model.gim.mechanisms
    assert (slopes[~CHAIN] == 0).all()
    cells = propagate(model.gim, CHAIN, draw_noise(model.gim, 500, torch.Generator().manual_seed(0)), None)
    graph = torch.as_tensor(CHAIN, dtype=torch.float32)[None]
    for cause, effect in zip(*np.nonzero(CHAIN), strict=True):
        moved = []
        for step in (-1e-2, 1e-2):
            x = cells.clone()
            x[:, cause] += step
            moved.append(float(mechanisms.location(x[None], graph)[0, :, effect].detach().mean()))
        assert slopes[cause, effect] == pytest.approx((moved[1] - moved[0]) / 2e-2, rel=0.02, abs=1e-3)
        if kind == "linear":
            unit = mechanisms.response_scale[effect] / mechanisms.scale[cause]
            assert slopes[cause, effect] == pytest.approx(float(mechanisms.weight[cause, effect] * unit), rel=1e-4)
