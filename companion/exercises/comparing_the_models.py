"""Self-checks of the exercises of book/comparing-the-models.ipynb."""

import inspect
import math

import torch
from torch import nn

from companion.evaluation import Estimate
from companion.exercises import exercise
from companion.exercises._shared import assert_named, near, refuse, shape_of, two_parts
from companion.experiments import comparison
from companion.families import FAMILIES
from companion.presets import D, Preset


@exercise("ex-difference")
def check_difference(difference):
    """``difference(log_p, log_q)``: ``(N,), (N,)`` -> mean of ln p - ln q, standard error, nats."""
    log_p = torch.tensor([-80, -95.5, -120.25, -60.75, -101], dtype=torch.float64)
    log_q = torch.tensor([-82.5, -95, -123.75, -61, -104.25], dtype=torch.float64)
    N, gains = len(log_p), log_p - log_q
    right, right_error = Estimate.of(gains)
    mean, error = _two_scalars(difference(log_p, log_q), "a mean and its error")
    assert not (near(mean, right_error) and near(error, right)), "which of the two comes first?"
    mistakes = [
        (-right, "the sign is turned round: which model's logarithms come first?"),
        (gains.sum(), "this is the difference of all pictures together: what is that of one?"),
        (gains.abs().mean(), "a picture that is more probable under q counts for p: why?"),
        (right / math.log(2), "the unit is the bit: who asked for another unit than the nat?"),
        (
            log_p.logsumexp(0) - log_q.logsumexp(0),
            "probabilities were averaged, and one picture decides: of what is the mean wanted?",
        ),
    ]
    refuse(mean, mistakes)
    assert near(mean, right), f"the mean difference is not {mean.item():.4g}"
    apart = log_p.var() + log_q.var()
    mistakes = [
        (gains.std(), "this is how much one difference varies: how well is the mean known?"),
        (gains.var(), "this is the variance of one difference: what has the unit nats?"),
        (gains.var() / N, "this is the variance of the mean: what has the unit nats?"),
        (gains.std() / N, "how fast does the error of a mean shrink with the number of pictures?"),
        (
            gains.std(correction=0) / N**0.5,
            "one difference in N is used up by the mean: by what is the sum of squares divided? "
            "With so few pictures it matters.",
        ),
        (
            (apart / N).sqrt(),
            "as if each model had seen pictures of its own: what becomes of a picture that is hard "
            "for both?",
        ),
        (
            (log_p.std() + log_q.std()) / N**0.5,
            "the errors of the two means were added: were the two means found independently, or "
            "on the same pictures?",
        ),
        (
            (log_p.std() - log_q.std()).abs() / N**0.5,
            "the errors of the two means were subtracted: is an error of a difference the "
            "difference of errors?",
        ),
        (apart.sqrt(), "no pairs, and no root of N: what is the error of a mean of differences?"),
    ]
    refuse(error, mistakes)
    assert near(error, right_error), f"the standard error is not {error.item():.4g}"
    log_p, log_q = torch.tensor([[-1.0, -3.0, -2.0], [-2.0, -7.0, -1.0]], dtype=torch.float64)
    answer = _two_scalars(difference(log_p, log_q), "a mean and its error")
    for part, value in zip(answer, Estimate.of(log_p - log_q), strict=True):
        assert near(part, value), (
            f"right for five pictures, and not for three, with {part.item():.4g}: is a number "
            "written into the function?"
        )


