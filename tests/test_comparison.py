"""The comparison: committed rows and weights, how each model is trained, what is asked of it."""

import copy
import hashlib
import inspect
import json
import math
from functools import partial

import pytest
import torch
from torch import nn

from companion import data, evaluation, families, presets, results, training
from companion.aae import WAE, inverse_multiquadratic
from companion.distributions import IndependentBernoulli
from companion.experiments import comparison
from companion.experiments.comparison import CONTENDERS
from companion.features import DigitFeatures
from companion.nn import free_parameters
from companion.presets import Preset
from companion.vae import ConditionalBernoulli, one_layer

COMMAND = "python -m companion.experiments.comparison"
D = 784
SHIPPED = [name for name, made in CONTENDERS.items() if made.shipped]
EXACT = [name for name in SHIPPED if CONTENDERS[name].likelihood == "exact"]
SIZES = {"mixture of 100": 100}  # of a batch; EM begins with a hundred images, the others need few
MEASURED = {"parameters", "train_seconds", "draw_seconds", *comparison.SCORES_OF_DRAWINGS}
SCORED = {"nll", "standard_error", "tenth", "score_seconds", "throws"}
LIKELIHOOD = {
    "exact": SCORED,
    "bound": SCORED | {"samples", "effective_samples", "elbo", "tenth_longer"},
    "none": set(),
}


@pytest.fixture(scope="module")
def grey():
    return data.mnist().test.images.flatten(1)


@pytest.fixture(scope="module")
def thrown(grey):
    """The book's throw of the test images."""
    return data.binarize(grey, seed=2)


@pytest.fixture(scope="module")
def judge():
    return DigitFeatures.pretrained()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Results and weights of the test's own."""
    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    monkeypatch.setattr(comparison, "WEIGHTS", tmp_path / "weights")
    return tmp_path


@pytest.fixture
def tiny(files, monkeypatch):
    """An MNIST of few images, few drawings, and trainings of one epoch."""
    mnist = data.mnist()
    few = lambda split, count: data.Split(split.images[:count], split.labels[:count])
    dataset = data.Dataset(few(mnist.train, 100), few(mnist.validation, 10), few(mnist.test, 20))
    monkeypatch.setattr(comparison.data, "mnist", lambda: dataset)
    monkeypatch.setattr(comparison, "DRAWS", 8)
    monkeypatch.setattr(comparison, "FEW", 3)
    for name, made in CONTENDERS.items():
        monkeypatch.setitem(CONTENDERS, name, made._replace(train=short(made.train, 50)))
    monkeypatch.setitem(CONTENDERS, "mixture of 100", of_one_batch("mixture of 100"))
    return dataset


def short(train, batch_size):
    """The same training, for an epoch of batches of another size."""
    if not isinstance(train, partial):
        return train
    return partial(train.func, **train.keywords | {"epochs": 1, "batch_size": batch_size})


def of_one_batch(name):
    made = CONTENDERS[name]
    return made._replace(train=short(made.train, SIZES.get(name, 8)))


