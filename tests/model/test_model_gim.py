"""The likelihood of a GIM against its definition; hard and shift interventions; what is known stays known."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from scipy import stats
from small_gim import MEMBERSHIP, N_CELLS, N_GENES, N_PARTS, make_batch, make_gim, permuted, permuted_batch

from scgim.model import GIM, KINDS, AtomicInterventions, FreeInterventions, Mechanisms, combine, n_effects

BOTH = ("hard", "shift")
CHAIN = torch.diag(torch.ones(N_GENES - 1), 1).unsqueeze(0)  # g0 -> g1 -> ...


def single_location(mechanisms: Mechanisms, x: np.ndarray, graph: np.ndarray, j: int) -> float:
    """Location of gene j of one cell, written out."""
    m = {name: value.detach().numpy().astype(float) for name, value in mechanisms.state_dict().items()}
    standard = (x - m["center"]) / m["scale"]
    if mechanisms.kind == "linear":
        out = sum(graph[i, j] * m["weight"][i, j] * standard[i] for i in range(len(x)))
    else:
        out = 0.0
        for h in range(mechanisms.hidden):
            inner = sum(graph[i, j] * m["weight_in"][i, j, h] * standard[i] for i in range(len(x)))
            out += m["weight_out"][j, h] * np.tanh(inner + m["bias_in"][j, h])
    return m["response_center"][j] + m["response_scale"][j] * (out + m["bias"][j])


def log_density(kind: str, x: float, location: float, scale: float, zero_logit: float) -> float:
    if kind != "ziln":
        return stats.norm(location, scale).logpdf(x)
    if x == 0:
        return -np.log1p(np.exp(-zero_logit))
    return stats.lognorm(s=scale, scale=np.exp(location)).logpdf(x) - np.log1p(np.exp(zero_logit))


def with_outliers(density: float, kind: str, x: float, center: float, unit: float, share: float = 0.01) -> float:
    """One cell in a hundred shows any value: Cauchy in the gene's units (of log x), and zero half of the time."""
    if kind != "ziln":
        odd = stats.cauchy(center, unit).pdf(x)
    else:
        odd = 0.5 if x == 0 else 0.5 * stats.cauchy(center, unit).pdf(np.log(x)) / x
    return float(np.log((1 - share) * np.exp(density) + share * odd))


def direct_log_likelihood(gim: GIM, batch, graph, effects_noise) -> float:
    """`sum_cells w sum_j E_t log p(x_j | t_j)`, one number at a time (no combination of parts)."""
    kind, m = gim.mechanisms.kind, gim.mechanisms
    g = graph[0].numpy()
    logits, effects = (value.detach().numpy().astype(float) for value in gim.interventions(batch.features))
    effects = effects + gim.priors.effect_noise * effects_noise.numpy()
    unit, centre = m.response_scale.numpy().astype(float), m.response_center.numpy().astype(float)
    own_scale = np.exp(m.log_scale.detach().numpy().astype(float)) * unit
    zero = m.zero_logit.detach().numpy().astype(float) if kind == "ziln" else np.zeros(N_GENES)
    total = 0.0
    for c in range(len(batch.x)):
        x = batch.x[c].numpy().astype(float)
        parts = np.flatnonzero(batch.membership[batch.condition[c]].numpy())
        for j in range(N_GENES):
            location = single_location(m, x, g, j)
            odd = kind, x[j], centre[j], unit[j]
            value = own = with_outliers(log_density(kind, x[j], location, own_scale[j], zero[j]), *odd)
            if len(parts):
                (k,) = parts
                p, psi = 1 / (1 + np.exp(-logits[k, j])), effects[k, j]
                if gim.intervention == "shift":
                    shifted_zero = zero[j] + (psi[1] if kind == "ziln" else 0.0)
                    new = log_density(kind, x[j], location + unit[j] * psi[0], own_scale[j], shifted_zero)
                else:
                    shifted_zero = zero[j] + (psi[2] if kind == "ziln" else 0.0)
                    new = log_density(kind, x[j], centre[j] + unit[j] * psi[0], unit[j] * np.exp(psi[1]), shifted_zero)
                value = (1 - p) * own + p * with_outliers(new, *odd)
            total += float(batch.weight[c]) * value
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intervention", BOTH)
def test_log_likelihood_equals_its_definition(kind, intervention):
    gim, batch = make_gim(kind, intervention), make_batch(kind)
    batch.condition = batch.condition % 4  # no combination
    graph = (torch.rand(1, N_GENES, N_GENES) < 0.5).float() * gim.graph.allowed
    noise = torch.randn(N_PARTS, N_GENES, n_effects(intervention, kind == "ziln"))
    found = float(gim.cell_log_likelihood(batch, graph, noise).detach())
    assert found == pytest.approx(direct_log_likelihood(gim, batch, graph, noise), rel=2e-5)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("objective", ["elbo", "log_mean_exp"])
