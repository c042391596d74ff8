"""What a training run borrows from its process: random generators, signals, someone watching."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generators(device: torch.device) -> list[torch.Generator]:
    """The global generators that computations on a device draw from."""
    found = [torch.default_generator]
    if device.type == "mps":
        found.append(torch.mps._get_default_mps_generator())
    elif device.type != "cpu":
        module = torch.get_device_module(device)
        module.init()
        index = module.current_device() if device.index is None else device.index
        found.append(module.default_generators[index])
    return found


def seed_all(generators: list[torch.Generator], seed: int, what: int | str, rank: int = 0) -> None:
    """Start generators anew, at a place that (seed, what, number of the process) decides."""
    place = f"training {seed} {what}" + (f" of process {rank}" if rank else "")
    # Hashed, since torch's CPU generator heeds only the lowest 32 bits.
    digest = hashlib.blake2b(place.encode(), digest_size=8).digest()
    for generator in generators:
        generator.manual_seed(int.from_bytes(digest, "big"))


@contextmanager
def float32() -> Iterator[None]:
    """Float32 is what it says inside: CUDA's convolutions would take TF32, of ten bits, for it."""
    cudnn = torch.backends.cudnn
    # Newer torch has a setting for each kind of layer as well, which may say otherwise.
    kinds = [getattr(cudnn, name, None) for name in ("conv", "rnn")]
    kinds = [kind for kind in kinds if hasattr(kind, "fp32_precision")]
    before = [kind.fp32_precision for kind in kinds]
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:  # torch does not read it once a newer one was set
        allowed = True
    cudnn.allow_tf32 = False
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.allow_tf32 = allowed
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


@contextmanager
def reproducible(generators: list[torch.Generator]) -> Iterator[None]:
    """Deterministic convolutions inside; afterwards everything, generators too, as it was."""
    states = [generator.get_state() for generator in generators]
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = deterministic
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


_keeping = threading.Lock()


@contextmanager
def kept_memory(wanted: bool) -> Iterator[None]:
    """Memory freed inside stays with the process, for the next step; afterwards it is handed back.

    glibc gives what is larger than 32 MB to the system as soon as it is freed, and gets it back
    page by page, filled with zeros: half the time of a step with fifty draws. Other C libraries are
    left as they are, and so is glibc if the environment tells it how to deal with memory, and
    within another run, which sees to it.
    """
    told = any(key.startswith(("MALLOC_", "GLIBC_TUNABLES")) for key in os.environ)
    if not wanted or told or platform.libc_ver()[0] != "glibc" or not _keeping.acquire(False):
        yield
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # as malloc.h numbers them
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:  # to where glibc's own adaptation to large blocks ends, since mallopt switches it off
        libc.mallopt(mmap_max, 65536)
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**26)
        libc.malloc_trim(0)
        _keeping.release()


limit = math.inf  # seconds of a run's steps, after which it saves and gives way as to SIGTERM


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Give the runs inside so many seconds of steps, counted from their first batch."""
    global limit
    before, limit = limit, seconds
    try:
        yield
    finally:
        limit = before


@contextmanager
def signals_put_off(wanted: bool) -> Iterator[list[int]]:
    """Collect a SIGINT (Ctrl-C) or SIGTERM instead of obeying; a second one acts at once."""
    noted = []
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    if not wanted or threading.current_thread() is not threading.main_thread():
        handlers = {}  # only the main thread may set any

    def restore():
        for signum, handler in handlers.items():
            signal.signal(signum, handler)

    def note(signum, frame):
        noted.append(signum)
        restore()

    for signum, handler in handlers.items():
        if handler != signal.SIG_IGN:
            signal.signal(signum, note)
    try:
        yield noted
    finally:
        restore()


def watched() -> bool:
    """Whether someone is there to see a progress bar: at a terminal, or at a notebook.

    Programs that store outputs (nbconvert, nbclient, nbval, papermill, the book's build) run
    cells without standard input, as nobody could answer; a person's notebook offers it. The
    environment variable COMPANION_PROGRESS, 0 or 1, overrules both.
    """
    if wish := os.environ.get("COMPANION_PROGRESS"):
        return wish != "0"
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(kernel.get_parent().get("content", {}).get("allow_stdin"))
    return sys.stderr.isatty()
