r"""Are two sets of points draws from one distribution? The maximum mean discrepancy and its test.

A kernel k takes squared distances, of any shape, to similarities from 0 to 1, 1 for equal points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from companion import require
from companion.nn import at_least_float32

# --- kernels -------------------------------------------------------------------------------------
# Partial functions and no closures, because a checkpoint tells them, and their sizes, by name.


def gaussian_kernel(bandwidth: float) -> Callable[[Tensor], Tensor]:
    r"""The kernel that falls off like a normal density, Eq. (gaussian-kernel).

    .. math:: k(z, z') = e^{-\|z - z'\|^2 / 2 h^2}
    """
    return partial(_gaussian, bandwidth=_positive(bandwidth))


def inverse_multiquadratic(scale: float) -> Callable[[Tensor], Tensor]:
    r"""A kernel that is still felt from far, Eq. (inverse-multiquadratic).

    .. math:: k(z, z') = \frac{c}{c + \|z - z'\|^2}

    Source: Tolstikhin, Bousquet, Gelly & Schoelkopf (2018), where c = 2 H for H latent variables
    that are standard normal: the average squared distance of two draws.
    """
    return partial(_inverse_multiquadratic, scale=_positive(scale))


def _positive(size: float) -> float:
    if not 0 < size < math.inf:
        raise ValueError(f"the size of a kernel is a finite number above 0, not {size}")
    return size


def _gaussian(squares: Tensor, bandwidth: float) -> Tensor:
    return (squares / (-2 * bandwidth**2)).exp()


def _inverse_multiquadratic(squares: Tensor, scale: float) -> Tensor:
    return scale / (scale + squares)


# --- the discrepancy -----------------------------------------------------------------------------


def mmd2(a: Tensor, b: Tensor, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Squared maximum mean discrepancy, estimated without bias, Eq. (mmd-estimate).

    .. math:: \frac{1}{N (N - 1)} \sum_{n \ne n'} k(a_n, a_{n'})
        + \frac{1}{M (M - 1)} \sum_{m \ne m'} k(b_m, b_{m'})
        - \frac{2}{N M} \sum_{n, m} k(a_n, b_m)

    Where the two distributions are one it is 0 on average, and so it may be below 0.

    Args:    a, b: points, ``(N, H)`` and ``(M, H)``, at least two of either;
             differentiable.
    Returns: shape ``()``.
    Raises:  ValueError for fewer points, or points of different sizes.
    Source:  Gretton, Borgwardt, Rasch, Schoelkopf & Smola (2012), Eq. 3.
    """
    _require(a, b)
    within = sum(_mean_of_pairs(kernel(_squares(each, each))) for each in (a, b))
    return within - 2 * kernel(_squares(a, b)).mean()


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances, ``(N, H), (M, H) -> (N, M)``; rounding never makes them negative."""
    a, b = at_least_float32(a), at_least_float32(b)
    centre = b.detach().sum(0) / len(b)  # far from the origin the three terms would only cancel
    a, b = a - centre, b - centre
    with torch.autocast(a.device.type, enabled=False):  # it would round the product
        squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return squares.clamp(min=0)


def _mean_of_pairs(k: Tensor) -> Tensor:
    """The mean over pairs of different points, ``(N, N) -> ()``."""
    return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))


class TwoSampleTest(NamedTuple):
    """The discrepancy found, those found where there is none by construction, and a p-value.

    ``mmd2`` is a number, ``null`` float64 of shape ``(permutations,)``, sorted.
    """

    mmd2: float
    null: Tensor
    p_value: float


@torch.no_grad()
def mmd_test(
    a: Tensor,
    b: Tensor,
    kernel: Callable[[Tensor], Tensor],
    *,
    permutations: int = 500,
    seed: int = 0,
) -> TwoSampleTest:
    r"""Test if two sets of points may be of one distribution, Eq. (permutation-test).

    If they are, any division of all the points into two sets is as good as the given one.
    So throw them together, divide them at random again and again, and count how often the
    discrepancy of `mmd2` comes out as large as the one that was found. The kernel must
    not have been chosen with a look at which point is of which set.

    Args:
        a, b: independent draws, ``(N, H)`` and ``(M, H)``, at least two of either.

    Returns: with a p-value from 1 / (1 + permutations) to 1: where the distributions are
        one, it is at most t with a probability of at most t.
    Raises:  ValueError for fewer points, points of different sizes, or not finite.
    Source:  Gretton et al. (2012); counting the given division: Phipson & Smyth (2010).
    """
    _require(a, b)
    require.whole(0, permutations=permutations)
    both = torch.cat([a, b]).double()
    if not both.isfinite().all():
        raise ValueError("points must be finite numbers")
    k = kernel(_squares(both, both))
    k.fill_diagonal_(0)  # pairs of different points only
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(both), generator=generator) for _ in range(permutations)]
    # The first is as given.
    orders = torch.stack([torch.arange(len(both)), *orders]).to(k.device)
    in_a = torch.zeros(orders.shape, dtype=k.dtype, device=k.device)
    in_a.scatter_(1, orders[:, : len(a)], 1)
    of_a = in_a @ k  # how similar each point is to those of set a
    aa, ab = (of_a * in_a).sum(1), (of_a * (1 - in_a)).sum(1)
    bb = k.sum() - aa - 2 * ab
    n, m = len(a), len(b)
    values = (aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m)).cpu()
    found, null = values[0], values[1:].sort().values
    # As large as the one found, but for rounding: a division may come out the same.
    as_large = (null >= found - 1e-12).sum()
    p_value = (1 + as_large) / (1 + permutations)
    return TwoSampleTest(found.item(), null, p_value.item())


def _require(a: Tensor, b: Tensor) -> None:
    require.tensors(a=a, b=b)
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            "a and b must have shapes (N, H) and (M, H), N and M at least 2, got "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
