"""A training run in a folder: what `python -m companion` trains and finds again.

The folder, ``runs/PRESET/MODEL`` unless another is chosen, holds ``run.json`` (what is trained, by
which command and commit, on which device), ``log.csv``, TensorBoard's events where it is installed,
and ``checkpoint.safetensors`` while the run is under way, ``model.safetensors`` when it is done.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from companion import data, results, training
from companion.data.files import alone, replace
from companion.presets import PRESETS, Preset, settings_of
from companion.training.checkpoint import in_words, refuse_differences, stored_signature
from companion.training.devices import processes, usable

# What run.json has, at least.
KEYS = {"model", "preset", "seed", "recipe", "precision", "compiled", "finished", "provenance"}
FIRST = int(os.environ.get("RANK", 0)) == 0  # the one of torchrun's processes that writes


def slug(name: str) -> str:
    """A model's name as the command line takes it.

    >>> slug("VAE, 2 layers")
    'vae-2-layers'
    """
    return name.lower().replace(",", "").replace(" ", "-")


def find(name: str, scale: str) -> tuple[str, Preset]:
    """A preset and its full name.

    Args:
        name:  its name or its slug.
        scale: a key of `companion.presets.PRESETS`.

    Raises: ValueError if there is none, saying which there are.
    """
    if scale not in PRESETS:
        raise ValueError(f"no preset {scale!r}; there are: {', '.join(PRESETS)}")
    for full, preset in PRESETS[scale].items():
        if slug(name) == slug(full):
            return full, preset
    known = ", ".join(slug(full) for full in PRESETS[scale])
    raise ValueError(f"no model {name!r} with --preset {scale}; there are: {known}")


def images(preset: Preset) -> tuple[Tensor, Tensor, Tensor]:
    """Grey images to train on, to validate with, and to test on, uint8 ``(N, 784)`` each.

    The second are the last 10,000 of the training images; the first include them, unless the preset
    holds them out.
    """
    read = data.load(preset.data)
    train, validation, test = (split.images.flatten(1) for split in read)
    return train if preset.held_out else torch.cat([train, validation]), validation, test


def recipe(preset: Preset, **asked) -> dict:
    """What is trained, in names and numbers: a run or a row made by another recipe is outdated.

    Args: asked: settings of training in place of the preset's.
    """
    train = partial(preset.train, **asked) if asked else preset.train
    made = {"build": in_words(preset.build), "train": in_words(train)}
    return made | {"data": preset.data, "held_out": preset.held_out}


def train(
    name: str,
    scale: str,
    folder: str | os.PathLike,
    *,
    command: str = "",
    seed: int = 0,
    device: str | torch.device | None = None,
    compiled: bool = False,
    patience: int | None = None,
    on_start: Callable[[], None] = lambda: None,
    **asked,
) -> nn.Module:
    """Train a preset in a folder, or go on where an earlier call was interrupted.

    Args:
        name, scale: as in `find`.
        command:     for ``run.json``.
        seed:        of initial weights, batches and noise.
        device, compiled: as in `companion.training.fit`.
        patience:    stop after so many epochs without a better score of the validation images,
                     which are then held out; the weights of the best epoch are kept.
        on_start:    called before training begins, where there is anything left to train.
        asked:       settings of training in place of the preset's: ``epochs``, ``batch_size``,
                     ``learning_rate``, ``precision``.

    Returns: the trained model, on the CPU.
    Raises:  ValueError for a setting that the model's training does not have; CheckpointError if
        the folder holds another run, or one that is under way; as `companion.training.fit` raises.
    """
    folder, (name, preset) = Path(folder), find(name, scale)
    if patience is not None:
        preset, asked = preset._replace(held_out=True), asked | {"patience": patience}
    known = settings_of(preset)
    if unknown := ({*asked} | ({"compiled"} if compiled else set())) - known:
        raise ValueError(f"the training of {name} has no {', '.join(sorted(unknown))}")
    device = usable(device)
    if "path" not in known:  # what has no steps is counted there
        device = torch.device("cpu")
    precision = (getattr(preset.train, "keywords", {}) | asked).get("precision", "no")
    if precision == "fast":
        precision = training.fast_precision(device)
    run = {"model": name, "preset": scale, "seed": seed, "recipe": recipe(preset, **asked)}
    run |= {"precision": precision, "compiled": compiled}
    with at_work(folder):
        earlier = begun(folder, run)
        if earlier is not None and earlier["finished"]:
            return load(name, scale, folder / "model.safetensors")
        run |= {"finished": False, "provenance": provenance(command, device, earlier)}
        if FIRST:
            write(folder, run)
        on_start()
        pictures, validation, _ = images(preset)
        if patience is not None:
            asked["validation"] = data.binarize(validation, seed=data.SEEDS["validation"])
        extra = {"path": folder / "checkpoint.safetensors", "log": folder, "compiled": compiled}
        asked |= {key: value for key, value in extra.items() if key in known}
        torch.manual_seed(seed)
        model = preset.build()
        start = time.perf_counter()
        try:
            preset.train(model, pictures, seed, device, **asked)
        except (TypeError, ValueError):  # of settings: nothing has begun
            if FIRST and not (folder / "checkpoint.safetensors").exists():
                (folder / "run.json").unlink()
            raise
        seconds = time.perf_counter() - start
        model.cpu().eval()
        if FIRST:
            training.save_model(model, folder / "model.safetensors")
            all_pieces = logged(folder) if "log" in known else None
            seconds = round(seconds, 1) if all_pieces is None else all_pieces
            cost = {"seconds": seconds, "memory_mb": peak_memory(device)}
            write(folder, run | {"finished": True} | cost)
            (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return model


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while this one is at work there.

    Raises: CheckpointError if another one is.
    """
    with contextlib.ExitStack() as stack:
        if FIRST:
            try:
                stack.enter_context(alone(folder, wait=False))
            except BlockingIOError:
                raise training.CheckpointError(
                    f"another process is training in {folder}: choose another folder with --out"
                ) from None
        yield


