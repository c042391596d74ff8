"""Scores, and the property checks that guard the models and the exercises."""

import math
import weakref

import pytest
import torch

from companion.autoregressive import FVSBN, MADE
from companion.checks import (
    all_binary,
    dependence,
    frequencies,
    sampling_p_value,
    sees,
    total_probability,
)
from companion.evaluation import (
    Estimate,
    auc,
    bits_per_dimension,
    importance_sampled_nll,
    log_likelihoods,
    nll,
    roc,
    scoring,
)
from companion.nn import MaskedLinear, free_parameters
from companion.vae import VAE, LinearGaussian, StandardNormal, linear_vae, one_layer, two_layers


def test_nll_of_a_known_density():
    model = FVSBN(3, window=0).double()
    marginals = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    model.start_from(marginals)
    x = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 1]])
    each = -torch.log(torch.where(x == 1, marginals, 1 - marginals)).sum(1)
    for batch_size in (1, 2, 5, 1000):
        estimate = nll(model, x, batch_size)
        assert estimate.mean == pytest.approx(each.mean().item(), rel=1e-12)
        expected = each.std().item() / math.sqrt(5)
        assert estimate.standard_error == pytest.approx(expected, rel=1e-12)


def test_log_likelihoods_are_told_one_by_one():
    model = FVSBN(3).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    x = all_binary(3)
    each = model.log_prob(x.double()).detach()
    assert each.exp().sum() == pytest.approx(1)
    for batch_size in (1, 3, 8, 100):
        found = log_likelihoods(model, x.byte(), batch_size)
        torch.testing.assert_close(found, each, rtol=1e-12, atol=0)
        assert not found.requires_grad
        assert nll(model, x, batch_size) == Estimate.of(-found)
    assert log_likelihoods(model.float(), x).dtype == torch.float64
    torch.testing.assert_close(log_likelihoods(model, x), each, rtol=1e-5, atol=0)


def test_nll_is_scored_in_evaluation_mode_and_leaves_the_mode_as_it_was():
    class Noisy(FVSBN):
        def logits(self, x, which=0):
            return super().logits(x) + self.training * 5

    model = Noisy(4)
    x = all_binary(4)
    for training in (True, False):
        model.train(training)
        assert nll(model, x).mean == pytest.approx(4 * math.log(2))
        assert model.training == training
    model.train()
    with pytest.raises(ValueError, match="shape"):
        nll(model, torch.zeros(2, 5))
    assert model.training


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor([[0, 255, 3, 0]]), "binarise"),
        (torch.tensor([[0, 1, 0.5, 0]]), "binarise"),
        (torch.zeros(0, 4), "no examples"),
    ],
)
@pytest.mark.parametrize("score", [nll, log_likelihoods])
def test_nll_refuses_what_it_cannot_score(score, x, message):
    with pytest.raises(ValueError, match=message):
        score(FVSBN(4), x)


def test_one_example_has_no_standard_error():
    assert math.isnan(nll(FVSBN(4), torch.zeros(1, 4)).standard_error)


def test_an_estimate_is_a_mean_and_its_standard_error(rng):
    estimate = Estimate.of(torch.tensor([1, 2, 6]))
    assert estimate.mean == 3
    assert estimate.standard_error == pytest.approx(math.sqrt(7 / 3))  # variance 7: N - 1, not N
    tiny = 1e6 + torch.rand(1000, generator=rng).float() / 8  # float32 would lose the differences
    assert Estimate.of(tiny) == pytest.approx(Estimate.of(tiny.double()), rel=1e-15)
    means = [Estimate.of(draws) for draws in torch.rand(2000, 10, generator=rng)]
    mean, error = torch.tensor(means, dtype=torch.float64).T
    assert error.square().mean() == pytest.approx(mean.var().item(), rel=0.15)  # 5 times 3 %


class Weighted(torch.nn.Module):
    """A model whose log-weights are known: each call hands out the next rows of a table."""

    def __init__(self, log_w):
        super().__init__()
        self.log_w_of_all, self.calls = log_w, []
        self.parameter = torch.nn.Parameter(torch.zeros(()))

    def log_w(self, x, samples):
        assert not self.training
        assert not torch.is_grad_enabled()
        column = x[:, 0].long()  # an example is its own place in the table
        start = sum(k for k, examples in self.calls if examples == column.tolist())
        self.calls.append((samples, column.tolist()))
        return self.log_w_of_all[start : start + samples, column]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
