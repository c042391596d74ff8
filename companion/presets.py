"""Every model of the book with its recipe, at two scales: a chapter's, and that of the papers.

``python -m companion train MODEL --preset chapter|paper`` trains one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from companion import data, training
from companion.aae import AAE, fit_aae
from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN, PixelCNN
from companion.distributions import BernoulliMixture, IndependentBernoulli
from companion.gan import dcgan, fit_gan, gradient_penalty, wasserstein
from companion.nn import mlp
from companion.published import FASHION, IWAE, REDRAWN, Published, score
from companion.vae import ConditionalBernoulli, elbo, iwae, one_layer, two_layers

D = 784


class Preset(NamedTuple):
    """A model, how to train it, and what can be asked of it.

    Args:
        family:     a name of `companion.families`.
        build:      makes the untrained model.
        train:      trains it in place: (model, grey images uint8 ``(N, 784)``, seed, device).
        likelihood: "exact", "bound" (estimated by importance sampling), or "none".
        shipped:    its trained weights travel with the package.
        data:       a name of `companion.data.load`.
        held_out:   the last 10,000 training images are kept for validation.
        published:  the score to compare with, and how it was measured.
    """

    family: str
    build: Callable[[], nn.Module]
    train: Callable[..., None]
    likelihood: str
    shipped: bool = False
    data: str = "mnist"
    held_out: bool = True
    published: Published | None = None


# --- how each is trained -------------------------------------------------------------------------


def by_counting(model: IndependentBernoulli, images: Tensor, seed: int, device=None) -> None:
    """The share of black in each pixel, of one throw of the training images."""
    model.fit(data.binarize(images, seed=data.SEEDS["train"]))


def by_expectation(
    model: BernoulliMixture, images: Tensor, seed: int, device=None, *, epochs: int, batch_size: int
) -> None:
    """Expectation-maximisation on mini-batches, from some training images."""
    torch.manual_seed(seed)
    model.start_from(images[torch.randperm(len(images))[: len(model.probs)]] / 255)
    model.fit(data.Batches(images, batch_size, dynamic=True, seed=seed), epochs)


def by_gradient(
    model: nn.Module,
    images: Tensor,
    seed: int,
    device: str | torch.device | None = None,
    *,
    batch_size: int,
    **settings,
) -> None:
    """Gradient ascent on the log-likelihood, or on a bound of it."""
    model.start_from((images / 255).mean(0))
    batches = data.Batches(images, batch_size, dynamic=True, seed=seed)
    training.fit(model, batches, seed=seed, device=device, **settings)


def by_game_of_codes(
    model: AAE, images: Tensor, seed: int, device=None, *, batch_size: int, **settings
) -> None:
    """The three players of `companion.aae.fit_aae`."""
    model.decoder.start_from((images / 255).mean(0))
    batches = data.Batches(images, batch_size, dynamic=True, seed=seed)
    fit_aae(model, batches, seed=seed, device=device, **settings)


def by_game_of_pictures(
    model: nn.Module, images: Tensor, seed: int, device=None, *, batch_size: int, **settings
) -> None:
    """The two players of `companion.gan.fit_gan`, on grey images."""
    grey = images.reshape(-1, 1, 28, 28) / 255
    model.to(memory_format=torch.channels_last)
    batches = data.Batches(grey, batch_size, seed=seed)
    fit_gan(model, batches, seed=seed, device=device, **settings)


ENGINES = {
    by_gradient: training.fit,
    by_game_of_codes: fit_aae,
    by_game_of_pictures: fit_gan,
}


def settings_of(preset: Preset) -> set[str]:
    """The names of the settings that the training of a preset has, "epochs" and the like."""
    function = getattr(preset.train, "func", preset.train)
    functions = [function, ENGINES.get(function, function)]
    return {
        name
        for each in functions
        for name, parameter in inspect.signature(each).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


# --- networks ------------------------------------------------------------------------------------


def normal_codes(count: int, latent: int = 8) -> Tensor:
    """Draws of a standard normal prior."""
    return torch.randn(count, latent)


def aae(latent: int = 8, hidden: int = 200) -> AAE:
    """The adversarial autoencoder of its chapter, with a deterministic encoder."""

    def body(inputs):
        return mlp(inputs, hidden, hidden, activation=nn.ReLU)

    encoder = nn.Sequential(body(D), nn.Linear(hidden, latent))
    critic = nn.Sequential(body(latent), nn.Linear(hidden, 1), nn.Flatten(0))
    decoder = ConditionalBernoulli(body(latent), hidden, D)
    return AAE(encoder, decoder, critic, partial(normal_codes, latent=latent))


def ten_gradient_penalties(D: Callable, real: Tensor, fake: Tensor) -> Tensor:
    """Ten times `companion.gan.gradient_penalty`, the weight of Gulrajani et al. (2017)."""
    return 10 * gradient_penalty(D, real, fake)


# --- as in the chapters: minutes on two cores ----------------------------------------------------

_small = {"channels": 32, "layers": 3, "kernel": 5, "first_kernel": 15}
_pixels = {"batch_size": 64, "epochs": 2, "learning_rate": 1e-2, "warmup": 0.05}
_dcgan = {"epochs": 5, "learning_rate": 4e-3, "betas": (0.5, 0.99), "schedule": "cosine"}
_vae = {"batch_size": 250, "epochs": 60, "learning_rate": 3e-3}

CHAPTER = {
    "independent pixels": Preset(
        "Bernoulli mixture", partial(IndependentBernoulli, D), by_counting, "exact"
    ),
    "mixture of 100": Preset(
        "Bernoulli mixture",
        partial(BernoulliMixture, D, 100),
        partial(by_expectation, epochs=10, batch_size=1000),
        "exact",
    ),
    "FVSBN": Preset(
        "Autoregressive model",
        partial(FVSBN, D),
        partial(by_gradient, batch_size=250, epochs=8, learning_rate=3e-2),
        "exact",
    ),
    "NADE": Preset(
        "Autoregressive model",
        partial(NADE, D, hidden=100),
        partial(by_gradient, batch_size=100, epochs=4, learning_rate=3e-2, warmup=0.02),
        "exact",
    ),
    "MADE": Preset(
        "Autoregressive model",
        partial(MADE, D, hidden=(500,)),
        partial(by_gradient, batch_size=250, epochs=24, learning_rate=5e-3),
        "exact",
        shipped=True,
    ),
    "PixelCNN": Preset(
        "Autoregressive model",
        partial(PixelCNN, **_small),
        partial(by_gradient, **_pixels, precision="fast"),
        "exact",
    ),
    "gated PixelCNN": Preset(
        "Autoregressive model",
        partial(GatedPixelCNN, **_small),
        partial(by_gradient, **_pixels, precision="fast"),
        "exact",
        shipped=True,
    ),
    "VAE": Preset(
        "Variational autoencoder", one_layer, partial(by_gradient, **_vae), "bound", shipped=True
    ),
    "IWAE-5": Preset(
        "Variational autoencoder",
        partial(one_layer, bound=iwae, samples=5),
        partial(by_gradient, **_vae),
        "bound",
    ),
    "VAE, 2 layers": Preset(
        "Variational autoencoder", two_layers, partial(by_gradient, **_vae), "bound"
    ),
    "AAE": Preset(
        "Adversarial autoencoder",
        aae,
        partial(
            by_game_of_codes,
            batch_size=100,
            epochs=20,
            weight=20.0,
            learning_rate=3e-3,
            betas=(0.5, 0.9),
        ),
        "none",
        shipped=True,
    ),
    "DCGAN": Preset(
        "GAN",
        dcgan,
        partial(by_game_of_pictures, batch_size=32, precision="fast", **_dcgan),
        "none",
        shipped=True,
    ),
}

# --- at the size of the papers -------------------------------------------------------------------

# Sizes are the published ones, or close to them. Ours is, but for the GANs, a learning rate that
# falls to 0 along a cosine and may therefore begin higher; most get by with far fewer steps. What
# the sources did stands above each; `companion.published` has their scores.


def _autoregressive(build: Callable, published: str, shipped: bool = False, **settings) -> Preset:
    return Preset(
        "Autoregressive model",
        build,
        partial(by_gradient, **settings),
        "exact",
        shipped,
        held_out=False,
        published=score(published, REDRAWN),
    )


# 3,280 epochs of batches of 20, Adam with epsilon 1e-4, and a learning rate of 1e-3 that falls to
# 1e-4 in eight stages of 1, 3, 9, ..., 3^7 epochs. The divergence is estimated, not computed:
# bound=elbo. "VAE-5" is the mean ELBO of five draws, "IWAE-5" the bound that weighs them.
_burda = {"batch_size": 250, "epochs": 1000, "learning_rate": 3e-3}


def _variational(build: Callable, published: str, shipped: bool = False, **options) -> Preset:
    many = {"precision": "fast"} if "samples" in options else {}
    return Preset(
        "Variational autoencoder",
        partial(build, **options),
        partial(by_gradient, **_burda, **many),
        "bound",
        shipped,
        held_out=False,
        published=score(published, IWAE),
    )


PAPER = {
    # 50 epochs, a learning rate of 1e-3.
    "FVSBN": _autoregressive(
        partial(FVSBN, D), "FVSBN", shipped=True, batch_size=512, epochs=50, learning_rate=1e-2
    ),
    # 50 epochs, with rectified units; those of the paper, and ours, are sigmoids.
    "NADE": _autoregressive(
        partial(NADE, D, hidden=500),
        "NADE, 500 units",
        shipped=True,
        batch_size=128,
        epochs=25,
        learning_rate=2e-2,
        warmup=0.02,
        precision="fast",
    ),
    # 85 epochs of batches of 64, without direct connections.
    "MADE": _autoregressive(
        partial(MADE, D, hidden=(8000,)),
        "MADE, 8,000 units",
        batch_size=256,
        epochs=60,
        learning_rate=4e-3,
        precision="fast",
    ),
    # 457 epochs, times 0.999977 a step; 15 blocks, each a 3 x 3 convolution of 16 channels between
    # two of 1 x 1 that lead from 32 channels and back. Ours has 15 convolutions of 32 channels.
    "PixelCNN": _autoregressive(
        partial(PixelCNN, channels=32, layers=15, kernel=3, first_kernel=7),
        "PixelCNN",
        batch_size=256,
        epochs=100,
        learning_rate=2e-3,
        warmup=0.02,
        precision="fast",
    ),
    # 457 epochs, times 0.9999 a step, with a skip connection from every layer.
    "gated PixelCNN": _autoregressive(
        partial(GatedPixelCNN, channels=128, layers=10, kernel=3, first_kernel=7),
        "gated PixelCNN",
        batch_size=128,
        epochs=100,
        learning_rate=1e-3,
        warmup=0.02,
        precision="fast",
    ),
    "VAE": _variational(one_layer, "VAE, 1 layer", shipped=True, bound=elbo),
    "VAE-5": _variational(one_layer, "VAE-5, 1 layer", bound=elbo, samples=5),
    "VAE-50": _variational(one_layer, "VAE-50, 1 layer", bound=elbo, samples=50),
    "IWAE-5": _variational(one_layer, "IWAE-5, 1 layer", shipped=True, bound=iwae, samples=5),
    "IWAE-50": _variational(one_layer, "IWAE-50, 1 layer", bound=iwae, samples=50),
    "VAE, 2 layers": _variational(two_layers, "VAE, 2 layers", shipped=True, bound=elbo),
    "VAE-5, 2 layers": _variational(two_layers, "VAE-5, 2 layers", bound=elbo, samples=5),
    "VAE-50, 2 layers": _variational(two_layers, "VAE-50, 2 layers", bound=elbo, samples=50),
    "IWAE-5, 2 layers": _variational(two_layers, "IWAE-5, 2 layers", bound=iwae, samples=5),
    "IWAE-50, 2 layers": _variational(two_layers, "IWAE-50, 2 layers", bound=iwae, samples=50),
    # Two layers of 300 gated units on either way, batches of 100, Adam on normalised gradients with
    # a learning rate of 5e-4: a warm-up of 100 epochs, then until fifty bring nothing better on the
    # validation images.
    "Fashion VAE": Preset(
        "Variational autoencoder",
        partial(one_layer, hidden=300, latent=40),
        partial(by_gradient, batch_size=250, epochs=300, learning_rate=3e-3),
        "bound",
        data="fashion-mnist",
        published=score("VAE, 40 codes, 300 units", FASHION),
    ),
    # 1,000 units in two layers, a code of eight numbers. The source's score, by a Parzen window,
    # means nothing here.
    "AAE": CHAPTER["AAE"]._replace(build=partial(aae, hidden=1000), shipped=False),
    # Batches of 128, Adam with 2e-4 and a first beta of 0.5. On MNIST its source scores what a
    # classifier learns from drawings that are asked for by label, which does not compare.
    "DCGAN": Preset(
        "GAN",
        partial(dcgan, channels=64, latent=100),
        partial(by_game_of_pictures, batch_size=128, epochs=40, precision="fast"),
        "none",
    ),
    # Five steps of the critic to one of the generator, Adam with 1e-4 and betas of 0 and 0.9.
    "WGAN-GP": Preset(
        "GAN",
        partial(dcgan, channels=64, latent=100),
        partial(
            by_game_of_pictures,
            batch_size=64,
            epochs=60,
            loss=wasserstein,
            penalty=ten_gradient_penalties,
            discriminator_steps=5,
            learning_rate=1e-4,
            betas=(0.0, 0.9),
        ),
        "none",
    ),
}

PRESETS = {"chapter": CHAPTER, "paper": PAPER}
