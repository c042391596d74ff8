"""The self-checks of the chapter on adversarial autoencoders: right answers pass, wrong learn why.

Further below, what the checks claim of the four loops is put to the test.
"""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal

from companion import aae, data
from companion.divergences import kl
from companion.exercises import adversarial_autoencoders as aaes
from companion.gan import non_saturating, optimal_logit
from companion.nn import mlp
from tests.hints import assert_every_hint_is_given

# --- answers as the chapter has them, or nearly so ---------------------------------------------


def in_float32(function):
    return lambda *tensors: function(
        *(tensor.float() if torch.is_tensor(tensor) else tensor for tensor in tensors)
    )


def parts(p_data, q, prior):
    marginal = p_data @ q
    information = p_data @ (torch.xlogy(q, q) - torch.xlogy(q, marginal)).sum(1)
    return information, (torch.xlogy(marginal, marginal) - torch.xlogy(marginal, prior)).sum()


def parts_in_a_loop(p_data, q, prior):
    n, m = q.shape
    marginal = [sum(p_data[i] * q[i, j] for i in range(n)).item() for j in range(m)]
    information = sum(
        p_data[i].item() * q[i, j].item() * math.log(q[i, j] / marginal[j])
        for i, j in itertools.product(range(n), range(m))
        if q[i, j] > 0
    )
    return information, sum(c * math.log(c / prior[j]) for j, c in enumerate(marginal) if c > 0)


def plain_parts(p_data, q, prior, least=0.0):
    """Right while no entry is 0."""
    q = q.clamp(min=least)
    marginal = p_data @ q
    return p_data @ (q * (q / marginal).log()).sum(1), (marginal * (marginal / prior).log()).sum()


def information(function):
    """The information by a function, beside the right divergence."""
    return lambda p_data, q, prior: (function(p_data, q, prior), parts(p_data, q, prior)[1])


def misfit(function):
    return lambda p_data, q, prior: (parts(p_data, q, prior)[0], function(p_data, q, prior))


def weights_alike(p_data, q, prior):
    return parts(torch.full_like(p_data, 1 / len(p_data)), q, prior)


PAIRS = torch.eye(2).repeat_interleave(2, 0).repeat_interleave(2, 1) / 2
ONE_BIT = [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]


def between(share):
    """From a code that says nothing to one that says all."""
    return share * torch.eye(4, dtype=torch.float64) + (1 - share) / 4


def between_with_one_bit():
    low, high = 0.0, 1.0
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    for _ in range(60):
        share = (low + high) / 2
        if aae.surgery(uniform, between(share), uniform).mutual_information < math.log(2):
            low = share
        else:
            high = share
    return between(share)


def reconstruction(p_data, q, likelihood):
    return (p_data[:, None] * torch.xlogy(q, likelihood.T)).sum()


def objective(p_data, q, p, likelihood):
    marginal = p_data @ q
    return reconstruction(p_data, q, likelihood) - torch.xlogy(marginal, marginal / p).sum()


def objective_by_the_bound(p_data, q, p, likelihood):
    """The averaged ELBO, by its definition, and the information."""
    bound = reconstruction(p_data, q, likelihood)
    bound = bound + p_data @ (torch.xlogy(q, p) - torch.xlogy(q, q)).sum(1)
    return bound + aae.surgery(p_data, q, p).mutual_information


def plain_objective(p_data, q, p, likelihood, least=0.0):
    log_p = likelihood.clamp(min=least).log()
    return (p_data[:, None] * q * log_p.T).sum() - kl(p_data @ q, p)


def misread_objective(what):
    """J with one part mistaken: ``what`` of the tables and of the two right parts."""

    def answer(p_data, q, p, likelihood):
        tables = p_data, q, p, likelihood
        return what(*tables, reconstruction(p_data, q, likelihood), kl(p_data @ q, p))

    return answer


def losses(prior, codes, log_p_x, weight):
    L_D = F.softplus(-prior).mean() + F.softplus(codes).mean()
    return L_D, weight * F.softplus(-codes).mean() - log_p_x.mean()


def losses_by_cross_entropy(prior, codes, log_p_x, weight):
    loss = F.binary_cross_entropy_with_logits
    L_D = loss(prior, torch.ones_like(prior)) + loss(codes, torch.zeros_like(codes))
    return [L_D, -log_p_x.mean() + weight * loss(codes, torch.ones_like(codes))]


def losses_with_a_net(prior, codes, log_p_x, weight, least=1e-6):
    D_prior, D_codes = (a.sigmoid().clamp(least, 1 - least) for a in (prior, codes))
    L_D = -D_prior.log().mean() - (1 - D_codes).log().mean()
    return L_D, -log_p_x.mean() - weight * D_codes.log().mean()


def L_D(function):
    """A critic's loss beside the right one of the others."""
    return lambda p, c, r, w: (function(p, c, r, w), losses(p, c, r, w)[1])


def L_EP(function):
    return lambda p, c, r, w: (losses(p, c, r, w)[0], function(p, c, r, w))


def game(codes):
    return F.softplus(-codes).mean()


