"""The models at the size of published ones: what to train where there is a GPU.

``python -m companion.experiments.full_scale NAME`` trains one and stores its score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from torch import nn
from torch.optim import Adam

from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN, PixelCNN
from companion.published import IWAE, REDRAWN, Published, score
from companion.training import adam
from companion.vae import elbo, iwae, one_layer, two_layers


class Preset(NamedTuple):
    """A model, how to train it, and the figure to compare it with.

    Args:
        model:      builds it; a function with its arguments, `functools.partial`, so that a row of
                    `companion.results` can say what was built.
        batch_size: of training.
        settings:   keywords of `companion.training.fit`.
        published:  the score to compare with, and how it was measured.
        chapter:    where it belongs, the stem of the notebook.
        samples:    draws per image of the importance-sampled score; None: the score is exact.
    """

    model: Callable[[], nn.Module]
    batch_size: int
    settings: dict
    published: Published
    chapter: str = "autoregressive-models"
    samples: int | None = None


def burda_schedule(progress: float) -> float:
    """Factor on the learning rate: 1 to 0.1 in eight stages, of 1, 3, 9, ..., 3^7 epochs.

    Source: Burda, Grosse & Salakhutdinov (2016), Sec. 5, with the rounding of the authors' code.
    """
    stage = sum(progress >= (3**i - 1) / (3**8 - 1) for i in range(1, 8))
    return round(10 ** (1 - stage / 7), 1) / 10


def burda_adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> Adam:
    """Adam whose epsilon is 1e-4: where gradients are as small as that, so are the steps.

    Source: Burda, Grosse & Salakhutdinov (2016), Sec. 5.
    """
    return adam(parameters, learning_rate, eps=1e-4)


# The paper's recipe. The authors' code departs from it: there the gradient is a sum over the batch
# and not a mean, so that epsilon weighs a twentieth, and beta_1 of Adam is 0.99 and not 0.9.
BURDA = {
    "batch_size": 20,
    "settings": {
        "epochs": sum(3**i for i in range(8)),
        "learning_rate": 1e-3,
        "optimizer": burda_adam,
        "schedule": burda_schedule,
    },
    "chapter": "variational-autoencoders",
    "samples": 5000,
}

# Of the autoregressive models, sizes and sizes of batches are the published ones. The published
# learning rate is 1e-3 throughout, constant or almost so; ours falls to 0 along a cosine, which
# allows higher rates and fewer epochs. These rates and epochs are a sound guess: the rows of
# `companion.results` say what has been run.
PRESETS = {
    # Published: 50 epochs.
    "FVSBN": Preset(
        model=partial(FVSBN, 784),
        batch_size=512,
        settings={"epochs": 50, "learning_rate": 1e-2},
        published=score("FVSBN", REDRAWN),
    ),
    # Published: 50 epochs, with rectified units; the sigmoids of the paper, and of ours, learn
    # more slowly.
    "NADE": Preset(
        model=partial(NADE, 784, hidden=500),
        batch_size=512,
        settings={"epochs": 100, "learning_rate": 5e-3},
        published=score("NADE, 500 units", REDRAWN),
    ),
    # Published: 85 epochs, without direct connections.
    "MADE": Preset(
        model=partial(MADE, 784, hidden=(8000,)),
        batch_size=64,
        settings={"epochs": 85, "learning_rate": 1e-3},
        published=score("MADE, 8,000 units", REDRAWN),
    ),
    # Published: 457 epochs, times 0.999977 a step; 15 blocks, each a 3 x 3 convolution of 16
    # channels between two of 1 x 1 that lead from 32 channels and back. Ours has 15 convolutions of
    # 32 channels instead.
    "PixelCNN": Preset(
        model=partial(PixelCNN, channels=32, layers=15, kernel=3, first_kernel=7),
        batch_size=256,
        settings={"epochs": 150, "learning_rate": 2e-3, "warmup": 0.02, "precision": "fast"},
        published=score("PixelCNN", REDRAWN),
    ),
    # Published: 457 epochs, times 0.9999 a step, with a skip connection from every layer.
    "Gated PixelCNN": Preset(
        model=partial(GatedPixelCNN, channels=128, layers=10, kernel=3, first_kernel=7),
        batch_size=128,
        settings={"epochs": 100, "learning_rate": 1e-3, "warmup": 0.02, "precision": "fast"},
        published=score("gated PixelCNN", REDRAWN),
    ),
    # The published VAEs estimate their divergence, too: bound=elbo, with a single draw.
    "VAE, 1 layer": Preset(
        partial(one_layer, bound=elbo), published=score("VAE, 1 layer", IWAE), **BURDA
    ),
    "IWAE-5, 1 layer": Preset(
        partial(one_layer, bound=iwae, samples=5), published=score("IWAE-5, 1 layer", IWAE), **BURDA
    ),
    "IWAE-50, 1 layer": Preset(
        partial(one_layer, bound=iwae, samples=50),
        published=score("IWAE-50, 1 layer", IWAE),
        **BURDA,
    ),
    "VAE, 2 layers": Preset(
        partial(two_layers, bound=elbo), published=score("VAE, 2 layers", IWAE), **BURDA
    ),
    "IWAE-50, 2 layers": Preset(
        partial(two_layers, bound=iwae, samples=50),
        published=score("IWAE-50, 2 layers", IWAE),
        **BURDA,
    ),
}
