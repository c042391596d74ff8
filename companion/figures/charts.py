"""Charts: receiver operating characteristics, and the map of the families."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from torch import Tensor

from companion.families import FAMILIES, QUESTIONS
from companion.figures.style import BLACK, BLUE, ORANGE, VERMILION


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
