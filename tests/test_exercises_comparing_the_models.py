"""The self-checks of the chapter that compares the models: right answers pass, wrong learn why.

Further below, what the exercises claim of errors, draws and bounds is put to the test.
"""

import itertools
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from companion import data, evaluation
from companion.autoregressive import MADE
from companion.distributions import IndependentBernoulli
from companion.exercises import comparing_the_models as comparing
from companion.experiments import comparison
from companion.presets import Preset, by_gradient
from companion.vae import one_layer
from tests.hints import assert_every_hint_is_given

# --- answers as the chapter has them, or nearly so ---------------------------------------------


def in_float32(function):
    return lambda *tensors: function(*(tensor.float() for tensor in tensors))


def difference(log_p, log_q):
    gains = log_p - log_q
    return gains.mean(), gains.std() / math.sqrt(len(gains))


def difference_by_the_covariance(log_p, log_q):
    (p, both), (_, q) = torch.cov(torch.stack([log_p, log_q])).tolist()
    error = math.sqrt((p + q - 2 * both) / len(log_p))
    return (log_p.mean() - log_q.mean()).item(), error


def mean(function):
    """The mean by a function, beside the right error."""
    return lambda log_p, log_q: (function(log_p, log_q), difference(log_p, log_q)[1])


def error(function):
    return lambda log_p, log_q: (difference(log_p, log_q)[0], function(log_p, log_q))


def of_gains(function):
    return error(lambda log_p, log_q: function(log_p - log_q))


def errors(scores):
    N = len(scores)
    return (scores.var(1).mean() / N).sqrt(), scores[:, 0].std() / math.sqrt(N)


def errors_in_numpy(scores):
    s, root = scores.numpy(), math.sqrt(len(scores))
    return math.sqrt(s.var(1, ddof=1).mean()) / root, s[:, 0].std(ddof=1) / root


def coins(function):
    """The first error by a function, beside the right second."""
    return lambda s: (function(s, len(s), s.shape[1]), errors(s)[1])


def pictures(function):
    return lambda s: (errors(s)[0], function(s, len(s), s.shape[1]))


def draws(relative_variance, tolerance):
    return max(1, math.ceil(relative_variance / (2 * tolerance)))


def draws_one_by_one(relative_variance, tolerance):
    return next(K for K in itertools.count(1) if relative_variance / (2 * K) <= tolerance)


def of_exact(function, factor=0.5):
    """K by a function of the number that would meet the tolerance exactly."""
    return lambda variance, tolerance: function(factor * variance / tolerance)


def least(value):
    return max(1, math.ceil(value))


REASONS = {
    "a": "another data set",
    "b": "fair",
    "c": "another judge",
    "d": "a bound against the truth",
    "e": "grey against black and white",
    "f": "fair",
}


def by_counting(model, images, seed, device=None):
    model.fit(images / 255)


COINS = Preset("Bernoulli mixture", partial(IndependentBernoulli, 784), by_counting, "exact")
DEEPER = Preset(
    "Autoregressive model",
    partial(MADE, 784, hidden=(500, 500)),
    partial(by_gradient, batch_size=250, epochs=24, learning_rate=5e-3),
    "exact",
)


def scored(function):
    """A contender whose ``log_prob`` is a function, or is not there."""

    class Scored(nn.Module):
        if function:
            log_prob = staticmethod(function)

        def sample(self, shape):
            return torch.zeros(*shape, 784)

    return COINS._replace(build=Scored)


def weighted(function):
    made = scored(None)

    class Weighted(made.build):
        log_w = staticmethod(function)

    return made._replace(build=Weighted, likelihood="bound")


class Silent(nn.Module):
    def log_prob(self, x):
        return -x.sum(-1)


class Narrow(Silent):
    def sample(self, shape):
        return torch.zeros(*shape, 9)


