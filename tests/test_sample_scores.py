"""Scores of samples against closed forms, torch, scipy and sets whose answers are known."""

import math

import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from companion import data
from companion.sample_scores import (
    Nearest,
    best_bandwidth,
    frechet_distance,
    holes,
    kmeans,
    mode_coverage,
    nearest_neighbours,
    parzen_log_likelihood,
    precision_recall,
)

LINE = torch.arange(8.0)[:, None]  # neighbours at exactly 1: ties are the rule


def normal(rng, *shape):
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def whitened(rng, n, d):
    """A sample whose mean is exactly 0 and whose covariance (by N − 1) is exactly the identity."""
    x = normal(rng, n, d)
    x = x - x.mean(0)
    return torch.linalg.qr(x).Q * math.sqrt(n - 1)


def rotation(rng, d):
    return torch.linalg.qr(normal(rng, d, d)).Q


@pytest.fixture(scope="module")
def digits():
    sets = data.mnist()
    return [
        split.images[:n].double() / 255 for split, n in zip(sets, (2000, 300, 300), strict=True)
    ]


# --- neighbours -----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_the_nearest_is_found_in_chunks_of_any_size(rng, chunk, dtype):
    x, y = (torch.randint(256, (n, 4, 7), generator=rng) for n in (40, 60))
    scale = 1 if dtype == torch.uint8 else 255
    x, y = (x / scale).to(dtype), (y / scale).to(dtype)
    every = (x[:, None].double() - y.double()).flatten(2).square().sum(2).sqrt()
    found = nearest_neighbours(x, y, chunk=chunk)
    assert torch.equal(found.indices, every.argmin(1))
    torch.testing.assert_close(found.distances, every.amin(1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [1, 255])
def test_copies_are_at_exactly_0(scale):
    images = data.mnist().train.images[:300]
    images = images if scale == 1 else images / scale
    order = torch.randperm(300)
    found = nearest_neighbours(images[order], images)
    assert torch.equal(found.indices, order)
    assert (found.distances == 0).all()


def test_integers_are_exact_however_large_the_image():
    black, white = torch.zeros(1, 784, dtype=torch.uint8), torch.full((3, 784), 255).byte()
    white[1, 0] = 254  # nearer to black by 509 in 50,979,600: float32 does not see it in a product
    assert nearest_neighbours(black, white) == (
        pytest.approx(math.sqrt(784 * 255**2 - 509), rel=1e-15),
        1,
    )
    white[1, 0], white[0, 5] = 255, 254  # uint8 arithmetic would wrap around
    assert nearest_neighbours(white[2:], white[:1]).distances == 1


def test_a_small_distance_survives_a_large_norm():
    far = torch.full((1, 50), 1e3, dtype=torch.float64)
    assert nearest_neighbours(far + 1e-9, far).distances.item() == pytest.approx(
        1e-9 * math.sqrt(50), rel=1e-3
    )


def test_kmeans_finds_clusters_that_are_apart(rng):
    means = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)) * 10
    x = (means + normal(rng, 40, 9, 2) * 0.1).flatten(0, 1)
    for seed in range(5):
        centres = kmeans(x, 9, seed)
        order = nearest_neighbours(means.double(), centres).indices
        torch.testing.assert_close(centres[order], x.view(40, 9, 2).mean(0), rtol=1e-12, atol=0)
    assert torch.equal(kmeans(x, 9, 3, chunk=11), kmeans(x, 9, 3))
    assert not torch.equal(kmeans(x, 9, 3), kmeans(x, 9, 4))  # the order, at least


def test_kmeans_ends_where_centres_are_the_means_of_what_is_nearest(digits):
    x = digits[0][:400]
    centres = kmeans(x, 12, seed=0)
    assert centres.shape == (12, 28, 28)
    assert centres.dtype == torch.float64
    owner = nearest_neighbours(x, centres).indices
    assert owner.unique().tolist() == list(range(12))
    for k in range(12):
        torch.testing.assert_close(centres[k], x[owner == k].mean(0))
    costs = [
        nearest_neighbours(x, kmeans(x, 12, 0, iterations=n)).distances.norm().item()
        for n in range(6)
    ]
    assert costs == sorted(set(costs), reverse=True)


