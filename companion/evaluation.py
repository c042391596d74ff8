"""Scores of a trained model on held-out data."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Estimate(NamedTuple):
    """A mean over independent examples and its standard error."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Estimate the expectation of which the values, shape ``(N,)``, are independent draws."""
        values = values.double()
        deviation = values.std().item() if len(values) > 1 else math.nan
        return cls(values.mean().item(), deviation / math.sqrt(len(values)))


@torch.no_grad()
def nll(model: nn.Module, x: Tensor, batch_size: int = 100) -> Estimate:
    r"""Mean negative log-likelihood of binary data, Eq. (nll).

    .. math:: \mathrm{NLL} = -\frac1N \sum_{n=1}^{N} \ln p\bigl(x^{(n)}\bigr)

    Args:
        model: has ``log_prob: (B, *event) -> (B,)``, nats; scored in evaluation mode.
        x:     binary vectors, values 0 and 1 in any type, shape ``(N, *event)``.

    Returns: mean over the N examples and its standard error, nats per example.
    Raises:  ValueError if x is not binary: grey values give a number that means nothing.
    """
    if len(x) == 0:
        raise ValueError("x holds no examples")
    if not ((x == 0) | (x == 1)).all():
        raise ValueError(
            "x must be binary (0 or 1): binarise it first, e.g. data.binarize(x, seed)"
        )
    parameter = next(model.parameters())
    was_training = model.training
    model.eval()
    try:
        scores = [
            -model.log_prob(batch.to(parameter.device, parameter.dtype)).double()
            for batch in x.split(batch_size)
        ]
    finally:
        model.train(was_training)
    return Estimate.of(torch.cat(scores))


def bits_per_dimension(nats: float, dimensions: int) -> float:
    r"""Nats per example as bits per dimension, Eq. (bits-per-dimension)."""
    return nats / (dimensions * math.log(2))
