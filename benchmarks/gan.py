"""Training speed of our GANs beside a tight hand-written loop, in examples a second.

Run alone, as other work on the machine disturbs it::

    python benchmarks/gan.py

Both train the same networks on the same batches with the same rates, by the non-saturating loss:
two small networks on points in the plane, and the DCGAN of the chapter on MNIST. They take turns
within each round, and a ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from companion import data, results, training
from companion.experiments import mode_collapse
from companion.gan import GAN, dcgan, fit_gan


def by_fit(gan: GAN, examples: Tensor, batch_size: int, precision: str) -> float:
    batches = data.Batches(examples, batch_size)
    return seconds(lambda: fit_gan(gan, batches, epochs=1, device="cpu", precision=precision))


def by_hand(gan: GAN, examples: Tensor, batch_size: int, precision: str) -> float:
    """One epoch with nothing but what learning takes, formulas written out."""
    G, D, latent = gan.G, gan.D, gan.latent
    step_G = torch.optim.Adam(G.parameters(), 2e-4, (0.5, 0.999), fused=True)
    step_D = torch.optim.Adam(D.parameters(), 2e-4, (0.5, 0.999), fused=True)
    low = precision != "no" and training.fast_precision("cpu") == "bf16"
    context = torch.autocast("cpu", torch.bfloat16) if low else nullcontext()

    def loop():
        for places in torch.randperm(len(examples)).split(batch_size):
            real = examples[places]
            with context:
                with torch.no_grad():
                    fake = G(torch.randn(len(real), latent))
                real_logits, fake_logits = D(real), D(fake)
            loss = F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()
            step_D.zero_grad()
            loss.backward()
            step_D.step()
            D.requires_grad_(False)
            with context:
                logits = D(G(torch.randn(len(real), latent)))
            loss = F.softplus(-logits.float()).mean()
            step_G.zero_grad()
            loss.backward()
            step_G.step()
            D.requires_grad_(True)

    return seconds(loop)


def seconds(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[100, 200])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=4000, help="per loop and round")
    parser.add_argument("--points", type=int, default=40_000, help="per loop and round")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    images = data.mnist().train.images[: arguments.images, None] / 255
    points = data.grid_of_gaussians().sample((arguments.points,))
    cases = {
        "points": (mode_collapse.networks, points, "no"),
        "DCGAN, float32": (dcgan, images, "no"),
        "DCGAN, fast": (dcgan, images, "fast"),
    }
    loops = {"fit": by_fit, "by hand": by_hand}
    print(f"torch {torch.__version__}, {results.provenance('', 'cpu')['device']}")
    print(f"{'networks':<16}{'batch':>5}" + "".join(f"{name:>12}" for name in loops), end="")
    print(f"{'fit / by hand':>16}")
    for (name, (make, examples, precision)), batch_size in (
        (case, size) for case in cases.items() for size in arguments.batch_sizes
    ):
        subset = examples[: len(examples) // batch_size * batch_size]
        rounds = []
        for i in range(arguments.rounds + 1):  # the first warms up
            order = [*loops] if i % 2 else [*loops][::-1]
            spent = {}
            for loop in order:
                torch.manual_seed(0)
                spent[loop] = loops[loop](make(), subset, batch_size, precision)
            rounds.append(spent)
        rounds = rounds[1:]
        speed = [len(subset) / statistics.median(r[loop] for r in rounds) for loop in loops]
        ratio = statistics.median(r["by hand"] / r["fit"] for r in rounds)
        print(f"{name:<16}{batch_size:>5}" + "".join(f"{v:>12,.0f}" for v in speed), end="")
        print(f"{ratio:>16.3f}", flush=True)


if __name__ == "__main__":
    main()
