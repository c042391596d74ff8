"""Encoders, autoencoders and the three players' training: who is real, who moves, and how far."""

import copy
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from companion import data
from companion.aae import (
    AAE,
    WAE,
    GaussianPosterior,
    UniversalApproximator,
    fit_aae,
    gaussian_kernel,
    mmd2,
)
from companion.gan import non_saturating, wasserstein
from companion.nn import mlp
from companion.training import CheckpointError, Run, fit, load_model
from companion.training.checkpoint import in_words
from companion.vae import ConditionalBernoulli, ConditionalGaussian

close = torch.testing.assert_close
X = data.bars_and_stripes(2).repeat(10, 1)  # 60 examples of 4 pixels
LABELS = torch.stack([X[:, 0] + 2.0 * X[:, 3], X[:, 1] - X[:, 2] * 1.0], 1)  # (60, 2), of x alone


class Critic(nn.Module):
    """Of codes, and of what is known of the examples."""

    def __init__(self, inputs):
        super().__init__()
        self.logit = nn.Sequential(mlp(inputs, 16), nn.Linear(16, 1), nn.Flatten(0))

    def forward(self, z, *labels):
        return self.logit(torch.cat([z, *labels], -1))


def normal(count, *labels):
    return torch.randn(count, 2)


def small(seed=0, labels=0, prior=normal):
    torch.manual_seed(seed)
    encoder = nn.Sequential(mlp(4, 16), nn.Linear(16, 2))
    decoder = ConditionalBernoulli(mlp(2, 16), 16, 4)
    return AAE(encoder, decoder, Critic(2 + labels), prior)


def batches(size=15, **settings):
    return data.Batches(X, size, **settings)


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(before, module):
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


# --- encoders ------------------------------------------------------------------------------------


def test_a_gaussian_posterior_draws_by_what_its_encoder_returns():
    inner = ConditionalGaussian(nn.Identity(), 3, 2)
    encoder, x = GaussianPosterior(inner), torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]])
    q = inner(x)
    draws = encoder(x.expand(4000, 2, 3))
    assert draws.shape == (4000, 2, 2)
    assert ((draws.mean(0) - q.mean).abs() < 5 * q.stddev / math.sqrt(4000)).all()
    close(draws.std(0), q.stddev, rtol=0.06, atol=0)
    torch.manual_seed(1)
    z = encoder(x)
    torch.manual_seed(1)
    noise = torch.randn(2, 2)
    close(z, q.mean + q.stddev * noise)
    z.sum().backward()
    close(inner.log_sigma.bias.grad, (q.stddev * noise).sum(0))  # the draw moves with the spread
    close(inner.mu.bias.grad, torch.full((2,), 2.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (400,), (20, 30)])
def test_a_universal_approximator_shows_its_body_x_and_standard_normal_noise(dtype, shape):
    seen = []

    def body(x_and_noise):
        seen.append(x_and_noise)
        return x_and_noise[..., :2]

    encoder, x = UniversalApproximator(body, noise=5), torch.randn(*shape, 3, dtype=dtype)
    assert encoder(x).shape == (*shape, 2)
    assert not torch.equal(encoder(x), encoder(x + 1))
    for shown in seen[:2]:
        assert shown.shape == (*shape, 8)
        assert shown.dtype == dtype
    x_again, eta = seen[0].split([3, 5], -1)
    assert torch.equal(x_again, x)
    assert not torch.equal(eta, seen[1][..., 3:])  # another draw at each call
    if len(shape):
        eta = eta.reshape(-1, 5).double()
        close(eta.mean(0), torch.zeros(5).to(eta), rtol=0, atol=5 / math.sqrt(len(eta)))
        close(eta.T.cov(), torch.eye(5).to(eta), rtol=0, atol=8 / math.sqrt(len(eta)))


def test_a_universal_approximator_passes_gradients_on():
    encoder = UniversalApproximator(nn.Linear(3 + 2, 2), noise=2)
    x = torch.randn(4, 3, requires_grad=True)
    encoder(x).sum().backward()
    close(x.grad, encoder.body.weight[:, :3].sum(0).expand(4, 3))
    assert encoder.body.weight.grad[:, 3:].abs().min() > 0


# --- autoencoders --------------------------------------------------------------------------------


