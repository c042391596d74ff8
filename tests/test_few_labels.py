"""Few labels: who is seen with which label, what an error is, and a committed row again."""

import copy
import math
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from companion import data, results
from companion.experiments import few_labels
from companion.experiments.few_labels import CLUSTERS, LABELS, SETTINGS, TASKS, few

COMMAND = "python -m companion.experiments.few_labels"
SOLE = ["100 labels, nothing else", "1,000 labels, nothing else"]
LABELLED, CLUSTERED = ["100 labels", "1,000 labels"], ["16 clusters", "30 clusters"]
CHEAP = SOLE[0]


def split(count, place):
    """Images in black and white that tell their digit, number and split, and one grey pixel."""
    numbers, pixels = torch.arange(count), torch.zeros(count, 25)
    pixels[:, :10] = F.one_hot(numbers % 10, 10)
    pixels[:, 10:21] = numbers[:, None] >> torch.arange(11) & 1
    pixels[:, 21 + place] = 1
    pixels[:, 24] = 0.5
    return data.Split((255 * pixels).byte().view(-1, 5, 5), numbers % 10)


def told(x):
    """The digits, numbers and splits of images ``(N, 25)``."""
    shown = (x > 0).long()
    numbers = (shown[:, 10:21] << torch.arange(11)).sum(1)
    return shown[:, :10].argmax(1), numbers, shown[:, 21:24].argmax(1)


@pytest.fixture
def tiny(monkeypatch):
    """An MNIST of few images that are easy to read, and a short training by labels alone."""
    dataset = data.Dataset(split(1200, 0), split(100, 1), split(100, 2))
    monkeypatch.setattr(few_labels.data, "mnist", lambda: dataset)
    short = partial(few_labels.classify_only, steps=25)
    monkeypatch.setattr(few_labels, "classify_only", short)
    return dataset


@pytest.fixture
def asked(monkeypatch):
    """What the two trainings are called with, in place of training."""
    calls = []
    for name in ("fit_semi_supervised", "classify_only"):
        noted = lambda aae, *given, name=name, **own: calls.append((name, aae, given, own))
        monkeypatch.setattr(few_labels, name, noted)
    return calls


