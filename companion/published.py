"""Published scores on binarised images and how they were measured; no two protocols compare.

Three things are called "binarised MNIST". A static file holds one throw of all images. Others throw
the training images anew at each visit, and the test images once, or all of them anew.
"""

from __future__ import annotations

from typing import NamedTuple

STATIC = "one throw of all images, a fixed file; 10,000 images held out"
REDRAWN = (
    "training images thrown anew at each visit, all 60,000; test images thrown when scored; "
    "no validation images"
)
IWAE = (
    "training images thrown anew at each visit, 59,600; test images thrown when scored; 5,000 draws"
)
FASHION = "Fashion-MNIST, training images thrown anew at each visit, 50,000; 5,000 draws"


class Published(NamedTuple):
    """A score, nats per test image, and where it is from.

    Args:
        model:    with what tells it from its neighbours.
        nll:      negative log-likelihood, or an estimate of it that is too high on average.
        protocol: one of the four above.
        source:   a key of the bibliography: where the score was published.
    """

    model: str
    nll: float
    protocol: str
    source: str


SCORES = (
    Published("FVSBN", 96.58, REDRAWN, "hotaj2020pytorch"),
    Published("NADE, 500 units", 85.65, REDRAWN, "hotaj2020pytorch"),
    Published("MADE, 8,000 units", 84.87, REDRAWN, "hotaj2020pytorch"),
    Published("PixelCNN", 81.45, REDRAWN, "hotaj2020pytorch"),
    Published("gated PixelCNN", 81.50, REDRAWN, "hotaj2020pytorch"),
    Published("ImageGPT", 79.17, REDRAWN, "hotaj2020pytorch"),
    Published("PixelSNAIL", 78.61, REDRAWN, "hotaj2020pytorch"),
    Published("NADE", 88.33, STATIC, "germain2015made"),
    Published("MADE, two layers, 32 masks", 86.64, STATIC, "germain2015made"),
    Published("PixelCNN", 81.30, STATIC, "oord2016pixel"),
    Published("PixelRNN, diagonal BiLSTM", 79.20, STATIC, "oord2016pixel"),
    Published("VAE, 1 layer", 86.76, IWAE, "burda2016importance"),
    Published("VAE-5, 1 layer", 86.47, IWAE, "burda2016importance"),
    Published("VAE-50, 1 layer", 86.35, IWAE, "burda2016importance"),
    Published("IWAE-5, 1 layer", 85.54, IWAE, "burda2016importance"),
    Published("IWAE-50, 1 layer", 84.78, IWAE, "burda2016importance"),
    Published("VAE, 2 layers", 85.33, IWAE, "burda2016importance"),
    Published("VAE-5, 2 layers", 85.01, IWAE, "burda2016importance"),
    Published("VAE-50, 2 layers", 84.78, IWAE, "burda2016importance"),
    Published("IWAE-5, 2 layers", 83.89, IWAE, "burda2016importance"),
    Published("IWAE-50, 2 layers", 82.90, IWAE, "burda2016importance"),
    Published("VAE, 40 codes, 300 units", 228.70, FASHION, "norouzi2020exemplar"),
)


def score(model: str, protocol: str) -> Published:
    """The score of a model under a protocol.

    Raises: KeyError if there is none.
    """
    for each in SCORES:
        if (each.model, each.protocol) == (model, protocol):
            return each
    raise KeyError(f"no score of {model!r} under this protocol: {protocol}")