@pytest.mark.parametrize("chunk", [1, 3, 12, 50])
def test_importance_sampling_in_parts_is_one_sum(batch_size, chunk, rng):
    log_w = torch.randn(12, 5, generator=rng, dtype=torch.float64) * 3
    x = torch.arange(5.0)[:, None]
    w = log_w.exp()
    each = -w.mean(0).log()
    effective = (w.sum(0) ** 2 / (w**2).sum(0)).sort().values[2]
    for shift in (0, -1e4):  # such weights are zero: only their logarithms are not
        model = Weighted(log_w + shift)
        estimate = importance_sampled_nll(model, x, 12, batch_size, chunk)
        assert estimate.mean == pytest.approx(each.mean().item() - shift, rel=1e-12)
        assert estimate.standard_error == pytest.approx(each.std().item() / math.sqrt(5))
        assert estimate.effective_samples == pytest.approx(effective.item())
        assert max(k for k, _ in model.calls) == min(chunk, 12)
        assert max(len(examples) for _, examples in model.calls) == min(batch_size, 5)
        assert sum(k * len(examples) for k, examples in model.calls) == 12 * 5
        assert model.training


def test_the_weights_of_earlier_draws_are_not_kept():
    given, alive = [], []

    class Watched(torch.nn.Module):
        def log_w(self, x, samples):
            alive.append(sum(each() is not None for each in given))
            log_w = torch.zeros(samples, len(x), dtype=torch.float64)
            given.append(weakref.ref(log_w))
            return log_w

    importance_sampled_nll(Watched(), torch.zeros(3, 2), 40, chunk=5)
    assert len(alive) == 8
    assert max(alive) <= 1, "that of the chunk before, at most"


def test_effective_samples_of_equal_and_of_unequal_weights():
    x = torch.arange(3.0)[:, None]
    equal = torch.full((70, 3), -600.0)
    assert importance_sampled_nll(Weighted(equal), x, 70).effective_samples == pytest.approx(70)
    half = equal.clone()
    half[::2] = -math.inf  # a weight of zero
    estimate = importance_sampled_nll(Weighted(half), x, 70)
    assert estimate.effective_samples == pytest.approx(35)
    assert estimate.mean == pytest.approx(600 + math.log(2))
    one = equal.clone()
    one[40] = -500
    assert importance_sampled_nll(Weighted(one), x, 70).effective_samples == pytest.approx(1)
    mixed = torch.stack([equal[:, 0], one[:, 0], half[:, 0]], 1)  # the median, not the mean
    assert importance_sampled_nll(Weighted(mixed), x, 70).effective_samples == pytest.approx(35)


def test_importance_sampling_sums_weights_in_float64():
    """Many small weights beside a large one, which float32 would forget."""
    log_w = torch.full((2000, 1), -18.0)
    log_w[0] = 0
    estimate = importance_sampled_nll(Weighted(log_w), torch.zeros(1, 1), 2000, chunk=1)
    expected = math.log(2000) - math.log1p(1999 * math.exp(-18))
    assert estimate.mean == pytest.approx(expected, abs=1e-9)
    assert math.isnan(estimate.standard_error)


def test_what_the_decoder_sees_does_not_grow_with_the_draws(rng):
    model = VAE(LinearGaussian(4, 2), LinearGaussian(2, 4), StandardNormal(2))
    largest = []
    for samples in (7, 500):
        seen = []
        hook = model.decoder.register_forward_pre_hook(lambda _, z: seen.append(z[0].shape))  # noqa: B023
        importance_sampled_nll(model, torch.rand(25, 4, generator=rng), samples, 10, chunk=7)
        hook.remove()
        assert sum(k * n for k, n, _ in seen) == samples * 25
        largest.append(max(seen, key=math.prod))
    assert largest == [(7, 10, 2)] * 2


def test_importance_sampling_follows_the_type_of_the_model_and_leaves_its_mode():
    model = VAE(LinearGaussian(4, 2), LinearGaussian(2, 4), StandardNormal(2)).double()
    for training in (True, False):
        model.train(training)
        assert importance_sampled_nll(model, all_binary(4).byte(), 3).mean > 0
        assert model.training == training
    model.train()
    with pytest.raises(RuntimeError, match="shapes"):
        importance_sampled_nll(model, torch.zeros(2, 5), 3)
    assert model.training


