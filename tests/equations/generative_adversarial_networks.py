"""The equations of the chapter on generative adversarial networks."""

import itertools
import math

import torch
from scipy.linalg import sqrtm
from scipy.optimize import linprog
from torch import nn, trapezoid
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from companion.divergences import (
    jensen_shannon,
    kl,
    tabulate,
    total_variation,
    wasserstein1,
)
from companion.gan import (
    GAN,
    Packed,
    alternating,
    averages,
    cross_entropy_fake,
    cross_entropy_real,
    extragradient,
    game_value,
    gradient_penalty,
    hinge,
    least_squares,
    matrix_game,
    minimax_generator,
    non_saturating,
    optimal_logit,
    orbit,
    r1,
    saturating,
    simultaneous,
    wasserstein,
)
from companion.nn import mlp
from companion.sample_scores import (
    frechet_distance,
    parzen_log_likelihood,
    precision_recall,
)
from tests.equations import equation, side
from tests.equations.generative_models import lowest, random_humps

CHAPTER = "generative-adversarial-networks"

# --- what the checks are made of ------------------------------------------------------

LINE = torch.linspace(
    -20, 20, 8001, dtype=torch.float64
)  # all x that matter, for integrals
LN_2, LN_4 = math.log(2), math.log(4)


def integral(values):
    """Over LINE, which is the last axis."""
    return trapezoid(values, LINE)


def random_table(rng, *shape):
    """Random probabilities that sum to one over the last axis, none of them tiny."""
    return torch.randn(shape, generator=rng).softmax(-1)


def both(value):
    """For two routes to the same."""
    return torch.stack([value, value])


def slope(f, *at):
    """The derivatives of f at each number, or at several arguments, one after the other."""
    at = [number.detach().clone().requires_grad_() for number in at]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(f(*at).sum(), at)])


# --- games on a matrix ----------------------------------------------------------------


def pennies(rng, n):
    """Matrices such as that of matching pennies, in which no choice is the best, ``(n, 2, 2)``."""
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    if torch.rand((), generator=rng) < 0.5:
        sign = -sign
    return sign * (0.1 + 2 * torch.rand(n, 2, 2, generator=rng))


def with_saddle(rng, rows, columns):
    """A matrix in which both players have a choice that is best whatever the other does."""
    return torch.randn(rows, 1, generator=rng) + torch.randn(columns, generator=rng)


def guarantee(A):
    """How x mixes the rows, and the most that x then pays, by linear programming."""
    rows, columns = A.shape
    costs = torch.cat(
        [A.T, -torch.ones(columns, 1)], 1
    )  # of each column, less the bound
    found = linprog(
        [0.0] * rows + [1.0],
        A_ub=costs.numpy(),
        b_ub=[0.0] * columns,
        A_eq=[[1.0] * rows + [0.0]],
        b_eq=[1.0],
        bounds=[(0, None)] * rows + [(None, None)],
    )
    return torch.from_numpy(found.x[:-1]), found.fun


@equation("minimax-order", r"\max_j \min_i A_{ij} \;\le\; \min_i \max_j A_{ij}")
def minimax_order(rng):
    games = [torch.randn(2, 2, generator=rng) for _ in range(5)]
    games += [torch.randn(3, 4, generator=rng) for _ in range(5)]
    games += [with_saddle(rng, 2, 2), with_saddle(rng, 3, 4)]  # here they are equal

    def of_each(f):
        return torch.stack([torch.as_tensor(f(A)) for A in games])

    yield side(
        of_each(lambda A: A.amin(0).max()),
        wrong={
            "rows and columns exchanged": of_each(lambda A: A.amin(1).max()),
            "the other order": of_each(lambda A: A.amax(1).min()),
            "both largest": of_each(lambda A: A.amax(0).max()),
        },
    )
    yield side(
        of_each(lambda A: min(max(row) for row in A.tolist())),
        wrong={
            "rows and columns exchanged": of_each(lambda A: A.amax(0).min()),
            "the other order": of_each(lambda A: A.amin(0).max()),
            "both smallest": of_each(lambda A: A.amin(1).min()),
        },
    )


@equation(
    "minimax-theorem",
    r"\max_y \min_x \, x^\top A\, y = \min_x \max_y \, x^\top A\, y",
)
def minimax_theorem(rng):
    small = [*pennies(rng, 4), with_saddle(rng, 2, 2), torch.randn(2, 2, generator=rng)]
    large = [torch.randn(3, 4, generator=rng) for _ in range(3)]
    solved = [matrix_game(A) for A in small]

    def y_wins(A):  # the least that y wins is the negative of the most that y pays
        return -guarantee(-A.T)[1]

    def x_pays(A):
        return guarantee(A)[1]

    # By linear programming, and by what the package's players are sure of.
    sure_of = [(A @ game.y).min() for A, game in zip(small, solved, strict=True)]
    yield side(
        torch.tensor([y_wins(A) for A in small + large] + sure_of),
        error=1e-8,
        wrong={
            "pure choices": torch.stack(
                [A.amin(0).max() for A in small + large] + sure_of
            ),
            "x up, y down": torch.tensor([y_wins(-A) for A in small + large] + sure_of),
            "rows and columns exchanged": torch.tensor(
                [y_wins(A.T) for A in small + large] + sure_of
            ),
        },
    )
    sure_of = [(game.x @ A).max() for A, game in zip(small, solved, strict=True)]
    by_package, by_programme = (
        [game.value for game in solved],
        [x_pays(A) for A in large],
    )
    yield side(
        torch.tensor(by_package + by_programme + sure_of),
        wrong={
            "pure choices": torch.stack(
                [A.amax(1).min() for A in small + large] + sure_of
            ),
            "x up, y down": torch.tensor([x_pays(-A) for A in small + large] + sure_of),
            "both choose at random": torch.stack(
                [A.mean() for A in small + large] + sure_of
            ),
            "x chooses at random": torch.stack(
                [A.mean(0).max() for A in small + large] + sure_of
            ),
        },
    )


@equation(
    "indifference",
    r"x_1 A_{11} + (1 - x_1)\, A_{21} = x_1 A_{12} + (1 - x_1)\, A_{22}",
)
def indifference(rng):
    A = pennies(rng, 5)
    by_programme = torch.stack([guarantee(game)[0][0] for game in A])
    x = torch.stack([by_programme, torch.stack([matrix_game(game).x[0] for game in A])])
    (a, b), (c, d) = A.permute(1, 2, 0)
    yield side(
        x * a + (1 - x) * c,
        error=1e-8,
        wrong={
            "of a row": x * a + (1 - x) * b,
            "the other way round": (1 - x) * a + x * c,
            "both at random": both((a + c) / 2),
        },
    )
    yield side(
        x * b + (1 - x) * d,
        error=1e-8,
        wrong={
            "of a row": x * c + (1 - x) * d,
            "the other way round": (1 - x) * b + x * d,
            "not mixed": both(b + d),
        },
    )


@equation(
    "mixed-strategy",
    r"x_1 = \frac{A_{22} - A_{21}}{A_{11} - A_{12} - A_{21} + A_{22}}",
)
def mixed_strategy(rng):
    A = pennies(rng, 5)
    y_1 = torch.stack([guarantee(-game.T)[0][0] for game in A])
    by_programme = torch.stack([guarantee(game)[0][0] for game in A])
    yield side(
        torch.stack(
            [by_programme, torch.stack([matrix_game(game).x[0] for game in A])]
        ),
        error=1e-8,
        wrong={
            "of the columns": both(y_1),
            "of the second row": both(1 - by_programme),
        },
    )
    (a, b), (c, d) = A.permute(1, 2, 0)
    total = a - b - c + d
    yield side(
        both((d - c) / total),
        wrong={
            "rows and columns exchanged": both((d - b) / total),
            "second row": both((a - b) / total),
            "sign of the difference": both((c - d) / total),
            "sum above": both((d + c) / total),
            "sum below": both((d - c) / (a + b + c + d)),
            "not divided": both(d - c),
        },
    )


@equation(
    "matrix-value",
    r"v = \frac{A_{11} A_{22} - A_{12} A_{21}}{A_{11} - A_{12} - A_{21} + A_{22}}",
)
def matrix_value(rng):
    A = pennies(rng, 5)
    by_programme = torch.tensor([guarantee(game)[1] for game in A])
    yield side(
        torch.stack(
            [by_programme, torch.stack([matrix_game(game).value for game in A])]
        ),
        error=1e-8,
        wrong={
            "pure choices": both(A.amax(2).amin(1)),
            "both choose at random": both(A.mean((1, 2))),
        },
    )
    (a, b), (c, d) = A.permute(1, 2, 0)
    total = a - b - c + d
    yield side(
        both(A.det() / total),
        wrong={
            "sum for determinant": both((a * d + b * c) / total),
            "sign": both((b * c - a * d) / total),
            "sum below": both(A.det() / (a + b + c + d)),
            "not divided": both(A.det()),
            "rows, not diagonals": both((a * b - c * d) / total),
        },
    )


