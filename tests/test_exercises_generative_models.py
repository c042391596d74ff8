"""The self-checks of the chapter on generative models: right answers pass, wrong ones learn why."""

import ast
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from companion import checks, divergences, evaluation
from companion.exercises import generative_models as gm

# --- answers as the chapter has them, or nearly so ---------------------------------------------


def kl(p, q):
    possible = p > 0
    return (p * (p / q).log())[possible].sum()


def kl_in_a_loop(p, q):
    pairs = zip(p.tolist(), q.tolist(), strict=True)
    return sum(a * math.log(a / b) if b else math.inf for a, b in pairs if a)


def factors(p, a):
    return p.sum(0), (a @ p.log()).softmax(0)


def factors_by_products(p, a):
    products = (p ** a[:, None]).prod(0)
    return p.sum(0).tolist(), (products / products.sum()).tolist()


def carried(p, q, points):
    return ((p - q).cumsum(0)[:-1].abs() * points.diff()).sum()


def carried_in_a_loop(p, q, points):
    work = crossing = 0.0
    for i in range(len(p) - 1):
        crossing += float(p[i] - q[i])
        work += abs(crossing) * float(points[i + 1] - points[i])
    return work


def kl_terms(log_p, log_q):
    log_u = log_q - log_p
    return log_u.exp() - 1 - log_u


def kl_terms_in_place(log_p, log_q):
    log_q -= log_p
    return log_q.exp() - 1 - log_q


def m_step(x, r):
    counts = r.sum(0)
    return counts / len(x), r.T @ x / counts[:, None]


def with_probs(probs):
    """An M-step with the right weights and these probs, of the counts of ink and of the kinds."""
    return lambda x, r: (r.mean(0), probs(r.T @ x, r.sum(0), len(x)))


def with_weights(weights):
    return lambda x, r: (weights(r), m_step(x, r)[1])


def hard_m_step(x, r):
    return m_step(x, F.one_hot(r.argmax(1), r.shape[1]).to(r))


def pairs(win=1.0, tie=0.5, total=lambda pairs, ties: pairs):
    def auc(normal, anomalous):
        ties = (anomalous[:, None] == normal).sum()
        score = win * (anomalous[:, None] > normal).sum() + tie * ties
        return score / total(len(normal) * len(anomalous), ties)

    return auc


def complete(mixture, x, known, n, r=None):
    r = mixture.responsibilities(x, known) if r is None else r
    k = torch.multinomial(r, n, replacement=True)
    return torch.where(known, x, torch.bernoulli(mixture.probs[k]))


def equal_weights(mixture, x, known, n):
    r = (mixture.log_joint(x, known) - mixture.weights.log()).softmax(-1)
    return complete(mixture, x, known, n, r)


def blend(mixture, x, known, n):
    probs = mixture.responsibilities(x, known) @ mixture.probs
    return torch.where(known, x, torch.bernoulli(probs.expand(n, -1)))


def one_kind(mixture, x, known, n):
    k = torch.multinomial(mixture.responsibilities(x, known), 1)
    return torch.where(known, x, torch.bernoulli(mixture.probs[k].expand(n, -1)))


def most_probable_kind(mixture, x, known, n):
    r = F.one_hot(mixture.responsibilities(x, known).argmax(), len(mixture.weights))
    return complete(mixture, x, known, n, r.float())


def complete_by_enumeration(mixture, x, known, n):
    rest = checks.all_binary(int((~known).sum()))
    x = x.repeat(len(rest), 1)
    x[:, ~known] = rest.to(x)
    return x[torch.multinomial(mixture.log_prob(x).softmax(0), n, replacement=True)]


