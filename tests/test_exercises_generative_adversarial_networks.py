"""The self-checks of the chapter on adversarial networks: right answers pass, wrong learn why.

Further below, what the checks claim of the four cheats and of the four loops is put to the test.
"""

import functools
import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from companion import data
from companion.divergences import jensen_shannon
from companion.exercises import generative_adversarial_networks as gans
from companion.gan import (
    extragradient,
    game_value,
    matrix_game,
    non_saturating,
    optimal_logit,
    orbit,
    r1,
    saturating,
)
from companion.nn import mlp
from companion.sample_scores import (
    frechet_distance,
    nearest_neighbours,
    parzen_log_likelihood,
    precision_recall,
)
from tests.hints import assert_every_hint_is_given

# --- answers as the chapter has them, or nearly so ---------------------------------------------


def in_float32(function):
    return lambda *tensors: function(*(tensor.float() for tensor in tensors))


def mixed_value(A):
    (a, b), (c, d) = A
    return (a * d - b * c) / (a - b - c + d)


def game_by_hand(A):
    low, high = A.min(0).values.max(), A.max(1).values.min()
    return low if low == high else mixed_value(A)


def game_by_search(A):
    """Over all mixtures of x on a grid that holds the breakpoints of these games."""
    x = torch.linspace(0, 1, 55441, dtype=A.dtype)
    return torch.maximum(*(torch.stack([x, 1 - x], 1) @ A).unbind(1)).min()


def look_ahead(x, y, rate):
    ahead_x, ahead_y = x - rate * y, y + rate * x
    return x - rate * ahead_y, y + rate * ahead_x


def by_orbit(x, y, rate):
    places = torch.tensor([x, y], dtype=torch.float64)
    return orbit(lambda x, y: x * y, *places, step=extragradient, rate=rate, steps=1)[-1]


def value_at_best(p, q):
    return 2 * jensen_shannon(p, q) - math.log(4)


def plain_value(p, q, D=lambda p, q: p / (p + q)):
    return (p * D(p, q).log() + q * (1 - D(p, q)).log()).sum()


def value_of_what_may_come(p, q):
    return sum(a * math.log(a / (a + b)) for a, b in zip(p, q, strict=True) if a > 0) + sum(
        b * math.log(b / (a + b)) for a, b in zip(p, q, strict=True) if b > 0
    )


def losses(a, b):
    return F.softplus(-a).mean() + F.softplus(b).mean(), F.softplus(-b).mean()


def L_D(function):
    """A discriminator's loss beside the right one of the generator."""
    return lambda a, b: (function(a, b), losses(a, b)[1])


def L_G(function):
    return lambda a, b: (losses(a, b)[0], function(a, b))


def with_a_net(a, b, least=1e-6):
    p, q = (logits.sigmoid().clamp(least, 1 - least) for logits in (a, b))
    return -p.log().mean() - (1 - q).log().mean(), -q.log().mean()


def isolated(
    G,
    D,
    real,
    noise,
    optimizer,
    *,
    fake=lambda G, z: G(z).detach(),
    loss=lambda a, b: losses(a, b)[0],
    wipe=True,
    steps=1,
    after=lambda G, D: None,
):
    """A step of D, right unless told otherwise."""
    L = loss(D(real), D(fake(G, noise)))
    if wipe:
        optimizer.zero_grad()
    L.backward()
    for _ in range(steps):
        optimizer.step()
    after(G, D)
    return L


def slip(**options):
    @functools.wraps(isolated)
    def step(*args):
        return isolated(*args, **options)

    return step


def isolated_under_no_grad(G, D, real, noise, optimizer):
    with torch.no_grad():
        fake = G(noise)
    logits, count = D(torch.cat([real, fake])), len(real)
    target = torch.cat([torch.ones(count), torch.zeros(count)]).to(logits)
    L = 2 * F.binary_cross_entropy_with_logits(logits, target)
    D.zero_grad()
    L.backward()
    optimizer.step()
    return L.item()


def trains_both(G, D, real, noise, optimizer):
    optimizer = torch.optim.SGD([*G.parameters(), *D.parameters()], 0.1)
    return isolated(G, D, real, noise, optimizer, fake=lambda G, z: G(z))


def never_computes(G, D, real, noise, optimizer):
    optimizer.step()
    return losses(D(real), D(G(noise)))[0]


def never_steps(G, D, real, noise, optimizer):
    return losses(D(real), D(G(noise).detach()))[0]


def wipes_too_late(G, D, real, noise, optimizer):
    L = losses(D(real), D(G(noise).detach()))[0]
    L.backward()
    optimizer.zero_grad()
    optimizer.step()
    return L


def wipes_after_the_step(G, D, real, noise, optimizer):
    L = isolated(G, D, real, noise, optimizer, wipe=False)
    optimizer.zero_grad()
    return L


def late_loss(G, D, real, noise, optimizer):
    isolated(G, D, real, noise, optimizer)
    return losses(D(real), D(G(noise)))[0]


def slopes(D, x, of=torch.sum, create_graph=True):
    x = x.requires_grad_()
    return torch.autograd.grad(of(D(x)), x, create_graph=create_graph)[0]


def price(p, q, points):
    rises = -(p - q).cumsum(0)[:-1].sign() * points.diff()
    return torch.cat([rises.new_zeros(1), rises.cumsum(0)])


