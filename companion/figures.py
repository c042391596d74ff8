"""The look of the book's figures, and the figures that several chapters draw."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from html import escape
from io import BytesIO
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from companion.families import FAMILIES, QUESTIONS

# Okabe and Ito's palette: told apart with every common form of colour blindness.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)

STYLE = {
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.figsize": (6.4, 3.2),
    "font.size": 10.5,
    "image.cmap": "gray_r",
    "image.interpolation": "nearest",
    "legend.frameon": False,
}


def use_style() -> None:
    """Set the book's figure style for the running session."""
    plt.rcParams.update(STYLE)


def image_rows(rows: Mapping[str, Tensor], side: int | None = None) -> None:
    """Draw labelled rows of small square images.

    Args:
        rows: label -> images, shape ``(n, side, side)`` or ``(n, side * side)``; 0 is white, the
            largest value black.
        side: pixels along an edge; found from the shape if left out.
    """
    columns = max(len(images) for images in rows.values())
    # The labels take about one inch on the left.
    _, grid = plt.subplots(
        len(rows), columns, figsize=(0.62 * columns + 1.1, 0.66 * len(rows)), squeeze=False
    )
    for axes, (label, images) in zip(grid, rows.items(), strict=True):
        edge = side or (images.shape[-1] if images.dim() == 3 else round(images.shape[-1] ** 0.5))
        for axis in axes:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color="#cccccc", linewidth=0.5)
        for axis in axes[len(images) :]:
            axis.set_axis_off()
        for axis, image in zip(axes, images.reshape(len(images), edge, edge), strict=False):
            axis.imshow(image.detach().cpu().float().numpy())
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