def begun(folder: Path, run: dict) -> dict | None:
    """The earlier piece of a run, if there is one.

    Raises: CheckpointError if the folder holds something else that would be lost.
    """
    earlier = read(folder)
    paths = [folder / each for each in ("checkpoint.safetensors", "model.safetensors")]
    if not any(path.exists() for path in paths):
        return None
    message = f"{folder} holds another run: choose another folder with --out, or delete it"
    if earlier is None:
        raise training.CheckpointError(f"{message}. It has weights, and no run.json")
    refuse_differences(message, {key: earlier[key] for key in run}, run)
    return earlier


def provenance(command: str, device: torch.device, earlier: dict | None) -> dict:
    """As in `companion.results`; of a run in pieces the first command, the rest of all pieces."""
    made = results.provenance(command, device)
    if processes() > 1:
        made["device"] += f", {processes()} processes"
    if earlier is None:
        return made

    def joined(first: dict, made: dict, keys: Iterable[str]) -> dict:
        pieces = {key: [*str(first[key]).split("; "), str(made[key])] for key in keys}
        return first | {key: "; ".join(dict.fromkeys(each)) for key, each in pieces.items()}

    first = joined(earlier["provenance"], made, ("commit", "device"))
    versions = joined(first["versions"], made["versions"], first["versions"])
    return first | {"versions": versions}


def load(name: str, scale: str, path: str | os.PathLike) -> nn.Module:
    """A trained model, on the CPU, in single precision.

    Raises: ValueError if the file is not there; CheckpointError if it is of another model.
    """
    if not Path(path).exists():
        raise ValueError(f"{path} is not there: train the model first, or name its --weights")
    model = find(name, scale)[1].build()
    if any("float16" in kind for kind in stored_signature(path).values()):  # it has travelled
        model = model.half()
    return training.load_model(model, path).float().eval()


def unfinished(folder: Path) -> bool:
    """Whether a run has begun in a folder, and not ended."""
    run = read(folder)
    return not run["finished"] if run else (folder / "checkpoint.safetensors").exists()


def read(folder: str | os.PathLike) -> dict | None:
    """What ``run.json`` says; None where there is none.

    Raises: CheckpointError if it is damaged.
    """
    path = Path(folder) / "run.json"
    if not path.exists():
        return None
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        missing = KEYS - run.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (ValueError, AttributeError) as error:
        raise training.CheckpointError(f"{path} is damaged ({error}): delete the folder") from None
    return run


def write(folder: str | os.PathLike, run: dict) -> None:
    """Write ``run.json``, whole or not at all."""
    text = json.dumps(run, indent=1, ensure_ascii=False)
    replace(Path(folder) / "run.json", (text + "\n").encode())


def peak_memory(device: torch.device) -> int:
    """What this process has taken at most, in MB: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))  # bytes there, else kilobytes


def logged(folder: str | os.PathLike) -> float | None:
    """Seconds of training, over all pieces of the run, if there is a ``log.csv``."""
    path = Path(folder) / "log.csv"
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        return float([*csv.DictReader(file)][-1]["seconds"])
