"""The experiments: rows that resume, tables that say what is missing, and a committed row again."""

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from companion import data, results
from companion.__main__ import EXPERIMENTS
from companion.autoregressive import FVSBN
from companion.experiments import (
    common,
    mode_collapse,
    pixel_orders,
)
from companion.gan import gradient_penalty, r1, saturating, wasserstein

CHEAP = "FVSBN, window of a row"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of results of the test's own."""
    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    return results.PATH


@pytest.fixture(scope="module")
def few():
    mnist = data.mnist()
    return mnist.train.images[:500].flatten(1), mnist.test.images[:100].flatten(1)


# --- pixel orders ---


def test_a_committed_row_can_be_computed_again():
    command = f'python -m companion.experiments.pixel_orders --models "{CHEAP}" --orders raster'
    wanted = {"model": CHEAP, "order": "raster", "seed": 0}
    stored = [row for row in pixel_orders.current_rows() if row["settings"] == wanted]
    assert stored, f"no row of today's recipe in companion/_data/results.json; run: {command}"
    values = pixel_orders.train_one(**wanted, device="cpu")
    expected = stored[0]["values"]
    assert values["nll"] == pytest.approx(expected["nll"], abs=0.3), f"if on purpose: {command}"
    assert values["standard_error"] == pytest.approx(expected["standard_error"], rel=0.05)


def test_no_committed_row_is_of_an_older_recipe():
    stored, current = results.rows(pixel_orders.EXPERIMENT), pixel_orders.current_rows()
    outdated = [row["settings"] for row in stored if row not in current]
    assert not outdated, "run again: python -m companion.experiments.pixel_orders"


@pytest.mark.parametrize("model", pixel_orders.RECIPES)
@pytest.mark.parametrize("order", pixel_orders.ORDERS)
def test_every_recipe_takes_every_order(model, order):
    torch.manual_seed(0)
    net = pixel_orders.RECIPES[model]["model"](pixel_orders.ORDERS[order](1))
    assert torch.equal(net.orders[0], pixel_orders.ORDERS[order](1))
    assert pixel_orders.recipe(model)["epochs"] >= 1


def test_only_the_random_order_depends_on_the_seed():
    changes = {
        name: not torch.equal(order(0), order(1)) for name, order in pixel_orders.ORDERS.items()
    }
    assert changes == {"raster": False, "column": False, "random": True, "Hilbert": False}


def test_only_the_convolutions_run_in_the_fast_precision(monkeypatch):
    monkeypatch.setattr("companion.training.fast_precision", lambda device: f"fast on {device}")
    found = {
        model: common.precision(pixel_orders.recipe(model), "cpu") for model in pixel_orders.RECIPES
    }
    assert found.pop("Gated PixelCNN") == {"precision": "fast on cpu"}
    assert not any(found.values())


@pytest.mark.parametrize("model", pixel_orders.RECIPES)
def test_every_recipe_trains(few, model):
    train, test = (images[:250] for images in few)
    values = pixel_orders.train_one(model, "random", 0, train=train, test=test, device="cpu")
    assert values.keys() == {"nll", "standard_error"}
    assert values["nll"] < 400, "far below the 543 nats of half each"


@pytest.mark.parametrize("model", [CHEAP, "MADE"], ids=["zero weights", "random weights"])
def test_one_seed_decides_everything(few, model):
    def score(seed, order="raster"):
        train, test = few
        made = pixel_orders.train_one(model, order, seed, train=train, test=test, device="cpu")
        return made["nll"]

    first = score(0)
    torch.manual_seed(5)
    assert score(0) == first
    assert score(1) != first
    assert score(0, "column") != first


def test_a_trained_model_beats_the_start_and_is_scored_on_the_books_test_draw(few, monkeypatch):
    train, test = few
    kept = []
    original = pixel_orders.evaluation.nll

    def nll(model, x, batch_size, *, device):
        assert torch.equal(x, data.binarize(test, seed=data.SEEDS["test"]))
        assert device == "cpu"  # as was asked, and not a GPU that is there
        kept.append(original(model, x, batch_size))
        return kept[0]

    monkeypatch.setattr(pixel_orders.evaluation, "nll", nll)
    values = pixel_orders.train_one(CHEAP, "raster", 0, train=train, test=test, device="cpu")
    assert values["nll"] == pytest.approx(kept[0].mean, abs=1e-4)
    assert values["standard_error"] == pytest.approx(kept[0].standard_error, abs=1e-4)
    assert 100 < values["nll"] < 200, "the independent model has 206 nats, half each 543"


@pytest.fixture
def trained(file, monkeypatch):
    """The experiment with a training that takes no time, and what it was asked for."""
    asked = []

    def train_one(model, order, seed, *, device):
        asked.append((model, order, seed))
        return {"nll": 90.0 + 2 * seed, "standard_error": 0.1}

    monkeypatch.setattr(pixel_orders, "train_one", train_one)
    return asked


