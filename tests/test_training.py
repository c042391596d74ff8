"""Training: exact resume, several processes, atomic files, early stop, clear errors, silence."""

import contextlib
import csv
import ctypes
import itertools
import json
import math
import os
import pickle
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import accelerate
import nbclient
import nbformat
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from companion import training
from companion.autoregressive import NADE, GatedPixelCNN
from companion.data import Batches
from companion.training import (
    CheckpointError,
    History,
    Run,
    checkpoint,
    devices,
    fit,
    load_model,
    logs,
    process,
    save_model,
)

ROOT = Path(__file__).parent.parent
EPOCHS, BATCH = 6, 20


class Noisy(nn.Module):
    """A small model with everything that makes resuming hard: dropout, and a draw in forward."""

    def __init__(self, features=8, dropout=0.2):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(features, 16),
            nn.BatchNorm1d(16),
            nn.Dropout(dropout),
            nn.Linear(16, features),
        )

    def forward(self, x):
        kept = torch.randperm(x.shape[-1], device=x.device) < x.shape[-1] // 2
        return -F.binary_cross_entropy_with_logits(
            self.net(x * kept).float(), x, reduction="none"
        ).sum(-1)


class Bernoulli(nn.Module):
    """Independent pixels; with unseen pixels far from 0, training data overfit at once."""

    def __init__(self, features=8, start=0.0):
        super().__init__()
        self.logits = nn.Parameter(torch.full((features,), start))

    def forward(self, x):
        logits = self.logits.expand_as(x)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def examples(n=200, features=8, seed=0, p=0.3):
    return (torch.rand(n, features, generator=torch.Generator().manual_seed(seed)) < p).byte()


def examples_but_for_one():
    """They differ where the first batch does not look."""
    x = examples()
    unseen = {*range(len(x))} - {*Batches(x, BATCH).indices(0).tolist()}
    x[min(unseen)] ^= 1
    return x


def make(kind=Noisy, seed=1, **arguments):
    torch.manual_seed(seed)
    return kind(**arguments)


def noisy_run(path=None, **settings):
    """The run that the resume tests interrupt: its weights and its history."""
    model = make()
    defaults = {"epochs": EPOCHS, "seed": 3, "clip": 1.0, "patience": 4, "device": "cpu"}
    history = fit(
        model, Batches(examples(), BATCH), examples(50, seed=1), path=path, **(defaults | settings)
    )
    return model.state_dict(), history


def assert_same(run, reference):
    (weights, history), (expected, expected_history) = run, reference
    assert history == expected_history
    assert weights.keys() == expected.keys()
    for name in expected:
        assert torch.equal(weights[name], expected[name]), name


# --- resume ---------------------------------------------------------------------------------


def slow_save_file(tensors, filename, metadata):
    """safetensors' save_file, a piece at a time, so that a kill can fall between two."""
    data = safetensors.torch.save(tensors, metadata)
    with open(filename, "wb") as file:
        for start in range(0, len(data), 200):
            file.write(data[start : start + 200])
            file.flush()


def killed_after(lines, function, *arguments, **keywords):
    """Run in a child process, and kill it (SIGKILL) after so many lines of the training code."""
    child = os.fork()
    if child == 0:
        try:
            left = itertools.count(lines, -1)
            ours = {__file__, *map(str, Path(training.__file__).parent.glob("*.py"))}

            def trace(frame, event, argument):
                if frame.f_code.co_filename not in ours:
                    return None
                if event == "line" and next(left) <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return trace

            checkpoint.save_file = slow_save_file
            clock = itertools.count().__next__
            training.run.time = SimpleNamespace(monotonic=clock, perf_counter=time.perf_counter)
            sys.settrace(trace)
            function(*arguments, **keywords)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("save_every", [0, 7], ids=["every step", "now and then"])
def test_killed_at_any_line_a_run_ends_bit_for_bit_where_it_would_have(tmp_path, save_every):
    path = tmp_path / "run.safetensors"
    reference = noisy_run()
    draw = random.Random(0)
    kills, steps, torn = 0, set(), 0
    for _ in range(25):
        if not killed_after(draw.randrange(100, 4500), noisy_run, path, save_every=save_every):
            break
        kills += 1
        torn += checkpoint.temporary(path).exists()
        if path.exists():
            steps.add(checkpoint.read(path)[1]["step"])
    assert_same(noisy_run(path), reference)
    assert kills >= 5
    assert len(steps) >= 3
    assert torn >= (save_every == 0)  # some kills fell into a save
    assert os.listdir(tmp_path) == [path.name]


def test_saving_does_not_change_a_run(tmp_path):
    assert_same(noisy_run(tmp_path / "a", save_every=0), noisy_run())


def test_a_finished_run_returns_at_once(tmp_path, monkeypatch):
    first = noisy_run(tmp_path / "run")
    (tmp_path / "run.tmp").write_bytes(b"of a run killed while saving")
    monkeypatch.setattr(Run, "descend", lambda *_: pytest.fail("trained again"))
    assert_same(noisy_run(tmp_path / "run"), first)
    assert os.listdir(tmp_path) == ["run"]


def test_resume_with_another_memory_layout(tmp_path):
    """Fused Adam needs its moments in the layout of the weights: channels last here."""

    def run(path=None, stop=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 1))
        model = model.to(memory_format=torch.channels_last)
        run = Run(8, path=path, device="cpu", save_every=0)
        call, optimizer = run.prepare(model=model, opt=training.adam(model.parameters(), 0.1))
        for x in run.batches(Batches(torch.rand(32, 4, 4, 4), 8)):
            if run.step == stop:
                break
            run.descend(optimizer, call(x).pow(2).mean())
        return model.state_dict(), run.history

    reference = run()
    run(tmp_path / "run", stop=5)
    assert_same(run(tmp_path / "run"), reference)


