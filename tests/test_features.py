"""The classifier of digits: its weights are those of the recipe, and its features are its own."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from companion import data, features, results
from companion.experiments import digit_features
from companion.features import DigitFeatures
from companion.training import CheckpointError, save_model


@pytest.fixture(scope="module")
def mnist():
    return data.mnist()


def test_the_weights_in_the_package_score_as_their_row_says(mnist):
    net = DigitFeatures.pretrained()
    (row,) = results.rows(digit_features.EXPERIMENT)
    assert row["provenance"]["recipe"] == digit_features.RECIPE
    error = digit_features.error_rate(net, mnist.test.images, mnist.test.labels)
    assert error == pytest.approx(row["values"]["test_error"], abs=5e-4), "5 of 10,000 images"
    assert error < 0.015
    assert not any(p.requires_grad for p in net.parameters())
    assert not net.training


def test_logits_are_read_from_the_features(mnist):
    torch.manual_seed(0)
    net, x = DigitFeatures(features=5), mnist.test.images[:7] / 255
    found = net.features(x)
    assert found.shape == (7, 5)
    assert (found >= 0).all()
    assert torch.allclose(net.head(found), net(x))
    assert torch.allclose(net.features(x, batch_size=2), found, atol=1e-6)
    assert torch.equal(net.classify(x, batch_size=3), net(x).argmax(1))
    assert not found.requires_grad


def test_the_network_is_what_it_says():
    """Also where pictures are not white at their borders, as samples need not be."""
    torch.manual_seed(0)
    net, x = DigitFeatures(), torch.rand(3, 28, 28)
    first, second, layer, head = zip(*[iter(net.parameters())] * 2, strict=True)
    h = F.conv2d(x[:, None], *first, stride=2, padding=2).relu()
    h = F.conv2d(h, *second, stride=2, padding=1).relu().flatten(1)
    logits = F.linear(F.linear(h, *layer).relu(), *head)
    torch.testing.assert_close(net(x), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["features", "classify"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.zeros(2, 28, 28, dtype=torch.uint8),
            r"are floats, .* not torch.uint8 \(2, 28, 28\)",
        ),
        (torch.zeros(2, 784), r"shape \(B, 28, 28\), not torch.float32 \(2, 784\)"),
        (torch.zeros(28, 28), r"shape \(B, 28, 28\)"),
        (torch.full((2, 28, 28), 255.0), "divide greys by 255"),
        (torch.full((2, 28, 28), torch.nan), "from 0 to 1"),
    ],
)
def test_images_on_another_scale_are_refused(method, x, message):
    """Their features lie far from those of digits, and every distance would tell only this."""
    with pytest.raises(ValueError, match=message):
        getattr(DigitFeatures(), method)(x)


@pytest.mark.parametrize("method", ["features", "classify"])
def test_many_images_are_looked_at_in_parts_and_without_a_gradient(method):
    net, seen = DigitFeatures(), []
    watch = lambda module, inputs: seen.append((len(inputs[0]), torch.is_grad_enabled()))
    net.body.register_forward_pre_hook(watch)
    assert len(getattr(net, method)(torch.zeros(1001, 28, 28))) == 1001
    assert seen == [(500, False), (500, False), (1, False)]


def test_the_recipe_is_the_one_in_use(mnist, monkeypatch):
    asked = {}

    def note(place, name):
        original = getattr(place, name)

        def call(*arguments, **settings):
            asked[name] = arguments[1:], settings
            return original(*arguments, **settings)

        monkeypatch.setattr(place, name, call)

    for place, name in [(data, "Batches"), (digit_features, "Run"), (digit_features, "adam")]:
        note(place, name)
    images, labels = mnist.train.images[:200], mnist.train.labels[:200]
    untrained = digit_features.train(images, labels, epochs=0, seed=3)
    assert not untrained.training
    torch.manual_seed(3)
    for a, b in zip(untrained.parameters(), DigitFeatures().parameters(), strict=True):
        assert torch.equal(a, b)
    recipe, defaults = digit_features.RECIPE, inspect.signature(digit_features.train).parameters
    assert defaults["epochs"].default == recipe["epochs"]
    assert defaults["seed"].default == 0
    assert asked == {
        "Batches": ((recipe["batch_size"],), {"seed": 3}),
        "Run": ((), {"schedule": "cosine", "seed": 3, "device": "cpu"}),
        "adam": ((recipe["learning_rate"],), {}),
    }


def test_training_learns_and_its_seed_decides(mnist):
    images, labels = mnist.train.images[:1000], mnist.train.labels[:1000]
    nets = [digit_features.train(images, labels, epochs=3, seed=seed) for seed in (0, 0, 1)]
    test = mnist.test.images[:500], mnist.test.labels[:500]
    errors = [digit_features.error_rate(net, *test) for net in nets]
    assert errors[0] == errors[1] != errors[2]
    assert max(errors) < 0.5, "guessing errs nine times in ten"


def test_the_command_keeps_weights_and_row(mnist, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "PATH", tmp_path / "net.safetensors")
    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    small = digit_features.train(mnist.train.images[:200], mnist.train.labels[:200], epochs=1)
    seen = []
    monkeypatch.setattr(digit_features.data, "mnist", lambda: mnist)
    monkeypatch.setattr(digit_features, "train", lambda *split: seen.extend(split) or small)
    digit_features.main([])
    assert seen[0] is mnist.train.images
    assert seen[1] is mnist.train.labels
    loaded = DigitFeatures.pretrained()
    x = mnist.test.images[:3] / 255
    assert torch.equal(loaded(x), small(x))
    (row,) = results.rows(digit_features.EXPERIMENT)
    error = digit_features.error_rate(small, mnist.test.images, mnist.test.labels)
    assert row["values"] == {"test_error": error}
    assert row["settings"] == {"model": "DigitFeatures"}
    assert row["provenance"]["recipe"] == digit_features.RECIPE
    assert row["provenance"]["command"] == "python -m companion.experiments.digit_features"
    assert f"{100 * row['values']['test_error']:.2f} %" in capsys.readouterr().out

    before = features.PATH.read_bytes()
    digit_features.main([])
    assert len(seen) == 2, "not trained again"
    assert "is of this recipe already: --again replaces it" in capsys.readouterr().out

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(digit_features, "train", lambda *split: DigitFeatures())
    with monkeypatch.context() as patch:
        patch.setattr(results, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            digit_features.main(["--again"])
    assert features.PATH.read_bytes() == before, "its row is still there"
    digit_features.main(["--again"])
    assert features.PATH.read_bytes() != before


def test_weights_of_another_network_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PATH", tmp_path / "net.safetensors")
    save_model(DigitFeatures(features=5), features.PATH)
    with pytest.raises(CheckpointError, match="another model"):
        DigitFeatures.pretrained()
