"""Autoregressive models against enumeration, and against witnesses written a second time."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, log_expit
from torch import nn

from companion.autoregressive import FVSBN, MADE, Autoregressive
from companion.checks import all_binary, dependence, sampling_p_value, total_probability
from companion.data import bars_and_stripes

SIDE, D = 4, 16
RASTER = torch.arange(D)
COLUMN = RASTER.reshape(SIDE, SIDE).T.flatten()
SPIRAL = torch.tensor([0, 1, 2, 3, 7, 11, 15, 14, 13, 12, 8, 4, 5, 6, 10, 9])
SHUFFLED = torch.randperm(D, generator=torch.Generator().manual_seed(1))
ORDERS = {"raster": RASTER, "column": COLUMN, "spiral": SPIRAL, "shuffled": SHUFFLED}

MODELS = {
    "FVSBN": lambda order: FVSBN(D, order),
    "FVSBN window 0": lambda order: FVSBN(D, order, window=0),
    "FVSBN window 3": lambda order: FVSBN(D, order, window=3),
    "MADE": lambda order: MADE(D, (40,), order),
    "MADE without direct connections": lambda order: MADE(D, (40,), order, direct=False),
    "MADE, three layers": lambda order: MADE(D, (40, 33, 50), order),
    "MADE, narrow": lambda order: MADE(D, (5,), order),
}


def randomised(model, seed=0, scale=1.0):
    """The model with every parameter random, in float64: structure must hold for all of them."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double() * scale
    return model


@pytest.fixture(params=MODELS)
def build(request):
    return MODELS[request.param]


@pytest.mark.parametrize("order", ORDERS)
def test_probabilities_sum_to_one(build, order):
    model = randomised(build(ORDERS[order]))
    assert total_probability(model.log_prob, D) == pytest.approx(1, abs=1e-10)


def test_an_ensemble_of_orders_sums_to_one_and_averages_probabilities():
    model = randomised(MADE(D, (40, 30), torch.stack(list(ORDERS.values()))))
    assert total_probability(model.log_prob, D) == pytest.approx(1, abs=1e-10)
    x = all_binary(D)[::97]
    members = []
    for order in ORDERS.values():
        member = MADE(D, (40, 30), order).double()
        member.load_state_dict(model.state_dict())
        members.append(member.log_prob(x).exp())
    torch.testing.assert_close(model.log_prob(x).exp(), torch.stack(members).mean(0))


def test_averaging_logits_over_orders_is_caught():
    """Guards the guard: the classic mistake is no distribution, and the enumeration sees it."""
    model = randomised(MADE(D, (40,), torch.stack(list(ORDERS.values()))))

    def mistaken(x):
        logits = torch.stack([model.logits(x, m) for m in range(len(ORDERS))]).mean(0)
        return -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)

    assert abs(total_probability(mistaken, D) - 1) > 0.01


@pytest.mark.parametrize("order", ORDERS)
def test_logits_see_what_comes_before_and_nothing_else(order):
    """Zeros AND non-zeros of the Jacobian: no cheating, and nothing cut off either."""
    rank = ORDERS[order].argsort()
    distance = rank[:, None] - rank[None, :]
    before = distance > 0
    for model in [
        FVSBN(D, ORDERS[order]),
        MADE(D, (150,), ORDERS[order], direct=False),
        MADE(D, (150, 133, 200), ORDERS[order], direct=False),
        MADE(D, (40, 33, 50), ORDERS[order]),
        MADE(D, (5,), ORDERS[order]),
    ]:
        assert torch.equal(dependence(randomised(model).logits, D), before)
    windowed = randomised(FVSBN(D, ORDERS[order], window=3))
    assert torch.equal(dependence(windowed.logits, D), before & (distance <= 3))


def test_every_order_of_an_ensemble_has_its_own_pattern():
    model = randomised(MADE(D, (150, 150), torch.stack(list(ORDERS.values())), direct=False))
    for which, order in enumerate(ORDERS.values()):
        rank = order.argsort()
        seen = dependence(lambda x, m=which: model.logits(x, m), D)
        assert torch.equal(seen, rank[:, None] > rank[None, :])


