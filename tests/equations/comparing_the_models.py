"""The equations of the chapter that compares the models."""

import math

import torch
from torch.distributions import Binomial

from companion.checks import all_binary
from companion.distributions import MarkovChain
from companion.divergences import cross_entropy, entropy, kl
from companion.evaluation import importance_sampled_log_prob, nll
from tests.equations import equation, side
from tests.equations.generative_adversarial_networks import random_table
from tests.equations.generative_models import random_probs
from tests.equations.variational_autoencoders import (
    Densities,
    guessing_model,
    of_draws,
    one_axis,
    own_line,
)

CHAPTER = "comparing-the-models"

# --- what the checks are made of ------------------------------------------------------


def throws(g):
    """The chance of each black and white picture, ``(*batch, D) -> (*batch, 2**D)``."""
    x, g = all_binary(g.shape[-1]), g[..., None, :]
    return (x * g + (1 - x) * (1 - g)).prod(-1)


def mean(chance, values):
    return (chance * values).sum(-1)


def variance(chance, values):
    """Over the last axis, on which the chances sum to one."""
    return mean(chance, (values - mean(chance, values)[..., None]) ** 2)


# --- one protocol ---------------------------------------------------------------------


@equation(
    "two-chances",
    r"""
    \operatorname{Var}[s(x)]
        = \mathbb{E}_g \bigl[ \operatorname{Var}[s(x) \mid g] \bigr]
      + \operatorname{Var}_g \bigl[ \mathbb{E}[s(x) \mid g] \bigr]
    """,
)
def two_chances(rng):
    N, D = 3, 4
    g, chance = torch.rand(N, D, generator=rng), random_table(rng, N)
    s = -random_table(rng, 2**D).log()

    def of_pairs(x):
        """The variance by the differences of two draws."""
        return x @ (s[:, None] - s) ** 2 @ x / 2

    total = of_pairs(chance @ throws(g))
    yield side(
        total,
        wrong={
            "standard deviation": total.sqrt(),
            "pictures not weighted": of_pairs(throws(g).mean(0)),
            "throws of the mean picture": of_pairs(throws(chance @ g)),
        },
    )
    within = mean(chance, variance(throws(g), s))
    between = variance(chance, mean(throws(g), s))
    yield side(
        within + between,
        wrong={
            "difference": within - between,
            "throws alone": within,
            "pictures alone": between,
            "standard deviations added": (within.sqrt() + between.sqrt()) ** 2,
            "throws not weighted": variance(throws(g), s).mean() + between,
            "square of the mean for its variance": within
            + mean(chance, mean(throws(g), s) ** 2),
        },
    )


@equation(
    "throw-error",
    r"""
    \operatorname{Var} \Bigl[ \frac{1}{N} \sum_{n=1}^{N} s(x^{(n)})
        \Bigm| g^{(1)}, \dots, g^{(N)} \Bigr]
      = \frac{1}{N^2} \sum_{n=1}^{N} \operatorname{Var} \bigl[ s(x^{(n)})
          \bigm| g^{(n)} \bigr]
    """,
)
def throw_error(rng):
    N, D = 3, 2
    g, model = torch.rand(N, D, generator=rng), random_probs(MarkovChain(D), rng)
    together = throws(g.flatten())  # the pictures side by side are one, of N D pixels
    scores = -model.log_prob(all_binary(N * D).reshape(-1, D)).reshape(-1, N)
    left = variance(together, scores.mean(1))
    yield side(
        left,
        wrong={
            "sum for mean": variance(together, scores.sum(1)),
            "standard deviation": left.sqrt(),
        },
    )
    s = -model.log_prob(all_binary(D))
    each = variance(throws(g), s)
    yield side(
        each.sum() / N**2,
        wrong={
            "N for its square": each.sum() / N,
            "not divided": each.sum(),
            "standard deviations added": (each.sqrt().sum() / N) ** 2,
            "pictures drawn, too": variance(throws(g).mean(0), s) / N,
            "second moment": mean(throws(g), s**2).sum() / N**2,
        },
    )


# --- two models of the same pictures --------------------------------------------------


