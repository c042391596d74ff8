"""Orders of an image's pixels, as the models take them: entry i is the pixel that comes i-th."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from companion import require


def raster(height: int, width: int) -> Tensor:
    """Row by row, int64, shape ``(height * width,)``."""
    return _grid(height, width).flatten()


def column(height: int, width: int) -> Tensor:
    """Column by column, int64, shape ``(height * width,)``."""
    return _grid(height, width).T.flatten()


def shuffled(height: int, width: int, seed: int) -> Tensor:
    """A permutation drawn uniformly, int64, ``(height * width,)``; the same on every machine.

    Args:   seed: 0 to 2³² − 1.
    """
    require.whole(0, seed=seed)
    draw = np.random.RandomState(seed)  # a stream that NumPy keeps frozen
    return torch.from_numpy(draw.permutation(_grid(height, width).flatten().numpy()))


def hilbert(height: int, width: int) -> Tensor:
    """Along a Hilbert curve, so that what is close in the order is close in the image.

    Each pixel lies beside, above or below the one before it.

    Returns: int64, shape ``(height * width,)``.
    Source:  Hilbert (1891), for squares whose side is a power of two; here halves need not be
        equal, which extends the curve to any rectangle.
    """
    grid = _grid(height, width)
    # A path through all of a chessboard ends at the neighbouring corner only along an even side.
    along = (width % 2 == 0, width) >= (height % 2 == 0, height)
    return _curve(grid if along else grid.T)


def _curve(grid: Tensor) -> Tensor:
    """A path through all of a grid, from its top left corner to its top right one."""
    height, width = grid.shape
    if height == 1 or width == 1:
        return grid.flatten()
    if 2 * width > 3 * height:  # wide: one half beside the other
        middle = _even_half(width)
        parts = [grid[:, :middle], grid[:, middle:]]
    else:  # down on the left, across at the bottom, up on the right
        middle, depth = width // 2, _even_half(height)
        parts = [grid[:depth, :middle].T, grid[depth:], grid[:depth, middle:].flip(0, 1).T]
    return torch.cat([_curve(part) for part in parts])


def _even_half(side: int) -> int:
    return side // 2 + (side // 2) % 2 if side > 2 else 1


def _grid(height: int, width: int) -> Tensor:
    if height < 1 or width < 1:
        raise ValueError(f"an image has at least 1 row and 1 column, not {height} x {width}")
    return torch.arange(height * width).reshape(height, width)