def same(a, b):
    """Whether two models have the same weights."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def fingerprint(name):
    return hashlib.sha256(comparison.weights_of(name).read_bytes()).hexdigest()


# --- committed rows and weights ---


def test_no_committed_row_is_of_an_older_recipe():
    found = {row["settings"]["model"] for row in results.rows(comparison.EXPERIMENT)}
    assert not found - {*comparison.stored()}, f"run again: {COMMAND}"


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_has_its_committed_row(name):
    assert name in comparison.stored(), f"run: {COMMAND} --models '{name}'"
    row, made = comparison.stored()[name], CONTENDERS[name]
    assert row["settings"] == {"model": name, "seed": 0}
    values = row["values"]
    assert values.keys() == MEASURED | LIKELIHOOD[made.likelihood]
    assert values["parameters"] == free_parameters(made.build())
    assert ("sha256" in row["provenance"]) == made.shipped
    assert all(0 <= values[key] <= 1 for key in ("precision", "recall"))
    assert 0 <= values["wrong_kind"] <= 100
    if made.likelihood == "none":
        return
    assert 75 < values["nll"] < 210
    assert values["tenth"] == pytest.approx(values["nll"], abs=16 * values["standard_error"])
    assert len(values["throws"]) == 5
    assert max(values["throws"]) - min(values["throws"]) < 0.5
    if made.likelihood == "exact":
        assert values["throws"][0] == values["nll"]
    else:
        assert values["nll"] < values["throws"][0] < -values["elbo"], "more draws, tighter bound"
        assert values["tenth_longer"] < values["tenth"]
        assert 1 < values["effective_samples"] < values["samples"] == comparison.K


def test_the_folder_of_weights_holds_those_that_travel_and_no_others():
    found = {path for path in comparison.WEIGHTS.iterdir() if not path.name.startswith("paper-")}
    assert found == {comparison.weights_of(name) for name in SHIPPED}
    assert len({comparison.weights_of(name) for name in CONTENDERS}) == len(CONTENDERS)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_weights_in_the_package_are_those_of_the_row(name):
    assert fingerprint(name) == comparison.stored()[name]["provenance"]["sha256"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_ready_to_use(name):
    model = comparison.shipped(name)
    assert type(model) is type(CONTENDERS[name].build())
    assert not any(module.training for module in model.modules())
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.float32, False)}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_score_can_be_computed_again(thrown, name):
    values = comparison.measurements()[name]
    found = comparison.score(comparison.shipped(name), "exact", thrown[::10])
    assert found.mean == pytest.approx(values["tenth"], abs=0.01)


def test_all_scores_of_made_can_be_computed_again(grey):
    values = comparison.measurements()["MADE"]
    found = comparison.likelihood(comparison.shipped("MADE"), "exact", grey)
    for key in ("nll", "standard_error", "throws"):
        assert found[key] == pytest.approx(values[key], abs=0.01)


def test_a_bound_can_be_computed_again(thrown):
    """With fewer draws it is looser, for every tenth image by as much as for all."""
    values, model = comparison.measurements()["VAE"], comparison.shipped("VAE")
    found = comparison.score(model, "bound", thrown[::10], comparison.FEW).mean
    looser = values["throws"][0] - values["nll"]
    assert 0 < looser < 1
    assert found - values["tenth"] == pytest.approx(looser, abs=0.2)
    elbo = -comparison.score(model, "bound", thrown, 1).mean
    assert elbo == pytest.approx(values["elbo"], abs=0.3)


@pytest.mark.parametrize("name", ["AAE", "DCGAN"])
def test_drawings_score_as_their_row_says(grey, judge, name):
    """Of the models that have nothing else to score. Other drawings differ within the tolerance."""
    values, count = comparison.measurements()[name], comparison.DRAWS
    drawn = comparison.drawings(comparison.shipped(name), count)
    found = comparison.quality(drawn, comparison.real_images(grey), judge)
    assert found["frechet"] == pytest.approx(values["frechet"], rel=0.2)
    assert found["precision"] == pytest.approx(values["precision"], abs=0.04)
    assert found["recall"] == pytest.approx(values["recall"], abs=0.04)
    assert found["wrong_kind"] == pytest.approx(values["wrong_kind"], abs=4)


# --- weights that travel ---


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in SHIPPED])
def test_weights_that_do_not_travel_are_refused(name):
    with pytest.raises(ValueError, match="do not travel") as found:
        comparison.shipped(name)
    refused, _, there = str(found.value).partition("those do: ")
    assert repr(name) in refused
    assert there == "MADE, gated PixelCNN, VAE, AAE, DCGAN"


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(KeyError, match="PixelRNN"):
        comparison.shipped("PixelRNN")


# --- the contenders ---


@pytest.mark.parametrize("name", CONTENDERS)
def test_what_can_be_asked_agrees_with_the_map_of_families(name):
    made = CONTENDERS[name]
    (family,) = (each for each in families.FAMILIES if each.name == made.family)
    exact, bound = family.density.mark == "yes", family.bound.mark == "yes"
    assert made.likelihood == ("exact" if exact else "bound" if bound else "none")
    model = made.build()
    assert hasattr(model, "log_prob") == exact
    assert hasattr(model, "log_w") == (made.likelihood == "bound")


@pytest.mark.parametrize("name", CONTENDERS)
def test_drawings_of_an_untrained_model_are_black_and_white(name):
    drawn = comparison.drawings(CONTENDERS[name].build().eval(), 3)
    assert drawn.shape == (3, D)
    assert drawn.dtype == torch.float32
    assert {*drawn.unique().tolist()} <= {0.0, 1.0}
    assert not torch.equal(drawn[0], drawn[1])


class Painter(nn.Module):
    """A model whose drawings are given."""

    def __init__(self, picture):
        super().__init__()
        self.picture, self.asked = picture, []

    def sample(self, sample_shape):
        self.asked.append(sample_shape)
        return self.picture.expand(*sample_shape, 1, 28, 28)


def test_drawings_come_in_parts():
    painter = Painter(torch.zeros(28, 28))
    assert comparison.drawings(painter, 8, batch_size=3).shape == (8, D)
    assert painter.asked == [(3,), (3,), (2,)]


def test_no_drawings():
    assert comparison.drawings(Painter(torch.zeros(28, 28)), 0).shape == (0, D)


def test_a_reader_may_enter_a_wasserstein_autoencoder():
    encoder, decoder = nn.Linear(D, 2), ConditionalBernoulli(nn.Identity(), 2, D)
    wae = WAE(
        encoder, decoder, lambda count: torch.randn(count, 2), inverse_multiquadratic(4.0), 1.0
    )
    assert comparison.drawings(wae, 3).shape == (3, D)


def test_grey_drawings_are_thrown_and_black_and_white_ones_stay():
    picture = torch.tensor([0.0, 1.0, 0.3, 1.2, -0.1, 0.5, 0.9]).repeat(112).view(28, 28)
    drawn = comparison.drawings(Painter(picture), 100).view(-1, 7)
    expected = torch.tensor([0.0, 1.0, 0.3, 1.0, 0.0, 0.5, 0.9])
    assert torch.equal(drawn[:, [0, 1, 3, 4]].unique(dim=0), torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
    torch.testing.assert_close(drawn.mean(0), expected, rtol=0, atol=5 * 0.5 / math.sqrt(11_200))
    assert {*drawn.unique().tolist()} == {0.0, 1.0}


def test_the_adversarial_autoencoder():
    aae = presets.aae(latent=3, hidden=20)
    widths = lambda part: [tuple(p.shape) for p in part.parameters() if p.dim() == 2]
    assert widths(aae.encoder) == [(20, D), (20, 20), (3, 20)]
    assert widths(aae.decoder) == [(20, 3), (20, 20), (D, 20)]
    assert widths(aae.critic) == [(20, 3), (20, 20), (1, 20)]
    assert aae.critic(torch.zeros(5, 3)).shape == (5,)
    assert aae.prior(5).shape == (5, 3)
    codes = presets.normal_codes(20_000)
    assert codes.shape == (20_000, 8)
    assert codes.mean().item() == pytest.approx(0, abs=5 / math.sqrt(160_000))
    assert codes.std().item() == pytest.approx(1, abs=5 / math.sqrt(320_000))


# --- training ---


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_takes_a_step_that_the_seed_decides(name):
    made = of_one_batch(name)
    images = data.mnist().train.images[: SIZES.get(name, 8)].flatten(1)

    def trained(seed):
        torch.manual_seed(0)
        model = made.build()
        made.train(model, images, seed, "cpu")
        return model

    torch.manual_seed(0)
    start, model = made.build(), trained(0)
    assert all(p.isfinite().all() for p in model.parameters())
    assert not same(model, start)
    assert same(trained(0), model)
    assert same(trained(1), model) == (name == "independent pixels")


@pytest.fixture
def asked(monkeypatch):
    """What the trainings of `companion` are called with, in place of training."""
    calls = []

    def noted(model, batches, trainer, **settings):
        inspect.signature(trainer).bind(model, batches, **settings)
        calls.append((trainer.__name__, model, batches, settings))

    places = (training, "fit"), (presets, "fit_aae"), (presets, "fit_gan")
    for module, name in places:
        monkeypatch.setattr(module, name, partial(noted, trainer=getattr(module, name)))
    return calls


TRAINERS = {"GAN": "fit_gan", "Adversarial autoencoder": "fit_aae"}


@pytest.mark.parametrize("name", [n for n, c in CONTENDERS.items() if c.family[:9] != "Bernoulli"])
def test_a_contender_is_trained_as_its_recipe_says(asked, name):
    made, images = CONTENDERS[name], data.mnist().train.images[:300].flatten(1)
    model = made.build()
    start = copy.deepcopy(model)
    made.train(model, images, 7, "meta")
    ((trainer, given, batches, settings),) = asked
    assert (trainer, given) == (TRAINERS.get(made.family, "fit"), model)
    recipe = dict(made.train.keywords)
    assert batches.batch_size == recipe.pop("batch_size")
    assert settings == recipe | {"seed": 7, "device": "meta"}
    assert batches.seed == 7
    if made.family == "GAN":  # it is shown grey pictures
        assert not batches.dynamic
        assert torch.equal(batches.images, images.reshape(-1, 1, 28, 28) / 255)
        assert same(model, start)
        return
    assert batches.dynamic
    assert torch.equal(batches.images, images)
    begun = start.decoder if made.family == "Adversarial autoencoder" else start
    begun.start_from((images / 255).mean(0))
    assert same(model, start)


def test_pixels_are_counted_in_the_books_throw_of_the_training_images():
    images, model = data.mnist().train.images[:300].flatten(1), IndependentBernoulli(D)
    presets.by_counting(model, images, 5)
    expected = IndependentBernoulli(D).fit(data.binarize(images, seed=0))
    assert same(model, expected)


def test_a_mixture_begins_with_training_images_chosen_by_the_seed(monkeypatch):
    images, made = data.mnist().train.images[:300].flatten(1), CONTENDERS["mixture of 100"]
    fitted = []
    monkeypatch.setattr("companion.distributions.BernoulliMixture.fit", lambda *a: fitted.append(a))
    model = made.build()
    made.train.func(model, images, 7, epochs=3, batch_size=50)
    ((trained, batches, epochs),) = fitted
    assert (trained, epochs) == (model, 3)
    assert (batches.batch_size, batches.dynamic, batches.seed) == (50, True, 7)
    assert torch.equal(batches.images, images)
    torch.manual_seed(7)
    expected = made.build()
    expected.start_from(images[torch.randperm(300)[:100]] / 255)
    assert same(model, expected)


# --- what is asked of each ---


@pytest.mark.parametrize("name", ["independent pixels", "VAE", "VAE, 2 layers", "MADE", "AAE"])
def test_a_likelihood_has_what_its_kind_has(monkeypatch, grey, name):
    monkeypatch.setattr(comparison, "FEW", 3)
    made = CONTENDERS[name]
    found = comparison.likelihood(made.build().eval(), made.likelihood, grey[:10])
    assert found.keys() == LIKELIHOOD[made.likelihood]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_an_exact_likelihood(grey):
    images = grey[:1010]
    model = IndependentBernoulli(D).fit((images > 100).byte())
    found = comparison.likelihood(model, "exact", images)
    each = [-model.log_prob(data.binarize(images, seed=seed).float()) for seed in range(2, 7)]
    assert found["throws"] == pytest.approx([x.mean().item() for x in each], abs=1e-3)
    assert found["nll"] == found["throws"][0]
    assert found["standard_error"] == pytest.approx(
        each[0].std().item() / math.sqrt(1010), abs=1e-3
    )
    assert found["tenth"] == pytest.approx(each[0][::10].mean().item(), abs=1e-3)
    assert abs(found["tenth"] - found["nll"]) > 0.01, "else it could be either"
    assert found["score_seconds"] > 0


def test_a_bound_of_the_likelihood(monkeypatch, grey):
    """A stand-in for the estimator tells in its score which images it saw, with how many draws."""
    images, asked = grey[:1010], []
    throws = [data.binarize(images, seed=seed) for seed in range(2, 7)]

    def importance_sampled_nll(model, x, samples, *, device):
        assert device.type == "cpu"  # where the model is, so that its times compare
        (place,) = (
            i
            for i, throw in enumerate(throws)
            if any(torch.equal(x, each) for each in (throw, throw[::10]))
        )
        asked.append((place, len(x), samples))
        return evaluation.ImportanceEstimate(place + len(x) / 1e4 + samples, 0.25, samples / 10)

    monkeypatch.setattr(comparison.evaluation, "importance_sampled_nll", importance_sampled_nll)
    found = comparison.likelihood(nn.Module(), "bound", images)
    assert sorted(asked) == sorted(
        [
            (0, 101, 500),
            (0, 101, 5000),
            (0, 1010, 500),
            (0, 1010, 1),
            *((i, 1010, 50) for i in range(5)),
        ]
    )
    found.pop("score_seconds")
    assert found == {
        "nll": 500.101,
        "standard_error": 0.25,
        "tenth": 500.0101,
        "tenth_longer": 5000.0101,
        "samples": 500,
        "effective_samples": 50.0,
        "elbo": -1.101,
        "throws": [50.101, 51.101, 52.101, 53.101, 54.101],
    }


def test_real_images_are_of_all_test_images_and_of_the_books_throw(grey, thrown):
    found = comparison.real_images(grey)
    assert found.shape == (comparison.DRAWS, D)
    assert found.dtype == torch.float32
    place = {image.numpy().tobytes(): n for n, image in enumerate(thrown)}
    chosen = [place[image.numpy().tobytes()] for image in found.byte()]
    assert len(set(chosen)) == len(chosen)
    late = sum(n >= 5000 for n in chosen) / len(chosen)
    assert late == pytest.approx(0.5, abs=0.04), "of both halves of the test set"
    assert torch.equal(comparison.real_images(grey), found)


def test_a_score_is_exact_or_of_so_many_draws(thrown):
    model = IndependentBernoulli(D)
    assert comparison.score(model, "exact", thrown[:9]).mean == pytest.approx(D * math.log(2))
    vae, x = one_layer(hidden=5, latent=2).eval(), thrown[:9]
    torch.manual_seed(0)
    found = comparison.score(vae, "bound", x, 7)
    torch.manual_seed(0)
    assert found == evaluation.importance_sampled_nll(vae, x, 7)


def test_the_number_of_draws_is_that_of_the_rows(thrown, monkeypatch):
    asked = []

    def importance_sampled_nll(*given, device):
        asked.append((*given, device))

    monkeypatch.setattr(comparison.evaluation, "importance_sampled_nll", importance_sampled_nll)
    monkeypatch.setattr(comparison, "K", 7)
    comparison.score(None, "bound", thrown, device="meta")
    assert asked == [(None, thrown, 7, "meta")]


def test_the_quality_of_the_same_pictures_is_perfect(thrown, judge):
    images = thrown[:100]
    found = comparison.quality(images.float(), images, judge)
    assert found.pop("frechet") == pytest.approx(0, abs=0.01)
    assert found == {"precision": 1.0, "recall": 1.0, "wrong_kind": 0.0}


def test_the_quality_of_sound_but_monotonous_pictures(thrown, judge):
    """Ones alone: each looks real, and nine digits are missing."""
    digits = judge.classify(thrown.float().view(-1, 28, 28))
    ones = thrown[1000:][digits[1000:] == 1][:300]
    found = comparison.quality(ones, thrown[:300], judge)
    share = (digits[:300] == 1).double().mean().item()
    assert found["wrong_kind"] == pytest.approx(100 * (1 - share), abs=1e-4)
    assert found["precision"] > 0.8
    assert found["recall"] < 0.4
    everything = comparison.quality(thrown[300:600], thrown[:300], judge)
    assert found["frechet"] > 5 * everything["frechet"]


def test_the_time_of_drawings_is_a_median(monkeypatch):
    clock, counts = iter([0.0, 4.0, 10.0, 11.0, 20.0, 22.0]), []
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(comparison, "drawings", lambda model, count: counts.append(count))
    assert comparison.seconds_for_drawings(nn.Module()) == 2.0
    assert counts == [100] * 3


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_trains_and_is_measured(tiny, monkeypatch, name):
    monkeypatch.setattr(comparison, "seconds_for_drawings", lambda model: 0.25)
    model, values = comparison.train_one(name, device="cpu")
    made = CONTENDERS[name]
    assert values.keys() == MEASURED | LIKELIHOOD[made.likelihood]
    assert values["parameters"] == free_parameters(model)
    assert values["draw_seconds"] == 0.25
    assert values["train_seconds"] >= 0
    assert not any(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    rounded = all(torch.equal(p, p.half().float()) for p in model.parameters())
    assert rounded == made.shipped, "what is measured is what is shipped"
    if made.likelihood != "none":
        assert 100 < values["nll"] < 600


def test_a_trained_model_is_measured_on_the_test_images(tiny, monkeypatch):
    """The likelihood of all, the drawings against as many of the book's throw."""
    images = tiny.test.images.flatten(1)

    def likelihood(model, kind, given):
        assert kind == "exact"
        assert torch.equal(given, images)
        return {"nll": 1.0}

    def quality(drawn, given, judge):
        assert drawn.shape == (8, D)
        assert torch.equal(given, comparison.real_images(images))
        return {"recall": 0.5}

    monkeypatch.setattr(comparison, "likelihood", likelihood)
    monkeypatch.setattr(comparison, "quality", quality)
    trained = []

    def train(model, given, seed, device):
        trained.append((seed, device))
        assert torch.equal(given, tiny.train.images.flatten(1))

    made = Preset("Bernoulli mixture", partial(IndependentBernoulli, D), train, "exact")
    monkeypatch.setitem(CONTENDERS, "MADE", made)
    _, values = comparison.train_one("MADE", 3, device="meta")
    assert trained == [(3, "meta")]
    assert values.items() >= {"nll": 1.0, "recall": 0.5, "parameters": D}.items()


