"""The presets: they build, their training takes their settings, and precision is the device's."""

import inspect

import pytest
import torch

from companion import training
from companion.aae import AAE
from companion.data import Batches
from companion.gan import GAN, gradient_penalty
from companion.nn import free_parameters
from companion.presets import (
    CHAPTER,
    ENGINES,
    PAPER,
    PRESETS,
    by_counting,
    by_expectation,
    settings_of,
    ten_gradient_penalties,
)
from companion.published import FASHION, IWAE, REDRAWN, SCORES
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
    "gated PixelCNN": (3 * 7 + 1) * 128
    + (3 + 1) * 128
    + 2 * 128 * D
    + 10 * ((2 * 3 + 2) * 128 * 256 + 2 * 256 + 256**2 + 256 + 128**2 + 128)
    + (128**2 + 128 + 128)
    + D,
    **{name: ONE_LAYER for name in ("VAE", "VAE-5", "VAE-50", "IWAE-5", "IWAE-50")},
    **{f"{name}, 2 layers": TWO_LAYERS for name in ("VAE", "VAE-5", "VAE-50", "IWAE-5", "IWAE-50")},
    "Fashion VAE": (D * 300 + 300)
    + (300**2 + 300)
    + 2 * (300 * 40 + 40)
    + (40 * 300 + 300)
    + (300**2 + 300)
    + (300 * D + D),
}
# As printed by the source of the sizes: the score.
REDRAWN_SCORES = {
    "FVSBN": 96.58,
    "NADE": 85.65,
    "MADE": 84.87,
    "PixelCNN": 81.45,
    "gated PixelCNN": 81.50,
}
# As printed in the paper's table: the bound, the draws in training, the score.
BURDA = {
    "VAE": (elbo, 1, 86.76),
    "VAE-5": (elbo, 5, 86.47),
    "VAE-50": (elbo, 50, 86.35),
    "IWAE-5": (iwae, 5, 85.54),
    "IWAE-50": (iwae, 50, 84.78),
    "VAE, 2 layers": (elbo, 1, 85.33),
    "VAE-5, 2 layers": (elbo, 5, 85.01),
    "VAE-50, 2 layers": (elbo, 50, 84.78),
    "IWAE-5, 2 layers": (iwae, 5, 83.89),
    "IWAE-50, 2 layers": (iwae, 50, 82.90),
}
ALL = [(scale, name) for scale, presets in PRESETS.items() for name in presets]
LIKELIHOODS = [(scale, name) for scale, name in ALL if PRESETS[scale][name].likelihood != "none"]


@pytest.mark.parametrize(("scale", "name"), LIKELIHOODS)
def test_a_preset_builds_and_scores(scale, name):
    preset = PRESETS[scale][name]
    model = preset.build()
    x = torch.zeros(2, D)
    score = model.log_prob(x) if preset.likelihood == "exact" else model(x)
    assert score.isfinite().all()
    assert score.shape == (2,)
    assert hasattr(model, "log_prob" if preset.likelihood == "exact" else "log_w")


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_preset_has_the_size_of_the_paper(name):
    assert free_parameters(PAPER[name].build()) == PARAMETERS[name]


def test_every_size_is_checked_but_those_without_a_score():
    without = {name for name, preset in PAPER.items() if preset.published is None}
    assert without == {"AAE", "DCGAN", "WGAN-GP"}
    assert {*PARAMETERS} == {*PAPER} - without


@pytest.mark.parametrize(("scale", "name"), ALL)
def test_a_preset_s_training_has_its_settings(scale, name):
    preset = PRESETS[scale][name]
    given = getattr(preset.train, "keywords", {})
    assert given.keys() <= settings_of(preset)
    model = preset.build()
    plays = {AAE: "by_game_of_codes", GAN: "by_game_of_pictures"}
    function = getattr(preset.train, "func", preset.train)
    if function in ENGINES:
        assert function.__name__ == plays.get(type(model), "by_gradient")
        assert given["batch_size"] * given["epochs"] > 0
        inspect.signature(ENGINES[function]).bind(
            None, None, **{k: v for k, v in given.items() if k != "batch_size"}
        )


def test_what_a_training_can_be_asked_for():
    common = {"path", "log", "compiled", "precision", "epochs", "learning_rate", "batch_size"}
    assert common | {"patience"} <= settings_of(CHAPTER["MADE"])
    for name in ("AAE", "DCGAN"):
        assert common <= settings_of(CHAPTER[name])
        assert "patience" not in settings_of(CHAPTER[name])
    assert settings_of(CHAPTER["mixture of 100"]) == {"epochs", "batch_size"}
    assert settings_of(CHAPTER["independent pixels"]) == set()
    assert not {by_counting, by_expectation} & {*ENGINES}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_preset_is_compared_with_a_published_score(name):
    published = PAPER[name].published
    assert published in SCORES
    words = published.model.lower().replace(", 1 layer", "")
    assert name.lower() in {words, words.split(",")[0], "fashion vae"}