def same(a, b):
    """Whether two models have the same weights."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


# --- committed rows ---


def test_a_committed_row_can_be_computed_again():
    stored = [r for r in few_labels.current_rows() if r["settings"] == {"task": CHEAP, "seed": 0}]
    assert stored, f"no row of today's recipe; run: {COMMAND} --tasks '{CHEAP}'"
    values = few_labels.train_one(CHEAP, 0, device="cpu")
    assert values["error"] == pytest.approx(stored[0]["values"]["error"], abs=2)


def test_no_committed_row_is_of_an_older_recipe():
    stored, current = results.rows(few_labels.EXPERIMENT), few_labels.current_rows()
    outdated = [row["settings"] for row in stored if row not in current]
    assert not outdated, f"run again: {COMMAND}"


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_its_committed_rows(name):
    rows = [row for row in few_labels.current_rows() if row["settings"]["task"] == name]
    assert len(rows) >= 2, f"run: {COMMAND} --tasks '{name}'"
    assert all(0 < row["values"]["error"] < 90 for row in rows), "better than a guess"


# --- the labelled examples ---


@pytest.mark.parametrize(("name", "task"), TASKS.items(), ids=TASKS)
def test_a_task_is_what_its_name_says(name, task):
    count, what, *sole = name.replace(",", "").split()
    kinds, labels = {"labels": (10, int(count)), "clusters": (int(count), 0)}[what]
    assert task == (kinds, labels, not sole, task.published)


def test_as_many_of_each_digit_are_chosen_by_the_seed():
    labels, state = torch.randint(10, (500,)), torch.get_rng_state()
    chosen = few(labels, 100, 0)
    assert chosen.dtype == torch.int64
    assert torch.equal(labels[chosen].bincount(minlength=10), torch.full((10,), 10))
    assert len(chosen.unique()) == 100
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator plays no part"
    torch.manual_seed(5)
    assert torch.equal(few(labels, 100, 0), chosen)
    shared = set(chosen.tolist()) & set(few(labels, 100, 1).tolist())
    assert 0 < len(shared) < 50, "20 by chance"
    assert few(labels, 0, 0).shape == (0,)


def test_a_count_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a multiple of ten, not 105"):
        few(torch.arange(500) % 10, 105, 0)


def test_labelled_batches_hold_the_chosen_images_with_their_labels(tiny):
    images, labels = tiny.train.images.flatten(1), tiny.train.labels
    batches, known = few_labels.labelled_batches(images, labels, 200, seed=3)
    digits, numbers, _ = told(batches.images)
    assert torch.equal(numbers, few(labels, 200, 3))
    assert torch.equal(digits, known)
    assert (batches.batch_size, batches.dynamic, batches.seed) == (100, True, 3)


# --- the error ---


def test_kinds_are_named_by_their_commonest_digit():
    found, labels = torch.tensor([0, 0, 0, 3, 3, 1]), torch.tensor([3, 7, 7, 9, 9, 2])
    assert few_labels.name_kinds(found, labels, 5).tolist() == [7, 2, 0, 9, 0]


def shades(kinds, labels):
    """Images whose first pixel is a shade of grey for each kind."""
    images = torch.full((len(kinds), 2, 2), 255, dtype=torch.uint8)
    images[:, 0, 0] = torch.tensor(kinds, dtype=torch.uint8) * 20
    return data.Split(images, torch.tensor(labels))


class Reader:
    """A model that reads the shade, from black = 0 to white = 1."""

    kinds = 12

    def classify(self, x):
        return (x[:, 0] * 255 / 20).round().long()


def test_the_error_of_a_classifier():
    other = shades([1], [2])
    test = shades([0, 1, 2, 3, 9, 9, 9, 9], [0, 1, 2, 3, 9, 9, 9, 8])
    mnist = data.Dataset(other, other, test)
    assert few_labels.error(Reader(), mnist, clusters=False) == 12.5


def test_clusters_are_named_by_the_validation_images():
    train, validation = shades([0, 11], [9, 9]), shades([0, 0, 0, 11, 11], [4, 4, 9, 7, 7])
    test = shades([0, 0, 11, 11, 11], [4, 9, 7, 9, 9])  # by these, 11 would be a nine
    mnist = data.Dataset(train, validation, test)
    assert few_labels.error(Reader(), mnist, clusters=True) == pytest.approx(60)


# --- training ---


def test_the_networks():
    aae = few_labels.networks(16, features=25)
    leaves = lambda player: [type(m).__name__ for m in player.modules() if not [*m.children()]]
    widths = lambda player: [tuple(p.shape) for p in player.parameters() if p.dim() == 2]
    layers = ["Linear", "ReLU"] * 2
    assert leaves(aae.encoder) == ["Dropout", *layers, "Linear", "Linear"]
    assert aae.encoder.body[0].p == 0.2
    assert widths(aae.encoder) == [(400, 25), (400, 400), (16, 400), (5, 400)]
    assert leaves(aae.decoder) == [*layers, "Linear"]
    assert widths(aae.decoder) == [(400, 21), (400, 400), (25, 400)]
    for critic, inputs in [(aae.critic_y, 16), (aae.critic_z, 5)]:
        assert leaves(critic) == [*layers, "Linear", "Flatten"]
        assert widths(critic) == [(200, inputs), (200, 200), (1, 200)]
    assert aae.kinds == 16


@pytest.mark.parametrize("name", LABELLED + CLUSTERED)
def test_a_task_trains_by_its_settings_and_its_seed(tiny, asked, name):
    aae = few_labels.train(name, tiny, 3, epochs=2, device="meta")
    ((trainer, trained, (batches, *known), own),) = asked
    assert (trainer, trained) == ("fit_semi_supervised", aae)
    assert own == SETTINGS | (LABELS if name in LABELLED else CLUSTERS) | {
        "epochs": 2,
        "device": "meta",
        "seed": 3,
    }
    images = tiny.train.images.flatten(1)
    assert torch.equal(batches.images, images)
    assert (batches.batch_size, batches.dynamic, batches.seed) == (100, True, 3)
    assert len(known) == (2 if name in LABELLED else 0)
    if known:
        labelled, labels = known
        chosen = few(tiny.train.labels, TASKS[name].labels, 3)
        assert torch.equal(labelled.images, images[chosen])
        assert torch.equal(labels, tiny.train.labels[chosen])
    torch.manual_seed(3)
    start = few_labels.networks(TASKS[name].kinds, 25)
    start.decoder.start_from(images.div(255).mean(0))
    assert same(aae, start)


@pytest.mark.parametrize("name", SOLE)
def test_without_the_others_only_labelled_images_are_seen(tiny, asked, name):
    aae = few_labels.train(name, tiny, 3, device="meta")
    ((trainer, trained, (batches, labels), own),) = asked
    assert (trainer, trained, own) == ("classify_only", aae, {"seed": 3, "device": "meta"})
    digits, numbers, _ = told(batches.images)
    assert torch.equal(numbers, few(tiny.train.labels, TASKS[name].labels, 3))
    assert torch.equal(digits, labels)
    assert batches.seed == 3


def test_labels_alone_teach_the_kinds_alone(tiny, monkeypatch):
    """Each example with its own label, at the experiment's rate and schedule."""
    seen, rates, descend = [], [], few_labels.Run.descend

    def noted(run, step, loss):
        rates.append(step.param_groups[0]["lr"])
        descend(run, step, loss)

    def cross_entropy(logits, y, original=F.cross_entropy):
        seen[-1] = seen[-1], y
        return original(logits, y)

    monkeypatch.setattr(few_labels.Run, "descend", noted)
    monkeypatch.setattr(few_labels.F, "cross_entropy", cross_entropy)
    images, labels = tiny.train.images.flatten(1), tiny.train.labels
    batches, known = few_labels.labelled_batches(images, labels, 200, seed=3)
    aae = few_labels.networks(10, 25)
    before = copy.deepcopy(aae)
    hook = aae.encoder.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    few_labels.classify_only(aae, batches, known, steps=20, device="cpu")
    hook.remove()
    x, y = (torch.cat(each) for each in zip(*seen, strict=True))
    digits, numbers, places = told(x)
    assert torch.equal(digits, y)
    assert set(numbers.tolist()) == set(few(labels, 200, 3).tolist())
    assert set(places.tolist()) == {0}, "of the training split"
    assert 0.4 < x[:, 24].mean() < 0.6, "grey is drawn anew"
    cosine = [(1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)]
    assert rates == pytest.approx([SETTINGS["learning_rate"] * factor for factor in cosine])
    assert few_labels.error(aae, tiny, clusters=False) == 0
    assert not any(module.training for module in aae.modules()), "nothing is dropped any more"
    assert not same(aae.encoder.body, before.encoder.body)
    for part in ("encoder.style", "decoder", "critic_y", "critic_z"):
        assert same(aae.get_submodule(part), before.get_submodule(part))


