"""Two networks trained against each other, each by its own loss."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from companion import require
from companion.gan.losses import GameLoss, non_saturating
from companion.nn import draws, frozen
from companion.training import History, Run, adam
from companion.training.checkpoint import in_words
from companion.training.fitting import two_rates

if TYPE_CHECKING:
    from companion.data import Batches


class GAN(nn.Module):
    """A generator that makes examples of noise, and a discriminator that tells them from real ones.

    There is no density: a GAN can draw, and cannot say how probable an example is.

    Args:
        G:      noise z -> x, ``(B, latent) -> (B, *event)``.
        D:      x -> logit of the probability that x is real, ``(B, *event) -> (B,)``.
        latent: entries of z, which is standard normal.

    Source: Goodfellow et al. (2014).
    """

    def __init__(self, G: nn.Module, D: nn.Module, latent: int):
        super().__init__()
        self.G, self.D, self.latent = G, D, latent

    def noise(self, count: int) -> Tensor:
        """Draws of z, ``(count, latent)``."""
        like = next(self.G.parameters())
        return torch.randn(count, self.latent, dtype=like.dtype, device=like.device)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw examples in one pass, ``(*sample_shape, *event)``."""
        x = self.G(self.noise(draws(sample_shape)))
        return x.reshape(*sample_shape, *x.shape[1:])


class Packed(nn.Module):
    """A discriminator of several examples at once, Eq. (packed-value): it sees when they are alike.

    Args:
        D:        a network ``(B, together * features) -> (B,)``.
        together: examples side by side; the batch is a multiple of it.

    Source: Lin, Khetan, Fanti & Oh (2018), PacGAN.
    """

    def __init__(self, D: nn.Module, together: int):
        super().__init__()
        self.D, self.together = D, together

    def forward(self, x: Tensor) -> Tensor:
        """``(B, features) -> (B / together,)``."""
        if len(x) % self.together:
            raise ValueError(f"{len(x)} examples do not go into packs of {self.together}")
        return self.D(x.reshape(len(x) // self.together, -1))


def fit_gan(
    gan: GAN,
    train: Batches,
    *,
    epochs: int,
    loss: GameLoss = non_saturating,
    learning_rate: float | tuple[float, float] = 2e-4,
    betas: tuple[float, float] = (0.5, 0.999),
    discriminator_steps: int = 1,
    penalty: Callable[[Callable, Tensor, Tensor], Tensor] | None = None,
    schedule: str | Callable[[float], float] = "constant",
    watch: Callable[[GAN, int], None] | None = None,
    seed: int = 0,
    path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    precision: str = "no",
    compiled: bool = False,
    log: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> History:
    """Train both players in place, with Adam; after each batch one player's step, then the other's.

    They train on the device, and are left where they were given.

    Args:
        learning_rate: of both, or two: G's, then D's.
        betas:         of Adam; the customary first one, 0.5, forgets faster than the usual 0.9.
        discriminator_steps: how many of D's steps, each on its own batch, come before one of G's.
        penalty:       a term of D's loss, of (D, real, fake), such as ten times `gradient_penalty`;
                       computed in float32, and not compiled, since slopes of slopes need it.
        watch:         called with the players, which are on the device then, and the number of
                       steps done, after each of them.
        schedule, seed, path, device, precision, compiled, log, progress: as in `training.fit`.

    Returns: one row an epoch with the mean losses ``L_D`` and, if G took a step, ``L_G``.
    Raises:  ValueError for settings that make no sense.
    """
    require.batches(train)
    require.whole(0, epochs=epochs)
    require.whole(discriminator_steps=discriminator_steps)
    steps = epochs * len(train)
    if 0 < steps < discriminator_steps:
        raise ValueError(
            f"discriminator_steps must be from 1 to {steps}, the number of all batches, "
            f"or G would never take a step; got {discriminator_steps}"
        )
    rate_G, rate_D = two_rates(learning_rate)
    run = Run(
        steps,
        schedule=schedule,
        seed=seed,
        path=path,
        device=device,
        precision=precision,
        compiled=compiled,
        log=log,
        progress=progress,
        settings={
            "discriminator_steps": discriminator_steps,
            "loss": in_words(loss),
            "penalty": in_words(penalty),
        },
    )
    G, D, opt_G, opt_D = run.prepare(
        G=gan.G,
        D=gan.D,
        opt_G=adam(gan.G.parameters(), rate_G, betas),
        opt_D=adam(gan.D.parameters(), rate_D, betas),
    )
    with contextlib.closing(run.batches(train)) as batches:
        for real in batches:
            with torch.no_grad():  # this step is D's: nothing of it reaches G
                fake = G(gan.noise(len(real)))
            L_D = loss.L_D(D(real), D(fake))
            run.log(L_D=L_D)
            if penalty is not None:
                L_D = L_D + penalty(gan.D, real, fake)
            run.descend(opt_D, L_D)
            if (run.step + 1) % discriminator_steps == 0:
                with frozen(gan.D):  # the step is G's: D passes gradients on, keeps none
                    L_G = loss.L_G(D(G(gan.noise(len(real)))))
                    run.log(L_G=L_G)
                    run.descend(opt_G, L_G)
            if watch is not None:
                watch(gan, run.step + 1)
    gan.eval()
    return run.history
