"""Grey images made binary, by a threshold or by chance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from companion import require


def require_grey(images: Tensor) -> None:
    """Raise ValueError unless the images are as the loaders return them."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"grey images are a tensor, uint8 with values 0 to 255, and these are {kind}: "
            "give the images as the loader returns them"
        )
    if images.numel() and images.max() == 1:
        raise ValueError(
            "the images are black and white already, with values 0 and 1; as grey values of 255 "
            "they would be all but white: use them as they are"
        )


def threshold(images: Tensor, at: int = 128) -> Tensor:
    """Binarise without chance: a pixel is 1 if and only if its grey is at least `at`.

    Args:    images: grey, uint8, any shape.
             at: 1 to 255.
    Returns: uint8 of zeros and ones, same shape.
    """
    require_grey(images)
    if not 1 <= at <= 255:
        raise ValueError(f"at = {at} makes all pixels equal: choose 1 to 255")
    return (images >= at).to(torch.uint8)


def binarize(images: Tensor, seed: int) -> Tensor:
    """Draw every pixel once: 1 with probability grey/255, the same on every machine for ever.

    NumPy freezes the stream of `RandomState`: pixel i is 1 if the i-th of its draws, uniform on
    0 to 254, is below the grey.

    Args:    images: grey, uint8, any shape.
             seed: 0 to 2³² − 1; those of the book are in `SEEDS`.
    Returns: uint8 of zeros and ones, same shape and device.
    Source:  Salakhutdinov and Murray (2008); the static binarised MNIST is one such draw.
    """
    require_grey(images)
    require.whole(0, seed=seed)
    draws = np.random.RandomState(seed).randint(0, 255, tuple(images.shape), dtype=np.uint8)
    return (torch.from_numpy(draws).to(images.device) < images).to(torch.uint8)
