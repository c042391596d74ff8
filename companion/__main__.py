"""The command line: ``python -m companion --help``."""

from __future__ import annotations

import io
import math
import os
import shlex
import signal
import sys
from pathlib import Path

import click
import torch

from companion import data, runs, training
from companion.benchmarks import sampling as in_sampling
from companion.benchmarks import training as in_training
from companion.data.files import replace
from companion.experiments import (
    comparison,
    digit_features,
    few_labels,
    full_scale,
    mode_collapse,
    pixel_orders,
    stacked_digits,
)
from companion.experiments.common import one_process
from companion.nn import free_parameters
from companion.presets import PRESETS, settings_of
from companion.results import ResultsError, provenance
from companion.training import process
from companion.training.checkpoint import in_words
from companion.training.devices import PRECISIONS, processes, usable

TABLES = {
    "comparison": lambda: comparison.likelihood_table(comparison.measurements()),
    "full-scale": full_scale.table,
    "full-scale-drawings": full_scale.drawings_table,
    "pixel-orders": lambda: pixel_orders.table(pixel_orders.current_rows()),
    "few-labels": lambda: few_labels.table(few_labels.current_rows()),
    "mode-collapse": lambda: mode_collapse.table(mode_collapse.current_rows()),
    "stacked-digits": lambda: stacked_digits.table(stacked_digits.current_rows()),
}

EXPERIMENTS = {
    "comparison": comparison,
    "pixel-orders": pixel_orders,
    "few-labels": few_labels,
    "mode-collapse": mode_collapse,
    "stacked-digits": stacked_digits,
    "digit-features": digit_features,
}


class Commands(click.Group):
    """What the package foresees as an error becomes one line; of several processes one speaks."""

    def invoke(self, context):
        foreseen = (ValueError, FloatingPointError, OSError, data.DataError, ResultsError)
        try:
            return super().invoke(context)
        except BrokenPipeError:  # whoever reads has seen enough, and click ends quietly
            raise
        except (*foreseen, training.CheckpointError) as error:
            fail(" ".join(str(error).split()))
        except torch.OutOfMemoryError:
            fail("out of memory: ask for less at a time (train: --batch-size), or for --device cpu")
        except KeyboardInterrupt:  # die of it, so that a shell's loop ends as well
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        except Exception as error:  # not by its class: the compiler is imported where it is used
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            told = str(error).strip().partition("\n")[0]
            fail(f"torch.compile failed here ({told}): leave out --compile")


class Positive(click.FloatRange):
    """A range that refuses nan and infinity, which click's own accepts."""

    def convert(self, value, parameter, context):
        number = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", parameter, context)
        return number


def fail(message: str) -> None:
    """Exit with an error message of one line."""
    if runs.FIRST:
        raise click.ClickException(message) from None
    click.echo(f"Process {os.environ['RANK']}: {message}", err=True)
    raise SystemExit(1) from None


def say(message: str) -> None:
    """Print, once among all processes."""
    if runs.FIRST:
        click.echo(message)


preset_option = click.option(
    "--preset",
    "scale",
    default="chapter",
    show_default=True,
    type=click.Choice([*PRESETS]),
    help="As its chapter trains it, or at the size of published ones.",
)


def seed_option(what: str):
    return click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help=what
    )


def about_a_model(command):
    """What all commands about one model share."""
    folder = click.option(
        "--out",
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of the run; left out: runs/PRESET/MODEL.",
    )
    return click.argument("model")(preset_option(folder(command)))


def this_command() -> str:
    """What was typed, for provenance."""
    return shlex.join(["python", "-m", "companion", *sys.argv[1:]])