RIGHT = [
    (gm.check_mixture_parameters, lambda K, D: K * (D + 1) - 1),
    (gm.check_die, lambda counts, s: (counts + s) / (counts.sum() + len(counts) * s)),
    (gm.check_die, lambda counts, s: [(c + s) / sum(counts + s) for c in counts]),
    (gm.check_kl, kl),
    (gm.check_kl, lambda p, q: (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum()),
    (gm.check_kl, kl_in_a_loop),
    (gm.check_size, lambda nll, images: nll * images / math.log(2) / 8),
    (gm.check_size, lambda nll, images: math.ceil(nll * images / math.log(2) / 8)),
    (gm.check_factors, factors),
    (gm.check_factors, factors_by_products),
    (gm.check_wasserstein, carried),
    (gm.check_wasserstein, divergences.wasserstein1),
    (gm.check_wasserstein, carried_in_a_loop),
    (gm.check_estimator, kl_terms),
    (gm.check_estimator, lambda log_p, log_q: (log_q - log_p).expm1() - (log_q - log_p)),
    (gm.check_estimator, kl_terms_in_place),
    (gm.check_posterior, lambda a, prior: (a + prior.log()).softmax(-1)),
    (gm.check_posterior, lambda a, prior: a.add_(prior.log()).softmax(-1)),
    (gm.check_m_step, m_step),
    (gm.check_auc, pairs()),
    (gm.check_auc, lambda normal, anomalous: evaluation.auc(normal, anomalous).mean),
    (
        gm.check_auc,
        lambda normal, anomalous: torch.trapezoid(*evaluation.roc(normal, anomalous)[::-1]),
    ),
    (gm.check_complete, complete),
    (gm.check_complete, complete_by_enumeration),
    (gm.check_complete, lambda *asked: complete(*asked).bool().numpy()),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer):
    assert check.verdict(answer) == f"✓ {check.label}: correct"


# --- wrong answers -----------------------------------------------------------------------------


WRONG = [
    (gm.check_mixture_parameters, lambda K, D: K * D, "how frequent they are"),
    (gm.check_mixture_parameters, lambda K, D: K * D + K, "all of them free"),
    (gm.check_mixture_parameters, lambda D, K: K * D + K - 1, "K comes first"),
    (gm.check_mixture_parameters, lambda K, D: K * (2**D - 1) + K - 1, "independent"),
    (gm.check_mixture_parameters, lambda K, D: K + D - 1, "count\\(2, 1\\) is not 2"),
    (gm.check_die, lambda c, s: (c + s).sum() / len(c), "a probability per face"),
    (gm.check_die, lambda c, s: (c + s).double().softmax(0), "softmax"),
    (gm.check_die, lambda c, s: (c + s) / len(c), "how many throws"),
    (gm.check_die, lambda c, s: (c + s) / c.max(), "most frequent"),
    (gm.check_die, lambda c, s: (c + 1) / (c + 1).sum(), "leave the counts alone"),
    (gm.check_die, lambda c, s: c.flip(0) / c.sum(), "not the shares"),
    (gm.check_die, lambda c, s: c / c.sum(), "changes nothing"),
    (gm.check_die, lambda c, s: (c + s) / c.sum(), "sum to 2.2"),
    (gm.check_die, lambda c, s: (c + s) / (c.sum() + s), "sum to 1.833"),
    (gm.check_die, lambda c, s: (c + s) / (c.sum() + 2 * s), "raised the total"),
    (gm.check_die, lambda c, s: (c + s / len(c)) / (c.sum() + s), "every face"),
    (gm.check_die, lambda c, s: (c + s * c) / (c + s * c).sum(), "changes nothing"),
    (gm.check_die, lambda c, s: (c + s**2) / (c + s**2).sum(), "not right"),
    (gm.check_die, lambda c, s: (c + s) / (c.sum() + 6 * s), "right for six faces"),
    (gm.check_kl, lambda p, q: p * (p / q).log(), "one number"),
    (gm.check_kl, lambda p, q: kl(q, p), "under which"),
    (gm.check_kl, lambda p, q: -kl(p, q), "never negative"),
    (gm.check_kl, lambda p, q: kl(p, q) / math.log(2), "bits"),
    (gm.check_kl, lambda p, q: -(p * q.log()).sum(), "what even the truth could not avoid"),
    (gm.check_kl, lambda p, q: (p * (p / q).log()).mean(), "do not average"),
    (gm.check_kl, lambda p, q: (p / q).log().mean(), "what of p"),
    (gm.check_kl, lambda p, q: (p - q).abs().sum(), "not the divergence"),
    (gm.check_kl, lambda p, q: (p * (p / q).log()).sum(), "that p excludes makes the sum nan"),
    (
        gm.check_kl,
        lambda p, q: (torch.special.xlogy(p, p / q)).sum(),  # 0 ln (0 / 0)
        "p and q exclude makes the sum nan",
    ),
    (
        gm.check_kl,
        lambda p, q: ((p + 0.01) * ((p + 0.01) / (q + 0.01)).log()).sum(),
        "not the divergence",
    ),
    (
        gm.check_kl,
        lambda p, q: (p * p.clamp(1e-9).log() - p * q.clamp(1e-9).log()).sum(),
        "called impossible",
    ),
    (gm.check_kl, lambda p, q: kl(p, q).nan_to_num(posinf=0.0), "is 0: how surprising"),
    (gm.check_kl, lambda p, q: kl(p[q > 0], q[q > 0]), "called impossible"),
    (gm.check_kl, lambda p, q: kl(p, q) + (p == 0).sum(), "should add nothing"),
    (gm.check_size, lambda nll, n: n * nll / math.log(2), "eight"),
    (gm.check_size, lambda nll, n: n * nll / math.log(2) * 8, "more bytes or fewer"),
    (gm.check_size, lambda nll, n: n * nll, "this is in nats"),
    (gm.check_size, lambda nll, n: n * nll / 8, "how many bits make a nat"),
    (gm.check_size, lambda nll, n: n * nll * math.log(2) / 8, "more bits or fewer"),
    (gm.check_size, lambda nll, n: nll / math.log(2) / 8, "one image"),
    (gm.check_size, lambda nll, n: n * nll / 8 / math.log(2) / 784, "not the number of bytes"),
    (gm.check_factors, lambda p, a: factors(p, a)[0], "one factor for each direction"),
    (gm.check_factors, lambda p, a: (p, p), "forward: a number for each column"),
    (gm.check_factors, lambda p, a: factors(p, a)[::-1], "which direction comes first"),
    (gm.check_factors, lambda p, a: (p.mean(0), factors(p, a)[1]), "forward: the entries of b sum"),
    (
        gm.check_factors,
        lambda p, a: (p.sum(0), (a @ p.log()).exp()),
        "reverse: the entries of b sum to",
    ),
    (gm.check_factors, lambda p, a: [a @ p / (a @ p).sum()] * 2, "does p not weigh them already"),
    (gm.check_factors, lambda p, a: [factors(p, a)[1]] * 2, "forward: this is the factor of"),
    (gm.check_factors, lambda p, a: [p.log().sum(0).softmax(0)] * 2, "where does ln q stand"),
    (gm.check_factors, lambda p, a: [p.sum(0).flip(0)] * 2, "forward: another b is nearer"),
    (gm.check_factors, lambda p, a: [p.sum(0)] * 2, "reverse: this is the factor of the other"),
    (gm.check_factors, lambda p, a: (p.sum(0), a @ p / (a @ p).sum()), "by the formula"),
    (
        gm.check_factors,
        lambda p, a: (p.sum(0), p.log().mean(0).softmax(0)),
        "how often does a give it",
    ),
    (gm.check_factors, lambda p, a: (p.sum(0), (-(a @ p.log())).softmax(0)), "the sign of ln p"),
    (gm.check_factors, lambda p, a: (p.sum(0), (a @ p).softmax(0)), "reverse: another b is nearer"),
    (gm.check_wasserstein, lambda p, q, x: (p - q).cumsum(0), "one number for two tables"),
    (gm.check_wasserstein, lambda p, q, x: (p - q).clamp(min=0).sum(), "total variation"),
    (gm.check_wasserstein, lambda p, q, x: (p - q).abs().sum(), "how far off"),
    (gm.check_wasserstein, lambda p, q, x: (p - q).cumsum(0).abs().sum(), "counts as one"),
    (gm.check_wasserstein, lambda p, q, x: (p - q).cumsum(0).abs().max(), "fullest crossing"),
    (gm.check_wasserstein, lambda p, q, x: q @ x - p @ x, "set off against"),
    (gm.check_wasserstein, lambda p, q, x: p @ x - q @ x, "not the least work"),
    (gm.check_wasserstein, lambda p, q, x: -carried(p, q, x), "not the least work"),
    (gm.check_wasserstein, lambda p, q, x: (p - q).abs() @ x / 2, "where it lies"),
    (gm.check_wasserstein, lambda p, q, x: carried(p, q, x.abs()), "of which one is below zero"),
    (gm.check_estimator, lambda log_p, log_q: kl_terms(log_p, log_q).mean(), "one term per"),
    (
        gm.check_estimator,
        lambda log_p, log_q: (log_p - log_q) - (log_p - log_q).min(),
        "its own sample",
    ),
    (gm.check_estimator, lambda log_p, log_q: log_p - log_q, "some are negative"),
    (gm.check_estimator, lambda log_p, log_q: kl_terms(log_q, log_p), "which ratio"),
    (gm.check_estimator, lambda log_p, log_q: -kl_terms(log_p, log_q), "tangent"),
    (gm.check_estimator, lambda log_p, log_q: (log_p - log_q).abs(), "zero on average"),
    (gm.check_estimator, lambda log_p, log_q: (log_p - log_q).relu(), "zero on average"),
    (gm.check_estimator, lambda log_p, log_q: (log_p - log_q) ** 2 / 2, "zero on average"),
    (gm.check_estimator, lambda log_p, log_q: (log_q - log_p).exp(), "zero on average"),
    (
        gm.check_estimator,
        lambda log_p, log_q: log_q.exp() / log_p.exp() - 1 - (log_q.exp() / log_p.exp()).log(),
        "near -900",
    ),
    (gm.check_posterior, lambda a, prior: (a + prior.log()).softmax(-1).argmax(-1), "shape"),
    (gm.check_posterior, lambda a, prior: a.softmax(-1), "what of the prior"),
    (gm.check_posterior, lambda a, prior: (a + prior).softmax(-1), "added to a logarithm"),
    (gm.check_posterior, lambda a, prior: (a + prior.log()).log_softmax(-1), "logarithms of"),
    (gm.check_posterior, lambda a, prior: (a + prior.log()).softmax(0), "compete"),
    (gm.check_posterior, lambda a, prior: a.exp() * prior, "labels of the first picture sum to"),
    (gm.check_posterior, lambda a, prior: a.softmax(-1) * prior, "labels of the first picture"),
    (gm.check_posterior, lambda a, prior: (a * prior).softmax(-1), "not Bayes' rule"),
    (
        gm.check_posterior,
        lambda a, prior: a.exp() * prior / (a.exp() * prior).sum(-1, keepdim=True),
        "round to zero",
    ),
    (  # the greatest of all pictures, where each has its own
        gm.check_posterior,
        lambda a, prior: F.normalize((a - a.max()).exp() * prior, p=1, dim=-1),
        "picture by picture",
    ),
    (
        gm.check_posterior,
        lambda a, prior: (
            (a + prior.log()).softmax(-1).clamp(0.01)
            if 0 in prior
            else (a + prior.log()).softmax(-1)
        ),
        "never occurs",
    ),
    (gm.check_m_step, lambda x, r: r.mean(0), "two parts, the weights and the probs, not 3"),
    (gm.check_m_step, lambda x, r: m_step(x, r)[::-1], "the weights have the shape \\(3,\\)"),
    (gm.check_m_step, with_weights(lambda r: r.mean(1)), "the weights have the shape"),
    (gm.check_m_step, with_weights(lambda r: r.sum(0)), "sum to the number of images"),
    (gm.check_m_step, with_weights(lambda r: r.sum(0).softmax(0)), "softmax"),
    (gm.check_m_step, with_weights(lambda r: torch.ones(r.shape[1]) / r.shape[1]), "equal"),
    (gm.check_m_step, with_weights(lambda r: r[0]), "mean responsibilities"),
    (gm.check_m_step, hard_m_step, "share it"),
    (gm.check_m_step, with_probs(lambda ones, counts, N: ones), "by what"),
    (gm.check_m_step, with_probs(lambda ones, counts, N: ones / N), "does the kind answer"),
    (gm.check_m_step, with_probs(lambda ones, counts, N: ones / counts), "wrong axis"),
    (gm.check_m_step, with_probs(lambda ones, counts, N: ones / ones.sum(0)), "compete"),
    (
        gm.check_m_step,
        with_probs(lambda ones, counts, N: ones / ones.sum(1, keepdim=True)),
        "each is a coin",
    ),
    (gm.check_m_step, with_probs(lambda ones, counts, N: ones.T / counts), "transpose"),
    (gm.check_m_step, with_probs(lambda ones, counts, N: ones.softmax(1)), "weighted counts"),
    (gm.check_m_step, with_probs(lambda ones, counts, N: ones[:, 0]), "probs have the shape"),
    (gm.check_auc, lambda normal, anomalous: anomalous[:, None] > normal, "one number"),
    (gm.check_auc, lambda normal, anomalous: pairs()(anomalous, normal), "other way round"),
    (gm.check_auc, pairs(tie=0), "left out"),
    (gm.check_auc, pairs(tie=1), "whole victory"),
    (gm.check_auc, pairs(total=lambda pairs, ties: 1), "of how many"),
    (gm.check_auc, pairs(tie=0, total=lambda pairs, ties: pairs - ties), "pairs, too"),
    (gm.check_auc, lambda normal, anomalous: torch.tensor(0.5), "not the share"),
    (
        gm.check_auc,
        lambda normal, anomalous: pairs()(normal, anomalous) - 0.1 * (len(normal) == 1),
        "two equal scores",
    ),
    (gm.check_complete, lambda mixture, x, known, n: x, "shape"),
    (gm.check_complete, lambda mixture, x, known, n: torch.rand(n, 5), "zeros and ones"),
    (gm.check_complete, lambda mixture, x, known, n: mixture.sample((n,)), "as they went in"),
    (
        gm.check_complete,
        lambda mixture, x, known, n: torch.where(known, x, mixture.sample((n,))),
        "as if nothing were known",
    ),
    (
        gm.check_complete,
        lambda mixture, x, known, n: complete(mixture, x, known, n, mixture.responsibilities(x)),
        "should not know",
    ),
    (gm.check_complete, equal_weights, "equally frequent"),
    (gm.check_complete, blend, "blend"),
    (gm.check_complete, one_kind, "all drawings are of kind"),
    (gm.check_complete, most_probable_kind, "all drawings are of kind 0"),
    (gm.check_complete, lambda mixture, x, known, n: x.repeat(n, 1), "by enumeration"),
    (
        gm.check_complete,
        lambda mixture, x, known, n: torch.where(known, x, torch.rand(n, 5).round()),
        "with 0 entries known",
    ),
]


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_wrong_answers_are_told_why(check, answer, hint):
    assert check.verdict(answer).startswith(f"✗ {check.label}: ")
    with pytest.raises(AssertionError, match=hint):
        check.check(answer)


@pytest.mark.parametrize("seed", range(5))
def test_the_mistakes_in_a_completion_are_told_apart_with_any_seed(seed, monkeypatch):
    manual_seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda _: manual_seed(seed))
    assert gm.check_complete.verdict(complete).startswith("✓")
    for answer, hint in ((equal_weights, "equally frequent"), (blend, "blend")):
        assert hint in gm.check_complete.verdict(answer)