def test_kmeans_starts_far_apart(rng):
    """Of a heap of 1000 and one far example, both are drawn; uniformly, 1 time in 500."""
    x = torch.cat([normal(rng, 1000, 2), torch.full((1, 2), 1e4)])
    for seed in range(10):
        start = kmeans(x, 2, seed, iterations=0)
        assert start.amax() == 1e4
        assert (start[:, None] == x).all(2).any(1).all()  # examples, not means
        assert start.amin() < 10
    # The second of three examples on a line is drawn by squared distance: 1 against 9.
    line = torch.tensor([[0.0], [1.0], [3.0]])
    pairs = [kmeans(line, 2, seed, iterations=0)[:, 0].tolist() for seed in range(600)]
    after_0 = [second for first, second in pairs if first == 0]
    assert stats.binomtest(after_0.count(1.0), len(after_0), 0.1).pvalue > 1e-3


def test_kmeans_of_few_different_examples():
    x = LINE[[0, 0, 3, 3, 3, 5]]
    assert kmeans(x, 3, 0).sort(0).values.flatten().tolist() == [0, 3, 5]
    assert kmeans(x, 1, 0).item() == pytest.approx(14 / 6)
    assert kmeans(x.byte(), 1, 0).item() == pytest.approx(14 / 6)  # means of integers are none
    with pytest.raises(ValueError, match="x holds 3 different examples, too few for k = 4"):
        kmeans(x, 4, 0)
    copies = (data.mnist().test.images[:3] / 255).repeat(4, 1, 1)
    with pytest.raises(ValueError, match="holds 3 different"):
        kmeans(copies, 4, 0)
    with pytest.raises(ValueError, match="at least 1"):
        kmeans(x, 0, 0)


def test_a_centre_without_examples_stays_where_it_is(monkeypatch):
    """The second centre is handed no examples."""
    x = torch.tensor([[2.0], [9.0], [10.0], [11.0], [18.0]])
    fixed = torch.tensor([[9.0], [99.0], [11.0]], dtype=torch.float64)
    monkeypatch.setattr("companion.sample_scores._spread_out", lambda *_: [1, 2, 3])
    monkeypatch.setattr(
        "companion.sample_scores.nearest_neighbours",
        lambda x, *_, **__: nearest_neighbours(x, fixed),
    )
    centres = kmeans(x, 3, 0).flatten()
    assert centres[1] == 10
    assert sorted(centres[[0, 2]].tolist()) in ([7.0, 14.5], [5.5, 13.0])  # 10 is a tie


# --- known modes ----------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [data.ring_of_gaussians, data.grid_of_gaussians])
def test_a_perfect_generator_covers_all_modes_at_its_share(mixture):
    mixture = mixture()
    centres = mixture.component_distribution.mean
    spread = mixture.component_distribution.stddev[0, 0].item()
    score = mode_coverage(mixture.sample((20_000,)), centres, spread)
    share = 1 - math.exp(-4.5)
    assert score.modes == len(centres)
    assert abs(score.high_quality - share) < 4 * math.sqrt(share * (1 - share) / 20_000)


@pytest.mark.parametrize(("d", "within"), [(1, 3.0), (2, 2.0), (5, 3.0)])
def test_a_perfect_generator_in_other_dimensions(rng, d, within):
    score = mode_coverage(2 * normal(rng, 20_000, d), torch.zeros(1, d), 2.0, within=within)
    assert score.modes == 1
    assert score.high_quality == pytest.approx(stats.chi2.cdf(within**2, d), abs=0.014)


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_modes_are_counted_by_high_quality_samples_alone(chunk):
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    off = [[0.0, 0.0], [0.0, 3.0], [0.0, 3.01], [7.0, 0.0], [0.0, 6.9]]
    # At a centre, on the circle, beyond it, on the second's, and beyond the third's.
    assert mode_coverage(torch.tensor(off), centres, 1.0, chunk=chunk) == (2, 3 / 5)
    assert mode_coverage(torch.tensor(off), centres, 1.1, chunk=chunk) == (3, 1)
    assert mode_coverage(torch.tensor(off[2:3]), centres, 1.0) == (0, 0)
    assert mode_coverage(torch.tensor(off), centres, 0.5, within=2.0) == (1, 1 / 5)