def test_rows_that_are_there_are_not_run_again(trained, capsys):
    arguments = ["--models", "FVSBN", CHEAP, "--orders", "raster", "random", "--device", "cpu"]
    pixel_orders.main([*arguments, "--seeds", "1"])
    assert len(trained) == len(set(trained)) == 4
    pixel_orders.main([*arguments, "--seeds", "2"])
    assert len(trained) == len(set(trained)) == 8
    (row,) = results.rows("pixel-orders", model=CHEAP, order="random", seed=1)
    assert row["values"] == {"nll": 92.0, "standard_error": 0.1}
    assert f"--models FVSBN '{CHEAP}' --orders raster random" in row["provenance"]["command"]
    assert row["provenance"]["recipe"]["learning_rate"] == 0.1
    assert "precision" not in row["provenance"]
    assert "| FVSBN | 91.00 ± 1.41 | – | 91.00 ± 1.41 | – |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"fit": {"epochs": 4, "learning_rate": 1e-1}},
        {"batch_size": 100},
        {"model": lambda order: FVSBN(784, order, window=30)},
    ],
    ids=["epochs", "batch size", "model"],
)
def test_a_row_of_another_recipe_is_run_again(trained, monkeypatch, change):
    arguments = ["--models", CHEAP, "--orders", "raster", "--seeds", "1", "--device", "cpu"]
    pixel_orders.main(arguments)
    recipes = pixel_orders.RECIPES
    monkeypatch.setitem(recipes, CHEAP, recipes[CHEAP] | change)
    assert pixel_orders.current_rows() == []
    pixel_orders.main(arguments)
    assert len(trained) == 2
    assert len(results.rows("pixel-orders")) == len(pixel_orders.current_rows()) == 1


def test_the_summary_is_over_seeds():
    def row(model, order, seed, nll):
        settings = {"model": model, "order": order, "seed": seed}
        return {"settings": settings, "values": {"nll": nll}}

    rows = [row("NADE", "raster", seed, nll) for seed, nll in enumerate([90.0, 91.0, 95.0])]
    found = pixel_orders.summary([*rows, row("MADE", "column", 0, 99.0)])
    mean, deviation, seeds = found["NADE", "raster"]
    assert (mean, seeds) == (92.0, 3)
    assert deviation == pytest.approx(math.sqrt(7))
    assert found["MADE", "column"][0] == 99.0
    assert math.isnan(found["MADE", "column"][1])
    assert len(found) == 2
    table = pixel_orders.table([*rows, row("MADE", "column", 0, 99.0)])
    assert "| NADE | 92.00 ± 2.65 | – | – | – |" in table
    assert "| MADE | – | 99.00 | – | – |" in table


# --- mode collapse ---


def test_a_committed_game_can_be_played_again():
    """A game on another machine takes another course: what it must share is the kind of end."""
    wanted = {"method": "non-saturating, pairs", "mixture": "ring of 8", "seed": 0}
    stored = [row for row in mode_collapse.current_rows() if row["settings"] == wanted]
    assert stored, "run: python -m companion.experiments.mode_collapse"
    values, expected = mode_collapse.train_one(**wanted, device="cpu"), stored[0]["values"]
    assert values["modes"] == pytest.approx(expected["modes"], abs=1)
    assert values["high_quality"] == pytest.approx(expected["high_quality"], abs=0.15)


def test_every_game_has_its_committed_rows():
    stored, current = results.rows(mode_collapse.EXPERIMENT), mode_collapse.current_rows()
    assert stored == current, "run again: python -m companion.experiments.mode_collapse"
    for value in ("modes", "high_quality"):
        spreads = mode_collapse.summary(current, value)
        assert len(spreads) == len(mode_collapse.METHODS) * len(mode_collapse.MIXTURES)
        assert {spread.seeds for spread in spreads.values()} == {5}


@pytest.mark.parametrize("method", mode_collapse.METHODS)
def test_every_method_plays_by_its_seed(method):
    def score(seed, mixture="grid of 25"):
        return mode_collapse.train_one(method, mixture, seed, device="cpu", epochs=1)

    first = score(0)
    torch.manual_seed(5)
    assert score(0) == first
    assert 0 <= first["modes"] <= 25
    assert 0 <= first["high_quality"] <= 1
    assert score(1) != first or score(2) != first


