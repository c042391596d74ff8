"""Autoregressive models against enumeration, and against witnesses written a second time."""

import math
from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy.special import expit, log_expit
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from companion.autoregressive import FVSBN, MADE, NADE, Autoregressive, GatedPixelCNN, PixelCNN
from companion.checks import all_binary, dependence, sampling_p_value, total_probability
from companion.data import bars_and_stripes
from companion.nn import MaskedConv2d

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
    "NADE": lambda order: NADE(D, 7, order),
    "PixelCNN": lambda order: PixelCNN((4, 4), 5, 2, first_kernel=3, order=order),
    "PixelCNN, wide": lambda order: PixelCNN((2, 8), 3, 2, kernel=5, order=order),
    "GatedPixelCNN": lambda order: GatedPixelCNN(
        (4, 4), 4, 2, kernel=3, first_kernel=3, order=order
    ),
    "GatedPixelCNN, tall": lambda order: GatedPixelCNN(
        (8, 2), 3, 1, kernel=5, first_kernel=7, order=order
    ),
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


@cache
def enumerated(name, order):
    """A random model and its joint, 2**D probabilities."""
    model = randomised(MODELS[name](ORDERS[order]), scale=0.7).requires_grad_(False)
    parts = all_binary(D).split(2**12)  # which fit into the processor's cache
    return model, torch.cat([model.log_prob(part) for part in parts]).exp()


# Convolutions are slow to enumerate: one order, and that the others rename it is tested below.
every_order = pytest.mark.parametrize(
    ("name", "order"),
    [(name, order) for name in MODELS for order in (["shuffled"] if "CNN" in name else ORDERS)],
)


@every_order
def test_probabilities_sum_to_one(name, order):
    assert enumerated(name, order)[1].sum().item() == pytest.approx(1, abs=1e-10)


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
        NADE(D, 7, ORDERS[order]),
        GatedPixelCNN((4, 4), 4, 2, kernel=3, first_kernel=3, order=ORDERS[order]),
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