def step(
    encoder,
    decoder_log_prob,
    critic,
    x,
    optimizer,
    weight,
    *,
    for_critic=lambda z: z,
    for_decoder=lambda z: z,
    loss=lambda a, log_p, weight: weight * game(a) - log_p.mean(),
    wipe=True,
    steps=1,
    after=lambda encoder, decoder, critic: None,
):
    """A step of encoder and decoder, right unless told otherwise."""
    z = encoder(x)
    L = loss(critic(for_critic(z)), decoder_log_prob(for_decoder(z), x), weight)
    if wipe:
        optimizer.zero_grad()
    L.backward()
    for _ in range(steps):
        optimizer.step()
    after(encoder, decoder_log_prob, critic)
    return L


def slip(**options):
    @functools.wraps(step)
    def answer(*args):
        return step(*args, **options)

    return answer


def step_past_a_frozen_critic(encoder, decoder_log_prob, critic, x, optimizer, weight):
    critic.requires_grad_(False)
    z = encoder(x)
    loss = -decoder_log_prob(z, x).mean() + weight * non_saturating.L_G(critic(z))
    encoder.zero_grad()
    decoder_log_prob.zero_grad()
    loss.backward()
    optimizer.step()
    critic.requires_grad_(True)
    return loss.item()


def trains_all(encoder, decoder_log_prob, critic, x, optimizer, weight):
    optimizer.add_param_group({"params": list(critic.parameters())})
    return step(encoder, decoder_log_prob, critic, x, optimizer, weight)


def never_computes(encoder, decoder_log_prob, critic, x, optimizer, weight):
    optimizer.step()
    z = encoder(x)
    return weight * game(critic(z)) - decoder_log_prob(z, x).mean()


def late_loss(encoder, decoder_log_prob, critic, x, optimizer, weight):
    step(encoder, decoder_log_prob, critic, x, optimizer, weight)
    z = encoder(x)
    return weight * game(critic(z)) - decoder_log_prob(z, x).mean()


def blind_step(encoder, decoder_log_prob, critic, x, optimizer, weight):
    """Both heard nothing of the code's origin."""
    return step(
        encoder, decoder_log_prob, critic, x, optimizer, weight, **dict.fromkeys(WAYS, torch.detach)
    )


WAYS = ("for_critic", "for_decoder")


def mmd2(
    a,
    b,
    h,
    *,
    kernel=lambda d, h: (-d.square() / (2 * h**2)).exp(),
    diagonal=False,
    divisor=lambda n: n * (n - 1),
    across=2,
):
    """The unbiased estimate, with places for slips."""

    def within(x):
        k = kernel(torch.cdist(x, x), h)
        return (k.sum() - (0 if diagonal else k.trace())) / divisor(len(x))

    return within(a) + within(b) - across * kernel(torch.cdist(a, b), h).mean()


def mmd2_in_a_loop(a, b, h):
    def k(u, v):
        return math.exp(-sum((s - t) ** 2 for s, t in zip(u, v, strict=True)) / (2 * h * h))

    a, b = a.tolist(), b.tolist()
    pairs_a, pairs_b = (list(itertools.permutations(x, 2)) for x in (a, b))
    within = sum(sum(k(*pair) for pair in pairs) / len(pairs) for pairs in (pairs_a, pairs_b))
    return within - 2 * sum(k(u, v) for u in a for v in b) / (len(a) * len(b))


biased = functools.partial(mmd2, diagonal=True, divisor=lambda n: n**2)


def p_value(found, null, count=torch.ge, ones=1):
    return (ones + count(null, found).sum()) / (ones + len(null))


def ring(count, u=None, angle=lambda u: 2 * math.pi * u, radius=lambda u: (1 + 3 * u).sqrt()):
    u, v = torch.rand(2, count) if u is None else u(count)
    r, angle = radius(u), angle(v)
    return torch.stack([r * angle.cos(), r * angle.sin()], 1)


def ring_by_rejection(count):
    kept = torch.zeros(0, 2)
    while len(kept) < count:
        z = 4 * torch.rand(2 * count, 2) - 2
        kept = torch.cat([kept, z[(z.norm(dim=1) >= 1) & (z.norm(dim=1) <= 2)]])
    return kept[:count]


def ring_of_normals(count):
    """Directions by normal draws, which know no angle."""
    direction = F.normalize(torch.randn(count, 2, dtype=torch.float64), dim=1)
    return direction * (1 + 3 * torch.rand(count, 1)).sqrt()


def of_seed(seed, function):
    def answer(count):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return function(count)

    return answer


def error(kinds, labels):
    names = {kind: labels[kinds == kind].mode().values for kind in kinds.unique().tolist()}
    named = torch.stack([names[kind] for kind in kinds.tolist()])
    return (named != labels).double().mean()


def table(kinds, labels):
    return F.one_hot(kinds).T @ F.one_hot(labels)


def error_by_table(kinds, labels):
    return 1 - table(kinds, labels).amax(1).sum() / len(labels)


def error_of_all_kinds(kinds, labels):
    """Raises where a kind has no examples."""
    of_kind = [labels[kinds == kind] for kind in range(kinds.max() + 1)]
    return sum((each != each.mode().values).sum() for each in of_kind) / len(kinds)


def mean_error(kinds, labels):
    counts = table(kinds, labels).double()
    return (1 - counts.amax(1) / counts.sum(1)).mean()


def error_one_to_one(kinds, labels):
    counts = table(kinds, labels)
    n, k = counts.shape
    best = max(counts[list(rows), range(k)].sum() for rows in itertools.permutations(range(n), k))
    return 1 - best / len(kinds)


def letter(count):
    return data.letter((count,), character="E")


