"""The equations of the chapter on adversarial autoencoders."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn, trapezoid
from torch.distributions import LogNormal, Normal
from torch.nn.functional import one_hot
from torch.special import xlogy

from companion.aae import (
    AAE,
    WAE,
    GaussianPosterior,
    SemiSupervisedAAE,
    TwoHeads,
    UniversalApproximator,
    aggregated_posterior,
    fit_aae,
    fit_semi_supervised,
    gaussian_kernel,
    inverse_multiquadratic,
    mmd2,
    mmd_test,
    surgery,
    surgery_estimate,
)
from companion.data import Batches
from companion.divergences import entropy, kl, tabulate
from companion.gan import game_value, optimal_logit
from companion.nn import mlp
from companion.vae import ConditionalBernoulli, ConditionalGaussian, StandardNormal
from tests.equations import equation, side
from tests.equations.generative_adversarial_networks import both, random_table, searched
from tests.equations.variational_autoencoders import lowest, of_draws, random_weights

CHAPTER = "adversarial-autoencoders"

# --- what the checks are made of ------------------------------------------------------

LINE = torch.linspace(
    -10, 10, 4001, dtype=torch.float64
)  # all numbers that matter, for integrals
NOISE = Normal(torch.zeros((), dtype=torch.float64), 1.0)


def integral(values):
    """Over LINE, which is the last axis."""
    return trapezoid(values, LINE)


@dataclass
class Tables:
    """Examples x and codes z with all their probabilities.

    p_data(x), ``(n,)``; q(z|x), ``(n, m)``; p(z), ``(m,)``; p(x|z), ``(m, n)``.
    """

    p_data: Tensor
    q: Tensor
    prior: Tensor
    likelihood: Tensor | None = None

    @property
    def drawn(self):
        """Of an example of the data and its code, ``(n, m)``."""
        return self.p_data[:, None] * self.q

    @property
    def codes(self):
        """q(z), ``(m,)``."""
        return self.drawn.sum(0)

    @property
    def joint(self):
        """p(x, z), ``(n, m)``."""
        return self.prior * self.likelihood.T

    @property
    def evidence(self):
        """p(x), ``(n,)``."""
        return self.joint.sum(1)

    @property
    def posterior(self):
        """p(z|x), ``(n, m)``."""
        return self.joint / self.evidence[:, None]

    @property
    def elbo(self):
        """The bound of each example, ``(n,)``."""
        return (xlogy(self.q, self.joint) - xlogy(self.q, self.q)).sum(1)

    @property
    def reconstruction(self):
        """The mean of ln p(x|z)."""
        return self.mean_ln(self.likelihood.T)

    @property
    def information(self):
        """I_q(x; z)."""
        return surgery(self.p_data, self.q, self.prior).mutual_information

    def mean_ln(self, table):
        """The mean logarithm of a table, ``(n, m)``, over examples of the data and their codes."""
        return xlogy(self.drawn, table).sum()


def random_tables(rng, n=4, m=6):
    return Tables(
        random_table(rng, n),
        random_table(rng, n, m),
        random_table(rng, m),
        random_table(rng, m, n),
    )


def gaussian_codes(rng, n=4):
    """An encoder of n equally probable numbers, these numbers, and the same on LINE as tables."""
    encoder = ConditionalGaussian(nn.Identity(), 1, 1).requires_grad_(False)
    encoder.mu.weight.copy_(0.6 + 0.4 * torch.rand(1, 1, generator=rng))
    encoder.mu.bias.copy_(0.3 * torch.randn(1, generator=rng))
    encoder.log_sigma.weight.fill_(0.2)
    encoder.log_sigma.bias.copy_(-0.5 + 0.3 * torch.rand(1, generator=rng))
    x = torch.linspace(-1.5, 1.5, n)[:, None] + 0.1 * torch.randn(n, 1, generator=rng)
    q = encoder(x)
    normals = [
        Normal(mu, sigma) for mu, sigma in zip(q.mu[:, 0], q.sigma[:, 0], strict=True)
    ]
    tables = torch.stack([tabulate(normal, LINE) for normal in normals])
    return encoder, x, Tables(torch.full((n,), 1 / n), tables, tabulate(NOISE, LINE))


def with_estimate(exact, estimate):
    """A value of tables, and one that was estimated: both, and their standard errors."""
    value = torch.stack([exact, torch.tensor(estimate.mean)])
    return value, torch.tensor([0.0, estimate.standard_error])


def of_each(cases, f):
    return torch.stack([f(case) for case in cases])


# --- the averaged bound ---------------------------------------------------------------


@equation(
    "average-elbo",
    r"""
    \begin{aligned}
    \mathbb{E}_{p_\text{data}(x)} \bigl[ \mathcal{L}(x) \bigr]
      &= \mathbb{E}_{q_\phi(x, z)} \bigl[ \ln p_\theta(x \mid z) \bigr] \\
      & {} - \mathbb{E}_{p_\text{data}(x)}
          \bigl[ D_{\mathrm{KL}}(q_\phi(z \mid x) \,\|\, p(z)) \bigr]
    \end{aligned}
    """,
)
def average_elbo(rng):
    t = random_tables(rng)
    yield side(
        t.p_data @ t.elbo,
        wrong={
            "examples not weighted": t.elbo.mean(),
            "the evidence": t.p_data @ t.evidence.log(),
            "sign": -t.p_data @ t.elbo,
        },
    )
    price = t.p_data @ kl(t.q, t.prior)
    yield side(
        t.reconstruction - price,
        wrong={
            "sign of the divergence": t.reconstruction + price,
            "direction": t.reconstruction - t.p_data @ kl(t.prior.expand_as(t.q), t.q),
            "divergence not averaged by p_data": t.reconstruction
            - kl(t.q, t.prior).mean(),
            "divergence of the aggregate": t.reconstruction - kl(t.codes, t.prior),
            "reconstruction alone": t.reconstruction,
            "codes drawn from the prior": t.p_data @ t.likelihood.T.log() @ t.prior
            - price,
            "codes apart from their examples": t.p_data @ t.likelihood.T.log() @ t.codes
            - price,
            "logarithm of the mean": t.p_data @ (t.q * t.likelihood.T).sum(1).log()
            - price,
        },
    )


@equation(
    "aggregated-posterior", r"q_\phi(z) = \int q_\phi(z \mid x)\, p_\text{data}(x)\, dx"
)
def aggregate(rng):
    m, b, w = torch.randn(3, generator=rng)
    s, t = 0.6 + 0.5 * torch.rand(2, generator=rng)
    z = torch.randn(5, generator=rng)
    tables = random_tables(rng)

    def normal(spread):
        """Its density at z, and beside it what the package makes of tables."""
        of_tables = aggregated_posterior(tables.p_data, tables.q)
        return torch.cat([Normal(w * m + b, spread).log_prob(z).exp(), of_tables])

    yield side(
        normal((w**2 * s**2 + t**2).sqrt()),
        wrong={
            "the encoder's spread alone": normal(t),
            "the spread of the means alone": normal(w.abs() * s),
            "spreads added, not squares": normal(w.abs() * s + t),
        },
    )
    p, q = (
        Normal(m, s).log_prob(LINE).exp(),
        Normal(w * LINE + b, t).log_prob(z[:, None]).exp(),
    )
    right = (tables.p_data[:, None] * tables.q).sum(0)
    yield side(
        torch.cat([integral(q * p), right]),
        wrong={
            "data forgotten": torch.cat([integral(q), tables.q.sum(0)]),
            "examples not weighted": torch.cat([integral(q * p), tables.q.mean(0)]),
            "density of the data squared": torch.cat([integral(q * p**2), right]),
            "code of the mean": torch.cat(
                [Normal(w * m + b, t).log_prob(z).exp(), right]
            ),
            "logarithms averaged": torch.cat([integral(q.log() * p).exp(), right]),
        },
    )


@equation(
    "elbo-surgery",
    r"""
    \begin{aligned}
    &\mathbb{E}_{p_\text{data}(x)} \bigl[
      D_{\mathrm{KL}}(q_\phi(z \mid x) \,\|\, p(z)) \bigr] \\
    &\quad = \mathbb{E}_{q_\phi(x, z)} \Bigl[ \ln \frac{q_\phi(z \mid x)}{p(z)} \Bigr] \\
    &\quad = \mathbb{E}_{q_\phi(x, z)} \Bigl[ \ln \frac{q_\phi(z \mid x)}{q_\phi(z)}
      + \ln \frac{q_\phi(z)}{p(z)} \Bigr] \\
    &\quad = \mathbb{E}_{q_\phi(x, z)} \Bigl[
      \ln \frac{q_\phi(z \mid x)}{q_\phi(z)} \Bigr]
      + \mathbb{E}_{q_\phi(z)} \Bigl[ \ln \frac{q_\phi(z)}{p(z)} \Bigr] \\
    &\quad = I_q(x; z) + D_{\mathrm{KL}}(q_\phi(z) \,\|\, p(z))
    \end{aligned}
    """,
)
def elbo_surgery(rng):
    encoder, x, on_line = gaussian_codes(rng)
    cases = random_tables(rng), on_line
    found = surgery_estimate(encoder, StandardNormal(1), x, samples=20_000, chunk=5000)
    value, se = with_estimate(
        surgery(cases[0].p_data, cases[0].q, cases[0].prior)[0], found[0]
    )

    def average(p, q):
        return of_each(cases, lambda t: t.p_data @ kl(p(t), q(t)))

    yield side(
        value,
        se=se,
        wrong={
            "direction": average(lambda t: t.prior.expand_as(t.q), lambda t: t.q),
            "examples not weighted": of_each(cases, lambda t: kl(t.q, t.prior).mean()),
            "of the aggregate": of_each(cases, lambda t: kl(t.codes, t.prior)),
        },
    )

    def mean_ln(ratio):
        return of_each(cases, lambda t: t.mean_ln(ratio(t)))

    yield side(
        mean_ln(lambda t: t.q / t.prior),
        wrong={
            "turned round": mean_ln(lambda t: t.prior / t.q),
            "prior for encoder": mean_ln(lambda t: t.codes / t.prior),
            "no logarithm": of_each(cases, lambda t: (t.drawn * t.q / t.prior).sum()),
        },
    )
    yield side(
        mean_ln(lambda t: (t.q / t.codes) * (t.codes / t.prior)),
        wrong={
            "difference": mean_ln(lambda t: (t.q / t.codes) / (t.codes / t.prior)),
            "first turned round": mean_ln(
                lambda t: (t.codes / t.q) * (t.codes / t.prior)
            ),
            "q(z) forgotten below": mean_ln(lambda t: t.q * (t.codes / t.prior)),
        },
    )
    transmitted = mean_ln(lambda t: t.q / t.codes)

    def misfit(of):
        return of_each(cases, lambda t: (of(t) * (t.codes / t.prior).log()).sum())

    yield side(
        transmitted + misfit(lambda t: t.codes),
        wrong={
            "average under the prior": transmitted + misfit(lambda t: t.prior),
            "difference": transmitted - misfit(lambda t: t.codes),
            "codes apart from their examples": misfit(lambda t: t.codes)
            + of_each(
                cases,
                lambda t: (t.p_data[:, None] * t.codes * (t.q / t.codes).log()).sum(),
            ),
        },
    )
    cut = [surgery(t.p_data, t.q, t.prior) for t in cases]
    information = torch.stack([parts.mutual_information for parts in cut])
    marginal = torch.stack([parts.marginal_kl for parts in cut])
    yield side(
        information + marginal,
        wrong={
            "information subtracted": marginal - information,
            "divergence subtracted": information - marginal,
            "information alone": information + 0,
            "divergence alone": marginal + 0,
            "direction": information + of_each(cases, lambda t: kl(t.prior, t.codes)),
            "bits": information / math.log(2) + marginal,
        },
    )


@equation(
    "code-information",
    r"""
    I_q(x; z) = \mathbb{E}_{q_\phi(x, z)} \Bigl[
        \ln \frac{q_\phi(x, z)}{p_\text{data}(x)\, q_\phi(z)} \Bigr] = D_{\mathrm{KL}}
        \bigl( q_\phi(x, z) \,\big\|\, p_\text{data}(x)\, q_\phi(z) \bigr)
    """,
)
def code_information(rng):
    encoder, x, on_line = gaussian_codes(rng)
    cases = random_tables(rng), on_line
    found = surgery_estimate(encoder, StandardNormal(1), x, samples=20_000, chunk=5000)
    value, se = with_estimate(cases[0].information, found.mutual_information)
    yield side(
        value,
        se=se,
        wrong={
            "average divergence": of_each(cases, lambda t: t.p_data @ kl(t.q, t.prior)),
            "divergence of the aggregate": of_each(
                cases, lambda t: kl(t.codes, t.prior)
            ),
            "bits": value / math.log(2),
        },
    )

    def apart(t):
        """As if the code knew nothing of the example."""
        return t.p_data[:, None] * t.codes

    yield side(
        of_each(cases, lambda t: t.mean_ln(t.drawn / apart(t))),
        wrong={
            "turned round": of_each(cases, lambda t: t.mean_ln(apart(t) / t.drawn)),
            "p_data above alone": of_each(
                cases, lambda t: t.mean_ln(t.drawn / t.codes)
            ),
            "p_data below alone": of_each(cases, lambda t: t.mean_ln(t.q / apart(t))),
            "prior below": of_each(cases, lambda t: t.mean_ln(t.q / t.prior)),
            "drawn apart": of_each(
                cases, lambda t: xlogy(apart(t), t.q / t.codes).sum()
            ),
        },
    )

    def divergence(p, q):
        return of_each(cases, lambda t: kl(p(t).flatten(), q(t).flatten()))

    yield side(
        divergence(lambda t: t.drawn, apart),
        wrong={
            "direction": divergence(apart, lambda t: t.drawn),
            "prior for q(z)": divergence(
                lambda t: t.drawn, lambda t: t.p_data[:, None] * t.prior
            ),
        },
    )


@equation("information-bound", r"0 \le I_q(x; z) \le H(p_\text{data}) \le \ln N")
def information_bound(rng):
    N = 4
    t = random_tables(rng, N)
    own, prior = torch.eye(N)[torch.randperm(N, generator=rng)], random_table(rng, N)
    cases = [
        t,
        Tables(t.p_data, t.q[:1].expand_as(t.q), t.prior),  # whatever the example: 0
        Tables(t.p_data, own, prior),  # all is told: H
        Tables(torch.full((N,), 1 / N), own, prior),  # ln N
    ]
    information = of_each(cases, lambda t: t.information)
    yield side(0, wrong={"one": 1})
    yield side(
        information,
        wrong={
            "sign": -information,
            "bits": information / math.log(2),
            "average divergence": of_each(cases, lambda t: t.p_data @ kl(t.q, t.prior)),
        },
    )
    H = of_each(cases, lambda t: entropy(t.p_data))
    yield side(
        H,
        wrong={
            "bits": H / math.log(2),
            "of the likeliest example": of_each(cases, lambda t: -t.p_data.max().log()),
            "half": H / 2,
            "sign": -H,
        },
    )
    yield side(math.log(N), wrong={"ln(N - 1)": math.log(N - 1), "1": 1.0})


# --- the objective --------------------------------------------------------------------


def objective(t):
    """J of tables."""
    return t.reconstruction - kl(t.codes, t.prior)


@equation(
    "aae-objective",
    r"""
    \mathcal{J}(\theta, \phi) = \mathbb{E}_{q_\phi(x, z)} \bigl[
        \ln p_\theta(x \mid z) \bigr] - D_{\mathrm{KL}}(q_\phi(z) \,\|\, p(z))
    """,
)
def aae_objective(rng):
    t = random_tables(rng)
    J = t.mean_ln(t.joint / t.codes)
    yield side(
        J,
        wrong={
            "the averaged bound": t.mean_ln(t.joint / t.q),
            "posterior for joint": t.mean_ln(t.posterior / t.codes),
            "sign": -J,
        },
    )
    misfit = surgery(t.p_data, t.q, t.prior).marginal_kl
    yield side(
        t.reconstruction - misfit,
        wrong={
            "sign of the divergence": t.reconstruction + misfit,
            "direction": t.reconstruction - kl(t.prior, t.codes),
            "averaged divergence": t.reconstruction - t.p_data @ kl(t.q, t.prior),
            "codes not weighted by p_data": t.reconstruction - kl(t.q.mean(0), t.prior),
            "reconstruction alone": t.reconstruction,
            "codes drawn from the prior": t.p_data @ t.likelihood.T.log() @ t.prior
            - misfit,
            "logarithm of the mean": t.p_data @ (t.q * t.likelihood.T).sum(1).log()
            - misfit,
        },
    )


@equation(
    "aae-gap",
    r"""
    \mathcal{J}(\theta, \phi)
      = \mathbb{E}_{p_\text{data}(x)} \bigl[ \mathcal{L}(x) \bigr] + I_q(x; z)
    """,
)
def aae_gap(rng):
    t = random_tables(rng)
    yield side(
        objective(t),
        wrong={
            "averaged divergence": t.reconstruction - t.p_data @ kl(t.q, t.prior),
            "direction": t.reconstruction - kl(t.prior, t.codes),
            "sign of the divergence": t.reconstruction + kl(t.codes, t.prior),
        },
    )
    bound = t.p_data @ t.elbo
    yield side(
        bound + t.information,
        wrong={
            "information subtracted": bound - t.information,
            "information forgotten": bound,
            "entropy for information": bound + entropy(t.p_data),
            "divergence for information": bound + kl(t.codes, t.prior),
            "evidence for bound": t.p_data @ t.evidence.log() + t.information,
            "examples not weighted": t.elbo.mean() + t.information,
            "bits": bound + t.information / math.log(2),
        },
    )


@equation(
    "aae-not-a-bound",
    r"""
    \begin{aligned}
    \mathcal{J} - \mathbb{E}_{p_\text{data}(x)} \bigl[ \ln p_\theta(x) \bigr]
      &= I_q(x; z) - \mathbb{E}_{p_\text{data}(x)} \bigl[ \ln p_\theta(x)
          - \mathcal{L}(x) \bigr] \\
      &= I_q(x; z) - \mathbb{E}_{p_\text{data}(x)}
          \bigl[ D_{\mathrm{KL}}(q_\phi(z \mid x) \,\|\, p_\theta(z \mid x)) \bigr] \\
      &\le I_q(x; z)
    \end{aligned}
    """,
)
def aae_not_a_bound(rng):
    N = 4
    t = random_tables(rng)
    uniform, own = (
        torch.full((N,), 1 / N),
        torch.eye(N)[torch.randperm(N, generator=rng)],
    )
    cases = [
        t,
        Tables(
            t.p_data, t.posterior, t.prior, t.likelihood
        ),  # here the last line is an equality
        Tables(
            t.p_data, t.q[:1].expand_as(t.q), t.prior, t.likelihood
        ),  # below the evidence
        Tables(uniform, own, uniform, own.T),  # all learnt by heart: above it by ln N
    ]
    evidence = of_each(cases, lambda t: t.p_data @ t.evidence.log())
    J = of_each(cases, objective)
    yield side(
        J - evidence,
        wrong={
            "sign": evidence - J,
            "a bound": (J - evidence).clamp(max=0),
            "never below": (J - evidence).clamp(min=0),
            "averaged bound for J": of_each(cases, lambda t: t.p_data @ t.elbo)
            - evidence,
        },
    )
    information = of_each(cases, lambda t: t.information)
    gap = of_each(cases, lambda t: t.p_data @ (t.evidence.log() - t.elbo))
    yield side(
        information - gap,
        wrong={
            "gap added": information + gap,
            "information forgotten": -gap,
            "information subtracted": -information - gap,
            "examples not weighted": information
            - of_each(cases, lambda t: (t.evidence.log() - t.elbo).mean()),
        },
    )

    def divergence(p, q):
        return of_each(cases, lambda t: t.p_data @ kl(p(t), q(t)))

    yield side(
        information - divergence(lambda t: t.q, lambda t: t.posterior),
        wrong={
            "sign": information + divergence(lambda t: t.q, lambda t: t.posterior),
            "direction": information - divergence(lambda t: t.posterior, lambda t: t.q),
            "divergence from the prior": information
            - divergence(lambda t: t.q, lambda t: t.prior.expand_as(t.q)),
            "divergence forgotten": information + 0,
        },
    )
    yield side(
        of_each(cases, lambda t: xlogy(t.drawn, t.q).sum() + entropy(t.codes)),
        wrong={
            "zero": torch.zeros(len(cases)),
            "half": information / 2,
            "the divergence of the codes": of_each(
                cases, lambda t: -kl(t.codes, t.prior)
            ),
        },
    )


# --- the game of codes ----------------------------------------------------------------


@equation(
    "kl-by-critic",
    r"""
    D_{\mathrm{KL}}(q_\phi(z) \,\|\, p(z))
      = -\mathbb{E}_{q_\phi(z)} \bigl[ a^*(z) \bigr]
    """,
)
def kl_by_critic(rng):
    encoder, x, on_line = gaussian_codes(rng)
    cases = random_tables(rng), on_line
    found = surgery_estimate(encoder, StandardNormal(1), x, samples=20_000, chunk=5000)
    of_tables = surgery(cases[0].p_data, cases[0].q, cases[0].prior)
    value, se = with_estimate(of_tables.marginal_kl, found.marginal_kl)
    yield side(
        value,
        se=se,
        wrong={
            "direction": of_each(cases, lambda t: kl(t.prior, t.codes)),
            "averaged divergence": of_each(
                cases, lambda t: t.p_data @ kl(t.q, t.prior)
            ),
        },
    )

    def best(t):
        return optimal_logit(t.prior.log(), t.codes.log())

    yield side(
        of_each(cases, lambda t: -t.codes @ best(t)),
        wrong={
            "sign": of_each(cases, lambda t: t.codes @ best(t)),
            "average under the prior": of_each(cases, lambda t: -t.prior @ best(t)),
            "ln D for its logit": of_each(
                cases, lambda t: -t.codes @ best(t).sigmoid().log()
            ),
            "ln(1 - D) for the logit": of_each(
                cases, lambda t: t.codes @ (-best(t)).sigmoid().log()
            ),
            "value of the game": of_each(
                cases, lambda t: game_value(best(t), t.prior, t.codes)
            ),
            "half": of_each(cases, lambda t: -t.codes @ best(t) / 2),
        },
    )


@equation("critic-ratio", r"a^*(z) = \ln p(z) - \ln q_\phi(z)")
def critic_ratio(rng):
    t = random_tables(rng)
    codes = aggregated_posterior(t.p_data, t.q)
    best, found = searched(t.prior, codes), optimal_logit(t.prior.log(), codes.log())
    yield side(
        torch.stack([best, found]),
        error=1e-5,
        wrong={
            "codes real, prior fake": both(searched(codes, t.prior)),
            "probability for logit": both(best.sigmoid()),
        },
    )
    p, q = t.prior, t.codes
    yield side(
        both(p.log() - q.log()),
        wrong={
            "turned round": both(q.log() - p.log()),
            "sum": both(p.log() + q.log()),
            "no logarithm": both(p / q),
            "share of the prior": both((p / (p + q)).log()),
            "codes not weighted by p_data": both(p.log() - t.q.mean(0).log()),
            "the prior alone": both(p.log()),
        },
    )


@equation(
    "kl-gradient",
    r"""
    \nabla_\phi D_{\mathrm{KL}}(q_\phi(z) \,\|\, p(z))
      = -\mathbb{E}_{p_\text{data}(x)\, p(\epsilon)} \Bigl[
        \nabla_\phi\, a^*(z_\phi(x, \epsilon)) \Bigr]
    """,
)
def kl_gradient(rng):
    p_data, x = random_table(rng, 3), torch.tensor([-1.0, 0.2, 1.3])
    low, high = torch.tensor([[0.6, 0.1, 0.1, -0.7], [1.0, 0.5, 0.3, -0.3]])
    phi = low + (high - low) * torch.rand(4, generator=rng)

    def normals(phi):
        """q(z|x) of the three examples."""
        return Normal(phi[0] * x + phi[1], (phi[2] * x + phi[3]).exp())

    def log_q(z, phi):
        return (normals(phi).log_prob(z[..., None]) + p_data.log()).logsumexp(-1)

    def gradient(value):
        moving = phi.clone().requires_grad_()
        return torch.autograd.grad(value(moving), moving)[0]

    width = LINE[1] - LINE[0]

    def table(phi):
        return log_q(LINE, phi).exp() * width

    prior = tabulate(NOISE, LINE)
    yield side(
        gradient(lambda phi: kl(table(phi), prior)),
        error=1e-8,
        wrong={
            "direction": gradient(lambda phi: kl(prior, table(phi))),
            "averaged divergence": gradient(
                lambda phi: (
                    p_data
                    @ kl(normals(phi).log_prob(LINE[:, None]).exp().T * width, prior)
                )
            ),
        },
    )
    weight = NOISE.log_prob(LINE)[:, None].exp()  # of each noise

    def fixed_critic(z):
        return optimal_logit(NOISE.log_prob(z), log_q(z, phi))

    def by_draws(a, weights=p_data, noise=LINE[:, None]):
        def mean(phi):
            q = normals(phi)
            return weights @ integral((weight * a(q.mean + q.stddev * noise)).T)

        return gradient(mean)

    right = -by_draws(fixed_critic)
    yield side(
        right,
        wrong={
            "sign": -right,
            "half": right / 2,
            "prior alone": -by_draws(NOISE.log_prob),
            "codes alone": by_draws(lambda z: log_q(z, phi)),
            "examples not weighted": -by_draws(fixed_critic, torch.full((3,), 1 / 3)),
            "no noise": -by_draws(fixed_critic, noise=0.0),
            "ln D for its logit": -by_draws(lambda z: fixed_critic(z).sigmoid().log()),
            "a critic of each example": -by_draws(
                lambda z: NOISE.log_prob(z) - normals(phi).log_prob(z)
            ),
            "the critic moves, the draws do not": gradient(
                lambda moving: table(phi) @ (log_q(LINE, moving) - NOISE.log_prob(LINE))
            ),
        },
    )


class InFloat64(nn.Module):
    """A network that is handed the float32 of mini-batches."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x.double())


