"""Divergences against closed forms, torch, scipy and quadrature; errors as large as they say."""

import math
from statistics import NormalDist

import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import distributions as td
from torch.distributions import Categorical, Exponential, Independent, Laplace, Normal

from companion.autoregressive import FVSBN
from companion.checks import all_binary
from companion.divergences import (
    cross_entropy,
    entropy,
    jensen_shannon,
    jensen_shannon_estimate,
    kl,
    kl_estimate,
    tabulate,
    total_variation,
    total_variation_estimate,
    wasserstein1,
    wasserstein1_estimate,
)

pytestmark = pytest.mark.usefixtures("float64")

GRID = torch.linspace(-25, 25, 100_001, dtype=torch.float64)
SUPPORT = torch.tensor([-2.0, -1.5, 0.0, 0.1, 4.0], dtype=torch.float64)
OF_TWO = [cross_entropy, kl, jensen_shannon, total_variation]
ESTIMATES = [kl_estimate, jensen_shannon_estimate, total_variation_estimate]


def tables(rng, *shape):
    return torch.rand(shape, generator=rng).mul(3).softmax(-1)


def mixture(*parts):
    """The mixture of normals of these weights, means and deviations."""
    weights, mu, sigma = torch.tensor(parts).T
    return td.MixtureSameFamily(Categorical(weights), Normal(mu, sigma))


TWO_MODES = (0.3, -2.0, 0.6), (0.7, 3.0, 0.6)


def on_grid(f, p, q, *support):
    return f(tabulate(p, GRID), tabulate(q, GRID), *support).item()


def near(estimate, truth):
    return abs(estimate.mean - truth) < 5 * estimate.standard_error


# --- exact --------------------------------------------------------------------------------------


def test_tables_agree_with_torch_and_scipy(rng):
    p, q = tables(rng, 3, 1, 5), tables(rng, 4, 5)
    torch.testing.assert_close(entropy(p), Categorical(p).entropy())
    torch.testing.assert_close(kl(p, q), td.kl_divergence(Categorical(p), Categorical(q)))
    torch.testing.assert_close(cross_entropy(p, q), entropy(p) + kl(p, q))
    m = (p + q) / 2
    torch.testing.assert_close(jensen_shannon(p, q), (kl(p, m) + kl(q, m)) / 2)
    events = all_binary(5) @ (p - q)[..., None]  # the largest gap over all 32 events
    torch.testing.assert_close(total_variation(p, q), events.amax((-2, -1)))
    scipy = stats.wasserstein_distance(SUPPORT, SUPPORT, p[2, 0], q[1])
    assert wasserstein1(p, q, SUPPORT)[2, 1].item() == pytest.approx(scipy, rel=1e-12)
    assert wasserstein1(p, q, SUPPORT).shape == (3, 4)


def test_relations(rng):
    p, q = tables(rng, 500, 5), tables(rng, 500, 5)
    for f in (jensen_shannon, total_variation, lambda p, q: wasserstein1(p, q, SUPPORT)):
        assert (f(p, q) > 0).all()
        assert (f(p, p) == 0).all()
        torch.testing.assert_close(f(p, q), f(q, p))
    assert (kl(p, q) > 0).all()
    assert (kl(p, p) == 0).all()
    assert ((kl(p, q) - kl(q, p)).abs() > 1e-3).any()
    assert (total_variation(p, q) < (kl(p, q) / 2).sqrt()).all()  # Pinsker
    assert (jensen_shannon(p, q) < math.log(2)).all()
    assert (entropy(p) < math.log(5)).all()


def test_zeros():
    p, q = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.25, 0.75])
    half = torch.tensor([0.5, 0.5, 0.0])
    assert str(entropy(p).item()) == str(cross_entropy(p, p).item()) == "0.0"  # not -0.0
    assert kl(p, half).item() == pytest.approx(math.log(2))
    assert kl(half, p) == cross_entropy(half, p) == kl(p, q) == math.inf
    assert jensen_shannon(p, q).item() == pytest.approx(math.log(2), abs=1e-15)
    assert total_variation(p, q) == 1
    assert wasserstein1(p, q, torch.tensor([0.0, 1.0, 2.0])) == 1.75
    least = torch.tensor([1.0, 5e-324])  # half of which is 0
    assert jensen_shannon(least, torch.tensor([1.0, 0.0])).item() == pytest.approx(0, abs=1e-300)