# --- recipes ---


def test_a_recipe_in_words():
    assert comparison.recipe("gated PixelCNN") == {
        "build": "GatedPixelCNN(channels=32, layers=3, kernel=5, first_kernel=15)",
        "train": "by_gradient(batch_size=64, epochs=2, learning_rate=0.01, warmup=0.05, "
        "precision=fast)",
        "drawings": 3000,
    }
    assert comparison.recipe("AAE")["build"] == "aae"
    assert comparison.recipe("VAE")["samples"] == 500
    recipes = [json.dumps(comparison.recipe(name)) for name in CONTENDERS]
    assert len(set(recipes)) == len(recipes)
    assert "<" not in "".join(recipes), "a function without a name, or an object's address"


@pytest.mark.parametrize(
    "change",
    [
        {"build": partial(IndependentBernoulli, 783)},
        {"train": partial(presets.by_gradient, batch_size=250, epochs=9, learning_rate=3e-2)},
    ],
    ids=["build", "train"],
)
def test_a_row_of_another_recipe_is_outdated(files, monkeypatch, change):
    for name in ("FVSBN", "NADE"):
        made_by = {"recipe": comparison.recipe(name)}
        results.add(comparison.EXPERIMENT, {"model": name, "seed": 0}, {"nll": 90.0}, made_by)
    assert comparison.measurements() == {"FVSBN": {"nll": 90.0}, "NADE": {"nll": 90.0}}
    monkeypatch.setitem(CONTENDERS, "FVSBN", CONTENDERS["FVSBN"]._replace(**change))
    assert comparison.measurements() == {"NADE": {"nll": 90.0}}
    monkeypatch.setattr(comparison, "CONTENDERS", {"MADE": CONTENDERS["MADE"]})
    assert comparison.stored() == {}