def price_in_a_loop(p, q, points):
    """Flat where as much lies to the left as belongs there, and shifted: both are right."""
    prices, surplus = [7.0], 0.0
    for i in range(len(p) - 1):
        surplus += float(p[i] - q[i])
        prices.append(prices[-1] - math.copysign(float(points[i + 1] - points[i]), surplus))
    return prices


def penalty(D, x, **options):
    return slopes(D, x, **options).square().sum(1).mean() / 2


def penalty_of(function):
    """Of the slopes, ``(B, n)``."""
    return lambda D, x: function(slopes(D, x))


def penalty_in_a_loop(D, x):
    each = [slopes(D, row[None]).norm() ** 2 for row in x.detach()]
    return sum(each) / len(each) / 2


def penalty_by_backward(D, x):
    x = x.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch dislikes it, too
        D(x).sum().backward(create_graph=True)
    return x.grad.square().sum(1).mean() / 2


def half_detached(D, x):
    gradient = slopes(D, x)
    return (gradient * gradient.detach()).sum(1).mean() / 2


def pack(x, m):
    if len(x) % m:
        raise ValueError("the last pack is not full")
    return x.reshape(len(x) // m, m * x.shape[1])


def recall(real, fake, k, neighbours=0, radii=lambda r: r, apart=lambda d: d):
    own = torch.cdist(fake, fake).sort(1).values[:, k + neighbours]
    return (apart(torch.cdist(real, fake)) <= radii(own)).any(1).double().mean()


def recall_in_a_loop(real, fake, k):
    def reached(x):
        for i in range(len(fake)):
            others = torch.cat([fake[:i], fake[i + 1 :]])
            radius = (others - fake[i]).norm(dim=1).topk(k, largest=False).values[-1]
            if (x - fake[i]).norm() <= radius:
                return True
        return False

    return sum(reached(x) for x in real) / len(real)


def coverage(real, fake, k):
    radii = torch.cdist(real, real).sort(1).values[:, k]
    return (torch.cdist(real, fake) <= radii[:, None]).any(1).double().mean()


def balls_with_a_real_one(real, fake, k):
    radii = torch.cdist(fake, fake).sort(1).values[:, k]
    return (torch.cdist(real, fake) <= radii).any(0).double().mean()


class Conditional(nn.Module):
    """What the chapter's solution does, with places for slips."""

    def __init__(self, body, classes):
        super().__init__()
        self.body, self.classes = body, classes

    def forward(self, zy):
        return self.join(zy, zy[:, -self.classes :])

    def join(self, zy, y):
        return torch.cat([self.body(zy), y], -1)


class SplitsFirst(Conditional):
    def forward(self, zy):
        z, y = zy.split([zy.shape[1] - self.classes, self.classes], 1)
        return torch.hstack([self.body(torch.hstack([z, y])), y])


def conditional(join):
    return type("Slip", (Conditional,), {"join": join})


class Hidden(Conditional):
    """Hides the body in a list, where no optimiser finds it."""

    def __init__(self, body, classes):
        super().__init__(None, classes)
        self.bodies = [body]

    def join(self, zy, y):
        return torch.cat([self.bodies[0](zy), y], -1)


CHEATS = {
    "copies": "nearest neighbours",
    "one picture": "recall",
    "cloud": "precision",
    "favourite": "frechet",
}
SLIPS = {
    "first": "both players step",
    "second": "sigmoid twice",
    "third": "sound",
    "fourth": "helps the other",
}


def gain(a, b):
    return (a - b).mean(), ((a.var() + b.var()) / 3).sqrt()


def with_error(error):
    """A mean gain that is right, with this standard error."""
    return lambda a, b: ((a - b).mean(), error(a, b))


RIGHT = [
    (gans.check_value, game_by_hand),
    (gans.check_value, in_float32(game_by_hand)),
    (gans.check_value, game_by_search),
    (gans.check_value, lambda A: matrix_game(A).value),
    (gans.check_value, lambda A: matrix_game(A).x @ A @ matrix_game(A).y),
    (gans.check_value, lambda A: -matrix_game(-A.T).value),
    (gans.check_step, look_ahead),
    (gans.check_step, by_orbit),
    (gans.check_step, lambda x, y, r: ((1 - r**2) * x - r * y, (1 - r**2) * y + r * x)),
    (gans.check_probability, lambda p, q: p / (p + q)),
    (gans.check_probability, in_float32(lambda p, q: 1 / (1 + q / p))),
    (gans.check_probability, lambda p, q: optimal_logit(p.log(), q.log()).sigmoid()),
    (gans.check_probability, lambda p, q: [a / (a + b) for a, b in zip(p, q, strict=True)]),
    (gans.check_value_at_best, value_at_best),
    (gans.check_value_at_best, value_of_what_may_come),
    (gans.check_value_at_best, in_float32(value_at_best)),
    (gans.check_value_at_best, lambda p, q: game_value(optimal_logit(p.log(), q.log()), p, q)),
    (
        gans.check_value_at_best,
        lambda p, q: (torch.xlogy(p, p) + torch.xlogy(q, q) - torch.xlogy(p + q, p + q)).sum(),
    ),
    (
        gans.check_value_at_best,
        lambda p, q: plain_value(p, q, lambda p, q: (p + 1e-9) / (p + q + 2e-9)),
    ),
    (gans.check_losses, losses),
    (gans.check_losses, in_float32(losses)),
    (gans.check_losses, lambda a, b: [non_saturating.L_D(a, b), non_saturating.L_G(b)]),
    (gans.check_losses, lambda a, b: torch.stack(losses(a, b))),
    (gans.check_isolation, isolated),
    (gans.check_isolation, isolated_under_no_grad),
    (gans.check_price, price),
    (gans.check_price, price_in_a_loop),
    (gans.check_penalty, penalty),
    (gans.check_penalty, penalty_in_a_loop),
    (gans.check_penalty, r1),
    (gans.check_pack, pack),
    (gans.check_pack, lambda x, m: torch.cat(x.chunk(m), 1)),
    (gans.check_pack, lambda x, m: x[torch.randperm(len(x))].view(len(x) // m, m * x.shape[1])),
    (gans.check_recall, recall),
    (gans.check_recall, recall_in_a_loop),
    (gans.check_recall, lambda real, fake, k: precision_recall(real, fake, k).recall),
    (gans.check_recall, lambda real, fake, k: precision_recall(fake, real, k).precision),
    (gans.check_cheats, CHEATS),
    (gans.check_cheats, CHEATS | {"one picture": "frechet", "cloud": "parzen"}),
    (gans.check_cheats, CHEATS | {"one picture": "parzen", "cloud": "nearest neighbours"}),
    (gans.check_cheats, CHEATS | {"favourite": "parzen"}),
    (gans.check_conditional, Conditional),
    (gans.check_conditional, SplitsFirst),
    (gans.check_slips, SLIPS),
    (gans.check_better, gain),
    (gans.check_better, in_float32(gain)),
    (gans.check_better, lambda a, b: torch.stack(gain(a, b))),
    (
        gans.check_better,
        lambda a, b: (a.mean().item() - b.mean().item(), math.hypot(a.std(), b.std()) / 3**0.5),
    ),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer):
    assert check.verdict(answer) == f"✓ {check.label}: correct"


# --- wrong answers -----------------------------------------------------------------------------


WRONG = [
    (gans.check_value, lambda A: matrix_game(A).x, "one number"),
    (gans.check_value, lambda A: -game_by_hand(A), "what y pays x"),
    (gans.check_value, torch.mean, "fair coin"),
    (gans.check_value, lambda A: A.max(1).values.min(), "may x throw a coin"),
    (gans.check_value, lambda A: A.min(0).values.max(), "may y throw a coin"),
    (gans.check_value, lambda A: A.min(1).values.max(), "value of .* is not -1"),
    (gans.check_value, mixed_value, "do both always mix"),
    (gans.check_value, lambda A: -game_by_hand(-A), "the roles are exchanged"),
    (gans.check_value, lambda A: game_by_hand(A.T), "the roles are exchanged"),
    (gans.check_value, lambda A: A[0, 0], r"value of \[\[1, -1\], \[-1, 1\]\] is not 1"),
    (
        gans.check_value,
        lambda A: A[0, 0] + math.nan if (A == 3).all() else game_by_hand(A),
        "x pays 3, and not nan",
    ),
    (gans.check_step, lambda x, y, r: (x, y, r), "two parts, x and y, not 3"),
    (gans.check_step, lambda x, y, r: x - r * (y + r * x), "two parts, x and y, not 1"),
    (gans.check_step, lambda x, y, r: (x - r * y, y + r * x), "a plain step"),
    (gans.check_step, lambda x, y, r: (x - r * y, y + r * (x - r * y)), "x saw nothing"),
    (gans.check_step, lambda x, y, r: (look_ahead(x, y, r)[0], y + r * x), "y saw nothing"),
    (
        gans.check_step,
        lambda x, y, r: (look_ahead(x, y, r)[0], y + r * look_ahead(x, y, r)[0]),
        "both step at once",
    ),
    (
        gans.check_step,
        lambda x, y, r: ((1 - r * r) * x - 2 * r * y, (1 - r * r) * y + 2 * r * x),
        "only looked at",
    ),
    (
        gans.check_step,
        lambda x, y, r: (
            x - r * ((1 - r * r) * y + 2 * r * x),
            y + r * ((1 - r * r) * x - 2 * r * y),
        ),
        "two steps ahead",
    ),
    (gans.check_step, lambda x, y, r: (x - r * (y + r * x), y - r * (x - r * y)), "y goes down"),
    (
        gans.check_step,
        lambda x, y, r: (x - r * (y - r * x), y - r * (x - r * y)),
        "y goes down",
    ),
    (gans.check_step, lambda x, y, r: (x + r * (y + r * x), y + r * (x - r * y)), "x goes up"),
    (gans.check_step, lambda x, y, r: (x + r * (y + r * x), y + r * (x + r * y)), "x goes up"),
    (gans.check_step, lambda x, y, r: look_ahead(x, y, r)[::-1], "y came first"),
    (gans.check_step, lambda x, y, r: (x, y), r"does not lead to \(2, 3\)"),
    (gans.check_step, lambda x, y, r: look_ahead(x, y, 0.3), "written into the function"),
    (gans.check_probability, lambda p, q: p.sum(), "a probability per outcome"),
    (gans.check_probability, lambda p, q: q / (p + q), "roles are exchanged"),
    (gans.check_probability, lambda p, q: p / p + q, "a / b \\+ c"),
    (gans.check_probability, lambda p, q: p / q, "these are odds"),
    (gans.check_probability, lambda p, q: (p / q).log(), "this is the logit"),
    (gans.check_probability, lambda p, q: p - q, "a difference may be negative"),
    (gans.check_probability, lambda p, q: (p - q).sigmoid(), "difference of densities"),
    (
        gans.check_probability,
        lambda p, q: p / (p + q) / (p / (p + q)).sum(),
        "sums to 1 over the outcomes",
    ),
    (gans.check_probability, lambda p, q: (p / q).log().softmax(0), "a softmax over"),
    (gans.check_probability, lambda p, q: p / q / (p / q).sum(), "a softmax over"),
    (gans.check_probability, lambda p, q: p.softmax(-1), "a softmax over"),
    (
        gans.check_probability,
        lambda p, q: 1 / (1 + q / q.sum() / (p / p.sum())),
        "made to sum to 1",
    ),
    (gans.check_probability, lambda p, q: p / (p + q).sum(), "a sum over all outcomes"),
    (gans.check_probability, lambda p, q: p / ((p + q) / 2), "twice as much"),
    (gans.check_probability, lambda p, q: p, "not those of the best"),
    (gans.check_probability, lambda p, q: 1 - q / (p + q + 1e-2), "not those of the best"),
    (
        gans.check_probability,
        lambda p, q: (p.log() - q.log()).nan_to_num(0, 1, -1).sigmoid(),
        "how sure may it be",
    ),
    (
        gans.check_probability,
        lambda p, q: (p / (p + q)).clamp(0.01, 0.99),
        "D is 0.99 and 0.01: how sure",
    ),
    (gans.check_value_at_best, lambda p, q: p, "one number"),
    (gans.check_value_at_best, lambda p, q: -value_at_best(p, q), "this is what D pays"),
    (
        gans.check_value_at_best,
        lambda p, q: jensen_shannon(p, q) - math.log(4),
        "divergences to the middle is missing",
    ),
    (
        gans.check_value_at_best,
        lambda p, q: value_at_best(p, q) + math.log(2),
        "how often, and at which price",
    ),
    (
        gans.check_value_at_best,
        lambda p, q: value_at_best(p, q) + 2 * math.log(4),
        "above 0 or below",
    ),
    (gans.check_value_at_best, lambda p, q: 2 * jensen_shannon(p, q), "is guessing free"),
    (gans.check_value_at_best, jensen_shannon, "what else is in the value"),
    (gans.check_value_at_best, lambda p, q: value_at_best(p, q) / math.log(2), "gives nats"),
    (gans.check_value_at_best, lambda p, q: value_at_best(p, q) / 2, "half the value"),
    (gans.check_value_at_best, lambda p, q: (p * (p / (p + q)).log()).sum(), "only real"),
    (gans.check_value_at_best, lambda p, q: (q * (q / (p + q)).log()).sum(), "only fake"),
    (
        gans.check_value_at_best,
        lambda p, q: ((p + q) * (p / (p + q)).log()).sum(),
        "in both averages",
    ),
    (
        gans.check_value_at_best,
        lambda p, q: (p * (p / q).log()).sum() - math.log(4),
        "is there a third",
    ),
    (gans.check_value_at_best, lambda p, q: -math.log(4), "value of equal tables: what if"),
    (
        gans.check_value_at_best,
        lambda p, q: value_at_best(p, q) + 0.1,
        "not that of the best discriminator",
    ),
    (gans.check_value_at_best, plain_value, "nan: what does an outcome that never"),
    (
        gans.check_value_at_best,
        lambda p, q: plain_value(p, q, lambda p, q: (p / (p + q)).nan_to_num(0.5).clamp(0.1, 0.9)),
        "in the place of the zeros",
    ),
    (gans.check_losses, lambda a, b: losses(a, b)[0], "two parts, L_D and L_G, not 1"),
    (gans.check_losses, lambda a, b: (*losses(a, b), 0), "two parts, L_D and L_G, not 3"),
    (gans.check_losses, L_D(lambda a, b: F.softplus(-a)), "L_D is one number"),
    (gans.check_losses, L_G(lambda a, b: F.softplus(-b)), "L_G is one number"),
    (gans.check_losses, lambda a, b: losses(a, b)[::-1], "which of the two comes first"),
    (gans.check_losses, L_D(lambda a, b: -losses(a, b)[0]), "what D wins"),
    (gans.check_losses, lambda a, b: losses(b, a), "exchanged in L_D"),
    (
        gans.check_losses,
        L_D(lambda a, b: torch.cat([F.softplus(-a), F.softplus(b)]).mean()),
        "one mean over both",
    ),
    (
        gans.check_losses,
        L_D(lambda a, b: F.softplus(-a).sum() + F.softplus(b).sum()),
        "L_D is a sum",
    ),
    (gans.check_losses, L_D(lambda a, b: losses(a, b)[0] / 2), "half of L_D"),
    (gans.check_losses, L_D(lambda a, b: F.softplus(-a).mean()), "only real examples"),
    (gans.check_losses, L_D(lambda a, b: F.softplus(b).mean()), "only fake examples"),
    (
        gans.check_losses,
        L_D(lambda a, b: F.softplus(-a).mean() + F.softplus(-b).mean()),
        "doubting fake examples",
    ),
    (
        gans.check_losses,
        L_D(lambda a, b: F.softplus(-a).mean() - F.softplus(b).mean()),
        "are subtracted",
    ),
    (gans.check_losses, L_D(lambda a, b: a.mean() - b.mean()), "L_D is not"),
    (gans.check_losses, L_D(lambda a, b: F.softplus(-b).mean()), "L_D is not"),
    (gans.check_losses, L_G(lambda a, b: -losses(a, b)[1]), "the sign of L_G"),
    (gans.check_losses, L_G(lambda a, b: saturating.L_G(b)), "this L_G saturates"),
    (gans.check_losses, L_G(lambda a, b: F.softplus(b).mean()), "do both want the same"),
    (gans.check_losses, L_G(lambda a, b: F.softplus(-b).sum()), "L_G is a sum"),
    (gans.check_losses, L_G(lambda a, b: F.softplus(-a).mean()), "did G make them"),
    (gans.check_losses, L_G(lambda a, b: -b.mean()), "L_G is not"),
    (
        gans.check_losses,
        lambda a, b: with_a_net(a, b, 0),
        "L_D should be 200, not inf: the sigmoid",
    ),
    (gans.check_losses, with_a_net, "L_D should be 200, not 13.8"),
    (
        gans.check_losses,
        L_G(lambda a, b: -b.sigmoid().log().mean()),
        "L_G should be 100, not inf: the sigmoid",
    ),
    (gans.check_isolation, trains_both, "G has moved, in 0.weight"),
    (gans.check_isolation, slip(fake=lambda G, z: G(z)), "its gradients have changed"),
    (
        gans.check_isolation,
        lambda G, *rest: (isolated(G, *rest, fake=lambda G, z: G(z)), G.zero_grad())[0],
        "G's gradients are gone",
    ),
    (
        gans.check_isolation,
        slip(fake=lambda G, z: G.requires_grad_(False)(z)),
        "G is left frozen",
    ),
    (gans.check_isolation, slip(after=lambda G, D: D.requires_grad_(False)), "D is left frozen"),
    (gans.check_isolation, never_steps, "who takes the step"),
    (gans.check_isolation, slip(steps=0), "who takes the step"),
    (gans.check_isolation, wipes_too_late, "by which gradient"),
    (gans.check_isolation, wipes_after_the_step, "who wipes it"),
    (gans.check_isolation, slip(wipe=False), "who wipes it"),
    (gans.check_isolation, never_computes, "when is its own computed"),
    (gans.check_isolation, slip(loss=lambda a, b: -losses(a, b)[0]), "D went up its loss"),
    (gans.check_isolation, slip(loss=lambda a, b: losses(a, b)[1]), "went down G's loss"),
    (gans.check_isolation, slip(loss=lambda a, b: sum(losses(a, b))), "G's loss was added"),
    (gans.check_isolation, slip(loss=lambda a, b: losses(b, a)[0]), "are exchanged"),
    (gans.check_isolation, slip(loss=lambda a, b: F.softplus(-a).mean()), "real examples alone"),
    (gans.check_isolation, slip(loss=lambda a, b: F.softplus(b).mean()), "fake examples alone"),
    (
        gans.check_isolation,
        slip(loss=lambda a, b: F.softplus(-a).sum() + F.softplus(b).sum()),
        "a mean or a sum",
    ),
    (gans.check_isolation, slip(loss=lambda a, b: losses(a, b)[0] / 2), "half as long"),
    (gans.check_isolation, slip(steps=2), "not moved as one step"),
    (gans.check_isolation, slip(fake=lambda G, z: 0 * z), "not moved as one step"),
    (gans.check_isolation, late_loss, "the loss that it paid before"),
    (gans.check_price, lambda p, q, x: price(p, q, x).sum(), "a price at each point"),
    (gans.check_price, lambda p, q, x: price(p, q, torch.arange(len(p))), "changes by one from"),
    (gans.check_price, lambda p, q, x: (p / q).log(), "it is too steep"),
    (gans.check_price, lambda p, q, x: 2 * price(p, q, x), "it is too steep"),
    (gans.check_price, lambda p, q, x: -price(p, q, x), "where does it buy, where sell"),
    (gans.check_price, lambda p, q, x: 0 * x, "the same price everywhere"),
    (gans.check_price, lambda p, q, x: 0 * x + 3, "the same price everywhere"),
    (gans.check_price, lambda p, q, x: -x, "and another price would earn"),
    (gans.check_price, lambda p, q, x: price(p, q, x) / 2, "and another price would earn"),
    (
        gans.check_price,
        lambda p, q, x: torch.cat(
            [x.new_zeros(1), ((q - p).cumsum(0) / (q - p).cumsum(0).abs())[:-1] * x.diff()]
        ).cumsum(0),
        "with zeros or equal sums",
    ),
    (gans.check_penalty, lambda D, x: slopes(D, x).square().sum(1), "one number"),
    (gans.check_penalty, lambda D, x: 2 * penalty(D, x), "what of the half"),
    (gans.check_penalty, penalty_of(lambda g: g.norm(dim=1).mean() / 2), "half the mean length"),
    (gans.check_penalty, penalty_of(lambda g: g.norm(dim=1).mean()), "and of the half"),
    (gans.check_penalty, penalty_of(lambda g: g.square().mean() / 2), "over the entries, too"),
    (
        gans.check_penalty,
        lambda D, x: penalty(D, x, of=torch.mean),
        "square of the batch: is it a gradient of the mean",
    ),
    (
        gans.check_penalty,
        lambda D, x: slopes(D, x, of=torch.mean).square().sum() / 2,
        "too small by the batch",
    ),
    (gans.check_penalty, lambda D, x: 5 * penalty(D, x), "a sum over the batch"),
    (gans.check_penalty, penalty_of(lambda g: g.sum(1).square().mean() / 2), "were added before"),
    (
        gans.check_penalty,
        penalty_of(lambda g: (g.norm(dim=1) - 1).square().mean()),
        "asks for a slope of 1",
    ),
    (gans.check_penalty, lambda D, x: -penalty(D, x), "what is its sign"),
    (gans.check_penalty, lambda D, x: D(x).square().mean() / 2, "mean square of the slope"),
    (gans.check_penalty, penalty_by_backward, "hands a gradient back"),
    (gans.check_penalty, lambda D, x: penalty(D, x, create_graph=False), "does torch remember"),
    (gans.check_penalty, half_detached, "misses D's weights"),
    (gans.check_pack, lambda x, m: torch.cat([x.roll(i, 0) for i in range(m)], 1), "how often"),
    (gans.check_pack, lambda x, m: pack(x, m).T, r"the shape is \(2, 6\), not \(6, 2\)"),
    (gans.check_pack, lambda x, m: x.reshape(len(x) // m, m, -1), "the shape is"),
    (gans.check_pack, lambda x, m: x.T.reshape(len(x) // m, -1), "belong to one example"),
    (
        gans.check_pack,
        lambda x, m: x.reshape(-1, m, x.shape[1]).transpose(1, 2).reshape(len(x) // m, -1),
        "belong to one example",
    ),
    (gans.check_pack, lambda x, m: x[: len(x) // m].repeat(1, m), "some examples are lost"),
    (gans.check_pack, lambda x, m: x[::m].repeat(1, m), "some examples are lost"),
    (gans.check_pack, lambda x, m: x.reshape(len(x) // m, -1), r"in the shape \(2, 5\)"),
    (gans.check_pack, lambda x, m: pack(x[: len(x) // m * m], m), "where the fifth example"),
    (gans.check_recall, lambda real, fake, k: fake, "one number"),
    (
        gans.check_recall,
        lambda real, fake, k: precision_recall(real, fake, k).precision,
        "this is the precision",
    ),
    (gans.check_recall, lambda *sets: recall(*sets, neighbours=-1), "one neighbour too few"),
    (gans.check_recall, lambda *sets: recall(*sets, neighbours=1), "one neighbour too many"),
    (gans.check_recall, lambda *sets: recall(*sets, radii=torch.square), "squared radii"),
    (gans.check_recall, lambda *sets: recall(*sets, apart=torch.square), "squared distances"),
    (gans.check_recall, coverage, "a ball of its own"),
    (gans.check_recall, lambda *sets: 1 - recall(*sets), "share that is missed"),
    (gans.check_recall, lambda *sets: 60 * recall(*sets), "a number of examples"),
    (gans.check_recall, balls_with_a_real_one, "of which set"),
    (gans.check_recall, lambda *sets: recall(*sets, apart=lambda d: d + 1e-6), "exactly on"),
    (gans.check_recall, lambda *sets: recall(*sets[:2], 4), "for k = 1 the recall is not 0"),
    (gans.check_recall, lambda *sets: recall(*sets[:2], 1), "for k = 2 the recall is not 0"),
    (gans.check_cheats, ["recall"], "a dictionary is wanted"),
    (gans.check_cheats, CHEATS | {"noise": "recall"}, "there is no 'noise': copies, one picture"),
    (gans.check_cheats, CHEATS | {"cloud": ...}, "'cloud' is still open"),
    (gans.check_cheats, {"cloud": "precision"}, "'copies' is still open"),
    (gans.check_cheats, CHEATS | {"cloud": "accuracy"}, "there is no 'accuracy': nearest"),
    (gans.check_cheats, CHEATS | {"copies": "parzen"}, "round training pictures"),
    (gans.check_cheats, CHEATS | {"copies": "frechet"}, "of the training set"),
    (gans.check_cheats, CHEATS | {"copies": "precision"}, "a copy of a real picture far"),
    (gans.check_cheats, CHEATS | {"copies": "recall"}, "less varied than others"),
    (gans.check_cheats, CHEATS | {"one picture": "nearest neighbours"}, "or farther"),
    (gans.check_cheats, CHEATS | {"one picture": "precision"}, "a perfect picture far"),
    (gans.check_cheats, CHEATS | {"cloud": "frechet"}, "what of the features"),
    (gans.check_cheats, CHEATS | {"cloud": "recall"}, "out of reach"),
    (gans.check_cheats, CHEATS | {"favourite": "nearest neighbours"}, "picture of this kind"),
    (gans.check_cheats, CHEATS | {"favourite": "precision"}, "any of these perfect"),
    (gans.check_cheats, CHEATS | {"favourite": "recall"}, "do the balls ask how often"),
    (gans.check_conditional, conditional(lambda self, zy, y: zy[:, :7]), "never called"),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: torch.cat([self.body(zy[:, : -self.classes]), y], 1)),
        "the body gets no label",
    ),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: torch.cat([self.body(y), y], 1)),
        "something else than noise and label",
    ),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: self.body(zy)),
        "the label is not passed on",
    ),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: torch.cat([self.body(zy), zy], 1)),
        "how wide is a label",
    ),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: torch.cat([self.body(zy), y.argmax(1, keepdim=True)], 1)),
        r"is \(6, 5\), not \(6, 3\): how wide",
    ),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: torch.cat([self.body(zy), zy[:, -3:]], 1)),
        r"and 5 classes the shape is \(6, 7\), not \(6, 5\)",
    ),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: torch.cat([y, self.body(zy)], 1)),
        "stands before x",
    ),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: torch.cat([2 * self.body(zy), y], 1)),
        "not what the body made",
    ),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: torch.cat([self.body(zy), zy[:, : self.classes]], 1)),
        "where does it stand in zy",
    ),
    (
        gans.check_conditional,
        conditional(lambda self, zy, y: torch.cat([self.body(zy), y], 1).detach()),
        "no gradient leaves",
    ),
    (gans.check_conditional, Hidden, "would an optimiser find them"),
    (gans.check_slips, {"first"}, "a dictionary is wanted"),
    (gans.check_slips, SLIPS | {"fifth": "sound"}, "there is no 'fifth': first, second"),
    (gans.check_slips, SLIPS | {"second": "overfitting"}, "there is no 'overfitting': sound"),
    (gans.check_slips, SLIPS | {"first": "sound"}, "which weights does each step change"),
    (gans.check_slips, SLIPS | {"second": "stale gradients"}, "what does the loss expect"),
    (gans.check_slips, SLIPS | {"third": "both players step"}, "where nobody uses it"),
    (gans.check_slips, SLIPS | {"fourth": "real for fake"}, "each player want D to say"),
    (gans.check_better, lambda a, b: (*gain(a, b), 0), "two parts, a mean and a standard"),
    (gans.check_better, lambda a, b: gain(b, a), "which comes first"),
    (gans.check_better, lambda a, b: ((a - b).sum(), gain(a, b)[1]), "mean gain is not 0.63"),
    (gans.check_better, with_error(lambda a, b: (a - b).std() / 3**0.5), "seeds were paired"),
    (gans.check_better, with_error(lambda a, b: (a.var() + b.var()).sqrt()), "how much one gain"),
    (gans.check_better, with_error(lambda a, b: (a.var() + b.var()) / 3), "is a variance"),
    (
        gans.check_better,
        with_error(lambda a, b: ((a.var() + b.var()) / 6).sqrt()),
        "were averaged",
    ),
    (
        gans.check_better,
        with_error(lambda a, b: ((a.var(correction=0) + b.var(correction=0)) / 3).sqrt()),
        "used up by their mean",
    ),
    (
        gans.check_better,
        with_error(lambda a, b: (a.std() + b.std()) / 3**0.5),
        "the errors were added",
    ),
    (gans.check_better, with_error(lambda a, b: a.std() / 3**0.5), "only the new scores"),
    *(
        (
            gans.check_better,
            with_error(lambda a, b, n=n: torch.cat([a, b]).std() / n**0.5),
            "thrown together",
        )
        for n in (3, 6)
    ),
    (gans.check_better, with_error(lambda a, b: (a - b).std()), "standard error is not"),
]


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_wrong_answers_are_told_why(check, answer, hint):
    assert check.verdict(answer).startswith(f"✗ {check.label}: ")
    with pytest.raises(AssertionError, match=hint):
        check.check(answer)


