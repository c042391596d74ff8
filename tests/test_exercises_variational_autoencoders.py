"""The self-checks of the chapter on variational autoencoders: right answers pass, wrong learn why.

Further below, the small models that the detective is handed are themselves examined, by quadrature.
"""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from companion import checks, evaluation
from companion.exercises import variational_autoencoders as ve
from companion.vae import elbo, iwae
from tests.hints import assert_every_hint_is_given

# --- answers as the chapter has them, or nearly so ---------------------------------------------


def kl(mu, log_sigma):
    return ((mu.square() + (2 * log_sigma).exp() - 1) / 2 - log_sigma).sum(-1)


def kl_in_a_loop(mu, log_sigma):
    rows = zip(mu.tolist(), log_sigma.tolist(), strict=True)
    return [
        sum((m * m + math.exp(2 * s) - 1) / 2 - s for m, s in zip(*row, strict=True))
        for row in rows
    ]


def in_float32(function):
    return lambda *tensors: function(*(tensor.float() for tensor in tensors))


def draw(mu, log_sigma, noise=torch.randn_like):
    return mu + log_sigma.exp() * noise(mu)


def draw_in_a_loop(mu, log_sigma):
    columns = zip(mu.unbind(1), log_sigma.unbind(1), strict=True)
    return torch.stack([m + s.exp() * torch.randn(len(m)) for m, s in columns], 1)


def uniform(mu):
    """Of mean 0 and variance 1."""
    return math.sqrt(12) * (torch.rand_like(mu) - 0.5)


@torch.no_grad()
def without_gradient(mu, log_sigma):
    return draw(mu, log_sigma)


def log_mean_weight(log_w):
    largest = log_w.max(0).values
    return largest + (log_w - largest).exp().mean(0).log()


def log_mean_weight_in_a_loop(log_w):
    columns = log_w.T.tolist()
    return [max(c) + math.log(sum(math.exp(w - max(c)) for w in c) / len(c)) for c in columns]


def log_prob(model):
    """ln p(x) by importance weights."""
    return lambda x: iwae(model.log_w(x, 5_000))


def by_the_prior(model):
    """ln p(x) by draws of the prior."""

    def log_prob(x):
        z = model.prior().sample((5_000, 1))
        return iwae(model.decoder(z).log_prob(x))

    return log_prob


X = checks.all_binary(5)


def sums_to_one(model):
    return abs(checks.total_probability(log_prob(model), 5) - 1) < 0.1


@torch.no_grad()
def is_bound(model, log_prob=log_prob):
    return bool((model(X.expand(5_000, -1, -1)).mean(0) <= log_prob(model)(X) + 0.1).all())


@torch.no_grad()
def is_elbo(model):
    """Whether the objective is the mean of the log-weights, which a bound need not be."""
    objective, bound = model(X.expand(5_000, -1, -1)).mean(0), elbo(model.log_w(X, 5_000))
    return torch.allclose(objective, bound, atol=0.5)


def p_value(model, log_prob=log_prob):
    return checks.sampling_p_value(model.sample((5_000,)), log_prob(model))


def is_sound(model):
    return sums_to_one(model) and is_bound(model) and p_value(model) > 1e-4


def is_sound_by_the_prior(model):
    weights = (log_prob(model)(X) - by_the_prior(model)(X)).abs().max() < 0.2
    return weights and is_bound(model, by_the_prior) and p_value(model, by_the_prior) > 1e-4


def gain(a, b):
    return (a - b).mean(), (a - b).std() / math.sqrt(len(a))


def with_error(error):
    """A mean gain that is right, with this standard error."""
    return lambda a, b: ((a - b).mean(), error(a, b))


def two_gradients(f, slope, noise):
    weights = noise.square()
    return (f - (f * weights).sum() / weights.sum()) * noise, slope


def two_gradients_by_regression(f, slope, noise):
    (_, covariance), (_, variance) = torch.stack([f * noise, noise]).cov()
    return (f - covariance / variance) * noise, slope


def with_path(path):
    return lambda f, slope, noise: (two_gradients(f, slope, noise)[0], path(f, slope, noise))


