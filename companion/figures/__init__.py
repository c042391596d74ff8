"""The look of the book's figures, and the figures that several chapters draw."""

from companion.figures.charts import family_map, roc, variational_autoencoder
from companion.figures.images import fields_of_view, image_rows, matrix
from companion.figures.sliders import explorer, slider
from companion.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    YELLOW,
    use_style,
)

__all__ = [  # noqa: RUF022 - the order of reading, and of the API reference
    "use_style",
    "STYLE",
    "BLUE",
    "ORANGE",
    "GREEN",
    "VERMILION",
    "PURPLE",
    "SKY",
    "YELLOW",
    "BLACK",
    "image_rows",
    "matrix",
    "fields_of_view",
    "roc",
    "family_map",
    "variational_autoencoder",
    "slider",
    "explorer",
]