class Unwritten(nn.Module):
    def __init__(self, body, classes):
        super().__init__()

    def forward(self, zy):
        return ...


def test_the_empty_answers_of_the_chapter_are_no_attempts():
    empty = {
        gans.check_cheats: dict.fromkeys(CHEATS, ...),
        gans.check_slips: dict.fromkeys(SLIPS, ...),
        gans.check_conditional: Unwritten,
    }
    for check in {check for check, _ in RIGHT}:
        answer = empty.get(check, lambda *_: ...)
        assert check.verdict(answer) == f"◻ {check.label}: not attempted yet"
        assert check.verdict() == f"◻ {check.label}: not attempted yet"


def test_a_network_that_was_never_made_is_told_so():
    broken = type("Slip", (Conditional,), {"__init__": lambda self, body, classes: None})
    assert "raises AttributeError" in gans.check_conditional.verdict(broken)


def test_every_hint_is_given_to_somebody():
    names = {"nearest neighbours", "one picture", "favourite", *SLIPS.values()}
    assert_every_hint_is_given(gans, WRONG, least=110, names=names)


# --- what the checks rest on -------------------------------------------------------------------


RING = data.ring_of_gaussians(std=0.03)
CENTRES = RING.component_distribution.base_dist.loc


def cheat_with(name, train, count):
    """Draw from a cheat in the plane, where the ring's modes are digits, and mode 1 is the one."""
    if name == "copies":
        return train[torch.randperm(len(train))[:count]]
    if name == "one picture":
        many = RING.sample((101,))
        distances = nearest_neighbours(many, train).distances
        return many[distances.argsort()[50]].expand(count, 2)  # neither near nor far
    if name == "cloud":
        return torch.distributions.MultivariateNormal(train.mean(0), train.T.cov()).sample((count,))
    digit = torch.where(torch.rand(count) < 0.7, 1, torch.randint(8, (count,)))
    return CENTRES[digit] + 0.03 * torch.randn(count, 2)


