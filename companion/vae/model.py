"""The variational autoencoder, and the bounds on ln p(x) that it can be trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, kl_divergence

from companion.nn import draws
from companion.vae.distributions import DiagonalGaussian, kl_each


def elbo(log_w: Tensor) -> Tensor:
    r"""Evidence lower bound, Eq. (elbo-jensen), estimated with K draws of the latent.

    .. math:: \mathcal{L}(x) = \mathbb{E}_{q(z \mid x)}[\ln w],
        \qquad w = \frac{p(x \mid z)\, p(z)}{q(z \mid x)}

    Args:    log_w: log-weights, shape ``(K, *B)``, nats.
    Returns: unbiased estimate of the bound, shape ``(*B,)``, nats.
    Source:  Kingma & Welling (2014), Eq. 2.
    """
    return log_w.mean(0)


def iwae(log_w: Tensor) -> Tensor:
    r"""Importance-weighted bound, Eq. (iwae-bound), estimated with one draw of K weights.

    .. math:: \mathcal{L}_K(x) = \mathbb{E}\Bigl[\ln \tfrac1K \textstyle\sum_k w_k\Bigr]

    Args:    log_w: log-weights, shape ``(K, *B)``, nats.
    Returns: unbiased estimate of the bound, ``(*B,)``, nats; for K = 1 it is `elbo`.
    Source:  Burda, Grosse & Salakhutdinov (2016), Eq. 8.
    """
    return log_w.logsumexp(0) - math.log(len(log_w))


class VAE(nn.Module):
    r"""A latent cause z of x, Eq. (latent-variable-model), and an encoder that infers it.

    .. math:: p(x) = \int p(x \mid z)\, p(z)\, dz, \qquad q(z \mid x) \approx p(z \mid x)

    Its three parts are modules that return `torch.distributions`, and any will do.

    Args:
        encoder:   x -> q(z|x), with ``rsample``.
        decoder:   z -> p(x|z).
        prior:     called without argument -> p(z).
        bound:     what ``model(x)`` estimates from log-weights, such as `iwae`; left out, the ELBO
                   with its Kullback-Leibler divergence in closed form.
        samples:   K, draws of z for each x.
        beta:      factor on that divergence, Eq. (beta-vae); below 1 no bound is promised.
        free_bits: nats that each latent variable may differ from the prior at no cost, on average
                   over the batch, Eq. (free-bits).

    Raises: ValueError for settings that make no sense together or on their own.

    Source: Kingma & Welling (2014); beta: Higgins et al. (2017); free bits: Kingma et al. (2016).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: nn.Module,
        *,
        bound: Callable[[Tensor], Tensor] | None = None,
        samples: int = 1,
        beta: float = 1.0,
        free_bits: float = 0.0,
    ):
        super().__init__()
        _require_draws(samples)
        if not (beta >= 0 and free_bits >= 0):
            raise ValueError(f"beta and free_bits cannot be negative: {beta}, {free_bits}")
        if bound is not None and (beta != 1 or free_bits):
            raise ValueError("beta and free_bits act on the closed form: leave bound out")
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.bound, self.samples, self.beta, self.free_bits = bound, samples, beta, free_bits

    def start_from(self, marginals: Tensor) -> None:
        """Make a new model begin near the independent one with these marginals.

        Args:
            marginals: the share of ones in each entry, shape ``(D,)``, for the decoder's method of
                this name.
        """
        self.decoder.start_from(marginals)

    @property
    def binary(self) -> bool:
        """Whether x is of zeros and ones: other values have no probability under coins."""
        return getattr(self.decoder, "binary", False)

    def log_w(self, x: Tensor, samples: int = 1) -> Tensor:
        """ln w, Eq. (importance-weight), for K draws of z, ``(*B, D) -> (K, *B)``, nats."""
        _require_draws(samples)
        q = self.encoder(x)
        z = q.rsample((samples,))
        return self.decoder(z).log_prob(x) + self.prior().log_prob(z) - q.log_prob(z)

    def reconstruction_and_kl(self, x: Tensor, samples: int = 1) -> tuple[Tensor, Tensor]:
        """The terms of the ELBO, Eq. (elbo-terms): the first estimated, the divergence exact.

        Returns: shapes ``(*B,)`` and, for independent entries, ``(*B, H)``, a divergence for
            each latent variable; otherwise ``(*B, 1)``. Nats.
        """
        _require_draws(samples)
        q, p = self.encoder(x), self.prior()
        if samples == 1:  # without an axis for it, a step is 3 % faster
            reconstruction = self.decoder(q.rsample()).log_prob(x)
        else:
            reconstruction = self.decoder(q.rsample((samples,))).log_prob(x).mean(0)
        return reconstruction, closed_form_kl(q, p)

    def forward(self, x: Tensor) -> Tensor:
        """The objective to maximise, ``(*B, D) -> (*B,)``, nats."""
        if self.bound is not None:
            return self.bound(self.log_w(x, self.samples))
        reconstruction, kl = self.reconstruction_and_kl(x, self.samples)
        if self.free_bits:
            kl = kl.reshape(-1, kl.shape[-1]).mean(0).clamp(min=self.free_bits)
        return reconstruction - self.beta * kl.sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a cause, then a picture, ``(*sample_shape, D)``."""
        x = self.decoder(self.prior().sample((draws(sample_shape),))).sample()
        return x.reshape(*sample_shape, *x.shape[1:])

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean picture of the mean cause of x, ``(*B, D) -> (*B, D)``; not a draw.

        It asks the encoder for a mean, which a `Chain` does not have.
        """
        return self.decoder(self.encoder(x).mean).mean


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor:
    """KL(q || p) in closed form: ``(*B, H)`` for independent entries, else ``(*B, 1)``."""
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"the encoder gives latents of shape {tuple(q.event_shape)}, the prior of "
            f"{tuple(p.event_shape)}: they must be alike"
        )
    if isinstance(q, DiagonalGaussian) and isinstance(p, DiagonalGaussian):
        return kl_each(q, p)
    entries = all(isinstance(d, Independent) and not d.base_dist.event_shape for d in (q, p))
    if entries and len(q.event_shape) == 1:
        return kl_divergence(q.base_dist, p.base_dist)
    try:
        return kl_divergence(q, p)[..., None]
    except NotImplementedError:
        raise ValueError(
            f"no closed form is known for KL({type(q).__name__} || {type(p).__name__}): "
            "estimate the bound, with bound=elbo"
        ) from None


def _require_draws(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"at least one draw of z is needed, not {samples}")