@pytest.mark.parametrize("number", ["K", "DRAWS"])
def test_a_row_that_was_measured_otherwise_is_outdated(monkeypatch, number):
    before = comparison.recipe("VAE")
    monkeypatch.setattr(comparison, number, 7)
    assert comparison.recipe("VAE") != before


def test_what_is_only_said_of_a_contender_is_no_part_of_its_recipe(monkeypatch):
    before = comparison.recipe("FVSBN")
    other = CONTENDERS["FVSBN"]._replace(family="GAN", likelihood="none", shipped=True)
    monkeypatch.setitem(CONTENDERS, "FVSBN", other)
    assert comparison.recipe("FVSBN") == before


# --- tables ---

ROWS = {
    "MADE": {
        "parameters": 700220,
        "train_seconds": 1234.5,
        "draw_seconds": 0.0378,
        "nll": 88.6176,
        "standard_error": 0.2274,
        "score_seconds": 1.5004,
        "throws": [88.0, 89.0, 88.0, 89.0, 88.5],
        "frechet": 75.3319,
        "precision": 0.596,
        "recall": 0.87,
        "wrong_kind": 12.2667,
    },
    "VAE": {
        "parameters": 425284,
        "train_seconds": 75.3,
        "draw_seconds": 0.0012,
        "nll": 91.8053,
        "standard_error": 0.2393,
        "score_seconds": 3.9264,
        "samples": 123,
        "elbo": -96.1684,
        "throws": [92.0, 92.1, 92.2, 92.1, 92.1],
        "frechet": 119.6,
        "precision": 0.6363,
        "recall": 0.8133,
        "wrong_kind": 12.9,
    },
    "AAE": {
        "parameters": 440593,
        "train_seconds": 87.6,
        "draw_seconds": 0.0111,
        "frechet": 63.8501,
        "precision": 0.8107,
        "recall": 0.7317,
        "wrong_kind": 3.4667,
    },
}