RIGHT = [
    (ve.check_kl_normal, kl),
    (ve.check_kl_normal, kl_in_a_loop),
    (ve.check_kl_normal, in_float32(kl)),
    (
        ve.check_kl_normal,
        lambda mu, s: -0.5 * torch.sum(1 + 2 * s - mu.pow(2) - (2 * s).exp(), dim=1),
    ),
    (ve.check_reparameterise, draw),
    (ve.check_reparameterise, draw_in_a_loop),
    (ve.check_reparameterise, in_float32(draw)),
    (ve.check_reparameterise, lambda mu, s: Normal(mu, s.exp()).rsample()),
    (ve.check_reparameterise, lambda mu, s: mu - (2 * s).exp().sqrt() * torch.randn(mu.shape)),
    (ve.check_gradients, two_gradients),
    (ve.check_gradients, in_float32(two_gradients)),
    (ve.check_gradients, lambda f, slope, e: ((f - (f * e * e).mean()) * e, slope)),
    (ve.check_gradients, two_gradients_by_regression),
    (ve.check_elbo, lambda likelihood, prior, q: (likelihood + prior - q).mean(0)),
    (ve.check_elbo, lambda likelihood, prior, q: elbo(likelihood - (q - prior))),
    (ve.check_elbo, in_float32(lambda likelihood, prior, q: sum(likelihood + prior - q) / len(q))),
    (ve.check_iwae, iwae),
    (ve.check_iwae, log_mean_weight),
    (ve.check_iwae, in_float32(log_mean_weight)),
    (ve.check_iwae, log_mean_weight_in_a_loop),
    (ve.check_noise, lambda values, H: values[H:].mean()),
    (ve.check_noise, lambda values, H: sum(values.tolist()[H:]) / (len(values) - H)),
    (ve.check_in_use, lambda values, noise: (values > noise).sum()),
    (ve.check_in_use, lambda values, noise: sum(value > noise for value in values.tolist())),
    (ve.check_in_use, lambda values, noise: (values - noise).clamp(min=0).count_nonzero()),
    (ve.check_in_use, lambda values, noise: (values.float() > noise).float().sum()),
    (ve.check_bounds, {"elbo", "beta 4", "free bits"}),
    (ve.check_bounds, ["free bits", "elbo", "beta 4"]),
    (ve.check_detective, is_sound),
    (ve.check_detective, is_sound_by_the_prior),
    (ve.check_gain, gain),
    (ve.check_gain, in_float32(gain)),
    (ve.check_gain, lambda a, b: evaluation.Estimate.of(a - b)),
    (ve.check_gain, lambda a, b: torch.stack(gain(a, b))),
    (ve.check_gain, lambda a, b: (a.mean() - b.mean(), (a - b).std(unbiased=False) / 50**0.5)),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer):
    assert check.verdict(answer) == f"✓ {check.label}: correct"


# --- wrong answers -----------------------------------------------------------------------------


