"""The models at the size of published ones: what to train where there is a GPU.

Chapter: book/autoregressive-models.ipynb. ``python -m companion.experiments.full_scale NAME``
trains one and stores its score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from companion.autoregressive import FVSBN, MADE, NADE, Autoregressive, GatedPixelCNN, PixelCNN

DYNAMIC = "MNIST, all 60,000 training images, each binarised anew at every visit; no validation"


class Preset(NamedTuple):
    """A model, how to train it, and the figure to compare it with.

    Args:
        model:      builds it.
        batch_size: of training.
        settings:   keywords of `companion.training.fit`.
        published:  negative log-likelihood on the test images, nats.
        protocol:   how the published figure was measured.
        source:     where it was published, a key of the bibliography.
    """

    model: Callable[[], Autoregressive]
    batch_size: int
    settings: dict
    published: float
    protocol: str = DYNAMIC
    source: str = "hotaj2020pytorch"


# Sizes and sizes of batches are the published ones. The published learning rate is 1e-3 throughout,
# constant or almost so; ours falls to 0 along a cosine, which allows higher rates and fewer epochs.
# These rates and epochs are a sound guess: the rows of `companion.results` say what has been run.
PRESETS = {
    # Published: 50 epochs.
    "FVSBN": Preset(
        model=lambda: FVSBN(784),
        batch_size=512,
        settings={"epochs": 50, "learning_rate": 1e-2},
        published=96.58,
    ),
    # Published: 50 epochs, with rectified units; the sigmoids of the paper, and of ours, learn
    # more slowly.
    "NADE": Preset(
        model=lambda: NADE(784, hidden=500),
        batch_size=512,
        settings={"epochs": 100, "learning_rate": 5e-3},
        published=85.65,
    ),
    # Published: 85 epochs, without direct connections.
    "MADE": Preset(
        model=lambda: MADE(784, hidden=(8000,)),
        batch_size=64,
        settings={"epochs": 85, "learning_rate": 1e-3},
        published=84.87,
    ),
    # Published: 457 epochs, times 0.999977 a step; 15 blocks, each a 3 x 3 convolution of 16
    # channels between two of 1 x 1 that lead from 32 channels and back. Ours has 15 convolutions of
    # 32 channels instead.
    "PixelCNN": Preset(
        model=lambda: PixelCNN(channels=32, layers=15, kernel=3, first_kernel=7),
        batch_size=256,
        settings={"epochs": 150, "learning_rate": 2e-3, "warmup": 0.02, "precision": "fast"},
        published=81.45,
    ),
    # Published: 457 epochs, times 0.9999 a step, with a skip connection from every layer.
    "Gated PixelCNN": Preset(
        model=lambda: GatedPixelCNN(channels=128, layers=10, kernel=3, first_kernel=7),
        batch_size=128,
        settings={"epochs": 100, "learning_rate": 1e-3, "warmup": 0.02, "precision": "fast"},
        published=81.50,
    ),
}
