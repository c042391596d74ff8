"""Scores of a trained model on held-out data."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from companion import require
from companion.nn import per_example
from companion.training.devices import home_of, usable
from companion.training.process import float32


class Estimate(NamedTuple):
    """A mean over independent examples and its standard error."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Estimate the expectation of which the values, shape ``(N,)``, are independent draws."""
        require.tensors(values=values)
        if values.dim() != 1 or not len(values):
            raise ValueError(f"draws have shape (N,), N at least 1, not {tuple(values.shape)}")
        values = values.double()
        deviation = values.std().item() if len(values) > 1 else math.nan
        return cls(values.mean().item(), deviation / math.sqrt(len(values)))


@contextlib.contextmanager
def scoring(model: nn.Module) -> Iterator[Tensor]:
    """Put a model into evaluation mode for a while; gives a parameter, for device and precision.

    On CUDA convolutions are computed in float32, and not in torch's default, TF32.
    """
    were_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with float32():
            held = itertools.chain(model.parameters(), model.buffers())
            yield next((each for each in held if each.is_floating_point()), torch.empty(0))
    finally:
        for module, was_training in were_training.items():
            module.training = was_training


@contextlib.contextmanager
def scoring_on(model: nn.Module, device: str | torch.device | None) -> Iterator[Tensor]:
    """As `scoring`, on a device that the model is taken to and back from.

    Args: device: as in `log_likelihoods`.
    """
    home = home_of(model)
    if device is not None or home.type == "cpu":  # what was put on a GPU is not moved to another
        model.to(usable(device))
    try:
        with scoring(model) as parameter:
            yield parameter
    finally:
        model.to(home)


@torch.no_grad()
def log_likelihoods(
    model: nn.Module,
    x: Tensor,
    batch_size: int = 100,
    *,
    device: str | torch.device | None = None,
) -> Tensor:
    r"""ln p(x) of binary examples, one by one.

    Args:
        model:  has ``log_prob: (B, *event) -> (B,)``, nats; scored in evaluation mode, and left
                where it is.
        x:      binary vectors, values 0 and 1 in any type, shape ``(N, *event)``.
        device: to compute on; left out: where the model is, but a GPU, if there is one, for a model
                on the CPU.

    Returns: float64, nats, ``(N,)``, on the CPU.
    Raises:  ValueError if x is not binary: grey values give a number that means nothing.
    """
    require.tensors(x=x)
    require.whole(batch_size=batch_size)
    if len(x) == 0:
        raise ValueError("x holds no examples")
    require_score(model, "log_prob")
    require_binary(x)
    with scoring_on(model, device) as parameter:
        batches = (batch.to(parameter) for batch in x.split(int(batch_size)))
        scores = [per_example(model.log_prob(batch), batch) for batch in batches]
        return torch.cat(scores).cpu().double()  # one wait for the device, not one a batch


def nll(
    model: nn.Module,
    x: Tensor,
    batch_size: int = 100,
    *,
    device: str | torch.device | None = None,
) -> Estimate:
    r"""Mean negative log-likelihood of binary data, Eq. (nll).

    .. math:: \mathrm{NLL} = -\frac1N \sum_{n=1}^{N} \ln p\bigl(x^{(n)}\bigr)

    Args:    as in `log_likelihoods`.
    Returns: mean over the N examples and its standard error, nats per example.
    """
    return Estimate.of(-log_likelihoods(model, x, batch_size, device=device))


class ImportanceEstimate(NamedTuple):
    """As `Estimate`, and how many of the draws really counted.

    ``effective_samples`` is the median over the examples of Eq. (effective-samples), 1 to K: near
    1, a single draw decides, and the score is an upper bound that more draws would still lower.
    """

    mean: float
    standard_error: float
    effective_samples: float