@pytest.fixture
def obeyed():
    """Both signals raise KeyboardInterrupt, also where the tests run in the background."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(signum, signal.default_int_handler) for signum in signals]
    yield signals
    for signum, handler in zip(signals, before, strict=True):
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_the_step_and_says_how_to_go_on(tmp_path, signum, obeyed, capfd):
    path = tmp_path / "run"

    class Interrupted(Noisy):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 7:
                signal.raise_signal(signum)  # in the middle of a step
            return super().forward(x)

    Interrupted.__name__ = "Noisy"  # it is to pass for one
    with pytest.raises(KeyboardInterrupt):
        fit(make(Interrupted), Batches(examples(), BATCH), epochs=2, path=path, device="cpu")
    assert checkpoint.read(path)[1]["step"] == 7
    assert f"step 7 of 20, saved in {path}" in capfd.readouterr().err

    resumed, whole = make(), make()
    fit(resumed, Batches(examples(), BATCH), epochs=2, path=path, device="cpu")
    fit(whole, Batches(examples(), BATCH), epochs=2, device="cpu")
    assert_same((resumed.state_dict(), 0), (whole.state_dict(), 0))
    assert all(signal.getsignal(s) is signal.default_int_handler for s in obeyed)


def test_a_limit_counts_from_the_first_batch_and_leaves_one_step_at_least(tmp_path, obeyed):
    """However short it is, called again and again the run ends."""
    path, data, calls = tmp_path / "run", Batches(examples(), BATCH), 0
    while True:
        calls, resumed = calls + 1, make()
        try:
            with process.limited(0.0):
                fit(resumed, data, epochs=1, path=path, device="cpu")
            break
        except KeyboardInterrupt:
            assert checkpoint.read(path)[1]["step"] == calls
    assert calls == 10, "the last step ends the run, and is not interrupted"
    whole = make()
    with process.limited(0.0):  # where nothing is saved, nothing is interrupted
        fit(whole, data, epochs=1, device="cpu")
    assert_same((resumed.state_dict(), 0), (whole.state_dict(), 0))
    assert process.limit == math.inf


def test_a_second_interrupt_acts_at_once(tmp_path, obeyed):
    run = Run(5, path=tmp_path / "run", device="cpu")
    batches = run.batches(Batches(examples(), BATCH))
    next(batches)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert not run.path.exists()


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_is_kept_for_the_next_step_and_handed_back_after_the_last():
    resource = pytest.importorskip("resource")

    def faults():  # pages asked of the system
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1])

    class Wide(nn.Module):
        """Its one large value, 100 MB, is freed at the end of each step."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            asked.append(faults())
            held.append(resident())
            return (self.weight * torch.ones(len(x), 25 * 2**20 // len(x))).mean(1)

    def train():
        fit(Wide(), Batches(examples(), BATCH), epochs=4, device="cpu")
        steps = [after - before for before, after in itertools.pairwise(asked)]
        asked.clear()
        return statistics.median(steps[-10:])

    asked, held, pages = [], [], 100 * 2**20 // resource.getpagesize()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "kept_memory", lambda wanted: contextlib.nullcontext())
        assert train() > pages / 2, "glibc itself hands the pages back, and asks for new ones"
    with process.kept_memory(True):
        pass
    block = torch.ones(2**26)
    before = resident()
    del block
    assert resident() < before - 2 * pages, "what is freed afterwards is handed back as before"
    held.clear()
    assert train() < pages / 100
    assert resident() < max(held) - pages


def test_afterwards_memory_is_as_glibc_leaves_it(monkeypatch):
    """`man mallopt`: its own limits grow to 32 MiB, and twice that at the heap's end."""
    libc, now = Mock(), {}
    libc.mallopt = now.__setitem__
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.39"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    with process.kept_memory(True):
        assert now == {-4: 0, -1: 2**31 - 1}
        with process.kept_memory(True):
            assert now[-4] == 0
        assert now[-4] == 0, "the run around it goes on"
    assert now == {-4: 65536, -3: 32 * 2**20, -1: 64 * 2**20}
    with process.kept_memory(False):
        assert now[-4] == 65536
    with process.kept_memory(True):
        assert now[-4] == 0
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with process.kept_memory(True):
        assert now[-4] == 65536, "someone has told glibc what to do"


def test_scoring_leaves_the_generators_as_they_were():
    model = make()
    run = Run(3, device="cpu")
    run.prepare(model=model)
    drawn = []
    for _ in run.batches(Batches(examples(), BATCH)):
        run.score(model, examples(50), BATCH)
        drawn.append(torch.rand(()).item())
        run.log(train=0.0)
    assert len({*drawn}) == 3
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    run.score(model, examples(50), BATCH)
    assert torch.rand(()) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0.55}, "epochs must be a whole number of at least 0, not 0.55"),
        ({"epochs": -1}, "of at least 0, not -1"),
        ({"warmup": 500}, "warmup is a fraction of the steps, 0 to 1, not 500"),
        ({"warmup": -0.1}, "0 to 1, not -0.1"),
        ({"warmup": math.nan}, "0 to 1, not nan"),
        ({"clip": -1.0}, "clip, the largest norm of the gradient, is above 0, not -1.0"),
        ({"clip": 0}, "above 0, not 0"),
        ({"validation": examples(0)}, "validation holds no examples: leave it out"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_trained(settings, message):
    model = make()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(model, Batches(examples(), BATCH), **{"epochs": 1, "device": "cpu"} | settings)
    assert all(map(torch.equal, before, model.parameters()))


def test_a_tensor_is_no_mini_batches():
    with pytest.raises(
        TypeError, match=re.escape("mini-batches, data.Batches(x, 100), not Tensor")
    ):
        fit(make(), examples(), epochs=1, device="cpu")


def test_files_that_hold_no_weights_are_told_apart(tmp_path):
    noisy_run(tmp_path / "run")
    with pytest.raises(CheckpointError, match="run is the checkpoint of a run: give a file of sav"):
        load_model(make(), tmp_path / "run")
    for use in (partial(load_model, make()), noisy_run):
        with pytest.raises(CheckpointError, match=f"{tmp_path} is a folder: name a file"):
            use(tmp_path)


# --- several processes ------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, torch
from torch import nn
from companion.data import Batches
from companion.nn import MaskedLinear
from companion.training import Run, adam, fit, save_model
from tests.test_training import Ordered, examples, make

torch.set_num_threads(1)
out, kill_at = sys.argv[1], int(sys.argv[2])
rank = int(os.environ.get("RANK", 0))

class Killed(Ordered):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + self.training
        if self.calls == kill_at and rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

model = make(Killed, seed=1 + rank)  # the first process's weights and order count
fit(model, Batches(examples(), 20), examples(50, seed=1), epochs=7, patience=5, clip=1.0,
    path=out + "/fit", save_every=0, device="cpu", log=out)
save_model(model, f"{out}/model-{rank}")

torch.manual_seed(1 + rank)
# Two players: several forwards before a backward, and gradients that cross the other player.
D = nn.Sequential(MaskedLinear(torch.rand(8, 8) < 0.5), nn.Linear(8, 1))
nn.init.normal_(D[0].weight)
G = nn.Linear(4, 8)
run = Run(30, device="cpu")
d, g, opt_D, opt_G = run.prepare(
    D=D, G=G, opt_D=adam(D.parameters(), 1e-2), opt_G=adam(G.parameters(), 1e-2))
for x in run.batches(Batches(examples(), 20)):
    assert len(x) == 20 // run.world
    z = x[:, :4]
    run.descend(opt_D, nn.functional.softplus(d(g(z).detach()) - d(x)).mean())
    run.descend(opt_G, nn.functional.softplus(-d(g(z))).mean())
    noise = torch.rand(3)
save_model(nn.ParameterList([noise]), f"{out}/noise-{rank}")
save_model(nn.ModuleList([D, G]), f"{out}/players-{rank}")
"""


class Ordered(nn.Module):
    """Its buffer must agree between processes; there is no noise."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.randperm(8), persistent=False)
        self.net = nn.Linear(8, 8)

    def forward(self, x):
        logits = self.net(x[..., self.order] * (torch.arange(8) < 4))
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def launch(folder, processes, kill_at=-1):
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), script, folder, str(kill_at)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_two_processes_agree_with_one_and_resume_exactly(tmp_path):
    for folder, processes in [("one", 1), ("two", 2)]:
        done = launch(tmp_path / folder, processes)
        assert done.returncode == 0, done.stderr
    assert launch(tmp_path / "killed", 2, kill_at=45).returncode != 0
    assert checkpoint.read(tmp_path / "killed/fit")[1]["step"] == 40
    done = launch(tmp_path / "killed", 2)
    assert done.returncode == 0, done.stderr

    load = lambda name: checkpoint.read(tmp_path / name)
    for name in ("model", "players"):
        one, two, other = (
            load(f"{p}/{name}-{r}")[0] for p, r in [("one", 0), ("two", 0), ("two", 1)]
        )
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-5)
            assert torch.equal(two[key], other[key]), f"{name}: the two processes differ in {key}"
    noise = [load(f"{p}/noise-{r}")[0]["0"] for p, r in [("one", 0), ("two", 0), ("two", 1)]]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[1], noise[2]), "each process draws for examples of its own"
    (one, one_record), (two, two_record), (again, again_record) = (
        load(f"{p}/fit") for p in ("one", "two", "killed")
    )
    for row, expected in zip(two_record["history"], one_record["history"], strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    for folder in ("one", "two", "killed"):
        epochs = [int(row["epoch"]) for row in logged(tmp_path / folder)]
        assert epochs == [1, 2, 3, 4, 5, 6, 7], "one process writes, and no row twice"
    assert again_record["history"] == two_record["history"]
    for key in two:
        assert torch.equal(again[key], two[key]), key


# --- what a step does -------------------------------------------------------------------------


def test_fit_climbs_to_the_maximum():
    x = examples(2000)
    model = Bernoulli()
    history = fit(model, Batches(x, 100), x, epochs=20, learning_rate=0.1, device="cpu")
    p = x.float().mean(0)
    optimum = (p * p.log() + (1 - p) * (1 - p).log()).sum().item()
    assert history["validation"][-1] == pytest.approx(optimum, abs=1e-3)
    assert history["validation"][0] < history["validation"][1] < optimum


def test_history_has_one_row_an_epoch():
    model, data, validation = make(), Batches(examples(), BATCH), examples(50, seed=1)
    history = fit(model, data, validation, epochs=3, schedule="constant", device="cpu")
    assert isinstance(history, History)
    assert json.loads(json.dumps(history)) == history
    assert [*history[0]] == ["epoch", "step", "train", "validation", "learning_rate"]
    assert history["epoch"] == [1, 2, 3]
    assert history["step"] == [10, 20, 30]
    assert history["learning_rate"] == [1e-3] * 3
    assert not model.training
    torch.manual_seed(0)
    score = Run(1, device="cpu").score(model, validation, BATCH)
    assert score == history["validation"][-1]


def test_history_is_the_mean_over_the_epoch():
    run = Run(25, device="cpu")
    logged = []
    for x in run.batches(Batches(examples(), BATCH)):
        logged.append(x.mean())
        run.log(grey=x.mean())
    assert run.history["epoch"] == [1, 2, 3]  # the last one unfinished
    for row, start, end in zip(run.history, (0, 10, 20), (10, 20, 25), strict=True):
        assert row["grey"] == pytest.approx(torch.stack(logged[start:end]).mean().item())


def test_the_global_random_numbers_are_as_they_were_found():
    torch.manual_seed(5)
    expected = torch.rand(3)
    model, data, x = make(), Batches(examples(), BATCH), examples(50)
    torch.manual_seed(5)
    fit(model, data, x, epochs=1, device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_every_step_draws_anew():
    draws = [
        torch.rand(()).item() for _ in Run(50, device="cpu").batches(Batches(examples(), BATCH))
    ]
    assert len(set(draws)) == 50
    again = [
        torch.rand(()).item() for _ in Run(50, device="cpu").batches(Batches(examples(), BATCH))
    ]
    assert again == draws


def test_the_seed_decides():
    assert_same(noisy_run(seed=1), noisy_run(seed=1))
    assert noisy_run(seed=1)[1] != noisy_run(seed=2)[1]


def test_clip_bounds_the_gradient():
    norms = []

    class Recording(torch.optim.SGD):
        def step(self):
            grads = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
            norms.append(torch.cat(grads).norm().item())
            super().step()

    for clip in (None, 0.05):
        fit(
            make(),
            Batches(examples(), BATCH),
            epochs=1,
            clip=clip,
            optimizer=Recording,
            device="cpu",
        )
    free, clipped = norms[:10], norms[10:]
    assert min(free) > 0.06
    assert clipped == pytest.approx([0.05] * 10, rel=1e-4)


def test_early_stop_ends_with_the_best_weights(tmp_path):
    """Trained on data whose pixels differ, the model passes the validation's optimum and leaves."""
    train, validation = examples(200, p=0.9), examples(500, seed=1, p=0.6)
    weights = []

    class Recording(Bernoulli):
        def train(self, mode=True):
            if not mode:
                weights.append(self.logits.detach().clone())
            return super().train(mode)

    def run():
        model = Recording()
        arguments = {"epochs": 30, "learning_rate": 0.02, "schedule": "constant", "device": "cpu"}
        path = tmp_path / "run"
        history = fit(model, Batches(train, 20), validation, patience=3, path=path, **arguments)
        return model, history

    model, history = run()
    best = max(range(len(history)), key=lambda i: history["validation"][i])
    assert 0 < best < len(history) - 1
    assert len(history) == best + 1 + 3
    assert torch.equal(model.logits, weights[best])
    assert not torch.equal(model.logits, weights[best + 1])
    again, same = run()
    assert same == history
    assert torch.equal(again.logits, model.logits)


def test_patience_needs_validation():
    with pytest.raises(ValueError, match="patience needs validation"):
        fit(make(), Batches(examples(), BATCH), epochs=1, patience=1)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("cosine", 0.0, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ("constant", 0.5, [0.5, 1, 1, 1]),
        (lambda t: 1 - t, 0.0, [1, 0.75, 0.5, 0.25]),
    ],
)
def test_schedule(schedule, warmup, expected):
    model = Bernoulli()
    run = Run(4, schedule=schedule, warmup=warmup, device="cpu")
    (optimizer,) = run.prepare(opt=torch.optim.SGD(model.parameters(), 0.1))
    rates = [optimizer.param_groups[0]["lr"] for _ in run.batches(Batches(examples(), BATCH))]
    assert rates == pytest.approx([0.1 * factor for factor in expected])
    assert optimizer.param_groups[0]["initial_lr"] == 0.1


def test_a_name_is_given_once():
    run = Run(1, device="cpu")
    for name in ("seed", "data", "kept"):
        with pytest.raises(ValueError, match=f"the name '{name}' is taken"):
            run.prepare(**{name: Bernoulli()})


def test_stepping_one_player_leaves_the_other_bit_for_bit():
    D, G = nn.Linear(8, 1), nn.Linear(4, 8)
    run = Run(20, device="cpu")
    d, g, opt_D, opt_G = run.prepare(
        D=D, G=G, opt_D=training.adam(D.parameters(), 0.1), opt_G=training.adam(G.parameters(), 0.1)
    )
    bits = lambda module: [p.detach().clone() for p in module.parameters()]
    same = lambda module, before: list(map(torch.equal, module.parameters(), before))
    for x in run.batches(Batches(examples(), BATCH)):
        D_before, G_before = bits(D), bits(G)
        fake = d(g(x[:, :4]))  # the discriminator's loss is not detached, on purpose
        run.descend(opt_D, (F.softplus(fake) + F.softplus(-d(x))).mean())
        assert all(same(G, G_before))
        assert not any(same(D, D_before))
        D_before = bits(D)
        run.descend(opt_G, F.softplus(-d(g(x[:, :4]))).mean())
        assert all(same(D, D_before))
        assert not any(same(G, G_before))


def test_gradients_do_not_add_up_between_players():
    a, b = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    run = Run(3, device="cpu")
    opt_a, opt_b = run.prepare(a=torch.optim.SGD([a], 1.0), b=torch.optim.SGD([b], 1.0))
    for _ in run.batches(Batches(examples(), BATCH)):
        run.descend(opt_b, b - 100 * a)  # leaves its gradient in a
        run.descend(opt_a, a + b)
    assert (a.item(), b.item()) == (-2.0, -2.0)


# --- precision and devices ----------------------------------------------------------------------


def test_bf16_trains_on_the_cpu_and_leaves_the_model_as_it_was():
    dtypes = set()

    class Watching(Noisy):
        def forward(self, x):
            dtypes.add(self.net(x).dtype)
            return super().forward(x)

    model = make(Watching)
    for precision, dtype in [
        ("bf16", torch.bfloat16),
        ("no", torch.float32),
        ("bf16", torch.bfloat16),
    ]:
        dtypes.clear()
        history = fit(
            model,
            Batches(examples(), BATCH),
            examples(50),
            epochs=4,
            precision=precision,
            device="cpu",
        )
        assert dtypes == {dtype}
        assert history["train"][-1] > history["train"][0]
        dtypes.clear()
        model(examples().float())
        assert dtypes == {torch.float32}
        assert model.__dict__.keys() == Watching().__dict__.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "float16"}, "precision: one of no, bf16, fp16, fast, not 'float16'"),
        ({"precision": "fp16", "device": "cpu"}, "fp16 needs a GPU"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not here"),
        ({"device": "toaster"}, "device 'toaster' is not here"),
        ({"device": "meta"}, "device 'meta' is not here"),
        ({"device": "privateuseone"}, "device 'privateuseone' is not here"),
        ({"schedule": "linear"}, "schedule: a function or one of"),
    ],
)
def test_settings_that_do_not_exist(arguments, message):
    with pytest.raises(ValueError, match=message):
        Run(1, **arguments)


