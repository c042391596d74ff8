"""The experiments: rows that resume, tables that say what is missing, and a committed row again."""

import math

import pytest
import torch

from companion import data, results
from companion.autoregressive import FVSBN, MADE
from companion.experiments import full_scale, pixel_orders
from companion.presets import Preset

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
    found = {model: pixel_orders.precision(model, "cpu") for model in pixel_orders.RECIPES}
    assert found.pop("Gated PixelCNN") == "fast on cpu"
    assert set(found.values()) == {"no"}


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

    def nll(model, x, batch_size):
        assert torch.equal(x, data.binarize(test, seed=data.SEEDS["test"]))
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
    assert row["provenance"]["precision"] == "no"
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


# --- full scale ---


@pytest.fixture
def tiny(file, few, tmp_path, monkeypatch):
    """A preset that trains in a moment, on few images."""
    train, test = few
    images = lambda x: x.reshape(-1, 28, 28)
    splits = [data.Split(images(x), torch.zeros(len(x))) for x in (train[:300], train[300:], test)]
    monkeypatch.setattr(full_scale.data, "mnist", lambda: data.Dataset(*splits))
    preset = Preset(lambda: FVSBN(784), 50, {"epochs": 2, "learning_rate": 0.02}, 96.58)
    monkeypatch.setattr(full_scale, "PRESETS", {"FVSBN": preset, "MADE": preset})
    monkeypatch.chdir(tmp_path)


def test_a_preset_is_trained_scored_and_stored(tiny, tmp_path, capsys):
    full_scale.main(["FVSBN", "--device", "cpu"])
    (row,) = results.rows("full-scale")
    assert row["settings"] == {"model": "FVSBN"}
    assert 100 < row["values"]["nll"] < 206
    assert row["values"]["seconds"] >= 0
    recipe = {"parameters": 784 * 785 // 2, "batch_size": 50, "epochs": 2, "learning_rate": 0.02}
    assert row["provenance"]["recipe"] == recipe
    assert str(tmp_path) not in str(row)
    assert not (tmp_path / "runs" / "FVSBN.safetensors").exists(), "a changed preset starts anew"
    ours = f"{row['values']['nll']:.2f} ± {row['values']['standard_error']:.2f}"
    table = capsys.readouterr().out
    assert f"| FVSBN | 307,720 | {ours} | 96.58 |" in table
    assert "| MADE | 307,720 | not yet run | 96.58 |" in table


def test_a_row_names_the_precision_it_ran_in(tiny, monkeypatch):
    monkeypatch.setattr("companion.training.fast_precision", lambda device: "as this device does")
    full_scale.main(["FVSBN", "--device", "cpu", "--precision", "fast"])
    full_scale.main(["MADE", "--device", "cpu"])
    ran = {row["settings"]["model"]: row["provenance"] for row in results.rows("full-scale")}
    assert ran["FVSBN"]["precision"] == "as this device does"
    assert "--precision fast" in ran["FVSBN"]["command"]
    assert ran["MADE"]["precision"] == "no"


def test_all_training_images_are_used(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(full_scale.training, "fit", lambda m, batches, **_: seen.append(batches))
    full_scale.train_preset("FVSBN", path="x", device="cpu")
    assert len(seen[0].images) == 500, "training and validation images"
    assert seen[0].dynamic


def test_a_run_goes_on_from_its_checkpoint(tiny, monkeypatch):
    whole = full_scale.train_preset("FVSBN", path="whole", device="cpu", precision="no")

    class Killed(Exception):
        pass

    with monkeypatch.context() as patch:
        descend, steps = full_scale.training.Run.descend, []

        def killed(run, *arguments):
            steps.append(run.step)
            if len(steps) == 13:
                run.save()
                raise Killed
            descend(run, *arguments)

        patch.setattr(full_scale.training.Run, "descend", killed)
        with pytest.raises(Killed):
            full_scale.train_preset("FVSBN", path="cut", device="cpu", precision="no")
    resumed = full_scale.train_preset("FVSBN", path="cut", device="cpu", precision="no")
    assert resumed["nll"] == whole["nll"]
    assert "seconds" in whole
    assert "seconds" not in resumed, "only a part of them"


def test_a_preset_is_not_run_again_unless_it_changed(tiny, monkeypatch):
    runs, train_preset = [], full_scale.train_preset

    def counted(name, **settings):
        runs.append(name)
        return train_preset(name, **settings)

    monkeypatch.setattr(full_scale, "train_preset", counted)
    full_scale.main(["FVSBN", "--device", "cpu"])
    full_scale.main(["FVSBN", "--device", "cpu"])
    assert runs == ["FVSBN"]
    changed = full_scale.PRESETS["FVSBN"]._replace(model=lambda: MADE(784, (5,)))
    monkeypatch.setitem(full_scale.PRESETS, "FVSBN", changed)
    assert "| not yet run |" in full_scale.table().splitlines()[2]
    full_scale.main(["FVSBN", "--device", "cpu"])
    assert runs == ["FVSBN", "FVSBN"]


def test_without_a_name_the_table_is_printed(tiny, capsys):
    full_scale.main([])
    assert capsys.readouterr().out.count("not yet run") == 2
    assert results.rows("full-scale") == []
