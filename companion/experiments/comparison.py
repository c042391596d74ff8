"""Every family of the book under one protocol: likelihood, drawings, size and time.

Chapter: book/comparing-the-models.ipynb. All rows, skipping those that are there::

    python -m companion.experiments.comparison

All models see the same 50,000 training images, thrown anew at every visit (the independent pixels
see one throw, the GAN sees the greys), and are scored on the same throw of the 10,000 test images.
What they draw is compared as it is scored: black and white.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import companion
from companion import data, divergences, evaluation, results, sample_scores, training
from companion.aae import AAE, fit_aae
from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN
from companion.distributions import BernoulliMixture, IndependentBernoulli
from companion.experiments.common import in_words, markdown
from companion.features import DigitFeatures
from companion.gan import dcgan, fit_gan
from companion.nn import free_parameters, mlp
from companion.vae import ConditionalBernoulli, iwae, one_layer, two_layers

EXPERIMENT = "comparison"
DRAWS = 3000  # for the scores of drawings, and as many test images
K = 500  # draws of the latents for each image
FEW = 50  # the same where throws are compared
THROWS = range(data.SEEDS["test"], data.SEEDS["test"] + 5)  # seeds; the first is the book's throw
WEIGHTS = Path(companion.__file__).parent / "_data" / "weights"

D = 784
NOT_RUN = "not yet run"
SCORES_OF_DRAWINGS = {"frechet": 0, "precision": 2, "recall": 2, "wrong_kind": 0}  # digits


class Contender(NamedTuple):
    """A model, how to train it, and what can be asked of it.

    Args:
        family:     a name of `companion.families`.
        build:      makes the untrained model.
        train:      trains it in place: (model, grey images uint8 ``(N, 784)``, seed, device).
        likelihood: "exact", "bound" (estimated by importance sampling), or "none".
        shipped:    its trained weights travel with the package.
    """

    family: str
    build: Callable[[], nn.Module]
    train: Callable[..., None]
    likelihood: str
    shipped: bool = False


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


_small = {"channels": 32, "layers": 3, "kernel": 5, "first_kernel": 15}
_dcgan = {"epochs": 5, "learning_rate": 4e-3, "betas": (0.5, 0.99), "schedule": "cosine"}

CONTENDERS = {
    "independent pixels": Contender(
        "Bernoulli mixture", partial(IndependentBernoulli, D), by_counting, "exact"
    ),
    "mixture of 100": Contender(
        "Bernoulli mixture",
        partial(BernoulliMixture, D, 100),
        partial(by_expectation, epochs=10, batch_size=1000),
        "exact",
    ),
    "FVSBN": Contender(
        "Autoregressive model",
        partial(FVSBN, D),
        partial(by_gradient, batch_size=250, epochs=8, learning_rate=3e-2),
        "exact",
    ),
    "NADE": Contender(
        "Autoregressive model",
        partial(NADE, D, hidden=100),
        partial(by_gradient, batch_size=100, epochs=4, learning_rate=3e-2, warmup=0.02),
        "exact",
    ),
    "MADE": Contender(
        "Autoregressive model",
        partial(MADE, D, hidden=(500,)),
        partial(by_gradient, batch_size=250, epochs=24, learning_rate=5e-3),
        "exact",
        shipped=True,
    ),
    "gated PixelCNN": Contender(
        "Autoregressive model",
        partial(GatedPixelCNN, **_small),
        partial(
            by_gradient, batch_size=64, epochs=2, learning_rate=1e-2, warmup=0.05, precision="fast"
        ),
        "exact",
        shipped=True,
    ),
    "VAE": Contender(
        "Variational autoencoder",
        one_layer,
        partial(by_gradient, batch_size=250, epochs=60, learning_rate=3e-3),
        "bound",
        shipped=True,
    ),
    "IWAE-5": Contender(
        "Variational autoencoder",
        partial(one_layer, bound=iwae, samples=5),
        partial(by_gradient, batch_size=250, epochs=60, learning_rate=3e-3),
        "bound",
    ),
    "VAE, 2 layers": Contender(
        "Variational autoencoder",
        two_layers,
        partial(by_gradient, batch_size=250, epochs=60, learning_rate=3e-3),
        "bound",
    ),
    "AAE": Contender(
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
    "DCGAN": Contender(
        "GAN",
        dcgan,
        partial(by_game_of_pictures, batch_size=32, precision="fast", **_dcgan),
        "none",
        shipped=True,
    ),
}


# --- what is asked of each -----------------------------------------------------------------------


def drawings(model: nn.Module, count: int, batch_size: int = 500) -> Tensor:
    """Drawings in black and white, float ``(count, 784)``; grey ones are thrown like the data."""
    parts = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        # A GAN and an AAE take a count, a distribution takes a shape.
        plain = hasattr(model, "noise") or isinstance(model, AAE)
        x = model.sample(size if plain else (size,)).float().flatten(1)
        parts.append(x.clamp(0, 1).bernoulli())  # zeros and ones stay as they are
    return torch.cat(parts)


def likelihood(model: nn.Module, kind: str, images: Tensor) -> dict:
    """The score of the test images, nats, and how it is spread over throws.

    Args:
        kind:   as of `Contender`.
        images: grey test images, uint8 ``(N, 784)``.

    Returns: ``nll`` and ``standard_error``, over images; ``tenth``, the score of every tenth image,
        and ``score_seconds``, the time that it takes; ``throws``, the scores of five throws; for
        "bound" also ``samples``, ``effective_samples``, the mean ``elbo``, and ``tenth_longer``,
        with ten times the draws, while ``throws`` have 50 each; for "none" the empty dict.
    """
    if kind == "none":
        return {}
    test, *others = (data.binarize(images, seed=seed) for seed in THROWS)
    start = time.perf_counter()
    tenth = score(model, kind, test[::10]).mean
    seconds = time.perf_counter() - start
    found = score(model, kind, test)
    values = {"nll": found.mean, "standard_error": found.standard_error, "tenth": tenth}
    values["score_seconds"] = seconds
    if kind == "bound":
        values |= {"samples": K, "effective_samples": found.effective_samples}
        values["elbo"] = -score(model, kind, test, 1).mean
        values["tenth_longer"] = score(model, kind, test[::10], 10 * K).mean
    throws = [score(model, kind, x, FEW).mean for x in (test, *others)]
    rounded = {key: round(value, 4) for key, value in values.items()}
    return rounded | {"throws": [round(value, 4) for value in throws]}


def score(model: nn.Module, kind: str, x: Tensor, samples: int | None = None):
    """The negative log-likelihood of binary images: exactly ("exact"), or with so many draws.

    Args:
        kind:    "exact" or "bound".
        samples: draws for each image, of a bound; left out: those of the rows.
    """
    if kind == "exact":
        return evaluation.nll(model, x, batch_size=250)
    return evaluation.importance_sampled_nll(model, x, samples or K)


def real_images(images: Tensor, seed: int = data.SEEDS["test"]) -> Tensor:
    """Images chosen at random and thrown, to compare drawings with, float ``(DRAWS, D)``.

    Not the first: the two halves of MNIST's test set were written by different people.

    Args:
        images: grey, uint8 ``(N, D)``.
        seed:   of choice and throw.
    """
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return data.binarize(images, seed)[chosen[:DRAWS]].float()


def quality(drawn: Tensor, images: Tensor, judge: DigitFeatures) -> dict:
    """Scores of drawings against as many test images, both black and white.

    Args:
        drawn:  ``(N, 784)``, zeros and ones.
        images: as of `real_images`.

    Returns: ``frechet``, squared; ``precision`` and ``recall``; ``wrong_kind``, percent.
    """
    a, b = (x.float().reshape(-1, 28, 28) for x in (images, drawn))
    real, fake = judge.features(a), judge.features(b)
    shares = [judge.classify(x).bincount(minlength=10).double() / len(x) for x in (a, b)]
    near = sample_scores.precision_recall(real, fake)
    values = {
        "frechet": sample_scores.frechet_distance(real, fake).squared,
        "precision": near.precision,
        "recall": near.recall,
        "wrong_kind": 100 * divergences.total_variation(*shares).item(),
    }
    return {key: round(value, 4) for key, value in values.items()}


def seconds_for_drawings(model: nn.Module, count: int = 100, repeats: int = 3) -> float:
    """The median time of so many drawings at once, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        drawings(model, count)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# --- rows ----------------------------------------------------------------------------------------


