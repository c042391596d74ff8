"""The discrepancy of two sets of points against closed forms, and its test against its promise."""

import itertools
import math
import pickle

import pytest
import torch

from companion.aae import gaussian_kernel, inverse_multiquadratic, mmd2, mmd_test

pytestmark = pytest.mark.usefixtures("float64")
close = torch.testing.assert_close

KERNELS = {"gaussian": gaussian_kernel(0.8), "multiquadratic": inverse_multiquadratic(3.0)}
UNIT = gaussian_kernel(1.0)


def points(rng, count, features=2, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(count, features, generator=rng)


# --- kernels -------------------------------------------------------------------------------------


def test_kernels_are_their_formulas():
    squares = torch.tensor([[0.0, 0.5], [2.0, 9.0]])
    for kernel, formula in [
        (KERNELS["gaussian"], lambda s: math.exp(-s / (2 * 0.8**2))),
        (KERNELS["multiquadratic"], lambda s: 3 / (3 + s)),
    ]:
        close(
            kernel(squares), torch.tensor([[formula(s) for s in row] for row in squares.tolist()])
        )
        assert kernel(torch.zeros(())) == 1
        assert torch.equal(pickle.loads(pickle.dumps(kernel))(squares), kernel(squares))


# --- the discrepancy -----------------------------------------------------------------------------


def by_brute_force(a, b, kernel):
    """The three means, a pair at a time."""

    def mean(pairs):
        values = [kernel((x - y).square().sum()).item() for x, y in pairs]
        return sum(values) / len(values)

    within = sum(mean(itertools.permutations(each, 2)) for each in (a, b))
    return within - 2 * mean(itertools.product(a, b))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("n", "m", "features"), [(2, 2, 1), (5, 3, 2), (4, 7, 3)])
def test_it_is_three_means_over_pairs(rng, name, n, m, features):
    a, b = points(rng, n, features), points(rng, m, features, 0.7)
    found = mmd2(a, b, KERNELS[name])
    assert found.shape == ()
    assert found.item() == pytest.approx(by_brute_force(a, b, KERNELS[name]), rel=1e-12, abs=1e-14)


def between_normals(shift, s, t, features, h):
    """The squared discrepancy of N(0, s² I) and N(shift, t² I) in closed form, Gaussian kernel."""

    def similarity(squared_distance, variance):
        total = h**2 + variance
        return (h**2 / total) ** (features / 2) * math.exp(-squared_distance / (2 * total))

    apart = similarity(features * shift**2, s**2 + t**2)
    return similarity(0, 2 * s**2) + similarity(0, 2 * t**2) - 2 * apart


@pytest.mark.parametrize(
    ("shift", "s", "t", "features", "h"),
    [(0.0, 1.0, 1.0, 1, 1.0), (0.8, 1.0, 1.0, 1, 0.5), (0.5, 0.6, 1.5, 2, 1.2)],
)
def test_it_is_right_on_average_even_of_few_points(rng, shift, s, t, features, h):
    kernel, draws = gaussian_kernel(h), 2000
    a, b = points(rng, 3 * draws, features, 0, s), points(rng, 4 * draws, features, shift, t)
    pairs = zip(a.split(3), b.split(4), strict=True)
    found = torch.stack([mmd2(few, others, kernel) for few, others in pairs])
    truth = between_normals(shift, s, t, features, h)
    assert abs(found.mean().item() - truth) < 5 * found.std().item() / math.sqrt(draws)
    if shift == 0:
        assert truth == pytest.approx(0, abs=1e-15)
        assert 0.3 < (found < 0).double().mean() < 0.8


def test_of_many_points_it_is_close_to_the_closed_form(rng):
    a, b = points(rng, 1500, 2), points(rng, 1000, 2, 1.0, 0.5)
    truth = between_normals(1.0, 1.0, 0.5, 2, 1.0)
    assert mmd2(a, b, UNIT).item() == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize("name", KERNELS)
def test_neither_set_nor_place_nor_order_matters(rng, name):
    a, b, kernel = points(rng, 6), points(rng, 9, 2, 1.0), KERNELS[name]
    found = mmd2(a, b, kernel)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    close(mmd2(b, a, kernel), found)
    close(mmd2(a.flip(0), b[torch.randperm(9, generator=rng)], kernel), found)
    close(mmd2(a @ turn + 5, b @ turn + 5, kernel), found)