def of_either_kind(prior):
    aae = small(prior=prior)
    return [aae, WAE(aae.encoder, aae.decoder, prior, gaussian_kernel(1.0), 1.0)]


@pytest.mark.parametrize("kind", [0, 1], ids=["AAE", "WAE"])
def test_examples_are_drawn_of_codes_of_the_prior(kind):
    asked = []

    def prior(count):
        asked.append(count)
        return torch.tensor([[3.0, -1.0]], dtype=torch.float64).expand(count, 2)

    model, codes = of_either_kind(prior)[kind], []
    model.decoder.register_forward_hook(lambda module, inputs, output: codes.append(inputs[0]))
    drawn = model.sample((4000,))
    assert asked == [4000]
    assert [z.dtype for z in codes] == [torch.float32]  # as the decoder's numbers, in one pass
    assert set(drawn.unique().tolist()) == {0, 1}  # draws, not means
    assert not drawn.requires_grad
    mean = model.decoder(torch.tensor([3.0, -1.0])).mean
    close(drawn.mean(0), mean, rtol=0, atol=5 * 0.5 / math.sqrt(4000))
    codes.clear()
    model.double().sample((3,))
    assert codes[0].dtype == torch.float64


@pytest.mark.parametrize("kind", [0, 1], ids=["AAE", "WAE"])
def test_a_reconstruction_is_the_mean_example_of_the_code(kind):
    model, x = of_either_kind(normal)[kind], X[:6].float()
    reconstruction = model.reconstruct(x)
    close(reconstruction, model.decoder.logits(model.decoder.body(model.encoder(x))).sigmoid())
    assert not reconstruction.requires_grad


def test_labels_decide_what_the_prior_draws():
    aae = small(prior=lambda count, y: 100 * y)
    seen = []
    aae.decoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    labels = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.5, 0.5]])
    assert aae.sample((3,), labels).shape == (3, 4)
    assert torch.equal(seen[0], 100 * labels)


def test_players_and_prior_are_where_they_are_looked_for():
    aae = small()
    names = {name.split(".")[0] for name, _ in aae.named_parameters()}
    assert names == {"encoder", "decoder", "critic"}
    assert not hasattr(aae, "log_prob")
    kernel = gaussian_kernel(1.0)
    wae = WAE(aae.encoder, aae.decoder, normal, kernel, 3.0)
    assert (wae.kernel, wae.weight, wae.prior) == (kernel, 3.0, normal)


@pytest.mark.parametrize("weight", [0.0, 0.3, 7.0])
def test_the_objective_of_a_wae(weight):
    aae, kernel, asked = small(), gaussian_kernel(0.8), []
    draws = torch.randn(60, 2, dtype=torch.float64)

    def prior(count):
        asked.append(count)
        return draws[:count]

    wae, x = WAE(aae.encoder, aae.decoder, prior, kernel, weight), X[:20].float()
    objective = wae(x)
    assert objective.dtype == torch.float32
    z = aae.encoder(x)
    log_p = -F.binary_cross_entropy_with_logits(
        aae.decoder.logits(aae.decoder.body(z)), x, reduction="none"
    ).sum(1)
    truth = log_p - weight * mmd2(z, draws[:20].float(), kernel)
    assert asked == [20]
    close(objective, truth)
    for found, wanted in zip(
        torch.autograd.grad(objective.mean(), wae.parameters()),
        torch.autograd.grad(truth.mean(), wae.parameters()),
        strict=True,
    ):
        close(found, wanted)


def test_a_wae_is_trained_as_any_model_and_its_codes_go_to_the_prior():
    def prior(count):
        return torch.randn(count, 2) / 2 + torch.tensor([2.0, -1.0])

    aae, kernel = small(), gaussian_kernel(2.0)
    wae = WAE(aae.encoder, aae.decoder, prior, kernel, 30.0)
    misfit = lambda: mmd2(wae.encoder(X.float()), prior(500), kernel).item()
    before = misfit()
    fit(wae, batches(30), epochs=60, learning_rate=1e-2, device="cpu")
    assert misfit() < before / 10


# --- the game of codes ---------------------------------------------------------------------------


@pytest.fixture
def plain_descent(monkeypatch):
    """Steps down the gradient itself, from which the gradient can be read off."""
    sgd = lambda parameters, rate, betas: torch.optim.SGD(parameters, rate)
    monkeypatch.setattr("companion.aae.training.adam", sgd)