@torch.no_grad()
def importance_sampled_log_prob(
    model: nn.Module,
    x: Tensor,
    samples: int,
    batch_size: int = 100,
    chunk: int = 50,
    *,
    device: str | torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Estimate ln p(x) by Eq. (importance-sampling); too low on average.

    .. math:: \ln p(x) \approx \ln \frac1K \sum_{k=1}^{K} w_k

    Args:
        model:      has ``log_w: (x, K) -> (K, B)``, nats; scored in evaluation mode, and
                    left where it is.
        x:          zeros and ones or, for a model that is not of them, any values,
                    shape ``(N, *event)``.
        samples:    K, draws for each example.
        batch_size, chunk: examples and draws at a time: memory does not grow with K.
        device:     as in `log_likelihoods`.

    Returns: for each example the estimate, nats, and its effective number of draws,
        float64 ``(N,)`` each, on the CPU.
    Source:  Burda, Grosse & Salakhutdinov (2016), who use K = 5000.
    """
    require.tensors(x=x)
    require.whole(samples=samples, batch_size=batch_size, chunk=chunk, examples=len(x))
    if not x.isfinite().all():
        raise ValueError("x must be finite")
    require_score(model, "log_w")
    if getattr(model, "binary", not x.is_floating_point()):
        require_binary(x)
    log_p, effective = [], []
    with scoring_on(model, device) as parameter:
        for batch in x.split(int(batch_size)):
            batch = batch.to(parameter)
            total = squares = torch.full((len(batch),), -math.inf, dtype=torch.float64)
            for start in range(0, samples, chunk):
                draws = min(chunk, samples - start)
                log_w = model.log_w(batch, draws).cpu().double()
                if log_w.shape != (draws, len(batch)):
                    raise ValueError(f"log_w gives {tuple(log_w.shape)}, not (K, B)")
                total = torch.logaddexp(total, log_w.logsumexp(0))
                squares = torch.logaddexp(squares, (2 * log_w).logsumexp(0))
            log_p.append(total - math.log(samples))
            effective.append((2 * total - squares).exp())
        return torch.cat(log_p), torch.cat(effective)


def importance_sampled_nll(
    model: nn.Module,
    x: Tensor,
    samples: int,
    batch_size: int = 100,
    chunk: int = 50,
    *,
    device: str | torch.device | None = None,
) -> ImportanceEstimate:
    """Mean of minus `importance_sampled_log_prob`: on average an upper bound on the NLL.

    Args:    as in `importance_sampled_log_prob`.
    Returns: mean over the examples and its standard error, nats per example. The error is that
        of the choice of examples, and says nothing about the draws.
    """
    log_p, effective = importance_sampled_log_prob(
        model, x, samples, batch_size, chunk, device=device
    )
    return ImportanceEstimate(*Estimate.of(-log_p), effective.median().item())


@torch.no_grad()
def active_units(model: nn.Module, x: Tensor, threshold: float = 0.01) -> Tensor:
    r"""Which latent variables say something about x: A_j, Eq. (active-units), above a threshold.

    Args:    model: has an ``encoder: x -> q(z|x)``; x: shape ``(N, D)``.
    Returns: bool, shape ``(H,)``.
    Source:  Burda, Grosse & Salakhutdinov (2016), where the threshold is 0.01.
    """
    if len(x) < 2:
        raise ValueError("a variance over examples needs two of them or more")
    with scoring(model) as like:
        means = torch.cat([model.encoder(part.to(like)).mean for part in x.split(1000)])
    return means.var(0) > threshold


def require_score(model: nn.Module, name: str) -> None:
    """Raise TypeError, saying how else to score it, if a model lacks ``log_prob`` or ``log_w``."""
    other, remedy = {
        "log_prob": ("log_w", "estimate its likelihood with importance_sampled_nll"),
        "log_w": ("log_prob", "its likelihood is exact, take nll"),
    }[name]
    if not hasattr(model, name):
        remedy = f": {remedy}" if hasattr(model, other) else ""
        raise TypeError(f"{type(model).__name__} has no {name}{remedy}")


def require_binary(x: Tensor) -> None:
    """Raise ValueError unless x holds zeros and ones alone."""
    if not ((x == 0) | (x == 1)).all():
        raise ValueError(
            "x must be binary (0 or 1): binarise it first, e.g. data.binarize(x, seed)"
        )


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
        require.tensors(scores=scores)
        if scores.dim() != 1 or not len(scores) or scores.isnan().any():
            raise ValueError(
                "scores have shape (N,), N at least 1 for each kind of example, and are not nan; "
                f"got shape {tuple(scores.shape)}"
            )
