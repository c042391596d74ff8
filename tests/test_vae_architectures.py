"""The published networks: counted, wired and initialised as in the paper, each by another route."""

import itertools
import math

import pytest
import torch
from torch import nn

from companion.nn import free_parameters
from companion.vae import VAE, elbo, iwae, linear_vae, one_layer, two_layers

BUILD = {"one layer": one_layer, "two layers": two_layers}


def linear(*widths):
    """Weights and biases of a stack of linear layers."""
    return sum((n + 1) * m for n, m in itertools.pairwise(widths))


PARAMETERS = {
    # A normal has two heads, a mean and a spread.
    "one layer": linear(784, 200, 200) + 2 * linear(200, 50) + linear(50, 200, 200, 784),
    "two layers": (linear(784, 200, 200) + 2 * linear(200, 100))
    + (linear(100, 100, 100) + 2 * linear(100, 50))
    + (linear(50, 100, 100) + 2 * linear(100, 100))
    + linear(100, 200, 200, 784),
}


def small(**options):
    """Two layers of which no two widths agree, all parameters random."""
    model = two_layers(6, hidden=(5, 4), latent=(3, 2), **options)
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape)
    return model


def by_hand(layers, h):
    """tanh(W h + b) again and again."""
    for layer in layers:
        h = torch.tanh(h @ layer.weight.T + layer.bias)
    return h


