"""Images, matrices, and which pixels a guess depends on."""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from torch import Tensor

from companion.figures.style import BLACK, SKY, VERMILION


def image_rows(rows: Mapping[str, Tensor]) -> None:
    """Draw labelled rows of small square images.

    Args:
        rows: label -> images, shape ``(n, side, side)`` or ``(n, side * side)``, from 0 (white) to
            1 (black), or to 255 in whole numbers.
    """
    for label, images in rows.items():
        sides = images.shape[1:]
        square = len(sides) == 2 and sides[0] == sides[1]
        if not square and (len(sides) != 1 or math.isqrt(sides[0]) ** 2 != sides[0]):
            raise ValueError(
                f"images have shape (n, side, side) or (n, side * side); those of {label!r} have "
                f"{tuple(images.shape)}"
            )
    columns = max(len(images) for images in rows.values())
    # The labels take about one inch on the left.
    _, grid = plt.subplots(
        len(rows), columns, figsize=(0.62 * columns + 1.1, 0.66 * len(rows)), squeeze=False
    )
    for axes, (label, images) in zip(grid, rows.items(), strict=True):
        edge = math.isqrt(images[0].numel())
        for axis in axes:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color="#cccccc", linewidth=0.5)
        for axis in axes[len(images) :]:
            axis.set_axis_off()
        black = 1 if images.is_floating_point() or images.max() <= 1 else 255
        for axis, image in zip(axes, images.reshape(len(images), edge, edge), strict=False):
            axis.imshow(image.detach().cpu().float().numpy(), vmin=0, vmax=black)
        axes[0].text(
            -0.15, 0.5, label, transform=axes[0].transAxes, ha="right", va="center", fontsize=10
        )
    plt.show()


def matrix(axis: Axes, values: Tensor, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Draw a small matrix as black (one) and white (zero) cells with a grid between them."""
    rows, columns = values.shape
    axis.imshow(values.detach().cpu().float().numpy(), vmin=0, vmax=1, aspect="equal")
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.set_xticks(range(columns), range(1, columns + 1), fontsize=8)
    axis.set_yticks(range(rows), range(1, rows + 1), fontsize=8)
    axis.set_xticks([c - 0.5 for c in range(1, columns)], minor=True)
    axis.set_yticks([r - 0.5 for r in range(1, rows)], minor=True)
    axis.grid(which="minor", color="#999999", linewidth=0.6)
    axis.tick_params(which="both", length=0)


def fields_of_view(views: Mapping[str, Tensor], pixel: int, side: int) -> None:
    """Draw which of the earlier pixels the guess for one pixel depends on, a panel for each view.

    Args:
        views: title -> which pixels are seen, bool, shape ``(side * side,)``.
        pixel: the one that is guessed; pixels are numbered row by row.
        side:  pixels along an edge.
    """
    kinds = {"guessed": BLACK, "seen": SKY, "earlier, not seen": VERMILION, "later": "#eeeeee"}
    figure, axes = plt.subplots(1, len(views), figsize=(2.4 * len(views), 3.1), squeeze=False)
    for axis, (title, seen) in zip(axes[0], views.items(), strict=True):
        kind = torch.where(torch.arange(side * side) < pixel, 2, 3)
        kind[seen.cpu()] = 1
        kind[pixel] = 0
        axis.imshow(
            kind.reshape(side, side).numpy(), cmap=ListedColormap(list(kinds.values())), vmax=3
        )
        axis.set(title=title, xticks=[], yticks=[])
    handles = [Patch(facecolor=color, label=name) for name, color in kinds.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), fontsize=9)
    plt.show()