# --- by gradient steps, V(x, y) = x y -------------------------------------------------


def play(rng, step, steps=6):
    """The length of a step, and where each player of V(x, y) = x y was, ``(steps + 1,)``."""
    rate = (0.2 + 0.5 * torch.rand((), generator=rng)).item()
    start = torch.randn(2, generator=rng)
    path = orbit(torch.mul, *start, step=step, rate=rate, steps=steps)
    return rate, *path.T


@equation(
    "simultaneous-steps",
    r"""
    \begin{aligned}
    x_{k+1} &= x_k - \eta\, y_k \\
    y_{k+1} &= y_k + \eta\, x_k
    \end{aligned}
    """,
)
def simultaneous_steps(rng):
    eta, x, y = play(rng, simultaneous)
    yield side(x[1:], wrong={"no step": x[:-1]})
    yield side(
        x[:-1] - eta * y[:-1],
        wrong={
            "uphill": x[:-1] + eta * y[:-1],
            "derivative by y": x[:-1] - eta * x[:-1],
            "step of length one": x[:-1] - y[:-1],
            "against where y goes": x[:-1] - eta * y[1:],
        },
    )
    yield side(y[1:], wrong={"no step": y[:-1], "of x": x[1:]})
    yield side(
        y[:-1] + eta * x[:-1],
        wrong={
            "downhill": y[:-1] - eta * x[:-1],
            "derivative by x": y[:-1] + eta * y[:-1],
            "one after the other": y[:-1] + eta * x[1:],
        },
    )


@equation(
    "simultaneous-grows",
    r"""
    \begin{aligned}
    x_{k+1}^2 + y_{k+1}^2
      &= (x_k - \eta\, y_k)^2 + (y_k + \eta\, x_k)^2 \\
      &= x_k^2 - 2 \eta\, x_k y_k + \eta^2 y_k^2 + y_k^2 + 2 \eta\, x_k y_k
          + \eta^2 x_k^2 \\
      &= (1 + \eta^2) (x_k^2 + y_k^2)
    \end{aligned}
    """,
)
def simultaneous_grows(rng):
    eta, x, y = play(rng, simultaneous)
    yield side(
        x[1:] ** 2 + y[1:] ** 2, wrong={"not after the step": x[:-1] ** 2 + y[:-1] ** 2}
    )
    x, y = x[:-1], y[:-1]
    seen = x - eta * y
    yield side(
        (x - eta * y) ** 2 + (y + eta * x) ** 2,
        wrong={
            "both downhill": (x - eta * y) ** 2 + (y - eta * x) ** 2,
            "one after the other": seen**2 + (y + eta * seen) ** 2,
            "squares of the sum": (x - eta * y + y + eta * x) ** 2,
        },
    )
    yield side(
        x**2 - 2 * eta * x * y + eta**2 * y**2 + y**2 + 2 * eta * x * y + eta**2 * x**2,
        wrong={
            "sign of a mixed term": x**2
            + eta**2 * y**2
            + y**2
            + 4 * eta * x * y
            + eta**2 * x**2,
            "eta not squared": x**2 + eta * y**2 + y**2 + eta * x**2,
        },
    )
    yield side(
        (1 + eta**2) * (x**2 + y**2),
        wrong={
            "it stays": x**2 + y**2,
            "it shrinks": (1 - eta**2) * (x**2 + y**2),
            "eta not squared": (1 + eta) * (x**2 + y**2),
            "factor of the distance": (1 + eta**2) ** 0.5 * (x**2 + y**2),
            "factor twice": (1 + eta**2) ** 2 * (x**2 + y**2),
        },
    )


@equation(
    "alternating-keeps",
    r"""
    \begin{aligned}
    x_{k+1}^2 + y_{k+1}^2 - \eta\, x_{k+1} y_{k+1}
      &= x_{k+1}^2 + y_{k+1} (y_{k+1} - \eta\, x_{k+1}) \\
      &= x_{k+1}^2 + (y_k + \eta\, x_{k+1})\, y_k \\
      &= x_{k+1} (x_{k+1} + \eta\, y_k) + y_k^2 \\
      &= (x_k - \eta\, y_k)\, x_k + y_k^2 \\
      &= x_k^2 + y_k^2 - \eta\, x_k y_k
    \end{aligned}
    """,
)
def alternating_keeps(rng):
    eta, x, y = play(rng, alternating)
    (x, u), (y, v) = (x[:-1], x[1:]), (y[:-1], y[1:])  # before a step, and after it
    yield side(
        u**2 + v**2 - eta * u * v,
        wrong={
            "distance from the balance": u**2 + v**2,
            "sign of the mixed term": u**2 + v**2 + eta * u * v,
            "mixed term twice": u**2 + v**2 - 2 * eta * u * v,
        },
    )
    yield side(
        u**2 + v * (v - eta * u),
        wrong={
            "sign": u**2 + v * (v + eta * u),
            "the former x": u**2 + v * (v - eta * x),
            "y once": u**2 + (v - eta * u),
        },
    )
    yield side(
        u**2 + (y + eta * u) * y,
        wrong={
            "simultaneous": u**2 + (y + eta * x) * y,
            "sign": u**2 + (y - eta * u) * y,
            "the later y": u**2 + (y + eta * u) * v,
        },
    )
    yield side(
        u * (u + eta * y) + y**2,
        wrong={
            "sign": u * (u - eta * y) + y**2,
            "the later y": u * (u + eta * v) + y**2,
        },
    )
    yield side(
        (x - eta * y) * x + y**2,
        wrong={
            "sign": (x + eta * y) * x + y**2,
            "the later x": (x - eta * y) * u + y**2,
        },
    )
    yield side(
        x**2 + y**2 - eta * x * y,
        wrong={
            "distance from the balance": x**2 + y**2,
            "sign of the mixed term": x**2 + y**2 + eta * x * y,
            "it grows": (1 + eta**2) * (x**2 + y**2 - eta * x * y),
        },
    )


@equation(
    "extragradient-shrinks",
    r"x_{k+1}^2 + y_{k+1}^2 = (1 - \eta^2 + \eta^4) (x_k^2 + y_k^2)",
)
def extragradient_shrinks(rng):
    eta, x, y = play(rng, extragradient)
    squared = x[:-1] ** 2 + y[:-1] ** 2
    yield side(x[1:] ** 2 + y[1:] ** 2, wrong={"not after the step": squared})
    yield side(
        (1 - eta**2 + eta**4) * squared,
        wrong={
            "simultaneous": (1 + eta**2) * squared,
            "fourth power forgotten": (1 - eta**2) * squared,
            "sign of the square": (1 + eta**2 + eta**4) * squared,
            "sign of the fourth power": (1 - eta**2 - eta**4) * squared,
            "perfect square": (1 - eta**2) ** 2 * squared,
            "implicit step": squared / (1 + eta**2),
        },
    )


@equation(
    "average-of-path",
    r"""
    \begin{aligned}
    \frac1k \sum_{j=0}^{k-1} y_j &= \frac{x_0 - x_k}{\eta\, k} \\
    \frac1k \sum_{j=0}^{k-1} x_j &= \frac{y_k - y_0}{\eta\, k}
    \end{aligned}
    """,
)
def average_of_path(rng):
    eta, x, y = play(rng, simultaneous)
    mean_x, mean_y = averages(torch.stack([x, y], 1)).T
    k = torch.arange(1, len(x))
    yield side(mean_y[:-1], wrong={"one more": mean_y[1:], "of x": mean_x[:-1]})
    yield side(
        (x[0] - x[1:]) / (eta * k),
        wrong={
            "sign": (x[1:] - x[0]) / (eta * k),
            "eta forgotten": (x[0] - x[1:]) / k,
            "sum for mean": (x[0] - x[1:]) / eta,
            "one step less": (x[0] - x[:-1]) / (eta * k),
            "start forgotten": -x[1:] / (eta * k),
        },
    )
    yield side(mean_x[:-1], wrong={"one more": mean_x[1:], "of y": mean_y[:-1]})
    yield side(
        (y[1:] - y[0]) / (eta * k),
        wrong={
            "sign": (y[0] - y[1:]) / (eta * k),
            "eta forgotten": (y[1:] - y[0]) / k,
            "multiplied by eta": (y[1:] - y[0]) * eta / k,
            "start forgotten": y[1:] / (eta * k),
        },
    )


