"""How well does an adversarial autoencoder sort digits, with few labels or with none?

Chapter: book/adversarial-autoencoders.ipynb. All rows, skipping those that are there::

    python -m companion.experiments.few_labels

Two runs side by side (``--tasks`` divides the work) do not disturb each other's rows.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion import data, results
from companion.aae import SemiSupervisedAAE, TwoHeads, fit_semi_supervised
from companion.aae.training import of_batch
from companion.experiments.common import NOT_RUN, Spread, add_rows, markdown
from companion.nn import mlp
from companion.training import Run, adam
from companion.vae import ConditionalBernoulli

EXPERIMENT = "few-labels"


class Task(NamedTuple):
    """What is to be learned.

    Args:
        kinds:     that the model distinguishes.
        labels:    how many training images have one, as many of each digit.
        unlabelled: whether the model sees the other images at all.
        published: test error of the source, percent; None: none that could be confirmed.
    """

    kinds: int
    labels: int
    unlabelled: bool = True
    published: float | None = None


TASKS = {
    "100 labels, nothing else": Task(10, 100, unlabelled=False),
    "100 labels": Task(10, 100, published=1.90),
    "1,000 labels, nothing else": Task(10, 1000, unlabelled=False),
    "1,000 labels": Task(10, 1000),
    "16 clusters": Task(16, 0, published=9.55),
    "30 clusters": Task(30, 0, published=4.10),
}

HIDDEN, LATENT, DROPOUT, CRITIC = 400, 5, 0.2, 200
BATCH_SIZE, LABELLED_BATCH_SIZE, CLASSIFIER_STEPS = 100, 100, 2000
SETTINGS = {"epochs": 30, "critic_noise": 0.5, "learning_rate": 1e-3, "schedule": "cosine"}
CLUSTERS = {"weight": 200.0}
LABELS = {"weight": 300.0, "label_weight": 300.0, "learning_rate": 4e-3, "epochs": 15}


def networks(kinds: int, features: int = 784) -> SemiSupervisedAAE:
    """Two layers of rectified linear units for each player; the encoder drops a fifth of x."""

    def body(*widths):
        return mlp(*widths, activation=nn.ReLU)

    def critic(inputs):
        return nn.Sequential(body(inputs, CRITIC, CRITIC), nn.Linear(CRITIC, 1), nn.Flatten(0))

    reader = nn.Sequential(nn.Dropout(DROPOUT), body(features, HIDDEN, HIDDEN))
    encoder = TwoHeads(reader, HIDDEN, kinds, LATENT)
    painter = body(kinds + LATENT, HIDDEN, HIDDEN)
    decoder = ConditionalBernoulli(painter, HIDDEN, features)
    return SemiSupervisedAAE(encoder, decoder, critic(kinds), critic(LATENT), kinds)


def settings_of(task: Task) -> dict:
    """Keywords of `companion.aae.fit_semi_supervised`."""
    return SETTINGS | (LABELS if task.labels else CLUSTERS)


def recipe(name: str) -> dict:
    """A task's recipe in names and numbers: a row made by another one is outdated."""
    sizes = {"hidden": HIDDEN, "latent": LATENT, "dropout": DROPOUT, "critic": CRITIC}
    batches = {"batch_size": BATCH_SIZE, "labelled_batch_size": LABELLED_BATCH_SIZE}
    own = settings_of(TASKS[name])
    if not TASKS[name].unlabelled:
        own = {key: SETTINGS[key] for key in ("learning_rate", "schedule")}
        own["steps"] = CLASSIFIER_STEPS
    return sizes | batches | own