def lines(table, *names):
    """The head of a table, and the lines of some models."""
    head, _, *rest = table(ROWS).splitlines()
    assert [line.split(" | ")[0][2:] for line in rest] == [*CONTENDERS]
    return [head, *(line for line in rest if line.split(" | ")[0][2:] in names)]


def test_the_table_of_contenders():
    head, _, *rest = comparison.contenders_table().splitlines()
    assert head == "| model | family | parameters |"
    assert len(rest) == len(CONTENDERS)
    assert "| FVSBN | Autoregressive model | 307,720 |" in rest  # 784 biases, 784 * 783 / 2 weights
    assert "| independent pixels | Bernoulli mixture | 784 |" in rest


def test_the_table_of_likelihoods():
    assert lines(comparison.likelihood_table, "MADE", "VAE", "NADE", "AAE", "DCGAN") == [
        "| model | NLL | how | negative ELBO | spread of throws |",
        "| NADE | not yet run |  |  |  |",
        "| MADE | 88.62 ± 0.23 | exact |  | 0.50 |",
        "| VAE | ≤ 91.81 ± 0.24 | 123 draws | ≤ 96.17 | 0.07 |",
        "| AAE | not computed |  |  |  |",
        "| DCGAN | not yet run |  |  |  |",
    ]


def test_the_table_of_drawings():
    assert lines(comparison.quality_table, "MADE", "VAE", "NADE", "AAE") == [
        "| drawings of | Fréchet distance, squared | precision | recall | wrong kind, % |",
        "| NADE | not yet run |  |  |  |",
        "| MADE | 75 | 0.60 | 0.87 | 12 |",
        "| VAE | 120 | 0.64 | 0.81 | 13 |",
        "| AAE | 64 | 0.81 | 0.73 | 3 |",
    ]


