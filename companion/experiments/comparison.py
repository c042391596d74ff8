"""Every family of the book under one protocol: likelihood, drawings, size and time.

Chapter: book/comparing-the-models.ipynb. All rows, skipping those that are there::

    python -m companion.experiments.comparison

All models see the same 50,000 training images, thrown anew at every visit (the independent pixels
see one throw, the GAN sees the greys), and are scored on the same throw of the 10,000 test images.
What they draw is compared as it is scored: black and white.
"""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import companion
from companion import data, divergences, evaluation, results, sample_scores, training
from companion.experiments.common import (
    NOT_RUN,
    markdown,
    one_process,
    parser,
    precision,
    replacing,
    typed,
)
from companion.features import DigitFeatures
from companion.nn import free_parameters
from companion.presets import CHAPTER, Preset
from companion.training.checkpoint import in_words
from companion.training.devices import home_of

EXPERIMENT = "comparison"
DRAWS = 3000  # for the scores of drawings, and as many test images
K = 500  # draws of the latents for each image
FEW = 50  # the same where throws are compared
THROWS = range(data.SEEDS["test"], data.SEEDS["test"] + 5)  # seeds; the first is the book's throw
WEIGHTS = Path(companion.__file__).parent / "_data" / "weights"

SCORES_OF_DRAWINGS = {"frechet": 0, "precision": 2, "recall": 2, "wrong_kind": 0}  # digits

# Those of the chapters' models that differ in kind, and not only in a layer.
CONTENDERS = {
    name: CHAPTER[name]
    for name in (
        "independent pixels",
        "mixture of 100",
        "FVSBN",
        "NADE",
        "MADE",
        "gated PixelCNN",
        "VAE",
        "IWAE-5",
        "VAE, 2 layers",
        "AAE",
        "DCGAN",
    )
}


# --- what is asked of each -----------------------------------------------------------------------


def drawings(model: nn.Module, count: int, batch_size: int = 500, *, grey: bool = False) -> Tensor:
    """Drawings in black and white, float ``(count, 784)``; grey ones are thrown like the data.

    Args: grey: leave those of a model that draws in grey as they are.
    """
    parts = []
    for start in range(0, count, batch_size) or [0]:
        size = min(batch_size, count - start)
        x = model.sample((size,)).float().flatten(1).clamp(0, 1)
        parts.append(x if grey else x.bernoulli())  # zeros and ones stay as they are
    return torch.cat(parts)


def likelihood(model: nn.Module, kind: str, images: Tensor) -> dict:
    """The score of the test images, nats, and how it is spread over throws.

    Args:
        kind:   as in `companion.presets.Preset`.
        images: grey test images, uint8 ``(N, 784)``.

    Returns: ``nll`` and ``standard_error``, over images; ``tenth``, the score of every tenth image,
        and ``score_seconds``, the time that it takes; ``throws``, the scores of five throws; for
        "bound" also ``samples``, ``effective_samples``, the mean ``elbo``, and ``tenth_longer``,
        with ten times the draws, while ``throws`` have 50 each; for "none" the empty dict.
    """
    if kind == "none":
        return {}
    test, *others = (data.binarize(images, seed=seed) for seed in THROWS)
    place = home_of(model)  # not a GPU that happens to be there: drawing is timed here, too
    start = time.perf_counter()
    tenth = score(model, kind, test[::10], device=place).mean
    seconds = time.perf_counter() - start
    found = score(model, kind, test, device=place)
    values = {"nll": found.mean, "standard_error": found.standard_error, "tenth": tenth}
    values["score_seconds"] = seconds
    if kind == "bound":
        values |= {"samples": K, "effective_samples": found.effective_samples}
        values["elbo"] = -score(model, kind, test, 1, device=place).mean
        values["tenth_longer"] = score(model, kind, test[::10], 10 * K, device=place).mean
    throws = [score(model, kind, x, FEW, device=place).mean for x in (test, *others)]
    rounded = {key: round(value, 4) for key, value in values.items()}
    return rounded | {"throws": [round(value, 4) for value in throws]}


def score(
    model: nn.Module,
    kind: str,
    x: Tensor,
    samples: int | None = None,
    *,
    device: str | torch.device | None = None,
):
    """The negative log-likelihood of binary images: exactly ("exact"), or with so many draws.

    Args:
        kind:    "exact" or "bound".
        samples: draws for each image, of a bound; left out: those of the rows.
        device:  as in `evaluation.nll`.
    """
    if kind == "exact":
        return evaluation.nll(model, x, batch_size=250, device=device)
    return evaluation.importance_sampled_nll(model, x, samples or K, device=device)


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
        images: what `real_images` returns, ``(N, 784)``, zeros and ones.

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