def test_a_sample_near_two_modes_counts_for_the_nearest():
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    assert mode_coverage(torch.tensor([[1.9, 0.0]]), centres, 1.0) == (1, 1)
    assert mode_coverage(torch.tensor([[1.9, 0.0], [2.1, 0.0]]), centres, 1.0) == (2, 1)


def test_dropped_modes_are_missed_and_points_at_the_centres_are_not():
    ring = data.ring_of_gaussians()
    centres = ring.component_distribution.mean
    for kept in (1, 5, 8):
        assert mode_coverage(centres[:kept], centres, 0.01) == (kept, 1)  # what the score hides
    everything = torch.cat([centres[:3], torch.zeros(1, 2)])  # and one between all modes
    assert mode_coverage(everything, centres, 0.01) == (3, 3 / 4)


# --- Parzen windows -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_parzen_windows_are_a_mixture_of_normals(rng, dtype, chunk):
    samples, x = normal(rng, 30, 3, 4).to(dtype), normal(rng, 20, 3, 4).to(dtype)
    for bandwidth in (0.05, 0.3, 2.0):
        components = Independent(Normal(samples.double(), bandwidth), 2)
        mixture = MixtureSameFamily(Categorical(torch.ones(30).double()), components)
        each = mixture.log_prob(x.double())
        estimate = parzen_log_likelihood(samples, x, bandwidth, chunk=chunk)
        assert estimate.mean == pytest.approx(each.mean().item(), rel=1e-12)
        error = each.std().item() / math.sqrt(20)
        assert estimate.standard_error == pytest.approx(error, rel=1e-11)


def test_parzen_does_not_underflow_on_images(digits):
    samples, x = digits[0][:5], digits[1][:3]
    h = 0.01  # exponents of −500,000
    squares = nearest_neighbours(x, samples).distances.square()  # of five, one decides
    each = -squares / (2 * h**2) - math.log(5) - 784 * math.log(h * math.sqrt(2 * math.pi))
    assert parzen_log_likelihood(samples, x, h).mean == pytest.approx(each.mean().item())


def test_parzen_follows_scale_and_order(rng):
    samples, x = normal(rng, 30, 4), normal(rng, 20, 4)
    estimate = parzen_log_likelihood(samples, x, 0.3)
    moved = parzen_log_likelihood(samples.flip(0) * 10 + 3, x.flip(0) * 10 + 3, 3.0)
    assert moved.mean == pytest.approx(estimate.mean - 4 * math.log(10), rel=1e-12)
    twice = parzen_log_likelihood(samples.repeat(2, 1), x, 0.3)
    assert twice == pytest.approx(estimate, rel=1e-12)


def test_the_best_bandwidth_is_the_standard_deviation_round_a_single_sample(rng):
    sample, x = torch.zeros(1, 5).double(), normal(rng, 500, 5) * 0.7
    h = x.square().mean().sqrt().item()  # where the likelihood of one normal is highest
    candidates = [h * 1.05**n for n in (-2, 1, 0, -1, 2)]
    assert best_bandwidth(sample, x, candidates) == h
    assert best_bandwidth(sample, x, (c for c in candidates[:2])) == candidates[1]
    scores = [parzen_log_likelihood(sample, x, c).mean for c in candidates]
    assert scores.index(max(scores)) == 2


def test_the_bandwidth_is_chosen_by_the_mean_over_all_of_the_validation_data(rng):
    samples, x = normal(rng, 50, 2), normal(rng, 70, 2)
    candidates = [0.1, 0.2, 0.4, 0.8, 1.6]
    scores = [parzen_log_likelihood(samples, x, c).mean for c in candidates]
    best = candidates[scores.index(max(scores))]
    assert candidates[0] < best < candidates[-1]
    for chunk in (1, 9, 256):
        assert best_bandwidth(samples, x, candidates, chunk=chunk) == best