def test_the_table_of_costs():
    assert lines(comparison.cost_table, "MADE", "VAE", "NADE", "AAE") == [
        "| model | training, s | 100 drawings, ms | 1,000 scores, ms |",
        "| NADE | not yet run |  |  |",
        "| MADE | 1,234 | 38 | 1,500 |",
        "| VAE | 75 | 1 | 3,926 |",
        "| AAE | 88 | 11 | – |",
    ]


def test_the_overview_marks_the_best_of_each_column():
    rows = {
        "a": {"nll": 90.04, "standard_error": 0.26, "elbo": -95.0, "draw_seconds": 0.0011},
        "b": {"nll": 88.0, "standard_error": 0.2, "draw_seconds": 0.0014, "parameters": 1234},
        "c": {"draw_seconds": 0.02},
    }
    for row, precision in zip(rows.values(), (0.9, 0.835, 0.7), strict=True):
        row["precision"] = precision
    header, _, *lines = comparison.overview(rows, best=1).splitlines()
    names = [name.strip() for name in header.split("|")[1:-1]]
    cells = [dict(zip(names, line.split("|")[1:-1], strict=True)) for line in lines]
    columns = {name: [line[name].strip() for line in cells] for name in names}
    assert columns["NLL"] == ["≤\u00a090.0 ± 0.3", "**88.0 ± 0.2**", "–"]
    assert f"{0.835:.2f}" == "0.83", "so it is in the table of drawings"
    assert columns["prec., %"] == ["**90**", "83", "70"], "the highest"
    assert columns["draw, ms"] == ["**1**", "**1**", "20"], "alike in print"
    assert columns["size, k"] == ["–", "**1**", "–"]
    assert columns["score, ms"] == ["–"] * 3