WRONG = [
    (ve.check_kl_normal, lambda mu, s: kl(mu, s).sum(), "one number per example"),
    (ve.check_kl_normal, lambda mu, s: -kl(mu, s), "never negative"),
    (ve.check_kl_normal, lambda mu, s: kl(mu, s) / 3, "add, or average"),
    (ve.check_kl_normal, lambda mu, s: 2 * kl(mu, s), "what of the half"),
    (
        ve.check_kl_normal,
        lambda mu, s: (mu**2 + (2 * s).exp() - 1 - s).sum(-1),
        "half before the squares",
    ),
    (
        ve.check_kl_normal,
        lambda mu, s: (mu**2 + (2 * s).exp() - 1 - s).sum(-1) / 2,
        "logarithm taken in the last term",
    ),
    (ve.check_kl_normal, lambda mu, s: kl(mu, s / 2), "read as the logarithm of the variance"),
    (
        ve.check_kl_normal,
        lambda mu, s: ((mu**2 + s.exp() - 1) / 2 - s).sum(-1),
        "mean square of z",
    ),
    (
        ve.check_kl_normal,
        lambda mu, s: ((1 + mu**2) / (2 * s).exp() / 2 - 0.5 + s).sum(-1),
        "from the prior to q",
    ),
    (ve.check_kl_normal, lambda mu, s: kl(mu, s) + 1.5, "is 1.5: what should it be"),
    (ve.check_kl_normal, lambda mu, s: (mu**2).sum(-1) / 2, "not the divergences"),
    (
        ve.check_kl_normal,
        lambda mu, s: ((mu**2 + s.exp() ** 2 - 1) / 2 - s.exp().log()).sum(-1),
        "not inf: sigma has rounded to zero",
    ),
    (ve.check_reparameterise, lambda mu, s: draw(mu, s)[0], "shape"),
    (ve.check_reparameterise, lambda mu, s: mu, "its own noise"),
    (ve.check_reparameterise, lambda mu, s: mu + s.exp() * torch.randn(3), "the same: does each"),
    (ve.check_reparameterise, lambda mu, s: draw(mu, s, torch.rand_like), "mean of the noise"),
    (ve.check_reparameterise, lambda mu, s: draw(0 * mu, s), "off mu by 2"),
    (ve.check_reparameterise, lambda mu, s: draw(mu, 2 * s), "sigma squared"),
    (ve.check_reparameterise, lambda mu, s: draw(mu, s / 2), "root of sigma"),
    (ve.check_reparameterise, lambda mu, s: mu + s * torch.randn_like(mu), "log_sigma itself"),
    (ve.check_reparameterise, lambda mu, s: draw(mu, 0 * s), "has the spread 1"),
    (
        ve.check_reparameterise,
        lambda mu, s: mu + s.exp() * torch.randn(len(mu), 1),
        "move together",
    ),
    (ve.check_reparameterise, lambda mu, s: draw(mu, s, uniform), "of which distribution"),
    (
        ve.check_reparameterise,
        lambda mu, s: draw(mu, s, lambda mu: torch.randn_like(mu).sign()),
        "of which distribution",
    ),
    (ve.check_reparameterise, lambda mu, s: draw(mu, s).detach(), "no gradient leaves"),
    (ve.check_reparameterise, without_gradient, "no gradient leaves"),
    (ve.check_reparameterise, lambda mu, s: Normal(mu, s.exp()).sample(), "no gradient leaves"),
    (ve.check_reparameterise, lambda mu, s: torch.normal(mu, s.exp()), "can torch differentiate"),
    (ve.check_reparameterise, lambda mu, s: draw(mu, s.detach()), "reaches log_sigma"),
    (ve.check_reparameterise, lambda mu, s: draw(mu.detach(), s), "reaches mu"),
    (
        ve.check_reparameterise,
        lambda mu, s: draw(mu / 2 + mu.detach() / 2, s),
        "gradient of mu is not",
    ),
    (
        ve.check_reparameterise,
        lambda mu, s: draw(mu, s / 2 + s.detach() / 2),
        "gradient of log_sigma is not",
    ),
    (ve.check_gradients, lambda f, slope, e: slope, "two parts, the terms of two"),
    (ve.check_gradients, lambda f, slope, e: (f.mean(), slope), "a score-function term for each"),
    (ve.check_gradients, lambda f, slope, e: two_gradients(f, slope, e)[::-1], "which comes"),
    (ve.check_gradients, lambda f, slope, e: (f * e, slope), "no baseline"),
    (ve.check_gradients, lambda f, slope, e: ((f - f.mean()) * e, slope), "is it the best"),
    (ve.check_gradients, lambda f, slope, e: (-two_gradients(f, slope, e)[0], slope), "ln q grow"),
    (ve.check_gradients, lambda f, s, e: (two_gradients(f, s, e)[0] / e, s), "gradient of ln q"),
    (ve.check_gradients, lambda f, s, e: ((f - (f * e).mean()) * e, s), "wrong weights"),
    (ve.check_gradients, lambda f, slope, e: (slope * e, slope), "a slope is in it"),
    (ve.check_gradients, lambda f, slope, e: (slope, slope), "the other terms"),
    (ve.check_gradients, lambda f, slope, e: ((f - 1) * e, slope), "the first terms are not"),
    (ve.check_gradients, with_path(lambda f, slope, e: slope * e), "for the spread"),
    (ve.check_gradients, with_path(lambda f, slope, e: f * e), "which draws can follow"),
    (ve.check_gradients, with_path(lambda f, slope, e: f), "these are values: how do"),
    (ve.check_gradients, with_path(lambda f, slope, e: slope / 2), "the second terms are not"),
    (ve.check_elbo, lambda a, b, q: (a + b - q).mean(1), "over which axis"),
    (ve.check_elbo, lambda a, b, q: a + b - q, "one number per example"),
    (ve.check_elbo, lambda a, b, q: (q - a - b).mean(0), "this is a loss"),
    (ve.check_elbo, lambda a, b, q: (a + b - q).sum(0), "a sum over draws"),
    (ve.check_elbo, lambda a, b, q: a.mean(0), "a surprising z"),
    (ve.check_elbo, lambda a, b, q: (a - q).mean(0), "under the prior"),
    (ve.check_elbo, lambda a, b, q: (a + b).mean(0), "the draws come from q"),
    (ve.check_elbo, lambda a, b, q: (a + b + q).mean(0), "does q stand"),
    (ve.check_elbo, lambda a, b, q: (a - b - q).mean(0), "does the prior stand"),
    (ve.check_elbo, lambda a, b, q: (a - b + q).mean(0), "a gain or a price"),
    (ve.check_elbo, lambda a, b, q: iwae(a + b - q), "a tighter one"),
    (ve.check_elbo, lambda a, b, q: (a + b - q).exp().mean(0), "average of the weights"),
    (ve.check_elbo, lambda a, b, q: (a + b - q)[0], "not estimates"),
    (ve.check_elbo, lambda a, b, q: (a + b - q).sum(0) / 5, "right for five draws"),
    (ve.check_iwae, lambda log_w: log_w.logsumexp(0) - math.log(5), "right for five draws"),
    (ve.check_elbo, lambda a, b, q: ((a + b - q) * q.softmax(0)).sum(0), "not estimates"),
    (ve.check_iwae, lambda w: w.logsumexp(1), "over which axis"),
    (ve.check_iwae, lambda w: w.softmax(0), "one number per example"),
    (ve.check_iwae, lambda w: iwae(w).mean(), "one number per example"),
    (ve.check_iwae, lambda w: -iwae(w), "this is a loss"),
    (ve.check_iwae, lambda w: w.mean(0), "this is the ELBO"),
    (ve.check_iwae, lambda w: w.logsumexp(0), "would K equal weights"),
    (ve.check_iwae, lambda w: w.logsumexp(0) / len(w), "inside the logarithm"),
    (ve.check_iwae, lambda w: w.exp().mean(0), "p\\(x\\) itself"),
    (ve.check_iwae, lambda w: (w.softmax(0) * w).sum(0), "belong into the gradient"),
    (ve.check_iwae, lambda w: w.max(0).values, "what do the others say"),
    (ve.check_iwae, lambda w: w.median(0).values, "not the logarithm of the mean"),
    (ve.check_iwae, lambda w: w.exp().mean(0).log(), "near -800 .* round to zero"),
    (
        ve.check_iwae,
        lambda w: iwae(w) if w.mean() < 100 else w.exp().mean(0).log(),
        "near 800 .* round to infinity",
    ),
    (
        ve.check_iwae,
        lambda w: (w - w.max()).exp().mean(0).log() + w.max(),
        "do the examples need to share",
    ),
    (ve.check_noise, lambda values, H: values[H:], "one number"),
    (ve.check_noise, lambda values, H: values[H:].sum(), "in how many directions"),
    (ve.check_noise, lambda values, H: values[H:].sum() / len(values), "a say in the kept ones"),
    (ve.check_noise, lambda values, H: values[H:].sum() / H, "spread over the kept"),
    (ve.check_noise, lambda values, H: values[:H].mean(), "what is left for the noise"),
    (ve.check_noise, lambda values, H: values.mean(), "is what W explains noise"),
    (ve.check_noise, lambda values, H: values[: len(values) - H].mean(), "falling order"),
    (ve.check_noise, lambda values, H: values[H + 1 :].mean(), "too few"),
    (ve.check_noise, lambda values, H: values[H - 1 :].mean(), "too many"),
    (ve.check_noise, lambda values, H: values[H], "the largest that is left"),
    (ve.check_noise, lambda values, H: values.min(), "the smallest of all"),
    (ve.check_noise, lambda values, H: values[H:].mean().sqrt(), "this is a spread"),
    (ve.check_noise, lambda values, H: values[2:].mean(), "for H = 1 the noise is not 0.95"),
    (ve.check_in_use, lambda values, noise: values > noise, "one number"),
    (ve.check_in_use, lambda values, noise: (values <= noise).sum(), "the ones that collapse"),
    (ve.check_in_use, lambda values, noise: (values.sqrt() > noise).sum(), "spread was compared"),
    (ve.check_in_use, lambda values, noise: (values > noise**2).sum(), "spread was compared"),
    (
        ve.check_in_use,
        lambda values, noise: (values > math.sqrt(noise)).sum(),
        "variance was compared with a spread",
    ),
    (ve.check_in_use, lambda values, noise: (values > 2 * noise).sum(), "is too much"),
    (ve.check_in_use, lambda values, noise: len(values), "whatever the noise"),
    (ve.check_in_use, lambda values, noise: 2, "are not \\[2, 2, 2\\]"),
    (ve.check_in_use, lambda values, noise: (values >= noise).sum(), "only equals the noise"),
    (ve.check_bounds, "elbo", "a set"),
    (ve.check_bounds, {"elbo": True, "beta 1/2": False}, "a set"),
    (ve.check_bounds, {"ELBO"}, "no objective 'ELBO'"),
    (ve.check_bounds, set(), "'elbo' was left out: what separates"),
    (ve.check_bounds, {"elbo"}, "'beta 4' was left out: is it above"),
    (ve.check_bounds, {"elbo", "beta 4", "beta 1/2"}, "'beta 1/2' .* what is saved"),
    (ve.check_bounds, {"elbo", "beta 4", "mean code"}, "'mean code' .* who pays"),
    (ve.check_bounds, {"elbo", "beta 4"}, "'free bits' was left out: is the price"),
    (ve.check_bounds, {"elbo", "beta 4", "free bits", "best of K"}, "'best of K' .* more draws"),
    (ve.check_detective, p_value, "True or False"),
    (ve.check_detective, lambda model: False, "accused, an ordinary one"),
    (ve.check_detective, lambda m: is_sound(m) and is_elbo(m), "accused, .* importance weights"),
    (
        ve.check_detective,
        lambda m: is_sound(m) and (m.bound is not None or is_elbo(m)),
        "accused, .* pays four times",
    ),
    (
        ve.check_detective,
        lambda m: is_sound(m) and not (m.encoder.mu.weight == 0).all(),
        "accused, .* encoder is blind",
    ),
    (
        ve.check_detective,
        lambda m: is_sound(m) and not (m.decoder.logits.weight == 0).all(),
        "accused, .* has collapsed",
    ),
    (ve.check_detective, lambda model: True, "ask of model\\(x\\)"),
    (ve.check_detective, lambda m: sums_to_one(m) and p_value(m) > 1e-4, "ask of model\\(x\\)"),
    (
        ve.check_detective,
        lambda m: is_bound(m, by_the_prior) and p_value(m, by_the_prior) > 1e-4,
        "what do you ask of log_w",
    ),
    (ve.check_detective, lambda m: sums_to_one(m) and is_bound(m), "ask of its samples"),
    (ve.check_gain, lambda a, b: evaluation.ImportanceEstimate(*gain(a, b), 9.0), "two parts"),
    (ve.check_gain, lambda a, b: gain(a, b)[0], "a mean and a standard error, not 1"),
    (ve.check_gain, lambda a, b: gain(b, a), "the better one"),
    (ve.check_gain, lambda a, b: ((a - b).sum(), gain(a, b)[1]), "all images"),
    (ve.check_gain, lambda a, b: ((a - b).median(), gain(a, b)[1]), "the mean gain is not"),
    (ve.check_gain, with_error(lambda a, b: (a - b).std()), "how much the gains vary"),
    (ve.check_gain, with_error(lambda a, b: (a - b).std() / len(a)), "how fast"),
    (ve.check_gain, with_error(lambda a, b: (a - b).var()), "is a variance"),
    (ve.check_gain, with_error(lambda a, b: (a - b).var() / len(a)), "variance of the mean"),
    (
        ve.check_gain,
        with_error(lambda a, b: ((a.var() + b.var()) / len(a)).sqrt()),
        "hard for one model",
    ),
    (ve.check_gain, with_error(lambda a, b: a.std() / len(a) ** 0.5), "the standard error is not"),
]


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_wrong_answers_are_told_why(check, answer, hint):
    assert check.verdict(answer).startswith(f"✗ {check.label}: ")
    with pytest.raises(AssertionError, match=hint):
        check.check(answer)