def linears(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def normal(layer, h):
    """Mean and spread of a normal layer."""
    h = by_hand(linears(layer.body), h)
    mu = h @ layer.mu.weight.T + layer.mu.bias
    return mu, (h @ layer.log_sigma.weight.T + layer.log_sigma.bias).exp()


def log_normal(z, mu, sigma):
    return -(((z - mu) / sigma) ** 2 / 2 + sigma.log() + math.log(2 * math.pi) / 2).sum(-1)


def log_bernoulli(decoder, x, z):
    share = torch.sigmoid(
        by_hand(linears(decoder.body), z) @ decoder.logits.weight.T + decoder.logits.bias
    )
    return torch.where(x == 1, share, 1 - share).log().sum(-1)


@pytest.mark.parametrize("name", BUILD)
def test_parameters_by_hand(name):
    assert free_parameters(BUILD[name]()) == PARAMETERS[name]


@pytest.mark.parametrize("name", BUILD)
def test_shapes(name):
    model, x = BUILD[name](samples=3, bound=iwae), torch.rand(4, 784).round()
    assert isinstance(model, VAE)
    assert model(x).shape == (4,)
    assert model(x[0]).shape == ()
    assert model.log_w(x, 5).shape == (5, 4)
    assert model.sample((2, 3)).shape == (2, 3, 784)
    assert model.encoder(x).rsample().shape == (4, {"one layer": 50, "two layers": 150}[name])
    assert set(model.sample((5,)).unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", BUILD)
def test_every_stochastic_layer_has_two_tanh_layers_before_it(name):
    model = BUILD[name]()
    bodies = [module.body for module in model.modules() if hasattr(module, "body")]
    assert len(bodies) == {"one layer": 2, "two layers": 4}[name]
    for body in bodies:
        parts = [m for m in body.modules() if isinstance(m, nn.Linear | nn.Tanh)]
        assert [type(part) for part in parts] == [nn.Linear, nn.Tanh] * 2


def test_log_weights_of_one_layer_by_hand(float64):
    model, x = one_layer(6, hidden=5, latent=3), torch.rand(4, 6).round()
    torch.manual_seed(1)
    log_w = model.log_w(x, 7)
    torch.manual_seed(1)
    mu, sigma = normal(model.encoder, x)
    z = mu + sigma * torch.randn(7, 4, 3)
    log_p = log_bernoulli(model.decoder, x, z) + log_normal(z, torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(log_w, log_p - log_normal(z, mu, sigma))


def test_log_weights_of_two_layers_by_hand(float64):
    """ln p(x|z1) + ln p(z1|z2) + ln p(z2) - ln q(z1|x) - ln q(z2|z1)."""
    model, x = small(), torch.rand(4, 6).round()
    torch.manual_seed(1)
    log_w = model.log_w(x, 7)
    torch.manual_seed(1)
    (up, top), down = model.encoder.layers, model.prior.layers[1]
    q1 = normal(up, x)
    z1 = q1[0] + q1[1] * torch.randn(7, 4, 3)
    q2 = normal(top, z1)
    z2 = q2[0] + q2[1] * torch.randn(7, 4, 2)
    log_p = (
        log_bernoulli(model.decoder, x, z1)
        + log_normal(z1, *normal(down, z2))
        + log_normal(z2, torch.zeros(2), torch.ones(2))
    )
    torch.testing.assert_close(log_w, log_p - log_normal(z1, *q1) - log_normal(z2, *q2))


def test_two_layers_are_sampled_from_the_top(float64):
    """With spreads that vanish and logits that are huge, a sample is what the means make of z2."""
    model = small()
    for layer in linears(model):  # without biases -z2 makes the opposite of what z2 makes
        layer.bias.data.zero_()
    down, out = model.prior.layers[1], model.decoder
    down.log_sigma.weight.data.zero_()
    down.log_sigma.bias.data.fill_(-50)
    out.logits.weight.data *= 1e9
    torch.manual_seed(1)
    x = model.sample((9,))
    torch.manual_seed(1)
    z1, _ = normal(down, torch.randn(9, 2))
    assert x.std(0).max() > 0
    torch.testing.assert_close(log_bernoulli(out, x, z1), torch.zeros(9))


@pytest.mark.parametrize("name", BUILD)
def test_weights_are_glorot_uniform_and_biases_zero(name):
    layers = linears(BUILD[name]())
    assert len(layers) == {"one layer": 7, "two layers": 15}[name]
    for layer in layers:
        limit = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert layer.weight.abs().max() <= limit
        assert layer.weight.abs().max() > 0.99 * limit
        n = layer.weight.numel()  # 5 standard errors of mean and of variance
        assert abs(layer.weight.mean()) < 5 * limit / math.sqrt(3 * n)
        variance = layer.weight.square().mean() / limit**2
        assert abs(variance - 1 / 3) < 5 * math.sqrt(4 / 45 / n)
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


@pytest.mark.parametrize("name", BUILD)
def test_start_from_the_marginals(name):
    model = BUILD[name](4, bound=iwae)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    marginals = torch.tensor([0.0, 0.25, 0.9, 1.0], dtype=torch.float64)
    model.start_from(marginals)
    changed = [key for key, value in model.state_dict().items() if not value.equal(before[key])]
    assert changed == ["decoder.logits.bias"]
    shares = model.decoder.logits.bias.sigmoid()
    torch.testing.assert_close(shares, torch.tensor([0.001, 0.25, 0.9, 0.999]))
    with pytest.raises(ValueError, match="a share of ones for each of 4"):
        model.start_from(marginals[:3])


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_marginals_may_be_of_low_precision(precision):
    model = one_layer(2)
    model.start_from(torch.tensor([0.0, 1.0], dtype=precision))
    shares = model.decoder.logits.bias.sigmoid()
    torch.testing.assert_close(shares, torch.tensor([1e-3, 1 - 1e-3]))


def test_options_are_those_of_the_model():
    assert one_layer().bound is None  # the divergence in closed form
    assert two_layers().bound is elbo
    assert two_layers(bound=iwae, samples=5).bound is iwae
    assert two_layers(bound=iwae, samples=5).samples == 5
    model = one_layer(beta=2.0, samples=3)
    assert (model.beta, model.samples) == (2.0, 3)
    with pytest.raises(TypeError):
        one_layer(bounds=elbo)
    x = torch.zeros(2, 784)
    assert two_layers()(x).isfinite().all()
    with pytest.raises(ValueError, match="bound=elbo"):
        two_layers(bound=None)(x)


@pytest.mark.parametrize("name", BUILD)
def test_the_gradient_reaches_every_parameter(name):
    model = BUILD[name](bound=iwae, samples=2)
    model(torch.rand(4, 784).round()).mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "build",
    [
        lambda: one_layer(6, hidden=4, latent=3),
        lambda: two_layers(6, hidden=(5, 4), latent=(3, 2)),
        lambda: linear_vae(6, latent=3),
    ],
    ids=["one layer", "two layers", "linear"],
)
def test_weights_of_half_precision(build, dtype):
    """A draw is float32, and finds its way into a network that is not."""
    model, x = build().to(dtype), (torch.rand(5, 6) < 0.5).float()
    for given in (x, x.to(dtype)):
        assert model(given).isfinite().all()
        assert model.log_w(given, 3).dtype == torch.float32
    assert model.sample((2,)).shape == (2, 6)
