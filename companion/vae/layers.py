"""The parts of variational autoencoders: modules that return distributions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from companion.nn import require_shares
from companion.vae.distributions import DiagonalGaussian, FactorizedBernoulli


class ConditionalGaussian(nn.Module):
    r"""A diagonal normal distribution whose mean and spread a network computes.

    .. math:: \mathcal{N}\bigl(z;\ \mu(h),\ \operatorname{diag} \sigma^2(h)\bigr)

    Args:
        body:     x -> h, shape ``(*batch, inputs)``.
        inputs:   width of h.
        features: of the normal.
    """

    def __init__(self, body: nn.Module, inputs: int, features: int):
        super().__init__()
        self.body = body
        self.mu, self.log_sigma = nn.Linear(inputs, features), nn.Linear(inputs, features)

    def forward(self, x: Tensor) -> Distribution:
        h = self.body(x.to(self.mu.weight.dtype))
        return DiagonalGaussian(self.mu(h), self.log_sigma(h))


class ConditionalBernoulli(nn.Module):
    """Independent coins whose logits a network computes.

    Args: as in `ConditionalGaussian`.
    """

    binary = True  # what it gives probabilities to

    def __init__(self, body: nn.Module, inputs: int, features: int):
        super().__init__()
        self.body, self.logits = body, nn.Linear(inputs, features)

    def forward(self, z: Tensor) -> Distribution:
        h = self.body(z.to(self.logits.weight.dtype))  # a draw is float32 or better
        return FactorizedBernoulli(self.logits(h))

    @torch.no_grad()
    def start_from(self, marginals: Tensor) -> None:
        """Begin near independent coins: the biases are the logits of these shares.

        Args: marginals: shape ``(D,)``; kept 1e-3 off 0 and 1.
        """
        require_shares(marginals, self.logits.bias)
        bias = self.logits.bias
        bias.copy_(marginals.to(bias).clamp(1e-3, 1 - 1e-3).logit())


class StandardNormal(nn.Module):
    """The prior N(0, I) of ``features`` latent variables."""

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("zero", torch.zeros(features), persistent=False)

    def forward(self) -> Distribution:
        return DiagonalGaussian(self.zero, self.zero)


class Chain(nn.Module):
    """Several layers of latents, each given the one before: one distribution of all, side by side.

    As an encoder, ``Chain([x -> z1, z1 -> z2], sizes)``; as a prior, from the top,
    ``Chain([() -> z2, z2 -> z1], sizes, top_down=True)``. Both are of vectors (z1, z2).

    Args:
        layers:   modules that return distributions.
        sizes:    widths of z1, z2, ...
        top_down: the first layer is that of the last latent.
    """

    def __init__(self, layers: Sequence[nn.Module], sizes: Sequence[int], top_down: bool = False):
        super().__init__()
        if len(layers) != len(sizes) or not layers:
            raise ValueError(f"{len(layers)} layers, but {len(sizes)} sizes")
        self.layers, self.sizes, self.top_down = nn.ModuleList(layers), list(sizes), top_down

    def forward(self, *x: Tensor) -> Distribution:
        return _Chained(self, self.layers[0](*x))


class _Chained(Distribution):
    """What `Chain` returns."""

    arg_constraints = {}  # noqa: RUF012 - as torch's own
    has_rsample = True

    def __init__(self, chain: Chain, first: Distribution):
        self.chain, self.first = chain, first
        super().__init__(first.batch_shape, torch.Size([sum(chain.sizes)]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError(
            "a Chain has no mean that could be computed: draw, or estimate it"
        )

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        parts = [self.first.rsample(torch.Size(sample_shape))]
        for layer in self.chain.layers[1:]:
            parts.append(layer(parts[-1]).rsample())
        parts = self._ordered(parts)
        if (widths := [part.shape[-1] for part in parts]) != self.chain.sizes:
            raise ValueError(f"sizes {self.chain.sizes}, but the layers draw {widths}")
        return torch.cat(parts, -1)

    def log_prob(self, z: Tensor) -> Tensor:
        parts = self._ordered(z.split(self.chain.sizes, -1))
        log_p = self.first.log_prob(parts[0])
        for layer, previous, part in zip(self.chain.layers[1:], parts, parts[1:], strict=False):
            log_p = log_p + layer(previous).log_prob(part)
        return log_p

    def _ordered(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        return parts[::-1] if self.chain.top_down else parts