def test_labels_alone_are_taught_for_the_recipes_steps(monkeypatch):
    class Asked(Exception):
        pass

    def run(steps, **settings):
        raise Asked(steps, settings)

    monkeypatch.setattr(few_labels, "Run", run)
    with pytest.raises(Asked) as found:
        few_labels.classify_only(few_labels.networks(10, 25), None, None, seed=4, device="meta")
    steps, settings = found.value.args
    assert steps == few_labels.CLASSIFIER_STEPS == few_labels.recipe(CHEAP)["steps"]
    assert settings == {"schedule": SETTINGS["schedule"], "seed": 4, "device": "meta"}


@pytest.mark.parametrize("name", [CHEAP, "100 labels", "16 clusters"])
def test_one_seed_decides_everything(tiny, name):
    train = lambda seed: few_labels.train(name, tiny, seed, epochs=1, device="cpu")
    torch.manual_seed(6)
    first = train(0)
    torch.manual_seed(5)
    assert same(train(0), first)
    assert not same(train(1), first)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_trains_and_is_measured(tiny, name):
    values = few_labels.train_one(name, 0, device="cpu", epochs=1)
    assert values.keys() == {"error"}
    assert 0 <= values["error"] <= (90 if name in CLUSTERED else 10), "90 by chance"


@pytest.mark.parametrize("name", TASKS)
def test_a_trained_model_is_measured_on_the_same_mnist(tiny, monkeypatch, name):
    done = []

    def train(*given, **settings):
        done.append((given, settings))
        return SimpleNamespace()

    def error(aae, mnist, clusters):
        done.append((mnist is tiny, clusters))
        return 12.3456

    monkeypatch.setattr(few_labels, "train", train)
    monkeypatch.setattr(few_labels, "error", error)
    assert few_labels.train_one(name, 4, device="meta") == {"error": 12.35}
    asked, *rest = done
    assert asked == ((name, tiny, 4), {"device": "meta"})
    assert rest == [(True, name in CLUSTERED)]


# --- recipes, table and command ---

CONSTANTS = [
    *product(["HIDDEN", "LATENT", "DROPOUT", "CRITIC"], [[*TASKS]]),
    *product(["BATCH_SIZE", "LABELLED_BATCH_SIZE"], [[*TASKS]]),
    ("CLASSIFIER_STEPS", SOLE),
]
ENTRIES = [
    (SETTINGS, "epochs", CLUSTERED),  # where labels set their own
    (SETTINGS, "learning_rate", CLUSTERED + SOLE),
    (SETTINGS, "critic_noise", CLUSTERED + LABELLED),
    (SETTINGS, "schedule", [*TASKS]),
    *((CLUSTERS, key, CLUSTERED) for key in CLUSTERS),
    *((LABELS, key, LABELLED) for key in LABELS),
]


def outdated(before):
    return {name for name in TASKS if few_labels.recipe(name) != before[name]}


@pytest.mark.parametrize(("constant", "tasks"), CONSTANTS, ids=lambda value: str(value)[:20])
def test_another_size_is_another_recipe(monkeypatch, constant, tasks):
    before = {name: few_labels.recipe(name) for name in TASKS}
    monkeypatch.setattr(few_labels, constant, 7)
    assert outdated(before) == set(tasks)


