"""What all autoregressive models of binary vectors share: scoring, drawing, completing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion.nn import at_least_float32, draws, require_shares, vectors


class Autoregressive(nn.Module, ABC):
    r"""Binary vectors, one Bernoulli conditional per entry, Eq. (ar-log-likelihood).

    .. math:: \ln p(x) = \sum_{i=1}^{D} \ln p(x_i \mid x_{<i})

    Given several orders, which a subclass allows by ``several_orders = True``, the model is their
    equal mixture, Eq. (order-ensemble).

    Args:
        features: D, the number of entries of x.
        orders:   ``order[i]`` is the entry that comes i-th; a permutation of ``range(D)``, shape
                  ``(D,)``, or M of them, shape ``(M, D)``. Left out: 0, 1, ..., D-1.

    Raises: ValueError if an order is not a permutation, or if there are several that are not
        allowed.
    """

    binary = True
    several_orders = False

    def __init__(self, features: int, orders: Tensor | Sequence[int] | None = None):
        super().__init__()
        orders = torch.as_tensor(list(range(features)) if orders is None else orders).cpu()
        orders = orders[None] if orders.dim() == 1 else orders
        sound = orders.dim() == 2 and len(orders) and not orders.is_floating_point()
        if not sound or (orders.sort(-1).values.tolist() != [[*range(features)]] * len(orders)):
            raise ValueError(
                f"an order lists each of the {features} entries 0..{features - 1} once, as whole "
                f"numbers, and several have shape (M, {features}); got shape {tuple(orders.shape)}"
            )
        if len(orders) > 1 and not self.several_orders:
            raise ValueError(f"{type(self).__name__} has one order; for several there is MADE")
        self.features = features
        self.register_buffer("orders", orders.long(), persistent=False)

    @abstractmethod
    def logits(self, x: Tensor, which: int = 0) -> Tensor:
        """Logits of every p(x_i = 1 | x_<i) at once, ``(*batch, D) -> (*batch, D)``.

        ``which`` chooses one of the model's orders; a model with a single one ignores it.
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
        require_shares(marginals, self.bias)
        self.bias.copy_(marginals.to(self.bias).clamp(1e-4, 1 - 1e-4).logit())

    # --- scoring ---

    def log_conditionals(self, x: Tensor, which: int = 0) -> Tensor:
        r"""ln p(x_i | x_<i) of every entry, ``(*batch, D) -> (*batch, D)``, nats.

        Eq. (bernoulli-logit), in the order number ``which``.
        """
        x = vectors(x, self.bias)  # on the model's device, in its precision
        logits = at_least_float32(self.logits(x, which))
        x = x.to(logits.dtype)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none")

    def order_log_prob(self, x: Tensor, which: int = 0) -> Tensor:
        """ln p_m(x) under one order, ``(*batch, D) -> (*batch,)``, nats.

        Eq. (ar-log-likelihood), in the order number ``which``.
        """
        return self.log_conditionals(x, which).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Exact log-probability, ``(*batch, D) -> (*batch,)``, nats, Eq. (order-ensemble).

        .. math:: \ln p(x) = \ln \frac1M \sum_{m=1}^{M} p_m(x)

        The orders' probabilities are averaged, never their logits: only the former is a
        distribution.

        Source: Uria, Murray & Larochelle (2014); Germain et al. (2015), Sec. 4.
        """
        each = [self.order_log_prob(x, m) for m in range(len(self.orders))]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def forward(self, x: Tensor) -> Tensor:
        """What training maximises, ``(*batch, D) -> (*batch,)``, nats.

        In training mode with several orders: ln p_m(x) of one order m drawn for the whole batch,
        on average a lower bound of ``log_prob``. Otherwise ``log_prob`` itself.
        """
        if self.training and len(self.orders) > 1:
            return self.order_log_prob(x, int(torch.randint(len(self.orders), ())))
        return self.log_prob(x)

    # --- drawing ---

    @torch.no_grad()
    def walk(self, x: Tensor, which: int = 0) -> Iterator[Tensor]:
        """Logits of p(x_i = 1 | x_<i), ``(B,)`` each, one entry after another in the order.

        The caller writes entry i into ``x``, shape ``(B, D)``, before asking for the next.
        Here every step evaluates the whole network; a model that keeps what it has computed
        overrides this and yields the same numbers.
        """
        for i in self.orders[which].tolist():
            yield self.logits(x, which)[:, i]

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), *, cached: bool = True) -> Tensor:
        """Ancestral sampling, Eq. (ancestral-sampling), ``-> (*sample_shape, D)``.

        Each sample of an ensemble follows one order, drawn uniformly.

        Args:
            cached: keep what has been computed (`walk` of the model); False evaluates the whole
                network for each entry, for comparison: the same samples from the same seed.
        """
        x = self.bias.new_zeros(draws(sample_shape), self.features)
        which = torch.randint(len(self.orders), (len(x),), device=x.device)
        known = torch.zeros(self.features, dtype=torch.bool, device=x.device)
        return self.fill(x, known, which, cached).reshape(*sample_shape, self.features)

    @torch.no_grad()
    def complete(self, x: Tensor, known: Tensor, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draw the unknown entries given the known ones, Eq. (completion), exactly.

        The known entries must come first in the model's order, in every one of them if it has
        several; an ensemble then follows order m with probability in proportion to p_m(known).

        Args:
            x:     vectors of which only the known entries count, shape ``(*batch, D)``.
            known: which entries are known, bool, shape ``(D,)``.

        Returns: shape ``(*sample_shape, *batch, D)``, the known entries as they were.
        Raises:  ValueError if an unknown entry comes before a known one.
        """
        draws(sample_shape)  # refuses a bare count
        known = torch.as_tensor(known, dtype=torch.bool, device=self.bias.device)
        if known.shape != (self.features,) or x.shape[-1:] != known.shape:
            raise ValueError(
                f"known must have shape ({self.features},) and x (*batch, {self.features}); got "
                f"{tuple(known.shape)} and {tuple(x.shape)}"
            )
        for order in self.orders:
            if not known[order[: int(known.sum())]].all():
                last = order[known[order]][-1]
                first = order[~known[order]][0]
                raise ValueError(
                    f"entry {last} is known but entry {first}, which comes before it in the "
                    "model's order, is not: there is no exact way to draw it without summing over "
                    "all completions. Choose a model whose order begins with the known entries."
                )
        x = torch.where(known, vectors(x, self.bias), 0)
        evidence = [
            self.log_conditionals(x, m)[..., known].sum(-1) for m in range(len(self.orders))
        ]
        evidence = torch.stack(evidence, -1).expand(*sample_shape, *x.shape[:-1], -1)
        which = evidence.reshape(-1, len(self.orders)).softmax(-1).multinomial(1).squeeze(-1)
        x = x.expand(*sample_shape, *x.shape)
        rows = x.reshape(-1, self.features).clone()
        return self.fill(rows, known, which).reshape(x.shape)

    @torch.no_grad()
    def fill(self, x: Tensor, known: Tensor, which: Tensor, cached: bool = True) -> Tensor:
        """Draw the unknown entries of each row of x, in place, each row in its order.

        Every entry is drawn given those before it and no other, so that known entries which
        come later are overlooked: `complete` refuses them.

        Args:
            x:      in the model's precision, shape ``(B, D)``.
            known:  entries that stay as they are, bool, shape ``(D,)``.
            which:  the number of each row's order, shape ``(B,)``.
            cached: as in `sample`.
        """
        noise = torch.rand_like(at_least_float32(x))
        free = (~known).tolist()
        for m, order in enumerate(self.orders.tolist()):
            rows = (which == m).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            part, u = x[rows], noise[rows]
            walk = self.walk(part, m) if cached else Autoregressive.walk(self, part, m)
            for i, logit in zip(order, walk, strict=True):
                if free[i]:
                    part[:, i] = (u[:, i] < at_least_float32(logit).sigmoid()).to(x)
            x[rows] = part
        return x