# --- the game of generative models ----------------------------------------------------


class Logit(nn.Module):
    """A discriminator of points on the line with a random curve for logit."""

    def __init__(self, rng):
        super().__init__()
        self.a, self.b, self.c = torch.randn(3, generator=rng) / 2

    def forward(self, x):
        """``(B, 1) -> (B,)``."""
        return self.a + self.b * x[..., 0] + self.c * x[..., 0].sin()


def random_gan(rng):
    """Two humps for data, a GAN on the line with G(z) = m + s z, and its density."""
    gan = GAN(nn.Linear(1, 1), Logit(rng), 1).requires_grad_(False)
    gan.G.weight.fill_(0.7 + 0.6 * torch.rand((), generator=rng))
    gan.G.bias.fill_(torch.randn((), generator=rng))
    return random_humps(rng), gan, Normal(gan.G.bias[0], gan.G.weight[0, 0])


def on_line(p, values):
    """The mean under a density on the line."""
    return integral(p.log_prob(LINE).exp() * values)


NOISE = Normal(torch.zeros((), dtype=torch.float64), 1.0)


@equation(
    "gan-value",
    r"""
    V(G, D) = \mathbb{E}_{p_\text{data}(x)} \bigl[ \ln D(x) \bigr]
      + \mathbb{E}_{p(z)} \bigl[ \ln \bigl( 1 - D(G(z)) \bigr) \bigr]
    """,
)
def gan_value(rng):
    n = 50_000
    data, gan, _ = random_gan(rng)
    real, fake = gan.D(data.sample((n, 1))), gan.D(gan.sample((n,)))
    variance = cross_entropy_real(real).var() + cross_entropy_fake(fake).var()
    yield side(
        -saturating.L_D(real, fake),
        se=(variance / n).sqrt(),
        wrong={
            "sign": saturating.L_D(real, fake),
            "roles": -saturating.L_D(fake, real),
        },
    )
    z = LINE[:, None]
    D, D_of_G = gan.D(z).sigmoid(), gan.D(gan.G(z)).sigmoid()
    won, caught = on_line(data, D.log()), on_line(NOISE, (1 - D_of_G).log())
    yield side(
        won + caught,
        wrong={
            "difference": won - caught,
            "sign": -won - caught,
            "D(G(z)) without 1 -": won + on_line(NOISE, D_of_G.log()),
            "ln(1 - D) under the data": on_line(data, (1 - D).log()) + caught,
            "G forgotten": won + on_line(NOISE, (1 - D).log()),
            "real examples alone": won,
            "fake examples alone": caught,
            "half": (won + caught) / 2,
            "logarithm of the mean": on_line(data, D).log()
            + on_line(NOISE, 1 - D_of_G).log(),
        },
    )


@equation(
    "gan-value-density",
    r"""
    V(G, D) = \int \Bigl( p_\text{data}(x) \ln D(x)
      + p_G(x) \ln \bigl( 1 - D(x) \bigr) \Bigr) dx
    """,
)
def gan_value_density(rng):
    data, gan, p_G = random_gan(rng)
    x = z = LINE[:, None]
    won, paid = (
        on_line(data, -saturating.real(gan.D(x))),
        saturating.fake(gan.D(gan.G(z))),
    )
    yield side(
        won - on_line(NOISE, paid),
        wrong={
            "non-saturating": won
            - on_line(NOISE, non_saturating.generator(gan.D(gan.G(z)))),
            "density of z at x": won - on_line(p_G, paid),
        },
    )
    logits, p, q = gan.D(x), tabulate(data, LINE), tabulate(p_G, LINE)
    yield side(
        game_value(logits, p, q),
        wrong={
            "densities exchanged": game_value(logits, q, p),
            "D exchanged": game_value(-logits, p, q),
            "sign": -game_value(logits, p, q),
            "prior for p_G": game_value(logits, p, tabulate(NOISE, LINE)),
            "difference": on_line(data, logits.sigmoid().log())
            - (q @ (-logits).sigmoid().log()),
            "not weighted": integral(
                logits.sigmoid().log() + (-logits).sigmoid().log()
            ),
        },
    )


@equation(
    "gan-cross-entropy",
    r"-\tfrac12 V(G, D) = -\mathbb{E}_{p(x, y)} \bigl[ \ln p_D(y \mid x) \bigr]",
)
def gan_cross_entropy(rng):
    n = 6
    p_data, p_G = random_table(rng, 2, n)
    logits = torch.randn(n, generator=rng)
    V = game_value(logits, p_data, p_G)
    yield side(-V / 2, wrong={"half missing": -V, "sign": V / 2, "twice": -2 * V})

    def classifier(real, fake, labels=(1.0, 0.0)):
        """The cross-entropy of a table p(x, y), by its columns y = 1 and y = 0."""
        return nn.functional.binary_cross_entropy_with_logits(
            logits.repeat(2),
            torch.tensor(labels).repeat_interleave(n),
            weight=torch.cat([real, fake]),
            reduction="sum",
        )

    m = (p_data + p_G) / 2
    yield side(
        classifier(p_data / 2, p_G / 2),
        wrong={
            "labels exchanged": classifier(p_data / 2, p_G / 2, labels=(0.0, 1.0)),
            "every label real": classifier(p_data / 2, p_G / 2, labels=(1.0, 1.0)),
            "labels without a probability": classifier(p_data, p_G),
            "label and example independent": classifier(m / 2, m / 2),
            "real examples alone": classifier(p_data, 0 * p_G),
        },
    )


@equation(
    "best-answer",
    r"""
    \begin{aligned}
    \frac{d}{dt} \bigl( p \ln t + q \ln (1 - t) \bigr)
      &= \frac{p}{t} - \frac{q}{1 - t} \\
    \frac{d^2}{dt^2} \bigl( p \ln t + q \ln (1 - t) \bigr)
      &= -\frac{p}{t^2} - \frac{q}{(1 - t)^2} < 0
    \end{aligned}
    """,
)
def best_answer(rng):
    p, q = 0.1 + torch.rand(2, 5, generator=rng)
    t = (0.05 + 0.9 * torch.rand(5, generator=rng)).requires_grad_()
    value = -p * cross_entropy_real(t.logit()) - q * cross_entropy_fake(t.logit())
    (first,) = torch.autograd.grad(value.sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), t)
    t = t.detach()
    yield side(first, wrong={"of the loss": -first})
    yield side(
        p / t - q / (1 - t),
        wrong={
            "inner derivative forgotten": p / t + q / (1 - t),
            "sign": q / (1 - t) - p / t,
            "p and q exchanged": q / t - p / (1 - t),
            "t and 1 - t exchanged": p / (1 - t) - q / t,
            "derivative by the logit": p * (1 - t) - q * t,
        },
    )
    yield side(second, wrong={"of the loss": -second, "the first": first})
    yield side(
        -p / t**2 - q / (1 - t) ** 2,
        wrong={
            "sign of the second": -p / t**2 + q / (1 - t) ** 2,
            "sign of the first": p / t**2 - q / (1 - t) ** 2,
            "both signs": p / t**2 + q / (1 - t) ** 2,
            "not squared": -p / t - q / (1 - t),
        },
    )
    yield side(0)


@equation(
    "best-answer-zero",
    r"\frac{p}{t} = \frac{q}{1 - t} \iff t = \frac{p}{p + q}",
)
def best_answer_zero(rng):
    p, q = 0.2 + torch.rand(2, 5, generator=rng)

    def paid(logit):
        return (p * saturating.real(logit) + q * saturating.fake(logit)).sum()

    (logit,) = lowest(paid, torch.zeros(5))
    t = logit.sigmoid()
    yield side(
        p / t, error=1e-6, wrong={"turned round": t / p, "t for 1 - t": p / (1 - t)}
    )
    yield side(
        q / (1 - t),
        wrong={
            "p for q": p / (1 - t),
            "t for 1 - t": q / t,
            "sign": -q / (1 - t),
            "squared": q / (1 - t) ** 2,
        },
    )
    yield side(t, error=1e-7, wrong={"logit for probability": logit, "1 - t": 1 - t})
    yield side(
        p / (p + q),
        wrong={
            "the other's share": q / (p + q),
            "ratio": p / q,
            "difference below": p / (p - q),
            "sum elsewhere": p / p + q,
            "a half": torch.full((5,), 0.5),
        },
    )