RIGHT = [
    (comparing.check_difference, difference),
    (comparing.check_difference, difference_by_the_covariance),
    (comparing.check_difference, in_float32(difference)),
    (comparing.check_difference, lambda p, q: evaluation.Estimate.of(p - q)),
    (comparing.check_difference, lambda p, q: torch.stack(difference(p, q))),
    (comparing.check_standard_errors, errors),
    (comparing.check_standard_errors, errors_in_numpy),
    (comparing.check_standard_errors, in_float32(errors)),
    (comparing.check_rubbish, lambda loss: 1 - math.exp(-loss)),
    (comparing.check_rubbish, lambda loss: -torch.tensor(-loss).expm1()),
    (comparing.check_draws, draws),
    (comparing.check_draws, draws_one_by_one),
    (comparing.check_draws, lambda v, t: np.maximum(1, np.ceil(v / (2 * t)))),
    (comparing.check_claims, REASONS),
    (comparing.check_contender, COINS),
    (comparing.check_contender, DEEPER),
    (comparing.check_contender, COINS._replace(likelihood="bound", build=one_layer)),
    (comparing.check_contender, scored(None)._replace(likelihood="none")),
    *((comparing.check_contender, made) for made in comparison.CONTENDERS.values()),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer):
    assert check.verdict(answer) == f"✓ {check.label}: correct"


# --- wrong answers -----------------------------------------------------------------------------