def test_gradients_of_positive_entries(rng):
    p, q = tables(rng, 2, 4), tables(rng, 2, 4).requires_grad_()
    for f in OF_TWO:  # moving along tables: what one entry gains another loses
        move = lambda e, f=f: f(p + torch.stack([e, -e, 0 * e, 0 * e], -1), q.detach())
        assert torch.autograd.gradcheck(move, torch.zeros(2, requires_grad=True))
    torch.testing.assert_close(torch.autograd.grad(kl(p, q).sum(), q)[0], -p / q)
    p = torch.tensor([0.2, 0.8, 0.0], requires_grad=True)
    q = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    for f in OF_TWO:
        for gradient in torch.autograd.grad(f(p, q), (p, q)):
            assert gradient[:2].isfinite().all()


@pytest.mark.parametrize("first", [[(1.0, 0.3, 1.0)], TWO_MODES])
def test_densities_agree_with_quadrature(first):
    second = [(1.0, -1.0, 2.0)]
    p, q = mixture(*first), mixture(*second)
    parts = [[(w, NormalDist(*law)) for w, *law in law_parts] for law_parts in (first, second)]
    f, g = (lambda x, of=of: sum(w * part.pdf(x) for w, part in of) for of in parts)
    F, G = (lambda x, of=of: sum(w * part.cdf(x) for w, part in of) for of in parts)
    m = lambda x: (f(x) + g(x)) / 2

    def integral(of):
        value = sum(quad(of, a, a + 5, limit=200, epsabs=1e-10)[0] for a in range(-25, 25, 5))
        return pytest.approx(value, abs=1e-6)

    relative = lambda x, f, g: f(x) * math.log(f(x) / g(x)) if f(x) else 0
    assert on_grid(kl, p, q) == integral(lambda x: relative(x, f, g))
    both = lambda x: (relative(x, f, m) + relative(x, g, m)) / 2
    assert on_grid(jensen_shannon, p, q) == integral(both)
    assert on_grid(total_variation, p, q) == integral(lambda x: abs(f(x) - g(x)) / 2)
    assert on_grid(wasserstein1, p, q, GRID) == integral(lambda x: abs(F(x) - G(x)))
    differential = entropy(tabulate(p, GRID)).item() + math.log(50 / 100_000)
    assert differential == integral(lambda x: -f(x) * math.log(f(x)) if f(x) else 0)


def test_densities_agree_with_torch():
    edge = (torch.arange(60_000) + 0.5) / 1000  # cells of width 0.001 from 0 on
    for p, q, points in (
        (Normal(0.3, 1.0), Normal(-1.0, 2.0), GRID),
        (Laplace(1.0, 0.5), Laplace(-1.0, 1.2), GRID),
        (Laplace(1.0, 0.5), Normal(-1.0, 1.2), GRID),
        (Exponential(1.0), Exponential(0.5), edge),
    ):
        tp, tq = tabulate(p, points), tabulate(q, points)
        width = points[1] - points[0]
        torch.testing.assert_close(kl(tp, tq), td.kl_divergence(p, q), atol=1e-6, rtol=0)
        torch.testing.assert_close(entropy(tp) + width.log(), p.entropy(), atol=1e-6, rtol=0)
    assert wasserstein1(tp, tq, points).item() == pytest.approx(1, abs=1e-6)  # of means 1 and 2


@pytest.mark.parametrize(("a", "jsd"), [(0.5, 0.11142), (1, 0.33683), (2, 0.63272)])
def test_shifted_normals(a, jsd):
    p, q = Normal(-a, 1.0), Normal(a, 1.0)
    exact = [on_grid(f, p, q) for f in (kl, jensen_shannon, total_variation)]
    assert exact == pytest.approx([2 * a * a, jsd, math.erf(a / math.sqrt(2))], abs=5e-6)
    assert on_grid(wasserstein1, p, q, GRID) == pytest.approx(2 * a, abs=1e-9)
    for f, value in zip(ESTIMATES, exact, strict=True):
        assert near(f(p, q), value)
    assert near(wasserstein1_estimate(p.sample((10_000,)), q.sample((8_000,))), 2 * a)


