"""Layers that several chapters share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedLinear(nn.Module):
    r"""A linear layer in which a mask decides who may see whom, Eq. (masked-layer).

    .. math:: y = (M \odot W)\, x + b

    Args:
        mask: which input (column) reaches which output (row), shape ``(out, in)``; or
            ``(M, out, in)`` for M masks over one weight matrix, chosen at each call.
        bias: add a bias per output.

    Source: Germain, Gregor, Murray & Larochelle (2015), Sec. 4.
    """

    def __init__(self, mask: Tensor, bias: bool = True):
        super().__init__()
        if mask.dim() not in (2, 3):
            raise ValueError(f"a mask has shape (out, in) or (M, out, in), not {tuple(mask.shape)}")
        mask = mask if mask.dim() == 3 else mask[None]
        # Not persistent: the masks follow from the constructor's arguments, not from training.
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)
        self.weight = nn.Parameter(torch.zeros(mask.shape[1:]))
        self.bias = nn.Parameter(torch.zeros(mask.shape[1])) if bias else None

    def forward(self, x: Tensor, which: int = 0) -> Tensor:
        """``(*batch, in) -> (*batch, out)`` under the mask number ``which``."""
        return F.linear(x, self.mask[which] * self.weight, self.bias)


def free_parameters(model: nn.Module) -> int:
    """How many numbers of a model training can move: all but the weights that a mask hides."""
    hidden = sum(
        int((module.mask == 0).all(0).sum())
        for module in model.modules()
        if isinstance(module, MaskedLinear)
    )
    return sum(parameter.numel() for parameter in model.parameters()) - hidden