SLIPS = {
    "first": "looks fake",
    "second": "mean for draw",
    "third": "sound",
    "fourth": "critic moves encoder",
}

RIGHT = [
    (aaes.check_parts, parts),
    (aaes.check_parts, parts_in_a_loop),
    (aaes.check_parts, in_float32(parts)),
    (aaes.check_parts, lambda *tables: aae.surgery(*tables)[1:]),
    (aaes.check_parts, lambda *tables: torch.stack(parts(*tables))),
    (aaes.check_parts, functools.partial(plain_parts, least=1e-9)),
    (aaes.check_encoder, PAIRS),
    (aaes.check_encoder, ONE_BIT),
    (aaes.check_encoder, PAIRS.numpy()),
    (aaes.check_encoder, between_with_one_bit()),
    (aaes.check_objective, objective),
    (aaes.check_objective, objective_by_the_bound),
    (aaes.check_objective, in_float32(objective)),
    (aaes.check_objective, functools.partial(plain_objective, least=1e-30)),
    (aaes.check_estimate, lambda a: -a.mean()),
    (aaes.check_estimate, lambda a: -sum(a.tolist()) / len(a)),
    (aaes.check_estimate, lambda a: ((1 - a.sigmoid()) / a.sigmoid()).log().mean()),
    (aaes.check_losses, losses),
    (aaes.check_losses, losses_by_cross_entropy),
    (aaes.check_losses, in_float32(losses)),
    (aaes.check_losses, lambda *args: torch.stack(losses(*args))),
    (aaes.check_step, step),
    (aaes.check_step, step_past_a_frozen_critic),
    (aaes.check_mmd2, mmd2),
    (aaes.check_mmd2, mmd2_in_a_loop),
    (aaes.check_mmd2, in_float32(mmd2)),
    (aaes.check_mmd2, lambda a, b, h: aae.mmd2(a, b, aae.gaussian_kernel(h))),
    (aaes.check_p_value, p_value),
    (
        aaes.check_p_value,
        lambda found, null: torch.cat([null, null.new([found])]).ge(found).double().mean(),
    ),
    (
        aaes.check_p_value,
        lambda found, null: (1 + sum(v >= found for v in null.tolist())) / (1 + len(null)),
    ),
    (aaes.check_sampler, ring),
    (aaes.check_sampler, ring_by_rejection),
    (aaes.check_sampler, ring_of_normals),
    (aaes.check_error, error),
    (aaes.check_error, error_by_table),
    (aaes.check_slips, SLIPS),
    (aaes.check_prior, letter),
    (aaes.check_prior, ring),
    (aaes.check_prior, lambda count: data.swiss_roll((count,), noise=0.1)),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer):
    assert check.verdict(answer) == f"✓ {check.label}: correct"


# --- wrong answers -----------------------------------------------------------------------------

COPIES = torch.eye(4).tolist()
SAYS_NOTHING = [[0.25] * 4] * 4

