"""Self-checks of the exercises of book/variational-autoencoders.ipynb."""

import math

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from companion.exercises import exercise
from companion.exercises._shared import near, refuse, shape_of, two_parts
from companion.vae import VAE, ConditionalBernoulli, ConditionalGaussian, StandardNormal, iwae
from companion.vae.distributions import DiagonalGaussian


@exercise("ex-kl-normal")
def check_kl_normal(kl):
    """``kl(mu, log_sigma)``: ``(B, H), (B, H) -> (B,)``, the divergence from N(0, I), nats."""
    generator = torch.Generator().manual_seed(0)
    mu, log_sigma = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    sigma = log_sigma.exp()
    answer = torch.as_tensor(kl(mu, log_sigma))
    assert answer.shape == (4,), f"one number per example: shape (4,), not {tuple(answer.shape)}"
    q, p = Normal(mu, sigma), Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = kl_divergence(q, p).sum(-1)
    squares, unsquared = mu.square() + sigma.square() - 1, mu.square() + sigma - 1
    mistakes = [
        (-expected, "a divergence is never negative: is the sign turned round?"),
        (expected / 3, "the entries are independent: do their divergences add, or average out?"),
        (2 * expected, "this is twice the divergence: what of the half?"),
        (squares.sum(-1) - log_sigma.sum(-1), "is there a half before the squares?"),
        (
            (squares - log_sigma).sum(-1) / 2,
            "of what is the logarithm taken in the last term, the spread or its square?",
        ),
        (
            (unsquared - log_sigma).sum(-1) / 2,
            "log_sigma was read as the logarithm of the variance: what is its exponential?",
        ),
        (
            unsquared.sum(-1) / 2 - log_sigma.sum(-1),
            "the spread stands there as it is: what is the mean square of z?",
        ),
        (
            kl_divergence(p, q).sum(-1),
            "this is the divergence from the prior to q: under which is the average taken?",
        ),
    ]
    refuse(answer, mistakes)
    at_prior = torch.as_tensor(kl(torch.zeros(2, 3), torch.zeros(2, 3)))
    assert near(at_prior, torch.zeros(2)), (
        f"where q is the prior the divergence is {at_prior[0].item():.4g}: what should it be?"
    )
    assert near(answer, expected), "the values are not the divergences from q to the prior"
    narrow = torch.as_tensor(kl(torch.zeros(1, 1), torch.tensor([[-200.0]])))
    assert near(narrow, torch.tensor([199.5])), (
        f"at log_sigma = -200 the answer should be 199.5, not {narrow.item():.4g}: sigma has "
        "rounded to zero; was its logarithm not known before?"
    )


@exercise("ex-reparameterise")
def check_reparameterise(draw):
    """``draw(mu, log_sigma)``: ``(B, H), (B, H) -> (B, H)``, differentiable in both."""
    torch.manual_seed(0)
    n = 20_000
    mu = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    log_sigma = torch.tensor([-0.7, 0.4, 1.1], dtype=torch.float64, requires_grad=True)
    answer = draw(mu.expand(n, 3), log_sigma.expand(n, 3))
    assert answer.shape == (n, 3), f"shape (B, H) = {(n, 3)}, not {tuple(answer.shape)}"
    z, sigma = answer.detach().double(), log_sigma.detach().exp()
    shift, spread = z.mean(0) - mu.detach(), z.std(0)

    def is_spread(value):
        return torch.allclose(spread, value, rtol=0.05)  # ten standard errors

    assert (spread > 1e-6).all(), (
        f"for {n} examples with the same mu and sigma z is the same: does each have its own noise?"
    )
    assert (shift.abs() < 0.1 * sigma).all(), (
        f"on average z is off mu by {shift.abs().max().item():.2g}: what is the mean of the noise?"
    )
    assert not is_spread(sigma.square()), "the spread of z is sigma squared: what scales the noise?"
    assert not is_spread(sigma.sqrt()), "the spread of z is the root of sigma: what is log_sigma?"
    assert not is_spread(log_sigma.detach().abs()), "the noise was multiplied by log_sigma itself"
    assert is_spread(sigma), (
        f"the first entry has the spread {spread[0].item():.3g}, where sigma is "
        f"{sigma[0].item():.3g}"
    )
    assert z.T.corrcoef()[0, 1:].abs().max() < 0.1, (
        "the entries of z move together: does each have its own noise?"
    )
    far = (z - mu.detach()).abs() > 2 * sigma
    assert abs(far.double().mean() - math.erfc(math.sqrt(2))) < 0.01, (
        "mean and spread are right, but z is not normal: of which distribution is the noise?"
    )

    assert answer.requires_grad, (
        "z is a good draw, but no gradient leaves it: where has the draw been cut off from mu "
        "and log_sigma?"
    )
    names, inputs = ("mu", "log_sigma"), (mu, log_sigma)
    gradients = torch.autograd.grad(answer.square().sum() / 2, inputs, allow_unused=True)
    by_z = z.sum(0), (z * (z - mu.detach())).sum(0)  # the chain rule of calculus
    arrive = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    for name, arrives in zip(names, arrive, strict=True):
        assert arrives or any(arrive), (
            "z is a good draw, but its gradients are zero: can torch differentiate the function "
            "that drew it?"
        )
        assert arrives, f"z is a good draw, but no gradient reaches {name}"
    for name, gradient, expected in zip(names, gradients, by_z, strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-3), (
            f"z is a good draw, but the gradient of {name} is not that of mu + sigma * noise: has "
            "a part been left out of the graph?"
        )