WRONG = [
    (
        comparing.check_difference,
        lambda p, q: difference(p, q)[0],
        "two parts, a mean and its error, not 1",
    ),
    (
        comparing.check_difference,
        mean(lambda p, q: p - q),
        r"each of the two is one number: shape \(\), not \(5,\)",
    ),
    (comparing.check_difference, lambda p, q: difference(p, q)[::-1], "which of the two comes"),
    (comparing.check_difference, lambda p, q: difference(q, p), "sign is turned round"),
    (comparing.check_difference, mean(lambda p, q: (p - q).sum()), "of all pictures together"),
    (comparing.check_difference, mean(lambda p, q: (p - q).abs().mean()), "counts for p"),
    (
        comparing.check_difference,
        lambda p, q: difference(p / math.log(2), q / math.log(2)),
        "the unit is the bit",
    ),
    (
        comparing.check_difference,
        mean(lambda p, q: p.logsumexp(0) - q.logsumexp(0)),
        "probabilities were averaged",
    ),
    (comparing.check_difference, mean(lambda p, q: 0.5), "the mean difference is not 0.5"),
    (comparing.check_difference, of_gains(torch.std), "how much one difference varies"),
    (comparing.check_difference, of_gains(torch.var), "the variance of one difference"),
    (comparing.check_difference, of_gains(lambda d: d.var() / len(d)), "variance of the mean"),
    (comparing.check_difference, of_gains(lambda d: d.std() / len(d)), "how fast does the error"),
    (
        comparing.check_difference,
        of_gains(lambda d: d.std(correction=0) / len(d) ** 0.5),
        "one difference in N is used up",
    ),
    (
        comparing.check_difference,
        error(lambda p, q: ((p.var() + q.var()) / len(p)).sqrt()),
        "had seen pictures of its own",
    ),
    (
        comparing.check_difference,
        error(lambda p, q: (p.std() + q.std()) / len(p) ** 0.5),
        "errors of the two means were added",
    ),
    (
        comparing.check_difference,
        error(lambda p, q: (p.std() - q.std()).abs() / len(p) ** 0.5),
        "errors of the two means were subtracted",
    ),
    (
        comparing.check_difference,
        error(lambda p, q: (p.var() + q.var()).sqrt()),
        "no pairs, and no root of N",
    ),
    (comparing.check_difference, error(lambda p, q: 0.5), "the standard error is not 0.5"),
    (
        comparing.check_difference,
        error(lambda p, q: (p - q).std() / 5**0.5),
        "right for five pictures, and not for three",
    ),
    (comparing.check_standard_errors, lambda s: errors(s)[0], "two parts, one error for each"),
    (comparing.check_standard_errors, coins(lambda s, N, M: s.var(1)), "each of the two is one"),
    (comparing.check_standard_errors, lambda s: errors(s)[::-1], "meets one chance only"),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: (s.var(0).mean() / N).sqrt()),
        "these variances are over pictures",
    ),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: s.mean(0).std()),
        "honest estimate, and a noisy one",
    ),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: s.mean(0).std(correction=0)),
        "a few means, too small",
    ),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: s.var(1).mean().sqrt()),
        "the score of one picture varies",
    ),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: s.var(1).mean() / N),
        "the first is a variance",
    ),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: s.var(1).mean().sqrt() / N),
        "how fast does the error of a mean shrink with N",
    ),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: s.std(1).mean() / N**0.5),
        "deviations were averaged",
    ),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: (s.var(1, correction=0).mean() / N).sqrt()),
        "uses up one of them",
    ),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: (s.var(1).mean() / (N * M)).sqrt()),
        "error of the mean of all throws",
    ),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: (s.var(1).mean() / M).sqrt()),
        "how many scores has the mean",
    ),
    (comparing.check_standard_errors, coins(lambda s, N, M: 0.5), "the first error is not 0.5"),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: errors(s)[0]),
        "the second is the first again",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: s[:, 0].std()),
        "this is how much a score varies",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: s[:, 0].var() / N),
        "the second is a variance",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: s[:, 0].std() / N),
        "the second shrinks too fast",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: s[:, 0].std(correction=0) / N**0.5),
        "the mean over pictures uses up one",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: s.std() / s.numel() ** 0.5),
        "all throws were counted as pictures",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: s.std() / N**0.5),
        "all throws went into one variance",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: (s.var(0).mean() / N).sqrt()),
        "variances of all throws were averaged",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: s.mean(1).std() / N**0.5),
        "throws of a picture were averaged",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: math.hypot(*errors(s))),
        "the coins were counted twice",
    ),
    (
        comparing.check_standard_errors,
        pictures(lambda s, N, M: (errors(s)[1] ** 2 - errors(s)[0] ** 2).sqrt()),
        "the coins were taken out",
    ),
    (comparing.check_standard_errors, pictures(lambda s, N, M: 0.5), "second error is not 0.5"),
    (
        comparing.check_standard_errors,
        coins(lambda s, N, M: (s.var(1).mean() / 4).sqrt()),
        "and not for three and two",
    ),
    (comparing.check_rubbish, lambda loss: math.exp(-loss), "share of the sound model"),
    (comparing.check_rubbish, lambda loss: 1 - 2**-loss, "taken for a bit"),
    (comparing.check_rubbish, lambda loss: math.exp(loss), "a share above one"),
    (comparing.check_rubbish, lambda loss: 1 - math.exp(loss), "a share below zero"),
    (comparing.check_rubbish, lambda loss: 1 - loss, "its tangent"),
    (comparing.check_rubbish, lambda loss: loss, "its tangent"),
    (comparing.check_rubbish, lambda loss: loss / (1 + loss), "what undoes it"),
    (comparing.check_rubbish, lambda loss: 100 - 100 * math.exp(-loss), "in percent"),
    (comparing.check_rubbish, lambda loss: 0.4, "for a loss of 0.5 nats it is not 0.4"),
    (comparing.check_rubbish, lambda loss: 1 - math.exp(-loss) if loss else 0.1, "lose nothing"),
    (comparing.check_draws, of_exact(lambda k: k), "The next whole number is wanted"),
    (comparing.check_draws, of_exact(lambda k: max(1, k)), "a fraction of a latent.$"),
    (comparing.check_draws, of_exact(math.floor), "rounded down, K misses"),
    (comparing.check_draws, of_exact(lambda k: max(1, int(k))), "K is rounded down"),
    (comparing.check_draws, of_exact(round), "nearest whole number may be too few draws: on"),
    (comparing.check_draws, of_exact(lambda k: max(1, round(k))), "may be too few draws$"),
    (comparing.check_draws, of_exact(lambda k: int(k) + 1), "is one draw more needed"),
    (comparing.check_draws, of_exact(math.ceil), "with no draw at all"),
    (comparing.check_draws, of_exact(least, 1), "half as large as you take it"),
    (comparing.check_draws, of_exact(least, 0.25), "divides the bias twice"),
    (comparing.check_draws, of_exact(least, 2), "the 2 is on the wrong side"),
    (comparing.check_draws, of_exact(lambda k: k, 1), "and K is a whole number"),
    (comparing.check_draws, lambda v, t: least(v / (2 * t**2)), "the tolerance is squared"),
    (comparing.check_draws, lambda v, t: least(v * t / 2), "a stricter tolerance"),
    (comparing.check_draws, lambda v, t: draws(v**2, t), "relative variance is squared already"),
    (comparing.check_draws, lambda v, t: draws(v**0.5, t), "this takes the deviation"),
    (
        comparing.check_draws,
        lambda v, t: 9,
        "a relative variance of 14.5 and a tolerance of 1 it is not 9",
    ),
    (comparing.check_claims, {"a"}, "a dictionary is wanted"),
    (comparing.check_claims, REASONS | {"g": "fair"}, "there is no 'g': a, b"),
    (comparing.check_claims, REASONS | {"b": ...}, "'b' is still open"),
    (comparing.check_claims, REASONS | {"b": "unfair"}, "there is no 'unfair': fair, another"),
    (comparing.check_claims, REASONS | {"a": "fair"}, "which images has each"),
    (comparing.check_claims, REASONS | {"b": REASONS["d"]}, "can it be above the NADE's"),
    (comparing.check_claims, REASONS | {"c": "another data set"}, "in which features"),
    (comparing.check_claims, REASONS | {"d": "fair"}, "how far below its bound"),
    (comparing.check_claims, REASONS | {"e": "another judge"}, "that of a density"),
    (comparing.check_claims, REASONS | {"f": "another judge"}, "not the same for both"),
    (comparing.check_contender, MADE(9), "Preset is wanted, not MADE"),
    (comparing.check_contender, COINS._replace(family="coins"), "no family 'coins': Bernoulli"),
    (comparing.check_contender, COINS._replace(likelihood="yes"), "no likelihood 'yes': exact"),
    (
        comparing.check_contender,
        COINS._replace(build=IndependentBernoulli(784)),
        "build is a model already",
    ),
    (comparing.check_contender, COINS._replace(build=dict), "makes a dict: and the module"),
    (
        comparing.check_contender,
        COINS._replace(build=itertools.repeat(Silent()).__next__),
        "the same model twice",
    ),
    (
        comparing.check_contender,
        COINS._replace(train=by_gradient),
        "fixed beforehand. .missing a required argument: 'batch_size'",
    ),
    (comparing.check_contender, COINS._replace(train=len), "in this order"),
    (comparing.check_contender, COINS._replace(likelihood="bound"), "not 'bound': the model has l"),
    (comparing.check_contender, COINS._replace(likelihood="none"), "has log_prob$"),
    (comparing.check_contender, COINS._replace(build=one_layer), "not 'exact': .* has log_w$"),
    (comparing.check_contender, scored(None), "has neither log_prob nor log_w"),
    (
        comparing.check_contender,
        scored(lambda x: -x),
        r"the scores are \(3, 784\), not \(3,\)",
    ),
    (
        comparing.check_contender,
        weighted(lambda x, K: -x.sum(-1)),
        r"the scores are \(3,\), not \(2, 3\)",
    ),
    (comparing.check_contender, scored(lambda x: x.sum(-1).log()), "a score is not finite"),
    (comparing.check_contender, scored(lambda x: x.sum(-1)), "is more than certain"),
    (comparing.check_contender, scored(lambda x: -torch.rand(len(x))), "got two scores"),
    (comparing.check_contender, COINS._replace(build=Silent), "has no sample"),
    (
        comparing.check_contender,
        COINS._replace(build=Narrow),
        r"two drawings are \(2, 9\), not \(2, 784\)",
    ),
]


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_wrong_answers_are_told_why(check, answer, hint):
    assert check.verdict(answer).startswith(f"✗ {check.label}: ")
    with pytest.raises(AssertionError, match=hint):
        check.check(answer)


