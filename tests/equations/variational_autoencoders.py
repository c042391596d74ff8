"""The equations of the chapter on variational autoencoders."""

import itertools
import math
from functools import partial

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import nn, trapezoid
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from companion.checks import all_binary, frequencies
from companion.divergences import kl, tabulate
from companion.evaluation import active_units, importance_sampled_nll
from companion.nn import mlp
from companion.vae import (
    PPCA,
    VAE,
    Chain,
    ConditionalBernoulli,
    ConditionalGaussian,
    DiagonalGaussian,
    LinearGaussian,
    StandardNormal,
    elbo,
    iwae,
    linear_vae,
    ppca,
)
from tests.equations import equation, side

CHAPTER = "variational-autoencoders"

# --- what the checks are made of ------------------------------------------------------

LINE = torch.linspace(
    -15, 15, 6001, dtype=torch.float64
)  # all z that matter, for integrals


def random_weights(module, rng, scale=1.0):
    """The module with every parameter drawn from N(0, scale^2)."""
    for parameter in module.requires_grad_(False).parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=rng))
    return module


def lowest(objective, *start):
    """Where the objective is lowest, downhill from the start, by L-BFGS."""
    x = [tensor.clone().requires_grad_() for tensor in start]
    optimizer = torch.optim.LBFGS(
        x,
        max_iter=2000,
        tolerance_grad=1e-9,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        value = objective(*x)
        value.backward()
        return value

    optimizer.step(closure)
    return [tensor.detach() for tensor in x]


def binary_vae(rng, D=3, H=1):
    """A VAE of D pixels with small networks and random parameters."""
    encoder = ConditionalGaussian(mlp(D, 4), inputs=4, features=H)
    decoder = ConditionalBernoulli(mlp(H, 4), inputs=4, features=D)
    return random_weights(VAE(encoder, decoder, StandardNormal(H)), rng)


def solved(model):
    """The exact solution of a linear VAE: its p(x) and p(z|x)."""
    decoder = model.decoder
    return PPCA(decoder.mu.bias, decoder.mu.weight, (2 * decoder.log_sigma[0]).exp())


def linear_model(rng, D=3, N=4, H=1, **options):
    """A linear VAE with random parameters, its exact solution, and N examples that it draws."""
    model = random_weights(linear_vae(D, H, **options), rng, 0.5)
    return model, solved(model), model.sample((N,))


def guessing_model(rng, **options):
    """As linear_model, with one latent, and an encoder that is wrong, but not far off.

    It is wider than the posterior, so that the weights of its draws vary little.
    """
    model, exact, x = linear_model(rng, **options)
    D = x.shape[1]
    at = torch.cat([torch.zeros(1, D), torch.eye(D)])  # a linear map is known by these
    truth = exact.posterior(at)
    mean, sigma = truth.mean[:, 0], truth.stddev[0, 0]
    shift, wider = torch.rand(2, generator=rng)
    model.encoder.mu.weight.copy_((mean[1:] - mean[0])[None])
    model.encoder.mu.bias.copy_(mean[0] + (0.2 + 0.3 * shift) * sigma)
    model.encoder.log_sigma.copy_(sigma.log() + 0.1 + 0.3 * wider)
    return model, exact, x


def linear_reconstruction(model, exact, x, q):
    """The mean of ln p(x|z) under a diagonal normal q, for a linear decoder: z's spread costs."""
    spread = q.variance @ exact.W.square().sum(0)
    return model.decoder(q.mean).log_prob(x) - spread / (2 * exact.variance)


same_draws_follow = partial(
    torch.random.fork_rng, devices=[]
)  # what is drawn in it is drawn again


class Densities:
    """The densities of a VAE with one latent at points z, shape ``(n,)`` or ``(n, N)``.

    Logarithms, shape ``(n, N)`` or ``(n, 1)``: of q(z|x), p(z), p(x|z) and p(x, z).
    """

    def __init__(self, model, x, z):
        z = z.reshape(len(z), -1, 1)
        self.q = model.encoder(x).log_prob(z)
        self.prior = model.prior().log_prob(z)
        self.decoder = model.decoder(z).log_prob(x)
        self.joint = self.decoder + self.prior


def integral(values):
    """Over LINE, which is the first axis."""
    return trapezoid(values, LINE, dim=0)


def own_line(q):
    """LINE moved and stretched to a normal q: points ``(n, *batch)`` and the integral over them."""
    t = LINE.reshape(-1, *[1] * q.mean.dim())
    return q.mean + q.stddev * t, lambda values: q.stddev * integral(values)


def nodes(q, n=64):
    """Gauss-Hermite: points of a normal q, ``(n, *batch)``, and a function that averages there."""
    t, weight = (torch.from_numpy(a) for a in hermegauss(n))
    weight = weight / weight.sum()
    t, weight = (a.reshape(-1, *[1] * q.mean.dim()) for a in (t, weight))
    return q.mean + q.stddev * t, lambda values: (weight * values).sum(0)


def of_draws(values):
    """Mean and standard error over the first axis."""
    return values.mean(0), values.std(0) / len(values) ** 0.5


def one_axis(q):
    """The only entry of a diagonal normal, as a normal on the line."""
    return Normal(q.mean[..., 0], q.stddev[..., 0])


def gradients(f, n, *phi):
    """The gradients of n values ``f(*phi)``, each by its own copy of phi, ``(n, entries)``."""
    copies = [parameter.repeat(n, 1).requires_grad_() for parameter in phi]
    return torch.cat(torch.autograd.grad(f(*copies).sum(), copies), 1)


def random_normal(rng, *shape):
    """Means and standard deviations, none of them extreme."""
    return (
        torch.randn(shape, generator=rng),
        (torch.rand(shape, generator=rng) * 0.8 - 0.4).exp(),
    )


def random_covariance(rng, D):
    A = torch.randn(D, D, generator=rng)
    return A @ A.T / D + 0.3 * torch.eye(D)


# --- squeezing a picture through a few numbers ----------------------------------------


@equation(
    "autoencoder-loss",
    r"""
    \mathcal{E} = \frac{1}{N} \sum_{n=1}^{N}
      \bigl\| x^{(n)} - d\bigl(e(x^{(n)})\bigr) \bigr\|^2
    """,
)
def autoencoder_loss(rng):
    N, D, H = 6, 5, 2
    e, d = random_weights(mlp(D, 4, H), rng), random_weights(mlp(H, 4, D), rng)
    x = torch.randn(N, D, generator=rng)
    yield side(
        nn.functional.mse_loss(d(e(x)), x) * D
    )  # torch takes the mean over pixels, too
    errors = [x[n] - d(e(x[n])) for n in range(N)]
    yield side(
        sum(error @ error for error in errors) / N,
        wrong={
            "square left out": sum(error.norm() for error in errors) / N,
            "sum for mean": sum(error @ error for error in errors),
            "mean over pixels, too": sum(error @ error for error in errors) / (N * D),
            "decoder before encoder": ((x[:, :H] - e(d(x[:, :H]))) ** 2).sum() / N,
        },
    )


@equation(
    "pca-error",
    r"\min_{e,\, d \text{ affine}} \mathcal{E} = \sum_{i=H+1}^{D} \lambda_i",
)
def pca_error(rng):
    N, D, H = 30, 5, 2
    x = 1 + torch.randn(N, D, generator=rng) @ torch.randn(D, D, generator=rng)

    def loss(e, d, b):
        return ((x - x @ e @ d - b) ** 2).sum() / N

    def start(*shape):
        return torch.randn(shape, generator=rng) / 3

    best = lowest(loss, start(D, H), start(H, D), start(D))
    without = lowest(lambda e, d: loss(e, d, 0), start(D, H), start(H, D))
    yield side(loss(*best), error=1e-6, wrong={"no fixed picture": loss(*without, 0)})
    values = torch.linalg.eigvalsh(x.T.cov(correction=0)).flip(0)
    yield side(
        values[H:].sum(),
        wrong={
            "the largest": values[:H].sum(),
            "one too many": values[H - 1 :].sum(),
            "one too few": values[H + 1 :].sum(),
            "standard deviations": values[H:].sqrt().sum(),
            "mean for sum": values[H:].mean(),
            "covariance divided by N - 1": values[H:].sum() * N / (N - 1),
        },
    )


# --- a hidden cause -------------------------------------------------------------------


@equation(
    "latent-variable-model",
    r"p_\theta(x) = \int p_\theta(x \mid z)\, p(z)\, dz",
)
def latent_variable_model(rng):
    n = 200_000
    model, x = binary_vae(rng), all_binary(3)
    at = Densities(model, x, LINE)
    p = integral(at.joint.exp())
    yield side(
        frequencies(model.sample((n,))),  # a cause, then a picture
        se=(p * (1 - p) / n).sqrt(),
    )
    yield side(
        integral(at.decoder.exp() * at.prior.exp()),
        wrong={
            "prior forgotten": integral(at.decoder.exp()),
            "encoder for prior": integral((at.decoder + at.q).exp()),
            "the mean cause alone": model.decoder(torch.zeros(1)).log_prob(x).exp(),
            "mean of the logarithms": integral(at.decoder * at.prior.exp()).exp(),
        },
    )


@equation(
    "prior-sampling",
    r"""
    p_\theta(x) \approx \frac{1}{K} \sum_{k=1}^{K} p_\theta\bigl(x \mid z^{(k)}\bigr),
      \quad z^{(k)} \sim p(z)
    """,
)
def prior_sampling(rng):
    K = 50_000
    model, exact, x = guessing_model(rng)
    yield side(exact.marginal().log_prob(x).exp())
    z = torch.randn(K, 1, 1, generator=rng)
    p = model.decoder(z).log_prob(x).exp()
    mean, se = of_draws(p)
    guessed = model.encoder(x).sample((K,))
    yield side(
        mean,
        se=se,
        wrong={
            "sum for mean": p.sum(0),
            "drawn from the encoder": model.decoder(guessed).log_prob(x).exp().mean(0),
            "mean of the logarithms": p.log().mean(0).exp(),
            "mean of the causes": model.decoder(z.mean(0)).log_prob(x).exp(),
            "density of the prior once more": (
                p * model.prior().log_prob(z).exp()
            ).mean(0),
        },
    )


@equation(
    "posterior",
    r"p_\theta(z \mid x) = \frac{p_\theta(x \mid z)\, p(z)}{p_\theta(x)}",
)
def posterior(rng):
    model, exact, x = guessing_model(rng)
    z = torch.randn(5, generator=rng)
    yield side(exact.posterior(x).log_prob(z[:, None, None]).exp())
    at, everywhere = Densities(model, x, z), Densities(model, x, LINE)
    evidence = integral(everywhere.joint.exp())
    yield side(
        at.decoder.exp() * at.prior.exp() / evidence,
        wrong={
            "not divided": at.joint.exp(),
            "prior forgotten": at.decoder.exp() / evidence,
            "prior forgotten below": at.joint.exp()
            / integral(everywhere.decoder.exp()),
            "divided by the prior": at.decoder.exp() / at.prior.exp(),
            "the encoder": at.q.exp(),
        },
    )


@equation(
    "gaussian-encoder",
    r"""
    q_\phi(z \mid x)
      = \mathcal{N}\bigl(z;\ \mu_\phi(x),\ \operatorname{diag} \sigma_\phi^2(x)\bigr)
    """,
)
def gaussian_encoder(rng):
    D, H = 4, 3
    encoder = random_weights(
        ConditionalGaussian(mlp(D, 5), inputs=5, features=H), rng, 0.5
    )
    x, z = torch.randn(2, D, generator=rng), torch.randn(2, H, generator=rng)
    yield side(encoder(x).log_prob(z).exp())
    h = encoder.body(x)
    mu, log_sigma = encoder.mu(h), encoder.log_sigma(h)

    def normal(mu, variance):
        return MultivariateNormal(mu, torch.diag_embed(variance)).log_prob(z).exp()

    yield side(
        normal(mu, (2 * log_sigma).exp()),
        wrong={
            "log-variance for log-sigma": normal(mu, log_sigma.exp()),
            "precision for variance": normal(mu, (-2 * log_sigma).exp()),
            "one sigma for all entries": normal(
                mu, (2 * log_sigma.mean(-1, True)).expand(2, H).exp()
            ),
            "prior": normal(torch.zeros(H), torch.ones(H)),
        },
    )


# --- the evidence lower bound ---------------------------------------------------------


@equation(
    "elbo-jensen",
    r"""
    \begin{aligned}
    \ln p_\theta(x)
      &= \ln \int p_\theta(x, z)\, dz \\
      &= \ln \int q_\phi(z \mid x)\, \frac{p_\theta(x, z)}{q_\phi(z \mid x)}\, dz \\
      &= \ln \mathbb{E}_{q_\phi(z \mid x)} \biggl[
         \frac{p_\theta(x, z)}{q_\phi(z \mid x)} \biggr] \\
      &\ge \mathbb{E}_{q_\phi(z \mid x)} \biggl[
         \ln \frac{p_\theta(x, z)}{q_\phi(z \mid x)} \biggr]
    \end{aligned}
    """,
)
def elbo_jensen(rng):
    n = 100_000
    model, exact, x = guessing_model(rng)
    at = Densities(model, x, LINE)
    yield side(exact.marginal().log_prob(x))
    yield side(
        integral(at.joint.exp()).log(),
        wrong={
            "prior forgotten": integral(at.decoder.exp()).log(),
            "mean of the logarithms": integral(at.prior.exp() * at.decoder),
        },
    )
    z, over_z = own_line(one_axis(model.encoder(x)))
    at = Densities(model, x, z)
    q, w = at.q.exp(), (at.joint - at.q).exp()
    yield side(
        over_z(q * w).log(),
        wrong={
            "weighted with the prior": over_z(at.prior.exp() * w).log(),
            "divided by q, not multiplied": over_z(w / q).log(),
            "fraction turned round": over_z(q / w).log(),
        },
    )
    log_w = model.log_w(x, n)
    mean, se = of_draws(log_w.exp())
    draws = exact.posterior(x).sample((n,))[..., 0]
    by_posterior = Densities(model, x, draws)
    yield side(
        mean.log(),
        se=se / mean,
        wrong={
            "drawn from the posterior": (by_posterior.joint - by_posterior.q)
            .exp()
            .mean(0)
            .log(),
            "reconstruction alone": Densities(
                model, x, model.encoder(x).sample((n,))[..., 0]
            )
            .decoder.exp()
            .mean(0)
            .log(),
            "sum for mean": log_w.logsumexp(0),
        },
    )
    z, mean = nodes(one_axis(model.encoder(x)))
    by_encoder = Densities(model, x, z)
    z, mean_by_posterior = nodes(one_axis(exact.posterior(x)))
    by_posterior = Densities(model, x, z)
    yield side(
        mean(by_encoder.joint - by_encoder.q),
        wrong={
            "no logarithm is moved": mean(
                (by_encoder.joint - by_encoder.q).exp()
            ).log(),
            "reconstruction alone": mean(by_encoder.decoder),
            "divergence with the wrong sign": mean(
                by_encoder.decoder - by_encoder.prior + by_encoder.q
            ),
            "average under the posterior": mean_by_posterior(
                by_posterior.joint - by_posterior.q
            ),
        },
    )


@equation("jensen", r"\ln \mathbb{E}[w] \ge \mathbb{E}[\ln w]")
def jensen(rng):
    chance = (2 * torch.randn(3, 5, generator=rng)).softmax(-1)
    w = torch.randn(3, 5, generator=rng).exp()
    w[0] = w[0, 0]  # it does not vary: equality
    mean = (chance * w).sum(-1)
    yield side(mean.log(), wrong={"logarithm inside": (chance * w.log()).sum(-1)})
    yield side(
        sum(chance[:, k] * w[:, k].log() for k in range(5)),
        wrong={
            "logarithm outside": mean.log() + 0,
            "a function that curves upwards": (chance * w**2).sum(-1).log() / 2,
            "the tangent at one": mean - 1,
            "not weighted": w.log().sum(-1),
        },
    )


@equation(
    "elbo-decomposition",
    r"""
    \begin{aligned}
    \ln p_\theta(x)
      &= \mathbb{E}_{q_\phi(z \mid x)} \bigl[ \ln p_\theta(x) \bigr] \\
      &= \mathbb{E}_{q_\phi(z \mid x)} \biggl[
         \ln \frac{p_\theta(x, z)}{p_\theta(z \mid x)} \biggr] \\
      &= \mathbb{E}_{q_\phi(z \mid x)} \biggl[
         \ln \frac{p_\theta(x, z)\, q_\phi(z \mid x)}
                  {q_\phi(z \mid x)\, p_\theta(z \mid x)}
         \biggr] \\
      &= \mathbb{E}_{q_\phi(z \mid x)} \biggl[
         \ln \frac{p_\theta(x, z)}{q_\phi(z \mid x)} \biggr]
       + \mathbb{E}_{q_\phi(z \mid x)} \biggl[
         \ln \frac{q_\phi(z \mid x)}{p_\theta(z \mid x)} \biggr] \\
      &= \mathbb{E}_{q_\phi(z \mid x)} \biggl[
         \ln \frac{p_\theta(x, z)}{q_\phi(z \mid x)} \biggr]
       + D_{\mathrm{KL}}\bigl( q_\phi(z \mid x) \,\|\, p_\theta(z \mid x) \bigr)
    \end{aligned}
    """,
)
def elbo_decomposition(rng):
    n = 100_000
    model, exact, x = guessing_model(rng)
    q, truth = one_axis(model.encoder(x)), one_axis(exact.posterior(x))
    prior = Normal(torch.zeros(()), torch.ones(()))
    log_p = exact.marginal().log_prob(x)
    yield side(
        log_p,
        wrong={
            "of all examples together": log_p.sum(),
            "not its logarithm": log_p.exp(),
        },
    )

    at = Densities(model, x, LINE)
    log_evidence = integral(at.joint.exp()).log()
    yield side(
        integral(at.q.exp() * log_evidence),
        wrong={
            "summed over z without q": integral(torch.ones_like(at.q) * log_evidence),
            "p(x | z) for p(x)": integral(at.q.exp() * at.decoder),
        },
    )
    # Everywhere below, `at` holds logarithms of densities, and so a fraction is a
    # difference.
    bayes = at.joint - log_evidence
    yield side(
        integral(at.q.exp() * (at.joint - truth.log_prob(LINE[:, None]))),
        wrong={
            "p(x | z) for p(z | x)": integral(at.q.exp() * (at.joint - at.decoder)),
            "prior for posterior": integral(at.q.exp() * (at.joint - at.prior)),
            "decoder for joint": integral(at.q.exp() * (at.decoder - bayes)),
            "fraction turned round": integral(at.q.exp() * (bayes - at.joint)),
        },
    )
    z, mean = nodes(q)
    at = Densities(model, x, z)
    bayes = at.joint - log_evidence
    yield side(
        mean((at.joint + at.q) - (at.q + bayes)),
        wrong={
            "prior for q below": mean((at.joint + at.q) - (at.prior + bayes)),
            "joint for q below": mean((at.joint + at.q) - (at.joint + bayes)),
            "posterior for q below": mean((at.joint + at.q) - (bayes + bayes)),
            "divided twice": mean(at.joint - (at.q + bayes)),
        },
    )

    draws = q.sample((n,))
    bound, se = of_draws(model.log_w(x, n))
    gap, se_gap = of_draws(q.log_prob(draws) - truth.log_prob(draws))
    by_truth = truth.sample((n,))
    yield side(
        bound + gap,
        se=(se**2 + se_gap**2).sqrt(),
        wrong={
            "second fraction turned round": bound - gap,
            "joint q(x, z) for q(z | x) in the second": bound + gap + log_p,
            "q forgotten in the second": bound - truth.log_prob(draws).mean(0),
            "prior for posterior": bound
            + (q.log_prob(draws) - prior.log_prob(draws)).mean(0),
            "p(x | z) for p(z | x)": bound
            + (q.log_prob(draws) - Densities(model, x, draws).decoder).mean(0),
            "second mean under the posterior": bound
            + (q.log_prob(by_truth) - truth.log_prob(by_truth)).mean(0),
        },
    )

    price, gap = kl_divergence(q, prior), kl_divergence(q, truth)
    bound = linear_reconstruction(model, exact, x, model.encoder(x)) - price
    of_mean_code = model.decoder(model.encoder(x).mean).log_prob(x)
    yield side(
        bound + gap,
        wrong={
            "direction": bound + kl_divergence(truth, q),
            "sign": bound - gap,
            "divergence from the prior": bound + price,
            "price with the wrong sign": bound + 2 * price + gap,
            "price in the wrong direction": bound
            + price
            - kl_divergence(prior, q)
            + gap,
            "mean code, not a drawn one": of_mean_code - price + gap,
            "gap forgotten": bound,
        },
    )


@equation(
    "elbo-terms",
    r"""
    \begin{aligned}
    \mathbb{E}_{q_\phi(z \mid x)} \biggl[
      \ln \frac{p_\theta(x, z)}{q_\phi(z \mid x)} \biggr]
      &= \mathbb{E}_{q_\phi(z \mid x)} \biggl[
         \ln \frac{p_\theta(x \mid z)\, p(z)}{q_\phi(z \mid x)} \biggr] \\
      &= \mathbb{E}_{q_\phi(z \mid x)} \bigl[ \ln p_\theta(x \mid z) \bigr]
       - \mathbb{E}_{q_\phi(z \mid x)} \biggl[
           \ln \frac{q_\phi(z \mid x)}{p(z)} \biggr] \\
      &= \mathbb{E}_{q_\phi(z \mid x)} \bigl[ \ln p_\theta(x \mid z) \bigr]
       - D_{\mathrm{KL}}\bigl( q_\phi(z \mid x) \,\|\, p(z) \bigr)
    \end{aligned}
    """,
)
def elbo_terms(rng):
    n = 50_000
    model, x = binary_vae(rng), all_binary(3)
    q, prior = model.encoder(x), model.prior()
    mean, se = of_draws(model.log_w(x, n))
    yield side(
        mean,
        se=se,
        wrong={"mean before the logarithm": model.log_w(x, n).exp().mean(0).log()},
    )

    z, over_z = own_line(one_axis(q))
    at = Densities(model, x, z)

    def under_q(values):
        return over_z(at.q.exp() * values)

    yield side(
        under_q(at.decoder + at.prior - at.q),
        wrong={
            "p(z | x) for p(x | z)": under_q(
                at.joint
                - integral(Densities(model, x, LINE).joint.exp()).log()
                + at.prior
                - at.q
            ),
            "q above, prior below": under_q(at.decoder - at.prior + at.q),
            "prior forgotten": under_q(at.decoder - at.q),
            "q forgotten": under_q(at.joint),
        },
    )
    # The same densities written out.
    black = model.decoder(z[..., None]).mean
    ln_p_x = (x * black.log() + (1 - x) * (1 - black).log()).sum(-1)
    mu, sigma = q.mean[:, 0], q.stddev[:, 0]
    ratio = z**2 / 2 - (z - mu) ** 2 / (2 * sigma**2) - sigma.log()
    everywhere = Densities(model, x, LINE)
    by_prior = integral(everywhere.prior.exp() * everywhere.decoder)
    yield side(
        under_q(ln_p_x) - under_q(ratio),
        wrong={
            "no logarithm of the first": under_q(ln_p_x.exp()) - under_q(ratio),
            "logarithm of the mean": under_q(ln_p_x.exp()).log() - under_q(ratio),
            "sign of the second": under_q(ln_p_x) + under_q(ratio),
            "first mean under the prior": by_prior - under_q(ratio),
            "log-variance for log-sigma": under_q(ln_p_x)
            - under_q(ratio - sigma.log()),
        },
    )
    each = x.expand(n, *x.shape)
    reconstruction, price = model.reconstruction_and_kl(each)
    price = price.sum(-1)[0]
    mean, se = of_draws(reconstruction)
    turned = kl_divergence(prior, q)
    yield side(
        mean - price,
        se=se,
        wrong={
            "no logarithm of the first": reconstruction.exp().mean(0) - price,
            "sign of the divergence": mean + price,
            "direction": mean - turned,
            "divergence forgotten": mean,
            "mean code, not a drawn one": model.decoder(q.mean).log_prob(x) - price,
            "twice the price": mean - 2 * price,
        },
    )


# --- the divergence of normal distributions -------------------------------------------


def square_points(normal):
    """Points ``(2 D, D)`` with a normal's mean and covariance, two on each axis: for squares."""
    steps = (
        math.sqrt(len(normal.mean)) * torch.linalg.cholesky(normal.covariance_matrix).T
    )
    return torch.cat([normal.mean + steps, normal.mean - steps])


def tabulated_kl(p, q):
    """The integral of p ln p/q on a fine grid, one by one."""
    points = torch.linspace(-14, 14, 10_001)
    pairs = zip(
        *(parameter for d in (p, q) for parameter in (d.loc, d.scale)), strict=True
    )
    return torch.stack(
        [
            kl(tabulate(Normal(a, s), points), tabulate(Normal(b, t), points))
            for a, s, b, t in pairs
        ]
    )


@equation(
    "kl-standard-normal",
    r"""
    \begin{aligned}
    D_{\mathrm{KL}}\bigl( \mathcal{N}(\mu, \sigma^2) \,\|\, \mathcal{N}(0, 1) \bigr)
      &= \mathbb{E}\bigl[ \ln \mathcal{N}(z; \mu, \sigma^2)
          - \ln \mathcal{N}(z; 0, 1) \bigr] \\
      &= \mathbb{E}\biggl[ -\ln \sigma - \frac{(z - \mu)^2}{2 \sigma^2}
          + \frac{z^2}{2} \biggr] \\
      &= -\ln \sigma - \frac{\sigma^2}{2 \sigma^2} + \frac{\mu^2 + \sigma^2}{2} \\
      &= \tfrac12 \bigl( \mu^2 + \sigma^2 - 1 \bigr) - \ln \sigma
    \end{aligned}
    """,
)
def kl_standard_normal(rng):
    mu, sigma = random_normal(rng, 4)
    q, p = Normal(mu, sigma), Normal(torch.zeros(4), torch.ones(4))
    yield side(
        kl_divergence(q, p),
        wrong={
            "direction": kl_divergence(p, q),
            "sigma for variance": kl_divergence(Normal(mu, sigma.sqrt()), p),
        },
    )
    z, average = nodes(q)
    mean = tabulated_kl(q, p)
    yield side(
        mean,
        error=1e-8,
        wrong={
            "terms exchanged": -mean,
            "mean under the other": -tabulated_kl(p, q),
            "no logarithms": average(q.log_prob(z).exp() - p.log_prob(z).exp()),
        },
    )
    own, theirs = (z - mu) ** 2 / (2 * sigma**2), z**2 / 2
    yield side(
        average(-sigma.log() - own + theirs),
        wrong={
            "sign of the first square": average(-sigma.log() + own + theirs),
            "sign of the second square": average(-sigma.log() - own - theirs),
            "ln 2 pi left over": average(-sigma.log() - own + theirs)
            - math.log(2 * math.pi) / 2,
            "sigma for its square": average(-sigma.log() - own * sigma + theirs),
            "log-variance for log-sigma": average(-2 * sigma.log() - own + theirs),
        },
    )
    yield side(
        -sigma.log() - sigma**2 / (2 * sigma**2) + (mu**2 + sigma**2) / 2,
        wrong={
            "mean of z^2 without mu": -sigma.log() - 1 / 2 + sigma**2 / 2,
            "mean of z^2 without sigma": -sigma.log() - 1 / 2 + mu**2 / 2,
            "sigma for its square": -sigma.log() - 1 / 2 + (mu**2 + sigma) / 2,
        },
    )
    log_sigma = sigma.log()
    formula = (mu**2 + (2 * log_sigma).exp() - 1) / 2 - log_sigma
    yield side(
        formula,
        wrong={
            "half missing": 2 * formula + log_sigma,
            "half of the logarithm, too": formula + log_sigma / 2,
            "log-variance for log-sigma": formula - log_sigma,
            "sign of the logarithm": formula + 2 * log_sigma,
            "one not subtracted": formula + 1 / 2,
        },
    )


@equation(
    "kl-normals",
    r"""
    D_{\mathrm{KL}}\bigl(
      \mathcal{N}(\mu_1, \sigma_1^2) \,\|\, \mathcal{N}(\mu_2, \sigma_2^2) \bigr)
      = \frac{(\mu_1 - \mu_2)^2 + \sigma_1^2}{2 \sigma_2^2} - \frac12
      - \ln \frac{\sigma_1}{\sigma_2}
    """,
)
def kl_normals(rng):
    (mu_1, s_1), (mu_2, s_2) = random_normal(rng, 4), random_normal(rng, 4)
    p, q = Normal(mu_1, s_1), Normal(mu_2, s_2)
    one = DiagonalGaussian(mu_1[:, None], s_1.log()[:, None])
    two = DiagonalGaussian(mu_2[:, None], s_2.log()[:, None])
    yield side(
        torch.stack(
            [tabulated_kl(p, q), kl_divergence(one, two)]
        ),  # the latter is the package's
        error=1e-8,
        wrong={"direction": torch.stack([tabulated_kl(q, p), kl_divergence(two, one)])},
    )
    square, log_ratio = (mu_1 - mu_2) ** 2, (s_1 / s_2).log()

    def formula(square=square, own=s_1**2, scale=s_2**2, log_ratio=log_ratio, half=0.5):
        return ((square + own) / (2 * scale) - half - log_ratio).expand(2, -1)

    yield side(
        formula(),
        wrong={
            "ratio turned round": formula(log_ratio=-log_ratio),
            "log-variances": formula(log_ratio=2 * log_ratio),
            "sigma_1 for its square": formula(own=s_1),
            "sigma_2 for its square": formula(scale=s_2),
            "half missing": formula(scale=s_2**2 / 2),
            "one subtracted": formula(half=1.0),
            "means not squared": formula(square=mu_1 - mu_2),
            "the first one's scale below": formula(scale=s_1**2),
        },
    )


@equation(
    "kl-diagonal",
    r"""
    D_{\mathrm{KL}}\bigl( q_\phi(z \mid x) \,\|\, p(z) \bigr)
      = \sum_{j=1}^{H} \Bigl( \tfrac12 \bigl( \mu_j^2 + \sigma_j^2 - 1 \bigr)
          - \ln \sigma_j \Bigr)
    """,
)
def kl_diagonal(rng):
    D, H = 3, 4
    model = binary_vae(rng, D, H)
    for output in (
        model.encoder.mu,
        model.encoder.log_sigma,
    ):  # moderate means and spreads
        output.weight.mul_(0.3)
    x = all_binary(D)
    _, price = model.reconstruction_and_kl(x)
    q, prior = model.encoder(x), model.prior()
    yield side(price.sum(-1), wrong={"direction": kl_divergence(prior, q)})
    h = model.encoder.body(x)
    mu, log_sigma = model.encoder.mu(h), model.encoder.log_sigma(h)

    def terms(sigma, log_sigma=log_sigma):
        return [
            (mu[:, j] ** 2 + sigma[:, j] ** 2 - 1) / 2 - log_sigma[:, j]
            for j in range(H)
        ]

    right = sum(terms(log_sigma.exp()))
    yield side(
        right,
        wrong={
            "mean for sum": right / H,
            "product for sum": math.prod(terms(log_sigma.exp())),
            "log-variance read as log-sigma": sum(
                terms((log_sigma / 2).exp(), log_sigma / 2)
            ),
            "logarithm of the variance": sum(terms(log_sigma.exp(), 2 * log_sigma)),
            "sigma for its square": sum(terms((log_sigma / 2).exp())),
            "sign of the logarithm": sum(terms(log_sigma.exp(), -log_sigma)),
            "one subtracted only once": right + (H - 1) / 2,
        },
    )


@equation(
    "quadratic-form",
    r"""
    \begin{aligned}
    \mathbb{E}_1 \bigl[ (z - \mu_2)^\top \Sigma_2^{-1} (z - \mu_2) \bigr]
      &= \mathbb{E}_1 \bigl[ \operatorname{tr} \bigl(
         \Sigma_2^{-1} (z - \mu_2) (z - \mu_2)^\top \bigr) \bigr] \\
      &= \operatorname{tr} \bigl(
         \Sigma_2^{-1} \bigl( \Sigma_1 + \delta \delta^\top \bigr) \bigr) \\
      &= \operatorname{tr} \bigl( \Sigma_2^{-1} \Sigma_1 \bigr)
          + \delta^\top \Sigma_2^{-1} \delta
    \end{aligned}
    """,
)
def quadratic_form(rng):
    D, n = 3, 200_000
    mu_1, mu_2 = torch.randn(2, D, generator=rng)
    S_1, S_2 = random_covariance(rng, D), random_covariance(rng, D)
    first, second = MultivariateNormal(mu_1, S_1), MultivariateNormal(mu_2, S_2)

    def form(z):  # torch's density of the second, without its constant
        return 2 * (second.log_prob(mu_2) - second.log_prob(z))

    mean, se = of_draws(form(first.sample((n,))))
    yield side(
        mean,
        se=se,
        wrong={
            "drawn from the second": form(second.sample((n,))).mean(),
            "at the mean alone": form(mu_1),
            "half of it": mean / 2,
        },
    )
    z = square_points(first)
    outer = torch.einsum("ni,nj->nij", z - mu_2, z - mu_2)
    inverse = torch.linalg.inv(S_2)

    def trace(matrices):
        return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)

    yield side(
        trace(inverse @ outer).mean(0),
        wrong={
            "covariance not inverted": trace(S_2 @ outer).mean(0),
            "sum of all entries for trace": (inverse @ outer).sum((-2, -1)).mean(0),
            "trace of each factor": (trace(inverse) * trace(outer)).mean(0),
            "about the first mean": trace(inverse @ (outer - outer.mean(0) + S_1)).mean(
                0
            ),
        },
    )
    delta = mu_1 - mu_2
    both = S_1 + torch.outer(delta, delta)
    yield side(
        torch.linalg.solve(S_2, both).trace(),
        wrong={
            "shift forgotten": torch.linalg.solve(S_2, S_1).trace(),
            "shift subtracted": torch.linalg.solve(
                S_2, S_1 - torch.outer(delta, delta)
            ).trace(),
            "shift not squared": torch.linalg.solve(S_2, S_1 + delta.diag()).trace(),
            "covariances exchanged": torch.linalg.solve(both, S_2).trace(),
        },
    )
    variances, axes = torch.linalg.eigh(S_2)
    along = (
        axes.T @ delta
    )  # in the axes of the second, the inverse divides by its variances
    spread = (axes.T @ S_1 @ axes).diagonal()
    yield side(
        (spread / variances).sum() + (along**2 / variances).sum(),
        wrong={
            "product of the traces": spread.sum() * (1 / variances).sum()
            + (along**2 / variances).sum(),
            "sign of delta's term": (spread / variances).sum()
            - (along**2 / variances).sum(),
            "delta's term not divided": (spread / variances).sum() + delta @ delta,
            "delta's term by the first": (spread / variances).sum()
            + delta @ torch.linalg.solve(S_1, delta),
        },
    )


