r"""Scores of samples, for models that draw but give no likelihood.

A set holds N examples, shape ``(N, *event)``, and is compared by Euclidean distances of its
flattened examples in whatever space they live in: points, pixels, or features of a network. Scores
in different spaces, or by different networks, do not compare. None of them sees everything, and
each docstring says what its score hides. All is computed in float64, ``chunk`` rows at a time, so
that memory grows with one set and not with the product of both. Every function raises ValueError if
a set is empty or not finite, if events differ in shape, or if one set holds integers (grey values 0
to 255) and the other floats (0 to 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from companion import require
from companion.evaluation import Estimate

# Distances as one matrix product are eight times as fast, and cancel where they are small. By
# differences, equal distances are equal floats, and copies are at 0.
_FAST, _EXACT = "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist"

# --- neighbours ---------------------------------------------------------------------------------


class Nearest(NamedTuple):
    """For each sample its nearest reference: float64 and int64, shape ``(N,)`` each."""

    distances: Tensor
    indices: Tensor


@torch.no_grad()
def nearest_neighbours(samples: Tensor, references: Tensor, *, chunk: int = 256) -> Nearest:
    """Find the reference nearest to each sample; of several as near, any one.

    Distances are in units of the data, not squared, at least 0; a copy has exactly 0. The choice is
    exact for integers, and for floats up to 1e-7 of the greatest norm. To check for memorisation,
    compare the distances of samples from the training set with those of held-out data.

    It hides copies that were shifted by a pixel, which lie far away, and everything but copying.

    Args:
        samples, references: shapes ``(N, *event)`` and ``(M, *event)``.
    """
    _require(samples=samples, references=references)
    distances, indices = [], []
    blocks = _distances(samples, references, chunk, _FAST)
    for rows, block in zip(samples.split(chunk), blocks, strict=True):
        index = block.argmin(1)
        differences = rows.double() - references[index].double()
        distances.append(differences.flatten(1).norm(dim=1))
        indices.append(index)
    return Nearest(torch.cat(distances), torch.cat(indices))


@torch.no_grad()
def kmeans(x: Tensor, k: int, seed: int, *, iterations: int = 100, chunk: int = 256) -> Tensor:
    """Return k centres that x gathers round: Lloyd's algorithm from a k-means++ start.

    It ends when no example changes its centre, or after so many iterations, in a local optimum. A
    centre that loses all its examples stays where it is.

    Args:    x: shape ``(N, *event)``, at least k different examples.
    Returns: float64 ``(k, *event)``, in units of x.
    Source:  Lloyd (1982); the start: Arthur & Vassilvitskii (2007).
    """
    _require(x=x)
    if k < 1:
        raise ValueError(f"k is at least 1, not {k}")
    data = x.flatten(1).double()
    centres = data[_spread_out(data, k, torch.Generator().manual_seed(seed))]
    owner = None
    for _ in range(iterations):
        previous, owner = owner, nearest_neighbours(data, centres, chunk=chunk).indices
        if previous is not None and owner.equal(previous):
            break
        sums = torch.zeros_like(centres).index_add_(0, owner, data)
        sizes = owner.bincount(minlength=k)[:, None]
        centres = torch.where(sizes > 0, sums / sizes, centres)
    return centres.reshape(k, *x.shape[1:])


def _spread_out(data: Tensor, k: int, generator: torch.Generator) -> list[int]:
    """Draw k rows, each with probability proportional to its squared distance from those before."""
    chosen: list[int] = []
    squares = torch.full((len(data),), math.inf, dtype=torch.float64)
    weights = torch.ones_like(squares)
    for _ in range(k):
        if not weights.any():  # all that is left are copies
            raise ValueError(f"x holds {len(chosen)} different examples, too few for k = {k}")
        chosen.append(int(weights.multinomial(1, generator=generator)))
        distances = torch.cdist(data, data[chosen[-1:]], compute_mode=_EXACT)[:, 0].cpu()
        weights = squares = squares.minimum(distances.square())
    return chosen


# --- known modes --------------------------------------------------------------------------------


class ModeCoverage(NamedTuple):
    """How many modes are covered, and which share of the samples is of high quality."""

    modes: int
    high_quality: float


def mode_coverage(
    samples: Tensor, centres: Tensor, spread: float, *, within: float = 3.0, chunk: int = 256
) -> ModeCoverage:
    r"""Count the modes that samples reach, and the share that is near enough to one.

    A sample is of high quality if its distance from the nearest centre is at most 3 spreads, and a
    mode is covered if it is the nearest to at least one such sample. In two dimensions a perfect
    generator scores :math:`1 - e^{-9/2} = 0.9889`, not 1. Both rules are VEEGAN's.

    It hides how samples divide among the modes, for one is enough, and every shape within them: K
    points, each at a centre, score K and 1.

    Args:
        samples: shape ``(N, *event)``; the published protocol takes N = 2500.
        centres: of the modes, shape ``(K, *event)``.
        spread:  standard deviation of every mode in each direction.
        within:  spreads that count as near. 3 is for two dimensions: in d of them, normal draws
                 lie about √d spreads off.

    Returns: modes from 0 to K, share from 0 to 1.
    Source:  Srivastava et al. (2017), VEEGAN.
    """
    _require(samples=samples, centres=centres)
    _require_positive(spread=spread, within=within)
    distances, indices = nearest_neighbours(samples, centres, chunk=chunk)
    high = distances <= within * spread
    return ModeCoverage(len(indices[high].unique()), high.double().mean().item())


# --- holes --------------------------------------------------------------------------------------


def holes(codes: Tensor, draws: Tensor, lonely: float = 0.05) -> float:
    """The share of draws whose nearest code is further away than is usual between codes.

    Every second code is set apart. Its distance to the nearest of the others is usual if
    all but a share ``lonely`` of the codes set apart are as near. A draw is in a hole if
    its nearest of the others is further than that. Draws of the codes' own distribution
    score ``lonely``.

    It hides the examples that the codes stand for: an encoder that says nothing of them,
    and puts its codes where the draws are, has the best score.

    Args:
        codes:  shape ``(N, H)``, at least four of them, in an order that says nothing.
        draws:  of the distribution that is to give codes, shape ``(M, H)``.
        lonely: between 0 and 1.

    Returns: from 0 to 1.
    """
    _require(codes=codes, draws=draws)
    if len(codes) < 4 or not 0 < lonely < 1:
        given = f"{len(codes)} and {lonely}"
        raise ValueError(f"four codes and a share between 0 and 1, not {given}")
    apart, others = codes[::2], codes[1::2]
    usual = nearest_neighbours(apart, others).distances.quantile(1 - lonely)
    return (nearest_neighbours(draws, others).distances > usual).double().mean().item()


# --- Parzen windows -----------------------------------------------------------------------------


def parzen_log_likelihood(
    samples: Tensor, x: Tensor, bandwidth: float, *, chunk: int = 256
) -> Estimate:
    r"""Mean log-density of x under a normal of the given width round every sample, Eq. (parzen).

    .. math:: \ln p(x) \approx \ln \frac1M \sum_{m=1}^{M}
        \mathcal N\bigl(x;\, x^{(m)}, h^2 I\bigr)

    It hides the likelihood: in high dimensions even very many samples leave it far too low, and it
    prefers blurred prototypes such as `kmeans` centres to real data.

    Args:
        samples:   of the model, floats, shape ``(M, *event)``; images divided by 255.
        x:         held-out data in the same units, shape ``(N, *event)``.
        bandwidth: h, in those units; see `best_bandwidth`.

    Returns: mean over the N examples and its standard error, nats per example; of any sign,
             since it is a density. The error is that of the choice of x, not of the samples.
    Raises:  ValueError for integers, whose density would be in units of grey levels.
    Source:  Parzen (1962); as a score: Goodfellow et al. (2014), who follow Breuleux et al. (2011);
             what is wrong with it: Theis et al. (2016).
    """
    return Estimate.of(_parzen(samples, x, [bandwidth], chunk)[0])


def best_bandwidth(
    samples: Tensor, validation: Tensor, candidates: Iterable[float], *, chunk: int = 256
) -> float:
    """Return the candidate whose `parzen_log_likelihood` of the validation data is highest.

    Widen the candidates if the answer is their least or greatest. The test set must have no part
    in the choice.
    """
    candidates = list(candidates)
    if not candidates:
        raise ValueError("candidates holds no bandwidth")
    return candidates[_parzen(samples, validation, candidates, chunk).mean(1).argmax()]


@torch.no_grad()
def _parzen(samples: Tensor, x: Tensor, bandwidths: list[float], chunk: int) -> Tensor:
    """ln p(x) for every bandwidth and example, nats, shape ``(len(bandwidths), N)``."""
    _require(samples=samples, x=x)
    if not x.is_floating_point():
        raise ValueError("a density needs floats: divide images by 255, samples and x alike")
    for bandwidth in bandwidths:
        _require_positive(bandwidth=bandwidth)
    dimensions = x[0].numel()
    scores = []
    for block in _distances(x, samples, chunk, _FAST):
        exponents = [(-(block / h).square() / 2).logsumexp(1) for h in bandwidths]
        scores.append(torch.stack(exponents))
    normalisers = [dimensions * math.log(h * math.sqrt(2 * math.pi)) for h in bandwidths]
    normaliser = torch.tensor(normalisers, dtype=torch.float64, device=x.device)[:, None]
    return torch.cat(scores, 1) - math.log(len(samples)) - normaliser


# --- features -----------------------------------------------------------------------------------


class FrechetDistance(NamedTuple):
    """The squared distance, and the sizes of both sets, without which it means nothing."""

    squared: float
    sizes: tuple[int, int]


@torch.no_grad()
def frechet_distance(a: Tensor, b: Tensor) -> FrechetDistance:
    r"""Squared 2-Wasserstein distance of the normals fitted to two sets of features, Eq. (frechet).

    .. math:: d^2 = \|\mu_a - \mu_b\|^2 + \operatorname{tr} \Sigma_a + \operatorname{tr} \Sigma_b
        - 2 \operatorname{tr} \bigl(\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2}\bigr)^{1/2}

    With any factors :math:`\Sigma = R^\top R` the last trace is the sum of the singular values of
    :math:`R_a R_b^\top`; here R comes from the centred features by QR, so that no covariance needs
    full rank, and none is even formed. The distance is too large on average, the more so the fewer
    examples: compare at equal N and M only, and with that of real data from real data.

    It hides everything beyond mean and covariance, and what the features leave out.

    Args:    a, b: features, shapes ``(N, *event)`` and ``(M, *event)``, N and M at least 2.
    Returns: at least 0, in squared units of the features; covariances are divided by N − 1.
    Source:  Heusel et al. (2017); the formula: Dowson & Landau (1982).
    """
    _require(a=a, b=b)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs two examples, not {len(a)} and {len(b)}")
    means, factors = [], []
    for features in (a, b):
        features = features.flatten(1).double()
        means.append(features.mean(0))
        factor = torch.linalg.qr(features - means[-1], mode="r").R
        factors.append(factor / math.sqrt(len(features) - 1))
    (mean_a, mean_b), (r_a, r_b) = means, factors
    traces = r_a.square().sum() + r_b.square().sum()
    squared = (
        (mean_a - mean_b).square().sum() + traces - 2 * torch.linalg.svdvals(r_a @ r_b.T).sum()
    )
    return FrechetDistance(max(squared.item(), 0.0), (len(a), len(b)))


class PrecisionRecall(NamedTuple):
    """The share of samples that look real, and the share of real examples that are reached."""

    precision: float
    recall: float


@torch.no_grad()
def precision_recall(
    real: Tensor, fake: Tensor, k: int = 3, *, chunk: int = 256
) -> PrecisionRecall:
    """Share of each set within the other's balls, to their k-th neighbour, Eq. (precision).

    Precision is the share of fake examples that lie in, or on, the ball of at least one real one;
    recall is the same with the roles exchanged. An example is not its own neighbour; its copies
    are.

    They hide how densely a region is filled, and bad samples in the large ball of an outlier.

    Args:    real, fake: features, shapes ``(N, *event)`` and ``(M, *event)``, more than k each.
    Returns: both from 0 to 1; perfect samples score less than 1, and the more examples, the
             smaller the balls: compare at equal N, M and k only.
    Source:  Kynkäänniemi et al. (2019), improved precision and recall.
    """
    _require(real=real, fake=fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"k = {k} must be at least 1 and less than the sizes, {len(real)} and {len(fake)}"
        )

    def share(examples: Tensor, centres: Tensor) -> float:
        own = _distances(centres, centres, chunk, _EXACT)
        radii = torch.cat([block.kthvalue(k + 1, dim=1).values for block in own])  # 1st: itself
        blocks = _distances(examples, centres, chunk, _EXACT)
        return torch.cat([(block <= radii).any(1) for block in blocks]).double().mean().item()

    return PrecisionRecall(share(fake, real), share(real, fake))


# --- helpers ------------------------------------------------------------------------------------


def _distances(x: Tensor, y: Tensor, chunk: int, mode: str) -> Iterator[Tensor]:
    """Distances of so many examples of x at a time from all of y, float64, ``(≤ chunk, M)``."""
    for rows in x.flatten(1).split(chunk):
        rows = rows.double()
        parts = y.flatten(1).split(chunk)
        yield torch.cat([torch.cdist(rows, part.double(), compute_mode=mode) for part in parts], 1)


def _require(**sets: Tensor) -> None:
    """Raise ValueError unless the sets hold finite examples that compare."""
    require.tensors(**sets)
    first = next(iter(sets.values()))
    for name, x in sets.items():
        if x.dim() < 2 or not x.numel():
            raise ValueError(f"{name} has shape (N, *event) and is not empty; got {tuple(x.shape)}")
        if not x.isfinite().all():
            raise ValueError(f"{name} holds nan or infinite values")
        if x.shape[1:] != first.shape[1:]:
            shapes = f"{tuple(first.shape[1:])} and {tuple(x.shape[1:])}"
            raise ValueError(f"examples of shapes {shapes} do not compare")
        kinds = {each.is_floating_point(): each for each in (first, x)}
        if len(kinds) == 2 and kinds[False].max() > 1:
            raise ValueError(
                f"{first.dtype} and {x.dtype} have two scales: divide grey values by 255, or round"
            )


def _require_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} is positive and finite, not {number}")
