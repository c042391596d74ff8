"""Bad input that would go wrong later, or in silence, is refused in words."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from companion import checks, figures, results, runs, training
from companion.aae import AAE, fit_aae
from companion.aae.mmd import gaussian_kernel, inverse_multiquadratic, mmd_test
from companion.autoregressive import FVSBN, PixelCNN, orders
from companion.data import Batches, binarize, toy
from companion.distributions import BernoulliMixture, GenerativeClassifier, IndependentBernoulli
from companion.divergences import entropy
from companion.evaluation import importance_sampled_nll, log_likelihoods, nll, roc
from companion.features import DigitFeatures
from companion.gan import GAN, fit_gan
from companion.nn import mlp
from companion.sample_scores import frechet_distance
from companion.vae import VAE, ConditionalBernoulli, LinearGaussian, StandardNormal, iwae, one_layer

X = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]] * 4).float()
GREYS = 255 * X
BATCHES = Batches(X, 4)


def game():
    return GAN(nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), latent=2)


def adversarial_autoencoder():
    critic = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    decoder = ConditionalBernoulli(mlp(2, 3), 3, 4)
    return AAE(nn.Linear(4, 2), decoder, critic, lambda count: torch.randn(count, 2))


def small_vae(prior=2, **options):
    return VAE(LinearGaussian(4, 2), LinearGaussian(2, 4), StandardNormal(prior), **options)


class Unsummed(nn.Module):
    """A model that has forgotten to sum over the event."""

    def log_prob(self, x):
        return -x


NO_TENSORS = {
    "density": lambda x: FVSBN(4).log_prob(x),
    "counts": lambda x: IndependentBernoulli(4).fit(x),
    "marginals": lambda x: FVSBN(4).start_from(x),
    "batches": lambda x: Batches(x, 4),
    "validation": lambda x: training.fit(FVSBN(4), BATCHES, x, epochs=1),
    "prior": lambda x: GenerativeClassifier([IndependentBernoulli(4)], x),
    "nll": lambda x: nll(FVSBN(4), x),
    "importance sampling": lambda x: importance_sampled_nll(one_layer(4), x, 5),
    "scores": lambda x: roc(x, x),
    "tables": lambda x: entropy(x),
    "samples": lambda x: frechet_distance(x, x),
    "points": lambda x: mmd_test(x, x, gaussian_kernel(1.0)),
    "digits": lambda x: DigitFeatures().features(x),
}


@pytest.mark.parametrize("x", [X.numpy(), X.tolist()], ids=["array", "list"])
@pytest.mark.parametrize("door", NO_TENSORS)
def test_what_is_no_tensor_is_told_how_to_become_one(door, x):
    with pytest.raises(TypeError, match=r"must be a tensor, not (ndarray|list): torch\.as_tensor"):
        NO_TENSORS[door](x)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        # --- grey values where coins are wanted
        (lambda: training.fit(FVSBN(4), Batches(GREYS, 4), epochs=1), "the images must hold zeros"),
        (lambda: training.fit(one_layer(4), Batches(-X, 4), epochs=1), "the images must hold"),
        (lambda: fit_aae(adversarial_autoencoder(), Batches(GREYS, 4), epochs=1), "must hold"),
        (lambda: training.fit(FVSBN(4), BATCHES, GREYS.byte(), epochs=1), "validation must hold"),
        (lambda: training.fit(FVSBN(4), BATCHES, X[0], epochs=1), r"differ: \(4,\) and \(\)"),
        (lambda: FVSBN(4).log_prob(torch.tensor([0, -1, 0, 1])), "x holds grey values"),
        # --- what would be broadcast
        (lambda: small_vae(prior=1, bound=iwae)(X), "2 entries under a normal of 1"),
        (lambda: small_vae(bound=iwae).decoder(X[:, :2]).log_prob(X[:, :1]), "1 entries under"),
        (lambda: log_likelihoods(Unsummed(), X), "one value for each of 8 examples"),
        # --- whole numbers
        (lambda: training.fit(FVSBN(4), BATCHES, epochs=1.5), "epochs must be a whole number"),
        (lambda: training.fit(FVSBN(4), BATCHES, epochs=-1), "epochs must .* at least 0, not -1"),
        (lambda: training.fit(FVSBN(4), BATCHES, X, epochs=1, patience=0), "patience must be"),
        (lambda: training.fit(FVSBN(4), BATCHES, epochs=1, seed=None), "seed must be a whole"),
        (lambda: fit_gan(game(), BATCHES, epochs=1, discriminator_steps=1.5), "steps must be a"),
        (lambda: fit_gan(game(), BATCHES, epochs=1, learning_rate=(1e-3,)), "for both players, or"),
        (lambda: nll(FVSBN(4), X, batch_size=0), "batch_size must be a whole number of at least 1"),
        (lambda: importance_sampled_nll(one_layer(4), X, 5, chunk=0), "chunk must be a whole"),
        (lambda: importance_sampled_nll(one_layer(4), X[:0], 5), "examples must be a whole"),
        (lambda: mmd_test(X, X, gaussian_kernel(1.0), permutations=-1), "permutations must be"),
        (lambda: inverse_multiquadratic(math.inf), "a finite number above 0, not inf"),
        (lambda: binarize(GREYS.byte(), None), "seed must be a whole number"),
        (lambda: orders.shuffled(3, 3, None), "seed must be a whole number"),
        (lambda: toy.ring_of_gaussians(2.5), "modes must be a whole number"),
        (lambda: toy.bars_and_stripes(0), "side must be a whole number of at least 1"),
        (lambda: FVSBN(4).sample((-1,)), "size must be a whole number of at least 0"),
        (lambda: FVSBN(4).sample((2.5,)), "size must be a whole number"),
        # --- what the checks are given
        (lambda: checks.frequencies(torch.zeros(1, 30)), "1 to 20 entries, not 30"),
        (lambda: checks.frequencies(torch.zeros(0, 2)), "N at least 1"),
        (lambda: checks.sampling_p_value(X, lambda x: x - 9), r"for each vector, not \(16, 4\)"),
        # --- pictures
        (lambda: figures.image_rows({"flat": torch.rand(15)}), r"those of 'flat' have \(15,\)"),
        (lambda: figures.image_rows({"one": torch.rand(28, 5)}), r"those of 'one' have \(28, 5\)"),
        (lambda: figures.image_rows({"wide": torch.rand(2, 2, 8)}), r"have \(2, 2, 8\)"),
    ],
)
def test_values_that_make_no_sense(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: training.fit(IndependentBernoulli(4), BATCHES, epochs=1), "take its own fit"),
        (lambda: training.fit(game(), BATCHES, epochs=1), "GAN has no objective .* take fit_gan"),
        (lambda: fit_gan(game(), X, epochs=1), "train is mini-batches"),
        (lambda: fit_aae(adversarial_autoencoder(), X, epochs=1), "train is mini-batches"),
        (lambda: BernoulliMixture(4, 2).fit(X, 1), "train is mini-batches"),
        (lambda: FVSBN(4).sample(None), "sample takes a shape"),
        (lambda: FVSBN(4).complete(X[0], X[0] > 0, 5), r"sample takes a shape: \(5,\), not 5"),
        (lambda: PixelCNN(784), r"height and width, such as \(28, 28\), not 784"),
        (lambda: PixelCNN((1, 28, 28)), r"height and width, .* not \(1, 28, 28\)"),
    ],
)
def test_things_of_another_kind(ask, message):
    with pytest.raises(TypeError, match=message):
        ask()


def test_a_row_of_another_form_is_refused_before_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    first = results.add("a", {"x": 1}, {"nll": 2.0}, {})
    for wrong in ([0.5], None):
        with pytest.raises(ValueError, match=r"a row has .* values \(dict\)"):
            results.add("a", {"x": 2}, wrong, {})
    assert results.rows("a") == [first]


def test_numbers_of_numpy_are_stored_as_numbers(tmp_path):
    model, path = FVSBN(4), tmp_path / "run"
    settings = {"seed": np.int64(1), "learning_rate": np.float32(0.1), "clip": np.float64(1)}
    training.fit(model, BATCHES, epochs=np.int64(1), path=path, **settings)
    training.fit(FVSBN(4), BATCHES, epochs=1, path=path, **settings)
    assert json.dumps(training.checkpoint.read(path)[1]["settings"]["seed"]) == "1"


def test_a_model_is_no_run_and_a_folder_is_no_file(tmp_path):
    training.save_model(FVSBN(4), tmp_path / "model")
    with pytest.raises(training.CheckpointError, match="holds a model, of save_model: choose"):
        training.fit(FVSBN(4), BATCHES, epochs=1, path=tmp_path / "model")
    with pytest.raises(training.CheckpointError, match=r"is a folder: name a file$"):
        training.fit(FVSBN(4), BATCHES, epochs=1, path=tmp_path)
    with pytest.raises(OSError, match="it is a folder: name a file"):
        training.save_model(FVSBN(4), tmp_path)
    assert [path.name for path in tmp_path.parent.glob(f"{tmp_path.name}*")] == [tmp_path.name]


def test_nan_in_the_data_is_thought_of():
    with pytest.raises(FloatingPointError, match="at the first step, look for nan in the data"):
        training.fit(small_vae(), Batches(X * math.nan, 4), epochs=1)


def test_pictures_of_any_square_are_drawn():
    figures.image_rows({"a": torch.rand(2, 9), "b": torch.rand(2, 3, 3)})


def test_drawn_images_are_reconstructed_in_any_type():
    model, x = adversarial_autoencoder(), X.byte()
    assert torch.equal(model.reconstruct(x), model.reconstruct(X))


def test_a_preset_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no preset 'papers'; there are: chapter, paper"):
        runs.find("made", "papers")