WRONG = [
    (
        aaes.check_parts,
        lambda *tables: parts(*tables)[0],
        "two parts, the information and a KL, not 1",
    ),
    (aaes.check_parts, lambda *tables: aae.surgery(*tables), "two parts, .*, not 3"),
    (aaes.check_parts, information(lambda p, q, prior: kl(q, p @ q)), "the information is one"),
    (aaes.check_parts, misfit(lambda p, q, prior: kl(q, prior)), "the divergence is one number"),
    (aaes.check_parts, lambda *tables: parts(*tables)[::-1], "which of the two comes first"),
    (
        aaes.check_parts,
        information(lambda *tables: aae.surgery(*tables).average_kl),
        "is all of it information",
    ),
    (aaes.check_parts, information(lambda *tables: -parts(*tables)[0]), "not at all. Mind"),
    (
        aaes.check_parts,
        lambda *tables: [part / math.log(2) for part in parts(*tables)],
        "the unit is the bit",
    ),
    (aaes.check_parts, information(lambda p, q, prior: p @ kl(p @ q, q)), "of what are the codes"),
    (
        aaes.check_parts,
        information(lambda p, q, prior: kl(q, p @ q).mean()),
        "in the information all examples",
    ),
    (aaes.check_parts, weights_alike, "count alike, in q"),
    (
        aaes.check_parts,
        information(lambda p, q, prior: p @ kl(q, q.mean(0))),
        "q.z. is the plain mean of the rows",
    ),
    (aaes.check_parts, information(lambda p, q, prior: kl(q, p @ q).sum()), "a sum over examples"),
    (aaes.check_parts, information(lambda *tables: 0.5), "^the information is not 0.5"),
    (
        aaes.check_parts,
        misfit(lambda *tables: aae.surgery(*tables).average_kl),
        "is it not one of q",
    ),
    (aaes.check_parts, misfit(lambda *tables: -parts(*tables)[1]), "can a divergence be negative"),
    (
        aaes.check_parts,
        misfit(lambda *tables: parts(*tables)[1] / math.log(2)),
        "the divergence is in bits",
    ),
    (aaes.check_parts, misfit(lambda p, q, prior: kl(prior, p @ q)), "goes from the prior to q"),
    (
        aaes.check_parts,
        misfit(lambda p, q, prior: kl(q.mean(0), prior)),
        "here q.z. is the plain mean",
    ),
    (
        aaes.check_parts,
        misfit(lambda *tables: sum(aae.surgery(*tables)[:2])),
        "the larger one, or a part",
    ),
    (aaes.check_parts, misfit(lambda *tables: 0.5), "^the divergence is not 0.5"),
    (aaes.check_parts, plain_parts, "the information is nan: what does a code"),
    (
        aaes.check_parts,
        misfit(lambda *tables: plain_parts(*tables)[1]),
        "the divergence is nan: what does a code",
    ),
    (
        aaes.check_parts,
        functools.partial(plain_parts, least=0.05),
        "the information is not .* in the place of",
    ),
    (aaes.check_encoder, torch.eye(3), r"four examples: \(4, 4\), not \(3, 3\)"),
    (aaes.check_encoder, [0.25] * 4, r"not \(4,\)"),
    (aaes.check_encoder, 2 * torch.eye(4) - 0.25, "the least entry is -0.25"),
    (
        aaes.check_encoder,
        between(0.5) * torch.tensor([1, 1, 0.5, 1.5]),
        "the row of example 3 sums to 0.75",
    ),
    (
        aaes.check_encoder,
        (between(0.5) * torch.tensor([1, 1, 0.5, 1.5])).flip(0).softmax(0),
        "the columns sum to one",
    ),
    (aaes.check_encoder, torch.eye(4) / 2, "example 1 sums to 0.5"),
    (
        aaes.check_encoder,
        torch.eye(4)[[0, 0, 1, 1]],
        r"q\(z\) is \(0.5, 0.5, 0, 0\), 0.693 nats",
    ),
    (aaes.check_encoder, SAYS_NOTHING, "says nothing"),
    (aaes.check_encoder, COPIES, "a code of its own"),
    (aaes.check_encoder, torch.eye(4)[[2, 0, 3, 1]], "a code of its own"),
    (aaes.check_encoder, between(0.5), "less than ln 2"),
    (
        aaes.check_encoder,
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]],
        "1.04 nats, more than ln 2",
    ),
    (aaes.check_objective, lambda *tables: tables[0], "one number"),
    (aaes.check_objective, lambda *tables: -objective(*tables), "this is a loss"),
    (
        aaes.check_objective,
        misread_objective(lambda p_data, q, p, _, rec, kl_: rec - p_data @ kl(q, p)),
        "the averaged ELBO",
    ),
    (
        aaes.check_objective,
        misread_objective(lambda p_data, q, p, _, rec, kl_: rec + kl_),
        "is it a gain or a price",
    ),
    (aaes.check_objective, misread_objective(lambda *args: args[-2]), "only the reconstruction"),
    (
        aaes.check_objective,
        misread_objective(lambda p_data, q, p, _, rec, kl_: rec - p_data @ kl(q, p_data @ q)),
        r"this divergence is from q\(z\)",
    ),
    (aaes.check_objective, misread_objective(lambda *args: -args[-1]), "only the divergence"),
    (
        aaes.check_objective,
        misread_objective(lambda p_data, q, p, _, rec, kl_: rec - kl(p, p_data @ q)),
        "the divergence goes from the prior",
    ),
    (
        aaes.check_objective,
        lambda p_data, q, p, likelihood: objective(p_data, q, p, likelihood.T),
        "rows of likelihood",
    ),
    (
        aaes.check_objective,
        misread_objective(
            lambda p_data, q, p, like, rec, kl_: p_data @ (q @ like).diagonal().log() - kl_
        ),
        "the mean of a logarithm",
    ),
    (
        aaes.check_objective,
        lambda p_data, *rest: objective(torch.full_like(p_data, 1 / len(p_data)), *rest),
        "all examples count alike",
    ),
    (
        aaes.check_objective,
        misread_objective(
            lambda p_data, q, p, like, rec, kl_: (q * like.T.log()).sum() / len(q) - kl_
        ),
        "the reconstructions count alike",
    ),
    (
        aaes.check_objective,
        misread_objective(lambda p_data, q, p, like, rec, kl_: (q * like.T.log()).sum() - kl_),
        "summed over examples",
    ),
    (
        aaes.check_objective,
        misread_objective(
            lambda p_data, q, p, like, rec, kl_: (p_data @ q) @ like.log() @ p_data - kl_
        ),
        "the code of some example",
    ),
    (
        aaes.check_objective,
        lambda p_data, q, p, likelihood: p_data @ (p @ likelihood).log(),
        "who needs no encoder",
    ),
    (aaes.check_objective, lambda *tables: objective(*tables) / math.log(2), "unit is the bit"),
    (aaes.check_objective, lambda *tables: 0.5, "^J is not 0.5"),
    (aaes.check_objective, plain_objective, "J is nan: what does a code"),
    (
        aaes.check_objective,
        lambda p_data, q, p, like: objective(p_data, q, p, like + 0.01 * (like == 0).any()),
        "in the place of the zeros",
    ),
    (aaes.check_estimate, lambda a: -a, "one number"),
    (aaes.check_estimate, torch.mean, "hardly knows above 0"),
    (aaes.check_estimate, torch.sum, "the sum of the logits"),
    (aaes.check_estimate, lambda a: -a.sum(), "a sum: should the estimate grow"),
    (aaes.check_estimate, lambda a: -a.mean() / math.log(2), "unit is the bit"),
    (aaes.check_estimate, lambda a: a.abs().mean(), "lost its sign"),
    (aaes.check_estimate, lambda a: a.sigmoid().mean(), "the mean of D"),
    (aaes.check_estimate, lambda a: F.logsigmoid(a).mean(), "logarithm of a share"),
    (aaes.check_estimate, lambda a: -a.sigmoid().log().mean(), "logarithm of a share"),
    (aaes.check_estimate, lambda a: (1 - a.sigmoid()).log().mean(), "logarithm of a share"),
    (aaes.check_estimate, lambda a: F.softplus(a).mean(), "logarithm of a share"),
    (aaes.check_estimate, lambda a: a.exp().mean(), "an exponential was taken"),
    (aaes.check_estimate, lambda a: -a.exp().mean(), "an exponential was taken"),
    (aaes.check_estimate, lambda a: (-a).exp().mean(), "an exponential was taken"),
    (aaes.check_estimate, lambda a: (-a).exp().mean().log(), "an exponential was taken"),
    (aaes.check_estimate, lambda a: -a.exp().mean().log(), "an exponential was taken"),
    (aaes.check_estimate, torch.median, "the estimate is not"),
    (aaes.check_estimate, lambda a: F.relu(-a).mean(), "the estimate is not"),
    (aaes.check_estimate, lambda a: F.relu(-a.mean()), "is 0: may an estimate"),
    (aaes.check_estimate, lambda a: a.mean().abs(), "is 0.74: may an estimate"),
    (aaes.check_losses, lambda *args: losses(*args)[0], "two parts, L_D and L_EP, not 1"),
    (aaes.check_losses, L_D(lambda p, c, r, w: F.softplus(-p)), "L_D is one number"),
    (aaes.check_losses, L_EP(lambda p, c, r, w: F.softplus(-c)), "L_EP is one number"),
    (aaes.check_losses, lambda *args: losses(*args)[::-1], "which of the two comes first"),
    (aaes.check_losses, L_D(lambda *args: -losses(*args)[0]), "what D wins"),
    (
        aaes.check_losses,
        lambda p, c, r, w: (losses(c, p, r, w)[0], losses(p, c, r, w)[1]),
        "D calls the codes real",
    ),
    (
        aaes.check_losses,
        L_D(lambda p, c, r, w: torch.cat([F.softplus(-p), F.softplus(c)]).mean()),
        "one mean over both",
    ),
    (
        aaes.check_losses,
        L_D(lambda p, c, r, w: F.softplus(-p).sum() + F.softplus(c).sum()),
        "L_D is a sum",
    ),
    (aaes.check_losses, L_D(lambda *args: losses(*args)[0] / 2), "half of L_D"),
    (aaes.check_losses, L_D(lambda p, c, r, w: F.softplus(-p).mean()), "only the prior"),
    (aaes.check_losses, L_D(lambda p, c, r, w: F.softplus(c).mean()), "only codes are in L_D"),
    (aaes.check_losses, L_D(lambda p, c, r, w: game(p) + game(c)), "doubting codes"),
    (aaes.check_losses, L_D(lambda p, c, r, w: w * losses(p, c, r, w)[0]), "whom does the weight"),
    (
        aaes.check_losses,
        L_D(lambda p, c, r, w: game(p) + w * F.softplus(c).mean()),
        "whom does the weight",
    ),
    (aaes.check_losses, L_D(lambda p, c, r, w: c.mean() - p.mean()), "L_D is not"),
    (aaes.check_losses, L_EP(lambda *args: -losses(*args)[1]), "encoder and decoder win"),
    (aaes.check_losses, L_EP(lambda p, c, r, w: w * game(c) + r.mean()), "are described, the more"),
    (aaes.check_losses, L_EP(lambda p, c, r, w: -w * game(c) - r.mean()), "codes pass, the more"),
    (
        aaes.check_losses,
        L_EP(lambda p, c, r, w: w * F.softplus(c).mean() - r.mean()),
        "do both want the same",
    ),
    (
        aaes.check_losses,
        L_EP(lambda p, c, r, w: -w * F.softplus(c).mean() - r.mean()),
        "this loss saturates",
    ),
    (aaes.check_losses, L_EP(lambda p, c, r, w: game(c) - w * r.mean()), "on the reconstruction"),
    (aaes.check_losses, L_EP(lambda p, c, r, w: w * (game(c) - r.mean())), "on both parts"),
    (aaes.check_losses, L_EP(lambda p, c, r, w: game(c) - r.mean()), "L_EP has no weight"),
    (aaes.check_losses, L_EP(lambda p, c, r, w: w * game(c)), "only the game"),
    (aaes.check_losses, L_EP(lambda p, c, r, w: -r.mean()), "only the reconstruction"),
    (aaes.check_losses, L_EP(lambda p, c, r, w: w * game(p) - r.mean()), "those of the prior"),
    (
        aaes.check_losses,
        L_EP(lambda p, c, r, w: w * F.softplus(-c).sum() - r.sum()),
        "L_EP is a sum",
    ),
    (
        aaes.check_losses,
        L_EP(lambda p, c, r, w: w * game(c) - r.sum()),
        "the reconstruction is a sum",
    ),
    (aaes.check_losses, L_EP(lambda p, c, r, w: -w * c.mean() - r.mean()), "L_EP is not"),
    (
        aaes.check_losses,
        functools.partial(losses_with_a_net, least=0),
        "L_D should be 200, not inf: the sigmoid",
    ),
    (aaes.check_losses, losses_with_a_net, "L_D should be 200, not 13.8"),
    (
        aaes.check_losses,
        L_EP(lambda p, c, r, w: -w * c.sigmoid().log().mean() - r.mean()),
        "L_EP should be 52, not inf: the sigmoid",
    ),
    (aaes.check_step, trains_all, "the critic has moved, in 0.0.weight"),
    *(
        (
            aaes.check_step,
            slip(after=lambda *players, k=k: players[k].requires_grad_(False)),
            f"the {name} is left frozen",
        )
        for k, name in enumerate(("encoder", "decoder", "critic"))
    ),
    (aaes.check_step, slip(steps=0), "nobody has moved"),
    (aaes.check_step, slip(wipe=False), "who wipes it"),
    (aaes.check_step, never_computes, "when is their own computed"),
    (aaes.check_step, slip(loss=lambda a, r, w: r.mean() - w * game(a)), "went up their loss"),
    (aaes.check_step, slip(for_critic=torch.detach), "what the critic says"),
    (aaes.check_step, slip(loss=lambda a, r, w: -r.mean()), "a part of the loss missing"),
    (aaes.check_step, slip(for_decoder=torch.detach), "how well its codes describe"),
    (aaes.check_step, blind_step, "the encoder has not moved"),
    (aaes.check_step, slip(loss=lambda a, r, w: w * game(a)), "the decoder has not moved"),
    (
        aaes.check_step,
        slip(loss=lambda a, r, w: w * F.softplus(a).mean() - r.mean()),
        "learned to look fake",
    ),
    (
        aaes.check_step,
        slip(loss=lambda a, r, w: -w * game(a) - r.mean()),
        "learned to be found out",
    ),
    (
        aaes.check_step,
        slip(loss=lambda a, r, w: -w * F.softplus(a).mean() - r.mean()),
        "this loss saturates",
    ),
    (aaes.check_step, slip(loss=lambda a, r, w: w * game(a) + r.mean()), "describe x worse"),
    (aaes.check_step, slip(loss=lambda a, r, w: game(a) - r.mean()), "became of the weight"),
    (aaes.check_step, slip(loss=lambda a, r, w: game(a) - w * r.mean()), "on the reconstruction"),
    (
        aaes.check_step,
        slip(loss=lambda a, r, w: w * F.softplus(-a).sum() - r.sum()),
        "a mean or a sum",
    ),
    (aaes.check_step, slip(steps=2), "not moved as one step"),
    (aaes.check_step, late_loss, "the loss that they paid before"),
    (aaes.check_mmd2, lambda a, b, h: a, "one number"),
    (aaes.check_mmd2, biased, "itself, too: is it ever"),
    (aaes.check_mmd2, functools.partial(mmd2, diagonal=True), "how many terms has the sum"),
    (aaes.check_mmd2, functools.partial(mmd2, divisor=lambda n: n**2), "and out of the count"),
    (aaes.check_mmd2, lambda *args: mmd2(*args).clamp(min=0), "on which side of zero"),
    (
        aaes.check_mmd2,
        functools.partial(mmd2, divisor=lambda n: 2 * n * (n - 1)),
        "each pair was counted once",
    ),
    (aaes.check_mmd2, functools.partial(mmd2, across=1), "how many mixed terms"),
    (aaes.check_mmd2, functools.partial(mmd2, across=-2), "everything was added"),
    (aaes.check_mmd2, lambda *args: -mmd2(*args), "the sign is turned round"),
    (aaes.check_mmd2, lambda *args: mmd2(*args).sqrt(), "if the estimate is below 0"),
    (aaes.check_mmd2, lambda *args: biased(*args).sqrt(), "what is mmd2 the square of"),
    (
        aaes.check_mmd2,
        functools.partial(mmd2, kernel=lambda d, h: (-((d / h) ** 2)).exp()),
        "falls off too fast",
    ),
    (
        aaes.check_mmd2,
        functools.partial(mmd2, kernel=lambda d, h: (-(d**2) / (2 * h)).exp()),
        "the unit of a distance",
    ),
    (
        aaes.check_mmd2,
        functools.partial(mmd2, kernel=lambda d, h: (-d / (2 * h**2)).exp()),
        "were not squared",
    ),
    (
        aaes.check_mmd2,
        functools.partial(mmd2, kernel=lambda d, h: (d**2 / (2 * h**2)).exp()),
        "grows with the distance",
    ),
    (aaes.check_mmd2, lambda a, b, h: 0.5, "the estimate is not 0.5"),
    (aaes.check_mmd2, lambda a, b, h: mmd2(a, b, 1.3), "written into the function"),
    (aaes.check_p_value, lambda found, null: null >= found, "one number"),
    (aaes.check_p_value, functools.partial(p_value, ones=0), "p-value of 0 is possible"),
    (
        aaes.check_p_value,
        lambda found, null: (null >= found).sum() / (1 + len(null)),
        "counted below: is it above",
    ),
    (
        aaes.check_p_value,
        lambda found, null: (1 + (null >= found).sum()) / len(null),
        "counted above: is it below",
    ),
    (aaes.check_p_value, functools.partial(p_value, count=torch.gt), "any less extreme"),
    (
        aaes.check_p_value,
        functools.partial(p_value, count=torch.gt, ones=0),
        "neither what was found nor",
    ),
    (aaes.check_p_value, functools.partial(p_value, count=torch.le), "come out smaller"),
    (aaes.check_p_value, functools.partial(p_value, count=torch.lt), "come out smaller"),
    (aaes.check_p_value, lambda found, null: 1 - p_value(found, null), "this is 1 - p: is"),
    (
        aaes.check_p_value,
        functools.partial(p_value, count=torch.lt, ones=0),
        "1 - p, without what was found",
    ),
    (
        aaes.check_p_value,
        lambda found, null: p_value(abs(found), null.abs()),
        "count as large ones",
    ),
    (aaes.check_p_value, lambda found, null: 100 * p_value(found, null), "in percent"),
    (aaes.check_p_value, lambda found, null: 0.4, "for 2.0 found the p-value is not 0.4"),
    (
        aaes.check_p_value,
        lambda found, null: (1 + (null >= found).sum()) / 10,
        "is the number written into",
    ),
    (aaes.check_sampler, lambda count: ring(count).T, r"20000 draws: \(20000, 2\), not \(2, 20000"),
    (aaes.check_sampler, lambda count: ring(1000), r"\(1000, 2\)"),
    (aaes.check_sampler, lambda count: ring(20_000), r"for 1 draws: \(1, 2\), not \(20000, 2\)"),
    (aaes.check_sampler, of_seed(0, ring), "who fixed the seed"),
    (
        aaes.check_sampler,
        lambda count: ring(1).expand(count, 2),
        "a radius and an angle of its own",
    ),
    (
        aaes.check_sampler,
        lambda count: ring(count, radius=lambda u: 2 * u.sqrt()),
        "how wide is the hole",
    ),
    (
        aaes.check_sampler,
        lambda count: ring(count, radius=lambda u: (1 + 4 * u).sqrt()),
        "a draw has .* how far out",
    ),
    (
        aaes.check_sampler,
        lambda count: ring(count, radius=lambda u: (1 + u).sqrt()),
        r"no \|z\| is above 1.41",
    ),
    (
        aaes.check_sampler,
        lambda count: ring(count, radius=lambda u: (2 + 2 * u).sqrt()),
        r"no \|z\| is below 1.41",
    ),
    (
        aaes.check_sampler,
        lambda count: ring(count, angle=lambda u: math.pi * u),
        "4 of the 8 eighths",
    ),
    (aaes.check_sampler, lambda count: ring(count, angle=lambda u: u), "6 of the 8 eighths"),
    (
        aaes.check_sampler,
        lambda count: ring(count, angle=lambda u: 2 * math.pi * u**2),
        "more often than others",
    ),
    (aaes.check_sampler, lambda count: ring(count, radius=lambda u: 1 + u), "inside is too dense"),
    (
        aaes.check_sampler,
        lambda count: ring(count, radius=lambda u: 1 + u**2),
        "holds half of the area",
    ),
    (
        aaes.check_sampler,
        lambda count: ring(count, u=lambda n: torch.rand(n).expand(2, n)),
        "depends on the angle",
    ),
    (aaes.check_error, lambda kinds, labels: kinds != labels, "one number"),
    (aaes.check_error, lambda *args: 1 - error(*args), "the share that is right"),
    (aaes.check_error, lambda *args: 100 * error(*args), "in percent"),
    (aaes.check_error, lambda kinds, labels: len(kinds) * error(kinds, labels), "a number of ex"),
    (
        aaes.check_error,
        lambda kinds, labels: (kinds != labels).double().mean(),
        "does kind 2 know",
    ),
    (
        aaes.check_error,
        lambda kinds, labels: (kinds == labels).double().mean(),
        "were compared, as numbers",
    ),
    (aaes.check_error, lambda kinds, labels: error(labels, kinds), "named by whom"),
    (aaes.check_error, error_one_to_one, "no two kinds have the same name"),
    (aaes.check_error, mean_error, "a mean over kinds"),
    (
        aaes.check_error,
        lambda kinds, labels: (labels != labels.mode().values).double().mean(),
        "all kinds have the same name",
    ),
    (aaes.check_error, lambda *args: 0.5, "the error rate is not 0.5"),
    (aaes.check_error, error_of_all_kinds, "without examples. It raises IndexError"),
    (
        aaes.check_error,
        lambda kinds, labels: error(kinds, labels) + 0 * mean_error(kinds, labels),
        "without examples. Then nan",
    ),
    (aaes.check_slips, {"first"}, "a dictionary is wanted"),
    (aaes.check_slips, SLIPS | {"fifth": "sound"}, "there is no 'fifth': first, second"),
    (aaes.check_slips, SLIPS | {"second": ...}, "'second' is still open"),
    (aaes.check_slips, SLIPS | {"third": None}, "'third' is still open"),
    (aaes.check_slips, SLIPS | {"second": "overfitting"}, "there is no 'overfitting': sound"),
    (aaes.check_slips, SLIPS | {"first": "sound"}, "what does the encoder want to hear"),
    (aaes.check_slips, SLIPS | {"second": "decoder left out"}, "whose law is q"),
    (aaes.check_slips, SLIPS | {"third": "looks fake"}, "takes two to exchange"),
    (aaes.check_slips, SLIPS | {"fourth": "stale gradients"}, "which weights does each"),
    (aaes.check_prior, lambda count: ring(count).T, r"1000 draws: \(1000, 2\), not \(2, 1000\)"),
    (aaes.check_prior, lambda count: letter(1000), r"for 1 draws: \(1, 2\)"),
    (aaes.check_prior, lambda count: torch.randint(9, (count, 2)), "what does a critic take"),
    (aaes.check_prior, lambda count: ring(count) / 0, "some draws are not finite"),
    (aaes.check_prior, of_seed(0, letter), "who fixed the seed"),
    (aaes.check_prior, lambda count: torch.randint(3, (count, 2)) / 2, "fall on 9 places"),
]


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_wrong_answers_are_told_why(check, answer, hint):
    assert check.verdict(answer).startswith(f"✗ {check.label}: ")
    with pytest.raises(AssertionError, match=hint):
        check.check(answer)


