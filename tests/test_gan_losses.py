"""The losses of `companion.gan` against closed forms and autograd; the penalties of slopes."""

import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from companion.gan import (
    GameLoss,
    gradient_penalty,
    hinge,
    least_squares,
    non_saturating,
    r1,
    saturating,
    wasserstein,
)
from companion.nn import mlp

pytestmark = pytest.mark.usefixtures("float64")
close = torch.testing.assert_close
sigmoid = torch.sigmoid

LOSSES = {
    "saturating": saturating,
    "non_saturating": non_saturating,
    "least_squares": least_squares,
    "hinge": hinge,
    "wasserstein": wasserstein,
}
PARTS = GameLoss._fields
CASES = [(name, part) for name in LOSSES for part in PARTS]

# By name and part: the loss as it is written in D or in the score, and its slope in the logit.
LN_D = (lambda a: -sigmoid(a).log(), lambda a: sigmoid(a) - 1)
LN_1_D = (lambda a: -(1 - sigmoid(a)).log(), lambda a: sigmoid(a))
LINE = (lambda a: -a, lambda a: -torch.ones_like(a))
TO_ONE = (lambda a: (a - 1) ** 2 / 2, lambda a: a - 1)
TRUTH = {
    "saturating": (LN_D, LN_1_D, (lambda a: (1 - sigmoid(a)).log(), lambda a: -sigmoid(a))),
    "non_saturating": (LN_D, LN_1_D, LN_D),
    "least_squares": (TO_ONE, (lambda a: a**2 / 2, lambda a: a), TO_ONE),
    "hinge": (
        (lambda a: (1 - a).clamp(min=0), lambda a: -(a < 1).to(a)),
        (lambda a: (1 + a).clamp(min=0), lambda a: (a > -1).to(a)),
        LINE,
    ),
    "wasserstein": (LINE, (lambda a: a, torch.ones_like), LINE),
}


def slope(loss, a):
    a = torch.as_tensor(a).clone().requires_grad_()
    return torch.autograd.grad(loss(a).sum(), a)[0]


# --- for each example ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "part"), CASES)
def test_values_and_slopes_are_the_closed_forms_in_every_shape(name, part, rng):
    loss = getattr(LOSSES[name], part)
    value, derivative = TRUTH[name][PARTS.index(part)]
    for shape in [(), (7,), (3, 1), (2, 3, 4)]:
        a = 3 * torch.randn(shape, generator=rng)
        assert loss(a).shape == shape
        close(loss(a), value(a))
        close(slope(loss, a), derivative(a))
        away = torch.where((a.abs() - 1).abs() < 1e-3, 0.5, a).requires_grad_()  # not at a kink
        assert torch.autograd.gradcheck(loss, away)
        assert torch.autograd.gradgradcheck(loss, away)


def test_the_generator_that_saturates_is_the_one_that_minimises_ln_one_minus_d():
    """A fake example that is found out, D = 0.0067, teaches one generator little, one much."""
    found_out, accepted = torch.tensor(-5.0), torch.tensor(5.0)
    assert slope(saturating.generator, found_out).item() == pytest.approx(-0.0067, abs=5e-5)
    assert slope(non_saturating.generator, found_out).item() == pytest.approx(-0.9933, abs=5e-5)
    assert slope(saturating.generator, accepted).item() == pytest.approx(-0.9933, abs=5e-5)
    assert slope(non_saturating.generator, accepted).item() == pytest.approx(-0.0067, abs=5e-5)
    # Their slopes differ by 1 everywhere, and by a factor of e^-a.
    a = torch.linspace(-9, 9, 19)
    weak, strong = slope(saturating.generator, a), slope(non_saturating.generator, a)
    close(weak + strong, -torch.ones(19))
    close(strong / weak, (-a).exp())


@pytest.mark.parametrize("name", LOSSES)
def test_every_generator_gains_by_a_higher_logit_below_the_target(name):
    assert (slope(LOSSES[name].generator, torch.linspace(-30, 0.9, 100)) < 0).all()


def test_the_cross_entropy_is_torchs(rng):
    a = 4 * torch.randn(50, generator=rng)
    for game in (saturating, non_saturating):
        for label, part in [(1.0, game.real), (0.0, game.fake)]:
            truth = binary_cross_entropy_with_logits(a, torch.full_like(a, label), reduction="none")
            close(part(a), truth)


