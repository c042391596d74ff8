"""Logistic regressions: the fully visible sigmoid belief network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from companion.autoregressive.base import Autoregressive
from companion.nn import MaskedLinear


class FVSBN(Autoregressive):
    r"""Fully visible sigmoid belief network: one logistic regression per entry, Eq. (fvsbn).

    .. math:: p(x_i = 1 \mid x_{<i}) = \sigma\Bigl(b_i + \sum_{j<i} w_{ij} x_j\Bigr)

    Args:
        features: D, the number of entries of x.
        order:    the order of the entries, shape ``(D,)``.
        window:   how many of the previous entries a conditional may see, Eq. (ar-window); all if
                  left out. 0 is the independent model, 1 a Markov chain.

    Source: Neal (1992), without hidden units; Frey (1998).
    """

    def __init__(
        self,
        features: int,
        order: Tensor | Sequence[int] | None = None,
        *,
        window: int | None = None,
    ):
        super().__init__(features, order)
        window = features if window is None else window
        if window < 0:
            raise ValueError(f"window counts entries and cannot be negative, got {window}")
        rank = self.orders[0].argsort()
        distance = rank[:, None] - rank[None, :]
        # The problem is convex, so that zero weights are as good a start as any.
        self.layer = MaskedLinear((distance > 0) & (distance <= window))

    @property
    def bias(self) -> nn.Parameter:
        return self.layer.bias

    def logits(self, x: Tensor, which: int = 0) -> Tensor:
        return self.layer(x)

    @torch.no_grad()
    def walk(self, x: Tensor, which: int = 0) -> Iterator[Tensor]:
        """Each entry's own regression and no other: D² multiplications for a sample."""
        weight = self.layer.masked_weight()
        for i in self.orders[0].tolist():
            yield x @ weight[i] + self.bias[i]
