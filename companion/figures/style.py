"""The look of the book's figures: palette and style."""

import matplotlib.pyplot as plt
from cycler import cycler

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