def test_the_empty_answers_of_the_chapter_are_no_attempts():
    empty = {aaes.check_encoder: ..., aaes.check_slips: dict.fromkeys(SLIPS, ...)}
    for check in {check for check, _ in RIGHT}:
        answer = empty.get(check, lambda *_: ...)
        assert check.verdict(answer) == f"◻ {check.label}: not attempted yet"
        assert check.verdict() == f"◻ {check.label}: not attempted yet"


def test_every_hint_is_given_to_somebody():
    names = {"stale gradients", "decoder left out", *SLIPS.values()}
    assert_every_hint_is_given(aaes, WRONG, least=130, names=names)


# --- what the checks and the solutions rest on ---------------------------------------------------


def test_the_best_critic_gives_the_divergence():
    """ex-kl-by-critic: of the exact logit, within its standard error; and of no other."""
    torch.manual_seed(0)
    q, p = Normal(1.0, 0.7), Normal(0.0, 1.0)
    z = q.sample((100_000,))
    a = optimal_logit(p.log_prob(z), q.log_prob(z))
    truth = torch.distributions.kl_divergence(q, p)
    error = a.std() / len(a) ** 0.5
    assert abs(-a.mean() - truth) < 5 * error
    assert abs(-2 * a.mean() - truth) > 50 * error


