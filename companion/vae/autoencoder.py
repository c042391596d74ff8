"""The autoencoder: a code for each picture, and a picture for each code, but no distribution."""

from __future__ import annotations

from torch import Tensor, nn


class Autoencoder(nn.Module):
    r"""An encoder e and a decoder d with a short code between them, Eq. (autoencoder-loss).

    .. math:: -\bigl\| x - d(e(x)) \bigr\|^2

    Args: encoder, decoder: modules ``(*B, D) -> (*B, H)`` and ``(*B, H) -> (*B, D)``.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        """The objective to maximise, minus the squared error, ``(*B, D) -> (*B,)``."""
        return -(x - self.reconstruct(x)).square().sum(-1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """``(*B, D) -> (*B, D)``."""
        return self.decoder(self.encoder(x))
