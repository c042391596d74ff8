"""The shared layers: what a mask leaves, against plain loops, and which weights are free."""

import numpy as np
import pytest
import torch

from companion.autoregressive import FVSBN, MADE, GatedPixelCNN, PixelCNN
from companion.nn import MaskedConv2d, MaskedLinear, free_parameters, frozen, mlp

KINDS = {"A": False, "B": True}  # does the mask show the centre?


def random_layer(layer, rng):
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng)
    return layer


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_kernel_by_hand(kind):
    layer = MaskedConv2d(kind, 2, 3, 5)
    kept = torch.tensor(
        [
            [1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1],
            [1, 1, KINDS[kind], 0, 0],
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
        ]
    )
    assert torch.equal(layer.masked_weight(), kept * layer.weight)
    assert (layer.weight != 0).all()  # masked where it is used, not once for all
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_masked_convolution_against_plain_loops(kind, kernel, float64, rng):
    layer = random_layer(MaskedConv2d(kind, 2, 3, kernel), rng)
    x = torch.randn(2, 2, 4, 3, generator=rng)
    expected = np.zeros((2, 3, 4, 3))
    half = kernel // 2
    for n, o, r, c in np.ndindex(expected.shape):
        value = layer.bias[o].item()
        for s in range(-half, half + 1):
            for t in range(-half, half + 1):
                earlier = s < 0 or (s == 0 and t < 0) or (s == t == 0 and KINDS[kind])
                if earlier and 0 <= r + s < 4 and 0 <= c + t < 3:
                    for i in range(2):
                        value += (
                            layer.weight[o, i, half + s, half + t].item() * x[n, i, r + s, c + t]
                        )
        expected[n, o, r, c] = value
    torch.testing.assert_close(layer(x), torch.tensor(expected))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MaskedConv2d("C", 1, 1, 3), 'kind "A" or "B", not \'C\''),
        (lambda: MaskedConv2d("A", 1, 1, 4), "odd width, not 4"),
        (lambda: MaskedConv2d("A", 1, 1, -1), "odd width, not -1"),
    ],
)
def test_a_masked_convolution_that_does_not_exist_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_one_of_several_masks_over_the_same_weights(float64, rng):
    masks = torch.rand(3, 4, 5, generator=rng) < 0.5
    layer = random_layer(MaskedLinear(masks), rng)
    x = torch.randn(2, 5, generator=rng)
    for which in range(3):
        weight = layer.masked_weight(which)
        assert torch.equal(weight, layer.weight.where(masks[which], 0))
        expected = torch.zeros(2, 4)
        for n, o in np.ndindex(2, 4):
            seen = [layer.weight[o, i] * x[n, i] for i in range(5) if masks[which, o, i]]
            expected[n, o] = layer.bias[o] + sum(seen)
        torch.testing.assert_close(layer(x, which), expected)
    assert torch.equal(layer.masked_weight(), layer.masked_weight(0))


def test_free_parameters_of_a_masked_convolution():
    # Of 9 weights of a kernel A keeps 4 and B keeps 5; 6 kernels, 3 biases.
    assert free_parameters(MaskedConv2d("A", 2, 3, 3)) == 6 * 4 + 3
    assert free_parameters(MaskedConv2d("B", 2, 3, 3)) == 6 * 5 + 3
    assert free_parameters(torch.nn.Conv2d(2, 3, 3)) == 6 * 9 + 3


@pytest.mark.parametrize(
    "build",
    [
        lambda: FVSBN(12, window=4),
        lambda: MADE(12, (20, 15), torch.stack([torch.arange(12), torch.arange(12).flip(0)])),
        lambda: PixelCNN((3, 4), 4, 2, first_kernel=3),
        lambda: GatedPixelCNN((3, 4), 4, 2, kernel=3, first_kernel=3),
    ],
    ids=["FVSBN", "MADE", "PixelCNN", "GatedPixelCNN"],
)
def test_free_parameters_are_those_that_a_gradient_reaches(build, float64, rng):
    model = build().eval()
    x = (torch.rand(50, 12, generator=rng) < 0.5).double()
    reached = [torch.zeros(parameter.shape, dtype=bool) for parameter in model.parameters()]
    for _ in range(10):  # a rectifier that is off hides what lies below it
        gradients = torch.autograd.grad(
            random_layer(model, rng).log_prob(x).sum(), list(model.parameters())
        )
        for seen, gradient in zip(reached, gradients, strict=True):
            seen |= gradient != 0
    assert sum(int(seen.sum()) for seen in reached) == free_parameters(model)


def test_mlp_has_an_activation_after_each_linear_layer(float64, rng):
    net = random_layer(mlp(3, 5, 2), rng)
    kinds = [type(layer) for layer in net]
    assert kinds == [torch.nn.Linear, torch.nn.Tanh] * 2
    assert [tuple(layer.weight.shape) for layer in net[::2]] == [(5, 3), (2, 5)]
    x = torch.randn(4, 3, generator=rng)
    h = (x @ net[0].weight.T + net[0].bias).tanh()
    torch.testing.assert_close(net(x), (h @ net[2].weight.T + net[2].bias).tanh())
    rectified = random_layer(mlp(3, 5, activation=torch.nn.ReLU), rng)
    expected = (x @ rectified[0].weight.T + rectified[0].bias).clamp(min=0)
    torch.testing.assert_close(rectified(x), expected)
    assert torch.equal(mlp(3)(x), x)  # one width: nothing to do


def test_what_is_frozen_passes_gradients_on_and_thaws_even_after_an_error():
    module = mlp(2, 3, 1)
    module[0].bias.requires_grad_(False)  # the caller's own
    learning = [parameter.requires_grad for parameter in module.parameters()]
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(module):
        module(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in module.parameters())
    with pytest.raises(RuntimeError, match="multiplied"), frozen(module):
        module(torch.ones(1, 3))
    assert [parameter.requires_grad for parameter in module.parameters()] == learning
