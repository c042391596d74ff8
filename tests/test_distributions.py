"""Distributions that are fitted by counting: against enumeration, torch's own, and plain loops."""

import copy
import math

import pytest
import torch
from torch import distributions as td

from companion.checks import all_binary, frequencies, sampling_p_value, total_probability
from companion.data import Batches
from companion.distributions import (
    BernoulliMixture,
    GenerativeClassifier,
    IndependentBernoulli,
    MarkovChain,
)
from companion.nn import free_parameters

pytestmark = pytest.mark.usefixtures("float64")

D, K = 5, 3
EVERY = all_binary(D)
KNOWN = torch.tensor([True, False, True, True, False])

MODELS = {
    "independent": lambda: IndependentBernoulli(D),
    "chain": lambda: MarkovChain(D),
    "mixture": lambda: BernoulliMixture(D, K),
}
COUNTED = {name: MODELS[name] for name in ("independent", "chain")}


def randomised(model, rng):
    """The model with every probability random."""
    for name, parameter in model.named_parameters():
        parameter.data = torch.rand(parameter.shape, generator=rng) * 0.9 + 0.05
        if name.endswith("weights"):
            parameter.data /= parameter.sum()
    return model


@pytest.fixture(params=MODELS)
def model(request, rng):
    return randomised(MODELS[request.param](), rng)


@pytest.fixture
def mixture(rng):
    return randomised(BernoulliMixture(D, K), rng)


@pytest.fixture
def classifier(rng):
    densities = [IndependentBernoulli(D), MarkovChain(D), BernoulliMixture(D, 2)]
    return randomised(GenerativeClassifier(densities, torch.tensor([1.0, 2.0, 5.0])), rng)


# --- every model ---------------------------------------------------------------------------------


def test_probabilities_sum_to_one(model, rng):
    for _ in range(5):
        randomised(model, rng)
        assert total_probability(model.log_prob, D) == pytest.approx(1, abs=1e-12)


def test_samples_come_from_the_density_and_carry_no_gradient(model, rng):
    samples = model.sample((20_000,))
    assert not samples.requires_grad
    assert sampling_p_value(samples, model.log_prob) > 1e-3
    assert sampling_p_value(samples, randomised(model, rng).log_prob) < 1e-6  # it can tell


@pytest.mark.parametrize("batch", [(), (7,), (2, 3), (0,)])
def test_shapes_and_types(model, batch):
    x = model.sample(batch)
    assert x.shape == (*batch, D)
    expected = model.log_prob(x)
    assert expected.shape == batch
    assert torch.equal(model(x), expected)  # what training maximises
    for each, row in zip(expected.flatten(), x.reshape(-1, D), strict=True):
        torch.testing.assert_close(model.log_prob(row), each)
    single = model.float().log_prob(x.to(torch.uint8))
    assert single.dtype == model.sample(batch).dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_state_is_kept(model, classifier, rng):
    for original in (model, classifier):
        other = randomised(copy.deepcopy(original), rng)
        assert not torch.equal(other.log_prob(EVERY), original.log_prob(EVERY))
        other.load_state_dict(original.state_dict())
        assert torch.equal(other.log_prob(EVERY), original.log_prob(EVERY))
    assert "prior" in classifier.state_dict()


