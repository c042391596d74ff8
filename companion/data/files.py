"""The official files of MNIST and Fashion-MNIST: found, downloaded, verified and read."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import lzma
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

FILES = {  # name of each official file and its size in bytes, the same in both data sets
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
MNIST = {  # SHA-256 of the unpacked official files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
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
    return _dataset(unpack(resources.files("companion") / "_data" / PACKED))


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


def read_folder(folder: Path, digests: dict[str, str], remedy: str) -> dict[str, bytes]:
    """Return the checked contents of the official files in a folder, given their SHA-256."""
    try:
        return {name: read_official(folder / name, digests[name], remedy) for name in digests}
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). {remedy}") from None


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
        return _dataset(read_folder(Path(chosen), FASHION_MNIST, remedy))
    if DEBIAN.is_dir():
        remedy = "Run `apt-get install --reinstall dataset-fashion-mnist`."
        return _dataset(read_folder(DEBIAN, FASHION_MNIST, remedy))
    contents = {}
    for name in FASHION_MNIST:  # a comprehension would be a frame more, until Python 3.12
        contents[name] = _from_cache(name, download)
    return _dataset(contents)


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
        warnings.warn(found, stacklevel=4)
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


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Be the only one at work in a folder, where the system can lock one.

    Raises: BlockingIOError if another is at work there and is not to be waited for.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(lock)


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
