"""Stacked MNIST: of the thousand numbers that three digits can form, how many does a GAN draw?

Chapter: book/generative-adversarial-networks.ipynb. All rows, skipping those that are there::

    python -m companion.experiments.stacked_digits

A picture has three planes, each a digit that is chosen by itself. The book's classifier reads the
digits of a drawing; published counts are those of other classifiers.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from companion import data, divergences, results
from companion.experiments.common import NOT_RUN, Spread, add_rows, markdown
from companion.features import DigitFeatures
from companion.gan import GAN, Packed, dcgan, fit_gan, non_saturating, wasserstein
from companion.nn import free_parameters
from companion.presets import ten_gradient_penalties
from companion.training.checkpoint import in_words
from companion.training.devices import usable

EXPERIMENT = "stacked-digits"
SAMPLES = 26_000  # drawn for the score, as in the published protocol
PLANES, SIDE = 3, 28

SHARED = {"epochs": 5, "betas": (0.5, 0.99), "schedule": "cosine", "precision": "fast"}
BATCH_SIZE = 64
METHODS = {
    "non-saturating loss": {"loss": non_saturating, "learning_rate": 2e-3},
    "non-saturating, pairs": {"loss": non_saturating, "learning_rate": 2e-3, "together": 2},
    "Wasserstein, gradient penalty": {
        "loss": wasserstein,
        "learning_rate": 2e-3,
        "penalty": ten_gradient_penalties,
        "betas": (0.0, 0.9),
        "precision": "no",  # second derivatives
    },
}


class Stacks:
    """Mini-batches of pictures with a digit in each plane; in use as `companion.data.Batches`.

    Each plane goes through all images once an epoch, in an order of its own, so that a number is
    the three digits that chance puts together.

    Args:
        images: grey, uint8 ``(N, side, side)``.
        seed:   of all planes.
    """

    def __init__(self, images: Tensor, batch_size: int, seed: int = 0):
        seeds = range(PLANES * seed, PLANES * seed + PLANES)
        numbers = torch.arange(len(images))
        self.planes = [data.Batches(numbers, batch_size, seed=each) for each in seeds]
        self.images = images
        self.batch_size, self.seed, self.dynamic = batch_size, seed, False

    def __len__(self) -> int:
        return len(self.planes[0])

    def to(self, device: torch.device | str) -> Stacks:
        """Return the same batches with the images on a device."""
        there = copy.copy(self)
        there.images = self.images.to(device)
        there.planes = [plane.to(device) for plane in self.planes]
        return there

    def examples(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """What `batch` is made of, uint8."""
        chosen = [plane.indices(step, rank, world) for plane in self.planes]
        return self.images[torch.stack(chosen, 1)]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """One process's share of the batch of a step, from 0 to 1, ``(B, 3, side, side)``."""
        return self.examples(step, rank, world) / 255


def networks(together: int = 1) -> GAN:
    """The convolutions of the book's DCGAN, on three planes.

    Args: together: pictures that the discriminator sees, one above the other.
    """
    gan = dcgan(colours=PLANES)
    if together > 1:
        judge = dcgan(colours=PLANES * together).D
        gan.D = Packed(nn.Sequential(nn.Unflatten(1, (-1, SIDE, SIDE)), judge), together)
    return gan


def recipe(method: str) -> dict:
    """A method's recipe in names and numbers: a row made by another one is outdated."""
    own = METHODS[method]
    parameters = free_parameters(networks(own.get("together", 1)))
    sizes = {"batch_size": BATCH_SIZE, "parameters": parameters, "samples": SAMPLES}
    return sizes | {key: in_words(value) for key, value in (SHARED | own).items()}


def numbers(digits: Tensor) -> Tensor:
    """The number of each row of digits, ``(N, 3) -> (N,)``: 0 to 999."""
    return digits @ torch.tensor([100, 10, 1])


def score(read: Tensor, labels: Tensor) -> dict[str, float]:
    """How many numbers are there, and how evenly.

    A perfect painter scores 1,000 modes and a divergence of about 999 / 2N, 0.02 for N = 26,000.

    Args:
        read:   what the classifier reads in the drawings, ``(N, 3)``.
        labels: of the training images, whose frequencies the numbers should have.

    Returns: ``modes``, numbers that are read at least once; ``kl``, the divergence of the numbers'
        frequencies from those of the data, KL(drawings ‖ data), nats.
    Source:  Metz et al. (2017), Sec. 3.3.1; with 26,000 drawings: Srivastava et al. (2017), VEEGAN.
    """
    drawn = numbers(read).bincount(minlength=1000).double() / len(read)
    digit = labels.bincount(minlength=10).double() / len(labels)
    real = torch.einsum("a,b,c->abc", digit, digit, digit).flatten()
    return {"modes": int((drawn > 0).sum()), "kl": divergences.kl(drawn, real).item()}


@torch.no_grad()
def read_drawings(
    sample: Callable[[tuple[int]], Tensor],
    judge: DigitFeatures,
    count: int = SAMPLES,
) -> Tensor:
    """The digits that the classifier reads in drawings.

    Args:
        sample: shape ``(B,)`` -> drawings ``(B, 3, side, side)``, as `GAN.sample`.
        count:  of drawings.

    Returns: int64, ``(count, 3)``.
    """
    read = []
    for start in range(0, count, 500):  # at a time
        drawn = sample((min(500, count - start),)).float().cpu()
        read.append(torch.stack([judge.classify(plane) for plane in drawn.unbind(1)], 1))
    return torch.cat(read)


def train_one(
    method: str, seed: int, *, device: str | torch.device | None = None, **settings
) -> dict[str, float]:
    """Train one GAN from scratch and score it.

    Args:
        method:   a key of ``METHODS``.
        seed:     of the initial weights, the batches and the noise.
        settings: of `companion.gan.fit_gan`, added to the experiment's or in place of them.

    Returns: as in `score`.
    """
    own, train = SHARED | METHODS[method] | settings, data.mnist().train
    torch.manual_seed(seed)
    gan = networks(own.pop("together", 1)).to(memory_format=torch.channels_last)
    fit_gan(gan, Stacks(train.images, BATCH_SIZE, seed), seed=seed, device=device, **own)
    torch.manual_seed(seed)
    gan.to(usable(device))
    found = score(read_drawings(gan.sample, DigitFeatures.pretrained()), train.labels)
    return {"modes": found["modes"], "kl": round(found["kl"], 4)}


def current_rows() -> list[dict]:
    """The stored rows that were made by the recipes as they are now."""
    return results.current(EXPERIMENT, "method", {method: recipe(method) for method in METHODS})


def table(rows: list[dict]) -> str:
    """Modes and divergence, mean ± standard deviation over seeds, in Markdown.

    Args: rows: of `current_rows`.
    """
    lines = []
    for method in METHODS:
        own = [row["values"] for row in rows if row["settings"]["method"] == method]
        found = [NOT_RUN, ""]
        if own:
            spreads = (Spread.of(values[key] for values in own) for key in ("modes", "kl"))
            found = [each.text(digits) for each, digits in zip(spreads, (0, 2), strict=True)]
        lines.append([method, str(len(own)), *found])
    return markdown(["method", "seeds", "modes of 1,000", "KL divergence, nats"], lines)


def main(arguments: list[str] | None = None) -> None:
    add_rows(sys.modules[__name__], arguments, seeds=3, method=METHODS)


if __name__ == "__main__":
    main()
