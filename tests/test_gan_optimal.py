"""The best discriminator and the value of the game, against quadrature and closed forms."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize
from torch.distributions import Normal

from companion.divergences import jensen_shannon, tabulate
from companion.gan import game_value, optimal_logit, saturating

pytestmark = pytest.mark.usefixtures("float64")
close = torch.testing.assert_close

GRID = torch.linspace(-12, 12, 4801, dtype=torch.float64)
JSD = {0.5: 0.11142, 1.0: 0.33683, 2.0: 0.63272}  # of N(-a, 1) and N(a, 1)
LN_4 = math.log(4)


def normals(a):
    return Normal(-a, torch.tensor(1.0)), Normal(a, torch.tensor(1.0))


def tables(rng, *shape):
    return (2 * torch.randn(shape, generator=rng)).softmax(-1)


def best(p_data, p_G):
    return optimal_logit(p_data.log(), p_G.log())


# --- the best discriminator ----------------------------------------------------------------------


@pytest.mark.parametrize("a", JSD)
def test_the_best_discriminator_of_two_normals(a):
    """D* = sigmoid(-2 a x) with the first as data: sure of it on the left."""
    data, G = normals(a)
    logit = optimal_logit(data.log_prob(GRID), G.log_prob(GRID))
    close(logit, -2 * a * GRID)
    p, q = data.log_prob(GRID).exp(), G.log_prob(GRID).exp()
    close(logit.sigmoid(), p / (p + q))
    for wrong in (q / (p + q), 1 / (p + q), p / p + q, (p / q).sigmoid(), p - q):
        assert (logit.sigmoid() - wrong).abs().max() > 0.1


def test_no_other_discriminator_is_better(rng):
    """Found by search, and shown by the gradient, 0, and by random steps away from it."""
    p, q = tables(rng, 5), tables(rng, 5)
    logits = best(p, q).requires_grad_()
    value = game_value(logits, p, q)
    (gradient,) = torch.autograd.grad(value, logits)
    close(gradient, torch.zeros(5), rtol=0, atol=1e-15)
    away = logits + torch.randn(200, 5, generator=rng) * torch.logspace(-3, 1, 200)[:, None]
    assert (game_value(away, p, q) < value).all()
    found = minimize(lambda a: -game_value(torch.tensor(a), p, q).item(), [0.0] * 5, tol=1e-12)
    close(torch.tensor(found.x).sigmoid(), p / (p + q), rtol=0, atol=1e-4)
    for wrong in (-logits, 2 * logits, logits / 2, p / (p + q)):  # the last: a sigmoid too many
        assert game_value(wrong, p, q) < value - 1e-3


def test_it_keeps_shapes_and_stays_finite_where_densities_underflow():
    data, G = normals(40.0)
    x = torch.tensor([[-60.0, 0.0, 60.0]])
    logit = optimal_logit(data.log_prob(x), G.log_prob(x))
    close(logit, -80 * x)
    with pytest.raises(ValueError, match="log_p_data and log_p_G must have the same shape"):
        optimal_logit(torch.zeros(3), torch.zeros(3, 1))


def test_where_one_density_is_zero():
    log_p, log_q = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.0, 0.5, 0.5]).log()
    close(optimal_logit(log_p, log_q), torch.tensor([math.inf, 0.0, -math.inf]))
    assert optimal_logit(torch.tensor(-math.inf), torch.tensor(-math.inf)).isnan()


# --- the value of the game -----------------------------------------------------------------------


@pytest.mark.parametrize("a", JSD)
def test_the_value_at_the_best_discriminator(a):
    """V(G, D*) = 2 JSD - ln 4, from the grid, by scipy's quadrature, and from the constants."""
    data, G = normals(a)
    p, q = tabulate(data, GRID), tabulate(G, GRID)
    value = game_value(-2 * a * GRID, p, q).item()
    assert value == pytest.approx(2 * JSD[a] - LN_4, abs=2e-5)
    assert value == pytest.approx(2 * jensen_shannon(p, q).item() - LN_4, abs=1e-12)
    density = lambda x, mu: math.exp(-((x - mu) ** 2) / 2) / math.sqrt(2 * math.pi)
    integral, _ = quad(
        lambda x: (
            -density(x, -a) * math.log1p(math.exp(2 * a * x))
            - density(x, a) * math.log1p(math.exp(-2 * a * x))
        ),
        -12,
        12,
        epsabs=1e-12,
    )
    assert value == pytest.approx(integral, abs=1e-9)
    jsd = JSD[a]
    for wrong in (jsd - LN_4, 2 * jsd, 2 * jsd - math.log(2), 2 * jsd + LN_4, 2 * (jsd - LN_4)):
        assert abs(value - wrong) > 0.1


