"""How many modes of a known mixture does a GAN draw, by which loss, and how does it vary by seed?

Chapter: book/generative-adversarial-networks.ipynb. All rows, skipping those that are there::

    python -m companion.experiments.mode_collapse

Every method has the same networks, batches and numbers of steps, and, but for two that say so, the
same learning rate, which is high on purpose. Two runs side by side (``--mixtures`` divides the
work) do not disturb each other's rows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn
from torch.distributions import MixtureSameFamily

from companion import data, results
from companion.experiments.common import Spread, add_rows, markdown, over_seeds
from companion.gan import (
    GAN,
    Packed,
    fit_gan,
    gradient_penalty,
    non_saturating,
    r1,
    saturating,
    wasserstein,
)
from companion.nn import free_parameters, mlp
from companion.sample_scores import ModeCoverage, mode_coverage
from companion.training.checkpoint import in_words

EXPERIMENT = "mode-collapse"
SAMPLES = 2500  # drawn for the score, as in the published protocol

MIXTURES = {"ring of 8": data.ring_of_gaussians, "grid of 25": data.grid_of_gaussians}


def r1_tenth(D: Callable, real: Tensor, fake: Tensor) -> Tensor:
    """A tenth of `companion.gan.r1`."""
    return r1(D, real) / 10


def gradient_penalty_tenth(D: Callable, real: Tensor, fake: Tensor) -> Tensor:
    """A tenth of `companion.gan.gradient_penalty`."""
    return gradient_penalty(D, real, fake) / 10


# What all methods share, and what is a method's own.
BATCH_SIZE, EXAMPLES, WIDTH, LATENT = 200, 50_000, 256, 2
SHARED = {"epochs": 32, "learning_rate": 3e-3, "schedule": "cosine"}
METHODS = {
    "minimax loss": {"loss": saturating},
    "minimax, a third of the rate": {"loss": saturating, "learning_rate": 1e-3},
    "non-saturating loss": {"loss": non_saturating},
    "non-saturating, a third of the rate": {"loss": non_saturating, "learning_rate": 1e-3},
    "non-saturating, pairs": {"loss": non_saturating, "together": 2},
    "non-saturating, R1": {"loss": non_saturating, "penalty": r1_tenth},
    "Wasserstein, gradient penalty": {
        "loss": wasserstein,
        "penalty": gradient_penalty_tenth,
        "betas": (0.0, 0.9),
    },
}


def networks(together: int = 1) -> GAN:
    """Two layers of rectified linear units for either player, on examples ``(B, 2)``.

    Args: together: examples that the discriminator sees side by side.
    """
    G = nn.Sequential(mlp(LATENT, WIDTH, WIDTH, activation=nn.ReLU), nn.Linear(WIDTH, 2))
    body = mlp(2 * together, WIDTH, WIDTH, activation=nn.ReLU)
    D = nn.Sequential(body, nn.Linear(WIDTH, 1), nn.Flatten(0))
    return GAN(G, Packed(D, together), LATENT)


def recipe(method: str) -> dict:
    """A method's recipe in names and numbers: a row made by another one is outdated."""
    own = METHODS[method]
    parameters = free_parameters(networks(own.get("together", 1)))
    sizes = {"batch_size": BATCH_SIZE, "examples": EXAMPLES, "parameters": parameters}
    return sizes | {key: in_words(value) for key, value in (SHARED | own).items()}


def play(method: str, mixture: MixtureSameFamily, seed: int = 0, **settings) -> GAN:
    """Train a GAN on draws from a mixture in the plane.

    Args:
        method:   a key of ``METHODS``.
        seed:     of the examples, the initial weights and the batches.
        settings: of `companion.gan.fit_gan`, added to the experiment's or in place of
                  them.
    """
    own = SHARED | METHODS[method] | settings
    torch.manual_seed(seed)
    batches = data.Batches(mixture.sample((EXAMPLES,)), BATCH_SIZE, seed=seed)
    gan = networks(own.pop("together", 1))
    fit_gan(gan, batches, seed=seed, **own)
    return gan


def centres(mixture: MixtureSameFamily) -> tuple[Tensor, float]:
    """Where the modes are, ``(K, 2)``, and their standard deviation in each direction."""
    normals = mixture.component_distribution.base_dist
    return normals.loc, normals.scale.unique().item()


def score(gan: GAN, mixture: MixtureSameFamily, seed: int = 0) -> ModeCoverage:
    """How many modes 2,500 draws cover, and which share of them is of high quality."""
    torch.manual_seed(seed)
    return mode_coverage(gan.sample((SAMPLES,)).cpu(), *centres(mixture))


def train_one(
    method: str, mixture: str, seed: int, *, device: str | torch.device | None = None, **settings
) -> dict[str, float]:
    """Train one GAN from scratch and count its modes.

    Args:
        method, mixture: keys of ``METHODS`` and ``MIXTURES``.
        seed, settings:  as in `play`.
        device:          as in `training.fit`.

    Returns: ``modes`` and ``high_quality``, as in `score`.
    """
    target = MIXTURES[mixture]()
    found = score(play(method, target, seed, device=device, **settings), target)
    return {"modes": found.modes, "high_quality": round(found.high_quality, 4)}


def current_rows() -> list[dict]:
    """The stored rows that were made by the recipes as they are now."""
    return results.current(EXPERIMENT, "method", {method: recipe(method) for method in METHODS})


def summary(rows: list[dict], value: str) -> dict[tuple[str, str], Spread]:
    """The mean of a value over seeds, its standard deviation, and the number of seeds.

    Args:    rows: of `current_rows`; value: "modes" or "high_quality".
    Returns: a spread for each (method, mixture), in the order of ``METHODS`` and ``MIXTURES``.
    """
    return over_seeds(rows, ("method", "mixture"), product(METHODS, MIXTURES), value)


def table(rows: list[dict]) -> str:
    """Modes and share of high quality, mean ± standard deviation over seeds, in Markdown."""
    modes, quality = summary(rows, "modes"), summary(rows, "high_quality")
    header, lines = ["method"], [[method] for method in METHODS]
    for mixture in MIXTURES:
        header += [mixture, "high quality"]
        for line in lines:
            key = line[0], mixture
            line += [modes[key].text(1), quality[key].text(2)] if key in modes else ["–", "–"]
    return markdown(header, lines)


def main(arguments: list[str] | None = None) -> None:
    add_rows(sys.modules[__name__], arguments, seeds=5, method=METHODS, mixture=MIXTURES)


if __name__ == "__main__":
    main()