@pytest.mark.parametrize("intervention", BOTH)
def test_elbo_of_the_pyro_pair_is_log_likelihood_plus_log_prior(objective, intervention, sampled):
    gim, batch = make_gim("ziln", intervention), make_batch("ziln")
    gim.sample_targets = sampled
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        loss = Trace_ELBO().differentiable_loss(gim.model, gim.guide, batch, 2, objective, 1.7)
    torch.manual_seed(5)
    graph, noise, targets = gim._sample_latents(batch, 2)
    assert (targets is not None) == sampled
    expected = gim.cell_log_likelihood(batch, graph, noise, objective, targets) + gim.log_prior(batch, 1.7)
    torch.testing.assert_close(-loss, expected)
    parameters = [p for p in gim.parameters() if p.requires_grad]
    by_pyro = torch.autograd.grad(-loss, parameters, allow_unused=True)
    direct = torch.autograd.grad(expected, parameters, allow_unused=True)
    for name, a, b in zip([n for n, _ in gim.named_parameters()], by_pyro, direct, strict=True):
        torch.testing.assert_close(
            torch.zeros(1) if a is None else a,
            torch.zeros(1) if b is None else b,
            msg=name,
            atol=1e-3,
            rtol=1e-3,
        )


def test_the_graph_sample_carries_gradient_to_z():
    gim, batch = make_gim("mlp"), make_batch("mlp")
    torch.manual_seed(1)
    graph, noise, _ = gim._sample_latents(batch, 2)
    gim.cell_log_likelihood(batch, graph, noise).backward()
    assert torch.isfinite(gim.graph.z.grad).all()
    assert gim.graph.z.grad.abs().sum() > 0


def test_sampled_targets_are_unbiased_and_carry_gradient_to_the_target_network():
    gim, batch = make_gim("mlp"), make_batch("mlp")
    gim.sample_targets = True
    torch.manual_seed(3)
    prob = gim.condition_interventions(batch)[0].detach()
    draws = []
    for _ in range(400):
        graph, noise, targets = gim._sample_latents(batch, 2)
        draws.append(targets.detach())
    assert set(torch.stack(draws).unique().tolist()) <= {0.0, 1.0}
    control = batch.membership.sum(1) == 0
    assert not torch.stack(draws)[:, control].any()  # the control has no target, in no draw
    error = (torch.stack(draws).mean(0) - prob).abs()
    assert error.max() < 5 * (0.25 / 400) ** 0.5
    gim.cell_log_likelihood(batch, graph, noise, "log_mean_exp", targets).backward()
    gradients = [p.grad for p in gim.interventions.target_net.parameters()]
    assert all(torch.isfinite(g).all() for g in gradients) and sum(float(g.abs().sum()) for g in gradients) > 0


def _two_cells(log_scale: torch.Tensor) -> torch.Tensor:
    """Mean log density of cells of unit spread under this spread."""
    return -0.5 * math.log(2 * math.pi) - log_scale - 0.5 * torch.exp(-2 * log_scale)