def test_centres_of_k_means_beat_real_digits(digits):
    """As many as the real ones: the score prefers what no one would call a sample."""
    train, validation, test = digits
    candidates = [0.1, 0.14, 0.2, 0.28, 0.4]
    scores = {}
    for name, samples in (("real", train[:100]), ("centres", kmeans(train, 100, 0, iterations=5))):
        h = best_bandwidth(samples, validation, candidates)
        assert candidates[0] < h < candidates[-1]
        scores[name] = parzen_log_likelihood(samples, test, h)
    margin = scores["centres"].mean - scores["real"].mean
    assert margin > 5 * math.hypot(*(score.standard_error for score in scores.values()))


# --- Fréchet distance -----------------------------------------------------------------------


def test_frechet_of_axis_aligned_normals_is_the_sum_over_the_axes(rng):
    """Per axis (μ − ν)² + (σ − τ)², whatever the common rotation and shift."""
    mean = torch.tensor([1.0, -2.0, 0.0, 3.0]).double()
    sigma, tau = torch.tensor([[1.0, 2.0, 0.5, 0.0], [1.5, 0.1, 0.0, 4.0]]).double()
    a, b = whitened(rng, 50, 4) * sigma, whitened(rng, 70, 4) * tau + mean
    truth = (mean.square() + (sigma - tau).square()).sum().item()
    for turn in (torch.eye(4).double(), rotation(rng, 4)):
        for shift in (0, 100):
            forth = frechet_distance(a @ turn + shift, b @ turn + shift)
            back = frechet_distance(b @ turn + shift, a @ turn + shift)
            assert forth.squared == pytest.approx(truth, rel=1e-12)
            assert back.squared == pytest.approx(truth, rel=1e-12)
            assert (forth.sizes, back.sizes) == ((50, 70), (70, 50))


def test_frechet_of_covariances_that_do_not_commute(rng):
    """In two dimensions tr √(AB) = √(tr AB + 2 √(det A det B))."""
    factors = normal(rng, 2, 2, 2)
    a, b = (whitened(rng, 40, 2) @ f for f in factors)
    s, t = (f.T @ f for f in factors)
    assert not torch.allclose(s @ t, t @ s)
    cross = torch.sqrt((s @ t).trace() + 2 * torch.sqrt(s.det() * t.det()))
    truth = s.trace() + t.trace() - 2 * cross
    assert frechet_distance(a, b).squared == pytest.approx(truth.item(), rel=1e-12)


def test_frechet_agrees_with_the_formula_of_the_source(rng):
    from scipy.linalg import sqrtm

    a, b = normal(rng, 200, 9) @ normal(rng, 9, 9), normal(rng, 150, 9) @ normal(rng, 9, 9) + 1
    s, t = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(sqrtm((s @ t).numpy()).real)
    truth = (a.mean(0) - b.mean(0)).square().sum() + (s + t - 2 * root).trace()
    assert frechet_distance(a, b).squared == pytest.approx(truth.item(), rel=1e-9)
    a, b = a.float(), b.float()
    as_images = frechet_distance(a.view(200, 3, 3), b.view(150, 3, 3)).squared
    assert as_images == pytest.approx(frechet_distance(a.double(), b.double()).squared, rel=1e-12)
    assert as_images == pytest.approx(truth.item(), rel=1e-5)


def test_frechet_of_rank_one_normals(rng):
    """Lines with directions u, v and spreads s, t: s² + t² − 2 s t |u·v|."""
    line = whitened(rng, 30, 1)
    u, v = torch.nn.functional.normalize(normal(rng, 2, 40), dim=1)
    for cosine, other in ((1.0, u), ((u @ v).abs().item(), v), (1.0, -u)):
        value = frechet_distance(2 * line * u, 3 * line * other).squared
        assert value == pytest.approx(4 + 9 - 12 * cosine, rel=1e-12)


