"""Autoencoders whose codes are fitted to a prior as a whole: by a critic, or by a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from companion.aae.mmd import mmd2
from companion.nn import draws


class PriorAutoencoder(nn.Module):
    """An autoencoder with a prior of its codes: what `AAE` and `WAE` share.

    Args: as in `AAE`.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: Callable[..., Tensor]):
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior

    @property
    def binary(self) -> bool:
        """Whether its examples are zeros and ones, as the decoder knows."""
        return getattr(self.decoder, "binary", False)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), *labels: Tensor) -> Tensor:
        """Draw codes from the prior, and an example for each, ``(*sample_shape, D)``.

        Args: labels: none, or what the prior is to be given beside a count, as in `fit_aae`.
        """
        like = next(self.decoder.parameters())
        z = self.prior(draws(sample_shape), *labels).to(like)
        x = self.decoder(z).sample()
        return x.reshape(*sample_shape, *x.shape[1:])

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean example of a code of x, ``(B, D) -> (B, D)``; not a draw."""
        like = next(self.parameters())
        return self.decoder(self.encoder(x.to(like))).mean


class AAE(PriorAutoencoder):
    """An autoencoder, and a critic who tells draws of the prior from codes.

    For the critic a draw of the prior is *real* and a code is *fake*: the encoder is the generator
    of the game. There is no density and no bound.

    Args:
        encoder: x -> z, a draw, ``(B, D) -> (B, H)``: any network, or of `companion.aae.encoders`.
        decoder: z -> p(x|z), as in `companion.vae`.
        critic:  z -> logit of the probability that z is drawn from the prior, ``(B, H) -> (B,)``.
        prior:   a count -> so many draws, ``(count, H)``. Nothing else is asked of it.

    Source: Makhzani, Shlens, Jaitly, Goodfellow & Frey (2015).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        critic: nn.Module,
        prior: Callable[..., Tensor],
    ):
        super().__init__(encoder, decoder, prior)
        self.critic = critic


class WAE(PriorAutoencoder):
    r"""An autoencoder whose codes a kernel compares with draws of the prior, Eq. (wae-objective).

    .. math:: \mathbb{E}\bigl[ \ln p(x \mid z) \bigr]
        - \lambda\, \mathrm{MMD}^2\bigl(q(z), p(z)\bigr)

    Args:
        encoder, decoder, prior: as in `AAE`.
        kernel: of `companion.aae.mmd`.
        weight: lambda, nats.

    Source: Tolstikhin, Bousquet, Gelly & Schoelkopf (2018).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Callable[[int], Tensor],
        kernel: Callable[[Tensor], Tensor],
        weight: float,
    ):
        super().__init__(encoder, decoder, prior)
        self.kernel, self.weight = kernel, weight

    def forward(self, x: Tensor) -> Tensor:
        """The objective to maximise, ``(B, D) -> (B,)``; the discrepancy is the batch's."""
        z = self.encoder(x)
        misfit = mmd2(z, self.prior(len(z)).to(z, non_blocking=z.is_cuda), self.kernel)
        return self.decoder(z).log_prob(x) - self.weight * misfit