def test_a_device_that_is_not_here_is_told_in_a_sentence():
    with pytest.raises(ValueError, match="xla") as caught:  # of which torch tells seven pages
        devices.usable("xla")
    assert "XLA" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_every_process_of_torchrun_begins_on_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)  # as if there were eight
    assert devices.usable("cuda") == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(devices, "default", lambda: torch.device("cuda"))
    assert devices.usable("cuda") == devices.usable(None) == torch.device("cuda:3")
    assert devices.usable("cuda:5") == torch.device("cuda:5")
    assert devices.usable("cpu") == torch.device("cpu")
    with pytest.raises(
        ValueError, match="torchrun deals out the devices: ask for 'cuda', not cuda:5"
    ):
        devices.accelerator("cuda:5", "no")
    engine = SimpleNamespace(device="its own")
    monkeypatch.setattr(devices.accelerate, "Accelerator", lambda **_: engine)
    assert devices.accelerator(devices.usable("cuda"), "no") == (engine, "its own")


@pytest.mark.parametrize(("precision", "allowed"), [("no", False), ("bf16", True)])
def test_float32_is_not_tf32(precision, allowed):
    flag, seen = torch.backends.cudnn, []
    before, flag.allow_tf32 = flag.allow_tf32, True
    try:
        run = Run(2, device="cpu", precision=precision)
        for _ in run.batches(Batches(examples(), BATCH)):
            seen.append(flag.allow_tf32)
        assert seen == [allowed] * 2
        layer = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
        layer.register_forward_hook(lambda *_: seen.append(flag.allow_tf32))
        run.score(layer, torch.ones(4, 5), 4)
        assert seen == [allowed] * 3
        assert flag.allow_tf32, "as it was before"
    finally:
        flag.allow_tf32 = before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="an older torch")