def test_the_empty_answers_of_the_chapter_are_no_attempts():
    for check in {check for check, _ in RIGHT}:
        empty = ... if check is ve.check_bounds else lambda *_: ...
        assert check.verdict(empty) == f"◻ {check.label}: not attempted yet"


@pytest.mark.parametrize("seed", range(1, 6))
def test_chance_does_not_decide(seed, monkeypatch):
    manual_seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda _: manual_seed(seed))
    assert ve.check_reparameterise.verdict(draw).startswith("✓")
    assert "of which distribution" in ve.check_reparameterise.verdict(
        lambda mu, s: draw(mu, s, uniform)
    )
    assert ve.check_detective.verdict(is_sound).startswith("✓")


def test_every_hint_is_given_to_somebody():
    assert_every_hint_is_given(ve, WRONG, least=60, functions=("check", "_broken"))


# --- what the checks rest on -------------------------------------------------------------------


GRID = torch.linspace(-8, 8, 161, dtype=torch.float64)
Z = torch.cartesian_prod(GRID, GRID)
LOG_PRIOR = Normal(0.0, 1.0).log_prob(Z).sum(-1) + 2 * math.log(GRID[1] - GRID[0])


def evidence(model):
    """ln p(x) of every x, exactly."""
    return (model.decoder(Z[:, None]).log_prob(X) + LOG_PRIOR[:, None]).logsumexp(0)


