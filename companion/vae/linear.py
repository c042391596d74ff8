"""The variational autoencoder that is exact: linear, with normal noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, LowRankMultivariateNormal, MultivariateNormal

from companion.vae.distributions import DiagonalGaussian
from companion.vae.layers import StandardNormal
from companion.vae.model import VAE


class LinearGaussian(nn.Module):
    r"""A normal distribution with a mean linear in h and a spread that does not depend on h.

    .. math:: \mathcal{N}\bigl(W h + b,\ \operatorname{diag} \sigma^2\bigr)

    Args:
        inputs, features: entries of h, and of the normal.
        one_spread:       the same sigma for all features, else one for each.
    """

    def __init__(self, inputs: int, features: int, one_spread: bool = False):
        super().__init__()
        self.mu = nn.Linear(inputs, features)
        self.log_sigma = nn.Parameter(torch.zeros(1 if one_spread else features))

    def forward(self, h: Tensor) -> Distribution:
        mu = self.mu(h.to(self.mu.weight.dtype))
        return DiagonalGaussian(mu, self.log_sigma.expand_as(mu))


def linear_vae(features: int, latent: int, **options) -> VAE:
    """A linear decoder with one spread, and a linear encoder with one for each latent.

    This is enough: at the optimum the encoder is the exact posterior, and p(x) is that
    of `ppca`.

    Args:   options: of `VAE`.
    Source: Lucas, Tucker, Grosse & Norouzi (2019).
    """
    return VAE(
        LinearGaussian(features, latent),
        LinearGaussian(latent, features, one_spread=True),
        StandardNormal(latent),
        **options,
    )


class PPCA(NamedTuple):
    """Probabilistic principal component analysis, Eq. (linear-gaussian).

    x = W z + mean + noise, z ~ N(0, I).

    Attributes: ``mean``, shape ``(D,)``; ``W``, ``(D, H)``; ``variance``, of the noise, ``()``.
    """

    mean: Tensor
    W: Tensor
    variance: Tensor

    def marginal(self) -> Distribution:
        """p(x), the normal distribution with the covariance W W^T + variance I.

        In float32 its log_prob loses digits where W W^T is far larger than the variance.
        """
        return LowRankMultivariateNormal(
            self.mean, self.W, self.variance.expand(len(self.mean)), validate_args=False
        )

    def posterior(self, x: Tensor) -> Distribution:
        """p(z | x), Eq. (linear-posterior), ``(*batch, D)`` -> over ``(*batch, H)``."""
        H = self.W.shape[1]
        M = self.W.T @ self.W + self.variance * torch.eye(H, dtype=x.dtype, device=x.device)
        mean = (x - self.mean) @ torch.linalg.solve(M, self.W.T).T
        return MultivariateNormal(mean, precision_matrix=M / self.variance)


def ppca(x: Tensor, latent: int) -> PPCA:
    r"""Maximum likelihood in closed form, Eq. (ppca-solution).

    .. math:: \sigma^2 = \frac{1}{D - H} \sum_{i > H} \lambda_i, \qquad
        W = U_H (\Lambda_H - \sigma^2 I)^{1/2}

    with the eigenvalues of the covariance (divided by N) in falling order.

    Args:   x: shape ``(N, D)``; latent: H, less than D.
    Source: Tipping & Bishop (1999), Eqs. 7 and 8.
    """
    N, D = x.shape
    if not 0 < latent < D:
        raise ValueError(f"latent is 1 to {D - 1}, fewer than the features, not {latent}")
    mean = x.mean(0)
    values, U = torch.linalg.eigh((x - mean).T @ (x - mean) / N)
    values, U = values.flip(0), U.flip(1)
    variance = values[latent:].mean()
    if not variance > D * torch.finfo(x.dtype).eps * values[0]:  # less is rounding
        raise ValueError(
            f"x has no spread beyond {latent} directions: take fewer, or more examples"
        )
    W = U[:, :latent] * (values[:latent] - variance).clamp(min=0).sqrt()
    return PPCA(mean, W, variance)
