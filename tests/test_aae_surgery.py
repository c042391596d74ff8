"""The averaged divergence taken apart: brute force for tables, known densities for samples."""

import itertools
import math
import statistics

import pytest
import torch
from torch import nn

from companion.aae import aggregated_posterior, surgery, surgery_estimate
from companion.divergences import entropy
from companion.vae import ConditionalGaussian, StandardNormal

pytestmark = pytest.mark.usefixtures("float64")
close = torch.testing.assert_close


def tables(rng, *shape):
    return torch.rand(shape, generator=rng).mul(3).softmax(-1)


# --- tables --------------------------------------------------------------------------------------


def by_brute_force(p_data, q, prior):
    """The three divergences, a joint probability of an example and a code at a time."""
    p_data, q, prior = p_data.tolist(), q.tolist(), prior.tolist()
    codes = range(len(prior))
    marginal = [sum(p * row[j] for p, row in zip(p_data, q, strict=True)) for j in codes]
    average = information = 0.0
    for (p, row), j in itertools.product(zip(p_data, q, strict=True), codes):
        if p * row[j]:
            average += p * row[j] * math.log(row[j] / prior[j])
            information += p * row[j] * math.log(p * row[j] / (p * marginal[j]))
    misfit = sum(m * math.log(m / prior[j]) for j, m in enumerate(marginal) if m)
    return marginal, (average, information, misfit)


@pytest.mark.parametrize("case", range(6))
def test_surgery_of_tables_by_brute_force(case):
    rng = torch.Generator().manual_seed(case)
    p_data, q, prior = tables(rng, 4), tables(rng, 4, 3), tables(rng, 3)
    if case >= 4:  # some codes, or an example, never come
        q = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.3, 0.7, 0], [1, 0, 0]])
    if case == 5:
        p_data = torch.tensor([0.2, 0.0, 0.5, 0.3])
    marginal, truth = by_brute_force(p_data, q, prior)
    close(aggregated_posterior(p_data, q), torch.tensor(marginal))
    parts = surgery(p_data, q, prior)
    assert parts._fields == ("average_kl", "mutual_information", "marginal_kl")
    close(torch.stack(parts), torch.tensor(truth))
    close(parts.average_kl, parts.mutual_information + parts.marginal_kl)


def test_the_limits_of_the_two_parts(rng):
    p_data, q, prior = tables(rng, 5), tables(rng, 5, 5), tables(rng, 5)
    assert all(part >= 0 for part in surgery(p_data, q, prior))
    assert surgery(p_data, q, prior).mutual_information < entropy(p_data)
    told_apart = surgery(p_data, torch.eye(5), prior)  # a code for each example
    close(told_apart.mutual_information, entropy(p_data))
    ignored = surgery(p_data, q[:1].expand(5, 5), prior)  # one distribution, whatever the example
    close(ignored.mutual_information, torch.tensor(0.0))
    close(ignored.marginal_kl, ignored.average_kl)
    fits = surgery(p_data, q, aggregated_posterior(p_data, q))
    close(fits.marginal_kl, torch.tensor(0.0))
    impossible = surgery(p_data, torch.eye(5), torch.tensor([0.5, 0.5, 0, 0, 0]))
    assert impossible.average_kl == impossible.marginal_kl == math.inf
    assert impossible.mutual_information.isfinite()


def test_surgery_is_differentiable(rng):
    p_data, logits = tables(rng, 3), torch.rand(3, 4, generator=rng, requires_grad=True)
    prior = tables(rng, 4).requires_grad_()
    cut = lambda logits, prior: surgery(p_data, logits.softmax(-1), prior / prior.sum())
    assert torch.autograd.gradcheck(cut, (logits, prior))