@equation(
    "kl-gaussians",
    r"""
    \begin{aligned}
    &D_{\mathrm{KL}}\bigl(
      \mathcal{N}(\mu_1, \Sigma_1) \,\|\, \mathcal{N}(\mu_2, \Sigma_2) \bigr) \\
      &\quad = \tfrac12 \Bigl[ \ln |\Sigma_2|
         + \mathbb{E}_1 \bigl[ (z - \mu_2)^\top \Sigma_2^{-1} (z - \mu_2) \bigr]
         - \ln |\Sigma_1| - H \Bigr] \\
      &\quad = \tfrac12 \Bigl[ \operatorname{tr} \bigl( \Sigma_2^{-1} \Sigma_1 \bigr)
         + \delta^\top \Sigma_2^{-1} \delta - H +
             \ln \frac{|\Sigma_2|}{|\Sigma_1|} \Bigr]
    \end{aligned}
    """,
)
def kl_gaussians(rng):
    H = 3
    mu_1, mu_2 = torch.randn(2, H, generator=rng)
    S_1, S_2 = random_covariance(rng, H), random_covariance(rng, H)
    first, second = MultivariateNormal(mu_1, S_1), MultivariateNormal(mu_2, S_2)
    yield side(
        kl_divergence(first, second),
        wrong={"direction": kl_divergence(second, first)},
    )

    def form(z, normal=second):
        return (
            ((z - normal.mean) @ normal.precision_matrix * (z - normal.mean))
            .sum(-1)
            .mean()
        )

    z, ratio = square_points(first), torch.logdet(S_2) - torch.logdet(S_1)
    yield side(
        (ratio + form(z) - H) / 2,
        wrong={
            "half missing": ratio + form(z) - H,
            "mean under the second": (ratio + form(square_points(second)) - H) / 2,
            "at the mean alone": (ratio + form(mu_1) - H) / 2,
            "the first one's form twice": (ratio + form(z, first) - H) / 2,
            "the first one's form added": (ratio + form(z) + H) / 2,
            "determinants turned round": (form(z) - ratio - H) / 2,
            "H ln 2 pi left over": (ratio + form(z) - H + H * math.log(2 * math.pi))
            / 2,
        },
    )
    delta, P_1, P_2 = mu_1 - mu_2, S_1.inverse(), S_2.inverse()
    trace, shift = (P_2 @ S_1).trace(), delta @ P_2 @ delta
    log_ratio = (S_2.det() / S_1.det()).log()

    def formula(trace=trace, shift=shift, H=H, log_ratio=log_ratio):
        return (trace + shift - H + log_ratio) / 2

    yield side(
        formula(),
        wrong={
            "half missing": 2 * formula(),
            "determinants turned round": formula(log_ratio=-log_ratio),
            "H forgotten": formula(H=0),
            "one for H": formula(H=1),
            "shift by the first covariance": formula(shift=delta @ P_1 @ delta),
            "trace turned round": formula(trace=(P_1 @ S_2).trace()),
            "covariance not inverted": formula(trace=(S_2 @ S_1).trace()),
            "shift without its square": formula(shift=(P_2 @ delta).sum()),
        },
    )