@pytest.mark.parametrize("kind", ["conv", "rnn"])
@pytest.mark.parametrize("wish", ["ieee", "tf32"])
def test_float32_is_not_tf32_whatever_the_newer_settings_say(kind, wish):
    setting = getattr(torch.backends.cudnn, kind)
    before, setting.fp32_precision = setting.fp32_precision, wish
    try:
        with process.float32():
            assert setting.fp32_precision == "ieee"
        assert setting.fp32_precision == wish
    finally:
        setting.fp32_precision = before


def test_a_run_keeps_its_precision_when_another_is_made(monkeypatch):
    """Autocast that is told no type takes fp16 on CUDA."""
    run, asked, autocast = Run(1, device="cpu", precision="bf16"), [], torch.autocast
    Run(1, device="cpu", precision="no")

    def listening(device_type, dtype=None):
        asked.append((device_type, dtype))
        return autocast(device_type, dtype)

    monkeypatch.setattr(torch, "autocast", listening)
    layer = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    run.score(layer, torch.ones(4, 5), 4)
    assert asked == [("cpu", torch.bfloat16)]
    run.prepare(layer=layer)
    assert asked[1:] == [("cpu", torch.bfloat16)]


def test_what_accelerate_knows_of_the_device_is_kept():
    """Made anew, it would ask nvidia-smi at every training on a GPU."""
    devices.accelerator("cpu", "no")
    known = accelerate.PartialState._shared_state
    known["mark"] = True
    try:
        engine, _ = devices.accelerator("cpu", "bf16")
        assert engine.mixed_precision == "bf16"
        assert "mark" in known
    finally:
        known.pop("mark", None)


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "run"

    class Breaking(Bernoulli):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (float("nan") if self.calls == 14 else 1)

    with pytest.raises(FloatingPointError, match=r"step 13: train = nan .*still holds"):
        fit(Breaking(), Batches(examples(), BATCH), epochs=3, path=path, save_every=0, device="cpu")
    tensors, record = checkpoint.read(path)
    assert record["step"] == 13
    assert tensors["model/logits"].isfinite().all()
    with pytest.raises(FloatingPointError, match="step 13"):  # without saves: at the epoch's end
        fit(Breaking(), Batches(examples(), BATCH), epochs=3, device="cpu")