EXTREME = {  # at logits of -1000 and 1000
    "saturating": [(1000, 0), (0, 1000), (0, -1000)],
    "non_saturating": [(1000, 0), (0, 1000), (1000, 0)],
    "least_squares": [(500_000 + 1000.5, 500_000 - 999.5), (5e5, 5e5), (501_000.5, 499_000.5)],
    "hinge": [(1001, 0), (0, 1001), (1000, -1000)],
    "wasserstein": [(1000, -1000), (-1000, 1000), (1000, -1000)],
}


@pytest.mark.parametrize(("name", "part"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_are_exact(name, part, dtype):
    loss = getattr(LOSSES[name], part)
    a = torch.tensor([-1000.0, 1000.0], dtype=dtype)
    expected = torch.tensor(EXTREME[name][PARTS.index(part)], dtype=dtype)
    close(loss(a), expected, rtol=0, atol=0)
    close(slope(loss, a), TRUTH[name][PARTS.index(part)][1](a), rtol=0, atol=0)


def test_small_losses_keep_their_digits():
    """Where D is 1 but for 2e-22, which ln D, taken from a rounded D, would miss."""
    tiny = math.exp(-50)
    assert saturating.real(torch.tensor(50.0)).item() == pytest.approx(tiny, rel=1e-12, abs=0)
    assert saturating.fake(torch.tensor(-50.0)).item() == pytest.approx(tiny, rel=1e-12, abs=0)
    beside = saturating.real(torch.tensor(-25.0)).item()  # torch's softplus leaves the term out
    assert beside == pytest.approx(25 + math.exp(-25), rel=1e-15)
    weak = slope(saturating.generator, torch.tensor(-50.0)).item()
    assert weak == pytest.approx(-tiny, rel=1e-12, abs=0)


# --- for both players ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_means_over_batches_of_any_size(name, rng):
    game, (real, fake, generator) = LOSSES[name], TRUTH[name]
    a, b = torch.randn(5, generator=rng), torch.randn(3, 2, generator=rng)
    close(game.L_D(a, b), real[0](a).sum() / 5 + fake[0](b).sum() / 6)
    close(game.L_G(b), generator[0](b).sum() / 6)
    assert game.L_D(a, b).shape == game.L_G(b).shape == ()


def test_the_losses_of_a_discriminator_that_knows_nothing():
    """At D = 1/2, or at a score of 0."""
    zero, ln_2 = torch.zeros(3), math.log(2)
    expected = {
        "saturating": (2 * ln_2, -ln_2),
        "non_saturating": (2 * ln_2, ln_2),
        "least_squares": (0.5, 0.5),
        "hinge": (2, 0),
        "wasserstein": (0, 0),
    }
    for name, (L_D, L_G) in expected.items():
        assert LOSSES[name].L_D(zero, zero).item() == pytest.approx(L_D, abs=1e-15)
        assert LOSSES[name].L_G(zero).item() == pytest.approx(L_G, abs=1e-15)


def test_the_minimax_game_is_zero_sum(rng):
    """What the generator can change of L_D it pays with the other sign; so only for two losses."""
    a, b = torch.randn(4, generator=rng), torch.randn(4, generator=rng)
    for name, game in LOSSES.items():
        slopes = slope(lambda b, game=game: game.L_D(a, b), b), slope(game.L_G, b)
        assert torch.allclose(slopes[0], -slopes[1]) == (name in ("saturating", "wasserstein"))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_scored_in_float32(name):
    game = LOSSES[name]
    for dtype in (torch.float16, torch.bfloat16):
        a, b = torch.tensor([-400.0, 1.3], dtype=dtype), torch.tensor([300.0, 0.1], dtype=dtype)
        assert game.L_D(a, b).dtype == game.L_G(b).dtype == torch.float32
        close(game.L_D(a, b), game.L_D(a.float(), b.float()), rtol=0, atol=0)
        close(game.L_G(b), game.L_G(b.float()), rtol=0, atol=0)
        assert game.L_D(a, b).isfinite()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_can_be_pickled(name):
    assert pickle.loads(pickle.dumps(LOSSES[name])) == LOSSES[name]


# --- for a smooth discriminator ------------------------------------------------------------------


def pairs(rng, *shape):
    return torch.randn(shape, generator=rng), 3 + torch.randn(shape, generator=rng)


@pytest.mark.parametrize("shape", [(6, 1), (6, 5), (6, 1, 4, 4)])
def test_penalties_of_a_linear_discriminator_are_exact(shape, rng):
    real, fake = pairs(rng, *shape)
    w = torch.randn(shape[1:], generator=rng)
    for norm in (1.0, 0.0, 0.3, 7.0):  # the penalty is on both sides of 1
        weight = norm * w / w.norm()
        D = lambda x, weight=weight: (x * weight).flatten(1).sum(1) + 4
        assert gradient_penalty(D, real, fake).item() == pytest.approx((norm - 1) ** 2, abs=1e-14)
        assert r1(D, real).item() == pytest.approx(norm**2 / 2, abs=1e-14)
        column = lambda x, D=D: D(x)[:, None]  # as nn.Linear(n, 1) gives it
        assert gradient_penalty(column, real, fake).shape == r1(column, real).shape == ()
        assert r1(column, real).item() == pytest.approx(norm**2 / 2, abs=1e-14)


def test_r1_of_a_quadratic_discriminator(rng):
    """For x' S x / 2 + b' x it is half the mean of |S x + b|^2, at the real examples alone."""
    S, b = torch.randn(3, 3, generator=rng), torch.randn(3, generator=rng)
    S = S + S.T
    real, _ = pairs(rng, 5, 3)
    D = lambda x: ((x @ S) * x).sum(1) / 2 + x @ b
    close(r1(D, real), (real @ S + b).square().sum() / 10)


def test_gradient_penalty_is_taken_between_the_pairs(rng):
    """Each pair has a point of its own, uniform on the segment, the same for all its entries."""
    seen = []

    def D(x):
        seen.append(x.detach())
        return x.square().sum((1, 2)) / 2  # its gradient is x

    real, fake = pairs(rng, 4000, 3, 2)
    penalty = gradient_penalty(D, real, fake)
    (x,) = seen
    u = (x - real) / (fake - real)
    close(u, u[:, :1, :1].expand_as(u))
    u = u[:, 0, 0].sort().values
    assert 0 <= u[0] < 0.01 < 0.99 < u[-1] <= 1
    assert (u - torch.linspace(0, 1, 4000)).abs().max() < 1.95 / math.sqrt(4000)  # p = 0.001
    close(penalty, (x.flatten(1).norm(dim=1) - 1).square().mean())


@pytest.mark.parametrize(
    "penalty", [lambda D, x, y: gradient_penalty(D, x, y), lambda D, x, y: r1(D, x)]
)
def test_second_derivatives_reach_the_weights_of_d_and_nothing_else(penalty, rng):
    """A gradient step on the penalty; finite differences say the same of every weight."""
    D = nn.Sequential(mlp(2, 4), nn.Linear(4, 1))
    G = nn.Linear(2, 2)
    real, noise = pairs(rng, 6, 2)
    real.requires_grad_()

    def value():
        torch.manual_seed(1)  # the same points between
        return penalty(D, real, G(noise))

    value().backward()
    assert real.grad is None
    assert all(weight.grad is None for weight in G.parameters())
    first, last = D[0][0].weight, D[1].weight
    for weight in (first, last):
        assert (weight.grad != 0).all()
        for i in range(weight.numel()):
            ends = []
            for h in (1e-5, -1e-5):
                with torch.no_grad():
                    weight.view(-1)[i] += h
                ends.append(value().item())
                with torch.no_grad():
                    weight.view(-1)[i] -= h
            assert weight.grad.view(-1)[i].item() == pytest.approx(
                (ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8
            )
    assert D[1].bias.grad is None or (D[1].bias.grad == 0).all()  # it moves no slope


def test_a_flat_discriminator_gets_finite_gradients():
    """At a slope of 0 the norm has a kink: its derivative there must not be nan."""
    D = nn.Linear(3, 1)
    nn.init.zeros_(D.weight)
    penalty = gradient_penalty(D, torch.randn(4, 3), torch.randn(4, 3))
    penalty.backward()
    assert penalty == 1
    assert D.weight.grad.isfinite().all()


def test_half_precision_slopes_do_not_overflow():
    D = nn.Linear(4, 1).to(torch.float16)
    nn.init.constant_(D.weight, 500.0)
    x = torch.zeros(2, 4, dtype=torch.float16)
    assert r1(D, x).item() == pytest.approx(500_000)
    assert gradient_penalty(D, x, x).item() == pytest.approx(999**2)


def test_penalty_needs_pairs():
    D = lambda x: x.sum(1)
    with pytest.raises(ValueError, match=r"the same shape, got \(4, 2\) and \(3, 2\)"):
        gradient_penalty(D, torch.zeros(4, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="real and fake must have the same shape"):
        gradient_penalty(D, torch.zeros(4, 2), torch.zeros(1, 2))