@exercise("ex-chances")
def check_standard_errors(errors):
    """``errors(scores)``: ``(N, M)`` -> errors of the first throw's mean: by coins, by pictures."""
    scores = [[80, 82, 84.5], [95, 96, 93], [120.25, 118, 121], [60.5, 61, 64]]
    scores = torch.tensor(scores, dtype=torch.float64)
    N, M = scores.shape
    coins, pictures = _two_scalars(errors(scores), "one error for each chance")
    of_throws, first = scores.var(1), scores[:, 0]
    right_coins, right_pictures = (of_throws.mean() / N).sqrt(), first.std() / N**0.5
    assert not (near(coins, right_pictures) and near(pictures, right_coins)), (
        "which of the two comes first: who throws the same pictures again meets one chance only"
    )
    mistakes = [
        (
            (scores.var(0).mean() / N).sqrt(),
            "these variances are over pictures: along which axis do the throws of one lie?",
        ),
        (
            scores.mean(0).std(),
            "this is the spread of a few means, one for each throw: an honest estimate, and a "
            "noisy one. There are more pictures than throws: average the variances of the pictures "
            "instead.",
        ),
        (
            scores.mean(0).std(correction=0),
            "this is the spread of a few means, too small, for they lie about their own mean: "
            "average the variances of the pictures instead",
        ),
        (
            of_throws.mean().sqrt(),
            "this is how much the score of one picture varies: how well is the mean of N known?",
        ),
        (of_throws.mean() / N, "the first is a variance: what has the unit nats?"),
        (of_throws.mean().sqrt() / N, "how fast does the error of a mean shrink with N?"),
        (
            scores.std(1).mean() / N**0.5,
            "deviations were averaged: of independent throws, do these add up, or variances?",
        ),
        (
            (scores.var(1, correction=0).mean() / N).sqrt(),
            "the mean of the throws uses up one of them: by what is the sum of squares divided?",
        ),
        (
            (of_throws.mean() / (N * M)).sqrt(),
            "this is the error of the mean of all throws: what is that of a single throw?",
        ),
        (
            (of_throws.mean() / M).sqrt(),
            "the error shrinks with the throws here: how many scores has the mean of one throw?",
        ),
    ]
    refuse(coins, mistakes)
    assert near(coins, right_coins), f"the first error is not {coins.item():.4g}"
    mistakes = [
        (right_coins, "the second is the first again: what varies besides if pictures change?"),
        (first.std(), "this is how much a score varies: how well is the mean of N scores known?"),
        (first.var() / N, "the second is a variance: what has the unit nats?"),
        (first.std() / N, "the second shrinks too fast: how does the error of a mean go with N?"),
        (
            first.std(correction=0) / N**0.5,
            "the mean over pictures uses up one of them: by what is the sum of squares divided?",
        ),
        (
            scores.std() / (N * M) ** 0.5,
            "all throws were counted as pictures: are throws of one picture independent?",
        ),
        (
            scores.std() / N**0.5,
            "all throws went into one variance: the first column alone was asked for",
        ),
        (
            (scores.var(0).mean() / N).sqrt(),
            "the variances of all throws were averaged, which is sound, but the first column "
            "alone was asked for",
        ),
        (
            scores.mean(1).std() / N**0.5,
            "the throws of a picture were averaged: how many throws has the mean asked for?",
        ),
        (
            (right_pictures**2 + right_coins**2).sqrt(),
            "the coins were counted twice: were those of the first throw not thrown already?",
        ),
        (
            (right_pictures**2 - right_coins**2).sqrt(),
            "the coins were taken out: are other pictures not thrown, too?",
        ),
    ]
    refuse(pictures, mistakes)
    assert near(pictures, right_pictures), f"the second error is not {pictures.item():.4g}"
    scores = torch.tensor([[1.0, 3.0], [4.0, 4.0], [9.0, 5.0]], dtype=torch.float64)
    expected = (scores.var(1).mean() / 3).sqrt(), scores[:, 0].std() / 3**0.5
    answer = _two_scalars(errors(scores), "one error for each chance")
    for part, value in zip(answer, expected, strict=True):
        assert near(part, value), (
            f"right for four pictures and three throws, and not for three and two, with "
            f"{part.item():.4g}: is a number written into the function?"
        )


@exercise("ex-how-many-draws")
def check_draws(draws):
    """``draws(relative_variance, tolerance)`` -> the least K whose bias is within the tolerance."""
    cases = [(14.5, 1.0), (15.25, 1.0), (3.0, 0.25), (40.0, 0.125), (0.5, 1.0), (0.0, 0.5)]
    answer = torch.tensor([float(draws(*case)) for case in cases], dtype=torch.float64)
    variance, tolerance = torch.tensor(cases, dtype=torch.float64).T
    exact = variance / (2 * tolerance)

    def least(value):
        return value.ceil().clamp(min=1)

    mistakes = [
        (exact, "can one draw a fraction of a latent? The next whole number is wanted."),
        (exact.clamp(min=1), "can one draw a fraction of a latent?"),
        (exact.floor(), "rounded down, K misses the tolerance: on which side is it kept?"),
        (exact.floor().clamp(min=1), "K is rounded down: is the bias within the tolerance then?"),
        (exact.round(), "the nearest whole number may be too few draws: on which side is it kept?"),
        (exact.round().clamp(min=1), "the nearest whole number may be too few draws"),
        (exact.floor() + 1, "where the tolerance is met exactly, is one draw more needed?"),
        (exact.ceil(), "with no draw at all there is no estimate: how many are needed at least?"),
        (least(2 * exact), "the bias is half as large as you take it to be"),
        (least(exact / 2), "the 2 divides the bias twice"),
        (least(4 * exact), "the 2 is on the wrong side: does it make the bias smaller or larger?"),
        (2 * exact, "the bias is half of that, and K is a whole number"),
        (least(variance / (2 * tolerance**2)), "the tolerance is squared: is it a variance?"),
        (
            least(variance * tolerance / 2),
            "a stricter tolerance gives fewer draws here: should it not take more?",
        ),
        (least(variance**2 / (2 * tolerance)), "the relative variance is squared already"),
        (least(variance.sqrt() / (2 * tolerance)), "this takes the deviation: what has the bias?"),
    ]
    refuse(answer, mistakes)
    for (v, t), one, right in zip(cases, answer, least(exact), strict=True):
        assert near(one, right), (
            f"for a relative variance of {v:g} and a tolerance of {t:g} it is not {one.item():g}"
        )


