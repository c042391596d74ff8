"""Properties that a model of binary vectors must have: used by the tests and by the exercises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def all_binary(features: int) -> Tensor:
    """Every binary vector of length D once, shape ``(2**D, D)``, counting up, float64."""
    if not 0 < features <= 20:
        raise ValueError(f"can enumerate 1 to 20 entries, not {features}")
    digits = torch.arange(features - 1, -1, -1)
    return (torch.arange(2**features)[:, None] >> digits & 1).double()


@torch.no_grad()
def total_probability(log_prob: Callable[[Tensor], Tensor], features: int) -> float:
    """The sum of p(x) over all binary vectors: 1 for a distribution, whatever its parameters.

    Args:
        log_prob: ``(N, D) -> (N,)``, nats.
        features: D, at most 20.
    """
    return log_prob(all_binary(features)).double().logsumexp(0).exp().item()


def dependence(logits: Callable[[Tensor], Tensor], features: int) -> Tensor:
    """Which outputs depend on which inputs: entry (i, j) is true if output i moves with input j.

    Args: as in `sees`, of which these are all the rows.
    """
    return torch.stack([sees(logits, features, output) for output in range(features)])


def sees(logits: Callable[[Tensor], Tensor], features: int, output: int) -> Tensor:
    """Which inputs one output depends on: a row of `dependence`, at little cost for large D.

    Reads the gradient at several random points, because a unit that happens to be off at one
    point hides what passes through it.

    Args:
        logits:   ``(B, D) -> (B, D)``, differentiable, of a model on the CPU in float64.
        features: D.
        output:   the output, 0 to D - 1.

    Returns: bool, shape ``(D,)``.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, features, generator=generator, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        logits(x)[:, output].sum(), x, allow_unused=True, materialize_grads=True
    )
    return (gradient != 0).any(0)


@torch.no_grad()
def frequencies(samples: Tensor) -> Tensor:
    """How often each binary vector occurs, ``(N, D) -> (2**D,)``, in the order of all_binary."""
    if samples.dim() != 2 or not len(samples) or not ((samples == 0) | (samples == 1)).all():
        raise ValueError("samples are vectors of zeros and ones, (N, D), N at least 1")
    features = samples.shape[-1]
    if features > 20:
        raise ValueError(f"can count vectors of 1 to 20 entries, not {features}")
    place = 2 ** torch.arange(features - 1, -1, -1)
    counts = (samples.cpu().long() @ place).bincount(minlength=2**features)
    return counts.double() / len(samples)


@torch.no_grad()
def sampling_p_value(samples: Tensor, log_prob: Callable[[Tensor], Tensor]) -> float:
    """Could these samples come from this density? The p-value of Pearson's chi-squared test.

    The rarest vectors are pooled until their class, too, is expected five times.

    Args:
        samples:  ``(N, D)``, D at most 20.
        log_prob: ``(N, D) -> (N,)``, nats.

    Raises: ValueError if there are too few samples for the test, or the density is not finite.
    """
    every = all_binary(samples.shape[-1])
    density = log_prob(every).cpu().double().exp()
    if density.shape != every.shape[:1]:
        raise ValueError(f"log_prob gives one value for each vector, not {tuple(density.shape)}")
    if not density.isfinite().all():
        raise ValueError("the density is not finite everywhere")
    expected, order = (density * len(samples)).sort(descending=True)
    observed = (frequencies(samples) * len(samples))[order]
    if observed[expected == 0].any():
        return 0.0  # what cannot happen has happened
    rest = expected.sum() - expected.cumsum(0)
    own = (expected >= 5) & (rest >= 5)  # the others share a class, which is large enough, too
    if not own.any():
        raise ValueError(f"{len(samples)} samples are too few to compare with the density")
    e = torch.cat([expected[own], expected[~own].sum()[None]])
    o = torch.cat([observed[own], observed[~own].sum()[None]])
    # The chi-squared distribution is a gamma distribution; its tail is the incomplete gamma.
    return torch.special.gammaincc(own.sum() / 2, ((o - e) ** 2 / e).sum() / 2).item()
