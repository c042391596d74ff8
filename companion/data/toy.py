"""Toy sets and distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from companion import require
from companion.nn import draws


def bars_and_stripes(side: int = 4) -> Tensor:
    """Return all images whose rows, or whose columns, are each of one value.

    Under the uniform distribution on them the best mean log-likelihood is −log of their number,
    for side 4 −log 30 = −3.4012 nats.

    Args:    side: rows and columns of an image.
    Returns: uint8 of zeros and ones, shape (2^(side + 1) − 2, side²), rows first, sorted.
    Source:  MacKay (2003), Ch. 43, who draws the two that are of one value twice as often.
    """
    require.whole(side=side)
    values = (torch.arange(2**side)[:, None] >> torch.arange(side)) & 1  # (2^side, side)
    rows, columns = values.repeat_interleave(side, dim=1), values.repeat(1, side)
    return torch.cat([rows, columns]).unique(dim=0).to(torch.uint8)


def ring_of_gaussians(modes: int = 8, radius: float = 1.0, std: float = 0.01) -> MixtureSameFamily:
    """Return the uniform mixture of normals whose means divide a circle evenly.

    Args:    modes: number of components.
             radius: of the circle round the origin.
             std: standard deviation of every component in both directions.
    Returns: distribution over events of shape (2,), with exact `log_prob` in nats.
    Source:  Srivastava et al. (2017), VEEGAN, the 2D ring; radius and std: Lin et al. (2018),
             PacGAN.
    """
    require.whole(modes=modes)
    angles = torch.arange(modes) * (2 * math.pi / modes)  # 2π itself is 0 again: leave it out
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=-1)
    return _mixture(means, std)


def grid_of_gaussians(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> MixtureSameFamily:
    """Return the uniform mixture of normals whose means form a square grid round the origin.

    Args:    side: the number of components is side².
             spacing: distance of neighbouring means; by default they lie at −4, −2, 0, 2, 4.
             std: standard deviation of every component in both directions.
    Returns: distribution over events of shape (2,), with exact `log_prob` in nats.
    Source:  Srivastava et al. (2017), VEEGAN, the 2D grid; spacing and std: Lin et al. (2018),
             PacGAN.
    """
    ticks = spacing * (torch.arange(side) - (side - 1) / 2)
    return _mixture(torch.cartesian_prod(ticks, ticks), std)


def _mixture(means: Tensor, std: float) -> MixtureSameFamily:
    weights = Categorical(logits=means.new_zeros(len(means)))
    return MixtureSameFamily(weights, Independent(Normal(means, std), 1))


def swiss_roll(
    sample_shape: tuple[int, ...] = (),
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample the spiral t·(cos t, sin t), with t uniform on 3π/2 to 9π/2, plus normal noise.

    Without noise it is a curve, which has no density in the plane.

    Args:    noise: standard deviation in both directions; the radii run from 4.7 to 14.1.
    Returns: shape (*sample_shape, 2).
    Source:  the plane section of scikit-learn's `make_swiss_roll`.
    """
    t = 1.5 * math.pi * (1 + 2 * torch.rand(sample_shape, generator=generator))
    points = torch.stack([t * t.cos(), t * t.sin()], dim=-1)
    return points + noise * torch.randn(points.shape, generator=generator)


def two_moons(
    sample_shape: tuple[int, ...] = (),
    noise: float = 0.05,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample two interleaving half circles of radius 1, each with probability 1/2, plus noise.

    The upper one is (cos t, sin t), the lower (1 − cos t, 1/2 − sin t), t uniform on 0 to π.

    Args:    noise: standard deviation in both directions.
    Returns: shape (*sample_shape, 2).
    Source:  scikit-learn's `make_moons`, whose halves are drawn here by chance.
    """
    t = math.pi * torch.rand(sample_shape, generator=generator)
    upper = torch.stack([t.cos(), t.sin()], dim=-1)
    lower = torch.stack([1 - t.cos(), 0.5 - t.sin()], dim=-1)
    side = torch.rand(sample_shape, generator=generator)[..., None] < 0.5
    points = torch.where(side, upper, lower)
    return points + noise * torch.randn(points.shape, generator=generator)


def letter(
    sample_shape: tuple[int, ...] = (),
    character: str = "A",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample the uniform distribution on the shape of a letter, holes left out.

    Points are thrown on the rectangle round the letter until enough have hit it.

    Args:    character: one that matplotlib's own sans-serif font has.
    Returns: shape (*sample_shape, 2); the letter is 4 high and centred at the origin.
    Raises:  ValueError if it is not one character that leaves ink.
    """
    outlines, low, high = _outlines(character)
    wanted, kept = draws(sample_shape), []
    while sum(map(len, kept)) < wanted:
        points = low + (high - low) * torch.rand(2 * wanted, 2, generator=generator)
        kept.append(points[_inside(points, outlines)])
    return torch.cat([low.new_zeros(0, 2), *kept])[:wanted].reshape(*sample_shape, 2)


def _outlines(character: str) -> tuple[list, Tensor, Tensor]:
    """The closed curves that bound a letter, 4 high round the origin, and its least and greatest.

    Matplotlib is imported only where a letter is asked for: a model on a server needs none.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path
    from matplotlib.textpath import text_to_path

    curves = text_to_path.get_text_path(FontProperties(family="DejaVu Sans"), character)
    if len(character) != 1 or character.isspace() or not len(curves[0]):
        raise ValueError(f"one character that leaves ink is needed, not {character!r}")
    path = Path(*curves)
    box = path.get_extents()
    middle, scale = (box.p0 + box.p1) / 2, 4 / box.height
    outlines = [Path(scale * (curve - middle)) for curve in path.to_polygons()]
    high = torch.tensor(scale * (box.p1 - middle), dtype=torch.get_default_dtype())
    return outlines, -high, high


def _inside(points: Tensor, outlines: list) -> Tensor:
    """Which points are within an odd number of the curves: a hole is within two. Bool, ``(N,)``."""
    counts = sum(outline.contains_points(points.numpy()).astype(int) for outline in outlines)
    return torch.from_numpy(counts % 2 == 1)
