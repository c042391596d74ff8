"""The two distributions of `companion.vae`: against torch's, quadrature and enumeration, and in
extremes where torch's own give up."""

import math

import numpy as np
import pytest
import torch
from torch import distributions as td

from companion.checks import all_binary, sampling_p_value, total_probability
from companion.vae import DiagonalGaussian, FactorizedBernoulli
from companion.vae.distributions import kl_each

pytestmark = pytest.mark.usefixtures("float64")

KINDS = {"gaussian": DiagonalGaussian, "bernoulli": FactorizedBernoulli}
LN_2PI = math.log(2 * math.pi)
close = torch.testing.assert_close


def arguments(kind, shape, rng):
    """Ordinary ones: means and logits about 1 in size, spreads between 0.2 and 5."""
    numbers = [torch.randn(shape, generator=rng) for _ in range(2)]
    return [numbers[0], numbers[1] / 2] if kind == "gaussian" else numbers[:1]


def torchs(kind, arguments):
    """The same distribution by torch."""
    if kind == "gaussian":
        return td.Independent(td.Normal(arguments[0], arguments[1].exp()), 1)
    return td.Independent(td.Bernoulli(logits=arguments[0]), 1)


def gaussians(rng, *shapes):
    return [DiagonalGaussian(*arguments("gaussian", shape, rng)) for shape in shapes]


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3), torch.Size([6])])
def test_agrees_with_torch_in_every_shape(kind, batch, sample_shape, rng):
    given = arguments(kind, (*batch, 4), rng)
    ours, theirs = KINDS[kind](*given), torchs(kind, given)
    assert (ours.batch_shape, ours.event_shape) == (batch, (4,))
    for moment in ("mean", "stddev", "variance"):
        close(getattr(ours, moment), getattr(theirs, moment))
    x = ours.sample(sample_shape)
    assert x.shape == (*sample_shape, *batch, 4)
    log_p = ours.log_prob(x)
    assert log_p.shape == (*sample_shape, *batch)
    close(log_p, theirs.log_prob(x))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_scored_broadcasts_from_the_left(kind, rng):
    """Against a batch (B, D): one vector, K draws of each, and K distributions for each vector."""
    batch, draws = arguments(kind, (3, 4), rng), arguments(kind, (5, 3, 4), rng)
    x = KINDS[kind](*draws).sample()
    found = KINDS[kind](*batch).log_prob(x), KINDS[kind](*draws).log_prob(x[0])
    one = KINDS[kind](*batch).log_prob(x[0, 0])
    for b in range(3):
        p = torchs(kind, [a[b] for a in batch])
        close(one[b], p.log_prob(x[0, 0]))
        for k in range(5):
            close(found[0][k, b], p.log_prob(x[k, b]))
            close(found[1][k, b], torchs(kind, [a[k, b] for a in draws]).log_prob(x[0, b]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_computes_in_float32_or_better_whatever_the_default(kind, default, dtype, rng):
    torch.set_default_dtype(default)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    # Their exponentials leave the range of half precision, or are rounded in bfloat16.
    numbers = torch.tensor([[-20.0, -1.3, 0.7, 13.0]], dtype=dtype)
    given = [numbers] * (2 if kind == "gaussian" else 1)
    p, wide = KINDS[kind](*given), KINDS[kind](*(a.to(expected) for a in given))
    for moment in ("mean", "stddev", "variance"):
        assert getattr(p, moment).dtype == expected
        assert torch.equal(getattr(p, moment), getattr(wide, moment))
    x = p.sample((3,))
    assert x.dtype == p.log_prob(x).dtype == expected
    assert torch.equal(p.log_prob(x), wide.log_prob(x))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_torch(kind, rng):
    given = [a.requires_grad_() for a in arguments(kind, (3, 4), rng)]
    x = KINDS[kind](*given).sample((5,)).requires_grad_()
    scores = (p.log_prob(x).square().sum() for p in (KINDS[kind](*given), torchs(kind, given)))
    found, expected = (torch.autograd.grad(score, [x, *given]) for score in scores)
    assert all(gradient.abs().sum() > 0 for gradient in found)
    close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_no_gradient_and_what_is_given_stays_as_it_is(kind, rng):
    given = [a.requires_grad_() for a in arguments(kind, (3, 4), rng)]
    before = [a.detach().clone() for a in given]
    p = KINDS[kind](*given)
    x = p.sample((2,))
    assert not x.requires_grad
    kept = x.clone()
    p.log_prob(x).sum().backward()
    assert p.mean.requires_grad
    assert p.variance.requires_grad
    assert torch.equal(x, kept)
    assert all(map(torch.equal, given, before))


@pytest.mark.parametrize("kind", KINDS)
def test_torch_knows_them_as_its_own(kind, rng):
    p = KINDS[kind](*arguments(kind, (2, 3, 4), rng))
    assert isinstance(p, td.Distribution)
    assert repr(p) == f"{type(p).__name__}()"
    whole = td.Independent(p, 1)  # the axis of three is one event, too
    assert (whole.batch_shape, whole.event_shape) == ((2,), (3, 4))
    x = whole.sample((5,))
    assert x.shape == (5, 2, 3, 4)
    close(whole.log_prob(x), p.log_prob(x).sum(-1))


# --- normal --------------------------------------------------------------------------------------


def independent(noise):
    """Are standardised draws, ``(N, H)``, uncorrelated, and their variances 1?"""
    n, h = noise.shape
    return ((noise.T @ noise / n - torch.eye(h)).abs() < 6 * math.sqrt(2 / n)).all()


def test_normal_draws_have_the_law_and_are_independent(rng):
    n, (p,) = 10_000, gaussians(rng, (2, 3, 4))
    z = p.sample((n, 2))
    noise = ((z - p.mu) / p.log_sigma.exp()).reshape(n, 48)
    # The distance of Kolmogorov and Smirnov, which is larger once in a million.
    heights = torch.arange(1, n + 1)[:, None] / n
    assert ((td.Normal(0, 1).cdf(noise.sort(0).values) - heights).abs() < 2.7 / math.sqrt(n)).all()
    assert independent(noise)


def test_a_differentiable_draw_is_mu_plus_sigma_times_noise(rng):
    mu, log_sigma = (a.requires_grad_() for a in arguments("gaussian", (3, 4), rng))
    p = DiagonalGaussian(mu, log_sigma)
    assert p.has_rsample
    z, weights = p.rsample((5,)), torch.randn(5, 3, 4, generator=rng)
    gradients = torch.autograd.grad((weights * z).sum(), [mu, log_sigma])
    close(gradients, (weights.sum(0), (weights * (z - mu)).sum(0)))
    torch.manual_seed(1)
    z = p.sample((5,))
    torch.manual_seed(1)
    assert torch.equal(p.rsample((5,)), z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_normal_far_narrower_than_torch_can_score(dtype):
    mu = torch.tensor([0.0, 3.0, -0.5], dtype=dtype, requires_grad=True)
    log_sigma = torch.full_like(mu, -60.0).requires_grad_()
    q = DiagonalGaussian(mu, log_sigma)
    close(q.stddev, torch.full_like(mu, math.exp(-60)), atol=0, rtol=1e-5)
    p = DiagonalGaussian(torch.zeros_like(mu), torch.zeros_like(mu))
    kl = kl_each(q, p)
    close(kl, mu.square() / 2 + 59.5)
    close(torch.autograd.grad(kl.sum(), [mu, log_sigma]), (mu, -torch.ones_like(mu)))
    # In float32 e^-100 keeps two digits, and e^-150 none.
    close(kl_each(DiagonalGaussian(mu, log_sigma - 90), p), mu.square() / 2 + 149.5)
    for size in (60, 100):  # two spreads from a mean of zero: elsewhere z is coarser than they
        narrow = DiagonalGaussian(mu[:1] * 0, mu[:1] * 0 - size)
        close(narrow.log_prob(2 * narrow.sigma).item(), size - 2 - LN_2PI / 2, rtol=1e-6, atol=0)
    if dtype == torch.float32:  # why the logarithm is kept
        theirs = td.Normal(mu, log_sigma.exp())
        assert td.kl_divergence(theirs, td.Normal(p.mean, p.stddev)).isinf().all()
        assert not theirs.log_prob(mu + 2 * theirs.scale).isfinite().any()


# --- their divergence ----------------------------------------------------------------------------


def test_the_divergence_of_each_entry_by_quadrature(rng):
    q, p = gaussians(rng, (2, 3, 4), (4,))  # the prior has no batch
    nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(20))
    z = q.mu[..., None] + q.sigma[..., None] * nodes
    parts = [td.Normal(d.mu[..., None], d.log_sigma.exp()[..., None]) for d in (q, p)]
    gap = parts[0].log_prob(z) - parts[1].log_prob(z)
    found = kl_each(q, p)
    assert found.shape == (2, 3, 4)
    close(found, gap @ (weights / weights.sum()))
    assert (found > 0).all()
    assert torch.equal(kl_each(q, q), torch.zeros(2, 3, 4))


def test_the_divergence_and_its_gradients_are_those_of_torch(rng):
    given = [[a.requires_grad_() for a in arguments("gaussian", s, rng)] for s in [(3, 4), (4,)]]
    ours = [DiagonalGaussian(*g) for g in given]
    theirs = [torchs("gaussian", g) for g in given]
    close(kl_each(*ours), td.kl_divergence(*(d.base_dist for d in theirs)))
    divergences = [td.kl_divergence(*pair) for pair in (ours, theirs)]  # ours is registered
    assert divergences[0].shape == (3,)
    close(*divergences)
    assert not torch.allclose(divergences[0], td.kl_divergence(*ours[::-1]))
    inputs = [*given[0], *given[1]]
    found, expected = (torch.autograd.grad(kl.square().sum(), inputs) for kl in divergences)
    assert all(gradient.abs().sum() > 0 for gradient in found)
    close(found, expected)


# --- Bernoulli -----------------------------------------------------------------------------------


def test_coins_have_the_law_and_are_independent(rng):
    (logits,) = arguments("bernoulli", (4,), rng)
    p = FactorizedBernoulli(logits)
    assert total_probability(p.log_prob, 4) == pytest.approx(1)
    close(p.log_prob(all_binary(4)).exp() @ all_binary(4), p.mean)
    assert sampling_p_value(p.sample((20_000,)), p.log_prob) > 1e-3
    # Those of a batch, and of a sample of several axes, are coins of their own.
    x = FactorizedBernoulli(logits.expand(2, 4)).sample((10_000, 2)).reshape(-1, 16)
    assert ((x == 0) | (x == 1)).all()
    assert independent((x - p.mean.repeat(4)) / p.stddev.repeat(4))


def test_coins_have_no_differentiable_draw():
    p = FactorizedBernoulli(torch.zeros(3))
    assert not p.has_rsample
    with pytest.raises(NotImplementedError):
        p.rsample()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coins_that_are_certain(dtype):
    logits = torch.tensor([1000.0, -1000.0], dtype=dtype, requires_grad=True)
    p = FactorizedBernoulli(logits)
    close(p.mean, torch.tensor([1.0, 0.0], dtype=dtype))
    x = torch.tensor([[1.0, 0], [0, 0], [1, 1], [0, 1]], dtype=dtype)
    log_p = p.log_prob(x)
    assert log_p.tolist() == [0, -1000, -1000, -2000]
    assert torch.equal(p.sample((9,)), x[:1].expand(9, 2))
    (gradient,) = torch.autograd.grad(log_p.sum(), logits)
    assert gradient.tolist() == [-2, 2]


def test_rare_outcomes_keep_their_digits():
    """In float64 ln(1 + e^s) is not yet s at 21, and p (1 - p) not yet 0 at 50."""
    s = torch.linspace(-60, 60, 121, requires_grad=True)
    p = FactorizedBernoulli(s[:, None])
    shares = [1 / (1 + math.exp(-v)) for v in s.tolist()]
    log_shares = torch.tensor([-math.log1p(math.exp(-v)) for v in s.tolist()])
    log_p = p.log_prob(torch.ones(121, 1))
    close(log_p, log_shares, rtol=1e-15, atol=1e-14)
    close(p.log_prob(torch.zeros(121, 1)), log_shares.flip(0), rtol=1e-15, atol=1e-14)
    close(torch.autograd.grad(log_p.sum(), s)[0], torch.tensor(shares).flip(0), rtol=0, atol=1e-15)
    variances = torch.tensor([a * b for a, b in zip(shares, reversed(shares), strict=True)])
    close(p.variance[:, 0], variances, rtol=1e-13, atol=0)


@pytest.mark.parametrize("spread", [-45.0, -60.0, -80.0])
def test_divergence_between_two_narrow_ones_in_float32(spread):
    p = DiagonalGaussian(torch.zeros(1), torch.full((1,), spread))
    q = DiagonalGaussian(torch.zeros(1), torch.full((1,), spread + 0.5, requires_grad=True))
    found = kl_each(q, p)
    (gradient,) = torch.autograd.grad(found.sum(), q.log_sigma)
    assert found.item() == pytest.approx((math.e - 1) / 2 - 0.5, rel=1e-4)
    assert gradient.item() == pytest.approx(math.e - 1, rel=1e-4)


def test_a_spread_for_each_mean():
    with pytest.raises(ValueError, match=r"the same shape, got \(2,\) and \(3, 2\)"):
        DiagonalGaussian(torch.zeros(2), torch.zeros(3, 2))