def mean_weight(model):
    """The mean of the weights of every x, exactly, by the density that the draws really have."""
    q = model.encoder(X)
    drawn = Normal(q.mu, q.log_sigma.exp())
    if isinstance(model.encoder, ve._DrawsWithTwoSpreads):
        drawn = Normal(q.mu, (q.log_sigma / 2).exp())
    z = Z[:, None]
    log_w = model.decoder(z).log_prob(X) + LOG_PRIOR[:, None] - q.log_prob(z)
    return (log_w + drawn.log_prob(z).sum(-1)).exp().sum(0)


@torch.no_grad()
def excess(model):
    """Of the objective over the evidence: the largest of all x, and its standard error."""
    objective = model(X.expand(20_000, -1, -1))
    over = objective.mean(0) - evidence(model)
    return over.max().item(), objective.std(0)[over.argmax()].item() / math.sqrt(20_000)


def test_the_sound_models_keep_every_promise():
    torch.manual_seed(0)
    for what, model in ve._sound_models():
        assert torch.allclose(evidence(model).logsumexp(0).exp(), torch.ones(()).double()), what
        assert torch.allclose(mean_weight(model), evidence(model).exp(), rtol=1e-4), what
        over, error = excess(model)
        assert over < -5 * error, what
        p = checks.sampling_p_value(model.sample((20_000,)), lambda _, m=model: evidence(m))
        assert p > 1e-4, what