def test_single_precision():
    nearly = torch.tensor([0.5, 0.5 + 5e-6])
    entropy(nearly.float())
    with pytest.raises(ValueError, match=r"p sums to 1\.000005"):
        entropy(nearly)
    p, q = (Normal(torch.tensor(a, dtype=torch.float32), 1.0) for a in (-1, 1))
    grid = torch.linspace(-12, 12, 10_001, dtype=torch.float32)
    jsd = jensen_shannon(tabulate(p, grid), tabulate(q, grid))
    assert jsd.dtype == torch.float32
    assert jsd.item() == pytest.approx(0.33683, abs=2e-5)
    tp, tq = tabulate(p, 2 * grid), tabulate(q, 2 * grid)  # the tails pass through the least floats
    assert jensen_shannon(tp, tq).item() == pytest.approx(0.33683, abs=2e-5)
    assert kl(tp, tq) == math.inf  # as tabulate warns


# --- estimated ----------------------------------------------------------------------------------


def test_estimates_in_several_dimensions():
    p = td.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 2.0]]))
    q = Independent(Normal(torch.tensor([0.5, -0.5]), torch.tensor([1.2, 1.0])), 1)
    same = td.MultivariateNormal(q.mean, q.variance.diag())
    assert near(kl_estimate(p, q), td.kl_divergence(p, same).item())
    line = (torch.arange(600) + 0.5) / 30 - 10
    plane = torch.cartesian_prod(line, line)
    tp, tq = ((d.log_prob(plane).exp() / 30**2) for d in (p, q))
    assert near(jensen_shannon_estimate(p, q), jensen_shannon(tp, tq).item())
    assert near(total_variation_estimate(p, q), total_variation(tp, tq).item())


def test_estimates_of_models():
    models = [FVSBN(3).double(), FVSBN(3).double()]
    for model in models:
        torch.nn.init.normal_(model.layer.weight)
    p, q = (model.log_prob(all_binary(3)).exp() for model in models)
    for f, exact in zip(ESTIMATES, (kl, jensen_shannon, total_variation), strict=True):
        assert near(f(*models), exact(p, q).item())


def test_far_apart_and_excluded():
    p, q = Normal(-1e4, 1.0), Normal(1e4, 1.0)
    assert jensen_shannon_estimate(p, q) == (pytest.approx(math.log(2), abs=1e-12), 0)
    assert total_variation_estimate(p, q) == (1, 0)
    wide, narrow = (td.Uniform(0.0, b, validate_args=False) for b in (2.0, 1.0))
    estimate = kl_estimate(wide, narrow)
    assert estimate.mean == math.inf
    assert math.isnan(estimate.standard_error)
    assert kl_estimate(narrow, wide) == pytest.approx((math.log(2), 0))
    assert near(jensen_shannon_estimate(wide, narrow), 0.75 * math.log(4 / 3))
    assert near(total_variation_estimate(wide, narrow), 0.5)


