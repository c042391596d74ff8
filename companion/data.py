"""Real data, binarisation, mini-batches held in memory, and toy distributions.

MNIST travels inside the package. Fashion-MNIST is read from a folder or downloaded once. Every byte
is checked against the SHA-256 of the official files before it is used.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import lzma
import math
import os
import tarfile
import tempfile
import urllib.request
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

__all__ = [
    "SEEDS",
    "Batches",
    "DataError",
    "Dataset",
    "Split",
    "bars_and_stripes",
    "binarize",
    "fashion_mnist",
    "grid_of_gaussians",
    "load",
    "mnist",
    "ring_of_gaussians",
    "swiss_roll",
    "threshold",
    "two_moons",
]

SEEDS = {"train": 0, "validation": 1, "test": 2}
"""Seeds of the book's static draws: `binarize(mnist().test.images, SEEDS["test"])`."""

FILES = {  # name of each official file and its size in bytes, the same in both data sets
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
MNIST = dict(  # SHA-256 of the unpacked official files, in the order of FILES
    zip(
        FILES,
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        strict=True,
    )
)
FASHION_MNIST = dict(
    zip(
        FILES,
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        strict=True,
    )
)
PACKED = "mnist.tar.xz"  # written by tools/pack_mnist.py
PACKED_SIZE = 9_186_648
PACKED_SHA256 = "7bed9a8fe997e16927245a7c7affe4e9497f91e8f3b27da3fa02ead8ded74a7d"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
TIMEOUT = 20.0  # seconds without an answer


class DataError(RuntimeError):
    """Data that are missing, damaged or unknown; the message says what to do."""


class Split(NamedTuple):
    """Grey images, uint8 of shape (N, 28, 28), and labels 0 to 9, int64 of shape (N,)."""

    images: Tensor
    labels: Tensor


class Dataset(NamedTuple):
    """50,000 training, 10,000 validation (the last training images) and 10,000 test examples."""

    train: Split
    validation: Split
    test: Split


# ------------------------------------------------------------------------------- reading


def mnist() -> Dataset:
    """Return MNIST, read from the package.

    The file is read once per process; every call returns tensors of its own.

    Raises: DataError if the packed file is missing or damaged.
    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits.
    """
    return _copy(_mnist())


def fashion_mnist(download: bool = True) -> Dataset:
    """Return Fashion-MNIST, of the same shapes as MNIST.

    It is looked for in the folder that the variable `FASHION_MNIST` names, else in the folder of
    Debian's package `dataset-fashion-mnist`, else in the user's cache
    (`$XDG_CACHE_HOME/generative-models-line-by-line`), which a download of 30 MB fills.

    Args:   download: fetch what the cache lacks; otherwise that is an error.
    Raises: DataError if a file is missing, damaged or out of reach.
    Source: Xiao, Rasul and Vollgraf (2017), arXiv:1708.07747.
    """
    return _copy(_fashion_mnist(download))


def load(name: str) -> Dataset:
    """Return the data set called "mnist" or "fashion-mnist".

    Raises: DataError for any other name, and as `mnist` and `fashion_mnist` do.
    """
    loaders = {"mnist": mnist, "fashion-mnist": fashion_mnist}
    if name not in loaders:
        known = " and ".join(f'"{known}"' for known in loaders)
        raise DataError(f"There is no data set called {name!r}: the names are {known}.")
    return loaders[name]()


def _copy(data: Dataset) -> Dataset:
    # What is cached never leaves, so that no caller can change another's data.
    return Dataset(*(Split(*(tensor.clone() for tensor in split)) for split in data))


@cache
def _mnist() -> Dataset:
    return _dataset(unpack(resources.files(__package__) / "_data" / PACKED))


def unpack(packed) -> dict[str, bytes]:
    """Return the official files inside a packed file, given as a path or resource."""
    remedy = "Reinstall the package, or restore the file with git."
    try:
        content = packed.read_bytes()
    except OSError as error:
        raise DataError(f"{packed} cannot be read ({error.strerror}). {remedy}") from None
    check(packed, content, PACKED_SIZE, PACKED_SHA256, remedy)
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(content))) as archive:
        return {name: archive.extractfile(name).read() for name in FILES}


