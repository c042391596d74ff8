"""Does it matter in which order the pixels come, and for which model?

Chapter: book/autoregressive-models.ipynb. All rows, skipping those that are there already::

    python -m companion.experiments.pixel_orders

Training images are binarised anew at every visit, all 50,000 of them unless the recipe says how
many; the test images are drawn once. Two runs side by side (``--models`` divides the work) do not
disturb each other's rows.
"""

from __future__ import annotations

import sys
from itertools import product

import torch
from torch import Tensor

from companion import data, evaluation, results, training
from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN, orders
from companion.experiments.common import Spread, add_rows, markdown, over_seeds
from companion.nn import free_parameters

EXPERIMENT = "pixel-orders"
SIDE = 28
D = SIDE * SIDE

# One seed decides the initial weights, the batches, and the random order.
ORDERS = {
    "raster": lambda seed: orders.raster(SIDE, SIDE),
    "column": lambda seed: orders.column(SIDE, SIDE),
    "random": lambda seed: orders.shuffled(SIDE, SIDE, seed),
    "Hilbert": lambda seed: orders.hilbert(SIDE, SIDE),
}

# The model, the size of a batch, what `training.fit` is given, and how many images if not all.
RECIPES = {
    "FVSBN, window of a row": {
        "model": lambda order: FVSBN(D, order, window=SIDE + 1),
        "batch_size": 250,
        "fit": {"epochs": 3, "learning_rate": 1e-1},
    },
    "FVSBN": {
        "model": lambda order: FVSBN(D, order),
        "batch_size": 250,
        "fit": {"epochs": 3, "learning_rate": 1e-1},
    },
    "NADE": {
        "model": lambda order: NADE(D, 100, order),
        "batch_size": 100,
        "fit": {"epochs": 2, "learning_rate": 5e-2, "warmup": 0.02},
    },
    "MADE": {
        "model": lambda order: MADE(D, (500,), order),
        "batch_size": 250,
        "fit": {"epochs": 6, "learning_rate": 5e-3},
    },
    "Gated PixelCNN": {
        "model": lambda order: GatedPixelCNN(
            (SIDE, SIDE), channels=24, layers=3, kernel=5, first_kernel=15, order=order
        ),
        "batch_size": 64,
        "images": 12_800,
        "fit": {"epochs": 1, "learning_rate": 1e-2, "warmup": 0.05, "precision": "fast"},
    },
}


def recipe(model: str) -> dict:
    """A model's recipe in numbers, as its rows keep it: a row made by another one is outdated."""
    settings = RECIPES[model]
    parameters = free_parameters(settings["model"](None))
    numbers = {name: settings[name] for name in ("batch_size", "images") if name in settings}
    return {"parameters": parameters} | numbers | settings["fit"]


def train_one(
    model: str,
    order: str,
    seed: int,
    *,
    device: str | torch.device | None = None,
    train: Tensor | None = None,
    test: Tensor | None = None,
) -> dict[str, float]:
    """Train one model from scratch and score it.

    Args:
        model:  a key of ``RECIPES``.
        order:  a key of ``ORDERS``.
        seed:   of the initial weights, the batches and the random order.
        device: as in `training.fit`.
        train:  grey images, uint8, ``(N, 784)``; left out: the chapter's.
        test:   grey images, uint8, ``(N, 784)``, drawn once; left out: the chapter's.

    Returns: ``nll`` and its ``standard_error`` over the test images, nats.
    """
    train = data.mnist().train.images.flatten(1) if train is None else train
    test = data.mnist().test.images.flatten(1) if test is None else test
    settings = RECIPES[model]
    torch.manual_seed(seed)
    net = settings["model"](ORDERS[order](seed))
    net.start_from(train.mean(0, dtype=torch.float64) / 255)
    images = train[: settings.get("images")]
    batches = data.Batches(images, settings["batch_size"], dynamic=True, seed=seed)
    training.fit(net, batches, seed=seed, device=device, **settings["fit"])
    drawn = data.binarize(test, seed=data.SEEDS["test"])
    score = evaluation.nll(net, drawn, batch_size=250, device=device)
    return {"nll": round(score.mean, 4), "standard_error": round(score.standard_error, 4)}


def current_rows() -> list[dict]:
    """The stored rows that were made by the recipes as they are now."""
    return results.current(EXPERIMENT, "model", {model: recipe(model) for model in RECIPES})


def summary(rows: list[dict]) -> dict[tuple[str, str], Spread]:
    """Mean NLL over seeds, its standard deviation, nats, and number of seeds.

    Args:    rows: of `current_rows`.
    Returns: a spread for each (model, order), in the order of ``RECIPES`` and ``ORDERS``.
    """
    return over_seeds(rows, ("model", "order"), product(RECIPES, ORDERS), "nll")


def table(rows: list[dict]) -> str:
    """Mean ± standard deviation over seeds, nats, a line for each model, in Markdown."""
    cells = {key: spread.text(2) for key, spread in summary(rows).items()}
    lines = [[model, *(cells.get((model, order), "–") for order in ORDERS)] for model in RECIPES]
    return markdown(["model", *ORDERS], lines)


def main(arguments: list[str] | None = None) -> None:
    add_rows(sys.modules[__name__], arguments, seeds=3, model=RECIPES, order=ORDERS)


if __name__ == "__main__":
    main()
