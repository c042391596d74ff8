"""The classifier of digits: its weights are those of the recipe, and its features are its own."""

import pytest
import torch

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
    error = digit_features.score(net, mnist.test.images, mnist.test.labels)
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


def test_training_learns_and_its_seed_decides(mnist):
    images, labels = mnist.train.images[:1000], mnist.train.labels[:1000]
    nets = [digit_features.train(images, labels, epochs=3, seed=seed) for seed in (0, 0, 1)]
    test = mnist.test.images[:500], mnist.test.labels[:500]
    errors = [digit_features.score(net, *test) for net in nets]
    assert errors[0] == errors[1] != errors[2]
    assert max(errors) < 0.5, "guessing errs nine times in ten"


def test_the_command_keeps_weights_and_row(mnist, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "PATH", tmp_path / "net.safetensors")
    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    small = digit_features.train(mnist.train.images[:200], mnist.train.labels[:200], epochs=1)
    monkeypatch.setattr(digit_features, "train", lambda images, labels: small)
    digit_features.main([])
    loaded = DigitFeatures.pretrained()
    x = mnist.test.images[:3] / 255
    assert torch.equal(loaded(x), small(x))
    (row,) = results.rows(digit_features.EXPERIMENT)
    assert f"{100 * row['values']['test_error']:.2f} %" in capsys.readouterr().out


def test_weights_of_another_network_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PATH", tmp_path / "net.safetensors")
    save_model(DigitFeatures(features=5), features.PATH)
    with pytest.raises(CheckpointError, match="another model"):
        DigitFeatures.pretrained()