def searched(p_data, p_G):
    """The logits with the highest value, found by going uphill from zero."""
    (logits,) = lowest(
        lambda p: -game_value(p, p_data, p_G).sum(), torch.zeros_like(p_data)
    )
    return logits


@equation(
    "optimal-discriminator",
    r"D^*_G(x) = \frac{p_\text{data}(x)}{p_\text{data}(x) + p_G(x)}",
)
def optimal_discriminator(rng):
    p, q = random_table(rng, 2, 6)
    best = searched(p, q).sigmoid()
    found = optimal_logit(p.log(), q.log())
    yield side(
        torch.stack([best, found.sigmoid()]),
        error=1e-6,
        wrong={
            "logit for probability": torch.stack([best, found]),
            "odds for probability": torch.stack([best, found.exp()]),
        },
    )
    yield side(
        both(p / (p + q)),
        wrong={
            "sum elsewhere": both(p / p + q),
            "the other's share": both(q / (p + q)),
            "ratio": both(p / q),
            "difference below": both(p / (p - q)),
            "mean for sum below": both(2 * p / (p + q)),
            "a half besides": both(p / (2 * (p + q))),
            "sigmoid of the ratio": both((p / q).sigmoid()),
            "not divided": both(p),
        },
    )


@equation(
    "optimal-logit",
    r"\ln \frac{D^*_G(x)}{1 - D^*_G(x)} = \ln \frac{p_\text{data}(x)}{p_G(x)}",
)
def logit_at_optimum(rng):
    p, q = random_table(rng, 2, 6)
    D = searched(p, q).sigmoid()
    yield side(
        (D / (1 - D)).log(),
        error=1e-6,
        wrong={
            "odds turned round": ((1 - D) / D).log(),
            "D for its odds": D.log(),
            "no logarithm": D / (1 - D),
            "twice the odds": (2 * D / (1 - D)).log(),
        },
    )
    yield side(
        optimal_logit(p.log(), q.log()),
        wrong={
            "turned round": optimal_logit(q.log(), p.log()),
            "no logarithm": p / q,
            "sum below": (p / (p + q)).log(),
            "sum of the logarithms": p.log() + q.log(),
            "half": (p / q).log() / 2,
        },
    )


@equation(
    "two-normals",
    r"""
    \begin{aligned}
    D^*_G(x)
      &= \sigma\bigl( \ln \mathcal{N}(x; -a, 1) - \ln \mathcal{N}(x; a, 1) \bigr) \\
      &= \sigma\Bigl( -\tfrac12 (x + a)^2 + \tfrac12 (x - a)^2 \Bigr) \\
      &= \sigma(-2 a x)
    \end{aligned}
    """,
)
def two_normals(rng):
    a = 0.3 + torch.rand((), generator=rng)
    x = torch.randn(6, generator=rng)
    data, p_G = Normal(-a, 1.0), Normal(a, 1.0)
    p, q = data.log_prob(x).exp(), p_G.log_prob(x).exp()
    yield side(p / (p + q), wrong={"the other's share": q / (p + q), "ratio": p / q})
    best = optimal_logit(data.log_prob(x), p_G.log_prob(x))
    yield side(
        best.sigmoid(),
        wrong={
            "turned round": (-best).sigmoid(),
            "densities without logarithms": (p - q).sigmoid(),
            "sum of the logarithms": (p.log() + q.log()).sigmoid(),
            "no sigma": best,
        },
    )
    yield side(
        (-((x + a) ** 2) / 2 + (x - a) ** 2 / 2).sigmoid(),
        wrong={
            "signs": ((x + a) ** 2 / 2 - (x - a) ** 2 / 2).sigmoid(),
            "halves forgotten": (-((x + a) ** 2) + (x - a) ** 2).sigmoid(),
            "means exchanged": (-((x - a) ** 2) / 2 + (x + a) ** 2 / 2).sigmoid(),
        },
    )
    yield side(
        (-2 * a * x).sigmoid(),
        wrong={
            "sign": (2 * a * x).sigmoid(),
            "two forgotten": (-a * x).sigmoid(),
            "exp for sigma": (-2 * a * x).exp(),
            "mean squared": (-2 * a**2 * x).sigmoid(),
        },
    )


@equation(
    "value-at-optimum",
    r"""
    \begin{aligned}
    &V(G, D^*_G) \\
    &\quad = \mathbb{E}_{p_\text{data}} \biggl[
      \ln \frac{p_\text{data}(x)}{p_\text{data}(x) + p_G(x)} \biggr]
      + \mathbb{E}_{p_G} \biggl[ \ln \frac{p_G(x)}{p_\text{data}(x) + p_G(x)} \biggr] \\
    &\quad = \mathbb{E}_{p_\text{data}} \biggl[
      \ln \frac{p_\text{data}(x)}{2\, m(x)} \biggr]
      + \mathbb{E}_{p_G} \biggl[ \ln \frac{p_G(x)}{2\, m(x)} \biggr] \\
    &\quad = D_{\mathrm{KL}}(p_\text{data} \,\|\, m)
      + D_{\mathrm{KL}}(p_G \,\|\, m) - 2 \ln 2 \\
    &\quad = 2\, \mathrm{JSD}(p_\text{data} \,\|\, p_G) - \ln 4
    \end{aligned}
    """,
)
def value_at_optimum(rng):
    p, q = random_table(rng, 2, 3, 6)
    m = (p + q) / 2

    def mean(p, values):
        return (p * values).sum(-1)

    best = optimal_logit(p.log(), q.log())
    yield side(
        game_value(best, p, q),
        wrong={
            "of another discriminator": game_value(best / 2, p, q),
            "D exchanged": game_value(-best, p, q),
            "the loss of D": -game_value(best, p, q),
        },
    )
    p_share, q_share = p / (p + q), q / (p + q)
    yield side(
        mean(p, p_share.log()) + mean(q, q_share.log()),
        wrong={
            "logarithm lost": mean(p, p_share) + mean(q, q_share),
            "second logarithm lost": mean(p, p_share.log()) + mean(q, q_share),
            "D under the fake, too": mean(p, p_share.log()) + mean(q, p_share.log()),
            "both under the data": mean(p, p_share.log()) + mean(p, q_share.log()),
            "sign of the second": mean(p, p_share.log()) - mean(q, q_share.log()),
        },
    )
    p_ratio, q_ratio = p.log() - m.log() - LN_2, q.log() - m.log() - LN_2
    yield side(
        mean(p, p_ratio) + mean(q, q_ratio),
        wrong={
            "m for 2 m": mean(p, p_ratio) + mean(q, q_ratio) + LN_4,
            "2 above": mean(p, p_ratio) + mean(q, q_ratio) + 2 * LN_4,
            "fractions turned round": -mean(p, p_ratio) - mean(q, q_ratio),
            "means under m": mean(m, p_ratio) + mean(m, q_ratio),
        },
    )
    to_m = [kl_divergence(Categorical(table), Categorical(m)) for table in (p, q)]
    yield side(
        sum(to_m) - 2 * LN_2,
        wrong={
            "2 ln 2 forgotten": sum(to_m),
            "ln 2 once": sum(to_m) - LN_2,
            "sign of 2 ln 2": sum(to_m) + 2 * LN_2,
            "directions": kl(m, p) + kl(m, q) - 2 * LN_2,
            "with each other, not with m": kl(p, q) + kl(q, p) - 2 * LN_2,
            "one lost": to_m[0] - 2 * LN_2,
        },
    )
    jsd = jensen_shannon(p, q)
    yield side(
        2 * jsd - LN_4,
        wrong={
            "two forgotten": jsd - LN_4,
            "ln 2 for ln 4": 2 * jsd - LN_2,
            "sign of ln 4": 2 * jsd + LN_4,
            "ln 4 forgotten": 2 * jsd,
            "ln 4 twice": 2 * (jsd - LN_4),
            "sign of the divergence": -2 * jsd - LN_4,
            "logarithm lost": 2 * jsd - 4,
        },
    )


@equation("value-minimum", r"V(G, D^*_G) \ge -\ln 4")
def value_minimum(rng):
    p, q = random_table(rng, 2, 4, 6)
    q[0] = p[0]  # here the generator has won
    best = optimal_logit(p.log(), q.log())
    V = game_value(best, p, q)
    yield side(
        V,
        wrong={
            "any discriminator": game_value(torch.randn(6, generator=rng), p, q),
            "a discriminator that knows nothing": game_value(torch.zeros(6), p, q),
            "sign of the divergence": -2 * jensen_shannon(p, q) - LN_4,
            "D exchanged": game_value(-best, p, q),
        },
    )
    yield side(
        -LN_4,
        wrong={
            "ln 2 for ln 4": -LN_2,
            "sign": LN_4,
            "zero": 0,
            "a little more": 0.01 - LN_4,
        },
    )