def test_the_empty_answers_of_the_chapter_are_no_attempts():
    empty = {
        comparing.check_claims: dict.fromkeys(REASONS, ...),
        comparing.check_contender: ...,
    }
    for check in {check for check, _ in RIGHT}:
        answer = empty.get(check, lambda *_: ...)
        assert check.verdict(answer) == f"◻ {check.label}: not attempted yet"
        assert check.verdict() == f"◻ {check.label}: not attempted yet"


def test_every_hint_is_given_to_somebody():
    assert_every_hint_is_given(
        comparing, WRONG, least=90, functions=("check", "_"), names=REASONS.values()
    )


# --- what the checks and the solutions rest on ---------------------------------------------------


def test_the_two_errors_are_those_of_the_two_chances():
    """ex-chances: on average, for pictures of one grey pixel of which the scores are known."""
    generator = torch.Generator().manual_seed(0)
    N, M, many = 30, 4, 4000
    grey = torch.rand(many, N, 1, generator=generator)
    scores = 3 * (torch.rand(many, N, M, generator=generator) < grey).double()
    coins, pictures = torch.tensor([errors(s) for s in scores]).square().mean(0).tolist()
    within = 9 * (grey * (1 - grey)).mean().item()
    assert coins == pytest.approx(within / N, rel=0.02)
    assert pictures == pytest.approx(scores[..., 0].var().item() / N, rel=0.02)
    assert pictures == pytest.approx(scores[..., 0].mean(1).var().item(), rel=0.1)
    assert pictures > 1.4 * coins