LOOPS = {
    "first": aaes.first_loop,
    "second": aaes.second_loop,
    "third": aaes.third_loop,
    "fourth": aaes.fourth_loop,
}


class Encoder(nn.Module):
    """A normal q(z|x), such that at first q(z) is the prior."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_width = nn.Linear(1, 1), nn.Parameter(torch.tensor(0.6).log())
        self.mean.weight.data.fill_(0.8)
        self.mean.bias.data.fill_(-1.6)

    def forward(self, x):
        return Normal(self.mean(x), self.log_width.exp())


class Decoder(nn.Module):
    """A normal p(x|z) of width 1."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(1, 1)

    def forward(self, z):
        return torch.distributions.Independent(Normal(self.mean(z), 1.0), 1)


def players(seed=0):
    torch.manual_seed(seed)
    D = nn.Sequential(mlp(1, 16), nn.Linear(16, 1), nn.Flatten(0))
    return Encoder(), Decoder(), D


def batches(count):
    """Of a normal distribution off the prior, which is standard normal."""
    return [2 + torch.randn(64, 1) for _ in range(count)]


def prior(count):
    return torch.randn(count, 1)


@pytest.mark.parametrize("seed", range(2))
def test_the_first_loop_leads_away_from_the_prior_and_the_third_does_not(seed):
    off = {}
    for name in ("first", "third"):
        E, P, D = players(seed)
        LOOPS[name](E, P, D, batches(600), prior, 20.0)
        off[name] = E.mean(torch.tensor([2.0])).abs().item()  # where the mean example goes
    assert off["first"] > 1
    assert off["third"] < 0.5