@pytest.mark.parametrize(("samples", "n"), [(0, 3), (-1, 3), (5, 0)])
def test_importance_sampling_needs_a_draw_and_an_example(samples, n):
    with pytest.raises(ValueError, match="at least 1"):
        importance_sampled_nll(Weighted(torch.zeros(5, 3)), torch.zeros(n, 1), samples)


def test_fair_coins_cost_one_bit():
    x = all_binary(4)
    assert bits_per_dimension(nll(FVSBN(4).double(), x).mean, 4) == pytest.approx(1)


# 0 to 9 has ties within and between the kinds, 0 to 9999 almost none, 0 to 0 nothing but ties.
ties = pytest.mark.parametrize("values", [10, 10_000, 1])


def scores(rng, values=10, n=37, m=23):
    """Scores of which the second kind's are higher, on average."""
    normal = torch.randint(values, (n,), generator=rng)
    anomalous = torch.maximum(*torch.randint(values, (2, m), generator=rng))
    return normal.double(), anomalous.double()


@ties
def test_roc_and_auc_by_brute_force(values, rng):
    normal, anomalous = scores(rng, values)
    false_alarms, hits = roc(normal, anomalous)
    thresholds = sorted({*normal.tolist(), *anomalous.tolist()}, reverse=True)
    for kind, shares in ((normal, false_alarms), (anomalous, hits)):
        expected = [sum(s >= t for s in kind.tolist()) / len(kind) for t in [math.inf, *thresholds]]
        assert shares.tolist() == pytest.approx(expected, rel=1e-6)
        assert shares[0] == 0
        assert shares[-1] == 1

    # Each pair of one and the other counts 1, 1/2 or 0; its error by DeLong et al., Eqs. (4)-(6).
    win = [[(a > b) + (a == b) / 2 for b in normal.tolist()] for a in anomalous.tolist()]
    area = sum(map(sum, win)) / (len(normal) * len(anomalous))
    by_anomaly = [sum(row) / len(normal) for row in win]
    by_normal = [sum(column) / len(anomalous) for column in zip(*win, strict=True)]
    variance = sum(
        sum((v - area) ** 2 for v in part) / (len(part) - 1) / len(part)
        for part in (by_anomaly, by_normal)
    )
    estimate = auc(normal, anomalous)
    assert estimate.mean == pytest.approx(area, rel=1e-12)
    assert estimate.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-12)
    assert torch.trapezoid(hits, false_alarms).item() == pytest.approx(area, rel=1e-6)
    assert auc(anomalous, normal).mean == pytest.approx(1 - area, rel=1e-12)


def test_auc_of_perfect_reversed_and_useless_scores():
    low, high = torch.tensor([1.0, 2.0, -math.inf]), torch.tensor([3.0, math.inf])
    assert auc(low, high) == (1, 0)
    assert auc(high, low) == (0, 0)
    assert auc(torch.ones(4), torch.ones(3)) == (0.5, 0)
    assert [s.tolist() for s in roc(torch.ones(4), torch.ones(3))] == [[0, 1], [0, 1]]
    impossible = torch.tensor([math.inf, math.inf])  # -ln 0 of both kinds: a tie
    assert auc(impossible, impossible).mean == 0.5
    assert math.isnan(auc(low, high[:1]).standard_error)  # of one anomaly, none can be known


def test_auc_and_roc_see_the_order_of_scores_alone(rng):
    normal, anomalous = scores(rng)
    for change in (torch.exp, lambda s: 5 * s - 3, lambda s: s.to(torch.uint8)):
        assert auc(change(normal), change(anomalous)) == auc(normal, anomalous)
        for shares, expected in zip(
            roc(change(normal), change(anomalous)), roc(normal, anomalous), strict=True
        ):
            assert torch.equal(shares, expected)


def test_the_standard_error_of_auc_is_calibrated(rng):
    """Over repeated draws: right on average, and what forgets one kind of examples is not."""
    estimates = []
    for _ in range(1500):
        normal, anomalous = torch.randn(80, generator=rng), torch.randn(40, generator=rng) + 1
        estimates.append(auc(normal, anomalous))
    mean, error = torch.tensor(estimates, dtype=torch.float64).T
    truth = 0.5 * (1 + math.erf(0.5))  # P[s > s'] for normals one apart: Phi(1 / sqrt 2)
    assert mean.mean().item() == pytest.approx(truth, abs=5 * mean.std().item() / math.sqrt(1500))
    ratio = error.square().mean() / (mean - truth).square().mean()
    assert 0.82 < ratio < 1.18  # five times sqrt(2 / 1500)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