def test_nan_weights_are_not_saved(tmp_path):
    model, path = Bernoulli(), tmp_path / "run"
    run = Run(5, path=path, save_every=0, device="cpu")
    call, optimizer = run.prepare(model=model, opt=torch.optim.SGD(model.parameters(), 0.1))

    def loop():
        for x in run.batches(Batches(examples(), BATCH)):
            run.descend(optimizer, call(x).mean() * (math.inf if run.step == 2 else 1))

    with pytest.raises(FloatingPointError, match="step 2: a weight of model is not finite"):
        loop()
    assert checkpoint.read(path)[1]["step"] == 2


def test_one_file_imports_accelerate():
    importing = [
        path.name
        for path in (ROOT / "companion").rglob("*.py")
        if re.search(r"^\s*(import|from) accelerate\b", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert importing == ["devices.py"]


# --- files --------------------------------------------------------------------------------------


def test_nothing_pickles(tmp_path, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("pickle")

    for module, name in [(pickle, "loads"), (pickle, "load"), (pickle, "dumps"), (pickle, "dump")]:
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    path = tmp_path / "run"
    noisy_run(path, epochs=2, save_every=0)
    noisy_run(path, epochs=2)
    save_model(make(), tmp_path / "model")
    load_model(make(), tmp_path / "model")
    with safetensors.safe_open(path, framework="pt") as file:
        names = set(file.keys())
        assert json.loads(file.metadata()["record"])["step"] == 20
    assert {"model/net.0.weight", "kept/net.0.weight", "optimizer/0/exp_avg"} <= names


def late(progress):
    """The cosine, but for the end."""
    return training.run.SCHEDULES["cosine"](min(progress, 0.9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed: 3 there, 4 here"),
        ({"epochs": 7}, "steps: 60 there, 70 here"),
        ({"clip": None}, "clip: 1.0 there, None here"),
        ({"learning_rate": 0.1}, "optimizer/groups: .*0.001.* there, .*0.1.* here"),
        ({"optimizer": torch.optim.SGD}, "optimizer/class: Adam there, SGD here"),
        ({"schedule": "constant"}, "schedule: "),
        ({"schedule": late}, "schedule: "),
        ({"precision": "bf16"}, "precision: no there, bf16 here"),
    ],
)
def test_the_checkpoint_of_other_settings_is_refused(tmp_path, change, message):
    noisy_run(tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=rf"(?s)run is the checkpoint of another run.*{message}"
    ):
        noisy_run(tmp_path / "run", **change)


def test_what_fast_meant_is_part_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(training.devices, "fast_precision", lambda device: "bf16")
    noisy_run(tmp_path / "run", epochs=1, precision="fast")
    noisy_run(tmp_path / "run", epochs=1, precision="bf16")
    monkeypatch.setattr(training.devices, "fast_precision", lambda device: "no")
    with pytest.raises(CheckpointError, match="precision: bf16 there, no here"):
        noisy_run(tmp_path / "run", epochs=1, precision="fast")


def replaced(model, layer):
    model.net[2] = layer
    return model


def test_a_module_s_configuration_is_what_its_tensors_do_not_tell():
    class Priced(nn.Module):
        def __init__(self, weight, price, watch=None):
            super().__init__()
            self.weight, self.price, self.layer, self._calls = weight, price, nn.ELU(0.5), 3
            self.watch = watch

    class Radius:
        def __init__(self, radius):
            self.radius, self._drawn, self.noise = radius, 0, torch.Generator()

        def __call__(self):
            return self.radius

    told = checkpoint.configuration(Priced((1, 2.0), Radius(50), [partial(max, key=abs), abs]))
    assert told == {
        "whole": {
            "class": "Priced",
            "weight": "[1, 2.0]",
            "price": "Radius(radius=50)",
            "watch": "['max(key=abs)', 'abs']",
        },
        "layer": {"class": "ELU", "alpha": "0.5", "inplace": "False"},
    }
    assert "weight" not in checkpoint.configuration(Priced(torch.ones(1), None))["whole"]


def test_a_checkpoint_is_of_the_data_and_not_of_one_device_s_noise(tmp_path, monkeypatch):
    """A run may go on where noise is drawn in another way, as on a GPU."""

    def run(last):
        model, noisy = make(features=8), Batches(examples() * 100, BATCH, dynamic=True)
        run = Run(20, path=tmp_path / "run", device="cpu", save_every=0)
        call, optimizer = run.prepare(model=model, opt=training.adam(model.parameters(), 0.1))
        for x in run.batches(noisy):
            run.descend(optimizer, -call(x).mean())
            if run.step + 1 == last:
                run.stop()
        return run.step

    assert run(5) == 5
    monkeypatch.setattr(Batches, "_noise", lambda self, step: torch.zeros(BATCH, 8).byte())
    tensors, record = checkpoint.read(tmp_path / "run")
    checkpoint.write(tmp_path / "run", tensors, record | {"finished": False})
    assert run(0) == 20


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (lambda: make(features=8), lambda: Batches(examples(p=0.4), BATCH), "data/checksum"),
        (
            lambda: make(features=8),
            lambda: Batches(examples(), BATCH, seed=1),
            "data/seed: 0 there, 1",
        ),
        (lambda: make(features=8), lambda: Batches(examples(), 10), "data/batches: 10 there, 20"),
        (lambda: make(features=8), lambda: Batches(examples_but_for_one(), BATCH), "data/images"),
        (
            lambda: make(features=9),
            lambda: Batches(examples(features=9), BATCH),
            r"model/net.0.weight: torch.float32 \[16, 8\] there, torch.float32 \[16, 9\] here",
        ),
        (
            lambda: make(dropout=0.5),
            lambda: Batches(examples(), BATCH),
            r"model/net.2/p: 0.2 there, 0.5 here",
        ),
        (
            lambda: replaced(make(), nn.AlphaDropout(0.2)),
            lambda: Batches(examples(), BATCH),
            "model/net.2/class: Dropout there, AlphaDropout here",
        ),
    ],
)
def test_the_checkpoint_of_another_model_or_data_is_refused(tmp_path, model, data, message):
    path = tmp_path / "run"
    fit(make(), Batches(examples(), BATCH), epochs=1, path=path, device="cpu")
    with pytest.raises(CheckpointError, match=rf"(?s){path}.*{message}"):
        fit(model(), data(), epochs=1, path=path, device="cpu")


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_last(tmp_path, monkeypatch):
    path = tmp_path / "model"
    save_model(make(seed=1), path)
    before, calls = path.read_bytes(), []

    def recorded(function):
        def record(*arguments):
            calls.append((function.__name__, path.read_bytes() == before))
            return function(*arguments)

        return record

    monkeypatch.setattr(os, "fsync", recorded(os.fsync))
    monkeypatch.setattr(os, "replace", recorded(os.replace))
    save_model(make(seed=2), path)
    assert calls == [("fsync", True), ("replace", True), ("fsync", False)]


def test_functions_in_words():
    in_words, nested = checkpoint.in_words, partial(partial(NADE, 784), bound=partial(max, key=abs))
    assert in_words(nested) == "NADE(784, bound=max(key=abs))"
    outer = partial(max, 1)
    outer.note = ""  # with an attribute of its own, it is not merged into the next
    assert in_words(partial(outer, key=abs)) == "max(1)(key=abs)"
    assert in_words(NADE) == "NADE"
    assert in_words(nn.Flatten()) == "Flatten", "what can be called and has no name"
    assert in_words("cosine") == "cosine"
    assert in_words(0.5) == 0.5
    assert in_words((0.0, NADE)) == [0.0, "NADE"]


TOO_LARGE = """
import resource, sys
from pathlib import Path
from torch import nn
from companion.training import save_model
path = Path(sys.argv[1])
save_model(nn.Linear(1, 1), path)
before = path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_model(nn.Linear(100, 100), path)
except OSError as error:
    print(error)
assert path.read_bytes() == before
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on files")
def test_a_full_disk_is_told_and_leaves_no_half_of_a_file(tmp_path):
    path = tmp_path / "model"
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path} cannot be written (")
    assert os.listdir(tmp_path) == ["model"]


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "run"
    noisy_run(path, epochs=1)
    data = path.read_bytes()
    for spot in (0, 300, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:spot])
        with pytest.raises(CheckpointError, match=f"{path} is damaged.*; delete it to start anew"):
            noisy_run(path, epochs=1)
        with pytest.raises(CheckpointError, match="damaged, or no file of this package") as caught:
            load_model(make(), path)
        assert "delete" not in str(caught.value), "it may be the only copy, or not ours"
    for spot in (len(data) // 2, len(data) - 1):  # one bit
        path.write_bytes(data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :])
        with pytest.raises(CheckpointError, match=f"{path} is damaged"):
            noisy_run(path, epochs=1)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not written by this package"):
        noisy_run(path, epochs=1)


def test_save_and_load_a_model(tmp_path):
    model, path = make(seed=1), tmp_path / "folder" / "model"
    save_model(model, path)
    other = load_model(make(seed=2), path)
    assert_same((other.state_dict(), 0), (model.state_dict(), 0))
    with pytest.raises(
        CheckpointError, match=r"(?s)another model.*net.0.weight: .*8\] there, .*9\]"
    ):
        load_model(make(features=9), path)
    save_model(make(Ordered, seed=1), path)
    with pytest.raises(CheckpointError, match="constant buffers"):  # another order: another model
        load_model(make(Ordered, seed=2), path)
    with pytest.raises(FileNotFoundError):
        load_model(model, tmp_path / "none")


# --- progress -----------------------------------------------------------------------------------


def test_silent_unless_asked(capfd, monkeypatch):
    noisy_run()
    assert capfd.readouterr() == ("", "")
    noisy_run(progress=True)
    assert "1.20k/1.20k" in capfd.readouterr().err, "of examples"
    monkeypatch.setenv("COMPANION_PROGRESS", "1")
    noisy_run()
    assert " examples/s" in capfd.readouterr().err
    monkeypatch.setenv("COMPANION_PROGRESS", "0")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    noisy_run()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("person", [False, True], ids=["stored", "live"])
def test_stored_outputs_hold_no_bar(person):
    """nbclient executes as nbconvert, papermill and the book do: nobody could type an answer."""
    code = "from companion.training.process import watched; print(watched())"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])

    class Client(nbclient.NotebookClient):
        async def async_start_new_kernel_client(self, **keywords):
            client = await super().async_start_new_kernel_client(**keywords)
            client.allow_stdin = person  # what a front end with a person tells the kernel
            return client

    Client(notebook, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert notebook.cells[0].outputs[0].text == f"{person}\n"


# --- logs ---------------------------------------------------------------------------------------


def logged(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_log_has_a_row_an_epoch_as_the_history_does(tmp_path):
    _, history = noisy_run(log=tmp_path / "new")
    rows = logged(tmp_path / "new")
    assert [float(row.pop("examples_per_second")) > 0 for row in rows] == [True] * EPOCHS
    seconds = [float(row.pop("seconds")) for row in rows]
    assert seconds == sorted(seconds)
    assert [{k: float(v) for k, v in row.items()} for row in rows] == history
    assert_same(noisy_run(), noisy_run(log=tmp_path / "again"))


def test_the_speed_is_of_the_examples_since_the_row_before(tmp_path, monkeypatch):
    clock = iter([10.0, 12.0, 17.0])
    monkeypatch.setattr(logs, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    log = logs.Log(tmp_path, 4, batch_size=10)
    log.add({"step": 10}, 2.04)
    log.add({"step": 20}, 7.0)
    assert [row["seconds"] for row in logged(tmp_path)] == ["2.0", "7.0"]
    assert [row["examples_per_second"] for row in logged(tmp_path)] == ["30.0", "20.0"]


class Killed(Exception):
    pass


def run_and_kill(path, monkeypatch, saved, killed):
    """A logged run that saves before one step, and dies before another or the same."""
    descend = Run.descend

    def mortal(run, *arguments):
        if run.step == saved:
            run.save()
        if run.step == killed:
            raise Killed
        descend(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "descend", mortal)
        with pytest.raises(Killed):
            noisy_run(path, log=path.parent)


def test_a_run_that_goes_on_leaves_no_row_twice(tmp_path, monkeypatch):
    """It saved in epoch 3, logged epoch 4, and was killed in epoch 5."""
    path = tmp_path / "run"
    run_and_kill(path, monkeypatch, saved=25, killed=45)
    before = logged(tmp_path)
    assert [row["epoch"] for row in before] == ["1", "2", "3", "4"]
    _, history = noisy_run(path, log=tmp_path)
    rows = logged(tmp_path)
    assert [int(row["epoch"]) for row in rows] == [row["epoch"] for row in history]
    assert rows[:2] == before[:2], "with the speed that they had"
    assert [float(row["train"]) for row in rows] == history["train"]


def test_a_log_that_is_lost_is_written_again(tmp_path, monkeypatch):
    path = tmp_path / "run"
    run_and_kill(path, monkeypatch, saved=25, killed=25)
    (tmp_path / "log.csv").unlink()
    _, history = noisy_run(path, log=tmp_path)
    assert [float(row["train"]) for row in logged(tmp_path)] == history["train"]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"step\nx\n", b"\xff\xfe"])
def test_a_log_of_something_else_is_kept_aside(tmp_path, monkeypatch, capfd, content):
    path = tmp_path / "run"
    run_and_kill(path, monkeypatch, saved=25, killed=25)
    (tmp_path / "log.csv").write_bytes(content)
    (tmp_path / "log-1.csv").write_bytes(b"mine")
    _, history = noisy_run(path, log=tmp_path)
    assert [float(row["train"]) for row in logged(tmp_path)] == history["train"]
    assert (tmp_path / "log-1.csv").read_bytes() == b"mine"
    assert (tmp_path / "log-2.csv").read_bytes() == content
    assert "log.csv was no log of a run: it is now log-2.csv" in capfd.readouterr().err


def test_the_seconds_of_a_run_include_those_before_an_interruption(tmp_path, monkeypatch):
    """Saved after 100 s of them; what follows adds to that."""
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "seconds", 100.0)
        noisy_run(path, log=tmp_path / "first")
    tensors, record = checkpoint.read(path)
    assert record["seconds"] == 100
    record["finished"], record["step"] = False, 40
    checkpoint.write(path, tensors, record)
    noisy_run(path, log=tmp_path / "second")
    assert 100 <= float(logged(tmp_path / "second")[-1]["seconds"]) < 130


def test_tensorboard_is_told_the_same(tmp_path, monkeypatch):
    told = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        flush = close = lambda self: told.append("kept")

    board = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    _, history = noisy_run(log=tmp_path, epochs=1)
    (row,) = logged(tmp_path)
    times = {name: float(row[name]) for name in ("seconds", "examples_per_second")}
    assert told[0] == (str(tmp_path), 1)
    wanted = {name: history[0][name] for name in ("train", "validation", "learning_rate")}
    assert {*told[1:-2]} == {(name, value, 10) for name, value in (wanted | times).items()}
    assert told[-2:] == ["kept", "kept"], "flushed, then closed"


def test_without_tensorboard_there_is_a_csv_file_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    noisy_run(log=tmp_path, epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_compiled_run_calls_compiled_modules(monkeypatch):
    """That the code is faster is torch's concern; that it is asked for, once a module, is ours."""
    asked, begun = [], []

    def compiled(module, mode):
        asked.append((type(module), mode))
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    noisy_run(epochs=1)
    assert asked == begun == []
    weights, history = noisy_run(epochs=1, compiled=True)
    assert asked == [(Noisy, None)], "the module, and not what accelerate has made of it"
    assert len(begun) == history[-1]["step"], "once a step"
    assert_same((weights, []), (noisy_run(epochs=1)[0], []))


def test_a_compiled_run_logs_values_that_the_next_step_may_overwrite(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, mode: module)
    run, model = Run(2, device="cpu", compiled=True), make(features=8)
    run.prepare(model=model)
    output = torch.zeros(())  # as a CUDA graph, whose every replay fills the same memory
    for _ in run.batches(Batches(examples(), BATCH)):
        run.log(value=output.add_(1))
    assert run.history["value"] == [1.5]


# --- the autoregressive models, which bring sums in blocks and other memory layouts -------------

AUTOREGRESSIVE = {
    "NADE": lambda: NADE(12, 6),
    "GatedPixelCNN": lambda: GatedPixelCNN((3, 4), 4, 2, kernel=3, first_kernel=5),
}


def pictures(n=200, seed=0):
    return examples(n, features=12, seed=seed)


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_an_autoregressive_model_resumes_bit_for_bit(tmp_path, name):
    def run(path=None, stop=None, seed=1):
        model = make(AUTOREGRESSIVE[name], seed)
        run = Run(15, path=path, device="cpu", save_every=0)
        call, optimizer = run.prepare(model=model, opt=training.adam(model.parameters(), 0.1))
        for x in run.batches(Batches(pictures(), BATCH)):
            if run.step == stop:
                break
            run.descend(optimizer, -call(x).mean())
        return model.state_dict(), run.history

    reference = run()
    run(tmp_path / "run", stop=8)
    assert_same(run(tmp_path / "run", seed=2), reference)


PROCESS = """
import os, sys, torch
from companion.training import save_model
from tests.test_training import AUTOREGRESSIVE, fitted

torch.set_num_threads(1)
rank = int(os.environ["RANK"])
for name in AUTOREGRESSIVE:
    save_model(fitted(name, seed=1 + rank), f"{sys.argv[1]}/{name}-{rank}")
"""


def fitted(name, seed=1):
    model = make(AUTOREGRESSIVE[name], seed)
    fit(model, Batches(pictures(), BATCH), pictures(50, seed=1), epochs=3, device="cpu")
    return model


def test_two_processes_agree_with_one_on_autoregressive_models(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", PROCESS)
    done = launch(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    for name in AUTOREGRESSIVE:
        two, other = (checkpoint.read(tmp_path / f"{name}-{rank}")[0] for rank in range(2))
        for key, one in fitted(name).state_dict().items():
            torch.testing.assert_close(two[key], one, rtol=1e-4, atol=1e-5)
            assert torch.equal(two[key], other[key]), f"{name}: the processes differ in {key}"


@pytest.mark.parametrize("clip", [None, 1.0])
def test_descend_resets_and_clips_every_group_of_its_own_player_alone(clip):
    a, b, other = (nn.Parameter(torch.ones(())) for _ in range(3))
    run = Run(1, device="cpu")
    groups = [{"params": [a]}, {"params": [b], "lr": 2.0}]
    mine, _ = run.prepare(mine=torch.optim.SGD(groups, 1.0), theirs=torch.optim.SGD([other], 1.0))
    for _ in run.batches(Batches(torch.zeros(4, 1), 4)):
        for parameter in (a, b, other):
            parameter.grad = torch.tensor(100.0)
        run.descend(mine, 3 * a + 4 * b + 12 * other, clip)
    scale = 1 if clip is None else 1 / 5  # the norm of (3, 4), not of (3, 4, 12)
    assert (a.item(), b.item()) == pytest.approx((1 - 3 * scale, 1 - 8 * scale))
    assert (other.item(), other.grad.item()) == (1, 112)