class Critic(nn.Module):
    """Of codes, and of what else there is: a logit for each."""

    def __init__(self, inputs):
        super().__init__()
        self.body = nn.Sequential(mlp(inputs, 5), nn.Linear(5, 1))

    def forward(self, *parts):
        return self.body(torch.cat(parts, -1))[:, 0]


def pictures(rng, N, D=5):
    return (torch.rand(N, D, generator=rng) < 0.5).double()


def small_decoder(inputs, D=5):
    return ConditionalBernoulli(mlp(inputs, 4), inputs=4, features=D)


def small_aae(rng, prior, H=2, labels=0):
    """Five pixels, and an encoder that draws nothing."""
    encoder = InFloat64(nn.Linear(5, H))
    aae = AAE(encoder, small_decoder(H), Critic(H + labels), prior)
    return random_weights(aae, rng).requires_grad_()


def standing_step(fit, model, x, *args, **options):
    """What a step of length zero on all examples logs; its slopes stay behind in the weights."""
    batches = Batches(x, len(x))
    return fit(
        model, batches, *args, epochs=1, learning_rate=0.0, device="cpu", **options
    )[0]


def with_slopes(loss, *modules):
    """A loss, and its derivatives by the weights."""
    weights = [weight for module in modules for weight in module.parameters()]
    slopes = torch.autograd.grad(
        loss, weights, retain_graph=True, materialize_grads=True
    )
    return torch.cat([loss.detach()[None], *(slope.flatten() for slope in slopes)])