def check(where, content: bytes, size: int, sha256: str, remedy: str) -> None:
    """Raise DataError unless the content has this size in bytes and this SHA-256."""
    if len(content) < size:
        raise DataError(f"{where} is truncated: {len(content):,} of {size:,} bytes. {remedy}")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{where} is altered: its SHA-256 is not the official one. {remedy}")


def read_official(path: Path, sha256: str, remedy: str) -> bytes:
    """Return the checked content of an official file, stored as it is or with the ending .gz.

    Raises: DataError if it is damaged, OSError if it cannot be read.
    """
    zipped = path.with_name(path.name + ".gz")
    if zipped.exists():
        return unzip(zipped, zipped.read_bytes(), path.name, sha256, remedy)
    content = path.read_bytes()
    check(path, content, FILES[path.name], sha256, remedy)
    return content


def unzip(where, zipped: bytes, name: str, sha256: str, remedy: str) -> bytes:
    """Return the checked content of a gzipped official file."""
    try:
        content = gzip.decompress(zipped)
    except EOFError:
        raise DataError(f"{where} is truncated: its gzip stream has no end. {remedy}") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{where} is altered: no valid gzip ({error}). {remedy}") from None
    check(where, content, FILES[name], sha256, remedy)
    return content


def _idx(content: bytes) -> Tensor:
    # 0, 0, type (8: uint8), number of dimensions; the dimensions, big-endian; the values
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    return torch.from_numpy(values.reshape(shape.astype(int)).copy())


def _dataset(files: dict[str, bytes]) -> Dataset:
    train, test, train_labels, test_labels = (_idx(files[name]) for name in FILES)
    train_labels, test_labels = train_labels.long(), test_labels.long()
    return Dataset(
        Split(train[:50_000], train_labels[:50_000]),
        Split(train[50_000:], train_labels[50_000:]),
        Split(test, test_labels),
    )


@cache
def _fashion_mnist(download: bool) -> Dataset:
    if chosen := os.environ.get("FASHION_MNIST"):
        remedy = "Let the variable FASHION_MNIST name a folder of the four official files."
        return _dataset(_from_folder(Path(chosen), remedy))
    if DEBIAN.is_dir():
        remedy = "Run `apt-get install --reinstall dataset-fashion-mnist`."
        return _dataset(_from_folder(DEBIAN, remedy))
    return _dataset({name: _from_cache(name, download) for name in FASHION_MNIST})


def _from_folder(folder: Path, remedy: str) -> dict[str, bytes]:
    try:
        return {
            name: read_official(folder / name, sha256, remedy)
            for name, sha256 in FASHION_MNIST.items()
        }
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). {remedy}") from None


def _from_cache(name: str, download: bool) -> bytes:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(home, "generative-models-line-by-line", "fashion-mnist", name)
    remedy = "It has to be downloaded again."
    try:
        return read_official(path, FASHION_MNIST[name], remedy)
    except OSError as error:
        found = f"{path}.gz cannot be read ({error.strerror})."
    except DataError as error:
        found = str(error)
        warnings.warn(found, stacklevel=5)
    if not download:
        raise DataError(
            f"{found} Allow the download, run `apt-get install dataset-fashion-mnist`, or let the "
            "variable FASHION_MNIST name a folder of the four official files."
        )
    zipped, content = _download(name)
    try:
        replace(path.with_name(f"{name}.gz"), zipped)
    except OSError as error:
        raise DataError(
            f"{path.parent} cannot be written ({error.strerror}). "
            "Let the variable XDG_CACHE_HOME name another folder."
        ) from None
    return content


def _download(name: str) -> tuple[bytes, bytes]:
    failures = []
    for mirror in MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                zipped = response.read(1 << 25)  # the largest file has 26 MB
            return zipped, unzip(url, zipped, name, FASHION_MNIST[name], "")
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error}.")
        except DataError as error:
            failures.append(str(error).strip())
    raise DataError(
        f"Fashion-MNIST could not be downloaded. {' '.join(failures)} Run `apt-get install "
        "dataset-fashion-mnist`, or let the variable FASHION_MNIST name a folder of the four "
        "official files."
    )


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


# -------------------------------------------------------------------------- binarisation


