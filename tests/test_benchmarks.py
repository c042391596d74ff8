"""The benchmarks run; what they print is not judged here, since other work disturbs it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def test_the_sampling_benchmark_prints_a_ratio(monkeypatch, capsys):
    sampling = benchmark("sampling")
    arguments = ["--models", "MADE 500", "--batch-sizes", "2", "--quick", "2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["sampling.py", *arguments])
    sampling.main()
    name, *numbers = capsys.readouterr().out.splitlines()[-1].rsplit(maxsplit=4)
    assert name == "MADE 500"
    assert float(numbers[-1]) > 1


@torch.no_grad()
def test_the_sampling_benchmark_refuses_a_sampler_that_differs(monkeypatch):
    sampling = benchmark("sampling")
    model = sampling.MADE(784, (5,))
    model.bias.data.normal_()
    sampling.require_equal(model.double(), 2)
    walk = sampling.MADE.walk
    monkeypatch.setattr(sampling.MADE, "walk", lambda *a: (logit + 1 for logit in walk(*a)))
    with pytest.raises(AssertionError, match="pixels of the samples differ"):
        sampling.require_equal(model, 2)


def test_the_training_benchmark_prints_a_ratio(monkeypatch, capsys):
    training = benchmark("training")
    case = training.CASES["FVSBN"]._replace(images=200)
    monkeypatch.setitem(training.CASES, "FVSBN", case)
    arguments = ["--models", "FVSBN", "--batch-sizes", "100", "--rounds", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["training.py", *arguments])
    training.main()
    assert float(capsys.readouterr().out.splitlines()[-1].split()[-1]) > 0


def test_the_vae_benchmark_prints_ratios(monkeypatch, capsys):
    vae = benchmark("vae")
    monkeypatch.setattr(vae, "pythae", None)  # the benchmark's alone; the tests do without
    arguments = ["--batch-sizes", "50", "--rounds", "1", "--images", "200"]
    monkeypatch.setattr(sys, "argv", ["vae.py", *arguments])
    vae.main()
    batch_size, *speeds, ratio = map(
        lambda word: float(word.replace(",", "")), capsys.readouterr().out.splitlines()[-1].split()
    )
    assert batch_size == 50
    assert len(speeds) == 2
    assert min(speeds) > 0
    assert ratio > 0


def test_the_gan_benchmark_prints_ratios(monkeypatch, capsys):
    gan = benchmark("gan")
    arguments = ["--batch-sizes", "50", "--rounds", "1", "--images", "100", "--points", "200"]
    monkeypatch.setattr(sys, "argv", ["gan.py", *arguments])
    gan.main()
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.rsplit(maxsplit=4)[0] for line in lines] == [
        "points",
        "DCGAN, float32",
        "DCGAN, fast",
    ]
    assert all(float(line.split()[-1]) > 0 for line in lines)