def roc(curves: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Draw receiver operating characteristics, with the diagonal of a coin that knows nothing.

    Args:
        curves: label -> rates of false and of true positives, from 0 to 1, shape ``(n,)`` each.
    """
    _, axis = plt.subplots(figsize=(6.4, 3.9))
    dashes = cycle(["-", "-.", ":", (0, (5, 1, 1, 1, 1, 1))])  # told apart without colour, too
    for (label, rates), style in zip(curves.items(), dashes, strict=False):
        false, true = (rate.detach().cpu().numpy() for rate in rates)
        axis.plot(false, true, linestyle=style, label=label, clip_on=False)
    axis.plot([0, 1], [0, 1], "--", color="#767676", linewidth=1, label="chance")
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.set(xlabel="false positive rate", ylabel="true positive rate")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def family_map() -> None:
    """Draw which family of generative models can do what: `companion.families.FAMILIES`."""
    marks = {
        "yes": {"color": BLUE, "marker": "o"},
        "partly": {"color": ORANGE, "marker": "o", "fillstyle": "left"},
        "no": {"color": VERMILION, "marker": "x", "markeredgewidth": 2},
    }
    figure, axis = plt.subplots(figsize=(6.4, 5))
    for column, question in enumerate(QUESTIONS):
        axis.text(column, -0.8, question.replace(" ", "\n", 1), ha="center", va="center")
    for row, family in enumerate(FAMILIES):
        beyond = family.chapter is None
        y, ink = row + 0.8 * beyond, "#595959" if beyond else BLACK
        chapter = "" if beyond else f"chapter {row + 1}"
        axis.text(-2, y, family.name, va="center", color=ink)
        axis.text(-2, y + 0.24, chapter, va="top", fontsize=9, color="#595959")
        for column, answer in enumerate(family.answers):
            mark = marks[answer.mark] | ({"color": ink} if beyond else {})
            axis.plot(column, y, markersize=9, markerfacecoloralt="white", **mark)
            axis.text(column, y + 0.24, answer.words, ha="center", va="top", fontsize=9, color=ink)
    first = sum(family.chapter is not None for family in FAMILIES)
    axis.axhspan(first - 0.2, len(FAMILIES) + 0.5, color="#f0f0f0", zorder=0)
    axis.text(-2, first + 0.1, "beyond this book", va="center", fontstyle="italic", color="#595959")
    axis.set(xlim=(-2.1, 3.6), ylim=(len(FAMILIES) + 0.5, -1.3))
    axis.set_axis_off()
    handles = [Line2D([], [], linestyle="", label=name, **mark) for name, mark in marks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(marks))
    plt.show()


# What moving a slider does in the page, where there is no kernel; `this` is the slider.
_MOVED = (
    "const figure = this.closest('figure'), frames = figure.querySelectorAll('[data-value]');"
    "frames.forEach((frame, i) => frame.hidden = i != this.value);"
    "const text = frames[this.value].dataset.value;"
    "figure.querySelector('output').value = text;"
    "this.setAttribute('aria-valuetext', text);"
)


def slider(
    values: Iterable[Any],
    draw: Callable[[Any], str],
    *,
    name: str,
    start: Any = None,
    form: str = "{:g}",
) -> None:
    """Display a picture for each value, and a slider that turns them over without a kernel.

    Args:
        values: where the slider can stand, in order.
        draw:   ``draw(value)`` draws with ``plt``, does not show, and returns what is to be seen at
                this value, in words, for readers who cannot see it: at least 30 characters.
        name:   what the slider changes; printed beside it.
        start:  the value that is shown first, and in print; left out, the first one.
        form:   how a value is printed.

    Raises:
        ValueError if there are no values, if start is none of them, or if draw returns too few
            words, draws nothing, or draws in several sizes.
    """
    from IPython.display import display

    values = list(values)
    texts = [form.format(value).replace("-", "−") for value in values]
    if not texts:
        raise ValueError(f"slider {name!r}: no values, hence no pictures")
    first = texts[0] if start is None else form.format(start).replace("-", "−")
    if first not in texts:
        raise ValueError(f"slider {name!r}: start {first} is not among {', '.join(texts)}")
    chosen, frames, sizes = texts.index(first), [], set()
    # The website's dark theme would frame and dim pictures: here, slider and picture are one sheet.
    plain_img = "display:block;max-width:100%;height:auto;padding:0;filter:none"
    for i, (value, text) in enumerate(zip(values, texts, strict=True)):
        alt, png, size = _picture(draw, value, f"slider {name!r} at {text}")
        frames.append(
            f'<div data-value="{escape(text)}"{" hidden" * (i != chosen)}><img alt="{escape(alt)}" '
            f'style="{plain_img}" src="data:image/png;base64,{png}"></div>'
        )
        sizes.add(size)
    if len(sizes) > 1:
        raise ValueError(f"slider {name!r}: pictures of several sizes, {sorted(sizes)}")
    sheet = f"margin:0;width:{size[0]}px;max-width:100%;background:white;color:black"
    row = "display:flex;flex:1;gap:1em;align-items:center"
    html = (
        f'<figure style="{sheet};color-scheme:light">{"".join(frames)}'
        f'<div style="{row};padding:0.25em 0.5em"><label style="{row}">{escape(name)}'
        f'<input type="range" max="{len(values) - 1}" value="{chosen}" autocomplete="off" '
        f'style="flex:1;min-width:4em" aria-valuetext="{escape(first)}" oninput="{_MOVED}"></label>'
        f'<output aria-live="off" style="min-width:{max(map(len, texts))}ch">{escape(first)}'
        "</output></div></figure>"
    )
    plain = f"slider: {name}, {len(values)} positions"
    display({"text/html": html, "text/plain": plain}, raw=True)


def _picture(draw, value, where):
    """What draw says, and its picture: a PNG of few colours in base 64, and its size."""
    blank = plt.figure()  # so that draw does not paint over a figure that was left open
    alt, figure = draw(value), plt.gcf()
    drawn, packed = BytesIO(), BytesIO()
    figure.savefig(drawn, dpi=90)
    plt.close(figure)
    plt.close(blank)
    if not figure.axes:
        raise ValueError(f"{where}: draw left no picture; it draws with plt and does not show")
    if not isinstance(alt, str) or len(alt) < 30:
        raise ValueError(f"{where}: draw must say what is seen, not {alt!r}")
    picture = Image.open(drawn).convert("RGB").quantize(32)
    picture.save(packed, "PNG", optimize=True)
    return alt, base64.b64encode(packed.getvalue()).decode(), picture.size