@equation(
    "envelope",
    r"""
    \nabla_\theta\, V(G_\theta, D^*_{G_\theta})
      = \nabla_\theta\, V(G_\theta, D) \Big|_{D = D^*_{G_\theta}}
    """,
)
def envelope(rng):
    p = random_table(rng, 6)
    theta = torch.randn(6, generator=rng)  # logits of p_G

    def best(theta):
        return optimal_logit(p.log(), theta.log_softmax(0))

    def value(theta, D):
        return game_value(D, p, theta.softmax(0))

    def divergence(theta):
        return 2 * jensen_shannon(p, theta.softmax(0)) - LN_4

    whole = slope(lambda theta: value(theta, best(theta)), theta)
    yield side(
        torch.stack([slope(divergence, theta), whole]),
        wrong={
            "two of the divergence forgotten": both(slope(divergence, theta) / 2),
            "D alone moves": both(slope(lambda t: value(theta, best(t)), theta)),
            "Kullback-Leibler": both(slope(lambda t: kl(p, t.softmax(0)), theta)),
        },
    )

    def fixed(D):
        return both(slope(lambda theta: value(theta, D), theta))

    yield side(
        fixed(best(theta)),
        wrong={
            "D away from D*": fixed(best(theta) + torch.randn(6, generator=rng)),
            "D only half as sure": fixed(best(theta) / 2),
            "D* of another generator": fixed(best(theta.flip(0))),
            "half": fixed(best(theta)) / 2,
            "sign": -fixed(best(theta)),
            "D exchanged": fixed(-best(theta)),
        },
    )


@equation("disjoint-value", r"V(G, D^*_G) = 2 \ln 2 - \ln 4 = 0")
def disjoint_value(rng):
    p, q = random_table(rng, 2, 3)
    nothing = torch.zeros(3)
    left, right = torch.cat([p, nothing]), torch.cat([nothing, q])
    blurred = (9 * left + right) / 10
    yield side(
        game_value(optimal_logit(left.log(), right.log()), left, right),
        wrong={
            "they overlap": game_value(optimal_logit(p.log(), q.log()), p, q),
            "they overlap a little": game_value(
                optimal_logit(blurred.log(), right.log()), blurred, right
            ),
            "D that does not see it": game_value(
                torch.randn(6, generator=rng), left, right
            ),
        },
    )
    apart = jensen_shannon(left, right)
    yield side(
        2 * apart - LN_4,
        wrong={
            "two forgotten": apart - LN_4,
            "ln 2 for ln 4": 2 * apart - LN_2,
            "sign of ln 4": 2 * apart + LN_4,
            "ln 4 forgotten": 2 * apart,
            "they overlap": 2 * jensen_shannon(p, q) - LN_4,
        },
    )
    yield side(
        0, wrong={"the minimum": -LN_4, "one divergence": LN_2, "D at a loss": -LN_2}
    )


# --- losses ---------------------------------------------------------------------------


def some_logits(rng):
    """Random ones, and some at which D is sure."""
    return torch.cat([torch.tensor([-5.0, 5.0]), 2 * torch.randn(5, generator=rng)])


@equation(
    "saturating-slope",
    r"\frac{d}{da} \ln \bigl( 1 - \sigma(a) \bigr) = -\sigma(a)",
)
def saturating_slope(rng):
    a = some_logits(rng)
    won = slope(minimax_generator, a)
    yield side(
        torch.stack(
            [won, slope(saturating.generator, a), -slope(cross_entropy_fake, a)]
        ),
        wrong={"non-saturating": slope(cross_entropy_real, a).expand(3, -1)},
    )
    yield side(
        (-a.sigmoid()).expand(3, -1),
        wrong={
            "sign": a.sigmoid().expand(3, -1),
            "sign of a": -(-a).sigmoid().expand(3, -1),
            "logarithm's derivative alone": (-1 / (1 - a.sigmoid())).expand(3, -1),
            "derivative of sigma": -(a.sigmoid() * (-a).sigmoid()).expand(3, -1),
        },
    )


@equation(
    "non-saturating-slope",
    r"\frac{d}{da} \bigl( -\ln \sigma(a) \bigr) = -\sigma(-a) = \sigma(a) - 1",
)
def non_saturating_slope(rng):
    a = some_logits(rng)
    routes = [non_saturating.generator, cross_entropy_real]
    yield side(
        torch.stack([slope(f, a) for f in routes]),
        wrong={
            "saturating": both(slope(minimax_generator, a)),
            "sign": both(-slope(cross_entropy_real, a)),
        },
    )
    yield side(
        both(-(-a).sigmoid()),
        wrong={
            "sign": both((-a).sigmoid()),
            "sign of a": both(-a.sigmoid()),
            "logarithm's derivative alone": both(-1 / a.sigmoid()),
        },
    )
    yield side(
        both(a.sigmoid() - 1),
        wrong={
            "sign": both(1 - a.sigmoid()),
            "one forgotten": both(a.sigmoid()),
            "sum": both(a.sigmoid() + 1),
        },
    )


@equation("slope-ratio", r"\frac{\sigma(a)}{\sigma(-a)} = e^a")
def slope_ratio(rng):
    a = some_logits(rng)
    found_out, fooled = slope(minimax_generator, a), slope(cross_entropy_real, a)
    yield side(
        found_out / fooled,
        wrong={
            "turned round": fooled / found_out,
            "product": found_out * fooled,
            "sigma(a) alone": -found_out,
        },
    )
    yield side(
        a.exp(),
        wrong={
            "sign": (-a).exp(),
            "no exponential": a,
            "squared": (2 * a).exp(),
            "one": 1,
        },
    )


@equation(
    "non-saturating-divergence",
    r"""
    \begin{aligned}
    &\nabla_\theta\, \mathbb{E}_{p(z)} \bigl[ -\ln D\bigl( G_\theta(z) \bigr) \bigr]
      \Big|_{D = D^*_{G_\theta}} \\
    &\quad = \nabla_\theta \bigl( D_{\mathrm{KL}}(p_{G_\theta} \,\|\, p_\text{data})
      - 2\, \mathrm{JSD}(p_\text{data} \,\|\, p_{G_\theta}) \bigr)
    \end{aligned}
    """,
)
def non_saturating_divergence(rng):
    data = random_humps(rng)
    m, s = torch.randn((), generator=rng), 0.7 + 0.6 * torch.rand((), generator=rng)
    start = Normal(m, s)

    def loss(m, s, pays=non_saturating.generator, p_G=start):
        x = m + s * LINE  # G(z)
        return on_line(NOISE, pays(optimal_logit(data.log_prob(x), p_G.log_prob(x))))

    moving = slope(lambda m, s: loss(m, s, p_G=Normal(m, s)), m, s)
    yield side(
        slope(loss, m, s),
        wrong={
            "D moves, too": moving,
            "saturating": slope(lambda m, s: loss(m, s, saturating.generator), m, s),
            "sign": -slope(loss, m, s),
        },
    )

    def of_tables(f):
        p = tabulate(data, LINE)
        return slope(lambda m, s: f(p, tabulate(Normal(m, s), LINE)), m, s)

    reverse, shared = of_tables(lambda p, q: kl(q, p)), of_tables(jensen_shannon)
    yield side(
        reverse - 2 * shared,
        wrong={
            "the other direction": of_tables(kl) - 2 * shared,
            "two forgotten": reverse - shared,
            "sum": reverse + 2 * shared,
            "Jensen-Shannon forgotten": reverse,
            "Jensen-Shannon alone": -2 * shared,
            "signs": 2 * shared - reverse,
        },
    )


# --- other games ----------------------------------------------------------------------


def f_kl(u):
    """Of the Kullback-Leibler divergence."""
    return u * u.log()


def f_tv(u):
    """Of the total variation."""
    return (u - 1).abs() / 2


def f_gan(u):
    """Of the game's value at the best discriminator, 2 JSD - ln 4."""
    return u * u.log() - (u + 1) * (u + 1).log()


