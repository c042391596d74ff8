"""Stacked digits: the batches, the score with its exact values, the networks, the rows."""

import math

import pytest
import torch

from companion import data, results
from companion.experiments import stacked_digits
from companion.experiments.stacked_digits import METHODS, Stacks
from companion.features import DigitFeatures
from companion.gan import wasserstein
from companion.training import CheckpointError, Run

COMMAND = "python -m companion.experiments.stacked_digits"


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    return results.PATH


@pytest.fixture(scope="module")
def train():
    return data.mnist().train


# --- batches ---


def test_every_plane_goes_through_all_images_in_an_order_of_its_own():
    images = torch.arange(60, dtype=torch.uint8).repeat(4, 1).T.reshape(60, 2, 2)
    stacks = Stacks(images, 20, seed=5)
    assert len(stacks) == 3
    epoch = torch.cat([stacks.batch(step) for step in range(3)])
    assert epoch.shape == (60, 3, 2, 2)
    assert epoch.dtype == torch.float32
    shown = (255 * epoch[:, :, 0, 0]).round().long()
    for plane in shown.T:
        assert torch.equal(plane.sort().values, torch.arange(60))
    assert len({tuple(plane.tolist()) for plane in shown.T}) == 3
    later = torch.cat([stacks.batch(step) for step in range(3, 6)])
    assert not torch.equal(later, epoch)
    assert torch.equal(stacks.batch(1), Stacks(images, 20, seed=5).batch(1))
    others = torch.cat([Stacks(images, 20, seed=6).batch(step) for step in range(3)])
    for plane in (255 * others[:, :, 0, 0]).round().long().T:
        assert all(not torch.equal(plane, own) for own in shown.T), "no seed shares a plane"


def test_two_processes_share_a_batch():
    stacks = Stacks(torch.randint(256, (40, 4, 4), dtype=torch.uint8), 10)
    halves = [stacks.batch(2, rank, 2) for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), stacks.batch(2))
    there = stacks.to("meta")
    assert there.images.is_meta
    assert all(plane.images.is_meta for plane in there.planes)
    assert not stacks.images.is_meta
    assert not any(plane.images.is_meta for plane in stacks.planes)


def test_a_checkpoint_knows_the_images_it_was_made_with(train, tmp_path):
    images = train.images[:20].clone()
    first = Stacks(images, 4)
    used = {each for plane in first.planes for each in plane.indices(0).tolist()}
    other = images.clone()
    other[min({*range(20)} - used)] = 0
    for stacks in (first, Stacks(other, 4)):
        run = Run(1, path=tmp_path / "run", device="cpu")
        if stacks is first:
            assert len([*run.batches(stacks)]) == 1
        else:
            with pytest.raises(CheckpointError, match="data/images/checksum"):
                next(run.batches(stacks))


# --- score ---


def test_numbers():
    read = torch.tensor([[0, 0, 0], [0, 1, 2], [9, 9, 9]])
    assert stacked_digits.numbers(read).tolist() == [0, 12, 999]


def test_a_painter_of_one_number():
    """KL(delta ‖ real) is the surprise of that number."""
    labels = torch.arange(10).repeat(7)
    found = stacked_digits.score(torch.tensor([[1, 2, 3]]).repeat(50, 1), labels)
    assert found == {"modes": 1, "kl": pytest.approx(math.log(1000))}
    uneven = torch.tensor([0] * 5 + [1] * 3 + [2, 3, 4, 5, 6, 7, 8, 9])
    found = stacked_digits.score(torch.tensor([[0, 1, 1]]), uneven)
    assert found["kl"] == pytest.approx(-math.log(5 / 16 * 3 / 16 * 3 / 16))


def test_a_painter_of_every_number_once():
    labels = torch.arange(10)
    every = torch.cartesian_prod(*[labels] * 3)
    assert stacked_digits.score(every, labels) == {"modes": 1000, "kl": pytest.approx(0)}
    half = every[every[:, 2] < 5]
    assert stacked_digits.score(half, labels) == {"modes": 500, "kl": pytest.approx(math.log(2))}


def test_a_perfect_painter_scores_what_chance_leaves(train):
    """Of N draws the divergence is about (modes - 1) / 2N too high."""
    torch.manual_seed(0)
    count = stacked_digits.SAMPLES
    read = train.labels[torch.randint(len(train.labels), (count, 3))]
    found = stacked_digits.score(read, train.labels)
    assert found["modes"] == 1000
    assert found["kl"] == pytest.approx(999 / (2 * count), rel=0.15)