def _require_grey(images: Tensor) -> None:
    if images.dtype != torch.uint8:
        raise ValueError(
            f"grey images are uint8 with values 0 to 255, these are {images.dtype}: "
            "give the images as the loader returns them"
        )


def threshold(images: Tensor, at: int = 128) -> Tensor:
    """Binarise without chance: a pixel is 1 if and only if its grey is at least `at`.

    Args:    images: grey, uint8, any shape.
             at: 1 to 255.
    Returns: uint8 of zeros and ones, same shape.
    """
    _require_grey(images)
    if not 1 <= at <= 255:
        raise ValueError(f"at = {at} makes all pixels equal: choose 1 to 255")
    return (images >= at).to(torch.uint8)


def binarize(images: Tensor, seed: int) -> Tensor:
    """Draw every pixel once: 1 with probability grey/255, the same on every machine for ever.

    NumPy freezes the stream of `RandomState`: pixel i is 1 if the i-th of its draws, uniform on
    0 to 254, is below the grey.

    Args:    images: grey, uint8, any shape.
             seed: 0 to 2³² − 1; those of the book are in `SEEDS`.
    Returns: uint8 of zeros and ones, same shape and device.
    Source:  Salakhutdinov and Murray (2008), whose draw is the static binarised MNIST.
    """
    _require_grey(images)
    draws = np.random.RandomState(seed).randint(0, 255, tuple(images.shape), dtype=np.uint8)
    return (torch.from_numpy(draws).to(images.device) < images).to(torch.uint8)


# --------------------------------------------------------------------------------- batches