@equation(
    "likelihood-difference",
    r"""
    \begin{aligned}
    \mathbb{E}_{p_\text{data}} \bigl[ \ln p(x) - \ln q(x) \bigr]
      &= H(p_\text{data}, q) - H(p_\text{data}, p) \\
      &= D_{\mathrm{KL}}(p_\text{data} \,\Vert\, q)
          - D_{\mathrm{KL}}(p_\text{data} \,\Vert\, p)
    \end{aligned}
    """,
)
def likelihood_difference(rng):
    p_data, p, q = random_table(rng, 3, 6)
    gain = p.log() - q.log()
    yield side(
        mean(p_data, gain),
        wrong={
            "q less p": mean(p_data, -gain),
            "average under p": mean(p, gain),
            "examples not weighted": gain.mean(),
            "no logarithm": mean(p_data, p - q),
        },
    )
    yield side(
        cross_entropy(p_data, q) - cross_entropy(p_data, p),
        wrong={
            "order exchanged": cross_entropy(p_data, p) - cross_entropy(p_data, q),
            "sum": cross_entropy(p_data, q) + cross_entropy(p_data, p),
            "the other way round": cross_entropy(q, p_data) - cross_entropy(p, p_data),
            "entropies": entropy(q) - entropy(p),
        },
    )
    yield side(
        kl(p_data, q) - kl(p_data, p),
        wrong={
            "order exchanged": kl(p_data, p) - kl(p_data, q),
            "sum": kl(p_data, q) + kl(p_data, p),
            "the other way round": kl(q, p_data) - kl(p, p_data),
            "of the models": kl(p, q),
        },
    )


@equation(
    "paired-error",
    r"""
    \begin{aligned}
    \operatorname{Var} \bigl[ \ln p(x) - \ln q(x) \bigr]
      &= \operatorname{Var}[\ln p(x)] + \operatorname{Var}[\ln q(x)] \\
      & {} - 2 \operatorname{Cov}[\ln p(x), \ln q(x)]
    \end{aligned}
    """,
)
def paired_error(rng):
    p_data, p, q = random_table(rng, 3, 6)
    yield side(
        variance(p_data, p.log() - q.log()),
        wrong={
            "of the sum": variance(p_data, p.log() + q.log()),
            "of the fraction": variance(p_data, p / q),
            "second moment": mean(p_data, (p.log() - q.log()) ** 2),
            "examples not weighted": (p.log() - q.log()).var(correction=0),
        },
    )
    table = torch.cov(torch.stack([p, q]).log(), correction=0, aweights=p_data)
    apart, shared = table.trace(), table[0, 1]
    yield side(
        apart - 2 * shared,
        wrong={
            "as if independent": apart,
            "sign of the covariance": apart + 2 * shared,
            "one covariance": apart - shared,
            "variances subtracted": table[0, 0] - table[1, 1] - 2 * shared,
            "standard deviations subtracted": (table[0, 0].sqrt() - table[1, 1].sqrt())
            ** 2,
        },
    )


@equation(
    "bytes-per-picture", r"\text{bytes per picture} = \frac{\mathrm{NLL}}{8 \ln 2}"
)
def bytes_per_picture(rng):
    D, N = 5, 9
    model = random_probs(MarkovChain(D), rng)
    x = torch.bernoulli(torch.full((N, D), 0.5), generator=rng)
    bits = -model.log_prob(x).exp().log2().mean()
    yield side(bits / 8, wrong={"bits": bits, "bytes per pixel": bits / 8 / D})
    nats = nll(model, x).mean
    yield side(
        nats / (8 * math.log(2)),
        wrong={
            "8 forgotten": nats / math.log(2),
            "ln 2 forgotten": nats / 8,
            "multiplied by ln 2": nats * math.log(2) / 8,
            "multiplied by 8": 8 * nats / math.log(2),
            "ln 8": nats / math.log(8),
        },
    )


# --- how far the estimate is off ------------------------------------------------------


@equation(
    "log-near-evidence",
    r"\ln u \approx \ln p(x) + \frac{u - p(x)}{p(x)} - \frac{(u - p(x))^2}{2\, p(x)^2}",
)
def log_near_evidence(rng):
    p = 0.05 + 0.9 * torch.rand(5, generator=rng)
    away = torch.tensor([-0.03, -0.01, 0.01, 0.02, 0.03])  # relative to p(x)
    u = p * (1 + away)
    yield side(u.log())
    linear, square = (u - p) / p, (u - p) ** 2 / (2 * p**2)
    yield side(
        p.log() + linear - square,
        # Of Taylor's remainder, a third of the third power, at the worst place between.
        error=away.abs() ** 3 / (3 * (1 - away.abs()) ** 3),
        wrong={
            "square added": p.log() + linear + square,
            "two forgotten": p.log() + linear - 2 * square,
            "tangent alone": p.log() + linear,
            "linear term forgotten": p.log() - square,
            "linear term not divided": p.log() + (u - p) - square,
            "square divided once": p.log() + linear - (u - p) ** 2 / (2 * p),
        },
    )