def recipe(name: str) -> dict:
    """A contender's recipe in names and numbers: a row made by another one is outdated."""
    made = CONTENDERS[name]
    asked = {"samples": K} if made.likelihood == "bound" else {}
    trained = {"build": in_words(made.build), "train": in_words(made.train)}
    return trained | asked | {"drawings": DRAWS}


def weights_of(name: str) -> Path:
    """Where the weights of a shipped contender are."""
    return WEIGHTS / f"{name.lower().replace(' ', '_')}.safetensors"


def shipped(name: str) -> nn.Module:
    """A trained contender, from the weights that travel with the package (half precision).

    Raises: KeyError for a name that is not there; ValueError if its weights do not travel.
    """
    if not CONTENDERS[name].shipped:
        some = ", ".join(n for n, made in CONTENDERS.items() if made.shipped)
        raise ValueError(
            f"the weights of {name!r} do not travel with the package; those do: {some}"
        )
    model = CONTENDERS[name].build().half()
    return training.load_model(model, weights_of(name)).float().eval().requires_grad_(False)


def train_one(name: str, seed: int = 0, *, device: str | torch.device | None = None):
    """Train one contender and measure it.

    Returns: the model, and its values: ``parameters``, ``train_seconds``, ``draw_seconds`` (of 100
        drawings), and those of `likelihood` and `quality`.
    """
    mnist = data.mnist()
    images, test = mnist.train.images.flatten(1), mnist.test.images.flatten(1)
    made = CONTENDERS[name]
    torch.manual_seed(seed)
    model = made.build()
    start = time.perf_counter()
    made.train(model, images, seed, device)
    seconds = time.perf_counter() - start
    model.cpu().eval()
    if made.shipped:  # what is measured is what is shipped: rounded to half precision
        model = model.half().float()
    torch.manual_seed(seed)
    values = {
        "parameters": free_parameters(model),
        "train_seconds": round(seconds, 1),
        "draw_seconds": round(seconds_for_drawings(model), 4),
    }
    values |= likelihood(model, made.likelihood, test)
    values |= quality(drawings(model, DRAWS), real_images(test), DigitFeatures.pretrained())
    return model, values