def test_auc_needs_both_kinds(sizes):
    with pytest.raises(ValueError, match="at least 1 for each kind"):
        auc(*map(torch.zeros, sizes))


def test_all_binary_lists_every_vector_once():
    x = all_binary(5)
    assert x.shape == (32, 5)
    assert len(x.unique(dim=0)) == 32
    assert torch.equal(frequencies(x), torch.full((32,), 1 / 32, dtype=torch.float64))
    with pytest.raises(ValueError, match="zeros and ones"):
        frequencies(x * 0.9)  # which would be counted as zeros
    with pytest.raises(ValueError, match="1 to 20"):
        all_binary(21)


def test_total_probability_of_what_is_no_distribution():
    assert total_probability(lambda x: torch.zeros(len(x)), 4) == pytest.approx(16)


def test_dependence_finds_what_depends():
    weight = torch.tensor([[0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(dependence(lambda x: x @ weight.T, 2), weight != 0)


def test_sampling_p_value_tells_right_from_wrong():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(16, generator=generator, dtype=torch.float64)
    p[3] = 0
    p = p / p.sum()
    x = all_binary(4)

    def log_prob(x):
        return p.log()[(x.long() @ torch.tensor([8, 4, 2, 1]))]

    values = []
    for _ in range(200):
        drawn = torch.multinomial(p, 2000, replacement=True, generator=generator)
        values.append(sampling_p_value(x[drawn], log_prob))
    values = torch.tensor(values)
    # Under the density itself p-values are uniform: mean 1/2, within five standard errors.
    assert abs(values.mean().item() - 0.5) < 5 * math.sqrt(1 / 12 / 200)
    other = (p + p.flip(0)) / 2
    drawn = torch.multinomial(other, 2000, replacement=True, generator=generator)
    assert sampling_p_value(x[drawn], log_prob) < 1e-6
    drawn[0] = 3
    assert sampling_p_value(x[drawn], log_prob) == 0  # what cannot happen has happened
    with pytest.raises(ValueError, match="too few"):
        sampling_p_value(x[:1], log_prob)


def test_a_rare_vector_is_no_evidence_against_a_sound_sampler():
    """Rare vectors share a class that is expected often enough: one of them decides nothing."""
    probabilities = torch.tensor([0.6, 0.3, 0.1 - 1e-6, 1e-6], dtype=torch.float64)
    counts = torch.tensor([12_000, 6_000, 1_999, 1])  # the last was expected 0.02 times
    samples = all_binary(2).repeat_interleave(counts, 0)

    def log_prob(x):
        return probabilities.log()[(x @ torch.tensor([2.0, 1.0], dtype=torch.float64)).long()]

    assert sampling_p_value(samples, log_prob) > 0.5
    skewed = all_binary(2).repeat_interleave(torch.tensor([12_000, 6_000, 1_900, 100]), 0)
    # Pooled with the third vector, the fourth is not told from it: the price of a valid test.
    assert sampling_p_value(skewed, log_prob) > 0.5
    wrong = all_binary(2).repeat_interleave(torch.tensor([12_400, 5_600, 1_999, 1]), 0)
    assert sampling_p_value(wrong, log_prob) < 1e-6


def test_dependence_is_where_the_jacobian_is_not_zero():
    model = MADE(6, (20,), [3, 1, 5, 0, 2, 4]).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double()
    whole = dependence(model.logits, 6)
    points = torch.rand(16, 6, generator=generator, dtype=torch.float64)
    jacobians = [torch.autograd.functional.jacobian(model.logits, point) for point in points]
    assert torch.equal(whole, (torch.stack(jacobians) != 0).any(0))
    assert torch.equal(sees(model.logits, 6, 4), whole[4])
    assert whole[4].sum() == 5


def test_what_does_not_depend_on_its_input_sees_nothing():
    constant = torch.nn.Parameter(torch.ones(3).double())
    assert not dependence(lambda x: constant.expand(len(x), 3), 3).any()


def test_free_parameters_leaves_out_what_masks_hide():
    assert free_parameters(FVSBN(6, window=0)) == 6
    assert free_parameters(FVSBN(6, window=1)) == 11
    assert free_parameters(FVSBN(6)) == 6 + 15
    two_orders = torch.stack([torch.arange(6), torch.arange(6).flip(0)])
    # Between them the two orders use every direct connection but the diagonal.
    single, double = (free_parameters(MADE(6, (1,), o).direct) for o in (None, two_orders))
    assert (single, double) == (15, 30)


def test_a_mask_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(out, in\)"):
        MaskedLinear(torch.ones(3))


@pytest.mark.parametrize(
    "build",
    [
        lambda: roc(torch.ones(0), torch.ones(3)),
        lambda: roc(torch.tensor([math.nan, 1.0]), torch.ones(3)),
        lambda: auc(torch.tensor([math.nan, 1.0]), torch.ones(3)),
        lambda: auc(torch.rand(5, 1), torch.rand(5, 1)),
        lambda: Estimate.of(torch.ones(0)),
        lambda: Estimate.of(torch.ones(3, 2)),
    ],
)
def test_scores_that_mean_nothing_are_refused(build):
    with pytest.raises(ValueError, match="shape"):
        build()


def test_importance_sampling_refuses_grey_values_and_empty_chunks():
    model = Weighted(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="binarise"):
        importance_sampled_nll(model, torch.full((3, 1), 255, dtype=torch.uint8), 5)
    for options in ({"chunk": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            importance_sampled_nll(model, torch.zeros(3, 1), 5, **options)


def test_scoring_leaves_each_part_as_it_was():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2))
    model.train()
    model[1].eval()  # frozen, in a model that trains
    with scoring(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False]


def test_scoring_needs_no_parameters():
    model = torch.nn.BatchNorm1d(2, affine=False).double()
    with scoring(model) as like:
        assert like.dtype == torch.float64  # of its buffers
    with scoring(torch.nn.Identity()) as like:
        assert like.dtype == torch.get_default_dtype()


def test_scores_are_in_float32_where_convolutions_need_not_be():
    before = torch.backends.cudnn.allow_tf32
    with scoring(torch.nn.Identity()):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((2, 1), 200), "must be binary"),
        (torch.full((2, 1), 200, dtype=torch.uint8), "must be binary"),
        (torch.full((2, 1), math.nan), "finite"),
    ],
)
def test_importance_sampling_refuses_grey_values_and_nan(x, message):
    with pytest.raises(ValueError, match=message):
        importance_sampled_nll(Weighted(torch.zeros(3, 300)), x, 3)


