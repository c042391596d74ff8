"""Generative adversarial networks: small games, losses, the best answer, training."""

from companion.gan.games import (
    MatrixGame,
    alternating,
    averages,
    extragradient,
    matrix_game,
    orbit,
    simultaneous,
)
from companion.gan.losses import (
    GameLoss,
    gradient_penalty,
    hinge,
    least_squares,
    non_saturating,
    r1,
    saturating,
    wasserstein,
)
from companion.gan.optimal import game_value, optimal_logit
from companion.gan.training import GAN, Packed, fit_gan

__all__ = [  # noqa: RUF022 - the order of reading, and of the API reference
    "matrix_game",
    "MatrixGame",
    "orbit",
    "simultaneous",
    "alternating",
    "extragradient",
    "averages",
    "optimal_logit",
    "game_value",
    "GameLoss",
    "saturating",
    "non_saturating",
    "least_squares",
    "hinge",
    "wasserstein",
    "gradient_penalty",
    "r1",
    "GAN",
    "Packed",
    "fit_gan",
]