@pytest.mark.parametrize(
    ("build", "stored", "free"),
    [
        (COUNTED["independent"], D, D),
        (COUNTED["chain"], 2 * D - 1, 2 * D - 1),
        (lambda: BernoulliMixture(D, 2), 2 * D + 2, 2 * D + 1),  # the weights sum to one
        (MODELS["mixture"], K * D + K, K * D + K - 1),
    ],
)
def test_numbers_of_parameters(build, stored, free, rng):
    """The free ones are the rank of the Fisher information: directions in which p changes."""
    model = randomised(build(), rng)
    assert free_parameters(model) == stored
    names, values = zip(*model.named_parameters(), strict=True)

    def log_p(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (EVERY,))

    scores = torch.autograd.functional.jacobian(log_p, values)
    scores = torch.cat([score.reshape(len(EVERY), -1) for score in scores], 1)
    p = log_p(*values).exp()[:, None].detach()
    centred = scores - (p * scores).sum(0)
    eigenvalues = torch.linalg.eigvalsh(centred.T @ (p * centred))
    assert (eigenvalues > 1e-9).sum() == free


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_as_on_a_cpu(model, classifier):
    for each in (model, classifier):
        expected = each.log_prob(EVERY)
        torch.testing.assert_close(each.cuda().log_prob(EVERY).cpu(), expected)
    assert model.sample((3,)).is_cuda
    model.fit(*((Batches(EVERY, 32), 2) if isinstance(model, BernoulliMixture) else (EVERY,)))
    assert model.log_prob(EVERY).is_cuda


# --- densities -----------------------------------------------------------------------------------


def test_independent_entries_and_mixtures_agree_with_torch(mixture, rng):
    independent = randomised(IndependentBernoulli(D), rng)
    expected = td.Independent(td.Bernoulli(independent.probs), 1).log_prob(EVERY)
    torch.testing.assert_close(independent.log_prob(EVERY), expected)
    parts = td.Independent(td.Bernoulli(mixture.probs), 1)
    expected = td.MixtureSameFamily(td.Categorical(mixture.weights), parts).log_prob(EVERY)
    torch.testing.assert_close(mixture.log_prob(EVERY), expected)


def test_a_chain_against_plain_loops(rng):
    chain = randomised(MarkovChain(D), rng)
    for x, log_prob in zip(EVERY.int().tolist(), chain.log_prob(EVERY).tolist(), strict=True):
        p = chain.first.item() if x[0] else 1 - chain.first.item()
        for i in range(1, D):
            one = (chain.after_one if x[i - 1] else chain.after_zero)[i - 1].item()
            p *= one if x[i] else 1 - one
        assert log_prob == pytest.approx(math.log(p), rel=1e-12)


def test_a_chain_of_one_entry_is_a_coin():
    chain = MarkovChain(1).fit(torch.tensor([[0], [1], [1]]), smoothing=0)
    expected = torch.tensor([1 / 3, 2 / 3])
    torch.testing.assert_close(chain.log_prob(all_binary(1)).exp(), expected)
    assert chain.sample((4,)).shape == (4, 1)


def test_what_cannot_happen_has_log_probability_minus_infinity():
    independent, chain = IndependentBernoulli(3), MarkovChain(3)
    independent.probs.data = torch.tensor([0.0, 1.0, 0.5])
    chain.first.data.fill_(1.0)
    chain.after_one.data = torch.tensor([0.0, 0.3])
    chain.after_zero.data = torch.tensor([0.4, 1.0])
    expected = torch.full((8,), -math.inf)
    expected[[2, 3]] = math.log(0.5)  # 01?
    assert torch.equal(independent.log_prob(all_binary(3)), expected)
    expected = torch.full((8,), -math.inf)
    expected[5] = 0  # 101, for certain
    assert torch.equal(chain.log_prob(all_binary(3)), expected)


def test_hundreds_of_entries_do_not_underflow(rng):
    mixture = randomised(BernoulliMixture(2000, K), rng)
    x = (torch.rand(4, 2000, generator=rng) < 0.5).double()
    expected = mixture.log_prob(x)
    assert expected.isfinite().all()
    assert (expected < -1000).all()  # e to this is zero, in float64, too
    assert mixture.responsibilities(x).isfinite().all()
    torch.testing.assert_close(mixture.float().log_prob(x).double(), expected, rtol=1e-5, atol=0)