def left_behind(loss, *modules):
    """A loss that was logged, and the derivatives that the training has left in the weights."""
    slopes = [
        weight.grad.flatten() for module in modules for weight in module.parameters()
    ]
    return torch.cat([torch.tensor([loss]), *slopes])


LOGGED = 1e-5  # a history keeps float32


@equation(
    "aae-losses",
    r"""
    \begin{aligned}
    L_D &= -\mathbb{E}_{p(z)} \bigl[ \ln D(z) \bigr] - \mathbb{E}_{q_\phi(z)} \bigl[ \ln
        \bigl( 1 - D(z) \bigr) \bigr] \\
    L_{E,P} &= -\mathbb{E}_{q_\phi(x, z)} \bigl[ \ln p_\theta(x \mid z) \bigr] -
        \lambda\, \mathbb{E}_{q_\phi(z)} \bigl[ \ln D(z) \bigr]
    \end{aligned}
    """,
)
def aae_losses(rng):
    N, lam = 6, 0.5 + 2 * torch.rand((), generator=rng).item()
    x, drawn = pictures(rng, N), torch.randn(N, 2, generator=rng)
    aae = small_aae(rng, lambda count: drawn[:count])
    critic, described = [aae.critic], [aae.encoder, aae.decoder]
    row = standing_step(fit_aae, aae, x, weight=lam)
    z = aae.encoder(x)
    real, fake = aae.critic(drawn).sigmoid(), aae.critic(z).sigmoid()
    log_p_x = aae.decoder(z).log_prob(x)

    def judged(loss):
        return with_slopes(loss, *critic)

    yield side(left_behind(row["L_D"], *critic), error=LOGGED)
    passed, caught = -real.log().mean(), -(1 - fake).log().mean()
    yield side(
        judged(passed + caught),
        wrong={
            "real and fake exchanged": judged(
                -fake.log().mean() - (1 - real).log().mean()
            ),
            "sign": judged(-passed - caught),
            "D without 1 -": judged(passed - fake.log().mean()),
            "the prior alone": judged(passed),
            "the codes alone": judged(caught),
            "sum for mean": judged(N * (passed + caught)),
            "half": judged((passed + caught) / 2),
            "logarithm of the mean": judged(
                -real.mean().log() - (1 - fake).mean().log()
            ),
        },
    )

    def described_by(loss):
        return with_slopes(loss, *described)

    total = lam * row["L_G"] - row["reconstruction"]
    yield side(left_behind(total, *described), error=LOGGED)
    reconstruction, passed = log_p_x.mean(), fake.log().mean()
    yield side(
        described_by(-reconstruction - lam * passed),
        wrong={
            "sign of the reconstruction": described_by(reconstruction - lam * passed),
            "sign of the game": described_by(-reconstruction + lam * passed),
            "told to look like codes": described_by(
                -reconstruction - lam * (1 - fake).log().mean()
            ),
            "saturating": described_by(-reconstruction + lam * (1 - fake).log().mean()),
            "lambda forgotten": described_by(-reconstruction - passed),
            "lambda of the reconstruction": described_by(
                -lam * reconstruction - passed
            ),
            "draws of the prior for codes": described_by(
                -reconstruction - lam * real.log().mean()
            ),
            "no gradient through the critic": described_by(
                -reconstruction - lam * passed.detach()
            ),
            "sum over the batch": described_by(-N * reconstruction - lam * passed),
            "mean over pixels": described_by(-reconstruction / 5 - lam * passed),
        },
    )