def test_the_presets_of_a_source_are_all_there():
    found = {}
    for name, preset in PAPER.items():
        if preset.published is not None:
            found.setdefault(preset.published[2:], set()).add(name)
    assert found == {
        (REDRAWN, "hotaj2020pytorch"): {*REDRAWN_SCORES},
        (IWAE, "burda2016importance"): {*BURDA},
        (FASHION, "norouzi2020exemplar"): {"Fashion VAE"},
    }


@pytest.mark.parametrize("name", REDRAWN_SCORES)
def test_the_scores_of_the_autoregressive_models(name):
    preset = PAPER[name]
    assert preset.published.nll == REDRAWN_SCORES[name]
    assert not preset.held_out, "the source trains on all 60,000"
    assert preset.likelihood == "exact"


@pytest.mark.parametrize("name", BURDA)
def test_the_bounds_of_burda(name):
    preset = PAPER[name]
    bound, samples, published = BURDA[name]
    model = preset.build()
    assert (model.bound, model.samples, preset.published.nll) == (bound, samples, published)
    assert preset.likelihood == "bound"
    assert not preset.held_out


def test_only_fashion_is_not_mnist():
    assert {name for name, preset in PAPER.items() if preset.data != "mnist"} == {"Fashion VAE"}
    assert PAPER["Fashion VAE"].held_out
    assert {preset.data for preset in CHAPTER.values()} == {"mnist"}
    assert all(preset.held_out for preset in CHAPTER.values())


def test_the_penalty_of_the_wgan_has_the_weight_of_its_source():
    torch.manual_seed(0)
    real, fake = torch.rand(2, 8, 3)
    D = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    penalties = []
    for penalty in (gradient_penalty, ten_gradient_penalties):
        torch.manual_seed(1)
        penalties.append(penalty(D, real, fake).item())
    assert penalties[1] == pytest.approx(10 * penalties[0])
    settings = PAPER["WGAN-GP"].train.keywords
    assert settings["penalty"] is ten_gradient_penalties
    assert settings["discriminator_steps"] == 5
    assert (settings["learning_rate"], settings["betas"]) == (1e-4, (0.0, 0.9))


@pytest.mark.parametrize(("scale", "name"), ALL)
def test_every_preset_takes_a_step_of_its_training(scale, name, monkeypatch):
    """With its model, optimiser, schedule and penalty, on few images, in float32."""
    preset = PRESETS[scale][name]
    function = getattr(preset.train, "func", None)
    images = torch.randint(256, (100, D), dtype=torch.uint8)
    settings = {"epochs": 1, "batch_size": 5} if function else {}
    if function in ENGINES:
        settings |= {"precision": "no"}
    monkeypatch.setattr(Batches, "__len__", lambda batches: 5)  # five steps to an epoch
    model = preset.build()
    before = [p.clone() for p in model.parameters()]
    preset.train(model, images, 0, "cpu", **settings)
    assert all(p.isfinite().all() for p in model.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


AMX, AVX512 = "_is_amx_tile_supported", "_is_avx512_bf16_supported"


@pytest.fixture
def cpu(monkeypatch):
    """A processor of which torch says that it knows these, and no GPU."""

    def has(*known):
        for each in (AMX, AVX512):
            monkeypatch.setattr(torch.cpu, each, lambda own=each: own in known, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return has


@pytest.mark.parametrize(
    ("known", "expected"),
    [([AMX], "bf16"), ([AVX512], "bf16"), ([AMX, AVX512], "bf16"), ([], "no")],
)
def test_a_cpu_is_fast_in_bf16_if_it_computes_in_it(cpu, known, expected):
    cpu(*known)
    assert training.fast_precision("cpu") == expected
    assert training.fast_precision() == expected
    assert training.fast_precision("meta") == "no"


def test_a_torch_that_does_not_know_stays_in_float32(monkeypatch):
    for each in (AMX, AVX512):
        monkeypatch.delattr(torch.cpu, each, raising=False)
    assert training.fast_precision("cpu") == "no"


@pytest.mark.parametrize(("known", "expected"), [([AVX512], "bf16"), ([], "no")])
def test_a_run_asked_to_be_fast_is(cpu, known, expected):
    cpu(*known)
    run = training.Run(1, device="cpu", precision="fast")
    assert run.accelerator.mixed_precision == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "no"), ((8, 0), "bf16")])
def test_a_gpu_is_fast_in_bf16_from_capability_8(monkeypatch, cpu, capability, expected):
    cpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert training.fast_precision() == expected
    assert training.fast_precision("cuda:1") == expected
    assert training.fast_precision("cpu") == "no"
