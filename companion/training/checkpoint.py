"""Checkpoints: one safetensors file, replaced whole or not at all.

Tensors are stored as tensors, the rest as JSON in the file's metadata, under a checksum. Reading
one runs no code from the file (no pickle).
"""

from __future__ import annotations

import json
import os
import zlib
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from companion.data import Batches

FORMAT = 1  # raised when an older reader would misread a newer file


class CheckpointError(RuntimeError):
    """A file that cannot be used: damaged, or of another run or model."""


def save_model(module: nn.Module, path: str | os.PathLike) -> None:
    """Write a module's parameters and persistent buffers."""
    write(Path(path), module.state_dict(), {"model": signature(module)})


def load_model(module: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Read what `save_model` wrote into a module of the same shapes, which is returned.

    Raises: CheckpointError if the file is damaged, or its names, shapes, types or masks differ.
    """
    tensors, record = read(Path(path))
    if "model" not in record:
        raise CheckpointError(f"{path} is the checkpoint of a run: give a file of save_model")
    message = f"{path} holds another model: build it with the arguments it was saved with"
    refuse_differences(message, record["model"], signature(module))
    module.load_state_dict(tensors)
    return module


def stored_signature(path: str | os.PathLike) -> dict[str, str]:
    """The `signature` of the module in a file of `save_model`."""
    return read(Path(path))[1].get("model", {})


def write(path: Path, tensors: dict[str, Tensor], record: dict) -> None:
    """Store tensors and a JSON record, at whatever moment the process or the power dies."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = as_json({"format": FORMAT} | record)
    if path.is_dir():
        raise OSError(f"{path} cannot be written (it is a folder: name a file)")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary(path)
    try:
        save_file(plain, unfinished, {"record": text, "checksum": str(checksum(plain, text))})
        with open(unfinished, "r+b") as file:
            os.fsync(file.fileno())
    except (SafetensorError, OSError) as error:  # the former of a full disk, too
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written ({error})") from None
    os.chmod(unfinished, 0o644)
    os.replace(unfinished, path)
    if os.name == "posix":  # the new name is safe on the disk only once its folder is
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def as_json(record: dict) -> str:
    """A record as text; NumPy's numbers are numbers, too."""
    return json.dumps(record, default=lambda number: number.item())


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors (on the CPU) and the record of a file.

    Raises: CheckpointError, naming the file, if one bit of it has changed.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: name a file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: a mapped file could not be replaced on Windows.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        message = f"{path} is damaged, or no file of this package ({error})"
        raise CheckpointError(message) from None
    if not {"record", "checksum"} <= metadata.keys():
        raise CheckpointError(f"{path} was not written by this package")
    if metadata["checksum"] != str(checksum(tensors, metadata["record"])):
        raise CheckpointError(f"{path} is damaged (wrong checksum)")
    record = json.loads(metadata["record"])
    if record["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {record['format']}, this version reads {FORMAT}")
    return tensors, record


def temporary(path: Path) -> Path:
    """Where a file is written before it takes its name; in the same folder, so that it can."""
    return path.with_name(path.name + ".tmp")


def checksum(tensors: dict[str, Tensor], text: str = "") -> int:
    """CRC-32 of names, types, shapes and bits."""
    crc = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.cpu().reshape(-1).view(torch.uint8).numpy(), crc)
    return crc


def signature(module: nn.Module) -> dict[str, str]:
    """What another module must share to take this one's weights: names, types, shapes, masks."""
    state = module.state_dict()
    constants = {name: b for name, b in module.named_buffers() if name not in state}
    types = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in state.items()}
    return types | {"checksum of constant buffers": str(checksum(constants))}


def configuration(module: nn.Module) -> dict[str, dict[str, str]]:
    """What a module computes with beside tensors: of each part the class and the settings."""
    return {
        name or "whole": {"class": type(part).__name__}
        | {k: str(in_words(v)) for k, v in _settings(part).items() if k != "training"}
        for name, part in module.named_modules()
    }


def _settings(item: Any) -> dict[str, Any]:
    """The public attributes that words tell: a generator, say, is another in each process."""

    def plain(value):
        if isinstance(value, (tuple, list)):
            return all(map(plain, value))
        kinds = (bool, int, float, str, type(None))
        return isinstance(value, kinds) or (callable(value) and not isinstance(value, nn.Module))

    attributes = getattr(item, "__dict__", {})
    return {k: v for k, v in attributes.items() if not k.startswith("_") and plain(v)}


def fingerprint(x: Tensor | None) -> dict | None:
    """What tells these data from others, and from none."""
    if x is None:
        return None
    return {"shape": list(x.shape), "checksum": checksum({"x": x.detach()})}


def batches_signature(data: Batches) -> dict:
    """What tells mini-batches from others: the examples, their order and number, the noise.

    Not of a batch itself, whose noise another device would draw otherwise.
    """
    own = {"batches": len(data), "seed": data.seed, "dynamic": data.dynamic}
    return own | fingerprint(data.examples(0)) | {"images": fingerprint(data.images)}


def in_words(value: Any) -> Any:
    """A function by its name and the arguments it has been given; all else as JSON holds it.

    What the function does is not looked at: one that changes takes a new name. An object that can
    be called is told by its class and its settings.

    >>> in_words(partial(max, 1, key=abs))
    'max(1, key=abs)'
    """
    if isinstance(value, partial):
        return _called(value.func, value.args, value.keywords)
    if callable(value) and not hasattr(value, "__name__") and not isinstance(value, nn.Module):
        settings = _settings(value)
        return _called(type(value), (), settings) if settings else type(value).__name__
    if isinstance(value, (tuple, list)):
        return [in_words(each) for each in value]
    return getattr(value, "__name__", type(value).__name__) if callable(value) else value


def _called(function: Any, args: tuple, keywords: dict) -> str:
    given = [f"{in_words(each)}" for each in args]
    given += [f"{key}={in_words(each)}" for key, each in keywords.items()]
    return f"{in_words(function)}({', '.join(given)})"


def refuse_differences(message: str, theirs: dict, ours: dict) -> None:
    """Raise CheckpointError, listing what differs between two trees of JSON, if anything does."""

    def leaves(tree, name=""):
        if not isinstance(tree, dict):
            return {name[1:]: tree}
        return {k: v for key in tree for k, v in leaves(tree[key], f"{name}/{key}").items()}

    theirs, ours = leaves(theirs), leaves(json.loads(as_json(ours)))
    pairs = {name: (theirs.get(name, "none"), ours.get(name, "none")) for name in theirs | ours}
    lines = [f"{name}: {a} there, {b} here" for name, (a, b) in pairs.items() if a != b]
    if lines:
        raise CheckpointError("\n- ".join([f"{message}. What differs:", *lines[:8]]))


def below(prefix: str, tree: dict) -> dict:
    """The entries under ``prefix/``, without it."""
    return {k.removeprefix(prefix + "/"): v for k, v in tree.items() if k.startswith(prefix + "/")}


def optimizer_state(optimizer: Optimizer) -> dict[str, Tensor | float | None]:
    """The state of every parameter, flat: "<number of the parameter>/<name>"."""
    state = optimizer.state_dict()["state"]
    return {f"{i}/{name}": value for i in state for name, value in state[i].items()}


def restore_optimizer(optimizer: Optimizer, flat: dict[str, Tensor | float | None]) -> None:
    """Give back what `optimizer_state` took."""
    state = defaultdict(dict)
    for name, value in flat.items():
        index, key = name.split("/", 1)
        state[int(index)][key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            # Files hold the default memory layout; fused kernels need the parameter's own.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