def seconds_for_drawings(model: nn.Module) -> float:
    """The median time of 100 drawings at once, of three tries, in seconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        drawings(model, 100)
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
    return from_package(name, CONTENDERS, weights_of)


def from_package(
    name: str, presets: dict[str, Preset], weights_of: Callable[[str], Path]
) -> nn.Module:
    """Like `shipped`, for any presets whose weights have their place."""
    preset = presets[name]
    there = [each for each in presets if presets[each].shipped and weights_of(each).exists()]
    if name not in there:
        raise ValueError(
            f"the weights of {name!r} do not travel with the package; those do: {', '.join(there)}"
        )
    model = training.load_model(preset.build().half(), weights_of(name))
    return model.float().eval().requires_grad_(False)


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
    found = results.current(EXPERIMENT, "model", {name: recipe(name) for name in CONTENDERS})
    rows = {row["settings"]["model"]: row for row in found}
    return {name: rows[name] for name in CONTENDERS if name in rows}


def measurements() -> dict[str, dict]:
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

    Args: rows: of `measurements`, here and below.
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


# The columns of `overview`: header, key, a factor, decimals, and whether the highest is the best.
OVERVIEW = (
    ("NLL", "nll", 1, 1, False),
    ("distance", "frechet", 1, 0, False),
    ("prec., %", "precision", 100, 0, True),
    ("recall, %", "recall", 100, 0, True),
    ("size, k", "parameters", 1e-3, 0, False),
    ("train, s", "train_seconds", 1, 0, False),
    ("draw, ms", "draw_seconds", 1000, 0, False),
    ("score, ms", "score_seconds", 1000, 0, False),
)


def overview(rows: dict[str, dict], best: int = 3) -> str:
    """The main columns of the three tables at once, in Markdown.

    The best so many of each column are bold, and whatever is printed like the last of them.
    """
    columns = []
    for header, key, factor, digits, highest in OVERVIEW:
        places = SCORES_OF_DRAWINGS.get(key, 9)  # as in the table of their own, then in percent
        shown = {n: float(f"{row[key]:.{places}f}") for n, row in rows.items() if key in row}
        values = {name: round(factor * value, digits) for name, value in shown.items()}
        leaders = {*sorted(values.values(), reverse=highest)[:best]}
        column = [header]
        for name, row in rows.items():
            bound = "≤\u00a0" if key == "nll" and "elbo" in row else ""
            error = f" ± {row['standard_error']:.{digits}f}" if key == "nll" and key in row else ""
            text = f"{bound}{values[name]:,.{digits}f}{error}" if name in values else "–"
            column.append(f"**{text}**" if values.get(name) in leaders else text)
        columns.append(column)
    header, *lines = zip(["model", *rows], *columns, strict=True)
    return markdown([*header], [[*line] for line in lines])


def _beside(rows: dict[str, dict]) -> list[tuple[str, Preset, dict | None]]:
    return [(name, made, rows.get(name)) for name, made in CONTENDERS.items()]


def main(arguments: list[str] | None = None) -> None:
    one_process()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser(EXPERIMENT, __doc__)
    every = {"choices": CONTENDERS, "default": [*CONTENDERS], "help": "left out: all"}
    options.add_argument("--models", nargs="+", **every)
    options.add_argument("--device", help="left out: a CUDA GPU if there is one")
    chosen = options.parse_args(arguments)

    provenance = results.provenance(typed(EXPERIMENT, arguments), chosen.device)
    done = measurements()
    for name in chosen.models:
        if name in done:
            continue
        model, values = train_one(name, device=chosen.device)
        asked = getattr(CONTENDERS[name].train, "keywords", {})
        row = {"recipe": recipe(name)} | precision(asked, chosen.device)
        with contextlib.ExitStack() as stack:
            if CONTENDERS[name].shipped:
                weights = stack.enter_context(replacing(weights_of(name), model.half()))
                row["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
            results.add(EXPERIMENT, {"model": name, "seed": 0}, values, provenance | row)
        print(f"{name}: {values}", flush=True)
    rows = measurements()
    print(likelihood_table(rows), quality_table(rows), cost_table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
