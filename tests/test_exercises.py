"""The self-checks of the exercises: right answers pass, and each likely wrong one is told why."""

import math

import pytest
import torch
import torch.nn.functional as F

from companion.exercises import autoregressive as ar


def pixels(D):
    return torch.arange(1, D + 1)


WRONG = [
    (ar.check_window_parameters, lambda D, n: D * 2**n, "4\\) is|widest window"),
    (ar.check_window_parameters, lambda D, n: D, "widest window"),
    (ar.check_window_parameters, lambda D, n: 2 ** min(D, n + 1) - 1, "D probabilities"),
    (ar.check_log_likelihood, lambda x, a: x * a - F.softplus(a), "one number per example"),
    (ar.check_log_likelihood, lambda x, a: (F.softplus(a) - x * a).sum(-1), "sign"),
    (ar.check_log_likelihood, lambda x, a: (x * a - F.softplus(a)).mean(-1), "do not average"),
    (
        ar.check_log_likelihood,
        lambda x, a: -F.binary_cross_entropy_with_logits(a.sigmoid(), x, reduction="none").sum(-1),
        "twice",
    ),
    (
        ar.check_log_likelihood,
        lambda x, a: (x * a.sigmoid().log() + (1 - x) * (1 - a.sigmoid()).log()).sum(-1),
        "rounded to zero",
    ),
    (
        ar.check_log_likelihood,
        lambda x, a: (x * a - (1 + a.exp()).log()).sum(-1),
        "overflowed",
    ),
    (ar.check_order_mask, lambda o: o[:, None] > o[None, :], "place in the order"),
    (ar.check_order_mask, lambda o: o.argsort()[:, None] >= o.argsort(), "itself"),
    (ar.check_order_mask, lambda o: o.argsort()[:, None] < o.argsort(), "transpose"),
    (
        ar.check_made_masks,
        lambda m, D: (m[:, None] >= pixels(D), pixels(D)[:, None] >= m),
        "cheats",
    ),
    (
        ar.check_made_masks,
        lambda m, D: (m[:, None] > pixels(D), pixels(D)[:, None] > m),
        "too much",
    ),
    (ar.check_made_masks, lambda m, D: (m[:, None] <= pixels(D), pixels(D)[:, None] < m), "later"),
    (ar.check_made_masks, lambda m, D: (pixels(D)[:, None] > m, m[:, None] >= pixels(D)), "shape"),
    (ar.check_ensemble, lambda log_p: log_p.mean(0), "averaging logarithms"),
    (ar.check_ensemble, lambda log_p: log_p.logsumexp(0), "sum to 3.000"),
    (ar.check_ensemble, lambda log_p: log_p[0], "equally"),
    (ar.check_ensemble, lambda log_p: log_p.exp().mean(0).log(), "logsumexp"),
    (ar.check_sampler, lambda model, n: torch.zeros(n, 4), "shape"),
    (ar.check_sampler, lambda model, n: torch.rand(n, 5), "zeros and ones"),
    (ar.check_sampler, lambda model, n: torch.rand(n, 5).round(), "do not follow"),
]


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_wrong_answers_are_told_why(check, answer, hint):
    verdict = check.verdict(answer)
    assert verdict.startswith("✗")
    with pytest.raises(AssertionError, match=hint):
        check.check(answer)


def test_a_sampler_in_the_wrong_order_is_caught():
    def natural_order(model, n):
        x = torch.zeros(n, model.features)
        with torch.no_grad():
            for i in range(model.features):
                x[:, i] = torch.sigmoid(model.logits(x)[:, i]).bernoulli()
        return x

    assert "drawn after" in ar.check_sampler.verdict(natural_order)


def test_right_answers_pass():
    assert ar.check_window_parameters.verdict(lambda D, n: 2**n - 1 + (D - n) * 2**n).startswith(
        "✓"
    )
    assert ar.check_ensemble.verdict(
        lambda log_p: log_p.logsumexp(0) - math.log(len(log_p))
    ).startswith("✓")
    assert ar.check_sampler.verdict(lambda model, n: model.sample((n,))).startswith("✓")
