"""One masked network for all conditionals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion.autoregressive.base import Autoregressive
from companion.nn import MaskedLinear


class MADE(Autoregressive):
    r"""Masked autoencoder for distribution estimation: all D conditionals in one pass.

    A hidden unit of degree m sees the first m entries of the order; output i listens to hidden
    units of degree below i, Eq. (made-masks). With direct connections an FVSBN is added to the
    logits, so that MADE contains it.

    Args:
        features: D, the number of entries of x.
        hidden:   width of the hidden layer, or widths of several.
        orders:   one order ``(D,)``, or M of them ``(M, D)`` that share weights and are averaged.
        direct:   add direct connections from input to output.

    Source: Germain, Gregor, Murray & Larochelle (2015), Sec. 4 and Algorithm 1.
    """

    several_orders = True

    def __init__(
        self,
        features: int,
        hidden: int | Sequence[int] = (500,),
        orders: Tensor | Sequence[int] | None = None,
        *,
        direct: bool = True,
    ):
        super().__init__(features, orders)
        hidden = (hidden,) if isinstance(hidden, int) else hidden
        if features < 2 or not hidden or min(hidden) < 1:
            raise ValueError(
                "MADE needs at least 2 entries and hidden layers of at least 1 unit;"
                f" got features={features}, hidden={tuple(hidden)}"
            )
        rank = self.orders.argsort(-1)  # (M, D): rank 0 comes first
        degrees = [self._degrees(width) for width in hidden]

        sees = degrees[0][:, None] > rank[:, None, :]  # (M, H, D)
        self.layers = nn.ModuleList([MaskedLinear(sees)])
        for below, above in pairwise(degrees):
            self.layers.append(MaskedLinear(above[:, None] >= below[None, :]))
        self.output = MaskedLinear(rank[:, :, None] >= degrees[-1])  # (M, D, H)
        self.direct = (
            MaskedLinear(rank[:, :, None] > rank[:, None, :], bias=False) if direct else None
        )
        for layer in self.layers:
            # A unit of low degree has few inputs: scale by the inputs it really has.
            fan_in = layer.mask.mean(0).sum(-1, keepdim=True).clamp(min=1)
            layer.weight = nn.Parameter(torch.randn_like(layer.weight) * fan_in.rsqrt())

    @property
    def bias(self) -> nn.Parameter:
        return self.output.bias

    def logits(self, x: Tensor, which: int = 0) -> Tensor:
        first, *others = self.layers
        h = F.relu(first(x, which))
        for layer in others:
            h = F.relu(layer(h))
        logits = self.output(h, which)
        return logits if self.direct is None else logits + self.direct(x, which)

    @torch.no_grad()
    def walk(self, x: Tensor, which: int = 0) -> Iterator[Tensor]:
        """Each hidden unit once, as soon as all that it may see is there.

        After the first m entries the units of degree m are complete, in every layer, and no output
        that comes now needs more: a sample takes the multiplications of one evaluation.
        """
        first, *others = self.layers
        weights = [first.masked_weight(which), *(layer.masked_weight() for layer in others)]
        output = self.output.masked_weight(which)
        direct = None if self.direct is None else self.direct.masked_weight(which)
        h = [x.new_zeros(len(x), len(weight)) for weight in weights]
        complete = [
            self._degrees(len(weight)).bincount(minlength=self.features).cumsum(0).tolist()
            for weight in weights
        ]
        hidden = list(zip(self.layers, weights, h, complete, strict=True))
        for m, i in enumerate(self.orders[which].tolist()):
            below = x
            for layer, weight, units, done in hidden:
                new = slice(done[m - 1] if m else 0, done[m])  # the units of degree m
                units[:, new] = F.relu(F.linear(below, weight[new], layer.bias[new]))
                below = units
            logit = F.linear(below, output[i : i + 1], self.bias[i : i + 1])
            if direct is not None:
                logit = logit + F.linear(x, direct[i : i + 1])
            yield logit.squeeze(1)

    def _degrees(self, width: int) -> Tensor:
        """How many entries each unit of a hidden layer may see, in ascending order."""
        return 1 + torch.arange(width) * (self.features - 1) // width
