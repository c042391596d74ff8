"""Zero-sum games of two players in which everything is known: one pays what the other wins."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# --- on a matrix ---------------------------------------------------------------------------------


class MatrixGame(NamedTuple):
    """The solution of a game: its value, and how often each player should choose what.

    It holds ``value``, shape ``()``; ``x``, the probabilities of the rows, and ``y``, those of
    the columns, ``(2,)`` each.
    """

    value: Tensor
    x: Tensor
    y: Tensor


def matrix_game(A: Tensor) -> MatrixGame:
    r"""Solve a game of two choices each: x picks a row, y a column; x pays y the entry.

    Its value is both sides of Eq. (minimax-theorem):

    .. math:: \min_x \max_y x^\top A\, y = \max_y \min_x x^\top A\, y

    Where an entry is the largest of its row and the smallest of its column, neither
    player gains by leaving it. Where there is none, each player mixes in the way that
    makes the other's two choices equally good.

    Args:   A: what x pays, shape ``(2, 2)``.
    Raises: ValueError for another shape, or an entry that is not finite.
    Source: von Neumann (1928).
    """
    if A.shape != (2, 2) or not A.isfinite().all():
        raise ValueError(f"a game is a matrix of numbers, two by two, not {A}")
    if not A.is_floating_point():
        A = A.to(torch.get_default_dtype())
    worst, best = A.amax(1), A.amin(0)  # for each row, and for each column
    if worst.min() == best.max():
        return MatrixGame(worst.min(), _pure(worst.argmin(), A), _pure(best.argmax(), A))
    (a, b), (c, d) = A
    total = a - b - c + d
    x, y = torch.stack([d - c, a - b]) / total, torch.stack([d - b, a - c]) / total
    return MatrixGame(x @ A @ y, x, y)


def _pure(choice: Tensor, A: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(choice, 2).to(A.dtype)


# --- by gradients --------------------------------------------------------------------------------

Players = tuple[Tensor, Tensor]
Gradients = Callable[[Tensor, Tensor], Players]


def simultaneous(gradients: Gradients, x: Tensor, y: Tensor, rate: float) -> Players:
    """One step of both players, against where the other is, Eq. (simultaneous-steps)."""
    g_x, g_y = gradients(x, y)
    return x - rate * g_x, y + rate * g_y


def alternating(gradients: Gradients, x: Tensor, y: Tensor, rate: float) -> Players:
    """One step of x, then one of y, who sees where x has gone."""
    g_x, _ = gradients(x, y)
    x = x - rate * g_x
    _, g_y = gradients(x, y)
    return x, y + rate * g_y


def extragradient(gradients: Gradients, x: Tensor, y: Tensor, rate: float) -> Players:
    """One step of both players by the gradients that they would find after it.

    Source: Korpelevich (1976).
    """
    g_x, g_y = gradients(*simultaneous(gradients, x, y, rate))
    return x - rate * g_x, y + rate * g_y


def orbit(
    V: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    step: Callable[..., Players] = simultaneous,
    rate: float = 0.1,
    steps: int = 100,
) -> Tensor:
    """Play a game by gradient steps: x goes down V(x, y), and y goes up.

    Args:
        V:    what x pays and y wins, ``(n,), (m,) -> ()``, differentiable.
        x, y: where the players start, shapes ``(n,)`` and ``(m,)``, or ``()`` for a number.
        step: `simultaneous`, `alternating` or `extragradient`.
        rate: length of a step, in units of the gradient.

    Returns: where they were, start and end included, ``(steps + 1, n + m)``, x before y.
    """

    def gradients(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        return torch.autograd.grad(V(x, y), (x, y), materialize_grads=True)

    path = [(x.detach(), y.detach())]
    for _ in range(steps):
        path.append(step(gradients, *path[-1], rate))
    return torch.stack([torch.cat([x.reshape(-1), y.reshape(-1)]) for x, y in path])


def averages(path: Tensor) -> Tensor:
    """The mean of all points of a path up to each of them, same shape ``(steps + 1, n)``."""
    count = torch.arange(1, len(path) + 1, dtype=path.dtype, device=path.device)
    return path.cumsum(0) / count[:, None]