def test_the_tables_are_of_the_committed_rows():
    rows = comparison.measurements()
    for table in (comparison.likelihood_table, comparison.quality_table, comparison.cost_table):
        assert table(rows).count("not yet run") == len(CONTENDERS) - len(rows)


# --- the command ---


@pytest.fixture
def ran(tiny, monkeypatch):
    """What the command trains, and with a fixed time of drawings."""
    calls, train_one = [], comparison.train_one

    def counted(name, *, device):
        calls.append((name, device))
        return train_one(name, device=device)

    monkeypatch.setattr(comparison, "seconds_for_drawings", lambda model: 0.25)
    monkeypatch.setattr(results, "provenance", lambda *given: {"command": given[0], "on": given[1]})
    monkeypatch.setattr(comparison, "train_one", counted)
    return calls


def test_the_command_writes_weights_and_rows_and_no_row_twice(ran, files, capsys):
    arguments = ["--models", "independent pixels", "MADE", "--device", "cpu"]
    comparison.main(arguments)
    assert ran == [("independent pixels", "cpu"), ("MADE", "cpu")]
    assert {path.name for path in files.rglob("*.*")} == {"results.json", "made.safetensors"}
    command = {"command": f"{COMMAND} --models 'independent pixels' MADE --device cpu", "on": "cpu"}
    stored = comparison.stored()
    assert stored["independent pixels"]["provenance"] == command | {
        "recipe": comparison.recipe("independent pixels")
    }
    assert stored["MADE"]["settings"] == {"model": "MADE", "seed": 0}
    assert stored["MADE"]["provenance"] == command | {
        "recipe": comparison.recipe("MADE"),
        "sha256": fingerprint("MADE"),
    }
    score = comparison.measurements()["MADE"]["nll"]
    printed = capsys.readouterr().out
    assert f"| MADE | {score:.2f} ±" in printed
    assert f"MADE: {stored['MADE']['values']}" in printed
    assert "| drawings of |" in printed
    assert "| 100 drawings, ms |" in printed

    before = {path: path.read_bytes() for path in files.rglob("*.*")}
    comparison.main(arguments)
    assert len(ran) == 2, "nothing is trained again"
    assert {path: path.read_bytes() for path in files.rglob("*.*")} == before
    comparison.main(["--models", "FVSBN", "MADE", "--device", "cpu"])
    assert ran[2:] == [("FVSBN", "cpu")]


