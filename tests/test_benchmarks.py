"""The benchmarks run; what they print is not judged here, since other work disturbs it."""

import contextlib
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

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


@pytest.fixture
def recorder(monkeypatch):
    """CUDA graphs without CUDA: what is recorded is not carried out, what is replayed is."""
    told, streams = [], []

    class Graph:
        def replay(self):
            told.append("replay")
            self.step()

    class Stream:
        def wait_stream(self, other):
            told.append((streams.index(self), streams.index(other)))

    @contextlib.contextmanager
    def used(stream):
        told.append("aside")
        yield
        told.append("back")

    @contextlib.contextmanager
    def recorded(graph):
        told.append("record")
        yield
        told.append("recorded")

    def new(*_):
        streams.append(Stream())
        return streams[-1]

    current = new()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    monkeypatch.setattr(torch.cuda, "Stream", new)
    monkeypatch.setattr(torch.cuda, "stream", used)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    return SimpleNamespace(told=told, Graph=Graph)


def test_the_captured_loop_replays_its_one_step_on_every_batch(recorder):
    """Of a graph that, as CUDA's, knows the memory of the batch it was recorded with."""
    seen = []

    def make_step(device, precision):
        def step(x):
            recorder.told.append("step")
            recorder.Graph.step = staticmethod(lambda: seen.append(x.clone()))

        return step

    examples = torch.arange(12.0)
    training.captured(make_step, training.Work(examples, 4, epochs=2))
    ready = [(1, 0), "aside", "step", "step", "step", "back", (0, 1)]
    assert recorder.told == [*ready, "record", "step", "recorded", *["replay"] * 6]
    assert torch.equal(examples, torch.arange(12.0)), "the examples stay as they were"
    for epoch in (seen[:3], seen[3:]):
        assert torch.equal(torch.cat(epoch).sort().values, examples)


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