def test_sparsity_terms_of_the_prior():
    gim, batch = make_gim(), make_batch()
    with torch.no_grad():
        slope = gim.log_prior(batch, 0.0) - gim.log_prior(batch, 2.0)
        assert slope == pytest.approx(2 * float(gim.condition_interventions(batch)[0].sum()), rel=1e-4)
        z, theta, phi = (
            sum(float(p.square().sum()) for n, p in module.named_parameters() if not (free and n.endswith("bias")))
            for module, free in ((gim.graph, False), (gim.mechanisms, False), (gim.interventions, True))
        )
        hidden = sum(float(layer.weight.square().sum()) for layer in list(gim.interventions.target_net.net)[::2])
        # The target network's hidden layers have a prior of their own.
        phi += hidden * (gim.priors.target_scale**-2 - 1)
        expected = -0.5 * (N_GENES * z + theta + phi) - 25.0 * float(gim.graph.probabilities().sum())
        # Spreads of the mechanisms and (where used) of what replaces them: as two cells of unit spread say.
        prob, effects, _ = gim.condition_interventions(batch)
        for share, log_scale in ((torch.ones(N_GENES), gim.mechanisms.log_scale), (prob, effects[..., 1])):
            cells = 2 * (stats.norm(0, 1).logpdf(0) - 0.5 - _two_cells(log_scale))
            expected -= float((share * cells).sum())
        assert float(gim.log_prior(batch, 0.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_log_mean_exp_is_at_least_the_elbo(kind):
    gim, batch = make_gim(kind), make_batch(kind)
    graph, noise = CHAIN, torch.randn(N_PARTS, N_GENES, n_effects("hard", kind == "ziln"))
    with torch.no_grad():
        mean_of_logs = gim.cell_log_likelihood(batch, graph, noise, "elbo")
        log_of_mean = gim.cell_log_likelihood(batch, graph, noise, "log_mean_exp")
    assert float(log_of_mean) >= float(mean_of_logs)


def test_renyi_bound_of_the_pair_is_at_least_the_elbo_of_the_same_samples():
    gim, batch = make_gim("linear"), make_batch("linear")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(2)
        elbo = -Trace_ELBO(num_particles=6).loss(gim.model, gim.guide, batch)
        torch.manual_seed(2)
        bound = -RenyiELBO(alpha=0, num_particles=6).loss(gim.model, gim.guide, batch)
    assert bound >= elbo


def test_shares_of_cells_see_their_own_graph():
    gim, batch = make_gim("mlp"), make_batch("mlp")
    empty = torch.zeros_like(CHAIN)
    effects = torch.zeros(len(MEMBERSHIP), N_GENES, 2)
    half = N_CELLS // 2
    with torch.no_grad():
        both, _ = gim.gene_log_likelihoods(batch.x, batch.condition, torch.cat([CHAIN, empty]), effects)
        first, _ = gim.gene_log_likelihoods(batch.x[:half], batch.condition[:half], CHAIN, effects)
        second, _ = gim.gene_log_likelihoods(batch.x[half:], batch.condition[half:], empty, effects)
    torch.testing.assert_close(both, torch.cat([first, second]))


@pytest.mark.parametrize("kind", KINDS)
def test_masked_parents_have_no_effect(kind):
    gim, batch = make_gim(kind), make_batch(kind)
    graph = CHAIN.clone()
    other = batch.x.clone()
    other[:, [0, 3, 4]] = batch.x.flip(0)[:, [0, 3, 4]]  # everything but g1, the one parent of g2
    with torch.no_grad():
        before = gim.mechanisms.location(batch.x.unsqueeze(0), graph)[0, :, 2]
        after = gim.mechanisms.location(other.unsqueeze(0), graph)[0, :, 2]
        torch.testing.assert_close(before, after)
        other[:, 1] += 1
        changed = gim.mechanisms.location(other.unsqueeze(0), graph)[0, :, 2]
    assert not torch.allclose(before, changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hard_replacement_cuts_the_parents_and_a_shift_keeps_them(kind):
    batch = make_batch(kind)
    other = batch.x.clone()
    other[:, 1] = batch.x.flip(0)[:, 1]
    full = (1 - torch.eye(N_GENES)).unsqueeze(0)
    for intervention in BOTH:
        gim = make_gim(kind, intervention)
        effects = torch.randn(len(MEMBERSHIP), N_GENES, n_effects(intervention, kind == "ziln"))
        with torch.no_grad():
            _, before = gim.gene_log_likelihoods(batch.x, batch.condition, full, effects)
            _, after = gim.gene_log_likelihoods(other, batch.condition, full, effects)
        same = torch.isclose(before[:, 2], after[:, 2]).all()
        assert bool(same) == (intervention == "hard")


@pytest.mark.parametrize("kind", KINDS)
def test_location_of_one_gene_equals_location_of_all(kind):
    gim, batch = make_gim(kind), make_batch(kind)
    graph = torch.triu(torch.rand(N_GENES, N_GENES) < 0.6, 1)
    with torch.no_grad():
        everything = gim.mechanisms.location(batch.x.unsqueeze(0), graph.float().unsqueeze(0))[0]
        for j in range(N_GENES):
            one = gim.mechanisms.location_of(j, batch.x, graph[:, j].nonzero().squeeze(1))
            torch.testing.assert_close(one, everything[:, j])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intervention", BOTH)
def test_permuting_genes_permutes_everything(kind, intervention):
    gim, batch = make_gim(kind, intervention), make_batch(kind)
    order = torch.tensor([3, 0, 4, 1, 2])
    new, new_batch = permuted(gim, order), permuted_batch(batch, order)
    graph = (torch.rand(1, N_GENES, N_GENES) < 0.5).float()
    noise = torch.randn(N_PARTS, N_GENES, n_effects(intervention, kind == "ziln"))
    new_graph = graph[:, order][:, :, order]
    with torch.no_grad():
        location = gim.mechanisms.location(batch.x.unsqueeze(0), graph)[..., order]
        torch.testing.assert_close(new.mechanisms.location(new_batch.x.unsqueeze(0), new_graph), location)
        for objective in ("elbo", "log_mean_exp"):
            old_value = gim.cell_log_likelihood(batch, graph, noise, objective)
            new_value = new.cell_log_likelihood(new_batch, new_graph, noise[:, order], objective)
            torch.testing.assert_close(new_value, old_value, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(new.log_prior(new_batch, 1.0), gim.log_prior(batch, 1.0))
        torch.testing.assert_close(
            new.graph.probabilities(), gim.graph.probabilities()[order][:, order], rtol=1e-4, atol=1e-5
        )


def test_units_are_those_of_the_data():
    x = torch.randn(500, 3) * torch.tensor([0.1, 1, 30]) + torch.tensor([5.0, 0, -2])
    gaussian = Mechanisms(3, "mlp")
    gaussian.standardise(x)
    torch.testing.assert_close(gaussian.response_center, x.mean(0))
    torch.testing.assert_close(gaussian.total_log_scale().exp(), x.std(0))
    counts = torch.where(torch.rand(500, 3) < torch.tensor([0.1, 0.5, 1.0]), torch.zeros(500, 3), x.abs() + 0.1)
    ziln = Mechanisms(3, "ziln")
    ziln.standardise(counts)
    for value in ziln.state_dict().values():
        assert torch.isfinite(value).all()
    torch.testing.assert_close(
        torch.sigmoid(ziln.zero_logit).detach(), (counts == 0).float().mean(0).clamp(1e-3, 1 - 1e-3)
    )
    positive = counts[:, 0][counts[:, 0] > 0].log()
    torch.testing.assert_close(ziln.response_center[0], positive.mean())


# -- what is known ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["elbo", "log_mean_exp"])
def test_known_targets_are_respected_whatever_the_evidence(objective):
    known = torch.full((N_PARTS, N_GENES), torch.nan)
    known[0] = torch.tensor([1.0, 0, 0, 0, 0])
    gim, batch = make_gim("mlp"), make_batch("mlp", known_targets=known)
    batch.condition = torch.ones_like(batch.condition)  # all cells under the part whose target is known
    batch.x = batch.x * 6 + 40  # hundreds of nats per cell for any other explanation
    effects = gim.interventions(batch.features).effects[:1]
    with torch.no_grad():
        prob, _, fixed = gim.condition_interventions(batch)
        assert fixed is None
        torch.testing.assert_close(prob[1], known[0], atol=1e-6, rtol=0)
        own, replaced = gim.gene_log_likelihoods(
            batch.x, batch.condition, CHAIN, effects.expand(len(MEMBERSHIP), -1, -1)
        )
        expected = torch.where(known[0] > 0.5, replaced, own).mul(batch.weight.unsqueeze(1)).sum()
        found = gim.cell_log_likelihood(batch, CHAIN, objective=objective)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)
    loss = gim.cell_log_likelihood(batch, CHAIN, objective=objective)
    gradient = torch.autograd.grad(loss, [*gim.interventions.target_net.parameters()], allow_unused=True)
    assert all(g is None or float(g.abs().max()) < 1e-4 for g in gradient)  # but for rounding


@pytest.mark.parametrize("objective", ["elbo", "log_mean_exp"])
@pytest.mark.parametrize("kind", KINDS)
def test_held_values_do_not_influence_any_gradient(objective, kind):
    """`do(g1 = a)`: whatever was measured of g1 says nothing about its own mechanism."""
    values, targets = torch.full((2, N_PARTS, N_GENES), torch.nan).unbind()
    values[0, 1], targets[0] = 2.0, 0.0
    targets[0, 1] = 1.0
    gim, batch = make_gim(kind), make_batch(kind, known_values=values, known_targets=targets)
    assert bool(gim.condition_interventions(batch)[2][1, 1])
    gradients = []
    for measured in (2.0, 0.001):
        batch.x = batch.x.clone()
        batch.x[batch.membership[batch.condition, 0] > 0, 1] = measured
        loss = gim.cell_log_likelihood(batch, torch.zeros_like(CHAIN), objective=objective)
        gradients.append(torch.autograd.grad(loss, [*gim.parameters()], allow_unused=True))
    for a, b in zip(*gradients, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-5)
    loss = gim.cell_log_likelihood(batch, torch.zeros_like(CHAIN), objective=objective)
    bias = torch.autograd.grad(loss, gim.mechanisms.bias)[0]
    alone = batch.membership[batch.condition, 0] == 0
    batch.weight = batch.weight * alone
    batch_loss = gim.cell_log_likelihood(batch, torch.zeros_like(CHAIN), objective=objective)
    torch.testing.assert_close(torch.autograd.grad(batch_loss, gim.mechanisms.bias)[0][1], bias[1])


# -- combinations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("additive", [True, False])
def test_combine(additive):
    logits = torch.tensor([[8.0, -8, -8, 8], [-8.0, 8, -8, 8]])
    effects = torch.tensor([[[1.0], [10], [20], [3]], [[100.0], [2], [30], [5]]])
    prob, psi = combine(
        AtomicInterventions(logits, effects), torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]]), additive
    )
    assert not prob[0].any()  # the control has no targets
    torch.testing.assert_close(prob[1:3], torch.sigmoid(logits))
    torch.testing.assert_close(psi[1:3], effects)  # a single part is itself
    assert (prob[3] > 0.5).tolist() == [True, True, False, True]  # the union
    both = 8.0 if additive else 4.0  # a gene that both target: shifts add up, replacements are averaged
    torch.testing.assert_close(psi[3, [0, 1, 3], 0], torch.tensor([1.0, 2.0, both]), atol=0.05, rtol=0.01)
    assert torch.isfinite(psi).all()