def test_real_digits_are_read(train):
    """The classifier's errors alone cost next to nothing."""
    stacks, step = Stacks(data.mnist().test.images, 500), iter(range(100))
    judge = DigitFeatures.pretrained()
    read = stacked_digits.read_drawings(lambda shape: stacks.batch(next(step)), judge, 3000)
    assert read.shape == (3000, 3)
    labels = data.mnist().test.labels
    first = torch.stack([labels[plane.indices(0)] for plane in stacks.planes], 1)
    assert (read[:500] == first).double().mean() > 0.97
    found = stacked_digits.score(read, train.labels)
    assert found["modes"] > 930, "of so few draws: 1000 (1 - e^-3) = 950"


def test_drawings_are_read_some_at_a_time():
    asked = []

    def sample(shape):
        asked.append(shape)
        return torch.zeros(*shape, 3, 28, 28)

    judge = DigitFeatures.pretrained()
    assert len(stacked_digits.read_drawings(sample, judge, 1100)) == 1100
    assert asked == [(500,), (500,), (100,)]


# --- networks and recipes ---


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains(method):
    own = METHODS[method]
    gan = stacked_digits.networks(own.get("together", 1))
    x = gan.sample((4,))
    assert x.shape == (4, 3, 28, 28)
    assert gan.D(x).shape == (4 // own.get("together", 1),)
    recipe = stacked_digits.recipe(method)
    assert "<" not in str(recipe)


def test_a_pack_is_judged_whole_and_each_picture_kept_whole():
    """The first layer sees six planes, those of the first picture before those of the second."""
    torch.manual_seed(0)
    gan, seen = stacked_digits.networks(2), []
    x = torch.rand(6, 3, 28, 28)
    gan.D.D[1][0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    gan.D(x)
    assert torch.equal(seen[0], x.reshape(3, 6, 28, 28))
    assert torch.equal(seen[0][1, 3:], x[3])


def test_the_wasserstein_method_has_its_penalty_and_full_precision():
    own = stacked_digits.SHARED | METHODS["Wasserstein, gradient penalty"]
    assert own["loss"] is wasserstein
    assert own["penalty"].__name__ == "ten_gradient_penalties"
    assert own["precision"] == "no"


def test_one_is_trained_and_scored(monkeypatch):
    few = data.Split(data.mnist().train.images[:128], data.mnist().train.labels[:128])
    dataset = data.Dataset(few, few, few)
    monkeypatch.setattr(stacked_digits.data, "mnist", lambda: dataset)
    monkeypatch.setattr(stacked_digits, "SAMPLES", 40)
    monkeypatch.setattr(stacked_digits.read_drawings, "__defaults__", (40, 20))
    settings = {"epochs": 1, "precision": "no", "device": "cpu"}
    values = stacked_digits.train_one("non-saturating, pairs", 0, **settings)
    assert values.keys() == {"modes", "kl"}
    assert 1 <= values["modes"] <= 40
    assert stacked_digits.train_one("non-saturating, pairs", 0, **settings) == values


# --- rows ---


def test_no_committed_row_is_of_an_older_recipe():
    stored = results.rows(stacked_digits.EXPERIMENT)
    outdated = [row["settings"] for row in stored if row not in stacked_digits.current_rows()]
    assert not outdated, f"run again: {COMMAND}"


def test_rows_that_are_there_are_not_made_again(file, monkeypatch, capsys):
    asked = []

    def train_one(method, seed, *, device):
        asked.append((method, seed))
        return {"modes": 990 + seed, "kl": 0.25}

    monkeypatch.setattr(stacked_digits, "train_one", train_one)
    arguments = ["--methods", "non-saturating loss", "--device", "cpu"]
    stacked_digits.main([*arguments, "--seeds", "1"])
    stacked_digits.main([*arguments, "--seeds", "3"])
    assert asked == [("non-saturating loss", seed) for seed in range(3)]
    assert "| non-saturating loss | 3 | 991 ± 1 | 0.25 ± 0.00 |" in capsys.readouterr().out
    assert "| non-saturating, pairs | 0 | not yet run |  |" in stacked_digits.table(
        stacked_digits.current_rows()
    )
    (row,) = results.rows("stacked-digits", seed=1)
    assert row["provenance"]["recipe"] == stacked_digits.recipe("non-saturating loss")
    assert "precision" in row["provenance"]
    monkeypatch.setitem(stacked_digits.SHARED, "epochs", 6)
    assert stacked_digits.current_rows() == []
