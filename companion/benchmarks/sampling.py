"""Seconds to draw samples with what is computed kept (cached) and with all computed anew (naive).

A naive sampler evaluates the whole network for each of the 784 pixels. First both must give the
same samples, bit for bit, in float64, where their different order of summation decides nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from companion.autoregressive import FVSBN, MADE, NADE, Autoregressive, GatedPixelCNN, PixelCNN
from companion.benchmarks import ratio, take_turns

D = 784

MODELS: dict[str, Callable[[], Autoregressive]] = {
    "FVSBN": lambda: FVSBN(D),
    "NADE 500": lambda: NADE(D, hidden=500),
    "MADE 500": lambda: MADE(D, hidden=(500,)),
    "PixelCNN": PixelCNN,
    "gated PixelCNN": GatedPixelCNN,
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


def draw_pixels(model: Autoregressive, batch_size: int, cached: bool, pixels: int) -> Tensor:
    """`Autoregressive.sample`, which may stop after so many pixels."""
    if pixels == model.features:
        return model.sample((batch_size,), cached=cached)
    x = model.bias.new_zeros(batch_size, model.features)
    noise = torch.rand_like(x)
    walk = model.walk(x) if cached else Autoregressive.walk(model, x)
    for i, logit in zip(model.orders[0].tolist(), islice(walk, pixels), strict=False):
        x[:, i] = (noise[:, i] < logit.sigmoid()).to(x)
    return x


@torch.no_grad()
def main(
    names: Sequence[str] = tuple(MODELS),
    *,
    batch_sizes: Sequence[int] = (16, 100),
    rounds: int = 1,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
    pixels: int = D,
) -> None:
    """Print the table.

    Args:
        names:  keys of ``MODELS``.
        rounds: that count.
        pixels: of the naive sampler, which is scaled up to all, as each takes the same time.
    """
    if pixels < D:
        print(f"naive: from {pixels} of {D} pixels")
    print(f"{'model':<16}{'batch':>6}{'naive, s':>12}{'cached, s':>12}{'naive / cached':>16}")
    for name in names:
        model = randomised(name).double()
        require_equal(model if device.type == "mps" else model.to(device), batch_size=2)
        model.float().to(device)
        for batch_size in batch_sizes:
            programs = {
                "naive": partial(draw_pixels, model, batch_size, cached=False, pixels=pixels),
                "cached": partial(draw_pixels, model, batch_size, cached=True, pixels=D),
            }
            spent = take_turns(programs, rounds, device)
            spent["naive"] = [seconds * D / pixels for seconds in spent["naive"]]
            naive, cached = (statistics.median(spent[each]) for each in programs)
            times = f"{naive:>12.3f}{cached:>12.3f}{ratio(spent, 'cached', 'naive'):>16.1f}"
            print(f"{name:<16}{batch_size:>6}{times}", flush=True)