@equation(
    "softened-reverse-kl",
    r"""
    D_{\mathrm{KL}}(p_G \,\|\, p_\text{data})
        - 2\, \mathrm{JSD}(p_\text{data} \,\|\, p_G)
      = 2\, D_{\mathrm{KL}}(m \,\|\, p_\text{data})
    """,
)
def softened_reverse_kl(rng):
    p_data, p_G = torch.rand(2, 4, 6, generator=rng).softmax(-1)
    m = (p_data + p_G) / 2
    yield side(
        kl(p_G, p_data) - 2 * jensen_shannon(p_data, p_G),
        wrong={
            "2 forgotten": kl(p_G, p_data) - jensen_shannon(p_data, p_G),
            "sign": kl(p_G, p_data) + 2 * jensen_shannon(p_data, p_G),
            "direction": kl(p_data, p_G) - 2 * jensen_shannon(p_data, p_G),
        },
    )
    yield side(
        2 * (m * (m / p_data).log()).sum(-1),
        wrong={
            "2 forgotten": (m * (m / p_data).log()).sum(-1),
            "direction": 2 * (p_data * (p_data / m).log()).sum(-1),
            "the drawings for the mixture": 2 * (p_G * (p_G / p_data).log()).sum(-1),
            "the drawings for the data": 2 * (m * (m / p_G).log()).sum(-1),
        },
    )


@equation(
    "f-divergence",
    r"D_f(p \,\|\, q) = \sum_x q(x)\, f\biggl( \frac{p(x)}{q(x)} \biggr)",
)
def f_divergence(rng):
    p, q = random_table(rng, 2, 6)
    yield side(
        torch.stack([kl(p, q), total_variation(p, q), 2 * jensen_shannon(p, q)]),
        wrong={
            "directions": torch.stack(
                [kl(q, p), total_variation(q, p), 2 * jensen_shannon(q, p)]
            ),
            "half of the variation forgotten": torch.stack(
                [kl(p, q), 2 * total_variation(p, q), 2 * jensen_shannon(p, q)]
            ),
            "two of the last forgotten": torch.stack(
                [kl(p, q), total_variation(p, q), jensen_shannon(p, q)]
            ),
        },
    )

    def each(form, constant=LN_4):
        return torch.stack(
            [form(f_kl), form(f_tv), form(lambda u: f_gan(u) + constant)]
        )

    yield side(
        each(lambda f: (q * f(p / q)).sum()),
        wrong={
            "weighted with p": each(lambda f: (p * f(p / q)).sum()),
            "fraction turned round": each(lambda f: (q * f(q / p)).sum()),
            "p and q exchanged": each(lambda f: (p * f(q / p)).sum()),
            "not weighted": each(lambda f: f(p / q).sum()),
            "f of the mean": each(lambda f: f((q * (p / q)).sum())),
            "ln 4 forgotten": each(lambda f: (q * f(p / q)).sum(), constant=0),
        },
    )


def conjugate(f, t):
    """max over u > 0 of t u - f(u) for each t, found by search."""
    (v,) = lowest(lambda v: (f(v.exp()) - t * v.exp()).sum(), torch.zeros_like(t))
    return t * v.exp() - f(v.exp())


@equation(
    "f-divergence-bound",
    r"""
    D_f(p \,\|\, q) \ge \mathbb{E}_{p} \bigl[ T(x) \bigr]
      - \mathbb{E}_{q} \bigl[ f^*\bigl( T(x) \bigr) \bigr]
    """,
)
def f_divergence_bound(rng):
    p, q = random_table(rng, 2, 3, 6)
    best = optimal_logit(p.log(), q.log())[None]
    others = torch.randn(2, 3, 6, generator=rng)  # critics that are not the best
    logits = torch.cat([best, others])
    T_kl, T_gan = (
        torch.cat([1 + best, others]),
        -cross_entropy_real(logits),
    )  # f'(p/q) first

    def rows(first, second):
        """For each critic of each pair: of KL, and of the GAN by its T and by its D."""
        return torch.stack([values.expand(3, 3) for values in (first, second, second)])

    yield side(
        rows(kl(p, q), 2 * jensen_shannon(p, q) - LN_4),
        wrong={
            "direction": rows(kl(q, p), 2 * jensen_shannon(q, p) - LN_4),
            "two forgotten": rows(kl(p, q), jensen_shannon(p, q) - LN_4),
            "sign": rows(-kl(p, q), -2 * jensen_shannon(p, q) - LN_4),
        },
    )

    def bound(f_star, sign=-1):
        values = [
            (p * T).sum(-1) + sign * (q * f_star(f, T)).sum(-1)
            for f, T in ((f_kl, T_kl), (f_gan, T_gan))
        ]
        return torch.stack([*values, game_value(logits, p, q)])

    yield side(
        bound(conjugate),
        error=1e-6,
        wrong={
            "f for its conjugate": bound(lambda f, T: f(T.exp())),
            "conjugate forgotten": bound(lambda f, T: 0 * T),
            "sign of the conjugate": bound(conjugate, sign=1),
            "at u = 1, not the largest": bound(lambda f, T: T - f(torch.ones(()))),
        },
    )


@equation(
    "least-squares-optimum",
    r"""
    \operatorname*{arg\,min}_{a} \Bigl( p_\text{data}(x)\, \tfrac12 (a - 1)^2
      + p_G(x)\, \tfrac12 a^2 \Bigr) = \frac{p_\text{data}(x)}{p_\text{data}(x)
          + p_G(x)}
    """,
)
def least_squares_optimum(rng):
    p, q = random_table(rng, 2, 6)

    def best(real=least_squares.real, fake=least_squares.fake):
        return lowest(lambda a: (p * real(a) + q * fake(a)).sum(), torch.zeros(6))[0]

    yield side(
        best(),
        error=1e-6,
        wrong={
            "targets exchanged": best(least_squares.fake, least_squares.real),
            "targets 1 and -1": best(fake=lambda a: (a + 1).square() / 2),
            "half once": best(fake=lambda a: a.square()),
            "cross-entropy": best(saturating.real, saturating.fake),
        },
    )
    yield side(
        p / (p + q),
        wrong={
            "the other's share": q / (p + q),
            "targets 1 and -1": (p - q) / (p + q),
            "ratio": p / q,
            "logarithm of the ratio": (p / q).log(),
            "sum elsewhere": p / p + q,
        },
    )


@equation(
    "hinge-optimum",
    r"""
    \begin{aligned}
    &\sum_x \min_a \Bigl( p_\text{data}(x) \max(0, 1 - a)
      + p_G(x) \max(0, 1 + a) \Bigr) \\
    &\quad = 2 - 2\, \mathrm{TV}(p_\text{data}, p_G)
    \end{aligned}
    """,
)
def hinge_optimum(rng):
    p, q = random_table(rng, 2, 6)
    a = torch.linspace(-3, 3, 25)[:, None]  # where the lines bend among them
    paid = p * hinge.real(a) + q * hinge.fake(a)
    best = optimal_logit(p.log(), q.log()).sign()
    at_best = (p * hinge.real(best) + q * hinge.fake(best)).sum()
    yield side(
        torch.stack([paid.amin(0).sum(), at_best]),
        wrong={
            "one a for all x": both(paid.sum(1).min()),
            "least x alone": both(paid.min()),
            "mean over x": both(paid.amin(0).mean()),
            "no margin": both((p * (-a).relu() + q * a.relu()).amin(0).sum()),
            "fake to pass for real": both(((p + q) * hinge.real(a)).amin(0).sum()),
            "real and fake exchanged": both(
                (p * hinge.fake(best) + q * hinge.real(best)).sum()
            ),
        },
    )
    distance = total_variation(p, q)
    yield side(
        both(2 - 2 * distance),
        wrong={
            "two forgotten": both(2 - distance),
            "halved": both(1 - distance),
            "distance itself": both(2 * distance),
            "sign": both(2 + 2 * distance),
            "Jensen-Shannon": both(2 - 2 * jensen_shannon(p, q)),
        },
    )


def steepest_critic(p, q, distance):
    """The best f(x) - f(y) <= distance(x, y) for telling p from q, by linear programming."""
    n = len(p)
    x, y = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    differences = torch.eye(n)[x] - torch.eye(n)[y]
    found = linprog(
        (q - p).numpy(),
        A_ub=differences.numpy(),
        b_ub=distance.flatten().numpy(),
        bounds=[(0, 0)]
        + [(None, None)] * (n - 1),  # a constant added to f changes nothing
    )
    return torch.from_numpy(found.x)