# --- differentiating through a draw ---------------------------------------------------


def log_normal(phi, z):
    """ln q(z), where phi is the mean and ln sigma."""
    return Normal(phi[..., 0], phi[..., 1].exp()).log_prob(z)


def random_phi(rng):
    return torch.stack(
        [torch.randn((), generator=rng), 0.5 * torch.rand((), generator=rng)]
    )


@equation(
    "score-function-gradient",
    r"""
    \begin{aligned}
    \nabla_\phi\, \mathbb{E}_{q_\phi(z)}[f(z)]
      &= \int f(z)\, \nabla_\phi\, q_\phi(z)\, dz \\
      &= \int f(z)\, q_\phi(z)\, \nabla_\phi \ln q_\phi(z)\, dz \\
      &= \mathbb{E}_{q_\phi(z)} \bigl[ f(z)\, \nabla_\phi \ln q_\phi(z) \bigr]
    \end{aligned}
    """,
)
def score_function_gradient(rng):
    n = 100_000
    phi = random_phi(rng)
    a, b = 0.5 + torch.rand(2, generator=rng)

    def f(z):
        return (a * z).sin() + b * z**2

    def average(phi):  # of f, in closed form
        mu, sigma = phi[0], phi[1].exp()
        return (-(a**2) * sigma**2 / 2).exp() * (a * mu).sin() + b * (mu**2 + sigma**2)

    yield side(torch.autograd.functional.jacobian(average, phi))

    z = LINE
    slope = gradients(lambda phi: log_normal(phi, z).exp(), len(z), phi)
    f_z, mu, sigma = f(z)[:, None], phi[0], phi[1].exp()
    yield side(
        integral(f_z * slope),
        wrong={
            "q itself": integral(f_z * log_normal(phi, z).exp()[:, None]).expand(2),
            "f differentiated, not q": torch.zeros(2),  # it does not contain phi
            "sign": -integral(f_z * slope),
        },
    )
    # The score as on paper: of mu, and of ln sigma.
    t = (z - mu) / sigma
    score = torch.stack([t / sigma, t**2 - 1], 1)
    q = (-(t**2) / 2).exp()[:, None] / (sigma * math.sqrt(2 * math.pi))
    yield side(
        integral(f_z * q * score),
        wrong={
            "q forgotten": integral(f_z * score),
            "q twice": integral(f_z * q**2 * score),
            "f forgotten": integral(q * score),
            "score of the logarithm of the variance": integral(f_z * q * score)
            * torch.tensor([1.0, 0.5]),
            "sign of the score": -integral(f_z * q * score),
        },
    )
    draws = Normal(mu, sigma).sample((n,))
    f_z, q = f(draws)[:, None], log_normal(phi, draws).exp()[:, None]
    score = gradients(lambda phi: log_normal(phi, draws), n, phi)
    mean, se = of_draws(f_z * score)
    yield side(
        mean,
        se=se,
        wrong={
            "gradient of q, not of its logarithm": (f_z * q * score).mean(0),
            "logarithm of f": (f_z.abs().log() * score).mean(0),
            "f forgotten": score.mean(0),
            "product of the averages": f_z.mean(0) * score.mean(0),
        },
    )