# --- encoders -------------------------------------------------------------------------


class Skewed(nn.Module):
    """Of x and two noises: x + e^(s eta_1), and x times the sign of eta_2."""

    def __init__(self, s):
        super().__init__()
        self.s = s

    def forward(self, joined):
        x, first, second = joined.split(1, -1)
        return torch.cat([x + (self.s * first).exp(), x * second.sign()], -1)


@equation(
    "universal-posterior",
    r"""
    \mathbb{E}_{q_\phi(z \mid x)} \bigl[ f(z) \bigr]
      = \mathbb{E}_{p(\eta)} \bigl[ f(e_\phi(x, \eta)) \bigr]
    """,
)
def universal_posterior(rng):
    n, s = 50_000, 0.3 + 0.2 * torch.rand((), generator=rng).item()
    x = torch.tensor([[0.6], [-1.2]]) + 0.2 * torch.rand(2, 1, generator=rng)
    normal = random_weights(ConditionalGaussian(nn.Identity(), 1, 1), rng, 0.5)
    # The first entry has a log-normal density, the second is x or -x, and they are
    # independent.
    u = torch.linspace(1e-9, 30, 60_001)
    density = LogNormal(0.0, s).log_prob(u).exp()
    of_both = ((2 * x + u).cos() + u.cos()) / 2
    q = normal(x)
    first, spread = x[:, 0] + math.exp(s**2 / 2), (-q.variance[:, 0] / 2).exp()
    yield side(
        torch.stack(
            [first, trapezoid(density * of_both, u), q.mean[:, 0].cos() * spread]
        ),
        wrong={
            "f of the mean code": torch.stack([first, first.cos(), q.mean[:, 0].cos()])
        },
    )

    def means(z, of_normal):
        """Of z_1, of cos(z_1 + z_2), and of the cosine of a code that is normal."""
        return of_draws(
            torch.stack([z[..., 0], z.sum(-1).cos(), of_normal[..., 0].cos()], 1)
        )

    body, x_n = Skewed(s), x.expand(n, 2, 1)
    mean, se = means(
        UniversalApproximator(body, noise=2)(x_n), GaussianPosterior(normal)(x_n)
    )
    eta = torch.randn(n, 2, 2, generator=rng)

    def with_noise(eta):
        return means(body(torch.cat([x_n, eta], -1)), q.mean + q.stddev * eta[..., :1])[
            0
        ]

    yield side(
        mean,
        se=se,
        wrong={
            "noise forgotten": with_noise(0 * eta),
            "twice the noise": with_noise(2 * eta),
            "half the noise": with_noise(eta / 2),
            "noise from 0 to 1": with_noise(torch.rand(n, 2, 2, generator=rng)),
            "one noise for both entries": with_noise(eta[..., :1].expand_as(eta)),
        },
    )