@pytest.mark.parametrize("name", LOOPS)
def test_the_width_of_codes_is_judged_but_in_the_second_loop(name):
    """Where the decoder is deaf at first, only the critic could move the width."""
    E, P, D = players()
    P.mean.weight.data.zero_()
    width = E.log_width.item()
    LOOPS[name](E, P, D, batches(1), prior, 20.0)
    assert (E.log_width.item() == width) == (name == "second")


@pytest.mark.parametrize("name", LOOPS)
def test_the_critics_step_moves_the_encoder_in_the_fourth_loop_alone(name, monkeypatch):
    E, P, D = players()
    adam_step = torch.optim.Adam.step

    def weights():
        return [torch.cat([w.detach().flatten() for w in n.parameters()]) for n in (E, P, D)]

    seen = [weights()]

    def watched(optimizer):
        adam_step(optimizer)
        seen.append(weights())

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    LOOPS[name](E, P, D, batches(1), prior, 5.0)
    moved = [
        [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        for before, after in itertools.pairwise(seen)
    ]
    assert moved == [[name == "fourth", False, True], [True, True, False]]


@pytest.mark.parametrize("name", LOOPS)
def test_no_gradient_is_stale(name, monkeypatch):
    """Whatever a step goes by was computed by the ``backward`` just before it."""
    E, P, D = players()
    before, backward, adam_step = {}, torch.Tensor.backward, torch.optim.Adam.step
    steps = []

    def watched(loss):
        for parameter in itertools.chain(*(network.parameters() for network in (E, P, D))):
            before[parameter] = parameter.grad
        backward(loss)

    def checked(optimizer):
        for parameter in optimizer.param_groups[0]["params"]:
            assert before[parameter] is None
        adam_step(optimizer)
        steps.append(optimizer)

    monkeypatch.setattr(torch.Tensor, "backward", watched)
    monkeypatch.setattr(torch.optim.Adam, "step", checked)
    LOOPS[name](E, P, D, batches(3), prior, 5.0)
    assert len(steps) == 6