def test_the_identity_for_tables(rng):
    p, q = tables(rng, 3, 1, 6), tables(rng, 4, 6)
    value = game_value(p.log() - q.log(), p, q)
    assert value.shape == (3, 4)
    close(value, 2 * jensen_shannon(p, q) - LN_4)
    close(game_value(best(q, q), q, q), torch.full((4,), -LN_4))  # its minimum, at D = 1/2
    assert (value > -LN_4).all()


def test_a_discriminator_that_knows_nothing(rng):
    p, q = tables(rng, 6), tables(rng, 6)
    assert game_value(torch.zeros(6), p, q).item() == pytest.approx(-LN_4)


def test_it_is_the_definition(rng):
    """For any discriminator: with D itself, and as what the losses of samples estimate."""
    p, q, logits = tables(rng, 6), tables(rng, 6), torch.randn(6, generator=rng)
    D = logits.sigmoid()
    close(game_value(logits, p, q), p @ D.log() + q @ (1 - D).log())
    draws = [logits[t.multinomial(200_000, True, generator=rng)] for t in (p, q)]
    assert -saturating.L_D(*draws).item() == pytest.approx(
        game_value(logits, p, q).item(), abs=0.02
    )


def test_outcomes_that_never_come_count_nothing():
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.5, 0.0])
    logits = best(p, q)[:3]
    for nothing in (math.nan, math.inf, -math.inf, 1e9):
        a = torch.cat([logits, torch.tensor([nothing])]).requires_grad_()
        value = game_value(a, p, q)
        assert value.item() == pytest.approx(-math.log(2))  # JSD = ln(2) / 2
        assert torch.autograd.grad(value, a)[0][1].item() == 0
    apart = torch.eye(2)
    assert game_value(best(*apart), *apart).item() == 0  # D* is never wrong
    assert game_value(-best(*apart), *apart).item() == -math.inf  # and this one always
    never_real = torch.tensor([-math.inf, -math.inf])  # wrong of the data alone
    assert game_value(never_real, *apart).item() == -math.inf


def test_gradients(rng):
    p, q, logits = tables(rng, 4), tables(rng, 4), torch.randn(4, generator=rng).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: game_value(a, p, q), logits)
    q = q.requires_grad_()  # the generator's side: ln(1 - D) for each outcome
    (gradient,) = torch.autograd.grad(game_value(logits, p, q), q)
    close(gradient, (1 - logits.sigmoid()).log())


def test_extreme_logits_are_exact():
    half = torch.tensor([0.5, 0.5])
    assert game_value(torch.tensor([1000.0, -1000.0]), half, half).item() == -1000
    certain = torch.tensor([1000.0, -1000.0])
    assert game_value(certain, *torch.eye(2)).item() == 0


def test_what_is_no_table_is_refused():
    p = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="p_G sums to"):
        game_value(torch.zeros(2), p, p / 2)
    with pytest.raises(ValueError, match="p_data has negative"):
        game_value(torch.zeros(2), p.log(), p)
    for logits in (torch.zeros(1), torch.tensor(0.0), torch.zeros(2, 1)):
        with pytest.raises(ValueError, match=r"logits must have shape \(\*batch, 2\), got"):
            game_value(logits, p, p)


def test_the_value_can_be_differentiated_where_an_outcome_never_comes():
    p, q = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]], dtype=torch.float64)
    logits = optimal_logit(p.log(), q.log()).requires_grad_()  # 0 / 0 for the last
    (gradient,) = torch.autograd.grad(game_value(logits, p, q), logits)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64))