# --- kernels --------------------------------------------------------------------------


def mean_kernel(h, means, variances):
    """The mean of the Gaussian kernel over two independent normals, ``(H,)`` and a number each."""
    total = h**2 + sum(variances)
    squares = (means[0] - means[1]).square().sum()
    return (h**2 / total) ** (len(means[0]) / 2) * torch.exp(-squares / (2 * total))


@equation(
    "mmd",
    r"""
    \begin{aligned}
    \mathrm{MMD}^2(q, p) = {}& \mathbb{E}_{z, z' \sim q} \bigl[ k(z, z') \bigr]
      + \mathbb{E}_{z, z' \sim p} \bigl[ k(z, z') \bigr] \\
    &- 2\, \mathbb{E}_{z \sim q,\, z' \sim p} \bigl[ k(z, z') \bigr]
    \end{aligned}
    """,
)
def mmd(rng):
    runs, N, M, H = 1000, 5, 4, 2
    h, s, t = (0.7 + 0.6 * torch.rand(3, generator=rng)).tolist()
    mu = torch.randn(H, generator=rng)
    nu = mu + torch.tensor([1.5, -1.0])
    a = mu + s * torch.randn(runs, N, H, generator=rng)
    b = nu + t * torch.randn(runs, M, H, generator=rng)
    found = [mmd2(*sets, gaussian_kernel(h)) for sets in zip(a, b, strict=True)]
    mean, se = of_draws(torch.stack(found))
    yield side(mean, se=se, wrong={"root": mean.sqrt(), "sign": -mean})
    qq = mean_kernel(h, (mu, mu), (s**2, s**2))
    pp = mean_kernel(h, (nu, nu), (t**2, t**2))
    qp = mean_kernel(h, (mu, nu), (s**2, t**2))
    yield side(
        qq + pp - 2 * qp,
        wrong={
            "two forgotten": qq + pp - qp,
            "sum": qq + pp + 2 * qp,
            "one of the three": qq - qp,
            "a point and itself counted": qq
            + pp
            - 2 * qp
            + (1 - qq) / N
            + (1 - pp) / M,
            "kernel of the means": 2 - 2 * mean_kernel(h, (mu, nu), (0, 0)),
        },
    )