@pytest.mark.parametrize("additive", [True, False])
def test_combine_has_finite_gradients_at_certain_and_impossible_targets(additive):
    logits = torch.tensor([[30.0, -30, 200, -200], [30.0, -30, -200, 200]], requires_grad=True)
    effects = torch.randn(2, 4, 2, requires_grad=True)
    prob, psi = combine(AtomicInterventions(logits, effects), torch.tensor([[0.0, 0], [1, 0], [1, 1]]), additive)
    (prob.sum() + psi.square().sum()).backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(effects.grad).all()


def test_shifts_of_log_expression_add_up_on_the_scale_of_expression():
    unit = torch.tensor([1.0, 0.5])
    double, half = np.log(2), np.log(0.5)
    rows = [[[double, 0.3], [double / 0.5, 0.0]], [[double, -0.1], [half / 0.5, 0.0]]]
    effects = torch.tensor(rows, dtype=torch.float32)
    parts = AtomicInterventions(torch.full((2, 2), 30.0), effects)
    _, psi = combine(parts, torch.tensor([[1.0, 0], [0, 1], [1, 1]]), True, log_unit=unit)
    torch.testing.assert_close(psi[:2], effects)
    # doubled twice: three times as much; doubled and halved: half as much again
    torch.testing.assert_close(torch.exp(psi[2, :, 0] * unit), torch.tensor([3.0, 1.5]))
    assert float(psi[2, 0, 1]) == pytest.approx(0.2)  # zero logits add up
    # A partner that does nothing changes nothing, however strong the other; what overflows stays where it is.
    extreme = torch.tensor([[[-5.0, 0.0]], [[0.0, 0.0]], [[500.0, 0.0]], [[-2.0, 0.0]]], requires_grad=True)
    members = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]])
    _, psi = combine(AtomicInterventions(torch.full((4, 1), 30.0), extreme), members, True, log_unit=torch.ones(1))
    # Two strong decreases: a tenth of exp(-7) is left.
    expected = torch.tensor([-5.0, 20.0, -7.0 + float(np.log(0.1))])
    torch.testing.assert_close(psi[:, 0, 0], expected, atol=1e-3, rtol=1e-4)
    assert torch.isfinite(torch.autograd.grad(psi.sum(), extreme)[0]).all()