@pytest.mark.usefixtures("plain_descent")
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_one_step_from_known_weights_by_gradients_written_by_hand(weight):
    """Linear players: z = W x, logits V z + c, a critic's logit u · (z, y) + b. In float64."""
    torch.manual_seed(5)
    draws = 2 + torch.randn(60, 2)
    encoder, decoder = nn.Linear(4, 2, bias=False), ConditionalBernoulli(nn.Identity(), 2, 4)
    critic = Critic(4)
    critic.logit = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    aae = AAE(encoder, decoder, critic, lambda count, y: draws + y)
    W, V, c, u, b = (p.double() for p in weights(aae))
    train, (rate, rate_D) = batches(60, seed=3), (0.5, 2.0)
    fit_aae(
        aae,
        train,
        LABELS,
        epochs=1,
        weight=weight,
        learning_rate=(rate, rate_D),
        schedule="constant",
        device="cpu",
    )

    x, y = train.batch(0).double(), LABELS[train.indices(0)].double()
    z, prior, N = x @ W.T, draws.double() + y, 60
    real, fake = torch.cat([prior, y], 1), torch.cat([z, y], 1)
    at_real = -(-(real @ u.T + b)).sigmoid() / N  # slope of -ln D(real), for each example
    at_fake = (fake @ u.T + b).sigmoid() / N  # slope of -ln(1 - D(fake))
    u_new = u - rate_D * (at_real.T @ real + at_fake.T @ fake)
    b_new = b - rate_D * (at_real.sum(0) + at_fake.sum(0))
    as_real = -(-(fake @ u_new.T + b_new)).sigmoid() / N  # slope of -ln D(fake), the new critic
    surprise = ((z @ V.T + c).sigmoid() - x) / N  # slope of -ln p(x|z) in the logits
    slope_z = weight * as_real @ u_new[:, :2] + surprise @ V
    truth = (
        W - rate * slope_z.T @ x,
        V - rate * surprise.T @ z,
        c - rate * surprise.sum(0),
        u_new,
        b_new,
    )
    for found, wanted in zip(aae.parameters(), truth, strict=True):
        close(found.detach().double(), wanted, rtol=1e-4, atol=1e-6)


OWN = {
    "learning_rate": (3e-3, 1e-2),
    "betas": (0.2, 0.7),
    "weight": 0.3,
    "schedule": "constant",
    "loss": wasserstein,
}


@pytest.mark.parametrize("labels", [None, LABELS], ids=["no labels", "labels"])
@pytest.mark.parametrize("settings", [{}, OWN], ids=["what is customary", "all of one's own"])
def test_the_game_is_that_of_a_loop_written_by_hand(settings, labels):
    steps, noise = 8, torch.randn(8, 15, 2)
    draws = iter(noise)
    aae = small(labels=0 if labels is None else 2, prior=lambda count, *y: sum(y, next(draws)))
    twin, train = copy.deepcopy(aae), batches(seed=4)
    rows = fit_aae(aae, train, labels, epochs=2, seed=4, device="cpu", **settings)

    rates = settings.get("learning_rate", (1e-3, 1e-3))
    betas, weight = settings.get("betas", (0.5, 0.999)), settings.get("weight", 1.0)
    describers = [*twin.encoder.parameters(), *twin.decoder.parameters()]
    opt_EP, opt_D = (
        torch.optim.Adam(parameters, rate, betas)
        for parameters, rate in zip((describers, twin.critic.parameters()), rates, strict=True)
    )
    logged = {"reconstruction": [[], []], "L_D": [[], []], "L_G": [[], []]}
    for step in range(steps):
        cosine = 1 if settings else (1 + math.cos(math.pi * step / steps)) / 2
        opt_EP.param_groups[0]["lr"] = rates[0] * cosine
        opt_D.param_groups[0]["lr"] = rates[1] * cosine
        x = train.batch(step)
        y = () if labels is None else (labels[train.indices(step)],)
        z, prior = twin.encoder(x), sum(y, noise[step])
        real, fake = twin.critic(prior, *y), twin.critic(z.detach(), *y)
        L_D = (
            fake.mean() - real.mean()
            if settings
            else F.softplus(-real).mean() + F.softplus(fake).mean()
        )
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()
        fake = twin.critic(z, *y)
        L_G = -fake.mean() if settings else F.softplus(-fake).mean()
        logits = twin.decoder.logits(twin.decoder.body(z))
        reconstruction = -F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / 15
        opt_EP.zero_grad()
        (weight * L_G - reconstruction).backward()
        opt_EP.step()
        for name, value in (("reconstruction", reconstruction), ("L_D", L_D), ("L_G", L_G)):
            logged[name][step // 4].append(value.item())
    for a, b in zip(aae.parameters(), twin.parameters(), strict=True):
        close(a, b, rtol=1e-4, atol=1e-6)
    assert set(rows[0]) == {"epoch", "step", *logged}
    for name, epochs in logged.items():
        means = [sum(values) / len(values) for values in epochs]
        assert rows[name] == pytest.approx(means, rel=1e-4, abs=1e-6)


def moves(players, play, monkeypatch):
    """For each step of an optimiser in ``play()``: who moved, and who has got a new gradient.

    Bit for bit. ``players``: modules by their names.
    """

    def snapshot(of):
        return {name: [of(p) for p in module.parameters()] for name, module in players.items()}

    def gradient(p):
        return None if p.grad is None else p.grad.clone()

    def equal(a, b):
        return a is b or (a is not None and b is not None and torch.equal(a, b))

    def changed(before, after):
        return {name for name in players if not all(map(equal, before[name], after[name]))}

    seen, last = [], [snapshot(gradient)]

    class Spy(torch.optim.Adam):
        def step(self):
            gradients, before = snapshot(gradient), snapshot(lambda p: p.detach().clone())
            super().step()
            seen.append((changed(before, snapshot(torch.detach)), changed(last[0], gradients)))
            last[0] = gradients

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Spy)
        play()
    return seen


