"""What the experiments share: their command, means over seeds, tables in Markdown."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import statistics
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from companion import results, training
from companion.training.devices import processes

NOT_RUN = "not yet run"  # in place of a score


class Spread(NamedTuple):
    """A mean over seeds, its standard deviation (NaN for one seed), and the number of seeds."""

    mean: float
    deviation: float
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        values = list(values)
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        return cls(statistics.fmean(values), deviation, len(values))

    def text(self, digits: int) -> str:
        """Mean ± standard deviation; of one seed, the value alone."""
        mean = f"{self.mean:.{digits}f}"
        return f"{mean} ± {self.deviation:.{digits}f}" if self.seeds > 1 else mean


def over_seeds(
    rows: Iterable[dict], names: tuple[str, str], keys: Iterable[tuple[str, str]], value: str
) -> dict[tuple[str, str], Spread]:
    """The spread of a value over the rows that share two settings, for each pair that has rows.

    Args:
        rows:  of `companion.results`.
        names: of the two settings.
        keys:  the pairs of settings, in the order of the answer.
        value: its name.
    """
    found = {}
    for key in keys:
        same = [row for row in rows if tuple(row["settings"][name] for name in names) == key]
        if same:
            found[key] = Spread.of(row["values"][value] for row in same)
    return found


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown: the first column to the left, the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def one_process() -> None:
    """Refuse torchrun, whose processes would all do the same work and write the same file."""
    if processes() > 1:
        raise ValueError("only train takes several processes: call this without torchrun")


def parser(experiment: str, about: str) -> argparse.ArgumentParser:
    """The parser of an experiment's options, which may not be abbreviated.

    Args: about: the module's docstring.
    """
    return argparse.ArgumentParser(
        prog=f"python -m companion experiment {experiment}",
        description=about.partition("\n")[0],
        allow_abbrev=False,
    )


def typed(experiment: str, arguments: list[str]) -> str:
    """The command, for provenance."""
    module = f"companion.experiments.{experiment.replace('-', '_')}"
    return shlex.join(["python", "-m", module, *arguments])


def precision(recipe: dict, device: str | torch.device | None) -> dict[str, str]:
    """``{"precision": ...}`` as "fast" in a recipe is on the device; empty if it says otherwise."""
    fast = recipe.get("precision") == "fast"
    return {"precision": training.fast_precision(device)} if fast else {}


def add_rows(
    module: Any, arguments: list[str] | None, *, seeds: int, **choices: Iterable[str]
) -> None:
    """The command of an experiment: make its rows, skipping those that are there; print its table.

    Args:
        module:    has EXPERIMENT, train_one (of a choice of each kind and a seed), recipe (of the
                   first choice), current_rows and table.
        arguments: left out: what was typed.
        seeds:     how many, unless asked for others.
        choices:   the kinds of settings, each with what there is to choose from; all, unless asked
                   for some.
    """
    one_process()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser(module.EXPERIMENT, module.__doc__)
    for kind, names in choices.items():
        every = {"choices": names, "default": [*names], "help": "left out: all"}
        options.add_argument(f"--{kind}s", nargs="+", **every)
    options.add_argument(
        "--seeds", type=int, default=seeds, help=f"how many, from 0; left out: {seeds}"
    )
    options.add_argument("--device", help="left out: a CUDA GPU if there is one")
    asked = vars(options.parse_args(arguments))

    provenance = results.provenance(typed(module.EXPERIMENT, arguments), asked["device"])
    done = [row["settings"] for row in module.current_rows()]
    chosen = (asked[f"{kind}s"] for kind in choices)
    for seed, *names in product(range(asked["seeds"]), *chosen):
        settings = dict(zip(choices, names, strict=True)) | {"seed": seed}
        if settings in done:
            continue
        recipe = module.recipe(names[0])
        values = module.train_one(*names, seed, device=asked["device"])
        ours = {"recipe": recipe} | precision(recipe, asked["device"])
        results.add(module.EXPERIMENT, settings, values, provenance | ours)
        print(f"{', '.join(names)}, seed {seed}: {values}", flush=True)
    print(module.table(module.current_rows()))


@contextlib.contextmanager
def replacing(path: Path, model: nn.Module) -> Iterator[Path]:
    """A model's weights in a file beside their place, which they take if what is inside succeeds.

    So a row is stored before the weights that it is of are replaced.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        training.save_model(model, beside)
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