def test_every_hint_is_given_to_somebody():
    given = set()
    for check, answer, _ in WRONG:
        with pytest.raises(AssertionError) as told:
            check.check(answer)
        given |= {entry.lineno + 1 for entry in told.traceback if entry.path.samefile(gm.__file__)}
    tree = ast.parse(Path(gm.__file__).read_text(encoding="utf-8"))
    hints = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    unused = [ast.unparse(n) for n in hints if not given & {*range(n.lineno, n.end_lineno + 1)}]
    assert len(hints) > 50
    assert not unused, "\n".join(unused)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_factor_is_nearer(seed):
    """The answers that the check accepts are nearest among many others, in either direction."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(3, 4, generator=generator, dtype=torch.float64) + 0.05
    p, a = p / p.sum(), torch.rand(3, generator=generator, dtype=torch.float64)
    a = a / a.sum()
    others = torch.randn(1000, 4, generator=generator, dtype=torch.float64).softmax(-1)
    forward, reverse = factors(p, a)

    def q(b):
        return (a[:, None] * b[..., None, :]).flatten(-2)

    flat = p.flatten().expand(1000, -1)
    assert (divergences.kl(flat, q(others)) >= divergences.kl(flat[0], q(forward))).all()
    assert (divergences.kl(q(others), flat) >= divergences.kl(q(reverse), flat[0])).all()