def few(labels: Tensor, count: int, seed: int) -> Tensor:
    """Where the labelled examples are: as many of each digit, chosen at random.

    Args:    labels: of all examples, ``(N,)``; count: a multiple of ten; seed: of the choice.
    Returns: int64, ``(count,)``.
    Raises:  ValueError if count is no multiple of ten, or more than there is of some digit.
    """
    if count % 10:
        raise ValueError(f"as many of each digit: a multiple of ten, not {count}")
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for digit in range(10):
        own = (labels == digit).nonzero()[:, 0]
        if len(own) < count // 10:
            raise ValueError(f"{count // 10} of each digit, but there are {len(own)} of {digit}")
        chosen.append(own[torch.randperm(len(own), generator=generator)[: count // 10]])
    return torch.cat(chosen)


def labelled_batches(images: Tensor, labels: Tensor, count: int, seed: int):
    """Mini-batches of the examples whose label is known, and their labels."""
    chosen = few(labels, count, seed)
    batches = data.Batches(images[chosen], LABELLED_BATCH_SIZE, dynamic=True, seed=seed)
    return batches, labels[chosen]


def name_kinds(found: Tensor, labels: Tensor, kinds: int) -> Tensor:
    """The commonest digit of each kind, ``(N,), (N,) -> (kinds,)``; of an empty one, 0."""
    counts = torch.zeros(kinds, 10, dtype=torch.int64)
    counts.index_put_((found.cpu(), labels), torch.ones_like(labels), accumulate=True)
    return counts.argmax(1)


def error(aae: SemiSupervisedAAE, mnist: data.Dataset, clusters: bool) -> float:
    """The share of test images that are read as another digit, percent.

    The model is given grey images. A cluster is named by the commonest digit among the validation
    images in it.
    """
    images, names = mnist.test.images.flatten(1) / 255, torch.arange(10)
    if clusters:
        known = mnist.validation
        found = aae.classify(known.images.flatten(1) / 255)
        names = name_kinds(found, known.labels, aae.kinds)
    wrong = names[aae.classify(images).cpu()] != mnist.test.labels
    return 100 * wrong.double().mean().item()


def train(name: str, mnist: data.Dataset, seed: int = 0, **settings) -> SemiSupervisedAAE:
    """Train one model from scratch, `companion.aae.fit_semi_supervised`, on images thrown anew.

    Args:
        name:     a key of ``TASKS``.
        seed:     of labels, initial weights and batches.
        settings: keywords of that training, in place of the experiment's; without unlabelled
                  images, only the device counts.
    """
    task, images = TASKS[name], mnist.train.images.flatten(1)
    torch.manual_seed(seed)
    aae = networks(task.kinds, images.shape[1])
    aae.decoder.start_from((images / 255).mean(0))
    known = ()
    if task.labels:
        known = labelled_batches(images, mnist.train.labels, task.labels, seed)
    if not task.unlabelled:
        classify_only(aae, *known, seed=seed, device=settings.get("device"))
        return aae
    batches = data.Batches(images, BATCH_SIZE, dynamic=True, seed=seed)
    fit_semi_supervised(aae, batches, *known, seed=seed, **(settings_of(task) | settings))
    return aae


def classify_only(
    aae: SemiSupervisedAAE,
    batches: data.Batches,
    labels: Tensor,
    *,
    steps: int = CLASSIFIER_STEPS,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> None:
    """Train the encoder's head of kinds by cross-entropy alone: what the labels are worth."""
    run = Run(steps, schedule=SETTINGS["schedule"], seed=seed, device=device)
    rate = SETTINGS["learning_rate"]
    E, step = run.prepare(encoder=aae.encoder, step=adam(aae.encoder.parameters(), rate))
    for x in run.batches(batches):
        y = of_batch(labels, batches, run).to(x.device, non_blocking=x.is_cuda)
        run.descend(step, F.cross_entropy(E(x)[0], y))
    aae.eval()


def train_one(name: str, seed: int, **settings) -> dict[str, float]:
    """Train one model and measure its ``error``, percent; arguments as in `train`."""
    mnist = data.mnist()
    aae = train(name, mnist, seed, **settings)
    return {"error": round(error(aae, mnist, clusters=not TASKS[name].labels), 2)}


def current_rows() -> list[dict]:
    """The stored rows that were made by the recipes as they are now."""
    return results.current(EXPERIMENT, "task", {name: recipe(name) for name in TASKS})


def table(rows: list[dict]) -> str:
    """Test errors in percent, mean ± standard deviation over seeds, in Markdown.

    Args: rows: of `current_rows`.
    """
    lines = []
    for name, task in TASKS.items():
        errors = [row["values"]["error"] for row in rows if row["settings"]["task"] == name]
        ours = Spread.of(errors).text(1) if errors else NOT_RUN
        published = "–" if task.published is None else f"{task.published:.2f}"
        lines.append([name, str(len(errors)), ours, published])
    return markdown(["given", "seeds", "test error, %", "published, %"], lines)


def main(arguments: list[str] | None = None) -> None:
    add_rows(sys.modules[__name__], arguments, seeds=3, task=TASKS)


if __name__ == "__main__":
    main()
