"""The benchmarks run; what they print is not judged here, since other work disturbs it."""

import contextlib
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from companion import benchmarks
from companion.benchmarks import sampling, training

CPU = torch.device("cpu")


def numbers(line):
    return [float(word.replace(",", "")) for word in line.split()[-4:]]


@torch.no_grad()
def test_the_sampling_benchmark_prints_a_ratio(capsys):
    sampling.main(["MADE 500"], batch_sizes=[2], pixels=2)
    *_, line = capsys.readouterr().out.splitlines()
    batch, naive, cached, ratio = numbers(line)
    assert line.startswith("MADE 500 ")
    assert batch == 2
    assert ratio == pytest.approx(naive / cached, rel=0.5, abs=1)
    assert ratio > 1


@torch.no_grad()
def test_the_sampling_benchmark_refuses_a_sampler_that_differs(monkeypatch):
    model = sampling.MADE(784, (5,))
    model.bias.data.normal_()
    sampling.require_equal(model.double(), 2)
    walk = sampling.MADE.walk
    monkeypatch.setattr(sampling.MADE, "walk", lambda *a: (logit + 1 for logit in walk(*a)))
    with pytest.raises(AssertionError, match="pixels of the samples differ"):
        sampling.require_equal(model, 2)


@pytest.mark.parametrize("name", training.LINES)
def test_the_training_benchmark_prints_ratios(name, monkeypatch, capsys):
    monkeypatch.setitem(training.LINES, name, training.LINES[name]._replace(peers={}))
    training.main([name], batch_sizes=[20], rounds=1, most=40)
    *_, line = capsys.readouterr().out.splitlines()
    batch, ours, by_hand, ratio = numbers(line)
    assert line.startswith(f"{name} ")
    assert batch == 20
    assert ratio == pytest.approx(ours / by_hand, rel=0.05, abs=0.01)


def test_a_batch_that_is_too_large_leaves_the_other_lines(capsys):
    training.main(["gated PixelCNN", "FVSBN"], batch_sizes=[600], rounds=1, most=600)
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first == "gated PixelCNN     600  more than the 512 examples"
    assert second.startswith("FVSBN ")


def test_other_libraries_stand_beside(monkeypatch, capsys):
    peers = {"abacus": lambda work: None, "missing": lambda work: None}
    monkeypatch.setitem(sys.modules, "abacus", SimpleNamespace(__spec__=True))
    line = training.LINES["FVSBN"]._replace(peers=peers)
    monkeypatch.setitem(training.LINES, "FVSBN", line)
    training.main(["FVSBN"], batch_sizes=[20], rounds=1, most=40)
    out = capsys.readouterr().out
    assert "abacus" in out
    assert "ours / abacus" in out
    assert "missing" not in out


@pytest.mark.parametrize("of_library", [False, True], ids=["by hand", "other networks"])
def test_ours_and_the_loop_by_hand_make_the_same_step(of_library):
    """On one batch, from the same weights; Adam makes a sign of what rounding leaves."""
    x, made = training.examples_of("binary", 20), []

    def build():
        torch.manual_seed(0)
        made.append(training.OfLogits(nn.Linear(784, 784)) if of_library else training._made())
        return made[-1]

    work = training.Work(x, 20)
    training.fitted(build, work)
    training.by_hand(partial(training.descent, build), work)
    ours, hand, before = (nn.utils.parameters_to_vector(m.parameters()) for m in (*made, build()))
    assert (ours - before).abs().mean() > 1e-4
    assert (ours - hand).abs().mean() < 1e-6


WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Tape(TorchDispatchMode):
    """A CUDA graph without CUDA: it records operations, each with the memory it read and wrote."""

    def __init__(self):
        super().__init__()
        self.operations, self.before, self.replays = [], [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in WAITS:
            raise RuntimeError(f"{function}: not permitted when a stream is capturing")
        if function._schema.is_mutable:
            self.before += [(each, each.clone()) for each in tensors((args, kwargs))]
        made = function(*args, **kwargs)
        self.operations.append((function, args, kwargs, made))
        return made

    @torch.no_grad()
    def undo(self):
        """CUDA records what it does not carry out."""
        for each, value in reversed(self.before):
            each.copy_(value)

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for function, args, kwargs, made in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(tensors(made), tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither a view nor in place
                    old.copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    """Tapes in place of CUDA graphs, and those that were made."""
    made = []

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            assert other is not self

    @contextlib.contextmanager
    def recorded(tape, stream):
        state = torch.get_rng_state()
        with tape:
            yield
        tape.undo()
        torch.set_rng_state(state)

    def new():
        made.append(Tape())
        return made[-1]

    pretended = {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "device": lambda device: contextlib.nullcontext(),
        "CUDAGraph": new,
        "graph": recorded,
    }
    for name, pretence in pretended.items():
        monkeypatch.setattr(torch.cuda, name, pretence)
    return made


LOOPS = {
    "one objective": (partial(training.descent, training._made), "binary"),
    "VAE": (training.vae_descent, "binary"),
    "two players": (partial(training.gan_descent, training.mode_collapse.networks), "points"),
}


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", LOOPS)
def test_the_captured_loop_learns_what_the_loop_by_hand_learns(name, precision, tapes, monkeypatch):
    make_step, kind = LOOPS[name]
    x, trained, fused_adam = training.examples_of(kind, 60), [], training.fused_adam
    given, work = x.clone(), training.Work(x, 20, precision, epochs=2)

    def remembering(module, *args):
        trained.append(module)
        return fused_adam(module, *args)

    monkeypatch.setattr(training, "fused_adam", remembering)
    torch.manual_seed(0)
    training.captured(make_step, work)
    torch.manual_seed(0)
    step = make_step(CPU, precision)
    for _ in range(3):
        step(x[:20].float())
    for batch in training.shuffled(work):
        step(batch.float())
    assert [tape.replays for tape in tapes] == [6]
    players = len(trained) // 2
    for ours, hand in zip(trained[:players], trained[players:], strict=True):
        pairs = zip(ours.parameters(), hand.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(x, given), "the examples stay as they were"


def test_a_step_that_waits_for_the_device_cannot_be_captured(tapes):
    with pytest.raises(RuntimeError, match="not permitted when a stream is capturing"):
        training.captured(
            lambda device, precision, capturable: lambda x: x.sum().item(),
            training.Work(torch.rand(4, 2), 2),
        )


def test_only_cuda_has_a_captured_loop():
    for line in training.LINES.values():
        assert "captured" not in training.programs_of(line, CPU)
        on_cuda = training.programs_of(line, torch.device("cuda"))
        assert list(on_cuda)[:3] == ["ours", "by hand", "captured"]
        assert on_cuda["captured"].args == on_cuda["by hand"].args == (line.step,)


def test_programs_take_turns_and_the_first_round_does_not_count(monkeypatch):
    ran, clock = [], iter(range(0, 1000, 2))
    monkeypatch.setattr(benchmarks, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    programs = {name: lambda name=name: ran.append(name) for name in "ab"}
    spent = benchmarks.take_turns(programs, 3, CPU)
    assert ran == [*"ba", *"ab", *"ba", *"ab"]
    assert spent == {"a": [2, 2, 2], "b": [2, 2, 2]}


def test_a_ratio_is_the_median_over_the_rounds():
    spent = {"ours": [1.0, 2.0, 10.0], "other": [3.0, 2.0, 10.0]}
    assert benchmarks.ratio(spent, "ours", "other") == 1
    assert benchmarks.ratio({"ours": [1.0], "other": [4.0]}, "ours", "other") == 4
