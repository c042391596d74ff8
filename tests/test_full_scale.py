"""The full-scale table: a run becomes a row; rows of an older recipe; weights that travel."""

import hashlib
import json
from functools import partial

import pytest
import torch

from companion import data, evaluation, results, runs
from companion.autoregressive import FVSBN, MADE
from companion.experiments import comparison, full_scale
from companion.gan import dcgan
from companion.nn import free_parameters
from companion.presets import CHAPTER, PAPER, PRESETS, Preset, by_game_of_pictures, by_gradient
from companion.published import IWAE, REDRAWN, score
from companion.vae import elbo, iwae, one_layer

COMMAND = "python -m companion evaluate {} --preset paper --record, after the same with train"
# The committed ones, before a test takes a file of its own.
ROWS = {name: rows[0] for name in PAPER if (rows := full_scale.current_rows(name))}
SHIPPED = [name for name, preset in PAPER.items() if preset.shipped and name in ROWS]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Presets that train in a moment, on few images, and files of the test's own."""
    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    monkeypatch.setattr(comparison, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(comparison, "DRAWS", 8)
    mnist = data.mnist()
    few = lambda split, count: data.Split(split.images[:count], split.labels[:count])
    dataset = data.Dataset(few(mnist.train, 300), few(mnist.validation, 200), few(mnist.test, 100))
    monkeypatch.setattr(runs.data, "load", lambda name: dataset)
    train = partial(by_gradient, batch_size=50, epochs=2, learning_rate=0.02)
    of = partial(Preset, held_out=False)
    presets = {
        "FVSBN": of(
            "Autoregressive model",
            partial(FVSBN, 784),
            train,
            "exact",
            published=score("FVSBN", REDRAWN),
        ),
        "MADE": of(
            "Autoregressive model",
            partial(MADE, 784, (5,)),
            train,
            "exact",
            published=score("MADE, 8,000 units", REDRAWN),
            shipped=True,
        ),
        "VAE": of(
            "Variational autoencoder",
            partial(one_layer, hidden=20, latent=3, bound=iwae, samples=2),
            train,
            "bound",
            published=score("VAE, 1 layer", IWAE),
        ),
        "DCGAN": Preset(
            "GAN",
            partial(dcgan, channels=8),
            partial(by_game_of_pictures, batch_size=100, epochs=1),
            "none",
        ),
    }
    monkeypatch.setattr(full_scale, "PAPER", presets)
    monkeypatch.setitem(PRESETS, "paper", presets)
    monkeypatch.setattr(full_scale, "K", 7)
    monkeypatch.chdir(tmp_path)
    return dataset


def trained(name, folder="run", **settings):
    return runs.train(name, "paper", folder, command="the command", device="cpu", **settings)


def test_a_run_becomes_a_row(tiny, tmp_path):
    model = trained("FVSBN")
    row = full_scale.record("FVSBN", tmp_path / "run", command="the scoring")
    assert results.rows("full-scale") == [row]
    assert row["settings"] == {"model": "FVSBN", "seed": 0}
    x = data.binarize(tiny.test.images.flatten(1), seed=2)
    found = evaluation.nll(model, x)
    values = row["values"]
    assert values["nll"] == pytest.approx(found.mean, abs=1e-4)
    assert values["standard_error"] == pytest.approx(found.standard_error, abs=1e-4)
    assert values["parameters"] == 784 * 785 // 2
    assert values["train_seconds"] >= 0
    assert values["score_seconds"] >= 0
    assert values.keys() == {
        "parameters",
        "train_seconds",
        "memory_mb",
        "nll",
        "standard_error",
        "score_seconds",
    }
    made = row["provenance"]
    assert made["command"] == "the command"
    assert made["scored"]["command"] == "the scoring"
    assert made["scored"].keys() == {"command", "commit", "device", "versions"}
    assert (made["precision"], made["compiled"]) == ("no", False)
    assert made["recipe"] == {
        "build": "FVSBN(784)",
        "train": "by_gradient(batch_size=50, epochs=2, learning_rate=0.02)",
        "data": "mnist",
        "held_out": False,
    }
    assert "sha256" not in made
    assert str(tmp_path) not in json.dumps(row)


def test_a_bound_is_scored_with_the_draws_of_the_sources(tiny, tmp_path, monkeypatch):
    asked, original = [], evaluation.importance_sampled_nll

    def importance_sampled_nll(model, x, samples, **sizes):
        assert torch.equal(x, data.binarize(tiny.test.images.flatten(1), seed=2))
        assert sizes["batch_size"] * sizes["chunk"] * 784 * 4 < 1e8, "bytes of a layer's output"
        asked.append((samples, original(model, x, samples, **sizes)))
        return asked[-1][1]

    monkeypatch.setattr(full_scale.evaluation, "importance_sampled_nll", importance_sampled_nll)
    trained("VAE")
    values = full_scale.record("VAE", tmp_path / "run")["values"]
    ((samples, found),) = asked
    assert samples == values["samples"] == 7
    assert values["nll"] == pytest.approx(found.mean, abs=1e-4)
    assert values["effective_samples"] == pytest.approx(found.effective_samples, abs=0.01)
    assert full_scale.recipe("VAE")["samples"] == 7


def test_what_has_no_likelihood_is_judged_by_its_drawings(tiny, tmp_path, monkeypatch):
    trained("DCGAN")
    values = full_scale.record("DCGAN", tmp_path / "run")["values"]
    assert {*comparison.SCORES_OF_DRAWINGS} <= values.keys()
    assert "nll" not in values
    scores = [f"{values[k]:.{d}f}" for k, d in comparison.SCORES_OF_DRAWINGS.items()]
    assert full_scale.drawings_table().splitlines()[2:] == [
        f"| DCGAN | {values['parameters']:,} | {' | '.join(scores)} |"
    ]
    monkeypatch.setattr(full_scale, "current_rows", lambda name: [])
    assert full_scale.drawings_table().endswith(" | not yet run |  |  |  |")


def test_a_shipped_model_is_measured_as_it_is_shipped(tiny, tmp_path):
    exact = trained("MADE")
    row = full_scale.record("MADE", tmp_path / "run")
    path = full_scale.weights_of("MADE")
    assert path == tmp_path / "weights" / "paper-made.safetensors"
    assert row["provenance"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    model = full_scale.shipped("MADE")
    pairs = [*zip(model.parameters(), exact.parameters(), strict=True)]
    assert all(torch.equal(a, b.half().float()) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in pairs)
    found = evaluation.nll(model, data.binarize(tiny.test.images.flatten(1), seed=2))
    assert row["values"]["nll"] == pytest.approx(found.mean, abs=1e-4)
    assert not (tmp_path / "run" / "half.safetensors").exists()
    with pytest.raises(ValueError, match="'VAE' do not travel with the package; those do: MADE"):
        full_scale.shipped("VAE")


def test_another_seed_has_a_row_of_its_own_and_no_weights_that_travel(tiny, tmp_path):
    trained("MADE")
    first = full_scale.record("MADE", tmp_path / "run")
    before = full_scale.weights_of("MADE").read_bytes()
    trained("MADE", "another", seed=1)
    row = full_scale.record("MADE", tmp_path / "another")
    assert "sha256" not in row["provenance"]
    assert full_scale.current_rows("MADE") == [first, row]
    assert full_scale.weights_of("MADE").read_bytes() == before


def test_a_scoring_that_fails_leaves_nothing(tiny, tmp_path, monkeypatch):
    trained("MADE")
    before = {path.name for path in (tmp_path / "run").iterdir()}
    monkeypatch.setattr(results, "add", lambda *_: {}["a full disk"])
    with pytest.raises(KeyError):
        full_scale.record("MADE", tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == before
    assert not [*(tmp_path / "weights").glob("*")]


def test_only_a_finished_run_of_the_preset_s_recipe_becomes_a_row(tiny, tmp_path):
    with pytest.raises(ValueError, match="no finished run: train the model first"):
        full_scale.record("FVSBN", tmp_path / "run")
    trained("FVSBN", epochs=1)
    with pytest.raises(ValueError, match="another recipe than the preset's"):
        full_scale.record("FVSBN", tmp_path / "run")
    run = runs.read("run")
    runs.write("run", run | {"finished": False})
    with pytest.raises(ValueError, match="no finished run"):
        full_scale.record("FVSBN", tmp_path / "run")
    assert results.rows("full-scale") == []


@pytest.mark.parametrize(
    "change",
    [
        {"data": "fashion-mnist"},
        {"held_out": True},
        {"build": partial(one_layer, hidden=20, latent=3, bound=iwae, samples=3)},
        {"build": partial(one_layer, hidden=20, latent=3, bound=elbo, samples=2)},
        {"train": partial(by_gradient, batch_size=25, epochs=2, learning_rate=0.02)},
        {"train": partial(by_gradient, batch_size=50, epochs=3, learning_rate=0.02)},
    ],
    ids=["data", "validation", "K", "bound", "batch", "epochs"],
)
def test_a_row_of_an_older_recipe_is_outdated(tiny, monkeypatch, change):
    provenance = {"recipe": full_scale.recipe("VAE"), "command": "", "versions": {}}
    values = {"nll": 90.0, "standard_error": 0.1, "train_seconds": 120.0}
    results.add(full_scale.EXPERIMENT, {"model": "VAE", "seed": 0}, values, provenance)
    assert len(full_scale.current_rows("VAE")) == 1
    assert "| VAE | 33,210 | ≤ 90.00 ± 0.10 | 86.76 |" in full_scale.table()
    preset = full_scale.PAPER["VAE"]
    monkeypatch.setitem(full_scale.PAPER, "VAE", preset._replace(**change))
    assert full_scale.current_rows("VAE") == []
    assert "≤" not in full_scale.table("variational-autoencoders")


def test_other_draws_outdate_a_bound_alone(tiny, monkeypatch):
    before = {name: full_scale.recipe(name) for name in ("VAE", "FVSBN")}
    monkeypatch.setattr(full_scale, "K", 8)
    assert full_scale.recipe("VAE") != before["VAE"]
    assert full_scale.recipe("FVSBN") == before["FVSBN"]


def test_a_change_of_what_is_only_compared_with_outdates_nothing(tiny, monkeypatch):
    before = full_scale.recipe("VAE")
    changed = full_scale.PAPER["VAE"]._replace(published=score("VAE, 2 layers", IWAE))
    monkeypatch.setitem(full_scale.PAPER, "VAE", changed)
    assert full_scale.recipe("VAE") == before


def test_the_table_of_a_chapter(tiny):
    whole = full_scale.table().splitlines()
    assert [line.split(" | ")[0] for line in whole[2:]] == ["| FVSBN", "| MADE", "| VAE"]
    assert all(" | not yet run | " in line for line in whole[2:])
    assert full_scale.table("autoregressive-models").splitlines() == whole[:4]
    assert full_scale.table("variational-autoencoders").splitlines() == whole[:2] + whole[4:]
    with pytest.raises(ValueError, match="'variational-autoencoder'"):
        full_scale.table("variational-autoencoder")


def test_every_published_score_is_in_the_table_of_one_chapter():
    tables = [full_scale.table(c) for c in ("autoregressive-models", "variational-autoencoders")]
    lines = [line for table in tables for line in table.splitlines() if line[:2] == "| "]
    names = [name for line in lines if (name := line.split(" | ")[0][2:]) in PAPER]
    assert names == [name for name, preset in PAPER.items() if preset.published]


def test_each_data_set_has_a_table_of_its_own():
    digits, clothes = full_scale.table("variational-autoencoders").split("\n\n")
    assert "| Fashion VAE |" in clothes
    assert clothes.startswith("| model of Fashion-MNIST | parameters | NLL | published |")
    assert "ashion" not in digits
    assert "\n\n" not in full_scale.table("autoregressive-models")


def test_no_two_presets_have_the_same_recipe():
    for presets in (CHAPTER, PAPER):
        recipes = [json.dumps(runs.recipe(preset)) for preset in presets.values()]
        assert len({*recipes}) == len(recipes)
        for recipe in recipes:
            assert "<" not in recipe, "a function without a name, or an object's address"


# --- committed rows and weights ---


def test_no_committed_row_is_of_an_older_recipe():
    for row in results.rows(full_scale.EXPERIMENT):
        name = row["settings"]["model"]
        assert row in full_scale.current_rows(name), f"run again: {COMMAND.format(runs.slug(name))}"


@pytest.mark.parametrize("name", ROWS)
def test_a_committed_row_is_whole(name):
    values, made = ROWS[name]["values"], ROWS[name]["provenance"]
    assert values["parameters"] == free_parameters(PAPER[name].build())
    assert "-dirty" not in made["commit"] + made["scored"]["commit"]
    # A model's name may be written in capitals, as in the tables.
    trained, scored = made["command"].lower(), made["scored"]["command"].lower()
    assert scored.startswith(f"python -m companion evaluate {runs.slug(name)} --preset paper ")
    assert trained.startswith(f"python -m companion train {runs.slug(name)} "), (
        "by the command line"
    )
    assert ("sha256" in made) == PAPER[name].shipped
    assert values["train_seconds"] > 10
    if PAPER[name].likelihood == "bound":
        assert values["samples"] == 5000
        assert 1 < values["effective_samples"] < 5000


def test_the_folder_of_weights_holds_those_that_travel_and_no_others():
    found = {*comparison.WEIGHTS.glob("paper-*")}
    assert found == {full_scale.weights_of(name) for name in SHIPPED}
    everything = [*comparison.WEIGHTS.iterdir()]
    assert sum(path.stat().st_size for path in everything) < 12e6


@pytest.mark.parametrize("name", SHIPPED)
def test_the_weights_in_the_package_are_those_of_the_row(name):
    content = full_scale.weights_of(name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == ROWS[name]["provenance"]["sha256"]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_weights_give_the_score_of_the_row(name):
    """Exactly where it is exact; with a hundredth of the draws a bound is a little higher."""
    x = data.binarize(runs.images(PAPER[name])[2], seed=2)
    model, values = full_scale.shipped(name), ROWS[name]["values"]
    torch.manual_seed(0)
    if PAPER[name].likelihood == "exact":
        assert evaluation.nll(model, x, 250).mean == pytest.approx(values["nll"], abs=1e-3)
        return
    found = evaluation.importance_sampled_nll(model, x, 50)
    assert 0.3 < found.mean - values["nll"] < 1.2
    assert values["standard_error"] == pytest.approx(found.standard_error, rel=0.05)