@equation(
    "mmd-witness",
    r"""
    \mathrm{MMD}(q, p) = \max_{\lVert f \rVert \le 1} \Bigl(
      \mathbb{E}_{q(z)} \bigl[ f(z) \bigr] - \mathbb{E}_{p(z)} \bigl[ f(z) \bigr] \Bigr)
    """,
)
def mmd_witness(rng):
    m, h = 5, 1.0
    places = 1.5 * torch.randn(m, 2, generator=rng)
    q, p = random_table(rng, 2, m)
    k = gaussian_kernel(h)
    K = k((places[:, None] - places).square().sum(-1))
    squared = q @ K @ q + p @ K @ p - 2 * q @ K @ p
    yield side(
        squared.sqrt(),
        wrong={"squared": squared, "two forgotten": (squared + q @ K @ p).sqrt()},
    )

    # A function is f = K alpha, and its squared norm alpha^T K alpha: with K = L L^T it
    # is L beta,
    # and its norm the length of beta.
    def highest(score):
        """The largest score of a vector of length 1, uphill from a random one."""
        start = torch.randn(m, generator=rng)
        (best,) = lowest(lambda v: -score(v / v.norm()), start)
        return score(best / best.norm())

    L = torch.linalg.cholesky(K)
    yield side(
        highest(lambda beta: (q - p) @ L @ beta),
        error=1e-6,
        wrong={
            "norm of the values": highest(lambda f: (q - p) @ f),
            "norm of the coefficients": highest(lambda alpha: (q - p) @ K @ alpha),
            "sum for difference": highest(lambda beta: (q + p) @ L @ beta),
            "norm up to two": 2 * highest(lambda beta: (q - p) @ L @ beta),
            "values up to one": (q - p).abs().sum(),
        },
    )


def kernel_twice(kernel, z, other):
    """Of each pair: as the package has it, and by what is left of the MMD of two pairs of twins."""
    of_squares = kernel((z - other).square().sum(-1))
    twins = zip(z, other, strict=True)
    misfits = [mmd2(a.expand(2, -1), b.expand(2, -1), kernel) for a, b in twins]
    return torch.stack([of_squares, 1 - torch.stack(misfits) / 2])


@equation("gaussian-kernel", r"k(z, z') = e^{-\lVert z - z' \rVert^2 / 2 h^2}")
def normal_kernel(rng):
    H, h = 3, 0.6 + torch.rand((), generator=rng).item()
    z, other = torch.randn(2, 5, H, generator=rng)
    yield side(
        kernel_twice(gaussian_kernel(h), z, other),
        error=1e-12,
        wrong={"bandwidth squared": kernel_twice(gaussian_kernel(h**2), z, other)},
    )
    squares = (z - other).square().sum(-1)

    def formula(squares=squares, below=2 * h**2, sign=-1):
        return both((sign * squares / below).exp())

    yield side(
        formula(),
        wrong={
            "two forgotten": formula(below=h**2),
            "h for its square": formula(below=2 * h),
            "h forgotten": formula(below=2),
            "distance for its square": formula(squares.sqrt()),
            "sign": formula(sign=1),
            "mean over the entries": formula(squares / H),
            "normalised": formula() / (2 * math.pi * h**2) ** (H / 2),
        },
    )


@equation(
    "mmd-estimate",
    r"""
    \begin{aligned}
    \widehat{\mathrm{MMD}}^2
      &= \frac{1}{N (N - 1)} \sum_{n \ne n'} k(z_n, z_{n'}) + \frac{1}{M (M - 1)}
          \sum_{m \ne m'} k(\tilde z_m, \tilde z_{m'}) \\
      & {} - \frac{2}{N M} \sum_{n, m} k(z_n, \tilde z_m)
    \end{aligned}
    """,
)
def mmd_estimate(rng):
    N, M, h = 6, 4, 0.6 + torch.rand((), generator=rng).item()
    z, other = torch.randn(N, 2, generator=rng), 0.5 + torch.randn(M, 2, generator=rng)
    kernel = gaussian_kernel(h)
    found = mmd2(z, other, kernel)
    yield side(
        torch.stack(
            [found, torch.tensor(mmd_test(z, other, kernel, permutations=1).mmd2)]
        ),
        wrong={"root": both(found.abs().sqrt()), "sign": both(-found)},
    )

    def k(z, other):
        return math.exp(-(math.dist(z.tolist(), other.tolist()) ** 2) / (2 * h**2))

    def within(points):
        return sum(k(a, b) for a, b in itertools.permutations(points, 2))

    of_z, of_other = within(z), within(other)
    between = sum(k(a, b) for a, b in itertools.product(z, other))

    def total(z_z, other_other, z_other=2 * between / (N * M)):
        return both(torch.tensor(z_z + other_other - z_other))

    z_z, other_other = of_z / (N * (N - 1)), of_other / (M * (M - 1))
    yield side(
        total(z_z, other_other),
        wrong={
            "a point and itself counted": total(
                (of_z + N) / N**2, (of_other + M) / M**2
            ),
            "counted, and N (N - 1)": total(
                z_z + 1 / (N - 1), other_other + 1 / (M - 1)
            ),
            "N squared": total(of_z / N**2, of_other / M**2),
            "each pair once": total(z_z / 2, other_other / 2),
            "two forgotten": total(z_z, other_other, between / (N * M)),
            "sum": total(z_z, other_other, -2 * between / (N * M)),
            "N and M exchanged": total(of_z / (M * (M - 1)), of_other / (N * (N - 1))),
            "between divided by N (N - 1)": total(
                z_z, other_other, 2 * between / (N * (N - 1))
            ),
        },
    )