@equation(
    "score-mean",
    r"""
    \mathbb{E}_{q_\phi(z)} \bigl[ \nabla_\phi \ln q_\phi(z) \bigr]
      = \int \nabla_\phi\, q_\phi(z)\, dz = \nabla_\phi \int q_\phi(z)\, dz = 0
    """,
)
def score_mean(rng):
    n, h = 100_000, 1e-4
    phi = random_phi(rng)
    draws = phi[0] + phi[1].exp() * torch.randn(n, generator=rng)
    score = gradients(lambda phi: log_normal(phi, draws), n, phi)
    mean, se = of_draws(score)
    elsewhere = gradients(lambda phi: log_normal(phi, draws + 1), n, phi)
    yield side(
        mean,
        se=se,
        wrong={
            "drawn elsewhere": elsewhere.mean(0),
            "gradient of q, not of its logarithm": (
                score * log_normal(phi, draws).exp()[:, None]
            ).mean(0),
            "squares": (score**2).mean(0),
        },
    )
    slope = gradients(lambda phi: log_normal(phi, LINE).exp(), len(LINE), phi)
    yield side(
        integral(slope),
        wrong={
            "of the logarithm": integral(slope / log_normal(phi, LINE).exp()[:, None]),
            "over half of the line": integral(slope * (LINE > 0)[:, None]),
        },
    )

    def slope_of_mass(where):
        def mass(phi):
            return integral(where * log_normal(phi, LINE).exp())

        steps = h * torch.eye(2)
        return torch.stack(
            [(mass(phi + step) - mass(phi - step)) / (2 * h) for step in steps]
        )

    yield side(
        slope_of_mass(torch.ones_like(LINE)),
        error=1e-9,
        wrong={
            "over half of the line": slope_of_mass(LINE > 0),
            "not differentiated": integral(log_normal(phi, LINE).exp()),
        },
    )
    yield side(0, wrong={"one": 1})