@equation(
    "wasserstein-dual",
    r"""
    W_1(p_\text{data}, p_G) = \max_{\lVert f \rVert_L \le 1} \Bigl(
      \mathbb{E}_{p_\text{data}} \bigl[ f(x) \bigr]
          - \mathbb{E}_{p_G} \bigl[ f(x) \bigr] \Bigr)
    """,
)
def wasserstein_dual(rng):
    p, q = random_table(rng, 2, 6)
    places = torch.randperm(20, generator=rng)[:6].sort().values.double()
    distance = (places[:, None] - places).abs()
    a = 0.5 + torch.rand((), generator=rng)
    normals = tabulate(Normal(-a, 1.0), LINE), tabulate(Normal(a, 1.0), LINE)
    by_quantiles = wasserstein1(p, q, places), wasserstein1(*normals, LINE)
    yield side(
        torch.stack(by_quantiles),
        wrong={
            "places forgotten": torch.stack([wasserstein1(p, q, torch.arange(6.0)), a])
        },
    )

    def value(f, g=-LINE):  # g, of slope -1, is the best for the normals
        of_tables = [p @ wasserstein.real(f) + q @ wasserstein.fake(f)]
        of_normals = [
            normals[0] @ wasserstein.real(g) + normals[1] @ wasserstein.fake(g)
        ]
        return -torch.stack(of_tables + of_normals)

    f = steepest_critic(p, q, distance)
    yield side(
        value(f),
        error=1e-6,
        wrong={
            "slopes up to two": value(steepest_critic(p, q, 2 * distance)),
            "bounded, not steep": value(
                steepest_critic(p, q, 2 * (distance > 0).double())
            ),
            "slope one throughout": value(places),
            "sign": -value(f),
            "sum of the means": torch.stack([(p + q) @ f, 2 * a]),
            "a for 2 a": value(f, -LINE / 2),
            "real and fake exchanged": value(f, LINE),
        },
    )


@equation(
    "gradient-penalty",
    r"""
    L_\text{GP}
      = \mathbb{E} \Bigl[ \bigl( \lVert \nabla f(\tilde x) \rVert - 1 \bigr)^2 \Bigr]
    """,
)
def slope_penalty(rng):
    B, D, n = 6, 3, 20_000
    S, b = torch.randn(D, D, generator=rng), torch.randn(D, generator=rng)
    real, fake = torch.randn(2, B, D, generator=rng)
    S = S + S.T
    typical = (real @ S + b).norm(dim=1).mean()
    S, b = S / typical, b / typical  # some slopes are below 1, and some above

    def f(x):  # its gradient is S x + b
        return ((x @ S) * x).sum(-1) / 2 + x @ b

    def gradient(u):
        """At the points between each pair, where u says."""
        return ((1 - u) * real + u * fake) @ S + b

    u = torch.linspace(0, 1, 2001)[:, None, None]
    lengths = gradient(u).norm(dim=-1)
    penalties = (lengths - 1) ** 2

    def average(values):
        return trapezoid(values, dx=1 / 2000, dim=0).mean()

    exact = average(penalties)
    yield side(
        gradient_penalty(f, real.repeat(n, 1), fake.repeat(n, 1)),
        se=(penalties.var(0).mean() / (n * B)).sqrt(),
        wrong={"at real examples": gradient_penalty(f, real, real)},
    )
    for_each_entry = gradient(torch.rand(n, B, D, generator=rng)).norm(dim=-1)
    yield side(
        exact,
        wrong={
            "1 not subtracted": average(lengths**2),
            "square forgotten": average(lengths - 1),
            "absolute value for square": average((lengths - 1).abs()),
            "slopes above 1 alone": average((lengths - 1).relu() ** 2),
            "squared length": average((lengths**2 - 1) ** 2),
            "length of the sum over the batch": average(
                (gradient(u).sum(1).norm(dim=-1) - 1) ** 2
            ),
            "mean length": (average(lengths) - 1) ** 2,
            "at real examples": penalties[0].mean(),
            "at fake examples": penalties[-1].mean(),
            "half-way": penalties[1000].mean(),
            "one u for each entry": (for_each_entry - 1).square().mean(),
            "half": exact / 2,
            "sum over the batch": B * exact,
        },
    )


@equation(
    "r-one",
    r"""
    L_{R_1}
      = \tfrac12\, \mathbb{E}_{p_\text{data}} \bigl[ \lVert \nabla a(x) \rVert^2 \bigr]
    """,
)
def r_one(rng):
    B, D = 7, 3
    f = mlp(D, 5, 1)
    for parameter in f.requires_grad_(False).parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=rng))
    real, fake = torch.randn(2, B, D, generator=rng)
    yield side(
        r1(lambda x: f(x)[:, 0], real),
        wrong={"at fake examples": r1(lambda x: f(x)[:, 0], fake)},
    )
    h = 1e-5 * torch.eye(D)
    gradients = (f(real[:, None] + h) - f(real[:, None] - h))[
        ..., 0
    ] / 2e-5  # of each example
    squares = gradients.square().sum(1)
    yield side(
        squares.mean() / 2,
        error=1e-6,
        wrong={
            "half missing": squares.mean(),
            "length not squared": squares.sqrt().mean() / 2,
            "square of the mean length": squares.sqrt().mean() ** 2 / 2,
            "length of the mean": gradients.mean(0).square().sum() / 2,
            "distance from 1": (squares.sqrt() - 1).square().mean() / 2,
            "sum over the batch": squares.sum() / 2,
            "mean over the entries": squares.mean() / (2 * D),
        },
    )


# --- near the balance -----------------------------------------------------------------


@equation(
    "local-game",
    r"V(\theta, w) \approx -\ln 4 - \tfrac12\, w\, \theta - \tfrac14\, s^2 w^2",
)
def local_game(rng):
    s = 0.7 + 0.6 * torch.rand((), generator=rng)
    direction = 0.4 + 0.6 * torch.rand(2, generator=rng)
    nearer = torch.tensor([0.2, 0.1, 0.05])  # the error falls sixteenfold at each
    theta, w = direction[:, None] * nearer
    data = tabulate(Normal(0.0, s), LINE)
    values = [
        game_value(b * LINE, data, tabulate(Normal(a, s), LINE))
        for a, b in zip(theta, w, strict=True)
    ]
    # Left out are (w theta)^2 / 8 and, since the fourth derivative of ln sigma is never
    # beyond 1/8,
    # at most u^4 / 192 for each u = w x.
    fourth = 3 * s**4 + (3 * s**4 + 6 * s**2 * theta**2 + theta**4)
    yield side(
        torch.stack(values),
        error=(w * theta) ** 2 / 8 + w**4 * fourth / 192,
        wrong={
            "sign": -torch.stack(values),
            "from the balance": torch.stack(values) + LN_4,
        },
    )

    def formula(constant=LN_4, mixed=1 / 2, damping=1 / 4, s=s):
        return -constant - mixed * w * theta - damping * s**2 * w**2

    yield side(
        formula(),
        wrong={
            "sign of the mixed term": formula(mixed=-1 / 2),
            "half missing": formula(mixed=1),
            "mixed term forgotten": formula(mixed=0),
            "half for a quarter": formula(damping=1 / 2),
            "an eighth for a quarter": formula(damping=1 / 8),
            "no damping": formula(damping=0),
            "sign of the damping": formula(damping=-1 / 4),
            "variance forgotten": formula(s=1),
            "s not squared": formula(s=s.sqrt()),
            "ln 2 for ln 4": formula(constant=LN_2),
        },
    )


@equation(
    "local-steps",
    r"""
    \begin{aligned}
    \dot\theta &= -\frac{\partial V}{\partial \theta} = \tfrac12\, w \\
    \dot w &= \frac{\partial V}{\partial w} = -\tfrac12\, \theta - \tfrac12\, s^2 w
    \end{aligned}
    """,
)
def local_steps(rng):
    n, rate, h = 4, 0.01, 1e-3
    s = 0.5 + torch.rand(n, generator=rng)
    theta, w = torch.randn(2, n, generator=rng)

    def V(theta, w):
        return -LN_4 - w * theta / 2 - s**2 * w**2 / 4

    path = orbit(
        lambda *at: V(*at).sum(), theta, w, step=simultaneous, rate=rate, steps=1
    )
    v_theta, v_w = ((path[1] - path[0]) / rate).split(n)
    by_theta = (V(theta + h, w) - V(theta - h, w)) / (2 * h)  # exact for squares
    by_w = (V(theta, w + h) - V(theta, w - h)) / (2 * h)
    yield side(v_theta, wrong={"uphill": -v_theta, "a whole step": rate * v_theta})
    yield side(
        -by_theta,
        error=1e-9,
        wrong={"uphill": by_theta, "derivative by w": -by_w},
    )
    yield side(
        w / 2,
        wrong={"sign": -w / 2, "half missing": w, "theta for w": theta / 2},
    )
    yield side(v_w, wrong={"downhill": -v_w, "a whole step": rate * v_w})
    yield side(
        by_w, error=1e-9, wrong={"downhill": -by_w, "derivative by theta": by_theta}
    )
    damping = s**2 * w / 2
    yield side(
        -theta / 2 - damping,
        wrong={
            "no damping": -theta / 2,
            "sign of the damping": -theta / 2 + damping,
            "quarter for half": -theta / 2 - damping / 2,
            "sign of theta": theta / 2 - damping,
            "half missing": -theta - damping,
            "s not squared": -theta / 2 - s * w / 2,
        },
    )


