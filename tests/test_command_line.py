"""``python -m companion``: what each command does, says and refuses."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from companion import __main__ as command_line
from companion import data, evaluation, results, runs, training
from companion.autoregressive import FVSBN
from companion.experiments import comparison, full_scale
from companion.presets import CHAPTER, PAPER, PRESETS, Preset, by_gradient
from companion.published import REDRAWN, score

ROOT = Path(__file__).parent.parent
ALONE = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, results of the test's own, and few images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    monkeypatch.setattr(comparison, "WEIGHTS", tmp_path / "weights")
    mnist = data.mnist()
    few = lambda split, count: data.Split(split.images[:count], split.labels[:count])
    dataset = data.Dataset(few(mnist.train, 300), few(mnist.validation, 200), few(mnist.test, 100))
    monkeypatch.setattr(runs.data, "load", lambda name: dataset)
    return tmp_path


def run(*arguments):
    """The command's exit status and what it prints."""
    done = CliRunner().invoke(command_line.main, [str(each) for each in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def start(folder, *arguments, launcher=(), env=ALONE):
    """The same in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "companion", *map(str, arguments)],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has told all below to ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def logged(folder):
    with (Path(folder) / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- train ---


def test_a_model_is_trained_in_its_folder(here):
    status, output = run("train", "fvsbn", "--epochs", 2, "--batch-size", 50, "--device", "cpu")
    folder = Path("runs/chapter/fvsbn")
    assert status == 0
    first, last = output.splitlines()
    assert first == f"FVSBN is being trained in {folder}, where log.csv tells how far it is"
    assert re.fullmatch(
        rf"FVSBN is trained, in \d+ s, with [\d,]+ MB at most: {folder}/model.safetensors", last
    )
    assert {path.name for path in folder.iterdir()} >= {"log.csv", "model.safetensors", "run.json"}
    assert not (folder / "checkpoint.safetensors").exists()
    written = runs.read(folder)
    assert written["finished"]
    assert (written["model"], written["preset"], written["seed"]) == ("FVSBN", "chapter", 0)
    assert written["recipe"]["train"] == (
        "by_gradient(batch_size=50, epochs=2, learning_rate=0.03)"
    )
    assert written["seconds"] == float(logged(folder)[-1]["seconds"])
    assert len(logged(folder)) == 2
    assert 100 < written["memory_mb"] < 100_000
    images = runs.data.load("mnist").train.images.flatten(1)
    torch.manual_seed(0)
    model = FVSBN(784)
    by_gradient(model, images, 0, "cpu", batch_size=50, epochs=2, learning_rate=3e-2)
    found = runs.load("FVSBN", "chapter", folder / "model.safetensors")
    pairs = zip(found.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "as the preset is trained without a command"


def test_options_reach_the_training(here, monkeypatch):
    asked = {}
    monkeypatch.setattr(training, "fit", lambda model, batches, **given: asked.update(given))
    options = ["--learning-rate", 0.5, "--seed", 3, "--precision", "bf16", "--compile"]
    status, _ = run("train", "MADE", "--out", "a", *options, "--patience", 4, "--device", "cpu")
    assert status == 0
    validation = asked.pop("validation")
    assert torch.equal(
        validation, data.binarize(runs.data.load("").validation.images.flatten(1), seed=1)
    )
    assert asked == {
        "epochs": 24,
        "learning_rate": 0.5,
        "seed": 3,
        "precision": "bf16",
        "compiled": True,
        "patience": 4,
        "device": torch.device("cpu"),
        "path": Path("a/checkpoint.safetensors"),
        "log": Path("a"),
    }
    assert runs.read("a")["precision"] == "bf16"
    assert runs.read("a")["compiled"]


def test_what_is_held_out_is_not_trained_on(here, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", lambda model, batches, **_: seen.append(batches))
    run("train", "fvsbn", "--preset", "paper", "--batch-size", 5, "--device", "cpu")
    run("train", "fvsbn", "--out", "a", "--batch-size", 5, "--device", "cpu")
    stop = ["--patience", 2, "--out", "b", "--batch-size", 5, "--device", "cpu"]
    run("train", "fvsbn", "--preset", "paper", *stop)
    assert [len(batches.images) for batches in seen] == [500, 300, 300]
    assert runs.read("runs/paper/fvsbn")["recipe"]["held_out"] is False
    assert runs.read("b")["recipe"]["held_out"] is True


def test_patience_keeps_the_best_weights(here):
    """Few images are learned by heart, with a high learning rate soon."""
    rate = ["--learning-rate", 0.1, "--epochs", 60, "--batch-size", 50, "--device", "cpu"]
    status, _ = run("train", "fvsbn", "--patience", 3, *rate)
    assert status == 0
    folder = Path("runs/chapter/fvsbn")
    scores = [float(row["validation"]) for row in logged(folder)]
    best = scores.index(max(scores))
    assert len(scores) == best + 1 + 3 < 60
    x = data.binarize(runs.data.load("").validation.images.flatten(1), seed=1)
    model = runs.load("FVSBN", "chapter", folder / "model.safetensors")
    assert -evaluation.nll(model, x).mean == pytest.approx(max(scores), abs=1e-3)


def test_a_finished_run_is_not_run_again(here, monkeypatch):
    arguments = ["train", "fvsbn", "--epochs", 1, "--batch-size", 50, "--device", "cpu"]
    run(*arguments)
    before = runs.read("runs/chapter/fvsbn")
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained again"))
    status, output = run(*arguments)
    assert status == 0
    assert "is trained already: runs/chapter/fvsbn. To train it anew, delete" in output
    assert runs.read("runs/chapter/fvsbn") == before


def test_a_folder_of_another_run_is_left_alone(here):
    arguments = ["train", "fvsbn", "--batch-size", 50, "--device", "cpu"]
    run(*arguments, "--epochs", 1)
    before = {path: path.read_bytes() for path in Path("runs/chapter/fvsbn").iterdir()}
    for other, named in [(["--epochs", 2], "epochs=1"), (["--epochs", 1, "--seed", 5], "seed: 0")]:
        status, output = run(*arguments, *other)
        assert status == 1
        assert "runs/chapter/fvsbn holds another run: choose another folder with --out" in output
        assert named in output
    assert {path: path.read_bytes() for path in Path("runs/chapter/fvsbn").iterdir()} == before


def test_weights_of_unknown_origin_are_left_alone(here):
    training.save_model(FVSBN(784), "mine/model.safetensors")
    before = Path("mine/model.safetensors").read_bytes()
    status, output = run("train", "fvsbn", "--out", "mine", "--epochs", 1, "--device", "cpu")
    assert status == 1
    assert "mine holds another run" in output
    assert "weights, and no run.json" in output
    assert Path("mine/model.safetensors").read_bytes() == before


def test_two_runs_do_not_share_a_folder(here, monkeypatch):
    inner = []

    def fit(*_, **__):
        inner.append(run("train", "fvsbn", "--seed", 1, "--device", "cpu"))

    monkeypatch.setattr(training, "fit", fit)
    status, _ = run("train", "fvsbn", "--device", "cpu")
    assert status == 0
    ((status, output),) = inner
    assert status == 1
    assert "another process is training in runs/chapter/fvsbn: choose another folder" in output
    assert runs.read("runs/chapter/fvsbn")["seed"] == 0


def test_a_run_goes_on_only_as_it_began(here, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: None)
    run("train", "fvsbn", "--device", "cpu")
    for option, named in [("--compile", "compiled: False there"), ("--precision=bf16", "no there")]:
        status, output = run("train", "fvsbn", "--device", "cpu", option)
        assert status == 1
        assert named in output


def test_a_damaged_record_is_named(here):
    run("train", "independent-pixels")
    for content, told in [
        ("{", "is damaged (Expecting"),
        ('{"model": 1}', "it lacks compiled, fi"),
    ]:
        Path("runs/chapter/independent-pixels/run.json").write_text(content)
        status, output = run("evaluate", "independent-pixels", "--device", "cpu")
        assert status == 1
        assert "runs/chapter/independent-pixels/run.json is damaged" in output
        assert told in output


def test_all_commits_devices_and_versions_of_a_run_in_pieces_are_told(monkeypatch):
    made = {"command": "b", "commit": "2", "device": "GPU", "versions": {"torch": "3", "p": "1"}}
    monkeypatch.setattr(results, "provenance", lambda command, device: dict(made))
    cpu = torch.device("cpu")
    assert runs.provenance("b", cpu, None) == made
    first = made | {"command": "a", "commit": "1-dirty", "versions": {"torch": "2", "p": "1"}}
    found = runs.provenance("b", cpu, {"provenance": first})
    both = {"torch": "2; 3", "p": "1"}
    assert found == first | {"commit": "1-dirty; 2", "versions": both}
    assert runs.provenance("b", cpu, {"provenance": found}) == found
    monkeypatch.setenv("WORLD_SIZE", "4")
    again = runs.provenance("b", cpu, {"provenance": found})
    assert again["device"] == "GPU; GPU, 4 processes"


def test_a_run_that_never_began_leaves_no_trace_and_may_be_changed(here):
    """Else sample would ask to go on with it, and not look for what travels with the package."""
    status, output = run("train", "fvsbn", "--batch-size", 5000, "--device", "cpu")
    assert status == 1
    assert "batch_size = 5000 is more than all 300 examples" in output
    assert not [*Path("runs/chapter/fvsbn").iterdir()]
    status, _ = run("train", "fvsbn", "--batch-size", 50, "--epochs", 1, "--device", "cpu")
    assert status == 0


def test_what_is_counted_is_trained_as_well(here):
    Path("runs/chapter/independent-pixels").mkdir(parents=True)
    Path("runs/chapter/independent-pixels/log.csv").write_text("not,ours\n1,2\n")
    status, output = run("train", "independent-pixels", "--device", "cpu")
    assert status == 0
    assert "is being trained in runs/chapter/independent-pixels\n" in output, "no log is promised"
    status, output = run("evaluate", "independent-pixels", "--device", "cpu")
    assert status == 0
    assert 100 < float(re.search(r"^nll: (.*)$", output, re.M)[1]) < 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mode"], "no model 'mode' with --preset chapter; there are: independent-pixels"),
        (["train", "independent-pixels", "--epochs", "3"], "independent pixels has no epochs"),
        (["train", "dcgan", "--patience", "3"], "training of DCGAN has no patience"),
        (["train", "made", "--device", "cuda:7"], "device 'cuda:7' is not here, \"cpu\" is"),
        (["train", "made", "--device", "abacus"], "device 'abacus' is not here"),
        (["train", "made", "--device", "meta"], "device 'meta' is not here"),
        (["train", "independent-pixels", "--device", "abacus"], "device 'abacus' is not here"),
        (["train", "made", "--precision", "fp16", "--device", "cpu"], 'the precision is "bf16"'),
        (["train", "independent-pixels", "--compile"], "independent pixels has no compiled"),
        (["train", "mixture-of-100", "--minutes", "1"], "is not done in pieces"),
        (["experiment", "mode-collapse", "--device", "abacus"], "device 'abacus' is not here"),
        (["evaluate", "nade"], "runs/chapter/nade/model.safetensors is not there: train the model"),
        (["evaluate", "made", "--out", "nowhere"], "nowhere/model.safetensors is not there"),
        (["sample", "vae", "--preset", "paper", "--out", "x"], "is not there: train the model"),
        (["evaluate", "fvsbn", "--preset", "paper", "--record"], "runs/paper/fvsbn holds no fin"),
        (["benchmark", "speed"], "no benchmark 'speed'; there are: training, sampling, fvsbn"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the first GPU may be the eighth")
def test_an_error_is_one_line_that_says_what_to_do(here, arguments, message):
    status, output = run(*arguments)
    assert status == 1
    *before, line = output.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert all(each.startswith(("DCGAN", "MADE", "indep")) for each in before), "no traceback"
    assert not Path("samples.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "made", "--epochs", "0"],
        ["train", "made", "--learning-rate", "0"],
        ["train", "made", "--precision", "int8"],
        ["train", "made", "--preset", "huge"],
        ["train"],
        ["evaluate", "made", "--weights", "missing"],
        ["evaluate", "made", "--weights", __file__, "--out", "a"],
        ["evaluate", "made", "--record"],
        ["evaluate", "made", "--draws", "3"],
        ["sample", "made", "--to", "a.psd"],
        ["sample", "made", "--to", "a"],
        ["sample", "made", "--to", "nowhere/a.png"],
        ["evaluate", "made", "--record", "--preset", "paper", "--draws", "3"],
        ["table", "of contents"],
        ["train", "made", "--minutes", "nan"],
        ["train", "made", "--learning-rate", "inf"],
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_done(here, arguments):
    status, output = run(*arguments)
    assert status == 2
    assert "Error: " in output
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA"), "a time (train: --batch-size), or for --device cpu"),
        (FloatingPointError("step 3: train is\nnot finite"), "step 3: train is not finite"),
        (data.DataError("no network"), "no network"),
        (training.CheckpointError("damaged"), "damaged"),
        (OSError("no space left"), "no space left"),
    ],
)
def test_what_may_go_wrong_is_told_in_one_line(here, monkeypatch, error, message):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(training, "fit", fails)
    status, output = run("train", "made", "--device", "cpu")
    assert status == 1
    told, line = output.splitlines()
    assert told.startswith("MADE is being trained")
    assert line.startswith("Error: ")
    assert line.endswith(message)


def test_whoever_reads_may_stop_reading(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "companion", "table"]
    done = subprocess.run(
        command, cwd=tmp_path, env=ALONE, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_goes_into_a_file_of_any_encoding(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "companion", "table", "full-scale"],
        cwd=tmp_path,
        env=ALONE | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        encoding="cp1252",
    )
    assert done.returncode == 0, done.stderr
    assert "IWAE-5" in done.stdout


def test_a_mistake_of_ours_is_not_hidden(here, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: {}["a mistake"])
    with pytest.raises(KeyError):
        run("train", "made", "--device", "cpu")


# --- interrupted, and several processes ---

SHORT = ("train", "fvsbn", "--epochs", 3, "--batch-size", 250, "--device", "cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in a process of its own, left alone."""
    folder = tmp_path_factory.mktemp("whole")
    status, _, err = finish(start(folder, *SHORT))
    assert status == 0, err
    assert err == ""
    return folder / "runs/chapter/fvsbn"


def same_weights(a, b):
    found = [training.checkpoint.read(Path(x) / "model.safetensors")[0] for x in (a, b)]
    return all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(
    ("interrupt", "status"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_an_interrupted_run_says_how_to_go_on_and_ends_the_same(whole, tmp_path, interrupt, status):
    folder = tmp_path / "runs/chapter/fvsbn"
    process = start(tmp_path, *SHORT)
    until = time.monotonic() + 60
    while not (folder / "log.csv").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(interrupt)
    found, _, err = finish(process)
    assert found == status, err
    assert re.fullmatch(
        r"Interrupted at step \d+ of 600, saved in .*safetensors: run the same again to go on.\n",
        err,
    )
    assert not runs.read(folder)["finished"]
    found, out, err = finish(start(tmp_path, *SHORT))
    assert found == 0, err
    assert "is trained, in " in out
    assert same_weights(folder, whole)
    assert len(logged(folder)) == 3
    assert not (folder / "checkpoint.safetensors").exists()


def test_minutes_end_as_a_signal_would(whole, tmp_path):
    """Shorter than any start-up: they are those of the steps, of which some are saved."""
    folder, reached = tmp_path / "runs/chapter/fvsbn", 0
    for _ in range(2):
        status, _, err = finish(start(tmp_path, *SHORT, "--minutes", 0.001))
        assert status == -signal.SIGTERM, err
        step = int(re.fullmatch(r"Interrupted at step (\d+) of 600, saved in .*\n", err)[1])
        assert step > reached
        reached = step
    found, _, err = finish(start(tmp_path, *SHORT, "--minutes", 10))
    assert found == 0, err
    assert same_weights(folder, whole)


def test_minutes_do_not_go_with_torchrun(here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, output = run("train", "made", "--minutes", 1)
    assert status == 2
    assert "--minutes does not go with torchrun" in output
    assert not Path("runs").exists()


def test_without_a_compiler_one_line_says_so(tmp_path):
    missing = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    status, _, err = finish(start(tmp_path, *SHORT, "--compile", env=ALONE | missing))
    assert status == 1
    assert err.startswith("Error: torch.compile failed here (")
    assert err.endswith("): leave out --compile\n")
    assert err.count("\n") == 1


def test_two_processes_give_what_one_gives(whole, tmp_path):
    """Up to the order of summation; and one of them speaks."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    process = start(tmp_path, *SHORT, launcher=launcher)
    status, out, err = finish(process)
    assert status == 0, err
    assert out.count("is trained") == 1
    folder = tmp_path / "runs/chapter/fvsbn"
    models = [runs.load("FVSBN", "chapter", x / "model.safetensors") for x in (folder, whole)]
    x = data.binarize(data.mnist().test.images[:1000].flatten(1), seed=2)
    scores = [evaluation.log_likelihoods(model, x) for model in models]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=0.02)
    first, second = ([float(row["train"]) for row in logged(each)] for each in (folder, whole))
    assert first == pytest.approx(second, abs=1e-3)


def test_two_processes_complain_once(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    arguments = ("train", "fvsbn", "--batch-size", 101, "--device", "cpu")
    status, _, err = finish(start(tmp_path, *arguments, launcher=launcher))
    assert status != 0
    told = "batch_size = 101 does not divide among 2 processes"
    assert err.count(f"Error: {told}") == 1
    assert err.count(f"Process 1: {told}") <= 1


# --- evaluate, sample, table, models, benchmark ---


def test_shipped_weights_are_scored(monkeypatch, tmp_path):
    few = data.mnist().test.images[:200]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "images", lambda preset: (None, None, few.flatten(1)))
    status, output = run("evaluate", "made", "--device", "cpu")
    assert status == 0
    assert output.startswith("MADE of the package\n")
    expected = evaluation.nll(
        comparison.shipped("MADE"), data.binarize(few.flatten(1), seed=2), 250
    )
    assert float(re.search(r"^nll: (.*)$", output, re.M)[1]) == round(expected.mean, 4)
    assert "published" not in output


def test_a_bound_is_scored_with_the_draws_that_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    few = data.mnist().test.images[:20].flatten(1)
    monkeypatch.setattr(runs, "images", lambda preset: (None, None, few))
    for draws, told in [([], "samples: 500\n"), (["--draws", 30], "samples: 30\n")]:
        status, output = run("evaluate", "vae", "--device", "cpu", *draws)
        assert status == 0
        assert told in output


def test_a_row_is_stored_on_request(here, monkeypatch):
    preset = Preset(
        "Autoregressive model",
        partial(FVSBN, 784),
        partial(by_gradient, batch_size=50, epochs=1),
        "exact",
        held_out=False,
        published=score("FVSBN", REDRAWN),
    )
    for presets in (PRESETS["paper"], full_scale.PAPER):
        monkeypatch.setitem(presets, "FVSBN", preset)
    monkeypatch.setattr(sys, "argv", ["__main__.py", "train", "fvsbn"])
    run("train", "fvsbn", "--preset", "paper", "--device", "cpu")
    arguments = ["evaluate", "fvsbn", "--preset", "paper", "--device", "cpu"]
    status, output = run(*arguments)
    assert status == 0
    assert results.rows("full-scale") == []
    assert "published: 96.58 (hotaj2020pytorch; training images thrown anew" in output
    status, output = run(*arguments, "--record")
    assert status == 0
    (row,) = results.rows("full-scale")
    assert f"nll: {row['values']['nll']}\n" in output
    assert row["provenance"]["command"] == "python -m companion train fvsbn"
    assert row["provenance"]["scored"]["command"] == "python -m companion train fvsbn"


def test_drawings_are_a_picture(here):
    weights = Path(comparison.__file__).parents[1] / "_data" / "weights" / "made.safetensors"
    model = CHAPTER["MADE"].build().half()
    training.load_model(model, weights)
    training.save_model(model.float(), "made.safetensors")
    arguments = ["sample", "made", "--weights", "made.safetensors", "--count", 7]
    status, output = run(*arguments, "--to", "a.png")
    assert status == 0
    assert output == "7 drawings of MADE of made.safetensors: a.png\n"
    picture = torch.tensor(np.array(Image.open("a.png")))
    sheet = (255 - picture[1::3, 1::3]).view(3, 28, 3, 28).transpose(1, 2).reshape(9, 784) / 255
    torch.manual_seed(0)
    with torch.no_grad():
        expected = comparison.drawings(model.eval(), 7)
    assert torch.equal(sheet[:7], expected)
    assert sheet[7:].sum() == 0
    run(*arguments, "--to", "b.png")
    run(*arguments, "--to", "c.png", "--seed", 1)
    a, b, c = (Path(f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    assert not [*Path().glob("*.tmp")]


def test_what_is_drawn_in_grey_is_shown_in_grey(here):
    model = CHAPTER["DCGAN"].build().eval()
    training.save_model(model, "dcgan.safetensors")
    given = ["--weights", "dcgan.safetensors", "--count", 1, "--device", "cpu"]
    assert run("sample", "dcgan", *given, "--to", "a.png")[0] == 0
    torch.manual_seed(0)
    expected = 255 * (1 - model.sample((1,))[0, 0].clamp(0, 1))
    shown = torch.tensor(np.array(Image.open("a.png")))[1::3, 1::3]
    assert (shown - expected).abs().max() <= 1
    assert len(shown.unique()) > 2


def test_a_run_that_is_not_finished_is_not_taken_for_the_package_s(here, monkeypatch):
    def interrupted(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", interrupted)
        run("train", "made", "--device", "cpu")
    checkpoint = Path("runs/chapter/vae/checkpoint.safetensors")
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"")
    for command, name in [("evaluate", "made"), ("sample", "made"), ("sample", "vae")]:
        status, output = run(command, name, "--device", "cpu")
        assert status == 1
        told = f"the run in runs/chapter/{name} is not finished: run train again, or name --weights"
        assert told in output
    assert not Path("samples.png").exists()
    training.save_model(CHAPTER["MADE"].build(), "made.safetensors")
    assert run("sample", "made", "--weights", "made.safetensors", "--device", "cpu")[0] == 0


def test_what_travels_can_be_named():
    weights = comparison.weights_of("MADE")
    found = runs.load("MADE", "chapter", weights)
    pairs = zip(found.parameters(), comparison.shipped("MADE").parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_is_not_scored_under_another_name(here, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: None)
    run("train", "vae", "--preset", "paper", "--out", "a", "--device", "cpu")
    for other in (["iwae-50", "--preset", "paper"], ["vae"]):
        status, output = run("evaluate", *other, "--out", "a", "--device", "cpu")
        assert status == 1
        assert "a holds a run of vae --preset paper: ask for that" in output
    few = ["--draws", 2, "--device", "cpu", "--preset", "paper"]
    status, output = run("evaluate", "vae", "--out", "a", *few)
    assert "published: 86.76" in output
    assert "not known" not in output
    status, output = run("evaluate", "vae", "--weights", "a/model.safetensors", *few)
    assert "not known to be trained by the preset's own recipe" in output
    run("train", "vae", "--preset", "paper", "--out", "b", "--epochs", 3, "--device", "cpu")
    status, output = run("evaluate", "vae", "--out", "b", *few)
    assert "not known to be trained by the preset's own recipe" in output


def test_weights_of_another_model_are_refused(here):
    training.save_model(FVSBN(784), "other.safetensors")
    status, output = run("evaluate", "made", "--weights", "other.safetensors")
    assert status == 1
    assert "other.safetensors holds another model" in output


def test_the_tables_are_those_of_the_book():
    status, output = run("table")
    assert status == 0
    assert len(command_line.TABLES) >= len(command_line.EXPERIMENTS)
    for name in command_line.TABLES:
        assert f"{name}\n\n| " in output
    status, output = run("table", "full-scale")
    assert output == f"full-scale\n\n{full_scale.table()}\n"


def test_an_experiment_gets_its_own_options(monkeypatch):
    for name, module in command_line.EXPERIMENTS.items():
        asked = []
        monkeypatch.setattr(module, "main", asked.append)
        status, _ = run("experiment", name, "--models", "MADE", "--seeds", 2, "--", "--help")
        assert status == 0
        assert asked == [["--models", "MADE", "--seeds", "2", "--help"]]
    assert run("experiment", "alchemy")[0] == 2


@pytest.mark.parametrize("scale", PRESETS)
def test_the_models_are_listed(scale):
    status, output = run("models", "--preset", scale)
    assert status == 0
    names = [line.partition(":")[0] for line in output.splitlines()]
    assert names == [runs.slug(name) for name in PRESETS[scale]]
    assert len({*names}) == len(names)
    for name, full in zip(names, PRESETS[scale], strict=True):
        assert runs.find(name, scale)[0] == runs.find(full, scale)[0] == full


def test_every_option_is_explained():
    for name, command in command_line.main.commands.items():
        status, output = run(name, "--help")
        assert status == 0
        assert command.help
        assert "Usage: " in output
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts[0]}"


def test_the_benchmark_prints_its_ratios(monkeypatch):
    arguments = ["--quick", "--rounds", 1, "--batch-size", 50, "--device", "cpu"]
    lines = command_line.in_training.LINES
    monkeypatch.setitem(lines, "FVSBN", lines["FVSBN"]._replace(count=100))
    status, output = run("benchmark", "FVSBN", *arguments)
    assert status == 0
    first, _, title, _, line, _, then, *_, last = output.splitlines()
    assert first.startswith(f"torch {torch.__version__}, ")
    assert (title, then) == ("training", "sampling")
    for each in (line, last):
        assert each.split()[:2] == ["FVSBN", "50"]
        assert float(each.split()[-1]) > 0
    status, output = run("benchmark", "nade-500", *arguments)
    assert status == 0
    assert "training" not in output
    asked = []
    for module in (command_line.in_training, command_line.in_sampling):
        monkeypatch.setattr(module, "main", lambda names, **_: asked.append(names))
    for name in ("gated-pixelcnn", "gated PixelCNN"):
        run("benchmark", name, "--device", "cpu")
    assert asked == [["gated PixelCNN"]] * 4, "one spelling for both tables"
    monkeypatch.setattr(command_line.in_training, "main", lambda names, **given: print(given))
    for flags, wanted in [((), False), (("--compile",), True)]:
        status, output = run("benchmark", "FVSBN", *arguments, *flags)
        assert status == 0, "the samplers know no --compile"
        assert f"'compiled': {wanted}" in output


@pytest.mark.parametrize(
    "command",
    [["evaluate", "fvsbn"], ["sample", "made"], ["benchmark"], ["experiment", "few-labels"]],
)
def test_only_training_takes_several_processes(command, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, output = run(*command)
    assert status != 0
    assert "only train takes several processes" in output


def test_presets_of_the_paper_are_not_those_of_the_chapter():
    for name in {*CHAPTER} & {*PAPER}:
        assert runs.recipe(CHAPTER[name]) != runs.recipe(PAPER[name])