@exercise("ex-rubbish")
def check_rubbish(share):
    """``share(loss)``: nats -> how much rubbish a mixture may hold that never loses more."""
    losses = torch.tensor([0.5, 2.0, 5.0], dtype=torch.float64)
    answer = torch.tensor([float(share(loss)) for loss in losses.tolist()], dtype=torch.float64)
    left = (-losses).exp()
    mistakes = [
        (left, "this is the share of the sound model: which is wanted?"),
        (1 - 0.5**losses, "a nat was taken for a bit: which power undoes a natural logarithm?"),
        (losses.exp(), "a share above one? What does a negative logarithm make of a small share?"),
        (1 - losses.exp(), "a share below zero? What is the sign in the exponent?"),
        (1 - losses, "this takes the logarithm for its tangent at one: how large is the loss?"),
        (losses, "this takes the logarithm for its tangent at one: how large is the loss?"),
        (losses / (1 + losses), "the loss is a logarithm: what undoes it?"),
        (100 * (1 - left), "this is in percent: which number from 0 to 1 is it?"),
    ]
    refuse(answer, mistakes)
    for loss, one, right in zip(losses, answer, 1 - left, strict=True):
        assert near(one, right), f"for a loss of {loss.item():g} nats it is not {one.item():.4g}"
    assert near(torch.tensor(float(share(0.0))), 0.0), "to lose nothing: how much rubbish?"


@exercise("ex-fair")
def check_claims(reasons):
    """``{claim: "fair", or what speaks against it}``, for each of the six claims."""
    names = (
        "fair",
        "another data set",
        "a bound against the truth",
        "another judge",
        "grey against black and white",
    )
    answers = {  # and what to ask whoever gives another
        "a": ("another data set", "which images has each of the two learnt from, and been asked?"),
        "b": ("fair", "the truth is below the bound: can it be above the NADE's score?"),
        "c": ("another judge", "in which features was each of the two distances measured?"),
        "d": (
            "a bound against the truth",
            "how far below its bound may the VAE's true score be?",
        ),
        "e": (
            "grey against black and white",
            "can the logarithm of a probability be positive? And that of a density?",
        ),
        "f": ("fair", "are the scores, the pictures and the throw not the same for both?"),
    }
    assert_named(reasons, answers, names)
    for claim, (reason, question) in answers.items():
        assert reasons[claim] == reason, (
            f"claim {claim!r} is not to be called {reasons[claim]!r}: {question}"
        )


@exercise("ex-own-contender")
def check_contender(contender):
    """A `companion.presets.Preset` that can be built, scored and asked to draw; not trained."""
    assert isinstance(contender, Preset), (
        f"a presets.Preset is wanted, not {type(contender).__name__}: it also says how the "
        "model is trained and scored"
    )
    families = [family.name for family in FAMILIES]
    assert contender.family in families, (
        f"there is no family {contender.family!r}: {', '.join(families)}"
    )
    kinds = ("exact", "bound", "none")
    kind = contender.likelihood
    assert kind in kinds, f"there is no likelihood {kind!r}: {', '.join(kinds)}"
    assert not isinstance(contender.build, nn.Module), (
        "build is a model already: how would another run get one of its own?"
    )
    model = contender.build()
    assert isinstance(model, nn.Module), f"build makes a {type(model).__name__}: and the module?"
    assert model is not contender.build(), "build gives the same model twice: who begins afresh?"
    try:
        inspect.signature(contender.train).bind(model, torch.zeros(1, D), 0, None)
    except TypeError as problem:
        raise AssertionError(
            "train takes a model, the grey images, a seed and a device, in this order: what else "
            f"is to be fixed beforehand? ({problem})"
        ) from problem
    model.eval()
    can_be_scored = hasattr(model, "log_prob"), hasattr(model, "log_w")
    best = "exact" if can_be_scored[0] else "bound" if can_be_scored[1] else "none"
    assert kind == best, (
        f"the likelihood is not {kind!r}: the model has "
        + ("log_prob", "log_w", "neither log_prob nor log_w")[kinds.index(best)]
    )
    x = torch.zeros(3, D)
    x[1:, ::2] = 1
    with torch.no_grad():
        if kind != "none":
            scores = model.log_prob(x) if kind == "exact" else model.log_w(x, 2)
            shape = (3,) if kind == "exact" else (2, 3)
            assert scores.shape == shape, (
                f"for three pictures the scores are {shape_of(scores)}, not {shape}"
            )
            assert scores.isfinite().all(), "a score is not finite: what does the model rule out?"
        if kind == "exact":
            assert (scores <= 0).all(), "a picture of zeros and ones is more than certain"
            assert near(scores[1], scores[2]), "the same picture got two scores"
        assert hasattr(model, "sample"), "the model has no sample: how is it to draw?"
        drawn = comparison.drawings(model, 2)
    assert drawn.shape == (2, D), f"two drawings are {shape_of(drawn)}, not {(2, D)}"


# --- helpers ------------------------------------------------------------------------------------


def _two_scalars(answer, what):
    """The two numbers of an answer, as tensors in float64."""
    parts = [part.double() for part in two_parts(answer, what)]
    for part in parts:
        assert part.shape == (), f"each of the two is one number: shape (), not {shape_of(part)}"
    return parts