@exercise("ex-two-gradients")
def check_gradients(terms):
    """``terms(f, slope, noise)``: three of ``(S,)`` -> two of ``(S,)``: by score, by path."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(6, generator=generator, dtype=torch.float64)
    z = 0.7 + noise
    f, slope = z.square() + 3, 2 * z
    score, path = two_parts(terms(f, slope, noise), "the terms of two estimates")
    for name, part in (("score-function", score), ("reparameterised", path)):
        assert part.shape == (6,), f"a {name} term for each draw: shape (6,), not {shape_of(part)}"
    weights = noise.square()
    best, mean = (f * weights).sum() / weights.sum(), f.mean()
    assert not (near(path, (f - best) * noise) and near(score, slope)), "which comes first?"
    mistakes = [
        (f * noise, "no baseline was subtracted: which one makes these terms vary least?"),
        (
            (f - mean) * noise,
            "the mean of f is a baseline, and a good one: is it the best? In what does it enter?",
        ),
        (-(f - best) * noise, "the sign is turned round: which way does ln q grow with mu?"),
        (f - best, "these are values: where is the gradient of ln q?"),
        ((f - (f * noise).mean()) * noise, "the baseline is a mean with the wrong weights"),
        (slope * noise, "a slope is in it: does the score function use one?"),
        (slope, "these are the other terms: does the score function use a slope?"),
    ]
    refuse(score, mistakes)
    # Estimated with what is known of the noise, or without: its mean, its spread.
    apart = noise - noise.mean()
    slope_in_noise = (f * noise * apart).sum() / apart.square().sum()
    baselines = best, (f * weights).mean(), slope_in_noise
    sound = any(near(score, (f - baseline) * noise) for baseline in baselines)
    assert sound, "the first terms are not those of the score function with its best baseline"
    mistakes = [
        (slope * noise, "this is the gradient for the spread: by how much does z move with mu?"),
        (f * noise, "these are the terms of the score function: which draws can follow mu?"),
        (f, "these are values: how do they change when z moves with mu?"),
    ]
    refuse(path, mistakes)
    assert near(path, slope), "the second terms are not the slopes along which z moves with mu"


@exercise("ex-elbo")
def check_elbo(elbo):
    """``elbo(log_p_x_given_z, log_p_z, log_q)``: three of ``(K, B)`` -> ``(B,)``, nats."""
    generator = torch.Generator().manual_seed(0)
    likelihood, prior, q = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    likelihood = likelihood - 9
    answer = torch.as_tensor(elbo(likelihood, prior, q))
    assert answer.shape != (5,), "one number per draw: over which axis is the average taken?"
    assert answer.shape == (4,), f"one number per example: shape (4,), not {tuple(answer.shape)}"
    log_w = likelihood + prior - q
    expected = log_w.mean(0)
    mistakes = [
        (-expected, "this is a loss; the bound itself is wanted: what is its sign?"),
        (5 * expected, "with more draws the answer grows: is the bound a sum over draws?"),
        (likelihood.mean(0), "only the reconstruction is left: what does a surprising z cost?"),
        ((likelihood - q).mean(0), "how probable are the draws under the prior?"),
        ((likelihood + prior).mean(0), "the draws come from q: by what are they weighed for it?"),
        ((likelihood + prior + q).mean(0), "does q stand above or below in the fraction?"),
        ((likelihood - prior - q).mean(0), "does the prior stand above or below in the fraction?"),
        (
            (likelihood - prior + q).mean(0),
            "the divergence was added: is it a gain or a price?",
        ),
        (
            iwae(log_w),
            "this is a bound, but a tighter one: which comes first in the ELBO, the average or "
            "the logarithm?",
        ),
        (log_w.exp().mean(0), "this is an average of the weights: what of the logarithm?"),
    ]
    refuse(answer, mistakes)
    assert near(answer, expected), "the values are not estimates of the ELBO"
    two = elbo(likelihood[:2], prior[:2], q[:2])
    assert near(two, log_w[:2].mean(0)), (
        "right for five draws, and not for two: is their number written into the function?"
    )


@exercise("ex-iwae")
def check_iwae(bound):
    """``bound(log_w)``: ``(K, B) -> (B,)``, nats, however far the weights are from 1."""
    generator = torch.Generator().manual_seed(0)
    log_w = 2 * torch.randn(5, 4, generator=generator, dtype=torch.float64)
    answer = torch.as_tensor(bound(log_w))
    assert answer.shape != (5,), "one number per draw: over which axis is the average taken?"
    assert answer.shape == (4,), f"one number per example: shape (4,), not {tuple(answer.shape)}"
    expected = iwae(log_w)
    shares = log_w.softmax(0)
    mistakes = [
        (-expected, "this is a loss; the bound itself is wanted: what is its sign?"),
        (log_w.mean(0), "this is the ELBO: which comes first, the average or the logarithm?"),
        (log_w.logsumexp(0), "this is the logarithm of a sum: would K equal weights give one?"),
        (log_w.logsumexp(0) / 5, "K stands inside the logarithm: what becomes of a factor there?"),
        (expected.exp(), "this estimates p(x) itself: what of the logarithm?"),
        (
            (shares * log_w).sum(0),
            "the shares of the weights belong into the gradient: what is the value?",
        ),
        (log_w.amax(0), "only the largest weight counts: what do the others say?"),
    ]
    refuse(answer, mistakes)
    assert near(answer, expected), "the values are not the logarithm of the mean weight"
    assert near(bound(log_w[:2]), iwae(log_w[:2])), (
        "right for five draws, and not for two: is their number written into the function?"
    )
    for offset, what in ((-800, "zero"), (800, "infinity")):
        far = bound(log_w + offset)
        assert near(far, expected + offset), (
            f"at log-weights near {offset} the answer is lost: their exponentials round to {what}. "
            "What may be taken out of a sum beforehand?"
        )
    offsets = torch.tensor([0.0, -800.0, 800.0, -3000.0], dtype=torch.float64)
    assert near(bound(log_w + offsets), expected + offsets), (
        "where one example has far larger weights than another, the answer is lost: do the "
        "examples need to share what is taken out?"
    )


@exercise("ex-ppca")
def check_noise(noise):
    """``noise(eigenvalues, H)``: ``(D,) -> ()``, the most probable variance of the noise."""
    values = torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5, 0.3], dtype=torch.float64)
    answer = torch.as_tensor(noise(values, 2))
    assert answer.shape == (), f"one number: shape (), not {tuple(answer.shape)}"
    left = values[2:]
    mistakes = [
        (left.sum(), "this is all that is left over: in how many directions is it spread?"),
        (left.sum() / 6, "spread over all directions: has the noise a say in the kept ones?"),
        (left.sum() / 2, "spread over the kept directions: where is what is left over?"),
        (values[:2].mean(), "these are the directions that are kept: what is left for the noise?"),
        (values.mean(), "this spreads everything: is what W explains noise?"),
        (values[:4].mean(), "the eigenvalues come in falling order: which are kept?"),
        (values[3:].mean(), "one direction too few: with H = 2 the first two are kept"),
        (values[1:].mean(), "one direction too many: with H = 2 the first two are kept"),
        (values[2], "this is the largest that is left over: what of the others?"),
        (values[-1], "this is the smallest of all: what of the others that are left over?"),
        (left.mean().sqrt(), "this is a spread: is the variance its root or its square?"),
    ]
    refuse(answer, mistakes)
    for H in range(1, 6):
        value = float(noise(values, H))
        assert near(value, values[H:].mean()), f"for H = {H} the noise is not {value:.4g}"


@exercise("ex-active")
def check_in_use(in_use):
    """``in_use(eigenvalues, noise)``: how many latent variables of a linear VAE are not idle."""
    values = torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5, 0.3], dtype=torch.float64)
    answers = [torch.as_tensor(in_use(values, noise)) for noise in (0.4, 4.0, 10.0)]
    assert answers[0].shape == (), f"one number: shape (), not {tuple(answers[0].shape)}"

    def counts(rule):
        return [int(rule(values, noise).sum()) for noise in (0.4, 4.0, 10.0)]

    mistakes = [
        (lambda values, noise: values < noise, "these are the ones that collapse"),
        (
            lambda values, noise: values.sqrt() > noise,
            "a spread was compared with a variance: which is an eigenvalue, and which the noise?",
        ),
        (
            lambda values, noise: values > noise**0.5,
            "a variance was compared with a spread: which is an eigenvalue, and which the noise?",
        ),
        (
            lambda values, noise: values - noise > noise,
            "that a column be longer than the noise is too much: when is it not zero?",
        ),
        (lambda values, noise: values > 0, "all of them, whatever the noise: is a variable free?"),
    ]
    for rule, hint in mistakes:
        assert answers != counts(rule), hint
    assert answers == counts(lambda values, noise: values > noise), (
        f"with noise 0.4, 4 and 10 the counts for {values.tolist()} are not "
        f"{[answer.item() for answer in answers]}"
    )
    assert in_use(values, 2.0) == 2, (
        "an eigenvalue that only equals the noise was counted: how long is its column?"
    )


@exercise("ex-bound-or-not")
def check_bounds(names):
    """The set of names of the objectives that are never above ln p(x) on average."""
    reasons = {  # (is it one?, what to ask who says otherwise)
        "elbo": (True, "what separates it from ln p(x), and can that be negative?"),
        "beta 4": (True, "is it above the ELBO or below it?"),
        "beta 1/2": (False, "let q be the posterior: what is lost then, and what is saved?"),
        "mean code": (False, "draws near mu fit less well than mu: who pays for that now?"),
        "free bits": (True, "is the price ever lower than the divergence?"),
        "best of K": (False, "with more and more draws, where does the largest weight go?"),
    }
    assert isinstance(names, set | frozenset | list | tuple), "a set of names is wanted"
    names = set(names)
    unknown = names - reasons.keys()
    assert not unknown, f"there is no objective {min(unknown, key=str)!r}: {', '.join(reasons)}"
    for name, (bound, question) in reasons.items():
        if bound:
            assert name in names, f"{name!r} was left out: {question}"
        else:
            assert name not in names, f"{name!r} was called a bound: {question}"


@exercise("ex-vae-detective")
def check_detective(is_sound):
    """``is_sound(model)``: is its objective a bound, and does it draw from its own p(x)?"""
    torch.manual_seed(0)
    for what, model in _sound_models():
        answer = is_sound(model)
        assert answer in (True, False), f"is_sound answers True or False, not {answer!r}"
        assert answer, (
            f"a sound model was accused, {what}: bounds may be loose, averages of draws have "
            "errors, small p-values occur by chance, and a test with very many drawings sees the "
            "errors of your p(x), too"
        )
    for model, complaint in _broken_models():
        assert not is_sound(model), complaint


@exercise("ex-capacity")
def check_gain(gain):
    """``gain(log_p, log_p_before)``: ``(N,), (N,)`` -> mean gain and its standard error, nats."""
    generator = torch.Generator().manual_seed(0)
    difficulty, luck = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    before = -90 + 20 * difficulty
    log_p = before + 0.5 + luck
    answer = two_parts(gain(log_p, before), "a mean and a standard error")
    mean, error = (float(value) for value in answer)
    gains, apart = log_p - before, log_p.var() + before.var()
    assert not _close(mean, -gains.mean()), "which model has the higher ln p(x), the better one?"
    assert not _close(mean, gains.sum()), "this is the gain of all images: what is that of one?"
    assert _close(mean, gains.mean()), f"the mean gain is not {mean:.4g}"
    mistakes = [
        (gains.std(), "this is how much the gains vary: how well is their mean known?"),
        (gains.std() / 50, "how fast does the error of a mean shrink with the number of images?"),
        (gains.var(), "this is a variance: what has the unit nats?"),
        (gains.var() / 50, "this is the variance of the mean: what has the unit nats?"),
        (
            (apart / 50).sqrt(),
            "an image that is hard for one model is hard for the other: does that show in the "
            "difference?",
        ),
    ]
    for mistake, hint in mistakes:
        assert not _close(error, mistake), hint
    assert _close(error, gains.std() / math.sqrt(50)), f"the standard error is not {error:.4g}"


# --- helpers ------------------------------------------------------------------------------------


def _close(answer, value):
    """Whether both are nearly the same, such as variances divided by N = 50 and by N - 1."""
    return abs(answer / float(value) - 1) < 0.015


# --- a line-up: small sound models, and one for each classic slip -------------------------------


PIXELS, LATENT = 5, 2


class _Averages(VAE):
    """Averages the reconstruction over the pixels, beside a divergence that is a sum."""

    def reconstruction_and_kl(self, x, samples=1):
        reconstruction, kl = super().reconstruction_and_kl(x, samples)
        return reconstruction / PIXELS, kl


class _TwoSpreads(DiagonalGaussian):
    """Draws as if it had been given the logarithm of the variance."""

    def rsample(self, sample_shape=()):
        return DiagonalGaussian(self.mu, self.log_sigma / 2).rsample(sample_shape)


class _DrawsWithTwoSpreads(ConditionalGaussian):
    def forward(self, x):
        q = super().forward(x)
        return _TwoSpreads(q.mu, q.log_sigma)


class _DrawsFromSquashed(VAE):
    """Applies the sigmoid twice, in the sampler and not in the density."""

    @torch.no_grad()
    def sample(self, sample_shape=()):
        return self.decoder(self.prior().sample(sample_shape)).mean.sigmoid().bernoulli()


def _model(kind=VAE, encoder=ConditionalGaussian, see=0.1, explain=1.0, **options):
    """A small linear model in float64 with parameters drawn at random, always the same.

    Args: see, explain: sizes of the encoder's and of the decoder's weights.
    """
    generator = torch.Generator().manual_seed(1)
    encoder = encoder(nn.Identity(), PIXELS, LATENT)
    decoder = ConditionalBernoulli(nn.Identity(), LATENT, PIXELS)
    model = kind(encoder, decoder, StandardNormal(LATENT), **options).double()
    for part, scale in ((encoder, see), (decoder, explain)):
        for parameter in part.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = scale * noise
    encoder.log_sigma.bias.data += 0.5  # wide, so that no weight is enormous
    return model.eval().requires_grad_(False)


def _sound_models():
    """(description, model)."""
    yield "an ordinary one", _model()
    yield "one that is trained by importance weights", _model(bound=iwae, samples=5)
    yield "one that pays four times for its divergence", _model(beta=4)
    yield "one whose encoder is blind", _model(see=0)
    yield "one whose decoder has collapsed", _model(explain=0)


def _broken_models():
    """(model, what to say if it is let go)."""
    yield (
        _model(_Averages),
        "a model was let go whose weights and drawings are right, and which maximises what is no "
        "bound: what do you ask of model(x)?",
    )
    yield (
        _model(encoder=_DrawsWithTwoSpreads),
        "a model was let go whose weights do not average to a distribution: what do you ask of "
        "log_w?",
    )
    yield (
        _model(_DrawsFromSquashed),
        "a model was let go that has a sound bound and yet draws from another distribution: what "
        "do you ask of its samples?",
    )