def test_frechet_of_fewer_examples_than_features(rng):
    a = normal(rng, 5, 64)
    assert frechet_distance(a, a).squared == pytest.approx(0, abs=1e-12)
    for x in normal(rng, 20, 5, 64):  # rounding falls to either side
        assert frechet_distance(x, x).squared >= 0
    assert frechet_distance(a, a.flip(0) + 1).squared == pytest.approx(64, rel=1e-12)
    point = torch.zeros(2, 64).double()  # no covariance at all
    truth = a.mean(0).square().sum() + a.var(0).sum()
    assert frechet_distance(a, point).squared == pytest.approx(truth.item(), rel=1e-12)
    with pytest.raises(ValueError, match="two examples, not 5 and 1"):
        frechet_distance(a, a[:1])


def test_frechet_of_one_distribution_falls_with_n_and_scales_with_the_square(rng):
    a, b = normal(rng, 2, 4000, 10)
    values = [frechet_distance(a[:n], b[:n]).squared for n in (40, 400, 4000)]
    assert values[0] > 5 * values[1] > 25 * values[2] > 0
    assert frechet_distance(3 * a, 3 * b).squared == pytest.approx(9 * values[2], rel=1e-9)


def test_frechet_sees_neither_shape_nor_more_than_two_moments(rng):
    """Two points, ±1, and a normal: as far apart as two normals would be."""
    points = torch.tensor([-1.0, 1.0]).repeat(500)[:, None].double() * math.sqrt(999 / 1000)
    assert frechet_distance(points, whitened(rng, 1000, 1)).squared == pytest.approx(0, abs=1e-12)


# --- precision and recall -------------------------------------------------------------------


def test_the_same_set_and_sets_apart(rng):
    x = normal(rng, 100, 5)
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x.flip(0)) == (1, 1)
    assert precision_recall(x, x[:60] + 100) == (0, 0)


def test_a_dropped_mode_halves_recall_and_leaves_precision(rng):
    modes = torch.cat([LINE, LINE + 100])
    assert precision_recall(modes, LINE + 0.5) == (1, 0.5)
    assert precision_recall(LINE + 0.5, modes) == (0.5, 1)  # the roles exchanged
    real = torch.cat([normal(rng, 500, 2), normal(rng, 500, 2) + 50])
    precision, recall = precision_recall(real, normal(rng, 500, 2))
    assert precision > 0.9
    assert 0.45 < recall <= 0.5


def test_shifted_samples_lose_precision():
    # The balls of 0..7 with k = 1 have radius 1 and cover −1 to 8, ends included.
    for shift, share in ((0.5, 1.0), (1.0, 1.0), (1.5, 7 / 8), (3.0, 6 / 8), (8.5, 0.0)):
        fake = LINE + shift
        assert precision_recall(LINE, fake, k=1) == (share, share)
    spread = torch.cat([LINE, LINE + 50])  # half of it is noise far off
    assert precision_recall(LINE, spread, k=1) == (0.5, 1)


@pytest.mark.parametrize(("k", "reach"), [(1, 1), (2, 2), (3, 3), (7, 7)])
def test_balls_reach_to_the_kth_neighbour_which_is_not_oneself(k, reach):
    """At the end of the line the k-th neighbour is k away."""
    for distance, inside in ((reach, 1), (reach + 0.01, 0)):
        fake = torch.full((8, 1), 7.0 + distance)
        assert precision_recall(LINE, fake, k=k).precision == inside