@equation(
    "reparameterisation",
    r"""
    \nabla_\phi\, \mathbb{E}_{q_\phi(z)}[f(z)]
      = \mathbb{E}_{\epsilon \sim \mathcal{N}(0, I)}
        \bigl[ \nabla_\phi f(\mu_\phi + \sigma_\phi \odot \epsilon) \bigr]
    """,
)
def reparameterisation(rng):
    n, H = 100_000, 2
    mu, log_sigma = torch.randn(H, generator=rng), torch.rand(H, generator=rng) - 0.5
    a, B = 0.5 + torch.rand(H, generator=rng), torch.randn(H, H, generator=rng)

    def f(z):
        return (z @ a).sin() + ((z @ B) * z).sum(-1)

    def average(mu, log_sigma):  # of f, in closed form
        variance = (2 * log_sigma).exp()
        return (
            (-(a**2 * variance).sum() / 2).exp() * (a @ mu).sin()
            + mu @ B @ mu
            + B.diagonal() @ variance
        )

    yield side(torch.cat(torch.autograd.functional.jacobian(average, (mu, log_sigma))))

    draws = []  # the package draws them: keep them for the wrong forms

    def f_of_draws(mu, log_sigma):
        draws.append(DiagonalGaussian(mu, log_sigma).rsample())
        return f(draws[0])

    of_phi = gradients(f_of_draws, n, mu, log_sigma)
    mean, se = of_draws(of_phi)
    of_mu, of_log_sigma = of_phi.split(H, 1)
    z, sigma = draws[0].detach(), log_sigma.exp()
    epsilon = (z - mu) / sigma

    def with_log_sigma(gradient):
        return torch.cat([of_mu, gradient], 1).mean(0)

    yield side(
        mean,
        se=se,
        wrong={
            "sigma forgotten": with_log_sigma(of_mu * epsilon),
            "epsilon forgotten": with_log_sigma(of_mu * sigma),
            "log-variance": with_log_sigma(of_log_sigma / 2),
            "f not differentiated": (
                f(z)[:, None] * torch.cat([torch.ones(n, H), sigma * epsilon], 1)
            ).mean(0),
            "the draw held fixed": torch.zeros(2 * H),
            "gradient at the mean": torch.cat(
                torch.autograd.functional.jacobian(lambda m, s: f(m), (mu, log_sigma))
            ),
        },
    )


# --- the evidence as an average of weights --------------------------------------------


def every_draw(model, x, K):
    """All draws of K latents, on a grid: the log-weights ``(K, n, N)``, and the mean over n."""
    q, t = one_axis(model.encoder(x)), torch.linspace(-7, 7, 57)
    at = Densities(model, x, q.mean + q.stddev * t[:, None])
    place = torch.cartesian_prod(*[torch.arange(len(t))] * K).reshape(-1, K).T
    chance = (-(t**2) / 2).exp()[place].prod(0)
    return (at.joint - at.q)[place], lambda values: chance @ values / chance.sum()


@equation(
    "importance-weight",
    r"""
    w_k = \frac{p_\theta\bigl(x \mid z^{(k)}\bigr)\, p\bigl(z^{(k)}\bigr)}
      {q_\phi\bigl(z^{(k)} \mid x\bigr)}, \quad z^{(k)} \sim q_\phi(z \mid x)
    """,
)
def importance_weight(rng):
    K = 5
    model, exact, x = guessing_model(rng)
    q = model.encoder(x)
    with same_draws_follow():
        z = q.sample((K,))[..., 0]
    yield side(model.log_w(x, K).exp())
    guess, truth = one_axis(q), one_axis(exact.posterior(x))
    evidence = exact.marginal().log_prob(x).exp()
    joint = evidence * truth.log_prob(z).exp()
    at, at_mean = Densities(model, x, z), Densities(model, x, guess.mean.expand(K, -1))
    yield side(
        joint / guess.log_prob(z).exp(),
        wrong={
            "prior forgotten": (at.decoder - at.q).exp(),
            "q forgotten": joint,
            "multiplied by q": (at.joint + at.q).exp(),
            "fraction turned round": (at.q - at.joint).exp(),
            "posterior for q": (at.joint - truth.log_prob(z)).exp(),
            "posterior for joint": (truth.log_prob(z) - at.q).exp(),
            "logarithm": at.joint - at.q,
            "z = mu in place of a draw": (at_mean.joint - at_mean.q).exp(),
            "log-variance for log-sigma": (
                at.joint - Normal(guess.mean, guess.stddev.sqrt()).log_prob(z)
            ).exp(),
        },
    )


@equation(
    "importance-sampling",
    r"""
    \mathbb{E} \biggl[ \frac{1}{K} \sum_{k=1}^{K} w_k \biggr]
      = \int q_\phi(z \mid x)\, \frac{p_\theta(x \mid z)\, p(z)}{q_\phi(z \mid x)}\, dz
      = p_\theta(x)
    """,
)
def importance_sampling(rng):
    K, n = 4, 50_000
    model, exact, x = guessing_model(rng)
    log_w = model.log_w(x, K * n).unflatten(0, (K, n))
    mean, se = of_draws(iwae(log_w).exp())
    w = log_w.exp()
    from_prior = Densities(model, x, torch.randn(n, generator=rng))
    at_mean = Densities(model, x, model.encoder(x).mean.T)
    yield side(
        mean,
        se=se,
        wrong={
            "sum for mean": w.sum(0).mean(0),
            "mean of the logarithms": elbo(log_w).mean(0).exp(),
            "self-normalised weights as the value": (log_w.softmax(0) * w)
            .sum(0)
            .mean(0),
            "drawn from the prior": (from_prior.joint - from_prior.q).exp().mean(0),
            "z = mu in place of a draw": (at_mean.joint - at_mean.q)[0].exp(),
            "the largest weight": w.amax(0).mean(0),
        },
    )
    z, over_z = own_line(one_axis(model.encoder(x)))
    at = Densities(model, x, z)
    yield side(
        over_z(at.q.exp() * (at.decoder + at.prior - at.q).exp()),
        wrong={
            "q not divided out": over_z((at.q + at.joint).exp()),
            "drawn, but not weighted": over_z((at.q + at.decoder).exp()),
            "prior forgotten": over_z(at.decoder.exp()),
            "logarithm of the fraction": over_z(at.q.exp() * (at.joint - at.q)),
        },
    )
    log_evidence = exact.marginal().log_prob(x)
    yield side(log_evidence.exp(), wrong={"logarithm": log_evidence})


@equation(
    "iwae-bound",
    r"""
    \mathcal{L}_K(x) = \mathbb{E} \biggl[ \ln \frac{1}{K} \sum_{k=1}^{K} w_k \biggr]
      \le \ln p_\theta(x)
    """,
)
def iwae_bound(rng):
    K, n = 2, 100_000
    model, exact, x = guessing_model(rng, bound=iwae, samples=K)
    mean, se = of_draws(model(x.expand(n, *x.shape)))
    yield side(mean, se=se)
    log_w, average = every_draw(model, x, K)
    w = log_w.exp()
    yield side(
        average((w.sum(0) / K).log()),
        wrong={
            "ln K forgotten": average(w.sum(0).log()),
            "ln K added": average((w.sum(0) * K).log()),
            "logarithm of the mean": average(w.sum(0) / K).log(),
            "mean of the logarithms": average(log_w.sum(0) / K),
            "self-normalised weights as the value": average(
                (log_w.softmax(0) * log_w).sum(0)
            ),
            "no logarithm": average(w.sum(0) / K),
            "the largest weight": average(log_w.amax(0)),
        },
    )
    yield side(
        exact.marginal().log_prob(x),
        wrong={"the bound of one draw": average(log_w.mean(0))},
    )


