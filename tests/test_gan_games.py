"""Small games: paths against exact laws, and solutions of matrices against brute force."""

import math

import pytest
import torch

from companion.gan import (
    alternating,
    averages,
    extragradient,
    matrix_game,
    orbit,
    simultaneous,
)

pytestmark = pytest.mark.usefixtures("float64")
close = torch.testing.assert_close

RATES = [0.01, 0.1, 0.5, 0.9]
STEPS = [simultaneous, alternating, extragradient]
START = tuple(torch.tensor([1.0, -0.4], dtype=torch.float64))


def bilinear(x, y):
    return x * y


def spiral(step, rate, steps=50):
    path = orbit(bilinear, *START, step=step, rate=rate, steps=steps)
    assert path.shape == (steps + 1, 2)
    close(path[0], torch.stack(START))
    return path


# --- by gradients --------------------------------------------------------------------------------


def test_the_step_is_simultaneous_unless_said():
    assert torch.equal(orbit(bilinear, *START), spiral(simultaneous, 0.1, 100))


@pytest.mark.parametrize("rate", RATES)
def test_simultaneous_steps_spiral_out(rate):
    norms = spiral(simultaneous, rate).norm(dim=1)
    close(norms[1:] / norms[:-1], torch.full((50,), math.sqrt(1 + rate**2)))


@pytest.mark.parametrize("rate", RATES)
def test_alternating_steps_stay_on_an_ellipse(rate):
    x, y = spiral(alternating, rate, steps=2000).T
    invariant = x**2 + y**2 - rate * x * y
    close(invariant, invariant[:1].expand(2001), rtol=1e-10, atol=0)
    assert (x**2 + y**2).max() < invariant[0] / (1 - rate / 2) * (1 + 1e-10)
    assert (x**2 + y**2 - (x**2 + y**2)[0]).abs().max() > 1e-3  # no circle
    assert x.min() < -0.9  # and round it goes
    assert x.max() > 0.9


def test_alternating_steps_close_where_the_angle_divides_the_circle():
    """By an angle w with cos w = 1 - rate^2 / 2: six steps a round at a rate of 1."""
    path = spiral(alternating, 1.0, steps=12)
    close(path[6:], path[:7])
    assert (path[1:6] - path[0]).abs().amax(1).min() > 0.1
    assert spiral(alternating, 2.1).norm(dim=1)[-1] > 100  # too long a step


@pytest.mark.parametrize("rate", [*RATES, 1.1])
def test_extragradient_contracts_for_rates_below_one(rate):
    norms = spiral(extragradient, rate).norm(dim=1)
    factor = math.sqrt((1 - rate**2) ** 2 + rate**2)
    close(norms[1:] / norms[:-1], torch.full((50,), factor))
    assert (factor < 1) == (rate < 1)


def test_x_goes_down_and_y_goes_up():
    """One step from (1, -0.4) at 0.1: x pays xy, so that y's minus sends it up, and y follows x."""
    for step, expected in {
        simultaneous: (1.04, -0.3),
        alternating: (1.04, -0.4 + 0.104),
        extragradient: (1 - 0.1 * -0.3, -0.4 + 0.1 * 1.04),
    }.items():
        close(spiral(step, 0.1, steps=1)[1], torch.tensor(expected))


@pytest.mark.parametrize("rate", RATES)
def test_averages_of_a_spiral(rate):
    """A step is a quarter turn of where one is: the mean of k points has length |z_k - z_0|/(r k).

    At a constant rate the averages grow too, in the end; with a rate of 1/sqrt(steps) they come
    near the centre, however far the points themselves are.
    """
    path = spiral(simultaneous, rate)
    means = averages(path)
    assert means.shape == path.shape
    close(means[20], path[:21].mean(0))
    k = torch.arange(1, 51)
    close(means[:-1].norm(dim=1), (path[1:] - path[0]).norm(dim=1) / (rate * k))
    for steps in (100, 10_000):
        path = spiral(simultaneous, 1 / math.sqrt(steps), steps)
        assert path[-1].norm() > 1.6 * path[0].norm()
        bound = (1 + math.sqrt(math.e)) * path[0].norm() / math.sqrt(steps)
        assert averages(path)[-1].norm() < 1.01 * bound


@pytest.mark.parametrize("step", STEPS)
def test_vectors_are_played_entry_by_entry(step, rng):
    """x'My in three and two dimensions, against the same steps by hand."""
    M, x, y = (torch.randn(shape, generator=rng) for shape in [(3, 2), (3,), (2,)])
    path = orbit(lambda x, y: x @ M @ y, x, y, step=step, rate=0.2, steps=4)
    assert path.shape == (5, 5)
    for k in range(5):
        close(path[k], torch.cat([x, y]))
        dx, dy = x - 0.2 * M @ y, y + 0.2 * M.T @ x
        if step is simultaneous:
            x, y = dx, dy
        elif step is alternating:
            x, y = dx, y + 0.2 * M.T @ dx
        else:
            x, y = x - 0.2 * M @ dy, y + 0.2 * M.T @ dx


