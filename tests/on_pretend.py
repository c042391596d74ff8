"""What must hold where there is a GPU, shown on a pretend one; `test_devices` runs it."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from companion import data, evaluation, training
from companion.aae import (
    AAE,
    WAE,
    SemiSupervisedAAE,
    TwoHeads,
    fit_aae,
    fit_semi_supervised,
    inverse_multiquadratic,
    surgery_estimate,
)
from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN, PixelCNN
from companion.gan import GAN, dcgan, fit_gan, r1
from companion.nn import mlp
from companion.training import Run, adam
from companion.training.devices import usable
from companion.vae import (
    VAE,
    Autoencoder,
    ConditionalBernoulli,
    ConditionalGaussian,
    StandardNormal,
    iwae,
    two_layers,
)
from tests import pretend

pretend.install()

SIDE, N = 6, 40
D = SIDE * SIDE
GREYS = torch.randint(0, 256, (N, D), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DRAWN = data.binarize(GREYS, seed=1).float()
PLAIN = {"epochs": 2, "learning_rate": 1e-2}


def places(module):
    return {tensor.device.type for tensor in [*module.parameters(), *module.buffers()]}


def is_at_home(module):
    """On the CPU, and made of nothing but torch's own classes."""
    ours = all(type(p) is nn.Parameter for p in module.parameters())
    return places(module) == {"cpu"} and ours


def batches(dynamic=False):
    return data.Batches(GREYS if dynamic else DRAWN, 10, dynamic=dynamic)


def vae(**options):
    encoder = ConditionalGaussian(mlp(D, 8), 8, 2)
    return VAE(encoder, ConditionalBernoulli(mlp(2, 8), 8, D), StandardNormal(2), **options)


def normal(count, *known):
    assert all(each.device.type == "cpu" for each in known)  # as the caller gave it
    return torch.randn(count, 2)


def aae(critic=2, prior=normal):
    judge = nn.Sequential(mlp(critic, 8), nn.Linear(8, 1), nn.Flatten(0))
    paint = ConditionalBernoulli(mlp(2, 8), 8, D)
    return AAE(nn.Sequential(mlp(D, 8), nn.Linear(8, 2)), paint, judge, prior)


def gan():
    judge = nn.Sequential(mlp(D, 8), nn.Linear(8, 1), nn.Flatten(0))
    return GAN(nn.Sequential(mlp(3, 8), nn.Linear(8, D)), judge, 3)


# --- the device itself ---------------------------------------------------------------------------


def test_what_cuda_refuses_is_refused():
    here, there = torch.ones(3), torch.ones(3, device="pretend")
    assert (there + 1).device == (there * torch.tensor(2.0)).device == there.device
    assert there[torch.tensor([0, 2])].cpu().tolist() == [1, 1]
    for wrong in (
        lambda: here + there,
        lambda: here + there.sum(),
        lambda: torch.cat([here, there]),
        lambda: here[there.long()],
        lambda: F.linear(here[None], there[None]),
    ):
        with pytest.raises(RuntimeError, match="on the same device"):
            wrong()
    with pytest.raises(TypeError, match="NumPy"):
        there.numpy()


def test_a_model_does_not_take_images_from_elsewhere():
    model = mlp(D, 4).to("pretend")
    with pytest.raises(RuntimeError, match="on the same device"):
        model(DRAWN)
    assert model.cpu()(DRAWN).shape == (N, 4)


def test_it_is_what_the_package_takes_for_its_gpu():
    assert usable(None).type == "pretend"
    assert training.fast_precision() == "no"


# --- training ------------------------------------------------------------------------------------

MODELS = {
    "FVSBN": lambda: FVSBN(D),
    "NADE": lambda: NADE(D, hidden=4),
    "MADE": lambda: MADE(D, (8,), torch.stack([torch.randperm(D) for _ in range(2)])),
    "PixelCNN": lambda: PixelCNN((SIDE, SIDE), channels=4, layers=1, kernel=3, first_kernel=3),
    "gated PixelCNN": lambda: GatedPixelCNN(
        (SIDE, SIDE), channels=4, layers=1, kernel=3, first_kernel=3
    ),
    "VAE": vae,
    "IWAE": lambda: vae(bound=iwae, samples=2),
    "WAE": lambda: WAE(
        nn.Sequential(mlp(D, 8), nn.Linear(8, 2)),
        ConditionalBernoulli(mlp(2, 8), 8, D),
        normal,
        inverse_multiquadratic(4.0),
        1.0,
    ),
    "autoencoder": lambda: Autoencoder(nn.Linear(D, 2), nn.Linear(2, D)),
}