def sampled_w1(p, q, samples):
    return wasserstein1_estimate(p.sample((samples,)), q.sample((samples // 6,)))


@pytest.mark.parametrize("case", ["kl", "jsd", "tv", "w1, one sign", "w1, two signs"])
def test_standard_errors_are_the_spread(case):
    # "tv": one sample of p is as good as all, so that pooled samples seem 2.3 times as uncertain.
    f, p, q, samples, truth = {
        "kl": (kl_estimate, Normal(0.0, 1.0), Normal(1.0, 1.5), 101, kl),
        "jsd": (jensen_shannon_estimate, Normal(0.0, 0.5), Laplace(1.0, 1.5), 101, jensen_shannon),
        "tv": (
            total_variation_estimate,
            Categorical(torch.tensor([1.0, 0.0])),
            Categorical(torch.tensor([0.1, 0.9])),
            *(201, 0.9),
        ),
        "w1, one sign": (sampled_w1, Exponential(0.4), Normal(30.0, 1.0), 300, 27.5),
        "w1, two signs": (sampled_w1, Normal(0.0, 0.5), mixture(*TWO_MODES), 600, wasserstein1),
    }[case]
    if callable(truth):
        truth = on_grid(truth, p, q, *([GRID] if truth is wasserstein1 else []))
    runs = torch.tensor([f(p, q, samples) for _ in range(2000)])
    mean, spread = runs[:, 0].mean().item(), runs[:, 0].std().item()
    assert runs[:, 1].square().mean().sqrt().item() == pytest.approx(
        spread, rel=0.1
    )  # it is known to 1.6 %
    assert mean == pytest.approx(truth, abs=5 * spread / math.sqrt(2000))


def test_wasserstein_of_samples(rng):
    for n, m in ((1, 1), (7, 7), (40, 13), (1000, 300)):
        x, y = torch.randn(n, generator=rng), torch.rand(m, generator=rng) * 3
        for a, b in ((x, y), (x.mul(3).round(), y.round())):  # without ties, and with
            scipy = stats.wasserstein_distance(a, b)
            assert wasserstein1_estimate(a, b).mean == pytest.approx(scipy, abs=1e-12)
    x = torch.tensor([0.0, 0.0, 2.0, 5.0])
    assert wasserstein1_estimate(x, x.flip(0)) == (0, 0)
    # F − G is 1/2 on (0, 1) and −1/2 on (1, 2), so that f is 0, −1, 0 at 0, 1, 2.
    assert wasserstein1_estimate(torch.tensor([0.0, 2.0]), torch.ones(3)) == (1, 0)
    # The bias that the docstring states.
    biased = [wasserstein1_estimate(*torch.randn(2, 400, generator=rng)).mean for _ in range(200)]
    assert sum(biased) / 200 == pytest.approx(1.82 / math.sqrt(400), rel=0.1)


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([0.5, 0.7, -0.2], "has negative entries: give probabilities"),
        ([0.5, 0.3, 0.19999], r"sums to 0.99999 on its last axis.*divide it by its sum"),
        ([[0.5, 0.3, 0.2], [0.5, 0.5, math.nan]], "sums to nan"),
    ],
)
def test_what_is_no_table(table, message):
    wrong, right = torch.tensor(table), torch.tensor([0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="p " + message):
        entropy(wrong)
    for f in (*OF_TWO, lambda p, q: wasserstein1(p, q, torch.arange(3))):
        with pytest.raises(ValueError, match="p " + message):
            f(wrong, right)
        with pytest.raises(ValueError, match="q " + message):
            f(right, wrong)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_tables_of_integers_are_refused_lest_differences_wrap(dtype):
    p, q = torch.eye(3, dtype=dtype)[:2]
    for f in (*OF_TWO, lambda p, q: wasserstein1(p, q, torch.arange(3))):
        with pytest.raises(ValueError, match=f"p holds {dtype}: give probabilities, as floats"):
            f(p, q)
        with pytest.raises(ValueError, match=f"q holds {dtype}: give probabilities, as floats"):
            f(p.float(), q)


def test_a_support_of_bytes_does_not_wrap():
    p, q = torch.eye(3)[[0, 2]]
    assert wasserstein1(p, q, torch.tensor([1, 2, 4], dtype=torch.uint8)) == 3
    with pytest.raises(ValueError, match="strictly increasing"):
        wasserstein1(p, q, torch.tensor([2, 1, 0], dtype=torch.uint8))


def test_points_are_floats():
    with pytest.raises(ValueError, match=r"points must be floats, not torch\.int64"):
        tabulate(Normal(0.0, 1.0), torch.arange(-10, 11))


def test_tables_that_do_not_fit():
    one, two, three = torch.ones(1), torch.ones(2) / 2, torch.ones(3, 2) / 2
    for p, q in ((one, two), (three, one), (three, three[:2])):
        for f in (*OF_TWO, lambda p, q: wasserstein1(p, q, torch.arange(2))):
            with pytest.raises(ValueError, match=r"shapes \[\(.*last axes must be equal"):
                f(p, q)


@pytest.mark.parametrize("support", [[0, 1, 1], [0, 2, 1], [0, 1], [0, math.nan, 1]])
def test_support_must_increase(support):
    p = torch.tensor([0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match=r"strictly increasing, of shape \(3,\)"):
        wasserstein1(p, p, torch.tensor(support))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.linspace(-1, 8, 1000), r"misses 0\.16 of the mass: make it wider or finer"),
        (torch.linspace(-8, 8, 5), r"misses -0\.6 of the mass"),
        (GRID.flip(0), "increasing and equally spaced"),
        (GRID.sign() * GRID.abs() ** 1.001, "equally spaced"),
        (GRID * math.nan, "equally spaced"),
        (GRID[:4].reshape(2, 2), r"shape \(n,\), n at least 2, not \(2, 2\)"),
        (GRID[:1], r"not \(1,\)"),
    ],
)
def test_grids_that_do_not_fit(points, message):
    with pytest.raises(ValueError, match=message):
        tabulate(Normal(0.0, 1.0), points.double())