def test_responsibilities_are_bayes_rule(mixture):
    x = EVERY[:, None]
    joint = mixture.weights * torch.where(x == 1, mixture.probs, 1 - mixture.probs).prod(-1)
    torch.testing.assert_close(mixture.log_joint(EVERY).exp(), joint)
    r = mixture.responsibilities(EVERY)
    torch.testing.assert_close(r, joint / joint.sum(-1, keepdim=True))
    torch.testing.assert_close(r.sum(-1), torch.ones(len(EVERY)))
    assert torch.equal(mixture.responsibilities(EVERY.reshape(4, 8, D)), r.reshape(4, 8, K))


def test_unknown_entries_are_summed_out(mixture):
    same = (EVERY[:, None, KNOWN] == EVERY[None, :, KNOWN]).all(-1)  # which agree where known
    expected = same.double() @ mixture.log_joint(EVERY).exp()
    torch.testing.assert_close(mixture.log_joint(EVERY, KNOWN).exp(), expected)
    torch.testing.assert_close(mixture.log_prob(EVERY, KNOWN).exp(), expected.sum(-1))
    bayes = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(mixture.responsibilities(EVERY, KNOWN), bayes)
    everything, nothing = torch.ones(D).bool(), torch.zeros(D).bool()
    torch.testing.assert_close(mixture.log_joint(EVERY, everything), mixture.log_joint(EVERY))
    torch.testing.assert_close(
        mixture.responsibilities(EVERY, nothing), mixture.weights.expand(len(EVERY), K)
    )