@pytest.mark.parametrize("order", ORDERS)
def test_logits_are_the_conditionals_of_the_joint(build, order):
    """p(x_i = 1 | x_<i) read off the enumerated joint, with no use of the logits."""
    model = randomised(build(ORDERS[order]), scale=0.7)
    grid = all_binary(D)
    joint = model.log_prob(grid).exp().reshape([2] * D)
    x = grid[12345]
    for position, i in enumerate(ORDERS[order].tolist()):
        given = ORDERS[order][:position].tolist()
        index = [int(x[d]) if d in given else slice(None) for d in range(D)]
        rest = joint[tuple(index)]
        axis = sorted(set(range(D)) - set(given)).index(i)
        both = rest.movedim(axis, 0).reshape(2, -1).sum(1)
        expected = both[1] / both.sum()
        assert torch.sigmoid(model.logits(x)[i]).item() == pytest.approx(expected.item(), rel=1e-8)


@pytest.mark.parametrize("window", [0, 1, 5, None])
def test_fvsbn_against_plain_loops(window):
    order = SHUFFLED
    model = randomised(FVSBN(D, order, window=window))
    weight = model.layer.weight.detach().numpy()
    bias = model.layer.bias.detach().numpy()
    x = all_binary(D)[777].numpy()
    total = 0.0
    for position, i in enumerate(order.tolist()):
        start = 0 if window is None else max(0, position - window)
        logit = bias[i]
        for j in order[start:position].tolist():
            logit += weight[i, j] * x[j]
        total += log_expit(logit) if x[i] else log_expit(-logit)
    assert model.log_prob(torch.tensor(x)).item() == pytest.approx(total, rel=1e-12)


