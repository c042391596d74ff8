"""Seconds to draw samples with what is computed kept (cached) and with all computed anew (naive).

Run alone, as other work on the machine disturbs it::

    python benchmarks/sampling.py

A naive sampler evaluates the whole network for each of the 784 pixels. Both take turns within each
round, and the ratio is the median over the rounds. First both must give the same samples, bit for
bit, in float64, where their different order of summation decides nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from companion import results
from companion.autoregressive import FVSBN, MADE, NADE, Autoregressive, GatedPixelCNN, PixelCNN

MODELS: dict[str, Callable[[], Autoregressive]] = {
    "FVSBN": lambda: FVSBN(784),
    "NADE 500": lambda: NADE(784, hidden=500),
    "MADE 500": lambda: MADE(784, hidden=(500,)),
    "PixelCNN": PixelCNN,
    "Gated PixelCNN": GatedPixelCNN,
}


def randomised(name: str) -> Autoregressive:
    """A model in which every entry depends on others: untrained ones ignore what they see."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        inputs = parameter[0].numel()
        parameter.data = torch.randn(parameter.shape) * (2 / inputs**0.5 if inputs > 1 else 0.5)
    model.bias.data -= model.logits(torch.rand(16, model.features).round()).mean(0)
    return model


def require_equal(model: Autoregressive, batch_size: int) -> None:
    """Raise unless naive and cached sampling agree, on samples that are not trivial."""
    samples = []
    for cached in (False, True):
        torch.manual_seed(1)
        samples.append(model.sample((batch_size,), cached=cached))
    naive, cached = samples
    name = type(model).__name__
    if not torch.equal(naive, cached):
        raise AssertionError(f"{name}: {(naive != cached).sum()} pixels of the samples differ")
    if not 0.05 < naive.mean() < 0.95 or torch.equal(naive[0], naive[1]):
        raise AssertionError(f"{name}: the samples are trivial, they prove nothing")


def draw(model: Autoregressive, batch_size: int, cached: bool, pixels: int) -> Tensor:
    """`Autoregressive.sample`, which may stop after so many pixels."""
    if pixels == model.features:
        return model.sample((batch_size,), cached=cached)
    x = model.bias.new_zeros(batch_size, model.features)
    noise = torch.rand_like(x)
    walk = model.walk(x) if cached else Autoregressive.walk(model, x)
    for i, logit in zip(model.orders[0].tolist(), islice(walk, pixels), strict=False):
        x[:, i] = (noise[:, i] < logit.sigmoid()).to(x)
    return x


def seconds(model: Autoregressive, batch_size: int, cached: bool, pixels: int) -> float:
    """Time for a batch of whole samples; a naive step takes the same time at every pixel."""
    torch.manual_seed(0)
    start = time.perf_counter()
    draw(model, batch_size, cached, pixels)
    if model.bias.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * model.features / pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 100])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--quick",
        type=int,
        nargs="?",
        const=28,
        metavar="PIXELS",
        help="time the naive sampler on the first pixels only (28) and scale up",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    if arguments.quick is not None and not 1 <= arguments.quick <= 784:
        parser.error("--quick: 1 to 784 pixels")
    print(f"torch {torch.__version__}, {results.provenance('', arguments.device)['device']}")
    if arguments.quick:
        print(f"naive: from {arguments.quick} of 784 pixels")
    print(f"{'model':<16}{'batch':>6}{'naive, s':>12}{'cached, s':>12}{'naive / cached':>16}")
    for name in arguments.models:
        model = randomised(name).to(arguments.device)
        require_equal(model.double(), batch_size=2)
        model.float()
        for batch_size in arguments.batch_sizes:
            pixels = {False: arguments.quick or model.features, True: model.features}
            for cached in pixels:  # warm up
                draw(model, batch_size, cached, pixels=2)
            rounds = []
            for i in range(arguments.rounds):
                order = (True, False) if i % 2 else (False, True)
                spent = {c: seconds(model, batch_size, c, pixels[c]) for c in order}
                rounds.append([spent[False], spent[True]])
            naive, cached = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratio = statistics.median(a / b for a, b in rounds)
            times = f"{naive:>12.3f}{cached:>12.3f}{ratio:>16.1f}"
            print(f"{name:<16}{batch_size:>6}{times}", flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