def test_what_are_no_tables_is_refused(rng):
    p_data, q, prior = tables(rng, 3), tables(rng, 3, 4), tables(rng, 4)
    with pytest.raises(ValueError, match="has negative entries: give probabilities"):
        surgery(p_data, q.log(), prior)
    with pytest.raises(ValueError, match="not to 1: divide it by its sum"):
        surgery(p_data, q, prior * 1.01)
    with pytest.raises(ValueError, match="not to 1: divide it by its sum"):
        surgery(p_data * 1.01, q, prior)
    with pytest.raises(ValueError, match="the last axes must be equal"):
        surgery(p_data, q, tables(rng, 5))


def test_examples_that_are_no_table_or_not_those_of_the_codes_are_refused(rng):
    q, prior = tables(rng, 2, 4), tables(rng, 4)
    with pytest.raises(ValueError, match="p_data has negative entries"):
        surgery(torch.tensor([-0.2, 1.2]), q, prior)  # the codes' own distribution is a table
    with pytest.raises(ValueError, match="2 tables of codes"):
        surgery(tables(rng, 3), q, prior)


# --- samples -------------------------------------------------------------------------------------


def gaussian_encoder(mu, sigma):
    """An encoder of the examples 0 to N - 1, one-hot: a normal of its own for each of them."""
    mu, sigma = torch.as_tensor(mu), torch.as_tensor(sigma)
    encoder = ConditionalGaussian(nn.Identity(), *mu.shape)
    with torch.no_grad():
        encoder.mu.weight.copy_(mu.T)
        encoder.log_sigma.weight.copy_(sigma.log().expand_as(mu).T)
        encoder.mu.bias.zero_()
        encoder.log_sigma.bias.zero_()
    return encoder, torch.eye(len(mu))


def near(estimate, truth):
    return abs(estimate.mean - truth) < 5 * estimate.standard_error


def test_two_examples_far_apart_are_worth_a_bit():
    """The codes never meet: ln 2, with no error, and divergences between normals."""
    encoder, x = gaussian_encoder([[-40.0, 3.0], [40.0, 1.0]], [[0.5], [0.2]])
    cut = surgery_estimate(encoder, StandardNormal(2), x, samples=4000)
    assert cut._fields == ("average_kl", "mutual_information", "marginal_kl")
    assert cut.mutual_information.mean == pytest.approx(math.log(2), rel=1e-12)
    assert cut.mutual_information.standard_error < 1e-12
    squares = [(1600 + 9, 0.5), (1600 + 1, 0.2)]
    truth = [(m + 2 * s**2 - 2) / 2 - 2 * math.log(s) for m, s in squares]
    assert near(cut.average_kl, sum(truth) / 2)
    assert near(cut.marginal_kl, sum(truth) / 2 - math.log(2))
    assert cut.average_kl.standard_error < 1


def test_examples_whose_codes_overlap_by_quadrature():
    mu, sigma = torch.tensor([[-1.0], [0.2], [2.5]]), torch.tensor([[0.7], [0.3], [1.1]])
    encoder, x = gaussian_encoder(mu, sigma)
    z = torch.linspace(-12, 12, 4801)
    width = z[1] - z[0]
    log_q_x = torch.distributions.Normal(mu, sigma).log_prob(z)  # (3, grid)
    log_q = log_q_x.exp().mean(0).log()
    log_p = torch.distributions.Normal(0, 1).log_prob(z)
    joint = log_q_x.exp() * width / 3
    samples = 20_000
    cut = surgery_estimate(encoder, StandardNormal(1), x, samples=samples, chunk=1000)
    for found, term in zip(cut, (log_q_x - log_p, log_q_x - log_q, log_q - log_p), strict=True):
        truth = (joint * term).sum()
        deviation = (joint * (term - truth).square()).sum().sqrt().item()
        assert near(found, truth.item())
        assert found.standard_error == pytest.approx(deviation / math.sqrt(samples), rel=0.05)
    sum_of_parts = cut.mutual_information.mean + cut.marginal_kl.mean
    assert cut.average_kl.mean == pytest.approx(sum_of_parts, rel=1e-12)


