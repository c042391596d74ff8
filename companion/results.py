"""Measured results that take longer than a chapter may: rows in a file that a reader can open.

A row says what was run (``experiment`` and ``settings``, which together name it), what came out
(``values``) and how (``provenance``). The file travels with the package, one row to a line.
"""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import torch

import companion
from companion.data.files import alone, replace
from companion.training.devices import usable

PATH = Path(__file__).parent / "_data" / "results.json"


class ResultsError(RuntimeError):
    """A file of results that cannot be used."""


def rows(experiment: str, **settings) -> list[dict]:
    """All rows of an experiment whose settings include these.

    Returns: dicts with ``experiment``, ``settings``, ``values`` and ``provenance``; the empty list
        if nothing of the kind has been run.
    Raises:  ResultsError if the file is damaged.

    >>> [row["values"]["nll"] for row in rows("an experiment nobody ran", seed=0)]
    []
    """
    return [
        row
        for row in _read()
        if row["experiment"] == experiment and settings.items() <= row["settings"].items()
    ]


def current(experiment: str, setting: str, recipes: dict[str, dict]) -> list[dict]:
    """The rows that were made by the recipes as they are now.

    Args:
        setting: that names the recipe of a row.
        recipes: by that name, as ``provenance["recipe"]`` holds them.
    """
    return [
        row
        for row in rows(experiment)
        if row["provenance"]["recipe"] == recipes.get(row["settings"][setting])
    ]


def add(experiment: str, settings: dict, values: dict, provenance: dict) -> dict:
    """Write a row, in place of the one with the same experiment and settings if there is one.

    The file is replaced whole or not at all; of several processes that add rows, none loses one.

    Args:
        settings:   what was run: names, numbers, truth values.
        values:     what was measured.
        provenance: of `provenance`, and whatever else is needed to run it again.

    Returns: the row.
    Raises:  ValueError for what JSON cannot hold, NaN and infinity among it; ResultsError if the
        file is damaged.
    """
    row = dict(experiment=experiment, settings=settings, values=values, provenance=provenance)
    _require_row(row)
    for name, value in settings.items():
        if not isinstance(value, str | int | float):
            raise ValueError(f"setting {name} = {value!r}: a name, a number or a truth value")
    try:
        row = json.loads(json.dumps(row, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{experiment}, {settings}: {error}; got {values}") from None
    with alone(PATH.parent):
        kept = [r for r in _read() if _name(r) != _name(row)]
        lines = [json.dumps(r, ensure_ascii=False) for r in sorted([*kept, row], key=_name)]
        replace(PATH, ("[\n" + ",\n".join(lines) + "\n]\n").encode())
    return row


def provenance(command: str, device: str | torch.device = "cpu") -> dict:
    """How a result came about: command, commit, device and versions.

    Call it before the run, since the code may change meanwhile.

    Returns: ``command``; ``commit``, with "-dirty" if the package (results and weights aside) has
        changes that are not committed, None outside the repository; ``device``, the processor's
        name with the number of threads, or the GPU's; ``versions`` of python, torch and companion.
    Raises:  ValueError if the device is not here.
    """
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "command": command,
        "commit": _commit(),
        "device": _device(usable(device)),
        "versions": versions | {"companion": companion.__version__},
    }


def _name(row: dict) -> tuple[str, str]:
    return row["experiment"], json.dumps(row["settings"], sort_keys=True)


def _require_row(row: dict) -> None:
    parts = {"experiment": str, "settings": dict, "values": dict, "provenance": dict}
    if {name: type(part) for name, part in row.items()} != parts:
        kinds = ", ".join(f"{name} ({kind.__name__})" for name, kind in parts.items())
        raise ValueError(f"a row has {kinds}; this one is {row}")


def _read() -> list[dict]:
    if not PATH.exists():
        return []

    def refuse(constant):
        raise ValueError(f"{constant} is no result")

    try:
        found = json.loads(PATH.read_text(encoding="utf-8"), parse_constant=refuse)
        if not isinstance(found, list):
            raise ValueError("it holds no list of rows")
        for row in found:
            _require_row(row)
        if len({_name(row) for row in found}) < len(found):
            raise ValueError("two rows have the same experiment and settings")
    except (ValueError, TypeError, AttributeError) as error:
        message = f"{PATH} is damaged ({error}): take it from the repository again"
        raise ResultsError(message) from None
    return found


def _commit() -> str | None:
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # installed somewhere below another repository
        written = ("results.json*", "weights")
        package = ["companion", *(f":(exclude)companion/_data/{name}" for name in written)]
        changed = git("status", "--porcelain", "--", *package)
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except OSError:
        return None


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
