"""What the two players of a generative adversarial network pay, as functions of logits.

The discriminator puts out a logit a for each example, and D(x) = sigmoid(a). Each function takes
logits of any shape and size and returns a loss for each of them, to be minimised. Least squares,
hinge and Wasserstein losses take a as it is, a score that need not be a logit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from companion.nn import at_least_float32

# --- for each example ----------------------------------------------------------------------------


def cross_entropy_real(a: Tensor) -> Tensor:
    r"""A real example, or one that should pass for real, by the cross-entropy.

    .. math:: -\ln D(x) = -\ln \sigma(a)
    """
    return -logsigmoid(a)


def cross_entropy_fake(a: Tensor) -> Tensor:
    r"""A fake example by the cross-entropy.

    .. math:: -\ln\bigl(1 - D(x)\bigr) = -\ln \sigma(-a)
    """
    return -logsigmoid(-a)


def minimax_generator(a: Tensor) -> Tensor:
    r"""What the discriminator wins, for the generator: flat if found out, Eq. (saturating-slope).

    .. math:: \ln\bigl(1 - D(x)\bigr) = \ln \sigma(-a)
    """
    return logsigmoid(-a)


def least_squares_real(a: Tensor) -> Tensor:
    r"""A real example, or one that should pass for real: its score should be 1.

    .. math:: \tfrac12 (a - 1)^2
    """
    return (a - 1).square() / 2


def least_squares_fake(a: Tensor) -> Tensor:
    r"""A fake example: its score should be 0.

    .. math:: \tfrac12 a^2
    """
    return a.square() / 2


def hinge_real(a: Tensor) -> Tensor:
    r"""A real example: its score should be 1 or more.

    .. math:: \max(0,\ 1 - a)
    """
    return relu(1 - a)


def hinge_fake(a: Tensor) -> Tensor:
    r"""A fake example: its score should be -1 or less.

    .. math:: \max(0,\ 1 + a)
    """
    return relu(1 + a)


def wasserstein_real(a: Tensor) -> Tensor:
    r"""A real example, or one that should pass for real: the higher its score, the better.

    .. math:: -a
    """
    return -a


def wasserstein_fake(a: Tensor) -> Tensor:
    r"""A fake example: the lower its score, the better.

    .. math:: a
    """
    return a


# --- for both players ----------------------------------------------------------------------------


class GameLoss(NamedTuple):
    """What the players of a game pay for an example, three functions of its logit.

    They are ``real`` and ``fake``, what the discriminator pays for a real and for a fake
    example; ``generator``, what the generator pays for a fake one.
    """

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]

    def L_D(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The discriminator's loss, two means added; the batches may differ in size, ``()``.

        Make the fake examples without a gradient, or detach them: the generator has no
        part in it.
        """
        real = self.real(at_least_float32(real_logits)).mean()
        fake = self.fake(at_least_float32(fake_logits)).mean()
        return real + fake

    def L_G(self, fake_logits: Tensor) -> Tensor:
        """The generator's loss, a mean, ``()``."""
        return self.generator(at_least_float32(fake_logits)).mean()


#: The minimax game of Goodfellow et al. (2014). L_D is -V(G, D), and L_G the part of V(G, D) that
#: the generator can change.
saturating = GameLoss(cross_entropy_real, cross_entropy_fake, minimax_generator)

#: The same discriminator, and a generator that learns most from what is found out, also of
#: Goodfellow et al. (2014).
non_saturating = GameLoss(cross_entropy_real, cross_entropy_fake, cross_entropy_real)

#: LSGAN, with targets 1 for real and 0 for fake (Mao et al., 2017).
least_squares = GameLoss(least_squares_real, least_squares_fake, least_squares_real)

#: A discriminator that asks for a margin and no more (Lim & Ye, 2017).
hinge = GameLoss(hinge_real, hinge_fake, wasserstein_real)

#: WGAN, for a discriminator whose slope is kept in bounds (Arjovsky, Chintala & Bottou, 2017).
wasserstein = GameLoss(wasserstein_real, wasserstein_fake, wasserstein_real)


# --- for a smooth discriminator ------------------------------------------------------------------


def gradient_penalty(D: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    r"""How far the slope of D is from 1, between real and fake, Eq. (gradient-penalty).

    .. math:: \mathbb{E}\Bigl[\bigl(\lVert \nabla_x a(x) \rVert - 1\bigr)^2\Bigr], \qquad
        x = (1 - u)\, x_\text{real} + u\, x_\text{fake}, \quad
        u \sim \mathrm{Uniform}(0, 1)

    It is differentiable in the weights of D, and never reaches the generator's. D must
    treat each example by itself: no batch normalisation.

    Args:    D: ``(B, *event) -> (B,)``, logits; real, fake: the pairs, ``(B, *event)``.
    Returns: shape ``()``, to be added to L_D with a factor, which is 10 in the source.
    Raises:  ValueError if the shapes differ.
    Source:  Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville (2017), Eq. 3.
    """
    if real.shape != fake.shape:
        shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"real and fake must have the same shape, got {shapes}")
    shape = len(real), *[1] * (real.dim() - 1)
    u = torch.rand(shape, dtype=real.dtype, device=real.device)
    slopes = input_gradients(D, (1 - u) * real + u * fake).norm(dim=1)
    return (slopes - 1).square().mean()


def r1(D: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    r"""Half the mean squared slope of D at real examples, Eq. (r-one).

    .. math::
        \tfrac12\, \mathbb{E}_{p_\text{data}}\bigl[\lVert \nabla_x a(x) \rVert^2\bigr]

    It is differentiable in the weights of D, which must treat each example by itself.

    Args:    D: ``(B, *event) -> (B,)``, logits; real: ``(B, *event)``.
    Returns: shape ``()``, to be added to L_D with a factor, which is 10 in the source.
    Source:  Mescheder, Geiger & Nowozin (2018), Eq. 9.
    """
    return input_gradients(D, real).square().sum(1).mean() / 2


def input_gradients(D: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of each example's logit by the example, ``(B, *event) -> (B, n)``."""
    x = x.detach().requires_grad_()
    # Of the sum, since no logit depends on another's example.
    # The graph is kept for the weights.
    (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return at_least_float32(gradient).flatten(1)
