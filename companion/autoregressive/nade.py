"""The neural autoregressive distribution estimator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from companion.autoregressive.base import Autoregressive

# The running sum goes block by block: within one, a small product of matrices is quicker than
# one addition after another, and its extra multiplications cost less than the sigmoids do.
BLOCK = 28


class NADE(Autoregressive):
    r"""One hidden layer per conditional, all with the same weights, Eq. (nade).

    .. math::
        h_i = \sigma\Bigl(c + \sum_{j<i} W_j x_j\Bigr), \qquad
        p(x_i = 1 \mid x_{<i}) = \sigma(b_i + V_i \cdot h_i)

    The argument of h_{i+1} is that of h_i plus one term, Eq. (nade-recursion), so that a density
    and a sample both take O(D H) operations. The entry that comes last is seen by none, so that its
    row of W has no effect.

    Args:
        features: D, the number of entries of x.
        hidden:   H, the number of hidden units.
        order:    the order of the entries, shape ``(D,)``.

    Source: Larochelle & Murray (2011).
    """

    def __init__(
        self, features: int, hidden: int = 500, order: Tensor | Sequence[int] | None = None
    ):
        super().__init__(features, order)
        if hidden < 1:
            raise ValueError(f"a NADE needs at least 1 hidden unit, not {hidden}")
        # Weights add up over the entries that are on, about a tenth of a digit's.
        self.W = nn.Parameter(torch.randn(features, hidden) * (1 + features / 10) ** -0.5)
        self.c = nn.Parameter(torch.zeros(hidden))
        self.V = nn.Parameter(torch.zeros(features, hidden))
        self.b = nn.Parameter(torch.zeros(features))

    @property
    def bias(self) -> nn.Parameter:
        return self.b

    def logits(self, x: Tensor, which: int = 0) -> Tensor:
        order = self.orders[0]
        x, W, V = x[..., order], self.W[order], self.V[order]
        u, logits = self.c, []
        blocks = x.split(BLOCK, -1), W.split(BLOCK), V.split(BLOCK)
        for x_b, W_b, V_b in zip(*blocks, strict=True):
            earlier = x.new_ones(len(W_b), len(W_b)).tril(-1)
            seen = x_b[..., None, :] * earlier  # (*batch, b, b)
            h = (u[..., None, :] + seen @ W_b).sigmoid()  # (*batch, b, H)
            logits.append((h * V_b).sum(-1))
            u = u + x_b @ W_b
        return torch.cat(logits, -1)[..., order.argsort()] + self.b

    @torch.no_grad()
    def walk(self, x: Tensor, which: int = 0) -> Iterator[Tensor]:
        """One addition to the hidden units' argument per entry."""
        u = self.c.expand(len(x), -1)
        for i in self.orders[0].tolist():
            yield u.sigmoid() @ self.V[i] + self.b[i]
            u = u + x[:, i, None] * self.W[i]