@equation(
    "leave-one-out",
    r"""
    \frac{1}{K + 1} \sum_{k=1}^{K+1} w_k
      = \frac{1}{K + 1} \sum_{j=1}^{K+1} \biggl( \frac{1}{K} \sum_{k \ne j} w_k \biggr)
    """,
)
def leave_one_out(rng):
    K = 4
    model, _, x = guessing_model(rng)
    log_w = model.log_w(x, K + 1)
    yield side(iwae(log_w).exp())
    w = log_w.exp()
    groups = [
        sum(others) for others in itertools.combinations(w, K)
    ]  # each leaves one out
    yield side(
        sum(group / K for group in groups) / (K + 1),
        wrong={
            "none left out": sum(w.sum(0) / K for _ in groups) / (K + 1),
            "divided by K + 1 inside, too": sum(groups) / (K + 1) ** 2,
            "divided by K twice": sum(groups) / K**2,
            "not divided inside": sum(groups) / (K + 1),
            "the last never left out": sum(group / K for group in groups[:-1]) / K,
        },
    )


@equation(
    "iwae-order",
    r"""
    \mathcal{L}(x) = \mathcal{L}_1(x) \le \mathcal{L}_K(x) \le \mathcal{L}_{K+1}(x)
      \le \ln p_\theta(x)
    """,
)
def iwae_order(rng):
    K, n = 2, 100_000
    model, exact, x = guessing_model(rng)

    def bound(K, draws):  # the mean of iwae, whatever is drawn
        log_w, average = every_draw(model, x, draws)
        return average(iwae(log_w[:K]))

    log_w = model.log_w(x, n)
    turned = kl_divergence(one_axis(exact.posterior(x)), one_axis(model.encoder(x)))
    log_evidence = exact.marginal().log_prob(x)
    yield side(
        elbo(log_w),
        se=log_w.std(0) / n**0.5,
        wrong={
            "sum for mean": log_w.sum(0),
            "logarithm of the mean": iwae(log_w),
            "direction of the gap": log_evidence - turned,
        },
    )
    yield side(
        bound(1, 1),
        wrong={"two draws": bound(2, 2), "ln K of two": bound(1, 1) - math.log(2)},
    )
    yield side(
        bound(K, K),
        wrong={
            "a draw more": bound(K + 1, K + 1) + 1e-9,
            "ln K forgotten": bound(K, K) + math.log(K),
            "ln K twice": bound(K, K) - math.log(K),
        },
    )
    yield side(
        bound(K + 1, K + 1),
        wrong={
            "one draw": bound(1, 1),
            "ln K for ln (K + 1)": bound(K + 1, K + 1) + math.log((K + 1) / K),
            "ln (K + 1) forgotten": bound(K + 1, K + 1) + math.log(K + 1),
        },
    )
    yield side(log_evidence, wrong={"the bound of one draw": bound(1, 1)})


@equation(
    "iwae-gradient",
    r"""
    \begin{aligned}
    \nabla \ln \frac{1}{K} \sum_{k=1}^{K} w_k
      &= \sum_{k=1}^{K} \tilde{w}_k\, \nabla \ln w_k, \\
    \tilde{w}_k &= \frac{w_k}{\sum_{l=1}^{K} w_l}
    \end{aligned}
    """,
)
def iwae_gradient(rng):
    K, h = 4, 1e-5
    model, _, x = guessing_model(rng, N=1)
    parameters = [*model.requires_grad_().parameters()]
    start = nn.utils.parameters_to_vector(parameters).detach()

    def bound(place):  # with the same draws at every place
        nn.utils.vector_to_parameters(place, parameters)
        with same_draws_follow(), torch.no_grad():
            return iwae(model.log_w(x, K))

    steps = h * torch.eye(len(start))
    yield side(
        torch.cat(
            [(bound(start + step) - bound(start - step)) / (2 * h) for step in steps]
        ),
        error=1e-6,
    )
    nn.utils.vector_to_parameters(start, parameters)
    log_w = model.log_w(x, K)[:, 0]
    each = torch.stack(
        [
            nn.utils.parameters_to_vector(
                torch.autograd.grad(one, parameters, retain_graph=True)
            )
            for one in log_w
        ]
    )
    log_w = log_w.detach()
    w = log_w.exp()
    share = w / sum(w)
    yield side(
        share @ each,
        wrong={
            "mean of the gradients": each.mean(0),
            "weights not normalised": w @ each,
            "divided by K, too": share @ each / K,
            "gradient of w, not of its logarithm": (share * w) @ each,
            "the largest weight alone": each[w.argmax()],
            "squared weights": w**2 @ each / (w**2).sum(),
        },
    )
    # How the bound answers to each of its log-weights.
    yield side(torch.autograd.functional.jacobian(iwae, log_w))
    yield side(
        share,
        wrong={
            "divided by the mean": w / w.mean(),
            "not divided": w,
            "log-weights": log_w / log_w.sum(),
            "equal": torch.full((K,), 1 / K),
        },
    )