@pytest.mark.parametrize(("settings", "key", "tasks"), ENTRIES, ids=[f"{e[1]}" for e in ENTRIES])
def test_another_setting_is_another_recipe(monkeypatch, settings, key, tasks):
    before = {name: few_labels.recipe(name) for name in TASKS}
    monkeypatch.setitem(settings, key, "constant" if key == "schedule" else 7)
    assert outdated(before) == set(tasks)


def test_what_is_only_compared_with_is_no_part_of_the_recipe(monkeypatch):
    before = {name: few_labels.recipe(name) for name in TASKS}
    for name, task in TASKS.items():
        monkeypatch.setitem(TASKS, name, task._replace(published=1.0))
    assert not outdated(before)


def test_the_table():
    def row(task, seed, error):
        return {"settings": {"task": task, "seed": seed}, "values": {"error": error}}

    rows = [
        row("100 labels, nothing else", 0, 20.0),
        row("100 labels", 0, 2.0),
        row("16 clusters", 0, 10.0),
        row("16 clusters", 1, 12.0),
        row("16 clusters", 2, 17.0),
    ]
    assert few_labels.table(rows).splitlines() == [
        "| given | seeds | test error, % | published, % |",
        "| --- | ---: | ---: | ---: |",
        "| 100 labels, nothing else | 1 | 20.0 | – |",
        "| 100 labels | 1 | 2.0 | 1.90 |",
        "| 1,000 labels, nothing else | 0 | not yet run | – |",
        "| 1,000 labels | 0 | not yet run | – |",
        "| 16 clusters | 3 | 13.0 ± 3.6 | 9.55 |",
        "| 30 clusters | 0 | not yet run | 4.10 |",
    ]


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """What the command trains, in no time, with a file of results of the test's own."""
    calls = []

    def train_one(name, seed, *, device):
        calls.append((seed, name, device))
        return {"error": 5.0 + 2 * seed}

    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    monkeypatch.setattr(results, "provenance", lambda *given: {"command": given[0], "on": given[1]})
    monkeypatch.setattr(few_labels, "train_one", train_one)
    return calls


def test_the_command_runs_all_tasks_by_default(ran, capsys):
    few_labels.main(["--device", "meta"])
    assert ran == [*product(range(3), TASKS, ["meta"])]
    rows = results.rows("few-labels")
    assert rows == few_labels.current_rows()
    assert len(rows) == len(ran)
    for row in rows:
        recipe = few_labels.recipe(row["settings"]["task"])
        command = {"command": f"{COMMAND} --device meta", "on": "meta"}
        assert row["provenance"] == command | {"recipe": recipe}
        assert row["values"] == {"error": 5.0 + 2 * row["settings"]["seed"]}
    printed = capsys.readouterr().out
    assert "100 labels, seed 2: {'error': 9.0}" in printed
    assert "| 16 clusters | 3 | 7.0 ± 2.0 | 9.55 |" in printed


def test_rows_that_are_there_are_not_run_again(ran):
    arguments = ["--tasks", CHEAP, "16 clusters", "--device", "cpu"]
    few_labels.main([*arguments, "--seeds", "1"])
    few_labels.main([*arguments, "--seeds", "2"])
    assert ran == [*product(range(2), [CHEAP, "16 clusters"], ["cpu"])]
    (row,) = results.rows("few-labels", task=CHEAP, seed=1)
    assert row["provenance"]["command"].startswith(f"{COMMAND} --tasks '{CHEAP}' '16 clusters'")


def test_a_row_of_another_recipe_is_run_again(ran, monkeypatch, capsys):
    arguments = ["--tasks", "16 clusters", "100 labels", "--seeds", "1", "--device", "cpu"]
    few_labels.main(arguments)
    monkeypatch.setitem(CLUSTERS, "weight", 7.0)
    assert [row["settings"]["task"] for row in few_labels.current_rows()] == ["100 labels"]
    capsys.readouterr()
    few_labels.main([*arguments[:-3], "0"])  # no seeds: only the table
    assert "| 16 clusters | 0 | not yet run | 9.55 |" in capsys.readouterr().out
    few_labels.main(arguments)
    assert [name for _, name, _ in ran] == ["16 clusters", "100 labels", "16 clusters"]
    assert len(results.rows("few-labels")) == len(few_labels.current_rows()) == 2


def test_a_row_of_a_task_that_is_no_more_is_outdated(ran, monkeypatch):
    few_labels.main(["--tasks", "16 clusters", "--seeds", "1", "--device", "cpu"])
    monkeypatch.delitem(TASKS, "16 clusters")
    assert few_labels.current_rows() == []
