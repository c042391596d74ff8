"""The book's own classifier of digits, whose features some scores of samples compare.

Scores in its features compare with each other only: published ones are in those of other networks.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from companion import require
from companion.training import load_model

PATH = Path(__file__).parent / "_data" / "digit_features.safetensors"


class DigitFeatures(nn.Module):
    """Two convolutions and a layer of features, from which the digits' logits are read.

    Train it with `companion.experiments.digit_features`, or take the trained one of
    `pretrained`.
    """

    def __init__(self, features: int = 64):
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, 28)),
            nn.Conv2d(1, 16, 5, stride=2, padding=2),  # (B, 16, 14, 14)
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),  # (B, 16, 7, 7)
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, features),
            nn.ReLU(),
        )
        self.head = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The digits' logits of images from 0 to 1, ``(B, 28, 28) -> (B, 10)``."""
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Tensor, batch_size: int = 500) -> Tensor:
        """What the last layer reads, at least 0, ``(B, 28, 28) -> (B, features)``."""
        _require_digits(x)
        return torch.cat([self.body(part) for part in x.split(batch_size)])

    @torch.no_grad()
    def classify(self, x: Tensor, batch_size: int = 500) -> Tensor:
        """The most probable digit of each image, int64, ``(B, 28, 28) -> (B,)``."""
        _require_digits(x)
        return torch.cat([self(part).argmax(1) for part in x.split(batch_size)])

    @classmethod
    def pretrained(cls) -> DigitFeatures:
        """The network that travels with the package, trained on MNIST's 50,000 images."""
        return load_model(cls(), PATH).eval().requires_grad_(False)


def _require_digits(x: Tensor) -> None:
    require.tensors(x=x)
    if x.shape[1:] != (28, 28) or not x.is_floating_point():
        raise ValueError(f"digits are floats, shape (B, 28, 28), not {x.dtype} {tuple(x.shape)}")
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError("digits have values from 0 to 1: divide greys by 255")