def masked_taps(kind, kernel):
    """Where a masked kernel looks, as steps (down, right) from the pixel, in reading order."""
    steps = range(-(kernel // 2), kernel // 2 + 1)
    return [
        (s, t) for s in steps for t in steps if s < 0 or (s == 0 and t < (1 if kind == "B" else 0))
    ]


def box(down, right):
    return [(s, t) for s in down for t in right]


def gated_taps(kernel, first_kernel):
    """The same for the kernels of a gated model: first vertical, first horizontal, then above."""
    f, k = first_kernel // 2, kernel // 2
    return (
        box(range(-f, 0), range(-f, f + 1)),
        box([0], range(-f, 0)),
        box(range(-k, 1), range(-k, k + 1)),
        box([0], range(-k, 1)),
    )


def reach(seen, taps):
    """Which image pixels arrive at each pixel through a kernel over pixels that see ``seen``."""
    return {(r, c): {q for s, t in taps for q in seen.get((r + s, c + t), ())} for r, c in seen}


def union(*each):
    return {p: set().union(*(seen[p] for seen in each)) for p in each[0]}


def pattern(seen, shape, order):
    """Sets of pixels as a matrix: does output i see input j?"""
    place = {p: order[p[0] * shape[1] + p[1]].item() for p in seen}
    matrix = torch.zeros(len(seen), len(seen), dtype=torch.bool)
    for p in seen:
        for q in seen[p]:
            matrix[place[p], place[q]] = True
    return matrix


WIDE = (7, 9)  # large enough for a blind spot
WIDE_ORDERS = {
    "raster": torch.arange(63),
    "backwards": torch.arange(63).flip(0),
    "shuffled": torch.randperm(63, generator=torch.Generator().manual_seed(2)),
}


depths = pytest.mark.parametrize(
    ("layers", "kernel", "first_kernel", "order"),
    [(2, 3, 5, "backwards"), (1, 5, 3, "shuffled"), (7, 3, 3, "raster")],
)


def pixels_themselves():
    return {(r, c): {(r, c)} for r in range(WIDE[0]) for c in range(WIDE[1])}


@depths
def test_a_pixelcnn_sees_what_its_kernels_reach_and_has_a_blind_spot(
    layers, kernel, first_kernel, order
):
    order = WIDE_ORDERS[order]
    h = reach(pixels_themselves(), masked_taps("A", first_kernel))
    for _ in range(layers):
        h = reach(h, masked_taps("B", kernel))
    model = PixelCNN(WIDE, 8, layers, kernel=kernel, first_kernel=first_kernel, order=order)
    seen = dependence(randomised(model, scale=0.4).logits, 63)
    assert torch.equal(seen, pattern(h, WIDE, order))

    earlier = {p: {q for q in h if q < p} for p in h}
    assert all(h[p] <= earlier[p] for p in h)
    # To the right by more columns than it goes up: no kernel of width 3 gets there, ever.
    blind = {p: {q for q in earlier[p] if q[1] - p[1] > p[0] - q[0]} for p in h}
    assert blind[2, 3] == {(1, 5), (1, 6), (1, 7), (1, 8), (0, 6), (0, 7), (0, 8)}
    if kernel == first_kernel == 3:
        assert all(h[p] == earlier[p] - blind[p] for p in h)


@depths
def test_a_gated_pixelcnn_sees_what_its_kernels_reach_and_in_the_end_everything(
    layers, kernel, first_kernel, order
):
    order = WIDE_ORDERS[order]
    first_vertical, first_horizontal, vertical, horizontal = gated_taps(kernel, first_kernel)
    v = reach(pixels_themselves(), first_vertical)
    h = reach(pixels_themselves(), first_horizontal)
    for _ in range(layers):
        a = reach(v, vertical)
        h, v = union(reach(h, horizontal), a), union(v, a)
    model = GatedPixelCNN(WIDE, 8, layers, kernel=kernel, first_kernel=first_kernel, order=order)
    seen = dependence(randomised(model, scale=0.3).logits, 63)
    assert torch.equal(seen, pattern(h, WIDE, order))

    rank = order.argsort()
    everything = torch.equal(seen, rank[:, None] > rank[None, :])
    assert everything == (layers == 7)  # 1 + 7 steps of one column cross an image 9 columns wide


def test_a_first_mask_that_shows_the_pixel_is_caught():
    """Guards the guard: with mask B below, a pixel predicts itself."""
    model = PixelCNN((2, 3), 5, 2, first_kernel=3)
    model.first = MaskedConv2d("B", 1, 5, 3)
    randomised(model)
    assert dependence(model.logits, 6).diagonal().all()
    assert abs(total_probability(model.log_prob, 6) - 1) > 0.01


@every_order
def test_logits_are_the_conditionals_of_the_joint(name, order):
    """p(x_i = 1 | x_<i) read off the enumerated joint, with no use of the logits."""
    model, joint = enumerated(name, order)
    x = all_binary(D)[12345]
    logits, log_conditionals = model.logits(x), model.log_conditionals(x)
    for position, i in enumerate(ORDERS[order].tolist()):
        given = ORDERS[order][:position].tolist()
        index = [int(x[d]) if d in given else slice(None) for d in range(D)]
        rest = joint.reshape([2] * D)[tuple(index)]
        axis = sorted(set(range(D)) - set(given)).index(i)
        both = rest.movedim(axis, 0).reshape(2, -1).sum(1)
        p = (both / both.sum()).tolist()
        assert torch.sigmoid(logits[i]).item() == pytest.approx(p[1], rel=1e-8)
        assert log_conditionals[i].exp().item() == pytest.approx(p[int(x[i])], rel=1e-8)


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


@pytest.mark.parametrize("order", [SPIRAL, WIDE_ORDERS["shuffled"]], ids=["16", "63"])
def test_nade_against_plain_loops(order):
    """Also with more entries than the blocks have in which the sums are taken."""
    model = randomised(NADE(len(order), 7, order))
    W, c, V, b = (p.detach().numpy() for p in (model.W, model.c, model.V, model.b))
    x = (torch.rand(3, len(order)) < 0.5).double().numpy()
    logits = np.zeros_like(x)
    for position, i in enumerate(order.tolist()):
        logits[:, i] = b[i]
        for k in range(7):
            a = c[k] + sum(W[j, k] * x[:, j] for j in order[:position].tolist())
            logits[:, i] += V[i, k] * expit(a)
    expected = np.where(x == 1, log_expit(logits), log_expit(-logits))
    torch.testing.assert_close(model.log_conditionals(torch.tensor(x)), torch.tensor(expected))


@pytest.mark.parametrize("order", WIDE_ORDERS.values(), ids=WIDE_ORDERS)
def test_nade_sees_what_comes_before_across_its_blocks(order):
    rank = order.argsort()
    seen = dependence(randomised(NADE(63, 7, order), scale=0.3).logits, 63)
    assert torch.equal(seen, rank[:, None] > rank[None, :])


def convolved(layer, image, taps=((0, 0),)):
    """A convolution of an image (channels, rows, columns) by loops; weights in the taps' order."""
    weight = layer.weight.detach().flatten(2).numpy()
    out = np.zeros((len(weight), *image.shape[1:]))
    for r, c in np.ndindex(image.shape[1:]):
        if layer.bias is not None:
            out[:, r, c] = layer.bias.detach().numpy()
        for n, (s, t) in enumerate(taps):
            if 0 <= r + s < image.shape[1] and 0 <= c + t < image.shape[2]:
                out[:, r, c] += weight[:, :, n] @ image[:, r + s, c + t]
    return out


def gated(a):
    half = len(a) // 2
    return np.tanh(a[:half]) * expit(a[half:])


def pixelcnn_by_loops(model, image):
    h = convolved(model.first, image, masked_taps("A", 5))
    for layer in model.layers:
        h = h + convolved(layer, np.maximum(h, 0), masked_taps("B", 3))
    return model.output.weight.detach().numpy()[0] @ np.maximum(h, 0).reshape(len(h), -1)


def gated_pixelcnn_by_loops(model, image):
    first_vertical, first_horizontal, vertical, horizontal = gated_taps(3, 5)
    offsets = model.offsets.detach().numpy()
    v = convolved(model.first_vertical, image, first_vertical) + offsets[0]
    h = convolved(model.first_horizontal, image, first_horizontal) + offsets[1]
    for n in range(2):
        a = convolved(model.vertical[n], v, vertical)
        b = convolved(model.horizontal[n], h, horizontal) + convolved(model.link[n], a)
        h = h + convolved(model.residual[n], gated(b))
        v = v + gated(a)
    h = np.maximum(convolved(model.head[1], np.maximum(h, 0)), 0)
    return convolved(model.head[3], h).flatten()


@pytest.mark.parametrize(
    ("kind", "by_loops"), [(PixelCNN, pixelcnn_by_loops), (GatedPixelCNN, gated_pixelcnn_by_loops)]
)
def test_convolutions_against_plain_loops(kind, by_loops, rng):
    order = torch.randperm(12, generator=rng)
    model = randomised(kind((3, 4), 3, 2, kernel=3, first_kernel=5, order=order), scale=0.5)
    x = (torch.rand(12, generator=rng) < 0.5).double()
    expected = torch.zeros(12, dtype=torch.float64)
    expected[order] = torch.tensor(by_loops(model, x[order].reshape(1, 3, 4).numpy()))
    torch.testing.assert_close(model.logits(x), expected + model.b, rtol=1e-11, atol=1e-11)


def test_an_order_is_a_renaming_of_the_entries():
    """A model in another order is the natural one on permuted entries with permuted weights."""
    natural, ordered = randomised(FVSBN(D)), randomised(FVSBN(D, SHUFFLED))
    ordered.layer.weight.data[SHUFFLED[:, None], SHUFFLED] = natural.layer.weight.data
    ordered.layer.bias.data[SHUFFLED] = natural.layer.bias.data
    x = all_binary(D)[::501]
    torch.testing.assert_close(ordered.log_prob(x), natural.log_prob(x[:, SHUFFLED]))


@pytest.mark.parametrize("name", [name for name in MODELS if "NADE" in name or "CNN" in name])
@pytest.mark.parametrize("order", ORDERS)
def test_an_order_renames_the_entries_and_what_belongs_to_them(name, order):
    order = ORDERS[order]
    natural, ordered = randomised(MODELS[name](RASTER)), randomised(MODELS[name](order))
    for belongs in {"W", "V", "b"} & dict(natural.named_parameters()).keys():
        ordered.get_parameter(belongs).data[order] = natural.get_parameter(belongs).data
    x = all_binary(D)[::501]
    torch.testing.assert_close(ordered.log_prob(x), natural.log_prob(x[:, order]))


def test_a_batch_is_scored_vector_by_vector(build):
    model = randomised(build(SHUFFLED))
    x = all_binary(D)[::10_000][:6]
    each = torch.stack([model.log_prob(row) for row in x])
    torch.testing.assert_close(model.log_prob(x.reshape(2, 3, D)), each.reshape(2, 3))


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
        lambda: NADE(6, 5, [3, 1, 5, 0, 2, 4]),
        lambda: PixelCNN((2, 3), 5, 2, order=[5, 4, 3, 2, 1, 0]),
        lambda: GatedPixelCNN((3, 2), 4, 2, kernel=3, first_kernel=5, order=[4, 5, 2, 3, 0, 1]),
    ],
    ids=["FVSBN", "MADE", "ensemble", "NADE", "PixelCNN", "GatedPixelCNN"],
)
def test_samples_follow_the_density(build):
    model = randomised(build(), seed=4, scale=0.8)
    samples = model.sample((40_000,))
    assert sampling_p_value(samples, model.log_prob) > 1e-4