def test_each_slip_breaks_one_promise():
    torch.manual_seed(0)
    kept = []
    for model, _ in ve._broken_models():
        p = checks.sampling_p_value(model.sample((20_000,)), lambda _, m=model: evidence(m))
        over, error = excess(model)
        assert abs(over) > 0.3 > 10 * error
        kept.append((over < 0, abs(mean_weight(model).sum() - 1) < 0.01, p > 1e-4))
    assert kept == [(False, True, True), (True, False, True), (True, True, False)]


def test_what_is_called_a_bound_is_one_and_the_rest_is_not():
    """On x = 2 z + noise, where every average but the last has a closed form."""
    torch.manual_seed(0)
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    log_p = Normal(0.0, math.sqrt(5)).log_prob(x).mean()
    above = set()
    for breadth in (0.5, 1, 2):
        for shift in (0, 0.3):
            q = Normal(2 * x / 5 + shift, breadth / math.sqrt(5))
            kl = kl_divergence(q, Normal(0.0, 1.0))
            at_mean = Normal(2 * q.mean, 1.0).log_prob(x)
            reconstruction = at_mean - 2 * q.variance
            z = q.sample((2_000, 50))
            log_w = Normal(2 * z, 1.0).log_prob(x) + Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)
            objectives = {
                "elbo": reconstruction - kl,
                "beta 4": reconstruction - 4 * kl,
                "beta 1/2": reconstruction - kl / 2,
                "mean code": at_mean - kl,
                "free bits": reconstruction - kl.mean().clamp(min=0.5),
                "best of K": log_w.amax(1).mean(0),
            }
            above |= {n for n, value in objectives.items() if value.mean() > log_p + 1e-6}
    assert above == {"beta 1/2", "mean code", "best of K"}
    assert ve.check_bounds.verdict(objectives.keys() - above).startswith("✓")
