"""Distributions that keep their values and gradients finite where single-cell data need it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

#: Share of the cells that may show any value of a gene for no reason: doublets, ambient counts, wrong labels (`own`).
OUTLIER_SHARE = 0.01
#: A spread is learned from so many cells of the prior besides those of the data (`own`).
PRIOR_CELLS = 2.0
#: A bound so many standard deviations away only stops what lies beyond it (3 of 100,000 values).
_REACH = 4.0


def normal_log_prob(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log density of N(mean, exp(log_scale)^2), elementwise with broadcasting."""
    return -0.5 * ((value - mean) * torch.exp(-log_scale)).square() - log_scale - _HALF_LOG_2PI


def ziln_log_prob(value: Tensor, zero_logit: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log density of the zero-inflated log-normal with respect to (point mass at 0) + (Lebesgue measure).

    `log pi` at 0, else `log(1 - pi) + log N(log x; mean, scale^2) - log x`, with
    `pi = sigmoid(zero_logit)`. The logarithm is only ever taken of positive values, so gradients stay
    finite at zeros (Schneider et al. 2025, the single-cell mechanism).
    """
    positive = value > 0
    log_value = torch.where(positive, value, torch.ones_like(value)).log()
    at_zero = F.logsigmoid(zero_logit)
    above = F.logsigmoid(-zero_logit) + normal_log_prob(log_value, mean, log_scale) - log_value
    return torch.where(positive, above, at_zero)


def outlier_log_prob(value: Tensor, center: Tensor, scale: Tensor, ziln: bool) -> Tensor:
    """Log density of a value that says nothing of the mechanism: Cauchy in the gene's units.

    For the zero-inflated log-normal a zero or not with equal odds, and Cauchy in log x.
    """
    if not ziln:
        return -math.log(math.pi) - scale.log() - torch.log1p(((value - center) / scale).square())
    positive = value > 0
    log_value = torch.where(positive, value, torch.ones_like(value)).log()
    above = outlier_log_prob(log_value, center, scale, ziln=False) - log_value
    return torch.where(positive, above, torch.zeros_like(above)) - math.log(2)


def with_outliers(log_prob: Tensor, outlier: Tensor, share: float = OUTLIER_SHARE) -> Tensor:
    """Log density where a `share` of the cells are outliers.

    What one cell says for one mechanism and against another is bounded by it, so that no few cells decide (`own`).
    """
    if share <= 0:
        return log_prob
    return torch.logaddexp(math.log1p(-share) + log_prob, math.log(share) + outlier)


def outlier_share(intervention: str, ziln: bool) -> float:
    """Share of outliers under a kind of intervention and mechanism (`own`).

    None where a normal is shifted: all cells of a condition lie far off then, and that they would count as outliers of
    the gene's own mechanism hides which of two genes was shifted; a mean of many cells is moved little by a few.
    """
    return 0.0 if intervention == "shift" and not ziln else OUTLIER_SHARE


def spread_log_prior(log_scale: Tensor) -> Tensor:
    """Log prior of a spread in units of the gene's, 0 at one unit: that of `PRIOR_CELLS` cells of unit spread.

    An inverse gamma up to a constant, conjugate to the normal: a few cells of a gene that happen to agree, or a single
    one, do not make its spread vanish and every other cell impossible.
    """
    return -0.5 * PRIOR_CELLS * (2 * log_scale + torch.expm1(-2 * log_scale))


def truncate(noise: Tensor, bound: Tensor) -> Tensor:
    """Standard normal noise of the same rank below `bound`: `Phi(out) = Phi(noise) Phi(bound)`; shapes broadcast.

    Monotone in the noise, and the noise itself where the bound is out of its reach (four standard deviations).
    """
    noise, bound = torch.broadcast_tensors(noise, bound)
    z, b = noise.double(), bound.double()
    low = torch.special.ndtri(torch.special.ndtr(z) * torch.special.ndtr(b))
    high = -torch.special.ndtri(torch.special.ndtr(-z) + torch.special.ndtr(-b) * torch.special.ndtr(z))
    far = -(b.square() - 2 * torch.special.log_ndtr(z)).sqrt()  # both probabilities vanish
    out = torch.where(b < -5, far, torch.where((z > 0) & (b > 0), high, low))
    return torch.minimum(torch.where(b < _REACH, out, z), b).to(noise)


def untruncate(noise: Tensor, bound: Tensor) -> Tensor:
    """The noise of which `truncate` made this one; what lies at or above the bound counts as just below it."""
    noise, bound = torch.broadcast_tensors(noise, bound)
    z, b = noise.double(), bound.double()
    within = torch.special.ndtr(b).clamp_min(1e-300)
    low = torch.special.ndtri((torch.special.ndtr(z) / within).clamp_max(0.5))
    upper = torch.special.ndtr(-z) - torch.special.ndtr(-b)
    upper = torch.where(b > 0, upper, torch.special.ndtr(b) - torch.special.ndtr(z))
    high = -torch.special.ndtri((upper / within).clamp(0.0, 0.5))
    far = torch.special.ndtri(((b.square() - z.square()) / 2).clamp_max(0.0).exp())
    middle = torch.special.ndtr(z) < 0.5 * within
    out = torch.where(b < -5, far, torch.where(middle, low, high)).clamp(-8.0, 8.0)
    return torch.where(bound < _REACH, out.to(noise), noise)


def truncated_log_normal_mean(mean: Tensor, log_scale: Tensor, log_most: Tensor) -> Tensor:
    """Mean of a log-normal that stays below `exp(log_most)`."""
    m, most = mean.double(), log_most.double()
    scale = log_scale.double().exp()
    bound = (most - m) / scale
    log_mean = m + 0.5 * scale.square() + torch.special.log_ndtr(bound - scale) - torch.special.log_ndtr(bound)
    return torch.minimum(log_mean, most).exp().to(mean)


class ZeroInflatedLogNormal(TorchDistribution):
    """Zero with probability `sigmoid(zero_logit)`, otherwise log-normal.

    A Pyro distribution with finite gradients at zeros, which
    `pyro.distributions.ZeroInflatedDistribution(LogNormal)` does not have.

    Examples
    --------
    >>> import torch
    >>> from scgim.model import ZeroInflatedLogNormal
    >>> d = ZeroInflatedLogNormal(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0))
    >>> round(float(d.log_prob(torch.tensor(0.0)).exp()), 3)
    0.5
    """

    arg_constraints = {  # noqa: RUF012 - torch's protocol
        "zero_logit": constraints.real,
        "mean": constraints.real,
        "log_scale": constraints.real,
    }
    support = constraints.nonnegative

    def __init__(self, zero_logit: Tensor, mean: Tensor, log_scale: Tensor, validate_args: bool | None = None):
        self.zero_logit, self.mean_log, self.log_scale = torch.broadcast_tensors(zero_logit, mean, log_scale)
        super().__init__(self.zero_logit.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return ziln_log_prob(value, self.zero_logit, self.mean_log, self.log_scale)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # type: ignore[override] # noqa: B008
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            noise = torch.randn(shape, device=self.mean_log.device, dtype=self.mean_log.dtype)
            value = torch.exp(self.mean_log + self.log_scale.exp() * noise)
            zero = torch.rand(shape, device=value.device, dtype=value.dtype) < torch.sigmoid(self.zero_logit)
            return torch.where(zero, torch.zeros_like(value), value)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> ZeroInflatedLogNormal:  # type: ignore[override]
        return ZeroInflatedLogNormal(
            self.zero_logit.expand(batch_shape),
            self.mean_log.expand(batch_shape),
            self.log_scale.expand(batch_shape),
        )


class GumbelBernoulli(TorchDistribution):
    """Bernoulli whose samples are hard 0/1 and carry the gradient of their Gumbel-sigmoid relaxation.

    Parameters
    ----------
    logits
        Log odds.
    gumbel_scale
        tau, the scale of the relaxation: `sigmoid((logits + logistic noise) / tau)`.

    References
    ----------
    Jang et al. 2017; Maddison et al. 2017 (straight-through form).
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 - torch's protocol
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, gumbel_scale: float = 1.0, validate_args: bool | None = None):
        self.logits, self.gumbel_scale = logits, gumbel_scale
        super().__init__(logits.shape, validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # type: ignore[override] # noqa: B008
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, device=self.logits.device, dtype=self.logits.dtype)
        uniform = uniform.clamp(1e-7, 1 - 1e-7)
        noisy = self.logits + uniform.log() - torch.log1p(-uniform)
        soft = torch.sigmoid(noisy / self.gumbel_scale)
        return (noisy > 0).to(soft) - soft.detach() + soft

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.detach()
        return value * F.logsigmoid(self.logits) + (1 - value) * F.logsigmoid(-self.logits)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> GumbelBernoulli:  # type: ignore[override]
        return GumbelBernoulli(self.logits.expand(batch_shape), self.gumbel_scale)
