"""The discriminator that a generator deserves, where both densities are known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from companion.divergences import require_tables


def optimal_logit(log_p_data: Tensor, log_p_G: Tensor) -> Tensor:
    r"""The logit of the best discriminator of a given generator, Eq. (optimal-logit).

    .. math:: D^*(x) = \frac{p_\text{data}(x)}{p_\text{data}(x) + p_G(x)}
        = \sigma\bigl( \ln p_\text{data}(x) - \ln p_G(x) \bigr)

    It is nan where both densities are 0, since nothing is ever asked there.

    Args:   log_p_data, log_p_G: log-densities of the same examples, nats, of one shape,
            which is that of the logits.
    Raises: ValueError if the shapes differ.
    Source: Goodfellow et al. (2014), Proposition 1.
    """
    if log_p_data.shape != log_p_G.shape:
        shapes = f"{tuple(log_p_data.shape)} and {tuple(log_p_G.shape)}"
        raise ValueError(f"log_p_data and log_p_G must have the same shape, got {shapes}")
    return log_p_data - log_p_G


def game_value(logits: Tensor, p_data: Tensor, p_G: Tensor) -> Tensor:
    r"""The value of the game for two tables, Eq. (gan-value-density), nats.

    .. math:: V(G, D) = \sum_x p_\text{data}(x) \ln D(x)
        + \sum_x p_G(x) \ln\bigl(1 - D(x)\bigr)

    Tables are those of `companion.divergences`, and so `companion.divergences.tabulate`
    makes them of densities on a grid. Differentiable with respect to logits, and to
    positive entries.

    Args:
        logits:      of the discriminator at the n outcomes, ``(*batch, n)``; of any size.
        p_data, p_G: probabilities of the n outcomes, ``(*batch, n)``.

    Returns: nats, shape ``(*batch,)``.
    Raises:  ValueError if p_data or p_G is no table, or if the outcomes differ in number.
    Source:  Goodfellow et al. (2014), Eq. 1.
    """
    require_tables(p_data=p_data, p_G=p_G)
    if logits.shape[-1:] != p_data.shape[-1:]:
        n, shape = p_data.shape[-1], tuple(logits.shape)
        raise ValueError(f"logits must have shape (*batch, {n}), got {shape}")
    return _mean_log(p_data, logits) + _mean_log(p_G, -logits)


def _mean_log(p: Tensor, logits: Tensor) -> Tensor:
    """The mean of ln D under p; an outcome that never comes counts nothing, whatever its logit."""
    return (p * logsigmoid(torch.where(p > 0, logits, 0))).sum(-1)
