"""Train the classifier of `companion.features` and keep its weights in the package.

Chapter: book/generative-adversarial-networks.ipynb. With ``--again`` it replaces the weights that
are there, and with them every score in their features::

    python -m companion.experiments.digit_features
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from companion import data, features, results
from companion.aae.training import of_batch
from companion.experiments.common import one_process, parser, replacing, typed
from companion.features import DigitFeatures
from companion.training import Run, adam

EXPERIMENT = "digit-features"
RECIPE = {"batch_size": 100, "epochs": 12, "learning_rate": 2e-3}


def train(
    images: Tensor, labels: Tensor, *, epochs: int = RECIPE["epochs"], seed: int = 0
) -> DigitFeatures:
    """A classifier that has seen grey images, uint8 ``(N, 28, 28)``, and their digits, ``(N,)``."""
    torch.manual_seed(seed)
    net = DigitFeatures()
    batches = data.Batches(images / 255, RECIPE["batch_size"], seed=seed)
    run = Run(epochs * len(batches), schedule="cosine", seed=seed, device="cpu")
    call, optimizer = run.prepare(net=net, opt=adam(net.parameters(), RECIPE["learning_rate"]))
    for x in run.batches(batches):
        run.descend(optimizer, F.cross_entropy(call(x), of_batch(labels, batches, run)))
    return net.eval()


def error_rate(net: DigitFeatures, images: Tensor, labels: Tensor) -> float:
    """The share of grey images, uint8 ``(N, 28, 28)``, that are read as another digit."""
    return (net.classify(images / 255) != labels).double().mean().item()


def main(arguments: list[str] | None = None) -> None:
    one_process()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser(EXPERIMENT, __doc__)
    options.add_argument("--again", action="store_true", help="replace weights that are there")
    again = options.parse_args(arguments).again
    if results.current(EXPERIMENT, "model", {"DigitFeatures": RECIPE}) and not again:
        print(f"{features.PATH} is of this recipe already: --again replaces it")
        return
    provenance = results.provenance(typed(EXPERIMENT, arguments)) | {"recipe": RECIPE}
    mnist = data.mnist()
    net = train(mnist.train.images, mnist.train.labels)
    values = {"test_error": error_rate(net, mnist.test.images, mnist.test.labels)}
    with replacing(features.PATH, net):
        results.add(EXPERIMENT, {"model": "DigitFeatures"}, values, provenance)
    print(f"{100 * values['test_error']:.2f} % of the test images are read as another digit")


if __name__ == "__main__":
    main()
