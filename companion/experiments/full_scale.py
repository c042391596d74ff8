"""The models of `companion.presets`, trained at full scale, beside the published figures.

Meant for a GPU. Without a name it prints the table. A run that was interrupted goes on from its
checkpoint; a preset that has its row is not run again::

    python -m companion.experiments.full_scale "Gated PixelCNN"
"""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from companion import data, evaluation, results, training
from companion.experiments.common import in_words, markdown
from companion.nn import free_parameters
from companion.presets import PRESETS

EXPERIMENT = "full-scale"


def recipe(name: str) -> dict:
    """A preset in names and numbers, as its row keeps it: a row made by another one is outdated."""
    preset = PRESETS[name]
    kept = {"parameters": free_parameters(preset.model()), "batch_size": preset.batch_size}
    if preset.samples is not None:
        kept["samples"] = preset.samples
    functions = {"model": preset.model} | preset.settings
    return kept | {key: in_words(value) for key, value in functions.items()}


def train_preset(
    name: str,
    *,
    path: str | os.PathLike,
    device: str | torch.device | None = None,
    precision: str | None = None,
    train: Tensor | None = None,
    test: Tensor | None = None,
) -> dict[str, float]:
    """Train a preset and score it on test images that are drawn once, the book's own draw.

    The published figures are of other draws, whose scores differ by about 0.1 nats.

    Args:
        name:      a key of ``PRESETS``.
        path:      checkpoint file; if it exists, the run goes on from it.
        device:    as of `training.fit`.
        precision: as of `training.fit`; left out: the preset's.
        train:     grey images, uint8, ``(N, 784)``; left out: all 60,000.
        test:      grey images, uint8, ``(N, 784)``; left out: all 10,000.

    Returns: ``nll`` and its ``standard_error`` over the test images, nats; where it is estimated by
        importance sampling, and therefore a little too high on average, the ``effective_samples``;
        ``seconds`` of training, unless the run went on from a checkpoint.
    """
    mnist = data.mnist()
    if train is None:
        train = torch.cat([mnist.train.images, mnist.validation.images]).flatten(1)
    test = mnist.test.images.flatten(1) if test is None else test
    preset = PRESETS[name]
    torch.manual_seed(0)
    model = preset.model()
    model.start_from(train.mean(0, dtype=torch.float64) / 255)
    settings = preset.settings | ({} if precision is None else {"precision": precision})
    batches = data.Batches(train, preset.batch_size, dynamic=True)
    whole = not Path(path).exists()
    start = time.perf_counter()
    training.fit(model, batches, path=path, device=device, **settings)
    seconds = time.perf_counter() - start
    values = score(model, data.binarize(test, seed=data.SEEDS["test"]), preset.samples)
    return values | ({"seconds": round(seconds, 1)} if whole else {})


def score(model: nn.Module, x: Tensor, samples: int | None) -> dict[str, float]:
    """The negative log-likelihood of binary images, exactly or with so many draws for each."""
    if samples is None:
        found = evaluation.nll(model, x, batch_size=250)
    else:  # 25,000 draws at a time: below 1 GB
        found = evaluation.importance_sampled_nll(model, x, samples, batch_size=100, chunk=250)
    values = {key: round(value, 4) for key, value in found._asdict().items()}
    return {"nll": values.pop("mean")} | values


def current_rows(name: str) -> list[dict]:
    """The stored row of a preset, if it was made by the preset as it is now."""
    rows, made_by = results.rows(EXPERIMENT, model=name), recipe(name)
    return [row for row in rows if row["provenance"]["recipe"] == made_by]


def table(chapter: str | None = None) -> str:
    """The presets of a chapter, or all, beside the published figures, nats, in Markdown.

    Args: chapter: the stem of its notebook.
    """
    chosen = {n: preset for n, preset in PRESETS.items() if chapter in (None, preset.chapter)}
    if not chosen:
        raise ValueError(f"no preset belongs to a chapter named {chapter!r}")
    lines = []
    for name, preset in chosen.items():
        ours = [
            f"{row['values']['nll']:.2f} ± {row['values']['standard_error']:.2f}"
            for row in current_rows(name)
        ]
        parameters = f"{recipe(name)['parameters']:,}"
        lines.append([name, parameters, *(ours or ["not yet run"]), f"{preset.published.nll:.2f}"])
    return markdown(["model", "parameters", "NLL", "published"], lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", choices=PRESETS, help="left out: print the table")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16", "fast"])
    parser.add_argument("--path", help="checkpoint file; left out: runs/NAME.safetensors")
    chosen = parser.parse_args(arguments)

    if chosen.name and not current_rows(chosen.name):
        precision = chosen.precision or PRESETS[chosen.name].settings.get("precision", "no")
        command = ["python", "-m", "companion.experiments.full_scale", chosen.name]
        command += ["--device", chosen.device, "--precision", precision]
        provenance = results.provenance(shlex.join(command), chosen.device)
        path = chosen.path or Path("runs") / f"{chosen.name}.safetensors"
        values = train_preset(chosen.name, path=path, device=chosen.device, precision=precision)
        ran_in = training.fast_precision(chosen.device) if precision == "fast" else precision
        ours = {"recipe": recipe(chosen.name), "precision": ran_in}
        results.add(EXPERIMENT, {"model": chosen.name}, values, provenance | ours)
        if chosen.path is None:
            path.unlink()  # done: another preset of this name must not go on from it
    print(table())


if __name__ == "__main__":
    main()
