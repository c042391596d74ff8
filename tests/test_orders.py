"""Orders of pixels: permutations, unbroken curves, and what stays close to what."""

import pytest
import torch

from companion.autoregressive import FVSBN, orders

SIZES = [(h, w) for h in range(1, 31) for w in range(1, 31)]
NAMED = {
    "raster": orders.raster,
    "column": orders.column,
    "shuffled": lambda height, width: orders.shuffled(height, width, seed=3),
    "Hilbert": orders.hilbert,
}


def steps(order, width, k=1):
    """Rows and columns between pixel i and pixel i + k of an order, ``(2, D - k)``."""
    places = torch.stack([order // width, order % width])
    return (places[:, k:] - places[:, :-k]).abs()


@pytest.mark.parametrize("name", NAMED)
def test_every_order_is_a_permutation(name):
    for height, width in SIZES:
        order = NAMED[name](height, width)
        assert order.dtype == torch.int64
        assert torch.equal(order.sort().values, torch.arange(height * width)), (height, width)


def test_raster_and_column_by_hand():
    assert orders.raster(2, 3).tolist() == [0, 1, 2, 3, 4, 5]
    assert orders.column(2, 3).tolist() == [0, 3, 1, 4, 2, 5]


def test_the_hilbert_curve_of_sixteen_pixels_is_the_one_of_1891():
    down_across_up = [0, 1, 5, 4, 8, 12, 13, 9, 10, 14, 15, 11, 7, 6, 2, 3]
    assert orders.hilbert(4, 4).tolist() == down_across_up


def test_the_hilbert_curve_is_unbroken():
    assert (steps(orders.hilbert(28, 28), 28).sum(0) == 1).all()
    for height, width in SIZES:
        assert (steps(orders.hilbert(height, width), width).sum(0) == 1).all(), (height, width)


def test_what_is_close_on_the_hilbert_curve_is_close_in_the_image():
    """Pixels k apart in the order are about √k apart in the image, as in no order by rows."""

    def distance(name, k):
        return steps(NAMED[name](28, 28), 28, k).float().norm(dim=0).mean().item()

    for k in range(1, 101):
        assert distance("Hilbert", k) < 1.3 * k**0.5
    within_a_row = {name: sum(distance(name, k) for k in range(1, 28)) / 27 for name in NAMED}
    assert within_a_row["Hilbert"] < 0.5 * within_a_row["raster"]
    assert within_a_row["raster"] == pytest.approx(within_a_row["column"])
    assert within_a_row["raster"] < 0.7 * within_a_row["shuffled"]


def test_a_seed_decides_the_shuffled_order():
    first = orders.shuffled(28, 28, seed=0)
    torch.manual_seed(1)
    assert torch.equal(first, orders.shuffled(28, 28, seed=0))
    assert not torch.equal(first, orders.shuffled(28, 28, seed=1))
    assert orders.shuffled(3, 3, seed=0).tolist() == [7, 2, 1, 4, 8, 6, 3, 0, 5], "for ever"


def test_models_take_them():
    for name in NAMED:
        order = NAMED[name](4, 6)
        assert torch.equal(FVSBN(24, order).orders[0], order)


@pytest.mark.parametrize("name", NAMED)
def test_an_image_has_pixels(name):
    with pytest.raises(ValueError, match="at least 1 row"):
        NAMED[name](0, 5)
