"""Variational autoencoders: the model and its bounds, its parts, and the linear one."""

from companion.vae.autoencoder import Autoencoder
from companion.vae.distributions import DiagonalGaussian, FactorizedBernoulli
from companion.vae.layers import Chain, ConditionalBernoulli, ConditionalGaussian, StandardNormal
from companion.vae.linear import PPCA, LinearGaussian, linear_vae, ppca
from companion.vae.model import VAE, active_units, elbo, iwae

__all__ = [  # noqa: RUF022 - the order of reading, and of the API reference
    "Autoencoder",
    "VAE",
    "elbo",
    "iwae",
    "active_units",
    "DiagonalGaussian",
    "FactorizedBernoulli",
    "ConditionalGaussian",
    "ConditionalBernoulli",
    "StandardNormal",
    "Chain",
    "LinearGaussian",
    "linear_vae",
    "ppca",
    "PPCA",
]
