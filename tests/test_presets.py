"""The presets: they build, `fit` takes their settings, and precision follows the processor."""

import inspect
from pathlib import Path

import pytest
import torch

from companion import training
from companion.nn import free_parameters
from companion.presets import PRESETS

REFERENCES = Path(__file__).parent.parent / "book" / "references.bib"
D = 784
PARAMETERS = {
    "FVSBN": D * (D + 1) // 2,
    "NADE": 2 * D * 500 + 500 + D,
    # A unit of degree m has m weights below and D - m above; output biases; direct connections.
    "MADE": 8000 * (D + 1) + D + D * (D - 1) // 2,
    # First layer, 24 of 49 places seen; 15 layers, 5 of 9; output; biases of the pixels.
    "PixelCNN": (24 * 32 + 32) + 15 * (5 * 32**2 + 32) + 32 + D,
    # First layers; offsets; per layer vertical, horizontal, link, residual; head; pixels' biases.
    "Gated PixelCNN": (3 * 7 + 1) * 128
    + (3 + 1) * 128
    + 2 * 128 * D
    + 10 * ((2 * 3 + 2) * 128 * 256 + 2 * 256 + 256**2 + 256 + 128**2 + 128)
    + (128**2 + 128 + 128)
    + D,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_and_scores(name):
    preset = PRESETS[name]
    model = preset.model()
    assert model.features == D
    assert free_parameters(model) == PARAMETERS[name]
    assert model(torch.zeros(2, D)).isfinite().all()


@pytest.mark.parametrize("name", PRESETS)
def test_fit_takes_the_settings(name):
    preset = PRESETS[name]
    inspect.signature(training.fit).bind(None, None, **preset.settings)
    assert preset.batch_size * preset.settings["epochs"] > 0
    assert f"{{{preset.source}," in REFERENCES.read_text(encoding="utf-8")
    assert 80 < preset.published < 100
    assert "60,000" in preset.protocol


@pytest.mark.parametrize(("amx", "expected"), [(True, "bf16"), (False, "no")])
def test_a_cpu_is_fast_in_bf16_if_it_has_amx(monkeypatch, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training.fast_precision("cpu") == expected
    assert training.fast_precision() == expected
    assert training.fast_precision("meta") == "no"


def test_a_torch_that_does_not_know_amx_stays_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert training.fast_precision("cpu") == "no"


@pytest.mark.parametrize(("amx", "expected"), [(True, "bf16"), (False, "no")])
def test_a_run_asked_to_be_fast_is(monkeypatch, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    run = training.Run(1, device="cpu", precision="fast")
    assert run.accelerator.mixed_precision == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "no"), ((8, 0), "bf16")])
def test_a_gpu_is_fast_in_bf16_from_capability_8(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert training.fast_precision() == expected
    assert training.fast_precision("cuda:1") == expected
    assert training.fast_precision("cpu") == "no"
