"""Speed, always as a ratio: ours and another program, side by side in one run.

``python -m companion benchmark`` prints it. Run it alone, as other work on the machine disturbs it:
the programs take turns within each round, and a ratio is the median over the rounds, so that
whatever slows a whole round slows all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from companion.training.process import float32, reproducible


def take_turns(
    programs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each program in each round; the order is reversed from round to round.

    Args:
        programs: run from the same global random state; what they return is not looked at.
        rounds:   after one that warms up and is not counted.
        device:   is waited for.
    """
    spent = {name: [] for name in programs}
    with float32(), reproducible([]):  # for all alike: ours would be alone in it
        for i in range(rounds + 1):
            for name in [*programs] if i % 2 else [*programs][::-1]:
                torch.manual_seed(0)
                wait(device)
                start = time.perf_counter()
                programs[name]()
                wait(device)
                if i:
                    spent[name].append(time.perf_counter() - start)
    return spent


def ratio(spent: Mapping[str, list[float]], ours: str, other: str) -> float:
    """How many times as fast as the other we are: the median over rounds of a quotient of times."""
    pairs = zip(spent[other], spent[ours], strict=True)
    return statistics.median(b / a for b, a in pairs)


def wait(device: torch.device) -> None:
    """Block until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
