"""Speed of `training.fit` next to a tight hand-written loop of the same model, in images a second.

Run alone, as other work on the machine disturbs it::

    python benchmarks/training.py

Both loops use fused Adam and the same binary MNIST images, uint8 in memory. They take turns within
each round, and the ratio is the median over the rounds: whatever slows a round slows both.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from companion import data, training
from companion.autoregressive import FVSBN, MADE

MODELS: dict[str, Callable[[], nn.Module]] = {
    "FVSBN": lambda: FVSBN(784),
    "MADE 500": lambda: MADE(784, hidden=(500,)),
}


def by_hand(model: nn.Module, images: Tensor, batch_size: int) -> None:
    """One epoch with nothing but what learning takes."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    model.train()
    for places in torch.randperm(len(images), device=images.device).split(batch_size):
        x = images[places].float()
        optimizer.zero_grad()
        (-model(x).mean()).backward()
        optimizer.step()


def by_fit(model: nn.Module, images: Tensor, batch_size: int) -> None:
    """The same through the engine."""
    batches = data.Batches(images, batch_size)
    training.fit(model, batches, epochs=1, schedule="constant", device=images.device)


def seconds(
    loop: Callable, make: Callable[[], nn.Module], images: Tensor, batch_size: int
) -> float:
    torch.manual_seed(0)
    model = make().to(images.device)
    start = time.perf_counter()
    loop(model, images, batch_size)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[100, 256])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=50_000, help="per loop and round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    images = data.binarize(data.mnist().train.images, seed=data.SEEDS["train"]).flatten(1)
    threads = f"{torch.get_num_threads()} threads" if arguments.device == "cpu" else "CUDA"
    print(f"torch {torch.__version__}, {arguments.device} ({threads}), {platform.machine()}")
    print(f"{'model':<12}{'batch':>6}{'fit':>12}{'by hand':>12}{'fit / by hand':>16}")
    for name in arguments.models:
        for batch_size in arguments.batch_sizes:
            count = arguments.images // batch_size * batch_size
            subset = images[:count].to(arguments.device)
            loops = [by_fit, by_hand]
            rounds = []
            for i in range(arguments.rounds + 1):  # the first warms up
                order = loops if i % 2 else loops[::-1]
                spent = {f: seconds(f, MODELS[name], subset, batch_size) for f in order}
                rounds.append([spent[f] for f in loops])
            fit, hand = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
            ratio = statistics.median(b / a for a, b in rounds[1:])
            speeds = f"{count / fit:>12,.0f}{count / hand:>12,.0f}{ratio:>16.3f}"
            print(f"{name:<12}{batch_size:>6}{speeds}", flush=True)


if __name__ == "__main__":
    main()
