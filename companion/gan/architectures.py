"""The networks of a published GAN of images."""

from __future__ import annotations

from torch import nn

from companion.gan.training import GAN


def dcgan(side: int = 28, channels: int = 32, latent: int = 64, colours: int = 1) -> GAN:
    """Convolutions that halve a picture twice for D, and double a small one twice for G.

    They draw and judge images from 0 (white) to 1, ``(B, colours, side, side)``. Both
    players treat each picture by itself: where the source has batch normalisation, G
    normalises groups of eight channels, and D nothing, so that a step of one player
    leaves no trace in the other.

    Args:
        side:     of the pictures, a multiple of four.
        channels: at half the size; there are twice as many at a quarter. A multiple of
                  eight.
        latent:   entries of the noise.
        colours:  planes of a picture; one if it is grey.

    Raises: ValueError if side or channels do not divide.
    Source: Radford, Metz & Chintala (2016): strides and channels of the model of digits
        in their code, with kernels of 4 in place of 5, without its labels and fully
        connected layers.
    """
    if side % 4 or channels % 8:
        raise ValueError(f"side = {side} must divide by 4, channels = {channels} by 8")
    wide, small = 2 * channels, side // 4
    G = nn.Sequential(
        nn.Linear(latent, wide * small * small),
        nn.Unflatten(1, (wide, small, small)),
        nn.GroupNorm(wide // 8, wide),
        nn.ReLU(),
        nn.ConvTranspose2d(wide, channels, 4, stride=2, padding=1),
        nn.GroupNorm(channels // 8, channels),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, colours, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )
    D = nn.Sequential(
        nn.Conv2d(colours, channels, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels, wide, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(wide * small * small, 1),
        nn.Flatten(0),
    )
    return GAN(G, D, latent)