def test_a_sampler_with_two_sigmoids_is_caught():
    """Guards the guard: its samples look sound, so that only the comparison can tell."""

    class Mistaken(FVSBN):
        def walk(self, x, which=0):
            return map(torch.sigmoid, super().walk(x, which))

    model = randomised(Mistaken(6), seed=3)
    assert total_probability(model.log_prob, 6) == pytest.approx(1)
    assert sampling_p_value(model.sample((40_000,)), model.log_prob) < 1e-6
    assert sampling_p_value(model.sample((40_000,), cached=False), model.log_prob) > 1e-4


# --- walks: the same logits, computed once ---

WALKS = MODELS | {
    "ensemble": lambda order: MADE(D, (40, 33), torch.stack([order, order.flip(0), SPIRAL])),
}
each_walk = pytest.mark.parametrize("name", WALKS)


def walked(walk, order, x):
    """The logits that a walk yields, in their places, with noise where x is still to come."""
    so_far, logits = torch.randn_like(x), torch.full_like(x, math.nan)
    for i, logit in zip(order.tolist(), walk(so_far), strict=True):
        logits[:, i] = logit
        so_far[:, i] = x[:, i]
    assert torch.equal(so_far, x)  # a walk writes nothing
    return logits


@each_walk
@pytest.mark.parametrize("order", ORDERS)
def test_a_walk_yields_the_logits_and_never_looks_ahead(name, order):
    model = randomised(WALKS[name](ORDERS[order]), scale=0.5)
    x = all_binary(D)[torch.randint(2**D, (5,))]
    for which in range(len(model.orders)):
        logits = model.logits(x, which)
        once, again, naive = (
            walked(partial(walk, which=which), model.orders[which], x)
            for walk in (model.walk, model.walk, partial(Autoregressive.walk, model))
        )
        torch.testing.assert_close(once, logits, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(naive, logits, rtol=1e-12, atol=1e-12)
        assert torch.equal(once, again)  # the noise differed


@each_walk
@pytest.mark.parametrize("order", ORDERS)
def test_the_same_seed_gives_the_same_samples_cached_or_not(name, order):
    model = randomised(WALKS[name](ORDERS[order]), scale=0.5)
    samples = []
    for cached in (True, False):
        torch.manual_seed(7)
        samples.append(model.sample((3, 5), cached=cached))
    assert torch.equal(*samples)
    assert len(samples[0].flatten(0, 1).unique(dim=0)) > 5


def multiplications(function):
    """Those of convolutions and matrix products, and of products entry by entry."""
    by_entry = lambda *_, out_shape, **__: 2 * math.prod(out_shape)
    by_vector = lambda matrix, *_, **__: 2 * math.prod(matrix)
    extra = {torch.ops.aten.mul: by_entry, torch.ops.aten.mv: by_vector}
    with FlopCounterMode(display=False, custom_mapping=extra) as counter:
        function()
    return counter.get_total_flops() / 2  # which counts an addition for every multiplication


@pytest.mark.parametrize(
    "model",
    [
        FVSBN(64),
        MADE(64, (100, 80)),
        NADE(64, 50),
        PixelCNN((8, 8), 6, 3, first_kernel=5),
        GatedPixelCNN((8, 8), 6, 3, kernel=3, first_kernel=5),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_cached_sample_costs_one_evaluation_not_one_per_entry(model):
    one = multiplications(lambda: model.logits(torch.zeros(1, 64)))
    assert one >= 64 * 64 / 2  # each of 64 logits sees the others
    assert multiplications(lambda: model.sample((1,), cached=False)) == 64 * one
    assert multiplications(lambda: model.sample((1,))) <= 1.5 * one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_walk
def test_every_precision_draws(name, dtype):
    model = randomised(WALKS[name](RASTER), scale=0.5).to(dtype)
    known = torch.zeros(D, dtype=torch.bool)
    for x in (
        model.sample((20,)),
        model.sample((20,), cached=False),
        model.complete(torch.zeros(20, D), known),
    ):
        assert x.dtype == dtype
        assert ((x == 0) | (x == 1)).all()
        assert 0.1 < x.float().mean() < 0.9


# --- completions ---

COMPLETED = {
    "FVSBN": lambda: FVSBN(6, [3, 1, 5, 0, 2, 4]),
    "MADE": lambda: MADE(6, (20, 20), [3, 1, 5, 0, 2, 4]),
    "NADE": lambda: NADE(6, 5, [3, 1, 5, 0, 2, 4]),
    "PixelCNN": lambda: PixelCNN((2, 3), 5, 2, order=[3, 1, 5, 0, 2, 4]),
    "GatedPixelCNN": lambda: GatedPixelCNN(
        (3, 2), 4, 2, kernel=3, first_kernel=3, order=[3, 1, 5, 0, 2, 4]
    ),
    # The known entries come first in every order, but not in the same order.
    "ensemble": lambda: MADE(
        6, (20,), [[3, 1, 5, 0, 2, 4], [5, 3, 1, 4, 2, 0], [1, 5, 3, 2, 4, 0]]
    ),
}
KNOWN = torch.tensor([False, True, False, True, False, True])


def conditional(log_prob, x, known):
    """The exact conditional of a joint, by enumeration: zero where a known entry differs."""

    def given(grid):
        agrees = (grid == x)[:, known].all(1)
        joint = log_prob(grid).masked_fill(~agrees, -math.inf)
        return joint - joint.logsumexp(0)

    return given


@pytest.fixture(params=COMPLETED)
def completer(request):
    return randomised(COMPLETED[request.param](), seed=4, scale=0.8)


@pytest.mark.parametrize("number", [0b000000, 0b010001, 0b000100])
def test_completions_follow_the_exact_conditional(completer, number):
    x = all_binary(6)[number]
    drawn = completer.complete(x, KNOWN, (10_000,))
    assert sampling_p_value(drawn, conditional(completer.log_prob, x, KNOWN)) > 1e-4


def test_completing_an_ensemble_with_equal_weights_is_caught():
    """Guards the guard: the known entries tell which order is likely to have made them."""
    model = randomised(COMPLETED["ensemble"](), seed=4, scale=0.8)
    x = all_binary(6)[0b010001]
    each = [
        conditional(partial(model.order_log_prob, which=m), x, KNOWN)(all_binary(6))
        for m in range(3)
    ]
    mistaken = torch.stack(each).logsumexp(0) - math.log(3)
    drawn = model.complete(x, KNOWN, (10_000,))
    assert sampling_p_value(drawn, lambda grid: mistaken) < 1e-6


def test_known_entries_come_back_and_the_others_of_x_do_not_matter(completer):
    x = all_binary(6)[torch.randint(64, (4, 3))]
    kept = x.clone()
    drawn = []
    for unknown in (0.0, 1.0, math.nan):
        torch.manual_seed(0)
        drawn.append(completer.complete(torch.where(KNOWN, x, unknown), KNOWN, (50,)))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0][..., KNOWN], x[..., KNOWN].expand(50, 4, 3, 3))
    assert len(drawn[0][..., ~KNOWN].unique(dim=0)) > 1
    completer.complete(x, KNOWN)
    assert torch.equal(x, kept)
    assert not completer.complete(x.requires_grad_(), KNOWN).requires_grad


def test_every_row_is_completed_from_its_own_known_entries(completer):
    """Both halves of a batch of two pictures, against their own conditionals."""
    both = all_binary(6)[[0b000001, 0b010100]]
    drawn = completer.complete(both, KNOWN, (10_000,))
    for n, x in enumerate(both):
        assert sampling_p_value(drawn[:, n], conditional(completer.log_prob, x, KNOWN)) > 1e-4


def test_all_known_or_nothing_known(completer):
    x = all_binary(6)
    everything, nothing = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    assert torch.equal(completer.complete(x, everything), x)
    drawn = completer.complete(x[5], nothing, (10_000,))
    assert sampling_p_value(drawn, completer.log_prob) > 1e-4


@pytest.mark.parametrize("sample_shape", [(), (2,), (0,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (3,), (0,), (2, 0), (2, 3)])
def test_shapes_of_completions(completer, batch, sample_shape):
    x = torch.ones(*batch, 6, dtype=torch.uint8)
    drawn = completer.complete(x, KNOWN.tolist(), sample_shape)
    assert drawn.shape == (*sample_shape, *batch, 6)
    assert drawn.dtype == torch.float64  # the model's


def test_what_cannot_be_completed_is_named():
    x, model = torch.zeros(6), FVSBN(6)
    with pytest.raises(ValueError, match=r"entry 3 is known but entry 0, which comes before"):
        model.complete(x, [False, True, True, True, False, False])
    # Last in the order is not last in the vector.
    with pytest.raises(ValueError, match=r"entry 0 is known but entry 4, which comes before"):
        FVSBN(6, [5, 4, 3, 2, 1, 0]).complete(x, [True, False, False, False, False, True])
    # A prefix of one order is not enough for an ensemble.
    both = MADE(6, (5,), torch.stack([torch.arange(6), torch.arange(6).flip(0)]))
    with pytest.raises(ValueError, match=r"entry 0 is known but entry 5, which comes before"):
        both.complete(x, [True, False, False, False, False, False])
    with pytest.raises(ValueError, match=r"known must have shape \(6,\).*\(5,\) and \(6,\)"):
        model.complete(x, [True] * 5)
    with pytest.raises(ValueError, match=r"x \(\*batch, 6\).*\(6,\) and \(2, 3\)"):
        model.complete(x.reshape(2, 3), [True] * 6)


# --- training and precision ---


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


def test_half_precision_scores_in_float32(build):
    model = randomised(build(SHUFFLED), scale=0.3).float()
    x = model.sample((20,))
    exact = model.log_prob(x)
    assert exact.std() > 0.1  # something is to be lost
    with torch.autocast("cpu", torch.bfloat16):
        half = model.log_prob(x)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.02, atol=0.05)
    # The same where the weights themselves are in half precision.
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
    layers = [layer for layer in model.modules() if hasattr(layer, "mask")]
    if not layers:
        pytest.skip("it has no masks")
    model.log_prob(all_binary(D)[::1111]).sum().backward()
    for layer in layers:
        hidden = layer.mask.reshape(-1, *layer.weight.shape[-2:]).amax(0) == 0
        assert hidden.any()
        assert (layer.weight.grad[..., hidden] == 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FVSBN(4, [0, 1, 2, 2]), "once"),
        (lambda: FVSBN(4, [0, 1, 2]), "0..3 once"),
        (lambda: FVSBN(4, [0.0, 1.0, 2.0, 3.0]), "whole numbers"),
        (lambda: FVSBN(4, torch.arange(4)[None, None]), r"got shape \(1, 1, 4\)"),
        (lambda: FVSBN(4, torch.zeros(0, 4, dtype=torch.long)), "0..3 once"),
        (lambda: FVSBN(4, 3), "0..3 once"),
        (lambda: FVSBN(4).complete(torch.tensor(1.0), torch.zeros(4)), "must have shape"),
        (lambda: FVSBN(4).log_prob(torch.tensor([0, 1, 255, 0])), "x holds grey values"),
        (
            lambda: FVSBN(4).complete(
                torch.tensor([9, 0, 0, 0]), torch.tensor([True] + [False] * 3)
            ),
            "x holds grey values",
        ),
        (lambda: FVSBN(4, torch.stack([torch.arange(4)] * 2)), "one order"),
        (lambda: FVSBN(4, window=-1), "negative"),
        (lambda: MADE(4, ()), "hidden layers"),
        (lambda: MADE(4, (3, 0)), "hidden layers"),
        (lambda: FVSBN(4).log_prob(torch.zeros(2, 2, 2)), "flatten"),
        (lambda: PixelCNN((2, 2)).log_conditionals(torch.zeros(2, 2)), "flatten"),
        (lambda: NADE(4, 3, torch.stack([torch.arange(4)] * 2)), "NADE has one order"),
        (lambda: NADE(4, 0), "at least 1 hidden unit, not 0"),
        (lambda: NADE(4, 3, [0, 1, 2]), "0..3 once"),
        (lambda: PixelCNN((2, 2), order=torch.stack([torch.arange(4)] * 2)), "PixelCNN has one"),
        (lambda: PixelCNN((2, 2), order=torch.arange(6)), "0..3 once"),
        (lambda: PixelCNN((2, 2), 0), "1 channel and 1 layer; got 0 and 5"),
        (lambda: PixelCNN((2, 2), 3, 0), "got 3 and 0"),
        (lambda: PixelCNN((2, 2), kernel=4), "odd width, not 4"),
        (lambda: PixelCNN((2, 2), first_kernel=2), "odd width, not 2"),
        (
            lambda: GatedPixelCNN((2, 2), order=torch.stack([torch.arange(4)] * 2)),
            "GatedPixelCNN has one",
        ),
        (lambda: GatedPixelCNN((2, 2), -1), "a GatedPixelCNN needs .* got -1 and 3"),
        (lambda: GatedPixelCNN((2, 2), 3, 0), "got 3 and 0"),
        (lambda: GatedPixelCNN((2, 2), kernel=4), "at least 3, not 4"),
        (lambda: GatedPixelCNN((2, 2), first_kernel=1), "at least 3, not 1"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError):
        Autoregressive(4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu_as_on_a_cpu(name):
    model = randomised(MODELS[name](SHUFFLED))
    x = all_binary(D)[::1111]
    expected = model.log_prob(x)
    model.cuda()
    torch.testing.assert_close(model.log_prob(x).cpu(), expected)
    assert model.sample((3,)).is_cuda
    assert model.sample((3,), cached=False).is_cuda
    known = torch.zeros(D, dtype=torch.bool)
    known[SHUFFLED[:5]] = True
    assert torch.equal(model.complete(x, known)[:, known].cpu(), x[:, known])
    model.start_from(torch.full((D,), 0.5))


def test_one_hidden_layer_may_be_given_by_its_width():
    assert [layer.weight.shape for layer in MADE(6, 20).layers] == [(20, 6)]


@pytest.mark.parametrize("marginals", [torch.tensor(0.5), torch.zeros(4), torch.zeros(1, 5)])
def test_there_is_one_share_for_each_entry(marginals):
    with pytest.raises(ValueError, match="a share of ones for each of 5 entries"):
        FVSBN(5).start_from(marginals)


@pytest.mark.parametrize("value", [128.0, -0.1, math.nan])
def test_only_shares_are_marginals(value):
    with pytest.raises(ValueError, match="marginals must hold zeros and ones, or values between"):
        FVSBN(5).start_from(torch.full((5,), value))


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_marginals_may_be_of_low_precision(precision):
    model = FVSBN(2)
    model.start_from(torch.tensor([0.0, 1.0], dtype=precision))
    torch.testing.assert_close(model.bias.sigmoid(), torch.tensor([1e-4, 1 - 1e-4]))


def test_a_number_is_no_example():
    with pytest.raises(ValueError, match="must have shape"):
        FVSBN(5).log_prob(torch.tensor(1.0))