def test_each_step_moves_its_own_players_and_leaves_the_others_bit_for_bit(monkeypatch):
    aae = small()
    players = {"encoder": aae.encoder, "decoder": aae.decoder, "critic": aae.critic}
    play = lambda: fit_aae(aae, batches(), epochs=1, device="cpu")
    describers = {"encoder", "decoder"}
    each = [({"critic"}, {"critic"}), (describers, describers)]  # the critic first
    assert moves(players, play, monkeypatch) == each * 4


def test_the_critics_step_sees_codes_without_a_way_back_to_the_encoder():
    aae, checked = small(), []

    class Watching:
        def L_D(self, real, fake):
            value = non_saturating.L_D(real, fake)
            describers = [*aae.encoder.parameters(), *aae.decoder.parameters()]
            gradients = torch.autograd.grad(value, describers, retain_graph=True, allow_unused=True)
            checked.append(all(g is None for g in gradients))
            return value

        def L_G(self, fake):
            checked.append(not any(p.requires_grad for p in aae.critic.parameters()))
            checked.append(all(p.requires_grad for p in aae.encoder.parameters()))
            return non_saturating.L_G(fake)

    fit_aae(aae, batches(), epochs=1, loss=Watching(), device="cpu")
    assert checked == [True] * 12
    assert all(p.requires_grad for p in aae.parameters())  # afterwards as before


def test_draws_of_the_prior_are_real_and_codes_are_fake():
    """The critic alone learns: which of the two it believes is then known."""
    aae = small(prior=lambda count: torch.randn(count, 2) / 4 + 4)
    fit_aae(aae, batches(), epochs=10, learning_rate=(0.0, 2e-2), device="cpu")
    assert aae.critic(aae.prior(200)).mean() > 1 > -1 > aae.critic(aae.encoder(X.float())).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_labels_come_in_the_order_of_the_batchs_examples(dtype):
    identity = torch.arange(60)[:, None].to(dtype)
    priors, critics, codes = [], [], []

    def prior(count, y):
        priors.append((count, y))
        return torch.randn(count, 2)

    aae, train = small(labels=1, prior=prior), batches(seed=9)
    aae.critic.register_forward_hook(lambda module, inputs, output: critics.append(inputs))
    aae.encoder.register_forward_hook(
        lambda module, inputs, output: codes.append((*inputs, output))
    )
    fit_aae(aae, train, identity, epochs=2, device="cpu")
    assert len(priors) == 8
    assert len(critics) == 3 * 8  # a draw of the prior, a code for the critic, for the encoder
    for step, (count, y) in enumerate(priors):
        x, z = codes[step]
        assert count == 15
        assert y.dtype == dtype
        assert torch.equal(y[:, 0], train.indices(step).to(dtype))
        assert torch.equal(x, X[y[:, 0].long()].float())
        calls = critics[3 * step : 3 * step + 3]
        assert all(torch.equal(labels, y) for _, labels in calls)
        assert not torch.equal(calls[0][0], z)
        assert torch.equal(calls[1][0], z)
        assert torch.equal(calls[2][0], z)