# --- several at a time ----------------------------------------------------------------


@equation(
    "packed-value",
    r"""
    V_m(G, D^*)
      = 2\, \mathrm{JSD}\bigl( p_\text{data}^{m} \,\|\, p_G^{m} \bigr) - \ln 4
    """,
)
def packed_value(rng):
    n, sizes = 3, (1, 2, 3)
    p, q = random_table(rng, 2, n)
    logits = optimal_logit(p.log(), q.log())

    def packs(m):
        return torch.cartesian_prod(*[torch.arange(n)] * m).reshape(-1, m)

    def table(p, m):
        return p[packs(m)].prod(1)

    def value(m, D=lambda x: logits[x].sum(1)):  # sees m examples: their logits add up
        return game_value(
            Packed(D, m)(packs(m).reshape(-1, 1)), table(p, m), table(q, m)
        )

    yield side(
        torch.stack([value(m) for m in sizes]),
        wrong={
            "sees the first alone": torch.stack(
                [value(m, lambda x: logits[x[:, 0]]) for m in sizes]
            ),
            "mean of the logits": torch.stack(
                [value(m, lambda x: logits[x].mean(1)) for m in sizes]
            ),
            "one at a time": both(value(1))[:1].expand(3),
        },
    )

    def divergence(m):
        return jensen_shannon(*product(m))

    def product(m):
        """The tables of m independent examples, entry by entry."""
        return [
            torch.tensor(
                [math.prod(pack) for pack in itertools.product(t.tolist(), repeat=m)]
            )
            for t in (p, q)
        ]

    jsd, m = torch.stack([divergence(m) for m in sizes]), torch.tensor(sizes)
    yield side(
        2 * jsd - LN_4,
        wrong={
            "of one example": (2 * jsd[0] - LN_4).expand(3),
            "m times that of one": 2 * m * jsd[0] - LN_4,
            "m times the value of one": m * (2 * jsd[0] - LN_4),
            "two forgotten": jsd - LN_4,
            "ln 2 for ln 4": 2 * jsd - LN_2,
            "ln 4 for each": 2 * jsd - m * LN_4,
            "sign of ln 4": 2 * jsd + LN_4,
        },
    )


# --- scores of samples ----------------------------------------------------------------


@equation(
    "parzen",
    r"""
    \ln \hat p(x) = \ln \frac1M \sum_{m=1}^{M}
      \mathcal{N}\bigl( x;\, x^{(m)}, h^2 I \bigr)
    """,
)
def parzen(rng):
    M, N, D = 9, 4, 3
    samples, x = torch.randn(M, D, generator=rng), torch.randn(N, D, generator=rng)
    h = (0.3 + 0.5 * torch.rand((), generator=rng)).item()

    def score(samples, x):  # of each example by itself
        return torch.tensor(
            [parzen_log_likelihood(samples, one[None], h).mean for one in x]
        )

    yield side(
        score(samples, x), wrong={"of every other sample": score(samples[::2], x)}
    )

    def windows(h):
        return Independent(Normal(samples, h), 1)

    mixture = MixtureSameFamily(Categorical(torch.ones(M)), windows(h))
    each = windows(h).log_prob(x[:, None])
    yield side(
        mixture.log_prob(x),
        wrong={
            "sum for mean": each.logsumexp(1),
            "mean of the logarithms": each.mean(1),
            "no logarithm": each.exp().mean(1),
            "nearest sample alone": each.amax(1) - math.log(M),
            "h for its square": windows(h**0.5).log_prob(x[:, None]).logsumexp(1)
            - math.log(M),
            "normalised as on a line": mixture.log_prob(x)
            + (D - 1) * math.log(h * math.sqrt(2 * math.pi)),
            "one normal for all samples": Independent(
                Normal(samples.mean(0), samples.std(0)), 1
            ).log_prob(x),
        },
    )


@equation(
    "frechet",
    r"""
    d^2 = \lVert \mu_1 - \mu_2 \rVert^2
      + \operatorname{tr} \bigl( \Sigma_1 + \Sigma_2
          - 2\, (\Sigma_1 \Sigma_2)^{1/2} \bigr)
    """,
)
def frechet(rng):
    N, M, D = 12, 9, 3

    def features(n):
        return torch.randn(n, D, generator=rng) @ torch.randn(
            D, D, generator=rng
        ) + torch.randn(D, generator=rng)

    a, b = features(N), features(M)
    d2 = frechet_distance(a, b).squared
    yield side(d2, wrong={"not squared": d2**0.5})

    def root(S):
        return torch.as_tensor(sqrtm(S.numpy()).real)

    mean = (a.mean(0) - b.mean(0)).square().sum()
    S, T = a.T.cov(), b.T.cov()
    S_1, T_1 = S * (N - 1) / N, T * (M - 1) / M  # divided by the sizes themselves
    traces, mixed = S.trace() + T.trace(), root(S @ T).trace()
    yield side(
        mean + traces - 2 * mixed,
        error=1e-8,
        wrong={
            "distance not squared": mean.sqrt() + traces - 2 * mixed,
            "means forgotten": traces - 2 * mixed,
            "means alone": mean,
            "two forgotten": mean + traces - mixed,
            "sign of the root": mean + traces + 2 * mixed,
            "root forgotten": mean + traces - 2 * (S @ T).trace(),
            "root of each entry": mean
            + traces
            - 2 * (S @ T).diagonal().abs().sqrt().sum(),
            "root of each covariance": mean + traces - 2 * (root(S) @ root(T)).trace(),
            "root of the trace": mean + traces - 2 * (S @ T).trace().sqrt(),
            "diagonals alone": mean
            + traces
            - 2 * (S.diagonal() * T.diagonal()).sqrt().sum(),
            "divided by N": mean
            + S_1.trace()
            + T_1.trace()
            - 2 * root(S_1 @ T_1).trace(),
        },
    )


@equation(
    "precision",
    r"""
    \text{precision} = \frac1M \sum_{m=1}^{M} \mathbf{1} \Bigl[\, \min_n \bigl(
      \lVert \tilde x^{(m)} - x^{(n)} \rVert - r_n \bigr) \le 0 \,\Bigr]
    """,
)
def precision(rng):
    N, M, K = 40, 50, (1, 2, 3)
    real, fake = (
        torch.randn(N, 2, generator=rng),
        0.5 + 1.4 * torch.randn(M, 2, generator=rng),
    )
    scores = [precision_recall(real, fake, k) for k in K]
    yield side(
        torch.tensor([score.precision for score in scores]),
        wrong={"recall": torch.tensor([score.recall for score in scores])},
    )

    def radii(points, k):
        """How far each point is from its k-th nearest other one."""
        others = [torch.cat([points[:n], points[n + 1 :]]) for n in range(len(points))]
        pairs = zip(points, others, strict=True)
        return torch.stack(
            [(x - rest).norm(dim=1).sort().values[k - 1] for x, rest in pairs]
        )

    def share(examples, centres, r, choose=torch.amin):
        """The share of the examples inside, for each k."""
        distances = (examples[:, None] - centres).norm(dim=2)
        return torch.stack(
            [(choose(distances - r(k), 1) <= 0).double().mean() for k in K]
        )

    right = share(fake, real, lambda k: radii(real, k))
    yield side(
        right,
        wrong={
            "real and fake exchanged": share(real, fake, lambda k: radii(fake, k)),
            "one neighbour more": share(fake, real, lambda k: radii(real, k + 1)),
            "radii of the fakes": share(fake, real, lambda k: radii(fake, k)[:, None]),
            "one radius for all": share(fake, real, lambda k: radii(real, k).mean()),
            "in every ball": share(fake, real, lambda k: radii(real, k), torch.amax),
            "sum for mean": M * right,
            "the share outside": 1 - right,
        },
    )