def folder_of(folder: Path | None, scale: str, name: str) -> Path:
    return folder or Path("runs") / scale / runs.slug(name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main():
    """Train, score and draw from the models of Generative Models, Line by Line."""
    for stream in (sys.stdout, sys.stderr):  # a file of an old encoding has no sign for ≤
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
            stream.reconfigure(errors="replace")


@main.command()
@preset_option
def models(scale):
    """List the models, and how each is trained."""
    for name, preset in PRESETS[scale].items():
        size = f"{free_parameters(preset.build()):,} parameters"
        click.echo(f"{runs.slug(name)}: {in_words(preset.build)}, {size}, {in_words(preset.train)}")


@main.command()
@about_a_model
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images.")
@click.option("--batch-size", type=click.IntRange(1), help="Of a step, over all processes.")
@click.option(
    "--learning-rate", type=Positive(0, min_open=True), help="Before warm-up and schedule."
)
@seed_option("Of initial weights, batches and noise.")
@click.option("--device", help="cpu, cuda, cuda:1, mps; left out: a CUDA GPU if there is one.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="fast: bf16 where it pays.")
@click.option("--compile", "compiled", is_flag=True, help="Let torch.compile make faster code.")
@click.option("--patience", type=click.IntRange(1), help="Stop after so many epochs in vain.")
@click.option(
    "--minutes",
    type=Positive(0, min_open=True),
    help="Save and stop after so many of training; not under torchrun.",
)
def train(model, scale, folder, seed, device, compiled, patience, minutes, **asked):
    """Train MODEL, or go on where an earlier call was interrupted.

    Ctrl-C saves and stops; so does --minutes, with exit status 143. The same command goes on. To
    train in pieces:

        while python -m companion train MODEL --minutes 8; [ $? = 143 ]; do :; done

    Options that are left out are the preset's. Under torchrun or accelerate launch several
    processes train together, with the results of one.
    """
    name, preset = runs.find(model, scale)
    folder = folder_of(folder, scale, name)
    known = settings_of(preset)
    if minutes is not None:
        if "path" not in known:
            raise ValueError(f"the training of {name} is not done in pieces: leave out --minutes")
        if processes() > 1:  # it hides the exit status of its processes
            raise click.UsageError("--minutes does not go with torchrun")
    begins = []

    def on_start():
        begins.append(name)
        how_far = ", where log.csv tells how far it is" if "log" in known else ""
        say(f"{name} is being trained in {folder}{how_far}")

    with process.limited(math.inf if minutes is None else 60 * minutes):
        runs.train(
            name,
            scale,
            folder,
            command=this_command(),
            on_start=on_start,
            seed=seed,
            device=device,
            compiled=compiled,
            patience=patience,
            **{key: value for key, value in asked.items() if value is not None},
        )
    if not begins:
        say(f"{name} is trained already: {folder}. To train it anew, delete that folder.")
    elif runs.FIRST:
        run = runs.read(folder)
        cost = f"in {run['seconds']:,.0f} s, with {run['memory_mb']:,.0f} MB at most"
        say(f"{name} is trained, {cost}: {folder / 'model.safetensors'}")


def trained(model: str, scale: str, folder: Path | None, weights: Path | None):
    """A model's name, the model, where it was found, and whether by the preset's own recipe.

    It is the file of --weights, of a run, or of the package.
    """
    name, preset = runs.find(model, scale)
    if weights is not None and folder is not None:
        raise click.UsageError("--weights names a file, --out a run: leave one of them out")
    path = weights or folder_of(folder, scale, name) / "model.safetensors"
    if weights is None and runs.unfinished(path.parent):
        raise ValueError(
            f"the run in {path.parent} is not finished: run train again, or name --weights"
        )
    module = comparison if scale == "chapter" else full_scale
    of_package = weights is None and folder is None and not path.exists() and preset.shipped
    if of_package and module.weights_of(name).exists():
        return name, module.shipped(name), "the package", True
    run = runs.read(path.parent) if weights is None else None
    if run is not None and (run["model"], run["preset"]) != (name, scale):
        what = f"{runs.slug(run['model'])} --preset {run['preset']}"
        raise ValueError(f"{path.parent} holds a run of {what}: ask for that")
    own = run is not None and run["recipe"] == runs.recipe(preset)
    return name, runs.load(name, scale, path), str(path), own


weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A model.safetensors; left out: the run's, else those that travel with the package.",
)


@main.command()
@about_a_model
@weights_option
@click.option("--draws", type=click.IntRange(1), help="Of the latents for each image: 500 or 5000.")
@click.option("--device", help="As in train.")
@click.option("--record", is_flag=True, help="Store the row of the full-scale table.")
def evaluate(model, scale, folder, weights, draws, device, record):
    """Score MODEL on the test images."""
    one_process()
    device = usable(device)
    name, preset = runs.find(model, scale)
    if draws and preset.likelihood != "bound":
        raise click.UsageError(f"--draws is for likelihoods that are a bound; {name} has none")
    if record:
        if scale != "paper" or weights or draws:
            raise click.UsageError(
                "--record stores what --preset paper made, as it is, without --weights and --draws"
            )
        folder = folder_of(folder, scale, name)
        row = full_scale.record(name, folder, command=this_command(), device=device)
        values, own = row["values"], True
    else:
        name, trained_model, where, own = trained(model, scale, folder, weights)
        draws = draws or (full_scale.K if scale == "paper" else comparison.K)
        slow = f", {draws:,} draws for each image" if preset.likelihood == "bound" else ""
        click.echo(f"{name} of {where}{slow}")
        torch.manual_seed(0)
        test = runs.images(preset)[2]
        values = full_scale.measure(trained_model.to(device), preset, test, draws)
    for key, value in values.items():
        click.echo(f"{key}: {value}")
    if preset.published is not None:
        source = preset.published
        click.echo(f"published: {source.nll:.2f} ({source.source}; {source.protocol})")
        if not own:
            click.echo("not known to be trained by the preset's own recipe")


@main.command()
@about_a_model
@weights_option
@click.option(
    "--count", type=click.IntRange(1), default=100, show_default=True, help="How many drawings."
)
@seed_option("Of the drawings.")
@click.option("--device", help="As in train.")
@click.option(
    "--to",
    "path",
    default="samples.png",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The picture, of the kind that its name ends in.",
)
def sample(model, scale, folder, weights, count, seed, device, path):
    """Draw from MODEL into a picture.

    GANs draw in grey, all others in black and white; scores throw grey drawings as the data are.
    """
    one_process()
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise click.UsageError(f"--to: a file of pictures, such as samples.png, not {path}")
    if not path.parent.is_dir():
        raise click.UsageError(f"--to: there is no folder {path.parent}")
    name, trained_model, where, _ = trained(model, scale, folder, weights)
    trained_model.to(usable(device))
    torch.manual_seed(seed)
    drawn = comparison.drawings(trained_model, count, grey=True).cpu().reshape(-1, 28, 28)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = torch.zeros(rows * columns, 28, 28)
    sheet[:count] = drawn
    sheet = sheet.reshape(rows, columns, 28, 28).transpose(1, 2).reshape(28 * rows, 28 * columns)
    picture = Image.fromarray((255 * (1 - sheet)).byte().numpy())
    buffer, size = io.BytesIO(), (3 * picture.width, 3 * picture.height)
    picture.resize(size, Image.Resampling.NEAREST).save(buffer, format=kind)
    replace(path, buffer.getvalue())
    click.echo(f"{count} drawings of {name} of {where}: {path}")


@main.command()
@click.argument("names", nargs=-1, type=click.Choice([*TABLES]))
def table(names):
    """Print the tables of stored results: all, or those with NAMES."""
    click.echo("\n\n".join(f"{name}\n\n{TABLES[name]()}" for name in names or TABLES))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", type=click.Choice([*EXPERIMENTS]))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def experiment(name, options):
    """Run what a chapter has no time for, and store its rows; NAME -- --help lists OPTIONS.

    pixel-orders: seeds and orders of pixels. few-labels: the semi-supervised AAE, and clusters.
    mode-collapse: modes of a ring and a grid. stacked-digits: modes of three digits at once.
    comparison: all families under one protocol.
    digit-features: the classifier that judges drawings.
    """
    EXPERIMENTS[name].main([*options])


@main.command()
@click.argument("names", nargs=-1, metavar="[NAMES]...")
@click.option(
    "--batch-size",
    "batch_sizes",
    multiple=True,
    type=click.IntRange(1),
    help="May be given several times; left out: 100 and 250 of training, 16 and 100 of sampling.",
)
@click.option("--rounds", type=click.IntRange(1), help="That count: 7 of training, 1 of sampling.")
@click.option("--quick", is_flag=True, help="Fewer examples, and pixels of the naive samplers.")
@click.option("--device", help="As in train.")
@click.option("--compile", "compiled", is_flag=True, help="Of our training, as in train.")
def benchmark(names, batch_sizes, rounds, quick, device, compiled):
    """Compare speeds side by side: training, sampling, or single lines of theirs."""
    one_process()
    tables = {  # module, lines, settings, and what --quick changes
        "training": (in_training, in_training.LINES, {"compiled": compiled}, {"most": 2_500}),
        "sampling": (in_sampling, in_sampling.MODELS, {}, {"pixels": 28}),
    }
    every = [*tables, *in_training.LINES, *in_sampling.MODELS]
    known = dict.fromkeys(runs.slug(name) for name in every)
    for name in names:
        if runs.slug(name) not in known:
            raise ValueError(f"no benchmark {name!r}; there are: {', '.join(known)}")
    asked = {runs.slug(name) for name in names}
    device = usable(device)
    where = provenance("", device)
    click.echo(f"torch {where['versions']['torch']}, {where['device']}")
    given = {"batch_sizes": batch_sizes, "rounds": rounds}
    given = {key: value for key, value in given.items() if value} | {"device": device}
    for kind, (module, lines, settings, small) in tables.items():
        chosen = [line for line in lines if not asked or {kind, runs.slug(line)} & asked]
        if chosen:
            click.echo(f"\n{kind}")
            module.main(chosen, **given, **settings, **(small if quick else {}))


if __name__ == "__main__":
    main(prog_name="python -m companion")
