"""The two distributions a variational autoencoder is made of, and their divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, register_kl

from companion.nn import at_least_float32, vectors


class DiagonalGaussian(Distribution):
    r"""Normal vectors with independent entries, as in Eq. (gaussian-encoder).

    .. math:: \mathcal{N}\bigl(z;\ \mu,\ \operatorname{diag} \sigma^2\bigr)

    Given by the logarithm of the spread, which stays exact where the spread itself is tiny; in
    float32 the density needs one above -104, where the spread rounds to 0.

    Args: mu, log_sigma: mean and logarithm of the standard deviation (not of the variance), the
        same shape ``(*batch, H)``.
    """

    arg_constraints = {}  # noqa: RUF012 - as torch's own
    has_rsample = True

    def __init__(self, mu: Tensor, log_sigma: Tensor):
        if mu.shape != log_sigma.shape:
            raise ValueError(
                "mu and log_sigma must have the same shape, got "
                f"{tuple(mu.shape)} and {tuple(log_sigma.shape)}"
            )
        self.mu, self.log_sigma = at_least_float32(mu), at_least_float32(log_sigma)
        self.sigma = self.log_sigma.exp()
        super().__init__(mu.shape[:-1], mu.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.mu

    @property
    def stddev(self) -> Tensor:
        return self.sigma

    @property
    def variance(self) -> Tensor:
        return self.sigma.square()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Differentiable draws, Eq. (reparameterisation), ``(*sample_shape, *batch, H)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.mu.dtype, device=self.mu.device)
        return self.mu + self.sigma * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Nats, ``(*batch, H) -> (*batch,)``."""
        if z.shape[-1:] != self.mu.shape[-1:]:  # else it would be broadcast
            raise ValueError(f"{z.shape[-1]} entries under a normal of {self.mu.shape[-1]}")
        noise = (z - self.mu) / self.sigma
        return -(noise.square() / 2 + self.log_sigma + math.log(2 * math.pi) / 2).sum(-1)


def kl_each(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    """KL(q || p) of each entry by itself, Eq. (kl-normals), ``(*batch, H)``, nats."""
    # Divided before they are squared: the square of a tiny spread would round to zero.
    squares = ((q.mu - p.mu) / p.sigma).square() + (q.sigma / p.sigma).square()
    return (squares - 1) / 2 - (q.log_sigma - p.log_sigma)


@register_kl(DiagonalGaussian, DiagonalGaussian)
def _kl(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    return kl_each(q, p).sum(-1)


class FactorizedBernoulli(Distribution):
    r"""Binary vectors with independent entries, each 1 with probability sigmoid(logit).

    .. math:: \ln p(x) = \sum_i \bigl( x_i s_i - \ln(1 + e^{s_i}) \bigr)

    Args: logits: s, shape ``(*batch, D)``.
    """

    arg_constraints = {}  # noqa: RUF012 - as torch's own

    def __init__(self, logits: Tensor):
        self.logits = at_least_float32(logits)
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        return self.logits.sigmoid() * (-self.logits).sigmoid()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Zeros and ones, ``(*sample_shape, *batch, D)``."""
        with torch.no_grad():
            return self.mean.expand(self._extended_shape(torch.Size(sample_shape))).bernoulli()

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, ``(*batch, D) -> (*batch,)``."""
        x = vectors(x, self.logits)
        # Beyond its threshold torch's softplus drops a term: here below what float64 can hold.
        ln_normalizer = F.softplus(self.logits, threshold=40)
        # Two sums, not one of differences: a step of a small model is 3 % faster.
        return (x * self.logits).sum(-1) - ln_normalizer.sum(-1)