def test_it_is_differentiable(rng):
    a, b = points(rng, 4).requires_grad_(), points(rng, 3).requires_grad_()
    for kernel in KERNELS.values():
        assert torch.autograd.gradcheck(lambda a, b, k=kernel: mmd2(a, b, k), (a, b))


def test_in_float32_it_stays_in_float32_and_no_square_is_negative(rng):
    a, b = points(rng, 50).float(), points(rng, 30, 2, 0.5).float()
    found = mmd2(a, b, UNIT)
    assert found.dtype == torch.float32
    close(found.double(), mmd2(a.double(), b.double(), UNIT), rtol=1e-4, atol=1e-6)
    far = 1000 + torch.cat([a, a]) / 100  # rounding: squares of 10^6, distances of 10^-2
    seen = []
    mmd2(far, far, lambda squares: (seen.append(squares.min()), UNIT(squares))[1])
    assert all(least >= 0 for least in seen)


def test_points_in_one_place_are_at_no_distance():
    seen, points = [], torch.ones(3, 2)
    mmd2(points, points[:2], lambda squares: (seen.append(squares), UNIT(squares))[1])
    assert sorted(squares.shape for squares in seen) == [(2, 2), (3, 2), (3, 3)]
    assert all((squares == 0).all() for squares in seen)


WRONG = [
    ((1, 2), (5, 2)),
    ((5, 2), (1, 2)),
    ((5, 2), (5, 3)),
    ((5,), (5,)),
    ((5, 2), (5,)),
    ((5, 2, 1), (5, 2, 1)),
    ((5, 2), (3, 2, 1)),
    ((0, 2), (5, 2)),
]


@pytest.mark.parametrize(("a", "b"), WRONG)
def test_what_are_no_two_sets_of_points_is_refused(a, b):
    for function in (mmd2, mmd_test):
        with pytest.raises(ValueError, match="N and M at least 2, got") as refused:
            function(torch.zeros(a), torch.zeros(b), UNIT)
        assert str(refused.value).endswith(f"got {a} and {b}")


# --- the test ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_finds_the_discrepancy_in_float64(rng, dtype):
    a, b = points(rng, 12).to(dtype), points(rng, 7, 2, 0.4).to(dtype)
    for kernel in KERNELS.values():
        seen = []
        spy = lambda squares, k=kernel, seen=seen: (seen.append(squares.requires_grad), k(squares))[
            1
        ]
        result = mmd_test(a.requires_grad_(), b, spy, permutations=20)
        assert seen == [False]  # nothing is kept for a gradient
        assert result._fields == ("mmd2", "null", "p_value")
        truth = mmd2(a.double(), b.double(), kernel).item()
        assert result.mmd2 == pytest.approx(truth, rel=1e-10, abs=1e-14)
        assert isinstance(result.mmd2, float)
        assert isinstance(result.p_value, float)
        assert result.null.dtype == torch.float64


def test_the_null_has_each_division_of_the_points_as_often(rng):
    a, b, permutations = points(rng, 2), points(rng, 3, 2, 1.0), 5000
    both = torch.cat([a, b])
    divisions = []
    for chosen in itertools.combinations(range(5), 2):
        others = [i for i in range(5) if i not in chosen]
        divisions.append(by_brute_force(both[list(chosen)], both[others], UNIT))
    divisions = torch.tensor(sorted(divisions))
    result = mmd_test(a, b, UNIT, permutations=permutations)
    assert result.null.shape == (permutations,)
    assert (result.null.diff() >= 0).all()
    gaps, nearest = (result.null[:, None] - divisions).abs().min(1)
    assert gaps.max() < 1e-12
    counts = nearest.bincount(minlength=10).double()
    chi = ((counts - permutations / 10).square() / (permutations / 10)).sum()
    assert chi < 9 + 5 * math.sqrt(2 * 9)
    share = (divisions >= result.mmd2 - 1e-12).double().mean().item()
    assert result.p_value == pytest.approx(share, abs=5 * math.sqrt(share / permutations))


def test_the_p_value_counts_the_given_division_and_those_as_large(rng):
    for seed, shift in enumerate((0.0, 0.3, 3.0)):
        a, b = points(rng, 15), points(rng, 10, 2, shift)
        result = mmd_test(a, b, UNIT, permutations=49, seed=seed)
        assert result.null.shape == (49,)
        as_large = (result.null >= result.mmd2 - 1e-12).sum().item()
        assert result.p_value == pytest.approx((1 + as_large) / 50, rel=1e-12)
    assert result.p_value == 1 / 50  # the farthest: no division comes near it
    nothing = mmd_test(a, b, UNIT, permutations=0)
    assert nothing.p_value == 1
    assert nothing.null.shape == (0,)