class Batches:
    """Mini-batches of a tensor held in memory, each a pure function of seed and step.

    An epoch is a permutation of the examples cut into `len(self)` batches; the N mod `batch_size`
    left over change with the permutation. As no state is kept, a run resumes from its step number
    alone, several processes see the examples and the noise that one would see, and torch's global
    random numbers are neither used nor disturbed. The order of examples is the same on every
    machine, the noise on every CPU.

    Args:
        images: shape (N, *event). Grey uint8 if `dynamic`; otherwise any values, used as they are.
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
            _require_grey(images)
        if not 1 <= batch_size <= len(images):
            raise ValueError(f"batch_size = {batch_size} must be 1 to {len(images)}, all examples")
        if not 0 <= seed < 2**32:
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
        """Move the images to a device, in place as `Module.to` does, and return self."""
        self.images = self.images.to(device)
        return self

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Return the places in `images` of a step's examples, e.g. to look up their labels.

        Args:    as of `batch`.
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
        return self._permutation(epoch)[start : start + share]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Return one process's share of the batch of a step.

        Args:
            step: counted from 0 over all epochs.
            rank, world: number of this process and number of processes.

        Returns: float32, shape (batch_size // world, *event), on the device of the images.
        Raises:  ValueError if `world` does not divide `batch_size`, or a number is out of range.
        """
        images = self.images.index_select(0, self.indices(step, rank, world))
        if not self.dynamic:
            return images.to(torch.float32)
        noise = self._noise(step).chunk(world)[rank]  # of the whole batch, whatever the world
        pixels = torch.empty(images.shape, device=images.device, dtype=torch.float32)
        return torch.lt(noise, images, out=pixels)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of the first epoch."""
        return (self.batch(step) for step in range(len(self)))

    def _permutation(self, epoch: int) -> Tensor:
        if self._order is None or (self.shuffle and self._epoch != epoch):
            order = np.arange(len(self.images))
            if self.shuffle:  # sorted random keys: unlike shuffles, NumPy freezes these for ever
                order = _bits(0, self.seed, epoch).random_raw(len(order)).argsort(kind="stable")
            self._epoch, self._order = epoch, torch.from_numpy(order)
        if self._order.device != self.images.device:
            self._order = self._order.to(self.images.device)
        return self._order

    def _noise(self, step: int) -> Tensor:
        """Draw uint8 uniform on 0 to 254, for which P(noise < grey) = grey/255."""
        shape, device = (self.batch_size, *self.event_shape), self.images.device
        if device.type == "cpu":
            draws = _below_255(_bits(1, self.seed, step), math.prod(shape))
            return torch.from_numpy(draws).view(shape)
        seed = int(_seeds(1, self.seed, step).generate_state(1, np.uint64)[0])
        generator = torch.Generator(device).manual_seed(seed)
        return torch.randint(255, shape, dtype=torch.uint8, device=device, generator=generator)


def _seeds(*words: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(words)


def _bits(*words: int) -> np.random.SFC64:
    return np.random.SFC64(_seeds(*words))


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


# ------------------------------------------------------------------------ toy distributions


def bars_and_stripes(side: int = 4) -> Tensor:
    """Return all images whose rows, or whose columns, are each of one value.

    Under the uniform distribution on them the best mean log-likelihood is −log of their number,
    for side 4 −log 30 = −3.4012 nats.

    Args:    side: rows and columns of an image.
    Returns: uint8 of zeros and ones, shape (2^(side + 1) − 2, side²), rows first, sorted.
    Source:  Hinton and Sejnowski (1986); MacKay (2003), Ch. 43.
    """
    values = (torch.arange(2**side)[:, None] >> torch.arange(side)) & 1  # (2^side, side)
    rows, columns = values.repeat_interleave(side, dim=1), values.repeat(1, side)
    return torch.cat([rows, columns]).unique(dim=0).to(torch.uint8)


def ring_of_gaussians(modes: int = 8, radius: float = 1.0, std: float = 0.01) -> MixtureSameFamily:
    """Return the uniform mixture of normals whose means divide a circle evenly.

    Args:    modes: number of components.
             radius: of the circle round the origin.
             std: standard deviation of every component in both directions.
    Returns: distribution over events of shape (2,), with exact `log_prob` in nats.
    Source:  Srivastava et al. (2017), VEEGAN, the 2D ring.
    """
    angles = torch.arange(modes) * (2 * math.pi / modes)  # 2π itself is 0 again: leave it out
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=-1)
    return _mixture(means, std)


def grid_of_gaussians(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> MixtureSameFamily:
    """Return the uniform mixture of normals whose means form a square grid round the origin.

    Args:    side: the number of components is side².
             spacing: distance of neighbouring means; by default they lie at −4, −2, 0, 2, 4.
             std: standard deviation of every component in both directions.
    Returns: distribution over events of shape (2,), with exact `log_prob` in nats.
    Source:  Srivastava et al. (2017), VEEGAN, the 2D grid.
    """
    ticks = spacing * (torch.arange(side) - (side - 1) / 2)
    return _mixture(torch.cartesian_prod(ticks, ticks), std)


def _mixture(means: Tensor, std: float) -> MixtureSameFamily:
    weights = Categorical(logits=means.new_zeros(len(means)))
    return MixtureSameFamily(weights, Independent(Normal(means, std), 1))


def swiss_roll(
    sample_shape: tuple[int, ...] = (),
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample the spiral t·(cos t, sin t), with t uniform on 3π/2 to 9π/2, plus normal noise.

    Without noise it is a curve, which has no density in the plane.

    Args:    noise: standard deviation in both directions; the radii run from 4.7 to 14.1.
    Returns: shape (*sample_shape, 2).
    Source:  the plane section of scikit-learn's `make_swiss_roll`.
    """
    t = 1.5 * math.pi * (1 + 2 * torch.rand(sample_shape, generator=generator))
    points = torch.stack([t * t.cos(), t * t.sin()], dim=-1)
    return points + noise * torch.randn(points.shape, generator=generator)


def two_moons(
    sample_shape: tuple[int, ...] = (),
    noise: float = 0.05,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample two interleaving half circles of radius 1, each with probability 1/2, plus noise.

    The upper one is (cos t, sin t), the lower (1 − cos t, 1/2 − sin t), t uniform on 0 to π.

    Args:    noise: standard deviation in both directions.
    Returns: shape (*sample_shape, 2).
    Source:  scikit-learn's `make_moons`, whose halves are drawn here by chance.
    """
    t = math.pi * torch.rand(sample_shape, generator=generator)
    upper = torch.stack([t.cos(), t.sin()], dim=-1)
    lower = torch.stack([1 - t.cos(), 0.5 - t.sin()], dim=-1)
    side = torch.rand(sample_shape, generator=generator)[..., None] < 0.5
    points = torch.where(side, upper, lower)
    return points + noise * torch.randn(points.shape, generator=generator)