def test_the_error_is_that_of_many_estimates():
    encoder, x = gaussian_encoder([[-1.0], [0.5], [0.6]], [[0.7], [0.3], [1.0]])
    cuts = [surgery_estimate(encoder, StandardNormal(1), x, 50, chunk=50) for _ in range(300)]
    for part in zip(*cuts, strict=True):
        spread = statistics.stdev(estimate.mean for estimate in part)
        stated = statistics.mean(estimate.standard_error for estimate in part)
        assert spread == pytest.approx(stated, rel=0.2)


def test_the_information_is_from_nothing_to_ln_n():
    spread = torch.linspace(-1, 1, 6)[:, None]
    for scale in (1.0, 10.0, 1e3, 1e6):
        encoder, x = gaussian_encoder(scale * spread, [[1e-2]])
        information = surgery_estimate(encoder, StandardNormal(1), x, 300).mutual_information
        assert information.mean <= math.log(6) + 1e-9
    assert information.mean == pytest.approx(math.log(6), rel=1e-12)
    encoder, x = gaussian_encoder(torch.zeros(6, 1), [[0.3]])
    information = surgery_estimate(encoder, StandardNormal(1), x, 300).mutual_information
    assert information.mean == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_chunks_bound_the_memory_and_change_nothing(chunk, monkeypatch):
    encoder, x = gaussian_encoder([[-1.0, 2.0], [0.5, 0.1], [0.6, 0.0]], [[0.7], [0.3], [1.0]])
    prior, rows, q = StandardNormal(2), [], type(encoder(x))
    torch.manual_seed(3)
    whole = surgery_estimate(encoder, prior, x, samples=100)
    log_prob = q.log_prob

    def counted(self, z):
        if z.dim() == 3:
            rows.append(len(z))
        return log_prob(self, z)

    monkeypatch.setattr(q, "log_prob", counted)
    torch.manual_seed(3)
    torch.testing.assert_close(surgery_estimate(encoder, prior, x, 100, chunk), whole)
    assert max(rows) == min(chunk, 100)
    assert sum(rows) == 100


def test_the_encoder_is_asked_in_evaluation_mode_without_gradients():
    encoder, x = gaussian_encoder([[-1.0], [1.0]], [[0.5], [0.5]])
    seen = []
    encoder.register_forward_hook(
        lambda module, *_: seen.append((module.training, torch.is_grad_enabled()))
    )
    for mode in (True, False):
        encoder.train(mode)
        surgery_estimate(encoder, StandardNormal(1), x, samples=10)
        assert encoder.training == mode
    assert set(seen) == {(False, False)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_examples_of_any_shape_in_either_precision(dtype):
    torch.manual_seed(0)
    encoder = ConditionalGaussian(nn.Flatten(), 6, 2).to(dtype)
    prior, x = StandardNormal(2).to(dtype), torch.randn(5, 2, 3, dtype=dtype)
    torch.manual_seed(1)
    cut = surgery_estimate(encoder, prior, x, samples=2000)
    truth = torch.distributions.kl_divergence(encoder(x), prior()).mean().item()
    assert near(cut.average_kl, truth)
    parts = cut.mutual_information.mean + cut.marginal_kl.mean
    assert cut.average_kl.mean == pytest.approx(parts, rel=1e-5)


def test_an_example_that_never_comes_adds_nothing():
    p_data, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.eye(3).double()
    prior = torch.full((3,), 1 / 3).double()
    with_it, without = surgery(p_data, q, prior), surgery(p_data[:2], q[:2], prior)
    assert with_it == without
    assert with_it.mutual_information.item() == pytest.approx(math.log(2))
    assert surgery(torch.tensor([1.0, 0.0]), torch.eye(2), torch.tensor([1.0, 0.0])).average_kl == 0


def test_codes_of_an_example_that_never_comes_are_a_table_too():
    q = torch.tensor([[0.5, 0.5], [7.0, -3.0]])
    with pytest.raises(ValueError, match="q has negative"):
        surgery(torch.tensor([1.0, 0.0]), q, torch.tensor([0.5, 0.5]))