def test_a_division_that_comes_out_the_same_but_for_rounding_is_as_large(rng):
    """Two pairs can be told apart in three ways, and a change of names changes nothing."""
    for _ in range(10):
        a, b = points(rng, 2), points(rng, 2, 2, 5.0)
        result = mmd_test(a, b, KERNELS["multiquadratic"], permutations=600)
        assert result.p_value == pytest.approx(1 / 3, abs=5 * math.sqrt(2 / 9 / 600))
    same = torch.ones(6, 2) / 3
    assert mmd_test(same, same, UNIT, permutations=20).p_value == 1


@pytest.mark.parametrize(("n", "m"), [(10, 10), (5, 14)])
def test_where_there_is_no_difference_each_p_value_is_as_likely(rng, n, m):
    tests = 400
    p_values = torch.tensor(
        [
            mmd_test(points(rng, n), points(rng, m), UNIT, permutations=39).p_value
            for _ in range(tests)
        ]
    )
    assert 1 / 40 <= p_values.min() <= p_values.max() <= 1
    for t in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9):
        se = math.sqrt(t * (1 - t) / tests)
        assert (p_values <= t + 1e-9).double().mean().item() == pytest.approx(t, abs=4 * se)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("n", "m", "shift", "scale"), [(60, 60, 1.0, 1.0), (60, 60, 0.0, 2.5), (25, 100, 1.2, 1.0)]
)
def test_a_difference_in_place_or_spread_is_found(rng, name, n, m, shift, scale):
    result = mmd_test(points(rng, n), points(rng, m, 2, shift, scale), KERNELS[name])
    assert len(result.null) == 500
    assert result.p_value == 1 / 501
    assert result.mmd2 > result.null[-1]
    assert result.null.mean().abs() < 0.2 * result.mmd2  # none there by construction


def test_its_seed_alone_decides_and_torchs_own_is_left_alone(rng):
    a, b = points(rng, 9), points(rng, 8)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(results))
        state = torch.get_rng_state()
        results.append(mmd_test(a, b, UNIT, permutations=30, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
    one, again, other = results
    assert torch.equal(one.null, again.null)
    assert one.p_value == again.p_value
    assert one.mmd2 == again.mmd2 == other.mmd2
    assert not torch.equal(one.null, other.null)
    assert torch.equal(mmd_test(a, b, UNIT, permutations=30).null, one.null)  # seed 0 by default


def test_either_set_may_come_first(rng):
    a, b = points(rng, 12), points(rng, 20, 2, 0.6)
    one, other = (mmd_test(*pair, UNIT, permutations=999) for pair in ((a, b), (b, a)))
    assert one.mmd2 == pytest.approx(other.mmd2, rel=1e-10)
    assert one.p_value == pytest.approx(other.p_value, abs=0.05)
    close(one.null.quantile(0.5), other.null.quantile(0.5), rtol=0, atol=0.01)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_points_that_are_no_numbers_are_no_evidence(value):
    a, b = torch.zeros(4, 2), torch.zeros(4, 2)
    a[1, 0] = value
    with pytest.raises(ValueError, match="finite"):
        mmd_test(a, b, gaussian_kernel(1.0))


@pytest.mark.parametrize("kernel", [gaussian_kernel, inverse_multiquadratic])
@pytest.mark.parametrize("size", [0.0, -1.0, math.nan])
def test_a_kernel_has_a_size(kernel, size):
    with pytest.raises(ValueError, match="above 0"):
        kernel(size)


def test_far_from_the_origin_nothing_is_lost():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, 2, generator=generator, dtype=torch.float32)
    shift = 2.0**14  # what is added is exact, up to the spacing of floats there
    a, b = (a * 512).round() / 512, (b * 512).round() / 512 + 1
    near, far = (mmd2(a + s, b + s, gaussian_kernel(1.0)).item() for s in (0, shift))
    assert far == pytest.approx(near, rel=1e-4)


def test_whole_numbers_are_points_as_well():
    a, b = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 1], [4, 0], [2, 2]])
    assert mmd2(a, b, UNIT).item() == pytest.approx(mmd2(a.double(), b.double(), UNIT).item())