@pytest.mark.parametrize("name", ["MADE", "VAE", "AAE", "DCGAN"])
def test_the_weights_that_are_written_are_those_that_were_measured(ran, monkeypatch, tiny, name):
    kept, train_one = [], comparison.train_one

    def keep(name, *, device):
        model, values = train_one(name, device=device)
        kept.extend(p.clone() for p in model.parameters())
        return model, values

    monkeypatch.setattr(comparison, "train_one", keep)
    comparison.main(["--models", name, "--device", "cpu"])
    read = comparison.shipped(name)
    assert all(torch.equal(p, q) for p, q in zip(read.parameters(), kept, strict=True))
    if CONTENDERS[name].likelihood == "exact":
        x = data.binarize(tiny.test.images.flatten(1), seed=2)
        again = comparison.score(read, "exact", x).mean
        assert again == pytest.approx(comparison.measurements()[name]["nll"], abs=1e-3)


def test_a_row_of_another_recipe_is_run_again(ran, monkeypatch):
    arguments = ["--models", "MADE", "independent pixels", "--device", "cpu"]
    comparison.main(arguments)
    first = fingerprint("MADE")
    made = CONTENDERS["MADE"]
    faster = partial(made.train.func, **made.train.keywords | {"learning_rate": 1e-2})
    monkeypatch.setitem(CONTENDERS, "MADE", made._replace(train=faster))
    comparison.main(arguments)
    assert [name for name, _ in ran] == ["MADE", "independent pixels", "MADE"]
    assert len(results.rows(comparison.EXPERIMENT)) == 2
    assert fingerprint("MADE") == comparison.stored()["MADE"]["provenance"]["sha256"] != first


def test_a_command_that_is_killed_leaves_no_half_of_a_file(ran, files, monkeypatch):
    """Killed while it writes weights, or between weights and row: it is simply called again."""
    arguments = ["--models", "MADE", "--device", "cpu"]

    class Killed(Exception):
        pass

    def killed(*_, **__):
        raise Killed

    comparison.weights_of("MADE").parent.mkdir()
    comparison.weights_of("MADE").write_bytes(b"older")
    with monkeypatch.context() as patch:
        patch.setattr("companion.training.checkpoint.os.replace", killed)
        with pytest.raises(Killed):
            comparison.main(arguments)
    assert comparison.weights_of("MADE").read_bytes() == b"older"
    assert comparison.stored() == {}
    with monkeypatch.context() as patch:
        patch.setattr(results, "add", killed)
        with pytest.raises(Killed):
            comparison.main(arguments)
    assert comparison.stored() == {}
    assert comparison.weights_of("MADE").read_bytes() == b"older", "which its row is of"
    comparison.main(arguments)
    assert fingerprint("MADE") == comparison.stored()["MADE"]["provenance"]["sha256"]
    assert len(ran) == 3


def test_the_command_runs_all_contenders_by_default(files, monkeypatch, capsys):
    asked = []

    def train_one(name, *, device):
        asked.append((name, device))
        return nn.Linear(1, 1), ROWS[
            {"exact": "MADE", "bound": "VAE", "none": "AAE"}[CONTENDERS[name].likelihood]
        ]

    monkeypatch.setattr(comparison, "train_one", train_one)
    monkeypatch.setattr(results, "provenance", lambda *given: {})
    monkeypatch.setattr(comparison.sys, "argv", ["comparison", "--device", "meta"])
    comparison.main()
    assert asked == [(name, "meta") for name in CONTENDERS]
    assert "not yet run" not in capsys.readouterr().out
    assert {path.stem for path in comparison.WEIGHTS.iterdir()} == {
        "made",
        "gated_pixelcnn",
        "vae",
        "aae",
        "dcgan",
    }
