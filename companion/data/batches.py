"""Mini-batches of a tensor held in memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from companion import require
from companion.data.binarisation import require_grey


class Batches:
    """Mini-batches of a tensor held in memory, each a pure function of seed and step.

    An epoch is a permutation of the examples cut into `len(self)` batches; the N mod `batch_size`
    left over change with the permutation. As no state is kept, a run resumes from its step number
    alone, several processes see the examples and the noise that one would see, and torch's global
    random numbers are neither used nor disturbed. The order of examples is the same on every
    machine, the noise on every CPU.

    Args:
        images: shape (N, *event). Grey uint8 if `dynamic`; otherwise used as they are: zeros and
                ones, or floats of any values.
        batch_size: examples of one step, over all processes.
        dynamic: draw every pixel anew at every visit, 1 with probability grey/255.
        shuffle: permute the examples anew for every epoch.
        seed: 0 to 2³² − 1.

    Raises: ValueError for arguments that do not fit each other.

    >>> b = Batches(torch.arange(6), batch_size=3, shuffle=False)
    >>> b.batch(step=1)
    tensor([3., 4., 5.])
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int = 100,
        *,
        dynamic: bool = False,
        shuffle: bool = True,
        seed: int = 0,
    ):
        if dynamic:
            require_grey(images)
        else:
            require.tensors(images=images)
        if not dynamic and images.dtype == torch.uint8 and (images > 1).any():
            raise ValueError(
                "the images are grey, with values 0 to 255: draw their pixels with dynamic=True or "
                "data.binarize, or divide by 255"
            )
        require.whole(batch_size=batch_size)
        require.whole(0, seed=seed)
        if batch_size > len(images):
            raise ValueError(f"batch_size = {batch_size} is more than all {len(images)} examples")
        if seed >= 2**32:
            raise ValueError(f"seed = {seed} must be 0 to 2**32 - 1")
        self.images = images.contiguous()
        self.batch_size, self.dynamic, self.shuffle, self.seed = batch_size, dynamic, shuffle, seed
        self._epoch, self._order = None, None  # of the latest batch

    def __len__(self) -> int:
        """Return the number of batches in an epoch; all are full."""
        return len(self.images) // self.batch_size

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one example."""
        return self.images.shape[1:]

    def to(self, device: torch.device | str) -> Batches:
        """Return the same batches with the images on a device, as `Tensor.to` does."""
        there = copy.copy(self)
        there.images = self.images.to(device)
        return there

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Return the places in `images` of a step's examples, e.g. to look up their labels.

        Args:    as in `batch`.
        Returns: int64, shape (batch_size // world,), on the device of the images.
        """
        if step < 0:
            raise ValueError(f"step = {step} must not be negative")
        if not 0 <= rank < world:
            raise ValueError(f"rank = {rank} must be 0 to world - 1 = {world - 1}")
        if self.batch_size % world:
            raise ValueError(
                f"batch_size = {self.batch_size} does not divide among {world} processes: "
                f"make it a multiple of {world}"
            )
        epoch, place = divmod(step, len(self))
        share = self.batch_size // world
        start = place * self.batch_size + rank * share
        return self._permutation(epoch)[start : start + share].clone()

    def examples(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Return what `batch` is made of: the images as they are, and no noise."""
        return self.images.index_select(0, self.indices(step, rank, world))

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Return one process's share of the batch of a step.

        Args:
            step: counted from 0 over all epochs.
            rank, world: number of this process and number of processes.

        Returns: float32, shape (batch_size // world, *event), on the device of the images.
        Raises:  ValueError if `world` does not divide `batch_size`, or a number is out of range.
        """
        images = self.examples(step, rank, world)
        if not self.dynamic:
            return images.to(torch.float32)
        noise = self._noise(step).chunk(world)[rank]  # of the whole batch, whatever the world
        pixels = torch.empty(images.shape, device=images.device, dtype=torch.float32)
        return torch.lt(noise, images, out=pixels)

    def epoch(self, number: int) -> Iterator[Tensor]:
        """Yield the batches of an epoch, counted from 0."""
        return (self.batch(number * len(self) + place) for place in range(len(self)))

    def __iter__(self):
        """Refuse: a second loop over all batches would see the order and the noise of the first."""
        raise TypeError("say which epoch: for x in batches.epoch(0), then batches.epoch(1), ...")

    def _permutation(self, epoch: int) -> Tensor:
        if self._order is None or (self.shuffle and self._epoch != epoch):
            order = np.arange(len(self.images))
            if self.shuffle:  # sorted random keys: unlike shuffles, NumPy freezes these for ever
                keys = np.random.SFC64((0, self.seed, epoch)).random_raw(len(order))
                order = keys.argsort()
            self._epoch, self._order = epoch, torch.from_numpy(order)
        if self._order.device != self.images.device:
            self._order = self._order.to(self.images.device)
        return self._order

    def _noise(self, step: int) -> Tensor:
        """Draw uint8 uniform on 0 to 254, for which P(noise < grey) = grey/255."""
        shape, device = (self.batch_size, *self.event_shape), self.images.device
        if device.type == "cpu":
            draws = _below_255(np.random.SFC64((1, self.seed, step)), math.prod(shape))
            return torch.from_numpy(draws).view(shape)
        seed = int(np.random.SeedSequence((1, self.seed, step)).generate_state(1, np.uint64)[0])
        generator = torch.Generator(device).manual_seed(seed)
        return torch.randint(255, shape, dtype=torch.uint8, device=device, generator=generator)


def _below_255(bits: np.random.SFC64, count: int) -> np.ndarray:
    # Random words cut into bytes, and any 255 drawn again: exact, and four times as fast as
    # asking NumPy or torch for integers below 255.
    draws = _bytes(bits, count)
    rejected = np.flatnonzero(draws == 255)
    while len(rejected):
        draws[rejected] = _bytes(bits, len(rejected))
        rejected = rejected[draws[rejected] == 255]
    return draws


def _bytes(bits: np.random.SFC64, count: int) -> np.ndarray:
    words = bits.random_raw(-(-count // 8)).astype("<u8", copy=False)
    return words.view(np.uint8)[:count]
