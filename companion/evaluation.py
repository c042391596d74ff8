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
        if values.dim() != 1 or not len(values):
            raise ValueError(f"draws have shape (N,), N at least 1, not {tuple(values.shape)}")
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


def roc(normal: Tensor, anomalous: Tensor) -> tuple[Tensor, Tensor]:
    """The receiver operating characteristic of a score that is to be high for anomalies.

    Args:
        normal, anomalous: scores, shapes ``(N,)`` and ``(M,)``.

    Returns: for every threshold, from the strictest on: the share of normal examples that score
        at least so high (false alarms) and the share of anomalous ones (hits), float64; both
        begin at 0 and end at 1.
    """
    require_scores(normal, anomalous)
    thresholds, place = torch.cat([normal, anomalous]).unique(return_inverse=True)
    rates = []
    for mine in place.split([len(normal), len(anomalous)]):
        counts = mine.bincount(minlength=len(thresholds)).flip(0).cumsum(0)
        rates.append(torch.cat([counts.new_zeros(1), counts]).double() / len(mine))
    return rates[0], rates[1]


def auc(normal: Tensor, anomalous: Tensor) -> Estimate:
    r"""The area under the ROC curve, Eq. (auc): how often an anomaly scores above a normal example.

    .. math:: \mathrm{AUC} = \Pr[s > s'] + \tfrac12 \Pr[s = s']

    Args:
        normal, anomalous: scores s' and s, shapes ``(N,)`` and ``(M,)``.

    Returns: between 0 and 1, with its standard error; 1/2 is chance. The error is 0 where no pair
        is in the wrong order, however few there are.
    Source:  Hanley & McNeil (1982); the standard error: DeLong, DeLong & Clarke-Pearson (1988).
    """
    require_scores(normal, anomalous)

    def share_below(scores, others):
        others = others.sort().values
        below = torch.searchsorted(others, scores)
        return (below + torch.searchsorted(others, scores, right=True)).double() / (2 * len(others))

    hits = Estimate.of(share_below(anomalous, normal))
    alarms = Estimate.of(share_below(normal, anomalous))
    return Estimate(hits.mean, math.hypot(hits.standard_error, alarms.standard_error))


def require_scores(*kinds: Tensor) -> None:
    """Raise ValueError unless there are scores of every kind, shape ``(N,)``, none of them nan."""
    for scores in kinds:
        if scores.dim() != 1 or not len(scores) or scores.isnan().any():
            raise ValueError(
                "scores have shape (N,), N at least 1 for each kind of example, and are not nan; "
                f"got shape {tuple(scores.shape)}"
            )
