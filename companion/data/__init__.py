"""Real data, binarisation, mini-batches held in memory, and toy distributions.

MNIST travels inside the package. Fashion-MNIST is read from a folder or downloaded once. Every byte
is checked against the SHA-256 of the official files before it is used.
"""

from companion.data.batches import Batches
from companion.data.binarisation import binarize, threshold
from companion.data.files import DataError, Dataset, Split, fashion_mnist, load, mnist
from companion.data.toy import (
    bars_and_stripes,
    grid_of_gaussians,
    letter,
    ring_of_gaussians,
    swiss_roll,
    two_moons,
)

__all__ = [  # noqa: RUF022 - the order of reading, and of the API reference
    "mnist",
    "fashion_mnist",
    "load",
    "Dataset",
    "Split",
    "DataError",
    "threshold",
    "binarize",
    "SEEDS",
    "Batches",
    "bars_and_stripes",
    "ring_of_gaussians",
    "grid_of_gaussians",
    "swiss_roll",
    "two_moons",
    "letter",
]

SEEDS = {"train": 0, "validation": 1, "test": 2}
"""Seeds of the book's static draws: `binarize(mnist().test.images, SEEDS["test"])`."""