def trained(build, device=None, **options):
    torch.manual_seed(1)
    model, seen = build(), set()
    handle = model.register_forward_pre_hook(lambda _, x: seen.add(x[0].device.type))
    history = training.fit(model, batches(), DRAWN, device=device, **PLAIN, **options)
    handle.remove()
    return model, history, seen


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_model_trains_on_the_gpu_and_comes_home(build):
    model, history, seen = trained(build, patience=5)
    assert seen == {"pretend"}
    assert is_at_home(model)
    assert not model.training
    _, history_here, seen = trained(build, "cpu", patience=5)
    assert seen == {"cpu"}
    for row, row_here in zip(history, history_here, strict=True):
        assert row == pytest.approx(row_here, rel=1e-5)
    assert model(DRAWN).isfinite().all()
    if hasattr(model, "sample"):
        assert model.sample((3,)).device.type == "cpu"


def test_batches_are_left_where_they_are():
    train = batches(dynamic=True)
    model = vae()
    training.fit(model, train, **PLAIN)
    assert train.images is not None
    assert train.images.device.type == train.batch(0).device.type == "cpu"
    assert train.to("pretend").batch(3).device.type == "pretend"


@pytest.mark.parametrize("device", [None, "pretend"])
def test_what_was_put_on_the_gpu_stays_there(device):
    model = vae().to("pretend")
    training.fit(model, batches(), device=device, **PLAIN)
    assert places(model) == {"pretend"}
    found = evaluation.importance_sampled_log_prob(model, DRAWN, 3, device=device)
    assert {each.device.type for each in found} == {"cpu"}
    assert places(model) == {"pretend"}


def test_a_model_on_the_gpu_is_trained_on_the_cpu_if_that_is_asked():
    model = vae().to("pretend")
    training.fit(model, batches(), device="cpu", **PLAIN)
    assert places(model) == {"pretend"}


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "fit",
    [
        lambda watch: (g := gan(), fit_gan(g, batches(), epochs=1, watch=watch)),
        lambda watch: (a := aae(), fit_aae(a, batches(), epochs=1, watch=watch)),
    ],
    ids=["fit_gan", "fit_aae"],
)
def test_a_broken_off_training_comes_home(fit):
    players = []

    def watch(model, step):
        players.append(model)
        assert places(model) == {"pretend"}
        raise Stop

    with pytest.raises(Stop) as stopped:
        fit(watch)
    assert is_at_home(players[0])
    assert stopped.traceback  # holds the loop, as a notebook does: nothing was merely forgotten


def test_a_run_comes_home_and_its_optimiser_with_it():
    model = nn.Linear(D, 1)
    steps = adam(model.parameters(), 1e-2)
    parameters = [*model.parameters()]
    run = Run(4)
    call, optimizer = run.prepare(model=model, optimizer=steps)
    for x in run.batches(batches()):
        assert places(model) == {x.device.type} == {"pretend"}
        run.kept["weight"] = model.weight.detach().clone()
        run.descend(optimizer, call(x).square().mean())
    assert is_at_home(model)
    assert run.kept["weight"].device.type == "cpu"
    assert [*model.parameters()] == parameters  # the same objects
    for state in optimizer.state.values():
        assert {each.device.type for each in state.values()} == {"cpu"}
    model(DRAWN).mean().backward()
    optimizer.step()
    assert run.score(model, DRAWN, 10) == pytest.approx(model(DRAWN).sum().item() / N)


def test_an_optimiser_that_has_taken_steps_goes_along():
    """As when a cell of a notebook is run twice."""
    model = nn.Linear(D, 1)
    steps = adam(model.parameters(), 1e-2)
    for _ in range(2):
        run = Run(2)
        call, optimizer = run.prepare(model=model, optimizer=steps)
        for x in run.batches(batches()):
            run.descend(optimizer, call(x).square().mean())
    assert {int(state["step"]) for state in steps.state.values()} == {4}


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    def train(path=None, stop=None):
        torch.manual_seed(0)
        model = vae()
        run = Run(8, path=path, save_every=0.0)
        call, optimizer = run.prepare(model=model, optimizer=adam(model.parameters(), 1e-2))
        with contextlib.closing(run.batches(batches())) as each:
            for x in each:
                if run.step == stop:
                    break
                run.descend(optimizer, -call(x).mean())
        assert is_at_home(model)
        return model

    whole = train()
    path = tmp_path / "run.safetensors"
    train(path, stop=5)
    resumed = train(path)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_gan_trains_on_the_gpu_and_comes_home():
    torch.manual_seed(0)
    artist = dcgan().to(memory_format=torch.channels_last)
    images = torch.rand(8, 1, 28, 28)
    seen = []
    fit_gan(
        artist,
        data.Batches(images, 4),
        epochs=1,
        penalty=lambda D, real, fake: r1(D, real),
        watch=lambda gan, step: seen.append(gan.sample((2,)).device.type),
    )
    assert seen == ["pretend"] * 2
    assert is_at_home(artist)
    assert artist.sample((2,)).device.type == "cpu"
    kernels = [p for p in artist.parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


class Beside(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2 + 3, 1), nn.Flatten(0))

    def forward(self, z, y):
        return self.body(torch.cat([z, y], -1))