def test_so_many_draws_keep_the_bias_within_the_tolerance():
    """ex-how-many-draws: with two weights, by the binomial distribution of their counts."""
    p, w = 0.3, torch.tensor([3.0, 0.5], dtype=torch.float64)
    truth = p * w[0] + (1 - p) * w[1]
    relative_variance = (p * (1 - p) * (w[0] - w[1]) ** 2 / truth**2).item()
    for tolerance in (0.1, 0.01, 0.001):
        K = draws(relative_variance, tolerance)
        counts = torch.arange(K + 1, dtype=torch.float64)
        chances = torch.distributions.Binomial(K, torch.tensor(p).double()).log_prob(counts).exp()
        bias = truth.log() - chances @ ((counts * w[0] + (K - counts) * w[1]) / K).log()
        assert bias.item() == pytest.approx(relative_variance / (2 * K), rel=2 / K + 0.02)
        assert bias < 1.1 * tolerance


def test_a_contender_goes_through_the_comparison(monkeypatch):
    """ex-own-contender: what its solution asks of the deeper MADE, with few pictures."""
    mnist = data.mnist()
    few = SimpleNamespace(
        train=SimpleNamespace(images=mnist.train.images[:500]),
        test=SimpleNamespace(images=mnist.test.images[:100]),
    )
    monkeypatch.setattr(data, "mnist", lambda: few)
    monkeypatch.setattr(comparison, "DRAWS", 30)
    monkeypatch.setattr(comparison, "seconds_for_drawings", lambda model: 0.0)
    monkeypatch.setitem(comparison.CONTENDERS, "deeper MADE", DEEPER)
    model, values = comparison.train_one("deeper MADE")
    table = comparison.likelihood_table(comparison.measurements() | {"deeper MADE": values})
    assert f"| deeper MADE | {values['nll']:.2f} ±" in table
    assert values["nll"] < 200
    x = data.binarize(few.test.images.flatten(1), data.SEEDS["test"])
    log_p = evaluation.log_likelihoods(model, x)
    assert -log_p.mean().item() == pytest.approx(values["nll"], abs=1e-3)
    log_q = evaluation.log_likelihoods(comparison.shipped("MADE"), x)
    gain, error = difference(log_p, log_q)
    assert gain < -5 * error  # the other has seen all pictures
