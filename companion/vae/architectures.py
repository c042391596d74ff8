"""The networks of published variational autoencoders."""

from __future__ import annotations

from torch import Tensor, nn

from companion.nn import mlp
from companion.vae.layers import Chain, ConditionalBernoulli, ConditionalGaussian, StandardNormal
from companion.vae.model import VAE, elbo


def one_layer(features: int = 784, hidden: int = 200, latent: int = 50, **options) -> VAE:
    """One layer of latents, with two layers of tanh units on the way to it, two back.

    Args:   options: of `VAE`.
    Source: Burda, Grosse & Salakhutdinov (2016).
    """
    encoder = ConditionalGaussian(mlp(features, hidden, hidden), hidden, latent)
    decoder = ConditionalBernoulli(mlp(latent, hidden, hidden), hidden, features)
    return _glorot(VAE(encoder, decoder, StandardNormal(latent), **options))


def two_layers(
    features=784,
    hidden=(200, 100),
    latent=(100, 50),
    bound=elbo,
    **options,
) -> VAE:
    """Two layers of latents, x -> z1 -> z2 and back; two layers of tanh at each arrow.

    The weights of its bound are those of Eq. (two-layer-weight).

    Args:
        hidden, latent: widths, from x upwards.
        options: of `VAE`; beta and free_bits need a closed form, and here there is none.

    Source: Burda, Grosse & Salakhutdinov (2016).
    """
    (h1, h2), (n1, n2) = hidden, latent
    up = ConditionalGaussian(mlp(features, h1, h1), h1, n1)  # q(z1|x)
    top = ConditionalGaussian(mlp(n1, h2, h2), h2, n2)  # q(z2|z1)
    down = ConditionalGaussian(mlp(n2, h2, h2), h2, n1)  # p(z1|z2)
    body = nn.Sequential(First(n1), mlp(n1, h1, h1))
    out = ConditionalBernoulli(body, h1, features)  # p(x|z1)
    prior = Chain([StandardNormal(n2), down], latent, top_down=True)
    return _glorot(VAE(Chain([up, top], latent), out, prior, bound=bound, **options))


class First(nn.Module):
    """The first ``features`` entries: z1 of (z1, z2), ``(*batch, n1 + n2) -> (*batch, n1)``."""

    def __init__(self, features: int):
        super().__init__()
        self.features = features

    def forward(self, z: Tensor) -> Tensor:
        return z[..., : self.features]


def _glorot(model: VAE) -> VAE:
    """Uniform weights as in Glorot & Bengio (2010), on the heads as well, and biases of zero."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model
