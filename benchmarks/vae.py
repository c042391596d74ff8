"""Training speed of our VAE beside a tight hand-written loop and pythae, in images a second.

Run alone, as other work on the machine disturbs it::

    pip install --no-deps pythae==0.1.2 pydantic pydantic-core annotated-types typing-inspection \
        imageio scikit-learn joblib threadpoolctl cloudpickle
    python benchmarks/vae.py

All train the same networks, 784-200-200-50 and back with tanh, on the same binary MNIST images with
the same batches and learning rate, on the ELBO with its divergence in closed form. They take turns
within each round, and a ratio is the median over the rounds. Without pythae its column is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion import data, results, training
from companion.nn import mlp
from companion.vae import VAE, ConditionalBernoulli, ConditionalGaussian, StandardNormal

try:
    import pythae.models
    import pythae.trainers
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
except ModuleNotFoundError as error:
    if error.name != "pythae":
        raise
    pythae = None


def ours() -> VAE:
    return VAE(
        ConditionalGaussian(mlp(784, 200, 200), 200, 50),
        ConditionalBernoulli(mlp(50, 200, 200), 200, 784),
        StandardNormal(50),
    )


def by_fit(images: Tensor, batch_size: int) -> float:
    model, batches = ours(), data.Batches(images, batch_size)
    return seconds(lambda: training.fit(model, batches, epochs=1, schedule="constant"))


def by_hand(images: Tensor, batch_size: int) -> float:
    """One epoch with nothing but what learning takes, formulas written out."""
    model = ours()
    encode, mu, log_sigma = model.encoder.body, model.encoder.mu, model.encoder.log_sigma
    decode = nn.Sequential(model.decoder.body, model.decoder.logits)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def loop():
        for places in torch.randperm(len(images)).split(batch_size):
            x = images[places].float()
            h = encode(x)
            m, s = mu(h), log_sigma(h)
            sigma = s.exp()
            logits = decode(m + sigma * torch.randn_like(m))
            kl = (m.square() + sigma.square() - 1).sum() / 2 - s.sum()
            loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl
            optimizer.zero_grad()
            (loss / len(x)).backward()
            optimizer.step()

    return seconds(loop)


def by_pythae(images: Tensor, batch_size: int) -> float:
    """As its documentation trains: its model, its trainer, networks of our widths."""

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.body, self.mu, self.log_var = mlp(784, 200, 200), *heads(200, 50, 2)

        def forward(self, x):
            h = self.body(x)
            return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(mlp(50, 200, 200), *heads(200, 784, 1), nn.Sigmoid())

        def forward(self, z):
            return ModelOutput(reconstruction=self.body(z))

    def heads(inputs, outputs, count):
        return [nn.Linear(inputs, outputs) for _ in range(count)]

    config = pythae.models.VAEConfig(
        input_dim=(784,), latent_dim=50, reconstruction_loss="bce", uses_default_encoder=False
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.WARNING)
        settings = pythae.trainers.BaseTrainerConfig(
            output_dir=folder,
            num_epochs=1,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-3,
            no_cuda=True,
        )
        trainer = pythae.trainers.BaseTrainer(
            pythae.models.VAE(config, Encoder(), Decoder()),
            train_dataset=pythae.data.datasets.BaseDataset(
                images.float(), torch.zeros(len(images))
            ),
            training_config=settings,
        )
        return seconds(trainer.train)


def seconds(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[100, 250])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=50_000, help="per loop and round")
    arguments = parser.parse_args()

    images = data.binarize(data.mnist().train.images, seed=data.SEEDS["train"]).flatten(1)
    loops = {"fit": by_fit, "by hand": by_hand} | ({"pythae": by_pythae} if pythae else {})
    print(f"torch {torch.__version__}, {results.provenance('', 'cpu')['device']}")
    print(f"{'batch':>5}" + "".join(f"{name:>12}" for name in loops), end="")
    print("".join(f"{'fit / ' + name:>16}" for name in [*loops][1:]))
    for batch_size in arguments.batch_sizes:
        subset = images[: arguments.images // batch_size * batch_size]
        rounds = []
        for i in range(arguments.rounds + 1):  # the first warms up
            order = [*loops] if i % 2 else [*loops][::-1]
            spent = {}
            for name in order:
                torch.manual_seed(0)
                spent[name] = loops[name](subset, batch_size)
            rounds.append(spent)
        rounds = rounds[1:]
        speed = [len(subset) / statistics.median(r[name] for r in rounds) for name in loops]
        ratio = [statistics.median(r[name] / r["fit"] for r in rounds) for name in [*loops][1:]]
        print(f"{batch_size:>5}" + "".join(f"{value:>12,.0f}" for value in speed), end="")
        print("".join(f"{value:>16.3f}" for value in ratio), flush=True)


if __name__ == "__main__":
    main()
