"""Speed of `training.fit` next to a tight hand-written loop of the same model, in images a second.

Run alone, as other work on the machine disturbs it::

    python benchmarks/training.py

Both loops use fused Adam, one precision and the same binary MNIST images, uint8 in memory. They
take turns within each round, and the ratio is the median over the rounds: whatever slows a round
slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from companion import data, results, training
from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN


class Case(NamedTuple):
    """What to train, on how many images a loop and round, and whether in the fast precision."""

    model: Callable[[], nn.Module]
    images: int
    fast: bool = False


CASES = {
    "FVSBN": Case(lambda: FVSBN(784), 50_000),
    "MADE 500": Case(lambda: MADE(784, hidden=(500,)), 50_000),
    "NADE 100": Case(lambda: NADE(784, hidden=100), 2_560),
    "Gated PixelCNN": Case(GatedPixelCNN, 512, fast=True),
}


def by_hand(model: nn.Module, images: Tensor, batch_size: int, precision: str) -> None:
    """One epoch with nothing but what learning takes."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    model.train()
    for places in torch.randperm(len(images), device=images.device).split(batch_size):
        x = images[places].float()
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            values = model(x)
        (-values.mean()).backward()
        optimizer.step()


def by_fit(model: nn.Module, images: Tensor, batch_size: int, precision: str) -> None:
    """The same through the engine."""
    training.fit(
        model,
        data.Batches(images, batch_size),
        epochs=1,
        schedule="constant",
        device=images.device,
        precision=precision,
    )


def seconds(loop: Callable, case: Case, images: Tensor, batch_size: int) -> float:
    torch.manual_seed(0)
    model = case.model().to(images.device)
    precision = training.fast_precision(images.device) if case.fast else "no"
    start = time.perf_counter()
    loop(model, images, batch_size, precision)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[100, 256])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, help="at most, per loop and round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    images = data.binarize(data.mnist().train.images, seed=data.SEEDS["train"]).flatten(1)
    print(f"torch {torch.__version__}, {results.provenance('', arguments.device)['device']}")
    print(f"{'model':<16}{'batch':>6}{'fit':>12}{'by hand':>12}{'fit / by hand':>16}")
    for name in arguments.models:
        for batch_size in arguments.batch_sizes:
            count = min(CASES[name].images, arguments.images or len(images))
            count = count // batch_size * batch_size
            subset = images[:count].to(arguments.device)
            loops = [by_fit, by_hand]
            rounds = []
            for i in range(arguments.rounds + 1):  # the first warms up
                order = loops if i % 2 else loops[::-1]
                spent = {f: seconds(f, CASES[name], subset, batch_size) for f in order}
                rounds.append([spent[f] for f in loops])
            fit, hand = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
            ratio = statistics.median(b / a for a, b in rounds[1:])
            speeds = f"{count / fit:>12,.0f}{count / hand:>12,.0f}{ratio:>16.3f}"
            print(f"{name:<16}{batch_size:>6}{speeds}", flush=True)


if __name__ == "__main__":
    main()