def test_estimates_refuse_what_would_average_over_the_event():
    sound, loose = Independent(Normal(torch.zeros(3), 1.0), 1), Normal(torch.zeros(3), 1.0)
    for f in ESTIMATES:
        for p, q in ((sound, loose), (loose, sound), (loose, loose)):
            with pytest.raises(ValueError, match=r"not .*\(\d+, 3\).*: sum .*Independent"):
                f(p, q)
    for x in (torch.zeros(0), torch.zeros(2, 1)):
        for pair in ((x, torch.zeros(3)), (torch.zeros(3), x)):
            with pytest.raises(ValueError, match=r"shapes \(n,\) and \(m,\), not empty"):
                wasserstein1_estimate(*pair)


def test_rounding_makes_no_jensen_shannon_negative():
    p = torch.rand(300, 1000, generator=torch.Generator().manual_seed(0)) + 0.1
    q = p * (1 + 1e-4 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    p, q = (table / table.sum(-1, keepdim=True) for table in (p, q))
    assert (jensen_shannon(p, q) >= 0).all()


def test_a_fine_grid_in_float32_is_even_enough():
    points = torch.linspace(-10, 10, 200_001, dtype=torch.float32)
    assert tabulate(Normal(0.0, 1.0), points).sum() == pytest.approx(1, abs=1e-4)
    uneven = torch.linspace(-10, 10, 2001, dtype=torch.float32)
    uneven[7] += 0.002
    with pytest.raises(ValueError, match="equally spaced"):
        tabulate(Normal(0.0, 1.0), uneven)


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-6])
def test_jensen_shannon_keeps_its_digits_where_tables_are_alike(size, rng):
    """Against float64, and there against the series of the divergence, chi squared over 8."""
    p = tables(rng, 100)
    q = p * (1 + size * torch.randn(100, generator=rng))
    p, q = p.float(), (q / q.sum()).float()
    exact = jensen_shannon(p.double(), q.double()).item()
    assert jensen_shannon(p, q).item() == pytest.approx(exact, rel=1e-5)
    series = ((p.double() - q.double()).square() / (p.double() + q.double())).sum().item() / 4
    assert exact == pytest.approx(series, rel=5 * size**2 + 1e-9)


def test_jensen_shannon_of_unequal_and_of_excluded_entries():
    p, q = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.25, 0.75], requires_grad=True)
    (gradient,) = torch.autograd.grad(jensen_shannon(p, q), q)
    torch.testing.assert_close(gradient[1:], torch.full((2,), math.log(2) / 2))
    for tiny in (1e-10, 1e-30, 1e-45):  # beside a half, its relative difference rounds to 1
        p, q = torch.tensor([1 - tiny, tiny]), torch.tensor([0.5, 0.5])
        exact = jensen_shannon(p, q).item()
        assert jensen_shannon(p.float(), q.float()).item() == pytest.approx(exact, rel=1e-6)


def test_points_that_float32_cannot_tell_apart_are_no_grid():
    with pytest.raises(ValueError, match="increasing"):
        tabulate(Normal(1e6, 0.1), torch.linspace(1e6 - 1, 1e6 + 1, 1_000_001, dtype=torch.float32))
