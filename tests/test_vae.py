"""Variational autoencoders: against linear-normal models, whose every number is known, quadrature,
enumeration and plain loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import distributions as td
from torch import nn

from companion.checks import all_binary, sampling_p_value
from companion.data import Batches
from companion.evaluation import active_units, importance_sampled_nll
from companion.nn import mlp
from companion.training import fit
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
    one_layer,
    ppca,
)
from companion.vae.model import closed_form_kl

pytestmark = pytest.mark.usefixtures("float64")

D, H = 5, 2
EVERY = all_binary(4).double()
BOUNDS = {"closed": None, "elbo": elbo, "iwae": iwae}


def randomised(module, rng, scale=0.5):
    for parameter in module.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=rng)
    return module


def correlated(rng, n=200):
    """Vectors with a covariance and a mean of no special form."""
    x = torch.randn(n, D, generator=rng) @ torch.randn(D, D, generator=rng)
    return x + 0.5 * torch.randn(n, D, generator=rng) + torch.arange(D)


def binary_vae(rng, latent=1, scale=1.0, **options):
    """A small model of binary vectors of four, all of its parameters random."""
    encoder = ConditionalGaussian(mlp(4, 3), 3, latent)
    decoder = ConditionalBernoulli(mlp(latent, 3), 3, 4)
    model = randomised(VAE(encoder, decoder, StandardNormal(latent), **options), rng, scale)
    # About as wide as the prior: the weights p(x, z) / q(z|x) need a finite variance.
    encoder.mu.weight.data *= 0.4
    encoder.mu.bias.data *= 0.4
    encoder.log_sigma.weight.data *= 0.2
    encoder.log_sigma.bias.data.fill_(0.1)
    return model


class Given(nn.Module):
    """An encoder that knows q(z|x) of each example of the batch by heart."""

    def __init__(self, mu, sigma):
        super().__init__()
        self.mu, self.log_sigma = nn.Parameter(mu), nn.Parameter(sigma.log())

    def forward(self, x):
        return DiagonalGaussian(self.mu, self.log_sigma)


class Mixture(nn.Module):
    """A prior without a closed form of KL(q || p)."""

    def __init__(self, means):
        super().__init__()
        self.means = nn.Parameter(means)

    def forward(self):
        components = td.Independent(td.Normal(self.means, torch.ones_like(self.means)), 1)
        weights = td.Categorical(logits=self.means.new_zeros(len(self.means)))
        return td.MixtureSameFamily(weights, components)


def conditioned(mean, covariance, x):
    """p(z | x) from the joint normal of (z, x) by the formula for blocks, and p(x)."""
    h = len(mean) - x.shape[-1]
    gain = covariance[:h, h:] @ covariance[h:, h:].inverse()
    posterior = td.MultivariateNormal(
        mean[:h] + (x - mean[h:]) @ gain.T, covariance[:h, :h] - gain @ covariance[h:, :h]
    )
    return posterior, td.MultivariateNormal(mean[h:], covariance[h:, h:])


def joint(W, b, variance):
    """Mean and covariance of (z, x): z standard normal, x = W z + b + noise."""
    d, h = W.shape
    covariance = torch.cat(
        [torch.cat([torch.eye(h), W.T], 1), torch.cat([W, W @ W.T + variance * torch.eye(d)], 1)]
    )
    return torch.cat([torch.zeros(h), b]), covariance


def truth(model, x):
    """p(z | x) and p(x) of a linear model."""
    mu = model.decoder.mu
    return conditioned(*joint(mu.weight, mu.bias, (2 * model.decoder.log_sigma).exp()), x)


def exact_elbo(model, x):
    """The bound of a linear model, its expectation over z by hand."""
    W, b = model.decoder.mu.weight, model.decoder.mu.bias
    variance = (2 * model.decoder.log_sigma).exp()
    mu, s2 = model.encoder.mu(x), (2 * model.encoder.log_sigma).exp()
    errors = (x - mu @ W.T - b).square().sum(1) + (s2 * W.square()).sum()
    reconstruction = -(len(b) * (2 * math.pi * variance).log() + errors / variance) / 2
    return reconstruction - (s2 + mu.square() - 1 - s2.log()).sum(1) / 2


def tuned(x, **options):
    """The linear model that is probabilistic principal component analysis, exact posterior too."""
    mean, W, variance = ppca(x, H)
    model = linear_vae(D, H, **options)
    inverse = (W.T @ W + variance * torch.eye(H)).inverse()
    model.decoder.mu.weight.data, model.decoder.mu.bias.data = W, mean
    model.decoder.log_sigma.data = variance.log()[None] / 2
    model.encoder.mu.weight.data = inverse @ W.T
    model.encoder.mu.bias.data = -inverse @ W.T @ mean
    model.encoder.log_sigma.data = (variance * inverse.diag()).log() / 2
    return model


def detuned(rng, **options):
    return randomised(linear_vae(D, H, **options), rng)


def within(values, expected, dim=0, errors=5):
    """Is the mean of the draws along the axis what it should be, to so many standard errors?"""
    error = values.std(dim) / math.sqrt(values.shape[dim])
    return ((values.mean(dim) - expected).abs() < errors * error).all()


# --- the linear model ----------------------------------------------------------------------------


def test_ppca_by_hand(rng):
    x = correlated(rng)
    mean, W, variance = ppca(x, H)
    values = torch.tensor(np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True)))
    torch.testing.assert_close(mean, x.mean(0))
    assert variance.item() == pytest.approx(values[: D - H].mean().item())
    # The columns are orthogonal, the longest first.
    torch.testing.assert_close(W.T @ W, torch.diag(values.flip(0)[:H] - variance))
    centred = x - x.mean(0)
    torch.testing.assert_close(
        centred.T @ (centred @ W) / len(x), W * values.flip(0)[:H], rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("latent", [1, 2, 4])
def test_likelihood_of_ppca_in_closed_form(latent, rng):
    x = correlated(rng)
    fitted = ppca(x, latent)
    values = torch.tensor(np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))).flip(0)
    expected = -0.5 * (
        D * math.log(2 * math.pi)
        + values[:latent].log().sum()
        + (D - latent) * fitted.variance.log()
        + D
    )
    assert fitted.marginal().log_prob(x).mean().item() == pytest.approx(expected.item())


def test_ppca_is_a_maximum(rng):
    x = correlated(rng)
    mean, W, variance = ppca(x, H)

    def score(mean, W, log_variance):
        return PPCA(mean, W, log_variance.exp()).marginal().log_prob(x).mean()

    best = [p.clone().requires_grad_() for p in (mean, W, variance.log())]
    for gradient in torch.autograd.grad(score(*best), best):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    for size in (0.01, 0.1, 1):
        for _ in range(20):
            other = [p.detach() + size * torch.randn(p.shape, generator=rng) for p in best]
            assert score(*other) < score(*best)


def test_ppca_where_no_direction_stands_out():
    """All eigenvalues are 0.1, and the mean of three of them, rounded, a little more."""
    x = torch.cat([torch.eye(4), -torch.eye(4), torch.zeros(12, 4)])
    _, W, variance = ppca(x, 1)
    torch.testing.assert_close(W, torch.zeros(4, 1), atol=1e-7, rtol=0)
    assert variance.item() == pytest.approx(0.1)


@pytest.mark.parametrize("latent", [0, -1, D, D + 1])
def test_ppca_refuses_as_many_latents_as_features(latent, rng):
    with pytest.raises(ValueError, match="1 to 4"):
        ppca(correlated(rng), latent)


def test_marginal_and_posterior_of_ppca_by_conditioning_the_joint_normal(rng):
    model = PPCA(  # columns that are not orthogonal
        torch.randn(D, generator=rng), torch.randn(D, H, generator=rng), torch.tensor(0.3)
    )
    x = correlated(rng, 7)
    posterior, marginal = conditioned(*joint(model.W, model.mean, model.variance), x)
    torch.testing.assert_close(model.marginal().log_prob(x), marginal.log_prob(x))
    torch.testing.assert_close(model.marginal().covariance_matrix, marginal.covariance_matrix)
    found = model.posterior(x)
    assert found.batch_shape == (7,)
    assert found.event_shape == (H,)
    torch.testing.assert_close(found.mean, posterior.mean)
    torch.testing.assert_close(found.covariance_matrix, posterior.covariance_matrix.expand(7, H, H))
    grid = model.posterior(x[:6].reshape(2, 3, D))
    torch.testing.assert_close(grid.mean, posterior.mean[:6].reshape(2, 3, H))


@pytest.mark.parametrize("K", [1, 2, 50])
def test_with_the_exact_posterior_every_bound_is_the_likelihood(K, rng):
    x = correlated(rng)
    log_p = ppca(x, H).marginal().log_prob(x)
    model = tuned(x)
    log_w = model.log_w(x, K)
    assert log_w.shape == (K, len(x))
    torch.testing.assert_close(log_w, log_p.expand(K, -1))  # every draw, not on average
    for bound in (elbo, iwae):
        torch.testing.assert_close(bound(log_w), log_p)
        torch.testing.assert_close(tuned(x, bound=bound, samples=K)(x), log_p)
    posterior, _ = truth(model, x)
    torch.testing.assert_close(model.encoder(x).mean, posterior.mean)
    torch.testing.assert_close(model.encoder(x).variance, posterior.variance.expand(len(x), H))
    estimate = importance_sampled_nll(model, x, K)
    assert estimate.mean == pytest.approx(-log_p.mean().item())
    assert estimate.standard_error == pytest.approx(log_p.std().item() / math.sqrt(len(x)))
    assert estimate.effective_samples == pytest.approx(K)


def test_ppca_is_a_stationary_point_of_the_bound(rng):
    x = correlated(rng)
    model = tuned(x)
    exact_elbo(model, x).mean().backward()
    for parameter in model.parameters():
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), rtol=0, atol=1e-9)


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_bound_of_a_detuned_linear_model_by_hand(bound, rng):
    options = {} if bound == "closed" else {"bound": BOUNDS[bound]}
    model, x = detuned(rng, **options), correlated(rng, 3)
    expected = exact_elbo(model, x)
    draws = model(x.expand(50_000, 3, D))  # IWAE of one draw is the ELBO
    assert draws.shape == (50_000, 3)
    assert within(draws, expected)
    assert not within(draws, expected + 0.05 * draws.std(0))


def test_the_gap_is_the_divergence_from_the_posterior(rng):
    model, x = detuned(rng), correlated(rng, 6)
    posterior, marginal = truth(model, x)
    q = model.encoder(x)
    q = td.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    gap = marginal.log_prob(x) - exact_elbo(model, x)
    torch.testing.assert_close(gap, td.kl_divergence(q, posterior.expand([6])))
    assert gap.min() > 0.1


def test_bounds_rise_with_the_number_of_draws(rng):
    x = correlated(rng)[:1]
    model = tuned(correlated(rng))
    model.encoder.log_sigma.data += 0.3
    model.encoder.mu.bias.data += 0.3
    with torch.no_grad():
        log_p = truth(model, x)[1].log_prob(x)
        log_w = model.log_w(x.expand(10_000, D), 16)
    assert torch.equal(iwae(log_w[:1]), elbo(log_w[:1]))
    # K draws at a time, and the same draws for every K: the differences have little noise.
    scores = [torch.stack([iwae(part) for part in log_w.split(K)]).mean(0) for K in (1, 2, 4, 16)]
    torch.testing.assert_close(scores[0], elbo(log_w))
    assert within(scores[0], exact_elbo(model, x).detach())
    for lower, higher in itertools.pairwise([*scores, log_p]):
        rise = higher - lower
        assert rise.mean() > 5 * rise.std() / math.sqrt(len(rise))
    assert within(log_w.exp().mean(0), log_p.exp())  # E[w] = p(x)


def test_bounds_by_a_loop(rng):
    log_w = torch.randn(3, 2, 4, generator=rng) * 3
    w = np.exp(log_w.numpy())
    for b in np.ndindex(2, 4):
        each = [w[k][b] for k in range(3)]
        assert elbo(log_w)[b].item() == pytest.approx(sum(map(math.log, each)) / 3)
        assert iwae(log_w)[b].item() == pytest.approx(math.log(sum(each) / 3))
    low = iwae(log_w - 1e4)  # where w itself is zero
    torch.testing.assert_close(low, iwae(log_w) - 1e4)


# --- the two terms -------------------------------------------------------------------------------


def test_log_weights_and_reconstruction_by_a_loop(rng):
    """Sums over pixels, of logarithms; the weights p(x|z) p(z) / q(z|x); sigma, not sigma^2."""
    model = binary_vae(rng, latent=2)
    x = EVERY[3:8]
    torch.manual_seed(5)
    log_w = model.log_w(x, 3)
    torch.manual_seed(5)
    reconstruction, kl = model.reconstruction_and_kl(x, 3)
    torch.manual_seed(5)
    noise = torch.randn(3, 5, 2)
    with torch.no_grad():
        h = model.encoder.body(x)
        mu, sigma = model.encoder.mu(h), model.encoder.log_sigma(h).exp()
        logits = model.decoder.logits(model.decoder.body(mu + sigma * noise))

    def log_normal(z, mu, sigma):
        return -0.5 * math.log(2 * math.pi) - math.log(sigma) - ((z - mu) / sigma) ** 2 / 2

    for n in range(5):
        log_likelihoods = []
        for k in range(3):
            log_x = 0.0
            for i in range(4):
                share = 1 / (1 + math.exp(-logits[k, n, i].item()))
                log_x += math.log(share if x[n, i] == 1 else 1 - share)
            log_likelihoods.append(log_x)
            for j in range(2):
                m, s = mu[n, j].item(), sigma[n, j].item()
                z = m + s * noise[k, n, j].item()
                log_x += log_normal(z, 0, 1) - log_normal(z, m, s)
            assert log_w[k, n].item() == pytest.approx(log_x)
        assert reconstruction[n].item() == pytest.approx(sum(log_likelihoods) / 3)
        for j in range(2):
            m, s = mu[n, j].item(), sigma[n, j].item()
            assert kl[n, j].item() == pytest.approx((s**2 + m**2 - 1) / 2 - math.log(s))


def test_divergence_of_each_latent_variable(rng):
    mu, sigma = torch.randn(3, H, generator=rng), torch.rand(3, H, generator=rng) + 0.3
    a, b = torch.randn(H, generator=rng), torch.rand(H, generator=rng) + 0.5
    q, p = td.Normal(mu, sigma), td.Normal(a, b)
    decoder = ConditionalBernoulli(mlp(H, 3), 3, 4)

    class Prior(nn.Module):
        def forward(self):
            return DiagonalGaussian(a, b.log())

    _, kl = VAE(Given(mu, sigma), decoder, Prior()).reconstruction_and_kl(EVERY[:3])
    torch.testing.assert_close(kl, td.kl_divergence(q, p))
    assert not torch.allclose(kl, td.kl_divergence(p, q))
    z = q.sample((100_000,))
    assert within(q.log_prob(z) - p.log_prob(z), kl)
    assert (kl > 0).all()
    _, none = VAE(Given(mu * 0, sigma**0), decoder, StandardNormal(H)).reconstruction_and_kl(
        EVERY[:3]
    )
    assert torch.equal(none, torch.zeros(3, H))


def test_a_divergence_of_another_kind_is_one_number(rng):
    class Full(nn.Module):
        def forward(self, x=None):
            root = torch.eye(H) + torch.ones(H, H).tril() / (2 if x is None else 3)
            mean = torch.zeros(H) if x is None else x[..., :H]
            return td.MultivariateNormal(mean, scale_tril=root)

    model = VAE(Full(), ConditionalBernoulli(mlp(H, 3), 3, 4), Full(), beta=2.0)
    torch.manual_seed(1)
    reconstruction, kl = model.reconstruction_and_kl(EVERY)
    torch.testing.assert_close(kl, td.kl_divergence(Full()(EVERY), Full()())[:, None])
    torch.manual_seed(1)
    torch.testing.assert_close(model(EVERY), reconstruction - 2 * kl[:, 0])


def objective_and_terms(model, x, seed=1):
    torch.manual_seed(seed)
    objective = model(x)
    torch.manual_seed(seed)
    return objective, *model.reconstruction_and_kl(x, model.samples)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 0.0, 4.0])
def test_beta_scales_the_divergence_alone(beta, samples, rng):
    model = binary_vae(rng, latent=2, beta=beta, samples=samples)
    objective, reconstruction, kl = objective_and_terms(model, EVERY)
    torch.testing.assert_close(objective, reconstruction - beta * (kl[:, 0] + kl[:, 1]))


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_free_bits_by_hand(beta, rng):
    # Of latent 1 the two divergences are 0.02 and 0.18, 0.1 on average; of latent 2, 2 and 8.
    mu = torch.tensor([[0.2, 2.0], [0.6, 4.0]])
    encoder = Given(mu, torch.ones(2, 2))
    decoder = randomised(ConditionalBernoulli(mlp(2, 3), 3, 4), rng)

    def score(free_bits):
        model = VAE(encoder, decoder, StandardNormal(2), beta=beta, free_bits=free_bits)
        return objective_and_terms(model, EVERY[:2])

    for free_bits, expected in [(0.09, 5.1), (0.15, 5.15), (1.0, 6.0), (7.0, 14.0)]:
        objective, reconstruction, kl = score(free_bits)
        torch.testing.assert_close(kl, mu.square() / 2)
        torch.testing.assert_close(objective, reconstruction - beta * expected)

    def gradient_of_the_divergence(free_bits):
        objective, reconstruction, _ = score(free_bits)
        return torch.autograd.grad((objective - reconstruction).mean(), encoder.mu)[0]

    pull = -beta * mu / 2
    torch.testing.assert_close(gradient_of_the_divergence(0), pull)
    torch.testing.assert_close(gradient_of_the_divergence(0.15), pull * torch.tensor([0.0, 1.0]))
    assert torch.equal(gradient_of_the_divergence(7.0), torch.zeros(2, 2))
    # The means agree with no free bits where every latent is above the floor.
    assert score(0.01)[0].mean().item() == pytest.approx(score(0)[0].mean().item())


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_prior_without_a_closed_form(bound, rng):
    prior = Mixture(torch.zeros(3, 2))  # is N(0, I) after all, which torch does not know
    model = binary_vae(rng, latent=2)
    mixed = VAE(model.encoder, model.decoder, prior, bound=BOUNDS[bound], samples=4)
    if bound == "closed":
        with pytest.raises(
            ValueError, match=r"DiagonalGaussian \|\| MixtureSameFamily.*bound=elbo"
        ):
            mixed(EVERY)
    else:
        simple = VAE(model.encoder, model.decoder, model.prior, bound=BOUNDS[bound], samples=4)
        torch.manual_seed(1)
        expected = simple(EVERY)
        torch.manual_seed(1)
        torch.testing.assert_close(mixed(EVERY), expected)
        mixed(EVERY).mean().backward()
        assert prior.means.grad.abs().sum() > 0  # the prior learns as well
    assert mixed.sample((6,)).shape == (6, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "at least one draw of z is needed, not 0"),
        ({"samples": -1}, "not -1"),
        ({"bound": elbo, "beta": 2.0}, "leave bound out"),
        ({"bound": iwae, "beta": 0.0}, "leave bound out"),
        ({"bound": iwae, "free_bits": 0.1}, "leave bound out"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message, rng):
    with pytest.raises(ValueError, match=message):
        binary_vae(rng, **options)


def test_a_picture_of_another_width_is_refused(rng):
    for options in ({}, {"bound": iwae}):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            binary_vae(rng, **options)(torch.zeros(2, 5))


# --- gradients -----------------------------------------------------------------------------------


def integrated(model, x, K):
    """The bound of K draws of one latent, every expectation by Gauss-Hermite quadrature."""
    nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(200))
    weights = weights / weights.sum()
    h = model.encoder.body(x)
    mu, log_sigma = model.encoder.mu(h)[:, 0], model.encoder.log_sigma(h)[:, 0]
    z = mu[:, None] + log_sigma.exp()[:, None] * nodes  # (B, nodes)
    logits = model.decoder.logits(model.decoder.body(z[..., None]))
    log_x = (x[:, None] * logits - logits.exp().log1p()).sum(-1)
    log_w = log_x - z.square() / 2 + nodes.square() / 2 + log_sigma[:, None]
    if K == 1:
        return log_w @ weights
    pairs = torch.logaddexp(log_w[:, :, None], log_w[:, None, :]) - math.log(2)
    return torch.einsum("bij,i,j->b", pairs, weights, weights)


@pytest.mark.parametrize(
    ("bound", "K", "samples"),
    [(None, 1, 1), (None, 1, 3), (elbo, 1, 1), (elbo, 1, 2), (iwae, 1, 1), (iwae, 2, 2)],
)
def test_the_gradient_is_unbiased(bound, K, samples, rng):
    model = binary_vae(rng, bound=bound, samples=samples)
    x = EVERY[[1, 6, 14]]
    parameters = list(model.parameters())
    expected = torch.autograd.grad(integrated(model, x, K).mean(), parameters)
    expected = torch.cat([g.flatten() for g in expected])
    draws = []
    for _ in range(200):
        found = torch.autograd.grad(model(x.repeat(200, 1)).mean(), parameters)
        draws.append(torch.cat([g.flatten() for g in found]))
    draws = torch.stack(draws)
    assert within(draws, expected)
    assert not within(draws, expected * 1.05)
    assert expected.abs().max() > 0.1


def test_the_bound_is_stochastic_and_a_reconstruction_is_not(rng):
    """Scoring the mean cause, z = mu, would be neither the ELBO nor an estimate of it."""
    for options in ({}, {"bound": elbo}, {"bound": iwae, "samples": 5}):
        model = binary_vae(rng, **options).eval()
        assert not torch.equal(model(EVERY), model(EVERY))
        assert torch.equal(model.reconstruct(EVERY), model.reconstruct(EVERY))
    model, x = detuned(rng), correlated(rng, 1)
    with torch.no_grad():
        at_mean = model.decoder(model.encoder(x).mean).log_prob(x)
        draws, _ = model.reconstruction_and_kl(x.expand(20_000, D))
    # Every spread of the cause costs: E|x - W z - b|^2 = |x - W mu - b|^2 + sum_j s_j^2 |W_j|^2.
    spread = (2 * model.encoder.log_sigma).exp() * model.decoder.mu.weight.square()
    cost = spread.sum().item() / (2 * (2 * model.decoder.log_sigma).exp().item())
    assert within(draws, at_mean - cost)
    assert not within(draws, at_mean)


# --- binary data, and quadrature over the latent -------------------------------------------------


def log_p(model, x, latent):
    """ln p(x) of `binary_vae` by quadrature over the prior."""
    nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(200))
    z = torch.cartesian_prod(*[nodes] * latent).reshape(-1, latent)
    weights = torch.cartesian_prod(*[weights / weights.sum()] * latent).reshape(-1, latent).prod(1)
    with torch.no_grad():
        shares = model.decoder.logits(model.decoder.body(z)).sigmoid()
    likelihood = torch.where(x[:, None] == 1, shares, 1 - shares).prod(-1)
    return (likelihood @ weights).log()


@pytest.mark.parametrize("latent", [1, 2])
def test_a_binary_model_by_quadrature(latent, rng):
    model = binary_vae(rng, latent)
    exact = log_p(model, EVERY, latent)
    assert exact.exp().sum().item() == pytest.approx(1)
    with torch.no_grad():
        log_w = model.log_w(EVERY, 40_000)
    assert within(log_w.exp(), exact.exp())  # E[w] = p(x)
    assert (elbo(log_w) < exact).all()
    with torch.no_grad():
        closed = model(EVERY.expand(40_000, 16, 4))
    assert within(closed - log_w, 0)
    assert sampling_p_value(model.sample((20_000,)), lambda x: log_p(model, x, latent)) > 1e-3


@pytest.mark.parametrize("latent", [1, 2])
def test_importance_sampling_approaches_the_likelihood_from_above(latent, rng):
    model = binary_vae(rng, latent)
    exact = -log_p(model, EVERY, latent).mean().item()
    few, many = (
        torch.tensor([importance_sampled_nll(model, EVERY, K).mean for _ in range(repeats)])
        for K, repeats in ((2, 200), (5000, 10))
    )
    assert within(many, exact)
    assert abs(many.mean() - exact) < 0.01
    assert few.mean() - exact > 5 * few.std() / math.sqrt(len(few))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("options", [{}, {"bound": iwae, "samples": 3}])
def test_shapes_and_gradients(shape, options, rng):
    model = binary_vae(rng, latent=2, **options)
    x = model.sample(shape)
    assert x.shape == (*shape, 4)
    assert ((x == 0) | (x == 1)).all()
    assert not x.requires_grad
    objective = model(x)
    assert objective.shape == shape
    assert objective.requires_grad
    assert model.log_w(x, 7).shape == (7, *shape)
    assert model.log_w(x).shape == (1, *shape)
    reconstruction, kl = model.reconstruction_and_kl(x, 2)
    assert reconstruction.shape == shape
    assert kl.shape == (*shape, 2)
    x_hat = model.reconstruct(x)
    assert x_hat.shape == x.shape
    assert not x_hat.requires_grad
    z = model.encoder.mu(model.encoder.body(x))
    shares = model.decoder.logits(model.decoder.body(z)).sigmoid()
    torch.testing.assert_close(x_hat, shares.detach())


# --- the parts -----------------------------------------------------------------------------------


def test_a_conditional_gaussian_has_the_spread_exp_log_sigma(rng):
    layer = randomised(ConditionalGaussian(mlp(3, 4), 4, 2), rng)
    x = torch.randn(6, 3, generator=rng)
    q, h = layer(x), layer.body(x)
    assert (q.batch_shape, q.event_shape) == ((6,), (2,))
    torch.testing.assert_close(q.mean, h @ layer.mu.weight.T + layer.mu.bias)
    spread = (h @ layer.log_sigma.weight.T + layer.log_sigma.bias).exp()
    torch.testing.assert_close(q.stddev, spread)


def test_a_linear_gaussian_has_one_spread_or_one_for_each(rng):
    h = torch.randn(4, 3, generator=rng)
    for one_spread, numbers in ((True, 1), (False, 2)):
        layer = randomised(LinearGaussian(3, 2, one_spread), rng)
        assert layer.log_sigma.shape == (numbers,)
        p = layer(h)
        torch.testing.assert_close(p.mean, h @ layer.mu.weight.T + layer.mu.bias)
        torch.testing.assert_close(p.stddev, layer.log_sigma.exp().expand(4, 2))
    model = linear_vae(D, H, samples=3, beta=2.0)
    assert (model.samples, model.beta) == (3, 2)
    assert model.decoder.log_sigma.shape == (1,)
    assert model.encoder.log_sigma.shape == (H,)


def test_a_decoder_starts_from_marginals(rng):
    decoder = ConditionalBernoulli(mlp(2, 3), 3, 4)
    decoder.logits.weight.data.zero_()
    decoder.start_from(torch.tensor([0.0, 0.25, 0.9, 1.0]))
    assert decoder.logits.bias.requires_grad
    p = decoder(torch.randn(5, 2, generator=rng))
    torch.testing.assert_close(p.mean, torch.tensor([0.001, 0.25, 0.9, 0.999]).expand(5, 4))


def test_the_prior_follows_the_model(rng):
    prior = StandardNormal(3)
    z = torch.randn(4, 3, generator=rng)
    expected = td.MultivariateNormal(torch.zeros(3), torch.eye(3)).log_prob(z)
    torch.testing.assert_close(prior().log_prob(z), expected)
    assert prior.state_dict() == {}
    for dtype in (torch.float32, torch.float64):
        assert prior.to(dtype)().sample((2,)).dtype == dtype
    model = binary_vae(rng).float()
    assert model(EVERY.float()).dtype == model.sample((2,)).dtype == torch.float32


@pytest.mark.parametrize("build", [binary_vae, detuned], ids=["binary", "linear"])
def test_state_is_kept(build, rng):
    original, other = build(rng), build(rng)
    x = torch.zeros(3, 4 if build is binary_vae else D)
    assert not torch.equal(other.reconstruct(x), original.reconstruct(x))
    other.load_state_dict(original.state_dict())
    assert torch.equal(other.reconstruct(x), original.reconstruct(x))
    torch.manual_seed(1)
    expected = original.log_w(x, 2)
    torch.manual_seed(1)
    assert torch.equal(other.log_w(x, 2), expected)


@pytest.mark.parametrize("bound", BOUNDS)
def test_scores_stay_in_float32_under_autocast(bound, rng):
    model = binary_vae(rng, latent=2, scale=0.5, bound=BOUNDS[bound]).float()
    x = EVERY.float().repeat(50, 1)
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.encoder.mu(model.encoder.body(x)).dtype == torch.bfloat16
        found = model(x)
        q = model.encoder(x)
        assert q.mean.dtype == q.stddev.dtype == torch.float32
        assert model.decoder(q.mean).logits.dtype == torch.float32
        assert model.log_w(x, 2).dtype == model.reconstruct(x).dtype == torch.float32
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.03)


def test_active_units_by_construction():
    """Variances of the means, over all examples at once, compared with the threshold."""
    encoder = LinearGaussian(3, 4)
    encoder.mu.weight.data = torch.tensor([[1.0, 0, 0], [0, 0.2, 0], [0, 0.05, 0], [0, 0, 0]])
    encoder.mu.bias.data = torch.tensor([0.0, 1, 2, 50])  # an offset says nothing about x
    model = VAE(encoder, LinearGaussian(4, 3), StandardNormal(4))
    x = torch.ones(2500, 3)
    x[1250:, 1] = -1  # varies between the parts that are encoded at a time, hardly within
    x[1::2, 0] = -1
    assert active_units(model, x).tolist() == [True, True, False, False]
    assert active_units(model, x, threshold=0.05).tolist() == [True, False, False, False]
    assert active_units(model, x, threshold=0.002).tolist() == [True, True, True, False]
    assert active_units(model, x[:1250]).tolist() == [True, False, False, False]


# --- several layers ------------------------------------------------------------------------------


def agrees_with(distribution, normal, rng):
    """Is a chain, its density and its draws, this joint normal?"""
    z = torch.randn(9, *normal.batch_shape, *normal.event_shape, generator=rng)
    torch.testing.assert_close(distribution.log_prob(z), normal.log_prob(z))
    draws = distribution.rsample((100_000,)).detach()
    assert draws.shape == (100_000, *normal.batch_shape, *normal.event_shape)
    centred = draws - normal.mean
    assert within(centred, 0)
    assert within(centred[..., :, None] * centred[..., None, :], normal.covariance_matrix)


def through(mean, covariance, layer):
    """Of (a, b) side by side: a normal, b what a linear layer makes of it."""
    W, b, variance = layer.mu.weight, layer.mu.bias, (2 * layer.log_sigma).exp()
    blocks = [
        torch.cat([covariance, covariance @ W.T], 1),
        torch.cat([W @ covariance, W @ covariance @ W.T + torch.diag(variance)], 1),
    ]
    return torch.cat([mean, W @ mean + b], -1), torch.cat(blocks)


@torch.no_grad()
def test_a_chain_bottom_up_is_the_joint_normal(rng):
    layers = [LinearGaussian(D, 2), LinearGaussian(2, 1), LinearGaussian(1, 3)]
    chain = randomised(Chain(layers, [2, 1, 3]), rng)
    assert repr(chain(torch.ones(D, dtype=torch.float64))) == "_Chained()"
    x = torch.randn(D, generator=rng)
    mean, covariance = layers[0].mu(x), torch.diag((2 * layers[0].log_sigma).exp())
    mean, covariance = through(mean, covariance, layers[1])
    # z3 hangs on z2 alone, the last of the numbers so far.
    W = torch.cat([torch.zeros(3, 2), layers[2].mu.weight], 1)
    cross = W @ covariance
    noise = torch.diag((2 * layers[2].log_sigma).exp())
    covariance = torch.cat(
        [torch.cat([covariance, cross.T], 1), torch.cat([cross, cross @ W.T + noise], 1)]
    )
    mean = torch.cat([mean, W @ mean + layers[2].mu.bias])
    agrees_with(chain(x), td.MultivariateNormal(mean, covariance), rng)


@torch.no_grad()
def test_a_chain_from_the_top_is_of_the_vectors_z1_z2(rng):
    down = LinearGaussian(1, 2)
    chain = randomised(Chain([StandardNormal(1), down], [2, 1], top_down=True), rng)
    mean, covariance = through(torch.zeros(1), torch.eye(1), down)
    place = [1, 2, 0]  # (z2, z1) -> (z1, z2)
    agrees_with(chain(), td.MultivariateNormal(mean[place], covariance[place][:, place]), rng)
    assert chain().sample((3, 2)).shape == (3, 2, 3)


def test_a_chain_reaches_every_layer_with_its_gradient(rng):
    chain = randomised(Chain([LinearGaussian(D, 2), LinearGaussian(2, 1)], [2, 1]), rng)
    chain(correlated(rng, 4)).rsample((3,)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in chain.parameters())


class First(LinearGaussian):
    """A decoder that sees z1 of (z1, z2) alone."""

    def forward(self, z):
        return super().forward(z[..., : self.mu.in_features])


def two_layers(rng, **options):
    """z2 -> z1 -> x, with an encoder x -> z1 -> z2; widths of z1 and z2: 2 and 1."""
    prior = Chain([StandardNormal(1), LinearGaussian(1, 2)], [2, 1], top_down=True)
    encoder = Chain([LinearGaussian(D, 2), LinearGaussian(2, 1)], [2, 1])
    model = randomised(VAE(encoder, First(2, D, one_spread=True), prior, **options), rng)
    down, out = prior.layers[1], model.decoder
    # p(z1 | x) is diagonal where z1 is, and where the columns of W are orthogonal.
    down.mu.weight.data[1] = 0
    out.mu.weight.data = torch.linalg.qr(out.mu.weight.data).Q * torch.tensor([2.0, 0.7])
    return model


def joint_of_two_layers(model):
    """Mean and covariance of (z2, z1, x)."""
    down, out = model.prior.layers[1], model.decoder
    mean, covariance = through(torch.zeros(1), torch.eye(1), down)
    W = torch.cat([torch.zeros(D, 1), out.mu.weight], 1)
    cross = W @ covariance
    noise = (2 * out.log_sigma).exp() * torch.eye(D)
    return torch.cat([mean, W @ mean + out.mu.bias]), torch.cat(
        [torch.cat([covariance, cross.T], 1), torch.cat([cross, cross @ W.T + noise], 1)]
    )


def infer_exactly(model):
    """Set the encoder to the posterior; return p(x)."""
    mean, covariance = joint_of_two_layers(model)
    up, top = model.encoder.layers
    # x -> z1 and z1 -> z2, by conditioning; the means are linear in the conditions.
    for layer, parts in ((up, [1, 2, *range(3, 3 + D)]), (top, [0, 1, 2])):
        m, c = mean[parts], covariance[parts][:, parts]
        width = layer.mu.in_features
        at_zero, _ = conditioned(m, c, torch.zeros(width))
        at_unit, _ = conditioned(m, c, torch.eye(width))
        layer.mu.bias.data = at_zero.mean
        layer.mu.weight.data = (at_unit.mean - at_zero.mean).T
        spread = at_zero.covariance_matrix
        torch.testing.assert_close(spread, torch.diag(spread.diag()))
        layer.log_sigma.data = spread.diag().log() / 2
    return td.MultivariateNormal(mean[3:], covariance[3:, 3:])


@torch.no_grad()
def test_two_layers_with_their_exact_posterior(rng):
    model = two_layers(rng, bound=iwae, samples=3)
    log_p = infer_exactly(model).log_prob(x := correlated(rng, 6))
    torch.testing.assert_close(model.log_w(x, 4), log_p.expand(4, 6))
    torch.testing.assert_close(model(x), log_p)
    draws = model.sample((50_000,))
    marginal = infer_exactly(model)
    assert within(draws, marginal.mean)
    centred = draws - marginal.mean
    assert within(centred[..., None] * centred[..., None, :], marginal.covariance_matrix)


@torch.no_grad()
def test_two_layers_with_another_posterior(rng):
    model = two_layers(rng, bound=elbo)
    marginal = infer_exactly(model)
    x = marginal.sample((3,))
    for layer in model.encoder.layers:
        layer.mu.bias.data += 0.2
        layer.log_sigma.data += 0.2  # wider: the weights have a finite variance
    log_p = marginal.log_prob(x)
    assert within(model.log_w(x, 100_000).exp(), log_p.exp())
    bound = model(x.expand(10_000, 3, D))
    assert (bound.mean(0) < log_p).all()
    assert not within(bound, log_p)


def test_a_chain_needs_a_size_for_each_layer(rng):
    with pytest.raises(ValueError, match="1 layers, but 2 sizes"):
        Chain([StandardNormal(2)], [2, 1])
    with pytest.raises(ValueError, match="_Chained"):
        VAE(*(getattr(two_layers(rng), part) for part in ("encoder", "decoder", "prior")))(
            torch.zeros(2, D)
        )


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", BOUNDS)
def test_one_epoch_of_training_raises_the_objective(bound):
    data = EVERY[[0, 15]].float().repeat(1000, 1)
    encoder = ConditionalGaussian(mlp(4, 8), 8, 1)
    decoder = ConditionalBernoulli(mlp(1, 8), 8, 4)
    torch.manual_seed(0)
    model = VAE(encoder, decoder, StandardNormal(1), bound=BOUNDS[bound], samples=2).float()
    with torch.no_grad():
        before = model(data).mean()
    history = fit(model, Batches(data, 20), epochs=1, learning_rate=0.05, device="cpu")
    with torch.no_grad():
        after = model(data).mean()
    assert after > before + 0.3
    assert after < -math.log(2)  # no bound is above the best ln p(x) there is
    assert len(history["train"]) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: linear_vae(3, 2, beta=-1.0), "negative"),
        (lambda: linear_vae(3, 2, free_bits=-1.0), "negative"),
        (lambda: linear_vae(3, 2, beta=math.nan), "negative"),
        (lambda: linear_vae(3, 2).log_w(torch.zeros(1, 3), 0), "at least one draw"),
        # Would be broadcast: the one latent paid for twenty times over.
        (
            lambda: VAE(LinearGaussian(3, 1), LinearGaussian(1, 3), StandardNormal(20))(
                torch.zeros(2, 3)
            ),
            r"the encoder gives latents of shape \(1,\), the prior of \(20,\)",
        ),
        (lambda: active_units(linear_vae(3, 2), torch.zeros(1, 3)), "two of them"),
        (lambda: one_layer(3)(torch.full((2, 3), 255, dtype=torch.uint8)), "grey values"),
        (lambda: ppca(torch.randn(3, 6, dtype=torch.float64), 4), "no spread"),
        (lambda: Chain([], []), "0 layers"),
        (
            lambda: Chain([LinearGaussian(3, 2), LinearGaussian(2, 3)], [2, 2])(
                torch.zeros(3)
            ).rsample(),
            "the layers draw",
        ),
        (
            lambda: ConditionalBernoulli(torch.nn.Identity(), 2, 3).start_from(torch.tensor(0.3)),
            "a share of ones for each",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_single_example():
    x = torch.zeros(3)
    assert linear_vae(3, 2, free_bits=0.1)(x).shape == ()
    best = ppca(torch.randn(50, 3), 2)
    assert best.posterior(x).mean.shape == (2,)


def test_whether_a_unit_is_active_does_not_hang_on_dropout():
    torch.manual_seed(0)
    encoder = ConditionalGaussian(nn.Sequential(nn.Dropout(), nn.Linear(6, 4)), 4, 3)
    model = VAE(encoder, ConditionalBernoulli(nn.Identity(), 3, 6), StandardNormal(3))
    assert not active_units(model, torch.ones(500, 6)).any()  # all examples are the same
    assert model.training


def test_a_chain_says_that_it_has_no_mean(rng):
    model = two_layers(rng)
    for ask in (model.reconstruct, lambda x: active_units(model, x)):
        with pytest.raises(NotImplementedError, match="no mean"):
            ask(torch.ones(6, D))


def test_a_likelihood_of_single_entries_is_refused():
    """Whoever forgets Independent would train on a mean over pixels, without a word."""

    class Coins(nn.Linear):
        def forward(self, z):
            return td.Bernoulli(logits=super().forward(z))

    for features in (5, 20):  # 20 examples of 20 entries fit each other by accident
        encoder = ConditionalGaussian(nn.Identity(), features, 3)
        model = VAE(encoder, Coins(3, features), StandardNormal(3)).float()
        with pytest.raises((ValueError, RuntimeError), match=r"one value for each|must match"):
            fit(model, Batches(torch.ones(20, features).float(), 20), epochs=1)


def test_entries_that_are_vectors_are_not_summed_over_the_batch():
    q = td.Independent(td.MultivariateNormal(torch.zeros(4, 3), torch.eye(3)), 0)
    p = td.Independent(td.MultivariateNormal(torch.ones(4, 3), torch.eye(3)), 0)
    assert closed_form_kl(q, p).shape == (4, 1)


def test_rounding_is_no_variance_left_over():
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        flat = torch.randn(50, 2, generator=generator) @ torch.randn(2, 5, generator=generator)
        with pytest.raises(ValueError, match="no spread beyond 3"):
            ppca(flat, 3)
