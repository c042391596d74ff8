"""Generative adversarial networks: small games, losses, the best answer, training.

Their chapter and their checks in tests/equations carry the same name.
"""

from companion.gan.architectures import dcgan
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
    cross_entropy_fake,
    cross_entropy_real,
    gradient_penalty,
    hinge,
    hinge_fake,
    hinge_real,
    least_squares,
    least_squares_fake,
    least_squares_real,
    minimax_generator,
    non_saturating,
    r1,
    saturating,
    wasserstein,
    wasserstein_fake,
    wasserstein_real,
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
    "cross_entropy_real",
    "cross_entropy_fake",
    "minimax_generator",
    "least_squares_real",
    "least_squares_fake",
    "hinge_real",
    "hinge_fake",
    "wasserstein_real",
    "wasserstein_fake",
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
    "dcgan",
]
