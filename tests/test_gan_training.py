"""The two players' training: each step is one player's own, and nothing leaks."""

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
from companion.gan import (
    GAN,
    Packed,
    dcgan,
    fit_gan,
    gradient_penalty,
    non_saturating,
    r1,
    wasserstein,
)
from companion.nn import mlp
from companion.training import CheckpointError, Run, load_model
from companion.training.checkpoint import in_words

torch.manual_seed(0)
RING = data.ring_of_gaussians().sample((400,))


def small(seed=0, together=1):
    torch.manual_seed(seed)
    G = nn.Sequential(mlp(2, 16), nn.Linear(16, 2))
    D = nn.Sequential(mlp(2 * together, 16), nn.Linear(16, 1), nn.Flatten(0))
    return GAN(G, Packed(D, together) if together > 1 else D, latent=2)


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(before, module):
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_each_step_moves_one_player_and_leaves_the_other_bit_for_bit():
    gan, seen = small(), []

    class Spy(torch.optim.Adam):
        def step(self):
            mine, other = (
                (gan.G, gan.D)
                if self.param_groups[0]["params"][0] in set(gan.G.parameters())
                else (gan.D, gan.G)
            )
            before_mine, before_other = weights(mine), weights(other)
            stale = [p.grad for p in other.parameters()]
            super().step()
            seen.append((mine is gan.D, same(before_other, other), same(before_mine, mine), stale))

    original, torch.optim.Adam = torch.optim.Adam, Spy
    try:
        fit_gan(gan, data.Batches(RING, 100), epochs=1, device="cpu")
    finally:
        torch.optim.Adam = original
    assert [is_D for is_D, *_ in seen] == [True, False] * 4  # D first, then G
    for _, other_unmoved, mine_unmoved, _ in seen:
        assert other_unmoved
        assert not mine_unmoved


def test_no_gradient_of_one_players_step_reaches_the_other():
    gan, checked = small(), []
    loss = non_saturating

    class Watching:
        def L_D(self, real, fake):
            value = loss.L_D(real, fake)
            grads = torch.autograd.grad(
                value, list(gan.G.parameters()), retain_graph=True, allow_unused=True
            )
            checked.append(all(g is None for g in grads))
            return value

        def L_G(self, fake):
            value = loss.L_G(fake)
            checked.append(not any(p.requires_grad for p in gan.D.parameters()))
            return value

    fit_gan(gan, data.Batches(RING, 100), epochs=1, loss=Watching(), device="cpu")
    assert checked == [True] * 8
    assert all(p.requires_grad for p in gan.D.parameters())  # afterwards as before


def smooth_and_unsure(D, real, fake):
    """A penalty that depends on both kinds of examples, and differs between them."""
    return 20 * r1(D, real) + 5 * D(fake).square().mean()


OWN = {
    "learning_rate": (3e-3, 1e-2),
    "betas": (0.2, 0.7),
    "discriminator_steps": 3,
    "schedule": "cosine",
    "penalty": smooth_and_unsure,
}