@equation(
    "permutation-test",
    r"""
    p = \frac{1 + \#\bigl\{ b : \widehat{\mathrm{MMD}}^2_b
      \ge \widehat{\mathrm{MMD}}^2 \bigr\}}{1 + B}
    """,
)
def permutation_test(rng):
    # Of 35 or 70 divisions: some are the given one, some that with the sets exchanged.
    B = 60
    kernel = gaussian_kernel(1.0)
    pairs = [
        (torch.randn(N, 2, generator=rng), gap + torch.randn(4, 2, generator=rng))
        for N, gap in [(3, 0.0), (3, 0.8), (4, 0.3), (4, 0.6), (4, 1.0), (4, 1.5)]
    ]
    seeds = torch.randint(1000, (len(pairs),), generator=rng).tolist()
    tests = [
        mmd_test(*pair, kernel, permutations=B, seed=seed)
        for pair, seed in zip(pairs, seeds, strict=True)
    ]
    p = torch.tensor([test.p_value for test in tests])
    yield side(p, wrong={"the other tail": 1 - p})

    def excess(a, b, seed):
        """By how much each random division has a larger discrepancy than the given."""
        points, generator = torch.cat([a, b]), torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(points), generator=generator) for _ in range(B)]
        divided = [
            mmd2(*points[order].split([len(a), len(b)]), kernel) for order in orders
        ]
        return torch.stack(divided) - mmd2(a, b, kernel)

    above = torch.stack(
        [excess(*pair, seed) for pair, seed in zip(pairs, seeds, strict=True)]
    )
    count = (above >= -1e-12).sum(1)  # equal, but for rounding
    yield side(
        (1 + count) / (1 + B),
        wrong={
            "given division not counted": count / B,
            "not counted above": count / (1 + B),
            "not counted below": (1 + count) / B,
            "larger ones alone": (1 + (above > 1e-12).sum(1)) / (1 + B),
            "smaller ones": (1 + (above <= 1e-12).sum(1)) / (1 + B),
        },
    )


# --- labels ---------------------------------------------------------------------------


@equation(
    "conditional-value",
    r"""
    \begin{aligned}
    V(E, D) = {}& \mathbb{E}_{p_\text{data}(y)\, p(z \mid y)} \bigl[
      \ln D(z, y) \bigr] \\
    & + \mathbb{E}_{p_\text{data}(x, y)\, q_\phi(z \mid x)} \bigl[
      \ln \bigl( 1 - D(z, y) \bigr) \bigr]
    \end{aligned}
    """,
)
def conditional_value(rng):
    # As tables of n examples, C labels and m codes.
    n, C, m = 4, 3, 5
    p_xy = random_table(rng, n * C).reshape(n, C)
    prior, q = random_table(rng, C, m), random_table(rng, n, m)
    p_y, p_x, logits = p_xy.sum(0), p_xy.sum(1), torch.randn(C, m, generator=rng)
    real, fake = p_y[:, None] * prior, p_xy.T @ q

    # And as a step of training: a point of the prior for each label, an encoder without
    # noise.
    N, points = 6, torch.randn(C, 2, generator=rng)
    x, y = pictures(rng, N), one_hot(torch.randint(C, (N,), generator=rng), C).double()
    aae = small_aae(rng, lambda count, y: y @ points, labels=C)
    row = standing_step(fit_aae, aae, x, y)

    def value(logits, real, fake):
        of_tables = game_value(logits.flatten(), real.flatten(), fake.flatten())
        return torch.cat([of_tables[None], -left_behind(row["L_D"], aae.critic)])

    yield side(
        value(logits, real, fake),
        error=LOGGED,
        wrong={
            "real and fake exchanged": value(logits, fake, real),
            "sign": -value(logits, real, fake),
        },
    )
    z, D = aae.encoder(x).detach(), logits.sigmoid()

    def formula(first, second, real_at=(points, y), fake_at=(z, y), sign=1):
        """Of means over labels and codes; of codes and labels of the step's critic."""
        (codes, labels), (z, y_of_z) = real_at, fake_at
        won = aae.critic(labels @ codes, labels).sigmoid().log()
        caught = (1 - aae.critic(z, y_of_z).sigmoid()).log()
        by_step = with_slopes(won.mean() + sign * caught.mean(), aae.critic)
        return torch.cat([(first + sign * second)[None], by_step])

    won = torch.einsum("y,yz,yz->", p_y, prior, D.log())
    caught = torch.einsum("xy,xz,yz->", p_xy, q, (1 - D).log())
    others = y.roll(1, dims=1)  # the wrong labels
    yield side(
        formula(won, caught),
        wrong={
            "difference": formula(won, caught, sign=-1),
            "codes with other labels": formula(won, caught, fake_at=(z, others)),
            "draws of other labels": formula(
                won, caught, real_at=(points.roll(1, 0), y)
            ),
            "label and example independent": formula(
                won, torch.einsum("x,y,xz,yz->", p_x, p_y, q, (1 - D).log())
            ),
            "labels not weighted": formula((prior * D.log()).sum(1).mean(), caught),
            "D without 1 -": formula(won, torch.einsum("xy,xz,yz->", p_xy, q, D.log())),
        },
    )


