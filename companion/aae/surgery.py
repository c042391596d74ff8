"""The averaged Kullback-Leibler term of the ELBO, cut into two: information, and a misfit of codes.

The *aggregated posterior* q(z) is the distribution of the code of an example drawn from the data.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from companion import divergences
from companion.divergences import require_tables
from companion.evaluation import Estimate, scoring


def aggregated_posterior(p_data: Tensor, q: Tensor) -> Tensor:
    r"""The distribution of codes, whatever the example, Eq. (aggregated-posterior).

    .. math:: q(z) = \sum_x p_\text{data}(x)\, q(z \mid x)

    Args:    p_data: table of the examples, ``(n,)``; q: a table of codes for each, ``(n, m)``.
    Returns: table, ``(m,)``.
    """
    return p_data @ q


class Surgery(NamedTuple):
    """The averaged divergence of the ELBO, and the two parts that it is the sum of, nats."""

    average_kl: Tensor
    mutual_information: Tensor
    marginal_kl: Tensor


def surgery(p_data: Tensor, q: Tensor, prior: Tensor) -> Surgery:
    r"""Cut the averaged divergence of an encoder given as a table, Eq. (elbo-surgery).

    .. math::
        \mathbb{E}_{p_\text{data}(x)} \bigl[ D_\mathrm{KL}(q(z \mid x) \,\|\, p(z)) \bigr]
        = I_q(x; z) + D_\mathrm{KL}(q(z) \,\|\, p(z))

    Args:
        p_data: probabilities of the examples, ``(n,)``.
        q:      q(z|x), a table for each example, ``(n, m)``.
        prior:  ``(m,)``.

    Raises: ValueError if one of them is no table, or if they do not fit each other.
    Source: Hoffman & Johnson (2016).
    """
    if len(p_data) != len(q):
        raise ValueError(f"{len(q)} tables of codes for {len(p_data)} examples")
    require_tables(p_data=p_data)
    require_tables(q=q, prior=prior)
    # Who never comes adds nothing, and not 0 * inf.
    p_data, q = p_data[p_data > 0], q[p_data > 0]
    marginal = aggregated_posterior(p_data, q)
    average_kl = p_data @ divergences.kl(q, prior)
    information = p_data @ divergences.kl(q, marginal)
    return Surgery(average_kl, information, divergences.kl(marginal, prior))


class SurgeryEstimate(NamedTuple):
    """`Surgery` by samples: three estimates, nats, with their standard errors."""

    average_kl: Estimate
    mutual_information: Estimate
    marginal_kl: Estimate


@torch.no_grad()
def surgery_estimate(
    encoder: nn.Module, prior: nn.Module, x: Tensor, samples: int = 1000, chunk: int = 8
) -> SurgeryEstimate:
    r"""Cut the averaged divergence of an encoder of N examples, Eq. (elbo-surgery).

    Draw an example and a code of it, and compare the three log-densities of the code. The
    aggregated posterior is exact, a mixture of as many components as examples, and costs
    a density of each for every draw. The mutual information cannot exceed ln N.

    Args:
        encoder: x -> q(z|x), with ``log_prob`` and ``sample``, as in `companion.vae`.
        prior:   called without argument -> p(z).
        x:       the data, ``(N, *event)``: p_data gives each of these examples 1/N.
        samples: draws of an example and its code.
        chunk:   codes at a time, which bounds the memory: ``chunk * N * H`` numbers.
    """
    with scoring(encoder) as like:
        x = x.to(like)
        all_q, chosen = encoder(x), torch.randint(len(x), (samples,), device=x.device)
        q = encoder(x[chosen])
        z = q.sample()
        log_q_x = q.log_prob(z)
        parts = [all_q.log_prob(some[:, None]).logsumexp(1) for some in z.split(chunk)]
        log_q = torch.cat(parts) - math.log(len(x))
        log_p = prior().log_prob(z)
    terms = log_q_x - log_p, log_q_x - log_q, log_q - log_p
    return SurgeryEstimate(*map(Estimate.of, terms))
