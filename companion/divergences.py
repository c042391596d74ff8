r"""How far one distribution is from another: exactly for tables, by samples for everything else.

A *table* holds the probabilities of n outcomes on its last axis, shape ``(*batch, n)``; batches
broadcast. Functions of tables are exact, in nats, and differentiable with respect to positive
entries; they raise ValueError if a table has a negative entry, does not sum to 1 (to 1e-6 in
float64, 1e-5 in float32) or does not fit the other. `tabulate` turns a density on the line into a
table. What ends in ``_estimate`` needs samples only, or samples and ``log_prob``, and says how sure
it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid
from torch.special import entr, xlogy  # −x ln x and x ln y, both 0 at x = 0

from companion import require
from companion.evaluation import Estimate

# --- exact, of tables ---------------------------------------------------------------------------


def entropy(p: Tensor) -> Tensor:
    r"""Entropy of p, nats, shape ``(*batch,)``, Eq. (entropy).

    .. math:: H(p) = -\sum_x p(x) \ln p(x), \qquad 0 \ln 0 = 0
    """
    require_tables(p=p)
    return entr(p).sum(-1)


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    r"""Mean −ln q(x) of x drawn from p, nats, shape ``(*batch,)``, Eq. (cross-entropy).

    .. math:: H(p, q) = -\sum_x p(x) \ln q(x)

    It is infinite if q excludes what p may give.
    """
    require_tables(p=p, q=q)
    return (-xlogy(p, q)).sum(-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    r"""Kullback–Leibler divergence from p to q, nats, shape ``(*batch,)``, Eq. (kl).

    .. math:: D_\mathrm{KL}(p \,\|\, q) = \sum_x p(x) \ln \frac{p(x)}{q(x)}

    It is infinite if q excludes what p may give. Source: Kullback & Leibler (1951).
    """
    require_tables(p=p, q=q)
    return (xlogy(p, p) - xlogy(p, q)).sum(-1)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    r"""Jensen–Shannon divergence, 0 to ln 2 nats, shape ``(*batch,)``, Eq. (jensen-shannon).

    .. math:: \mathrm{JSD}(p \,\|\, q)
        = \tfrac12 D_\mathrm{KL}(p \,\|\, m) + \tfrac12 D_\mathrm{KL}(q \,\|\, m)
        = H(m) - \tfrac12 H(p) - \tfrac12 H(q), \qquad m = \tfrac12 (p + q)

    Source: Lin (1991).
    """
    require_tables(p=p, q=q)
    # By entropies, since kl(p, m) would be infinite where p is the least float, whose half is 0.
    apart = entr((p + q) / 2) - (entr(p) + entr(q)) / 2
    # Of entries that are alike they cancel; the same, by their relative difference, does not.
    d = ((p - q) / (p + q)).nan_to_num()
    near = d.clamp(-0.5, 0.5)
    alike = (p + q) / 4 * ((-near.square()).log1p() + 2 * near * near.atanh())
    return alike.where(d.abs() < 0.5, apart).sum(-1)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    r"""Total variation distance, 0 to 1, shape ``(*batch,)``, Eq. (total-variation).

    .. math:: \mathrm{TV}(p, q) = \tfrac12 \sum_x |p(x) - q(x)|
    """
    require_tables(p=p, q=q)
    return (p - q).abs().sum(-1) / 2


def wasserstein1(p: Tensor, q: Tensor, support: Tensor) -> Tensor:
    r"""Wasserstein-1 distance on the line, in units of x, shape ``(*batch,)``, Eq. (wasserstein).

    .. math:: W_1(p, q) = \int |F(x) - G(x)| \, dx

    F and G are the cumulative distributions of p and q: steps, which makes the integral a sum.

    Args:
        support: where the n outcomes lie, strictly increasing, shape ``(n,)``.

    Source: Vallender (1974).
    """
    require_tables(p=p, q=q)
    if not support.is_floating_point():
        support = support.to(p.dtype)
    if support.shape != p.shape[-1:] or not (support.diff() > 0).all():
        raise ValueError(
            f"support must be strictly increasing, of shape {tuple(p.shape[-1:])}: sort it, and "
            "the tables alike"
        )
    return ((p - q).cumsum(-1)[..., :-1].abs() * support.diff()).sum(-1)


def tabulate(distribution: Distribution, points: Tensor) -> Tensor:
    """Tabulate a density on the line: density times width for each cell of a grid, shape ``(n,)``.

    Divergences of two such tables are those of the densities, by the mid-point rule: in every
    ratio p/q the width cancels, and outside it is the dx of the integral. An entropy has no ratio:
    the differential entropy is ``entropy(table) + ln(width)``, and likewise for cross_entropy.

    The grid must hold the mass of both, but where q underflows to 0 before p does, kl is infinite.

    Args:
        distribution: has ``log_prob: (n,) -> (n,)``, nats.
        points:       mid-points of the cells, increasing, equally spaced, shape ``(n,)``.

    Raises: ValueError if they are not, or if the table misses 1 by more than a table may.
    """
    if points.dim() != 1 or len(points) < 2:
        raise ValueError(f"points must have shape (n,), n at least 2, not {tuple(points.shape)}")
    if not points.is_floating_point():
        raise ValueError(f"points must be floats, not {points.dtype}")
    width = (points[-1] - points[0]) / (len(points) - 1)
    off = points.double().diff() - width
    rounding = 2 * torch.finfo(points.dtype).eps * points.abs().max()  # of both ends of a cell
    if not ((points.diff() > 0).all() and off.abs().max() < width / 100 + rounding):
        raise ValueError("points must be increasing and equally spaced: take torch.linspace")
    table = distribution.log_prob(points).exp() * width
    missed = 1 - table.sum().item()
    if not abs(missed) <= _tolerance(table):
        raise ValueError(f"the grid misses {missed:.2g} of the mass: make it wider or finer")
    return table


# --- estimated, from samples --------------------------------------------------------------------


def kl_estimate(p: Distribution, q: Distribution, samples: int = 10_000) -> Estimate:
    r"""Estimate the Kullback–Leibler divergence, nats, Eq. (kl), as the mean of ln p/q under p.

    Here and below, p and q are of `torch.distributions`, or models with ``log_prob`` and
    ``sample``. A sample that q excludes, ln q = −∞, makes the mean inf, the standard error nan.
    """
    return Estimate.of(_log_ratios(p, q, samples))


def jensen_shannon_estimate(p: Distribution, q: Distribution, samples: int = 10_000) -> Estimate:
    r"""Estimate the Jensen–Shannon divergence, nats, Eq. (jensen-shannon); half the samples each.

    .. math:: \ln \frac{p}{m} = \ln 2 + \ln \sigma(r), \qquad r = \ln \frac{p}{q}
    """
    return _mean_of_both(lambda r: math.log(2) + logsigmoid(r), p, q, samples)


def total_variation_estimate(p: Distribution, q: Distribution, samples: int = 10_000) -> Estimate:
    r"""Estimate the total variation distance, Eq. (total-variation); half the samples each.

    .. math:: \mathrm{TV}(p, q) = \mathbb{E}_m \Bigl[ \frac{|p - q|}{p + q} \Bigr]
        = \mathbb{E}_m \Bigl[ \tanh \frac{|r|}{2} \Bigr], \qquad r = \ln \frac{p}{q}
    """
    return _mean_of_both(lambda r: (r.abs() / 2).tanh(), p, q, samples)


@torch.no_grad()
def wasserstein1_estimate(x: Tensor, y: Tensor) -> Estimate:
    r"""Wasserstein-1 distance of two samples on the line, shapes ``(n,)`` and ``(m,)``.

    It is the area between their cumulative distributions F and G, Eq. (wasserstein), here as the
    difference of the means of a function of slope ±1, which gives the standard error:

    .. math:: W_1 = \mathbb{E}_x f(x) - \mathbb{E}_y f(y), \qquad f' = -\operatorname{sign}(F - G)

    As a distance of the distributions it is too large on average, since f is fitted to the very
    samples: hardly at all where F − G keeps its sign, most where the distributions are the same
    (1.8 standard deviations/√n for normals, n = m). The standard error leaves this bias out.
    """
    if x.dim() != 1 or y.dim() != 1 or not len(x) or not len(y):
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"x and y must have shapes (n,) and (m,), not empty, got {shapes}")
    z, order = torch.cat([x, y]).double().sort()
    difference = torch.where(order < len(x), len(y), -len(x)).cumsum(0)[:-1]  # n m (F − G), exact
    f = torch.zeros_like(z)
    f[order[1:]] = -(difference.sign() * z.diff()).cumsum(0)
    f_x, f_y = Estimate.of(f[: len(x)]), Estimate.of(f[len(x) :])
    error = math.hypot(f_x.standard_error, f_y.standard_error)
    return Estimate(f_x.mean - f_y.mean, error)


# --- helpers ------------------------------------------------------------------------------------


def _tolerance(table: Tensor) -> float:
    return 1e-6 if table.dtype == torch.float64 else 1e-5


def require_tables(**tables: Tensor) -> None:
    """Raise ValueError unless each holds probabilities on its last axis and fits the others."""
    require.tensors(**tables)
    for name, table in tables.items():
        if not table.is_floating_point():
            raise ValueError(f"{name} holds {table.dtype}: give probabilities, as floats")
        if (table < 0).any():
            raise ValueError(f"{name} has negative entries: give probabilities, not logarithms")
        total = table.sum(-1)
        wrong = ~((total - 1).abs() <= _tolerance(table))  # true of nan, too
        if wrong.any():
            raise ValueError(
                f"{name} sums to {total[wrong][0]:.8g} on its last axis, not to 1: divide it by "
                "its sum, or take the softmax of logits"
            )
    shapes = [tuple(table.shape) for table in tables.values()]
    try:
        torch.broadcast_shapes(*(shape[:-1] for shape in shapes))
        fit = len({shape[-1:] for shape in shapes}) == 1
    except RuntimeError:
        fit = False
    if not fit:
        raise ValueError(f"shapes {shapes}: the last axes must be equal, the others broadcast")


@torch.no_grad()
def _log_ratios(p: Distribution, q: Distribution, samples: int) -> Tensor:
    """ln p(x) − ln q(x) of so many samples x of p, float64, shape ``(samples,)``, nats."""
    x = p.sample((samples,))
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    if not log_p.shape == log_q.shape == (samples,):
        raise ValueError(
            f"log_prob must give one value per sample, shape {(samples,)}, not "
            f"{tuple(log_p.shape)} and {tuple(log_q.shape)}: sum over the event with Independent"
        )
    return log_p.double() - log_q.double()


def _mean_of_both(
    score: Callable[[Tensor], Tensor], p: Distribution, q: Distribution, samples: int
) -> Estimate:
    """½ E_p[score(ln p/q)] + ½ E_q[score(ln q/p)], each from half of the samples.

    The two means are independent, and so the squares of their standard errors add.
    """
    a = Estimate.of(score(_log_ratios(p, q, samples // 2)))
    b = Estimate.of(score(_log_ratios(q, p, samples - samples // 2)))
    return Estimate((a.mean + b.mean) / 2, math.hypot(a.standard_error, b.standard_error) / 2)
