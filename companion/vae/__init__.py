"""Variational autoencoders: the model and its bounds, its parts, published and linear ones."""

from companion.vae.architectures import one_layer, two_layers
from companion.vae.autoencoder import Autoencoder
from companion.vae.distributions import DiagonalGaussian, FactorizedBernoulli, kl_each
from companion.vae.layers import Chain, ConditionalBernoulli, ConditionalGaussian, StandardNormal
from companion.vae.linear import PPCA, LinearGaussian, linear_vae, ppca
from companion.vae.model import VAE, elbo, iwae

__all__ = [  # noqa: RUF022 - the order of reading, and of the API reference
    "Autoencoder",
    "VAE",
    "elbo",
    "iwae",
    "DiagonalGaussian",
    "kl_each",
    "FactorizedBernoulli",
    "ConditionalGaussian",
    "ConditionalBernoulli",
    "StandardNormal",
    "Chain",
    "one_layer",
    "two_layers",
    "LinearGaussian",
    "linear_vae",
    "ppca",
    "PPCA",
]