def test_made_against_one_small_network_per_output():
    """Each output computed alone, from the hidden units it may use, by plain loops."""
    order = SPIRAL
    model = randomised(MADE(D, (9, 7), order))
    first, second = ((m.weight.detach().numpy(), m.bias.detach().numpy()) for m in model.layers)
    out, out_bias = model.output.weight.detach().numpy(), model.output.bias.detach().numpy()
    direct = model.direct.weight.detach().numpy()
    degrees = [[1 + k * (D - 1) // width for k in range(width)] for width in (9, 7)]
    x = all_binary(D)[54321].numpy()
    total = 0.0
    for position, i in enumerate(order.tolist()):
        given = order[:position].tolist()
        lower = [
            max(0.0, first[1][k] + sum(first[0][k, j] * x[j] for j in order[:m].tolist()))
            for k, m in enumerate(degrees[0])
        ]
        upper = [
            max(0.0, second[1][k] + sum(
                second[0][k, k_] * lower[k_] for k_, m_ in enumerate(degrees[0]) if m_ <= m
            ))
            for k, m in enumerate(degrees[1])
        ]  # fmt: skip
        logit = out_bias[i] + sum(direct[i, j] * x[j] for j in given)
        logit += sum(out[i, k] * upper[k] for k, m in enumerate(degrees[1]) if m <= position)
        total += np.log(expit(logit if x[i] else -logit))
    assert model.log_prob(torch.tensor(x)).item() == pytest.approx(total, rel=1e-10)


def test_an_order_is_a_renaming_of_the_entries():
    """A model in another order is the natural one on permuted entries with permuted weights."""
    natural, ordered = randomised(FVSBN(D)), randomised(FVSBN(D, SHUFFLED))
    ordered.layer.weight.data[SHUFFLED[:, None], SHUFFLED] = natural.layer.weight.data
    ordered.layer.bias.data[SHUFFLED] = natural.layer.bias.data
    x = all_binary(D)[::501]
    torch.testing.assert_close(ordered.log_prob(x), natural.log_prob(x[:, SHUFFLED]))


def test_windows_0_and_1_reach_the_closed_form_optimum():
    """The fitted independent model and Markov chain are those that counting gives."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(4000, 6, dtype=torch.float64)
    x[:, 0] = (torch.rand(4000, generator=generator) < 0.3).double()
    for i in range(1, 6):
        p = 0.2 + 0.6 * x[:, i - 1]
        x[:, i] = (torch.rand(4000, generator=generator) < p).double()
    one = x.mean(0)
    entropy = -(one * one.log() + (1 - one) * (1 - one).log())
    chain = entropy[0].clone()
    for i in range(1, 6):
        for a in (0, 1):
            given = x[:, i - 1] == a
            p = x[given, i].mean()
            chain -= given.double().mean() * (p * p.log() + (1 - p) * (1 - p).log())
    for window, optimum in [(0, entropy.sum()), (1, chain)]:
        model = FVSBN(6, window=window).double()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_change=1e-14)

        def loss(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            value = -model(x).mean()
            value.backward()
            return value

        optimizer.step(loss)
        assert -model(x).mean().item() == pytest.approx(optimum.item(), abs=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda: FVSBN(6, [3, 1, 5, 0, 2, 4]),
        lambda: MADE(6, (20, 20), [5, 0, 4, 1, 3, 2]),
        lambda: MADE(6, (20,), torch.stack([torch.arange(6), torch.arange(6).flip(0)])),
    ],
    ids=["FVSBN", "MADE", "ensemble"],
)
def test_samples_follow_the_density(build):
    torch.manual_seed(0)
    model = randomised(build(), seed=3, scale=0.8)
    samples = model.sample((40_000,))
    assert sampling_p_value(samples, model.log_prob) > 1e-4


def test_a_sampler_with_two_sigmoids_is_caught():
    """Guards the guard: both densities sum to one, so that only the comparison can tell."""
    torch.manual_seed(0)
    model = randomised(FVSBN(6), seed=3)

    class Mistaken(FVSBN):
        def logits(self, x, which=0):
            return torch.sigmoid(super().logits(x, which))

    other = randomised(Mistaken(6), seed=3)
    assert total_probability(other.log_prob, 6) == pytest.approx(1)
    assert sampling_p_value(other.sample((40_000,)), model.log_prob) < 1e-6


def test_training_mode_of_an_ensemble_draws_one_order_for_the_batch():
    model = randomised(MADE(D, (40,), torch.stack(list(ORDERS.values()))))
    x = all_binary(D)[::4099]
    each = [model.order_log_prob(x, m) for m in range(len(ORDERS))]
    assert torch.equal(model(x), model.log_prob(x))
    model.train()
    torch.manual_seed(0)
    drawn = set()
    for _ in range(60):
        objective = model(x)
        drawn |= {m for m in range(len(ORDERS)) if torch.equal(objective, each[m])}
    assert drawn == {0, 1, 2, 3}
    # Jensen: what training maximises lies below the ensemble's log-probability on average.
    assert (torch.stack(each).mean(0) < model.log_prob(x)).all()


def test_made_learns_bars_and_stripes():
    torch.manual_seed(0)
    patterns = bars_and_stripes(SIDE).double()
    model = MADE(D, (200,)).double()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 600)
        optimizer.zero_grad()
        loss = -model(patterns).mean()
        loss.backward()
        optimizer.step()
    optimum = math.log(len(patterns))
    assert optimum <= loss.item() < optimum + 0.02


def test_a_new_model_starts_from_the_marginals(build):
    marginals = torch.linspace(0.05, 0.95, D)
    model = build(SHUFFLED)
    model.start_from(marginals)
    x = all_binary(D)[::1000].float()
    expected = torch.distributions.Bernoulli(marginals).log_prob(x).sum(-1)
    torch.testing.assert_close(model.log_prob(x), expected)
    model.start_from(torch.zeros(D))
    assert model.log_prob(torch.ones(D)).isfinite()


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,), (4, 0)])
def test_shapes(build, batch):
    model = build(RASTER)
    x = torch.zeros(*batch, D)
    assert model.log_prob(x).shape == batch
    assert model(x).shape == batch
    assert model.sample(batch).shape == (*batch, D)


def test_half_precision_scores_in_float32():
    torch.manual_seed(0)
    model = MADE(D, (40,)).eval()
    x = model.sample((20,))
    with torch.autocast("cpu", torch.bfloat16):
        half = model.log_prob(x)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, model.log_prob(x), rtol=0.02, atol=0.05)
    # The same where the weights themselves are in half precision.
    exact = model.log_prob(x)
    stored = model.bfloat16().log_prob(x)
    assert stored.dtype == torch.float32
    torch.testing.assert_close(stored, exact, rtol=0.02, atol=0.05)


def test_samples_carry_no_gradient_and_log_prob_does(build):
    model = build(RASTER)
    assert not model.sample((2,)).requires_grad
    model(model.sample((3,))).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_masked_weights_never_move(build):
    """No gradient reaches a weight that the mask hides."""
    model = randomised(build(SHUFFLED))
    model.log_prob(all_binary(D)[::1111]).sum().backward()
    for layer in model.modules():
        if hasattr(layer, "mask"):
            hidden = layer.mask.amax(0) == 0
            assert hidden.any()
            assert (layer.weight.grad[hidden] == 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FVSBN(4, [0, 1, 2, 2]), "once"),
        (lambda: FVSBN(4, [0, 1, 2]), "0..3 once"),
        (lambda: FVSBN(4, torch.stack([torch.arange(4)] * 2)), "one order"),
        (lambda: FVSBN(4, window=-1), "negative"),
        (lambda: MADE(4, ()), "hidden layers"),
        (lambda: MADE(4, (3, 0)), "hidden layers"),
        (lambda: FVSBN(4).log_prob(torch.zeros(2, 2, 2)), "flatten"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError):
        Autoregressive(4)