def test_a_penalty_and_packs_reach_the_game(monkeypatch):
    asked = []
    monkeypatch.setattr(mode_collapse, "fit_gan", lambda gan, batches, **own: asked.append(own))
    ring = data.ring_of_gaussians()
    gans = {method: mode_collapse.play(method, ring, epochs=3) for method in mode_collapse.METHODS}
    together = {method: gan.D.together for method, gan in gans.items()}
    assert together == {m: 2 if m == "non-saturating, pairs" else 1 for m in mode_collapse.METHODS}
    own = dict(zip(mode_collapse.METHODS, asked, strict=True))
    assert {settings["epochs"] for settings in asked} == {3}
    assert [settings["learning_rate"] for settings in asked].count(3e-3) == len(asked) - 2
    assert own["non-saturating, a third of the rate"]["learning_rate"] == 1e-3
    assert own["minimax loss"]["loss"] is saturating
    assert own["Wasserstein, gradient penalty"]["loss"] is wasserstein
    D, x = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0)), torch.randn(6, 2)
    slope = D[0].weight.norm().item()
    for method, expected in [
        ("non-saturating, R1", slope**2 / 2),
        ("Wasserstein, gradient penalty", (slope - 1) ** 2),
    ]:
        penalty = own[method]["penalty"](D, x, torch.randn(6, 2))
        assert penalty.item() == pytest.approx(expected / 10, rel=1e-5)
    assert sum("penalty" in settings for settings in asked) == 2


def test_the_penalties_are_tenths_at_the_right_examples():
    torch.manual_seed(0)
    D, (real, fake) = mode_collapse.networks().D, torch.randn(2, 6, 2)
    assert torch.equal(mode_collapse.r1_tenth(D, real, fake), r1(D, real) / 10)
    found = []
    for penalty in (mode_collapse.gradient_penalty_tenth, gradient_penalty):
        torch.manual_seed(1)
        found.append(penalty(D, real, fake))
    assert torch.equal(found[0], found[1] / 10)


def test_a_seed_decides_examples_weights_and_batches(monkeypatch):
    asked = []
    noted = lambda gan, batches, **own: asked.append((gan, batches, own))
    monkeypatch.setattr(mode_collapse, "fit_gan", noted)
    ring, method = data.ring_of_gaussians(), "Wasserstein, gradient penalty"
    mode_collapse.play(method, ring, seed=3, betas=(0.1, 0.2), device="meta")
    ((gan, batches, own),) = asked
    torch.manual_seed(3)
    assert torch.equal(batches.images, ring.sample((50_000,)))
    for a, b in zip(gan.parameters(), mode_collapse.networks().parameters(), strict=True):
        assert torch.equal(a, b)
    assert (batches.batch_size, batches.seed, own["seed"]) == (200, 3, 3)
    assert (own["betas"], own["device"]) == ((0.1, 0.2), "meta"), "in place of the experiment's"


def test_the_players_are_two_layers_of_rectified_linear_units():
    gan = mode_collapse.networks(together=2)
    kinds = lambda player: [type(m).__name__ for m in player.modules() if not [*m.children()]]
    layers = ["Linear", "ReLU"] * 2 + ["Linear"]
    assert kinds(gan.G) == layers
    assert kinds(gan.D) == [*layers, "Flatten"]


def test_a_game_is_scored_on_its_own_mixture(monkeypatch):
    played, scored = [], []
    noted = lambda *arguments, **settings: played.append((arguments, settings)) or "a GAN"
    monkeypatch.setattr(mode_collapse, "play", noted)
    found = mode_collapse.ModeCoverage(7, 0.123456)
    monkeypatch.setattr(mode_collapse, "score", lambda *a, **k: scored.append((a, k)) or found)
    modes = {"ring of 8": 8, "grid of 25": 25}
    assert modes.keys() == mode_collapse.MIXTURES.keys()
    for mixture, count in modes.items():
        values = mode_collapse.train_one("minimax loss", mixture, 4, device="meta", epochs=2)
        assert values == {"modes": 7, "high_quality": 0.1235}
        ((method, target, seed), settings), ((gan, judged), others) = played[-1], scored[-1]
        assert (method, seed, settings) == ("minimax loss", 4, {"device": "meta", "epochs": 2})
        assert (gan, others) == ("a GAN", {}), "all are scored with the same noise"
        assert judged is target
        assert len(mode_collapse.centres(target)[0]) == count


def test_the_table_of_games():
    def row(method, mixture, seed, modes, quality):
        settings = {"method": method, "mixture": mixture, "seed": seed}
        return {"settings": settings, "values": {"modes": modes, "high_quality": quality}}

    rows = [
        row("minimax loss", "ring of 8", 0, 5, 0.5),
        row("minimax loss", "grid of 25", 0, 20, 0.75),
        row("non-saturating loss", "ring of 8", 0, 6, 0.25),
        row("non-saturating loss", "ring of 8", 1, 8, 0.75),
    ]
    lines = mode_collapse.table(rows).splitlines()
    assert lines[:5] == [
        "| method | ring of 8 | high quality | grid of 25 | high quality |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| minimax loss | 5.0 | 0.50 | 20.0 | 0.75 |",
        "| minimax, a third of the rate | – | – | – | – |",
        "| non-saturating loss | 7.0 ± 1.4 | 0.50 ± 0.35 | – | – |",
    ]
    assert len(lines) == 2 + len(mode_collapse.METHODS)