@pytest.mark.parametrize("settings", [{}, OWN], ids=["what is customary", "all of one's own"])
def test_the_game_is_that_of_a_loop_written_by_hand(settings):
    gan, batches, steps = small(), data.Batches(RING, 100, seed=4), 8
    gan.D[1].weight.data *= 30  # steep, so that a gradient that is cut would show
    twin, noise = copy.deepcopy(gan), torch.randn(2 * steps, 100, 2)
    draws = iter(noise)
    gan.noise = lambda count: next(draws)[:count]
    rows = fit_gan(gan, batches, epochs=2, seed=4, device="cpu", **settings)

    draws, G, D = iter(noise), twin.G, twin.D
    rates = settings.get("learning_rate", (2e-4, 2e-4))
    betas, penalty = settings.get("betas", (0.5, 0.999)), settings.get("penalty")
    opt_G, opt_D = (
        torch.optim.Adam(player.parameters(), rate, betas)
        for player, rate in zip((G, D), rates, strict=True)
    )
    logged = {"L_D": [[], []], "L_G": [[], []]}
    for step in range(steps):
        if "schedule" in settings:
            for optimizer, rate in ((opt_G, rates[0]), (opt_D, rates[1])):
                cosine = (1 + math.cos(math.pi * step / steps)) / 2
                optimizer.param_groups[0]["lr"] = rate * cosine
        real, fake = batches.batch(step), G(next(draws)).detach()
        L_D = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
        logged["L_D"][step // 4].append(L_D.item())
        opt_D.zero_grad()
        (L_D if penalty is None else L_D + penalty(D, real, fake)).backward()
        opt_D.step()
        if (step + 1) % settings.get("discriminator_steps", 1) == 0:
            L_G = F.softplus(-D(G(next(draws)))).mean()
            logged["L_G"][step // 4].append(L_G.item())
            opt_G.zero_grad()
            L_G.backward()
            opt_G.step()
    for a, b in zip(gan.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for name, epochs in logged.items():
        means = [sum(values) / len(values) for values in epochs]
        assert rows[name] == pytest.approx(means, rel=1e-5)


def test_afterwards_the_players_are_in_evaluation_mode():
    gan, during = small(), []
    watch = lambda gan, step: during.extend(m.training for m in (gan.G, gan.D))
    fit_gan(gan, data.Batches(RING, 100), epochs=1, watch=watch, device="cpu")
    assert all(during)
    assert not any(module.training for module in gan.modules())


def test_all_calls_of_the_players_are_in_the_runs_precision_but_a_penalty_s():
    gan, seen = small(), []
    for player in (gan.G, gan.D):
        player.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    settings = {"penalty": smooth_and_unsure, "device": "cpu", "precision": "bf16"}
    fit_gan(gan, data.Batches(RING, 100), epochs=1, **settings)
    step = [True] * 3 + [False] * 2 + [True] * 2  # G, D at real and fake; the penalty; G, D at fake
    assert seen == 4 * step


def test_a_game_goes_on_from_its_checkpoint_but_not_under_other_rules(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def kill(gan, step):
        if step == 6:
            raise Killed

    def play(path=None, watch=None, **others):
        gan, batches = small(), data.Batches(RING, 100)
        rules = {"epochs": 2, "discriminator_steps": 3} | others
        rows = fit_gan(gan, batches, **rules, path=path, watch=watch, device="cpu")
        return weights(gan), rows

    whole, rows = play()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_wish", lambda run: 1)  # saved after every step
        with pytest.raises(Killed):
            play(tmp_path / "game", watch=kill)
    resumed, kept = play(tmp_path / "game")
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert kept == rows
    others = {"discriminator_steps": 2, "loss": wasserstein, "penalty": gradient_penalty}
    for rule, other in others.items():
        with pytest.raises(CheckpointError, match=rule):
            play(tmp_path / "game", **{rule: other})


def test_the_run_is_told_where_and_how_to_compute(monkeypatch, tmp_path):
    told = {}

    class Stop(Exception):
        pass

    def run(steps, **settings):
        told.update(settings, steps=steps)
        raise Stop

    monkeypatch.setattr("companion.gan.training.Run", run)
    asked = {
        "schedule": "cosine",
        "seed": 7,
        "path": tmp_path / "game",
        "device": "meta",
        "precision": "bf16",
        "compiled": True,
        "log": tmp_path,
        "progress": True,
    }
    with pytest.raises(Stop):
        fit_gan(small(), data.Batches(RING, 100), epochs=3, discriminator_steps=2, **asked)
    own = {"discriminator_steps": 2, "loss": in_words(non_saturating), "penalty": None}
    assert told == asked | {"steps": 12, "settings": own}


def test_the_discriminator_may_take_several_steps():
    gan, before = small(), []
    rows = fit_gan(
        gan,
        data.Batches(RING, 100),
        epochs=2,
        discriminator_steps=8,
        device="cpu",
        watch=lambda gan, step: before.append(weights(gan.G)),
    )
    first, last = before[0], before[-1]
    assert all(torch.equal(a, b) for a, b in zip(first, before[6], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, last, strict=True))
    assert "L_G" not in rows[0]
    assert "L_G" in rows[1]


def test_someone_may_watch_the_players_after_each_step():
    gan, seen = small(), []
    watch = lambda players, step: seen.append((players is gan, step))
    fit_gan(gan, data.Batches(RING, 100), epochs=2, watch=watch, device="cpu")
    assert seen == [(True, step) for step in range(1, 9)]


def test_watching_changes_nothing():
    seen, unseen = small(), small()
    watch = lambda players, step: players.sample((7,))
    for gan, look in ((seen, watch), (unseen, None)):
        fit_gan(gan, data.Batches(RING, 100), epochs=1, watch=look, device="cpu")
    assert same(weights(seen), unseen)


def test_a_run_is_a_function_of_its_seed():
    def train(seed):
        gan = small()
        fit_gan(gan, data.Batches(RING, 100), epochs=1, seed=seed, device="cpu")
        return weights(gan.G)

    one, again, other = train(0), train(0), train(1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_penalty_is_added_to_the_discriminators_loss():
    gan, twin = small(), small()
    fit_gan(gan, data.Batches(RING, 100), epochs=1, loss=wasserstein, device="cpu")
    fit_gan(
        twin,
        data.Batches(RING, 100),
        epochs=1,
        loss=wasserstein,
        penalty=lambda D, real, fake: 10 * gradient_penalty(D, real, fake),
        device="cpu",
    )
    assert not same(weights(gan.D), twin.D)


def test_packs_of_examples():
    gan = small(together=4)
    seen = []
    gan.D.D.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = RING[:8]
    assert gan.D(x).shape == (2,)
    assert torch.equal(seen[0], torch.stack([x[:4].flatten(), x[4:].flatten()]))
    with pytest.raises(ValueError, match="7 examples do not go into packs of 4"):
        gan.D(RING[:7])
    fit_gan(gan, data.Batches(RING, 100), epochs=1, device="cpu")


def test_learning_rates_for_each_player():
    gan = small()
    before = copy.deepcopy(gan)
    fit_gan(gan, data.Batches(RING, 100), epochs=1, learning_rate=(0.0, 1e-2), device="cpu")
    assert same(weights(before.G), gan.G)
    assert not same(weights(before.D), gan.D)


def test_it_draws_in_one_pass_and_has_no_density():
    gan, calls = small(), []
    gan.G.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    assert gan.sample((5,)).shape == (5, 2)
    assert calls == [5]
    assert not gan.sample((5,)).requires_grad
    assert not hasattr(gan, "log_prob")


def test_the_noise_is_standard_normal_as_the_generators_numbers_are():
    torch.manual_seed(0)
    z = small().double().noise(20_000)
    assert z.shape == (20_000, 2)
    assert z.dtype == torch.float64
    torch.testing.assert_close(z.mean(0), torch.zeros(2).double(), rtol=0, atol=0.03)
    torch.testing.assert_close(z.T.cov(), torch.eye(2).double(), rtol=0, atol=0.05)
    assert (z.abs() < 1).double().mean() == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.01)
    assert small().to("meta").noise(3).is_meta


def test_the_discriminator_learns_what_is_real_and_the_generator_follows():
    torch.manual_seed(0)
    there = torch.tensor([3.0, -2.0]) + 0.1 * torch.randn(2000, 2)
    gan, batches = small(), data.Batches(there, 100)
    fit_gan(gan, batches, epochs=3, learning_rate=(0.0, 1e-2), device="cpu")
    assert gan.D(there).mean() > 1 > -1 > gan.D(gan.sample((500,))).mean()
    before = (gan.sample((500,)).mean(0) - there.mean(0)).norm()
    fit_gan(gan, batches, epochs=10, learning_rate=3e-3, device="cpu")
    assert (gan.sample((500,)).mean(0) - there.mean(0)).norm() < before / 3


# --- convolutions ---


def test_the_dcgan_draws_and_judges_pictures():
    torch.manual_seed(0)
    gan = dcgan(side=12, channels=8, latent=5)
    x = gan.sample((3,))
    assert x.shape == (3, 1, 12, 12)
    assert 0 <= x.min() < x.max() <= 1
    assert gan.D(x).shape == (3,)
    G, D = (sum(p.numel() for p in player.parameters()) for player in (dcgan().G, dcgan().D))
    assert G == (64 + 1) * 3136 + 2 * 64 + (64 * 16 + 1) * 32 + 2 * 32 + 32 * 16 + 1
    assert D == (16 + 1) * 32 + (32 * 16 + 1) * 64 + 3136 + 1


def test_the_dcgan_is_what_it_says():
    """The same functions of the same weights, with the normalisation written out."""
    torch.manual_seed(0)
    gan = dcgan(side=8, channels=16, latent=5)
    with torch.no_grad():
        for p in gan.parameters():
            p += 0.1 * torch.randn_like(p)
    z, x = torch.randn(6, 5), torch.rand(6, 1, 8, 8)

    def normalised(x, weight, bias):
        groups = x.unflatten(1, (-1, 8))
        mean = groups.mean((2, 3, 4), keepdim=True)
        deviation = (groups.var((2, 3, 4), correction=0, keepdim=True) + 1e-5).sqrt()
        whitened = ((groups - mean) / deviation).flatten(1, 2)
        return whitened * weight[:, None, None] + bias[:, None, None]

    linear, norm, up, last_norm, last = zip(*[iter(weights(gan.G))] * 2, strict=True)
    halves = {"stride": 2, "padding": 1}
    h = normalised(F.linear(z, *linear).view(6, 32, 2, 2), *norm).relu()
    h = normalised(F.conv_transpose2d(h, *up, **halves), *last_norm).relu()
    drawn = F.conv_transpose2d(h, *last, **halves).sigmoid()
    torch.testing.assert_close(gan.G(z).detach(), drawn, rtol=0, atol=1e-5)

    first, down, linear = zip(*[iter(weights(gan.D))] * 2, strict=True)
    h = F.leaky_relu(F.conv2d(x, *first, **halves), 0.2)
    h = F.leaky_relu(F.conv2d(h, *down, **halves), 0.2)
    logits = F.linear(h.flatten(1), *linear)[:, 0]
    torch.testing.assert_close(gan.D(x).detach(), logits, rtol=0, atol=1e-5)


def test_either_player_of_the_dcgan_treats_each_picture_by_itself():
    torch.manual_seed(0)
    gan = dcgan(side=8, channels=8, latent=5)
    z, x = torch.randn(6, 5), torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(gan.G(z)[:2], gan.G(z[:2]), atol=1e-6)
        assert torch.allclose(gan.D(x)[:2], gan.D(x[:2]), atol=1e-6)
    assert not [*gan.buffers()], "a step of D would move what G remembers of its batches"


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="side = 30 must divide by 4"):
        dcgan(side=30)
    with pytest.raises(ValueError, match="channels = 12 by 8"):
        dcgan(channels=12)


def test_the_dcgan_learns_a_picture():
    torch.manual_seed(0)
    bar = torch.zeros(200, 1, 8, 8)
    bar[..., 3:5] = 1
    gan = dcgan(side=8, channels=8, latent=5)
    before = (gan.sample((50,)) - bar[:50]).abs().mean()
    fit_gan(gan, data.Batches(bar, 50), epochs=20, learning_rate=5e-3, device="cpu")
    assert (gan.sample((50,)) - bar[:50]).abs().mean() < before / 3


# --- several processes ---

SCRIPT = """
import os, sys, torch
from companion import data
from companion.gan import fit_gan, r1
from companion.training import save_model
from tests.test_gan_training import RING, small

torch.set_num_threads(1)
rank = int(os.environ["RANK"])
gan = small(seed=rank)  # the first process's weights count
fit_gan(gan, data.Batches(RING, 100), epochs=3, learning_rate=1e-2, device="cpu",
        penalty=lambda D, real, fake: r1(D, real))
save_model(gan, f"{sys.argv[1]}/gan-{rank}")
"""


def test_two_processes_agree_also_with_a_penalty(tmp_path):
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
    first, second, alone = small(seed=5), small(seed=6), small(seed=0)
    for rank, gan in enumerate((first, second)):
        load_model(gan, tmp_path / f"gan-{rank}")
    assert same(weights(first), second)
    penalty = lambda D, real, fake: r1(D, real)
    settings = {"epochs": 3, "learning_rate": 1e-2, "penalty": penalty, "device": "cpu"}
    fit_gan(alone, data.Batches(RING, 100), **settings)
    for a, b in zip(weights(first), weights(alone), strict=True):  # but for the noise of 100 draws
        torch.testing.assert_close(a, b, rtol=0, atol=0.1)


@pytest.mark.parametrize("loss", [non_saturating, wasserstein], ids=["R1", "gradient penalty"])
def test_a_compiled_critic_may_be_penalised(loss, monkeypatch):
    """torch.compile differentiates once; a penalty on slopes asks for twice."""
    quickly = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", lambda module, mode: quickly(module))
    penalty = gradient_penalty if loss is wasserstein else lambda D, real, fake: r1(D, real)
    batches = data.Batches(torch.randn(8, 2), 4)

    def trained(compiled):
        torch.manual_seed(0)
        gan = GAN(mlp(1, 4, 2), nn.Sequential(mlp(2, 4, 1), nn.Flatten(0)), 1)
        settings = {"epochs": 1, "loss": loss, "penalty": penalty, "device": "cpu"}
        fit_gan(gan, batches, compiled=compiled, **settings)
        return nn.utils.parameters_to_vector(gan.parameters())

    assert torch.allclose(trained(True), trained(False), atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "message"), [(0, "at least 1, not 0"), (9, "from 1 to 8, .* or G would never take")]
)
def test_the_generator_takes_a_step_or_the_settings_are_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        fit_gan(small(), data.Batches(RING, 100), epochs=2, discriminator_steps=steps, device="cpu")


def test_without_epochs_nothing_is_trained():
    gan = small()
    before = nn.utils.parameters_to_vector(gan.parameters()).clone()
    assert fit_gan(gan, data.Batches(RING, 100), epochs=0, device="cpu") == []
    assert torch.equal(before, nn.utils.parameters_to_vector(gan.parameters()))