def test_an_aae_with_labels_trains_on_the_gpu_and_comes_home():
    model = aae()
    model.critic = Beside()
    labels = F.one_hot(torch.arange(N) % 3, 3).float()
    places_seen = []
    fit_aae(
        model,
        batches(),
        labels,
        epochs=1,
        watch=lambda aae, step: places_seen.append(places(aae)),
    )
    assert places_seen == [{"pretend"}] * 4
    assert is_at_home(model)
    assert model.sample((3,), labels[:3]).device.type == "cpu"


@pytest.mark.parametrize("few", [True, False])
def test_a_semi_supervised_aae_trains_on_the_gpu_and_comes_home(few):
    def critic(inputs):
        return nn.Sequential(nn.Linear(inputs, 1), nn.Flatten(0))

    model = SemiSupervisedAAE(
        TwoHeads(mlp(D, 8), 8, 3, 2),
        ConditionalBernoulli(mlp(5, 8), 8, D),
        critic(3),
        critic(2),
        3,
    )
    known = (data.Batches(GREYS[:10], 5, dynamic=True), torch.arange(10) % 3) if few else ()
    fit_semi_supervised(model, batches(dynamic=True), *known, epochs=2, critic_noise=0.1)
    assert is_at_home(model)
    assert model.classify(DRAWN).shape == (N,)


# --- scoring -------------------------------------------------------------------------------------


class Watched(nn.Module):
    """Says where it was asked."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, set()

    def log_prob(self, x):
        self.seen.add(x.device.type)
        return self.model.log_prob(x)

    def log_w(self, x, samples):
        self.seen.add(x.device.type)
        return self.model.log_w(x, samples)


@pytest.mark.parametrize(("device", "place"), [(None, "pretend"), ("cpu", "cpu")])
def test_scores_are_computed_on_the_gpu_and_returned_to_the_cpu(device, place):
    exact, bound = Watched(MADE(D, (8,))), Watched(vae())
    scores = evaluation.log_likelihoods(exact, DRAWN, 15, device=device)
    log_p, effective = evaluation.importance_sampled_log_prob(bound, DRAWN, 3, device=device)
    assert exact.seen == bound.seen == {place}
    assert {x.device.type for x in (scores, log_p, effective)} == {"cpu"}
    assert scores == pytest.approx(exact.model.log_prob(DRAWN).double().detach(), rel=1e-5)
    assert is_at_home(exact)
    assert is_at_home(bound)
    assert evaluation.nll(exact, DRAWN, device=device).mean == pytest.approx(-scores.mean().item())


def test_examples_are_taken_to_the_model():
    """A score of an encoder, and what an autoencoder makes of images."""
    model, prior = vae().to("pretend"), StandardNormal(2).to("pretend")
    assert evaluation.active_units(model, DRAWN).shape == (2,)
    assert surgery_estimate(model.encoder, prior, DRAWN, 20).mutual_information.mean > -1
    critic = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    decoder = ConditionalBernoulli(mlp(2, 8), 8, D)
    aae = AAE(nn.Linear(D, 2), decoder, critic, lambda count: torch.randn(count, 2)).to("pretend")
    assert aae.reconstruct(DRAWN).device.type == "pretend"


def test_a_model_comes_home_from_a_score_that_fails():
    model = Watched(MADE(D + 1, (8,)))
    with pytest.raises(ValueError, match="must have shape"):
        evaluation.nll(model, DRAWN)
    assert is_at_home(model)


def test_deep_models_are_scored_on_the_gpu():
    model = two_layers()
    x = torch.zeros(2, 784)
    assert evaluation.importance_sampled_nll(model, x, 2).mean > 0
    assert is_at_home(model)
