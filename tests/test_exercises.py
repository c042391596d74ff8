"""The self-checks of the exercises: right answers pass, and each likely wrong one is told why."""

import math

import pytest
import torch
import torch.nn.functional as F

from companion import checks
from companion.autoregressive import MADE, PixelCNN
from companion.exercises import autoregressive as ar


def pixels(D):
    return torch.arange(1, D + 1)


# --- answers as the chapter has them, or nearly so ---------------------------------------------


def log_likelihood_in_a_loop(x, logits):
    """In float32, row by row, and it writes over what it was given."""
    logits *= 2 * x - 1
    answer = torch.zeros(len(x))
    for i, row in enumerate(logits):
        answer[i] = F.logsigmoid(row).sum()
    return answer


def nade_logits(x, W, c, V, b, *, own=False, start=1, offset=1, hidden=torch.sigmoid):
    a, logits = start * c.expand(len(x), -1), []
    for i in range(x.shape[1]):
        after = a + x[:, i, None] * W[i]
        logits.append(hidden(after if own else a) @ V[i] + offset * b[i])
        a = after
    return torch.stack(logits, 1)


def kernel_mask(kind, kernel):
    mask = torch.zeros(kernel, kernel)
    m = kernel // 2
    mask[:m] = 1
    mask[m, : m + (kind == "B")] = 1
    return mask