def test_the_weight_is_that_of_the_encoders_part_alone():
    """Without it the critic has no say, but learns as ever; L_G is logged as it is."""
    aae, of_another_critic = small(), small()
    of_another_critic.critic = small(seed=1).critic
    before = copy.deepcopy(of_another_critic.critic)
    for players in (aae, of_another_critic):
        fit_aae(players, batches(), epochs=1, weight=0.0, device="cpu")
    assert same(weights(aae.encoder), of_another_critic.encoder)
    assert same(weights(aae.decoder), of_another_critic.decoder)
    assert not same(weights(before), of_another_critic.critic)
    first_steps = [fit_aae(small(), batches(60), epochs=1, weight=w, device="cpu") for w in (0, 9)]
    assert first_steps[0] == first_steps[1]


def test_learning_rates_for_describers_and_critic():
    for rates, moved in (((0.0, 1e-2), {"critic"}), ((1e-2, 0.0), {"encoder", "decoder"})):
        aae, before = small(), small()
        fit_aae(aae, batches(), epochs=1, learning_rate=rates, device="cpu")
        for name in ("encoder", "decoder", "critic"):
            stayed = same(weights(getattr(before, name)), getattr(aae, name))
            assert stayed == (name not in moved)


def test_afterwards_the_players_are_in_evaluation_mode():
    aae, during = small(), []
    watch = lambda aae, step: during.extend(m.training for m in (aae.encoder, aae.critic))
    fit_aae(aae, batches(), epochs=1, watch=watch, device="cpu")
    assert during == [True] * 8
    assert not any(module.training for module in aae.modules())


def test_all_calls_of_the_players_are_in_the_runs_precision():
    aae, seen = small(labels=2, prior=lambda count, y: y), []
    for player in (aae.encoder, aae.decoder, aae.critic):
        player.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    fit_aae(aae, batches(), LABELS, epochs=1, device="cpu", precision="bf16")
    assert seen == [True] * 4 * 5  # of a step: the encoder, the critic thrice, the decoder


def test_draws_of_the_prior_become_as_the_codes_are():
    aae, seen = small(prior=lambda count: torch.ones(count, 2, dtype=torch.float64)), []
    aae.critic.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].dtype))
    fit_aae(aae, batches(), epochs=1, device="cpu")
    assert set(seen) == {torch.float32}


def test_the_run_is_told_where_and_how_to_compute(monkeypatch, tmp_path):
    told = {}

    class Stop(Exception):
        pass

    def run(steps, **settings):
        told.update(settings, steps=steps)
        raise Stop

    monkeypatch.setattr("companion.aae.training.Run", run)
    asked = {
        "schedule": "constant",
        "seed": 7,
        "path": tmp_path / "game",
        "device": "meta",
        "precision": "bf16",
        "compiled": True,
        "log": tmp_path,
        "progress": True,
    }
    aae = small()
    with pytest.raises(Stop):
        fit_aae(aae, batches(), epochs=3, weight=0.2, **asked)
    own = {"weight": 0.2, "loss": in_words(non_saturating), "labels": None}
    own["prior"] = in_words(aae.prior)
    assert told == asked | {"steps": 12, "settings": own}


class Killed(Exception):
    pass


def killed_and_resumed(play, path, monkeypatch):
    """What ``play(path, watch)`` returns in one go, and after being killed and started again."""

    def kill(players, step):
        if step == 6:
            raise Killed

    whole = play(None, None)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_wish", lambda run: 1)  # saved after every step
        with pytest.raises(Killed):
            play(path, kill)
    steps = []
    resumed = play(path, lambda players, step: steps.append(step))
    assert steps == [6, 7, 8]  # the one that was under way, and the rest
    return whole, resumed