@equation(
    "effective-samples",
    r"""
    K_{\mathrm{eff}}
      = \frac{\bigl( \sum_{k=1}^{K} w_k \bigr)^2}{\sum_{k=1}^{K} w_k^2}
    """,
)
def effective_samples(rng):
    K, chunk = 12, 4
    model, _, x = guessing_model(rng, N=1)
    with same_draws_follow():
        score = importance_sampled_nll(model, x, K, chunk=chunk)
    yield side(score.effective_samples)
    w = torch.cat([model.log_w(x, chunk)[:, 0] for _ in range(K // chunk)]).exp()
    squares = sum(one**2 for one in w)
    yield side(
        sum(w) ** 2 / squares,
        wrong={
            "square of the sum forgotten": sum(w) / squares,
            "turned round": squares / sum(w) ** 2,
            "squares of the sum below": sum(w**2) / sum(w) ** 2 * K,
            "mean for sum": w.mean() ** 2 / (w**2).mean(),
            "log-weights": sum(w.log()) ** 2 / sum(w.log() ** 2),
            "all of them": K,
        },
    )


# --- an average in the wrong place ----------------------------------------------------


def two_terms(model, x):
    """The two terms of the ELBO, for one latent, as integrals."""
    z, over_z = own_line(one_axis(model.encoder(x)))
    at = Densities(model, x, z)
    return over_z(at.q.exp() * at.decoder), over_z(at.q.exp() * (at.q - at.prior))


@equation(
    "mean-for-sum",
    r"""
    \begin{aligned}
    &\frac{1}{D}\, \mathbb{E}_{q_\phi(z \mid x)} \bigl[ \ln p_\theta(x \mid z) \bigr]
      - D_{\mathrm{KL}}\bigl( q_\phi(z \mid x) \,\|\, p(z) \bigr) \\
      &\quad = \frac{1}{D} \Bigl( \mathbb{E}_{q_\phi(z \mid x)} \bigl[
          \ln p_\theta(x \mid z) \bigr]
      - D \cdot D_{\mathrm{KL}}\bigl( q_\phi(z \mid x) \,\|\, p(z) \bigr) \Bigr)
    \end{aligned}
    """,
)
def mean_for_sum(rng):
    D, n = 3, 20_000
    model, x = binary_vae(rng, D), all_binary(D)
    each = x.expand(n, *x.shape)
    # As it is often written: torch takes the mean over pixels where it should add them
    # up.
    q = model.encoder(each)
    logits = model.decoder(q.sample()).logits
    pixels = nn.functional.binary_cross_entropy_with_logits(
        logits, each, reduction="none"
    )
    mean, se = of_draws(-pixels.mean(-1))
    price = kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0)).sum(-1)[0]
    yield side(
        mean - price,
        se=se,
        wrong={
            "sum over pixels": D * mean - price,
            "divergence averaged, too": mean - price / D,
            "sign of the divergence": mean + price,
            "cross-entropy raised": -mean - price,
        },
    )
    reconstruction, price = two_terms(model, x)
    yield side(
        (reconstruction - D * price) / D,
        wrong={
            "the ELBO": reconstruction - price,
            "the ELBO per pixel": (reconstruction - price) / D,
            "not divided": reconstruction - D * price,
            "1 / D for D": (reconstruction - price / D) / D,
        },
    )


@equation(
    "beta-vae",
    r"""
    \mathcal{L}_\beta(x)
      = \mathbb{E}_{q_\phi(z \mid x)} \bigl[ \ln p_\theta(x \mid z) \bigr]
      - \beta\, D_{\mathrm{KL}}\bigl( q_\phi(z \mid x) \,\|\, p(z) \bigr)
    """,
)
def beta_vae(rng):
    n, x = 20_000, all_binary(3)
    model = binary_vae(rng)
    model.beta = beta = 0.3 + torch.rand((), generator=rng)
    mean, se = of_draws(model(x.expand(n, *x.shape)))
    yield side(mean, se=se)
    reconstruction, price = two_terms(model, x)
    yield side(
        reconstruction - beta * price,
        wrong={
            "beta forgotten": reconstruction - price,
            "beta on the reconstruction": beta * reconstruction - price,
            "beta on both": beta * (reconstruction - price),
            "divided by beta": reconstruction - price / beta,
            "sign": reconstruction + beta * price,
            "1 - beta": reconstruction - (1 - beta) * price,
        },
    )


# --- two layers -----------------------------------------------------------------------


@equation(
    "two-layer-weight",
    r"""
    w = \frac{p_\theta(x \mid z_1)\, p_\theta(z_1 \mid z_2)\, p(z_2)}
      {q_\phi(z_1 \mid x)\, q_\phi(z_2 \mid z_1)}
    """,
)
def two_layer_weight(rng):
    K, N, H = (
        3,
        4,
        2,
    )  # pictures and both layers have the same width: a mix-up still runs

    class FromFirst(LinearGaussian):
        def forward(self, z):  # z_1 is enough to draw the picture
            return super().forward(z[..., :H])

    up, top, down = (LinearGaussian(H, H) for _ in range(3))
    prior = Chain([StandardNormal(H), down], [H, H], top_down=True)
    decoder = FromFirst(H, H)
    model = random_weights(VAE(Chain([up, top], [H, H]), decoder, prior), rng, 0.5)
    x = torch.randn(N, H, generator=rng)
    with same_draws_follow():
        z_1, z_2 = model.encoder(x).sample((K,)).split(H, -1)
    yield side(model.log_w(x, K).exp())

    def density(value, layer, h):
        mean = h @ layer.mu.weight.T + layer.mu.bias
        return Normal(mean, layer.log_sigma.exp()).log_prob(value).exp().prod(-1)

    def standard(z):
        return (-(z**2) / 2).exp().prod(-1) / (2 * math.pi) ** (H / 2)

    picture, inner, outer = (
        density(x, decoder, z_1),
        density(z_1, down, z_2),
        standard(z_2),
    )
    first, second = density(z_1, up, x), density(z_2, top, z_1)
    yield side(
        picture * inner * outer / (first * second),
        wrong={
            "z_1 under the standard normal": picture
            * standard(z_1)
            * outer
            / (first * second),
            "p(z_2 | z_1) p(z_1)": picture
            * density(z_2, down, z_1)
            * standard(z_1)
            / (first * second),
            "p(z_2) forgotten": picture * inner / (first * second),
            "p(z_1 | z_2) forgotten": picture * outer / (first * second),
            "x from z_2": density(x, decoder, z_2) * inner * outer / (first * second),
            "q(z_2 | x)": picture * inner * outer / (first * density(z_2, top, x)),
            "q(z_2 | z_1) forgotten": picture * inner * outer / first,
            "q(z_1 | z_2)": picture * inner * outer / (density(z_1, top, z_2) * second),
            "multiplied by q(z_2 | z_1)": picture * inner * outer / first * second,
        },
    )


# --- the linear model -----------------------------------------------------------------


def correlated(rng, N, D):
    """Normal examples with a covariance in which each direction has a spread of its own."""
    scale = torch.diag(1.6 ** -torch.arange(D))
    return 1 + torch.randn(N, D, generator=rng) @ scale @ torch.randn(
        D, D, generator=rng
    )


def axes_of(x):
    """Variances, falling, and their directions, which are columns; divided by N."""
    variances, axes = torch.linalg.eigh(x.T.cov(correction=0))
    return variances.flip(0), axes.flip(1)


@equation(
    "linear-gaussian",
    r"""
    \begin{aligned}
    p_\theta(x \mid z) &= \mathcal{N}\bigl( x;\ W z + \mu,\ \sigma^2 I \bigr) \\
    p_\theta(x) &= \mathcal{N}\bigl( x;\ \mu,\ W W^\top + \sigma^2 I \bigr)
    \end{aligned}
    """,
)
def linear_gaussian(rng):
    D = 3
    model, (mu, W, variance), x = linear_model(rng, D)
    z = torch.randn(len(x), 1, generator=rng)
    eye, sigma = torch.eye(D), variance.sqrt()

    def normal(mean, covariance):
        return MultivariateNormal(mean, covariance).log_prob(x).exp()

    yield side(model.decoder(z).log_prob(x).exp())
    yield side(
        normal(z @ W.T + mu, variance * eye),
        wrong={
            "sigma for its square": normal(z @ W.T + mu, sigma * eye),
            "mu forgotten": normal(z @ W.T, variance * eye),
            "W forgotten": normal(mu, variance * eye),
            "covariance of p(x)": normal(z @ W.T + mu, W @ W.T + variance * eye),
        },
    )
    yield side(integral(Densities(model, x, LINE).joint.exp()))
    yield side(
        normal(mu, W @ W.T + variance * eye),
        wrong={
            "sigma for its square": normal(mu, W @ W.T + sigma * eye),
            "mu forgotten": normal(torch.zeros(D), W @ W.T + variance * eye),
            "W forgotten": normal(mu, variance * eye),
            "W^T W for W W^T": normal(mu, (W.T @ W + variance) * eye),
            "W not squared": normal(mu, W.abs().diagflat() + variance * eye),
            "one cause, z = 1": normal(W[:, 0] + mu, variance * eye),
        },
    )


@equation(
    "linear-posterior",
    r"""
    \begin{aligned}
    \ln p_\theta(z \mid x)
      &= -\frac{1}{2 \sigma^2} \|x - \mu - W z\|^2 - \frac12 \|z\|^2 + \text{const} \\
      &= -\frac{1}{2 \sigma^2} \bigl( z^\top M z - 2 z^\top W^\top (x - \mu) \bigr)
         + \text{const} \\
      &= -\frac{1}{2 \sigma^2} (z - m)^\top M (z - m) + \text{const}, \\
    m &= M^{-1} W^\top (x - \mu)
    \end{aligned}
    """,
)
def linear_posterior(rng):
    D, H = 4, 2
    model, exact, x = linear_model(rng, D, N=1, H=H)
    (mu, W, variance), x = exact, x[0]
    z, eye = torch.randn(6, H, generator=rng), torch.eye(H)

    def joint(z):
        return model.decoder(z).log_prob(x) + model.prior().log_prob(z)

    def varying(values):  # the constants, which differ from line to line, go
        return values - values.mean()

    yield side(varying(exact.posterior(x).log_prob(z)))
    error, length = (x - mu - z @ W.T).square().sum(-1), z.square().sum(-1)
    yield side(
        varying(-error / (2 * variance) - length / 2),
        wrong={
            "prior forgotten": varying(-error / (2 * variance)),
            "prior divided by the variance, too": varying(
                -(error + length) / (2 * variance)
            ),
            "sigma for its square": varying(
                -error / (2 * variance.sqrt()) - length / 2
            ),
            "half missing": varying(-error / variance - length),
            "mu forgotten": varying(
                -(x - z @ W.T).square().sum(-1) / (2 * variance) - length / 2
            ),
            "sign of the prior": varying(-error / (2 * variance) + length / 2),
        },
    )
    # M and m without their formulas: from the curvature, and from least squares with a
    # penalty.
    M = -variance * torch.autograd.functional.hessian(joint, z[0])
    penalised = torch.cat([W, variance.sqrt() * eye])
    m = torch.linalg.lstsq(
        penalised, torch.cat([x - mu, torch.zeros(H)])[:, None]
    ).solution[:, 0]

    def parabola(M=M, factor=2, centre=mu):
        cross = z @ W.T @ (x - centre)
        return varying(-(((z @ M) * z).sum(-1) - factor * cross) / (2 * variance))

    yield side(
        parabola(),
        wrong={
            "two forgotten": parabola(factor=1),
            "sign of the mixed term": parabola(factor=-2),
            "mu forgotten": parabola(centre=0),
            "W^T W for M": parabola(W.T @ W),
            "W^T W + I for M": parabola(W.T @ W + eye),
        },
    )

    def square(m=m, M=M, scale=2 * variance):
        return varying(-(((z - m) @ M) * (z - m)).sum(-1) / scale)

    yield side(
        square(),
        wrong={
            "least squares for m": square(torch.linalg.pinv(W) @ (x - mu)),
            "m not divided by M": square(W.T @ (x - mu)),
            "sign of m": square(-m),
            "M inverted": square(M=M.inverse()),
            "half missing": square(scale=variance),
            "M alone, without the variance": square(scale=2),
        },
    )
    yield side(m)
    M = W.T @ W + variance * eye
    yield side(
        torch.linalg.solve(M, W.T @ (x - mu)),
        wrong={
            "M not inverted": M @ W.T @ (x - mu),
            "mu forgotten": torch.linalg.solve(M, W.T @ x),
            "sigma^2 I forgotten": torch.linalg.solve(W.T @ W, W.T @ (x - mu)),
            "I for sigma^2 I": torch.linalg.solve(W.T @ W + eye, W.T @ (x - mu)),
            "sigma for its square": torch.linalg.solve(
                W.T @ W + variance.sqrt() * eye, W.T @ (x - mu)
            ),
        },
    )


@equation(
    "ppca-solution",
    r"""
    \begin{aligned}
    \sigma^2 &= \frac{1}{D - H} \sum_{i=H+1}^{D} \lambda_i, \\
    W &= U_H \bigl( \Lambda_H - \sigma^2 I \bigr)^{1/2}
    \end{aligned}
    """,
)
def ppca_solution(rng):
    N, D, H = 40, 5, 2
    x = correlated(rng, N, D)

    def surprise(W, log_variance):
        return -PPCA(x.mean(0), W, log_variance.exp()).marginal().log_prob(x).mean()

    best, log_variance = lowest(
        surprise, torch.randn(D, H, generator=rng), torch.zeros(())
    )
    values, U = axes_of(x)
    left = values[H:]
    yield side(log_variance.exp(), error=1e-5)
    yield side(
        left.sum() / (D - H),
        wrong={
            "sum for mean": left.sum(),
            "kept for discarded": values[:H].mean(),
            "divided by D": left.sum() / D,
            "divided by H": left.sum() / H,
            "the largest discarded": left[0],
            "standard deviations": left.sqrt().mean(),
            "covariance divided by N - 1": left.mean() * N / (N - 1),
        },
    )

    # W W^T, since a rotation of z, which nobody sees, leaves it as it is.
    def product(axes, spreads):
        return axes @ spreads.diag() @ axes.T

    kept, axes = values[:H], U[:, :H]
    yield side(best @ best.T, error=1e-4)
    W = ppca(x, H).W
    yield side(
        W @ W.T,
        wrong={
            "sigma^2 I not subtracted": product(axes, kept),
            "sigma^2 I added": product(axes, kept + left.mean()),
            "sigma for its square": product(axes, kept - left.mean().sqrt()),
            "root forgotten": product(axes, (kept - left.mean()) ** 2),
            "the last eigenvectors": product(U[:, -H:], kept - left.mean()),
            "discarded for kept": product(U[:, H:], left),
        },
    )


@equation(
    "ppca-likelihood",
    r"""
    \begin{aligned}
    &\frac{1}{N} \sum_{n=1}^{N} \ln p_\theta\bigl( x^{(n)} \bigr) \\
    &\quad = -\frac12 \Bigl[ D \ln (2 \pi) + \sum_{i=1}^{H} \ln \lambda_i
      + (D - H) \ln \sigma^2 + D \Bigr]
    \end{aligned}
    """,
)
def ppca_likelihood(rng):
    N, D, H = 30, 5, 2
    x = correlated(rng, N, D)
    fitted = ppca(x, H)
    yield side(
        fitted.marginal().log_prob(x).mean(),
        wrong={"sum for mean": fitted.marginal().log_prob(x).sum()},
    )
    values, _ = axes_of(x)
    kept, variance = values[:H], values[H:].mean()
    constant, logarithms = D * math.log(2 * math.pi), kept.log().sum()

    def formula(constant=constant, kept=logarithms, left=D - H, last=D):
        return -(constant + kept + left * variance.log() + last) / 2

    yield side(
        formula(),
        wrong={
            "half missing": 2 * formula(),
            "sign": -formula(),
            "D ln 2 pi forgotten": formula(constant=0),
            "ln 2 pi once": formula(constant=math.log(2 * math.pi)),
            "D forgotten": formula(last=0),
            "H for D - H": formula(left=H),
            "D for D - H": formula(left=D),
            "sigma for its square": formula(left=(D - H) / 2),
            "discarded for kept": formula(kept=values[H:].log().sum()),
            "logarithm of the sum": formula(kept=kept.sum().log()),
            "eigenvalues without their logarithms": formula(kept=kept.sum()),
            "sigma^2 subtracted": formula(kept=(kept - variance).log().sum()),
        },
    )


# --- what is lost ---------------------------------------------------------------------


def diagonal(mu, log_sigma):
    """A diagonal normal as torch has it, for divergences from normals that are not diagonal."""
    return MultivariateNormal(mu, scale_tril=torch.diag_embed(log_sigma.exp()))


def best_diagonal(truth):
    """The diagonal normals nearest to some normals: means and ln sigma, downhill from 0 and 1."""
    start = torch.zeros_like(truth.mean)
    return lowest(lambda *phi: kl_divergence(diagonal(*phi), truth).sum(), start, start)


@equation(
    "gap-split",
    r"""
    \begin{aligned}
    &\ln p_\theta(x) - \mathcal{L}(x) \\
    &\quad = D_{\mathrm{KL}}\bigl( q_\phi(z \mid x) \,\|\, p_\theta(z \mid x) \bigr) \\
    &\quad = D_{\mathrm{KL}}\bigl( q^*(z) \,\|\, p_\theta(z \mid x) \bigr) \\
    &\qquad + \Bigl(
      D_{\mathrm{KL}}\bigl( q_\phi(z \mid x) \,\|\, p_\theta(z \mid x) \bigr)
      - D_{\mathrm{KL}}\bigl( q^*(z) \,\|\, p_\theta(z \mid x) \bigr) \Bigr)
    \end{aligned}
    """,
)
def gap_split(rng):
    n = 50_000
    model, exact, x = linear_model(rng, D=4, H=2)
    q, truth = model.encoder(x), exact.posterior(x)
    log_evidence, log_w = exact.marginal().log_prob(x), model.log_w(x, n)
    of_mean_code = model.decoder(q.mean).log_prob(x) - kl_divergence(q, model.prior())
    yield side(
        log_evidence - elbo(log_w),
        se=log_w.std(0) / n**0.5,
        wrong={
            "sign": elbo(log_w) - log_evidence,
            "z = mu in place of a draw": log_evidence - of_mean_code,
            "reconstruction for bound": log_evidence
            - linear_reconstruction(model, exact, x, q),
            "many weights for one": log_evidence - iwae(log_w),
        },
    )
    guess = diagonal(q.mu, q.log_sigma)
    gap = kl_divergence(guess, truth)
    yield side(
        gap,
        wrong={
            "direction": kl_divergence(truth, guess),
            "divergence from the prior": kl_divergence(q, model.prior()),
            "log-variance for log-sigma": kl_divergence(
                diagonal(q.mu, q.log_sigma / 2), truth
            ),
        },
    )
    best = best_diagonal(truth)
    family = kl_divergence(diagonal(*best), truth)

    def bound(q):
        return linear_reconstruction(model, exact, x, q) - kl_divergence(
            q, model.prior()
        )

    network = bound(DiagonalGaussian(*best)) - bound(q)  # the evidence cancels
    other = kl_divergence(truth, diagonal(*best))
    yield side(
        family + network,
        error=1e-8,
        wrong={
            "the network's share forgotten": family,
            "the family's share forgotten": network,
            "difference turned round": family - network,
            "direction of the family's share": other + network,
            "direction of the network's share": family
            + kl_divergence(truth, guess)
            - other,
        },
    )


@equation(
    "approximation-gap",
    r"""
    \min_{q \text{ diagonal}}
        D_{\mathrm{KL}}\bigl( q(z) \,\|\, p_\theta(z \mid x) \bigr)
      = \frac12 \Bigl( \sum_{j=1}^{H} \ln M_{jj} - \ln |M| \Bigr)
    """,
)
def approximation_gap(rng):
    D, H = 5, 3
    _, exact, x = linear_model(rng, D, N=1, H=H)
    truth = exact.posterior(x)
    averaged = diagonal(truth.mean, truth.stddev.log())
    yield side(
        kl_divergence(diagonal(*best_diagonal(truth)), truth)[0],
        error=1e-8,
        wrong={
            "the posterior's own spreads": kl_divergence(averaged, truth)[0],
            "direction": kl_divergence(truth, averaged)[0],
            "the prior": kl_divergence(diagonal(*torch.zeros(2, 1, H)), truth)[0],
        },
    )
    M = exact.W.T @ exact.W + exact.variance * torch.eye(H)
    each, all_of_M = M.diagonal().log().sum(), torch.logdet(M)
    yield side(
        (each - all_of_M) / 2,
        wrong={
            "half missing": each - all_of_M,
            "sign": (all_of_M - each) / 2,
            "logarithm of the sum": (M.trace().log() - all_of_M) / 2,
            "sum for determinant": (each - M.trace().log()) / 2,
            "diagonal of the inverse": (M.inverse().diagonal().log().sum() + all_of_M)
            / 2,
            "W^T W for M": (
                (M - exact.variance * torch.eye(H)).diagonal().log().sum() - all_of_M
            )
            / 2,
        },
    )


# --- collapse -------------------------------------------------------------------------


@equation(
    "active-condition",
    r"\|w_j\|^2 = \max\bigl( \lambda_j - \sigma^2,\ 0 \bigr)",
)
def active_condition(rng):
    N, D, H = 40, 5, 4
    x = correlated(rng, N, D)
    values, U = axes_of(x)
    variance = (
        values[1] * values[2]
    ).sqrt()  # two directions stand out of the noise, two do not

    def surprise(W):
        return -PPCA(x.mean(0), W, variance).marginal().log_prob(x).mean()

    (best,) = lowest(surprise, torch.randn(D, H, generator=rng))
    lengths = (
        (U.T @ best).square().sum(1)[:H]
    )  # along each eigenvector, whatever turns z
    yield side(lengths, error=1e-4, wrong={"not squared": lengths.sqrt()})
    kept = values[:H]
    yield side(
        (kept - variance).clamp(min=0),
        wrong={
            "maximum forgotten": kept - variance,
            "absolute value": (kept - variance).abs(),
            "variance not subtracted": torch.where(kept > variance, kept, 0),
            "variance added": (kept + variance).clamp(min=0),
            "sigma for its square": (kept - variance.sqrt()).clamp(min=0),
            "root": (kept - variance).clamp(min=0).sqrt(),
            "all directions alike": (kept - values[H:].mean()).clamp(min=0),
        },
    )


@equation(
    "active-units",
    r"A_j = \operatorname{Var}_x \bigl[ \mathbb{E}_{q_\phi(z \mid x)}[z_j] \bigr]",
)
def active_units_check(rng):
    D, N, H = 4, 12, 3
    model, _, x = linear_model(rng, D, N, H)
    low, high = torch.zeros(H), torch.full((H,), 100.0)
    for _ in range(60):  # the threshold at which the package's answer turns
        middle = (low + high) / 2
        active = active_units(model, x, middle)
        low, high = torch.where(active, middle, low), torch.where(active, high, middle)
    yield side(low)
    V = (
        model.encoder.mu.weight
    )  # the mean is linear in x: its variance follows from that of x
    A = (V @ x.T.cov() @ V.T).diagonal()
    noise = model.encoder(x).variance.mean(0)
    yield side(
        A,
        wrong={
            "variance of the draws": A + noise,
            "mean of the variances": noise,
            "standard deviation": A.sqrt(),
            "mean square": model.encoder(x).mean.square().mean(0),
            "over the latents": model.encoder(x).mean.var(1)[:H],
            "spread of the pictures": x.var(0)[:H],
        },
    )


@equation(
    "free-bits",
    r"""
    \begin{aligned}
    \overline{\mathcal{L}_\lambda(x)}
      = {}& \overline{\mathbb{E}_{q_\phi(z \mid x)} \bigl[
        \ln p_\theta(x \mid z) \bigr]} \\
    & - \sum_{j=1}^{H} \max\Bigl( \lambda,\
      \overline{D_{\mathrm{KL}}\bigl( q_\phi(z_j \mid x) \,\|\, p(z_j) \bigr)} \Bigr)
    \end{aligned}
    """,
)
def free_bits(rng):
    N, n = 6, 20_000
    model, _, x = linear_model(rng, D=4, N=N, H=3)
    model.decoder.log_sigma.fill_(1.0)  # much noise in pictures, little in the estimate
    q = model.encoder(x)
    price = kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0))
    on_average = price.mean(0)
    free = on_average.median()  # one latent is dearer, one is cheaper
    model.free_bits = free.item()
    mean, se = of_draws(model(x.expand(n, *x.shape)).mean(-1))
    yield side(mean, se=se)
    reconstruction = linear_reconstruction(model, solved(model), x, q).mean()
    yield side(
        reconstruction - on_average.clamp(min=free).sum(),
        wrong={
            "maximum before the average": reconstruction
            - price.clamp(min=free).mean(0).sum(),
            "maximum of the sum": reconstruction - on_average.sum().clamp(min=free),
            "minimum": reconstruction - on_average.clamp(max=free).sum(),
            "free nats subtracted": reconstruction
            - (on_average - free).clamp(min=0).sum(),
            "free nats added": reconstruction - (on_average + free).sum(),
            "mean over the latents": reconstruction - on_average.clamp(min=free).mean(),
            "sign": reconstruction + on_average.clamp(min=free).sum(),
        },
    )
