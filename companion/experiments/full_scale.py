"""The models of `companion.presets.PAPER` beside the published figures.

Meant for a GPU; some rows are within reach of two cores. Each takes two commands, of which the
first may be interrupted and called again::

    python -m companion train gated-pixelcnn --preset paper
    python -m companion evaluate gated-pixelcnn --preset paper --record
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from companion import data, evaluation, results, runs
from companion.experiments import comparison
from companion.experiments.common import NOT_RUN, markdown, replacing
from companion.families import FAMILIES
from companion.features import DigitFeatures
from companion.nn import free_parameters
from companion.presets import PAPER, Preset
from companion.training.devices import home_of

EXPERIMENT = "full-scale"
K = 5000  # draws of the latents for each image, as in the sources


def recipe(name: str) -> dict:
    """A preset's recipe in names and numbers: a row made by another one is outdated."""
    preset = PAPER[name]
    return runs.recipe(preset) | ({"samples": K} if preset.likelihood == "bound" else {})


def measure(model: nn.Module, preset: Preset, test: Tensor, draws: int | None = None) -> dict:
    """What is asked of a trained model.

    Args:
        model: of the preset, on the device that is to compute.
        test:  grey test images, uint8 ``(N, 784)``.
        draws: of the latents for each image, of a bound; left out: those of the sources.

    Returns: ``nll`` of the book's throw of the test images and its ``standard_error``, nats, and
        for a bound ``samples`` and ``effective_samples``; where there is no likelihood the scores
        of drawings, as in `comparison.quality`.
    """
    draws = draws or K
    if preset.likelihood == "none":
        drawn = comparison.drawings(model, comparison.DRAWS).cpu()
        return comparison.quality(drawn, comparison.real_images(test), DigitFeatures.pretrained())
    x, place = data.binarize(test, seed=data.SEEDS["test"]), home_of(model)
    if preset.likelihood == "exact":
        found = evaluation.nll(model, x, batch_size=250, device=place)
        values = {}
    else:  # 25,000 draws at a time: below 1 GB
        sizes = {"batch_size": 100, "chunk": 250}
        found = evaluation.importance_sampled_nll(model, x, draws, **sizes, device=place)
        values = {"samples": draws, "effective_samples": round(found.effective_samples, 2)}
    values["standard_error"] = round(found.standard_error, 4)
    return {"nll": round(found.mean, 4)} | values


def weights_of(name: str) -> Path:
    """Where the weights of a shipped preset are."""
    return comparison.WEIGHTS / f"paper-{runs.slug(name)}.safetensors"


def shipped(name: str) -> nn.Module:
    """A trained model, from the weights that travel with the package (half precision).

    Raises: KeyError for a name that is not there; ValueError if its weights do not travel.
    """
    return comparison.from_package(name, PAPER, weights_of)


def record(
    name: str,
    folder: Path,
    *,
    command: str = "",
    device: str | torch.device = "cpu",
) -> dict:
    """Measure a trained run and store its row; of a shipped preset's seed 0 its weights as well.

    Args:
        name:   a key of ``PAPER``.
        folder: of the run, as in `companion.runs.train`.
        command, device: of the scoring.

    Returns: the row.
    Raises:  ValueError if the run is not finished, or its recipe is not the preset's.
    """
    run, preset = runs.read(folder), PAPER[name]
    if run is None or not run["finished"]:
        raise ValueError(f"{folder} holds no finished run: train the model first")
    if run["recipe"] != runs.recipe(preset):
        raise ValueError(f"{folder} was trained by another recipe than the preset's: no row of it")
    model = runs.load(name, "paper", folder / "model.safetensors")
    if preset.shipped:  # what is measured is what is shipped: rounded to half precision
        model = model.half().float()
    ours = {key: run[key] for key in ("precision", "compiled")} | {"recipe": recipe(name)}
    ours["scored"] = results.provenance(command, device)
    test = runs.images(preset)[2]
    start = time.perf_counter()
    torch.manual_seed(run["seed"])
    values = {"parameters": free_parameters(model), "train_seconds": run["seconds"]}
    values["memory_mb"] = run["memory_mb"]
    values |= measure(model.to(device), preset, test)
    values["score_seconds"] = round(time.perf_counter() - start, 1)
    settings = {"model": name, "seed": run["seed"]}
    with contextlib.ExitStack() as stack:
        if preset.shipped and run["seed"] == 0:  # the table's row: no other seed's weights travel
            shipped = stack.enter_context(replacing(weights_of(name), model.cpu().half()))
            ours["sha256"] = hashlib.sha256(shipped.read_bytes()).hexdigest()
        return results.add(EXPERIMENT, settings, values, run["provenance"] | ours)


def current_rows(name: str) -> list[dict]:
    """The stored rows of a preset that were made by its recipe as it is now, one for each seed."""
    return results.current(EXPERIMENT, "model", {name: recipe(name)})


def table(chapter: str | None = None) -> str:
    """The presets of a chapter, or all, beside the published figures, nats, in Markdown.

    Each data set has a table of its own.

    Args: chapter: the stem of its notebook.
    """
    families = {each.name for each in FAMILIES if chapter in (None, each.chapter)}
    chosen = {
        name: preset
        for name, preset in PAPER.items()
        if preset.published is not None and preset.family in families
    }
    if not chosen:
        raise ValueError(f"no preset belongs to a chapter named {chapter!r}")
    tables = {}  # of each data set, since scores of different pictures do not compare
    for name, preset in chosen.items():
        parameters = f"{free_parameters(preset.build()):,}"
        ours = NOT_RUN
        for row in current_rows(name)[:1]:
            values = row["values"]
            sign = "≤ " if preset.likelihood == "bound" else ""
            ours = f"{sign}{values['nll']:.2f} ± {values['standard_error']:.2f}"
        line = [name, parameters, ours, f"{preset.published.nll:.2f}"]
        tables.setdefault(preset.data, []).append(line)
    headers = {"mnist": "model", "fashion-mnist": "model of Fashion-MNIST"}
    rest = ["parameters", "NLL", "published"]
    return "\n\n".join(markdown([headers[key], *rest], lines) for key, lines in tables.items())


def drawings_table() -> str:
    """The presets without a likelihood: scores of their drawings, in Markdown.

    They are in the features of the book's own classifier, and compare with each other alone.
    """
    lines = []
    for name, preset in PAPER.items():
        if preset.likelihood == "none":
            scores = [NOT_RUN, "", "", ""]
            for row in current_rows(name)[:1]:
                scores = [
                    f"{row['values'][key]:.{digits}f}"
                    for key, digits in comparison.SCORES_OF_DRAWINGS.items()
                ]
            lines.append([name, f"{free_parameters(preset.build()):,}", *scores])
    header = ["model", "parameters", "Fréchet distance, squared", "precision", "recall"]
    return markdown([*header, "wrong kind, %"], lines)