@equation(
    "semi-supervised-loss",
    r"""
    \begin{aligned}
    L_{E,P}
      &= -\mathbb{E} \bigl[ \ln p_\theta(x \mid \hat y, z) \bigr]
          - \lambda\, \mathbb{E} \bigl[
          \ln D_y(\hat y) + \ln D_z(z) \bigr] \\
      & {} - \kappa\, \mathbb{E}_\text{labelled} \bigl[ \ln q_\phi(y \mid x) \bigr]
    \end{aligned}
    """,
)
def semi_supervised_loss(rng):
    N, N_labelled, K, H = 6, 4, 3, 2
    lam, kappa = (0.5 + 2 * torch.rand(2, generator=rng)).tolist()
    x, x_labelled = pictures(rng, N), pictures(rng, N_labelled)
    labels = torch.randint(K, (N_labelled,), generator=rng)
    encoder = InFloat64(TwoHeads(mlp(5, 4), 4, K, H))
    aae = SemiSupervisedAAE(encoder, small_decoder(K + H), Critic(K), Critic(H), K)
    random_weights(aae, rng).requires_grad_()
    row = standing_step(
        fit_semi_supervised,
        aae,
        x,
        Batches(x_labelled, N_labelled),
        labels,
        weight=lam,
        label_weight=kappa,
    )
    described = [aae.encoder, aae.decoder]
    yield side(
        left_behind(
            lam * row["L_G"] - row["reconstruction"] + kappa * row["L_y"], *described
        ),
        error=LOGGED,
    )
    logits, z = aae.encoder(x)
    y = logits.exp() / logits.exp().sum(1, keepdim=True)
    reconstruction = aae.decoder(torch.cat([y, z], 1)).log_prob(x).mean()
    D_y, D_z = aae.critic_y(y).sigmoid(), aae.critic_z(z).sigmoid()
    game_y, game_z = D_y.log().mean(), D_z.log().mean()
    guessed = aae.encoder(x_labelled)[0].softmax(1)

    def known(labels, mean=lambda p: p.log().mean()):
        return mean(guessed[range(N_labelled), labels])

    right = known(labels)

    def loss(
        reconstruction=reconstruction,
        game=game_y + game_z,
        known=right,
        lam=lam,
        kappa=kappa,
    ):
        return with_slopes(-reconstruction - lam * game - kappa * known, *described)

    sure = one_hot(logits.argmax(1), K).double()
    yield side(
        loss(),
        wrong={
            "sign of the reconstruction": loss(-reconstruction),
            "sign of the game": loss(lam=-lam),
            "sign of the labels": loss(kappa=-kappa),
            "lambda and kappa exchanged": loss(lam=kappa, kappa=lam),
            "lambda forgotten": loss(lam=1),
            "kappa forgotten": loss(kappa=1),
            "labels forgotten": loss(kappa=0),
            "no critic of kinds": loss(game=game_z),
            "no critic of styles": loss(game=game_y),
            "lambda of the kinds alone": loss(game=game_y + game_z / lam),
            "mean of the critics": loss(game=(game_y + game_z) / 2),
            "told to look like codes": loss(
                game=(1 - D_y).log().mean() + (1 - D_z).log().mean()
            ),
            "other labels": loss(known=known((labels + 1) % K)),
            "sum over the labelled": loss(known=N_labelled * right),
            "probability without logarithm": loss(known=known(labels, torch.mean)),
            "decoder is shown the likeliest kind": loss(
                aae.decoder(torch.cat([sure, z], 1)).log_prob(x).mean()
            ),
            "decoder is shown no kind": loss(
                aae.decoder(torch.cat([0 * y, z], 1)).log_prob(x).mean()
            ),
            "decoder is shown logits": loss(
                aae.decoder(torch.cat([logits, z], 1)).log_prob(x).mean()
            ),
        },
    )


# --- a kernel in place of the critic --------------------------------------------------


@equation(
    "wae-objective",
    r"""
    \mathcal{J}_\text{WAE}(\theta, \phi) = \mathbb{E}_{q_\phi(x, z)} \bigl[
        \ln p_\theta(x \mid z) \bigr] - \lambda\, \mathrm{MMD}^2(q_\phi(z), p(z))
    """,
)
def wae_objective(rng):
    runs, N, H = 2000, 4, 1
    lam, h = (1.5 + torch.rand(2, generator=rng)).tolist()
    # Codes are normal if x is: q(z) is known, and so is the mean over batches.
    encoder, decoder = nn.Linear(1, H), ConditionalGaussian(nn.Identity(), H, 1)
    prior = Normal(torch.zeros(H), 1.0)
    wae = WAE(
        encoder, decoder, lambda count: prior.sample((count,)), gaussian_kernel(h), lam
    )
    random_weights(wae, rng, 0.5)
    decoder.log_sigma.weight.zero_()
    encoder.bias.add_(1.5)  # away from the prior
    x = torch.randn(runs, N, 1, generator=rng)
    mean, se = of_draws(torch.stack([wae(batch).mean() for batch in x]))
    yield side(mean, se=se, wrong={"sum over the batch": N * mean, "sign": -mean})
    w, b = encoder.weight[0, 0], encoder.bias
    sigma = decoder.log_sigma.bias.exp()[0]
    slope, offset = decoder.mu.weight[0, 0], decoder.mu.bias[0]
    error = (1 - slope * w) ** 2 + (slope * b[0] + offset) ** 2  # squared, on average
    reconstruction = -error / (2 * sigma**2) - sigma.log() - math.log(2 * math.pi) / 2

    def squared(h=h, factor=2, variance=w**2):
        q, p = (b, variance), (torch.zeros(H), 1.0)

        def mean(one, other):
            return mean_kernel(h, (one[0], other[0]), (one[1], other[1]))

        return mean(q, q) + mean(p, p) - factor * mean(q, p)

    yield side(
        reconstruction - lam * squared(),
        wrong={
            "sign of the discrepancy": reconstruction + lam * squared(),
            "lambda forgotten": reconstruction - squared(),
            "discrepancy forgotten": reconstruction,
            "root": reconstruction - lam * squared().sqrt(),
            "two forgotten": reconstruction - lam * squared(factor=1),
            "a point and itself counted": reconstruction
            - lam * (squared() + 2 / N - squared(factor=0) / N),
            "sign of the reconstruction": -reconstruction - lam * squared(),
            "lambda of the reconstruction": lam * reconstruction - squared(),
        },
    )


@equation("inverse-multiquadratic", r"k(z, z') = \frac{c}{c + \lVert z - z' \rVert^2}")
def rational_kernel(rng):
    H, c = 3, 1 + 3 * torch.rand((), generator=rng).item()
    z, other = torch.randn(2, 5, H, generator=rng)
    yield side(
        kernel_twice(inverse_multiquadratic(c), z, other),
        error=1e-12,
        wrong={"scale squared": kernel_twice(inverse_multiquadratic(c**2), z, other)},
    )
    squares = (z - other).square().sum(-1)
    yield side(
        both(c / (c + squares)),
        wrong={
            "scale above forgotten": both(1 / (c + squares)),
            "scale below forgotten": both(c / (1 + squares)),
            "scale forgotten": both(1 / (1 + squares)),
            "root": both((c / (c + squares)).sqrt()),
            "distance for its square": both(c / (c + squares.sqrt())),
            "scale squared": both(c**2 / (c**2 + squares)),
            "turned round": both((c + squares) / c),
            "difference below": both(c / (c - squares)),
            "Gaussian": both((-squares / c).exp()),
        },
    )