def stored() -> dict[str, dict]:
    """The stored rows that were made by the recipes as they are now, by the contender's name."""
    rows = {row["settings"]["model"]: row for row in results.rows(EXPERIMENT)}
    return {
        name: rows[name]
        for name in CONTENDERS
        if name in rows and rows[name]["provenance"]["recipe"] == recipe(name)
    }


def current_rows() -> dict[str, dict]:
    """What was measured, of the rows of `stored`."""
    return {name: row["values"] for name, row in stored().items()}


def contenders_table() -> str:
    """Who takes part: model, family, and the number of parameters, in Markdown."""
    lines = [
        [name, made.family, f"{free_parameters(made.build()):,}"]
        for name, made in CONTENDERS.items()
    ]
    return markdown(["model", "family", "parameters"], lines)


def likelihood_table(rows: dict[str, dict]) -> str:
    """Scores of the test images, nats, in Markdown; a bound on the NLL is marked by ≤.

    Args: rows: of `current_rows`, here and below.
    """
    lines = []
    for name, made, v in _beside(rows):
        if v is None or made.likelihood == "none":
            lines.append([name, NOT_RUN if v is None else "not computed", "", "", ""])
            continue
        known = "exact" if made.likelihood == "exact" else f"{v['samples']} draws"
        sign = "" if made.likelihood == "exact" else "≤ "
        score = f"{sign}{v['nll']:.2f} ± {v['standard_error']:.2f}"
        elbo = f"≤ {-v['elbo']:.2f}" if "elbo" in v else ""
        throws = f"{statistics.stdev(v['throws']):.2f}"
        lines.append([name, score, known, elbo, throws])
    header = ["model", "NLL", "how", "negative ELBO", "spread of throws"]
    return markdown(header, lines)


def quality_table(rows: dict[str, dict]) -> str:
    """Scores of drawings, thrown to black and white, in Markdown."""
    lines = []
    for name, _, v in _beside(rows):
        scores = [NOT_RUN, "", "", ""]
        if v is not None:
            scores = [f"{v[key]:.{digits}f}" for key, digits in SCORES_OF_DRAWINGS.items()]
        lines.append([name, *scores])
    header = ["drawings of", "Fréchet distance, squared", "precision", "recall", "wrong kind, %"]
    return markdown(header, lines)


def cost_table(rows: dict[str, dict]) -> str:
    """Times, in Markdown."""
    lines = []
    for name, _, v in _beside(rows):
        if v is None:
            lines.append([name, NOT_RUN, "", ""])
            continue
        scoring = f"{1000 * v['score_seconds']:,.0f}" if "score_seconds" in v else "–"
        train, draw = f"{v['train_seconds']:,.0f}", f"{1000 * v['draw_seconds']:,.0f}"
        lines.append([name, train, draw, scoring])
    header = ["model", "training, s", "100 drawings, ms", "1,000 scores, ms"]
    return markdown(header, lines)


def _beside(rows: dict[str, dict]) -> list[tuple[str, Contender, dict | None]]:
    return [(name, made, rows.get(name)) for name, made in CONTENDERS.items()]


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)

    command = shlex.join(["python", "-m", "companion.experiments.comparison", *arguments])
    provenance = results.provenance(command, chosen.device)
    done = current_rows()
    for name in chosen.models:
        if name in done:
            continue
        model, values = train_one(name, device=chosen.device)
        ours = {"recipe": recipe(name)}
        if getattr(CONTENDERS[name].train, "keywords", {}).get("precision") == "fast":
            ours["precision"] = training.fast_precision(chosen.device)
        if CONTENDERS[name].shipped:
            training.save_model(model.half(), weights_of(name))
            ours["sha256"] = hashlib.sha256(weights_of(name).read_bytes()).hexdigest()
        results.add(EXPERIMENT, {"model": name, "seed": 0}, values, provenance | ours)
        print(f"{name}: {values}", flush=True)
    rows = current_rows()
    print(likelihood_table(rows), quality_table(rows), cost_table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