def scores(samples, train, test):
    return {
        "parzen": parzen_log_likelihood(samples, test, 0.05).mean,
        "frechet": frechet_distance(samples, test).squared,
        "precision": precision_recall(test, samples).precision,
        "recall": precision_recall(test, samples).recall,
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_scores_see_what_the_check_says_they_see(seed):
    """A score exposes a cheat if it is far worse than those of as many fresh real examples."""
    torch.manual_seed(seed)
    train, test = RING.sample((1000,)), RING.sample((500,))
    fresh = [RING.sample((500,)) for _ in range(20)]
    usual = [scores(samples, train, test) for samples in fresh]
    low, high = nearest_neighbours(torch.cat(fresh), train).distances.quantile(
        torch.tensor([0.05, 0.95], dtype=torch.float64)
    )
    for cheat in CHEATS:
        samples = cheat_with(cheat, train, 500)
        typical = nearest_neighbours(samples, train).distances.median()
        exposed = {"nearest neighbours": not low <= typical <= high}
        for score, value in scores(samples, train, test).items():
            values = torch.tensor([each[score] for each in usual])
            worse = (value - values.mean()) / values.std() * (1 if score == "frechet" else -1)
            assert worse < 15 or worse > 30, (cheat, score, worse)
            exposed[score] = worse > 30
        for score, is_exposed in exposed.items():
            accepted = gans.check_cheats.verdict(CHEATS | {cheat: score}).startswith("✓")
            assert accepted == is_exposed, (cheat, score)


LOOPS = {
    "first": gans.first_loop,
    "second": gans.second_loop,
    "third": gans.third_loop,
    "fourth": gans.fourth_loop,
}


def players(seed=0):
    torch.manual_seed(seed)
    G = nn.Linear(2, 2)
    D = nn.Sequential(mlp(2, 16), nn.Linear(16, 1), nn.Flatten(0))
    return G, D


def batches(count):
    """Of a normal cloud round (1, 1), which G must move to."""
    return [1 + 0.5 * torch.randn(64, 2) for _ in range(count)]


@pytest.mark.parametrize("seed", range(2))
def test_the_sound_loop_leads_to_the_data_and_the_fourth_away(seed):
    off = {}
    for name in ("third", "fourth"):
        G, D = players(seed)
        LOOPS[name](G, D, batches(1500), 2)
        with torch.no_grad():
            off[name] = (G(torch.randn(2000, 2)).mean(0) - 1).norm().item()
    assert off["third"] < 0.7
    assert off["fourth"] > 2


@pytest.mark.parametrize("name", LOOPS)
def test_both_players_step_in_the_first_loop_alone(name, monkeypatch):
    G, D = players()
    where, step = [G.weight.detach().clone()], torch.optim.Adam.step

    def watched(optimizer):
        step(optimizer)
        where.append(G.weight.detach().clone())

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    LOOPS[name](G, D, batches(1), 2)
    moved = [not torch.equal(before, after) for before, after in itertools.pairwise(where)]
    assert moved == [name == "first", True]  # D's step, then G's


@pytest.mark.parametrize("name", LOOPS)
def test_no_gradient_is_stale(name, monkeypatch):
    """The steps of both players are those of gradients that were wiped before."""
    seen, backward = [], torch.Tensor.backward

    def watched(loss):
        parameters = [*G.parameters(), *D.parameters()]
        before = [None if p.grad is None else p.grad.clone() for p in parameters]
        backward(loss)
        seen.append((parameters, before))

    step = torch.optim.Adam.step

    def checked(optimizer):
        parameters, before = seen[-1]
        place = {id(p): old for p, old in zip(parameters, before, strict=True)}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert place[id(parameter)] is None
        step(optimizer)

    G, D = players()
    monkeypatch.setattr(torch.Tensor, "backward", watched)
    monkeypatch.setattr(torch.optim.Adam, "step", checked)
    LOOPS[name](G, D, batches(3), 2)
    assert len(seen) == 6


def test_the_second_loop_takes_probabilities_for_logits(monkeypatch):
    seen, loss = [], F.binary_cross_entropy_with_logits

    def watched(logits, target):
        seen.append(logits.detach())
        return loss(logits, target)

    monkeypatch.setattr(F, "binary_cross_entropy_with_logits", watched)
    G, D = players()
    LOOPS["second"](G, D, batches(1), 2)
    taken = torch.cat(seen)
    assert len(seen) == 3
    assert taken.min() > 0
    assert taken.max() < 1
    assert D(batches(1)[0]).min() < 0
