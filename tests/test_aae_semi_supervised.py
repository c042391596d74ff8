"""Codes of a kind and a style: two critics, few labels and noise, each only where it is due."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from companion import data
from companion.aae import SemiSupervisedAAE, TwoHeads, fit_semi_supervised
from companion.gan import GameLoss, non_saturating, wasserstein
from companion.gan.losses import cross_entropy_fake, cross_entropy_real
from companion.nn import mlp
from companion.training import CheckpointError
from companion.training.checkpoint import batches_signature, fingerprint, in_words
from companion.vae import ConditionalBernoulli
from tests.test_aae_training import killed_and_resumed, moves, same, weights

close = torch.testing.assert_close
KINDS = torch.arange(60) % 3
X = data.bars_and_stripes(2).repeat(10, 1)  # 60 examples of 4 pixels
X[:, 0] = KINDS == 0
X[:, 3] = KINDS == 1
FEW = torch.tensor([0, 1, 2, 9, 10, 11])  # the places of the examples that have a label


def critic(inputs):
    return nn.Sequential(mlp(inputs, 16), nn.Linear(16, 1), nn.Flatten(0))


def small(seed=0):
    torch.manual_seed(seed)
    encoder = TwoHeads(mlp(4, 16), 16, kinds=3, latent=2)
    decoder = ConditionalBernoulli(mlp(5, 16), 16, 4)
    return SemiSupervisedAAE(encoder, decoder, critic(3), critic(2), kinds=3)


def batches(size=15, **settings):
    return data.Batches(X, size, **settings)


def labelled(size=3, **settings):
    return data.Batches(X[FEW], size, **settings), KINDS[FEW]


def shown_to(module):
    """A list that gets all that a module is called with from now on."""
    seen = []
    module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    return seen


# --- the model -----------------------------------------------------------------------------------


def test_two_heads_read_the_same_features():
    torch.manual_seed(0)
    encoder, x = TwoHeads(mlp(4, 6), 6, kinds=3, latent=2), torch.randn(7, 4)
    calls = shown_to(encoder.body)
    logits, z = encoder(x)
    assert len(calls) == 1
    h = encoder.body(x)
    close(logits, h @ encoder.kind.weight.T + encoder.kind.bias)
    close(z, h @ encoder.style.weight.T + encoder.style.bias)
    assert logits.shape == (7, 3)
    assert z.shape == (7, 2)


def test_classify_and_mean_of():
    aae, x = small(), X[:9].float()
    kinds = aae.classify(x)
    assert kinds.dtype == torch.int64
    assert torch.equal(kinds, torch.stack([logits.argmax() for logits in aae.encoder(x)[0]]))
    assert torch.equal(kinds, aae.classify(x.byte()))
    z, kind = torch.randn(4, 2), torch.tensor([0, 2, 1, 2])
    y = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]])
    mean = aae.mean_of(kind, z)
    close(mean, aae.decoder.logits(aae.decoder.body(torch.cat([y, z], 1))).sigmoid())
    assert not mean.requires_grad
    assert aae.mean_of(kind[:1], z[:1]).shape == (1, 4)  # not of all kinds
    assert aae.bfloat16().mean_of(kind, z.bfloat16()).shape == (4, 4)  # in any precision
    assert aae.kinds == 3


# --- one step ------------------------------------------------------------------------------------


@pytest.fixture
def plain_descent(monkeypatch):
    """Steps down the gradient itself, from which the gradient can be read off."""
    sgd = lambda parameters, rate, betas: torch.optim.SGD(parameters, rate)
    monkeypatch.setattr("companion.aae.semi_supervised.adam", sgd)


@pytest.mark.usefixtures("plain_descent")
@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_one_step_from_known_weights_by_gradients_written_by_hand(noise, weight, with_labels):
    """All players linear, their random draws as they were shown to the critics. In float64."""
    torch.manual_seed(5)
    encoder = TwoHeads(nn.Identity(), 4, kinds=3, latent=2)
    decoder = ConditionalBernoulli(nn.Identity(), 5, 4)
    linear = lambda inputs: nn.Sequential(nn.Linear(inputs, 1), nn.Flatten(0))
    aae = SemiSupervisedAAE(encoder, decoder, linear(3), linear(2), kinds=3)
    A, a, B, b, V, c, u, u0, v, v0 = (p.double() for p in weights(aae))
    seen_y, seen_z = shown_to(aae.critic_y), shown_to(aae.critic_z)
    train, (few, labels) = batches(60, seed=3), labelled(4, seed=8)
    rate, rate_D, label_weight = 0.5, 1.5, 3.0
    rows = fit_semi_supervised(
        aae,
        train,
        *((few, labels) if with_labels else ()),
        epochs=1,
        weight=weight,
        label_weight=label_weight,
        critic_noise=noise,
        learning_rate=(rate, rate_D),
        schedule="constant",
        device="cpu",
    )

    x, N = train.batch(0).double(), 60
    y, z = (x @ A.T + a).softmax(1), x @ B.T + b
    real_y, fake_y, passing_y = (shown.double() for shown in seen_y)
    real_z, fake_z, passing_z = (shown.double() for shown in seen_z)
    for shown in (fake_z, passing_z):
        close(shown, z, rtol=1e-5, atol=1e-6)

    def step_of_a_critic(w, w0, real, fake):
        at_real, at_fake = -(-(real @ w.T + w0)).sigmoid() / N, (fake @ w.T + w0).sigmoid() / N
        slope, slope_0 = at_real.T @ real + at_fake.T @ fake, at_real.sum(0) + at_fake.sum(0)
        return w - rate_D * slope, w0 - rate_D * slope_0

    (u_new, u0_new), (v_new, v0_new) = (
        step_of_a_critic(u, u0, real_y, fake_y),
        step_of_a_critic(v, v0, real_z, fake_z),
    )
    surprise = ((torch.cat([y, z], 1) @ V.T + c).sigmoid() - x) / N
    slope_y, slope_z = (surprise @ V).split([3, 2], 1)
    slope_y = slope_y - weight * (-(passing_y @ u_new.T + u0_new)).sigmoid() / N @ u_new
    slope_z = slope_z - weight * (-(passing_z @ v_new.T + v0_new)).sigmoid() / N @ v_new
    slope_logits = y * (slope_y - (slope_y * y).sum(1, keepdim=True))  # through the softmax
    slope_A, slope_a = slope_logits.T @ x, slope_logits.sum(0)
    if with_labels:  # the cross-entropy of four examples, in the logits
        x_known, kinds = few.batch(0).double(), labels[few.indices(0)]
        p_known = (x_known @ A.T + a).softmax(1)
        wrong = label_weight * (p_known - F.one_hot(kinds, 3)) / 4
        slope_A, slope_a = slope_A + wrong.T @ x_known, slope_a + wrong.sum(0)
        assert rows["L_y"] == pytest.approx([-p_known[range(4), kinds].log().mean().item()])
    truth = (
        A - rate * slope_A,
        a - rate * slope_a,
        B - rate * slope_z.T @ x,
        b - rate * slope_z.sum(0),
        V - rate * surprise.T @ torch.cat([y, z], 1),
        c - rate * surprise.sum(0),
        u_new,
        u0_new,
        v_new,
        v0_new,
    )
    for found, wanted in zip(aae.parameters(), truth, strict=True):
        close(found.detach().double(), wanted, rtol=1e-4, atol=1e-6)


def test_draws_of_the_priors_are_certain_kinds_alike_in_number_and_standard_normal_styles():
    aae, X_many = small(), X.repeat(50, 1)
    seen_y, seen_z = shown_to(aae.critic_y), shown_to(aae.critic_z)
    fit_semi_supervised(aae, data.Batches(X_many, 3000), epochs=4, device="cpu")
    assert len(seen_y) == len(seen_z) == 3 * 4
    y, z = torch.cat(seen_y[::3]), torch.cat(seen_z[::3])  # the first call of each step
    assert set(y.unique().tolist()) == {0, 1}
    assert (y.sum(1) == 1).all()
    share = 1 / 3
    close(y.mean(0), torch.full((3,), share), rtol=0, atol=5 * math.sqrt(share * 2 / 3 / 12_000))
    close(z.mean(0), torch.zeros(2), rtol=0, atol=5 / math.sqrt(12_000))
    close(z.T.cov(), torch.eye(2), rtol=0, atol=8 / math.sqrt(12_000))
    assert (z.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.02)
    assert not torch.equal(seen_y[0], seen_y[3])
    together = torch.cat([y, z], 1).T.corrcoef()[:3, 3:]
    assert together.abs().max() < 5 / math.sqrt(12_000)


@pytest.mark.usefixtures("plain_descent")
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_noise_is_on_whatever_the_critic_of_kinds_is_shown_and_on_nothing_else(noise):
    aae, X_many = small(), X.repeat(50, 1)
    with torch.no_grad():
        logits, z = aae.encoder(data.Batches(X_many, 3000).batch(0))
    seen_y, seen_z, decoded = (shown_to(m) for m in (aae.critic_y, aae.critic_z, aae.decoder))
    train = data.Batches(X_many, 3000)
    fit_semi_supervised(aae, train, epochs=1, critic_noise=noise, device="cpu")
    y = logits.softmax(1)
    of_prior = seen_y[0] - F.one_hot(seen_y[0].argmax(1), 3)
    if noise == 0:
        assert torch.equal(of_prior, torch.zeros(3000, 3))
    for difference in (seen_y[1] - y, seen_y[2] - y):
        assert difference.std().item() == pytest.approx(noise, rel=0.03, abs=1e-6)
        assert difference.mean().abs() < 5 * noise / math.sqrt(9000) + 1e-6
    if noise:
        assert of_prior.std() > 0.3  # the largest entry need not be the kind: a little less
        pair = torch.stack([(seen_y[1] - y).flatten(), (seen_y[2] - y).flatten()])
        assert pair.corrcoef()[0, 1].abs() < 5 / math.sqrt(9000)  # another draw at each call
    for shown in seen_z[1:]:
        close(shown, z)
    close(decoded[0], torch.cat([y, z], 1))


def test_labelled_examples_serve_the_cross_entropy_and_nothing_else():
    """Critics and decoder see the batch, the encoder also the labelled ones beside it."""
    aae, (few, labels) = small(), labelled(3, seed=8)
    train = batches(seed=3)
    seen, codes = {}, []
    for name in ("encoder", "decoder", "critic_y", "critic_z"):
        seen[name] = shown_to(getattr(aae, name))
    aae.encoder.register_forward_hook(lambda module, inputs, output: codes.append(output))
    rows = fit_semi_supervised(aae, train, few, labels, epochs=2, device="cpu")
    counts = {name: [len(shown) for shown in calls] for name, calls in seen.items()}
    assert counts == {
        "encoder": [18] * 8,
        "decoder": [15] * 8,
        "critic_y": [15] * 24,
        "critic_z": [15] * 24,
    }
    entropies = []
    for step, ((logits, z), x) in enumerate(zip(codes, seen["encoder"], strict=True)):
        assert torch.equal(x, torch.cat([train.batch(step), few.batch(step)]))
        close(seen["decoder"][step], torch.cat([logits.softmax(1), z], 1)[:15])
        log_y = logits[15:].log_softmax(1)
        entropies.append(-log_y[range(3), labels[few.indices(step)]].mean().item())
    assert rows["L_y"] == pytest.approx([sum(entropies[:4]) / 4, sum(entropies[4:]) / 4], rel=1e-5)


def test_labels_without_a_weight_are_only_looked_at():

    def play(labels, label_weight):
        aae = small()
        few = labelled()[0]
        settings = {"epochs": 1, "label_weight": label_weight, "device": "cpu"}
        rows = fit_semi_supervised(aae, batches(), few, labels, **settings)
        return aae, rows

    right = KINDS[FEW]
    (one, rows), (other, other_rows) = play(right, 0.0), play(2 - right, 0.0)
    assert same(weights(one), other)
    assert rows["L_y"] != other_rows["L_y"]
    (one, _), (other, _) = play(right, 1.0), play(2 - right, 1.0)
    assert not same(weights(one.encoder.kind), other.encoder.kind)
    alone = small()
    fit_semi_supervised(alone, batches(), epochs=1, device="cpu")
    for a, b in zip(alone.parameters(), play(right, 0.0)[0].parameters(), strict=True):
        close(a, b, rtol=0, atol=1e-5)


# --- many steps ----------------------------------------------------------------------------------

OWN = {
    "learning_rate": (3e-3, 1e-2),
    "betas": (0.2, 0.7),
    "weight": 0.3,
    "label_weight": 5.0,
    "critic_noise": 0.2,
    "schedule": "constant",
    "loss": wasserstein,
}


@pytest.mark.parametrize("settings", [{}, OWN], ids=["what is customary", "all of one's own"])
def test_the_game_is_that_of_a_loop_written_by_hand(settings):
    aae, train, (few, labels) = small(), batches(seed=4), labelled(2, seed=6)
    twin = copy.deepcopy(aae)
    seen_y, seen_z = shown_to(aae.critic_y), shown_to(aae.critic_z)
    rows = fit_semi_supervised(aae, train, few, labels, epochs=2, seed=4, device="cpu", **settings)

    rates = settings.get("learning_rate", (1e-3, 1e-3))
    betas, weight = settings.get("betas", (0.5, 0.999)), settings.get("weight", 1.0)
    describers = [*twin.encoder.parameters(), *twin.decoder.parameters()]
    critics = [*twin.critic_y.parameters(), *twin.critic_z.parameters()]
    opt_EP, opt_D = (
        torch.optim.Adam(parameters, rate, betas)
        for parameters, rate in zip((describers, critics), rates, strict=True)
    )
    logged = {name: [[], []] for name in ("reconstruction", "L_D", "L_G", "L_y")}
    for step in range(8):
        cosine = 1 if settings else (1 + math.cos(math.pi * step / 8)) / 2
        opt_EP.param_groups[0]["lr"] = rates[0] * cosine
        opt_D.param_groups[0]["lr"] = rates[1] * cosine
        x, known = train.batch(step), few.batch(step)
        logits, z = twin.encoder(x)
        y = logits.softmax(1)
        noise = [shown - y.detach() for shown in seen_y[3 * step + 1 : 3 * step + 3]]
        real = twin.critic_y(seen_y[3 * step]), twin.critic_z(seen_z[3 * step])
        fake = twin.critic_y(y.detach() + noise[0]), twin.critic_z(z.detach())
        L_D = sum(
            f.mean() - r.mean() if settings else F.softplus(-r).mean() + F.softplus(f).mean()
            for r, f in zip(real, fake, strict=True)
        )
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()
        fake = twin.critic_y(y + noise[1]), twin.critic_z(z)
        L_G = sum(-f.mean() if settings else F.softplus(-f).mean() for f in fake)
        decoded = twin.decoder.logits(twin.decoder.body(torch.cat([y, z], 1)))
        reconstruction = -F.binary_cross_entropy_with_logits(decoded, x, reduction="sum") / 15
        L_y = F.cross_entropy(twin.encoder(known)[0], labels[few.indices(step)])
        opt_EP.zero_grad()
        total = weight * L_G - reconstruction + settings.get("label_weight", 1.0) * L_y
        total.backward()
        opt_EP.step()
        for name, value in zip(logged, (reconstruction, L_D, L_G, L_y), strict=True):
            logged[name][step // 4].append(value.item())
    for a, b in zip(aae.parameters(), twin.parameters(), strict=True):
        close(a, b, rtol=1e-3, atol=1e-5)
    assert set(rows[0]) == {"epoch", "step", *logged}
    for name, epochs in logged.items():
        means = [sum(values) / len(values) for values in epochs]
        assert rows[name] == pytest.approx(means, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("with_labels", [False, True])
def test_each_step_moves_its_own_players_and_leaves_the_others_bit_for_bit(
    with_labels, monkeypatch
):
    aae = small()
    players = {name: getattr(aae, name) for name in ("encoder", "decoder", "critic_y", "critic_z")}
    few = labelled() if with_labels else ()
    play = lambda: fit_semi_supervised(aae, batches(), *few, epochs=1, device="cpu")
    critics, describers = {"critic_y", "critic_z"}, {"encoder", "decoder"}
    each = [(critics, critics), (describers, describers)]  # the critics first
    assert moves(players, play, monkeypatch) == each * 4
    assert all(p.requires_grad for p in aae.parameters())  # afterwards as before


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
            critics = [*aae.critic_y.parameters(), *aae.critic_z.parameters()]
            checked.append(not any(p.requires_grad for p in critics))
            return non_saturating.L_G(fake)

    fit_semi_supervised(aae, batches(), epochs=1, loss=Watching(), device="cpu")
    assert checked == [True] * 16


def test_without_labels_it_sorts_into_kinds_by_itself():
    """Three patterns, each with a pixel that flickers: sure of the kind, and no kind preferred."""
    torch.manual_seed(0)
    x = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]).repeat(40, 1)
    truth = torch.arange(120) % 3
    encoder = TwoHeads(mlp(6, 16), 16, kinds=3, latent=1)
    decoder = ConditionalBernoulli(nn.Identity(), 4, 6)
    aae = SemiSupervisedAAE(encoder, decoder, critic(3), critic(1), kinds=3)
    settings = {"epochs": 60, "learning_rate": 1e-2, "critic_noise": 0.3, "device": "cpu"}
    rows = fit_semi_supervised(aae, data.Batches(x, 40), **settings)
    assert set(rows[0]) == {"epoch", "step", "reconstruction", "L_D", "L_G"}
    table = torch.zeros(3, 3).index_put_(
        (truth, aae.classify(x.float())), torch.ones(120), accumulate=True
    )
    assert sorted(table.amax(0).tolist()) == [40, 40, 40]
    assert aae.encoder(x.float())[0].softmax(1).amax(1).min() > 0.8


def test_few_labels_name_the_kinds():
    aae = small()
    before = (aae.classify(X.float()) == KINDS).float().mean()
    settings = {"epochs": 30, "learning_rate": 1e-2, "critic_noise": 0.3, "device": "cpu"}
    rows = fit_semi_supervised(aae, batches(), *labelled(6), **settings)
    assert before < 0.7
    assert (aae.classify(X.float()) == KINDS).float().mean() == 1
    assert rows["L_y"][-1] < 0.1 < rows["L_y"][0]
    means = aae.mean_of(torch.arange(3), torch.zeros(3, 2))
    assert means[:, 0].argmax() == 0  # the pixel that only the first kind has
    assert means[:, 3].argmax() == 1


def test_learning_rates_for_describers_and_critics():
    names = ("encoder", "decoder", "critic_y", "critic_z")
    for rates, moved in (((0.0, 1e-2), names[2:]), ((1e-2, 0.0), names[:2])):
        aae, before = small(), small()
        fit_semi_supervised(aae, batches(), epochs=1, learning_rate=rates, device="cpu")
        for name in names:
            stayed = same(weights(getattr(before, name)), getattr(aae, name))
            assert stayed == (name not in moved)


def test_the_players_are_in_evaluation_mode_afterwards_and_in_the_runs_precision_before():
    aae, during, seen = small(), [], []
    for player in (aae.encoder, aae.decoder, aae.critic_y, aae.critic_z):
        player.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    watch = lambda players, step: during.append((players is aae, step, players.encoder.training))
    settings = {"watch": watch, "device": "cpu", "precision": "bf16"}
    fit_semi_supervised(aae, batches(), *labelled(), epochs=2, **settings)
    assert during == [(True, step, True) for step in range(1, 9)]
    assert not any(module.training for module in aae.modules())
    assert seen == [True] * 8 * 8  # of a step: encoder, decoder, and each critic thrice


WRONG = {
    "labels without examples": (
        lambda few, labels: (None, labels),
        "labelled examples and labels come together, or not at all",
    ),
    "examples without labels": (
        lambda few, labels: (few, None),
        "labelled examples and labels come together, or not at all",
    ),
    "too few": (lambda few, labels: (few, labels[:-1]), "5 labels for 6 examples"),
    "too many": (
        lambda few, labels: (few, torch.cat([labels, labels])),
        "12 labels for 6 examples",
    ),
    "beyond K": (lambda few, labels: (few, labels + 1), "labels are kinds, from 0 to 2"),
    "negative": (lambda few, labels: (few, labels - 1), "labels are kinds, from 0 to 2"),
    "floats": (lambda few, labels: (few, labels.double()), r"int64, .*, not torch.float64"),
    "one-hot": (
        lambda few, labels: (few, F.one_hot(labels, 3)),
        r"a number for each example, not torch.int64 of shape \(6, 3\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_labels_that_do_not_fit_are_refused(case):
    make, reason = WRONG[case]
    aae = small()
    with pytest.raises(ValueError, match=reason):
        fit_semi_supervised(aae, batches(), *make(*labelled()), epochs=1, device="cpu")
    assert same(weights(small()), aae)


def test_a_list_of_labels_is_no_tensor():
    few, labels = labelled()
    with pytest.raises(TypeError, match="labels must be a tensor, not list"):
        fit_semi_supervised(small(), batches(), few, labels.tolist(), epochs=1, device="cpu")


def test_the_run_is_told_where_and_how_to_compute(monkeypatch, tmp_path):
    told = {}

    class Stop(Exception):
        pass

    def run(steps, **settings):
        told.update(settings, steps=steps)
        raise Stop

    monkeypatch.setattr("companion.aae.semi_supervised.Run", run)
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
    own = {"weight": 0.2, "label_weight": 0.3, "critic_noise": 0.4}
    with pytest.raises(Stop):
        fit_semi_supervised(small(), batches(), *labelled(), epochs=3, **own, **asked)
    few, kinds = labelled()
    own["loss"] = in_words(non_saturating)
    own |= {"labelled": batches_signature(few), "labels": fingerprint(kinds)}
    assert told == asked | {"steps": 12, "settings": own}


def test_a_game_goes_on_from_its_checkpoint_but_not_under_other_rules(tmp_path, monkeypatch):
    few, kinds = labelled()

    def play(path, watch, labelled=few, labels=kinds, **rules):
        aae = small()
        settings = {"epochs": 2, "critic_noise": 0.2, "path": path, "watch": watch} | rules
        rows = fit_semi_supervised(aae, batches(), labelled, labels, **settings, device="cpu")
        return weights(aae), rows

    (whole, rows), (resumed, kept) = killed_and_resumed(play, tmp_path / "game", monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert kept == rows
    others = dict.fromkeys(("weight", "label_weight", "critic_noise"), 0.5) | {
        "loss": wasserstein,
        "labels": kinds.flip(0),
        "labelled": data.Batches(few.images.flip(0), 3),
    }
    for rule, other in others.items():
        with pytest.raises(CheckpointError, match=f"- {rule}"):
            play(tmp_path / "game", None, **{rule: other})
    for other in (data.Batches(few.images, 3, seed=5), data.Batches(few.images, 2)):
        with pytest.raises(CheckpointError, match="- labelled"):
            play(tmp_path / "game", None, labelled=other)


def test_a_run_is_a_function_of_its_seed():
    def train(seed):
        aae = small()
        torch.rand(seed + 1)  # torch's global generator has no say
        fit_semi_supervised(aae, batches(), *labelled(), epochs=1, seed=seed, device="cpu")
        return aae

    one, again, other = small(), train(0), train(1)
    fit_semi_supervised(one, batches(), *labelled(), epochs=1, device="cpu")
    assert same(weights(one), again)
    assert not same(weights(one), other)


# --- several processes: see test_aae_training ----------------------------------------------------


def without_chance(seed):
    """A game in which the draws of the priors cost nothing; the first process's weights count."""
    aae = small(seed)
    game = GameLoss(torch.zeros_like, cross_entropy_fake, cross_entropy_real)
    settings = {"epochs": 4, "loss": game, "learning_rate": 1e-2, "device": "cpu"}
    fit_semi_supervised(aae, batches(20), *labelled(4), **settings)
    return aae