def test_a_mixture_of_one_is_independent(rng):
    one, independent = randomised(BernoulliMixture(D, 1), rng), IndependentBernoulli(D)
    independent.probs.data = one.probs.data[0]
    torch.testing.assert_close(one.log_prob(EVERY), independent.log_prob(EVERY))
    x = independent.sample((50,))
    one.fit(Batches(x, 50), epochs=1, smoothing=1e-12)
    torch.testing.assert_close(one.probs[0], independent.fit(x, smoothing=0).probs)


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("build", COUNTED.values(), ids=COUNTED)
def test_counting_is_maximum_likelihood(build, grey, rng):
    """For grey values: the expected one, over all the binary images that might be drawn."""
    x = randomised(MarkovChain(D), rng).sample((300,))
    x = torch.rand(20, D, generator=rng) if grey else x
    drawn = [td.Bernoulli(probs).log_prob(EVERY).sum(-1).exp() for probs in x.clamp(1e-99, 1)]
    share = torch.stack(drawn).mean(0) if grey else frequencies(x)
    model = randomised(build(), rng)
    assert model.fit(x, smoothing=0) is model  # whatever it was before
    best = share @ model.log_prob(EVERY)
    best.backward()
    for parameter in model.parameters():
        assert 0 < parameter.min() <= parameter.max() < 1
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), atol=1e-12, rtol=0)
    for size in [1e-3, 0.1, 1.0] * 10:
        other = copy.deepcopy(model)
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.data = (parameter.logit() + size * noise).sigmoid().detach()
        assert share @ other.log_prob(EVERY) < best


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32])
def test_counts_by_hand(smoothing, dtype):
    s = smoothing
    x = torch.tensor(
        [[0, 1, 1], [1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [0, 1, 1], [1, 1, 1]], dtype=dtype
    )
    independent = IndependentBernoulli(3).fit(x, s)
    expected = torch.tensor([2 + s, 6 + s, 5 + s]) / (7 + 2 * s)
    torch.testing.assert_close(independent.probs.data, expected)

    chain = MarkovChain(3).fit(x, s)
    after_zero = [(4 + s) / (5 + 2 * s), (1 + s) / (1 + 2 * s)]
    after_one = [(2 + s) / (2 + 2 * s), (4 + s) / (6 + 2 * s)]
    assert chain.first.item() == pytest.approx((2 + s) / (7 + 2 * s))
    torch.testing.assert_close(chain.after_zero.data, torch.tensor(after_zero))
    torch.testing.assert_close(chain.after_one.data, torch.tensor(after_one))
    assert chain.first.shape == (1,)  # as before the fit, so that a saved state still loads


def test_smoothing_is_one_unless_told_and_halves_what_was_never_seen():
    chain = MarkovChain(2).fit(torch.zeros(3, 2))
    assert chain.first == chain.after_zero[0] == 1 / 5
    assert chain.after_one[0] == 1 / 2
    assert (IndependentBernoulli(2).fit(torch.zeros(3, 2)).probs == 1 / 5).all()


# --- expectation-maximisation --------------------------------------------------------------------


def em_by_loops(mixture, batches, rates, examples, smoothing):
    """Weights and probabilities after these batches: Eqs. (responsibilities) and (m-step)."""
    weights, probs = mixture.weights.detach().clone(), mixture.probs.detach().clone()
    counts, ones = weights, weights[:, None] * probs
    for batch, rate in zip(batches, rates, strict=True):
        counts, ones = (1 - rate) * counts, (1 - rate) * ones
        for x in batch:
            joint = weights * (probs**x * (1 - probs) ** (1 - x)).prod(1)
            r = rate * joint / joint.sum() / len(batch)
            counts = counts + r
            ones = ones + r[:, None] * x
        mean = (ones.sum(0) * examples + 1) / (examples + 2)
        weights = counts
        probs = (examples * ones + smoothing * mean) / (examples * counts[:, None] + smoothing)
    return weights, probs


@pytest.mark.parametrize(
    ("batch_size", "rates"), [(24, [1, 1, 1]), (8, [step**-0.7 for step in range(2, 11)])]
)
@pytest.mark.parametrize("grey", [False, True])
def test_em_against_plain_loops(mixture, batch_size, rates, grey, rng):
    x = torch.rand(24, D, generator=rng).float()
    train = Batches(x if grey else x.round(), batch_size)
    batches = [train.batch(step).double() for step in range(len(rates))]
    weights, probs = em_by_loops(mixture, batches, rates, len(x), smoothing=0.7)
    mixture.fit(train, epochs=3, smoothing=0.7)
    torch.testing.assert_close(mixture.weights.data, weights)
    torch.testing.assert_close(mixture.probs.data, probs)


def separated():
    """Three components that one can tell apart: 12 entries, 10 % or 90 % ones."""
    truth = BernoulliMixture(12, 3)
    truth.weights.data = torch.tensor([0.5, 0.3, 0.2])
    truth.probs.data = (torch.arange(12) // 4 == torch.arange(3)[:, None]) * 0.8 + 0.1
    return truth


@pytest.mark.parametrize("smoothing", [1e-9, 20.0])
def test_em_never_lowers_its_objective_and_ends_where_the_gradient_is_zero(smoothing, rng):
    x = separated().sample((300,))
    mean, train = (x.sum(0) + 1) / (len(x) + 2), Batches(x, len(x))
    mixture = randomised(BernoulliMixture(12, 3), rng)

    def objective():
        """The log-likelihood, and that of the copies of the mean image in every component."""
        copies = mean.xlogy(mixture.probs) + (1 - mean).xlogy(1 - mixture.probs)
        return mixture.log_prob(x).mean() + smoothing / len(x) * copies.sum()

    values, scores = [], []
    for _ in range(300):
        values.append(objective().item())
        scores.append(mixture.log_prob(x).mean().item())
        (history,) = mixture.fit(train, epochs=1, smoothing=smoothing)
        assert history == pytest.approx(scores[-1], abs=1e-12)  # of before the step
    assert torch.tensor(values).diff().min() > -1e-12
    assert values[-1] - values[0] > 1  # there was something to gain
    if smoothing < 1:
        assert torch.tensor(scores).diff().min() > -1e-8
    by_probs, by_weights = torch.autograd.grad(objective(), (mixture.probs, mixture.weights))
    torch.testing.assert_close(by_probs, torch.zeros_like(by_probs), atol=1e-8, rtol=0)
    # As the weights sum to one, their gradient is the same for all, and that is 1.
    torch.testing.assert_close(by_weights, torch.ones(3), atol=1e-8, rtol=0)


def test_em_finds_components_that_are_there_with_small_batches_too():
    truth, models = separated(), {}
    x = truth.sample((4000,))
    for batch_size, epochs in ((4000, 50), (100, 10)):
        models[batch_size] = mixture = BernoulliMixture(12, 3)
        mixture.start_from(x[[0, 1, 2]])
        history = mixture.fit(Batches(x, batch_size), epochs)
        assert len(history) == epochs
        order = mixture.weights.argsort(descending=True)
        # Five standard errors of a share, of 800 examples or more.
        torch.testing.assert_close(mixture.weights[order], truth.weights, atol=0.04, rtol=0)
        torch.testing.assert_close(mixture.probs[order], truth.probs, atol=0.055, rtol=0)
    full, small = (model.log_prob(x).mean().item() for model in models.values())
    assert truth.log_prob(x).mean() < full
    assert full - 0.02 < small < full


def test_examples_to_start_from():
    mixture = BernoulliMixture(4, 2)
    mixture.start_from(torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.uint8))
    assert (mixture.weights == 1 / 2).all()
    expected = torch.tensor([[0.01, 0.99, 0.25, 0.75], [0.01, 0.99, 0.75, 0.25]])
    torch.testing.assert_close(mixture.probs.data, expected)
    for shape in [(3, 4), (4,), (2, 2, 2)]:
        with pytest.raises(ValueError, match=r"one example for each .* \(2, 4\), not \("):
            mixture.start_from(torch.zeros(shape))


@pytest.mark.parametrize("smoothing", [0, 1])
def test_a_component_that_dies_harms_nobody(smoothing):
    x = torch.zeros(200, 784)
    mixture = BernoulliMixture(784, 2).float()
    mixture.start_from(torch.stack([torch.ones(784), torch.zeros(784)]))
    history = mixture.fit(Batches(x, 200), epochs=3, smoothing=smoothing)
    assert mixture.weights.tolist() == [0, 1]
    assert history[0] < history[-1] < 0
    assert torch.equal(mixture.responsibilities(x[:2]), torch.tensor([[0.0, 1.0]] * 2).float())
    assert mixture.probs.isfinite().all()
    assert not mixture.sample((10,)).isnan().any()


@pytest.mark.parametrize("value", [0, 1])
def test_entries_that_never_change_stay_finite_in_float32(value):
    """1 - 1e-9 is 1 in float32, and its logarithm then 0: a certainty that nobody can undo."""
    x = separated().sample((30_000,)).float()
    x[:, 0] = value
    mixture = BernoulliMixture(12, 3).float()
    mixture.start_from(x[:3])
    history = mixture.fit(Batches(x, len(x)), epochs=5)
    assert torch.tensor(history).isfinite().all()
    x[:, 0] = 1 - value
    assert mixture.log_prob(x[:9]).isfinite().all()


# --- Bayes' rule ---------------------------------------------------------------------------------


def test_a_classifier_is_bayes_rule(classifier):
    prior = torch.tensor([1.0, 2.0, 5.0]) / 8
    joint = [p * d.log_prob(EVERY).exp() for p, d in zip(prior, classifier.densities, strict=True)]
    joint = torch.stack(joint, -1)
    torch.testing.assert_close(classifier.prior, prior)
    torch.testing.assert_close(classifier.log_joint(EVERY).exp(), joint)
    torch.testing.assert_close(classifier.log_prob(EVERY).exp(), joint.sum(-1))
    assert torch.equal(classifier(EVERY), classifier.log_prob(EVERY))
    posterior = classifier.posterior(EVERY)
    torch.testing.assert_close(posterior, joint / joint.sum(-1, keepdim=True))
    assert classifier.posterior(EVERY.reshape(4, 8, D)).shape == (4, 8, 3)
    assert classifier.posterior(EVERY[0]).shape == (3,)
    assert total_probability(classifier.log_prob, D) == pytest.approx(1, abs=1e-12)


def test_drawings_of_a_classifier_come_from_its_density(classifier):
    samples = classifier.sample((20_000,))
    assert not samples.requires_grad
    assert sampling_p_value(samples, classifier.log_prob) > 1e-3
    assert sampling_p_value(samples, classifier.densities[2].log_prob) < 1e-6  # it can tell
    for shape in [(), (7,), (2, 3), (0,)]:
        assert classifier.sample(shape).shape == (*shape, D)


def test_a_classifier_sums_out_what_is_unknown(rng):
    mixtures = [randomised(BernoulliMixture(D, k), rng) for k in (1, 2, 3)]
    classifier = GenerativeClassifier(mixtures)
    torch.testing.assert_close(classifier.prior, torch.full((3,), 1 / 3))  # unless told
    same = (EVERY[:, None, KNOWN] == EVERY[None, :, KNOWN]).all(-1).double()
    joint = same @ classifier.log_joint(EVERY).exp()
    torch.testing.assert_close(classifier.log_joint(EVERY, known=KNOWN).exp(), joint)
    posterior = classifier.posterior(EVERY, known=KNOWN)
    torch.testing.assert_close(posterior, joint / joint.sum(-1, keepdim=True))


def test_a_prior_may_be_counts_and_must_fit():
    densities = [IndependentBernoulli(2), IndependentBernoulli(2)]
    classifier = GenerativeClassifier(densities, torch.tensor([0, 0, 1, 0]).bincount())
    posterior = classifier.posterior(torch.ones(2))
    torch.testing.assert_close(posterior, torch.tensor([0.75, 0.25]))
    for prior in (torch.ones(3), torch.ones(2, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"prior must have shape \(2,\)"):
            GenerativeClassifier(densities, prior)


# --- what else must hold, and what is refused -------------------------------------------------


def test_prior_in_float64_models_under_float32_default():
    c = GenerativeClassifier([IndependentBernoulli(2).double() for _ in range(3)])
    assert total_probability(c.log_prob, 2) == pytest.approx(1, abs=1e-12)


def test_known_through_log_prob_of_a_classifier():
    c = GenerativeClassifier([BernoulliMixture(2, 2)] * 2)
    assert c.log_prob(
        torch.ones(2), known=torch.tensor([True, False])
    ).exp().item() == pytest.approx(0.5)


def test_one_batch_that_is_not_all_examples_is_averaged():
    x = torch.cat([torch.zeros(75, 3), torch.ones(75, 3)])
    m = BernoulliMixture(3, 2)
    m.probs.data[0] = 0.4
    m.fit(Batches(x, 76, shuffle=False), 1, smoothing=1e-9)
    assert m.weights @ m.probs[:, 0] > 0.1


def test_known_at_probabilities_of_zero_and_one():
    m = BernoulliMixture(2, 2)
    m.probs.data = torch.tensor([[0.0, 0.5], [1.0, 0.5]])
    assert m.log_prob(
        torch.tensor([1.0, 1.0]), torch.tensor([False, True])
    ).exp().item() == pytest.approx(0.5)


def test_smoothing_zero_is_finite():
    m = BernoulliMixture(3, 2)
    x = torch.bernoulli(torch.full((50, 3), 0.5))
    x[:, 0] = 0
    m.start_from(x[:2])
    assert torch.tensor(m.fit(Batches(x, 50), 4, smoothing=0)).isfinite().all()


def test_start_from_forgets_the_weights():
    m = BernoulliMixture(3, 2)
    m.weights.data = torch.tensor([0.0, 1.0])
    m.start_from(torch.eye(3)[:2])
    assert m.weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "build",
    [
        lambda: IndependentBernoulli(4).fit(torch.ones(5, 7)),
        lambda: IndependentBernoulli(4).fit(torch.ones(4)),
        lambda: IndependentBernoulli(4).fit(torch.ones(5, 2, 2)),
        lambda: IndependentBernoulli(4).fit(torch.ones(0, 4)),
        lambda: IndependentBernoulli(4).fit(torch.full((2, 4), 255, dtype=torch.uint8)),
        lambda: IndependentBernoulli(4).fit(torch.ones(2, 4), -0.5),
        lambda: IndependentBernoulli(4).fit(torch.ones(2, 4), math.nan),
        lambda: MarkovChain(4).fit(torch.ones(2, 4), math.inf),
        lambda: IndependentBernoulli(4).log_prob(torch.ones(5, 1)),
        lambda: IndependentBernoulli(1).log_prob(torch.ones(5, 3)),
        lambda: IndependentBernoulli(4).log_prob(torch.ones(5, 3)),
        lambda: MarkovChain(4).fit(torch.ones(5, 7)),
        lambda: MarkovChain(4).fit(torch.full((2, 4), 255, dtype=torch.uint8)),
        lambda: MarkovChain(2).log_prob(torch.ones(5, 1)),
        lambda: MarkovChain(0),
        lambda: BernoulliMixture(3, 0),
        lambda: BernoulliMixture(4, 2).log_prob(torch.ones(5, 3)),
        lambda: BernoulliMixture(4, 2).log_prob(torch.ones(5, 4), torch.tensor([True])),
        lambda: BernoulliMixture(4, 2).log_prob(torch.ones(5, 4), torch.tensor([0, 1, 2, 3])),
        lambda: BernoulliMixture(4, 2).fit(Batches(torch.ones(5, 4), 5), 0),
        lambda: BernoulliMixture(4, 2).fit(Batches(torch.ones(5, 4), 5), 1, -1.0),
        lambda: BernoulliMixture(4, 2).fit(Batches(torch.ones(5, 4), 5), 1, math.nan),
        lambda: BernoulliMixture(4, 2).fit(Batches(torch.full((5, 4), 255.0), 5), 1),
        lambda: BernoulliMixture(4, 2).fit(Batches(torch.ones(5, 4), 5), 1),  # all components alike
        lambda: BernoulliMixture(4, 2).start_from(torch.full((2, 4), 255.0)),
        lambda: IndependentBernoulli(4).log_prob(torch.full((2, 4), 255, dtype=torch.uint8)),
        lambda: GenerativeClassifier([IndependentBernoulli(4)]).posterior(torch.tensor([2] * 4)),
        lambda: GenerativeClassifier([]),
        lambda: GenerativeClassifier([IndependentBernoulli(2)] * 2, torch.tensor([-1.0, 2.0])),
        lambda: GenerativeClassifier([IndependentBernoulli(2)] * 2, torch.tensor([0.0, 0.0])),
        lambda: GenerativeClassifier([IndependentBernoulli(2)] * 2, torch.tensor([1, math.inf])),
    ],
)
def test_bad_input_is_refused(build):
    with pytest.raises(
        ValueError,
        match=r"shape|smoothing|component|entry|known|alike|prior|between|entries|grey|epochs",
    ):
        build()


def test_what_stands_at_unknown_entries_means_nothing():
    mixture, known = separated(), torch.zeros(12, dtype=torch.bool)
    known[:5] = True
    x = mixture.sample()
    spoiled = x.where(known, math.nan)
    assert torch.equal(mixture.log_joint(spoiled, known), mixture.log_joint(x, known))


def test_what_no_class_can_give_has_no_posterior():
    densities = [IndependentBernoulli(2), IndependentBernoulli(2)]
    for density in densities:
        density.probs.data = torch.tensor([0.0, 0.5])
    classifier = GenerativeClassifier(densities)
    posterior = classifier.posterior(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert posterior[0].isnan().all()
    assert posterior[1].tolist() == [0.5, 0.5]
