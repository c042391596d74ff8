"""Charts: receiver operating characteristics, the map of the families, a schematic of the VAE."""

import math
from collections.abc import Mapping
from itertools import cycle, pairwise

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from torch import Tensor

from companion.families import FAMILIES, QUESTIONS
from companion.figures.style import BLACK, BLUE, GREEN, ORANGE, VERMILION


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


def variational_autoencoder() -> None:
    """Draw what a variational autoencoder computes, and the way back of its ELBO's gradient.

    No gradient flows into the noise, Eq. (reparameterisation); the terms are those of
    Eq. (elbo-terms).
    """
    kl, log_p = r"$D_{\mathrm{KL}}(q_\phi(z \mid x) \,\Vert\, p(z))$", r"$\ln\, p_\theta(x \mid z)$"
    nodes = {  # name: shape, colour, centre (x, y), width and height in inches, lines of text
        "x": ("square", BLACK, 0.39, 2.15, 0.72, 0.8, "picture", "$x$"),
        "encoder": ("square", BLUE, 1.49, 2.15, 0.84, 0.8, "encoder", r"$\phi$"),
        "q": ("round", BLACK, 2.5, 2.15, 0.54, 1.08),
        "name of q": ("square", "none", 2.5, 2.85, 0.7, 0.26, r"$q_\phi(z \mid x)$"),
        "mu": ("circle", BLACK, 2.5, 2.4, 0.38, 0.38, r"$\mu$"),
        "sigma": ("circle", BLACK, 2.5, 1.9, 0.38, 0.38, r"$\sigma$"),
        "z": ("circle", BLACK, 3.61, 2.15, 1.04, 1.04, "$z =$", r"$\mu + \sigma \odot \epsilon$"),
        "epsilon": ("ellipse", ORANGE, 3.61, 3.4, 0.9, 0.3, r"$\epsilon \sim \mathcal{N}(0, I)$"),
        "decoder": ("square", BLUE, 4.87, 2.15, 0.84, 0.8, "decoder", r"$\theta$"),
        "p": ("round", BLACK, 6.3, 2.15, 1.38, 0.8, "probabilities", r"$p_\theta(x \mid z)$"),
        "price": ("round", GREEN, 2.5, 0.82, 1.8, 0.64, "price", kl),
        "reconstruction": ("round", GREEN, 6.3, 0.82, 1.38, 0.64, "reconstruction", log_p),
    }
    given = [("x", "encoder"), ("epsilon", "z")]  # no gradient flows back into these
    both_ways = [*pairwise(["encoder", "q", "z", "decoder", "p", "reconstruction"]), ("q", "price")]
    solid = {"color": BLACK, "linewidth": 1.3}
    dashed = {"color": VERMILION, "linewidth": 1.6, "linestyle": (0, (2.5, 1.2))}
    _, axis = plt.subplots(figsize=(7, 3.6))
    patches = {}
    for name, (shape, color, x, y, width, height, *lines) in nodes.items():
        patches[name] = FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            f"{shape},pad=0" + ",rounding_size=0.1" * (shape == "round"),
            edgecolor=color,
            facecolor="none" if color in (BLACK, "none") else (color, 0.1),
            gid=name,
        )
        axis.add_patch(patches[name])
        for row, line in enumerate(lines):
            below = 0.05 + 0.25 * (row - (len(lines) - 1) / 2)
            axis.text(x, y - below, line, ha="center", fontsize=12)

    def arrow(start, end, aside=0.0, **look):  # aside: to the left of its way, so that two can pass
        (x0, y0), (x1, y1) = nodes[start][2:4], nodes[end][2:4]
        left = aside / math.hypot(x1 - x0, y1 - y0)
        dx, dy = left * (y0 - y1), left * (x1 - x0)
        look |= {"patchA": patches[start], "patchB": patches[end], "shrinkA": 2, "shrinkB": 1}
        ends = (x0 + dx, y0 + dy), (x1 + dx, y1 + dy)
        axis.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=12, **look))

    for start, end in given:
        arrow(start, end, **solid)
    for start, end in both_ways:
        arrow(start, end, 0.13, **solid)
        arrow(end, start, 0.13, **dashed)
    arrow("x", "reconstruction", connectionstyle="bar,angle=0,fraction=0.1", **solid)
    handles = [
        Line2D([], [], label="computed", **solid),
        Line2D([], [], label="gradient", **dashed),
        Patch(label="term of the ELBO", edgecolor=GREEN, facecolor=(GREEN, 0.1)),
    ]
    axis.legend(handles=handles, loc="upper left", fontsize=12, borderpad=0, borderaxespad=0.2)
    axis.set(xlim=(0, 7.02), ylim=(0.1, 3.7), aspect="equal")
    axis.set_axis_off()
    plt.show()