def test_grey_values_have_no_probability_under_coins():
    """They would give a score, a little worse than the true one, of which nobody would doubt."""
    greys = torch.rand(4, 6)
    for model in (one_layer(6, 5, 2), two_layers(6, (5, 4), (3, 2))):
        assert model.binary
        with pytest.raises(ValueError, match="must be binary"):
            importance_sampled_nll(model, greys, 3)
        importance_sampled_nll(model, greys.round(), 3)
    assert not linear_vae(6, 2).binary
    importance_sampled_nll(linear_vae(6, 2), greys, 3)


def test_a_score_that_a_model_does_not_have_is_named():
    x = torch.ones(2, 6)
    with pytest.raises(TypeError, match=r"VAE has no log_prob.*importance_sampled_nll"):
        nll(one_layer(6, 5, 2), x)
    with pytest.raises(TypeError, match="FVSBN has no log_w: its likelihood is exact, take nll"):
        importance_sampled_nll(FVSBN(6), x, 3)


def test_importance_sampling_refuses_weights_of_another_shape():
    class Turned(Weighted):
        def log_w(self, x, samples):
            return super().log_w(x, samples).T

    with pytest.raises(ValueError, match=r"log_w gives \(5, 1\), not \(K, B\)"):
        importance_sampled_nll(Turned(torch.zeros(1, 5)), torch.arange(5.0)[:, None], 1)


def test_a_density_that_is_none_is_no_lack_of_samples():
    with pytest.raises(ValueError, match="not finite"):
        sampling_p_value(torch.zeros(10, 2), lambda x: torch.full((len(x),), math.nan))


def test_whole_numbers_in_a_buffer_are_no_precision():
    class Ordered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("order", torch.arange(2))

    with scoring(Ordered()) as like:
        assert like.dtype == torch.get_default_dtype()