def test_ties_and_copies_count_however_odd_their_floats():
    """Ten copies have balls of radius 0, and hold their own."""
    point = torch.linspace(0.1, 0.9, 784).expand(10, 784)
    other = torch.linspace(0.9, 0.2, 784).expand(6, 784)
    assert precision_recall(point, torch.cat([point[:6], other])) == (0.5, 1)
    # Steps so fine, and so far off, that the squares of the coordinates would be rounded.
    x, step = 1e3 + LINE.double() * 2**-20, 2**-20
    for shift, share in ((1, 1), (2, 7 / 8), (8, 1 / 8), (9, 0)):
        assert precision_recall(x, x + shift * step, k=1) == (share, share)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_precision_and_recall_are_those_of_the_definition(rng, k, chunk):
    real, fake = normal(rng, 40, 3), normal(rng, 60, 3) * 1.3 + 1.5

    def share(points, by):
        hits = 0
        for x in points:
            radii = [sorted((y - z).norm().item() for z in by)[k] for y in by]
            hits += any((x - y).norm().item() <= r for y, r in zip(by, radii, strict=True))
        return hits / len(points)

    if chunk == 40:  # slow, and the same for every chunk
        assert precision_recall(real, fake, k, chunk=chunk) == (
            share(fake, real),
            share(real, fake),
        )
    score = precision_recall(real, fake, k, chunk=chunk)
    assert score == precision_recall(real, fake, k)
    assert score == precision_recall(fake, real, k)[::-1]
    turn = rotation(rng, 3)
    assert score == precision_recall(real @ turn * 9 + 1, fake @ turn * 9 + 1, k)
    assert 0 < score.precision < 1
    assert 0 < score.recall < 1


@pytest.mark.parametrize("k", [0, 4, 9])
def test_k_must_leave_a_neighbour(k):
    with pytest.raises(ValueError, match="sizes, 8 and 4"):
        precision_recall(LINE, LINE[:4], k)


# --- what all refuse ------------------------------------------------------------------------

PAIRS = [
    nearest_neighbours,
    lambda a, b: mode_coverage(a, b, 1.0),
    lambda a, b: parzen_log_likelihood(a, b, 1.0),
    lambda a, b: best_bandwidth(a, b, [1.0]),
    frechet_distance,
    precision_recall,
]


@pytest.mark.parametrize("score", PAIRS)
def test_sets_that_do_not_compare_are_refused(score):
    for other, message in [
        (torch.zeros(9, 2), r"shapes \(.,\) and \(.,\) do not compare"),
        (torch.full((9, 1), 2, dtype=torch.uint8), "divide grey values by 255|needs floats"),
        (torch.zeros(0, 1), r"not empty; got \(0, 1\)"),
        (torch.zeros(9), "shape"),
        (LINE.log(), "holds nan or infinite"),
        (LINE * math.nan, "holds nan or infinite"),
    ]:
        for pair in ((LINE, other), (other, LINE)):
            with pytest.raises(ValueError, match=message):
                score(*pair)
    with pytest.raises(ValueError, match=r"has shape \(N, \*event\)"):
        score(LINE[:, 0], LINE[:, 0])


def test_black_and_white_is_of_one_scale_in_any_type():
    points = torch.tensor([[0, 1], [1, 1]])
    nearest = nearest_neighbours(points.float(), points.byte())
    assert (nearest.distances.tolist(), nearest.indices.tolist()) == ([0, 0], [0, 1])


@pytest.mark.parametrize("score", PAIRS)
def test_no_score_keeps_the_graph_of_its_samples(score):
    samples = LINE.clone().requires_grad_()
    result = score(samples, LINE + 0.5)
    for part in result if isinstance(result, tuple) else (result,):
        assert not getattr(part, "requires_grad", False)


CHUNKED = [
    nearest_neighbours,
    lambda a, b, **chunk: mode_coverage(a, b, 1.0, **chunk),
    lambda a, b, **chunk: parzen_log_likelihood(a, b, 1.0, **chunk),
    lambda a, b, **chunk: best_bandwidth(a, b, [1.0], **chunk),
    precision_recall,
    lambda a, b, **chunk: kmeans(a, 2, 0, **chunk),
]


