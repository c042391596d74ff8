"""Autoregressive models of binary vectors: every conditional is a Bernoulli distribution.

Chapter: book/autoregressive-models.ipynb. Checks: tests/equations/autoregressive.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion.nn import MaskedLinear


class Autoregressive(nn.Module, ABC):
    r"""Binary vectors, one Bernoulli conditional per entry, Eq. (ar-log-likelihood).

    .. math:: \ln p(x) = \sum_{i=1}^{D} \ln p(x_i \mid x_{<i})

    Given several orders, the model is their equal mixture, Eq. (order-ensemble).

    Args:
        features: D, the number of entries of x.
        orders:   ``order[i]`` is the entry that comes i-th; a permutation of ``range(D)``, shape
                  ``(D,)``, or M of them, shape ``(M, D)``. Left out: 0, 1, ..., D-1.

    Raises: ValueError if an order is not a permutation.
    """

    def __init__(self, features: int, orders: Tensor | Sequence[int] | None = None):
        super().__init__()
        orders = torch.arange(features) if orders is None else torch.as_tensor(orders)
        orders = orders.reshape(-1, orders.shape[-1])
        if not torch.equal(orders.sort(-1).values, torch.arange(features).expand(len(orders), -1)):
            raise ValueError(
                f"an order lists each of the {features} entries 0..{features - 1} once; "
                f"got {len(orders)} order(s) of length {orders.shape[-1]} that do not"
            )
        self.features = features
        self.register_buffer("orders", orders, persistent=False)

    @abstractmethod
    def logits(self, x: Tensor, which: int = 0) -> Tensor:
        """Logits of every p(x_i = 1 | x_<i) at once, ``(*batch, D) -> (*batch, D)``.

        ``which`` chooses one of the model's orders.
        """

    @property
    @abstractmethod
    def bias(self) -> nn.Parameter:
        """What is added to the logits whatever x is, shape ``(D,)``."""

    @torch.no_grad()
    def start_from(self, marginals: Tensor) -> None:
        """Make a new model the independent one with these marginals: a better start than 1/2 each.

        Args:
            marginals: the share of ones in each entry, shape ``(D,)``; kept 1e-4 off 0 and 1.
        """
        self.bias.copy_(marginals.clamp(1e-4, 1 - 1e-4).logit())

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Exact log-probability, ``(*batch, D) -> (*batch,)``, nats, Eq. (order-ensemble).

        .. math:: \ln p(x) = \ln \frac1M \sum_{m=1}^{M} p_m(x)

        The orders' probabilities are averaged, never their logits: only the former is a
        distribution.

        Source: Uria, Murray & Larochelle (2014); Germain et al. (2015), Sec. 4.
        """
        each = [self.order_log_prob(x, m) for m in range(len(self.orders))]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def order_log_prob(self, x: Tensor, which: int = 0) -> Tensor:
        """ln p_m(x) under one order, ``(*batch, D) -> (*batch,)``, nats.

        Eq. (ar-log-likelihood), in the order number ``which``.
        """
        if x.shape[-1] != self.features:
            raise ValueError(
                f"x must have shape (*batch, {self.features}), got "
                f"{tuple(x.shape)}; images are flattened first: x.flatten(-2)"
            )
        x = x.to(self.bias)  # the model's device and precision
        logits = self.logits(x, which)
        # At least float32, whatever the precision the network ran in.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return -F.binary_cross_entropy_with_logits(
            logits, x.to(logits.dtype), reduction="none"
        ).sum(-1)

    def forward(self, x: Tensor) -> Tensor:
        """What training maximises, ``(*batch, D) -> (*batch,)``, nats.

        In training mode with several orders: ln p_m(x) of one order m drawn for the whole batch,
        on average a lower bound of ``log_prob``. Otherwise ``log_prob`` itself.
        """
        if self.training and len(self.orders) > 1:
            return self.order_log_prob(x, int(torch.randint(len(self.orders), ())))
        return self.log_prob(x)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Ancestral sampling, ``-> (*sample_shape, D)``: one evaluation per entry.

        Each sample of an ensemble follows one order, drawn uniformly.
        """
        parameter = next(self.parameters())
        x = parameter.new_zeros(math.prod(sample_shape), self.features)
        chosen = torch.randint(len(self.orders), (len(x),), device=x.device)
        for which, order in enumerate(self.orders):
            rows = (chosen == which).nonzero().squeeze(1)
            for i in order if len(rows) else ():
                logit = self.logits(x[rows], which)[:, i]
                x[rows, i] = torch.sigmoid(logit).bernoulli()
        return x.reshape(*sample_shape, self.features)


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
        if len(self.orders) > 1:
            raise ValueError("an FVSBN has one order; for several there is MADE")
        window = features if window is None else window
        if window < 0:
            raise ValueError(f"window counts entries, cannot be negative: {window}")
        rank = self.orders[0].argsort()
        distance = rank[:, None] - rank[None, :]
        # The problem is convex, so that zero weights are as good a start as any.
        self.layer = MaskedLinear((distance > 0) & (distance <= window))

    @property
    def bias(self) -> nn.Parameter:
        return self.layer.bias

    def logits(self, x: Tensor, which: int = 0) -> Tensor:
        return self.layer(x)


class MADE(Autoregressive):
    r"""Masked autoencoder for distribution estimation: all D conditionals in one pass.

    A hidden unit of degree m sees the first m entries of the order; output i listens to hidden
    units of degree below i, Eq. (made-masks). With direct connections an FVSBN is added to the
    logits, so that MADE contains it.

    Args:
        features: D, the number of entries of x.
        hidden:   widths of the hidden layers.
        orders:   one order ``(D,)``, or M of them ``(M, D)`` that share weights and are averaged.
        direct:   add direct connections from input to output.

    Source: Germain, Gregor, Murray & Larochelle (2015), Sec. 4 and Algorithm 1.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (500,),
        orders: Tensor | Sequence[int] | None = None,
        *,
        direct: bool = True,
    ):
        super().__init__(features, orders)
        if features < 2 or not hidden or min(hidden) < 1:
            raise ValueError(
                "MADE needs at least 2 entries and hidden layers of at least 1 unit;"
                f" got features={features}, hidden={tuple(hidden)}"
            )
        rank = self.orders.argsort(-1)  # (M, D): rank 0 comes first
        degrees = [1 + torch.arange(width) * (features - 1) // width for width in hidden]

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
            fan_in = layer.mask.float().mean(0).sum(-1, keepdim=True).clamp(min=1)
            layer.weight = nn.Parameter(torch.randn_like(layer.weight) * fan_in.rsqrt())

    @property
    def bias(self) -> nn.Parameter:
        return self.output.bias

    def logits(self, x: Tensor, which: int = 0) -> Tensor:
        h = x
        for layer in self.layers:
            h = F.relu(layer(h, which if layer is self.layers[0] else 0))
        logits = self.output(h, which)
        return logits if self.direct is None else logits + self.direct(x, which)
