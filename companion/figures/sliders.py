"""Pictures that sliders choose, without a kernel: one piece of HTML, with nothing to load."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from html import escape
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor


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
    values, where = list(values), f"slider {name!r}"
    texts = _texts(values, form)
    if not texts:
        raise ValueError(f"{where}: no values, hence no pictures")
    chosen = 0 if start is None else _place(texts, start, form, where)
    frames, sizes = [], set()
    for i, (value, text) in enumerate(zip(values, texts, strict=True)):
        alt, picture = _picture(draw, value, f"{where} at {text}")
        img = _img(picture, alt, "max-width:100%;height:auto")
        frames.append(f"<div{' hidden' * (i != chosen)}>{img}</div>")
        sizes.add(picture.size)
    if len(sizes) > 1:
        raise ValueError(f"{where}: pictures of several sizes, {sorted(sizes)}")
    turn = "figure.querySelectorAll('img').forEach((img, i) => img.parentNode.hidden = i != at);"
    html = "".join(frames) + _control(name, texts, chosen, turn)
    _display(html, f"width:{picture.width}px", f"slider: {name}, {len(values)} positions")


def explorer(
    images: Tensor,
    *,
    label: str,
    names: tuple[str, str] = ("z1", "z2"),
    values: tuple[Iterable[Any], Iterable[Any]] | None = None,
    start: tuple[Any, Any] | None = None,
    form: str = "{:z.2f}",
) -> None:
    """Display one picture of a grid, and two sliders that choose it without a kernel.

    Args:
        images: what a model draws at each point of a grid over two latent variables, shape
                ``(rows, columns, side, side)``; 0 is white, 1 black, shown in 16 greys. The first
                slider chooses the row, the second the column.
        label:  what the pictures show, in words, for readers who cannot see them: at least 30
                characters.
        names:  what the two sliders change; printed beside them.
        values: the rows' values of the first variable and the columns' of the second; left out,
                rows and columns are counted from 1.
        start:  the two values that are shown first, and in print; left out, the middle of the grid.
        form:   how a value is printed; ``z`` is what spares a zero its minus.

    Raises:
        ValueError if images have another shape or leave [0, 1], if the values are not as many as
            rows and columns, if start is not on the grid, or if the label has too few words.
    """
    first, second = names
    where = f"explorer {first!r} × {second!r}"
    _check_words(label, f"{where}: label")
    shape, images = tuple(images.shape), images.detach().cpu().float()
    if len(shape) != 4 or shape[2] != shape[3] or 0 in shape:
        raise ValueError(f"{where}: images of shape {shape}, not (rows, columns, side, side)")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"{where}: images from {images.min():g} to {images.max():g}, not within [0, 1]"
        )
    rows, columns, side, _ = shape
    if values is None:
        values, form = (range(1, rows + 1), range(1, columns + 1)), "{}"
    down, right = (_texts(axis, form) for axis in values)
    if (len(down), len(right)) != (rows, columns):
        raise ValueError(
            f"{where}: {len(down)} and {len(right)} values for {rows} rows and {columns} columns"
        )
    row, column = rows // 2, columns // 2
    if start is not None:
        row = _place(down, start[0], form, f"{where}, {first}")
        column = _place(right, start[1], form, f"{where}, {second}")

    # All pictures are one, seen through a window of a whole number of screen pixels to each of
    # theirs. The sliders set two variables of CSS, which say what part of it is in the window.
    edge = side * max(1, round(196 / side))
    moved = f"calc(-100% * var(--column) / {columns}), calc(-100% * var(--row) / {rows})"
    sheet = _img(
        _sprites(images),
        label,
        f"width:{100 * columns}%;max-width:none;height:auto;margin:0;border-radius:0;"
        f"image-rendering:pixelated;transform:translate({moved})",
    )
    window = f"box-sizing:content-box;width:{edge}px;height:{edge}px;overflow:hidden"
    controls = "".join(
        _control(name, texts, at, f"figure.style.setProperty('--{axis}', at);")
        for name, texts, at, axis in [(first, down, row, "row"), (second, right, column, "column")]
    )
    _display(
        f'<div style="{window};border:1px solid #ccc">{sheet}</div>'
        f'<div style="flex:1;min-width:15em">{controls}</div>',
        f"width:34em;--row:{row};--column:{column};"
        "padding:0.5em;display:flex;flex-wrap:wrap;gap:0.5em;align-items:center",
        f"explorer: {first} and {second}, {rows} × {columns} pictures",
    )


def _texts(values, form):
    """The values as they are printed."""
    return [form.format(value).replace("-", "−") for value in values]


def _place(texts, start, form, where):
    """Where start stands among the texts: found as it is printed, since 3 * 0.1 > 0.3."""
    [text] = _texts([start], form)
    if text not in texts:
        raise ValueError(f"{where}: start {text} is not among {', '.join(texts)}")
    return texts.index(text)


def _check_words(words, what):
    if not isinstance(words, str) or len(words) < 30:
        raise ValueError(f"{what} must say what is seen, not {words!r}")


def _picture(draw, value, where):
    """What draw says, and its picture, in few colours."""
    blank = plt.figure()  # so that draw does not paint over a figure that was left open
    alt, figure = draw(value), plt.gcf()
    drawn = BytesIO()
    figure.savefig(drawn, dpi=90)
    plt.close(figure)
    plt.close(blank)
    if not figure.axes:
        raise ValueError(f"{where}: draw left no picture; it draws with plt and does not show")
    _check_words(alt, f"{where}: draw")
    return alt, Image.open(drawn).convert("RGB").quantize(32)


def _sprites(images):
    """All images of a grid as one picture of 16 greys, which a PNG packs two to a byte."""
    rows, columns, side, _ = images.shape
    levels = (15 * images).round().to(torch.uint8).transpose(1, 2).contiguous()
    size = (columns * side, rows * side)
    picture = Image.frombytes("P", size, levels.numpy().tobytes())
    picture.putpalette([255 - 17 * level for level in range(16) for _ in "RGB"])
    return picture


def _img(picture, alt, style):
    packed = BytesIO()
    picture.save(packed, "PNG", optimize=True)
    png = base64.b64encode(packed.getvalue()).decode()
    # The website's dark theme would frame and dim pictures: here, all is one white sheet.
    return (
        f'<img alt="{escape(alt)}" style="display:block;padding:0;filter:none;{style}" '
        f'src="data:image/png;base64,{png}">'
    )


def _control(name, texts, chosen, moved):
    """A slider with its name and its value; moved is what else it does to its `figure`, `at`."""
    script = (
        "const figure = this.closest('figure'), at = this.value;"
        "const text = JSON.parse(this.dataset.texts)[at];"
        "this.closest('div').querySelector('output').value = text;"
        f"this.setAttribute('aria-valuetext', text);{moved}"
    )
    row = "display:flex;flex:1;gap:1em;align-items:center"
    return (
        f'<div style="{row};padding:0.25em 0.5em"><label style="{row}">{escape(name)}'
        f'<input type="range" max="{len(texts) - 1}" value="{chosen}" autocomplete="off" '
        f'style="flex:1;min-width:4em" aria-valuetext="{escape(texts[chosen])}" '
        f'data-texts="{escape(json.dumps(texts, ensure_ascii=False))}" oninput="{script}"></label>'
        f'<output aria-live="off" style="min-width:{max(map(len, texts))}ch">'
        f"{escape(texts[chosen])}</output></div>"
    )


def _display(html, style, plain):
    from IPython.display import display

    # Notebooks and the website's two themes differ in what they put around a figure.
    box = "box-sizing:border-box;margin:0;padding:0;max-width:100%"
    sheet = f"{box};background:white;color:black;color-scheme:light"
    html = f'<figure style="{sheet};{style}">{html}</figure>'
    display({"text/html": html, "text/plain": plain}, raw=True)
