"""The presets: they build, `fit` takes their settings, and precision follows the processor."""

import inspect
import math

import pytest
import torch
from torch import nn

from companion import training
from companion.data import Batches
from companion.nn import free_parameters
from companion.presets import PRESETS, burda_adam, burda_schedule
from companion.published import IWAE, REDRAWN, SCORES
from companion.vae import elbo, iwae

D = 784
ONE_LAYER = (D * 200 + 200) + (200**2 + 200) + 2 * (200 * 50 + 50)  # encoder: mean and spread
ONE_LAYER += (50 * 200 + 200) + (200**2 + 200) + (200 * D + D)
TWO_LAYERS = (D * 200 + 200) + (200**2 + 200) + 2 * (200 * 100 + 100)  # q(z1|x)
TWO_LAYERS += 2 * (100**2 + 100) + 2 * (100 * 50 + 50)  # q(z2|z1)
TWO_LAYERS += (50 * 100 + 100) + (100**2 + 100) + 2 * (100**2 + 100)  # p(z1|z2)
TWO_LAYERS += (100 * 200 + 200) + (200**2 + 200) + (200 * D + D)  # p(x|z1)
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
    "VAE, 1 layer": ONE_LAYER,
    "IWAE-5, 1 layer": ONE_LAYER,
    "IWAE-50, 1 layer": ONE_LAYER,
    "VAE, 2 layers": TWO_LAYERS,
    "IWAE-50, 2 layers": TWO_LAYERS,
}
# As printed by the source of the sizes: the score.
REDRAWN_SCORES = {
    "FVSBN": 96.58,
    "NADE": 85.65,
    "MADE": 84.87,
    "PixelCNN": 81.45,
    "Gated PixelCNN": 81.50,
}
# As printed in the paper's table: the bound, the draws in training, the score.
BURDA = {
    "VAE, 1 layer": (elbo, 1, 86.76),
    "IWAE-5, 1 layer": (iwae, 5, 85.54),
    "IWAE-50, 1 layer": (iwae, 50, 84.78),
    "VAE, 2 layers": (elbo, 1, 85.33),
    "IWAE-50, 2 layers": (iwae, 50, 82.90),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_and_scores(name):
    preset = PRESETS[name]
    model = preset.model()
    assert free_parameters(model) == PARAMETERS[name]
    assert model(torch.zeros(2, D)).isfinite().all()
    assert model(torch.zeros(2, D)).shape == (2,)
    chapters = {"autoregressive-models": "log_prob", "variational-autoencoders": "log_w"}
    assert hasattr(model, chapters[preset.chapter])
    assert (preset.samples is None) == hasattr(model, "log_prob"), "exact where it can be"


@pytest.mark.parametrize("name", PRESETS)
def test_fit_takes_the_settings(name):
    preset = PRESETS[name]
    inspect.signature(training.fit).bind(None, None, **preset.settings)
    assert preset.batch_size * preset.settings["epochs"] > 0


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_compared_with_a_published_score(name):
    published = PRESETS[name].published
    assert published in SCORES
    assert name.lower() in {published.model.lower(), published.model.lower().split(",")[0]}


def test_the_presets_of_a_source_are_all_there():
    found = {}
    for name, preset in PRESETS.items():
        found.setdefault((preset.published.source, preset.published.protocol), set()).add(name)
    assert found == {
        ("hotaj2020pytorch", REDRAWN): {*REDRAWN_SCORES},
        ("burda2016importance", IWAE): {*BURDA},
    }


@pytest.mark.parametrize("name", REDRAWN_SCORES)
def test_the_scores_of_the_autoregressive_models(name):
    assert PRESETS[name].published.nll == REDRAWN_SCORES[name]


@pytest.mark.parametrize("name", BURDA)
def test_the_recipe_of_burda(name):
    preset = PRESETS[name]
    bound, samples, published = BURDA[name]
    model = preset.model()
    assert (model.bound, model.samples, preset.published.nll) == (bound, samples, published)
    assert (preset.batch_size, preset.samples) == (20, 5000)
    optimizer = preset.settings["optimizer"](model.parameters(), preset.settings["learning_rate"])
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.Adam)
    assert (group["lr"], group["eps"], group["betas"]) == (1e-3, 1e-4, (0.9, 0.999))
    assert {key: preset.settings[key] for key in ("epochs", "schedule")} == {
        "epochs": 1 + 3 + 9 + 27 + 81 + 243 + 729 + 2187,
        "schedule": burda_schedule,
    }


@pytest.mark.parametrize("batches", [1, 7, 2980, 3000])
def test_the_stages_of_burda_begin_at_their_steps(batches):
    """At 3280 epochs of so many steps: the last step of a stage, and the first of the next."""
    steps, rates = 3280 * batches, [10.0, 7.2, 5.2, 3.7, 2.7, 1.9, 1.4, 1.0]
    begin = 0
    for i, rate in enumerate(rates):
        end = begin + 3**i * batches
        for step in (begin, (begin + end) // 2, end - 1):
            assert 1e-3 * burda_schedule(step / steps) == pytest.approx(1e-4 * rate)
        begin = end
    assert begin == steps


def test_fit_follows_the_stages():
    """Seen from `fit`: the learning rate at the end of each epoch."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    class Objective(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return -self.model(x).square()[:, 0]

    batches = Batches(torch.rand(4, 3), batch_size=2)
    settings = PRESETS["VAE, 1 layer"].settings
    rates = training.fit(Objective(), batches, device="cpu", **settings)["learning_rate"]
    expected = []
    for i in range(8):
        expected += [1e-4 * round(10 ** (1 - i / 7), 1)] * 3**i
    assert rates == pytest.approx(expected)


def test_the_first_step_of_burdas_adam():
    """g / (|g| + epsilon) of the learning rate: much less than all of it where g is small."""
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = burda_adam([parameter], 0.5)
    parameter.grad = torch.tensor([1.0, 1e-4, -1e-6])
    optimizer.step()
    expected = torch.tensor([-0.5 / (1 + 1e-4), -0.25, 0.5 / 101])
    torch.testing.assert_close(parameter.detach(), expected)
    generator = (p for p in [nn.Parameter(torch.zeros(3))])
    assert math.isclose(burda_adam(generator, 0.1).param_groups[0]["eps"], 1e-4)


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