def test_the_command_plays_all_methods_by_default(file, monkeypatch, capsys):
    asked = []

    def train_one(method, mixture, seed, *, device):
        asked.append((seed, method, mixture, device))
        return {"modes": 7, "high_quality": 0.5}

    monkeypatch.setattr(mode_collapse, "train_one", train_one)
    monkeypatch.setattr(results, "provenance", lambda command, device: {"device": device})
    mode_collapse.main(["--device", "meta"])
    every = product(range(5), mode_collapse.METHODS, mode_collapse.MIXTURES, ["meta"])
    assert asked == [*every]
    for row in results.rows(mode_collapse.EXPERIMENT):
        recipe = mode_collapse.recipe(row["settings"]["method"])
        assert row["provenance"] == {"device": "meta", "recipe": recipe}
    assert "7.0 ± 0.0" in capsys.readouterr().out
    monkeypatch.setitem(mode_collapse.SHARED, "epochs", 33)
    mode_collapse.main(["--device", "meta", "--seeds", "1"])  # of another recipe: played again
    assert len(asked) == (5 + 1) * len(mode_collapse.METHODS) * len(mode_collapse.MIXTURES)
    printed = capsys.readouterr().out
    assert "minimax loss, ring of 8, seed 0: {'modes': 7" in printed
    assert "±" not in printed, "the table is of today's recipe alone"


def test_a_perfect_painter_scores_as_theory_says():
    grid, asked = data.grid_of_gaussians(), []

    class Perfect:
        def sample(self, sample_shape):
            asked.append(sample_shape)
            return SimpleNamespace(cpu=lambda: grid.sample(sample_shape))  # on another device

    found = mode_collapse.score(Perfect(), grid)
    assert asked == [(2500,)]
    torch.manual_seed(5)
    assert mode_collapse.score(Perfect(), grid) == found, "by a seed of its own"
    assert found.modes == 25
    assert found.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.01)
    centres, spread = mode_collapse.centres(data.ring_of_gaussians())
    assert centres.shape == (8, 2)
    assert spread == pytest.approx(0.01)


def test_games_that_are_there_are_not_played_again(file, monkeypatch, capsys):
    asked = []

    def train_one(method, mixture, seed, *, device):
        asked.append((method, mixture, seed))
        return {"modes": 7 + seed, "high_quality": 0.5}

    monkeypatch.setattr(mode_collapse, "train_one", train_one)
    arguments = ["--methods", "minimax loss", "--mixtures", "ring of 8", "--device", "cpu"]
    mode_collapse.main([*arguments, "--seeds", "1"])
    mode_collapse.main([*arguments, "--seeds", "2"])
    assert asked == [("minimax loss", "ring of 8", seed) for seed in (0, 1)]
    assert "| minimax loss | 7.5 ± 0.7 | 0.50 ± 0.00 | – | – |" in capsys.readouterr().out
    (row,) = results.rows("mode-collapse", seed=1)
    assert row["provenance"]["recipe"] == mode_collapse.recipe("minimax loss")
    assert "--mixtures 'ring of 8'" in row["provenance"]["command"]
    monkeypatch.setitem(mode_collapse.SHARED, "epochs", 33)
    assert mode_collapse.current_rows() == []


# --- what they share ---


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_options_are_written_out_and_explained(name, capsys):
    for arguments, told in [
        (["--seed", "7"], "unrecognized arguments: --seed 7"),
        (["--devic", "cpu"], "unrecognized arguments: --devic cpu"),
        (["--help"], f"usage: python -m companion experiment {name} [-h]"),
    ]:
        with pytest.raises(SystemExit):
            EXPERIMENTS[name].main(arguments)
        assert told in " ".join("".join(capsys.readouterr()).split())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_experiment_runs_under_torchrun(name, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="only train takes several processes"):
        EXPERIMENTS[name].main([])


def test_weights_take_their_place_once_the_row_is_stored(tmp_path):
    path, model = tmp_path / "weights", torch.nn.Linear(1, 1)
    path.write_bytes(b"older")

    def fails():
        with common.replacing(path, model) as beside:
            assert beside.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert path.read_bytes() == b"older"
    with common.replacing(path, model) as beside:
        new = beside.read_bytes()
        assert path.read_bytes() == b"older"
    assert path.read_bytes() == new
    assert [*tmp_path.iterdir()] == [path]