@pytest.mark.parametrize("score", [*CHUNKED, frechet_distance])
def test_distances_are_taken_in_parts_and_without_a_gradient(rng, score, monkeypatch):
    """Else memory would grow with the product of both sets, or with a graph of all distances."""
    blocks, gradients = [], []
    cdist, qr = torch.cdist, torch.linalg.qr

    def noted_cdist(x, y, **settings):
        blocks.append((len(x), len(y)))
        gradients.append(torch.is_grad_enabled())
        return cdist(x, y, **settings)

    def noted_qr(x, **settings):
        gradients.append(torch.is_grad_enabled())
        return qr(x, **settings)

    monkeypatch.setattr(torch, "cdist", noted_cdist)
    monkeypatch.setattr(torch.linalg, "qr", noted_qr)
    a, b = normal(rng, 2, 600, 2).requires_grad_()
    score(a, b)
    assert gradients
    assert not any(gradients)
    if score is not frechet_distance:
        rows = lambda: {x for x, y in blocks if y > 1}  # one column: the start of k-means
        assert rows() == {256, 600 - 2 * 256}
        blocks.clear()
        score(a, b, chunk=200)
        assert rows() == {200}


def test_what_is_customary_is_the_default(rng, monkeypatch):
    real, fake = normal(rng, 40, 2), normal(rng, 40, 2) + 1
    scores = [precision_recall(real, fake, k) for k in (2, 3, 4)]
    assert len(set(scores)) == 3
    assert precision_recall(real, fake) == scores[1]
    assert mode_coverage(torch.tensor([[3.0], [3.001]]), torch.zeros(1, 1), 1.0) == (1, 0.5)
    turns = []

    def restless(x, centres, **_):  # examples that change their centre every time
        turns.append(1)
        return Nearest(torch.zeros(len(x)), torch.arange(len(x)).add(len(turns)) % 2)

    monkeypatch.setattr("companion.sample_scores.nearest_neighbours", restless)
    kmeans(LINE, 2, 0)
    assert len(turns) == 100


def test_parameters_that_mean_nothing_are_refused():
    for number in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="bandwidth is positive"):
            parzen_log_likelihood(LINE, LINE, number)
        with pytest.raises(ValueError, match="bandwidth is positive"):
            best_bandwidth(LINE, LINE, [1.0, number])
        with pytest.raises(ValueError, match="spread is positive"):
            mode_coverage(LINE, LINE, number)
        with pytest.raises(ValueError, match="within is positive"):
            mode_coverage(LINE, LINE, 1.0, within=number)
    with pytest.raises(ValueError, match="no bandwidth"):
        best_bandwidth(LINE, LINE, [])
    with pytest.raises(ValueError, match="divide images by 255"):
        parzen_log_likelihood(LINE.byte(), LINE.byte(), 1.0)


# --- holes --------------------------------------------------------------------------------------


def test_draws_of_the_codes_own_distribution_are_as_lonely_as_the_codes():
    torch.manual_seed(0)
    codes, draws = torch.randn(4000, 2), torch.randn(4000, 2)
    assert holes(codes, draws) == pytest.approx(0.05, abs=0.015)
    assert holes(codes, draws, lonely=0.2) == pytest.approx(0.2, abs=0.03)


def test_half_of_the_draws_are_in_the_half_that_has_no_codes():
    torch.manual_seed(0)
    codes, draws = torch.rand(4000, 1), 2 * torch.rand(4000, 1)
    assert holes(codes, draws) == pytest.approx(0.525, abs=0.03)


def test_holes_by_hand():
    # Set apart: 0, 2, 5 and 9. The others: 1, 3, 7 and 10. Distances: 1, 1, 2 and 1.
    codes = torch.tensor([0.0, 1, 2, 3, 5, 7, 9, 10])[:, None]
    draws = torch.tensor([1.5, 5.0, 8.6, 13.0])[:, None]  # 0.5, 2, 1.4 and 3 from the others
    assert holes(codes, draws, lonely=0.5) == 0.75  # the usual distance is 1
    assert holes(codes, draws, lonely=0.001) == 0.5  # and here nearly 2: 5.0 is just beyond


@pytest.mark.parametrize("lonely", [0.0, 1.0, -0.1])
def test_the_lonely_share_is_a_share(lonely):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holes(torch.rand(8, 1), torch.rand(8, 1), lonely)


def test_holes_need_codes():
    with pytest.raises(ValueError, match="four codes"):
        holes(torch.rand(3, 1), torch.rand(8, 1))