def test_a_game_goes_on_from_its_checkpoint_but_not_under_other_rules(tmp_path, monkeypatch):
    def beside(count, y, distance=0):
        return y + distance + torch.randn(count, 2)

    def play(path, watch, labels=LABELS, prior=beside, **rules):
        aae = small(labels=2, prior=prior)
        settings = {"epochs": 2, "weight": 0.5, "path": path, "watch": watch} | rules
        rows = fit_aae(aae, batches(), labels, **settings, device="cpu")
        return weights(aae), rows

    (whole, rows), (resumed, kept) = killed_and_resumed(play, tmp_path / "game", monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert kept == rows
    others = {"weight": 1.0, "loss": wasserstein, "labels": LABELS + 1}
    others["prior"] = partial(beside, distance=1)
    for rule, other in others.items():
        with pytest.raises(CheckpointError, match=rule):
            play(tmp_path / "game", None, **{rule: other})


def test_someone_may_watch_the_players_after_each_step_and_changes_nothing():
    seen, watched, unseen = [], small(), small()

    def watch(players, step):
        seen.append((players is watched, step))
        players.sample((7,))

    for aae, look in ((watched, watch), (unseen, None)):
        fit_aae(aae, batches(), epochs=2, watch=look, device="cpu")
    assert seen == [(True, step) for step in range(1, 9)]
    assert same(weights(watched), unseen)


def test_a_run_is_a_function_of_its_seed():
    def train(seed):
        aae = small()
        torch.rand(seed + 1)  # torch's global generator has no say
        fit_aae(aae, batches(), epochs=1, seed=seed, device="cpu")
        return aae

    one, again, other = small(), train(0), train(1)
    fit_aae(one, batches(), epochs=1, device="cpu")
    assert same(weights(one), again)
    assert not same(weights(one), other)


def test_codes_go_to_the_prior_and_examples_are_still_told_apart():
    there = torch.tensor([3.0, -2.0])
    aae = small(prior=lambda count: there + torch.randn(count, 2))
    aae.encoder = UniversalApproximator(nn.Sequential(mlp(4 + 2, 16), nn.Linear(16, 2)), noise=2)
    x = X.float()
    before = (aae.encoder(x).mean(0) - there).norm()
    rows = fit_aae(aae, batches(), epochs=60, learning_rate=1e-2, device="cpu")
    assert (aae.encoder(x).mean(0) - there).norm() < 0.6 * before
    assert rows["reconstruction"][0] < -2.5  # 4 ln 2 = 2.77 of four fair coins
    assert rows["reconstruction"][-1] > -2
    assert (aae.reconstruct(x) - x).abs().mean() < 0.35


# --- several processes ---------------------------------------------------------------------------

SCRIPT = """
import os, sys, torch
from companion.training import save_model
from tests import test_aae_semi_supervised, test_aae_training

torch.set_num_threads(1)
rank = int(os.environ["RANK"])
for name, module in [("aae", test_aae_training), ("semi", test_aae_semi_supervised)]:
    save_model(module.without_chance(seed=rank), f"{sys.argv[1]}/{name}-{rank}")
"""


def without_chance(seed):
    """A game in which labels decide all that the prior draws; the first process's weights count."""
    aae = small(seed, labels=2, prior=lambda count, y: y + torch.ones(count, 2))
    fit_aae(aae, batches(20), LABELS, epochs=4, learning_rate=1e-2, device="cpu")
    return aae


def test_two_processes_agree_with_one(tmp_path):
    from tests import test_aae_semi_supervised as semi

    root, script = Path(__file__).parents[1], tmp_path / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [sys.executable, *launcher, script, tmp_path],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for name, make, play in (
        ("aae", lambda: small(labels=2), without_chance),
        ("semi", semi.small, semi.without_chance),
    ):
        first, second, alone = make(), make(), play(seed=0)
        for rank, model in enumerate((first, second)):
            load_model(model, tmp_path / f"{name}-{rank}")
        assert same(weights(first), second)
        for a, b in zip(weights(first), weights(alone), strict=True):  # but for rounding
            close(a, b, rtol=0, atol=1e-3)


def test_a_likelihood_of_single_entries_is_refused():
    aae = small()

    class Coins(nn.Module):
        def forward(self, z):
            return torch.distributions.Bernoulli(logits=torch.zeros(len(z), 4) + z.sum())

    aae.decoder = Coins()
    with pytest.raises(ValueError, match="sum over the event"):
        fit_aae(aae, batches(), epochs=1, device="cpu")