@pytest.mark.parametrize("step", STEPS)
def test_a_saddle_of_two_bowls_is_found(step):
    """V = x^2 - y^2 about (1, 2), and V without y at all."""
    V = lambda x, y: (x - 1) ** 2 - (y - 2) ** 2
    close(orbit(V, *START, step=step, rate=0.2, steps=200)[-1], torch.tensor([1.0, 2.0]))
    path = orbit(lambda x, y: (x - 1) ** 2, *START, step=step, rate=0.2, steps=5)
    assert (path[:, 1] == START[1]).all()


@pytest.mark.parametrize("step", STEPS)
def test_players_and_their_starts_are_left_alone(step):
    x, y = (z.clone().requires_grad_() for z in START)
    weight = torch.tensor(2.0, requires_grad=True)
    path = orbit(lambda x, y: weight * x * y, x, y, step=step, steps=3)
    assert not path.requires_grad
    assert x.grad is y.grad is weight.grad is None
    assert (x, y) == START
    assert torch.equal(orbit(bilinear, *START, steps=0), torch.stack(START)[None])


# --- on a matrix ---------------------------------------------------------------------------------


def brute_force(A, points=2001):
    """The best of a grid of strategies for each player, each against the other's best answer."""
    p = torch.linspace(0, 1, points)
    mixed = torch.stack([p, 1 - p], 1)
    upper = (mixed @ A).amax(1)  # what x pays at most
    lower = (A @ mixed.T).amin(0)  # what y wins at least
    return upper.min(), lower.max(), mixed[upper.argmin()], mixed[lower.argmax()]


def test_solutions_agree_with_brute_force(rng):
    kinds = {"pure": 0, "mixed": 0}
    for _ in range(300):
        A = torch.randn(2, 2, generator=rng)
        value, x, y = matrix_game(A)
        upper, lower, x_near, y_near = brute_force(A)
        size = (A.max() - A.min()) / 2000
        assert lower - 1e-12 <= value <= upper + 1e-12
        assert upper - lower < 2 * size
        # Nobody gains by another choice: the solution in a word.
        assert (x @ A).max().item() == pytest.approx(value.item(), abs=1e-12)
        assert (A @ y).min().item() == pytest.approx(value.item(), abs=1e-12)
        for strategy in (x, y):
            assert strategy.shape == (2,)
            assert strategy.min() >= 0
            assert strategy.sum().item() == pytest.approx(1)
        mixed = bool((x.max() < 1) and (y.max() < 1))
        kinds["mixed" if mixed else "pure"] += 1
        if mixed:  # where one must mix, the best strategy is the only one
            close(x, x_near, rtol=0, atol=6e-4)
            close(y, y_near, rtol=0, atol=6e-4)
        assert mixed == (not any(saddle(A, i, j) for i in (0, 1) for j in (0, 1)))
    assert min(kinds.values()) > 50, kinds


def saddle(A, i, j):
    return bool(A[i, j] == A[i].max() and A[i, j] == A[:, j].min())


@pytest.mark.parametrize(
    ("A", "value", "x", "y"),
    [
        ([[1, -1], [-1, 1]], 0, (0.5, 0.5), (0.5, 0.5)),  # matching pennies
        ([[3, -1], [-2, 4]], 1, (0.6, 0.4), (0.5, 0.5)),  # x makes y's choices equal, not its own
        ([[1, 2], [3, 4]], 2, (1, 0), (0, 1)),
        ([[5, 2], [3, 1]], 3, (0, 1), (1, 0)),
    ],
)
def test_known_games(A, value, x, y):
    game = matrix_game(torch.tensor(A))
    close(game.value, torch.tensor(float(value)))
    close(game.x, torch.tensor(x).double())
    close(game.y, torch.tensor(y).double())


@pytest.mark.parametrize(
    "A", [[[2, 2], [2, 2]], [[0, 0], [-1, 1]], [[1, 1], [0, 2]], [[0, 1], [0, 2]]]
)
def test_ties(A):
    A = torch.tensor(A).double()
    value, x, y = matrix_game(A)
    assert (x @ A).max() == (A @ y).min() == value


def test_what_is_no_game_is_refused():
    for A in (torch.zeros(2, 3), torch.zeros(4), torch.tensor([[0.0, math.nan], [1.0, 2.0]])):
        with pytest.raises(ValueError, match="a matrix of numbers, two by two"):
            matrix_game(A)


@pytest.mark.parametrize(
    ("A", "value"),
    [
        (torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float32) + 1e5, 1e5),
        (torch.tensor([[2.0, -2.0], [-1.0, 1.0]], dtype=torch.float32) * 1e20, 0.0),
    ],
)
def test_the_value_of_a_game_of_large_payments_lies_among_them(A, value):
    assert matrix_game(A).value.item() == pytest.approx(value, rel=1e-6)