@equation(
    "estimate-bias",
    r"""
    \lim_{K \to \infty} K \bigl( \ln p(x) - \mathcal{L}_K(x) \bigr)
      = \frac{\operatorname{Var}_{q_\phi(z \mid x)}[w]}{2\, p(x)^2}
    """,
)
def estimate_bias(rng):
    # z is one of two, for each of N pictures: the draws matter by how many are the
    # first.
    N = 4
    q = 0.2 + 0.6 * torch.rand(N, generator=rng)
    q = torch.stack([q, 1 - q], -1)
    w = (torch.randn(N, 2, generator=rng) - 1).exp()
    p = mean(q, w)

    def gap(K):
        """ln p(x) - L_K(x), exactly."""
        first = torch.arange(K + 1.0)[:, None]
        chance = Binomial(K, q[:, 0]).log_prob(first).softmax(0)  # against rounding
        average = (first * w[:, 0] + (K - first) * w[:, 1]) / K
        return p.log() - (chance * average.log()).sum(0)

    def extrapolated(K, f=lambda K: K * gap(K)):
        """Without the remainder of order 1 / K: one of order 1 / K^2 is left."""
        return 2 * f(2 * K) - f(K)

    K = 1000
    limit = extrapolated(2 * K)
    yield side(
        limit,
        # From K to 2 K three quarters of what is left go: thrice what stays. And
        # rounding.
        error=(limit - extrapolated(K)).abs() + 1e-9,
        wrong={
            "one draw": gap(1),
            "K forgotten": extrapolated(2 * K, gap),
            "root of K": extrapolated(2 * K, lambda K: K**0.5 * gap(K)),
            "sign": -limit,
            "K not large enough": 2 * K * gap(2 * K),
        },
    )
    spread = variance(q, w)
    yield side(
        spread / (2 * p**2),
        wrong={
            "two forgotten": spread / p**2,
            "p(x) not squared": spread / (2 * p),
            "p(x) forgotten": spread / 2,
            "second moment": mean(q, w**2) / (2 * p**2),
            "standard deviation": spread.sqrt() / (2 * p),
            "log-weights": variance(q, w.log()) / 2,
            "under the posterior": variance(q * w / p[:, None], w) / (2 * p**2),
            "draws not weighted": w.var(-1, correction=0) / (2 * p**2),
        },
    )


@equation(
    "effective-limit",
    r"""
    \lim_{K \to \infty} \frac{K}{K_{\mathrm{eff}}}
      = 1 + \frac{\operatorname{Var}_{q_\phi(z \mid x)}[w]}{p(x)^2}
    """,
)
def effective_limit(rng):
    # The error of order 1 / K is far below the standard error, since K is far above the
    # runs.
    N, runs, K = 3, 40, 20_000
    model, exact, x = guessing_model(rng, N=N)
    repeated = x.repeat(runs, 1)
    effective = importance_sampled_log_prob(
        model, repeated, K, len(repeated), chunk=1000
    )[1]
    value, se = of_draws(K / effective.reshape(runs, N))
    yield side(
        value,
        se=se,
        wrong={
            "turned round": 1 / value,
            "K forgotten": value / K,
            "root": value.sqrt(),
        },
    )
    p = exact.marginal().log_prob(x).exp()
    z, over_z = own_line(one_axis(model.encoder(x)))
    at = Densities(model, x, z)
    q, w = at.q.exp(), (at.joint - at.q).exp()
    spread = over_z(q * (w - p) ** 2)
    yield side(
        1 + spread / p**2,
        wrong={
            "one forgotten": spread / p**2,
            "p(x) not squared": 1 + spread / p,
            "second moment": 1 + over_z(q * w**2) / p**2,
            "two, as in the bias": 1 + spread / (2 * p**2),
            "standard deviation": 1 + spread.sqrt() / p,
            "subtracted": 1 - spread / p**2,
            "under the prior": 1 + over_z(at.prior.exp() * (w - p) ** 2) / p**2,
        },
    )