def view(shape, pixel, kernel, layers, first="A", others="B"):
    seen = torch.zeros(1, 1, *shape)
    seen[0, 0][pixel] = 1
    for kind in [others] * layers + [first]:
        mask = kernel_mask(kind, kernel)[None, None]
        seen = (F.conv_transpose2d(seen, mask, padding=kernel // 2) > 0).float()
    return seen[0, 0] > 0


def looked_at_by(shape, pixel, kernel, layers):
    everywhere = [divmod(i, shape[1]) for i in range(shape[0] * shape[1])]
    views = [view(shape, other, kernel, layers)[pixel] for other in everywhere]
    return torch.stack(views).view(shape)


def all_earlier(shape, pixel, kernel, layers):
    place = pixel[0] * shape[1] + pixel[1]
    return (torch.arange(shape[0] * shape[1]) < place).view(shape)


def view_of_a_network(shape, pixel, kernel, layers):
    """By the gradient of a network with random weights, as in the chapter."""
    torch.manual_seed(0)
    model = PixelCNN(shape, 8, layers, kernel=kernel, first_kernel=kernel).double()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    place = pixel[0] * shape[1] + pixel[1]
    return checks.sees(model.logits, model.features, place).view(shape)


def causal(model):
    """Whether no entry depends on itself or a later one, in every order."""
    for which, order in enumerate(model.orders):
        place = order.argsort()
        sees = checks.dependence(lambda x, m=which: model.logits(x, m), model.features)
        if (sees & (place[:, None] <= place)).any():
            return False
    return True


def complete_dependence(model):
    place = model.orders[0].argsort()
    return torch.equal(
        checks.dependence(model.logits, model.features), place[:, None] > place[None]
    )


def sums_to_one(model):
    return abs(checks.total_probability(model.log_prob, model.features) - 1) < 1e-6


def samples_p_value(model):
    return checks.sampling_p_value(model.sample((20_000,)), model.log_prob)


def is_sound(model):
    return sums_to_one(model) and samples_p_value(model) > 1e-4


def overwrite(model, x, known, n):
    x = x.repeat(n, 1)
    for i in model.orders[0]:
        if not known[i]:
            x[:, i] = torch.bernoulli(torch.sigmoid(model.logits(x)[:, i]))
    return x


def complete(model, x, known, n):
    x = overwrite(model, x, known, n)
    log_w = model.log_conditionals(x)[:, known].sum(-1)
    return x[torch.multinomial(log_w.softmax(0), n, replacement=True)]


def complete_with_all_factors(model, x, known, n):
    x = overwrite(model, x, known, n)
    return x[torch.multinomial(model.log_prob(x).softmax(0), n, replacement=True)]


def complete_by_enumeration(model, x, known, n):
    rest = checks.all_binary(int((~known).sum()))
    x = x.repeat(len(rest), 1)
    x[:, ~known] = rest.to(x)
    return x[torch.multinomial(model.log_prob(x).softmax(0), n, replacement=True)]


# --- wrong answers -----------------------------------------------------------------------------


WRONG = [
    (ar.check_window_parameters, lambda D, n: D * 2**n, "4\\) is|widest window"),
    (ar.check_window_parameters, lambda D, n: D, "widest window"),
    (ar.check_window_parameters, lambda D, n: 2 ** min(D, n + 1) - 1, "D probabilities"),
    (ar.check_log_likelihood, lambda x, a: x * a - F.softplus(a), "one number per example"),
    (ar.check_log_likelihood, lambda x, a: (F.softplus(a) - x * a).sum(-1), "sign"),
    (ar.check_log_likelihood, lambda x, a: (x * a - F.softplus(a)).mean(-1), "do not average"),
    (
        ar.check_log_likelihood,
        lambda x, a: (x * a - F.softplus(a)).sum(-1) / math.log(2),
        "the unit is the bit",
    ),
    (ar.check_log_likelihood, lambda x, a: a.sum(-1), "not the log-likelihoods"),
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
    (ar.check_order_mask, lambda o: o.argsort()[:, None] < o.argsort(), "looked at"),
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
    (ar.check_made_masks, lambda m, D: m[:, None] > pixels(D), "one mask for each layer of we"),
    (ar.check_made_masks, lambda m, D: (m[:, None] <= pixels(D), pixels(D)[:, None] < m), "later"),
    (ar.check_made_masks, lambda m, D: (pixels(D)[:, None] > m, m[:, None] >= pixels(D)), "shape"),
    (
        ar.check_made_masks,
        lambda m, D: (m[:, None] >= pixels(D), pixels(D)[:, None] == m + 1),
        "not every connection",
    ),
    (ar.check_ensemble, lambda log_p: log_p.mean(0), "averaging logarithms"),
    (ar.check_ensemble, lambda log_p: log_p.logsumexp(0), "sum to 3.000"),
    (ar.check_ensemble, lambda log_p: log_p[0], "equally"),
    (ar.check_ensemble, lambda log_p: log_p.logsumexp(0) - math.log(3), "their number"),
    (ar.check_ensemble, lambda log_p: log_p.exp().mean(0).log(), "you make -inf"),
    (ar.check_ensemble, lambda log_p: (log_p.exp().mean(0) + 1e-30).log(), "you make -69"),
    (ar.check_ensemble, lambda log_p: log_p.exp().mean(0).clamp(min=1e-40).log(), "you make -9"),
    (
        ar.check_ensemble,
        lambda log_p: log_p.max() + (log_p - log_p.max()).exp().mean(0).log(),
        "each example's sum",
    ),
    (ar.check_sampler, lambda model, n: torch.zeros(n, 4), "shape"),
    (ar.check_sampler, lambda model, n: torch.rand(n, 5), "zeros and ones"),
    (ar.check_sampler, lambda model, n: torch.rand(n, 5).round(), "do not follow"),
    (ar.check_sampler, lambda model, n: model.sample().expand(n, 5), "all samples are the same"),
    (ar.check_nade_logits, lambda *a: nade_logits(*a)[0], "a logit per entry"),
    (ar.check_nade_logits, lambda *a: nade_logits(*a, own=True), "own prediction"),
    (ar.check_nade_logits, lambda *a: nade_logits(*a, start=0), "what of c"),
    (ar.check_nade_logits, lambda *a: nade_logits(*a, offset=0), "b is forgotten"),
    (ar.check_nade_logits, lambda *a: nade_logits(*a, hidden=lambda a: a), "have a sigmoid"),
    (ar.check_nade_logits, lambda *a: nade_logits(*a).sigmoid(), "probabilities"),
    (ar.check_nade_logits, lambda x, *a: nade_logits(x.flip(1), *a), "not NADE's"),
    (ar.check_kernel_mask, lambda kind, k: torch.ones(k), "shape"),
    (ar.check_kernel_mask, lambda kind, k: torch.ones(k, k), "below"),
    (ar.check_kernel_mask, lambda kind, k: kernel_mask(kind, k).flip(0), "below"),
    (ar.check_kernel_mask, lambda kind, k: kernel_mask(kind, k).flip(1), "right"),
    (ar.check_kernel_mask, lambda kind, k: kernel_mask("B", k), "sees itself"),
    (ar.check_kernel_mask, lambda kind, k: kernel_mask("AB"[kind == "A"], k), "sees itself"),
    (ar.check_kernel_mask, lambda kind, k: kernel_mask("A", k), "nothing leaks"),
    (ar.check_kernel_mask, lambda kind, k: kernel_mask(kind, k).tril(), "whole width"),
    (ar.check_view, lambda shape, *_: torch.zeros(3, 3), "the picture has the shape"),
    (ar.check_view, lambda *case: view(*case, first="B"), "sees itself"),
    (ar.check_view, lambda *case: looked_at_by(*case), "which way do the paths go"),
    (ar.check_view, all_earlier, "does a path lead to each"),
    (ar.check_view, lambda *case: view(*case, others="A"), "mask A in all layers"),
    (ar.check_view, lambda s, p, k, layers: view(s, p, k, layers - 1), "one kernel too few"),
    (ar.check_view, lambda s, p, k, layers: view(s, p, k, layers + 1), "one kernel too many"),
    (ar.check_view, lambda *case: ~view(*case), "does not come earlier"),
    (ar.check_view, lambda *case: torch.zeros(case[0]), r"wrong at \(1, 1\)"),
    (ar.check_view, lambda s, p, k, layers: view(s, p, 3, layers), "kernels of width 5"),
    (ar.check_detective, lambda model: True, "a PixelCNN was let go that sums to 0.99"),
    (ar.check_detective, lambda model: False, "a sound FVSBN was accused"),
    (ar.check_detective, samples_p_value, "True or False"),
    (ar.check_detective, sums_to_one, "sums to one and yet draws from another"),
    (ar.check_detective, lambda m: causal(m) and sums_to_one(m), "sums to one and yet draws"),
    (ar.check_detective, causal, "mixture of two orders was let go"),
    (ar.check_detective, lambda m: samples_p_value(m) > 1e-4, "sums to 0.99"),
    (ar.check_detective, lambda m: is_sound(m) or isinstance(m, MADE), "a MADE was let go"),
    (ar.check_detective, complete_dependence, "a sound FVSBN was accused"),
    (ar.check_detective, lambda m: is_sound(m) and samples_p_value(m) > 0.5, "by chance"),
    (ar.check_completion, lambda model, x, known, n: x, "shape"),
    (ar.check_completion, lambda model, x, known, n: torch.rand(n, 5), "zeros and ones"),
    (ar.check_completion, lambda model, x, known, n: model.sample((n,)), "as they went in"),
    (ar.check_completion, overwrite, "have not heard of it"),
    (ar.check_completion, complete_with_all_factors, "by enumeration"),
    (ar.check_completion, lambda model, x, known, n: x.repeat(n, 1), "by enumeration"),
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
    assert ar.check_log_likelihood.verdict(log_likelihood_in_a_loop).startswith("✓")
    assert ar.check_sampler.verdict(lambda model, n: model.sample((n,))).startswith("✓")
    assert ar.check_sampler.verdict(lambda model, n: model.sample((n,)).numpy()).startswith("✓")
    assert ar.check_nade_logits.verdict(nade_logits).startswith("✓")
    assert ar.check_kernel_mask.verdict(kernel_mask).startswith("✓")
    assert ar.check_view.verdict(view).startswith("✓")
    assert ar.check_view.verdict(view_of_a_network).startswith("✓")
    assert ar.check_detective.verdict(is_sound).startswith("✓")
    assert ar.check_detective.verdict(
        lambda model: causal(model) and samples_p_value(model) > 1e-4
    ).startswith("✓")
    assert ar.check_completion.verdict(complete).startswith("✓")
    assert ar.check_completion.verdict(lambda *asked: complete(*asked).numpy()).startswith("✓")
    assert ar.check_completion.verdict(complete_by_enumeration).startswith("✓")


def test_which_tool_of_the_detective_finds_which_mistake():
    """As the solution's table says: mask B first, a leaking mask, averaged logits, two sigmoids."""
    torch.manual_seed(0)
    models = [model for model, _ in ar._broken_models()]
    tools = (sums_to_one, causal, lambda model: samples_p_value(model) > 1e-4)
    tell = [[not tool(model) for model in models] for tool in tools]
    assert tell == [
        [True, True, True, False],
        [True, True, False, False],
        [False, True, True, True],
    ]
