"""What draws a code of an example, with a density or without; the game asks for draws only.

A deterministic encoder is any network x -> z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GaussianPosterior(nn.Module):
    r"""A differentiable draw of what a module returns, Eq. (reparameterisation).

    .. math:: z = \mu(x) + \sigma(x)\, \epsilon, \qquad \epsilon \sim \mathcal N(0, I)

    Args: encoder: x -> q(z|x), with ``rsample``, such as
          `companion.vae.ConditionalGaussian`.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """``(*B, D) -> (*B, H)``, another draw at each call."""
        return self.encoder(x).rsample()


class UniversalApproximator(nn.Module):
    r"""A network of x and noise, which can make any q(z|x), Eq. (universal-posterior).

    .. math:: z = e(x, \eta), \qquad \eta \sim \mathcal N(0, I)

    Args: body: ``(*B, D + noise) -> (*B, H)``; noise: entries of the noise.

    Source: Makhzani et al. (2015), Sec. 2.
    """

    def __init__(self, body: nn.Module, noise: int):
        super().__init__()
        self.body, self.noise = body, noise

    def forward(self, x: Tensor) -> Tensor:
        """``(*B, D) -> (*B, H)``, another draw at each call."""
        eta = torch.randn(*x.shape[:-1], self.noise, dtype=x.dtype, device=x.device)
        return self.body(torch.cat([x, eta], -1))
