"""Refusing in words what would otherwise go wrong later, or in silence."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from companion.data import Batches


def tensors(**named: Tensor) -> None:
    """Raise TypeError for what is no tensor, saying how it becomes one."""
    for name, x in named.items():
        if not isinstance(x, Tensor):
            kind = type(x).__name__
            raise TypeError(f"{name} must be a tensor, not {kind}: torch.as_tensor makes one")


def whole(least: int = 1, **named: int) -> None:
    """Raise ValueError for what is no whole number, or below the least."""
    for name, number in named.items():
        if not isinstance(number, Integral) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {number!r}")


def shares(**named: Tensor) -> None:
    """Raise ValueError for values that are neither zeros nor ones, nor between them."""
    for name, x in named.items():
        low, high = x.aminmax() if x.numel() else (0, 1)  # the quickest way, and nan stays nan
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{name} must hold zeros and ones, or values between: binarise grey images with "
                "data.binarize, or divide them by 255"
            )


def batches(train: Batches, model: nn.Module | None = None) -> None:
    """Raise TypeError for what is no `Batches`; ValueError if a model of coins cannot take them.

    Args: model: one whose ``binary`` is true gives probabilities to zeros and ones alone.
    """
    if not hasattr(train, "batch"):
        raise TypeError(f"train is mini-batches, data.Batches(x, 100), not {type(train).__name__}")
    if getattr(model, "binary", False) and not train.dynamic:
        shares(**{"the images": train.images})