def test_effects_in_units_of_the_data():
    gim = make_gim("ziln")
    zero = gim.replaced_parameters(torch.zeros(N_GENES, 3))
    torch.testing.assert_close(zero["mean"], gim.mechanisms.response_center)
    torch.testing.assert_close(zero["log_scale"].exp(), gim.mechanisms.response_scale)
    torch.testing.assert_close(zero["zero_logit"], gim.mechanisms.zero_logit.detach())
    shift = make_gim("mlp", "shift")
    found = shift.replaced_parameters(torch.ones(N_GENES, 1))
    torch.testing.assert_close(found["shift"], shift.mechanisms.response_scale)


def test_free_interventions_refuse_other_perturbations():
    free = FreeInterventions(3, 5, 2)
    assert free(torch.zeros(3, 7)).target_logits.shape == (3, 5)
    with pytest.raises(ValueError, match="only knows"):
        free(torch.zeros(4, 7))


@pytest.mark.parametrize(("argument", "value"), [("kind", "gaussian"), ("intervention", "soft")])
def test_unknown_kinds_are_refused(argument, value):
    with pytest.raises(ValueError, match=value):
        make_gim(**{argument: value})


def test_no_parameter_lives_in_pyros_store():
    gim, batch = make_gim(), make_batch()
    pyro.clear_param_store()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        Trace_ELBO().loss(gim.model, gim.guide, batch)
    assert len(pyro.get_param_store()) == 0
    assert math.isfinite(gim.log_prior(batch, 1.0).item())
